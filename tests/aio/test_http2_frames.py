"""What we make of h2: beside h2 itself. The limits, and what a peer may do again and again, are in test_http2.py."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from zcws.aio.http2_frames import H2, MOST_STREAMS
from zcws.http2 import PREFACE


def test_what_we_replace_in_h2_is_there() -> None:
    """h2 does not promise all of it, and what has a name that it does not know does nothing. Where this fails, look
    at h2's `receive_data` as well, which `hear` stands for."""
    theirs = H2Connection(H2Configuration(client_side=False))
    ours = vars(H2).keys() | vars(H2(is_client=False)).keys()
    own = {"hear", "is_over", "_heads_left", "_is_in_vain", "_check_frames", "_ahead", "_begun", "_continued"}
    assert {name for name in ours if not hasattr(theirs, name)} == own


@pytest.mark.parametrize(("is_client", "more"), [(True, {2: 0}), (False, {8: 1})])
def test_what_we_ask_of_a_peer(is_client: bool, more: dict[int, int]) -> None:
    """RFC 9113 6.5.2, RFC 8441 3: no push, or WebSockets; 100 streams, a window of 256 KiB for each, and for all of
    them together what they need."""
    h2 = H2(is_client=is_client)
    said = h2.data_to_send().removeprefix(PREFACE)
    frame, behind = said[9 : 9 + said[2]], said[9 + said[2] :]
    told = {
        int.from_bytes(frame[at : at + 2], "big"): int.from_bytes(frame[at + 2 : at + 6], "big")
        for at in range(0, len(frame), 6)
    }
    assert told.items() >= ({3: 100, 4: 262_144, 5: 65_536} | more).items()
    assert behind == b"\0\0\4\x08\0\0\0\0\0" + (100 * 262_144 - 65_535).to_bytes(4, "big")
    assert h2.inbound_flow_control_window == 100 * 262_144


def test_how_much_of_heads_is_remembered() -> None:
    """RFC 7541 4.2: a change is told once, and the least of several first."""
    heads = H2(is_client=True).encoder
    for sizes, told in (([2**32 - 1], [4096]), ([100, 100], [100]), ([50, 70], [50, 70]), ([70, 50], [50])):
        heads.table_size_changes.clear()
        for size in sizes:
            heads.header_table_size = size
        assert heads.table_size_changes == told and heads.header_table.maxsize == told[-1]


def test_what_we_hear_is_what_h2_would() -> None:
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    client.send_headers(1, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")])
    client.send_data(1, b"body", pad_length=3)
    client.ping(bytes(8))
    client.end_stream(1)
    said = client.data_to_send()
    config = H2Configuration(client_side=False, header_encoding="latin-1")
    theirs, ours = H2Connection(config), H2(is_client=False)
    ours.data_to_send()  # what we expect of a peer
    events, rest, error = ours.hear(said, 100)
    assert list(map(repr, events)) == list(map(repr, theirs.receive_data(said)))
    assert (rest, error) == (b"", None)
    assert ours.data_to_send() == theirs.data_to_send()


def test_what_still_counts_when_nothing_can_be_answered() -> None:
    """As many requests as there may be streams, and what is for an open stream. All were kept until all were heard,
    each at the cost of a look at all others."""

    def ask(number: int, *more: tuple[str, str]) -> bytes:
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), *more]
        client.send_headers(number, fields)
        return client.data_to_send()

    client, server = H2Connection(H2Configuration(client_side=True)), H2(is_client=False)
    client.initiate_connection()
    server.hear(client.data_to_send() + ask(1) + ask(3), 100)
    server.is_over = True
    client.remote_settings[3] = 1000
    last = 5 + 2 * MOST_STREAMS
    said = b"".join(ask(number) for number in range(5, last, 2)) + ask(last, ("x", "remembered"))
    for number in (last, 5, 1):
        client.send_data(number, b"body")
    client.send_headers(1, [("x", "remembered")], end_stream=True)  # which means: as in the request before
    client.reset_stream(last)
    client.send_data(3, b"last", end_stream=True)
    said += client.data_to_send()
    events, rest, error = server.hear(said, 1000)
    assert [(type(event), event.stream_id) for event in events] == [
        *((RequestReceived, number) for number in range(5, last, 2)),
        (DataReceived, 5),
        (DataReceived, 1),
        (DataReceived, 3),
        (StreamEnded, 3),
    ]
    assert (rest, error, set(server.streams)) == (b"", None, set(range(1, last, 2)))


@pytest.mark.parametrize(
    ("kind", "body", "turns"),
    [
        (1, b"\x82\x86\x84\x41\x01a" + b"\x90" * 1000, 10),  # accept-encoding, in a byte, a thousand times
        (1, b"\x82\x86\x84\x41\x01a", 4),  # a request in 15 bytes
        (4, b"".join(code.to_bytes(2, "big") + bytes(4) for code in range(100, 500)), 10),
        (0, bytes(1000), 1),
    ],
)
def test_heads_and_settings_cost_more_than_a_frame(kind: int, body: bytes, turns: int) -> None:
    """A kilobyte may be a thousand fields: 200 of those in a turn would keep everybody else waiting for a second. So
    would 200 requests, which are 15 bytes each."""
    server, heard, went = H2(is_client=False), 0, 0
    number = iter(range(1, 100, 2))
    said = PREFACE + b"\0\0\0\4\0\0\0\0\0"
    if kind == 0:
        said += b"\0\0\6\1\4\0\0\0\1" + b"\x82\x86\x84\x41\x01a"
    for _ in range(10):
        at = {0: 1, 1: next(number), 4: 0}[kind]
        said += len(body).to_bytes(3, "big") + bytes([kind, 4 * (kind == 1)]) + at.to_bytes(4, "big") + body
    while said:
        events, said, error = server.hear(said, 50)
        assert error is None
        heard, went = heard + len(events), went + 1
    assert (heard, went) == (10 + (2 if kind == 0 else 1), turns)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_how_many_frames_are_heard(most: int) -> None:
    """Data of any length is one, and so is anything else, but a head, that is shorter than 16 bytes."""
    server = H2(is_client=False)
    first = b"\0\0\6\1\4\0\0\0\1" + b"\x82\x86\x84\x41\x01a"
    server.hear(PREFACE + b"\0\0\0\4\0\0\0\0\0" + first, 100)
    for frame in (b"\0\0\x64\0\0\0\0\0\1" + bytes(100), b"\0\0\x08\6\0\0\0\0\0" + bytes(8)):
        events, rest, error = server.hear(frame * 5, most)
        assert (len(events), rest, error) == (most, frame * (5 - most), None)
    unknown = b"\0\0\x20\x42\0\0\0\0\0" + bytes(32)  # three
    assert server.hear(unknown * 2, most)[1:] == (unknown, None)


def test_what_is_behind_as_many_frames_as_are_wanted_is_given_back() -> None:
    """Wherever the bytes are cut."""
    client = H2(is_client=True)
    client.ping(b"the last")
    said = client.data_to_send()
    whole, _, _ = H2(is_client=False).hear(said, 100)
    for cut in range(len(said) + 1):
        server, heard = H2(is_client=False), []
        for rest in (said[:cut], said[cut:]):
            while rest:
                events, rest, error = server.hear(rest, 1)
                heard += events
                assert error is None
        assert list(map(repr, heard)) == list(map(repr, whole))
