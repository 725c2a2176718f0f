"""The caller's reusable payload buffer: where messages land that do not stay in the ring.

`PayloadBuffer()` owns its storage and grows to the largest message it has met. A view of a payload in it stays
right for as long as somebody holds it: when the buffer is used again and a view is still out, the storage is left
to the view's holders and the buffer takes new storage.

`PayloadBuffer(memory)` writes into memory that the caller brought (an mmap, shared memory, a NumPy array). It
never grows, a message that does not fit is refused, and the next message overwrites the last one, views of it
included: that is what was asked for.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

from zcws.annotations import Buffer
from zcws.errors import StaleFrame
from zcws.kernel import SLICES_HAVE_ADDRESSES, ffi, new_uncleared

__all__ = ["WORTH_HOLDING", "PayloadBuffer", "check_buffer"]

#: The smallest storage of a buffer that owns it (bytes): a smaller one would cost as much to allocate.
_SMALLEST = 4096

#: A message that has been announced but not received gets at most this much storage ahead of its bytes: memory
#: grows with what has arrived, not with what was promised.
_AHEAD = 128 * 1024

#: Storage that has to grow grows to this many times what has arrived: it grows less often, and less is copied.
_GROWTH = 4

#: Whether a `bytes` can be written to while nobody else knows it. PyPy moves objects.
MAKES_BYTES = sys.implementation.name == "cpython"

#: Bytes are kept as a view, not as a copy, if they are at least one WORTH_HOLDING-th of the memory that it would hold.
WORTH_HOLDING = 4


class Storage:
    """Memory for messages, and who holds views of it. The memory stays the same; a buffer moves on to another Storage.

    Another thread may look at a frame that is stale by then, while the next message is arriving. So a look changes only
    the Storage, never the buffer: an exporter is listed here for as long as somebody holds a view.

    Attributes:
        pointer, memory: the memory, for C and for the reader.
        whole: the memory for everybody else, in any thread: see `HAS_GIL`.
        is_ours: whether the memory is the buffer's own, not the caller's.
        shown: exporters of the views that a program has; it may write into them.
        kept: exporters of views whose bytes must not change any more.
    """

    __slots__ = ("is_ours", "kept", "memory", "pointer", "shown", "whole")

    def __init__(self, pointer: Any, whole: Any, memory: memoryview, *, is_ours: bool = True) -> None:
        self.pointer = pointer
        self.whole = whole
        self.memory = memory
        self.is_ours = is_ours
        self.shown: list[weakref.ref[Any]] = []
        self.kept: list[weakref.ref[Any]] = []

    @property
    def is_held(self) -> bool:
        """Whether anybody still holds a view."""
        return bool(_alive(self.shown) or _alive(self.kept))

    def look(self, start: int, stop: int) -> memoryview:
        """A view of a part; holding it does not keep the memory from being used again."""
        return memoryview(self.whole)[start:stop]

    def slot(self, start: int, stop: int) -> memoryview:
        """A part of it to receive into."""
        if self.is_ours or SLICES_HAVE_ADDRESSES:
            return self.memory[start:stop]
        return memoryview(ffi.buffer(self.pointer + start, min(stop, len(self.memory)) - start))

    def view(self, exporters: list[weakref.ref[Any]]) -> memoryview:
        """A view of all of it, to be sliced; one of `exporters` lives as long as the slices do."""
        alive = _alive(exporters)
        exporter = alive[-1] if alive else ffi.buffer(self.pointer, len(self.memory))
        if not alive:
            exporters.append(weakref.ref(exporter, exporters.remove))
        return memoryview(exporter)


class Occupant:
    """The message that lies in a buffer now: what its frame names as its source.

    A buffer may serve several connections in turn, and the frame of one must not show the bytes of another.
    """

    __slots__ = ("_buffer", "_number", "_storage")

    def __init__(self, buffer: PayloadBuffer, number: int, storage: Storage) -> None:
        self._buffer = buffer
        self._number = number
        self._storage = storage

    def is_in(self, buffer: PayloadBuffer) -> bool:
        """Whether the message lies in `buffer`."""
        return self._buffer is buffer

    def export(self, start: int, stop: int) -> memoryview:
        """A view that stays right: the storage is not used again while it is held."""
        storage = self._home()
        if not storage.is_ours:
            view = storage.look(start, stop)
        else:
            if _alive(storage.kept):
                # A program may write into its view, and what is kept must not change: the view gets other memory.
                storage = self._storage = _new_storage(len(storage.memory), storage.look(0, stop))
            view = storage.view(storage.shown)[start:stop]
        self._home()  # another thread may have used the buffer meanwhile
        return view

    def peek(self, start: int, stop: int) -> memoryview:
        """A view for a caller that is done with the bytes before the next message."""
        return self._home().look(start, stop)

    def keep(self, start: int, stop: int) -> Buffer:
        """Bytes for a caller that needs them for longer: they never change, even if a program gets a view meanwhile.

        A copy where the memory is the caller's, where a program has a view already, or where a view would hold much
        more memory than its own size.
        """
        storage = self._home()
        is_little = WORTH_HOLDING * (stop - start) < len(storage.memory)
        if is_little or not storage.is_ours or _alive(storage.shown):
            kept: Buffer = bytes(storage.look(start, stop))
        else:
            kept = storage.view(storage.kept)[start:stop]
        self._home()
        return kept

    def _home(self) -> Storage:
        if self._buffer.number != self._number:
            raise StaleFrame("the PayloadBuffer that this frame lies in has been used again, or released")
        return self._storage


def check_buffer(buffer: object) -> None:
    """`TypeError` unless a read can receive into `buffer`."""
    if buffer is not None and not isinstance(buffer, PayloadBuffer):
        raise TypeError(
            f"a read receives into a PayloadBuffer, not {type(buffer).__name__}: PayloadBuffer(memory) wraps yours"
        )


class PayloadBuffer:
    """Reusable memory for payloads.

    Args:
        memory: writable, contiguous memory to receive into; without it the buffer owns storage that grows.
            It is referenced for as long as the buffer lives or until `release()`.

    Raises:
        TypeError: `memory` has no buffer interface.
        ValueError: `memory` is read-only or not contiguous.
    """

    __slots__ = (
        "__weakref__",
        "_free",
        "_made",
        "_owns",
        "_reached",
        "_storage",
        "_used",
        "number",
        "reader",
        "whole_size",
    )

    def __init__(self, memory: Buffer | None = None) -> None:
        self._owns = memory is None
        self._used = 0
        self._reached = 0  # size of the storage that was last left to its holders
        #: The reader that is in the middle of a message here, or None. Readers in two threads may begin at once: the
        #: buffer belongs to the one that has popped `_free`, which is one step.
        self.reader: Any = None
        self._free: list[None] = [None]
        #: Counts the messages that have begun here.
        self.number: int = 0
        #: Bytes of the message that is arriving, if somebody wants it as a `bytes` of his own; else 0.
        self.whole_size: int = 0
        self._made: bytes | None = None  # what `take_bytes` is going to give: the storage is its memory
        self._storage = _no_storage()
        if memory is not None:
            self._wrap(memory)

    def _wrap(self, memory: Buffer) -> None:
        with memoryview(memory) as view:
            if view.readonly:
                raise ValueError("PayloadBuffer needs writable memory; this is read-only")
            if not view.c_contiguous:
                raise ValueError("PayloadBuffer needs contiguous memory")
            is_flat = view.format == "B" and view.ndim == 1
            flat = memoryview(view) if is_flat else view.cast("B")
            # The program may slice a memoryview that it gave us, in another thread: see `HAS_GIL`.
            is_plain = is_flat and not isinstance(memory, memoryview)
        # Only the address is kept: `flat` keeps it valid. To stay pinned would be an export of `flat` for as long as
        # this buffer lives, and CPython crashes when it collects a cycle with a memoryview that has an export.
        with ffi.from_buffer("uint8_t[]", flat, require_writable=True) as pinned:
            address = ffi.cast("uint8_t *", pinned)
            self._storage = Storage(address, memory if is_plain else flat, flat, is_ours=False)

    @property
    def capacity(self) -> int:
        """Bytes that fit now. A buffer that owns its storage grows when it has to."""
        return len(self._storage.memory)

    def __len__(self) -> int:
        """Bytes of the message that was received last, or of the one that is arriving."""
        return self._used

    def __repr__(self) -> str:
        kind = "own storage" if self._owns else "the caller's memory"
        return f"<PayloadBuffer {self._used} of {self.capacity} bytes, {kind}>"

    def release(self) -> None:
        """Lets go of the memory: an mmap can be closed after this. Views that are still out keep it.

        Raises:
            ValueError: a message is arriving here.
        """
        if self.is_busy or not self.take(None):
            raise ValueError("a message is arriving in this PayloadBuffer")
        self.number += 1  # first: another thread that looks at a frame has to find it stale
        storage, self._storage = self._storage, _no_storage()
        if not storage.is_ours:
            memory, storage.memory, storage.whole = storage.memory, memoryview(b""), b""
            memory.release()  # PyPy would keep it until it collects
        self._used = 0
        self.leave()

    @property
    def is_busy(self) -> bool:
        """Whether a message is arriving here. A message that nobody will read to its end, because its connection was
        closed here, is dropped."""
        reader = self.reader
        if reader is not None and reader.is_closed_here:
            reader.give_up()
        return self.reader is not None

    # ---- for the reader ----

    def take(self, reader: Any) -> bool:
        """Takes the buffer for a message of `reader`, until `leave`. False: another reader, perhaps in another thread,
        has begun a message here."""
        try:
            self._free.pop()
        except IndexError:
            return False
        self.reader = reader
        return True

    def leave(self) -> None:
        """The message is whole, or will never be: the buffer is free again."""
        self.reader = None
        self._free[:] = (None,)

    def fill(self, payload: memoryview) -> Occupant | None:
        """Stores `payload` as a whole message, then leaves the buffer. None: it does not fit."""
        try:
            self.begin()
            return self.occupant() if self.append(payload) else None
        finally:
            self.leave()

    def begin(self) -> None:
        """A new message: from the start of the storage, or of new storage where a view is still out."""
        self._used = self.whole_size = 0
        self._made = None
        self.number += 1
        if self.is_held:
            self._reached = self.capacity
            self._grow(0, 0)

    def occupant(self) -> Occupant:
        """The message that has just been received here, as the source of its frame."""
        return Occupant(self, self.number, self._storage)

    def fits(self, total: int) -> bool:
        """Whether a message of `total` bytes can be received here."""
        return self._owns or total <= len(self._storage.memory)

    def append(self, payload: memoryview) -> bool:
        """Copies `payload` behind what has been received. Returns False, and copies nothing, when it does not fit."""
        end = self._used + len(payload)
        if end > len(self._storage.memory):
            if not self._owns:
                return False
            self._grow(max(end, 2 * self._used), self._used)
        self._storage.memory[self._used : end] = payload
        self._used = end
        return True

    def slot(self, wanted: int, total: int) -> memoryview:
        """Where up to `wanted` more bytes may be received; memory grows with what has arrived."""
        have = len(self._storage.memory) - self._used
        if have < wanted and self._owns and have < _AHEAD:
            # Straight to what earlier messages needed here, without copies on the way.
            ahead = max(_GROWTH * self._used + _AHEAD, self._reached)
            if total == self.whole_size <= ahead and MAKES_BYTES:
                self._make_bytes(total)
            else:
                self._grow(min(total, ahead), self._used)
        return self._storage.slot(self._used, self._used + wanted)

    def pointer(self) -> Any:
        """The address of the slot, for the C core."""
        return self._storage.pointer + self._used

    def advance(self, count: int) -> None:
        """`count` bytes have been received into the slot."""
        self._used += count

    @property
    def is_held(self) -> bool:
        """Whether anybody still holds a view."""
        return self._storage.is_held

    def take_bytes(self) -> bytes | None:
        """The message that has just been received here, as the object that it was received into; the buffer has other
        storage from now on. None: it was received into storage that is used again. Nobody has a view of it."""
        made, self._made = self._made, None
        if made is not None:
            self._reached = len(made)
            self._storage = _no_storage()
        return made

    def _make_bytes(self, size: int) -> None:
        """From now on the message lands in a new `bytes`: what is to be handed out need not be copied. Nobody else
        knows that object before all of it has been written."""
        made = bytes(size)  # of cleared memory, which the system has not even touched yet where it is large
        pointer = ffi.from_buffer("uint8_t[]", made)
        whole = ffi.buffer(pointer)
        memory = memoryview(whole)
        memory[: self._used] = self._storage.memory[: self._used]
        self._storage = Storage(pointer, whole, memory)
        self._made = made

    def _grow(self, capacity: int, keep: int) -> None:
        self._storage = _new_storage(capacity, self._storage.memory[:keep])


def _no_storage() -> Storage:
    """What a buffer has before its first byte. Writable all the same: an empty message is written to it like any other.

    Each buffer has its own: see `HAS_GIL`."""
    return Storage(ffi.NULL, b"", memoryview(bytearray()))


def _new_storage(capacity: int, content: memoryview) -> Storage:
    pointer = new_uncleared("uint8_t[]", max(capacity, _SMALLEST))
    whole = ffi.buffer(pointer)
    memory = memoryview(whole)
    memory[: len(content)] = content
    return Storage(pointer, whole, memory)


def _alive(exporters: list[weakref.ref[Any]]) -> list[Any]:
    """Those of which somebody still holds a view."""
    return [exporter for known in tuple(exporters) if (exporter := known()) is not None]
