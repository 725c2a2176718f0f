"""Messages that arrive in pieces: put together, received in place, or handed on as they come.

Fragments, the pieces of a frame that is larger than the ring, compressed messages. What has arrived whole and can be
used where it lies is read in reader.py, which builds on this.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator

from zcws.assembly import (
    BAD_BUFFER_SIZE,
    BAD_DEFLATE,
    BAD_MESSAGE_SIZE,
    BAD_UTF8,
    NO_MEMORY,
    Assembly,
    Inflate,
    Inflated,
)
from zcws.bridge import Bridge
from zcws.buffer import PayloadBuffer
from zcws.codes import OpCode
from zcws.controls import Controls
from zcws.frame import NEED_MORE, NeedMore, ReceivedFrame, ReceivedSource
from zcws.outcome import FULL, MORE, state_of_stream
from zcws.pool import Pool
from zcws.rows import COMPRESSED, CONTROL, DEFLATED, DEFLATED_TEXT, FIRST, LAST, WHOLE
from zcws.utf8 import is_utf8
from zcws.waiting import NO_ROWS

__all__ = ["AT_ONCE", "Piece", "PieceReader"]

#: A compressed message of up to this many bytes, as nearly every one is, is inflated in one go. A longer one is
#: inflated, checked and put in its place step by step (assembly.py), which costs 8 us more.
AT_ONCE = 16 * 1024
_OPCODES = {int(op): op for op in OpCode}

#: From this many bytes on, the rest of a large payload is received straight into its buffer. For less, one more
#: system call costs more than the copy.
_LAND_AT_LEAST = 16 * 1024

#: A piece of a message that is being streamed: its bytes, or its text; and whether the message ends with it.
Piece = tuple["str | bytes", bool]


class PieceReader(Controls):
    """The part of one connection's reading half that handles messages in pieces.

    Args:
        pool: lends the rings; one per event loop or thread.
        bridge: where replies are put.
        masked: whether the peer must mask its frames: we are the server, and no-masking was not agreed.
        inflate: decompresses the peer's messages, where permessage-deflate was agreed.
        max_size: bytes of a message, exactly that many allowed.
        max_fragments: frames of a message, exactly that many allowed.

    Attributes:
        inflates: whether messages may arrive compressed.
        gives_way: whether the last read has returned NEED_MORE although there is more: it has passed over a whole table
            of rows, and `is_shared` says that others come first. Whoever lets them resets it.
    """

    __slots__ = (
        "_assembly",
        "_decode",
        "_finished",
        "_inflate",
        "_skipping",
        "_streamed",
        "gives_way",
        "inflates",
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
        compressed = inflate is not None
        state = state_of_stream(max_size, max_fragments, pool.capacity, masked, compressed)
        super().__init__(pool, bridge, state)
        self._inflate = inflate
        self.inflates: bool = compressed
        self.gives_way: bool = False
        self._assembly: Assembly | None = None  # the message in progress
        # Buffers of ours that hold the messages handed out last.
        self._finished: list[PayloadBuffer] | None = None
        self._streamed = 0  # bytes so far of a compressed message that is streamed, or was until it was left
        self._decode: Callable[[bytes, bool], str | bytes] = _as_is
        self._skipping = False  # the rest of a message that nobody wants

    @property
    def inflated(self) -> tuple[int, int]:
        """Bytes of compressed messages as they arrived, and as they were handed on. RFC 7692."""
        inflate = self._inflate
        return (0, 0) if inflate is None else (inflate.bytes_before, inflate.bytes_after)

    # ---- messages in pieces ----

    def _read_piece(
        self, what: int, start: int, stop: int, buffer: PayloadBuffer | None, *, for_message: bool = False
    ) -> ReceivedFrame | None:
        """A fragment, or a piece of a large frame: the whole message when this was the last.

        Args:
            for_message: whether the caller wants a str or a bytes.
        """
        if what in DEFLATED and stop - start <= AT_ONCE and (buffer is None or buffer.fits(self._max_size)):
            return self._read_deflated_frame(what, start, stop, buffer)
        if self._skipping:
            self._skip(what, start, stop)
            return None
        assembly = self._assembly
        if what & FIRST or assembly is None:
            self._assembly = assembly = self._begin(what, buffer, for_message=for_message)
        fault = assembly.add(self._bytes_of(start, stop), last=bool(what & LAST))
        if fault:
            self._fail(fault)
            return None
        if not what & LAST:
            return None
        target = assembly.target
        frame = ReceivedFrame(_OPCODES[assembly.opcode], target.occupant(), 0, len(target))
        self._assembly = None  # only now: if memory runs out before this, it is dropped
        target.leave()
        if assembly.is_ours:
            if self._finished is None:
                self._finished = []
            self._finished.append(target)
        return self._hand_out(frame)

    def _bytes_of(self, start: int, stop: int) -> memoryview:
        return self._ring.memory[start:stop] if self._ring is not None else memoryview(b"")

    def _begin(self, what: int, buffer: PayloadBuffer | None, *, for_message: bool) -> Assembly:
        target = buffer
        if target is None or not target.take(self):  # another thread's reader may have begun there by now
            target = self.pool.lend_buffer()
        is_ours, inflate = target is not buffer, self._inflate if what & COMPRESSED else None
        try:
            opcode = what & 0x0F
            return Assembly(
                opcode,
                target,
                is_ours=is_ours,
                inflate=inflate,
                max_size=self._max_size,
                wants_bytes=for_message and opcode == OpCode.BINARY,
            )
        except BaseException:  # no memory, most likely
            target.leave()
            raise

    def _read_deflated_frame(
        self, what: int, start: int, stop: int, buffer: PayloadBuffer | None
    ) -> ReceivedFrame | None:
        """A whole compressed message as a frame: in the caller's buffer, or in memory of its own."""
        data = self._inflate_at_once(start, stop)
        if data is None:
            return None
        if what == DEFLATED_TEXT and not data.isascii() and not is_utf8(data):
            self._fail(BAD_UTF8)
            return None
        source: ReceivedSource = Inflated(data)
        if buffer is not None and buffer.take(self):
            source = buffer.fill(memoryview(data)) or source  # it fits: `_read_piece` has looked
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
        self.ready_frames = NO_ROWS
        self._lease.number += 1
        if self._elsewhere:
            for frame in self._elsewhere:
                frame._source = None
            self._elsewhere = ()
        if self._finished:
            for target in self._finished:
                self.pool.return_buffer(target)
            self._finished = None

    def _drop_message(self) -> None:
        super()._drop_message()
        assembly, self._assembly = self._assembly, None
        if assembly is not None:
            assembly.target.leave()
            if assembly.is_ours:
                self.pool.return_buffer(assembly.target)

    # ---- the last row has been read ----

    def _more(self, passed: bool = False) -> bool:
        """Every row has been read. True: there are new ones. False: more bytes are needed, or we give way.

        Args:
            passed: whether the rows of a whole table have been passed over by the read that asks.

        Raises: what stands behind the last row.
        """
        self.ready = NO_ROWS  # the old one holds on to the ring
        self._alike = None
        self.gives_way = False
        if self._status != MORE or self._eof:
            if self._status == FULL and self._ring is not None:
                self.gives_way = passed and self.is_shared
                if self.gives_way:
                    return False
                self._scan_ring(self._ring)
                return True
            self.conclude()
            self._drop_message()
            self._drop_ring()
            raise self.error()
        if self._remaining and self.landing_in is None:
            self._start_landing()
            if self._is_over:
                return True
        if self.discarding:
            self._drop_message()
        self._controls = 0
        self._all_read()
        return False

    def _start_landing(self) -> None:
        """The rest of a large plain payload is received straight into its buffer."""
        assembly = self._assembly
        if assembly is None or not assembly.is_plain or self.discarding:
            return
        if not assembly.target.fits(len(assembly.target) + self._remaining):
            self._fail(BAD_BUFFER_SIZE)
        elif self._remaining >= _LAND_AT_LEAST:
            self.landing_in = target = assembly.target
            self._landing_opcode = assembly.opcode
            if assembly.wants_bytes and self.state.what & LAST:
                target.whole_size = len(target) + self._remaining

    # ---- streaming inside a message ----

    def begin_stream(self) -> None:
        """The next message is read with `read_piece`, as its bytes arrive, and not with the other methods.

        Raises:
            RuntimeError: half of a message has been read already.
        """
        if self.streaming is not None:
            raise RuntimeError("a message is being streamed already; read or leave it first")
        if self._assembly is not None:
            raise RuntimeError(
                "a stream begins with a message, and another read (recv, say, that was cancelled) has taken the "
                "beginning of this one: finish it with that"
            )
        self._forget_frame()
        self._lease.number += 1  # also makes a frame stale that was handed on past us
        self.ready = NO_ROWS
        self.streaming = 0
        self.is_idle = False
        self.state.fit = 0
        self.scan_begun()

    def scan_begun(self) -> None:
        """What is there of an unfinished frame is a piece."""
        if self._stashed:
            self._unstash()
        if self._ring is not None and self._status == MORE and not self._concluded:
            self._scan_ring(self._ring)

    def end_stream(self) -> None:
        """Back to whole messages; the part of the streamed one that is still to come is dropped when it arrives."""
        if self.streaming is not None:
            self._skipping = self._skipping or self.streaming != 0
            self.streaming = None
            self.state.fit = self.pool.capacity
            pieces, self._pieces = self._pieces, None
            # A row that has been begun is read to its end: compressed, it is part of the context. RFC 7692 7.1.1.
            try:
                for _, last in pieces or ():
                    self._skipping = not last
            except MemoryError:
                self._fail(NO_MEMORY)
                raise

    def read_piece(self) -> Piece | NeedMore:
        """The next piece of the message that is being streamed, or NEED_MORE.

        Raises: as `read_frame`.
        """
        passed = False
        try:
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
                    if self._more(passed):
                        passed = True
                        continue
                    return NEED_MORE
                self._stream_row(*row)
        except MemoryError:
            self._fail(NO_MEMORY)
            raise

    def _stream_row(self, what: int, start: int, stop: int) -> None:
        if what & CONTROL:
            self._answer(WHOLE[what], start, stop)
        elif self._skipping:
            self._skip(what, start, stop)
        else:
            if what & FIRST:
                self.streaming = what & 0x0F
                self._streamed = 0
                self._decode = (
                    getincrementaldecoder("utf-8")().decode if self.streaming == OpCode.TEXT else _as_is
                )
            # A copy: the ring may be written to again before the last piece of it has been asked for.
            self._pieces = self._stream_pieces(what, bytes(self._bytes_of(start, stop)))

    def _stream_pieces(self, what: int, payload: bytes) -> Iterator[Piece]:
        """What one row gives: itself, or what it inflates to. RFC 6455 8.1: text is checked as it comes."""
        last = bool(what & LAST)
        if not what & COMPRESSED:
            yield self._decode(payload, last), last
            return
        assert self._inflate is not None
        try:
            room = self._max_size - self._streamed
            for piece in self._inflate.pieces(memoryview(payload), last=last, room=room):
                self._streamed += len(piece)
                if self._streamed > self._max_size:
                    self._fail(BAD_MESSAGE_SIZE)
                    return
                yield self._decode(piece, False), False
            if last:  # whatever follows this message, a Close perhaps
                yield self._decode(b"", True), True
        except UnicodeDecodeError:
            self._fail(BAD_UTF8)
        except ValueError:
            self._fail(BAD_DEFLATE)

    def _skip(self, what: int, start: int, stop: int) -> None:
        """A piece of a message that nobody wants; compressed, it is still part of the context. RFC 7692 7.1.1."""
        if what & COMPRESSED:
            for _ in self._stream_pieces(what, bytes(self._bytes_of(start, stop))):
                pass
        self._skipping = not what & LAST


def _as_is(piece: bytes, _last: bool) -> bytes:
    return piece
