"""The reading half: from rows that have been scanned to frames and messages that can be used.

It decides where a payload lies and in what order frames, the peer's Close and the peer's mistakes reach the caller. It
never writes: what it owes to the peer it puts on the bridge. All of its progress lives in this object, so a
caller may stop waiting at any moment. Where bytes come from is the business of inlet.py. If memory runs out in the
middle of a read, what has been taken so far is lost, and the connection is failed: a program that caught the
MemoryError and read on would otherwise be given a message with a hole, or miss one.

Where a payload lies, and how often it was copied. RING is the leased ring, USER the caller's payload buffer:

      message                     ADAPTIVE                      CONSISTENT
      control, or single plain    view of RING, 0 copies *      RING -> USER, 1 copy
      a Close that comes alone    bytes of its own              the same -> USER
      single, larger than RING    lands in USER, 0 copies       the same
      single, compressed          inflated, then -> USER;       the same
                                  no USER: bytes of its own
      fragments, plain            RING -> USER, each            the same
      small ones that have        moved together in RING,       as a single one
      arrived together            then as a single one
      fragments, compressed       RING -> inflate as it comes -> USER
      control between fragments   view of RING (never USER)     own small bytes (never the half-built USER)

      * where its `payload` is short and looked at alone, a view of a copy costs less: `RingFrame` (ring_frame.py)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from operator import length_hint
from typing import Any, NoReturn

from zcws.alone import AloneReader
from zcws.assembly import BAD_BUFFER_SIZE, BAD_UTF8, NO_MEMORY, Inflated
from zcws.batch import Batch, RingBatch
from zcws.buffer import Occupant, PayloadBuffer
from zcws.bulk import in_bulk, is_worth_it
from zcws.codes import OpCode
from zcws.frame import DECODE_IN_PLACE, NEED_MORE, Frame, NeedMore, PayloadOrigin, ReceivedFrame
from zcws.outcome import CLOSED
from zcws.pieces import AT_ONCE
from zcws.ring import Ring
from zcws.ring_frame import NO_RING, Lease, RingFrame, ring_frame
from zcws.rows import (
    CONTROL,
    DEFLATED,
    DEFLATED_BINARY,
    FIRST,
    LAST,
    PART,
    WHOLE,
    WHOLE_BINARY,
    WHOLE_PING,
    WHOLE_PONG,
    WHOLE_TEXT,
    as_table,
    spans_of,
)
from zcws.waiting import NO_ROWS

__all__ = ["Reader"]

_ADAPTIVE = PayloadOrigin.ADAPTIVE
_CLOSE = OpCode.CLOSE  # RFC 6455 5.2: the first of the control opcodes

#: The rows that are whole plain messages, and their opcodes.
_DATA = {WHOLE_TEXT: OpCode.TEXT, WHOLE_BINARY: OpCode.BINARY}

_PINGS = frozenset({WHOLE_PING, WHOLE_PONG})

#: What a reader has handed out while it shows frames that lie in its ring: each is stale when the next one is shown.
_SHOWN = Batch([])

#: How the payload of a Close that ends a connection well begins: with 1000, 1001 or no code. RFC 6455 7.4.1.
_GOOD_ENDS = frozenset({b"", b"\x03\xe8", b"\x03\xe9"})

#: A batch ends when this many bytes of it lie outside of the ring: inflated, they may be a thousand times as many.
_MOST_ELSEWHERE = 4 * 1024 * 1024

#: Each message that lies there counts as this many bytes more: it may take 150 us to inflate (MAX_STREAMS).
_EACH_ELSEWHERE = 16 * 1024


class Reader(AloneReader):
    """The reading half of one connection. See `PieceReader` for its arguments."""

    __slots__ = ("__weakref__",)

    # ---- frames ----

    def read_frame(
        self, buffer: PayloadBuffer | None = None, origin: PayloadOrigin = PayloadOrigin.ADAPTIVE
    ) -> Frame | NeedMore:
        """The next message or control frame, or NEED_MORE. The frame that was read before is stale from now on.

        A message that arrives in pieces is put together in the buffer that was passed when its first piece was read.
        With CONSISTENT it is copied from there into the buffer that is passed when it is whole.

        Raises:
            ProtocolError: the peer broke a rule, and everything before that has been read.
            ConnectionClosed: there is nothing left to read.
            ValueError: another connection is receiving into `buffer`; nothing has been read.
        """
        if buffer is not None and buffer.reader is not None and buffer.reader is not self and buffer.is_busy:
            raise ValueError("this PayloadBuffer is in the middle of a message of another connection")
        if self.streaming is not None:
            self._refuse_read()
        if self._frame is not None:
            self._forget_frame()
        self.keeps_controls = True
        try:
            while True:
                rows = self._batch
                for what, start, stop in rows:
                    opcode = WHOLE.get(what)
                    frame: Frame | None
                    if opcode is None:
                        frame = self._read_piece(what, start, stop, buffer)
                        if origin is not _ADAPTIVE and buffer is not None and frame is not None:
                            frame = self._moved_into(buffer, frame)
                    elif opcode < _CLOSE and origin is _ADAPTIVE:
                        ring, lease = self._ring, self._lease
                        ring.tail = start  # type: ignore[union-attr]
                        lease.ring = ring
                        self._frame = frame = ring_frame(opcode, lease, start, stop, lease.number)
                        self.ready = NO_ROWS
                        if self._alike is not None and self._alike[1] is self._words:
                            self.ready_frames = _frames(weakref.ref(self), ring, lease, rows, opcode)  # type: ignore[arg-type]
                        return frame
                    else:
                        frame = self._whole_frame(opcode, start, stop, buffer, origin)
                    if frame is not None:
                        return frame
                    if self._batch is not rows:
                        break  # a fault: nothing behind it counts
                else:
                    if not self._more():
                        return NEED_MORE
        except MemoryError:
            self._fail(NO_MEMORY)
            raise

    def show_waiting(
        self,
        look: Callable[[Any, Frame], object],
        owner: Any,
        failed: Callable[[BaseException], object],
        most: int,
        most_inflated: int,
    ) -> bool:
        """Calls `look(owner, frame)` for each of the next frames except a Close. It ends after `most` frames, after the
        one that brings the inflated bytes to `most_inflated`, where more bytes are needed, and where `is_showing` has
        become False; what is left can then still be read.

        Each frame is good until `look` returns. What `look` raises is passed to `failed`, which may raise it.

        Returns: whether it has ended for the number of frames or bytes, and may go on.

        Raises: as `read_frame`, and what `failed` raises.
        """
        lease = self._lease
        enough = self.inflated[1] + most_inflated
        self.is_showing = not self.is_closed_here
        try:
            while self.is_showing:
                if self.streaming is not None:
                    self._refuse_read()
                self.keeps_controls = True
                self.ready = NO_ROWS
                rows, ring, kind, opcode = self._batch, self._ring, 0, None
                lease.ring = ring or NO_RING
                for what, start, stop in rows:
                    frame: Frame | None
                    if what != kind:  # nearly always the same as in the row before
                        kind, opcode = what, _DATA.get(what)
                        self._forget_frame()
                        self._frame = _SHOWN
                    if opcode is not None:
                        # `ring_frame`, inlined.
                        frame = shown = RingFrame()
                        # First: for a thread that is about to look at the previous frame, that is stale now.
                        shown._number = lease.number = lease.number + 1
                        shown.opcode = opcode
                        shown._lease = lease
                        shown._start = ring.tail = start  # type: ignore[union-attr]
                        shown._stop = stop
                    else:
                        self._forget_frame()
                        frame = self._other_frame(what, start, stop)
                        if self._batch is not rows:
                            break  # a fault: nothing behind it counts
                        if frame is None or frame.opcode is _CLOSE:
                            continue
                        if self.inflates and self.inflated[1] >= enough:
                            most = 1
                    try:
                        look(owner, frame)
                    except BaseException as error:
                        failed(error)
                    most -= 1
                    if not most or not self.is_showing:
                        return self.is_showing
                else:
                    self._forget_frame()
                    if self._batch is rows and not self._more():
                        return False
            return False
        except MemoryError:
            self._fail(NO_MEMORY)
            raise
        finally:
            self._forget_frame()
            self.is_showing = False

    def _other_frame(self, what: int, start: int, stop: int) -> Frame | None:
        """The frame of a row that is not a whole plain message. None: the row does not complete a message."""
        opcode = WHOLE.get(what)
        if opcode is None:
            return self._read_piece(what, start, stop, None)
        return self._whole_frame(opcode, start, stop, None, _ADAPTIVE)

    def _refuse_read(self) -> NoReturn:
        raise RuntimeError("a message is being streamed; read or leave it first")

    def _whole_frame(
        self, opcode: OpCode, start: int, stop: int, buffer: PayloadBuffer | None, origin: PayloadOrigin
    ) -> Frame | None:
        """A control frame, or one whose payload has to be copied. None: it does not fit the buffer."""
        ring = self._ring
        if opcode >= _CLOSE:
            self._answer(opcode, start, stop)
        if ring is None:
            close = self._lone_close()
            if origin is not _ADAPTIVE:
                return self._read_consistent(opcode, close.payload, buffer)
            return self._hand_out(close)
        ring.tail = start
        if origin is not _ADAPTIVE:
            return self._read_consistent(opcode, ring.peek(start, stop), buffer)
        lease = self._lease
        lease.ring = ring
        self._frame = frame = ring_frame(opcode, lease, start, stop, lease.number)
        return frame

    def _lone_close(self) -> ReceivedFrame:
        """The peer's Close, which came alone: its ring has gone back (inlet.py)."""
        payload = self._peer_close or b""
        return ReceivedFrame(_CLOSE, Inflated(payload), 0, len(payload))

    def _moved_into(self, buffer: PayloadBuffer, frame: ReceivedFrame) -> ReceivedFrame | None:
        """CONSISTENT: a message in pieces, in `buffer`; another may have been passed when its first piece was read."""
        source = frame._source
        if not isinstance(source, Occupant) or source.is_in(buffer):
            return frame
        return self._read_consistent(frame.opcode, frame._peek(), buffer)

    def _read_consistent(
        self, opcode: OpCode, payload: memoryview, buffer: PayloadBuffer | None
    ) -> ReceivedFrame | None:
        """CONSISTENT: the payload of a whole frame is copied out of the ring. None: it does not fit the buffer."""
        if (
            buffer is None
            or self._assembly is not None
            or (opcode >= OpCode.CLOSE and not buffer.fits(len(payload)))
            or not buffer.take(self)
        ):
            # Inside a fragmented message the buffer is half built, and memory that is too small for a message is no
            # reason to refuse a Ping: a control frame has bytes of its own then.
            target = PayloadBuffer()
        else:
            target = buffer
        occupant = target.fill(payload)
        if occupant is None:
            self._fail(BAD_BUFFER_SIZE)
            return None
        return self._hand_out(ReceivedFrame(opcode, occupant, 0, len(payload)))

    # ---- messages ----

    def read_message(self) -> str | bytes | NeedMore:
        """The next message as an object of the caller's own, or NEED_MORE. Control frames are passed over.

        Raises: as `read_frame`.
        """
        if self.streaming is not None:
            self._refuse_read()
        if self._frame is not None:
            self._forget_frame()
        passed = False
        try:
            while True:
                if self._alike is not None:
                    self._line_up()
                for ready in self.ready:
                    return ready
                rows = self._batch
                for what, start, stop in rows:
                    # `message_of`, inlined: of messages that come many at a time, the call would cost each a tenth.
                    if what == WHOLE_TEXT:
                        if stop - start < DECODE_IN_PLACE:
                            text: str = self._ring.copies[start:stop].decode()  # type: ignore[union-attr]
                            return text
                        return str(self._ring.memory[start:stop], "utf-8")  # type: ignore[union-attr]
                    if what == WHOLE_BINARY:
                        return self._ring.copies[start:stop]  # type: ignore[union-attr]
                    if what in _PINGS and self.eager:
                        continue  # they have been answered, and a peer may send nothing else
                    message = self._read_other(what, start, stop)
                    if message is not None:
                        return message
                    if self._batch is not rows:
                        break  # a fault: nothing behind it counts
                else:
                    if not self._more(passed):
                        return NEED_MORE
                    passed = True
        except MemoryError:
            self._fail(NO_MEMORY)
            raise

    def _line_up(self) -> None:
        """Many rows that are alike: if they still wait and are whole messages, these become `ready`."""
        rows = self._take_alike()
        if not rows:
            return
        what, ring = rows[0], self._ring
        is_message = what == WHOLE_TEXT or what == WHOLE_BINARY
        if is_message and is_worth_it(rows):
            self._set_made(rows, in_bulk(ring.base, rows, self.pool.scratch()))  # type: ignore[arg-type, union-attr]
            return
        starts, stops = map(iter, spans_of(rows))
        # `strict` would cost as much as a row.
        self._words, self._batch = stops, zip(repeat(what), starts, stops)
        spans = zip(starts, stops)  # noqa: B905
        if is_message:
            in_place = ring.head - ring.tail >= DECODE_IN_PLACE * length_hint(stops)  # type: ignore[union-attr]
            self.ready = _messages(weakref.ref(self), ring, spans, what == WHOLE_TEXT, in_place)  # type: ignore[arg-type]

    def _read_other(self, what: int, start: int, stop: int) -> str | bytes | None:
        """The message of a row that is not a whole plain one. None: the row does not complete a message."""
        if what in DEFLATED and stop - start <= AT_ONCE:
            return self._read_deflated(what, start, stop)
        if what & CONTROL:
            self._answer(WHOLE[what], start, stop)
            return None
        if what & PART == FIRST and stop - start <= AT_ONCE and not self._remaining:
            return self._join_fragments(what, start, stop)
        assembly = self._assembly
        frame = self._read_piece(what, start, stop, None, for_message=True)
        if frame is None:
            return None
        message: str | bytes | None = None if assembly is None else assembly.target.take_bytes()
        if message is None:
            message = frame.text if frame.opcode is OpCode.TEXT else frame.to_bytes()
        self._forget_frame()
        return message

    def _join_fragments(self, what: int, start: int, stop: int) -> str | bytes | None:
        """A plain message whose fragments have arrived together, from its first row on. None: the rest is to come."""
        copies = self._ring.copies  # type: ignore[union-attr]
        parts = [copies[start:stop]]
        for part, begin, end in self._batch:
            if part & CONTROL:  # RFC 6455 5.4: they may stand between fragments
                self._answer(WHOLE[part], begin, end)
                continue
            parts.append(copies[begin:end])
            if part & LAST:
                message: bytes = b"".join(parts)
                return message.decode() if what & 0x0F == OpCode.TEXT else message
        self._assembly = assembly = self._begin(what, None, for_message=True)
        assembly.add(memoryview(b"".join(parts)), last=False)
        return None

    def _read_deflated(self, what: int, start: int, stop: int) -> str | bytes | None:
        """The message as an object of the caller's own; None: a fault."""
        data = self._inflate_at_once(start, stop)
        if data is None or what == DEFLATED_BINARY:
            return data
        try:
            return data.decode()  # RFC 6455 8.1: as strict as the C core; it refuses surrogates too
        except UnicodeDecodeError:
            self._fail(BAD_UTF8)
            return None

    # ---- batches ----

    def read_batch(self) -> Batch | NeedMore:
        """All frames that have arrived together, or NEED_MORE. They are good until the next read. Of compressed
        messages, a batch has 4 MiB or 256 at most, and the message that passes that. The peer's Close comes alone, and
        its mistake after what was before it: both take effect when the batch before them has been read.

        Raises: as `read_frame`.
        """
        if self.streaming is not None:
            self._refuse_read()
        if self._frame is not None:
            self._forget_frame()
        self.keeps_controls = True
        try:
            while True:
                batch = self._messages_alike()
                if batch is None:
                    rows = list(self._batch)
                    if not rows:
                        if self._more():
                            continue
                        return NEED_MORE
                    # The peer's Close comes alone: what is before it may be answered.
                    if self._status == CLOSED and len(rows) > 1:
                        self._set_rows(list(rows.pop()))
                    batch = self._whole_frames(rows) or self._mixed_frames(rows)
                if batch is not None:
                    self._frame = batch
                    return batch
        except MemoryError:
            self._fail(NO_MEMORY)
            raise

    def _messages_alike(self) -> Batch | None:
        """Many whole messages of one kind. None: the rows are few, or differ, or are no whole messages."""
        if self._alike is None:
            return None
        rows = self._take_alike()
        if not rows or (rows[0] != WHOLE_TEXT and rows[0] != WHOLE_BINARY):
            return None
        self._drop_rows()
        return self._ring_batch(as_table(rows), WHOLE[rows[0]])

    def _whole_frames(self, rows: list[Sequence[int]]) -> Batch | None:
        """A batch of whole frames. None: some rows are pieces of messages."""
        kinds = {what for what, _, _ in rows}
        if not kinds <= WHOLE.keys():
            return None
        if not self.eager or self._status == CLOSED:
            for what, start, stop in rows:
                if what & CONTROL:
                    self._answer(WHOLE[what], start, stop)
        if self._ring is None:
            return Batch([self._hand_out(self._lone_close())])
        opcode = WHOLE[kinds.pop()] if len(kinds) == 1 else _CLOSE
        table = as_table([word for row in rows for word in row])
        return self._ring_batch(table, opcode if opcode < _CLOSE else None)

    def _ring_batch(self, rows: memoryview, opcode: OpCode | None) -> Batch:
        ring, lease = self._ring, self._lease
        lease.ring = ring
        ring.tail = rows[1]  # type: ignore[union-attr]
        return RingBatch(lease, rows, opcode)

    def _mixed_frames(self, rows: list[Sequence[int]]) -> Batch | None:
        """A batch with messages in pieces, each in a buffer of its own. None: none of them is whole yet."""
        frames: list[Frame] = []
        self._gathers = True
        try:
            self._elsewhere = self._gather(frames, iter(rows))
        finally:
            self._gathers = False
        return Batch(frames) if frames else None

    def _gather(self, frames: list[Frame], rows: Iterator[Sequence[int]]) -> list[ReceivedFrame]:
        """Makes the frames of `rows`, up to a fault, or as many as are given at a time.

        Returns: those that do not lie in the ring.
        """
        lease, elsewhere, batch = self._lease, list[ReceivedFrame](), self._batch
        lease.ring = self._ring or NO_RING
        size = 0
        for what, start, stop in rows:
            opcode = WHOLE.get(what)
            if opcode is not None:
                if opcode >= _CLOSE:
                    self._answer(opcode, start, stop)
                frames.append(ring_frame(opcode, lease, start, stop, lease.number))
                continue
            frame = self._read_piece(what, start, stop, None)
            if frame is None:
                if self._batch is not batch:
                    break  # a fault, found only now: what came before it is still good
                continue
            self._frame = None
            elsewhere.append(frame)
            frames.append(frame)
            size += len(frame) + _EACH_ELSEWHERE
            if size >= _MOST_ELSEWHERE:
                self._set_rows([word for row in rows for word in row] + self._pending_words())
                break
        return elsewhere

    # ---- the end ----

    def has_ended_well(self) -> bool:
        """Whether the next read would raise ConnectionClosedOK because of the peer's Close.

        This does what that read does, for callers that would only catch the exception: with its traceback that costs as
        much as a message.
        """
        if self._status != CLOSED or not self._concluded or self.streaming is not None:
            return False
        close = self._peer_close or b""
        # The last row is the Close itself.
        if self.rows_waiting > 1 or close[:2] not in _GOOD_ENDS:
            return False
        self._drop_rows()
        self._forget_frame()
        self._drop_message()
        self._drop_ring()
        return True


def _messages(
    reader: weakref.ref[Reader],
    ring: Ring,
    spans: Iterator[tuple[int, int]],
    is_text: bool,
    in_place: bool,
) -> Iterator[str | bytes]:
    """Each of many messages, made when it is asked for. It bypasses `read_message`, so it handles MemoryError itself.

    The reader holds this generator, so this must not hold the reader.
    """
    copies, memory = ring.copies, ring.memory
    try:
        if not is_text:
            for start, stop in spans:
                yield copies[start:stop]
        elif in_place:
            for start, stop in spans:
                yield str(memory[start:stop], "utf-8")
        else:
            for start, stop in spans:
                yield copies[start:stop].decode()
    except MemoryError:
        _lose(reader)
        raise


def _frames(
    reader: weakref.ref[Reader], ring: Ring, lease: Lease, rows: Iterator[Sequence[int]], opcode: OpCode
) -> Iterator[Frame]:
    """The frame of each of many rows that are alike; each makes the one before it stale. Otherwise as `_messages`."""
    try:
        for _, start, stop in rows:
            # `ring_frame`, inlined.
            frame: RingFrame = RingFrame()
            # First: for a thread that is about to look at the previous frame, that is stale now.
            frame._number = lease.number = lease.number + 1
            frame.opcode = opcode
            frame._lease = lease
            frame._start = ring.tail = start
            frame._stop = stop
            yield frame
    except MemoryError:
        _lose(reader)
        raise


def _lose(reader: weakref.ref[Reader]) -> None:
    """What was about to be had past the reader is lost."""
    failed = reader()
    assert failed is not None  # somebody reads from it
    failed._fail(NO_MEMORY)
