"""Bytes of a connection as lines that a person can read: one for each frame, its head decoded, its payload shortened.

It looks at copies of what is on the wire, in any pieces, and knows nothing else of the connection; so it can be trusted
to show what was sent, and not what somebody believed. It checks no rule: what makes no sense is shown as it is. The log
(aio/tracing.py) and the proxy `zcws trace` both speak through it.

    TEXT 'hello' [5 bytes, masked]
     |      |        |        |
     |      |        |        +-- of the head: more follows, rsv2, rsv3, compressed, masked
     |      |        +-- the payload on the wire
     |      +-- its beginning: unmasked, and decompressed where that was agreed; other bytes in hexadecimal
     +-- opcode

Decompressing needs every byte of every message, in order, and keeps nothing of it but the beginning.
"""

from __future__ import annotations

import sys
import zlib
from codecs import getincrementaldecoder
from collections.abc import Callable
from typing import Any

from zcws.codes import OpCode
from zcws.extensions import MAX_STREAMS, TAIL
from zcws.heads import FIN, RSV1
from zcws.kernel import ffi, lib
from zcws.payloads import flat

__all__ = ["Tracer"]

#: Bytes of a payload that are shown; the rest is counted.
_SHOWN = 64

_NAMES = {int(op): op.name for op in OpCode}
_TEXT, _CLOSE = OpCode.TEXT, OpCode.CLOSE

#: RFC 6455 5.2: the other bits of the first byte.
_RSV2, _RSV3 = 0x20, 0x10

#: RFC 6455 5.2: bytes of the head behind the first two, by the seven bits of length.
_EXTENDED = {126: 2, 127: 8}

#: Bytes that are decompressed in one step: a bomb passes by, and is never here as a whole.
_STEP = 64 * 1024

_decoder = getincrementaldecoder("utf-8")


class Tracer:
    """The frames of one direction.

    Args:
        say: called with each line.
        mark: what each line begins with: "<" for what is received, ">" for what is sent.
        inflates: whether permessage-deflate was agreed, so that messages can be decompressed.
        shown: bytes of a payload that are shown.

    Attributes:
        inflates: as above; may be set before the first frame, and becomes false when something cannot be decompressed.
    """

    __slots__ = (
        "_head",
        "_inflate",
        "_is_compressed",
        "_left",
        "_mark",
        "_most",
        "_opcode",
        "_plain",
        "_say",
        "_shown",
        "_size",
        "_streams",
        "inflates",
    )

    def __init__(
        self, say: Callable[[str], object], mark: str = "", *, inflates: bool = False, shown: int = _SHOWN
    ) -> None:
        self._say = say
        self._mark = mark
        self._most = shown
        self.inflates: bool = inflates
        self._inflate: Any = None
        self._head = bytearray()  # of the frame that is coming
        self._size = self._left = 0  # bytes of its payload, and those that have not come
        self._shown = bytearray()
        self._plain = 0  # bytes of the payload so far, decompressed
        self._opcode = 0  # of the message in progress
        self._is_compressed = False  # whether that message is
        self._streams = 0  # DEFLATE streams of that message

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes."""
        view = flat(data)
        while view:
            view = view[self._take_payload(view) if self._left else self._take_head(view) :]

    # ---- the head ----

    def _take_head(self, view: memoryview) -> int:
        head = self._head
        missing = self._head_size() - len(head)
        head += view[:missing]
        # Two bytes say how long the head is; then it may go on.
        if len(head) == self._head_size():
            size = head[1] & 0x7F
            extended = _EXTENDED.get(size, 0)
            self._size = self._left = int.from_bytes(head[2 : 2 + extended], "big") if extended else size
            if 0 < head[0] & 0x0F < _CLOSE:
                self._opcode = head[0] & 0x0F
                self._is_compressed = bool(head[0] & RSV1)
            if not self._left:
                self._finish()
        return min(missing, len(view))

    def _head_size(self) -> int:
        if len(self._head) < 2:
            return 2
        second = self._head[1]
        return 2 + _EXTENDED.get(second & 0x7F, 0) + (4 if second & 0x80 else 0)

    # ---- the payload ----

    def _take_payload(self, view: memoryview) -> int:
        count = min(self._left, len(view))
        if self._is_inflated:
            self._decompress(self._unmasked(view[:count]))
        else:
            self._show(self._unmasked(view[: min(count, self._most - len(self._shown))]))
            self._plain += count
        self._left -= count
        if not self._left:
            self._finish()
        return count

    @property
    def _is_inflated(self) -> bool:
        """Whether the frame that is coming is decompressed."""
        return self.inflates and self._is_compressed and self._head[0] & 0x0F < _CLOSE

    def _show(self, data: bytes | bytearray) -> None:
        self._shown += data[: self._most - len(self._shown)]

    def _unmasked(self, piece: memoryview) -> bytearray:
        """A copy of the next bytes, without the key. RFC 6455 5.3."""
        data = bytearray(piece)
        if self._head[1] & 0x80 and data:
            key = int.from_bytes(self._head[-4:], sys.byteorder)
            lib.zcws_mask(ffi.from_buffer(data), len(data), key, (self._size - self._left) % 4)
        return data

    def _decompress(self, data: bytes | bytearray) -> None:
        try:
            while data:
                if self._inflate is None or self._inflate.eof:
                    self._streams += 1
                    if self._streams > MAX_STREAMS:
                        raise zlib.error("an attack on our time")
                    # RFC 7692 7.1.2: the largest window serves for every smaller one. 7.2.3.4: a final block ends a
                    # stream.
                    self._inflate = zlib.decompressobj(wbits=-15)
                plain = self._inflate.decompress(data, _STEP)
                self._plain += len(plain)
                self._show(plain)
                data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        except zlib.error:
            self.inflates = False
            self._shown.clear()
            self._say(f"{self._mark} (not DEFLATE data: nothing is decompressed from here on)".lstrip())

    # ---- the line ----

    def _finish(self) -> None:
        head = self._head
        opcode = head[0] & 0x0F
        # RFC 7692 7.2.3.4: behind a final block there is no block that the tail would close.
        if self._is_inflated and head[0] & FIN and self._inflate is not None and not self._inflate.eof:
            self._decompress(TAIL)
        name = _NAMES.get(opcode, f"OPCODE {opcode}")
        more = self._plain > len(self._shown)
        text = self._readable(bytes(self._shown), opcode, is_cut=more) + ("..." if more else "")
        self._say(" ".join(filter(None, (self._mark, name, text, f"[{', '.join(self._notes())}]"))))
        if head[0] & FIN and opcode < _CLOSE:
            self._opcode, self._is_compressed, self._streams = 0, False, 0
        head.clear()
        self._shown.clear()
        self._plain = 0

    def _notes(self) -> list[str]:
        first, second = self._head[:2]
        is_data = first & 0x0F < _CLOSE
        notes = [f"{self._size} byte{'' if self._size == 1 else 's'}"]
        notes += [] if first & FIN else ["more follows"]
        notes += ["compressed" if is_data else "rsv1"] if first & RSV1 else []
        notes += [name for bit, name in ((_RSV2, "rsv2"), (_RSV3, "rsv3")) if first & bit]
        return [*notes, "masked"] if second & 0x80 else notes

    def _readable(self, shown: bytes, opcode: int, *, is_cut: bool) -> str:
        if opcode == _CLOSE and len(shown) >= 2:  # RFC 6455 5.5.1
            return f"{int.from_bytes(shown[:2], 'big')} {_quoted(shown[2:])}".rstrip()
        is_text = opcode in (OpCode.PING, OpCode.PONG) or (opcode <= _TEXT and self._opcode == _TEXT)
        if is_text and (opcode >= _CLOSE or self.inflates or not self._is_compressed):
            return _quoted(shown, is_cut=is_cut)
        return shown.hex(" ")


def _quoted(shown: bytes, *, is_cut: bool = False) -> str:
    """As Python writes it: control characters are escaped. A character that was cut in two is left out."""
    return repr(_decoder("backslashreplace").decode(shown, not is_cut)) if shown else ""
