"""A message that is arriving in pieces, and the payload buffer that it lands in.

Pieces are fragments (RFC 6455 5.4) or parts of a frame that is larger than the ring. Plain ones are copied one after
the other, or received right there; compressed ones are inflated as they come, in bounded steps, so that a message
that exceeds `max_size` or the caller's memory is stopped in time. This file knows no ring and no frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from zcws.buffer import PayloadBuffer
from zcws.codes import OpCode
from zcws.kernel import lib
from zcws.utf8 import Utf8

__all__ = [
    "BAD_BUFFER_SIZE",
    "BAD_DEFLATE",
    "BAD_MESSAGE_SIZE",
    "BAD_UTF8",
    "NO_MEMORY",
    "Assembly",
    "Inflate",
    "Inflated",
]

BAD_UTF8 = -lib.ZCWS_BAD_UTF8
BAD_MESSAGE_SIZE = -lib.ZCWS_BAD_MESSAGE_SIZE

#: A fault of its own, behind those of the C core: compressed data that cannot be inflated. zcws/errors.py names it.
BAD_DEFLATE = 17

#: And one for a message that does not fit into memory that the caller brought.
BAD_BUFFER_SIZE = 18

#: And a fault of ours: once a part of a message is lost, neither that message nor any after it may be handed out.
NO_MEMORY = 19


class Inflate(Protocol):
    """What decompresses the messages of one connection, one at a time. RFC 7692 7.2.2.

    Attributes:
        bytes_before, bytes_after: compressed bytes inflated so far, and the bytes that they gave.
    """

    bytes_before: int
    bytes_after: int

    def message(self, payload: bytes, limit: int) -> bytes:
        """A whole message; of one over `limit` bytes only enough to show that. Raises: as `pieces`."""
        ...

    def pieces(self, payload: memoryview, *, last: bool, room: int) -> Iterator[bytes]:
        """The inflated bytes in steps of bounded size, up to the first one for which the message has no `room`.

        Raises ValueError for data that cannot be inflated.
        """
        ...


class Inflated:
    """A message that came out of the decompressor whole: bytes of its own, which never change."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def export(self, start: int, stop: int) -> memoryview:
        view = memoryview(self._data)
        return view if stop - start == len(view) else view[start:stop]

    peek = keep = export


class Assembly:
    """The message in progress.

    Attributes:
        target: the buffer that it lands in.
        is_ours: whether the buffer was lent by the pool, not brought by the caller.
        opcode: what the message is.
        wants_bytes: whether it is going to be handed out as a `bytes`.
    """

    __slots__ = ("_inflate", "_max_size", "_utf8", "is_ours", "opcode", "target", "wants_bytes")

    def __init__(
        self,
        opcode: int,
        target: PayloadBuffer,
        *,
        is_ours: bool,
        inflate: Inflate | None,
        max_size: int,
        wants_bytes: bool = False,
    ) -> None:
        self.opcode: int = opcode
        self.target: PayloadBuffer = target
        self.is_ours: bool = is_ours
        self.wants_bytes: bool = wants_bytes
        self._inflate = inflate
        self._max_size = max_size
        self._utf8 = Utf8() if inflate is not None and opcode == OpCode.TEXT else None
        target.begin()

    @property
    def is_plain(self) -> bool:
        """Whether its bytes may be received straight into the target."""
        return self._inflate is None

    def add(self, payload: memoryview, *, last: bool) -> int:
        """Takes the next piece. Returns 0, or the fault."""
        if self._inflate is None:
            return 0 if self.target.append(payload) else BAD_BUFFER_SIZE
        try:
            room = self._max_size - len(self.target)
            for piece in self._inflate.pieces(payload, last=last, room=room):
                fault = self._add_inflated(piece)
                if fault:
                    return fault
        except ValueError:
            return BAD_DEFLATE
        # RFC 6455 8.1: the last character has to be whole.
        return BAD_UTF8 if last and self._utf8 is not None and not self._utf8.takes(b"", last=True) else 0

    def _add_inflated(self, piece: bytes) -> int:
        if len(self.target) + len(piece) > self._max_size:
            return BAD_MESSAGE_SIZE
        if self._utf8 is not None and not self._utf8.takes(piece, last=False):
            return BAD_UTF8
        return 0 if self.target.append(memoryview(piece)) else BAD_BUFFER_SIZE
