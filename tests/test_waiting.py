"""Rows that wait: how many they are however they wait, in what order they come, and what more that comes costs them."""

from __future__ import annotations

from typing import Any

import pytest
import wire
from receiver import connect, either, send
from wire import CLOSE, PING, TEXT

from zcws.errors import ConnectionClosed
from zcws.frame import NEED_MORE
from zcws.pool import Pool

pytestmark = pytest.mark.usefixtures("every_view", "made")


def test_rows_waiting_counts_frames_however_they_wait() -> None:
    connection = connect()
    assert connection.reader.rows_waiting == 0
    send(connection, wire.frame(TEXT, b"x") * 3)
    assert connection.reader.rows_waiting == 3
    connection.read_message()
    assert connection.reader.rows_waiting == 2
    send(connection, wire.frame(TEXT, b"x"))
    assert connection.reader.rows_waiting == 3


@pytest.mark.parametrize("count", [1, 3, 4, 40, 400], ids=lambda count: f"{count} rows")
@pytest.mark.parametrize("rest", [b"", wire.frame(PING)], ids=["alike", "not alike"])
def test_they_are_counted_and_come_in_order_whatever_shape_they_have(count: int, rest: bytes) -> None:
    connection = connect(Pool(65536))
    reader = connection.reader
    send(connection, b"".join(wire.frame(TEXT, b"%d" % i) for i in range(count)) + rest)
    for i in range(count):
        assert reader.rows_waiting == count - i + bool(rest)
        assert connection.read_message() == str(i)
    assert connection.read_message() is NEED_MORE
    assert reader.rows_waiting == 0


def test_those_that_were_dropped_are_not_read() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"x") * 9)
    assert connection.read_message() == "x"
    connection.reader.give_up()
    assert (connection.reader.rows_waiting, connection.read_message()) == (0, NEED_MORE)


@either
def test_what_waits_is_not_touched_by_what_comes(mirrored: bool) -> None:
    """A peer chooses how much waits where nobody reads, and in how many pieces more of it comes: that was quadratic."""
    connection = connect(Pool(65536, mirrored=mirrored))
    reader = connection.reader
    for i in range(2):
        send(connection, wire.frame(TEXT, b"%d" % i))
    waiting = reader._batch
    for i in range(2, 1000):
        send(connection, wire.frame(TEXT, b"%d" % i))
    assert reader._batch is waiting
    assert [connection.read_message() for _ in range(1000)] == [str(i) for i in range(1000)]
    assert connection.read_message() is NEED_MORE
    assert reader._columns is None


@either
def test_what_has_been_read_is_let_go_of_though_more_comes(mirrored: bool) -> None:
    connection = connect(Pool(65536, mirrored=mirrored))
    reader, sent, read = connection.reader, 0, 0
    for _ in range(1000):
        for _ in range(3 if sent < 90 else 2):
            send(connection, wire.frame(TEXT, b"%d" % sent))
            sent += 1
        for _ in range(2):
            assert connection.read_message() == str(read)
            read += 1
        assert reader.rows_waiting == sent - read
        assert reader._columns is None or len(reader._columns[1]) <= 2 * reader.rows_waiting + 3


def test_a_close_behind_data_that_came_in_pieces_waits_for_it() -> None:
    connection = connect()
    for i in range(3):
        send(connection, wire.frame(TEXT, b"%d" % i))
    send(connection, wire.frame(CLOSE))
    assert not connection.reader.is_concluded
    assert [connection.read_message() for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(ConnectionClosed):
        connection.read_message()
    assert connection.reader._columns is None


@pytest.mark.parametrize("way", ["read_message", "read_batch", "read_frame"])
def test_more_that_comes_behind_many_that_are_alike_and_unread_waits_with_them(way: str) -> None:
    connection = connect()
    for first in (0, 6):
        send(connection, b"".join(wire.frame(TEXT, b"%d" % i) for i in range(first, first + 6)))
    found: list[Any] = []
    while (read := getattr(connection.reader, way)()) is not NEED_MORE:
        found += [frame.text for frame in read] if way == "read_batch" else [getattr(read, "text", read)]
    assert found == [str(i) for i in range(12)]
    assert connection.reader._alike is None
