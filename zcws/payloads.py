"""What a program gives to be sent, and the bytes that it stands for: str, or whatever has a buffer.

It decides what is a message, and what the error for anything else says. It never writes.
"""

from __future__ import annotations

import errno
import re

from zcws.annotations import Buffer
from zcws.codes import OpCode
from zcws.utf8 import is_utf8

__all__ = [
    "NOT_UTF8",
    "as_bytes",
    "as_control_payload",
    "as_message",
    "as_payload",
    "check_opcode",
    "check_text",
    "flat",
    "has_buffer",
    "let_go",
    "unreadable",
]

#: The error for text that was given as bytes.
NOT_UTF8 = "the payload of a text message is not UTF-8 (RFC 6455 8.1)"

#: What a Ping or Pong carries, in words.
CONTROL = "the payload of a Ping or Pong"

# In the format of a buffer (PEP 3118), outside of the names of fields: an object or a pointer, whose bytes are an
# address in our memory. "P", "z" and "Z" are pointers of ctypes; numpy's complex numbers are "Zf", "Zd" and "Zg".
_find_address = re.compile(r"(?:[^:]|:[^:]*:)*?([OPXz&]|Z(?![fdg]))").match


def has_buffer(message: object) -> bool:
    """Whether `message` is bytes-like."""
    try:
        memoryview(message).release()  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def as_bytes(data: Buffer, what: str = "a message") -> Buffer:
    """`data` as something whose length is its number of bytes. TypeError, which calls it `what`: it is not bytes-like,
    or holds addresses.

    A `bytearray` becomes a view, too: while that is held, no signal handler and no other thread can shorten it.
    """
    if type(data) is bytes:
        return data
    view = _view(data, what)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    _check_no_address(view, what)
    # What is not contiguous has to be copied; `cast` refuses it, and empty arrays of several dimensions too.
    return view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()


def flat(data: Buffer) -> memoryview:
    """The bytes of something contiguous, to be sliced. Cast where that is needed: see `SLICES_HAVE_ADDRESSES`."""
    view = memoryview(data)
    return view if view.format == "B" and view.ndim == 1 and view.c_contiguous else view.cast("B")


def as_payload(message: Buffer, *, text: bool) -> Buffer:
    """The same for a whole message. ValueError: it is to be text, and is not UTF-8. RFC 6455 8.1."""
    payload = as_bytes(message)
    if text:
        try:
            check_text(payload)
        except BaseException:
            let_go(payload)
            raise
    return payload


def let_go(payload: Buffer) -> None:
    """Releases what has been sent or copied, or could not be: its memory is the caller's again. Otherwise the traceback
    of an error would hold it, and PyPy would hold it until it collects."""
    if type(payload) is memoryview:
        payload.release()


def unreadable(error: BaseException) -> OSError | None:
    """What to raise if the system could not read the memory that it was to send, which is the program's own fault."""
    if not isinstance(error, OSError) or error.errno != errno.EFAULT:
        return None
    return OSError(
        errno.EFAULT, "what was to be sent can no longer be read; has the file behind an mmap become shorter?"
    )


def as_control_payload(payload: str | Buffer) -> bytes:
    """What a Ping or Pong carries; a copy."""
    if isinstance(payload, str):
        return payload.encode()
    with _view(payload, CONTROL) as view:
        _check_no_address(view, CONTROL)
        return view.tobytes()


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
    with _view(message, "a message") as view:
        _check_no_address(view, "a message")
        payload = bytes(view)
    if is_text:
        check_text(payload)
    return opcode, payload


def _check_no_address(view: memoryview, what: str) -> None:
    """`TypeError` if the peer would learn where something lies in our memory, and nothing else."""
    if view.format != "B" and _find_address(view.format):
        wrong = f"{what} holds numbers or bytes, not objects or pointers as this {type(view.obj).__name__}"
        view.release()
        raise TypeError(f"{wrong}: their addresses would be sent")


def check_opcode(opcode: object) -> None:
    """`ValueError` for an opcode that no message sent in pieces can have."""
    if opcode not in (OpCode.TEXT, OpCode.BINARY):
        raise ValueError(f"a message is TEXT or BINARY, not {opcode!r}: its pieces are for `write`")


def check_text(payload: Buffer) -> None:
    """`ValueError` unless it is UTF-8, all of it. RFC 6455 8.1."""
    if not is_utf8(payload):
        raise ValueError(NOT_UTF8)


def _view(data: Buffer, what: str) -> memoryview:
    try:
        return memoryview(data)
    except TypeError:  # Python's own does not say that it might be str
        raise TypeError(f"{what} is str or bytes-like, not {type(data).__name__}") from None
