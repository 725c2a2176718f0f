"""The ring alone: room, views that never change, what moves when, with the mirror and without."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from arrays import address, array_over

from zcws.kernel import ffi, lib
from zcws.ring import Ring

PAGE = lib.zcws_page_size()
HAS_MIRROR = Ring(PAGE).mirrored

mirrored = pytest.mark.skipif(not HAS_MIRROR, reason="this platform has no mirrored mapping")
either = pytest.mark.parametrize("ring", [pytest.param(True, marks=mirrored), False], indirect=True)


@pytest.fixture
def ring(request: pytest.FixtureRequest) -> Ring:
    return Ring(PAGE, mirrored=getattr(request, "param", HAS_MIRROR))


def fill(ring: Ring, data: bytes) -> None:
    """What the network does."""
    room = ring.room()
    room[: len(data)] = data
    ring.head += len(data)


def pattern(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


def test_linux_and_macos_have_the_mirror() -> None:
    if sys.platform in ("linux", "darwin"):
        assert HAS_MIRROR


@mirrored
@pytest.mark.skipif(sys.implementation.name == "pypy", reason="functools.partial is written in Python there")
def test_no_step_of_python_while_nobody_owns_the_memory() -> None:
    """A signal handler runs between two steps, and raises perhaps: then the memory would stay, or the exception go."""
    returned, called = [], []

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_return":
            returned.append(function.__name__)
        elif event == "call":
            called.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        ring = Ring(PAGE)
        made = called[:]
        del ring
    finally:
        sys.setprofile(before)
    assert "__init__" in made
    assert "zcws_mirror_map" not in returned
    assert called == made


@mirrored
def test_the_second_half_is_the_first() -> None:
    ring = Ring(PAGE)
    assert len(ring.memory) == 2 * PAGE
    ring.memory[3] = 77
    ring.memory[PAGE + 5] = 99
    assert (ring.memory[PAGE + 3], ring.memory[5]) == (77, 99)


def test_without_the_mirror_there_is_one_half() -> None:
    ring = Ring(PAGE, mirrored=False)
    assert not ring.mirrored
    assert len(ring.memory) == len(ring.whole) == PAGE


def test_where_the_mapping_fails_the_ring_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the C core answers where the platform or its limits do not allow it (csrc/mirror.c).
    refusing = SimpleNamespace(
        zcws_page_size=lib.zcws_page_size,
        zcws_mirror_map=lambda size: ffi.NULL,
        zcws_mirror_unmap=lib.zcws_mirror_unmap,
    )
    monkeypatch.setattr("zcws.ring.lib", refusing)
    ring = Ring(PAGE)
    assert (ring.mirrored, len(ring.memory)) == (False, PAGE)


@mirrored
def test_the_collector_is_told_what_a_ring_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPy's took it for a few words: thousands of rings whose views were long gone waited for it."""
    told: list[int] = []

    def collected(pointer: Any, end: Callable[[Any], object], size: int = 0) -> Any:
        told.append(size)
        return ffi.gc(pointer, end, size)

    monkeypatch.setattr("zcws.ring.ffi", SimpleNamespace(NULL=ffi.NULL, buffer=ffi.buffer, gc=collected))
    Ring(PAGE)
    assert told == [PAGE]


def test_the_capacity_is_a_whole_number_of_pages() -> None:
    assert Ring(1).capacity == PAGE
    assert Ring(PAGE + 1).capacity == 2 * PAGE


@either
def test_an_empty_ring_offers_everything(ring: Ring) -> None:
    assert address(ring.room()) == address(ring.whole) == int(ffi.cast("uintptr_t", ring.base))
    assert len(ring.room()) == PAGE


@either
def test_a_full_ring_offers_nothing(ring: Ring) -> None:
    fill(ring, bytes(PAGE))
    assert len(ring.room()) == 0
    assert ring.settle() == 0
    assert len(ring.room()) == 0


@either
def test_an_empty_ring_starts_over(ring: Ring) -> None:
    fill(ring, bytes(100))
    ring.tail = ring.head
    assert ring.settle() == 100
    assert (ring.tail, ring.head, len(ring.room())) == (0, 0, PAGE)


@mirrored
def test_a_run_passes_the_end_without_a_seam() -> None:
    ring = Ring(PAGE)
    fill(ring, bytes(PAGE - 10))
    ring.tail = ring.head
    data = pattern(100)
    fill(ring, data)
    assert ring.head == PAGE + 90
    assert bytes(ring.peek(ring.tail, ring.head)) == data
    # It reaches round to the tail, not further.
    assert len(ring.room()) == PAGE - 100
    fill(ring, bytes(PAGE - 100))
    assert len(ring.room()) == 0
    assert bytes(ring.peek(PAGE - 10, PAGE + 90)) == data


@mirrored
def test_positions_move_back_by_the_capacity_and_no_byte_moves() -> None:
    ring = Ring(PAGE)
    fill(ring, bytes(PAGE))
    ring.tail = PAGE
    data = pattern(64)
    fill(ring, data)
    ring.tail += 4
    where = address(ring.peek(ring.tail, ring.head))
    assert ring.settle() == PAGE
    assert (ring.tail, ring.head) == (4, 64)
    assert bytes(ring.peek(ring.tail, ring.head)) == data[4:]
    assert address(ring.peek(ring.tail, ring.head)) == where - PAGE  # the same byte, seen in the first half


def test_without_the_mirror_unread_bytes_move_to_the_front_when_the_end_is_near() -> None:
    ring = Ring(PAGE, mirrored=False)
    data = pattern(PAGE // 2 + 1)
    fill(ring, bytes(10) + data[10:])
    ring.tail = 10
    assert ring.settle() == 10
    assert (ring.tail, ring.head) == (0, len(data) - 10)
    assert bytes(ring.peek(0, ring.head)) == data[10:]


def test_without_the_mirror_nothing_moves_while_there_is_room() -> None:
    ring = Ring(PAGE, mirrored=False)
    fill(ring, bytes(PAGE // 2 - 1))
    ring.tail = 10
    assert ring.settle() == 0


# ---- views ----


@either
def test_a_view_stays_as_it_is_until_its_holder_lets_go(ring: Ring) -> None:
    data = pattern(200)
    fill(ring, data)
    view = ring.export()[50:150]
    ring.tail = ring.head
    for _ in range(PAGE // 80):
        ring.settle()
        fill(ring, b"\xee" * min(len(ring.room()), 97))
        ring.tail = ring.head
        assert bytes(view) == data[50:150]
    assert ring.is_crowded
    del view
    gc.collect()
    ring.settle()
    assert (ring.is_exported, ring.is_crowded, len(ring.room())) == (False, False, PAGE)


@either
def test_room_reaches_as_far_as_ever_once_a_holder_has_let_go(ring: Ring) -> None:
    fill(ring, pattern(200))
    view = ring.export()[0:200]
    ring.tail = 200
    held = len(ring.room())
    assert held == PAGE - 200
    del view
    gc.collect()
    assert len(ring.room()) == (PAGE if ring.mirrored else held)


@mirrored
def test_a_ring_is_full_where_its_memory_ends() -> None:
    """Also where the oldest byte that is needed lies in the second half."""
    ring = Ring(PAGE)
    ring.tail, ring.head = PAGE + 100, 2 * PAGE
    view = ring.export()[PAGE + 100 : 2 * PAGE]
    assert (ring.is_filled, ring.is_crowded, len(ring.room())) == (True, True, 0)
    assert len(view) == PAGE - 100


@mirrored
def test_views_of_a_batch_may_be_taken_in_any_order() -> None:
    ring = Ring(PAGE)
    fill(ring, pattern(PAGE))
    ring.tail = 100  # where the batch begins
    later, first = ring.export()[2000:2100], ring.export()[100:200]
    ring.tail = ring.head
    ring.settle()
    room = ring.room()
    room[:] = bytes(len(room))
    assert (bytes(first), bytes(later)) == (pattern(PAGE)[100:200], pattern(PAGE)[2000:2100])


@mirrored
def test_bytes_before_the_first_view_may_be_written_to() -> None:
    ring = Ring(PAGE)
    fill(ring, pattern(PAGE))
    ring.tail = 1000
    view = ring.export()[1000:1100]
    ring.tail = ring.head
    ring.settle()
    assert len(ring.room()) == 1000
    fill(ring, bytes(1000))
    assert bytes(view) == pattern(PAGE)[1000:1100]
    assert len(ring.room()) == 0


@mirrored
def test_a_view_in_the_second_half_is_guarded_after_a_move() -> None:
    ring = Ring(PAGE)
    fill(ring, bytes(PAGE))
    ring.tail = PAGE
    fill(ring, pattern(300))
    view = ring.export()[PAGE + 100 : PAGE + 300]
    ring.tail = ring.head
    assert ring.settle() == PAGE
    fill(ring, b"\xee" * len(ring.room()))
    assert len(ring.room()) == 0
    assert bytes(view) == pattern(300)[100:]


HOLDERS: dict[str, Callable[[memoryview], Any]] = {
    "slice": lambda view: view[8:24],
    "array": array_over,
    "array of a slice": lambda view: array_over(view[8:])[1::2],
    "cast": lambda view: view.cast("I"),
}


@either
@pytest.mark.parametrize("holder", HOLDERS)
def test_whatever_is_over_a_view_holds_it(ring: Ring, holder: str) -> None:
    fill(ring, pattern(64))
    kept = HOLDERS[holder](ring.export()[0:64])
    gc.collect()
    assert ring.is_exported
    del kept
    gc.collect()
    assert not ring.is_exported


@either
def test_what_nobody_was_given_can_be_closed_up(ring: Ring) -> None:
    ring.memory[:30] = b"keep" + b"drop" * 6 + b"un"
    ring.head = 30
    assert ring.close_up(4, 28) == (4, 6)
    assert bytes(ring.memory[:6]) == b"keepun"
    ring.head = 20
    assert ring.close_up(20, 20) == (20, 20)


def test_each_batch_has_an_exporter_of_its_own(ring: Ring) -> None:
    fill(ring, pattern(20))
    first = ring.export()[0:5]
    again = ring.export()[5:10]
    assert first.obj is again.obj
    ring.next_batch()
    second = ring.export()[10:20]
    assert second.obj is not first.obj
    del first
    gc.collect()
    assert ring.is_exported
    del again, second
    gc.collect()
    assert not ring.is_exported


@either
def test_a_peek_holds_nothing(ring: Ring) -> None:
    fill(ring, pattern(20))
    view = ring.peek(0, 20)
    assert not ring.is_exported
    assert bytes(view) == pattern(20)


@either
def test_a_view_outlives_its_ring(ring: Ring) -> None:
    other = Ring(PAGE, mirrored=ring.mirrored)
    fill(other, pattern(PAGE))
    view = other.export()[0:PAGE]
    memory = weakref.ref(other.base)
    del other
    gc.collect()
    assert memory() is not None
    assert bytes(view) == pattern(PAGE)
    del view
    gc.collect()
    assert memory() is None


@either
def test_unread_bytes_move_to_another_ring(ring: Ring) -> None:
    fill(ring, pattern(300))
    ring.tail = 100
    other = Ring(PAGE, mirrored=ring.mirrored)
    ring.move_unread(other)
    assert (other.tail, other.head) == (0, 200)
    assert bytes(other.peek(0, 200)) == pattern(300)[100:]


def test_the_last_ring_of_an_interpreter_goes_quietly() -> None:
    # Its destructor runs when the modules have been emptied already.
    code = "import sys; from zcws.ring import Ring; sys.kept = Ring(); sys.held = sys.kept.export()[0:9]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr == b""


@mirrored
def test_a_view_that_another_thread_takes_meanwhile() -> None:
    """One that is gone is forgotten, and not one that has come since; nor the list that it comes to."""
    ring = Ring()
    views, exports = list[memoryview](), ring.exports

    def gone() -> None:
        if not views:
            ring.next_batch()
            views.append(ring.export()[:1])

    exports.append((gone, 0))  # type: ignore[arg-type]
    assert ring.is_exported and len(exports) == 1
    views.clear()
    gc.collect()  # PyPy
    assert len(ring.room()) == ring.capacity
    assert ring.exports is exports and not exports


@either
def test_what_a_child_process_may_hold_is_held_for_ever(ring: Ring) -> None:
    """Mirrored memory is shared with it; other memory is its own from the fork on."""
    ring.head = 10
    ring.leave()  # nobody has a view
    assert not ring.is_exported
    view = ring.export()[0:10]
    ring.next_batch()
    ring.leave()
    del view
    gc.collect()  # PyPy
    assert ring.is_exported == bool(ring.left) == ring.mirrored
    if ring.mirrored:
        ring.tail = ring.head = PAGE
        assert ring.is_crowded
        assert len(ring.room()) == 0
        ring.leave()  # a second fork
        assert ring.is_exported


def test_without_the_mirror_what_is_at_the_beginning_is_not_moved() -> None:
    """To nowhere, with every read: a large frame that comes in small pieces was quadratic."""
    ring = Ring(4096, mirrored=False)
    ring.head = 4000
    before, ring.memory = ring.memory, memoryview(bytes(4096))  # read-only: whoever moves anything raises
    assert ring.settle() == 0
    ring.memory = before
