"""Direct wake: resuming a task inside the callback that brought its bytes.

The usual way to wake a task is a future: setting its result asks the event loop to call the task back on its next
turn, and that turn costs more than the message. `Wakeup` lets the task wait for an ordinary future, so that waiting,
cancelling and every implementation of tasks work as always; but to wake it, it takes the callback that the task has
left on the future and runs it there and then, in the context that the task gave. The callback is passed another future,
which has finished long ago; the task's own is dropped, and the next wait has a new one.

What has to hold: at most one task waits here at a time, and a task is never resumed while another one is running
(asyncio refuses that before anything has happened; then the loop has to do it). Nor may a task run the event loop again
from inside itself, which asyncio forbids and nest_asyncio allows: the callback that has resumed the task would still be
running, and could not serve those that the inner run waits for. With nest_asyncio, the loop resumes tasks.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Generator
from typing import NoReturn

from zcws.aio.tasks import ENDS_OF_LOOP, end_loop, fail, may_run_in_itself

__all__ = ["Wakeup", "wakeup_of"]

#: By the loop's identity, and weakly: a future keeps its loop alive, so nothing but its users may keep the future. A
#: WeakValueDictionary would do, and costs every connection three calls more.
_finished: dict[int, weakref.ref[asyncio.Future[None]]] = {}


def _finished_of(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """A future of `loop` that has its result."""
    key = id(loop)
    known = _finished.get(key)
    future = None if known is None else known()
    if future is None:
        future = loop.create_future()
        future.set_result(None)
        _finished[key] = weakref.ref(future, lambda gone: _forget(key, gone))
    return future


def _forget(key: int, gone: weakref.ref[asyncio.Future[None]]) -> None:
    if _finished.get(key) is gone:  # and not that of another loop in the same place
        del _finished[key]


class Wakeup:
    """Something that one task can wait for, again and again.

    Attributes:
        on_refusal: called when a second task wants to wait.
    """

    __slots__ = ("_finished", "_future", "_loop", "on_refusal")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.on_refusal: Callable[[], object] | None = None
        self._finished = _finished_of(loop)
        self._future: asyncio.Future[None] | None = None  # what the task waits for

    def __await__(self) -> Generator[asyncio.Future[None], None, None]:
        # A future without a callback has nobody who waits: it is done, or was refused by a task of another loop.
        if self._future is not None and self._future._callbacks:
            if self.on_refusal is not None:
                self.on_refusal()
            raise RuntimeError("another task is reading from this connection already")
        self._future = future = self._loop.create_future()
        # What `Future.__await__` would do. A generator of our own would have to be resumed on the task's way back.
        future._asyncio_future_blocking = True
        return iter((future,))  # type: ignore[return-value]

    @property
    def is_waiting(self) -> bool:
        """Whether a task waits."""
        return self._future is not None and not self._future.done()

    @property
    def is_unused(self) -> bool:
        """Whether nobody has ever waited. Also true between a wake and the next wait."""
        return self._future is None

    def wake(self) -> None:
        """Resumes the waiting task before this returns; on the loop's next turn where another task is running."""
        if self._future is not None and not self.wake_now():
            self.wake_soon()

    def wake_now(self) -> bool:
        """Resumes the waiting task before this returns. False: no task waits, or the loop has to resume it."""
        future = self._future
        if future is None:
            return False
        try:
            ((callback, context),) = future._callbacks
        except (TypeError, ValueError):
            # None: it has been cancelled. Two: somebody else waits for the same future, and the loop calls both.
            return False
        self._future = None
        try:
            context.run(callback, self._finished)
        except RuntimeError:
            self._future = future
            return False
        except MemoryError:
            # The task has not run, or cannot go on by itself: whoever ends this connection wakes it.
            if self._future is None:
                self._future = future
            raise
        except ENDS_OF_LOOP as error:
            end_loop(self._loop, error)
        return True

    def wake_soon(self) -> None:
        """Has the loop resume the waiting task on its next turn."""
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(None)

    def give_up(self, error: Exception) -> None:
        """Has the wait of the task end with an error, on the loop's next turn."""
        future, self._future = self._future, None
        if future is not None and not future.done():
            fail(future, error)


class _LoopsWakeup(Wakeup):
    """Resumes by the loop alone."""

    __slots__ = ()

    def wake_now(self) -> bool:
        return False


class _NoWakeup(Wakeup):
    """Nobody may wait: what arrives is shown to a function, and a task would take its messages, or never get one."""

    __slots__ = ("_shown_to",)

    def __init__(self, loop: asyncio.AbstractEventLoop, shown_to: str) -> None:
        super().__init__(loop)
        self._shown_to = shown_to

    def __await__(self) -> NoReturn:
        if self.on_refusal is not None:
            self.on_refusal()
        raise RuntimeError(
            f"{self._shown_to} is shown what arrives on this connection: no task can read from it"
        )


def wakeup_of(loop: asyncio.AbstractEventLoop, *, shown_to: str = "") -> Wakeup:
    """One for a connection of `loop`; `shown_to`: the function that is called with what arrives, where there is one."""
    if shown_to:
        return _NoWakeup(loop, shown_to)
    return _LoopsWakeup(loop) if may_run_in_itself(loop) else Wakeup(loop)
