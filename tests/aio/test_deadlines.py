"""Waits that share a timer: who waits longest is told first, and nobody is blamed for a pause of ours."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from net import Place, until

from zcws.aio.deadlines import Deadline, Deadlines


class Patient:
    """Waits, and notes when it has waited long enough."""

    def __init__(self, passed: list[Patient], then: Callable[[], object] = lambda: None) -> None:
        self.passed, self.then = passed, then

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
        deadlines._tick(loop)
        assert passed == []
        deadlines._tick(loop)
        assert passed == waiting[:2]
        deadlines.remove(waiting[2])

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
