"""Two tasks on one connection and nothing between them: no queue, no lock, no third task for the replies."""

from __future__ import annotations

import asyncio

import zcws


async def handler(ws: zcws.WebSocket) -> None:
    reader, writer, _ = ws.split()

    async def tick() -> None:
        number = 0
        while not writer.drain_bridge():  # the reader's Pong, or its Close: then this is True
            await writer.send(f"tick {number}")
            number += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.ensure_future(tick())
    async for message in reader:
        print("the reader has", message)
    await ticking


async def main() -> None:
    async with zcws.serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
            await ws.send("a message")
            for _ in range(3):
                print("the writer says", await ws.recv())
            print("a Ping was answered:", await ws.ping() > 0)
    print("closed with", ws.close_code)


if __name__ == "__main__":
    asyncio.run(main())
