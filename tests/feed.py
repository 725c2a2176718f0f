"""Bytes arrive in every way: whole, byte by byte, with trailing bytes, cut anywhere.

A script is a list of parts, each the bytes of one thing that happens: a message, a control frame, a fault. The
same script has to end the same in every way; byte by byte, every strict prefix of a part has to say "need more".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import wire

from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed
from zcws.frame import NEED_MORE

#: What follows where nothing should be looked at any more: a frame that would be answered, and one that no reader
#: lets pass.
TRAILING = wire.frame(wire.PING, b"late") + wire.frame(wire.PING, b"late", key=wire.KEY) + b"\xff\xff\xff"

#: The same behind a fault that is found when the message is read (it has to be inflated): a Ping that is there
#: already was answered when it arrived, so there is none.
TRAILING_DATA = (
    wire.frame(wire.TEXT, b"late") + wire.frame(wire.TEXT, b"late", key=wire.KEY) + b"\xff\xff\xff"
)


@dataclass
class Outcome:
    """What came of it."""

    frames: list[tuple[OpCode, bytes]] = field(default_factory=list)
    sent: list[wire.Seen] = field(default_factory=list)
    error: ConnectionClosed | None = None

    @property
    def ending(self) -> tuple[type[ConnectionClosed], int, str, bool] | None:
        error = self.error
        return None if error is None else (type(error), error.code, error.reason, error.clean)


def read_all(connection: Connection, outcome: Outcome) -> None:
    """Reads until nothing is left, and takes what has been written meanwhile."""
    try:
        while (frame := connection.read_frame()) is not NEED_MORE:
            outcome.frames.append((frame.opcode, frame.to_bytes()))
    except ConnectionClosed as error:
        outcome.error = error
    outcome.sent += wire.parse(connection.bytes_to_send())


def feed(connection: Connection, pieces: Iterable[bytes]) -> Outcome:
    """Each piece is one arrival; everything is read after each."""
    outcome = Outcome()
    for piece in pieces:
        data = memoryview(piece)
        while data and outcome.error is None:
            data = data[connection.receive_bytes(data) :]
            read_all(connection, outcome)
    return outcome


def bytewise(connection: Connection, parts: list[bytes], *, silent: bool) -> Outcome:
    """A byte at a time. Where a part makes one thing happen (`silent`), all of its bytes but the last need more."""
    outcome = Outcome()
    for part in parts:
        for at in range(len(part)):
            happened = len(outcome.frames)
            connection.receive_bytes(part[at : at + 1])
            read_all(connection, outcome)
            if silent and at < len(part) - 1:
                assert (len(outcome.frames), outcome.error) == (happened, None), (part.hex(), at)
    return outcome


def run(
    make: Callable[[], Connection],
    parts: list[bytes],
    *,
    key: bytes | None,
    ends: bool,
    silent: bool = True,
    trailing: bytes = TRAILING,
) -> Outcome:
    """The script in three ways, which have to agree. `ends`: nothing behind it may count; otherwise a text must."""
    whole = feed(make(), [b"".join(parts)])
    slow = bytewise(make(), parts, silent=silent)
    assert (slow.frames, slow.sent, slow.ending) == (whole.frames, whole.sent, whole.ending)
    more = [] if ends else [(OpCode.TEXT, b"more")]
    longer = feed(make(), [b"".join(parts) + (trailing if ends else wire.frame(wire.TEXT, b"more", key=key))])
    assert (longer.frames, longer.sent, longer.ending) == (whole.frames + more, whole.sent, whole.ending)
    assert (whole.error is not None) == ends
    return whole


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` cut at those places."""
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[i:j] for i, j in pairwise(at)]
