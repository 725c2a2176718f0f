"""`ws.stream()` and `ws.send_stream()`: inside one message; and reads of every kind that are cancelled anywhere."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import feed
import pytest
import wire
from hypothesis import given, settings
from hypothesis import strategies as st
from net import Collected, Place, RawPeer, echo, narrow, request, soon, until

import zcws
from zcws.aio.settings import Options

ALSO_OVER_HTTP2 = True  # conftest.py


class TestIncoming:
    def test_text_is_cut_between_characters_and_checked_as_it_comes(self, anyplace: Place) -> None:
        """A byte that cannot be right ends the connection before the message does."""

        async def main() -> None:
            codes = []

            async def handler(ws: zcws.WebSocket) -> None:
                with pytest.raises(zcws.ProtocolError) as caught:
                    async with ws.stream() as message:
                        async for piece in message:
                            await ws.send(piece)
                codes.append(caught.value.code)

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                data = peer.frame(wire.TEXT, "a€".encode() + b"\xff" + bytes(1000))
                await peer.send_bytes(data[:11])  # a head of 8 bytes, an a, two thirds of the sign
                assert (await peer.read()).payload == b"a"
                await peer.send_bytes(data[11:12])
                assert (await peer.read()).payload == "€".encode()
                await peer.send_bytes(data[12:100])
                assert (await peer.read()).payload[:2] == (1007).to_bytes(2, "big")
            assert codes == [1007]

        anyplace.run(main())

    @pytest.mark.parametrize("compressed", [False, True])
    def test_an_empty_message_is_one_piece(self, place: Place, compressed: bool) -> None:
        """There was none, and whoever passed the message on could not know whether it was Text or Binary."""
        rsv, nothing = (4, wire.deflate(b"")) if compressed else (0, b"")

        async def main() -> None:
            got: list[list[str | bytes]] = []

            async def handler(ws: zcws.WebSocket) -> None:
                for _ in range(4):
                    async with ws.stream() as message:
                        got.append([piece async for piece in message])

            async with place.serve(handler, compression="deflate") as server:
                async with place.raw_client(server, head=_offer()) as peer:
                    await peer.send(wire.TEXT, nothing, rsv=rsv)
                    await peer.send(wire.BINARY, nothing, rsv=rsv)
                    await peer.send(wire.BINARY, b"", fin=False)
                    await peer.send(wire.CONTINUATION, b"")
                    await peer.send(wire.TEXT, b"a", fin=False)
                    await peer.send(wire.CONTINUATION, b"")
                    assert (await peer.read()).opcode == wire.CLOSE
            assert got == [[""], [b""], [b""], ["a"]]

        place.run(main())

    def test_compressed_text_that_is_not_utf8(self, place: Place) -> None:
        async def main() -> None:
            got = []

            async def handler(ws: zcws.WebSocket) -> None:
                async with ws.stream() as message:
                    async for piece in message:
                        got.append(piece)

            async with place.serve(handler, compression="deflate", close_timeout=0.1) as server:
                for payload in (b"a" * 100_000 + b"\xff", b"a" * 10 + b"\xe2\x82"):
                    async with place.raw_client(server, head=_offer()) as peer:
                        await peer.send(wire.TEXT, wire.deflate(payload), rsv=4)
                        assert (await peer.read()).payload[:2] == (1007).to_bytes(2, "big")
            assert "".join(got) == "a" * len("".join(got))

        place.run(main())

    @pytest.mark.parametrize("kind", ["plain", "compressed"])
    @pytest.mark.parametrize("pieces", [0, 1, 3])
    def test_leaving_early_drops_the_rest(self, anyplace: Place, kind: str, pieces: int) -> None:
        """The context of the decompressor included: the messages after it refer to what was dropped."""
        # Two inflating steps at the least, and several rows.
        big = b"".join(b"%d," % i for i in range(200_000))

        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                for message in (big, big[-20_000:], "next"):
                    await ws.send(message, compress=kind == "compressed")
                await ws.recv()

            options: dict[str, Any] = {"compression": zcws.Deflate(threshold=0)}
            async with (
                anyplace.serve(handler, **options) as server,
                anyplace.connect(server, **options) as ws,
            ):
                async with ws.stream() as message:
                    taken = [await anext(message) for _ in range(pieces)]
                assert big.startswith(b"".join(taken))  # type: ignore[arg-type]
                if pieces == 0:
                    assert await soon(ws.recv()) == big  # nothing of it had been begun
                assert await soon(ws.recv()) == big[-20_000:]
                assert await soon(ws.recv()) == "next"

        anyplace.run(main())

    def test_leaving_early_in_every_place(self, place: Place) -> None:
        """Whatever has arrived when we leave: the next message is the next message."""

        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                for number in range(60):
                    async with ws.stream() as message:
                        for _ in range(number % 4):
                            await anext(message, None)
                    if number % 4:
                        assert await soon(ws.recv()) == str(number)
                    else:
                        while await soon(ws.recv()) != str(number):
                            pass
                await ws.send("fine")

            async with place.serve(handler, compression="deflate") as server:
                async with place.raw_client(server, head=_offer()) as peer:
                    for number in range(60):
                        parts = [b"x" * (number * 50), b"y" * 3, b"z" * (70_000 if number % 7 == 0 else 1)]
                        if number % 2:
                            data = b"".join(wire.fragments(wire.BINARY, parts, key=peer.key))
                        else:
                            data = peer.frame(wire.BINARY, wire.deflate(b"".join(parts)), rsv=4)
                        data += peer.frame(wire.TEXT, b"%d" % number)
                        for piece in feed.cut(data, [number * 11, number * 5000 + 7]):
                            await peer.send_bytes(piece)
                            await asyncio.sleep(0.001)
                    assert (await peer.read()).payload == b"fine"

        place.run(main())

    @pytest.mark.parametrize("how", ["read", "left"])
    def test_a_bomb_is_bounded(self, place: Place, how: str) -> None:
        async def main() -> None:
            got = 0

            async def handler(ws: zcws.WebSocket) -> None:
                nonlocal got
                with pytest.raises(zcws.LimitExceeded):
                    async with ws.stream() as message:
                        async for piece in message:
                            assert len(piece) <= 64 * 1024
                            got += len(piece)
                            if how == "left":
                                break
                    await ws.recv()

            options: dict[str, Any] = {"compression": "deflate", "max_size": 1_000_000, "close_timeout": 0.1}
            async with place.serve(handler, **options) as server:
                async with place.raw_client(server, head=_offer()) as peer:
                    await peer.send(wire.BINARY, wire.deflate(bytes(60_000_000)), rsv=4)
                    assert (await peer.read()).payload[:2] == (1009).to_bytes(2, "big")
                await until(lambda: not server.connections)
            assert 0 < got <= 1_000_000

        place.run(main())

    def test_a_control_frame_in_between(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                async with ws.stream() as message:
                    assert "".join([piece async for piece in message]) == "abc"  # type: ignore[misc]
                await ws.send("fine")

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                first, second, third = wire.fragments(wire.TEXT, [b"a", b"b", b"c"], key=peer.key)
                await peer.send_bytes(first + peer.frame(wire.PING, b"1") + second)
                assert (await peer.read())[:2] == (wire.PONG, b"1")
                await peer.send_bytes(peer.frame(wire.PING, b"2") + third)
                assert {(await peer.read()).payload for _ in range(2)} == {b"2", b"fine"}

        anyplace.run(main())

    def test_the_end_comes_in_the_middle(self, anyplace: Place) -> None:
        async def main() -> None:
            codes = []

            async def handler(ws: zcws.WebSocket) -> None:
                for _ in range(2):  # and again
                    with pytest.raises(zcws.ConnectionClosedError) as caught:
                        async with ws.stream() as message:
                            async for _ in message:
                                pass
                    codes.append(caught.value.code)

            async with anyplace.serve(handler) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send(wire.TEXT, b"half", fin=False)
                await until(lambda: not server.connections)
            assert codes == [1006, 1006]

        anyplace.run(main())

    def test_one_message_at_a_time(self, place: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                async with ws.stream() as message:
                    assert await anext(message) == "a"
                    with pytest.raises(RuntimeError, match="streamed"):
                        await ws.recv()
                    with pytest.raises(RuntimeError, match="already"):
                        async with ws.stream():
                            pass
                    assert [piece async for piece in message] == ["b"]
                assert await ws.recv() == "next"
                await ws.send("fine")

            async with place.serve(handler) as server, place.raw_client(server) as peer:
                await peer.send(wire.TEXT, b"a", fin=False)
                await asyncio.sleep(0.02)
                await peer.send_bytes(peer.frame(wire.CONTINUATION, b"b") + peer.frame(wire.TEXT, b"next"))
                assert (await peer.read()).payload == b"fine"

        place.run(main())


class TestOutgoing:
    def test_pieces_are_on_their_way_before_the_message_is_whole(self, anyplace: Place) -> None:
        async def main() -> None:
            go_on = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                async with ws.send_stream() as message:
                    await message.write("first")
                    await soon(go_on.wait())
                    await message.write("second")

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                assert await peer.read() == wire.Seen(wire.TEXT, b"first", fin=False)
                go_on.set()
                assert await peer.read() == wire.Seen(wire.CONTINUATION, b"second", fin=False)
                assert await peer.read() == wire.Seen(wire.CONTINUATION, b"")

        anyplace.run(main())

    def test_other_senders_wait_in_order(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                async with ws.send_stream(zcws.OpCode.BINARY) as message:
                    await message.write(b"1")
                    others = [asyncio.ensure_future(ws.send(text)) for text in ("a", "b")]
                    await asyncio.sleep(0.01)
                    assert not any(task.done() for task in others)
                    await ws.pong(b"between")
                    await message.write(b"2")
                await asyncio.gather(*others)

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                payloads = [(await peer.read()).payload for _ in range(6)]
                assert payloads == [b"1", b"between", b"2", b"", b"a", b"b"]

        anyplace.run(main())

    @pytest.mark.parametrize("how", ["exception", "cancelled", "closed"])
    def test_left_in_the_middle(self, anyplace: Place, how: str) -> None:
        """Half a message cannot be taken back: 1011; and who waited behind it hears of the end."""

        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                async def send() -> None:
                    async with ws.send_stream() as message:
                        await message.write("half")
                        if how == "exception":
                            raise LookupError
                        if how == "closed":
                            ws.begin_close(1000)
                        await asyncio.sleep(0 if how == "closed" else 100)

                sending = asyncio.ensure_future(send())
                waiting = asyncio.ensure_future(_after(ws))
                await asyncio.sleep(0.01)
                if how == "cancelled":
                    sending.cancel()
                results = await asyncio.gather(sending, waiting, return_exceptions=True)
                kinds = {
                    "exception": LookupError,
                    "cancelled": asyncio.CancelledError,
                    "closed": zcws.ConnectionClosed,
                }
                assert isinstance(results[0], kinds[how]), results
                assert isinstance(results[1], zcws.ConnectionClosed), results

            async with (
                anyplace.serve(handler, close_timeout=0.1) as server,
                anyplace.raw_client(server) as peer,
            ):
                frames = await peer.rest()
                assert frames[0] == wire.Seen(wire.TEXT, b"half", fin=False)
                assert [frame.payload[:2] for frame in frames[1:]] == [(1011).to_bytes(2, "big")]

        anyplace.run(main())

    def test_compressed(self, place: Place) -> None:
        text = "again and again, " * 1000

        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                for compress in (True, None, False):
                    async with ws.send_stream(compress=compress) as message:
                        for start in range(0, len(text), 1000):
                            await message.write(text[start : start + 1000])

            async with place.serve(handler, compression="deflate") as server:
                async with place.raw_client(server, head=_offer()) as peer:
                    for rsv in (4, 4, 0):
                        frames = [await peer.read()]
                        while not frames[-1].fin:
                            frames.append(await peer.read())
                        assert [frame.rsv for frame in frames] == [rsv] + [0] * (len(frames) - 1)
                        size = sum(len(frame.payload) for frame in frames)
                        assert size == len(text) if rsv == 0 else size < len(text) / 20
                async with place.connect(server, compression="deflate") as ws:
                    assert [await ws.recv() for _ in range(3)] == [text] * 3

        place.run(main())

    def test_a_slow_peer_is_waited_for(self, place: Place) -> None:
        async def main() -> None:
            sent = 0

            async def handler(ws: zcws.WebSocket) -> None:
                nonlocal sent
                narrow(ws)
                async with ws.send_stream(zcws.OpCode.BINARY) as message:
                    for _ in range(400):
                        await message.write(bytes(100_000))
                        sent += 1

            async with place.serve(handler) as server, place.raw_client(server, limit=1024) as peer:
                narrow(peer.writer)
                before = -1
                while sent != before:
                    before = sent
                    await asyncio.sleep(0.05)
                assert 0 < sent < 400
                for _ in range(401):
                    await peer.read()
                assert sent == 400

        place.run(main())


@pytest.mark.parametrize("closes", [False, True])
def test_what_the_peer_sent_before_it_went_can_be_read_late(anyplace: Place, closes: bool) -> None:
    """More than a ring holds; and CPython 3.10's TLS hands it over whether or not there is room."""
    sent = [bytes([number]) * 20_000 for number in range(60)]

    async def script(peer: RawPeer) -> None:
        data = b"".join(peer.frame(wire.BINARY, payload) for payload in sent)
        await peer.send_bytes(data + (peer.frame(wire.CLOSE, wire.close_payload(1000)) if closes else b""))
        assert (await peer.read())[:2] == (wire.TEXT, b"also late")
        if closes:
            assert (await peer.read()).opcode == wire.CLOSE

    async def main() -> None:
        async with anyplace.raw_server(script) as port:
            ws = await anyplace.connect(port)
            await asyncio.sleep(0.05)
            await ws.send("also late")  # nothing holds back what is written meanwhile
            got = []
            with pytest.raises(zcws.ConnectionClosed) as caught:
                while True:
                    got.append(await soon(ws.recv()))
                    await asyncio.sleep(0)
            assert got == sent
            assert caught.value.code == (1000 if closes else 1006)
            await soon(ws.wait_closed())

    anyplace.run(main())


def test_what_tls_has_not_handed_over_when_the_peer_goes_can_be_read(tls: Place) -> None:
    """It is forgotten by uvloop, since reading was paused, and by asyncio as far as it is more than a ring takes."""
    sent = [(b"%06d" % number).ljust(100) for number in range(5000)]
    data = b"".join(wire.frame(wire.BINARY, payload, key=wire.KEY) for payload in sent)
    data += wire.frame(wire.CLOSE, wire.close_payload(4000), key=wire.KEY)

    async def main() -> None:
        got = []

        async def handler(ws: zcws.WebSocket) -> None:
            await asyncio.sleep(0.2)  # by then the peer is gone, or there is nothing to see
            with pytest.raises(zcws.ConnectionClosed) as caught:
                while True:
                    got.append(await ws.recv())
            assert caught.value.code == ws.close_code == 4000

        async with tls.serve(handler) as server:
            # asyncio does not count what is left of a record that it has begun.
            await tls.send_and_leave(server, [data[:8000], data[8000:]])
            await until(lambda: not server.connections)
        assert got == sent

    tls.run(main())


# ---- cancelled anywhere ----

MESSAGES: list[str | bytes] = [
    "first",
    "€" * 10,
    b"",
    bytes(70_000),
    "compressed " * 500,
    bytes(300_000),
    "last",
]

SCRIPT = [
    wire.frame(wire.TEXT, b"first", key=wire.KEY),
    *wire.fragments(
        wire.TEXT, ["€".encode() * 3 + b"\xe2\x82", b"", b"\xac" + "€".encode() * 6], key=wire.KEY
    ),
    wire.frame(wire.PING, b"p", key=wire.KEY),
    wire.frame(wire.BINARY, b"", key=wire.KEY),
    wire.frame(wire.BINARY, bytes(70_000), key=wire.KEY),
    wire.frame(wire.TEXT, wire.deflate(b"compressed " * 500), rsv=4, key=wire.KEY),
    wire.frame(wire.BINARY, bytes(300_000), key=wire.KEY),
    wire.frame(wire.TEXT, b"last", key=wire.KEY),
]


@pytest.mark.parametrize("how", ["recv", "read_frame", "batches", "stream"])
@settings(max_examples=60)
@given(
    places=st.lists(st.integers(0, 400_000), max_size=20),
    steps=st.lists(st.sampled_from(["cancel", "time out", "cancel at once", "nothing", "turn"]), min_size=1),
)
def test_the_next_call_continues(how: str, places: list[int], steps: list[str]) -> None:
    """Any cut of the bytes; cancelled or timed out at any await: what comes out is what went in."""

    async def main() -> list[str | bytes]:
        agreement = zcws.Agreement(deflate=zcws.DeflateParameters())
        connection = zcws.Connection(is_client=False, agreement=agreement)
        ws = zcws.WebSocket(asyncio.get_running_loop(), connection, Options(ping_interval=None))
        ws.connection_made(_Sink())
        collected = Collected(ws, how, zcws.PayloadBuffer())
        steps_for_ever = itertools.cycle(steps)
        for piece in feed.cut(b"".join(SCRIPT), places):
            rest = memoryview(piece)
            while rest:
                used = receive(ws, rest)
                rest = rest[used:]
                # A ring that is full has to be read from, however that is done; the test is what feeds it, so
                # no read may be waited for.
                await attempt(collected, "turn" if not used else next(steps_for_ever))
        while len(collected.messages) < len(MESSAGES):
            await soon(collected.read())
        return collected.messages

    assert asyncio.run(main()) == MESSAGES


def receive(ws: zcws.WebSocket, data: memoryview) -> int:
    """As an event loop does it. Returns how many bytes there was room for."""
    room = ws.get_buffer(-1)
    count = min(len(room), len(data))
    room[:count] = data[:count]
    if count:
        ws.buffer_updated(count)
    return count


async def attempt(collected: Collected, step: str) -> None:
    """A read that is begun, and is taken back when it waits."""
    if step == "nothing":
        return
    if step == "time out":
        try:
            await asyncio.wait_for(collected.read(), 0.001)
        except asyncio.TimeoutError:
            pass
        return
    reading = asyncio.ensure_future(collected.read())
    if step != "cancel at once":
        for _ in range(3 if step == "turn" else 1):
            await asyncio.sleep(0)
    while not reading.done():
        reading.cancel()
        await asyncio.sleep(0)
    if not reading.cancelled():
        await reading


class _Sink(asyncio.Transport):
    """A transport whose other end nobody reads."""

    def write(self, data: Any) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def _offer() -> bytes:
    return request("Sec-WebSocket-Extensions: permessage-deflate")


async def _after(ws: zcws.WebSocket) -> None:
    await asyncio.sleep(0)  # the other one begins
    await ws.send("behind it")


@pytest.mark.parametrize("pause", [True, False])
def test_a_stream_in_the_step_in_which_a_frame_was_read(anyplace: Place, pause: bool) -> None:
    """The frame is stale, and its memory is not kept from the stream."""
    large = bytes(range(256)) * 2000

    async def main() -> None:
        got: list[bytes] = []

        async def collect(ws: zcws.WebSocket) -> None:
            for _ in range(3):
                frame = await ws.read_frame()  # from the second on it is handed on past the reader
            async with ws.stream() as message:
                with pytest.raises(zcws.StaleFrame):
                    frame.to_bytes()
                if pause:
                    await asyncio.sleep(0.01)
                got.append(b"".join([piece async for piece in message]))  # type: ignore[misc]
                with pytest.raises(zcws.StaleFrame):
                    frame.payload  # noqa: B018
            got.append(await ws.recv(decode=False))

        async with anyplace.serve(collect) as server, anyplace.raw_client(server) as peer:
            for _ in range(3):
                await asyncio.sleep(0.01)
                await peer.send(wire.BINARY, b"a frame")
            await asyncio.sleep(0.01)
            for _ in range(2):
                await peer.send(wire.BINARY, large)
            await until(lambda: len(got) == 2)
        assert got == [large, large]

    anyplace.run(main())


def test_what_is_shown_of_streams(anyplace: Place) -> None:
    async def main() -> None:
        async with anyplace.serve(echo) as server, anyplace.connect(server) as ws:
            assert repr(ws.send_stream()) == f"<OutgoingStream of {ws!r}>"
            assert repr(ws.stream()) == f"<IncomingStream of {ws!r}>"

    anyplace.run(main())
