"""A chat with rooms: python chat.py [PORT], then for each person: zcws connect ws://127.0.0.1:8765/lobby/ann"""

from __future__ import annotations

import asyncio
import collections
import sys

import zcws

rooms: collections.defaultdict[str, zcws.Room] = collections.defaultdict(zcws.Room)
router = zcws.Router()


@router.route("/{name}/{person}")
async def chat(ws: zcws.WebSocket, name: str, person: str) -> None:
    room = rooms[name]
    with room.join(ws):  # until the handler returns, or the connection is gone
        room.broadcast(f"{person} is here, which makes {len(room)}")
        async for message in ws:
            if isinstance(message, str):
                room.broadcast(f"{person}: {message}", without=ws)  # whoever is slow misses it: slow="skip"
    room.broadcast(f"{person} has left")
    if not len(room):
        rooms.pop(name, None)


async def main(port: int) -> None:
    async with zcws.serve(router, "127.0.0.1", port, max_size=4096) as server:
        print(f"listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ROOM/NAME", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765))
    except KeyboardInterrupt:
        pass
