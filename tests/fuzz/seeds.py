"""The command line of what does random things from a seed: FIRST STOP LOOP, where LOOP is asyncio or uvloop."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def try_each(check: Callable[[int, Callable[[Any], None]], None]) -> None:
    """`check` for each seed from FIRST on, up to STOP; the one that fails is said."""
    first, stop, loop = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    run = importlib.import_module(loop).run
    for seed in range(first, stop):
        try:
            check(seed, run)
        except BaseException:
            print(f"the seed is {seed}, with {loop}")
            raise
