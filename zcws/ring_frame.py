"""A frame that lies in its reader's ring, and the lease that says for how long its payload is there.

There are many of these frames, one for most messages, and all frames of a read become stale together: each has the
number of that read, and their one `Lease` has the number in force. So the next read makes all of them stale by counting
on, and touches none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zcws.annotations import Buffer
from zcws.buffer import WORTH_HOLDING
from zcws.codes import OpCode
from zcws.frame import DECODE_IN_PLACE, ReceivedFrame, stale
from zcws.heads import HEADS
from zcws.kernel import HAS_GIL, SLICES_HAVE_ADDRESSES

if TYPE_CHECKING:
    from zcws.pool import Pool

__all__ = ["NOT_SHOWN", "NO_RING", "Lease", "RingFrame", "ring_frame"]

#: A payload of at most this many bytes is copied when it is the first that is looked at since its connection has
#: received: that takes 0.15 µs, and 0.5 for the longest. A view of the ring would cost more: to find out whether it is
#: still held takes 0.8 µs, 2 to 5 where the caches are cold, and while it is, the next message needs another ring. And
#: a program that keeps ten bytes for an hour keeps no ring with them. The writer draws the same line (`SEGMENT`).
_COPIED = 16 * 1024

_EMPTY = memoryview(b"")

#: The `ring` of a lease while no frame may be asked for its payload.
NO_RING = object()

#: What a lease has `shown` while nothing has been looked at.
NOT_SHOWN = (-1, _EMPTY)


class _Apart:
    """Without a GIL, and on PyPy, the view of a ring that everybody slices: each slice is of a view of its own. See
    `HAS_GIL` and `SLICES_HAVE_ADDRESSES`."""

    __slots__ = ("_exporter",)

    def __init__(self, view: memoryview) -> None:
        self._exporter = view.obj

    def __getitem__(self, place: slice) -> memoryview:
        return memoryview(self._exporter)[place].toreadonly()  # in this order: see `SLICES_HAVE_ADDRESSES`


_for_slices: Callable[[memoryview], memoryview | _Apart] = (
    memoryview.toreadonly if HAS_GIL and SLICES_HAVE_ADDRESSES else _Apart
)


class Lease:
    """How, and until when, the frames that lie in a reader's ring may be asked for their payloads. Each reader has one.

    A frame may be asked in one thread while another reads on. So `ring` and `shown` are fetched before `number` is
    checked, and what was made of them counts only if `number` is still the same afterwards. A thread that comes too
    late may leave a view in `shown` at any time, of a ring that is somebody else's by then: so `shown` has the number
    of its read.

    Attributes:
        pool: where the ring is from.
        ring: what the frames lie in, or `NO_RING`.
        number: that of the read in force: frames of earlier reads are stale.
        shown: the number of a read, and a view of all of its ring, to be sliced; the view is empty where a payload has
            been asked for, and was copied.
        since: the first read whose `shown` counts: all reads from there on had the same ring, unmoved.
    """

    __slots__ = ("number", "pool", "ring", "shown", "since")

    def __init__(self, pool: Pool) -> None:
        self.pool: Pool = pool
        self.ring: Any = NO_RING
        self.number: int = 0
        self.shown: tuple[int, memoryview | _Apart] = NOT_SHOWN
        self.since: int = 0

    def seen(self, number: int) -> memoryview | _Apart | None:
        """The view that has been given out already. None, or an empty one: there is none. Raises: as `check`."""
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
            self.shown = NOT_SHOWN  # the new holder of the ring may want to give it back
            raise stale()
        return view

    def look(self, start: int, stop: int, number: int) -> memoryview:
        """A payload for a program, which may hold it for as long as it likes: a view, or a copy if so many rings are
        held that another one would have to be mapped. Raises: as `check`."""
        if self.pool.is_crowded:
            return memoryview(self.copy(start, stop, number))
        return self.open(number)[start:stop]

    def copy(self, start: int, stop: int, number: int) -> bytes:
        """The payload as bytes of the caller's own. Raises: as `check`."""
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
    """A received frame that lies in the ring. There are many of them, so they share what they can, and code that makes
    one for each message sets the attributes itself: a call of `__init__` would take as much time again."""

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
        ring = lease.ring  # `Lease.copy`, inlined: this runs for each message that is sent on
        if lease.number == self._number:
            copy = ring.copies[self._start : self._stop]
            if lease.number == self._number:
                return copy  # type: ignore[no-any-return]
        raise stale()

    def _framed(self) -> bytes:
        """The whole frame of a message, unmasked, for a caller that sends it on. Raises: as `to_bytes`."""
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

    @property
    def text(self) -> str:  # type: ignore[override]  # `Frame.text` makes frames, and nobody asks this class for one
        lease, start, stop = self._lease, self._start, self._stop
        ring = lease.ring  # as in `to_bytes`
        if lease.number != self._number:
            raise stale()
        try:
            if stop - start < DECODE_IN_PLACE:
                return ring.copies[start:stop].decode()  # type: ignore[no-any-return]
            # Nobody else gets this slice; and to slice a view that is at hand takes half the time.
            return str((ring.memory if HAS_GIL else memoryview(ring.copies))[start:stop], "utf-8")
        finally:
            if lease.number != self._number:
                raise stale()

    def _keep(self, begin: int = 0) -> Buffer:
        lease, start, stop = self._lease, self._start + begin, self._stop
        ring, view = lease.ring, lease.seen(self._number)
        if WORTH_HOLDING * (stop - start) >= ring.capacity:
            return (view or lease.open(self._number))[start:stop]
        return lease.copy(start, stop, self._number)


def ring_frame(opcode: OpCode, lease: Lease, start: int, stop: int, number: int) -> RingFrame:
    """A frame that is good for as long as the read with that number is in force."""
    frame: RingFrame = RingFrame()
    frame.opcode = opcode
    frame._lease = lease
    frame._start = start
    frame._stop = stop
    frame._number = number
    return frame
