"""The rules of the opening handshake: what each side must find in the other's head. RFC 6455 4.

What this file decides: whether a request asks for a WebSocket and whether a response grants it. It refuses to
know what the two sides want (origins, subprotocols, extensions: acceptor.py and connector.py) and where a
head comes from.

`REQUEST_RULES` and `RESPONSE_RULES` are the whole of it: a header, what its value must look like, and what to
say when it does not. A header that came more than once is looked at as one list (RFC 9110 5.3), and what may
come only once has a grammar without commas, so that a repeat fails like any other wrong value.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import sys
from collections.abc import Callable, Mapping
from typing import Literal

from zcws.errors import HandshakeError
from zcws.headers import Headers, HeadersLike
from zcws.http import HttpError, Request, Response

__all__ = [
    "NO_MASKING",
    "SOFTWARE",
    "SWITCHED",
    "VERSION",
    "NoMasking",
    "accept_value",
    "allows_no_masking",
    "basic_authorization",
    "check_request",
    "check_response",
    "checked_additional",
    "first_broken",
    "make_key",
    "parse_basic_authorization",
    "same_text",
]

#: RFC 6455 4.1: the version of the protocol.
VERSION = "13"
#: RFC 6455 4.1 and 4.2.2: what a request says of the connection, and the 101 that grants it.
SWITCHED = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
#: RFC 6455 1.3: shows that the server speaks WebSocket, and not something that merely echoes.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Headers that only the handshake itself may send.
RESERVED = frozenset(
    (
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    )
)
#: RFC 6455 4.1: bytes of entropy in a key.
KEY_SIZE = 16

#: draft-damjanovic-websockets-nomasking-02: the extension's token; it has no parameters.
NO_MASKING = "no-masking"
#: `no_masking=`: False is never, True over TLS only, "insecure" in the clear too.
NoMasking = bool | Literal["insecure"]
#: What `Server` and `User-Agent` say; without our version, which would help attackers who look for an old one.
SOFTWARE = f"Python/{sys.version_info.major}.{sys.version_info.minor} zcws"

Check = Callable[[str], object]


def in_list(token: str) -> Check:
    """Whether a list (RFC 9110 5.6.1) holds `token`, in any case: Firefox sends `keep-alive, Upgrade`."""
    return re.compile(rf"(?:^|,)[ \t]*{token}[ \t]*(?:,|$)", re.IGNORECASE).search


def fullmatch(pattern: str) -> Check:
    """Whether a value is what `pattern` says, and nothing more."""
    return re.compile(pattern).fullmatch


UPGRADE = {"Upgrade": "websocket"}
NOT_A_WEBSOCKET = (
    'this is a WebSocket server: connect with a WebSocket client (no "Upgrade: websocket" in the request)'
)
NOT_FORWARDED = 'no "Connection: Upgrade" in the request (a proxy may have removed it)'
NOT_HTTP_1_1 = "an opening handshake needs HTTP/1.1"
#: What is said instead where a key shows that a WebSocket client has asked: proxies remove Upgrade and Connection
#: (RFC 9110 7.6.1), and nginx speaks HTTP/1.0 to its servers, unless it is configured otherwise.
CHANGED_ON_THE_WAY = {
    NOT_A_WEBSOCKET: 'no "Upgrade: websocket" in the request (a proxy may have removed it)',
    NOT_HTTP_1_1: f"{NOT_HTTP_1_1} (a proxy may have made it HTTP/1.0)",
}

#: Stands for the value of a missing header: no header can have it (RFC 9110 5.5). An empty header is another matter.
ABSENT = "\0"

#: Header, check, and the answer where the check fails: status, sentence, headers.
REQUEST_RULES: tuple[tuple[str, Check, int, str, dict[str, str]], ...] = (
    # RFC 9112 3.2: exactly one Host, of RFC 3986's host and port; no list.
    (
        "host",
        fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(?::[0-9]*)?"),
        400,
        "not exactly one valid Host header",
        {},
    ),
    # A body would be read as frames by us, and perhaps not by a proxy in between: request smuggling.
    ("transfer-encoding", fullmatch(ABSENT), 400, "an opening handshake must not have a body", {}),
    ("content-length", fullmatch(f"0|{ABSENT}"), 400, "an opening handshake must not have a body", {}),
    # RFC 6455 4.2.1, 3 and 4; RFC 9110 15.5.22: 426 says what to upgrade to.
    ("upgrade", in_list("websocket"), 426, NOT_A_WEBSOCKET, UPGRADE),
    ("connection", in_list("upgrade"), 426, NOT_FORWARDED, UPGRADE),
    # RFC 6455 4.4
    (
        "sec-websocket-version",
        fullmatch(VERSION),
        426,
        "only version 13 of the WebSocket protocol is spoken here",
        {**UPGRADE, "Sec-WebSocket-Version": VERSION},
    ),
    # RFC 6455 4.2.1, 5: 16 bytes in base64. Looser than RFC 4648 3.5 allows: the unused bits may be anything.
    (
        "sec-websocket-key",
        fullmatch(r"[A-Za-z0-9+/]{22}=="),
        400,
        "not exactly one Sec-WebSocket-Key of 16 bytes in base64",
        {},
    ),
)

#: Header, check, and the sentence where the check fails. RFC 6455 4.1, "the client MUST validate".
RESPONSE_RULES: tuple[tuple[str, Check, str], ...] = (
    ("upgrade", fullmatch("(?i:websocket)"), 'the response has no "Upgrade: websocket"'),
    ("connection", in_list("upgrade"), 'the response has no "Connection: Upgrade"'),
)


def make_key(entropy: bytes) -> str:
    """A Sec-WebSocket-Key from 16 random bytes. RFC 6455 4.1."""
    if len(entropy) != KEY_SIZE:
        raise ValueError("a key is made of 16 bytes")
    return binascii.b2a_base64(entropy, newline=False).decode()


def accept_value(key: str) -> str:
    """The Sec-WebSocket-Accept that answers `key`. RFC 6455 4.2.2."""
    digest = hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False).decode()


def checked_additional(option: str, given: HeadersLike | None) -> Headers:
    """The headers that a program gave in `option`.

    Raises: TypeError, ValueError: they are no headers, or only the handshake itself may send one of them.
    """
    try:
        headers = Headers(given or ())
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"{option}: {exc}") from None
    said = sorted(name for name in RESERVED if name in headers)
    if said:
        raise ValueError(
            f"{option} must not hold headers of the opening handshake itself: leave out {', '.join(said)}; "
            "subprotocols= and compression= say what there is to choose"
        )
    return headers


def check_request(request: Request) -> str:
    """The key of a request that opens a WebSocket; `HttpError` says why another does not. RFC 6455 4.2.1."""
    if request.method != "GET":
        raise HttpError(400, "the method of an opening handshake must be GET")
    values = request.headers.combined()
    if request.version == "HTTP/1.0":
        raise refusal(values, 400, NOT_HTTP_1_1)
    if not request.path.startswith("/"):
        raise HttpError(400, "the target of an opening handshake must be a path")
    for name, check, status, reason, headers in REQUEST_RULES:
        if not check(values.get(name, ABSENT)):
            raise refusal(values, status, reason, headers)
    return values["sec-websocket-key"]


def refusal(
    values: Mapping[str, str], status: int, reason: str, headers: Mapping[str, str] | None = None
) -> HttpError:
    """The answer to a request with these headers that breaks a rule."""
    if "sec-websocket-key" in values:
        reason = CHANGED_ON_THE_WAY.get(reason, reason)
    return HttpError(status, reason, headers)


def check_response(response: Response, key: str) -> None:
    """Whether `response` grants the WebSocket that was asked for with `key`; `HandshakeError` if not."""
    headers = response.headers
    if response.status_code != 101:
        reason = f"the server answered with status {response.status_code} instead of 101"
    elif response.version == "HTTP/1.0":
        reason = "the server answered in HTTP/1.0, which has no Upgrade"
    else:
        reason = first_broken(headers, key)
    if reason:
        raise HandshakeError(reason, status=response.status_code, headers=headers, body=response.body)


def first_broken(headers: Headers, key: str) -> str:
    """The sentence of the first rule that the headers of a 101 break, or ""."""
    values = headers.combined()
    for name, check, reason in RESPONSE_RULES:
        if not check(values.get(name, "")):
            return reason
    accept = values.get("sec-websocket-accept")
    if accept == accept_value(key):
        return ""
    if accept is None:
        return "the response has no Sec-WebSocket-Accept"
    # It comes from a cache, or from a server that computed it from something else.
    return "the Sec-WebSocket-Accept of the response does not answer the request's key"


def allows_no_masking(no_masking: NoMasking, secure: bool) -> bool:
    """Whether no-masking may be offered or agreed: over TLS, or where somebody wrote "insecure"."""
    if no_masking == "insecure":
        return True
    if not isinstance(no_masking, bool):
        raise ValueError(f'no_masking must be False, True or "insecure", not {no_masking!r}')
    # The draft, 3: "The client MUST NOT send the extension if a non-secure connection is used".
    return no_masking and secure


def basic_authorization(username: str, password: str) -> str:
    """The value of `Authorization` for these credentials. RFC 7617 2."""
    if ":" in username:
        raise ValueError("a user name must not hold a colon (RFC 7617 2)")
    return "Basic " + binascii.b2a_base64(f"{username}:{password}".encode(), newline=False).decode()


def parse_basic_authorization(value: str) -> tuple[str, str] | None:
    """User name and password in the value of `Authorization`; None where there are none to be found."""
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = binascii.a2b_base64(token.strip().encode("ascii")).decode()
    except ValueError:
        return None
    username, colon, password = text.partition(":")
    return (username, password) if colon else None


def same_text(ours: str, theirs: str) -> bool:
    """Whether two secrets are the same, in a time that does not tell how far they agree."""
    return hmac.compare_digest(ours.encode(), theirs.encode())
