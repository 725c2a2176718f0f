"""The network's side of reading: bytes arrive, are scanned, and wait as rows.

It decides what of that is news, and when the end takes effect. It knows no messages and no callers (pieces.py,
reader.py), no sockets and no time.

The life of bytes: `get_buffer` says where the next ones may land, in a ring (leasing.py) or in the buffer of a large
payload; `received` scans them (one crossing, every complete frame); the rows of the table wait (waiting.py). What
stands behind the last row (outcome.py) takes effect when the rows before it have been read, so that what was valid is
still answered. A caller that does not read can bring that forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import length_hint
from typing import TYPE_CHECKING

from zcws.assembly import NO_MEMORY
from zcws.batch import Batch
from zcws.bridge import Bridge, Reply
from zcws.buffer import PayloadBuffer
from zcws.closing import close_payload
from zcws.codes import OpCode
from zcws.frame import Frame, ReceivedFrame
from zcws.kernel import ffi, lib
from zcws.leasing import PARTS, Leasing
from zcws.outcome import CLOSED, FULL, MORE, STOPPED
from zcws.pool import TABLE_ROWS, Pool
from zcws.ring import Ring
from zcws.ring_frame import NOT_SHOWN
from zcws.rows import LAST, ROW, WHOLE_CLOSE, WHOLE_PING, WHOLE_PONG, Rows, copy_words

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["Inlet"]

_HEAD, _NEWS = lib.ZCWS_TABLE_HEAD, lib.ZCWS_NEWS
_NEXT, _STATUS, _REMAINING = lib.ZCWS_TABLE_NEXT, lib.ZCWS_TABLE_STATUS, lib.ZCWS_TABLE_REMAINING
_scan, _scan_landed, _land = lib.zcws_scan, lib.zcws_scan_landed, lib.zcws_land
_lacking = lib.zcws_lacking

#: Words of a table, its head included, from which on rows that are alike are lined up: four rows. For fewer that costs
#: as much as it saves.
_MANY = _HEAD + 4 * ROW


class Inlet(Leasing):
    """What has arrived on one connection and has not been read.

    Attributes:
        answering: how many sends wait for room that began before there was an end. A Close or a fault that arrives
            alone waits for them, as if it had come together with the messages that they answer.
        eager: answer Pings when they arrive, not when their frame is read. A reader whose writer is elsewhere
            (after a split) is not eager: its bridge has one slot.
        discarding: our Close is out: data that arrives is dropped.
        is_idle: nothing that has arrived is kept, in a ring or in a buffer, and more may come. False until a read has
            found nothing.
        is_showing: frames are being shown to a function, and the next may be: we have not closed or failed meanwhile.
            Whoever wants no more of them for now sets it to False.
        landing_in: the buffer that the rest of a large payload is being received straight into.
        on_pong: called with the payload of each Pong when it arrives.
        streaming: what is being streamed: its opcode, or 0 before its first piece; None while nothing is.
    """

    __slots__ = (
        "_controls",
        "_elsewhere",
        "_ends_answered",
        "_frame",
        "_gathers",
        "_landing_opcode",
        "_pieces",
        "_remaining",
        "answering",
        "discarding",
        "eager",
        "is_idle",
        "is_showing",
        "landing_in",
        "on_pong",
        "streaming",
    )

    def __init__(self, pool: Pool, bridge: Bridge, state: CData) -> None:
        super().__init__(pool, bridge, state)
        self.answering: int = 0
        self._ends_answered = False  # an end waits for those sends, and for no reader
        self.eager: bool = True
        self._controls = 0  # at least as many as control frames wait
        self.discarding: bool = False
        self.is_idle: bool = True
        self.is_showing: bool = False
        self.on_pong: Callable[[bytes], None] | None = None
        self.streaming: int | None = None
        # What is left of a row that is read in pieces: it counts as one that waits.
        self._pieces: Iterator[tuple[str | bytes, bool]] | None = None
        self._frame: Frame | Batch | None = None  # handed out last; good until the next read
        self._gathers = False  # frames of a batch that is not handed out yet
        self._elsewhere: Sequence[ReceivedFrame] = ()  # those handed out last that do not lie in the ring
        self._remaining = 0  # bytes to come of a frame that is larger than the ring
        self.landing_in: PayloadBuffer | None = None
        self._landing_opcode = 0

    # ---- bytes arrive ----

    def get_buffer(self) -> memoryview:
        """Memory for the next bytes: fill some of it, then call `received`. Empty when the caller has to read first.

        Valid until the next call of any method here. Nothing is leased yet: an idle connection holds no ring.
        """
        if self.is_idle and not self.pours:
            return (self.pool.landing or self.pool.land()).whole
        ring = self._ring
        if (
            ring is None
            or self._status != MORE
            or ring.exports
            or self.landing_in is not None
            or self._frame is not None
            or self._wants_wide
            or length_hint(self._words)
        ):
            return self._find_room()
        # Nearly always: the beginning of a frame is kept, and nobody holds or awaits anything else of the ring.
        self._next = ring.keep_from(self._next)
        return ring.room()

    def _find_room(self) -> memoryview:
        ring = self._ring
        if self.landing_in is not None:
            landing = self.landing_in
            at_most = self.pool.wide_capacity  # as much as one read brings anywhere
            try:
                return landing.slot(min(self._remaining, at_most), len(landing) + self._remaining)
            except MemoryError:  # none of our callers could handle it: the next read raises it
                self._fail(NO_MEMORY)
        if self._stashed:
            ring = self._unstash()
        if ring is None or self._is_over:
            return self._offer()
        if self._frame is None and not self.rows_waiting:
            ring = self._settle(ring)
            if self._wants_wide:
                ring = self._widen(ring)
        room = ring.room()
        if not room and self.discarding:
            self.give_up()
            room = self._settle(ring).room()
        return room

    def received(self, count: int) -> bool:
        """`count` bytes have landed where the last `get_buffer` said. Returns whether they have brought any news.

        False: they are a part of something that cannot be handed out yet, and there is room for more.
        """
        status = self._status
        if self.landing_in is not None:
            return self.landed(count, _land(self.state, self.landing_in.pointer(), count))
        if status != MORE and status != FULL:
            return True  # RFC 6455 5.5.1, 7.1.7: nothing after a Close, or after the peer's mistake, is looked at
        ring = self._ring
        if ring is None:
            ring = self._ring = self._lease_offered(count) if self.pours else self.pool.lease()
            self._next = 0
            self.is_idle = False
        ring.head += count
        if status == MORE or not self.rows_waiting:
            news = self._scan_ring(ring)
            if count * PARTS > ring.capacity:
                self._see_pouring(ring, count)
            return news
        return True

    def scan_landing(self, count: int) -> int:
        """`count` bytes have landed while we are idle and do not pour, for a caller that may hand them on at once.

        Returns: as zcws_scan; the pool's table has the rest. What the caller does not hand on itself it gives to us
        with `take_found`.
        """
        ring: Ring = self.pool.landing  # type: ignore[assignment]  # `get_buffer` has set it
        return _scan_landed(self.state, ring.base, count)

    def take_found(self, count: int, found: int) -> bool:
        """`count` bytes have landed and been scanned; see `scan_landing`. Returns: as `received`."""
        ring = self._ring = self.pool.lease()
        self.is_idle = False
        ring.head = count
        news = self._take_found(ring, found)
        if count * PARTS > ring.capacity:
            self._see_pouring(ring, count)
        return news

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
        self.is_idle = False
        # RFC 6455 5.5.1: once our Close is out nothing can be answered, so the end has nothing to wait for.
        if self.discarding or not (later or self.rows_waiting or self._pieces or self._status == FULL):
            self.conclude()

    # ---- what a driver asks ----

    @property
    def is_full(self) -> bool:
        """Whether the network has to wait until something has been read."""
        ring = self._ring
        if ring is None or not (
            ring.exports or self._frame is not None or length_hint(self._words) or self._status == FULL
        ):
            return False  # no more is kept than the beginning of a frame, and a whole one fits
        return not self.get_buffer()

    @property
    def is_closed_here(self) -> bool:
        """Whether we ended it, with a Close of our own: what the peer has said before that no longer counts."""
        return self.discarding or self._status == STOPPED

    @property
    def has_news(self) -> bool:
        """Whether a read that waits would get anywhere: there are rows, or there is an end."""
        return length_hint(self._words) > 0 or self._status != MORE or self._eof

    @property
    def lacking(self) -> int:
        """How many more bytes have to come before the frame in progress is of any use. 0: none is in progress, or its
        bytes are of use as they come."""
        lacking: int = 0 if self._is_over else _lacking(self.state, self.landing_in is not None)
        return lacking

    @property
    def rows_read(self) -> int:
        """How many rows have been read so far."""
        return int(self.state.rows) - length_hint(self._words)

    @property
    def bytes_received(self) -> int:
        """How many bytes have arrived so far; not those that came after a Close, or after the peer's mistake."""
        ring, state = self._ring, self.state
        return int(state.bytes + state.kept) + (
            len(self._stashed) if ring is None else ring.head - self._next
        )

    @property
    def frames(self) -> int:
        """How many whole frames have arrived so far, control frames too. The C core counts them as it goes by."""
        return int(self.state.frames)

    @property
    def messages(self) -> int:
        """How many messages have arrived whole."""
        return int(self.state.messages)

    # ---- scanning ----

    def _scan_ring(self, ring: Ring) -> bool:
        """One crossing: every complete frame becomes a row. Returns: as `received`."""
        pool = self.pool
        count = _scan(self.state, ring.base, self._next, ring.head, pool.table, TABLE_ROWS)
        try:
            return self._take_found(ring, count)
        except MemoryError:
            self._fail(NO_MEMORY)
            raise

    def _take_found(self, ring: Ring, count: int) -> bool:
        """Takes what a scan has found from the pool's table. Returns: as `received`."""
        pool = self.pool
        words = copy_words(pool.words[: _HEAD + ROW * (count % _NEWS)])
        if count == _NEWS and words[_STATUS] == MORE and not words[_REMAINING]:
            # The beginning of a frame, and nothing before it.
            self._next, self._status = words[_NEXT], MORE
            if self._frame is not None or ring.exports or length_hint(self._words):
                return True
            self._stash(ring)
            return False
        self._take_rows(ring, count, words)
        return True

    def take_scan(self, ring: Ring, begin: int, stop: int, count: int, words: Rows) -> None:
        """The same for a caller that receives for many connections and scans all that came in one crossing.

        Only while `is_idle`: bytes begin..stop of `ring` are the next ones. They are this reader's until they have been
        read; then it lets go of the ring (`Pool.take_back`), unless `holds` says that it has not.

        Args:
            count, words: what zcws_scan returned, and what it wrote. They are kept.
        """
        if self._status == MORE:
            self.is_idle = False
            self._ring = ring
            ring.tail = begin
            ring.head = stop
            self._take_rows(ring, count, words)
            if self._stashed and self._ring is ring:
                # Whoever was to have these rows has had us served by ourselves: `take_begun`, before this call.
                ring.head += len(self._stashed)
                self._stashed = b""
            if count == _NEWS and self._ring is ring and not ring.exports:
                self._stash(ring)

    def take_row(self, ring: Ring, what: int, begin: int, start: int, stop: int) -> None:
        """`take_scan` for one whole data frame and nothing else."""
        self.take_scan(ring, begin, stop, 1, [stop, MORE, 0, 0, what, start, stop])

    def take_begun(self, data: CData, size: int) -> None:
        """The `size` bytes that zcws_turn has kept are ours from now on: the beginning of a frame."""
        self.is_idle = False
        ring = self._ring
        try:
            if ring is None:
                self._stashed = bytes(ffi.buffer(data, size))
            else:
                # They came with the rows that wait there, and lie behind them, unless the ring has begun anew since:
                # those may have been read, and a view of them held for which it could not be set aside.
                ring.memory[ring.head : ring.head + size] = ffi.buffer(data, size)
                ring.head += size
        except MemoryError:
            self._fail(NO_MEMORY)

    def _take_rows(self, ring: Ring, count: int, words: Rows) -> None:
        if ring.exports:
            ring.next_batch()
            self._lease.shown = NOT_SHOWN
        controls, is_unusual = 0, self.discarding or length_hint(self._words)
        if count >= _NEWS:
            self._next, self._status, controls, self._remaining = words[:_HEAD]
            is_unusual = is_unusual or controls or self._is_over
        else:
            # Nearly always: whole data frames, and nothing behind them.
            self._next, self._status, self._remaining = ring.head, MORE, 0
        if is_unusual:
            self._take_news(ring, controls, list(words[_HEAD:]))
        elif count == 1:
            self._words = self._batch = iter((words[_HEAD:],))
        elif len(words) < _MANY:
            self._set_rows(list(words[_HEAD:]))
        else:
            self._set_many(words[_HEAD:])

    def _take_news(self, ring: Ring, controls: int, words: list[int]) -> None:
        """The rare scans: with an end behind the rows, control frames among them, or older rows that still wait."""
        if (
            self._status == CLOSED
            and len(words) == ROW
            and not (self.discarding or self.rows_waiting or self._pieces or self.answering)
        ):
            # The usual end: the peer's Close, and nothing else.
            self._peer_close = ring.copies[words[1] : words[2]]
            if self._frame is None:
                self._drop_ring()  # many programs never read the Close: it waits as a row, without a ring
            self._set_rows(words)
            self.conclude()
            self._drop_message()
            return
        if controls:
            self._controls += controls
            self._see_controls(words, ring)
        if self.discarding:
            self._discard(ring)
            return
        self._add_rows(words)
        # A Close or a fault with no data before it takes effect now, whether or not anybody reads.
        if self._is_over and not self._pieces and not self._data_waits():
            self._ends_answered = True
            self.answered()

    def answered(self) -> None:
        """The sends that were waiting have been written, or given up: an end that has waited for them takes effect.

        RFC 6455 5.5.1: "An endpoint MAY delay sending a Close frame until its current message is sent".
        """
        if self._ends_answered and not self.answering:
            self.conclude()
            self._drop_message()

    def _see_controls(self, words: list[int], ring: Ring) -> None:
        """Answers Pings, and keeps the peer's Close: they must not wait for a caller that is busy."""
        copies, pings = ring.copies, list[bytes]()
        for what, start, stop in zip(words[::ROW], words[1::ROW], words[2::ROW], strict=True):
            if what == WHOLE_PING:
                pings.append(copies[start:stop])
            elif what == WHOLE_PONG:
                if self.on_pong is not None:
                    self.on_pong(copies[start:stop])
            elif what == WHOLE_CLOSE:
                self._peer_close = copies[start:stop]
        if pings and self.eager:
            latest = pings.pop()
            self._bridge.put(Reply(OpCode.PONG, latest, pings))

    def _discard(self, ring: Ring) -> None:
        """Our Close is out: the rows just scanned are not queued, and the ring goes back when it can."""
        while self._status == FULL:
            count = _scan(self.state, ring.base, self._next, ring.head, self.pool.table, TABLE_ROWS) % _NEWS
            words = self.pool.words[: _HEAD + ROW * count].tolist()
            self._next, self._status, _, self._remaining = words[:_HEAD]
            self._see_controls(words[_HEAD:], ring)
        if self._is_over:
            self.conclude()
        if not self.rows_waiting and self._frame is None:
            self._release()

    def give_up(self) -> None:
        """Drops what is left: after a fault, or because we have closed and the ring or a buffer is needed."""
        self._drop_rows()
        self._forget_frame()
        self._drop_message()

    def _drop_message(self) -> None:
        """The message in progress will never be whole."""
        self.landing_in = None

    def _forget_frame(self) -> None:
        """The next read has begun: makes the frames stale that were handed out last. The reader knows how."""
        raise NotImplementedError

    def _all_read(self) -> None:
        """Every row has been read: at most the beginning of something is kept."""
        self._release()
        is_whole = self._ring is None and not self._stashed
        self.is_idle = is_whole and self.landing_in is None and self.streaming is None

    # ---- a large payload lands in its buffer ----

    def rest_slot(self) -> tuple[CData, int] | None:
        """Where more of the payload goes, while there is `landing_in`, for a caller that lets C receive and check it.

        Returns: the address, and for how many bytes there is room; `landed` has to follow. None: there is no memory,
        which has ended the connection.
        """
        room, landing = self._find_room(), self.landing_in
        return None if landing is None else (landing.pointer(), len(room))

    def landed(self, count: int, outcome: int) -> bool:
        """`count` bytes have been received straight into their buffer, and C has checked them.

        Args:
            outcome: what zcws_land returned, or whether they complete the message. A fault is in `state`.

        Returns: as `received`.
        """
        if self.state.fault:
            self._fail(-self.state.fault)
            return True
        target = self.landing_in
        target.advance(count)  # type: ignore[union-attr]
        self._remaining -= count
        if self._remaining:
            return False
        self.landing_in = None
        if len(target) > self.pool.wide_capacity:  # type: ignore[arg-type]
            self._peeks = self.pours = True  # it was longer than any ring
        if outcome:
            # A row of no bytes, so that the message ends where every message ends: at its last row.
            self._set_rows([self._landing_opcode | LAST, 0, 0])
        return True

    # ---- the end ----

    def _fail(self, fault: int) -> None:
        """A fault that was found after the scan: nothing behind it counts."""
        self.give_up()
        self._status = fault
        # Else the next read concludes: what was gathered before the fault may still be answered.
        if not self._gathers:
            self.conclude()

    def discard(self) -> None:
        """Our Close is out: data is dropped from now on, and only the peer's Close counts. RFC 6455 5.5.1."""
        self.discarding = True
        self.is_showing = False
        if not self.rows_waiting:
            self._drop_message()
        if self._status == FULL and self._ring is not None:
            # A finalizer may close us after another reader's scan and before that reader takes the table: restore it.
            words = self.pool.words
            before = words.tobytes()
            self._scan_ring(self._ring)
            words[:] = memoryview(before).cast("Q")
        self.conclude()

    def stop(self, code: int, reason: str, last: Reply | None = None) -> None:
        """The connection is failed for a reason of ours: rows that wait can be read, nothing after them.

        Args:
            last: the Close that says so, where the writer has not written it.
        """
        if not (self._is_over and self._concluded):
            self._stopped = (code, reason)
            self._status = STOPPED
            self.is_idle = self.is_showing = False
            self._concluded = True
            if not self.rows_waiting:
                self._drop_message()
            self._bridge.end(last)

    def tear(self, code: int, reason: str) -> None:
        """`stop` for a read that was interrupted, so that nobody knows what is whole: nothing more can be read, and the
        Close goes onto the bridge."""
        self._drop_rows()
        if not self._concluded:
            self._peer_close = None  # it may be half taken as well
        self.stop(code, reason, Reply(OpCode.CLOSE, close_payload(code, reason)))
