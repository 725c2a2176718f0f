"""Where memory lies. And numpy, where there is one: it has no wheels for PyPy. `np` is None there, and what needs it is
skipped.
"""

from __future__ import annotations

import platform
from typing import Any

import pytest

from zcws.kernel import ffi

np: Any = None
if platform.python_implementation() == "CPython":
    # There it is required: a skip would hide that it is missing.
    import numpy as np  # type: ignore[no-redef]

needs_numpy = pytest.mark.skipif(np is None, reason="numpy has no wheels for PyPy")


def array_over(view: memoryview) -> Any:
    """An array of bytes that shares a view's memory; without numpy, another view of it."""
    return view.cast("B") if np is None else np.frombuffer(view, np.uint8)


def address(memory: object) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
