"""A real proxy for the tests: HTTP CONNECT, in the clear or over TLS, SOCKS5, SOCKS4, SOCKS4a; in a thread of its own.

It connects where it is told to, except that a name that ends in `.example` is this machine: so a test can see that it
was the proxy who resolved it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from net import LONG, hang_up

#: RFC 1928 6: the answer with an address of nobody's.
SOCKS5_GRANTED = b"\x05\x00\x00\x01" + bytes(6)


#: A secret, a user's name and password, and how they stand in an address.
SECRET = "5ecret"
CREDENTIALS = ("user", "5ecret:@")
USER_INFO = "user:5ecret%3A%40"

#: What a proxy is, and the scheme by which it is asked for.
KINDS = [
    ("http", "http"),
    ("socks5", "socks5"),
    ("socks5", "socks5h"),
    ("socks4", "socks4"),
    ("socks4", "socks4a"),
]


@dataclass
class Proxy:
    """What a proxy does, and what it has seen.

    Attributes:
        credentials: what it wants to be told, or None.
        answer: what it says to a CONNECT in place of its own answer; to SOCKS, the code of its refusal.
        asked: where it was asked to connect to.
        heads: of the CONNECTs.
        busy: how many connections go through it now.
    """

    kind: str = "http"
    credentials: tuple[str, str] | None = None
    answer: bytes | int | None = None
    tls: ssl.SSLContext | None = None
    port: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    busy: int = 0

    def url(self, scheme: str, user_info: str = "") -> str:
        return f"{scheme}://{user_info + '@' if user_info else ''}127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.busy += 1
        speak = {"http": self._http, "socks5": self._socks5, "socks4": self._socks4}[self.kind]
        try:
            server = await speak(reader, writer)
            if server is not None:
                await asyncio.gather(pump(reader, server[1]), pump(server[0], writer))
                await hang_up(server[1])
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            await hang_up(writer)
            self.busy -= 1

    async def _http(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        if self.credentials is not None:
            token = base64.b64encode(":".join(self.credentials).encode())
            if b"Proxy-Authorization: Basic " + token + b"\r\n" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return None
        if self.answer is not None:
            assert isinstance(self.answer, bytes)
            writer.write(self.answer)
            await writer.drain()
            return None
        server = await self._connect(host.strip("[]"), int(port))
        # In pieces, and with a line that is nobody else's business: some do both.
        for piece in (b"HTTP/1.0 200 Connection", b" established\r\nVia: 1.0 pro", b"xy\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        return server

    async def _socks5(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        wanted = 2 if self.credentials else 0  # RFC 1928 3: user name and password, or nothing
        if wanted not in methods:
            writer.write(b"\x05\xff")
            return None
        writer.write(bytes((5, wanted)))
        if self.credentials:  # RFC 1929 2
            _, size = await reader.readexactly(2)
            username = await reader.readexactly(size)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            right = (username.decode(), password.decode()) == self.credentials
            writer.write(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return None
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, await reader.readexactly(size))
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        if isinstance(self.answer, int):
            writer.write(bytes((5, self.answer)) + SOCKS5_GRANTED[2:])
            return None
        server = await self._connect(host, port)
        writer.write(SOCKS5_GRANTED)
        return server

    async def _socks4(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        _, _, port, address = struct.unpack("!BBH4s", await reader.readexactly(8))
        await reader.readuntil(b"\0")  # who asks
        if address[:3] == b"\0\0\0":  # SOCKS4a: a name follows
            host = (await reader.readuntil(b"\0"))[:-1].decode()
        else:
            host = socket.inet_ntoa(address)
        server = await self._connect(host, port)
        writer.write(b"\0\x5a" + bytes(6))
        return server

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.asked.append((host, port))
        return await asyncio.open_connection("127.0.0.1" if host.endswith(".example") else host, port)


async def turns() -> None:
    """Some turns of the event loop."""
    for _ in range(10):
        await asyncio.sleep(0)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything from one side to the other, the end as well."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError, ssl.SSLError, OSError):
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


@contextlib.contextmanager
def running(
    kind: str = "http",
    *,
    credentials: tuple[str, str] | None = None,
    answer: bytes | int | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Proxy]:
    """A proxy that runs until the end of the block, when nobody uses it any more."""
    proxy = Proxy(kind, credentials, answer, tls)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def main() -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            await proxy.serve(reader, writer)

        server = await asyncio.start_server(follow, "127.0.0.1", 0, ssl=tls)
        proxy.port = server.sockets[0].getsockname()[1]
        started.set()
        await done.wait()
        server.close()
        await turns()  # one that has just been accepted has its task then
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=LONG)
            assert not late, "a connection through the proxy has not ended"
        await turns()  # and what has been closed is gone

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(LONG)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(2 * LONG)
        assert not thread.is_alive()
        loop.close()
