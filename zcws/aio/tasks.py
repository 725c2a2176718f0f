"""What tasks and futures of asyncio do not do by themselves, or not on every Python."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TypeVar

__all__ = ["fail", "in_time", "is_cancelled", "running_loop"]

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


async def in_time(
    coroutine: Coroutine[object, object, _Result],
    timeout: float | None,
    drop: Callable[[_Result], object] | None = None,
) -> _Result:
    """What `asyncio.wait_for` has been from CPython 3.12 on. Before, it loses a cancellation that comes in the turn in
    which the coroutine returns: the task goes on, and nothing stops it any more.

    Args:
        drop: called with what the coroutine has returned where a cancellation came in that turn: nobody else gets it.

    Raises:
        asyncio.TimeoutError: it has taken more than `timeout` seconds.
    """
    task = asyncio.ensure_future(coroutine)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout)
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


def fail(future: asyncio.Future[_Result], error: BaseException) -> None:
    """Gives `future` an exception. asyncio's log says nothing where nobody looks: who has been cancelled does not."""
    future.set_exception(error)
    future.exception()


def is_cancelled() -> bool:
    """Whether somebody has cancelled the current task, as far as Python can tell: before 3.11 it cannot, and yes."""
    task = asyncio.current_task()
    return task is None or not hasattr(task, "cancelling") or task.cancelling() > 0
