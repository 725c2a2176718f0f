"""The faces of zcws that the suite is run against: each echoes what it receives, as a server and as a client.

`DRIVERS` is the table; one more face is one more row. A row says what the face runs on, how it serves until its
process is stopped, and how it visits every case of a fuzzing server. Only what `zcws` exports is used here, so that the
suite judges what users get.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import zcws
import zcws.sync

__all__ = ["AGENT", "DRIVERS", "Driver"]

#: The name that the fuzzing server files its reports under.
AGENT = "zcws"

SETTINGS: dict[str, Any] = {
    "compression": "deflate",
    # No Pings of our own: the cases expect exact sequences of frames, and the longest takes more than 20 seconds.
    "ping_interval": None,
}

Announce = Callable[[int], None]
Echo = Callable[[zcws.WebSocket], Awaitable[None]]
BlockingEcho = Callable[[zcws.sync.WebSocket], None]

DATA = (zcws.OpCode.TEXT, zcws.OpCode.BINARY)


@dataclass(frozen=True)
class Driver:
    """One face of zcws.

    Attributes:
        loops: what it can run on, by name.
        serve: called with a loop's name, a port (0: any) and a function to call with the port; serves until killed.
        visit: called with a loop's name and the URI of a fuzzing server; returns when the reports are written.
    """

    loops: tuple[str, ...]
    serve: Callable[[str, int, Announce], None]
    visit: Callable[[str, str], None]


# ---- asyncio and uvloop ----


async def echo_messages(ws: zcws.WebSocket) -> None:
    """The loop of the README: whole messages, as objects of our own."""
    async for message in ws:
        await ws.send(message)


async def echo_frames(ws: zcws.WebSocket) -> None:
    """The same without copies: views of the ring where that is possible, one buffer for everything else."""
    buffer = zcws.PayloadBuffer()
    while True:
        frame = await ws.read_frame(buffer, zcws.PayloadOrigin.ADAPTIVE)
        if frame.opcode is zcws.OpCode.CLOSE:
            break
        if frame.opcode in DATA:
            await ws.write_frame(frame)


async def echo_halves(ws: zcws.WebSocket) -> None:
    """Split: the reader only reads, and what it owes to the peer goes over the bridge to the writer."""
    reader, writer, _ = ws.split()
    buffer = zcws.PayloadBuffer()
    try:
        while True:
            frame = await reader.read_frame(buffer, zcws.PayloadOrigin.CONSISTENT)
            if writer.drain_bridge():
                break
            if frame.opcode in DATA:
                await writer.write_frame(frame)
    finally:
        writer.drain_bridge()  # if the peer broke a rule, the Close that says so


def run_on(loop: str, main: Coroutine[Any, Any, None]) -> None:
    """Runs `main` to its end."""
    if loop == "uvloop":
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


async def serve(echo: Echo, port: int, announce: Announce) -> None:
    """An echo server, until it is cancelled."""
    async with zcws.serve(echo, "127.0.0.1", port, **SETTINGS) as server:
        announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()


async def visit(echo: Echo, uri: str) -> None:
    """Runs all cases, one after the other, then has the reports written."""
    async with zcws.connect(f"{uri}/getCaseCount") as ws:
        count = int(await ws.recv())
    for case in range(1, count + 1):
        # Most cases end with an error on purpose; whether it was the right one is for the suite to say.
        with contextlib.suppress(zcws.ConnectionClosed):
            async with zcws.connect(f"{uri}/runCase?case={case}&agent={AGENT}", **SETTINGS) as ws:
                await echo(ws)
    async with zcws.connect(f"{uri}/updateReports?agent={AGENT}") as ws:
        await ws.wait_closed()


def aio(echo: Echo, *, engine: bool = True) -> Driver:
    """The asyncio driver with this echo loop; without the engine, on the event loop's own transports."""

    def choose() -> None:
        os.environ["ZCWS_ENGINE"] = str(int(engine))

    def serve_on(loop: str, port: int, announce: Announce) -> None:
        choose()
        run_on(loop, serve(echo, port, announce))

    def visit_on(loop: str, uri: str) -> None:
        choose()
        run_on(loop, visit(echo, uri))

    return Driver(loops=("asyncio", "uvloop"), serve=serve_on, visit=visit_on)


# ---- threads ----


def echo_blocking(ws: zcws.sync.WebSocket) -> None:
    """Messages, in the thread of their connection."""
    for message in ws:
        ws.send(message)


def echo_blocking_halves(ws: zcws.sync.WebSocket) -> None:
    """Split, as on asyncio."""
    reader, writer, _ = ws.split()
    buffer = zcws.PayloadBuffer()
    try:
        while True:
            frame = reader.read_frame(buffer, zcws.PayloadOrigin.CONSISTENT)
            if writer.drain_bridge():
                break
            if frame.opcode in DATA:
                writer.write_frame(frame)
    finally:
        writer.drain_bridge()


def visit_blocking(echo: BlockingEcho, uri: str) -> None:
    """Runs all cases, one after the other, then has the reports written."""
    with zcws.sync.connect(f"{uri}/getCaseCount") as ws:
        count = int(ws.recv())
    for case in range(1, count + 1):
        with contextlib.suppress(zcws.ConnectionClosed):
            with zcws.sync.connect(f"{uri}/runCase?case={case}&agent={AGENT}", **SETTINGS) as ws:
                echo(ws)
    with contextlib.suppress(zcws.ConnectionClosed):
        with zcws.sync.connect(f"{uri}/updateReports?agent={AGENT}") as ws:
            ws.recv()


def threads(echo: BlockingEcho) -> Driver:
    """The blocking driver with this echo loop."""

    def serve_on(_: str, port: int, announce: Announce) -> None:
        with zcws.sync.serve(echo, "127.0.0.1", port, **SETTINGS) as server:
            announce(server.sock.getsockname()[1])
            server.serve_forever()

    def visit_on(_: str, uri: str) -> None:
        visit_blocking(echo, uri)

    return Driver(loops=("threads",), serve=serve_on, visit=visit_on)


DRIVERS = {
    "aio": aio(echo_messages),
    "transport": aio(echo_messages, engine=False),
    "frames": aio(echo_frames),
    "split": aio(echo_halves),
    "sync": threads(echo_blocking),
    "syncsplit": threads(echo_blocking_halves),
}
