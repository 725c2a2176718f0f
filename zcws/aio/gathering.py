"""What several connections have written in one turn, as the parts of one crossing.

Each part is all that a connection has written, and goes to `zcws_send_each` with the parts of the others; what is too
large to be copied, or has to wait behind something, goes out by itself meanwhile. What may send together with others is
a `Sender`: nothing here knows sockets, nor whose turn it is, which is the engine's business (engine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from struct import Struct
from typing import Protocol, TypeVar

from zcws.annotations import Buffer
from zcws.kernel import lib
from zcws.writer import Compress, Writer

__all__ = ["AnySender", "Sender", "collect", "pass_same", "places", "words_of"]

#: Up to this many bytes, what a connection writes goes out together with what the others wrote. Joining them is a copy.
_SEND_TOGETHER = 16 * 1024


class Sender(Protocol):
    """The writing side of a socket of the engine.

    Attributes:
        fd: its descriptor.
        writer: of its connection; the engine takes its output at the end of a walk.
        backlog: what has been handed over and has not been sent: it goes first.
        closing: it ends, and nothing of what the writer has may go out: it could stand behind a gap.
    """

    fd: int
    closing: bool
    writer: Writer
    backlog: list[Buffer]

    def write_ready(self) -> None:
        """It takes bytes, or may."""
        ...

    def write_rest(self) -> None:
        """Sends what the writer has, alone; behind the backlog, where there is one."""
        ...

    def sent_together(self, data: Buffer, sent: int) -> None:
        """So many bytes of `data` have been sent; or a negated errno says why not."""
        ...

    def broke(self, exc: BaseException) -> None:
        """What was received cannot be handled, or what was written has been lost."""
        ...


AnySender = TypeVar("AnySender", bound=Sender)


class _Words(dict[int, Callable[..., bytes]]):
    """Maps a count to a function that packs as many numbers into words of C, in a third of the time of an array."""

    #: Functions for up to this many words are kept: as many as 64 sockets need.
    MOST = 2 * lib.ZCWS_TURN_MOST

    def __missing__(self, count: int) -> Callable[..., bytes]:
        pack = Struct(f"{count}q").pack
        if count <= self.MOST:
            self[count] = pack
        return pack


words_of = _Words()


def collect(written: Collection[Sender], fds: list[int], parts: list[Buffer]) -> None:
    """Adds to `fds` and `parts` what the senders have written, except what has to go out by itself."""
    are_several = len(written) > 1
    for transport in written:
        writer = transport.writer
        out = writer.out
        if (
            transport.backlog
            or transport.closing
            # A broadcast may have given several the same bytes: then one copy serves all.
            or (writer.has_large and not (are_several and out and type(out[0]) is bytes))
            or len(out) != 1
            # The last: a signal handler may have sent it by now.
            or out is not writer.out
        ):
            data = _take(transport)
            if data is None:
                continue
        else:
            data = out.pop(0)
            writer.taken = writer.written
            writer.has_large = False
        fds.append(transport.fd)
        parts.append(data)


def pass_same(
    senders: list[AnySender], size: int, deflated: tuple[int, int] | None
) -> tuple[list[int], list[AnySender]]:
    """Has a message of `size` bytes, framed already and the same for all senders, pass by their writers.

    Args:
        deflated: for a compressed message, its bytes before and after compression; then all of them compress.

    Returns: the descriptors that it has to be sent to, and the senders that have to write it: something is in its way.
    """
    fds, others = list[int](), list[AnySender]()
    if deflated is not None:
        # Before anybody looks: what a signal handler sends from here on does not refer past this message.
        for transport in senders:
            transport.writer.compressor.rest()  # type: ignore[union-attr]  # there is one
    for transport in senders:
        writer = transport.writer
        if writer.out or writer.opcode or transport.backlog or transport.closing:
            others.append(transport)
        else:
            # `Writer.passed`, without the call.
            writer.written = writer.taken = writer.written + size
            writer.messages += 1
            fds.append(transport.fd)
            if deflated is not None:
                # `Compress.sent_shared`, but for what has been done above.
                codec: Compress = writer.compressor  # type: ignore[assignment]
                codec.bytes_before += deflated[0]
                codec.bytes_after += deflated[1]
    return fds, others


def places(parts: list[Buffer]) -> tuple[bytes, list[Buffer]]:
    """Where each part begins when the distinct ones are joined, as words of C; and the distinct ones. A broadcast gives
    many the same part, or one of several if some compress and others do not."""
    end, begins = 0, list[int]()
    begin_of: dict[int, int] = {}  # by the identity of each: `parts` keeps them alive
    distinct: list[Buffer] = []
    for data in parts:
        begin = begin_of.setdefault(id(data), end)
        if begin == end:
            distinct.append(data)
            end += len(data)  # type: ignore[arg-type]
        begins.append(begin)
    return words_of[len(begins)](*begins), distinct


def _take(transport: Sender) -> Buffer | None:
    """What a sender has written, as one part to be sent with those of the others.

    None: it has gone out by itself; or there was nothing: the sender has been flushed since.
    """
    writer = transport.writer
    if not (transport.backlog or transport.closing) and writer.size <= _SEND_TOGETHER:
        return writer.take_whole() or None
    transport.write_rest()
    return None
