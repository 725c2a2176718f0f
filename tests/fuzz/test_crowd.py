"""Some crowds of crowd.py, on both event loops; more of them by hand."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fuzz import crowd

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the engine needs epoll")


def loops() -> list[Callable[[Any], None]]:
    try:
        import uvloop
    except ImportError:
        return [asyncio.run]
    return [asyncio.run, uvloop.run]


@pytest.mark.parametrize("run", loops(), ids=lambda run: run.__module__.split(".")[0])
@pytest.mark.parametrize("seed", range(6))
def test_everybody_gets_what_is_theirs(seed: int, run: Callable[[Any], None]) -> None:
    crowd.check(seed, run)
