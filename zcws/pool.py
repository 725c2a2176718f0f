"""What the connections of one event loop, or of one thread, take turns with.

**A ring is leased, not owned.** A connection without unread bytes and without views out holds no ring: it takes one
when bytes arrive and gives it back when the last byte has been read. `Pool.landing` is the ring that the next
bytes for *any* connection without a ring will land in; it is leased only when bytes have really arrived (a TLS
transport may ask for a buffer and then have nothing to put there). So ten thousand idle connections cost no receive
memory, and the busy ones share a few warm rings.

A ring of which a program still holds a view is *set aside* when its last byte has been read, until the view is gone,
which is nearly always when the next message has come. Its connection then holds nothing, and is served like an idle
one. If each ring were left to its holders instead, every read would map another one, page by page: that costs three
times as much as the read. Few rings are set aside at a time. While views of all of those are held, a program that asks
for one more view is given a copy, and a connection of which a view was taken earlier keeps its ring, and goes on behind
what is held (ring.py).

A ring of which a view is held when a child process is forked is used up, and then left to its holders in both
processes.

A connection whose large frames fill its ring with every read is *pouring* (leasing.py). It gets a wide ring as long as
there is one: a pool has a few.

There are no locks here: one pool serves one event loop or one thread.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zcws.buffer import PayloadBuffer
from zcws.kernel import ffi, lib
from zcws.registry import Registry
from zcws.ring import RING_CAPACITY, WIDE_CAPACITY, Ring
from zcws.scratch import Scratch

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["TABLE_ROWS", "Pool"]

#: Rows of a scan table: the frames that one crossing hands over. A pool has one table (24 KiB).
TABLE_ROWS: int = lib.ZCWS_TABLE_ROWS

#: Rings that an idle pool keeps: 4 MiB at most, of which only pages that were written to are resident.
_SPARE_RINGS = 16

#: Mirrored rings in a process, roughly: each takes two of the 65,530 mappings that Linux gives it, of which threads and
#: large memory need some as well. Beyond, rings are buffers that compact.
_MIRRORED_RINGS = 16 * 1024

#: Rings that wait in a pool until nobody holds a view of them: 2 MiB at most, as far as it was written to.
_RINGS_ASIDE = 8

#: Wide rings that a pool has, in use or not: 4 MiB. A connection that comes too late pours into an ordinary one.
_WIDE_RINGS = 4

#: Payload buffers that an idle pool keeps, and bytes of all of them together.
_SPARE_BUFFERS, _SPARE_BYTES = 4, 16 * 1024 * 1024

_TABLE_WORDS = lib.ZCWS_TABLE_HEAD + lib.ZCWS_TABLE_ROW * TABLE_ROWS


class Pool:
    """What the connections of one event loop, or one thread, take turns with. Not for use from two threads.

    Attributes:
        capacity: bytes of each ring.
        wide_capacity: bytes of each wide ring.
        common: a ring that the engine receives into for many connections at once (aio/engine.py).
        walked: the same ring, while some of them have not been handed their bytes yet: nobody else may have it.
        landing: the empty ring that the next bytes for a connection without a ring land in, or None.
        deadlines: weak references to timers, by their seconds: one for all that wait that long, if a driver has such.
        compressors: shared by connections whose messages refer to nothing before them (zcws/codec.py).
        watch: called with each compressor that has a context of its own, if a driver gives back those that are idle.
        table: the scan table, as C fills it.
        words: the same, as Python reads it.
        first_row: the words of its first row.
    """

    __slots__ = (
        "__weakref__",
        "_aside",
        "_buffers",
        "_mirrored",
        "_ordinary",
        "_scratch",
        "_spare",
        "_spare_wide",
        "_wide",
        "capacity",
        "common",
        "compressors",
        "deadlines",
        "first_row",
        "landing",
        "table",
        "walked",
        "watch",
        "wide_capacity",
        "words",
    )

    def __init__(self, capacity: int = RING_CAPACITY, *, mirrored: bool = True) -> None:
        self.capacity: int = capacity
        self.wide_capacity: int = capacity * WIDE_CAPACITY // RING_CAPACITY
        self._mirrored = mirrored
        self._spare: list[Ring] = []
        # Views of these are held. A list, because other threads look, and without a GIL a deque cannot be copied in
        # one step.
        self._aside: list[Ring] = []
        self._spare_wide: list[Ring] = []
        self._wide: weakref.WeakSet[Ring] = weakref.WeakSet()  # all wide rings, spare or leased
        self._ordinary: weakref.WeakSet[Ring] = weakref.WeakSet()  # all others, spare or leased
        self._buffers: list[PayloadBuffer] = []
        self._scratch: Scratch | None = None
        self.landing: Ring | None = None
        self.common: Ring | None = None
        self.walked: Ring | None = None
        self.compressors: dict[tuple[int, int, int], Any] = {}
        self.deadlines: dict[float, weakref.ref[Any]] = {}
        self.watch: Callable[[Any], None] | None = None
        self.table: CData = ffi.new("uint64_t[]", _TABLE_WORDS)
        self.words: memoryview = memoryview(ffi.buffer(self.table)).cast("B").cast("Q")
        self.first_row: memoryview = self.words[
            lib.ZCWS_TABLE_HEAD : lib.ZCWS_TABLE_HEAD + lib.ZCWS_TABLE_ROW
        ]
        _pools.add(self)

    def land(self) -> Ring:
        """The landing ring; it stays in the pool until `lease`."""
        ring = self.landing
        if ring is None:
            ring = self._from_aside() or (self._spare.pop() if self._spare else None)
            self.landing = ring = ring or self._new_ring(self.capacity)
        return ring

    def lease(self) -> Ring:
        """The landing ring, which is the caller's from now on."""
        ring, self.landing = self.landing or self.land(), None
        return ring

    def land_wide(self) -> Ring | None:
        """The ring that the next bytes for a connection that pours will land in. None: there are enough of them."""
        spare = self._spare_wide
        if spare and not spare[-1].is_exported:
            return spare[-1]
        spare[:] = [ring for ring in spare if not ring.left]  # see `set_aside`
        free = next((ring for ring in spare if not ring.is_exported), None)
        if free is not None:
            spare.remove(free)
        elif len(self._wide) >= _WIDE_RINGS:
            return None  # rings that are held count, too: many connections may keep a view each
        else:
            free = self._new_wide()
        spare.append(free)
        return free

    @property
    def is_short(self) -> bool:
        """Whether the next ring would have to be mapped, and there are many already."""
        return self.landing is None and not self._spare and len(self._ordinary) > _SPARE_RINGS

    def lease_wide(self) -> Ring | None:
        """The ring that `land_wide` gives, which is the caller's from now on."""
        return None if self.land_wide() is None else self._spare_wide.pop()

    def lease_offered(self, ring: Ring) -> Ring:
        """`ring`, in which bytes have landed, even if another thread exports it just now for a frame that is stale."""
        self._spare_wide.remove(ring)
        return ring

    def lease_like(self, ring: Ring) -> Ring:
        """A ring that takes all that is in `ring`, of which views are held."""
        if not ring.is_wide:
            return self.lease()
        # If there are no more wide ones, an ordinary one will do if half of it stays free: many connections may keep a
        # view each.
        fits = 2 * (ring.head - ring.tail) <= self.capacity
        return self.lease_wide() or (self.lease() if fits else self._new_wide())

    def _new_wide(self) -> Ring:
        return self._new_ring(self.wide_capacity, is_wide=True)

    def _new_ring(self, capacity: int, *, is_wide: bool = False) -> Ring:
        ring = Ring(capacity, mirrored=self._mirrored and len(_rings) < _MIRRORED_RINGS, is_wide=is_wide)
        _rings.add(ring)
        (self._wide if is_wide else self._ordinary).add(ring)
        return ring

    def set_aside(self, ring: Ring) -> bool:
        """Keeps a ring, in which nothing is unread, until its views are gone: nearly always when the next message has
        come.

        False: enough are kept. The reader has to go on in its ring, behind what is held, because many rings with a
        little in each would take more memory.
        """
        if ring.left:
            return True  # it goes to its holders, of which some may be in a child process
        if ring.is_wide:
            return self._keep_wide(ring)
        if len(self._aside) >= _RINGS_ASIDE:
            free = self._from_aside()
            if free is None:
                return False
            self.take_back(free)
        # Those two belong to the engine, which receives into them.
        if ring is not self.common and ring is not self.walked:
            ring.tail = ring.head = 0
            self._aside.append(ring)
        return True

    @property
    def is_crowded(self) -> bool:
        """Whether views are held of as many rings as may be set aside: a program that wants one more is given a copy.

        Safe from any thread, because a frame may be looked at in any: nothing is changed.
        """
        aside = tuple(self._aside)
        return len(aside) >= _RINGS_ASIDE > 0 and all(map(_takes_place, aside))

    def _from_aside(self) -> Ring | None:
        """The ring that was set aside first. None if a view of it is still held: the next call looks at another."""
        if not self._aside:
            return None
        ring = self._aside[0]
        if ring.left:
            self._aside.pop(0)  # see `set_aside`
            return None
        if ring.is_exported:
            self._aside.append(self._aside.pop(0))
            return None
        return self._aside.pop(0)

    def give_back(self, ring: Ring) -> None:
        """Takes back a ring whose bytes have all been read; one that is still held goes to its holders instead."""
        if not ring.is_exported:
            self.take_back(ring)

    def take_back(self, ring: Ring) -> None:
        """The same for a ring that nobody holds a view of."""
        if ring is self.common or ring is self.walked:
            return
        if ring.is_wide:
            self._keep_wide(ring)
            return
        ring.tail = ring.head = 0
        if self.landing is None:
            self.landing = ring
        elif len(self._spare) < _SPARE_RINGS:
            self._spare.append(ring)

    def _keep_wide(self, ring: Ring) -> bool:
        """Keeps a wide ring. False: there are enough."""
        if len(self._spare_wide) >= _WIDE_RINGS:
            return False
        ring.tail = ring.head = 0
        self._spare_wide.insert(0, ring)  # behind the one that has been offered
        return True

    def lend_buffer(self) -> PayloadBuffer:
        """A buffer for a message whose reader brought none: the last one that nobody holds a view of."""
        buffers = self._buffers
        for i in reversed(range(len(buffers))):
            if not buffers[i].is_held:
                return buffers.pop(i)
        return buffers.pop(0) if len(buffers) >= _SPARE_BUFFERS else PayloadBuffer()

    def return_buffer(self, buffer: PayloadBuffer) -> None:
        """Takes a buffer back, or drops it, so that idle memory stays bounded."""
        spare = sum(other.capacity for other in self._buffers)
        if len(self._buffers) < _SPARE_BUFFERS and spare + buffer.capacity <= _SPARE_BYTES:
            self._buffers.append(buffer)

    def scratch(self) -> Scratch:
        """Where frames are masked."""
        if self._scratch is None:
            self._scratch = Scratch()
        return self._scratch

    def rest(self) -> None:
        """Gives back what nobody uses now, for a connection that has the whole pool to itself and nothing to do."""
        self.landing = None
        self._spare.clear()
        self._spare_wide.clear()
        self._buffers.clear()
        self.compressors.clear()

    def free(self) -> list[Ring]:
        """The rings that no connection has, those set aside included. Safe from any thread."""
        landing = [] if self.landing is None else [self.landing]
        return [*landing, *self._spare, *self._aside, *self._spare_wide]

    def forget(self) -> None:
        """Drops every ring: in a child process they are the parent's memory."""
        self.landing = self.common = self.walked = None
        self._spare.clear()
        self._aside.clear()
        self._spare_wide.clear()


def _takes_place(ring: Ring) -> bool:
    """Whether a view holds `ring`; no, if a child process may have views of it: see `set_aside`."""
    return not ring.left and any([view() is not None for view, _ in tuple(ring.exports)])


_pools: Registry[Pool] = Registry()
_rings: Registry[Ring] = Registry()


def _leave_all() -> None:
    free = {id(ring) for pool in _pools.before_fork() for ring in pool.free()}
    for ring in _rings.before_fork():
        ring.leave(lent=id(ring) not in free)


def _forget_all() -> None:
    for pool in _pools.after_in_child():
        pool.forget()
    _rings.after_in_child()


# A mirrored mapping is shared memory: a child that went on using it would write into its parent's frames, and a parent
# into those of which the child has views.
if hasattr(os, "register_at_fork"):  # pragma: no branch - false on Windows only, which has no fork
    os.register_at_fork(before=_leave_all, after_in_child=_forget_all)
