from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from net import Place, echo, soon, until

import zcws


class Chat:
    """A server whose connections are all in one room; what one says everybody hears."""

    def __init__(self, **options: Any) -> None:
        self.room = zcws.Room(**options)

    async def handler(self, ws: zcws.WebSocket) -> None:
        with self.room.join(ws):
            async for message in ws:
                self.room.broadcast(message, without=ws if message == "psst" else None)


def test_everybody_in_the_room_hears_it(anyplace: Place) -> None:
    async def main() -> None:
        chat = Chat()
        async with anyplace.serve(chat.handler) as server:
            async with anyplace.connect(server) as one, anyplace.connect(server) as another:
                await until(lambda: len(chat.room) == 2)
                for message in ("hello", b"\x00"):
                    await one.send(message)
                    assert [await soon(ws.recv()) for ws in (one, another)] == [message] * 2
                await another.send("psst")
                assert await soon(one.recv()) == "psst"
            await until(lambda: not chat.room)

    anyplace.run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_whoever_is_closed_has_left(place: Place, how: str) -> None:
    async def main() -> None:
        room = zcws.Room()

        async def handler(ws: zcws.WebSocket) -> None:
            room.join(ws)
            room.join(ws)  # once is enough
            await ws.wait_closed()

        async with place.serve(handler) as server:
            async with place.connect(server) as ws:
                await until(lambda: len(room) == 1)
                (member,) = room
                assert member in room
                if how == "close":
                    await ws.close()
                else:
                    ws.abort()
                await until(lambda: not room)
                assert member not in room
                room.join(member)  # too late
                assert len(room) == 0

    place.run(main())


class Several(list[zcws.WebSocket]):
    """To ask it for each member took as long as both are: 1 ms for 400 in a room, of whom 390 are left out."""

    def __contains__(self, ws: object) -> bool:
        raise AssertionError


def test_leaving(place: Place) -> None:
    async def main() -> None:
        rooms = [zcws.Room(), zcws.Room()]

        async def handler(ws: zcws.WebSocket) -> None:
            for room in rooms:
                room.join(ws)
            await ws.wait_closed()

        async with place.serve(handler) as server, place.connect(server) as ws:
            await until(lambda: len(rooms[1]) == 1)
            (member,) = rooms[0]
            rooms[0].leave(member)
            rooms[0].leave(member)
            assert [len(room) for room in rooms] == [0, 1]
            assert rooms[0].broadcast("a").sent == 0
            assert rooms[1].broadcast("b").sent == 1
            assert rooms[1].broadcast("c", without=Several([member])).sent == 0
            assert await soon(ws.recv()) == "b"
            assert repr(rooms[1]) == "<Room of 1>"

    place.run(main())


class Weak(zcws.Room):
    """A room of which one sees whether it is still there."""


def test_a_room_that_a_connection_has_left_is_not_held_by_it(place: Place) -> None:
    """Whoever goes from room to room for days would hold all of them, were they left when the connection ends."""

    async def main() -> None:
        gone: list[weakref.ref[Weak]] = []

        async def handler(ws: zcws.WebSocket) -> None:
            room = Weak()
            gone.append(weakref.ref(room))
            with room.join(ws) as membership, room.join(ws):
                assert membership is not None and ws in room
            assert ws not in room
            del room, membership
            gc.collect()
            await ws.send(str(gone[0]() is None))

        async with place.serve(handler) as server, place.connect(server) as ws:
            assert await soon(ws.recv()) == "True"

    place.run(main())


def test_the_room_decides_about_slow_connections(anyloop: Place) -> None:
    async def main() -> None:
        room = zcws.Room()
        room.slow = "nonsense"  # type: ignore[assignment]
        with pytest.raises(ValueError, match="slow must be one of"):
            room.broadcast("a")
        assert (await room.broadcast("a", slow="wait")).sent == 0

    anyloop.run(main())


def test_what_no_room_can_be_told() -> None:
    """Both were found at the first broadcast, or as an attribute that a str does not have."""
    with pytest.raises(
        ValueError, match=r"^slow must be one of 'skip', 'close', 'wait', 'latest', not 'bad'$"
    ):
        zcws.Room(slow="bad")  # type: ignore[arg-type]
    room = zcws.Room()
    with pytest.raises(TypeError, match=r"^only a zcws\.WebSocket can join a room, not 'x'$"):
        room.join("x")  # type: ignore[arg-type]
    assert len(room) == 0


def test_end_callbacks(place: Place) -> None:
    async def main() -> None:
        ended: list[tuple[str, zcws.WebSocket]] = []

        def first(ws: zcws.WebSocket) -> None:
            ended.append(("first", ws))

        def second(ws: zcws.WebSocket) -> None:
            ended.append(("second", ws))

        async with place.serve(echo) as server:
            async with place.connect(server) as ws:
                ws.remove_end_callback(first)
                ws.add_end_callback(first)
                ws.add_end_callback(second)
                ws.remove_end_callback(first)
                await asyncio.sleep(0)
                assert ended == []
            assert ended == [("second", ws)]

    place.run(main())
