"""The caller's payload buffer: storage that grows with what arrives, or memory that the caller brought."""

from __future__ import annotations

import array
import gc
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from arrays import address, array_over, needs_numpy, np
from pythons import needs_cpython

from zcws import buffer as buffer_module
from zcws.buffer import _AHEAD, PayloadBuffer, check_buffer
from zcws.errors import StaleFrame
from zcws.kernel import ffi, new_uncleared


def receive(buffer: PayloadBuffer, *pieces: bytes) -> bool:
    """One message in pieces; whether all of it fitted."""
    buffer.begin()
    return all(buffer.append(memoryview(piece)) for piece in pieces)


@pytest.mark.parametrize("memory", [b"", bytearray(9), memoryview(b"")])
def test_what_is_no_buffer(memory: object) -> None:
    check_buffer(None)
    check_buffer(PayloadBuffer())
    with pytest.raises(TypeError, match=r"PayloadBuffer\(memory\) wraps yours"):
        check_buffer(memory)


# ---- storage of its own ----


def test_it_grows_to_the_largest_message() -> None:
    buffer = PayloadBuffer()
    assert (len(buffer), buffer.capacity) == (0, 0)
    assert receive(buffer, b"a" * 3, b"b" * 100_000)
    assert (len(buffer), bytes(buffer.occupant().peek(0, 5))) == (100_003, b"aaabb")
    largest = buffer.capacity
    assert receive(buffer, b"small")
    assert (len(buffer), buffer.capacity) == (5, largest)


def test_it_is_used_again_when_nobody_looks() -> None:
    buffer = PayloadBuffer()
    receive(buffer, b"first")
    view = buffer.occupant().export(0, 5)
    where = address(view)
    assert bytes(view) == b"first"
    del view
    gc.collect()
    receive(buffer, b"second")
    assert address(buffer.occupant().export(0, 6)) == where


@pytest.mark.parametrize("holder", [lambda v: v, lambda v: v[1:3], lambda v: array_over(v)[1:]])
def test_a_view_that_is_held_keeps_the_old_storage(holder: object) -> None:
    buffer = PayloadBuffer()
    receive(buffer, b"first")
    kept = holder(buffer.occupant().export(0, 5))  # type: ignore[operator]
    before = bytes(kept)
    for i in range(20):
        receive(buffer, bytes([i]) * 5)
        assert bytes(buffer.occupant().export(0, 5)) == bytes([i]) * 5
    assert bytes(kept) == before


def test_two_views_of_one_message_lie_in_one_place() -> None:
    buffer = PayloadBuffer()
    receive(buffer, b"0123456789")
    first, second = buffer.occupant().export(0, 5), buffer.occupant().export(5, 10)
    assert address(second) == address(first) + 5


def test_an_empty_message_is_one_too() -> None:
    for buffer in (PayloadBuffer(), PayloadBuffer(bytearray()), PayloadBuffer(array.array("f"))):
        assert receive(buffer, b"")
        occupant = buffer.occupant()
        assert (len(buffer), bytes(occupant.peek(0, 0)), bytes(occupant.export(0, 0))) == (0, b"", b"")


def test_memory_grows_with_what_has_arrived() -> None:
    buffer = PayloadBuffer()
    buffer.begin()
    announced = 1 << 40
    arrived = 0
    while arrived < 3_000_000:
        slot = buffer.slot(256 * 1024, announced)
        assert 0 < len(slot) <= 256 * 1024
        assert buffer.capacity <= 4 * arrived + _AHEAD
        size = min(len(slot), 50_000)
        slot[:size] = arrived.to_bytes(4, "big") * (size // 4)
        assert address(slot) == int(ffi.cast("uintptr_t", buffer.pointer()))
        buffer.advance(size)
        arrived += size
    assert bytes(buffer.occupant().peek(50_000, 50_004)) == (50_000).to_bytes(4, "big")


def test_what_messages_have_needed_before_is_taken_at_once_where_the_last_one_is_held() -> None:
    """Or most of each would be copied once more while its storage grows."""
    buffer, views = PayloadBuffer(), []
    for total, at_first in [(3_000_000, _AHEAD), (2_000_000, 2_000_000), (4_000_000, 2_000_000)]:
        buffer.begin()
        assert buffer.slot(256 * 1024, total) and buffer.capacity == at_first
        while len(buffer) < total:
            buffer.advance(len(buffer.slot(256 * 1024, total)))
        views.append(buffer.occupant().export(0, 1))


@needs_cpython("elsewhere objects move")
def test_a_message_is_received_into_the_object_that_is_handed_out() -> None:
    """Memory grows with what has arrived all the same; to what earlier messages have needed, at once."""
    buffer, taken = PayloadBuffer(), []
    for total, at_first in [(3_000_000, _AHEAD), (2_000_000, 2_000_000), (4_000_000, 2_000_000)]:
        buffer.begin()
        buffer.whole_size = total
        assert buffer.slot(256 * 1024, total) and buffer.capacity == at_first
        while len(buffer) < total:
            slot = buffer.slot(256 * 1024, total)
            assert buffer.capacity <= max(4 * len(buffer) + _AHEAD, at_first)
            slot[:] = bytes([len(buffer) // 50_000 % 256]) * len(slot)
            assert address(slot) == int(ffi.cast("uintptr_t", buffer.pointer()))
            buffer.advance(min(len(slot), 50_000))
        expected = bytes(buffer.occupant().peek(0, total))
        made = buffer.take_bytes()
        assert (type(made), made) == (bytes, expected)
        taken.append((made, expected))
        assert buffer.take_bytes() is None and buffer.capacity == 0
    receive(buffer, b"x" * 3_000_000)
    for made, expected in taken:
        assert made == expected


def test_what_is_received_into_storage_that_is_used_again_is_no_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffer = PayloadBuffer()
    for whole_size, makes_bytes in ((0, True), (300_000, True), (300_000, False)):
        monkeypatch.setattr(buffer_module, "MAKES_BYTES", makes_bytes)
        buffer.begin()
        buffer.append(
            memoryview(bytes(2_000_000 if makes_bytes else 1))
        )  # there is room, or the room is no object
        buffer.whole_size = whole_size
        buffer.slot(10, 2_000_010)
        assert buffer.take_bytes() is None
    assert receive(PayloadBuffer(bytearray(9)), b"123456789")


@needs_cpython("elsewhere objects move")
def test_a_message_that_is_dropped_or_shown_leaves_no_object_behind() -> None:
    buffer = PayloadBuffer()
    buffer.begin()
    buffer.whole_size = 20_000
    buffer.slot(20_000, 20_000)[:] = b"x" * 20_000
    buffer.advance(20_000)
    view = buffer.occupant().export(0, 20_000)
    buffer.begin()
    assert buffer.take_bytes() is None
    buffer.append(memoryview(b"y" * 20_000))
    assert bytes(view) == b"x" * 20_000


def test_no_more_is_taken_than_the_message_needs() -> None:
    buffer = PayloadBuffer()
    buffer.begin()
    assert len(buffer.slot(20_000, 20_000)) == 20_000
    assert buffer.capacity == 20_000


# ---- the caller's memory ----


def test_a_message_lands_in_the_callers_memory() -> None:
    memory = bytearray(b"." * 20)
    buffer = PayloadBuffer(memory)
    assert receive(buffer, b"abc", b"def")
    assert memory == b"abcdef" + b"." * 14
    assert address(buffer.occupant().export(0, 6)) == address(memory)
    assert (len(buffer), buffer.capacity) == (6, 20)


def test_what_does_not_fit_is_refused_and_not_written() -> None:
    memory = bytearray(b"." * 20)
    with memoryview(memory)[5:15] as inner:
        buffer = PayloadBuffer(inner)
        assert (buffer.fits(10), buffer.fits(11)) == (True, False)
        assert receive(buffer, b"0123456789")
        assert not receive(buffer, b"abcdef", b"ghijk")
        assert len(buffer) == 6
        assert memory == b"....." + b"abcdef6789" + b"....."
        assert len(buffer.slot(100, 100)) == 4
        buffer.release()


BROUGHT: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: bytearray(20),
    "integers": lambda: array.array("I", bytes(20)),
    "a view that was cast": lambda: memoryview(array.array("I", bytes(20))).cast("B"),
}


@pytest.mark.parametrize("by_address", [False, True])
@pytest.mark.parametrize("kind", BROUGHT)
def test_what_c_receives_lands_in_the_callers_memory(
    kind: str, by_address: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PyPy the slot was a slice of a view that was cast: C received into a copy, and a socket refused it."""
    if by_address:
        monkeypatch.setattr(buffer_module, "SLICES_HAVE_ADDRESSES", False)
    memory = BROUGHT[kind]()
    buffer = PayloadBuffer(memory)
    buffer.begin()
    assert buffer.append(memoryview(b"ab"))
    for byte in b"cd":
        slot = buffer.slot(100, 100)
        assert len(slot) == 20 - len(buffer)
        with ffi.from_buffer("uint8_t[]", slot, require_writable=True) as room:
            room[0] = byte
        buffer.advance(1)
    assert len(buffer.slot(2, 2)) == 2 and not buffer.slot(0, 0)
    assert bytes(memory) == b"abcd" + bytes(16)
    assert buffer.occupant().export(0, 4) == b"abcd"


def test_the_next_message_overwrites_the_last_one() -> None:
    memory = bytearray(8)
    buffer = PayloadBuffer(memory)
    receive(buffer, b"first")
    view = buffer.occupant().export(0, 5)
    receive(buffer, b"other")
    assert bytes(view) == b"other"


def test_a_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "payload"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        buffer = PayloadBuffer(mapping)
        receive(buffer, b"to the file")
        # PyPy closes the mapping under a view: nobody can prevent it.
        if sys.implementation.name == "cpython":
            with pytest.raises(BufferError):
                mapping.close()
        buffer.release()
    assert path.read_bytes().startswith(b"to the file\0")


@needs_numpy
@pytest.mark.parametrize("dtype", ["u1", "i8", "f4", "c16", "?"])
def test_arrays_of_any_type_and_shape(dtype: str) -> None:
    memory = np.zeros((4, 4), dtype)
    buffer = PayloadBuffer(memory)
    assert buffer.capacity == memory.nbytes
    receive(buffer, bytes(range(1, 9)))
    assert memory.tobytes()[:9] == bytes(range(1, 9)) + b"\0"


def test_memory_that_cannot_be_received_into() -> None:
    with pytest.raises(ValueError, match="read-only"):
        PayloadBuffer(b"constant")
    with pytest.raises(ValueError, match="contiguous"):
        PayloadBuffer(memoryview(bytearray(10))[::2])
    with pytest.raises(TypeError):
        PayloadBuffer("text")  # type: ignore[arg-type]


@needs_numpy
def test_an_array_that_is_not_contiguous() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        PayloadBuffer(np.zeros((4, 4), np.uint8).T[1:])


# ---- who is in it ----


def test_an_occupant_shows_its_own_message_and_no_other() -> None:
    buffer = PayloadBuffer()
    receive(buffer, b"first")
    first = buffer.occupant()
    assert (bytes(first.peek(0, 5)), bytes(first.export(1, 3))) == (b"first", b"ir")
    receive(buffer, b"other")
    for look in (first.peek, first.export, first.keep):
        with pytest.raises(StaleFrame, match="used again, or released"):
            look(0, 5)
    assert bytes(buffer.occupant().peek(0, 5)) == b"other"


def test_what_is_kept_of_a_message_never_changes() -> None:
    """A view where that is most of the storage, and a copy of anything else."""
    for memory in (None, bytearray(16_384)):
        buffer = PayloadBuffer(memory)
        receive(buffer, b"x" * 16_384)
        kept = [buffer.occupant().keep(start, 16_384) for start in (0, 12_288, 12_289)]
        assert [isinstance(each, memoryview) for each in kept] == [memory is None, memory is None, False]
        assert buffer.is_held is (memory is None)
        receive(buffer, b"y" * 16_384)
        assert kept == [b"x" * 16_384, b"x" * 4096, b"x" * 4095]
        assert not buffer.is_held


def test_whoever_writes_into_a_message_does_not_change_what_is_kept_of_it() -> None:
    buffer = PayloadBuffer()
    for number in range(3):
        receive(buffer, b"x" * 10_000)
        occupant = buffer.occupant()
        kept = [occupant.keep(0, 10_000)]
        if number == 2:
            kept.clear()  # it has been sent
            gc.collect()  # PyPy
        at = address(buffer.occupant().peek(0, 1))
        view = occupant.export(0, 10_000)
        assert view == b"x" * 10_000 and not view.readonly
        assert (address(view) == at) is (number == 2)  # another copy only where something is kept
        view[:] = b"w" * 10_000
        kept.append(occupant.keep(5_000, 10_000))
        assert isinstance(kept[-1], bytes)  # since the view is out
        view[:] = b"v" * 10_000
        assert kept[-1] == b"w" * 5_000 and (number == 2 or kept[0] == b"x" * 10_000)
        assert bytes(occupant.peek(0, 10_000)) == bytes(occupant.export(0, 10_000)) == b"v" * 10_000


class TestALookThatComesTooLate:
    """In another thread, while the next message is received: it changes nothing of that."""

    def test_while_a_view_of_that_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It stood for the views of both, and was gone: a view that was held was written over."""
        buffer, views = PayloadBuffer(), list[memoryview]()
        receive(buffer, b"x" * 5000)
        late = buffer.occupant()

        def make(*given: Any) -> Any:
            monkeypatch.undo()
            exporter = ffi.buffer(*given)
            receive(buffer, b"y" * 5000)
            views.append(buffer.occupant().export(0, 5000))
            return exporter

        monkeypatch.setattr("zcws.buffer.ffi", SimpleNamespace(buffer=make))
        with pytest.raises(StaleFrame):
            late.export(0, 5000)
        receive(buffer, b"z" * 5000)
        assert views == [b"y" * 5000]

    def test_where_it_gets_other_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """That was the buffer's then, and not what C was receiving into."""
        buffer, slots = PayloadBuffer(), list[memoryview]()
        receive(buffer, b"x" * 5000)
        late = buffer.occupant()
        kept = late.keep(0, 5000)

        def make(*given: Any) -> Any:
            monkeypatch.undo()
            buffer.begin()
            slots.append(buffer.slot(5000, 5000))
            return new_uncleared(*given)

        monkeypatch.setattr("zcws.buffer.new_uncleared", make)
        with pytest.raises(StaleFrame):
            late.export(0, 5000)
        slots[0][:] = b"y" * 5000
        buffer.advance(5000)
        assert buffer.occupant().export(0, 5000) == b"y" * 5000
        assert kept == b"x" * 5000


@pytest.mark.parametrize("memory", [None, bytearray(10)])
def test_release(memory: bytearray | None) -> None:
    buffer = PayloadBuffer(memory)
    receive(buffer, b"first")
    occupant, view = buffer.occupant(), buffer.occupant().export(0, 5)
    buffer.reader = SimpleNamespace(is_closed_here=False)
    with pytest.raises(ValueError, match="arriving"):
        buffer.release()
    buffer.reader = None
    buffer.release()
    assert (len(buffer), buffer.capacity, bytes(view)) == (0, 0, b"first")
    with pytest.raises(StaleFrame):
        occupant.peek(0, 5)
    # One that owns its storage can be used again; memory that was given back is gone.
    assert receive(buffer, b"second") == (memory is None)
    with pytest.raises(StaleFrame):
        occupant.peek(0, 5)


def test_repr() -> None:
    buffer = PayloadBuffer(bytearray(10))
    receive(buffer, b"abc")
    assert repr(buffer) == "<PayloadBuffer 3 of 10 bytes, the caller's memory>"
    assert "own storage" in repr(PayloadBuffer())


def test_what_is_released_is_let_go_of_at_once() -> None:
    """On PyPy it was pinned until the next collection."""
    memory = bytearray(10)
    buffer = PayloadBuffer(memory)
    for _ in range(2):
        buffer.release()
        memory.append(0)


@needs_cpython("PyPy 7.3.19 lets a bytearray be resized under a view")
def test_a_buffer_pins_what_it_was_given_without_an_export_of_its_own_view() -> None:
    """CPython crashes where it collects a cycle with a memoryview that something is exported from."""
    memory = bytearray(10)
    buffer = PayloadBuffer(memory)
    with pytest.raises(BufferError):
        memory.append(0)  # it is pinned
    buffer.begin()
    assert buffer.append(memoryview(b"there"))
    assert address(buffer.occupant().export(0, 5)) == address(memory)
    buffer._storage.memory.release()  # or this is a BufferError
    del buffer
    gc.collect()
    memory.append(0)
