"""What the event loops' transports do not tell: the socket and TLS are asked directly.

A transport says how many bytes it has not sent yet. It does not say whether TLS still has a connected socket below it,
what TLS has received and not handed over, or who a peer was that has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from typing import Any

__all__ = [
    "RECORD",
    "break_off",
    "end_writing",
    "has_all",
    "has_unread",
    "held_back",
    "is_cut_off",
    "is_hung_up",
    "is_tls",
    "left_at_end",
    "left_behind",
    "left_in",
    "peer_of",
]

#: Linux's SO_PEERNAME, for which Python has no name. Unlike getpeername it still answers when the peer has reset the
#: connection, and when both sides have closed it.
_SO_PEERNAME = 28

#: What it returns: family, port and address, as they stand in sockaddr_in and sockaddr_in6. Unix sockets have names of
#: any length, and for them getpeername always answers.
_FORMS: dict[int, struct.Struct] = {
    socket.AF_INET: struct.Struct("!2xH4s8x"),
    socket.AF_INET6: struct.Struct("!2xHI16s4s"),
}

#: Bytes of what lies in a socket that are taken at a time.
_AT_ONCE = 64 * 1024

#: The most bytes that one record of TLS brings: RFC 8446 5.1.
RECORD = 16 * 1024


def is_tls(transport: asyncio.BaseTransport) -> bool:
    """Whether it is encrypted, by the loop or by us."""
    return transport.get_extra_info("ssl_object") is not None


def held_back(transport: asyncio.BaseTransport) -> int:
    """The most bytes that it may have received and not handed over, because not all of their record has come."""
    known: int | None = getattr(transport, "held_back", None)
    if known is not None:
        return known
    return RECORD if is_tls(transport) else 0


def is_cut_off(transport: asyncio.WriteTransport) -> bool:
    """Whether the socket below TLS is no longer connected. Neither asyncio's TLS nor uvloop's says so when asked."""
    return _asked_below(transport, lambda sock: sock.getpeername() is None)


def has_all(transport: asyncio.WriteTransport) -> bool:
    """Whether TLS has received all that there will be: the end of the stream is next."""
    return _asked_below(transport, lambda sock: not sock.recv(1, socket.MSG_PEEK))


def has_unread(sock: socket.SocketType | None) -> bool:
    """Whether the socket holds something that the loop has not read: bytes, or the end."""
    return sock is not None and _asked(sock, lambda own: own.recv(1, socket.MSG_PEEK) is not None)


def _asked_below(transport: asyncio.WriteTransport, ask: Callable[[socket.socket], bool]) -> bool:
    """What the socket below a loop's own TLS says; False for other transports: only such TLS lacks `write_eof`."""
    sock = transport.get_extra_info("socket")
    return sock is not None and not transport.can_write_eof() and _asked(sock, ask)


def _asked(sock: socket.SocketType, ask: Callable[[socket.socket], bool]) -> bool:
    """What the socket says; False where it would have to wait for an answer, True where it is broken or closed."""
    try:
        own = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
        try:
            own.setblocking(False)  # PyPy has just made it blocking, for everybody
            return ask(own)  # uvloop's stand-in for the socket would answer from memory
        finally:
            own.detach()
    except BlockingIOError:
        return False
    except (OSError, ValueError):  # ValueError: it is closed already
        return True


def left_at_end(transport: asyncio.BaseTransport, *, is_broken: bool) -> bytearray:
    """What a transport that ends has received and has not handed over. It would be lost: with the loops' TLS all of it
    where reading is paused, or what exceeds the room that there is.

    If the transport `is_broken`, also what lies in the socket: the loops' transports do not read on when a write has
    failed. The TLS and the streams of ours know that themselves.
    """
    take: Callable[..., bytearray] | None = getattr(transport, "take_left", None)
    if take is not None:
        return take(is_broken=is_broken)
    tls = transport.get_extra_info("ssl_object")
    if isinstance(tls, ssl.SSLObject):  # not aiofastnet's object, which only answers questions
        return left_in(tls)
    return left_behind(transport) if tls is None and is_broken else bytearray()


def left_in(tls: ssl.SSLObject) -> bytearray:
    """What TLS has received and nobody has read."""
    left = bytearray()
    with contextlib.suppress(ssl.SSLError):  # there is no more, or not a whole record
        while data := tls.read(RECORD):
            left += data
    return left


def left_behind(transport: asyncio.BaseTransport) -> bytearray:
    """What lies in the socket of a transport that was given up when a write failed: what the peer has said before."""
    left, sock = bytearray(), transport.get_extra_info("socket")
    if sock is None:
        return left

    def take(own: socket.socket) -> bool:
        # Nobody says more where the peer has reset it; of another one no more than has come by now.
        most = own.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        while len(left) < most and (data := own.recv(_AT_ONCE)):
            left.extend(data)
        return True

    _asked(sock, take)
    return left


def is_hung_up(fd: int) -> bool:
    """Whether the peer is gone."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def peer_of(sock: socket.SocketType) -> Any:
    """The peer's address. OSError: nobody knows it."""
    form = _FORMS.get(sock.family)
    if form is None:
        return sock.getpeername()
    try:
        found = form.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERNAME, form.size))
    except (OSError, struct.error):
        return sock.getpeername()  # a system that is only like Linux may lack the option
    if len(found) == 2:
        return socket.inet_ntop(socket.AF_INET, found[1]), found[0]
    port, flow, host, scope = found
    return socket.inet_ntop(socket.AF_INET6, host), port, flow, int.from_bytes(scope, sys.byteorder)


def end_writing(transport: asyncio.WriteTransport) -> None:
    """Closes our side of the socket, and only that."""
    try:
        transport.write_eof()
    except OSError:
        transport.close()  # asyncio shuts the socket down at once, and the peer has reset it already


def break_off(loop: asyncio.AbstractEventLoop, transport: asyncio.WriteTransport) -> None:
    """Ends a connection whose `write` has raised: half of what it was given may be out, and nothing may follow that."""
    transport.abort()
    sock = transport.get_extra_info("socket")
    if isinstance(loop, asyncio.SelectorEventLoop) and sock is not None and sock.fileno() >= 0:
        # Before CPython 3.12, asyncio's transport forgets to stop waiting for room, with nothing left to write.
        loop.remove_writer(sock.fileno())
