"""What every frame gets: each row a rule that the peer breaks, as server and as client, in every way bytes arrive.

A row says which bytes break the rule and after how many of them it is known: every shorter prefix is "need more".
What follows on the wire (a Close with a fixed reason), in the exception, and before it (valid frames are delivered
first, valid Pings answered) is the same for all of them. Limits, deflate and what we refuse to send come below.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import feed
import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from zcws.closing import State
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosedError, LimitExceeded, ProtocolError
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE
from zcws.pool import Pool

POOL = Pool()
DEFLATE = Agreement(deflate=DeflateParameters())
NO_MASKING = Agreement(no_masking=True)

#: Limits that a test can reach.
MAX_SIZE, MAX_FRAGMENTS = 200_000, 5


@dataclass(frozen=True)
class Side:
    """Us in one role, and a peer that builds frames for it."""

    name: str
    is_client: bool
    key: bytes | None
    agreement: Agreement | None = None

    def connect(self, agreement: Agreement | None = None) -> Connection:
        return Connection(
            is_client=self.is_client,
            entropy=os.urandom,
            agreement=agreement or self.agreement,
            pool=POOL,
            max_size=MAX_SIZE,
            max_fragments=MAX_FRAGMENTS,
        )

    def frame(self, opcode: int, payload: bytes = b"", **bits: object) -> bytes:
        return wire.frame(opcode, payload, **{"key": self.key, **bits})  # type: ignore[arg-type]

    def head(self, opcode: int, size: int, **bits: object) -> bytes:
        return wire.head(opcode, size, **{"key": self.key, **bits})  # type: ignore[arg-type]


SERVER = Side("server", False, wire.KEY)
CLIENT = Side("client", True, None)
UNMASKED_SERVER = Side("server without masking", False, None, NO_MASKING)
SIDES = [SERVER, CLIENT]

RSV = (1002, "reserved bit set without an extension that defines it")
OPCODE = (1002, "reserved opcode")
CONTROL_FIN = (1002, "fragmented control frame")
CONTROL_SIZE = (1002, "control frame over 125 bytes")
UNMASKED = (1002, "unmasked frame where masking is required")
MASKED = (1002, "masked frame where masking is not allowed")
LENGTH_FORM = (1002, "payload length not in its shortest form")
LENGTH_SIGN = (1002, "payload length with the top bit set")
NO_MESSAGE = (1002, "continuation frame without a message to continue")
INTERLEAVING = (1002, "new message inside a fragmented message")
CLOSE_SIZE = (1002, "close payload of one byte")
CLOSE_CODE = (1002, "close code that must not be sent")
CLOSE_REASON = (1007, "close reason is not UTF-8")
UTF8 = (1007, "text is not UTF-8")
SIZE = (1009, "message over the limit of the receiver (max_size)")
FRAGMENTS = (1009, "more fragments than the receiver allows (max_fragments)")
BAD_DEFLATE = (1007, "compressed data cannot be inflated")

#: The frame's head is known with its first byte, its second, or its length: that many bytes (both roles).
FIRST_BYTE, SECOND_BYTE, LENGTH_16, LENGTH_64 = 1, 2, 4, 10
#: That many payload bytes have to be there as well.
WHOLE = -1


@dataclass(frozen=True)
class Row:
    """One broken rule."""

    name: str
    fault: tuple[int, str]
    after: int | Callable[[Side], int]
    bad: Callable[[Side], bytes]
    sides: tuple[Side, ...] = (SERVER, CLIENT)
    begun: tuple[int, bytes] | None = None  # an unfinished message before it: opcode, payload
    agreement: Agreement | None = None

    @property
    def trailing(self) -> bytes:
        return feed.TRAILING if self.agreement is None or self.fault == RSV else feed.TRAILING_DATA

    def known(self, side: Side, bad: bytes) -> int:
        after = self.after if isinstance(self.after, int) else self.after(side)
        return len(bad) if after == WHOLE else after


def in_payload(count: int) -> Callable[[Side], int]:
    """Known when `count` bytes behind a head of seven-bit length are there."""
    return lambda side: 2 + (4 if side.key else 0) + count


def simple(opcode: int, payload: bytes = b"", **bits: object) -> Callable[[Side], bytes]:
    return lambda side: side.frame(opcode, payload, **bits)


def announced(opcode: int, size: int, **bits: object) -> Callable[[Side], bytes]:
    return lambda side: side.head(opcode, size, **bits)


def row(name: str, fault: tuple[int, str], after: int | Callable[[Side], int], bad: Callable[[Side], bytes],
        **more: object) -> Row:  # fmt: skip
    return Row(name, fault, after, bad, **more)  # type: ignore[arg-type]


#: Text whose n-th byte is the first that cannot be right. RFC 3629 3 and 4.
BAD_TEXTS = {
    "a lone continuation byte": (b"ab\x80", 3),
    "an overlong slash": (b"\xc0\xaf", 1),
    "an overlong NUL in three bytes": (b"\xe0\x80\x80", 2),
    "an overlong character in four bytes": (b"\xf0\x8f\xbf\xbf", 2),
    "a surrogate": (b"x\xed\xa0\x80", 3),
    "the last surrogate": (b"\xed\xbf\xbf", 2),
    "over U+10FFFF": (b"\xf4\x90\x80\x80", 2),
    "lead byte F5": (b"\xf5\x80\x80\x80", 1),
    "byte FF behind ASCII": (b"a" * 100 + b"\xff" + b"b" * 20, 101),
    "a character cut by another": (b"\xce\xce\xba", 2),
    "cut off at the end": (b"\xce\xba\xe1\xbd", WHOLE),
    "a lone lead byte": (b"\xf0", WHOLE),
}

#: RFC 6455 7.4: what must not be in a Close.
BAD_CLOSE_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
GOOD_CLOSE_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]

ROWS = [
    # ---- reserved bits and opcodes: known with the first byte
    *(row(f"RSV {rsv:03b}", RSV, FIRST_BYTE, simple(BINARY, b"x", rsv=rsv)) for rsv in range(1, 8)),
    *(row(f"RSV {rsv:03b} with deflate", RSV, FIRST_BYTE, simple(TEXT, b"x", rsv=rsv), agreement=DEFLATE)
      for rsv in (1, 2, 3, 5, 6, 7)),
    *(row(f"RSV1 on {OpCode(opcode).name} with deflate", RSV, FIRST_BYTE, simple(opcode, b"", rsv=4), agreement=DEFLATE)
      for opcode in (CLOSE, PING, PONG)),
    row("RSV1 on a continuation", RSV, FIRST_BYTE, simple(CONTINUATION, b"x", rsv=4), begun=(TEXT, b"a"),
        agreement=DEFLATE),
    *(row(f"opcode {opcode}", OPCODE, FIRST_BYTE, simple(opcode)) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    # ---- control frames, RFC 6455 5.5
    *(row(f"fragmented {OpCode(opcode).name}", CONTROL_FIN, FIRST_BYTE, simple(opcode, b"", fin=False))
      for opcode in (CLOSE, PING, PONG)),
    *(row(f"{OpCode(opcode).name} of {size} bytes", CONTROL_SIZE, SECOND_BYTE, announced(opcode, size))
      for opcode in (CLOSE, PING, PONG) for size in (126, 65536)),
    # ---- fragments, RFC 6455 5.4
    row("continuation of nothing", NO_MESSAGE, FIRST_BYTE, simple(CONTINUATION, b"x")),
    row("final fragment of nothing", NO_MESSAGE, FIRST_BYTE, simple(CONTINUATION, b"x", fin=False)),
    *(row(f"{OpCode(inner).name} inside fragments", INTERLEAVING, FIRST_BYTE, simple(inner, b"x"), begun=(outer, b"a"))
      for inner in (TEXT, BINARY) for outer in (TEXT, BINARY)),
    # ---- masking, RFC 6455 5.1
    *(row(f"unmasked {OpCode(opcode).name}", UNMASKED, SECOND_BYTE, simple(opcode, b"", key=None), sides=(SERVER,))
      for opcode in (TEXT, BINARY, CLOSE, PING, PONG)),
    *(row(f"masked {OpCode(opcode).name}", MASKED, SECOND_BYTE, simple(opcode, b"", key=key),
          sides=(CLIENT, UNMASKED_SERVER))
      for opcode in (TEXT, BINARY, CLOSE, PING, PONG) for key in (wire.KEY,)),
    row("masked with a key of zeros", MASKED, SECOND_BYTE, simple(TEXT, b"x", key=bytes(4)),
        sides=(CLIENT, UNMASKED_SERVER)),
    # ---- the length, RFC 6455 5.2
    *(row(f"{size} bytes in 16 bits", LENGTH_FORM, LENGTH_16, announced(BINARY, size, form=16))
      for size in (0, 1, 125)),
    *(row(f"{size} bytes in 64 bits", LENGTH_FORM, LENGTH_64, announced(BINARY, size, form=64))
      for size in (0, 125, 126, 65535)),
    *(row(f"{size:#x} bytes", LENGTH_SIGN, LENGTH_64, announced(BINARY, size)) for size in (1 << 63, (1 << 64) - 1)),
    # ---- limits: from the head alone
    row("one byte over max_size", SIZE, LENGTH_64, announced(BINARY, MAX_SIZE + 1)),
    row("2^63 - 1 bytes", SIZE, LENGTH_64, announced(TEXT, (1 << 63) - 1)),
    row("fragments that add up to one byte more", SIZE, LENGTH_64, announced(CONTINUATION, MAX_SIZE - 2),
        begun=(BINARY, b"abc")),
    row("fragments whose sum passes 2^63", SIZE, LENGTH_64, announced(CONTINUATION, (1 << 63) - 1),
        begun=(BINARY, b"abc")),
    # ---- text, RFC 6455 8.1
    *(row(name, UTF8, WHOLE if good == WHOLE else in_payload(good), simple(TEXT, text))
      for name, (text, good) in BAD_TEXTS.items()),
    row("a character cut at the message's end, in fragments", UTF8, WHOLE, simple(CONTINUATION, b"\xbd"),
        begun=(TEXT, b"\xe1")),
    row("a character that is never finished", UTF8, WHOLE, simple(CONTINUATION), begun=(TEXT, b"\xce")),
    row("a character that goes on wrongly", UTF8, in_payload(1), simple(CONTINUATION, b"\xcebb", fin=False),
        begun=(TEXT, b"a\xce")),
    # ---- Close, RFC 6455 5.5.1 and 7.4
    row("Close of one byte", CLOSE_SIZE, WHOLE, simple(CLOSE, b"\x03")),
    *(row(f"Close {code}", CLOSE_CODE, WHOLE, simple(CLOSE, wire.close_payload(code, b"why")))
      for code in BAD_CLOSE_CODES),
    *(row(f"Close with {name}", CLOSE_REASON, WHOLE, simple(CLOSE, wire.close_payload(1000, text)))
      for name, (text, _) in BAD_TEXTS.items()),
    # ---- deflate, RFC 7692 7.2.2
    row("corrupt deflate data", BAD_DEFLATE, WHOLE, simple(BINARY, b"\xff" * 9, rsv=4), agreement=DEFLATE),
    row("inflates to one byte more", SIZE, WHOLE, simple(BINARY, wire.deflate(bytes(MAX_SIZE + 1)), rsv=4),
        agreement=DEFLATE),
    row("a bomb", SIZE, WHOLE, simple(TEXT, wire.deflate(bytes(50_000_000)), rsv=4), agreement=DEFLATE),
    row("inflates to bad text", UTF8, WHOLE, simple(TEXT, wire.deflate(b"abc\xed\xa0\x80"), rsv=4), agreement=DEFLATE),
    row("inflates to text cut off", UTF8, WHOLE, simple(TEXT, wire.deflate(b"abc\xce"), rsv=4), agreement=DEFLATE),
]  # fmt: skip

CASES = [pytest.param(row, side, id=f"{side.name}: {row.name}") for row in ROWS for side in row.sides]


def script(row: Row, side: Side) -> tuple[list[bytes], list[tuple[OpCode, bytes]]]:
    """Valid frames first, and what is read of them; then an unfinished message, where the row needs one."""
    parts = [
        side.frame(TEXT, "schön".encode()),
        side.frame(PING, b"alive?"),
        b"".join(wire.fragments(BINARY, [b"one", b"", b"two"], key=side.key)),
        side.frame(PONG, b"unasked"),
    ]
    frames = [
        (OpCode.TEXT, "schön".encode()),
        (OpCode.PING, b"alive?"),
        (OpCode.BINARY, b"onetwo"),
        (OpCode.PONG, b"unasked"),
    ]
    return parts, frames


@pytest.mark.parametrize(("row", "side"), CASES)
def test_a_broken_rule(row: Row, side: Side) -> None:
    good, frames = script(row, side)
    begun = [] if row.begun is None else [side.frame(*row.begun, fin=False)]
    bad = row.bad(side)
    known = row.known(side, bad)
    make = partial(side.connect, row.agreement)
    # An unfinished message is silent as well: it is one part with the fault, cut where the fault is known.
    outcome = feed.run(
        make, [*good, b"".join(begun) + bad[:known]], key=side.key, ends=True, trailing=row.trailing
    )
    assert outcome.frames == frames
    assert_failed(outcome, side, row.fault)
    # What is left of the frame changes nothing.
    rest = feed.feed(make(), [b"".join([*good, *begun, bad])])
    assert (rest.frames, rest.sent, rest.ending) == (outcome.frames, outcome.sent, outcome.ending)


def assert_failed(outcome: feed.Outcome, side: Side, fault: tuple[int, str]) -> None:
    code, reason = fault
    kind = LimitExceeded if code == 1009 else ProtocolError
    assert outcome.ending == (kind, code, reason, False)
    masked = side.is_client
    assert outcome.sent == [
        wire.Seen(PONG, b"alive?", masked=masked),
        wire.Seen(CLOSE, wire.close_payload(code, reason.encode()), masked=masked),
    ]


@given(data=st.data())
def test_a_broken_rule_cut_anywhere(data: st.DataObject) -> None:
    row = data.draw(st.sampled_from(ROWS))
    side = data.draw(st.sampled_from(row.sides))
    good, frames = script(row, side)
    begun = b"" if row.begun is None else side.frame(*row.begun, fin=False)
    stream = b"".join(good) + begun + row.bad(side) + row.trailing
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    connection = side.connect(row.agreement)
    outcome = feed.feed(connection, feed.cut(stream, places))
    assert outcome.frames == frames
    assert_failed(outcome, side, row.fault)
    assert connection.state is State.FAILED
    assert connection.wants_close


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_nobody_reads_and_the_rule_is_broken_all_the_same(side: Side) -> None:
    connection = side.connect()
    connection.receive_bytes(side.frame(PING) + side.frame(TEXT, rsv=1))
    assert [seen.opcode for seen in wire.parse(connection.bytes_to_send())] == [PONG, CLOSE]
    assert connection.close_code == 1002


# ---- what is allowed: the same edges from the other side ----


def pairs(side: Side) -> list[tuple[str, list[bytes], bytes]]:
    """Name, payloads of the fragments, message: exactly at every edge."""
    cut_text = "κόσμε 🜚".encode()
    return [
        ("exactly max_size", [b"x" * MAX_SIZE], b"x" * MAX_SIZE),
        ("exactly max_size in fragments", [b"x" * (MAX_SIZE - 3), b"abc"], b"x" * (MAX_SIZE - 3) + b"abc"),
        ("exactly max_fragments", [b"a"] * MAX_FRAGMENTS, b"a" * MAX_FRAGMENTS),
        ("exactly max_fragments, all empty", [b""] * MAX_FRAGMENTS, b""),
        (
            "characters cut by fragments",
            [cut_text[:1], cut_text[1:4], cut_text[4:-2], cut_text[-2:]],
            cut_text,
        ),
        *((f"{size} bytes", [b"y" * size], b"y" * size) for size in (0, 1, 125, 126, 127, 65535, 65536)),
    ]


@pytest.mark.parametrize("side", [*SIDES, UNMASKED_SERVER], ids=lambda side: side.name)
def test_what_is_just_allowed(side: Side) -> None:
    for name, payloads, message in pairs(side):
        parts = [b"".join(wire.fragments(TEXT, payloads, key=side.key))]
        silent = len(parts[0]) < 1000  # byte by byte for the small ones
        outcome = (
            feed.run(side.connect, parts, key=side.key, ends=False)
            if silent
            else feed.feed(side.connect(), parts)
        )
        assert outcome.frames == [(OpCode.TEXT, message)], name
        assert outcome.sent == [], name


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_one_fragment_more_than_allowed(side: Side) -> None:
    # Empty ones count: RFC 6455 5.4 allows them, and nothing else would bound their number.
    many = [side.frame(TEXT, fin=False), *[side.frame(CONTINUATION, fin=False)] * (MAX_FRAGMENTS - 1)]
    bad = side.frame(CONTINUATION, b"")[:2]
    outcome = feed.run(side.connect, [b"".join(many) + bad], key=side.key, ends=True)
    assert outcome.frames == []
    assert outcome.ending == (LimitExceeded, *FRAGMENTS, False)
    assert "max_size=200000 bytes, max_fragments=5" in str(outcome.error)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
@pytest.mark.parametrize("last", [b"", b"c"], ids=["an empty one", "one"])
def test_one_that_ends_the_message_is_one_more_too(side: Side, last: bytes) -> None:
    many = [
        side.frame(TEXT, b"a", fin=False),
        *[side.frame(CONTINUATION, b"b", fin=False)] * (MAX_FRAGMENTS - 1),
    ]
    bad = side.frame(CONTINUATION, last)[:2]
    outcome = feed.run(side.connect, [b"".join(many) + bad], key=side.key, ends=True)
    assert (outcome.frames, outcome.ending) == ([], (LimitExceeded, *FRAGMENTS, False))


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
@pytest.mark.parametrize("last", [b"", b"c"], ids=["an empty one", "one"])
def test_an_empty_frame_behind_as_many_as_are_usual(side: Side, last: bytes) -> None:
    """wstest ends 65,536 fragments (cases 9.3.1 and 9.4.1) with one, and is answered by whoever has the usual limit."""
    connection = Connection(is_client=side.is_client, entropy=os.urandom)
    connection.receive_bytes(side.frame(TEXT, b"a", fin=False))
    for count in (*[8192] * 7, 8191):
        connection.receive_bytes(side.frame(CONTINUATION, b"b", fin=False) * count)
        assert connection.read_frame() is NEED_MORE
    connection.receive_bytes(side.frame(CONTINUATION, last))
    if last:
        with pytest.raises(LimitExceeded, match="max_fragments"):
            connection.read_frame()
    else:
        frame = connection.read_frame()
        assert frame is not NEED_MORE
        assert frame.to_bytes() == b"a" + b"b" * 65535


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_ping_between_fragments(side: Side) -> None:
    one, two, three = wire.fragments(TEXT, [b"a\xce", b"\xbab", b"c"], key=side.key)
    parts = [one + side.frame(PING, b"1"), two + side.frame(PONG, b"2"), side.frame(PING), three]
    outcome = feed.run(side.connect, parts, key=side.key, ends=False)
    assert outcome.frames == [
        (OpCode.PING, b"1"), (OpCode.PONG, b"2"), (OpCode.PING, b""), (OpCode.TEXT, "aκbc".encode())
    ]  # fmt: skip
    assert [(seen.opcode, seen.payload) for seen in outcome.sent] == [(PONG, b"1"), (PONG, b"")]


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
@pytest.mark.parametrize("code", [None, *GOOD_CLOSE_CODES])
def test_close_is_echoed(side: Side, code: int | None) -> None:
    payload = b"" if code is None else wire.close_payload(code, "tschüß".encode())
    parts = [side.frame(TEXT, b"before"), side.frame(CLOSE, payload)]
    outcome = feed.run(side.connect, parts, key=side.key, ends=True)
    assert outcome.frames == [(OpCode.TEXT, b"before"), (OpCode.CLOSE, payload)]
    assert [(seen.opcode, seen.payload) for seen in outcome.sent] == [(CLOSE, payload)]
    assert outcome.error is not None
    # RFC 6455 7.1.5: no code is 1005 for the caller, and never on the wire.
    assert (outcome.error.code, outcome.error.clean) == (1005 if code is None else code, True)
    assert outcome.error.reason == ("" if code is None else "tschüß")
    assert isinstance(outcome.error, ConnectionClosedError) == (code not in (None, 1000, 1001))


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_the_end_of_the_stream(side: Side) -> None:
    """Without a Close it is 1006, inside a frame or between two."""
    stream = side.frame(TEXT, b"first") + side.frame(BINARY, b"second" * 30)
    first = len(side.frame(TEXT, b"first"))
    for stop in range(len(stream) + 1):
        connection = side.connect()
        connection.receive_bytes(stream[:stop])
        connection.receive_eof()
        outcome = feed.Outcome()
        feed.read_all(connection, outcome)
        assert outcome.ending == (ConnectionClosedError, 1006, "", False)
        assert len(outcome.frames) == (stop >= first) + (stop == len(stream))
        assert outcome.sent == []


# ---- after the end ----


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_data_after_our_close_is_ignored_until_the_peers(side: Side) -> None:
    connection = side.connect()
    connection.close(1000, "done")
    ours = wire.Seen(CLOSE, wire.close_payload(1000, b"done"), masked=side.is_client)
    assert wire.parse(connection.bytes_to_send()) == [ours]
    late = [side.frame(TEXT, b"late"), side.frame(BINARY, b"x" * MAX_SIZE), side.frame(PING, b"late")]
    late += wire.fragments(TEXT, [b"a", b"b"], key=side.key)
    outcome = feed.feed(connection, late)
    assert (outcome.frames, outcome.sent, outcome.error) == ([], [], None)
    assert connection.state is State.CLOSE_SENT
    outcome = feed.feed(connection, [side.frame(CLOSE, wire.close_payload(1000)) + feed.TRAILING])
    assert (outcome.frames, outcome.sent) == ([], [])
    assert connection.state is State.CLOSED
    assert (outcome.error.code, outcome.error.clean) == (1000, True)  # type: ignore[union-attr]


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_a_broken_rule_after_our_close(side: Side) -> None:
    connection = side.connect()
    connection.close()
    connection.bytes_to_send()
    outcome = feed.feed(connection, [side.frame(TEXT, b"\xff")])
    assert (outcome.sent, outcome.error.code) == ([], 1007)  # type: ignore[union-attr]
    assert connection.state is State.FAILED


# ---- deflate ----


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_a_final_block_ends_nothing(side: Side) -> None:
    import zlib

    stream = zlib.compressobj(wbits=-15)
    final = stream.compress(b"with BFINAL") + stream.flush(zlib.Z_FINISH)
    parts = [
        side.frame(TEXT, final, rsv=4),
        side.frame(TEXT, wire.deflate(b"and the next"), rsv=4),
        side.frame(TEXT, b"and a plain one"),
        b"".join(wire.fragments(BINARY, [final[:3], b"", final[3:]], key=side.key, rsv=4)),
    ]
    outcome = feed.run(partial(side.connect, DEFLATE), parts, key=side.key, ends=False)
    assert [payload for _, payload in outcome.frames] == [
        b"with BFINAL",
        b"and the next",
        b"and a plain one",
        b"with BFINAL",
    ]


# ---- floods ----


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_ten_thousand_pings_in_one_read(side: Side) -> None:
    pings = [side.frame(PING, b"%d" % i) for i in range(10_000)]
    connection = Connection(is_client=side.is_client, entropy=os.urandom, pool=POOL)
    outcome = feed.feed(connection, [b"".join(pings)])
    assert outcome.frames == [(OpCode.PING, b"%d" % i) for i in range(10_000)]
    assert [(seen.opcode, seen.payload) for seen in outcome.sent] == [
        (PONG, b"%d" % i) for i in range(10_000)
    ]


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_pongs_for_a_peer_that_does_not_read_are_one(side: Side) -> None:
    connection = Connection(is_client=side.is_client, entropy=os.urandom, pool=POOL)
    connection.hold_replies = True
    random.seed(6455)
    outcome = feed.feed(connection, [b"".join(side.frame(PING, b"%d" % i) for i in range(10_000))])
    assert (len(outcome.frames), outcome.sent, connection.writer.size) == (10_000, [], 0)
    connection.hold_replies = False
    connection.drain_bridge()
    # RFC 6455 5.5.3: "a Pong frame in response to only the most recently processed Ping".
    assert wire.parse(connection.bytes_to_send()) == [wire.Seen(PONG, b"9999", masked=side.is_client)]
    assert connection.read_frame() is NEED_MORE


# ---- what we refuse to send ----


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_nothing_is_sent_after_close(side: Side) -> None:
    from zcws.errors import ConnectionClosed
    from zcws.frame import Frame

    connection = side.connect()
    connection.close(4000, "bye")
    connection.bytes_to_send()
    attempts: list[Callable[[], object]] = [
        lambda: connection.send("x"),
        lambda: connection.send(b"x"),
        lambda: connection.send_fragment("x", text=True, last=True),
        lambda: connection.write_frame(Frame.ping()),
        connection.ping,
        connection.pong,
    ]
    for attempt in attempts:
        with pytest.raises(ConnectionClosed) as caught:
            attempt()
        assert caught.value.code == 4000
    assert connection.bytes_to_send() == b""


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_what_must_not_be_sent_is_a_value_error(side: Side) -> None:
    from zcws.frame import Frame

    connection = side.connect()
    attempts: list[Callable[[], object]] = [
        lambda: connection.ping(bytes(126)),
        lambda: connection.pong(bytes(126)),
        lambda: connection.close(1000, "x" * 124),
        lambda: connection.close(1005),
        lambda: connection.write_frame(Frame.text(b"\xff")),
        lambda: connection.write_frame(Frame.text(b"cut \xce")),
        lambda: connection.send_bytes(b"\xed\xa0\x80", text=True),
        lambda: connection.send("\ud800"),
        lambda: connection.write_frame(Frame.continuation(b"x")),
        lambda: Frame.ping(bytes(126)),
        lambda: Frame(OpCode.PONG, b"", fin=False),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError):
            attempt()
    assert connection.bytes_to_send() == b""
    assert connection.state is State.OPEN


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_fragments_may_split_a_character(side: Side) -> None:
    from zcws.frame import Frame

    connection = side.connect()
    connection.write_frame(Frame.text("κ".encode()[:1], fin=False))
    connection.write_frame(Frame.continuation("κ".encode()[1:], fin=True))
    assert [seen.payload for seen in wire.parse(connection.bytes_to_send())] == [b"\xce", b"\xba"]
