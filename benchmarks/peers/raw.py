"""No WebSocket at all: what the event loop and the socket cost by themselves. A limit, not a competitor.

The server sends back whatever came; the client counts bytes until its frame is back from a real WebSocket server. What
is broadcast is made into a frame once, and sent by a loop over the sockets that does nothing else.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, ClassVar

from benchmarks.frames import accept, build, unmask
from benchmarks.meter import Meter
from benchmarks.peers import Settings

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


async def serve(port: int, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoProtocol, "127.0.0.1", port, ssl=settings.tls)
    await server.serve_forever()


class EchoClient(asyncio.Protocol):
    def __init__(self, message: str, depth: int, meter: Meter) -> None:
        self.block = build(message.encode(), masked=True) * depth
        # A server's head has no key: four bytes less.
        self.expected = len(self.block) - 4 * depth
        self.depth, self.meter = depth, meter
        self.open, self.left, self.missing = False, 0, 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        if not self.open:
            self.open = True
            self.turn()
            return
        self.missing -= len(data)
        if not self.missing:
            self.turn()

    def turn(self) -> None:
        if self.left <= 0:
            self.left = self.meter.next()
            if not self.left:
                self.done.set_result(None)
                return
        self.left -= self.depth
        self.missing = self.expected
        self.transport.write(self.block)


async def echo(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    port = int(uri.rsplit(":", 1)[1].strip("/"))
    transport, client = await asyncio.get_running_loop().create_connection(
        lambda: EchoClient(message, depth, meter), "127.0.0.1", port
    )
    await client.done
    transport.abort()


class BroadcastProtocol(asyncio.Protocol):
    sockets: ClassVar[list[Any]] = []

    def connection_made(self, transport: Any) -> None:
        self.transport, self.data, self.open = transport, b"", False

    def data_received(self, data: bytes) -> None:
        self.data += data
        if not self.open:
            self.data, self.open = b"", True
            self.transport.write(accept(data))
            self.sockets.append(self.transport.get_extra_info("socket"))
        elif (payload := unmask(self.data)) is not None:
            self.data = b""
            frame = build(payload, masked=False)
            for sock in self.sockets:
                os.write(sock.fileno(), frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.sockets.clear()  # they all go together


async def serve_broadcast(port: int, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(BroadcastProtocol, "127.0.0.1", port, backlog=1000)
    await server.serve_forever()


SERVE = {"raw TCP": serve}
BROADCAST = {"raw TCP": serve_broadcast}
ECHO = {"raw TCP": echo}
