"""Control frames that wait: answered once, kept for who reads frames, forgotten where nobody does."""

from __future__ import annotations

from typing import Any

import pytest
import wire
from receiver import DEFLATE, connect, either, hold_many, rings, send
from wire import BINARY, CLOSE, PING, PONG, TEXT

from zcws.buffer import PayloadBuffer
from zcws.closing import State
from zcws.connection import Connection
from zcws.errors import ConnectionClosed
from zcws.frame import NEED_MORE, PayloadOrigin
from zcws.pool import TABLE_ROWS, Pool
from zcws.reader import Reader

pytestmark = pytest.mark.usefixtures("every_view")


def pings(first: int, last: int) -> bytes:
    return b"".join(wire.frame(PING, b"%d" % i) for i in range(first, last))


def seen(connection: Connection) -> list[bytes]:
    """The payloads of all frames that wait."""
    payloads = []
    while (frame := connection.read_frame()) is not NEED_MORE:
        payloads.append(frame.to_bytes())
    return payloads


def forget(reader: Reader) -> None:
    """Everybody who waits has had what arrived, and nothing of it is left for later."""
    assert reader.forget_controls() is False


@either
def test_few_controls_wait_for_whoever_reads_frames(mirrored: bool) -> None:
    connection = connect(Pool(4096, mirrored=mirrored))
    expected = [b"%d" % i for i in range(64)]
    for _ in range(3):
        for i in range(64):
            send(connection, pings(i, i + 1))
            forget(connection.reader)
        assert connection.reader.rows_waiting == 64
        assert seen(connection) == expected


@either
def test_many_controls_are_forgotten_and_so_are_all_that_follow(mirrored: bool) -> None:
    pool = Pool(4096, mirrored=mirrored)
    connection = connect(pool)
    reader = connection.reader
    send(connection, pings(0, 65))
    assert (reader.rows_waiting, reader.is_idle) == (65, False)
    forget(reader)
    assert (reader.rows_waiting, reader.rows_read, reader.is_idle, rings(pool)) == (0, 0, True, 1)
    send(connection, pings(65, 66))
    forget(reader)
    assert (reader.rows_waiting, reader.rows_read, reader.is_idle, rings(pool)) == (0, 0, True, 1)
    forget(reader)  # there are none

    # Whoever asks for frames has them again.
    def show() -> bool:
        return reader.show_waiting(lambda owner, frame: None, None, lambda error: None, 100, 1 << 22)

    for ask, nothing in ((connection.read_frame, NEED_MORE), (reader.read_batch, NEED_MORE), (show, False)):
        assert ask() is nothing
        send(connection, pings(66, 68))
        forget(reader)
        assert seen(connection) == [b"66", b"67"]
        send(connection, pings(0, 65))
        forget(reader)
        assert reader.rows_waiting == 65  # two were read just now
        send(connection, pings(65, 129))
        forget(reader)
        assert reader.rows_waiting == 129
        send(connection, pings(129, 130))
        forget(reader)
        assert reader.rows_waiting == 0


@either
@pytest.mark.parametrize("count", [65, 300, 1000])
def test_whoever_reads_frame_by_frame_is_given_all_of_them(mirrored: bool, count: int) -> None:
    """Others run between two reads, and more arrives: those that waited were dropped under a reader that was busy."""
    connection = connect(Pool(mirrored=mirrored))
    send(connection, wire.frame(PING, b"first") + pings(0, count))
    for i in range(-1, count):
        frame = connection.read_frame()
        assert frame is not NEED_MORE and frame.to_bytes() == (b"first" if i < 0 else b"%d" % i)
        forget(connection.reader)
        send(connection, wire.frame(PING, b"late"))
        forget(connection.reader)


@pytest.mark.parametrize("read", [True, False], ids=["read", "wait"])
def test_only_those_that_wait_are_counted(read: bool) -> None:
    """Not those that have been read, nor data."""
    connection = connect(Pool())
    send(connection, pings(0, 40) + wire.frame(TEXT, b"data") * 100)
    for _ in range(60 if read else 0):
        connection.read_frame()
    send(connection, pings(40, 64 if not read else 80))
    forget(connection.reader)
    assert seen(connection)[-24:] == [
        b"%d" % i for i in range(40 if not read else 56, 64 if not read else 80)
    ]


def test_those_that_were_read_before_are_not_counted_with_those_that_wait() -> None:
    connection = connect(Pool())
    send(connection, pings(0, 60))
    assert len(seen(connection)) == 60
    for first, last in ((0, 10), (10, 75)):
        send(connection, pings(first, last))
        forget(connection.reader)
    assert connection.reader.rows_waiting == 75


def test_the_end_of_the_stream_is_not_slept_through() -> None:
    """Bytes behind a table's last row are scanned by whoever reads; then the peer ends the stream."""
    connection = connect(Pool())
    send(connection, pings(0, 65))
    forget(connection.reader)
    assert not connection.reader.keeps_controls
    send(connection, wire.frame(TEXT, b"x") * TABLE_ROWS + wire.frame(TEXT, b"y") + pings(0, 65))
    forget(connection.reader)
    while connection.read_message() != "y":
        pass
    connection.reader.receive_eof(later=True)
    forget(connection.reader)
    assert not connection.reader.is_idle
    with pytest.raises(ConnectionClosed):
        connection.read_message()


def test_bytes_of_half_a_frame_stay_counted() -> None:
    connection = connect(Pool(4096))
    send(connection, wire.frame(TEXT, b"whole") + wire.frame(BINARY, bytes(1000))[:-1])
    connection.receive_eof()
    assert connection.read_message() == "whole"
    with pytest.raises(ConnectionClosed):
        connection.read_message()
    assert (connection.reader._ring, connection.reader.bytes_received) == (None, 7 + 4 + 999)


def test_those_that_a_reader_has_to_answer_are_kept() -> None:
    """After a split a Ping is answered when its frame is read."""
    connection = connect(Pool())
    connection.reader.defer_replies()
    send(connection, pings(0, 70))
    forget(connection.reader)
    assert connection.reader.rows_waiting == 70
    assert len(seen(connection)) == 70


@either
@pytest.mark.parametrize(
    "rest", [b"", b"\x89", wire.frame(TEXT, b"half")[:-2]], ids=["nothing", "a byte", "half"]
)
def test_data_among_them_stays(mirrored: bool, rest: bytes) -> None:
    """And what arrives behind is read on from where it stands now."""
    connection = connect(Pool(4096, mirrored=mirrored))
    reader = connection.reader
    whole = {b"": b"", b"\x89": wire.frame(PING, b"")}.get(rest, wire.frame(TEXT, b"half"))
    send(connection, wire.frame(TEXT, b"first"))
    for number in range(50):
        text = wire.frame(TEXT, b"%d" % number)
        send(connection, text + pings(0, 70) + rest)
        forget(reader)
        assert reader.rows_waiting == number + 2 + (number if b"half" in whole else 0)
        assert reader.rows_read == 0
        send(connection, whole[len(rest) :])
    forget(reader)
    got = []
    while (message := connection.read_message()) is not NEED_MORE:
        got.append(message)
    extra = ["half"] if b"half" in whole else []
    assert got == ["first", *(text for number in range(50) for text in (str(number), *extra))]


#: What a program has of its last read while it does not come back.
KEPT = {
    "a frame": lambda reader: reader.read_frame(),
    "a batch": lambda reader: reader.read_batch(),
    "a frame in a buffer": lambda reader: reader.read_frame(PayloadBuffer(), PayloadOrigin.CONSISTENT),
    "a frame in pieces": lambda reader: reader.read_frame(PayloadBuffer()),
}


@either
@pytest.mark.parametrize("waiting", [[], [b"waits"]], ids=["nothing waits", "data waits"])
@pytest.mark.parametrize("hold", [False, True], ids=["", "its view"])
@pytest.mark.parametrize("kept", KEPT)
def test_whoever_has_read_once_is_heard_for_ever(
    kept: str, hold: bool, waiting: list[bytes], mirrored: bool
) -> None:
    """It keeps its ring, but not what arrives; what it looks at, or holds, stays as it is."""
    connection = connect(Pool(4096, mirrored=mirrored), agreement=DEFLATE)
    first = [wire.frame(TEXT, b"first")]
    if kept == "a frame in pieces":
        # It lies elsewhere; a frame before it lies in the ring, and may be held.
        send(connection, wire.frame(BINARY, b"zero") + wire.frame(TEXT, wire.deflate(b"first"), rsv=4))
        zero = connection.read_frame()
        assert zero is not NEED_MORE
        views = [(zero.payload, b"zero")] if hold else []
    else:
        send(connection, *first)
        views = []
    got = KEPT[kept](connection.reader)
    frame = got[0] if kept == "a batch" else got
    if hold and kept != "a frame in pieces":
        views.append((frame.payload, b"first"))
    send(connection, *(wire.frame(BINARY, payload) for payload in waiting))
    is_bounded = not (hold and kept == "a frame in pieces" and not waiting)
    send(connection, pings(0, 70))
    forget(connection.reader)  # it may come back at once
    for i in range(200 if is_bounded else 5):
        send(connection, pings(i, i + 70))
        forget(connection.reader)
        assert connection.reader.rows_waiting == len(waiting)
        assert frame.to_bytes() == b"first"
        assert all(view == payload for view, payload in views)
    assert seen(connection) == waiting
    assert frame.is_stale
    assert all(view == payload for view, payload in views)


@pytest.mark.parametrize("between", [b"", wire.frame(TEXT, b"data")], ids=["pings", "data too"])
def test_more_of_them_than_a_table_holds(between: bytes) -> None:
    """The rest of them has not been scanned yet; the peer's Close may be among it."""
    connection = connect(Pool())
    send(connection, (pings(0, 700) + between) * 5 + wire.frame(CLOSE))
    assert connection.state is State.OPEN
    forget(connection.reader)
    assert connection.reader.rows_waiting == 1 + 5 * bool(between)
    assert connection.reader.is_ending
    assert [connection.read_message() for _ in range(5 * bool(between))] == ["data"] * 5 * bool(between)
    with pytest.raises(ConnectionClosed):
        connection.read_message()


def test_a_table_full_of_data_is_read_first() -> None:
    connection = connect(Pool())
    send(connection, pings(0, 70) + wire.frame(TEXT, b"") * 3 * TABLE_ROWS)
    forget(connection.reader)
    assert TABLE_ROWS <= connection.reader.rows_waiting < 2 * TABLE_ROWS
    for _ in range(3 * TABLE_ROWS):
        assert connection.read_message() == ""
    assert connection.read_message() is NEED_MORE


def test_a_reader_that_is_not_eager_answers_when_the_ping_is_read() -> None:
    for read in ("read_frame", "read_batch", "read_message"):
        connection = connect()
        connection.reader.eager = False
        send(connection, wire.frame(PING, b"later"))
        assert connection.bytes_to_send() == b""
        getattr(connection.reader, read)()
        assert [seen.payload for seen in wire.parse(connection.bytes_to_send())] == [b"later"]


@pytest.mark.parametrize("is_eager", [True, False])
def test_a_pong_is_never_answered(is_eager: bool) -> None:
    connection = connect(Pool(4096))
    if not is_eager:
        connection.reader.defer_replies()
    send(connection, wire.frame(PONG, b"heartbeat"))
    assert seen(connection) == [b"heartbeat"]
    assert not connection.bridge.slot and connection.bytes_to_send() == b""


@either
def test_few_controls_among_much_data_are_not_looked_for(
    mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look costs what waits, which is the peer's choice: for each of its Pings that was 20 ms."""
    connection = connect(Pool(65536, mirrored=mirrored))
    reader, looks = connection.reader, list[int]()
    look = type(reader)._without_controls

    def counted(self: Any) -> list[int]:
        looks.append(1)
        return look(self)

    monkeypatch.setattr(type(reader), "_without_controls", counted)
    for _ in range(8):
        send(connection, wire.frame(TEXT, b"") * 1000)
    for i in range(3000):
        send(connection, pings(i, i + 1))
        forget(reader)
    assert len(looks) == 2
    assert reader.rows_waiting < 9000


@pytest.mark.parametrize("count", [0, 1])
def test_what_is_held_stays_where_a_landed_message_is_all_that_waits(count: int) -> None:
    """Its row lies nowhere and ends at 0: what came behind it went to the beginning of a ring whose views are held."""
    pool = Pool(4096)
    connection = connect(pool)
    send(connection, wire.frame(BINARY, b"held" * 100))
    view = connection.read_frame().payload
    held = hold_many(pool)  # only now: or it were a copy
    message = b"landed" * 10_000
    landed = wire.frame(BINARY, message)
    send(connection, landed[:500])
    assert connection.read_frame() is NEED_MORE
    assert connection.receive_bytes(landed[500:]) == len(landed) - 500
    for i in range(140):
        send(connection, pings(i, i + 1))
        forget(connection.reader)
    for _ in range(count):
        send(connection, wire.frame(BINARY, b"late" * 100))
    assert bytes(view) == b"held" * 100
    assert connection.read_message() == message
    assert [connection.read_message() for _ in range(count)] == [b"late" * 100] * count
    del held


@pytest.mark.parametrize("cut", [0, 1])
def test_a_close_behind_what_nobody_reads_is_heard_while_a_view_is_held(cut: int) -> None:
    """What is looked at lies elsewhere, and no more rings can be set aside: this one filled with Pongs."""
    pool, buffer = Pool(4096), PayloadBuffer()
    connection = connect(pool)
    send(connection, wire.frame(BINARY, b"held" * 100))
    frame: Any = connection.read_frame()
    view = frame.payload
    held = hold_many(pool)  # only now: or it were a copy
    message = b"landed" * 10_000
    landed = wire.frame(BINARY, message)
    send(connection, landed[:500])
    assert connection.read_frame(buffer) is NEED_MORE
    send(connection, landed[500:])
    frame = connection.read_frame(buffer)
    close = wire.frame(CLOSE, wire.close_payload(1000))
    for i in range(2000):
        pong = wire.frame(PONG, b"%d" % i)
        send(connection, pong[cut if i else 0 :] + pong[:cut])  # they begin alike
        forget(connection.reader)
    send(connection, pong[cut:] * cut, close)
    assert connection.state is State.CLOSED
    assert frame.to_bytes() == message and bytes(view) == b"held" * 100
    del held


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("streams", [False, True])
def test_where_others_wait_a_read_gives_way_after_a_table_of_pings(streams: bool, count: int) -> None:
    connection = connect(Pool(1 << 16))
    reader = connection.reader
    data = wire.frame(PING) * count * TABLE_ROWS + wire.frame(TEXT, b"the end")
    if streams:
        reader.begin_stream()
    read: Any = reader.read_piece if streams else reader.read_message
    expected = ("the end", True) if streams else "the end"

    send(connection, data)  # nobody else waits: it finds the message in one go
    assert (read(), reader.gives_way) == (expected, False)
    if streams:
        reader.begin_stream()
    reader.is_shared = True
    send(connection, data)
    ways = 0
    while (result := read()) is NEED_MORE:
        assert reader.gives_way
        ways += 1
    # The first table was found when the bytes arrived; and where the message is in the next, that is read as well.
    assert (result, ways) == (expected, max(count - 1, 0))
    assert (read(), reader.gives_way, reader.is_idle) == (NEED_MORE, False, True)


@either
def test_where_others_wait_pings_are_forgotten_a_table_at_a_time(mirrored: bool) -> None:
    connection = connect(Pool(1 << 16, mirrored=mirrored))
    reader = connection.reader
    reader.is_shared = True
    reader.look_on()  # there is nothing
    send(connection, wire.frame(PING) * (3 * TABLE_ROWS + 1))
    for tables in range(1, 4):
        assert reader.frames == tables * TABLE_ROWS
        assert reader.forget_controls() is True
        assert reader.rows_waiting == 0
        reader.look_on()
    assert reader.frames == 3 * TABLE_ROWS + 1
    forget(reader)
    assert reader.is_idle

    # Whoever reads meanwhile gave way, and others have looked on since: now there is nothing left to give way for.
    send(connection, wire.frame(PING) * (2 * TABLE_ROWS + 1))
    assert (connection.read_message(), reader.gives_way) == (NEED_MORE, True)
    reader.look_on()
    assert (connection.read_message(), reader.gives_way) == (NEED_MORE, False)

    send(connection, wire.frame(TEXT, b"a") * (TABLE_ROWS + 1))
    reader.look_on()  # many wait for whoever reads: no more are found
    assert (reader.rows_waiting, reader.forget_controls()) == (TABLE_ROWS, False)
    assert [connection.read_message() for _ in range(TABLE_ROWS + 1)] == ["a"] * (TABLE_ROWS + 1)
