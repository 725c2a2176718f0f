"""Eager tasks (`asyncio.eager_task_factory`, Python 3.12): one begins where it is made, inside of whoever makes it.

A handler runs before the server has noted its task, a coroutine of a hook may be over by then, and what waits in
another task begins to wait before its maker goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import wire
from net import LONG, SHORT, Place, echo, hang_up, port_of, request, soon, until

import zcws

EAGER: Any = getattr(asyncio, "eager_task_factory", None)

pytestmark = [
    pytest.mark.skipif(EAGER is None, reason="Python 3.12 has the first eager tasks"),
    # uvloop 0.22 and the eager tasks of Python 3.13.0 do not know each other.
    pytest.mark.parametrize("place", ["asyncio-engine", "asyncio-transport"], indirect=True),
]


@pytest.fixture
def eagerly(place: Place) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """Runs a program whose tasks are eager."""

    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def begin() -> None:
            asyncio.get_running_loop().set_task_factory(EAGER)
            await soon(main())

        place.run(begin())

    return run


def test_messages_there_and_back(place: Place, eagerly: Any) -> None:
    async def main() -> None:
        async with place.serve(echo, ping_interval=SHORT) as server:
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(place.connect(server)) for _ in range(10)]

                async def talk(ws: zcws.WebSocket) -> None:
                    for number in range(20):
                        await ws.send(str(number))
                        assert await ws.recv() == str(number)

                await asyncio.gather(*map(talk, clients))
            await until(lambda: not server.connections)

    eagerly(main)


@pytest.mark.parametrize("begin", ["return", "raise", "send", "close", "abort", "close the server"])
def test_what_a_handler_may_do_before_its_task_is_known(
    place: Place, eagerly: Any, begin: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = {
        "return": 1000,
        "raise": 1011,
        "send": 1000,
        "close": 4000,
        "abort": 1006,
        "close the server": 1001,
    }
    returned: list[bool] = []

    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            if begin == "raise":
                raise LookupError("a bug")
            elif begin == "send":
                await ws.send("x")
            elif begin == "close":
                await ws.close(4000)
            elif begin == "abort":
                ws.abort()
            elif begin == "close the server":
                server.close()
                server.close()
                await ws.wait_closed()
                await asyncio.sleep(SHORT)
                returned.append(True)

        async with place.serve(handler, close_timeout=LONG) as server, place.connect(server) as ws:
            if begin == "send":
                assert await ws.recv() == "x"
            with pytest.raises(zcws.ConnectionClosed):
                await ws.recv()
            assert ws.close_code == expected[begin]
            await until(lambda: not server.connections)
            if begin == "close the server":
                await server.wait_closed()
                assert returned

    eagerly(main)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * (begin == "raise")


@pytest.mark.parametrize("waits", [False, True])
def test_hooks_that_are_coroutines(place: Place, eagerly: Any, waits: bool) -> None:
    async def process_request(handshake: Any, request: zcws.Request) -> zcws.Response | None:
        if waits:
            await asyncio.sleep(0)
        return handshake.respond(403, "no") if request.path == "/no" else None

    async def process_response(handshake: Any, request: zcws.Request, response: zcws.Response) -> None:
        if waits:
            await asyncio.sleep(0)
        response.headers["X-Seen"] = "yes"

    async def main() -> None:
        hooks = {"process_request": process_request, "process_response": process_response}
        async with place.serve(echo, **hooks) as server:
            async with place.connect(server) as ws:
                assert ws.response is not None
                assert ws.response.headers["X-Seen"] == "yes"
                await ws.send("x")
                assert await ws.recv() == "x"
            with pytest.raises(zcws.HandshakeError, match="403"):
                await place.connect(server, "/no")
            await until(lambda: not server.handshakes)

    eagerly(main)


def test_a_message_that_came_with_the_request(place: Place, eagerly: Any) -> None:
    """RFC 6455 4.1 has a client wait for the answer; some do not, and the handler is there before the bytes are."""

    async def main() -> None:
        async with place.serve(echo) as server:
            reader, writer = await place.open(port_of(server))
            writer.write(request() + wire.frame(wire.TEXT, b"early", key=wire.KEY))
            assert (await soon(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101 ")
            assert await soon(reader.readexactly(7)) == wire.frame(wire.TEXT, b"early")
            await hang_up(writer)

    eagerly(main)


def test_whoever_reads_after_a_task_began_to_wait_for_the_end(place: Place, eagerly: Any) -> None:
    """The Close took effect before the maker of that task came to his read, and his answers were refused."""

    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            await until(lambda: ws._reader.is_ending)
            waiting = asyncio.get_running_loop().create_task(ws.wait_closed())
            async for message in ws:
                await ws.send(message)
            await waiting

        async with place.serve(handler) as server, place.raw_client(server) as peer:
            close = peer.frame(wire.CLOSE, wire.close_payload(1000))
            await peer.send_bytes(peer.frame(wire.TEXT, b"x") * 3 + close)
            assert len(await peer.rest()) == 4

    eagerly(main)


def test_a_name_with_several_addresses(place: Place, eagerly: Any) -> None:
    """asyncio's race of addresses fails an assertion where tasks are eager, up to CPython 3.12.7, and in 3.13.0."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            port = listening.getsockname()[1]
            connecting = asyncio.ensure_future(zcws.connect(f"ws://localhost:{port}/")._connect())
            sock, _ = await soon(asyncio.get_running_loop().sock_accept(listening))
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            sock.close()

    eagerly(main)


def test_a_room_and_a_drain(place: Place, eagerly: Any) -> None:
    room = zcws.Room()

    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            with room.join(ws):
                await room.broadcast("joined")
                async for message in ws:
                    await room.broadcast(message)

        async with place.serve(handler) as server:
            async with place.connect(server) as one, place.connect(server) as two:
                assert [await one.recv(), await one.recv(), await two.recv()] == ["joined"] * 3
                await two.send("x")
                assert [await one.recv(), await two.recv()] == ["x", "x"]
                server.close(drain=None)
            await server.wait_closed()

    eagerly(main)
