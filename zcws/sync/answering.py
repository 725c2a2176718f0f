"""What the protocol owes to the peer of a blocking connection, and which of the program's threads sees to it.

The reader writes the replies to Ping and Close itself, and the Pings of keepalive. It never waits for the write lock:
the thread that holds it may be waiting for a peer that does not read until it has been read from. A reply that cannot
go out stays on the bridge, and the thread that holds the lock sends it when done.

In a program that only sends, nobody reads: now and then a write looks, without waiting, at what has arrived (`_look`),
and a write that has failed does so too (`_hear_why`). Messages that they receive wait for `recv`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import TypeVar

from zcws.closing import GRACE, State
from zcws.codes import CloseCode
from zcws.connection import AlreadySplit, Connection
from zcws.errors import NO_PONG
from zcws.options import Timeouts
from zcws.payloads import unreadable
from zcws.sync.channel import Channel
from zcws.sync.deadline import after
from zcws.sync.halves import Halves
from zcws.sync.in_order import is_of_a_lock
from zcws.sync.keepalive import Keepalive
from zcws.sync.turns import Interrupted, Turns
from zcws.sync.writing import Writing

__all__ = ["NEXT_TRY", "Answering"]

_Result = TypeVar("_Result")

#: Seconds until the reader tries again to say Pong to a peer that did not read.
NEXT_TRY = 0.1

#: Seconds from one look at what has arrived to the next, in a program that only sends: a peer may want its Pong within
#: a second.
_NEXT_LOOK = 0.2

#: Receives in one such look: enough to fill a ring, too few for a peer that never stops to hold up the sender.
_LOOKS = 16


class Answering(Turns, Writing):
    """Reads and writes, and sends what the protocol asks for."""

    def __init__(
        self, connection: Connection, channel: Channel, options: Timeouts, keepalive: Keepalive
    ) -> None:
        Turns.__init__(self, connection, channel, options, keepalive)
        Writing.__init__(self, connection, channel, options)
        self._usual_wait = self._longest_wait
        self._halves: Halves | None = None  # they do all this after a split
        self._next_look = time.monotonic() + _NEXT_LOOK
        # Set when the peer's Close stands behind rows that nobody reads: how many rows had been read, and the time
        # until which the Close waits for them.
        self._ending_behind: tuple[int, float] | None = None

    def _on_put(self) -> None:
        """A reply is on the bridge, or the reader has come to its end. In the reader's thread."""
        self._unless_busy(self.connection.drain_bridge)
        self._call_helpers()  # a send that has failed may wait for this, holding the lock

    def _unless_busy(self, write: Callable[[], _Result]) -> _Result | None:
        """Calls `write`, unless another thread is writing, or this one was when a signal handler interrupted it.

        Returns: the result of `write`; None where somebody is writing, who looks afterwards at what was left to him.
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
        if self._writer.out or self._bridge.slot or self._keepalive.is_due:
            self._reply(in_reader=True)

    def _send_leftover(self) -> None:
        """Sends what others have left to us while we held the lock. In a writer's thread, after every write."""
        if self._halves is not None:
            return  # it has been split since: the halves send that
        if self._bridge.slot:
            self._reply(in_reader=False)
        if self._goodbyes:
            self._say_goodbye()
        if time.monotonic() >= self._next_look:
            self._look()

    def _look(self) -> None:
        """Receives what the peer has sent and answers its Pings, in case nobody reads. Messages wait for `recv`.

        In a writer's thread. Does nothing while another thread reads, since that one receives it anyway.
        """
        now = time.monotonic()
        self._next_look = now + _NEXT_LOOK
        if self._turns_wanted or self.connection.state is not State.OPEN:
            return
        # Suppressed: it has been split meanwhile, or we are in a signal handler that has interrupted a read. Nothing
        # else is: what a handler raises here is for the caller of the send.
        with contextlib.suppress(AlreadySplit, Interrupted), self._turn(wait=False) as is_ours:
            if is_ours:
                self._hear(now)
                self._reader.forget_controls()

    def _hear_why(self, exc: BaseException) -> None:
        if not isinstance(exc, OSError) or exc.errno is None or unreadable(exc):
            return  # the peer does not read, a signal handler has raised, or the program's memory is gone
        heard = False

        def hear() -> None:
            nonlocal heard
            self._hear(time.monotonic())
            # A Close behind messages that nobody has read counts as well: those can no longer be answered.
            self._reader.conclude()
            heard = True

        # A thread that reads is about to find the reason too, unless it is aborting, and waits for our lock.
        deadline = after(0 if self._channel.is_over else GRACE)
        with contextlib.suppress(AlreadySplit, Interrupted):
            self._help(lambda: heard or self._reader.is_concluded, hear, deadline)
        self.connection.drain_bridge()  # another thread that reads may have left a Close there

    def _hear(self, now: float) -> None:
        """Receives what has arrived, as far as there is room for it."""
        reader = self._reader
        for _ in range(_LOOKS):
            if reader.is_ending or reader.is_full or not self._receive(now):
                break
        if reader.is_ending and not reader.is_concluded and self._is_left_unread(now):
            reader.conclude()
            self._answer_peer()
        if reader.is_concluded and reader.peer_close is None and not reader.is_failed:
            self._unless_busy(self.connection.lose)  # the end of the stream, and no Close is owed

    def _is_left_unread(self, now: float) -> bool:
        """Whether nobody reads the rows before the peer's Close: none has been read for `close_timeout` seconds.

        If no row has ever been read, at most `GRACE` seconds.
        """
        read, behind = self._reader.rows_read, self._ending_behind
        if behind is not None and behind[0] == read:
            return now >= behind[1]
        timeout = math.inf if self._options.close_timeout is None else self._options.close_timeout
        self._ending_behind = read, now + (timeout if read else min(timeout, GRACE))
        return False

    def _reply(self, *, in_reader: bool) -> None:
        # Repeated, because a reply that was put on the bridge while we held the lock has been left to us.
        while self._unless_busy(lambda: self._write_what_is_due(in_reader=in_reader)) and self._bridge.slot:
            pass

    def _write_what_is_due(self, *, in_reader: bool) -> bool:
        """The lock is held. Returns: whether the peer takes it."""
        # The reader does not wait for a peer that does not read, unless there is a Close to send.
        writable = not in_reader or self._reader.is_concluded or self._channel.is_writable
        self.connection.hold_replies = not writable
        self._longest_wait = self._usual_wait if writable else NEXT_TRY
        if in_reader:
            self._keep_alive(writable)
        self.connection.drain_bridge()
        if writable:
            self._flush_quietly()
        return writable

    def _keep_alive(self, writable: bool) -> None:
        connection, keepalive = self.connection, self._keepalive
        if connection.state is State.OPEN and keepalive.is_due:
            payload = keepalive.take_due(writable=writable)
            if keepalive.is_idle:
                self._channel.rest(self._reader.pool)
            if keepalive.has_failed:
                connection.fail(CloseCode.INTERNAL_ERROR, NO_PONG)
            elif payload is not None and writable:
                connection.ping(payload)
