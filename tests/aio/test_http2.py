"""One connection of HTTP/2: whose turn it is, what it costs whom not to read, and what a peer must not do.

Against a server of ours by a client that is h2 by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import wire
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes
from net import LONG, Others, RawPeer, echo, hang_up, keep_sending, port_of, run, soon, swallow, until
from tunnel import ANSWER, CLOSE, HELLO, Peer, certificates, knock, serve

import zcws
from zcws.aio import http2, http2_frames, sending
from zcws.aio.http2_accepting import Http2Server
from zcws.aio.http2_frames import MOST_STREAMS, WINDOW
from zcws.aio.http2_stream import Http2Stream
from zcws.http2 import PREFACE
from zcws.options import USUAL_MARKS

#: It is about the connection. RFC 9113 6.7.
PING_ON_A_STREAM = b"\x00\x00\x08\x06\x00\x00\x00\x00\x01" + bytes(8)

# ---- whose turn it is ----


def test_what_no_stream_has_been_given_yet() -> None:
    """Behind a pause of ours keepalive asks for it: a Pong, perhaps."""

    async def main() -> None:
        async with serve(swallow) as server, knock(port_of(server)) as peer:
            await peer.opened()
            (ws,) = server.connections
            await until(lambda: not ws.has_unread())
            peer.h2.ping(bytes(8))
            peer.writer.write(peer.h2.data_to_send())
            assert await_without_a_turn(ws.has_unread)
            await peer.until(PingAckReceived)
            assert not ws.has_unread()
            peer.h2.ping(bytes(8))
            frames = peer.h2.data_to_send() * (http2._MOST_FRAMES + 1)
            ws._transport._connection.data_received(frames)  # type: ignore[union-attr]
            assert ws.has_unread()
            await until(lambda: not ws.has_unread())

    run(main)


def await_without_a_turn(condition: Callable[[], bool]) -> bool:
    """Until the system has done it, while the event loop stands still."""
    for _ in range(10_000):
        if condition():
            return True
        time.sleep(0.001)
    return False


def test_a_stream_that_nobody_reads_holds_up_no_other() -> None:
    """What is on its way to it is a window; when it is read, more comes."""
    size, got = 100_000, []

    async def main() -> None:
        go = asyncio.Event()

        async def handler(ws: zcws.WebSocket) -> None:
            if ws.request is not None and ws.request.path == "/slow":
                await go.wait()
            async for message in ws:
                got.append(len(message))
                await ws.send("got it")

        async with serve(handler) as server, knock(port_of(server)) as peer:
            slow, quick = await peer.opened("/slow"), await peer.opened("/quick")
            data = memoryview(wire.frame(wire.BINARY, bytes(size), key=wire.KEY) * 20)

            async def send_some() -> None:
                nonlocal data
                while room := min(peer.h2.local_flow_control_window(slow), 16_384, len(data)):
                    await peer.send(slow, bytes(data[:room]))
                    data = data[room:]

            for _ in range(20):
                await send_some()
                await peer.send(quick, HELLO)
                assert wire.parse(await peer.data(quick, 8))[0].payload == b"got it"
            assert 20 * size - len(data) <= 2 * WINDOW  # a ring, and what is held before it
            assert got == [5] * 20
            go.set()
            while data:
                await peer.until(WindowUpdated, slow)
                await send_some()
            await until(lambda: got.count(size) == 20)

    run(main)


def test_a_peer_that_is_slow_holds_up_its_own_stream() -> None:
    """What it has no window for waits, `send` waits for that, and others go on."""
    waiting = []

    async def main() -> None:
        async def push(ws: zcws.WebSocket) -> None:
            if ws.request is not None and ws.request.path == "/echo":
                await echo(ws)
            while True:
                await ws.send(bytes(10_000))
                waiting.append(ws)

        async with serve(push, close_timeout=0.2) as server, knock(port_of(server)) as peer:
            await peer.opened("/push")
            async with Others() as others:
                await until(lambda: waiting and not waiting[0].is_writable)
                count = len(waiting)
                assert count * 10_000 < 65_535 + 2 * USUAL_MARKS[0]
                number = await peer.opened("/echo")
                assert others.turns and len(waiting) == count
            await peer.send(number, HELLO)
            # The connection's window is taken: the peer's own business.
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(peer.data(number, len(ANSWER)), 0.05)
            peer.h2.increment_flow_control_window(1_000_000)
            await peer.flush()
            assert await peer.data(number, len(ANSWER)) == ANSWER

    run(main)


def test_streams_take_turns() -> None:
    async def main() -> None:
        async def push(ws: zcws.WebSocket) -> None:
            await ws.send(bytes(600_000))
            await ws.wait_closed()

        async with serve(push, close_timeout=0.2) as server, knock(port_of(server)) as peer:
            first, second = await peer.ask("/1"), await peer.ask("/2")
            await until(lambda: len(server.connections) == 2)
            await until(lambda: not any(ws.is_writable for ws in server.connections))
            peer.events.clear()
            peer.h2.increment_flow_control_window(2_000_000)
            for number in (first, second):
                peer.h2.increment_flow_control_window(600_000, number)
            await peer.flush()
            order: list[int | None] = []
            while min(order.count(first), order.count(second)) < 30:
                order.append((await peer.until(DataReceived)).stream_id)
            behind = order[order.index(second) :]
            assert sum(a != b for a, b in pairwise(behind)) > 40

    run(main)


def test_many_streams_with_much_to_say_to_a_peer_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport gets no more of them at a time than it has room for, and they take turns all the same."""
    monkeypatch.setattr(http2, "_MOST_OWED", 200_000)

    async def main() -> None:
        go = asyncio.Event()

        async def push(ws: zcws.WebSocket) -> None:
            await go.wait()
            for _ in range(3):
                await ws.send(bytes(16_000))
            await ws.wait_closed()

        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        async with zcws.serve(push, sock=listening, http2=True, close_timeout=0.2) as server:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", port_of(server), limit=1), is_client=True)
            await peer.begin()
            peer.h2.increment_flow_control_window(2_000_000)
            numbers = [await peer.opened() for _ in range(30)]
            go.set()
            await asyncio.sleep(0.05)
            size = len(wire.frame(wire.BINARY, bytes(16_000)))
            got, order = Counter[int](), list[int]()
            while sum(got.values()) < 3 * size * len(numbers):
                event = await peer.until(DataReceived)
                got[event.stream_id] += len(event.data)  # type: ignore[index]
                order.append(event.stream_id)  # type: ignore[arg-type]
            assert got == dict.fromkeys(numbers, 3 * size)
            third = next(at for at, number in enumerate(order) if order[:at].count(number) == 2)
            assert set(order[:third]) == set(
                numbers
            )  # nobody is served three times before all have been once
            await peer.close()

    run(main)


@pytest.mark.parametrize("leaves", [False, True])
def test_many_small_frames_take_many_turns(monkeypatch: pytest.MonkeyPatch, leaves: bool) -> None:
    """A read may bring 28,000, and each costs 25 us. What was said last counts also where the connection is gone."""
    monkeypatch.setattr(http2, "_MOST_FRAMES", 10)
    handle, turns, got = Http2Server._handle, Counter[int](), []

    async def main() -> None:
        async with Others() as others:

            def counted(server: Http2Server, event: Any) -> None:
                turns[others.turns] += 1
                handle(server, event)

            async def handler(ws: zcws.WebSocket) -> None:
                async for message in ws:
                    got.append(message)
                    await ws.send(message)

            async with serve(handler) as server, knock(port_of(server)) as peer:
                number = await peer.opened()
                monkeypatch.setattr(Http2Server, "_handle", counted)
                for _ in range(2500):
                    peer.h2.ping(bytes(8))
                peer.h2.send_data(number, HELLO)
                await peer.flush()
                if leaves:
                    await peer.close()
                    await until(lambda: not server.connections)
                else:
                    assert await peer.data(number, len(ANSWER)) == ANSWER
        assert got == ["hello"]
        assert max(turns.values()) <= 3 * 10

    run(main)


@pytest.mark.parametrize("how", ["stream", "connection"])
def test_a_send_to_a_peer_that_has_gone_behind_what_nobody_reads(how: str) -> None:
    """The stream stays until that has been read; what a program sends meanwhile must not be dropped without a word."""

    async def main() -> None:
        is_reset, ended = asyncio.Event(), list[zcws.ConnectionClosed]()

        async def handler(ws: zcws.WebSocket) -> None:
            await is_reset.wait()
            ended.append(await keep_sending(ws))

        async with serve(handler, close_timeout=0.1) as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            (ws,) = server.connections
            piece = wire.frame(wire.BINARY, bytes(1000), key=wire.KEY) * 16
            while not ws._reading_paused or not ws._transport._held:  # type: ignore[union-attr]
                if peer.h2.local_flow_control_window(number) < len(piece):
                    await peer.until(WindowUpdated, number)
                await peer.send(number, piece)
                await asyncio.sleep(0.001)
            if how == "stream":
                peer.h2.reset_stream(number, ErrorCodes.CANCEL)
                await peer.flush()
                transport: Any = ws._transport
                await until(lambda: transport.has_all)
            else:
                await peer.close()
                await until(lambda: not server.handshakes)
            is_reset.set()
            await until(lambda: ended)
            assert ended[0].code == 1006
            await until(lambda: not server.connections)

    run(main)


def test_the_transport_is_paused_while_frames_are_left_for_the_next_turn() -> None:
    """Or a peer that sends small frames faster than they are read would fill the memory with them."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            await peer.opened()
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            transport, paused = connection.transport, 0
            assert transport is not None
            peer.h2.ping(bytes(8))
            connection.data_received(peer.h2.data_to_send() * (4 * http2._MOST_FRAMES))
            while connection._unread:
                paused += not transport.is_reading()
                await asyncio.sleep(0)
            assert paused == 3
            assert transport.is_reading()

    run(main)


def test_what_comes_while_frames_are_left_for_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.10's TLS reads on while it is paused: that is behind them, and may begin in the middle of a frame."""
    monkeypatch.setattr(http2, "_MOST_FRAMES", 10)

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            await peer.opened()
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            for number in range(100):
                peer.h2.ping(number.to_bytes(8, "big"))
            said = peer.h2.data_to_send()
            for at in range(0, len(said), 505):
                connection.data_received(said[at : at + 505])
            for number in range(100):
                ack = await peer.until(PingAckReceived)
                assert ack.ping_data == number.to_bytes(8, "big")

    run(main)


@pytest.mark.parametrize("first", ["the frames", "the end"])
def test_frames_that_are_left_when_we_end_the_connection(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """As on a socket: nobody is told of them, or only with the end, and nothing fails."""
    monkeypatch.setattr(http2, "_MOST_FRAMES", 1)
    reported: list[Any] = []
    got: list[str | bytes] = []

    async def handler(ws: zcws.WebSocket) -> None:
        async for message in ws:
            got.append(message)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with serve(handler) as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            peer.h2.ping(bytes(8))
            peer.h2.send_data(number, HELLO)
            said = peer.h2.data_to_send()
            if first == "the end":
                connection.abort()
            connection.data_received(said)
            assert connection._unread
            connection.abort()
            await until(lambda: not server.connections and not server.handshakes)
            await asyncio.sleep(0)
            assert got == ([] if first == "the frames" else ["hello"])

    run(main)
    assert not reported


@pytest.mark.parametrize("opens", [False, True])
def test_requests_that_are_left_when_the_connection_is_gone(opens: bool) -> None:
    """Nobody can be answered. A client that asked 2,000 times and left held up everybody else for a second. But what it
    has said on as many streams as there may be is heard."""
    asked: list[str] = []
    got: list[str | bytes] = []

    def hook(_: Any, request: zcws.Request) -> None:
        asked.append(request.path)

    async def handler(ws: zcws.WebSocket) -> None:
        async for message in ws:
            got.append(message)

    async def main() -> None:
        async with serve(handler, process_request=hook) as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            for _ in range(http2._MOST_FRAMES):
                peer.h2.ping(bytes(8))
            fields = [(":scheme", "http"), (":path", "/late"), (":authority", "a")]
            first = [(":method", "CONNECT"), (":protocol", "websocket")] if opens else [(":method", "GET")]
            version = [("sec-websocket-version", "13")] if opens else []
            peer.h2.remote_settings[3] = 1000
            peer.h2.remote_settings.acknowledge()
            for late in range(3, 303, 2):
                peer.h2.send_headers(late, [*first, *fields, *version], end_stream=not opens)
                if opens:
                    peer.h2.send_data(late, HELLO)
            peer.h2.send_data(number, HELLO)
            connection.abort()
            connection.data_received(peer.h2.data_to_send())
            await until(lambda: not server.connections and not server.handshakes)
            assert len(asked) == MOST_STREAMS
            assert got == ["hello"] * (MOST_STREAMS if opens else 1)

    run(main)


def test_what_waits_for_a_peer_that_has_reset_its_stream_is_dropped() -> None:
    """Also where its owner has more to read first, and the stream stays until then: who waits to send goes on."""
    go = asyncio.Event()

    async def push(ws: zcws.WebSocket) -> None:
        await ws.send(bytes(500_000))
        await go.wait()

    async def main() -> None:
        async with serve(push) as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            stream = connection.streams[number]
            while stream.is_reading() or not stream._held:
                while peer.h2.local_flow_control_window(number) < 16_000:
                    await peer.until(WindowUpdated, number)
                await peer.send(number, wire.frame(wire.BINARY, bytes(15_000), key=wire.KEY))
                await asyncio.sleep(0)
            assert stream.get_write_buffer_size()
            peer.h2.reset_stream(number)
            await peer.flush()
            await until(lambda: stream.has_all)
            assert connection.streams and not stream.get_write_buffer_size()
            go.set()

    run(main)


def test_the_first_of_two_streams_finds_that_nothing_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a round: the second is over as well then, and is not asked for its bytes."""
    trust = certificates()
    reported: list[Any] = []

    def page(*_: Any) -> zcws.Response:
        return zcws.Response(200, "OK", None, bytes(100_000))

    def fails(*_: Any) -> int:
        raise OSError(errno.EHOSTUNREACH, "no route")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with serve(process_request=page, ssl=trust.server) as server:
            streams = await asyncio.open_connection("127.0.0.1", port_of(server), ssl=trust.client)
            peer = Peer(*streams, is_client=True)
            await peer.begin(MAX_FRAME_SIZE=2**18, INITIAL_WINDOW_SIZE=2**20)
            peer.h2.increment_flow_control_window(2**20)
            peer.h2.ping(bytes(8))
            await peer.until(PingAckReceived)
            fields = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a")]
            for number in (1, 3):
                peer.h2.send_headers(number, fields, end_stream=True)
            with monkeypatch.context() as patched:
                patched.setattr(sending, "_write", fails)
                await peer.flush()
                await until(lambda: not server.handshakes)
            await peer.close()

    run(main)
    assert not reported


def test_who_has_nothing_more_to_say_has_no_turn() -> None:
    """It would be asked whenever another stream sends."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            await peer.send(number, HELLO)
            assert await peer.data(number, len(ANSWER)) == ANSWER
            assert not connection._sending

    run(main)


def test_nobody_remembers_that_a_stream_that_is_gone_had_more_to_say() -> None:
    """Each one would be kept, and asked again whenever something is sent."""

    async def main() -> None:
        async def push(ws: zcws.WebSocket) -> None:
            await ws.send(bytes(100_000))

        async with serve(push) as server, knock(port_of(server)) as peer:
            (first, second) = await peer.opened(), await peer.opened()
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            await until(lambda: len(connection._sending) == 2)
            for number in (first, second):
                peer.h2.reset_stream(number)
            await peer.flush()
            await until(lambda: not connection.streams)
            assert not connection._sending

    run(main)


def test_padding_counts_and_is_given_back() -> None:
    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            for _ in range(2500):
                while peer.h2.local_flow_control_window(number) < 1000:
                    await peer.until(WindowUpdated, number)
                await peer.send(number, b"", pad_length=255)
            await peer.send(number, HELLO)
            assert await peer.data(number, len(ANSWER)) == ANSWER

    run(main)


def test_what_has_arrived_for_a_stream_that_is_gone_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the window of the connection would be used up, stream by stream."""

    monkeypatch.setattr(http2_frames, "MOST_STREAMS", 2)

    async def main() -> None:
        async def leave(ws: zcws.WebSocket) -> None:
            await asyncio.sleep(0.001)
            ws.abort()

        async with serve(leave) as server, knock(port_of(server)) as peer:
            for _ in range(20):
                number = await peer.opened()
                for _ in range(15):
                    await peer.send(number, wire.frame(wire.BINARY, bytes(14_000), key=wire.KEY))
                await peer.until(StreamReset, number)

    run(main)


def test_what_came_together_with_the_request_of_a_stream_that_is_gone_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """h2 gives back only what it hears behind our reset: this it has heard already."""
    monkeypatch.setattr(http2_frames, "MOST_STREAMS", 2)

    async def main() -> None:
        def refuse(handshake: Any, _: zcws.Request) -> None:
            handshake.transport.abort()

        async with serve(process_request=refuse) as server, knock(port_of(server)) as peer:
            for _ in range(60):
                number = await peer.ask()
                await peer.send(number, bytes(14_000))
                await peer.until(StreamReset, number)

    run(main)


def test_a_hook_that_fails_by_no_exception_is_answered_on_its_own_stream() -> None:
    """The result of a future that is cancelled is one that `except Exception` does not see."""

    def hook(_: Any, request: zcws.Request) -> None:
        if request.path == "/fails":
            raise asyncio.CancelledError

    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        async with serve(process_request=hook) as server, knock(port_of(server)) as peer:
            second = await peer.opened()
            first = await peer.ask("/fails")
            await peer.send(second, HELLO)
            assert await peer.status(first) == "500"
            assert await peer.data(second, len(ANSWER)) == ANSWER
            await peer.send(second, CLOSE, end_stream=True)
        assert told == []

    run(main)


@pytest.mark.parametrize("where", ["on_frame", "a hook"])
def test_what_ends_the_loop_takes_nothing_from_other_streams(where: str) -> None:
    """SystemExit in one stream: the program may run its loop again, to close the server. What had come in the same read
    was missing, and nothing was sent until something came."""
    shown: list[str] = []

    def show(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
        shown.append(frame.text)
        if len(shown) == 1 and where == "on_frame":
            raise SystemExit

    def hook(_: Any, request: zcws.Request) -> None:
        if request.path == "/leaves" and where == "a hook":
            raise SystemExit

    async def start() -> tuple[zcws.Server, Peer, list[int]]:
        server = await serve(None, on_frame=show, process_request=hook)
        peer = Peer(*await asyncio.open_connection("127.0.0.1", port_of(server)), is_client=True)
        await peer.begin()
        return server, peer, [await peer.opened(), await peer.opened()]

    async def send() -> None:
        fields = {"method": "GET", "scheme": "http", "path": "/leaves", "authority": "a"}
        peer.h2.send_headers(5, [(f":{name}", value) for name, value in fields.items()], end_stream=True)
        for number in numbers:
            peer.h2.send_data(number, HELLO)
        peer.h2.ping(bytes(8))
        await peer.flush()
        await asyncio.sleep(LONG)

    async def go_on() -> None:
        await peer.until(PingAckReceived)
        await until(lambda: len(shown) == 2)
        (ws,) = (each for each in server.connections if each.get_extra_info("http2_stream") == numbers[1])
        ws.send_nowait("hello")
        assert await peer.data(numbers[1], len(ANSWER)) == ANSWER
        await peer.close()
        server.close()
        await server.wait_closed()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        server, peer, numbers = loop.run_until_complete(start())
        with pytest.raises(SystemExit):
            loop.run_until_complete(send())
        loop.run_until_complete(soon(go_on()))


# ---- what a peer must not do ----


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x10\x00\x00\x00\x00\x00\x00\x00\x01", ErrorCodes.FRAME_SIZE_ERROR),
        (b"\x10", None),  # nothing is wrong with it, yet
        # a head that does not end
        (
            b"\0\0\1\1\0\0\0\0\3\0" + b"\1\0\0\x09\0\0\0\0\3" + bytes(65_536) + b"\0\0\1\x09",
            ErrorCodes.ENHANCE_YOUR_CALM,
        ),
        (PING_ON_A_STREAM, ErrorCodes.PROTOCOL_ERROR),
    ],
)
def test_a_rule_of_http_2_that_is_broken(data: bytes, code: ErrorCodes | None) -> None:
    """A frame that is too long is refused by its head: h2 would wait for all of its megabyte first."""

    async def main() -> None:
        ends = []

        async def handler(ws: zcws.WebSocket) -> None:
            with pytest.raises(zcws.ConnectionClosed) as caught:
                await ws.recv()
            ends.append(caught.value)

        async with serve(handler) as server, knock(port_of(server)) as peer:
            await peer.opened()
            peer.writer.write(data)
            if code is None:
                peer.writer.close()
            else:
                assert await peer.until_the_end() == code
            await until(lambda: ends)
            assert ends[0].code == 1006
            assert code is None or "a rule of HTTP/2" in str(ends[0].__cause__)

    run(main)


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (b"\x10\0\0\0\0\0\0\0\1", ErrorCodes.FRAME_SIZE_ERROR),
        # a head that does not end
        (
            b"\0\0\1\1\0\0\0\0\7\0" + b"\1\0\0\x09\0\0\0\0\7" + bytes(65_536) + b"\0\0\1\x09",
            ErrorCodes.ENHANCE_YOUR_CALM,
        ),
        (PING_ON_A_STREAM, ErrorCodes.PROTOCOL_ERROR),
        # room on one that nobody has opened, padding that is longer than its frame
        (b"\0\0\4\x08\0\0\0\0\x63\0\0\0\1", ErrorCodes.PROTOCOL_ERROR),
        (b"\0\0\1\0\x08\0\0\0\1\xff", ErrorCodes.PROTOCOL_ERROR),
        # a head that is not compressed as RFC 7541 has it
        (b"\0\0\1\1\4\0\0\0\7\xff", ErrorCodes.PROTOCOL_ERROR),
        # a stream of ours, which is a client's frame for nobody
        (b"\0\0\5\5\4\0\0\0\1\0\0\0\2\x82", ErrorCodes.PROTOCOL_ERROR),
    ],
)
def test_what_came_before_a_rule_was_broken(broken: bytes, code: ErrorCodes) -> None:
    """In the same read: it is heard and answered, before the end is told. As over HTTP/1.1."""
    got: list[str | bytes] = []

    async def handler(ws: zcws.WebSocket) -> None:
        async for message in ws:
            got.append(message)
            await ws.send(message)

    async def main() -> None:
        async with serve(handler) as server, knock(port_of(server)) as peer:
            numbers = [await peer.opened(), await peer.opened()]
            peer.h2.ping(b"are you?")
            for number in numbers:
                peer.h2.send_data(number, HELLO)
            peer.h2.send_headers(5, [(":method", "CONNECT"), (":authority", "a")])
            peer.writer.write(peer.h2.data_to_send() + broken)
            assert await peer.until_the_end() == code
        kinds = (PingAckReceived, ResponseReceived, DataReceived, ConnectionTerminated)
        said = [type(event) for event in peer.events if isinstance(event, kinds)]
        assert said == [PingAckReceived, ResponseReceived, DataReceived, DataReceived, ConnectionTerminated]
        assert got == ["hello", "hello"]

    run(main)


def test_a_rule_of_http_2_that_is_broken_on_one_stream() -> None:
    """RFC 9113 6.9.1: a window that is too large. The stream ends, and its owner hears why; the connection goes on."""
    causes: list[str] = []

    async def handler(ws: zcws.WebSocket) -> None:
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            await ws.recv()
        causes.append(repr(caught.value.__cause__))

    async def main() -> None:
        async with serve(handler) as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            peer.writer.write(b"\0\0\4\x08\0" + number.to_bytes(4, "big") + b"\x7f\xff\xff\xff")
            assert (await peer.until(StreamReset, number)).error_code == ErrorCodes.FLOW_CONTROL_ERROR
            await until(lambda: causes)
            assert causes == [
                "ConnectionAbortedError('the peer broke a rule of HTTP/2: FLOW_CONTROL_ERROR')",
            ]
            peer.h2.reset_stream(await peer.opened(), ErrorCodes.CANCEL)
            await peer.flush()
            await until(lambda: len(causes) == 2)
            assert causes[1] == "ConnectionResetError('the peer has reset the HTTP/2 stream: CANCEL')"

    run(main)


def test_what_a_peer_may_have_us_remember_of_heads() -> None:
    """RFC 7541 4.2: it says how much, which is an offer. All of it is looked through for each head."""
    told: list[int] = []

    def hook(handshake: Any, request: zcws.Request) -> zcws.Response:
        told.append(len(told))
        response: zcws.Response = handshake.respond(403, "no")
        response.headers["Set-Cookie"] = f"{len(told)}{'x' * 1000}"
        return response

    async def main() -> None:
        async with serve(process_request=hook) as server, knock(port_of(server)) as peer:
            peer.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**32 - 1})
            for _ in range(20):
                assert await peer.status(await peer.ask()) == "403"
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            remembered = connection._h2.encoder.header_table.dynamic_entries
            assert sum(len(entry[1]) for entry in remembered) <= 4096

    run(main)


@pytest.mark.parametrize("sizes", [[0], [0, 4096], [100, 0, 100, 100], [2**32 - 1, 0], [65_536], [4096]])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_peer_that_changes_how_much_is_remembered_of_heads(sizes: list[int], at_once: bool) -> None:
    """RFC 7541 4.2: our next head says so, or it is no head for who has made his table smaller."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            await peer.opened()
            for size in sizes:
                peer.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: size})
                if not at_once:
                    await peer.flush()
                    await peer.until(SettingsAcknowledged)
            for _ in range(3):
                await peer.opened()

    run(main)


def test_what_a_peer_may_set_again_and_again() -> None:
    """RFC 9113 6.5.2: what nobody knows is not kept. RFC 7541 4.2: the next head tells two changes of its table."""

    def setting(code: int, value: int) -> bytes:
        return b"\0\0\6\4\0\0\0\0\0" + code.to_bytes(2, "big") + value.to_bytes(4, "big")

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            await peer.opened()
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            peer.writer.write(b"".join(setting(code, 1) for code in range(100, 400)))
            peer.writer.write(setting(1, 0) + (setting(1, 100) + setting(1, 2000)) * 200)
            peer.h2.ping(bytes(8))
            await peer.flush()
            while not any(isinstance(event, PingAckReceived) for event in peer.events):
                data = await soon(peer.reader.read(2**16))  # there are answers to what its h2 has not said
                peer.events += peer.h2.receive_data(data.replace(b"\0\0\0\4\1\0\0\0\0", b""))
            assert connection._h2.encoder.table_size_changes == [0, 2000]
            assert len(connection._h2.remote_settings) <= len(SettingCodes)
            await peer.opened()  # its h2 understands that head

    run(main)


def test_frames_of_a_byte_for_a_stream_that_nobody_reads() -> None:
    """They are kept as what they say: each as an object of its own would be 300 times that."""
    tracemalloc = pytest.importorskip(
        "tracemalloc", reason="PyPy does not count its memory", exc_type=ImportError
    )

    async def handler(_: zcws.WebSocket) -> None:
        await go.wait()

    go = asyncio.Event()

    async def main() -> None:
        async with serve(handler, close_timeout=0.1) as server:
            async with knock(port_of(server)) as peer:
                number = await peer.opened()
                (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
                stream = connection.streams[number]
                said = wire.frame(wire.BINARY, bytes(15_000), key=wire.KEY)
                while stream.is_reading():
                    while peer.h2.local_flow_control_window(number) < 16_000:
                        await peer.until(WindowUpdated, number)
                    await peer.send(number, said)
                    await asyncio.sleep(0)
                before, frames = len(stream._held), 5000
                tracemalloc.start()
                for at in range(frames):
                    peer.h2.send_data(number, said[at : at + 1])
                await peer.flush()
                await until(lambda: len(stream._held) == before + frames)
                kept = sum(
                    line.size
                    for line in tracemalloc.take_snapshot().statistics("filename")
                    if any(part in str(line.traceback) for part in ("zcws/aio", "hyperframe"))
                )
                tracemalloc.stop()
                go.set()
                assert kept < 20 * frames

    run(main)


def test_a_peer_that_goes_away_gets_what_it_was_to_be_sent() -> None:
    """Streams go on: a head that is lost would spoil those behind it, and room that is lost never comes back."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            peer.h2.ping(b"are you?")
            peer.h2.close_connection()
            await peer.send(number, HELLO)
            assert (await peer.until(PingAckReceived)).ping_data == b"are you?"
            assert await peer.data(number, len(ANSWER)) == ANSWER
            await peer.send(number, CLOSE, end_stream=True)

    run(main)


def test_a_peer_that_asks_and_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Ping of HTTP/2 is answered: what is owed is bounded."""
    monkeypatch.setattr(http2, "_MOST_OWED", 200_000)

    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        async with zcws.serve(echo, sock=listening, http2=True) as server:
            # Else the peer's kernel takes megabytes of Pings and of answers before the server owes any.
            peer = socket.socket()
            for size in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                peer.setsockopt(socket.SOL_SOCKET, size, 10_000)
            peer.connect(("127.0.0.1", port_of(server)))
            _, writer = await asyncio.open_connection(sock=peer, limit=1)
            writer.write(PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(ping * 10_000)
                    await soon(writer.drain())
                    await asyncio.sleep(0)
            await until(lambda: not server.handshakes)
            await hang_up(writer)

    run(main)


# ---- ends ----


def test_the_last_that_a_connection_says() -> None:
    """It ends with its last stream when it goes away, and what that has said last goes first."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            peer.h2.close_connection()
            await peer.send(number, HELLO + CLOSE, end_stream=True)
            assert [frame.payload for frame in wire.parse(await peer.data(number, len(ANSWER) + 4))] == [
                b"hello",
                wire.close_payload(1000),
            ]
            await peer.until(StreamEnded, number)
            await peer.until_the_end()


class Transport(asyncio.Transport):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return "close" in self.told

    def write(self, data: Any) -> None:
        self.told.append("write")

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.told.append("close")


def test_the_last_stream_ends_when_there_is_room_again() -> None:
    """And the connection with it: asyncio must not be told that from inside of `resume_writing`."""

    async def main() -> None:
        async with serve() as server:
            protocol, transport = Http2Server(server), Transport()
            told = transport.told
            protocol.connection_made(transport)
            peer = H2Connection(H2Configuration(client_side=True))
            peer.initiate_connection()
            fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
            peer.send_headers(1, fields, end_stream=True)
            peer.close_connection()
            protocol.pause_writing()
            protocol.data_received(peer.data_to_send())
            told.clear()
            protocol.resume_writing()
            assert not told
            await until(lambda: "close" in told)
            assert told == ["write", "close"]
            protocol.connection_lost(None)

    run(main)


def test_nothing_is_written_to_a_transport_that_closes() -> None:
    """asyncio's TLS would log a warning, and its other transports would send it behind what we have said last."""

    async def main() -> None:
        async with serve() as server:
            protocol, transport = Http2Server(server), Transport()
            protocol.connection_made(transport)
            protocol.close()
            told = list(transport.told)
            peer = H2Connection(H2Configuration(client_side=True))
            peer.initiate_connection()
            peer.ping(bytes(8))
            protocol.data_received(peer.data_to_send())
            protocol.flush()
            assert transport.told == told
            protocol.connection_lost(None)

    run(main)


def test_a_client_that_leaves_while_the_server_goes_away() -> None:
    """The last stream ends with the connection, which then has nothing left to close."""
    reported: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with serve() as server:
            async with knock(port_of(server)) as peer:
                await peer.opened()
                (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
                connection.go_away()
                await peer.until(ConnectionTerminated)
            await until(lambda: not server.handshakes and not server.connections)
            assert connection.transport is None
            assert not connection.has_unread()
            connection._h2.ping(bytes(8))
            connection.close()  # nobody is there to be told anything

    run(main)
    assert not reported


@pytest.mark.parametrize("has_stream", [False, True])
def test_a_connection_that_can_send_nothing_ends_with_its_last_stream(
    monkeypatch: pytest.MonkeyPatch, has_stream: bool
) -> None:
    """Over the engine's TLS it is still read. Its peer may never end it: the route to him is gone."""
    trust = certificates()

    def fails(*_: Any) -> int:
        raise OSError(errno.EHOSTUNREACH, "no route")

    async def main() -> None:
        async with serve(swallow, ssl=trust.server, open_timeout=None, close_timeout=0.05) as server:
            streams = await asyncio.open_connection("127.0.0.1", port_of(server), ssl=trust.client)
            peer = Peer(*streams, is_client=True)
            await peer.begin()
            if has_stream:
                await peer.opened()
            peer.h2.ping(bytes(8))
            await until(lambda: any(isinstance(each, Http2Server) for each in server.handshakes))
            with monkeypatch.context() as patched:
                patched.setattr(sending, "_write", fails)
                await peer.flush()
                await until(lambda: not server.handshakes and not server.connections)
            await peer.close()

    run(main)


@pytest.mark.parametrize("way", ["clear", "tls-engine", "tls-transport", "tls-transport, paused"])
@pytest.mark.parametrize("turns", [0, 1])
def test_last_words_of_a_peer_that_takes_nothing_more(
    monkeypatch: pytest.MonkeyPatch, way: str, turns: int
) -> None:
    """What is sent fails, and what the peer has said before is read: it was 1006. Also where reading was paused then,
    as it is for a turn when many frames have come at once: these words were left in TLS."""
    if way.startswith("tls-transport"):
        monkeypatch.setenv("ZCWS_ENGINE", "0")
    trust = None if way == "clear" else certificates()

    async def main() -> None:
        done = asyncio.Event()

        async def hold(ws: zcws.WebSocket) -> None:
            await done.wait()

        async with serve(hold, ssl=trust and trust.server) as server:
            streams = await asyncio.open_connection("127.0.0.1", port_of(server), ssl=trust and trust.client)
            peer = Peer(*streams, is_client=True)
            await peer.begin()
            number = await peer.opened()
            (ws,) = server.connections
            if way.endswith("paused"):
                ws._transport._connection.transport.pause_reading()  # type: ignore[union-attr]
            words = wire.frame(wire.TEXT, b"last words", key=wire.KEY)
            words += wire.frame(wire.CLOSE, wire.close_payload(3000, b"bye"), key=wire.KEY)
            peer.h2.send_data(number, words)
            peer.writer.write(peer.h2.data_to_send())
            RawPeer(*streams, masks=True).cut()
            try:
                with contextlib.suppress(zcws.ConnectionClosed):
                    for _ in range(2):  # the first only learns that the peer is gone
                        await ws.send(b"x")
                        await ws.flush()
                    while way.endswith("paused"):  # nobody reads, so only a write can fail
                        await ws.send(b"x")
                        await asyncio.sleep(0.001)
                for _ in range(turns):
                    await asyncio.sleep(0)
                assert await soon(ws.recv()) == "last words"
                await soon(ws.wait_closed())
                assert (ws.close_code, ws.close_reason) == (3000, "bye")
            finally:
                done.set()
            await peer.close()

    run(main)


@pytest.mark.parametrize(
    "how", ["end", "end, reset", "end, connection lost", "connection lost", "reset", "a rule is broken"]
)
def test_what_came_before_an_end_can_be_read_late(how: str) -> None:
    """By whoever is busy meanwhile, and has more to read than a ring holds."""
    got: list[int] = []
    count = 25  # a ring, which is a window, and half of one before it

    async def main() -> None:
        go, ended = asyncio.Event(), asyncio.Event()

        async def handler(ws: zcws.WebSocket) -> None:
            await go.wait()
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                while True:
                    got.append(len(await ws.recv()))
            said = str(caught.value.__cause__)
            assert ("a rule of HTTP/2" in said) == ("rule" in how)
            assert ("NO_ERROR" in said) == (how == "reset")
            assert (said == "None") == (how not in ("reset", "a rule is broken"))
            ended.set()

        async with serve(handler) as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            for i in range(count):
                while peer.h2.local_flow_control_window(number) < 16_000:
                    await peer.until(WindowUpdated, number)
                data = wire.frame(wire.BINARY, bytes(15_000), key=wire.KEY)
                await peer.send(number, data, end_stream="end" in how and i == count - 1)
            if "reset" in how:
                peer.h2.reset_stream(number, ErrorCodes.NO_ERROR)
                await peer.flush()
            if "rule" in how:
                peer.writer.write(PING_ON_A_STREAM)
                await peer.until_the_end()
            if "connection" in how:
                await peer.close()
            await asyncio.sleep(0.05)
            go.set()
            await soon(ended.wait())
            assert len(got) == count
            is_over = "connection" in how or "rule" in how
            await until(lambda: not server.connections and bool(server.handshakes) != is_over)

    run(main)


# ---- no memory ----


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("zcws.aio.http2_frames.H2", "hear"),
        ("zcws.aio.http2_frames.H2", "data_to_send"),
        ("zcws.aio.http2_frames.H2", "send_data"),
        ("zcws.aio.http2_frames.H2", "acknowledge_received_data"),
        ("zcws.aio.http2_stream.Http2Stream", "take"),
    ],
)
def test_without_memory_nobody_goes_on_behind_a_gap(
    where: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What h2 had done half of, or a stream had given away, was missing, and all of them waited for it."""
    reported: list[Any] = []

    async def answer_later(ws: zcws.WebSocket) -> None:
        async for message in ws:
            await asyncio.sleep(0)  # not while somebody reads, whom his transport would end
            await ws.send(message)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context.get("exception"))
        )
        async with serve(answer_later) as server, knock(port_of(server)) as peer:
            number = await peer.opened("/one")
            await peer.opened("/two")

            def fails(*what: Any, **options: Any) -> None:
                patched.undo()
                raise MemoryError

            with monkeypatch.context() as patched:
                patched.setattr(f"{where}.{name}", fails)
                with contextlib.suppress(ConnectionError):
                    await peer.send(number, HELLO)
                    await until(lambda: not server.connections)
            await until(lambda: not server.handshakes)

    run(main)
    assert {type(error) for error in reported} == {MemoryError}


def test_a_signal_handler_that_raises_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What h2 had heard by then was missing, and the streams went on behind it when the loop ran again."""

    def fails(*_: Any) -> None:
        patched.undo()
        raise KeyboardInterrupt

    async def start() -> tuple[zcws.Server, Peer, int]:
        server = await serve(swallow)
        peer = Peer(*await asyncio.open_connection("127.0.0.1", port_of(server)), is_client=True)
        await peer.begin()
        return server, peer, await peer.opened()

    async def send() -> None:
        await peer.send(number, HELLO)
        await asyncio.sleep(LONG)

    async def go_on() -> None:
        await until(lambda: not server.connections and not server.handshakes)
        await peer.close()
        server.close()
        await server.wait_closed()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        server, peer, number = loop.run_until_complete(start())
        with monkeypatch.context() as patched:
            patched.setattr("zcws.aio.http2_frames.H2.hear", fails)
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(send())
        loop.run_until_complete(soon(go_on()))


@pytest.mark.parametrize("name", ["drop_held", "lose"])
def test_without_memory_the_owner_of_a_stream_that_is_over_is_told_all_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the end of the connection: its handler would wait for ever."""
    reported: list[Any] = []
    method = getattr(Http2Stream, name)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context.get("exception"))
        )
        async with serve(swallow) as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            await peer.opened()

            def fails(*what: Any) -> None:
                monkeypatch.setattr(Http2Stream, name, method)
                raise MemoryError

            monkeypatch.setattr(Http2Stream, name, fails)
            peer.h2.reset_stream(number)
            await peer.flush()
            await peer.until_the_end()
            await until(lambda: not server.connections and not server.handshakes)

    run(main)
    assert {type(error) for error in reported} == {MemoryError}
