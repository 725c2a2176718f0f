"""What `Stats` says, held against the wire itself: `wire.parse` counts the frames that really crossed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import wire
from pair import Pair, deflated

from zcws.closing import State
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.extensions import Agreement
from zcws.frame import Frame
from zcws.prepared import Prepared
from zcws.stats import Known, Stats, shown, shown_server, stats_of

CUTS = {"whole": lambda waiting: waiting, "bytes": lambda waiting: 1, "halves": lambda waiting: waiting // 2}


def look(connection: Connection, **known: Any) -> Stats:
    """The figures, with what only a driver could know."""
    driver = {"bytes_received": 0, "bytes_sent": 0, "bytes_waiting": 0, "is_slow": False, "latency": 0.0}
    return stats_of(connection, **{**driver, **known})


def say_everything(connection: Connection) -> None:
    """One message in every way that there is."""
    connection.send("hello " * 50)
    connection.send(bytes(100_000))
    connection.send("as it is", compress=False)
    for last in (False, False, True):
        connection.send_fragment("part " * 20, text=True, last=last)
    connection.ping(b"are you there")
    connection.write_frame(Frame(OpCode.BINARY, b"whole"))
    connection.write_frame(Frame(OpCode.BINARY, b"first", fin=False))
    connection.write_frame(Frame(OpCode.CONTINUATION, b"last"))
    Prepared(OpCode.TEXT, b"to many " * 50).write_to(connection.writer)


@pytest.mark.parametrize("agreement", [None, deflated(), deflated(server_no_context_takeover=True)])
@pytest.mark.parametrize("cut", CUTS)
def test_both_sides_and_the_wire_agree(agreement: Any, cut: str) -> None:
    pair = Pair(cut=CUTS[cut], agreement=agreement)
    say_everything(pair.client)
    pair.pump()
    pair.client.send_close(1000, "")
    pair.pump()
    crossed = wire.parse(pair.wire[pair.client])
    data = [frame for frame in crossed if frame.opcode < wire.CLOSE]
    ours, theirs = look(pair.client), look(pair.server)
    assert ours.frames_sent == theirs.frames_received == len(crossed) == 12
    assert ours.messages_sent == theirs.messages_received == sum(frame.fin for frame in data) == 7
    assert len(pair.received[pair.server]) == 7 + 1  # and the end
    assert (theirs.frames_sent, ours.frames_received) == (2, 2)  # a Pong and a Close
    assert (theirs.messages_sent, ours.messages_received) == (0, 0)
    assert ours.deflated == theirs.inflated[::-1]


@pytest.mark.parametrize("cut", CUTS)
def test_compressed_bytes_are_those_of_the_wire(cut: str) -> None:
    pair = Pair(cut=CUTS[cut], agreement=deflated())
    assert look(pair.client).ratio_sent is look(pair.server).ratio_received is None
    for text in ("hello " * 50, "hello " * 20_000):
        pair.client.send(text)
    Prepared(OpCode.TEXT, b"to many " * 50).write_to(pair.client.writer)
    pair.client.send("plain", compress=False)
    for last in (False, True):
        pair.client.send_fragment("part " * 20, text=True, last=last)
    pair.pump()
    crossed = wire.parse(pair.wire[pair.client])
    compressed = sum(len(frame.payload) for frame in crossed) - len("plain")
    plain = 300 + 120_000 + 400 + 200
    assert look(pair.client).deflated == (plain, compressed)
    assert look(pair.server).inflated == (compressed, plain)
    assert look(pair.client).ratio_sent == look(pair.server).ratio_received == plain / compressed > 10


def test_the_frame_that_is_broadcast_is_counted() -> None:
    pair = Pair(agreement=deflated())
    message = Prepared(OpCode.TEXT, b"to many " * 50)
    message.write_to(pair.server.writer)
    frame = pair.server.bytes_to_send()
    pair.client.receive_bytes(frame)
    assert pair.client.read_message() == "to many " * 50
    ours, theirs = look(pair.server), look(pair.client)
    assert (
        (ours.messages_sent, ours.frames_sent) == (theirs.messages_received, theirs.frames_received) == (1, 1)
    )
    assert ours.deflated == theirs.inflated[::-1] == (400, len(frame) - 2)


def test_what_is_refused_is_not_counted() -> None:
    connection = Pair().client
    connection.send_fragment("half", text=True, last=False)
    refused: list[Callable[[], object]] = [
        lambda: connection.send("in between"),
        lambda: connection.send_fragment(b"\xff", text=True, last=True),
        lambda: connection.ping(b"x" * 126),
        lambda: Prepared(OpCode.TEXT, b"x").write_to(connection.writer),
    ]
    for attempt in refused:
        with pytest.raises(ValueError):
            attempt()
    stats = look(connection)
    assert (stats.messages_sent, stats.frames_sent, stats.deflated) == (0, 1, (0, 0))


def test_who_closed() -> None:
    pair = Pair()
    assert look(pair.client).closed_by is None
    pair.client.send_close(4000, "enough")
    pair.pump()
    assert (look(pair.client).closed_by, look(pair.server).closed_by) == ("us", "peer")
    pair.server.reader.discard()  # what a driver does to see the end of the stream
    assert (look(pair.server).closed_by, look(pair.server).close_code) == ("peer", 4000)

    faulty = Pair()
    faulty.server.receive_bytes(wire.frame(wire.TEXT, b"\xff", key=wire.KEY))
    faulty.pump()
    assert (look(faulty.server).closed_by, look(faulty.client).closed_by) == ("us", "peer")

    lost, gave_up = Pair().client, Pair().client
    lost.end()
    gave_up.lose((1011, "the peer does not read"))
    assert (look(lost).closed_by, look(gave_up).closed_by) == ("network", "us")

    split = Pair().server
    split.split()
    split.receive_bytes(wire.frame(wire.CLOSE, wire.close_payload(1001), key=wire.KEY))
    split.end()  # before anybody took the answer from the bridge
    assert look(split).closed_by == "peer"


def test_what_waits_and_what_the_driver_knows() -> None:
    pair = Pair()
    for _ in range(3):
        pair.client.send("x")
    pair.server.receive_bytes(pair.client.bytes_to_send())
    stats = look(pair.server, bytes_received=21, latency=0.5, is_slow=True)
    assert (stats.frames_waiting, stats.frames_received, stats.messages_received) == (3, 3, 3)
    assert (stats.bytes_received, stats.latency, stats.is_slow) == (21, 0.5, True)


def test_what_a_connection_says_of_itself_whatever_drives_it() -> None:
    class Driver(Known):
        def _address(self, *, peer: bool) -> str:
            return "theirs" if peer else "ours"

    driver = Driver()
    assert (driver.local_address, driver.remote_address) == ("ours", "theirs")
    driver.connection = Connection(is_client=False, agreement=Agreement("chat"))
    assert (driver.subprotocol, driver.state, driver.closed) == ("chat", State.OPEN, False)
    assert (driver.close_code, driver.close_reason) == (None, None)
    assert repr(driver) == "<WebSocket server with theirs, open>"
    driver.connection.fail(1011, "a mistake")
    assert (driver.state, driver.close_code, driver.close_reason) == (State.FAILED, 1011, "a mistake")
    assert driver.closed


def test_a_connection_as_it_is_shown() -> None:
    connection = Connection(is_client=False)
    assert (
        shown("WebSocket", connection, ("127.0.0.1", 80)) == "<WebSocket server with ('127.0.0.1', 80), open>"
    )
    # A Unix socket that was bound to no path.
    assert shown("ReaderHalf", connection, "", "blocking, ") == "<ReaderHalf server, blocking, open>"


def test_a_server_as_it_is_shown() -> None:
    assert shown_server([("127.0.0.1", 80)], "serving", 1) == "<Server at ('127.0.0.1', 80), serving, 1 open>"
    assert shown_server(["/a", "/b"], "closing", 0) == "<Server at '/a' and '/b', closing, 0 open>"
    assert shown_server([], "closed", 0) == "<Server, closed, 0 open>"
