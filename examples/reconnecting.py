"""A client that comes back and goes on where it was, and a server that hangs up too early."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys

import zcws

LAST = 5


async def count(ws: zcws.WebSocket) -> None:
    number = int(await ws.recv())
    await ws.send(str(number))
    await ws.send(str(number + 1))
    await ws.flush()
    if number + 1 < LAST:
        ws.abort()  # no Close, nothing: as when a cable is pulled


async def follow(uri: str) -> None:
    number = 0
    delays = functools.partial(zcws.backoff, initial_delay=0.1, min_delay=0.1, max_delay=30)  # seconds
    async for ws in zcws.connect(uri, reconnect_delays=delays):
        try:
            print("connected, asking for", number)
            await ws.send(str(number))
            async for message in ws:
                print("got", message)
                number = int(message) + 1
        except zcws.ConnectionClosedError:
            continue  # the log says why, and when it connects again
        break  # the server has said goodbye


async def main() -> None:
    async with zcws.serve(count, "127.0.0.1", 0) as server:
        await follow(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    asyncio.run(main())
