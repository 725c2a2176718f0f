"""zcws on blocking sockets and threads: `zcws.sync.connect`, `zcws.sync.reconnect` and `zcws.sync.serve`."""

from __future__ import annotations

from zcws.sync.client import connect, reconnect, unix_connect
from zcws.sync.halves import BridgeHalf, ReaderHalf, WriterHalf
from zcws.sync.reading import IncomingStream
from zcws.sync.server import Server
from zcws.sync.serving import serve, unix_serve
from zcws.sync.stream import WebSocket
from zcws.sync.writing import OutgoingStream

__all__ = [
    "BridgeHalf",
    "IncomingStream",
    "OutgoingStream",
    "ReaderHalf",
    "Server",
    "WebSocket",
    "WriterHalf",
    "connect",
    "reconnect",
    "serve",
    "unix_connect",
    "unix_serve",
]
