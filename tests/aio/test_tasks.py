from __future__ import annotations

import asyncio
import gc
import sys
import warnings

import pytest
from net import echo

import zcws
from zcws.aio.tasks import in_time, is_cancelled


class TestInTime:
    """`asyncio.wait_for`, as it is from CPython 3.12 on."""

    def test_what_comes_of_it(self) -> None:
        async def answer() -> int:
            await asyncio.sleep(0)
            return 42

        async def fail() -> int:
            raise LookupError

        async def main() -> None:
            for timeout in (None, 20.0):
                assert await in_time(answer(), timeout) == 42
                with pytest.raises(LookupError):
                    await in_time(fail(), timeout)

        asyncio.run(main())

    @pytest.mark.parametrize("raises", [None, LookupError])
    def test_too_late(self, raises: type[Exception] | None) -> None:
        async def wait() -> None:
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                raise (raises or asyncio.CancelledError) from None

        async def main() -> None:
            with pytest.raises(raises or asyncio.TimeoutError):
                await in_time(wait(), 0.01)
            assert not is_cancelled() or sys.version_info < (3, 11)
            await asyncio.sleep(0)

        asyncio.run(main())

    @pytest.mark.parametrize("late", [False, True])
    def test_a_cancellation_in_the_turn_in_which_it_returns(self, late: bool) -> None:
        """It was lost, and the task waited for ever."""
        went_on: list[str] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            ready = loop.create_future()

            async def wait() -> None:
                await ready

            async def run() -> None:
                await in_time(wait(), 0 if late else 20)
                went_on.append("as if nothing had been")

            task = loop.create_task(run())
            await asyncio.sleep(0)
            ready.set_result(None)
            task.cancel()
            with pytest.raises(
                (asyncio.CancelledError, *([asyncio.TimeoutError] if sys.version_info < (3, 11) else []))
            ):
                await task
            assert went_on == []

        asyncio.run(main())

    @pytest.mark.parametrize("turns", range(5))
    def test_what_nobody_gets_is_dropped(self, turns: int) -> None:
        """Cancelled when the coroutine had returned, and its waiter had not gone on: a connection stayed open."""
        dropped: list[int] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            ready = loop.create_future()

            async def wait() -> int:
                await ready
                return 42

            task = loop.create_task(in_time(wait(), 20, dropped.append))
            for _ in range(3):
                await asyncio.sleep(0)
            ready.set_result(None)
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                assert task.result() == 42
                return
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert dropped == [42]

        asyncio.run(main())


def test_cancelled_again_while_the_first_cancellation_is_seen_to() -> None:
    """What the coroutine had returned was dropped by nobody: a connection stayed open that nobody had."""
    made, dropped = list[int](), list[int]()

    async def main() -> None:
        async def make() -> int:
            await asyncio.sleep(0)
            made.append(1)
            return 1

        for first in range(2, 9):  # before, it has not begun
            for second in range(3):
                task = asyncio.ensure_future(in_time(make(), 20, dropped.append))
                for _ in range(first):
                    await asyncio.sleep(0)
                task.cancel()
                for _ in range(second):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                for _ in range(3):
                    await asyncio.sleep(0)
                if not task.cancelled():
                    dropped.append(task.result())
                assert len(made) == len(dropped), (first, second)

    asyncio.run(main())


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
