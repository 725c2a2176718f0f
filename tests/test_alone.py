"""What arrives alone is handed on past the rows: as a message, as a frame, to a function; and its ring goes back."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any

import pytest
import turn
import wire
from receiver import (
    DEFLATE,
    connect,
    hold_many,
    read,
    receive_row,
    send,
)
from wire import BINARY, PING, TEXT

from zcws import ring_frame
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.errors import StaleFrame
from zcws.frame import NEED_MORE, Frame
from zcws.pool import Pool
from zcws.ring_frame import NO_RING, NOT_SHOWN

pytestmark = pytest.mark.usefixtures("every_view")


# ---- past the reader: somebody scanned, and hands the only row on ----


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (wire.frame(TEXT, b"short"), "short"),
        (wire.frame(TEXT, "ä".encode() * 3000), "ä" * 3000),
        (wire.frame(BINARY, b"bytes"), b"bytes"),
        (wire.frame(BINARY), b""),
        (wire.frame(PING, b"p"), None),
        (wire.frame(TEXT, b"half", fin=False), None),
        (wire.frame(BINARY, wire.deflate(b"small"), rsv=4), None),
    ],
)
def test_a_row_is_a_message_by_itself_or_not(frame: bytes, message: str | bytes | None) -> None:
    pool = Pool(16_384)
    connection = connect(pool, agreement=DEFLATE)
    arrival = turn.arrive(pool, connection, frame, at=7)
    assert connection.reader.message_of(arrival.ring, *arrival.row) == message
    assert connection.reader.is_idle
    connection.reader.discarding = True
    assert connection.reader.message_of(arrival.ring, *arrival.row) is None


def test_a_row_as_a_frame_that_is_good_until_it_is_dropped() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    ring, begin, stop, *_ = arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"seen"), at=9)
    frame = connection.reader.frame_of(ring, begin, *arrival.row)
    assert frame is not None
    assert (frame.opcode, frame.text) == (OpCode.TEXT, "seen")
    connection.reader.drop_frame(ring, stop)
    with pytest.raises(StaleFrame):
        frame.to_bytes()
    assert (connection.reader.is_idle, connection.reader.holds(ring)) == (True, False)
    assert connection.reader._lease.ring is NO_RING
    assert connection.reader.frame_of(ring, begin, PING, 0, 0) is None
    for _ in range(3):  # nor does it come back
        send(connection, wire.frame(TEXT, b"next"))
        assert read(connection).text == "next"
        with pytest.raises(StaleFrame):
            frame.to_bytes()
    connection.reader.discarding = True
    assert connection.reader.frame_of(ring, begin, *arrival.row) is None


@pytest.mark.parametrize("fails", [False, True])
def test_a_row_as_a_frame_that_is_shown(fails: bool) -> None:
    pool = Pool(4096)
    connection = connect(pool)
    send(connection, wire.frame(TEXT, b"before"))
    before = read(connection)
    assert connection.read_frame() is NEED_MORE
    owner, shown = object(), []
    ring, begin, *_ = arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"seen"), at=9)

    def look(who: object, frame: Frame) -> None:
        # A view would hold the ring from the beginning of the frame on.
        assert frame.opcode is OpCode.TEXT
        shown.append((who, frame, frame.text, frame.payload if fails else None, ring.tail))
        if fails:
            raise LookupError

    what, start, end = arrival.row
    with pytest.raises(LookupError) if fails else nullcontext():
        connection.reader.show(copy_context().run, look, owner, ring, what, begin, start, end)
    ((who, frame, text, view, tail),) = shown
    assert (who, text, view, tail) == (owner, "seen", b"seen" if fails else None, begin)
    assert (frame.is_stale, connection.reader.is_idle, pool.common is ring) == (True, True, True)
    lease = connection.reader._lease
    assert (lease.ring, lease.shown, pool.landing) == (NO_RING, NOT_SHOWN, None)
    assert before.is_stale  # as ever


@pytest.mark.parametrize("lands", ["nothing", "another"])
@pytest.mark.parametrize("held", ["nothing", "the frame's", "many"])
def test_a_frame_that_landed_alone_and_was_shown(held: str, lands: str) -> None:
    """It has a ring of its own: nobody is served together here. Another connection may have received meanwhile."""
    pool = Pool(4096)
    connection = connect(pool)
    reader, kept = connection.reader, []
    row = receive_row(connection, wire.frame(BINARY, b"alone"))
    assert isinstance(row, list)
    ring = pool.lease()

    def look(_: object, frame: Frame) -> None:
        kept.append(memoryview(frame.to_bytes()) if held == "nothing" else frame.payload)
        kept.extend(hold_many(pool) if held == "many" else [])
        if lands == "another":
            pool.land()

    reader.show(copy_context().run, look, None, ring, row[0], 0, *row[1:])
    assert (reader.is_idle, reader.holds(ring)) == (held != "many", held == "many")
    if sys.implementation.name == "cpython":
        assert (pool.landing is ring) is (held == "nothing" and lands == "nothing")
        assert (ring in pool._spare) is (held == "nothing" and lands == "another")
        assert (ring in pool._aside) is (held == "the frame's")
    for i in range(50):
        send(connection, wire.frame(BINARY, bytes([i]) * 100))
        assert connection.read_message() == bytes([i]) * 100
    assert kept[0] == b"alone"


def test_a_frame_that_was_shown_leaves_its_ring_to_those_behind_it() -> None:
    """Somebody before him keeps the ring, which is no longer the common one, and the table is still walked."""
    pool = Pool(4096)
    connection = connect(pool)
    ring, begin, *_ = arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"seen"), at=9)
    pool.common, pool.walked = None, ring
    connection.reader.show(
        *(copy_context().run, lambda _, frame: None, None),
        *(ring, arrival.row[0], begin, *arrival.row[1:]),
    )
    assert (pool.landing, pool._spare) == (None, [])


def test_a_frame_that_landed_alone_and_was_handed_on_keeps_its_ring() -> None:
    """Until the next read: what others receive meanwhile lands elsewhere."""
    pool = Pool(4096)
    connection, other = connect(pool), connect(pool)
    data = wire.frame(BINARY, b"alone" * 10)
    connection.get_buffer()[: len(data)] = data
    frame = connection.reader.frame_found(connection.reader.scan_landing(len(data)))
    assert frame is not None
    assert (pool.landing, connection.reader.is_idle) == (None, False)
    send(other, wire.frame(BINARY, b"other" * 10))
    assert other.read_message() == b"other" * 10
    assert frame.to_bytes() == b"alone" * 10
    assert connection.read_frame() is NEED_MORE
    assert (frame.is_stale, connection.reader.is_idle) == (True, True)


# ---- a few that came together ----


def show_few(connection: Connection, look: Callable[[Frame], object], arrival: turn.Arrival) -> int:
    def raised(error: BaseException) -> None:
        raise error

    rows = arrival.rows
    return connection.reader.show_few(
        lambda owner, frame: look(frame), None, raised, arrival.ring, arrival.begin, rows
    )


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_a_few_rows_as_frames_that_are_shown(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_frame, "_COPIED", 16)
    pool = Pool(4096)
    connection = connect(pool)
    data = wire.frame(TEXT, b"one") + wire.frame(BINARY, b"two") + wire.frame(TEXT, b"three")
    arrival = turn.arrive(pool, connection, data, at=9)
    shown: list[Frame] = []

    def look(frame: Frame) -> None:
        assert [before.is_stale for before in shown] == [True] * len(shown)
        shown.append(frame)
        # Each is looked at for the first time: a copy, as where it comes alone.
        assert frame.payload == [b"one", b"two", b"three"][len(shown) - 1]
        if len(shown) == most:
            connection.reader.is_showing = False

    assert show_few(connection, look, arrival) == min(most, 3)
    assert not connection.reader.is_showing
    assert [frame.opcode for frame in shown] == [OpCode.TEXT, OpCode.BINARY, OpCode.TEXT][:most]
    assert all(frame.is_stale for frame in shown)
    lease = connection.reader._lease
    assert (lease.ring, lease.shown, arrival.ring.exports) == (NO_RING, NOT_SHOWN, [])
    assert (connection.reader.is_idle, arrival.ring.tail) == (True, arrival.begin)


@pytest.mark.parametrize(
    "other",
    [
        wire.frame(BINARY, wire.deflate(b"small"), rsv=4),
        wire.frame(BINARY, wire.deflate(b"small"), rsv=4) + wire.frame(TEXT, b"two"),
        wire.frame(TEXT, b"half", fin=False),
    ],
    ids=["compressed", "compressed before another", "fragment"],
)
def test_a_few_rows_are_shown_up_to_one_that_is_less_simple(other: bytes) -> None:
    pool = Pool(4096)
    connection = connect(pool, agreement=DEFLATE)
    arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"one") + other)
    shown: list[str] = []

    assert show_few(connection, lambda frame: shown.append(frame.text), arrival) == 1
    assert shown == ["one"]


def test_one_of_a_few_frames_is_stale_when_it_has_ended_the_loop() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"one") + wire.frame(TEXT, b"two"))
    shown: list[Frame] = []

    def look(frame: Frame) -> None:
        shown.append(frame)
        raise LookupError

    with pytest.raises(LookupError):
        show_few(connection, look, arrival)
    assert [frame.is_stale for frame in shown] == [True]
    assert connection.reader._lease.ring is NO_RING


def test_a_few_frames_are_shown_on_behind_one_whose_function_failed() -> None:
    connection = connect(pool := Pool(4096))
    arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"one") + wire.frame(TEXT, b"two"))
    failures: list[BaseException] = []

    def look(owner: str, frame: Frame) -> None:
        raise ValueError(owner, frame.text)

    rows = arrival.rows
    assert connection.reader.show_few(look, "owner", failures.append, arrival.ring, 0, rows) == 2
    assert [error.args for error in failures] == [("owner", "one"), ("owner", "two")]


@pytest.mark.parametrize("end", ["closed", "failed"])
def test_a_few_frames_are_shown_until_we_have_closed_or_failed(end: str) -> None:
    connection = connect(pool := Pool(4096))
    arrival = turn.arrive(pool, connection, wire.frame(TEXT, b"one") + wire.frame(TEXT, b"two"))

    def look(frame: Frame) -> None:
        if end == "closed":
            connection.close()
        else:
            connection.fail(1011, "a test")

    assert show_few(connection, look, arrival) == 1


def test_a_view_of_a_frame_that_was_dropped_keeps_nobody_busy() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    ring, stop, frame = turn.arrive_as_frame(pool, connection, wire.frame(BINARY, b"held"), at=9)
    view = frame.payload
    connection.reader.drop_frame(ring, stop)
    assert (connection.reader.holds(ring), connection.reader.is_idle) == (False, True)
    # The ring is still that of all who are served together; whoever receives has to look first.
    assert pool.common is ring
    assert ring.is_exported
    assert view == b"held"


def test_a_view_of_a_frame_that_was_shown_keeps_its_ring_where_many_are_held() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    ring, begin, *_ = arrival = turn.arrive(pool, connection, wire.frame(BINARY, b"held"), at=9)
    kept: list[Any] = []
    connection.reader.show(
        copy_context().run,
        lambda _, frame: kept.extend([frame.payload, hold_many(pool)]),
        *(None, ring, arrival.row[0], begin, *arrival.row[1:]),
    )
    assert (connection.reader.holds(ring), connection.reader.is_idle) == (True, False)
    assert kept[0] == b"held"


@pytest.mark.parametrize("hold", [True, False])
def test_a_view_of_a_frame_that_was_dropped_keeps_its_ring_where_many_are_held(hold: bool) -> None:
    pool = Pool(4096)
    connection = connect(pool)
    ring, stop, frame = turn.arrive_as_frame(pool, connection, wire.frame(BINARY, b"held"), at=9)
    view = frame.payload
    held = hold_many(pool)
    if not hold:
        if sys.implementation.name != "cpython":
            pytest.skip("elsewhere the view that the frame remembered goes later, and its ring with it")
        view = memoryview(view.tobytes())
        gc.collect()
    connection.reader.drop_frame(ring, stop)
    assert (connection.reader.holds(ring), connection.reader.is_idle) == (hold, not hold)
    pool.common = None
    for i in range(50):
        send(connection, wire.frame(BINARY, bytes([i]) * 100))
        assert connection.read_message() == bytes([i]) * 100
    assert view == b"held"
    assert held


@pytest.mark.parametrize("as_frame", [False, True])
def test_what_was_received_and_scanned_in_one_crossing(as_frame: bool) -> None:
    """As the blocking driver asks; what is no whole plain message is the reader's."""
    connection = connect()
    reader = connection.reader
    one, two = wire.frame(TEXT, b"one"), wire.frame(BINARY, b"two")
    last: Frame | None = None
    for data, alone, rest in (
        (one, "one", []),
        (two, b"two", []),
        (one + two, None, ["one", b"two"]),
        (wire.frame(PING, b"p"), None, []),
        (two, b"two", []),
        (one[:3], None, []),
    ):
        assert reader.is_idle
        connection.get_buffer()[: len(data)] = data
        found = reader.scan_landing(len(data))
        if as_frame:
            frame = reader.frame_found(found)
            got = frame and (frame.text if frame.opcode is OpCode.TEXT else frame.to_bytes())
            if frame is not None:
                ring = reader._lease.ring
                # A view would hold the ring from the beginning of the frame on.
                assert (reader.holds(ring), ring.tail, reader.is_idle) == (True, 0, False)
        else:
            frame, got = None, reader.message_found(found)
        assert got == alone and (last is None or last.is_stale)
        if alone is None:
            reader.take_found(len(data), found)
            assert [connection.read_message() for _ in rest] == rest
        assert connection.read_message() is NEED_MORE
        last = frame
    send(connection, one[3:])
    assert connection.read_message() == "one"


def test_nothing_is_found_once_our_close_is_out() -> None:
    connection = connect()
    connection.close()
    data = wire.frame(TEXT, b"late")
    connection.get_buffer()[: len(data)] = data
    found = connection.reader.scan_landing(len(data))
    landing = connection.reader.landing
    assert connection.reader.message_found(found) is connection.reader.frame_found(found) is None
    assert (connection.reader.is_idle, connection.reader.pool.landing) == (True, landing)


@pytest.mark.parametrize("held", ["nothing", "the frame's", "many"])
def test_a_frame_that_landed_alone_and_was_dropped(held: str) -> None:
    """It has a ring of its own: nobody is served together here."""
    pool = Pool(4096)
    connection = connect(pool)
    reader, data = connection.reader, wire.frame(BINARY, b"alone")
    row = receive_row(connection, data)
    assert isinstance(row, list)
    ring = pool.lease()
    frame = reader.frame_of(ring, 0, *row)
    assert frame is not None
    view = memoryview(frame.to_bytes()) if held == "nothing" else frame.payload
    others = hold_many(pool) if held == "many" else []
    reader.drop_frame(ring, row[2])
    assert frame.is_stale
    assert (reader.is_idle, reader.holds(ring)) == (held != "many", held == "many")
    if sys.implementation.name == "cpython":
        assert (pool.landing is ring) == (held == "nothing")
    for i in range(50):
        send(connection, wire.frame(BINARY, bytes([i]) * 100))
        assert connection.read_message() == bytes([i]) * 100
    assert view == b"alone"
    assert len(others) != 1


@pytest.mark.parametrize("hold", [True, False])
def test_a_frame_that_is_kept_is_good_until_the_next_read_and_its_ring_stays(hold: bool) -> None:
    pool = Pool(4096)
    connection = connect(pool)
    reader = connection.reader
    ring, stop, frame = turn.arrive_as_frame(pool, connection, wire.frame(TEXT, b"kept"), at=9)
    view = frame.payload if hold else b"kept"
    reader.keep_frame(frame, ring, stop)
    assert (reader.holds(ring), reader.is_idle, reader.rows_waiting) == (True, False, 0)
    assert (ring.tail, ring.head) == (9, stop)
    pool.common = None  # what an engine does with a ring that somebody keeps
    # What comes meanwhile comes behind it, and is not looked at before the next read.
    send(connection, wire.frame(TEXT, b"next"), wire.frame(TEXT, b"half")[:4])
    assert frame.text == "kept"
    assert connection.read_message() == "next"
    with pytest.raises(StaleFrame):
        frame.to_bytes()
    assert view == b"kept"
    send(connection, b"lf")
    assert connection.read_message() == "half"
    assert connection.read_message() is NEED_MORE
    assert (reader.holds(ring), reader.is_idle) == (False, True)
    assert (ring in pool._aside) is hold


def test_a_frame_that_is_kept_is_nobodys_once_nothing_more_is_read() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    ring, stop, frame = turn.arrive_as_frame(pool, connection, wire.frame(BINARY, b"kept"))
    connection.reader.keep_frame(frame, ring, stop)
    assert connection.read_frame() is NEED_MORE
    assert (frame.is_stale, connection.reader.holds(ring), connection.reader.is_idle) == (True, False, True)
    # It is the common ring still: whoever was done with it gave it to nobody else.
    assert (pool.common is ring, pool.landing, pool._spare) == (True, None, [])
