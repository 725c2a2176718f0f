"""zcws: WebSocket (RFC 6455, RFC 7692) for Python, with as few copies as the wire allows.

    async with zcws.connect(uri) as ws:                    a client; help(zcws.connect) has its options
    async with zcws.serve(handler, host, port) as server:  a server; help(zcws.serve)
    help(zcws.WebSocket)                                   what can be done with a connection
    import zcws.sync                                       the same on blocking sockets, for threads
    zcws.Connection                                        the protocol without I/O

Names are loaded when they are first used: importing zcws does not import asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zcws.acceptor import WebSocketAcceptor as WebSocketAcceptor
    from zcws.activation import listen_fds as listen_fds
    from zcws.aio.accepting import ServerHandshake as ServerHandshake
    from zcws.aio.broadcast import Delivery as Delivery
    from zcws.aio.broadcast import broadcast as broadcast
    from zcws.aio.client import connect as connect
    from zcws.aio.client import unix_connect as unix_connect
    from zcws.aio.halves import BridgeHalf as BridgeHalf
    from zcws.aio.halves import ReaderHalf as ReaderHalf
    from zcws.aio.halves import WriterHalf as WriterHalf
    from zcws.aio.keepalive import Latency as Latency
    from zcws.aio.metrics import Metrics as Metrics
    from zcws.aio.reading import IncomingStream as IncomingStream
    from zcws.aio.redis import RedisRooms as RedisRooms
    from zcws.aio.room import Room as Room
    from zcws.aio.server import Server as Server
    from zcws.aio.serving import serve as serve
    from zcws.aio.serving import unix_serve as unix_serve
    from zcws.aio.websocket import WebSocket as WebSocket
    from zcws.aio.writing import OutgoingStream as OutgoingStream
    from zcws.batch import Batch as Batch
    from zcws.bridge import Reply as Reply
    from zcws.buffer import PayloadBuffer as PayloadBuffer
    from zcws.closing import State as State
    from zcws.codes import CloseCode as CloseCode
    from zcws.codes import OpCode as OpCode
    from zcws.connection import Connection as Connection
    from zcws.connector import WebSocketConnector as WebSocketConnector
    from zcws.deflate import Deflate as Deflate
    from zcws.errors import ConnectionClosed as ConnectionClosed
    from zcws.errors import ConnectionClosedError as ConnectionClosedError
    from zcws.errors import ConnectionClosedOK as ConnectionClosedOK
    from zcws.errors import HandshakeError as HandshakeError
    from zcws.errors import LimitExceeded as LimitExceeded
    from zcws.errors import ProtocolError as ProtocolError
    from zcws.errors import ProxyError as ProxyError
    from zcws.errors import StaleFrame as StaleFrame
    from zcws.errors import ZcwsError as ZcwsError
    from zcws.extensions import Agreement as Agreement
    from zcws.extensions import DeflateParameters as DeflateParameters
    from zcws.frame import NEED_MORE as NEED_MORE
    from zcws.frame import Frame as Frame
    from zcws.frame import NeedMore as NeedMore
    from zcws.frame import PayloadOrigin as PayloadOrigin
    from zcws.headers import Headers as Headers
    from zcws.hooks import basic_auth as basic_auth
    from zcws.hooks import health as health
    from zcws.http import HttpError as HttpError
    from zcws.http import Request as Request
    from zcws.http import Response as Response
    from zcws.pool import Pool as Pool
    from zcws.retry import backoff as backoff
    from zcws.retry import process_exception as process_exception
    from zcws.router import Router as Router
    from zcws.stats import Stats as Stats

__version__ = "0.1.0"

#: Where each public name lives.
_HOMES = {
    "zcws.acceptor": ("WebSocketAcceptor",),
    "zcws.activation": ("listen_fds",),
    "zcws.aio.accepting": ("ServerHandshake",),
    "zcws.aio.broadcast": ("Delivery", "broadcast"),
    "zcws.aio.client": ("connect", "unix_connect"),
    "zcws.aio.halves": ("BridgeHalf", "ReaderHalf", "WriterHalf"),
    "zcws.aio.keepalive": ("Latency",),
    "zcws.aio.metrics": ("Metrics",),
    "zcws.aio.reading": ("IncomingStream",),
    "zcws.aio.redis": ("RedisRooms",),
    "zcws.aio.room": ("Room",),
    "zcws.aio.server": ("Server",),
    "zcws.aio.serving": ("serve", "unix_serve"),
    "zcws.aio.websocket": ("WebSocket",),
    "zcws.aio.writing": ("OutgoingStream",),
    "zcws.batch": ("Batch",),
    "zcws.bridge": ("Reply",),
    "zcws.buffer": ("PayloadBuffer",),
    "zcws.closing": ("State",),
    "zcws.codes": ("CloseCode", "OpCode"),
    "zcws.connection": ("Connection",),
    "zcws.connector": ("WebSocketConnector",),
    "zcws.deflate": ("Deflate",),
    "zcws.errors": (
        *("ConnectionClosed", "ConnectionClosedError", "ConnectionClosedOK", "HandshakeError"),
        *("LimitExceeded", "ProtocolError", "ProxyError", "StaleFrame", "ZcwsError"),
    ),
    "zcws.extensions": ("Agreement", "DeflateParameters"),
    "zcws.frame": ("NEED_MORE", "Frame", "NeedMore", "PayloadOrigin"),
    "zcws.headers": ("Headers",),
    "zcws.hooks": ("basic_auth", "health"),
    "zcws.http": ("HttpError", "Request", "Response"),
    "zcws.pool": ("Pool",),
    "zcws.retry": ("backoff", "process_exception"),
    "zcws.router": ("Router",),
    "zcws.stats": ("Stats",),
}

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


# Hidden from type checkers: to them this function would give zcws every name, misspelled ones too.
if not TYPE_CHECKING:  # pragma: no branch

    def __getattr__(name: str) -> Any:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'zcws' has no attribute {name!r}")
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
