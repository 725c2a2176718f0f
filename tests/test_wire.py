"""The oracle against the RFC's own examples: a mistake in it would be a mistake that no other test can find."""

from __future__ import annotations

import pytest
import wire
from wire import Seen

#: RFC 6455 5.7, byte for byte.
EXAMPLES = {
    "a single-frame unmasked text message": ("810548656c6c6f", [Seen(wire.TEXT, b"Hello")]),
    "a single-frame masked text message": (
        "818537fa213d7f9f4d5158",
        [Seen(wire.TEXT, b"Hello", masked=True)],
    ),
    "a fragmented unmasked text message": (
        "010348656c80026c6f",
        [Seen(wire.TEXT, b"Hel", fin=False), Seen(wire.CONTINUATION, b"lo")],
    ),
    "unmasked Ping request": ("890548656c6c6f", [Seen(wire.PING, b"Hello")]),
    "masked Ping response": ("8a8537fa213d7f9f4d5158", [Seen(wire.PONG, b"Hello", masked=True)]),
    "256 bytes binary message": ("827e0100" + "ab" * 256, [Seen(wire.BINARY, b"\xab" * 256)]),
    "64KiB binary message": ("827f0000000000010000" + "ab" * 65536, [Seen(wire.BINARY, b"\xab" * 65536)]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_rfc6455_5_7(name: str) -> None:
    data, frames = bytes.fromhex(EXAMPLES[name][0]), EXAMPLES[name][1]
    assert wire.parse(data) == frames
    built = [
        wire.frame(seen.opcode, seen.payload, fin=seen.fin, key=wire.KEY if seen.masked else None)
        for seen in frames
    ]
    assert b"".join(built) == data


@pytest.mark.parametrize("rsv", range(8))
def test_reserved_bits(rsv: int) -> None:
    data = wire.frame(wire.TEXT, b"x", rsv=rsv)
    assert data[0] == 0x81 + 0x10 * rsv
    assert wire.parse(data) == [Seen(wire.TEXT, b"x", rsv=rsv)]


@pytest.mark.parametrize(("size", "before"), [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_lengths_in_their_shortest_form(size: int, before: int) -> None:
    assert len(wire.head(wire.BINARY, size)) == before
    assert len(wire.head(wire.BINARY, size, key=wire.KEY)) == before + 4
    assert wire.parse(wire.frame(wire.BINARY, bytes(size)) + wire.frame(wire.PING))[1:] == [
        Seen(wire.PING, b"")
    ]


def test_a_frame_that_is_cut_is_a_mistake_of_the_test() -> None:
    with pytest.raises(AssertionError, match="ends inside a frame"):
        wire.parse(wire.frame(wire.TEXT, b"cut")[:-1])


def test_fragments_and_close() -> None:
    found = wire.parse(b"".join(wire.fragments(wire.TEXT, [b"a", b"b", b"c"], rsv=4)))
    assert [(seen.opcode, seen.fin, seen.rsv) for seen in found] == [
        (wire.TEXT, False, 4), (wire.CONTINUATION, False, 0), (wire.CONTINUATION, True, 0),
    ]  # fmt: skip
    assert wire.close_payload(1000, b"bye") == b"\x03\xe8bye"
    frames = wire.parse(
        wire.frame(wire.TEXT, b"text") + wire.frame(wire.CLOSE, wire.close_payload(1001, b"bye"))
    )
    assert wire.codes(frames) == [1001]


def test_messages_have_a_kind() -> None:
    assert [wire.taken_apart(message) for message in ("né", b"\xff")] == [(1, "né".encode()), (2, b"\xff")]
