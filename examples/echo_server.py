"""Sends every message back: python echo_server.py [PORT], then client.py from another terminal."""

from __future__ import annotations

import asyncio
import sys

import zcws


async def echo(ws: zcws.WebSocket) -> None:
    async for message in ws:  # str or bytes, yours to keep; ends when the connection ends well
        await ws.send(message)


async def main(port: int) -> None:
    async with zcws.serve(echo, "127.0.0.1", port) as server:
        print(f"listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765))
    except KeyboardInterrupt:
        pass
