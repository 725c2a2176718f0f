"""Many short messages that have arrived together, as Python objects, made by one call.

C writes them one behind the other, as a list in the form of Python's `marshal` (csrc/list.c), and that makes the
objects: a third of the time that a loop over slices takes. Lengths and types in that list are ours; what the peer has
sent is only ever the inside of a str or a bytes.
"""

from __future__ import annotations

import marshal
import sys
from typing import TYPE_CHECKING

from zcws.kernel import ffi, lib
from zcws.rows import ROW

if TYPE_CHECKING:
    from zcws.kernel import CData
    from zcws.scratch import Scratch

__all__ = ["in_bulk", "is_worth_it"]

#: Bytes of a message, on average, from which on a copy more costs more than the loop.
_SHORT = 2048

#: Bytes of the head of the list, and of that of each message.
_HEAD = 5


def _reads_ours() -> bool:
    """The form of `marshal` may change with any version of Python, and an audit hook may forbid to load it. (And PyPy
    compiles the loop.)"""
    try:
        read = marshal.loads(b"[\x02\0\0\0u\x03\0\0\0\xe2\x82\xacs\x02\0\0\0\xe2\x82")
    except Exception:
        return False
    return read == ["\u20ac", b"\xe2\x82"] and sys.implementation.name == "cpython"


_READS_OURS = _reads_ours()


def is_worth_it(rows: object) -> bool:
    """Whether `in_bulk` is quicker than a loop for these rows of whole messages, which are alike."""
    # A list has few.
    return isinstance(rows, memoryview) and rows[-1] - rows[1] < _SHORT * (len(rows) // ROW) and _READS_OURS


def in_bulk(base: CData, rows: memoryview, scratch: Scratch) -> list[str | bytes]:
    """The messages of these rows, which lie behind `base`; a list of the caller's own.

    Raises: MemoryError, and nothing is lost.
    """
    count = len(rows) // ROW
    # They lie one behind the other, with heads between.
    room = _HEAD + rows[-1] - rows[1] + _HEAD * count
    memory = scratch.reserve(room)
    size = lib.zcws_list(memory, room, base, ffi.from_buffer("uint64_t[]", rows), count)
    return marshal.loads(scratch.lend(memory, size))  # type: ignore[no-any-return]
