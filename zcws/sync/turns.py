"""Whose turn it is to read from a blocking connection, and how others get what only the reader can find.

One thread reads at a time, and messages are for `recv` and its like. `ping`, `close` and a write that has failed only
want to see what the peer answers: they are *helpers*, who read when nobody else does and step aside for whoever wants
messages. While another thread reads they wait for a bell, which rings whenever it has found something or stops.

A lock that nobody waits for is got inside of the `try` that lets it go: a signal handler may raise behind the call that
has got it, before anybody knows. That it was not got, `release` says itself, in place: a handler may also raise where a
function begins.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from zcws.closing import GRACE
from zcws.connection import AlreadySplit, Connection
from zcws.errors import ConnectionClosed
from zcws.options import Timeouts
from zcws.sync.channel import Channel
from zcws.sync.deadline import after, left, lock_timeout
from zcws.sync.in_order import is_of_a_lock
from zcws.sync.keepalive import Keepalive
from zcws.sync.reading import Reading

__all__ = ["Interrupted", "SplitLock", "Turns"]

_Result = TypeVar("_Result")


class Interrupted(RuntimeError):
    """A signal handler wants to read from the connection whose read it has interrupted."""

    def __init__(self) -> None:
        super().__init__("a signal handler cannot read from the connection whose read it has interrupted")


class SplitLock:
    """What a connection that is split has in place of its locks: its halves have none, and nothing may get between."""

    def acquire(self, **_: object) -> NoReturn:
        raise AlreadySplit

    __enter__ = acquire

    def release(self, *_: object) -> None:
        """It has never been entered."""

    __exit__ = release


class Turns(Reading):
    """Reads from one connection that any number of threads have; one of them at a time."""

    connection: Connection

    def __init__(
        self, connection: Connection, channel: Channel, options: Timeouts, keepalive: Keepalive
    ) -> None:
        Reading.__init__(self, connection, channel, options, keepalive)
        # The same thread may have it twice: a signal handler may interrupt between getting it and knowing so.
        self._reading = threading.RLock()
        self._in_turn = False  # whoever has it reads
        self._is_read = False  # by `recv` and its like, not by `ping` or `close`
        self._turns_wanted: list[None] = []  # one for each thread that wants to read and waits for a helper
        self._helpers: list[threading.Event] = []  # of threads that wait for what the reader finds

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
