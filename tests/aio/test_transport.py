"""Sockets of the engine behave like the loop's own transports, and some things that only they can get wrong."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import struct
import sys
from collections.abc import Callable

import pytest
from net import echo, port_of, run, soon, until
from peaks import peak_of
from raw import read_to_end

import zcws
from zcws.aio.transport import EngineTransport, adopt, place

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the engine needs epoll; others keep their transports"
)


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


def test_many_that_wait_cost_nothing_until_it_is_their_turn() -> None:
    """With each that the socket took, all that were left were copied: 336,000 that waited took 4.6 s of CPU."""

    async def main() -> None:
        transport, _, peer = await adopted()
        frames = [number.to_bytes(4, "big") for number in range(100_000)]
        for frame in frames:
            transport.write(frame)
        got = peer.recv(1 << 20)
        # Bytes; a list of what is left would take eight for each.
        assert peak_of(transport.write_ready) < len(transport.backlog) > len(frames) // 2
        loop = asyncio.get_running_loop()
        transport.write_eof()
        assert got + await loop.run_in_executor(None, read_to_end, peer) == b"".join(frames)
        peer.close()
        transport.abort()
        await asyncio.sleep(0)

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
        got = await loop.run_in_executor(None, read_to_end, peer)
        assert got == sent
        assert recorder.events == ["pause", "resume"]
        transport.abort()
        await recorder.until(lambda: "lost" in recorder.events)
        peer.close()

    run(main)


def test_close_sends_what_is_kept_and_abort_does_not() -> None:
    async def main() -> None:
        for end in ("close", "abort"):
            transport, recorder, peer = await adopted()
            transport.write(bytes(5_000_000))
            getattr(transport, end)()
            assert transport.is_closing()
            transport.write(b"too late")
            got = await asyncio.get_running_loop().run_in_executor(None, read_to_end, peer)
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


def joined(host: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with listening:
        theirs = socket.create_connection(listening.getsockname()[:2])
        ours, _ = listening.accept()
    ours.setblocking(False)
    return ours, theirs


def has_no_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("how", ["reset", "both sides have closed"])
def test_addresses_when_getpeername_knows_none(host: str, how: str) -> None:
    async def main() -> None:
        ours, theirs = joined(host)
        names = [ours.getsockname(), ours.getpeername()]
        recorder = Recorder()
        transport = place(asyncio.get_running_loop(), ours, recorder)
        transport.pause_reading()
        if how == "reset":
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            transport.write_eof()
            assert theirs.recv(1) == b""
        theirs.close()
        await until(lambda: has_no_peer(ours))
        assert [transport.get_extra_info(name) for name in ("sockname", "peername")] == names
        transport.abort()
        await recorder.until(lambda: bool(recorder.events))
        assert ours.fileno() < 0
        assert [transport.get_extra_info(name) for name in ("sockname", "peername")] == names

    run(main)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_a_socket_that_had_no_peer(family: int) -> None:
    async def main() -> None:
        recorder = Recorder()
        sock = socket.socket(family)
        sock.setblocking(False)
        transport = place(asyncio.get_running_loop(), sock, recorder)
        assert transport.get_extra_info("peername", "nobody") == "nobody"
        transport.abort()
        await recorder.until(lambda: bool(recorder.events))
        assert transport.get_extra_info("peername", "nobody") == "nobody"

    run(main)


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_the_environment_decides(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCWS_ENGINE", wanted)

    async def main() -> None:
        async with zcws.serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
                assert isinstance(ws._transport, EngineTransport) is (wanted == "1")
                assert ws.remote_address[1] == port
                await ws.send("x")
                assert await ws.recv() == "x"

    run(main)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="elsewhere finalizers come when they come")
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


def test_where_no_descriptor_is_left_a_connection_stays_with_its_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dup(fd: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def hook(handshake: object, asked: zcws.Request) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        async with zcws.serve(echo, "127.0.0.1", 0, process_request=hook) as server:
            monkeypatch.setattr(os, "dup", dup)
            async with zcws.connect(f"ws://127.0.0.1:{port_of(server)}/") as ws:
                (other,) = server.connections
                assert ws._own is other._own is None
                await ws.send("hello")
                assert await soon(ws.recv()) == "hello"
        assert not server.connections

    run(main)
