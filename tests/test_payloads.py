"""What a program gives to be sent. RFC 6455 5.6, 8.1."""

from __future__ import annotations

import array
import ctypes
import errno
import os
from typing import Any

import pytest
from arrays import address, needs_numpy, np
from pythons import needs_cpython

from zcws.codes import OpCode
from zcws.payloads import as_bytes, as_control_payload, as_message, check_opcode, flat, has_buffer, unreadable

NUMBERS = array.array("i", [1, 2, 3])
SQUARE = memoryview(bytes(range(4))).cast("B", (2, 2))


@pytest.mark.parametrize("message", [b"", bytearray(b"a"), memoryview(b"a"), NUMBERS, SQUARE])
def test_what_has_a_buffer(message: Any) -> None:
    data = as_bytes(message)
    assert has_buffer(message)
    assert len(data) == memoryview(message).nbytes and bytes(data) == memoryview(message).tobytes()  # type: ignore[arg-type]
    assert as_control_payload(message) == bytes(data)
    assert as_message(message, None) == (OpCode.BINARY, bytes(data))


def test_what_is_not_contiguous_is_copied() -> None:
    assert as_bytes(memoryview(b"abcdef")[::2]) == b"ace"
    assert as_bytes(memoryview(bytearray()).cast("i")) == b""


class Mixed(ctypes.Structure):
    _fields_ = (("a", ctypes.c_int), ("b", ctypes.py_object))


@needs_cpython("elsewhere the memory of ctypes may have other formats")
@pytest.mark.parametrize(
    "kind",
    [
        *(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_wchar_p, Mixed),
        *(ctypes.POINTER(ctypes.c_int), ctypes.CFUNCTYPE(None)),
    ],
)
def test_addresses_are_not_sent(kind: Any) -> None:
    for memory in ((kind * 2)(), memoryview((kind * 2)())):
        for take in (as_bytes, as_control_payload, lambda message: as_message(message, None)):
            with pytest.raises(
                TypeError, match=r" holds numbers or bytes, not objects or pointers as this \w+"
            ):
                take(memory)


@needs_numpy
def test_which_arrays_hold_addresses() -> None:
    for dtype in ("f8", "c8", "c16", "g", "G", ">c16", "U3", [("PO", "i4"), ("O", "c16")]):
        memory = np.zeros(2, dtype)
        assert bytes(as_bytes(memory)) == memory.tobytes()
    for dtype in ("O", [("a", "c16"), ("b", "O")]):
        with pytest.raises(
            TypeError, match=r"^a message holds numbers or bytes, not objects or pointers as this"
        ):
            as_bytes(np.zeros(2, dtype))


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_bytes_are_not_copied(data: Any) -> None:
    assert memoryview(as_bytes(data)).obj is memoryview(data).obj


def test_memory_that_the_system_cannot_read() -> None:
    found = unreadable(OSError(errno.EFAULT, os.strerror(errno.EFAULT)))
    assert found is not None and found.errno == errno.EFAULT and "mmap" in str(found)
    assert unreadable(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))) is None
    assert unreadable(MemoryError()) is None


@pytest.mark.parametrize("message", [5, None, ["a"], "text"])
def test_what_has_none(message: Any) -> None:
    assert not has_buffer(message)


@pytest.mark.parametrize(
    ("message", "text", "found"),
    [
        ("é", None, (OpCode.TEXT, "é".encode())),
        ("é", False, (OpCode.BINARY, "é".encode())),
        (b"\xc3\xa9", True, (OpCode.TEXT, "é".encode())),
        (b"\xff", None, (OpCode.BINARY, b"\xff")),
        (b"\xff", False, (OpCode.BINARY, b"\xff")),
    ],
)
def test_messages_for_many(message: Any, text: bool | None, found: tuple[OpCode, bytes]) -> None:
    assert as_message(message, text) == found


@pytest.mark.parametrize("message", [5, None, ["a"]])
def test_what_is_no_message(message: Any) -> None:
    """Python's own words for it ("a bytes-like object is required") do not know of str."""
    wrong = f"is str or bytes-like, not {type(message).__name__}$"
    with pytest.raises(TypeError, match=f"^a message {wrong}"):
        as_message(message, None)
    with pytest.raises(TypeError, match=f"^a message {wrong}"):
        as_bytes(message)
    with pytest.raises(TypeError, match=f"^a fragment {wrong}"):
        as_bytes(message, "a fragment")
    with pytest.raises(TypeError, match=f"^the payload of a Ping or Pong {wrong}"):
        as_control_payload(message)


@pytest.mark.parametrize("payload", [b"\xff", b"a\xc3", "\ud800".encode("utf-8", "surrogatepass")])
def test_text_that_is_not_utf8(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"is not UTF-8 \(RFC 6455 8\.1\)"):
        as_message(payload, True)


def test_what_a_ping_carries() -> None:
    assert (as_control_payload("é"), as_control_payload(bytearray(b"a"))) == ("é".encode(), b"a")


@needs_cpython("PyPy 7.3.19 lets a bytearray be resized under a view")
def test_what_is_being_sent_cannot_be_made_shorter() -> None:
    """By a signal handler, or another thread: C read on behind it, and the head said more than there was."""
    data = bytearray(b"x" * 30_000)
    payload = as_bytes(data)
    with pytest.raises(BufferError):
        data[:] = b"short"
    assert payload == b"x" * 30_000


def test_what_can_be_sent_in_pieces() -> None:
    check_opcode(OpCode.TEXT)
    check_opcode(2)
    for wrong in (OpCode.PING, OpCode.CONTINUATION, "text"):
        with pytest.raises(ValueError, match="a message is TEXT or BINARY, not"):
            check_opcode(wrong)


def test_flat() -> None:
    """On PyPy each byte of a slice of what had been cast cost 0.1 µs."""
    data = bytearray(b"abcd")
    assert address(flat(data)[1:]) == address(flat(memoryview(data))[1:]) == address(data) + 1
    words = array.array("H", [1, 2])
    assert flat(words) == words.tobytes() and flat(memoryview(data).cast("c")) == data
    assert flat(memoryview(data).cast("B", (2, 2))) == data
    with pytest.raises(TypeError):
        flat(memoryview(data)[::2])
