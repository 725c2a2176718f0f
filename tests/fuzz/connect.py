"""Invariant: a client gives any response, in any cut, one verdict: "more", a HandshakeError, or an agreement over what
it had offered; a body ends in the same place in any cut and within its limit; a redirect leads to a ws or wss URI or
is a HandshakeError, and never from wss to ws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fuzz.material import Material, cuts

from zcws.body import MAX_BODY
from zcws.connector import WebSocketConnector
from zcws.deflate import Deflate
from zcws.errors import HandshakeError
from zcws.extensions import Agreement
from zcws.http import Response
from zcws.http1 import MAX_HEAD

#: Always the same key, so that corpora can hold its answer.
entropy = bytes

PLAIN, SECURE = "ws://example.com/chat", "wss://user:word@example.com/chat"

CLIENTS: tuple[Callable[[], WebSocketConnector], ...] = tuple(
    partial(WebSocketConnector, uri, entropy=entropy, **options)
    for uri, options in (
        (PLAIN, {}),
        (PLAIN, {"compression": "deflate", "subprotocols": ["chat", "graphql-ws"]}),
        (SECURE, {"no_masking": True, "additional_headers": {"Cookie": "a=b"}}),
        (
            PLAIN,
            {
                "compression": Deflate(
                    server_max_window_bits=10, client_max_window_bits=12, server_no_context_takeover=True
                ),
                "no_masking": "insecure",
                "basic_auth": ("user", "word"),
            },
        ),
        (SECURE.replace("user:word@", ""), {"bearer": "token", "compression": "deflate"}),
    )
)

#: What can be compared of a verdict: its kind, and what goes with it.
Verdict = tuple[Any, ...]


def read(make: Callable[[], WebSocketConnector], pieces: list[bytes]) -> Verdict:
    connector, arrived = make(), bytearray()
    for at, piece in enumerate(pieces):
        arrived += piece
        assert len(arrived) - len(piece) < MAX_HEAD, "more is buffered than heads may be long"
        try:
            response = connector.read_response(arrived)
        except HandshakeError as error:
            return "no response", error.reason
        if response is not None:
            behind = [bytes(arrived[connector.used :]), *pieces[at + 1 :]]
            return judge(connector, response, behind)
    return ("more",)


def judge(connector: WebSocketConnector, response: Response, behind: list[bytes]) -> Verdict:
    target = redirected(connector, response)
    if response.status_code != 101:
        reader = connector.body_reader(response)
        for piece in behind:
            if not reader.done:
                reader.feed(piece)
        response.body = reader.body
        assert len(response.body) <= MAX_BODY
    try:
        agreement = connector.check(response)
    except HandshakeError as error:
        assert error.status == response.status_code
        return "refused", error.reason, error.body, target, connector.used
    check_agreement(connector, agreement)
    return "agreed", agreement, target, connector.used


def redirected(connector: WebSocketConnector, response: Response) -> str | None:
    """The URI that the response redirects to, or the sentence that refuses it."""
    try:
        other = connector.redirect(response)
    except HandshakeError as error:
        return error.reason
    if other is None:
        return None
    assert other.uri.secure or not connector.uri.secure
    request = other.request()
    assert request.count(b"\r\n\r\n") == 1 and request.endswith(b"\r\n\r\n")
    if other.uri.origin != connector.uri.origin:
        assert b"a=b" not in request and b"token" not in request
    return str(other.uri)


def check_agreement(connector: WebSocketConnector, agreement: Agreement) -> None:
    request = connector.request()
    assert agreement.subprotocol is None or agreement.subprotocol.encode() in request
    assert agreement.deflate is None or b"permessage-deflate" in request
    assert not agreement.no_masking or b"no-masking" in request


def check(data: bytes) -> None:
    material = Material(data)
    make = material.one_of(CLIENTS)
    chance = material.random()
    response = material.stretched(unit=2000)
    whole = read(make, [response])
    assert whole == read(make, list(cuts(response, chance)))
