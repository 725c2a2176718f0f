"""A connection of the blocking driver and a raw peer, joined by a socket pair: open, with no handshake."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import raw
from net import Certificates

import zcws
from zcws.connection import Connection
from zcws.options import Timeouts
from zcws.sync.plain import open_channel
from zcws.sync.stream import WebSocket


@contextlib.contextmanager
def connected(
    *,
    client: bool = False,
    deflate: bool | zcws.DeflateParameters = False,
    no_masking: bool = False,
    certificates: Certificates | None = None,
    tcp: bool = False,
    **options: Any,
) -> Iterator[tuple[WebSocket, raw.Peer]]:
    """Our end, a server's or a `client`'s, and the peer; over `tcp` in any case. Aborted at the end."""
    ours: socket.socket
    ours, theirs = raw.socket_pair(tcp=tcp)
    if certificates is not None:
        ours, theirs = encrypted(ours, theirs, certificates, client=client)
    limits = {name: options.pop(name) for name in ("max_size", "max_fragments") if name in options}
    agreement = zcws.Agreement(
        deflate=zcws.DeflateParameters() if deflate is True else deflate or None, no_masking=no_masking
    )
    connection = Connection(
        is_client=client, entropy=os.urandom if client else None, agreement=agreement, **limits
    )
    settings = Timeouts(**{"ping_interval": None, "close_timeout": 0.1, **options})
    ws = WebSocket(open_channel(ours), connection, settings)
    try:
        yield ws, raw.Peer(theirs, masks=not client)
    finally:
        theirs.close()
        ws.abort()


def encrypted(
    ours: socket.socket, theirs: socket.socket, certificates: Certificates, *, client: bool
) -> tuple[socket.socket, socket.socket]:
    """Both ends over TLS; ours in the role of the client, or of the server."""
    made: list[socket.socket] = []
    server, other = (theirs, ours) if client else (ours, theirs)
    with raw.thread(lambda: made.append(certificates.server.wrap_socket(server, server_side=True))):
        wrapped = certificates.client.wrap_socket(other, server_hostname="localhost")
    return (wrapped, made[0]) if client else (made[0], wrapped)
