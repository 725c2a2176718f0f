"""What a slow connection gets of broadcasts when it has caught up, and in which order."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import wire
from net import Place, soon, swallow, until

import zcws
from zcws.prepared import Prepared

from .test_broadcast import clients, counts, read_messages, slow_client

#: What makes tasks begin at once, where there is such a thing.
EAGER = getattr(asyncio, "eager_task_factory", None)


@pytest.mark.parametrize("is_eager", [False, True] if EAGER else [False])
def test_latest(place: Place, is_eager: bool) -> None:
    """Also where a task begins while it is made (Python 3.12): it used to find nothing to send, and end."""
    if is_eager and place.loop == "uvloop":
        pytest.skip("uvloop 0.22 and the eager tasks of Python 3.13.0 do not know each other")

    async def main() -> None:
        if is_eager:
            asyncio.get_running_loop().set_task_factory(EAGER)
        async with slow_client(place) as (ws, peer, number):
            for value in range(5):
                assert counts(zcws.broadcast([ws], f"{value}", slow="latest")) == {"waiting": 1}
            await read_messages(peer, number)
            assert (await peer.read()).payload == b"4"
            await until(lambda: ws._held is None)
            assert counts(zcws.broadcast([ws], "5", slow="latest")) == {"sent": 1}
            assert (await peer.read()).payload == b"5"

    place.run(main())


def test_what_waits_for_a_slow_peer_waits_until_he_has_caught_up(place: Place) -> None:
    """In later turns of the loop too. Only the latest is there then, and nobody fails for want of the others."""

    async def main() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        async with slow_client(place) as (ws, peer, number):
            for value in range(5):
                assert counts(zcws.broadcast([ws], f"{value}", slow="latest")) == {"waiting": 1}
                for _ in range(3):
                    await asyncio.sleep(0)
            await read_messages(peer, number)
            assert (await peer.read()).payload == b"4"
            await until(lambda: ws._held is None)
        gc.collect()
        assert not failures

    place.run(main())


def test_latest_for_one_that_goes_away(place: Place) -> None:
    async def main() -> None:
        async with slow_client(place) as (ws, _peer, _):
            zcws.broadcast([ws], "a", slow="latest")
            ws.abort()
            await until(lambda: ws._held is None)

    place.run(main())


@pytest.mark.parametrize("slow", ["close", "latest"])
def test_what_is_held_goes_out_before_what_comes_later(place: Place, slow: Any) -> None:
    """In the very turn in which the message before it has ended, and nothing of what is held has gone out."""

    async def main() -> None:
        async with clients(place, 1) as (server, (peer,)):
            (ws,) = server.connections
            async with ws.send_stream() as message:
                await message.write("whole")
                zcws.broadcast([ws], "1", slow=slow)
                await asyncio.sleep(0)
            assert counts(zcws.broadcast([ws], "2", slow=slow)) == {"waiting": 1}
            await until(lambda: ws._held is None)
            await ws.send("end")
            read = ["whole", "1", "2", "end"] if slow == "close" else ["whole", "2", "end"]
            assert [await soon(peer.recv()) for _ in read] == read

    place.run(main())


def test_one_message_is_held_however_large_and_what_it_replaces_is_not_counted(place: Place) -> None:
    async def main() -> None:
        async with clients(place, 1, write_limit=1000) as (server, (peer,)):
            (ws,) = server.connections
            async with ws.send_stream() as message:
                await message.write("a")
                for size in (5000, 600):
                    assert counts(zcws.broadcast([ws], bytes(size), slow="latest")) == {"waiting": 1}
                assert counts(zcws.broadcast([ws], bytes(300), slow="close")) == {"waiting": 1}
            assert [len(await soon(peer.recv())) for _ in range(3)] == [1, 600, 300]

    place.run(main())


def test_latest_does_not_replace_what_must_not_be_missed(place: Place) -> None:
    """It did: a connection that gets everything or is closed ("close") went on with a gap."""

    async def main() -> None:
        async with clients(place, 1) as (server, (peer,)):
            (ws,) = server.connections
            async with ws.send_stream() as message:
                await message.write("whole")
                for text, slow in (("1", "close"), ("2", "latest"), ("3", "latest"), ("4", "close")):
                    assert counts(zcws.broadcast([ws], text, slow=slow)) == {"waiting": 1}  # type: ignore[arg-type]
            assert [await soon(peer.recv()) for _ in range(4)] == ["whole", "1", "3", "4"]

    place.run(main())


def test_the_latest_of_each_room(place: Place) -> None:
    """The newest of one room replaced the last of all others, which the connection then never got."""

    async def main() -> None:
        dollar, yen = zcws.Room(slow="latest"), zcws.Room(slow="latest")
        async with slow_client(place) as (ws, peer, number):
            with dollar.join(ws), yen.join(ws):
                for value in range(3):
                    for name, room in (("dollar", dollar), ("yen", yen)):
                        assert counts(room.broadcast(f"{name} {value}")) == {"waiting": 1}
                    assert counts(zcws.broadcast([ws], f"all {value}", slow="latest")) == {"waiting": 1}
                assert counts(dollar.broadcast("dollar 3")) == {"waiting": 1}
                await read_messages(peer, number)
                # A room that goes on faster than the others keeps its turn, and takes none of theirs.
                assert [(await peer.read()).payload for _ in range(3)] == [b"dollar 3", b"yen 2", b"all 2"]
                await until(lambda: ws._held is None)

    place.run(main())


def test_what_is_held_of_a_room_that_is_left(place: Place) -> None:
    """It stayed: a slow connection that goes through many rooms had a message of each of them."""

    async def main() -> None:
        kept = zcws.Room(slow="latest")
        async with slow_client(place) as (ws, peer, number):
            with kept.join(ws):
                for last in (False, True):
                    for value in range(3):
                        left = zcws.Room(slow="latest")
                        with left.join(ws):
                            assert counts(left.broadcast(f"left {value}")) == {"waiting": 1}
                    if last:
                        assert counts(kept.broadcast("kept")) == {"waiting": 1}
                await read_messages(peer, number)
                assert (await peer.read()).payload == b"kept"
                await until(lambda: ws._held is None)

    place.run(main())


def test_nothing_is_held_any_more(place: Place) -> None:
    async def main() -> None:
        room = zcws.Room(slow="latest")
        async with slow_client(place) as (ws, peer, number):
            with room.join(ws):
                room.broadcast("left")
                held = ws._held
                await asyncio.sleep(0)  # it waits for room now
            await read_messages(peer, number)
            assert await soon(held._task) is None
            await ws.send("next")
            assert (await peer.read()).payload == b"next"

    place.run(main())


def test_what_was_held_of_a_room_is_not_counted_any_more(place: Place) -> None:
    async def main() -> None:
        room = zcws.Room(slow="latest")
        async with clients(place, 1, write_limit=1000) as (server, (peer,)):
            (ws,) = server.connections
            async with ws.send_stream() as message:
                await message.write("a")
                # However large it is, one message is held.
                assert counts(zcws.broadcast([ws], bytes(5000), slow="close")) == {"waiting": 1}
            assert [len(await soon(peer.recv())) for _ in range(2)] == [1, 5000]
            await until(lambda: ws._held is None)
            async with ws.send_stream() as message:
                await message.write("b")
                assert counts(zcws.broadcast([ws], bytes(300), slow="close")) == {"waiting": 1}
                with room.join(ws):
                    assert counts(room.broadcast(bytes(900))) == {"waiting": 1}
                with room.join(ws):
                    pass
                assert counts(zcws.broadcast([ws], bytes(600), slow="close")) == {"waiting": 1}
            assert [len(await soon(peer.recv())) for _ in range(3)] == [1, 300, 600]

    place.run(main())


def test_what_is_held_behind_a_message_is_bounded(place: Place) -> None:
    async def main() -> None:
        async with place.serve(swallow, write_limit=1000) as server:
            async with place.raw_client(server) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                with pytest.raises(zcws.ConnectionClosed):
                    async with ws.send_stream() as message:
                        await message.write("a")
                        made = [counts(zcws.broadcast([ws], bytes(600), slow="close")) for _ in range(2)]
                        assert made == [{"waiting": 1}, {"closed": 1}]
                assert [(await peer.read()).opcode for _ in range(2)] == [wire.TEXT, wire.CLOSE]
                await until(lambda: ws._held is None)

    place.run(main())


def test_what_has_gone_out_is_not_held_any_more(place: Place) -> None:
    async def main() -> None:
        async with clients(place, 1, write_limit=1000) as (server, (peer,)):
            (ws,) = server.connections
            async with ws.send_stream() as message:
                await message.write("a")
                for size in (400, 300):
                    zcws.broadcast([ws], bytes(size), slow="close")
                assert ws._held is not None
                first = ws._held._take()
                assert counts(zcws.broadcast([ws], bytes(600), slow="close")) == {"waiting": 1}
                assert not ws._held.add(first)
            assert [len(await soon(peer.recv())) for _ in range(3)] == [1, 300, 600]

    place.run(main())


def test_what_is_held_is_counted_once_and_an_empty_message_counts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each broadcast added up all that was held, 2.8 ms of 30,000; and empty messages were held for ever."""
    asked = 0

    def size(message: Prepared) -> int:
        nonlocal asked
        asked += 1
        return real(message)

    real = Prepared.size.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Prepared, "size", property(size))

    async def main() -> None:
        async with clients(place, 1, write_limit=200) as (server, (peer,)):
            (ws,) = server.connections
            with pytest.raises(zcws.ConnectionClosed):
                async with ws.send_stream() as message:
                    await message.write("a")
                    made = [counts(zcws.broadcast([ws], "", slow="close")) for _ in range(101)]
                    assert made == [{"waiting": 1}] * 100 + [{"closed": 1}]
                    assert asked <= 3 * len(made)
            with pytest.raises(zcws.ConnectionClosed):
                await soon(peer.recv())

    place.run(main())
