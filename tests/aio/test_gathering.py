"""What several connections have written, as the pieces of one crossing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import wire

from zcws.aio.gathering import collect, pass_same, places, words_of
from zcws.codec import Deflater
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.extensions import DeflateParameters
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
    fds, others = pass_same([free, writes, full, ends, closed], len(frame), None)
    assert (fds, others) == ([7], [writes, full, ends, closed])
    assert (free.writer.written, free.writer.taken, free.writer.messages) == (len(frame), len(frame), 1)
    assert [sender.writer.written for sender in (writes, full, ends, closed)] == written


class Interrupted(Deflater):
    """Of a connection on which a signal handler sends while the context is being dropped."""

    def __init__(self, send: Callable[[], object]) -> None:
        shared: dict[Any, Any] = {}
        super().__init__(
            DeflateParameters(), is_client=False, level=1, mem_level=8, threshold=0, shared=shared
        )
        self.send = send

    def rest(self) -> None:
        super().rest()
        self.send()


@pytest.mark.parametrize("interrupted", [False, True])
def test_who_keeps_a_context_has_dropped_it_before_anything_can_refer_past_what_passes_by(
    interrupted: bool,
) -> None:
    sender = Sender(7)

    def send() -> None:
        if interrupted:
            sender.writer.write_message(OpCode.BINARY, b"a" * 1000)

    codec = sender.writer.compressor = Interrupted(send)
    sender.writer.is_bare, sender.writer.plain_below = False, 0
    codec.message(b"a" * 1000)
    before = codec.bytes_before, codec.bytes_after
    form = Prepared(OpCode.BINARY, b"b" * 500).form_for(sender.writer)
    assert form.deflated == (500, len(form.payload))
    found = pass_same([sender], len(form.frame), form.deflated)
    if interrupted:  # what the handler has written goes first
        assert found == ([], [sender]) and sender.writer.messages == 1
    else:
        assert found == ([7], []) and codec._stream is None
        assert (sender.writer.written, sender.writer.messages) == (len(form.frame), 1)
        assert (codec.bytes_before, codec.bytes_after) == (before[0] + 500, before[1] + len(form.payload))


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
