"""WebSocket URIs. RFC 6455 3, RFC 3986.

What this file decides: which URIs are ws and wss URIs, and what a client needs from one. It refuses to know
about proxies, name resolution and sockets.

The text is matched against a grammar of its own, not handed to `urllib.parse.urlsplit`, which drops tabs and
line ends without a word and splits `a@b@c` at the last @: two readers that disagree about the host of a URI
are how credentials reach the wrong one.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin

__all__ = [
    *("WebSocketURI", "authority", "parse_host", "parse_port"),
    *("parse_uri", "parse_user_info", "resolve_redirect", "without_zone"),
]

#: RFC 6455 3: the port where the URI names none.
DEFAULT_PORTS = {False: 80, True: 443}
#: RFC 3986 2.2 and 2.3: what stands for itself in a path or query; and "%", which what is encoded already has.
AS_IT_IS = "/?:@!$&'()*+,;=-._~%"

grammar = re.compile(
    r"""
    ([A-Za-z][A-Za-z0-9+.\-]*) ://       # RFC 3986 3.1
    (?: ([^@/?#\[\]]*) @ )?              # 3.2.1
    ( \[[^\[\]@/?#]*\] | [^:@/?#\[\]]* ) # 3.2.2
    (?: : ([^:@/?#\[\]]*) )?             # 3.2.3, to be checked
    ( /[^?#]* )?                         # 3.3
    (?: \? ([^#]*) )?                    # 3.4
    (\#.*)?                              # 3.5
    """,
    re.VERBOSE,
).fullmatch
# Control characters and the space are nowhere in a URI (RFC 3986 2); "\" is read as "/" by browsers.
has_scheme = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:").match
has_forbidden = re.compile(r"[\x00-\x20\x7f\\]").search
replace_bytes = re.compile(r"[\x80-\xff]").sub
# RFC 3986 3.2.2: reg-name, of which only what a name server or a hosts file can hold.
is_host_name = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]*[A-Za-z0-9_.])?").fullmatch


class WebSocketURI(NamedTuple):
    """What a ws or wss URI says.

    Attributes:
        secure: whether it is wss.
        host: in lower case but for the zone of an IPv6 address, which is without its brackets.
        path: path and query, as the request line has them: the resource name of RFC 6455 3.
        username, password: percent-decoded; None without credentials.
    """

    secure: bool
    host: str
    port: int
    path: str = "/"
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shown}>"

    @property
    def user_info(self) -> tuple[str, str] | None:
        """User name and password, or None."""
        return None if self.username is None else (self.username, self.password or "")

    @property
    def host_header(self) -> str:
        """What `Host` says: the port only where it is not the scheme's own. RFC 6455 4.1, RFC 9110 7.2."""
        port = None if self.port == DEFAULT_PORTS[self.secure] else self.port
        return authority(without_zone(self.host), port)

    @property
    def shown(self) -> str:
        """For people and logs: without credentials, and without a query, which may hold a token."""
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.path.partition('?')[0]}"

    @property
    def origin(self) -> tuple[bool, str]:
        """Scheme, host and port: credentials for one origin are for no other. RFC 6454 4."""
        return self.secure, self.host_header


def authority(host: str, port: int | None) -> str:
    """Host and port as they stand in a URI; an IPv6 address in brackets. RFC 3986 3.2.2."""
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def without_zone(host: str) -> str:
    """A host as others know it, certificates too: the zone of an IPv6 address means nothing to them. RFC 6874 4."""
    return host.partition("%")[0]


def parse_uri(uri: str) -> WebSocketURI:
    """Reads a ws or wss URI; `ValueError` with a sentence for anything else, `TypeError` for what is no str."""
    if not isinstance(uri, str):
        raise TypeError(
            f'a URI is a str such as "ws://host/path", not an object of type {type(uri).__name__}'
        )
    if has_forbidden(uri):
        raise ValueError("a URI must not hold white space, control characters or backslashes")
    found = grammar(uri)
    if found is None:
        raise ValueError("not a URI with a host: expected ws://host[:port]/path or wss://...")
    scheme, user_info, host, port, path, query, fragment = found.groups()
    if scheme.lower() not in ("ws", "wss"):
        raise ValueError(f"the scheme of a WebSocket URI must be ws or wss, not {scheme}")
    if fragment:
        raise ValueError('a WebSocket URI must not have a fragment: write "%23" for "#" (RFC 6455 3)')
    secure = scheme.lower() == "wss"
    username, password = parse_user_info(user_info)
    resource = quote(path or "/", AS_IT_IS) + ("?" + quote(query, AS_IT_IS) if query else "")
    port_number = parse_port(port, DEFAULT_PORTS[secure])
    return WebSocketURI(secure, parse_host(host), port_number, resource, username, password)


def parse_user_info(user_info: str | None, of: str = "a WebSocket URI") -> tuple[str | None, str | None]:
    """User name and password, percent-decoded. RFC 3986 3.2.1."""
    if user_info is None:
        return None, None
    username, _, password = user_info.partition(":")
    try:
        return unquote(username, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:  # whose text has them
        raise ValueError(f"the user name and the password of {of} must be percent-encoded UTF-8") from None


def parse_port(port: str | None, default: int, of: str = "a WebSocket URI") -> int:
    """The port, or the scheme's own where it is missing or empty (RFC 3986 3.2.3)."""
    if not port:
        return default
    if len(port) > 5 or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        # What is no number may be a password: "ws://user:password" names no host.
        given = f", not {port}" if len(port) <= 5 and port.isascii() and port.isdigit() else ""
        raise ValueError(f"the port of {of} must be 1 to 65535{given}")
    return int(port)


def parse_host(host: str, of: str = "a WebSocket URI") -> str:
    """A name, an IPv4 address, or an IPv6 address without its brackets; what is not ASCII by IDNA."""
    if host.startswith("["):
        return parse_ipv6(host[1:-1], of)
    if not host.isascii():
        host = to_ascii(host, of)
    # RFC 1035 2.3.4: 255 octets on the wire are 253 characters, and one more for a trailing dot; labels have up to 63.
    if len(host) > 254 or not is_host_name(host) or ".." in host or max(map(len, host.split("."))) > 63:
        raise ValueError(f"the host of {of} is missing or not a host name")
    return host.lower()


def to_ascii(host: str, of: str) -> str:
    """RFC 6455 3 by RFC 3987 3.1: the labels of an international name as xn-- labels."""
    if len(host) > 254:  # before the codec, whose time is not linear in its input
        raise ValueError(f"the host of {of} is missing or not a host name")
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"the host of {of} is not a name that IDNA can encode") from None


def parse_ipv6(address: str, of: str) -> str:
    """An IPv6 address in its usual form, in lower case; a zone, written after "%25" (RFC 6874 2), is kept as it is."""
    try:
        return str(ipaddress.IPv6Address(address.replace("%25", "%", 1)))
    except ValueError:
        raise ValueError(f"the host of {of} is not an IPv6 address") from None


def resolve_redirect(uri: WebSocketURI, location: str) -> WebSocketURI:
    """Where `location`, received from `uri`, leads; `ValueError` where a client must not go.

    Never from wss to ws. The credentials of `uri` stay with its origin; those that `location` brings are its
    own.
    """
    if has_forbidden(location):
        raise ValueError("a redirect to something that is not a URI")
    # RFC 9110 10.2.2 has a URI here, which is ASCII (RFC 3986 2). A header's other characters are bytes as they came,
    # in whatever encoding the server has: it gets the same bytes back.
    location = replace_bytes(lambda byte: f"%{ord(byte[0]):02X}", location)
    target = parse_uri(absolute(uri, location.partition("#")[0]))
    if uri.secure and not target.secure:
        raise ValueError("a redirect from wss to ws is not followed")
    if target.origin != uri.origin or target.username is not None:
        return target
    return uri._replace(path=target.path)


def absolute(uri: WebSocketURI, reference: str) -> str:
    """A reference found at `uri` as a URI, with ws for http. RFC 3986 5.2."""
    scheme = "wss" if uri.secure else "ws"
    if has_scheme(reference):
        return re.sub(r"\A(?i:http)", "ws", reference)
    if reference.startswith("//"):
        return f"{scheme}:{reference}"
    # For a path that follows a host, urljoin does what the RFC says. Without a host it makes "x" of "/../x", which here
    # would continue the host's name; references with hosts or unknown schemes it does not resolve by the RFC.
    return urljoin(f"{scheme}://{uri.host_header}{uri.path}", reference)
