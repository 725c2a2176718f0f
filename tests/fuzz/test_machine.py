"""Some machines of machine.py, on both event loops; more of them by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from fuzz import machine
from fuzz.test_crowd import loops

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the engine needs epoll")


@pytest.mark.parametrize("run", loops(), ids=lambda run: run.__module__.split(".")[0])
@pytest.mark.parametrize("seed", range(6))
def test_nobody_starves(seed: int, run: Callable[[Any], None]) -> None:
    machine.check(seed, run)
