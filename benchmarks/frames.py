"""Frames, without zcws: the benchmarks do not use the library that they measure. RFC 6455 5.2."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable

__all__ = ["BINARY", "accept", "build", "compressed", "unmask"]

KEY = bytes.fromhex("12345678")  # one for all: a measuring instrument needs no secrets
TEXT, BINARY = 0x81, 0x82  # FIN, opcode 1 and 2
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


def unmask(frame: bytes) -> bytes | None:
    """The payload of a client's frame of less than 64 KiB; None while a part of it is missing."""
    head = 4 if frame[1:2] == b"\xfe" else 2
    if len(frame) < head:
        return None
    size = int.from_bytes(frame[2:4], "big") if head == 4 else frame[1] & 0x7F
    key, payload = frame[head : head + 4], frame[head + 4 :]
    return _masked(payload, key) if len(payload) == size else None


def accept(request: bytes) -> bytes:
    """The answer to an opening handshake. RFC 6455 4.2.2."""
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return head + b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"


def _masked(payload: bytes, key: bytes = KEY) -> bytes:
    key = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def compressed(messages: Iterable[bytes], *, level: int, masked: bool, first: int = TEXT) -> list[bytes]:
    """Frames with permessage-deflate, and the context kept from one to the next. RFC 7692 7.2.1.

    The sequence may be sent repeatedly: its first frame refers to nothing before it.
    """
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    frames = []
    for message in messages:
        payload = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        frames.append(build(payload[:-4], masked=masked, first=first | RSV1))
    return frames
