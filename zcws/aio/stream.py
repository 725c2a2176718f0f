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
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zcws.aio.keepalive import Keepalive, Latency, Pings
from zcws.aio.wake import Wakeup
from zcws.buffer import PayloadBuffer
from zcws.closing import State
from zcws.codes import CloseCode, OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosedOK
from zcws.frame import NEED_MORE, Frame, PayloadOrigin
from zcws.http import Request, Response
from zcws.pool import Pool

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

__all__ = ["Options", "WebSocket", "pool_of"]

#: Written out at once when this many bytes have gathered: a socket buffer takes about that much.
_CORK = 64 * 1024

_OPEN, _TEXT, _BINARY = State.OPEN, OpCode.TEXT, OpCode.BINARY

#: Messages that one task may read without letting others run, when all of them are there already.
_FAIR = 1000

#: What an iterable without fragments gives.
_NOTHING: Any = object()

#: From CPython 3.12 on `writelines` sends segments without joining them first.
_JOINS_SEGMENTS = sys.version_info < (3, 12)


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = weakref.WeakKeyDictionary()


def pool_of(loop: asyncio.AbstractEventLoop) -> Pool:
    """What the connections of `loop` share."""
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = Pool()
    return pool


class Options:
    """Settings that all connections of one client or server share. See `connect` and `serve`."""

    __slots__ = ("close_timeout", "ping_interval", "ping_timeout", "write_limit", "write_timeout")

    def __init__(
        self,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        write_limit: int | tuple[int, int | None] = 64 * 1024,
        write_timeout: float | None = None,
    ) -> None:
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        self.close_timeout = close_timeout
        self.write_limit = write_limit
        self.write_timeout = write_timeout


class WebSocket(asyncio.BufferedProtocol):
    """An open WebSocket connection. Made by `connect` and `serve`, not by hand.

    Iterating over it gives messages until the connection ends well; `recv` raises instead. One task may read at a time;
    any number may write. All methods belong to the event loop that the connection was opened on.

    Attributes:
        connection: the connection without its socket.
        request, response: the opening handshake.
    """

    __slots__ = (
        "__weakref__",
        "_budget",
        "_closed",
        "_corked",
        "_deadline",
        "_drained",
        "_flush_handle",
        "_heard",
        "_keepalive",
        "_loop",
        "_message_done",
        "_options",
        "_pings",
        "_reader",
        "_reading_paused",
        "_transport",
        "_wakeup",
        "_write_deadline",
        "_writer",
        "connection",
        "request",
        "response",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        options: Options,
        *,
        request: Request | None = None,
        response: Response | None = None,
    ) -> None:
        self.connection = connection
        self.request = request
        self.response = response
        self._loop = loop
        self._options = options
        self._reader = connection.reader
        self._writer = connection.writer
        self._reader.on_pong = self._on_pong
        connection.bridge.on_put = self._on_bridge
        self._transport: asyncio.Transport | None = None
        self._wakeup = Wakeup(loop)
        self._pings: Pings | None = None
        self._keepalive: Keepalive | None = None
        self._corked = False  # somebody up the stack will flush
        self._flush_handle: asyncio.Handle | None = None
        self._drained: asyncio.Future[None] | None = None  # exists while the transport is above its high-water mark
        self._message_done: asyncio.Future[None] | None = None  # exists while a message goes out in fragments
        self._write_deadline: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self._heard = False
        self._budget = _FAIR
        self._deadline: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None

    # ---- asyncio.BufferedProtocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ours from now on."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        limit = self._options.write_limit
        high, low = limit if isinstance(limit, tuple) else (limit, None)
        self._transport.set_write_buffer_limits(high=high, low=low)  # type: ignore[union-attr]
        options = self._options
        if options.ping_interval is not None:
            self._keepalive = Keepalive(
                self._loop, self, interval=options.ping_interval, timeout=options.ping_timeout
            )

    def feed(self, data: bytes) -> None:
        """Bytes that arrived together with the end of the opening handshake. RFC 6455 4.1."""
        view = memoryview(data)
        while view and not self._reader.is_full:
            view = view[self._reader.receive_bytes(view) :]
        if view:
            raise ConnectionError("more bytes behind the opening handshake than a ring holds")
        self._after_bytes()

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio asks where to receive."""
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio has received: scan, resume the reader, send what it wrote."""
        self._heard = self._corked = True
        self._reader.received(nbytes)
        self._after_bytes()

    def _after_bytes(self) -> None:
        """Everybody who waits for what has arrived gets it now, and what they write goes out at the end."""
        reader = self._reader
        self._corked = True
        if reader.has_news:
            self._budget = _FAIR
            self._wakeup.wake()
        self._corked = False
        if self._writer.size:
            self._flush()
        if reader.needs_care:
            if reader.is_full:
                self._pause_reading()
            if reader.is_ending:
                self._advance_closing()

    def eof_received(self) -> bool:
        """The peer has closed its side. What it sent before may still be answered."""
        # A task that is busy with what it has read may still answer it: the end is for its next read.
        self._reader.receive_eof(later=not self._wakeup.is_waiting and self._closed is None)
        self._after_bytes()
        # asyncio closes the transport unless told to keep it.
        transport = self._transport
        return not self._reader.is_concluded and transport is not None and not _is_tls(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.connection.end()
        self._transport = None
        self._stop_timers()
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._pings is not None:
            self._pings.fail(self.connection.error)
        self._resolve_drained()
        self._wakeup.wake_soon()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """The transport is above its high-water mark."""
        if self._drained is None:
            self._drained = self._loop.create_future()
            self.connection.hold_replies = True
            if self._options.write_timeout is not None:
                self._write_deadline = self._loop.call_later(self._options.write_timeout, self._write_timed_out)

    def resume_writing(self) -> None:
        """The transport is below its low-water mark again."""
        self._resolve_drained()
        if self._transport is not None:
            self._on_bridge()

    def _resolve_drained(self) -> None:
        self.connection.hold_replies = False
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _write_timed_out(self) -> None:
        self._write_deadline = None
        self.connection.fail(CloseCode.INTERNAL_ERROR, "the peer does not read (write_timeout)")
        self.abort()

    # ---- reading ----

    async def recv(self, decode: bool | None = None) -> str | bytes:
        """The next message: str for text, bytes for binary; yours to keep.

        A read that is cancelled or times out loses nothing: the next one goes on where it stopped.

        Args:
            decode: True or False gives str or bytes whatever the message is.

        Raises:
            ConnectionClosedOK: the connection ended with 1000 or 1001, or without a code.
            ConnectionClosedError: it ended in any other way; ProtocolError, when the peer broke a rule.
            RuntimeError: another task is reading.
        """
        message = await self._recv()
        if decode is not None:
            if decode and isinstance(message, bytes):
                return message.decode()
            if not decode and isinstance(message, str):
                return message.encode()
        return message

    async def read_frame(
        self, buffer: PayloadBuffer | None = None, origin: PayloadOrigin = PayloadOrigin.ADAPTIVE
    ) -> Frame:
        """The next message or control frame; Ping and Close have been answered already.

        Args:
            buffer: where messages land that do not stay in the ring; reusable. Without it the connection uses its own.
            origin: where payloads may lie; see `PayloadOrigin`.

        Returns:
            A frame that is good until the next read on this connection. A view taken from it (`frame.payload`)
            stays right for as long as it is held.

        Raises: as `recv`.
        """
        self._budget -= 1
        if self._budget < 0:
            await self._let_others_run()
        frame = self._reader.read_frame(buffer, origin)
        while frame is NEED_MORE:
            if self._reading_paused:
                self._resume_reading()
            await self._wakeup
            frame = self._reader.read_frame(buffer, origin)
        return frame

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self._recv()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    async def _recv(self) -> str | bytes:
        self._budget -= 1
        if self._budget < 0:
            await self._let_others_run()
        message = self._reader.read_message()
        while message is NEED_MORE:
            if self._reading_paused:
                self._resume_reading()
            await self._wakeup
            message = self._reader.read_message()
        return message

    async def _let_others_run(self) -> None:
        self._budget = _FAIR
        await asyncio.sleep(0)

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    # ---- writing ----

    async def send(
        self,
        message: str | Buffer | Iterable[str | Buffer] | AsyncIterable[str | Buffer],
        *,
        text: bool | None = None,
        compress: bool | None = None,
    ) -> None:
        """Sends a message: str as text, bytes-like as binary, an iterable of either as fragments of one message.

        Waits while the peer is slow (the transport is above its high-water mark). Cancelled in that wait, nothing has
        been written. The message is with the transport at the end of the event loop's turn, or after `flush()`.

        Args:
            text: True or False sends text or binary whatever the message is; bytes have to be UTF-8 then.
            compress: True or False decides for this message; by default its size does. RFC 7692.

        Raises:
            ConnectionClosed: the connection is closing or closed; nothing has been written.
            TypeError: this is not a message. ValueError: it is text, and not UTF-8.
        """
        if self._drained is not None or self._message_done is not None:
            await self._until_writable()
        if self.connection.state is not _OPEN:
            self.connection.check_writable()
        if isinstance(message, str):
            self._writer.write_message(_BINARY if text is False else _TEXT, message.encode(), compress)
        elif isinstance(message, (bytes, bytearray, memoryview)) or _has_buffer(message):
            self.connection.send_bytes(message, text=bool(text), compress=compress)  # type: ignore[arg-type]
        else:
            await self._send_fragments(_each(message), text, compress)
            return
        if not self._corked or self._writer.size >= _CORK:
            self._written()

    async def _send_fragments(
        self, fragments: AsyncIterator[str | Buffer], text: bool | None, compress: bool | None
    ) -> None:
        """One message in fragments; other messages wait until it is complete. RFC 6455 5.4."""
        first: Any = await anext(fragments, _NOTHING)
        if first is _NOTHING:
            return  # nothing to send is no message, as in `websockets`
        # While this one waited for its first fragment, another task may have begun a message.
        await self._until_writable()
        self.connection.check_writable()
        is_text = isinstance(first, str) if text is None else text
        self._message_done = done = self._loop.create_future()
        try:
            current: str | Buffer = first
            async for following in fragments:
                await self._send_fragment(current, is_text, compress, last=False)
                current = following
            await self._send_fragment(current, is_text, compress, last=True)
        except BaseException:
            # Half a message cannot be taken back, and nothing else may follow it.
            if self._writer.is_in_message:
                self.connection.fail(CloseCode.INTERNAL_ERROR, "the sender gave up in the middle of a message")
                self._written()
                self._advance_closing()
            raise
        finally:
            self._message_done = None
            if not done.done():
                done.set_result(None)

    async def _send_fragment(self, data: str | Buffer, is_text: bool, compress: bool | None, *, last: bool) -> None:
        if self._drained is not None:
            await self._until_drained()
        self.connection.check_writable()
        self.connection.send_fragment(data, text=is_text, last=last, compress=compress)
        self._written()

    async def write_frame(self, frame: Frame) -> None:
        """Sends a frame as it is; one that was received may be written as it is, and is copied before this returns.

        Raises:
            ConnectionClosed: the connection is closing or closed; nothing has been written.
            StaleFrame: the frame was received, and its connection has been read from since.
            ValueError: the frame must not be sent here (RFC 6455 5.4, 8.1).
        """
        if self._drained is not None or self._message_done is not None:
            await self._until_writable()
        self.connection.write_frame(frame)
        if frame.opcode is OpCode.CLOSE:
            self._close_sent()
        self._written()

    async def ping(self, payload: str | Buffer | None = None) -> Latency:
        """Sends a Ping and waits for its Pong. RFC 6455 5.5.2.

        Args:
            payload: at most 125 bytes; random by default.

        Returns:
            The round-trip time in seconds.

        Raises:
            ConnectionClosed: the connection ended before the Pong came.
            ValueError: over 125 bytes, or a Ping with this payload is waiting already.
        """
        await self._until_drained()
        pings = self._need_pings()
        data = pings.fresh_payload() if payload is None else _control_payload(payload)
        self.connection.check_writable()
        future: asyncio.Future[Latency] = self._loop.create_future()
        pings.sent(data, future)
        try:
            self.connection.ping(data)
            self._written()
            return await future
        finally:
            pings.forget(data)

    async def pong(self, payload: str | Buffer = b"") -> None:
        """Sends a Pong that nobody asked for, a heartbeat. Pings are answered without it. RFC 6455 5.5.3."""
        await self._until_drained()
        self.connection.pong(_control_payload(payload))
        self._written()

    async def flush(self) -> None:
        """Hands over what has been written, and waits until the transport is below its high-water mark."""
        self._flush()
        await self._until_drained()

    def _written(self) -> None:
        """Something has been written: somebody up the stack sends it, or the end of this turn does."""
        if self._writer.size >= _CORK:
            self._flush()
        elif not self._corked and self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._flush_handle = None
        self._flush()
        if self._reader.is_ending or self.connection.wants_close:
            self._advance_closing()

    def _flush(self) -> None:
        segments = self._writer.take()
        transport = self._transport
        if transport is None or not segments:
            return
        if len(segments) == 1:
            transport.write(segments[0])  # type: ignore[arg-type]
        elif _JOINS_SEGMENTS:
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

    async def _until_drained(self) -> None:
        if self._drained is not None:
            await asyncio.shield(self._drained)

    # ---- closing ----

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Closes the connection: our Close, the peer's, then the socket; at most `close_timeout` seconds.

        Does nothing but wait when the connection is closing already. RFC 6455 7.1.2.

        Raises:
            ValueError: the code must not be sent (RFC 6455 7.4), or the reason is over 123 bytes of UTF-8.
        """
        self.begin_close(code, reason)
        await self.wait_closed()

    def begin_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """The first half of `close`, without the wait."""
        if self._writer.is_in_message and self.connection.state is State.OPEN:
            self.connection.fail(CloseCode.INTERNAL_ERROR, "closed in the middle of a message")
        self.connection.close(code, reason)
        self._flush()
        self._close_sent()

    def _close_sent(self) -> None:
        self._resume_reading()
        self._start_deadline()
        self._advance_closing()

    async def wait_closed(self) -> None:
        """Until the socket is closed. Somebody has to read, for the peer's Close stands behind what it sent before."""
        if self._transport is not None:
            if self._closed is None:
                self._closed = self._loop.create_future()
            if self._reader.is_at_eof:
                self._reader.receive_eof()
                self._advance_closing()
            await asyncio.shield(self._closed)

    def abort(self) -> None:
        """Ends the TCP connection at once, without a closing handshake; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    def _on_bridge(self) -> None:
        """The reader owes something to the peer, or has come to its end."""
        self.connection.drain_bridge()
        self._written()

    def _advance_closing(self) -> None:
        """Takes the next step towards a closed socket, if it is time for one."""
        transport, connection = self._transport, self.connection
        if transport is None:
            return
        if self._writer.size:
            self._flush()
        if connection.wants_close or self._reader.is_concluded:
            self._stop_keepalive()
            self._resume_reading()
            self._start_deadline()
            if self._reader.is_at_eof or (not connection.is_client and not transport.can_write_eof()):
                transport.close()
            elif not connection.is_client:
                transport.write_eof()  # RFC 6455 7.1.1: the server closes first; what is on its way is still read
        elif self._reader.is_ending:
            # The peer's Close, or its mistake, stands behind messages that nobody reads.
            self._start_deadline()

    def _start_deadline(self) -> None:
        timeout = self._options.close_timeout
        if self._deadline is None and timeout is not None and self._transport is not None:
            self._deadline = self._loop.call_later(timeout, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline = None
        if self._reader.is_ending and not self._reader.is_concluded:
            self._reader.conclude()
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
            self._deadline.cancel()
            self._deadline = None

    # ---- keepalive ----

    def heard(self) -> bool:
        """For `Keepalive`."""
        heard = self._heard or self._reading_paused
        self._heard = False
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
            self._pings = Pings(self._loop)
        return self._pings

    def _on_pong(self, payload: bytes) -> None:
        if self._pings is not None:
            self._pings.answered(payload)

    # ---- what is known ----

    @property
    def latency(self) -> float:
        """The last measured round-trip time in seconds; 0.0 before the first Pong."""
        return 0.0 if self._pings is None else self._pings.latency

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed. RFC 6455 1.9."""
        return self.connection.agreement.subprotocol

    @property
    def state(self) -> State:
        """How far closing has got."""
        return self.connection.state

    @property
    def close_code(self) -> int | None:
        """Why the connection ended; None while it is open. RFC 6455 7.1.5."""
        return self.connection.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with the code; None while it is open. RFC 6455 7.1.6."""
        return self.connection.close_reason

    @property
    def local_address(self) -> Any:
        """Our end of the socket: `(host, port, ...)`, or a path."""
        return self.get_extra_info("sockname")

    @property
    def remote_address(self) -> Any:
        """The peer's end of the socket: `(host, port, ...)`, or a path."""
        return self.get_extra_info("peername")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the transport knows: "ssl_object", "socket", "peercert" and so on; `default` once it is gone."""
        return default if self._transport is None else self._transport.get_extra_info(name, default)

    def __repr__(self) -> str:
        role = "client" if self.connection.is_client else "server"
        return f"<WebSocket {role}, {self.connection.state.value}>"


def _is_tls(transport: asyncio.BaseTransport) -> bool:
    return transport.get_extra_info("ssl_object") is not None


def _has_buffer(message: object) -> bool:
    try:
        memoryview(message)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _control_payload(payload: str | Buffer) -> bytes:
    return payload.encode() if isinstance(payload, str) else memoryview(payload).tobytes()


async def _each(message: Any) -> AsyncIterator[str | Buffer]:
    """The fragments of a message that was given as an iterable."""
    if isinstance(message, AsyncIterable):
        async for fragment in message:
            yield fragment
    elif isinstance(message, Iterable) and not isinstance(message, Mapping):
        for fragment in message:
            yield fragment
    else:
        raise TypeError(
            f"a message is str, bytes-like, or an iterable or async iterable of those, not {type(message).__name__}"
        )
