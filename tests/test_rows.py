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


def scanned(*arrivals: bytes) -> list[int]:
    """What each row of these is."""
    pool = Pool(4096)
    connection = connect(pool, agreement=DEFLATE)
    tables = [turn.arrive(pool, connection, frames).words for frames in arrivals]
    return [what for words in tables for what in words[lib.ZCWS_TABLE_HEAD :: lib.ZCWS_TABLE_ROW]]


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
    first, ping, middle, last = scanned(*frames)
    assert first == BINARY | rows.FIRST | rows.COMPRESSED
    assert rows.WHOLE[ping] == PING
    assert middle == BINARY | rows.COMPRESSED
    assert last == BINARY | rows.LAST | rows.COMPRESSED


def test_fragments_that_arrive_together_are_one_row() -> None:
    fragments = wire.fragments(TEXT, [b"a", b"b", b"", b"c"])
    assert scanned(b"".join(fragments)) == [rows.WHOLE_TEXT]
    assert scanned(b"".join(fragments[:2]), b"".join(fragments[2:])) == [TEXT | rows.FIRST, TEXT | rows.LAST]
    ping = wire.frame(PING)
    assert scanned(fragments[0] + fragments[1] + ping + fragments[2] + fragments[3]) == [
        TEXT | rows.FIRST,
        PING | rows.WHOLE_PART,
        TEXT | rows.LAST,
    ]
    compressed = wire.frame(BINARY, b"a", fin=False, rsv=4) + wire.frame(CONTINUATION, b"b")
    assert scanned(compressed) == [rows.DEFLATED_BINARY]
