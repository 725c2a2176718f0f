"""Masking: each kernel through cffi as the library calls it, against what else a Python program could do."""

from __future__ import annotations

import os
from typing import Any

import pytest

from zcws.kernel import ffi, lib

#: Bytes. In cache, and beyond it; below 16 it is the call that is measured.
SIZES = [16, 256, 4096, 64 * 1024, 1 << 20, 16 << 20]
KEY = b"\x12\x34\x56\x78"
NUMBER = int.from_bytes(KEY, "little")

pytestmark = pytest.mark.parametrize("size", SIZES)


def test_mask(benchmark: Any, each_kernel: str, size: int) -> None:
    benchmark.group = f"mask {size}"
    data = ffi.from_buffer(bytearray(os.urandom(size)))
    benchmark(lib.zcws_mask, data, size, NUMBER, 0)


def test_mask_copy(benchmark: Any, each_kernel: str, size: int) -> None:
    benchmark.group = f"mask and copy {size}"
    source, target = ffi.from_buffer(bytearray(os.urandom(size))), ffi.from_buffer(bytearray(size))
    benchmark(lib.zcws_mask_copy, target, source, size, NUMBER, 0)


def test_memmove(benchmark: Any, size: int) -> None:
    """The limit: the same bytes moved and not masked."""
    benchmark.group = f"mask and copy {size}"
    source, target = ffi.from_buffer(bytearray(os.urandom(size))), ffi.from_buffer(bytearray(size))
    benchmark(ffi.memmove, target, source, size)


def test_numpy(benchmark: Any, size: int) -> None:
    numpy = pytest.importorskip("numpy")
    benchmark.group = f"mask {size}"
    words = numpy.frombuffer(bytearray(os.urandom(size)), dtype="<u4")
    benchmark(numpy.bitwise_xor, words, numpy.uint32(NUMBER), out=words)


def test_websockets(benchmark: Any, size: int) -> None:
    speedups = pytest.importorskip("websockets.speedups")
    benchmark.group = f"mask and copy {size}"
    benchmark(speedups.apply_mask, os.urandom(size), KEY)


def test_wsaccel(benchmark: Any, size: int) -> None:
    xormask = pytest.importorskip("wsaccel.xormask")
    benchmark.group = f"mask and copy {size}"
    data = os.urandom(size)
    benchmark(lambda: xormask.XorMaskerSimple(KEY).process(data))
