"""A client's large payloads on plain sockets: masked and sent part by part, past the writer's output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator

import pytest
import wire
from net import placed, run
from raw import Peer

import zcws
from zcws.aio.websocket import WebSocket
from zcws.scratch import SCRATCH_CAPACITY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the loop's own transports send")

#: More than any socket takes at once.
HUGE = 8_000_000


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[tuple[WebSocket, Peer]]:
    """A client's connection in the engine, and the server."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ws = placed(ours, is_client=True)
    try:
        yield ws, Peer(theirs, masks=False)
    finally:
        ws.abort()
        await ws.wait_closed()
        theirs.close()


async def read(peer: Peer, size: int) -> list[wire.Seen]:
    """The frames in the next `size` bytes."""
    data, loop = bytearray(), asyncio.get_running_loop()
    while len(data) < size:
        data += await asyncio.wait_for(loop.sock_recv(peer.sock, size - len(data)), 10)
    return wire.parse(bytes(data))


@pytest.mark.parametrize("size", [SCRATCH_CAPACITY - 13, 2 * SCRATCH_CAPACITY - 14, 100_000])
def test_what_the_socket_takes_needs_no_memory(size: int) -> None:
    async def main() -> None:
        async with opened() as (ws, peer):
            payload = os.urandom(size)
            ws.send_nowait(payload)
            assert not ws.writer.out and not ws._own.backlog  # type: ignore[union-attr]
            assert await read(peer, ws.writer.written) == [wire.Seen(wire.BINARY, payload, masked=True)]
            assert ws.stats.messages_sent == 1

    run(main)


@pytest.mark.parametrize("size", [100_000, HUGE])
@pytest.mark.parametrize("kind", ["text", "bytes", "memory"])
@pytest.mark.parametrize("flushed", [True, False], ids=["flushed before", "not"])
def test_in_order_and_whole(size: int, kind: str, flushed: bool) -> None:
    """Between small ones, whatever the socket has room for; the memory is its owner's again at once."""

    async def main() -> None:
        async with opened() as (ws, peer):
            payload = b"text" * (size // 4) if kind == "text" else os.urandom(size)
            memory = bytearray(payload)
            message = payload.decode() if kind == "text" else payload if kind == "bytes" else memory
            sent = [b"before", payload, b"between", payload, b"after"]
            for each in (b"before", message, b"between", message, b"after"):
                if flushed:
                    ws._flush()
                ws.send_nowait(each)
            memory[:] = bytes(size)
            opcode = wire.TEXT if kind == "text" else wire.BINARY
            opcodes = [wire.BINARY, opcode] * 2 + [wire.BINARY]
            frames = await read(peer, ws.writer.written)
            assert frames == [
                wire.Seen(op, data, masked=True) for op, data in zip(opcodes, sent, strict=True)
            ]

    run(main)


@pytest.mark.parametrize("size", [20_000, 100_000, 200_000])
def test_a_received_frame_is_sent_on(size: int) -> None:
    """From the ring, which is received into again when this returns."""

    async def main() -> None:
        async with opened() as (ws, peer):
            loop, before = asyncio.get_running_loop(), 0
            for number in range(3):
                payload = bytes([number]) * size
                sending = loop.create_task(loop.sock_sendall(peer.sock, peer.frame(wire.BINARY, payload)))
                await ws.write_frame(await ws.read_frame())
                await sending
                before, size_sent = ws.writer.written, ws.writer.written - before
                assert await read(peer, size_sent) == [wire.Seen(wire.BINARY, payload, masked=True)]

    run(main)


def test_fragments() -> None:
    async def main() -> None:
        async with opened() as (ws, peer):
            parts = [os.urandom(HUGE), os.urandom(50_000), os.urandom(50_000)]

            async def send() -> None:
                await ws.send(iter(parts))

            sending = asyncio.create_task(send())
            first, *others = await read(peer, len(parts[0]) + 14)
            assert not others and first == wire.Seen(wire.BINARY, parts[0], masked=True, fin=False)
            await sending
            await ws.send("and then another message")
            await ws.flush()
            frames = await read(peer, ws.writer.written - len(parts[0]) - 14)
            assert [(frame.opcode, frame.fin, len(frame.payload)) for frame in frames] == [
                (wire.CONTINUATION, False, 50_000),
                (wire.CONTINUATION, True, 50_000),
                (wire.TEXT, True, 24),
            ]

    run(main)


def test_a_peer_that_does_not_read_makes_it_wait() -> None:
    async def main() -> None:
        async with opened() as (ws, peer):
            ws.send_nowait(bytes(HUGE))
            assert not ws.is_writable
            waiting = asyncio.create_task(ws.send("next"))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            assert len((await read(peer, HUGE + 14))[0].payload) == HUGE
            await waiting

    run(main)


def test_a_peer_that_is_gone() -> None:
    async def main() -> None:
        async with opened() as (ws, peer):
            peer.close()
            ws.send_nowait(bytes(100_000))
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                ws.send_nowait(bytes(100_000))
            assert isinstance(caught.value.__cause__, BrokenPipeError)
            await ws.wait_closed()

    run(main)


def test_a_peer_that_is_gone_before_the_last_fragment() -> None:
    """The message has been sent as far as the writer knows, and still nothing may follow it."""

    async def main() -> None:
        async with opened() as (ws, peer):
            ws.connection.send_fragment(b"the first", text=False, last=False)
            ws._flush()
            peer.close()
            ws.connection.send_fragment(bytes(100_000), text=False, last=True)
            with pytest.raises(zcws.ConnectionClosedError):
                await ws.send("x")
            await ws.wait_closed()

    run(main)


def test_no_memory_for_what_the_socket_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a frame is out: nothing may follow it."""

    def refuse(*_: object) -> None:
        raise MemoryError

    async def main() -> None:
        async with opened() as (ws, peer):
            monkeypatch.setattr("zcws.scratch.Scratch.rest", refuse)
            with pytest.raises(MemoryError):
                ws.send_nowait(bytes(HUGE))
            await ws.wait_closed()
            with pytest.raises(zcws.ConnectionClosedError):
                await ws.send("x")
            peer.close()

    run(main)


def test_where_something_waits_it_goes_behind() -> None:
    async def main() -> None:
        async with opened() as (ws, peer):
            ws.send_nowait(bytes(HUGE))
            assert ws._own.backlog  # type: ignore[union-attr]
            ws.send_nowait(b"x" * 100_000)
            ws.send_nowait(b"small")
            frames = await read(peer, ws.writer.written)
            assert [len(frame.payload) for frame in frames] == [HUGE, 100_000, 5]

    run(main)
