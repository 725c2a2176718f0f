"""Checking UTF-8: each kernel, against CPython's decoder (which makes a str of it) and wsaccel."""

from __future__ import annotations

from typing import Any

import pytest

from zcws.kernel import ffi, lib

SIZES = [16, 256, 4096, 64 * 1024, 1 << 20]
#: Text whose characters take one to four bytes. Real text mixes them; these are the pure cases between which it lies.
TEXTS = {
    "ASCII": "the quick brown fox ",
    "2 bytes": "съешьжеещёэтих",
    "3 bytes": "我能吞下玻璃而不伤身体",
    "4 bytes": "🦊🐕🏃🌙",
}

pytestmark = [pytest.mark.parametrize("size", SIZES), pytest.mark.parametrize("kind", TEXTS)]


def text(kind: str, size: int) -> bytes:
    """Exactly `size` bytes, filled up with spaces where a character would be cut."""
    encoded = (TEXTS[kind] * (size // 8 + 1)).encode()[:size].decode(errors="ignore").encode()
    return encoded + b" " * (size - len(encoded))


def test_kernel(benchmark: Any, each_kernel: str, kind: str, size: int) -> None:
    benchmark.group = f"UTF-8 {kind} {size}"
    data, state = ffi.from_buffer(text(kind, size)), ffi.new("uint32_t *")
    checked = benchmark(lib.zcws_utf8, data, size, state)
    assert checked == size


def test_decode(benchmark: Any, kind: str, size: int) -> None:
    benchmark.group = f"UTF-8 {kind} {size}"
    benchmark(text(kind, size).decode)


def test_wsaccel(benchmark: Any, kind: str, size: int) -> None:
    validator = pytest.importorskip("wsaccel.utf8validator")
    benchmark.group = f"UTF-8 {kind} {size}"
    data = text(kind, size)
    benchmark(lambda: validator.Utf8Validator().validate(data))
