"""What the tests of the blocking driver share: a server that runs in a thread, and a channel of each kind."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import raw
import wire
from channels import Pair, tls_pair
from net import Certificates

import zcws.sync
from zcws.sync import channel, plain

Serving = Callable[..., contextlib.AbstractContextManager[zcws.sync.Server]]


roles = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])

anyhow = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"], indirect=True)


@pytest.fixture
def secure(request: pytest.FixtureRequest, certificates: Certificates) -> dict[str, Any]:
    return {"certificates": certificates if request.param else None}


@pytest.fixture
def serving() -> Serving:
    """`with serving(handler, **options) as server`: shut down at the end, whatever happens."""

    @contextlib.contextmanager
    def serving(handler: Callable[[zcws.sync.WebSocket], None], **options: Any) -> Iterator[zcws.sync.Server]:
        where = {} if options.keys() & {"path", "sock"} else {"host": "127.0.0.1", "port": 0}
        with zcws.sync.serve(handler, **where, **{"ping_interval": None, **options}) as server:
            with raw.thread(server.serve_forever):
                try:
                    yield server
                finally:
                    server.shutdown()

    return serving


@pytest.fixture(params=["plain", "polled", "selected", "tls"])
def pair(
    request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pair]:
    """A channel, and the socket at its other end. "selected" is Windows: no poll, and one timeout a socket."""
    ours: socket.socket
    if request.param == "plain" and not plain._KERNEL_TIMES:
        pytest.skip("the kernel keeps no time here: that of 64-bit POSIX does")
    if request.param == "tls":
        ours, theirs = tls_pair(certificates)
    else:
        ours, theirs = raw.socket_pair()
    if request.param == "selected":
        monkeypatch.delattr(channel.select, "poll", raising=False)  # Windows has none
    if request.param in ("polled", "selected"):
        monkeypatch.setattr(plain, "_KERNEL_TIMES", False)
    theirs.settimeout(raw.LONG)
    opened = plain.open_channel(ours)
    yield opened, theirs
    opened.abort()
    theirs.close()


def close_code(frame: wire.Seen) -> int:
    assert frame.opcode == wire.CLOSE, frame
    return int.from_bytes(frame.payload[:2], "big")


def known_peer(ws: zcws.sync.WebSocket) -> str:
    """What is shown of the peer: nothing, where a socket pair has no addresses."""
    address = ws._channel.sock.getpeername()
    return f" with {address}" if address else ""


def flood(peer: raw.Peer) -> None:
    """More messages of 1,000 bytes than a ring holds, as far as they are taken."""
    with contextlib.suppress(OSError):
        for _ in range(1000):
            peer.send(wire.BINARY, bytes(1000))


@contextlib.contextmanager
def another_reads(ws: zcws.sync.WebSocket) -> Iterator[None]:
    """Another thread has its turn."""
    begun, over = threading.Event(), threading.Event()

    def read() -> None:
        with ws._turn():
            begun.set()
            over.wait(raw.LONG)

    with raw.thread(read):
        assert begun.wait(raw.LONG)
        try:
            yield
        finally:
            over.set()
