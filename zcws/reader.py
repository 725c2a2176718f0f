"""The reading half: from bytes that have arrived to frames that can be used.

It decides where a payload lies, when a ring is leased and given back, and in what order frames, the peer's Close
and the peer's mistakes reach the caller. It never writes: what it owes to the peer it puts on the bridge. It knows
neither sockets nor time, and all of its progress lives in this object, so a caller may stop waiting at any moment.

Where a payload lies, and how often it was copied. RING is the leased ring, USER the caller's payload buffer:

      message                     ADAPTIVE                      CONSISTENT
      control, or single plain    view of RING, 0 copies        RING -> USER, 1 copy
      single, larger than RING    lands in USER, 0 copies       the same
      single, compressed          RING -> USER by inflating     the same
      fragments, plain            RING -> USER, each            the same
      fragments, compressed       RING -> inflate as it comes -> USER
      control between fragments   view of RING (never USER)     own small bytes (never the half-built USER)

The life of bytes: `get_buffer` says where the next ones may land, `received` scans them (one crossing, every complete
frame), and rows of the table wait in `_batch` until they are asked for. Three things can stand behind the last
row: nothing yet, the peer's Close, or a fault. They take effect when the rows before them have been read, so that what was
valid is still answered (`conclude` brings that forward, for a caller that does not read).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import length_hint

from zcws.assembly import BAD_BUFFER_SIZE, Assembly, Inflate
from zcws.bridge import Bridge, Reply
from zcws.buffer import PayloadBuffer
from zcws.codes import CloseCode, OpCode
from zcws.errors import (
    FAULTS,
    ConnectionClosed,
    ConnectionClosedError,
    LimitExceeded,
    ProtocolError,
    closed_error,
)
from zcws.frame import (
    NEED_MORE,
    Frame,
    NeedMore,
    PayloadOrigin,
    ReceivedFrame,
    close_payload,
    parse_close_payload,
)
from zcws.kernel import ffi, lib
from zcws.pool import TABLE_ROWS, Pool
from zcws.ring import Ring

__all__ = ["Reader"]

_FIRST, _LAST, _COMPRESSED = lib.ZCWS_FIRST, lib.ZCWS_LAST, lib.ZCWS_COMPRESSED
_HEAD, _ROW, _NEWS = lib.ZCWS_TABLE_HEAD, lib.ZCWS_TABLE_ROW, lib.ZCWS_NEWS
_MORE, _FULL, _CLOSED = lib.ZCWS_MORE, lib.ZCWS_FULL, lib.ZCWS_CLOSED
_STOPPED = -1  # a status of our own: the connection was failed from this side
_scan, _land = lib.zcws_scan, lib.zcws_land

#: A row that is a whole plain frame, and which: its payload can be used where it lies.
_WHOLE = {op | _FIRST | _LAST: op for op in (OpCode.TEXT, OpCode.BINARY, OpCode.PING, OpCode.PONG, OpCode.CLOSE)}
_WHOLE_TEXT, _WHOLE_BINARY = OpCode.TEXT | _FIRST | _LAST, OpCode.BINARY | _FIRST | _LAST
_OPCODES = {int(op): op for op in OpCode}

#: From this many bytes on, the rest of a large payload is received straight into its buffer. For less, one more
#: system call costs more than the copy (benchmarks/results: landing).
_LAND_AT_LEAST = 16 * 1024

#: One read never asks for more than a ring's worth, wherever it lands.
_LAND_AT_MOST = 256 * 1024


class Reader:
    """The reading half of one connection.

    Args:
        pool: lends the rings; one per event loop or thread.
        bridge: where replies are put.
        masked: whether the peer must mask its frames: we are the server, and no-masking was not agreed.
        inflate: decompresses the peer's messages, where permessage-deflate was agreed.
        max_size: bytes of a message, exactly that many allowed.
        max_fragments: frames of a message, exactly that many allowed.

    Attributes:
        eager: answer Pings when they arrive, not when their frame is read. A reader whose writer is elsewhere
            (after a split) is not eager: its bridge has one slot.
        discarding: our Close is out: data that arrives is dropped (behaviour: "ignored until the peer's Close").
        on_pong: called with the payload of each Pong when it arrives.
    """

    __slots__ = (
        "_assembly",
        "_batch",
        "_bridge",
        "_concluded",
        "_eof",
        "_fault",
        "_finished",
        "_frame",
        "_inflate",
        "_landing",
        "_max_fragments",
        "_max_size",
        "_next",
        "_peer_close",
        "_pool",
        "_remaining",
        "_ring",
        "_state",
        "_status",
        "_stopped",
        "_words",
        "discarding",
        "eager",
        "on_pong",
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
        self._pool = pool
        self._bridge = bridge
        self._inflate = inflate
        self._max_size = max_size
        self._max_fragments = max_fragments
        self.eager = True
        self.discarding = False
        self.on_pong: Callable[[bytes], None] | None = None

        self._state = ffi.new("struct zcws_reader *")
        self._state.max_size = max_size
        self._state.max_fragments = max_fragments
        self._state.masked = masked
        self._state.rsv1 = inflate is not None

        self._ring: Ring | None = None
        self._next = 0  # where in the ring the next scan begins
        self._words: Iterator[int] = iter(())  # the rows that have not been read, three words each
        self._batch: Iterator[tuple[int, int, int]] = iter(())  # the same, a row at a time
        self._frame: ReceivedFrame | None = None  # handed out last; good until the next read
        self._assembly: Assembly | None = None  # the message in progress
        self._finished: Assembly | None = None  # the message handed out last, if it lies in a buffer of ours
        self._remaining = 0  # bytes to come of a frame that is larger than the ring
        self._landing = False  # they are being received straight into the message's buffer
        self._status = _MORE  # what stands behind the last row
        self._fault = 0
        self._peer_close: bytes | None = None  # the payload of the peer's Close
        self._stopped: tuple[int, str] | None = None
        self._concluded = False
        self._eof = False

    # ---- the network's side ----

    def get_buffer(self) -> memoryview:
        """Memory for the next bytes: fill some of it, then call `received`. Empty when the caller has to read first.

        Valid until the next call of any method here. Nothing is leased yet: an idle connection holds no ring.
        """
        if self._landing:
            return self._slot()
        ring = self._ring
        if ring is None or self._is_over:
            return self._pool.land().whole
        if self._frame is None and not self.is_pending:
            ring = self._settle(ring)
        room = ring.room()
        if not room and self.discarding:
            self._drop_pending()
            room = self._settle(ring).room()
        return room

    def received(self, count: int) -> None:
        """`count` bytes have landed where the last `get_buffer` said."""
        if self._landing:
            self._landed(count)
            return
        if self._is_over:
            return  # RFC 6455 5.5.1, 7.1.7: nothing after a Close, or after the peer's mistake, is looked at
        ring = self._ring
        if ring is None:
            ring = self._ring = self._pool.lease()
            self._next = 0
            self._state.fit = ring.capacity
        ring.head += count
        if self._status == _MORE or self.discarding or not self.is_pending:
            self._scan_ring(ring)

    def receive_bytes(self, data: memoryview) -> int:
        """Copies as much of `data` as there is room for, and scans it. Returns how many bytes were used."""
        room = self.get_buffer()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        if count:
            self.received(count)
        return count

    def receive_eof(self, *, later: bool = False) -> None:
        """The peer will send no more bytes. `later`: what was read last may still be answered, so the end waits for
        the next read."""
        self._eof = True
        if not later and not self.is_pending:
            self.conclude()

    @property
    def is_pending(self) -> bool:
        """Whether rows wait to be read."""
        return length_hint(self._words) > 0

    @property
    def is_full(self) -> bool:
        """Whether the network has to wait until something has been read."""
        return self._ring is not None and not self._landing and not self.get_buffer()

    @property
    def is_busy(self) -> bool:
        """Whether something in the ring may still be read: then it may be full."""
        return self._frame is not None or self.is_pending

    @property
    def is_at_eof(self) -> bool:
        """Whether the peer has ended the stream."""
        return self._eof

    @property
    def _is_over(self) -> bool:
        """Whether a Close or a fault has been scanned."""
        return self._status not in (_MORE, _FULL)

    # ---- scanning ----

    def _scan_ring(self, ring: Ring) -> None:
        """One crossing: every complete frame becomes a row."""
        pool = self._pool
        count = _scan(self._state, ring.base, self._next, ring.head, pool.table, TABLE_ROWS)
        if count < _NEWS:
            self._next = ring.head
            words = pool.words[_HEAD : _HEAD + _ROW * count].tolist()
            self._status, self._remaining = _MORE, 0
        else:
            count -= _NEWS
            words = pool.words[: _HEAD + _ROW * count].tolist()
            self._next, self._status, controls, self._remaining, _ = words[:_HEAD]
            del words[:_HEAD]
            if controls:
                self._see_controls(words, ring)
        ring.next_batch()
        if self.discarding:
            self._discard(ring)
            return
        if self.is_pending:
            words = [*self._words, *words]
        self._set_rows(words)
        # A Close or a fault with no data before it takes effect now, whether or not anybody reads.
        if self._is_over and not any(_has_data(words)):
            self.conclude()

    def _set_rows(self, words: Sequence[int]) -> None:
        """These rows wait to be read, and no others."""
        self._words = it = iter(words)
        self._batch = zip(it, it, it, strict=True)

    def _see_controls(self, words: list[int], ring: Ring) -> None:
        """Answers Pings, and keeps the peer's Close: they must not wait for a caller that is busy."""
        for i in range(0, len(words), _ROW):
            what, start, stop = words[i : i + _ROW]
            if what & 0x0F < OpCode.CLOSE:
                continue
            payload = bytes(ring.peek(start, stop))
            if what & 0x0F == OpCode.PING and self.eager:
                self._bridge.put(Reply(OpCode.PONG, payload))
            elif what & 0x0F == OpCode.PONG and self.on_pong is not None:
                self.on_pong(payload)
            elif what & 0x0F == OpCode.CLOSE:
                self._peer_close = payload

    def _discard(self, ring: Ring) -> None:
        """Our Close is out: the rows just scanned are not queued, and the ring goes back when it can."""
        while self._status == _FULL:
            count = _scan(self._state, ring.base, self._next, ring.head, self._pool.table, TABLE_ROWS) & (_NEWS - 1)
            words = self._pool.words[: _HEAD + _ROW * count].tolist()
            self._next, self._status, _, self._remaining, _ = words[:_HEAD]
            self._see_controls(words[_HEAD:], ring)
        if self._is_over:
            self.conclude()
        if not self.is_pending and self._frame is None:
            self._release()

    def _drop_pending(self) -> None:
        self._set_rows(())
        self._forget_frame()

    # ---- the ring ----

    def _settle(self, ring: Ring) -> Ring:
        """No row waits and no frame is out, so bytes may move: makes room behind the unfinished frame."""
        ring.tail = self._next
        self._next -= ring.settle()
        if ring.is_crowded:
            fresh = self._pool.lease()
            ring.move_unread(fresh)
            self._next = 0
            self._pool.give_back(ring)
            self._ring = ring = fresh
        return ring

    def _release(self) -> None:
        """Gives the ring back when nothing in it is unread. One whose views are out stays until it is crowded."""
        ring = self._ring
        if ring is not None and self._next == ring.head and not ring.is_exported:
            self._ring = None
            self._pool.give_back(ring)

    # ---- landing ----

    def _slot(self) -> memoryview:
        target = self._assembly.target  # type: ignore[union-attr]
        return target.slot(min(self._remaining, _LAND_AT_MOST), len(target) + self._remaining)

    def _start_landing(self) -> None:
        """The rest of a large plain payload is received straight into its buffer."""
        assembly = self._assembly
        if assembly is None or not assembly.is_plain or self.discarding:
            return
        if not assembly.target.fits(len(assembly.target) + self._remaining):
            self._fail(BAD_BUFFER_SIZE)
        elif self._remaining >= _LAND_AT_LEAST:
            self._landing = True

    def _landed(self, count: int) -> None:
        assembly = self._assembly
        assert assembly is not None
        target = assembly.target
        outcome = _land(self._state, target.pointer(), count)
        if outcome < 0:
            self._landing = False
            self._fail(-outcome)
            return
        target.advance(count)
        self._remaining -= count
        if self._remaining == 0:
            self._landing = False
            if outcome == _LAST:
                # A row of no bytes, so that the message ends where every message ends: in _read_piece.
                self._set_rows((assembly.opcode | _LAST, 0, 0))

    # ---- the caller's side ----

    def read_frame(
        self, buffer: PayloadBuffer | None = None, origin: PayloadOrigin = PayloadOrigin.ADAPTIVE
    ) -> Frame | NeedMore:
        """The next message or control frame, or NEED_MORE. The frame that was read before is stale from now on.

        A message that arrives in pieces stays in the buffer that was passed when its first piece was read.

        Raises:
            ProtocolError: the peer broke a rule, and everything before that has been read.
            ConnectionClosed: there is nothing left to read.
        """
        self._forget_frame()
        while True:
            row = next(self._batch, None)
            if row is None:
                if self._more():
                    continue
                return NEED_MORE
            what, start, stop = row
            opcode = _WHOLE.get(what)
            if opcode is None:
                frame = self._read_piece(what, start, stop, buffer)
                if frame is None:
                    continue
                return frame
            ring: Ring = self._ring  # type: ignore[assignment]
            ring.tail = start
            if opcode is OpCode.CLOSE:
                self.conclude()
            if origin is PayloadOrigin.ADAPTIVE:
                self._frame = whole = ReceivedFrame(opcode, ring, start, stop)
                return whole
            return self._read_consistent(opcode, ring.peek(start, stop), buffer)

    def read_message(self) -> str | bytes | NeedMore:
        """The next message as an object of the caller's own, or NEED_MORE. Control frames are passed over.

        Raises: as `read_frame`.
        """
        self._forget_frame()
        while True:
            row = next(self._batch, None)
            if row is None:
                if self._more():
                    continue
                return NEED_MORE
            what, start, stop = row
            if what == _WHOLE_TEXT:
                return str(self._ring.memory[start:stop], "utf-8")  # type: ignore[union-attr]
            if what == _WHOLE_BINARY:
                return bytes(self._ring.memory[start:stop])  # type: ignore[union-attr]
            if what & 0x0F >= OpCode.CLOSE:
                if what & 0x0F == OpCode.CLOSE:
                    self.conclude()
                continue
            frame = self._read_piece(what, start, stop, None)
            if frame is not None:
                message = frame.text if frame.opcode is OpCode.TEXT else frame.to_bytes()
                self._forget_frame()
                return message

    def _read_piece(self, what: int, start: int, stop: int, buffer: PayloadBuffer | None) -> Frame | None:
        """A fragment, or a piece of a large frame: the whole message when this was the last."""
        assembly = self._assembly
        if what & _FIRST or assembly is None:
            self._assembly = assembly = self._begin(what, buffer)
        payload = self._ring.memory[start:stop] if self._ring is not None else memoryview(b"")
        fault = assembly.add(payload, last=bool(what & _LAST))
        if fault:
            self._fail(fault)
            return None
        if not what & _LAST:
            return None
        self._assembly = None
        self._finished = assembly
        assembly.target.reader = None
        frame = ReceivedFrame(_OPCODES[assembly.opcode], assembly.target, 0, len(assembly.target))
        self._frame = frame
        return frame

    def _begin(self, what: int, buffer: PayloadBuffer | None) -> Assembly:
        is_ours = buffer is None
        target = self._pool.lend_buffer() if buffer is None else buffer
        if target.reader is not None:
            raise ValueError("this PayloadBuffer is in the middle of a message of another connection")
        target.reader = self
        inflate = self._inflate if what & _COMPRESSED else None
        return Assembly(what & 0x0F, target, is_ours=is_ours, inflate=inflate, max_size=self._max_size)

    def _read_consistent(self, opcode: OpCode, payload: memoryview, buffer: PayloadBuffer | None) -> Frame:
        """CONSISTENT: the payload of a whole frame is copied out of the ring."""
        if self._assembly is not None or buffer is None:
            # Inside a fragmented message the buffer is half built; a control frame has bytes of its own.
            target = PayloadBuffer()
        else:
            target = buffer
        target.begin()
        if not target.append(payload):
            self._fail(BAD_BUFFER_SIZE)
            raise self.error()
        self._frame = frame = ReceivedFrame(opcode, target, 0, len(payload))
        return frame

    def _forget_frame(self) -> None:
        """The frame that was handed out last is stale: the next read has begun."""
        frame = self._frame
        if frame is not None:
            frame._source = None
            self._frame = None
            finished = self._finished
            if finished is not None:
                self._finished = None
                if finished.is_ours:
                    self._pool.return_buffer(finished.target)

    def _more(self) -> bool:
        """Every row has been read. True: there are new ones. False: more bytes are needed.

        Raises: what stands behind the last row.
        """
        ring = self._ring
        if self._status == _FULL and ring is not None:
            self._scan_ring(ring)
            return True
        if self._is_over or self._eof:
            self.conclude()
            self._drop_ring()
            raise self.error()
        if self._remaining and not self._landing:
            self._start_landing()
            if self._is_over:
                return True
        self._release()
        return False

    # ---- the end ----

    def _fail(self, fault: int) -> None:
        """A fault that was found behind the scan: nothing after it counts."""
        self._drop_pending()
        self._status = fault
        self.conclude()

    def conclude(self) -> None:
        """Makes what stands behind the last row take effect: the Close that it calls for goes onto the bridge.

        Does nothing while more may come. Rows that have not been read can be read all the same.
        """
        if self._concluded or not (self._is_over or self._eof):
            return
        self._concluded = True
        if self._status == _CLOSED:
            # RFC 6455 5.5.1: "the endpoint typically echos the status code it received".
            self._bridge.put(Reply(OpCode.CLOSE, self._peer_close or b""))
        elif self._is_over:
            self._bridge.put(Reply(OpCode.CLOSE, close_payload(*FAULTS[self._status])))
        self._bridge.end()

    def discard(self) -> None:
        """Our Close is out: data is dropped from now on, and only the peer's Close counts. RFC 6455 5.5.1."""
        self.discarding = True
        if self._status == _FULL and self._ring is not None:
            self._scan_ring(self._ring)
        self.conclude()

    def stop(self, code: int, reason: str) -> None:
        """The connection is failed for a reason of ours: rows that wait can be read, nothing after them."""
        if not self._is_over:
            self._stopped = (code, reason)
            self._status = _STOPPED
            self._concluded = True
            self._bridge.end()

    def _drop_ring(self) -> None:
        ring, self._ring = self._ring, None
        if ring is not None:
            self._pool.give_back(ring)

    @property
    def is_concluded(self) -> bool:
        """Whether the end has taken effect."""
        return self._concluded

    @property
    def is_ending(self) -> bool:
        """Whether a Close, a fault or the end of the stream has arrived, perhaps behind rows that wait."""
        return self._is_over or self._eof

    @property
    def is_faulty(self) -> bool:
        """Whether the peer broke a rule."""
        return self._status not in (_MORE, _FULL, _CLOSED, _STOPPED)

    @property
    def peer_close(self) -> tuple[int, str] | None:
        """The code and the reason of the peer's Close; 1005 where it had no code. RFC 6455 7.1.5."""
        if self._peer_close is None:
            return None
        code, reason = parse_close_payload(memoryview(self._peer_close))
        return (CloseCode.NO_STATUS_RCVD if code is None else code), reason

    def error(self) -> ConnectionClosed:
        """A new exception that says how this half ended."""
        if self._stopped is not None:
            return ConnectionClosedError(*self._stopped)
        if self.is_faulty:
            code, reason = FAULTS[self._status]
            if code == CloseCode.MESSAGE_TOO_BIG:
                return LimitExceeded(code, reason, limits=self._limits())
            return ProtocolError(code, reason)
        close = self.peer_close
        if close is None:
            return closed_error(CloseCode.ABNORMAL_CLOSURE, "", clean=False)
        return closed_error(*close, clean=True)

    def _limits(self) -> str:
        return f"max_size={self._max_size} bytes, max_fragments={self._max_fragments}"


def _has_data(words: list[int]) -> Iterator[bool]:
    """For each row, whether it is data."""
    return (what & 0x0F < OpCode.CLOSE for what in words[::_ROW])
