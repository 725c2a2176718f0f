"""The asyncio driver: one open connection, on any transport of asyncio or uvloop, plain or TLS.

The event loop receives straight into the ring (`get_buffer`, `buffer_updated`), C reads every complete frame there, and
the task that waits is resumed in the same callback (wake.py), or a function is called (callbacks.py). While that
happens, what they write is corked; one call hands all of it to the transport at the end (outlet.py). How a connection
ends: ending.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import Callable
from contextvars import Context
from typing import Any

from zcws.aio.below import left_at_end
from zcws.aio.callbacks import A_FEW, FAILURES, Callbacks, Look
from zcws.aio.settings import Options
from zcws.aio.tasks import finish
from zcws.aio.transport import adopt
from zcws.aio.wake import wakeup_of
from zcws.callables import name_of
from zcws.closing import State
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.http import Request, Response
from zcws.http1 import parse_request, parse_response
from zcws.inlet import Inlet
from zcws.kernel import lib
from zcws.leasing import PARTS
from zcws.reader import Reader
from zcws.ring import Ring
from zcws.rows import ROW, WHOLE_BINARY, WHOLE_TEXT, Rows, copy_words

__all__ = ["Stream", "hand_over", "take_up_backlog"]

_OPEN, _CLOSED, _CLOSE = State.OPEN, State.CLOSED, OpCode.CLOSE
_HEAD = lib.ZCWS_TABLE_HEAD

#: Messages that one task may read without letting others run, when all of them are there already; fewer where they may
#: be compressed, because each may take 150 us (127 bytes that are MAX_STREAMS streams).
_FAIR, _FAIR_INFLATING = 1000, 100

#: CPython 3.10's TLS hands over all that it has decrypted (256 KiB at most), and asyncio's proactor on Windows all that
#: it has received at once (64 KiB), whether or not reading is paused meanwhile.
_IGNORES_PAUSE = sys.version_info < (3, 11) or sys.platform == "win32"

#: CPython 3.10's TLS transport warns that nobody has closed it when it was the peer who did.
_TLS_WANTS_CLOSE = sys.version_info < (3, 11)


class Stream(Callbacks):
    """A connection on its transport: bytes in, and who waits for them. Reading and writing are built on it.

    Attributes:
        request, response: the opening handshake.
    """

    __slots__ = (
        "__weakref__",
        "_budget",
        "_closed",
        "_end_callbacks",
        "_ends_unscanned",
        "_fair",
        "_handed",
        "_held",
        "_lets_others_run",
        "_read_before",
        "_request",
        "_response",
        "_unscanned",
        "_unscanned_slot",
        "_waiters",
        "_wakeup",
        "_wants_frame",
        "_wants_message",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        options: Options,
        *,
        request: Request | bytes | None = None,
        response: Response | bytes | None = None,
        look: Look | None = None,
    ) -> None:
        super().__init__(loop, connection, options, look)
        self._reader.is_shared = True
        self._request = request  # bytes: the head, which nobody has looked at yet
        self._response = response
        self._wakeup = wakeup_of(loop, shown_to=self._name)
        self._wakeup.on_refusal = self._forget_wants
        # Whether a task waits there for a message, or for a frame, with the reader idle; and what it is handed.
        self._wants_message = self._wants_frame = False
        self._handed: Any = None
        # Bytes that are not scanned yet: they arrived although reading was paused, or were left in TLS at its end.
        self._unscanned: Any = bytearray() if _IGNORES_PAUSE else b""
        self._ends_unscanned = False  # whether the socket was gone behind them
        self._unscanned_slot: memoryview | None = None
        # Each with the context in which it was added.
        self._end_callbacks: list[tuple[Callable[[Any], object], Context]] | None = None
        self._held: Any = None  # what was broadcast and waits (late.py)
        self._budget = self._fair = _FAIR_INFLATING if connection.reader.inflates else _FAIR
        self._lets_others_run = False  # the task that reads has had its share, and goes on in a moment
        self._closed: asyncio.Future[None] | None = None
        # One for each task that waits for the closed socket.
        self._waiters: list[asyncio.Future[None]] | None = None
        self._read_before = 0  # rows that had been read when the last of them began; -1: a task was reading

    @property
    def request(self) -> Request:
        """The opening handshake: what the client has sent."""
        if isinstance(self._request, bytes):
            self._request = request = parse_request(self._request, len(self._request))
            request.headers.release()
        return self._request  # type: ignore[return-value]  # None: made by hand

    @property
    def response(self) -> Response:
        """The opening handshake: what the server has answered."""
        if isinstance(self._response, bytes):
            self._response = parse_response(self._response, len(self._response))
        return self._response  # type: ignore[return-value]  # None: made by hand

    # ---- who reads ----

    @property
    def _was_never_read(self) -> bool:
        return self._look is None and self._wakeup.is_unused and self._reader.rows_read == 0

    @property
    def _is_reading(self) -> bool:
        """Whether a task is in the middle of a read."""
        return self._lets_others_run or self._wakeup.is_waiting

    @property
    def _is_given_up(self) -> bool:
        # A task that has read while another waited for the end may still answer what it has read. And a function reads
        # everything, if only a share at a time.
        return (
            self._look is None
            and bool(self._waiters)
            and not self._is_reading
            and self._reader.rows_read == self._read_before
        )

    # ---- asyncio.BufferedProtocol ----

    def feed(self, data: bytes) -> None:
        """Bytes that arrived together with the end of the opening handshake. RFC 6455 4.1."""
        if self._own is not None:
            self._own.unsettle()
        view = memoryview(data)
        while view and not self._reader.is_full:
            view = view[self._reader.receive_bytes(view) :]
        if view:
            raise ConnectionError("more bytes behind the opening handshake than a ring holds")
        self._after_bytes()

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio asks where to receive."""
        room = self._reader.get_buffer()
        if _IGNORES_PAUSE and (self._unscanned or not room):
            room = self._unscanned_slot = memoryview(bytearray(max(sizehint, 1)))
        return room

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio has received: scan, resume the reader, send what it wrote."""
        if _IGNORES_PAUSE and self._unscanned_slot is not None:
            self._unscanned += self._unscanned_slot[:nbytes]
            self._unscanned_slot = None
            return
        self._corked = True
        reader = self._reader
        if not reader.is_idle or reader.pours:
            if reader.received(nbytes):
                self._after_bytes()
            else:
                self._corked = False
            if self._mark is not None:
                self._mark.set(nbytes, lands=reader.landing_in is not None)
            return
        found = reader.scan_landing(nbytes)
        if found == 1 and self._hand(reader, reader.pool.first_row.tolist()):
            # `_uncork`, without its calls: every frame that arrives alone comes by here.
            self._corked = False
            if not reader.is_idle:
                self._take_care()
            elif self.writer.out:
                if self._own is None:
                    self._flush()
                else:
                    self._own.send_output()
        elif found <= A_FEW and self._look is not None and nbytes * PARTS <= reader.pool.capacity:
            words = copy_words(reader.pool.words[: _HEAD + ROW * found])
            self.scanned(reader.pool.lease(), 0, nbytes, found, words)
        elif reader.take_found(nbytes, found):
            self._after_bytes()
        else:
            self._corked = False
            if self._mark is not None:
                self._mark.set(nbytes, lands=False)

    def _hand(self, reader: Reader, row: list[int]) -> bool:
        """Hands a frame in the landing ring to whoever waits for it, as `arrived` does. False: nobody took it."""
        pool = reader.pool
        # Unpacked here, because a call with `*row` takes half as long as all the rest.
        what, start, stop = row
        if self._wants_message:
            self._handed = reader.message_of(pool.landing, what, start, stop)  # type: ignore[arg-type]  # there it is
            if self._handed is not None and self._wakeup.wake_now():
                return True
            self._handed = None
            return False
        if what != WHOLE_TEXT and what != WHOLE_BINARY:
            return False
        if self._look is None:
            if not self._wants_frame:
                return False
            ring = pool.lease()
            if self._lend(ring, what, 0, start, stop):
                return True
            self._handed = None
            pool.take_back(ring)  # which makes it the landing ring again
            return False
        if self._drained is not None or (self.writer.opcode and self.writer.opcode == _CLOSE):
            return False
        # While the program has the frame it may make other connections receive: they must not get this ring.
        ring, pool.landing = pool.landing, None  # type: ignore[assignment]
        try:
            reader.show(self._in_context, self._look, self, ring, what, 0, start, stop)
        except BaseException as error:
            self._callback_failed(error)
        return True

    @property
    def inlet(self) -> Inlet:
        """For the engine: where received bytes go."""
        return self._reader

    def arrived(self, ring: Ring, what: int, begin: int, start: int, stop: int) -> bool:
        """The engine has received one whole data frame for us, and nothing else: see `Scanned`.

        Whoever waits for it is given it here, past the reader, which stays idle.
        """
        self._corked = True
        reader = self._reader
        if self._wants_message:
            self._handed = reader.message_of(ring, what, start, stop)
            is_taken = self._handed is not None and self._wakeup.wake_now()
        elif (
            self._look is not None
            and self._drained is None
            and (not self.writer.opcode or self.writer.opcode != _CLOSE)  # an Enum is slow to compare
        ):
            try:
                reader.show(self._in_context, self._look, self, ring, what, begin, start, stop)
            except BaseException as error:
                self._callback_failed(error)
            is_taken = True
        else:
            is_taken = self._wants_frame and self._lend(ring, what, begin, start, stop)
        if not is_taken:
            self._handed = None
            reader.take_row(ring, what, begin, start, stop)
            return self._after_bytes()
        # `_uncork`, without its calls: every frame that arrives alone comes by here.
        self._corked = False
        if self.writer.out:
            self._own.send_output()  # type: ignore[union-attr]  # whoever called us is in the engine
        return reader.is_idle or self._take_care()

    def scanned(self, ring: Ring, begin: int, stop: int, count: int, words: Rows) -> bool:
        """The engine has received for us, and scanned: see `Inlet.take_scan`. Returns whether we are idle again."""
        self._corked = True
        reader = self._reader
        if (
            count <= A_FEW
            and self._look is not None
            and self._drained is None
            and (not self.writer.opcode or self.writer.opcode != _CLOSE)
        ):
            # Past the reader, as in `arrived`.
            left = iter(words[_HEAD:])
            rows = zip(left, left, left)  # noqa: B905  `strict` costs as much as a row
            shown = self._in_context(
                reader.show_few, self._look, self, self._callback_failed, ring, begin, rows
            )
            if shown == count:
                reader.drop_frame(ring, stop)
                return self._uncork()
            count, words = count - shown, [*words[:_HEAD], *words[_HEAD + ROW * shown :]]
        reader.take_scan(ring, begin, stop, count, words)
        return self._after_bytes()

    def landed(self, count: int, outcome: int) -> None:
        """The engine has received more of a large payload for us, straight into its buffer: see `Inlet.landed`."""
        if self._reader.landed(count, outcome):
            self._after_bytes()

    def _forget_wants(self) -> None:
        """A second task has said what it wants to read, and is refused: the first, which waits, asks the reader."""
        self._wants_message = self._wants_frame = False

    def _lend(self, ring: Ring, what: int, begin: int, start: int, stop: int) -> bool:
        """Hands the frame to the task that waits for one. False: nobody took it."""
        reader = self._reader
        self._handed = frame = reader.frame_of(ring, begin, what, start, stop)
        if frame is None or not self._wakeup.wake_now():
            return False
        # The next read has begun, and that was the end of this frame; or pieces are to be read next.
        if self._wakeup.is_waiting or reader.streaming is not None:
            reader.drop_frame(ring, stop)
        else:
            reader.keep_frame(frame, ring, stop)
        return True

    def _uncork(self) -> bool:
        """What arrived has been handed out: what was written meanwhile goes out. Returns: as `_after_bytes`."""
        self._corked = False
        if not self._reader.is_idle:
            return self._take_care()
        if self.writer.out:
            self._send_out()
        return True

    def _send_out(self) -> None:
        if self._own is not None:
            self._own.send_output()  # with what the others write
        else:
            self._flush()

    def _after_bytes(self) -> bool:
        """Everybody who waits for what has arrived gets it now, and what they write goes out at the end.

        Returns: whether everything has been read, and nothing has ended.
        """
        reader = self._reader
        self._corked = True
        if reader.has_news:
            self._budget = self._fair
            if self._look is not None:
                self._call_back(self._look)  # and no task can wait
            else:
                self._wakeup.wake()
        return self._uncork()

    def _take_care(self) -> bool:
        """Something is kept, or has ended: sees to it. Returns: as `_after_bytes`."""
        if self._look is None and self._reader.forget_controls() and self._next_share is None:
            self._next_share = self._loop.call_soon(self._look_on)
        if self._reader.is_full:
            self._pause_reading()
            if self.connection.wants_close:
                self._advance_closing()  # nothing can be sent, and nobody may be left to make room
        if self._reader.is_ending:
            self._advance_closing()  # which sends as well
        elif self.writer.out:
            self._send_out()
        return self._reader.is_idle

    def _look_on(self) -> None:
        """Nobody reads, and others have run: goes on looking for Pings."""
        self._next_share = None
        try:
            self._reader.look_on()
        finally:
            self._after_bytes()
            self._resume_reading()  # those that have been forgotten had filled the ring, and no read will do it

    def _look_to_end(self) -> None:
        """Nothing more comes: the peer's Close may stand behind Pings that nobody has looked at."""
        if self._look is None and self._next_share is not None:
            self._next_share.cancel()
            self._next_share = None
            self._reader.is_shared = False
            self._reader.look_on()
            self._reader.forget_controls()

    def eof_received(self) -> bool:
        """The peer has closed its side. What it sent before may still be answered."""
        self._look_to_end()
        self._take_left()
        if self._unscanned:
            return False  # the end stands behind bytes that are not scanned yet: see connection_lost
        if self.connection.state is _CLOSED and self._pings is None:
            # The usual end: nothing was left to wait for but this. A task may have answered and read the Close in this
            # very turn, and its answer would go out only at the end of the turn.
            self._flush()
            return False
        # A task that is busy with what it has read may still answer it: the end is for its next read. A server that has
        # ended the stream without a Close is gone (RFC 6455 7.1.1: that is the last thing that a server does): whoever
        # asks `state`, or sends, hears of it at once.
        is_closing = self._closed is not None or self._waiters is not None
        may_answer = self.connection.state is _OPEN and not self.connection.is_client
        is_busy = may_answer and not self._wakeup.is_waiting and not is_closing
        self._reader.receive_eof(later=is_busy)
        if self._pings is not None:
            self._pings.fail(self.connection.error)
        self._after_bytes()
        # asyncio closes the transport unless told to keep it.
        transport = self._transport
        keep = not self._reader.is_concluded or self.connection.awaits_writer
        return keep and transport is not None and transport.can_write_eof()

    def writing_failed(self, exc: OSError) -> None:
        """For the engine: nothing can be sent any more. What the peer has said before is still received."""
        self._note_cause(exc)
        self.connection.lose()
        self._loop.call_soon(self._after_failure)  # whoever writes is in the middle of something

    def _after_failure(self) -> None:
        if self._transport is not None:
            if self._drained is not None:
                self._resolve_drained()
            self._go_on()
            self._advance_closing()

    def _note_cause(self, exc: OSError) -> None:
        # Without its traceback, which holds frames of ours, and by them this connection.
        self.connection.bridge.cause = exc.with_traceback(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        try:
            self._socket_gone(exc)
        except MemoryError:
            # The transport says this once: those that have not been told would wait for ever, and are told in a moment.
            self._loop.call_soon(self.connection_lost, exc)
            raise

    def _socket_gone(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError):
            self._note_cause(exc)
        self._look_to_end()
        self._take_left(is_broken=isinstance(exc, OSError))
        self._ends_unscanned = bool(self._unscanned)
        if self._ends_unscanned:
            self.connection.lose()
        else:
            self.connection.end()
        self._leave_transport()
        self._show_last()
        self._wake_waiters()
        self._break_cycle()
        self._tell_end()

    def _leave_transport(self) -> None:
        """Nothing more comes from it, or goes there; and no timer runs on."""
        if _TLS_WANTS_CLOSE and self._transport is not None:
            self._transport.close()
        if self._own is not None:
            self._keep_addresses()
        if self._mark is not None:
            self._mark.leave()
        self._transport = self._own = self._mark = None
        if self._keepalive is not None or self._deadline is not None:
            self._stop_timers()
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._pings is not None:
            self._pings.fail(self.connection.error)
        if self._drained is not None:
            self._resolve_drained()

    def _wake_waiters(self) -> None:
        """Wakes whoever waits for bytes, or for the end."""
        self._wakeup.wake_soon()
        if self._closed is not None and not self._closed.done():
            finish(self._closed)
        if self._waiters is not None:
            for waiter in self._waiters:
                if not waiter.done():
                    finish(waiter)
            self._waiters = None

    def _break_cycle(self) -> None:
        """What is left can still be read, but these need not be called any more. Without them the connection is in no
        cycle, and its memory does not wait for the garbage collector."""
        self.writer.send_large = None
        self._wakeup.on_refusal = None
        self._reader.on_pong = None
        if not self.connection.is_split:
            self.connection.bridge.on_put = None
        elif not self._reader.is_concluded and self._options.close_timeout is not None:
            # Whoever listens to the bridge hears of the end even if nobody reads what is left.
            self._loop.call_later(self._options.close_timeout, self._reader.conclude)

    def _tell_end(self) -> None:
        """Calls the program's end callbacks."""
        while self._end_callbacks:
            callback, context = self._end_callbacks.pop(0)
            try:
                said = context.run(callback, self)
                if inspect.iscoroutine(said):
                    said.close()
                    raise TypeError(
                        f"an end callback is a plain function: {name_of(callback)} returned a coroutine"
                    )
            except FAILURES as error:  # those behind it are told as well
                self._loop.call_exception_handler(
                    {"message": "an end callback failed", "exception": error, "protocol": self}
                )

    async def _let_others_run(self) -> None:
        self._budget = self._fair
        self._lets_others_run = True
        self._reader.gives_way = False  # nothing may be left when it goes on
        try:
            await asyncio.sleep(0)
        finally:
            self._lets_others_run = False

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        # Not while it is full: to receive into no room looks like the end of the socket.
        if (
            self._reading_paused
            and not self._reader.is_full
            and (not self._unscanned or self._take_unscanned())
        ):
            self._reading_paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    def _take_left(self, *, is_broken: bool = False) -> None:
        """At the end, takes what the transport has received and not handed over."""
        if self._own is not None or self._transport is None or self._is_aborted:
            return
        with contextlib.suppress(MemoryError):  # the end comes early
            if left := left_at_end(self._transport, is_broken=is_broken):
                self._unscanned = bytearray(self._unscanned) + left
                self._reading_paused = True
                self._reading_paused = not self._take_unscanned()

    def _keep_left(self) -> None:
        # Otherwise it can be answered, or has been received: only a full ring leaves something in the socket.
        is_cut_off = self.connection.state is State.LOST and self._reading_paused
        if self._transport is not None and is_cut_off and not self._is_given_up:
            with contextlib.suppress(MemoryError):  # the end comes early
                self._unscanned = bytearray(self._unscanned) + left_at_end(self._transport, is_broken=True)

    def _take_unscanned(self) -> bool:
        """Scans what arrived while reading was paused. False: there was no room for all of it."""
        used = 0
        with memoryview(self._unscanned) as waiting:
            while used < len(waiting) and (count := self._reader.receive_bytes(waiting[used:])):
                used += count
        # Not cut in place: on PyPy the slices above prevent that until the garbage collector has run.
        self._unscanned = self._unscanned[used:]
        if self._ends_unscanned and not self._unscanned:
            self.connection.end()
        self._loop.call_soon(self._after_bytes)
        return not self._unscanned


def hand_over(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, stream: Stream, answer: bytes = b""
) -> None:
    """The opening handshake is over: the connection goes to `stream`, and into the engine where that can take it.

    Args:
        answer: what has to be sent before anything else: a server's 101.
    """
    own = adopt(loop, transport, stream)
    if own is None:
        transport.set_protocol(stream)
        take_up_backlog(transport, stream)
    if answer:
        (own or transport).write(answer)
    stream.connection_made(own or transport)


def take_up_backlog(transport: asyncio.WriteTransport, protocol: asyncio.BaseProtocol) -> None:
    """Tells `protocol` that bytes of another protocol still wait, however few: the transport may have told the other
    that it is full, and does not say so twice. When they have gone, the transport tells `protocol`."""
    if transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)
        protocol.pause_writing()
        transport.set_write_buffer_limits()
