"""`connect`: from a URI to an open connection.

The transport begins with a `ClientHandshake`, which sends the request and reads the response (connector.py decides
what they mean). With a 101 the transport gets another protocol, the `WebSocket` of stream.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl as ssl_module
import sys
from collections.abc import Callable, Generator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal

from zcws.aio.stream import Options, hand_over, pool_of
from zcws.aio.websocket import WebSocket
from zcws.body import BodyReader
from zcws.connection import MAX_FRAGMENTS, MAX_SIZE, Connection
from zcws.connector import WebSocketConnector
from zcws.deflate import Deflate
from zcws.errors import HandshakeError
from zcws.frame import Frame
from zcws.handshake import SOFTWARE, NoMasking
from zcws.headers import HeadersLike
from zcws.http import Response
from zcws.writer import MaskingKeys

__all__ = ["ClientHandshake", "connect", "unix_connect"]

logger = logging.getLogger("zcws.client")

#: Every client of this process draws its masking keys here.
_keys = MaskingKeys(os.urandom)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.forget)


class ClientHandshake(asyncio.Protocol):
    """One connection before it is open. `done` gives the WebSocket, or the response that was not a 101."""

    __slots__ = ("_body", "_connector", "_data", "_loop", "_make", "_response", "done", "transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, connector: WebSocketConnector, make: connect) -> None:
        self._loop = loop
        self._connector = connector
        self._make = make
        self._data = bytearray()
        self._response: Response | None = None
        self._body: BodyReader | None = None
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
                self._feed_body(bytes(self._data))
        except HandshakeError as error:
            self._fail(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response is not None:
            self._reject(self._response)
        elif not self.done.done():
            reason = "the server closed the connection before it answered the opening handshake"
            error = HandshakeError(reason)
            error.__cause__ = exc
            self.done.set_exception(error)

    def _open(self, response: Response) -> None:
        agreement = self._connector.check(response)
        transport = self.transport
        assert transport is not None
        ws = self._make.open(self._loop, self._connector, agreement, response)
        hand_over(self._loop, transport, ws)
        self.done.set_result(ws)
        if self._data:
            ws.feed(bytes(self._data))

    def _feed_body(self, data: bytes) -> None:
        assert self._body is not None and self._response is not None
        self._body.feed(data)
        if self._body.done:
            self._reject(self._response)

    def _reject(self, response: Response) -> None:
        assert self._body is not None
        response.body = self._body.body
        if not self.done.done():
            self.done.set_result(response)
        if self.transport is not None:
            self.transport.close()

    def _fail(self, error: HandshakeError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
        if self.transport is not None:
            self.transport.abort()


class connect:
    """Opens a WebSocket connection. Await it, or use it as a context manager that closes the connection.

    Args:
        uri: `ws://` or `wss://`; user and password in it become basic credentials.
        ssl: a context for wss; by default one that checks the server's certificate and name.
        server_hostname: the name to check, where it is not the URI's.
        origin: what `Origin` says; browsers send it, others need not.
        subprotocols: those spoken here, best first.
        compression: `Deflate(...)`, "deflate" for its defaults, or None.
        no_masking: True offers unmasked frames over TLS; "insecure" in the clear too.
        additional_headers, user_agent_header: more headers of the request, and what `User-Agent` says.
        open_timeout: seconds to connect and for the opening handshake, TLS included.
        on_frame: called with the connection and each frame straight from the scan; see `serve`.
        max_redirects: redirects to follow; never from wss to ws, and credentials stay with their host.
        host, port, sock, path: another place to connect to than the URI's, an existing socket, or a Unix socket's path.
        others: passed on to `loop.create_connection`: `local_addr`, `happy_eyeballs_delay` and so on.
        close_timeout, ping_interval, ping_timeout, max_size, max_fragments, write_limit, write_timeout: see `serve`.

    Raises:
        HandshakeError: the server did not agree. OSError: there is no server, or no trust in it.
        TimeoutError: it took longer than `open_timeout`. ValueError: the URI is not one.
    """

    def __init__(
        self,
        uri: str,
        *,
        ssl: ssl_module.SSLContext | None = None,
        server_hostname: str | None = None,
        origin: str | None = None,
        subprotocols: Sequence[str] | None = None,
        compression: Deflate | Literal["deflate"] | None = None,
        no_masking: NoMasking = False,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = SOFTWARE,
        open_timeout: float | None = 10,
        close_timeout: float | None = 10,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        max_size: int | None = MAX_SIZE,
        max_fragments: int = MAX_FRAGMENTS,
        write_limit: int | tuple[int, int | None] = 64 * 1024,
        write_timeout: float | None = None,
        on_frame: Callable[[WebSocket, Frame], object] | None = None,
        max_redirects: int = 0,
        path: str | None = None,
        **others: Any,
    ) -> None:
        # Made anew for each attempt: a connector draws its key when it is made. RFC 6455 4.1.
        self._make_connector = partial(
            WebSocketConnector,
            uri,
            entropy=os.urandom,
            origin=origin,
            subprotocols=subprotocols,
            compression=compression,
            no_masking=no_masking,
            additional_headers=additional_headers,
            user_agent_header=user_agent_header,
        )
        self._make_connector()  # what is wrong with the arguments is said here, not when it is awaited
        self._uri = uri
        self._on_frame = on_frame
        self._ssl = ssl
        self._server_hostname = server_hostname
        self._deflate = Deflate.of(compression)
        self._open_timeout = open_timeout
        self._max_size = sys.maxsize if max_size is None else max_size
        self._max_fragments = max_fragments
        self._max_redirects = max_redirects
        self._path = path
        self._others = others
        self._options = Options(
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            write_limit=write_limit,
            write_timeout=write_timeout,
        )
        self._ws: WebSocket | None = None

    def open(
        self,
        loop: asyncio.AbstractEventLoop,
        connector: WebSocketConnector,
        agreement: Any,
        response: Response,
    ) -> WebSocket:
        """A handshake has succeeded."""
        connection = Connection(
            is_client=True,
            entropy=_keys,
            agreement=agreement,
            deflate=self._deflate,
            pool=pool_of(loop),
            max_size=self._max_size,
            max_fragments=self._max_fragments,
        )
        return WebSocket(
            loop,
            connection,
            self._options,
            request=connector.request_head,
            response=response,
            on_frame=self._on_frame,
        )

    async def _connect(self) -> WebSocket:
        try:
            return await asyncio.wait_for(self._follow(), self._open_timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(
                f"no answer from {self._uri} to the opening handshake in open_timeout={self._open_timeout} seconds"
            ) from None

    async def _follow(self) -> WebSocket:
        """One handshake, or as many as there are redirects."""
        connector = self._make_connector()
        for _ in range(self._max_redirects + 1):
            answer = await self._shake(connector)
            if isinstance(answer, WebSocket):
                return answer
            following = connector.redirect(answer) if self._max_redirects else None
            if following is None:
                connector.check(answer)  # raises: this is no 101
            else:
                connector = following
        raise HandshakeError(f"more than max_redirects={self._max_redirects} redirects")

    async def _shake(self, connector: WebSocketConnector) -> WebSocket | Response:
        loop = asyncio.get_running_loop()
        options = dict(self._others)
        if connector.uri.secure:
            options["ssl"] = self._ssl or ssl_module.create_default_context()
            options["server_hostname"] = self._server_hostname or connector.uri.host
        elif self._ssl is not None:
            raise ValueError("ssl= is for wss:// URIs; this one is ws://")

        def make() -> ClientHandshake:
            return ClientHandshake(loop, connector, self)

        if self._path is not None:
            transport, protocol = await loop.create_unix_connection(make, self._path, **options)
        elif options.get("sock") is not None:
            transport, protocol = await loop.create_connection(make, **options)
        else:
            host = options.pop("host", connector.uri.host)
            port = options.pop("port", connector.uri.port)
            transport, protocol = await loop.create_connection(make, host, port, **options)
        try:
            return await protocol.done
        except BaseException:
            transport.abort()
            if protocol.done.done() and not protocol.done.cancelled() and not protocol.done.exception():
                opened = protocol.done.result()  # cancelled in the very turn in which it opened
                if isinstance(opened, WebSocket):
                    opened.abort()
            raise

    def __await__(self) -> Generator[Any, None, WebSocket]:
        return self._connect().__await__()

    async def __aenter__(self) -> WebSocket:
        self._ws = await self._connect()
        return self._ws

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ws is not None:
            await self._ws.close()


def unix_connect(path: str, uri: str = "ws://localhost/", **options: Any) -> connect:
    """`connect` over the Unix socket at `path`; `uri` gives the Host and the resource."""
    return connect(uri, path=path, **options)
