from __future__ import annotations

import contextlib
import gc
import queue
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import raw
import wire
from joined import connected
from net import SHORT, Certificates

import zcws
import zcws.sync
from zcws.bridge import Bridge
from zcws.sync.bell import Bell
from zcws.sync.channel import NOTHING
from zcws.sync.halves import BridgeHalf, Taken, WriterHalf

from .conftest import anyhow, known_peer, roles


@anyhow
@roles
def test_a_reader_thread_and_a_writer_thread(secure: dict[str, Any], client: bool) -> None:
    count = 300
    with connected(client=client, close_timeout=raw.LONG, **secure) as (ws, peer):
        reader, writer, bridge = ws.split()
        got: list[Any] = []

        def write() -> None:
            for i in range(count):
                writer.send(b"%d" % i * 100)
                writer.drain_bridge()
            while (reply := bridge.listen()) is not None:
                writer.send_reply(reply)

        with raw.thread(write), raw.thread(lambda: got.extend(reader)):
            for i in range(count):
                peer.send(wire.TEXT, b"%d" % i)
                if i % 10 == 0:
                    peer.send(wire.PING, b"%d" % i)
            frames: list[wire.Seen] = []
            while sum(frame.opcode == wire.BINARY for frame in frames) < count:
                frames.append(peer.read())
            peer.send(wire.CLOSE, wire.close_payload(1000))
            while frames[-1].opcode != wire.CLOSE:
                frames.append(peer.read())
            if not client:
                assert peer.rest() == []
            peer.close()
        assert got == [str(i) for i in range(count)]
        assert [f.payload for f in frames if f.opcode == wire.BINARY] == [
            b"%d" % i * 100 for i in range(count)
        ]
        pongs = [int(frame.payload) for frame in frames if frame.opcode == wire.PONG]
        assert pongs == sorted(pongs) and set(pongs) <= set(range(0, count, 10))
        assert ws._channel.sock.fileno() < 0  # the half that came last has closed the socket


class TestBridge:
    def test_only_the_latest_ping_is_answered(self) -> None:
        with connected() as (ws, peer):
            reader, writer, bridge = ws.split()
            assert writer.drain_bridge() is False
            peer.send_bytes(
                b"".join(peer.frame(wire.PING, b"%d" % i) for i in range(5)) + peer.frame(wire.TEXT, b"x")
            )
            assert reader.recv() == "x"
            reply = bridge.listen()
            assert reply is not None and (reply.opcode, reply.payload) == (zcws.OpCode.PONG, b"4")
            assert writer.send_reply(reply) is False
            assert peer.read()[:2] == (wire.PONG, b"4")
            with pytest.raises(TimeoutError):
                bridge.listen(timeout=0.01)

    def test_a_close_replaces_a_pong_and_nothing_replaces_a_close(self) -> None:
        with connected(close_timeout=raw.LONG) as (ws, peer):
            reader, writer, bridge = ws.split()

            def rest() -> None:
                assert peer.rest() == [wire.Seen(wire.CLOSE, wire.close_payload(1001))]
                peer.close()

            peer.send_bytes(peer.frame(wire.PING, b"p") + peer.frame(wire.CLOSE, wire.close_payload(1001)))
            peer.half_close()
            with pytest.raises(zcws.ConnectionClosedOK):
                reader.recv()
            reply = bridge.listen()
            assert reply is not None and reply.is_last and reply.payload == wire.close_payload(1001)
            with raw.thread(rest):
                assert writer.send_reply(reply) is True
            assert bridge.listen() is None
            assert writer.drain_bridge() is True

    def test_somebody_who_listens_is_woken(self) -> None:
        with connected() as (ws, peer):
            reader, writer, bridge = ws.split()
            heard: queue.Queue[Any] = queue.Queue()

            def listen() -> None:
                while True:
                    reply = bridge.listen()
                    heard.put(reply)
                    if reply is None:
                        return

            with raw.thread(listen):
                for number in range(20):
                    peer.send(wire.PING, b"%d" % number)
                    assert reader.read_frame().opcode is zcws.OpCode.PING
                    assert heard.get(timeout=raw.LONG).payload == b"%d" % number
                peer.close()
                with pytest.raises(zcws.ConnectionClosedError):
                    reader.recv()
                assert heard.get(timeout=raw.LONG) is None
            writer.close()

    def test_the_last_reply_comes_while_somebody_looks(self) -> None:
        """Between a look at the slot and one at the end: it was lost, and the peer got the writer's own Close."""
        last = zcws.Reply(zcws.OpCode.CLOSE, wire.close_payload(1007))

        class EndsMeanwhile(Bridge):
            def take(self) -> zcws.Reply | None:
                reply = super().take()
                if not self.ended:
                    self.end(last)
                return reply

        nobodys: Any = SimpleNamespace()
        half = BridgeHalf(EndsMeanwhile(), Taken(zcws.Connection(is_client=False), nobodys))
        assert half.listen(timeout=raw.LONG) is last
        assert half.listen(timeout=raw.LONG) is None


def find_mistake(ws: zcws.sync.WebSocket, how: str, error: type[Exception]) -> None:
    """Reads up to the peer's mistake, whole or split, and has our Close say what it was; `how`: who ends the stream."""
    if how == "whole":
        with pytest.raises(error):
            ws.recv()
        return
    reader, writer, bridge = ws.split()
    if how == "reader last":
        writer.close(1001)
    with pytest.raises(error):
        reader.recv()
    if how == "writer last":
        reply = bridge.listen()
        assert reply is not None and writer.send_reply(reply)
    if how == "taken over":
        ws.close()


class TestEnds:
    @anyhow
    @roles
    def test_the_reader_fails(self, secure: dict[str, Any], client: bool) -> None:
        """The bridge carries the Close, then ends."""
        with connected(client=client, close_timeout=raw.LONG, **secure) as (ws, peer):
            reader, writer, bridge = ws.split()
            peer.send(3)
            with pytest.raises(zcws.ProtocolError):
                reader.recv()

            def hang_up() -> None:
                (close,) = peer.frames(1)
                assert (close.opcode, close.payload[:2]) == (wire.CLOSE, (1002).to_bytes(2, "big"))
                if not client:
                    assert peer.rest() == []
                peer.close()

            with raw.thread(hang_up):
                reply = bridge.listen()
                assert reply is not None and writer.send_reply(reply) is True
            assert bridge.listen() is None
            assert ws._channel.sock.fileno() < 0
            with pytest.raises(zcws.ConnectionClosed):
                writer.send("more")

    @anyhow
    def test_nobody_listens(self, secure: dict[str, Any]) -> None:
        """`close_timeout` seconds after the reader's end the socket is closed."""
        with connected(close_timeout=0.05, **secure) as (ws, peer):
            reader, _, _ = ws.split()
            peer.send(3)
            with pytest.raises(zcws.ProtocolError):
                reader.recv()
            assert peer.rest() == []
            raw.until(lambda: ws._channel.sock.fileno() < 0)

    @anyhow
    def test_a_writer_that_is_stuck_when_the_reader_ends(self, secure: dict[str, Any]) -> None:
        with connected(close_timeout=0.05, **secure) as (ws, peer):
            reader, writer, _ = ws.split()

            def write() -> None:
                with pytest.raises(zcws.ConnectionClosedError):
                    while True:
                        writer.send(bytes(1_000_000))

            with raw.thread(write):
                raw.until(lambda: not ws._channel.is_writable)
                peer.send(wire.CLOSE, wire.close_payload(1000))
                with pytest.raises(zcws.ConnectionClosedOK):
                    reader.recv()

    @anyhow
    @roles
    def test_the_writer_closes(self, secure: dict[str, Any], client: bool) -> None:
        with connected(client=client, close_timeout=raw.LONG, **secure) as (ws, peer):
            reader, writer, bridge = ws.split()
            caught: queue.Queue[zcws.ConnectionClosed] = queue.Queue()

            def read() -> None:
                with pytest.raises(zcws.ConnectionClosedOK) as error:
                    while True:
                        assert reader.recv() != "late"
                caught.put(error.value)

            with raw.thread(read):
                writer.close(1000, "done")
                assert peer.read()[:2] == (wire.CLOSE, wire.close_payload(1000, b"done"))
                peer.send(wire.TEXT, b"late")
                peer.send(wire.CLOSE, wire.close_payload(1000, b"so long"))
                peer.close()
            error = caught.get()
            assert (error.code, error.reason, error.clean) == (1000, "so long", True)
            reply = bridge.listen()
            assert reply is None or writer.send_reply(reply)
            with pytest.raises(ValueError):
                writer.close(1005)
            writer.close()

    @anyhow
    @pytest.mark.parametrize("how", ["whole", "reader last", "writer last", "taken over"])
    def test_a_peer_in_the_middle_of_a_long_message_is_told_what_was_wrong(
        self, secure: dict[str, Any], how: str
    ) -> None:
        """Over TLS the socket was closed on what it was still sending: it saw a reset, and no Close."""
        with connected(client=False, close_timeout=2 * raw.LONG, max_size=1000, **secure) as (ws, peer):

            def talk() -> None:
                peer.send(wire.BINARY, bytes(4 << 20))
                assert peer.read().opcode == wire.CLOSE
                peer.close()

            with raw.thread(talk):
                find_mistake(ws, how, zcws.LimitExceeded)

    @anyhow
    @pytest.mark.parametrize("how", ["whole", "reader last", "writer last", "taken over"])
    @pytest.mark.parametrize(
        "behind", [b"", wire.frame(wire.TEXT, bytes(60_000), key=wire.KEY)], ids=["alone", "in the middle"]
    )
    def test_a_peer_that_is_told_what_was_wrong_sees_the_end_right_behind_it(
        self, secure: dict[str, Any], how: str, behind: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Over TLS it waited for a second, whatever it said. RFC 6455 7.1.1: the server ends the stream first."""
        with connected(client=False, close_timeout=2 * raw.LONG, **secure) as (ws, peer):
            calls, channel = list[str](), ws._channel
            receive, end = channel.receive, channel.end

            def receive_too(buffer: memoryview, timeout: float | None) -> int:
                if ws.connection.reader.is_failed:
                    calls.append("receive")
                return receive(buffer, timeout)

            def end_too() -> None:
                calls.append("end")
                end()

            monkeypatch.setattr(channel, "receive", receive_too)
            monkeypatch.setattr(channel, "end", end_too)

            def hang_up() -> None:
                peer.send_bytes(peer.frame(3) + behind)
                assert peer.read().opcode == wire.CLOSE
                assert peer.rest() == []  # before it has answered
                peer.close()

            with raw.thread(hang_up):
                find_mistake(ws, how, zcws.ProtocolError)
            assert calls[0] == "end"
            assert ws.close_code == 1002

    @anyhow
    @pytest.mark.parametrize("opcode, payload", [(3, b""), (wire.CLOSE, wire.close_payload(1000))])
    def test_what_ended_it_came_before_the_split(
        self, secure: dict[str, Any], opcode: int, payload: bytes
    ) -> None:
        """RFC 6455 7.1.1: the server, which has answered by then, ends the stream, and does not wait for the client."""
        with connected(client=False, close_timeout=2 * raw.LONG, **secure) as (ws, peer):
            ws._feed(peer.frame(opcode, payload))  # as where it stands right behind the request
            reader, _writer, _ = ws.split()

            def hang_up() -> None:
                (close,) = peer.rest()  # which comes before raw.LONG is over
                assert close.opcode == wire.CLOSE
                peer.close()

            with raw.thread(hang_up), pytest.raises(zcws.ConnectionClosed):
                reader.recv()

    @anyhow
    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_server_whose_writer_closes_ends_the_stream_first(
        self, secure: dict[str, Any], threads: int
    ) -> None:
        """RFC 6455 7.1.1. Both used to wait out `close_timeout`, the client for the end, the server for the client."""
        with connected(client=False, close_timeout=2 * raw.LONG, **secure) as (ws, peer):
            reader, writer, _ = ws.split()

            def read() -> None:
                with pytest.raises(zcws.ConnectionClosedOK):
                    reader.recv()

            def answer() -> None:
                assert peer.read()[:2] == (wire.CLOSE, wire.close_payload(1000))
                peer.send(wire.CLOSE, wire.close_payload(1000))
                assert peer.rest() == []  # which comes before raw.LONG is over
                peer.close()

            with raw.thread(answer), raw.thread(read if threads == 2 else lambda: None):
                writer.close()
                if threads == 1:
                    read()

    @pytest.mark.parametrize("chatty", [False, True])
    def test_the_writer_closes_and_the_peer_does_not_answer(self, chatty: bool) -> None:
        with connected(close_timeout=0.05) as (ws, peer):
            reader, writer, _ = ws.split()
            writer.close()

            def talk() -> None:
                with contextlib.suppress(OSError):
                    while chatty:
                        peer.send(wire.BINARY, bytes(1000))

            with raw.thread(talk), pytest.raises(zcws.ConnectionClosedError) as caught:
                reader.recv()
            assert caught.value.code == 1006

    def test_who_listens_hears_of_a_close_from_elsewhere(self) -> None:
        with connected(close_timeout=None) as (ws, peer):
            reader, _, bridge = ws.split()
            heard: list[object] = []
            may_close = threading.Event()

            def listen() -> None:
                assert bridge.listen(raw.LONG) is not None
                may_close.set()
                heard.append(bridge.listen(raw.LONG))

            with raw.thread(listen):
                peer.send(wire.PING)
                reader.read_frame()
                assert may_close.wait(raw.LONG)
                ws.begin_close()
                assert peer.read().opcode == wire.CLOSE
            assert heard == [None]

    def test_the_writer_closes_and_nobody_reads(self) -> None:
        """The reader's thread is gone, by a mistake of the program perhaps."""
        with connected(close_timeout=0.05) as (ws, _):
            _, writer, bridge = ws.split()
            writer.close()
            assert bridge.listen(raw.LONG) is None
            assert ws._channel.sock.fileno() < 0

    @pytest.mark.parametrize("how", ["eof", "reset"])
    def test_the_peer_vanishes(self, how: str) -> None:
        with connected(close_timeout=0.05) as (ws, peer):
            reader, writer, bridge = ws.split()
            peer.reset() if how == "reset" else peer.close()
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                reader.recv()
            assert caught.value.code == 1006
            assert bridge.listen() is None
            with pytest.raises(zcws.ConnectionClosed):
                while True:
                    writer.send("hello?")
            writer.close()
            raw.until(lambda: ws._channel.sock.fileno() < 0)

    def test_write_timeout(self) -> None:
        with connected(write_timeout=0.05) as (ws, _):
            reader, writer, _ = ws.split()
            with pytest.raises(zcws.ConnectionClosedError, match="does not read") as caught:
                while True:
                    writer.send(bytes(1_000_000))
            assert caught.value.code == 1011
            with pytest.raises(zcws.ConnectionClosedError, match="does not read"):
                writer.send("again")
            assert (ws.state, ws.close_code) == (zcws.State.LOST, 1011)
            with pytest.raises(zcws.ConnectionClosedError):
                reader.recv()

    def test_a_peer_that_does_not_read_our_close(self) -> None:
        with connected(close_timeout=0.05, write_timeout=0.02) as (ws, _):
            _, writer, _ = ws.split()
            with contextlib.suppress(zcws.ConnectionClosed):
                while True:
                    writer.send(bytes(1_000_000))
            writer.close()


class TestHowItEndedBehindOurClose:
    """RFC 6455 7.1.4, 7.1.5. `state` stayed CLOSE_SENT, and but for the reader everybody said that our Close had been
    answered: `close_code` and the writer's errors had the code of that, and were clean."""

    @anyhow
    @roles
    @pytest.mark.parametrize(
        ("what", "state", "code"),
        [
            ("a Close", zcws.State.CLOSED, 1001),
            ("a mistake", zcws.State.FAILED, 1002),
            ("an end", zcws.State.LOST, 1006),
            ("nothing", zcws.State.LOST, 1006),
        ],
    )
    def test_the_reader_reads_on(
        self, secure: dict[str, Any], client: bool, what: str, state: zcws.State, code: int
    ) -> None:
        timeout = 0.05 if what == "nothing" else raw.LONG
        with connected(client=client, close_timeout=timeout, **secure) as (ws, peer):
            reader, writer, bridge = ws.split()

            def answer() -> None:
                assert peer.read()[:2] == (wire.CLOSE, wire.close_payload(4000))
                if what == "a Close":
                    peer.send(wire.CLOSE, wire.close_payload(1001))
                elif what == "a mistake":
                    peer.send(3)
                if what != "nothing":
                    peer.close()

            with raw.thread(answer):
                writer.close(4000)
                with pytest.raises(zcws.ConnectionClosed) as caught:
                    reader.recv()
            assert caught.value.code == code
            assert how_it_ended(ws, writer) == (state, code, code == 1001, "us")
            assert bridge.listen() is None

    @anyhow
    @roles
    @pytest.mark.parametrize("who", ["the writer", "the whole"])
    def test_nobody_reads_on(self, secure: dict[str, Any], client: bool, who: str) -> None:
        with connected(client=client, close_timeout=0.05, **secure) as (ws, peer):
            _, writer, bridge = ws.split()
            if who == "the writer":
                writer.close(4000)
            else:
                ws.begin_close(4000)
            assert peer.read().opcode == wire.CLOSE
            raw.until(lambda: ws.state is not zcws.State.CLOSE_SENT)
            assert how_it_ended(ws, writer) == (zcws.State.LOST, 1006, False, "us")
            assert bridge.listen() is None

    @roles
    @pytest.mark.parametrize("who", ["the writer", "the whole"])
    def test_the_peer_had_ended_the_stream_before(self, client: bool, who: str) -> None:
        with connected(client=client, close_timeout=raw.LONG) as (ws, peer):
            reader, writer, _ = ws.split()
            peer.half_close()
            with pytest.raises(zcws.ConnectionClosedError):
                reader.recv()
            if who == "the writer":
                writer.close(4000)
            else:
                ws.begin_close(4000)
            assert how_it_ended(ws, writer) == (zcws.State.LOST, 1006, False, "us")
            assert peer.read().payload == wire.close_payload(4000)

    @roles
    def test_the_peer_had_reset_it_before(self, client: bool) -> None:
        """There is nobody whom our Close could reach, so it was not we who closed it."""
        with connected(client=client, tcp=True, close_timeout=raw.LONG) as (ws, peer):
            reader, writer, _ = ws.split()
            peer.reset()
            with pytest.raises(zcws.ConnectionClosedError):
                reader.recv()
            writer.close(4000)
            assert how_it_ended(ws, writer) == (zcws.State.LOST, 1006, False, "network")

    def test_nobody_is_left_whom_it_concerns(self) -> None:
        """What waits for `close_timeout` does not keep the connection for so long."""
        connection, channel = zcws.Connection(is_client=False), SimpleNamespace(has_sent_close=True)
        taken = Taken(connection, channel)  # type: ignore[arg-type]
        give_up, gone = taken.give_up, weakref.ref(taken)
        del taken
        gc.collect()
        assert gone() is None
        give_up()
        assert connection.bridge.ended


def how_it_ended(ws: zcws.sync.WebSocket, writer: WriterHalf) -> tuple[zcws.State, int, bool, str | None]:
    """What the whole says of it, and the writer."""
    with pytest.raises(zcws.ConnectionClosed) as caught:
        writer.send("late")
    error = caught.value
    assert (error.code, error.by) == (ws.close_code, ws.stats.closed_by)
    return ws.state, error.code, error.clean, error.by


def test_everything_that_a_writer_writes() -> None:
    with connected(deflate=True, close_timeout=0.01) as (ws, peer):
        _, writer, _ = ws.split()
        writer.send("é")
        writer.send(b"text", text=True)
        writer.send("binary", text=False)
        writer.send("x" * 1000)
        writer.write_frame(zcws.Frame.binary(b"f"))
        writer.ping("p")
        writer.pong(b"q")
        frames = peer.frames(7)
        assert [(frame.opcode, frame.payload) for frame in (*frames[:3], *frames[4:])] == [
            (wire.TEXT, "é".encode()),
            (wire.TEXT, b"text"),
            (wire.BINARY, b"binary"),
            (wire.BINARY, b"f"),
            (wire.PING, b"p"),
            (wire.PONG, b"q"),
        ]
        assert frames[3].rsv == 4
        writer.write_frame(zcws.Frame.close(1000, "bye"))
        assert peer.read()[:2] == (wire.CLOSE, wire.close_payload(1000, b"bye"))
        raw.until(lambda: ws._channel.sock.fileno() < 0)  # `close_timeout` counts from that Close as well


@pytest.mark.parametrize("who", ["the writer", "the whole"])
def test_a_close_as_a_frame_behind_our_close(who: str) -> None:
    """Nothing was raised, as if it had been sent."""
    with connected(close_timeout=raw.LONG) as (ws, peer):
        _, writer, _ = ws.split()
        if who == "the writer":
            writer.write_frame(zcws.Frame.close(4000))
        else:
            ws.begin_close(4000)
        with pytest.raises(zcws.ConnectionClosedError, match="4000"):
            writer.write_frame(zcws.Frame.close(1000))
        ws.abort()
        assert peer.rest() == [wire.Seen(wire.CLOSE, wire.close_payload(4000))]


def test_a_close_as_a_frame_before_the_close_of_who_has_taken_over() -> None:
    """That one waits for room, and nothing goes before it."""
    with connected(close_timeout=raw.LONG) as (ws, peer):
        _, writer, _ = ws.split()
        filled = fill(ws)
        assert not ws._try_close(1001, "", 0)
        with pytest.raises(zcws.ConnectionClosedOK, match="1001"):
            writer.write_frame(zcws.Frame.close(4000))
        peer.exactly(filled)
        ws.begin_close(1001)
        assert peer.read().payload == wire.close_payload(1001)


def test_everything_that_a_reader_reads() -> None:
    with connected(close_timeout=0.01) as (ws, peer):
        reader, _, _ = ws.split()
        with pytest.raises(TimeoutError):
            reader.recv(timeout=0.01)
        for _ in range(4):
            peer.send(wire.TEXT, b"abc")
        assert reader.recv() == "abc"
        assert reader.read_frame().text == "abc"
        assert [frame.text for frame in reader.read_batch()] == ["abc"] * 2
        peer.send(wire.BINARY, b"abc")
        with reader.stream() as message:
            assert list(message) == [b"abc"]
        big = bytes(range(256)) * 4000
        with raw.thread(lambda: peer.send(wire.BINARY, big)):
            assert reader.read_frame(zcws.PayloadBuffer()).payload == big


def test_how_long_somebody_listens() -> None:
    with connected() as (ws, _):
        _, _, bridge = ws.split()
        for none in (0, -1):
            with pytest.raises(TimeoutError, match="bridge"):
                bridge.listen(none)
        with pytest.raises(ValueError, match="timeout is"):
            bridge.listen(float("nan"))


def test_what_is_no_reply() -> None:
    with connected() as (ws, _):
        _, writer, _ = ws.split()
        for wrong, why in (
            (None, "not None; None from the bridge says that nothing is left"),
            (b"p", "not b'p'$"),
        ):
            with pytest.raises(
                TypeError, match=f"^send_reply sends what bridge.listen.. gives, a Reply, {why}"
            ):
                writer.send_reply(wrong)  # type: ignore[arg-type]


def test_a_close_in_the_middle_of_a_message_says_so() -> None:
    """The peer waits for the rest of it. As on the whole connection, and on asyncio."""
    with connected(close_timeout=0.01) as (ws, peer):
        _, writer, _ = ws.split()
        writer.write_frame(zcws.Frame.text("a", fin=False))
        writer.close(1000, "done")
        assert peer.read() == wire.Seen(wire.TEXT, b"a", fin=False)
        reason = b"the sender gave up in the middle of a message"
        assert peer.read() == wire.Seen(wire.CLOSE, wire.close_payload(1011, reason))


def test_only_once() -> None:
    with connected() as (ws, _):
        ws.split()
        with pytest.raises(RuntimeError, match="is split"):
            ws.split()


def test_a_reader_that_waits_does_not_keep_a_writer_out(certificates: Certificates) -> None:
    with connected(certificates=certificates) as (ws, peer):
        reader, writer, _ = ws.split()
        got: list[Any] = []
        started = threading.Event()

        def read() -> None:
            started.set()
            got.append(reader.recv())

        with raw.thread(read):
            started.wait()
            for i in range(50):
                writer.send(b"%d" % i)
                assert peer.read().payload == b"%d" % i
            peer.send(wire.TEXT, b"done")
        assert got == ["done"]


def test_a_peer_that_goes_on_talking_behind_our_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came was never taken, and so the socket was asked at full speed until `close_timeout`."""
    with connected(close_timeout=raw.LONG) as (ws, peer):
        reader, writer, _ = ws.split()
        peer.send_bytes(b"\x83\x80abcd")
        with pytest.raises(zcws.ProtocolError):
            reader.recv()
        asked: list[int] = []
        receive = ws._channel.receive

        def count(*given: Any) -> int:
            asked.append(receive(*given))
            assert len(asked) < 20
            return asked[-1]

        def talk() -> None:
            for times in range(1, 4):
                peer.send(wire.TEXT, b"and on")
                raw.until(lambda times=times: len(asked) >= times)
            peer.close()

        monkeypatch.setattr(ws._channel, "receive", count)
        with raw.thread(talk):
            writer.close()
        assert next(count for count in asked if count != NOTHING) > 0


class TestTheWholeEnds:
    """`with`, a server that shuts down, `close` and `abort` of the connection that was split, from another thread."""

    @anyhow
    @roles
    @pytest.mark.parametrize("size", [10, 300_000])
    def test_behind_what_is_being_sent(self, secure: dict[str, Any], client: bool, size: int) -> None:
        with connected(client=client, close_timeout=raw.LONG, **secure) as (ws, peer):
            ended: list[type] = []
            going = threading.Event()

            def write(writer: Any) -> None:
                with pytest.raises(zcws.ConnectionClosedOK, match=r"1001"):
                    while True:
                        writer.send(b"x" * size)
                        going.set()
                writer.close()  # says nothing more
                assert writer.drain_bridge()

            def read(reader: Any) -> None:
                with pytest.raises(zcws.ConnectionClosed) as caught:
                    reader.recv()
                ended.append(type(caught.value))

            frames: list[wire.Seen] = []

            def receive() -> None:
                while not frames or frames[-1].opcode != wire.CLOSE:
                    frames[:1] = [peer.read()]
                peer.send(wire.CLOSE, frames[-1].payload)
                if not client:
                    assert peer.rest() == []
                peer.close()

            reader, writer, bridge = ws.split()
            with (
                raw.thread(receive),
                raw.thread(lambda: write(writer)),
                raw.thread(lambda: read(reader)),
            ):
                assert going.wait(raw.LONG)
                ws.close(1001)
            assert frames[-1].payload == wire.close_payload(1001)
            assert ended == [zcws.ConnectionClosedOK]
            assert is_silent(bridge, writer)
            assert ws._channel.sock.fileno() < 0

    @roles
    def test_while_nobody_is_inside(self, client: bool) -> None:
        with connected(client=client, close_timeout=raw.LONG) as (ws, peer):
            reader, writer, bridge = ws.split()
            peer.send(wire.TEXT, b"late")

            def answer() -> None:
                assert peer.read().payload == wire.close_payload(4000, b"enough")
                peer.send(wire.CLOSE, wire.close_payload(4000))
                if not client:
                    assert peer.rest() == []
                peer.close()

            with raw.thread(answer):
                ws.close(4000, "enough")
            for _ in range(2):
                with pytest.raises(zcws.ConnectionClosed, match="4000"):
                    reader.recv()
            with pytest.raises(zcws.ConnectionClosed), reader.stream():
                raise AssertionError("it is over")
            for use in (writer.flush, lambda: writer.send("x")):
                with pytest.raises(zcws.ConnectionClosed, match="4000"):
                    use()
            assert writer.send_reply(zcws.Reply(zcws.OpCode.PONG, b""))
            assert is_silent(bridge, writer)
            assert ws.close_code == 4000
            ws.close()

    def test_the_peer_answers_before_we_know_that_our_close_is_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The reader's thread had come to the end, and left the socket to a writer who knew nothing of it."""
        with connected(close_timeout=2 * raw.LONG) as (ws, peer):
            reader, writer, _ = ws.split()
            write = writer._write_close

            def write_close(*close: Any) -> None:
                write(*close)
                raw.until(lambda: ws.connection.bridge.ended)

            monkeypatch.setattr(writer, "_write_close", write_close)
            check, is_inside = reader._taken.check, threading.Event()

            def checked() -> None:
                check()  # until then it may hear that the halves have been taken over, and go
                is_inside.set()

            monkeypatch.setattr(reader._taken, "check", checked)

            def answer() -> None:
                peer.send(wire.CLOSE, peer.read().payload)
                assert peer.rest() == []
                peer.close()

            with raw.thread(answer), raw.thread(lambda: list(reader)):
                assert is_inside.wait(raw.LONG)
                ws.close()

    def test_what_a_half_is_told_before_the_close_is_out(self) -> None:
        with connected(close_timeout=raw.LONG) as (ws, peer):
            reader, writer, _ = ws.split()
            filled = fill(ws)
            for _ in range(2):
                assert not ws._try_close(1001, "", 0)  # the peer does not read
            with pytest.raises(zcws.ConnectionClosedOK, match="1001"):
                reader.recv()

            def write() -> None:  # the Close, now that it may
                with pytest.raises(zcws.ConnectionClosedOK, match="1001"):
                    writer.send("x")

            with raw.thread(write):
                peer.exactly(filled)
                assert peer.read().payload == wire.close_payload(1001)
            assert ws._try_close(1001, "", 0)

    def test_a_writer_that_is_stuck(self) -> None:
        with connected(close_timeout=0.1) as (ws, _):
            _, writer, bridge = ws.split()

            def write() -> None:
                with pytest.raises(zcws.ConnectionClosed):
                    while True:
                        writer.send(bytes(1_000_000))

            with raw.thread(write):
                raw.until(lambda: not ws._channel.is_writable)
                ws.close()
            assert is_silent(bridge, writer)
            assert ws.state is zcws.State.LOST

    def test_abort(self) -> None:
        with connected(close_timeout=None) as (ws, _):
            reader, writer, bridge = ws.split()

            def read() -> None:
                with pytest.raises(zcws.ConnectionClosedError):
                    reader.recv()

            with raw.thread(read):
                raw.until(lambda: reader._is_busy)
                ws.abort()
            assert is_silent(bridge, writer)
            assert ws.state is zcws.State.LOST
            ws.close()

    def test_a_server_that_shuts_down(self) -> None:
        """A Close got into the middle of a frame: 10 of 15 peers were handed a message that nobody had sent."""

        def handler(ws: zcws.sync.WebSocket) -> None:
            reader, writer, _ = ws.split()

            def write() -> None:
                with contextlib.suppress(zcws.ConnectionClosed):
                    while True:
                        writer.send(b"x" * 50_000)
                writer.close()

            with raw.thread(write):
                assert list(reader) == []

        with zcws.sync.serve(handler, "127.0.0.1", 0) as server, raw.thread(server.serve_forever):
            with zcws.sync.connect(f"ws://127.0.0.1:{server.sock.getsockname()[1]}/", proxy=None) as ws:
                for count, message in enumerate(ws):
                    assert message == b"x" * 50_000
                    if count == 20:
                        shutting = threading.Thread(target=server.shutdown)
                        shutting.start()
                shutting.join()
                assert ws.close_code == 1001

    @pytest.mark.parametrize("half", ["reader", "writer"])
    def test_from_a_signal_handler_that_has_interrupted_it(self, half: str) -> None:
        def end(*_: object) -> None:
            ws.close(1001)

        before = signal.signal(signal.SIGALRM, end)
        try:
            with connected(close_timeout=raw.LONG) as (ws, peer):
                reader, writer, _ = ws.split()

                def answer() -> None:
                    while peer.read().opcode != wire.CLOSE:
                        pass
                    peer.send(wire.CLOSE, wire.close_payload(1001))
                    assert peer.rest() == []
                    peer.close()

                signal.setitimer(signal.ITIMER_REAL, 0.1)
                if half == "writer":
                    begun = threading.Timer(0.3, answer)
                    begun.start()
                    with pytest.raises(zcws.ConnectionClosedOK):
                        while True:
                            writer.send(bytes(1_000_000))
                    with pytest.raises(zcws.ConnectionClosedOK):
                        reader.recv()
                    ws.close()
                    begun.join()
                else:
                    with raw.thread(answer), pytest.raises(zcws.ConnectionClosedOK, match="1001"):
                        reader.recv()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def meanwhile(act: Callable[[], object], then: Callable[..., Any]) -> Callable[..., Any]:
    """`then`, once it has been called and before it returns another thread does `act`; only the first time."""
    left = [act]

    def call(*given: Any) -> Any:
        result = then(*given)
        if left:
            with raw.thread(left.pop()):
                pass
        return result

    return call


def says_nothing(peer: raw.Peer) -> bool:
    """Whether the stream has neither more bytes nor an end, so far."""
    peer.sock.settimeout(SHORT)
    try:
        return not isinstance(peer.sock.recv(1), bytes)
    except TimeoutError:
        return True
    finally:
        peer.sock.settimeout(raw.LONG)


class TestWhoGoesFirst:
    """RFC 6455 7.1.1: the server ends the stream, once both have said their Close; the client when the server has."""

    @roles
    def test_where_the_writer_comes_last(self, client: bool) -> None:
        with connected(client=client, close_timeout=2 * raw.LONG) as (ws, peer):
            reader, writer, _ = ws.split()
            peer.send(wire.CLOSE, wire.close_payload(1000))
            with pytest.raises(zcws.ConnectionClosedOK):
                reader.recv()
            with raw.thread(writer.close):
                assert peer.read().opcode == wire.CLOSE
                if client:
                    assert says_nothing(peer)
                    peer.half_close()
                assert peer.rest() == []
                peer.close()
            assert ws._channel.sock.fileno() < 0

    @roles
    def test_where_the_reader_comes_last(self, client: bool) -> None:
        with connected(client=client, close_timeout=None) as (ws, peer):
            reader, writer, _ = ws.split()
            writer.close()
            assert peer.read().opcode == wire.CLOSE
            assert says_nothing(peer)
            peer.send(wire.CLOSE, wire.close_payload(1000))
            with raw.thread(lambda: pytest.raises(zcws.ConnectionClosedOK, reader.recv)):
                if client:
                    assert says_nothing(peer)
                    peer.half_close()
                assert peer.rest() == []
                peer.close()
            assert ws._channel.sock.fileno() < 0
            assert ws._channel._watchdog is None

    @roles
    def test_where_the_whole_does(self, client: bool) -> None:
        with connected(client=client, close_timeout=2 * raw.LONG) as (ws, peer):
            reader, _, _ = ws.split()
            peer.send(wire.TEXT, b"read")
            with reader.stream() as message:  # and this is not for ever: it was said that a thread is inside
                assert list(message) == ["read"]
            with raw.thread(ws.close):
                assert peer.read().opcode == wire.CLOSE
                assert says_nothing(peer)
                peer.send(wire.CLOSE, wire.close_payload(1000))
                if client:
                    assert says_nothing(peer)
                    peer.half_close()
                assert peer.rest() == []
                peer.close()

    @roles
    def test_where_it_is_taken_over_behind_the_last_reply(self, client: bool) -> None:
        """The answer to the peer's Close is out, and nobody has said so."""
        with connected(client=client, close_timeout=None) as (ws, peer):
            reader, writer, bridge = ws.split()
            peer.send(wire.CLOSE, wire.close_payload(1000))
            with pytest.raises(zcws.ConnectionClosedOK):
                reader.recv()
            assert ws._channel._watchdog is None
            reply = bridge.listen()
            assert reply is not None
            ws._channel.send = meanwhile(ws.begin_close, ws._channel.send)  # type: ignore[method-assign]
            assert writer.send_reply(reply)
            assert ws._channel.has_sent_close
            assert peer.read().payload == wire.close_payload(1000)
            assert says_nothing(peer) == client

    def test_of_a_writer_whose_reader_has_seen_to_it(self) -> None:
        with connected() as (ws, peer):
            reader, writer, _ = ws.split()
            peer.send(wire.CLOSE)
            with pytest.raises(zcws.ConnectionClosedOK):
                reader.recv()
            assert ws._channel.is_last()
            writer.close()
            assert peer.read().opcode == wire.CLOSE
            assert ws._channel.sock.fileno() >= 0


class TestTakenOver:
    """By the whole, from another thread, at a certain moment."""

    @pytest.mark.parametrize("what", ["send", "flush", "send_reply", "write_frame"])
    def test_in_the_middle_of_a_write(self, what: str) -> None:
        """Who was inside says the Close as he comes out."""
        with connected(close_timeout=None) as (ws, peer):
            _, writer, _ = ws.split()
            if what == "flush":
                ws.connection.ping(b"kept")
            ws._channel.send = meanwhile(lambda: ws.begin_close(4000), ws._channel.send)  # type: ignore[method-assign]
            arguments: dict[str, list[Any]] = {
                "send": ["x"],
                "send_reply": [zcws.Reply(zcws.OpCode.PONG, b"x")],
                "write_frame": [zcws.Frame.binary(b"x")],
            }
            getattr(writer, what)(*arguments.get(what, []))
            assert [frame.opcode == wire.CLOSE for frame in peer.frames(2)] == [False, True]
            assert ws._channel._watchdog is None

    def test_it_is_bounded(self) -> None:
        """Nobody reads, and the peer does not answer."""
        with connected(close_timeout=0.05) as (ws, _):
            ws.split()
            ws.begin_close()
            raw.until(lambda: ws._channel.sock.fileno() < 0)

    def test_a_close_waits_for_room(self) -> None:
        with connected(close_timeout=2 * raw.LONG) as (ws, peer):
            ws.split()
            filled = fill(ws)
            with raw.thread(lambda: ws.begin_close(4000)):
                raw.until(lambda: ws._halves and ws._halves._writer._saying)
                peer.exactly(filled)
                assert peer.read().payload == wire.close_payload(4000)

    def test_a_close_that_must_not_wait(self) -> None:
        with connected() as (ws, peer):
            ws.split()
            assert ws._try_close(1001, "", 0)
            assert peer.read().payload == wire.close_payload(1001)
            ws.abort()
            assert ws._try_close(1001, "", 0)  # there is nothing left to try

    def test_what_a_half_is_told_where_the_peer_has_closed_before(self) -> None:
        """The peer's code, not ours."""
        with connected() as (ws, peer):
            reader, writer, _ = ws.split()
            peer.send(wire.CLOSE, wire.close_payload(4001))
            with pytest.raises(zcws.ConnectionClosedError, match="4001"):
                reader.recv()
            ws.begin_close(4002)
            for use in (reader.recv, writer.flush, lambda: writer.send("late")):
                with pytest.raises(zcws.ConnectionClosedError, match="4001"):
                    use()

    def test_an_abort_in_the_middle_of_a_write(self) -> None:
        """What has been written is the writer's business: he notes the end as he comes out."""
        with connected() as (ws, _):
            _, writer, _ = ws.split()
            states = []

            def abort() -> None:
                ws.abort()
                states.append(ws.state)

            ws._channel.send = meanwhile(abort, ws._channel.send)  # type: ignore[method-assign]
            writer.send("x")
            assert [*states, ws.state] == [zcws.State.OPEN, zcws.State.LOST]

    def test_an_abort_in_the_middle_of_the_close_that_was_left(self) -> None:
        with connected() as (ws, _):
            ws.split()
            ws._channel.send = meanwhile(ws.abort, ws._channel.send)  # type: ignore[method-assign]
            ws.begin_close()
            assert ws.state is zcws.State.LOST

    def test_an_abort_that_takes_over_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says no Close, and 1006 is none that could be said."""
        take = Taken.take

        def abort(taken: Taken, *_: object) -> bool:
            return take(taken, 1006, "")  # as far as another thread has got with it

        with connected() as (ws, peer):
            ws.split()
            monkeypatch.setattr(Taken, "take", abort)
            ws.begin_close(4000)
            ws.abort()
            assert ws.state is zcws.State.LOST
            assert peer.rest() == []

    def test_an_abort_while_somebody_listens(self) -> None:
        with connected() as (ws, _):
            _, _, bridge = ws.split()
            with raw.thread(bridge.listen) as listening:
                raw.until(lambda: any(_waits_in(listening, kind) for kind in _LISTENING))
                ws.abort()


def test_a_reply_that_the_writer_takes_himself() -> None:
    with connected() as (ws, peer):
        reader, writer, _ = ws.split()
        for opcode, is_last in ((wire.PING, False), (wire.CLOSE, True)):
            peer.send(opcode)
            with contextlib.suppress(zcws.ConnectionClosedOK):
                reader.read_frame()
            assert writer.drain_bridge() is is_last
        assert [frame.opcode for frame in peer.frames(2)] == [wire.PONG, wire.CLOSE]


def test_a_bell_that_nobody_hears_is_rung_once() -> None:
    """Each Ping left something in memory, for as long as nobody listened."""
    with connected() as (ws, peer):
        reader, _, bridge = ws.split()
        for _ in range(20):
            peer.send(wire.PING)
            reader.read_frame()
        assert bridge._bell.wait(0) and not bridge._bell.wait(0)


def is_silent(bridge: BridgeHalf, writer: WriterHalf) -> bool:
    """Whether nothing is left to say but what nobody may say any more."""
    reply = bridge.listen(raw.LONG)
    return reply is None or (writer.send_reply(reply) and bridge.listen(raw.LONG) is None)


def fill(ws: Any) -> int:
    """Until the socket takes nothing more. Returns how many bytes that were."""
    filled = refused = 0
    while refused < 3:  # the peer's system may be about to take some, over TCP
        try:
            filled += ws._channel.sock.send(bytes(100_000), socket.MSG_DONTWAIT)
            refused = 0
        except BlockingIOError:
            refused += 1
            time.sleep(0.01)
    return filled


def test_the_whole_does_nothing_else_after_a_split() -> None:
    with connected() as (ws, _):
        ws.split()
        for use in (ws.recv, ws.flush, lambda: ws.send("x"), ws.ping, lambda: ws.cork().__enter__()):
            with pytest.raises(RuntimeError, match="split: its halves"):
                use()


def test_the_halves_alone_are_enough() -> None:
    with zcws.sync.serve(raw.echo, "127.0.0.1", 0) as server, raw.thread(server.serve_forever):
        uri = f"ws://127.0.0.1:{server.sock.getsockname()[1]}/"
        reader, writer, _ = zcws.sync.connect(uri, proxy=None).split()
        gc.collect()
        writer.ping(b"who is there?")
        writer.send("me")
        assert reader.recv() == "me"
        writer.close()
        assert list(reader) == []
        server.shutdown()


def test_two_that_end_it_do_not_read_at_once() -> None:
    # Both received into one ring, whose head went beyond its memory.
    with connected(client=False, close_timeout=raw.LONG) as (ws, peer):
        reader, _, _ = ws.split()
        began, go_on = threading.Event(), threading.Event()
        inside: list[None] = []
        counts: list[int] = []
        read_on = reader._read_on

        def slow(deadline: float | None) -> None:
            inside.append(None)
            counts.append(len(inside))
            began.set()
            go_on.wait(raw.LONG)
            read_on(deadline)
            inside.pop()

        reader._read_on = slow  # type: ignore[method-assign]
        with raw.thread(ws.close):
            began.wait(raw.LONG)
            with raw.thread(ws.close):
                assert peer.read().opcode == wire.CLOSE
                go_on.wait(0.05)
                assert counts == [1]
                go_on.set()
                peer.send(wire.CLOSE, wire.close_payload(1000))
                peer.rest()
                peer.close()
        # The second may still come in when the first is out, and finds nothing to do.
        assert set(counts) == {1}
        assert ws.close_code == 1000


def test_one_of_two_that_end_it_at_once_is_the_first() -> None:
    """Between any two lines of the other. Both said a Close, or `begin_close` raised ConnectionClosedError."""
    for line in range(4):
        taken = Taken(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
        lines, news = iter(range(99)), list[bool]()

        def trace(_frame: Any, event: str, _: Any) -> Any:
            if event == "line" and next(lines) == line:  # noqa: B023
                news.append(taken.take(1001, "another"))  # noqa: B023
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            news.append(taken.take(1000, "one"))
        finally:
            sys.settrace(before)
        assert news.count(True) == 1


def test_a_close_that_is_left_to_a_thread_that_has_just_looked() -> None:
    """Each left it to the other, and it never went out."""
    with connected(close_timeout=raw.LONG) as (ws, peer):
        _, writer, _ = ws.split()

        class Saying(list[None]):
            def pop(self, at: Any = -1) -> None:
                writer._saying = list(self)
                ws.begin_close(4000, "left")  # by another thread
                writer._saying.pop(at)

        writer._saying = Saying()
        writer._say_goodbye()
        assert peer.read().payload[2:] == b"left"


def test_who_listens_is_told_that_it_was_taken_over() -> None:
    with connected(client=False, close_timeout=None) as (ws, peer):
        _, _, bridge = ws.split()
        with raw.thread(lambda: ws.begin_close(1001)):
            assert bridge.listen(raw.LONG) is None
        peer.close()
        ws.abort()


def test_a_message_that_was_read_is_left_in_peace_when_taken_over() -> None:
    with connected(client=True, close_timeout=raw.LONG) as (ws, peer):
        reader, _, _ = ws.split()
        peer.send(wire.TEXT, b"hello")
        with reader.stream() as message:
            assert "".join(message) == "hello"  # type: ignore[arg-type]
            ws.begin_close()
        ws.abort()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="elsewhere the collector does it")
def test_closing_keeps_nothing_of_those_who_call() -> None:
    with connected(client=False, close_timeout=raw.LONG) as (ws, peer):
        ws.split()
        peer.send(wire.CLOSE, wire.close_payload(1000))
        peer.sock.shutdown(socket.SHUT_WR)

        class Held:
            pass

        gc.collect()
        gc.disable()
        try:
            held = Held()
            ws.close()
            gone = weakref.ref(held)
            del held
            assert gone() is None
        finally:
            gc.enable()


def test_an_abort_is_no_clean_end() -> None:
    """Who was on the way into a half at that moment was told 1006 as a clean end of ours."""
    with connected(client=True) as (ws, _):
        _, writer, _ = ws.split()
        assert ws._halves is not None
        ws._halves._taken.take(1006, "")  # the first that `abort` does
        with pytest.raises(zcws.ConnectionClosedError) as seen:
            writer.send("late")
        assert (seen.value.code, seen.value.clean) == (1006, False)
        ws.abort()


def test_a_clean_end_by_the_whole_is_told_as_one() -> None:
    with connected(client=True, close_timeout=raw.LONG) as (ws, peer):
        reader, writer, _ = ws.split()
        with raw.thread(ws.close):
            assert peer.read().opcode == wire.CLOSE
            peer.send(wire.CLOSE, wire.close_payload(1000))
            peer.close()
        assert ws.state is zcws.State.CLOSED
        with pytest.raises(zcws.ConnectionClosedOK):
            writer.send("late")
        with pytest.raises(zcws.ConnectionClosedOK):
            reader.recv()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="elsewhere the collector does it")
def test_what_is_over_goes_with_the_last_reference() -> None:
    """With its rings, which the collector, that counts objects and not their memory, would leave for long."""
    gc.collect()
    gc.disable()
    try:
        with connected() as (ws, _):
            halves = ws.split()
            pool = weakref.ref(ws.connection.reader.pool)
        assert pool() is not None and len(halves) == 3
        del ws, halves, _
        assert pool() is None
    finally:
        gc.enable()


def test_the_close_goes_out_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the interpreter's exit, from CPython 3.12 on. It was a RuntimeError, and nobody said a word any more."""

    def start(_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with connected() as (ws, peer):
        ws.split()
        monkeypatch.setattr(threading.Timer, "start", start)
        ws.close()
        monkeypatch.undo()
        assert peer.read().opcode == wire.CLOSE


def test_a_connection_that_is_being_read_is_not_split() -> None:
    """The reader's message was lost, in an AttributeError, and its lock was never released."""
    with connected() as (ws, peer):
        got: list[Any] = []
        with raw.thread(lambda: got.append(ws.recv())):
            raw.until(lambda: ws._is_read)
            with pytest.raises(RuntimeError, match="another thread is reading"):
                ws.split()
            peer.send(wire.TEXT, b"for the reader")
        assert got == ["for the reader"]
        assert len(ws.split()) == 3


def test_a_ping_steps_aside_for_a_split() -> None:
    with connected() as (ws, peer):

        def ping() -> None:
            with pytest.raises(RuntimeError, match="is split"):
                ws.ping()

        with raw.thread(ping):
            peer.read()
            raw.until(lambda: ws._in_turn)
            reader, _, _ = ws.split()
        peer.send(wire.TEXT, b"for the half")
        assert reader.recv() == "for the half"


def test_whoever_waits_to_read_does_not_when_it_has_been_split_meanwhile() -> None:
    """It read all the same, beside the half, and what it had read was lost in an AttributeError."""
    with connected() as (ws, peer):
        lock = ws._reading
        lock.acquire()  # as `ping` has it, which steps aside

        def read() -> None:
            with pytest.raises(RuntimeError, match="is split"):
                ws.recv()

        with raw.thread(read):
            raw.until(lambda: ws._turns_wanted)
            reader, _, _ = ws.split()
            peer.send(wire.TEXT, b"for the half")
            lock.release()
        assert reader.recv() == "for the half"


@pytest.mark.parametrize("how", ["send", "write_frame", "flush", "begin_close"])
def test_whoever_waits_to_write_does_not_when_it_has_been_split_meanwhile(how: str) -> None:
    """It wrote all the same, beside the half: into the middle of a frame, where the peer was slow."""
    with connected() as (ws, peer):
        lock, write = ws._write_lock, getattr(ws, how)
        arguments = {"send": [b"late"], "write_frame": [zcws.Frame.binary(b"late")]}.get(how, [])

        def late() -> None:
            if how == "begin_close":
                write(4000)
                return
            with pytest.raises(RuntimeError, match="is split"):
                write(*arguments)

        lock.acquire()
        with raw.thread(late) as writer:
            raw.until(lambda: _waits_in(writer, zcws.sync.WebSocket))
            _, half, _ = ws.split()
            lock.release()
        if how == "begin_close":
            assert peer.read().opcode == wire.CLOSE
        else:
            half.send(b"of the half")
            assert peer.read().payload == b"of the half"


#: Where a thread is that listens; PyPy's queue is written in Python.
_LISTENING = (BridgeHalf, Bell, queue.SimpleQueue, threading.Semaphore, threading.Condition)


def _waits_in(thread: threading.Thread, kind: type) -> bool:
    """Whether it is in a method that takes the lock next, or waits for it."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and isinstance(frame.f_locals.get("self"), kind)


def test_what_was_sent_is_no_error_where_it_has_been_split_since() -> None:
    """Its thread saw a reply, which is the halves' business by then: RuntimeError for a message that had gone out."""
    with connected() as (ws, peer):
        leftover = ws._send_leftover

        def later() -> None:
            reader, _, _ = ws.split()
            peer.send(wire.PING, b"of the half")
            assert reader.read_frame().opcode is zcws.OpCode.PING
            leftover()

        ws._send_leftover = later  # type: ignore[method-assign]
        ws.send(b"out")
        assert peer.read().payload == b"out"


def test_only_one_half_reads_to_the_end() -> None:
    """Without a GIL both could see that it was time, and received into one record: a Close of ours was lost."""
    with connected() as (ws, peer):
        reader, writer, _ = ws.split()
        peer.send(wire.CLOSE, wire.close_payload(1000))
        peer.half_close()
        with pytest.raises(zcws.ConnectionClosedOK):
            reader.recv()
        receive, inside = ws._channel.receive, list[None]()

        def received(*given: Any) -> int:
            assert not inside
            inside.append(None)
            reader._finish()  # as its thread does, which sees our Close only now
            inside.pop()
            return receive(*given)

        ws._channel.receive = ws._channel.scan = received  # type: ignore[method-assign]
        writer.close()
        assert peer.read().opcode == wire.CLOSE


@roles
def test_what_is_shown_of_halves(client: bool) -> None:
    with connected(client=client) as (ws, peer):
        role = ("client" if client else "server") + known_peer(ws)
        reader, writer, bridge = ws.split()
        assert repr(reader) == f"<ReaderHalf {role}, blocking, open>"
        assert repr(writer) == f"<WriterHalf {role}, blocking, open>"
        assert repr(bridge) == "<BridgeHalf, empty>"
        peer.send(wire.PING, b"1234")
        reader.read_frame()
        assert repr(bridge) == "<BridgeHalf, <Reply PONG, 4 bytes>>"
        ws.abort()
        assert repr(reader) == f"<ReaderHalf {role}, blocking, lost>"
        assert repr(bridge).endswith(", ended>")
