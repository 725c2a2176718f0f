"""zcws on blocking sockets and threads: `zcws.sync.connect`, `zcws.sync.reconnect` and `zcws.sync.serve`."""

from __future__ import annotations

from zcws.sync.client import connect, reconnect, unix_connect
from zcws.sync.server import Server, serve, unix_serve
from zcws.sync.stream import WebSocket

__all__ = ["Server", "WebSocket", "connect", "reconnect", "serve", "unix_connect", "unix_serve"]
