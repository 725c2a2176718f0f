"""Waits that share a timer: who waits longest is told first, and nobody is blamed for a pause of ours."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from net import Place, until

from zcws.aio.deadlines import Deadline, Deadlines, in_time
from zcws.aio.tasks import is_cancelled


class Patient:
    """Waits, and notes when it has waited long enough."""

    def __init__(self, passed: list[Patient], then: Callable[[], object] = lambda: None) -> None:
        self.passed, self.then = passed, then
        self.unread = False

    def has_unread(self) -> bool:
        return self.unread

    def deadline_passed(self) -> None:
        self.passed.append(self)
        self.then()


def test_deadlines(anyloop: Place) -> None:
    """One timer for all of them: each is called in its turn, those that were taken back are not."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines, passed = Deadlines(loop, 0.02), list[Patient]()
        deadlines.remove(Patient(passed))
        third = Patient(passed)
        first = Patient(passed, lambda: deadlines.remove(third))
        fourth = Patient(passed)
        deadlines.add(first)
        deadlines.add(second := Patient(passed))
        deadlines.add(third)
        deadlines.remove(second)
        await asyncio.sleep(0.01)
        deadlines.add(fourth)
        await until(lambda: fourth in passed)
        assert passed == [first, fourth]
        deadlines.add(second)
        await until(lambda: second in passed)

    anyloop.run(main())


class Counting(asyncio.SelectorEventLoop):
    """Counts the timers that it is given."""

    timers = 0

    def call_at(self, *args: Any, **options: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self.timers += 1
        return super().call_at(*args, **options)


def test_however_many_wait_there_is_one_timer() -> None:
    with contextlib.closing(Counting()) as loop:
        deadlines, passed = Deadlines(loop, 0), list[Patient]()
        everybody = [Patient(passed, loop.stop) for _ in range(100)]
        for patient in everybody:
            deadlines.add(patient)
        assert loop.timers == 1
        while len(passed) < len(everybody):
            loop.run_forever()
        assert passed == everybody


def test_a_deadline_that_fails(anyloop: Place) -> None:
    """It is the loop's to tell of, and the others have their turn."""

    def fail() -> None:
        raise RuntimeError("a mistake")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[Any] = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        deadlines, passed = Deadlines(loop, 0.01), list[Patient]()
        deadlines.add(Patient(passed, fail))
        deadlines.add(Patient(passed))
        await until(lambda: len(passed) == 2)
        assert [type(error) for error in told] == [RuntimeError]

    anyloop.run(main())


def test_a_loop_that_stood_still_gives_as_long_again(anyloop: Place) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines, passed = Deadlines(loop, 1000), list[Patient]()
        waiting = [Patient(passed) for _ in range(3)]
        for patient in waiting:
            deadlines.add(patient)
        deadlines._waiting.update((patient, loop.time() - 5) for patient in waiting[:2])
        deadlines._tick(loop, loop.time() - 5)
        assert passed == []
        deadlines._tick(loop, math.inf)
        assert passed == waiting[:2]
        deadlines.remove(waiting[2])

    anyloop.run(main())


def test_whose_answer_lies_in_the_socket_has_until_it_is_read(
    anyloop: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not twice: a peer that goes on sending something else is not waited for any longer."""
    monkeypatch.setattr("zcws.aio.deadlines._LOOK_AGAIN", 0.01)

    async def main() -> None:
        deadlines, passed = Deadlines(asyncio.get_running_loop(), 0.01), list[Patient]()
        answers, talks, is_silent = Patient(passed), Patient(passed), Patient(passed)
        answers.unread = talks.unread = True
        is_silent.then = lambda: deadlines.remove(answers)  # it has been read
        for patient in (answers, talks, is_silent):
            deadlines.add(patient)
        await until(lambda: talks in passed)
        assert passed == [is_silent, talks]
        assert not deadlines._last

    anyloop.run(main())


def test_a_pause_that_ends_right_behind_the_deadline_is_no_silence(anyloop: Place) -> None:
    """The timer is not late, and uvloop calls it before it looks at any socket."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        ours.setblocking(False)

        def pause(seconds: float) -> None:
            peer.send(b"in time")
            time.sleep(seconds)

        loop.call_soon(pause, 0.06)
        assert await in_time(loop.sock_recv(ours, 100), 0.05) == b"in time"
        passed, heard = list[None](), asyncio.Event()
        deadline = Deadline(loop, 0.05, lambda: passed.append(None))
        loop.add_reader(ours, heard.set)
        loop.call_soon(pause, 0.06)
        await heard.wait()
        deadline.cancel()
        assert not passed
        loop.remove_reader(ours)
        ours.close()
        peer.close()

    anyloop.run(main())


def test_it_has_that_by_itself(anyloop: Place) -> None:
    async def main() -> None:
        deadlines, passed = Deadlines(asyncio.get_running_loop(), 0.01), list[Patient]()
        deadlines.add(Patient(passed))
        time.sleep(0.1)  # the loop stands still
        await until(lambda: passed)
        deadlines.add(Patient(passed))
        await until(lambda: len(passed) == 2)

    anyloop.run(main())


def test_one_wait_gives_as_long_again(anyloop: Place) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        passed = list[bool]()

        def note() -> None:
            passed.append(True)

        deadline = Deadline(loop, 1000, note)
        first = deadline._handle
        deadline._tick(loop.time() - 5, note)
        assert passed == [] and deadline._handle is not first
        deadline._tick(math.inf, note)
        assert passed == [True]
        first.cancel()
        deadline.cancel()
        assert deadline._handle.cancelled()

    anyloop.run(main())


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

    def test_the_loop_has_stood_still(self, anyloop: Place) -> None:
        """What it waited for was there, and a few turns away."""

        async def some_turns() -> int:
            for _ in range(20):
                await asyncio.sleep(0)
            return 42

        async def main() -> None:
            asyncio.get_running_loop().call_soon(time.sleep, 0.2)
            assert await in_time(some_turns(), 0.01) == 42

        anyloop.run(main())

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


def test_a_timer_for_which_there_is_no_memory_is_set_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody had a deadline any more who waited equally long."""
    passed: list[object] = []

    class Peer:
        def has_unread(self) -> bool:
            return False

        def deadline_passed(self) -> None:
            passed.append(self)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop, 0.01)

        def fails(*what: object, **options: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patched:
            patched.setattr(loop, "call_at", fails)
            with pytest.raises(MemoryError):
                deadlines.add(Peer())
        deadlines.add(Peer())
        while len(passed) < 2:
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(main(), 10))
