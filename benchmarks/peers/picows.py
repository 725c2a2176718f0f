"""picows: its core (frames, callbacks, no copies, no UTF-8 check) and `picows.websockets`, on aiofastnet.

Its compression has no options: level 6, memLevel 8, the largest windows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from typing import Any

import picows
import picows.websockets

from benchmarks.meter import Meter
from benchmarks.peers import Settings

LARGEST = 1 << 26  # bytes a frame: more than any workload has
TEXT, CLOSE = picows.WSMsgType.TEXT, picows.WSMsgType.CLOSE

#: The level that the library cannot be talked out of.
ONLY_LEVEL = 6


def common(settings: Settings) -> dict[str, Any]:
    compression = None if settings.level is None else "deflate"
    return {
        "compression": compression,
        "max_size": None,
        "max_queue": None,
        "ping_interval": None,
        "ssl": settings.tls,
    }


# ---- the core ----


class EchoListener(picows.WSListener):
    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type is CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin)


class BroadcastListener(picows.WSListener):
    connections: set[picows.WSTransport] = set()  # noqa: RUF012  one server a process

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self.connections.add(transport)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self.connections.discard(transport)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        payload = frame.get_payload_as_memoryview()
        for connection in self.connections:
            connection.send(frame.msg_type, payload)


async def run_server(listener: type[picows.WSListener], port: int, settings: Settings) -> None:
    server = await picows.ws_create_server(
        lambda request: listener(), "127.0.0.1", port, ssl=settings.tls, max_frame_size=LARGEST
    )
    await server.serve_forever()


async def serve(port: int, settings: Settings) -> None:
    await run_server(EchoListener, port, settings)


async def serve_broadcast(port: int, settings: Settings) -> None:
    await run_server(BroadcastListener, port, settings)


class EchoClient(picows.WSListener):
    """Sends `payloads()` when the answers to all that it sent before are there: what `take` makes of their frames."""

    def __init__(
        self,
        payloads: Callable[[], Iterable[bytes]],
        take: Callable[[picows.WSFrame], Any],
        depth: int,
        meter: Meter,
    ) -> None:
        self.payloads, self.take, self.depth, self.meter = payloads, take, depth, meter
        self.left, self.in_flight = 0, 0

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self.turn(transport)

    def turn(self, transport: picows.WSTransport) -> None:
        if self.left <= 0:
            self.left = self.meter.next()
            if not self.left:
                transport.disconnect()
                return
        self.left -= self.depth
        self.in_flight = self.depth
        for payload in self.payloads():
            transport.send(TEXT, payload)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        self.answer = self.take(frame)
        self.in_flight -= 1
        if not self.in_flight:
            if self.left <= 0:
                self.meter.check(self.answer)
            self.turn(transport)


async def run_client(make: Callable[[], picows.WSListener], uri: str, settings: Settings) -> None:
    transport, _ = await picows.ws_connect(make, uri, ssl_context=settings.tls, max_frame_size=LARGEST)
    await transport.wait_disconnected()


async def echo(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    payloads, take = partial(repeat, message.encode(), depth), picows.WSFrame.get_payload_as_memoryview
    await run_client(lambda: EchoClient(payloads, take, depth, meter), uri, settings)


async def echo_text(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    """What a program does that has texts and wants texts: each is encoded, decoded and so checked."""
    take = picows.WSFrame.get_payload_as_utf8_text
    await run_client(
        lambda: EchoClient(lambda: map(str.encode, repeat(message, depth)), take, depth, meter), uri, settings
    )


class FirehoseClient(picows.WSListener):
    def __init__(self, meter: Meter) -> None:
        self.meter, self.left, self.checked = meter, 1, False

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        payload = self.take(frame)
        self.left -= 1
        if not self.left:
            if not self.checked:
                self.checked = True
                self.meter.check(payload)
            self.left = self.meter.next()
            if not self.left:
                transport.disconnect(graceful=False)

    def take(self, frame: picows.WSFrame) -> Any:
        return frame.get_payload_as_memoryview()


class FirehoseText(FirehoseClient):
    def take(self, frame: picows.WSFrame) -> str:
        return frame.get_payload_as_utf8_text()


async def firehose(uri: str, meter: Meter, settings: Settings) -> None:
    await run_client(lambda: FirehoseClient(meter), uri, settings)


async def firehose_text(uri: str, meter: Meter, settings: Settings) -> None:
    await run_client(lambda: FirehoseText(meter), uri, settings)


# ---- picows.websockets ----


async def serve_messages(port: int, settings: Settings) -> None:
    async def handler(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)

    async with picows.websockets.serve(handler, "127.0.0.1", port, **common(settings)):
        await asyncio.Future()


async def serve_broadcast_messages(port: int, settings: Settings) -> None:
    connections: set[Any] = set()

    async def handler(ws: Any) -> None:
        connections.add(ws)
        try:
            async for message in ws:
                picows.websockets.broadcast(connections, message)
        finally:
            connections.discard(ws)

    async with picows.websockets.serve(handler, "127.0.0.1", port, **common(settings)):
        await asyncio.Future()


async def echo_messages(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    async with picows.websockets.connect(uri, proxy=None, **common(settings)) as ws:
        for count in meter:
            for _ in range(count // depth):
                for _ in range(depth):
                    await ws.send(message)
                for _ in range(depth):
                    answer = await ws.recv()
        meter.check(answer)


async def firehose_messages(uri: str, meter: Meter, settings: Settings) -> None:
    # The default queue of 16 messages: without a limit it reads on while nobody takes what it has read.
    options = {**common(settings), "max_queue": 16}
    async with picows.websockets.connect(uri, proxy=None, close_timeout=0.2, **options) as ws:
        meter.check(await ws.recv())
        for count in meter:
            for _ in range(count):
                await ws.recv()


SERVE = {"picows": serve, "picows.websockets": serve_messages}
BROADCAST = {"picows": serve_broadcast, "picows.websockets": serve_broadcast_messages}
ECHO = {"picows": echo, "picows text": echo_text, "picows.websockets": echo_messages}
FIREHOSE = {"picows": firehose, "picows text": firehose_text, "picows.websockets": firehose_messages}
