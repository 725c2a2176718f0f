"""Where a client's frames are masked (RFC 6455 5.3), while they are copied.

Small frames are masked one at a time in the same memory, on their way to the output. Large ones go out of that memory
part by part where a socket is at hand; everywhere else they are masked into memory of their own, which is used again as
soon as nobody holds it. malloc would give such memory back to the system and take it again for each message, page by
page: half of what a message of a mebibyte costs.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from zcws.kernel import ffi, lib, new_uncleared

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["LONGEST_HEAD", "SCRATCH_CAPACITY", "Scratch", "masked_size"]

#: Bytes of the memory in which small frames are masked. What is longer is masked into memory of its own: one copy less,
#: one segment more.
SCRATCH_CAPACITY = 32 * 1024

#: Two bytes, a 64-bit length, a key. RFC 6455 5.2.
LONGEST_HEAD = 14

#: Bytes of the largest memory that is kept for the next large frame.
_LARGEST_KEPT = 2 * 1024 * 1024


def masked_size(size: int) -> int:
    """Bytes of a masked frame with a payload of `size`. RFC 6455 5.2."""
    if size < 126:
        return size + 6
    return size + (8 if size < 0x10000 else LONGEST_HEAD)


class Scratch:
    """Memory for masked frames, that of one pool.

    Attributes:
        base: where small ones are masked; it holds nothing from one call to the next.
        copies: a slice of this is a `bytes`.
        uses: counted up by all code that masks there. If it differs afterwards, a finalizer has sent in between,
            perhaps on another connection, and the frame that lies there is the finalizer's.
    """

    __slots__ = ("_spare", "base", "copies", "uses")

    def __init__(self) -> None:
        self.base: Any = new_uncleared("uint8_t[]", SCRATCH_CAPACITY)
        self.copies: Any = ffi.buffer(self.base)
        self.uses: int = 0
        # The memory that was lent last, and a reference to what lives for as long as somebody holds a frame in it. One
        # at most, in a list: `pop` is one step, so nobody else gets the same memory.
        self._spare: list[tuple[Any, weakref.ref[Any]]] = []

    def frame(self, first: int, payload: CData | bytes, size: int, key: int) -> memoryview:
        """A whole frame in memory of its own: its first byte, the length, the key, the payload masked. It is the
        caller's for as long as it is held."""
        memory = self.reserve(size + LONGEST_HEAD)
        return self.lend(memory, lib.zcws_build_masked(memory, first, payload, size, key))

    def unsent(self, first: int, payload: CData | bytes, size: int, key: int, sent: int) -> memoryview:
        """The same frame without its first `sent` bytes."""
        begin = sent - (masked_size(size) - size)
        if begin < 0:
            return self.frame(first, payload, size, key)[sent:]
        source = ffi.from_buffer(payload) if isinstance(payload, bytes) else payload
        memory = self.reserve(size - begin)
        lib.zcws_mask_copy(memory, source + begin, size - begin, key, begin % 4)
        return self.lend(memory, size - begin)

    def reserve(self, size: int) -> Any:
        """Separate memory for `size` bytes: what was used last, if that is large enough and nobody holds it.

        Until `lend` it is taken out: a finalizer or a signal handler that sends in between gets other memory.
        """
        memory = self._take_spare(size) if size <= _LARGEST_KEPT else None
        return new_uncleared("uint8_t[]", size) if memory is None else memory

    def _take_spare(self, size: int) -> Any:
        try:
            memory, holder = self._spare.pop()
        except IndexError:
            return None
        return memory if size <= len(memory) and holder() is None else None

    def lend(self, memory: Any, size: int) -> memoryview:
        """The first `size` bytes of what `reserve` gave: not used again while anybody holds them."""
        buffer = ffi.buffer(memory, size)
        if len(memory) <= _LARGEST_KEPT:
            self._spare[:] = ((memory, weakref.ref(buffer)),)
        return memoryview(buffer)
