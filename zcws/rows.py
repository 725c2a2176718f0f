"""What the C core has found in the bytes: one row for each whole frame, or for each piece of a large one.

A row is three words: what it is, and where in the ring its payload begins and ends. Rows lie one behind the other in a
table of words (csrc/zcws.h). As Python objects they cost more than all that C does with a short frame, so many rows
that are alike stay in the table for as long as nobody asks for one. What a row is:

    bits 0 to 3   the opcode of the message or the control frame, of a continuation too (RFC 6455 5.2)
    FIRST, LAST   a message begins or ends with it; a control frame has both
    COMPRESSED    its message is compressed (RFC 7692 6)
"""

from __future__ import annotations

import sys
from array import array
from typing import Union

from zcws.codes import OpCode
from zcws.kernel import lib

__all__ = [
    *("COMPRESSED", "CONTROL", "FIRST", "LAST", "PART", "WHOLE_PART"),
    *("DEFLATED", "DEFLATED_BINARY", "DEFLATED_TEXT", "WHOLE", "WHOLE_BINARY", "WHOLE_TEXT"),
    *("WHOLE_CLOSE", "WHOLE_PING", "WHOLE_PONG"),
    *("ROW", "Rows", "as_table", "copy_words", "kinds_of", "spans_of"),
]

#: Words of a row.
ROW: int = lib.ZCWS_TABLE_ROW

FIRST: int = lib.ZCWS_FIRST
LAST: int = lib.ZCWS_LAST
COMPRESSED: int = lib.ZCWS_COMPRESSED
CONTROL = 0x08  # RFC 6455 5.2: the bit that control opcodes have

#: The bits that say which part of its message a row is, and whether that is compressed; those of a whole plain frame.
PART, WHOLE_PART = FIRST | LAST | COMPRESSED, FIRST | LAST

#: The rows that are whole plain frames, and their opcodes: the payload can be used where it lies.
WHOLE = {op | WHOLE_PART: op for op in (OpCode.TEXT, OpCode.BINARY, OpCode.PING, OpCode.PONG, OpCode.CLOSE)}
WHOLE_TEXT, WHOLE_BINARY = OpCode.TEXT | WHOLE_PART, OpCode.BINARY | WHOLE_PART
WHOLE_PING, WHOLE_PONG, WHOLE_CLOSE = (op | WHOLE_PART for op in (OpCode.PING, OpCode.PONG, OpCode.CLOSE))

#: The rows that are whole compressed frames.
DEFLATED_TEXT, DEFLATED_BINARY = WHOLE_TEXT | COMPRESSED, WHOLE_BINARY | COMPRESSED
DEFLATED = frozenset({DEFLATED_TEXT, DEFLATED_BINARY})


#: Rows, one behind the other: few as a list, many as a view of a table of their own.
Rows = Union[list[int], memoryview]  # noqa: UP007  evaluated, and CPython 3.10 knows no list[int] | ... of these

#: Words of a table that is copied as a list: up to about 32 rows that costs less, whatever becomes of them. (PyPy has
#: no quick way for views with steps.)
_FEW = 100 if sys.implementation.name == "cpython" else sys.maxsize


def copy_words(words: memoryview) -> Rows:
    """A copy of words of the table, to be kept: C fills the same table again and again."""
    return words.tolist() if len(words) < _FEW else memoryview(words.tobytes()).cast("Q")


def as_table(rows: Rows) -> memoryview:
    """Rows for C."""
    return rows if isinstance(rows, memoryview) else memoryview(array("Q", rows))


def kinds_of(rows: Rows) -> list[int]:
    """What each row is."""
    return _column(rows, 0)


def spans_of(rows: Rows) -> tuple[list[int], list[int]]:
    """Where the payload of each row begins, and where it ends."""
    return _column(rows, 1), _column(rows, 2)


def _column(rows: Rows, at: int) -> list[int]:
    column = rows[at::ROW]
    return column if isinstance(column, list) else column.tolist()
