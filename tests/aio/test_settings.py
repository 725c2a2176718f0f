"""What connections share: one memory for each event loop, and settings that are checked once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from zcws.aio.settings import Options, pool_of


def test_an_event_loop_has_one_pool_and_keeps_it() -> None:
    loops = [asyncio.new_event_loop() for _ in range(2)]
    pools = [pool_of(loop) for loop in loops]
    assert pools[0] is not pools[1] and [pool_of(loop) for loop in loops] == pools
    known = weakref.ref(pools[0])
    for loop in loops:
        loop.close()
    del loops, pools, loop
    gc.collect()
    assert known() is None


def test_the_defaults() -> None:
    options = Options()
    assert (options.ping_interval, options.ping_timeout, options.close_timeout) == (20, 20, 10)
    assert (options.write_limit, options.write_timeout) == ((64 * 1024, 16 * 1024), None)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("ping_interval", 0, ValueError),
        ("ping_interval", "20", TypeError),
        ("ping_timeout", -1, ValueError),
        ("close_timeout", float("nan"), ValueError),
        ("write_timeout", -0.5, ValueError),
        ("write_limit", -1, ValueError),
        ("write_limit", (1, 2), ValueError),
        ("write_limit", "64K", TypeError),
    ],
)
def test_what_means_nothing_is_refused_by_its_name(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        Options(**{option: value})
