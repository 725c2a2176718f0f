"""How much memory something takes at its highest."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def peak_of(action: Callable[[], object]) -> int:
    """Bytes of Python's memory that `action` had at its highest."""
    tracemalloc = pytest.importorskip(
        "tracemalloc", reason="PyPy does not count its memory", exc_type=ImportError
    )
    tracemalloc.start()
    try:
        action()
        return int(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
