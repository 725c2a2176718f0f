"""The other side of talk.py for libraries with the interface of `websockets`: itself, and picows.websockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from interop.talk import BYE, FRAGMENTS, OurServer, check_echo, check_fragments, thirds, whole


class TheirServer:
    """Attributes: address; closes: code and reason of each connection that has ended, in order."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.address = ""
        self.closes: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    async def handle(self, ws: Any) -> None:
        path = ws.request.path
        if path == "/close":
            await ws.close(*BYE)
        if path == "/ping":
            await (await ws.ping(b"are you there?"))
            await ws.send("pong")
        with contextlib.suppress(self.library.ConnectionClosed):
            async for message in ws:
                await ws.send(thirds(message) if path == "/fragments" else message)
        self.closes.put_nowait((ws.close_code, ws.close_reason or ""))  # picows: None for none


@contextlib.asynccontextmanager
async def their_server(library: Any, **options: Any) -> AsyncIterator[TheirServer]:
    """A server of `library` that follows the scripts of talk.py."""
    theirs = TheirServer(library)
    async with library.serve(theirs.handle, "127.0.0.1", 0, max_size=None, **options) as server:
        theirs.address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield theirs


async def their_client(library: Any, ours: OurServer, **options: Any) -> None:
    """A client of `library` that follows all the scripts of our server."""
    options |= {"max_size": None, "proxy": None}
    async with library.connect(f"{ours.address}/", **options) as ws:
        await check_echo(ws.send, ws.recv)
        await check_fragments(ws.send, ws.recv)
        await (await ws.ping(b"still there?"))
        await ws.close(*BYE)
    assert await ours.closes.get() == BYE
    async with library.connect(f"{ours.address}/fragments", **options) as ws:
        for fragments in FRAGMENTS:
            await ws.send(whole(fragments))
            pieces = [piece async for piece in ws.recv_streaming()]
            # An empty fragment that is compressed is not empty on the wire, and some do not show the last one.
            assert whole(pieces) == whole(fragments) and len(pieces) > 1
    assert await ours.closes.get() == (1000, "")
    async with library.connect(f"{ours.address}/ping", **options) as ws:
        assert await ws.recv() == "pong"
    assert await ours.closes.get() == (1000, "")
    async with library.connect(f"{ours.address}/close", **options) as ws:
        with contextlib.suppress(library.ConnectionClosed):
            raise AssertionError(f"a message came in place of the Close: {await ws.recv()!r}")
        assert (ws.close_code, ws.close_reason) == BYE
