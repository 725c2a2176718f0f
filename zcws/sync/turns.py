"""Whose turn it is to read from a blocking connection, and how others get what only the reader can find.

One thread reads at a time, and messages are for `recv` and its like. `ping`, `close` and a write that has failed only
want to see what the peer answers: they are *helpers*, who read when nobody else does and step aside for whoever wants
messages. While another thread reads they wait for a bell, which rings whenever it has found something or stops.

A lock is acquired inside of the `try` that releases it: a signal handler may raise after `acquire` has succeeded and
before its result is known. If the lock was not acquired, `release` raises. It is called in place, not in a helper
function, because a handler may also raise as a function begins.
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
from zcws.sync.bell import Bell
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
    """Replaces the locks of a connection after a split: its halves have none, and nothing else may read or write."""

    def acquire(self, **_: object) -> NoReturn:
        raise AlreadySplit

    __enter__ = acquire

    def release(self, *_: object) -> None:
        """Nothing to do: it has never been acquired."""

    __exit__ = release


class Turns(Reading):
    """Reads from a connection that any number of threads share; one of them reads at a time."""

    connection: Connection

    def __init__(
        self, connection: Connection, channel: Channel, options: Timeouts, keepalive: Keepalive
    ) -> None:
        Reading.__init__(self, connection, channel, options, keepalive)
        # Reentrant: a signal handler may interrupt a thread that has acquired it and has not noted that yet.
        self._reading = threading.RLock()
        self._in_turn = False  # whether the thread that holds it reads
        self._is_read = False  # whether that is `recv` or its like, not `ping` or `close`
        self._turns_wanted: list[None] = []  # one for each thread that wants to read and waits for a helper
        self._helpers: list[Bell] = []  # of threads that wait for what the reader finds

    def _alone(self, read: Callable[[float | None], _Result], timeout: float | None) -> _Result:
        # `_turn` written out, to save its generator.
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
        """The turn to read, as in `_alone`: `ping` and `close` of other threads may be scanning, and then come first.

        Yields: whether it is our turn. With `wait` it always is.
        """
        reading = self._reading
        try:
            if reading.acquire(blocking=False):
                if self._in_turn:  # the lock does not keep out a signal handler of the same thread
                    raise Interrupted
                if reading is not self._reading:
                    self._reading.acquire()  # raises: the connection has been split meanwhile
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
                longest = GRACE  # for the helper to step aside, which is no wait for the peer
            if not reading.acquire(timeout=longest):
                raise TimeoutError("nothing was received in time")
        finally:
            self._turns_wanted.pop()
            self._call_helpers()
        if reading is not self._reading:
            reading.release()
            self._reading.acquire()  # raises: the connection has been split meanwhile
        return left(deadline)

    @property
    def _has_news(self) -> bool:
        """Whether there is something to read, while another thread has the turn.

        Looks from the socket to the rows, as bytes move, so that none are missed.
        """
        channel = self._channel
        if self._writer.sent_close is not None:
            return False  # a thread that closes drops it, and does not step aside
        return channel.is_readable or bool(channel.record.received or self._reader.rows_waiting)

    def _help(
        self,
        done: Callable[[], bool],
        work: Callable[[], Callable[[], object] | None],
        deadline: float | None,
    ) -> bool:
        """Calls `work`, which reads, whenever nobody else reads, until `done`.

        Args:
            work: returns what waits, outside of our turn, before the next call, because somebody else has to read
                first; None, if it got somewhere.

        Returns: whether it is done. False: another thread reads, and `deadline` has passed. Not TimeoutError: a signal
            handler may raise that.

        Raises:
            Interrupted: we are in a signal handler that has interrupted the thread that reads.
        """
        bell = Bell()
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
            bell.ring()

    def _on_pong(self, payload: bytes) -> None:
        self._keepalive.answered(payload)
        self._call_helpers()
