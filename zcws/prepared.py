"""One message for many connections: framed once, and compressed once for each set of parameters.

It decides which bytes a writer gets; it never writes by itself and knows no connection. Frames without a masking key
are the same for everybody, so all servers' connections are given one and the same bytes object.

One compressed form will do for peers that remember (context takeover) and for those that do not, because it is made by
a compressor that has just forgotten everything: it refers to nothing before it, and every peer whose window is large
enough can inflate it. Afterwards it is in the window of a peer that remembers, but not in our own context for that
connection. From then on the two windows differ, and an old context would refer to the wrong bytes:
so it is dropped (`sent_shared`) with each such message. A new context again refers only to what it has compressed
itself, and that is the latest part of both windows: distances are counted backwards from the end, so they agree.
"""

from __future__ import annotations

from collections.abc import Hashable

from zcws.annotations import Buffer
from zcws.codes import OpCode
from zcws.heads import FIN, RSV1, unmasked_head
from zcws.writer import Compress, Writer

__all__ = ["Prepared"]

#: The first byte of a head, the payload, the whole frame without a key, and bytes of the message before compression.
_Form = tuple[int, bytes, bytes, int]


class Prepared:
    """One message, ready for any number of writers. Text has to be UTF-8 already.

    Args:
        opcode: TEXT or BINARY.
        payload: its bytes; copied unless they are `bytes`.
        compress: True or False decides for everybody; None leaves it to each connection's threshold.
    """

    __slots__ = ("_compress", "_compressed", "_plain", "_size")

    def __init__(self, opcode: OpCode, payload: Buffer, compress: bool | None = None) -> None:
        payload = bytes(payload)
        self._compress = compress
        self._size = len(payload)
        self._plain = _form(FIN | opcode, payload, len(payload))
        self._compressed: dict[Hashable, _Form] = {}

    @property
    def frame(self) -> bytes:
        """The whole of it, neither masked nor compressed: for a writer that `is_bare`."""
        return self._plain[2]

    @property
    def size(self) -> int:
        """Bytes of its frame without compression; never 0, not even for an empty message."""
        return len(self._plain[2])

    def write_to(self, writer: Writer) -> None:
        """Appends the message to what `writer` has to send. Raises: as `Writer.write_prepared`."""
        codec = writer.compressor
        if writer.is_bare:
            writer.write_framed(self._plain[2])
        else:
            writer.write_prepared(*(self._plain if codec is None else self._form_for(codec)))

    def _form_for(self, codec: Compress) -> _Form:
        wanted = codec.is_worth(self._size) if self._compress is None else self._compress
        if not wanted:
            return self._plain
        form = self._compressed.get(codec.key)
        if form is None:
            form = self._compressed[codec.key] = self._compress_with(codec)
        return form

    def _compress_with(self, codec: Compress) -> _Form:
        first, payload, _, size = self._plain
        compressed = codec.shared_message(payload)
        return self._plain if compressed is None else _form(first | RSV1, compressed, size)


def _form(first: int, payload: bytes, size: int) -> _Form:
    return first, payload, unmasked_head(first, len(payload)) + payload, size
