"""aiohttp: no size limit, zlib-ng as its zlib; its compression level is always the fastest."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import web
from zlib_ng import zlib_ng

from benchmarks.meter import Meter
from benchmarks.peers import Settings

aiohttp.set_zlib_backend(zlib_ng)

#: The level that the library cannot be talked out of.
ONLY_LEVEL = 1

DATA = (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY)


async def run_server(handler: Any, port: int, settings: Settings) -> None:
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=settings.tls).start()
    await asyncio.Future()


def response(settings: Settings) -> web.WebSocketResponse:
    return web.WebSocketResponse(max_msg_size=0, compress=settings.level is not None)


async def serve(port: int, settings: Settings) -> None:
    async def handler(request: web.Request) -> web.WebSocketResponse:
        ws = response(settings)
        await ws.prepare(request)
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await ws.send_bytes(message.data)
        return ws

    await run_server(handler, port, settings)


async def serve_broadcast(port: int, settings: Settings) -> None:
    connections: set[web.WebSocketResponse] = set()

    async def handler(request: web.Request) -> web.WebSocketResponse:
        ws = response(settings)
        await ws.prepare(request)
        connections.add(ws)
        try:
            async for message in ws:
                for connection in tuple(connections):
                    await connection.send_str(message.data)
        finally:
            connections.discard(ws)
        return ws

    await run_server(handler, port, settings)


def client_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"max_msg_size": 0, "compress": 0 if settings.level is None else 15}
    return options if settings.tls is None else {**options, "ssl": settings.tls}


async def echo(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(uri, **client_options(settings)) as ws:
            for count in meter:
                for _ in range(count // depth):
                    for _ in range(depth):
                        await ws.send_str(message)
                    for _ in range(depth):
                        answer = (await ws.receive()).data
            meter.check(answer)


async def firehose(uri: str, meter: Meter, settings: Settings) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(
            uri, timeout=aiohttp.ClientWSTimeout(ws_close=0.2), **client_options(settings)
        ) as ws:
            meter.check((await ws.receive()).data)
            for count in meter:
                for _ in range(count):
                    (await ws.receive()).data  # noqa: B018


SERVE = {"aiohttp": serve}
BROADCAST = {"aiohttp": serve_broadcast}
ECHO = {"aiohttp": echo}
FIREHOSE = {"aiohttp": firehose}
