from __future__ import annotations

import asyncio
import socket
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import wire
from net import Others, Place, RawPeer, echo, narrow, soon, swallow, until

import zcws
from zcws.aio.settings import Options
from zcws.aio.transport import EngineTransport, place
from zcws.connection import Connection
from zcws.output import SEGMENT

ALSO_OVER_HTTP2 = True  # conftest.py


def sent_by(place: Place, act: Callable[[zcws.WebSocket], Any], **options: Any) -> list[wire.Seen]:
    """The frames that a client sends while `act` runs, up to the Close of its normal end."""
    frames: list[wire.Seen] = []

    async def script(peer: RawPeer) -> None:
        while True:
            frames.append(await peer.read())
            if frames[-1].opcode == wire.CLOSE:
                await peer.send(wire.CLOSE, frames[-1].payload)
                return

    async def main() -> None:
        async with place.raw_server(script) as port, place.connect(port, **options) as ws:
            await act(ws)

    place.run(main())
    return frames


def messages_in(frames: list[wire.Seen]) -> list[tuple[int, list[bytes]]]:
    """Messages with their fragments; control frames left out."""
    found: list[tuple[int, list[bytes]]] = []
    open_ = False
    for frame in frames:
        if frame.opcode >= wire.CLOSE:
            continue
        assert (frame.opcode == wire.CONTINUATION) is open_, "a message begins inside another"
        if open_:
            found[-1][1].append(frame.payload)
        else:
            found.append((frame.opcode, [frame.payload]))
        open_ = not frame.fin
    assert not open_
    return found


async def asynchronous(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(0)
        yield item


def generated(*items: Any) -> Iterator[Any]:
    yield from items


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("é€", (wire.TEXT, ["é€".encode()])),
        ("", (wire.TEXT, [b""])),
        (b"\x00\xff", (wire.BINARY, [b"\x00\xff"])),
        (bytearray(b"ab"), (wire.BINARY, [b"ab"])),
        (memoryview(b"abcdef")[::2], (wire.BINARY, [b"ace"])),
        (array("i", [1, -1]), (wire.BINARY, [array("i", [1, -1]).tobytes()])),
        (["a", "b", "c"], (wire.TEXT, [b"a", b"b", b"c"])),
        (["alone"], (wire.TEXT, [b"alone"])),
        ((b"a", bytearray(b"b"), memoryview(b"c")), (wire.BINARY, [b"a", b"b", b"c"])),
        ([array("H", [1]), b""], (wire.BINARY, [b"\x01\x00", b""])),
    ],
)
def test_kinds_of_messages(place: Place, message: Any, expected: tuple[int, list[bytes]]) -> None:
    assert messages_in(sent_by(place, lambda ws: ws.send(message))) == [expected]


@pytest.mark.parametrize(
    "make", [generated, asynchronous, lambda *items: iter(items)], ids=["generator", "async", "iter"]
)
def test_iterables_are_fragments(anyplace: Place, make: Callable[..., Any]) -> None:
    frames = sent_by(anyplace, lambda ws: ws.send(make("a", "", "c")))
    assert messages_in(frames) == [(wire.TEXT, [b"a", b"", b"c", b""])]
    assert [(frame.opcode, frame.fin) for frame in frames[:4]] == [
        *[(1, False), (0, False), (0, False)],
        (0, True),
    ]


@pytest.mark.parametrize("is_async", [False, True])
def test_fragments_may_lie_in_the_same_memory(place: Place, is_async: bool) -> None:
    """As `readinto` fills it again and again: the next was asked for before the last had been sent."""

    def chunks() -> Iterator[memoryview]:
        memory = bytearray(4)
        for letter in b"abc":
            memory[:] = bytes([letter]) * 4
            yield memoryview(memory)

    async def asynchronously() -> AsyncIterator[memoryview]:
        for chunk in chunks():
            yield chunk

    frames = sent_by(place, lambda ws: ws.send(asynchronously() if is_async else chunks()))
    assert messages_in(frames) == [(wire.BINARY, [b"aaaa", b"bbbb", b"cccc", b""])]


def test_fragments_that_take_their_time_go_out_as_they_come(anyplace: Place) -> None:
    """One was held back until the next was there: who waits for the peer's answer in between waited for ever."""

    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            async def lines() -> AsyncIterator[str]:
                yield "one"
                assert await ws.recv() == "and?"
                yield "two"

            await ws.send(lines())

        async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
            assert (await peer.read()).payload == b"one"
            await peer.send(wire.TEXT, b"and?")
            seen = [await peer.read() for _ in range(2)]
            assert [(frame.payload, frame.opcode, frame.fin) for frame in seen] == [
                (b"two", wire.CONTINUATION, False),
                (b"", wire.CONTINUATION, True),
            ]

    anyplace.run(main())


@pytest.mark.parametrize("message", [[], generated(), asynchronous()], ids=["list", "generator", "async"])
def test_nothing_to_send_is_no_message(place: Place, message: Any) -> None:
    assert messages_in(sent_by(place, lambda ws: ws.send(message))) == []


@pytest.mark.parametrize(
    ("message", "text", "expected"),
    [
        ("é", False, (wire.BINARY, ["é".encode()])),
        ("é".encode(), True, (wire.TEXT, ["é".encode()])),
        (["é".encode()[:1], "é".encode()[1:]], True, (wire.TEXT, [b"\xc3", b"\xa9"])),
        (["a", "b"], False, (wire.BINARY, [b"a", b"b"])),
    ],
)
def test_text_or_binary_whatever_it_is(place: Place, message: Any, text: bool, expected: Any) -> None:
    assert messages_in(sent_by(place, lambda ws: ws.send(message, text=text))) == [expected]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"a": 1}, TypeError),
        (5, TypeError),
        (None, TypeError),
        ([5], TypeError),
        ([None, "b"], TypeError),
        ("\ud800", ValueError),
        (["\udfff"], ValueError),
    ],
    ids=ascii,
)
def test_what_is_no_message_harms_nothing(place: Place, message: Any, error: type[Exception]) -> None:
    async def act(ws: zcws.WebSocket) -> None:
        with pytest.raises(error):
            await ws.send(message)
        await ws.send("fine")

    assert messages_in(sent_by(place, act)) == [(wire.TEXT, [b"fine"])]


def test_what_is_no_fragment(place: Place) -> None:
    async def act(ws: zcws.WebSocket) -> None:
        with pytest.raises(
            TypeError, match=r"^a fragment, such as an item of a list, is str or bytes-like, not int$"
        ):
            await ws.send(["a", "b", 1])  # type: ignore[list-item]

    async def in_a_stream(ws: zcws.WebSocket) -> None:
        with pytest.raises(
            TypeError, match=r"^a fragment, such as an item of a list, is str or bytes-like, not int$"
        ):
            async with ws.send_stream() as message:
                await message.write(1)  # type: ignore[arg-type]

    sent_by(place, act)
    sent_by(place, in_a_stream)


@pytest.mark.parametrize("message", [b"\xff", [b"\xc3"], [b"\xc3", b"\xc3"]], ids=str)
def test_bytes_that_are_no_text(place: Place, message: Any) -> None:
    async def act(ws: zcws.WebSocket) -> None:
        with pytest.raises(ValueError, match="UTF-8"):
            await ws.send(message, text=True)

    frames = sent_by(place, act)
    assert b"\xff" not in [frame.payload for frame in frames]


class TestFragmentedMessages:
    def test_other_tasks_wait_and_control_frames_do_not(self, anyplace: Place) -> None:
        async def main() -> None:
            go_on = asyncio.Event()

            async def slow() -> AsyncIterator[str]:
                yield "first"
                yield "second"
                await go_on.wait()
                yield "third"

            frames: list[wire.Seen] = []

            async def script(peer: RawPeer) -> None:
                frames.append(await peer.read())
                await peer.send(wire.PING, b"answer me")
                while frames[-1].opcode != wire.CLOSE:
                    frames.append(await peer.read())
                await peer.send(wire.CLOSE, frames[-1].payload)

            async with anyplace.raw_server(script) as port, anyplace.connect(port) as ws:
                sending = asyncio.ensure_future(ws.send(slow()))
                await until(lambda: frames)
                others = [asyncio.ensure_future(ws.send(f"other {i}")) for i in range(3)]
                others.append(asyncio.ensure_future(ws.send(asynchronous(b"x", b"y"))))
                others.append(asyncio.ensure_future(ws.write_frame(zcws.Frame.text("a frame"))))
                await ws.pong(b"heartbeat")
                await until(lambda: wire.PONG in [frame.opcode for frame in frames])
                assert not any(other.done() for other in others)
                assert not ws.is_writable
                go_on.set()
                await soon(asyncio.gather(sending, *others))
            assert sorted(
                payload for frame in frames if frame.opcode == wire.PONG for payload in [frame.payload]
            ) == [
                b"answer me",
                b"heartbeat",
            ]
            first, *rest = messages_in(frames)
            assert first == (wire.TEXT, [b"first", b"second", b"third", b""])
            assert sorted(rest) == sorted(
                [
                    *((wire.TEXT, [b"other %d" % i]) for i in range(3)),
                    (wire.BINARY, [b"x", b"y", b""]),
                    (wire.TEXT, [b"a frame"]),
                ]
            )

        anyplace.run(main())

    @pytest.mark.parametrize("how", ["send", "send_many", "write_frame", "fragments", "stream"])
    def test_one_task_that_begins_another_inside_of_it(self, anyplace: Place, how: str) -> None:
        """It used to wait for itself, for ever and without a word."""

        async def again(ws: zcws.WebSocket) -> None:
            if how == "stream":
                async with ws.send_stream():
                    pass
            elif how == "write_frame":
                await ws.write_frame(zcws.Frame.text("x"))
            elif how == "send_many":
                await ws.send_many(["x", "y"])
            else:
                await ws.send(["x", "y"] if how == "fragments" else "x")

        async def act(ws: zcws.WebSocket) -> None:
            async with ws.send_stream() as message:
                await message.write("one")
                with pytest.raises(ValueError, match="in the middle of a message"):
                    await again(ws)
                await ws.pong(b"may come in between")
                await message.write(" whole")
            await again(ws)

        frames = sent_by(anyplace, act)
        assert b"".join(messages_in(frames)[0][1]) == b"one whole"
        assert len(messages_in(frames)) == (3 if how == "send_many" else 2)

    def test_many_that_begin_at_once(self, place: Place) -> None:
        """Each waits for its first fragment while the others do."""

        async def act(ws: zcws.WebSocket) -> None:
            await asyncio.gather(*(ws.send(asynchronous(*[b"%d" % i] * 4)) for i in range(10)))

        found = messages_in(sent_by(place, act))
        assert sorted(found) == sorted((wire.BINARY, [*[b"%d" % i] * 4, b""]) for i in range(10))

    @pytest.mark.parametrize("kind", ["iterable", "async iterable"])
    def test_an_iterable_that_raises_fails_the_connection(self, anyplace: Place, kind: str) -> None:
        def broken() -> Iterator[str]:
            yield "a"
            yield "b"
            raise LookupError("a bug")

        async def broken_async() -> AsyncIterator[str]:
            for item in broken():
                yield item

        async def act(ws: zcws.WebSocket) -> None:
            waiting = asyncio.ensure_future(ws.recv())
            with pytest.raises(LookupError):
                await ws.send(broken() if kind == "iterable" else broken_async())
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await ws.send("more")
            assert caught.value.code == 1011
            with pytest.raises(zcws.ConnectionClosedError):
                await soon(waiting)

        frames = sent_by(anyplace, act)
        *begun, close = frames
        # Nothing is held back.
        assert b"".join(frame.payload for frame in begun) == b"ab" and not any(frame.fin for frame in begun)
        assert (close.opcode, close.payload[:2]) == (wire.CLOSE, (1011).to_bytes(2, "big"))

    def test_one_that_raises_before_its_first_fragment_harms_nothing(self, place: Place) -> None:
        def broken() -> Iterator[str]:
            raise LookupError("a bug")
            yield ""

        async def act(ws: zcws.WebSocket) -> None:
            with pytest.raises(LookupError):
                await ws.send(broken())
            await ws.send("fine")

        assert messages_in(sent_by(place, act)) == [(wire.TEXT, [b"fine"])]

    def test_cancelled_in_the_middle(self, anyplace: Place) -> None:
        async def endless() -> AsyncIterator[str]:
            yield "a"
            yield "b"
            await asyncio.Event().wait()

        async def act(ws: zcws.WebSocket) -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ws.send(endless()), 0.05)
            with pytest.raises(zcws.ConnectionClosedError):
                await ws.send("more")

        frames = sent_by(anyplace, act)
        assert frames[-1].payload[:2] == (1011).to_bytes(2, "big")

    def test_cancelled_before_the_first_fragment(self, place: Place) -> None:
        async def never() -> AsyncIterator[str]:
            await asyncio.Event().wait()
            yield ""

        async def act(ws: zcws.WebSocket) -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ws.send(never()), 0.05)
            await ws.send("fine")

        assert messages_in(sent_by(place, act)) == [(wire.TEXT, [b"fine"])]

    def test_closed_in_the_middle(self, anyplace: Place) -> None:
        async def closing(ws: zcws.WebSocket) -> AsyncIterator[str]:
            yield "a"
            yield "b"
            ws.begin_close()
            yield "c"

        async def act(ws: zcws.WebSocket) -> None:
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await ws.send(closing(ws))
            assert caught.value.code == 1011

        frames = sent_by(anyplace, act)
        assert [frame.opcode for frame in frames] == [wire.TEXT, wire.CONTINUATION, wire.CLOSE]
        assert frames[-1].payload[:2] == (1011).to_bytes(2, "big")

    def test_a_peer_that_is_slow_in_the_middle(self, anyplace: Place) -> None:
        async def main() -> None:
            chunk = bytes(100_000)

            async def handler(ws: zcws.WebSocket) -> None:
                await ws.send(asynchronous(*[chunk] * 100))

            async with anyplace.serve(handler) as server, anyplace.raw_client(server, limit=1024) as peer:
                await asyncio.sleep(0.05)
                frames = [await peer.read() for _ in range(101)]
                assert messages_in(frames) == [(wire.BINARY, [*[chunk] * 100, b""])]
                await peer.send(wire.CLOSE)

        anyplace.run(main())

    def test_compressed_as_it_goes(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo, compression="deflate") as server:
                async with place.connect(server, compression="deflate") as ws:
                    parts = [f'{{"number": {i}, "text": "the same again"}}' for i in range(200)]
                    for message in (parts, asynchronous(*parts)):
                        await ws.send(message)
                        assert await soon(ws.recv()) == "".join(parts)

        place.run(main())


class TestStreams:
    def test_pieces_and_an_empty_end(self, anyplace: Place) -> None:
        async def act(ws: zcws.WebSocket) -> None:
            async with ws.send_stream(zcws.OpCode.BINARY) as message:
                await message.write(b"a")
                await message.write("b")
            async with ws.send_stream():
                pass

        assert messages_in(sent_by(anyplace, act)) == [(wire.BINARY, [b"a", b"b", b""]), (wire.TEXT, [b""])]

    def test_the_first_piece_says_what_it_is(self, anyplace: Place) -> None:
        """As with an iterable: bytes are binary also where they happen to be UTF-8."""

        async def act(ws: zcws.WebSocket) -> None:
            for pieces in ([b"a", "b"], ["a", b"b"], [bytearray(b"a")]):
                async with ws.send_stream() as message:
                    with pytest.raises(TypeError):
                        await message.write(1)  # type: ignore[arg-type]
                    for piece in pieces:
                        await message.write(piece)

        assert messages_in(sent_by(anyplace, act)) == [
            (wire.BINARY, [b"a", b"b", b""]),
            (wire.TEXT, [b"a", b"b", b""]),
            (wire.BINARY, [b"a", b""]),
        ]

    def test_left_with_an_exception(self, place: Place) -> None:
        async def act(ws: zcws.WebSocket) -> None:
            with pytest.raises(LookupError):
                async with ws.send_stream() as message:
                    await message.write("half")
                    raise LookupError
            assert ws.close_code == 1011

        assert sent_by(place, act)[-1].payload[:2] == (1011).to_bytes(2, "big")

    def test_used_wrongly(self, place: Place) -> None:
        async def act(ws: zcws.WebSocket) -> None:
            with pytest.raises(ValueError, match="TEXT or BINARY"):
                ws.send_stream(zcws.OpCode.PING)
            stream = ws.send_stream()
            with pytest.raises(RuntimeError):
                await stream.write("before")
            async with stream:
                await stream.write("inside")
            with pytest.raises(RuntimeError):
                await stream.write("after")

        assert messages_in(sent_by(place, act)) == [(wire.TEXT, [b"inside", b""])]


class TestNothingAfterTheEnd:
    @pytest.mark.parametrize("how", ["our close", "the peer's close", "eof"])
    def test_every_way_to_write(self, anyplace: Place, how: str) -> None:
        later: list[wire.Seen] = []

        async def script(peer: RawPeer) -> None:
            if how == "our close":
                close = await peer.read()
                later.append(close)
                assert await peer.is_silent()
                await peer.send(wire.CLOSE, close.payload)
            elif how == "the peer's close":
                await peer.send(wire.CLOSE, wire.close_payload(1000))
                later.append(await peer.read())

        async def main() -> None:
            async with anyplace.raw_server(script) as port:
                ws = await anyplace.connect(port, close_timeout=5)
                if how == "our close":
                    ws.begin_close(1000)
                else:
                    with pytest.raises(zcws.ConnectionClosed):
                        await soon(ws.recv())
                for attempt in (
                    ws.send("x"),
                    ws.send(b"x"),
                    ws.send(["x", "y"]),
                    ws.send(asynchronous("x")),
                    ws.write_frame(zcws.Frame.text("x")),
                    ws.ping(),
                    ws.pong(),
                ):
                    with pytest.raises(zcws.ConnectionClosed) as caught:
                        await soon(attempt)
                    assert caught.value.code == (1006 if how == "eof" else 1000)
                with pytest.raises(zcws.ConnectionClosed):
                    ws.send_nowait("x")
                with pytest.raises(zcws.ConnectionClosed):
                    ws.write_frame_nowait(zcws.Frame.text("x"))
                await soon(ws.wait_closed())

        anyplace.run(main())
        if how != "eof":
            assert [frame.opcode for frame in later] == [wire.CLOSE]


def test_without_a_wait(place: Place) -> None:
    async def act(ws: zcws.WebSocket) -> None:
        assert ws.is_writable
        ws.send_nowait("text")
        ws.send_nowait(b"binary")
        ws.send_nowait(b"text again", text=True)
        ws.write_frame_nowait(zcws.Frame.binary(b"frame"))
        ws.write_frame_nowait(zcws.Frame.close(1000))

    frames = sent_by(place, act)
    assert [frame.opcode for frame in frames] == [1, 2, 1, 2, 8]


def test_flush_waits_for_a_peer_that_is_slow(anyplace: Place) -> None:
    async def main() -> None:
        is_open, may_read = asyncio.Event(), asyncio.Event()

        async def script(peer: RawPeer) -> None:
            narrow(peer.writer)
            is_open.set()
            await may_read.wait()
            while (await peer.read()).opcode != wire.CLOSE:
                pass
            await peer.send(wire.CLOSE, wire.close_payload(1000))

        async with anyplace.raw_server(script) as port, anyplace.connect(port) as ws:
            await soon(is_open.wait())
            narrow(ws)
            while ws.is_writable:  # uvloop's TLS says so when another one has come
                ws.send_nowait(bytes(4 << 20))  # several times what the systems hold
            flushing = asyncio.ensure_future(ws.flush())
            for _ in range(5):
                await asyncio.sleep(0)
            assert not flushing.done()
            may_read.set()
            await soon(flushing)
            assert ws.is_writable

    anyplace.run(main())


def test_a_close_frame_closes(anyplace: Place) -> None:
    async def act(ws: zcws.WebSocket) -> None:
        await ws.write_frame(zcws.Frame.close(4001, "why not"))
        await soon(ws.wait_closed())
        assert (ws.close_code, ws.close_reason) == (4001, "why not")

    (frame,) = sent_by(anyplace, act)
    assert frame.payload == wire.close_payload(4001, b"why not")


def test_a_peer_that_resets_while_we_write(anyplace: Place) -> None:
    async def main() -> None:
        caught: list[zcws.ConnectionClosed] = []

        async def handler(ws: zcws.WebSocket) -> None:
            try:
                while True:
                    await ws.send(bytes(100_000))
            except zcws.ConnectionClosed as error:
                caught.append(error)

        async with anyplace.serve(handler) as server, anyplace.raw_client(server, limit=1024) as peer:
            await peer.read()
            peer.reset()
            await until(lambda: caught and not server.connections)
        assert caught[0].code == 1006

    anyplace.run(main())


async def send_some(ws: zcws.WebSocket) -> None:
    await ws.send(bytes(1000))


async def send_and_flush(ws: zcws.WebSocket) -> None:
    await ws.send("x")
    await ws.flush()


async def send_large(ws: zcws.WebSocket) -> None:
    await ws.send(bytes(100_000))


async def send_what_may_change(ws: zcws.WebSocket) -> None:
    await ws.send(bytearray(100_000))


async def send_without_a_wait(ws: zcws.WebSocket) -> None:
    while ws.is_writable:
        ws.send_nowait(bytes(1000))
    await ws.flush()


async def send_several(ws: zcws.WebSocket) -> None:
    await ws.send_many([bytes(100)] * 100)


async def send_fragments(ws: zcws.WebSocket) -> None:
    await ws.send([bytes(1000)] * 10)


async def stream_much(ws: zcws.WebSocket) -> None:
    async with ws.send_stream(zcws.OpCode.BINARY) as message:
        for _ in range(5000):
            await message.write(bytes(1000))


async def write_frames(ws: zcws.WebSocket) -> None:
    await ws.write_frame(zcws.Frame.binary(bytes(1000)))


async def say_pong(ws: zcws.WebSocket) -> None:
    await ws.pong(bytes(100))


WAYS_TO_SEND = [
    send_some,
    send_and_flush,
    send_large,
    send_what_may_change,
    send_without_a_wait,
    send_several,
    send_fragments,
    stream_much,
    write_frames,
    say_pong,
]


@pytest.mark.parametrize("send", WAYS_TO_SEND)
@pytest.mark.parametrize("end", ["the peer goes", "we abort"])
def test_whoever_sends_in_a_loop_hears_that_it_goes_nowhere(
    anyplace: Place, send: Callable[[zcws.WebSocket], Any], end: str
) -> None:
    """A transport that is broken takes everything and is never full, so that nothing in the loop waited any more; and
    the end is only told when the event loop turns. A server that pushed hung with all of its connections."""

    async def main() -> None:
        async with anyplace.serve(swallow) as server, anyplace.raw_client(server) as peer:
            (ws,) = server.connections
            await ws.send("before")
            await peer.read()
            if end == "we abort":
                ws.abort()
            else:
                peer.cut()
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                while True:
                    await send(ws)
            assert caught.value.code == 1006

    anyplace.run(main())


class Bottomless(asyncio.Transport):
    """Takes everything at once: a peer that is quicker than we are."""

    def write(self, data: Any) -> None:
        pass

    def writelines(self, list_of_data: Any) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize("send", [way for way in WAYS_TO_SEND if way is not send_without_a_wait])
@pytest.mark.parametrize("is_engine", [False, True])
def test_whoever_sends_in_a_loop_lets_others_run(
    send: Callable[[zcws.WebSocket], Any], is_engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that is quick makes no send wait: the others, and what they receive, stood still for seconds."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        ws = zcws.WebSocket(loop, Connection(is_client=False), Options(ping_interval=None))
        if is_engine:
            monkeypatch.setattr(EngineTransport, "_offer", lambda _, segments: sum(map(len, segments)))
            monkeypatch.setattr("zcws.aio.sending._write", lambda _, data: len(data))
            ws.connection_made(place(loop, ours, ws))
        else:
            ws.connection_made(Bottomless())
        async with Others() as others:
            for _ in range(100_000):
                await send(ws)
                if others.turns > 5 or ws.writer.written > 1 << 27:
                    break
        ws.abort() if is_engine else ours.close()
        peer.close()
        assert others.turns > 5

    asyncio.run(main())


def test_a_send_that_is_cancelled_while_others_run_has_written_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ws = zcws.WebSocket(loop, Connection(is_client=False), Options(ping_interval=None))
        ws.connection_made(Bottomless())
        while not ws._must_give_way:
            await ws.send(bytes(1000))
        before = ws.writer.messages
        sending = asyncio.Task(ws.send("x"), loop=loop)  # not an eager one, which would be done after a turn
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert ws.writer.messages == before
        await ws.send("y")
        assert ws.writer.messages == before + 1

    asyncio.run(main())


def test_memory_that_was_sent_may_grow(place: Place, held: list[Any]) -> None:
    memory = bytearray(b"a" * 10)

    async def act(ws: zcws.WebSocket) -> None:
        await ws.send(memory)
        memory.extend(b"more")

    assert messages_in(sent_by(place, act)) == [(wire.BINARY, [b"a" * 10])]
    assert len(held) == 1


def test_a_peer_that_is_compressed_may_be_told_otherwise(place: Place) -> None:
    async def main() -> None:
        async with place.serve(swallow, compression="deflate") as server:
            async with place.connect(server, compression="deflate") as ws:
                sizes = []
                for compress in (None, True, False):
                    before = ws.connection.writer.size
                    ws._corked = True  # so that the bytes can be counted before they go
                    await ws.send("again " * 100, compress=compress)
                    sizes.append(ws.connection.writer.size - before)
                    ws._corked = False
                await ws.flush()
                assert sizes[0] < 100 and sizes[1] < 100 and sizes[2] > 600
        async with place.serve(swallow) as server, place.connect(server) as ws:
            # The peer decides whether it was agreed, and no peer may make a program's call fail.
            await ws.send("x" * 1000, compress=True)
            await ws.send(bytearray(SEGMENT), compress=True)
            await ws.send(["x", "y"], compress=True)
            await ws.send_many(["x", "y"], compress=True)
            async with ws.send_stream(compress=True) as message:
                await message.write("x")
            assert ws.stats.messages_sent == 6 and ws.stats.deflated == (0, 0)

    place.run(main())


class TestMemoryThatMayChange:
    """A large payload goes to the engine's socket from where it lies, and is its owner's again after that."""

    SIZES = (SEGMENT - 1, SEGMENT, 5_000_000)  # the last is more than a socket takes

    @pytest.mark.parametrize("how", ["send", "send_nowait", "text"])
    def test_it_may_be_overwritten(self, anyplace: Place, how: str) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            for size in self.SIZES:
                memory = bytearray(b"a" * size)
                ws.send_nowait("before")
                if how == "send_nowait":
                    ws.send_nowait(memory)
                else:
                    await ws.send(memoryview(memory), text=how == "text")
                memory[:] = bytes(size)
                ws.send_nowait(b"behind")

        async def main() -> None:
            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                await asyncio.sleep(0.05)  # the socket is full
                for size in self.SIZES:
                    frames = [await peer.read() for _ in range(3)]
                    opcode = wire.TEXT if how == "text" else wire.BINARY
                    assert [frame.opcode for frame in frames] == [wire.TEXT, opcode, wire.BINARY]
                    assert [frame.payload for frame in frames] == [b"before", b"a" * size, b"behind"]
                assert (await peer.read()).opcode == wire.CLOSE

        anyplace.run(main())

    @pytest.mark.parametrize("callback", [True, False])
    def test_a_received_frame(self, anyplace: Place, callback: bool) -> None:
        sizes = (*self.SIZES[:2], 60_000, 200_000)
        texts = [bytes([97 + i % 26]) * sizes[i % 4] for i in range(60)]

        async def handler(ws: zcws.WebSocket) -> None:
            while (frame := await ws.read_frame()).opcode is not zcws.OpCode.CLOSE:
                await ws.write_frame(frame)

        async def main() -> None:
            given: dict[str, Any] = {"on_frame": _back} if callback else {}
            async with anyplace.serve(None if callback else handler, **given) as server:
                async with anyplace.raw_client(server) as peer:
                    sending = asyncio.ensure_future(
                        peer.send_bytes(b"".join(peer.frame(wire.TEXT, text) for text in texts))
                    )
                    await asyncio.sleep(0.1)  # both sockets are full
                    for text in texts:
                        assert (await peer.read()).payload == text
                    await sending

        anyplace.run(main())

    def test_arrays_and_what_is_no_text(self, anyplace: Place) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            memory = bytearray(b"\xff" * SEGMENT)
            try:
                await ws.send(memory, text=True)
            except ValueError as error:
                assert "UTF-8" in str(error)
                memory.clear()  # the traceback is there, and holds nothing of it
            assert not memory
            await ws.send(array("I", range(SEGMENT)))
            await ws.send(memoryview(array("I", range(2 * SEGMENT)))[::2])
            stream = ws.send_stream(zcws.OpCode.BINARY)
            async with stream as message:
                await message.write(bytearray(SEGMENT))
                with pytest.raises(ValueError, match="fragments"):
                    ws.send_nowait(bytearray(SEGMENT))

        async def main() -> None:
            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                assert (await peer.read()).payload == array("I", range(SEGMENT)).tobytes()
                assert (await peer.read()).payload == array("I", range(0, 2 * SEGMENT, 2)).tobytes()
                assert [(await peer.read()).fin for _ in range(2)] == [False, True]
                assert (await peer.read()).payload == wire.close_payload(1000)

        anyplace.run(main())

    @pytest.mark.parametrize("how", ["reset", "aborted"])
    def test_a_peer_that_is_gone(self, anyplace: Place, how: str) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            if how == "aborted":
                ws.abort()
            else:
                await ws.recv()
            for _ in range(3):
                ws.write_frame_nowait(zcws.Frame.binary(bytes(SEGMENT)))
                ws.send_nowait(bytearray(SEGMENT))
            with pytest.raises(zcws.ConnectionClosed):
                while True:
                    await ws.send(bytearray(SEGMENT))
                    await asyncio.sleep(0)

        async def main() -> None:
            async with anyplace.serve(handler) as server:
                peer = await anyplace.raw_client(server).__aenter__()
                if how == "reset":
                    await peer.send(wire.TEXT, b"x")
                    peer.reset()
                await until(lambda: not server.connections)
                await peer.close()

        anyplace.run(main())


def _back(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
    if frame.opcode < zcws.OpCode.CLOSE:
        ws.write_frame_nowait(frame)


@pytest.mark.parametrize("how", ["raise", "close"])
def test_the_end_of_a_connection_in_the_middle_of_a_message(anyplace: Place, how: str) -> None:
    """What is said of it is what `zcws.sync` says: tests/sync/test_writing.py. It was FAILED, and not clean."""
    expected = 1011, "the sender gave up in the middle of a message"

    async def act(ws: zcws.WebSocket) -> None:
        with pytest.raises(KeyError if how == "raise" else zcws.ConnectionClosedError):
            async with ws.send_stream() as message:
                await message.write("half")
                if how == "raise":
                    raise KeyError
                with pytest.raises(ValueError):
                    ws.begin_close(1005)
                ws.begin_close(4000, "done")
                await message.write("the other half")
        assert ws.state is zcws.State.CLOSE_SENT
        for do in (lambda: ws.send("more"), ws.recv):
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await soon(do())
            assert (caught.value.code, caught.value.reason, caught.value.by) == (*expected, "us")
        await soon(ws.wait_closed())
        assert (ws.state, ws.close_code, ws.close_reason) == (zcws.State.CLOSED, *expected)
        assert ws.stats.closed_by == "us"

    frames = sent_by(anyplace, act)
    assert [(frame.opcode, frame.payload) for frame in frames] == [
        (wire.TEXT, b"half"),
        (wire.CLOSE, wire.close_payload(expected[0], expected[1].encode())),
    ]


@pytest.mark.parametrize("how", ["send", "send_nowait", "split"])
@pytest.mark.parametrize(
    ("message", "text", "error"),
    [
        (5, None, TypeError),
        ({"a": "b"}, None, TypeError),
        ("\ud800", None, UnicodeEncodeError),
        (b"\xff", True, ValueError),
        (bytearray(b"\xff"), True, ValueError),
        ("right", None, zcws.ConnectionClosed),
        (bytearray(b"right"), None, zcws.ConnectionClosed),
    ],
)
def test_what_is_no_message_is_a_mistake_behind_a_close_too(
    place: Place, how: str, message: Any, text: bool | None, error: type[Exception]
) -> None:
    """It was ConnectionClosed, and TypeError on `zcws.sync`, as what is no frame and no Ping is everywhere."""

    async def act(ws: zcws.WebSocket) -> None:
        writer = ws.split()[1] if how == "split" else ws
        ws.begin_close()
        with pytest.raises(error):
            if how == "send_nowait":
                writer.send_nowait(message, text=text)
            else:
                await writer.send(message, text=text)

    assert [frame.opcode for frame in sent_by(place, act)] == [wire.CLOSE]


async def write_stream(ws: zcws.WebSocket) -> None:
    async with ws.send_stream() as message:
        await message.write("x")


@pytest.mark.parametrize(
    "write",
    [
        lambda ws: ws.send("x"),
        lambda ws: ws.send(["x", "y"]),
        lambda ws: ws.send_many(["x", "y"]),
        lambda ws: ws.write_frame(zcws.Frame.text("x")),
        lambda ws: ws.ping(),
        lambda ws: ws.pong(),
        write_stream,
    ],
    ids=["send", "fragments", "send_many", "write_frame", "ping", "pong", "send_stream"],
)
@pytest.mark.parametrize("end", ["closed", "closing"])
def test_a_loop_that_sends_behind_the_end_lets_the_others_run(place: Place, write: Any, end: str) -> None:
    """`while True: try: await ws.send(...) except Exception: pass` stopped the event loop for ever."""

    async def main() -> None:
        async with place.serve(swallow) as server, place.connect(server) as ws:
            if end == "closed":
                await ws.close()
            else:
                ws.begin_close()
            async with Others() as others:
                for _ in range(3):
                    with pytest.raises(zcws.ConnectionClosed):
                        await write(ws)
                assert others.turns > 1

    place.run(main())
