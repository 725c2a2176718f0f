"""Accepting without the event loop's transports."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from typing import Any

import pytest
from net import Place, echo, hang_up, no_descriptor_left, port_of, request, soon, until

import zcws
from zcws.aio.accepting import ServerHandshake
from zcws.aio.engine import Engine, engine_of, is_engine_on
from zcws.aio.listener import can_accept
from zcws.aio.transport import EngineTransport

pytestmark = pytest.mark.skipif(not is_engine_on(), reason="there is no engine here")


def test_on_which_sockets_we_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        assert can_accept([stream])
        assert not can_accept([stream, datagrams])
        monkeypatch.setenv("ZCWS_ENGINE", "0")
        assert not can_accept([stream])


def listener_of(server: zcws.Server) -> Any:
    return server._listener


def test_no_transport_of_the_loop_is_made(anyloop: Place) -> None:
    """For a plain connection, with a hook that is a plain function."""
    transports: list[object] = []

    def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
        transports.append(handshake.transport)

    async def main() -> None:
        async with anyloop.serve(echo, process_request=process_request) as server:
            async with anyloop.connect(server) as ws:
                await ws.send("x")
                assert await ws.recv() == "x"
                (theirs,) = server.connections
                assert isinstance(theirs._transport, EngineTransport)
                sock = theirs.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert transports == [None]

    anyloop.run(main())


def test_the_handshake_of_one_whose_request_is_there_already(anyloop: Place) -> None:
    """Nobody has looked at it as a request, nor at the answer, before the program does."""
    seen: list[zcws.WebSocket] = []

    async def handler(ws: zcws.WebSocket) -> None:
        seen.append(ws)
        await ws.wait_closed()

    async def main() -> None:
        async with anyloop.serve(handler) as server:
            with socket.create_connection(("127.0.0.1", port_of(server))) as peer:
                peer.sendall(request())
                await until(lambda: seen)
                (ws,) = seen
                assert ws.request is ws.request and ws.request.headers["Upgrade"] == "websocket"
                assert ws.response is ws.response and ws.response.status_code == 101
                assert peer.recv(4096) == ws.response.serialize()

    anyloop.run(main())


def test_refusals_wait_for_their_reader(anyloop: Place) -> None:
    """A response that is not a 101 needs a transport: the peer may take its time to read it."""

    def process_request(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response:
        response = handshake.respond(403, "no")
        response.body = b"x" * 5_000_000
        return response

    async def main() -> None:
        async with anyloop.serve(echo, process_request=process_request) as server:
            reader, writer = await anyloop.open(port_of(server))
            writer.write(request())
            await asyncio.sleep(0.05)
            assert (await soon(reader.read())).endswith(b"x" * 5_000_000)
            await hang_up(writer)
            await until(lambda: not server.handshakes and not listener_of(server).passing)

    anyloop.run(main())


def test_more_at_once_than_one_turn_takes(anyloop: Place) -> None:
    async def main() -> None:
        async with anyloop.serve(echo, backlog=200) as server:
            peers = [await anyloop.open(port_of(server)) for _ in range(150)]
            for _, writer in peers:
                writer.write(request())
            for reader, _ in peers:
                assert (await soon(reader.readline())).startswith(b"HTTP/1.1 101 ")
            assert len(server.connections) == 150
            for _, writer in peers:
                await hang_up(writer)

    anyloop.run(main())


def test_no_descriptor_left(
    anyloop: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The socket that listens rests for a moment, and those who wait are served then."""
    monkeypatch.setattr("zcws.aio.listener._OUT_OF_DESCRIPTORS", 0.05)

    async def main() -> None:
        async with anyloop.serve(echo) as server:
            _, writer = await anyloop.open(port_of(server), limit=2**16)
            await until(lambda: server.handshakes)
            sock = socket.socket()
            sock.setblocking(False)
            with no_descriptor_left():
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port_of(server)))
                await until(lambda: "cannot accept connections" in caplog.text)
            await until(lambda: len(server.handshakes) == 2)
            sock.close()
            await hang_up(writer)

    with caplog.at_level(logging.ERROR, logger="zcws.server"):
        anyloop.run(main())


class Full:
    """An epoll that takes nobody more: its user has as many descriptors in some as he may (epoll(7))."""

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)

    def register(self, *args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what, others", [("engine", 0), ("engine", 1), ("loop", 0)])
@pytest.mark.parametrize("tls", ["asyncio-tls"], indirect=True)
@pytest.mark.parametrize("encrypted", [False, True])
def test_whoever_the_system_does_not_watch(
    what: str, others: int, encrypted: bool, tls: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He is not kept, nor kept waiting; whoever comes later is served."""
    place = tls if encrypted else Place("asyncio", None)
    failures: list[Any] = []

    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))
        async with place.serve(echo) as server, contextlib.AsyncExitStack() as stack:
            witnesses = [await stack.enter_async_context(place.connect(server)) for _ in range(others)]
            engine = engine_of(loop)
            with await soon(unserved(engine, loop, server)) as sock:
                with contextlib.suppress(ConnectionResetError):  # his request was not read
                    assert await soon(loop.sock_recv(sock, 1)) == b""
            assert [failure.errno for failure in failures] == [errno.ENOSPC]
            assert not server.handshakes
            assert len(engine._transports) == 2 * others
            for ws in [*witnesses, await stack.enter_async_context(place.connect(server))]:
                await ws.send("hello")
                assert await soon(ws.recv()) == "hello"

    async def unserved(engine: Engine, loop: Any, server: zcws.Server) -> socket.socket:
        # At once: a request that is not there yet would be waited for without the engine.
        sock = socket.create_connection(("127.0.0.1", port_of(server)))
        sock.sendall(request())
        sock.setblocking(False)
        with monkeypatch.context() as patch:
            if what == "engine":
                patch.setattr(engine, "_epoll", Full(engine._epoll))
            else:
                patch.setattr(loop, "add_reader", refuse)
            await until(lambda: failures)
            return sock

    place.run(main())


def test_closing_twice_and_starting_after_the_end(anyloop: Place) -> None:
    async def main() -> None:
        server = await anyloop.serve(echo, start_serving=False)
        await server.start_serving()
        await server.start_serving()
        server.close()
        await server.start_serving()
        assert not server.is_serving()
        await soon(server.wait_closed())

    anyloop.run(main())


def test_nobody_is_accepted_after_a_hook_has_closed_the_server(
    anyloop: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """While connections are being accepted: by then its descriptor may be that of somebody else's socket."""
    theirs = socket.create_server(("127.0.0.1", 0))
    theirs.setblocking(False)
    client = socket.create_connection(theirs.getsockname())
    client.sendall(request())
    asked: list[str] = []

    async def main() -> None:
        def process_request(handshake: ServerHandshake, request: zcws.Request) -> zcws.Response:
            (number,) = (sock.fileno() for sock in listener_of(server)._listening)
            asked.append(request.path)
            server.close()
            os.dup2(theirs.fileno(), number)
            numbers.append(number)
            return handshake.respond(200, "bye")

        server = await anyloop.serve(echo, process_request=process_request)
        with socket.create_connection(("127.0.0.1", port_of(server))) as last:
            last.sendall(request(target="/shutdown"))  # it is there when the listener opens
            await until(lambda: numbers)
            await soon(server.wait_closed())

    numbers: list[int] = []
    with theirs, client:
        anyloop.run(main())
        os.close(numbers[0])
        theirs.settimeout(5)
        theirs.accept()[0].close()  # nobody else has
    assert asked == ["/shutdown"]
    assert not caplog.records
