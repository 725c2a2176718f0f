"""zcws: messages as most people will use it, frames as few copies as possible, and its blocking client."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Any

import zcws
import zcws.sync
from benchmarks.meter import Meter
from benchmarks.peers import Settings

HOST = "127.0.0.1"


def options(settings: Settings) -> dict[str, Any]:
    deflate = None if settings.level is None else zcws.Deflate(level=settings.level, threshold=0)
    return {"ssl": settings.tls, "compression": deflate, "max_size": None, "ping_interval": None}


async def run_server(handler: Any, port: int, settings: Settings) -> None:
    async with zcws.serve(handler, HOST, port, **options(settings)):
        await asyncio.Future()


async def serve(port: int, settings: Settings) -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    await run_server(handler, port, settings)


async def serve_frames(port: int, settings: Settings) -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        buffer = zcws.PayloadBuffer()
        while True:
            frame = await ws.read_frame(buffer)
            if frame.opcode is zcws.OpCode.CLOSE:
                return
            await ws.write_frame(frame)

    await run_server(handler, port, settings)


async def serve_callbacks(port: int, settings: Settings) -> None:
    def echo(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
        if frame.opcode < zcws.OpCode.CLOSE:
            ws.write_frame_nowait(frame)

    async with zcws.serve(None, HOST, port, on_frame=echo, **options(settings)):
        await asyncio.Future()


async def serve_on_message(port: int, settings: Settings) -> None:
    def echo(ws: zcws.WebSocket, message: str | bytes) -> None:
        ws.send_nowait(message)

    async with zcws.serve(None, HOST, port, on_message=echo, **options(settings)):
        await asyncio.Future()


async def serve_batches(port: int, settings: Settings) -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        async for batch in ws.batches():
            await ws.send_many(batch)

    await run_server(handler, port, settings)


async def serve_broadcast(port: int, settings: Settings) -> None:
    connections: set[zcws.WebSocket] = set()

    async def handler(ws: zcws.WebSocket) -> None:
        connections.add(ws)
        try:
            async for message in ws:
                zcws.broadcast(connections, message)  # type: ignore[attr-defined]
        finally:
            connections.discard(ws)

    await run_server(handler, port, settings)


async def echo(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    async with zcws.connect(uri, **options(settings)) as ws:
        for count in meter:
            for _ in range(count // depth):
                for _ in range(depth):
                    await ws.send(message)
                for _ in range(depth):
                    answer = await ws.recv()
        meter.check(answer)


async def echo_frames(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    buffer = zcws.PayloadBuffer()
    async with zcws.connect(uri, **options(settings)) as ws:
        for count in meter:
            for _ in range(count // depth):
                for _ in range(depth):
                    await ws.send(message)
                for _ in range(depth):
                    payload = (await ws.read_frame(buffer)).payload
        meter.check(payload)


async def echo_batches(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    messages = [message] * depth
    async with zcws.connect(uri, **options(settings)) as ws:
        batches, waiting = ws.batches(), 0
        for count in meter:
            for _ in range(count // depth):
                await ws.send_many(messages)
                waiting += depth
                while waiting:
                    batch = await anext(batches)
                    waiting -= len(batch)
                    for payload in batch.payloads:
                        answer = payload
        meter.check(answer)


class EchoClient:
    """Sends when the answers to all that it sent before are there."""

    def __init__(self, message: str | bytes, depth: int, meter: Meter) -> None:
        self.message, self.depth, self.meter = message, depth, meter
        self.left = self.in_flight = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def turn(self, ws: zcws.WebSocket, answer: str | memoryview | None = None) -> None:
        if self.left <= 0:
            if answer is not None:
                self.meter.check(answer)
            self.left = self.meter.next()
            if not self.left:
                self.done.set_result(None)
                return
        self.left -= self.depth
        self.in_flight = self.depth
        for _ in range(self.depth):
            ws.send_nowait(self.message)

    def on_frame(self, ws: zcws.WebSocket, frame: zcws.Frame) -> None:
        payload = frame.payload  # the view is made, as an application would
        self.in_flight -= 1
        if not self.in_flight:
            self.turn(ws, payload)

    def on_message(self, ws: zcws.WebSocket, message: Any) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.turn(ws, message)


async def echo_callbacks(
    uri: str, message: str | bytes, depth: int, meter: Meter, settings: Settings
) -> None:
    client = EchoClient(message, depth, meter)
    async with zcws.connect(uri, on_frame=client.on_frame, **options(settings)) as ws:
        client.turn(ws)
        await client.done


async def echo_on_message(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    client = EchoClient(message, depth, meter)
    async with zcws.connect(uri, on_message=client.on_message, **options(settings)) as ws:
        client.turn(ws)
        await client.done


async def echo_binary(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    """What picows' core does: bytes, which nobody encodes, decodes or checks."""
    await echo_callbacks(uri, message.encode(), depth, meter, settings)


async def firehose(uri: str, meter: Meter, settings: Settings) -> None:
    async with zcws.connect(uri, **options(settings)) as ws:
        meter.check(await ws.recv())
        for count in meter:
            for _ in range(count):
                await ws.recv()


async def firehose_frames(uri: str, meter: Meter, settings: Settings) -> None:
    buffer = zcws.PayloadBuffer()
    async with zcws.connect(uri, **options(settings)) as ws:
        meter.check((await ws.read_frame(buffer)).payload)
        for count in meter:
            for _ in range(count):
                # There until the next one is, as in an application.
                payload = (await ws.read_frame(buffer)).payload
        meter.check(payload)


async def drink(uri: str, meter: Meter, settings: Settings, look: Callable[[zcws.Batch], object]) -> None:
    """Batch after batch, each looked at in one way, until the meter has enough. What is seen last is there until the
    next batch is, as a variable of an application would be."""
    async with zcws.connect(uri, **options(settings)) as ws:
        left = 0
        async for batch in ws.batches():
            last = look(batch)
            left -= len(batch)
            while left <= 0:
                count = meter.next()
                if not count:
                    meter.check(last)
                    return
                left += count


def look_at_payloads(batch: zcws.Batch) -> memoryview:
    for payload in batch.payloads:  # noqa: B007  that is all that is measured
        pass
    return payload


def look_at_messages(batch: zcws.Batch) -> str | bytes:
    for message in batch.messages:  # noqa: B007
        pass
    return message


def look_at_frames(batch: zcws.Batch) -> memoryview:
    for frame in batch:
        payload = frame.payload
    return payload


class Drinker:
    """What picows' listener does: it counts, and tells when the meter has enough."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.left, self.checked = meter, 1, False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_frame(self, ws: zcws.WebSocket, frame: zcws.Frame) -> None:
        payload = frame.payload
        self.left -= 1
        if not self.left:
            self.turn(ws, payload)

    def on_message(self, ws: zcws.WebSocket, message: str | bytes) -> None:
        self.left -= 1
        if not self.left:
            self.turn(ws, message)

    def turn(self, ws: zcws.WebSocket, last: Any) -> None:
        if not self.checked:
            self.checked = True
            self.meter.check(last)
        self.left = self.meter.next()
        if not self.left:
            self.done.set_result(None)
            ws.abort()


async def firehose_callbacks(uri: str, meter: Meter, settings: Settings) -> None:
    drinker = Drinker(meter)
    async with zcws.connect(uri, on_frame=drinker.on_frame, **options(settings)):
        await drinker.done


async def firehose_on_message(uri: str, meter: Meter, settings: Settings) -> None:
    drinker = Drinker(meter)
    async with zcws.connect(uri, on_message=drinker.on_message, **options(settings)):
        await drinker.done


async def firehose_payloads(uri: str, meter: Meter, settings: Settings) -> None:
    await drink(uri, meter, settings, look_at_payloads)


async def firehose_messages(uri: str, meter: Meter, settings: Settings) -> None:
    await drink(uri, meter, settings, look_at_messages)


async def firehose_batches(uri: str, meter: Meter, settings: Settings) -> None:
    await drink(uri, meter, settings, look_at_frames)


def echo_sync(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    with zcws.sync.connect(uri, **options(settings)) as ws:
        for count in meter:
            for _ in range(count // depth):
                for _ in range(depth):
                    ws.send(message)
                for _ in range(depth):
                    answer = ws.recv()
        meter.check(answer)


def firehose_sync(uri: str, meter: Meter, settings: Settings) -> None:
    with zcws.sync.connect(uri, **options(settings)) as ws:
        meter.check(ws.recv())
        for count in meter:
            for _ in range(count):
                ws.recv()


SERVE = {
    "zcws": serve,
    "zcws frames": serve_frames,
    "zcws callbacks": serve_callbacks,
    "zcws on_message": serve_on_message,
    "zcws batches": serve_batches,
}
ECHO = {
    "zcws": echo,
    "zcws frames": echo_frames,
    "zcws callbacks": echo_callbacks,
    "zcws callbacks, binary": echo_binary,
    "zcws on_message": echo_on_message,
    "zcws batches": echo_batches,
    "zcws.sync": echo_sync,
}
FIREHOSE = {
    "zcws": firehose,
    "zcws on_message": firehose_on_message,
    "zcws callbacks": firehose_callbacks,
    "zcws frames": firehose_frames,
    "zcws batches": firehose_batches,
    "zcws payloads": firehose_payloads,
    "zcws messages": firehose_messages,
    "zcws.sync": firehose_sync,
}
BROADCAST = {"zcws": serve_broadcast}

if importlib.util.find_spec("uvicorn"):

    async def serve_uvicorn(port: int, settings: Settings) -> None:
        from benchmarks.peers import uvicorn  # not for the other rows: their memory is measured too

        await uvicorn.serve("zcws.asgi.uvicorn:WebSocketProtocol", port, settings)

    ASGI = {"uvicorn with zcws": serve_uvicorn}
