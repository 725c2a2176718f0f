"""What a program gives to be sent, and the bytes that it stands for: str, or whatever has a buffer.

It decides what is a message and what is said of that which is none. It never writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zcws.codes import OpCode

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["NOT_UTF8", "as_bytes", "as_control_payload", "as_message", "has_buffer"]

#: What is said of text that was given as bytes.
NOT_UTF8 = "the payload of a text message is not UTF-8 (RFC 6455 8.1)"


def has_buffer(message: object) -> bool:
    """Whether it is bytes-like."""
    try:
        memoryview(message)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def as_bytes(data: Buffer) -> Buffer:
    """`data` as something whose length is its number of bytes."""
    if type(data) is bytes or type(data) is bytearray:
        return data
    view = memoryview(data)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    # What is not contiguous has to be copied; `cast` refuses it, and empty arrays of several dimensions too.
    return view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()


def as_control_payload(payload: str | Buffer) -> bytes:
    """What a Ping or Pong carries; a copy."""
    return payload.encode() if isinstance(payload, str) else memoryview(payload).tobytes()


def as_message(message: str | Buffer, text: bool | None) -> tuple[OpCode, bytes]:
    """The opcode and the payload of a whole message that is sent to many; a copy, unless it is `bytes`.

    Args:
        text: True or False makes it text or binary whatever it is.

    Raises:
        TypeError: this is not a message.
        ValueError: it is to be text, and is not UTF-8. RFC 6455 8.1.
    """
    is_text = isinstance(message, str) if text is None else text
    opcode = OpCode.TEXT if is_text else OpCode.BINARY
    if isinstance(message, str):
        return opcode, message.encode()
    try:
        payload = bytes(memoryview(message))
    except TypeError:
        raise TypeError(f"a message is str or bytes-like, not {type(message).__name__}") from None
    if is_text:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise ValueError(NOT_UTF8) from None
    return opcode, payload
