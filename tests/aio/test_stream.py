"""The driver between the core and the sockets: what happens while the program is slow, rings, transports in memory."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any, get_type_hints

import pytest
import wire
from net import Place, echo, soon, until

import zcws
from zcws.aio.settings import Options, pool_of
from zcws.aio.stream import Stream


@pytest.mark.parametrize("is_paused", [False, True])
def test_last_words_of_a_peer_that_takes_nothing_more(place: Place, is_paused: bool) -> None:
    """What is sent fails, and what the peer has said before is read: on a transport of the loop that was 1006."""

    async def main() -> None:
        done = asyncio.Event()

        async def hold(ws: zcws.WebSocket) -> None:
            await done.wait()

        async with place.serve(hold) as server, place.raw_client(server) as peer:
            (ws,) = server.connections
            if is_paused:
                ws._pause_reading()
            peer.writer.write(peer.frame(1, b"last words") + peer.frame(8, wire.close_payload(3000, b"bye")))
            peer.cut()
            try:
                with pytest.raises(zcws.ConnectionClosed):
                    while True:
                        ws.send_nowait(bytes(100_000))
                assert await soon(ws.recv()) == "last words"
                await soon(ws.wait_closed())
                assert (ws.close_code, ws.close_reason) == (3000, "bye")
            finally:
                done.set()

    place.run(main())


class TestReadingIsPaused:
    def test_memory_is_bounded_while_the_program_is_slow(self, anyplace: Place) -> None:
        async def main() -> None:
            go_on = asyncio.Event()
            got: list[bytes] = []

            async def handler(ws: zcws.WebSocket) -> None:
                await go_on.wait()
                async for message in ws:
                    got.append(message)  # type: ignore[arg-type]

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                small = [b"%d" % number + bytes(3_000) for number in range(3_000)]
                for payload in small:
                    peer.writer.write(peer.frame(wire.BINARY, payload))
                (ws,) = server.connections
                await until(lambda: ws._reading_paused)
                assert ws._reader._ring is not None  # one ring, and no more
                go_on.set()
                await soon(peer.writer.drain())
                await until(lambda: len(got) == len(small))
                assert got == small
                assert ws._reader._ring is None
                await peer.send(wire.CLOSE)

        anyplace.run(main())

    def test_a_close_of_ours_goes_through_a_full_ring(self, anyplace: Place) -> None:
        """The peer's Close stands behind bytes that nobody has read, and that no ring has room for."""

        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                await until(lambda: ws._reading_paused)
                await ws.close(1001)

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                for _ in range(3_000):
                    peer.writer.write(peer.frame(wire.BINARY, bytes(1_000)))
                peer.writer.write(peer.frame(wire.CLOSE, wire.close_payload(1001)))
                frames = await peer.rest()
                assert frames == [wire.Seen(wire.CLOSE, wire.close_payload(1001))]

        anyplace.run(main())

    def test_a_busy_peer_does_not_starve_the_others(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(echo) as server, anyplace.connect(server) as quiet:
                async with anyplace.raw_client(server) as busy:
                    stop = False

                    async def flood() -> None:
                        data = busy.frame(wire.TEXT, b"x") * 5_000
                        while not stop:
                            await busy.send_bytes(data)

                    async def drain() -> None:
                        while await busy.reader.read(1 << 20):
                            pass

                    flooding, draining = asyncio.ensure_future(flood()), asyncio.ensure_future(drain())
                    for number in range(20):
                        await quiet.send(str(number))
                        assert await soon(quiet.recv()) == str(number)
                    stop = True
                    await soon(flooding)
                    busy.reset()
                    await asyncio.wait([draining])
                    draining.exception()

        anyplace.run(main())


class TestRings:
    def test_idle_connections_hold_none(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(echo) as server:
                clients = [await anyplace.connect(server) for _ in range(30)]
                for client in clients:
                    for message in ("small", bytes(100_000), bytes(600_000)):
                        await client.send(message)
                        assert await soon(client.recv()) == message
                assert len(server.connections) == 30
                for ws in (*clients, *server.connections):
                    assert ws._reader._ring is None
                assert len(pool_of(asyncio.get_running_loop())._spare) < 16
                await asyncio.gather(*(client.close() for client in clients))

        anyplace.run(main())

    @pytest.mark.parametrize("unread", [0, 1, 70])
    def test_pings_that_nobody_reads_are_not_kept_for_ever(self, anyplace: Place, unread: int) -> None:
        """A program that only sends: after a week of keepalive its ring would be full, the peer's Close unheard."""

        async def main() -> None:
            go_on = asyncio.Event()
            got: list[Any] = []

            async def handler(ws: zcws.WebSocket) -> None:
                await go_on.wait()
                async for message in ws:
                    got.append(message)

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                messages = [f"unread {number}" for number in range(unread)]
                for message in messages:
                    peer.writer.write(peer.frame(wire.TEXT, message.encode()))
                (ws,) = server.connections
                payload = bytes(120)
                for _ in range(3_000):  # more than a ring holds, if they were kept
                    peer.writer.write(peer.frame(wire.PONG, payload))
                for number in range(200):
                    peer.writer.write(peer.frame(wire.PONG, payload))
                    await peer.send(wire.PING, b"%d" % number)
                    assert await peer.read() == wire.Seen(wire.PONG, b"%d" % number)
                assert not ws._reading_paused
                assert ws._reader.rows_waiting == unread
                assert (ws._reader._ring is None) == ws._reader.is_idle == (unread == 0)
                assert ws._was_never_read
                peer.writer.write(peer.frame(wire.TEXT, b"and on"))
                go_on.set()
                await until(lambda: len(got) == unread + 1)
                assert got == [*messages, "and on"]
                await peer.send(wire.CLOSE, wire.close_payload(1000))
                assert await peer.rest() == [wire.Seen(wire.CLOSE, wire.close_payload(1000))]

        anyplace.run(main())

    @pytest.mark.parametrize("unread", [0, 1])
    def test_pings_that_filled_the_ring_of_a_program_that_only_sends(
        self, anyplace: Place, unread: int
    ) -> None:
        """Reading stopped for want of room, and nobody began again when they had been forgotten."""

        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                await ws.wait_closed()

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                for _ in range(unread):
                    peer.writer.write(peer.frame(wire.TEXT, b"unread"))
                for _ in range(3):
                    # Many times the rows of a table, and more than a ring holds.
                    for size in (0, 120):
                        peer.writer.write(peer.frame(wire.PONG, bytes(size)) * 6000)
                    await peer.send(wire.PING, b"there?")
                    assert await peer.read() == wire.Seen(wire.PONG, b"there?")
                (ws,) = server.connections
                assert ws._reader.rows_waiting == unread
                await peer.send(wire.CLOSE, wire.close_payload(1000))
                assert await peer.rest() == [wire.Seen(wire.CLOSE, wire.close_payload(1000))]

        anyplace.run(main())

    @pytest.mark.parametrize(
        "way", ["recv", "frames", "batches", "stream", "on_message", "on_frame", "nobody"]
    )
    @pytest.mark.parametrize("opcode", [wire.PING, wire.PONG])
    def test_a_peer_that_sends_nothing_but_pings_holds_up_nobody(
        self, anyplace: Place, way: str, opcode: int
    ) -> None:
        """A read went on until it had a message: 43,000 Pings, and others waited for a second."""
        most = 0

        async def handler(ws: zcws.WebSocket) -> None:
            if way == "nobody":
                await ws.wait_closed()
            elif way == "frames":
                while (await ws.read_frame()).opcode is not zcws.OpCode.TEXT:
                    pass
            elif way == "batches":
                async for batch in ws.batches():
                    if batch.messages:
                        break
            elif way == "stream":
                async with ws.stream() as message:
                    assert [piece async for piece in message] == ["the end"]
            else:
                assert await ws.recv() == "the end"
            await ws.wait_closed()

        async def watch(ws: zcws.WebSocket) -> None:
            nonlocal most
            before = ws._reader.frames
            while True:
                await asyncio.sleep(0)
                frames = ws._reader.frames
                most, before = max(most, frames - before), frames

        async def main() -> None:
            options = {way: lambda ws, _: None} if way.startswith("on_") else {}
            async with anyplace.serve(None if options else handler, **options) as server:
                async with anyplace.raw_client(server) as peer:
                    (ws,) = server.connections
                    watching = asyncio.ensure_future(watch(ws))
                    peer.writer.write(peer.frame(opcode) * 40_000 + peer.frame(wire.TEXT, b"the end"))
                    await peer.send(wire.CLOSE, wire.close_payload(1000))
                    pongs = [wire.Seen(wire.PONG, b"")] * (40_000 if opcode == wire.PING else 0)
                    assert await peer.rest() == [*pongs, wire.Seen(wire.CLOSE, wire.close_payload(1000))]
                    watching.cancel()
                    await until(lambda: ws.state is zcws.State.CLOSED)
                    assert ws.close_code == 1000
            assert most <= 10_000  # of shares of 4,096, and of the 5,000 that a crossing of the engine finds

        anyplace.run(main())

    def test_whoever_has_given_way_and_finds_nothing_left_waits(self, anyplace: Place) -> None:
        """What was left may be forgotten meanwhile: it would have given way for ever."""

        quiet: dict[str, Any] = {"ping_interval": None}

        async def main() -> None:
            async with anyplace.serve(echo, **quiet) as server, anyplace.connect(server, **quiet) as ws:
                ws._reader.gives_way = True
                reading = asyncio.ensure_future(ws.recv())
                await until(lambda: ws._wakeup.is_waiting)
                await ws.send("a")
                assert await soon(reading) == "a"

        anyplace.run(main())

    def test_a_close_behind_pings_that_nobody_has_looked_at(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(zcws.WebSocket.wait_closed) as server:
                async with anyplace.raw_client(server) as peer:
                    (ws,) = server.connections
                    peer.writer.write(peer.frame(wire.PONG) * 40_000)
                    peer.writer.write(peer.frame(wire.CLOSE, wire.close_payload(1000, b"bye")))
                    peer.cut()
                    await until(lambda: ws.state is zcws.State.CLOSED)
                    assert (ws.close_code, ws.close_reason) == (1000, "bye")

        anyplace.run(main())

    def test_pings_wait_for_whoever_reads_frames(self, anyplace: Place) -> None:
        async def main() -> None:
            go_on = asyncio.Event()
            seen: list[bytes] = []

            async def handler(ws: zcws.WebSocket) -> None:
                for _ in range(2):
                    await go_on.wait()
                    go_on.clear()
                    for _ in range(50):
                        frame = await ws.read_frame()
                        assert frame.opcode is zcws.OpCode.PING
                        seen.append(frame.to_bytes())

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                for number in range(100):
                    await peer.send(wire.PING, b"%d" % number)
                    assert (await peer.read()).opcode == wire.PONG
                    if number in (49, 99):
                        go_on.set()
                        await until(lambda number=number: len(seen) == number + 1)
                assert seen == [b"%d" % number for number in range(100)]

        anyplace.run(main())

    def test_whoever_begins_to_read_frames_has_them_from_then_on(self, anyplace: Place) -> None:
        async def main() -> None:
            begin, go_on = asyncio.Event(), asyncio.Event()
            seen: list[bytes] = []

            async def handler(ws: zcws.WebSocket) -> None:
                await begin.wait()
                for _ in range(2):
                    frame = await ws.read_frame()
                    seen.append(frame.to_bytes())
                    await go_on.wait()

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                for number in range(66):
                    await peer.send(wire.PING, b"%d" % number)
                    assert (await peer.read()).opcode == wire.PONG
                (ws,) = server.connections
                assert ws._reader.is_idle
                begin.set()
                await until(lambda: ws._wakeup.is_waiting)
                await peer.send(wire.TEXT, b"first")
                await until(lambda: seen)
                await peer.send(wire.PING, b"while it is busy")
                assert (await peer.read()).opcode == wire.PONG
                go_on.set()
                await until(lambda: len(seen) == 2)
                assert seen == [b"first", b"while it is busy"]

        anyplace.run(main())

    def test_a_program_that_keeps_its_last_frame_holds_none_either(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                while True:
                    frame = await ws.read_frame()  # it stays in this variable
                    if frame.opcode is zcws.OpCode.CLOSE:
                        return
                    await ws.write_frame(frame)

            async with anyplace.serve(handler) as server, anyplace.connect(server) as ws:
                await ws.send("x")
                assert await soon(ws.recv()) == "x"
                (accepted,) = server.connections
                assert accepted._reader._ring is None

        anyplace.run(main())

    @pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
    def test_echo_of_any_size(self, anyplace: Place, size: int) -> None:
        async def main() -> None:
            async with anyplace.serve(echo) as server, anyplace.connect(server) as ws:
                for message in (random.Random(size).randbytes(size), "é" * (size // 2)):
                    sending = asyncio.ensure_future(ws.send(message))
                    assert await soon(ws.recv()) == message
                    await sending

        anyplace.run(main())

    def test_compressed_echo(self, anyplace: Place) -> None:
        async def main() -> None:
            text = '{"symbol": "ABC", "price": 12.5}, ' * 50_000
            async with anyplace.serve(echo, compression="deflate") as server:
                async with anyplace.connect(server, compression="deflate") as ws:
                    assert ws.connection.agreement.deflate is not None
                    for message in (text, text[:1_000], "", text.encode()):
                        await ws.send(message)
                        assert await soon(ws.recv()) == message

        anyplace.run(main())


class MemoryTransport(asyncio.Transport):
    """Hands bytes to the other end at once, inside of `write`: whatever task writes there is running."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.peer: zcws.WebSocket | None = None

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        while view and self.peer is not None:
            room = self.peer.get_buffer(-1)
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.peer.buffer_updated(count)
            view = view[count:]

    def writelines(self, segments: Any) -> None:
        for segment in segments:
            self.write(segment)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            self.loop.call_soon(peer.eof_received)

    abort = close


def joined(loop: asyncio.AbstractEventLoop) -> tuple[zcws.WebSocket, zcws.WebSocket]:
    """A client and a server whose transports are each other."""
    options = Options(ping_interval=None)
    ends = [
        zcws.WebSocket(loop, zcws.Connection(is_client=is_client, entropy=os.urandom), options)
        for is_client in (True, False)
    ]
    transports = [MemoryTransport(loop), MemoryTransport(loop)]
    for transport, ws, other in zip(transports, ends, reversed(ends), strict=True):
        transport.peer = other
        ws.connection_made(transport)
    return ends[0], ends[1]


def test_two_in_memory_where_a_task_is_always_running(anyloop: Place) -> None:
    async def main() -> None:
        client, server = joined(asyncio.get_running_loop())
        answering = asyncio.ensure_future(echo(server))
        await asyncio.sleep(0)
        for number in range(100):
            await client.send(str(number))
            await client.flush()  # delivers, while this task runs
            assert await soon(client.recv()) == str(number)
        assert not answering.done()
        await client.send("left behind")
        client.begin_close()
        await soon(answering)

    anyloop.run(main())


def test_the_handshake_is_there_on_both_sides(place: Place) -> None:
    """`ws.request.username` in a handler was an error for type checkers: the property said that it may be None."""
    assert get_type_hints(vars(Stream)["request"].fget)["return"] is zcws.Request
    assert get_type_hints(vars(Stream)["response"].fget)["return"] is zcws.Response

    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            await ws.send(f"{ws.request.path} {ws.response.status_code}")

        async with place.serve(handler) as server, place.connect(server, path="/a") as ws:
            assert await soon(ws.recv()) == f"{ws.request.path} {ws.response.status_code}" == "/a 101"

    place.run(main())


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("zcws.connection.Connection", "end"),
        ("zcws.aio.stream.Stream", "_leave_transport"),
        ("zcws.aio.stream", "finish"),
        ("zcws.aio.stream.Stream", "_break_cycle"),
    ],
)
def test_whoever_waits_for_the_end_hears_of_it_though_there_is_no_memory(
    where: str, name: str, anyplace: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket was gone, which nobody says twice: readers, `wait_closed` and the shutdown waited for ever."""
    reported: list[Any] = []
    told: list[zcws.WebSocket] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context.get("exception"))
        )

        def fails(*what: Any) -> None:
            patched.undo()
            raise MemoryError

        async with anyplace.serve(echo) as server, anyplace.connect(server) as ws:
            await ws.send("hello")
            assert await soon(ws.recv()) == "hello"
            waiting = [
                asyncio.ensure_future(wait) for wait in (ws.wait_closed(), ws.recv(), ws.wait_closed())
            ]
            closed = ws.when_closed()
            ws.add_end_callback(told.append)
            await asyncio.sleep(0)
            with monkeypatch.context() as patched:
                patched.setattr(f"{where}.{name}", fails)
                ws.abort()
                _, refusal, _ = await soon(asyncio.gather(*waiting, return_exceptions=True))
                await soon(asyncio.shield(closed))
            assert isinstance(refusal, zcws.ConnectionClosedError)
            await until(lambda: told)

    anyplace.run(main())
    assert len(told) == 1
    assert {type(error) for error in reported} <= {MemoryError}
