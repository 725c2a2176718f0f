from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from pair import entropy

from zcws.codec import Deflater
from zcws.codes import CloseCode, OpCode
from zcws.errors import ConnectionClosed
from zcws.extensions import DeflateParameters
from zcws.keys import MaskingKeys
from zcws.pool import Pool
from zcws.prepared import Prepared
from zcws.writer import Writer

RSV1 = 4


class Line:
    """One writer, and at the other end nothing but zlib."""

    def __init__(self, pool: Pool, *, deflate: tuple[bool, int, int] | None, is_client: bool = False) -> None:
        self.is_client = is_client
        self.takeover = deflate is None or deflate[0]
        self.bits = 15 if deflate is None else deflate[1]
        self.writer = Writer(
            pool,
            next_key=MaskingKeys(entropy()).next if is_client else None,
            compressor=None if deflate is None else self._deflater(pool, deflate[2]),
        )
        self.inflate = self._inflater()

    def _deflater(self, pool: Pool, level: int) -> Deflater:
        agreed = DeflateParameters(
            server_no_context_takeover=not self.takeover,
            client_no_context_takeover=not self.takeover,
            server_max_window_bits=self.bits,
            client_max_window_bits=self.bits,
        )
        return Deflater(
            agreed,
            is_client=self.is_client,
            level=level,
            mem_level=8,
            threshold=100,
            shared=pool.compressors,
        )

    def _inflater(self) -> Any:
        return zlib.decompressobj(wbits=-self.bits)

    def received(self) -> list[bytes]:
        """What has been written, as the peer reads it. RFC 7692 7.2.2."""
        messages: list[bytes] = []
        for seen in wire.parse(b"".join(self.writer.take())):
            assert seen.masked is self.is_client
            if seen.opcode != wire.CONTINUATION:
                payload, compressed = b"", bool(seen.rsv & RSV1)
            payload += seen.payload
            if seen.fin:
                messages.append(self._inflated(payload) if compressed else payload)
        return messages

    def _inflated(self, payload: bytes) -> bytes:
        message: bytes = self.inflate.decompress(payload + b"\x00\x00\xff\xff")
        if not self.takeover:
            self.inflate = self._inflater()
        return message


PATTERN = b'{"symbol": "ABC", "price": 12.5}, '
NOISE = random.Random(1).randbytes(2_000)
#: Few, so that what was said before is often said again: what could be referred to, over short and long distances.
PAYLOADS = [b"", b"small", PATTERN * 5, PATTERN * 500, NOISE * 2, NOISE[:400] * 3, NOISE, NOISE[::-1] * 2]
#: What is sent to whom: a number of one line, or None for all of them; in fragments or not.
steps = st.lists(
    st.tuples(st.none() | st.integers(0, 3), st.sampled_from(PAYLOADS), st.booleans()),
    min_size=3,
    max_size=12,
)
compressions = st.tuples(st.booleans(), st.integers(9, 15), st.sampled_from([1, 2, 6, 9]))
lines = st.lists(st.tuples(st.none() | compressions, st.booleans()), min_size=1, max_size=4)


@given(lines, steps)
def test_every_peer_inflates_what_is_sent_to_it_and_to_everybody(kinds: Any, steps: Any) -> None:
    """Property: whatever was agreed and in whatever order, each peer reads what it was sent, with plain zlib."""
    pool = Pool()
    all_lines = [Line(pool, deflate=deflate, is_client=is_client) for deflate, is_client in kinds]
    for target, payload, alternative in steps:
        if target is None:
            receivers = all_lines
            broadcast(receivers, payload)
        else:
            receivers = [all_lines[target % len(all_lines)]]
            send(receivers[0], payload, in_fragments=alternative)
        for line in all_lines:
            assert line.received() == ([payload] if line in receivers else [])


def broadcast(all_lines: list[Line], payload: bytes) -> None:
    message = Prepared(OpCode.BINARY, payload)
    for line in all_lines:
        message.write_to(line.writer)


def frame_of(message: Prepared, line: Line) -> Any:
    """What goes out where nothing else does."""
    message.write_to(line.writer)
    (frame,) = line.writer.take()
    return frame


def send(line: Line, payload: bytes, *, in_fragments: bool) -> None:
    if in_fragments:
        half = len(payload) // 2
        line.writer.write_fragment(OpCode.BINARY, payload[:half], last=False)
        line.writer.write_fragment(OpCode.BINARY, payload[half:], last=True)
    else:
        line.writer.write_message(OpCode.BINARY, payload)


def test_a_context_does_not_refer_past_what_everybody_got() -> None:
    (line,) = servers((True, 15, 1))
    for target in (line, None, line):
        if target is None:
            broadcast([line], PATTERN * 7 + NOISE)
            assert line.received() == [PATTERN * 7 + NOISE]
        else:
            send(line, NOISE * 2, in_fragments=False)
            assert line.received() == [NOISE * 2]


def servers(*deflates: tuple[bool, int, int] | None) -> list[Line]:
    pool = Pool()
    return [Line(pool, deflate=deflate) for deflate in deflates]


def test_framed_once_and_compressed_once() -> None:
    plain, also_plain, small, takeover, forgets = servers(
        None, None, (True, 9, 1), (True, 15, 1), (False, 15, 1)
    )
    message = Prepared(OpCode.TEXT, PATTERN * 20)
    assert frame_of(message, plain) is frame_of(message, also_plain)
    assert frame_of(message, takeover) is frame_of(message, forgets)
    assert len({frame_of(message, line) for line in (plain, small, takeover)}) >= 2
    assert frame_of(message, plain) == wire.frame(wire.TEXT, PATTERN * 20)


def test_a_form_knows_what_compression_made_of_the_message() -> None:
    message = Prepared(OpCode.TEXT, PATTERN * 20)
    plain, small = (message.form_for(line.writer) for line in servers(None, (True, 15, 1)))
    assert plain.deflated is None
    assert small.deflated == (len(PATTERN) * 20, len(small.payload)) and len(small.payload) < 100


def test_a_large_frame_is_not_copied() -> None:
    one, another = servers(None, None)
    message = Prepared(OpCode.BINARY, bytes(16 * 1024))
    for line in (one, another):
        line.writer.write_message(OpCode.BINARY, b"before")
        message.write_to(line.writer)
        line.writer.write_message(OpCode.BINARY, b"after")
    (before, frame, _), (_, same, _) = one.writer.take(), another.writer.take()
    assert frame is same
    assert wire.parse(bytes(before)) == [wire.Seen(wire.BINARY, b"before")]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_heads(size: int) -> None:
    (line,) = servers(None)
    message = Prepared(OpCode.BINARY, bytes(size))
    frame = wire.frame(wire.BINARY, bytes(size))
    assert message.size == len(frame)
    assert frame_of(message, line) == frame


def test_what_does_not_get_shorter_goes_out_as_it_is_and_keeps_the_context() -> None:
    (line,) = servers((True, 15, 1))
    line.writer.write_message(OpCode.TEXT, PATTERN * 20)
    noise = random.Random(1).randbytes(500)
    Prepared(OpCode.BINARY, noise).write_to(line.writer)
    line.writer.write_message(OpCode.TEXT, PATTERN * 20)
    first, plain, again = wire.parse(b"".join(line.writer.take()))
    assert (plain.rsv, plain.payload) == (0, noise)
    assert len(again.payload) < len(first.payload) / 2  # it refers to the first one


def test_the_caller_may_decide_about_compression() -> None:
    (line,) = servers((True, 15, 1))
    for compress, payload in ((True, b"a" * 50), (False, b"a" * 500)):
        Prepared(OpCode.BINARY, payload, compress).write_to(line.writer)
    wanted, unwanted = wire.parse(b"".join(line.writer.take()))
    assert (wanted.rsv, unwanted.rsv) == (RSV1, 0)


def test_the_threshold_is_each_connections_own() -> None:
    low, high = servers((True, 15, 1), (True, 15, 1))
    high.writer.compressor.threshold = 10_000
    message = Prepared(OpCode.BINARY, b"a" * 500)
    for line in (low, high):
        message.write_to(line.writer)
    assert [wire.parse(b"".join(line.writer.take()))[0].rsv for line in (low, high)] == [RSV1, 0]


def test_nothing_goes_between_fragments_or_behind_a_close() -> None:
    fragmented, closed = servers(None, None)
    fragmented.writer.write_fragment(OpCode.BINARY, b"a", last=False)
    closed.writer.write_close(CloseCode.NORMAL_CLOSURE)
    message = Prepared(OpCode.BINARY, b"b")
    with pytest.raises(ValueError, match="in fragments"):
        message.write_to(fragmented.writer)
    with pytest.raises(ConnectionClosed):
        message.write_to(closed.writer)
    assert [len(wire.parse(b"".join(line.writer.take()))) for line in (fragmented, closed)] == [1, 1]


class Before:
    """Of a stream of zlib's, or of what waits: something happens once before it goes on."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens: Callable[[], object] | None = happens

    def once(self) -> None:
        happens, self._happens = self._happens, None
        if happens is not None:
            happens()


class Stream(Before):
    def __init__(self, stream: Any, happens: Callable[[], object]) -> None:
        super().__init__(happens)
        self.compress = stream.compress
        self._flush = stream.flush

    def flush(self, mode: int) -> bytes:
        self.once()
        flushed: bytes = self._flush(mode)
        return flushed


class Waiting(Before, list[Any]):
    def append(self, segment: Any) -> None:
        self.once()
        super().append(segment)


@pytest.mark.parametrize("is_client", [False, True])
def test_a_finalizer_broadcasts_while_a_message_is_being_compressed(is_client: bool) -> None:
    """It went out before that message, which referred past it: the peer read something else."""
    line = Line(Pool(), deflate=(True, 15, 1), is_client=is_client)
    send(line, NOISE[:400] * 3, in_fragments=False)
    codec: Any = line.writer.compressor
    codec._stream = Stream(codec._stream, lambda: broadcast([line], PATTERN * 20))
    send(line, NOISE[:400], in_fragments=False)
    assert line.received() == [NOISE[:400] * 3, PATTERN * 20, NOISE[:400]]


@pytest.mark.parametrize("is_client", [False, True])
def test_a_finalizer_sends_while_a_broadcast_is_being_written(is_client: bool) -> None:
    """Its message stood before the broadcast, and the next one's context took it to stand behind."""
    line = Line(Pool(), deflate=(True, 15, 1), is_client=is_client)
    line.writer.out = Waiting(lambda: send(line, NOISE[:400] * 3, in_fragments=False))
    broadcast([line], PATTERN * 20)
    line.writer.out = list(line.writer.out)
    send(line, NOISE[:400], in_fragments=False)
    assert line.received() == [NOISE[:400] * 3, PATTERN * 20, NOISE[:400]]


def test_the_message_is_that_of_when_it_was_prepared() -> None:
    payload = bytearray(b"as it was")
    prepared = Prepared(OpCode.BINARY, payload)
    payload[:] = b"otherwise"
    for is_client in (False, True):
        writer = Writer(Pool(), next_key=MaskingKeys(entropy()).next if is_client else None, compressor=None)
        prepared.write_to(writer)
        assert [frame.payload for frame in wire.parse(writer.take_bytes())] == [b"as it was"]
