"""Some streams of talk.py, on both event loops; more of them by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from fuzz import talk
from fuzz.test_crowd import loops

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the engine needs epoll")


@pytest.mark.parametrize("run", loops(), ids=lambda run: run.__module__.split(".")[0])
def test_what_comes_of_a_stream_is_what_the_plainest_receiver_makes_of_it(run: Callable[[Any], None]) -> None:
    for seed in range(100):
        print("the seed is", seed)
        talk.check(seed, run)
