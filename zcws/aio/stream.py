"""The asyncio driver: one open connection, on any transport of asyncio or uvloop, plain or TLS.

The event loop receives straight into the ring (`get_buffer`, `buffer_updated`), C reads every complete frame there, and
the task that waits is resumed in the same callback (wake.py). While that callback runs, what the task writes is
corked; one call hands all of it to the transport at the end. Outside of it, the end of the loop's turn does that, or
64 KiB, or `flush()`.

The transport keeps what it is given (on CPython 3.12 and later a view, not a copy, of what it could not send), so
every segment is handed over for good: the writer never uses it again.

How a connection ends here. The core says when both Close frames have passed or the peer broke a rule
(`Connection.wants_close`); then a server ends its side of the TCP connection first (RFC 6455 7.1.1) and a client waits
for that. Every wait is bounded by `close_timeout`, counted from the Close.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Callable
from typing import Any

from zcws.aio.keepalive import Deadlines, Keepalive, Pings, Resting
from zcws.aio.transport import EngineTransport, adopt
from zcws.aio.wake import Wakeup
from zcws.closing import State
from zcws.codes import CloseCode, OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed
from zcws.frame import NEED_MORE, Frame
from zcws.http import Request, Response, parse_request, parse_response
from zcws.inlet import Inlet
from zcws.pool import Pool
from zcws.ring import Ring

__all__ = ["CORK", "Options", "Stream", "hand_over", "pool_of"]

#: Written out at once when this many bytes have gathered: a socket buffer takes about that much.
CORK = 64 * 1024

OnFrame = Callable[[Any, Frame], object]

_OPEN, _CLOSED, _CLOSE = State.OPEN, State.CLOSED, OpCode.CLOSE

#: Messages that one task may read without letting others run, when all of them are there already.
_FAIR = 1000

#: Bytes that may wait in the transport when nobody says how many: asyncio's own, and so that of `EngineTransport`.
_USUAL_LIMIT = 64 * 1024

#: Where asyncio's own `writelines` is no good: before CPython 3.12 it joins the segments, and before 3.12.9 and 3.13.2
#: it never says that the transport is full (CVE-2024-12254), so that a slow peer could fill the memory.
_WRITES_ONE_BY_ONE = sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)

#: CPython 3.10's TLS hands over all that it has decrypted (256 KiB at most), whether or not reading is paused.
_TLS_IGNORES_PAUSE = sys.version_info < (3, 11)

#: CPython 3.10's TLS transport warns that nobody has closed it when it was the peer who did.
_TLS_WANTS_CLOSE = sys.version_info < (3, 11)


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = weakref.WeakKeyDictionary()


def pool_of(loop: asyncio.AbstractEventLoop) -> Pool:
    """What the connections of `loop` share."""
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = Pool()
        pool.watch = Resting(loop).watch
    return pool


def _deadlines_of(loop: asyncio.AbstractEventLoop, pool: Pool, timeout: float) -> Deadlines:
    """Where the connections of `loop` with this `close_timeout` wait for their end."""
    known = pool.deadlines.get(timeout)
    deadlines: Deadlines | None = None if known is None else known()
    if deadlines is None or deadlines.loop() is not loop:
        deadlines = Deadlines(loop, timeout)
        # Weakly: those who wait keep the loop alive, of which the pool is known for as long as it lives.
        pool.deadlines[timeout] = weakref.ref(deadlines)
    return deadlines


class Options:
    """Settings that all connections of one client or server share. See `connect` and `serve`."""

    __slots__ = ("close_timeout", "ping_interval", "ping_timeout", "write_limit", "write_timeout")

    def __init__(
        self,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        write_limit: int | tuple[int, int | None] = _USUAL_LIMIT,
        write_timeout: float | None = None,
    ) -> None:
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        self.close_timeout = close_timeout
        self.write_limit = write_limit
        self.write_timeout = write_timeout


class Stream(asyncio.BufferedProtocol):
    """A connection on its transport: bytes in, bytes out, and the end. Reading and writing are built on it.

    Attributes:
        connection: the connection without its socket.
        request, response: the opening handshake.
    """

    __slots__ = (
        "__weakref__",
        "_budget",
        "_bytes_in",
        "_closed",
        "_corked",
        "_deadline",
        "_drained",
        "_end_callbacks",
        "_flush_handle",
        "_handed",
        "_heard_at",
        "_held",
        "_keepalive",
        "_late",
        "_late_ends",
        "_late_slot",
        "_loop",
        "_message_done",
        "_obstacle",
        "_on_frame",
        "_options",
        "_own",
        "_pings",
        "_reader",
        "_reading_paused",
        "_request",
        "_response",
        "_transport",
        "_waiters",
        "_wakeup",
        "_wants_frame",
        "_wants_message",
        "_write_deadline",
        "connection",
        "writer",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        options: Options,
        *,
        request: Request | bytes | None = None,
        response: Response | bytes | None = None,
        on_frame: OnFrame | None = None,
    ) -> None:
        self.connection = connection
        self._on_frame = on_frame
        self._request = request  # bytes: the head, which nobody has looked at yet
        self._response = response
        self._loop = loop
        self._options = options
        self._reader = connection.reader
        self.writer = connection.writer
        connection.bridge.on_put = self._on_bridge
        self._transport: asyncio.Transport | None = None
        self._own: EngineTransport | None = None  # the same, where it is one of ours
        self._wakeup = Wakeup(loop)
        # What waits there is a read of a message, or of a frame, and the reader is idle; and this is handed to it.
        self._wants_message = self._wants_frame = False
        self._handed: Any = None
        self._pings: Pings | None = None
        self._keepalive: Keepalive | None = None
        self._corked = False  # somebody up the stack will flush
        self._flush_handle: asyncio.Handle | None = None
        self._drained: asyncio.Future[None] | None = (
            None  # exists while the transport is above its high-water mark
        )
        self._message_done: asyncio.Future[None] | None = None  # exists while a message goes out in fragments
        self._obstacle: asyncio.Future[None] | None = None  # one of these two: no message can begin now
        self._write_deadline: asyncio.TimerHandle | None = None
        self._reading_paused = False
        # Arrived although reading was paused.
        self._late: Any = bytearray() if _TLS_IGNORES_PAUSE else b""
        self._late_ends = False  # and then the socket was gone
        self._late_slot: memoryview | None = None
        self._bytes_in = 0
        self._heard_at = 0  # what `_bytes_in` was when keepalive last asked
        self._end_callbacks: list[Callable[[Any], object]] | None = None
        self._held: Any = None  # what was broadcast and waits (broadcast.py)
        self._budget = _FAIR
        self._deadline: Deadlines | None = None  # the closing handshake may not take for ever
        self._closed: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] | None = (
            None  # each of a task that waits for the closed socket
        )

    @property
    def request(self) -> Request | None:
        """The opening handshake: what the client has sent."""
        if isinstance(self._request, bytes):
            self._request = request = parse_request(self._request, len(self._request))
            request.headers.release()
        return self._request

    @property
    def response(self) -> Response | None:
        """And what the server has answered."""
        if isinstance(self._response, bytes):
            self._response = parse_response(self._response, len(self._response))
        return self._response

    # ---- asyncio.BufferedProtocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ours from now on."""
        self._transport = transport  # type: ignore[assignment]
        self._own = transport if isinstance(transport, EngineTransport) else None
        options = self._options
        limit = options.write_limit
        if limit != _USUAL_LIMIT or self._own is None:
            high, low = limit if isinstance(limit, tuple) else (limit, None)
            self._transport.set_write_buffer_limits(high=high, low=low)  # type: ignore[union-attr]
        if options.ping_interval is not None:
            self._keepalive = Keepalive(
                self._loop, self, interval=options.ping_interval, timeout=options.ping_timeout
            )

    def feed(self, data: bytes) -> None:
        """Bytes that arrived together with the end of the opening handshake. RFC 6455 4.1."""
        view = memoryview(data)
        self._bytes_in += len(view)
        while view and not self._reader.is_full:
            view = view[self._reader.receive_bytes(view) :]
        if view:
            raise ConnectionError("more bytes behind the opening handshake than a ring holds")
        self._after_bytes()

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio asks where to receive."""
        room = self._reader.get_buffer()
        if _TLS_IGNORES_PAUSE and (self._late or not room):
            room = self._late_slot = memoryview(bytearray(max(sizehint, 1)))
        return room

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio has received: scan, resume the reader, send what it wrote."""
        self._bytes_in += nbytes
        if _TLS_IGNORES_PAUSE and self._late_slot is not None:
            self._late += self._late_slot[:nbytes]
            self._late_slot = None
            return
        self._corked = True
        reader = self._reader
        news: list[int] | bool = (
            reader.receive_row(nbytes) if self._wants_message and reader.is_idle else reader.received(nbytes)
        )
        if news is False:
            self._corked = False
        elif news is True or not self._hand(*news):
            self._after_bytes()

    def _hand(self, what: int, start: int, stop: int) -> bool:
        """Hands a message that lies in the landing ring to the task that waits for one, as `arrived` does.

        False: the reader has taken it instead.
        """
        reader = self._reader
        self._handed = reader.message_of(reader.landing, what, start, stop)
        if self._wakeup.wake_now():
            self._uncork()
            return True
        self._handed = None
        reader.take_row(reader.pool.lease(), what, 0, start, stop)
        return False

    @property
    def inlet(self) -> Inlet:
        """For the engine: where received bytes go."""
        return self._reader

    def arrived(self, ring: Ring, what: int, begin: int, start: int, stop: int) -> bool:
        """The engine has received one whole data frame for us, and nothing else: see `Scanned`.

        Whoever waits for it is given it here, past the reader, which stays idle.
        """
        self._bytes_in += stop - begin
        self._corked = True
        reader = self._reader
        if self._wants_message:
            self._handed = reader.message_of(ring, what, start, stop)
            is_taken = self._handed is not None and self._wakeup.wake_now()
        elif self._on_frame is not None:
            is_taken = self._show(self._on_frame, ring, what, begin, start, stop)
        else:
            is_taken = self._wants_frame and self._lend(ring, what, begin, start, stop)
        if not is_taken:
            self._handed = None
            reader.take_row(ring, what, begin, start, stop)
            return self._after_bytes()
        # `_uncork`, without its calls: all that arrives singly comes by here.
        self._corked = False
        if self.writer.out:
            self._own.send_output()  # type: ignore[union-attr]  # whoever called us is in the engine
        return reader.is_idle or self._take_care()

    def scanned(self, ring: Ring, begin: int, stop: int, count: int, words: list[int]) -> bool:
        """The engine has received for us, and scanned: see `Inlet.take_scan`. Returns whether we are idle again."""
        self._bytes_in += stop - begin
        self._corked = True
        self._reader.take_scan(ring, begin, stop, count, words)
        return self._after_bytes()

    def _lend(self, ring: Ring, what: int, begin: int, start: int, stop: int) -> bool:
        """Hands the frame to the task that waits for one. False: nobody took it."""
        reader = self._reader
        self._handed = frame = reader.frame_of(ring, begin, what, start, stop)
        if frame is None or not self._wakeup.wake_now():
            return False
        if self._wakeup.is_waiting:  # the next read has begun, and that was the end of this frame
            reader.drop_frame(ring, stop)
        else:
            reader.keep_frame(frame, ring, stop)
        return True

    def _show(self, on_frame: OnFrame, ring: Ring, what: int, begin: int, start: int, stop: int) -> bool:
        """Shows the frame to the program. False: it takes the long way."""
        if self._drained is not None or self.writer.opcode == _CLOSE:
            return False
        frame = self._reader.frame_of(ring, begin, what, start, stop)
        if frame is None:
            return False
        try:
            on_frame(self, frame)
        except Exception as error:
            self._callback_failed(error)
        self._reader.drop_frame(ring, stop)
        return True

    def _uncork(self) -> bool:
        """Everybody has had what arrived: what they wrote goes out. Returns: as `_after_bytes`."""
        self._corked = False
        if self.writer.out:
            if self._own is not None:
                self._own.send_output()  # with what the others write
            else:
                self._flush()
        return self._reader.is_idle or self._take_care()

    def _after_bytes(self) -> bool:
        """Everybody who waits for what has arrived gets it now, and what they write goes out at the end.

        Returns: whether everything has been read, and nothing has ended.
        """
        reader = self._reader
        self._corked = True
        if reader.has_news:
            self._budget = _FAIR
            if self._on_frame is not None:
                self._call_back(self._on_frame)
            self._wakeup.wake()
        return self._uncork()

    def _take_care(self) -> bool:
        """Something is kept, or has ended: sees to it. Returns False."""
        if self._reader.is_full:
            self._pause_reading()
        if self._reader.is_ending:
            self._advance_closing()
        return False

    def _call_back(self, on_frame: OnFrame) -> None:
        """Hands every frame to the program at once: no task, no coroutine.

        While the transport is full nothing is delivered and nothing is read, so that a callback that answers every
        message cannot fill the memory with answers.
        """
        try:
            while self._drained is None and self.writer.sent_close is None:
                frame = self._reader.read_frame()
                if frame is NEED_MORE:
                    self._resume_reading()
                    return
                try:
                    on_frame(self, frame)
                except Exception as error:
                    self._callback_failed(error)
        except ConnectionClosed:
            return
        if self._drained is not None:
            self._pause_reading()

    def _callback_failed(self, error: Exception) -> None:
        if isinstance(error, ConnectionClosed) and self.connection.state is not _OPEN:
            return  # it wrote to this connection, which is over; to another one, and this one has nobody behind it
        context = {
            "message": "on_frame failed",
            "exception": error,
            "protocol": self,
            "transport": self._transport,
        }
        self._loop.call_exception_handler(context)
        self.connection.fail(CloseCode.INTERNAL_ERROR, "the program failed")

    def eof_received(self) -> bool:
        """The peer has closed its side. What it sent before may still be answered."""
        if self._late:
            return False  # its end stands behind what has not been looked at yet: see connection_lost
        if self.connection.state is _CLOSED and self._pings is None:
            return False  # the usual end: nothing was left to wait for but this
        # A task that is busy with what it has read may still answer it: the end is for its next read.
        is_closing = self._closed is not None or self._waiters is not None
        is_busy = not self._wakeup.is_waiting and not is_closing and self.connection.state is _OPEN
        self._reader.receive_eof(later=is_busy)
        if self._pings is not None:
            self._pings.fail(self.connection.error)
        self._after_bytes()
        # asyncio closes the transport unless told to keep it.
        transport = self._transport
        keep = not self._reader.is_concluded or self.connection.awaits_writer
        return keep and transport is not None and not _is_tls(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._late_ends = bool(self._late)
        if self._late_ends:
            self.connection.lose()
        else:
            self.connection.end()
        if _TLS_WANTS_CLOSE and self._transport is not None:
            self._transport.close()
        self._transport = self._own = None
        if self._keepalive is not None or self._deadline is not None:
            self._stop_timers()
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._pings is not None:
            self._pings.fail(self.connection.error)
        if self._drained is not None:
            self._resolve_drained()
        self._wakeup.wake_soon()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        if self._waiters is not None:
            waiters, self._waiters = self._waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        # What is left can still be read, but nobody has to be told: without these two the connection is no cycle,
        # and its memory need not wait for the collector.
        self._reader.on_pong = None
        if not self.connection.is_split:
            self.connection.bridge.on_put = None
        if self._end_callbacks is not None:
            callbacks, self._end_callbacks = self._end_callbacks, None
            for callback in callbacks:
                callback(self)

    def pause_writing(self) -> None:
        """The transport is above its high-water mark."""
        if self._drained is None:
            self._drained = self._obstacle = self._loop.create_future()
            self.connection.hold_replies = True
            if self._options.write_timeout is not None:
                self._write_deadline = self._loop.call_later(
                    self._options.write_timeout, self._write_timed_out
                )

    def resume_writing(self) -> None:
        """The transport is below its low-water mark again."""
        self._resolve_drained()
        if self._transport is not None:
            self._on_bridge()
            if self._on_frame is not None:
                self._corked = True
                self._call_back(
                    self._on_frame
                )  # news or not: the last frame may still be in the way of the next
                self._after_bytes()

    def _resolve_drained(self) -> None:
        self.connection.hold_replies = False
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
        drained, self._drained = self._drained, None
        self._obstacle = self._message_done
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _write_timed_out(self) -> None:
        self._write_deadline = None
        self.connection.fail(CloseCode.INTERNAL_ERROR, "the peer does not read (write_timeout)")
        self.abort()

    async def _let_others_run(self) -> None:
        self._budget = _FAIR
        await asyncio.sleep(0)

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and (not self._late or self._take_late()):
            self._reading_paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    def _take_late(self) -> bool:
        """Scans what arrived while reading was paused. False: there was not room for all of it."""
        used = 0
        with memoryview(self._late) as late:
            while used < len(late) and (count := self._reader.receive_bytes(late[used:])):
                used += count
        del self._late[:used]
        if self._late_ends and not self._late:
            self.connection.end()
        self._loop.call_soon(self._after_bytes)
        return not self._late

    def _written(self) -> None:
        """Something has been written: somebody up the stack sends it, or the end of this turn does."""
        if self.writer.size >= CORK:
            self._flush()
        elif not self._corked and self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._flush_handle = None
        self._flush()
        if self._reader.is_ending or self.connection.wants_close:
            self._advance_closing()

    def _flush(self) -> None:
        transport = self._transport
        if transport is None:
            return
        segments = self.writer.take()
        if len(segments) < 2 or (_WRITES_ONE_BY_ONE and not isinstance(transport, EngineTransport)):
            for segment in segments:
                transport.write(segment)  # type: ignore[arg-type]
        else:
            transport.writelines(segments)  # type: ignore[arg-type]

    async def _until_writable(self) -> None:
        """Waits while the transport is full, or another task is in the middle of a message."""
        while self._drained is not None or self._message_done is not None:
            if self._message_done is not None:
                await asyncio.shield(self._message_done)
            else:
                await self._until_drained()

    async def _until_sendable(self) -> None:
        """The same for a message, which may not follow our Close either. Raises: ConnectionClosed."""
        await self._until_writable()
        self.connection.check_writable()

    async def _until_drained(self) -> None:
        if self._drained is not None:
            await asyncio.shield(self._drained)

    # ---- closing ----

    def _close_sent(self) -> None:
        self._resume_reading()
        self._start_deadline()
        self._advance_closing()

    def abort(self) -> None:
        """Ends the TCP connection at once, without a closing handshake; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    def _on_bridge(self) -> None:
        """The reader owes something to the peer, or has come to its end."""
        # Our Close is out: the peer's needs no answer, and only has to be noted.
        if not self.connection.is_split or self.writer.sent_close is not None:
            self.connection.drain_bridge()
        if not self.connection.is_split and self._reader.is_at_eof and self._reader.is_concluded:
            self.connection.lose()  # the transport will be closed: what is written now would be lost without a word
        self._written()

    def _advance_closing(self) -> None:
        """Takes the next step towards a closed socket, if it is time for one."""
        transport, connection = self._transport, self.connection
        if transport is None:
            return
        if self.writer.out:
            self._flush()
        if connection.wants_close or (self._reader.is_concluded and not connection.awaits_writer):
            self._stop_keepalive()
            self._resume_reading()
            self._start_deadline()
            if self._reader.is_at_eof or (not connection.is_client and not transport.can_write_eof()):
                transport.close()
            elif not connection.is_client:
                end_writing(
                    transport
                )  # RFC 6455 7.1.1: the server closes first; what is on its way is still read
        elif self._reader.is_ending:
            # The peer's Close, or its mistake, stands behind messages that nobody reads; or the reply to it waits on
            # the bridge, and the half that should send it does not.
            self._start_deadline()

    def _start_deadline(self) -> None:
        timeout = self._options.close_timeout
        if self._deadline is None and timeout is not None and self._transport is not None:
            self._deadline = _deadlines_of(self._loop, self._reader.pool, timeout)
            self._deadline.add(self)

    def deadline_passed(self) -> None:
        """For `Deadlines`: the closing handshake has taken `close_timeout`."""
        self._deadline = None
        if self._reader.is_ending and not self._reader.is_concluded:
            self._reader.conclude()
            self._advance_closing()
        elif not self.connection.bridge.is_empty:
            self.connection.drain_bridge()
            self._advance_closing()
        else:
            self.abort()

    def _stop_keepalive(self) -> None:
        if self._keepalive is not None:
            self._keepalive.stop()
            self._keepalive = None

    def _stop_timers(self) -> None:
        self._stop_keepalive()
        if self._deadline is not None:
            self._deadline.remove(self)
            self._deadline = None

    # ---- keepalive ----

    def heard(self) -> bool:
        """For `Keepalive`."""
        heard = self._bytes_in != self._heard_at or self._reading_paused
        self._heard_at = self._bytes_in
        return heard

    def send_keepalive(self) -> bool:
        """For `Keepalive`."""
        if self.connection.state is not State.OPEN:
            return False
        pings = self._need_pings()
        payload = pings.fresh_payload()
        pings.sent_keepalive(payload)
        if self._drained is None:
            self.connection.ping(payload)
            self._written()
        return True

    def keepalive_failed(self) -> None:
        """For `Keepalive`."""
        self.connection.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        self._flush()
        self._after_bytes()
        self._start_deadline()

    def _need_pings(self) -> Pings:
        if self._pings is None:
            self._pings = Pings()
            self._reader.on_pong = self._pings.answered
        return self._pings


def end_writing(transport: asyncio.WriteTransport) -> None:
    """Closes our side of the socket, and only that."""
    try:
        transport.write_eof()
    except OSError:
        transport.close()  # asyncio shuts the socket down at once, and the peer has reset it already


def hand_over(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, stream: Stream, answer: bytes = b""
) -> None:
    """The opening handshake is over: the connection goes to `stream`, in the engine where that can have it.

    Args:
        answer: what has to be sent before anything else: a server's 101.
    """
    own = adopt(loop, transport, stream)
    if own is None:
        transport.set_protocol(stream)
    if answer:
        (own or transport).write(answer)
    stream.connection_made(own or transport)


def _is_tls(transport: asyncio.BaseTransport) -> bool:
    return transport.get_extra_info("ssl_object") is not None
