"""`on_frame`, `on_message`: no task, no coroutine; and a function that fails, closes, or answers too much."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import wire
from net import LONG, Others, Place, RawPeer, narrow, request, soon, until

import zcws
from zcws import alone, reader
from zcws.aio import callbacks
from zcws.ring_frame import RingFrame

ALSO_OVER_HTTP2 = ALSO_BY_MESSAGE = True  # conftest.py


def back(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
    if frame.opcode in (zcws.OpCode.TEXT, zcws.OpCode.BINARY):
        ws.write_frame_nowait(frame)


def test_no_task_takes_from_a_function_what_it_is_to_be_shown(anyplace: Place) -> None:
    """It took those that came while it waited, one at a time, and waited for ever where there were none."""

    async def main() -> None:
        shown: list[str] = []
        refused: list[str] = []

        async def handler(ws: zcws.WebSocket) -> None:
            await ws.send("ready")
            await until(lambda: len(shown) == 2)
            for read in (ws.recv, ws.read_frame, ws.__anext__, ws.batches().__anext__, ws.split()[0].recv):
                with pytest.raises(
                    RuntimeError, match=f"^{anyplace.shown_to} is shown what arrives"
                ) as caught:
                    await soon(read())
                refused.append(str(caught.value))
            await ws.close()

        def show(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            shown.append(frame.text)

        async with anyplace.serve(handler, on_frame=show) as server, anyplace.raw_client(server) as peer:
            await peer.read()
            await peer.send(wire.TEXT, b"1")
            await peer.send(wire.TEXT, b"2")
            await until(lambda: len(refused) == 5)
            await peer.send(wire.TEXT, b"3")
            await peer.send(wire.CLOSE, wire.close_payload(1000))
            assert (await peer.rest())[-1].opcode == wire.CLOSE
        assert shown[:2] == ["1", "2"]

    anyplace.run(main())


class Reports:
    """What the event loop was told of."""

    def __init__(self, place: Place) -> None:
        self.failed = f"{place.shown_to} failed"
        self.contexts: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.contexts.append(context))

    def only(self) -> BaseException:
        (context,) = self.contexts
        assert context["message"] == self.failed
        error = context["exception"]
        assert isinstance(error, BaseException)
        return error


VARIABLE: ContextVar[str] = ContextVar("VARIABLE")


class TestContexts:
    def test_what_one_connection_sets_is_not_for_another(self, anyplace: Place) -> None:
        seen: list[tuple[str, str]] = []

        def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            seen.append((frame.text, VARIABLE.get()))
            VARIABLE.set(frame.text)
            back(ws, frame)

        async def main() -> None:
            VARIABLE.set("of serve")
            async with anyplace.serve(None, on_frame=on_frame) as server:
                VARIABLE.set("later")
                async with anyplace.connect(server) as a, anyplace.connect(server) as b:
                    for ws, text in [(a, "a"), (b, "b"), (a, "a again"), (b, "b again")]:
                        await ws.send(text)
                        assert await soon(ws.recv()) == text

        anyplace.run(main())
        assert seen == [("a", "of serve"), ("b", "of serve"), ("a again", "a"), ("b again", "b")]

    def test_a_client_has_that_of_whoever_connects(self, anyplace: Place) -> None:
        async def main() -> None:
            seen: asyncio.Queue[str] = asyncio.Queue()

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                if frame.opcode is zcws.OpCode.TEXT:
                    seen.put_nowait(VARIABLE.get())
                    VARIABLE.set("of the function")

            VARIABLE.set("of serve")
            async with anyplace.serve(None, on_frame=back) as server:
                for name in ("first", "second"):
                    VARIABLE.set(name)
                    async with anyplace.connect(server, on_frame=on_frame) as ws:
                        for expected in (name, "of the function"):
                            await ws.send("x")
                            assert await soon(seen.get()) == expected
                    assert VARIABLE.get() == name

        anyplace.run(main())


class TestFailures:
    def test_an_exception_is_1011_and_a_report(self, anyplace: Place) -> None:
        async def main() -> None:
            reports = Reports(anyplace)
            seen = []

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                seen.append(frame.text)
                if frame.text == "bad":
                    raise LookupError("a bug")

            async with anyplace.serve(None, on_frame=on_frame) as server, anyplace.raw_client(server) as peer:
                texts = (b"good", b"bad", b"never seen")
                await peer.send_bytes(b"".join(peer.frame(wire.TEXT, text) for text in texts))
                frames = await peer.rest()
                assert wire.codes(frames) == [1011] and len(frames) == 1 and b"bug" not in frames[0].payload
                await peer.close()
                await until(lambda: not server.connections)
            assert seen == ["good", "bad"]
            assert isinstance(reports.only(), LookupError)

        anyplace.run(main())

    @pytest.mark.parametrize("at", [1, 15])
    def test_of_something_that_was_cancelled(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        """In the first share, and in one that the loop's next turn shows."""
        monkeypatch.setattr(callbacks, "_MOST_FRAMES", 10)

        async def main() -> None:
            reports, seen = Reports(anyplace), itertools.count(1)
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                if next(seen) == at:
                    cancelled.result()

            async with anyplace.serve(None, on_frame=on_frame) as server, anyplace.raw_client(server) as peer:
                await peer.send_bytes(peer.frame(wire.TEXT, b"x") * 30)
                assert wire.codes(await peer.rest()) == [1011]
                assert isinstance(reports.only(), asyncio.CancelledError)

        anyplace.run(main())

    def test_what_is_no_error_is_not_a_failure_of_the_function(self, anyplace: Place) -> None:
        async def main() -> None:
            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                with pytest.raises(GeneratorExit):
                    ws._callback_failed(GeneratorExit())
                ws.send_nowait("open")

            async with anyplace.serve(None, on_frame=on_frame) as server, anyplace.raw_client(server) as peer:
                await peer.send(wire.TEXT, b"x")
                assert (await peer.read()).payload == b"open"

        anyplace.run(main())

    def test_a_client(self, anyplace: Place) -> None:
        async def script(peer: RawPeer) -> None:
            await peer.send(wire.TEXT, b"x")
            assert wire.codes([await peer.read()]) == [1011]

        async def main() -> None:
            reports = Reports(anyplace)

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                raise LookupError("a bug")

            async with anyplace.raw_server(script) as port:
                ws = await anyplace.connect(port, on_frame=on_frame)
                await soon(ws.wait_closed())
                assert ws.close_code == 1011
                assert isinstance(reports.only(), LookupError)

        anyplace.run(main())

    def test_another_connection_that_is_over(self, anyplace: Place) -> None:
        """A callback that passes frames on: the end of the other connection is a failure, and is not kept silent."""

        async def main() -> None:
            reports = Reports(anyplace)

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                raise zcws.ConnectionClosedError(1006)

            async with anyplace.serve(None, on_frame=on_frame, close_timeout=0.1) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send(wire.TEXT, b"x")
                    assert wire.codes(await peer.rest()) == [1011]
            assert isinstance(reports.only(), zcws.ConnectionClosedError)

        anyplace.run(main())

    @pytest.mark.parametrize("end", ["begin_close", "abort"])
    def test_a_mistake_behind_our_end(self, anyplace: Place, end: str) -> None:
        """It is told, too, and of which connection; the Close that is out stays what it is."""

        async def main() -> None:
            reports, ended = Reports(anyplace), list[zcws.WebSocket]()

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                ended.append(ws)
                getattr(ws, end)()
                raise LookupError("a bug")

            async with anyplace.serve(None, on_frame=on_frame, close_timeout=0.1) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send(wire.TEXT, b"x")
                    assert wire.codes(await peer.rest()) == ([1000] if end == "begin_close" else [])
            assert isinstance(reports.only(), LookupError)
            assert reports.contexts[0]["protocol"] is ended[0] and "transport" in reports.contexts[0]

        anyplace.run(main())

    def test_writing_after_our_close_is_no_failure(self, anyplace: Place) -> None:
        async def main() -> None:
            reports = Reports(anyplace)

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                ws.begin_close(4000)
                ws.send_nowait("too late")

            async with anyplace.serve(None, on_frame=on_frame, close_timeout=0.1) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send(wire.TEXT, b"x")
                    assert wire.codes(await peer.rest()) == [4000]
            assert reports.contexts == []

        anyplace.run(main())

    def test_the_others_go_on(self, anyplace: Place) -> None:
        async def main() -> None:
            Reports(anyplace)

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                if frame.opcode is zcws.OpCode.TEXT:
                    if frame.text == "bad":
                        raise LookupError
                    ws.write_frame_nowait(frame)

            async with anyplace.serve(None, on_frame=on_frame, close_timeout=0.1) as server:
                async with anyplace.raw_client(server) as good:
                    for _ in range(3):
                        async with anyplace.raw_client(server) as bad:
                            await bad.send(wire.TEXT, b"bad")
                            assert wire.codes(await bad.rest()) == [1011]
                        await good.send(wire.TEXT, b"still")
                        assert (await good.read()).payload == b"still"

        anyplace.run(main())


class TestClosing:
    @pytest.mark.parametrize("how", ["begin_close", "frame", "abort"])
    def test_inside_the_callback(self, anyplace: Place, how: str) -> None:
        async def main() -> None:
            reports = Reports(anyplace)
            seen = []

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                before = frame.to_bytes()
                seen.append(before)
                if how == "begin_close":
                    ws.begin_close(1001, "enough")
                elif how == "frame":
                    ws.write_frame_nowait(zcws.Frame.close(1001, "enough"))
                else:
                    ws.abort()
                assert frame.to_bytes() == before  # it is good until the callback returns

            async with anyplace.serve(None, on_frame=on_frame) as server, anyplace.raw_client(server) as peer:
                await peer.send_bytes(peer.frame(wire.TEXT, b"one") + peer.frame(wire.TEXT, b"two"))
                if how == "abort":
                    try:
                        assert await peer.rest() == []
                    except ConnectionError:
                        pass
                else:
                    assert await peer.read() == wire.Seen(wire.CLOSE, wire.close_payload(1001, b"enough"))
                    await peer.send(wire.TEXT, b"three")
                    await peer.send(wire.CLOSE, wire.close_payload(1001))
                    assert await peer.rest() == []
                    await peer.close()
                await until(lambda: not server.connections)
            assert (seen[0], reports.contexts) == (b"one", [])
            assert how == "abort" or seen == [b"one"]

        anyplace.run(main())

    def test_by_the_peer(self, anyplace: Place) -> None:
        async def main() -> None:
            seen = []

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                seen.append((frame.opcode.name, frame.to_bytes()))
                back(ws, frame)

            async with anyplace.serve(None, on_frame=on_frame) as server, anyplace.raw_client(server) as peer:
                data = [peer.frame(wire.TEXT, b"a"), peer.frame(wire.PING, b"p"), peer.frame(wire.CLOSE)]
                await peer.send_bytes(b"".join(data))
                frames = await peer.rest()
                assert {frame[:2] for frame in frames} == {
                    (wire.TEXT, b"a"),
                    (wire.PONG, b"p"),
                    (wire.CLOSE, b""),
                }
                assert frames[-1].opcode == wire.CLOSE
            assert seen == [("TEXT", b"a"), ("PING", b"p")][: 1 + anyplace.shows_frames]

        anyplace.run(main())

    @pytest.mark.parametrize("end", [wire.frame(wire.CLOSE), b"\x83\x80abcd"], ids=["Close", "fault"])
    @pytest.mark.parametrize("before", [[], ["PING"], ["TEXT"], ["PING", "TEXT"], ["TEXT", "PING"]], ids=str)
    @pytest.mark.parametrize("together", [True, False])
    def test_what_is_shown_does_not_depend_on_what_came_together(
        self, place: Place, before: list[str], end: bytes, together: bool
    ) -> None:
        """A Ping was not shown that came with a Close, and a Close was that came with a text."""
        seen: list[str] = []

        async def main() -> None:
            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                seen.append(frame.opcode.name)

            async with place.serve(None, on_frame=on_frame) as server, place.raw_client(server) as peer:
                opcodes = {"PING": wire.PING, "TEXT": wire.TEXT}
                parts = [peer.frame(opcodes[name], b"x") for name in before]
                parts.append(peer.frame(wire.CLOSE) if end[0] == 0x88 else end)
                for part in [b"".join(parts)] if together else parts:
                    await peer.send_bytes(part)
                    await asyncio.sleep(0.01)
                assert (await peer.rest())[-1].opcode == wire.CLOSE

        place.run(main())
        assert seen == before

    @pytest.mark.parametrize("before", [b"", b"one"])
    def test_the_usual_end_is_no_exception(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, before: bytes
    ) -> None:
        """Raised and caught here, it was a fifth of what the end of a connection cost."""
        seen: list[bytes] = []
        raised: list[reader.Reader] = []
        error = reader.Reader.error

        def noted(half: reader.Reader) -> zcws.ConnectionClosed:
            raised.append(half)
            return error(half)

        async def main() -> None:
            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                seen.append(frame.to_bytes())

            async with place.serve(None, on_frame=on_frame) as server, place.raw_client(server) as peer:
                if before:
                    await peer.send(wire.TEXT, before)
                    await until(lambda: seen != [])
                await peer.send(wire.CLOSE, wire.close_payload(1000))
                assert await peer.read() == wire.Seen(wire.CLOSE, wire.close_payload(1000))
                await peer.close()
                await until(lambda: not server.connections)
                assert raised == []

        monkeypatch.setattr(reader.Reader, "error", noted)
        place.run(main())
        assert seen == [before] * bool(before)

    def test_the_server_shuts_down(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(None, on_frame=back) as server:
                clients = [await anyplace.connect(server) for _ in range(3)]
                await until(lambda: len(server.connections) == 3)
                server.close()
                for client in clients:
                    with pytest.raises(zcws.ConnectionClosedOK) as caught:
                        await soon(client.recv())
                    assert caught.value.code == 1001
                await soon(server.wait_closed())

        anyplace.run(main())


class TestSlowPeer:
    @pytest.mark.parametrize("size", [100, 30_000, 200_000])
    def test_delivery_pauses_while_the_transport_is_full(self, anyplace: Place, size: int) -> None:
        """The peer sends and does not read: answers do not fill the memory, and none is lost when it reads."""
        # Several times what the buffers on the way can hold: see `narrow`.
        count = 6_000_000 // size if size > 100 else 40_000

        async def main() -> None:
            seen = 0

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                nonlocal seen
                if frame.opcode is zcws.OpCode.BINARY:
                    seen += 1
                    ws.write_frame_nowait(frame)

            async with anyplace.serve(None, on_frame=on_frame, ping_interval=None) as server:
                async with anyplace.raw_client(server, limit=1024) as peer:
                    await until(lambda: server.connections)
                    (ws,) = server.connections
                    narrow(peer.writer)
                    narrow(ws)
                    frame = peer.frame(wire.BINARY, bytes(size))
                    burst = max(1, 100_000 // len(frame))

                    async def push() -> None:
                        for start in range(0, count, burst):
                            await peer.send_bytes(frame * min(burst, count - start))

                    pushing = asyncio.ensure_future(push())
                    before = -1
                    while seen != before or not seen:  # until nothing moves any more
                        before = seen
                        await asyncio.sleep(0.05)
                    assert 0 < seen < count
                    assert not pushing.done()  # nothing is read either
                    assert ws._transport is not None
                    assert ws._transport.get_write_buffer_size() < 2_000_000
                    answer = wire.frame(wire.BINARY, bytes(size))
                    # Not one by one, which takes asyncio's debug mode more than a minute.
                    for start in range(0, count, burst):
                        answers = answer * min(burst, count - start)
                        assert await soon(peer.reader.readexactly(len(answers))) == answers
                    await soon(pushing)
                    assert seen == count

        anyplace.run(main())

    def test_our_close_behind_what_it_is_slow_to_read(self, place: Place) -> None:
        """What came while the transport was full had reading paused, for ever: the peer's Close was not seen."""

        async def main() -> None:
            async with place.serve(None, on_frame=back, close_timeout=30) as server:
                async with place.raw_client(server, limit=1024) as peer:
                    await until(lambda: server.connections)
                    (ws,) = server.connections
                    ws.send_nowait(bytes(20_000_000))
                    await until(lambda: not ws.is_writable)
                    await peer.send(wire.TEXT, b"early")
                    await until(lambda: ws.stats.frames_waiting)
                    ws.begin_close(4001)
                    before = ws.stats.bytes_received
                    await peer.send(wire.TEXT, b"late")
                    await until(lambda: ws.stats.bytes_received > before)
                    assert len((await peer.read()).payload) == 20_000_000
                    assert wire.codes([await peer.read()]) == [4001]
                    await peer.send(wire.CLOSE, wire.close_payload(4001))
                    assert await asyncio.wait_for(peer.rest(), 10) == []
                    await peer.close()
                    await soon(ws.wait_closed())
                    assert (ws.state, ws.close_code) == (zcws.State.CLOSED, 4001)

        place.run(main())

    @pytest.mark.parametrize("waits", [False, True])
    def test_it_goes_on_when_the_last_frame_filled_the_transport(self, waits: bool, place: Place) -> None:
        """Nothing is left to deliver at that moment, and reading has to be resumed all the same. Or the next one has
        arrived: nobody but us sends its answer, since the peer waits for that."""

        async def main() -> None:
            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                if frame.opcode is zcws.OpCode.TEXT:
                    narrow(ws)
                    ws.send_nowait(bytes(20_000_000) if frame.text == "much" else frame.text)

            async with place.serve(None, on_frame=on_frame) as server:
                async with place.raw_client(server, limit=1024) as peer:
                    for _ in range(2):
                        await peer.send(wire.TEXT, b"much")
                        (ws,) = server.connections
                        await until(lambda ws=ws: not ws.is_writable)
                        await peer.send(wire.TEXT, b"little")
                        if waits:
                            await until(lambda ws=ws: ws.stats.frames_waiting)
                        assert len((await peer.read()).payload) == 20_000_000
                        assert (await peer.read()).payload == b"little"

        place.run(main())

    def test_it_ends_the_connection_when_it_is_shown_what_waited(self, place: Place) -> None:
        """asyncio's transports say that they are empty in the middle of a write, and closed the socket twice then."""

        async def main() -> None:
            reports = Reports(place)

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                if frame.text == "much":
                    narrow(ws)
                    ws.send_nowait(bytes(5_000_000))
                else:
                    ws.abort()

            async with place.serve(None, on_frame=on_frame, write_limit=(1000, 0)) as server:
                async with place.raw_client(server) as peer:
                    narrow(peer.writer)
                    await peer.send(wire.TEXT, b"much")
                    (ws,) = server.connections
                    await until(lambda: not ws.is_writable)
                    await peer.send(wire.TEXT, b"end")
                    await until(lambda: ws.stats.frames_waiting)
                    assert len((await peer.read()).payload) == 5_000_000
                    await soon(ws.wait_closed())
            assert reports.contexts == []

        place.run(main())


class TestAFewTogether:
    """Frames that came together are shown past the reader, up to one that is less simple, or that ends or pauses."""

    @pytest.mark.parametrize("middle", ["text", "ping", "fragments", "compressed", "nothing"])
    def test_in_order(self, anyplace: Place, middle: str) -> None:
        seen: list[tuple[str, bytes]] = []
        kept: list[tuple[memoryview, bytes]] = []
        head = request("Sec-WebSocket-Extensions: permessage-deflate")

        async def main() -> None:
            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                seen.append((frame.opcode.name, frame.to_bytes()))
                # Looked at twice, it is a view of the ring, which is kept.
                kept.append((frame.payload and frame.payload, frame.to_bytes()))
                back(ws, frame)

            async with anyplace.serve(None, on_frame=on_frame, compression="deflate") as server:
                async with anyplace.raw_client(server, head=head) as peer:
                    between = {
                        "text": peer.frame(wire.TEXT, b"m"),
                        "ping": peer.frame(wire.PING, b"m"),
                        "fragments": peer.frame(wire.TEXT, b"m" * 9, fin=False)
                        + peer.frame(wire.CONTINUATION, b"n"),
                        "compressed": peer.frame(wire.TEXT, wire.deflate(b"m" * 300), rsv=4),
                        "nothing": b"",
                    }[middle]
                    for i in range(5):
                        one, two = peer.frame(wire.TEXT, b"%d" % i), peer.frame(wire.BINARY, b"b" * 500)
                        await peer.send_bytes(one + two + between + two + one)
                        await until(lambda i=i: len(seen) == (4 + len(expected)) * (i + 1))

        expected = {
            "text": [("TEXT", b"m")],
            "ping": [("PING", b"m")] if anyplace.shows_frames else [],
            "fragments": [("TEXT", b"m" * 9 + b"n")],
            "compressed": [("TEXT", b"m" * 300)],
            "nothing": [],
        }[middle]
        anyplace.run(main())
        binary = ("BINARY", b"b" * 500)
        for i in range(5):
            text = ("TEXT", b"%d" % i)
            assert [seen.pop(0) for _ in range(4 + len(expected))] == [text, binary, *expected, binary, text]
        assert all(view == payload for view, payload in kept)

    @pytest.mark.parametrize("how", ["begin_close", "abort", "fails"])
    @pytest.mark.parametrize("at", ["first", "last"])
    def test_none_after_the_end(self, anyplace: Place, how: str, at: str) -> None:
        seen: list[zcws.Frame] = []
        texts: list[str] = []

        async def main() -> None:
            reports = Reports(anyplace)

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                assert all(before.is_stale for before in seen) or not anyplace.shows_frames
                seen.append(frame)
                texts.append(frame.text)
                if frame.text == at:
                    if how == "fails":
                        raise LookupError
                    getattr(ws, how)()

            async with anyplace.serve(None, on_frame=on_frame, close_timeout=0.1) as server:
                async with anyplace.raw_client(server) as peer:
                    frames = [peer.frame(wire.TEXT, text) for text in (b"first", b"second", b"last")]
                    await peer.send_bytes(b"".join(frames))
                    try:
                        ends = wire.codes(await peer.rest())
                    except ConnectionError:
                        ends = []
                    assert ends == {"begin_close": [1000], "abort": [], "fails": [1011]}[how]
            assert len(reports.contexts) == (how == "fails")

        anyplace.run(main())
        assert texts == (["first"] if at == "first" else ["first", "second", "last"])

    @pytest.mark.parametrize("keep", ["nothing", "every view", "every other view"])
    @pytest.mark.parametrize("closes", [False, True])
    def test_of_several_connections(self, anyplace: Place, keep: str, closes: bool) -> None:
        """A view that one of them keeps has the others' bytes moved."""
        seen: dict[zcws.WebSocket, list[bytes]] = collections.defaultdict(list)
        kept: list[tuple[memoryview, bytes]] = []
        sent: list[bytes] = []
        enders: list[zcws.WebSocket] = []

        async def main() -> None:
            numbers = itertools.count()

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                seen[ws].append(frame.to_bytes())
                if keep == "every view" or (keep != "nothing" and next(numbers) % 2):
                    kept.append((frame.payload and frame.payload, frame.to_bytes()))
                if closes and frame.text == "9 2":
                    enders.append(ws)
                    for other in list(seen):
                        other.abort()

            async with (
                anyplace.serve(None, on_frame=on_frame) as server,
                contextlib.AsyncExitStack() as stack,
            ):
                peers = [await stack.enter_async_context(anyplace.raw_client(server)) for _ in range(4)]
                for i in range(10):
                    texts = [b"%d %d" % (i, j) for j in range(4)]
                    sent.extend(texts)
                    for peer in peers:
                        peer.writer.write(b"".join(peer.frame(wire.TEXT, text) for text in texts))
                    await until(
                        lambda: closes or all(len(seen[ws]) == len(sent) for ws in server.connections)
                    )
                await until(lambda: not closes or not server.connections)

        anyplace.run(main())
        if closes:
            assert all(texts == sent[: len(texts)] for texts in seen.values())
            # Nothing is shown behind it. There may be several: those that had been shown nothing yet were not ended.
            assert {seen[ws][-1] for ws in enders} == {b"9 2"}
        else:
            assert list(seen.values()) == [sent] * 4
        assert all(view == payload for view, payload in kept)

    @pytest.mark.parametrize("keep", [False, True])
    def test_the_rest_waits_while_the_transport_is_full(self, place: Place, keep: bool) -> None:
        async def main() -> None:
            seen: list[bytes] = []
            kept: list[memoryview] = []

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                seen.append(frame.to_bytes())
                if keep:
                    kept.append(frame.payload and frame.payload)
                if frame.text == "much":
                    ws.send_nowait(bytes(20_000_000))

            async with place.serve(None, on_frame=on_frame) as server:
                async with place.raw_client(server, limit=1024) as peer:
                    for i in range(3):
                        others = b"%d" % i * 300, b"ab"
                        texts = (others[0], b"much", *others)
                        seen.clear()
                        kept.clear()
                        await peer.send_bytes(b"".join(peer.frame(wire.TEXT, text) for text in texts))
                        (ws,) = server.connections
                        await until(lambda ws=ws: not ws.is_writable)
                        assert (seen, ws.stats.frames_waiting) == ([others[0], b"much"], 2)
                        assert len((await peer.read()).payload) == 20_000_000
                        await until(lambda: len(seen) == 4)
                        assert seen == list(texts) and (not keep or kept == list(texts))

        place.run(main())


def test_no_task_for_a_connection_or_a_frame(anyplace: Place) -> None:
    async def main() -> None:
        async with anyplace.serve(None, on_frame=back) as server:
            peers = [anyplace.raw_client(server) for _ in range(5)]
            opened = [await peer.__aenter__() for peer in peers]
            before = asyncio.all_tasks()
            tasks: set[Any] = set()
            for number in range(50):
                for peer in opened:
                    await peer.send(wire.TEXT, b"%d" % number)
                for peer in opened:
                    tasks |= asyncio.all_tasks()
                    assert (await peer.read()).payload == b"%d" % number
            # `read` waits in a task of its own on older Pythons: those are the test's.
            ours = {task for task in tasks - before if "zcws" in str(task.get_coro())}
            assert not ours
            assert not [task for task in before if "zcws.aio" in repr(task.get_coro())]
            for peer in peers:
                await peer.__aexit__(None, None, None)

    anyplace.run(main())


def test_in_no_task_at_all(anyplace: Place) -> None:
    """The callback runs where the bytes arrive; other connections may be opened from it, and other tasks woken."""

    async def main() -> None:
        current: list[object] = []
        woken = asyncio.Event()

        def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            current.append(asyncio.current_task())
            woken.set()

        async with anyplace.serve(None, on_frame=on_frame) as server, anyplace.connect(server) as ws:
            await ws.send("x")
            await soon(woken.wait())
        assert set(current) == {None}

    anyplace.run(main())


def test_frames_behind_the_handshake(anyplace: Place) -> None:
    async def main() -> None:
        early = wire.frame(wire.TEXT, b"early", key=wire.KEY)
        async with anyplace.serve(None, on_frame=back) as server:
            async with anyplace.raw_client(server, behind=early) as peer:
                assert (await peer.read()).payload == b"early"

    anyplace.run(main())


def test_fragments_come_as_one_frame(anyplace: Place) -> None:
    async def main() -> None:
        async with anyplace.serve(None, on_frame=back) as server, anyplace.raw_client(server) as peer:
            await peer.send_bytes(b"".join(wire.fragments(wire.TEXT, [b"a", b"b", b"c"], key=peer.key)))
            assert await peer.read() == wire.Seen(wire.TEXT, b"abc")
            big = bytes(range(256)) * 3000
            await peer.send(wire.BINARY, big)
            assert (await peer.read()).payload == big

    anyplace.run(main())


def test_sending_without_a_wait(place: Place) -> None:
    async def main() -> None:
        answers: list[Any] = []

        def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            if frame.opcode is not zcws.OpCode.TEXT:
                return
            assert ws.is_writable
            ws.send_nowait("é")
            ws.send_nowait(b"b")
            ws.send_nowait(b"c", text=True)
            with pytest.raises(ValueError):
                ws.send_nowait(b"\xff", text=True)
            answers.append(frame.text)

        async with place.serve(None, on_frame=on_frame) as server, place.raw_client(server) as peer:
            await peer.send(wire.TEXT, b"x")
            frames = [(await peer.read())[:2] for _ in range(3)]
            assert frames == [(wire.TEXT, "é".encode()), (wire.BINARY, b"b"), (wire.TEXT, b"c")]
        assert answers == ["x"]

    place.run(main())


def test_a_server_needs_something_to_do() -> None:
    with pytest.raises(TypeError, match="handler, or on_message"):
        zcws.serve(None, "127.0.0.1", 0)


class Shown:
    """An `on_frame` that counts what it is shown, and how much that was when the end was told."""

    def __init__(self, at_first: Callable[[zcws.WebSocket], object] = lambda ws: None) -> None:
        self.messages = 0
        self.at_the_end: list[int] = []
        self._at_first = at_first

    def __call__(self, ws: zcws.WebSocket, frame: zcws.Frame) -> None:
        if not self.messages:
            ws.add_end_callback(lambda ws: self.at_the_end.append(self.messages))
            self._at_first(ws)
        self.messages += frame.opcode is zcws.OpCode.BINARY


class TestShares:
    """Not all that has arrived is shown at once: after a share of it others run."""

    COUNT = 30_000  # as they are sent here, less than a ring holds

    def burst(self, peer: RawPeer, count: int = COUNT) -> bytes:
        return peer.frame(wire.BINARY, b"ab") * count

    @pytest.mark.parametrize("opcode", [wire.BINARY, wire.PING])
    def test_others_run_meanwhile(self, anyplace: Place, opcode: int) -> None:
        """And all of it is shown: Pings too, which are not kept for ever where nobody looks."""

        if opcode == wire.PING and not anyplace.shows_frames:
            pytest.skip("messages are shown")

        async def main() -> None:
            turns = collections.Counter[int]()

            async with Others() as others:

                def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                    turns[others.turns] += 1

                async with anyplace.serve(None, on_frame=on_frame) as server:
                    async with anyplace.raw_client(server) as peer:
                        await peer.send_bytes(peer.frame(opcode, b"ab") * self.COUNT)
                        await until(lambda: turns.total() == self.COUNT)
                        # CPython 3.10's TLS hands over 256 KiB, whether or not anybody reads.
                        shares = 3 if sys.version_info < (3, 11) else 2
                        assert max(turns.values()) <= shares * 4096
                        assert len(turns) < self.COUNT / 30  # and not a turn of the loop for each

        anyplace.run(main())

    def test_nothing_is_read_between_two(self, anyplace: Place) -> None:
        """Not even where the ring has room for more."""

        async def main() -> None:
            reads: list[bool] = []  # in the turns between two shares
            seen = 0

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                nonlocal seen
                seen += 1
                if seen % 100 == 0:
                    asyncio.get_running_loop().call_soon(look, ws)

            def look(ws: zcws.WebSocket) -> None:
                if ws._next_share is not None and ws._transport is not None:
                    reads.append(ws._transport.is_reading())

            async with anyplace.serve(None, on_frame=on_frame) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send_bytes(self.burst(peer))
                    await until(lambda: seen == self.COUNT)
            assert reads and not any(reads)

        anyplace.run(main())

    def test_what_becomes_long_when_it_is_inflated(self, anyplace: Place) -> None:
        async def main() -> None:
            turns = collections.Counter[int]()

            async with Others() as others:

                def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                    turns[others.turns] += len(frame)

                async with anyplace.serve(None, on_frame=on_frame, compression="deflate") as server:
                    asks = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"
                    async with anyplace.raw_client(server, head=request(asks)) as peer:
                        bomb = peer.frame(wire.BINARY, wire.deflate(bytes(1_000_000)), rsv=4)
                        await peer.send_bytes(bomb * 100)
                        await until(lambda: turns.total() == 100_000_000)
                        assert max(turns.values()) <= 2 * 5_000_000
                        assert len(turns) < 80

        anyplace.run(main())

    @pytest.mark.parametrize("end", ["close", "end of stream"])
    def test_a_peer_that_leaves_behind_it(self, anyplace: Place, end: str) -> None:
        """All is shown before anybody is told of the end."""

        async def main() -> None:
            shown = Shown()
            async with anyplace.serve(None, on_frame=shown) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send_bytes(self.burst(peer))
                    if end == "close":
                        await peer.send(wire.CLOSE)
                        assert (await peer.rest())[-1].opcode == wire.CLOSE
                await until(lambda: shown.at_the_end)
            assert shown.at_the_end == [self.COUNT]

        anyplace.run(main())

    def test_a_peer_that_leaves_between_two_over_tls(self, tls: Place) -> None:
        """What has come meanwhile is with TLS, as reading is paused, and is shown before anybody is told of the end."""
        message, begun = wire.frame(wire.BINARY, b"ab", key=wire.KEY), threading.Event()

        def parts() -> Iterator[bytes]:
            yield message * 2000
            begun.wait(LONG)
            yield message * 32_700  # loops take no more; nor does a ring that has others

        def wait(ws: zcws.WebSocket) -> None:
            begun.set()
            time.sleep(0.1)  # by then the peer is gone, or there is nothing to see

        async def main() -> None:
            shown = Shown(wait)
            async with tls.serve(None, on_frame=shown, compression="deflate") as server:
                head = request("Sec-WebSocket-Extensions: permessage-deflate")
                await tls.send_and_leave(server, parts(), head=head)
                await until(lambda: shown.at_the_end)
            assert shown.at_the_end == [34_700]

        tls.run(main())

    def test_a_task_that_waits_for_the_end_meanwhile(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It gives nothing up: what waits for its turn is still shown and answered, and then the Close counts."""
        monkeypatch.setattr(callbacks, "_MOST_FRAMES", 10)

        async def main() -> None:
            waiting: list[asyncio.Task[None]] = []

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                if not waiting:
                    waiting.append(asyncio.get_running_loop().create_task(ws.wait_closed()))
                back(ws, frame)

            async with anyplace.serve(None, on_frame=on_frame) as server:
                async with anyplace.raw_client(server) as peer:
                    close = peer.frame(wire.CLOSE, wire.close_payload(1000))
                    await peer.send_bytes(self.burst(peer, 1000) + close)
                    frames = await peer.rest()
                    assert [len(frames), wire.codes(frames)] == [1001, [1000]]
                await soon(waiting[0])

        anyplace.run(main())

    @pytest.mark.parametrize("when", ["at once", "soon"])
    @pytest.mark.parametrize("how", ["abort", "begin_close"])
    def test_a_program_that_has_had_enough(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch, how: str, when: str
    ) -> None:
        monkeypatch.setattr(callbacks, "_MOST_FRAMES", 10)

        async def main() -> None:
            shown: list[int] = []

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                shown.append(len(frame))
                if len(shown) == 1 and when == "at once":
                    getattr(ws, how)()
                elif len(shown) == 1:
                    asyncio.get_running_loop().call_soon(getattr(ws, how))

            async with anyplace.serve(None, on_frame=on_frame) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send_bytes(self.burst(peer, 1000))
                    await until(lambda: shown)
                    if how == "begin_close":
                        await peer.send(wire.CLOSE)
                await until(lambda: not server.connections)
            assert 1 <= len(shown) <= (1 if when == "at once" else 50)

        anyplace.run(main())

    def test_a_socket_that_is_gone_behind_it(self, anyplace: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(callbacks, "_MOST_FRAMES", 10)

        async def main() -> None:
            def lose_the_socket(ws: zcws.WebSocket) -> None:
                assert ws._transport is not None
                asyncio.get_running_loop().call_soon(ws._transport.abort)

            shown = Shown(lose_the_socket)
            async with anyplace.serve(None, on_frame=shown) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send_bytes(self.burst(peer, 1000))
                    await until(lambda: shown.at_the_end)
            assert shown.at_the_end == [1000] and shown.messages == 1000

        anyplace.run(main())

    @pytest.mark.parametrize("is_gone", [False, True])
    def test_one_that_there_is_no_memory_for(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch, is_gone: bool
    ) -> None:
        """Behind the first share, where nobody below catches that. The end is 1011, also for a peer that is there."""
        if not anyplace.shows_frames:
            pytest.skip("frames are made one by one")
        monkeypatch.setattr(callbacks, "_MOST_FRAMES", 10)
        made = itertools.count(1)

        def frame_or_none() -> RingFrame:
            if next(made) == 65:
                raise MemoryError
            return RingFrame()

        monkeypatch.setattr(reader, "RingFrame", frame_or_none)

        async def main() -> None:
            reports, told = Reports(anyplace), list[int | None]()

            def begin(ws: zcws.WebSocket) -> None:
                ws.add_end_callback(lambda ws: told.append(ws.close_code))
                if is_gone:
                    assert ws._transport is not None
                    asyncio.get_running_loop().call_soon(ws._transport.abort)

            shown = Shown(begin)
            async with anyplace.serve(None, on_frame=shown) as server, anyplace.raw_client(server) as peer:
                await peer.send_bytes(self.burst(peer, 1000))
                if not is_gone:
                    assert wire.codes(await peer.rest()) == [1011]
                    await peer.close()
                await until(lambda: told)
            assert (told, shown.messages) == ([1011], 64)
            assert is_gone or isinstance(reports.contexts[0]["exception"], MemoryError)

        anyplace.run(main())


class TestAnEndOfTheLoop:
    """on_frame raises what ends the loop, and the program runs the loop again."""

    @pytest.mark.parametrize("word", [SystemExit, KeyboardInterrupt])
    @pytest.mark.parametrize(("count", "at"), [(1, 1), (3, 1), (3, 2), (3, 3), (150, 1), (6000, 4500)])
    def test_nothing_is_lost(self, anyplace: Place, word: type[BaseException], count: int, at: int) -> None:
        """On transports of asyncio, what was written waited for the next bytes of the peer, as did the frames that were
        left. On sockets of the engine the connection was aborted; on uvloop's transports it was too, and the loop did
        not end."""
        shown: list[int] = []

        def show(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            if frame.opcode is zcws.OpCode.BINARY:
                shown.append(int(frame.payload))
                if len(shown) == at:
                    ws.send_nowait("ends")
                    raise word

        async def start() -> tuple[Any, zcws.WebSocket]:
            server = await anyplace.serve(None, on_frame=show, compression=None)
            return server, await anyplace.connect(server, compression=None)

        async def send() -> None:
            for number in range(count):
                client.send_nowait(b"%d" % number)
            await asyncio.sleep(LONG)

        async def go_on() -> None:
            assert await soon(client.recv()) == "ends"
            await until(lambda: len(shown) == count)
            (ws,) = server.connections
            ws.send_nowait("goes on")
            assert await soon(client.recv()) == "goes on"
            await client.send(b"%d" % count)
            await until(lambda: len(shown) == count + 1)
            await soon(client.close())
            assert client.close_code == 1000
            server.close()
            await server.wait_closed()

        with anyplace.new_loop() as loop:
            server, client = loop.run_until_complete(start())
            with pytest.raises(word):
                loop.run_until_complete(send())
            # uvloop calls whoever is ready before it ends.
            assert len(shown) == at or anyplace.loop == "uvloop"
            loop.run_until_complete(go_on())
        assert shown == [*range(count + 1)]

    @pytest.mark.parametrize("is_gone", [False, True], ids=["a Close", "no more"])
    @pytest.mark.parametrize("at", [1, 3])
    def test_at_the_end_of_the_connection(self, anyplace: Place, at: int, is_gone: bool) -> None:
        """The end is told, and behind all frames."""
        told: list[int] = []
        shown: list[int] = []

        def show(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            if frame.opcode is zcws.OpCode.BINARY:
                if not shown:
                    ws.add_end_callback(lambda ws: told.append(len(shown)))
                    if is_gone:
                        ws._transport.abort()  # type: ignore[union-attr]
                shown.append(int(frame.payload))
                if len(shown) == at:
                    raise SystemExit

        async def start() -> tuple[Any, zcws.WebSocket]:
            server = await anyplace.serve(None, on_frame=show, compression=None)
            return server, await anyplace.connect(server, compression=None)

        async def send() -> None:
            for number in range(3):
                client.send_nowait(b"%d" % number)
            await client.close()
            await asyncio.sleep(LONG)

        async def go_on() -> None:
            await until(lambda: told)
            await client.wait_closed()
            server.close()
            await server.wait_closed()

        with anyplace.new_loop() as loop:
            server, client = loop.run_until_complete(start())
            sending = loop.create_task(send())
            with pytest.raises(SystemExit):
                loop.run_until_complete(sending)
            sending.cancel()
            loop.run_until_complete(go_on())
        assert told == [3]


class TestAFewAndAnEnd:
    """A few frames that came together, where something else than an error of the program stops in the middle."""

    def test_no_memory_for_one_of_them(self, anyplace: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """The connection ends, and nothing is shown behind what has been lost."""
        if not anyplace.shows_frames:
            pytest.skip("there is no frame")
        made = itertools.count(1)

        def frame_or_none() -> RingFrame:
            if next(made) == 2:
                raise MemoryError
            return RingFrame()

        async def main() -> None:
            told, shown = list[int](), list[str]()

            def show(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                if not shown:
                    ws.add_end_callback(lambda ws: told.append(len(shown)))
                shown.append(frame.text)

            Reports(anyplace)
            async with anyplace.serve(None, on_frame=show) as server, anyplace.raw_client(server) as peer:
                monkeypatch.setattr(alone, "RingFrame", frame_or_none)
                await peer.send_bytes(b"".join(peer.frame(wire.TEXT, text) for text in (b"1", b"2", b"3")))
                await until(lambda: told)
            assert (shown, told) == (["1"], [1])

        anyplace.run(main())
