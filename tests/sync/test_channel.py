from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import raw
import wire
from channels import Pair, receive
from pythons import needs_cpython
from receiver import connect

from zcws.scratch import SCRATCH_CAPACITY, Scratch
from zcws.sync import channel as module
from zcws.sync import plain
from zcws.sync.channel import ENDED, NOTHING, TORN, Channel, Stuck, is_ready
from zcws.sync.plain import open_channel

#: Bytes of the largest payload that is masked on its way to the socket.
LARGEST = SCRATCH_CAPACITY - 14


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what the peer has confirmed")
@pytest.mark.parametrize("kind", ["plain", "polled"])
def test_who_speaks_lives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a peer says something, a send waits for it to read."""
    monkeypatch.setattr(plain, "_KERNEL_TIMES", kind == "plain")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        channel = open_channel(socket.create_connection(listener.getsockname()))
        peer = listener.accept()[0]
    channel.expect_life(0.05, 0.05)
    asked: list[int] = []

    def ask(life: int) -> tuple[int, float]:
        found = Channel._wait_on(channel, life)
        asked.append(life)
        if sum(life >= 0 for life in asked) < 3:
            peer.sendall(b"I am here")
        elif not readers:
            readers.append(threading.Thread(target=raw.Peer(peer, masks=False).exactly, args=(20_000_000,)))
            readers[-1].start()
        return found

    readers: list[threading.Thread] = []
    monkeypatch.setattr(channel, "_wait_on", ask)
    channel.send([bytes(20_000_000)])
    assert readers
    for reader in readers:
        reader.join()
    channel.abort()
    peer.close()


class OfMacOS(socket.socket):
    """A socket as macOS has it once the peer has reset it: it takes no option any more."""

    def setsockopt(self, *_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("kind", ["plain", "polled"])
def test_a_socket_that_takes_no_option_is_read_to_its_end(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was an error of `connect`, and of a server's handshake; what the peer had said before was lost."""
    if kind == "polled":
        monkeypatch.setattr(plain, "_KERNEL_TIMES", False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = OfMacOS()
        ours.connect(listener.getsockname())
        peer = listener.accept()[0]
    peer.sendall(b"last")
    peer.close()
    channel = open_channel(ours)
    assert receive(channel) == b"last"
    assert receive(channel) == ENDED
    channel.abort()


class TestReceive:
    def test_what_is_there(self, pair: Pair) -> None:
        channel, peer = pair
        peer.sendall(b"hello")
        assert receive(channel) == b"hello"

    @pytest.mark.parametrize("timeout", [0, -1, 0.01])
    def test_nothing_in_time(self, pair: Pair, timeout: float) -> None:
        channel, peer = pair
        assert receive(channel, timeout) == NOTHING
        peer.sendall(b"later")
        assert receive(channel) == b"later"

    @pytest.mark.parametrize("timeout", [None, 30.0])
    def test_it_waits(self, pair: Pair, timeout: float | None) -> None:
        channel, peer = pair
        assert receive(channel, 0.001) == NOTHING  # a short timeout is not remembered
        timer = threading.Timer(0.05, peer.sendall, [b"at last"])
        timer.start()
        assert receive(channel, timeout) == b"at last"
        timer.join()

    def test_at_once_if_it_is_there(self, pair: Pair) -> None:
        channel, peer = pair
        got: list[bytes | int] = [NOTHING]
        peer.sendall(b"x")
        # What is there first, over TLS, is the server's tickets, and nothing for us: RFC 8446 4.6.1.
        while got[-1] == NOTHING:
            raw.until(lambda: is_ready(channel, to_write=False, timeout=0))
            got.append(receive(channel, 0))
        assert got[-1] == b"x"

    def test_the_end_of_the_stream(self, pair: Pair) -> None:
        channel, peer = pair
        peer.sendall(b"last")
        peer.close()
        assert receive(channel) == b"last"
        assert receive(channel) == ENDED
        assert receive(channel, 0) == ENDED

    def test_scanned_for_a_reader(self, pair: Pair) -> None:
        channel, peer = pair
        reader = connect().reader
        peer.sendall(wire.frame(wire.TEXT, b"hello"))
        found = channel.scan(reader, raw.LONG)
        assert (found, reader.message_found(found), reader.is_idle) == (1, "hello", True)
        assert (channel.record.received, channel.record.total) == (7, 7)
        assert channel.scan(reader, None) == channel.receive(memoryview(bytearray(9)), None) == TORN
        channel.record.received = 0  # taken
        peer.sendall(wire.frame(wire.TEXT, b"half")[:4])
        found = channel.scan(reader, None)
        assert reader.message_found(found) is None and not reader.take_found(channel.record.received, found)
        assert (channel.record.received, channel.record.total, reader.is_idle) == (4, 11, False)

    @pytest.mark.parametrize("timeout", [0, -1, 0.01])
    def test_nothing_to_scan_in_time(self, pair: Pair, timeout: float) -> None:
        channel, peer = pair
        reader = connect().reader
        assert channel.scan(reader, timeout) == NOTHING
        peer.sendall(wire.frame(wire.BINARY, b"later"))
        raw.until(lambda: is_ready(channel, to_write=False, timeout=0))
        assert reader.message_found(channel.scan(reader, timeout)) == b"later"
        channel.record.received = 0
        assert receive(channel, 0) == channel.scan(reader, 0) == NOTHING

    def test_nothing_more_to_scan(self, pair: Pair) -> None:
        channel, peer = pair
        reader = connect().reader
        peer.close()
        assert [channel.scan(reader, timeout) for timeout in (None, 0, 0.01)] == [ENDED] * 3
        assert channel.record.total == 0
        channel.abort()
        # Whoever opens the next socket has the number that ours had.
        others = socket.socketpair()
        others[1].sendall(wire.frame(wire.TEXT, b"not for us"))
        others[0].sendall(wire.frame(wire.TEXT, b"nor this"))
        assert [channel.scan(reader, timeout) for timeout in (None, 0, 0.01)] == [ENDED] * 3
        for other in others:
            other.close()

    def test_a_try_is_no_wait(self, pair: Pair) -> None:
        channel, _ = pair
        reader = connect().reader
        for timeout in (0, 0.01, 0):
            assert [channel.scan(reader, timeout) for _ in range(3)] == [NOTHING] * 3

    def test_whether_there_is_something(self, pair: Pair) -> None:
        channel, peer = pair
        receive(channel, 0)  # TLS has something to say behind its handshake
        assert not channel.is_readable and not channel.await_bytes(0.01)
        with raw.thread(lambda: peer.sendall(b"x")):
            assert channel.await_bytes(raw.LONG)
        assert channel.is_readable

    def test_a_wait_may_be_longer_than_one_look(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        channel, peer = pair
        monkeypatch.setattr(module, "_ASK_AGAIN", 0.001)
        later = threading.Timer(0.05, peer.sendall, (b"x",))
        later.start()
        assert channel.await_bytes(raw.LONG)
        later.join()

    @pytest.mark.parametrize("kind", ["plain", "polled"])
    @pytest.mark.parametrize("use", ["scan", "receive"])
    @pytest.mark.parametrize("how", ["end", "reset", "closed here"])
    def test_what_the_system_says(
        self, kind: str, use: str, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That the peer has ended it, or we have, is no error of the network."""
        if kind == "plain" and not plain._KERNEL_TIMES:
            pytest.skip("the kernel keeps no time here: that of 64-bit POSIX does")
        monkeypatch.setattr(plain, "_KERNEL_TIMES", kind == "plain")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            channel = open_channel(socket.create_connection(listener.getsockname()))
            peer = raw.Peer(listener.accept()[0], masks=False)
        if how == "closed here":
            # The first that another thread does that aborts it; others see no such thing.
            channel.record.fd = -1
        peer.reset() if how == "reset" else peer.close()
        given = connect().reader if use == "scan" else memoryview(bytearray(9))
        assert getattr(channel, use)(given, raw.LONG) == ENDED
        assert getattr(channel.cause, "errno", None) == (errno.ECONNRESET if how == "reset" else None)
        channel.abort()

    def test_a_socket_that_is_closed_while_it_is_looked_at(self, pair: Pair) -> None:
        channel, _ = pair
        fd = channel.sock.fileno()
        channel.sock.close()  # by another thread, when we have the number already
        asked = iter([fd, fd, -1])
        before = SimpleNamespace(fileno=lambda: next(asked))
        assert is_ready(SimpleNamespace(sock=before, is_over=False), to_write=True, timeout=0)

    def test_a_socket_that_is_over_is_ready(self, pair: Pair) -> None:
        channel, peer = pair
        over = SimpleNamespace(sock=channel.sock, is_over=True)
        peer.close()
        assert is_ready(over, to_write=False, timeout=raw.LONG)  # type: ignore[arg-type]

    @pytest.mark.skipif(not hasattr(module.select, "poll"), reason="there is no poll here")
    def test_in_whole_milliseconds_that_an_int_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int | None] = []

        def ask(milliseconds: int | None) -> list[object]:
            asked.append(milliseconds)
            # Without an end: nothing, as PyPy says when a signal has come; then something.
            return [None] if asked[-2:] == [None, None] else []

        poll = SimpleNamespace(register=lambda *_: None, poll=ask)
        monkeypatch.setattr(module.select, "poll", lambda: poll)
        channel = SimpleNamespace(sock=SimpleNamespace(fileno=lambda: 5))
        for timeout in (0, 0.0001, 2.5, 1e9, None):
            assert is_ready(channel, to_write=False, timeout=timeout) is (timeout is None)  # type: ignore[arg-type]
        assert asked == [0, 1, 2500, 0x7FFFFFFF, None, None]

    def test_a_socket_that_was_closed_by_whoever_brought_it(self, pair: Pair) -> None:
        channel, _ = pair
        reader = connect().reader
        assert channel.scan(reader, 0) == NOTHING
        channel.sock.close()
        others = socket.socketpair()
        for other in others:
            other.sendall(wire.frame(wire.TEXT, b"not for us"))
        assert [channel.scan(reader, timeout) for timeout in (None, 0, 0.01)] == [ENDED] * 3
        for other in others:
            other.close()

    def test_a_descriptor_beyond_what_select_takes(self) -> None:
        resource = pytest.importorskip("resource")
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 2000:
            pytest.skip("the limit of descriptors is too low here")
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
        try:
            with contextlib.ExitStack() as stack:
                for _ in range(600):
                    for sock in socket.socketpair():
                        stack.enter_context(sock)
                ours, theirs = socket.socketpair()
                stack.enter_context(theirs)
                channel = open_channel(ours)
                assert ours.fileno() > 1024
                assert receive(channel, 0) == NOTHING
                assert channel.is_writable
                channel.abort()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


class TestSend:
    def test_few_segments(self, pair: Pair) -> None:
        channel, peer = pair
        for count in range(4):
            channel.send([b"%d" % i for i in range(count)])
        assert raw.Peer(peer, masks=False).exactly(6) == b"001012"

    def test_how_long_it_waits(self, pair: Pair) -> None:
        channel, _ = pair
        assert channel._patience() is None
        channel.expect_life(1, 2)
        assert (channel._patience(), channel._wait_on(-1)[1]) == (1, 2)
        channel.limit_sends(3)
        assert channel._patience() == 3

    def test_who_was_inside_as_it_was_aborted_closes_it(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        channel, _ = pair

        def send(*_: Any) -> int:
            channel.abort()  # by another thread
            assert channel.sock.fileno() >= 0
            return 9

        monkeypatch.setattr(plain, "_send_masked", send)
        monkeypatch.setattr(type(channel), "_send_some", lambda *_: send(), raising=False)
        channel.send_masked(Scratch(), 0x82, b"x", 1)
        assert channel.sock.fileno() < 0

    def test_segments_in_order(self, pair: Pair) -> None:
        channel, peer = pair
        segments = [b"%d," % i for i in range(2000)]  # more than one sendmsg takes
        with raw.thread(lambda: channel.send(segments)):
            expected = b"".join(segments)
            assert raw.Peer(peer, masks=False).exactly(len(expected)) == expected

    @pytest.mark.parametrize("count", [1, 3])
    def test_more_than_the_socket_holds(self, pair: Pair, count: int) -> None:
        channel, peer = pair
        segments: list[bytes | memoryview] = [bytes([i]) * 3_000_000 for i in range(count - 1)]
        segments.append(memoryview(bytearray(b"z" * 3_000_000)))
        with raw.thread(lambda: channel.send(segments)):
            assert raw.Peer(peer, masks=False).exactly(3_000_000 * count) == b"".join(segments)

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 5000, LARGEST, LARGEST + 1, 100_000])
    def test_masked(self, pair: Pair, size: int) -> None:
        channel, peer = pair
        scratch, payload = Scratch(), bytes(i % 251 for i in range(size))
        expected = wire.frame(wire.TEXT, payload, key=wire.KEY)
        key = int.from_bytes(wire.KEY, sys.byteorder)
        seen: list[bytes] = []
        with raw.thread(lambda: seen.append(raw.Peer(peer, masks=True).exactly(3 * len(expected)))):
            for _ in range(3):
                assert channel.send_masked(scratch, 0x81, payload, key) == len(expected)
        assert seen == [expected * 3]

    @pytest.mark.parametrize(("size", "count"), [(LARGEST, 200), (500_000, 30), (8_000_000, 2)])
    def test_more_masked_than_the_socket_holds(self, pair: Pair, size: int, count: int) -> None:
        """Nothing is lost and nothing is sent twice where the socket is full in the middle of a frame."""
        channel, peer = pair
        scratch = Scratch()
        payloads = [bytes([i]) * (size - i) for i in range(count)]
        with raw.thread(
            lambda: [channel.send_masked(scratch, 0x82, payload, i) for i, payload in enumerate(payloads)]
        ):
            raw.until(lambda: not channel.is_writable)
            reader = raw.Peer(peer, masks=False)
            for payload in payloads:
                assert reader.read() == wire.Seen(wire.BINARY, payload, masked=True)

    def test_masked_for_a_peer_that_does_not_read(self, pair: Pair) -> None:
        channel, peer = pair
        channel.limit_sends(0.05)
        with pytest.raises(Stuck):
            for _ in range(1000):
                channel.send_masked(Scratch(), 0x82, bytes(LARGEST), 1)
        assert peer.recv(1)

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_peer_that_does_not_read(self, pair: Pair, count: int) -> None:
        channel, peer = pair
        channel.limit_sends(0.05)
        with pytest.raises(Stuck):
            channel.send([bytes(10_000_000)] * count)
        assert not channel.is_writable
        assert peer.recv(1)

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_peer_that_shows_no_life(self, pair: Pair, count: int) -> None:
        channel, peer = pair
        channel.expect_life(0.05, 0.05)
        with pytest.raises(Stuck, match="ping_timeout"):
            channel.send([bytes(10_000_000)] * count)
        assert peer.recv(1)
        channel.limit_sends(0.05)
        with pytest.raises(Stuck, match="write_timeout"):
            channel.send([bytes(10_000_000)])

    def test_a_short_receive_timeout_does_not_cut_a_send(self, pair: Pair) -> None:
        channel, peer = pair
        assert receive(channel, 0.001) == NOTHING
        timer = threading.Timer(0.1, lambda: raw.Peer(peer, masks=False).exactly(5_000_000))
        timer.start()
        channel.send([bytes(5_000_000)])
        timer.join()

    def test_a_peer_that_has_gone(self, pair: Pair) -> None:
        channel, peer = pair
        peer.close()
        with pytest.raises(OSError):
            for _ in range(10):
                channel.send([bytes(1_000_000)])
        with pytest.raises(OSError):
            channel.send_masked(Scratch(), 0x82, b"too late", 1)

    def test_while_another_thread_receives(self, pair: Pair) -> None:
        channel, peer = pair
        got: list[bytes] = []
        with raw.thread(lambda: got.append(receive(channel))):
            channel.send([b"ping"])
            assert peer.recv(100) == b"ping"
            peer.sendall(b"pong")
        assert got == [b"pong"]


class TestEnd:
    def test_the_peer_sees_it_and_may_still_send(self, pair: Pair) -> None:
        channel, peer = pair
        channel.send([b"bye"])
        channel.end()
        assert peer.recv(100) == b"bye"
        assert peer.recv(100) == b""
        peer.sendall(b"still here")
        assert receive(channel) == b"still here"

    @pytest.mark.parametrize("how", ["receive", "send"])
    def test_abort_wakes_who_waits(self, pair: Pair, how: str) -> None:
        channel, _ = pair
        started = threading.Event()

        def wait() -> None:
            started.set()
            if how == "receive":
                assert receive(channel, None) == ENDED
            else:
                with pytest.raises(OSError):
                    channel.send([bytes(50_000_000)])

        with raw.thread(wait):
            started.wait()
            threading.Event().wait(0.02)
            channel.abort()
        assert channel.sock.fileno() < 0  # who comes out last has closed it

    def test_everything_after_it_fails_and_nothing_breaks(self, pair: Pair) -> None:
        channel, _ = pair
        for _ in range(2):
            channel.abort()
        assert receive(channel, None) == receive(channel, 0) == ENDED
        for act in (
            lambda: channel.send([b"x"]),
            lambda: channel.send_masked(Scratch(), 0x82, b"x", 1),
        ):
            with pytest.raises(OSError):
                act()
        channel.limit_sends(1)
        channel.end()
        assert channel.is_writable

    def test_addresses_stay_known(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = socket.create_connection(listener.getsockname())
            channel = open_channel(sock)
            with listener.accept()[0]:
                names = [sock.getpeername(), sock.getsockname()]
                assert [channel.address(peer=peer) for peer in (True, False)] == names
                channel.abort()
                assert [channel.address(peer=peer) for peer in (True, False)] == names

    def test_abort_later_by_two_threads_at_once(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both started one and the same timer: one raised, and it never went off."""
        channel, _ = pair
        real, timers = threading.Timer, list[threading.Timer]()

        def make(timeout: float, *act: Any) -> threading.Timer:
            timer = real(timeout, *act)
            timers.append(timer)
            if timers == [timer]:
                channel.abort_later(1000)  # the other thread has come as far
            return timer

        monkeypatch.setattr(threading, "Timer", make)
        channel.abort_later(1000)
        assert [timer.ident is None for timer in timers] == [True, False]

    def test_abort_later(self, pair: Pair) -> None:
        channel, peer = pair
        channel.abort_later(0.01)
        channel.abort_later(0.01)  # once is enough
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
            assert peer.recv(1) == b""
        raw.until(lambda: channel.sock.fileno() < 0)

    def test_and_then(self, pair: Pair) -> None:
        channel, _ = pair
        then = threading.Event()
        channel.abort_later(0.01, then.set)
        assert then.wait(raw.LONG)

    def test_an_abort_long_before_later(self, pair: Pair) -> None:
        channel, _ = pair
        with raw.no_thread_left():
            channel.abort()
            channel.abort_later(1000)

    def test_abort_before_later(self, pair: Pair) -> None:
        channel, _ = pair
        with raw.no_thread_left():
            channel.abort_later(1000)
            channel.abort()
        again: Callable[[float], None] = channel.abort_later
        with raw.no_thread_left():
            again(1000)


@needs_cpython("PyPy's _testcapi is not whole")
@pytest.mark.parametrize("kind", ["plain", "polled"])
@pytest.mark.parametrize("what", ["receive", "send", "end", "abort"])
def test_whoever_finds_no_memory_takes_no_mark_but_his_own(
    what: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was none for the mark that he is inside, and leaving took one: that of another thread, whose socket could
    be closed under it then; or there was none, which was an IndexError, and the socket stayed open."""
    memory = pytest.importorskip("_testcapi")
    monkeypatch.setattr(plain, "_KERNEL_TIMES", kind == "plain")
    buffer = memoryview(bytearray(10))
    for nth in range(1, 30):
        ours, peer = socket.socketpair()
        channel = open_channel(ours)
        work: dict[str, Callable[[], object]] = {
            "receive": lambda channel=channel: channel.receive(buffer, 0),  # type: ignore[misc]
            "send": lambda channel=channel: channel.send([b"x"]),  # type: ignore[misc]
            "end": channel.end,
            "abort": channel.abort,
        }
        do = work[what]
        with contextlib.suppress(
            MemoryError, SystemError
        ):  # the latter: CPython 3.11 has no memory for a frame
            memory.set_nomemory(nth, nth + 1)
            try:
                do()
            finally:
                memory.remove_mem_hooks()
        assert not channel._inside
        channel.abort()
        assert ours.fileno() < 0
        peer.close()
