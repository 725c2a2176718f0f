"""zcws on blocking sockets and threads: `zcws.sync.connect` and `zcws.sync.serve`."""

from __future__ import annotations

from zcws.sync.client import connect, unix_connect
from zcws.sync.server import Server, serve, unix_serve
from zcws.sync.stream import WebSocket

__all__ = ["Server", "WebSocket", "connect", "serve", "unix_connect", "unix_serve"]
