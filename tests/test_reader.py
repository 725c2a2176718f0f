"""The caller's side of reading: frames that go stale and hold nothing, views that stay, messages, batches."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from typing import Any

import pytest
import wire
from receiver import (
    DEFLATE,
    NoMemory,
    batch,
    connect,
    fails,
    hold_many,
    read,
    send,
    send_one_by_one,
)
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from zcws.buffer import PayloadBuffer
from zcws.closing import State
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, LimitExceeded, ProtocolError, StaleFrame
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE, Frame, PayloadOrigin
from zcws.pool import Pool

pytestmark = pytest.mark.usefixtures("every_view")

ADAPTIVE, CONSISTENT = PayloadOrigin.ADAPTIVE, PayloadOrigin.CONSISTENT


# ---- a frame goes stale ----

#: What can come next, and what the caller asks for next. None of it uses the space again.
NEXT_READS = {
    "nothing": (b"", "read_frame"),
    "nothing, asked for a message": (b"", "read_message"),
    "nothing, asked for a batch": (b"", "read_batch"),
    "another frame": (wire.frame(TEXT, b"next"), "read_frame"),
    "another message": (wire.frame(TEXT, b"next"), "read_message"),
    "another batch": (wire.frame(TEXT, b"next"), "read_batch"),
    "a Close": (wire.frame(CLOSE), "read_frame"),
    "a fault": (wire.frame(TEXT, rsv=1), "read_frame"),
}

STREAMS = {
    "whole": ([wire.frame(TEXT, b"first")], b"first"),
    "fragments": (wire.fragments(TEXT, [b"fi", b"rst"]), b"first"),
    "large": ([wire.frame(TEXT, b"f" * 50_000)], b"f" * 50_000),
    "Ping": ([wire.frame(PING, b"first")], b"first"),
}


@pytest.mark.parametrize("origin", [ADAPTIVE, CONSISTENT], ids=lambda origin: origin.value)
@pytest.mark.parametrize("owned", [True, False], ids=["no buffer", "buffer"])
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("following", NEXT_READS)
def test_a_frame_is_stale_after_the_next_read_always(
    following: str, stream: str, owned: bool, origin: PayloadOrigin
) -> None:
    connection = connect()
    buffer = None if owned else PayloadBuffer()
    data, payload = STREAMS[stream]
    frame: Any = NEED_MORE
    for piece in data:
        for at in range(0, len(piece), 3000):
            assert connection.read_frame(buffer, origin) is NEED_MORE
            send(connection, piece[at : at + 3000])
    frame = read(connection, buffer, origin)
    more, method = NEXT_READS[following]
    send(connection, more)
    # Bytes that arrive change nothing; only the next read does.
    assert frame.to_bytes() == payload
    view = frame.payload
    try:
        getattr(connection.reader, method)()
    except ConnectionClosed:
        assert following == "a fault"
    for use in (lambda: frame.payload, lambda: frame.text, frame.to_bytes):
        with pytest.raises(StaleFrame):
            use()
    assert (len(frame), "stale" in repr(frame)) == (len(payload), True)
    assert view == payload


def test_reading_that_fails_before_it_begins_keeps_the_frame() -> None:
    one, two = connect(), connect()
    busy = PayloadBuffer()
    send(one, wire.frame(BINARY, b"half", fin=False))
    assert one.read_frame(busy) is NEED_MORE
    send(
        two,
        wire.frame(TEXT, b"first"),
        wire.frame(BINARY, b"se", fin=False),
        wire.frame(CONTINUATION, b"cond"),
    )
    frame = read(two)
    for origin in (ADAPTIVE, CONSISTENT):
        with pytest.raises(ValueError, match="in the middle of a message of another connection"):
            two.read_frame(busy, origin)
    assert frame.text == "first"
    # Nothing was lost, on neither of them.
    assert read(two, PayloadBuffer()).to_bytes() == b"second"
    send(one, wire.frame(CONTINUATION, b"whole"))
    assert read(one, busy).to_bytes() == b"halfwhole"


@pytest.mark.parametrize("kind", ["fragments", "whole", "compressed"])
def test_two_readers_that_begin_in_one_buffer_at_once(kind: str) -> None:
    """In two threads: both have seen it free. The later one uses other memory."""
    agreement = Agreement(deflate=DeflateParameters()) if kind == "compressed" else None
    one, two = connect(), connect(agreement=agreement)
    buffer = PayloadBuffer()
    send(one, wire.frame(BINARY, b"half", fin=False))
    assert one.read_frame(buffer) is NEED_MORE
    buffer.reader = None  # as the other has seen it
    if kind == "fragments":
        send(two, wire.frame(BINARY, b"ot", fin=False), wire.frame(PING), wire.frame(CONTINUATION, b"her"))
    elif kind == "whole":
        send(two, wire.frame(BINARY, b"other"))
    else:
        send(two, wire.frame(BINARY, b"\xca\x2f\xc9\x48\x2d\x02\x00", rsv=4))
    frame = two.read_frame(buffer, CONSISTENT)
    if kind == "fragments":
        frame = read(two, buffer, CONSISTENT)
    assert frame.to_bytes() == b"other" and len(buffer) == 4
    with pytest.raises(ValueError, match="is arriving"):
        buffer.release()
    send(one, wire.frame(CONTINUATION, b"whole"))
    assert read(one, buffer).to_bytes() == b"halfwhole"
    buffer.release()


def test_a_buffer_whose_message_nobody_reads_to_its_end_is_free_again() -> None:
    """Its connection was closed here in the middle of it: it was refused for ever, and an mmap could not be closed."""
    one, two = connect(), connect()
    buffer = PayloadBuffer()
    send(one, wire.frame(BINARY, b"half", fin=False))
    assert one.read_frame(buffer) is NEED_MORE
    send(one, wire.frame(CONTINUATION, b"more", fin=False))
    one.close()
    send(two, wire.frame(BINARY, b"whole"))
    assert read(two, buffer, CONSISTENT).to_bytes() == b"whole"
    buffer.release()


def test_one_buffer_for_two_connections_in_turn() -> None:
    one, two = connect(), connect()
    buffer = PayloadBuffer()
    send(one, wire.frame(TEXT, b"first"))
    send(two, wire.frame(TEXT, b"other"))
    first = read(one, buffer, CONSISTENT)
    kept = first.payload
    other = read(two, buffer, CONSISTENT)
    # The frame of one never shows the bytes of the other; the view that was taken stays.
    with pytest.raises(StaleFrame):
        first.to_bytes()
    assert (kept, other.to_bytes()) == (b"first", b"other")
    buffer.release()
    with pytest.raises(StaleFrame):
        other.to_bytes()


@pytest.mark.parametrize("origin", [ADAPTIVE, CONSISTENT], ids=lambda origin: origin.value)
def test_frames_that_have_been_read_make_room_while_others_wait(origin: PayloadOrigin) -> None:
    pool = Pool(4096)
    if not pool.land().mirrored:
        pytest.skip("there is room before the tail only where the memory goes on behind the end")
    connection = connect(pool)
    size = pool.land().capacity // 8
    send(connection, wire.frame(BINARY, bytes(size - 4)) * 8)
    assert len(connection.get_buffer()) == 0
    for read_so_far in range(5):
        read(connection, None, origin)
        # The frame that was read last is needed until the next read.
        assert len(connection.get_buffer()) == size * read_so_far + 4
    assert len(batch(connection)) == 3
    assert len(connection.get_buffer()) == size * 5 + 4


# ---- a frame holds nothing, a view does ----


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_kept_frame_pins_nothing(mirrored: bool) -> None:
    pool = Pool(4096, mirrored=mirrored)
    connection = connect(pool)
    kept = []
    for i in range(200):
        send(connection, wire.frame(TEXT, b"%d" % i))
        kept.append(read(connection))
        assert kept[-1].text == str(i)  # looking at it is not holding it either
        assert connection.read_frame() is NEED_MORE
        assert connection.reader._ring is None
    # One ring served them all.
    assert (pool.landing is not None, pool._spare) == (True, [])
    memory = weakref.ref(pool.landing.base)  # type: ignore[union-attr]
    pool.forget()
    del connection, pool
    gc.collect()
    assert memory() is None
    assert len(kept) == 200


def test_a_kept_view_has_its_ring_set_aside_until_it_is_gone() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    send(connection, wire.frame(BINARY, b"kept"))
    view = read(connection).payload
    first = connection.reader._ring
    assert connection.read_frame() is NEED_MORE
    assert connection.reader.is_idle
    for i in range(100):
        send(connection, wire.frame(BINARY, bytes([i]) * 1000))
        assert not connection.reader.holds(first)  # type: ignore[arg-type]
        assert connection.read_message() == bytes([i]) * 1000
        assert connection.read_message() is NEED_MORE
    assert view == b"kept"
    del view
    gc.collect()
    assert pool.lease() is not first  # the one that landed last
    assert pool.lease() is first


def test_where_many_views_are_kept_their_reader_goes_on_behind_them() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    send(connection, wire.frame(BINARY, b"kept"))
    view = read(connection).payload
    held = hold_many(pool)
    first = connection.reader._ring
    assert connection.read_frame() is NEED_MORE
    assert connection.reader._ring is first  # it is held, and there is room behind it
    for i in range(100):
        send(connection, wire.frame(BINARY, bytes([i]) * 1000))
        assert connection.read_message() == bytes([i]) * 1000
        assert connection.read_message() is NEED_MORE
    assert connection.reader._ring is None
    assert first not in (pool.landing, *pool._spare)
    assert view == b"kept"
    assert held


@pytest.mark.parametrize("way", ["frame", "frames", "batch"])
def test_where_many_views_are_kept_one_more_is_a_copy_and_its_ring_goes_back(way: str) -> None:
    """64 connections with a variable for the last payload each: every message of 200,000 bytes had a ring mapped."""
    pool = Pool(4096)
    connection = connect(pool)
    held = hold_many(pool)
    used, kept = set(), []
    for i in range(20):
        payloads = [bytes([i]) * 900, bytes([i + 1]) * 901]
        send(connection, *(wire.frame(BINARY, payload) for payload in payloads))
        if way == "batch":
            views = batch(connection).payloads
        elif way == "frames":
            views = iter([frame.payload for frame in batch(connection)])
        else:
            views = iter([read(connection).payload for _ in payloads])
        assert connection.read_frame() is NEED_MORE
        assert connection.reader.is_idle
        used.add(pool.landing)
        kept.append((views, payloads))
    assert len(used) == 1
    assert all(list(views) == payloads for views, payloads in kept)
    held.clear()
    gc.collect()
    send(connection, wire.frame(BINARY, b"seen where it lies"))
    view = read(connection).payload
    assert connection.reader._ring.is_exported  # type: ignore[union-attr]
    assert view == b"seen where it lies"


def test_buffers_lent_by_the_pool_come_back() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    for i in range(10):
        send_one_by_one(connection, *wire.fragments(BINARY, [b"a", b"%d" % i]))
        frame = read(connection)
        assert pool._buffers == []
        assert frame.to_bytes() == b"a%d" % i
        assert connection.read_frame() is NEED_MORE
        assert len(pool._buffers) == 1
    # And those of messages that never became whole.
    send(connection, wire.frame(BINARY, b"half", fin=False))
    assert connection.read_frame() is NEED_MORE
    assert pool._buffers == []
    connection.receive_eof()
    assert len(pool._buffers) == 1


def test_buffers_lent_for_one_batch_come_back_and_a_callers_does_not() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    messages = wire.fragments(BINARY, [b"a", b"b"]), wire.fragments(TEXT, [b"c", b"d"])
    send_one_by_one(connection, *chain(*messages))
    frames = batch(connection)
    assert [frame.to_bytes() for frame in frames] == [b"ab", b"cd"]
    assert connection.read_frame() is NEED_MORE
    assert all(frame.is_stale for frame in frames)
    assert len(set(pool._buffers)) == 2
    buffer = PayloadBuffer()
    send_one_by_one(connection, *wire.fragments(BINARY, [b"e", b"f"]))
    assert read(connection, buffer).to_bytes() == b"ef"
    connection.reader.begin_stream()  # no message is in progress
    assert (len(pool._buffers), buffer in pool._buffers) == (2, False)


def test_a_buffer_comes_back_as_soon_as_its_message_is_an_object() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    one, two = wire.fragments(BINARY, [b"a", b"b"])
    send(connection, one)
    assert connection.read_message() is NEED_MORE
    send(connection, two)
    assert (connection.read_message(), len(pool._buffers)) == (b"ab", 1)


# ---- messages ----


def test_messages_are_objects_of_the_callers_own() -> None:
    connection = connect(agreement=DEFLATE)
    send(
        connection,
        wire.frame(TEXT, "schön".encode()),
        wire.frame(PING, b"passed over"),
        wire.frame(BINARY, b"\0\1"),
        *wire.fragments(TEXT, [b"ganz ", "schön".encode()]),
        wire.frame(PONG),
        wire.frame(BINARY, wire.deflate(b"inflated"), rsv=4),
        wire.frame(TEXT),
        wire.frame(CLOSE, wire.close_payload(1000)),
    )
    messages = [connection.read_message() for _ in range(5)]
    assert messages == ["schön", b"\0\1", "ganz schön", b"inflated", ""]
    assert [type(message) for message in messages] == [str, bytes, str, bytes, str]
    with pytest.raises(ConnectionClosed) as caught:
        connection.read_message()
    assert (caught.value.code, connection.state) == (1000, State.CLOSED)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(("data", "code"), [(b"\xff\xff", 1007), (wire.deflate(bytes(1001)), 1009)])
def test_a_compressed_message_that_cannot_be_one(opcode: int, data: bytes, code: int) -> None:
    connection = connect(agreement=DEFLATE, max_size=1000)
    send(connection, wire.frame(opcode, data, rsv=4))
    with pytest.raises(ProtocolError) as caught:
        connection.read_message()
    assert caught.value.code == code


def test_compressed_messages_use_the_callers_buffer_one_after_the_other() -> None:
    connection = connect(agreement=DEFLATE)
    buffer = PayloadBuffer()
    for message in (b"a long one", b"short", b""):
        send(connection, wire.frame(BINARY, wire.deflate(message), rsv=4))
        frame = read(connection, buffer)
        assert (frame.to_bytes(), len(buffer)) == (message, len(message))
    buffer.release()
    with pytest.raises(StaleFrame):
        frame.to_bytes()


def test_what_was_inflated_is_counted() -> None:
    assert connect().reader.inflated == (0, 0) and not connect().reader.inflates
    connection = connect(agreement=DEFLATE)
    assert connection.reader.inflated == (0, 0) and connection.reader.inflates
    data = wire.deflate(bytes(1000))
    send(connection, wire.frame(BINARY, data, rsv=4), wire.frame(BINARY, b"plain"))
    assert [connection.read_message(), connection.read_message()] == [bytes(1000), b"plain"]
    assert connection.reader.inflated == (len(data), 1000)


def test_frames_and_messages_by_turns() -> None:
    connection = connect()
    send(connection, *(wire.frame(TEXT, b"%d" % i) for i in range(6)))
    frames = []
    for i in range(0, 6, 2):
        frames.append(read(connection))
        assert frames[-1].text == str(i)
        assert connection.read_message() == str(i + 1)
    assert all("stale" in repr(frame) for frame in frames)


@pytest.mark.parametrize("origin", [ADAPTIVE, CONSISTENT], ids=lambda origin: origin.value)
def test_a_message_stays_in_the_buffer_that_it_began_in(origin: PayloadOrigin) -> None:
    connection = connect()
    first, second = PayloadBuffer(), PayloadBuffer()
    send(connection, wire.frame(BINARY, b"one", fin=False))
    assert connection.read_frame(first, origin) is NEED_MORE
    send(connection, wire.frame(CONTINUATION, b"two", fin=False))
    assert connection.read_frame(second, origin) is NEED_MORE
    send(connection, wire.frame(CONTINUATION, b"three"))
    assert read(connection, None, origin).to_bytes() == b"onetwothree"
    assert (len(first), len(second), first.reader) == (11, 0, None)


def test_a_control_frame_inside_a_message_takes_no_buffer_at_all() -> None:
    connection, half_built, another = connect(), PayloadBuffer(), PayloadBuffer()
    send(connection, wire.frame(BINARY, b"half", fin=False))
    assert connection.read_frame(half_built, CONSISTENT) is NEED_MORE
    for buffer in (half_built, another):
        send(connection, wire.frame(PING, b"ping"))
        assert read(connection, buffer, CONSISTENT).to_bytes() == b"ping"
    assert (len(half_built), another.number) == (4, 0)


def test_consistent_without_a_buffer_has_bytes_of_its_own() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"mine"), wire.frame(TEXT))
    frame = read(connection, None, CONSISTENT)
    view = frame.payload
    connection.reader._ring.memory[:] = bytes(len(connection.reader._ring.memory))  # type: ignore[union-attr]
    assert (view, frame.text) == (b"mine", "mine")
    empty = read(connection, None, CONSISTENT)
    assert (empty.to_bytes(), empty.payload) == (b"", b"")


def test_consistent_that_does_not_fit() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    send(
        connection, wire.frame(BINARY, b"fits"), wire.frame(BINARY, b"does not"), wire.frame(BINARY, b"late")
    )
    memory = bytearray(b"......")
    with memoryview(memory)[:5] as part:
        buffer = PayloadBuffer(part)
        assert read(connection, buffer, CONSISTENT).to_bytes() == b"fits"
        with pytest.raises(LimitExceeded, match="memory that PayloadBuffer") as caught:
            connection.read_frame(buffer, CONSISTENT)
        assert (caught.value.limits, caught.value.size) == ("", None)
        buffer.release()
    assert memory == b"fits.."
    assert (connection.state, pool.landing is not None) == (State.FAILED, True)


def test_a_long_text_is_decoded_where_it_lies() -> None:
    connection = connect(Pool())
    text = "κόσμε 🜚 " * 8000
    send(connection, wire.frame(TEXT, text.encode()), wire.frame(TEXT, b"short"))
    assert [connection.read_message(), connection.read_message()] == [text, "short"]


def test_pings_that_waited_when_replies_were_deferred_are_answered_once() -> None:
    connection = connect()
    send(connection, wire.frame(PING, b"0"), wire.frame(PING, b"1"), wire.frame(TEXT, b"x"))
    connection.reader.defer_replies()
    send(connection, wire.frame(PING, b"2"))
    assert [seen.payload for seen in wire.parse(connection.bytes_to_send())] == [b"0", b"1"]
    assert [read(connection).to_bytes() for _ in range(4)] == [b"0", b"1", b"x", b"2"]
    assert [seen.payload for seen in wire.parse(connection.bytes_to_send())] == [b"2"]


# ---- batches ----


def test_a_batch_is_what_has_arrived_together() -> None:
    connection = connect()
    assert connection.reader.read_batch() is NEED_MORE
    send(
        connection,
        wire.frame(TEXT, b"1"),
        wire.frame(PING, b"2"),
        wire.frame(BINARY, b"3"),
        wire.frame(TEXT)[:1],
    )
    frames = batch(connection)
    assert [(frame.opcode, frame.to_bytes()) for frame in frames] == [
        (OpCode.TEXT, b"1"), (OpCode.PING, b"2"), (OpCode.BINARY, b"3"),
    ]  # fmt: skip
    views = [frame.payload for frame in frames]
    assert connection.reader.read_batch() is NEED_MORE
    for frame in frames:
        with pytest.raises(StaleFrame):
            frame.to_bytes()
    send(connection, wire.frame(TEXT)[1:])
    assert [frame.text for frame in batch(connection)] == [""]
    assert views == [b"1", b"2", b"3"]


def test_a_batch_with_messages_in_pieces() -> None:
    pool = Pool(4096)
    connection = connect(pool, agreement=DEFLATE)
    send(
        connection,
        wire.frame(TEXT, b"0"),
        wire.frame(TEXT, b"o", fin=False),
        wire.frame(PONG, b"a pong"),
        wire.frame(CONTINUATION, b"ne"),
        wire.frame(BINARY, wire.deflate(b"two"), rsv=4),
        wire.frame(PING, b"three"),
        wire.frame(TEXT, b"fo", fin=False),
    )
    frames = batch(connection)
    assert [frame.to_bytes() for frame in frames] == [b"0", b"a pong", b"one", b"two", b"three"]
    assert connection.reader.read_batch() is NEED_MORE
    assert len(pool._buffers) == 1  # of the fragments; what was inflated in one go has bytes of its own
    send(connection, wire.frame(CONTINUATION, b"ur"), wire.frame(CLOSE))
    frames = batch(connection)
    assert [(frame.opcode, frame.to_bytes()) for frame in frames] == [(OpCode.TEXT, b"four")]
    assert connection.state is State.OPEN
    frames = batch(connection)
    assert [(frame.opcode, frame.to_bytes()) for frame in frames] == [(OpCode.CLOSE, b"")]
    assert connection.state is State.CLOSED
    with pytest.raises(ConnectionClosed):
        connection.reader.read_batch()


def test_only_fragments_are_no_batch_yet() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"a", fin=False), wire.frame(CONTINUATION, b"b", fin=False))
    assert connection.reader.read_batch() is NEED_MORE
    send(connection, wire.frame(CONTINUATION, b"c"))
    assert [frame.text for frame in batch(connection)] == ["abc"]


def test_a_ping_in_a_batch_with_pieces_is_answered_when_it_is_read_where_nobody_is_eager() -> None:
    connection = connect()
    connection.reader.eager = False
    one, two = wire.fragments(TEXT, [b"a", b"b"])
    send_one_by_one(connection, one, wire.frame(PING, b"inside"), two)
    assert connection.bytes_to_send() == b""
    assert [frame.to_bytes() for frame in batch(connection)] == [b"inside", b"ab"]
    assert [seen.payload for seen in wire.parse(connection.bytes_to_send())] == [b"inside"]


def test_what_came_before_a_fault_in_a_batch_is_still_good() -> None:
    pool = Pool(4096)
    connection, other = connect(pool, agreement=DEFLATE), connect(pool)
    send(
        connection,
        *wire.fragments(TEXT, [b"go", b"od"]),
        wire.frame(BINARY, b"\xff\xff", rsv=4),
        wire.frame(TEXT, b"late"),
    )
    frames = batch(connection)
    # Its buffer is not lent to anybody else meanwhile.
    send(other, *wire.fragments(TEXT, [b"ev", b"il"]))
    assert other.read_message() == "evil"
    assert [frame.text for frame in frames] == ["good"]
    with pytest.raises(ProtocolError) as caught:
        connection.reader.read_batch()
    assert (caught.value.code, frames[0].is_stale) == (1007, True)
    # A batch that is nothing but the fault raises at once.
    connection = connect(agreement=DEFLATE)
    send(connection, wire.frame(BINARY, b"\xff\xff", rsv=4))
    with pytest.raises(ProtocolError):
        connection.reader.read_batch()


def test_messages_in_pieces_before_a_fault_that_came_with_them_are_in_the_batch() -> None:
    connection = connect()
    send(connection, *wire.fragments(TEXT, [b"a", b"b"]), wire.frame(TEXT, b"c"), wire.frame(3))
    assert [frame.text for frame in batch(connection)] == ["ab", "c"]
    with pytest.raises(ProtocolError, match="reserved opcode"):
        connection.reader.read_batch()


def test_what_is_behind_a_fault_that_is_found_late_is_in_no_batch() -> None:
    connection = connect(agreement=DEFLATE)
    # The same fault as the one that the scan has found behind it.
    bad = wire.frame(TEXT, wire.deflate(b"\xff"), rsv=4)
    send(connection, wire.frame(TEXT, b"a"), bad, wire.frame(TEXT, b"b"), wire.frame(TEXT, b"\xff"))
    assert [frame.text for frame in batch(connection)] == ["a"]
    with pytest.raises(ProtocolError, match="text is not UTF-8"):
        connection.reader.read_batch()


@pytest.mark.parametrize("method", ["read_frame", "read_message"])
def test_what_is_behind_a_fault_that_is_found_late_is_not_read(method: str) -> None:
    """RFC 6455 7.1.7: after it the connection has failed."""
    connection = connect(agreement=DEFLATE)
    bad = wire.frame(TEXT, wire.deflate(b"\xff"), rsv=4)
    send(connection, bad, wire.frame(TEXT, b"late"))
    with pytest.raises(ProtocolError, match="text is not UTF-8"):
        getattr(connection.reader, method)()


def test_what_is_behind_a_fault_that_is_found_late_is_not_shown() -> None:
    connection = connect(agreement=DEFLATE)
    bad = wire.frame(TEXT, wire.deflate(b"\xff"), rsv=4)
    send(connection, wire.frame(TEXT, b"good"), bad, wire.frame(TEXT, b"late"))
    shown: list[str] = []
    with pytest.raises(ProtocolError, match="text is not UTF-8"):
        show(connection, lambda frame: shown.append(frame.text))
    assert shown == ["good"]


def test_a_close_behind_whole_frames_takes_effect_when_its_batch_is_read() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"x"), wire.frame(CLOSE, wire.close_payload(1000)))
    assert connection.state is State.OPEN
    assert [frame.opcode for frame in batch(connection)] == [OpCode.TEXT]
    connection.send("an answer")
    assert connection.state is State.OPEN
    assert [frame.opcode for frame in batch(connection)] == [OpCode.CLOSE]
    assert connection.state is State.CLOSED
    with pytest.raises(ConnectionClosed):
        batch(connection)


@pytest.mark.parametrize(
    "first", [[], [wire.frame(TEXT, b"x")], [wire.frame(TEXT, wire.deflate(b"x"), rsv=4)]]
)
def test_a_fault_that_a_batch_comes_upon_takes_effect_behind_it(first: list[bytes]) -> None:
    """What came before it in the same read can be answered, as where they came one by one."""
    connection = connect(agreement=DEFLATE)
    bad = wire.frame(BINARY, b"\xff\xff\xff", rsv=4)
    send(connection, *first, bad, wire.frame(TEXT, b"never seen"))
    if first:
        assert [frame.text for frame in batch(connection)] == ["x"]
        assert (connection.state, connection.reader.is_ending) == (State.OPEN, True)
        connection.send("an answer")
    with pytest.raises(ProtocolError, match="cannot be inflated"):
        batch(connection)
    assert connection.state is State.FAILED
    frames = wire.parse(connection.bytes_to_send())
    assert [frame.opcode for frame in frames] == [TEXT] * len(first) + [CLOSE]


# ---- frames for somebody who looks at each ----

MANY = [wire.frame(TEXT, b"%d" % i) for i in range(8)]
TO_SHOW = {
    "many alike": (MANY, 8),
    "few": (MANY[:2], 2),
    "binary": ([wire.frame(BINARY, b"%d" % i) for i in range(8)], 8),
    "of two kinds": ([*MANY, wire.frame(BINARY, b"8")], 9),
    "a Ping among them": ([*MANY, wire.frame(PING, b"ping")], 9),
    "fragments among them": ([*MANY, wire.frame(TEXT, b"8", fin=False), wire.frame(PING)], 9),
    "a Close behind them": ([*MANY, wire.frame(CLOSE)], 8),
    "few, of all kinds": (
        [
            wire.frame(TEXT, b"1"),
            wire.frame(BINARY, b"2"),
            wire.frame(TEXT, b"3", fin=False),
            wire.frame(PING, b"4"),
            wire.frame(CONTINUATION, bytes(20_000)),  # elsewhere
            wire.frame(TEXT, b"5"),
            wire.frame(PONG, b"6"),
            wire.frame(BINARY, b"7"),
        ],
        7,
    ),
}


def show(
    connection: Connection, look: Callable[[Frame], object], most: int = 100, most_inflated: int = 1 << 22
) -> bool:
    def raised(error: BaseException) -> None:
        raise error

    return connection.reader.show_waiting(lambda owner, frame: look(frame), None, raised, most, most_inflated)


@pytest.mark.parametrize("case", TO_SHOW)
def test_frames_to_show_are_those_that_are_read(case: str) -> None:
    frames, count = TO_SHOW[case]
    read_one_by_one, connection = connect(Pool(1 << 16)), connect(Pool(1 << 16))
    send(read_one_by_one, *frames)
    send(connection, *frames)
    shown: list[Frame] = []

    def look(frame: Frame) -> None:
        assert [old.is_stale for old in shown] == [True] * len(shown)
        other = read(read_one_by_one)
        assert (frame.opcode, frame.payload, frame.to_bytes()) == (
            other.opcode,
            other.payload,
            other.to_bytes(),
        )
        shown.append(frame)

    with pytest.raises(ConnectionClosed) if "Close" in case else nullcontext():
        assert not show(connection, look)
    assert len(shown) == count
    assert all(frame.is_stale for frame in shown)
    if "Close" not in case:
        assert connection.read_frame() is NEED_MORE


@pytest.mark.parametrize("many", [MANY, MANY[:3]], ids=["many", "few"])
@pytest.mark.parametrize("end", ["enough", "full", "closed", "failed", "raised"])
def test_showing_ends_in_the_middle(end: str, many: list[bytes]) -> None:
    """What is left is read by whoever comes next: the last one that was shown is stale then, and none is missing."""
    connection, shown = connect(), list[tuple[Frame, bytes]]()
    send(connection, *many)

    def look(frame: Frame) -> None:
        if end == "full":
            connection.reader.is_showing = False
        elif end == "closed":
            connection.close()
        elif end == "failed":
            connection.fail(1011, "a test")
        elif end == "raised":
            raise LookupError
        shown.append((frame, frame.to_bytes()))  # it is good for as long as it is looked at

    with pytest.raises(LookupError) if end == "raised" else nullcontext():
        assert show(connection, look, most=1 if end == "enough" else 100) == (end == "enough")
    assert [payload for _, payload in shown] == ([] if end == "raised" else [b"0"])
    assert all(frame.is_stale for frame, _ in shown)
    assert (connection.reader.rows_waiting, connection.reader.is_showing) == (len(many) - 1, False)
    assert [read(connection).to_bytes() for _ in many[1:]] == [b"%d" % i for i in range(1, len(many))]


def test_showing_goes_on_behind_a_function_that_fails() -> None:
    connection, failures = connect(), list[BaseException]()
    send(connection, *MANY)

    def look(owner: str, frame: Frame) -> None:
        raise ValueError(owner, frame.text)

    assert not connection.reader.show_waiting(look, "owner", failures.append, 100, 1 << 22)
    assert [error.args for error in failures] == [("owner", str(i)) for i in range(8)]


@pytest.mark.parametrize("kind", ["alike", "of two kinds", "compressed", "fragments"])
def test_as_many_frames_are_shown_as_are_asked_for(kind: str) -> None:
    connection, shown = connect(agreement=DEFLATE), list[bytes]()
    for i in range(4):
        first = wire.frame(TEXT, b"%d" % (2 * i), fin=kind != "fragments")
        second = wire.frame(BINARY if kind == "of two kinds" else TEXT, b"%d" % (2 * i + 1))
        if kind == "compressed":
            second = wire.frame(TEXT, wire.deflate(b"%d" % (2 * i + 1)), rsv=4)
        elif kind == "fragments":
            second = wire.frame(CONTINUATION, b"")
        send(connection, first, second)
    while show(connection, lambda frame: shown.append(frame.to_bytes()), most=2):
        assert len(shown) % 2 == 0
    assert shown == [b"%d" % i for i in range(0, 8, 2 if kind == "fragments" else 1)]


def test_showing_ends_with_the_frame_that_brings_enough_inflated_bytes() -> None:
    connection, shown = connect(agreement=DEFLATE), list[int]()
    bomb = wire.frame(BINARY, wire.deflate(bytes(1000)), rsv=4)
    send(connection, *[bomb] * 4, *MANY[:2])
    assert show(connection, lambda frame: shown.append(len(frame)), most_inflated=3000)
    assert shown == [1000] * 3
    assert not show(connection, lambda frame: shown.append(len(frame)), most_inflated=3000)
    assert shown == [1000] * 4 + [1, 1]


def test_a_frame_that_lies_elsewhere_is_stale_when_the_next_is_shown() -> None:
    connection, shown = connect(agreement=DEFLATE), list[Frame]()
    send(connection, wire.frame(TEXT, wire.deflate(b"elsewhere"), rsv=4), *MANY)

    def look(frame: Frame) -> None:
        assert [old.is_stale for old in shown] == [True] * len(shown)
        shown.append(frame)

    assert not show(connection, look)
    assert len(shown) == 9
    assert all(frame.is_stale for frame in shown)


def test_showing_begins_behind_what_was_read() -> None:
    connection = connect()
    send(connection, *MANY[:3])
    before, shown = read(connection), list[tuple[bytes, bool]]()
    show(connection, lambda frame: shown.append((frame.to_bytes(), before.is_stale)))
    assert shown == [(b"1", True), (b"2", True)]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_frames_that_come_while_one_is_looked_at_are_shown_behind_it(count: int) -> None:
    connection, shown = connect(), list[bytes]()
    send(connection, *MANY[:count])

    def look(frame: Frame) -> None:
        if len(shown) in (0, count - 1):
            send(connection, wire.frame(BINARY, b"more"), wire.frame(BINARY, b"more"))
        shown.append(frame.to_bytes())  # it has not moved
        assert len(shown) < 20

    show(connection, look)
    assert shown[:count] == [b"%d" % i for i in range(count)]
    assert shown[count:] == [b"more"] * (2 if count == 1 else 4)
    assert connection.reader.is_idle


def test_no_memory_for_a_frame_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect()
    send(connection, *MANY[:2])
    monkeypatch.setattr("zcws.reader.RingFrame", NoMemory())
    fails(connection, lambda: show(connection, Frame.to_bytes))


def test_no_frames_are_shown_once_we_have_closed_or_while_a_message_is_streamed() -> None:
    connection = connect()
    connection.reader.begin_stream()
    with pytest.raises(RuntimeError, match="streamed"):
        show(connection, Frame.to_bytes)
    connection.reader.end_stream()
    send(connection, *MANY)
    connection.close()
    assert not show(connection, pytest.fail)


def test_views_of_frames_that_were_shown_stay() -> None:
    """Whoever looks keeps them all."""
    connection, kept = connect(Pool(4096)), []
    for _ in range(30):
        send(connection, *MANY)
        show(connection, lambda frame: kept.append(frame.payload))
    assert [bytes(view) for view in kept] == [b"%d" % (i % 8) for i in range(240)]


# ---- the end, for those who only want to know that there is one ----


def ended(*frames: bytes, before: Any = None) -> Connection:
    """A server's connection that has received these frames; `before` is done with it first."""
    connection = Connection(is_client=False, pool=Pool(4096))
    if before is not None:
        before(connection)
    send(connection, *frames)
    return connection


MASKED_CLOSE = wire.frame(CLOSE, b"\x03\xe8bye", key=wire.KEY)


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9going"])
def test_an_end_that_is_well(payload: bytes) -> None:
    connection = ended(wire.frame(PING, key=wire.KEY), wire.frame(CLOSE, payload, key=wire.KEY))
    assert not connection.reader.has_ended_well()  # a Ping waits before it
    assert read(connection).opcode == OpCode.PING
    assert connection.reader.has_ended_well()
    assert connection.reader.has_ended_well()
    assert connection.state is State.CLOSED
    with pytest.raises(ConnectionClosed):
        connection.read_message()


def test_the_frame_before_it_is_stale() -> None:
    connection = ended(wire.frame(TEXT, b"first", key=wire.KEY))
    frame = read(connection)
    send(connection, MASKED_CLOSE)
    assert connection.reader.has_ended_well()
    with pytest.raises(StaleFrame):
        frame.to_bytes()


@pytest.mark.parametrize(
    "connection",
    [
        ended(),
        ended(wire.frame(CLOSE, b"\x03\xeb", key=wire.KEY)),
        ended(wire.frame(TEXT, b"first", key=wire.KEY), MASKED_CLOSE),
        ended(wire.frame(TEXT, b"unmasked")),
        ended(MASKED_CLOSE, before=lambda connection: connection.fail(1011, "ours")),
    ],
    ids=["open", "1003", "a message waits", "a fault", "failed by us"],
)
def test_other_ends(connection: Connection) -> None:
    assert not connection.reader.has_ended_well()


def test_in_the_middle_of_a_stream() -> None:
    connection = ended(MASKED_CLOSE, before=lambda connection: connection.reader.begin_stream())
    assert not connection.reader.has_ended_well()


def test_a_close_behind_a_message_is_no_end_before_it_has_been_answered() -> None:
    """RFC 6455 5.5.1."""
    connection = connect()
    send(connection, wire.frame(TEXT, b"x"), wire.frame(CLOSE, wire.close_payload(1000)))
    assert connection.read_message() == "x"
    assert not connection.reader.has_ended_well()
    with pytest.raises(ConnectionClosed):
        connection.read_message()
    assert [seen.opcode for seen in wire.parse(connection.bytes_to_send())] == [CLOSE]


def test_a_good_end_gives_the_ring_and_the_buffer_back() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    buffer = PayloadBuffer()
    send(connection, wire.frame(BINARY, b"never whole", fin=False))
    assert connection.read_frame(buffer) is NEED_MORE
    ring = pool.landing
    assert ring is not None
    send(connection, wire.frame(CLOSE, wire.close_payload(1000)))
    assert connection.reader.rows_waiting
    assert connection.reader.has_ended_well()
    assert (connection.reader._ring, connection.reader.rows_waiting, buffer.reader) == (None, 0, None)
    assert pool.landing is ring


def test_a_good_end_behind_a_message_gives_the_ring_back_when_it_is_seen() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    ring = pool.land()
    send(connection, wire.frame(TEXT, b"last") + wire.frame(CLOSE))
    assert (connection.reader.read_message(), connection.reader.rows_read) == ("last", 1)
    connection.reader.conclude()
    assert (pool.landing, connection.reader._ring) == (None, ring)
    assert connection.reader.has_ended_well()
    assert (pool.landing, connection.reader._ring) == (ring, None)


@pytest.mark.parametrize("code", [1000, None])
def test_a_close_that_nobody_reads_holds_no_ring(code: int | None) -> None:
    pool = Pool(4096)
    payload = wire.close_payload(code, b"bye") if code else b""
    for read_close in (
        lambda connection: connection.read_frame(),
        lambda connection: connection.reader.read_batch()[0],
        lambda connection: connection.read_frame(PayloadBuffer(), CONSISTENT),
        lambda connection: connection.read_frame(None, CONSISTENT),
    ):
        connection = connect(pool)
        ring = pool.land()
        send(connection, wire.frame(CLOSE, payload))
        assert (pool.landing, connection.reader._ring) == (ring, None)
        another = connect(pool)
        send(another, wire.frame(TEXT, b"in its place"))
        close = read_close(connection)
        assert (close.opcode, close.to_bytes(), bytes(close.payload)) == (OpCode.CLOSE, payload, payload)
        assert (close.close_code, close.close_reason) == ((1000, "bye") if code else (1005, ""))
        with pytest.raises(ConnectionClosed):
            connection.read_frame()
        assert close.is_stale
        assert another.reader.read_message() == "in its place"


def test_a_close_behind_a_frame_that_is_still_looked_at_leaves_it_its_ring() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"before"))
    frame = read(connection)
    send(connection, wire.frame(CLOSE, b""))
    assert (frame.to_bytes(), bytes(frame.payload)) == (b"before", b"before")
    assert read(connection).opcode is OpCode.CLOSE
    assert frame.is_stale


def test_half_a_message_before_it() -> None:
    """A Close that has taken effect although nobody read, as a driver's deadline does it."""
    half, ping = wire.frame(TEXT, b"half", fin=False, key=wire.KEY), wire.frame(PING, key=wire.KEY)
    connection, buffer = ended(half, ping, MASKED_CLOSE), PayloadBuffer()
    connection.reader.conclude()
    assert read(connection, buffer).opcode == OpCode.PING
    assert buffer.reader is connection.reader
    assert connection.reader.has_ended_well()
    assert buffer.reader is None  # others may use it


# ---- no memory in the middle of a read ----

READS = ["read_message", "read_frame", "read_batch"]


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_fragment_that_there_is_no_memory_for(
    name: str, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that caught the MemoryError and read on was given the message without it."""
    connection = connect()
    attempt = getattr(connection.reader, name)
    fragments = wire.fragments(TEXT, [letter * 3000 for letter in (b"a", b"b", b"c")])
    for fragment in fragments[:lost]:
        send(connection, fragment)
        assert attempt() is NEED_MORE
    send(connection, fragments[lost])
    monkeypatch.setattr("zcws.buffer.new_uncleared", NoMemory())
    if connection.reader._assembly is not None:
        storage = connection.reader._assembly.target._storage
        storage.memory = storage.memory[:1]
    fails(connection, attempt)


def test_fragments_that_came_together_without_memory_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect()
    first, second = wire.fragments(TEXT, [b"a", b"b"])
    send(connection, first, wire.frame(PING), second[:1])
    connection.bytes_to_send()
    monkeypatch.setattr("zcws.buffer.new_uncleared", NoMemory())
    fails(connection, connection.reader.read_message)


@pytest.mark.parametrize("name", READS)
def test_no_memory_to_inflate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The context has gone on without what is lost, and the next message may refer to it."""
    connection = connect(agreement=DEFLATE)
    for text in (b"lost", b"behind"):
        send(connection, wire.frame(TEXT, wire.deflate(text), rsv=4))
    monkeypatch.setattr(type(connection.reader._inflate), "message", NoMemory())
    fails(connection, getattr(connection.reader, name))


@pytest.mark.parametrize(("opcode", "size"), [(TEXT, 10), (TEXT, 5000), (BINARY, 10)])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_whole_messages_without_memory_for_them(opcode: int, size: int, count: int) -> None:
    connection = connect(Pool(64 * 1024))
    send(connection, *[wire.frame(opcode, b"x" * size)] * count)
    ring: Any = connection.reader._ring
    ring.copies = ring.memory = NoMemory()
    fails(connection, connection.reader.read_message)


def test_many_messages_of_which_one_has_no_memory() -> None:
    """They are made without a word to the reader."""
    connection = connect()
    send(connection, *[wire.frame(BINARY, bytes([number])) for number in range(8)])
    ring: Any = connection.reader._ring

    class Some:
        left = 3

        def __getitem__(self, part: slice) -> bytes:
            if self.left == 0:
                raise MemoryError
            self.left -= 1
            return copies[part]  # type: ignore[no-any-return]

    copies, ring.copies = ring.copies, Some()
    assert connection.read_message() == b"\x00"
    ready = connection.reader.ready
    assert [next(ready), next(ready)] == [b"\x01", b"\x02"]
    fails(connection, lambda: next(connection.reader.ready, None) or connection.read_message())
