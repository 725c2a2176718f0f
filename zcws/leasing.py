"""The ring that one connection has: leased when bytes have arrived, exchanged, given back when nothing in it is unread.

It decides in which memory the next bytes land. It knows no rows and no messages: `Inlet` asks for a ring to be settled
or released when none of them needs what lies there.

A connection is *pouring* when a read has filled all the room there was and brought large frames: the network has more,
and every read costs a turn of the event loop. Room that held views take up does not count, because a program that reads
still holds its last one. The next bytes then land in a wide ring, where the pool has one, and frames up to that size
wait there until they are whole. Pouring ends when a read brings little while the connection has no ring. After a
message that not even a wide ring takes, a read asks only for the beginning of the next message, so that the rest of it
is received straight into its buffer.

Where the pool has no ring at hand and has made many, a connection with no more than the short beginning of a frame has
those bytes *stashed*, and no ring until more of that frame comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zcws.bridge import Bridge
from zcws.outcome import MORE, Outcome
from zcws.pool import Pool
from zcws.ring import Ring
from zcws.ring_frame import Lease

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["PARTS", "Leasing"]


#: Frames are large when at most this many of them fit in a ring.
_LARGE_FRAMES = 64

#: A read predicts what the next ones will bring only if it was more than one PARTS-th of its ring.
PARTS = 4

#: Bytes that are asked for where the next frame may be larger than any ring: enough for its head, or for the whole of a
#: small one. All that comes with the head has to be copied.
_PEEK = 16 * 1024


class Leasing(Outcome):
    """What one connection has of its pool's rings.

    Attributes:
        pool: where they come from.
        pours: the network has more than a read brings, and the next bytes do not go into the landing ring.
    """

    __slots__ = ("_lease", "_next", "_offered", "_peeks", "_ring", "_stashed", "_wants_wide", "pool", "pours")

    def __init__(self, pool: Pool, bridge: Bridge, state: CData) -> None:
        super().__init__(bridge, state)
        self.pool: Pool = pool
        state.table = pool.table  # which lives as long as this
        self._ring: Ring | None = None
        self._next = 0  # where in the ring the next scan begins
        self._stashed = b""  # the beginning of a frame, for which no ring is kept
        self._lease = Lease(pool)  # until when frames that lie in the ring may be asked
        self.pours: bool = False
        self._wants_wide = False  # we have begun to pour, into an ordinary ring
        self._offered: Ring | None = None  # the wide ring that is not leased yet, while we are pouring
        self._peeks = False  # only the beginning of the next frame is to land in a ring

    def holds(self, ring: Ring) -> bool:
        """Whether bytes in `ring` are still needed."""
        return self._ring is ring

    @property
    def landing(self) -> Ring:
        """Where bytes land while nothing is kept."""
        return self.pool.landing or self.pool.land()

    def _offer(self) -> memoryview:
        """Where bytes may land while we have no ring."""
        if self._peeks:
            return self.landing.whole[:_PEEK]
        self._offered = wide = self.pool.land_wide() if self.pours else None
        return (wide or self.landing).whole

    def _lease_offered(self, count: int) -> Ring:
        """Leases what `_offer` has offered while we are pouring: `count` bytes have come."""
        if self._peeks:
            self._peeks = self.pours = False
            return self.pool.lease()
        offered, self._offered = self._offered, None
        ring = self.pool.lease() if offered is None else self.pool.lease_offered(offered)
        self.pours = count * PARTS > self.pool.capacity
        self._wants_wide = False
        self._fit(ring.capacity)
        return ring

    def _see_pouring(self, ring: Ring, count: int) -> None:
        """A read has brought much: sets whether we pour."""
        if self.rows_waiting * self.pool.capacity > count * _LARGE_FRAMES:
            self.pours = self._wants_wide = False
        elif ring.is_filled:
            self.pours, self._wants_wide = True, not ring.is_wide

    def _widen(self, ring: Ring) -> Ring:
        """We pour into an ordinary ring that holds only the beginning of a frame: moves that to a wide ring."""
        self._wants_wide = False
        wide = self.pool.lease_wide()
        if wide is None:
            return ring
        ring.move_unread(wide)
        self._next = 0
        self._ring = wide  # first: memory may run out while the other one is set aside
        self._fit(wide.capacity)
        self._part_from(ring)
        return wide

    def _stash(self, ring: Ring) -> None:
        """`ring` holds only the beginning of a frame, and no view is held: where rings are few, stashes a short one.

        To map a ring for each of hundreds of connections in the middle of a message costs more than the message.
        """
        size = ring.head - self._next
        if (
            0 < size <= _PEEK
            and self.pool.is_short
            and not (self.pours or ring.is_wide)
            and self._status == MORE
        ):
            self._lease.end()
            self._stashed = ring.copies[self._next : ring.head]
            self._ring = None
            self.pool.take_back(ring)

    def _unstash(self) -> Ring:
        """What was stashed, in a ring again: more of it has come."""
        ring = self._ring = self.pool.lease()
        begun, self._stashed = self._stashed, b""
        self._next, ring.head = 0, len(begun)
        ring.memory[: ring.head] = begun
        return ring

    def _settle(self, ring: Ring) -> Ring:
        """No row waits and no frame is out, so bytes may move: makes room behind the unfinished frame."""
        self._lease.end()
        ring.tail = self._next
        self._next -= ring.settle()
        if ring.is_crowded:
            fresh = self.pool.lease_like(ring)
            ring.move_unread(fresh)
            self._next = 0
            if ring.is_wide:
                self._fit(fresh.capacity)
            self._ring = fresh  # first: memory may run out while the other one is set aside
            self._part_from(ring)
            return fresh
        return ring

    def _part_from(self, ring: Ring) -> None:
        """What was unread in `ring` has moved. If views are held and it cannot be set aside, it is left to them."""
        if ring.is_exported:
            self.pool.set_aside(ring)
        else:
            self.pool.take_back(ring)

    def _fit(self, size: int) -> None:
        """Frames of up to `size` bytes wait in the ring until they are whole, unless they are handed on in pieces."""
        if self.state.fit:
            self.state.fit = size

    def _release(self) -> None:
        """Gives the ring back when nothing in it is unread. One that cannot be set aside stays until it is crowded."""
        ring = self._ring
        self._columns = None
        if ring is not None and self._next == ring.head:
            self._lease.end()
            self._ring = None  # first: whatever interrupts this, the ring is not in two places
            if not ring.exports or not ring.is_exported:
                self.pool.take_back(ring)
            elif not self.pool.set_aside(ring):
                self._ring = ring
                return
            if ring.is_wide:
                self._fit(self.pool.capacity)
        elif ring is not None and not ring.exports:
            self._stash(ring)

    def _drop_ring(self) -> None:
        """Nothing will be read from the ring any more."""
        self._lease.end()
        self._columns = None
        ring, self._ring = self._ring, None
        # Half a frame, which will not be whole.
        self.state.bytes += len(self._stashed) if ring is None else ring.head - self._next
        self._stashed = b""
        if ring is not None:
            self.pool.give_back(ring)
