from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
import wire
from hypothesis import given, settings
from hypothesis import strategies as st
from net import Others, Place, RawPeer, echo, request, soon, until

import zcws
from zcws.aio.settings import Options

ALSO_OVER_HTTP2 = True  # conftest.py


SHORT = wire.frame(wire.BINARY, bytes(100), key=wire.KEY)


class Sink(asyncio.Transport):
    """A transport whose other end nobody reads: the test feeds bytes by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()

    def write(self, data: Any) -> None:
        self.sent += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def make_server() -> zcws.WebSocket:
    loop = asyncio.get_running_loop()
    ws = zcws.WebSocket(loop, zcws.Connection(is_client=False), Options(ping_interval=None))
    ws.connection_made(Sink())
    return ws


async def deliver(ws: zcws.WebSocket, data: bytes, *, from_a_task: bool) -> None:
    """As an event loop does it: from a callback; or while another task runs."""

    def receive() -> None:
        view = memoryview(data)
        while view:
            room = ws.get_buffer(-1)
            count = min(len(room), len(view))
            room[:count] = view[:count]
            ws.buffer_updated(count)
            view = view[count:]

    if from_a_task:
        receive()
        return
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(receive)
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


messages = st.lists(
    st.tuples(st.binary(max_size=40) | st.integers(1_000, 70_000).map(bytes), st.integers(1, 3)),
    min_size=1,
    max_size=6,
)
#: What happens between two pieces: the reader is cancelled, or times out, or is given a few turns of the loop.
steps = st.lists(
    st.tuples(st.sampled_from(["nothing", "cancel", "turns", "cancel at once"]), st.booleans()), min_size=1
)


@pytest.mark.parametrize("how", ["recv", "read_frame", "wait_for"])
@settings(max_examples=30)
@given(sent=messages, script=steps, cuts=st.lists(st.integers(1, 3_000), min_size=1))
def test_a_read_that_is_cancelled_anywhere_loses_nothing(
    how: str, sent: list[tuple[bytes, int]], script: list[tuple[str, bool]], cuts: list[int]
) -> None:
    """Any cut of the bytes, cancelled at any await: the messages that come out are those that went in."""
    data = b"".join(
        b"".join(wire.fragments(wire.BINARY, [payload[i::parts] for i in range(parts)], key=wire.KEY))
        for payload, parts in sent
    )
    expected = [b"".join(payload[i::parts] for i in range(parts)) for payload, parts in sent]

    async def main() -> list[bytes]:
        ws = make_server()
        got: list[bytes] = []
        buffer = zcws.PayloadBuffer()

        async def read() -> None:
            while len(got) < len(expected):
                if how == "recv":
                    got.append(await ws.recv())  # type: ignore[arg-type]
                elif how == "wait_for":
                    got.append(await asyncio.wait_for(ws.recv(), 60))  # type: ignore[arg-type]
                else:
                    got.append((await ws.read_frame(buffer)).to_bytes())

        reading = asyncio.ensure_future(read())
        # At most 400 pieces: six large messages byte by byte are 400,000, each with its cancellation.
        least = len(data) // 400
        at = number = 0
        while at < len(data):
            size = max(cuts[number % len(cuts)], least)
            action, from_a_task = script[number % len(script)]
            if action == "cancel at once":
                reading.cancel()
            await deliver(ws, data[at : at + size], from_a_task=from_a_task)
            if action == "cancel":
                reading.cancel()
            if action == "turns":
                for _ in range(3):
                    await asyncio.sleep(0)
            if "cancel" in action:
                # Until CPython 3.12, `wait_for` forgets that it was cancelled where it has a result at the same time.
                while not reading.done():
                    reading.cancel()
                    await asyncio.sleep(0)
                reading = asyncio.ensure_future(read())
                if number % 2:
                    await asyncio.sleep(0)
            at, number = at + size, number + 1
        await soon(reading)
        return got

    assert asyncio.run(main()) == expected


class TestTwoReaders:
    def test_the_second_is_refused_and_the_first_goes_on(self, anyplace: Place) -> None:
        async def script(peer: RawPeer) -> None:
            assert (await peer.read()).payload == b"now"
            await peer.send(wire.TEXT, b"for the first")
            await peer.send(wire.CLOSE)
            await peer.read()

        async def main() -> None:
            async with anyplace.raw_server(script) as port, anyplace.connect(port) as ws:
                first = asyncio.ensure_future(ws.recv())
                await asyncio.sleep(0)
                for second in (ws.recv(), ws.read_frame(), anext(ws.batches()), anext(ws)):
                    with pytest.raises(RuntimeError, match="another task"):
                        await second  # type: ignore[misc]
                await ws.send("now")
                assert await soon(first) == "for the first"

        anyplace.run(main())

    def test_one_after_the_other_is_fine(self, place: Place) -> None:
        async def script(peer: RawPeer) -> None:
            for number in range(10):
                await peer.send(wire.TEXT, b"%d" % number)
                await asyncio.sleep(0.001)
            await peer.read()
            await peer.send(wire.CLOSE)

        async def main() -> None:
            async with place.raw_server(script) as port, place.connect(port) as ws:
                got: list[str | bytes] = []
                while len(got) < 10:
                    try:
                        got.append(await asyncio.wait_for(ws.recv(), 0.0005))
                    except asyncio.TimeoutError:
                        got.append(await soon(asyncio.ensure_future(ws.recv())))
                assert got == [str(number) for number in range(10)]

        place.run(main())


@pytest.mark.parametrize(
    ("decode", "text", "binary"),
    [(None, "é", b"\xc3\xa9"), (True, "é", "é"), (False, b"\xc3\xa9", b"\xc3\xa9")],
)
def test_decode(place: Place, decode: bool | None, text: str | bytes, binary: str | bytes) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.send(wire.TEXT, "é".encode())
        await peer.send(wire.BINARY, "é".encode())
        await peer.read()
        await peer.send(wire.CLOSE)

    async def main() -> None:
        async with place.raw_server(script) as port, place.connect(port) as ws:
            assert await soon(ws.recv(decode)) == text
            assert await soon(ws.recv(decode)) == binary

    place.run(main())


def test_frames_control_frames_among_them(anyplace: Place) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.send(wire.TEXT, b"a", fin=False)
        await peer.send(wire.PING, b"p")
        await peer.send(wire.CONTINUATION, b"b")
        await peer.send(wire.PONG, b"q")
        await peer.send(wire.CLOSE, wire.close_payload(1000, b"end"))
        assert [frame.opcode for frame in await peer.rest()] == [wire.PONG, wire.CLOSE]

    async def main() -> None:
        async with anyplace.raw_server(script) as port:
            ws = await anyplace.connect(port, close_timeout=0.05)
            seen = []
            with pytest.raises(zcws.ConnectionClosedOK):
                while True:
                    frame = await soon(ws.read_frame())
                    seen.append((frame.opcode.name, frame.to_bytes()))
            assert seen == [
                ("PING", b"p"),
                ("TEXT", b"ab"),
                ("PONG", b"q"),
                ("CLOSE", wire.close_payload(1000, b"end")),
            ]
            await soon(ws.wait_closed())

    anyplace.run(main())


def test_batches(anyplace: Place) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.send_bytes(b"".join(peer.frame(wire.TEXT, b"%d" % i) for i in range(500)))
        await peer.send(wire.CLOSE)
        await peer.read()

    async def main() -> None:
        async with anyplace.raw_server(script) as port:
            ws = await anyplace.connect(port)
            got = [(frame.opcode.name, frame.to_bytes()) async for batch in ws.batches() for frame in batch]
            assert got == [*(("TEXT", b"%d" % i) for i in range(500)), ("CLOSE", b"")]

    anyplace.run(main())


@pytest.mark.parametrize("compressed", [False, True])
def test_a_message_in_pieces(anyplace: Place, compressed: bool) -> None:
    text = "€ and some more, " * 20_000

    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            await ws.send(text)
            await ws.send("the next one")

        options: dict[str, Any] = {"compression": "deflate"} if compressed else {}
        async with anyplace.serve(handler, **options) as server, anyplace.connect(server, **options) as ws:
            async with ws.stream() as message:
                pieces = [piece async for piece in message]
            assert "".join(pieces) == text  # type: ignore[arg-type]
            assert len(pieces) > 1
            assert await soon(ws.recv()) == "the next one"

    anyplace.run(main())


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("is_text", [False, True], ids=["binary", "text"])
def test_a_message_in_pieces_of_one_type(anyplace: Place, compressed: bool, is_text: bool) -> None:
    """As `recv` has it; mypy took no `"".join(pieces)`, and a program that wants bytes had to look at each piece."""
    text = "€ and some more, " * 20_000

    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            for _ in range(2):
                await ws.send(text if is_text else text.encode())

        options: dict[str, Any] = {"compression": "deflate"} if compressed else {}
        async with anyplace.serve(handler, **options) as server, anyplace.connect(server, **options) as ws:
            async with ws.stream(decode=True) as words:
                assert "".join([piece async for piece in words]) == text
            async with ws.stream(decode=False) as data:
                assert b"".join([piece async for piece in data]) == text.encode()

    anyplace.run(main())


def test_pieces_before_the_message_is_whole(anyplace: Place) -> None:
    async def script(peer: RawPeer) -> None:
        data = peer.frame(wire.TEXT, b"early" + b"late")
        await peer.send_bytes(data[:-4])
        assert (await peer.read()).payload == b"got it"
        await peer.send_bytes(data[-4:])
        await peer.read()
        await peer.send(wire.CLOSE)

    async def main() -> None:
        async with anyplace.raw_server(script) as port, anyplace.connect(port) as ws:
            async with ws.stream() as message:
                first = await soon(anext(message))
                assert "early".startswith(first)  # type: ignore[arg-type]
                await ws.send("got it")
                rest = [piece async for piece in message]
            assert "".join([first, *rest]) == "earlylate"  # type: ignore[list-item]

    anyplace.run(main())


def test_what_arrived_before_the_end_can_be_read_after_it(anyplace: Place) -> None:
    async def script(peer: RawPeer) -> None:
        for number in range(5):
            await peer.send(wire.TEXT, b"%d" % number)

    async def main() -> None:
        async with anyplace.raw_server(script) as port:
            ws = await anyplace.connect(port)
            await until(lambda: ws._reader.is_at_eof)
            got = []
            with pytest.raises(zcws.ConnectionClosedError):
                while True:
                    got.append(await soon(ws.recv()))
            assert got == ["0", "1", "2", "3", "4"]
            for _ in range(3):
                with pytest.raises(zcws.ConnectionClosedError):
                    await ws.recv()

    anyplace.run(main())


def test_one_busy_task_lets_the_others_run(anyplace: Place) -> None:
    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            for _ in range(20_000):
                await ws.send(b"x")

        async with anyplace.serve(handler) as server, anyplace.connect(server) as ws, Others() as others:
            for _ in range(20_000):
                await ws.recv()
            assert others.turns > 10

    anyplace.run(main())


async def read_all(ws: zcws.WebSocket) -> None:
    async for _ in ws:
        pass


async def read_stream(ws: zcws.WebSocket) -> None:
    async with ws.stream() as message:
        async for _ in message:
            pass


@pytest.mark.parametrize(
    "read",
    [
        zcws.WebSocket.recv,
        zcws.WebSocket.read_frame,
        lambda ws: anext(ws.batches()),
        read_all,
        read_stream,
    ],
    ids=["recv", "read_frame", "batches", "async for", "stream"],
)
def test_a_loop_that_reads_behind_the_end_lets_the_others_run(place: Place, read: Any) -> None:
    """`while True: try: await ws.recv() except Exception: pass` stopped the event loop for ever: Ctrl-C, too."""

    async def main() -> None:
        async with place.serve(echo) as server, place.connect(server) as ws:
            await ws.close()
            async with Others() as others:
                for _ in range(3000):
                    with contextlib.suppress(zcws.ConnectionClosed, StopAsyncIteration):
                        await read(ws)
                assert others.turns > 1

    place.run(main())


def test_a_read_that_was_refused_lets_the_others_run(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo) as server, place.connect(server) as ws:
            first = asyncio.ensure_future(ws.recv())
            await asyncio.sleep(0)
            async with Others() as others:
                for _ in range(10):
                    with pytest.raises(RuntimeError, match="another task"):
                        await ws.recv()
                assert others.turns > 1
            await ws.send("to the first")
            assert await soon(first) == "to the first"

    place.run(main())


def test_whoever_pours_small_frames_is_made_to_wait_and_not_lost(anyloop: Place) -> None:
    """They fill the ring in one read. The program lets others run when it has had all of them that were looked at, and
    stops once more in the middle of the next ones.

    An event loop takes memory without room for a mistake of ours, and the engine takes what it receives there for the
    peer's end.
    """

    async def main() -> None:
        ws = make_server()
        count = 0

        async def read() -> None:
            nonlocal count
            while True:
                await ws.recv()
                count += 1
                if count % 1_500 == 0:
                    await asyncio.sleep(0)

        reading = asyncio.ensure_future(read())
        sent, rest = 0, b""
        while sent < 30_000:
            await asyncio.sleep(0)
            if ws._reading_paused:
                continue
            room = ws.get_buffer(-1)
            assert room
            frames = -(-(len(room) - len(rest)) // len(SHORT))
            data = rest + SHORT * frames
            sent, rest = sent + frames, data[len(room) :]
            room[:] = data[: len(room)]
            asyncio.get_running_loop().call_soon(ws.buffer_updated, len(room))
            await asyncio.sleep(0)
        await until(lambda: count >= sent - 1)
        reading.cancel()

    anyloop.run(main())


def turns_of(place: Place, how: str, message: bytes, count: int) -> list[int]:
    """In which turn of the loop each of so many messages was read that have arrived together, compressed."""
    seen: list[int] = []
    turns = 0

    async def handler(ws: zcws.WebSocket) -> None:
        if how == "iteration":
            async for _ in ws:
                seen.append(turns)
        elif how == "batches":
            async for batch in ws.batches():
                seen.extend([turns] * len(batch))
        elif how == "on_frame":
            await ws.wait_closed()
        else:
            while True:
                await getattr(ws, how)()
                seen.append(turns)

    def on_frame(_ws: zcws.WebSocket, _frame: zcws.Frame) -> None:
        seen.append(turns)

    async def main() -> None:
        nonlocal turns
        head = request("Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover")
        shown = on_frame if how == "on_frame" else None
        async with place.serve(handler, on_frame=shown, compression="deflate") as server:
            async with place.raw_client(server, head=head) as peer:
                await peer.send_bytes(peer.frame(wire.BINARY, wire.deflate(message), rsv=4) * count)
                while len(seen) < count:
                    turns += 1
                    await asyncio.sleep(0)

    place.run(main())
    return seen


@pytest.mark.parametrize("how", ["recv", "iteration"])
def test_long_messages_in_few_bytes_let_the_others_run_sooner(place: Place, how: str) -> None:
    """Sixty mebibytes came in one ring, and were inflated without a pause: a third of a second."""
    seen = turns_of(place, how, bytes(1 << 20), 60)
    assert max(map(seen.count, seen)) < 20


@pytest.mark.parametrize("how", ["recv", "iteration", "read_frame", "batches", "on_frame"])
def test_of_compressed_messages_fewer_are_read_in_a_turn(place: Place, how: str) -> None:
    """One of 127 bytes may be 64 streams and take 0.15 ms: a ring full of them kept the others waiting for 0.3 s."""
    seen = turns_of(place, how, b"abc", 2000)
    assert max(map(seen.count, set(seen))) < 600


def test_callbacks(anyplace: Place) -> None:
    async def main() -> None:
        got: list[bytes] = []

        def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            if frame.opcode is zcws.OpCode.TEXT:
                ws.write_frame_nowait(frame)

        def keep(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            got.append(frame.to_bytes())

        async with anyplace.serve(None, on_frame=on_frame) as server:
            async with anyplace.connect(server, on_frame=keep) as ws:
                for number in range(100):
                    await ws.send(str(number))
                await until(lambda: len(got) == 100)
        assert got[:100] == [b"%d" % number for number in range(100)]

    anyplace.run(main())


def test_a_second_reader_does_not_change_what_the_first_one_gets(anyplace: Place) -> None:
    """It is refused; what it wanted must not be what is handed to the one who waits."""

    async def main() -> None:
        async with anyplace.serve(lambda ws: ws.wait_closed()) as server:
            async with anyplace.raw_client(server) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                for first, second in ((ws.recv, ws.read_frame), (ws.read_frame, ws.recv)):
                    for message in (b"one", b"two"):  # the next read begins anew
                        reading = asyncio.ensure_future(first())
                        await asyncio.sleep(0)
                        with pytest.raises(RuntimeError, match="another task"):
                            await second()
                        await peer.send(wire.TEXT, message)
                        got: Any = await soon(reading)
                        assert (got if first == ws.recv else got.text) == message.decode()

    anyplace.run(main())


@pytest.mark.parametrize("buffer", [None, zcws.PayloadBuffer()])
def test_an_origin_that_is_none(place: Place, buffer: zcws.PayloadBuffer | None) -> None:
    """It was taken for one that is not ADAPTIVE."""

    async def main() -> None:
        async with place.serve(echo) as server, place.connect(server) as ws:
            await ws.send("first")
            for wrong in ("adaptive", None):
                with pytest.raises(
                    TypeError, match=f"^the origin of read_frame is a PayloadOrigin, not {wrong!r}$"
                ):
                    await ws.read_frame(buffer, wrong)
            assert (await soon(ws.read_frame())).text == "first"  # it has cost nothing

    place.run(main())
