"""The heads of unmasked frames: made once for each size that a program sends. RFC 6455 5.2.

A masked frame's head is written in C together with its payload.
"""

from __future__ import annotations

from struct import Struct

from zcws.codes import OpCode

__all__ = ["FIN", "HEADS", "RSV1", "Heads", "unmasked_head"]

#: In the first byte of a head. RFC 6455 5.2; RFC 7692 6: RSV1 says that the message is compressed.
FIN, RSV1 = 0x80, 0x40

_HEAD_16 = Struct(">BBH").pack
_HEAD_64 = Struct(">BBQ").pack


def unmasked_head(first: int, size: int) -> bytes:
    """The head of a frame without a key: its first byte, and the length in its shortest form. RFC 6455 5.2."""
    if size < 126:
        return bytes((first, size))
    return _HEAD_16(first, 126, size) if size < 0x10000 else _HEAD_64(first, 127, size)


class Heads(dict[int, bytes]):
    """The heads of unmasked frames that begin with one and the same byte, by payload size."""

    #: How many are kept: enough for programs whose messages vary, and 400 KiB at worst.
    MOST = 4096

    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first

    def __missing__(self, size: int) -> bytes:
        head = unmasked_head(self._first, size)
        if len(self) < self.MOST:
            self[size] = head
        return head


#: By opcode, for whole messages, and for Pongs.
HEADS = {opcode: Heads(FIN | opcode) for opcode in (OpCode.TEXT, OpCode.BINARY, OpCode.PONG)}
