"""The network's side of reading: rings leased and given back, what waits, what takes effect and when."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from typing import Any

import feed
import pytest
import turn
import wire
from peaks import peak_of
from receiver import DEFLATE, NoMemory, connect, either, fails, receive_row, rings, send
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from zcws.buffer import PayloadBuffer
from zcws.closing import State
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, ConnectionClosedError, LimitExceeded, ProtocolError, StaleFrame
from zcws.frame import NEED_MORE, RingFrame
from zcws.pool import TABLE_ROWS, Pool
from zcws.ring import Ring

pytestmark = pytest.mark.usefixtures("every_view")


# ---- rings ----


@either
def test_a_ring_is_leased_when_bytes_arrive_and_given_back_when_they_have_been_read(mirrored: bool) -> None:
    pool = Pool(4096, mirrored=mirrored)
    connection = connect(pool)
    assert connection.get_buffer().obj is connection.get_buffer().obj
    assert connection.reader._ring is None
    send(connection, wire.frame(TEXT, b"hello"))
    assert (connection.reader._ring is not None, rings(pool)) == (True, 0)
    assert connection.read_message() == "hello"
    assert connection.read_message() is NEED_MORE
    assert (connection.reader._ring, rings(pool)) == (None, 1)


@either
def test_half_a_frame_keeps_its_ring(mirrored: bool) -> None:
    pool = Pool(4096, mirrored=mirrored)
    connection = connect(pool)
    send(connection, b"\x81")
    assert connection.read_message() is NEED_MORE
    assert rings(pool) == 0
    send(connection, b"\x01x")
    assert connection.read_message() == "x"
    assert connection.read_message() is NEED_MORE
    assert rings(pool) == 1


@either
def test_bytes_are_counted_as_they_arrive(mirrored: bool) -> None:
    """In a ring, in two, and landed; what stands behind a Close is not."""
    connection = connect(Pool(4096, mirrored=mirrored))
    whole, large = wire.frame(BINARY, bytes(3000)), wire.frame(BINARY, bytes(70_000))
    fragments = wire.fragments(TEXT, [b"one ", b"message"])
    stream = b"".join([*fragments, whole, large, wire.frame(PING), wire.frame(CLOSE)])
    sent = 0
    while sent < len(stream):
        sent += connection.receive_bytes(memoryview(stream)[sent : sent + 999])
        assert connection.reader.bytes_received == sent
        while sent < len(stream) and connection.read_frame() is not NEED_MORE:
            pass
    connection.receive_bytes(b"more")
    assert connection.reader.bytes_received == len(stream)
    assert connection.reader.rows_waiting > 0


@either
def test_a_ring_whose_views_are_out_stays_until_it_is_crowded(mirrored: bool) -> None:
    pool = Pool(4096, mirrored=mirrored)
    connection = connect(pool)
    kept = []
    retired = set()
    for i in range(100):
        payload = bytes([i]) * 100
        assert connection.read_frame() is NEED_MORE
        send(connection, wire.frame(BINARY, payload))
        frame = connection.read_frame()
        assert isinstance(frame, RingFrame)
        kept.append((frame._lease.open(frame._number)[frame._start : frame._stop], payload))
        retired.add(id(connection.reader._ring))
    assert len(retired) > 1
    assert all(view == payload for view, payload in kept)
    assert connection.read_frame() is NEED_MORE
    # The last ring is still leased while its views are out; the others went to their holders.
    assert rings(pool) == 0
    del kept
    gc.collect()
    assert connection.read_frame() is NEED_MORE
    assert rings(pool) == 1


@either
def test_the_end_gives_the_ring_back(mirrored: bool) -> None:
    for ending in (wire.frame(CLOSE), wire.frame(TEXT, rsv=1), b"\x81\x05he"):
        pool = Pool(4096, mirrored=mirrored)
        connection = connect(pool)
        send(connection, wire.frame(TEXT, b"first") + ending)
        connection.receive_eof()
        outcome = feed.Outcome()
        feed.read_all(connection, outcome)
        assert outcome.error is not None
        assert (connection.reader._ring, rings(pool)) == (None, 1)


@either
def test_the_end_gives_a_ring_back_that_was_looked_into(mirrored: bool) -> None:
    pool = Pool(4096, mirrored=mirrored)
    connection = connect(pool)
    send(connection, wire.frame(TEXT, b"seen") + b"\x81")
    frame = connection.read_frame()
    assert frame is not NEED_MORE
    assert frame.payload == b"seen"
    connection.receive_eof()
    with pytest.raises(ConnectionClosedError):
        connection.read_frame()
    gc.collect()
    assert (connection.reader._ring, rings(pool)) == (None, 1)


@either
def test_a_ring_full_of_unread_frames_waits_for_the_reader(mirrored: bool) -> None:
    connection = connect(Pool(4096, mirrored=mirrored))
    stream = wire.frame(BINARY, bytes(500)) * 20
    used = connection.receive_bytes(stream)
    assert 0 < used <= 4096
    assert connection.reader.is_full
    assert not connection.reader.is_idle
    assert connection.receive_bytes(stream[used:]) == 0
    messages = 0
    while used < len(stream) or connection.reader.rows_waiting:
        while connection.read_message() is not NEED_MORE:
            messages += 1
        assert not connection.reader.is_full
        used += connection.receive_bytes(stream[used:])
    assert messages == 20


@either
def test_who_is_closed_while_it_is_full_leaves_the_table_as_it_was(mirrored: bool) -> None:
    """By a finalizer, while another reader of the pool is about to take what it has scanned."""
    pool = Pool(4096, mirrored=mirrored)
    connection, other = connect(pool), connect(pool)
    connection.receive_bytes(wire.frame(BINARY, bytes(500)) * 20)
    assert connection.reader.is_full
    other.receive_bytes(wire.frame(BINARY, b"other"))
    before = pool.words.tobytes()
    connection.close()
    assert pool.words.tobytes() == before
    assert other.read_message() == b"other"


def test_received_into_with_the_memory_that_is_ones_own_to_release() -> None:
    """The ring's own view serves every connection of the pool."""
    connection = connect()
    for text in ("one", "two"):
        data = wire.frame(TEXT, text.encode())
        with connection.get_buffer() as room:
            room[: len(data)] = data
        connection.received(len(data))
        assert connection.read_message() == text


# ---- wide rings, for those who pour ----


def drink(connection: Connection) -> list[object]:
    """All messages that are there."""
    messages: list[object] = []
    while (message := connection.read_message()) is not NEED_MORE:
        messages.append(message)
    return messages


def pour(connection: Connection, stream: bytes) -> tuple[list[object], int]:
    """All that there is room for, as often as it takes; every read is as large as it can be. Returns the messages, and
    the largest read."""
    messages, view, most = [], memoryview(stream), 0
    while view:
        used = connection.receive_bytes(view)
        view, most = view[used:], max(most, used)
        messages += drink(connection)
    return messages, most


@either
@pytest.mark.parametrize("size", [700, 65000, 65500, 65536, 100_000, 200_000, 262_134, 262_135, 300_000])
def test_a_connection_whose_large_frames_fill_its_ring_gets_a_wide_one(mirrored: bool, size: int) -> None:
    pool = Pool(65536, mirrored=mirrored)
    connection = connect(pool)
    sent = [bytes([i % 251]) * size for i in range(3_000_000 // size)]
    messages, most = pour(connection, b"".join(wire.frame(BINARY, payload) for payload in sent))
    assert messages == sent
    # It is asked for as much as a wide ring takes, unless its frames are small.
    assert (most > 65536) == (size > 1024)
    assert connection.reader._ring is None


def test_small_frames_are_not_let_pour() -> None:
    connection = connect(Pool(65536))
    sent = [b"%06d" % i for i in range(50_000)]
    messages, most = pour(connection, b"".join(wire.frame(BINARY, payload) for payload in sent))
    assert messages == sent
    assert most <= 65536


@either
def test_frames_up_to_a_wide_ring_are_waited_for_whole_while_somebody_pours(mirrored: bool) -> None:
    pool = Pool(65536, mirrored=mirrored)
    connection = connect(pool)
    large = wire.frame(BINARY, bytes(200_000))
    pour(connection, wire.frame(BINARY, bytes(60_000)) * 20 + large[:1000])
    assert connection.reader.pours
    pour(connection, large[1000:150_000])
    assert connection.reader._assembly is None
    assert pour(connection, large[150_000:])[0] == [bytes(200_000)]


@either
def test_behind_a_message_that_was_received_in_place_no_more_than_a_beginning_is_asked_for(
    mirrored: bool,
) -> None:
    """All that comes in a ring with the head of a large frame has to be copied."""
    pool = Pool(65536, mirrored=mirrored)
    connection = connect(pool)
    sent = [bytes([number]) * 1_000_000 for number in range(4)]
    stream, reads, messages = memoryview(b"".join(wire.frame(BINARY, each) for each in sent)), [], []
    while stream:
        lands = connection.reader.landing_in is not None
        used = connection.reader.receive_bytes(stream)
        stream = stream[used:]
        messages += drink(connection)
        if not lands:
            reads.append(used)
    assert messages == sent
    assert reads == [65536, 16384, 16384, 16384]


def test_a_small_message_behind_a_large_one_ends_that() -> None:
    connection = connect(Pool(65536))
    for sent in (b"x" * 300_000, b"small", b"another"):
        room = len(connection.get_buffer())
        assert room == (16384 if sent == b"small" else 65536)
        assert pour(connection, wire.frame(BINARY, sent))[0] == [sent]
    assert (connection.reader.pours, connection.reader.is_idle) == (False, True)


def test_one_that_fits_a_ring_is_waited_for_there_behind_a_large_one() -> None:
    connection = connect(Pool(65536))
    for sent in (b"x" * 300_000, b"y" * 60_000, b"z" * 60_000):
        stream = wire.frame(BINARY, sent)
        most = pour(connection, stream[:-1])[1]
        assert (connection.reader.landing_in is not None) is (len(sent) == 300_000)
        assert pour(connection, stream[-1:])[0] == [sent]
        assert most <= 65536 or len(sent) == 300_000


def test_a_read_that_brings_little_ends_the_pouring() -> None:
    pool = Pool(65536)
    connection = connect(pool)
    pour(connection, wire.frame(BINARY, bytes(65536 - 10)) * 8)
    assert (connection.reader.pours, connection.reader._ring) == (True, None)
    assert len(connection.get_buffer()) == pool.wide_capacity
    pour(connection, wire.frame(BINARY, b"little"))
    assert not connection.reader.pours
    assert len(connection.get_buffer()) == 65536
    assert connection.reader.state.fit == 65536


def test_who_hands_messages_on_at_once_may_pour_too() -> None:
    """A read that brings much begins to pour, and then it is `received`."""
    connection = connect(Pool(65536))
    reader = connection.reader
    for wide, payload in ((False, b"a" * 32_764), (True, b"b" * 32_764)):
        stream = wire.frame(BINARY, payload) * 2  # 65,536 bytes: they fill the ring
        assert connection.read_message() is NEED_MORE
        assert (reader.is_idle, reader.pours) == (True, wide)
        assert receive_row(connection, stream) is True
        assert drink(connection) == [payload] * 2


def test_bytes_are_read_from_the_wide_ring_that_they_landed_in() -> None:
    """Another thread, too late with a frame in it, exports it for a moment: another one was leased, and shown."""
    pool = Pool(65536)
    connection = connect(pool)
    connection.reader.pours = True
    data = wire.frame(BINARY, b"landed" * 10_000)
    connection.get_buffer()[: len(data)] = data
    late = pool._spare_wide[-1].export()
    connection.received(len(data))
    assert connection.read_message() == b"landed" * 10_000
    assert late


def test_the_fifth_who_pours_has_an_ordinary_ring() -> None:
    pool = Pool(65536)
    stream = wire.frame(BINARY, bytes(60_000)) * 12
    cut = len(stream) - 30_000
    connections = [connect(pool) for _ in range(5)]
    for connection in connections:
        assert pour(connection, stream[:cut])[0] == [bytes(60_000)] * 11
    held = [connection.reader._ring for connection in connections]
    assert [ring is not None and ring.is_wide for ring in held] == [True] * 4 + [False]
    for connection in connections:
        assert pour(connection, stream[cut:])[0] == [bytes(60_000)]
    assert (len(pool._spare_wide), rings(pool)) == (4, 1)


@either
def test_views_of_a_wide_ring_never_change(mirrored: bool) -> None:
    pool = Pool(65536, mirrored=mirrored)
    connection = connect(pool)
    stream = b"".join(wire.frame(BINARY, bytes([i]) * 30_000) for i in range(200))
    kept, view, wide = [], memoryview(stream), set()
    while view:
        view = view[connection.receive_bytes(view) :]
        while (frame := connection.read_frame()) is not NEED_MORE:
            ring = connection.reader._ring
            if len(kept) > 20 and ring is not None:  # before, nobody who pours holds anything
                kept.append(frame.payload)
                wide.add(ring.is_wide)
            else:
                kept.append(frame.to_bytes())
    assert [payload == bytes([i]) * 30_000 for i, payload in enumerate(kept)] == [True] * 200
    assert any(wide)


class _NoMemory(deque[Any]):
    """Of rings that wait: there is none for the first."""

    has_failed = False

    def append(self, ring: Ring) -> None:
        if not self.has_failed:
            self.has_failed = True
            raise MemoryError
        super().append(ring)


@either
@pytest.mark.parametrize("size", [1000, 30_000])
def test_a_view_does_not_change_where_there_is_no_memory_to_set_its_ring_aside(
    mirrored: bool, size: int
) -> None:
    """What came next was received where it lies, as the ring was thought to be empty."""
    pool, held = Pool(65536, mirrored=mirrored), list[tuple[memoryview, int]]()
    connection, failures = connect(pool), 0
    stream = memoryview(b"".join(wire.frame(BINARY, bytes([i]) * size) for i in range(250)))
    while stream:
        if len(stream) < 230 * size and not failures:
            pool._aside = _NoMemory()
        try:
            room = connection.reader.get_buffer()
        except MemoryError:
            failures += 1
            continue
        count = min(len(room), len(stream), 50_000)
        room[:count] = stream[:count]
        stream = stream[count:]
        connection.reader.received(count)
        while (frame := connection.read_frame()) is not NEED_MORE:
            assert isinstance(frame, RingFrame)
            held.append((frame._lease.open(frame._number)[frame._start : frame._stop], len(held)))
    assert failures == 1
    assert [view == bytes([i]) * size for view, i in held] == [True] * 250


@either
def test_many_connections_of_which_each_has_a_view_held_take_few_wide_rings(mirrored: bool) -> None:
    """As a program does that keeps the last message of each. Each kept a wide ring: 1 MiB for 40 KB."""
    pool, last = Pool(65536, mirrored=mirrored), []
    stream = wire.frame(BINARY, bytes(30_000)) * 40
    for _ in range(20):
        connection, view = connect(pool), memoryview(stream)
        while view:
            view = view[connection.receive_bytes(view) :]
            while (frame := connection.read_frame()) is not NEED_MORE:
                payload = frame.payload
        last.append((connection, payload))
    wide = {id(payload.obj) for _, payload in last if len(payload.obj) >= pool.wide_capacity}
    assert 1 <= len(wide) <= 4
    assert all(payload == bytes(30_000) for _, payload in last)


@either
@pytest.mark.parametrize("size", [100, 1000, 20_000, 50_000])
@pytest.mark.parametrize("looks_at_once", [True, False])
def test_whoever_looks_until_the_next_has_come_takes_turns_with_few_rings(
    mirrored: bool, size: int, looks_at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `payload = (await ws.read_frame()).payload` does in a loop. Each read had a ring of its own, mapped for it."""
    pool, made = Pool(65536, mirrored=mirrored), set[Ring]()
    new_ring = pool._new_ring

    def count(_: Pool, *args: Any, **kind: Any) -> Ring:
        ring = new_ring(*args, **kind)
        made.add(ring)
        return ring

    monkeypatch.setattr(Pool, "_new_ring", count)
    connection, stream = connect(pool), wire.frame(BINARY, bytes(size)) * (4_000_000 // size)
    view, payload, seen = memoryview(stream), None, 0
    while view:
        view = view[connection.receive_bytes(view) :]
        if looks_at_once:
            while (batch := connection.reader.read_batch()) is not NEED_MORE:
                for payload in batch.payloads:  # noqa: B007  the last one stays
                    seen += 1
        else:
            while (frame := connection.read_frame()) is not NEED_MORE:
                payload = frame.payload
                seen += 1
    assert seen == 4_000_000 // size
    assert payload == bytes(size)
    assert len(made) <= 4


def test_a_streamed_message_is_given_in_pieces_to_those_who_pour() -> None:
    pool = Pool(65536)
    connection = connect(pool)
    pour(connection, wire.frame(BINARY, bytes(60_000)) * 20)
    reader = connection.reader
    assert reader.pours
    reader.begin_stream()
    connection.receive_bytes(wire.frame(BINARY, bytes(100_000))[:70_000])
    assert reader.read_piece() == (bytes(70_000 - 10), False)
    assert reader.read_piece() is NEED_MORE
    assert reader.state.fit == 0
    connection.receive_bytes(bytes(30_010))
    assert reader.read_piece() == (bytes(30_010), True)
    assert pour(connection, wire.frame(BINARY, bytes(60_000)) * 3)[0] == [bytes(60_000)] * 3


def large_frames(size: int) -> bytes:
    """So many bytes, of frames that are 30,004 bytes each on the wire."""
    return (wire.frame(BINARY, b"large" * 6000) * (1 + size // 30_000))[:size]


def pouring(pool: Pool) -> Connection:
    """A connection that has begun to pour, and keeps nothing."""
    connection = connect(pool)
    send(connection, wire.frame(BINARY, bytes(32_764)) * 2)
    assert drink(connection) == [bytes(32_764)] * 2
    return connection


def still_pours(connection: Connection) -> bool:
    """Whether what arrives next, now that all has been read, lands in a wide ring."""
    drink(connection)
    return len(connection.get_buffer()) == connection.reader.pool.wide_capacity


@pytest.mark.parametrize(
    ("sizes", "pours"),
    [([1024] * 64, True), ([1000] * 64 + [1536], False), ([65535], False)],
    ids=["large", "small", "not filled"],
)
def test_whoever_fills_a_ring_with_large_frames_pours(sizes: list[int], pours: bool) -> None:
    connection = connect(Pool(65536))
    send(connection, b"".join(wire.frame(BINARY, bytes(size - 4)) for size in sizes))
    assert still_pours(connection) is pours


@either
def test_whoever_holds_a_view_while_the_ring_fills_does_not_pour(mirrored: bool) -> None:
    """It would take a wide ring with it for a view of a few bytes."""
    connection = connect(Pool(65536, mirrored=mirrored))
    send(connection, wire.frame(BINARY, bytes(996)))
    frame = connection.read_frame()
    assert frame is not NEED_MORE
    view = frame.payload
    send(connection, wire.frame(BINARY, bytes(64532)))
    assert len(view) == 996
    del view, frame
    assert not still_pours(connection)


def test_small_frames_end_the_pouring() -> None:
    connection = pouring(Pool(65536))
    assert still_pours(connection)
    send(connection, wire.frame(BINARY, bytes(696)) * 100)
    assert not still_pours(connection)


@pytest.mark.parametrize(("size", "pours"), [(16384, False), (16385, True)])
def test_a_read_that_brings_little_into_no_ring_is_a_quarter_of_one(size: int, pours: bool) -> None:
    connection = pouring(Pool(65536))
    connection.get_buffer()
    send(connection, wire.frame(BINARY, bytes(size - 4)))
    assert still_pours(connection) is pours


@pytest.mark.parametrize(("size", "pours"), [(65536, True), (65537, False)])
def test_a_read_that_brings_no_more_than_a_quarter_of_its_ring_says_nothing(size: int, pours: bool) -> None:
    """Behind the beginning of a frame it may be little because that was the end of much."""
    connection = pouring(Pool(65536))
    stream = large_frames(30_004)
    send(connection, stream[:-1])
    assert connection.read_message() is NEED_MORE
    small = wire.frame(BINARY, bytes(696)) * 93
    send(connection, stream[-1:] + small + wire.frame(BINARY, bytes(size - 1 - len(small) - 4)))
    assert still_pours(connection) is pours


def test_frames_up_to_a_wide_ring_are_waited_for_whole_from_their_first_byte_on() -> None:
    connection = pouring(Pool(65536))
    large = wire.frame(BINARY, bytes(200_000))
    send(connection, large[:150_000])
    assert connection.read_message() is NEED_MORE
    assert connection.reader._assembly is None
    send(connection, large[150_000:])
    assert connection.read_message() == bytes(200_000)


@either
def test_whoever_moves_to_a_wide_ring_gives_the_other_one_back(mirrored: bool) -> None:
    pool = Pool(65536, mirrored=mirrored)
    connection = connect(pool)
    send(connection, large_frames(65536))
    assert (len(drink(connection)), rings(pool)) == (2, 0)
    assert len(connection.get_buffer()) > 65536
    assert rings(pool) == 1
    send(connection, large_frames(90_012)[65536:])
    assert connection.read_message() == b"large" * 6000


def test_whoever_was_refused_a_wide_ring_asks_again_when_the_other_one_is_full_again() -> None:
    pool = Pool(65536)
    taken = [pool.lease_wide() for _ in range(4)]
    connection = connect(pool)
    send(connection, large_frames(65536))
    drink(connection)
    room = len(connection.get_buffer())
    assert room < 65536
    pool.take_back(taken.pop())  # type: ignore[arg-type]
    assert len(connection.get_buffer()) == room
    send(connection, large_frames(65536 + room)[65536:])
    drink(connection)
    assert len(connection.get_buffer()) > 65536


def test_a_read_that_brings_little_ends_the_pouring_of_those_who_got_no_wide_ring() -> None:
    pool = Pool(65536)
    taken = [pool.lease_wide() for _ in range(4)]
    connection = pouring(pool)
    send(connection, wire.frame(BINARY, b"little")[:3])
    pool.take_back(taken.pop())  # type: ignore[arg-type]
    assert len(connection.get_buffer()) == 65536 - 3
    send(connection, wire.frame(BINARY, b"little")[3:])
    assert connection.read_message() == b"little"


def test_a_ring_with_views_is_not_left_for_a_wide_one() -> None:
    """Somebody else has received for the connection, which had begun to pour."""
    pool = Pool(65536)
    connection = pouring(pool)
    stream = wire.frame(BINARY, b"held") + wire.frame(BINARY, b"half")
    turn.take(pool, connection, stream[:-1])
    frame = connection.read_frame()
    assert frame is not NEED_MORE
    view = frame.payload
    pool.common = None  # what an engine does with a ring that somebody keeps
    assert connection.read_frame() is NEED_MORE
    send(connection, stream[-1:])
    assert connection.read_message() == b"half"
    send(connect(pool), wire.frame(BINARY, b"else" * 100))
    assert view == b"held"


def test_a_ring_that_one_frame_fills_waits_for_the_next_read() -> None:
    connection = connect(Pool(4096, mirrored=False))
    send(connection, wire.frame(BINARY, bytes(len(connection.get_buffer()) - 4)))
    assert connection.read_frame() is not NEED_MORE
    assert connection.reader.is_full
    assert connection.read_frame() is NEED_MORE
    assert not connection.reader.is_full


def test_two_connections_share_a_pool() -> None:
    pool = Pool(4096)
    one, two = connect(pool), connect(pool)
    for i in range(100):
        a, b = b"a%d" % i, b"b%d" % i
        # Cut so that each is in the middle of a frame while the other receives.
        stream, other = wire.frame(BINARY, a), wire.frame(BINARY, b)
        send(one, stream[:2])
        send(two, other[:3])
        send(one, stream[2:])
        send(two, other[3:])
        assert (one.read_message(), two.read_message()) == (a, b)


def test_the_middle_of_a_frame_is_no_news_unless_there_may_be_no_room_for_its_rest() -> None:
    stream = iter(wire.frame(TEXT, bytes(100)))

    def brings_news() -> bool:
        connection.get_buffer()[0] = next(stream)
        return connection.reader.received(1)

    connection = connect()
    send(connection, wire.frame(TEXT, b"waits"))
    assert brings_news()
    frame = connection.read_frame()
    assert frame is not NEED_MORE
    assert brings_news()  # it is out
    view = frame.payload
    assert connection.read_frame() is NEED_MORE
    assert brings_news()  # a view of it is
    del view
    gc.collect()
    assert not brings_news()


# ---- a table that is too small ----


def test_more_frames_in_a_read_than_the_table_has_rows() -> None:
    connection = connect(Pool())
    count = 3 * TABLE_ROWS + 7
    send(connection, b"".join(wire.frame(BINARY, b"%d" % i) for i in range(count)))
    send(connection, wire.frame(BINARY, b"%d" % count))
    assert [connection.read_message() for _ in range(count + 1)] == [b"%d" % i for i in range(count + 1)]
    assert connection.read_message() is NEED_MORE


def test_no_more_rows_wait_than_a_table_has() -> None:
    connection = connect(Pool())
    send(connection, wire.frame(BINARY, b"x") * (TABLE_ROWS + 5))
    another = wire.frame(BINARY, b"y")
    connection.get_buffer()[: len(another)] = another
    assert connection.reader.received(len(another)) is True
    assert connection.reader.rows_waiting == TABLE_ROWS
    assert [connection.read_message() for _ in range(TABLE_ROWS)] == [b"x"] * TABLE_ROWS
    # Nothing waits now: what arrives next has the rest scanned at once.
    send(connection, wire.frame(BINARY, b"z"))
    assert connection.reader.rows_waiting == 7


def test_half_a_frame_behind_a_full_table() -> None:
    connection = connect(Pool())
    send(connection, wire.frame(BINARY, b"x") * TABLE_ROWS + wire.frame(BINARY, b"last")[:3])
    assert [connection.read_message() for _ in range(TABLE_ROWS)] == [b"x"] * TABLE_ROWS
    assert connection.read_message() is NEED_MORE
    send(connection, wire.frame(BINARY, b"last")[3:])
    assert connection.read_message() == b"last"


@pytest.mark.parametrize("extra", [0, 1])
def test_the_end_of_the_stream_behind_a_full_table(extra: int) -> None:
    connection = connect(Pool())
    send(
        connection,
        wire.frame(BINARY, b"x") * (TABLE_ROWS + extra) + wire.frame(CLOSE, wire.close_payload(1001)),
    )
    assert [connection.read_message() for _ in range(TABLE_ROWS)] == [b"x"] * TABLE_ROWS
    # The peer half-closes: what the table had no room for is read all the same, and its Close is answered.
    connection.receive_eof()
    outcome = feed.Outcome()
    feed.read_all(connection, outcome)
    assert len(outcome.frames) == extra + 1
    assert [seen.payload for seen in outcome.sent] == [wire.close_payload(1001)]
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.clean) == (1001, True)


def test_our_close_behind_a_full_table() -> None:
    connection = connect(Pool())
    send(
        connection,
        wire.frame(BINARY, b"x") * 3 * TABLE_ROWS + wire.frame(PING) + wire.frame(CLOSE, b"\x03\xe9"),
    )
    connection.close()
    # The table is scanned to its end, so that the peer's Close counts at once.
    assert connection.state is State.CLOSED
    assert connection.reader.peer_close == (1001, "")


def test_pongs_behind_a_full_table_are_told_once_when_we_close() -> None:
    connection = connect(Pool())
    pongs: list[bytes] = []
    connection.reader.on_pong = pongs.append
    send(connection, wire.frame(PONG) * (2 * TABLE_ROWS + 5))
    connection.close()
    assert len(pongs) == 2 * TABLE_ROWS + 5


# ---- our Close is out ----


@pytest.mark.parametrize("hold", [True, False])
@either
def test_a_ring_never_gets_stuck_after_our_close(mirrored: bool, hold: bool) -> None:
    pool = Pool(4096, mirrored=mirrored)
    connection = connect(pool)
    flood = [wire.frame(BINARY, bytes(size)) for size in (0, 1, 500, 4000, 20_000)]
    flood += wire.fragments(TEXT, [b"a" * 3000, b"b" * 3000], key=None)
    stream = b"".join(flood)
    # Unread rows, half a message and perhaps a view that somebody holds.
    send(connection, wire.frame(BINARY, b"unread" * 50) * 5 + wire.frame(TEXT, b"begun", fin=False))
    frame = connection.read_frame()
    assert frame is not NEED_MORE
    held = frame.payload if hold else b"unread" * 50
    connection.close(1000)
    connection.bytes_to_send()
    send(connection, wire.frame(CONTINUATION, b"end"))
    for size in (1, 97, 1000, 5000):
        for at in range(0, len(stream), size):
            send(connection, stream[at : at + size])
    assert connection.state is State.CLOSE_SENT
    assert held == b"unread" * 50
    send(connection, wire.frame(CLOSE, wire.close_payload(1000)))
    assert connection.state is State.CLOSED
    assert connection.bytes_to_send() == b""
    # What was unread had to make room.
    with pytest.raises(StaleFrame):
        frame.to_bytes()
    with pytest.raises(ConnectionClosed):
        connection.read_message()


def test_a_message_whose_rest_had_to_make_room_lets_its_memory_go() -> None:
    connection = connect()
    buffer = PayloadBuffer()
    send(connection, wire.frame(BINARY, b"begun", fin=False))
    assert connection.read_frame(buffer) is NEED_MORE
    send(connection, wire.frame(PING))
    connection.close()
    assert buffer.reader is connection.reader  # what waits may complete it
    for _ in range(10):
        send(connection, wire.frame(CONTINUATION, bytes(1000), fin=False))
    assert buffer.reader is None


def test_rows_that_waited_when_we_closed_can_still_be_read() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"one") + wire.frame(TEXT, b"two"))
    connection.close()
    send(connection, wire.frame(TEXT, b"three") + wire.frame(CLOSE))
    assert [connection.read_message(), connection.read_message()] == ["one", "two"]
    with pytest.raises(ConnectionClosed) as caught:
        connection.read_message()
    assert (caught.value.code, caught.value.clean) == (1005, True)


@pytest.mark.parametrize("end", ["close", "fail", "conclude"])
def test_what_waited_at_the_end_completes_the_message_in_progress(end: str) -> None:
    """RFC 6455 5.5.1: data that came before is still ours to read, the last fragment of a message too."""
    connection = connect()
    one, two = wire.fragments(TEXT, [b"wh", b"ole"])
    send(connection, one)
    assert connection.read_message() is NEED_MORE
    send(connection, two + (wire.frame(CLOSE) if end == "conclude" else b""))
    if end == "close":
        connection.close()
    elif end == "fail":
        connection.fail(1011, "enough")
    else:
        connection.reader.conclude()
    assert connection.read_message() == "whole"


def test_a_frame_is_good_until_the_next_read_after_our_close_too() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"ours"))
    frame = connection.read_frame()
    assert frame is not NEED_MORE
    connection.close()
    send(connection, wire.frame(TEXT, b"dropped"))
    assert frame.to_bytes() == b"ours"


def test_a_message_that_was_begun_after_our_close_keeps_nobodys_memory() -> None:
    """RFC 6455 5.5.1: its rest is dropped when it comes, so the buffer is let go, and is not too small either."""
    for size in (10, 100_000):  # a fragment, and the beginning of a large frame
        connection = connect()
        stream = wire.frame(BINARY, bytes(size), fin=size > 10)
        buffer = PayloadBuffer(bytearray(5000))
        send(connection, stream[:4096])
        connection.close()
        assert connection.read_frame(buffer) is NEED_MORE
        assert buffer.reader is None
        send(connection, stream[4096:] + wire.frame(CLOSE))
        assert connection.state is State.CLOSED


def half_a_large_message(buffer: PayloadBuffer) -> tuple[Connection, bytes]:
    """A connection that is receiving straight into `buffer`, and the bytes to come."""
    connection = connect()
    stream = wire.frame(BINARY, b"x" * 100_000)
    send(connection, stream[:1000])
    assert connection.read_frame(buffer) is NEED_MORE
    send(connection, stream[1000:50_000])
    assert connection.reader.landing_in is buffer
    assert not connection.reader.is_idle
    return connection, stream[50_000:]


def test_a_large_fragment_lands_in_its_buffer_from_its_head_on() -> None:
    connection = connect(Pool(65536))
    buffer = PayloadBuffer()
    send(connection, wire.frame(BINARY, b"first", fin=False))
    assert connection.read_frame(buffer) is NEED_MORE
    send(connection, wire.head(CONTINUATION, 100_000))
    assert connection.read_frame(buffer) is NEED_MORE
    assert connection.reader.landing_in is buffer
    for size in (60_000, 40_000):  # only its end is news
        connection.get_buffer()[:size] = b"x" * size
        assert connection.reader.received(size) is (size == 40_000)
    frame = connection.read_frame()
    assert frame is not NEED_MORE
    assert frame.to_bytes() == b"first" + b"x" * 100_000


@pytest.mark.parametrize("end", ["close", "fail", "eof"])
def test_the_callers_memory_is_let_go_when_the_message_cannot_become_whole(end: str) -> None:
    memory = bytearray(100_000)
    buffer = PayloadBuffer(memory)
    connection, rest = half_a_large_message(buffer)
    arrived = memory.count(b"x")
    if end == "close":
        connection.close()
    elif end == "fail":
        connection.fail(1011, "enough")
    else:
        connection.receive_eof()
    assert buffer.reader is None
    buffer.release()
    if end != "eof":
        send(connection, rest)
    assert memory.count(b"x") == arrived
    # A message that has been dropped is not delivered in half, nor joined with the next.
    if end == "close":
        send(connection, wire.frame(CLOSE))
    with pytest.raises(ConnectionClosed) as caught:
        connection.read_frame()
    assert caught.value.code == {"close": 1005, "fail": 1011, "eof": 1006}[end]


@pytest.mark.parametrize(
    "bad",
    [
        wire.frame(TEXT, rsv=2),
        wire.frame(TEXT, b"new"),
        wire.frame(CLOSE),
        wire.frame(PING) + wire.frame(CLOSE),
    ],
)
def test_a_payload_buffer_survives_its_connection(bad: bytes) -> None:
    """A loop that reconnects with one buffer: the half message of the dead connection must not lock it."""
    buffer = PayloadBuffer()
    for _ in range(3):
        connection = connect()
        send(connection, wire.frame(BINARY, b"half", fin=False))
        assert connection.read_frame(buffer) is NEED_MORE
        assert buffer.reader is connection.reader
        send(connection, bad)
        assert buffer.reader is None
    connection = connect()
    for frame in wire.fragments(BINARY, [b"wh", b"ole"]):
        assert connection.read_frame(buffer) is NEED_MORE
        send(connection, frame)
    whole = connection.read_frame(buffer)
    assert whole is not NEED_MORE
    assert whole.to_bytes() == b"whole"


# ---- what a driver asks ----


def test_what_a_driver_asks() -> None:
    reader = connect().reader
    assert (reader.rows_waiting, reader.has_news, reader.is_idle, reader.is_full) == (0, False, True, False)
    reader.receive_bytes(memoryview(wire.frame(TEXT, b"x")))
    assert (reader.rows_waiting, reader.has_news, reader.is_idle, reader.is_full) == (1, True, False, False)
    reader.read_frame()
    assert (reader.rows_waiting, reader.has_news, reader.is_idle) == (0, False, False)
    assert reader.read_frame() is NEED_MORE
    assert reader.is_idle
    reader.receive_bytes(memoryview(wire.frame(TEXT, b"\xff")))
    assert (reader.has_news, reader.is_ending, reader.is_faulty) == (True, True, True)


def test_pongs_are_told_when_they_arrive() -> None:
    connection = connect()
    pongs: list[bytes] = []
    connection.reader.on_pong = pongs.append
    send(connection, wire.frame(TEXT, b"unread") + wire.frame(PONG, b"1") + wire.frame(PONG, b"2"))
    assert pongs == [b"1", b"2"]


def test_only_pongs_are_told_as_pongs() -> None:
    connection = connect()
    pongs: list[bytes] = []
    connection.reader.on_pong = pongs.append
    connection.reader.eager = False
    send(connection, wire.frame(PING, b"no") + wire.frame(PONG, b"yes") + wire.frame(CLOSE, b"\x03\xe8no"))
    assert pongs == [b"yes"]


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_no_other_control_frame_is_taken_for_a_close(opcode: int) -> None:
    connection = connect()
    connection.reader.eager = False
    send(connection, wire.frame(opcode, b"\x03\xe8looks like one"))
    assert connection.reader.peer_close is None
    connection.receive_eof()
    assert connection.reader.error().code == 1006


def test_the_callers_buffer_is_never_lent_to_somebody_else() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    send(connection, wire.frame(BINARY, b"half", fin=False))
    assert connection.read_frame(PayloadBuffer(bytearray(100))) is NEED_MORE
    connection.receive_eof()
    with pytest.raises(ConnectionClosedError):
        connection.read_frame()
    assert pool._buffers == []


# ---- somebody receives for many, and scans for all at once ----


def test_many_connections_take_their_rows_out_of_one_ring() -> None:
    pool = Pool(4096)
    streams: list[tuple[bytes, list[str | bytes]]] = [
        (wire.frame(TEXT, b"one"), ["one"]),
        (wire.frame(BINARY, b"t") + wire.frame(BINARY, b"wo"), [b"t", b"wo"]),
        (wire.frame(PING, b"p") + wire.frame(TEXT, b"three"), ["three"]),
    ]
    for at, (stream, messages) in enumerate(streams):
        connection = connect(pool)
        ring = turn.take(pool, connection, stream, at=100 * at)
        reader = connection.reader
        assert (reader.holds(ring), reader.is_idle, reader.pool) == (True, False, pool)
        assert [connection.read_message() for _ in messages] == messages
        assert connection.read_message() is NEED_MORE
        assert (reader.is_idle, reader.holds(ring)) == (True, False)
        assert [seen.payload for seen in wire.parse(connection.bytes_to_send())] == [b"p"] * (at == 2)
    # It is still the common one: whoever was done with it gave it to nobody else.
    assert (pool.common is ring, pool.landing, pool._spare) == (True, None, [])


def test_whoever_has_half_a_frame_keeps_the_ring() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    ring = turn.take(pool, connection, wire.frame(TEXT, b"whole") + wire.frame(TEXT, b"half")[:4], at=50)
    assert connection.read_message() == "whole"
    assert connection.read_message() is NEED_MORE
    assert (connection.reader.holds(ring), connection.reader.is_idle) == (True, False)
    pool.common = None  # what an engine does then
    send(connection, b"lf" + wire.frame(TEXT, b"more"))
    assert [connection.read_message(), connection.read_message()] == ["half", "more"]
    assert connection.read_message() is NEED_MORE
    assert (pool.landing is ring, connection.reader.is_idle) == (True, True)


def test_a_single_row_after_our_close_is_dropped_and_after_the_end_not_looked_at() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    connection.close()
    ring = turn.take(pool, connection, wire.frame(TEXT, b"late"))
    assert (connection.reader.rows_waiting, connection.reader.holds(ring)) == (0, False)
    turn.take(pool, connection, wire.frame(CLOSE, wire.close_payload(1000)))
    assert connection.state is State.CLOSED
    turn.take(pool, connection, wire.frame(TEXT, b"later"))
    assert connection.reader.rows_waiting == 0


def test_one_row_is_taken_out_of_the_common_ring_and_more_may_come_behind_it() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    reader = connection.reader
    arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"one"), at=50)
    ring, (what, start, stop) = arrival.ring, arrival.row
    reader.take_row(ring, what, 50, start, stop)
    assert (reader.holds(ring), reader.is_idle, reader.rows_waiting) == (True, False, 1)
    assert (ring.tail, ring.head) == (50, stop)
    pool.common = None  # what an engine does with a ring that somebody keeps
    send(connection, wire.frame(BINARY, b"two"))
    assert [connection.read_message(), connection.read_message()] == ["one", b"two"]
    assert connection.read_message() is NEED_MORE
    assert (reader.holds(ring), reader.is_idle, pool.landing is ring) == (False, True, True)


def test_one_row_after_our_close_is_dropped_and_after_the_end_not_looked_at() -> None:
    """RFC 6455 5.5.1: our Close is out, and only the peer's counts."""
    pool = Pool(4096)
    connection = connect(pool)
    arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"late"))
    connection.close()
    what, start, stop = arrival.row
    connection.reader.take_row(arrival.ring, what, 0, start, stop)
    assert (connection.reader.rows_waiting, connection.reader.holds(arrival.ring)) == (0, False)
    connection = connect(pool)
    send(connection, wire.frame(TEXT, rsv=1))
    connection.reader.take_row(arrival.ring, what, 0, start, stop)
    assert (connection.reader.rows_waiting, connection.reader.holds(arrival.ring)) == (0, False)


# ---- somebody who hands messages on at once receives ----


def test_a_whole_frame_that_lands_alone_is_a_row_and_the_reader_stays_idle() -> None:
    pool = Pool(4096)
    connection = connect(pool, agreement=DEFLATE)
    reader = connection.reader
    for what, payload in ((TEXT, b"first"), (BINARY, b"second"), (TEXT, b"")):
        row = receive_row(connection, wire.frame(what, payload))
        assert isinstance(row, list)
        opcode, start, stop = row
        assert (opcode & 0x0F, reader.landing.memory[start:stop]) == (what, payload)
        assert (reader.is_idle, reader.rows_waiting, reader.holds(reader.landing)) == (True, 0, False)
    assert (rings(pool), reader.messages, reader.frames) == (1, 3, 3)
    assert connection.read_message() is NEED_MORE


@pytest.mark.parametrize(
    ("stream", "messages", "sent"),
    [
        (wire.frame(TEXT, b"1") + wire.frame(BINARY, b"2"), ["1", b"2"], []),
        (wire.frame(TEXT, b"1") + wire.frame(TEXT)[:1], ["1"], []),
        (wire.frame(TEXT, b"1") + wire.frame(PING, b"p"), ["1"], [PONG]),
        (wire.frame(PING, b"p"), [], [PONG]),
        (wire.frame(TEXT, b"never whole", fin=False), [], []),
        (wire.frame(BINARY, wire.deflate(b"inflated"), rsv=4), [b"inflated"], []),
    ],
    ids=["two", "one and a half", "with a Ping", "a Ping", "a fragment", "compressed"],
)
def test_what_is_no_whole_plain_frame_or_not_alone_waits_as_ever(
    stream: bytes, messages: list[str | bytes], sent: list[int]
) -> None:
    pool = Pool(4096)
    connection = connect(pool, agreement=DEFLATE)
    landing = connection.reader.landing
    assert receive_row(connection, stream) is True
    assert (connection.reader.holds(landing), connection.reader.is_idle, pool.landing) == (True, False, None)
    assert [connection.read_message() for _ in messages] == messages
    assert connection.read_message() is NEED_MORE
    assert [seen.opcode for seen in wire.parse(connection.bytes_to_send())] == sent


def test_half_a_frame_is_no_news_and_its_rest_comes_behind_it() -> None:
    connection = connect()
    stream = wire.frame(TEXT, b"in two halves")
    assert receive_row(connection, stream[:5]) is False
    assert not connection.reader.is_idle
    send(connection, stream[5:] + wire.frame(TEXT, b"next"))
    assert [connection.read_message(), connection.read_message()] == ["in two halves", "next"]
    assert (connection.read_message(), connection.reader.is_idle) == (NEED_MORE, True)


def test_the_last_fragment_that_lands_alone_ends_its_message() -> None:
    """RFC 6455 5.4: a row with FIN is a message only if it is the first as well."""
    connection = connect()
    one, two = wire.fragments(TEXT, [b"wh", b"ole"])
    assert receive_row(connection, one) is True
    assert connection.read_message() is NEED_MORE
    assert receive_row(connection, two) is True
    assert connection.read_message() == "whole"


def test_what_lands_after_our_close_is_no_row() -> None:
    """RFC 6455 5.5.1: data is dropped, and the peer's Close counts at once."""
    pool = Pool(4096)
    connection = connect(pool)
    connection.close()
    assert receive_row(connection, wire.frame(TEXT, b"late")) is True
    assert (connection.reader.rows_waiting, rings(pool)) == (0, 1)
    assert connection.read_message() is NEED_MORE
    assert receive_row(connection, wire.frame(CLOSE)) is True
    assert connection.state is State.CLOSED


@pytest.mark.parametrize(
    ("end", "code"), [(wire.frame(CLOSE, b"\x03\xe9"), 1001), (wire.frame(TEXT, b"\xff"), 1007)]
)
def test_an_end_that_lands_alone_takes_effect(end: bytes, code: int) -> None:
    connection = connect()
    assert receive_row(connection, end) is True
    assert (connection.reader.is_concluded, connection.bridge.ended) == (True, True)
    with pytest.raises(ConnectionClosed) as caught:
        connection.read_message()
    assert caught.value.code == code


# ---- limits, and the memory that an announcement costs ----


def test_a_message_over_the_limit_costs_no_memory() -> None:
    connection = connect(max_size=1 << 30)

    def announce() -> None:
        send(connection, wire.head(BINARY, (1 << 30) + 1))
        with pytest.raises(LimitExceeded, match="max_size=1073741824 bytes"):
            connection.read_frame()

    assert peak_of(announce) < 100_000


@pytest.mark.parametrize("fragmented", [False, True])
def test_memory_grows_with_the_bytes_that_have_arrived(fragmented: bool) -> None:
    connection = connect(max_size=1 << 40)
    buffer = PayloadBuffer()
    if fragmented:
        send(connection, wire.frame(BINARY, b"", fin=False))
    send(connection, wire.head(CONTINUATION if fragmented else BINARY, 1 << 40))
    arrived = 0
    while arrived < 2_000_000:
        assert connection.read_frame(buffer) is NEED_MORE
        send(
            connection, bytes(4000)
        )  # less than a ring: the first ones come before there is anything to land in
        arrived += 4000
        assert buffer.capacity <= 4 * arrived + 256 * 1024


def test_a_fault_in_a_large_text_is_found_as_it_lands() -> None:
    connection = connect()
    text = "ä".encode() * 30_000
    stream = wire.head(TEXT, 2 * len(text)) + text + b"\xc3"
    for at in range(0, len(stream), 1000):
        assert connection.read_frame() is NEED_MORE
        send(connection, stream[at : at + 1000])
    assert connection.read_frame() is NEED_MORE
    connection.get_buffer()[0] = ord("A")
    assert connection.reader.received(1) is True
    assert connection.state is State.FAILED  # whether or not anybody reads
    with pytest.raises(ProtocolError) as caught:
        connection.read_frame()
    assert caught.value.code == 1007


def test_receiving_nothing_changes_nothing() -> None:
    connection = connect()
    assert connection.receive_bytes(b"") == connection.reader.receive_bytes(memoryview(b"")) == 0
    assert connection.reader.is_idle
    send(connection, wire.frame(PING)[:1])
    assert connection.receive_bytes(b"") == 0
    send(connection, wire.frame(PING)[1:])
    assert connection.read_frame() is not NEED_MORE


def test_no_memory_for_the_rows_of_what_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    """C has gone by and unmasked it: it cannot be scanned again."""
    connection = connect()
    message = wire.frame(TEXT, b"lost")
    send(connection, message[:3])
    monkeypatch.setattr("zcws.inlet.copy_words", NoMemory())
    rest = message[3:] + wire.frame(TEXT, b"behind")

    def attempt() -> object:
        connection.receive_bytes(rest)
        return connection.read_message()

    fails(connection, attempt)


@pytest.mark.parametrize(
    ("end", "by_us"),
    [
        (lambda connection: connection.close(1000), True),
        (lambda connection: connection.fail(1011, "a mistake"), True),
        (lambda connection: send(connection, wire.frame(CLOSE)), False),
        (lambda connection: send(connection, wire.frame(3)), False),
        (lambda connection: None, False),
    ],
)
def test_who_has_closed_it(end: Callable[[Connection], object], by_us: bool) -> None:
    connection = connect()
    end(connection)
    assert connection.reader.is_closed_here is by_us
