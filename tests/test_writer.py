from __future__ import annotations

import os
import random
from array import array
from collections.abc import Callable
from typing import Any

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from pair import entropy

from zcws.bridge import Reply
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, ConnectionClosedOK, StaleFrame
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE, Frame
from zcws.keys import MaskingKeys
from zcws.output import SEGMENT
from zcws.pool import Pool
from zcws.scratch import SCRATCH_CAPACITY, Scratch, masked_size
from zcws.writer import Writer

#: Around every boundary: of the length's coding (RFC 6455 5.2), of what is copied, of the scratch memory.
SIZES = [
    *(0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 65_535, 65_536),
    *(n + d for n in (16 * 1024, SCRATCH_CAPACITY) for d in (-15, -14, -1, 0, 1)),
]


class Backwards:
    """What stands in for a compressor here: its work can be checked by looking."""

    bytes_before, bytes_after = 12, 3

    def is_worth(self, size: int) -> bool:
        return size >= 4

    def message(self, payload: Any) -> bytes | None:
        return None if bytes(payload[:1]) == b"!" else bytes(payload)[::-1][:-1]

    def piece(self, payload: Any, *, last: bool) -> bytes:
        return bytes(payload)[::-1] + (b"." if last else b"")

    def rest(self) -> None:
        raise AssertionError("nothing was lost")


def make_writer(role: str, *, compress: Backwards | None = None) -> Writer:
    keys = MaskingKeys(entropy())
    return Writer(Pool(), next_key=keys.next if role == "client" else None, compressor=compress)


def close(writer: Writer, reply: bool) -> None:
    """A Close of our own, or the answer to the peer's."""
    if reply:
        writer.write_reply(Reply(OpCode.CLOSE, b""))
    else:
        writer.write_close(None)


@pytest.fixture
def writer(role: str) -> Writer:
    return make_writer(role)


def sent(writer: Writer) -> list[wire.Seen]:
    return wire.parse(b"".join(writer.take()))


def sent_one(writer: Writer) -> wire.Seen:
    (frame,) = sent(writer)
    return frame


class TestFrames:
    @pytest.mark.parametrize("size", SIZES)
    def test_rfc6455_5_2_every_boundary_of_the_length(self, writer: Writer, role: str, size: int) -> None:
        payload = random.Random(size).randbytes(size)
        writer.write_message(OpCode.BINARY, payload)
        assert 0 <= writer.size - size <= 14
        data = b"".join(writer.take())
        masked = role == "client"
        assert wire.parse(data) == [wire.Seen(wire.BINARY, payload, masked=masked)]
        # In its shortest form: the same head that the oracle builds.
        key = data[len(data) - size - 4 : len(data) - size] if masked else None
        assert data.startswith(wire.head(wire.BINARY, size, key=key))

    def test_rfc6455_5_1_only_a_client_masks(self, writer: Writer, role: str) -> None:
        writer.write_message(OpCode.TEXT, b"hello")
        assert sent_one(writer).masked is (role == "client")

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    @pytest.mark.parametrize("size", [5, 100_000])
    def test_the_callers_bytes_are_never_modified(
        self, writer: Writer, kind: Callable[[bytes], bytes], size: int
    ) -> None:
        original = os.urandom(size)
        payload = kind(bytes(original))
        writer.write_message(OpCode.BINARY, payload)
        assert sent_one(writer).payload == original
        assert bytes(payload) == original

    def test_take_empties_it(self, writer: Writer) -> None:
        assert writer.take() == []
        writer.write_message(OpCode.TEXT, b"once")
        assert writer.size
        assert sent_one(writer).payload == b"once"
        assert writer.size == 0
        assert writer.take() == []

    @given(
        st.lists(st.binary(max_size=300) | st.integers(10_000, 70_000).map(bytes), max_size=12), st.randoms()
    )
    def test_any_messages_and_takes_in_order(self, payloads: list[bytes], rnd: random.Random) -> None:
        for role in ("server", "client"):
            writer, data = make_writer(role), b""
            for payload in payloads:
                writer.write_message(OpCode.BINARY, payload)
                if rnd.random() < 0.3:
                    data += b"".join(writer.take())
            data += b"".join(writer.take())
            assert [frame.payload for frame in wire.parse(data)] == payloads


class TestCorking:
    def test_small_frames_share_one_segment(self, writer: Writer) -> None:
        for _ in range(64):
            writer.write_message(OpCode.TEXT, b"x" * 256)
        assert len(writer.take()) == 1

    def test_a_large_immutable_payload_of_a_server_is_not_copied(self) -> None:
        writer = make_writer("server")
        payload = bytes(16 * 1024)
        writer.write_message(OpCode.BINARY, payload)
        writer.write_message(OpCode.TEXT, b"after")
        segments = writer.take()
        assert len(segments) == 3
        assert segments[1] is payload
        assert wire.parse(b"".join(segments))[1].payload == b"after"

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_what_its_owner_may_change_is_copied(
        self, writer: Writer, kind: Callable[[bytearray], bytes]
    ) -> None:
        memory = bytearray(b"a" * 50_000)
        writer.write_message(OpCode.BINARY, kind(memory))
        memory[:] = b"b" * 50_000
        assert sent_one(writer).payload == b"a" * 50_000

    def test_memory_that_was_taken_is_never_used_again(self, writer: Writer) -> None:
        """An event loop may hold views of it for as long as the peer is slow (docs/design.md, "The way out")."""
        rnd = random.Random(3)
        taken: list[tuple[list[Any], bytes]] = []
        memory = bytearray(40_000)
        for _ in range(300):
            for _ in range(rnd.randrange(1, 6)):
                size = rnd.choice((20, 300, 5_000, 20_000, 40_000))
                memory[:] = rnd.randbytes(len(memory))
                writer.write_message(OpCode.BINARY, memoryview(memory)[:size])
            segments = writer.take()
            taken.append((list(segments), b"".join(segments)))
        for held, bytes_then in taken:
            assert b"".join(held) == bytes_then

    def test_clients_of_one_pool_mask_in_the_same_memory_and_keep_none_of_it(self) -> None:
        pool = Pool()
        one, other = (Writer(pool, next_key=MaskingKeys(entropy()).next, compressor=None) for _ in range(2))
        for size in (5, 300, SCRATCH_CAPACITY - 14):
            one.write_message(OpCode.BINARY, b"1" * size)
            other.write_message(OpCode.BINARY, b"2" * size)
        for writer, byte in ((one, b"1"), (other, b"2")):
            frames = wire.parse(b"".join(writer.take()))
            assert {bytes(frame.payload) for frame in frames} == {
                byte * size for size in (5, 300, SCRATCH_CAPACITY - 14)
            }
            assert writer.take() == []


class TestLarge:
    """What a driver with a socket at hand is asked to send at once."""

    SIZE = SCRATCH_CAPACITY - 13  # one more than is masked in the scratch

    def writer(self, *, takes: bool, role: str = "client") -> tuple[Writer, list[tuple[int, int]]]:
        writer = make_writer(role)
        asked: list[tuple[int, int]] = []

        def send_large(first: int, payload: Any, size: int, key: int | None) -> bool:
            asked.append((first, size))
            assert (key is None) is (role == "server") and (role == "client" or payload == bytes(size))
            if takes:
                writer.passed(masked_size(size) - (4 if key is None else 0))
            return takes

        writer.send_large = send_large
        return writer, asked

    def test_it_takes_it(self) -> None:
        writer, asked = self.writer(takes=True)
        writer.write_message(OpCode.BINARY, bytes(self.SIZE))
        assert asked == [(0x82, self.SIZE)] and writer.take() == []
        assert writer.messages == writer.frames == 1
        assert writer.written == writer.taken == self.SIZE + 8

    def test_it_does_not(self) -> None:
        writer, asked = self.writer(takes=False)
        writer.write_message(OpCode.BINARY, b"x" * self.SIZE)
        assert len(asked) == 1 and sent_one(writer).payload == b"x" * self.SIZE
        assert writer.written == writer.taken == self.SIZE + 8

    @pytest.mark.parametrize("size", [0, SIZE - 1])
    def test_what_is_small_is_corked(self, size: int) -> None:
        writer, asked = self.writer(takes=True)
        writer.write_message(OpCode.BINARY, bytes(size))
        assert not asked and len(sent_one(writer).payload) == size

    def test_what_waits_goes_first(self) -> None:
        writer, asked = self.writer(takes=True)
        writer.write_message(OpCode.BINARY, b"first")
        writer.write_message(OpCode.BINARY, bytes(self.SIZE))
        assert not asked and [len(frame.payload) for frame in sent(writer)] == [5, self.SIZE]

    @pytest.mark.parametrize("payload", [bytes(SIZE), bytearray(SIZE)])
    @pytest.mark.parametrize("takes", [True, False])
    def test_a_server(self, payload: bytes | bytearray, takes: bool) -> None:
        """What may change is copied where the driver does not take it."""
        writer, asked = self.writer(takes=takes, role="server")
        writer.write_message(OpCode.BINARY, payload)
        assert asked == [(0x82, self.SIZE)] and bool(writer.take()) is not takes
        assert writer.written == writer.taken == self.SIZE + 4
        writer.write_message(OpCode.BINARY, bytes(self.SIZE - 1))
        assert len(asked) == 1 and len(sent_one(writer).payload) == self.SIZE - 1

    @pytest.mark.parametrize("is_gone", [True, False])
    def test_the_last_fragment_of_a_message(self, is_gone: bool) -> None:
        """The socket may turn out to be broken while it is sent: then nothing can be written after it."""
        writer, asked = self.writer(takes=True)
        writer.write_fragment(OpCode.BINARY, bytes(self.SIZE), last=False)
        if is_gone:
            writer.send_large = lambda *_: bool(writer.bar()) or True  # type: ignore[func-returns-value]
        writer.write_fragment(OpCode.BINARY, bytes(self.SIZE), last=True)
        assert asked[0] == (0x02, self.SIZE) and writer.messages == 1 and not writer.is_in_message
        assert (writer.opcode == OpCode.CLOSE) == is_gone


class TestKeys:
    def test_rfc6455_5_3_each_frame_has_a_key_of_its_own_from_the_source(self) -> None:
        block = entropy()(4 * MaskingKeys.BLOCK)
        writer = make_writer("client")
        for _ in range(MaskingKeys.BLOCK):
            writer.write_message(OpCode.BINARY, bytes(4))
        data = b"".join(writer.take())
        # A payload of zeros shows the key: head (2), key (4), payload (4).
        keys = [data[i + 2 : i + 6] for i in range(0, len(data), 10)]
        assert keys == [block[i : i + 4] for i in range(0, len(block), 4)]
        assert all(data[i + 6 : i + 10] == key for i, key in zip(range(0, len(data), 10), keys, strict=True))


class TestFragments:
    def test_rfc6455_5_4_first_middle_last(self, writer: Writer) -> None:
        assert not writer.is_in_message
        writer.write_fragment(OpCode.TEXT, b"a", last=False)
        assert writer.is_in_message
        writer.write_fragment(OpCode.TEXT, b"", last=False)
        writer.write_fragment(OpCode.TEXT, b"c", last=True)
        assert not writer.is_in_message
        frames = sent(writer)
        assert [(f.opcode, f.fin, f.payload) for f in frames] == [
            (wire.TEXT, False, b"a"),
            (wire.CONTINUATION, False, b""),
            (wire.CONTINUATION, True, b"c"),
        ]

    def test_one_fragment_is_one_frame(self, writer: Writer) -> None:
        writer.write_fragment(OpCode.BINARY, b"\xff", last=True)
        frame = sent_one(writer)
        assert (frame.opcode, frame.fin) == (wire.BINARY, True)

    def test_another_message_has_to_wait(self, writer: Writer) -> None:
        writer.write_fragment(OpCode.BINARY, b"a", last=False)
        writer.take()
        with pytest.raises(ValueError, match=r"5\.4"):
            writer.write_message(OpCode.TEXT, b"between")
        assert writer.size == 0

    def test_rfc6455_5_4_control_frames_go_between(self, writer: Writer) -> None:
        writer.write_fragment(OpCode.BINARY, b"a", last=False)
        writer.write_control(OpCode.PING, b"p")
        writer.write_fragment(OpCode.BINARY, b"b", last=True)
        assert [f.opcode for f in sent(writer)] == [wire.BINARY, wire.PING, wire.CONTINUATION]

    @pytest.mark.parametrize("at", range(1, 7))
    def test_fragments_may_cut_a_character(self, writer: Writer, at: int) -> None:
        text = "€😀".encode()
        writer.write_fragment(OpCode.TEXT, text[:at], last=False)
        writer.write_fragment(OpCode.TEXT, text[at:], last=True)
        assert b"".join(f.payload for f in sent(writer)) == text

    def test_rfc6455_8_1_but_the_message_must_be_whole(self, writer: Writer) -> None:
        writer.write_fragment(OpCode.TEXT, "€".encode()[:2], last=False)
        writer.take()
        with pytest.raises(ValueError, match="UTF-8"):
            writer.write_fragment(OpCode.TEXT, b"", last=True)
        with pytest.raises(ValueError, match="UTF-8"):
            writer.write_fragment(OpCode.TEXT, b"x", last=False)
        assert writer.size == 0
        # The fragment that was refused changed nothing: the right one still follows.
        writer.write_fragment(OpCode.TEXT, "€".encode()[2:], last=True)
        assert sent_one(writer).payload == "€".encode()[2:]

    def test_binary_fragments_are_not_text(self, writer: Writer) -> None:
        writer.write_fragment(OpCode.TEXT, b"text", last=True)
        writer.write_fragment(OpCode.BINARY, b"\xff", last=False)
        writer.write_fragment(OpCode.BINARY, b"\xfe", last=True)
        assert [f.payload for f in sent(writer)] == [b"text", b"\xff", b"\xfe"]


class TestFrameObjects:
    def test_whole_frames(self, writer: Writer) -> None:
        writer.write_frame(Frame.text("é"))
        writer.write_frame(Frame.binary(b"\xff"))
        writer.write_frame(Frame.ping(b"p"))
        writer.write_frame(Frame.pong(b"q"))
        writer.write_frame(Frame.close(1000, "bye"))
        assert [(f.opcode, f.payload) for f in sent(writer)] == [
            (wire.TEXT, "é".encode()),
            (wire.BINARY, b"\xff"),
            (wire.PING, b"p"),
            (wire.PONG, b"q"),
            (wire.CLOSE, wire.close_payload(1000, b"bye")),
        ]

    def test_fragments(self, writer: Writer) -> None:
        writer.write_frame(Frame.text("a", fin=False))
        writer.write_frame(Frame.continuation(b"b"))
        writer.write_frame(Frame.continuation(b"c", fin=True))
        assert [(f.opcode, f.fin) for f in sent(writer)] == [(1, False), (0, False), (0, True)]

    def test_rfc6455_5_4_out_of_order(self, writer: Writer) -> None:
        with pytest.raises(ValueError, match="without a message to continue"):
            writer.write_frame(Frame.continuation(b"b"))
        writer.write_frame(Frame.binary(b"a", fin=False))
        writer.take()
        for frame in (Frame.text("x"), Frame.text("x", fin=False)):
            with pytest.raises(ValueError, match="finish it first"):
                writer.write_frame(frame)
        assert writer.size == 0

    @pytest.mark.parametrize("payload", [b"\xff", "€".encode()[:2], b"\xed\xa0\x80", b"\xc0\x80"])
    def test_rfc6455_8_1_text_that_is_not_utf8(self, writer: Writer, payload: bytes) -> None:
        with pytest.raises(ValueError, match="UTF-8"):
            writer.write_frame(Frame(OpCode.TEXT, payload))
        assert writer.size == 0
        assert not writer.is_in_message


class TestControl:
    @pytest.mark.parametrize("opcode", [OpCode.PING, OpCode.PONG])
    def test_rfc6455_5_5_at_most_125_bytes(self, writer: Writer, opcode: OpCode) -> None:
        writer.write_control(opcode, bytes(125))
        assert len(sent_one(writer).payload) == 125
        with pytest.raises(ValueError, match="125"):
            writer.write_control(opcode, bytes(126))
        assert writer.size == 0

    @pytest.mark.parametrize(("code", "seen"), [(None, 1005), (1000, 1000), (4999, 4999)])
    def test_nothing_is_written_after_our_close(self, writer: Writer, code: int | None, seen: int) -> None:
        assert writer.sent_close is None
        writer.write_close(code)
        assert writer.sent_close == (b"" if code is None else code.to_bytes(2, "big"))
        writer.take()
        for attempt in self.attempts(writer):
            with pytest.raises(ConnectionClosed) as caught:
                attempt()
            assert caught.value.code == seen
        assert writer.size == 0

    def test_nothing_is_written_once_the_socket_is_gone(self, writer: Writer) -> None:
        """RFC 6455 7.1.5: no Close was seen, so the code is 1006."""
        writer.write_fragment(OpCode.BINARY, b"before", last=False)
        size = writer.size
        writer.bar()
        for attempt in self.attempts(writer):
            with pytest.raises(ConnectionClosed) as caught:
                attempt()
            assert (caught.value.code, caught.value.clean) == (1006, False)
        assert (writer.size, writer.is_in_message, writer.sent_close) == (size, False, None)

    def attempts(self, writer: Writer) -> list[Callable[[], object]]:
        return [
            lambda: writer.write_message(OpCode.TEXT, b"x"),
            lambda: writer.write_prepared(0x82, b"x", b"\x82\x01x", 1),
            lambda: writer.write_fragment(OpCode.TEXT, b"x", last=True),
            lambda: writer.write_frame(Frame.binary(b"x")),
            lambda: writer.write_control(OpCode.PING, b""),
            lambda: writer.write_close(1000),
        ]

    def test_the_error_after_our_close_is_ok_for_1000(self, writer: Writer) -> None:
        writer.write_close(1000, "done")
        with pytest.raises(ConnectionClosedOK, match="done"):
            writer.write_message(OpCode.TEXT, b"x")

    @pytest.mark.parametrize("reply", [False, True])
    def test_a_close_that_could_not_be_written_may_be_written_again(self, reply: bool) -> None:
        """It was said to be out."""
        keys = [MemoryError, 7]

        def key() -> int:
            found = keys.pop(0)
            if isinstance(found, int):
                return found
            raise found

        writer = Writer(Pool(), next_key=key, compressor=None)

        with pytest.raises(MemoryError):
            close(writer, reply)
        assert writer.sent_close is None and not writer.out
        close(writer, reply)
        assert [frame.opcode for frame in wire.parse(writer.take_bytes())] == [wire.CLOSE]

    @pytest.mark.parametrize(
        "payload", [b"\x03", b"\x03\xee", b"\x00\x00", b"\x03\xf7", b"\x13\x88", b"\x03\xe8\xff"]
    )
    def test_rfc6455_7_4_a_close_that_must_not_be_sent(self, writer: Writer, payload: bytes) -> None:
        with pytest.raises(ValueError):
            writer.write_control(OpCode.CLOSE, payload)
        assert writer.sent_close is None
        assert writer.size == 0

    def test_a_reason_is_at_most_123_bytes_of_utf8(self, writer: Writer) -> None:
        with pytest.raises(ValueError, match="123"):
            writer.write_close(1000, "é" * 62)
        writer.write_close(1000, "é" * 61)
        assert len(sent_one(writer).payload) == 124

    def test_a_reason_needs_a_code(self, writer: Writer) -> None:
        with pytest.raises(ValueError, match="needs a close code"):
            writer.write_close(None, "why")

    def test_rfc6455_5_1_each_of_many_pongs_is_a_frame_of_its_own(self, writer: Writer, role: str) -> None:
        writer.write_reply(Reply(OpCode.PONG, b"3", [b"1", b"2"]))
        masked = role == "client"
        assert sent(writer) == [
            wire.Seen(wire.PONG, payload, masked=masked) for payload in (b"1", b"2", b"3")
        ]

    def test_replies(self, writer: Writer) -> None:
        assert writer.write_reply(Reply(OpCode.PONG, b"p")) is False
        assert writer.write_reply(Reply(OpCode.CLOSE, b"\x03\xe8")) is True
        assert writer.write_reply(Reply(OpCode.PONG, b"late")) is True
        assert [(f.opcode, f.payload) for f in sent(writer)] == [(wire.PONG, b"p"), (wire.CLOSE, b"\x03\xe8")]


class TestCompression:
    @pytest.fixture
    def writer(self, role: str) -> Writer:
        return make_writer(role, compress=Backwards())

    @pytest.mark.parametrize(
        ("payload", "compress", "expected", "rsv"),
        [
            (b"abcd", None, b"dcb", 4),
            (b"abc", None, b"abc", 0),  # under the threshold
            (b"abc", True, b"cb", 4),
            (b"abcd", False, b"abcd", 0),
            (b"!bcd", None, b"!bcd", 0),  # it would not be shorter
            (b"!bcd", True, b"!bcd", 0),
        ],
    )
    def test_which_messages(
        self, writer: Writer, payload: bytes, compress: bool | None, expected: bytes, rsv: int
    ) -> None:
        writer.write_message(OpCode.BINARY, payload, compress=compress)
        frame = sent_one(writer)
        assert (frame.payload, frame.rsv) == (expected, rsv)

    @pytest.mark.parametrize(("payload", "rsv"), [(b"abc", 0), (b"abcd", 4)])
    def test_which_frames(self, writer: Writer, payload: bytes, rsv: int) -> None:
        writer.write_frame(Frame.binary(payload))
        assert sent_one(writer).rsv == rsv

    def test_rfc7692_6_rsv1_on_the_first_frame_only(self, writer: Writer) -> None:
        for payload, last in ((b"ab", False), (b"cd", False), (b"ef", True)):
            writer.write_fragment(OpCode.TEXT, payload, last=last)
        assert [(f.rsv, f.payload) for f in sent(writer)] == [(4, b"ba"), (0, b"dc"), (0, b"fe.")]

    def test_fragments_may_refuse_it(self, writer: Writer) -> None:
        writer.write_fragment(OpCode.TEXT, b"ab", last=False, compress=False)
        writer.write_fragment(OpCode.TEXT, b"cd", last=True, compress=True)  # counts on the first one only
        assert [(f.rsv, f.payload) for f in sent(writer)] == [(0, b"ab"), (0, b"cd")]

    def test_control_frames_are_never_compressed(self, writer: Writer) -> None:
        writer.write_control(OpCode.PING, b"abcdefgh")
        assert sent_one(writer).rsv == 0

    @pytest.mark.parametrize("role", ["server", "client"])
    def test_asked_for_and_not_agreed(self, role: str) -> None:
        """RFC 7692 5: whether it was is the peer's choice, so the program need not know."""
        writer = make_writer(role)
        writer.write_message(OpCode.TEXT, b"x" * 1000, compress=True)
        writer.write_messages(OpCode.TEXT, [b"y" * 1000, b"z" * 1000], compress=True)
        writer.write_fragment(OpCode.TEXT, b"x", last=False, compress=True)
        writer.write_fragment(OpCode.TEXT, b"", last=True, compress=True)
        frames = sent(writer)
        assert [frame.rsv for frame in frames] == [0] * 5
        assert b"".join(frame.payload for frame in frames) == b"x" * 1000 + b"y" * 1000 + b"z" * 1000 + b"x"


def test_a_stale_frame_is_not_written(writer: Writer) -> None:
    frame = Frame.binary(b"x")
    frame._source = None
    with pytest.raises(StaleFrame):
        writer.write_frame(frame)
    assert writer.size == 0


def test_the_protocol_takes_any_bytes_of_bytes(writer: Writer) -> None:
    writer.write_message(OpCode.BINARY, array("B", [1, 2, 3]))
    assert sent_one(writer).payload == b"\x01\x02\x03"


@pytest.mark.parametrize("waiting", [[], [b"a"], [b"a" * SEGMENT, b"b"]])
def test_a_message_whose_payload_stays_the_callers(waiting: list[bytes]) -> None:
    writer = make_writer("server")
    for payload in waiting:
        writer.write_message(OpCode.BINARY, payload)
    memory = memoryview(bytearray(b"x" * 70_000))
    segments = writer.lend_message(OpCode.TEXT, memory)
    assert segments[-1] is memory
    frames = wire.parse(b"".join(segments))
    expected = [*((wire.BINARY, payload) for payload in waiting), (wire.TEXT, bytes(memory))]
    assert [(frame.opcode, frame.payload) for frame in frames] == expected
    assert writer.take() == [] and writer.size == 0
    assert writer.taken == sum(map(len, segments)) and writer.messages == len(expected)
    writer.write_message(OpCode.BINARY, b"behind")
    assert sent_one(writer).payload == b"behind"


def test_nothing_is_lent_where_no_message_may_begin() -> None:
    writer = make_writer("server")
    writer.write_fragment(OpCode.TEXT, b"half", last=False)
    with pytest.raises(ValueError, match="fragments"):
        writer.lend_message(OpCode.BINARY, b"x")
    writer.write_fragment(OpCode.TEXT, b"", last=True)
    writer.write_close(1000)
    with pytest.raises(ConnectionClosedOK):
        writer.lend_message(OpCode.BINARY, b"x")
    assert [frame.opcode for frame in sent(writer)] == [wire.TEXT, wire.CONTINUATION, wire.CLOSE]


def test_a_message_that_went_past_is_counted() -> None:
    """The blocking driver masks and sends a small one in one crossing, and the writer never sees it."""
    writer = make_writer("client")
    writer.write_message(OpCode.TEXT, b"a")
    sent = sum(map(len, writer.take()))
    writer.passed_message(8)
    assert (writer.taken, writer.written, writer.messages) == (sent + 8, sent + 8, 2)
    assert writer.take() == []


def test_a_message_that_is_interrupted_while_it_is_compressed() -> None:
    class Interrupted(Exception):
        pass

    class Interrupting(Backwards):
        lost = 0

        def message(self, payload: Any) -> bytes | None:
            raise Interrupted

        def rest(self) -> None:
            self.lost += 1

    codec = Interrupting()
    writer = make_writer("server", compress=codec)
    with pytest.raises(Interrupted):
        writer.write_message(OpCode.TEXT, b"nobody gets this")
    assert (codec.lost, writer.messages, writer.take()) == (1, 0, [])


class TestLostFragments:
    """A fragment that raises is not written: nobody may find the writer in a message that the peer has not heard of."""

    class Failing(Backwards):
        lost = 0

        def piece(self, payload: Any, *, last: bool) -> bytes:
            if payload == b"!":
                raise MemoryError
            return super().piece(payload, last=last)

        def rest(self) -> None:
            self.lost += 1

    def test_the_first(self, writer: Writer) -> None:
        with pytest.raises((TypeError, BufferError)):
            writer.write_fragment(OpCode.BINARY, memoryview(b"a-b-c")[::2], last=False)
        assert not writer.is_in_message
        assert (writer.messages, writer.frames, writer.size) == (0, 0, 0)
        writer.write_message(OpCode.TEXT, b"another")
        assert sent_one(writer).payload == b"another"

    def test_one_behind_it(self, writer: Writer) -> None:
        writer.write_fragment(OpCode.BINARY, b"abc", last=False)
        with pytest.raises((TypeError, BufferError)):
            writer.write_fragment(OpCode.BINARY, memoryview(b"d-e-f")[::2], last=True)
        assert writer.is_in_message
        writer.write_fragment(OpCode.BINARY, b"def", last=True)
        assert [frame.payload for frame in sent(writer)] == [b"abc", b"def"]

    def test_the_first_of_a_compressed_message(self) -> None:
        codec = self.Failing()
        writer = make_writer("server", compress=codec)
        with pytest.raises(MemoryError):
            writer.write_fragment(OpCode.BINARY, b"!", last=False)
        assert codec.lost == 1 and not writer.is_in_message
        writer.write_fragment(OpCode.BINARY, b"abc", last=True)
        assert sent_one(writer).payload == b"cba."

    def test_rfc7692_6_1_one_behind_it_of_a_compressed_message(self) -> None:
        """What came before has been sent whole, so that nothing of it is lost with the context."""
        codec = self.Failing()
        writer = make_writer("server", compress=codec)
        writer.write_fragment(OpCode.BINARY, b"abc", last=False)
        with pytest.raises(MemoryError):
            writer.write_fragment(OpCode.BINARY, b"!", last=False)
        assert codec.lost == 1 and writer.is_in_message
        writer.write_fragment(OpCode.BINARY, b"def", last=True)
        assert [frame.payload for frame in sent(writer)] == [b"cba", b"fed."]


def _write_fragments(writer: Writer) -> None:
    for i in range(3):
        writer.write_fragment(OpCode.TEXT, b"abc"[i : i + 1], last=i == 2)


#: Each way to write whole frames: what it writes, and how many messages and how many frames that is.
WAYS: dict[str, tuple[Callable[[Writer], object], int, int]] = {
    "message": (lambda w: w.write_message(OpCode.TEXT, b"one"), 1, 1),
    "two messages": (lambda w: w.write_messages(OpCode.TEXT, [b"one", b"two"]), 2, 2),
    "fragments": (_write_fragments, 1, 3),
    "Ping": (lambda w: w.write_control(OpCode.PING, b"p"), 0, 1),
    "frame": (lambda w: w.write_frame(Frame.pong(b"p")), 0, 1),
    "reply": (lambda w: w.write_reply(Reply(OpCode.PONG, b"p")), 0, 1),
    "replies": (lambda w: w.write_reply(Reply(OpCode.PONG, b"p", [b"e", b"q"])), 0, 3),
    "framed": (lambda w: w.write_framed(wire.frame(wire.TEXT, b"one")), 1, 1),
    "large and framed": (lambda w: w.write_framed(wire.frame(wire.BINARY, bytes(20_000))), 1, 1),
    "prepared": (lambda w: w.write_prepared(0x81, b"one", wire.frame(wire.TEXT, b"one"), 3), 1, 1),
    "Close": (lambda w: w.write_close(1000), 0, 1),
}


class TestCounting:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("take", ["pieces", "one piece"])
    def test_messages_frames_and_bytes(self, role: str, way: str, take: str) -> None:
        if role == "client" and "framed" in way:
            pytest.skip("that is for writers that do not mask")
        write, messages, frames = WAYS[way]
        writer = make_writer(role)
        writer.write_message(OpCode.BINARY, b"before")
        write(writer)
        assert (writer.messages, writer.frames) == (1 + messages, 1 + frames)
        before = writer.size
        data = bytes(writer.take_whole()) if take == "one piece" else b"".join(writer.take())
        assert len(data) == before == writer.written == writer.taken
        assert len(wire.parse(data)) == 1 + frames
        assert (writer.size, writer.out, writer.has_large) == (0, [], False)

    @pytest.mark.parametrize("size", [SEGMENT - 1, SEGMENT])
    def test_what_is_large(self, size: int) -> None:
        for write in (
            lambda w: w.write_framed(bytes(size)),
            lambda w: w.write_messages(OpCode.BINARY, [bytes(size - 6), b""]),
        ):
            writer = make_writer("server")
            write(writer)
            assert (writer.size, writer.has_large) == (size, size == SEGMENT)
        writer = make_writer("server")
        writer.write_message(OpCode.BINARY, bytearray(size))
        assert len(writer.out) == 1  # a copy of it, behind its head
        writer = make_writer("client")
        writer.write_message(OpCode.BINARY, bytes(2 * size - 12))
        assert writer.has_large == (size == SEGMENT)  # it has memory of its own

    def test_nothing_stands_inside_of_a_message_in_fragments(self, writer: Writer) -> None:
        writer.write_fragment(OpCode.TEXT, b"a", last=False)
        with pytest.raises(ValueError, match="finish it first"):
            writer.write_messages(OpCode.TEXT, [b"b", b"c"])
        with pytest.raises(ValueError, match="finish it first"):
            writer.write_frame(Frame.text("d"))

    def test_after_a_close_nothing_is_written(self, writer: Writer) -> None:
        assert writer.write_reply(Reply(OpCode.CLOSE, wire.close_payload(1000)))
        written = writer.written
        for way, (write, _, _) in WAYS.items():
            if way not in ("reply", "replies"):
                with pytest.raises(ConnectionClosed):
                    write(writer)
        assert writer.write_reply(Reply(OpCode.PONG, b"late"))
        assert writer.written == written


class _Sends:
    """Sends when it is looked at: as a finalizer does, which the collector may run between any two lines."""

    def __init__(self, send: Callable[[], object]) -> None:
        self.send: Callable[[], object] | None = send

    def once(self) -> None:
        send, self.send = self.send, None
        if send is not None:
            send()


@pytest.mark.parametrize("payload", [b"our own", bytearray(b"our own")])
def test_what_a_finalizer_sends_does_not_replace_what_is_being_masked(payload: bytes | bytearray) -> None:
    pool = Pool()
    ours, other = (Writer(pool, next_key=lambda: 0, compressor=None) for _ in range(2))
    finalizer = _Sends(lambda: other.write_message(OpCode.BINARY, b"other"))

    class Copies:
        def __getitem__(self, part: slice) -> bytes:
            finalizer.once()
            return bytes(scratch[part])

    scratch = pool.scratch().copies
    pool.scratch().copies = Copies()
    ours.write_message(OpCode.BINARY, payload)
    for writer, sent_by_it in ((ours, b"our own"), (other, b"other")):
        assert sent(writer) == [wire.Seen(wire.BINARY, sent_by_it, masked=True)]


class _Interrupted(list[Any]):
    """What waits, where a signal handler raises, or a finalizer writes, before or behind the moment of `append`."""

    def __init__(self, before: Callable[[], object], behind: Callable[[], object]) -> None:
        self._before, self._behind = before, behind

    def append(self, segment: Any) -> None:
        self._before()
        super().append(segment)
        self._behind()


def _raise() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("reply", [False, True])
@pytest.mark.parametrize("is_written", [False, True])
def test_a_close_that_is_interrupted(role: str, is_written: bool, reply: bool) -> None:
    """Where it was written already a second one went out behind it."""
    writer = make_writer(role)
    writer.out = _Interrupted(_raise if not is_written else bool, _raise if is_written else bool)
    with pytest.raises(KeyboardInterrupt):
        close(writer, reply)
    writer.out = list(writer.out)
    assert (writer.sent_close is not None) == is_written
    if not is_written:
        close(writer, reply)
    assert [frame.opcode for frame in sent(writer)] == [wire.CLOSE]


@pytest.mark.parametrize("reply", [False, True])
def test_nothing_stands_behind_a_close(role: str, reply: bool) -> None:
    """Not what a signal handler or a finalizer sends as soon as it is written either. RFC 6455 5.5.1."""
    writer, refused = make_writer(role), list[ConnectionClosed]()

    def send() -> None:
        with pytest.raises(ConnectionClosed) as caught:
            writer.write_message(OpCode.TEXT, b"too late")
        refused.append(caught.value)

    writer.out = _Interrupted(bool, send)
    close(writer, reply)
    writer.out = list(writer.out)
    assert refused and [frame.opcode for frame in sent(writer)] == [wire.CLOSE]


@pytest.mark.parametrize("is_written", [False, True])
def test_a_first_fragment_that_is_interrupted(role: str, is_written: bool) -> None:
    """It was written, and the next message as well, in the middle of its own: RFC 6455 5.4."""
    writer = make_writer(role)
    writer.out = _Interrupted(_raise if not is_written else bool, _raise if is_written else bool)
    with pytest.raises(KeyboardInterrupt):
        writer.write_fragment(OpCode.TEXT, b"half", last=False)
    writer.out = list(writer.out)
    assert writer.is_in_message == is_written
    if is_written:
        with pytest.raises(ValueError, match="a message is going out in fragments"):
            writer.write_message(OpCode.TEXT, b"whole")
    else:
        writer.write_message(OpCode.TEXT, b"whole")
    assert [frame.payload for frame in sent(writer)] == [b"half" if is_written else b"whole"]


def test_what_a_finalizer_sends_stands_in_no_message_that_has_just_begun(role: str) -> None:
    writer = make_writer(role)
    refused: list[ValueError] = []

    def finalize() -> None:
        try:
            writer.write_message(OpCode.TEXT, b"from the finalizer")
        except ValueError as error:
            refused.append(error)

    writer.out = _Interrupted(bool, finalize)
    writer.write_fragment(OpCode.TEXT, b"a", last=False)
    writer.out = list(writer.out)
    writer.write_fragment(OpCode.CONTINUATION, b"b", last=True)
    assert [(frame.opcode, frame.payload) for frame in sent(writer)] == [
        (wire.TEXT, b"a"),
        (wire.CONTINUATION, b"b"),
    ]
    assert len(refused) == 1


class _Compressing:
    """A stream of zlib's in the middle of whose work a finalizer sends."""

    def __init__(self, stream: Any, finalize: Callable[[], object]) -> None:
        self._stream = stream
        self._finalize = finalize
        self.flush = stream.flush

    def compress(self, payload: Any) -> bytes:
        compressed: bytes = self._stream.compress(payload)
        self._finalize()
        return compressed


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("is_other", [False, True])
@pytest.mark.parametrize("in_fragments", [False, True])
def test_what_a_finalizer_sends_is_no_part_of_what_is_being_compressed(
    takeover: bool, is_other: bool, in_fragments: bool
) -> None:
    """Its message and the other became one; without takeover, of another connection of the same loop, too."""

    def finalize() -> None:
        if in_fragments:
            target.writer.write_fragment(OpCode.TEXT, b"finalizer's " * 50, last=False)
            target.writer.write_fragment(OpCode.TEXT, b"finalizer's " * 50, last=True)
        else:
            target.send("finalizer's " * 100)

    agreement = Agreement(deflate=DeflateParameters(server_no_context_takeover=not takeover))
    pool = Pool()
    ours, other = (Connection(is_client=False, agreement=agreement, pool=pool) for _ in range(2))
    ours.send("warm " * 100)
    other.send("warm " * 100)
    codec: Any = ours.writer.compressor
    target = other if is_other else ours
    stream = _Compressing(codec._stream if takeover else codec._shared[codec.key], finalize)
    if takeover:
        codec._stream = stream
    else:
        codec._shared[codec.key] = stream
    ours.send("message " * 100)
    stream._finalize = bool
    ours.send("message, warm, finalizer's " * 100)
    got = []
    for connection in (ours, other):
        peer = Connection(is_client=True, agreement=agreement, entropy=os.urandom)
        peer.receive_bytes(connection.bytes_to_send())
        got.append([])
        while (message := peer.read_message()) is not NEED_MORE:
            got[-1].append(message)
    expected = ["warm " * 100, "message " * 100, "message, warm, finalizer's " * 100]
    finalizers = ["finalizer's " * 100]
    if is_other:
        assert got == [expected, expected[:1] + finalizers]
    else:
        assert got == [expected[:1] + finalizers + expected[1:], expected[:1]]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_several_messages_are_masked_in_memory_that_is_large_enough(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C is not told how large it is."""
    writer, asked = make_writer("client"), list[int]()
    reserve = writer.scratch.reserve

    def counted(wanted: int) -> Any:
        asked.append(wanted)
        return reserve(wanted)

    monkeypatch.setattr(Scratch, "reserve", lambda _, wanted: counted(wanted))
    payloads = [b"", bytes(size), b"abc", bytes(size)]
    writer.write_messages(OpCode.BINARY, payloads)
    assert asked[0] >= writer.written
    assert [frame.payload for frame in sent(writer)] == payloads


def test_where_nothing_is_compressed_no_bytes_are_counted(writer: Writer) -> None:
    writer.write_message(OpCode.TEXT, b"abc")
    assert writer.deflated == (0, 0)


def test_what_waits_is_not_the_callers_memory_any_more() -> None:
    """Also where a driver has been asked whether it sends it, and does not."""
    for size in (SEGMENT, 100_000):
        writer = make_writer("server")
        writer.send_large = lambda *_: False
        payload = bytearray(size)
        writer.write_message(OpCode.BINARY, payload)
        payload[:] = b"x" * size
        assert [frame.payload for frame in sent(writer)] == [bytes(size)]


def test_several_messages_are_compressed_as_one_is() -> None:
    for compress in (True, None):
        writer = make_writer("server", compress=Backwards())
        writer.write_messages(OpCode.TEXT, [b"abc" * 100, b"def" * 100], compress)
        assert all(frame.rsv for frame in sent(writer))


def test_the_last_words_of_a_program(role: str) -> None:
    """Its own, unless the peer waits for the rest of a message."""
    writer = make_writer(role)
    assert writer.last_words(4000, "done") == (4000, "done")
    writer.write_fragment(OpCode.TEXT, b"half", last=False)
    assert writer.last_words(4000, "done") == (1011, "the sender gave up in the middle of a message")
    writer.write_close(1011)
    assert writer.last_words(None, "") == (None, "")
