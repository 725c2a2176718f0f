"""The writing half: from messages to bytes that somebody else sends.

Each frame is appended to the output (output.py), with as few copies as possible:

    payload                      unmasked (server)               masked (client)
    small                        copied behind its head          masked on its way there
    bytes, large                 a segment of its own, 0 copies  masked while it is copied into memory of its own
    other bytes-like, large      copied                          the same

Where a driver has a socket at hand, a large frame goes out at once (`Writer.send_large`), from where it lies; a masked
one goes part by part, without memory of its own.

A caller's bytes are never modified. What must not be sent is refused here, before a byte of it is written: a
ValueError is the caller's mistake, ConnectionClosed says that our Close is out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Protocol

from zcws.annotations import Buffer
from zcws.bridge import Reply
from zcws.closing import close_payload, code_and_reason
from zcws.codes import CloseCode, OpCode
from zcws.errors import closed_error
from zcws.frame import Frame, ReceivedFrame, check_control
from zcws.heads import FIN, HEADS, RSV1, unmasked_head
from zcws.kernel import ffi, lib, new_uncleared
from zcws.output import SEGMENT, Output
from zcws.payloads import NOT_UTF8, check_text
from zcws.pool import Pool
from zcws.ring import Ring
from zcws.rows import ROW, spans_of
from zcws.scratch import LONGEST_HEAD, SCRATCH_CAPACITY
from zcws.utf8 import Utf8

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["Compress", "Writer"]

_CLOSE = OpCode.CLOSE

#: The close reason for a peer that has been sent only a part of a message.
_GAVE_UP = "the sender gave up in the middle of a message"

#: A payload of more bytes than this is masked into memory of its own, or sent at once (`Writer.send_large`).
_OWN_MEMORY = SCRATCH_CAPACITY - LONGEST_HEAD

_build_masked = lib.zcws_build_masked


class Compress(Protocol):
    """What compresses the messages of one connection, one at a time. RFC 7692 7.2.1.

    Attributes:
        bytes_before, bytes_after: bytes of the messages that went out compressed so far, before and after compression.
    """

    bytes_before: int
    bytes_after: int

    def is_worth(self, size: int) -> bool:
        """Whether a message of `size` bytes should be compressed when the caller did not say."""
        ...

    def message(self, payload: Buffer) -> bytes | None:
        """A whole message compressed, or None where that would be longer."""
        ...

    def piece(self, payload: Buffer, *, last: bool) -> bytes:
        """The next piece of a message that goes out in fragments."""
        ...

    @property
    def key(self) -> Hashable:
        """Equal for all connections that can be given the same `shared_message`."""
        ...

    def rest(self) -> None:
        """What was compressed last is not sent: nothing after it may refer to it."""
        ...

    def shared_message(self, payload: Buffer) -> bytes | None:
        """A whole message compressed for many connections, or None where that would be longer."""
        ...

    def sent_shared(self, before: int, after: int) -> None:
        """What `shared_message` gave goes out here: counts its bytes, and forgets every message so far."""
        ...


class Writer(Output):
    """The writing half of one connection.

    Args:
        pool: lends the memory in which frames are masked.
        next_key: gives masking keys; None where frames go out unmasked (a server, or no-masking).
        compressor: of messages, where permessage-deflate was agreed; else None. It is an attribute as well.

    Attributes:
        is_bare: whether messages go out as they are, neither masked nor compressed.
        plain_below: a message of fewer bytes goes out as it is, behind its head in one segment.
        scratch: where frames are masked, if they are.
        next_key: gives a key for each.
        masks_up_to: bytes of the largest message that is only masked, and in the scratch; -1 where none is.
        send_large: set by a driver that has a socket at hand. Called with a large frame when nothing waits to be taken:
            first byte, payload, size, and the key to mask it with, or None. Returns whether it has taken the frame, and
            counted it with `passed`; then it is done with the payload, unless that is bytes.
        opcode: of the message that is going out in fragments; CLOSE when nothing may be written any more; else 0.
        is_compressing: whether a whole one is being compressed and is not written yet, or one that was compressed for
            many is just being written. What a finalizer or a signal handler sends meanwhile goes out as it is.
        messages: how many have been written whole.
        sent_close: the payload of our Close once it has been written, else None.
    """

    __slots__ = (
        "_compresses_pieces",
        "_other_frames",
        "_utf8",
        "compressor",
        "is_bare",
        "is_compressing",
        "masks_up_to",
        "messages",
        "next_key",
        "opcode",
        "plain_below",
        "scratch",
        "send_large",
        "sent_close",
    )

    def __init__(
        self, pool: Pool, *, next_key: Callable[[], int] | None, compressor: Compress | None
    ) -> None:
        super().__init__()
        self.scratch: Any = None if next_key is None else pool.scratch()
        self.next_key: Callable[[], int] | None = next_key
        self.send_large: Callable[[int, CData | Buffer, int, int | None], bool] | None = None
        self.compressor: Compress | None = compressor
        self.is_bare: bool = next_key is None and compressor is None
        self.masks_up_to = -1 if next_key is None or compressor is not None else _OWN_MEMORY
        self.plain_below: int = SEGMENT if self.is_bare else 0
        self.opcode: int = 0
        self._compresses_pieces = False  # of that message
        self._utf8: Utf8 | None = None  # of that message, if it is text
        self.is_compressing: bool = False
        self.messages: int = 0
        self._other_frames = 0  # those that did not end a message; the usual one counts as a message only
        self.sent_close: bytes | None = None

    # ---- what the caller wants to say ----

    def write_message(self, opcode: OpCode, payload: Buffer, compress: bool | None = None) -> None:
        """A whole message in one frame. `payload` is bytes-like of bytes; text has to be UTF-8 already.

        Where compression was not agreed, `compress` means nothing: it is not ours alone to decide.

        Raises:
            ConnectionClosed: our Close is out.
            ValueError: a message is going out in fragments.
        """
        if self.opcode:
            self.refuse_message()
        size = len(payload)  # type: ignore[arg-type]
        # The usual cases of `_write`, inlined.
        if size < self.plain_below:
            frame = HEADS[opcode][size] + payload
            self.out.append(frame)
            self.written += len(frame)
        elif size <= self.masks_up_to and type(payload) is bytes:
            scratch = self.scratch
            scratch.uses = uses = scratch.uses + 1
            written = _build_masked(scratch.base, FIN | opcode, payload, size, self.next_key())  # type: ignore[misc]
            frame = scratch.copies[:written]
            if scratch.uses != uses:  # see `Scratch.uses`
                frame = scratch.frame(FIN | opcode, payload, size, self.next_key())  # type: ignore[misc]
            self.out.append(frame)
            self.written += written
        elif self.compressor is not None:
            self._write_compressed(self.compressor, opcode, payload, size, compress)
        elif self.next_key is not None:
            self._write_masked(FIN | opcode, payload, size)
        else:
            self._write(FIN | opcode, payload)
        self.messages += 1

    def write_messages(self, opcode: OpCode, payloads: list[bytes], compress: bool | None = None) -> None:
        """Whole messages one behind the other, in as few segments as possible. Raises: as `write_message`."""
        if len(payloads) < 2 or self.compressor is not None:
            for payload in payloads:
                self.write_message(opcode, payload, compress)
            return
        # Nearly no bytecode runs for each: a quarter of what `write_message` takes.
        if self.next_key is None:
            self.write_framed(_join_bare(opcode, payloads), len(payloads))
        else:
            ends = array("Q", accumulate(map(len, payloads), initial=0))
            self._build_each(opcode, b"".join(payloads), memoryview(ends), 1, len(payloads))

    def write_received(
        self, opcode: OpCode, ring: Ring, rows: memoryview, compress: bool | None = None
    ) -> None:
        """The same for messages that lie in `ring`, in order; text was checked when it arrived. Raises: the same."""
        if self.compressor is not None:
            copies = ring.copies
            payloads = [copies[start:stop] for start, stop in zip(*spans_of(rows), strict=True)]
            self.write_messages(opcode, payloads, compress)
        else:
            self._build_each(opcode, ring.base, rows[1:], ROW, len(rows) // ROW)

    def _build_each(self, opcode: OpCode, data: Any, spans: memoryview, step: int, count: int) -> None:
        """One frame for each part of `data`, all of them in one crossing. RFC 6455 5.3: each has a key of its own.

        Args:
            spans: words: where a part begins, then where it ends; those of the next part follow `step` words later.
        """
        next_key = self.next_key
        keys = None if next_key is None else array("I", [next_key() for _ in range(count)])
        scratch, size = self.scratch, spans[step * (count - 1) + 1] - spans[0] + LONGEST_HEAD * count
        memory = new_uncleared("uint8_t[]", size) if scratch is None else scratch.reserve(size)
        written = lib.zcws_build_each(
            memory,
            FIN | opcode,
            data,
            ffi.from_buffer("uint64_t[]", spans),
            step,
            ffi.NULL if keys is None else ffi.from_buffer("uint32_t[]", keys),
            count,
        )
        frames = memoryview(ffi.buffer(memory, written)) if scratch is None else scratch.lend(memory, written)
        self.write_framed(frames, count)

    def _write_compressed(
        self, codec: Compress, opcode: OpCode, payload: Buffer, size: int, compress: bool | None
    ) -> None:
        """A whole message, compressed where that is wanted and pays. RFC 7692 7.2.1."""
        if compress is None:
            compress = codec.is_worth(size)
        # A finalizer may send in the middle of this. Its message goes out first and, if compressed, would be a part of
        # this one or refer to it. RFC 7692 6: what is not compressed does neither.
        is_inner, self.is_compressing = self.is_compressing, True
        compress = compress and not is_inner
        try:
            compressed = codec.message(payload) if compress else None
            if compressed is None:
                self._write(FIN | opcode, payload)
            else:
                self._write(FIN | RSV1 | opcode, compressed)
        except BaseException:  # a signal handler's, or no memory
            codec.rest()
            raise
        finally:
            self.is_compressing = is_inner

    def write_prepared(self, first: int, payload: bytes, frame: bytes, size: int) -> None:
        """A whole message that was framed for many writers (prepared.py).

        Args:
            first: the first byte of its head; with RSV1 the payload refers to nothing before it.
            payload: for a writer that masks.
            frame: head and payload, unmasked. It is not copied when it is large.
            size: bytes of the message before it was compressed, if it was.

        Raises:
            ConnectionClosed: our Close is out.
            ValueError: a message is going out in fragments.
        """
        if self.opcode:
            self.refuse_message()
        # What a finalizer sends in the middle of this goes before it: no context may take that for the last message.
        is_inner, self.is_compressing = self.is_compressing, True
        try:
            if first & RSV1:
                assert self.compressor is not None
                self.compressor.sent_shared(size, len(payload))
            if self.next_key is None:
                self.write_framed(frame)
            else:
                self._write(first, payload)  # RFC 6455 5.3: each frame has a key of its own
                self.messages += 1
        finally:
            self.is_compressing = is_inner

    def lend_message(self, opcode: OpCode, payload: Buffer) -> list[Buffer]:
        """A whole message whose payload stays the caller's, for a writer that `is_bare`. Raises: as `write_message`.

        Returns: as `take`, and at the end the message. Its payload is the last segment, which has to be sent or copied
        before the payload's owner may change it again.
        """
        if self.opcode:
            self.refuse_message()
        segments = self.take()
        head, size = unmasked_head(FIN | opcode, len(payload)), len(payload)  # type: ignore[arg-type]
        self.written += len(head) + size
        self.taken = self.written
        self.messages += 1
        segments += (head, payload)
        return segments

    def passed_message(self, size: int) -> None:
        """Counts a whole message, of `masks_up_to` bytes at most, that was masked and sent elsewhere: `size` bytes.

        For a driver that has seen that nothing waits to be taken, and that a message may begin.
        """
        self.passed(size)
        self.messages += 1

    def write_framed(self, frames: Buffer, count: int = 1) -> None:
        """`count` whole messages, framed already, and masked where we mask: they go out as they are.

        They are not copied when they are large. Raises: as `write_prepared`.
        """
        if self.opcode:
            self.refuse_message()
        size = len(frames)  # type: ignore[arg-type]
        self.out.append(frames)  # `_put`, inlined: a broadcast calls this for each connection
        if size >= SEGMENT:
            self.has_large = True
        self.written += size
        self.messages += count

    def write_fragment(
        self, opcode: OpCode, payload: Buffer, *, last: bool, compress: bool | None = None
    ) -> None:
        """The next fragment of a message; `opcode` and `compress` count on its first one only. RFC 6455 5.4.

        Raises:
            ConnectionClosed: our Close is out.
            ValueError: it is text, and not UTF-8.
        """
        self._check_open()
        self._check_fragment(opcode, payload, last=last)
        first = FIN if last else 0
        if not self.opcode:
            # As in `_write_compressed`: what a finalizer sends in the middle of that is not compressed.
            may_compress = self.compressor is not None and not self.is_compressing
            self._compresses_pieces = may_compress and (compress is None or compress)
            if self._compresses_pieces:
                first |= RSV1  # RFC 7692 6: on the first frame only
            first |= opcode
        begun, before = self.opcode, (len(self.out), self.written)
        # First: for a signal handler or a finalizer that writes or raises, we are in the middle of a message.
        self.opcode = begun or opcode
        try:
            self._write_piece(first, payload, last=last)
        except BaseException:
            if self.opcode != _CLOSE and before == (len(self.out), self.written):
                self.opcode = begun  # what has not been written has begun nothing
            raise
        if last and self.opcode != _CLOSE:  # `bar`: the socket has turned out to be broken
            self.opcode = 0
        if last:
            self.messages += 1
        else:
            self._other_frames += 1

    def _write_piece(self, first: int, payload: Buffer, *, last: bool) -> None:
        """One fragment, compressed where its message is."""
        codec = self.compressor if self._compresses_pieces else None
        if codec is None:
            self._write(first, payload)
            return
        try:
            self._write(first, codec.piece(payload, last=last))
        except BaseException:  # a signal handler's, or no memory
            codec.rest()
            raise

    def write_frame(self, frame: Frame) -> None:
        """A frame as it is. A received frame may be written; it is copied before this returns.

        Raises:
            ConnectionClosed: our Close is out.
            StaleFrame: the frame was received and its connection has been read from since.
            ValueError: text that is not UTF-8, or a frame that does not follow the last one (RFC 6455 5.4).
        """
        opcode, payload = frame.opcode, frame._peek()
        if opcode >= OpCode.CLOSE:
            self.write_control(opcode, payload)
            return
        self._check_order(opcode)
        if frame.fin and opcode is not OpCode.CONTINUATION:
            if opcode is OpCode.TEXT and not isinstance(frame, ReceivedFrame):
                check_text(payload)
            self.write_message(opcode, payload)
        else:
            self.write_fragment(opcode, payload, last=frame.fin)

    def write_control(self, opcode: OpCode, payload: Buffer) -> None:
        """A Ping, a Pong or a Close. RFC 6455 5.5.

        Raises:
            ConnectionClosed: our Close is out.
            ValueError: over 125 bytes, or a Close that must not be sent.
        """
        self._check_open()
        view = memoryview(payload)
        check_control(opcode, view)
        if opcode is OpCode.CLOSE:
            self._write_last(bytes(view))
        else:
            self._write(FIN | opcode, view)
        self._other_frames += 1

    def _write_last(self, close: bytes) -> None:
        """Our Close. Nothing may stand behind it: what a signal handler or a finalizer sends meanwhile is refused."""
        begun, before = self.opcode, (len(self.out), self.written)
        self.sent_close, self.opcode = close, _CLOSE
        try:
            self._write(FIN | _CLOSE, close)
        except BaseException:
            if before == (len(self.out), self.written):
                self.sent_close, self.opcode = None, begun  # it has not been written
            raise

    def last_words(self, code: int | None, reason: str) -> tuple[int | None, str]:
        """The code and the reason of a Close that a program sends now. In the middle of a message they are not the
        program's own, because the peer waits for the rest of the message."""
        return (CloseCode.INTERNAL_ERROR, _GAVE_UP) if self.is_in_message else (code, reason)

    def write_close(self, code: int | None, reason: str = "") -> None:
        """A Close. Nothing can be written after it. RFC 6455 5.5.1.

        Raises: as `write_control`.
        """
        self.write_control(OpCode.CLOSE, close_payload(code, reason))

    def write_reply(self, reply: Reply) -> bool:
        """What the bridge brought. Returns True when it was the last: nothing may be written any more."""
        if self.sent_close is None:
            # Nothing to check: it is the peer's own payload, which the C core has read, or a sentence of errors.py.
            if reply.earlier:
                self._write_pongs(reply.earlier)
            if reply.is_last:
                self._write_last(reply.payload)
            else:
                self._write(FIN | reply.opcode, reply.payload)
            self._other_frames += 1
        return self.sent_close is not None

    def _write_pongs(self, payloads: Sequence[bytes]) -> None:
        """The Pongs for Pings that have arrived together."""
        if self.next_key is None:
            self._put(_join_bare(OpCode.PONG, payloads))
        else:
            for payload in payloads:
                self._write(FIN | OpCode.PONG, payload)
        self._other_frames += len(payloads)

    @property
    def frames(self) -> int:
        """How many have been written, control frames too."""
        return self.messages + self._other_frames

    @property
    def deflated(self) -> tuple[int, int]:
        """Bytes of messages that went out compressed, before and after that was done. RFC 7692."""
        codec = self.compressor
        return (0, 0) if codec is None else (codec.bytes_before, codec.bytes_after)

    @property
    def is_in_message(self) -> bool:
        """Whether a message is going out in fragments, and only control frames may be written between."""
        return 0 < self.opcode < OpCode.CLOSE

    # ---- what must not be sent ----

    def _check_open(self) -> None:
        if self.opcode == OpCode.CLOSE:
            self.refuse_message()

    def refuse_message(self) -> None:
        """Raises the reason why no message may begin while `opcode` is not 0. Raises: as `write_message`."""
        if self.sent_close is not None:
            raise closed_error(*code_and_reason(self.sent_close), clean=True)
        if self.opcode == OpCode.CLOSE:
            raise closed_error(CloseCode.ABNORMAL_CLOSURE, "", clean=False)
        raise ValueError("a message is going out in fragments; finish it first (RFC 6455 5.4)")

    def _check_order(self, opcode: OpCode) -> None:
        if opcode is OpCode.CONTINUATION and not self.opcode:
            raise ValueError("a continuation frame without a message to continue (RFC 6455 5.4)")
        if opcode is not OpCode.CONTINUATION and self.opcode:
            self.refuse_message()

    def _check_fragment(self, opcode: OpCode, payload: Buffer, *, last: bool) -> None:
        """The next part of a message that may be text. RFC 6455 8.1."""
        if not self.opcode:
            self._utf8 = Utf8() if opcode is OpCode.TEXT else None
        if self._utf8 is not None and not self._utf8.takes(payload, last=last):
            raise ValueError(NOT_UTF8)

    # ---- frames ----

    def _write(self, first: int, payload: Buffer) -> None:
        """Appends one frame."""
        size = len(payload)  # type: ignore[arg-type]
        if self.next_key is not None:
            self._write_masked(first, payload, size)
            return
        head = unmasked_head(first, size)
        if size < SEGMENT:
            self.out.append(head + payload)
        elif type(payload) is not bytes and self.send_large is None:
            # It has to be copied anyway: behind its head, which saves a segment, a TLS record and a write.
            frame = b"".join((head, payload))
            self.out.append(frame)
            self.has_large = True
        elif size > _OWN_MEMORY and self._sends_large(first, payload, size, None):
            return
        else:
            # Made before `out` is looked up: a signal handler may have it sent meanwhile, and replaced by another list.
            segments = (head, payload if type(payload) is bytes else bytes(payload))
            self.out += segments
            self.has_large = True
        self.written += len(head) + size

    def _write_masked(self, first: int, payload: Buffer, size: int) -> None:
        """RFC 6455 5.3: masked while it is copied; the caller's bytes stay as they are."""
        if type(payload) is bytes:
            self._mask(first, payload, size)
        else:
            with ffi.from_buffer(payload) as source:  # released at once: see `PayloadBuffer._wrap`
                self._mask(first, source, len(source))  # a signal handler may have made it shorter

    def _mask(self, first: int, source: CData | bytes, size: int) -> None:
        key = self.next_key()  # type: ignore[misc]
        if size > _OWN_MEMORY:
            if not self._sends_large(first, source, size, key):
                self._put(self.scratch.frame(first, source, size, key))
            return
        scratch = self.scratch
        scratch.uses = uses = scratch.uses + 1
        written = _build_masked(scratch.base, first, source, size, key)
        frame = scratch.copies[:written]
        if scratch.uses != uses:  # see `Scratch.uses`
            frame = scratch.frame(first, source, size, key)
        self.out.append(frame)
        self.written += written

    def _sends_large(self, first: int, payload: CData | Buffer, size: int, key: int | None) -> bool:
        """Whether the driver has sent a large frame, or will: when nothing waits that has to go before it."""
        return self.send_large is not None and not self.out and self.send_large(first, payload, size, key)

    def bar(self) -> None:
        """The socket is gone: nothing may be written any more."""
        self.opcode = OpCode.CLOSE


def _join_bare(opcode: OpCode, payloads: Sequence[bytes]) -> bytes:
    heads = map(HEADS[opcode].__getitem__, map(len, payloads))
    return b"".join(chain.from_iterable(zip(heads, payloads)))  # noqa: B905  as long as each other
