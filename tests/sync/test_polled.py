from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable

import pytest
import raw
from channels import receive, tls_pair
from net import Certificates

from zcws.sync import polled
from zcws.sync.channel import ENDED, NOTHING
from zcws.sync.plain import open_channel
from zcws.sync.polled import PolledChannel, TlsChannel, begin_tls


def test_nothing_goes_out_in_the_clear_after_tls(certificates: Certificates) -> None:
    ours, theirs = tls_pair(certificates)
    channel = TlsChannel(ours)
    with raw.thread(theirs.unwrap):
        channel.end()
    channel.end()  # the other close_notify is there: the SSLSocket has no TLS any more
    with pytest.raises(BrokenPipeError):
        channel.send([b"secret"])
    channel.abort()
    theirs.close()


def test_what_is_known_of_a_socket_while_it_is_open(certificates: Certificates) -> None:
    ours, theirs = tls_pair(certificates)
    with theirs:
        channel = open_channel(ours)
        assert channel.known("socket", None) is channel.known("ssl_object", None) is ours
        assert channel.known("cipher", None)[1].startswith("TLSv1")
        assert ("DNS", "localhost") in channel.known("peercert", None)["subjectAltName"]
        assert channel.known("peername", None) == theirs.getsockname()
        assert channel.known("sockname", None) == theirs.getpeername()
        assert channel.known("weather", "fine") == "fine"
        channel.end()
        assert channel.known("cipher", "gone") == channel.known("peercert", "gone") == "gone"
        channel.abort()
        assert channel.known("socket", None) is channel.known("ssl_object", None) is None
        assert channel.known("cipher", "gone") == "gone"


def test_nothing_is_known_of_a_socket_that_was_aborted(certificates: Certificates) -> None:
    ours, theirs = tls_pair(certificates)
    with theirs:
        channel = open_channel(ours)
        channel.abort()
        assert channel.known("cipher", "gone") == channel.known("peercert", "gone") == "gone"


def test_tls_does_not_hold_its_lock_while_it_waits(certificates: Certificates) -> None:
    ours, theirs = tls_pair(certificates)
    channel = TlsChannel(ours)
    with raw.thread(lambda: receive(channel)):
        for _ in range(50):
            assert channel._lock.acquire(timeout=raw.LONG)
            channel._lock.release()
        theirs.sendall(b"x")
    channel.abort()
    theirs.close()


def test_the_end_of_tls_is_the_end_of_the_tcp_stream(certificates: Certificates) -> None:
    """RFC 6455 7.1.1: a server ends it first, whatever the client makes of a close_notify."""
    ours, theirs = tls_pair(certificates)
    channel = TlsChannel(ours)
    channel.end()
    theirs.settimeout(raw.LONG)
    assert theirs.recv(1) == b""  # our close_notify
    assert socket.socket.recv(theirs, 1) == b""
    channel.abort()
    theirs.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_end_while_the_peer_is_sending(
    certificates: Certificates, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not see the end, and was reset: OpenSSL reads no more when it has looked for a close_notify and found
    something else."""
    monkeypatch.setattr(certificates.client, "maximum_version", version)
    ours, theirs = tls_pair(certificates)
    theirs.settimeout(raw.LONG)
    channel = TlsChannel(ours)
    channel.send([b"bye"])
    theirs.sendall(b"x" * 30_000)
    assert channel.await_bytes(raw.LONG)
    raw.until(lambda: len(socket.socket.recv(ours, 60_000, socket.MSG_PEEK)) >= 30_000)
    channel.end()
    assert theirs.recv(100) == b"bye"
    assert theirs.recv(1) == b""
    theirs.sendall(b"and on")
    assert receive(channel, 0.01) == NOTHING  # none of it gets into a reader
    socket.socket.shutdown(theirs, socket.SHUT_WR)
    assert receive(channel) == ENDED and channel.cause is None
    channel.abort()
    assert socket.socket.recv(theirs, 1) == b""  # no reset
    theirs.close()


def break_off(theirs: ssl.SSLSocket) -> None:
    theirs.close()


def talk_nonsense(theirs: ssl.SSLSocket) -> None:
    socket.socket.sendall(theirs, b"what is no record")
    theirs.close()


@pytest.mark.parametrize("end", [break_off, talk_nonsense])
def test_the_end_of_one_is_not_that_of_another(
    certificates: Certificates, end: Callable[[ssl.SSLSocket], None]
) -> None:
    """PyPy keeps the error of one, and had it end every other one of that thread that waited for something."""
    broken, their_end = tls_pair(certificates)
    ours, theirs = tls_pair(certificates)
    channels = TlsChannel(broken), TlsChannel(ours)
    # The session tickets are read before: OpenSSL begins whatever belongs to a handshake with no error.
    assert [receive(channel, timeout=0.01) for channel in channels] == [NOTHING, NOTHING]
    end(their_end)
    assert receive(channels[0]) == ENDED
    assert receive(channels[1], timeout=0.01) == NOTHING
    theirs.sendall(b"x")
    assert receive(channels[1]) == b"x"
    for channel in channels:
        channel.abort()
    theirs.close()


def test_tls_over_a_connection_that_the_peer_has_reset(certificates: Certificates) -> None:
    """Nothing of it is left open, or pytest would fail the test. `wrap_socket` leaves a socket that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = raw.Peer(socket.create_connection(listening.getsockname()), masks=True)
        sock, _ = listening.accept()
    peer.reset()
    raw.until(lambda: not is_connected(sock))
    with pytest.raises(ConnectionResetError):
        begin_tls(certificates.server, sock, server_side=True)
    assert sock.fileno() == -1


def is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def test_tls_over_what_is_no_stream(certificates: Certificates) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with pytest.raises(NotImplementedError):
        begin_tls(certificates.server, sock, server_side=True)
    assert sock.fileno() == -1


@pytest.mark.parametrize("tls", [False, True])
def test_more_where_more_is_wanted(tls: bool, certificates: Certificates) -> None:
    """Each record has been received by itself, and is taken as long as that is not enough."""
    ours, theirs = tls_pair(certificates) if tls else raw.socket_pair(tcp=True)
    channel = open_channel(ours) if tls else PolledChannel(ours)
    with theirs:
        for wanted, count in ((20, 20), (21, 40), (41, 60), (60, 60)):
            for part in (b"x" * 20, b"y" * 20, b"z" * 20):
                theirs.sendall(part)
            room = memoryview(bytearray(60 if tls else count))
            assert channel.receive_more(room, raw.LONG, wanted) == channel.record.received == count
            assert bytes(room[:count]) == (b"x" * 20 + b"y" * 20 + b"z" * 20)[:count]
            channel.record.received = 0
            while count < 60:
                count += len(receive(channel))  # type: ignore[arg-type]
        theirs.sendall(b"part")
        theirs.close()
        assert channel.receive_more(memoryview(bytearray(9)), raw.LONG, 9) == 4
        channel.record.received = 0
        assert receive(channel) == ENDED
        channel.abort()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere every packet ends a wait")
@pytest.mark.parametrize("tls", [False, True])
def test_the_kernel_collects_packets_while_more_is_wanted(
    tls: bool, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many bytes as are sure to come; and after that every byte ends a wait, whatever a signal handler has done."""
    ours, theirs = tls_pair(certificates) if tls else raw.socket_pair(tcp=True)
    channel: PolledChannel = TlsChannel(ours) if tls else PolledChannel(ours)  # type: ignore[arg-type]
    ahead, marks = 16 * 1024 if tls else 0, list[int]()

    def mark() -> int:
        return channel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    def look(*_: object, **__: object) -> bool:
        marks.append(mark())
        return len(marks) < 5

    with theirs:
        # The last wait but one was in vain.
        for lacking in (100_000, ahead + 1500, ahead + 1499, 1, 100_000, 100_000):
            theirs.sendall(b"begun")
            assert channel.await_bytes(raw.LONG)
            with monkeypatch.context() as patched:
                patched.setattr(polled, "is_ready", look)
                assert channel.receive_more(memoryview(bytearray(200_000)), raw.LONG, 5 + lacking) == 5
            channel.record.received = 0
            assert mark() == 1
        assert marks == [16 * 1024, 1500, 1, 1, 16 * 1024, 1]
        channel._mark = 5000
        channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5000)
        theirs.sendall(b"a little")
        assert receive(channel) == b"a little"
        assert mark() == 1
        channel.abort()


def test_a_handler_that_raises_as_the_mark_goes(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread stayed inside, and nobody closed the socket."""
    ours, theirs = tls_pair(certificates)
    channel = open_channel(ours)
    set_mark = PolledChannel._set_mark

    def interrupted(channel: PolledChannel, count: int) -> None:
        if not count:
            raise InterruptedError
        set_mark(channel, count)

    with theirs:
        theirs.sendall(b"begun")
        room = memoryview(bytearray(100))
        with monkeypatch.context() as patched:
            patched.setattr(PolledChannel, "_set_mark", interrupted)
            with pytest.raises(InterruptedError):
                channel.receive_more(room, raw.LONG, 50_000)
        assert bytes(room[: channel.record.received]) == b"begun"
        channel.abort()
        assert channel.sock.fileno() == -1
