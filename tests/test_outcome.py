"""How the stream from the peer ends: nothing counts after it, and what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys

import feed
import pytest
import wire
from receiver import DEFLATE, connect, send
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from zcws.closing import State
from zcws.codes import OpCode
from zcws.errors import ConnectionClosed, ConnectionClosedError, LimitExceeded
from zcws.pool import Pool

pytestmark = pytest.mark.usefixtures("every_view")


def test_nothing_is_looked_at_after_a_close_or_a_fault() -> None:
    for last in (wire.frame(CLOSE), wire.frame(TEXT, rsv=3)):
        pool = Pool(4096)
        connection = connect(pool)
        send(connection, last)
        connection.bytes_to_send()
        for _ in range(50):
            send(connection, wire.frame(PING, b"anybody?") * 100)
        outcome = feed.Outcome()
        feed.read_all(connection, outcome)
        assert outcome.error is not None
        assert (len(outcome.frames), outcome.sent) == (last == wire.frame(CLOSE), [])


def test_what_stands_behind_the_end_takes_no_room() -> None:
    """Whoever receives goes on until the peer ends the stream: RFC 6455 7.1.1."""
    for last in (wire.frame(CLOSE), wire.frame(TEXT, rsv=3)):
        connection = connect()
        room = len(connection.get_buffer())
        send(connection, last.ljust(room, b"\xff"))
        send(connection, bytes(room))
        assert not connection.reader.is_full
        assert connection.get_buffer()
        assert connection.reader.received(1) is True


def test_after_a_failure_of_ours_what_waits_can_be_read() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"waits") + wire.frame(PING, b"p"))
    connection.fail(1011, "keepalive ping timeout")
    assert [(seen.opcode, seen.payload[:2]) for seen in wire.parse(connection.bytes_to_send())] == [
        (PONG, b"p"), (CLOSE, b"\x03\xf3"),
    ]  # fmt: skip
    send(connection, wire.frame(TEXT, b"too late") + wire.frame(PING))
    assert connection.read_message() == "waits"
    with pytest.raises(ConnectionClosedError) as caught:
        connection.read_message()
    assert (caught.value.code, caught.value.reason) == (1011, "keepalive ping timeout")
    assert connection.bytes_to_send() == b""
    connection.fail(1011, "again")
    assert connection.close_reason == "keepalive ping timeout"


def test_nothing_goes_past_a_reader_that_has_failed() -> None:
    """Rows are handed on at once while a reader is idle."""
    connection = connect()
    assert connection.reader.is_idle
    connection.fail(1011, "enough")
    assert not connection.reader.is_idle
    assert connection.bridge.ended  # whoever writes need not wait for replies


def test_a_reason_of_ours_counts_after_the_peer_has_half_closed() -> None:
    reader = connect().reader
    reader.receive_eof()
    assert (reader.is_concluded, reader.error().code) == (True, 1006)
    reader.stop(1011, "enough")
    assert reader.error().code == 1011


def test_the_end_waits_for_nobody_once_our_close_is_out() -> None:
    """RFC 6455 5.5.1: nothing can be answered after it."""
    connection = connect()
    send(connection, wire.frame(TEXT, b"unread"))
    connection.close()
    connection.reader.receive_eof(later=True)
    assert connection.reader.is_concluded
    assert connection.read_message() == "unread"


@pytest.mark.parametrize("end", [wire.frame(CLOSE, wire.close_payload(1001)), wire.frame(TEXT, b"\xff")])
@pytest.mark.parametrize("split", [False, True])
def test_we_fail_the_connection_while_the_end_waits_to_be_read(end: bytes, split: bool) -> None:
    connection = connect()
    if split:
        connection.bridge.on_put = None  # whoever writes takes the reply later
    send(connection, end if split else wire.frame(TEXT, b"waits") + end)
    connection.fail(1011, "keepalive ping timeout")
    outcome = feed.Outcome()
    feed.read_all(connection, outcome)
    connection.drain_bridge()
    # One Close, ours, and our reason for it; what the peer said last came too late to be answered.
    assert [seen.payload[:2] for seen in outcome.sent] == [b"\x03\xf3"]
    assert (connection.bytes_to_send(), connection.state, connection.close_code) == (b"", State.FAILED, 1011)
    assert outcome.error is not None
    if not split:
        assert outcome.frames[0] == (OpCode.TEXT, b"waits")
        assert (outcome.error.code, outcome.error.reason) == (1011, "keepalive ping timeout")


@pytest.mark.parametrize("end", [wire.frame(CLOSE, wire.close_payload(1001)), wire.frame(TEXT, b"\xff")])
def test_the_socket_is_gone_before_everything_has_been_read(end: bytes) -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"first") + end)
    connection.end()
    assert connection.state is State.LOST
    outcome = feed.Outcome()
    feed.read_all(connection, outcome)
    assert outcome.frames[0] == (OpCode.TEXT, b"first")
    assert outcome.error is not None
    # Nobody is there to be answered.
    assert (outcome.error.code, outcome.sent) == (1001 if end[0] == 0x88 else 1007, [])


def test_the_end_waits_for_who_may_still_answer() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"question"))
    assert connection.read_message() == "question"
    connection.reader.receive_eof(later=True)
    assert (connection.reader.is_concluded, connection.reader.is_at_eof, connection.reader.is_ending) == (
        False,
        True,
        True,
    )
    with pytest.raises(ConnectionClosedError):
        connection.read_message()
    assert connection.reader.is_concluded


def test_a_caller_that_does_not_read_can_bring_the_end_forward() -> None:
    connection = connect()
    send(connection, wire.frame(TEXT, b"unread") + wire.frame(CLOSE, wire.close_payload(1000)))
    assert (connection.bytes_to_send(), connection.reader.is_concluded) == (b"", False)
    connection.reader.conclude()
    connection.reader.conclude()
    assert [seen.opcode for seen in wire.parse(connection.bytes_to_send())] == [CLOSE]
    assert connection.read_message() == "unread"
    with pytest.raises(ConnectionClosed):
        connection.read_message()


def test_a_reply_for_which_there_is_no_memory_is_owed_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer never heard a Close."""

    def fails(*what: object) -> None:
        raise MemoryError

    connection = connect()
    with monkeypatch.context() as patched:
        patched.setattr("zcws.outcome.Reply", fails)
        with pytest.raises(MemoryError):
            send(connection, wire.frame(CLOSE, wire.close_payload(1000)))
            connection.read_message()
    connection.reader.conclude()
    assert [seen.opcode for seen in wire.parse(connection.bytes_to_send())] == [CLOSE]


def test_conclude_does_nothing_while_more_may_come() -> None:
    connection = connect()
    connection.reader.conclude()
    send(connection, wire.frame(TEXT, b"more"))
    assert connection.read_message() == "more"
    assert connection.state is State.OPEN


def test_an_end_that_waits_is_news_and_no_idleness() -> None:
    reader = connect().reader
    assert (reader.is_idle, reader.has_news) == (True, False)
    reader.receive_eof(later=True)
    assert (reader.is_idle, reader.has_news, reader.is_concluded) == (False, True, False)


def test_a_reason_of_ours_that_comes_after_the_end_is_no_reason() -> None:
    connection = connect()
    send(connection, wire.frame(CLOSE, wire.close_payload(1001)))
    assert connection.reader.is_concluded
    connection.reader.stop(1011, "too late")
    assert connection.reader.error().code == 1001


@pytest.mark.parametrize("before", [b"", wire.frame(TEXT, b"x" * 500)])
def test_a_limit_says_how_large_the_message_is(before: bytes) -> None:
    connection = connect(Pool(), max_size=1000)
    connection.receive_bytes(before + wire.frame(TEXT, b"x" * 1001))
    error = connection.error()
    assert isinstance(error, LimitExceeded) and error.size == 1001
    assert "has 1001 bytes or more" in str(error) and "max_size=1000" in str(error)


def test_a_limit_says_how_large_its_fragments_are_together() -> None:
    connection = connect(Pool(), max_size=1000)
    connection.receive_bytes(wire.frame(BINARY, b"x" * 900, fin=False))
    connection.receive_bytes(wire.frame(CONTINUATION, b"x" * 200)[:4])  # from the head alone
    error = connection.error()
    assert isinstance(error, LimitExceeded) and error.size == 1100


def test_a_limit_of_fragments_says_nothing_of_bytes() -> None:
    connection = connect(Pool(), max_fragments=1)
    connection.receive_bytes(wire.frame(BINARY, b"x", fin=False) + wire.frame(CONTINUATION, b"x"))
    error = connection.error()
    assert isinstance(error, LimitExceeded) and error.size is None


@pytest.mark.parametrize("most", [0, 1])
def test_a_limit_of_what_is_inflated_does_not_say_how_much_that_was(most: int) -> None:
    """No more of it was inflated than shows that it is too much."""
    connection = connect(Pool(), agreement=DEFLATE, max_size=most)
    send(connection, wire.frame(BINARY, wire.deflate(b"xyz"), rsv=4))
    with pytest.raises(LimitExceeded) as caught:
        connection.read_message()
    assert caught.value.size is None


@pytest.mark.parametrize(
    "data", [b"", wire.frame(TEXT, b"whole"), wire.frame(TEXT, b"whole") * 5, wire.frame(TEXT, b"half")[:3]]
)
def test_what_was_torn_is_not_read(data: bytes) -> None:
    connection = connect()
    send(connection, data)
    connection.reader.tear(1011, "torn")
    for read in (connection.reader.read_message, connection.reader.read_batch, connection.reader.read_frame):
        with pytest.raises(ConnectionClosedError, match="torn"):
            read()
    assert connection.reader.is_concluded and connection.reader.is_failed and not connection.reader.is_faulty
    assert (connection.close_code, connection.closed_by) == (1011, "us")
    assert wire.parse(connection.bytes_to_send())[-1].payload == b"\x03\xf3torn"


def test_a_close_that_was_torn_is_not_the_peers_word() -> None:
    """It had arrived behind a message, and was read by nobody: half of it may be taken."""
    connection = connect()
    send(connection, wire.frame(TEXT, b"data"), wire.frame(wire.CLOSE, wire.close_payload(3000)))
    connection.reader.tear(1011, "torn")
    assert (connection.close_code, connection.close_reason) == (1011, "torn")


def test_what_is_torn_behind_its_end() -> None:
    """The peer's Close has taken effect, and its code stays."""
    connection = connect()
    send(connection, wire.frame(wire.CLOSE, wire.close_payload(3000)))
    with pytest.raises(ConnectionClosedError):
        connection.reader.read_message()
    connection.reader.tear(1011, "torn")
    assert connection.close_code == 3000


FORKS = """
import os, signal, threading, warnings
from zcws.outcome import state_of_stream

warnings.simplefilter("ignore")
over = threading.Event()

def connect():
    while not over.is_set():
        state_of_stream(1, 2, 3, True, False)

threads = [threading.Thread(target=connect) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(50):
    child = os.fork()
    if not child:
        signal.alarm(20)
        state_of_stream(1, 2, 3, True, False)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("a child hung")
        break
over.set()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is nothing but spawn")
def test_a_child_that_connects_while_threads_of_its_parent_do() -> None:
    """Without a GIL one in fifty hung, and on PyPy the first: a thread of the parent held the lock of a cache."""
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
