"""The engine: all plain sockets of an event loop in one epoll of ours.

An event loop spends more on a socket that is ready (an object for the event, a handle, a context, a queue) than a small
message costs altogether. Here all sockets sit in a private epoll; its one descriptor is registered with the loop,
which then says "something is ready" once, and `Engine._turn` serves every socket that is.

    event loop --add_reader--> one epoll --poll--> 64 sockets at most --recv_into--> rings

`adopt` takes a socket away from the transport that the loop made for it, when the opening handshake is over:
the descriptor is duplicated, the old transport closed. So connecting, accepting and TLS stay the loop's business, and
what is adopted is a TCP or Unix socket on Linux, on asyncio and uvloop alike. Everything else keeps its transport.

What is handed to `write` is ours until it has been sent; nothing of it is copied. `ZCWS_ENGINE=0` turns the engine off.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Engine", "EngineTransport", "adopt"]

#: Sockets served before the loop gets its turn again: one busy peer, or many, must not starve the rest of it.
_SOCKETS_A_TURN = 64

#: Segments that one sendmsg takes (IOV_MAX on Linux is 1024).
_MOST_SEGMENTS = 512

_HAS_EPOLL = hasattr(select, "epoll")
_IN, _OUT = (select.EPOLLIN, select.EPOLLOUT) if _HAS_EPOLL else (1, 4)


def adopt(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, protocol: asyncio.BufferedProtocol
) -> EngineTransport | None:
    """Moves an open connection from `transport` into the engine of `loop`. None: it has to stay where it is.

    The old transport must have sent all that was written to it; its protocol sees `connection_lost`.
    """
    if not _HAS_EPOLL or os.environ.get("ZCWS_ENGINE") == "0":
        return None
    if transport.get_extra_info("ssl_object") is not None or transport.get_write_buffer_size():
        return None
    sock = transport.get_extra_info("socket")
    if sock is None or sock.type != socket.SOCK_STREAM:
        return None
    transport.pause_reading()
    own = socket.socket(fileno=os.dup(sock.fileno()))
    own.setblocking(False)
    transport.abort()
    return EngineTransport(_engine_of(loop), own, protocol)


class Engine:
    """All adopted sockets of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weakly: an engine lives as long as its loop (`_engines`), and must not keep it alive.
        self._loop = weakref.ref(loop)
        self._epoll = select.epoll()
        self._transports: dict[int, EngineTransport] = {}

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        loop = self._loop()
        assert loop is not None  # whoever asks was called by it
        return loop

    def add(self, transport: EngineTransport, fd: int) -> None:
        """Watches a socket for bytes to read."""
        if not self._transports:
            self.loop().add_reader(self._epoll.fileno(), self._turn)
        self._transports[fd] = transport
        self._epoll.register(fd, _IN)

    def watch(self, fd: int, events: int) -> None:
        """Changes what a socket is watched for."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forgets a socket that is about to be closed."""
        if self._transports.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            if not self._transports and not self.loop().is_closed():
                self.loop().remove_reader(self._epoll.fileno())

    def _turn(self) -> None:
        """Serves the sockets that are ready."""
        transports = self._transports
        for fd, events in self._epoll.poll(0, _SOCKETS_A_TURN):
            transport = transports.get(fd)
            if transport is None:
                continue  # closed by one that was served before it
            if events & _OUT:
                transport.write_ready()
            if events & ~_OUT:
                transport.read_ready()


class EngineTransport(asyncio.Transport):
    """One adopted socket, as a transport of asyncio."""

    __slots__ = (
        "_backlog",
        "_backlog_size",
        "_closing",
        "_engine",
        "_eof_wanted",
        "_events",
        "_fd",
        "_high",
        "_low",
        "_paused_protocol",
        "_protocol",
        "_reading",
        "_sock",
    )

    def __init__(self, engine: Engine, sock: socket.socket, protocol: asyncio.BufferedProtocol) -> None:
        self._engine = engine
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._backlog: list[memoryview] = []
        self._backlog_size = 0
        self._high, self._low = 64 * 1024, 16 * 1024  # asyncio's own
        self._paused_protocol = False
        self._reading = True
        self._closing = False
        self._eof_wanted = False
        self._events = _IN
        engine.add(self, self._fd)

    # ---- reading ----

    def read_ready(self) -> None:
        """The socket has bytes, or news of its end."""
        if not self._reading:
            self._watch()
            if not self._events:
                self._lost_interest()
            return
        protocol = self._protocol
        try:
            count = self._sock.recv_into(protocol.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._end(exc)
            return
        if count:
            protocol.buffer_updated(count)
        elif protocol.eof_received():
            self._reading = False
            self._watch()
        else:
            self.close()

    def _lost_interest(self) -> None:
        """The peer is gone and we neither read nor write: epoll would say so again and again, whatever it is asked."""
        self._engine.remove(self._fd)
        self._events = -1

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._watch()

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            if self._events == -1:
                self._engine.add(self, self._fd)
                self._events = _IN
            self._watch()

    def _watch(self) -> None:
        events = (_IN if self._reading else 0) | (_OUT if self._backlog else 0)
        if events != self._events and self._events != -1 and self._sock.fileno() >= 0:
            self._events = events
            self._engine.watch(self._fd, events)

    # ---- writing ----

    def write(self, data: Buffer) -> None:
        if self._closing:
            return
        if self._backlog:
            self._keep([memoryview(data)])
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._end_soon(exc)
            return
        if sent < len(data):  # type: ignore[arg-type]
            self._keep([memoryview(data)[sent:]])

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        views = [memoryview(data) for data in list_of_data]
        if self._closing:
            return
        if not self._backlog:
            try:
                sent = self._sock.sendmsg(views[:_MOST_SEGMENTS])
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                self._end_soon(exc)
                return
            views = _behind(views, sent)
        if views:
            self._keep(views)

    def _keep(self, views: list[memoryview]) -> None:
        """What the socket would not take waits here; the writer never uses that memory again."""
        self._backlog.extend(views)
        self._backlog_size += sum(len(view) for view in views)
        self._watch()
        if self._backlog_size > self._high and not self._paused_protocol:
            self._paused_protocol = True
            self._protocol.pause_writing()

    def write_ready(self) -> None:
        """The socket takes bytes again."""
        try:
            sent = self._sock.sendmsg(self._backlog[:_MOST_SEGMENTS])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._end(exc)
            return
        self._backlog_size -= sent
        self._backlog = _behind(self._backlog, sent)
        if not self._backlog:
            self._watch()
            if self._eof_wanted:
                self._shut_down()
            if self._closing:
                self._end(None)
                return
        if self._paused_protocol and self._backlog_size <= self._low:
            self._paused_protocol = False
            self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._eof_wanted:
            self._eof_wanted = True
            if not self._backlog:
                self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._end_soon(exc)

    def get_write_buffer_size(self) -> int:
        return self._backlog_size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    # ---- the end ----

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._reading = False
            if self._backlog:
                self._watch()
            else:
                self._end_soon(None)

    def abort(self) -> None:
        self._end_soon(None)

    def _end_soon(self, exc: OSError | None) -> None:
        """As on every transport, `connection_lost` comes on a later turn of the loop, never from inside a call."""
        self._closing = True
        self._reading = False
        self._backlog.clear()
        self._backlog_size = 0
        self._engine.remove(self._fd)
        self._events = -1
        self._engine.loop().call_soon(self._end, exc)

    def _end(self, exc: OSError | None) -> None:
        if self._sock.fileno() < 0:
            return
        self._closing = True
        self._engine.remove(self._fd)
        self._events = -1
        self._sock.close()
        self._protocol.connection_lost(exc)

    # ---- what is known ----

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.BufferedProtocol)
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self._sock
        if name in ("sockname", "peername") and self._sock.fileno() >= 0:
            try:
                return self._sock.getpeername() if name == "peername" else self._sock.getsockname()
            except OSError:
                return default
        return default

    def __repr__(self) -> str:
        return f"<EngineTransport fd={self._fd}{' closing' if self._closing else ''}>"


def _behind(views: list[memoryview], sent: int) -> list[memoryview]:
    """What is left when `sent` bytes have gone."""
    for i, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[i + 1 :]]
        sent -= len(view)
    return []


_engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Engine] = weakref.WeakKeyDictionary()


def _engine_of(loop: asyncio.AbstractEventLoop) -> Engine:
    engine = _engines.get(loop)
    if engine is None:
        engine = _engines[loop] = Engine(loop)
    return engine
