"""Bytes of a connection as lines that a person can read: one for each frame, its head decoded, its payload shortened.

It looks at copies of what is on the wire, in any pieces, and knows nothing else of the connection; so it can be trusted
to show what was sent, and not what somebody believed. It checks no rule: what makes no sense is shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Tracer"]

#: Bytes of a payload that are shown; the rest is counted.
_SHOWN = 64

_NAMES = {0: "CONTINUATION", 1: "TEXT", 2: "BINARY", 8: "CLOSE", 9: "PING", 10: "PONG"}

#: RFC 6455 5.2: bytes of the head behind the first two, by the seven bits of length.
_EXTENDED = {126: 2, 127: 8}


class Tracer:
    """The frames of one direction.

    Args:
        say: called with each line.
        mark: what each line begins with: "<" for what is received, ">" for what is sent.
    """

    __slots__ = ("_head", "_left", "_mark", "_say", "_shown", "_size")

    def __init__(self, say: Callable[[str], object], mark: str) -> None:
        self._say = say
        self._mark = mark
        self._head = bytearray()  # of the frame that is coming
        self._size = self._left = 0  # bytes of its payload, and those that have not come
        self._shown = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes."""
        view = memoryview(data).cast("B")
        while view:
            view = view[self._take_payload(view) if self._left else self._take_head(view) :]

    def _take_head(self, view: memoryview) -> int:
        head = self._head
        missing = self._head_size() - len(head)
        head += view[:missing]
        # Two bytes say how long the head is; then it may go on.
        if len(head) == self._head_size():
            size = head[1] & 0x7F
            extended = _EXTENDED.get(size, 0)
            self._size = self._left = int.from_bytes(head[2 : 2 + extended], "big") if extended else size
            if not self._left:
                self._finish()
        return min(missing, len(view))

    def _head_size(self) -> int:
        if len(self._head) < 2:
            return 2
        second = self._head[1]
        return 2 + _EXTENDED.get(second & 0x7F, 0) + (4 if second & 0x80 else 0)

    def _take_payload(self, view: memoryview) -> int:
        count = min(self._left, len(view))
        self._shown += view[: min(count, _SHOWN - len(self._shown))]
        self._left -= count
        if not self._left:
            self._finish()
        return count

    def _finish(self) -> None:
        head = self._head
        shown = bytes(self._shown)
        if head[1] & 0x80:  # RFC 6455 5.3: octet i XOR key octet i MOD 4
            shown = bytes(byte ^ head[-4 + i % 4] for i, byte in enumerate(shown))
        opcode = head[0] & 0x0F
        notes = [f"{self._size} byte{'' if self._size == 1 else 's'}"]
        notes += [] if head[0] & 0x80 else ["more follows"]
        notes += ["compressed"] if head[0] & 0x40 and opcode < 8 else []
        notes += ["masked"] if head[1] & 0x80 else []
        name = _NAMES.get(opcode, f"OPCODE {opcode}")
        text = _readable(shown, opcode, is_plain=not head[0] & 0x40)
        more = "..." if self._size > len(shown) else ""
        self._say(" ".join(filter(None, (self._mark, name, text + more, f"[{', '.join(notes)}]"))))
        head.clear()
        self._shown.clear()


def _readable(shown: bytes, opcode: int, *, is_plain: bool) -> str:
    if opcode == 8 and len(shown) >= 2:  # RFC 6455 5.5.1
        return f"{int.from_bytes(shown[:2], 'big')} {_quoted(shown[2:])}".rstrip()
    if opcode in (1, 9, 10) and is_plain:
        return _quoted(shown)
    return shown.hex(" ")


def _quoted(shown: bytes) -> str:
    return repr(shown.decode(errors="backslashreplace")) if shown else ""
