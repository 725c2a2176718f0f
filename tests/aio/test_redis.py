"""Rooms over a Redis server that is real: Debian's `redis-server`, started and killed here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from net import Place, free_port, soon, swallow, until
from redis_process import RedisServer, needs_redis

import zcws
from zcws.aio import redis as rooms_module

from .test_broadcast import read_messages, slow_client

pytest.importorskip("redis", reason="redis-py is not installed")

CHAT = Path(__file__).parent.parent / "redis_room.py"


@contextlib.asynccontextmanager
async def member(place: Place, room: Any) -> AsyncIterator[tuple[zcws.WebSocket, zcws.WebSocket]]:
    """A connection that is in `room`: our end and the peer's."""
    async with place.serve(swallow) as server, place.connect(server) as peer:
        await until(lambda: server.connections)
        (ws,) = server.connections
        with room.join(ws):
            await soon(room.ready())
            yield ws, peer


def test_what_a_slow_connection_cannot_get() -> None:
    with pytest.raises(
        ValueError, match=r"^slow must be one of 'skip', 'close', 'wait', 'latest', not 'bad'$"
    ):
        zcws.RedisRooms(slow="bad")  # type: ignore[arg-type]
    assert repr(zcws.RedisRooms(prefix="chat:")) == "<RedisRooms 'chat:', 0 open>"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"max_pending": 0}, ValueError, "max_pending is a number of messages (int, 1 or more), not 0"),
        ({"max_pending": "x"}, TypeError, "max_pending is a number of messages (int, 1 or more), not 'x'"),
        ({"prefix": None}, TypeError, "prefix is a str, not None"),
        ({"url": 5}, TypeError, "url is a str, not 5"),
    ],
)
def test_options_that_are_invalid(options: dict[str, Any], error: type[Exception], said: str) -> None:
    """None of them was asked: 0 was no limit, and the others failed later, without a name."""
    with pytest.raises(error, match=f"^{re.escape(said)}$"):
        zcws.RedisRooms(**options)


@needs_redis
def test_everybody_hears_it_in_order(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as here, zcws.RedisRooms(redis_server.url) as there:
            async with (
                member(anyloop, here["lobby"]) as (_, one),
                member(anyloop, there["lobby"]) as (_, two),
            ):
                sent = [f"{number}" if number % 2 else b"%d" % number for number in range(300)]
                answers = await soon(asyncio.gather(*(here["lobby"].broadcast(message) for message in sent)))
                assert answers == [2] * 300  # processes
                for ws in (one, two):
                    assert [await soon(ws.recv()) for _ in sent] == sent
                assert await soon(here["empty"].broadcast("a")) == 0

    anyloop.run(main())


@needs_redis
def test_not_for_the_one_it_came_from(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as rooms:
            room = rooms["lobby"]
            async with member(anyloop, room) as (ws, one), member(anyloop, room) as (_, two):
                await soon(room.broadcast("psst", without=ws))
                await soon(room.broadcast("b", text=False, without=[]))
                assert await soon(one.recv()) == b"b"
                assert [await soon(two.recv()) for _ in range(2)] == ["psst", b"b"]
                assert not rooms._publisher._notes

    anyloop.run(main())


@needs_redis
def test_the_latest_of_each_room(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url, slow="latest") as rooms:
            dollar, yen = rooms["dollar"], rooms["yen"]
            async with slow_client(anyloop) as (ws, slow, number), member(anyloop, yen) as (_, quick):
                with dollar.join(ws), yen.join(ws):
                    for value in range(3):
                        await dollar.broadcast(f"dollar {value}")
                        await yen.broadcast(f"yen {value}")
                    # Then Redis has given all of them back.
                    while await soon(quick.recv()) != "yen 2":
                        pass
                    await read_messages(slow, number)
                    assert [(await slow.read()).payload for _ in range(2)] == [b"dollar 2", b"yen 2"]

    anyloop.run(main())


@needs_redis
def test_what_nobody_hears_here_keeps_no_connection(place: Place, redis_server: RedisServer) -> None:
    """It does not come back: 2,000 such messages of 20 connections kept all 20, closed ones, for good."""

    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as here, zcws.RedisRooms(redis_server.url) as there:
            async with member(place, there["lobby"]) as (_, peer), member(place, here["other"]) as (ws, _):
                for _ in range(3):
                    assert await soon(here["lobby"].broadcast("a", without=ws)) == 1
                assert await soon(peer.recv()) == "a"
                assert not here._publisher._notes

    place.run(main())


@needs_redis
def test_whoever_joins_while_his_message_waits_for_redis_is_left_out_of_it(
    anyloop: Place, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was there when it got its number, so that nobody knew any more whom it was not for."""

    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as rooms:
            room, publisher, may_go = rooms["lobby"], rooms._publisher, asyncio.Event()
            publish = publisher._publish_batch

            async def slow() -> None:
                await may_go.wait()  # as when Redis is away
                await publish()

            monkeypatch.setattr(publisher, "_publish_batch", slow)
            async with anyloop.serve(swallow) as server, anyloop.connect(server) as one:
                await until(lambda: server.connections)
                (ws,) = server.connections
                sending = asyncio.create_task(room.broadcast("not for one", without=ws))
                await until(lambda: publisher._number)
                with room.join(ws):
                    await soon(room.ready())
                    may_go.set()
                    assert await soon(sending) == 1
                    await soon(room.broadcast("for one"))
                    assert await soon(one.recv()) == "for one"
                    assert not publisher._notes

    anyloop.run(main())


def test_what_is_known_of_a_message_that_comes_back(place: Place) -> None:
    """Each of 20,000 that wait for a slow member was looked at for each of them: 4.7 s of CPU, and now 0.01."""

    async def main() -> None:
        publisher = zcws.RedisRooms()._publisher
        publisher._notes.extend((number, str(number)) for number in (1, 2, 4, 5))
        assert [publisher.note(number) for number in (0, 2, 3, 5, 6)] == [None, "2", None, "5", None]
        assert not publisher._notes

    place.run(main())


@needs_redis
def test_a_room_is_subscribed_to_while_somebody_is_in(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as rooms, zcws.RedisRooms(redis_server.url) as other:
            room = rooms["lobby"]
            assert rooms["lobby"] is room
            assert repr(room) == "<RedisRoom 'lobby' of 0 here>"
            async with member(anyloop, room) as (ws, peer):
                room.leave(ws)
                room.join(ws)  # before anybody has noticed
                await soon(room.ready())
                await soon(other["lobby"].broadcast("a"))
                assert await soon(peer.recv()) == "a"
            while await soon(other["lobby"].broadcast("b")):
                await asyncio.sleep(0.001)

    anyloop.run(main())


@needs_redis
def test_a_room_is_ready_where_nobody_has_to_wait(anyloop: Place, redis_server: RedisServer) -> None:
    """Who leaves before Redis has confirmed it leaves nobody waiting; who joins others that hear it need not wait."""

    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as rooms:
            room = rooms["lobby"]
            async with member(anyloop, room) as (ws, _), member(anyloop, rooms["other"]) as (other, _):
                with room.join(other), pytest.raises(StopIteration):
                    room.ready().send(None)
                room.leave(ws)
                room.join(ws)
                room.leave(ws)
                with pytest.raises(StopIteration):
                    room.ready().send(None)
                assert await soon(room.broadcast("to nobody")) >= 0
                with rooms["new"].join(ws):
                    waiting = asyncio.ensure_future(rooms["new"].ready())
                    await asyncio.sleep(0)
                    assert not waiting.done()
                    await soon(waiting)

    anyloop.run(main())


@needs_redis
def test_what_arrives_twice_is_heard_once(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as rooms:
            async with member(anyloop, rooms["lobby"]) as (_, peer):
                for number in (0, 1, 0, 1, 2):
                    envelope = rooms_module.ENVELOPE.pack(1, b"somebody else...", number)
                    await rooms._deliver(b"zcws:lobby", envelope + b"%d" % number)
                assert [await soon(peer.recv()) for _ in range(3)] == ["0", "1", "2"]
                envelope = rooms_module.ENVELOPE.pack(1, b"somebody else...", 3)
                await rooms._deliver(b"zcws:nobody", envelope)  # they have just left
        assert rooms._tasks and all(task.done() for task in rooms._tasks)

    anyloop.run(main())


def test_who_is_told_of_what_the_publisher_has_lost_and_how_long_each_waits(place: Place) -> None:
    async def main() -> None:
        rooms = zcws.RedisRooms()
        publisher, subscriber = rooms._publisher, rooms._subscriber
        assert publisher.on_lost == subscriber.suspect
        waits = [
            side._redis.connection_pool.connection_kwargs["socket_timeout"]
            for side in (publisher, subscriber)
        ]
        assert waits == [10, None]

    place.run(main())


@needs_redis
def test_who_is_in_no_room_leaves_none(place: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as rooms:
            async with member(place, rooms["lobby"]) as (ws, _):
                rooms["other"].leave(ws)
                await soon(rooms["other"].ready())
                assert rooms._wanted.keys() == {b"zcws:lobby"}

    place.run(main())


@needs_redis
def test_what_others_publish_on_the_channel(
    anyloop: Place, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        import redis.asyncio

        async with (
            zcws.RedisRooms(redis_server.url) as rooms,
            redis.asyncio.from_url(redis_server.url) as other,
        ):
            async with member(anyloop, rooms["lobby"]) as (_, peer):
                assert await other.publish("zcws:lobby", b"hello?") == 1
                await soon(rooms["lobby"].broadcast("a"))
                assert await soon(peer.recv()) == "a"

    anyloop.run(main())
    assert "a message on b'zcws:lobby' was not understood" in caplog.text


@needs_redis
def test_redis_is_killed_and_brought_back(
    anyloop: Place, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as here, zcws.RedisRooms(redis_server.url) as there:
            async with (
                member(anyloop, here["lobby"]) as (_, one),
                member(anyloop, there["lobby"]) as (_, two),
            ):
                assert await soon(here["lobby"].broadcast("before")) == 2
                # What is on its way when Redis dies may be lost: nobody keeps it.
                assert [await soon(each.recv()) for each in (one, two)] == ["before"] * 2
                redis_server.kill()
                waiting = [
                    asyncio.ensure_future(here["lobby"].broadcast(f"{number}")) for number in range(20)
                ]
                await until(lambda: "cannot listen to Redis" in caplog.text)
                assert not any(task.done() for task in waiting)
                redis_server.start()
                await soon(asyncio.gather(*waiting))
                await soon(there["lobby"].ready())
                assert await soon(here["lobby"].broadcast("after")) == 2
                # Here nothing is lost, for a sender waits until its own process hears again.
                expected = [*map(str, range(20)), "after"]
                assert [await soon(one.recv()) for _ in expected] == expected
                # There only what was published while it was away is.
                heard = []
                while "after" not in heard:
                    heard.append(await soon(two.recv()))
                assert heard == [message for message in expected if message in heard]

    anyloop.run(main())


@needs_redis
def test_senders_wait_for_a_redis_that_does_not_answer(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url, max_pending=2) as rooms:
            redis_server.process.send_signal(signal.SIGSTOP)
            senders = []
            for number in range(10):
                senders.append(asyncio.ensure_future(rooms["lobby"].broadcast(f"{number}")))
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            assert rooms._publisher._queue.qsize() == 2  # and no more, whoever waits
            redis_server.process.send_signal(signal.SIGCONT)
            assert await soon(asyncio.gather(*senders)) == [0] * 10

    anyloop.run(main())


@needs_redis
def test_closing_while_somebody_sends(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url, max_pending=1) as rooms:
            redis_server.process.send_signal(signal.SIGSTOP)
            senders = [asyncio.ensure_future(rooms["lobby"].broadcast("a")) for _ in range(5)]
            await asyncio.sleep(0.01)
            redis_server.process.send_signal(signal.SIGCONT)
            redis_server.kill()
        answers = await soon(asyncio.gather(*senders, return_exceptions=True))
        # It may have answered the first before it died.
        assert {str(answer) for answer in answers} <= {"0", "the rooms are closed"}

    anyloop.run(main())


@needs_redis
@pytest.mark.parametrize("before", [0, 0.001, 0.05])
def test_closing_in_the_moment_in_which_redis_is_lost(
    anyloop: Place, redis_server: RedisServer, before: float
) -> None:
    """redis-py may take the cancellation of the publisher for the loss of its connection."""

    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url, max_pending=1) as rooms:
            redis_server.process.send_signal(signal.SIGSTOP)
            senders = [asyncio.ensure_future(rooms["lobby"].broadcast("a")) for _ in range(5)]
            await asyncio.sleep(before)  # seconds: they are being connected, or wait for an answer
            redis_server.process.send_signal(signal.SIGCONT)
            redis_server.kill()
        answers = await asyncio.gather(*senders, return_exceptions=True)
        # It may have answered the first before it died.
        assert {str(answer) for answer in answers} <= {"0", "the rooms are closed"}

    async def within_reason() -> None:
        await soon(main())

    anyloop.run(within_reason())


@needs_redis
def test_closing_that_is_cancelled(anyloop: Place, redis_server: RedisServer) -> None:
    """Whoever sent waited for ever then, and the connections stayed."""

    async def main() -> None:
        rooms = await zcws.RedisRooms(redis_server.url).__aenter__()
        redis_server.kill()
        sending = asyncio.ensure_future(rooms["lobby"].broadcast("a"))
        await asyncio.sleep(0.01)
        leaving = asyncio.ensure_future(rooms.__aexit__(None, None, None))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        for broadcast in (sending, rooms["lobby"].broadcast("b")):
            with pytest.raises(ConnectionError, match="the rooms are closed"):
                await soon(broadcast)

    anyloop.run(main())


@needs_redis
def test_what_redis_refuses_its_sender_hears(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        import redis.asyncio

        async with (
            zcws.RedisRooms(redis_server.url) as rooms,
            redis.asyncio.from_url(redis_server.url) as admin,
        ):
            await admin.execute_command("ACL", "SETUSER", "default", "-publish")
            with pytest.raises(redis.asyncio.ResponseError, match="no permissions"):
                await soon(rooms["lobby"].broadcast("a"))
            await admin.execute_command("ACL", "SETUSER", "default", "+publish")
            assert await soon(rooms["lobby"].broadcast("a")) == 0

    anyloop.run(main())


@needs_redis
def test_mistakes_of_the_sender(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with zcws.RedisRooms(redis_server.url) as rooms:
            with pytest.raises(TypeError):
                await rooms["lobby"].broadcast(1)  # type: ignore[arg-type]
            with pytest.raises(ValueError):
                await rooms["lobby"].broadcast(b"\xff", text=True)

    anyloop.run(main())


def test_where_no_redis_is(anyloop: Place) -> None:
    async def main() -> None:
        import redis.asyncio

        with free_port() as port:
            rooms, closed = zcws.RedisRooms(f"redis://127.0.0.1:{port}"), list[object]()
            for client in rooms._clients:

                async def close(client: object = client, aclose: Any = client.aclose) -> None:
                    closed.append(client)
                    await aclose()

                client.aclose = close
            with pytest.raises(redis.asyncio.ConnectionError):
                async with rooms:
                    pass
        assert closed == rooms._clients

    anyloop.run(main())


def test_rooms_that_nobody_has_entered(anyloop: Place) -> None:
    """Without `async with`, a broadcast waited for ever, and so did `ready`."""

    async def main() -> None:
        rooms = zcws.RedisRooms()
        for wait in (rooms["lobby"].broadcast("x"), rooms["lobby"].ready()):
            with pytest.raises(
                RuntimeError, match=r"not connected to Redis: write `async with zcws\.RedisRooms"
            ):
                await soon(wait)

    anyloop.run(main())


def test_the_extra_is_named_where_it_is_missing() -> None:
    code = "import sys; sys.modules['redis.asyncio'] = None\nimport zcws\nzcws.RedisRooms()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr.endswith("ImportError: rooms over Redis need redis-py: pip install 'zcws[redis]'\n")


# ---- processes ----


class Process:
    """A server process, killed like one that crashes."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, str(CHAT), url]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.uri = f"ws://127.0.0.1:{self.process.stdout.readline().strip()}/"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.asynccontextmanager
async def guest(process: Process) -> AsyncIterator[zcws.WebSocket]:
    async with zcws.connect(process.uri) as ws:
        assert await soon(ws.recv()) == "joined"
        yield ws


@needs_redis
def test_two_processes_one_of_them_killed_and_brought_back(redis_server: RedisServer) -> None:
    async def main() -> None:
        first, second = Process(redis_server.url), Process(redis_server.url)
        try:
            async with guest(first) as one:
                async with guest(second) as two:
                    await one.send("to both")
                    assert [await soon(ws.recv()) for ws in (one, two)] == ["to both"] * 2
                    second.kill()
                    with pytest.raises(zcws.ConnectionClosedError):
                        await soon(two.recv())
                await one.send("alone")
                assert await soon(one.recv()) == "alone"
                second = Process(redis_server.url)
                async with guest(second) as two:
                    for number in range(100):
                        await (one, two)[number % 2].send(f"{number}")
                    heard = []
                    for ws in (one, two):
                        heard.append([await soon(ws.recv()) for _ in range(100)])
                    assert heard[0] == heard[1]  # one order for all
                    for publisher in (0, 1):
                        assert heard[0][:] and [m for m in heard[0] if int(m) % 2 == publisher] == [
                            f"{number}" for number in range(publisher, 100, 2)
                        ]
        finally:
            first.kill()
            second.kill()

    asyncio.run(main())


@needs_redis
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_rooms_that_were_made_before_a_fork(redis_server: RedisServer) -> None:
    """Both processes had the name of one publisher: what the second one sent was taken for what had come already."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CHAT), redis_server.url, "fork"),
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            ports = [int(await soon(process.stdout.readline())) for _ in range(2)]
            async with contextlib.AsyncExitStack() as stack:
                uris = [f"ws://127.0.0.1:{port}/" for port in ports]
                clients = [
                    await stack.enter_async_context(zcws.connect(uri, close_timeout=0.1)) for uri in uris
                ]
                for client in clients:
                    assert await soon(client.recv()) == "joined"
                for number, client in enumerate(clients):
                    await client.send(f"from {number}")
                    for each in clients:
                        assert await soon(each.recv()) == f"from {number}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()  # and not `wait`: its pipe may be open for longer than the loop

    asyncio.run(main())
