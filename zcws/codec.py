"""The compressor and the decompressor of permessage-deflate, on zlib-ng. RFC 7692 7.2.

A message is one run of raw DEFLATE that ends on a byte boundary, without the four bytes that every such end has.
What one side remembers from message to message (the context) is what compression costs in memory, so:

    context takeover    one context per direction and connection, made when first used; `Deflater.rest` drops ours
    no takeover, out    one compressor per pool for everybody: a full flush after each message forgets all of it
    no takeover, in     a fresh decompressor per message, so that no message can refer to another's bytes

Inflating goes in steps: at most so many bytes in, at most so many out, and whoever asked may stop between two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from zlib_ng import zlib_ng

from zcws.extensions import DeflateParameters

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Deflater", "Inflater"]

#: zlib-ng's own error; its type stub does not say that it is an exception.
_ZlibError = cast("type[Exception]", zlib_ng.error)

#: What a message ends with before it is cut off, and what is put back before it is inflated. RFC 7692 7.2.1, 7.2.2.
_TAIL = b"\x00\x00\xff\xff"

#: Bytes given to zlib in one step: it copies what it could not use, so this bounds that copy too.
_STEP_IN = 16 * 1024

#: Bytes taken from zlib in one step: how far a bomb gets before somebody looks.
_STEP_OUT = 64 * 1024

#: DEFLATE streams that one message may be made of. One that ends in a final block (RFC 7692 7.2.3.4) is made of two;
#: each costs a new decompressor, so a message made of millions is an attack on our time.
_MAX_STREAMS = 64

#: Raw DEFLATE in zlib has windows of 2^9 bytes and up; a peer that agreed to 2^8 never looks back further than that.
_SMALLEST_WINDOW = 9


class Inflater:
    """Decompresses the peer's messages, one after the other.

    Args:
        parameters: what was agreed.
        is_client: our role; the peer's window and takeover are the other one's.
    """

    __slots__ = ("_forgets", "_is_begun", "_stream", "_streams", "_wbits")

    def __init__(self, parameters: DeflateParameters, *, is_client: bool) -> None:
        bits = parameters.server_max_window_bits if is_client else parameters.client_max_window_bits
        self._wbits = -max(bits, _SMALLEST_WINDOW)
        self._forgets = (
            parameters.server_no_context_takeover if is_client else parameters.client_no_context_takeover
        )
        self._stream: Any = None
        self._streams = 0
        self._is_begun = False  # some bytes of a message have been inflated

    def pieces(self, payload: memoryview, *, last: bool) -> Iterator[bytes]:
        """The inflated bytes of the next piece of a message, at most 64 KiB at a time.

        Raises:
            ValueError: this is not DEFLATE data, or refers to bytes that were never there.
        """
        try:
            for start in range(0, len(payload), _STEP_IN):
                self._is_begun = True
                yield from self._inflate(payload[start : start + _STEP_IN])
            if last:
                # A message that ended with a final block has no open block that the tail would close; nor has one of
                # no bytes at all, which should have been one byte (RFC 7692 7.2.3.6).
                begun, self._is_begun = self._is_begun, False
                if begun and self._stream is not None:
                    yield from self._inflate(_TAIL)
                self._streams = 0
                if self._forgets:
                    self._stream = None
        except _ZlibError as exc:
            raise ValueError(str(exc)) from None

    def _inflate(self, data: Buffer) -> Iterator[bytes]:
        while True:
            stream = self._stream
            if stream is None:
                stream = self._stream = self._new_stream()
            piece = stream.decompress(data, _STEP_OUT)
            if piece:
                yield piece
            if stream.eof:
                # A final block ended the stream; what is behind it starts another one. RFC 7692 7.2.3.4.
                data, self._stream = stream.unused_data, None
                if not data:
                    return
            else:
                data = stream.unconsumed_tail
                if not data and len(piece) < _STEP_OUT:
                    return

    def _new_stream(self) -> Any:
        self._streams += 1
        if self._streams > _MAX_STREAMS:
            raise ValueError(f"a message of more than {_MAX_STREAMS} DEFLATE streams")
        return zlib_ng.decompressobj(wbits=self._wbits)


class Deflater:
    """Compresses our messages, one after the other.

    Args:
        parameters: what was agreed.
        is_client: our role.
        level, mem_level: zlib's: 1 to 9 each.
        threshold: bytes from which on a message is compressed unless the caller says otherwise.
        shared: compressors that may be used by every connection of the same loop or thread.
    """

    __slots__ = ("_forgets", "_level", "_mem_level", "_shared", "_stream", "_wbits", "threshold")

    def __init__(
        self,
        parameters: DeflateParameters,
        *,
        is_client: bool,
        level: int,
        mem_level: int,
        threshold: int,
        shared: dict[tuple[int, int, int], Any],
    ) -> None:
        bits = parameters.client_max_window_bits if is_client else parameters.server_max_window_bits
        self._wbits = -bits
        self._forgets = (
            parameters.client_no_context_takeover if is_client else parameters.server_no_context_takeover
        )
        self._level = level
        self._mem_level = mem_level
        self.threshold = threshold
        self._shared = shared
        self._stream: Any = None

    def is_worth(self, size: int) -> bool:
        """Whether a message of `size` bytes should be compressed when the caller did not say."""
        return size >= self.threshold

    def message(self, payload: Buffer) -> bytes | None:
        """A whole message compressed; None where that is not shorter, and then it goes out as it is."""
        stream = self._shared_stream() if self._forgets else self._own_stream()
        # A full flush forgets everything before it, so the next user of a shared stream starts from nothing.
        flush = zlib_ng.Z_FULL_FLUSH if self._forgets else zlib_ng.Z_SYNC_FLUSH
        compressed: bytes = stream.compress(payload) + _flush(stream, flush)
        if len(compressed) >= len(payload):  # type: ignore[arg-type]
            # The peer will not see these bytes, so our context must not remember them.
            self._stream = None
            return None
        return compressed

    def piece(self, payload: Buffer, *, last: bool) -> bytes:
        """The next piece of a message that goes out in fragments."""
        stream = self._own_stream()
        compressed: bytes = stream.compress(payload)
        if last:
            compressed += _flush(stream, zlib_ng.Z_SYNC_FLUSH)
            if self._forgets:
                self._stream = None
        return compressed

    def rest(self) -> None:
        """Gives the context's memory back. A new one refers to nothing, which is always allowed."""
        self._stream = None

    def _own_stream(self) -> Any:
        if self._stream is None:
            self._stream = self._new_stream()
        return self._stream

    def _shared_stream(self) -> Any:
        key = (self._level, self._wbits, self._mem_level)
        stream = self._shared.get(key)
        if stream is None:
            stream = self._shared[key] = self._new_stream()
        return stream

    def _new_stream(self) -> Any:
        return zlib_ng.compressobj(self._level, zlib_ng.DEFLATED, self._wbits, self._mem_level)


def _flush(stream: Any, mode: int) -> bytes:
    """What is left of the message, without the tail. RFC 7692 7.2.1."""
    rest: bytes = stream.flush(mode)
    if rest.endswith(_TAIL):
        return rest[: -len(_TAIL)]
    # Nothing to flush, since nothing came after the last one. RFC 7692 7.2.3.6: an empty message is one byte, zero.
    return rest + b"\x00"
