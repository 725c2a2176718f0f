"""Invariant: any bytes inflate to the same messages, or are refused at the same message, at once and in pieces; no step
gives more than 64 KiB; and what our deflater makes of any messages inflates to them.

Why a message is refused may differ where it is too long by one byte, and broken right behind it: zlib reads on there
before it says that its output is full, and then says nothing of that byte.
And a peer that refers further back than the window that was agreed to is found out where these bytes are gone, which
depends on the steps: zlib looks for them in what a step has given, too. It never gets any other bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fuzz.material import Material, cuts

from zcws.codec import Deflater, Inflater
from zcws.extensions import DeflateParameters

#: What was agreed: with and without takeover, with a large and a small window.
AGREEMENTS = tuple(
    DeflateParameters(
        server_no_context_takeover=forgets, server_max_window_bits=bits, client_max_window_bits=bits
    )
    for forgets in (False, True)
    for bits in (15, 9)
)

#: Bytes of a message, more than any input has (20,000 times 16); what inflates to more is a bomb.
LIMIT = 400_000
#: Bytes that one step of inflating gives at most (zcws/codec.py).
STEP = 64 * 1024
#: What ends a message in an input.
MARK = b"\x00\xff\xff\xff"

Verdicts = list["bytes | str"]


def messages(payloads: list[bytes], parameters: DeflateParameters) -> Verdicts:
    """At once: what each payload inflates to, until one is broken or too long."""
    inflater = Inflater(parameters, is_client=True)
    found: Verdicts = []
    for payload in payloads:
        try:
            message = inflater.message(payload, LIMIT)
        except ValueError:
            return [*found, "broken"]
        assert len(message) <= LIMIT + 1
        if len(message) > LIMIT:
            return [*found, "too long"]
        found.append(message)
    return found


def in_pieces(payloads: list[bytes], parameters: DeflateParameters, chance: Any) -> Verdicts:
    """The same payloads, each in several pieces."""
    inflater = Inflater(parameters, is_client=True)
    found: Verdicts = []
    for payload in payloads:
        message = b""
        try:
            for piece in all_pieces(inflater, payload, chance):
                assert len(piece) <= STEP
                message += piece
        except ValueError:
            return [*found, "broken"]
        assert len(message) <= LIMIT + 1
        if len(message) > LIMIT:
            return [*found, "too long"]
        found.append(message)
    return found


def all_pieces(inflater: Inflater, payload: bytes, chance: Any) -> Iterator[bytes]:
    room = LIMIT
    for piece, last in [*((piece, False) for piece in cuts(payload, chance)), (b"", True)]:
        for inflated in inflater.pieces(memoryview(piece), last=last, room=room):
            yield inflated
            room -= len(inflated)
        if room < 0:
            return


def both(at_once: Verdicts, slowly: Verdicts) -> bool:
    """The same messages, and then one that is both broken and too long."""
    return at_once[:-1] == slowly[:-1] and {at_once[-1], slowly[-1]} == {"broken", "too long"}


def too_far(at_once: Verdicts, slowly: Verdicts) -> bool:
    """The same messages, until one of the two verdicts is "broken"."""
    same = min(len(at_once), len(slowly)) - 1
    return at_once[:same] == slowly[:same] and "broken" in (at_once[same], slowly[same])


def deflated(payloads: list[bytes], parameters: DeflateParameters, chance: Any) -> list[bytes]:
    """What goes out for these messages, whole or in fragments; where compressing does not pay, nothing does."""
    deflater = Deflater(
        parameters, is_client=False, level=chance.randint(1, 9), mem_level=8, threshold=0, shared={}
    )
    sent = []
    for payload in payloads:
        if chance.random() < 0.5:
            pieces = [*cuts(payload, chance), b""]
            sent.append(
                b"".join(deflater.piece(piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces))
            )
        else:
            compressed = deflater.message(payload)
            sent.append(b"" if compressed is None else compressed)
    return sent


def check(data: bytes) -> None:
    material = Material(data)
    parameters = material.one_of(AGREEMENTS)
    chance = material.random()
    payloads = material.stretched(unit=20_000).split(MARK)
    at_once = messages(payloads, parameters)
    slowly = in_pieces(payloads, parameters, chance)
    small = parameters.server_max_window_bits < 15
    assert at_once == slowly or both(at_once, slowly) or (small and too_far(at_once, slowly)), (
        "another verdict"
    )
    sent = deflated(payloads, parameters, chance)
    back = messages([payload for payload in sent if payload], parameters)
    expected = [payload for payload, compressed in zip(payloads, sent, strict=True) if compressed]
    assert back == expected, "what was deflated inflates to something else"
