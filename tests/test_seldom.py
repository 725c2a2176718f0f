from __future__ import annotations

import logging

import pytest

from zcws.seldom import Seldom


@pytest.mark.parametrize(
    ("seconds", "due"), [(1.0, [5.0, 6.0, 7.5]), (0, [5.0, 5.5, 5.9, 6.0, 6.9, 7.5]), (float("inf"), [5.0])]
)
def test_what_is_told_once_in_a_while(seconds: float, due: list[float]) -> None:
    seldom = Seldom(seconds)
    assert [now for now in (5.0, 5.5, 5.9, 6.0, 6.9, 7.5) if seldom.is_due(now)] == due


def test_what_is_not_due_is_for_who_wants_it_all() -> None:
    seldom = Seldom(1.0)
    levels = [seldom.level(logging.INFO, now) for now in (5.0, 5.5, 6.0)]
    assert levels == [logging.INFO, logging.DEBUG, logging.INFO]
