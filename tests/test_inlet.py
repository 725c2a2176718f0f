"""The network's side of reading: what arrives, what takes effect and when."""

from __future__ import annotations

import gc
from collections.abc import Callable

import feed
import pytest
import turn
import wire
from peaks import peak_of
from receiver import DEFLATE, SMALL, NoMemory, connect, either, fails, read, receive_row, rings, send
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from zcws.buffer import PayloadBuffer
from zcws.closing import State
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, ConnectionClosedError, LimitExceeded, ProtocolError, StaleFrame
from zcws.frame import NEED_MORE
from zcws.kernel import ffi, lib
from zcws.pool import TABLE_ROWS, Pool

pytestmark = pytest.mark.usefixtures("every_view")


# ---- rings ----


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


def test_bytes_that_c_keeps_are_counted() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"whole"))
    connection.reader.state.kept = 5  # as zcws_turn notes it
    assert connection.reader.bytes_received == 2 + 5 + 5


@either
def test_a_ring_full_of_unread_frames_waits_for_the_reader(mirrored: bool) -> None:
    connection = connect(Pool(SMALL, mirrored=mirrored))
    stream = wire.frame(BINARY, bytes(SMALL // 8)) * 20
    used = connection.receive_bytes(stream)
    assert 0 < used <= SMALL
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
def test_what_was_not_full_has_room_whatever_is_read_before_the_network_asks(mirrored: bool) -> None:
    """The table has been read, and what lies behind its frames fills it again."""
    connection = connect(Pool(SMALL, mirrored=mirrored))
    reader = connection.reader
    assert connection.receive_bytes(wire.frame(BINARY) * SMALL) == SMALL
    assert reader.is_full
    for _ in range(TABLE_ROWS):
        assert connection.read_message() == b""
    assert not reader.is_full
    assert connection.read_message() == b""
    assert reader.rows_waiting
    assert reader.get_buffer()


@either
@pytest.mark.parametrize("size", [0, SMALL // 8], ids=["table", "ring"])
def test_who_is_closed_while_it_is_full_leaves_the_table_as_it_was(mirrored: bool, size: int) -> None:
    """By a finalizer, while another reader of the pool is about to take what it has scanned."""
    pool = Pool(4096, mirrored=mirrored)
    connection, other = connect(pool), connect(pool)
    connection.receive_bytes(wire.frame(BINARY, bytes(size)) * SMALL)
    assert connection.reader.is_full
    other.receive_bytes(wire.frame(BINARY, b"other"))
    before = pool.words.tobytes()
    connection.close()
    assert pool.words.tobytes() == before
    assert other.read_message() == b"other"


@pytest.mark.parametrize("last", [wire.frame(CLOSE), wire.frame(3)])
def test_an_end_that_comes_by_itself_waits_for_the_sends_that_wait(last: bytes) -> None:
    connection = connect()
    reader = connection.reader
    reader.answering = 2
    connection.receive_bytes(last)
    reader.answering = 1
    reader.answered()
    assert reader.is_ending
    assert not reader.is_concluded
    reader.answering = 0
    reader.answered()
    assert reader.is_concluded


def test_an_end_behind_data_waits_for_that_whatever_is_sent() -> None:
    connection = connect()
    reader = connection.reader
    reader.answering = 1
    connection.receive_bytes(wire.frame(TEXT, b"first") + wire.frame(CLOSE))
    reader.answering = 0
    reader.answered()
    assert not reader.is_concluded
    assert connection.read_message() == "first"
    with pytest.raises(ConnectionClosed):
        connection.read_message()


def test_received_into_with_the_memory_that_is_ones_own_to_release() -> None:
    """The ring's own view serves every connection of the pool."""
    connection = connect()
    for text in ("one", "two"):
        data = wire.frame(TEXT, text.encode())
        with connection.get_buffer() as room:
            room[: len(data)] = data
        connection.received(len(data))
        assert connection.read_message() == text


def test_a_ring_that_one_frame_fills_waits_for_the_next_read() -> None:
    connection = connect(Pool(4096, mirrored=False))
    send(connection, wire.frame(BINARY, bytes(len(connection.get_buffer()) - 4)))
    assert connection.read_frame() is not NEED_MORE
    assert connection.reader.is_full
    assert connection.read_frame() is NEED_MORE
    assert not connection.reader.is_full


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
        send(connection, wire.frame(CONTINUATION, bytes(SMALL // 4), fin=False))
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


def test_how_much_has_to_come_before_it_is_of_use() -> None:
    connection, buffer = connect(), PayloadBuffer()
    reader = connection.reader
    small, large = wire.frame(BINARY, bytes(1000)), wire.frame(BINARY, bytes(100_000))
    assert reader.lacking == 0
    send(connection, wire.frame(PING) + small[:1])
    assert reader.lacking == 0  # nobody knows
    send(connection, small[1:300])
    assert reader.lacking == len(small) - 300
    send(connection, small[300:] + large[:500])
    assert reader.lacking == 0  # a piece of it can be read
    read(connection)
    read(connection)
    assert connection.read_frame(buffer) is NEED_MORE
    send(connection, large[500:600])
    assert (reader.landing_in, reader.lacking) == (buffer, len(large) - 600)
    send(connection, large[600:] + small[:300])
    assert reader.lacking == len(small) - 300
    reader.stop(1011, "no more")
    assert reader.lacking == 0


def test_whoever_has_c_receive_is_told_where_the_rest_goes() -> None:
    buffer = PayloadBuffer()
    connection, rest = half_a_large_message(buffer)
    inlet = connection.reader
    while inlet.landing_in is not None:
        slot = inlet.rest_slot()
        assert slot is not None
        address, room = slot
        part, rest = rest[:room], rest[room:]
        ffi.memmove(address, part, len(part))
        assert inlet.landed(len(part), lib.zcws_land(inlet.state, address, len(part))) is not bool(rest)
    assert read(connection).to_bytes() == b"x" * 100_000


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


@pytest.mark.parametrize("when", ["alone", "before", "behind", "read", "all read", "closed"])
def test_half_a_frame_that_c_has_kept_is_taken_over(when: str) -> None:
    """Whoever is given the row before it may do what makes us be served by ourselves, before that row is ours."""
    pool = Pool(4096)
    connection = connect(pool)
    reader, second = connection.reader, wire.frame(BINARY, b"two")
    first = b"" if when == "alone" else wire.frame(TEXT, b"one")
    expected: list[str | bytes] = ["one", b"two"] if first else [b"two"]
    arrival = turn.arrive(pool, connection, first + second[:-1], at=50)
    kept, size, ring = ffi.from_buffer(second), len(second) - 1, arrival.ring
    if when == "closed":
        connection.close()
        expected = []
    if when in ("alone", "before", "closed"):
        reader.take_begun(kept, size)
    if first:
        what, start, stop = arrival.row
        reader.take_row(ring, what, 50, start, stop)
    if when in ("read", "all read"):
        assert connection.read_message() == expected.pop(0)
    if when == "all read":
        assert connection.read_message() is NEED_MORE
    if when in ("behind", "read", "all read"):
        reader.take_begun(kept, size)
    assert (reader.is_idle, reader.holds(ring)) == (False, when in ("before", "behind", "read"))
    assert reader.bytes_received == len(first) + size
    if reader.holds(ring):
        pool.common = None  # what an engine does with a ring that somebody keeps
    send(connection, second[-1:])
    assert [connection.read_message() for _ in expected] == expected
    assert when == "closed" or connection.read_message() is NEED_MORE
    assert reader.bytes_received == len(first + second)


def test_half_a_frame_comes_to_a_ring_that_has_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was before it has been read, and the ring could not be set aside for the view that was held of that."""
    monkeypatch.setattr("zcws.pool._RINGS_ASIDE", 0)
    monkeypatch.setattr("zcws.ring_frame._COPIED", -1)
    pool = Pool(4096)
    connection = connect(pool)
    reader, second = connection.reader, wire.frame(BINARY, b"two")
    arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"one") + second[:-1], at=50)
    what, start, stop = arrival.row
    reader.take_row(arrival.ring, what, 50, start, stop)
    view = reader.read_frame().payload
    assert reader.read_message() is NEED_MORE and reader.holds(arrival.ring)
    view.release()
    assert reader.get_buffer()
    reader.take_begun(ffi.from_buffer(second), len(second) - 1)
    pool.common = None
    send(connection, second[-1:])
    assert connection.read_message() == b"two"


def test_half_a_frame_is_taken_over_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(4096)
    connection = connect(pool)
    half = wire.frame(TEXT, b"one")[:-1]
    turn.arrive(pool, connection, half)
    monkeypatch.setattr("zcws.inlet.bytes", NoMemory(), raising=False)
    connection.reader.take_begun(ffi.from_buffer(half), len(half))
    monkeypatch.undo()
    with pytest.raises(ConnectionClosedError, match=r"1011 .*no memory"):
        connection.read_message()


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
        # Less than a ring: the first ones come before there is anything to land in.
        send(connection, bytes(4000))
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


@pytest.mark.parametrize("asked", ["get_buffer", "rest_slot"])
def test_no_memory_for_more_of_a_large_payload(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was raised to a driver that had nobody to tell it to: the peer saw its connection cut off."""
    connection = connect()
    send(connection, wire.head(BINARY, 500_000), bytes(1000))
    assert connection.read_frame() is NEED_MORE
    monkeypatch.setattr(PayloadBuffer, "slot", NoMemory())
    reader = connection.reader
    if asked == "rest_slot":
        assert reader.rest_slot() is None
        assert reader.received(0)
    else:
        send(connection, bytes(1000))  # there is room for what does not count any more
    (close,) = wire.parse(connection.bytes_to_send())
    assert (close.opcode, close.payload[:2]) == (wire.CLOSE, (1011).to_bytes(2, "big"))
    with pytest.raises(ConnectionClosedError, match="no memory") as caught:
        connection.read_frame()
    assert connection.limit is not None and caught.value.by == "us"


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
