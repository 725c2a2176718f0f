from __future__ import annotations

import contextlib
import math
import queue
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

import feed
import pytest
import raw
import wire
from hypothesis import given, settings
from hypothesis import strategies as st
from joined import connected

import zcws
from zcws.frame import NEED_MORE
from zcws.reader import Reader
from zcws.sync import WebSocket

# ---- whole messages ----


def test_what_is_asked_for_by_place_is_known_to_a_type_checker() -> None:
    with connected() as (ws, peer):
        for _ in range(4):
            peer.send(wire.TEXT, b"a")
        # Of str or bytes it would not know that: it reads this, too.
        assert ws.recv(raw.LONG, True) + "b" == "ab"
        assert ws.recv(raw.LONG, False) + b"b" == b"ab"
        with ws.stream(raw.LONG, True) as words:
            assert [word + "b" for word in words] == ["ab"]
        with ws.stream(raw.LONG, False) as pieces:
            assert [piece + b"b" for piece in pieces] == [b"ab"]


def test_str_and_bytes() -> None:
    with connected() as (ws, peer):
        for opcode, payload in (
            (wire.TEXT, "é".encode()),
            (wire.BINARY, b"\0"),
            (wire.TEXT, b"a"),
            (wire.BINARY, b"b"),
        ):
            peer.send(opcode, payload)
        assert [ws.recv(), ws.recv(), ws.recv(decode=False), ws.recv(decode=True)] == ["é", b"\0", b"a", "b"]


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_timeout_loses_nothing(timeout: float) -> None:
    with connected() as (ws, peer):
        data = peer.frame(wire.TEXT, b"hello")
        for part in (data[:1], data[1:4], data[4:9], data[9:]):
            with pytest.raises(TimeoutError):
                ws.recv(timeout)
            peer.send_bytes(part)
        assert ws.recv(timeout=raw.LONG) == "hello"


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("before", ["nothing", "a Ping", "a message", "a fragment"])
def test_what_is_there_is_had_without_any_time(before: str, split: bool) -> None:
    """Only what had come alone was: what came with something else was there for the next call."""
    with connected() as (ws, peer):
        sent = {
            "nothing": peer.frame(wire.TEXT, b"hello"),
            "a Ping": peer.frame(wire.PING) + peer.frame(wire.TEXT, b"hello"),
            "a message": peer.frame(wire.TEXT, b"hello") + peer.frame(wire.TEXT, b"hello"),
            "a fragment": b"".join(wire.fragments(wire.TEXT, [b"hel", b"lo"], key=peer.key)),
        }
        reader = ws.split()[0] if split else ws

        def arrives(data: bytes) -> None:
            peer.send_bytes(data)
            raw.until(lambda: ws._channel.is_readable)

        arrives(sent[before])
        assert [reader.recv(timeout=0) for _ in range(1 + (before == "a message"))][-1] == "hello"
        with pytest.raises(TimeoutError):
            reader.recv(timeout=0)
        half = len(sent[before]) // 2
        arrives(sent[before][:half])
        with contextlib.suppress(TimeoutError):
            assert reader.recv(timeout=0) == "hello"
        arrives(sent[before][half:])
        assert reader.recv(timeout=0) == "hello"
        arrives(sent[before])
        assert reader.read_frame(timeout=0).opcode == (wire.PING if before == "a Ping" else wire.TEXT)


@pytest.mark.parametrize("nothing", ["close_timeout", "ping_timeout"])
def test_a_timeout_of_nothing_is_no_reason_to_spin(nothing: str) -> None:
    """It took all of a CPU to wait for a message."""
    with connected(**{"ping_interval": 20, nothing: 0}) as (ws, peer):
        waits: list[float | None] = []
        channel, receive = ws._channel, ws._channel.scan

        def scan(inlet: Any, timeout: float | None) -> int:
            waits.append(timeout)
            peer.send(wire.TEXT, b"here")
            return receive(inlet, timeout)

        channel.scan = scan  # type: ignore[method-assign]
        assert ws.recv() == "here"
        assert all(waits)


def test_a_batch_of_one_comes_past_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a message and a frame do: it took half as much again."""
    taken, plain = list[Any](), Reader.read_batch

    def read_batch(self: Reader) -> Any:
        taken.append(plain(self))
        return taken[-1]

    monkeypatch.setattr(Reader, "read_batch", read_batch)
    with connected() as (ws, peer):
        for text in ("one", "two", "three"):
            peer.send(wire.TEXT, text.encode())
            frames = ws.read_batch(timeout=raw.LONG)
            assert [frame.text for frame in frames] == [text]
        assert set(taken) <= {NEED_MORE}
        peer.send_bytes(peer.frame(wire.TEXT, b"together") * 2)
        assert [frame.text for frame in ws.read_batch()] == ["together"] * 2
        assert frames[0].is_stale
        peer.send(wire.PING, b"seen")
        assert ws.read_batch()[0].opcode == wire.PING


@pytest.mark.parametrize("close_timeout", [None, 0.1, 10])
@pytest.mark.parametrize("timeout", [math.inf, 1e12, 1e6, 0.02, 0, -1, -math.inf])
def test_any_timeout(timeout: float, close_timeout: float | None) -> None:
    """Longer and shorter than the waits that the driver has of its own; and none at all."""
    with connected(close_timeout=close_timeout) as (ws, peer):
        if timeout < 1:
            with pytest.raises(TimeoutError):
                ws.recv(timeout)
            with pytest.raises(TimeoutError):
                ws.read_frame(timeout=timeout)
            peer.send(wire.TEXT, b"here")
            raw.until(lambda: select.select([ws._channel.sock], [], [], 0)[0])
        else:
            timer = threading.Timer(0.15, peer.send, [wire.TEXT, b"here"])
            timer.start()
        assert ws.recv(timeout) == "here"
        peer.send(wire.TEXT, b"a frame")
        raw.until(lambda: select.select([ws._channel.sock], [], [], 0)[0])
        assert ws.read_frame(timeout=timeout).text == "a frame"
        ws.abort()  # close_timeout=None would wait for the peer's Close


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no signals that come by themselves")
def test_a_signal_is_handled_while_a_read_waits() -> None:
    seen: list[int] = []
    with connected() as (ws, peer):

        def handle(number: int, frame: object) -> None:
            seen.append(number)
            if len(seen) == 2:
                raise InterruptedError("by the program")
            peer.send(wire.TEXT, b"after the signal")

        before = signal.signal(signal.SIGALRM, handle)
        try:
            for expected in ("after the signal", None):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                if expected is None:
                    with pytest.raises(InterruptedError, match="by the program"):
                        ws.recv()
                else:
                    assert ws.recv() == expected
        finally:
            signal.signal(signal.SIGALRM, before)
        peer.send(wire.TEXT, b"goes on")
        assert ws.recv() == "goes on"


SCRIPT = [
    wire.frame(wire.TEXT, b"first", key=wire.KEY),
    *wire.fragments(wire.TEXT, [b"\xe2\x82", b"", b"\xac"], key=wire.KEY),
    wire.frame(wire.PING, b"p", key=wire.KEY),
    wire.frame(wire.BINARY, bytes(70_000), key=wire.KEY),
    wire.frame(wire.TEXT, wire.deflate(b"compressed " * 50), rsv=4, key=wire.KEY),
    wire.frame(wire.BINARY, bytes(300_000), key=wire.KEY),
    wire.frame(wire.TEXT, b"last", key=wire.KEY),
]
MESSAGES = ["first", "€", bytes(70_000), "compressed " * 50, bytes(300_000), "last"]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 400_000), max_size=12), st.booleans())
def test_a_timeout_at_any_cut_loses_nothing(places: list[int], frames: bool) -> None:
    """Reads that time out between any two bytes; what was asked for does not matter."""
    got: list[Any] = []

    def attempt(ws: WebSocket) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                if not frames:
                    got.append(ws.recv(timeout=0))
                    continue
                frame = ws.read_frame(timeout=0)
                if frame.opcode in (wire.TEXT, wire.BINARY):
                    got.append(frame.text if frame.opcode is zcws.OpCode.TEXT else frame.to_bytes())

    with connected(deflate=True) as (ws, peer):
        with raw.thread(lambda: None):
            for piece in feed.cut(b"".join(SCRIPT), places):
                rest = memoryview(piece)
                while rest:  # more than the socket holds would wait for the reader
                    rest = rest[peer.sock.send(rest[:50_000]) :]
                    attempt(ws)
        while len(got) < len(MESSAGES):
            attempt(ws)
    assert got == MESSAGES


def test_a_deadline_holds_although_bytes_keep_coming() -> None:
    """A message that drips must not hold a read with a timeout for ever."""
    with connected() as (ws, peer):
        stop = threading.Event()

        def drip() -> None:
            peer.send_bytes(wire.head(wire.BINARY, 10_000_000, key=wire.KEY))
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    peer.send_bytes(b"x")

        with raw.thread(drip):
            with pytest.raises(TimeoutError):
                ws.recv(timeout=0.05)
            stop.set()
            ws.abort()  # it may wait for room


def test_iterating_ends_with_the_connection() -> None:
    with connected() as (ws, peer):
        peer.send(wire.TEXT, b"a")
        peer.send(wire.TEXT, b"b")
        peer.send(wire.CLOSE, wire.close_payload(1001))
        assert list(ws) == ["a", "b"]
        assert peer.read()[:2] == (wire.CLOSE, wire.close_payload(1001))
        assert peer.rest() == []


def test_iterating_raises_what_is_no_good_end() -> None:
    with connected() as (ws, peer):
        peer.send(wire.TEXT, b"a")
        peer.close()
        messages = iter(ws)
        assert next(messages) == "a"
        with pytest.raises(zcws.ConnectionClosedError):
            next(messages)


def test_only_one_thread_may_read() -> None:
    with connected() as (ws, peer):
        with raw.thread(ws.recv):
            raw.until(lambda: ws._is_read)
            for read in (ws.recv, ws.read_frame, ws.read_batch):
                with pytest.raises(RuntimeError, match="another thread"):
                    read()
            peer.send(wire.TEXT, b"done")


# ---- frames ----


def test_frames_and_batches() -> None:
    with connected() as (ws, peer):
        peer.send_bytes(
            peer.frame(wire.TEXT, b"a") + peer.frame(wire.PING, b"p") + peer.frame(wire.BINARY, b"b")
        )
        frame = ws.read_frame()
        assert (frame.opcode, frame.text) == (zcws.OpCode.TEXT, "a")
        assert ws.read_frame().opcode is zcws.OpCode.PING
        assert peer.read()[:2] == (wire.PONG, b"p")
        with pytest.raises(zcws.StaleFrame):
            frame.text  # noqa: B018
        ws.read_frame()
        peer.send_bytes(b"".join(peer.frame(wire.TEXT, b"%d" % i) for i in range(5)) + peer.frame(wire.CLOSE))
        batches = [[(frame.opcode, frame.to_bytes()) for frame in batch] for batch in ws.batches()]
        flat = [frame for batch in batches for frame in batch]
        assert flat == [*((zcws.OpCode.TEXT, b"%d" % i) for i in range(5)), (zcws.OpCode.CLOSE, b"")]


@pytest.mark.parametrize("origin", list(zcws.PayloadOrigin))
@pytest.mark.parametrize("size", [10, 200_000, 3_000_000])
def test_a_big_message_lands(origin: zcws.PayloadOrigin, size: int) -> None:
    """What is larger than the ring is received straight into the buffer."""
    with connected() as (ws, peer):
        message = bytes(range(256)) * (size // 256 + 1)
        buffer = zcws.PayloadBuffer()
        with raw.thread(lambda: [peer.send(wire.BINARY, message) for _ in range(2)]):
            for _ in range(2):
                frame = ws.read_frame(buffer, origin)
                assert frame.payload == message


def test_views_that_are_held_do_not_stop_the_reader() -> None:
    with connected() as (ws, peer):
        held = []
        with raw.thread(lambda: [peer.send(wire.BINARY, bytes([i]) * 50_000) for i in range(40)]):
            for _ in range(40):
                held.append(ws.read_frame().payload)
        assert all(view == bytes([i]) * 50_000 for i, view in enumerate(held))


# ---- streams ----


class TestStream:
    def test_pieces_come_before_the_frame_is_complete(self) -> None:
        with connected() as (ws, peer):
            data = peer.frame(wire.BINARY, b"abcdef")
            peer.send_bytes(data[:-3])
            with ws.stream(timeout=raw.LONG) as message:
                assert next(message) == b"abc"
                peer.send_bytes(data[-3:])
                assert next(message) == b"def"
                with pytest.raises(StopIteration):
                    next(message)

    def test_no_piece_is_empty(self) -> None:
        with connected() as (ws, peer):
            for fragment in wire.fragments(wire.TEXT, [b"", b"a", b"", b"b", b""], key=peer.key):
                peer.send_bytes(fragment)
            with ws.stream(timeout=raw.LONG) as message:
                assert "" not in (pieces := list(message)) and "".join(pieces) == "ab"  # type: ignore[arg-type]

    @pytest.mark.parametrize("opcode", [wire.TEXT, wire.BINARY])
    def test_pieces_of_one_type(self, opcode: int) -> None:
        with connected() as (ws, peer):
            for fragment in wire.fragments(opcode, [b"a\xe2", b"\x82", b"\xacb"], key=peer.key) * 2:
                peer.send_bytes(fragment)
            with ws.stream(timeout=raw.LONG, decode=True) as words:
                assert "" not in (pieces := list(words)) and "".join(pieces) == "a€b"
            with ws.stream(timeout=raw.LONG, decode=False) as data:
                assert b"".join(data) == "a€b".encode()
            peer.send(wire.BINARY, b"\xff")
            with pytest.raises(UnicodeDecodeError), ws.stream(timeout=raw.LONG, decode=True) as words:
                next(words)
            peer.send(wire.BINARY)
            with ws.stream(timeout=raw.LONG, decode=True) as words:
                assert list(words) == [""]

    def test_text_is_cut_between_characters_and_checked_as_it_comes(self) -> None:
        with connected() as (ws, peer):
            data = peer.frame(wire.TEXT, "a€".encode() + b"\xff" + bytes(1000))
            peer.send_bytes(data[: 8 + 3])  # a head of 8 bytes; the character is cut
            with pytest.raises(zcws.ProtocolError) as caught, ws.stream(timeout=raw.LONG) as message:
                assert next(message) == "a"
                peer.send_bytes(data[11:12])
                assert next(message) == "€"
                peer.send_bytes(data[12:20])
                next(message)
            assert caught.value.code == 1007
            assert peer.read().payload[:2] == (1007).to_bytes(2, "big")

    def test_a_timeout_in_the_middle_does_not_look_like_the_end(self) -> None:
        with connected() as (ws, peer):
            data = peer.frame(wire.TEXT, b"abcdef")
            peer.send_bytes(data[:-3])
            with ws.stream(timeout=0.01) as message:
                assert next(message) == "abc"
                for _ in range(3):
                    with pytest.raises(TimeoutError):
                        next(message)
                peer.send_bytes(data[-3:])
                assert list(message) == ["def"]

    @pytest.mark.parametrize("compressed", [False, True])
    def test_leaving_early_drops_the_rest(self, compressed: bool) -> None:
        with connected(deflate=True) as (ws, peer):
            first = bytes(range(256)) * 1000
            payload = wire.deflate(first) if compressed else first
            data = peer.frame(wire.BINARY, payload, rsv=4 if compressed else 0) + peer.frame(
                wire.TEXT, b"next"
            )
            with raw.thread(lambda: peer.send_bytes(data)):
                with ws.stream() as message:
                    assert first.startswith(next(message))  # type: ignore[arg-type]
                assert ws.recv() == "next"

    def test_left_before_the_first_piece(self) -> None:
        with connected() as (ws, peer):
            peer.send(wire.TEXT, b"whole")
            with ws.stream():
                pass
            assert ws.recv() == "whole"

    def test_an_empty_message_is_one_piece(self) -> None:
        """Whoever passes it on has to know whether it is Text or Binary."""
        with connected() as (ws, peer):
            peer.send_bytes(peer.frame(wire.TEXT, b"") + peer.frame(wire.BINARY, b""))
            for kind in ("", b""):
                with ws.stream() as message:
                    assert list(message) == [kind]

    def test_an_end_in_the_middle(self) -> None:
        with connected() as (ws, peer):
            peer.send_bytes(peer.frame(wire.TEXT, b"abc")[:-1])
            peer.close()
            with pytest.raises(zcws.ConnectionClosedError) as caught, ws.stream() as message:
                assert list(message) == ["ab"]
            assert caught.value.code == 1006

    def test_not_twice_at_once(self) -> None:
        with connected() as (ws, _), ws.stream(), pytest.raises(RuntimeError), ws.stream():
            pass


# ---- ends ----


@pytest.mark.parametrize("how", ["recv", "stream"])
def test_a_bomb_costs_no_more_than_max_size(how: str) -> None:
    with connected(deflate=True, max_size=1_000_000) as (ws, peer):
        bomb = wire.deflate(bytes(100_000_000))
        got = 0

        def send() -> None:
            with contextlib.suppress(OSError):
                peer.send(wire.BINARY, bomb, rsv=4)

        with raw.thread(send):
            with pytest.raises(zcws.LimitExceeded):
                if how == "recv":
                    ws.recv()
                else:
                    with ws.stream() as message:
                        for piece in message:
                            got += len(piece)
        assert got <= 1_000_000


def test_a_read_while_another_thread_closes() -> None:
    """The reader sees the peer's Close; what comes before it does not count."""
    with connected(close_timeout=raw.LONG) as (ws, peer):
        caught: queue.Queue[zcws.ConnectionClosed] = queue.Queue()

        def read() -> None:
            with pytest.raises(zcws.ConnectionClosedOK) as error:
                ws.recv()
            caught.put(error.value)

        with raw.thread(read):
            raw.until(lambda: ws._is_read)
            with raw.thread(ws.close):
                assert peer.read().opcode == wire.CLOSE
                peer.send(wire.TEXT, b"late")
                peer.send(wire.BINARY, bytes(70_000))
                peer.send(wire.CLOSE, wire.close_payload(1000))
                assert peer.rest() == []
                peer.close()
        assert caught.get().clean


@pytest.mark.parametrize("reads", [False, True])
def test_the_middle_of_a_large_message_when_another_thread_closes(reads: bool) -> None:
    """Its bytes are being received straight into their buffer."""
    with connected(close_timeout=raw.LONG) as (ws, peer):
        data = peer.frame(wire.BINARY, bytes(600_000))

        def read() -> None:
            with pytest.raises(zcws.ConnectionClosedOK):
                while True:
                    assert ws.recv() == bytes(600_000)

        with raw.thread(read):
            peer.send_bytes(data[:500_000])
            raw.until(lambda: ws.connection.reader.landing_in is not None)
            with raw.thread(ws.close):
                assert peer.read().opcode == wire.CLOSE
                peer.send_bytes(data[500_000:] if reads else data[500_000:] + data)
                peer.send(wire.CLOSE)
                assert peer.rest() == []
                peer.close()
        assert ws.state is zcws.State.CLOSED


def test_a_close_that_nobody_answers_is_bounded_for_a_reader_too() -> None:
    with connected(close_timeout=0.05) as (ws, peer):
        ws.begin_close()
        stop = threading.Event()

        def talk() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    peer.send(wire.TEXT, b"and another thing")

        with raw.thread(talk):
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                ws.recv()
            stop.set()
        assert caught.value.code == 1006


class TestKeepalive:
    @pytest.mark.parametrize("timeout", [None, 0.002])
    def test_no_pong(self, timeout: float | None) -> None:
        """Also when every read is shorter than the interval."""
        with connected(ping_interval=0.02, ping_timeout=0.02) as (ws, peer):
            with pytest.raises(zcws.ConnectionClosedError, match="keepalive") as caught:
                while True:
                    with contextlib.suppress(TimeoutError):
                        ws.recv(timeout)
            assert caught.value.code == 1011
            frames = peer.rest()
            assert frames[0].opcode == wire.PING
            assert frames[-1][:2] == (wire.CLOSE, wire.close_payload(1011, b"keepalive ping timeout"))

    def test_answered(self) -> None:
        with connected(ping_interval=0.01, ping_timeout=raw.LONG) as (ws, peer):
            with raw.thread(lambda: list(ws)):
                for _ in range(3):
                    ping = peer.read()
                    assert ping.opcode == wire.PING
                    peer.send(wire.PONG, ping.payload)
                raw.until(lambda: ws.latency > 0)
                assert ws.state is zcws.State.OPEN
                peer.send(wire.CLOSE, wire.close_payload(1000))
                peer.rest()
                peer.close()


def test_an_idle_read_does_not_spin() -> None:
    with connected(ping_interval=20, ping_timeout=20, close_timeout=10) as (ws, _peer):
        calls = 0
        receive: Callable[..., int] = ws._channel.receive

        def counted(buffer: memoryview, timeout: float | None) -> int:
            nonlocal calls
            calls += 1
            return receive(buffer, timeout)

        ws._channel.receive = counted  # type: ignore[method-assign]
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.1)
        assert calls <= 3


def test_what_is_shown_of_streams() -> None:
    with connected() as (ws, peer):
        with ws.send_stream() as outgoing:
            assert repr(outgoing) == f"<OutgoingStream of {ws!r}>"
        peer.send(wire.TEXT, b"a")
        with ws.stream() as incoming:
            assert repr(incoming) == f"<IncomingStream of {ws!r}>"
