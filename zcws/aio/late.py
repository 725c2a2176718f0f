"""Messages for a connection that could not take them at once: they are written when it can.

broadcast.py decides which these are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zcws.aio.websocket import WebSocket
from zcws.errors import ConnectionClosed
from zcws.prepared import Prepared

__all__ = ["Held", "held_by", "write_when_ready"]


async def write_when_ready(ws: WebSocket, message: Callable[[], Prepared | None]) -> None:
    """Writes a message when the peer has caught up, and nobody is in the middle of another one.

    Args:
        message: a function that gives the message when it can be written. None: there is none any more.

    Raises:
        ConnectionClosed: the connection has ended meanwhile.
        ValueError: a message is being written frame by frame.
    """
    await ws._until_sendable()
    prepared = message()
    if prepared is not None:
        prepared.write_to(ws.writer)
        ws._written()


class Held:
    """Messages that one connection gets when it can be written to again.

    The newest message of a room takes the place of the one before it, and not a place behind the others: where all
    rooms go on faster than the connection takes them, each of them has its turn.
    """

    __slots__ = ("_messages", "_size", "_task", "_ws")

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        ws._held = self
        # In their order; by their room where only the newest of it counts.
        self._messages: dict[object, Prepared] = {}
        self._size = 0  # bytes of all of them
        self._task: asyncio.Task[None] | None = None

    def latest(self, message: Prepared, room: object) -> None:
        """This one, and none of those of the same room before it. What has no room (None) counts as one room."""
        replaced = self._messages.get(room)
        if replaced is not None:
            self._size -= replaced.size
        self._put(room, message)

    def forget(self, room: object) -> None:
        """The connection has left the room, and does not get its latest message: one that goes through many rooms
        would have a message of each of them here."""
        forgotten = self._messages.pop(room, None)
        if forgotten is not None:
            self._size -= forgotten.size

    def add(self, message: Prepared) -> bool:
        """This one too, unless the bytes that are held would pass the connection's `write_limit`."""
        if self._messages and self._size + message.size > self._ws._options.write_limit[0]:
            return False
        self._put(object(), message)
        return True

    def _put(self, place: object, message: Prepared) -> None:
        self._messages[place] = message
        self._size += message.size
        if self._task is None:
            # Last: an eager task (Python 3.12) begins here, and has to find the message.
            self._task = asyncio.get_running_loop().create_task(self._deliver())

    def _take(self) -> Prepared | None:
        for place in self._messages:
            message = self._messages.pop(place)
            self._size -= message.size
            return message
        return None

    async def _deliver(self) -> None:
        """Writes messages until none is held."""
        ws = self._ws
        try:
            while self._messages:
                await write_when_ready(ws, self._take)
        except (ConnectionClosed, ValueError):
            pass  # the connection has ended, or a message is being written frame by frame
        finally:
            ws._held = None


def held_by(ws: WebSocket) -> Held:
    """The `Held` of a connection, which is made if there is none."""
    held: Held = ws._held or Held(ws)
    return held
