"""Talks to an echo server, by message and by frame: python client.py [ADDRESS]."""

from __future__ import annotations

import asyncio
import sys

import zcws


async def main(address: str) -> None:
    async with zcws.connect(address) as ws:
        await ws.send("hello")
        print("a message:", await ws.recv())

        await ws.send(bytes(range(256)))
        frame = await ws.read_frame()  # good until the next read
        view = frame.payload  # no copy of more than 16 KiB; good for as long as you hold it
        print("a frame:", frame.opcode.name, len(view), "bytes, the last one is", view[-1])

        latency = await ws.ping()
        print("a round trip took", f"{latency * 1000:.2f} ms")
    print("closed with", ws.close_code)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/"))
