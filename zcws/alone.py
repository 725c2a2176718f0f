"""What arrives alone, while somebody waits for it: one whole data frame and nothing else, past the rows.

Nearly all traffic is that. The code that has scanned such a frame hands it on at once: as a message, as a frame, or to
a function that looks at it. Unless the frame, or a view of it, outlives that, nothing is kept here and the reader stays
idle. The same is done with a few frames that came together and are shown to a function. Anything less simple is read
from rows (reader.py, which builds on this).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zcws.frame import DECODE_IN_PLACE, Frame
from zcws.pieces import PieceReader
from zcws.ring import Ring
from zcws.ring_frame import NO_RING, NOT_SHOWN, RingFrame
from zcws.rows import WHOLE, WHOLE_BINARY, WHOLE_TEXT

__all__ = ["AloneReader"]


class AloneReader(PieceReader):
    """The part of one connection's reading half that handles a frame that arrives alone."""

    __slots__ = ()

    def message_of(self, ring: Ring, what: int, start: int, stop: int) -> str | bytes | None:
        """The message that this one row is, for a caller that hands it on at once. None: the row is less simple.

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
        """`message_of` for what `scan_landing`, or a crossing that received as well, found. None: see `take_found`."""
        pool = self.pool
        if found != 1 or self.discarding:
            return None
        what, start, stop = pool.first_row.tolist()
        if what == WHOLE_TEXT and stop - start < DECODE_IN_PLACE:  # `message_of`, inlined
            return pool.landing.copies[start:stop].decode()  # type: ignore[union-attr]
        return self.message_of(pool.landing, what, start, stop)  # type: ignore[arg-type]  # not None

    def frame_found(self, found: int) -> Frame | None:
        """`message_found`, as a frame. The caller has not asked for the next one yet, so we keep the frame's ring."""
        if found != 1:
            return None
        what, start, stop = self.pool.first_row.tolist()
        pool = self.pool
        frame = self.frame_of(self.landing, 0, what, start, stop)
        if frame is not None:
            # `keep_frame` and the lease of the ring, inlined: without a call in between, a signal handler can raise
            # only before or after all of it. `is_idle` shows the code that it interrupted which of the two.
            ring: Ring = pool.landing  # type: ignore[assignment]  # not None
            self._frame = frame
            self._ring = ring
            self._next = ring.head = stop
            self.is_idle = False
            pool.landing = None
        return frame

    def frame_of(self, ring: Ring, begin: int, what: int, start: int, stop: int) -> Frame | None:
        """`message_of`, as a frame, which is good until `drop_frame`."""
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
        """`frame` was handed to a caller that has not asked for the next one yet: we keep its ring."""
        self._frame = frame
        self._ring = ring
        self._next = ring.head = stop
        self.is_idle = False

    def drop_frame(self, ring: Ring, stop: int) -> None:
        """The frame has been seen. Its ring, used up to `stop`, goes back to the pool, except for the common one."""
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
        """`frame_of`, `call(look, owner, frame)` and `drop_frame` in one; `call` is the `run` of a context.

        Not while our Close is out. Raises: what `look` raises.
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
            # `drop_frame` with its calls inlined, because this runs for each message.
            lease.number = lease.since = lease.number + 1
            lease.ring, lease.shown = NO_RING, NOT_SHOWN
            pool = self.pool
            if ring.exports or ring is not pool.common:
                if ring.exports or pool.landing is not None or ring is pool.walked:
                    self._let_go(ring, stop)
                else:  # it was the landing ring, used from its beginning, and none has replaced it since
                    pool.landing = ring

    def show_few(
        self,
        look: Callable[[Any, Frame], object],
        owner: Any,
        failed: Callable[[BaseException], object],
        ring: Ring,
        begin: int,
        rows: Iterable[tuple[int, int, int]],
    ) -> int:
        """Calls `look(owner, frame)` for a few rows that came together. It ends where `is_showing` has become False,
        and before a row that is not a whole plain message. What `look` raises is passed to `failed`, which may raise
        it. Returns how many frames it has shown.

        Each frame is good until `look` returns. As in `show`, nothing is kept; but the ring stays the caller's, who may
        have rows left.
        """
        lease, shown = self._lease, 0
        self.is_showing = True
        ring.tail = begin
        lease.ring = ring
        try:
            for what, start, stop in rows:
                if what != WHOLE_TEXT and what != WHOLE_BINARY:
                    break
                frame: RingFrame = RingFrame()
                frame._lease = lease
                frame.opcode = WHOLE[what]
                frame._start = start
                frame._stop = stop
                frame._number = lease.number
                shown += 1
                try:
                    look(owner, frame)
                except BaseException as error:
                    failed(error)
                lease.number = lease.since = lease.number + 1
                if not self.is_showing:
                    break
        finally:
            self.is_showing = False
            lease.number = lease.since = lease.number + 1
            lease.ring, lease.shown = NO_RING, NOT_SHOWN
        return shown

    def _let_go(self, ring: Ring, stop: int) -> None:
        """Gives up a ring in which nothing is unread. We keep it if views are held and the pool cannot set it aside."""
        pool = self.pool
        if not ring.exports or not ring.is_exported:
            pool.take_back(ring)  # which knows the common one
        elif not pool.set_aside(ring):
            self._ring = ring
            self._next = ring.tail = ring.head = stop
            self.is_idle = False
