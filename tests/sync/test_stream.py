from __future__ import annotations

import contextlib
import errno
import itertools
import os
import queue
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import raw
import wire
from joined import connected
from looks import at_look, knows_looks

import zcws
import zcws.sync
from zcws.connection import Connection
from zcws.extensions import DeflateParameters
from zcws.options import Timeouts
from zcws.sync.channel import open_channel
from zcws.sync.stream import WebSocket

from .conftest import anyhow, roles

kinds = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


def close_code(frame: wire.Seen) -> int:
    assert frame.opcode == wire.CLOSE, frame
    return int.from_bytes(frame.payload[:2], "big")


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


# ---- one thread reads a message in pieces, another one reads for a Pong ----


def test_pieces_while_another_thread_pings(serving: Any) -> None:
    """Where a stream began or ended, the reader was touched beside a `ping` that received: bytes were scanned twice."""
    count = 2000

    def write(ws: WebSocket) -> None:
        for number in range(count):
            ws.send(b"%d " % number * 100)
            if number % 4 == 0:
                ws.ping()

    def read(ws: WebSocket) -> None:
        for number in range(count):
            with ws.stream() as pieces:
                assert b"".join(pieces) == b"%d " % number * 100

    with serving(raw.echo) as server:
        uri = f"ws://127.0.0.1:{server.sock.getsockname()[1]}/"
        with zcws.sync.connect(uri) as ws, raw.thread(lambda: write(ws)):
            read(ws)


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

            def flood() -> None:
                with contextlib.suppress(OSError):
                    for _ in range(1000):
                        peer.send(wire.BINARY, bytes(1000))

            with raw.thread(flood):
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


# ---- what the protocol owes to the peer ----


def test_every_ping_of_a_batch_is_answered() -> None:
    with connected() as (ws, peer):
        count = 300
        peer.send_bytes(
            b"".join(peer.frame(wire.PING, b"%d" % i) for i in range(count)) + peer.frame(wire.TEXT, b"x")
        )
        assert ws.recv() == "x"
        assert [peer.read().payload for _ in range(count)] == [b"%d" % i for i in range(count)]


def test_pings_of_a_peer_that_does_not_read_cost_one_pong() -> None:
    """The reader does not wait, and memory does not grow: the bridge has one slot."""
    with connected() as (ws, peer):
        with raw.thread(lambda: ws.send(bytes(2_000_000))):
            raw.until(lambda: not ws._channel.is_writable)
            for number in range(5000):
                peer.send_bytes(peer.frame(wire.PING, b"%d" % number) + peer.frame(wire.TEXT, b"t"))
                assert ws.recv() == "t"
            assert ws.connection.writer.size < 10_000
            assert peer.read().payload == bytes(2_000_000)
        # The thread that held the lock has sent what was left to it.
        assert peer.read()[:2] == (wire.PONG, b"4999")


def test_a_reader_does_not_wait_for_a_writer_that_waits_for_the_peer() -> None:
    """The peer reads only when it has been read from: the reader must not wait for the lock in order to say Pong."""
    with connected() as (ws, peer):
        with raw.thread(lambda: ws.send(bytes(3_000_000))):
            raw.until(lambda: not ws._channel.is_writable)
            peer.send(wire.PING, b"p")

            def push() -> None:
                for _ in range(30):
                    peer.send(wire.BINARY, bytes(100_000))

            with raw.thread(push):
                for _ in range(30):
                    assert ws.recv(timeout=raw.LONG) == bytes(100_000)
            assert peer.read().payload == bytes(3_000_000)
        assert peer.read()[:2] == (wire.PONG, b"p")


def test_a_pong_that_found_no_room_goes_out_while_the_reader_waits() -> None:
    with connected() as (ws, peer):
        ws._channel.limit_sends(0.05)
        filled = 0
        with contextlib.suppress(TimeoutError):
            while True:  # by hand, so that no writer is left to see to it
                ws._channel.send([bytes(1000)])
                filled += 1000
        peer.send(wire.PING, b"p")
        with raw.thread(lambda: pytest.raises(zcws.ConnectionClosed, ws.recv)):
            raw.until(lambda: ws.connection.hold_replies)
            peer.exactly(filled)
            rest = b""
            while not rest.endswith(wire.frame(wire.PONG, b"p")):
                rest += peer.sock.recv(10_000)  # what went out of the last send, and then it
            peer.close()


# ---- closing ----


# ---- a program that only sends ----


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write looks at what has arrived, not one a second."""
    monkeypatch.setattr("zcws.sync.stream._NEXT_LOOK", 0.0)


def in_another_thread(act: Callable[[], object]) -> None:
    with raw.thread(act):
        pass


@contextlib.contextmanager
def another_reads(ws: WebSocket) -> Iterator[None]:
    """Another thread has its turn."""
    begun, over = threading.Event(), threading.Event()

    def read() -> None:
        with ws._turn():
            begun.set()
            over.wait(raw.LONG)

    with raw.thread(read):
        assert begun.wait(raw.LONG)
        try:
            yield
        finally:
            over.set()


# ---- what has arrived is had at once, whoever has the turn ----


@anyhow
@pytest.mark.parametrize("timeout", [0, 0.01, None])
def test_what_a_ping_has_met_is_had_before_its_pong(secure: dict[str, Any], timeout: float | None) -> None:
    """A `recv` waited until the Pong had come, or said that there was nothing."""
    with connected(close_timeout=None, **secure) as (ws, peer):
        with raw.thread(lambda: ws.ping(b"p", timeout=raw.LONG)):
            assert peer.read().opcode == wire.PING
            raw.until(lambda: ws._in_turn)
            for text in (b"first", b"second"):
                peer.send(wire.TEXT, text)
                raw.until(lambda: ws._reader.rows_waiting)
                with raw.thread(lambda text=text: ws.recv(timeout) == text.decode() or pytest.fail()):  # type: ignore[misc]
                    pass
            peer.send(wire.TEXT, b"third")
            raw.until(lambda: ws._reader.rows_waiting)
            peer.send(wire.PONG, b"p")
        assert ws.recv() == "third"


def test_who_reads_has_not_seen_it_in_time() -> None:
    """Another thread has the turn, and does not come to the Pong, or to the peer's Close."""
    with connected(close_timeout=0.02) as (ws, _), another_reads(ws):
        with pytest.raises(TimeoutError, match="another thread reads"):
            ws.ping(timeout=0.02)
        ws.close()
        assert ws._channel.is_over and not ws._helpers


class TestWithoutAWait:
    """Another thread has the turn for a moment."""

    @pytest.mark.parametrize("where", ["socket", "memory", "rows"])
    @pytest.mark.parametrize("timeout", [-1, 0, 0.001])
    def test_what_has_come(self, where: str, timeout: float) -> None:
        """It was a TimeoutError."""
        got: list[object] = []
        with connected() as (ws, peer), contextlib.ExitStack() as turn:
            peer.send(wire.TEXT, b"here")
            turn.enter_context(another_reads(ws))

            def take() -> None:
                ws._reader.received(ws._channel.record.received)
                ws._channel.record.received = 0

            if where != "socket":
                ws._channel.receive(ws._reader.get_buffer(), 0)
                turn.callback(take) if where == "memory" else take()
            with raw.thread(lambda: got.append(ws.recv(timeout))) as receiving:
                raw.until(lambda: ws._turns_wanted or not receiving.is_alive())
                turn.close()
        assert got == ["here"]

    @pytest.mark.parametrize("timeout", [None, raw.LONG])
    def test_who_has_time_waits(self, monkeypatch: pytest.MonkeyPatch, timeout: float | None) -> None:
        """For as long as he has, also where there is something."""
        monkeypatch.setattr("zcws.sync.stream.GRACE", 0.001)
        got: list[object] = []
        with connected() as (ws, peer), contextlib.ExitStack() as turn:
            peer.send(wire.TEXT, b"here")
            turn.enter_context(another_reads(ws))
            with raw.thread(lambda: got.append(ws.recv(timeout))) as receiving:
                receiving.join(0.05)
                turn.close()
        assert got == ["here"]

    def test_what_is_left_of_the_time(self) -> None:
        with connected(close_timeout=None) as (ws, _), contextlib.ExitStack() as turn:
            turn.enter_context(another_reads(ws))
            with raw.thread(lambda: pytest.raises(TimeoutError, ws.recv, 0.1)) as receiving:
                raw.until(lambda: ws._turns_wanted or not receiving.is_alive())
                turn.close()

    @pytest.mark.parametrize("is_closing", [False, True])
    def test_nothing(self, monkeypatch: pytest.MonkeyPatch, is_closing: bool) -> None:
        """Who closes has the turn to the end."""
        monkeypatch.setattr("zcws.sync.stream.GRACE", 2 * raw.LONG)
        with connected() as (ws, peer):
            if is_closing:
                ws.begin_close()
                peer.send(wire.TEXT, b"too late")
            with another_reads(ws), raw.thread(lambda: pytest.raises(TimeoutError, ws.recv, 0)):
                pass


@pytest.mark.usefixtures("eager")
class TestOnlySending:
    """Whoever only sent never heard a Ping, and was hung up on; nor a Close, and sent until the socket broke."""

    @anyhow
    @roles
    def test_pings_are_answered(self, secure: dict[str, Any], client: bool) -> None:
        with connected(client=client, **secure) as (ws, peer):
            for number in range(3):
                peer.send(wire.PING, b"%d" % number)
                ws.send("tick")
                assert {peer.read()[:2], peer.read()[:2]} == {
                    (wire.TEXT, b"tick"),
                    (wire.PONG, b"%d" % number),
                }

    def test_messages_wait_for_recv(self) -> None:
        with connected() as (ws, peer):
            peer.send(wire.TEXT, b"first")
            ws.send("tick")
            peer.send(wire.PING)
            peer.send(wire.BINARY, b"second")
            ws.send("tick")
            assert [frame.opcode for frame in peer.frames(3)] == [wire.TEXT, wire.TEXT, wire.PONG]
            assert [ws.recv(), ws.recv()] == ["first", b"second"]

    def test_a_frame_that_is_looked_at_stays(self) -> None:
        with connected() as (ws, peer):
            peer.send(wire.TEXT, b"first")
            frame = ws.read_frame()
            for _ in range(100):
                peer.send(wire.BINARY, bytes(1000))
                ws.write_frame(frame)
            assert frame.text == "first"
            assert [ws.recv() for _ in range(100)] == [bytes(1000)] * 100

    @anyhow
    @roles
    def test_the_close_is_heard(self, secure: dict[str, Any], client: bool) -> None:
        with connected(client=client, **secure) as (ws, peer):
            peer.send(wire.CLOSE, b"\x03\xe9bye")
            ws.send("tick")
            assert [peer.read().opcode, close_code(peer.read())] == [wire.TEXT, 1001]
            with pytest.raises(zcws.ConnectionClosedOK) as caught:
                ws.send("tick")
            assert (caught.value.code, caught.value.reason) == (1001, "bye")

    @pytest.mark.parametrize("how", ["close", "eof"])
    def test_the_end_behind_messages_that_nobody_reads(
        self, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        monkeypatch.setattr("zcws.sync.stream.GRACE", 0.0)
        with connected() as (ws, peer):
            ws.send("open")
            peer.send(wire.TEXT, b"unread")
            peer.send(wire.CLOSE, b"\x03\xe8") if how == "close" else peer.half_close()
            ws.send("seen")  # and this is not the end of it: somebody may be about to read
            ws.send("given up")
            with pytest.raises(zcws.ConnectionClosed):
                ws.send("tick")
            assert [frame.payload for frame in peer.frames(3)] == [b"open", b"seen", b"given up"]
            if how == "close":
                assert close_code(peer.read()) == 1000
            assert ws.recv() == "unread"
            with pytest.raises(zcws.ConnectionClosed):
                ws.recv()

    def test_whoever_reads_at_all_has_time_for_each_message(self) -> None:
        """As long as messages are read, the Close behind them waits."""
        with connected(close_timeout=0.05) as (ws, peer):
            for number in range(4):
                peer.send(wire.TEXT, b"%d" % number)
            peer.send(wire.CLOSE, b"\x03\xe8")
            for number in range(4):
                assert ws.recv() == str(number)
                ws.send("answer")
                time.sleep(0.03)
            with pytest.raises(zcws.ConnectionClosedOK):
                ws.recv()
            assert [frame.payload for frame in peer.rest()][:4] == [b"answer"] * 4

    def test_the_close_behind_what_is_being_read(self) -> None:
        """It waits for `close_timeout`, however often something is sent meanwhile."""
        with connected(close_timeout=raw.LONG) as (ws, peer):
            for text in (b"read", b"next"):
                peer.send(wire.TEXT, text)
            peer.send(wire.CLOSE, b"\x03\xe8")
            peer.half_close()
            assert ws.recv() == "read"
            for _ in range(5):
                ws.send("answer")
            assert ws.recv() == "next"
            ws.send("the last one")
            assert [frame.payload for frame in peer.frames(6)] == [b"answer"] * 5 + [b"the last one"]

    def test_whoever_reads_no_more(self) -> None:
        with connected(close_timeout=0.0) as (ws, peer):
            peer.send(wire.TEXT, b"read")
            assert ws.recv() == "read"
            peer.send(wire.TEXT, b"unread")
            peer.send(wire.CLOSE, b"\x03\xe8")
            with pytest.raises(zcws.ConnectionClosedOK):
                for _ in range(3):
                    ws.send("tick")

    def test_keepalive(self) -> None:
        with connected(ping_interval=0.01, ping_timeout=0.05) as (ws, peer):
            raw.until(lambda: ws._keepalive.is_due)
            ws.send("tick")
            frames = peer.frames(2)
            assert [frame.opcode for frame in frames] == [wire.TEXT, wire.PING]
            peer.send(wire.PONG, frames[1].payload)
            time.sleep(0.06)  # longer than the peer had for its answer, which is there
            ws.send("tick")
            assert ws.latency > 0
            with pytest.raises(zcws.ConnectionClosedError, match="keepalive"), raw.thread(peer.rest):
                while True:
                    ws.send("tick")
                    time.sleep(0.01)

    def test_no_more_than_fits(self) -> None:
        """A peer that sends and is not read fills a ring, not the memory; and our sends go on."""
        with connected(ping_interval=0.3, ping_timeout=0.2) as (ws, peer):

            def flood() -> None:
                with contextlib.suppress(OSError):
                    for _ in range(1000):
                        peer.send(wire.BINARY, bytes(1000))

            with raw.thread(flood):
                raw.until(lambda: ws.send("tick") or ws._reader.is_full)
                time.sleep(0.6)  # its Pong may stand behind what we have no room for: it is not missed
                ws.send("tick")
                assert not ws._reader.is_ending
                assert len(ws.recv()) == 1000
                ws.abort()

    def test_a_ping_that_has_no_room_for_its_pong_when_the_connection_is_aborted(self) -> None:
        """It waited for its `timeout`, and said TimeoutError."""
        with connected() as (ws, peer):

            def flood() -> None:
                with contextlib.suppress(OSError):
                    for _ in range(1000):
                        peer.send(wire.BINARY, bytes(1000))

            def ping() -> None:
                with pytest.raises(zcws.ConnectionClosed):
                    ws.ping(timeout=raw.LONG)

            with raw.thread(flood):
                raw.until(lambda: ws.send("tick") or ws._reader.is_full)
                with raw.thread(ping):
                    raw.until(lambda: len(ws._helpers))
                    ws.abort()

    def test_what_nobody_reads_of_it_is_forgotten(self) -> None:
        """After a week of Pings the ring was full of them."""
        with connected() as (ws, peer):
            for _ in range(300):
                peer.send(wire.PING)
                ws.send("tick")
                peer.frames(2)
            assert ws._reader.rows_waiting <= 64

    def test_no_more_often_than_it_should(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("zcws.sync.stream._NEXT_LOOK", 1000.0)
        with connected() as (ws, peer):
            for _ in range(2):
                ws._next_look = 0.0
                peer.send(wire.PING)
                ws.send("looks")
                assert [frame.opcode for frame in peer.frames(2)] == [wire.TEXT, wire.PONG]
                peer.send(wire.PING)
                ws.send("does not")
                ws.send("does not")
                assert [frame.payload for frame in peer.frames(2)] == [b"does not"] * 2
                ws._next_look = 0.0
                ws.send("looks")
                assert [frame.opcode for frame in peer.frames(2)] == [wire.TEXT, wire.PONG]

    def test_what_another_thread_reads_is_not_touched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("zcws.sync.stream.GRACE", 0.01)  # that thread never comes to the Close
        with connected() as (ws, peer), another_reads(ws):
            peer.send(wire.PING)
            for _ in range(2):
                ws.send("tick")
                assert peer.read().opcode == wire.TEXT
            peer.send(wire.CLOSE, b"\x03\xe9")
            peer.close()
            with pytest.raises(zcws.ConnectionClosedError):
                ws.send("tick")
            assert ws.close_code == 1006  # so far
        assert ws._reader.bytes_received == 0

    def test_while_another_thread_reads(self) -> None:
        with connected() as (ws, peer):
            with raw.thread(ws.recv):
                raw.until(lambda: ws._is_read)
                ws.send("tick")
                peer.send(wire.TEXT, b"for the reader")

    @anyhow
    @roles
    def test_the_close_is_heard_when_the_socket_takes_nothing_any_more(
        self, secure: dict[str, Any], client: bool
    ) -> None:
        """It was 1006 for whoever only sends, and for `recv` right after that what the peer had said."""
        with connected(client=client, **secure) as (ws, peer):
            peer.send(wire.TEXT, b"unread")
            peer.send(wire.CLOSE, b"\x03\xe9bye")
            peer.close()
            with pytest.raises(zcws.ConnectionClosedOK) as caught:
                for _ in range(3):  # TLS may take the first
                    ws.send("tick")
            assert (
                (caught.value.code, caught.value.reason) == (ws.close_code, ws.close_reason) == (1001, "bye")
            )
            assert ws.recv() == "unread"
            with pytest.raises(zcws.ConnectionClosedOK):
                ws.recv()

    def test_a_close_that_another_thread_has_read_while_the_socket_broke(self) -> None:
        """The end was no clean one: the answer to the peer's Close was left to the send that failed."""
        with connected() as (ws, peer), contextlib.ExitStack() as reading:

            def send(_: object) -> None:
                del ws._channel.send
                peer.send(wire.CLOSE, b"\x03\xe9")
                reading.enter_context(raw.thread(lambda: pytest.raises(zcws.ConnectionClosedOK, ws.recv)))
                raw.until(lambda: ws._reader.is_concluded)
                raise BrokenPipeError(errno.EPIPE, "gone")

            ws._channel.send = send  # type: ignore[method-assign]
            with pytest.raises(zcws.ConnectionClosedOK):
                ws.send("tick")

    @anyhow
    def test_a_send_that_fails_on_a_connection_that_has_not_ended(self, secure: dict[str, Any]) -> None:
        """There is nothing to hear, and nobody is waited for."""
        with connected(**secure) as (ws, peer):

            def send(_: object) -> None:
                raise OSError(errno.ENOBUFS, "full")

            ws._channel.send = send  # type: ignore[method-assign]
            peer.send(wire.TEXT, b"still here")
            with pytest.raises(zcws.ConnectionClosedError, match="1006"):
                ws.send("tick")
            assert ws.recv() == "still here"

    def test_a_close_that_another_thread_is_about_to_read_while_the_socket_broke(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who sent said 1006, where the thread that reads was told 1001 a moment later."""
        monkeypatch.setattr("zcws.sync.stream.GRACE", 2 * raw.LONG)
        with connected(close_timeout=None) as (ws, peer):

            def send(_: object) -> None:
                raise BrokenPipeError(errno.EPIPE, "gone")

            def close() -> None:
                raw.until(lambda: ws._helpers or ws.connection.is_over)
                peer.send(wire.CLOSE, b"\x03\xe9")
                peer.close()

            with raw.thread(lambda: pytest.raises(zcws.ConnectionClosedOK, ws.recv)):
                raw.until(lambda: ws._is_read)
                ws._channel.send = send  # type: ignore[method-assign]
                with raw.thread(close):
                    with raw.thread(lambda: pytest.raises(zcws.ConnectionClosedOK, ws.send, "tick")):
                        pass  # it is woken, and does not come out when its time is over

    def test_nobody_waits_for_a_reader_that_aborts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It waits for the lock that the send has which it has woken."""
        monkeypatch.setattr("zcws.sync.stream.GRACE", 2 * raw.LONG)
        with connected() as (ws, _):

            def send() -> None:
                with pytest.raises(zcws.ConnectionClosed):
                    while True:
                        ws.send(bytes(1_000_000))

            def abort() -> None:
                with ws._turn():
                    ws.abort()

            with raw.thread(send):
                raw.until(lambda: not ws._channel.is_writable)
                with raw.thread(abort):
                    pass

    @knows_looks
    def test_the_end_is_heard_in_the_middle_of_another_threads_close(self) -> None:
        """It raised ValueError: a Close "cannot happen to a connection that is 'lost'"."""
        for number in itertools.count(1):
            with connected() as (ws, peer):
                peer.half_close()
                with contextlib.suppress(zcws.ConnectionClosed):
                    with at_look(number, lambda: in_another_thread(ws._look)) as fired:
                        ws.begin_close()
            if not fired:
                break

    def test_after_a_split_it_does_not(self) -> None:
        with connected() as (ws, peer):
            reader, writer, _ = ws.split()
            peer.send(wire.TEXT, b"for the reader")
            writer.send("tick")
            assert reader.recv() == "for the reader"


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
        with connected(close_timeout=0.05, **secure) as (ws, _):

            def send() -> None:
                with pytest.raises(zcws.ConnectionClosed):
                    while True:
                        ws.send(bytes(1_000_000))

            with raw.thread(send):
                raw.until(lambda: not ws._channel.is_writable)
                ws.close()

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
        assert repr(ws) == "<WebSocket server, blocking, open>"
        assert ws.local_address == ws.remote_address == ""


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
    before = threading.active_count()
    with connected(ping_interval=0.001, ping_timeout=raw.LONG) as (ws, peer):
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.01)
        assert peer.read().opcode == wire.PING
        assert threading.active_count() == before


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
