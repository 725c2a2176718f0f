"""From a URI to a connected socket: straight, over a Unix socket or an existing one, or through a proxy; then TLS.

What this file decides: the steps of connecting with blocking sockets, each within what is left of `open_timeout`.
What the options mean is decided in route.py, what a proxy is told in proxy.py. Whatever fails here leaves no socket
behind.

A direct connection is a race between the host's addresses (RFC 8305): where one does not answer, as happens with IPv6
that is announced but does not work, the attempt at the next begins a quarter of a second later, and the first to
connect wins. One system call waits for all attempts, instead of a thread for each.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
from typing import Any

from zcws.failures import (
    cannot_connect,
    forget_errors,
    no_tls,
    socks_errors,
    unknown_host,
    unreachable,
    with_path,
)
from zcws.proxy import Proxy, Tunnel
from zcws.route import EYEBALLS_DELAY, Route, interleaved, socks_options
from zcws.sync.deadline import after, is_past, socket_timeout, until
from zcws.sync.polled import begin_tls
from zcws.uri import WebSocketURI

__all__ = ["reach"]

#: Bytes asked for at once of a proxy's answer: about the length of one.
_CHUNK = 4096
#: The result of a connect that has succeeded or goes on. WSAEINVAL is what some versions of Windows return.
_UNDER_WAY = frozenset((0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR, getattr(errno, "WSAEINVAL", 0)))

#: The family and the socket address that getaddrinfo gives for one address.
Address = tuple[int, Any]


def reach(route: Route, uri: WebSocketURI, deadline: float | None, others: dict[str, Any]) -> socket.socket:
    """A socket that is connected to the server of `uri`, with TLS where the URI says so.

    Args:
        deadline: of time.monotonic(), or None.
        others: `source_address`, `family` and `happy_eyeballs_delay`, for what goes over TCP.

    Raises:
        TimeoutError: the deadline has passed. OSError: there is no server, or it is not trusted. ProxyError: the proxy
            refuses. ImportError: an extra is not installed.
    """
    sock = _plain(route, uri, deadline, others)
    try:
        return _secured(sock, route.security(uri), deadline)
    except (ssl.SSLError, ConnectionError) as error:
        raise no_tls(uri.shown, "ws://", error, route.trust_options) from None


def _plain(route: Route, uri: WebSocketURI, deadline: float | None, others: dict[str, Any]) -> socket.socket:
    if route.sock is not None:
        return route.sock
    if route.path is not None:
        return _unix(route.path, socket_timeout(deadline))
    host, port = route.target(uri)
    proxy = route.proxy_for(uri)
    if proxy is None:
        return _race(host, port, deadline, **others)
    if proxy.is_socks:
        return _socks(proxy, host, port, deadline, others)
    if proxy.scheme == "https" and uri.secure:
        raise ValueError(
            "wss:// through an https:// proxy is TLS inside TLS, which blocking sockets do not have: "
            "use an http:// proxy (what goes through it is encrypted anyway) or zcws.connect"
        )
    return _through(route, proxy, Tunnel(proxy, host, port, route.user_agent_header), deadline, others)


def _unix(path: str | os.PathLike[str], timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(os.fspath(path))
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise with_path(error, os.fspath(path)) from None
        raise
    return sock


def _secured(
    sock: socket.socket, security: tuple[ssl.SSLContext, str] | None, deadline: float | None
) -> socket.socket:
    """The socket, inside TLS where `security` is given. Closed when that fails."""
    try:
        sock.settimeout(socket_timeout(deadline))
        if security is None:
            return sock
        context, name = security
        sock = stream = begin_tls(context, sock, server_hostname=name)
        stream.do_handshake()
        return stream
    except BaseException:
        sock.close()
        forget_errors()
        raise


class _Way:
    """The way to a SOCKS proxy, for python-socks: both the proxy before it, and the socket that such a proxy returns.

    It keeps one deadline for all receives. python-socks has a timeout for each, and a proxy that sends one byte at a
    time can cause 262 of them.
    """

    def __init__(self, sock: socket.socket, deadline: float | None) -> None:
        self.sock = sock
        self._deadline = deadline

    def connect(self, **_: object) -> _Way:
        return self

    def sendall(self, data: bytes) -> None:
        self.sock.settimeout(socket_timeout(self._deadline))
        self.sock.sendall(data)

    def recv(self, size: int) -> bytes:
        self.sock.settimeout(socket_timeout(self._deadline))
        return self.sock.recv(size)

    def close(self) -> None:
        self.sock.close()


def _socks(
    proxy: Proxy, host: str, port: int, deadline: float | None, others: dict[str, Any]
) -> socket.socket:
    with socks_errors(proxy, host):
        from python_socks.sync import Proxy as SocksProxy

        options = socks_options(proxy)
    try:
        way = _Way(_race(proxy.host, proxy.port, deadline, **others), deadline)
    except OSError as error:
        raise unreachable(proxy, error, others.get("source_address")) from None
    with socks_errors(proxy, host):
        SocksProxy(**options, forward=way).connect(host, port)
        return way.sock


def _through(
    route: Route, proxy: Proxy, tunnel: Tunnel, deadline: float | None, others: dict[str, Any]
) -> socket.socket:
    """A socket to the server, through an HTTP proxy."""
    try:
        sock = _race(proxy.host, proxy.port, deadline, **others)
        sock = _secured(sock, route.proxy_security(proxy), deadline)
    except OSError as error:
        raise unreachable(proxy, error, others.get("source_address")) from None
    try:
        sock.sendall(tunnel.request)
        for _ in until(deadline):
            if tunnel.feed(_received(sock, tunnel, deadline)):
                return sock
        raise TimeoutError("the proxy has not stopped sending its answer")
    except BaseException:
        sock.close()
        raise


def _received(sock: socket.socket, tunnel: Tunnel, deadline: float | None) -> bytes:
    sock.settimeout(socket_timeout(deadline))
    try:
        data = sock.recv(_CHUNK)
    except ConnectionError as error:
        raise tunnel.ended(error) from error
    if not data:
        raise tunnel.ended()
    return data


def _race(
    host: str,
    port: int,
    deadline: float | None,
    *,
    source_address: tuple[str, int] | None = None,
    family: int = socket.AF_UNSPEC,
    happy_eyeballs_delay: float | None = EYEBALLS_DELAY,
) -> socket.socket:
    """A TCP connection to the first of a host's addresses that answers."""
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        if not found:  # a resolver of the program's own
            raise socket.gaierror(socket.EAI_NONAME, "no address was found")
    except socket.gaierror as error:
        raise unknown_host(host, error) from None
    if is_past(deadline):
        raise TimeoutError("the system has not found the name in time")
    race = _Race([(entry[0], entry[4]) for entry in found], source_address, happy_eyeballs_delay)
    try:
        return race.run(deadline)
    finally:
        race.close()


class _Race:
    """Attempts at several addresses at once.

    Args:
        delay: seconds after which the next begins; None begins it when all before have failed.
    """

    def __init__(self, addresses: list[Address], source: tuple[str, int] | None, delay: float | None) -> None:
        self._left = list(interleaved(addresses))
        self._source = source
        self._delay = delay
        self._selector = selectors.DefaultSelector()
        self._running: dict[socket.socket, Address] = {}
        self._errors: list[tuple[Address, int]] = []

    def run(self, deadline: float | None) -> socket.socket:
        """The socket that won; `OSError` when none did."""
        while self._left:
            self._start(self._left.pop(0))
            due = after(self._delay if self._left else None)
            while self._running and not is_past(due):
                ends = [end for end in (due, deadline) if end is not None]
                if winner := self._wait(socket_timeout(min(ends)) if ends else None):
                    return winner
                if is_past(deadline):
                    raise TimeoutError("no address of the host has answered in time")
        raise self._failure()

    def _start(self, address: Address) -> None:
        family, where = address
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            if self._source is not None:
                sock.bind(self._source)
            code = sock.connect_ex(where)
        except socket.gaierror:
            code = errno.EADDRNOTAVAIL  # of the source; numbers of gaierror are not errnos
        except OSError as error:
            code = error.errno or errno.EADDRNOTAVAIL
        if sock is not None and code in _UNDER_WAY:
            self._running[sock] = address
            self._selector.register(sock, selectors.EVENT_WRITE)
            return
        self._errors.append((address, code))
        if sock is not None:
            sock.close()

    def _wait(self, timeout: float | None) -> socket.socket | None:
        """The first socket that has connected; those that have failed are dropped."""
        for key, _ in self._selector.select(timeout):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            self._selector.unregister(sock)
            address = self._running.pop(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return sock
            sock.close()
            self._errors.append((address, code))
        return None

    def _failure(self) -> OSError:
        return cannot_connect([(where, OSError(code, "")) for (_, where), code in self._errors], self._source)

    def close(self) -> None:
        """Ends the attempts that are left."""
        self._selector.close()
        for sock in self._running:
            sock.close()
