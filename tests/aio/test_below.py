"""What sockets and TLS say when they are asked past the transport. How that is used: test_ending.py, test_stream.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import raw
from net import LONG, Certificates

from zcws.aio.below import (
    has_all,
    has_unread,
    is_cut_off,
    is_hung_up,
    is_tls,
    left_at_end,
    left_behind,
    peer_of,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux says so, and nobody else is asked")


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        listening = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with listening:
        ours = socket.create_connection(listening.getsockname()[:2])
        theirs, _ = listening.accept()
    with ours, theirs:
        yield ours, theirs


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@linux
def test_who_the_peer_was_that_has_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    address = theirs.getsockname()
    assert peer_of(ours) == address
    assert not is_hung_up(ours.fileno())
    reset(theirs)
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    with pytest.raises(OSError):
        ours.getpeername()
    assert peer_of(ours) == address
    assert is_hung_up(ours.fileno())


def test_whether_something_lies_in_a_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    assert not has_unread(ours)
    theirs.sendall(b"!")
    ours.settimeout(LONG)
    assert ours.recv(1, socket.MSG_PEEK) == b"!"  # it is there
    ours.setblocking(False)
    assert has_unread(ours) and ours.recv(10) == b"!" and not has_unread(ours)
    theirs.close()
    assert has_unread(ours)  # its end
    ours.close()
    assert not has_unread(None)


def test_what_is_no_tcp_has_names_of_its_own() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if ours.family != socket.AF_INET:  # Windows
            assert peer_of(ours) == theirs.getsockname()


def test_what_tls_has_received_and_nobody_has_read(certificates: Certificates) -> None:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = certificates.server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    transport = Transport(ssl_object=client)
    server.write(bytes(100_000))
    assert left_at_end(transport, is_broken=False) == bytes(100_000)
    server.write(b"whole")
    record = to_client.read()
    server.write(b"cut")
    to_client.write(record + to_client.read()[:-1])
    assert left_at_end(transport, is_broken=True) == b"whole"
    assert left_at_end(transport, is_broken=True) == b""


def test_what_lies_in_a_socket_that_takes_nothing_more() -> None:
    ours, peer = raw.socket_pair(tcp=True)
    with ours, peer:
        transport = Transport(socket=ours)
        assert left_behind(transport) == b""  # and it does not wait
        peer.sendall(bytes(100_000))
        ours.sendall(b"unread")
        raw.until(lambda: len(ours.recv(100_000, socket.MSG_PEEK)) == 100_000)
        raw.Peer(peer, masks=True).reset()
        with pytest.raises(OSError):
            raw.until(lambda: ours.send(b"x") < 0)
        assert left_at_end(transport, is_broken=False) == b""
        assert left_at_end(transport, is_broken=True) == bytes(100_000)
        assert left_behind(transport) == b""
    assert left_behind(transport) == left_behind(Transport()) == b""  # closed, or none


def test_of_a_peer_that_goes_on_no_more_is_taken_than_a_socket_holds() -> None:
    """A write may fail for a reason of ours."""
    ours, peer = raw.socket_pair(tcp=True)

    def go_on() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer.sendall(bytes(1_000_000))

    with raw.thread(go_on), peer, ours:
        raw.until(lambda: len(left_behind(Transport(socket=ours))) > 0)
        assert len(left_behind(Transport(socket=ours))) < 2_000_000


class Transport(asyncio.Transport):
    """One of a loop, whose TLS cannot end its side."""

    def __init__(self, **known: Any) -> None:
        super().__init__(known)

    def can_write_eof(self) -> bool:
        return self.get_extra_info("ssl_object") is None


@pytest.mark.parametrize("tls", [None, object()], ids=["plain", "TLS"])
def test_what_is_said_below_tls(tls: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        transport = Transport(socket=ours, ssl_object=tls)
        assert is_tls(transport) == (tls is not None)
        assert (has_all(transport), is_cut_off(transport)) == (False, False)
        theirs.send(b"x")
        assert not has_all(transport)
        ours.recv(1)
        theirs.close()
        assert has_all(transport) == (tls is not None)
        assert ours.fileno() >= 0  # it is still the transport's
    assert has_all(transport) == is_cut_off(transport) == (tls is not None)


def test_a_transport_without_a_socket_says_nothing() -> None:
    assert not is_cut_off(Transport(ssl_object=object()))
