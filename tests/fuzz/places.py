"""Where a connection of a crowd (crowd.py) lives: in the engine, on a transport of the event loop, plain or TLS, or on
a stream of HTTP/2, of one connection for all (streams.py)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from typing import Any

import net
from fuzz.streams import Peers

__all__ = ["PLACES", "open_pair"]

#: How often each is drawn: most are in the engine.
PLACES = ("engine", "engine", "engine", "transport", "transport", "tls", "rude tls", "http2", "http2")
#: The most bytes that one record takes: RFC 8446 5.1.
_RECORD = 16 * 1024

_certificates = functools.cache(net.Certificates)


async def open_pair(where: str, peers: Peers, **settings: Any) -> tuple[Any, Any]:
    """An open connection, and its peer's end of the socket, or of the stream, which is one of `peers`."""
    settings["close_timeout"] = None  # a busy machine is no reason for an end
    if where == "http2":
        ws = net.unplaced(**settings)
        return ws, await peers.open(ws)
    ours, peer = socket.socketpair()
    for sock in (ours, peer):
        sock.setblocking(False)
    is_client = settings["is_client"]
    if where == "engine":
        return net.placed(ours, **settings), peer
    ws, sealed = net.unplaced(**settings), None
    if where.endswith("tls"):
        sealed = Sealed(peer, is_client=not is_client, is_rude=where == "rude tls")
        shaking = asyncio.ensure_future(sealed.shake_hands())
    transport = await _transport(ours, is_client=is_client, tls=sealed is not None)
    if sealed is not None:
        await shaking
    transport.set_protocol(ws)
    ws.connection_made(transport)
    return ws, sealed or peer


async def _transport(sock: socket.socket, *, is_client: bool, tls: bool) -> Any:
    """One of the event loop's own."""
    loop = asyncio.get_running_loop()
    if not is_client:
        context = _certificates().server if tls else None
        return (await loop.connect_accepted_socket(asyncio.Protocol, sock, ssl=context))[0]
    options = {"ssl": _certificates().client, "server_hostname": "localhost"} if tls else {}
    return (await loop.create_unix_connection(asyncio.Protocol, sock=sock, **options))[0]


class Sealed:
    """A raw peer's end of TLS, with the calls of a socket that does not block. One that is rude ends without a word."""

    def __init__(self, sock: socket.socket, *, is_client: bool, is_rude: bool) -> None:
        self._sock, self._is_rude = sock, is_rude
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = _certificates().client if is_client else _certificates().server
        name = "localhost" if is_client else None
        self._tls = context.wrap_bio(self._in, self._out, not is_client, name)
        self._left = b""  # records that the socket has not taken
        self._ends = False  # behind those

    def _flush(self) -> None:
        self._left += self._out.read()
        while self._left:
            self._left = self._left[self._sock.send(self._left) :]
        if self._ends:
            self._ends = False
            self._sock.shutdown(socket.SHUT_WR)

    def _receive(self, size: int) -> None:
        if data := self._sock.recv(size):
            self._in.write(data)
        else:
            self._in.write_eof()

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                with contextlib.suppress(BlockingIOError):
                    self._receive(_RECORD)
            finally:
                self._flush()
            await asyncio.sleep(0)

    def send(self, data: bytes) -> int:
        self._flush()  # BlockingIOError: nothing has been taken
        count = self._tls.write(data[:_RECORD]) if data else 0
        with contextlib.suppress(BlockingIOError):
            self._flush()
        return count

    def recv(self, size: int) -> bytes:
        with contextlib.suppress(BlockingIOError):
            self._flush()
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._receive(size)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def setsockopt(self, *option: Any) -> None:
        self._sock.setsockopt(*option)

    def shutdown(self, _: int) -> None:
        self._ends = True
        if not self._is_rude:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
        self._flush()

    def close(self) -> None:
        self._sock.close()
