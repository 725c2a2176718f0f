from __future__ import annotations

import socket
import sys

import pytest
import raw
import wire
from channels import Pair, receive, tls_pair
from net import Certificates
from receiver import connect

from zcws.sync import plain
from zcws.sync.channel import NOTHING
from zcws.sync.plain import PlainChannel, open_channel
from zcws.sync.polled import PolledChannel, TlsChannel


def test_which_channel(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    for timed, kind in ((True, PlainChannel), (False, PolledChannel)):
        monkeypatch.setattr(plain, "_KERNEL_TIMES", timed)
        ours, theirs = socket.socketpair()
        channel = open_channel(ours)
        assert type(channel) is kind
        channel.abort()
        theirs.close()
    ours, theirs = tls_pair(certificates)
    channel = open_channel(ours)
    assert type(channel) is TlsChannel
    channel.abort()
    theirs.close()


@pytest.mark.parametrize("pair", ["plain"], indirect=True)
def test_trying_before_a_sleep(pair: Pair) -> None:
    channel, peer = pair
    waits, rests = channel.record.waits, []
    receive(channel, 0)
    assert waits.rest == 0  # that was no wait
    for _ in range(126):
        waits.lost = 0  # the machine may be busy
        assert receive(channel, 0.001) == NOTHING
        rests.append((waits.rest, waits.resting))
    # Each try that was of no use has twice as many waits sleep at once.
    tried = [rest for rest, resting in rests if rest == resting]
    assert tried == [1, 3, 7, 15, 31, 63]
    peer.sendall(b"here already")
    waits.resting = 0
    assert receive(channel) == b"here already"
    assert (waits.rest, waits.resting) == (63, 0)  # no wait says nothing about waits


@pytest.mark.skipif(not plain._KERNEL_TIMES, reason="there is none here")
def test_who_does_not_poll_sleeps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCWS_POLL", "0")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = PlainChannel(ours)
        for _ in range(3):
            assert receive(channel, 0.001) == NOTHING
        theirs.sendall(b"x")
        assert receive(channel, 3600) == b"x"
        waits = channel.record.waits
        assert (waits.rest, waits.resting) == (0, 0)
        channel.abort()


@pytest.mark.parametrize("pair", ["plain"], indirect=True)
@pytest.mark.parametrize("timeout", [None, 3600])
def test_a_try_ends_before_there_is_a_sleep(pair: Pair, timeout: float | None) -> None:
    """The handler of a signal that came meanwhile was not called until there were bytes, or the time was over."""
    channel, _ = pair
    reader = connect().reader
    assert channel.scan(reader, timeout) == NOTHING
    channel.record.waits.resting = 0
    assert channel.receive(memoryview(bytearray(9)), timeout) == NOTHING


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no such socket here")
def test_a_frame_in_parts_takes_one_wait() -> None:
    """Python has no use for its beginning. Each receive from such a socket brings what was sent at a time."""
    frame = wire.frame(wire.TEXT, b"in parts")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        channel, reader, buffer = PlainChannel(ours), connect().reader, bytearray(7)
        for part in (frame[:1], frame[1:3], frame[3:], frame[:1]):
            theirs.send(part)
        channel.record.waits.never = True
        assert channel.scan(reader, 3600) == 1
        assert reader.message_found(1) == "in parts"
        assert (channel.record.received, channel.record.total) == (len(frame), len(frame))
        channel.record.received = 0
        theirs.send(b"of large")
        assert channel.receive_more(memoryview(buffer), 3600, 7) == 7
        assert bytes(buffer) == frame[:1] + b"of lar"
        channel.abort()


@pytest.mark.parametrize("pair", ["plain"], indirect=True)
def test_trying_is_of_use(pair: Pair) -> None:
    channel, peer = pair

    def answer() -> None:
        while data := peer.recv(100):
            peer.sendall(data)

    def is_learnt() -> bool:
        waits = channel.record.waits
        waits.rest, waits.resting, waits.lost = 63, 0, 0
        channel.send([b"question"])
        assert receive(channel) == b"question"
        return (waits.rest, waits.resting) == (31, 0)

    with raw.thread(answer):
        raw.until(is_learnt)
        channel.end()


@pytest.mark.skipif(not plain._KERNEL_TIMES, reason="there is none here")
def test_a_handler_that_raises_while_the_kernel_is_told_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next wait of the same length took the kernel to know it, and lasted for as long as the one before."""

    class Alarm(Exception):
        pass

    def interrupted(timeout: float | None) -> bytes:
        raise Alarm

    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = PlainChannel(ours)
        assert receive(channel, 0.001) == NOTHING
        assert receive(channel, 0) == NOTHING
        with monkeypatch.context() as patched:
            patched.setattr(plain, "_timeval", interrupted)
            with pytest.raises(Alarm):
                receive(channel, None)
        theirs.sendall(b"x")
        assert receive(channel, None) == b"x"
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == bytes(16)
        channel.abort()
