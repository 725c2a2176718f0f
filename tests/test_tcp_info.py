from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from zcws.tcp_info import Counts, counts

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says what a peer has confirmed")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection; the server's is the first, as a client's SYN counts as a byte."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname(), 20)
        ours, _ = server.accept()
        with ours, theirs:
            ours.settimeout(20)
            yield ours, theirs


@linux
def test_what_the_peers_system_has_confirmed(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    assert counts(ours) == Counts(0, 0, 0)
    ours.sendall(bytes(100_000))
    received = 0
    while received < 100_000:
        received += len(theirs.recv(100_000))
    theirs.sendall(b"!")  # what comes back confirms all that came before it
    assert ours.recv(1) == b"!"
    assert counts(ours) == Counts(1, 100_000, 0)


@linux
def test_what_the_peers_system_has_no_room_for(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.setblocking(False)
    written = 0
    with pytest.raises(BlockingIOError):
        while True:
            written += ours.send(bytes(100_000))
    known = counts(ours)
    assert known.unconfirmed > 0 and known.confirmed + known.unconfirmed == written


def test_who_says_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.close()
    assert counts(ours) == counts(None) == Counts()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if ours.family != socket.AF_INET:  # Windows
            assert counts(ours) == Counts()
