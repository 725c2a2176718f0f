"""The client's side of a WebSocket over HTTP/2: one connection, one stream, one handshake. RFC 8441.

    what the server says                           what comes of it
    ---------------------------------------------  ------------------------------------------------------------
    ALPN chose something else than h2              the opening handshake of HTTP/1.1 (asking.py)
    what is no HTTP/2                              HandshakeError
    SETTINGS that allow an extended CONNECT        the same handshake on a stream, once the server takes any
    SETTINGS that do not                           HandshakeError
    GOAWAY that leaves our stream out              HandshakeError, or the end of the WebSocket

The connection ends with its stream, and the stream's owner hears of that when the connection is gone.
"""

from __future__ import annotations

import asyncio

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, RemoteSettingsChanged, ResponseReceived
from h2.exceptions import FrameTooLargeError, ProtocolError

from zcws.aio.asking import ClientHandshake
from zcws.aio.http2 import Http2Connection, name_of
from zcws.aio.http2_stream import Http2Stream
from zcws.aio.websocket import WebSocket
from zcws.errors import HandshakeError, first_line
from zcws.http import Response
from zcws.http2 import Fields, key_of, request_to, response_from

__all__ = ["Http2Client"]

_NO_WEBSOCKETS = "the server speaks HTTP/2, and no WebSocket over it (RFC 8441): connect without http2=True"
_NO_HTTP2 = "the server does not answer in HTTP/2: connect without http2=True"


class Http2Client(Http2Connection):
    """One connection to a server that may speak HTTP/2, for one WebSocket.

    Attributes:
        done: the handshake's: the WebSocket, or the response that refused it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, handshake: ClientHandshake) -> None:
        super().__init__(loop, is_client=True)
        self._handshake = handshake
        self._stream: Http2Stream | None = None
        self._key = ""
        self._cause: Exception | None = None  # of the stream's end
        self._goodbye: Exception | None = None  # the server's GOAWAY
        self.done: asyncio.Future[WebSocket | Response] = handshake.done

    def maybe_refusal(self) -> Response | None:
        """As the handshake's."""
        return self._handshake.maybe_refusal()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if tls is None or tls.selected_alpn_protocol() == "h2":
            super().connection_made(transport)
        else:
            transport.set_protocol(self._handshake)
            self._handshake.connection_made(transport)

    def _has_ended(self, exc: Exception | None) -> None:
        super()._has_ended(exc)
        if self._stream is None:
            self._handshake.connection_lost(self._goodbye or exc)
        elif self._stream.number not in self.streams:
            self._stream.lose(self._cause or exc)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            if self._stream is None:
                self._ask()
        elif isinstance(event, ResponseReceived):
            self._answered(event)
        elif isinstance(event, ConnectionTerminated):
            said = first_line(event.additional_data or b"")
            why = f"{name_of(event.error_code)}{said and f', {said!r}'}"
            self._goodbye = ConnectionResetError(f"the server goes away: {why}")
            self._go_on_or_end(event.last_stream_id or 0, why)

    def _ask(self) -> None:
        """The server's SETTINGS have come."""
        settings = self._h2.remote_settings
        if not settings.enable_connect_protocol:
            self._handshake.fail(HandshakeError(_NO_WEBSOCKETS))
            self.abort()
        elif settings.max_concurrent_streams:  # RFC 9113 6.5.2: if it is 0 now, other SETTINGS will follow
            self._stream = self.open(self._h2.get_next_available_stream_id(), self._handshake)

    def _answered(self, event: ResponseReceived) -> None:
        stream = self.streams.get(event.stream_id)
        try:
            head = response_from(event.headers, self._key)
        except ValueError as error:
            self._handshake.fail(HandshakeError(f"the response is not legal HTTP: {error}"))
            return
        if stream is not None:
            stream.give_head(head)

    def _fail(self, error: ProtocolError) -> None:
        if self._stream is None:
            # The first letters of an answer in HTTP/1.1 are the length of a frame of 4 MB.
            why = "" if isinstance(error, FrameTooLargeError) else f" ({error})"
            self._handshake.fail(HandshakeError(_NO_HTTP2 + why))
        super()._fail(error)

    def _cut_off(self, stream: Http2Stream, cause: Exception | None) -> None:
        is_gone = self.transport is None  # the connection, of which the GOAWAY says more than the socket
        super()._cut_off(stream, (is_gone and self._goodbye) or cause)

    def _go_on_or_end(self, last: int, why: str) -> None:
        """RFC 9113 6.8: the server takes no more streams, and drops those with a number above `last`."""
        for stream in list(self.streams.values()):
            if stream.number > last:
                cause = f"the server goes away, and has not taken the stream: {why}"
                self._forget(stream, ConnectionResetError(cause))
        if self._stream is None:
            self.close()

    def _head_of(self, stream: Http2Stream, head: bytes) -> Fields:
        self._key = key_of(head)
        return request_to(head, secure=stream.get_extra_info("sslcontext") is not None)

    def _stream_ended(self, stream: Http2Stream, exc: Exception | None) -> None:
        self._cause = exc
        if self.transport is None:
            stream.lose(exc)  # the connection is gone, and what was left has been read
        self.go_away()
        self.close()

    def end(self, stream: Http2Stream, code: ErrorCodes | None) -> None:
        super().end(stream, code)
        if code is ErrorCodes.CANCEL:
            self.abort()  # whoever aborts the stream does not wait for a close_notify of TLS either
