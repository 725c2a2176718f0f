"""The opening handshake where it is: at the door or on a transport. What is answered: test_behaviour_handshake.py."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from net import Place, echo, hang_up, port_of, request, soon, until

import zcws
from zcws.aio.accepting import ServerHandshake


def test_what_a_hook_may_ask(anyplace: Place) -> None:
    seen: list[Any] = []

    def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
        sock = handshake.get_extra_info("socket")
        seen.append((handshake.remote_address[1], handshake.local_address[1], sock.fileno() >= 0))
        assert handshake.get_extra_info("nothing", "else") == "else"
        assert (handshake.get_extra_info("ssl_object") is None) == (anyplace.certificates is None)

    async def main() -> None:
        async with anyplace.serve(echo, process_request=process_request) as server:
            async with anyplace.connect(server) as ws:
                assert seen == [(ws.local_address[1], port_of(server), True)]

    anyplace.run(main())


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_in_pieces(place: Place, size: int) -> None:
    async def main() -> None:
        async with place.serve(echo) as server:
            reader, writer = await place.open(port_of(server))
            head = request()
            for start in range(0, len(head), size):
                writer.write(head[start : start + size])
                await asyncio.sleep(0)
            assert (await soon(reader.readline())).startswith(b"HTTP/1.1 101 ")
            assert not server.handshakes
            await hang_up(writer)

    place.run(main())


def test_a_hook_that_thinks_about_the_response(anyplace: Place) -> None:
    async def process_response(
        handshake: ServerHandshake, asked: zcws.Request, answer: zcws.Response
    ) -> zcws.Response | None:
        await asyncio.sleep(0)
        return handshake.respond(402, "pay first") if asked.path == "/paid" else None

    async def main() -> None:
        async with anyplace.serve(echo, process_response=process_response) as server:
            async with anyplace.connect(server) as ws:
                await ws.send("x")
                assert await ws.recv() == "x"
            with pytest.raises(zcws.HandshakeError) as refused:
                async with anyplace.connect(server, "/paid"):
                    pass
            assert refused.value.status == 402

    anyplace.run(main())


def test_a_client_that_leaves_before_its_hook_has_begun(place: Place) -> None:
    """Its coroutine was made and is never awaited, which is nobody's mistake."""

    async def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        # Reading is paused while a hook thinks, so that nobody sees the client leave before the timeout.
        async with place.serve(echo, process_request=process_request, open_timeout=0.1) as server:
            for _ in range(20):
                _, writer = await place.open(port_of(server))
                writer.write(request())
                writer.transport.abort()
            await asyncio.sleep(0.05)
            await until(lambda: not server.handshakes)

    place.run(main())


def raises(*_: Any) -> Any:
    raise LookupError("a bug")


async def later(*_: Any) -> Any:
    return "hello"


def unsendable(*_: Any) -> zcws.Response:
    return zcws.Response(200, "OK", None, "text")  # type: ignore[arg-type]


async def unsendable_later(*_: Any) -> zcws.Response:
    return unsendable()


@pytest.mark.parametrize(
    "hooks",
    [
        *(
            {"select_subprotocol": each}
            for each in (raises, lambda offered: "other", lambda offered: later())
        ),
        *(
            {"process_request": each}
            for each in (raises, lambda *_: "hello", later, unsendable, unsendable_later)
        ),
        *(
            {"process_response": each}
            for each in (raises, lambda *_: "hello", later, unsendable, unsendable_later)
        ),
        {"process_request": later, "process_response": later},
        {"process_request": zcws.basic_auth("r", check_credentials=raises)},
        {"process_request": zcws.basic_auth("r", check_credentials=later)},
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_hook_that_is_a_mistake(
    anyplace: Place, hooks: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks gets an answer, and the log says why it is that one."""

    async def main() -> None:
        async with anyplace.serve(echo, **hooks) as server:
            with pytest.raises(zcws.HandshakeError) as refused:
                await soon(awaited(anyplace.connect(server, subprotocols=["chat"], basic_auth=("a", "b"))))
            assert refused.value.status == 500
            assert b"bug" not in refused.value.body and b"hello" not in refused.value.body
            await until(lambda: not server.handshakes)
            assert not server.connections

    anyplace.run(main())
    assert [(record.name, record.levelname) for record in caplog.records] == [("zcws.server", "ERROR")]


async def awaited(connecting: Any) -> Any:
    return await connecting


def test_a_chain_of_hooks_whose_client_leaves_first(place: Place) -> None:
    """The coroutine of the first hook in the list was made, too, and is not left behind."""
    made: list[Any] = []

    def process_request(handshake: ServerHandshake, asked: zcws.Request) -> Any:
        made.append(later())
        return made[-1]

    async def main() -> None:
        hooks = [process_request, process_request]
        async with place.serve(echo, process_request=hooks, open_timeout=0.1) as server:
            for _ in range(20):
                _, writer = await place.open(port_of(server))
                writer.write(request())
                writer.transport.abort()
            await until(lambda: len(made) >= 20)
            await until(lambda: not server.handshakes)
            for each in made:
                await until(lambda each=each: inspect.getcoroutinestate(each) == inspect.CORO_CLOSED)

    place.run(main())
