"""Two tasks on one connection and a queue between them: what is read is worked on, and answered when it is ready."""

from __future__ import annotations

import asyncio
import contextlib

import zcws


async def handler(ws: zcws.WebSocket) -> None:
    reader, writer, bridge = ws.split()
    # A slow writer slows the reader down.
    waiting: asyncio.Queue[str | bytes | zcws.Reply | None] = asyncio.Queue(maxsize=100)

    async def write() -> None:
        while (item := await waiting.get()) is not None:
            with contextlib.suppress(zcws.ConnectionClosed):  # the reader must not wait for room for ever
                if isinstance(item, zcws.Reply):
                    await writer.send_reply(item)
                else:
                    await writer.send(item.upper())
        await writer.close()

    async def answer() -> None:  # what the reader owes takes its place in the same queue
        while (reply := await bridge.listen()) is not None:
            await waiting.put(reply)

    answering, writing = asyncio.ensure_future(answer()), asyncio.ensure_future(write())
    try:
        async for message in reader:
            await waiting.put(message)
    finally:
        await answering
        await waiting.put(None)
        await writing


async def main() -> None:
    async with zcws.serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
            await ws.send(["a message", " in pieces"])
            print("the writer says", await ws.recv())
            print("a Ping was answered:", await ws.ping() > 0)
    print("closed with", ws.close_code)


if __name__ == "__main__":
    asyncio.run(main())
