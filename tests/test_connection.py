from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Callable
from typing import Any

import pytest
import wire
from arrays import needs_numpy, np
from hypothesis import given
from hypothesis import strategies as st
from pair import SEED, Pair, deflated, entropy

from zcws.bridge import Reply
from zcws.closing import State
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.errors import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    LimitExceeded,
    ProtocolError,
)
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE, Frame
from zcws.keys import MaskingKeys

messages = st.lists(
    st.one_of(
        st.text(max_size=80),
        st.binary(max_size=300),
        st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(70_000)),
        st.integers(0, 2_000).map(lambda n: "price 12.5; " * n),
    ),
    max_size=6,
)


def make(role: str, **settings: Any) -> Connection:
    if role == "client":
        return Connection(is_client=True, entropy=entropy(), **settings)
    return Connection(is_client=False, **settings)


def from_peer(role: str, opcode: int, payload: bytes = b"", **options: Any) -> bytes:
    """A frame as the peer of `role` sends it."""
    return wire.frame(opcode, payload, key=wire.KEY if role == "server" else None, **options)


def sent(connection: Connection) -> list[tuple[int, bytes]]:
    return [(frame.opcode, frame.payload) for frame in wire.parse(connection.bytes_to_send())]


#: What the peer says behind our Close, and what that makes of a connection.
ENDS = [
    pytest.param((wire.CLOSE, wire.close_payload(1001)), State.CLOSED, 1001, True, id="its Close"),
    pytest.param((3, b""), State.FAILED, 1002, False, id="a mistake"),
    pytest.param(None, State.LOST, 1006, False, id="nothing"),
]


def closed_in_halves(role: str, last: tuple[int, bytes] | None) -> tuple[Connection, Reply | None]:
    """Closed by us, with 4000, and the reader has come to its end. Returns it, and what the bridge has brought."""
    connection = make(role)
    connection.split()
    connection.send_close(4000)
    connection.reader.discard()
    if last is not None:
        connection.receive_bytes(from_peer(role, *last))
    connection.receive_eof()
    assert connection.bridge.ended
    return connection, connection.bridge.take()


class TestTwoConnections:
    @given(
        ours=messages,
        theirs=messages,
        agreed=st.none()
        | st.builds(
            DeflateParameters,
            server_no_context_takeover=st.booleans(),
            client_no_context_takeover=st.booleans(),
            server_max_window_bits=st.integers(9, 15),
            client_max_window_bits=st.integers(9, 15),
        ),
        no_masking=st.booleans(),
        rnd=st.randoms(),
    )
    def test_what_comes_out_is_what_went_in(
        self,
        ours: list[str | bytes],
        theirs: list[str | bytes],
        agreed: DeflateParameters | None,
        no_masking: bool,
        rnd: random.Random,
    ) -> None:
        """Any message, any cut into frames, any cut into reads, any parameters."""
        pair = Pair(
            cut=lambda waiting: rnd.choice((1, 2, 7, 100, 5_000, waiting)),
            agreement=Agreement(deflate=agreed, no_masking=no_masking),
        )
        for connection, outgoing in ((pair.client, ours), (pair.server, theirs)):
            for message in outgoing:
                send_in_any_frames(connection, message, rnd)
                if rnd.random() < 0.5:
                    pair.pump()
        pair.pump()
        assert pair.received[pair.server] == ours
        assert pair.received[pair.client] == theirs
        for connection in (pair.client, pair.server):
            assert connection.state is State.OPEN
            assert connection.reader._ring is None

    @pytest.mark.parametrize("first", ["client", "server"])
    def test_rfc6455_7_closing(self, first: str) -> None:
        pair = Pair()
        getattr(pair, first).close(1000, "done")
        assert getattr(pair, first).state is State.CLOSE_SENT
        pair.pump()
        for connection in (pair.client, pair.server):
            assert connection.state is State.CLOSED
            assert connection.wants_close
            assert (connection.close_code, connection.close_reason) == (1000, "done")
            (error,) = pair.received[connection]
            assert isinstance(error, ConnectionClosedOK) and error.clean

    def test_both_close_at_once(self) -> None:
        pair = Pair()
        pair.client.close(1001, "client")
        pair.server.close(4000, "server")
        pair.pump()
        assert pair.client.state is pair.server.state is State.CLOSED
        # RFC 6455 7.1.5: the code is the one in the Close that was received.
        assert pair.client.close_code == 4000
        assert pair.server.close_code == 1001
        assert [frame.opcode for frame in wire.parse(pair.wire[pair.client])] == [wire.CLOSE]

    def test_a_ping_is_answered(self) -> None:
        pair = Pair()
        pair.client.ping(b"are you there")
        pair.pump()
        assert [(f.opcode, f.payload) for f in wire.parse(pair.wire[pair.server])] == [
            (wire.PONG, b"are you there")
        ]


def send_in_any_frames(connection: Connection, message: str | bytes, rnd: random.Random) -> None:
    kind = rnd.random()
    compress = None if connection.agreement.deflate is None else rnd.choice((None, True, False))
    if kind < 0.5:
        connection.send(message, compress=compress)
        return
    cuts = sorted(rnd.randrange(len(message) + 1) for _ in range(rnd.randrange(4)))
    spans = list(zip([0, *cuts], [*cuts, len(message)], strict=True))
    for number, (start, stop) in enumerate(spans):
        is_text, is_last = isinstance(message, str), number == len(spans) - 1
        connection.send_fragment(message[start:stop], text=is_text, last=is_last, compress=compress)
        if rnd.random() < 0.3:
            connection.ping(b"between")


class TestSend:
    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ("é€😀", (wire.TEXT, "é€😀".encode())),
            ("", (wire.TEXT, b"")),
            (b"\x00\xff", (wire.BINARY, b"\x00\xff")),
            (bytearray(b"ab"), (wire.BINARY, b"ab")),
            (memoryview(b"abcdef")[2:4], (wire.BINARY, b"cd")),
            (memoryview(b"abcdef")[::2], (wire.BINARY, b"ace")),
            (memoryview(b"abcdef").cast("B", (2, 3)), (wire.BINARY, b"abcdef")),
            (array("i", [1, -1]), (wire.BINARY, array("i", [1, -1]).tobytes())),
            (array("i"), (wire.BINARY, b"")),
        ],
    )
    def test_kinds_of_messages(self, role: str, message: Any, expected: tuple[int, bytes]) -> None:
        self.check_kind(make(role), message, expected)

    @needs_numpy
    @pytest.mark.parametrize(
        ("make_message", "payload"),
        [
            (lambda: np.arange(6, dtype=np.uint16).reshape(2, 3), array("H", range(6)).tobytes()),
            (lambda: np.arange(6, dtype=np.uint8).reshape(2, 3).T, bytes([0, 3, 1, 4, 2, 5])),
            (lambda: np.zeros((0, 3), dtype=np.uint8), b""),
            (lambda: np.float64(0), bytes(8)),
        ],
    )
    def test_kinds_of_arrays(self, role: str, make_message: Callable[[], Any], payload: bytes) -> None:
        self.check_kind(make(role), make_message(), (wire.BINARY, payload))

    def check_kind(self, connection: Connection, message: Any, expected: tuple[int, bytes]) -> None:
        connection.send(message)
        assert sent(connection) == [expected]
        connection.send_fragment(message, text=isinstance(message, str), last=True)
        assert sent(connection) == [expected]

    @pytest.mark.parametrize("message", [5, None, {"a": 1}, object(), ["a"]])
    def test_what_is_no_message(self, role: str, message: Any) -> None:
        connection = make(role)
        with pytest.raises(TypeError):
            connection.send(message)
        assert connection.bytes_to_send() == b""

    def test_rfc6455_8_1_lone_surrogates(self, role: str) -> None:
        connection = make(role)
        with pytest.raises(ValueError):
            connection.send("a\ud800")
        with pytest.raises(ValueError):
            connection.send_fragment("\udfff", text=True, last=False)
        assert connection.bytes_to_send() == b""
        connection.send("fine")
        assert sent(connection) == [(wire.TEXT, b"fine")]

    def test_bytes_as_text(self, role: str) -> None:
        connection = make(role)
        connection.send_bytes("é".encode(), text=True)
        assert sent(connection) == [(wire.TEXT, "é".encode())]
        with pytest.raises(ValueError, match="UTF-8"):
            connection.send_bytes(b"\xe9", text=True)
        assert connection.bytes_to_send() == b""

    def test_a_received_frame_may_be_written(self) -> None:
        pair = Pair()
        pair.client.send("echo me")
        pair.server.receive_bytes(pair.client.bytes_to_send())
        frame = pair.server.read_frame()
        assert isinstance(frame, Frame)
        pair.server.write_frame(frame)
        assert pair.server.read_frame() is NEED_MORE  # the frame is stale now, but was copied
        pair.pump()
        assert pair.received[pair.client] == ["echo me"]

    def test_control_frames(self, role: str) -> None:
        connection = make(role)
        connection.ping()
        connection.ping(array("B", b"a"))
        connection.pong(bytearray(b"b"))
        assert sent(connection) == [(wire.PING, b""), (wire.PING, b"a"), (wire.PONG, b"b")]
        for send in (connection.ping, connection.pong):
            with pytest.raises(ValueError):
                send(bytes(126))

    def test_what_no_control_frame_carries(self, role: str) -> None:
        connection = make(role)
        for write in (connection.ping, connection.pong):
            with pytest.raises(
                TypeError, match=r"^the payload of a Ping or Pong is str or bytes-like, not int$"
            ):
                write(5)  # type: ignore[arg-type]
        assert sent(connection) == []

    def test_writing_a_close_frame_closes(self, role: str) -> None:
        connection = make(role)
        connection.write_frame(Frame.close(1001, "going"))
        assert connection.state is State.CLOSE_SENT
        assert sent(connection) == [(wire.CLOSE, wire.close_payload(1001, b"going"))]
        empty = make(role)
        empty.write_frame(Frame.close())
        assert sent(empty) == [(wire.CLOSE, b"")]
        assert empty.close_code == 1005

    def test_both_have_closed_and_the_reply_is_still_on_the_bridge(self, role: str) -> None:
        """Another thread has the lock: `send` said ConnectionClosedError then, of an end that was clean."""
        connection = make(role)
        connection.bridge.on_put = None
        connection.send_close(1000)
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(1000)))
        with pytest.raises(ConnectionClosedOK) as caught:
            connection.check_writable()
        assert caught.value.clean

    def test_a_close_that_was_interrupted_behind_its_frame(self, role: str) -> None:
        """The next one raised ConnectionClosedError, and went nowhere."""
        connection = make(role)
        connection.writer.write_close(1000)  # a signal handler has raised here
        assert connection.send_close(1011)
        assert connection.state is State.CLOSE_SENT
        assert sent(connection) == [(wire.CLOSE, wire.close_payload(1000))]

    def test_both_have_closed_and_the_peers_word_counts(self, role: str) -> None:
        connection = make(role)
        connection.split()
        connection.send_close(1000)
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(4000, b"theirs")))
        connection.read_frame()
        assert connection.state is State.CLOSE_SENT
        error = connection.error()
        assert (error.code, error.reason, error.clean) == (4000, "theirs", True)

    def test_a_received_close_that_half_of_a_connection_sends_on_closes_it(self, role: str) -> None:
        connection = make(role)
        connection.split()
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(1000)))
        connection.write_frame(connection.read_frame())
        assert connection.state is State.CLOSE_SENT
        with pytest.raises(ConnectionClosed):
            connection.send("too late")

    def test_our_own_reason_is_told_before_the_peer_has_answered_and_behind(self, role: str) -> None:
        connection = make(role)
        connection.close(4001, "bye")
        with pytest.raises(ConnectionClosed, match=r"^closed here: 4001 \(private use\): bye$"):
            connection.send("late")
        assert (connection.close_code, connection.close_reason) == (4001, "bye")
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(4001, b"bye")))
        with pytest.raises(ConnectionClosed, match=r"^closed here: 4001 \(private use\): bye$"):
            connection.read_message()

    def test_a_code_that_must_not_be_sent_is_a_mistake_behind_our_close_as_well(self, role: str) -> None:
        connection = make(role)
        connection.close(1000)
        with pytest.raises(ValueError, match="close code 999 must not be sent"):
            connection.close(999)
        with pytest.raises(ValueError, match="at most 123 bytes"):
            connection.close(1000, "x" * 124)
        assert sent(connection) == [(wire.CLOSE, wire.close_payload(1000))]

    def test_what_is_no_frame(self, role: str) -> None:
        with pytest.raises(TypeError, match="Frame"):
            make(role).write_frame("text")  # type: ignore[arg-type]

    def test_segments(self) -> None:
        connection = make("server")
        payload = bytes(50_000)
        connection.send(payload)
        assert connection.take()[1] is payload


ATTEMPTS: dict[str, Callable[[Connection], object]] = {
    "send": lambda connection: connection.send("late"),
    "send_fragment": lambda connection: connection.send_fragment(b"late", text=False, last=False),
    "write_frame": lambda connection: connection.write_frame(Frame.text("late")),
    "write a Close": lambda connection: connection.write_frame(Frame.close(1000)),
    "ping": lambda connection: connection.ping(),
    "pong": lambda connection: connection.pong(),
}


@pytest.mark.parametrize("attempt", list(ATTEMPTS))
class TestNothingIsWrittenAfterTheEnd:
    def check(self, connection: Connection, attempt: str, code: int) -> None:
        connection.bytes_to_send()
        with pytest.raises(ConnectionClosed) as caught:
            ATTEMPTS[attempt](connection)
        assert caught.value.code == code
        # The writer knows only that it is over; what the caller hears is why, and whose doing it was.
        assert repr(caught.value) == repr(connection.error()) and caught.value.by == connection.error().by
        assert connection.bytes_to_send() == b""

    def test_our_close(self, role: str, attempt: str) -> None:
        connection = make(role)
        connection.close(1001)
        self.check(connection, attempt, 1001)

    def test_the_peers_close(self, role: str, attempt: str) -> None:
        connection = make(role)
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(4001)))
        self.check(connection, attempt, 4001)

    def test_a_fault(self, role: str, attempt: str) -> None:
        connection = make(role)
        connection.receive_bytes(from_peer(role, 3))
        self.check(connection, attempt, 1002)

    def test_the_end_of_the_socket(self, role: str, attempt: str) -> None:
        connection = make(role)
        connection.end()
        self.check(connection, attempt, 1006)

    def test_our_failure(self, role: str, attempt: str) -> None:
        connection = make(role)
        connection.fail(1011, "something broke")
        self.check(connection, attempt, 1011)


class TestClosing:
    def test_rfc6455_5_5_1_data_after_our_close_is_ignored(self, role: str) -> None:
        connection = make(role)
        connection.close()
        connection.bytes_to_send()
        connection.receive_bytes(from_peer(role, wire.TEXT, b"late") + from_peer(role, wire.PING, b"late"))
        assert connection.read_frame() is NEED_MORE
        assert sent(connection) == []
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(1000)))
        assert connection.state is State.CLOSED
        with pytest.raises(ConnectionClosedOK):
            connection.read_frame()

    def test_a_close_of_ours_behind_unread_messages(self, role: str) -> None:
        connection = make(role)
        text, close = (
            from_peer(role, wire.TEXT, b"unread"),
            from_peer(role, wire.CLOSE, wire.close_payload(1000)),
        )
        connection.receive_bytes(text + close)
        assert connection.state is State.OPEN
        connection.close(1001)
        assert connection.state is State.CLOSED
        assert sent(connection) == [(wire.CLOSE, wire.close_payload(1001))]

    def test_closing_what_is_lost_keeps_what_has_arrived(self, role: str) -> None:
        connection = make(role)
        connection.receive_bytes(from_peer(role, wire.TEXT, b"unread"))
        connection.lose()
        assert connection.is_over
        assert connection.send_close() is False
        connection.close()
        assert connection.read_message() == "unread"

    def test_closing_twice_sends_one_close(self, role: str) -> None:
        connection = make(role)
        connection.close(1000)
        connection.close(1001)
        assert sent(connection) == [(wire.CLOSE, wire.close_payload(1000))]

    def test_a_code_that_must_not_be_sent_changes_nothing(self, role: str) -> None:
        connection = make(role)
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000):
            with pytest.raises(ValueError):
                connection.close(code)
        with pytest.raises(ValueError):
            connection.close(1000, "x" * 124)
        assert connection.state is State.OPEN
        assert connection.bytes_to_send() == b""

    def test_no_code(self, role: str) -> None:
        connection = make(role)
        connection.close(None)
        assert sent(connection) == [(wire.CLOSE, b"")]
        error = connection.error()
        assert (error.code, error.clean) == (1005, True)

    def test_failing_twice_keeps_the_first_reason(self, role: str) -> None:
        connection = make(role)
        connection.fail(1011, "first")
        connection.fail(1008, "second")
        assert sent(connection) == [(wire.CLOSE, wire.close_payload(1011, b"first"))]
        with pytest.raises(ConnectionClosedError, match="first"):
            connection.read_frame()
        assert (connection.close_code, connection.close_reason) == (1011, "first")

    def test_failing_after_our_close_does_nothing(self, role: str) -> None:
        connection = make(role)
        connection.close()
        connection.fail(1011, "too late")
        assert connection.state is State.CLOSE_SENT
        assert connection.close_code == 1000

    def test_what_arrived_before_a_failure_can_be_read(self, role: str) -> None:
        connection = make(role)
        connection.receive_bytes(from_peer(role, wire.TEXT, b"before"))
        connection.fail(1011, "x")
        assert connection.read_message() == "before"
        with pytest.raises(ConnectionClosedError):
            connection.read_message()

    def test_the_peers_mistake(self, role: str) -> None:
        connection = make(role)
        connection.receive_bytes(from_peer(role, wire.CLOSE, b"\x03"))
        assert connection.state is State.FAILED
        assert connection.wants_close
        error = connection.error()
        assert isinstance(error, ProtocolError) and error.code == 1002
        assert connection.close_reason == error.reason

    def test_the_end_without_a_close(self, role: str) -> None:
        connection = make(role)
        connection.receive_eof()
        assert connection.state is State.OPEN  # it can still send
        connection.send("into a half-closed socket")
        assert sent(connection) == [(wire.TEXT, b"into a half-closed socket")]
        with pytest.raises(ConnectionClosedError) as caught:
            connection.read_frame()
        assert (caught.value.code, caught.value.clean) == (1006, False)
        connection.end()
        assert connection.state is State.LOST
        assert connection.wants_close

    def test_the_end_after_our_close_only(self, role: str) -> None:
        connection = make(role)
        connection.close(1000)
        connection.end()
        error = connection.error()
        assert (error.code, error.clean) == (1006, False)

    def test_open_has_no_code(self, role: str) -> None:
        connection = make(role)
        assert (connection.close_code, connection.close_reason) == (None, None)
        assert not connection.wants_close
        assert not connection.awaits_writer  # whoever reads sends the replies as well

    def test_what_it_was_made_with(self, role: str) -> None:
        agreement = deflated()
        connection = make(role, agreement=agreement)
        assert (connection.is_client, connection.agreement) == (role == "client", agreement)


class TestReplies:
    def test_held_pongs_cost_one(self, role: str) -> None:
        """While the peer does not read, only the latest Ping is answered. RFC 6455 5.5.3."""
        connection = make(role)
        connection.hold_replies = True
        for number in range(50):
            connection.receive_bytes(from_peer(role, wire.PING, b"%d" % number))
        assert connection.bytes_to_send() == b""
        connection.hold_replies = False
        connection.drain_bridge()
        assert sent(connection) == [(wire.PONG, b"49")]

    def test_a_close_is_not_held(self, role: str) -> None:
        connection = make(role)
        connection.hold_replies = True
        connection.receive_bytes(from_peer(role, wire.PING, b"p") + from_peer(role, wire.CLOSE))
        assert sent(connection) == [(wire.CLOSE, b"")]
        assert connection.state is State.CLOSED

    def test_a_close_in_the_middle_of_our_message(self, role: str) -> None:
        connection = make(role)
        connection.send_fragment("half", text=True, last=False)
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(1000)))
        with pytest.raises(ConnectionClosedOK):
            connection.send_fragment("other half", text=True, last=True)
        assert [opcode for opcode, _ in sent(connection)] == [wire.TEXT, wire.CLOSE]


class TestSplit:
    def test_replies_stay_on_the_bridge_until_their_frame_is_read(self, role: str) -> None:
        connection = make(role)
        connection.split()
        assert not connection.is_over
        connection.receive_bytes(from_peer(role, wire.PING, b"p") + from_peer(role, wire.TEXT, b"t"))
        connection.receive_bytes(from_peer(role, wire.CLOSE))
        assert sent(connection) == [] and not connection.bridge.slot
        connection.read_frame()
        connection.drain_bridge()
        assert sent(connection) == [(wire.PONG, b"p")]
        assert connection.awaits_writer
        assert connection.read_message() == "t"
        connection.read_frame()
        assert connection.state is State.OPEN  # the writer's side has not heard of it
        assert connection.is_over  # but the reader's has
        reply = connection.bridge.take()
        assert reply is not None
        assert connection.write_reply(reply) is True
        assert sent(connection) == [(wire.CLOSE, b"")]
        assert connection.state is State.CLOSED
        assert not connection.awaits_writer

    @pytest.mark.parametrize(("last", "state", "code", "is_clean"), ENDS)
    def test_how_it_has_ended_behind_our_close(
        self, role: str, last: tuple[int, bytes] | None, state: State, code: int, is_clean: bool
    ) -> None:
        """RFC 6455 7.1.4, 7.1.5. Until somebody had taken the reply, it was as clean as our own Close."""
        connection, reply = closed_in_halves(role, last)
        if reply is not None:
            connection.bridge.put(reply)
        connection.note_end()
        assert (connection.state, connection.close_code, connection.closed_by) == (state, code, "us")
        assert connection.error().clean is is_clean
        assert connection.bridge.take() is None
        assert reply is None or connection.write_reply(reply)  # somebody had taken it before
        connection.end()
        assert (connection.state, connection.close_code) == (state, code)
        assert sent(connection) == [(wire.CLOSE, wire.close_payload(4000))]

    @pytest.mark.parametrize(("last", "state", "code", "is_clean"), ENDS)
    def test_both_halves_note_the_end_at_once(
        self, role: str, last: tuple[int, bytes] | None, state: State, code: int, is_clean: bool
    ) -> None:
        """One does it between any two lines of the other."""
        reply: Reply | None = closed_in_halves(role, last)[1]
        for begins in ("note_end", "write_reply") if reply else ("note_end", "lose"):
            line, is_through = 0, False
            while not is_through:
                connection, reply = closed_in_halves(role, last)
                lines = iter(range(999))

                def trace(_frame: Any, event: str, _: Any) -> Any:
                    if event == "line" and next(lines) == line:  # noqa: B023
                        connection.note_end()  # noqa: B023
                    return trace

                before = sys.gettrace()
                sys.settrace(trace)
                try:
                    getattr(connection, begins)(*([reply] if begins == "write_reply" else []))
                finally:
                    sys.settrace(before)
                assert (connection.state, connection.close_code) == (state, code)
                assert connection.error().clean is is_clean
                line, is_through = line + 1, next(lines) <= line

    def test_an_end_that_is_noted_before_our_close_is_out(self, role: str) -> None:
        """Then the reply is still to be written, which is for the writer."""
        connection = make(role)
        connection.split()
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(1001)))
        connection.note_end()
        assert connection.state is State.OPEN
        connection.drain_bridge()
        assert sent(connection) == [(wire.CLOSE, wire.close_payload(1001))]

    def test_once_only(self, role: str) -> None:
        connection = make(role)
        connection.split()
        with pytest.raises(RuntimeError, match=r"^this connection is split: its halves read and write$"):
            connection.split()

    @pytest.mark.parametrize("how", ["the socket is gone", "we have failed it"])
    def test_a_reply_that_comes_too_late(self, role: str, how: str) -> None:
        connection = make(role)
        connection.split()
        connection.receive_bytes(from_peer(role, wire.PING, b"p"))
        connection.read_frame()
        reply = connection.bridge.take()
        assert reply is not None
        if how == "the socket is gone":
            connection.end()
        else:
            connection.fail(1011, "failed")
            connection.bytes_to_send()
        assert connection.write_reply(reply) is (how != "the socket is gone")
        assert sent(connection) == []

    def test_the_socket_is_lost_for_a_reason_of_ours(self, role: str) -> None:
        connection = make(role)
        assert connection.failure is None
        connection.lose((1011, "the peer does not read"))
        connection.lose((1008, "too late"))
        assert connection.failure == (1011, "the peer does not read")
        assert connection.state is State.LOST
        assert (connection.close_code, connection.close_reason) == (1011, "the peer does not read")
        assert sent(connection) == []


class TestReceiving:
    def test_a_full_ring_takes_fewer_bytes(self, role: str) -> None:
        connection = make(role)
        data = from_peer(role, wire.BINARY, bytes(60_000)) * 10
        at = connection.receive_bytes(data)
        assert 0 < at < len(data)
        assert connection.receive_bytes(data[at:]) == 0
        seen = 0
        while at < len(data):
            frame = connection.read_frame()
            seen += isinstance(frame, Frame)
            at += connection.receive_bytes(data[at:])
        while connection.read_frame() is not NEED_MORE:
            seen += 1
        assert seen == 10

    def test_get_buffer_and_received(self, role: str) -> None:
        connection = make(role)
        data = from_peer(role, wire.TEXT, b"in place")
        connection.get_buffer()[: len(data)] = data
        connection.received(len(data))
        assert connection.read_message() == "in place"

    def test_any_bytes(self, role: str) -> None:
        connection = make(role)
        data = from_peer(role, wire.TEXT, b"hi")
        assert connection.receive_bytes(array("B", data)) == len(data)
        assert connection.receive_bytes(b"") == 0
        assert connection.read_message() == "hi"


@pytest.mark.parametrize(
    ("given", "error", "what"),
    [
        ({"max_size": -1}, ValueError, "max_size is a number of bytes .*, not -1"),
        ({"max_size": 1e6}, TypeError, "max_size is a number of bytes .*, not 1000000.0"),
        ({"max_size": True}, TypeError, "max_size is a number of bytes .*, not True"),
        ({"max_fragments": 0}, ValueError, "max_fragments is a number of frames .*, not 0"),
        ({"max_fragments": None}, TypeError, "max_fragments is a number of frames .*, not None"),
        ({"is_client": True, "entropy": 5}, TypeError, "entropy is a function that gives .*, not 5"),
    ],
)
def test_what_is_told_when_it_is_made(given: Any, error: type[Exception], what: str) -> None:
    """In words of ours: cffi's are "can't convert negative number to unsigned"; and the first message was too late."""
    with pytest.raises(error, match=f"^{what}$"):
        Connection(**{"is_client": False, **given})


@pytest.mark.parametrize("most", [None, 2**80, 2**63 - 1, 5])
def test_as_much_as_there_can_be(most: Any) -> None:
    connection = Connection(is_client=False, max_size=most, max_fragments=most or 2**80)
    connection.receive_bytes(from_peer("server", wire.TEXT, b"hello"))
    assert connection.read_message() == "hello"


def test_a_client_needs_entropy() -> None:
    with pytest.raises(ValueError, match="entropy"):
        Connection(is_client=True)


def test_two_clients_may_share_a_block_of_keys() -> None:
    keys = MaskingKeys(random.Random(SEED).randbytes)
    one, other = (Connection(is_client=True, entropy=keys) for _ in range(2))
    one.send(bytes(4))
    other.send(bytes(4))
    assert one.bytes_to_send() != other.bytes_to_send()


def test_no_masking_needs_no_entropy_from_anybody() -> None:
    with pytest.raises(ValueError):
        Connection(is_client=True, agreement=deflated())
    connection = Connection(is_client=True, agreement=Agreement(no_masking=True))
    connection.send("plain")
    assert wire.parse(connection.bytes_to_send()) == [wire.Seen(wire.TEXT, b"plain")]


def test_a_ping_does_not_wait_for_the_reader(role: str) -> None:
    connection = make(role)
    connection.receive_bytes(from_peer(role, wire.TEXT, b"unread") + from_peer(role, wire.PING, b"p"))
    assert sent(connection) == [(wire.PONG, b"p")]
    frames = [connection.read_frame(), connection.read_frame()]
    assert [frame.opcode for frame in frames if isinstance(frame, Frame)] == [OpCode.TEXT, OpCode.PING]
    assert sent(connection) == []


class TestWhoseDoingItWas:
    """`by` of every error that says how a connection ended, from the connection and from its reader alike."""

    def check(self, connection: Connection, by: str) -> None:
        assert connection.closed_by == by
        for error in (connection.error(), connection.reader.error()):
            assert (error.by, error.code) == (by, connection.close_code)

    def test_open(self, role: str) -> None:
        assert make(role).closed_by is None

    def test_the_peers_close(self, role: str) -> None:
        connection = make(role)
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(4000)))
        self.check(connection, "peer")

    def test_the_peers_close_that_nothing_could_answer(self, role: str) -> None:
        connection = make(role)
        connection.receive_bytes(from_peer(role, wire.TEXT, b"x"))
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(4000)))
        connection.end()
        connection.read_frame()
        with pytest.raises(ConnectionClosed) as caught:
            connection.read_frame()
            connection.read_frame()
        assert caught.value.by == "peer"
        self.check(connection, "peer")

    def test_our_close(self, role: str) -> None:
        connection = make(role)
        connection.close(4001)
        assert connection.error().by == "us"
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(4001)))
        self.check(connection, "us")

    def test_our_close_without_an_answer(self, role: str) -> None:
        connection = make(role)
        connection.close(4001)
        connection.end()
        assert connection.close_code == 1006
        self.check(connection, "us")

    def test_a_fault(self, role: str) -> None:
        connection = make(role)
        connection.receive_bytes(from_peer(role, 3))
        self.check(connection, "us")

    def test_a_failure_of_ours(self, role: str) -> None:
        connection = make(role)
        connection.fail(1011, "keepalive ping timeout")
        self.check(connection, "us")
        assert (
            str(connection.error())
            == "closed here: 1011 (internal error): keepalive ping timeout (ping_timeout)"
        )

    def test_the_network(self, role: str) -> None:
        connection = make(role)
        connection.end()
        self.check(connection, "network")

    def test_what_the_system_said(self, role: str) -> None:
        connection = make(role)
        connection.bridge.cause = cause = ConnectionResetError(104, "reset")
        connection.end()
        with pytest.raises(ConnectionClosed) as caught:
            connection.read_frame()
        assert caught.value.__cause__ is connection.error().__cause__ is cause

    def test_a_reader_that_is_elsewhere(self, role: str) -> None:
        connection = make(role)
        connection.split()
        connection.send_close(1000)
        connection.receive_bytes(from_peer(role, wire.CLOSE, wire.close_payload(1000)))
        assert connection.reader.error().by == "us"


@pytest.mark.parametrize(
    ("payload", "is_limit"),
    [(b"x" * 11, True), (b"\xff", False), (b"x" * 10, False)],
    ids=["size", "text", "fits"],
)
def test_a_limit_of_ours_that_ended_it(payload: bytes, is_limit: bool) -> None:
    connection = Connection(is_client=False, max_size=10)
    connection.reader.receive_bytes(memoryview(wire.frame(wire.TEXT, payload, key=wire.KEY)))
    limit = connection.limit
    assert (limit is not None) == is_limit
    assert limit is None or (isinstance(limit, LimitExceeded) and (limit.code, limit.size) == (1009, 11))


def test_memory_that_could_not_be_sent_is_the_callers_again() -> None:
    connection, memory = make("server"), bytearray(b"\xff" * 10)
    attempts: list[Callable[[], object]] = [
        lambda: connection.send_bytes(memory, text=True),
        lambda: connection.send_fragment(memory, text=True, last=True),
    ]
    for i, attempt in enumerate(attempts):
        try:
            attempt()
        except ValueError:
            memory.pop()  # the traceback is there, and holds nothing of it
        assert len(memory) == 9 - i


def test_memory_that_was_sent_is_the_callers_again(held: list[Any]) -> None:
    connection, memory = make("server"), bytearray(b"a" * 10)
    connection.send_bytes(memory)
    memory += b"more"
    connection.send_fragment(memory, text=False, last=True)
    memory += b"more"
    assert len(held) == 2


@pytest.mark.parametrize("opcode", [wire.BINARY, wire.PING, wire.CLOSE])
def test_a_received_frame_that_is_written_goes_out_as_what_it_is(role: str, opcode: int) -> None:
    payload = wire.close_payload(1000) if opcode == wire.CLOSE else b"abc"
    source, connection = make(role), make(role)
    source.receive_bytes(from_peer(role, opcode, payload))
    frame = source.read_frame()
    connection.write_frame(frame)
    assert sent(connection) == [(opcode, payload)]
    assert connection.state is (State.CLOSE_SENT if opcode == wire.CLOSE else State.OPEN)
    assert connection.writer.messages == (opcode == wire.BINARY)


def test_a_frame_that_somebody_has_made_is_no_whole_message_because_of_that(role: str) -> None:
    connection = make(role)
    connection.write_frame(Frame.text("a", fin=False))
    (frame,) = wire.parse(connection.bytes_to_send())
    assert (frame.opcode, frame.payload, frame.fin) == (wire.TEXT, b"a", False)
    with pytest.raises(ValueError, match="UTF-8"):
        make(role).write_frame(Frame.text(b"\xff"))


def test_a_received_frame_is_not_written_where_nothing_can_be_sent(role: str) -> None:
    source, connection = make(role), make(role)
    source.receive_bytes(from_peer(role, wire.BINARY, b"abc"))
    frame = source.read_frame()
    connection.lose((4000, "ours"))
    with pytest.raises(ConnectionClosed) as caught:
        connection.write_frame(frame)
    assert (caught.value.code, caught.value.reason) == (4000, "ours")
    with pytest.raises(ConnectionClosed):
        connection.writer.write_message(OpCode.BINARY, b"past it")


def test_a_connection_that_fails_for_a_reason_of_ours(role: str) -> None:
    connection = make(role)
    connection.fail(1011, "ours")
    assert connection.failure == (1011, "ours")
    assert (connection.error().code, connection.error().reason, connection.closed_by) == (1011, "ours", "us")


@pytest.mark.parametrize("role", ["client", "server"])
def test_an_origin_that_is_none(role: str) -> None:
    """A misspelled one was read as CONSISTENT, without a word."""
    connection = make(role)
    connection.receive_bytes(from_peer(role, OpCode.TEXT, b"first"))
    for wrong in ("adaptive", None):
        with pytest.raises(TypeError, match=f"^the origin of read_frame is a PayloadOrigin, not {wrong!r}$"):
            connection.read_frame(None, wrong)  # type: ignore[arg-type]
    assert connection.read_frame().text == "first"  # type: ignore[union-attr]


@pytest.mark.parametrize("message", [5, "\ud800", b"\xff"])
def test_what_is_no_message_is_a_mistake_behind_a_close_too(role: str, message: Any) -> None:
    connection = make(role)
    connection.close()
    sent = connection.bytes_to_send()
    with pytest.raises((TypeError, ValueError)):
        if message == b"\xff":
            connection.send_bytes(message, text=True)
        else:
            connection.send(message)
    for right in ("a", b"a"):
        with pytest.raises(ConnectionClosed):
            connection.send(right)
    assert sent and not connection.bytes_to_send()


def test_what_is_shown_of_it(role: str) -> None:
    connection = make(role)
    assert repr(connection) == f"<Connection {role}, open>"
    connection.close()
    assert repr(connection) == f"<Connection {role}, close sent>"
