"""websockets, asyncio and blocking: no queue limit, no size limit, no keepalive; its C extension is in its wheel."""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as serve_websockets
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.sync.client import connect as connect_sync

from benchmarks.meter import Meter
from benchmarks.peers import Settings

COMMON: dict[str, Any] = {"compression": None, "max_size": None, "max_queue": None, "ping_interval": None}


def server_options(settings: Settings) -> dict[str, Any]:
    return {
        **COMMON,
        "ssl": settings.tls,
        "extensions": _extensions(ServerPerMessageDeflateFactory, settings),
    }


def client_options(settings: Settings) -> dict[str, Any]:
    extensions = _extensions(ClientPerMessageDeflateFactory, settings, client_max_window_bits=True)
    return {**COMMON, "ssl": settings.tls, "proxy": None, "extensions": extensions}


def _extensions(factory: Any, settings: Settings, **options: Any) -> list[Any]:
    if settings.level is None:
        return []
    return [factory(compress_settings={"level": settings.level, "memLevel": 8}, **options)]


async def serve(port: int, settings: Settings) -> None:
    async def handler(ws: ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async with serve_websockets(handler, "127.0.0.1", port, **server_options(settings)):
        await asyncio.Future()


async def serve_broadcast(port: int, settings: Settings) -> None:
    connections: set[ServerConnection] = set()

    async def handler(ws: ServerConnection) -> None:
        connections.add(ws)
        try:
            async for message in ws:
                broadcast(connections, message)
        finally:
            connections.discard(ws)

    async with serve_websockets(handler, "127.0.0.1", port, **server_options(settings)):
        await asyncio.Future()


async def echo(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    async with connect(uri, **client_options(settings)) as ws:
        for count in meter:
            for _ in range(count // depth):
                for _ in range(depth):
                    await ws.send(message)
                for _ in range(depth):
                    answer = await ws.recv()
        meter.check(answer)


async def firehose(uri: str, meter: Meter, settings: Settings) -> None:
    # Without a limit it would read ahead of `recv` for as long as the server sends: the default of 16 frames stays.
    async with connect(uri, close_timeout=0.2, **{**client_options(settings), "max_queue": 16}) as ws:
        meter.check(await ws.recv())
        for count in meter:
            for _ in range(count):
                await ws.recv()


def echo_sync(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    with connect_sync(uri, **client_options(settings)) as ws:
        for count in meter:
            for _ in range(count // depth):
                for _ in range(depth):
                    ws.send(message)
                for _ in range(depth):
                    answer = ws.recv()
        meter.check(answer)


def firehose_sync(uri: str, meter: Meter, settings: Settings) -> None:
    with connect_sync(uri, close_timeout=0.2, **{**client_options(settings), "max_queue": 16}) as ws:
        meter.check(ws.recv())
        for count in meter:
            for _ in range(count):
                ws.recv()


SERVE = {"websockets": serve}
BROADCAST = {"websockets": serve_broadcast}
ECHO = {"websockets": echo, "websockets.sync": echo_sync}
FIREHOSE = {"websockets": firehose, "websockets.sync": firehose_sync}
