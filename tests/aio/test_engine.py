"""The engine: adopted sockets behave like the loop's own transports, and some things that only it can get wrong."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import wire
from hypothesis import given, settings
from hypothesis import strategies as st

import zcws
from zcws.aio.engine import EngineTransport, adopt, place
from zcws.aio.stream import Options, pool_of
from zcws.aio.websocket import WebSocket
from zcws.connection import Connection

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the engine needs epoll; others keep their transports"
)

PATIENCE = 20


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), PATIENCE)

    asyncio.run(bounded())


class Recorder(asyncio.BufferedProtocol):
    """Keeps what happens to it."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(65536))
        self.received = bytearray()
        self.events: list[str] = []
        self.keeps_open = False
        self.changed = asyncio.Event()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]
        self.changed.set()

    def eof_received(self) -> bool:
        self.note("eof")
        return self.keeps_open

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("lost" if exc is None else f"lost: {type(exc).__name__}")

    def note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


async def adopted() -> tuple[EngineTransport, Recorder, socket.socket]:
    """A transport of the engine, its protocol, and a blocking socket at the other end."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    recorder = Recorder()
    own = adopt(loop, transport, recorder)
    assert own is not None
    return own, recorder, theirs


def test_bytes_in_both_directions() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.write(b"abc")
        transport.writelines([b"d", bytearray(b"e"), memoryview(b"f")])
        assert peer.recv(100) == b"abcdef"
        peer.sendall(b"hello")
        await recorder.until(lambda: recorder.received == b"hello")
        transport.close()
        await recorder.until(lambda: "lost" in recorder.events)
        assert peer.recv(1) == b""
        peer.close()

    run(main)


def test_what_the_socket_does_not_take_is_kept_in_order_and_the_protocol_is_told() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.set_write_buffer_limits(high=1000)
        sent = os.urandom(3_000_000)
        for start in range(0, len(sent), 100_000):
            piece = sent[start : start + 100_000]
            transport.writelines([piece[:50_000], piece[50_000:]]) if start % 200_000 else transport.write(
                piece
            )
        assert recorder.events == ["pause"]
        assert transport.get_write_buffer_size() > 1000
        transport.write_eof()
        loop = asyncio.get_running_loop()
        got = await loop.run_in_executor(None, read_all, peer)
        assert got == sent
        assert recorder.events == ["pause", "resume"]
        transport.abort()
        await recorder.until(lambda: "lost" in recorder.events)
        peer.close()

    run(main)


def read_all(peer: socket.socket) -> bytes:
    parts = []
    while part := peer.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_close_sends_what_is_kept_and_abort_does_not() -> None:
    async def main() -> None:
        for end in ("close", "abort"):
            transport, recorder, peer = await adopted()
            transport.write(bytes(5_000_000))
            getattr(transport, end)()
            assert transport.is_closing()
            transport.write(b"too late")
            got = await asyncio.get_running_loop().run_in_executor(None, read_all, peer)
            assert (len(got) == 5_000_000) is (end == "close")
            await recorder.until(lambda recorder=recorder: "lost" in recorder.events)
            assert recorder.events.count("lost") == 1
            peer.close()

    run(main)


def test_pausing_and_resuming() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.pause_reading()
        assert not transport.is_reading()
        peer.sendall(b"x")
        await asyncio.sleep(0.05)
        assert recorder.received == b""
        transport.resume_reading()
        await recorder.until(lambda: recorder.received == b"x")
        transport.abort()
        await recorder.until(lambda: "lost" in recorder.events)
        peer.close()

    run(main)


def test_a_peer_that_is_gone_does_not_keep_a_paused_connection_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """epoll reports a hang-up again and again whatever it is asked; the loop would never sleep."""

    calls = 0
    read_ready = EngineTransport.read_ready

    def counted(transport: EngineTransport) -> None:
        nonlocal calls
        calls += 1
        read_ready(transport)

    monkeypatch.setattr(EngineTransport, "read_ready", counted)

    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.pause_reading()
        peer.close()
        await asyncio.sleep(0.2)
        assert calls == 1
        assert recorder.events == []
        transport.resume_reading()
        await recorder.until(lambda: "lost" in recorder.events)
        assert "eof" in recorder.events

    run(main)


def test_half_closed() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        recorder.keeps_open = True
        peer.shutdown(socket.SHUT_WR)
        await recorder.until(lambda: "eof" in recorder.events)
        transport.write(b"still here")
        transport.close()
        assert peer.recv(100) == b"still here"
        await recorder.until(lambda: "lost" in recorder.events)
        peer.close()

    run(main)


def test_writing_to_a_peer_that_is_gone_ends_the_connection_later_and_not_inside_the_call() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.pause_reading()
        peer.close()
        for _ in range(3):
            transport.write(b"x")
            transport.writelines([b"y", b"z"])
        assert recorder.events == []
        await recorder.until(lambda: bool(recorder.events))
        assert recorder.events == ["lost: BrokenPipeError"]

    run(main)


def test_closing_another_connection_from_a_callback() -> None:
    async def main() -> None:
        first, recorder, first_peer = await adopted()
        second, other, second_peer = await adopted()
        recorder.note = other.note = lambda event: second.abort() or first.abort()  # type: ignore[method-assign,func-returns-value]
        lost = asyncio.Event()
        recorder.connection_lost = other.connection_lost = lambda exc: lost.set()  # type: ignore[method-assign]
        first_peer.shutdown(socket.SHUT_WR)
        second_peer.shutdown(socket.SHUT_WR)
        await lost.wait()
        await asyncio.sleep(0)
        assert first.is_closing() and second.is_closing()
        first_peer.close()
        second_peer.close()

    run(main)


def test_what_is_known() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        assert transport.get_extra_info("socket").fileno() >= 0
        assert transport.get_extra_info("peername") == ""
        assert transport.get_extra_info("cipher", "none") == "none"
        assert transport.get_protocol() is recorder
        transport.set_write_buffer_limits(low=10)
        assert transport.get_write_buffer_limits() == (10, 40)
        with pytest.raises(ValueError, match="must be >="):
            transport.set_write_buffer_limits(high=1, low=2)
        assert transport.can_write_eof()
        assert "EngineTransport" in repr(transport)
        transport.abort()
        await recorder.until(lambda: "lost" in recorder.events)
        peer.close()

    run(main)


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_the_environment_decides(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCWS_ENGINE", wanted)

    async def main() -> None:
        async def echo(ws: zcws.WebSocket) -> None:
            async for message in ws:
                await ws.send(message)

        async with zcws.serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
                assert isinstance(ws._transport, EngineTransport) is (wanted == "1")
                assert ws.remote_address[1] == port
                await ws.send("x")
                assert await ws.recv() == "x"

    run(main)


def test_loops_and_their_descriptors_go_away() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.abort()
        await recorder.until(lambda: "lost" in recorder.events)
        peer.close()

    run(main)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(main)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- one crossing for many: everybody gets what is theirs, whatever the others keep ----

KEY = b"\x11\x22\x33\x44"
#: Bytes of a message: none, a few, more than is served together, more than a ring holds.
SIZES = st.sampled_from([0, 1, 1, 9, 9, 200, 200, 200, 2_000, 2_000, 20_000, 300_000])
#: How a connection reads; see `Player`.
HABITS = ("messages", "holds views", "batches", "is busy", "callbacks")


class Player:
    """One connection of the engine that echoes what it reads, and reads in its own way."""

    def __init__(self, habit: str) -> None:
        loop = asyncio.get_running_loop()
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.peer.setblocking(False)
        self.got: list[tuple[bytes, memoryview | None]] = []
        connection = Connection(is_client=False, pool=pool_of(loop))
        called = self.seen if habit == "callbacks" else None
        self.ws = WebSocket(loop, connection, Options(ping_interval=None), on_frame=called)
        self.ws.connection_made(place(loop, ours, self.ws))
        self.task = loop.create_task(self.read(habit))

    def seen(self, ws: WebSocket, frame: zcws.Frame) -> None:
        self.got.append((frame.to_bytes(), frame.payload if len(self.got) % 2 else None))
        ws.send_nowait(frame.payload)

    async def read(self, habit: str) -> None:
        if habit == "callbacks":
            return
        if habit == "holds views":
            while True:
                self.seen(self.ws, await self.ws.read_frame())
        if habit == "batches":
            async for batch in self.ws.batches():
                for frame in reversed(batch):  # views of a batch may be taken in any order
                    assert frame.payload == frame.to_bytes()
                for frame in batch:
                    self.seen(self.ws, frame)
        async for message in self.ws:
            assert isinstance(message, bytes)
            self.got.append((message, None))
            if habit == "is busy":
                await asyncio.sleep(0)
            await self.ws.send(message)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.peer, data)

    async def echoes(self, size: int) -> bytes:
        loop, data = asyncio.get_running_loop(), bytearray()
        while len(data) < size:
            data += await loop.sock_recv(self.peer, 1 << 20)
        return bytes(data)

    def end(self) -> None:
        self.task.cancel()
        self.ws.abort()
        self.peer.close()


async def warm_up(players: list[Player]) -> None:
    """Somebody who has been served alone once, and is idle, is served together with the others from then on."""
    for player in players:
        await player.send(wire.frame(wire.BINARY, b"first", key=KEY))
    for player in players:
        assert await player.echoes(7) == wire.frame(wire.BINARY, b"first")


def payloads_of(number: int, sizes: list[int]) -> list[bytes]:
    return [bytes([number * 16 + i % 16]) * size for i, size in enumerate(sizes)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(HABITS), st.lists(SIZES, max_size=12)), min_size=2, max_size=6),
    st.data(),
)
def test_everybody_gets_what_is_theirs(players: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    """Many connections, cut anywhere, in any order; and views that are held do not change."""
    texts = [payloads_of(number, sizes) for number, (_, sizes) in enumerate(players)]
    streams = [b"".join(wire.frame(wire.BINARY, text, key=KEY) for text in each) for each in texts]
    cuts = [
        [*sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10))), len(stream)]
        for stream in streams
    ]
    order = data.draw(st.permutations([n for n, each in enumerate(cuts) for _ in each]))

    async def main() -> None:
        everybody = [Player(habit) for habit, _ in players]
        await warm_up(everybody)
        answers = [b"".join(wire.frame(wire.BINARY, text) for text in each) for each in texts]
        echoes = [
            asyncio.ensure_future(player.echoes(len(answer)))
            for player, answer in zip(everybody, answers, strict=True)
        ]
        at = [0] * len(everybody)
        parts = [iter(each) for each in cuts]
        for turn, number in enumerate(order):
            stop = next(parts[number])
            await everybody[number].send(streams[number][at[number] : stop])
            at[number] = stop
            if turn % 3 == 2:  # so that up to three sockets are ready at once
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        assert await asyncio.gather(*echoes) == answers
        for player, each in zip(everybody, texts, strict=True):
            assert [copy for copy, _ in player.got] == [b"first", *each]
            assert all(view is None or view == copy for copy, view in player.got)
            player.end()
        await asyncio.sleep(0)

    run(main)


def test_a_turn_that_runs_out_of_room_starves_nobody() -> None:
    """More sockets at once, with more bytes and more frames, than one crossing has room for."""

    async def main() -> None:
        everybody = [Player("messages") for _ in range(40)]
        burst = [b"x" * 60_000, *([b"y"] * 900)]
        stream = b"".join(wire.frame(wire.BINARY, text, key=KEY) for text in burst)
        answer = b"".join(wire.frame(wire.BINARY, text) for text in burst)
        await warm_up(everybody)
        for player in everybody:
            await player.send(stream)
        for player in everybody:
            assert await player.echoes(len(answer)) == answer
            player.end()

    run(main)
