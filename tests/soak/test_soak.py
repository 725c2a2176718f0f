"""The soak for a few seconds, and that it would find what it looks for."""

from __future__ import annotations

import dataclasses
import random

import pytest

from .gauge import HAS_PROC
from .plan import Messages, Plan
from .report import problems, table
from .supervise import soak
from .tally import Tally, complaints

#: Seconds for which new sessions begin; processes take as long again to start and to finish.
SECONDS = 8.0


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PROC, reason="needs /proc, for memory and descriptors of other processes")
def test_nothing_is_lost_doubled_reordered_or_altered() -> None:
    seed = random.randrange(1 << 32)
    run = soak(seed, SECONDS)
    print(*table(run), sep="\n")
    assert problems(run) == []
    assert run.sessions > 0


PLAN = dataclasses.replace(Plan.of(1, 1), count=3, cut=2, ending="drained")


def tallies(**options: int) -> tuple[Tally, Tally]:
    counts = {"begun": 3, "sent": 3, "received": 3, "code": 1000, **options}
    return Tally(1, "client", **counts), Tally(1, "server", **counts)


def test_a_session_without_faults() -> None:
    assert [*complaints(PLAN, *tallies())] == []


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("what", [{"received": 2}, {"received": 4}, {"code": 1006}])
def test_counts_that_are_wrong(side: int, what: dict[str, int]) -> None:
    good, bad = tallies(), tallies(**what)
    client, server = (bad[0], good[1]) if side == 0 else (good[0], bad[1])
    assert [*complaints(PLAN, client, server)]


@pytest.mark.parametrize("order, diagnosis", [((0, 2), "lost"), ((0, 0), "doubled"), ((0, 1), None)])
def test_messages_that_are_not_the_next(order: tuple[int, ...], diagnosis: str | None) -> None:
    messages, tally = Messages(5), Tally(9, "server")
    first = next(n for n in range(100) if all(len(messages.make(9, n + i)) > 40 for i in range(3)))
    tally.received = first
    if diagnosis is None:
        for number in order:
            tally.take(messages, messages.make(9, first + number))
        assert tally.wrong is None
        return
    with pytest.raises(AssertionError, match=diagnosis):
        for number in order:
            tally.take(messages, messages.make(9, first + number))


def test_a_message_that_is_altered() -> None:
    messages, tally = Messages(5), Tally(9, "server")
    tally.received = next(n for n in range(100) if len(messages.make(9, n)) > 40)
    message = messages.make(9, tally.received)
    middle = len(message) // 2
    altered = message.swapcase() if isinstance(message, str) else message[::-1]
    assert altered[middle:] != message[middle:]
    with pytest.raises(AssertionError, match="altered"):
        tally.take(messages, altered)
