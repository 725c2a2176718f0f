"""A client's connection before it is open: the request goes out, the response is read.

What this file decides: how the two get over a transport, and that any failure here ends the connection. It refuses to
know what the response means (connector.py), where it leads (route.py) and how the transport was made (reach.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zcws.aio.stream import hand_over
from zcws.aio.tasks import fail
from zcws.aio.websocket import WebSocket
from zcws.body import BODY_TIMEOUT, BodyReader
from zcws.connector import WebSocketConnector
from zcws.errors import HandshakeError
from zcws.extensions import Agreement
from zcws.http import Response

__all__ = ["ClientHandshake"]

#: Makes the open connection, once it is agreed.
Open = Callable[[asyncio.AbstractEventLoop, WebSocketConnector, Agreement, Response], WebSocket]


class ClientHandshake(asyncio.Protocol):
    """One connection before it is open. `done` gives the WebSocket, or the response that was not a 101."""

    __slots__ = (
        "_body",
        "_connector",
        "_data",
        "_loop",
        "_open_as",
        "_patience",
        "_response",
        "done",
        "transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, connector: WebSocketConnector, open_as: Open) -> None:
        self._loop = loop
        self._connector = connector
        self._open_as = open_as
        self._data = bytearray()
        self._response: Response | None = None
        self._body: BodyReader | None = None
        self._patience: asyncio.TimerHandle | None = None  # with a body that does not end
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[WebSocket | Response] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(self._connector.request())  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        if self._body is not None:
            self._feed_body(data)
            return
        self._data += data
        try:
            response = self._connector.read_response(self._data)
            if response is None or self.done.done():
                return
            del self._data[: self._connector.used]
            if response.status_code == 101:
                self._open(response)
            else:
                self._response = response
                self._body = self._connector.body_reader(response)
                self._patience = self._loop.call_later(BODY_TIMEOUT, self._reject)
                self._feed_body(bytes(self._data))
        except HandshakeError as error:
            self.fail(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response is not None:
            self._reject()
        elif not self.done.done():
            tls = None if self.transport is None else self.transport.get_extra_info("ssl_object")
            alpn = None if tls is None else tls.selected_alpn_protocol()
            fail(self.done, self._connector.cut_short(self._data, exc, alpn))

    def _open(self, response: Response) -> None:
        agreement = self._connector.check(response)
        transport = self.transport
        assert transport is not None
        ws = self._open_as(self._loop, self._connector, agreement, response)
        hand_over(self._loop, transport, ws)
        self.done.set_result(ws)
        if self._data:
            ws.feed(bytes(self._data))

    def _feed_body(self, data: bytes) -> None:
        assert self._body is not None
        self._body.feed(data)
        if self._body.done:
            self._reject()

    def maybe_refusal(self) -> Response | None:
        """The response that is no 101, once its head is here, with as much of its body as has come."""
        if self._response is not None:
            assert self._body is not None
            self._response.body = self._body.body
        return self._response

    def _reject(self) -> None:
        response = self.maybe_refusal()
        assert response is not None and self._patience is not None
        self._patience.cancel()
        if not self.done.done():
            self.done.set_result(response)
        if self.transport is not None:
            if self.transport.get_extra_info("sslcontext") is not None:
                self.transport.abort()  # `close` would wait for the close_notify: half a minute, on 3.10 for ever
            else:
                self.transport.close()

    def fail(self, error: HandshakeError) -> None:
        """The server did not agree, or cannot."""
        if not self.done.done():
            fail(self.done, error)
        if self.transport is not None:
            self.transport.abort()
