"""A chat server whose room is in Redis, as a process of its own: `python redis_room.py url`. It prints its port.

`python redis_room.py url fork` is two, as servers that fork their workers make them: by then the rooms are there.
"""

from __future__ import annotations

import asyncio
import os
import sys

import zcws


async def main(made: zcws.RedisRooms) -> None:
    async with made as rooms:

        async def handler(ws: zcws.WebSocket) -> None:
            room = rooms["lobby"]
            with room.join(ws):
                await room.ready()
                await ws.send("joined")
                async for message in ws:
                    await room.broadcast(message)

        async with zcws.serve(handler, "127.0.0.1", 0) as server:
            # In one write: two may print at once.
            print(f"{server.sockets[0].getsockname()[1]}\n", end="", flush=True)
            await server.serve_forever()


if __name__ == "__main__":
    made = zcws.RedisRooms(sys.argv[1])
    if "fork" in sys.argv:
        os.fork()
    asyncio.run(main(made))
