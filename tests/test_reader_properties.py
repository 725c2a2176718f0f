"""What must hold for any messages, any cuts, any way of reading: a view never changes, and what comes out went in.

Small rings, so that frames wrap, crowd held views, come in pieces and land in their buffers all the time.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from typing import Any

import feed
import pytest
import wire
from arrays import array_over
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import BINARY, CONTINUATION, PING, PONG, TEXT

from zcws.buffer import PayloadBuffer
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE, PayloadOrigin
from zcws.kernel import ffi
from zcws.pool import Pool
from zcws.ring import RING_CAPACITY

pytestmark = pytest.mark.usefixtures("every_view", "made")

SEED = 6455

POOLS = [
    pytest.param(RING_CAPACITY, True, id="ring"),
    pytest.param(RING_CAPACITY, False, id="unmirrored"),
    pytest.param(4096, True, id="one page"),
    pytest.param(4096, False, id="one page, unmirrored"),
    pytest.param(8192, True, id="two pages"),
    pytest.param(8192, False, id="two pages, unmirrored"),
]


def ways_to_hold(view: memoryview, rng: random.Random) -> Any:
    """The view, a slice of it, or an array over it or over a part."""
    start = rng.randrange(len(view) + 1)
    stop = rng.randrange(start, len(view) + 1)
    return rng.choice(
        [
            lambda: view,
            lambda: view[start:stop],
            lambda: view[start:stop:2],
            lambda: array_over(view),
            lambda: array_over(view[start:stop])[::-1],
            lambda: memoryview(array_over(view))[start:stop],
        ]
    )()


class Sender:
    """Endless messages of all kinds, and the bytes of them."""

    def __init__(self, rng: random.Random, capacity: int, key: bytes | None) -> None:
        self.rng = rng
        self.sizes = [0, 1, 7, 125, 126, 200, 400, 1500, capacity // 2, capacity - 14, capacity + 100]
        self.weights = [8, 8, 8, 4, 4, 8, 8, 3, 0.3, 0.1, 0.3]
        self.key = key

    def message(self) -> tuple[bytes, bytes]:
        """A message's payload, and the frames that carry it, with control frames among them."""
        (size,) = self.rng.choices(self.sizes, self.weights)
        payload = self.rng.randbytes(size)
        parts = [payload]
        if self.rng.random() < 0.2:
            cut = self.rng.randrange(size + 1)
            parts = [payload[:cut], payload[cut:]]
        frames = wire.fragments(BINARY, parts, key=self.key)
        return payload, wire.frame(PING, b"ping", key=self.key).join(frames)


@pytest.mark.parametrize(("capacity", "mirrored"), POOLS)
@pytest.mark.parametrize("key", [None, wire.KEY], ids=["unmasked", "masked"])
def test_a_thousand_held_views_while_ten_thousand_messages_arrive(
    capacity: int, mirrored: bool, key: bytes | None
) -> None:
    rng = random.Random(SEED)
    pool = Pool(capacity, mirrored=mirrored)
    connection = Connection(is_client=key is None, entropy=os.urandom, pool=pool)
    sender, buffer = Sender(rng, capacity, key), PayloadBuffer()
    held: list[tuple[Any, bytes]] = []
    expected: list[bytes] = []
    stream = bytearray()
    count = read = 0
    while read < 11_000:
        while len(stream) < capacity and count < 11_000:
            payload, frames = sender.message()
            expected.append(payload)
            stream += frames
            count += 1
        used = connection.receive_bytes(stream[: rng.choice([1, 50, 1000, capacity, 3 * capacity])])
        del stream[:used]
        for _ in range(rng.choice([1, 5, 1000])):
            origin = rng.choice(list(PayloadOrigin))
            frame = connection.read_frame(rng.choice([None, buffer]), origin)
            if frame is NEED_MORE:
                break
            if frame.opcode is OpCode.PING:
                assert frame.to_bytes() == b"ping"
                continue
            assert frame.payload == expected[read]
            # The first thousand, and one in a hundred of those that follow.
            if read < 1000 or rng.random() < 0.01:
                holding = ways_to_hold(frame.payload, rng)
                held.append((holding, bytes(holding)))
            read += 1
        connection.bytes_to_send()
    assert len(held) > 1000
    assert all(bytes(holding) == copy for holding, copy in held)
    held.clear()
    del frame, holding
    gc.collect()
    assert connection.read_frame() is NEED_MORE
    assert connection.reader._ring is None


# ---- any sequence, any cuts, any way of reading ----


class Script:
    """What is sent, and what has to come out of it: messages and control frames in the order of their ends."""

    def __init__(self, key: bytes | None) -> None:
        self.key = key
        self.stream = bytearray()
        self.frames: list[tuple[int, bytes]] = []

    def __repr__(self) -> str:
        return f"{[(opcode, len(payload)) for opcode, payload in self.frames]} in {len(self.stream)} bytes"

    def control(self, opcode: int, payload: bytes) -> None:
        payload = bytes([len(self.frames)]) + payload[1:]  # no two alike
        self.stream += wire.frame(opcode, payload, key=self.key)
        self.frames.append((opcode, payload))


CAPACITY = 4096
SIZES = st.sampled_from(
    [0, 1, 2, 124, 125, 126, 127, 1000, CAPACITY - 14, CAPACITY - 8, CAPACITY - 4, CAPACITY, CAPACITY + 1,
     3 * CAPACITY, 20_000, 65_535, 65_536]
)  # fmt: skip
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=[]), max_size=30)
CONTROL = st.tuples(
    st.sampled_from([PING, PONG]), st.binary(max_size=125) | st.binary(min_size=125, max_size=125)
)


@st.composite
def scripts(draw: st.DrawFn, deflate: bool) -> Script:
    key = draw(st.sampled_from([None, wire.KEY, bytes(4), b"\xff\x01\x80\x7f"]))
    script = Script(key=key)
    for _ in range(draw(st.integers(1, 8))):
        for opcode, payload in draw(st.lists(CONTROL, max_size=2)):
            script.control(opcode, payload)
        if draw(st.booleans()):
            opcode, seed = TEXT, draw(TEXTS).encode() or "ä€🜚".encode()
        else:
            opcode, seed = BINARY, draw(st.binary(min_size=1, max_size=30))
        # Whole repetitions, so that text stays text; then as near to the size as ASCII takes it.
        size = draw(SIZES)
        message = seed * (size // len(seed))
        message += b"." * (size - len(message))
        compress = deflate and draw(st.booleans())
        data = wire.deflate(message) if compress else message
        places = draw(st.lists(st.integers(0, len(data)), max_size=4))
        pieces = feed.cut(data, places) if data else [b""]
        if draw(st.booleans()):
            pieces.insert(draw(st.integers(0, len(pieces))), b"")
        for i, frame in enumerate(wire.fragments(opcode, pieces, key=key, rsv=4 if compress else 0)):
            if i and draw(st.integers(0, 3)) == 0:
                script.control(*draw(CONTROL))
            script.stream += frame
        script.frames.append((opcode, message))
    return script


WAYS = st.sampled_from(["frame", "frame into my buffer", "frame into memory", "consistent", "consistent into my buffer",
                        "message", "batch"])  # fmt: skip


class Caller:
    """Reads in every way there is, and remembers what it got."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.buffer = PayloadBuffer()
        self.block = bytearray(70_000)
        self.memory = PayloadBuffer(self.block)
        self.seen: list[tuple[int, bytes] | tuple[str, Any]] = []
        self.views: list[tuple[memoryview, bytes]] = []

    def read(self, way: str, keep: bool) -> bool:
        """One read; whether it gave anything."""
        if way == "message":
            message = self.connection.read_message()
            self.seen.append(("message", message))
            return message is not NEED_MORE
        if way == "batch":
            frames: Any = self.connection.reader.read_batch()
        else:
            origin = PayloadOrigin.CONSISTENT if "consistent" in way else PayloadOrigin.ADAPTIVE
            target = self.buffer if "my buffer" in way else self.memory if "memory" in way else None
            frame = self.connection.read_frame(target, origin)
            frames = NEED_MORE if frame is NEED_MORE else [frame]
        if frames is NEED_MORE:
            return False
        for frame in frames:
            payload = frame.to_bytes()
            self.seen.append((int(frame.opcode), payload))
            view = frame.payload
            # Memory of the caller's own is overwritten by the next message: that is what was asked for.
            if keep and not self.is_mine(view):
                self.views.append((view, payload))
        return True

    def is_mine(self, view: memoryview) -> bool:
        """Whether a view is of the caller's own block."""
        block, first = (int(ffi.cast("uintptr_t", ffi.from_buffer(memory))) for memory in (self.block, view))
        return block <= first < block + len(self.block)

    def check(self, expected: list[tuple[int, bytes]]) -> None:
        """All of it, in order. `read_message` passes over control frames, also when no message follows them."""
        rest = iter([*expected, (0, b"")])
        opcode, sent = next(rest)
        passing = False
        for what, payload in self.seen:
            passing = passing or what == "message"
            if payload is NEED_MORE:
                continue
            while passing and opcode >= 8 and (opcode, sent) != (what, payload):
                opcode, sent = next(rest)
            if what == "message":
                assert payload == (sent.decode() if opcode == TEXT else sent)
            else:
                assert (what, payload) == (opcode, sent)
            opcode, sent = next(rest)
            passing = False
        left = [opcode, *(opcode for opcode, _ in rest)]
        assert left == [0] or (passing and min(left[:-1]) >= 8)


def run(data: st.DataObject, deflate: bool) -> None:
    script = data.draw(scripts(deflate))
    stream = bytes(script.stream)
    mirrored = data.draw(st.booleans(), label="mirrored")
    capacity = data.draw(st.sampled_from([CAPACITY, 2 * CAPACITY]), label="capacity")
    pool = Pool(capacity, mirrored=mirrored)
    connection = Connection(
        is_client=script.key is None,
        entropy=os.urandom,
        pool=pool,
        agreement=Agreement(deflate=DeflateParameters()) if deflate else None,
    )
    caller = Caller(connection)
    pieces = feed.cut(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=20), label="cuts"))
    ways = data.draw(st.lists(WAYS, min_size=1, max_size=6), label="ways")
    keep = data.draw(st.sampled_from([0, 1, 3]), label="keep every")
    lazy = data.draw(st.booleans(), label="reads only when it has to")
    turns = 0
    for piece in pieces:
        while piece:
            used = connection.receive_bytes(piece)
            piece = piece[used:]
            if lazy and used:
                continue
            while caller.read(ways[turns % len(ways)], bool(keep) and turns % keep == 0):
                turns += 1
            turns += 1
    while caller.read(ways[turns % len(ways)], False):
        turns += 1
    caller.check(script.frames)
    assert all(view == copy for view, copy in caller.views)
    pings = [payload for opcode, payload in script.frames if opcode == PING]
    assert [seen.payload for seen in wire.parse(connection.bytes_to_send())] == pings
    # Everything has been read: as soon as nobody looks any more, nothing is held.
    caller.views.clear()
    if sys.implementation.name != "cpython":
        gc.collect()  # elsewhere a view that is gone shows only now
    assert connection.read_frame() is NEED_MORE
    assert connection.reader._ring is None
    rings = [ring for ring in (pool.landing, *pool._spare, *pool._aside) if ring is not None]
    assert rings and all((ring.tail, ring.head, ring.is_exported) == (0, 0, False) for ring in rings)
    assert (caller.buffer.reader, caller.memory.reader) == (None, None)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_comes_out_is_what_went_in(data: st.DataObject) -> None:
    run(data, deflate=False)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_comes_out_is_what_went_in_compressed(data: st.DataObject) -> None:
    run(data, deflate=True)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    stream=st.binary(max_size=2000), places=st.lists(st.integers(0, 2000), max_size=8), client=st.booleans()
)
def test_any_bytes_at_all_end_alike_however_they_are_cut(
    stream: bytes, places: list[int], client: bool
) -> None:
    def connect() -> Connection:
        return Connection(is_client=client, entropy=os.urandom, pool=Pool(4096), max_size=3000)

    whole = feed.feed(connect(), [stream])
    pieces = feed.feed(connect(), feed.cut(stream, places))
    assert (pieces.frames, pieces.ending) == (whole.frames, whole.ending)
    assert [s.payload for s in pieces.sent] == [s.payload for s in whole.sent]


@settings(max_examples=100)
@given(data=st.data())
def test_nearly_right_bytes_end_alike_however_they_are_cut(data: st.DataObject) -> None:
    """One byte of a good stream is another one."""
    key = data.draw(st.sampled_from([None, wire.KEY]))
    good = b"".join(
        [
            wire.frame(TEXT, "ä€🜚".encode() * 3, key=key),
            wire.frame(BINARY, bytes(300), fin=False, key=key),
            wire.frame(PING, b"ping", key=key),
            wire.frame(CONTINUATION, b"end", key=key),
            wire.frame(PONG, b"", key=key),
        ]
    )
    at = data.draw(st.integers(0, len(good) - 1))
    stream = good[:at] + bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))]) + good[at + 1 :]
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))

    def connect() -> Connection:
        return Connection(is_client=key is None, entropy=os.urandom, pool=Pool(4096), max_size=3000)

    whole = feed.feed(connect(), [stream])
    pieces = feed.feed(connect(), feed.cut(stream, places))
    assert (pieces.frames, pieces.sent, pieces.ending) == (whole.frames, whole.sent, whole.ending)
