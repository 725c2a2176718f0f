"""Many frames at once: as frames, as payloads, as messages that wait ready, and written one behind the other."""

from __future__ import annotations

import gc
import sys
from itertools import takewhile
from typing import Any

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from pair import entropy
from receiver import DEFLATE, SMALL, batch, connect, fails, hold_many, send, send_one_by_one
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from zcws.batch import Batch, RingBatch
from zcws.buffer import PayloadBuffer
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.deflate import Deflate
from zcws.errors import ConnectionClosed, ConnectionClosedOK, StaleFrame
from zcws.frame import DECODE_IN_PLACE, NEED_MORE, Frame, PayloadOrigin
from zcws.keys import MaskingKeys
from zcws.pool import TABLE_ROWS, Pool
from zcws.rows import spans_of
from zcws.writer import Writer

pytestmark = pytest.mark.usefixtures("made")


def texts(count: int, first: int = 0) -> list[bytes]:
    return [wire.frame(TEXT, f"né {i}".encode()) for i in range(first, first + count)]


#: Frames that come together and are not ready: compressed, control frames, of two kinds, fragments.
UNLIKE = (
    [wire.frame(TEXT, wire.deflate(b"a"), rsv=4)] * 6,
    [wire.frame(PING, b"a")] * 6,
    [*texts(5), wire.frame(BINARY, b"b")],
    [wire.frame(TEXT, b"a", fin=False), *[wire.frame(CONTINUATION, b"b", fin=False)] * 5],
)


def relayed(found: Batch) -> tuple[OpCode, list[bytes]] | None:
    """What can be sent on at once."""
    spans = found.relayed()
    if spans is None:
        return None
    opcode, ring, rows = spans
    return opcode, [ring.copies[start:stop] for start, stop in zip(*spans_of(rows), strict=True)]


# ---- payloads ----


@pytest.mark.parametrize("count", [1, 3, 4, 100])
def test_payloads_without_frames(count: int) -> None:
    connection = connect()
    send(connection, *texts(count))
    found = batch(connection)
    assert isinstance(found, RingBatch)
    assert [str(view, "utf-8") for view in found.payloads] == [f"né {i}" for i in range(count)]
    # And again, and as frames, until the next read.
    assert len(list(found.payloads)) == len(found) == count
    assert [frame.text for frame in found] == [f"né {i}" for i in range(count)]
    assert found[-1].text == f"né {count - 1}"
    assert [frame.text for frame in found[:2]] == ["né 0", "né 1"][:count]
    assert found[0] is found[0]
    assert repr(found) == f"<RingBatch, {count} frames>"


def test_control_frames_have_no_payloads_here() -> None:
    connection = connect()
    send(connection, wire.frame(PING, b"p"), *texts(4), wire.frame(PONG, b"q"), wire.frame(BINARY, b"b"))
    found = batch(connection)
    assert [bytes(view) for view in found.payloads] == [*(f"né {i}".encode() for i in range(4)), b"b"]
    assert found.messages == [*(f"né {i}" for i in range(4)), b"b"]
    assert [frame.opcode for frame in found] == [PING, TEXT, TEXT, TEXT, TEXT, PONG, BINARY]
    assert found.relayed() is None


CLOSED = wire.frame(CLOSE, wire.close_payload(1000))


def test_nor_has_a_close() -> None:
    connection = connect()
    send(connection, *texts(4), CLOSED)
    assert [str(view, "utf-8") for view in batch(connection).payloads] == [f"né {i}" for i in range(4)]
    connection = connect()
    send(connection, *wire.fragments(TEXT, [b"o", b"ne"]), CLOSED)
    found = batch(connection)
    assert ([bytes(view) for view in found.payloads], found.messages) == ([b"one"], ["one"])
    connection = connect()
    send(connection, CLOSED)
    alone = batch(connection)
    assert (list(alone.payloads), alone.messages, alone.relayed()) == ([], [], None)


def test_payloads_of_messages_in_pieces() -> None:
    connection = connect()
    one, two = wire.fragments(TEXT, [b"o", b"ne"])
    send(connection, *texts(2), one, wire.frame(PING, b"p"), two)
    found = batch(connection)
    assert not isinstance(found, RingBatch)
    assert [bytes(view) for view in found.payloads] == ["né 0".encode(), "né 1".encode(), b"one"]
    assert found.messages == ["né 0", "né 1", "one"]
    assert found.relayed() is None  # there is a Ping
    assert repr(found) == "<Batch, 4 frames>"


def test_a_batch_of_a_message_that_landed_outside_of_the_ring() -> None:
    """What comes next has a ring again, which is given back."""
    connection = connect(Pool(SMALL))
    reader, large = connection.reader, bytes(10 * SMALL)
    rest = memoryview(wire.frame(BINARY, large))
    while rest:
        assert reader.read_message() is NEED_MORE
        rest = rest[reader.receive_bytes(rest) :]
    found = batch(connection)
    assert list(found.payloads) == [large]
    assert reader.read_batch() is NEED_MORE
    send(connection, *wire.fragments(TEXT, [b"ne", b"xt"]))
    assert [reader.read_message(), reader.read_message()] == ["next", NEED_MORE]
    assert reader.is_idle


def test_a_batch_ends_where_it_would_be_much_longer_than_what_has_arrived() -> None:
    """Sixty messages of a mebibyte in sixty kilobytes were one batch of sixty mebibytes."""
    connection = connect(Pool(), agreement=DEFLATE)
    long = wire.frame(BINARY, wire.deflate(bytes(1 << 20)), rsv=4)
    rows = [long, wire.frame(TEXT, b"short"), wire.frame(PING, b"?")]
    send(connection, *(rows * 20), wire.frame(CLOSE, wire.close_payload(1000)))
    sizes: list[list[int]] = []
    with pytest.raises(ConnectionClosedOK):
        while True:
            sizes.append([len(frame.to_bytes()) for frame in batch(connection)])
    assert [size for each in sizes for size in each] == [1 << 20, 5, 1] * 20 + [2]
    assert max(map(sum, sizes)) < 5 << 20
    assert len(sizes) == 7  # and what is left of the last is not cut, but for the Close


def test_messages_in_pieces_are_relayed_one_by_one() -> None:
    connection = connect()
    send_one_by_one(connection, *wire.fragments(TEXT, [b"o", b"ne"]), *wire.fragments(TEXT, [b"t", b"wo"]))
    assert relayed(batch(connection)) is None


@pytest.mark.parametrize("asked", ["frames before", "frames after"])
def test_a_batch_is_stale_after_the_next_read(asked: str) -> None:
    connection = connect()
    send(connection, *texts(5))
    found = batch(connection)
    frames = list(found) if asked == "frames before" else None
    assert connection.reader.read_batch() is NEED_MORE
    for attempt in (
        lambda: found.payloads,
        lambda: found.messages,
        found.relayed,
        lambda: (frames or found)[0].payload,
    ):
        with pytest.raises(StaleFrame):
            attempt()
    assert len(found) == 5
    assert found[0].is_stale
    # Nor does it show what another batch lies in.
    send(connection, *texts(5, 5))
    another = batch(connection)
    assert [str(view, "utf-8") for view in another.payloads] == [f"né {i}" for i in range(5, 10)]
    with pytest.raises(StaleFrame):
        found.payloads  # noqa: B018


@pytest.mark.parametrize("text", ["", "né", "é" * DECODE_IN_PLACE], ids=len)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("count", [1, 2, 4, 50])
def test_messages_of_a_batch_are_ones_own(text: str, opcode: int, count: int) -> None:
    """All alike, or the last of the other kind."""
    connection = connect(Pool(1 << 20))
    message: str | bytes = text if opcode == TEXT else text.encode()
    frames = [wire.frame(opcode, text.encode())] * count
    for other in (False, True):
        send(connection, *frames, *[wire.frame(TEXT + BINARY - opcode, b"other")] * other)
        messages = batch(connection).messages
        assert connection.reader.read_batch() is NEED_MORE
        send(connection, wire.frame(BINARY, b"!" * 1000))
        assert messages == [message] * count + [b"other" if opcode == TEXT else "other"] * other
        assert connection.reader.read_message() == b"!" * 1000


@pytest.mark.parametrize("what", ["payloads", "messages"])
@pytest.mark.parametrize("now", [b"something else", b"\xff"])
def test_what_is_copied_while_another_thread_reads_on_is_not_handed_out(what: str, now: bytes) -> None:
    pool = Pool(4096)
    connection = connect(pool)
    held = hold_many(pool)
    send(connection, *texts(5), wire.frame(BINARY, b"b"))
    found = batch(connection)
    ring: Any = connection.reader._ring
    copies = ring.copies

    class Copies:
        """Between the first and the second."""

        def __getitem__(self, index: slice) -> bytes:
            ring.copies = copies
            assert connection.reader.read_batch() is NEED_MORE
            return now

    ring.copies = Copies()
    with pytest.raises(StaleFrame):
        getattr(found, what)
    assert held


def test_payloads_lie_where_they_were_received_unless_many_views_are_held() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    send(connection, *texts(5))
    found = batch(connection)
    views = list(found.payloads)
    held = hold_many(pool)
    views += found.payloads  # those are no more than there were
    assert len({id(view.obj) for view in views}) == 1
    assert held


def test_views_of_a_batch_stay_right_while_they_are_held() -> None:
    connection = connect()
    send(connection, *texts(5))
    payloads = batch(connection).payloads
    held = [next(payloads), next(payloads)]
    for _ in range(300):  # several times round the ring, as far as it is free, and then another ring
        data = wire.frame(TEXT, b"something else")
        while data:
            data = data[connection.receive_bytes(data) :]
            connection.reader.read_batch()
    # Those that had not been taken yet, too: who goes through them holds the memory.
    assert [str(view, "utf-8") for view in [*held, *payloads]] == [f"né {i}" for i in range(5)]


def test_a_batch_that_is_kept_keeps_no_ring() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    send(connection, *texts(5))
    found = batch(connection)
    assert connection.reader.read_batch() is NEED_MORE
    other = connect(pool)
    send(other, *texts(1, 7))
    assert [frame.text for frame in batch(other)] == ["né 7"]
    with pytest.raises(StaleFrame):
        found.relayed()


def test_what_can_be_relayed_at_once() -> None:
    connection = connect()
    send(connection, *texts(5))
    assert relayed(batch(connection)) == (OpCode.TEXT, [f"né {i}".encode() for i in range(5)])
    send(connection, wire.frame(BINARY, b"a"), *wire.fragments(BINARY, [b"b", b"c"]))
    assert relayed(batch(connection)) == (OpCode.BINARY, [b"a", b"bc"])
    send(connection, wire.frame(BINARY, b"a"), wire.frame(TEXT, b"b"))
    assert relayed(batch(connection)) is None
    send(connection, wire.frame(BINARY, b"a"), *wire.fragments(TEXT, [b"b", b"c"]))
    assert relayed(batch(connection)) is None
    send(connection, wire.frame(PING, b"a"), wire.frame(PING, b"b"))
    assert relayed(batch(connection)) is None
    send(connection, wire.frame(BINARY, b"a"))
    assert relayed(batch(connection)) == (OpCode.BINARY, [b"a"])
    send(connection, *wire.fragments(BINARY, [b"b", b"c"]))
    assert relayed(batch(connection)) == (OpCode.BINARY, [b"bc"])
    send(connection, wire.frame(BINARY, b"never whole", fin=False), wire.frame(PING, b"a"))
    assert relayed(batch(connection)) is None
    send(connection, CLOSED)
    assert relayed(batch(connection)) is None


def test_a_close_within_a_message_is_not_relayed() -> None:
    connection = connect()
    send(connection, wire.frame(BINARY, b"never whole", fin=False), CLOSED)
    assert relayed(batch(connection)) is None


# ---- messages that wait ready ----


def line_up(connection: Connection, opcode: int = TEXT, count: int = 6) -> None:
    """The first message is read; the others are ready."""
    send(connection, *(wire.frame(opcode, f"né {i}".encode()) for i in range(count)))
    first = "né 0"
    assert connection.reader.read_message() == (first if opcode == TEXT else first.encode())
    assert connection.reader.rows_waiting == min(count, TABLE_ROWS) - 1


def next_ready(connection: Connection) -> Any:
    return next(connection.reader.ready, None)


def test_messages_alike_are_ready() -> None:
    connection = connect()
    line_up(connection)
    assert [next_ready(connection), connection.reader.read_message(), next_ready(connection)] == [
        "né 1", "né 2", "né 3",
    ]  # fmt: skip
    assert connection.reader.rows_waiting == 2
    assert list(connection.reader.ready) == ["né 4", "né 5"]
    assert next_ready(connection) is None
    assert connection.reader.read_message() is NEED_MORE
    line_up(connection, BINARY)
    assert next_ready(connection) == "né 1".encode()


def test_large_text_is_ready_too() -> None:
    connection = connect(Pool(256 * 1024))
    messages = [f"{i}é" * 10_000 for i in range(5)]
    send(connection, *(wire.frame(TEXT, message.encode()) for message in messages))
    assert [connection.reader.read_message(), *connection.reader.ready] == messages


def test_what_is_not_plain_and_whole_is_not_ready() -> None:
    connection = connect(agreement=DEFLATE)
    for frames in UNLIKE:
        send(connection, *frames)
        connection.reader.read_message()
        assert next_ready(connection) is None
        while connection.reader.read_message() is not NEED_MORE:
            assert next_ready(connection) is None


def test_frames_and_batches_go_on_where_messages_stopped() -> None:
    connection = connect()
    line_up(connection)
    frame = connection.read_frame()
    assert frame is not NEED_MORE
    assert frame.text == "né 1"
    # The next message makes that frame stale, so it cannot be had without a word to the reader.
    assert next_ready(connection) is None
    assert connection.reader.read_message() == "né 2"
    assert frame.is_stale
    assert [frame.text for frame in batch(connection)] == ["né 3", "né 4", "né 5"]
    assert next_ready(connection) is None
    assert connection.reader.read_message() is NEED_MORE


def next_frame(connection: Connection) -> Any:
    return next(connection.reader.ready_frames, None)


def line_up_frames(connection: Connection) -> Frame:
    """The first frame is read; the others are ready."""
    send(connection, *texts(6))
    frame = connection.read_frame()
    assert isinstance(frame, Frame)
    assert frame.text == "né 0"
    return frame


def test_frames_alike_are_ready_and_each_makes_the_one_before_it_stale() -> None:
    connection = connect()
    frames = [line_up_frames(connection)]
    for i in range(1, 6):
        assert connection.reader.rows_waiting == 6 - i
        frames.append(next_frame(connection))
        assert [frame.is_stale for frame in frames] == [True] * i + [False]
        assert (frames[-1].text, frames[-1].opcode, frames[-1].fin) == (f"né {i}", TEXT, True)
        with pytest.raises(StaleFrame):
            frames[-2].payload  # noqa: B018
    view = frames[-1].payload
    assert next_frame(connection) is None
    assert connection.read_frame() is NEED_MORE
    assert frames[-1].is_stale
    send(connection, *texts(6, 6))
    assert connection.reader.read_message() == "né 6"
    assert view == "né 5".encode()


def test_those_that_come_behind_frames_alike_are_not_taken_for_such() -> None:
    connection = connect()
    line_up_frames(connection)
    while next_frame(connection) is not None:
        pass
    send(connection, wire.frame(TEXT, b"a"), wire.frame(BINARY, b"b"))
    for opcode in (TEXT, BINARY):
        frame = connection.read_frame()
        assert isinstance(frame, Frame) and frame.opcode == opcode
        assert next_frame(connection) is None


@pytest.mark.parametrize("way", ["message", "batch", "frame", "copied", "stream"])
def test_what_else_is_read_goes_on_where_frames_stopped(way: str) -> None:
    connection = connect()
    line_up_frames(connection)
    frame = next_frame(connection)
    reader = connection.reader
    if way == "stream":
        reader.begin_stream()
    assert {
        "message": reader.read_message,
        "batch": lambda: [frame.text for frame in batch(connection)],
        "frame": lambda: connection.read_frame().text,  # type: ignore[union-attr]
        "copied": lambda: connection.read_frame(PayloadBuffer(), PayloadOrigin.CONSISTENT).text,  # type: ignore[union-attr]
        "stream": reader.read_piece,
    }[way]() == {"batch": [f"né {i}" for i in range(2, 6)], "stream": ("né 2", True)}.get(way, "né 2")  # type: ignore[no-untyped-call]
    assert frame.is_stale
    after = next_frame(connection)
    assert after is None if way != "frame" else after.text == "né 3"


def test_frames_are_not_ready_behind_what_is_not_alike() -> None:
    connection = connect(agreement=DEFLATE)
    for sent in UNLIKE:
        send(connection, *sent)
        while connection.read_frame() is not NEED_MORE:
            assert next_frame(connection) is None


def test_a_lost_connection_has_no_frames_ready() -> None:
    connection = connect()
    line_up_frames(connection)
    connection.reader.give_up()
    assert next_frame(connection) is None
    connection = connect()
    frame = line_up_frames(connection)
    connection.reader.tear(1011, "")
    assert next_frame(connection) is None
    assert frame.is_stale is False  # it was read; the next read makes it so
    with pytest.raises(ConnectionClosed):
        connection.read_frame()
    assert frame.is_stale


def test_no_memory_for_a_frame_that_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect()
    line_up_frames(connection)

    def none() -> None:
        raise MemoryError

    monkeypatch.setattr("zcws.reader.RingFrame", none)
    fails(connection, lambda: next_frame(connection) or connection.read_frame())


def test_a_frame_that_was_copied_goes_on_where_messages_stopped() -> None:
    connection, buffer = connect(), PayloadBuffer()
    line_up(connection)
    frame = connection.read_frame(buffer, PayloadOrigin.CONSISTENT)
    assert frame is not NEED_MORE
    assert frame.text == "né 1"
    assert next_ready(connection) is None
    assert connection.reader.read_message() == "né 2"
    assert frame.is_stale


@pytest.mark.parametrize("behind", ["nothing", "a fault", "more than a table holds"])
def test_a_stream_goes_on_where_messages_stopped(behind: str) -> None:
    connection = connect(Pool())
    if behind != "a fault":
        line_up(connection, count=6 if behind == "nothing" else TABLE_ROWS + 1)
    else:
        send(connection, *texts(6), b"\x8f\x00")
        assert connection.reader.read_message() == "né 0"
    connection.reader.begin_stream()
    assert next_ready(connection) is None
    assert connection.reader.read_piece() == ("né 1", True)
    assert connection.reader.read_message() == "né 2"


def test_more_bytes_while_messages_are_ready() -> None:
    connection = connect()
    line_up(connection)
    send(connection, *texts(5, 6), wire.frame(PING, b"p"))
    assert [connection.reader.read_message() for _ in range(10)] == [f"né {i}" for i in range(1, 11)]
    assert connection.reader.read_message() is NEED_MORE


def test_after_a_loss_nothing_is_ready_that_is_not_waiting() -> None:
    connection = connect()
    line_up(connection)
    send(connection, wire.frame(CLOSE, wire.close_payload(1000)))
    assert [connection.reader.read_message() for _ in range(5)] == [f"né {i}" for i in range(1, 6)]
    with pytest.raises(ConnectionClosedOK):
        connection.reader.read_message()
    assert next_ready(connection) is None


def test_what_has_to_make_room_is_not_ready() -> None:
    """RFC 6455 5.5.1: our Close is out, so what arrives is dropped; what waits is, too, when there is no more room."""
    connection = connect()
    line_up(connection)
    connection.reader.discard()
    half = b"\x82\x7e" + (SMALL // 2).to_bytes(2, "big") + bytes(SMALL // 2)
    more = memoryview(half)
    assert next_ready(connection) == "né 1"
    for _ in range(4):
        while more:
            more = more[connection.receive_bytes(more) :]
        more = memoryview(half)
    assert connection.reader.rows_waiting == 0
    assert next_ready(connection) is None


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="PyPy's views of a buffer refer to it anew")
@pytest.mark.parametrize("way", ["ready", "frames", "batch"])
def test_no_ring_is_held_once_the_reader_waits(way: str, made: str) -> None:
    pool = Pool(4096)
    connection = connect(pool)
    ring = pool.land()
    gc.collect()
    before = len(gc.get_referrers(ring.copies))
    line_up(connection)
    assert connection.reader.holds(ring)
    assert (len(gc.get_referrers(ring.copies)) > before) is (made == "one by one")
    read: Any = {
        "ready": lambda: list(connection.reader.ready),
        "frames": lambda: [connection.reader.read_frame().text for _ in range(5)],  # type: ignore[union-attr]
        "batch": lambda: [frame.text for frame in batch(connection)],
    }
    assert read[way]() == [f"né {i}" for i in range(1, 6)]
    assert connection.reader.read_batch() is NEED_MORE
    gc.collect()
    assert len(gc.get_referrers(ring.copies)) == before
    assert not connection.reader.holds(ring)


@given(
    kinds=st.lists(st.sampled_from([TEXT, BINARY, PING, CONTINUATION]), max_size=40),
    steps=st.lists(
        st.sampled_from(
            ["ready", "message", "frame", "ready frame", "batch", "messages", "arrive", "arrive alike"]
        ),
        max_size=80,
    ),
)
def test_any_order_of_reads_gives_every_message_once(kinds: list[int], steps: list[str]) -> None:
    """`CONTINUATION` stands for a message in two fragments; runs of one kind are likely."""
    runs = [kind for kind in kinds for _ in range(1 + kind % 6)]
    connection, sent, got = connect(), list[tuple[int, bytes]](), list[tuple[int, bytes]]()
    waiting = list(enumerate(runs))

    def arrive(some: list[tuple[int, int]]) -> None:
        frames = list[bytes]()
        for i, kind in some:
            payload = f"{i}".encode()
            if kind == CONTINUATION:
                frames += wire.fragments(TEXT, [payload, b"+"])
                sent.append((TEXT, payload + b"+"))
            else:
                frames.append(wire.frame(kind, payload))
                if kind != PING:
                    sent.append((kind, payload))
        send(connection, *frames)
        del waiting[: len(some)]

    def keep(message: Any) -> None:
        if message is not None and message is not NEED_MORE:
            got.append(wire.taken_apart(message))

    def keep_frame(frame: Any) -> None:
        if frame is not NEED_MORE and frame.opcode in (TEXT, BINARY):
            got.append((frame.opcode, frame.to_bytes()))

    for step in [*steps, *["arrive", "message"] * (len(runs) // 7 + 1)]:
        if step == "arrive":
            arrive(waiting[:7])
        elif step == "arrive alike":
            arrive(list(takewhile(lambda each: each[1] == waiting[0][1], waiting)))
        elif step == "ready":
            keep(next_ready(connection))
        elif step == "message":
            keep(connection.reader.read_message())
        elif step == "frame":
            keep_frame(connection.read_frame())
        elif step == "ready frame":
            keep_frame(next(connection.reader.ready_frames, NEED_MORE))
        else:
            found = connection.reader.read_batch()
            if found is not NEED_MORE and step == "batch":
                for frame in found:
                    keep_frame(frame)
            elif found is not NEED_MORE:
                for message in found.messages:
                    keep(message)
    while (message := connection.reader.read_message()) is not NEED_MORE:
        keep(message)
    assert got == sent


# ---- written one behind the other ----


def make_writer(role: str) -> Writer:
    keys = MaskingKeys(entropy())
    return Writer(Pool(), next_key=keys.next if role == "client" else None, compressor=None)


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("opcode", [OpCode.TEXT, OpCode.BINARY])
@pytest.mark.parametrize("sizes", [[], [0], [125, 126, 0, 70_000, 1], [3] * 300], ids=len)
def test_many_messages_are_what_they_are_one_by_one(role: str, opcode: OpCode, sizes: list[int]) -> None:
    writer = make_writer(role)
    payloads = [bytes([65 + i % 26]) * size for i, size in enumerate(sizes)]
    writer.write_message(opcode, b"before")
    writer.write_messages(opcode, payloads)
    writer.write_message(opcode, b"behind")
    assert (writer.messages, writer.frames) == (len(sizes) + 2, len(sizes) + 2)
    size = writer.size
    data = b"".join(writer.take())
    assert len(data) == size
    frames = wire.parse(data)
    assert [frame.payload for frame in frames] == [b"before", *payloads, b"behind"]
    assert {(frame.opcode, frame.fin, frame.masked) for frame in frames} == {(opcode, True, role == "client")}
    assert writer.size == 0


def test_many_messages_are_refused_as_one_is() -> None:
    writer = make_writer("server")
    writer.write_fragment(OpCode.TEXT, b"a", last=False)
    with pytest.raises(ValueError, match="finish it first"):
        writer.write_messages(OpCode.TEXT, [b"b"])
    writer.write_fragment(OpCode.TEXT, b"a", last=True)
    writer.write_close(1000)
    with pytest.raises(ConnectionClosed):
        writer.write_messages(OpCode.TEXT, [b"b"])


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("sizes", [[0], [0, 125, 126, 2, 2000, 1], [3] * 100], ids=len)
def test_messages_in_a_ring_are_sent_on_as_they_are(role: str, sizes: list[int]) -> None:
    connection, writer = connect(), make_writer(role)
    payloads = [bytes([65 + i % 26]) * size for i, size in enumerate(sizes)]
    send(connection, *[wire.frame(BINARY, payload) for payload in payloads])
    spans = batch(connection).relayed()
    assert spans is not None
    writer.write_received(*spans)
    spans[1].memory[:] = bytes(len(spans[1].memory))  # nothing of it is needed any more
    assert writer.messages == len(sizes) and writer.has_large is False
    size = writer.size
    data = b"".join(writer.take())
    assert len(data) == size
    frames = wire.parse(data)
    assert [frame.payload for frame in frames] == payloads
    assert {(frame.opcode, frame.fin, frame.masked) for frame in frames} == {(BINARY, True, role == "client")}


def test_they_are_compressed_where_that_was_agreed() -> None:
    ours = connect(agreement=DEFLATE, deflate=Deflate(threshold=0))
    send(ours, *[wire.frame(TEXT, b"alike " * 50)] * 5)
    spans = batch(ours).relayed()
    assert spans is not None
    ours.writer.write_received(*spans)
    assert (ours.writer.messages, ours.writer.deflated[0]) == (5, 5 * 300)
    ours.writer.write_received(*spans, compress=False)
    assert (ours.writer.messages, ours.writer.deflated[0]) == (10, 5 * 300)


def test_they_are_refused_as_others_are() -> None:
    connection, writer = connect(), make_writer("server")
    send(connection, *texts(5))
    spans = batch(connection).relayed()
    assert spans is not None
    writer.write_fragment(OpCode.TEXT, b"a", last=False)
    with pytest.raises(ValueError, match="finish it first"):
        writer.write_received(*spans)


def test_many_that_are_compressed_are_a_batch_too() -> None:
    """They are alike, and yet lie where they were inflated."""
    connection = connect(agreement=DEFLATE)
    send(connection, *(wire.frame(TEXT, wire.deflate(b"%d" % i), rsv=4) for i in range(6)))
    assert [frame.text for frame in batch(connection)] == [str(i) for i in range(6)]
