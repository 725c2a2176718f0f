from __future__ import annotations

import asyncio

import wire
from net import Place, echo, soon, swallow, until

import zcws


async def only(server: zcws.Server) -> zcws.WebSocket:
    await until(lambda: server.connections)
    (ws,) = server.connections
    return ws


def test_bytes_on_both_sides(anyplace: Place) -> None:
    async def main() -> None:
        async with anyplace.serve(echo) as server, anyplace.connect(server) as ws:
            other = await only(server)
            for size in (0, 5, 200, 70_000):
                await ws.send(bytes(size))
                assert await soon(ws.recv()) == bytes(size)
            sent = sum(
                len(wire.frame(wire.BINARY, bytes(size), key=wire.KEY)) for size in (0, 5, 200, 70_000)
            )
            received = sum(len(wire.frame(wire.BINARY, bytes(size))) for size in (0, 5, 200, 70_000))
            assert (ws.stats.bytes_sent, ws.stats.bytes_received) == (sent, received)
            assert (other.stats.bytes_received, other.stats.bytes_sent) == (sent, received)
            assert ws.stats.latency == 0
            await ws.ping()
            assert ws.stats.latency == ws.latency > 0
            assert (ws.stats.closed_by, ws.stats.close_code, ws.stats.state) == (None, None, zcws.State.OPEN)

    anyplace.run(main())


def test_what_is_broadcast_is_counted(place: Place) -> None:
    async def main() -> None:
        async with place.serve(swallow) as server, place.connect(server) as ws:
            other = await only(server)
            for _ in range(2):
                zcws.broadcast([other], "abc")
            await soon(ws.recv())
            await soon(ws.recv())
            assert other.stats.bytes_sent == ws.stats.bytes_received == 10
            assert (other.stats.messages_sent, other.stats.frames_sent) == (2, 2)
            assert (ws.stats.messages_received, ws.stats.frames_received) == (2, 2)

    place.run(main())


def test_frames_and_messages_on_both_sides(anyplace: Place) -> None:
    """Every way in and out: the engine's short cut, single frames, fragments, control frames, pieces, landing."""

    async def main() -> None:
        async with anyplace.serve(echo) as server, anyplace.connect(server) as ws:
            other = await only(server)
            for message in ("a", b"b" * 70_000, b"c" * 600_000):
                await ws.send(message)
                await soon(ws.recv())
            await ws.send(["one", "two", "three"])
            await soon(ws.recv())
            await ws.ping()
            await ws.write_frame(zcws.Frame(zcws.OpCode.TEXT, b"whole"))
            assert await soon(ws.recv()) == "whole"
            assert (ws.stats.messages_sent, ws.stats.frames_sent) == (5, 8)
            assert (other.stats.messages_received, other.stats.frames_received) == (5, 8)
            assert (other.stats.messages_sent, other.stats.frames_sent) == (5, 6)
            assert (ws.stats.messages_received, ws.stats.frames_received) == (5, 6)
            await ws.close()
            assert (ws.stats.messages_sent, ws.stats.frames_sent, ws.stats.frames_received) == (5, 9, 7)
            await until(lambda: other.stats.closed_by is not None)
            assert (other.stats.frames_received, other.stats.frames_sent) == (9, 7)

    anyplace.run(main())


def test_what_compression_saves(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo, compression="deflate") as server:
            async with place.connect(server, compression="deflate") as ws:
                other = await only(server)
                assert ws.stats.ratio_sent is ws.stats.ratio_received is None
                await ws.send("word " * 1000)
                await soon(ws.recv())
                await ws.send(b"not compressed", compress=False)
                await soon(ws.recv())
                plain, wire = ws.stats.deflated
                # Of the frame that carried it: a head of two bytes and a key; what was not compressed is not counted.
                assert (plain, wire) == (5000, ws.stats.bytes_sent - 6 - len(b"not compressed") - 6)
                assert other.stats.inflated == (wire, plain)
                assert ws.stats.ratio_sent == other.stats.ratio_received == 5000 / wire
                zcws.broadcast([other], "word " * 1000)
                await soon(ws.recv())
                assert other.stats.deflated[0] == ws.stats.inflated[1] == 10_000
                assert other.stats.deflated[1] == ws.stats.inflated[0]

    place.run(main())


def test_queues(place: Place) -> None:
    async def main() -> None:
        released = asyncio.Event()

        async def handler(ws: zcws.WebSocket) -> None:
            await released.wait()
            async for _ in ws:
                pass

        async with place.serve(handler) as server, place.raw_client(server) as peer:
            ws = await only(server)
            for number in range(1, 4):
                await peer.send(wire.TEXT, b"a")
                await until(lambda number=number: ws.stats.frames_waiting == number)
            await peer.send_bytes(peer.frame(wire.TEXT, b"b") * 3)
            await until(lambda: ws.stats.frames_waiting == 6)
            released.set()
            await until(lambda: ws.stats.frames_waiting == 0)
            while not ws.stats.is_slow:
                zcws.broadcast([ws], bytes(100_000))
                await asyncio.sleep(0)
            assert ws.stats.bytes_waiting > 64 * 1024
            ws.abort()
            await until(lambda: ws.stats.closed_by is not None)

    place.run(main())


def test_who_closed(place: Place) -> None:
    async def main() -> None:
        async with place.serve(swallow) as server:
            async with place.connect(server) as ws:
                other = await only(server)
                await ws.close(4000, "enough")
            assert (ws.stats.closed_by, other.stats.closed_by) == ("us", "peer")
            assert (other.stats.close_code, other.stats.close_reason) == (4000, "enough")
            async with place.raw_client(server) as peer:
                other = await only(server)
                await peer.send(wire.TEXT, b"\xff")  # not UTF-8
                await until(lambda: other.stats.closed_by is not None)
                assert (other.stats.closed_by, other.stats.close_code) == ("us", 1007)
            async with place.raw_client(server) as peer:
                await until(lambda: other not in server.connections)
                other = await only(server)
                peer.reset()
                await until(lambda: other.stats.closed_by is not None)
                assert (other.stats.closed_by, other.stats.close_code) == ("network", 1006)

    place.run(main())
