"""Large payloads on plain sockets: received straight into their buffer, and sent from where they lie.

A client's are masked and sent part by part, past the writer's output.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import wire
from net import placed, run, until
from raw import Peer

import zcws
from zcws.aio.websocket import WebSocket
from zcws.scratch import SCRATCH_CAPACITY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the loop's own transports send")

#: More than any socket takes at once.
HUGE = 8_000_000


@contextlib.asynccontextmanager
async def opened(*, is_client: bool = True, on_frame: Any = None) -> AsyncIterator[tuple[WebSocket, Peer]]:
    """A connection in the engine, and the other end of it."""
    ours, theirs = socket.socketpair()
    ws, peer = placed(ours, is_client=is_client, on_frame=on_frame), Peer(theirs, masks=not is_client)
    theirs.setblocking(False)
    try:
        yield ws, peer
    finally:
        ws.abort()
        await ws.wait_closed()
        theirs.close()


def memory_counter() -> Any:
    """The module."""
    return pytest.importorskip("tracemalloc", reason="PyPy does not count its memory", exc_type=ImportError)


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
                await ws.send(parts)

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


@pytest.mark.parametrize(
    ("is_client", "what", "kind"),
    [(True, "zcws.scratch.Scratch.unsent", bytes), (False, "zcws.aio.sending.bytes", bytearray)],
    ids=["masked", "lent"],
)
def test_no_memory_for_what_the_socket_does_not_take(
    is_client: bool, what: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a frame is out: nothing may follow it. Of a lent one the next message was sent inside of it."""

    def refuse(*_: object) -> None:
        raise MemoryError

    async def main() -> None:
        async with opened(is_client=is_client) as (ws, peer):
            monkeypatch.setattr(what, refuse, raising=False)
            with pytest.raises(MemoryError):
                ws.send_nowait(kind(HUGE))
            await ws.wait_closed()
            with pytest.raises(zcws.ConnectionClosedError):
                await ws.send("x")
            peer.close()

    run(main)


def test_who_masks_in_the_memory_of_all_says_so() -> None:
    """A finalizer that sends this in the middle of another one's message would leave its own bytes there."""

    async def main() -> None:
        async with opened() as (ws, peer):
            before = ws.writer.scratch.uses
            ws.send_nowait(bytes(100_000))
            assert ws.writer.scratch.uses > before
            assert [len(frame.payload) for frame in await read(peer, ws.writer.written)] == [100_000]

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


# ---- received straight into their buffer ----


async def write(peer: Peer, *frames: bytes) -> None:
    """Sends what the other end takes while it reads."""
    await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(peer.sock, b"".join(frames)), 10)


def read_rest_of(ws: WebSocket) -> bytes:
    """The bytes of the message that is arriving."""
    buffer = ws._reader.landing_in
    assert buffer is not None
    return bytes(buffer.occupant().peek(0, len(buffer)))


@pytest.mark.parametrize("is_client", [True, False], ids=["client", "server"])
@pytest.mark.parametrize("kind", ["recv", "read_frame", "on_frame"])
def test_large_messages_and_small_ones_arrive_as_they_were_sent(is_client: bool, kind: str) -> None:
    sent = [
        os.urandom(size) for size in (300_000, 5, 2_000_000, 300_000, 70_000, 0, HUGE, 16_384, 262_145, 1)
    ]

    async def main() -> None:
        got: list[bytes] = []

        def look(_: WebSocket, frame: zcws.Frame) -> None:
            got.append(bytes(frame.payload))

        async with opened(is_client=is_client, on_frame=look if kind == "on_frame" else None) as (ws, peer):
            sending = asyncio.create_task(write(peer, *(peer.frame(wire.BINARY, each) for each in sent)))
            while len(got) < len(sent):
                if kind == "recv":
                    got.append(await ws.recv())  # type: ignore[arg-type]
                elif kind == "read_frame":
                    got.append((await ws.read_frame()).to_bytes())
                else:
                    await asyncio.sleep(0.001)
            await sending
            assert got == sent
            assert ws.stats.messages_received == len(sent)
            assert ws.stats.bytes_received == sum(len(peer.frame(wire.BINARY, each)) for each in sent)

    run(main)


def test_a_message_in_large_fragments() -> None:
    async def main() -> None:
        async with opened() as (ws, peer):
            parts = [os.urandom(400_000) for _ in range(3)]
            frames = [
                peer.frame(wire.BINARY, parts[0], fin=False),
                peer.frame(wire.PING, b"between"),
                peer.frame(wire.CONTINUATION, parts[1], fin=False),
                peer.frame(wire.CONTINUATION, parts[2]),
            ]
            sending = asyncio.create_task(write(peer, *frames))
            assert await ws.recv() == b"".join(parts)
            await sending
            assert await read(peer, 13) == [wire.Seen(wire.PONG, b"between", masked=True)]

    run(main)


def test_a_fault_in_the_middle_of_a_large_text() -> None:
    """RFC 6455 8.1: it is found when it comes, and not at the end of the message."""

    async def main() -> None:
        async with opened() as (ws, peer):
            reading = asyncio.create_task(ws.recv())
            await write(peer, wire.head(wire.TEXT, HUGE), b"x" * 1_000_000)
            await asyncio.sleep(0.01)
            assert read_rest_of(ws) == b"x" * 1_000_000
            await write(peer, b"\xff")
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await reading
            assert caught.value.code == 1007

    run(main)


@pytest.mark.parametrize("at", [20_000, 500_000])
@pytest.mark.parametrize("way", ["the end", "reset"])
def test_a_peer_that_leaves_in_the_middle(at: int, way: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            theirs = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        ws, peer = placed(ours, is_client=True), Peer(theirs, masks=False)
        theirs.setblocking(False)
        reading = asyncio.create_task(ws.recv())
        await loop.sock_sendall(theirs, wire.head(wire.BINARY, HUGE) + bytes(at))
        await until(lambda: ws.stats.bytes_received == at + 10)
        peer.reset() if way == "reset" else peer.close()
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            await reading
        assert caught.value.code == 1006
        assert isinstance(caught.value.__cause__, ConnectionResetError) is (way == "reset")
        await ws.wait_closed()

    run(main)


def test_the_reader_is_cancelled_in_the_middle_and_another_goes_on() -> None:
    async def main() -> None:
        async with opened() as (ws, peer):
            message = os.urandom(1_000_000)
            stream = peer.frame(wire.BINARY, message)
            begun = asyncio.create_task(write(peer, stream[:600_000]))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ws.recv(), 0.02)

            async def go_on() -> None:
                await begun  # which may be later
                await write(peer, stream[600_000:])

            sending = asyncio.create_task(go_on())
            assert await ws.recv() == message
            await sending

    run(main)


# ---- sent on from where they lie ----


@pytest.mark.parametrize("size", [300_000, HUGE], ids=["the socket takes it", "it does not"])
def test_a_server_sends_on_what_it_has_received(size: int) -> None:
    """The next message comes while the last one has not gone: neither changes."""
    sent = [bytes([number]) * size for number in range(4)]

    async def main() -> None:
        def echo(ws: WebSocket, frame: zcws.Frame) -> None:
            ws.write_frame_nowait(frame)

        async with opened(is_client=False, on_frame=echo) as (_, peer):
            sending = asyncio.create_task(write(peer, *(peer.frame(wire.BINARY, each) for each in sent)))
            frames = await read(peer, 4 * (size + 10))
            assert [frame.payload for frame in frames] == sent
            await sending

    run(main)


def test_what_waits_of_a_message_in_the_callers_memory_is_copied() -> None:
    async def main() -> None:
        async with opened(is_client=False) as (ws, peer):
            memory = bytearray(HUGE)
            buffer = zcws.PayloadBuffer(memory)
            sending = asyncio.create_task(write(peer, peer.frame(wire.BINARY, b"x" * HUGE)))
            await ws.write_frame(await ws.read_frame(buffer))
            assert ws._own.backlog  # type: ignore[union-attr]
            memory[:] = bytes(HUGE)
            assert await read(peer, HUGE + 10) == [wire.Seen(wire.BINARY, b"x" * HUGE)]
            await sending

    run(main)


@pytest.mark.parametrize("size", [100_000, HUGE], ids=["the socket takes it", "it does not"])
def test_a_fragment_is_sent_from_where_it_lies(size: int) -> None:
    """It is its owner's again when that returns, and what the socket has not taken has been copied."""
    tracemalloc = memory_counter()

    async def main() -> None:
        async with opened(is_client=False) as (ws, peer):
            memory = bytearray(b"x" * size)
            tracemalloc.start()
            async with ws.send_stream(zcws.OpCode.BINARY) as message:
                sending = asyncio.create_task(message.write(memoryview(memory)))
                await asyncio.sleep(0)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                assert (peak > size // 2) is (size == HUGE)
                memory[:] = bytes(size)
                frames = await read(peer, size + 10)
                assert frames == [wire.Seen(wire.BINARY, b"x" * size, fin=False)]
                await sending
            assert await read(peer, 2) == [wire.Seen(wire.CONTINUATION, b"")]

    run(main)


@pytest.mark.parametrize("writes", [True, False])
def test_what_waits_of_a_message_in_our_memory_is_not(writes: bool) -> None:
    tracemalloc = memory_counter()

    async def main() -> None:
        async with opened(is_client=False) as (ws, peer):
            buffer = zcws.PayloadBuffer()
            sending = asyncio.create_task(write(peer, peer.frame(wire.BINARY, b"x" * HUGE)))
            frame = await ws.read_frame(buffer)
            await sending
            tracemalloc.start()
            await ws.write_frame(frame)
            assert tracemalloc.get_traced_memory()[1] < 100_000
            tracemalloc.stop()
            if writes:  # into what has been sent, as far as the program knows
                frame.payload[:] = bytes(HUGE)
            sending = asyncio.create_task(write(peer, peer.frame(wire.BINARY, b"y" * HUGE)))
            await ws.read_frame(buffer)
            await sending
            assert await read(peer, HUGE + 10) == [wire.Seen(wire.BINARY, b"x" * HUGE)]

    run(main)
