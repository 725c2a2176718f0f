"""Sockets of the engine, as transports of asyncio.

`adopt` takes a socket away from the transport that the loop made for it, when the opening handshake is over:
the descriptor is duplicated, the old transport closed. So connecting, accepting and TLS stay the loop's business.
TCP and Unix sockets on Linux are adopted, on asyncio and uvloop alike; everything else keeps its transport.

How a socket sends is in sending.py; here is how it receives, how it ends and what is known of it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from zcws.aio.below import has_unread, is_hung_up, is_tls, peer_of
from zcws.aio.engine import IN, IN_PARTS, OUT, Engine, Scanned, engine_of, is_engine_on
from zcws.aio.sending import Sending
from zcws.kernel import lib
from zcws.tcp_info import Counts, counts

__all__ = ["EngineTransport", "adopt", "place"]

#: A connection that received at most this many bytes last time is served together with others. Of larger messages C
#: keeps no parts, and a connection that keeps one keeps the common ring.
_SMALL: int = lib.ZCWS_KEPT_MOST

#: The addresses of a socket that is still open: it is asked for them. One dict for all, because each takes memory.
_UNKNOWN: Mapping[str, Any] = {}

_receive_rest, _WHOLE = lib.zcws_receive_rest, lib.ZCWS_WHOLE


def place(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.BufferedProtocol
) -> EngineTransport:
    """Puts a plain socket that does not block into the engine of `loop`, which owns it from now on."""
    return EngineTransport(engine_of(loop), sock, protocol)


def adopt(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, protocol: asyncio.BufferedProtocol
) -> EngineTransport | None:
    """Moves an open connection from `transport` into the engine of `loop`. None: it has to stay where it is.

    The old transport must have sent all that was written to it; its protocol sees `connection_lost`.
    """
    if not is_engine_on(loop):
        return None
    if is_tls(transport) or transport.get_write_buffer_size():
        return None
    sock = transport.get_extra_info("socket")
    if sock is None or sock.type != socket.SOCK_STREAM:
        return None
    try:
        own = socket.socket(fileno=os.dup(sock.fileno()))
    except OSError:
        return None  # no descriptor is left: it is served where it is
    transport.pause_reading()
    own.setblocking(False)
    transport.abort()
    return place(loop, own, protocol)


class EngineTransport(Sending):
    """One socket of the engine, as a transport of asyncio.

    When nothing can be sent any more, `closing` is set, and what the peer has sent is still read.
    """

    __slots__ = ("_broken", "_events", "_reading", "_stream", "alone_for")

    def __init__(self, engine: Engine, sock: socket.SocketType, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__(engine, sock, protocol)
        self._reading = True
        self._broken: OSError | None = None  # why nothing can be sent
        self._extra: Mapping[str, Any] = _UNKNOWN  # asyncio's slot: the addresses, once it is closed
        self._events = IN
        self.alone_for: int = 0
        self._set_stream(protocol)
        try:
            engine.add(self, self.fd)
        except BaseException:  # the traceback would keep the socket open, and the peer waiting
            self.closing = True
            sock.close()
            raise

    def _set_stream(self, protocol: asyncio.BufferedProtocol) -> None:
        # What else a `Scanned` needs is there then. A protocol that is not ours is served alone.
        self._stream: Scanned | None = protocol if hasattr(protocol, "scanned") else None  # type: ignore[assignment]
        if self._stream is not None:
            self.writer = self._stream.writer

    # ---- reading ----

    def failed(self, exc: OSError) -> None:
        """Receiving failed."""
        self._end(exc)

    def broke(self, exc: BaseException) -> None:
        """What was received could not be handled: no memory, most likely. As on every transport of asyncio, this
        connection ends, and those behind it in the same turn are served."""
        self._end_soon(None)  # first: the next step may find no memory
        if isinstance(exc, Exception):  # any other exception ends the loop, and needs no log
            context = {
                "message": "a connection failed on what it received",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
            self._engine.loop().call_exception_handler(context)

    def read_ready(self) -> None:
        """The socket has bytes, or news of its end."""
        if not self._reading:
            self._watch()
            # Otherwise epoll reported this socket before we stopped reading.
            if not self._events and is_hung_up(self.fd):
                self._lost_interest()
            return
        protocol, stream = self._protocol, self._stream
        if stream is not None and stream.inlet.landing_in is not None:
            self._land(stream)
            return
        room = protocol.get_buffer(-1)
        if not room:
            # To receive into nothing would look like the end. Half a frame that C has kept fills the ring, behind
            # messages that nobody has read: the protocol stops reading.
            protocol.buffer_updated(0)
            return
        try:
            count = self._sock.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._end(exc)
            return
        if count:
            protocol.buffer_updated(count)
            if (stream := self._stream) is not None and self._events >= 0:
                self._engine.mark(self.fd, stream, count)
                if count <= _SMALL:
                    self.settle()
        else:
            self._received_end()

    def _received_end(self) -> None:
        if self._protocol.eof_received() and self._broken is None:
            self._reading = False
            self._watch()
        elif self.backlog:
            self.close()
        else:
            self._end(self._broken)

    def _land(self, stream: Scanned) -> None:
        """More of a large payload: as much as is there goes straight into its buffer, in one crossing."""
        inlet = stream.inlet
        slot = inlet.rest_slot()
        if slot is None:
            self._protocol.buffer_updated(0)  # there is no memory for the rest: the connection has ended
            return
        found = _receive_rest(self.fd, inlet.state, *slot)
        if found > 0:
            self._engine.mark(self.fd, stream, found % _WHOLE, lands=True)
            stream.landed(found % _WHOLE, found // _WHOLE)
        elif found == 0:
            self._received_end()
        elif -found not in (errno.EAGAIN, errno.EINTR):
            self._end(OSError(-found, os.strerror(-found)))

    def settle(self) -> None:
        """Nothing has come yet, or what came last was small: C may receive for us, if nothing of it is kept. If it was
        the beginning of something large, the rest may be there, and is received now."""
        stream = self._stream
        if stream is None or self._events < 0:
            return
        inlet = stream.inlet
        if inlet.is_idle and not inlet.pours:
            if self.alone_for:
                self.alone_for -= 1
            else:
                self._engine.serve_together(self.fd, stream)
        elif inlet.landing_in is not None and self._reading:
            self._land(stream)
        else:
            self.alone_for = IN_PARTS

    def unsettle(self) -> None:
        """Something is kept that came another way: from now on this socket is served by itself."""
        self._engine.serve_alone(self.fd)
        if self._stream is not None:
            self._engine.unmark(self.fd, self._stream)

    def _lost_interest(self) -> None:
        """The peer is gone and we neither read nor write: epoll would report it again and again, whatever its mask."""
        self._engine.remove(self.fd)
        self._events = -1
        if hasattr(self._protocol, "writing_failed"):
            code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.EPIPE
            self._break(OSError(code, os.strerror(code)))

    def is_reading(self) -> bool:
        return self._reading and not self._is_ending

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._watch()

    def resume_reading(self) -> None:
        if not self._reading and not self._is_ending:
            self._reading = True
            if self._events == -1:
                self._engine.add(self, self.fd)
                self._events = IN
            self._watch()

    def _watch(self) -> None:
        events = (IN if self._reading else 0) | (OUT if self.backlog else 0)
        if events != self._events and self._events != -1 and self._sock.fileno() >= 0:
            self._events = events
            self._engine.watch(self.fd, events)

    # ---- the end ----

    def is_closing(self) -> bool:
        return self.closing

    @property
    def _is_ending(self) -> bool:
        """Whether it closes, and nothing more is read."""
        return self.closing and self._broken is None

    def _break(self, exc: OSError) -> None:
        """Nothing can be sent any more. What the peer has sent before, its Close perhaps, can still be read from the
        socket; `connection_lost` comes after that."""
        failed = getattr(self._protocol, "writing_failed", None)
        if failed is None or self._is_ending:
            self._end_soon(exc)
        elif self._broken is None:
            self._broken, self.closing = exc, True
            self._drop_backlog()
            self._watch()
            failed(exc)

    def close(self) -> None:
        if self._engine.is_sending:
            # A signal handler closes it: what has been taken goes out first, and what the handler has written.
            self._engine.loop().call_soon(self.close)
        elif not self._is_ending:
            self.closing, self._broken = True, None
            self._reading = False
            if self.backlog:
                self._watch()
            else:
                self._end_soon(None)

    def abort(self) -> None:
        self._end_soon(None)

    def _end_soon(self, exc: OSError | None) -> None:
        """As on every transport, `connection_lost` comes on a later turn of the loop, never from inside a call."""
        self._engine.loop().call_soon(self._end, exc)  # first: the next step may find no memory
        self._let_go()

    def _end(self, exc: OSError | None) -> None:
        if self._sock.fileno() < 0:
            return
        self._let_go()
        self._extra = {"sockname": self._address("sockname"), "peername": self._address("peername")}
        self._sock.close()
        self.fd = -1  # the next socket may get the number: nothing of ours may be sent there
        self._protocol.connection_lost(exc)

    def _let_go(self) -> None:
        """Nothing is read or written any more."""
        self.closing = True
        self._broken = None
        self._reading = False
        self._drop_backlog()
        self._engine.remove(self.fd)
        self._events = -1

    # ---- what is known ----

    def counts(self) -> Counts:
        """See tcp_info.py. Without `get_extra_info("socket")`, which would make a `socket.socket` of it for good."""
        return counts(self._sock)

    def has_unread(self) -> bool:
        """See below.py, and `counts`."""
        return has_unread(self._sock)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.BufferedProtocol)
        self.unsettle()
        self._protocol = protocol
        self._set_stream(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            if not isinstance(self._sock, socket.socket) and self._sock.fileno() >= 0:
                self._sock = socket.socket(fileno=self._sock.detach())
                self._sock.setblocking(False)
            return self._sock
        if name in ("sockname", "peername"):
            known = self._extra.get(name) if self._sock.fileno() < 0 else self._address(name)
            return default if known is None else known
        return default

    def _address(self, name: str) -> Any:
        """Of our end of the socket, or of the peer's; None where the system does not know it."""
        try:
            return self._sock.getsockname() if name == "sockname" else peer_of(self._sock)
        except OSError:
            return None

    # `warn` is bound here: the last connections die after the interpreter has emptied its modules, this one included.
    def __del__(self, warn: Callable[..., object] = warnings.warn) -> None:
        # Nobody has closed it, and nobody can any more, because its loop is gone: warn, as asyncio's transports do.
        if getattr(self, "closing", True):  # not set if `__init__` found no memory
            return
        try:
            warn(f"unclosed {self._protocol!r} on {self!r}", ResourceWarning, source=self)
        finally:  # a filter may have made an error of the warning
            self.closing = True
            self._sock.close()
            self.fd = -1  # in a cycle, another object's finalizer may come later, and send

    def __repr__(self) -> str:
        return f"<EngineTransport fd={self.fd}{' closing' if self.closing else ''}>"
