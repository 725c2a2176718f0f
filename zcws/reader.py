"""The reading half: from rows that have been scanned to frames and messages that can be used.

It decides where a payload lies and in what order frames, the peer's Close and the peer's mistakes reach the caller. It
never writes: what it owes to the peer it puts on the bridge. All of its progress lives in this object, so a
caller may stop waiting at any moment. Where bytes come from is the business of inlet.py.

Where a payload lies, and how often it was copied. RING is the leased ring, USER the caller's payload buffer:

      message                     ADAPTIVE                      CONSISTENT
      control, or single plain    view of RING, 0 copies        RING -> USER, 1 copy
      single, larger than RING    lands in USER, 0 copies       the same
      single, compressed          inflated, then -> USER;       the same
                                  no USER: bytes of its own
      fragments, plain            RING -> USER, each            the same
      fragments, compressed       RING -> inflate as it comes -> USER
      control between fragments   view of RING (never USER)     own small bytes (never the half-built USER)
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from operator import length_hint

from zcws.assembly import (
    BAD_BUFFER_SIZE,
    BAD_DEFLATE,
    BAD_MESSAGE_SIZE,
    BAD_UTF8,
    Assembly,
    Inflate,
    Inflated,
    is_utf8,
)
from zcws.batch import Batch, RingBatch
from zcws.bridge import Bridge, Reply
from zcws.buffer import PayloadBuffer
from zcws.codes import OpCode
from zcws.frame import NEED_MORE, Frame, NeedMore, PayloadOrigin, ReceivedFrame, RingFrame, Source
from zcws.inlet import NO_ROWS, Inlet
from zcws.kernel import lib
from zcws.pool import Pool
from zcws.ring import Ring

__all__ = ["Piece", "Reader"]

_FIRST, _LAST, _COMPRESSED = lib.ZCWS_FIRST, lib.ZCWS_LAST, lib.ZCWS_COMPRESSED
_MORE, _FULL, _CLOSED = lib.ZCWS_MORE, lib.ZCWS_FULL, lib.ZCWS_CLOSED
_ADAPTIVE = PayloadOrigin.ADAPTIVE
_CLOSE = OpCode.CLOSE  # RFC 6455 5.2: the first of the control opcodes
_CONTROL = 0x08  # RFC 6455 5.2: the bit that control opcodes have

#: A row that is a whole plain frame, and which: its payload can be used where it lies.
_WHOLE = {
    op | _FIRST | _LAST: op for op in (OpCode.TEXT, OpCode.BINARY, OpCode.PING, OpCode.PONG, OpCode.CLOSE)
}
_WHOLE_TEXT, _WHOLE_BINARY = OpCode.TEXT | _FIRST | _LAST, OpCode.BINARY | _FIRST | _LAST

#: What says which part of its message a row is, and whether that is compressed.
_PART = _FIRST | _LAST | _COMPRESSED

#: A row that is a whole compressed frame.
_DEFLATED_TEXT, _DEFLATED_BINARY = _WHOLE_TEXT | _COMPRESSED, _WHOLE_BINARY | _COMPRESSED
_DEFLATED = frozenset({_DEFLATED_TEXT, _DEFLATED_BINARY})

#: How the payload of a Close begins that ends a connection well: with 1000, 1001 or no code. RFC 6455 7.4.1.
_GOOD_ENDS = frozenset({b"", b"\x03\xe8", b"\x03\xe9"})

#: Up to this many bytes it is inflated in one go: nearly every compressed message. What is longer is inflated, checked
#: and put in its place step by step (assembly.py), which costs 8 us more.
_AT_ONCE = 16 * 1024
_OPCODES = {int(op): op for op in OpCode}

#: From this many bytes on, the rest of a large payload is received straight into its buffer. For less, one more
#: system call costs more than the copy.
_LAND_AT_LEAST = 16 * 1024

#: From this many bytes on text is decoded where it lies: for less, a copy costs less than the view does.
_DECODE_IN_PLACE = 4096

#: A piece of a message that is being streamed: its bytes, or its text; and whether the message ends with it.
Piece = tuple["str | bytes", bool]


class Reader(Inlet):
    """The reading half of one connection.

    Args:
        pool: lends the rings; one per event loop or thread.
        bridge: where replies are put.
        masked: whether the peer must mask its frames: we are the server, and no-masking was not agreed.
        inflate: decompresses the peer's messages, where permessage-deflate was agreed.
        max_size: bytes of a message, exactly that many allowed.
        max_fragments: frames of a message, exactly that many allowed.
    """

    __slots__ = (
        "_assembly",
        "_decode",
        "_finished",
        "_inflate",
        "_skipping",
        "_streamed",
        "streaming",
    )

    def __init__(
        self,
        pool: Pool,
        bridge: Bridge,
        *,
        masked: bool,
        inflate: Inflate | None,
        max_size: int,
        max_fragments: int,
    ) -> None:
        super().__init__(
            pool,
            bridge,
            masked=masked,
            compressed=inflate is not None,
            max_size=max_size,
            max_fragments=max_fragments,
        )
        self._inflate = inflate
        self._assembly: Assembly | None = None  # the message in progress
        # Buffers of ours in which messages lie that were handed out last.
        self._finished: list[PayloadBuffer] | None = None
        self._streamed = 0  # bytes of it so far
        self._decode: Callable[[bytes, bool], str | bytes] = _as_is
        #: What is being streamed: its opcode, or 0 before its first piece; None while nothing is.
        self.streaming: int | None = None
        self._skipping = False  # the rest of a message that nobody wants

    @property
    def inflated(self) -> tuple[int, int]:
        """Bytes of compressed messages as they arrived, and as they were handed on. RFC 7692."""
        inflate = self._inflate
        return (0, 0) if inflate is None else (inflate.bytes_before, inflate.bytes_after)

    # ---- frames and messages ----

    def read_frame(
        self, buffer: PayloadBuffer | None = None, origin: PayloadOrigin = PayloadOrigin.ADAPTIVE
    ) -> Frame | NeedMore:
        """The next message or control frame, or NEED_MORE. The frame that was read before is stale from now on.

        A message that arrives in pieces stays in the buffer that was passed when its first piece was read.

        Raises:
            ProtocolError: the peer broke a rule, and everything before that has been read.
            ConnectionClosed: there is nothing left to read.
            ValueError: another connection is receiving into `buffer`; nothing has been read.
        """
        if buffer is not None and buffer.reader is not None and buffer.reader is not self:
            raise ValueError("this PayloadBuffer is in the middle of a message of another connection")
        if self.streaming is not None:
            raise RuntimeError("a message is being streamed; read or leave it first")
        if self._frame is not None:
            self._forget_frame()
        while True:
            rows = self._batch
            for what, start, stop in rows:
                opcode = _WHOLE.get(what)
                frame: Frame | None
                if opcode is None:
                    frame = self._read_piece(what, start, stop, buffer)
                elif opcode < _CLOSE and origin is _ADAPTIVE:
                    ring, lease = self._ring, self._lease
                    ring.tail = start  # type: ignore[union-attr]
                    lease.ring = ring
                    self._frame = frame = RingFrame(opcode, lease, start, stop, lease.number)
                    self.ready = NO_ROWS
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

    def _whole_frame(
        self, opcode: OpCode, start: int, stop: int, buffer: PayloadBuffer | None, origin: PayloadOrigin
    ) -> Frame | None:
        """A control frame, or one whose payload has to be copied. None: it does not fit the buffer."""
        ring: Ring = self._ring  # type: ignore[assignment]
        ring.tail = start
        if opcode >= _CLOSE:
            self._answer(opcode, start, stop)
        if origin is not _ADAPTIVE:
            return self._read_consistent(opcode, ring.peek(start, stop), buffer)
        lease = self._lease
        lease.ring = ring
        self._frame = frame = RingFrame(opcode, lease, start, stop, lease.number)
        return frame

    def read_message(self) -> str | bytes | NeedMore:
        """The next message as an object of the caller's own, or NEED_MORE. Control frames are passed over.

        Raises: as `read_frame`.
        """
        if self.streaming is not None:
            raise RuntimeError("a message is being streamed; read or leave it first")
        if self._frame is not None:
            self._forget_frame()
        while True:
            if self._alike is not None:
                self._line_up(*self._alike)
            for ready in self.ready:
                return ready
            rows = self._batch
            for what, start, stop in rows:
                # `message_of` once more: for messages that come many at a time the call is a tenth of each.
                if what == _WHOLE_TEXT:
                    if stop - start < _DECODE_IN_PLACE:
                        text: str = self._ring.copies[start:stop].decode()  # type: ignore[union-attr]
                        return text
                    return str(self._ring.memory[start:stop], "utf-8")  # type: ignore[union-attr]
                if what == _WHOLE_BINARY:
                    return self._ring.copies[start:stop]  # type: ignore[union-attr]
                message = self._read_other(what, start, stop)
                if message is not None:
                    return message
                if self._batch is not rows:
                    break  # a fault: nothing behind it counts
            else:
                if not self._more():
                    return NEED_MORE

    def _line_up(self, what: int, starts: Iterator[int], stops: Iterator[int]) -> None:
        """Many whole frames of a kind: their messages become `ready`, if the rows are those that wait."""
        self._alike = None
        ring = self._ring
        if stops is not self._words or ring is None:
            return
        spans = map(slice, starts, stops)
        if what == _WHOLE_TEXT and ring.head - ring.tail >= _DECODE_IN_PLACE * length_hint(stops):
            self.ready = map(str, map(ring.memory.__getitem__, spans), repeat("utf-8"))
        elif what == _WHOLE_TEXT:
            self.ready = map(bytes.decode, map(ring.copies.__getitem__, spans))
        elif what == _WHOLE_BINARY:
            self.ready = map(ring.copies.__getitem__, spans)

    def message_of(self, ring: Ring, what: int, start: int, stop: int) -> str | bytes | None:
        """The message that a row is by itself, for somebody who hands it on at once; None: it is not as simple as that.

        Only while `is_idle`; nothing is kept.
        """
        if self.discarding:
            return None
        if what == _WHOLE_TEXT:
            if stop - start < _DECODE_IN_PLACE:
                text: str = ring.copies[start:stop].decode()
                return text
            return str(ring.memory[start:stop], "utf-8")
        return ring.copies[start:stop] if what == _WHOLE_BINARY else None

    def frame_of(self, ring: Ring, begin: int, what: int, start: int, stop: int) -> Frame | None:
        """The same as a frame, which is good until `drop_frame`."""
        if self.discarding or (what != _WHOLE_TEXT and what != _WHOLE_BINARY):
            return None
        ring.tail = begin
        lease = self._lease
        lease.ring = ring
        return RingFrame(_WHOLE[what], lease, start, stop, lease.number)

    def keep_frame(self, frame: Frame, ring: Ring, stop: int) -> None:
        """It has been handed to somebody who has not asked for the next one yet: the ring stays with us."""
        self._frame = frame
        self._ring = ring
        self._next = ring.head = stop
        self.is_idle = False

    def drop_frame(self, ring: Ring, stop: int) -> None:
        """It has been seen. Where a view of it is held, the ring (which ends at `stop`) stays with us."""
        lease = self._lease
        lease.number += 1
        lease.ring = lease.view = None  # `lease.end()`, without the call: for each frame
        if ring.exports:
            ring.next_batch()
            if ring.is_exported:
                self._ring = ring
                self._next = ring.tail = ring.head = stop
                self.is_idle = False

    def _read_other(self, what: int, start: int, stop: int) -> str | bytes | None:
        """A row that is not a whole plain message. None: nor does it complete one."""
        if what in _DEFLATED and stop - start <= _AT_ONCE:
            return self._read_deflated(what, start, stop)
        if what & _CONTROL:
            self._answer(_WHOLE[what], start, stop)
            return None
        if what & _PART == _FIRST and stop - start <= _AT_ONCE and not self._remaining:
            return self._join_fragments(what, start, stop)
        frame = self._read_piece(what, start, stop, None)
        if frame is None:
            return None
        message = frame.text if frame.opcode is OpCode.TEXT else frame.to_bytes()
        self._forget_frame()
        return message

    def _join_fragments(self, what: int, start: int, stop: int) -> str | bytes | None:
        """A plain message whose fragments have arrived together, from its first row on. None: the rest is to come."""
        copies = self._ring.copies  # type: ignore[union-attr]
        parts = [copies[start:stop]]
        for part, begin, end in self._batch:
            if part & _CONTROL:  # RFC 6455 5.4: they may stand between fragments
                self._answer(_WHOLE[part], begin, end)
                continue
            parts.append(copies[begin:end])
            if part & _LAST:
                message: bytes = b"".join(parts)
                return message.decode() if what & 0x0F == OpCode.TEXT else message
        self._assembly = assembly = self._begin(what, None)
        assembly.add(memoryview(b"".join(parts)), last=False)
        return None

    def read_batch(self) -> Batch | NeedMore:
        """All frames that have arrived together, or NEED_MORE. They are good until the next read.

        Raises: as `read_frame`.
        """
        if self.streaming is not None:
            raise RuntimeError("a message is being streamed; read or leave it first")
        if self._frame is not None:
            self._forget_frame()
        while True:
            batch = self._messages_alike()
            if batch is None:
                rows = list(self._batch)
                if not rows:
                    if self._more():
                        continue
                    return NEED_MORE
                batch = self._whole_frames(rows) or self._mixed_frames(rows)
            if batch is not None:
                self._frame = batch
                return batch

    def _messages_alike(self) -> Batch | None:
        """None: there are few rows, or some differ from the others, or they are no whole messages."""
        if self._alike is None:
            return None
        (what, starts, stops), self._alike = self._alike, None
        if stops is not self._words or (what != _WHOLE_TEXT and what != _WHOLE_BINARY):
            return None
        begins = list(starts)
        return self._ring_batch([_WHOLE[what]] * len(begins), begins, list(stops)) if begins else None

    def _whole_frames(self, rows: list[Sequence[int]]) -> Batch | None:
        """None: some rows are pieces of messages."""
        whats, starts, stops = map(list, zip(*rows, strict=True))
        try:
            opcodes = list(map(_WHOLE.__getitem__, whats))
        except KeyError:
            return None
        if not self.eager or self._status == _CLOSED:
            for opcode, start, stop in zip(opcodes, starts, stops, strict=True):
                if opcode >= _CLOSE:
                    self._answer(opcode, start, stop)
        return self._ring_batch(opcodes, starts, stops)

    def _ring_batch(self, opcodes: list[OpCode], starts: list[int], stops: list[int]) -> Batch:
        ring, lease = self._ring, self._lease
        lease.ring = ring
        ring.tail = starts[0]  # type: ignore[union-attr]
        return RingBatch(lease, opcodes, starts, stops)

    def _mixed_frames(self, rows: list[Sequence[int]]) -> Batch | None:
        """Each message in pieces gets a buffer of its own. None: there is no whole message among them."""
        frames: list[Frame] = []
        lease, elsewhere, batch = self._lease, list[ReceivedFrame](), self._batch
        lease.ring = self._ring
        for what, start, stop in rows:
            opcode = _WHOLE.get(what)
            if opcode is None:
                frame = self._read_piece(what, start, stop, None)
                if frame is None:
                    if self._batch is not batch:
                        break  # a fault, found only now: what came before it is still good
                    continue
                self._frame = None
                elsewhere.append(frame)
                frames.append(frame)
            else:
                if opcode >= _CLOSE:
                    self._answer(opcode, start, stop)
                frames.append(RingFrame(opcode, lease, start, stop, lease.number))
        self._elsewhere = elsewhere
        return Batch(frames) if frames else None

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

    # ---- messages in one compressed frame ----

    def _read_deflated(self, what: int, start: int, stop: int) -> str | bytes | None:
        """The message as an object of the caller's own; None: a fault."""
        data = self._inflate_at_once(start, stop)
        if data is None or what == _DEFLATED_BINARY:
            return data
        try:
            return data.decode()  # RFC 6455 8.1: as strict as the C core; it refuses surrogates too
        except UnicodeDecodeError:
            self._fail(BAD_UTF8)
            return None

    def _read_deflated_frame(
        self, what: int, start: int, stop: int, buffer: PayloadBuffer | None
    ) -> ReceivedFrame | None:
        """The same as a frame: in the caller's buffer, or in memory of its own."""
        data = self._inflate_at_once(start, stop)
        if data is None:
            return None
        if what == _DEFLATED_TEXT and not data.isascii() and not is_utf8(data):
            self._fail(BAD_UTF8)
            return None
        source: Source = Inflated(data)
        if buffer is not None:
            buffer.begin()
            buffer.append(memoryview(data))
            source = buffer.occupant()
        return self._hand_out(ReceivedFrame(_OPCODES[what & 0x0F], source, 0, len(data)))

    def _inflate_at_once(self, start: int, stop: int) -> bytes | None:
        """The bytes of a whole compressed message. None: a fault."""
        payload = self._ring.copies[start:stop]  # type: ignore[union-attr]
        try:
            data = self._inflate.message(payload, self._max_size)  # type: ignore[union-attr]
        except ValueError:
            self._fail(BAD_DEFLATE)
            return None
        if len(data) <= self._max_size:
            return data
        self._fail(BAD_MESSAGE_SIZE)
        return None

    # ---- messages in pieces ----

    def _read_piece(
        self, what: int, start: int, stop: int, buffer: PayloadBuffer | None
    ) -> ReceivedFrame | None:
        """A fragment, or a piece of a large frame: the whole message when this was the last."""
        if what in _DEFLATED and stop - start <= _AT_ONCE and (buffer is None or buffer.fits(self._max_size)):
            return self._read_deflated_frame(what, start, stop, buffer)
        if self._skipping:
            self._skip(what, start, stop)
            return None
        assembly = self._assembly
        if what & _FIRST or assembly is None:
            self._assembly = assembly = self._begin(what, buffer)
        fault = assembly.add(self._bytes_of(start, stop), last=bool(what & _LAST))
        if fault:
            self._fail(fault)
            return None
        if not what & _LAST:
            return None
        self._assembly = None
        target = assembly.target
        target.reader = None
        if assembly.is_ours:
            if self._finished is None:
                self._finished = []
            self._finished.append(target)
        return self._hand_out(ReceivedFrame(_OPCODES[assembly.opcode], target.occupant(), 0, len(target)))

    def _bytes_of(self, start: int, stop: int) -> memoryview:
        return self._ring.memory[start:stop] if self._ring is not None else memoryview(b"")

    def _begin(self, what: int, buffer: PayloadBuffer | None) -> Assembly:
        is_ours = buffer is None
        target = self._pool.lend_buffer() if buffer is None else buffer
        target.reader = self
        inflate = self._inflate if what & _COMPRESSED else None
        return Assembly(what & 0x0F, target, is_ours=is_ours, inflate=inflate, max_size=self._max_size)

    def _read_consistent(
        self, opcode: OpCode, payload: memoryview, buffer: PayloadBuffer | None
    ) -> ReceivedFrame | None:
        """CONSISTENT: the payload of a whole frame is copied out of the ring. None: it does not fit the buffer."""
        if (
            buffer is None
            or self._assembly is not None
            or (opcode >= OpCode.CLOSE and not buffer.fits(len(payload)))
        ):
            # Inside a fragmented message the buffer is half built, and memory that is too small for a message is no
            # reason to refuse a Ping: a control frame has bytes of its own then.
            target = PayloadBuffer()
        else:
            target = buffer
        target.begin()
        if not target.append(payload):
            self._fail(BAD_BUFFER_SIZE)
            return None
        return self._hand_out(ReceivedFrame(opcode, target.occupant(), 0, len(payload)))

    def _hand_out(self, frame: ReceivedFrame) -> ReceivedFrame:
        """A frame that does not lie in the ring."""
        self._frame = frame
        self.ready = NO_ROWS
        self._elsewhere = (frame,)
        return frame

    def _forget_frame(self) -> None:
        if self._frame is None:
            return  # a fault in the middle of a batch: the messages before it are about to be handed out
        self._frame = None
        self._lease.number += 1
        if self._elsewhere:
            for frame in self._elsewhere:
                frame._source = None
            self._elsewhere = ()
        if self._finished:
            for target in self._finished:
                self._pool.return_buffer(target)
            self._finished = None

    def _drop_message(self) -> None:
        super()._drop_message()
        assembly, self._assembly = self._assembly, None
        if assembly is not None:
            assembly.target.reader = None
            if assembly.is_ours:
                self._pool.return_buffer(assembly.target)

    def has_ended_well(self) -> bool:
        """Whether the next read would raise ConnectionClosedOK because of the peer's Close.

        This is as good as that read, for those who would only catch it: with its traceback that costs as much as a
        message.
        """
        if self._status != _CLOSED or not self._concluded or self.streaming is not None:
            return False
        close = self._peer_close or b""
        # The last row is the Close itself.
        if self.rows_waiting > 1 or close[:2] not in _GOOD_ENDS:
            return False
        self._words = self._batch = NO_ROWS
        self._forget_frame()
        self._drop_message()
        self._drop_ring()
        return True

    def _more(self) -> bool:
        """Every row has been read. True: there are new ones. False: more bytes are needed.

        Raises: what stands behind the last row.
        """
        self.ready = NO_ROWS  # it holds on to the ring
        if self._status != _MORE or self._eof:
            if self._status == _FULL and self._ring is not None:
                self._scan_ring(self._ring)
                return True
            self.conclude()
            self._drop_message()
            self._drop_ring()
            raise self.error()
        if self._remaining and self._landing is None:
            self._start_landing()
            if self._is_over:
                return True
        if self.discarding:
            self._drop_message()
        self._release()
        self.is_idle = self._ring is None and self._landing is None and self.streaming is None
        return False

    def _start_landing(self) -> None:
        """The rest of a large plain payload is received straight into its buffer."""
        assembly = self._assembly
        if assembly is None or not assembly.is_plain or self.discarding:
            return
        if not assembly.target.fits(len(assembly.target) + self._remaining):
            self._fail(BAD_BUFFER_SIZE)
        elif self._remaining >= _LAND_AT_LEAST:
            self._landing = assembly.target
            self._landing_opcode = assembly.opcode

    # ---- streaming inside a message ----

    def begin_stream(self) -> None:
        """The next message is read with `read_piece`, as its bytes arrive, and not with the other methods.

        Raises:
            RuntimeError: half of a message has been read already.
        """
        if self._assembly is not None or self.streaming is not None:
            raise RuntimeError("a message is being read already; a stream begins with a message")
        self._forget_frame()
        self.ready = NO_ROWS
        self.streaming = 0
        self.is_idle = False
        self._state.fit = 0
        if self._ring is not None and self._status == _MORE and not self._concluded:
            self._scan_ring(self._ring)  # what is there of an unfinished frame

    def end_stream(self) -> None:
        """Back to whole messages; what has not arrived of the streamed one is dropped when it does."""
        if self.streaming is not None:
            self._skipping = self._skipping or self.streaming != 0
            self.streaming = None
            self._state.fit = self._pool.capacity
            pieces, self._pieces = self._pieces, None
            # A row that has been begun is read to its end: compressed, it is part of the context. RFC 7692 7.1.1.
            for _, last in pieces or ():
                self._skipping = not last

    def read_piece(self) -> Piece | NeedMore:
        """The next piece of the message that is being streamed, or NEED_MORE.

        Raises: as `read_frame`.
        """
        while True:
            if self._pieces is not None:
                piece = next(self._pieces, None)
                if piece is not None and piece[1]:
                    self.streaming = 0  # nothing is left to skip
                    self.end_stream()
                if piece is not None and (piece[0] or piece[1]):
                    return piece
                if piece is not None:
                    continue
                self._pieces = None
            row = next(self._batch, None)
            if row is None:
                if self._more():
                    continue
                return NEED_MORE
            self._stream_row(*row)

    def _stream_row(self, what: int, start: int, stop: int) -> None:
        if what & _CONTROL:
            self._answer(_WHOLE[what], start, stop)
        elif self._skipping:
            self._skip(what, start, stop)
        else:
            if what & _FIRST:
                self.streaming = what & 0x0F
                self._streamed = 0
                self._decode = (
                    getincrementaldecoder("utf-8")().decode if self.streaming == OpCode.TEXT else _as_is
                )
            # A copy: the ring may be written to again before the last piece of it has been asked for.
            self._pieces = self._stream_pieces(what, bytes(self._bytes_of(start, stop)))

    def _stream_pieces(self, what: int, payload: bytes) -> Iterator[Piece]:
        """What one row gives: itself, or what it inflates to. RFC 6455 8.1: text is checked as it comes."""
        last = bool(what & _LAST)
        if not what & _COMPRESSED:
            yield self._decode(payload, last), last
            return
        assert self._inflate is not None
        try:
            for piece in self._inflate.pieces(memoryview(payload), last=last):
                self._streamed += len(piece)
                if self._streamed > self._max_size:
                    self._fail(BAD_MESSAGE_SIZE)
                    return
                yield self._decode(piece, False), False
            if last:  # whatever stands behind this message, a Close perhaps
                yield self._decode(b"", True), True
        except UnicodeDecodeError:
            self._fail(BAD_UTF8)
        except ValueError:
            self._fail(BAD_DEFLATE)

    def _inflated(self, payload: bytes, *, last: bool) -> Iterator[bytes]:
        assert self._inflate is not None
        try:
            yield from self._inflate.pieces(memoryview(payload), last=last)
        except ValueError:
            self._fail(BAD_DEFLATE)

    def _skip(self, what: int, start: int, stop: int) -> None:
        """A piece of a message that nobody wants; compressed, it is still part of the context. RFC 7692 7.1.1."""
        last = bool(what & _LAST)
        if what & _COMPRESSED:
            for piece in self._inflated(bytes(self._bytes_of(start, stop)), last=last):
                self._streamed += len(piece)
                if self._streamed > self._max_size:
                    self._fail(BAD_MESSAGE_SIZE)
                    return
        self._skipping = not last


def _as_is(piece: bytes, _last: bool) -> bytes:
    return piece
