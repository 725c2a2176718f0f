"""Whether bytes are text: all at once, or part by part. RFC 6455 8.1.

C looks at them (csrc/utf8.c); what it has to remember between two parts is here.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable
from typing import Any

from zcws.annotations import Buffer
from zcws.kernel import ffi, lib

__all__ = ["Utf8", "decoded", "is_utf8", "piecewise"]


class Utf8:
    """A text that comes in parts, which may cut a character."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: Any = ffi.new("uint32_t *")

    def takes(self, part: Buffer, *, last: bool) -> bool:
        """Takes a part: whether the text is UTF-8 so far, and may end there if it is the `last`. If not, nothing has
        changed."""
        state = self._state
        before = state[0]
        if type(part) is bytes:
            is_good = lib.zcws_utf8(part, len(part), state) == len(part)
        else:
            with ffi.from_buffer(part) as source:  # released at once: see `PayloadBuffer._wrap`
                is_good = lib.zcws_utf8(source, len(source), state) == len(source)
        if is_good and not (last and state[0] != lib.ZCWS_UTF8_START):
            return True
        state[0] = before
        return False


def is_utf8(data: Buffer) -> bool:
    """Whether a whole text is UTF-8."""
    return Utf8().takes(data, last=True)


def decoded(message: str | bytes, decode: bool) -> str | bytes:
    """A message as str or as bytes, whatever it came as. UnicodeDecodeError: it was binary, and is no text."""
    if decode:
        return message.decode() if isinstance(message, bytes) else message
    return message.encode() if isinstance(message, str) else message


def piecewise(decode: bool | None) -> Callable[[str | bytes, bool], str | bytes]:
    """`decoded` for the pieces of one message, which may cut characters if they are bytes. It is called with a piece,
    and whether that is the last. None: pieces stay as they came."""
    if decode is None:
        return lambda piece, last: piece
    decoder = getincrementaldecoder("utf-8")()

    def convert(piece: str | bytes, last: bool) -> str | bytes:
        if decode and isinstance(piece, bytes):
            return decoder.decode(piece, last)
        return decoded(piece, decode)

    return convert
