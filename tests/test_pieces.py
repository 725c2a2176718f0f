"""Messages that arrive in pieces: streamed as they come, left in the middle, in fragments."""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any

import pytest
import turn
import wire
from pythons import needs_cpython
from receiver import DEFLATE, NoMemory, batch, connect, fails, read, send, send_one_by_one
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from zcws.buffer import PayloadBuffer
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, ConnectionClosedError, LimitExceeded, ProtocolError
from zcws.frame import NEED_MORE
from zcws.pool import TABLE_ROWS, Pool

# ---- a message as it arrives ----


def pieces(connection: Connection) -> tuple[list[Any], bool]:
    """All pieces that are there, and whether the message has ended."""
    found, last = [], False
    while not last:
        piece = connection.reader.read_piece()
        if piece is NEED_MORE:
            break
        data, last = piece
        found.append(data)
    return found, last


@pytest.mark.parametrize("size", [1, 3, 1000, 100_000])
@pytest.mark.parametrize("rsv", [0, 4], ids=["plain", "compressed"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_in_pieces_as_they_arrive(opcode: int, rsv: int, size: int) -> None:
    message = "κόσμε 🜚 ".encode() * 500
    data = wire.deflate(message) if rsv else message
    fragments = wire.fragments(opcode, [data[:5], b"", data[5:]], rsv=rsv)
    stream = wire.frame(PING).join(fragments) + wire.frame(TEXT, b"next")
    connection = connect(agreement=DEFLATE)
    connection.reader.begin_stream()
    found: list[Any] = []
    ended = False
    for at in range(0, len(stream), size):
        piece = memoryview(stream)[at : at + size]
        while piece:
            piece = piece[connection.receive_bytes(piece) :]
            if not ended:
                new, ended = pieces(connection)
                found += new
    assert ended
    empty: Any = "" if opcode == TEXT else b""
    assert empty.join(found) == (message.decode() if opcode == TEXT else message)
    assert connection.read_message() == "next"


@pytest.mark.parametrize("rsv", [0, 4], ids=["plain", "compressed"])
def test_the_rest_of_a_message_that_nobody_wants(rsv: int) -> None:
    connection = connect(agreement=DEFLATE)
    connection.reader.begin_stream()
    data = wire.deflate(b"unwanted" * 100) if rsv else b"unwanted" * 100
    one, two, three = wire.fragments(BINARY, [data[:4], data[4:8], data[8:]], rsv=rsv)
    send(connection, one)
    pieces(connection)
    connection.reader.end_stream()
    assert connection.read_message() is NEED_MORE
    send(connection, two)
    assert connection.read_message() is NEED_MORE
    send(connection, three, wire.frame(TEXT, b"wanted"))
    assert connection.read_message() == "wanted"


@pytest.mark.parametrize("bad", [b"abc\xed\xa0\x80", b"abc\xce"])
def test_bad_text_in_pieces(bad: bytes) -> None:
    for rsv, data in ((0, bad), (4, wire.deflate(bad))):
        connection = connect(agreement=DEFLATE)
        connection.reader.begin_stream()
        send(connection, wire.frame(TEXT, data, rsv=rsv))
        with pytest.raises(ProtocolError) as caught:
            pieces(connection)
        assert caught.value.code == 1007


def test_limits_and_corrupt_data_in_pieces() -> None:
    for data, code in ((wire.deflate(bytes(100_001)), 1009), (b"\xff\xff", 1007)):
        connection = connect(agreement=DEFLATE, max_size=100_000)
        connection.reader.begin_stream()
        send(connection, wire.frame(BINARY, data, rsv=4))
        with pytest.raises(ProtocolError) as caught:
            pieces(connection)
        assert caught.value.code == code
    connection = connect(agreement=DEFLATE, max_size=100_000)
    connection.reader.begin_stream()
    send(connection, wire.frame(BINARY, wire.deflate(bytes(100_000)), rsv=4))
    assert pieces(connection)[1]


@pytest.mark.parametrize("end", [b"", wire.frame(CLOSE, b"\x03\xe8"), wire.frame(TEXT, rsv=2)], ids=len)
def test_the_end_waits_for_the_rest_of_a_row_that_is_read_in_pieces(end: bytes) -> None:
    """RFC 6455 7.1.7: what is wrong with the rest comes first: the peer is told that, and not what came behind it."""
    connection = connect(agreement=DEFLATE, max_size=100_000)
    connection.reader.begin_stream()
    send(connection, wire.frame(BINARY, wire.deflate(bytes(300_000)), rsv=4))
    piece = connection.reader.read_piece()
    assert piece is not NEED_MORE
    assert piece[1] is False
    send(connection, end)
    connection.receive_eof()
    assert not connection.reader.is_concluded
    with pytest.raises(LimitExceeded):
        pieces(connection)
    assert [(seen.opcode, seen.payload[:2]) for seen in wire.parse(connection.bytes_to_send())] == [
        (CLOSE, b"\x03\xf1")
    ]


def test_the_rest_of_a_message_that_was_left_is_dropped_whatever_streams_begin_meanwhile() -> None:
    connection = connect()
    stream = wire.frame(TEXT, b"left in the middle")
    connection.reader.begin_stream()
    send(connection, stream[:10])
    assert connection.reader.read_piece() == ("left in ", False)
    connection.reader.end_stream()
    connection.reader.begin_stream()
    assert connection.reader.read_piece() is NEED_MORE
    connection.reader.end_stream()
    send(connection, stream[10:] + wire.frame(TEXT, b"next"))
    assert connection.read_message() == "next"


def test_a_stream_that_begins_after_the_end_finds_nothing() -> None:
    """What is there of an unfinished frame may be wrong, and nobody could be told any more."""
    connection = connect(agreement=DEFLATE, max_size=100_000)
    send(connection, wire.frame(BINARY, wire.deflate(bytes(300_000)) + b"more", rsv=4)[:-4])
    connection.receive_eof()
    assert connection.reader.is_concluded
    connection.reader.begin_stream()
    with pytest.raises(ConnectionClosed) as caught:
        connection.reader.read_piece()
    assert caught.value.code == 1006
    assert connection.bytes_to_send() == b""


def test_a_stream_begins_with_a_message_and_is_read_as_one() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"half", fin=False))
    assert connection.read_frame() is NEED_MORE
    with pytest.raises(RuntimeError, match="finish it with that"):
        connection.reader.begin_stream()
    connection = connect()
    connection.reader.begin_stream()
    with pytest.raises(RuntimeError, match="being streamed already"):
        connection.reader.begin_stream()
    send(connection, wire.frame(TEXT, b"half", fin=False))
    pieces(connection)
    send(connection, wire.frame(CONTINUATION, b"more"))
    with pytest.raises(RuntimeError, match="being streamed"):
        connection.read_frame()


def test_a_stream_begins_in_the_middle_of_a_frame() -> None:
    connection = connect()
    send(connection, wire.frame(BINARY, b"0123456789")[:6])
    connection.reader.begin_stream()
    assert pieces(connection) == ([b"0123"], False)
    send(connection, b"45")
    assert pieces(connection) == ([b"45"], False)
    send(connection, b"6789")
    assert pieces(connection) == ([b"6789"], True)
    connection.reader.end_stream()  # it has ended by itself: nothing is left to skip
    assert in_two(connection) == b"next"


def in_two(connection: Connection) -> Any:
    """The next message, whose fragments come one after the other."""
    one, two = wire.fragments(BINARY, [b"ne", b"xt"])
    send(connection, one)
    assert connection.read_message() is NEED_MORE
    send(connection, two)
    return connection.read_message()


def test_a_stream_that_is_left_before_it_begins_takes_nothing() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"before"))
    frame = read(connection)
    connection.reader.begin_stream()
    assert (frame.is_stale, connection.reader.streaming) == (True, 0)
    connection.reader.end_stream()
    data = wire.frame(TEXT, b"waited for until it is whole")
    send(connection, data[:9])
    assert connection.reader.rows_waiting == 0
    send(connection, data[9:])
    assert connection.read_message() == "waited for until it is whole"
    assert in_two(connection) == b"next"


def test_a_stream_begins_and_frames_that_lie_elsewhere_or_were_handed_on_past_the_reader_are_stale() -> None:
    pool = Pool(4096)
    connection = connect(pool)
    send_one_by_one(connection, *wire.fragments(BINARY, [b"a", b"b"]))
    frame = read(connection)
    connection.reader.begin_stream()
    assert (frame.is_stale, len(pool._buffers)) == (True, 1)
    connection = connect(pool)
    _, _, frame = turn.arrive_as_frame(pool, connection, wire.frame(BINARY, b"past it"))
    connection.reader.begin_stream()
    assert frame.is_stale


def test_control_frames_in_a_stream_have_their_turn() -> None:
    connection = connect()
    connection.reader.eager = False
    connection.reader.begin_stream()
    send(connection, wire.frame(PING, b"turn"), wire.frame(BINARY, b"piece"))
    assert connection.bytes_to_send() == b""
    assert pieces(connection) == ([b"piece"], True)
    assert [seen.payload for seen in wire.parse(connection.bytes_to_send())] == [b"turn"]


def test_a_stream_that_is_left_in_the_middle_of_what_it_inflates() -> None:
    connection = connect(agreement=DEFLATE)
    connection.reader.begin_stream()
    send(connection, wire.frame(BINARY, wire.deflate(bytes(300_000)), rsv=4), wire.frame(TEXT, b"next"))
    assert connection.reader.read_piece() is not NEED_MORE
    connection.reader.end_stream()
    assert connection.read_message() == "next"


def test_what_is_left_of_a_stream_is_part_of_the_context() -> None:
    """RFC 7692 7.1.1: the next message may refer to it, and begins with its own first frame."""
    compressor = zlib.compressobj(wbits=-15)
    connection = connect(agreement=DEFLATE)
    sample = os.urandom(500)
    first, second = (
        (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        for data in (bytes(300_000) + sample, sample)
    )
    assert len(second) < len(sample) // 2
    connection.reader.begin_stream()
    send(connection, wire.frame(BINARY, first, rsv=4))
    assert connection.reader.read_piece() is not NEED_MORE
    connection.reader.end_stream()
    for frame in wire.fragments(BINARY, [second[:5], second[5:]], rsv=4):
        assert connection.read_message() is NEED_MORE
        send(connection, frame)
    assert connection.read_message() == sample


def test_no_piece_is_empty_but_the_last() -> None:
    connection = connect(agreement=DEFLATE)
    connection.reader.begin_stream()
    send(connection, *wire.fragments(BINARY, [b"a", b"", b"b", b""]))
    assert pieces(connection) == ([b"a", b"b", b""], True)
    # RFC 7692 7.2.3.4: two final blocks, and a character that is cut between them.
    blocks = b""
    for byte in "ä".encode():
        compressor = zlib.compressobj(wbits=-15)
        blocks += compressor.compress(bytes([byte])) + compressor.flush()
    connection.reader.begin_stream()
    send(connection, wire.frame(TEXT, blocks + b"\0", rsv=4))
    assert pieces(connection) == (["ä", ""], True)


def test_a_bomb_that_nobody_wants() -> None:
    connection = connect(agreement=DEFLATE, max_size=100_000)
    connection.reader.begin_stream()
    bomb = wire.deflate(bytes(20_000_000))
    one, two = wire.fragments(BINARY, [bomb[:10], bomb[10:]], rsv=4)
    send(connection, one)
    pieces(connection)
    connection.reader.end_stream()
    with pytest.raises(LimitExceeded):
        for at in range(0, len(two), 1000):
            send(connection, two[at : at + 1000])
            assert connection.read_message() is NEED_MORE


def test_more_frames_than_a_table_has_rows_read_as_batches_and_as_pieces() -> None:
    count = 2 * TABLE_ROWS + 3
    stream = wire.frame(PING) * (count - 1) + wire.frame(TEXT, b"last")
    connection = connect(Pool())
    send(connection, stream)
    assert [len(batch(connection)) for _ in range(3)] == [TABLE_ROWS, TABLE_ROWS, 3]
    connection = connect(Pool())
    connection.reader.begin_stream()
    send(connection, stream)
    assert pieces(connection) == (["last"], True)


def test_the_message_after_one_that_nobody_wanted_is_streamed() -> None:
    connection = connect()
    connection.reader.begin_stream()
    send(connection, wire.frame(BINARY, b"un", fin=False))
    pieces(connection)
    connection.reader.end_stream()
    connection.reader.begin_stream()
    send(connection, wire.frame(CONTINUATION, b"wanted?"), wire.frame(BINARY, b"wanted"))
    assert pieces(connection) == ([b"wanted"], True)


def test_nothing_else_reads_while_a_message_is_streamed() -> None:
    connection = connect()
    connection.reader.begin_stream()
    for read_other in (connection.read_frame, connection.read_message, connection.reader.read_batch):
        with pytest.raises(RuntimeError, match="a message is being streamed; read or leave it first"):
            read_other()


@pytest.mark.parametrize("rsv", [0, 4], ids=["plain", "compressed"])
def test_text_that_nobody_wants_has_to_be_utf8(rsv: int) -> None:
    """RFC 6455 8.1: also behind the piece with which its stream was left, and also where it was compressed."""
    stored = [b"\0" + struct.pack("<HH", 3, 0xFFFC) + data for data in (b"abc", b"d\xffe")]  # RFC 1951 3.2.4
    data = [*stored[:1], stored[1] + b"\0"] if rsv else [b"abc", b"d\xffe"]
    first, second = wire.fragments(TEXT, data, rsv=rsv)
    connection = connect(agreement=DEFLATE)
    connection.reader.begin_stream()
    send(connection, first)
    assert pieces(connection) == (["abc"], False)
    connection.reader.end_stream()
    send(connection, second, wire.frame(TEXT, b"next"))
    with pytest.raises(ProtocolError) as caught:
        connection.read_message()
    assert caught.value.code == 1007


def test_what_cannot_be_inflated_of_a_message_that_nobody_wants() -> None:
    connection = connect(agreement=DEFLATE)
    connection.reader.begin_stream()
    send(connection, wire.frame(BINARY, fin=False, rsv=4))
    pieces(connection)
    connection.reader.end_stream()
    send(connection, wire.frame(CONTINUATION, b"\xff\xff"))
    with pytest.raises(ProtocolError) as caught:
        connection.read_message()
    assert caught.value.code == 1007


@pytest.mark.parametrize("extra", [0, 1])
def test_what_nobody_wants_is_counted_for_each_message(extra: int) -> None:
    """RFC 7692 7.1.1: it is inflated all the same; `max_size` holds, and exactly that many bytes are allowed."""
    connection = connect(agreement=DEFLATE, max_size=1000)
    for size in (1000, 1000 + extra):
        connection.reader.begin_stream()
        one, two = wire.fragments(BINARY, [b"", wire.deflate(bytes(size))], rsv=4)
        send(connection, one)
        assert pieces(connection) == ([], False)
        connection.reader.end_stream()
        send(connection, two)
        if size > 1000:
            with pytest.raises(LimitExceeded):
                connection.read_message()
        else:
            assert connection.read_message() is NEED_MORE


@pytest.mark.parametrize("how", ["fragments", "streamed", "unwanted"])
@pytest.mark.parametrize(("size", "code"), [(100_000, 1007), (100_002, 1009), (110_000, 1009)])
def test_too_long_and_corrupt_behind_that(how: str, size: int, code: int) -> None:
    connection = connect(agreement=DEFLATE, max_size=100_000)
    data = wire.deflate(bytes(size)) + b"\x00\x00\xff\xff\x06"  # a reserved block type
    one, two = wire.fragments(BINARY, [data[:10], data[10:]], rsv=4)
    if how != "fragments":
        connection.reader.begin_stream()
    send(connection, one)
    if how == "unwanted":
        pieces(connection)
        connection.reader.end_stream()
    send(connection, two)
    with pytest.raises(ProtocolError) as caught:
        (pieces if how == "streamed" else lambda it: it.read_message())(connection)
    assert caught.value.code == code


def test_what_nobody_wants_is_inflated_no_further_than_shows_that_it_is_too_large() -> None:
    connection = connect(agreement=DEFLATE, max_size=1000)
    connection.reader.begin_stream()
    one, two = wire.fragments(BINARY, [b"", wire.deflate(bytes(1_000_000))], rsv=4)
    send(connection, one)
    assert pieces(connection) == ([], False)
    connection.reader.end_stream()
    send(connection, two)
    with pytest.raises(LimitExceeded):
        connection.read_message()
    assert connection.reader.inflated[1] == 1001


def test_a_reader_that_streams_is_not_idle() -> None:
    connection = connect()
    connection.reader.begin_stream()
    assert not connection.reader.is_idle
    assert connection.reader.read_piece() is NEED_MORE
    assert not connection.reader.is_idle
    connection.reader.end_stream()
    assert connection.read_message() is NEED_MORE
    assert connection.reader.is_idle


# ---- fragments, as messages ----


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_fragments_are_one_message_however_many_came_together(opcode: int) -> None:
    """Cut between any two frames, with a Ping inside and a message behind it; a character is cut in two as well."""
    text = "ä€😀 and so on".encode()
    frames = wire.fragments(opcode, [text[:1], text[1:4], b"", text[4:]])
    frames.insert(2, wire.frame(PING, b"inside"))
    frames.append(wire.frame(opcode, b"next"))
    for cut in range(len(frames) + 1):
        connection, found = connect(), []
        for part in (frames[:cut], frames[cut:]):
            send(connection, *part)
            while (message := connection.read_message()) is not NEED_MORE:
                found.append(message)
        assert found == ([text.decode(), "next"] if opcode == TEXT else [text, b"next"])
        [pong] = wire.parse(connection.bytes_to_send())
        assert (pong.opcode, pong.payload) == (PONG, b"inside")


def test_a_ping_between_fragments_is_answered_when_it_is_read_where_nobody_is_eager() -> None:
    """RFC 6455 5.4: control frames may stand between fragments."""
    connection = connect()
    connection.reader.eager = False
    one, two = wire.fragments(TEXT, [b"a", b"b"])
    send(connection, one, wire.frame(PING, b"inside"), two)
    assert connection.bytes_to_send() == b""
    assert connection.read_message() == "ab"
    assert [seen.payload for seen in wire.parse(connection.bytes_to_send())] == [b"inside"]


def test_fragments_that_end_in_a_fault_are_no_message() -> None:
    connection = connect()
    send(connection, *wire.fragments(TEXT, [b"never", b"whole"])[:1], wire.frame(TEXT, b"a new one"))
    with pytest.raises(ProtocolError, match="message"):
        connection.read_message()


# ---- no memory ----


def test_a_piece_that_there_is_no_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect()
    connection.reader.begin_stream()
    send(connection, *wire.fragments(BINARY, [b"first", b"second"]))
    assert connection.reader._ring is not None
    connection.reader._ring.memory = NoMemory()  # type: ignore[assignment]
    fails(connection, connection.reader.read_piece)


def test_no_memory_for_what_is_left_of_a_piece_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed, it is a part of the context, which would be without it. RFC 7692 7.1.1."""
    connection = connect(agreement=DEFLATE)
    connection.reader.begin_stream()
    send(connection, wire.frame(BINARY, wire.deflate(bytes(300_000)), rsv=4))
    assert connection.reader.read_piece() is not NEED_MORE
    monkeypatch.setattr(type(connection.reader._inflate), "_unread", NoMemory())
    with pytest.raises(MemoryError):
        connection.reader.end_stream()
    with pytest.raises(ConnectionClosedError, match="no memory"):
        connection.read_message()


@pytest.mark.parametrize("where", ["zcws.buffer.new_uncleared", "zcws.pieces.ReceivedFrame"])
def test_a_buffer_is_left_where_a_message_finds_no_memory_as_it_begins_or_ends(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed taken for ever, by a connection that is closed."""
    connection, buffer = connect(), PayloadBuffer()
    assert buffer.fill(memoryview(b"before"))
    view = buffer.occupant().export(0, 6)  # the next message needs other memory
    monkeypatch.setattr(where, NoMemory())
    with pytest.raises(MemoryError):
        for fragment in wire.fragments(BINARY, [b"x" * 3000, b"y" * 900]):
            send(connection, fragment)
            connection.read_frame(buffer)
    assert not buffer.is_busy and view == b"before"
    buffer.release()


# ---- a message that is received into the object that is handed out ----


def made_of(monkeypatch: pytest.MonkeyPatch) -> list[bytes | None]:
    """What `take_bytes` gives from now on."""
    taken: list[bytes | None] = []
    take = PayloadBuffer.take_bytes

    def take_bytes(buffer: PayloadBuffer) -> bytes | None:
        taken.append(take(buffer))
        return taken[-1]

    monkeypatch.setattr(PayloadBuffer, "take_bytes", take_bytes)
    return taken


def receive_and_read(connection: Connection, stream: bytes, *ways: str) -> Any:
    """Reads while a stream arrives, first in one way and then, after half of it, in the others."""
    for number, way in enumerate(ways):
        half = len(stream) // 2 if number + 1 < len(ways) else len(stream)
        result: Any = NEED_MORE
        while half and result is NEED_MORE:
            used = connection.receive_bytes(stream[: min(half, 5000)])
            stream, half = stream[used:], half - used
            result = getattr(connection, way)()
    return result


@needs_cpython("elsewhere objects move")
def test_a_large_message_is_received_into_what_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, taken = connect(), made_of(monkeypatch)
    for fill in (b"x", b"y"):
        message = receive_and_read(connection, wire.frame(BINARY, fill * 300_000), "read_message")
        assert message == fill * 300_000
        assert message is taken[-1]
    assert taken[0] == b"x" * 300_000


def test_what_is_no_single_frame_of_bytes_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows how long a message in fragments will be."""
    taken = made_of(monkeypatch)
    text = wire.frame(TEXT, b"x" * 300_000)
    assert receive_and_read(connect(), text, "read_message") == "x" * 300_000
    fragments = b"".join(wire.fragments(BINARY, [b"x" * 100_000, b"y" * 100_000, b"z"]))
    message = receive_and_read(connect(), fragments, "read_message")
    assert message == b"x" * 100_000 + b"y" * 100_000 + b"z"
    assert set(taken) == {None}


@pytest.mark.parametrize("ways", [("read_message", "read_frame"), ("read_frame", "read_message")])
def test_a_large_message_that_is_read_in_two_ways(
    ways: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, taken = connect(), made_of(monkeypatch)
    views = []
    for fill in (b"x", b"y"):
        result = receive_and_read(connection, wire.frame(BINARY, fill * 300_000), *ways)
        if ways[1] == "read_frame":
            views.append(result.payload)
        else:
            assert result == fill * 300_000
    assert [bytes(view) for view in views] == [b"x" * 300_000, b"y" * 300_000][: len(views)]
    assert set(taken) <= {None}
