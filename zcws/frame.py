"""A frame: what it is, and where its payload lies.

A received frame pins no memory. It names a source (a payload buffer, or the reader's lease of its ring) and an offset,
and makes the view, the text or the copy when it is asked, until the next read on its connection; after that it raises
`StaleFrame`, whatever has become of the bytes. A frame to be sent holds the payload that it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol, overload

from zcws.annotations import Buffer
from zcws.closing import MAX_CONTROL_PAYLOAD, close_payload, code_and_reason, parse_close_payload
from zcws.codes import OpCode
from zcws.errors import StaleFrame
from zcws.payloads import as_bytes

__all__ = [
    "DECODE_IN_PLACE",
    "NEED_MORE",
    "Frame",
    "NeedMore",
    "PayloadOrigin",
    "ReceivedFrame",
    "check_control",
    "check_frame",
    "check_origin",
    "stale",
]

#: From this many bytes on text is decoded where it lies: for less, a copy costs less than the view does.
DECODE_IN_PLACE = 4096


class PayloadOrigin(Enum):
    """Where a received payload may lie. The table of cases is at the top of zcws/reader.py."""

    #: Wherever it costs the fewest copies: the ring for whole frames, the caller's buffer for the rest.
    ADAPTIVE = "adaptive"
    #: Always the caller's buffer; control frames inside a fragmented message have small bytes of their own.
    CONSISTENT = "consistent"


class NeedMore(Enum):
    """The type of `NEED_MORE`: no whole frame has arrived yet. It is an outcome, not an error."""

    NEED_MORE = "NEED_MORE"


NEED_MORE = NeedMore.NEED_MORE


def check_origin(origin: object) -> None:
    """`TypeError` unless `origin` is a `PayloadOrigin`."""
    if not isinstance(origin, PayloadOrigin):
        raise TypeError(f"the origin of read_frame is a PayloadOrigin, not {origin!r}")


class Source(Protocol):
    """Memory that a payload lies in."""

    def export(self, start: int, stop: int) -> memoryview: ...
    def peek(self, start: int, stop: int) -> memoryview: ...


class ReceivedSource(Source, Protocol):
    """Memory of a received payload: `keep` is for a caller that needs the bytes after the next message has come."""

    def keep(self, start: int, stop: int) -> Buffer: ...


class _Held:
    """The payload of a frame to be sent: the caller's own object."""

    __slots__ = ("memory", "whole")

    def __init__(self, payload: Buffer) -> None:
        try:
            self.whole = as_bytes(payload)
            self.memory = memoryview(self.whole)  # while it lives, a bytearray cannot change its length
        except TypeError:
            hint = ": encode it, or make it Frame.text(...)" if isinstance(payload, str) else ""
            what = f"the payload of a frame is bytes-like, not {type(payload).__name__}"
            raise TypeError(what + hint) from None

    def export(self, start: int, stop: int) -> memoryview:
        # See `HAS_GIL`: a program may use one frame in all its threads.
        return memoryview(self.whole)[start:stop]

    peek = export


class _Text:
    """`frame.text` is the payload as str; `Frame.text(payload)` makes a text frame."""

    @overload
    def __get__(self, frame: None, owner: type[Frame]) -> Callable[..., Frame]: ...
    @overload
    def __get__(self, frame: Frame, owner: type[Frame]) -> str: ...
    def __get__(self, frame: Frame | None, owner: type[Frame]) -> Any:
        if frame is None:
            return _text_frame
        if frame._stop - frame._start < DECODE_IN_PLACE:
            return frame.to_bytes().decode()
        return frame._decode()


def check_control(opcode: OpCode, payload: memoryview) -> None:
    """`ValueError` for what a control frame must not carry: over 125 bytes, or a Close that must not be sent."""
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(
            f"the payload of a control frame is at most 125 bytes, not {len(payload)} (RFC 6455 5.5)"
        )
    if opcode is OpCode.CLOSE:
        close_payload(*parse_close_payload(payload))


def check_frame(frame: object) -> None:
    """`TypeError` for what cannot be written as a frame."""
    if not isinstance(frame, Frame):
        raise TypeError(f"write_frame sends a Frame, not {type(frame).__name__}: messages are for send")


class Frame:
    """One frame.

    Args:
        opcode: what it is.
        payload: bytes-like; held, not copied, until the frame is written. What is not contiguous is copied.
        fin: whether it ends its message. RFC 6455 5.2.

    Raises:
        TypeError: a payload that is not bytes-like.
        ValueError: a control frame that is fragmented or over 125 bytes, or a Close that must not be sent.

    Attributes:
        text: the payload as str. On the class, it makes a Text frame: `Frame.text(payload, fin=True)`.
    """

    __slots__ = ("_source", "_start", "_stop", "fin", "opcode")

    _source: Source | None
    text: _Text = _Text()

    def __init__(self, opcode: OpCode, payload: Buffer = b"", *, fin: bool = True) -> None:
        held = _Held(payload)
        self.opcode: OpCode = OpCode(opcode)
        self.fin: bool = fin
        self._source = held
        self._start = 0
        self._stop = len(held.memory)
        if self.opcode >= OpCode.CLOSE:
            if not fin:
                raise ValueError("a control frame must not be fragmented (RFC 6455 5.5)")
            check_control(self.opcode, held.memory)

    @classmethod
    def binary(cls, payload: Buffer, *, fin: bool = True) -> Frame:
        """A Binary frame."""
        return Frame(OpCode.BINARY, payload, fin=fin)

    @classmethod
    def continuation(cls, payload: Buffer, *, fin: bool = False) -> Frame:
        """A frame that goes on with the message that the last one left open."""
        return Frame(OpCode.CONTINUATION, payload, fin=fin)

    @classmethod
    def ping(cls, payload: Buffer = b"") -> Frame:
        """A Ping of at most 125 bytes."""
        return Frame(OpCode.PING, payload)

    @classmethod
    def pong(cls, payload: Buffer = b"") -> Frame:
        """A Pong of at most 125 bytes."""
        return Frame(OpCode.PONG, payload)

    @classmethod
    def close(cls, code: int | None = None, reason: str = "") -> Frame:
        """A Close. Without a code it has no payload, and the peer sees 1005."""
        return Frame(OpCode.CLOSE, close_payload(code, reason))

    @property
    def payload(self) -> memoryview:
        """The payload in place, without a copy. The view stays right for as long as it is held.

        It is read-only, unless the payload lies in a `PayloadBuffer`.

        What it costs to hold: a received payload keeps the whole piece of memory that it lies in (a ring of 256 KiB or
        1 MiB, or the payload buffer's storage). `to_bytes()` keeps only its own bytes. So does the view of a
        payload of up to 16 KiB that is looked at once and alone: it is a view of a copy, which costs less.

        Raises:
            StaleFrame: the connection has been read from since.
        """
        source = self._source
        if source is None:
            raise stale()
        return source.export(self._start, self._stop)

    @property
    def is_stale(self) -> bool:
        """Whether the connection has been read from since this frame was: its payload is gone."""
        return self._source is None

    def to_bytes(self) -> bytes:
        """A copy of the payload.

        Raises:
            StaleFrame: the connection has been read from since.
        """
        source, start, stop = self._source, self._start, self._stop
        if source is None:
            raise stale()
        copy = bytes(source.peek(start, stop))
        source.peek(start, stop)  # raises if the memory is in use again: another thread may have read on
        return copy

    def _peek(self) -> memoryview:
        source = self._source
        if source is None:
            raise stale()
        return source.peek(self._start, self._stop)

    def _decode(self) -> str:
        """The payload as str, without a copy before."""
        try:
            return str(self._peek(), "utf-8")
        finally:
            self._peek()  # see `to_bytes`; other bytes there need not even be UTF-8

    def __len__(self) -> int:
        """Bytes of the payload."""
        return self._stop - self._start

    @property
    def close_code(self) -> int:
        """The code of a Close; 1005 if it has none. It means nothing for any other frame. RFC 6455 7.1.5."""
        return code_and_reason(self.to_bytes())[0]

    @property
    def close_reason(self) -> str:
        """The reason of a Close. It means nothing for any other frame. RFC 6455 7.1.6."""
        return code_and_reason(self.to_bytes())[1]

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy: a frame to be sent, with a copy of the payload. Raises: StaleFrame, as `to_bytes`."""
        return _copied, (self.opcode, self.to_bytes(), self.fin)

    def __repr__(self) -> str:
        state = ", stale" if self.is_stale else ""
        fin = "" if self.fin else ", fin=False"
        return f"<Frame {self.opcode.name}, {len(self)} bytes{fin}{state}>"


class ReceivedFrame(Frame):
    """A frame as the reader makes it: checked already, complete, and stale after the next read."""

    __slots__ = ()

    _source: ReceivedSource | None

    def __init__(self, opcode: OpCode, source: ReceivedSource, start: int, stop: int) -> None:
        self.opcode = opcode
        self.fin = True
        self._source = source
        self._start = start
        self._stop = stop

    def _keep(self, begin: int = 0) -> Buffer:
        """The payload from `begin` on, for a caller that needs it after this frame is stale: it never changes.

        A copy, where a view would hold much more memory than it is.
        """
        source = self._source
        if source is None:
            raise stale()
        return source.keep(self._start + begin, self._stop)


def _text_frame(payload: str | Buffer, *, fin: bool = True) -> Frame:
    """A Text frame. Bytes are taken as they are and have to be UTF-8 by the time the message ends."""
    return Frame(OpCode.TEXT, payload.encode() if isinstance(payload, str) else payload, fin=fin)


def _copied(opcode: OpCode, payload: bytes, fin: bool) -> Frame:
    return Frame(opcode, payload, fin=fin)


def stale() -> StaleFrame:
    """The error for a frame that is asked for its payload too late."""
    return StaleFrame(
        "this frame was read before the last read on its connection; take payload, text or to_bytes() before the next"
    )
