"""The two connections to Redis behind `RedisRooms`: one publishes, one subscribes, and both reconnect for ever.

What this file knows: channels, bytes, numbers, redis-py. What it refuses to know: rooms and WebSockets.

A message that was sent when the connection broke may have been published or not. So it is sent again with the same name
of its publisher and the same number: `Publisher` keeps messages in order, and receivers recognise doubles.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Mapping
from struct import Struct
from typing import Any

from zcws.aio.deadlines import in_time
from zcws.retry import backoff

__all__ = ["ENVELOPE", "Library", "Publisher", "Subscriber", "cancel"]

logger: logging.Logger = logging.getLogger("zcws.server")

#: What a message travels behind: its kind, the publisher's name, its number there.
ENVELOPE = Struct(">B16sQ")

#: Seconds before the first attempt to reconnect, and the most between two: soon enough for a restart of Redis, seldom
#: enough for a thousand processes that all try.
FIRST_DELAY, MAX_DELAY = 0.1, 5.0

#: Seconds of silence after which the subscriber asks whether Redis is still there; after as many again it is not.
HEARTBEAT = 15.0

#: Seconds that a cancelled task has to end in before it is cancelled again.
_PATIENCE = 0.1

#: Messages published in one round trip, at most: enough to make the round trip cheap.
_BATCH = 100

#: On this channel nothing is ever published: the subscriber's connection has to be subscribed to something.
_CONTROL = b"zcws\x00"


class Library:
    """redis-py, an extra of zcws.

    Attributes:
        refused: what redis-py raises when Redis refuses. When Redis is away, or the connection breaks, it may raise
            anything.
    """

    def __init__(self) -> None:
        try:
            self._module: Any = importlib.import_module("redis.asyncio")
        except ImportError:
            raise ImportError("rooms over Redis need redis-py: pip install 'zcws[redis]'") from None
        self.refused: type[Exception] = self._module.ResponseError

    def client(self, url: str, answer: float | None, options: dict[str, Any]) -> Any:
        """A client that waits `answer` seconds for an answer."""
        # redis-py's own second attempts (`retry`) would go unnoticed.
        ours = {"decode_responses": False, "socket_timeout": answer, "retry": None}
        return self._module.from_url(url, **{"socket_connect_timeout": 5, **options, **ours})


class Message:
    """One that waits to be published.

    Args:
        kind: a number from 0 to 255.
        note: kept by the publisher until the message comes back; see `Publisher.note`.
        ready: it is not published before this is set.
    """

    __slots__ = ("channel", "done", "kind", "note", "number", "payload", "ready")

    def __init__(
        self, channel: bytes, kind: int, payload: bytes, *, note: Any = None, ready: asyncio.Event
    ) -> None:
        self.channel: bytes = channel
        self.kind: int = kind
        self.payload: bytes = payload
        self.note: Any = note
        self.ready: asyncio.Event = ready
        self.number: int = 0
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class Publisher:
    """Publishes one message after the other, in the order in which they came, each until Redis has answered.

    Args:
        heard: channels that this process hears itself: what is published there comes back, and its note is kept till
            then.

    Attributes:
        name: 16 bytes that no other publisher has, once it runs.
        on_lost: called when the connection to Redis is lost.
    """

    def __init__(self, library: Library, client: Any, max_pending: int, heard: Container[bytes]) -> None:
        self.name: bytes = b""
        self._library = library
        self._redis = client
        self._heard = heard
        self._queue: asyncio.Queue[Message] = asyncio.Queue(max_pending)
        self._number = 0
        self._batch: list[Message] = []
        self._notes: deque[tuple[int, Any]] = deque()  # in the order of their numbers
        self._is_closed = False
        self.on_lost: Callable[[], None] | None = None

    async def publish(self, message: Message) -> int:
        """Waits for its turn, and then for Redis. Returns the number of subscribers."""
        await self._queue.put(message)
        if self._is_closed:
            self.close()
        return await message.done

    def note(self, number: int) -> Any:
        """The note of the message of this number, which has come back; those before it have too, or never will."""
        notes = self._notes
        while notes and notes[0][0] < number:
            notes.popleft()
        return notes.popleft()[1] if notes and notes[0][0] == number else None

    async def run(self) -> None:
        """Until it is cancelled."""
        self.name = os.urandom(16)  # not before: the process may have been forked since
        while True:
            self._batch = [await self._queue.get()]
            while len(self._batch) < _BATCH and not self._queue.empty():
                self._batch.append(self._queue.get_nowait())
            for message in self._batch:
                message.number = self._number
                self._number += 1
                if message.note is not None:
                    self._notes.append((message.number, message.note))
            await self._publish_batch()
            self._forget_unheard()

    def _forget_unheard(self) -> None:
        """Drops the notes of what was just published to channels that nobody hears here: it will not come back. Not
        sooner: somebody may have joined while it waited for Redis."""
        notes, kept = self._notes, deque[tuple[int, Any]]()
        for message in reversed(self._batch):
            if notes and notes[-1][0] == message.number:
                last = notes.pop()
                if message.channel in self._heard:
                    kept.appendleft(last)
        notes += kept

    async def _publish_batch(self) -> None:
        delays = _Delays("publish to")
        while True:
            pipeline = self._redis.pipeline(transaction=False)
            for message in self._batch:
                await message.ready.wait()
                head = ENVELOPE.pack(message.kind, self.name, message.number)
                pipeline.publish(message.channel, head + message.payload)
            try:
                answers = await pipeline.execute(raise_on_error=False)
                break
            except Exception as error:  # whatever it is, who publishes must not wait for ever
                if self.on_lost is not None:
                    self.on_lost()
                await delays.wait(error)
        for message, answer in zip(self._batch, answers, strict=True):
            _settle(message.done, answer, isinstance(answer, self._library.refused))

    def close(self) -> None:
        """Fails every message that still waits."""
        self._is_closed = True
        while not self._queue.empty():
            self._batch.append(self._queue.get_nowait())
        for message in self._batch:
            _settle(message.done, ConnectionError("the rooms are closed"), True)


class Subscriber:
    """Subscribes to channels, and again after each loss of the connection.

    Args:
        channels: those that are wanted, each with an event that is set while Redis has confirmed it.
        deliver: called with a channel and a message, one after the other. While it waits nothing is read from Redis.
    """

    def __init__(
        self,
        library: Library,
        client: Any,
        channels: Mapping[bytes, asyncio.Event],
        deliver: Callable[[bytes, bytes], Awaitable[None]],
    ) -> None:
        self._library = library
        self._redis = client
        self._channels = channels
        self._deliver = deliver
        self._changes = asyncio.Event()
        self._changed: set[bytes] = set()  # those that have become wanted, or unwanted
        self._heard = False
        self._is_delivering = False
        self._is_suspect = False
        self._confirmed: set[bytes] = set()

    def changed(self, channel: bytes) -> None:
        """`channel` has become wanted, or unwanted."""
        self._changed.add(channel)
        self._changes.set()

    def suspect(self) -> None:
        """The publisher has lost Redis. Our own connection may not have noticed, and what is published now must not
        miss us: so it counts as lost too."""
        self._is_suspect = True
        self._confirmed.clear()
        self._tell(self._channels)
        self._changes.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        delays = _Delays("listen to")
        while True:
            self._heard = False
            try:
                await self._listen()
            except Exception as error:
                # Also what redis-py raises when it reconnects by itself, and two tasks read from one stream.
                if self._heard:
                    delays.reset()
                await delays.wait(error)

    async def _listen(self) -> None:
        """Until the connection is lost."""
        self._is_suspect = False
        pubsub = self._redis.pubsub()
        try:
            await pubsub.subscribe(_CONTROL)
            await _first_of(self._read(pubsub), self._follow(pubsub))
        finally:
            self._confirmed.clear()
            self._tell(self._channels)
            with contextlib.suppress(Exception):
                await pubsub.aclose()

    async def _read(self, pubsub: Any) -> None:
        async for message in pubsub.listen():
            self._heard = True
            if message["type"] == "message":
                await self._deliver_one(message["channel"], message["data"])
            elif message["type"] == "subscribe":
                if not self._is_suspect:
                    self._confirmed.add(message["channel"])
                    confirmed = self._channels.get(message["channel"])
                    # Not `_tell` for each: after a loss all channels come, without a turn of the loop in between.
                    if confirmed is not None:
                        confirmed.set()
                    else:
                        self.changed(message["channel"])
        raise ConnectionError("the subscription has ended")

    async def _deliver_one(self, channel: bytes, data: bytes) -> None:
        self._is_delivering = True
        try:
            await self._deliver(channel, data)
        except Exception:
            # Anybody may publish anything there, and the others must not suffer for it.
            logger.error("a message on %r was not understood", channel, exc_info=True)
        finally:
            self._is_delivering = False
            self._heard = True  # what has come meanwhile has not been read

    async def _follow(self, pubsub: Any) -> None:
        """Subscribes to what is wanted, and asks now and then whether Redis is still there."""
        asked: set[bytes] = set()
        self._changed = set(self._channels)
        while True:
            self._changes.clear()
            if self._is_suspect:
                raise ConnectionError("the publisher has lost it")
            # Only what has changed: there may be thousands of others.
            changed, self._changed = self._changed, set()
            wanted = {channel for channel in changed if channel in self._channels}
            # A channel is unsubscribed only after Redis has confirmed it: a new subscription before that would take
            # the old confirmation for its own.
            new, old = wanted - asked, (changed - wanted) & asked & self._confirmed
            if new:
                await pubsub.subscribe(*new)
            if old:
                await pubsub.unsubscribe(*old)
                self._confirmed -= old
            asked |= new
            asked -= old
            self._tell(changed)  # one that was unwanted for a moment is subscribed to already
            try:
                await in_time(self._changes.wait(), HEARTBEAT)
            except asyncio.TimeoutError:
                if not self._heard and not self._is_delivering:
                    raise ConnectionError("nothing was heard of it") from None
                self._heard = False
                await pubsub.ping()

    def _tell(self, channels: Iterable[bytes]) -> None:
        for channel in channels:
            confirmed = self._channels.get(channel)
            if confirmed is None:
                continue  # nobody waits
            if channel in self._confirmed:
                confirmed.set()
            else:
                confirmed.clear()


class _Delays:
    """Waits between attempts, ever longer; a part of each is random, so that a thousand processes do not come back at
    the same moment."""

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self.reset()

    def reset(self) -> None:
        """An attempt has succeeded."""
        self._delays = backoff(min_delay=FIRST_DELAY, max_delay=MAX_DELAY)
        next(self._delays)  # the first, which may be no wait at all

    async def wait(self, error: Exception) -> None:
        """Before the next attempt."""
        delay = next(self._delays)
        logger.warning("cannot %s Redis, next attempt in %.1f s: %r", self._purpose, delay, error)
        await asyncio.sleep(delay)


def _settle(done: asyncio.Future[int], answer: Any, is_error: bool) -> None:
    if done.done():
        return  # whoever waited has gone away
    if is_error:
        done.set_exception(answer)
    else:
        done.set_result(answer)


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs them until one ends, and raises what it raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    finally:
        await cancel(tasks)


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancels `tasks`, and waits until they have ended.

    To cancel them once is not always enough: if Redis is lost at the same moment, redis-py turns the cancellation into
    a lost connection, and a task that reconnects for ever would go on.
    """
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=_PATIENCE)
    await asyncio.gather(*tasks, return_exceptions=True)
