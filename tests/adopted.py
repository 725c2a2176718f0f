"""A socket of the engine, a protocol that notes what happens to it, and a blocking socket at the other end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from zcws.aio.transport import EngineTransport, adopt


class Recorder(asyncio.BufferedProtocol):
    """Keeps what happens to it."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(65536))
        self.received = bytearray()
        self.events: list[str] = []
        self.keeps_open = False
        self.changed = asyncio.Event()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]
        self.changed.set()

    def eof_received(self) -> bool:
        self.note("eof")
        return self.keeps_open

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("lost" if exc is None else f"lost: {type(exc).__name__}")

    def note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


async def adopted() -> tuple[EngineTransport, Recorder, socket.socket]:
    """A transport of the engine, its protocol, and a blocking socket at the other end."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    recorder = Recorder()
    own = adopt(loop, transport, recorder)
    assert own is not None
    return own, recorder, theirs


async def end_of(transport: EngineTransport, recorder: Recorder, peer: socket.socket) -> None:
    """They are not needed any more."""
    transport.abort()
    await recorder.until(lambda: "lost" in recorder.events)
    peer.close()
