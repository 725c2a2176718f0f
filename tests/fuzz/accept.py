"""Invariant: a server's opening handshake gives any bytes, in any cut, one answer: "more", an HttpError whose response
can be sent, or a response; a 101 has an agreement over what was offered and allowed, and no other answer has one. What
csrc/opening.c accepts has the answer that the general rules give it.
"""

from __future__ import annotations

import re

from fuzz.material import Material, cuts

from zcws.acceptor import SWITCHING, AcceptorOptions, WebSocketAcceptor
from zcws.deflate import Deflate
from zcws.extensions import Agreement
from zcws.hooks import basic_auth
from zcws.http import HttpError
from zcws.http1 import MAX_HEAD, parse_response
from zcws.kernel import ffi, lib


def last_one(offered: list[str]) -> str | None:
    """A `select_subprotocol` that refuses where nothing is offered."""
    if not offered:
        raise HttpError(400, "a subprotocol is needed")
    return offered[-1]


SERVERS = (
    AcceptorOptions(),
    AcceptorOptions(compression="deflate"),
    AcceptorOptions(
        compression=Deflate(
            server_max_window_bits=9, client_max_window_bits=10, client_no_context_takeover=True
        ),
        subprotocols=["chat", "graphql-ws"],
    ),
    AcceptorOptions(no_masking="insecure", compression="deflate", extra_headers=[("X-Extra", "1")]),
    AcceptorOptions(select_subprotocol=last_one, server_header=None),
    AcceptorOptions(origins=["https://example.com", re.compile("https://[a-z]+[.]test"), None]),
)

ask_password = basic_auth("fuzz", ("user", "für"))

#: What can be compared of an answer: bytes used, status, its bytes, the agreement.
Answer = tuple[int, int, bytes, "Agreement | None"]


def answer(options: AcceptorOptions, pieces: list[bytes]) -> Answer | None:
    acceptor, arrived = WebSocketAcceptor(options), bytearray()
    for piece in pieces:
        arrived += piece
        assert len(arrived) - len(piece) < MAX_HEAD, "more is buffered than a head may be long"
        try:
            request = acceptor.read_request(arrived)
        except HttpError as error:
            response = acceptor.refuse(error)
            return 0, response.status_code, response.serialize(), acceptor.agreement
        if request is None:
            continue
        refusal = ask_password(None, request)
        assert refusal is None or refusal.status_code == 401
        response = acceptor.respond(request)
        assert (response.status_code == 101) == (acceptor.agreement is not None) == (acceptor.error is None)
        return acceptor.used, response.status_code, response.serialize(), acceptor.agreement
    return None


def quick_answer(options: AcceptorOptions, data: bytes) -> Answer | None:
    """The same by csrc/opening.c, as a listener asks it. None: it is not for it, or needs more."""
    opening = ffi.new("struct zcws_opening *")
    head = lib.zcws_read_opening(data, len(data), opening) % lib.ZCWS_OPENING_ASKS
    ends = ffi.unpack(opening.asked, 6)
    asked = [
        data[at:end].decode("latin-1") if end else None for at, end in zip(*[iter(ends)] * 2, strict=True)
    ]
    terms = options.terms(*asked) if head else None
    if terms is None:
        return None
    accept = ffi.buffer(opening)[: lib.ZCWS_OPENING_ACCEPT]
    return head, 101, SWITCHING + accept + terms[1], terms[0]


def check_answer(options: AcceptorOptions, given: Answer) -> None:
    used, status, written, agreement = given
    end = written.find(b"\r\n\r\n") + 4
    response = parse_response(written, end)
    assert response.status_code == status
    if agreement is None:
        assert status in (400, 403, 426, 431, 505)
        return
    assert used and written[end:] == b""
    assert options.compression is not None or agreement.deflate is None
    assert options.no_masking or not agreement.no_masking
    chosen = response.headers.get_all("sec-websocket-protocol")
    assert chosen == ([] if agreement.subprotocol is None else [agreement.subprotocol])
    told = ", ".join(response.headers.get_all("sec-websocket-extensions"))
    assert ("permessage-deflate" in told) == (agreement.deflate is not None)
    assert ("no-masking" in told) == agreement.no_masking


def check(data: bytes) -> None:
    material = Material(data)
    options = material.one_of(SERVERS)
    chance = material.random()
    request = material.stretched(unit=2000)
    whole = answer(options, [request])
    assert whole == answer(options, list(cuts(request, chance)))
    if whole is not None:
        check_answer(options, whole)
    assert quick_answer(options, request) in (None, whole)
