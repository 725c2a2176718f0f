"""Where received bytes land: a ring of memory.

A ring is one run of bytes that is written at its head by the network and read behind it by the C core:

        0          tail                       head                     capacity          2 * capacity
        |           | frames that somebody may  |  room for the next     |                 |
        |           | still read, and the start |  read from the         |                 |
        |           | of an unfinished one      |  network               |                 |

Where the platform allows it the memory is mapped twice, back to back, so a run that passes `capacity` goes on
without a seam (`mirrored`). Where it does not, the unread bytes are moved to the front when the end is reached:
the same class, one copy more.

**A view that somebody holds never changes.** `export` hands out views of an exporter object, a fresh one a batch,
that can be weakly referenced. As long as a slice or an array over it lives, so does the exporter; and as long as
the exporter lives, no byte from its first view on is written to. A ring whose bytes have all been read is set aside
until its views are gone (pool.py); a reader that keeps its ring goes on behind what is held, and lets go of the ring
when there is no other room. A forked child process has every view that there is at the fork, and nothing here shows
when it lets go of them: from then on the ring keeps those exporters itself (`leave`), and is never free again.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from zcws.kernel import ffi, lib, new_uncleared

if TYPE_CHECKING:
    from zcws.kernel import CBuffer, CData

__all__ = ["RING_CAPACITY", "WIDE_CAPACITY", "Ring"]

#: Bytes of a ring: what one connection may bring in one turn (uvloop reads at most 256 KiB at a time, and so
#: does aiofastnet), and it fits a level-2 cache beside the code.
RING_CAPACITY = 256 * 1024

#: Bytes of a wide ring, for a connection that fills an ordinary one with every read. It does not fit that cache, and is
#: faster all the same: what a turn of the event loop costs beside its bytes (a system call, acknowledgements, some
#: thousand bytecodes) is shared by four times as many bytes.
WIDE_CAPACITY = 1024 * 1024


def _mirrored_memory(capacity: int) -> Any:
    # The function is bound here: when the last rings die, the interpreter has emptied this module already.
    unmap = partial(lib.zcws_mirror_unmap, capacity)
    # No step of Python lies between the two calls, and none in the finalizer: a signal handler that raises there, as
    # Ctrl-C does, would leave the memory mapped for ever, and what it raises in a finalizer is lost.
    # PyPy decides when to collect by the sizes of objects that it is told.
    base = next(map(ffi.gc, map(lib.zcws_mirror_map, (capacity,)), (unmap,), (capacity,)))
    return None if base == ffi.NULL else base


class Ring:
    """Memory for received bytes. Positions are offsets from `base`; see the module's picture.

    Attributes:
        base: the memory's address, as cffi knows it.
        memory: the reader's own view of all of it. It is never handed out, so it says nothing about who holds what.
        copies: the same memory, for copies: a slice of it is a `bytes`, in half the time that a view's copy takes.
        whole: the first `capacity` bytes of it: what an empty ring offers to the network.
        exports: who may hold a view, and from which offset on; ask `is_exported`.
        is_wide: whether it is one of its pool's few wide ones.
        left: exporters that a child process may have views of; then the ring is not used again for anything else.
        tail, head: moved by the reader that leases the ring, and by nobody else.
    """

    __slots__ = (
        "__weakref__",
        "_exporter",
        "base",
        "capacity",
        "copies",
        "exports",
        "head",
        "is_wide",
        "left",
        "memory",
        "mirrored",
        "tail",
        "whole",
    )

    def __init__(
        self, capacity: int = RING_CAPACITY, *, mirrored: bool = True, is_wide: bool = False
    ) -> None:
        page = lib.zcws_page_size()
        self.capacity: int = -(-capacity // page) * page
        base = _mirrored_memory(self.capacity) if mirrored else None
        self.mirrored: bool = base is not None
        self.base: CData = new_uncleared("uint8_t[]", self.capacity) if base is None else base
        # A run may pass `capacity` only where the memory goes on behind it.
        self.copies: CBuffer = ffi.buffer(self.base, self.capacity * (2 if self.mirrored else 1))
        self.memory: memoryview = memoryview(self.copies)
        self.whole: memoryview = self.memory[: self.capacity]
        self.is_wide: bool = is_wide
        self.tail: int = 0
        self.head: int = 0
        self._exporter: weakref.ref[Any] | None = None
        self.exports: list[tuple[weakref.ref[Any], int]] = []
        self.left: list[Any] = []

    # ---- views ----

    def export(self) -> memoryview:
        """A view of all the memory, to be sliced: no byte that has not been read yet changes while a slice is held.

        Slices keep the memory alive, not the lease. Safe from any thread that has a frame which is not stale.
        """
        exporter = None
        for known, start in self.exports[-1:]:
            # It has to be of this batch, and to guard what is unread: one that another thread left too late may not.
            if known is self._exporter and start <= self.tail:
                exporter = known()
        if exporter is None:
            exporter = ffi.buffer(self.base, len(self.memory))
            known = weakref.ref(exporter)  # another thread may put its own in `_exporter` meanwhile
            self.exports.append((known, self.tail))
            self._exporter = known
        return memoryview(exporter)

    def peek(self, start: int, stop: int) -> memoryview:
        """A view for a caller that is done with it before the next read: it protects nothing."""
        return self.memory[start:stop]

    def next_batch(self) -> None:
        """Views taken from now on get a fresh exporter, so that the old one dies with its own views."""
        self._exporter = None

    @property
    def is_exported(self) -> bool:
        """Whether anybody still holds a view."""
        exports = self.exports
        while exports:
            youngest = exports[-1]  # nearly always the only one
            if youngest[0]() is not None:
                return True
            exports.remove(youngest)  # another thread may have put one behind it
        return False

    def leave(self, *, lent: bool = False) -> None:
        """A child process is about to be forked: it will hold every view that is held, and a frame that is not stale
        will stay so there, because nobody there reads on.

        Args:
            lent: a connection has the ring, and may have handed out frames that lie in it from its tail on.

        Safe from any thread: of what others may be using, things are only read or added.
        """
        if self.mirrored:  # other memory is not shared with a child
            if lent:
                memory = ffi.buffer(self.base, len(self.memory))  # lives on in `left`
                self.exports.append((weakref.ref(memory), self.tail))
            self.left = [held for exporter, _ in tuple(self.exports) if (held := exporter()) is not None]

    # ---- room ----

    def room(self) -> memoryview:
        """The bytes from the head on that may be written to; none when the ring is full."""
        if self.exports or not self.mirrored:
            return self.memory[self.head : max(self._limit(), self.head)]
        return self.memory[self.head : self.tail + self.capacity]  # or to the memory's end, where slices stop

    def keep_from(self, tail: int) -> int:
        """A quicker `settle`, while no view is held: bytes from `tail` on are needed. Returns where the tail is now."""
        if self.mirrored and tail < self.head:
            if tail >= self.capacity:
                tail -= self.capacity
                self.head -= self.capacity
            self.tail = tail
            return tail
        self.tail = tail
        return tail - self.settle()

    @property
    def is_filled(self) -> bool:
        """Whether there is no room left: the network has brought as much as it was asked for."""
        return self.head >= self._limit()

    def _limit(self) -> int:
        """Where writing has to stop: at the end, or where it would reach the oldest byte that is needed or held."""
        if not self.mirrored:
            return self.capacity
        oldest, exports = self.tail, self.exports
        for export in tuple(exports):
            exporter, start = export
            if exporter() is None:
                exports.remove(export)  # in place: another thread may be about to add one
            else:
                oldest = min(oldest, start)
        return min(oldest + self.capacity, 2 * self.capacity)

    def settle(self) -> int:
        """Makes room without changing a byte that is needed or held. Returns how far all positions moved back.

        Only while nobody remembers positions: no frame is handed out, and none waits.
        """
        shift = 0
        if self.is_exported:
            if self.mirrored and self.tail >= self.capacity:
                shift = self.capacity
        elif self.tail == self.head:
            shift = self.tail
        elif self.mirrored:
            shift = self.capacity if self.tail >= self.capacity else 0
        elif self.tail and self.capacity - self.head < self.capacity // 2:
            shift = self.tail
            self.memory[: self.head - shift] = bytes(self.memory[shift : self.head])
        if shift:
            self.tail -= shift
            self.head -= shift
            self.exports = [(exporter, start - shift) for exporter, start in self.exports]
        return shift

    def close_up(self, stop: int, begin: int) -> tuple[int, int]:
        """Moves the bytes from `begin` on back to `stop`. Nobody has been given what lies between, so a view that is
        held stays right. Returns where the bytes begin and end now."""
        unread = bytes(self.memory[begin : self.head])
        self.memory[stop : stop + len(unread)] = unread
        return stop, stop + len(unread)

    @property
    def is_crowded(self) -> bool:
        """Whether held views leave less room than a read is worth: time to let go of this ring."""
        return bool(self.exports) and self._limit() - self.head < self.capacity // 8

    def move_unread(self, other: Ring) -> None:
        """Copies tail..head to the beginning of `other`, a ring that is empty."""
        count = self.head - self.tail
        other.memory[:count] = self.memory[self.tail : self.head]
        other.tail, other.head = 0, count
