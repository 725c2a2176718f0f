"""What has been written and has to be sent: segments, in order, until somebody takes them.

Small ones are joined when they are taken, large ones go out as they are. Whoever takes a segment owns it: nothing here
touches it again, because an event loop may keep a view of it for as long as the peer is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zcws.annotations import Buffer
from zcws.kernel import SLICES_HAVE_ADDRESSES, ffi

__all__ = ["CORK", "MOST_SEGMENTS", "SEGMENT", "Output", "behind", "cut", "joined", "to_slice"]

#: From this many bytes on, what cannot change is not copied: below, a copy costs less than one more segment of a
#: sendmsg (uWebSockets and picows draw the line at 16 and 8 KiB).
SEGMENT = 16 * 1024

#: What waits goes out when this many bytes have gathered: a socket buffer takes about that much.
CORK = 64 * 1024

#: Segments that one sendmsg may take (IOV_MAX is at least 16; Linux and macOS have 1024).
MOST_SEGMENTS = 512

_join: Callable[[Iterable[Buffer]], bytes] = b"".join


class Output:
    """What one connection has to send.

    Attributes:
        out: the segments that wait to be taken.
        has_large: whether there are some that should not be copied.
        written: bytes so far.
        taken: how many of them have been taken; the rest waits.
    """

    __slots__ = ("has_large", "out", "taken", "written")

    def __init__(self) -> None:
        self.out: list[Buffer] = []
        self.has_large: bool = False
        self.written: int = 0
        self.taken: int = 0

    @property
    def size(self) -> int:
        """How many bytes wait to be taken."""
        return self.written - self.taken

    def _put(self, segment: Buffer) -> None:
        """Appends a segment, which belongs to the output from here on."""
        size = len(segment)  # type: ignore[arg-type]
        self.out.append(segment)
        if size >= SEGMENT:
            self.has_large = True
        self.written += size

    def passed(self, size: int) -> None:
        """`size` bytes were sent past this output, by a driver that has seen that nothing waits to be taken."""
        self.written = self.taken = self.written + size

    def take(self) -> list[Buffer]:
        """Everything that has been written since the last `take`, in order. The segments are the caller's."""
        return joined(*self._begin_out()) if self.out else []

    def take_whole(self) -> Buffer:
        """The same as one piece, where there is something. Raises: MemoryError, and then everything is still here."""
        out = self.out
        if len(out) != 1:
            return self.take_bytes()
        self.taken, self.has_large = self.written, False
        return out.pop(0)  # the first: a finalizer may have written behind it since we looked

    def take_bytes(self) -> bytes:
        """The same as bytes, even if there is nothing."""
        out, has_large = self._begin_out()
        try:
            return _join(out)
        except MemoryError:
            self.out[:0] = out
            self.taken -= sum(map(len, out))  # type: ignore[arg-type]
            self.has_large = has_large or self.has_large
            raise

    def _begin_out(self) -> tuple[list[Buffer], bool]:
        """Takes what is there, before anything is made of it: what a finalizer writes meanwhile comes after it.
        Returns: the segments, and whether they include large ones."""
        fresh: list[Buffer] = []  # first: it may run a finalizer, which may take what is there
        out, has_large = self.out, self.has_large
        self.out, self.has_large = fresh, False
        self.taken = self.written
        return out, has_large


def joined(segments: list[Buffer], has_large: bool) -> list[Buffer]:
    """The same bytes in fewer pieces: small segments that follow each other are joined, if there is memory for that."""
    if len(segments) > 1:
        try:
            return _join_small(segments) if has_large else [_join(segments)]
        except MemoryError:
            pass  # then in more pieces than necessary
    return segments


def _join_small(segments: list[Buffer]) -> list[Buffer]:
    found: list[Buffer] = []
    small: list[Buffer] = []
    for segment in segments:
        if len(segment) < SEGMENT:  # type: ignore[arg-type]
            small.append(segment)
            continue
        if small:
            found.append(_join(small))
            small.clear()
        found.append(segment)
    if small:
        found.append(_join(small))
    return found


def to_slice(segment: Buffer) -> memoryview:
    """A view of it that may be sliced, for whoever sends it in parts. See `SLICES_HAVE_ADDRESSES`."""
    if SLICES_HAVE_ADDRESSES or type(segment) is not memoryview:
        return memoryview(segment)
    # It keeps the view, and so whatever that is a view of.
    return memoryview(ffi.buffer(ffi.from_buffer(segment)))


def behind(segments: list[Buffer], sent: int) -> list[Buffer]:
    """What is left when `sent` bytes have gone."""
    left = segments.copy()
    cut(left, sent)
    return left


def cut(segments: list[Buffer], sent: int) -> None:
    """The same in place: the segments that are left, of which there may be many, are not copied."""
    gone = 0
    for segment in segments:
        size = len(segment)  # type: ignore[arg-type]
        if sent < size:
            segments[gone] = to_slice(segment)[sent:]
            break
        sent -= size
        gone += 1
    del segments[:gone]
