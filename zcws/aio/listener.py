"""Accepting plain sockets without a transport of the event loop.

A transport of the event loop costs more than a whole opening handshake, and the engine takes the socket away from it
right after. So where the engine serves, this file accepts by itself: the request is usually there already, the answer
goes out in the same callback, and the socket goes into the engine. What cannot be answered in one go gets a transport
after all (accepting.py says which), and so does a client that may speak HTTP/2. It is accepted here because asyncio,
when no descriptor is left, tries a hundred times in one turn, with a line in the log and a timer for each try.

The listening sockets are those that `loop.create_server` has bound; this file duplicates their descriptors.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

from zcws.acceptor import SWITCHING
from zcws.aio.accepting import Host, ServerHandshake
from zcws.aio.engine import is_engine_on
from zcws.aio.tls import Tls
from zcws.aio.transport import place
from zcws.extensions import Agreement
from zcws.kernel import ffi, lib

__all__ = ["Listener", "can_accept"]

logger: logging.Logger = logging.getLogger("zcws.server")

#: Connections accepted before the loop gets its turn again: a storm of them must not starve those that are open.
_ACCEPTED_A_TURN = 64

#: Bytes of the first read: a browser's request with its cookies fits; a longer one takes several reads.
_CHUNK = 4096

_ASKS = lib.ZCWS_OPENING_ASKS
_ACCEPT_SIZE = lib.ZCWS_OPENING_ACCEPT
_welcome = lib.zcws_welcome

#: Origin, subprotocols and extensions of a request that has none of them.
_NOTHING: list[str | None] = [None, None, None]

#: Tells a new socket object that its descriptor does not block. Every system with an engine has this bit.
_STREAM = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)

#: Seconds until the next try when the process has no descriptor left: asyncio's own.
_OUT_OF_DESCRIPTORS = 1.0

_FAMILIES = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}


def can_accept(loop: asyncio.AbstractEventLoop, sockets: Iterable[socket.socket]) -> bool:
    """Whether connections to these listening sockets can be accepted here."""
    if not is_engine_on(loop):
        return False
    return all(sock.family in _FAMILIES and sock.type == socket.SOCK_STREAM for sock in sockets)


class Listener:
    """Accepts on listening sockets until it is closed.

    Args:
        sockets: bound; they stay the caller's.
        backlog: connections that may wait in the kernel.
        host: the server that the connections belong to.
        secure: makes the TLS that each connection begins with; None in the clear.
        begin: makes the first protocol of each connection on a transport; None if only HTTP/1.1 is spoken, or TLS comes
            first.

    Attributes:
        is_open: whether it accepts.
        passing: the tasks that make transports for those that need one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Iterable[socket.socket],
        backlog: int,
        host: Host,
        secure: Callable[[], Tls] | None,
        begin: Callable[[], asyncio.BaseProtocol] | None = None,
    ) -> None:
        self._loop = loop
        self._backlog = backlog
        self._host = host
        self._secure = secure
        self._begin = begin
        self._room = _CHUNK if begin is None else 0  # the transport receives from the first byte on
        self._listening = [socket.socket(fileno=os.dup(sock.fileno())) for sock in sockets]
        self._opening = ffi.new("struct zcws_opening *")
        self._found = ffi.buffer(self._opening, _ACCEPT_SIZE)
        self._memory = ffi.new("uint8_t[]", _CHUNK)
        self._data = ffi.buffer(self._memory)
        self.passing: set[asyncio.Task[None]] = set()
        self.is_open: bool = False
        self._is_accepting = False

    def open(self) -> None:
        """Accepts from now on."""
        if self.is_open:
            return
        for sock in self._listening:
            sock.setblocking(False)
            sock.listen(self._backlog)
            if sock.family != getattr(socket, "AF_UNIX", None):
                # On Linux every accepted socket inherits this.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._loop.add_reader(sock.fileno(), self._accept, sock)
        self.is_open = True

    def close(self, *, sweep: bool = False) -> None:
        """Accepts no more.

        Args:
            sweep: whether clients that wait in the kernel's queues by now are still accepted. Otherwise the kernel
                resets them, unless another process has the sockets too.
        """
        # If a hook has called this, `_opening` and `_memory` are in use, and there is only one of each.
        sweep = sweep and not self._is_accepting
        for sock in self._listening:
            self._loop.remove_reader(sock.fileno())
            if sweep:
                self._sweep(sock)
            sock.close()  # right after the sweep: a client that comes in between is reset
        self._listening = []
        self.is_open = False

    def _sweep(self, listening: socket.socket) -> None:
        try:
            self._accept(listening, self._backlog + 1)  # a queue holds no more
        except Exception as error:
            self._loop.call_exception_handler({"message": "a connection failed", "exception": error})

    def _accept(self, listening: socket.socket, most: int = _ACCEPTED_A_TURN) -> None:
        """Accepts connections that wait, `most` at a time."""
        self._is_accepting = True
        try:
            self._accept_some(listening, most)
        finally:
            self._is_accepting = False

    def _accept_some(self, listening: socket.socket, most: int) -> None:
        number, family, opening = listening.fileno(), int(listening.family), self._opening
        for _ in range(most):
            if not self.is_open:
                return  # a hook has closed it: another socket may have the number now
            # A copy for each: what a hook sets is for this connection's handler, not for the next one's hooks. It is
            # made before the descriptor, because nothing may fail before that has an owner.
            context = self._host.context.copy()
            fd = _welcome(number, self._memory, self._room, opening)
            if fd >= 0:
                context.run(self._receive, fd, family)
            elif fd == -errno.EAGAIN or not self._may_go_on(listening, OSError(-fd, os.strerror(-fd))):
                return

    def _may_go_on(self, listening: socket.socket, error: OSError) -> bool:
        """A client could not be accepted. Returns whether to try the next one."""
        if isinstance(error, ConnectionError):
            return True  # the client has gone already
        if not isinstance(error, InterruptedError):
            self._pause(listening, error)
        return False

    def _receive(self, fd: int, family: int) -> None:
        """Begins an accepted connection, of which bytes may be there. If anything fails (most likely, there is no
        memory), the socket is closed: nobody else knows of it, and its client would wait."""
        terms: tuple[Agreement, bytes] | None = None
        try:
            head, count = self._opening.head, self._opening.received
            if head and self._secure is None:
                terms = self._terms(head)
            # If there are no terms yet, it may get a transport of the loop, which needs the dearer `socket.socket`.
            kind: Any = socket.socket if terms is None else socket.SocketType
            sock = kind(family, _STREAM, 0, fd)
        except BaseException:
            os.close(fd)
            raise
        if self._secure is not None:
            self._begin_tls(self._secure, sock, count)
        elif terms is not None:
            self._greet(sock, head & _ASKS - 1, count, terms)
        elif self._begin is not None:
            self._begin_on_transport(sock, self._begin)
        else:
            self._begin_request(sock, count)

    def _begin_tls(self, secure: Callable[[], Tls], sock: socket.socket, count: int) -> None:
        """The TLS handshake comes first, in the engine; for the opening handshake, `tls` is the transport."""
        try:
            tls = secure()
        except BaseException:  # no memory, say: nobody else knows of the socket
            sock.close()
            raise
        try:
            transport = place(self._loop, sock, tls)
        except BaseException:
            sock.close()
            tls.connection_lost(None)  # it is not one of the server's `handshakes` any more
            raise
        try:
            tls.connection_made(transport)
            if count > 0:  # otherwise the engine finds what there is, be it an error
                tls.feed(self._data[:count])
        except BaseException:
            transport.abort()
            raise

    def _terms(self, head: int) -> tuple[Agreement, bytes] | None:
        """What to answer to a request of the usual kind. None: it has to be parsed."""
        host = self._host
        if host.process_request is not None or host.process_response is not None:
            return None
        return host.acceptor_options.terms(*(_NOTHING if head < _ASKS else self._asked()))

    def _greet(self, sock: socket.SocketType, head: int, count: int, terms: tuple[Agreement, bytes]) -> None:
        """Opens the connection without having parsed its request."""
        host, (agreement, behind) = self._host, terms
        try:
            answer = SWITCHING + self._found[:] + behind
            rest = b"" if head == count else self._data[head:count]
            ws = host.make(agreement, self._data[:head], answer)
        except BaseException:
            sock.close()
            raise
        host.open_on(sock, ws, answer)
        if rest:
            ws.feed(rest)

    def _begin_on_transport(self, sock: socket.socket, begin: Callable[[], asyncio.BaseProtocol]) -> None:
        """Begins a connection of which nothing has been received yet."""
        try:
            protocol = begin()
        except BaseException:
            sock.close()
            raise
        self._pass_on(sock, protocol)

    def _begin_request(self, sock: socket.socket, count: int) -> None:
        """Begins a connection whose request is incomplete, or not of the usual kind."""
        try:
            handshake = ServerHandshake(self._host, sock)
        except BaseException:
            sock.close()
            raise
        try:
            if count > 0 and handshake.read(self._data[:count]):
                self._answer(sock, handshake)
            else:
                handshake.wait(self._read, sock)  # which finds the end of the stream, and errors, once more
        except BaseException:
            handshake.abort()
            raise

    def _asked(self) -> list[str | None]:
        """The headers of the request that decide the terms."""
        ends, data = ffi.unpack(self._opening.asked, len(_NOTHING) * 2), self._data
        pairs = zip(ends[::2], ends[1::2], strict=True)
        return [data[begin:end].decode("latin-1") if end else None for begin, end in pairs]

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Most likely the system has no descriptor left: until it has, every attempt would fail."""
        logger.error("cannot accept connections for a second: %s", error)
        self._loop.remove_reader(listening.fileno())
        self._loop.call_later(_OUT_OF_DESCRIPTORS, self._go_on, listening)

    def _go_on(self, listening: socket.socket) -> None:
        if self.is_open:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    # ---- one connection ----

    def _read(self, sock: socket.socket, handshake: ServerHandshake) -> None:
        """Reads what has arrived of the request, and answers when it is complete."""
        try:
            # To the last byte: uvloop reports only once that the peer has gone, together with what came before that.
            while (data := sock.recv(_CHUNK)) and not handshake.read(data):
                pass
        except (BlockingIOError, InterruptedError):
            handshake.wait(self._read, sock)
        except OSError:
            handshake.abort()
        except BaseException:
            handshake.abort()  # what the client has sent may be lost
            raise
        else:
            if data:
                self._answer(sock, handshake)
            else:
                handshake.abort()  # a client that has closed its side cannot open a WebSocket

    def _answer(self, sock: socket.socket, handshake: ServerHandshake) -> None:
        """The request is complete, or is wrong already."""
        try:
            handshake.stop_waiting()
            if not handshake.answer_on_socket():
                handshake.leave_socket()  # first: from now on the handshake must not close the socket
                self._pass_on(sock, handshake)
        except BaseException:
            handshake.abort()
            raise

    def _pass_on(self, sock: socket.socket, protocol: asyncio.BaseProtocol) -> None:
        """Has the event loop make a transport for the socket."""
        try:
            task = self._loop.create_task(self._make_transport(sock, protocol))
        except BaseException:
            sock.close()
            protocol.connection_lost(None)
            raise
        self.passing.add(task)
        task.add_done_callback(self.passing.discard)

    async def _make_transport(self, sock: socket.socket, protocol: asyncio.BaseProtocol) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except (OSError, MemoryError) as error:
            logger.debug("a client left before it was answered, or there was no memory: %s", error)
            sock.close()
            protocol.connection_lost(error)
