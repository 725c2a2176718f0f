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

__all__ = ["Form", "Prepared"]


class Form:
    """What some of the writers are given: the message as it is, or compressed with what they agreed on.

    Attributes:
        first: the first byte of its head.
        payload: for a writer that masks.
        frame: the whole of it without a key.
        size: bytes of the message before compression.
    """

    __slots__ = ("first", "frame", "payload", "size")

    def __init__(self, first: int, payload: bytes, size: int) -> None:
        self.first: int = first
        self.payload: bytes = payload
        self.frame: bytes = unmasked_head(first, len(payload)) + payload
        self.size: int = size

    @property
    def deflated(self) -> tuple[int, int] | None:
        """Bytes before and after compression; None: it is not compressed."""
        return (self.size, len(self.payload)) if self.first & RSV1 else None


class Prepared:
    """One message, ready for any number of writers. Text has to be UTF-8 already.

    Args:
        opcode: TEXT or BINARY.
        payload: its bytes; copied unless they are `bytes`.
        compress: True or False decides for everybody; None leaves it to each connection's threshold.

    Attributes:
        plain: it as it is, for a writer that `is_bare`.
    """

    __slots__ = ("_compress", "_compressed", "_size", "plain")

    def __init__(self, opcode: OpCode, payload: Buffer, compress: bool | None = None) -> None:
        payload = bytes(payload)
        self._compress = compress
        self._size = len(payload)
        self.plain: Form = Form(FIN | opcode, payload, len(payload))
        self._compressed: dict[Hashable, Form] = {}

    @property
    def size(self) -> int:
        """Bytes of its frame without compression; never 0, not even for an empty message."""
        return len(self.plain.frame)

    def write_to(self, writer: Writer) -> None:
        """Appends the message to what `writer` has to send. Raises: as `Writer.write_prepared`."""
        if writer.is_bare:
            writer.write_framed(self.plain.frame)
        else:
            form = self.form_for(writer)
            writer.write_prepared(form.first, form.payload, form.frame, form.size)

    def form_for(self, writer: Writer) -> Form:
        """What `writer` is given: one object for all that are given the same."""
        codec = writer.compressor
        # Where a finalizer broadcasts in the middle of a message's compression: this goes out first, and that message
        # refers past it. RFC 7692 7.2.2: what is not compressed is in no window.
        if codec is None or writer.is_compressing:
            return self.plain
        wanted = codec.is_worth(self._size) if self._compress is None else self._compress
        if not wanted:
            return self.plain
        form = self._compressed.get(codec.key)
        if form is None:
            form = self._compressed[codec.key] = self._compress_with(codec)
        return form

    def _compress_with(self, codec: Compress) -> Form:
        plain = self.plain
        compressed = codec.shared_message(plain.payload)
        return plain if compressed is None else Form(plain.first | RSV1, compressed, plain.size)
