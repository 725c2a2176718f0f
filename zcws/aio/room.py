"""`Room`: connections that hear the same broadcasts. It knows who is in, and nothing of what is said.

A connection leaves by itself when its socket is gone. Until then it may be closing, and is passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from zcws.aio.broadcast import Delivery, Slow, broadcast_in, check_slow
from zcws.aio.websocket import WebSocket
from zcws.annotations import Buffer, Self

__all__ = ["Members", "Membership", "Room", "all_but"]


class Members:
    """Who is in a room: a set of connections, in the order in which they came."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[WebSocket, None] = {}

    def join(self, ws: WebSocket) -> Membership:
        """Adds a connection. It leaves with `leave`, at the end of `with room.join(ws):`, or when it is closed.

        Raises:
            TypeError: it is no `zcws.WebSocket`. One of `zcws.sync` belongs to no event loop.
        """
        if not isinstance(ws, WebSocket):
            raise TypeError(f"only a zcws.WebSocket can join a room, not {ws!r}")
        if ws not in self._members and ws._transport is not None:
            self._members[ws] = None
            ws.add_end_callback(self.leave)
        return Membership(self, ws)

    def leave(self, ws: WebSocket) -> None:
        """Removes a connection; does nothing if it is not in."""
        if ws in self._members:
            del self._members[ws]
            ws.remove_end_callback(self.leave)
            if ws._held is not None:
                ws._held.forget(self)

    def __contains__(self, ws: object) -> bool:
        return ws in self._members

    def __iter__(self) -> Iterator[WebSocket]:
        return iter(list(self._members))

    def __len__(self) -> int:
        return len(self._members)


def all_but(without: WebSocket | Collection[WebSocket] | None, room: Members) -> Iterable[WebSocket]:
    """Who is in `room`, except one connection, or several."""
    if without is None:
        return room
    excluded = {without} if isinstance(without, WebSocket) else set(without)
    return [ws for ws in room if ws not in excluded]


class Room(Members):
    """A room in this process.

        room = zcws.Room()

        async def handler(ws):
            with room.join(ws):
                async for message in ws:
                    await room.broadcast(message)

    Args:
        slow: what a slow connection gets unless `broadcast` is told otherwise. See `zcws.broadcast`.

    Raises:
        ValueError: there is no such `slow`.
    """

    __slots__ = ("slow",)

    def __init__(self, *, slow: Slow = "skip") -> None:
        super().__init__()
        check_slow(slow)  # here, and not at the first broadcast
        self.slow: Slow = slow

    def broadcast(
        self,
        message: str | Buffer,
        *,
        without: WebSocket | Collection[WebSocket] | None = None,
        slow: Slow | None = None,
        text: bool | None = None,
        compress: bool | None = None,
    ) -> Delivery:
        """Sends a message to everybody in the room, as `zcws.broadcast` does.

        Args:
            without: a connection, or several, that it is not for: often the one that it came from.

        Returns, raises: as `zcws.broadcast`. It can always be awaited; with `slow="wait"` it has to be.
        """
        slow = slow or self.slow
        return broadcast_in(self, all_but(without, self), message, slow=slow, text=text, compress=compress)

    def __repr__(self) -> str:
        return f"<Room of {len(self)}>"


class Membership:
    """A connection's place in a room; at the end of a `with` block the connection leaves."""

    __slots__ = ("_room", "_ws")

    def __init__(self, room: Members, ws: WebSocket) -> None:
        self._room = room
        self._ws = ws

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._room.leave(self._ws)
