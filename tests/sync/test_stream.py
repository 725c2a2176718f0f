from __future__ import annotations

import contextlib
import gc
import os
import queue
import socket
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import raw
import wire
from joined import connected
from pythons import needs_finalizers_in_order

import zcws
import zcws.sync
from zcws.connection import Connection
from zcws.extensions import DeflateParameters
from zcws.options import Timeouts
from zcws.sync.plain import open_channel
from zcws.sync.stream import WebSocket

from .conftest import anyhow, close_code, flood, known_peer, roles

# ---- the peer is gone, and not everything has been read ----


@anyhow
@roles
@pytest.mark.parametrize("how", ["eof", "reset"])
def test_closing_with_unread_messages_when_the_peer_has_gone(
    secure: dict[str, Any], client: bool, how: str
) -> None:
    """`close` used to ask the broken socket again and again, at full speed, until `close_timeout` was over."""
    with connected(client=client, close_timeout=None, **secure) as (ws, peer):
        peer.send_bytes(b"".join(peer.frame(wire.TEXT, b"%d" % i) for i in range(3)))
        assert ws.recv() == "0"
        peer.reset() if how == "reset" else peer.close()
        with raw.thread(ws.close):
            pass
        assert ws.close_code == 1006
        with pytest.raises(zcws.ConnectionClosedError):
            ws.recv(), ws.recv(), ws.recv()


# ---- ping ----


class TestPing:
    @anyhow
    @roles
    def test_seconds(self, secure: dict[str, Any], client: bool) -> None:
        with connected(client=client, **secure) as (ws, peer):

            def answer() -> None:
                ping = peer.read()
                assert ping.opcode == wire.PING and len(ping.payload) == 4
                peer.send(wire.PONG, ping.payload)

            with raw.thread(answer):
                seconds = ws.ping()
            assert 0 < seconds < raw.LONG
            assert ws.latency == seconds

    def test_a_payload_of_ones_own(self) -> None:
        with connected() as (ws, peer):
            for payload in ("é", b"\0\xff", bytearray(125)):
                sent = payload.encode() if isinstance(payload, str) else bytes(payload)

                def answer(expected: bytes = sent) -> None:
                    assert peer.read()[:2] == (wire.PING, expected)
                    peer.send(wire.PONG, expected)

                with raw.thread(answer):
                    ws.ping(payload)
            with pytest.raises(ValueError, match="125"):
                ws.ping(bytes(126))

    def test_messages_before_it_wait_for_recv(self) -> None:
        with connected() as (ws, peer):

            def answer() -> None:
                ping = peer.read()
                peer.send(wire.TEXT, b"first")
                peer.send(wire.BINARY, b"second")
                peer.send(wire.PONG, ping.payload)

            with raw.thread(answer):
                ws.ping()
            assert [ws.recv(), ws.recv()] == ["first", b"second"]

    def test_what_nobody_reads_of_it_is_forgotten(self) -> None:
        """After days of `ping`, without a read, the ring was full of Pongs, and `ping` had no room for one more."""
        count = 200
        with connected() as (ws, peer):

            def answer() -> None:
                for _ in range(count):
                    peer.send(wire.PONG, peer.read().payload)

            with raw.thread(answer):
                for _ in range(count):
                    ws.ping()
            assert ws._reader.rows_waiting <= 64

    def test_too_many_messages_before_it(self) -> None:
        with connected() as (ws, peer):
            with raw.thread(lambda: flood(peer)):
                with pytest.raises(TimeoutError, match="more messages than fit"):
                    ws.ping()
                for _ in range(1000):
                    assert ws.recv() == bytes(1000)

    @pytest.mark.parametrize("busy", [False, True])
    def test_no_pong(self, busy: bool) -> None:
        with connected() as (ws, peer):
            if busy:
                peer.send(wire.TEXT, b"hello")
            with pytest.raises(TimeoutError):
                ws.ping(timeout=0.02)
            if busy:
                assert ws.recv() == "hello"
            with pytest.raises(TimeoutError):
                ws.ping(b"again", timeout=0.01)  # the same payload may be used again
            with pytest.raises(TimeoutError):
                ws.ping(b"again", timeout=0.01)

    def test_while_another_thread_reads(self) -> None:
        with connected() as (ws, peer):
            got: list[Any] = []
            with raw.thread(lambda: got.append(ws.recv())):
                raw.until(lambda: ws._is_read)

                def answer() -> None:
                    peer.send(wire.PONG, peer.read().payload)

                with raw.thread(answer):
                    assert ws.ping(timeout=raw.LONG) > 0
                assert not got
                peer.send(wire.TEXT, b"for the reader")
            assert got == ["for the reader"]

    def test_a_reader_that_stops_leaves_it_to_us(self) -> None:
        """It returns with a message before the Pong is there."""
        with connected() as (ws, peer):
            got: list[Any] = []
            with raw.thread(lambda: got.append(ws.recv())):
                raw.until(lambda: ws._is_read)

                def answer() -> None:
                    ping = peer.read()
                    peer.send(wire.TEXT, b"for the reader")
                    raw.until(lambda: got)
                    peer.send(wire.PONG, ping.payload)

                with raw.thread(answer):
                    assert ws.ping(timeout=raw.LONG) > 0
            assert got == ["for the reader"]

    def test_a_reader_that_comes_meanwhile(self) -> None:
        """We wait for the Pong; a thread that wants to read gets its turn, and its message."""
        with connected() as (ws, peer):
            with raw.thread(lambda: ws.ping(timeout=raw.LONG)):
                ping = peer.read()
                raw.until(lambda: ws._in_turn)
                with pytest.raises(TimeoutError):
                    ws.recv(timeout=0.01)
                got: list[Any] = []
                with raw.thread(lambda: got.append(ws.recv())):
                    raw.until(lambda: ws._turns_wanted or ws._is_read)  # it may have its turn already
                    peer.send(wire.TEXT, b"for the reader")
                assert got == ["for the reader"]
                peer.send(wire.PONG, ping.payload)

    def test_behind_more_than_fits(self) -> None:
        """Nobody but a reader of the messages can get to the Pong: it is waited for as long as was asked."""
        with connected(max_size=10**9) as (ws, peer):
            flood = [peer.frame(wire.BINARY, bytes(50_000))] * 40

            def send_and_answer() -> None:
                peer.send_bytes(b"".join(flood))
                peer.send(wire.PONG, peer.read().payload)

            with raw.thread(send_and_answer):
                for timeout in (None, 0.3):
                    with pytest.raises(TimeoutError, match="messages"):
                        ws.ping(timeout=timeout)
                    peer.read()
                with raw.thread(lambda: [ws.recv() for _ in flood]):
                    assert ws.ping(timeout=raw.LONG) > 0

    def test_the_end_comes_instead(self) -> None:
        with connected() as (ws, peer):

            def vanish() -> None:
                peer.read()
                peer.close()

            with raw.thread(vanish), pytest.raises(zcws.ConnectionClosedError):
                ws.ping()

    def test_twice_the_same(self) -> None:
        with connected() as (ws, peer):
            with raw.thread(lambda: ws.ping(b"same")):
                ping = peer.read()
                with pytest.raises(ValueError, match="waiting"):
                    ws.ping(b"same")
                peer.send(wire.PONG, ping.payload)


# ---- closing ----


class TestClose:
    @anyhow
    @roles
    def test_both_ways(self, secure: dict[str, Any], client: bool) -> None:
        with connected(client=client, close_timeout=raw.LONG, **secure) as (ws, peer):

            def answer() -> None:
                close = peer.read()
                assert close[:2] == (wire.CLOSE, wire.close_payload(1000, b"done"))
                peer.send(wire.TEXT, b"late")
                peer.send(wire.CLOSE, close.payload)
                if not client:
                    assert peer.rest() == []  # RFC 6455 7.1.1: the server ends the TCP connection first
                peer.close()

            with raw.thread(answer):
                ws.close(1000, "done")
                ws.close(1000, "once is enough")
            assert (ws.close_code, ws.close_reason, ws.state) == (1000, "done", zcws.State.CLOSED)
            for act in (ws.recv, lambda: ws.send("x"), ws.ping, ws.pong):
                with pytest.raises(zcws.ConnectionClosedOK):
                    act()

    @anyhow
    @pytest.mark.parametrize("chatty", [False, True])
    def test_unanswered(self, secure: dict[str, Any], chatty: bool) -> None:
        with connected(close_timeout=0.05, **secure) as (ws, peer):

            def talk() -> None:
                with contextlib.suppress(OSError):
                    while chatty:
                        peer.send(wire.BINARY, bytes(1000))

            with raw.thread(talk):
                ws.close()
            assert ws.close_code == 1006
            assert ws._channel.sock.fileno() < 0

    def test_by_another_thread_while_one_reads_and_the_peer_is_silent(self) -> None:
        with connected(close_timeout=0.05) as (ws, _):

            def read() -> None:
                with pytest.raises(zcws.ConnectionClosedError) as caught:
                    ws.recv()
                assert caught.value.code == 1006

            with raw.thread(read):
                raw.until(lambda: ws._is_read)
                ws.close()

    def test_a_reader_that_stops_leaves_the_end_to_us(self) -> None:
        with connected(close_timeout=raw.LONG) as (ws, peer):
            with raw.thread(lambda: pytest.raises(TimeoutError, ws.recv, 0.1)):
                raw.until(lambda: ws._is_read)

                def answer() -> None:
                    assert peer.read().opcode == wire.CLOSE
                    raw.until(lambda: not ws._is_read)
                    peer.send(wire.CLOSE)
                    peer.rest()
                    peer.close()

                with raw.thread(answer):
                    ws.close()
            assert ws.state is zcws.State.CLOSED

    @anyhow
    def test_a_peer_that_does_not_read(self, secure: dict[str, Any]) -> None:
        """There is no room for the Close: it is bounded all the same."""
        with connected(close_timeout=0.05, write_timeout=0.05, **secure) as (ws, _):
            with pytest.raises(zcws.ConnectionClosedError, match="does not read"):
                while True:
                    ws.send(bytes(100_000))
            ws.close()

    @anyhow
    def test_while_another_thread_is_stuck_in_a_send(self, secure: dict[str, Any]) -> None:
        """The send fails because the socket is closed here: it is not told as a broken pipe of the network's."""
        with connected(close_timeout=0.05, **secure) as (ws, _):

            def send() -> None:
                with pytest.raises(zcws.ConnectionClosed) as caught:
                    while True:
                        ws.send(bytes(1_000_000))
                assert caught.value.__cause__ is None

            with raw.thread(send):
                raw.until(lambda: not ws._channel.is_writable)
                ws.close()
            with pytest.raises(zcws.ConnectionClosed) as caught:
                ws.send("late")
            assert caught.value.__cause__ is None

    @pytest.mark.parametrize("how", ["Close", "end", "mistake"])
    def test_closed_whatever_ended_it(self, how: str) -> None:
        with connected() as (ws, peer):
            assert not ws.closed
            if how == "end":
                peer.close()
            else:
                peer.send(wire.CLOSE, wire.close_payload(1000 if how == "Close" else 1005))
            with pytest.raises(zcws.ConnectionClosed):
                ws.recv()
            assert ws.closed

    def test_what_must_not_be_sent(self) -> None:
        with connected() as (ws, _):
            for code, reason in ((1005, ""), (999, ""), (1000, "é" * 62)):
                with pytest.raises(ValueError):
                    ws.close(code, reason)
            assert ws.state is zcws.State.OPEN

    @pytest.mark.parametrize(
        ("error", "code"), [(None, 1000), (LookupError, 1011), (KeyboardInterrupt, 1011)]
    )
    def test_with(self, error: type[BaseException] | None, code: int) -> None:
        with connected(close_timeout=0.01) as (ws, peer):
            with contextlib.suppress(LookupError, KeyboardInterrupt), ws:
                if error is not None:
                    raise error
            assert close_code(peer.read()) == code

    def test_while_iterating(self) -> None:
        with connected(close_timeout=raw.LONG) as (ws, peer):

            def talk() -> None:
                peer.send(wire.TEXT, b"enough")
                close = peer.read()
                peer.send(wire.TEXT, b"late")
                peer.send(wire.CLOSE, close.payload)
                peer.rest()
                peer.close()

            got = []
            with raw.thread(talk):
                for message in ws:
                    got.append(message)
                    ws.close()
            assert got == ["enough"]


# ---- ends ----


@anyhow
def test_a_peer_that_resets(secure: dict[str, Any]) -> None:
    with connected(**secure) as (ws, peer):
        peer.reset()
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            ws.recv()
        assert (caught.value.code, caught.value.clean) == (1006, False)
        with pytest.raises(zcws.ConnectionClosedError):
            ws.recv()


def test_a_send_that_fails_leaves_what_has_arrived_to_the_reader() -> None:
    """The peer says why it closes, and is gone: a send notices first."""
    with connected() as (ws, peer):
        peer.send(wire.TEXT, b"last words")
        peer.send(wire.CLOSE, wire.close_payload(1013, b"full"))
        peer.close()
        with pytest.raises(zcws.ConnectionClosed):
            while True:
                ws.send("are you there?")
        with pytest.raises(zcws.ConnectionClosed):
            ws.send("once more")
        assert ws.recv() == "last words"
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            ws.recv()
        assert (caught.value.code, caught.value.reason) == (1013, "full")


def test_write_timeout_is_told_to_the_reader_too() -> None:
    with connected(write_timeout=0.05) as (ws, _):
        caught: queue.Queue[zcws.ConnectionClosed] = queue.Queue()

        def read() -> None:
            with pytest.raises(zcws.ConnectionClosedError) as error:
                ws.recv()
            caught.put(error.value)

        with raw.thread(read), pytest.raises(zcws.ConnectionClosedError) as error:
            raw.until(lambda: ws._is_read)
            while True:
                ws.send(bytes(100_000))
        assert error.value.code == caught.get(timeout=raw.LONG).code == ws.close_code == 1011


def test_abort_while_others_wait() -> None:
    with connected() as (ws, _):

        def read() -> None:
            with pytest.raises(zcws.ConnectionClosedError):
                ws.recv()

        def ping() -> None:
            with pytest.raises(zcws.ConnectionClosedError):
                ws.ping()

        with raw.thread(read), raw.thread(ping):
            raw.until(lambda: ws._is_read and ws._helpers)
            time.sleep(0.01)
            ws.abort()


# ---- what is known ----


def test_what_is_known() -> None:
    with connected() as (ws, _):
        assert (ws.latency, ws.subprotocol, ws.state) == (0.0, None, zcws.State.OPEN)
        assert ws.close_code is ws.close_reason is None
        assert repr(ws) == f"<WebSocket server{known_peer(ws)}, blocking, open>"
        sock = ws.get_extra_info("socket")
        assert (ws.local_address, ws.remote_address) == (sock.getsockname(), sock.getpeername())


@anyhow
@roles
def test_stats(secure: dict[str, Any], client: bool) -> None:
    with connected(client=client, **secure) as (ws, peer):
        head = 6 if client else 2
        ws.send("hello")
        with ws.cork():
            ws.send([b"a", b"b"])
            ws.pong()
        assert [peer.read().opcode for _ in range(4)] == [
            wire.TEXT,
            wire.BINARY,
            wire.CONTINUATION,
            wire.PONG,
        ]
        for text in (b"one", b"two"):
            peer.send(wire.TEXT, text)
        assert ws.recv() == "one"
        stats = ws.stats
        assert (stats.messages_sent, stats.frames_sent, stats.bytes_sent) == (2, 4, 4 * head + 7)
        raw.until(lambda: ws.stats.frames_received == 2 or ws.recv(timeout=raw.LONG))
        assert (ws.stats.messages_received, ws.stats.bytes_received) == (2, 6 + 2 * (8 - head))
        assert (stats.bytes_waiting, stats.is_slow, stats.closed_by) == (0, False, None)
        peer.send(wire.CLOSE, wire.close_payload(4000))
        with pytest.raises(zcws.ConnectionClosedError):
            while True:
                ws.recv()
        assert (ws.stats.closed_by, ws.stats.close_code, ws.stats.is_slow) == ("peer", 4000, False)


def test_stats_of_halves() -> None:
    with connected() as (ws, peer):
        reader, writer, _ = ws.split()
        peer.send(wire.TEXT, b"hello")
        assert reader.recv() == "hello"
        writer.send("hello")
        assert (ws.stats.bytes_received, ws.stats.bytes_sent) == (11, 7)
        assert (ws.stats.messages_received, ws.stats.messages_sent) == (1, 1)


def test_no_thread_of_ours() -> None:
    before = {*threading.enumerate()}  # some of which may end meanwhile
    with connected(ping_interval=0.001, ping_timeout=raw.LONG) as (ws, peer):
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.01)
        assert peer.read().opcode == wire.PING
        assert {*threading.enumerate()} <= before


class TestIdleCompression:
    @roles
    def test_its_memory_is_given_back_while_somebody_reads(self, client: bool) -> None:
        ours, theirs = socket.socketpair()
        connection = Connection(
            is_client=client,
            entropy=os.urandom,
            agreement=zcws.Agreement(deflate=zcws.DeflateParameters()),
            deflate=zcws.Deflate(idle_timeout=0.02),
        )
        ws = WebSocket(open_channel(ours), connection, Timeouts(ping_interval=None))
        compressor = connection.compressor
        assert compressor is not None
        with theirs, contextlib.closing(ours):
            for _ in range(3):  # the peer's one decompressor goes on understanding us
                ws.send(b"a market feed, " * 40)
                assert compressor._stream is not None
                deadline = time.monotonic() + raw.LONG
                while compressor._stream is not None and time.monotonic() < deadline:
                    with pytest.raises(TimeoutError):
                        ws.recv(timeout=0.01)
                assert compressor._stream is None
            ws.abort()
            data = b"".join(iter(lambda: theirs.recv(65536), b""))
        frames = wire.parse(data)
        assert len(frames) == 3
        receiver = zlib.decompressobj(wbits=-15)
        for frame in frames:
            assert receiver.decompress(frame.payload + b"\x00\x00\xff\xff") == b"a market feed, " * 40


class Owner:
    """Has a connection, is part of a cycle, and takes leave when the collector comes."""

    ws: WebSocket

    def __init__(self, said: list[object]) -> None:
        self.said, self.me = said, self

    def __del__(self) -> None:
        try:
            self.ws.send("x")
            self.said += [self.ws.ping(timeout=raw.LONG) > 0, self.ws.recv()]
            self.ws.close()
            self.said.append(self.ws.close_code)
        except BaseException as error:
            self.said.append(error)


@contextlib.contextmanager
def collecting() -> Iterator[None]:
    """The body makes a cycle, in which finalizers are called in the order in which its objects were made."""
    gc.disable()  # an object that has survived a collection is behind younger ones: it depended on the tests before
    try:
        yield
        for _ in range(10):  # PyPy finds such a cycle when it has come several times
            gc.collect()
    finally:
        gc.enable()


def test_a_finalizer_takes_leave() -> None:
    """In a cycle, weak references are cleared before finalizers are called. Closing was an AssertionError."""
    said: list[object] = []
    with zcws.sync.serve(raw.echo, "127.0.0.1", 0) as server, raw.thread(server.serve_forever):
        with collecting():
            owner = Owner(said)
            owner.ws = zcws.sync.connect(f"ws://127.0.0.1:{server.sock.getsockname()[1]}/", proxy=None)
            del owner
        assert said == [True, "x", 1000]
        server.shutdown()


@needs_finalizers_in_order
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_finalizer_that_comes_behind_that_of_its_connection_finds_it_closed(action: str) -> None:
    """Its send went to the descriptor of a socket that had been closed: to whichever had been opened since."""
    said: list[object] = []
    failures: list[object] = []
    with zcws.sync.serve(raw.echo, "127.0.0.1", 0) as server, raw.thread(server.serve_forever):
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), collecting():
            patch.setattr(sys, "unraisablehook", lambda it: failures.append(it.exc_type))
            warnings.simplefilter(action, ResourceWarning)  # type: ignore[arg-type]
            ws = zcws.sync.connect(f"ws://127.0.0.1:{server.sock.getsockname()[1]}/", proxy=None)
            sock = ws.get_extra_info("socket")
            owner = Owner(said)
            owner.ws = ws
            del owner, ws
        assert [(type(it), getattr(it, "code", None)) for it in said] == [(zcws.ConnectionClosedError, 1006)]
        assert failures == ([ResourceWarning] if action == "error" else [])
        assert sock.fileno() < 0
        server.shutdown()


def test_the_handshake_is_there_on_both_sides() -> None:
    """`ws.request.username` in a handler was an error for type checkers: the attribute was said to be None, maybe."""
    hints = WebSocket.__annotations__
    assert (hints["request"], hints["response"]) == ("Request", "Response")

    def handler(ws: WebSocket) -> None:
        ws.send(f"{ws.request.path} {ws.response.status_code}")

    with zcws.sync.serve(handler, "127.0.0.1", 0) as server, raw.thread(server.serve_forever):
        with zcws.sync.connect(f"ws://127.0.0.1:{server.sock.getsockname()[1]}/a", proxy=None) as ws:
            assert ws.recv() == f"{ws.request.path} {ws.response.status_code}" == "/a 101"
        server.shutdown()


def test_a_close_that_finds_the_lock_taken_goes_out_behind_the_next_message() -> None:
    # Who sends in a loop has the lock nearly always: a server that only tries now and then would never get it.
    with connected() as (ws, peer):
        held, enough = threading.Event(), threading.Event()

        def hold() -> None:
            with ws._write_lock:
                held.set()
                enough.wait()

        with raw.thread(hold):
            assert held.wait(raw.LONG)
            assert not ws._try_close(1001, "", 0)
            enough.set()
        ws.send("the last one")
        assert peer.read().payload == b"the last one"
        assert close_code(peer.read()) == 1001
        with pytest.raises(zcws.ConnectionClosed):
            ws.send("too late")


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_who_says_nothing_gives_back_what_was_received_into(client: bool) -> None:
    """A thousand idle connections, each with a pool of its own, kept what their largest messages had needed."""
    agreed = DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True)
    with connected(client=client, deflate=agreed) as (ws, peer):

        def receive(*sizes: int) -> None:
            for size in sizes:
                with raw.thread(lambda size=size: peer.send(wire.BINARY, bytes(size))):  # type: ignore[misc]
                    assert len(ws.recv()) == size

        pool, idle = ws.connection.reader.pool, ws._keepalive
        receive(10, 300_000, 3_000_000, 10)
        ws.send("x" * 1000)
        assert pool._buffers and pool.compressors
        landings = []
        for _ in range(2):  # a minute passes
            idle.due = idle._tick = time.monotonic()
            with pytest.raises(TimeoutError):
                ws.recv(0.02)
            landings.append(pool.landing)
        assert not (pool._buffers or pool.compressors or pool._spare or pool._spare_wide)
        # A wait may begin with a short try: the sleep behind that has another ring, in which nothing has been written.
        assert landings[0] is not None and landings[0] is not landings[1]
        receive(10, 300_000)


def test_what_is_neither_a_frame_nor_a_buffer() -> None:
    with connected() as (ws, _):
        with pytest.raises(TypeError, match="write_frame sends a Frame, not str"):
            ws.write_frame("x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a read receives into a PayloadBuffer, not bytearray"):
            ws.read_frame(bytearray(9))  # type: ignore[arg-type]


@pytest.mark.parametrize("buffer", [None, zcws.PayloadBuffer()])
def test_an_origin_that_is_none(buffer: zcws.PayloadBuffer | None) -> None:
    """A misspelled one was read as CONSISTENT, without a word."""
    with connected() as (ws, peer):
        peer.send(wire.TEXT, b"first")
        for wrong in ("adaptive", None):
            with pytest.raises(
                TypeError, match=f"^the origin of read_frame is a PayloadOrigin, not {wrong!r}$"
            ):
                ws.read_frame(buffer, wrong)  # type: ignore[arg-type]
        assert ws.read_frame().text == "first"  # it has cost nothing
