"""The same bytes, the same verdict: ours beside the cores without I/O of `websockets` and of `wsproto`.

hypothesis makes streams of whole frames, most of them legal, some not, for both roles; each core says which messages
and control frames it saw, and how it ended. Where a verdict may differ is in `DIFFERENCES`: a predicate over frames,
and the sentence of RFC 6455 that decides it. Each of them has an example, so that one that is gone is noticed too.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import wire
import wsproto.connection
import wsproto.events
from hypothesis import given, strategies
from websockets.frames import Opcode
from websockets.protocol import Protocol, Side
from websockets.protocol import State as TheirState

from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, ProtocolError
from zcws.frame import NEED_MORE
from zcws.pool import Pool

Event = tuple[Any, ...]


@dataclass(frozen=True)
class Given:
    """A frame as it was made."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    #: Whether it is masked as its role asks for. RFC 6455 5.1.
    masked_right: bool = True
    #: Bits of the length; None for the shortest form.
    form: int | None = None

    def bytes(self, role: str) -> bytes:
        """As it arrives at this role."""
        masked = (role == "server") == self.masked_right
        key = wire.KEY if masked else None
        return wire.frame(self.opcode, self.payload, fin=self.fin, rsv=self.rsv, key=key, form=self.form)


# ---- three cores ----


def ours(role: str, data: bytes) -> list[Event]:
    connection = Connection(is_client=role == "client", entropy=os.urandom, pool=Pool())
    events: list[Event] = []
    view = memoryview(data)
    try:
        while view:
            view = view[connection.receive_bytes(view) :]
            while (frame := connection.read_frame()) is not NEED_MORE:
                events.append(named(frame.opcode, frame.to_bytes()))
    except ProtocolError as error:
        events.append(("fail", int(error.code)))
    except ConnectionClosed as error:
        events[-1] = ("close", int(error.code), error.reason)
    return events


def named(opcode: int, payload: bytes) -> Event:
    if opcode == OpCode.TEXT:
        return "text", payload.decode()
    return OpCode(opcode).name.lower(), payload


def theirs_websockets(role: str, data: bytes) -> list[Event]:
    side = Side.CLIENT if role == "client" else Side.SERVER
    protocol = Protocol(side, state=TheirState.OPEN, max_size=None)
    protocol.receive_data(data)
    events: list[Event] = []
    opcode, parts = 0, b""
    for frame in protocol.events_received():
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            events.append((frame.opcode.name.lower(), bytes(frame.data)))
        elif frame.opcode is Opcode.CLOSE:
            assert protocol.close_rcvd is not None
            events.append(("close", protocol.close_rcvd.code, protocol.close_rcvd.reason))
        else:
            opcode, parts = (
                (frame.opcode or opcode),
                (parts if frame.opcode == 0 else b"") + bytes(frame.data),
            )
            if frame.fin:
                try:  # text is decoded by the layer above: websockets.asyncio.messages
                    events.append(named(opcode, parts))
                except UnicodeDecodeError:
                    return [*events, ("fail", 1007)]
    if protocol.parser_exc is not None:
        assert protocol.close_sent is not None
        events.append(("fail", protocol.close_sent.code))
    return events


def theirs_wsproto(role: str, data: bytes) -> list[Event]:
    kind = wsproto.connection.ConnectionType
    core = wsproto.connection.Connection(kind.CLIENT if role == "client" else kind.SERVER)
    core.receive_data(data)
    events: list[Event] = []
    parts: Any = None
    for event in core.events():
        if isinstance(event, wsproto.events.Message):
            parts = event.data if parts is None else parts + event.data
            if event.message_finished:
                events.append(
                    (
                        "text" if isinstance(parts, str) else "binary",
                        parts if isinstance(parts, str) else bytes(parts),
                    )
                )
                parts = None
        elif isinstance(event, (wsproto.events.Ping, wsproto.events.Pong)):
            events.append((type(event).__name__.lower(), bytes(event.payload)))
        elif isinstance(event, wsproto.events.CloseConnection):
            # What the peer sent and what wsproto found wrong are one kind of event: only the first moves the state.
            if core.state is wsproto.connection.ConnectionState.REMOTE_CLOSING:
                events.append(("close", int(event.code), event.reason or ""))
            else:
                events.append(("fail", int(event.code)))
            break
    return events


CORES = {"websockets": theirs_websockets, "wsproto": theirs_wsproto}


# ---- streams ----

TEXTS = strategies.sampled_from(
    [
        b"",
        b"hello",
        "für Elise".encode(),
        "\N{GRINNING FACE}".encode(),
        b"\xc3",
        b"\xff",
        b"\xed\xa0\x80",
        b"x" * 126,
    ]
)
SIZES = strategies.sampled_from([126, 127, 1000, 65535, 65536])
PAYLOADS = strategies.one_of(TEXTS, TEXTS, strategies.binary(max_size=130), SIZES.map(bytes))
CODES = strategies.sampled_from(
    [0, 999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 65535]
)
CLOSES = strategies.builds(wire.close_payload, CODES, TEXTS.filter(lambda text: len(text) < 124)) | (
    strategies.sampled_from([b"", b"\x03"])
)
SMALL = strategies.binary(max_size=125)

LEGAL = strategies.one_of(
    strategies.builds(
        Given, strategies.sampled_from([wire.TEXT, wire.BINARY]), PAYLOADS, fin=strategies.booleans()
    ),
    strategies.builds(Given, strategies.just(wire.CONTINUATION), PAYLOADS, fin=strategies.booleans()),
    strategies.builds(Given, strategies.sampled_from([wire.PING, wire.PONG]), SMALL),
    strategies.builds(Given, strategies.just(wire.CLOSE), CLOSES),
)
ILLEGAL = strategies.builds(
    Given,
    strategies.integers(0, 15),
    PAYLOADS | CLOSES,
    fin=strategies.booleans(),
    rsv=strategies.sampled_from([0, 0, 0, 1, 2, 4, 7]),
    masked_right=strategies.sampled_from([True, True, True, False]),
    form=strategies.sampled_from([None, None, 16, 64]),
).filter(lambda frame: frame.form != 16 or len(frame.payload) < 65536)
STREAMS = strategies.lists(LEGAL | LEGAL | LEGAL | ILLEGAL, min_size=1, max_size=8)


@given(frames=STREAMS, role=strategies.sampled_from(["client", "server"]))
@pytest.mark.parametrize("core", CORES)
def test_the_same_bytes_have_the_same_verdict(core: str, role: str, frames: list[Given]) -> None:
    data = b"".join(frame.bytes(role) for frame in frames)
    mine, theirs = ours(role, data), CORES[core](role, data)
    if mine != theirs:
        reasons = [item.name for item in DIFFERENCES if core in item.cores and item.may_matter(frames)]
        assert reasons, f"{core} says {theirs}, and we say {mine}"


# ---- where they differ ----


@dataclass(frozen=True)
class Difference:
    """One that is known."""

    name: str
    cores: tuple[str, ...]
    sentence: str
    may_matter: Callable[[list[Given]], bool]
    example: list[Given]
    mine: list[Event]


def has(predicate: Callable[[Given], bool]) -> Callable[[list[Given]], bool]:
    return lambda frames: any(map(predicate, frames))


def is_longer_than_needed(frame: Given) -> bool:
    size = len(frame.payload)
    return (frame.form == 16 and size < 126) or (frame.form == 64 and size < 65536)


def text_is_bad_before_its_end(frames: list[Given]) -> bool:
    """A message of text in fragments holds what no UTF-8 has, before its last one."""
    decoder: Any = None
    for frame in frames:
        if frame.opcode == wire.TEXT:
            decoder = codecs.getincrementaldecoder("utf-8")()
        elif frame.opcode != wire.CONTINUATION:
            continue
        if decoder is None or frame.fin:
            decoder = None
            continue
        try:
            decoder.decode(frame.payload)
        except UnicodeDecodeError:
            return True
    return False


def is_wrong_twice(frame: Given) -> bool:
    """Its reason is no UTF-8; its code is not asked for."""
    return frame.opcode == wire.CLOSE and "\N{REPLACEMENT CHARACTER}" in frame.payload[2:].decode(
        errors="replace"
    )


def closes_inside_a_message(frames: list[Given]) -> bool:
    inside = False
    for frame in frames:
        if frame.opcode == wire.CLOSE and inside:
            return True
        if frame.opcode <= wire.BINARY:
            inside = not frame.fin
    return False


DIFFERENCES: list[Difference] = [
    Difference(
        "a length that is not in its shortest form",
        ("websockets",),
        'RFC 6455 5.2: "in all cases, the minimal number of bytes MUST be used to encode the length"',
        has(is_longer_than_needed),
        [Given(wire.BINARY, b"x", form=16)],
        [("fail", 1002)],
    ),
    Difference(
        "text that is not UTF-8, before its message is complete",
        ("websockets",),
        'RFC 6455 8.1: an endpoint that "finds that the byte stream is not, in fact, a valid UTF-8 stream [...] MUST '
        '_Fail the WebSocket Connection_": it is found with the first byte that cannot be right',
        text_is_bad_before_its_end,
        [Given(wire.TEXT, b"\xff", fin=False)],
        [("fail", 1007)],
    ),
    Difference(
        "a Close inside of a message in fragments",
        ("websockets",),
        'RFC 6455 5.4: "Control frames [...] MAY be injected in the middle of a fragmented message"; 5.5 counts '
        "Close among them",
        closes_inside_a_message,
        [Given(wire.BINARY, fin=False), Given(wire.CLOSE, wire.close_payload(3000))],
        [("close", 3000, "")],
    ),
    Difference(
        "Close 1014",
        ("wsproto",),
        'RFC 6455 7.4.2: 1000 to 2999 are for RFCs and the registry that it makes; there 1014 is "Bad Gateway"',
        has(lambda frame: frame.opcode == wire.CLOSE and frame.payload[:2] == wire.close_payload(1014)),
        [Given(wire.CLOSE, wire.close_payload(1014))],
        [("close", 1014, "")],
    ),
    Difference(
        "a Close whose code and whose reason are both wrong",
        ("websockets",),
        "RFC 6455 7.4.1: 1002 is for the one and 1007 for the other, and no sentence says which comes first",
        has(is_wrong_twice),
        [Given(wire.CLOSE, wire.close_payload(999, b"\xff"))],
        [("fail", 1002)],
    ),
]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
@pytest.mark.parametrize("role", ["client", "server"])
def test_a_known_difference_is_still_there(role: str, difference: Difference) -> None:
    data = b"".join(frame.bytes(role) for frame in difference.example)
    assert ours(role, data) == difference.mine, difference.sentence
    for core in difference.cores:
        assert CORES[core](role, data) != difference.mine, f"{core} does the same now: take it out"
