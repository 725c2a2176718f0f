"""`connect`: from a URI to an open connection.

reach.py makes a transport, through a proxy where there is one. Its first protocol is the `ClientHandshake` of
asking.py, which sends the request and reads the response. After a 101 the transport gets another protocol, the
`WebSocket`. A redirect is followed where route.py allows it; a loop that connects again asks retry.py whether and when.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from zcws.aio.asking import ClientHandshake
from zcws.aio.deadlines import in_time
from zcws.aio.passing import ConnectionOptions, check_others, checked_look
from zcws.aio.reach import reach
from zcws.aio.settings import Options, pool_of
from zcws.aio.tasks import running_loop
from zcws.aio.tracing import websocket_class
from zcws.aio.websocket import WebSocket
from zcws.annotations import Unpack
from zcws.connection import MAX_FRAGMENTS, MAX_SIZE, Connection
from zcws.connector import WebSocketConnector
from zcws.deflate import Deflate
from zcws.extensions import Agreement
from zcws.failures import timed_out
from zcws.frame import Frame
from zcws.handshake import SOFTWARE, NoMasking
from zcws.headers import HeadersLike
from zcws.hints import not_awaited
from zcws.http import Response
from zcws.http2 import missing_h2
from zcws.keys import MaskingKeys
from zcws.options import check_kind, checked_limits, checked_seconds
from zcws.retry import Delays, ProcessException, Retries, backoff, check_options, process_exception
from zcws.route import Route, Trust, check_unix_place, unix_uri
from zcws.uri import WebSocketURI

if TYPE_CHECKING:
    from zcws.aio.http2_asking import Http2Client

__all__ = ["connect", "unix_connect"]

#: Every asyncio client of this process draws its masking keys here.
_keys = MaskingKeys(os.urandom)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.forget)


class connect:
    """Opens a WebSocket connection. Await it, or use it as a context manager that closes the connection. Or write
    `async for ws in connect(...)`: each turn of the loop gets a new connection, and the old one is closed first.

    Args:
        uri: `ws://` or `wss://`; user and password in it become basic credentials.
        ssl: for wss: a context, or the path of a file with the certificates to trust; by default what the system
            trusts. The certificate and its name are checked unless a context says otherwise.
        server_hostname: the name to check, where it is not the URI's.
        origin: the header `Origin`; browsers send it, other clients need not.
        subprotocols: names to offer, best first.
        compression: `Deflate(...)`, "deflate" for its defaults, or None.
        no_masking: True offers unmasked frames over TLS, "insecure" also without TLS.
        additional_headers: headers to add to the request.
        user_agent_header: what `User-Agent` says; None leaves it out.
        basic_auth, bearer: credentials, as `("user", "password")` or as a token; not both, and not in the URI as well.
        proxy: "http://", "https://", "socks5h://" (or socks5, socks4a, socks4), then `user:password@host:port`;
            True for that of the environment (`wss_proxy`, `https_proxy`, `all_proxy` and so on; `no_proxy`), None
            for none. SOCKS needs the extra `proxy`.
        proxy_ssl, proxy_server_hostname: as `ssl` and `server_hostname`, for an https:// proxy.
        open_timeout: seconds to connect and for the opening handshake, TLS included.
        on_message, on_frame: called with the connection and each message or frame, where the bytes arrive; see `serve`.
        max_redirects: redirects to follow; never from wss to ws, and credentials stay with their host.
        host, port, sock, path: where to connect to, if not to the URI's host and port: another place, a connected
            socket, or the path of a Unix socket.
        http2: True uses HTTP/2 (RFC 8441), with one TCP connection for each WebSocket. Needs the extra `http2`. Over
            TLS the server chooses the version, and the context given as `ssl` offers HTTP/2 from now on (ALPN);
            without TLS the server has to speak it.
        process_exception: for `async for`: a function that takes an error, and returns None to try again, or the
            exception to raise; by default `zcws.process_exception`.
        reconnect_delays: for `async for`: a function without arguments that returns an iterable of seconds to wait; by
            default `zcws.backoff`.
        others: those of `loop.create_connection`: `local_addr`, `happy_eyeballs_delay` and so on.
        close_timeout, ping_interval, ping_timeout, max_size, max_fragments, write_limit, write_timeout: see `serve`.

    Raises:
        HandshakeError: the server did not agree; `ProxyError`: the proxy did not. OSError: there is no server, or
            it is not trusted. TimeoutError: it took longer than `open_timeout`. ImportError: an extra is not installed.
        ValueError, TypeError: the URI or an option is wrong; raised by the call itself wherever that can be known.
        RuntimeError: this object is in use as a context manager already; it may be used again after that.
    """

    def __init__(
        self,
        uri: str,
        *,
        ssl: Trust = None,
        server_hostname: str | None = None,
        origin: str | None = None,
        subprotocols: Sequence[str] | None = None,
        compression: Deflate | Literal["deflate"] | None = None,
        no_masking: NoMasking = False,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = SOFTWARE,
        basic_auth: tuple[str, str] | None = None,
        bearer: str | None = None,
        proxy: str | Literal[True] | None = True,
        proxy_ssl: Trust = None,
        proxy_server_hostname: str | None = None,
        open_timeout: float | None = 10,
        close_timeout: float | None = 10,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        max_size: int | None = MAX_SIZE,
        max_fragments: int = MAX_FRAGMENTS,
        write_limit: int | tuple[int, int | None] = 64 * 1024,
        write_timeout: float | None = None,
        on_message: Callable[[WebSocket, str | bytes], object] | None = None,
        on_frame: Callable[[WebSocket, Frame], object] | None = None,
        max_redirects: int = 0,
        host: str | None = None,
        port: int | None = None,
        sock: socket.socket | None = None,
        path: str | os.PathLike[str] | None = None,
        http2: bool = False,
        process_exception: ProcessException = process_exception,
        reconnect_delays: Delays = backoff,
        **others: Unpack[ConnectionOptions],
    ) -> None:
        check_others(connect, others, ConnectionOptions, path)
        check_kind("http2", http2, bool, "True or False")
        self._look = checked_look(on_frame, on_message)
        self._shows_messages = on_message is not None
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
            basic_auth=basic_auth,
            bearer=bearer,
        )
        # Wrong arguments raise here, not when this is awaited.
        self._first: WebSocketConnector | None = self._make_connector()
        self._uri = self._first.uri
        self._route = Route(
            uri=self._uri,
            ssl=ssl,
            server_hostname=server_hostname,
            proxy=proxy,
            proxy_ssl=proxy_ssl,
            proxy_server_hostname=proxy_server_hostname,
            host=host,
            port=port,
            sock=sock,
            path=path,
            max_redirects=max_redirects,
            user_agent_header=user_agent_header,
            http2=http2,
        )
        self._begin = http2_client() if http2 else None
        check_options(reconnect_delays, process_exception)
        self._retry = (reconnect_delays, process_exception)
        self._deflate = Deflate.of(compression)
        self._open_timeout = checked_seconds("open_timeout", open_timeout)
        self._limits = checked_limits(max_size, max_fragments)
        self._others: dict[str, Any] = {**others}
        self._options = Options(
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            write_limit=write_limit,
            write_timeout=write_timeout,
        )
        self._ws: WebSocket | None = None
        self._is_entered = False

    def _open(
        self,
        loop: asyncio.AbstractEventLoop,
        connector: WebSocketConnector,
        agreement: Agreement,
        response: Response,
    ) -> WebSocket:
        """A handshake has succeeded."""
        connection = Connection(
            is_client=True,
            entropy=_keys,
            agreement=agreement,
            deflate=self._deflate,
            pool=pool_of(loop),
            shows_messages=self._shows_messages,
            **self._limits,
        )
        return websocket_class(is_client=True)(
            loop,
            connection,
            self._options,
            request=connector.request_head,
            response=response,
            look=self._look,
        )

    async def _connect(self) -> WebSocket:
        running_loop()
        uris = [self._uri]
        try:
            return await in_time(self._follow(uris), self._open_timeout, WebSocket.abort)
        except asyncio.TimeoutError as error:
            if getattr(error, "errno", None) is not None:
                raise  # it is the network's own
            raise timed_out(uris, self._open_timeout, self._route.proxy_for(uris[-1])) from None

    async def _follow(self, uris: list[WebSocketURI]) -> WebSocket:
        """One handshake, or as many as there are redirects: where they lead is added to `uris`."""
        connector, self._first = self._first or self._make_connector(), None
        followed = 0
        while True:
            answer = await self._shake(connector, followed)
            if isinstance(answer, WebSocket):
                return answer
            connector = self._route.follow(connector, answer, followed)
            uris.append(connector.uri)
            followed += 1

    async def _shake(self, connector: WebSocketConnector, followed: int) -> WebSocket | Response:
        loop = asyncio.get_running_loop()
        # The answer arrives in another context; `_open` runs in a copy of this one, because `on_message` inherits it.
        opens: Callable[..., WebSocket] = partial(copy_context().run, self._open)  # type: ignore[call-arg]

        def make() -> ClientHandshake | Http2Client:
            handshake = ClientHandshake(loop, connector, opens)
            return handshake if self._begin is None else self._begin(loop, handshake)

        transport, protocol = await reach(loop, make, self._route, connector.uri, self._others)
        try:
            return await protocol.done
        except BaseException as error:
            transport.abort()
            if protocol.done.done() and not protocol.done.cancelled() and not protocol.done.exception():
                opened = protocol.done.result()  # cancelled in the very turn in which it opened
                if isinstance(opened, WebSocket):
                    opened.abort()
            response = protocol.maybe_refusal()
            if response is not None and isinstance(error, asyncio.CancelledError):
                # The time is over before the body is complete: `follow` raises an error with the status. A redirect is
                # not followed, for there is no time left.
                self._route.follow(connector, response, followed)
            raise

    if not TYPE_CHECKING:  # a type checker knows that there is no such name

        def __getattr__(self, name: str) -> Any:
            raise not_awaited("connect", "ws", name)

    def __await__(self) -> Generator[Any, None, WebSocket]:
        return self._connect().__await__()

    async def __aenter__(self) -> WebSocket:
        # There is one `_ws`: the end of one block would close the connection of the other, and leave its own open.
        if self._is_entered:
            raise RuntimeError(
                "this connect() is in use as a context manager: call connect() for each connection"
            )
        self._is_entered = True
        try:
            self._ws = await self._connect()
        except BaseException:
            self._is_entered = False
            raise
        return self._ws

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        ws, self._ws, self._is_entered = self._ws, None, False
        if ws is not None:
            await ws.__aexit__(kind, error, trace)

    async def __aiter__(self) -> AsyncGenerator[WebSocket, None]:
        retries = Retries(self._uri.shown, *self._retry, self._route.sock)
        loop = running_loop()
        delay: float | None = 0.0
        while delay is not None:
            await asyncio.sleep(delay)
            try:
                ws = await self._connect()
            except Exception as error:
                delay = retries.failed(error)
                continue
            opened = loop.time()
            try:
                yield ws
            finally:
                await ws.close()
            delay = retries.ended(loop.time() - opened, ws.connection.error())


def http2_client() -> type[Http2Client]:
    """The first protocol of a connection that may speak HTTP/2. Raises: ImportError, without the extra."""
    try:
        from zcws.aio.http2_asking import Http2Client
    except ImportError:
        raise missing_h2() from None
    return Http2Client


def unix_connect(
    path: str | os.PathLike[str] | None = None, uri: str | None = None, **options: Any
) -> connect:
    """`connect` over the Unix socket at `path`, or over the one that is given as `sock`; `uri` gives the Host and the
    resource.

    By default `uri` is `ws://localhost/`, and with `ssl` `wss://localhost/`.
    """
    check_unix_place("unix_connect", path, options.get("sock"))
    return connect(unix_uri(options.get("ssl")) if uri is None else uri, path=path, **options)
