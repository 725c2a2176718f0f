"""The ring of one connection: leased, given back, exchanged for a wide one, left to those who hold views of it."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from itertools import count
from types import CodeType
from typing import Any

import feed
import pytest
import turn
import wire
from pythons import needs_cpython
from receiver import connect, either, read, receive_row, rings, send
from wire import BINARY, CLOSE, TEXT

from zcws.connection import Connection
from zcws.errors import ConnectionClosedError, StaleFrame
from zcws.frame import NEED_MORE
from zcws.pool import _SPARE_RINGS, Pool
from zcws.ring import Ring
from zcws.ring_frame import NO_RING, Lease, RingFrame

pytestmark = pytest.mark.usefixtures("every_view")


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


def count_rings(monkeypatch: pytest.MonkeyPatch) -> set[Ring]:
    """All rings that are made from now on, for as long as it is held."""
    made, new_ring = set[Ring](), Pool._new_ring

    def count(*args: Any, **kind: Any) -> Ring:
        ring = new_ring(*args, **kind)
        made.add(ring)
        return ring

    monkeypatch.setattr(Pool, "_new_ring", count)
    return made


@either
@pytest.mark.parametrize("size", [40, 3000])
@pytest.mark.parametrize("begins", ["alone", "with a byte", "behind another", "together with others"])
def test_many_who_have_half_a_frame_share_few_rings(
    mirrored: bool, size: int, begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each had a ring mapped for every message, one of 50 bytes in two halves would cost 67 us of CPU and not 24."""
    made, pool = count_rings(monkeypatch), Pool(32_768, mirrored=mirrored)
    connections = [connect(pool) for _ in range(4 * _SPARE_RINGS)]
    payload = b"x" * (size - 4) + b"abcd"
    frame = wire.frame(BINARY, payload)
    cut = 1 if begins == "with a byte" else len(frame) - 30
    ahead = wire.frame(TEXT, b"ahead" * 4000) if begins == "behind another" else b""
    for _ in range(3):
        for connection in connections:
            assert connection.read_message() is NEED_MORE
            if begins == "together with others":
                if turn.take(pool, connection, frame[:cut], at=100) is connection.reader._ring:
                    pool.common = None  # what the engine does then
            else:
                send(connection, ahead + frame[:cut])
            if ahead:
                assert read(connection).text == "ahead" * 4000
            assert connection.read_message() is NEED_MORE
            assert connection.reader.is_idle is False
            assert connection.reader._ring or connection.reader._lease.ring is NO_RING
        for connection in connections:
            before = connection.reader.bytes_received
            send(connection, frame[cut:-10])
            assert connection.reader.bytes_received == before + len(frame) - 10 - cut
            send(connection, frame[-10:])
            assert connection.read_message() == payload
            assert connection.read_message() is NEED_MORE
            assert connection.reader.is_idle
    assert len(made) <= _SPARE_RINGS + 3


def short_pool(capacity: int = 4096) -> tuple[Pool, list[Connection]]:
    """A pool that has made many rings and has none at hand, and those who have them."""
    pool = Pool(capacity)
    crowd = [connect(pool) for _ in range(_SPARE_RINGS + 1)]
    for connection in crowd:
        send(connection, wire.frame(TEXT, b"waits"))
    assert pool.is_short
    return pool, crowd


@pytest.mark.parametrize("ahead", [b"", wire.frame(TEXT, b"ahead")], ids=["alone", "behind another"])
def test_half_a_frame_that_came_together_with_others_is_stashed_at_once(ahead: bytes) -> None:
    """Whether or not anybody reads, or the next one would have another ring. What can be read stays in its own."""
    pool, _crowd = short_pool()
    one, two = connect(pool), connect(pool)
    for at, connection in enumerate((one, two)):
        ring = turn.take(pool, connection, ahead + wire.frame(BINARY, b"%d" % at)[:2], at=100 * at)
        assert connection.reader.holds(ring) is bool(ahead)
        if ahead:
            pool.common = None  # what the engine does then
    for at, connection in enumerate((one, two)):
        if ahead:
            assert connection.read_message() == "ahead"
            assert connection.read_message() is NEED_MORE
        send(connection, b"%d" % at)
        assert connection.read_message() == b"%d" % at


def test_half_a_frame_behind_a_view_that_is_held_keeps_its_ring() -> None:
    pool, crowd = short_pool()
    connection = connect(pool)
    send(connection, wire.frame(BINARY, b"held"), wire.frame(BINARY, b"half")[:3])
    view = read(connection).payload
    assert connection.read_frame() is NEED_MORE
    for other in crowd:
        for _ in range(9):
            send(other, wire.frame(BINARY, bytes(300)))
            while other.read_message() is not NEED_MORE:
                pass
    assert view == b"held"
    send(connection, b"alf")
    assert connection.read_message() == b"half"


def test_the_beginning_of_a_frame_that_only_a_wide_ring_takes_stays_there() -> None:
    pool = Pool(65536)
    crowd = [connect(pool) for _ in range(2 * _SPARE_RINGS)]
    connection = pouring(pool)
    for other in crowd:
        send(other, large_frames(20_000))
    large = wire.frame(BINARY, b"large" * 40_000)
    send(connection, wire.frame(BINARY, bytes(696)) * 100 + large[:100])
    assert drink(connection) == [bytes(696)] * 100
    assert not connection.reader.pours
    taken = [pool.lease_wide() for _ in range(4)]
    assert (pool.is_short, taken[-1]) == (True, None)
    assert pour(connection, large[100:])[0] == [b"large" * 40_000]


def test_what_was_stashed_is_counted_at_the_end_and_streamed() -> None:
    pool = Pool(4096)
    connections = [connect(pool) for _ in range(2 * _SPARE_RINGS)]
    frame = wire.frame(TEXT, b"x" * 90 + b"abcdefghij")
    for connection in connections:
        send(connection, frame[:-10])
    *_, streams, ends = connections
    assert (streams.reader._ring, ends.reader._ring) == (None, None)
    streams.reader.begin_stream()
    assert streams.reader.read_piece() == ("x" * 90, False)
    send(streams, frame[-10:])
    assert streams.reader.read_piece() == ("abcdefghij", True)
    ends.receive_eof()
    with pytest.raises(ConnectionClosedError):
        ends.read_message()
    assert ends.reader.bytes_received == len(frame) - 10


def test_what_was_stashed_is_not_taken_up_after_the_end() -> None:
    pool, _crowd = short_pool()
    connection = connect(pool)
    send(connection, wire.frame(TEXT, b"half")[:3])
    connection.fail(1011, "enough")
    with pytest.raises(ConnectionClosedError):
        connection.read_message()
    connection.get_buffer()
    assert (connection.reader._ring, connection.reader.bytes_received) == (None, 3)


@either
def test_a_view_keeps_nothing_that_arrived_later(mirrored: bool) -> None:
    """Each arrival has an exporter of its own, which dies with the views of what came in it."""
    connection = connect(Pool(4096, mirrored=mirrored))
    views = []
    for fill in (b"a", b"b"):
        send(connection, wire.frame(BINARY, fill * 500))
        views.append(read(connection).payload)
    assert views[0].obj is not views[1].obj
    assert views == [b"a" * 500, b"b" * 500]


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


@needs_cpython("on PyPy the view goes with the next collection, and the ring with it")
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


LOOKS: dict[str, Callable[[Any], Any]] = {
    "payload": lambda frame: frame.payload,
    "keep": lambda frame: frame._keep(),
}


@contextlib.contextmanager
def interrupted(step: int, act: Callable[[], object], *only: CodeType) -> Iterator[None]:
    """Inside of this `act` is called before bytecode number `step` of zcws; of this code alone, where some is given."""
    steps = count()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if (only and frame.f_code not in only) or not frame.f_globals["__name__"].startswith("zcws"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(steps) == step:
            sys.settrace(None)
            act()
        return trace

    # CPython 3.12 asks when tracing begins whether anybody has said so.
    sys._getframe().f_trace_opcodes = True
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def read_over(connection: Connection) -> None:
    """So much that every ring which nobody holds has been written to."""
    for _ in range(9):
        assert connection.read_frame() is NEED_MORE
        send(connection, wire.frame(BINARY, b"z" * 20_000))
        connection.read_frame()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("ring", ["the same ring", "another"])
def test_a_frame_that_is_asked_too_late_shows_nothing_to_the_next_read(look: str, ring: str) -> None:
    """By another thread, which may be held up between any two steps: its view was given to those of the next reads, in
    whatever ring, and guarded nothing of theirs: the reads after them wrote over what was held."""
    looks = Lease.open.__code__, Lease.seen.__code__, Ring.export.__code__
    for step in count():
        connection = connect(Pool(65536))
        send(connection, wire.frame(BINARY, b"a" * 20_000))
        late, held, kept = connection.read_frame(), list[Any](), list[Any]()

        def read_on() -> None:
            if ring == "another":
                kept.append(LOOKS[look](late))  # noqa: B023
            for byte in b"bcd":
                assert connection.read_frame() is NEED_MORE  # noqa: B023
                send(connection, wire.frame(BINARY, bytes([byte]) * 20_000))  # noqa: B023
                held.append(LOOKS[look](connection.read_frame()))  # noqa: B023

        with interrupted(step, read_on, *looks), contextlib.suppress(StaleFrame):
            kept.append(LOOKS[look](late))
        read_over(connection)
        assert [bytes(view) for view in held] == [bytes([byte]) * 20_000 for byte in b"bcd"[: len(held)]]
        assert all(view == b"a" * 20_000 for view in kept)
        if not held:
            break
    assert step > 20


@pytest.mark.parametrize("look", LOOKS)
def test_a_frame_that_two_threads_ask_at_once(look: str) -> None:
    """One of them between any two steps of the other, whose view was not known of: its bytes were written over."""
    for step in count():
        connection = connect(Pool(65536))
        send(connection, wire.frame(BINARY, b"a" * 20_000))
        asked, others = connection.read_frame(), list[bytes]()

        def look_too() -> None:
            others.append(bytes(LOOKS[look](asked)))  # noqa: B023

        with interrupted(step, look_too):
            view = LOOKS[look](asked)
        read_over(connection)
        assert bytes(view) == b"a" * 20_000
        if not others:
            break
        assert others == [b"a" * 20_000]
    assert step > 20


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
    pour(connection, wire.frame(BINARY, bytes(65536 - 10)) * 8)
    assert len(connection.get_buffer()) == connection.reader.pool.wide_capacity


def test_behind_one_that_fits_a_wide_ring_the_next_may_land_whole() -> None:
    connection = connect(Pool(65536))
    assert pour(connection, wire.frame(BINARY, b"x" * 200_000))[0] == [b"x" * 200_000]
    assert len(connection.get_buffer()) == connection.reader.pool.wide_capacity


def test_who_moves_from_a_wide_ring_to_another_waits_for_what_fits_that() -> None:
    """Its views are held, there are no more wide ones, and a frame has begun that no ordinary one takes."""
    pool = Pool(65536)
    connection = pouring(pool)
    taken = [pool.lease_wide() for _ in range(3)]
    large = wire.frame(BINARY, b"large" * 40_000)
    send(connection, large_frames(8 * 30_004) + large[:100])
    view = read(connection).payload
    assert len(drink(connection)) == 7
    connection.get_buffer()
    assert None not in taken and not connection.reader._ring.is_wide  # type: ignore[union-attr]
    assert connection.reader.state.fit == 65536
    assert pour(connection, large[100:])[0] == [b"large" * 40_000]
    assert view == b"large" * 6000


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


class _NoMemory(list[Any]):
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


@needs_cpython("on PyPy a view goes with the next collection, and its ring waits for that")
@either
@pytest.mark.parametrize("size", [100, 1000, 20_000, 50_000])
@pytest.mark.parametrize("looks_at_once", [True, False])
def test_whoever_looks_until_the_next_has_come_takes_turns_with_few_rings(
    mirrored: bool, size: int, looks_at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `payload = (await ws.read_frame()).payload` does in a loop. Each read had a ring of its own, mapped for it."""
    made, pool = count_rings(monkeypatch), Pool(65536, mirrored=mirrored)
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
def test_whoever_holds_a_view_while_all_room_is_filled_pours(mirrored: bool) -> None:
    """Nearly all who read views: `frame` is still the last one when the next is waited for."""
    connection = connect(Pool(65536, mirrored=mirrored))
    send(connection, wire.frame(BINARY, b"held" * 5000) + large_frames(5_000))
    frame = connection.read_frame()
    assert frame is not NEED_MORE
    view = frame.payload
    assert connection.read_frame() is NEED_MORE
    room = len(connection.get_buffer())
    assert room < 65536
    stream = large_frames(30_004 * 8)
    send(connection, stream[5_000 : 5_000 + room])
    messages = drink(connection)
    assert len(connection.get_buffer()) > 65536
    send(connection, stream[5_000 + room :])
    assert messages + drink(connection) == [b"large" * 6000] * 8
    assert view == b"held" * 5000


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
