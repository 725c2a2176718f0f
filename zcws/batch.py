"""Frames that arrived together, as a sequence of frames or as their payloads alone.

Most batches lie in the ring one frame behind the other (`RingBatch`). Then nothing is made before it is asked for: a
frame costs twice as much as its payload, and `relayed` needs neither. Frames and views are good for as long as those of
single reads (frame.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress, repeat
from typing import overload

from zcws.bulk import in_bulk, is_worth_it
from zcws.codes import OpCode
from zcws.frame import Frame
from zcws.ring import Ring
from zcws.ring_frame import Lease, ring_frame
from zcws.rows import CONTROL, ROW, WHOLE, kinds_of, spans_of

__all__ = ["Batch", "RingBatch"]

_TEXT, _CLOSE = OpCode.TEXT, OpCode.CLOSE  # RFC 6455 5.2: CLOSE is the first of the control opcodes


class Batch(Sequence[Frame]):
    """Frames that arrived together, in order; good until the next read on their connection."""

    __slots__ = ("_frames",)

    def __init__(self, frames: list[Frame]) -> None:
        self._frames: list[Frame] | None = frames

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._all())

    @property
    def payloads(self) -> Iterator[memoryview]:
        """The payload of each message in it, in order and in place; Pings, Pongs and a Close are left out.

        The fastest way through a batch: no frame is made. A view stays right for as long as it is held, and keeps the
        memory that it lies in, as `Frame.payload` does.

        Raises:
            StaleFrame: the connection has been read from since.
        """
        return iter([frame.payload for frame in self._all() if frame.opcode < _CLOSE])

    @property
    def messages(self) -> list[str | bytes]:
        """Each message in it as `recv` gives it: str for text, bytes for binary, yours to keep; Pings, Pongs and a
        Close are left out. Where many short ones have come together, no other way costs as little.

        Raises: as `payloads`.
        """
        frames = [frame for frame in self._all() if frame.opcode < _CLOSE]
        return [frame.text if frame.opcode is _TEXT else frame.to_bytes() for frame in frames]

    def relayed(self) -> tuple[OpCode, Ring, memoryview] | None:
        """The opcode, a ring, and the rows of the messages in it, for `Writer.write_received` to use at once.

        None: the frames are not all messages of one opcode that lie in a ring.

        Raises: as `payloads`.
        """
        return None

    def _all(self) -> list[Frame]:
        frames = self._frames
        assert frames is not None
        return frames

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {len(self)} frames>"


class RingBatch(Batch):
    """A batch of whole frames in a reader's ring.

    Args:
        lease: the reader's, as it stands now: its number is that of the read which gives this batch.
        rows: one for each frame, at least one (rows.py).
        opcode: the one that all of them have, if all are messages; else None.
    """

    __slots__ = ("_lease", "_number", "_opcode", "_rows")

    def __init__(self, lease: Lease, rows: memoryview, opcode: OpCode | None) -> None:
        self._frames = None
        self._lease = lease
        self._number = lease.number
        self._rows = rows
        self._opcode = opcode

    def __len__(self) -> int:
        return len(self._rows) // ROW

    @property
    def payloads(self) -> Iterator[memoryview]:
        lease = self._lease
        ring, view = lease.ring, lease.seen(self._number)
        spans: Iterator[tuple[int, int]] = zip(*spans_of(self._rows), strict=True)
        if self._opcode is None:
            spans = compress(spans, [not what & CONTROL for what in kinds_of(self._rows)])
        if not view and lease.pool.is_crowded:
            # As in `Lease.look`. All copies are made now, because nothing keeps the ring.
            copies = [memoryview(ring.copies[start:stop]) for start, stop in spans]
            lease.check(self._number)
            return iter(copies)
        view = view or lease.open(self._number)
        return (view[start:stop] for start, stop in spans)

    @property
    def messages(self) -> list[str | bytes]:
        lease = self._lease
        ring = lease.ring
        lease.check(self._number)
        if self._opcode is None or not is_worth_it(self._rows):
            return super().messages
        try:
            return in_bulk(ring.base, self._rows, lease.pool.scratch())
        finally:
            # As in `Lease.copy`. An error, too, may come of another thread that has read on.
            lease.check(self._number)

    def relayed(self) -> tuple[OpCode, Ring, memoryview] | None:
        if self._opcode is None:
            return None
        self._lease.check(self._number)
        return self._opcode, self._lease.ring, self._rows

    def _all(self) -> list[Frame]:
        if self._frames is None:
            opcodes = map(WHOLE.__getitem__, kinds_of(self._rows))
            lease, number = repeat(self._lease), repeat(self._number)
            # No bytecode runs per frame: a third less time than a loop.
            self._frames = list(map(ring_frame, opcodes, lease, *spans_of(self._rows), number))
        return self._frames
