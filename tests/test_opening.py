"""csrc/opening.c against the rules that it is a short cut for: what it accepts they accept, with the same answer."""

from __future__ import annotations

import os
import string
from typing import NamedTuple

import pytest
from heads import ACCEPT, KEY, TRAILING, head, names, request
from hypothesis import given
from hypothesis import strategies as st

from zcws.acceptor import SWITCHING, AcceptorOptions, WebSocketAcceptor
from zcws.handshake import accept_value, make_key
from zcws.http import Response
from zcws.http1 import MAX_HEADERS, MAX_LINE, parse_response
from zcws.kernel import ffi, lib

ASKS = lib.ZCWS_OPENING_ASKS


class Found(NamedTuple):
    """What C says of a head that it accepts."""

    size: int
    accept: bytes
    asked: list[str | None]


def read(data: bytes) -> Found | None:
    opening = ffi.new("struct zcws_opening *")
    count = lib.zcws_read_opening(data, len(data), opening)
    if not count:
        return None
    size, ends = count % ASKS, ffi.unpack(opening.asked, 6)
    asked = [
        data[at:end].decode("latin-1") if end else None for at, end in zip(ends[::2], ends[1::2], strict=True)
    ]
    assert (count >= ASKS) == any(asked)
    return Found(size, ffi.buffer(opening)[: lib.ZCWS_OPENING_ACCEPT], asked)


def quick(data: bytes, options: AcceptorOptions) -> Response | None:
    """The answer without the general rules, as the listener makes it."""
    found = read(data)
    terms = found and options.terms(*found.asked)
    if not found or not terms:
        return None
    answer = SWITCHING + found.accept + terms[1]
    return parse_response(answer, len(answer))


def slow(data: bytes, options: AcceptorOptions) -> tuple[int, Response]:
    acceptor = WebSocketAcceptor(options)
    asked = acceptor.read_request(data)
    assert asked is not None
    return acceptor.used, acceptor.respond(asked)


def check(data: bytes, options: AcceptorOptions) -> bool:
    """Whether it is one of the usual kind; if it is, both answers are the same."""
    found, answer = read(data), quick(data, options)
    if found is None or answer is None:
        return False
    used, response = slow(data, options)
    assert used == found.size
    assert response == answer
    assert response.serialize() == SWITCHING + found.accept + (options.terms(*found.asked) or (None, b""))[1]
    return True


OPTIONS = [
    AcceptorOptions(),
    AcceptorOptions(compression="deflate", no_masking="insecure", server_header=None),
    AcceptorOptions(subprotocols=["chat", "superchat"], extra_headers={"X-Served-By": "caf\xe9"}),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", names("request"))
def test_known_clients(name: str, options: AcceptorOptions) -> None:
    """All of them are of the usual kind but wtx, which has a line for each of its extensions."""
    assert check(head(name) + TRAILING, options) == (name != "request-wtx")


def test_the_request_of_the_rfc() -> None:
    found = read(request() + TRAILING)
    assert found == (len(request()), ACCEPT.encode(), [None, None, None])


def test_every_key_has_its_accept() -> None:
    for _ in range(500):
        key = make_key(os.urandom(16))
        found = read(request(("Sec-WebSocket-Key", key)))
        assert found is not None
        assert found.accept == accept_value(key).encode()


def test_what_decides_about_the_terms() -> None:
    found = read(
        request(
            ("Origin", "https://example.com"),
            ("Sec-WebSocket-Protocol", "chat, superchat"),
            ("Sec-WebSocket-Extensions", "permessage-deflate"),
        )
    )
    assert found is not None
    assert found.asked == ["https://example.com", "chat, superchat", "permessage-deflate"]


@pytest.mark.parametrize(
    "data",
    [
        request(("Connection", "keep-alive, Upgrade")),
        request(("Upgrade", "WebSocket"), ("Host", "a-b_c.example:8765")),
        request(("X-Any", 'caf\xe9 "quoted", \t?')),
        request(first="GET /chat?x=%20&y=~ HTTP/1.1"),
        request().replace(b"Host: ", b"hOsT:"),
    ],
)
def test_accepted(data: bytes) -> None:
    assert check(data, OPTIONS[0])


@pytest.mark.parametrize(
    "data",
    [
        *[request((name, None)) for name in ("Host", "Upgrade", "Connection", "Sec-WebSocket-Key")],
        request(("Sec-WebSocket-Version", None)),
        request(("Sec-WebSocket-Version", "14")),
        request(("Sec-WebSocket-Key", KEY[:-1])),
        request(("Sec-WebSocket-Key", KEY[:-2] + "A=")),
        request(("Sec-WebSocket-Key", "." * 22 + "==")),
        request(("Upgrade", "h2c")),
        request(("Connection", "close")),
        *[request(("Host", host)) for host in ("a:b", ":80", "a b", "a,b", "[::1]:80", "a/b")],
        *[request(("Content-Length", "0")), request(("Transfer-Encoding", "chunked"))],
        *[request(("X-Any", value)) for value in ("", " x", "x ", "\t", "a\x00b", "a\x7fb", "a\nb", "a\rb")],
        *[request((name, "x")) for name in ("X Any", "X\xe9", "")],
        request().replace(b"\r\nUpgrade: websocket", b"\r\nUpgrade: websocket\r\nUpgrade: websocket"),
        request().replace(b"\r\nHost: ", b"\r\nHost : "),
        request().replace(b"\r\nHost: ", b"\r\nHost: a\r\n "),
        request().replace(b"\r\n", b"\n"),
        request()[:-2] + b":\n",
        # Any other name of that length is not Host.
        *[request(("Host", None), ("x" * size, "a")) for size in range(1, 30)],
        b"\r\n" + request(),
        *[
            request(first=first)
            for first in ("POST /chat HTTP/1.1", "GET /chat HTTP/1.0", "GET chat HTTP/1.1")
        ],
        *[
            request(first=first)
            for first in (
                "GET  /chat HTTP/1.1",
                "GET /ch at HTTP/1.1",
                "GET /\xe9 HTTP/1.1",
                "GET /a#b HTTP/1.1",
            )
        ],
        request(first="GET http://example.com/chat HTTP/1.1"),
        request(*[(name, "x") for name in ("Origin", "origin")]),
    ],
)
def test_for_the_general_rules(data: bytes) -> None:
    assert read(data) is None


SIGNS = b"!#$%&'*+-.^_`|~"
WORDS = (string.ascii_letters + string.digits).encode()


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (request(("X-@@Any", "x")), WORDS + SIGNS + b":"),  # RFC 9110 5.6.2, and where the name ends
        (request(("X-Any", "a@@b")), bytes({*range(256)} - {*range(32), 127} | {9})),  # RFC 9110 5.5
        (request().replace(b"GET /", b"GET /@@"), bytes({*range(33, 127)} - {*b"#"})),  # RFC 9112 3.2
        (request(("Host", "a@@b")), WORDS + b"-._"),  # the names that are in use
        (request(("Sec-WebSocket-Key", "@@" + KEY[1:])), WORDS + b"+/"),  # RFC 4648 4
    ],
    ids=["name", "value", "target", "host", "key"],
)
def test_every_byte(data: bytes, taken: bytes) -> None:
    found = {byte for byte in range(256) if check(data.replace(b"@@", bytes([byte])), OPTIONS[0])}
    assert found == {*taken}


def test_every_cut_needs_more() -> None:
    data = request(("Origin", "x"))
    assert [at for at in range(len(data) + 1) if read(data[:at])] == [len(data)]


@pytest.mark.parametrize("count", [MAX_HEADERS - 5, MAX_HEADERS - 4])
def test_as_many_headers_as_there_may_be(count: int) -> None:
    data = request(*[(f"X-{n}", "x") for n in range(count)])
    assert (read(data) is not None) == (count == MAX_HEADERS - 5)


def test_a_long_head() -> None:
    assert lib.ZCWS_OPENING_MOST <= MAX_LINE
    rest = lib.ZCWS_OPENING_MOST - len(request(("Cookie", "")))
    assert check(request(("Cookie", "x" * rest)), OPTIONS[0])
    assert read(request(("Cookie", "x" * (rest + 1)))) is None


PIECES = st.sampled_from(
    [
        *[
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b":",
            b",",
            b"\x00",
            b"\x7f",
            b"\x80",
            b"\xff",
            b"x",
            b"=",
            b"A",
        ],
        *[b"Host: x\r\n", b"Upgrade: websocket\r\n", b"Content-Length: 0\r\n", b"Origin: x\r\n", b"X: y\r\n"],
    ]
)


@given(st.sampled_from(names("request")), st.data())
def test_what_it_accepts_the_rules_accept(name: str, draw: st.DataObject) -> None:
    data = bytearray(head(name))
    for _ in range(draw.draw(st.integers(0, 3))):
        at = draw.draw(st.integers(0, len(data)))
        data[at : at + draw.draw(st.integers(0, 2))] = draw.draw(PIECES)
    for options in OPTIONS:
        check(bytes(data), options)


def test_terms_that_the_program_chooses() -> None:
    assert AcceptorOptions(select_subprotocol=lambda offered: None).terms(None, "chat", None) is None
    assert AcceptorOptions(subprotocols=["chat"]).terms(None, "a b", None) is None
    assert AcceptorOptions(origins=["https://here"]).terms("https://there", None, None) is None
    assert AcceptorOptions(origins=["https://here"]).terms("https://here", None, None) is not None
