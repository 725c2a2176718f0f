"""aiohttp, both ways round, with and without compression. It cannot send fragments, so those go one way only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from interop.talk import BYE, Message, OurServer, check_echo, our_client, our_server

import zcws

PARAMETERS = {
    "as they come": zcws.Deflate(),
    "small windows": zcws.Deflate(server_max_window_bits=9, client_max_window_bits=9),
    "large windows": zcws.Deflate(server_max_window_bits=15, client_max_window_bits=15),
    "no takeover": zcws.Deflate(server_no_context_takeover=True, client_no_context_takeover=True),
}
parameters = pytest.mark.parametrize("deflate", PARAMETERS.values(), ids=PARAMETERS)


class TheirServer:
    """Attributes: address; closes: code and reason of each Close that has arrived, in order."""

    def __init__(self, compress: bool) -> None:
        self.compress = compress
        self.address = ""
        self.closes: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=self.compress, max_msg_size=0, autoping=request.path != "/ping")
        await ws.prepare(request)
        if request.path == "/close":
            await ws.close(code=BYE[0], message=BYE[1].encode())
        if request.path == "/ping":
            await ws.ping(b"are you there?")
            assert (await ws.receive()).type is WSMsgType.PONG
            await ws.send_str("pong")
        while (message := await ws.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            await (ws.send_str if message.type is WSMsgType.TEXT else ws.send_bytes)(message.data)
        if message.type is WSMsgType.CLOSE:
            self.closes.put_nowait((message.data, message.extra))
        return ws


@contextlib.asynccontextmanager
async def their_server(*, compress: bool) -> AsyncIterator[TheirServer]:
    theirs = TheirServer(compress)
    app = web.Application()
    app.router.add_get("/{path:.*}", theirs.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    theirs.address = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield theirs
    finally:
        await runner.cleanup()


async def their_client(ours: OurServer, **options: Any) -> None:
    """A client of aiohttp that follows all the scripts of our server."""
    options |= {"max_msg_size": 0, "autoping": False}
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{ours.address}/", **options) as ws:
            await check_echo(lambda message: send(ws, message), lambda: receive(ws))
            await ws.ping(b"still there?")
            pong = await ws.receive()
            assert (pong.type, bytes(pong.data)) == (WSMsgType.PONG, b"still there?")
            await ws.close(code=BYE[0], message=BYE[1].encode())
        assert await ours.closes.get() == BYE
        async with session.ws_connect(f"{ours.address}/fragments", **options) as ws:
            await check_echo(lambda message: send(ws, message), lambda: receive(ws))
        async with session.ws_connect(f"{ours.address}/ping", **{**options, "autoping": True}) as ws:
            assert await ws.receive_str() == "pong"
        async with session.ws_connect(f"{ours.address}/close", **options) as ws:
            close = await ws.receive()
            assert (close.type, close.data, close.extra) == (WSMsgType.CLOSE, *BYE)


async def send(ws: Any, message: Message) -> None:
    await (ws.send_str if isinstance(message, str) else ws.send_bytes)(message)


async def receive(ws: Any) -> Message:
    message = await ws.receive()
    assert message.type in (WSMsgType.TEXT, WSMsgType.BINARY)
    data: Message = message.data if message.type is WSMsgType.TEXT else bytes(message.data)
    return data


def test_our_client_and_their_server() -> None:
    async def run() -> None:
        async with their_server(compress=False) as theirs:
            assert await our_client(theirs.address, fragments=False, compression="deflate") is None
            assert await theirs.closes.get() == (1000, "")
            assert await theirs.closes.get() == BYE

    asyncio.run(run())


def test_their_client_and_our_server() -> None:
    async def run() -> None:
        async with our_server() as ours:
            await their_client(ours)

    asyncio.run(run())


@parameters
def test_our_client_and_their_server_compress(deflate: zcws.Deflate) -> None:
    async def run() -> None:
        async with their_server(compress=True) as theirs:
            agreed = await our_client(theirs.address, fragments=False, compression=deflate)
            assert agreed is not None
            assert agreed.server_max_window_bits == (deflate.server_max_window_bits or 15)
            assert agreed.client_max_window_bits == (deflate.client_max_window_bits or 15)
            assert agreed.client_no_context_takeover == deflate.client_no_context_takeover

    asyncio.run(run())


@parameters
def test_their_client_and_our_server_compress(deflate: zcws.Deflate) -> None:
    async def run() -> None:
        async with our_server(compression=deflate) as ours:
            await their_client(ours, compress=15)
            for agreed in ours.agreements:
                assert agreed is not None
                assert agreed.server_max_window_bits == (deflate.server_max_window_bits or 15)
                assert agreed.server_no_context_takeover == deflate.server_no_context_takeover

    asyncio.run(run())
