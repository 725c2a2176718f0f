"""Direct wake: resuming a task inside the callback that brought its bytes.

The usual way to wake a task is a future: setting its result asks the event loop to call the task back on its next
turn, and that turn costs more than the message. `Wakeup` follows the same protocol as a future (the one that
`Task` looks for: `_asyncio_future_blocking`, `add_done_callback`, `result`, `cancel`), but runs the task's own
wake-up callback when it is told to, in the context that the task gave.

What has to hold: at most one task waits here at a time; a task is never resumed while another one is running (then
the loop has to do it); and cancelling is always left to the loop, as `Task.cancel` expects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any

__all__ = ["Wakeup"]

_current_task = asyncio.current_task


class Wakeup:
    """Something that one task can wait for, again and again.

    Attributes:
        is_waiting: whether a task waits.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_cancelled",
        "_context",
        "_loop",
        "_message",
        "is_waiting",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._callback: Callable[[Wakeup], object] | None = None
        self._context: Context | None = None
        self._cancelled = False
        self._message: Any = None
        self.is_waiting = False

    def __await__(self) -> Generator[Wakeup, None, None]:
        if self.is_waiting:
            raise RuntimeError("another task is reading from this connection already")
        self.is_waiting = True
        self._cancelled = False
        self._asyncio_future_blocking = True
        try:
            yield self
        finally:
            self.is_waiting = False

    # ---- what a task asks of a future ----

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Wakeup], object], *, context: Context | None = None
    ) -> None:
        self._callback = callback
        self._context = context

    def cancel(self, msg: Any = None) -> bool:
        if self._callback is None:
            return False
        self._cancelled = True
        self._message = msg
        self._call_soon()
        return True

    def result(self) -> None:
        if self._cancelled:
            self._cancelled = False
            raise asyncio.CancelledError() if self._message is None else asyncio.CancelledError(self._message)

    # ---- what the driver does ----

    def wake(self) -> None:
        """Resumes the waiting task before this returns; on the loop's next turn where another task is running."""
        callback, context = self._callback, self._context
        if callback is None:
            return
        if context is None or _current_task(self._loop) is not None:
            self._call_soon()
        else:
            self._callback = None
            context.run(callback, self)

    def wake_soon(self) -> None:
        """Has the loop resume the waiting task on its next turn."""
        if self._callback is not None:
            self._call_soon()

    def _call_soon(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            self._loop.call_soon(callback, self, context=self._context)
