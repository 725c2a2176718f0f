from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from net import Place, soon, until
from redis_process import RedisServer, needs_redis

from zcws.aio import pubsub
from zcws.aio.pubsub import ENVELOPE, Library, Message, Publisher, Subscriber, cancel

pytest.importorskip("redis", reason="redis-py is not installed")


class Both:
    """A publisher, and a subscriber that keeps what it hears."""

    def __init__(self, url: str) -> None:
        library = Library()
        self.clients = [library.client(url, answer, {}) for answer in (5, None)]
        self.publisher = Publisher(library, self.clients[0], 100, ())
        self.channels: dict[bytes, asyncio.Event] = {}
        self.subscriber = Subscriber(library, self.clients[1], self.channels, self.hear)
        self.heard: list[tuple[bytes, bytes]] = []

    async def hear(self, channel: bytes, data: bytes) -> None:
        assert ENVELOPE.unpack_from(data)[:2] == (7, self.publisher.name)
        self.heard.append((channel, data[ENVELOPE.size :]))

    async def subscribe(self, *channels: bytes) -> None:
        for channel in channels:
            self.channels[channel] = asyncio.Event()
            self.subscriber.changed(channel)
        for channel in channels:
            await soon(self.channels[channel].wait())

    async def publish(self, channel: bytes, payload: bytes) -> int:
        ready = self.channels.get(channel)
        if ready is None:
            ready = asyncio.Event()
            ready.set()
        return await soon(self.publisher.publish(Message(channel, 7, payload, ready=ready)))

    async def __aenter__(self) -> Both:
        self.tasks = [asyncio.ensure_future(side.run()) for side in (self.publisher, self.subscriber)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel(self.tasks)
        for client in self.clients:
            await client.aclose()


@needs_redis
def test_channels_come_and_go(anyloop: Place, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with Both(redis_server.url) as both:
            await both.subscribe(b"a", b"b")
            assert [await both.publish(channel, b"1") for channel in (b"a", b"b", b"c")] == [1, 1, 0]
            del both.channels[b"a"]
            both.subscriber.changed(b"a")
            while await both.publish(b"a", b"2"):
                await asyncio.sleep(0.001)
            await both.subscribe(b"a")
            assert await both.publish(b"a", b"3") == 1
            await until(lambda: (b"a", b"3") in both.heard)
            assert [item for item in both.heard if item[1] != b"2"] == [
                (b"a", b"1"),
                (b"b", b"1"),
                (b"a", b"3"),
            ]

    anyloop.run(main())


@needs_redis
def test_who_comes_into_one_room_does_not_look_at_all(place: Place, redis_server: RedisServer) -> None:
    """To join a room and to leave it took 12.7 ms of CPU beside 20,000 others, and 0.4 where there were none."""

    class Channels(dict[bytes, asyncio.Event]):
        looks = 0

        def __iter__(self) -> Iterator[bytes]:
            self.looks += 1
            return super().__iter__()

    async def main() -> None:
        async with Both(redis_server.url) as both:
            both.channels = both.subscriber._channels = channels = Channels()
            await both.subscribe(b"a")
            before = channels.looks
            await both.subscribe(b"b")
            del channels[b"a"]
            both.subscriber.changed(b"a")
            await both.subscribe(b"c")
            assert channels.looks == before
            assert both.subscriber._confirmed >= {b"b", b"c"}

    place.run(main())


@needs_redis
def test_silence_is_noticed(
    anyloop: Place,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pubsub, "HEARTBEAT", 0.2)
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        async with Both(redis_server.url) as both:
            await both.subscribe(b"a")
            await asyncio.sleep(0.5)  # longer than two heartbeats: Pings are answered
            assert caplog.text == ""
            redis_server.process.send_signal(signal.SIGSTOP)
            await until(lambda: "nothing was heard of it" in caplog.text)
            assert not both.channels[b"a"].is_set()
            redis_server.process.send_signal(signal.SIGCONT)
            assert await both.publish(b"a", b"1") >= 1
            await until(lambda: both.heard)

    anyloop.run(main())


def test_waits_grow_to_a_limit() -> None:
    delays = pubsub._Delays("test")
    for _ in range(2):
        for longest in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
            assert longest / 2 <= next(delays._delays) <= longest
        delays.reset()


def test_a_task_that_took_its_cancellation_for_something_else_is_told_again() -> None:
    async def deaf() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(3600)

    async def main() -> None:
        tasks = [asyncio.ensure_future(deaf()), asyncio.ensure_future(asyncio.sleep(3600))]
        await asyncio.sleep(0)
        await soon(cancel(tasks))
        assert all(task.cancelled() for task in tasks)

    asyncio.run(main())


class Odd:
    """A client of Redis that fails once, as redis-py does in the middle of a reconnection, and then is there."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.closed = 0

    def pubsub(self) -> Odd:
        return self

    def pipeline(self, **_: object) -> Odd:
        return self

    def publish(self, *_: object) -> None: ...

    async def execute(self, **_: object) -> list[int]:
        await self.subscribe()
        return [1]

    async def subscribe(self, *_: object) -> None:
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    async def listen(self) -> AsyncIterator[dict[str, object]]:
        yield {"type": "subscribe", "channel": b"a"}
        await asyncio.sleep(20)

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("error", [RuntimeError("readuntil() called while another"), LookupError()])
def test_whatever_redis_py_raises_it_is_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subscriber died of it without a word, and everybody who published waited for ever."""
    monkeypatch.setattr(pubsub, "FIRST_DELAY", 0.01)

    async def main() -> None:
        library, ready = Library(), asyncio.Event()
        publisher = Publisher(library, Odd(error), 10, ())
        subscriber = Subscriber(library, Odd(error), {b"a": ready}, _nothing)
        tasks = [asyncio.ensure_future(publisher.run()), asyncio.ensure_future(subscriber.run())]
        assert await soon(publisher.publish(Message(b"a", 1, b"", ready=ready))) == 1
        await cancel(tasks)

    asyncio.run(main())


async def _nothing(channel: bytes, data: bytes) -> None: ...
