"""The compressor and the decompressor of permessage-deflate, on zlib. RFC 7692 7.2.

A message is one run of raw DEFLATE that ends on a byte boundary, without the four bytes that every such end has.
What one side remembers from message to message (the context) is what compression costs in memory, so:

    context takeover    one context per direction and connection, made when first used; `Deflater.rest` drops ours
    no takeover, out    one compressor per pool for everybody: a full flush after each message forgets all of it
    no takeover, in     a fresh decompressor per message, so that no message can refer to another's bytes
    for many, out       the pool's compressor for all of them, whether or not they have contexts of their own

Inflating goes in steps, each with a limit of bytes in and of bytes out, and the caller may stop between two. No step
goes further than one byte over what the message may have, so a message that is too long is reported as that, whatever
follows the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zcws.annotations import Buffer
from zcws.extensions import MAX_STREAMS, TAIL, DeflateParameters
from zcws.zlib import tell, zlib

__all__ = ["Deflater", "Inflater"]

_ZlibError: type[Exception] = zlib.error

#: Inflated after the tail of a message: empty blocks of both kinds by turns (RFC 1951 3.2.6, 3.2.4). After a whole
#: message they give nothing; otherwise they are read as the rest of a block, which gives something or fails. Of 20,000
#: messages that were cut off inside a block, 968 got past a single stored block, 70 past twelve such pairs, none past
#: twenty.
_PROBE = b"\x02\x00\x00\x00\xff\xff" * 24

_SYNC_FLUSH: int = zlib.Z_SYNC_FLUSH

#: zlib's number; PyPy's module has no name for it.
_RLE = 3

#: Bytes given to zlib in one step: it copies what it could not use, so this bounds that copy too.
_STEP_IN = 16 * 1024

#: Bytes taken from zlib in one step: how far a bomb gets before somebody looks.
_STEP_OUT = 64 * 1024

#: Ticks that a compressor survives without a message: they come twice in its idle time, and the first may come at once.
_IDLE_TICKS = 2

#: Raw DEFLATE in zlib has windows of 2^9 bytes and up. Where 2^8 was agreed, the peer never refers back further than
#: that, and we refer to the previous byte only (`Deflater._new_stream`).
_SMALLEST_WINDOW = 9

#: Bytes that zlib holds for a decompressor after a short message, and for a compressor (docs/compression.md).
_INFLATING, _DEFLATING = 12 * 1024, 96 * 1024

_CUT_OFF = "the message ends in the middle of a DEFLATE block"


class Inflater:
    """Decompresses the peer's messages, one after the other.

    Args:
        parameters: what was agreed.
        is_client: our role; the peer's window and takeover are those of the other role.

    Attributes:
        bytes_before, bytes_after: compressed bytes inflated so far, and the bytes that they gave.
    """

    __slots__ = (
        "_forgets",
        "_is_begun",
        "_room",
        "_stream",
        "_streams",
        "_wbits",
        "bytes_after",
        "bytes_before",
    )

    def __init__(self, parameters: DeflateParameters, *, is_client: bool) -> None:
        bits = parameters.server_max_window_bits if is_client else parameters.client_max_window_bits
        self._wbits = -max(bits, _SMALLEST_WINDOW)
        self._forgets = (
            parameters.server_no_context_takeover if is_client else parameters.client_no_context_takeover
        )
        self._stream: Any = None
        self._streams = 0  # DEFLATE streams of the message in progress
        self._is_begun = False  # some bytes of a message have been inflated
        self._room = 0  # bytes that the message in progress may still have; -1: it is too long
        self.bytes_before: int = 0
        self.bytes_after: int = 0

    def message(self, payload: bytes, limit: int) -> bytes:
        """A whole message at once; of one that is longer than `limit` bytes, one byte more than that.

        Nearly always one call of zlib, the tail included: for a short message, anything more would cost more than that.

        Raises:
            ValueError: as `pieces`.
        """
        if not payload:
            return b""
        stream = self._stream
        if stream is None:
            self._streams = 0
            stream = self._new_stream()
        step = _STEP_OUT if limit >= _STEP_OUT else limit + 1
        try:
            piece: bytes = stream.decompress(payload + TAIL, step)
            if len(piece) < step and not stream.eof:
                _check_end(stream)
            else:
                piece = self._whole(piece, limit, is_full=len(piece) == step)
        except _ZlibError as exc:
            raise ValueError(str(exc)) from None
        if self._forgets:
            self._stream = None
        self.bytes_before += len(payload)
        self.bytes_after += len(piece)
        return piece

    def _whole(self, piece: bytes, limit: int, *, is_full: bool) -> bytes:
        """The message that begins with `piece`, which was as much as one step may give or is where a stream ends."""
        self._streams = 1
        self._room = limit - len(piece)
        data = self._unread(is_full=is_full, closes=True)
        if data is not None:
            piece = b"".join((piece, *self._inflate(data, closes=True)))
        if self._room >= 0:
            _check_end(self._stream)
        return piece

    def pieces(self, payload: memoryview, *, last: bool, room: int) -> Iterator[bytes]:
        """The inflated bytes of the next piece of a message, at most 64 KiB at a time.

        Args:
            payload: the piece, as it was received.
            last: whether the message ends with it.
            room: bytes that the message may still have. Where it has more, one byte more comes, and nothing after it.

        Raises:
            ValueError: this is not DEFLATE data, or refers to bytes that were never there.
        """
        self.bytes_before += len(payload)
        self._room = room
        try:
            for piece in self._pieces(payload, last=last):
                self.bytes_after += len(piece)
                yield piece
        except _ZlibError as exc:
            raise ValueError(str(exc)) from None

    def _pieces(self, payload: memoryview, *, last: bool) -> Iterator[bytes]:
        if payload and not self._is_begun:
            self._is_begun = True
            self._streams = 0
        for start in range(0, len(payload), _STEP_IN):
            yield from self._inflate(payload[start : start + _STEP_IN])
        if last:
            # A message that ended with a final block has no open block that the tail would close; nor has one of
            # no bytes at all, which should have been one byte (RFC 7692 7.2.3.6).
            begun, self._is_begun = self._is_begun, False
            if begun and self._stream is not None:
                yield from self._inflate(TAIL, closes=True)
                if self._room >= 0:
                    _check_end(self._stream)
            if self._forgets:
                self._stream = None

    def _inflate(self, data: Buffer | None, *, closes: bool = False) -> Iterator[bytes]:
        """What `data` gives, in steps; `closes`: it ends with the tail."""
        while data is not None and self._room >= 0:
            stream = self._stream or self._new_stream()
            # One byte over the limit shows that it is exceeded. A longer step could reach corrupt data, and then zlib
            # gives nothing of that step. (That happens also where the corrupt symbol comes right after the limit.)
            step = min(_STEP_OUT, self._room + 1)
            piece = stream.decompress(data, step)
            self._room -= len(piece)
            if piece:
                yield piece
            data = self._unread(is_full=len(piece) == step, closes=closes)

    def _unread(self, *, is_full: bool, closes: bool) -> Buffer | None:
        """What the next step has to read; None: there is no next step. `is_full`: the last gave as much as it may."""
        if self._room < 0:
            return None
        stream = self._stream
        if not stream.eof:
            data: bytes = stream.unconsumed_tail
            return data if data or is_full else None
        # A final block ended the stream; what follows it starts another one. The tail alone does not, because it would
        # leave a block open. RFC 7692 7.2.3.4.
        data, self._stream = stream.unused_data, None
        if closes and 0 < len(data) < len(TAIL):
            # The final block has taken a part of the tail. (An empty one without compression takes all of it.)
            raise ValueError(_CUT_OFF)
        return data if len(data) > (len(TAIL) if closes else 0) else None

    def _new_stream(self) -> Any:
        self._streams += 1
        if self._streams > MAX_STREAMS:
            raise ValueError(f"a message of more than {MAX_STREAMS} DEFLATE streams")
        if tell is not None:
            tell(_INFLATING)
        self._stream = stream = zlib.decompressobj(wbits=self._wbits)
        return stream


class Deflater:
    """Compresses our messages, one after the other.

    Args:
        parameters: what was agreed.
        is_client: our role.
        level, mem_level: zlib's: 1 to 9 each.
        threshold: bytes from which on a message is compressed unless the caller says otherwise.
        shared: compressors that may be used by every connection of the same loop or thread.
        idle_timeout: seconds without a message after which `tick` drops the context; None keeps it.
        watch: called when there is a context for which somebody with a clock should call `tick`.

    Attributes:
        key: level, window and memory level: what `shared_message` gives depends on these and nothing else.
        bytes_before, bytes_after: bytes of the messages that went out compressed so far, before and after compression.
    """

    __slots__ = (
        "__weakref__",
        "_forgets",
        "_idle",
        "_is_watched",
        "_shared",
        "_stream",
        "_watch",
        "bytes_after",
        "bytes_before",
        "idle_timeout",
        "key",
        "threshold",
    )

    def __init__(
        self,
        parameters: DeflateParameters,
        *,
        is_client: bool,
        level: int,
        mem_level: int,
        threshold: int,
        shared: dict[tuple[int, int, int], Any],
        idle_timeout: float | None = None,
        watch: Callable[[Deflater], None] | None = None,
    ) -> None:
        bits = parameters.client_max_window_bits if is_client else parameters.server_max_window_bits
        self._forgets = (
            parameters.client_no_context_takeover if is_client else parameters.server_no_context_takeover
        )
        self.key: tuple[int, int, int] = (level, -bits, mem_level)
        self.threshold: int = threshold
        self._shared = shared
        self._stream: Any = None
        self.idle_timeout: float | None = idle_timeout
        self._watch = None if self._forgets or idle_timeout is None else watch
        self._is_watched = False
        self._idle = 0  # ticks since the last message
        self.bytes_before: int = 0
        self.bytes_after: int = 0

    def is_worth(self, size: int) -> bool:
        """Whether a message of `size` bytes should be compressed when the caller did not say."""
        return size >= self.threshold

    def message(self, payload: Buffer) -> bytes | None:
        """A whole message compressed; None where that is not shorter, and then it goes out as it is."""
        if self._forgets:
            compressed = self.shared_message(payload)
        else:
            compressed = self._own_message(payload) if payload else None
        if compressed is not None:
            self.bytes_before += len(payload)  # type: ignore[arg-type]
            self.bytes_after += len(compressed)
        return compressed

    def _own_message(self, payload: Buffer) -> bytes | None:
        self._idle = 0
        stream = self._stream
        if stream is None:
            stream = self._own_stream()
        # There is something to flush, so it ends with the tail. RFC 7692 7.2.1.
        compressed: bytes = (stream.compress(payload) + stream.flush(_SYNC_FLUSH))[:-4]
        if len(compressed) < len(payload):  # type: ignore[arg-type]
            return compressed
        # The peer will not see these bytes, so our context must not remember them.
        self._stream = None
        return None

    def shared_message(self, payload: Buffer) -> bytes | None:
        """A whole message compressed for every connection with the same `key`; None where that is not shorter.

        It refers to nothing before it, so a peer can inflate it whatever came before, with or without takeover. Where a
        connection has a context of its own, it has to be dropped (`sent_shared`): the peer's window then holds bytes
        that our context has never seen, and a reference that reached back past them would be that many bytes short.
        """
        # Taken out meanwhile, because a finalizer may send on another connection. One that raises is not put back.
        stream = self._shared.pop(self.key, None) or self._new_stream()
        # A full flush forgets everything before it, so whoever is next starts from nothing.
        compressed: bytes = stream.compress(payload) + _flush(stream, zlib.Z_FULL_FLUSH)
        self._shared[self.key] = stream
        return compressed if len(compressed) < len(payload) else None  # type: ignore[arg-type]

    def piece(self, payload: Buffer, *, last: bool) -> bytes:
        """The next piece of a message that goes out in fragments; it can be inflated without those behind it."""
        self._idle = 0
        stream = self._own_stream()
        compressed: bytes = stream.compress(payload)
        if last:
            compressed += _flush(stream, _SYNC_FLUSH)
            if self._forgets:
                self._stream = None
        elif len(payload):  # type: ignore[arg-type]
            # A program that sends pieces wants the peer to have each before the next: zlib would keep all to the end.
            compressed += stream.flush(_SYNC_FLUSH)
        self.bytes_before += len(payload)  # type: ignore[arg-type]
        self.bytes_after += len(compressed)
        return compressed

    def sent_shared(self, before: int, after: int) -> None:
        """What `shared_message` gave goes out on this connection: bytes of it before and after."""
        self.bytes_before += before
        self.bytes_after += after
        self.rest()

    def rest(self) -> None:
        """Gives the context's memory back. A new one refers to nothing, which is always allowed."""
        self._stream = None

    def tick(self) -> bool:
        """Called twice in `idle_timeout` seconds: calls `rest` when no message has come for that long, or up to half as
        long again. Returns whether there is a context for which it has to be called again."""
        self._idle += 1
        if self._idle > _IDLE_TICKS:
            self.rest()
        self._is_watched = self._stream is not None
        return self._is_watched

    def _own_stream(self) -> Any:
        if self._stream is None:
            self._stream = self._new_stream()
            if self._watch is not None and not self._is_watched:
                self._is_watched = True
                self._watch(self)
        return self._stream

    def _new_stream(self) -> Any:
        if tell is not None:
            tell(_DEFLATING)
        level, wbits, mem_level = self.key
        if wbits <= -_SMALLEST_WINDOW:
            return zlib.compressobj(level, zlib.DEFLATED, wbits, mem_level)
        # zlib has no window that small. With Z_RLE a larger one is right: it never refers back further than one byte.
        return zlib.compressobj(level, zlib.DEFLATED, -_SMALLEST_WINDOW, mem_level, _RLE)


def _check_end(stream: Any) -> None:
    """A message that ends in the middle of a block is not one: what comes after it would be misunderstood."""
    # None: it has ended with a final block.
    if stream is not None and (stream.decompress(_PROBE, 1) or stream.eof):
        raise ValueError(_CUT_OFF)


def _flush(stream: Any, mode: int) -> bytes:
    """What is left of the message, without the tail. RFC 7692 7.2.1."""
    rest: bytes = stream.flush(mode)
    if rest.endswith(TAIL):
        return rest[: -len(TAIL)]
    # Nothing to flush, since nothing came after the last one. RFC 7692 7.2.3.6: an empty message is one byte, zero.
    return rest + b"\x00"
