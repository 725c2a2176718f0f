"""Signal handlers that raise, or use the connection themselves, while the blocking driver reads or writes.

In a wait nothing is lost, nor what C has received and scanned. In the middle of the reader, or where only OpenSSL
knows how much it has given, the peer is told that the connection ends; in the middle of a frame it just ends. Nobody
ever sees bytes that are not what was sent.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import signal
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any, ClassVar

import pytest
import raw
import wire
from joined import connected
from looks import at_look, knows_looks
from net import Certificates

import zcws
from zcws import writer as writer_module
from zcws.reader import Reader
from zcws.ring import Ring
from zcws.sync import channel, plain, polled
from zcws.sync.channel import ENDED
from zcws.sync.stream import WebSocket

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals here")


class Alarm(Exception):
    pass


class LateAlarm(TimeoutError, Alarm):
    """What programs raise that know no other timeout."""


class AlarmFromTheSystem(OSError, Alarm):
    pass


class WrongAlarm(ValueError, Alarm):
    pass


class StrangeAlarm(RuntimeError, Alarm):
    """What a lock raises that one does not have."""


KINDS = [Alarm, LateAlarm, AlarmFromTheSystem, WrongAlarm, StrangeAlarm]

kinds = pytest.mark.parametrize("kind", KINDS)
transports = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


#: The functions of the channel that wait for the peer, and where they are: others have these names, too.
READING = frozenset({"scan", "receive", "_receive_by", "is_ready"})
SENDING = frozenset({"send", "is_ready"})
CHANNELS = frozenset(module.__name__ for module in (channel, plain, polled))


@contextlib.contextmanager
def alarm(ws: WebSocket, act: Callable[[], object], where: frozenset[str] = READING) -> Iterator[None]:
    """SIGALRM comes, and `act` is its handler, once, when what is to be interrupted waits for the peer.

    It comes again and again: on a busy machine the first may be there before that has begun, and one that comes between
    Python's last look for signals and the system call interrupts nothing.
    """

    def handle(_: int, frame: Any) -> None:
        is_inside = frame.f_globals["__name__"] in CHANNELS and frame.f_code.co_name in where
        if is_inside and not ws._channel.record.received:
            signal.setitimer(signal.ITIMER_REAL, 0)
            act()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def raising(kind: type[Alarm]) -> Callable[[], object]:
    def act() -> None:
        raise kind

    return act


READS: dict[str, Callable[[WebSocket], Any]] = {
    "recv": lambda ws: ws.recv(),
    "recv, timed": lambda ws: ws.recv(raw.LONG),
    "read_frame": lambda ws: ws.read_frame().to_bytes().decode(),
    "read_batch": lambda ws: ws.read_batch()[0].to_bytes().decode(),
    "iteration": lambda ws: next(iter(ws)),
}
reads = pytest.mark.parametrize("read", READS.values(), ids=READS)


class TestInAWait:
    @reads
    @kinds
    @transports
    def test_nothing_is_lost(
        self, read: Callable[[WebSocket], Any], kind: type[Alarm], tls: bool, certificates: Certificates
    ) -> None:
        with connected(client=True, certificates=certificates if tls else None) as (ws, peer):
            for message in (b"first", b"second"):
                peer.send_bytes(peer.frame(wire.TEXT, message)[:3])
                with alarm(ws, raising(kind)), pytest.raises(kind):
                    read(ws)
                peer.send_bytes(peer.frame(wire.TEXT, message)[3:])
                assert read(ws) == message.decode()

    @kinds
    def test_a_ping(self, kind: type[Alarm]) -> None:
        with connected() as (ws, peer):
            with alarm(ws, raising(kind)), pytest.raises(kind):
                ws.ping(b"1")
            peer.read()
            peer.send(wire.TEXT, b"still here")
            assert ws.recv() == "still here"

    @kinds
    def test_a_close(self, kind: type[Alarm]) -> None:
        """A TimeoutError was taken for the end of `close_timeout`, and lost."""
        with connected(close_timeout=raw.LONG) as (ws, _):
            with alarm(ws, raising(kind)), pytest.raises(kind):
                ws.close()

    @transports
    def test_a_handler_that_closes(self, tls: bool, certificates: Certificates) -> None:
        """It does not wait for what only the read that it has interrupted can bring."""
        with connected(client=True, close_timeout=raw.LONG, certificates=certificates if tls else None) as (
            ws,
            peer,
        ):
            with raw.thread(lambda: answer_close(peer)), alarm(ws, lambda: ws.close(1001, "told to")):
                with pytest.raises(zcws.ConnectionClosedOK):
                    ws.recv()
            assert (ws.close_code, ws.state) == (1001, zcws.State.CLOSED)

    @pytest.mark.parametrize("use", ["recv", "ping", "stream"])
    def test_a_handler_that_reads(self, use: str) -> None:
        with connected() as (ws, peer):
            found: list[BaseException] = []

            def act() -> None:
                try:
                    if use == "stream":
                        with ws.stream():
                            pass
                    else:
                        getattr(ws, use)()
                except RuntimeError as error:
                    found.append(error)
                peer.send(wire.TEXT, b"for the one below")

            with alarm(ws, act):
                assert ws.recv() == "for the one below"
            assert "signal handler" in str(found[0])

    def test_a_handler_that_sends(self) -> None:
        with connected(client=True) as (ws, peer):
            with alarm(ws, lambda: (ws.send("from the handler"), peer.send(wire.TEXT, b"go on"))):
                assert ws.recv() == "go on"
            assert peer.read().payload == b"from the handler"


def answer_close(peer: raw.Peer) -> None:
    assert peer.read().opcode == wire.CLOSE
    peer.send(wire.CLOSE, wire.close_payload(1001))
    peer.sock.shutdown(2)


def interrupts(function: Any, kind: type[Alarm], behind: int = 0) -> Any:
    """The moment that no test can hit: the function has done its work, and a handler raises before it returns; `behind`
    so many calls that it does not interrupt."""
    calls = iter(range(behind))

    def act(*given: Any, **named: Any) -> Any:
        result = function(*given, **named)
        if next(calls, None) is not None:
            return result
        # An export of a memoryview does not belong into a traceback: see `PayloadBuffer._wrap`.
        del given, named
        raise kind

    return act


def in_steps(function: Any) -> Any:
    """The function, in many steps however late we begin: the kernel goes on for as long as the peer sends, whatever the
    size of its buffers."""
    return lambda record, where, size, *wanted: function(record, where, min(size, 64 * 1024), *wanted)


STEPS = {
    "_receive": plain._receive,
    "_receive_into": in_steps(plain._receive_into),
    "_receive_more": in_steps(plain._receive_more),
}


@pytest.mark.parametrize("moves", [False, True])
@kinds
def test_where_kept_bytes_move(kind: type[Alarm], moves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning of a frame is kept, or has moved to make room and nobody has noted where it is now."""
    keep_from = Ring.keep_from

    def keep(ring: Ring, tail: int) -> int:
        head, result = ring.head, keep_from(ring, tail)
        if (ring.head != head) is moves:
            raise kind
        return result

    with connected() as (ws, peer):
        frame = peer.frame(wire.BINARY, bytes(50_000))
        peer.send_bytes(frame[:100])
        monkeypatch.setattr(Ring, "keep_from", keep)
        with pytest.raises(kind):
            for _ in range(100):
                peer.send_bytes(frame[100:] + frame[:100])
                ws.recv()
        monkeypatch.undo()
        peer.send_bytes(frame[100:])
        if not moves:
            assert ws.recv() == bytes(50_000)
            return
        with pytest.raises(zcws.ConnectionClosedError, match="signal handler"):
            ws.recv(raw.LONG)


class TestBetweenSocketAndReader:
    @reads
    @kinds
    @pytest.mark.parametrize("size", [0, 100, 70_000, 3_000_000])
    def test_nothing_is_lost(
        self,
        read: Callable[[WebSocket], Any],
        kind: type[Alarm],
        size: int,
    ) -> None:
        """What the kernel had given was gone, and the connection with it, without a Close."""
        with connected(client=True) as (ws, peer):
            peer.send(wire.TEXT, b"before")
            assert read(ws) == "before"
            with raw.thread(lambda: peer.send(wire.TEXT, b"x" * size)):
                for calls in range(6 if size > 100_000 else 1):
                    with pytest.MonkeyPatch.context() as patch:
                        for name, function in STEPS.items():
                            patch.setattr(plain, name, interrupts(function, kind, behind=calls % 2))
                        with pytest.raises(kind):
                            read(ws)
                assert read(ws) == "x" * size
            peer.send(wire.TEXT, b"behind it")
            assert read(ws) == "behind it"

    @reads
    @kinds
    @pytest.mark.parametrize("size", [0, 100, 70_000])
    def test_over_tls_the_peer_is_told_that_it_ends(
        self,
        read: Callable[[WebSocket], Any],
        kind: type[Alarm],
        size: int,
        certificates: Certificates,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with connected(client=True, certificates=certificates) as (ws, peer):
            peer.send(wire.TEXT, b"before")
            assert read(ws) == "before"
            peer.send_bytes((peer.frame(wire.TEXT, b"x" * size) * 3)[:-1])
            received = type(ws._channel)._receive_now
            monkeypatch.setattr(type(ws._channel), "_receive_now", interrupts(received, kind))
            with pytest.raises(kind):
                for _ in range(4):
                    read(ws)
            monkeypatch.undo()
            assert int.from_bytes(peer.read().payload[:2], "big") == 1011
            for act in (lambda: read(ws), lambda: ws.send("more"), lambda: ws.recv(0)):
                with pytest.raises((zcws.ConnectionClosedError, StopIteration)):
                    act()
            assert ws.close_code == 1011
            assert "signal handler" in str(ws.close_reason)
            with contextlib.suppress(OSError):
                assert peer.sock.recv(1) == b""

    def test_a_half(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with connected() as (ws, peer):
            reader, writer, bridge = ws.split()
            peer.send(wire.TEXT, b"kept")
            monkeypatch.setattr(plain, "_receive", interrupts(plain._receive, Alarm))
            with pytest.raises(Alarm):
                reader.recv()
            monkeypatch.undo()
            assert reader.recv() == "kept"
            peer.send(wire.TEXT, b"half taken")
            monkeypatch.setattr(Reader, "read_batch", interrupts(Reader.read_batch, Alarm))
            with pytest.raises(Alarm):
                reader.read_batch()
            monkeypatch.undo()
            reply = bridge.listen(raw.LONG)
            assert reply is not None
            assert writer.send_reply(reply)
            assert int.from_bytes(peer.read().payload[:2], "big") == 1011
            peer.half_close()
            with pytest.raises(zcws.ConnectionClosedError, match="signal handler"):
                reader.recv()
            with pytest.raises(zcws.ConnectionClosedError):
                writer.send("more")

    @transports
    def test_behind_a_beginning_that_is_kept(
        self, tls: bool, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with connected(certificates=certificates if tls else None) as (ws, peer):
            data = peer.frame(wire.TEXT, b"x" * 1000)
            peer.send_bytes(data[:-500])
            with pytest.raises(TimeoutError):
                ws.recv(0.01)
            peer.send_bytes(data[-500:] + peer.frame(wire.TEXT, b"no frame without them"))
            owner, name = (type(ws._channel), "_receive_now") if tls else (plain, "_receive_more")
            monkeypatch.setattr(owner, name, interrupts(getattr(owner, name), Alarm))
            with pytest.raises(Alarm):
                ws.recv()
            monkeypatch.undo()
            if not tls:
                assert [ws.recv(), ws.recv()] == ["x" * 1000, "no frame without them"]
                return
            with pytest.raises(zcws.ConnectionClosedError, match="signal handler"):
                ws.recv()

    @kinds
    def test_in_the_reader(self, kind: type[Alarm], monkeypatch: pytest.MonkeyPatch) -> None:
        """What has been half handed on is not handed on. It was, where the handler raised a ValueError or a
        RuntimeError: as a reader does that has done nothing."""
        with connected() as (ws, peer):
            peer.send_bytes(peer.frame(wire.TEXT, b"one") + peer.frame(wire.TEXT, b"two"))
            monkeypatch.setattr(Reader, "read_batch", interrupts(Reader.read_batch, kind))
            with pytest.raises(kind):
                ws.read_batch()
            assert int.from_bytes(peer.read().payload[:2], "big") == 1011
            with pytest.raises(zcws.ConnectionClosedError, match="signal handler"):
                ws.recv()

    @knows_looks
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one in a finalizer
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    @pytest.mark.parametrize("deflate", [False, True])
    @pytest.mark.parametrize("read", ["recv", "read_frame", "read_batch"])
    @pytest.mark.parametrize("client", [False, True])
    def test_wherever_it_is_the_peer_sees_a_close(
        self, client: bool, read: str, deflate: bool, tls: bool, certificates: Certificates
    ) -> None:
        """Of 208 moments at which Ctrl-C came while a Ping and a message were read, 113 were an end of the stream for
        the peer: 1006."""
        options: Any = {"client": client, "deflate": deflate, "certificates": certificates if tls else None}
        for number in count(1):
            with connected(close_timeout=raw.LONG, **options) as (ws, peer):
                frames = [peer.frame(opcode, b"?") for opcode in (wire.TEXT, wire.PONG, wire.TEXT)]
                peer.send_bytes(b"".join(frames))
                seen: list[wire.Seen] = []
                with contextlib.suppress(Alarm), at_look(number, raising(Alarm)) as fired:
                    getattr(ws, read)()
                with raw.thread(partial(collect, seen, peer)):
                    ws.close(1011)
                assert seen[-1].payload[:2] == b"\x03\xf3", number
            if not fired:
                break

    def test_a_lock_that_nobody_knows_he_has(self) -> None:
        with connected() as (ws, peer):
            lock = ws._reading
            ws._reading = Interrupting(lock)  # type: ignore[assignment]
            with pytest.raises(Alarm):
                ws.recv()
            ws._reading = lock
            peer.send(wire.TEXT, b"still here")
            received: list[object] = []
            with raw.thread(lambda: received.append(ws.recv())):
                pass
            assert received == ["still here"]


def collect(seen: list[wire.Seen], peer: raw.Peer, *, may_end: bool = False) -> None:
    """What comes, up to a Close, which is answered."""
    while True:
        try:
            frame = peer.read()
        except (AssertionError, OSError):
            if may_end:
                return
            raise
        seen.append(frame)
        if frame.opcode == wire.CLOSE:
            with contextlib.suppress(OSError):  # who is lost has hung up
                peer.send(wire.CLOSE, frame.payload)
                peer.sock.shutdown(socket.SHUT_RDWR)
            return


class Interrupting:
    """A lock whose holder is interrupted before he knows that he has it."""

    def __init__(self, lock: threading.RLock) -> None:  # type: ignore[valid-type]
        self.acquire = interrupts(lock.acquire, Alarm)  # type: ignore[attr-defined]
        self.release = lock.release  # type: ignore[attr-defined]


def takes_a_ping(ws: WebSocket, peer: raw.Peer) -> None:
    peer.send(wire.PING, b"?")
    peer.send(wire.TEXT, b"behind it")
    ws.recv()


def pings(ws: WebSocket, peer: raw.Peer) -> None:
    peer.send(wire.PONG, b"!")
    ws.ping(b"!")


def closes(ws: WebSocket, peer: raw.Peer) -> None:
    peer.send(wire.CLOSE)
    peer.half_close()
    ws.close()


def quiet(use: Callable[[], object]) -> Callable[[], None]:
    def act() -> None:
        with contextlib.suppress(zcws.ConnectionClosed, TimeoutError):
            use()

    return act


def sends_fragments(ws: WebSocket, _: raw.Peer) -> None:
    with ws.cork():
        ws.send(["frag", "ments"])


def aborts(ws: WebSocket, _: raw.Peer) -> None:
    ws.abort()


ACTS = [takes_a_ping, pings, closes, sends_fragments, aborts]


@knows_looks
# It may also raise in a finalizer.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("act", ACTS)
def test_wherever_a_handler_raises_no_lock_stays_held(act: Callable[[WebSocket, raw.Peer], None]) -> None:
    """Behind the call that had got the lock of the writers it did: every later send waited for ever. Nor is anybody
    taken to be in the socket who is out: it was not closed any more."""
    for number in count(1):
        with connected() as (ws, peer):
            with contextlib.suppress(Alarm), at_look(number, raising(Alarm)) as fired:
                act(ws, peer)
            for use in (lambda: ws.send("after"), lambda: ws.recv(0)):
                with raw.thread(quiet(use)):
                    pass
            ws.abort()
            assert ws._channel.sock.fileno() == -1, number
        if not fired:
            break


@knows_looks
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
@kinds
def test_what_a_handler_raises_while_a_send_looks_at_what_has_arrived(
    kind: type[Alarm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that finds nothing is none of the sender's business. What a handler raises there is: it was lost, where
    it was a TimeoutError, and the program went on."""
    monkeypatch.setattr("zcws.sync.answering._NEXT_LOOK", 0.0)
    for number in count(1):
        with connected() as (ws, peer):
            peer.send(wire.TEXT, b"unread")
            raised = False
            gc.disable()  # what is raised in a finalizer is never seen
            try:
                with at_look(number, raising(kind)) as fired:
                    ws.send("tick")
            except kind:
                raised = True
            finally:
                gc.enable()
        assert raised == bool(fired), number
        if not fired:
            break


@knows_looks
def test_what_a_handler_raises_while_the_socket_is_being_closed() -> None:
    for number in count(1):
        with connected() as (ws, _):
            raised = False
            try:
                with at_look(number, raising(Alarm)) as fired:
                    ws.abort()
            except Alarm:
                raised = True
            assert raised == bool(fired), number
        if not fired:
            break


@knows_looks
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("client", [False, True])
def test_wherever_a_handler_raises_in_a_close_the_next_one_ends_it(client: bool, split: bool) -> None:
    """Ctrl-C in the first half of `close`: the end of the block raised ConnectionClosedError in its place, and left the
    socket open; or waited for `close_timeout`, for a thread that was out."""
    for number in count(1):
        with connected(client=client, close_timeout=2 * raw.LONG) as (ws, peer):
            if split:
                ws.split()
            with contextlib.suppress(Alarm), at_look(number, raising(Alarm)) as fired:
                ws.begin_close(4000)
            peer.half_close()
            with raw.thread(ws.close):
                pass
            assert ws._channel.sock.fileno() == -1, number
        if not fired:
            break


@knows_looks
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
@pytest.mark.parametrize("client", [False, True])
def test_wherever_a_handler_raises_in_a_close_of_both_halves_there_is_one(client: bool) -> None:
    """Between that they were taken over and that their Close was left to somebody, the next `close` found the first,
    and nobody said the second."""
    for number in count(1):
        with connected(client=client, close_timeout=raw.LONG) as (ws, peer):
            ws.split()
            with contextlib.suppress(Alarm), at_look(number, raising(Alarm)) as fired:
                ws.begin_close(4000)
            is_lost = ws.state is zcws.State.LOST  # in the middle of the Close itself
            seen: list[wire.Seen] = []
            with raw.thread(partial(collect, seen, peer, may_end=is_lost)):
                ws.close(4000)
            assert is_lost or [frame.payload for frame in seen] == [b"\x0f\xa0"], number
        if not fired:
            break


class TestInTheMiddleOfAFrame:
    @kinds
    @transports
    @pytest.mark.parametrize("client", [False, True])
    @pytest.mark.parametrize("message", [b"x" * 30_000, b"x" * 20_000_000, bytearray(20_000_000)], ids=len)
    def test_nothing_follows_it(
        self, kind: type[Alarm], tls: bool, client: bool, message: bytes, certificates: Certificates
    ) -> None:
        with connected(client=client, certificates=certificates if tls else None) as (ws, peer):
            with alarm(ws, raising(kind), SENDING), pytest.raises(kind):
                while True:
                    ws.send(message)
            for act in (lambda: ws.send("more"), ws.close, ws.recv):
                with contextlib.suppress(zcws.ConnectionClosedError):
                    act()
            assert (ws.close_code, ws.state) == (1011, zcws.State.LOST)
            assert "signal handler" in str(ws.close_reason)
            with pytest.raises((AssertionError, OSError)):  # the end comes in the middle of a frame
                while True:
                    assert peer.read().payload == message

    @kinds
    def test_what_the_peer_has_said_is_not_the_reason(self, kind: type[Alarm]) -> None:
        with connected() as (ws, peer):
            peer.send(wire.CLOSE, b"\x03\xe9")
            ws._channel.send = interrupts(ws._channel.send, kind)  # type: ignore[method-assign]
            with pytest.raises(kind):
                ws.send("perhaps")
            assert ws.close_code == 1011

    def test_a_half(self) -> None:
        with connected() as (ws, peer):
            _, writer, _ = ws.split()
            with alarm(ws, raising(Alarm), SENDING), pytest.raises(Alarm):
                writer.send(bytes(20_000_000))
            with pytest.raises(zcws.ConnectionClosedError):
                writer.send("more")
            with pytest.raises((AssertionError, OSError)):
                peer.read()

    @pytest.mark.parametrize("client", [False, True])
    @pytest.mark.parametrize("size", [30_000, 3_000_000])
    def test_what_a_handler_sends_comes_behind_it(self, client: bool, size: int) -> None:
        with connected(client=client) as (ws, peer):
            sent: list[bytes] = []
            seen: list[bytes] = []

            def act() -> None:
                ws.send("from the handler")
                ws.pong(b"and more")
                sent.append(b"")

            with alarm(ws, act, SENDING), raw.thread(lambda: seen.extend(read_until(peer, sent))):
                while not sent:
                    ws.send(b"x" * size)
                    assert len(seen) < 10_000
                ws.send("the last")
            assert seen[-1] == b"the last"
            assert seen.count(b"from the handler") == seen.count(b"and more") == 1
            assert set(seen) == {b"x" * size, b"from the handler", b"and more", b"the last"}


def read_until(peer: raw.Peer, sent: list[bytes]) -> Iterator[bytes]:
    """All payloads up to the last one; slowly at first, so that the writer has to wait."""
    while not sent:
        threading.Event().wait(0.005)
    payload = b""
    while payload != b"the last":
        payload = peer.read().payload
        yield payload


class LetGo:
    """A lock whose holder is interrupted, once, where he has just let it go."""

    def __init__(self, lock: threading.RLock) -> None:  # type: ignore[valid-type]
        self._lock = lock
        self._left = [None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)

    def __enter__(self) -> None:
        self._lock.__enter__()  # type: ignore[attr-defined]

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__(None, None, None)
        if self._left:
            self._left.pop()
            raise Alarm


class TestAtTheEdgeOfABlock:
    """What the block has counted stayed counted: all that was sent later waited for ever."""

    def test_of_what_goes_out_together(self) -> None:
        with connected() as (ws, peer):
            ws._write_lock = LetGo(ws._write_lock)  # type: ignore[assignment]
            with pytest.raises(Alarm), ws.cork():
                ws.send("perhaps")
            ws.send("the last")
            while peer.read().payload != b"the last":
                pass

    def test_of_a_message_in_fragments(self) -> None:
        with connected() as (ws, peer):
            ws._write_lock = LetGo(ws._write_lock)  # type: ignore[assignment]
            with pytest.raises(Alarm):
                ws.send(["per", "haps"])
            with raw.thread(lambda: ws.send("another thread's")):
                assert peer.read().payload == b"another thread's"

    def test_of_a_split(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It had been split, and nobody had the halves: it could not even be closed."""
        with connected() as (ws, peer):
            monkeypatch.setattr("zcws.sync.stream.Halves", lambda *_: raising(Alarm)())
            with pytest.raises(Alarm):
                ws.split()
            ws.send("still here")
            assert peer.read().payload == b"still here"


class TestWhileItIsCompressed:
    @pytest.mark.parametrize("takeover", [True, False])
    def test_what_was_not_sent_is_not_referred_to(self, takeover: bool) -> None:
        parameters = zcws.DeflateParameters(server_no_context_takeover=not takeover)
        with connected(deflate=parameters) as (ws, peer):
            texts = [
                b"a message that comes first" * 10,
                b"a message that comes first, and is interrupted" * 10,
            ]
            ws.send(texts[0])
            codec = type(ws.connection.compressor)
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Alarm):
                patch.setattr(codec, "message", interrupts(codec.message, Alarm))
                ws.send(texts[1])
            ws.send(texts[1])
            inflate = zlib.decompressobj(wbits=-15)
            for text in texts:
                frame = peer.read()
                assert frame.rsv == 4
                if not takeover:
                    inflate = zlib.decompressobj(wbits=-15)
                assert inflate.decompress(frame.payload + b"\0\0\xff\xff") == text


def interrupted_by(real: Any, act: Callable[[], object]) -> Any:
    """The moment that no test can hit: the function has done its work, and before it returns a handler does `act`."""
    pending = [act]

    def call(*given: Any, **named: Any) -> Any:
        result = real(*given, **named)
        if pending:
            pending.pop()()
        return result

    return call


class TestAHandlerThatWritesInTheMiddleOfAWrite:
    """It goes out behind what it has interrupted. It used to be written into it: into the scratch that a frame was
    masked in, between a message's compression and its flush, into a half's payload."""

    MESSAGES: ClassVar[list[bytes]] = [b"a message that is interrupted, " * 20, b"from the handler, " * 20]

    def inflated(self, frames: list[wire.Seen]) -> list[bytes]:
        inflate = zlib.decompressobj(wbits=-15)
        return [
            inflate.decompress(frame.payload + b"\0\0\xff\xff") if frame.rsv else frame.payload
            for frame in frames
        ]

    @pytest.mark.parametrize("corked", [False, True])
    @pytest.mark.parametrize("kind", [bytes, bytearray])
    def test_while_a_frame_is_masked(
        self, corked: bool, kind: type[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with connected(client=True) as (ws, peer):
            interrupted = interrupted_by(writer_module._build_masked, lambda: ws.send(kind(self.MESSAGES[1])))
            monkeypatch.setattr(writer_module, "_build_masked", interrupted)
            with ws.cork():
                ws.send(kind(self.MESSAGES[0]))
                if not corked:
                    ws.flush()
            assert [frame.payload for frame in peer.frames(2)] == self.MESSAGES

    def test_while_a_message_is_compressed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with connected(deflate=True) as (ws, peer):
            codec = type(ws.connection.compressor)
            monkeypatch.setattr(
                codec, "is_worth", interrupted_by(codec.is_worth, lambda: ws.send(self.MESSAGES[1]))
            )
            ws.send(self.MESSAGES[0])
            assert self.inflated(peer.frames(2)) == self.MESSAGES

    @pytest.mark.parametrize("what", ["frame", "fragments", "ping", "pong", "close", "begin_close", "flush"])
    def test_whatever_it_writes(self, what: str) -> None:
        """It does not wait for answers: what would have to go out first is what it has interrupted."""
        with connected() as (ws, peer):
            memory = bytearray(b"behind")

            def act() -> None:
                if what == "ping":
                    with pytest.raises(RuntimeError, match="interrupted a write"):
                        ws.ping()
                elif what == "frame":
                    ws.write_frame(zcws.Frame.binary(memory))
                elif what == "fragments":
                    ws.send([memory[:2], memory[2:]])
                elif what == "pong":
                    ws.pong(memory)
                elif what == "flush":
                    ws.flush()
                else:
                    getattr(ws, what)(4000, "behind")
                memory[:] = b"no one"  # it is the program's again

            ws._channel.send = interrupted_by(ws._channel.send, act)  # type: ignore[method-assign]
            ws.send("interrupted")
            with contextlib.suppress(zcws.ConnectionClosed):
                ws.send("behind")
            assert peer.read().payload == b"interrupted"
            assert peer.read().payload[-2:] in (b"be", b"nd")

    @pytest.mark.parametrize("way", ["send", "send_stream"])
    def test_in_a_message_in_fragments(self, way: str, caplog: pytest.LogCaptureFixture) -> None:
        """Its message was lost, and the log said that a message was going out in fragments."""
        with connected() as (ws, peer):

            def act() -> None:
                ws.send("behind the message")
                ws.write_frame(zcws.Frame.text("and behind that"))
                ws.pong(b"behind the frame")

            ws._channel.send = interrupted_by(ws._channel.send, act)  # type: ignore[method-assign]
            if way == "send":
                ws.send(iter(["in ", "pieces"]))
            else:
                with ws.send_stream() as message:
                    message.write("in ")
                    message.write("pieces")
            seen = peer.frames(6)
            assert [(frame.opcode, frame.payload) for frame in seen if frame.opcode or frame.payload] == [
                (wire.TEXT, b"in "),
                (wire.PONG, b"behind the frame"),
                (wire.CONTINUATION, b"pieces"),
                (wire.TEXT, b"behind the message"),
                (wire.TEXT, b"and behind that"),
            ]
        assert not caplog.records

    def test_its_own_mistake_is_not_raised_in_what_it_has_interrupted(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with connected() as (ws, peer):

            def act() -> None:
                ws.pong(bytes(126))
                ws.send("behind it")

            ws._channel.send = interrupted_by(ws._channel.send, act)  # type: ignore[method-assign]
            ws.send("whole")
            assert [frame.payload for frame in peer.frames(2)] == [b"whole", b"behind it"]
        assert "what a signal handler wanted to write could not be sent" in caplog.text

    def test_in_its_order(self) -> None:
        with connected() as (ws, peer):
            send = ws._channel.send

            def act() -> None:
                ws.send("1")
                ws.pong(b"2")
                ws.begin_close(4000, "3")

            ws._channel.send = interrupted_by(send, act)  # type: ignore[method-assign]
            ws.send("0")
            assert [frame.payload[-1:] for frame in peer.frames(4)] == [b"0", b"1", b"2", b"3"]

    def test_a_handler_that_reads_what_has_to_be_answered(self) -> None:
        """The Pong goes out behind what was interrupted as well."""
        with connected() as (ws, peer):
            send = ws._channel.send

            def act() -> None:
                peer.send(wire.PING, b"?")
                peer.send(wire.TEXT, b"read")
                assert ws.recv() == "read"

            ws._channel.send = interrupted_by(send, act)  # type: ignore[method-assign]
            ws.send("0")
            assert [(frame.opcode, frame.payload) for frame in peer.frames(2)] == [
                (wire.TEXT, b"0"),
                (wire.PONG, b"?"),
            ]

    @pytest.mark.parametrize("when", ["before it is sent", "behind that"])
    def test_a_half(self, when: str) -> None:
        with connected() as (ws, peer):
            _, writer, _ = ws.split()
            send = ws._channel.send

            def act() -> None:
                memory = bytearray(b"1")
                writer.send(memory)
                writer.write_frame(zcws.Frame.binary(memory))
                memory[:] = b"x"
                writer.flush()
                assert writer.send_reply(zcws.Reply(zcws.OpCode.PONG, b"2")) is False
                writer.close(4000, "3")

            if when == "behind that":
                ws._channel.send = interrupted_by(send, act)  # type: ignore[method-assign]
            else:
                handle = interrupted_by(lambda: None, act)
                ws._channel.send = lambda segments: (handle(), send(segments))  # type: ignore[method-assign]
            writer.send("0")
            assert [frame.payload[-1:] for frame in peer.frames(5)] == [b"0", b"1", b"1", b"2", b"3"]


def test_a_handler_may_abort_what_holds_the_lock_of_tls(certificates: Certificates) -> None:
    """The lock was one that a thread cannot have twice: it waited for itself."""
    with connected(certificates=certificates) as (ws, _):
        with ws._channel._lock:  # type: ignore[attr-defined]
            ws.abort()
        assert ws._channel.sock.fileno() < 0


def test_a_socket_is_not_closed_under_a_frame_that_is_being_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """C sends it part by part, and its number was another socket's by then: the rest of the frame went there."""
    with connected(client=True) as (ws, _):
        number = ws._channel.sock.fileno()

        def send(fd: int, *_: Any) -> int:
            ws.abort()  # by another thread, while this one is in C
            assert fd == number
            with socket.socket() as other:
                assert other.fileno() != number
            return -1

        monkeypatch.setattr(plain, "_send_masked", send)
        with pytest.raises(zcws.ConnectionClosedError):
            ws.send(b"x" * 100_000)
        assert ws._channel.sock.fileno() == -1
        with pytest.raises(zcws.ConnectionClosedError):
            ws._send_masked(zcws.OpCode.TEXT, b"too late")


class Aborted:
    """A socket that another thread aborts when this one calls its method `name`, and knows its number already."""

    def __init__(self, ws: WebSocket, name: str) -> None:
        self.sock, self.abort, self.name = ws._channel.sock, ws.abort, name
        vars(self)[name] = self.use

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def use(self, *_: Any) -> int:
        vars(self).pop(self.name)
        number = self.sock.fileno()
        self.abort()
        with socket.socket() as other:
            assert other.fileno() != number
        raise BrokenPipeError(errno.EPIPE, "it has been shut down")


@pytest.mark.parametrize("name", ["send", "sendmsg", "shutdown", "_receive", "_receive_into", "is_ready"])
def test_a_socket_is_not_closed_under_a_thread_that_uses_it(
    name: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5,700 that were aborted under a reader that had much to read, 2 readers took bytes of the next socket; over
    TLS 3 of 15 waited for those."""
    with connected(certificates=certificates if name == "is_ready" else None) as (ws, peer):
        sock = ws._channel.sock
        ws._channel.sock = aborted = Aborted(ws, name)  # type: ignore[assignment]

        def wait(*_: Any, **__: Any) -> int:
            with pytest.raises(BrokenPipeError):
                aborted.use()
            return ENDED

        if name == "shutdown":
            ws._channel.end()
        elif name not in ("send", "sendmsg"):
            monkeypatch.setattr(polled if name == "is_ready" else plain, name, wait)
            if name == "_receive_into":
                peer.send_bytes(peer.frame(wire.TEXT, b"begun")[:3])
            with pytest.raises(zcws.ConnectionClosedError):
                ws.recv()
        else:
            with pytest.raises(zcws.ConnectionClosedError):
                ws.send(bytes(100 if name == "send" else 100_000))
        assert sock.fileno() == -1


def test_a_handler_that_raises_in_the_tls_handshake_of_a_client(certificates: Certificates) -> None:
    """No socket is left open, or pytest would fail the test: OpenSSL's wrapper closes its own on errors alone."""

    def handle(_: int, frame: Any) -> None:
        if frame.f_code.co_name == "do_handshake":
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Alarm

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Alarm):
            port = silent.getsockname()[1]
            zcws.sync.connect(f"wss://127.0.0.1:{port}/", ssl=certificates.client, open_timeout=None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signals_do_not_lengthen_write_timeout() -> None:
    # Python repeats a send that a signal has interrupted, and the kernel would count anew.
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        with connected(write_timeout=0.3) as (ws, _):
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            with pytest.raises(zcws.ConnectionClosedError, match="write_timeout"):
                ws.send(bytes(30_000_000))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("how", ["alone", "split"])
def test_the_answer_to_our_close_that_came_during_a_pause(how: str) -> None:
    """The process is stopped, or a handler takes its time, until close_timeout is over: the answer has come."""
    with connected(close_timeout=1) as (ws, peer):

        def pause() -> None:
            peer.send(wire.CLOSE, wire.close_payload(1000))
            peer.sock.shutdown(socket.SHUT_WR)
            threading.Event().wait(1.1)

        if how == "split":
            ws.split()
        with alarm(ws, pause):
            ws.close()
        assert ws.close_code == 1000
