"""What several connections have written, as the pieces of one crossing."""

from __future__ import annotations

from typing import Any

import pytest
import wire

from zcws.aio.gathering import collect, pass_same, places, words_of
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.prepared import Prepared

LARGE = b"x" * 15_000


class Sender:
    """One whose socket takes everything."""

    def __init__(self, fd: int, *messages: bytes) -> None:
        self.fd = fd
        self.writer = Connection(is_client=False).writer
        self.backlog: list[Any] = []
        self.closing = False
        self.alone: list[bytes] = []
        for message in messages:
            self.writer.write_message(OpCode.BINARY, message)

    def write_ready(self) -> None:
        raise AssertionError

    def write_rest(self) -> None:
        self.alone.append(self.writer.take_whole())

    def sent_together(self, data: Any, sent: int) -> None:
        raise AssertionError

    def broke(self, exc: BaseException) -> None:
        raise exc


def gathered(*senders: Sender) -> list[tuple[int, bytes]]:
    fds: list[int] = []
    parts: list[Any] = []
    collect([*senders], fds, parts)
    return list(zip(fds, map(bytes, parts), strict=True))


def frames(*payloads: bytes) -> bytes:
    return b"".join(wire.frame(wire.BINARY, payload) for payload in payloads)


def test_each_has_one_piece_in_the_order_in_which_they_wrote() -> None:
    senders = Sender(7, b"a"), Sender(5, b"b", b"c"), Sender(6, b"")
    assert gathered(*senders) == [(7, frames(b"a")), (5, frames(b"b", b"c")), (6, frames(b""))]
    assert [sender.writer.size for sender in senders] == [0, 0, 0]
    assert [sender.writer.taken for sender in senders] == [3, 6, 2]


def test_whoever_stands_there_twice_is_asked_once() -> None:
    sender = Sender(7, b"a")
    assert gathered(sender, sender) == [(7, frames(b"a"))]


@pytest.mark.parametrize("why", ["backlog", "closing"])
def test_nothing_overtakes_what_is_in_its_way(why: str) -> None:
    sender = Sender(7, b"a")
    setattr(sender, why, [b"before"])
    assert gathered(sender, Sender(5, b"b")) == [(5, frames(b"b"))]
    assert sender.alone == [frames(b"a")]


def test_the_same_for_many_passes_by_those_who_have_nothing_in_its_way() -> None:
    free, writes, full, ends, closed = Sender(7), Sender(5, b"a"), Sender(6), Sender(8), Sender(9)
    full.backlog, ends.closing = [b"before"], True
    closed.writer.write_close(1000, "")
    closed.writer.take()
    frame = frames(b"same")
    written = [sender.writer.written for sender in (writes, full, ends, closed)]
    fds, others = pass_same([free, writes, full, ends, closed], len(frame))
    assert (fds, others) == ([7], [writes, full, ends, closed])
    assert (free.writer.written, free.writer.taken, free.writer.messages) == (len(frame), len(frame), 1)
    assert [sender.writer.written for sender in (writes, full, ends, closed)] == written


def test_what_is_too_large_to_be_copied_goes_out_alone() -> None:
    sender = Sender(7, LARGE, LARGE)
    assert gathered(sender, Sender(5, b"b")) == [(5, frames(b"b"))]
    assert b"".join(sender.alone) == frames(LARGE, LARGE)


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_large_and_the_same_for_several_is_one_piece(count: int) -> None:
    senders = [Sender(fd) for fd in range(count)]
    message = Prepared(OpCode.BINARY, 2 * LARGE)
    for sender in senders:
        message.write_to(sender.writer)
        assert sender.writer.has_large
    fds: list[int] = []
    parts: list[Any] = []
    collect([*senders], fds, parts)
    if count == 1:
        assert not parts and senders[0].alone == [frames(2 * LARGE)]
    else:
        assert parts[0] is parts[1] and parts == [frames(2 * LARGE)] * 2 and fds == [0, 1]
        assert not any(sender.writer.has_large for sender in senders)


def test_the_same_bytes_for_many_are_joined_once() -> None:
    one, other = b"to many", b"to some"
    assert places([one, other, one, one, other]) == (words_of[5](0, 7, 0, 0, 7), [one, other])
    # Equal, and not the same: comparing them would cost more than a copy.
    assert places([one, bytes(bytearray(one))]) == (words_of[2](0, 7), [one, one])
