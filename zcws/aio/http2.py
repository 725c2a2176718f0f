"""HTTP/2 on asyncio: one connection, which streams share. RFC 9113, RFC 8441.

A WebSocket over HTTP/2 is like every other one, but its transport is a stream (http2_stream.py):

    TCP, TLS --data_received--> Http2Connection --h2: frames--> Http2Stream --head, bytes--> handshake, WebSocket
             <----- write -----                 <-- h2 -------              <--- write ----

Frames, header compression and the windows of flow control are h2's (the extra `http2`; http2_frames.py). What this file
decides: whose turn it is to send, and what the streams hear of the peer and of the connection's end. Who opens streams,
and what a head means, is decided in http2_accepting.py and http2_asking.py.

A stream that nobody reads keeps what has arrived; when that fills its window, the peer may send no more to it. The
connection's own window holds the windows of all streams, so that no stream waits for another one's reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref

from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from zcws.aio.below import break_off, has_unread, left_at_end
from zcws.aio.http2_frames import H2
from zcws.aio.http2_stream import Http2Stream
from zcws.http2 import Fields

__all__ = ["Http2Connection", "name_of"]

#: Bytes of all streams that go to the transport at a time, and the most in one frame: RFC 9113 4.2 lets a peer allow
#: frames of 16 MiB, and a transport says that it is full only after it has taken what it was given.
_AT_ONCE = 64 * 1024

#: Frames that are read in a turn of the loop: each costs h2 some 25 us, and a read may bring 28,000 of them. A long
#: head counts as several (http2_frames.py).
_MOST_FRAMES = 200

#: Bytes that may wait for a peer that does not read: answers to its Pings and the like. RFC 9113 10.5.
_MOST_OWED = 1024 * 1024


class _Whole:
    """What is done to a connection inside of this is completed, or the connection ends: when memory runs out, or a
    signal handler raises, h2 may have done half of it, or a stream may have lost the bytes that it gave, and nothing
    may follow that. h2 does nothing of what it refuses."""

    def __init__(self, connection: Http2Connection) -> None:
        self._connection = weakref.ref(connection)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        connection = self._connection()
        if kind is not None and not issubclass(kind, ProtocolError) and connection is not None:
            connection.abort()


class Http2Connection(asyncio.Protocol):
    """One connection that streams share; the base of the client's and the server's.

    Attributes:
        streams: those that are open, by number.
        transport: what they share; None before and after.
        loop: the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, is_client: bool) -> None:
        self.loop = loop
        self.streams: dict[int, Http2Stream] = {}
        self.transport: asyncio.Transport | None = None
        self._h2 = H2(is_client=is_client)
        self._whole = _Whole(self)
        self._sending: dict[int, Http2Stream] = {}  # streams that have something to say, in turn
        self._given: dict[int, Http2Stream] = {}  # streams for which something has come in this turn
        self._is_full = False  # the transport is, and no stream may send
        self._is_broken = False  # the transport takes nothing more, and is still read
        self._is_gone = False  # the transport is, and what came before that may still be read
        self._is_corked = False  # somebody up the stack flushes
        self._flush_handle: asyncio.Handle | None = None
        self._unread = b""  # whole frames that are for the next turn
        self._next_turn: asyncio.Handle | None = None

    # ---- for subclasses ----

    def _head_of(self, stream: Http2Stream, head: bytes) -> Fields:
        """The head that a stream sends, translated to HTTP/2."""
        raise NotImplementedError

    def _on_event(self, event: Event) -> None:
        """An event that is not about an open stream."""

    def _stream_ended(self, stream: Http2Stream, exc: Exception | None) -> None:
        """A stream is over: its owner has to be told (`Http2Stream.lose`)."""
        raise NotImplementedError

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._next_turn is not None:
            self._unread += data  # CPython 3.10's TLS reads on while it is paused
            return
        self._read(data)
        if self._unread and self.transport is not None:
            self.transport.pause_reading()
            self._next_turn = self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Goes on after others have had their turn."""
        data, self._unread, self._next_turn = self._unread, b"", None
        if self.transport is not None and (self._is_broken or not self.transport.is_closing()):
            self.data_received(data)
            if self._next_turn is None:
                self.transport.resume_reading()

    def _read(self, data: bytes) -> None:
        """Reads some frames; those behind them are `_unread`. What came before a broken rule counts."""
        with self._whole:
            self._is_corked = True
            try:
                events, self._unread, broken = self._h2.hear(data, _MOST_FRAMES)
                for event in events:
                    self._handle(event)
            finally:
                self._give()
                self._is_corked = False
                self.flush()
            if broken is not None:
                self._fail(broken)

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._transport_gone(exc)
        except MemoryError:
            # Nobody else would tell the streams that have not been told yet.
            self.loop.call_soon(self.connection_lost, exc)
            raise

    def writing_failed(self, exc: OSError) -> None:
        """For TLS over the engine: nothing can be sent any more. What the peer has said before is still received."""
        self._is_broken = True
        for stream in list(self.streams.values()):
            stream.writing_failed(exc)
        self._abort_if_useless()

    def _abort_if_useless(self) -> None:
        if self._is_broken and not self.streams:
            self.abort()

    def _transport_gone(self, exc: Exception | None) -> None:
        data, self._unread = self._unread, b""
        if not self._is_gone:
            self._is_gone = True  # later, another socket may have its descriptor
            if self._next_turn is not None:
                self._next_turn.cancel()
            if self.transport is not None:
                data += left_at_end(self.transport, is_broken=isinstance(exc, OSError))
        if data:
            # Nobody can be answered. h2 would keep each of 2,000 requests, and look through all of them for the next.
            self._h2.is_over = True
            self._read(data)
        if self._unread:
            self.loop.call_soon(self.connection_lost, exc)  # goes on after others have had their turn
        else:
            self._has_ended(exc)

    def _has_ended(self, exc: Exception | None) -> None:
        """The transport is gone, and all that came before has been read."""
        self.transport = None
        for stream in list(self.streams.values()):
            self._cut_off(stream, exc)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._flush_soon()  # not now: asyncio's transport, if it is closed in here, reports its end twice

    def _give(self) -> None:
        """Gives each stream's owner all that has come for it, at once."""
        given, self._given = self._given, {}
        for stream in given.values():
            stream.give()

    # ---- events ----

    def _handle(self, event: Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0))
        if stream is None:
            if isinstance(event, DataReceived):  # the stream has ended here, and the peer does not know yet
                self.has_read(event.stream_id, event.flow_controlled_length)
            self._on_event(event)
        elif isinstance(event, DataReceived):
            self.has_read(stream.number, event.flow_controlled_length - len(event.data))  # the padding
            stream.keep(event.data)
            self._given[stream.number] = stream
        elif isinstance(event, StreamEnded):
            stream.has_all = True
            self._given[stream.number] = stream
        elif isinstance(event, StreamReset):
            self._cut_off(stream, _cause(event))
        else:
            self._on_event(event)

    def _fail(self, error: ProtocolError) -> None:
        """The peer broke a rule of HTTP/2. RFC 9113 5.4.1: it is told which, and all streams end."""
        self._h2.close_connection(error.error_code)
        self.close()
        for stream in list(self.streams.values()):
            self._cut_off(stream, ConnectionAbortedError(f"the peer broke a rule of HTTP/2: {error}"))

    def _cut_off(self, stream: Http2Stream, cause: Exception | None) -> None:
        """The peer neither sends nor takes any more of a stream. What came before counts, as on a socket: if the owner
        has not read it yet, the stream stays until it has, and the cause is told behind it; None: as an end is. But not
        while a hook is still thinking about the answer: nobody waits for that any more."""
        if not stream.has_all:
            stream.has_all, stream.cause = True, cause
        stream.stop_sending(cause)
        stream.give()
        if not (stream.has_begun and stream.is_held):
            self._forget(stream, cause)

    def _forget(self, stream: Http2Stream, exc: Exception | None) -> None:
        if self.streams.pop(stream.number, None) is not None:
            try:
                self._sending.pop(stream.number, None)
                self.has_read(stream.number, stream.drop_held())
                self._stream_ended(stream, exc or stream.cause)
                self._abort_if_useless()
            except MemoryError:  # its owner may not have been told: the end of the connection does that
                self.streams[stream.number] = stream
                self.abort()
                raise

    # ---- for the streams ----

    def open(self, number: int, protocol: asyncio.BaseProtocol, *, is_websocket: bool = True) -> Http2Stream:
        """One more stream, which belongs to `protocol`."""
        stream = self.streams[number] = Http2Stream(self, number, protocol, is_websocket=is_websocket)
        protocol.connection_made(stream)
        return stream

    def send_head(self, stream: Http2Stream, head: bytes) -> None:
        """Sends a stream's head."""
        # ProtocolError: the peer has just ended the stream, and that event is handled next.
        with contextlib.suppress(ProtocolError), self._whole:
            self._h2.send_headers(stream.number, self._head_of(stream, head))
            stream.has_begun = True

    def wants_to_send(self, stream: Http2Stream) -> None:
        """A stream has bytes to send, or its end: they go out at the end of this turn at the latest."""
        self._sending[stream.number] = stream
        self._flush_soon()

    def has_read(self, number: int, count: int) -> None:
        """So many bytes of a stream have been read, or never will be: the peer may send as many more."""
        if count:
            with contextlib.suppress(ProtocolError), self._whole:
                self._h2.acknowledge_received_data(count, number)
            self._flush_soon()

    def has_unread(self) -> bool:
        """Whether something has come that no stream has been given: it lies in the socket, or is for the next turn."""
        transport = None if self._is_gone else self.transport
        lies_there = transport is not None and has_unread(transport.get_extra_info("socket"))
        return bool(self._unread) or lies_there

    def end(self, stream: Http2Stream, code: ErrorCodes | None) -> None:
        """A stream is over: both sides have ended, or it is reset. RFC 9113 6.4."""
        if code is not None and stream.number in self.streams:
            with contextlib.suppress(ProtocolError), self._whole:
                self._h2.reset_stream(stream.number, code)
            self._flush_soon()
        self._forget(stream, None)

    def _flush_soon(self) -> None:
        if not self._is_corked and self._flush_handle is None:
            self._flush_handle = self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Sends all that the windows and the transport have room for: each stream in turn, a frame at a time."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        has_sent = True
        with self._whole:
            while has_sent and not self._is_full:
                has_sent = self._send_round()
            self._send()

    def _send_round(self) -> bool:
        """Sends a frame of each stream, until the transport is full. False: none had anything that it may send."""
        has_sent, count = False, 0
        for stream in list(self._sending.values()):
            size = self._send_frame(stream)
            has_sent, count = has_sent or size > 0, count + size
            if count >= _AT_ONCE:
                self._send()
                count = 0
            if self._is_full:
                break
        self._send()
        return has_sent

    def _send_frame(self, stream: Http2Stream) -> int:
        """Sends a stream's next frame, and puts the stream behind the others. Returns the frame's bytes; 0: the stream
        has none, or has to wait."""
        number = stream.number
        if number not in self.streams:
            return 0  # a stream before it in this round has ended it
        data, is_last = b"", False
        with contextlib.suppress(ProtocolError):  # see `send_head`
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size, _AT_ONCE)
            data, is_last = stream.take(max(room, 0))  # RFC 9113 6.9.2: a window may be below zero
            if data or is_last:
                self._h2.send_data(number, data, end_stream=is_last)
        self._sending.pop(number, None)
        if stream.has_more:
            self._sending[number] = stream
        if is_last:
            stream.has_ended()
        return len(data)

    def _send(self) -> None:
        """What h2 has made goes to the transport."""
        data, transport = self._h2.data_to_send(), self.transport
        if data and transport is not None and not transport.is_closing():
            try:
                transport.write(data)
            except BaseException:  # no memory, most likely
                break_off(self.loop, transport)
                raise
            if self._is_full and transport.get_write_buffer_size() > _MOST_OWED:
                transport.abort()

    def go_away(self, code: int = 0) -> None:
        """Takes no more streams; those that are open go on. RFC 9113 6.8."""
        self._h2.close_connection(code)
        self._send()

    def close(self) -> None:
        """Ends the connection, when what was said has been sent."""
        self._send()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()  # closed twice, asyncio's TLS cannot be aborted any more

    def abort(self) -> None:
        """Ends it at once."""
        if self.transport is not None:
            self.transport.abort()


def name_of(code: int | None) -> str:
    """What RFC 9113 7 calls an error."""
    return getattr(code, "name", f"error {code}")


def _cause(event: StreamReset) -> Exception:
    """Says who has reset a stream, and why: the peer, or h2 because the peer broke a rule. RFC 9113 5.4.2."""
    name = name_of(event.error_code)
    if event.remote_reset:
        return ConnectionResetError(f"the peer has reset the HTTP/2 stream: {name}")
    return ConnectionAbortedError(f"the peer broke a rule of HTTP/2: {name}")
