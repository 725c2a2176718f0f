"""When a wait is over, and how much of it is left."""

from __future__ import annotations

import math
import threading
import time

import pytest

from zcws.options import LONGEST, checked_wait
from zcws.sync.deadline import after, is_past, left, lock_timeout, socket_timeout, until


def test_never() -> None:
    assert (after(None), left(None), socket_timeout(None), lock_timeout(None)) == (None, None, None, -1)
    assert not is_past(None)


@pytest.mark.parametrize("timeout", [0, -1, -math.inf])
def test_at_once(timeout: float) -> None:
    deadline = after(timeout)
    assert is_past(deadline)
    assert (left(deadline), lock_timeout(timeout)) == (0, 0)
    assert socket_timeout(deadline) == 0.001  # 0 would have the socket not block at all


def test_later() -> None:
    before = time.monotonic()
    deadline = after(1000)
    assert deadline is not None and before + 1000 <= deadline <= time.monotonic() + 1000
    assert not is_past(deadline)
    for rest in (left(deadline), socket_timeout(deadline)):
        assert rest is not None and 0 < rest <= 1000


def test_the_longest_wait_is_one_that_locks_can_do() -> None:
    longest = checked_wait(LONGEST * 1e9)
    assert longest is not None and lock_timeout(longest) <= threading.TIMEOUT_MAX
    assert lock_timeout(checked_wait(math.inf)) == -1


def test_until_a_deadline_and_once_more() -> None:
    assert len(list(until(after(0)))) == 1
    with_time, deadline = 0, after(0.01)
    for _ in until(deadline):
        with_time += not is_past(deadline)
    assert with_time
    assert next(until(None)) is None
