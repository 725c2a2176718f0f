"""What arrives alone, while somebody waits for it: one whole data frame and nothing else, past the rows.

Nearly all traffic is that. Whoever has scanned it hands it on, as a message, as a frame, or to a function that looks at
it; nothing is kept here meanwhile, and the reader stays idle. What is not as simple as that is read from rows
(reader.py, which builds on this).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zcws.frame import DECODE_IN_PLACE, Frame
from zcws.pieces import PieceReader
from zcws.ring import Ring
from zcws.ring_frame import NO_RING, NOT_SHOWN, RingFrame
from zcws.rows import WHOLE, WHOLE_BINARY, WHOLE_TEXT

__all__ = ["AloneReader"]


class AloneReader(PieceReader):
    """The reading half of one connection, as far as it is about a frame that arrives alone."""

    __slots__ = ()

    def message_of(self, ring: Ring, what: int, start: int, stop: int) -> str | bytes | None:
        """The message that a row is by itself, for somebody who hands it on at once; None: it is not as simple as that.

        Only while `is_idle`; nothing is kept.
        """
        if self.discarding:
            return None
        if what == WHOLE_TEXT:
            if stop - start < DECODE_IN_PLACE:
                return ring.copies[start:stop].decode()
            return str(ring.memory[start:stop], "utf-8")
        return ring.copies[start:stop] if what == WHOLE_BINARY else None

    def message_found(self, found: int) -> str | bytes | None:
        """The same for what `scan_landing` has found, or a crossing that received as well. None: see `take_found`."""
        pool = self.pool
        if found != 1 or self.discarding:
            return None
        what, start, stop = pool.first_row.tolist()
        if what == WHOLE_TEXT and stop - start < DECODE_IN_PLACE:  # `message_of`, without the call
            return pool.landing.copies[start:stop].decode()  # type: ignore[union-attr]
        return self.message_of(pool.landing, what, start, stop)  # type: ignore[arg-type]  # there it is

    def frame_found(self, found: int) -> Frame | None:
        """The same as a frame, for somebody who has not asked for the next one yet: its ring stays with us."""
        if found != 1:
            return None
        what, start, stop = self.pool.first_row.tolist()
        pool = self.pool
        frame = self.frame_of(self.landing, 0, what, start, stop)
        if frame is not None:
            # `keep_frame`, and the ring is leased, without a call: a signal handler raises before all of that or behind
            # it. Whoever it has interrupted sees in `is_idle` which.
            ring: Ring = pool.landing  # type: ignore[assignment]  # there it is
            self._frame = frame
            self._ring = ring
            self._next = ring.head = stop
            self.is_idle = False
            pool.landing = None
        return frame

    def frame_of(self, ring: Ring, begin: int, what: int, start: int, stop: int) -> Frame | None:
        """The same as a frame, which is good until `drop_frame`."""
        if self.discarding or (what != WHOLE_TEXT and what != WHOLE_BINARY):
            return None
        frame: RingFrame = RingFrame()
        frame._lease = lease = self._lease
        frame.opcode = WHOLE[what]
        frame._start = start
        frame._stop = stop
        frame._number = lease.number
        ring.tail = begin
        lease.ring = ring
        return frame

    def keep_frame(self, frame: Frame, ring: Ring, stop: int) -> None:
        """It has been handed to somebody who has not asked for the next one yet: the ring stays with us."""
        self._frame = frame
        self._ring = ring
        self._next = ring.head = stop
        self.is_idle = False

    def drop_frame(self, ring: Ring, stop: int) -> None:
        """It has been seen. Its ring, which ends at `stop`, goes back, but for that of all who are served together."""
        lease = self._lease
        lease.number = lease.since = lease.number + 1
        lease.ring, lease.shown = NO_RING, NOT_SHOWN
        if ring.exports or ring is not self.pool.common:
            self._let_go(ring, stop)

    def show(
        self,
        call: Callable[..., object],
        look: Callable[[Any, Frame], object],
        owner: Any,
        ring: Ring,
        what: int,
        begin: int,
        start: int,
        stop: int,
    ) -> None:
        """Both at once for somebody who looks at the frame and is done: `call(look, owner, frame)`; `call` is the `run`
        of a context. Raises: what that does.

        Not while our Close is out.
        """
        frame: RingFrame = RingFrame()
        frame._lease = lease = self._lease
        frame.opcode = WHOLE[what]
        frame._start = start
        frame._stop = stop
        frame._number = lease.number
        ring.tail = begin
        lease.ring = ring
        try:
            call(look, owner, frame)
        finally:
            # `drop_frame`, without its calls: for each message.
            lease.number = lease.since = lease.number + 1
            lease.ring, lease.shown = NO_RING, NOT_SHOWN
            pool = self.pool
            if ring.exports or ring is not pool.common:
                if ring.exports or pool.landing is not None or ring is pool.walked:
                    self._let_go(ring, stop)
                else:  # it was the landing ring, from its beginning on, and nobody has had another one since
                    pool.landing = ring

    def _let_go(self, ring: Ring, stop: int) -> None:
        """Of a ring in which nothing is unread. Where a view is held, and no more can be, it stays with us."""
        pool = self.pool
        if not ring.exports or not ring.is_exported:
            pool.take_back(ring)  # which knows the common one
        elif not pool.set_aside(ring):
            self._ring = ring
            self._next = ring.tail = ring.head = stop
            self.is_idle = False
