"""What connections take turns with: rings, buffers; and what a child process must not inherit."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest
import raw
import wire
from receiver import SMALL, connect, hold_many

from zcws import pool as pool_module
from zcws.buffer import PayloadBuffer
from zcws.connection import Connection
from zcws.frame import NEED_MORE
from zcws.pool import (
    _RINGS_ASIDE,
    _SPARE_BUFFERS,
    _SPARE_BYTES,
    _SPARE_RINGS,
    _WIDE_RINGS,
    Pool,
    _forget_all,
    _leave_all,
    _pools,
)
from zcws.ring import Ring


def test_the_landing_ring_stays_in_the_pool_until_it_is_leased() -> None:
    pool = Pool(4096)
    ring = pool.land()
    assert pool.land() is ring
    assert pool.lease() is ring
    assert pool.landing is None
    assert pool.land() is not ring


def test_a_ring_that_comes_back_is_the_next_one_out() -> None:
    pool = Pool(4096)
    first, second = pool.lease(), pool.lease()
    first.tail, first.head = 5, 9
    pool.give_back(first)
    pool.give_back(second)
    assert (first.tail, first.head) == (0, 0)
    assert pool.lease() is first
    assert pool.lease() is second


def test_many_rings_leave_the_process_its_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 32,000 clients in the middle of a frame had two of 65,530: no thread could be started any more."""
    gc.collect()
    monkeypatch.setattr(pool_module, "_MIRRORED_RINGS", len(pool_module._rings) + 2)
    pool = Pool(4096)
    rings = [pool.lease() for _ in range(4)]
    assert [ring.mirrored for ring in rings] == [Ring(4096).mirrored] * 2 + [False] * 2


def test_a_ring_that_is_held_goes_to_its_holders() -> None:
    pool = Pool(4096)
    ring = pool.lease()
    ring.room()[:3] = b"abc"
    ring.head = 3
    view = ring.export()[0:3]
    pool.give_back(ring)
    assert pool.landing is None
    assert pool.lease() is not ring
    assert bytes(view) == b"abc"


def test_a_ring_that_is_held_waits_aside() -> None:
    pool = Pool(4096)
    first, second = pool.lease(), pool.lease()
    views = [first.export()[0:1], second.export()[0:1]]
    first.tail, first.head = 5, 9
    assert pool.set_aside(first)
    assert pool.set_aside(second)
    assert (first.tail, first.head) == (0, 0)
    others = [pool.lease() for _ in range(3)]
    assert first not in others
    assert second not in others
    views.clear()
    gc.collect()
    assert {pool.lease(), pool.lease()} == {first, second}


def test_a_ring_that_is_held_for_ever_is_not_in_the_way_of_those_behind_it() -> None:
    pool = Pool(4096)
    first, second = pool.lease(), pool.lease()
    views = [first.export()[0:1], second.export()[0:1]]
    assert pool.set_aside(first)
    assert pool.set_aside(second)
    views.pop()
    gc.collect()
    assert second in [pool.lease(), pool.lease()]


def test_few_rings_wait_aside_and_those_whose_views_are_gone_make_room() -> None:
    pool = Pool(4096)
    views = hold_many(pool)
    assert len(views) == _RINGS_ASIDE + 1
    another = pool.lease()
    views.append(another.export()[0:1])
    assert not pool.set_aside(another)
    before = list(pool._aside)
    del views[0]
    gc.collect()
    assert any(pool.set_aside(another) for _ in range(_RINGS_ASIDE))  # it looks at one of them each time
    assert len(pool._aside) == _RINGS_ASIDE
    assert pool.lease() in before


@pytest.mark.parametrize("place", ["common", "walked"])
def test_the_common_ring_stays_where_it_is_while_a_view_is_held(place: str) -> None:
    """And so does one that has been it, while others have their bytes in it."""
    pool = Pool(4096)
    ring = pool.lease()
    setattr(pool, place, ring)
    ring.head = 9
    assert pool.set_aside(ring)
    assert not pool._aside
    assert ring.head == 9


def test_the_common_ring_is_not_given_to_anybody_else() -> None:
    pool = Pool(4096)
    pool.common = ring = pool.lease()
    ring.head = 9
    pool.give_back(ring)
    pool.take_back(ring)
    assert (pool.landing, pool._spare, ring.head) == (None, [], 9)


def test_an_idle_pool_keeps_a_bounded_number_of_rings() -> None:
    pool = Pool(4096)
    rings = [pool.lease() for _ in range(_SPARE_RINGS + 5)]
    for ring in rings:
        pool.give_back(ring)
    assert pool.landing is rings[0]
    assert len(pool._spare) == _SPARE_RINGS


@pytest.mark.parametrize("mirrored", [True, False])
def test_rings_are_as_the_pool_says(mirrored: bool) -> None:
    ring = Pool(2 * SMALL, mirrored=mirrored).lease()
    assert ring.capacity == 2 * SMALL
    assert mirrored or not ring.mirrored


def test_a_wide_ring_is_four_ordinary_ones_and_stays_in_the_pool_until_it_is_leased() -> None:
    pool = Pool(65536)
    ring = pool.land_wide()
    assert ring is not None
    assert (ring.capacity, ring.is_wide, pool.land().is_wide) == (4 * 65536, True, False)
    other = pool.lease_wide()
    assert other is ring
    assert pool.land_wide() is not ring


def test_a_pool_has_few_wide_rings() -> None:
    pool = Pool(65536)
    leased = [pool.lease_wide() for _ in range(_WIDE_RINGS)]
    assert (pool.land_wide(), pool.lease_wide()) == (None, None)
    last = leased.pop()
    assert last is not None
    pool.take_back(last)
    assert pool.lease_wide() is last
    # One that is lost, with its reader or to those who hold views of it, leaves its place to another.
    del leased, last
    gc.collect()
    assert pool.lease_wide() is not None


def test_what_has_been_offered_stays_the_next_wide_ring_out() -> None:
    pool = Pool(65536)
    back = pool.lease_wide()
    offered = pool.land_wide()
    assert back is not None
    pool.take_back(back)
    assert pool.lease_wide() is offered
    assert pool.lease_wide() is back


def test_a_wide_ring_that_is_held_waits_until_its_views_are_gone() -> None:
    pool = Pool(65536)
    ring = pool.lease_wide()
    assert ring is not None
    view = ring.export()[0:1]
    ring.tail, ring.head = 5, 9
    assert pool.set_aside(ring)
    assert (ring.tail, ring.head) == (0, 0)
    other = pool.lease_wide()
    assert other is not None
    assert other is not ring
    pool.take_back(other)
    assert pool.land_wide() is other
    del view
    gc.collect()
    assert {pool.lease_wide(), pool.lease_wide()} == {ring, other}


def test_a_wide_ring_that_is_free_again_before_another_is_in_one_place() -> None:
    pool = Pool(65536)
    held, free = pool.lease_wide(), pool.lease_wide()
    assert held is not None and free is not None
    view = held.export()[0:1]
    assert pool.set_aside(held)
    pool.take_back(free)
    assert pool._spare_wide == [free, held]
    assert pool.land_wide() is free
    assert pool._spare_wide == [held, free]
    assert view


def test_a_pool_with_a_ring_to_spare_is_not_short_of_them() -> None:
    pool = Pool(4096)
    rings = [pool.lease() for _ in range(_SPARE_RINGS + 1)]
    assert pool.is_short
    for ring in rings[:2]:
        pool.give_back(ring)
        assert not pool.is_short
    assert pool.lease() is rings[0]
    assert (pool.landing, pool.is_short) == (None, False)


def test_when_all_wide_rings_are_held_there_is_none() -> None:
    pool = Pool(65536)
    leased = [pool.lease_wide() for _ in range(_WIDE_RINGS)]
    views = [ring.export()[0:1] for ring in leased if ring is not None]
    assert all(ring is not None and pool.set_aside(ring) for ring in leased)
    full = pool._spare_wide[0]
    assert pool.land_wide() is None
    assert not pool.lease_like(full).is_wide
    full.head = 40_000
    assert pool.lease_like(full).is_wide
    del views
    gc.collect()
    assert pool.land_wide() in leased


def test_wide_rings_that_a_fork_has_taken_away_leave_their_place_to_others() -> None:
    """They waited for views that nobody here hears of: after four forks nobody had a wide ring any more."""
    pool = Pool(65536)
    for _ in range(_WIDE_RINGS + 1):
        ring = pool.lease_wide()
        assert ring is not None
        view = ring.export()[0:1]
        assert pool.set_aside(ring)
        _leave_all()
        assert view
        del ring, view
        gc.collect()  # PyPy
    assert pool.land_wide() is not None


def test_no_more_wide_rings_wait_than_a_pool_has() -> None:
    pool = Pool(65536)
    leased = [pool.lease_wide() for _ in range(_WIDE_RINGS)]
    assert leased[0] is not None
    leased.append(pool._new_wide())
    views = [ring.export()[0:1] for ring in leased if ring is not None]
    assert [ring is not None and pool.set_aside(ring) for ring in leased] == [True] * _WIDE_RINGS + [False]
    assert (pool.land_wide(), len(views)) == (None, _WIDE_RINGS + 1)


def test_a_ring_whose_views_are_held_is_replaced_by_one_of_its_size() -> None:
    pool = Pool(65536)
    leased = [pool.lease_wide() for _ in range(_WIDE_RINGS)]
    assert leased[0] is not None
    leased[0].head = 40_000
    more = pool.lease_like(leased[0])
    assert more.is_wide
    assert not pool.lease_like(pool.land()).is_wide
    for ring in (*leased, more):
        assert ring is not None
        pool.give_back(ring)
    assert len(pool._spare_wide) == _WIDE_RINGS
    spare = pool.land_wide()
    assert not pool.lease_like(pool.lease()).is_wide
    assert pool.lease_like(more) is spare


def test_buffers_come_back_unless_they_are_large() -> None:
    pool = Pool(4096)
    buffer = pool.lend_buffer()
    pool.return_buffer(buffer)
    assert pool.lend_buffer() is buffer
    pool.return_buffer(PayloadBuffer(bytearray(_SPARE_BYTES + 1)))
    assert pool._buffers == []
    for size in (_SPARE_BYTES - 1, 1, 1):
        pool.return_buffer(PayloadBuffer(bytearray(size)))
    assert [buffer.capacity for buffer in pool._buffers] == [_SPARE_BYTES - 1, 1]
    pool._buffers.clear()
    for _ in range(_SPARE_BUFFERS + 3):
        pool.return_buffer(PayloadBuffer())
    assert len(pool._buffers) == _SPARE_BUFFERS


def test_a_buffer_that_somebody_holds_a_view_of_waits_until_the_view_is_gone() -> None:
    pool = Pool(4096)
    views = []
    buffers = [PayloadBuffer() for _ in range(_SPARE_BUFFERS)]
    for buffer in buffers:
        buffer.begin()
        buffer.append(memoryview(b"held"))
        views.append(buffer.occupant().export(0, 4))
        pool.return_buffer(buffer)
    del views[1]
    gc.collect()  # PyPy
    assert pool.lend_buffer() is buffers[1]
    another = pool.lend_buffer()
    assert another not in buffers
    pool.return_buffer(another)
    assert pool.lend_buffer() is another
    pool.return_buffer(buffers[1])
    views.insert(1, buffers[1].occupant().export(0, 4))
    # All are held, and that may be for ever: the one that has been there for longest takes new memory.
    assert pool.lend_buffer() is buffers[0]
    buffers[0].begin()
    buffers[0].append(memoryview(b"next"))
    assert [bytes(view) for view in views] == [b"held"] * _SPARE_BUFFERS


def test_one_that_has_nothing_to_do_gives_back_what_can_be_made_again() -> None:
    pool = Pool()
    for ring in [pool.lease() for _ in range(3)]:
        pool.give_back(ring)
    wide = pool.lease_wide()
    assert wide is not None
    pool.give_back(wide)
    pool.return_buffer(pool.lend_buffer())
    pool.compressors[1, -15, 8] = object()
    gone = [weakref.ref(ring) for ring in (pool.landing, wide, *pool._spare)]
    del ring, wide
    pool.rest()
    gc.collect()
    assert not any(ring() for ring in gone)
    assert not (pool._buffers or pool.compressors)
    assert pool.lease().capacity == pool.capacity


def test_scratch_memory_is_made_once_and_only_when_wanted() -> None:
    pool = Pool(4096)
    assert pool._scratch is None
    assert pool.scratch() is pool.scratch()


def test_ten_thousand_idle_connections_hold_no_ring() -> None:
    pool = Pool()
    connections = [Connection(is_client=False, pool=pool) for _ in range(10_000)]
    text = wire.frame(wire.TEXT, b"hello", key=wire.KEY)
    for connection in connections:
        connection.receive_bytes(text)
        assert connection.read_message() == "hello"
        assert connection.read_message() is NEED_MORE
    assert all(connection.reader._ring is None for connection in connections)
    assert (pool.landing is not None, pool._spare) == (True, [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
# Python 3.12 warns of a fork beside threads, of which this process has none that matter.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_process_gets_none_of_its_parents_rings() -> None:
    pool = Pool(4096)
    spare, landing = pool.lease(), pool.lease()
    pool.give_back(landing)
    pool.give_back(spare)
    aside = pool.lease_like(landing)
    view = aside.export()[0:6]
    assert pool.set_aside(aside)
    landing = pool.land()
    landing.whole[:6] = b"parent"
    child = os.fork()
    if child == 0:
        # Mirrored memory is shared: a byte written to the parent's ring here would show there.
        clean = pool.landing is None and pool._spare == [] and not pool._aside
        pool.land().whole[:6] = b"child!"
        os._exit(0 if clean and pool.landing is not landing else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert pool.landing is landing
    assert bytes(landing.whole[:6]) == b"parent"
    assert len(view) == 6


def test_what_the_fork_hook_does() -> None:
    pools = [Pool(4096), Pool(4096)]
    for pool in pools:
        ring, _, aside = pool.lease(), pool.land(), pool.lease_like(pool.land())
        view = aside.export()[0:1]
        assert pool.set_aside(aside)
        del view  # a child has none of it either: nothing keeps that ring from being used again
        gc.collect()
        pool.give_back(ring)
        pool.land_wide()
    known = pool_module._rings._known
    _leave_all()
    _forget_all()
    assert [pool.free() for pool in pools] == [[], []]
    assert pool_module._rings._known is not known  # whose lock may be one that is never given


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("place", ["leased", "aside"])
def test_a_view_that_a_child_process_holds_does_not_change(place: str) -> None:
    """The parent does not hear when it is gone: so it writes no more where it was."""
    pool = Pool(4096)
    ring = pool.lease()
    ring.memory[:6] = b"before"
    ring.head = 6
    view = ring.export()[:6]
    if place == "aside":
        assert pool.set_aside(ring)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(ready, 1)  # until the parent has closed its end
        os._exit(0 if view == b"before" else 1)
    del view
    if place == "leased":
        assert pool.set_aside(ring)
    for _ in range(3):
        other = pool.lease()
        other.memory[:6] = b"behind"
        pool.give_back(other)
    os.close(go)
    os.close(ready)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert not pool._aside
    kept = weakref.ref(ring)
    del ring
    gc.collect()
    assert kept() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_frame_that_is_good_in_a_child_process_stays_so() -> None:
    """It showed what its parent had received on another connection since."""
    pool = Pool(4096)
    connection, other = connect(pool), connect(pool)
    connection.receive_bytes(wire.frame(wire.BINARY, b"before" * 100))
    frame = connection.read_frame()
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(ready, 1)  # until the parent has closed its end
        os._exit(0 if frame.is_stale or frame.to_bytes() == b"before" * 100 else 1)
    assert connection.read_frame() is NEED_MORE
    for _ in range(3):
        other.receive_bytes(wire.frame(wire.BINARY, b"behind" * 100))
        assert other.read_message() == b"behind" * 100
    os.close(go)
    os.close(ready)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_which_rings_a_fork_takes_away() -> None:
    """Those of which a view is held, or that somebody has; they cost no place of those that wait aside."""
    pool = Pool(4096)
    views = hold_many(pool)
    free, lent = pool.lease(), pool.lease()
    pool.give_back(free)
    _leave_all()
    pool.give_back(lent)
    assert pool.lease() is free and not free.left
    assert lent.left and lent.is_exported and pool.set_aside(lent)
    views.clear()
    for _ in range(9):
        pool.land()
        pool.lease()
    assert not pool._aside
    assert hold_many(pool)


def test_a_pool_is_crowded_as_long_as_all_that_it_sets_aside_are_held() -> None:
    """One view that was kept for ever had every payload copied from then on."""
    for kept in range(_RINGS_ASIDE):
        pool = Pool(4096)
        views = hold_many(pool)
        assert pool.is_crowded
        view = views[kept]
        views.clear()
        gc.collect()  # PyPy
        assert not pool.is_crowded
        assert view


def test_another_thread_asks_whether_a_pool_is_crowded_while_rings_are_set_aside() -> None:
    """For a frame that it was given: `RuntimeError: deque mutated during iteration`, without a GIL."""
    pool, views, done = Pool(4096), list[memoryview](), threading.Event()

    def ask() -> None:
        while not done.is_set():
            assert pool.is_crowded in (False, True)
            assert pool.free() is not None

    with raw.thread(ask), raw.thread(ask):
        for _ in range(2000):
            ring = pool.lease()
            views[6:] = [ring.export()]
            pool.set_aside(ring)
        done.set()
    assert views


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_rings_that_a_fork_has_taken_away_do_not_crowd_a_pool() -> None:
    pool = Pool(4096)
    views = hold_many(pool)
    _leave_all()
    assert not pool.is_crowded
    assert views


def test_a_pool_that_nobody_uses_is_forgotten() -> None:
    gc.collect()
    before = len(_pools)
    pool = Pool(4096)
    assert len(_pools) == before + 1
    del pool
    gc.collect()
    assert len(_pools) == before
