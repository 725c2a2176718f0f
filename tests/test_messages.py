"""A reader that shows messages. What a driver does with it: aio/test_callbacks.py, whose tests run with both."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest
import turn
import wire
from hypothesis import given
from hypothesis import strategies as st
from peaks import peak_of
from receiver import DEFLATE, fails, receive_row, send
from receiver import connect as connect_any
from wire import BINARY, CLOSE, CONTINUATION, PING, TEXT

from zcws.connection import Connection
from zcws.errors import ConnectionClosedOK
from zcws.frame import DECODE_IN_PLACE, NEED_MORE
from zcws.messages import MessageReader
from zcws.pool import Pool

pytestmark = pytest.mark.usefixtures("made")

Message = Any  # str or bytes


def connect(pool: Pool | None = None, **settings: Any) -> Connection:
    return connect_any(pool, shows_messages=True, **settings)


def raised(error: BaseException) -> None:
    raise error


def show_waiting(
    connection: Connection, look: Callable[[Message], object], most: int = 100, inflated: int = 1 << 22
) -> bool:
    return connection.reader.show_waiting(lambda owner, message: look(message), None, raised, most, inflated)


def show_few(connection: Connection, look: Callable[[Message], object], arrival: turn.Arrival) -> int:
    return connection.reader.show_few(
        lambda owner, message: look(message), None, raised, arrival.ring, arrival.begin, arrival.rows
    )


def test_only_who_asks_for_it_has_one() -> None:
    assert type(connect().reader) is MessageReader
    assert type(connect_any().reader) is not MessageReader


# ---- alone ----


@pytest.mark.parametrize("text", ["", "né", "é" * DECODE_IN_PLACE], ids=len)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("where", ["common", "landing", "walked"])
def test_one_that_came_alone(text: str, opcode: int, where: str) -> None:
    """Its ring is free when the function is called, which may receive for others."""
    pool, payload = Pool(65536), text.encode()
    connection = connect(pool)
    if where == "landing":
        row = receive_row(connection, wire.frame(opcode, payload))
        ring, begin = pool.lease(), 0
    else:
        ring, begin, *_ = arrival = turn.arrive(pool, connection, wire.frame(opcode, payload), at=9)
        row = arrival.row
        if where == "walked":
            pool.common, pool.walked = None, ring
    seen: list[object] = []

    def look(owner: object, message: Message) -> None:
        free = pool.land()
        seen.extend((owner, message, free is ring))
        free.memory[:300] = bytes(300)

    connection.reader.show(copy_context().run, look, "owner", ring, row[0], begin, *row[1:])
    assert seen == ["owner", text if opcode == TEXT else payload, where == "landing"]
    assert connection.reader.is_idle


# ---- a few that came together ----


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_a_few(most: int) -> None:
    connection = connect(pool := Pool(4096))
    data = wire.frame(TEXT, "né".encode()) + wire.frame(BINARY, b"\xff") + wire.frame(TEXT)
    arrival = turn.arrive(pool, connection, data, at=9)
    seen: list[Message] = []

    def look(message: Message) -> None:
        seen.append(message)
        connection.reader.is_showing = len(seen) < most

    assert show_few(connection, look, arrival) == min(most, 3)
    assert seen == ["né", b"\xff", ""][:most]
    assert not connection.reader.is_showing


@pytest.mark.parametrize("end", ["less simple", "we have closed"])
def test_some_of_a_few(end: str) -> None:
    connection = connect(pool := Pool(4096), agreement=DEFLATE)
    other = wire.frame(TEXT, wire.deflate(b"x"), rsv=4) if end == "less simple" else wire.frame(TEXT, b"x")
    arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"one") + other + wire.frame(TEXT, b"three"))
    seen: list[Message] = []

    def look(message: Message) -> None:
        seen.append(message)
        if end == "we have closed":
            connection.close()

    assert show_few(connection, look, arrival) == 1
    assert seen == ["one"]
    assert show_few(connection, look, arrival) == (end == "less simple")


# ---- those that wait ----


@given(
    st.lists(st.sampled_from([TEXT, BINARY, PING, CONTINUATION, -1]), max_size=30),
    st.integers(1, 9),
    st.booleans(),
)
def test_each_is_shown_once_and_as_it_is_read(kinds: list[int], most: int, together: bool) -> None:
    """`CONTINUATION` stands for a message in two fragments, -1 for a compressed one; runs of one kind are likely."""
    connection, expected, frames = connect(Pool(65536), agreement=DEFLATE), list[Message](), list[bytes]()
    for i, kind in enumerate(each for each in kinds for _ in range(1 + each % 6)):
        text = f"é{i}"
        if kind == CONTINUATION:
            frames += wire.fragments(TEXT, [text.encode(), b"+"])
            expected.append(text + "+")
        elif kind == -1:
            frames.append(wire.frame(TEXT, wire.deflate(text.encode()), rsv=4))
            expected.append(text)
        else:
            frames.append(wire.frame(kind, text.encode()))
            expected += [] if kind == PING else [text if kind == TEXT else text.encode()]
    seen: list[Message] = []
    for part in [frames] if together else [[frame] for frame in frames]:
        send(connection, *part)
        before = len(seen)
        while show_waiting(connection, seen.append, most):
            assert len(seen) - before == most
            before = len(seen)
    assert seen == expected
    assert connection.read_message() is NEED_MORE


@pytest.mark.parametrize("count", [3, 8])
@pytest.mark.parametrize("end", ["enough", "full", "closed", "failed", "raised"])
def test_showing_ends_in_the_middle(end: str, count: int) -> None:
    """What is left is read by whoever comes next, and none is missing."""
    connection, seen = connect(), list[Message]()
    send(connection, *(wire.frame(TEXT, b"%d" % i) for i in range(count)))

    def look(message: Message) -> None:
        seen.append(message)
        if len(seen) < 2:
            return
        if end == "full":
            connection.reader.is_showing = False
        elif end == "closed":
            connection.close()
        elif end == "failed":
            connection.fail(1011, "a test")
        elif end == "raised":
            raise LookupError

    if end == "raised":
        with pytest.raises(LookupError):
            show_waiting(connection, look)
    else:
        assert show_waiting(connection, look, most=2 if end == "enough" else 100) == (end == "enough")
    assert seen == ["0", "1"]
    assert (connection.reader.rows_waiting, connection.reader.is_showing) == (count - 2, False)
    assert [connection.read_message() for _ in range(count - 2)] == [str(i) for i in range(2, count)]


@pytest.mark.parametrize("way", ["a few", "waiting"])
def test_it_goes_on_behind_a_function_that_fails(way: str) -> None:
    connection, failures = connect(pool := Pool(4096)), list[BaseException]()
    data = b"".join(wire.frame(TEXT, b"%d" % i) for i in range(8))

    def look(owner: str, message: Message) -> None:
        raise ValueError(owner, message)

    if way == "waiting":
        send(connection, data)
        assert not connection.reader.show_waiting(look, "owner", failures.append, 100, 1 << 22)
    else:
        ring, begin, *_ = arrival = turn.arrive(pool, connection, data)
        rows = arrival.rows
        assert connection.reader.show_few(look, "owner", failures.append, ring, begin, rows) == 8
    assert [error.args for error in failures] == [("owner", str(i)) for i in range(8)]


def test_it_ends_with_the_message_that_brings_enough_inflated_bytes() -> None:
    connection, seen = connect(agreement=DEFLATE), list[int]()
    bomb = wire.frame(BINARY, wire.deflate(bytes(1000)), rsv=4)
    send(connection, *[bomb] * 4, wire.frame(TEXT, b"x"))
    assert show_waiting(connection, lambda message: seen.append(len(message)), inflated=3000)
    assert seen == [1000] * 3
    assert not show_waiting(connection, lambda message: seen.append(len(message)), inflated=3000)
    assert seen == [1000] * 4 + [1]


def test_the_peers_close_is_behind_the_last() -> None:
    connection, seen = connect(), list[Message]()
    send(connection, wire.frame(TEXT, b"x") * 5, wire.frame(CLOSE, wire.close_payload(1000)))
    with pytest.raises(ConnectionClosedOK):
        show_waiting(connection, seen.append)
    assert seen == ["x"] * 5
    assert not connection.reader.is_showing


def test_nothing_is_shown_after_our_close() -> None:
    connection, seen = connect(), list[Message]()
    send(connection, wire.frame(TEXT, b"x") * 5)
    connection.close()
    assert not show_waiting(connection, seen.append)
    assert seen == []


@pytest.mark.parametrize("before", [0, 1])
def test_pings_alone_are_dropped_in_one_go(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They took half a microsecond each, for as many as a ring holds, while everybody else waited. Whoever reads frames
    is given all of them, if something was read between."""
    connection, seen = connect(Pool(65536)), list[Message]()
    send(connection, wire.frame(TEXT, b"x") * before)
    assert not show_waiting(connection, seen.append)
    send(connection, wire.frame(PING) * 20_000)
    monkeypatch.setattr(MessageReader, "_answer", None)
    assert not show_waiting(connection, seen.append)
    assert (connection.reader.rows_waiting, connection.reader.is_idle, seen) == (0, True, ["x"] * before)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("way", ["a few", "waiting"])
def test_a_message_is_let_go_of_before_the_next_is_made(way: str, count: int) -> None:
    """Two long ones at a time made malloc give memory back to the system and take it again, page by page, for each."""
    connection, size = connect(pool := Pool(1 << 20)), 100_000
    data = wire.frame(BINARY, bytes(size)) * count
    if way == "waiting":
        send(connection, data)
        peak = peak_of(lambda: show_waiting(connection, len))
    else:
        arrival = turn.arrive(pool, connection, data)
        peak = peak_of(lambda: show_few(connection, len, arrival))
    assert size < peak < 2 * size


def test_no_memory_for_one_of_them() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"x"), wire.frame(BINARY, b"x"))

    class NoMemory:
        def __getitem__(self, part: slice) -> bytes:
            raise MemoryError

    ring: Any = connection.reader._ring
    ring.copies = NoMemory()
    fails(connection, lambda: show_waiting(connection, list[Message]().append))
