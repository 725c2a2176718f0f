"""A chat server whose room is in Redis, as a process of its own: `python redis_room.py url`. It prints its port."""

from __future__ import annotations

import asyncio
import sys

import zcws


async def main(url: str) -> None:
    async with zcws.RedisRooms(url) as rooms:

        async def handler(ws: zcws.WebSocket) -> None:
            room = rooms["lobby"]
            with room.join(ws):
                await room.ready()
                await ws.send("joined")
                async for message in ws:
                    await room.broadcast(message)

        async with zcws.serve(handler, "127.0.0.1", 0) as server:
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
