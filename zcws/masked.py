"""Masked frames in memory of their own: a whole one, or what is left when a socket has taken the beginning.

Small ones do not come here: they are masked in a pool's scratch, and copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zcws.kernel import ffi, lib

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["LONGEST_HEAD", "masked_frame", "masked_rest", "masked_size"]

#: Two bytes, a 64-bit length, a key. RFC 6455 5.2.
LONGEST_HEAD = 14

_new_bytes = ffi.new_allocator(should_clear_after_alloc=False)


def masked_size(size: int) -> int:
    """Bytes of a masked frame with a payload of `size`. RFC 6455 5.2."""
    if size < 126:
        return size + 6
    return size + (8 if size < 0x10000 else LONGEST_HEAD)


def masked_frame(first: int, payload: CData | bytes, size: int, key: int) -> memoryview:
    """A whole frame: its first byte, the length, the key, and the payload masked while it is copied. RFC 6455 5.3."""
    memory = _new_bytes("uint8_t[]", size + LONGEST_HEAD)
    written = lib.zcws_build_masked(memory, first, payload, size, key)
    return memoryview(ffi.buffer(memory, written))


def masked_rest(first: int, payload: CData | bytes, size: int, key: int, sent: int) -> memoryview:
    """The same frame without its first `sent` bytes."""
    begin = sent - (masked_size(size) - size)
    if begin < 0:
        return masked_frame(first, payload, size, key)[sent:]
    source = ffi.from_buffer(payload) if isinstance(payload, bytes) else payload
    memory = _new_bytes("uint8_t[]", size - begin)
    lib.zcws_mask_copy(memory, source + begin, size - begin, key, begin % 4)
    return memoryview(ffi.buffer(memory))
