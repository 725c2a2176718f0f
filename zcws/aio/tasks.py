"""What tasks and futures of asyncio do not do by themselves, or not on every Python."""

from __future__ import annotations

import asyncio
from typing import TypeVar

__all__ = ["fail", "finish", "is_cancelled", "running_loop"]

_Result = TypeVar("_Result")


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop of the task that asks, before it has begun anything that nobody would end.

    Raises:
        RuntimeError: trio runs, perhaps below anyio, or nothing does.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "zcws.connect and zcws.serve need an asyncio event loop, and none runs here (trio is none): "
            "zcws.sync needs no loop, and works in a thread"
        ) from None


def fail(future: asyncio.Future[_Result], error: BaseException) -> None:
    """Gives `future` an exception. asyncio's log says nothing where nobody looks: who has been cancelled does not."""
    future.set_exception(error)
    future.exception()


def finish(future: asyncio.Future[None]) -> None:
    """Has everybody go on who waits for `future`. Where there is no memory to say so, CPython's forgets them, which
    would wait for ever.

    Raises: MemoryError, when nobody has been told, or behind that.
    """
    waiting = tuple(future._callbacks or ())
    try:
        future.set_result(None)
    except MemoryError:
        for callback, context in waiting:
            future.get_loop().call_soon(callback, future, context=context)
        raise


def is_cancelled() -> bool:
    """Whether somebody has cancelled the current task, as far as Python can tell: before 3.11 it cannot, and yes."""
    task = asyncio.current_task()
    return task is None or not hasattr(task, "cancelling") or task.cancelling() > 0
