from __future__ import annotations

import asyncio
import contextlib
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import wire
from net import LONG, Place, RawPeer, echo, narrow, soon, swallow, until

import zcws

ALSO_OVER_HTTP2 = True  # conftest.py

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


async def relay(writer: Any, bridge: Any) -> list[str]:
    """A task that listens and answers until it is over; what it sent."""
    sent = []
    while (reply := await bridge.listen()) is not None:
        sent.append(reply.opcode.name)
        if await writer.send_reply(reply):
            break
    return sent


def handled(place: Place, handler: Any, talk: Any, **options: Any) -> None:
    """A server whose `handler` gets one connection, and a raw client that follows `talk`. Both come to their end, and
    no timeout helps them unless a test says so."""

    async def main() -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def run(ws: zcws.WebSocket) -> None:
            try:
                await handler(ws)
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)
                raise

        settings = {"ping_interval": None, "close_timeout": 10 * LONG, **options}
        async with place.serve(run, **settings) as server, place.raw_client(server) as peer:
            await talk(peer)
            await soon(done)
            await peer.close()
            await until(lambda: not server.connections)

    place.run(main())


def test_three_tasks(anyplace: Place) -> None:
    count = 200

    async def handler(ws: zcws.WebSocket) -> None:
        reader, writer, bridge = ws.split()
        answering = asyncio.ensure_future(relay(writer, bridge))
        got: list[Any] = []

        async def write() -> None:
            for i in range(count):
                await writer.send(b"%d" % i)

        writing = asyncio.ensure_future(write())
        async for message in reader:
            got.append(message)
        await writing
        assert got == [str(i) for i in range(count)]
        assert (await answering)[-1] == "CLOSE"
        assert await bridge.listen() is None
        assert writer.drain_bridge() is True

    async def talk(peer: RawPeer) -> None:
        for i in range(count):
            await peer.send(wire.TEXT, b"%d" % i)
            if i % 20 == 0:
                await peer.send(wire.PING, b"%d" % i)
        frames: list[wire.Seen] = []
        while sum(frame.opcode == wire.BINARY for frame in frames) < count:
            frames.append(await peer.read())
        await peer.send(wire.CLOSE, wire.close_payload(1000))
        frames += await peer.rest()
        assert [frame.payload for frame in frames if frame.opcode == wire.BINARY] == [
            b"%d" % i for i in range(count)
        ]
        assert frames[-1] == wire.Seen(wire.CLOSE, wire.close_payload(1000))

    handled(anyplace, handler, talk)


def test_as_a_client(anyplace: Place) -> None:
    async def main() -> None:
        async with anyplace.serve(echo) as server:
            ws = await anyplace.connect(server)
            reader, writer, bridge = ws.split()
            answering = asyncio.ensure_future(relay(writer, bridge))
            await writer.send("hello")
            assert await reader.recv() == "hello"
            assert await writer.ping() > 0
            await writer.close(1000, "done")
            with pytest.raises(zcws.ConnectionClosedOK) as caught:
                await soon(reader.recv())
            assert caught.value.clean
            assert await soon(answering) in ([], ["CLOSE"])
            await soon(ws.wait_closed())
            assert (ws.close_code, ws.state) == (1000, zcws.State.CLOSED)

    anyplace.run(main())


def test_without_a_task_or_a_queue(anyplace: Place) -> None:
    """A writer that drains the bridge on each write."""

    async def handler(ws: zcws.WebSocket) -> None:
        reader, writer, _ = ws.split()
        assert writer.drain_bridge() is False
        async for message in reader:
            writer.drain_bridge()
            await writer.send(message)
        assert writer.drain_bridge() is True
        with pytest.raises(zcws.ConnectionClosed):
            await writer.send("more")

    async def talk(peer: RawPeer) -> None:
        await peer.send_bytes(
            b"".join(peer.frame(wire.PING, b"%d" % i) for i in range(9)) + peer.frame(wire.TEXT, b"x")
        )
        assert (await peer.read())[:2] == (wire.PONG, b"8")
        assert (await peer.read())[:2] == (wire.TEXT, b"x")
        await peer.send(wire.CLOSE, wire.close_payload(1001))
        assert (await peer.rest())[-1][:2] == (wire.CLOSE, wire.close_payload(1001))

    handled(anyplace, handler, talk)


class TestBridge:
    def test_what_is_no_reply(self, place: Place) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            _, writer, _ = ws.split()
            for wrong, why in (
                (None, "not None; None from the bridge says that nothing is left"),
                (b"p", "not b'p'$"),
            ):
                with pytest.raises(
                    TypeError, match=f"^send_reply sends what bridge.listen.. gives, a Reply, {why}"
                ):
                    await writer.send_reply(wrong)
            await writer.close()

        async def talk(peer: RawPeer) -> None:
            await peer.rest()

        handled(place, handler, talk, close_timeout=0.1)

    def test_the_latest_pong_wins_and_a_close_replaces_it(self, place: Place) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            reader, writer, bridge = ws.split()
            assert await reader.recv() == "first"
            reply = await bridge.listen()
            assert (reply.opcode, reply.payload) == (zcws.OpCode.PONG, b"4")
            assert await writer.send_reply(reply) is False
            with pytest.raises(zcws.ConnectionClosedOK):
                await reader.recv()
            reply = await bridge.listen()
            assert reply.is_last and reply.payload == wire.close_payload(1001)
            assert await writer.send_reply(reply) is True
            assert await bridge.listen() is None

        async def talk(peer: RawPeer) -> None:
            pings = b"".join(peer.frame(wire.PING, b"%d" % i) for i in range(5))
            await peer.send_bytes(pings + peer.frame(wire.TEXT, b"first"))
            assert (await peer.read())[:2] == (wire.PONG, b"4")
            await peer.send_bytes(
                peer.frame(wire.PING, b"lost") + peer.frame(wire.CLOSE, wire.close_payload(1001))
            )
            assert [frame.opcode for frame in await peer.rest()] == [wire.CLOSE]

        handled(place, handler, talk)

    def test_one_task_at_a_time(self, place: Place) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            _, _, bridge = ws.split()
            listening = asyncio.ensure_future(bridge.listen())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await bridge.listen()
            listening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listening

        async def talk(peer: RawPeer) -> None:
            await peer.rest()

        handled(place, handler, talk, close_timeout=0.1)

    @pytest.mark.parametrize("opcode", [wire.PING, wire.CLOSE])
    def test_a_pong_waits_while_the_peer_is_slow_and_a_close_does_not(
        self, place: Place, opcode: int
    ) -> None:
        size = 4 * 1024 * 1024
        may_read = asyncio.Event()

        async def handler(ws: zcws.WebSocket) -> None:
            narrow(ws)
            reader, writer, bridge = ws.split()
            sending = asyncio.ensure_future(writer.send(bytes(size)))
            await until(lambda: ws._drained is not None)
            reading = asyncio.ensure_future(reader.recv())
            reply = await bridge.listen()
            assert reply is not None
            answering = asyncio.ensure_future(writer.send_reply(reply))
            for _ in range(5):
                await asyncio.sleep(0)
            assert answering.done() == (opcode == wire.CLOSE)
            may_read.set()
            await answering
            await asyncio.wait([sending, reading])
            with pytest.raises(zcws.ConnectionClosed):
                reading.result()
            sending.exception()

        async def talk(peer: RawPeer) -> None:
            narrow(peer.writer)
            await peer.send(opcode)
            await soon(may_read.wait())
            assert len((await peer.read()).payload) == size
            assert (await peer.read()).opcode == (wire.PONG if opcode == wire.PING else wire.CLOSE)
            if opcode == wire.PING:
                await peer.send(wire.CLOSE)

        handled(place, handler, talk, close_timeout=0.1 if opcode == wire.PING else 10 * LONG)

    def test_replies_do_not_fill_the_memory(self, place: Place) -> None:
        """The peer pings and does not read: whoever listens waits with the rest of us."""

        async def handler(ws: zcws.WebSocket) -> None:
            reader, writer, bridge = ws.split()
            answering = asyncio.ensure_future(relay(writer, bridge))
            while not ws.connection.hold_replies:
                await writer.send(bytes(100_000))
            for _ in range(20_000):
                assert (await reader.read_frame()).opcode is zcws.OpCode.PING
            assert ws._transport is not None
            assert ws._transport.get_write_buffer_size() < 1_000_000
            assert writer.drain_bridge() is False  # stays where it is
            answering.cancel()
            ws.abort()

        async def talk(peer: RawPeer) -> None:
            for number in range(20_000):
                await peer.send(wire.PING, b"%100d" % number)

        async def main() -> None:
            ended = asyncio.Event()

            async def run(ws: zcws.WebSocket) -> None:
                await handler(ws)
                ended.set()

            async with place.serve(run, ping_interval=None) as server:
                async with place.raw_client(server, limit=1024) as peer:
                    await talk(peer)
                    await soon(ended.wait())

        place.run(main())


class TestEnds:
    def test_the_reader_fails(self, anyplace: Place) -> None:
        """The bridge carries the Close, then ends; a writer hears of it too."""

        async def handler(ws: zcws.WebSocket) -> None:
            reader, writer, bridge = ws.split()
            answering = asyncio.ensure_future(relay(writer, bridge))
            with pytest.raises(zcws.ProtocolError) as caught:
                await reader.recv()
            assert caught.value.code == 1002
            assert await soon(answering) == ["CLOSE"]
            assert await bridge.listen() is None
            with pytest.raises(zcws.ConnectionClosed):
                await writer.send("more")

        async def talk(peer: RawPeer) -> None:
            await peer.send(3)
            assert [frame.payload[:2] for frame in await peer.rest()] == [(1002).to_bytes(2, "big")]

        handled(anyplace, handler, talk)

    @pytest.mark.parametrize("frame", ["fault", "close"])
    def test_a_reply_that_is_on_its_way_for_a_while(self, anyplace: Place, frame: str) -> None:
        """Between `listen` and `send_reply` somebody may wait: the socket is still there."""

        async def handler(ws: zcws.WebSocket) -> None:
            reader, writer, bridge = ws.split()
            with pytest.raises(zcws.ConnectionClosed):
                await reader.recv()
            reply = await bridge.listen()
            await asyncio.sleep(0.05)
            assert await writer.send_reply(reply) is True

        async def talk(peer: RawPeer) -> None:
            await (peer.send(3) if frame == "fault" else peer.send(wire.CLOSE, wire.close_payload(1002)))
            assert [seen.payload[:2] for seen in await peer.rest()] == [(1002).to_bytes(2, "big")]

        handled(anyplace, handler, talk)

    @pytest.mark.parametrize("how", ["nobody listens", "taken and dropped"])
    def test_nobody_sends_the_reply(self, anyplace: Place, how: str) -> None:
        """`close_timeout` bounds it: what is still on the bridge goes out then."""

        async def handler(ws: zcws.WebSocket) -> None:
            reader, _, bridge = ws.split()
            with pytest.raises(zcws.ProtocolError):
                await reader.recv()
            if how != "nobody listens":
                await bridge.listen()
            await ws.wait_closed()

        async def talk(peer: RawPeer) -> None:
            await peer.send(3)
            codes = [frame.payload[:2] for frame in await peer.rest()]
            assert codes == ([(1002).to_bytes(2, "big")] if how == "nobody listens" else [])

        handled(anyplace, handler, talk, close_timeout=0.05)

    def test_nobody_reads(self, anyplace: Place) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            _, writer, bridge = ws.split()
            assert (await soon(relay(writer, bridge)))[-1] == "CLOSE"

        async def talk(peer: RawPeer) -> None:
            await peer.send(wire.TEXT, b"unread")
            await peer.send(wire.CLOSE, wire.close_payload(1000))
            assert (await peer.rest())[-1].payload == wire.close_payload(1000)

        # Then the Close is told of; and as long again is left to answer it.
        handled(anyplace, handler, talk, close_timeout=LONG / 100)

    @pytest.mark.parametrize("listens", [False, True])
    def test_the_writer_closes(self, anyplace: Place, listens: bool) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            reader, writer, bridge = ws.split()
            answering = asyncio.ensure_future(relay(writer, bridge)) if listens else None
            await writer.close(1000, "done")
            with pytest.raises(zcws.ConnectionClosedOK) as caught:
                await soon(reader.recv())
            assert (caught.value.code, caught.value.clean) == (1000, True)
            if answering is not None:
                await soon(answering)
            assert writer.drain_bridge() is True
            assert ws.state is zcws.State.CLOSED
            await writer.close()  # once is enough

        async def talk(peer: RawPeer) -> None:
            assert (await peer.read())[:2] == (wire.CLOSE, wire.close_payload(1000, b"done"))
            await peer.send(wire.TEXT, b"late")
            await peer.send(wire.CLOSE, wire.close_payload(1000))
            assert await peer.rest() == []

        handled(anyplace, handler, talk)

    def test_the_writer_closes_and_nobody_answers(self, anyplace: Place) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            reader, writer, _ = ws.split()
            await writer.close()
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await soon(reader.recv())
            assert caught.value.code == 1006

        async def talk(peer: RawPeer) -> None:
            assert [frame.opcode for frame in await peer.rest()] == [wire.CLOSE]

        handled(anyplace, handler, talk, close_timeout=0.05)

    def test_the_writer_closes_although_the_peer_does_not_read(self, place: Place) -> None:
        async def main() -> None:
            ended = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                reader, writer, _ = ws.split()
                while not ws.connection.hold_replies:
                    await writer.send(bytes(100_000))
                await soon(writer.close())
                with pytest.raises(zcws.ConnectionClosed):
                    await soon(reader.recv())
                ended.set()

            async with place.serve(handler, close_timeout=0.05) as server:
                async with place.raw_client(server, limit=1024):
                    await soon(ended.wait())

        place.run(main())

    @pytest.mark.parametrize("how", ["eof", "reset"])
    def test_the_peer_vanishes(self, anyplace: Place, how: str) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            reader, writer, bridge = ws.split()
            answering = asyncio.ensure_future(relay(writer, bridge))
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await reader.recv()
            assert caught.value.code == 1006
            assert await soon(answering) == []
            await soon(ws.wait_closed())
            with pytest.raises(zcws.ConnectionClosed):
                await writer.send("hello?")

        async def talk(peer: RawPeer) -> None:
            if how == "reset":
                peer.reset()
            else:
                await peer.close()

        handled(anyplace, handler, talk, close_timeout=0.05)

    def test_the_peer_vanishes_and_nobody_reads_what_it_said(self, anyplace: Place) -> None:
        """`listen` ends all the same."""
        has_come = asyncio.Event()

        async def handler(ws: zcws.WebSocket) -> None:
            _, writer, bridge = ws.split()
            await until(lambda: ws.stats.frames_waiting)
            has_come.set()
            await soon(ws.wait_closed())
            assert await soon(relay(writer, bridge)) == []

        async def talk(peer: RawPeer) -> None:
            await peer.send(wire.TEXT, b"unread")
            await has_come.wait()
            peer.reset()

        handled(anyplace, handler, talk, close_timeout=0.05)

    def test_the_peer_of_the_example_with_a_queue_vanishes(self, anyplace: Place) -> None:
        """Its reader puts more into the queue than that holds, behind a writer that cannot send any more."""

        async def talk(peer: RawPeer) -> None:
            await peer.send_bytes(peer.frame(wire.TEXT, b"much") * 3000)
            peer.reset()

        async def handler(ws: zcws.WebSocket) -> None:
            with contextlib.suppress(zcws.ConnectionClosed):
                await runpy.run_path(str(EXAMPLES / "split_queue.py"))["handler"](ws)

        handled(anyplace, handler, talk, close_timeout=0.05)

    def test_keepalive_fails(self, anyplace: Place) -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            reader, writer, bridge = ws.split()
            answering = asyncio.ensure_future(relay(writer, bridge))
            with pytest.raises(zcws.ConnectionClosedError, match="keepalive"):
                await soon(reader.recv())
            assert await soon(answering) == []

        async def talk(peer: RawPeer) -> None:
            frames = await peer.rest()
            assert (frames[0].opcode, frames[-1].payload[:2]) == (wire.PING, (1011).to_bytes(2, "big"))

        handled(anyplace, handler, talk, ping_interval=0.01, ping_timeout=0.02, close_timeout=0.05)

    def test_the_server_shuts_down(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                reader, writer, bridge = ws.split()
                answering = asyncio.ensure_future(relay(writer, bridge))
                async for message in reader:
                    await writer.send(message)
                await soon(answering)

            async with anyplace.serve(handler) as server, anyplace.connect(server) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                server.close()
                with pytest.raises(zcws.ConnectionClosedOK) as caught:
                    await soon(ws.recv())
                assert caught.value.code == 1001
                await soon(server.wait_closed())

        anyplace.run(main())


@pytest.mark.parametrize("victim", ["reader", "writer", "bridge"])
def test_cancelling_one_leaves_the_others_usable(anyplace: Place, victim: str) -> None:
    cancelled_enough: list[bool] = []

    async def handler(ws: zcws.WebSocket) -> None:
        reader, writer, bridge = ws.split()
        waiting: asyncio.Queue[Any] = asyncio.Queue()

        async def write() -> None:
            while True:
                await writer.send(await waiting.get())

        async def read() -> None:
            while True:
                waiting.put_nowait(await reader.recv())

        makers = {"reader": read, "writer": write, "bridge": lambda: relay(writer, bridge)}
        tasks = {name: asyncio.ensure_future(make()) for name, make in makers.items()}
        for _ in range(10):
            await asyncio.sleep(0.002)
            tasks[victim].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[victim]
            tasks[victim] = asyncio.ensure_future(makers[victim]())
        cancelled_enough.append(True)
        with pytest.raises(zcws.ConnectionClosedOK):
            await soon(tasks["reader"])
        await soon(tasks["bridge"])
        tasks["writer"].cancel()

    async def talk(peer: RawPeer) -> None:
        for i in range(50):
            data = peer.frame(wire.TEXT, b"%d" % i) + peer.frame(wire.PING, b"%d" % i)
            for part in (data[:4], data[4:9], data[9:]):
                await peer.send_bytes(part)
                await asyncio.sleep(0)
        texts, pongs = [], []
        while len(texts) < 50 or pongs[-1:] != [b"49"]:
            frame = await peer.read()
            (texts if frame.opcode == wire.TEXT else pongs).append(frame.payload)
        assert texts == [b"%d" % i for i in range(50)]
        await until(lambda: cancelled_enough)
        await peer.send(wire.CLOSE)
        assert (await peer.rest())[-1].opcode == wire.CLOSE

    handled(anyplace, handler, talk)


def test_everything_that_a_reader_reads(anyplace: Place) -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        reader, _, _ = ws.split()
        assert await reader.recv() == "a"
        assert (await reader.read_frame()).text == "b"
        async for batch in reader.batches():
            assert batch[0].text == "c"
            break
        async with reader.stream() as message:
            assert [piece async for piece in message] == ["d"]

    async def talk(peer: RawPeer) -> None:
        for text in (b"a", b"b", b"c", b"d"):
            await peer.send(wire.TEXT, text)
            await asyncio.sleep(0.005)
        await peer.rest()

    handled(anyplace, handler, talk, close_timeout=0.1)


def test_what_is_split_is_read_and_written_by_its_halves(anyplace: Place) -> None:
    """As on threads. What the whole connection read, nobody would answer."""

    async def handler(ws: zcws.WebSocket) -> None:
        reader, writer, _ = ws.split()
        frame = zcws.Frame.text("no")
        for use in (
            *(ws.recv, ws.read_frame, ws.batches, ws.stream, ws.__anext__),
            *(ws.ping, ws.pong, ws.flush, ws.send_stream, ws.split),
            *(partial(send, "no") for send in (ws.send, ws.send_many, ws.send_nowait)),
            *(partial(write, frame) for write in (ws.write_frame, ws.write_frame_nowait)),
        ):
            with pytest.raises(RuntimeError, match=r"^this connection is split: its halves read and write$"):
                use()
        assert isinstance(ws, zcws.WebSocket) and ws.state is zcws.State.OPEN
        async for batch in reader.batches():
            await writer.send_many(batch)
            await writer.send_many(batch, compress=False)
            break
        ws.begin_close(4000, "by the whole")

    async def talk(peer: RawPeer) -> None:
        await peer.send_bytes(
            peer.frame(wire.TEXT, b"a") + peer.frame(wire.PING) + peer.frame(wire.TEXT, b"b")
        )
        seen = [await peer.read() for _ in range(5)]
        assert [frame.payload for frame in seen[:4]] == [b"a", b"b", b"a", b"b"]
        assert seen[4][:2] == (wire.CLOSE, wire.close_payload(4000, b"by the whole"))
        await peer.send(wire.CLOSE, wire.close_payload(4000))

    handled(anyplace, handler, talk)


def test_everything_that_a_writer_writes(anyplace: Place) -> None:
    async def main() -> None:
        async with anyplace.serve(swallow) as server:
            ws = await anyplace.connect(server)
            _, writer, _ = ws.split()
            await writer.send("a")
            await writer.send_many(["b", "c"])
            await writer.send_many([bytes(100_000), "d"])
            assert writer.is_writable == ws.is_writable
            writer.send_nowait("e")
            writer.write_frame_nowait(zcws.Frame.text("f"))
            await writer.write_frame(zcws.Frame.binary(b"b"))
            async with writer.send_stream(zcws.OpCode.BINARY) as message:
                await message.write(b"c")
            await writer.pong(b"d")
            await writer.flush()
            await writer.close()
            await soon(ws.wait_closed())
            assert ws.close_code == 1000

    anyplace.run(main())


def test_what_is_shown_of_halves(anyplace: Place) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.read()
        await peer.send(wire.PING, b"1234")
        await peer.rest()

    async def main() -> None:
        async with anyplace.raw_server(script) as port, anyplace.connect(port) as ws:
            reader, writer, bridge = ws.split()
            await writer.send("it is split")
            assert repr(reader) == f"<ReaderHalf of {ws!r}>" and repr(writer) == f"<WriterHalf of {ws!r}>"
            assert repr(bridge) == "<BridgeHalf, empty>"
            await soon(reader.read_frame())
            assert repr(bridge) == "<BridgeHalf, <Reply PONG, 4 bytes>>"
            ws.abort()
            await soon(ws.wait_closed())
            assert repr(reader) == f"<ReaderHalf of {ws!r}>" and "lost" in repr(writer)

    anyplace.run(main())
