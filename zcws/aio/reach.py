"""From a URI to a transport: straight, over a Unix socket or an existing one, or through a proxy.

What this file decides: the steps of connecting on asyncio. What the options mean is decided in route.py, what a
proxy is told in proxy.py. Whatever fails or is cancelled here leaves no socket behind.

    way                  steps
    -------------------  ---------------------------------------------------------------------------------------
    straight             the loop's create_connection: name, addresses side by side, TCP
    HTTP(S) proxy        the same to the proxy; for HTTPS, TLS (tls.py); CONNECT
    SOCKS proxy          python-socks gives a connected socket
    any of these, wss    then TLS to the server, inside of it
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from zcws.aio.tasks import fail
from zcws.aio.tls import Tls, has_better
from zcws.aio.transport import adopt
from zcws.errors import ProxyError
from zcws.failures import cannot_connect, no_tls, socks_errors, unknown_host, unreachable, with_path
from zcws.proxy import Proxy, Tunnel
from zcws.route import EYEBALLS_DELAY, Route, is_address, socks_options
from zcws.uri import WebSocketURI

__all__ = ["reach"]

P = TypeVar("P", bound=asyncio.Protocol)

#: What asyncio says of each address that it could not connect to.
_failed_connects = re.compile(r"\[Errno (\d+)\] Connect call failed \('([^']+)', (\d+)").findall
#: What only a connect says.
_CONNECT_FAILED = frozenset((errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH))

#: Whether asyncio's race of addresses fails an assertion of its own where tasks are eager. CPython 3.12.8 and 3.13.1
#: fixed that (gh-124309).
_RACE_NEEDS_LAZY_TASKS = sys.version_info < (3, 12, 8) or sys.version_info[:3] == (3, 13, 0)

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
        others: options of `loop.create_connection`.

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
        raise no_tls(uri.shown, "ws://", error) from None


def _without_tls(others: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in others.items() if not name.startswith("ssl_")}


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
    options = {option: value for option, value in others.items() if option.startswith("ssl_")}
    options.setdefault("ssl_handshake_timeout", _LATER)
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
        return await _straight(loop, make, host, port, {**others})
    if proxy.is_socks:
        sock = await _socks(proxy, host, port, others.get("local_addr"))
        return await loop.create_connection(make, sock=sock)
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


def _can_race(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the addresses of a name can be tried side by side. RFC 8305; uvloop cannot."""
    if not isinstance(loop, asyncio.BaseEventLoop):
        return False
    # A factory of the program's own does not say whether its tasks are eager.
    return loop.get_task_factory() is None or not _RACE_NEEDS_LAZY_TASKS


async def _straight(
    loop: asyncio.AbstractEventLoop, make: Callable[[], P], host: str, port: int, options: dict[str, Any]
) -> tuple[asyncio.Transport, P]:
    if not is_address(host) and _can_race(loop):
        options.setdefault("happy_eyeballs_delay", EYEBALLS_DELAY)
    elif options.get("happy_eyeballs_delay") is None:
        options.pop("happy_eyeballs_delay", None)  # uvloop does not know it
    try:
        return await loop.create_connection(make, host, port, **options)
    except socket.gaierror as error:
        raise unknown_host(host, error) from None
    except OSError as error:
        raise not_connected(host, port, error) from None


def not_connected(host: str, port: int, error: OSError) -> OSError:
    """The error of a host that cannot be connected to, in the words of both drivers; any other as it is."""
    text = str(error)
    failures = [((where, int(number)), int(code)) for code, where, number in _failed_connects(text)]
    if failures and text.count("[Errno ") == len(failures):
        return cannot_connect(failures)
    # asyncio on Windows: the system's number for a refusal (1225) becomes another errno
    code = errno.ECONNREFUSED if isinstance(error, ConnectionRefusedError) else error.errno
    # asyncio on Windows, and uvloop, do not say which address it was; of several, it was the last
    if code in _CONNECT_FAILED:
        return cannot_connect([((host, port), code)])
    return error


async def _socks(proxy: Proxy, host: str, port: int, local_addr: tuple[str, int] | None) -> socket.socket:
    with socks_errors(proxy):
        from python_socks.async_.asyncio import Proxy as SocksProxy

        # asyncio's flavour takes the running loop by itself.
        connector = SocksProxy(**socks_options(proxy))
        sock: socket.socket = await connector.connect(host, port, timeout=_LATER, local_addr=local_addr)
        return sock


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
    connecting, to_proxy = _Connecting(loop, tunnel), _without_tls(others)
    try:
        if security is None:
            transport, _ = await _straight(loop, lambda: connecting, proxy.host, proxy.port, to_proxy)
        else:
            transport, _ = await _straight(loop, _Waiting, proxy.host, proxy.port, to_proxy)
            # Ours: the loop's own TLS, as the outer one, loses what it still holds when the peer ends.
            transport, _ = await _secure_ourselves(loop, transport, connecting, security, None)
    except OSError as error:
        raise unreachable(proxy, error) from None
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
