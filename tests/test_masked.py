"""Masked frames in memory of their own. That they go out where they should: test_writer.py, aio/test_large.py."""

from __future__ import annotations

import sys

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st

from zcws.kernel import ffi
from zcws.masked import LONGEST_HEAD, masked_frame, masked_rest, masked_size

KEY = int.from_bytes(wire.KEY, sys.byteorder)
SIZES = [0, 1, 2, 3, 125, 126, 127, 1000, 65_535, 65_536, 100_000]


def payload_of(size: int) -> bytes:
    return bytes(i % 251 for i in range(size))


@pytest.mark.parametrize("size", SIZES)
def test_rfc6455_5_3_a_whole_frame(size: int) -> None:
    payload = payload_of(size)
    frame = masked_frame(0x82, payload, size, KEY)
    assert frame == wire.frame(wire.BINARY, payload, key=wire.KEY)
    assert len(frame) == masked_size(size) <= size + LONGEST_HEAD


@given(st.sampled_from(SIZES), st.data())
def test_what_is_left_of_it(size: int, data: st.DataObject) -> None:
    """Wherever it was cut: in the head, behind it, at any phase of the key."""
    payload = payload_of(size)
    frame = wire.frame(wire.BINARY, payload, key=wire.KEY)
    at = data.draw(st.integers(0, min(len(frame), 20)) | st.integers(0, len(frame)))
    for source in (payload, ffi.from_buffer(payload), ffi.from_buffer(bytearray(payload))):
        assert masked_rest(0x82, source, size, KEY, at) == frame[at:]
