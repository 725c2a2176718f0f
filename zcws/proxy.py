"""Proxies, without I/O: what their address says, and HTTP's CONNECT. RFC 9110 9.3.6, RFC 1928.

What this file decides: which addresses name a proxy, which of those in the environment is for a URI, what a CONNECT
says, and whether the answer opens the tunnel. It refuses to know sockets, TLS, os.environ, and how SOCKS is spoken:
python-socks knows that, an extra (route.py and the drivers).

    the proxy's answer to CONNECT                    outcome
    -----------------------------------------------  ---------------------------------------------------
    1xx other than 101                               passed over (RFC 9110 15.2)
    2xx                                              the tunnel is open; a Content-Length means nothing
    2xx, and bytes behind its head                   ProxyError: nobody at the other end speaks first
    any other status                                 ProxyError with status and headers
    no legal head, or over a limit (http1.py)        ProxyError

What is said of a proxy, in errors and in logs, is its address without user name and password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from zcws.errors import ProxyError
from zcws.handshake import SOFTWARE, basic_authorization
from zcws.headers import Headers
from zcws.http import HttpError, Response
from zcws.http1 import ResponseSearch, complaint, shown_start
from zcws.uri import authority, parse_host, parse_port, parse_user_info, without_zone

__all__ = ["PREFERENCE", "SCHEMES", "Proxy", "Tunnel", "choose_proxy", "parse_proxy"]

#: The schemes of proxies and their ports: HTTP's own, and what RFC 1928 3 calls the conventional one.
SCHEMES = {"http": 80, "https": 443, "socks5h": 1080, "socks5": 1080, "socks4a": 1080, "socks4": 1080}
#: Those whose proxy resolves the server's name; the others are given an address, as by curl.
REMOTE_NAMES = frozenset(("socks5h", "socks4a"))
#: RFC 1929 2: the lengths of user name and password are one byte each.
SOCKS5_LIMIT = 255
#: Which settings to look at, best first, for ws and for wss. One for WebSocket itself comes first; RFC 6455 4.1 prefers
#: SOCKS to HTTPS to HTTP; `all` is last. A proxy for plain HTTP need not let TLS through, so wss does not use it.
PREFERENCE: dict[bool, tuple[str, ...]] = {
    False: ("ws", "socks", "https", "http", "all"),
    True: ("wss", "socks", "https", "all"),
}

grammar = re.compile(
    r"""
    (?: ([A-Za-z][A-Za-z0-9+.\-]*) :// )?  # RFC 3986 3.1; without one it is http, as for curl
    (?: ([^@/?#\[\]]*) @ )?                # 3.2.1
    ( \[[^\[\]@/?#]*\] | [^:@/?#\[\]]* )   # 3.2.2
    (?: : ([^:@/?#\[\]]*) )?               # 3.2.3, to be checked
    /?
    """,
    re.VERBOSE,
).fullmatch
has_forbidden = re.compile(r"[\x00-\x20\x7f\\]").search

#: The option of a program; the command line has another.
GOES_WITHOUT = ", and proxy=None goes without"


class Proxy(NamedTuple):
    """Where a proxy is, and how it is spoken to.

    Attributes:
        scheme: one of `SCHEMES`.
        host: in lower case but for the zone of an IPv6 address, which is without its brackets.
        username, password: percent-decoded; None without credentials.
        source: who named it: the option `proxy=`, or a variable of the environment.
    """

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None
    source: str = "proxy="

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shown}>"

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS; otherwise HTTP."""
        return self.scheme.startswith("socks")

    @property
    def resolves(self) -> bool:
        """Whether it resolves the server's name: its own way to the server is all that counts then."""
        return not self.is_socks or self.scheme in REMOTE_NAMES

    @property
    def shown(self) -> str:
        """For people: without credentials."""
        return f"{self.scheme}://{authority(without_zone(self.host), self.port)}"

    @property
    def named_by(self) -> str:
        """The end of a sentence, for people: who named the proxy, if it was not the program."""
        return "" if self.source == "proxy=" else f"; {self.source} names it{GOES_WITHOUT}"


def parse_proxy(address: str, source: str = "proxy=") -> Proxy:
    """Reads the address of a proxy; `ValueError` with a sentence for anything else, which does not repeat it."""
    found = None if has_forbidden(address) else grammar(address)
    if found is None:
        raise ValueError(
            f"{source} is not the address of a proxy: expected scheme://[user:password@]host[:port]"
        )
    scheme, user_info, host, port = found.groups()
    scheme = (scheme or "http").lower()
    if scheme not in SCHEMES:
        raise ValueError(f"{source} has a scheme that is no proxy's: expected one of {', '.join(SCHEMES)}")
    of = f"the proxy in {source}"
    username, password = parse_user_info(user_info, of)
    if username is not None:
        check_credentials(scheme, source, username, password or "")
    number = parse_port(port, SCHEMES[scheme], of)
    return Proxy(scheme, parse_host(host, of), number, username, password, source)


def check_credentials(scheme: str, source: str, username: str, password: str) -> None:
    """`ValueError` for a user name and a password that a proxy cannot be told."""
    if scheme.startswith("socks5"):
        # RFC 1929 2: neither may be empty. Stricter: ASCII, the only encoding that all sides agree on.
        if not all(word.isascii() and 1 <= len(word) <= SOCKS5_LIMIT for word in (username, password)):
            raise ValueError(
                f"{source}: SOCKS5 takes a user name and a password of 1 to {SOCKS5_LIMIT} ASCII characters (RFC 1929)"
            )
    elif scheme.startswith("socks4"):
        # A NUL ends the name on the wire, and what follows it would be read as the server's.
        if not username.isascii() or "\0" in username or password:
            raise ValueError(
                f"{source}: SOCKS4 takes a user name of ASCII characters, without a NUL, and no password"
            )
    elif ":" in username:
        raise ValueError(f"{source}: a user name must not hold a colon (RFC 7617 2)")


def choose_proxy(proxies: Mapping[str, str], secure: bool) -> Proxy | None:
    """The proxy for a wss or ws URI.

    Args:
        proxies: what `urllib.request.getproxies` returns: by scheme, from the environment or the system's settings.
    """
    for scheme in PREFERENCE[secure]:
        if address := proxies.get(scheme, ""):
            if scheme == "socks":  # the settings of macOS and Windows call it http
                address = re.sub(r"\A(?i:http)://", "socks5h://", address)
                if "://" not in address:
                    address = f"socks5h://{address}"
            return parse_proxy(address, f"{scheme}_proxy, from the environment or the system's settings,")
    return None


class Tunnel:
    """One CONNECT: send `request`, feed what arrives until that is True.

    Args:
        host, port: of the server.
        user_agent_header: what `User-Agent` says; None leaves it out.
    """

    def __init__(self, proxy: Proxy, host: str, port: int, user_agent_header: str | None = SOFTWARE) -> None:
        self._proxy = proxy
        # RFC 9110 9.3.6: host and port, always.
        self._target = authority(without_zone(host), port)
        self._data = bytearray()
        self._search = ResponseSearch()
        lines = Headers([("Host", self._target)])
        if user_agent_header is not None:
            lines["User-Agent"] = user_agent_header
        if proxy.username is not None:
            # RFC 9110 11.7.2: for this proxy alone; the server sees none of these lines.
            lines["Proxy-Authorization"] = basic_authorization(proxy.username, proxy.password or "")
        self.request: bytes = f"CONNECT {self._target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes; whether the tunnel is open. `ProxyError` when it will not be."""
        self._data += data
        try:
            response = self._search.find(self._data)
        except HttpError as error:
            who = f"the proxy {self._proxy.shown}"
            reason = complaint(f"the answer of {who}", who, error, "https://")
            raise ProxyError(reason, seen=error.seen) from None
        return response is not None and self._check(response)

    def ended(self, cause: Exception | None = None) -> ProxyError:
        """What to raise when the proxy ends the connection before that."""
        when = "in the middle of its answer to CONNECT" if self._data else "before it answered CONNECT"
        seen = shown_start(self._data) if self._data else ""
        error = ProxyError(f"the proxy {self._proxy.shown} closed the connection {when}", seen=seen)
        error.__cause__ = cause or EOFError("end of stream")
        return error

    def _check(self, response: Response) -> bool:
        if 200 <= response.status_code < 300:
            if len(self._data) > self._search.used:
                raise ProxyError(f"the proxy {self._proxy.shown} sent bytes behind its answer to CONNECT")
            return True
        reason = (
            f"the proxy {self._proxy.shown} did not connect to {self._target}: status {response.status_code}"
        )
        if response.status_code == 407:
            known = self._proxy.username is not None
            reason += f" ({'it refuses the' if known else 'it wants a'} user name and password)"
        reason += self._proxy.named_by
        raise ProxyError(reason, status=response.status_code, headers=response.headers)
