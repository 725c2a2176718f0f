"""Rows are what the C core says that they are: each kind, scanned."""

from __future__ import annotations

import pytest
import turn
import wire
from receiver import DEFLATE, connect
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from zcws import rows
from zcws.kernel import lib
from zcws.pool import Pool


def scanned(frames: bytes) -> list[int]:
    """What each row of these is."""
    pool = Pool(4096)
    words = turn.arrive(pool, connect(pool, agreement=DEFLATE), frames).words
    return words[lib.ZCWS_TABLE_HEAD :: lib.ZCWS_TABLE_ROW]


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_whole_frames(opcode: int) -> None:
    (what,) = scanned(wire.frame(opcode, b""))
    assert rows.WHOLE[what] == opcode
    assert what & rows.PART == rows.WHOLE_PART
    assert bool(what & rows.CONTROL) is (opcode >= CLOSE)
    assert (what == rows.WHOLE_TEXT, what == rows.WHOLE_BINARY) == (opcode == TEXT, opcode == BINARY)


def test_whole_compressed_frames() -> None:
    text, binary = (scanned(wire.frame(opcode, b"\x00", rsv=4)) for opcode in (TEXT, BINARY))
    assert (text, binary) == ([rows.DEFLATED_TEXT], [rows.DEFLATED_BINARY])
    assert {*text, *binary} == rows.DEFLATED
    assert not rows.DEFLATED & rows.WHOLE.keys()


def test_fragments_carry_the_opcode_of_their_message() -> None:
    frames = (
        wire.frame(BINARY, b"a", fin=False, rsv=4),
        wire.frame(PING),
        wire.frame(CONTINUATION, b"b", fin=False),
        wire.frame(CONTINUATION, b"c"),
    )
    first, ping, middle, last = scanned(b"".join(frames))
    assert first == BINARY | rows.FIRST | rows.COMPRESSED
    assert rows.WHOLE[ping] == PING
    assert middle == BINARY | rows.COMPRESSED
    assert last == BINARY | rows.LAST | rows.COMPRESSED
