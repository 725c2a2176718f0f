"""A frame that lies in its reader's ring, and the lease by which it may be asked.

There are many of these frames, one for most messages, and all of a read end together: each has the number of that
read, and their one `Lease` knows which is in force. So the next read ends them all by counting on, and touches none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zcws.annotations import Buffer
from zcws.buffer import WORTH_HOLDING
from zcws.codes import OpCode
from zcws.frame import ReceivedFrame, stale
from zcws.heads import HEADS
from zcws.kernel import HAS_GIL, SLICES_HAVE_ADDRESSES

if TYPE_CHECKING:
    from zcws.pool import Pool

__all__ = ["NOT_SHOWN", "NO_RING", "Lease", "RingFrame", "ring_frame"]

#: A payload of at most this many bytes is copied when it is the first that is looked at since its connection has
#: received: 0.15 µs, and 0.5 for the longest. To find out whether a view of the ring is still held takes 0.8, 2 to 5
#: where the caches are cold, and has the next message received into another ring; and who keeps ten bytes for an hour
#: does not keep a ring for them. The line is where the writer draws its own (`SEGMENT`).
_COPIED = 16 * 1024

_EMPTY = memoryview(b"")

#: What a lease has while no frame may be asked.
NO_RING = object()

#: What it shows while nothing has been looked at.
NOT_SHOWN = (-1, _EMPTY)


class _Apart:
    """The view of a ring that is sliced for everybody, without a GIL and on PyPy. See `HAS_GIL`."""

    __slots__ = ("_exporter",)

    def __init__(self, view: memoryview) -> None:
        self._exporter = view.obj

    def __getitem__(self, place: slice) -> memoryview:
        return memoryview(self._exporter)[place].toreadonly()  # in this order: see `SLICES_HAVE_ADDRESSES`


_for_slices: Callable[[memoryview], memoryview | _Apart] = (
    memoryview.toreadonly if HAS_GIL and SLICES_HAVE_ADDRESSES else _Apart
)


class Lease:
    """Until when the frames that lie in a reader's ring may be asked, and how. One a reader.

    A frame may be asked in one thread while another reads on. So `ring` and what is `shown` are taken before `number`
    is looked at, and what was made of them counts where that is still the same afterwards. Whoever comes too late may
    leave a view there at any time, of a ring that is somebody else's by then: so it says of which read it is.

    Attributes:
        pool: where that ring is from.
        ring: what they lie in, or `NO_RING`.
        number: of the read that is in force: frames of earlier ones are stale.
        shown: the number of a read, and a view of all of its ring, for slices; or an empty one: a payload has been
            asked for, and was copied.
        since: the first read of which what is shown counts: all from there on had the same ring, where it is.
    """

    __slots__ = ("number", "pool", "ring", "shown", "since")

    def __init__(self, pool: Pool) -> None:
        self.pool: Pool = pool
        self.ring: Any = NO_RING
        self.number: int = 0
        self.shown: tuple[int, memoryview | _Apart] = NOT_SHOWN
        self.since: int = 0

    def seen(self, number: int) -> memoryview | _Apart | None:
        """The view that others have been given; none, or an empty one: nobody has. Raises: as `check`."""
        shown, view = self.shown
        self.check(number)
        return view if shown >= self.since else None

    def open(self, number: int) -> memoryview | _Apart:
        """Makes the view. Raises: as `check`."""
        ring = self.ring
        self.check(number)
        view = _for_slices(ring.export())
        self.shown = number, view
        if self.number != number:
            self.shown = NOT_SHOWN  # whoever has the ring may want to give it back
            raise stale()
        return view

    def look(self, start: int, stop: int, number: int) -> memoryview:
        """A payload for a program, which may hold it for as long as it likes: a view, or a copy where one more ring
        that is held would have another one mapped. Raises: as `check`."""
        if self.pool.is_crowded:
            return memoryview(self.copy(start, stop, number))
        return self.open(number)[start:stop]

    def copy(self, start: int, stop: int, number: int) -> bytes:
        """The same as bytes of one's own. Raises: as `check`."""
        ring = self.ring
        self.check(number)
        copy = ring.copies[start:stop]
        self.check(number)
        return copy  # type: ignore[no-any-return]

    def check(self, number: int) -> None:
        """Raises StaleFrame where the read with that number is over."""
        if self.number != number:
            raise stale()

    def end(self) -> None:
        """Nothing in the ring is asked for any more: a frame that somebody keeps must not keep the ring."""
        self.ring = NO_RING
        self.shown, self.since = NOT_SHOWN, self.number


class RingFrame(ReceivedFrame):
    """A received frame that lies in the ring. There are many of them: they share what they can, and whoever makes one
    for each message fills it in himself: `__init__` would take as much again."""

    __slots__ = ("_lease", "_number")

    fin = True

    __init__ = object.__init__
    _lease: Lease
    _number: int

    @property
    def payload(self) -> memoryview:
        lease, start, stop = self._lease, self._start, self._stop
        ring, (shown, view) = lease.ring, lease.shown
        if lease.number != self._number:
            raise stale()
        if shown >= lease.since:
            if view:
                return view[start:stop]
        elif stop - start <= _COPIED:
            lease.shown = self._number, _EMPTY
            copy = ring.copies[start:stop]
            lease.check(self._number)
            return memoryview(copy)
        return lease.look(start, stop, self._number)

    @property
    def is_stale(self) -> bool:
        return self._lease.number != self._number

    def to_bytes(self) -> bytes:
        lease = self._lease
        ring = lease.ring  # `Lease.copy`, without its calls: for each message that is sent on
        if lease.number == self._number:
            copy = ring.copies[self._start : self._stop]
            if lease.number == self._number:
                return copy  # type: ignore[no-any-return]
        raise stale()

    def _framed(self) -> bytes:
        """All of a message again, unmasked, for somebody who sends it on. Raises: as `to_bytes`."""
        lease, start, stop = self._lease, self._start, self._stop
        ring = lease.ring
        if lease.number == self._number:
            frame: bytes = HEADS[self.opcode][stop - start] + ring.copies[start:stop]
            if lease.number == self._number:
                return frame
        raise stale()

    def _peek(self) -> memoryview:
        lease = self._lease
        ring = lease.ring
        if lease.number != self._number:
            raise stale()
        return memoryview(ring.copies)[self._start : self._stop]  # its reader slices `memory`: see `HAS_GIL`

    def _decode(self) -> str:
        lease = self._lease
        ring = lease.ring  # as in `to_bytes`
        lease.check(self._number)
        try:
            # Nobody else is given this view, and one that is at hand is sliced in half the time.
            return str(
                (ring.memory if HAS_GIL else memoryview(ring.copies))[self._start : self._stop], "utf-8"
            )
        finally:
            lease.check(self._number)

    def _keep(self, begin: int = 0) -> Buffer:
        lease, start, stop = self._lease, self._start + begin, self._stop
        ring, view = lease.ring, lease.seen(self._number)
        if WORTH_HOLDING * (stop - start) >= ring.capacity:
            return (view or lease.open(self._number))[start:stop]
        return lease.copy(start, stop, self._number)


def ring_frame(opcode: OpCode, lease: Lease, start: int, stop: int, number: int) -> RingFrame:
    """One that is good for as long as the read with that number is in force."""
    frame: RingFrame = RingFrame()
    frame.opcode = opcode
    frame._lease = lease
    frame._start = start
    frame._stop = stop
    frame._number = number
    return frame
