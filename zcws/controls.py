"""Control frames among the rows that wait: each is answered once, and none waits for ever.

A Ping is answered when it arrives (inlet.py), or, after a split, when its turn has come, because the bridge has one
slot and then leads to a writer elsewhere. Either way its row stays for whoever reads frames. Where nobody does (a
program that only sends), the rows are forgotten, and so is the ring that they lie in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zcws.batch import Batch
from zcws.bridge import Bridge, Reply
from zcws.codes import OpCode
from zcws.inlet import Inlet
from zcws.outcome import FULL, MORE
from zcws.pool import TABLE_ROWS, Pool
from zcws.ring import Ring
from zcws.ring_frame import RingFrame
from zcws.rows import ROW

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["Controls"]


#: Pings and Pongs that wait for somebody who reads frames. Where more have come since anything was read, nobody does:
#: the ring of a program that only sends would be full of them after a week.
_MANY = 64

#: The waiting rows are searched for control frames where few rows wait (_LITTLE), or where at least one in _PART of the
#: rest is a control frame. When a peer had filled a ring with short frames that nobody read, a search for each of its
#: Pings cost 20 ms.
_LITTLE, _PART = 256, 8


class Controls(Inlet):
    """The part of the reading half that handles control frames.

    Attributes:
        is_shared: whether others wait while this reads. What the peer has sent is then dealt with a table of rows at a
            time where nothing of it is handed out: a peer that sends nothing but Pings would hold up all others.
        keeps_controls: whether Pings and Pongs wait for somebody who reads frames: until many wait and nobody reads,
            and again when somebody has asked for a frame.
    """

    __slots__ = ("_answered", "_controls_before", "_read_before", "is_shared", "keeps_controls")

    def __init__(self, pool: Pool, bridge: Bridge, state: CData) -> None:
        super().__init__(pool, bridge, state)
        self.keeps_controls: bool = True
        self.is_shared: bool = False
        # At the last look that found more rows read than the one before: rows read in all, and control frames waiting.
        self._read_before = self._controls_before = 0
        self._answered = 0  # Pings at the front of the rows that were answered while the reader was eager

    def _answer(self, opcode: OpCode, start: int, stop: int) -> None:
        """A control frame's turn has come: the Close takes effect, and a Ping is answered unless it has been."""
        if opcode is OpCode.CLOSE:
            self.conclude()
        elif opcode is OpCode.PING and not self.eager:
            if self._answered:
                self._answered -= 1
                return
            payload = bytes(self._ring.peek(start, stop))  # type: ignore[union-attr]
            self._bridge.put(Reply(OpCode.PONG, payload))

    def forget_controls(self) -> bool:
        """Everybody who waits has had what arrived. Pings and Pongs that nobody has read have been answered or noted:
        neither they nor a ring for them is kept for ever. Returns whether there is more, and others come first: then
        `look_on` has to be called in a moment, and this again."""
        ring = self._ring
        if not self._controls or not self.eager or ring is None or self._is_over or self._eof:
            return False
        if self._controls * _PART + _LITTLE < self.rows_waiting:
            return False
        if self.keeps_controls:
            if self._controls <= _MANY:
                return False
            if self.rows_read != self._read_before:  # whoever reads frame by frame is given all of them
                self._read_before, self._controls_before = self.rows_read, self._controls
            if self._controls - self._controls_before <= _MANY:
                return False
        self.keeps_controls = False
        words = self._without_controls()
        while self._status == FULL and len(words) < ROW * TABLE_ROWS:
            if self.is_shared:
                return True
            self._scan_ring(ring)
            words = self._without_controls()
        if self._status != MORE:
            return False
        if not words and self._frame is None:
            self._all_read()
            return False
        # A message that was landed ends with a row that does not lie in the ring, and whose stop is 0.
        stop = (words[-1] if words else 0) or self._end_of_frames(ring)
        if stop is not None:
            self._next, ring.head = ring.close_up(stop, self._next)
        else:
            self._settle(ring)  # the frame in use lies elsewhere; a crowded ring is left to its holders
        return False

    def look_on(self) -> None:
        """Others have run: finds more of what has arrived, if few rows wait."""
        ring = self._ring
        if ring is not None and self._status == FULL and self.rows_waiting < TABLE_ROWS:
            self._scan_ring(ring)

    def _end_of_frames(self, ring: Ring) -> int | None:
        """Where the frames in use end. None: they do not lie in `ring`, and a view of it is held."""
        frames = self._frame if isinstance(self._frame, Batch) else (self._frame,)
        stops = [frame._stop for frame in frames if isinstance(frame, RingFrame)]
        return max(stops) if stops else None if ring.exports else ring.tail

    def _without_controls(self) -> list[int]:
        """Drops the waiting Pings and Pongs. Returns the rows that are left: data, and a Close."""
        waiting, self._controls = self.rows_waiting, 0
        words = [word for row in self._batch if row[0] & 0x0F <= OpCode.CLOSE for word in row]
        self._set_rows(words)
        self.state.rows -= waiting - self.rows_waiting  # nobody has read those, and nobody will
        return words

    def defer_replies(self) -> None:
        """From now on a Ping is answered when its frame is read; those that wait have been answered already."""
        words = self._pending_words()
        self._set_rows(words)
        self._answered = sum(what & 0x0F == OpCode.PING for what in words[::ROW])
        self.eager = False
