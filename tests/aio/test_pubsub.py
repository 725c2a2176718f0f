from __future__ import annotations

import asyncio
import logging
import signal
import sys
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


@needs_redis
def test_a_delivery_that_takes_long_is_no_silence(
    anyloop: Place, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `slow="wait"` and a slow member: the subscription was given up, and so was the message."""

    class Waiting(Both):
        async def hear(self, channel: bytes, data: bytes) -> None:
            delivering.set()
            await goes_on.wait()
            await super().hear(channel, data)

    delivering, goes_on = asyncio.Event(), asyncio.Event()

    async def main() -> None:
        async with Waiting(redis_server.url) as both:
            await both.subscribe(b"a")
            assert await both.publish(b"a", b"1") == 1
            await soon(delivering.wait())
            for seconds in (0.01, 3600):  # fifty heartbeats, and no more
                monkeypatch.setattr(pubsub, "HEARTBEAT", seconds)
                both.subscriber.changed(b"a")
                await asyncio.sleep(0.5)
            goes_on.set()
            assert await both.publish(b"a", b"2") == 1
            await until(lambda: len(both.heard) == 2)
            assert both.heard == [(b"a", b"1"), (b"a", b"2")]

    anyloop.run(main())


def test_waits_grow_to_a_limit() -> None:
    delays = pubsub._Delays("test")
    for _ in range(2):
        for longest in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
            assert longest / 2 <= next(delays._delays) <= longest
        delays.reset()


def test_waits_begin_anew_when_something_was_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[str]()

    class Delays(pubsub._Delays):
        def reset(self) -> None:
            told.append("reset")
            super().reset()

        async def wait(self, error: Exception) -> None:
            told.append(str(error))
            await super().wait(error)

    class Brief(Odd):
        async def subscribe(self, *_: object) -> None:
            if len(told) < 3:
                raise LookupError("nobody")

        async def listen(self) -> AsyncIterator[dict[str, object]]:
            yield {"type": "subscribe", "channel": b"a"}

    monkeypatch.setattr(pubsub, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(pubsub, "_Delays", Delays)

    async def main() -> None:
        task = asyncio.ensure_future(Subscriber(Library(), Brief(None), {}, _nothing).run())
        await until(lambda: len(told) > 4)
        await cancel([task])
        assert asyncio.all_tasks() == {
            asyncio.current_task()
        }  # those of a connection that is lost have ended
        assert told[:5] == ["reset", "nobody", "nobody", "reset", "the subscription has ended"]

    asyncio.run(main())


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

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.closed = 0
        self.published = 0

    def pubsub(self) -> Odd:
        return self

    def pipeline(self, **_: object) -> Odd:
        return self

    def publish(self, *_: object) -> None:
        self.published += 1

    async def execute(self, **_: object) -> list[int]:
        published, self.published = self.published, 0
        await self.subscribe()
        return [1] * published

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
        library, ready, lost = Library(), asyncio.Event(), list[bool]()
        publisher, listening = Publisher(library, Odd(error), 10, ()), Odd(error)
        publisher.on_lost = lambda: lost.append(True)
        subscriber = Subscriber(library, listening, {b"a": ready}, _nothing)
        tasks = [asyncio.ensure_future(publisher.run()), asyncio.ensure_future(subscriber.run())]
        assert await soon(publisher.publish(Message(b"a", 1, b"", ready=ready))) == 1
        assert lost == [True] and listening.closed == 1
        await cancel(tasks)
        assert listening.closed == 2

    asyncio.run(main())


def test_what_does_not_come_back_has_no_note() -> None:
    """Notes are kept of what is published where this process listens itself, in the order of the numbers."""

    async def main() -> None:
        publisher, ready = Publisher(Library(), Odd(None), 10, (b"a",)), asyncio.Event()
        ready.set()
        task = asyncio.ensure_future(publisher.run())
        for first in (0, 4):
            some = [
                Message(channel, 1, b"", note=note, ready=ready)
                for channel, note in ((b"a", "1"), (b"b", "2"), (b"a", "3"), (b"a", None))
            ]
            await soon(asyncio.gather(*map(publisher.publish, some)))
            assert [publisher.note(first + at) for at in range(4)] == ["1", None, "3", None]
        await cancel([task])

    asyncio.run(main())


class Far(Odd):
    """A client of a Redis that is far away: its answers come when the test has them come."""

    def __init__(self) -> None:
        super().__init__(None)
        self.asked: list[tuple[str, bytes]] = []
        self.answers: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def subscribe(self, *channels: object) -> None:
        self.asked += [("subscribe", bytes(channel)) for channel in channels]  # type: ignore[call-overload]

    async def unsubscribe(self, *channels: bytes) -> None:
        self.asked += [("unsubscribe", channel) for channel in channels]

    def answer(self, kind: str, channel: bytes) -> None:
        self.answers.put_nowait({"type": kind, "channel": channel})

    async def listen(self) -> AsyncIterator[dict[str, object]]:
        while True:
            yield await self.answers.get()


def test_who_comes_back_waits_for_his_own_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an earlier SUBSCRIBE said that he was heard, behind which Redis had taken our UNSUBSCRIBE."""
    monkeypatch.setattr(pubsub, "HEARTBEAT", 3600)

    async def main() -> None:
        client, channels = Far(), dict[bytes, asyncio.Event]()
        subscriber = Subscriber(Library(), client, channels, _nothing)
        task = asyncio.ensure_future(subscriber.run())

        async def change(channel: bytes, *, wanted: bool) -> None:
            if wanted:
                channels[channel] = asyncio.Event()
            else:
                del channels[channel]
            subscriber.changed(channel)
            await until(lambda: not subscriber._changes.is_set())

        await until(lambda: client.asked)
        for wanted in (True, False, True):
            await change(b"a", wanted=wanted)
        client.answer("subscribe", b"a")
        await soon(channels[b"a"].wait())
        for wanted in (True, False):
            await change(b"b", wanted=wanted)
        client.answer("subscribe", b"b")
        await until(lambda: client.asked[-1] == ("unsubscribe", b"b"))
        await change(b"b", wanted=True)
        client.answer("unsubscribe", b"b")
        await until(client.answers.empty)
        assert not channels[b"b"].is_set()
        client.answer("subscribe", b"b")
        await soon(channels[b"b"].wait())
        assert client.asked[1:] == [
            ("subscribe", b"a"),
            ("subscribe", b"b"),
            ("unsubscribe", b"b"),
            ("subscribe", b"b"),
        ]
        subscriber.suspect()
        assert not channels[b"a"].is_set() and not channels[b"b"].is_set()
        await until(lambda: client.closed)
        await cancel([task])

    asyncio.run(main())


def test_without_redis_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ImportError, match=r"pip install 'zcws\[redis\]'"):
        Library()


async def _nothing(channel: bytes, data: bytes) -> None: ...
