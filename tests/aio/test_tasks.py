from __future__ import annotations

import asyncio
import gc
import warnings
from itertools import count
from typing import Any

import pytest
from net import echo, soon

import zcws
from zcws.aio.tasks import finish


@pytest.mark.parametrize("which", ["connect", "connect, a loop", "serve"])
def test_where_no_event_loop_of_asyncio_runs(which: str) -> None:
    """As under trio, which steps a coroutine like this. It made a loop, and a task there that nobody ever awaited."""

    async def main() -> None:
        if which == "serve":
            await zcws.serve(echo, "127.0.0.1", 0)
        elif which == "connect":
            await zcws.connect("ws://127.0.0.1:1/", proxy=None)
        async for _ in zcws.connect("ws://127.0.0.1:1/", proxy=None):
            raise AssertionError

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(RuntimeError, match="need an asyncio event loop"):
            main().send(None)
        asyncio.set_event_loop(None)
        gc.collect()
    assert not told


def test_whoever_waits_hears_of_it_though_there_is_no_memory_to_call_him_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The future was done, and had forgotten who waited for it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def wait() -> None:
            await future

        def fails(*what: object, **options: object) -> None:
            patched.undo()
            raise MemoryError

        waiting = loop.create_task(wait())
        await asyncio.sleep(0)
        with monkeypatch.context() as patched:
            patched.setattr(loop, "call_soon", fails)
            with pytest.raises(MemoryError):
                finish(future)
        await soon(waiting)

    asyncio.run(main())  # uvloop's cannot be made to fail


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nobody_is_called_back_twice_where_memory_runs_out_between_two(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The first was scheduled, the second not, and then both: the first task was resumed when it was done."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        told: list[Any] = []
        loop.set_exception_handler(lambda _, context: told.append(context))

        async def wait() -> None:
            await future

        call_soon, calls = loop.call_soon, count(1)

        def fails_once(*what: Any, **options: Any) -> Any:
            if next(calls) == number:
                raise MemoryError
            return call_soon(*what, **options)

        waiting = [loop.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        with monkeypatch.context() as patched:
            patched.setattr(loop, "call_soon", fails_once)
            with pytest.raises(MemoryError):
                finish(future)
        await soon(asyncio.gather(*waiting))
        await asyncio.sleep(0)
        assert not told

    asyncio.run(main())  # uvloop's cannot be made to fail
