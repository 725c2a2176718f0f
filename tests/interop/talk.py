"""What is said between zcws and another library, and the zcws side of it, as server and as client.

Every server here, ours and theirs, does what its path says:

    /            sends every message back
    /fragments   sends every message back in three fragments, the second one empty
    /ping        sends a Ping first, and "pong" when it has been answered
    /close       closes with BYE, unasked
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import zcws
from zcws.extensions import DeflateParameters

Message = str | bytes

#: A code of the private range, and a reason with a letter that is two bytes long.
BYE = (4001, "genug für heute")

#: Around the three codings of a payload's length (RFC 6455 5.2), and one that is larger than a ring.
SIZES = (0, 1, 125, 126, 65535, 65536, 1 << 20)

FRAGMENTS: list[list[Message]] = [
    ["one ", "", "two, naïve"],
    [b"\x00" * 70_000, b"", b"\xff" * 3],
]


def messages() -> list[Message]:
    """Text and binary of every size; then a text twice, which pays only where the first one is remembered."""
    feed = random.Random(7692)
    noise = feed.randbytes(max(SIZES))
    text = "".join(f'{{"id": {i}, "price": {feed.randrange(10**6)}}}\n' for i in range(30_000))
    sized: list[Message] = [part for size in SIZES for part in (text[:size], noise[:size])]
    return [*sized, "κόσμε 🌍 " * 100, text[:20_000], text[:20_000], b"\x00" * 100_000]


async def check_echo(
    send: Callable[[Any], Awaitable[Any]], receive: Callable[[], Awaitable[Message]]
) -> None:
    """Every message comes back as it was, and of the same kind."""
    for message in messages():
        await send(message)
        assert await receive() == message


async def check_fragments(
    send: Callable[[Any], Awaitable[Any]], receive: Callable[[], Awaitable[Message]]
) -> None:
    """What is sent in fragments comes back whole."""
    for fragments in FRAGMENTS:
        await send(fragments)
        assert await receive() == whole(fragments)


def whole(fragments: list[Message]) -> Message:
    return type(fragments[0])().join(fragments)  # type: ignore[arg-type]


def thirds(message: Message) -> list[Message]:
    """The fragments that /fragments makes of a message."""
    middle = len(message) // 2
    return [message[:middle], message[:0], message[middle:]]


# ---- our server, for their clients ----


class OurServer:
    """Attributes: address; closes: the code and the reason of each connection that has ended, in order."""

    def __init__(self) -> None:
        self.address = ""
        self.closes: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self.agreements: list[DeflateParameters | None] = []

    async def handle(self, ws: zcws.WebSocket) -> None:
        assert ws.request is not None
        self.agreements.append(ws.connection.agreement.deflate)
        try:
            await SCRIPTS[ws.request.path](ws)
        except zcws.ConnectionClosed as error:
            self.closes.put_nowait((error.code, error.reason))
            raise


async def _echo(ws: zcws.WebSocket) -> None:
    while True:
        await ws.send(await ws.recv())


async def _echo_fragments(ws: zcws.WebSocket) -> None:
    while True:
        await ws.send(thirds(await ws.recv()))


async def _ping(ws: zcws.WebSocket) -> None:
    await ws.ping(b"are you there?")
    await ws.send("pong")
    await _echo(ws)


async def _close(ws: zcws.WebSocket) -> None:
    await ws.close(*BYE)


SCRIPTS = {"/": _echo, "/fragments": _echo_fragments, "/ping": _ping, "/close": _close}


@contextlib.asynccontextmanager
async def our_server(**options: Any) -> AsyncIterator[OurServer]:
    """A zcws server that follows the scripts."""
    ours = OurServer()
    async with zcws.serve(ours.handle, "127.0.0.1", 0, **options) as server:
        ours.address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield ours


# ---- our client, for their servers ----


async def our_client(address: str, *, fragments: bool = True, **options: Any) -> DeflateParameters | None:
    """Follows all the scripts of a server at `address`. Returns what was agreed on compression."""
    async with zcws.connect(f"{address}/", **options) as ws:
        await check_echo(ws.send, ws.recv)
        await check_fragments(ws.send, ws.recv)
        assert await ws.ping(b"still there?") > 0
    assert (ws.close_code, ws.close_reason) == (1000, "")
    if fragments:
        async with zcws.connect(f"{address}/fragments", **options) as ws:
            await check_echo(ws.send, ws.recv)
    async with zcws.connect(f"{address}/ping", **options) as ws:
        assert await ws.recv() == "pong"
        await ws.close(*BYE)  # the server's test looks at what arrived
    await their_close(f"{address}/close", **options)
    return ws.connection.agreement.deflate


async def their_close(address: str, **options: Any) -> None:
    """The server closes first, and we see why."""
    async with zcws.connect(address, **options) as ws:
        try:
            await ws.recv()
        except zcws.ConnectionClosed as error:
            assert (error.code, error.reason, error.clean) == (*BYE, True)
        else:
            raise AssertionError("a message came in place of the Close")
