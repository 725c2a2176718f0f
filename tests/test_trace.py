from __future__ import annotations

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st

from zcws.trace import Tracer


def lines_of(*pieces: bytes) -> list[str]:
    lines: list[str] = []
    tracer = Tracer(lines.append, "<")
    for piece in pieces:
        tracer.feed(piece)
    return lines


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (wire.frame(wire.TEXT, b"hello"), "< TEXT 'hello' [5 bytes]"),
        (wire.frame(wire.TEXT, b"hello", key=wire.KEY), "< TEXT 'hello' [5 bytes, masked]"),
        (wire.frame(wire.TEXT), "< TEXT [0 bytes]"),
        (wire.frame(wire.BINARY, b"\x00\xff"), "< BINARY 00 ff [2 bytes]"),
        (wire.frame(wire.TEXT, b"a" * 200), f"< TEXT '{'a' * 64}'... [200 bytes]"),
        (
            wire.frame(wire.BINARY, bytes(70_000), key=wire.KEY),
            f"< BINARY {bytes(64).hex(' ')}... [70000 bytes, masked]",
        ),
        (wire.frame(wire.TEXT, b"a", fin=False), "< TEXT 'a' [1 byte, more follows]"),
        (wire.frame(wire.CONTINUATION, b"a"), "< CONTINUATION 61 [1 byte]"),
        (wire.frame(wire.TEXT, b"\x01\x02", rsv=4), "< TEXT 01 02 [2 bytes, compressed]"),
        (wire.frame(wire.PING, b"\xff"), r"< PING '\\xff' [1 byte]"),
        (wire.frame(wire.CLOSE, wire.close_payload(1000, b"bye")), "< CLOSE 1000 'bye' [5 bytes]"),
        (wire.frame(wire.CLOSE, wire.close_payload(1001)), "< CLOSE 1001 [2 bytes]"),
        (wire.frame(wire.CLOSE), "< CLOSE [0 bytes]"),
        (wire.frame(wire.CLOSE, b"\x03"), "< CLOSE 03 [1 byte]"),
        (wire.frame(5, b"a"), "< OPCODE 5 61 [1 byte]"),
    ],
)
def test_a_frame_is_a_line(frame: bytes, line: str) -> None:
    assert lines_of(frame) == [line]
    assert lines_of(*(frame[i : i + 1] for i in range(len(frame)))) == [line]
    assert lines_of(frame[:-1]) == []
    assert lines_of(frame + frame) == [line, line]


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=8),
    st.lists(st.integers(1, 50), max_size=60),
)
def test_pieces_do_not_matter(frames: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    """Property: the lines are the same whichever way the bytes come."""
    stream = b"".join(
        wire.frame(wire.BINARY, data, key=wire.KEY if masks else None) for data, masks in frames
    )
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(stream[at : at + cut])
        at += cut
    assert lines_of(*pieces, stream[at:]) == lines_of(stream)
    assert len(lines_of(stream)) == len(frames)
