"""Uploads a file into a mapped file; neither side has the whole of it in memory: python upload.py FROM TO"""

from __future__ import annotations

import asyncio
import functools
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import zcws

CHUNK = 64 * 1024  # bytes of a fragment
LARGEST = 1 << 30  # bytes of a file


async def store(to: str, ws: zcws.WebSocket) -> None:
    size = int(await ws.recv())
    if not 0 < size <= LARGEST:
        raise ValueError("nobody uploads that here")
    with open(to, "w+b") as file:
        file.truncate(size)
        with mmap.mmap(file.fileno(), size) as memory:
            buffer = zcws.PayloadBuffer(memory)  # a message that does not fit is refused: 1009
            frame = await ws.read_frame(buffer, zcws.PayloadOrigin.CONSISTENT)
            await ws.send(f"{len(frame)} bytes")
            buffer.release()


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


async def main(source: Path, to: str) -> None:
    handler = functools.partial(store, to)
    async with zcws.serve(handler, "127.0.0.1", 0, max_size=LARGEST) as server:
        async with zcws.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as ws:
            await ws.send(str(os.path.getsize(source)))
            await ws.send(chunks(source))
            print("stored", await ws.recv())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
