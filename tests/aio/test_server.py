from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
import wire
from h2.events import ConnectionTerminated
from net import LONG, Certificates, Place, echo, hang_up, port_of, request, soon, swallow, until
from raw import head_of, read_to_end
from receiver import NoMemory
from tunnel import CLOSE, knock
from tunnel import serve as serve_http2

import zcws
import zcws.sync
from zcws.aio.accepting import ServerHandshake


def test_awaited_or_as_a_context_manager(anyplace: Place) -> None:
    async def main() -> None:
        server = await anyplace.serve(echo)
        assert server.is_serving()
        async with anyplace.connect(server) as ws:
            await ws.send("x")
            assert await soon(ws.recv()) == "x"
        server.close()
        await soon(server.wait_closed())
        assert not server.is_serving()
        assert server.sockets == ()
        async with await anyplace.serve(echo) as again:
            assert again.is_serving()

    anyplace.run(main())


def test_serve_forever_until_cancelled(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo) as server:
            forever = asyncio.ensure_future(server.serve_forever())
            async with place.connect(server) as ws:
                forever.cancel()
                with pytest.raises(zcws.ConnectionClosedOK) as caught:
                    await soon(ws.recv())
                assert caught.value.code == 1001
            with pytest.raises(asyncio.CancelledError):
                await forever
            assert not server.is_serving()

    place.run(main())


@pytest.mark.parametrize("how", ["serve_forever", "block"])
def test_a_server_is_over_when_its_handlers_are(place: Place, how: str) -> None:
    """However it is ended: what they have to do behind the last message is done."""
    ended: list[bool] = []

    async def handler(ws: zcws.WebSocket) -> None:
        try:
            await ws.recv()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            ended.append(True)

    async def main() -> None:
        server = await place.serve(handler, start_serving=False)
        async with contextlib.AsyncExitStack() as stack:
            if how == "block":
                await stack.enter_async_context(server)
                await server.start_serving()
            forever = asyncio.ensure_future(server.serve_forever())  # which begins to serve, too
            await until(server.is_serving)
            ws = await place.connect(server)
            reading = asyncio.ensure_future(ws.wait_closed())
            if how == "serve_forever":
                forever.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await forever
                assert ended
        assert ended
        await soon(reading)
        await forever if how == "block" else None

    place.run(main())


def test_serve_forever_until_closed(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo) as server:
            forever = asyncio.ensure_future(server.serve_forever())
            await asyncio.sleep(0)
            server.close()
            server.close()
            await soon(forever)

    place.run(main())


class TestHooks:
    @pytest.mark.parametrize("kind", ["function", "coroutine"])
    def test_process_request_and_response(self, anyplace: Place, kind: str) -> None:
        def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
            assert asked.headers["Host"]
            assert handshake.remote_address[0] == handshake.local_address[0] == "127.0.0.1"

        def process_response(handshake: ServerHandshake, asked: zcws.Request, answer: zcws.Response) -> None:
            answer.headers["X-Extra"] = "yes"

        async def slow_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
            await asyncio.sleep(0)
            process_request(handshake, asked)

        async def slow_response(
            handshake: ServerHandshake, asked: zcws.Request, answer: zcws.Response
        ) -> None:
            await asyncio.sleep(0)
            process_response(handshake, asked, answer)

        hooks: dict[str, Any] = {"process_request": slow_request, "process_response": slow_response}
        if kind == "function":
            hooks = {"process_request": process_request, "process_response": process_response}

        async def main() -> None:
            async with anyplace.serve(echo, **hooks) as server, anyplace.connect(server) as ws:
                assert ws.response is not None and ws.response.headers["X-Extra"] == "yes"
                await ws.send("x")
                assert await soon(ws.recv()) == "x"

        anyplace.run(main())

    def test_process_response_may_refuse(self, place: Place) -> None:
        def process_response(
            handshake: ServerHandshake, asked: zcws.Request, answer: zcws.Response
        ) -> zcws.Response | None:
            return handshake.respond(402, "pay first")

        async def main() -> None:
            async with place.serve(echo, process_response=process_response) as server:
                with pytest.raises(zcws.HandshakeError) as caught:
                    await place.connect(server)
                assert (caught.value.status, caught.value.body) == (402, b"pay first")

        place.run(main())

    @pytest.mark.parametrize("mistake", ["raises", "accepts"])
    def test_a_hook_that_is_wrong(self, place: Place, mistake: str, caplog: pytest.LogCaptureFixture) -> None:
        def process_request(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response:
            if mistake == "raises":
                raise LookupError("a bug")
            return handshake.respond(101, "")

        async def main() -> None:
            async with place.serve(echo, process_request=process_request) as server:
                with pytest.raises(zcws.HandshakeError) as caught:
                    await place.connect(server)
                assert caught.value.status == 500
                assert b"a bug" not in caught.value.body

        place.run(main())
        assert len(caplog.records) == 1
        assert ("must not accept the connection" in caplog.text) == (mistake == "accepts")

    def test_a_client_that_leaves_while_a_hook_thinks(self, place: Place) -> None:
        async def main() -> None:
            began, cancelled = asyncio.Event(), asyncio.Event()

            async def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
                began.set()
                try:
                    await asyncio.sleep(LONG)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

            async with place.serve(echo, process_request=process_request, open_timeout=0.1) as server:
                _, writer = await place.open(port_of(server))
                writer.write(request())
                await soon(began.wait())
                await hang_up(writer)
                await soon(cancelled.wait())
                await until(lambda: not server.handshakes)

        place.run(main())

    def test_shutting_down_while_a_hook_thinks(
        self, anyplace: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            began, go_on = asyncio.Event(), asyncio.Event()

            async def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
                began.set()
                await go_on.wait()

            async with anyplace.serve(echo, process_request=process_request) as server:
                connecting = asyncio.ensure_future(anyplace.connect(server)._connect())
                await soon(began.wait())
                server.close()
                await asyncio.sleep(0)
                go_on.set()
                with pytest.raises((zcws.HandshakeError, ConnectionError)):
                    await soon(connecting)
                await soon(server.wait_closed())

        with caplog.at_level(logging.WARNING):
            anyplace.run(main())
        assert caplog.records == []

    def test_a_hook_that_has_thought_when_the_server_begins_to_close(self, anyplace: Place) -> None:
        """It was let in, and sent away at once."""

        async def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
            await asyncio.sleep(0)
            handshake.server.close()  # type: ignore[attr-defined]

        async def main() -> None:
            async with anyplace.serve(echo, process_request=process_request) as server:
                with pytest.raises((zcws.HandshakeError, ConnectionError)) as refused:
                    await anyplace.connect(server)._connect()
                assert not isinstance(refused.value, zcws.HandshakeError) or refused.value.status == 503
                await soon(server.wait_closed())

        anyplace.run(main())


class TestShutdown:
    def test_a_handshake_that_is_under_way(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                reader, writer = await place.open(port_of(server))
                writer.write(request()[:20])
                await until(lambda: server.handshakes)
                server.close()
                try:
                    answer = await soon(reader.read())
                    assert answer.startswith(b"HTTP/1.1 503 ")
                except ConnectionError:
                    pass
                await hang_up(writer)
                await soon(server.wait_closed())

        place.run(main())

    def test_a_client_in_the_middle_of_tls(self, certificates: Certificates) -> None:
        """It may have no `open_timeout`, and nobody else would end it."""

        async def main() -> None:
            options: dict[str, Any] = {"ssl": certificates.server, "open_timeout": None}
            async with zcws.serve(echo, "127.0.0.1", 0, **options) as server:
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
                await until(lambda: server.handshakes)
                server.close()
                await soon(server.wait_closed())
                assert not await soon(reader.read())
                await hang_up(writer)

        asyncio.run(main())

    def test_connections_of_http_2_take_no_more_streams_while_it_drains(self) -> None:
        """The next one is for the next server: its client is told so at once."""

        async def main() -> None:
            async with serve_http2(swallow) as server, knock(port_of(server)) as peer:
                number = await peer.opened()
                server.close(drain=None)
                await peer.until(ConnectionTerminated)
                await peer.send(number, CLOSE, end_stream=True)
                await soon(server.wait_closed())

        asyncio.run(main())

    def test_peers_that_have_gone_already(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow, close_timeout=0.5) as server:
                for _ in range(10):
                    _, writer = await anyplace.open(port_of(server))
                    writer.close()
                    writer.transport.abort()
                async with anyplace.raw_client(server) as peer:
                    peer.reset()

        anyplace.run(main())

    def test_a_handler_that_has_work_to_do(self, place: Place) -> None:
        """`wait_closed` waits for it."""

        async def main() -> None:
            finished: list[bool] = []

            async def handler(ws: zcws.WebSocket) -> None:
                await swallow(ws)
                await asyncio.sleep(0.05)
                finished.append(True)

            async with place.serve(handler) as server, place.connect(server) as ws:
                await until(lambda: server.connections)
                server.close()
                with pytest.raises(zcws.ConnectionClosedOK):
                    await soon(ws.recv())
                await soon(server.wait_closed())
                assert finished == [True]

        place.run(main())

    def test_peers_that_do_not_read(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                while True:
                    await ws.send(bytes(100_000))

            async with anyplace.serve(handler, close_timeout=0.1) as server:
                async with anyplace.raw_client(server, limit=1024):
                    await until(lambda: any(not ws.is_writable for ws in server.connections))
                    server.close()
                    await soon(server.wait_closed())

        anyplace.run(main())


SERVER = """
import asyncio, sys
import zcws

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with zcws.serve(echo, "127.0.0.1", 0, close_timeout=0.2) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

try:
    if sys.argv[1] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(42)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.run does not handle SIGINT")
def test_control_c(place: Place) -> None:
    """It says goodbye, and exits at once, with a peer that does not answer, and without a traceback."""
    command = [sys.executable, "-c", SERVER, place.loop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        with socket.create_connection(("127.0.0.1", int(process.stdout.readline())), timeout=LONG) as sock:
            sock.sendall(request())
            head_of(sock)
            process.send_signal(signal.SIGINT)
            assert wire.parse(read_to_end(sock)) == [wire.Seen(wire.CLOSE, wire.close_payload(1001))]
            assert process.wait(LONG) == 42
            assert process.stderr.read() == b""


def test_basic_credentials(place: Place) -> None:
    async def main() -> None:
        check = zcws.basic_auth("the realm", credentials=("user", "secret"))
        async with place.serve(echo, process_request=check) as server:
            with pytest.raises(zcws.HandshakeError) as caught:
                await place.connect(server)
            assert caught.value.status == 401
            assert (
                caught.value.headers is not None and "the realm" in caught.value.headers["WWW-Authenticate"]
            )
            with pytest.raises(zcws.HandshakeError):
                await zcws.connect(f"ws://user:wrong@127.0.0.1:{port_of(server)}")
            async with zcws.connect(f"ws://user:secret@127.0.0.1:{port_of(server)}") as ws:
                assert ws.state is zcws.State.OPEN

    place.run(main())


def test_no_memory_for_a_handler(anyplace: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would end the connection."""

    def fails(*_: Any) -> Any:
        raise MemoryError

    async def main() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        monkeypatch.setattr("zcws.aio.server.Server._run", fails)
        async with anyplace.serve(echo) as server:
            reader, writer = await anyplace.open(port_of(server))
            writer.write(request())
            with contextlib.suppress(ConnectionError):
                await soon(reader.read())
            await until(lambda: failures)
            assert not server.connections
            await hang_up(writer)

    anyplace.run(main())


@pytest.mark.parametrize("thinks", [False, True])
def test_no_memory_for_a_connection(anyplace: Place, monkeypatch: pytest.MonkeyPatch, thinks: bool) -> None:
    """It ends, also where a hook has thought before, in a task: it stayed open."""

    def fails(**_: Any) -> Any:
        raise MemoryError

    async def think(handshake: Any, asked: zcws.Request) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        monkeypatch.setattr("zcws.aio.server.Connection", fails)
        async with anyplace.serve(echo, process_request=think if thinks else None) as server:
            reader, writer = await anyplace.open(port_of(server))
            writer.write(request())
            with contextlib.suppress(ConnectionError):
                assert await soon(reader.read()) == b""
            await until(lambda: not server.handshakes and (gc.collect(), failures)[1])
            await hang_up(writer)
        assert isinstance(failures[0]["exception"], MemoryError)

    anyplace.run(main())


@pytest.mark.parametrize("right", ["secret", "wrong"])
@pytest.mark.filterwarnings("error")
def test_credentials_that_are_looked_up(anyplace: Place, right: str) -> None:
    async def check(username: str, password: str) -> bool:
        await asyncio.sleep(0)
        return password == right

    async def main() -> None:
        hooks = [
            zcws.health(check=lambda: check("", "secret")),
            zcws.basic_auth("r", check_credentials=check),
        ]
        async with anyplace.serve(echo, process_request=hooks) as server:
            with pytest.raises(zcws.HandshakeError) as answer:
                await anyplace.connect(server, "/healthz")
            assert answer.value.status == (200 if right == "secret" else 503)
            connecting = anyplace.connect(server, basic_auth=("user", "secret"))
            if right == "secret":
                async with connecting:
                    (ws,) = server.connections
                    assert ws.request is not None and ws.request.username == "user"
            else:
                with pytest.raises(zcws.HandshakeError) as answer:
                    await connecting
                assert answer.value.status == 401
                assert not server.connections

    anyplace.run(main())


class TestOnOpen:
    @pytest.mark.parametrize("way", ["raises", "cancels", "closes", "aborts", "sends", "coroutine"])
    @pytest.mark.parametrize("on_the_socket", [True, False])
    @pytest.mark.filterwarnings("error")
    def test_a_function_that_fails(
        self, anyplace: Place, way: str, on_the_socket: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """RFC 6455 7.4.1: 1011, "an unexpected condition"; the handler does not run."""
        called: list[str] = []

        def on_open(ws: zcws.WebSocket) -> None:
            called.append("on_open")
            if way == "closes":
                ws.begin_close(1001)
            elif way == "aborts":
                ws.abort()
            elif way == "sends":
                ws.send_nowait("early")
            elif way == "cancels":
                raise asyncio.CancelledError  # of a future that was cancelled
            raise LookupError("a bug")

        async def slow(ws: zcws.WebSocket) -> None: ...

        async def handler(ws: zcws.WebSocket) -> None:
            called.append("handler")

        def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None: ...

        options = {} if on_the_socket else {"process_request": process_request}

        async def main() -> None:
            async with anyplace.serve(handler, **options) as server:
                server.on_open.append(slow if way == "coroutine" else on_open)
                server.on_open.append(lambda ws: called.append("the next"))
                ws = await anyplace.connect(server)
                with pytest.raises(zcws.ConnectionClosed):
                    while True:
                        assert await soon(ws.recv()) == "early"
                assert ws.close_code == {"closes": 1001, "aborts": 1006}.get(way, 1011)
                await until(lambda: not server.connections)

        anyplace.run(main())
        assert called == ([] if way == "coroutine" else ["on_open"])
        assert [(record.name, record.levelname) for record in caplog.records] == [("zcws.server", "ERROR")]

    def test_with_frames_behind_the_request(self, place: Place) -> None:
        """They are not shown to a program that has failed already."""
        shown: list[zcws.Frame] = []

        def on_open(ws: zcws.WebSocket) -> None:
            raise LookupError("a bug")

        async def main() -> None:
            async with place.serve(None, on_frame=lambda ws, frame: shown.append(frame)) as server:
                server.on_open.append(on_open)
                reader, writer = await place.open(port_of(server))
                writer.write(request() + wire.frame(wire.TEXT, b"x", key=wire.KEY))
                assert (await soon(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101 ")
                assert await soon(reader.readexactly(4)) == b"\x88\x02\x03\xf3"
                await hang_up(writer)
                await until(lambda: not server.connections)

        place.run(main())
        assert shown == []


class TestDraining:
    def test_handlers_may_finish(self, place: Place) -> None:
        """No Close while a handler works, and no longer than it works."""

        async def work(ws: zcws.WebSocket) -> None:
            await ws.recv()
            await ws.send("done")

        async def main() -> None:
            async with place.serve(work) as server:
                async with place.connect(server) as ws:
                    server.close(drain=60)
                    await asyncio.sleep(0.05)
                    await ws.send("the last one")
                    assert await soon(ws.recv()) == "done"
                    with pytest.raises(zcws.ConnectionClosedOK) as closed:
                        await soon(ws.recv())
                    assert closed.value.code == 1000
                    await soon(server.wait_closed())

        place.run(main())

    @pytest.mark.parametrize("slowly", ["head", "hook"])
    def test_whoever_has_been_accepted_is_let_in(self, anyplace: Place, slowly: str) -> None:
        """He got a 503, where another process had taken over and would have had him."""

        async def main() -> None:
            asked, answer = asyncio.Event(), asyncio.Event()

            async def think(*_: object) -> None:
                asked.set()
                if slowly == "hook":
                    await answer.wait()

            async with anyplace.serve(echo, process_request=think) as server:
                reader, writer = await anyplace.open(port_of(server))
                head = request()
                writer.write(head if slowly == "hook" else head[:20])
                await soon(asked.wait()) if slowly == "hook" else await until(lambda: server.handshakes)
                server.close(drain=600)
                for _ in range(5):
                    await asyncio.sleep(0)
                answer.set()
                writer.write(b"" if slowly == "hook" else head[20:])
                assert (await soon(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101 ")
                peer = anyplace.raw(reader, writer, masks=True)
                await peer.send(wire.TEXT, b"x")
                assert (await peer.read()).payload == b"x"
                await peer.send(wire.CLOSE)
                await peer.close()
                await soon(server.wait_closed())  # which is over with the last of them

        anyplace.run(main())

    def test_whoever_says_nothing_is_sent_away_when_it_is_late(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                reader, writer = await place.open(port_of(server))
                await until(lambda: server.handshakes)
                server.close(drain=0.05)
                assert (await soon(reader.read())).startswith(b"HTTP/1.1 503 ")
                await soon(server.wait_closed())
                writer.close()

        place.run(main())

    @pytest.mark.parametrize("again", ["", "at once", "later"])
    def test_until_it_is_late_or_somebody_has_no_patience(self, place: Place, again: str) -> None:
        """At once, before anybody had begun to drain, it was not heard."""

        async def main() -> None:
            async with place.serve(swallow) as server:
                async with place.connect(server) as ws:
                    server.close(code=1012, reason="restart", drain=600 if again else 0.05)
                    if again == "later":
                        await asyncio.sleep(0.05)
                        assert ws.state is zcws.State.OPEN
                    if again:
                        server.close()
                    with pytest.raises(zcws.ConnectionClosed) as closed:
                        await soon(ws.recv())
                    assert (closed.value.code, closed.value.reason) == (1012, "restart")
                    await soon(server.wait_closed())

        place.run(main())

    @pytest.mark.parametrize("fails", [False, True])
    def test_whoever_leaves_meanwhile_waits_for_it_unless_something_went_wrong(
        self, place: Place, fails: bool
    ) -> None:
        """As `server.close(drain=20)` is the last line of many a program."""
        ended: list[int | None] = []

        async def client(server: zcws.Server, draining: asyncio.Event) -> None:
            async with place.connect(server) as ws:
                server.close(drain=600)
                await asyncio.sleep(0.05)
                draining.set()
                await asyncio.sleep(0.05)
                if not fails:
                    await ws.send("the last one")
                    await ws.close()
                await ws.wait_closed()
                ended.append(ws.close_code)

        async def main() -> None:
            draining = asyncio.Event()
            with contextlib.suppress(KeyError):
                async with place.serve(swallow) as server:
                    task = asyncio.ensure_future(client(server, draining))
                    await draining.wait()
                    if fails:
                        raise KeyError
            await soon(task)
            assert ended == [1001 if fails else 1000]

        place.run(main())

    def test_a_code_that_must_not_be_sent(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(swallow) as server:
                with pytest.raises(ValueError):
                    server.close(code=1006)
                assert server.is_serving()

        place.run(main())


def test_limits_do_not_let_a_client_write_the_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:

    async def main() -> None:
        began = asyncio.get_running_loop().time()
        async with place.serve(swallow, max_size=10) as server:
            for _ in range(20):
                async with place.raw_client(server) as peer:
                    await peer.send(wire.TEXT, b"x" * 11)
                    assert (await peer.read()).opcode == wire.CLOSE
            await until(lambda: not server.connections)
        seconds = asyncio.get_running_loop().time() - began
        assert 1 <= len(caplog.records) <= 1 + seconds

    place.run(main())


@pytest.mark.parametrize("how", ["handler", "on_frame"])
def test_a_limit_that_closed_a_connection_is_a_warning(
    place: Place, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Also where the handler does not read, and so never sees the exception."""

    async def main() -> None:
        handler = zcws.WebSocket.wait_closed if how == "handler" else None
        on_frame = None if how == "handler" else (lambda ws, frame: None)
        async with place.serve(handler, on_frame=on_frame, max_size=10) as server:
            for payload, code in ((b"x" * 11, 1009), (b"\xff", 1007)):
                async with place.raw_client(server) as peer:
                    await peer.send(wire.TEXT, payload)
                    assert (await peer.read()).payload[:2] == code.to_bytes(2, "big")
            await until(lambda: not server.connections)

    place.run(main())
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("zcws.server", "WARNING")
    assert "closed here by a limit: 1009" in record.getMessage() and "max_size=10" in record.getMessage()
    assert "<WebSocket server with ('127.0.0.1', " in record.getMessage()


def test_no_memory_for_more_of_a_large_message(
    anyplace: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer heard nothing: its connection was gone. And the handler was told of the network, or of nothing."""
    seen: list[zcws.ConnectionClosedError] = []

    async def handler(ws: zcws.WebSocket) -> None:
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            await ws.recv()
        seen.append(caught.value)

    async def main() -> None:
        async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
            monkeypatch.setattr("zcws.buffer.PayloadBuffer.slot", NoMemory())
            await peer.send_bytes(peer.frame(wire.BINARY, bytes(2_000_000)))
            close = await peer.read()
            assert (close.opcode, close.payload) == (wire.CLOSE, b"\x03\xf3no memory for what was received")
            await until(lambda: seen)

    anyplace.run(main())
    assert (seen[0].code, seen[0].by) == (1011, "us")
    assert ["no memory for what was received" in record.getMessage() for record in caplog.records] == [True]


def test_unmasked_frames_are_for_tls(anyplace: Place) -> None:
    """Where a client offers them in the clear, unless the server says "insecure"."""

    async def main() -> None:
        for agrees, options in (
            (anyplace.is_tls, {"no_masking": True}),
            (True, {"no_masking": "insecure"}),
            (False, {}),
        ):
            async with anyplace.serve(echo, **options) as server:
                reader, writer = await anyplace.open(port_of(server))
                writer.write(request("Sec-WebSocket-Extensions: no-masking"))
                answer = await soon(reader.readuntil(b"\r\n\r\n"))
                assert answer.startswith(b"HTTP/1.1 101 ")
                assert (b"no-masking" in answer) == agrees
                writer.transport.abort()  # type: ignore[attr-defined]

    anyplace.run(main())


def test_a_handler_that_is_cancelled(anyplace: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Its connection is cut, and nothing has failed."""

    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []

        async def handler(ws: zcws.WebSocket) -> None:
            tasks.append(asyncio.current_task())  # type: ignore[arg-type]
            await ws.recv()

        async with anyplace.serve(handler, close_timeout=LONG) as server:
            async with anyplace.raw_client(server) as peer:
                await until(lambda: tasks)
                tasks[0].cancel()
                assert await peer.rest() == []
                await until(lambda: tasks[0].done())
                assert tasks[0].cancelled() and not server.connections

    anyplace.run(main())
    assert not caplog.records


def test_the_set_of_connections_is_the_callers(place: Place) -> None:
    """It was the server's own: a loop over it failed when a client came, and whom it had lost was never closed."""

    async def main() -> None:
        async with place.serve(swallow) as server, place.connect(server) as ws:
            await until(lambda: server.connections)
            everybody = server.connections
            everybody.clear()
            assert len(server.connections) == 1
            for _ in server.connections:
                async with place.connect(server):
                    await until(lambda: len(server.connections) == 2)
            server.close()
            await soon(server.wait_closed())
            assert ws.state is not zcws.State.OPEN
            assert not server.connections

    place.run(main())


@pytest.mark.parametrize("how", ["a second call", "an exception"])
def test_what_was_left_open_is_closed_by(place: Place, how: str) -> None:
    async def main() -> None:
        with contextlib.suppress(LookupError):
            async with place.serve(swallow) as server:
                ws = await place.connect(server)
                await until(lambda: server.connections)
                server.close(close_connections=False)
                server.close(close_connections=False)
                await asyncio.sleep(0)
                if how == "an exception":
                    raise LookupError
                server.close(code=1012, reason="moved")
        with pytest.raises(zcws.ConnectionClosed):
            await soon(ws.recv())
        expected = (1001, "") if how == "an exception" else (1012, "moved")
        assert (ws.close_code, ws.close_reason) == expected

    place.run(main())


def test_a_code_where_close_wants_to_know_whether(place: Place) -> None:
    """`close(1012)` closed with 1001."""

    async def main() -> None:
        async with place.serve(swallow) as server:
            with pytest.raises(
                TypeError, match="close_connections is True or False, not 1012; the code is the second"
            ):
                server.close(1012)  # type: ignore[arg-type]
            assert server.is_serving()

    place.run(main())


def test_a_handler_that_leaves_the_program(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        # Nobody gets hold of an eager task that fails like this where it begins: asyncio logs it.
        await asyncio.sleep(0)
        raise SystemExit(3)

    async def main() -> None:
        async with place.serve(handler) as server, place.connect(server) as ws:
            await soon(ws.wait_closed())
            await asyncio.sleep(LONG)

    with pytest.raises(SystemExit) as left:
        place.run(main())
    assert left.value.code == 3
    assert not caplog.records


@pytest.mark.parametrize("hook", ["process_request", "process_response", "on_open"])
def test_a_hook_that_leaves_the_program(anyplace: Place, hook: str) -> None:
    """uvloop takes what a transport's callback raises for a failure of the protocol, and went on."""

    def leave(*_: object) -> None:
        raise SystemExit(3)

    async def main() -> None:
        hooks: dict[str, Any] = {} if hook == "on_open" else {hook: leave}
        async with anyplace.serve(echo, **hooks) as server:
            if hook == "on_open":
                server.on_open.append(leave)
            with contextlib.suppress(zcws.HandshakeError, zcws.ConnectionClosed):
                async with anyplace.connect(server) as ws:
                    await soon(ws.wait_closed())
            await asyncio.sleep(LONG)

    with pytest.raises(SystemExit) as left:
        anyplace.run(main())
    assert left.value.code == 3


def test_a_mistake_behind_the_end_of_a_connection_is_told(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        await ws.wait_closed()
        raise LookupError("a bug")

    async def main() -> None:
        async with place.serve(handler) as server:
            async with place.connect(server):
                pass

    place.run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "a bug" in caplog.text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there is no TaskGroup")
@pytest.mark.parametrize("mistake", [False, True])
def test_a_group_of_tasks_that_ends_with_its_peer_is_no_failure(
    mistake: bool, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """It raises a group, with the end of the connection in it; a mistake beside that is told."""

    async def tick(ws: zcws.WebSocket) -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            if mistake:
                raise LookupError("a bug")

    async def handler(ws: zcws.WebSocket) -> None:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
            group.create_task(tick(ws))
            async for _ in ws:
                pass

    async def main() -> None:
        async with place.serve(handler) as server:
            ws = await place.connect(server)
            await ws.send("x")
            await ws.flush()
            await until(lambda: server.connections)
            ws.abort()
            await until(lambda: not server.connections)

    place.run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"] * mistake
    assert ("a bug" in caplog.text) is mistake


@pytest.mark.parametrize("raises", [False, True])
def test_a_connection_is_one_until_its_socket_is_gone(place: Place, raises: bool) -> None:
    """Also where the handler has heard of the Close, and ended."""

    async def main() -> None:
        heard = asyncio.Event()

        async def handler(ws: zcws.WebSocket) -> None:
            try:
                await ws.recv()
            except zcws.ConnectionClosed:
                heard.set()
                if raises:
                    raise

        async with place.serve(handler, close_timeout=LONG) as server, place.raw_client(server) as peer:
            await peer.send(wire.CLOSE, wire.close_payload(1000))
            await soon(heard.wait())
            assert (await peer.read()).opcode == wire.CLOSE
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(server.connections) == 1
            await peer.close()
            await until(lambda: not server.connections)

    place.run(main())


def test_a_handler_that_is_cancelled_before_its_first_step(anyplace: Place) -> None:
    """Its connection would be open with nobody behind it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def cancel_handler() -> None:
            (task,) = (task for task in asyncio.all_tasks() if "_run" in repr(task.get_coro()))
            task.cancel()

        async with anyplace.serve(echo) as server:
            server.on_open.append(lambda ws: loop.call_soon(cancel_handler))
            async with anyplace.raw_client(server) as peer:
                assert await peer.rest() == []
                assert not server.connections

    anyplace.run(main())


def test_nobody_comes_in_when_a_server_has_closed(anyplace: Place) -> None:
    """Requests that become whole while it closes, and a hook that takes its time."""

    async def main() -> None:
        async def hook(handshake: object, asked: zcws.Request) -> None:
            await asyncio.sleep(0.005)

        for round_ in range(12):
            async with anyplace.serve(echo, process_request=hook) as server:
                whole = request()
                clients = [await anyplace.open(port_of(server)) for _ in range(4)]
                for _, writer in clients:
                    writer.write(whole[:50])
                await asyncio.sleep(0.01)
                for _, writer in clients[:2]:
                    writer.write(whole[50:])
                for _ in range(round_ % 6):
                    await asyncio.sleep(0)
                server.close()
                for _ in range(round_ // 6):
                    await asyncio.sleep(0)
                for _, writer in clients[2:]:
                    writer.write(whole[50:])
                await soon(server.wait_closed())
                await asyncio.sleep(0.02)
                assert not server.connections
                for _, writer in clients:
                    await hang_up(writer)

    anyplace.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before, nobody can tell whom a CancelledError is for")
def test_a_cancellation_that_is_none_of_the_handlers(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """`task.cancel(); await task` at the end of a handler: the socket was cut, and nothing said of it."""

    async def handler(ws: zcws.WebSocket) -> None:
        task = asyncio.create_task(asyncio.sleep(1000))
        await ws.recv()
        task.cancel()
        await task

    async def main() -> None:
        async with place.serve(handler) as server, place.connect(server) as ws:
            await ws.send("go")
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await soon(ws.recv())
            assert caught.value.code == 1011

    place.run(main())
    assert "the handler of" in caplog.text and "CancelledError" in caplog.text
    assert "<WebSocket server with ('127.0.0.1', " in caplog.text


@pytest.mark.parametrize("drain", [None, math.inf])
def test_a_drain_without_end(place: Place, drain: float | None) -> None:
    """None was a TypeError in the task that closes."""

    async def work(ws: zcws.WebSocket) -> None:
        await ws.send(await ws.recv())

    async def main() -> None:
        async with place.serve(work) as server, place.connect(server) as ws:
            await ws.ping()
            server.close(drain=drain)
            await ws.send("the last one")
            assert await soon(ws.recv()) == "the last one"
            await soon(ws.wait_closed())
            assert ws.close_code == 1000

    place.run(main())


@pytest.mark.parametrize("drain", ["1", -1, float("nan")])
def test_a_drain_that_means_nothing_is_refused_before_anything_happens(drain: Any) -> None:
    async def main() -> None:
        async with zcws.serve(lambda ws: ws.wait_closed(), "127.0.0.1", 0) as server:
            with pytest.raises((TypeError, ValueError), match="drain is a number of seconds"):
                server.close(drain=drain)
            assert server.is_serving()

    asyncio.run(main())


def test_what_is_shown_of_a_server(anyplace: Place) -> None:
    async def main() -> None:
        server = await anyplace.serve(swallow, start_serving=False)
        at = f"<Server at ('127.0.0.1', {port_of(server)}), "
        assert repr(server) == at + "not serving, 0 open>"
        await server.start_serving()
        assert repr(server) == at + "serving, 0 open>"
        async with anyplace.connect(server):
            await until(lambda: server.connections)
            assert repr(server) == at + "serving, 1 open>"
            server.close(drain=None)
            assert repr(server).endswith("closing, 1 open>")
        await soon(server.wait_closed())
        assert repr(server) == "<Server, closed, 0 open>"

    anyplace.run(main())
