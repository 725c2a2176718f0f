"""Frames built by hand, and frames taken apart by hand: the oracle. It shares no code with the library.

Everything here is RFC 6455 5.2 written out in the plainest way. Nothing is checked: a test may build any frame,
the forbidden ones above all.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

#: A key whose four bytes differ, so that a phase that is off by one shows.
KEY = b"\x37\xfa\x21\x3d"


def mask(payload: bytes, key: bytes) -> bytes:
    """RFC 6455 5.3: octet i XOR key octet i MOD 4."""
    size = len(payload)
    pattern = key * (size // 4 + 1)
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pattern[:size], "big")).to_bytes(size, "big")


def length(size: int, *, form: int | None = None) -> bytes:
    """The seven bits and what follows them; `form` 7, 16 or 64 bits, the shortest unless said."""
    if form is None:
        form = 7 if size < 126 else 16 if size < 65536 else 64
    return {
        7: lambda: struct.pack("!B", size),
        16: lambda: struct.pack("!BH", 126, size),
        64: lambda: struct.pack("!BQ", 127, size),
    }[form]()


def head(
    opcode: int,
    size: int,
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = None,
    form: int | None = None,
) -> bytes:
    """The bytes before a payload of `size` bytes. `rsv` is the three bits as a number: RSV1 is 4."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bits = bytearray(length(size, form=form))
    if key is not None:
        bits[0] |= 0x80
    return bytes([first]) + bytes(bits) + (key or b"")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = None,
    form: int | None = None,
) -> bytes:
    """A whole frame, masked where there is a key."""
    before = head(opcode, len(payload), fin=fin, rsv=rsv, key=key, form=form)
    return before + (payload if key is None else mask(payload, key))


def fragments(opcode: int, payloads: list[bytes], *, key: bytes | None = None, rsv: int = 0) -> list[bytes]:
    """A message of as many frames as there are payloads. RFC 6455 5.4."""
    last = len(payloads) - 1
    return [
        frame(opcode if i == 0 else CONTINUATION, payload, fin=i == last, rsv=rsv if i == 0 else 0, key=key)
        for i, payload in enumerate(payloads)
    ]


def close_payload(code: int, reason: bytes = b"") -> bytes:
    """RFC 6455 5.5.1: two bytes of code, then the reason."""
    return struct.pack("!H", code) + reason


def deflate(payload: bytes) -> bytes:
    """RFC 7692 7.2.1, with the standard library's zlib and no context."""
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Seen(NamedTuple):
    """A frame that was found on the wire."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False


def parse(data: bytes) -> list[Seen]:
    """The frames in `data`, which holds nothing else and nothing less."""
    found, at = [], 0
    while at < len(data):
        first, second = data[at], data[at + 1]
        size, at = second & 0x7F, at + 2
        if size == 126:
            (size,) = struct.unpack_from("!H", data, at)
            at += 2
        elif size == 127:
            (size,) = struct.unpack_from("!Q", data, at)
            at += 8
        key = None
        if second & 0x80:
            key, at = data[at : at + 4], at + 4
        payload = data[at : at + size]
        assert len(payload) == size, "the wire ends inside a frame"
        at += size
        payload = payload if key is None else mask(payload, key)
        found.append(Seen(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7, key is not None))
    return found


def keys(seed: int = 1) -> itertools.cycle[bytes]:
    """Keys that differ from frame to frame, one of them zero (RFC 6455 5.3 allows any)."""
    return itertools.cycle(
        [KEY, bytes(4), struct.pack("!I", 0x9E3779B9 * seed & 0xFFFFFFFF), b"\xff\x00\xff\x00"]
    )


def codes(frames: list[Seen]) -> list[int]:
    """The codes of the Close frames."""
    return [int.from_bytes(frame.payload[:2], "big") for frame in frames if frame.opcode == CLOSE]


def taken_apart(message: str | bytes) -> tuple[int, bytes]:
    """The opcode of a message that was received, and its payload."""
    return (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
