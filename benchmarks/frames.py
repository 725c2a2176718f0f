"""Frames, written out by hand: the ruler does not use the library that it measures. RFC 6455 5.2."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

__all__ = ["build", "compressed"]

KEY = bytes.fromhex("12345678")  # one for all: a measuring instrument needs no secrets
TEXT = 0x81  # FIN, opcode 1
RSV1 = 0x40  # RFC 7692 6: the message is compressed


def build(payload: bytes, *, masked: bool, first: int = TEXT) -> bytes:
    """One frame."""
    size, mask = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes([first, mask | size])
    elif size < 65536:
        head = bytes([first, mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, mask | 127]) + size.to_bytes(8, "big")
    return head + KEY + _masked(payload) if masked else head + payload


def _masked(payload: bytes) -> bytes:
    key = (KEY * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def compressed(messages: Iterable[bytes], *, level: int, masked: bool) -> list[bytes]:
    """Frames with permessage-deflate, the context kept from one to the next. RFC 7692 7.2.1.

    They may be sent again from the start: the first refers to nothing before it.
    """
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    frames = []
    for message in messages:
        payload = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        frames.append(build(payload[:-4], masked=masked, first=TEXT | RSV1))
    return frames
