"""When a peer's time is over. A peer is not blamed for a pause of our event loop.

`Deadlines` is one timer for all that wait equally long, because nearly always the peer is quicker.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Protocol, TypeVar

from zcws.options import LATE
from zcws.pool import Pool

__all__ = ["Deadline", "Deadlines", "deadlines_of", "in_time", "stood_still"]

#: Seconds that a peer has more whose answer may lie in its socket, unread.
_LOOK_AGAIN = 1.0

_Result = TypeVar("_Result")


def stood_still(loop: asyncio.AbstractEventLoop, due: float) -> float:
    """How many seconds the loop has stood still, if that is why a timer that was `due` comes only now; otherwise 0.

    What peers have sent meanwhile is in their sockets, and a turn of the loop serves only some of these before it calls
    all timers that are due; uvloop serves none. Before a caller blames a peer, it gives the peer as long again, once.
    """
    late = loop.time() - due
    return late if late > LATE else 0


def _extra(loop: asyncio.AbstractEventLoop, due: float) -> float:
    """How many seconds a single peer has more: at least enough for the loop to turn. Where it stood still until just
    before the time was `due`, the timer is not late, and the peer's answer has not been read."""
    return stood_still(loop, due) or LATE


class Deadline:
    """One wait with a timer of its own, until `cancel`.

    Args:
        timeout: seconds.
        passed: called after that.
    """

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float, passed: Callable[[], object]) -> None:
        self._loop = loop
        # Only the timer holds `passed`, and drops it when it is cancelled: so whoever waits is in no cycle with this.
        self._handle = loop.call_later(timeout, self._tick, loop.time() + timeout, passed)

    def cancel(self) -> None:
        """Ends the wait: `passed` is not called."""
        self._handle.cancel()

    def _tick(self, due: float, passed: Callable[[], object]) -> None:
        if due < math.inf:
            self._handle = self._loop.call_later(_extra(self._loop, due), self._tick, math.inf, passed)
        else:
            passed()


async def in_time(
    coroutine: Coroutine[object, object, _Result],
    timeout: float | None,
    drop: Callable[[_Result], object] | None = None,
) -> _Result:
    """What the coroutine returns, unless it takes too long: then it is cancelled.

    `asyncio.wait_for` does the same from CPython 3.12 on. Before, it loses a cancellation that comes in the turn in
    which the coroutine returns: the task goes on, and nothing stops it any more.

    Args:
        drop: called with the coroutine's result if a cancellation came in that turn, since nobody else gets it.

    Raises:
        asyncio.TimeoutError: it took more than `timeout` seconds, not counting those in which the loop has stood still.
    """
    loop = asyncio.get_running_loop()
    due = math.inf if timeout is None else loop.time() + timeout
    task = asyncio.ensure_future(coroutine)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout)
        if not done:
            done, _ = await asyncio.wait({task}, timeout=_extra(loop, due))
        if not done:
            task.cancel()
            await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        task.add_done_callback(partial(_drop, drop))  # not below the wait, which may be cancelled as well
        await asyncio.wait({task})
        raise
    if not done and task.cancelled():
        raise asyncio.TimeoutError
    return task.result()


def _drop(drop: Callable[[_Result], object] | None, task: asyncio.Future[_Result]) -> None:
    if not task.cancelled() and task.exception() is None and drop is not None:
        drop(task.result())


class Waiter(Protocol):
    """Who waits for something, and not for ever."""

    def has_unread(self) -> bool:
        """Whether something has come from the peer that nobody has looked at."""
        ...

    def deadline_passed(self) -> None:
        """What was waited for did not come in time."""
        ...


class Deadlines:
    """Waits of the same length: one timer for all of them. Kept alive by its timer and by those who wait.

    Attributes:
        loop: a weak reference to the event loop that they wait on.
        timeout: seconds that each of them waits.
    """

    __slots__ = ("__weakref__", "_is_set", "_last", "_waiting", "loop", "timeout")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.loop: weakref.ref[asyncio.AbstractEventLoop] = weakref.ref(loop)
        self.timeout: float = timeout
        # Until when each waits; the first to wait is the first whose time is over. Not a dict, which finds its first
        # item only behind the gaps of all that were removed before it.
        self._waiting: OrderedDict[Waiter, float] = OrderedDict()
        self._is_set = False
        # Those whose time is over, and whose socket held something unread: they have until this timer, once.
        self._last: dict[Waiter, asyncio.TimerHandle] = {}

    def add(self, peer: Waiter) -> None:
        """It waits from now on, until `remove` or `deadline_passed`."""
        loop = self.loop()
        assert loop is not None  # it is running
        self._waiting[peer] = loop.time() + self.timeout
        if not self._is_set:
            self._set(loop)

    def remove(self, peer: Waiter) -> None:
        """Ends its wait, if it waits."""
        self._waiting.pop(peer, None)
        if (handle := self._last.pop(peer, None)) is not None:
            handle.cancel()

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        due = next(iter(self._waiting.values()))
        loop.call_at(due, self._tick, loop, due)
        self._is_set = True  # only now: there may be no memory for the timer

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._waiting and (extra := stood_still(loop, due)):
            loop.call_later(extra, self._tick, loop, math.inf)
            return
        self._is_set = False
        now = loop.time()
        try:
            while self._waiting:
                peer, until = next(iter(self._waiting.items()))
                if until > now:
                    break
                if has_unread := peer.has_unread():
                    self._last[peer] = loop.call_later(_LOOK_AGAIN, self._pass, peer)
                del self._waiting[peer]  # only now: there may be no memory for the timer
                if not has_unread:
                    peer.deadline_passed()
        finally:  # one of them may have raised, with others behind it
            if self._waiting and not self._is_set:
                self._set(loop)

    def _pass(self, peer: Waiter) -> None:
        del self._last[peer]
        peer.deadline_passed()


def deadlines_of(loop: asyncio.AbstractEventLoop, pool: Pool, timeout: float) -> Deadlines:
    """Where the connections of `loop` with this `close_timeout` wait for their end."""
    known = pool.deadlines.get(timeout)
    deadlines: Deadlines | None = None if known is None else known()
    if deadlines is None or deadlines.loop() is not loop:
        deadlines = Deadlines(loop, timeout)
        # Weakly: those who wait hold the loop, and the pool lives as long as the loop, so neither would ever go.
        pool.deadlines[timeout] = weakref.ref(deadlines)
    return deadlines
