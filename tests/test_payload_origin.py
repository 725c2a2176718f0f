"""The payload-origin table of zcws/reader.py: where each payload lies, proved by its address.

Bytes are received where `get_buffer` says, as a driver does, and the test remembers the address of each. A payload
that lies where its bytes were received was not copied.
"""

from __future__ import annotations

import gc
import mmap
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import wire
from arrays import address, needs_numpy, np

from zcws.buffer import PayloadBuffer
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.errors import LimitExceeded
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE, Frame, PayloadOrigin
from zcws.pool import Pool

pytestmark = pytest.mark.usefixtures("every_view")

CAPACITY = 64 * 1024
ADAPTIVE, CONSISTENT = PayloadOrigin.ADAPTIVE, PayloadOrigin.CONSISTENT
USER_SIZE = 10 * CAPACITY
DOES_NOT_FIT = "message over the receiver's payload buffer"


class Peer:
    """A connection of ours with a peer that sends to it, and the caller's memory."""

    def __init__(self, masked: bool, mirrored: bool, deflate: bool = False) -> None:
        self.pool = Pool(CAPACITY, mirrored=mirrored)
        self.key = wire.KEY if masked else None
        agreement = Agreement(deflate=DeflateParameters() if deflate else None)
        self.connection = Connection(is_client=not masked, entropy=bytes, agreement=agreement, pool=self.pool)
        self.memory = bytearray(USER_SIZE)
        self.user = PayloadBuffer(self.memory)
        self.landed: list[int] = []  # the address of every byte that was received

    def send(self, *frames: bytes) -> None:
        data = b"".join(frames)
        while data:
            room = self.connection.get_buffer()
            size = min(len(room), len(data))
            assert size, "no room"
            room[:size] = data[:size]
            start = address(room)
            del room
            self.landed += range(start, start + size)
            self.connection.received(size)
            data = data[size:]

    def frame(self, opcode: int, payload: bytes = b"", **bits: object) -> bytes:
        return wire.frame(opcode, payload, key=self.key, **bits)  # type: ignore[arg-type]

    def read(self, origin: PayloadOrigin) -> Frame:
        frame = self.connection.read_frame(self.user, origin)
        assert frame is not NEED_MORE
        return frame

    def in_ring(self, view: memoryview) -> bool:
        ring = self.connection.reader._ring
        return ring is not None and 0 <= address(view) - address(ring.memory) < len(ring.memory)

    def in_user(self, view: memoryview) -> bool:
        return 0 <= address(view) - address(self.memory) < USER_SIZE


KINDS = [(masked, mirrored, deflate) for masked in (0, 1) for mirrored in (0, 1) for deflate in (0, 1)]


def name_of(kind: tuple[int, int, int]) -> str:
    masked, mirrored, deflate = kind
    return f"{'un' * (1 - masked)}masked-{'un' * (1 - mirrored)}mirrored{'-deflate' * deflate}"


@pytest.fixture(params=KINDS, ids=name_of)
def peer(request: pytest.FixtureRequest) -> Peer:
    return Peer(*map(bool, request.param))


@pytest.fixture
def deflating() -> Peer:
    return Peer(True, True, deflate=True)


origins = pytest.mark.parametrize("origin", [ADAPTIVE, CONSISTENT], ids=lambda origin: origin.value)

#: Compresses badly, so that pieces of it are larger than a step of the inflater.
NOISE = random.Random(6455).randbytes(100_000)


# ---- control, or single plain ----


@pytest.mark.parametrize("opcode", [OpCode.TEXT, OpCode.BINARY, OpCode.PING, OpCode.PONG])
def test_a_whole_frame_adaptive_is_not_copied(peer: Peer, opcode: OpCode) -> None:
    for size in (1, 60, 125):
        peer.landed.clear()
        peer.send(peer.frame(opcode, b"p" * size))
        frame = peer.read(ADAPTIVE)
        # Where its bytes were received is where they are.
        assert address(frame.payload) == peer.landed[-size]
        assert peer.in_ring(frame.payload)
        assert frame.to_bytes() == b"p" * size
    assert not any(peer.memory)


@pytest.mark.parametrize("opcode", [OpCode.TEXT, OpCode.BINARY, OpCode.PING, OpCode.PONG])
def test_a_whole_frame_consistent_is_copied_once(peer: Peer, opcode: OpCode) -> None:
    peer.send(peer.frame(opcode, b"p" * 60))
    frame = peer.read(CONSISTENT)
    assert address(frame.payload) == address(peer.memory)
    assert frame.to_bytes() == bytes(peer.memory[:60]) == b"p" * 60


@origins
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "behind a frame"])
def test_a_close_lies_where_other_control_frames_do(peer: Peer, origin: PayloadOrigin, alone: bool) -> None:
    """But for one that comes alone: it has bytes of its own, and its ring goes back whether or not anybody reads it."""
    payload = wire.close_payload(1000, b"bye")
    before = b"" if alone else peer.frame(OpCode.TEXT, b"before")
    peer.send(before + peer.frame(OpCode.CLOSE, payload))
    if not alone:
        peer.read(origin)
    frame = peer.read(origin)
    assert (frame.close_code, frame.close_reason, frame.to_bytes()) == (1000, "bye", payload)
    assert (peer.in_ring(frame.payload), peer.in_user(frame.payload)) == (
        origin is ADAPTIVE and not alone,
        origin is CONSISTENT,
    )


def test_a_frame_that_wraps_is_not_copied_either(peer: Peer) -> None:
    """As many frames as fill the ring twice, each an odd size: some of them pass its end."""
    crossed = False
    payload = b"w" * 5000
    for _ in range(2 * CAPACITY // 5000 + 2):
        peer.landed.clear()
        # An unread byte of the next frame keeps the ring from starting over.
        rest = peer.frame(OpCode.BINARY, payload)
        peer.send(rest[:-1])
        assert peer.connection.read_frame() is NEED_MORE
        peer.send(rest[-1:] + rest[:1])
        view = peer.read(ADAPTIVE).payload
        assert view == payload
        ring = peer.connection.reader._ring
        assert ring is not None
        crossed |= address(view) - address(ring.memory) + len(view) > CAPACITY
        del view
        gc.collect()  # PyPy
        assert peer.connection.read_frame() is NEED_MORE
        peer.send(rest[1:])
        assert peer.read(ADAPTIVE).payload == payload
    assert crossed == ring.mirrored


# ---- single, larger than the ring ----


@origins
def test_a_large_message_lands_in_the_callers_memory(peer: Peer, origin: PayloadOrigin) -> None:
    payload = NOISE * 6
    stream = peer.frame(OpCode.BINARY, payload)
    peer.send(stream[:1000])
    assert peer.connection.read_frame(peer.user, origin) is NEED_MORE
    shared = 1000 - (len(stream) - len(payload))
    # From here on the network writes straight into it: no ring is held, nothing is left to be copied.
    assert address(peer.connection.get_buffer()) == address(peer.memory) + shared
    assert peer.connection.reader._ring is None
    peer.landed.clear()
    peer.send(stream[1000:])
    assert peer.landed == list(range(address(peer.memory) + shared, address(peer.memory) + len(payload)))
    frame = peer.read(origin)
    assert address(frame.payload) == address(peer.memory)
    assert frame.payload == payload


@origins
def test_the_next_message_after_a_large_one(peer: Peer, origin: PayloadOrigin) -> None:
    large, small = peer.frame(OpCode.TEXT, b"x" * (3 * CAPACITY)), peer.frame(OpCode.TEXT, b"small")
    for _ in range(3):
        peer.send(small, large[: CAPACITY // 2])
        assert peer.read(origin).to_bytes() == b"small"
        assert peer.connection.read_frame(peer.user, origin) is NEED_MORE
        peer.send(large[CAPACITY // 2 :])
        assert len(peer.read(origin)) == 3 * CAPACITY


# ---- fragments ----


@origins
def test_fragments_meet_in_the_callers_memory(peer: Peer, origin: PayloadOrigin) -> None:
    pieces = [b"one", b"", NOISE, b"four"]
    for i, piece in enumerate(wire.fragments(OpCode.BINARY, pieces, key=peer.key)):
        assert peer.connection.read_frame(peer.user, origin) is NEED_MORE
        peer.send(piece[:10_000])
        if i == 2:
            assert peer.connection.read_frame(peer.user, origin) is NEED_MORE
            # The large one lands behind the ones before it.
            assert address(peer.connection.get_buffer()) == address(peer.memory) + len(peer.user)
        peer.send(piece[10_000:])
    frame = peer.read(origin)
    assert address(frame.payload) == address(peer.memory)
    assert frame.payload == b"".join(pieces)


def test_control_between_fragments_adaptive_is_a_view_of_the_ring(peer: Peer) -> None:
    one, two = wire.fragments(OpCode.TEXT, [b"half", b"whole"], key=peer.key)
    peer.send(one, peer.frame(OpCode.PING, b"between"))
    frame = peer.read(ADAPTIVE)
    assert (frame.opcode, frame.payload) == (OpCode.PING, b"between")
    assert peer.in_ring(frame.payload)
    assert address(frame.payload) == peer.landed[-7]
    assert peer.memory[:5] == b"half\0"
    peer.send(two)
    assert peer.read(ADAPTIVE).payload == b"halfwhole"


def test_control_between_fragments_consistent_has_bytes_of_its_own(peer: Peer) -> None:
    one, two = wire.fragments(OpCode.TEXT, [b"half", b"whole"], key=peer.key)
    peer.send(one, peer.frame(OpCode.PING, b"between"))
    frame = peer.read(CONSISTENT)
    assert (frame.opcode, frame.payload) == (OpCode.PING, b"between")
    assert not peer.in_ring(frame.payload)
    assert not peer.in_user(frame.payload)
    kept = frame.payload
    assert peer.memory[:5] == b"half\0"
    peer.send(two)
    assert peer.read(CONSISTENT).payload == b"halfwhole"
    assert kept == b"between"


@pytest.mark.parametrize("first", ["batch", "message", "no buffer", "another"])
def test_a_message_that_had_begun_elsewhere_ends_in_the_callers_memory(peer: Peer, first: str) -> None:
    """A read that was cancelled, say, has taken its first piece; a later one passes the buffer."""
    other = PayloadBuffer()
    one, two, three = wire.fragments(OpCode.BINARY, [b"one", NOISE, b"three"], key=peer.key)
    peer.send(one + two[:10_000])
    reads: dict[str, Callable[[], object]] = {
        "batch": peer.connection.reader.read_batch,
        "message": peer.connection.read_message,
        "no buffer": peer.connection.read_frame,
        "another": lambda: peer.connection.read_frame(other),
    }
    assert reads[first]() is NEED_MORE
    peer.send(two[10_000:] + three)
    frame = peer.read(CONSISTENT)
    assert address(frame.payload) == address(peer.memory)
    assert frame.payload == b"one" + NOISE + b"three"
    assert other.reader is None and peer.user.reader is None


def test_what_had_begun_elsewhere_and_does_not_fit_is_refused(peer: Peer) -> None:
    one, two = wire.fragments(OpCode.BINARY, [b"one", b"two"], key=peer.key)
    peer.send(one)
    assert peer.connection.read_message() is NEED_MORE
    peer.send(two)
    memory = bytearray(5)
    with pytest.raises(LimitExceeded, match=DOES_NOT_FIT):
        peer.connection.read_frame(PayloadBuffer(memory), CONSISTENT)
    assert memory == bytes(5)


# ---- compressed ----


@origins
def test_a_compressed_message_is_inflated_into_the_callers_memory(
    deflating: Peer, origin: PayloadOrigin
) -> None:
    for message in (b"", b"hello " * 100, b"x" * 500_000, NOISE[:30_000]):
        deflating.send(deflating.frame(OpCode.BINARY, wire.deflate(message), rsv=4))
        frame = deflating.read(origin)
        assert address(frame.payload) == address(deflating.memory)
        assert frame.payload == message


@origins
def test_a_large_compressed_message_is_inflated_as_it_comes(deflating: Peer, origin: PayloadOrigin) -> None:
    peer = deflating
    stream = peer.frame(OpCode.BINARY, wire.deflate(NOISE * 3), rsv=4)
    for at in range(0, len(stream), 50_000):
        assert peer.connection.read_frame(peer.user, origin) is NEED_MORE
        peer.send(stream[at : at + 50_000])
        # Half of it has been inflated before the rest has arrived; the network never writes to the caller's memory.
        assert not any(
            address(peer.memory) <= where < address(peer.memory) + USER_SIZE for where in peer.landed[-9:]
        )
    frame = peer.read(origin)
    assert address(frame.payload) == address(peer.memory)
    assert frame.payload == NOISE * 3


@origins
def test_compressed_fragments_are_inflated_as_they_come(deflating: Peer, origin: PayloadOrigin) -> None:
    peer = deflating
    data = wire.deflate(NOISE)
    cuts = [0, 1, 2, 30_000, 30_000, 70_000, len(data)]
    pieces = [data[i:j] for i, j in pairwise(cuts)]
    arrived = []
    for piece in wire.fragments(OpCode.BINARY, pieces, key=peer.key, rsv=4):
        arrived.append(len(peer.user))
        for at in range(0, len(piece), 40_000):
            assert peer.connection.read_frame(peer.user, origin) is NEED_MORE
            peer.send(piece[at : at + 40_000])
        if not piece[0] & 0x80:  # RFC 6455 5.2: FIN
            peer.send(peer.frame(OpCode.PING, b"still here"))
            assert peer.read(origin).payload == b"still here"
    frame = peer.read(origin)
    assert address(frame.payload) == address(peer.memory)
    assert frame.payload == NOISE
    assert arrived == sorted(arrived)
    assert 0 < arrived[-1] < len(NOISE)


# ---- the caller's memory: a mapped file, an array, and what does not fit ----


@pytest.fixture(params=["file", pytest.param("array", marks=needs_numpy), "bytes"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[PayloadBuffer, memoryview]]:
    """A PayloadBuffer over all but the last page of some memory, and all of that memory."""
    size = 5 * mmap.PAGESIZE
    if request.param == "file":
        path = tmp_path / "payload"
        path.write_bytes(b"\xa5" * size)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            with memoryview(mapping) as whole, whole[: 4 * mmap.PAGESIZE] as part:
                buffer = PayloadBuffer(part)
                yield buffer, whole
                buffer.release()
    elif request.param == "array":
        array = np.full(size // 8, 0xA5A5A5A5A5A5A5A5, np.uint64)
        yield PayloadBuffer(array[: 4 * mmap.PAGESIZE // 8]), memoryview(array).cast("B")
    else:
        block = memoryview(bytearray(b"\xa5" * size))
        yield PayloadBuffer(block[: 4 * mmap.PAGESIZE]), block


FITS = 4 * mmap.PAGESIZE
GUARD = b"\xa5" * mmap.PAGESIZE


def receive(peer: Peer, stream: bytes, buffer: PayloadBuffer, origin: PayloadOrigin) -> Frame:
    """Everything that arrives is read, until there is a frame."""
    while stream:
        size = min(1500, len(peer.connection.get_buffer()))
        peer.send(stream[:size])
        stream = stream[size:]
        frame = peer.connection.read_frame(buffer, origin)
        if frame is not NEED_MORE:
            return frame
    raise AssertionError("no frame")


def streams(key: bytes | None, size: int) -> list[tuple[str, bytes]]:
    payload = (NOISE * 2)[:size]
    pieces = [payload[:100], payload[100:3000], b"", payload[3000:]]
    return [
        ("whole", wire.frame(OpCode.BINARY, payload, key=key)),
        ("fragments", b"".join(wire.fragments(OpCode.BINARY, pieces, key=key))),
    ]


@pytest.mark.parametrize("capacity", [4096, CAPACITY], ids=["larger than the ring", "smaller"])
def test_it_is_received_in_place(memory: tuple[PayloadBuffer, memoryview], capacity: int) -> None:
    buffer, whole = memory
    for name, stream in streams(wire.KEY, FITS):
        peer = Peer(True, True)
        peer.connection = Connection(is_client=False, pool=Pool(capacity))
        frame = receive(peer, stream, buffer, CONSISTENT)
        assert address(frame.payload) == address(whole), name
        assert frame.payload == whole[:FITS] == NOISE[:FITS], name
        assert whole[FITS:] == GUARD, name


@pytest.mark.parametrize("capacity", [4096, CAPACITY], ids=["larger than the ring", "smaller"])
@pytest.mark.parametrize("excess", [1, 7, 60_000])
def test_what_does_not_fit_is_refused(
    memory: tuple[PayloadBuffer, memoryview], capacity: int, excess: int
) -> None:
    buffer, whole = memory
    for name, stream in streams(wire.KEY, FITS + excess):
        peer = Peer(True, True)
        peer.connection = Connection(is_client=False, pool=Pool(capacity))
        with pytest.raises(LimitExceeded, match=DOES_NOT_FIT) as caught:
            receive(peer, stream, buffer, CONSISTENT)
        assert caught.value.code == 1009
        assert whole[FITS:] == GUARD, name
        close = wire.close_payload(1009, DOES_NOT_FIT.encode())
        assert wire.parse(peer.connection.bytes_to_send()) == [wire.Seen(OpCode.CLOSE, close)]
        # The buffer is free for the next connection.
        assert buffer.reader is None


def test_what_does_not_fit_when_inflated_is_refused(memory: tuple[PayloadBuffer, memoryview]) -> None:
    buffer, whole = memory
    peer = Peer(True, True, deflate=True)
    with pytest.raises(LimitExceeded, match=DOES_NOT_FIT):
        receive(peer, peer.frame(OpCode.BINARY, wire.deflate(NOISE[: FITS + 1]), rsv=4), buffer, ADAPTIVE)
    assert whole[FITS:] == GUARD


def test_a_large_message_is_refused_before_its_bytes_have_arrived() -> None:
    peer = Peer(True, True)
    peer.send(wire.head(OpCode.BINARY, 2 * USER_SIZE, key=wire.KEY) + b"first")
    with pytest.raises(LimitExceeded, match=DOES_NOT_FIT):
        peer.connection.read_frame(peer.user)


@pytest.mark.parametrize("opcode", [OpCode.PING, OpCode.PONG, OpCode.CLOSE])
def test_a_control_frame_is_no_message_and_never_too_large(opcode: OpCode) -> None:
    peer = Peer(True, True)
    payload = wire.close_payload(1000, b"a long goodbye")
    peer.send(peer.frame(opcode, payload))
    frame = peer.connection.read_frame(PayloadBuffer(bytearray(3)), CONSISTENT)
    assert frame is not NEED_MORE
    assert (frame.opcode, frame.to_bytes()) == (opcode, payload)
