"""How a client gets from a URI to a byte stream: straight or by a proxy, whom to trust, and which redirects to follow.

What this file decides: the meaning of `ssl`, `proxy`, `max_redirects` and their kin, once for both drivers, and what
may be combined; and what servers ask of a place to listen at, which is nearly the same. It refuses to know how one
connects (aio/reach.py, sync/reach.py), and in which words a failure is reported (failures.py).

    given                   where the bytes go               a proxy                   a redirect
    ----------------------  -------------------------------  ------------------------  ----------------------------
    neither of the below    the URI's host and port          as `proxy` says           up to `max_redirects`
    host, port              there                            the same, to there        within the URI's origin
    path                    that Unix socket                 none                      within the URI's origin
    sock                    where it is connected to         none                      none

`proxy=True` looks into the environment. Nothing is imported for that where the environment names no proxy.
"""

from __future__ import annotations

import os
import socket
import ssl as ssl_module
import sys
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from operator import index
from typing import Any, Literal, TypeVar

from zcws.connector import REDIRECTS, WebSocketConnector
from zcws.errors import HandshakeError
from zcws.handshake import SOFTWARE
from zcws.http import Response
from zcws.http2 import ALPN
from zcws.options import check_client_context, check_kind, check_place, check_server_context, checked_count
from zcws.proxy import PREFERENCE, Proxy, choose_proxy, parse_proxy
from zcws.uri import WebSocketURI, parse_host, without_zone

__all__ = [
    "EYEBALLS_DELAY",
    "Route",
    "Trust",
    "check_unix_path",
    "check_unix_place",
    "checked_listening",
    "environment_proxy",
    "interleaved",
    "is_address",
    "make_context",
    "socks_options",
    "unix_uri",
]

#: What `ssl=` and `proxy_ssl=` take: a context; the path of a file (or folder) with the certificates of the
#: authorities to trust; True or None for those that the system trusts.
Trust = ssl_module.SSLContext | Literal[True] | str | os.PathLike[str] | None

#: An address of a host, in whatever form: a tuple, and the first item is the family.
Address = TypeVar("Address", bound=tuple[Any, ...])

#: Seconds between attempts at a host's addresses. RFC 8305 8: the recommended value.
EYEBALLS_DELAY = 0.25

#: The variables of the environment that name a proxy, in lower and in upper case.
VARIABLES = tuple(
    way(f"{scheme}_proxy")
    for scheme in sorted({*PREFERENCE[False], *PREFERENCE[True]})
    for way in (str.lower, str.upper)
)


class Route:
    """The options of `connect` that say how a server is reached; the drivers ask the methods.

    Raises:
        TypeError, ValueError: options that are invalid, alone or together. OSError: `sock` is not connected.
    """

    def __init__(
        self,
        *,
        uri: WebSocketURI,
        ssl: Trust = None,
        server_hostname: str | None = None,
        proxy: str | Literal[True] | None = True,
        proxy_ssl: Trust = None,
        proxy_server_hostname: str | None = None,
        host: str | None = None,
        port: int | None = None,
        sock: socket.socket | None = None,
        path: str | os.PathLike[str] | None = None,
        max_redirects: int = 0,
        user_agent_header: str | None = SOFTWARE,
        http2: bool = False,
    ) -> None:
        self.uri = uri
        self.ssl, self.proxy, self.proxy_ssl = ssl, proxy, proxy_ssl
        self.server_hostname: str | None = server_hostname
        self.proxy_server_hostname: str | None = proxy_server_hostname
        self.host: str | None = host
        self.port: int | None = None
        self.sock: socket.socket | None = sock
        self.path: str | os.PathLike[str] | None = path
        self.max_redirects = max_redirects
        self.user_agent_header = user_agent_header
        self._http2 = http2
        self._proxy: Proxy | None = None
        self._contexts: dict[str, ssl_module.SSLContext] = {}
        self._check_place(port)
        self._check_proxy()
        for option, trust in (("ssl", self.ssl), ("proxy_ssl", self.proxy_ssl)):
            if trust is not None and trust is not True:
                self._contexts[option] = make_context(trust, option)
        if self.ssl is not None and not self.uri.secure:
            raise ValueError("ssl= is for wss:// URIs; this one is ws://")
        checked_count("max_redirects", self.max_redirects, "redirects to follow", least=0)

    def _check_place(self, port: int | None) -> None:
        check_place(is_server=False, sock=self.sock, path=self.path, host=self.host, port=port)
        # getaddrinfo refuses an IntEnum, and NumPy's integers.
        self.port = None if port is None else index(port)
        check_kind("sock", self.sock, socket.socket, "a socket.socket, or None")
        check_name("host", self.host, "the URI")
        check_name("server_hostname", self.server_hostname, "the URI")
        check_name("proxy_server_hostname", self.proxy_server_hostname, "the proxy")
        if self.sock is not None:
            check_connected(self.sock)
        if self.server_hostname is not None and not self.uri.secure:
            raise ValueError("server_hostname= is for wss:// URIs; this one is ws://")
        check_unix_path(self.path)

    def _check_proxy(self) -> None:
        if self.proxy is None or self.proxy is True:
            return
        if not isinstance(self.proxy, str):
            # Not its repr: that of a URL, or of bytes, has the password.
            raise TypeError(
                "proxy must be an address (a str), None for no proxy, or True for that of the environment, "
                f"not an object of type {type(self.proxy).__name__}"
            )
        if self.sock is not None or self.path is not None:
            raise ValueError(
                "proxy= cannot be used with sock= or path=, which say where to connect to already"
            )
        self._proxy = parse_proxy(self.proxy)
        if self.proxy_ssl is not None and self._proxy.scheme != "https":
            raise ValueError(f"proxy_ssl= is for https:// proxies; this one is {self._proxy.scheme}://")

    def target(self, uri: WebSocketURI) -> tuple[str, int]:
        """Host and port to connect to for `uri`."""
        return self.host or uri.host, self.port or uri.port

    def proxy_for(self, uri: WebSocketURI) -> Proxy | None:
        """The proxy on the way to `uri`; None for none."""
        if self.sock is not None or self.path is not None or self.proxy is None:
            return None
        return environment_proxy(uri.secure, *self.target(uri)) if self.proxy is True else self._proxy

    def security(self, uri: WebSocketURI) -> tuple[ssl_module.SSLContext, str] | None:
        """The context and the name to check for `uri`; None in the clear."""
        if not uri.secure:
            return None
        # A name that was given is that of the server in our URI; a redirect may lead to another server.
        given = self.server_hostname if uri.origin == self.uri.origin else None
        context = self._context("ssl")
        if self._http2:
            context.set_alpn_protocols(ALPN)
        return context, certified(given or uri.host)

    @property
    def trust_options(self) -> str | None:
        """The prefix of the names of the options that decide which servers are trusted; None if they are refused: a
        redirect has led from ws to wss."""
        return "" if self.uri.secure else None

    def proxy_security(self, proxy: Proxy) -> tuple[ssl_module.SSLContext, str] | None:
        """The same for the connection to `proxy`."""
        if proxy.scheme != "https":
            return None
        return self._context("proxy_ssl"), certified(self.proxy_server_hostname or proxy.host)

    def _context(self, option: str) -> ssl_module.SSLContext:
        # Kept: to read the system's authorities takes milliseconds, and a loop that reconnects would do it each time.
        if option not in self._contexts:
            self._contexts[option] = make_context(True, option)
        return self._contexts[option]

    def follow(self, connector: WebSocketConnector, response: Response, followed: int) -> WebSocketConnector:
        """The connector for where `response`, which is no 101, leads.

        Args:
            followed: redirects that were followed before.

        Raises:
            HandshakeError: it leads nowhere, where a client must not go, or too far.
        """
        if response.status_code in REDIRECTS and not self.max_redirects:
            raise refused(response, "a redirect, and max_redirects=0 follows none")
        following = connector.redirect(response)
        if following is None:
            connector.check(response)  # raises: this is no 101
        assert following is not None
        if followed >= self.max_redirects:
            raise refused(response, f"one redirect more than max_redirects={self.max_redirects} allows")
        if self.sock is not None:
            raise refused(response, "a redirect, and a socket that was given (sock=) leads nowhere else")
        elsewhere = self.path is not None or self.host is not None or self.port is not None
        if elsewhere and following.uri.origin != self.uri.origin:
            raise refused(
                response, "a redirect to another origin, and path=, host= or port= say where to connect"
            )
        return following


def check_name(option: str, name: str | None, of: str) -> None:
    """`TypeError` or `ValueError` for what is no host: the system and OpenSSL would say so when a server is reached."""
    check_kind(option, name, str, f"a str, or None for that of {of}")
    if name:  # an empty one counts as none
        parse_host(f"[{name}]" if ":" in name else name, f"{option}=")


def certified(host: str) -> str:
    """A host as certificates have it, and SNI: "without a trailing dot" (RFC 6066 3)."""
    return without_zone(host).removesuffix(".")


def check_unix_path(path: Any) -> None:
    """`TypeError` or `ValueError` for a path at which no Unix socket can be; None is no path."""
    if path is None:
        return
    if not hasattr(socket, "AF_UNIX"):
        raise ValueError("this platform has no Unix sockets: path= cannot be used")
    what = "path is a str or an os.PathLike, that of a Unix socket, or None"
    try:
        is_empty = not os.fspath(path)
    except TypeError:
        raise TypeError(f"{what}, not {path!r}") from None
    if is_empty:
        raise ValueError(f"{what}, not {path!r}")


def checked_listening(
    *, sock: object, path: str | os.PathLike[str] | None, host: object, port: object, ssl: object
) -> str | None:
    """The path of a server's Unix socket, if it has one. `TypeError` or `ValueError` for what it cannot listen at."""
    check_kind("sock", sock, socket.socket, "a socket.socket, or None")
    if isinstance(sock, socket.socket) and sock.type != socket.SOCK_STREAM:
        raise ValueError(f"sock is a socket of the type SOCK_STREAM, not {sock!r}")
    check_place(is_server=True, sock=sock, path=path, host=host, port=port)
    check_unix_path(path)
    check_kind("ssl", ssl, ssl_module.SSLContext, "an ssl.SSLContext, or None for no TLS")
    check_server_context(ssl)
    return None if path is None else os.fspath(path)


def check_unix_place(called: str, path: object, sock: object) -> None:
    """`TypeError` if neither names a Unix socket; `called` is the function's name."""
    if path is None and sock is None:
        raise TypeError(f"{called} needs the path of a Unix socket, or sock=")


def check_connected(sock: socket.socket) -> None:
    """`OSError` for a socket that is not connected: otherwise the server would be blamed for not answering."""
    try:
        sock.getpeername()
    except OSError as error:
        raise OSError(error.errno, f"sock is not connected: {error.strerror}") from None


def refused(response: Response, what: str) -> HandshakeError:
    reason = f"the server answered with status {response.status_code}: {what}"
    return HandshakeError(reason, status=response.status_code, headers=response.headers, body=response.body)


def make_context(trust: Trust, option: str = "ssl") -> ssl_module.SSLContext:
    """The context that `ssl=` or `proxy_ssl=` means; one that is made here checks certificate and name."""
    if isinstance(trust, ssl_module.SSLContext):
        check_client_context(option, trust)
        return trust
    if trust is None or trust is True:
        return ssl_module.create_default_context()
    if not isinstance(trust, (str, os.PathLike)):
        unchecked = (
            "; a context with check_hostname = False and verify_mode = ssl.CERT_NONE checks nothing"
            if trust is False
            else ""
        )
        raise TypeError(
            f"{option} must be an ssl.SSLContext, True, or the path of a file with the certificates to trust"
            f"{unchecked}"
        )
    path = os.fspath(trust)
    if not os.path.exists(path):
        raise ValueError(f"{option}={path!r} names no file of certificates")
    try:
        where: dict[str, Any] = {"capath": path} if os.path.isdir(path) else {"cafile": path}
        return ssl_module.create_default_context(**where)
    except ssl_module.SSLError:
        raise ValueError(f"{option}={path!r} holds no certificates in PEM form") from None


def environment_proxy(secure: bool, host: str, port: int) -> Proxy | None:
    """The proxy for a server, by the environment, or on macOS and Windows by the system's settings, too."""
    # Looked up by name: to walk through the whole environment takes longer than everything else here.
    if sys.platform not in ("darwin", "win32") and not any(name in os.environ for name in VARIABLES):
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    if not proxies or proxy_bypass(f"{host}:{port}"):  # no_proxy
        return None
    return choose_proxy(proxies, secure)


def socks_options(proxy: Proxy) -> dict[str, Any]:
    """The arguments of python-socks' Proxy."""
    from python_socks import ProxyType

    return {
        "proxy_type": ProxyType.SOCKS5 if proxy.scheme.startswith("socks5") else ProxyType.SOCKS4,
        "host": proxy.host,
        "port": proxy.port,
        "username": proxy.username,
        "password": proxy.password,
        "rdns": proxy.resolves,
    }


def unix_uri(ssl: Trust) -> str:
    """The URI that is asked for over a Unix socket when none was given."""
    return "ws://localhost/" if ssl is None else "wss://localhost/"


def interleaved(addresses: Iterable[Address], first: int = 1) -> Iterator[Address]:
    """RFC 8305 4: the families take turns, beginning with `first` of the one that the system would take first."""
    by_family: dict[int, list[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    turns = [iter(each) for each in by_family.values()]
    if turns:
        yield from islice(turns[0], max(first - 1, 0))
    for turn in zip_longest(*turns):
        yield from (address for address in turn if address is not None)


def is_address(host: str) -> bool:
    """Whether a host is an IP address, which has no others beside it."""
    return ":" in host or host.replace(".", "").isdigit()
