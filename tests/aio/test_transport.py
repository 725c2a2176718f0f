"""Sockets of the engine behave like the loop's own transports, and some things that only they can get wrong."""

from __future__ import annotations

import _socket
import asyncio
import errno
import gc
import os
import re
import socket
import struct
import sys
import warnings
import weakref
from typing import Any

import pytest
import wire
from adopted import Recorder, adopted, end_of
from net import echo, placed, port_of, run, soon, until
from pythons import needs_finalizers_in_order
from raw import read_to_end

import zcws
from zcws.aio.engine import Engine
from zcws.aio.transport import EngineTransport, adopt, place

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the engine needs epoll; others keep their transports"
)


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


def test_an_end_for_which_there_is_no_memory_comes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had begun, and was nobody's to begin again: the socket stayed open."""

    async def main() -> None:
        transport, recorder, peer = await adopted()

        def fails(engine: Engine, fd: int) -> None:
            patched.undo()
            raise MemoryError

        with monkeypatch.context() as patched:
            patched.setattr(Engine, "remove", fails)
            with pytest.raises(MemoryError):
                transport.abort()
        await recorder.until(lambda: "lost" in recorder.events)
        assert peer.recv(1) == b""
        peer.close()

    run(main)


def test_a_peer_that_ends_its_side_and_reads_on() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.write(bytes(5_000_000))
        peer.shutdown(socket.SHUT_WR)
        await recorder.until(lambda: "eof" in recorder.events)
        assert not transport.is_reading()
        assert len(await asyncio.get_running_loop().run_in_executor(None, read_to_end, peer)) == 5_000_000
        await recorder.until(lambda: "lost" in recorder.events)
        assert recorder.events.count("eof") == 1
        peer.close()

    run(main)


@pytest.mark.parametrize("served", ["by itself", "with others"])
def test_a_peer_that_resets(served: str) -> None:
    """Why is known: the end that stands behind it in the socket says nothing."""

    async def main() -> None:
        ours, peer = joined("127.0.0.1")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if served == "by itself":
            recorder = Recorder()
            place(asyncio.get_running_loop(), ours, recorder)
            peer.close()
            await recorder.until(lambda: bool(recorder.events))
            assert recorder.events == ["lost: ConnectionResetError"]
        else:
            ws = placed(ours)
            reading = asyncio.ensure_future(ws.recv())
            await asyncio.sleep(0)
            peer.close()
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await soon(reading)
            assert isinstance(caught.value.__cause__, ConnectionResetError)

    run(main)


@pytest.mark.parametrize(("how", "cause"), [("resets", ConnectionResetError), ("closes", BrokenPipeError)])
def test_a_peer_that_goes_while_nothing_is_read(how: str, cause: type[OSError]) -> None:
    async def main() -> None:
        ours, peer = joined("127.0.0.1") if how == "resets" else socket.socketpair()
        ws = placed(ours)
        ws._pause_reading()
        if how == "resets":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        await until(lambda: ws.state is not zcws.State.OPEN)
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            await ws.send("x")
        assert isinstance(caught.value.__cause__, cause)
        ws.abort()
        await asyncio.sleep(0)

    run(main)


def test_an_end_that_cannot_be_said() -> None:
    async def main() -> None:
        sock = socket.socket()
        sock.setblocking(False)
        recorder = Recorder()
        transport = place(asyncio.get_running_loop(), sock, recorder)
        transport.pause_reading()
        transport.write_eof()
        await recorder.until(lambda: bool(recorder.events))
        assert recorder.events == ["lost: OSError"]

    run(main)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="elsewhere memory is free when it is")
def test_what_has_ended_holds_nothing_and_nothing_holds_it() -> None:
    class Payload(bytearray):
        pass

    async def main() -> None:
        transport, recorder, peer = await adopted()
        payload = Payload(5_000_000)
        held = weakref.ref(payload)
        transport.write(payload)
        del payload
        assert held() is not None
        transport.abort()
        assert held() is None
        while "lost" not in recorder.events:
            await asyncio.sleep(0)
        assert repr(transport) == "<EngineTransport fd=-1 closing>"
        ended = weakref.ref(recorder)
        del transport, recorder
        await asyncio.sleep(0)
        gc.collect()
        assert ended() is None
        peer.close()

    run(main)


def test_the_end_in_the_middle_of_what_is_received_in_place() -> None:
    async def main() -> None:
        ours, peer = socket.socketpair()
        ws = placed(ours)
        reading = asyncio.ensure_future(ws.recv())
        head = wire.head(wire.BINARY, 3_000_000, key=wire.KEY)
        await asyncio.get_running_loop().run_in_executor(None, peer.sendall, head + bytes(2_000_000))
        await until(lambda: ws._reader.landing_in is not None)
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            await soon(reading)
        assert (caught.value.code, caught.value.__cause__) == (1006, None)
        ws.abort()
        peer.close()
        await asyncio.sleep(0)

    run(main)


def test_a_peer_that_goes_while_much_waits_for_it() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.pause_reading()
        transport.write(bytes(5_000_000))
        peer.close()
        await recorder.until(lambda: len(recorder.events) > 1)
        assert recorder.events == ["pause", "lost: BrokenPipeError"]
        assert transport.get_write_buffer_size() == 0

    run(main)


def test_where_something_has_not_been_sent_a_connection_stays_with_its_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        transport.write(bytes(5_000_000))
        assert adopt(loop, transport, Recorder()) is None
        transport.close()
        assert len(await loop.run_in_executor(None, read_to_end, theirs)) == 5_000_000
        theirs.close()

    run(main)


def test_close_sends_what_is_kept_and_abort_does_not() -> None:
    async def main() -> None:
        for end in ("close", "abort"):
            transport, recorder, peer = await adopted()
            transport.write(bytes(5_000_000))
            getattr(transport, end)()
            assert transport.is_closing() and not transport.is_reading()
            transport.write(b"too late")
            transport.writelines([b"too", b"late"])
            got = await asyncio.get_running_loop().run_in_executor(None, read_to_end, peer)
            assert (len(got) == 5_000_000) is (end == "close")
            await recorder.until(lambda recorder=recorder: "lost" in recorder.events)
            assert recorder.events.count("lost") == 1
            assert transport.get_write_buffer_size() == 0
            peer.close()

    run(main)


def test_nothing_is_read_while_what_is_kept_goes_out() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.write(bytes(5_000_000))
        transport.close()
        transport.resume_reading()
        peer.sendall(b"too late")
        for _ in range(5):
            await asyncio.sleep(0)
        assert (recorder.received, recorder.events) == (b"", ["pause"])
        transport.abort()
        transport.resume_reading()
        await recorder.until(lambda: "lost" in recorder.events)
        assert (recorder.received, recorder.events) == (b"", ["pause", "lost"])
        peer.close()

    run(main)


def test_it_ends_once() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        peer.close()
        transport.close()
        transport.abort()
        transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)
        transport.abort()
        await asyncio.sleep(0)
        assert recorder.events == ["lost"]

    run(main)


@needs_finalizers_in_order
@pytest.mark.parametrize("action", ["error", "always"])
def test_one_that_nobody_has_closed(action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As asyncio's own: a warning, and the socket is closed, also where a filter makes an error of the warning."""
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: told.append(str(it.exc_value)))
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: told.append(str(message)))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    class Late:
        """In a cycle with the transport, and behind it: what it sends went to whoever has the number by then."""

        def __init__(self, transport: EngineTransport, recorder: Recorder) -> None:
            self.transport = transport
            recorder.late = self  # type: ignore[attr-defined]

        def __del__(self) -> None:
            self.transport.write(b"late")
            ends.append((ours.fileno(), self.transport.fd, self.transport.is_closing()))

    ends: list[tuple[int, int, bool]] = []

    async def main() -> None:
        recorder = Recorder()
        Late(place(asyncio.get_running_loop(), ours, recorder), recorder)

    with warnings.catch_warnings():
        warnings.simplefilter(action, ResourceWarning)
        run(main)
        gc.collect()
    assert len(told) == 1 and re.fullmatch("unclosed .*Recorder.* on <EngineTransport.*", told[0])
    assert ends == [(-1, -1, True)]
    theirs.close()


def test_pausing_and_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, read_ready = 0, EngineTransport.read_ready

    def counted(transport: EngineTransport) -> None:
        nonlocal calls
        calls += 1
        read_ready(transport)

    monkeypatch.setattr(EngineTransport, "read_ready", counted)

    async def main() -> None:
        transport, recorder, peer = await adopted()
        assert transport.is_reading() is True
        transport.pause_reading()
        assert not transport.is_reading()
        peer.sendall(b"x")
        for _ in range(10):
            await asyncio.sleep(0)
        assert (recorder.received, calls) == (b"", 0)  # nor is it said in each turn
        transport.resume_reading()
        assert transport.is_reading()
        await recorder.until(lambda: recorder.received == b"x")
        await end_of(transport, recorder, peer)

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
        assert not transport.is_reading()
        for _ in range(5):
            await asyncio.sleep(0)
        assert recorder.events == ["eof"]  # said once: epoll would say it with each turn
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
        await end_of(transport, recorder, peer)

    run(main)


def test_its_socket_for_whoever_asks() -> None:
    """Those that the server accepts are made into a `socket.socket` then."""

    async def main() -> None:
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        recorder = Recorder()
        transport = place(asyncio.get_running_loop(), _socket.socket(fileno=ours.detach()), recorder)  # type: ignore[arg-type]
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, socket.socket) and sock is transport.get_extra_info("socket")
        assert not sock.getblocking()
        peer.sendall(b"in")
        await recorder.until(lambda: recorder.received == b"in")
        transport.write(b"out")
        assert peer.recv(10) == b"out"
        transport.abort()
        await recorder.until(lambda: "lost" in recorder.events)
        assert transport.get_extra_info("socket") is sock and sock.fileno() < 0
        peer.close()
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        other = place(asyncio.get_running_loop(), _socket.socket(fileno=ours.detach()), Recorder())  # type: ignore[arg-type]
        other.abort()
        await asyncio.sleep(0)
        assert other.get_extra_info("socket").fileno() < 0  # nobody has asked while it was open
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
        await end_of(transport, recorder, peer)

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
