"""From a URI to a transport: straight, over a Unix socket or an existing one, or through a proxy.

What this file decides: the steps of connecting on asyncio. What the options mean is decided in route.py, what a
proxy is told in proxy.py. Whatever fails or is cancelled here leaves no socket behind.

    way                  steps
    -------------------  ---------------------------------------------------------------------------------------
    straight             a race of the host's addresses (racing.py); a transport of the loop on the socket that won
    HTTP(S) proxy        the same to the proxy; for HTTPS, TLS (tls.py); CONNECT
    SOCKS proxy          the race to the proxy; python-socks; a transport
    any of these, wss    then TLS to the server, inside of it
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from zcws.aio.racing import race
from zcws.aio.tasks import fail
from zcws.aio.tls import Tls, has_better
from zcws.aio.transport import adopt
from zcws.errors import ProxyError
from zcws.failures import no_tls, socks_errors, unreachable, with_path
from zcws.proxy import Proxy, Tunnel
from zcws.route import Route, socks_options
from zcws.uri import WebSocketURI

__all__ = ["reach"]

P = TypeVar("P", bound=asyncio.Protocol)

#: Seconds: more than any `open_timeout`, which is what limits the time. To python-socks and to TLS on event loops, None
#: would mean a minute.
_LATER = 24 * 3600.0


async def reach(
    loop: asyncio.AbstractEventLoop,
    make: Callable[[], P],
    route: Route,
    uri: WebSocketURI,
    others: dict[str, Any],
) -> tuple[asyncio.Transport, P]:
    """A transport to the server of `uri`, and the protocol on it.

    Args:
        others: options of `loop.create_connection`, those of TLS for the loop, the rest for race().

    Raises:
        OSError: there is no server, or it is not trusted. ProxyError: the proxy refuses. ImportError: an extra is
            needed.
    """
    security = route.security(uri)
    if security is None:
        return await _by(loop, make, route, uri, others)
    try:
        transport, _ = await _by(loop, _Waiting, route, uri, _without_tls(others))
        return await _secure(loop, transport, make(), security, others)
    except (ssl.SSLError, ConnectionError) as error:
        raise no_tls(uri.shown, "ws://", error, route.trust_options) from None


def _without_tls(others: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in others.items() if not name.startswith("ssl_")}


def _of_tcp(others: dict[str, Any]) -> dict[str, Any]:
    """For the way to a proxy, of which one error says that it cannot be reached."""
    return {**_without_tls(others), "all_errors": False}


def _of_tls(others: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in others.items() if name.startswith("ssl_")}


class _Waiting(asyncio.Protocol):
    """A connection until TLS takes it over."""

    data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data  # a server that speaks first speaks no TLS, as OpenSSL will say


async def _secure(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.Transport,
    protocol: P,
    security: tuple[ssl.SSLContext, str],
    others: dict[str, Any],
) -> tuple[asyncio.Transport, P]:
    """Puts `protocol` inside TLS on a transport that another protocol had: the loop's TLS where that is better."""
    if isinstance(transport, Tls) or not has_better(loop):
        return await _secure_ourselves(
            loop, transport, protocol, security, others.get("ssl_handshake_timeout")
        )
    context, name = security
    options = {"ssl_handshake_timeout": _LATER, **_of_tls(others)}
    inside = await loop.start_tls(transport, protocol, context, server_hostname=name, **options)
    assert inside is not None
    protocol.connection_made(inside)
    return inside, protocol


async def _secure_ourselves(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.Transport,
    protocol: P,
    security: tuple[ssl.SSLContext, str],
    timeout: float | None,
) -> tuple[asyncio.Transport, P]:
    """The same inside TLS of ours."""
    context, name = security
    before = transport.get_protocol()
    try:
        tls = Tls(loop, protocol, context, server_hostname=name, timeout=timeout)
    except BaseException:  # a name that TLS does not take
        transport.abort()
        raise
    below = adopt(loop, transport, tls)
    if below is None:
        transport.set_protocol(tls)
    tls.connection_made(below or transport)
    try:
        if isinstance(before, _Waiting) and before.data:
            tls.feed(before.data)
        if below is None:
            transport.resume_reading()  # a tunnel has paused it
        await tls.opened
    except BaseException:
        tls.abort()
        raise
    return tls, protocol


async def _by(
    loop: asyncio.AbstractEventLoop,
    make: Callable[[], P],
    route: Route,
    uri: WebSocketURI,
    others: dict[str, Any],
) -> tuple[asyncio.Transport, P]:
    """A transport by the way that the route says, without the TLS of `uri`."""
    if route.path is not None:
        return await _unix(loop, make, os.fspath(route.path), others)
    if route.sock is not None:
        return await loop.create_connection(make, sock=route.sock, **others)
    host, port = route.target(uri)
    proxy = route.proxy_for(uri)
    if proxy is None:
        return await _straight(loop, make, host, port, others)
    if proxy.is_socks:
        return await _on(loop, make, await _socks(loop, proxy, host, port, _of_tcp(others)), {})
    return await _through(
        loop, make, route, proxy, Tunnel(proxy, host, port, route.user_agent_header), others
    )


async def _unix(
    loop: asyncio.AbstractEventLoop, make: Callable[[], P], path: str, options: dict[str, Any]
) -> tuple[asyncio.Transport, P]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Not the loop's: a Unix socket connects at once or not at all, and where the server's queue is full, asyncio
        # takes BlockingIOError for a connection under way, and the socket that is not connected for one that is.
        sock.connect(path)
        return await loop.create_unix_connection(make, sock=sock, **options)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise with_path(error, path) from None
        raise


async def _straight(
    loop: asyncio.AbstractEventLoop, make: Callable[[], P], host: str, port: int, others: dict[str, Any]
) -> tuple[asyncio.Transport, P]:
    sock = await race(loop, host, port, **_without_tls(others))
    return await _on(loop, make, sock, _of_tls(others))


async def _on(
    loop: asyncio.AbstractEventLoop, make: Callable[[], P], sock: socket.socket, options: dict[str, Any]
) -> tuple[asyncio.Transport, P]:
    """A transport on a socket of ours, which is closed if there will be none."""
    try:
        return await loop.create_connection(make, sock=sock, **options)
    except BaseException:
        with contextlib.suppress(OSError):  # uvloop before 0.22 has closed the descriptor, and says nothing
            sock.close()
        raise


class _Way:
    """The way to a SOCKS proxy, for python-socks, which takes it for a proxy before that one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def connect(self, **_: object) -> socket.socket:
        return self._sock


async def _socks(
    loop: asyncio.AbstractEventLoop, proxy: Proxy, host: str, port: int, options: dict[str, Any]
) -> socket.socket:
    with socks_errors(proxy, host):
        from python_socks.async_.asyncio import Proxy as SocksProxy

        connecting = socks_options(proxy)
    try:
        sock = await race(loop, proxy.host, proxy.port, **options)
    except OSError as error:
        raise unreachable(proxy, error, options.get("local_addr")) from None
    with socks_errors(proxy, host):
        # asyncio's flavour takes the running loop by itself, and closes the socket if this fails or is cancelled.
        connected: socket.socket = await SocksProxy(**connecting, forward=_Way(sock)).connect(
            host, port, timeout=_LATER
        )
        return connected


class _Connecting(asyncio.Protocol):
    """A connection to an HTTP proxy, until the tunnel is open: `done` says that it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._transport.write(self._tunnel.request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            return
        try:
            if self._tunnel.feed(data) and self._transport is not None:
                self._transport.pause_reading()  # what comes now is for the next protocol
                self.done.set_result(None)
        except ProxyError as error:
            fail(self.done, error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            fail(self.done, self._tunnel.ended(exc))


async def _through(
    loop: asyncio.AbstractEventLoop,
    make: Callable[[], P],
    route: Route,
    proxy: Proxy,
    tunnel: Tunnel,
    others: dict[str, Any],
) -> tuple[asyncio.Transport, P]:
    """A transport through the tunnel."""
    security = route.proxy_security(proxy)
    connecting, to_proxy = _Connecting(loop, tunnel), _of_tcp(others)
    try:
        if security is None:
            transport, _ = await _straight(loop, lambda: connecting, proxy.host, proxy.port, to_proxy)
        else:
            transport, _ = await _straight(loop, _Waiting, proxy.host, proxy.port, to_proxy)
            # Ours: the loop's own TLS, as the outer one, loses what it still holds when the peer ends.
            transport, _ = await _secure_ourselves(loop, transport, connecting, security, None)
    except OSError as error:
        raise unreachable(proxy, error, others.get("local_addr")) from None
    try:
        await connecting.done
    except BaseException:
        transport.abort()
        raise
    protocol = make()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    transport.resume_reading()
    return transport, protocol
