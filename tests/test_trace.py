from __future__ import annotations

import zlib
from typing import Any

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
        (wire.frame(wire.BINARY, b"a", rsv=3), "< BINARY 61 [1 byte, rsv2, rsv3]"),
        (wire.frame(wire.PING, b"a", rsv=4), "< PING 'a' [1 byte, rsv1]"),
        (wire.frame(wire.TEXT, "é".encode() * 50), f"< TEXT '{'é' * 32}'... [100 bytes]"),
        (wire.frame(wire.TEXT, b"a" + "é".encode() * 50), f"< TEXT 'a{'é' * 31}'... [101 bytes]"),
    ],
)
def test_a_frame_is_a_line(frame: bytes, line: str) -> None:
    assert lines_of(frame) == [line]
    assert lines_of(*(frame[i : i + 1] for i in range(len(frame)))) == [line]
    assert lines_of(frame[:-1]) == []
    assert lines_of(frame + frame) == [line, line]


def test_a_message_in_fragments_is_text_to_its_end() -> None:
    lines = lines_of(
        wire.frame(wire.TEXT, b"a", fin=False),
        wire.frame(wire.PING, b"b"),
        wire.frame(wire.CONTINUATION, b"c"),
        wire.frame(wire.CONTINUATION, b"d"),
    )
    assert lines[2:] == ["< CONTINUATION 'c' [1 byte]", "< CONTINUATION 64 [1 byte]"]


def deflated(stream: Any, data: bytes, *, last: bool = True) -> bytes:
    """RFC 7692 7.2.1 with the standard library."""
    compressed: bytes = stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)
    return compressed[:-4] if last else compressed


@pytest.mark.parametrize("step", [1, 7, 1_000_000])
@pytest.mark.parametrize("key", [None, wire.KEY])
def test_rfc7692_7_2_2_messages_are_decompressed(step: int, key: bytes | None) -> None:
    stream = zlib.compressobj(wbits=-15)
    payloads = [
        deflated(stream, b"hello"),
        deflated(stream, b"hello"),  # refers to the first
        deflated(stream, b"hel", last=False),
        deflated(stream, b"lo"),
        deflated(stream, bytes(1_000_000)),  # passes by in steps
    ]
    frames = [
        wire.frame(wire.TEXT, payloads[0], rsv=4, key=key),
        wire.frame(wire.TEXT, payloads[1], rsv=4, key=key),
        wire.frame(wire.TEXT, payloads[2], rsv=4, fin=False, key=key),
        wire.frame(wire.PING, b"between", key=key),
        wire.frame(wire.CONTINUATION, payloads[3], key=key),
        wire.frame(wire.BINARY, b"plain", key=key),
        wire.frame(wire.BINARY, payloads[4], rsv=4, key=key),
    ]
    lines: list[str] = []
    tracer = Tracer(lines.append, inflates=True)
    data = b"".join(frames)
    for at in range(0, len(data), step):
        tracer.feed(data[at : at + step])
    begins = ["TEXT 'hello' [", "TEXT 'hello' [", "TEXT 'hel' [", "PING 'between' [", "CONTINUATION 'lo' ["]
    begins += [
        "BINARY 70 6c 61 69 6e [",
        f"BINARY {bytes(64).hex(' ')}... [{len(payloads[4])} bytes, compressed",
    ]
    assert [line[: len(begin)] for line, begin in zip(lines, begins, strict=True)] == begins


def test_rfc7692_7_2_3_4_a_final_block() -> None:
    stream = zlib.compressobj(wbits=-15)
    lines: list[str] = []
    tracer = Tracer(lines.append, inflates=True)
    payload = stream.compress(b"Hello") + stream.flush(zlib.Z_FINISH) + b"\x00"
    # The byte behind it begins the block that the tail ends; who leaves it out is understood as well (codec.py).
    for data in (payload, payload[:-1], b"", deflated(zlib.compressobj(wbits=-15), b"again")):
        tracer.feed(wire.frame(wire.TEXT, data, rsv=4))
    assert [line.split(" [")[0] for line in lines] == ["TEXT 'Hello'", "TEXT 'Hello'", "TEXT", "TEXT 'again'"]


def test_a_message_of_ever_more_streams_is_not_decompressed() -> None:
    """131,072 of them in 256 KiB took a second, in the event loop of a server that logs at DEBUG."""
    lines: list[str] = []
    tracer = Tracer(lines.append, inflates=True)
    for count in (64, 64, 65):
        tracer.feed(wire.frame(wire.BINARY, b"\x03\x00" * count, rsv=4))
    assert lines == [
        *["BINARY [128 bytes, compressed]"] * 2,
        "(not DEFLATE data: nothing is decompressed from here on)",
        "BINARY [130 bytes, compressed]",
    ]


def test_what_cannot_be_decompressed_is_said_and_frames_go_on() -> None:
    lines: list[str] = []
    tracer = Tracer(lines.append, inflates=True)
    tracer.feed(wire.frame(wire.TEXT, b"\xff\xff\xff", rsv=4))
    tracer.feed(wire.frame(wire.TEXT, b"\x01\x02", rsv=4) + wire.frame(wire.TEXT, b"later"))
    assert lines[0] == "(not DEFLATE data: nothing is decompressed from here on)"
    assert lines[1:] == [
        "TEXT [3 bytes, compressed]",
        "TEXT 01 02 [2 bytes, compressed]",
        "TEXT 'later' [5 bytes]",
    ]


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


def test_what_stands_between_the_fragments_of_a_compressed_message() -> None:
    lines: list[str] = []
    first = wire.frame(wire.TEXT, b"\x01", rsv=4, fin=False)
    for inflates in (True, False):
        tracer = Tracer(lines.append, "<")
        tracer.inflates = inflates
        tracer.feed(first + wire.frame(wire.PING, b"p") + wire.frame(wire.CLOSE, wire.close_payload(1000)))
    assert lines[1:3] == lines[4:] == ["< PING 'p' [1 byte]", "< CLOSE 1000 [2 bytes]"]
    assert lines_of(wire.frame(wire.CLOSE, rsv=4)) == ["< CLOSE [0 bytes, rsv1]"]
    text = wire.fragments(wire.TEXT, [b"a", b"b"])
    assert lines_of(text[0], wire.frame(wire.CLOSE), text[1])[2] == "< CONTINUATION 'b' [1 byte]"
