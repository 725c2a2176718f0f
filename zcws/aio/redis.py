"""`RedisRooms`: the same rooms in many processes, over the pub/sub of a Redis server.

Two connections to Redis carry everything, however many rooms there are. One subscribes to a channel for each room that
has members here; the other publishes. A message goes to Redis even for members of this very process, so that everybody
hears a publisher's messages in the same order. What is promised:

    order           each publisher's messages arrive in the order in which it sent them, in every process
    no doubles      what is sent again after an error (was it published or not?) is recognised by its number
    at most once    what is published while a process is cut off from Redis is lost for its members: Redis keeps nothing
    back-pressure   `await room.broadcast(...)` takes until Redis has the message; while Redis is away, at most
                    `max_pending` messages wait for it, and further senders for their turn
    reconnecting    for ever, with waits that grow to MAX_DELAY seconds, and a line in the log for each attempt

Each message travels behind 25 bytes: what it is (text or binary), who published it, and its number there.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Collection
from typing import Any

from zcws.aio.broadcast import Slow, broadcast_in, check_slow
from zcws.aio.pubsub import ENVELOPE, Library, Message, Publisher, Subscriber, cancel
from zcws.aio.room import Members, Membership, all_but
from zcws.aio.websocket import WebSocket
from zcws.annotations import Buffer, Self
from zcws.codes import OpCode
from zcws.options import checked_count
from zcws.payloads import as_message

__all__ = ["RedisRoom", "RedisRooms"]

#: Seconds for an answer of Redis to what was published; the subscriber has its heartbeat instead.
_ANSWER = 10

#: Publishers whose last number is remembered; a process that restarts is a new one (about 200 bytes each).
_MOST_PUBLISHERS = 4096


class RedisRooms:
    """All rooms of one Redis server, by name. Use it as a context manager.

        async with zcws.RedisRooms("redis://localhost") as rooms:
            room = rooms["lobby"]

    Args:
        url: where Redis is, as redis-py wants it: `redis://`, `rediss://` or `unix://`.
        prefix: what the names of channels begin with.
        slow: what a slow connection gets in these rooms. See `zcws.broadcast`. With "wait", all rooms wait.
        max_pending: messages that wait for Redis, before further senders wait for their turn.
        options: for redis-py's `from_url`: `password`, `ssl_ca_certs` and so on.

    Raises:
        TypeError, ValueError: an option is invalid.
        ImportError: redis-py is not installed: `pip install 'zcws[redis]'`.
        redis.exceptions.ConnectionError: on entering, when Redis cannot be reached. Later it is waited for.
    """

    def __init__(
        self,
        url: str = "redis://localhost",
        *,
        prefix: str = "zcws:",
        slow: Slow = "skip",
        max_pending: int = 1000,
        **options: Any,
    ) -> None:
        check_slow(slow)
        for option, value in (("url", url), ("prefix", prefix)):
            if not isinstance(value, str):
                raise TypeError(f"{option} is a str, not {value!r}")
        max_pending = checked_count("max_pending", max_pending, "messages")
        self.slow: Slow = slow
        self._prefix = prefix
        library = Library()
        self._clients = [library.client(url, seconds, options) for seconds in (_ANSWER, None)]
        self._rooms: weakref.WeakValueDictionary[bytes, RedisRoom] = weakref.WeakValueDictionary()
        self._open: dict[bytes, RedisRoom] = {}  # those that have members
        self._wanted: dict[bytes, asyncio.Event] = {}  # their channels
        self._publisher = Publisher(library, self._clients[0], max_pending, self._wanted)
        self._subscriber = Subscriber(library, self._clients[1], self._wanted, self._deliver)
        self._publisher.on_lost = self._subscriber.suspect
        self._tasks: list[asyncio.Task[None]] = []
        self._last: dict[bytes, int] = {}  # the number of each publisher's last message

    def __getitem__(self, name: str) -> RedisRoom:
        """The room of this name; it need not exist anywhere yet."""
        channel = (self._prefix + name).encode()
        room = self._rooms.get(channel)
        if room is None:
            room = self._rooms[channel] = RedisRoom(self, name, channel)
        return room

    async def _deliver(self, channel: bytes, data: bytes) -> None:
        """A message has come from Redis."""
        kind, publisher, number = ENVELOPE.unpack_from(data)
        last = self._last.pop(publisher, -1)
        # Behind all others: the first in the dictionary is the one that has been silent for longest.
        self._last[publisher] = max(number, last)
        if len(self._last) > _MOST_PUBLISHERS:
            del self._last[next(iter(self._last))]
        if number <= last:
            return
        without = self._publisher.note(number) if publisher == self._publisher.name else None
        room = self._open.get(channel)
        if room is not None:
            message = memoryview(data)[ENVELOPE.size :]
            members, is_text = all_but(without, room), kind == OpCode.TEXT
            await broadcast_in(room, members, message, slow=self.slow, text=is_text)

    async def __aenter__(self) -> Self:
        try:
            await self._clients[0].ping()
        except BaseException:
            await self._disconnect()
            raise
        start = asyncio.get_running_loop().create_task
        self._tasks = [start(self._publisher.run()), start(self._subscriber.run())]
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        try:
            await cancel(self._tasks)
        finally:  # it may be cancelled itself
            self._publisher.close()
            await self._disconnect()

    def _check_entered(self) -> None:
        """`RuntimeError` before the rooms are used as a context manager: nothing would ever be sent or heard."""
        if not self._tasks:
            raise RuntimeError(
                "these rooms are not connected to Redis: write `async with zcws.RedisRooms(...) as rooms:`"
            )

    def __repr__(self) -> str:
        return f"<RedisRooms {self._prefix!r}, {len(self._open)} open>"

    async def _disconnect(self) -> None:
        for client in self._clients:
            await client.aclose()


class RedisRoom(Members):
    """A room that is the same in every process; made by `RedisRooms`. Joined and left as a `Room`."""

    __slots__ = ("__weakref__", "_channel", "_ready", "_rooms", "name")

    def __init__(self, rooms: RedisRooms, name: str, channel: bytes) -> None:
        super().__init__()
        self.name: str = name
        self._rooms = rooms
        self._channel = channel
        self._ready = asyncio.Event()  # Redis has confirmed the subscription, or nobody needs it
        self._ready.set()

    def join(self, ws: WebSocket) -> Membership:
        """Adds a connection. It hears what is published from `await room.ready()` on at the latest."""
        membership = super().join(ws)
        self._changed()
        return membership

    def leave(self, ws: WebSocket) -> None:
        """Removes a connection; does nothing if it is not in."""
        super().leave(ws)
        self._changed()

    def _changed(self) -> None:
        rooms = self._rooms
        is_open = self._channel in rooms._open
        if len(self) and not is_open:
            self._ready.clear()
            rooms._open[self._channel] = self
            rooms._wanted[self._channel] = self._ready
        elif is_open and not len(self):
            self._ready.set()
            del rooms._open[self._channel], rooms._wanted[self._channel]
        else:
            return  # it is wanted, or unwanted, as before
        rooms._subscriber.changed(self._channel)

    async def ready(self) -> None:
        """Waits until Redis has confirmed that this process hears the room, where somebody is in.

        Raises:
            RuntimeError: `RedisRooms` has not been entered.
        """
        self._rooms._check_entered()
        await self._ready.wait()

    async def broadcast(
        self,
        message: str | Buffer,
        *,
        without: WebSocket | Collection[WebSocket] | None = None,
        text: bool | None = None,
    ) -> int:
        """Sends a message to everybody in the room, in every process. Waits until Redis has it.

        Args:
            without: a connection of this process, or several, that it is not for.
            text: True or False sends text or binary, whatever the type of the message; bytes sent as text must be
                UTF-8.

        Returns:
            The number of processes that it went to.

        Raises:
            ConnectionError: the rooms were closed meanwhile.
            RuntimeError: `RedisRooms` has not been entered.
            redis.exceptions.ResponseError: Redis refuses to publish it.
            TypeError: this is not a message. ValueError: it is text, and not UTF-8.
        """
        self._rooms._check_entered()
        opcode, payload = as_message(message, text)  # refused here, and not in every process
        # Not before `ready`: the members here would miss it.
        waiting = Message(self._channel, opcode, payload, note=without, ready=self._ready)
        return await self._rooms._publisher.publish(waiting)

    def __repr__(self) -> str:
        return f"<RedisRoom {self.name!r} of {len(self)} here>"
