"""HTTP/2 as far as a WebSocket needs it: one head in the words of both versions. RFC 8441, RFC 9113.

Over HTTP/2 a WebSocket begins with an extended CONNECT and ends with its stream; what lies between is the same. So the
opening handshake is that of HTTP/1.1 for all who have a say in it (acceptor.py, connector.py, a program's hooks), and
this file translates, as a gateway in front of us would do it:

    HTTP/1.1                                   HTTP/2
    -----------------------------------------  ---------------------------------------------------------
    GET path, Upgrade: websocket               :method CONNECT, :protocol websocket, :path (RFC 8441 4)
    Host                                       :authority
    Sec-WebSocket-Key, Sec-WebSocket-Accept    neither: :protocol does their work (RFC 8441 5)
    101                                        :status 200
    any other 2xx, as of a health check        :status 400: a 2xx would open the WebSocket (RFC 9110 9.3.6)
    426                                        :status 400: there is no Upgrade here (RFC 9113 8.6)
    Connection and all that it is about        nothing (RFC 9113 8.2.2)
    one Cookie                                 as many as the peer likes (RFC 9113 8.2.3)

What this file refuses to know: frames, streams and windows, which are h2's (aio/http2.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from zcws.handshake import SWITCHED, accept_value
from zcws.headers import TOKEN, Headers, parse_lines
from zcws.http import OF_A_CONNECTION, Request, Response, reason_phrase

__all__ = [
    "ALPN",
    "PREFACE",
    "Fields",
    "check_request",
    "check_trailers",
    "is_websocket",
    "key_of",
    "missing_h2",
    "request_from",
    "request_to",
    "response_from",
    "response_to",
]

#: What a side that speaks both offers in TLS. RFC 7301, RFC 9113 3.2.
ALPN = ["h2", "http/1.1"]

#: How a client begins. RFC 9113 3.4.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: A head as HTTP/2 has it: names in lower case; those that begin with a colon come first.
Fields = list[tuple[str, str]]

#: A key for code that requires one: 16 bytes in base64.
_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="

#: Headers that are left out: those of a connection, and those that HTTP/2 does without. RFC 8441 5.
_HOP_BY_HOP = OF_A_CONNECTION | {"sec-websocket-accept", "sec-websocket-key"}

#: The pseudo-header fields that a request has, except :authority, for which Host will do. RFC 9113 8.3.1, 8.5;
#: RFC 8441 4.
_OF_A_REQUEST = {":method", ":scheme", ":path"}
_OF_A_CONNECT = {":method"}
_OF_AN_EXTENDED_CONNECT = {":method", ":protocol", ":scheme", ":path"}

# RFC 9113 8.2.1. Stricter for names: those that HTTP/1.1 cannot have are refused, too.
_is_name = re.compile(TOKEN.replace("A-Z", "")).fullmatch
_is_status = re.compile(r"[1-9][0-9]{2}").fullmatch
_is_value = re.compile(r"(?![ \t])[^\0\r\n]*(?<![ \t])").fullmatch


def missing_h2() -> ImportError:
    """The error when h2 is not installed."""
    return ImportError("WebSockets over HTTP/2 need h2: pip install 'zcws[http2]'")


def check_request(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Checks a request for what RFC 9113 8.1.1 calls malformed, which ends only the request's stream.

    Returns:
        The pseudo-header fields.

    Raises:
        ValueError: it is malformed.
    """
    pseudo: dict[str, str] = {}
    hosts = set()
    for at, (name, value) in enumerate(fields):
        if name.startswith(":"):
            # RFC 9113 8.3: before all others, and once.
            if at != len(pseudo) or name in pseudo:
                raise ValueError("a pseudo-header field has no business there")
            pseudo[name] = value
        else:
            _check_name(name)
        _check_value(name, value)
        if name in (":authority", "host"):
            hosts.add(value.lower())  # RFC 9113 8.3.1: "normalized to compare them", RFC 3986 6.2.2.1
    method, path = pseudo.get(":method"), pseudo.get(":path", "/")
    wanted = _OF_A_REQUEST
    if method == "CONNECT":
        wanted = _OF_AN_EXTENDED_CONNECT if ":protocol" in pseudo else _OF_A_CONNECT
    if pseudo.keys() - {":authority"} != wanted or len(hosts) != 1:
        raise ValueError("a request of HTTP/2 has certain pseudo-header fields, and one host")
    # RFC 9113 8.3.1: what follows the host, never the whole URI that HTTP/1.1 may have there.
    if not path.startswith("/") and (method, path) != ("OPTIONS", "*"):
        raise ValueError("a :path begins with a slash")
    return pseudo


def check_trailers(fields: Iterable[tuple[str, str]]) -> None:
    """Checks what follows the body of a request. RFC 9113 8.1: like a head, but without pseudo-header fields.

    Raises:
        ValueError: it is malformed.
    """
    for name, value in fields:
        _check_name(name)
        _check_value(name, value)


def _check_name(name: str) -> None:
    if not _is_name(name) or name in OF_A_CONNECTION:
        raise ValueError("a field has a name that HTTP/2 does not have")


def _check_value(name: str, value: str) -> None:
    if not _is_value(value) or (name == "te" and value.lower() != "trailers"):
        raise ValueError("a field has a value that HTTP/2 does not have")


def request_from(fields: Iterable[tuple[str, str]]) -> bytes:
    """The head, in HTTP/1.1, of a request that a client has sent and `check_request` has passed.

    Raises:
        ValueError: HTTP/1.1 cannot say that.
    """
    pseudo, lines = _split(fields)
    method = pseudo.get(":method", "")
    path = pseudo.get(":path", "")
    host = pseudo.get(":authority") or ", ".join(value for name, value in lines if name == "host")
    upgrade: Fields = []
    if is_websocket(pseudo):
        method, upgrade = "GET", [*SWITCHED, ("Sec-WebSocket-Key", _KEY)]
    headers = Headers([("Host", host), *upgrade, *(line for line in lines if line[0] != "host")])
    return Request(path, headers, method).serialize()


def request_to(head: bytes, *, secure: bool) -> Fields:
    """An opening handshake of ours as an extended CONNECT."""
    first, headers = _read(head)
    return [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https" if secure else "http"),
        (":authority", headers["host"]),
        (":path", first[1]),
        *_without(headers, {*_HOP_BY_HOP, "host"}),
    ]


def key_of(head: bytes) -> str:
    """The key in an opening handshake of ours, which its answer has to match."""
    return _read(head)[1]["sec-websocket-key"]


def response_from(fields: Iterable[tuple[str, str]], key: str) -> bytes:
    """The head, in HTTP/1.1, of a response that a server has sent.

    Args:
        key: of the request.

    Raises:
        ValueError: HTTP/1.1 cannot say that.
    """
    pseudo, lines = _split(fields)
    if not _is_status(pseudo[":status"]):
        # RFC 9110 15: "a three-digit integer code"; int() takes "+200" and "2_00" as well.
        raise ValueError("a status has three digits")
    status = int(pseudo[":status"])
    if 200 <= status < 300:  # RFC 8441 5: any of these; RFC 9110 9.3.6
        status, ours = 101, [*SWITCHED, ("Sec-WebSocket-Accept", accept_value(key))]
        lines = [line for line in lines if line[0] != "content-length"]
    else:
        ours = [("Connection", "close")]
    return Response(status, reason_phrase(status), Headers([*ours, *lines])).serialize()


def response_to(head: bytes, *, is_websocket: bool) -> Fields:
    """A response of ours.

    Args:
        is_websocket: whether it is for an extended CONNECT.
    """
    first, headers = _read(head)
    status = int(first[1])
    if status == 101:
        status = 200
    elif status == 426 or (is_websocket and 200 <= status < 300):
        status = 400
    return [(":status", str(status)), *_without(headers, _HOP_BY_HOP)]


def is_websocket(pseudo: dict[str, str]) -> bool:
    """Whether these pseudo-header fields ask for a WebSocket. RFC 8441 4."""
    return pseudo.get(":method") == "CONNECT" and pseudo.get(":protocol") == "websocket"


def _read(head: bytes) -> tuple[list[str], Headers]:
    """The words of the first line, and the headers, of a head of ours, to which the limits for a peer do not apply."""
    first, _, rest = str(head, "latin-1").partition("\r\n")
    return first.split(" "), Headers.trusted(parse_lines(f"\r\n{rest}"))


def _split(fields: Iterable[tuple[str, str]]) -> tuple[dict[str, str], Fields]:
    """The pseudo-header fields, and those lines of the others that HTTP/1.1 has as well."""
    pseudo: dict[str, str] = {}
    lines: Fields = []
    cookies: list[str] = []
    for name, value in fields:
        if name.startswith(":"):
            pseudo[name] = value
        elif name == "cookie":
            cookies.append(value)
        elif name not in _HOP_BY_HOP:
            lines.append((name, value))
    if cookies:
        lines.append(("cookie", "; ".join(cookies)))  # RFC 9113 8.2.3
    return pseudo, lines


def _without(headers: Headers, names: Iterable[str]) -> Fields:
    """RFC 9113 8.2.2: nor the headers that `Connection` names."""
    named = headers.combined().get("connection", "").lower().split(",")
    dropped = {*names, *(name.strip(" \t") for name in named)}
    return [(low, value) for name, value in headers.raw_items() if (low := name.lower()) not in dropped]
