"""What tasks and futures of asyncio do not do by themselves, or not on every Python."""

from __future__ import annotations

import asyncio
from typing import NoReturn, TypeVar

__all__ = [
    *("ENDS_OF_LOOP", "cancels", "end_loop", "fail", "finish"),
    *("is_cancelled", "may_run_in_itself", "running_loop"),
]

_Result = TypeVar("_Result")

#: What ends a running event loop when a callback or a task raises it.
ENDS_OF_LOOP = (SystemExit, KeyboardInterrupt)


def running_loop() -> asyncio.AbstractEventLoop:
    """The running event loop. Asked for first, before anything has begun that nobody would end.

    Raises:
        RuntimeError: there is none; trio may be running, perhaps below anyio.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "zcws.connect and zcws.serve need an asyncio event loop, and none runs here (trio is not one): "
            "zcws.sync needs no loop, and works in a thread"
        ) from None


def may_run_in_itself(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Whether a callback may run `loop` again, which asyncio forbids and nest_asyncio allows."""
    return hasattr(loop, "_nest_patched")


def fail(future: asyncio.Future[_Result], error: BaseException) -> None:
    """Gives `future` an exception, which asyncio does not log if nobody asks for it: a cancelled waiter does not."""
    future.set_exception(error)
    future.exception()


def finish(future: asyncio.Future[None]) -> None:
    """Gives `future` its result, so that everybody who waits for it goes on. If memory runs out in that, CPython's
    future forgets the callbacks that it has not scheduled yet, and the waiters would wait for ever: here they are
    scheduled all the same. None is scheduled twice: a task would be resumed in its next wait, or when it is done.

    Raises: MemoryError, when they have been scheduled, or when there is no memory for that either.
    """
    waiting = tuple(future._callbacks or ())
    try:
        future.set_result(None)
    except MemoryError:
        loop = future.get_loop()
        for callback, context in waiting:
            if not _is_scheduled(loop, callback, future):
                loop.call_soon(callback, future, context=context)
        raise


def _is_scheduled(loop: asyncio.AbstractEventLoop, callback: object, future: asyncio.Future[None]) -> bool:
    """Whether a loop of asyncio calls `callback` with `future` in its next turn. Other loops do not say."""
    handles = getattr(loop, "_ready", ())
    return any(each._callback is callback and each._args == (future,) for each in handles)


def end_loop(loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
    """Ends `loop` with `error`, which a task or a function of the program has raised inside a callback of a transport.
    uvloop takes what such a callback raises for a failure of the protocol: it logs it, aborts the connection and goes
    on. So `error` is raised in a callback of its own."""
    loop.call_soon(_raise, error)


def _raise(error: BaseException) -> NoReturn:
    raise error


def is_cancelled() -> bool:
    """Whether somebody has cancelled the current task. Before 3.11 Python cannot tell, and this is True."""
    task = asyncio.current_task()
    return task is None or not hasattr(task, "cancelling") or task.cancelling() > 0


def cancels(error: BaseException) -> bool:
    """Whether `error` is that. Any other CancelledError comes from a task or a future that the current task has asked,
    and is a failure like others."""
    return isinstance(error, asyncio.CancelledError) and is_cancelled()
