"""The blocking driver: one open connection on a blocking socket.

Reading is in reading.py; a write goes out before it returns, in one system call. Without a split, one thread may read
while any number write: writes hold a lock, because the reader writes the replies to Ping and Close itself. After
`split()` the reader never writes, and no lock of ours is left (see halves.py).

The reader never waits for that lock: its holder may be waiting for a peer that will not read before it has been read
from. A reply that cannot go out stays on the bridge, and whoever holds the lock sends it when done.

A lock that nobody waits for is got inside of the `try` that lets it go: a signal handler may raise behind the call that
has got it, before anybody knows. That it was not got, `release` says itself, in place: a handler may also raise where a
function begins.

There is no thread but the caller's. Keepalive therefore runs while somebody reads: the wait for bytes ends when a Ping
is due. A read that times out loses nothing; the next one goes on. `ping` and `close` have to see what the peer
answers: they read when nobody else does, keep what they meet for `recv`, and step aside for it. So does a program that
only sends: now and then a write looks at what has arrived (`_look`), without waiting for it.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn, TypeVar

from zcws.annotations import Buffer, Self
from zcws.closing import GRACE, State
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.errors import NO_PONG, ConnectionClosed
from zcws.http import Request, Response
from zcws.options import Timeouts, checked_wait
from zcws.payloads import as_control_payload
from zcws.stats import Known, Stats, stats_of
from zcws.sync.channel import Channel
from zcws.sync.deadline import after, is_past, left, lock_timeout
from zcws.sync.halves import BridgeHalf, Halves, ReaderHalf, Taken, WriterHalf
from zcws.sync.in_order import is_of_a_lock
from zcws.sync.keepalive import Keepalive
from zcws.sync.reading import Reading
from zcws.sync.writing import Writing

__all__ = ["WebSocket"]

_Result = TypeVar("_Result")

#: Seconds until the reader tries again to say Pong to a peer that did not read.
_NEXT_TRY = 0.1

#: Seconds from one look at what has arrived to the next, in a program that only sends: a peer may want its Pong in one.
_NEXT_LOOK = 0.2

#: Seconds for which a ping waits outside of its turn, while what it has met waits for `recv`: who takes the Pong there
#: does not wake it.
_STEP_ASIDE = 0.01

#: Receives of one such look: a ring may be filled, and the sender is not held up by a peer that never stops.
_LOOKS = 16


class Interrupted(RuntimeError):
    """A signal handler wants to read from the connection whose read it has interrupted."""

    def __init__(self) -> None:
        super().__init__("a signal handler cannot read from the connection whose read it has interrupted")


class AlreadySplit(RuntimeError):
    """Somebody wants to use a connection that is split as if it were whole."""

    def __init__(self) -> None:
        super().__init__("this connection is split: its halves read and write")


class SplitLock:
    """What a connection that is split has in place of its locks: its halves have none, and nothing may get between."""

    def acquire(self, **_: object) -> NoReturn:
        raise AlreadySplit

    __enter__ = acquire

    def release(self, *_: object) -> None:
        """It has never been entered."""

    __exit__ = release


class WebSocket(Reading, Writing, Known):
    """An open WebSocket connection. Made by `connect` and `serve`, not by hand.

    Iterating over it gives messages until the connection ends well; `recv` raises instead. One thread may read at a
    time; any number may write.

    Attributes:
        connection: the connection without its socket.
        request, response: the opening handshake.
    """

    _driver = "blocking, "

    request: Request  # None where somebody has made a connection by hand; `connect` and `serve` never do
    response: Response

    def __init__(
        self,
        channel: Channel,
        connection: Connection,
        options: Timeouts,
        *,
        request: Request | None = None,
        response: Response | None = None,
        received: bytes = b"",
    ) -> None:
        keepalive = Keepalive(options.ping_interval, options.ping_timeout, connection)
        Reading.__init__(self, connection, channel, options, keepalive)
        Writing.__init__(self, connection, channel, options)
        self.request = request  # type: ignore[assignment]
        self.response = response  # type: ignore[assignment]
        self._usual_wait = self._longest_wait
        # The same thread may have it twice: a signal handler may interrupt between getting it and knowing so.
        self._reading = threading.RLock()
        self._in_turn = False  # whoever has it reads
        self._is_read = False  # by `recv` and its like, not by `ping` or `close`
        self._turns_wanted: list[None] = []  # one for each thread that wants to read and waits for a helper
        self._helpers: list[threading.Event] = []  # of threads that wait for what the reader finds
        self._is_closed = False
        self._halves: Halves | None = None
        self._next_look = time.monotonic() + _NEXT_LOOK
        # The peer's Close stands behind what nobody reads: how many rows had been read, and until when it waits.
        self._ending_behind: tuple[int, float] | None = None
        # Weakly: a connection that is over goes, with its rings and its compressor, when the last reference does, and
        # does not wait for the collector, which counts objects and not their memory.
        this = weakref.ref(self)
        self._reader.on_pong = lambda payload: _of(this)._on_pong(payload)
        # While another thread writes, a reply stays on the bridge.
        self._bridge.on_put = lambda: _of(this)._on_put()
        if received:
            self._feed(received)

    def _feed(self, data: bytes) -> None:
        """Bytes that arrived together with the end of the opening handshake."""
        self._channel.record.total += len(data)
        used = self._reader.receive_bytes(memoryview(data))
        if used < len(data):
            raise ConnectionError("more bytes behind the opening handshake than a ring holds")
        self._answer_peer()

    # ---- reading ----

    def _alone(self, read: Callable[[float | None], _Result], timeout: float | None) -> _Result:
        # `_turn`, without its generator.
        reading = self._reading
        try:
            if not reading.acquire(blocking=False):
                timeout = self._await_turn(timeout)
            if self._in_turn:
                raise Interrupted
            self._in_turn = self._is_read = True
        except BaseException:
            with contextlib.suppress(RuntimeError):
                reading.release()
            raise
        try:
            return read(timeout)
        except ConnectionClosed:
            if self.connection.failure is None:
                raise
            raise self.connection.error() from None  # the reader does not know why the writer failed
        finally:
            self._is_read = self._in_turn = False
            reading.release()
            if self._helpers:
                self._call_helpers()

    @contextlib.contextmanager
    def _turn(self, *, wait: bool = True) -> Iterator[bool]:
        """As in `_alone`: `ping` and `close` of other threads read too, and what they have begun to scan is theirs.

        Yields: whether it is our turn; only without a `wait` it may not be.
        """
        reading = self._reading
        try:
            if reading.acquire(blocking=False):
                if self._in_turn:  # the lock does not keep out a signal handler of the same thread
                    raise Interrupted
                if reading is not self._reading:
                    self._reading.acquire()  # which says that it has been split meanwhile
            elif wait:
                self._await_turn(None)
            else:
                yield False
                return
            self._in_turn = True
            try:
                yield True
            finally:
                self._in_turn = False
        finally:
            try:
                reading.release()
            except RuntimeError as error:
                if not is_of_a_lock(error):
                    raise
            else:
                self._call_helpers()

    def _await_turn(self, timeout: float | None) -> float | None:
        """Waits until `ping` or `close` in another thread steps aside. Returns the seconds that are left."""
        if self._is_read:
            raise RuntimeError("another thread is reading from this connection already")
        deadline = after(timeout)
        reading, longest = self._reading, lock_timeout(timeout)
        try:
            self._turns_wanted.append(None)
            if 0 <= longest < GRACE and self._has_news:
                longest = GRACE  # for whoever has it to step aside: that is no wait for the peer
            if not reading.acquire(timeout=longest):
                raise TimeoutError("nothing was received in time")
        finally:
            self._turns_wanted.pop()
            self._call_helpers()
        if reading is not self._reading:
            reading.release()
            self._reading.acquire()  # which says that it has been split meanwhile
        return left(deadline)

    @property
    def _has_news(self) -> bool:
        """Whether there is something to read, while another thread has the turn: in the order in which it moves on."""
        channel = self._channel
        if self._writer.sent_close is not None:
            return False  # who closes drops it, and does not step aside
        return channel.is_readable or bool(channel.record.received or self._reader.rows_waiting)

    def _help(
        self,
        done: Callable[[], bool],
        work: Callable[[], Callable[[], object] | None],
        deadline: float | None,
    ) -> bool:
        """Does `work`, which reads, as soon as nobody else reads, unless `done` comes before.

        Args:
            work: gives what waits until it is done again, outside of our turn: somebody else has to read first. None:
                it got somewhere.

        Returns: whether it is done. False: another thread reads, and it is later than `deadline`. No TimeoutError: that
            may be a signal handler's.

        Raises:
            Interrupted: who reads is whom we have interrupted.
        """
        bell = threading.Event()
        try:
            self._helpers.append(bell)
            while not done():
                bell.clear()
                is_ours = False
                if not self._turns_wanted:
                    with self._turn(wait=False) as is_ours:
                        pause = work() if is_ours else None
                    if pause is not None:
                        pause()
                if not is_ours and not done() and not bell.wait(left(deadline)):
                    return False
            return True
        finally:
            self._helpers.remove(bell)

    def _call_helpers(self) -> None:
        for bell in list(self._helpers):
            bell.set()

    def _on_pong(self, payload: bytes) -> None:
        self._keepalive.answered(payload)
        self._call_helpers()

    # ---- what the protocol owes to the peer ----

    def _on_put(self) -> None:
        """A reply is on the bridge, or the reader has come to its end. In the reader's thread."""
        self._unless_busy(self.connection.drain_bridge)
        self._call_helpers()  # a send that has failed may wait for that, with the lock

    def _unless_busy(self, write: Callable[[], _Result]) -> _Result | None:
        """Only while nobody writes: not another thread, nor what a signal handler of this one has interrupted.

        Returns: what `write` gave; None where somebody does, who looks again at what is left to him.
        """
        lock, order = self._write_lock, self._in_order
        try:
            if lock.acquire(blocking=False) and not order.is_busy:
                return order.run(write)
        finally:
            try:
                lock.release()
            except RuntimeError as error:
                if not is_of_a_lock(error):
                    raise
        return None

    def _answer_peer(self) -> None:
        """Sends the replies to what has been read, and a Ping when one is due. In the reader's thread."""
        keepalive = self._keepalive
        if self._writer.out or self._bridge.slot or (keepalive.due is not None and keepalive.is_due):
            self._reply(in_reader=True)

    def _send_leftover(self) -> None:
        """What others have left to us while we held the lock. In a writer's thread, after every write."""
        if self._halves is not None:
            return  # it has been split since, and is theirs
        if self._bridge.slot:
            self._reply(in_reader=False)
        if self._goodbyes:
            self._say_goodbye()
        if time.monotonic() >= self._next_look:
            self._look()

    def _look(self) -> None:
        """Perhaps nobody reads: what the peer has said is heard, and its Pings are answered. Messages wait for `recv`.

        In a writer's thread, and not while another one reads: that hears it anyway.
        """
        now = time.monotonic()
        self._next_look = now + _NEXT_LOOK
        if self._turns_wanted or self.connection.state is not State.OPEN:
            return
        # It has been split meanwhile, or we are in a signal handler that has interrupted who reads. Only those: what a
        # handler raises here is for whoever sends.
        with contextlib.suppress(AlreadySplit, Interrupted), self._turn(wait=False) as is_ours:
            if is_ours:
                self._hear(now)
                self._reader.forget_controls()

    def _hear_why(self, exc: BaseException) -> None:
        if not isinstance(exc, OSError) or exc.errno is None:
            return  # the peer does not read, or a signal handler has raised
        heard = False

        def hear() -> None:
            nonlocal heard
            self._hear(time.monotonic())
            # A Close behind what nobody has read counts as well: nobody can answer that any more.
            self._reader.conclude()
            heard = True

        # A thread that reads is about to meet it; unless it is one that aborts, and waits for our lock.
        deadline = after(0 if self._channel.is_over else GRACE)
        with contextlib.suppress(AlreadySplit, Interrupted):
            self._help(lambda: heard or self._reader.is_concluded, hear, deadline)
        self.connection.drain_bridge()  # where another thread reads, it has left a Close there

    def _hear(self, now: float) -> None:
        """What has arrived, as far as there is room for it."""
        reader = self._reader
        for _ in range(_LOOKS):
            if reader.is_ending or reader.is_full or not self._receive(now):
                break
        if reader.is_ending and not reader.is_concluded and self._is_left_unread(now):
            reader.conclude()
            self._answer_peer()
        if reader.is_concluded and reader.peer_close is None and not (reader.is_faulty or reader.is_stopped):
            self._unless_busy(self.connection.lose)  # the end of the stream, and no Close is owed

    def _is_left_unread(self, now: float) -> bool:
        """Whether nobody reads what stands before the peer's Close; so much time there was for it, or for a part."""
        read, behind = self._reader.rows_read, self._ending_behind
        if behind is not None and behind[0] == read:
            return now >= behind[1]
        timeout = math.inf if self._options.close_timeout is None else self._options.close_timeout
        self._ending_behind = read, now + (timeout if read else min(timeout, GRACE))
        return False

    def _reply(self, *, in_reader: bool) -> None:
        # Again, for a reply that was put while we held the lock: who put it has left it to us.
        while self._unless_busy(lambda: self._write_what_is_due(in_reader=in_reader)) and self._bridge.slot:
            pass

    def _write_what_is_due(self, *, in_reader: bool) -> bool:
        """The lock is held. Returns: whether the peer takes it."""
        # The reader does not wait for a peer that does not read either, as long as there is no Close to say.
        writable = not in_reader or self._reader.is_concluded or self._channel.is_writable
        self.connection.hold_replies = not writable
        self._longest_wait = self._usual_wait if writable else _NEXT_TRY
        if in_reader:
            self._keep_alive(writable)
        self.connection.drain_bridge()
        if writable:
            self._flush_quietly()
        return writable

    def _keep_alive(self, writable: bool) -> None:
        connection, keepalive = self.connection, self._keepalive
        if connection.state is State.OPEN and keepalive.is_due:
            payload = keepalive.take_due()
            if keepalive.is_idle:
                self._channel.rest(self._reader.pool)
            if keepalive.has_failed:
                connection.fail(CloseCode.INTERNAL_ERROR, NO_PONG)
            elif payload is not None and writable:
                connection.ping(payload)

    def ping(self, payload: str | Buffer | None = None, timeout: float | None = None) -> float:
        """Sends a Ping and waits for its Pong. If no other thread reads, this one does; messages wait for `recv`.

        Returns:
            The round-trip time in seconds.

        Raises:
            TimeoutError: no Pong in `timeout` seconds; or, without a `timeout`, too many messages before it.
            ConnectionClosed: the connection ended before the Pong came.
            ValueError: over 125 bytes, or a Ping with this payload is waiting already.
        """
        data = os.urandom(4) if payload is None else as_control_payload(payload)
        if self._keepalive.is_waiting_for(data):
            raise ValueError("a ping with this payload is waiting for its pong already")
        if self._has_interrupted_a_write():
            raise RuntimeError("a signal handler cannot wait for the Pong where it has interrupted a write")
        deadline = after(checked_wait(timeout))
        self._keepalive.sent(data)
        try:
            self._write_now(lambda: self.connection.ping(data))
            if not self._help(
                lambda: not self._keepalive.is_waiting_for(data),
                lambda: self._read_pong(data, deadline),
                deadline,
            ):
                raise TimeoutError("another thread reads, and has not seen it in time")
        finally:
            self._keepalive.forget(data)
        return self._keepalive.latency

    def _read_pong(self, data: bytes, deadline: float | None) -> Callable[[], object] | None:
        """Reads until the Pong has come, or somebody wants to read messages, or should be able to."""
        while self._keepalive.is_waiting_for(data) and not self._turns_wanted:
            is_full = self._reader.is_full
            # A socket that is gone shows when it is received from, for which there has to be room.
            if self._reader.is_ending or (is_full and self.connection.state is State.LOST):
                raise self.connection.error()
            if is_full and (deadline is None or is_past(deadline)):
                raise TimeoutError("the Pong stands behind more messages than fit; read them first")
            if is_past(deadline):
                raise TimeoutError("no Pong came in time")
            if is_full:
                return partial(time.sleep, _NEXT_TRY)
            is_kept = self._reader.rows_waiting > 0
            if not self._receive(time.monotonic() if is_kept else deadline) and is_kept:
                return partial(self._channel.await_bytes, _STEP_ASIDE)
        self._reader.forget_controls()
        return None

    # ---- closing ----

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Closes the connection: our Close, the peer's, then the socket; at most `close_timeout` seconds.

        In a signal handler that has interrupted a read or a write of this connection it does not wait: a read comes to
        the end, and the Close goes out behind what was being written.

        Raises:
            ValueError: the code must not be sent (RFC 6455 7.4), or the reason is over 123 bytes of UTF-8.
        """
        deadline = self._closing_deadline()
        self.begin_close(code, reason)
        if self._halves is not None:
            self._halves.finish(deadline)
            return
        if self._has_interrupted_a_write():
            return
        with contextlib.suppress(Interrupted):  # what we have interrupted sees the rest of it
            # A thread that reads sees the peer's Close, and finishes; one that stops before leaves that to us.
            if not self._help(lambda: self._is_closed, lambda: self._finish(deadline), deadline):
                self.abort()

    def _try_close(self, code: int, reason: str, timeout: float | None) -> bool:
        if self._halves is None:
            try:
                return super()._try_close(code, reason, timeout)
            except RuntimeError:
                if self._halves is None:
                    raise  # or it has been split while we waited
        return self._halves.say_close(code, reason, timeout)

    def _has_interrupted_a_write(self) -> bool:
        """Whether we are in a signal handler that came in the middle of one, in this thread."""
        return self._in_order.is_busy and self._message_done._is_owned()  # type: ignore[attr-defined]

    def abort(self) -> None:
        """Ends the TCP connection at once, without a closing handshake."""
        if self._halves is not None:
            self._halves.abort()
            return
        self._channel.abort()
        with self._write_lock:
            self.connection.lose()
        self._is_closed = True
        self._call_helpers()

    def _finish(self, deadline: float | None = None) -> None:
        """Reads on until the socket may be closed, and closes it. RFC 6455 7.1.1: the server first."""
        if self._is_closed:
            return
        deadline = deadline or self._closing_deadline()
        with contextlib.suppress(ConnectionClosed):
            self._reader.discard()
            while not self._reader.is_concluded and not is_past(deadline):
                self._receive(deadline)
        lock, timeout = self._write_lock, lock_timeout(left(deadline))
        try:
            if lock.acquire(timeout=timeout):
                self._channel.limit_sends(left(deadline))
                self._in_order.run(self.connection.drain_bridge, self._flush_quietly)
        finally:
            try:
                lock.release()
            except RuntimeError as error:
                if not is_of_a_lock(error):
                    raise
        if not self.connection.is_client:
            self._end_stream(deadline)
        self._drain(deadline)
        self.abort()

    # ---- halves ----

    def split(self) -> tuple[ReaderHalf, WriterHalf, BridgeHalf]:
        """A reader and a writer for two threads, and the bridge between them. Use them instead of this object.

        What is left to this object is to end the connection: `close`, `begin_close`, `abort` and the end of a `with`
        may come from any thread, at any time. A half is told by ConnectionClosed.

        Raises:
            RuntimeError: it is split already; or another thread is reading.
        """
        with self._turn(), self._write_lock:
            return self._split()

    def _split(self) -> tuple[ReaderHalf, WriterHalf, BridgeHalf]:
        """The same; nobody else is inside, and nobody comes in any more."""
        # What ended it came with the opening handshake, perhaps, and has been answered: no writer says that again.
        self._channel.has_sent_close = self._writer.sent_close is not None
        taken = Taken(self.connection)
        reader = ReaderHalf(self._channel, self._options, self._keepalive, taken)
        writer = WriterHalf(self._channel, self._options, taken)
        halves = Halves(reader, writer, self._channel, self._options, taken)
        self.connection.split()
        # Before the locks: whoever finds those that refuse him looks here, also where a signal handler has raised.
        self._halves = halves
        self._write_lock = self._reading = SplitLock()  # type: ignore[assignment]
        self._in_order.end(self._write_lock.acquire)  # those who wait for the lock that we had
        self._reader.on_pong = self._keepalive.answered
        self._keepalive.forget_connection()  # nobody asks what is due any more, and the reader holds this now
        return reader, writer, BridgeHalf(self.connection.bridge, taken)

    # ---- what is known ----

    @property
    def latency(self) -> float:
        """The last measured round-trip time in seconds; 0.0 before the first Pong."""
        return self._keepalive.latency

    @property
    def stats(self) -> Stats:
        """Bytes, frames, messages, queues, latency, who closed and why, at this moment; free until asked for."""
        channel = self._channel
        return stats_of(
            self.connection,
            bytes_received=int(channel.record.total),
            bytes_sent=self._writer.taken,
            bytes_waiting=self._writer.size,
            is_slow=not channel.is_writable,
            latency=self.latency,
        )

    def _address(self, *, peer: bool) -> Any:
        return self._channel.address(peer=peer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket knows: "socket", over TLS "ssl_object", "peercert", "cipher"; `default` once it is closed."""
        return self._channel.known(name, default)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Closes it: with 1000, or with 1011 where the block raises."""
        self.close(CloseCode.NORMAL_CLOSURE if error is None else CloseCode.INTERNAL_ERROR)


def _of(this: weakref.ref[WebSocket]) -> WebSocket:
    ws = this()
    assert ws is not None, "whoever reads holds it"
    return ws
