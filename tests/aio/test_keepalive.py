from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import wire
from net import LONG, SHORT, Place, RawPeer, soon, swallow, until
from peaks import peak_of

import zcws
from zcws.aio.keepalive import Keepalive, Latency, Pings


class Peer:
    """What `Keepalive` keeps alive; it says what it is asked."""

    def __init__(self, *, hears: bool, is_open: bool = True) -> None:
        self.hears = hears
        self.is_open = is_open
        self.is_unread = False
        self.pings = 0
        self.failed = 0

    def heard(self) -> bool:
        return self.hears

    def has_unread(self) -> bool:
        return self.is_unread

    def send_keepalive(self) -> bool:
        self.pings += 1
        return self.is_open

    def keepalive_failed(self) -> None:
        self.failed += 1


#: For a server whose Pings a test calls overdue.
OVERDUE: dict[str, Any] = {"ping_interval": 1000, "ping_timeout": 1000, "close_timeout": 0.1}


def is_given_up(ws: zcws.WebSocket) -> bool:
    """When its peer's time to answer a Ping is over at this moment, while the event loop has not stood still."""
    if (keepalive := ws._keepalive) is not None:
        keepalive.stop()
        keepalive._due = due = keepalive._loop.time()
        keepalive._wake(due)
    return ws.close_code == 1011


class Clock:
    """The part of an event loop that `Keepalive` needs, where nothing takes time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.next: tuple[float, Callable[[float], None], float] | None = None

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[float], None], argument: float) -> None:
        self.next = when, call, argument

    def turn(self) -> None:
        if self.next is not None:
            (self.now, call, argument), self.next = self.next, None
            call(argument)


class TestKeepalive:
    def test_it_goes_on_while_something_is_heard(self, anyloop: Place) -> None:
        async def main() -> None:
            peer = Peer(hears=True)
            keepalive = Keepalive(asyncio.get_running_loop(), peer, interval=0.002, timeout=0.001)
            await until(lambda: peer.pings >= 5)
            assert peer.failed == 0
            keepalive.stop()
            keepalive.stop()
            pings = peer.pings
            await asyncio.sleep(0.02)
            assert peer.pings == pings

        anyloop.run(main())

    def test_it_fails_once_when_nothing_is(self) -> None:
        peer, clock = Peer(hears=False), Clock()
        Keepalive(clock, peer, interval=1, timeout=1)  # type: ignore[arg-type]
        for _ in range(10):
            clock.turn()
        assert (peer.pings, peer.failed) == (1, 1)

    def test_without_a_timeout_nothing_is_expected(self, anyloop: Place) -> None:
        async def main() -> None:
            peer = Peer(hears=False)
            keepalive = Keepalive(asyncio.get_running_loop(), peer, interval=0.001, timeout=None)
            await until(lambda: peer.pings >= 5)
            assert peer.failed == 0
            keepalive.stop()

        anyloop.run(main())

    @pytest.mark.parametrize("hears", [True, False])
    def test_a_timeout_that_is_longer_than_the_interval(self, anyloop: Place, hears: bool) -> None:
        """The next Ping waited for it: every 60 seconds with 30 and 60, where a proxy cuts what is silent for 60."""

        async def main() -> None:
            peer = Peer(hears=hears)
            keepalive = Keepalive(asyncio.get_running_loop(), peer, interval=0.001, timeout=LONG)
            await until(lambda: peer.pings >= 5)
            assert peer.failed == 0
            keepalive.stop()

        anyloop.run(main())

    @pytest.mark.parametrize("last_heard", [1, 3])
    def test_the_first_ping_since_anything_was_heard_has_the_timeout(self, last_heard: int) -> None:
        """Of a hundred seconds, with a Ping every thirty."""
        peer, clock = Peer(hears=True), Clock()
        Keepalive(clock, peer, interval=30, timeout=100)  # type: ignore[arg-type]
        while not peer.failed:
            peer.hears = peer.pings < last_heard
            clock.turn()
        assert clock.now == 30 * last_heard + 100 and peer.pings == last_heard + 3

    def test_a_connection_that_is_closing_needs_no_more(self, anyloop: Place) -> None:
        async def main() -> None:
            peer = Peer(hears=False, is_open=False)
            Keepalive(asyncio.get_running_loop(), peer, interval=0.001, timeout=0.001)
            await until(lambda: peer.pings)
            await asyncio.sleep(0.02)
            assert (peer.pings, peer.failed) == (1, 0)

        anyloop.run(main())


class TestPings:
    def test_rfc6455_5_5_3_a_pong_answers_every_earlier_ping(self, anyloop: Place) -> None:
        async def main() -> None:
            pings, loop = Pings(), asyncio.get_running_loop()
            futures = {payload: loop.create_future() for payload in (b"1", b"2", b"3")}
            for payload, future in futures.items():
                pings.sent(payload, future)
            pings.answered(b"nobody sent this")
            assert not any(future.done() for future in futures.values())
            pings.answered(b"2")
            assert [future.done() for future in futures.values()] == [True, True, False]
            assert pings.latency == futures[b"2"].result() > 0
            pings.answered(b"2")  # again: nobody waits for it any more
            pings.answered(b"3")
            assert futures[b"3"].done()

        anyloop.run(main())

    def test_a_pong_costs_the_same_however_many_wait(self) -> None:
        """Each had all that waited copied: 67 us with 10,000 of them."""
        pings = Pings()
        for number in range(10_000):
            pings.sent(b"%d" % number, None)
        assert peak_of(lambda: pings.answered(b"0")) < 10_000 and len(pings._waiting) == 9999

    def test_the_same_payload_cannot_wait_twice(self) -> None:
        pings = Pings()
        pings.sent(b"x", None)
        with pytest.raises(ValueError, match="already"):
            pings.sent(b"x", None)
        pings.forget(b"x")
        pings.forget(b"x")
        pings.sent(b"x", None)

    def test_keepalive_remembers_its_last_few(self, anyloop: Place) -> None:
        """An answer that took longer than it was to the next Ping was not counted."""

        async def main() -> None:
            pings, future = Pings(), asyncio.get_running_loop().create_future()
            pings.sent(b"of the program", future)
            for number in range(100):
                pings.sent_keepalive(b"%d" % number)
            assert len(pings._waiting) == 8
            pings.answered(b"92")
            assert pings.latency == 0 and not future.done()
            pings.answered(b"93")
            assert pings.latency > 0 and future.done() and len(pings._waiting) == 6

        anyloop.run(main())

    def test_fresh_payloads_differ(self) -> None:
        pings = Pings()
        payloads = set()
        for _ in range(50):
            payload = pings.fresh_payload()
            pings.sent(payload, None)
            payloads.add(payload)
        assert len(payloads) == 50

    def test_one_whose_waiter_has_gone(self, anyloop: Place) -> None:
        async def main() -> None:
            pings, future = Pings(), asyncio.get_running_loop().create_future()
            pings.sent(b"x", future)
            future.cancel()
            pings.answered(b"x")
            assert pings.latency > 0

        anyloop.run(main())

    def test_no_pong_will_come(self, anyloop: Place) -> None:
        async def main() -> None:
            pings, loop = Pings(), asyncio.get_running_loop()
            waiting, gone = loop.create_future(), loop.create_future()
            pings.sent(b"1", waiting)
            pings.sent(b"2", gone)
            pings.sent(b"3", None)
            gone.cancel()
            pings.fail(lambda: zcws.ConnectionClosedError(1006))
            with pytest.raises(zcws.ConnectionClosedError):
                await waiting
            pings.sent(b"1", None)  # nothing is left

        anyloop.run(main())


def test_a_latency_is_seconds_and_may_be_awaited() -> None:
    async def main() -> None:
        latency = Latency(0.25)
        assert await latency is latency
        assert latency == 0.25 and isinstance(latency, float)

    asyncio.run(main())


class TestOnSockets:
    def test_ping_gives_seconds(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow) as server, anyplace.connect(server) as ws:
                reading = asyncio.ensure_future(ws.recv())
                for payload in (None, b"bytes", "text", bytearray(b"array"), b"", bytes(125)):
                    seconds = await soon(ws.ping(payload))
                    assert 0 < seconds < 60
                    assert ws.latency == seconds
                reading.cancel()

        anyplace.run(main())

    def test_pings_do_not_need_a_reader(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow) as server, anyplace.connect(server) as ws:
                assert 0 < await soon(ws.ping()) < 60

        anyplace.run(main())

    def test_many_at_once(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow) as server, anyplace.connect(server) as ws:
                seconds = await soon(asyncio.gather(*(ws.ping() for _ in range(50))))
                assert len(seconds) == 50

        anyplace.run(main())

    @pytest.mark.parametrize("payload", [bytes(126), "é" * 63])
    def test_at_most_125_bytes(self, place: Place, payload: bytes | str) -> None:
        async def main() -> None:
            async with place.serve(swallow) as server, place.connect(server) as ws:
                with pytest.raises(ValueError):
                    await ws.ping(payload)
                with pytest.raises(ValueError):
                    await ws.pong(payload)
                assert 0 < await soon(ws.ping())  # nothing was harmed

        place.run(main())

    @pytest.mark.parametrize("payload", [5, [1], None])
    def test_a_pong_of_what_is_no_bytes(self, place: Place, payload: object) -> None:
        async def main() -> None:
            async with place.serve(swallow) as server, place.connect(server) as ws:
                with pytest.raises(TypeError):
                    await ws.pong(payload)  # type: ignore[arg-type]

        place.run(main())

    def test_a_cancelled_ping_is_forgotten(self, place: Place) -> None:
        async def script(peer: RawPeer) -> None:
            assert (await peer.read()).payload == b"x"
            assert (await peer.read()).payload == b"x"
            await peer.send(wire.PONG, b"x")
            await peer.read()
            await peer.send(wire.CLOSE)

        async def main() -> None:
            async with place.raw_server(script) as port, place.connect(port) as ws:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(ws.ping(b"x"), 0.02)
                assert 0 < await soon(ws.ping(b"x"))

        place.run(main())

    @pytest.mark.parametrize("how", ["close", "eof"])
    def test_a_connection_that_ends_before_the_pong(self, anyplace: Place, how: str) -> None:
        async def script(peer: RawPeer) -> None:
            await peer.read()
            if how == "close":
                await peer.send(wire.CLOSE, wire.close_payload(1001))

        async def main() -> None:
            async with anyplace.raw_server(script) as port:
                ws = await anyplace.connect(port)
                with pytest.raises(zcws.ConnectionClosed) as caught:
                    await soon(ws.ping())
                assert caught.value.code == (1001 if how == "close" else 1006)
                with pytest.raises(zcws.ConnectionClosed):
                    await soon(ws.ping())
                await soon(ws.wait_closed())

        anyplace.run(main())

    def test_any_byte_says_that_the_peer_is_alive(self, place: Place) -> None:
        """A Pong may be stuck behind a large message."""

        async def main() -> None:
            async with place.serve(swallow, **OVERDUE) as server:
                async with place.raw_client(server) as peer:
                    (ws,) = server.connections
                    for number, byte in enumerate(peer.frame(wire.BINARY, bytes(100)), 1):
                        await peer.send_bytes(bytes([byte]))
                        await until(lambda: ws.stats.bytes_received == number)  # noqa: B023
                        assert not is_given_up(ws) and ws.state is zcws.State.OPEN
                    await until(lambda: is_given_up(ws))

        place.run(main())

    def test_a_program_that_does_not_read_cannot_blame_the_peer(self, place: Place) -> None:
        """Reading is paused by us, so the peer's Pong cannot arrive."""

        async def main() -> None:
            go_on = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                await go_on.wait()
                async for _ in ws:
                    pass

            async with place.serve(handler, ping_interval=0.01, ping_timeout=0.03) as server:
                async with place.raw_client(server) as peer:
                    peer.writer.write(peer.frame(wire.BINARY, bytes(1_000)) * 5_000)
                    await until(lambda: any(ws._reading_paused for ws in server.connections))
                    await asyncio.sleep(0.1)
                    (ws,) = server.connections
                    assert ws.state is zcws.State.OPEN
                    go_on.set()
                    await soon(peer.writer.drain())

        place.run(main())

    def test_a_peer_that_takes_what_waits_for_it_is_alive(self, anyplace: Place) -> None:
        """It is slow, and says nothing: its Pongs come behind what it has not read."""

        async def push(ws: zcws.WebSocket) -> None:
            assert ws._transport is not None
            sock = ws._transport.get_extra_info("socket")
            # Or it takes megabytes for the peer.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
            while True:
                await ws.send(bytes(10_000))

        async def main() -> None:
            async with anyplace.serve(push, ping_interval=0.02, ping_timeout=0.4) as server:
                async with anyplace.raw_client(server) as peer:
                    (ws,) = server.connections
                    await until(lambda: not ws.is_writable)
                    for _ in range(60):
                        await soon(peer.reader.readexactly(200_000))
                        await asyncio.sleep(0.015)
                    assert ws.state is zcws.State.OPEN

        anyplace.run(main())

    def test_a_peer_that_takes_nothing_is_not_because_we_have_stopped_reading(self, place: Place) -> None:
        """A callback is not called while the peer takes nothing. Such a peer had no Ping to fear."""

        async def main() -> None:
            ended = asyncio.Event()

            def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
                while ws.is_writable:
                    ws.send_nowait(bytes(10_000))
                    ws._flush()
                ws.add_end_callback(lambda _: ended.set())

            options: dict[str, Any] = {"ping_interval": 0.02, "ping_timeout": 0.1, "close_timeout": 0.1}
            async with place.serve(None, on_frame=on_frame, **options) as server:
                async with place.raw_client(server) as peer:
                    (ws,) = server.connections
                    await peer.send(wire.TEXT, b"x")
                    await peer.send(wire.TEXT, b"y")
                    await until(lambda: ws._reading_paused)
                    await soon(ended.wait())
                    assert ws.close_code == 1011
                    assert ws.close_reason == "keepalive ping timeout"

        place.run(main())


class TestALoopThatStoodStill:
    """What peers had said meanwhile was in their sockets, and a turn of the engine serves 64: of 500 healthy ones that
    were asked before a pause of 5 seconds 308 were told that they had not answered."""

    @pytest.mark.parametrize("answers", [True, False])
    def test_an_answer_has_as_long_again(self, anyloop: Place, answers: bool) -> None:
        async def main() -> None:
            loop, peer = asyncio.get_running_loop(), Peer(hears=False)
            keepalive = Keepalive(loop, peer, interval=1000, timeout=1000)
            keepalive.stop()
            keepalive._due = due = loop.time() - 5
            keepalive._wake(due)
            assert peer.failed == 0 and keepalive._due > loop.time() + 4
            keepalive.stop()
            peer.hears = answers
            keepalive._wake(keepalive._due)
            assert peer.failed == (0 if answers else 1)
            keepalive.stop()

        anyloop.run(main())

    def test_what_lies_in_the_socket_is_read_first(self) -> None:
        peer, clock = Peer(hears=False), Clock()
        Keepalive(clock, peer, interval=100, timeout=10)  # type: ignore[arg-type]
        peer.is_unread = True
        for _ in range(20):
            clock.turn()
        assert (peer.pings, peer.failed) == (1, 0) and clock.now > 110
        peer.is_unread = False
        clock.turn()
        assert (peer.pings, peer.failed) == (1, 1)

    def test_an_answer_that_lies_in_the_socket(self, anyplace: Place) -> None:
        """Where a pause ended up to 0.1 s before the answers were due, or 0.06 s behind that, 360 to 808 of 1,000
        connections were told that they had not answered: the loop had not stood still for long, and had no time."""
        asked, answered = threading.Event(), threading.Event()

        async def talk(port: int) -> None:
            with contextlib.suppress(zcws.ConnectionClosed):
                async with anyplace.connect(port, ping_interval=None) as client:
                    await asyncio.to_thread(asked.wait)
                    await client.send("x")
                    await client.flush()
                    await asyncio.sleep(SHORT)  # uvloop and HTTP/2 send at the end of a turn
                    answered.set()
                    await client.recv()

        async def main() -> None:
            async with anyplace.serve(swallow, **OVERDUE) as server:
                port = server.sockets[0].getsockname()[1]
                talking = asyncio.ensure_future(asyncio.to_thread(lambda: anyplace.run(talk(port))))
                await until(lambda: server.connections)
                (ws,) = server.connections
                asked.set()
                answered.wait(LONG)  # the loop stands still
                assert not is_given_up(ws) and ws.state is zcws.State.OPEN
                await until(lambda: is_given_up(ws))
                await talking

        anyplace.run(main())

    def test_and_a_peer_that_is_slow(self, anyplace: Place) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            async with anyplace.serve(swallow) as server:
                async with anyplace.connect(server, write_timeout=1000, close_timeout=0.1) as ws:
                    ws.pause_writing()
                    deadline = ws._write_deadline
                    assert deadline is not None
                    deadline._tick(loop.time() - 5, ws._write_timed_out)
                    assert ws.state is zcws.State.OPEN
                    deadline._tick(math.inf, ws._write_timed_out)
                    await until(lambda: ws.close_code == 1011)

        anyplace.run(main())


@pytest.mark.parametrize("reads", ["waits", "pushes"])
def test_who_never_reads_keeps_no_ring_for_a_pong(anyplace: Place, reads: str) -> None:
    """The first was kept for somebody who reads frames, and a ring with it, on each of thousands of connections."""

    async def handler(ws: zcws.WebSocket) -> None:
        if reads == "pushes":
            with contextlib.suppress(zcws.ConnectionClosed):
                while True:
                    await ws.send("tick")
                    await asyncio.sleep(0.005)
        await ws.wait_closed()

    async def main() -> None:
        async with anyplace.serve(handler, ping_interval=0.01, ping_timeout=LONG) as server:
            async with anyplace.connect(server):
                await until(lambda: server.connections)
                (ws,) = server.connections
                await until(lambda: ws._reader.frames > 3)
                assert ws._reader.rows_waiting == 0 and ws._reader._ring is None

    anyplace.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says what a peer has confirmed")
def test_a_peer_that_takes_a_large_message_is_alive(anyplace: Place) -> None:
    """Over TLS the transport does not say what waits below it: a peer that read steadily and had not come to our Ping
    yet was told that it had not answered."""
    taken: list[int] = []

    async def push(ws: zcws.WebSocket) -> None:
        with contextlib.suppress(zcws.ConnectionClosed):
            while True:
                await ws.send(bytes(4_000_000))

    async def main() -> None:
        options = {"ping_interval": 0.2, "ping_timeout": 0.5, "close_timeout": 0.1}
        async with anyplace.serve(push, **options) as server:
            async with anyplace.raw_client(server) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                for _ in range(100):
                    taken.append(len(await soon(peer.reader.read(100_000))))
                    await asyncio.sleep(0.01)
                assert all(taken) and ws.state is zcws.State.OPEN

    anyplace.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says what a peer has confirmed")
def test_what_a_peer_took_long_ago_is_no_sign_of_life(anyplace: Place) -> None:
    async def main() -> None:
        async with anyplace.serve(swallow, ping_interval=None) as server, anyplace.raw_client(server) as peer:
            await until(lambda: server.connections)
            (ws,) = server.connections
            await ws.send(bytes(100_000))
            await peer.read()
            await peer.send(wire.TEXT, b"a sign of life")
            await until(lambda: ws._reader.messages)
            assert ws.heard()  # as before each Ping
            assert not ws.heard()

    anyplace.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says what a peer has confirmed")
def test_a_peer_that_takes_what_our_system_holds_is_alive(anyplace: Place) -> None:
    """A message that fitted into the socket waits there, and our Ping behind it: 100 KB a second were too slow."""

    async def main() -> None:
        async with anyplace.serve(swallow, **OVERDUE) as server:
            async with anyplace.raw_client(server, limit=16 * 1024) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                assert ws._transport is not None
                sock = ws._transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
                theirs = peer.writer.get_extra_info("socket")
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
                await ws.send(bytes(3_000_000))
                for _ in range(4):
                    for _ in range(15):
                        await soon(peer.reader.readexactly(40_000))
                    assert not is_given_up(ws) and ws.state is zcws.State.OPEN
                await until(lambda: is_given_up(ws))

    anyplace.run(main())


def test_a_program_that_stands_still_is_not_whose_system_takes_what_it_is_sent(place: Place) -> None:
    async def push(ws: zcws.WebSocket) -> None:
        with contextlib.suppress(zcws.ConnectionClosed):
            while True:
                await ws.send(bytes(5_000))
                await asyncio.sleep(0.05)

    async def main() -> None:
        options = {"ping_interval": 0.2, "ping_timeout": 0.1, "close_timeout": 0.1}
        async with place.serve(push, **options) as server, place.raw_client(server, limit=1024) as peer:
            await until(lambda: server.connections)
            (ws,) = server.connections
            if ws._own is not None:  # the loop's own do not say what waits
                await until(lambda: ws.close_code == 1011)
            await peer.close()

    place.run(main())


def test_a_look_for_a_sign_of_life_changes_nothing_else(place: Place) -> None:
    """What `get_extra_info("socket")` makes of a socket would stay, on each of thousands of idle connections."""

    async def main() -> None:
        async with place.serve(swallow, ping_interval=None) as server, place.raw_client(server) as peer:
            await until(lambda: server.connections)
            (ws,) = server.connections
            own = ws._own
            kind = None if own is None else type(own._sock)
            ws.heard()
            assert own is None or type(own._sock) is kind
            zcws.broadcast([ws], "to all")
            assert (await peer.read()).payload == b"to all"

    place.run(main())
