"""The server's side of WebSockets over HTTP/2: who speaks it, and a handshake for each stream. RFC 8441.

    how a connection begins                        becomes
    ---------------------------------------------  ------------------------------------------------------------
    TLS, ALPN chose h2                             an `Http2Server`; each of its streams has a `ServerHandshake`
    TLS, anything else                             a `ServerHandshake` (accepting.py), as without HTTP/2
    in the clear, HTTP/2's preface                 an `Http2Server` (RFC 9113 3.3: prior knowledge)
    in the clear, anything else                    a `ServerHandshake`

    a stream's request                             gets
    ---------------------------------------------  ------------------------------------------------------------
    CONNECT, :protocol websocket                   what the same request gets over HTTP/1.1
    any other CONNECT                              501: we are no proxy
    GET and so on                                  the same: a page of `process_request`, or a sentence
    a head that HTTP/1.1 cannot say                400
    a head that is malformed (RFC 9113 8.1.1)      RST_STREAM with PROTOCOL_ERROR
    malformed trailers, or any behind a CONNECT    the same, when what came before has been read
    a stream beyond 100 at once                    RST_STREAM with REFUSED_STREAM (RFC 9113 5.1.2)
    malformed heads or trailers, resets before an  the end of the connection: ENHANCE_YOUR_CALM
    answer, or what gets 501, 400 or
    REFUSED_STREAM, in a loop

A connection without streams ends after a while; when the server shuts down, it ends with its last stream. What was
said last has `close_timeout` to go out, and as long again while the client reads: as over HTTP/1.1 (ending.py).
"""

from __future__ import annotations

import asyncio
import contextlib

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, RequestReceived, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

from zcws.aio.accepting import Host, ServerHandshake
from zcws.aio.deadlines import Deadline, Deadlines, deadlines_of
from zcws.aio.http2 import Http2Connection
from zcws.aio.http2_frames import MOST_STREAMS
from zcws.aio.http2_stream import Http2Stream
from zcws.aio.settings import pool_of
from zcws.http2 import PREFACE, Fields, check_request, check_trailers, is_websocket, request_from, response_to
from zcws.tcp_info import MUCH

__all__ = ["Http2Server", "Negotiation"]

#: Seconds without a stream: browsers keep a connection for as long as they may, and open another when they need it.
_IDLE = 60.0

#: Streams that a client may reset before they are answered, or make us reset: so many at once, and so many more each
#: second. A client that does so in a loop makes us work at no cost of its own (CVE-2023-44487, CVE-2025-8671). Streams
#: that have been answered do not count: a proxy resets the stream of everybody who hangs up.
_RESETS, _RESETS_A_SECOND = 100, 10

#: What a request that gets REFUSED_STREAM, 501 or 400 here counts, compared with a reset: a client may open many
#: streams before it knows our limit, or that we are going away.
_A_REFUSAL = 0.1


class Negotiation(asyncio.Protocol):
    """One connection, until it is known which version its client speaks."""

    __slots__ = ("_data", "_server", "_timer", "_transport")

    def __init__(self, server: Host) -> None:
        self._server = server
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._timer: Deadline | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._become(tls.selected_alpn_protocol() == "h2")
            return
        self._server.handshakes.add(self)
        if self._server.open_timeout is not None:
            self._timer = Deadline(self._server.loop, self._server.open_timeout, self.abort)

    def data_received(self, data: bytes) -> None:
        self._data += data
        is_http2 = self._data.startswith(PREFACE)
        if is_http2 or not PREFACE.startswith(self._data):
            self._become(is_http2)

    def _become(self, is_http2: bool) -> None:
        transport, server = self._transport, self._server
        assert transport is not None
        self._leave()
        protocol = Http2Server(server) if is_http2 else ServerHandshake(server)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._data:
            protocol.data_received(self._data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def _leave(self) -> None:
        self._server.left(self)
        if self._timer is not None:
            self._timer.cancel()

    def finish(self) -> None:
        """The server accepts nobody any more: this connection is among the last."""

    def go_away(self) -> None:
        """The server is shutting down, and nobody has asked for anything yet."""
        self.abort()

    def leave(self) -> None:
        """Nobody will ask for anything any more."""
        self.abort()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class Http2Server(Http2Connection):
    """One connection of a client that speaks HTTP/2."""

    def __init__(self, server: Host) -> None:
        super().__init__(server.loop, is_client=False)
        self._server = server
        self._began_at = server.loop.time()
        self._resets = 0.0
        self._is_going = False  # no more streams are taken
        self._idle: asyncio.TimerHandle | None = None
        self._deadline: Deadlines | None = None  # what was said last may not take for ever to go out
        self._waiting = 0  # bytes of it when the deadline began
        self._gone: asyncio.Future[None] = server.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.handshakes.add(self)
        self._wait_for_streams(self._server.open_timeout)
        if self._server.sends_away:
            self.go_away()

    def _has_ended(self, exc: Exception | None) -> None:
        self._server.left(self)
        self._stop_waiting()
        if self._deadline is not None:
            self._deadline.remove(self)
        super()._has_ended(exc)
        self._gone.set_result(None)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            with contextlib.suppress(ProtocolError):  # the client has reset it already: the next event
                self._take(event.stream_id, event.headers)
            if self._server.is_closing:
                self.go_away()
        elif isinstance(event, ConnectionTerminated):
            self._is_going = True
            self._close_if_done()

    def _handle(self, event: Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0))
        if stream is not None and isinstance(event, TrailersReceived):
            self._see_trailers(stream, event.headers)
        super()._handle(event)
        if isinstance(event, StreamReset) and not (stream and stream.has_begun):
            self._count_reset()

    def _count_reset(self, weight: float = 1) -> None:
        self._resets += weight
        if self._resets > _RESETS + _RESETS_A_SECOND * (self.loop.time() - self._began_at):
            self.go_away(ErrorCodes.ENHANCE_YOUR_CALM)
            self.close()

    # ---- streams ----

    def _see_trailers(self, stream: Http2Stream, fields: Fields) -> None:
        """Trailers mean nothing here, but have to be legal. RFC 9113 8.5: behind a CONNECT there are none."""
        try:
            if stream.is_websocket:
                raise ValueError("trailers where there is no body")
            check_trailers(fields)
        except ValueError as error:
            self._cut_off(stream, ConnectionAbortedError(f"the peer broke a rule of HTTP/2: {error}"))
            self._count_reset()
            with contextlib.suppress(ProtocolError):  # the client has reset it: the next event
                self._h2.reset_stream(stream.number, ErrorCodes.PROTOCOL_ERROR)

    def _take(self, number: int, fields: Fields) -> None:
        """A request."""
        if self._is_going or self._h2.open_inbound_streams > MOST_STREAMS:
            self._h2.reset_stream(number, ErrorCodes.REFUSED_STREAM)  # RFC 9113 8.7: nothing was done with it
            self._count_reset(_A_REFUSAL)
            return
        try:
            pseudo = check_request(fields)
        except ValueError:
            self._h2.reset_stream(number, ErrorCodes.PROTOCOL_ERROR)  # RFC 9113 8.1.1
            self._count_reset()
            return
        opens = is_websocket(pseudo)
        if pseudo[":method"] == "CONNECT" and not opens:
            self._refuse(number, 501)
            return
        try:
            head = request_from(fields)
        except ValueError:
            self._refuse(number, 400)
            return
        self._stop_waiting()
        self.open(number, ServerHandshake(self._server), is_websocket=opens).give_head(head)

    def _refuse(self, number: int, status: int) -> None:
        self._count_reset(_A_REFUSAL)
        self._h2.send_headers(number, [(":status", str(status))], end_stream=True)
        if not self._h2.streams[number].closed:
            # RFC 9113 8.1: what the client still sends is of no interest. Until its end the stream would count as open.
            self._h2.reset_stream(number, ErrorCodes.NO_ERROR)

    def _head_of(self, stream: Http2Stream, head: bytes) -> Fields:
        return response_to(head, is_websocket=stream.is_websocket)

    def _stream_ended(self, stream: Http2Stream, exc: Exception | None) -> None:
        stream.lose(exc)
        if not self.streams:
            self._wait_for_streams(0 if self._server.is_closing else _IDLE)
            self._close_if_done()

    # ---- the end ----

    def _wait_for_streams(self, seconds: float | None) -> None:
        if seconds is not None and self.transport is not None and not self.transport.is_closing():
            self._stop_waiting()
            self._idle = self.loop.call_later(seconds, self.go_away)

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def finish(self) -> None:
        """The server accepts nobody any more: new streams are for the next server. A client without a stream so far was
        accepted before, and is still in its opening handshake."""
        if self._h2.highest_inbound_stream_id:
            self.go_away()

    def go_away(self, code: int = ErrorCodes.NO_ERROR) -> None:
        """The server is shutting down, or nobody has needed the connection for a while."""
        if not self._is_going:
            self._is_going = True
            super().go_away(code)
        self._close_if_done()

    def leave(self) -> asyncio.Future[None]:
        """All handlers have returned, and a GOAWAY is out: the connection ends by itself."""
        return self._gone

    def close(self) -> None:
        """Ends the connection, when what was said has been sent, or its client has had time enough to take it."""
        super().close()
        self._stop_waiting()
        timeout = self._server.options.close_timeout
        if self.transport is not None and timeout is not None and self._deadline is None:
            self._deadline = deadlines_of(self.loop, pool_of(self.loop), timeout)
            self._start_deadline()

    def _start_deadline(self) -> None:
        assert self.transport is not None and self._deadline is not None
        self._waiting = self.transport.get_write_buffer_size()
        self._deadline.add(self)

    def deadline_passed(self) -> None:
        """For `Deadlines`: its client has had `close_timeout`."""
        if self.transport is not None and self._waiting - self.transport.get_write_buffer_size() >= MUCH:
            self._start_deadline()  # and is still reading
        else:
            self.abort()

    def _close_if_done(self) -> None:
        if self._is_going and not self.streams:
            self.close()
