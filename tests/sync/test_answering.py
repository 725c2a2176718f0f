"""What a blocking connection owes to the peer: while others write, and where nobody reads."""

from __future__ import annotations

import contextlib
import errno
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
import raw
import wire
from joined import connected
from looks import at_look, knows_looks

import zcws
import zcws.sync

from .conftest import another_reads, anyhow, close_code, flood, roles


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


# ---- a program that only sends ----


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write looks at what has arrived, not one a second."""
    monkeypatch.setattr("zcws.sync.answering._NEXT_LOOK", 0.0)


def in_another_thread(act: Callable[[], object]) -> None:
    with raw.thread(act):
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
        monkeypatch.setattr("zcws.sync.answering.GRACE", 0.0)
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
            with raw.thread(lambda: flood(peer)):
                raw.until(lambda: ws.send("tick") or ws._reader.is_full)
                time.sleep(0.6)  # its Pong may stand behind what we have no room for: it is not missed
                ws.send("tick")
                assert not ws._reader.is_ending
                assert len(ws.recv()) == 1000
                ws.abort()

    def test_a_ping_that_has_no_room_for_its_pong_when_the_connection_is_aborted(self) -> None:
        """It waited for its `timeout`, and said TimeoutError."""
        with connected() as (ws, peer):

            def ping() -> None:
                with pytest.raises(zcws.ConnectionClosed):
                    ws.ping(timeout=raw.LONG)

            with raw.thread(lambda: flood(peer)):
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
        monkeypatch.setattr("zcws.sync.answering._NEXT_LOOK", 1000.0)
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
        monkeypatch.setattr("zcws.sync.answering.GRACE", 0.01)  # that thread never comes to the Close
        with connected() as (ws, peer), another_reads(ws):
            peer.send(wire.PING)
            for _ in range(2):
                ws.send("tick")
                assert peer.read().opcode == wire.TEXT
            peer.send(wire.CLOSE, b"\x03\xe9")
            peer.close()
            with pytest.raises(zcws.ConnectionClosedError):
                raw.until(lambda: ws.send("tick"))  # TCP takes the first
            assert ws.close_code == 1006  # so far
        assert ws._reader.bytes_received == 0

    def test_while_another_thread_reads(self) -> None:
        with connected() as (ws, peer):
            with raw.thread(ws.recv):
                raw.until(lambda: ws._is_read)
                ws.send("tick")
                peer.send(wire.TEXT, b"for the reader")

    @pytest.mark.parametrize("tcp", [False, True], ids=["pair", "tcp"])
    @pytest.mark.parametrize("go", [raw.Peer.close, raw.Peer.reset])
    @anyhow
    @roles
    def test_the_close_is_heard_when_the_socket_takes_nothing_any_more(
        self, secure: dict[str, Any], client: bool, go: Callable[[raw.Peer], None], tcp: bool
    ) -> None:
        """It was 1006 for whoever only sends, and for `recv` right after that what the peer had said."""
        with connected(client=client, tcp=tcp, **secure) as (ws, peer):
            peer.send(wire.TEXT, b"unread")
            peer.send(wire.CLOSE, b"\x03\xe9bye")
            go(peer)
            with pytest.raises(zcws.ConnectionClosedOK) as caught:
                raw.until(lambda: ws.send("tick"))  # TLS, or TCP, may take the first
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
        monkeypatch.setattr("zcws.sync.answering.GRACE", 2 * raw.LONG)
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
        monkeypatch.setattr("zcws.sync.answering.GRACE", 2 * raw.LONG)
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
