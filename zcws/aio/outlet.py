"""The way out of a connection on asyncio: what was written, what the peer is slow to take, keepalive, and the end.

What is written stays with the writer while somebody up the stack is going to flush (`_corked`); otherwise it is handed
to the transport at the end of the loop's turn, at 64 KiB, or on `flush()`. The transport keeps what it is given (on
CPython 3.12 and later a view, not a copy, of what it could not send), so every segment is handed over for good: the
writer never uses it again.

How a connection ends. The core says when both Close frames have passed or the peer broke a rule
(`Connection.wants_close`); then a server ends its side of the TCP connection first (RFC 6455 7.1.1) and a client waits
for that. Every wait is bounded by `close_timeout`, counted from the Close.

The peer's Close may stand behind messages that have not been read. How long it waits for them:

    the program                                                       the Close takes effect
    ----------------------------------------------------------------  --------------------------------------------
    reads                                                             when it has read them, `close_timeout` at most
    has never read since the connection opened (it pushes)            after `GRACE`, if that is shorter
    waits in `wait_closed`, and nobody reads                          at once

The way in is stream.py, which is built on this.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import weakref
from typing import TYPE_CHECKING

from zcws.aio.keepalive import Deadlines, Keepalive, Pings, Resting
from zcws.aio.transport import EngineTransport
from zcws.closing import State
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.options import checked_seconds, checked_write_limit
from zcws.pool import Pool
from zcws.scratch import masked_size

if TYPE_CHECKING:
    from zcws.kernel import CData
    from zcws.writer import Writer

__all__ = ["CORK", "GRACE", "Options", "Outlet", "end_writing", "pool_of"]

#: Written out at once when this many bytes have gathered: a socket buffer takes about that much.
CORK = 64 * 1024

#: Seconds that the peer's Close waits behind messages of a connection from which nobody has ever read: longer than a
#: handler usually needs to get to its first read, so that what came together with the Close is still answered, and
#: short enough for a program that only sends.
GRACE = 1.0

#: Bytes that may wait in the transport when nobody says how many: asyncio's own, and so that of `EngineTransport`.
_USUAL_LIMIT = 64 * 1024

#: A task that sends and never has to wait lets others run when it has sent so many bytes; a message costs as much as so
#: many more. That is a millisecond or two.
_FAIR_SHARE, _MESSAGE_COSTS = 1024 * 1024, 1024

#: What is in the way of a message then.
_OTHERS = "others have to run"

#: Where asyncio's own `writelines` is no good: before CPython 3.12 it joins the segments, and before 3.12.9 and 3.13.2
#: it never says that the transport is full (CVE-2024-12254), so that a slow peer could fill the memory.
_WRITES_ONE_BY_ONE = sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)


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
    """Settings that all connections of one client or server share. See `connect` and `serve`.

    Raises:
        TypeError, ValueError: one of them means nothing.
    """

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
        self.ping_interval: float | None = checked_seconds("ping_interval", ping_interval, zero=False)
        self.ping_timeout: float | None = checked_seconds("ping_timeout", ping_timeout)
        self.close_timeout: float | None = checked_seconds("close_timeout", close_timeout)
        self.write_limit: int | tuple[int, int | None] = checked_write_limit(write_limit)
        self.write_timeout: float | None = checked_seconds("write_timeout", write_timeout)


class Outlet(asyncio.BufferedProtocol):
    """A connection on its transport, as far as bytes go out.

    Attributes:
        connection: the connection without its socket.
        writer: its writing half.
    """

    __slots__ = (
        "_corked",
        "_deadline",
        "_drained",
        "_flush_handle",
        "_heard_at",
        "_keepalive",
        "_loop",
        "_message_done",
        "_must_give_way",
        "_obstacle",
        "_options",
        "_own",
        "_pings",
        "_reader",
        "_reading_paused",
        "_sender",
        "_sent_at",
        "_spent_at",
        "_transport",
        "_write_deadline",
        "connection",
        "writer",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Connection, options: Options) -> None:
        self.connection: Connection = connection
        self._loop = loop
        self._options = options
        self._reader = connection.reader
        self.writer: Writer = connection.writer
        connection.bridge.on_put = self._on_bridge
        self._transport: asyncio.Transport | None = None
        self._own: EngineTransport | None = None  # the same, where it is one of ours
        self._pings: Pings | None = None
        self._keepalive: Keepalive | None = None
        self._corked = False  # somebody up the stack will flush
        self._flush_handle: asyncio.Handle | None = None
        # Exists while the transport is above its high-water mark.
        self._drained: asyncio.Future[None] | None = None
        self._message_done: asyncio.Future[None] | None = None  # exists while a message goes out in fragments
        self._sender: asyncio.Task[object] | None = None  # the task in the middle of that message
        # One of these two, or that others have to run: no message can begin now.
        self._obstacle: object = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._deadline: Deadlines | None = None  # the closing handshake may not take for ever
        self._reading_paused = False
        # For keepalive: the bytes that had been received when it last asked, and sent when some waited; -1: none did.
        self._heard_at, self._sent_at = 0, -1
        self._spent_at = 0  # for `_count_share`
        self._must_give_way = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ours from now on."""
        self._transport = transport  # type: ignore[assignment]
        self._own = transport if isinstance(transport, EngineTransport) else None
        options = self._options
        limit = options.write_limit
        if limit != _USUAL_LIMIT or self._own is None:
            high, low = limit if isinstance(limit, tuple) else (limit, None)
            self._transport.set_write_buffer_limits(high=high, low=low)  # type: ignore[union-attr]
        if self._own is not None:
            self._own.settle()
            self.writer.send_large = self._send_large
        if options.ping_interval is not None:
            self._keepalive = Keepalive(
                self._loop, self, interval=options.ping_interval, timeout=options.ping_timeout
            )

    # ---- what the way in does: stream.py has these five, and nobody makes an Outlet by itself ----

    def _resume_reading(self) -> None:
        """There is room for more."""
        raise NotImplementedError

    def _after_bytes(self) -> bool:
        """Everybody who waits for what has arrived gets it now."""
        raise NotImplementedError

    def _go_on(self) -> None:
        """The peer takes bytes again: what waited for that is read."""
        raise NotImplementedError

    @property
    def _was_never_read(self) -> bool:
        """Whether nobody has read since the connection opened, or waits to."""
        raise NotImplementedError

    @property
    def _is_given_up(self) -> bool:
        """Whether the program waits for the end, and nobody reads."""
        raise NotImplementedError

    # ---- a peer that is slow ----

    def pause_writing(self) -> None:
        """The transport is above its high-water mark."""
        if self._drained is None:
            self._drained = self._obstacle = self._loop.create_future()
            self.connection.hold_replies = True
            if self._sent_at < 0:
                self._sent_at = self.writer.taken - self._bytes_waiting()
            if self._options.write_timeout is not None:
                self._write_deadline = self._loop.call_later(
                    self._options.write_timeout, self._write_timed_out
                )

    def resume_writing(self) -> None:
        """The transport is below its low-water mark again."""
        self._resolve_drained()
        if self._transport is not None:
            self._on_bridge()
            self._go_on()

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

    # ---- writing ----

    def _written(self) -> None:
        """Something has been written: somebody up the stack sends it, or the end of this turn does."""
        if self.writer.size >= CORK:
            self._flush_and_look()
        elif not self._corked and self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._flush_handle = None
        self._flush()
        if self._reader.is_ending or self.connection.wants_close:
            self._advance_closing()

    def _flush(self) -> None:
        transport, writer = self._transport, self.writer
        if transport is None or not writer.out:
            return
        if not writer.has_large or len(writer.out) == 1:
            transport.write(writer.take_whole())  # type: ignore[arg-type]
            return
        segments = writer.take()
        if len(segments) < 2 or (_WRITES_ONE_BY_ONE and not isinstance(transport, EngineTransport)):
            for segment in segments:
                transport.write(segment)  # type: ignore[arg-type]
        else:
            transport.writelines(segments)  # type: ignore[arg-type]

    def _send_large(self, first: int, payload: CData | bytes, size: int, key: int) -> bool:
        """For the writer: see `Writer.send_large`."""
        own = self._own
        if own is None or own.backlog or own.closing:
            return False
        self.writer.passed(masked_size(size))  # first: what is said of it meanwhile counts it
        own.send_masked(self.writer.scratch, first, payload, size, key)
        self._count_share()
        return True

    def _flush_and_look(self) -> None:
        """The same for a program that goes on at once. A transport that is broken drops what it is given, and is never
        full: who sends in a loop would neither wait nor hear of it, as the event loop, which would say so, never turns.
        """
        self._flush()
        transport = self._transport
        if transport is not None and (
            transport.is_closing() or (self._own is None and _is_cut_off(transport))
        ):
            self._stop_sending()
        self._count_share()

    def _count_share(self) -> None:
        """Something has gone out while a task runs: where the peer is quick, that may never have to wait."""
        spent = self.writer.written + _MESSAGE_COSTS * self.writer.messages
        if spent - self._spent_at >= _FAIR_SHARE:
            self._spent_at = spent
            if self._drained is None:
                self._must_give_way = True
                self._obstacle = self._obstacle or _OTHERS

    async def _give_way(self) -> None:
        self._must_give_way = False
        if self._obstacle is _OTHERS:
            self._obstacle = None
        await asyncio.sleep(0)

    def _stop_sending(self) -> None:
        if self.connection.may_send:
            self.connection.lose()

    async def _until_writable(self) -> None:
        """Waits while the transport is full, or another task is in the middle of a message; or lets others run.

        Raises:
            ValueError: this task is, and would wait for itself.
        """
        if self._must_give_way:
            await self._give_way()
        while self._drained is not None or self._message_done is not None:
            if self._message_done is not None:
                if self._sender is asyncio.current_task():
                    raise ValueError(
                        "this task is in the middle of a message; finish it first (RFC 6455 5.4)"
                    )
                await asyncio.shield(self._message_done)
            else:
                await self._until_drained()

    async def _until_sendable(self) -> None:
        """The same for a message, which may not follow our Close either. Raises: ConnectionClosed."""
        await self._until_writable()
        self.connection.check_writable()

    async def _until_drained(self) -> None:
        if self._must_give_way:
            await self._give_way()
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
            self._stop_sending()

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
        if self._reader.is_ending and not self._reader.is_concluded and self._is_given_up:
            self._reader.conclude()
        if self.writer.out:
            self._flush()
        if connection.wants_close or (self._reader.is_concluded and not connection.awaits_writer):
            self._stop_keepalive()
            self._resume_reading()
            self._start_deadline()
            if self._may_close(transport):
                # Closed twice, asyncio's TLS cannot be aborted any more.
                if self._own is not None or not transport.is_closing():
                    transport.close()
            elif not connection.is_client and not transport.is_closing():
                # RFC 6455 7.1.1: the server closes first; what is on its way is still read.
                end_writing(transport)
        elif self._reader.is_ending:
            # The peer's Close, or its mistake, stands behind messages that nobody reads; or the reply to it waits on
            # the bridge, and the half that should send it does not.
            self._start_deadline()

    def _may_close(self, transport: asyncio.Transport) -> bool:
        """Whether the socket may be closed, though the peer has not done it, or we have not seen it."""
        connection = self.connection
        if connection.state is State.LOST and self._reading_paused and self._is_given_up:
            return True  # nothing can be sent, there is no room for what may have come before, and nobody makes any
        return self._reader.is_at_eof or (not connection.is_client and not transport.can_write_eof())

    def _start_deadline(self) -> None:
        timeout = self._time_to_close()
        if self._deadline is not None and self._deadline.timeout == GRACE != timeout:
            self._stop_deadline()  # the end has taken effect, or somebody has begun to read: it counts no more
        if self._deadline is None and timeout is not None and self._transport is not None:
            self._deadline = _deadlines_of(self._loop, self._reader.pool, timeout)
            self._deadline.add(self)

    def _time_to_close(self) -> float | None:
        """Seconds until something has to happen; None for ever."""
        timeout, reader = self._options.close_timeout, self._reader
        if (timeout is not None and timeout <= GRACE) or reader.is_concluded or not self._was_never_read:
            return timeout
        return GRACE

    def deadline_passed(self) -> None:
        """For `Deadlines`: the closing handshake has taken `close_timeout`, or the peer's Close has waited `GRACE`."""
        deadline, self._deadline = self._deadline, None
        assert deadline is not None  # it has called us
        if self._reader.is_ending and not self._reader.is_concluded:
            if deadline.timeout != GRACE or self._time_to_close() == GRACE:
                self._reader.conclude()
            self._advance_closing()
        elif self.connection.bridge.slot and not self.connection.hold_replies:
            # After a split: the half that should have sent the reply has not.
            self.connection.drain_bridge()
            self._advance_closing()
            if self._deadline is None:
                self.abort()  # it was a Pong behind our Close: nothing else will end this
        else:
            self.abort()

    def _stop_keepalive(self) -> None:
        if self._keepalive is not None:
            self._keepalive.stop()
            self._keepalive = None

    def _stop_timers(self) -> None:
        self._stop_keepalive()
        self._stop_deadline()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.remove(self)
            self._deadline = None

    # ---- keepalive ----

    def heard(self) -> bool:
        """For `Keepalive`."""
        heard, waiting = self._reader.bytes_received, self._bytes_waiting()
        sent = self.writer.taken - waiting
        # More has gone since something waited: the peer has made room. Where nothing waited, that says nothing.
        is_alive = heard != self._heard_at or self._sent_at not in (-1, sent)
        self._heard_at, self._sent_at = heard, sent if waiting else -1
        return is_alive or (self._reading_paused and not waiting)

    def _bytes_waiting(self) -> int:
        """How many the transport has not given to the socket yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send_keepalive(self) -> bool:
        """For `Keepalive`."""
        # A peer that has said Close, or ended the stream, says nothing more: no Pong either.
        if self.connection.state is not State.OPEN or self._reader.is_ending:
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
        if self._reader.is_ending:
            return  # its Close stands behind what nobody has read, and has a deadline of its own
        self.connection.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        self._flush()
        self._after_bytes()
        self._start_deadline()

    def _need_pings(self) -> Pings:
        if self._pings is None:
            self._pings = Pings()
            self._reader.on_pong = self._pings.answered
        return self._pings


def _is_cut_off(transport: asyncio.BaseTransport) -> bool:
    """Whether TLS has nothing below it any more. Neither asyncio's nor uvloop's says so when it is asked."""
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("ssl_object") is None:
        return False
    try:
        own = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
        try:
            own.getpeername()  # what uvloop gives us for a socket would answer from memory
        finally:
            own.detach()
    except (OSError, ValueError):  # ValueError: it is closed already
        return True
    return False


def end_writing(transport: asyncio.WriteTransport) -> None:
    """Closes our side of the socket, and only that."""
    try:
        transport.write_eof()
    except OSError:
        transport.close()  # asyncio shuts the socket down at once, and the peer has reset it already
