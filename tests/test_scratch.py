"""Masked frames in memory of their own. That they go out where they should: test_writer.py, aio/test_large.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st

from zcws.kernel import ffi
from zcws.scratch import LONGEST_HEAD, Scratch, masked_size

KEY = int.from_bytes(wire.KEY, sys.byteorder)
SIZES = [0, 1, 2, 3, 125, 126, 127, 1000, 65_535, 65_536, 100_000]


def payload_of(size: int) -> bytes:
    return bytes(i % 251 for i in range(size))


@pytest.mark.parametrize("size", SIZES)
def test_rfc6455_5_3_a_whole_frame(size: int) -> None:
    payload = payload_of(size)
    frame = Scratch().frame(0x82, payload, size, KEY)
    assert frame == wire.frame(wire.BINARY, payload, key=wire.KEY)
    assert len(frame) == masked_size(size) <= size + LONGEST_HEAD


@given(st.sampled_from(SIZES), st.data())
def test_what_is_left_of_it(size: int, data: st.DataObject) -> None:
    """Wherever it was cut: in the head, behind it, at any phase of the key."""
    scratch, payload = Scratch(), payload_of(size)
    frame = wire.frame(wire.BINARY, payload, key=wire.KEY)
    at = data.draw(st.integers(0, min(len(frame), 20)) | st.integers(0, len(frame)))
    for source in (payload, ffi.from_buffer(payload), ffi.from_buffer(bytearray(payload))):
        assert scratch.unsent(0x82, source, size, KEY, at) == frame[at:]


class TestMemory:
    def address(self, frame: memoryview) -> int:
        return int(ffi.cast("uintptr_t", ffi.from_buffer(frame)))

    def frames(self, scratch: Scratch, size: int) -> Iterator[memoryview]:
        for fill in (b"a", b"b"):
            frame = scratch.frame(0x82, fill * size, size, 0)
            assert frame[-size:] == fill * size
            yield frame

    def test_it_is_used_again(self) -> None:
        scratch = Scratch()
        places = [self.address(scratch.frame(0x82, bytes(size), size, 0)) for size in (100_000, 99_000, 10)]
        assert len(set(places)) == 1

    @pytest.mark.parametrize("begin", [0, 50_000])
    def test_not_while_somebody_holds_it(self, begin: int) -> None:
        first, second = (frame[begin:] for frame in self.frames(Scratch(), 60_000))
        assert bytes(first[-100:]) == b"a" * 100 and bytes(second[-100:]) == b"b" * 100

    def test_what_is_held_for_long_is_left_to_its_holder(self) -> None:
        scratch = Scratch()
        held = [scratch.frame(0x82, bytes([n]) * 50_000, 50_000, 0) for n in range(5)]
        assert [frame[-1] for frame in held] == [0, 1, 2, 3, 4]
        assert len({self.address(frame) for frame in held}) == 5
        last = self.address(held[-1])
        del held
        assert self.address(scratch.frame(0x82, bytes(50_000), 50_000, 0)) == last

    @pytest.mark.parametrize(
        ("size", "is_kept"), [(2 * 1024 * 1024 - 14, True), (2 * 1024 * 1024 - 13, False)]
    )
    def test_how_much_is_kept(self, size: int, is_kept: bool) -> None:
        scratch = Scratch()
        scratch.frame(0x82, bytes(size), size, 0)
        assert bool(scratch._spare) == is_kept

    def test_the_rest_of_one_is_held_as_well(self) -> None:
        scratch = Scratch()
        rest = scratch.unsent(0x82, b"a" * 60_000, 60_000, 0, 30_000)
        scratch.frame(0x82, b"b" * 60_000, 60_000, 0)
        assert rest == b"a" * 30_008

    def test_whoever_sends_while_it_is_written_gets_other_memory(self) -> None:
        """A finalizer that the collector runs, or a signal handler, in the middle of another connection's message."""
        scratch = Scratch()
        scratch.frame(0x82, bytes(60_000), 60_000, 0)
        memory = scratch.reserve(60_000)
        between = scratch.frame(0x82, b"b" * 40_000, 40_000, 0)
        ffi.memmove(memory, b"a" * 60_000, 60_000)
        frame = scratch.lend(memory, 60_000)
        after = scratch.frame(0x82, b"c" * 50_000, 50_000, 0)
        assert between[-40_000:] == b"b" * 40_000
        assert frame == b"a" * 60_000
        assert after[-50_000:] == b"c" * 50_000

    def test_between_the_two_it_is_nobody_elses(self) -> None:
        """Before it is known who holds it, too: what is sent and gone by then takes none of it."""
        scratch = Scratch()
        memory = scratch.reserve(60_000)
        frame = scratch.lend(memory, 60_000)
        del frame
        assert scratch.reserve(50_000) is memory
        assert scratch.reserve(50_000) is not memory
