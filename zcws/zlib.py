"""Which zlib compresses: zlib-ng, or Python's own where there is no zlib-ng.

zlib-ng has no wheels for PyPy, and building it there takes cmake and a network, so `pyproject.toml` asks for it on
CPython only. At level 1 Python's own takes two to three times as long (docs/compression.md); peers cannot tell them
apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["VERSION", "tell", "zlib"]

zlib: Any
VERSION: str

#: Tells PyPy's collector of bytes that C holds for an object; None elsewhere. PyPy's zlib tells of 112 bytes a stream
#: (8.0.1), so that a hundred thousand of them, long dropped, waited for it.
tell: Callable[[int], None] | None

try:
    from __pypy__ import add_memory_pressure  # type: ignore[import-not-found, unused-ignore]
except ModuleNotFoundError:
    tell = None
else:
    tell = add_memory_pressure

try:
    from zlib_ng import zlib_ng
except ModuleNotFoundError:
    import zlib as own

    zlib, VERSION = own, f"Python's own zlib {own.ZLIB_RUNTIME_VERSION}; the package zlib-ng is not installed"
else:
    zlib, VERSION = zlib_ng, f"zlib-ng {zlib_ng.ZLIBNG_RUNTIME_VERSION}"
