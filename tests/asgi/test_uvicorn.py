"""zcws.asgi.uvicorn: applications under a real uvicorn, our client, `websockets` or a raw peer at the end."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import gc
import logging
import re
import subprocess
import sys
import weakref
from typing import Any

import net
import pytest
import uvicorn
import websockets
import wire
from asgi_server import PLACES, App, Place, Running, until_the_end
from net import soon, until
from uvicorn.protocols.utils import ClientDisconnected

import zcws
from zcws.asgi import opening
from zcws.asgi import uvicorn as module
from zcws.asgi.uvicorn import PATIENCE

DEFLATE = "permessage-deflate; client_max_window_bits"


async def nothing(app: App) -> None:
    """A script that returns at once."""


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What uvicorn's own protocols would have said of connections, without the client's port."""
    lines = [record.getMessage() for record in caplog.records if record.name == "uvicorn.error"]
    lines = [re.sub(r"^127\.0\.0\.1:\d+", "HERE", line) for line in lines]
    return [line for line in lines if line.startswith(("HERE", "connection"))]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def refused(place: Place, server: Running, **options: Any) -> Any:
    with pytest.raises(zcws.HandshakeError) as caught:
        async with place.connect(server.port, **options):
            pass
    return caught.value


@contextlib.asynccontextmanager
async def raw(place: Place, server: Running, *lines: str, head: bytes = b"") -> Any:
    """A peer by hand, connected; its request is sent."""
    reader, writer = await place.open(server.port)
    peer = net.RawPeer(reader, writer, masks=True)
    writer.write(head or net.request(*lines))
    try:
        yield peer
    finally:
        await peer.close()


async def answer(peer: net.RawPeer) -> bytes:
    return await soon(peer.reader.readuntil(b"\r\n\r\n"))


# ---- the usual way ----


@pytest.mark.parametrize("message", ["", "für Elise", "x" * 100_000, b"", b"\0\xff", bytes(1 << 20)], ids=len)
def test_what_is_sent_comes_back(place: Place, message: str | bytes) -> None:
    async def main() -> None:
        app = App(until_the_end)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port) as ws:
                await ws.send(message)
                assert await soon(ws.recv()) == message
            await until(lambda: server.is_idle)
        assert app.outcome == {"type": "websocket.disconnect", "code": 1000, "reason": ""}

    place.run(main())


def test_websockets_is_a_client(place: Place) -> None:
    async def main() -> None:
        app = App(until_the_end)
        async with place.uvicorn(app) as server:
            async with websockets.connect(place.uri(server.port), proxy=None) as ws:
                assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
                for message in ("hello " * 200, b"\1\2\3", ["in ", "pieces"]):
                    await ws.send(message)
                assert [await ws.recv() for _ in range(3)] == ["hello " * 200, b"\1\2\3", "in pieces"]
                await ws.close(4001, "enough")
            await until(lambda: server.is_idle)
        assert app.outcome == {"type": "websocket.disconnect", "code": 4001, "reason": "enough"}

    place.run(main())


def test_the_scope(place: Place) -> None:
    async def main() -> None:
        app = App(nothing)
        async with place.uvicorn(app, root_path="/mount") as server:
            headers = {"X-Name": "für"}
            async with place.connect(
                server.port, "/a%20b?c=d%20e", subprotocols=["one", "two"], additional_headers=headers
            ):
                pass
            port = server.port
        scope = app.scope
        assert scope["type"] == "websocket"
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
        assert (scope["http_version"], scope["scheme"], scope["root_path"]) == ("1.1", "ws", "/mount")
        assert (scope["path"], scope["raw_path"]) == ("/mount/a b", b"/mount/a%20b")
        assert scope["query_string"] == b"c=d%20e"
        assert (b"x-name", "für".encode("latin-1")) in scope["headers"]
        assert scope["subprotocols"] == ["one", "two"]
        assert scope["server"] == ("127.0.0.1", port)
        assert scope["client"][0] == "127.0.0.1"
        assert scope["extensions"] == {"websocket.http.response": {}}

    place.run(main())


def test_each_connection_has_a_state_of_its_own(place: Place) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["seen"] = 1
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": str(scope["state"]["seen"])})
        scope["state"]["seen"] = 2

    async def main() -> None:
        async with place.uvicorn(app, lifespan="on") as server:
            for _ in range(2):
                async with place.connect(server.port) as ws:
                    assert await soon(ws.recv()) == "1"

    place.run(main())


# ---- accepting ----


def test_accept_with_subprotocol_and_headers(place: Place) -> None:
    async def script(app: App) -> None:
        await app.send(
            {
                "type": "websocket.accept",
                "subprotocol": "two",
                "headers": [(b"X-Cookie", b"one"), (b"x-cookie", b"2")],
            }
        )

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False), headers=[("X-Always", "yes")]) as server:
            async with place.connect(server.port, subprotocols=["one", "two"]) as ws:
                assert ws.subprotocol == "two"
                assert ws.response is not None
                assert ws.response.headers.get_all("x-cookie") == ["one", "2"]
                assert ws.response.headers["server"] == "uvicorn"
                assert ws.response.headers["x-always"] == "yes"
                assert "date" in ws.response.headers

    place.run(main())


def test_an_application_that_accepts_before_it_receives(place: Place) -> None:
    """The first thing that it receives is websocket.connect all the same."""
    received: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "go on"})
        await arrived.wait()
        received.extend([await receive(), await receive()])

    async def main() -> None:
        nonlocal arrived
        arrived = asyncio.Event()
        async with place.uvicorn(app, lifespan="off") as server, place.connect(server.port) as ws:
            assert await soon(ws.recv()) == "go on"
            await ws.send("hello")
            await (await ws.ping())
            arrived.set()
            with pytest.raises(zcws.ConnectionClosedOK):
                await soon(ws.recv())

    arrived: asyncio.Event
    place.run(main())
    assert received == [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]


def test_a_subprotocol_among_the_headers_means_the_same(place: Place) -> None:
    async def script(app: App) -> None:
        await app.send({"type": "websocket.accept", "headers": [(b"Sec-WebSocket-Protocol", b"one")]})

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False)) as server:
            async with place.connect(server.port, subprotocols=["one"]) as ws:
                assert ws.subprotocol == "one"

    place.run(main())


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"subprotocol": "three"}, "does not offer the subprotocol 'three'"),
        ({"headers": [(b"upgrade", b"h2c")]}, "are the handshake's own"),
        ({"headers": [(b"x", b"a\r\nb: c")]}, "must not hold CR, LF"),
        ({"headers": [(b"x y", b"")]}, "must be a token"),
    ],
    ids=["subprotocol", "upgrade", "injection", "name"],
)
def test_what_cannot_be_accepted_is_the_applications_error(
    place: Place, caplog: pytest.LogCaptureFixture, event: dict[str, Any], sentence: str
) -> None:
    async def script(app: App) -> None:
        with pytest.raises(ValueError, match=sentence):
            await app.send({"type": "websocket.accept", **event})
        raise LookupError("it gives up")

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False)) as server:
            assert (await refused(place, server, subprotocols=["one"])).status == 500

    place.run(main())
    assert errors(caplog) == ["Exception in ASGI application\n"]


# ---- refusing ----


def test_a_close_before_the_accept_is_a_403(place: Place) -> None:
    async def script(app: App) -> Any:
        await app.send({"type": "websocket.close", "code": 4000, "reason": "no"})
        return await app.receive()

    async def main() -> None:
        app = App(script, accepts=False)
        async with place.uvicorn(app) as server:
            error = await refused(place, server)
            await until(lambda: server.is_idle)
        assert error.status == 403
        assert error.headers["server"] == "uvicorn"
        assert app.outcome == {"type": "websocket.disconnect", "code": 1006, "reason": ""}

    place.run(main())


def test_a_response_in_place_of_the_websocket(place: Place) -> None:
    async def script(app: App) -> Any:
        headers = [(b"X-Why", b"because"), (b"Transfer-Encoding", b"chunked"), (b"server", b"mine")]
        await app.send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await app.send({"type": "websocket.http.response.body", "body": b"who are you?"})
        return await app.receive()

    async def main() -> None:
        app = App(script, accepts=False)
        async with place.uvicorn(app) as server:
            error = await refused(place, server)
            await until(lambda: server.is_idle)
        assert (error.status, error.body) == (401, b"who are you?")
        assert error.headers["x-why"] == "because"
        assert error.headers["server"] == "mine"
        assert error.headers["content-length"] == "12"
        assert error.headers["connection"] == "close"
        assert "transfer-encoding" not in error.headers
        assert app.outcome["code"] == 1006

    place.run(main())


def test_a_response_in_pieces(place: Place) -> None:
    async def script(app: App) -> None:
        await app.send({"type": "websocket.http.response.start", "status": 503, "headers": []})
        for i in range(300):
            body = bytes([i % 256]) * 1000
            await app.send({"type": "websocket.http.response.body", "body": body, "more_body": i < 299})

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False)) as server:
            async with raw(place, server) as peer:
                head = await answer(peer)
                assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert b"content-length" not in head.lower()
                await asyncio.sleep(0)  # while nobody reads, the application waits
                body = await soon(peer.reader.read())
        assert body == b"".join(bytes([i % 256]) * 1000 for i in range(300))

    place.run(main())


@pytest.mark.parametrize("pieces", [[b""], [b"not for you"], [b"nor ", b"this"]])
def test_a_204_has_neither_length_nor_body(place: Place, pieces: list[bytes]) -> None:
    async def script(app: App) -> None:
        lines = [(b"content-length", str(len(b"".join(pieces))).encode())]
        await app.send({"type": "websocket.http.response.start", "status": 204, "headers": lines})
        for i, piece in enumerate(pieces, 1):
            body = {"body": piece, "more_body": i < len(pieces)}
            await app.send({"type": "websocket.http.response.body", **body})

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False)) as server, raw(place, server) as peer:
            head = await soon(peer.reader.read())
        assert head.startswith(b"HTTP/1.1 204 No Content\r\n") and head.endswith(b"\r\n\r\n")
        assert b"content-length" not in head.lower()

    place.run(main())


def test_an_application_that_denies_and_forgets_the_body(place: Place, caplog: Any) -> None:
    """Nothing has been sent: it is a 500, as the application failed, and was an empty stream."""

    async def script(app: App) -> None:
        with pytest.raises(RuntimeError, match=r"101 is not the status"):
            await app.send({"type": "websocket.http.response.start", "status": 101})
        await app.send({"type": "websocket.http.response.start", "status": 403})
        with pytest.raises(RuntimeError, match=r"is being denied: expected is websocket.http.response.body"):
            await app.send({"type": "websocket.accept"})

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False)) as server, raw(place, server) as peer:
            assert (await soon(peer.reader.read())).startswith(b"HTTP/1.1 500 ")

    place.run(main())
    assert logged(caplog) == [
        'HERE - "WebSocket /" 500',
        "connection rejected (500 Internal Server Error)",
    ]
    assert errors(caplog) == ["the ASGI application returned without an answer to the WebSocket request"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"), b"426"),
        ((b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x"), b"400"),
        ((b"Host: localhost", b"Sec-WebSocket-Protocol: a b\r\nHost: localhost"), b"400"),
        ((b"Host: localhost", b"Cookie: " + b"x" * 9000 + b"\r\nHost: localhost"), b"431"),
        ((b"Host: localhost", b"\r\n".join(b"X: y" for _ in range(200)) + b"\r\nHost: localhost"), b"431"),
    ],
    ids=["version", "key", "subprotocol", "line", "lines"],
)
def test_a_bad_request_never_reaches_the_application(
    place: Place, change: tuple[bytes, bytes], status: bytes
) -> None:
    async def main() -> None:
        app = App(nothing)
        async with place.uvicorn(app) as server:
            async with raw(place, server, head=net.request().replace(*change)) as peer:
                whole = await soon(peer.reader.read())
                assert whole.startswith(b"HTTP/1.1 " + status), whole
        assert app.runs == 0

    place.run(main())


def test_what_follows_a_refused_request_is_no_request(place: Place) -> None:
    """CVE-2026-69243: the body of a refused upgrade was read as the next request."""
    smuggled = b"GET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def script(app: App) -> None:
        await app.send({"type": "websocket.close"})

    async def main() -> None:
        app = App(script, accepts=False)
        async with place.uvicorn(app) as server, raw(place, server) as peer:
            head = await answer(peer)
            peer.writer.write(smuggled)
            rest = await soon(peer.reader.read())
        assert head.startswith(b"HTTP/1.1 403 ") and b"Connection: close" in head
        assert b"HTTP/" not in rest
        assert app.runs == 1

    place.run(main())


# ---- the end ----


def test_close_with_code_and_reason(place: Place) -> None:
    async def script(app: App) -> Any:
        await app.send({"type": "websocket.close", "code": 4321, "reason": "that was it"})
        with pytest.raises(
            RuntimeError, match=r"'websocket.send' for a WebSocket that is closed: nothing can"
        ):
            await app.say("more")
        return [await app.receive(), await app.receive()]

    async def main() -> None:
        app = App(script)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port) as ws:
                with pytest.raises(zcws.ConnectionClosedError) as caught:
                    await soon(ws.recv())
            assert (caught.value.code, caught.value.reason) == (4321, "that was it")
            await until(lambda: server.is_idle)
        assert app.outcome == [{"type": "websocket.disconnect", "code": 4321, "reason": "that was it"}] * 2

    place.run(main())


def test_close_says_1000_by_default_and_refuses_codes_that_must_not_be_sent(place: Place) -> None:
    async def script(app: App) -> None:
        with pytest.raises(ValueError):
            await app.send({"type": "websocket.close", "code": 1006})
        with pytest.raises(ValueError):
            await app.send({"type": "websocket.close", "reason": "x" * 124})
        await app.send({"type": "websocket.close", "code": None, "reason": None})

    async def main() -> None:
        async with place.uvicorn(App(script)) as server, place.connect(server.port) as ws:
            with pytest.raises(zcws.ConnectionClosedOK) as caught:
                await soon(ws.recv())
            assert caught.value.code == 1000

    place.run(main())


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"", 1005, ""),
        (wire.close_payload(1001, b"bye"), 1001, "bye"),
        (wire.close_payload(3000), 3000, ""),
        (wire.close_payload(999), 1002, "close code that must not be sent"),
        (None, 1006, ""),
    ],
    ids=["none", "1001", "3000", "999", "lost"],
)
def test_the_disconnect_says_why(place: Place, payload: bytes | None, code: int, reason: str) -> None:
    async def main() -> None:
        app = App(until_the_end)
        async with place.uvicorn(app) as server:
            async with raw(place, server) as peer:
                await answer(peer)
                if payload is None:
                    peer.reset()
                else:
                    await peer.send(wire.CLOSE, payload)
                await until(lambda: app.outcome)
            await until(lambda: server.is_idle)
        assert app.outcome == {"type": "websocket.disconnect", "code": code, "reason": reason}

    place.run(main())


def test_sending_after_the_client_has_gone(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """ASGI 2.4: an OSError, which the server does not log when the application lets it pass."""

    async def script(app: App) -> None:
        await until_the_end(app)
        await until(lambda: server.state_is_empty)
        await app.send({"type": "websocket.close"})  # is closed: fine
        with pytest.raises(OSError):
            await app.say("hello?")
        app.outcome = "has come this far"
        await app.say("hello?")

    async def main() -> None:
        nonlocal server
        app = App(script)
        async with place.uvicorn(app) as running:
            server = Gone(running)
            async with place.connect(running.port):
                pass
            await until(lambda: running.is_idle)
        assert (app.runs, app.outcome) == (1, "has come this far")

    class Gone:
        def __init__(self, running: Running) -> None:
            self.running = running

        @property
        def state_is_empty(self) -> bool:
            return not self.running.server_state.connections

    server: Any = None
    place.run(main())
    assert errors(caplog) == []


def test_an_application_that_only_sends_hears_of_the_close_at_once(place: Place) -> None:
    async def script(app: App) -> None:
        while True:
            await app.say("tick")
            await asyncio.sleep(0.001)

    async def main() -> None:
        async with place.uvicorn(App(script)) as server:
            async with place.connect(server.port) as ws:
                assert await soon(ws.recv()) == "tick"
            await until(lambda: server.is_idle)

    place.run(main())


def test_what_the_application_must_not_send(place: Place) -> None:
    async def script(app: App) -> None:
        for event, given in (
            ({}, "'text' of type NoneType"),
            ({"text": None, "bytes": None}, "'text' of type NoneType"),
            ({"text": b"x"}, "'text' of type bytes"),
            ({"text": {"a": 1}}, "'text' of type dict"),
            ({"bytes": "x"}, "'bytes' of type str"),
        ):
            with pytest.raises(TypeError, match=rf"^websocket\.send needs .*, not {given}$"):
                await app.send({"type": "websocket.send", **event})
        with pytest.raises(ValueError):
            await app.say("\ud800")
        with pytest.raises(
            RuntimeError, match=r"that is open: expected is websocket.close or websocket.send"
        ):
            await app.send({"type": "websocket.accept"})
        await app.send({"type": "websocket.send", "bytes": bytearray(b"ok"), "text": None})

    async def main() -> None:
        async with place.uvicorn(App(script)) as server, place.connect(server.port) as ws:
            assert await soon(ws.recv()) == b"ok"

    place.run(main())


def test_an_exception_before_the_accept_is_a_500(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def script(app: App) -> None:
        raise LookupError("not found")

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False)) as server:
            assert (await refused(place, server)).status == 500

    place.run(main())
    assert errors(caplog) == ["Exception in ASGI application\n"]


@pytest.mark.parametrize("error", [LookupError("not found"), SystemExit(3)], ids=["error", "exit"])
def test_an_exception_after_it_is_a_1011(
    place: Place, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """`sys.exit()` in a handler, too: it ended the whole server."""

    async def script(app: App) -> None:
        raise error

    async def main() -> None:
        async with place.uvicorn(App(script)) as server, place.connect(server.port) as ws:
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await soon(ws.recv())
            assert caught.value.code == 1011

    place.run(main())
    assert errors(caplog) == ["Exception in ASGI application\n"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before, nobody can tell whom a CancelledError is for")
@pytest.mark.parametrize("is_group", [False, True])
@pytest.mark.parametrize("accepts", [False, True])
def test_a_cancelled_error_of_the_application_itself(
    place: Place, caplog: pytest.LogCaptureFixture, is_group: bool, accepts: bool
) -> None:
    """Of a task that it has asked: nobody has cancelled the application. The connection was cut, without a word."""

    async def script(app: App) -> None:
        task = asyncio.ensure_future(asyncio.sleep(net.LONG))
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            if is_group:
                raise vars(builtins)["BaseExceptionGroup"]("", [error]) from None
            raise

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=accepts)) as server:
            if not accepts:
                assert (await refused(place, server)).status == 500
                return
            async with place.connect(server.port) as ws:
                with pytest.raises(zcws.ConnectionClosedError) as caught:
                    await soon(ws.recv())
                assert caught.value.code == 1011

    place.run(main())
    assert errors(caplog) == ["Exception in ASGI application\n"]


def test_returning_is_a_1000(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        await send({"type": "websocket.accept"})
        return "something"

    async def main() -> None:
        async with place.uvicorn(app, lifespan="off") as server, place.connect(server.port) as ws:
            with pytest.raises(zcws.ConnectionClosedOK) as caught:
                await soon(ws.recv())
            assert caught.value.code == 1000

    place.run(main())
    assert errors(caplog) == ["the ASGI application returned 'something', and should return None"]


def test_returning_without_an_answer_is_a_500(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with place.uvicorn(App(nothing, accepts=False)) as server:
            assert (await refused(place, server)).status == 500

    place.run(main())
    assert errors(caplog) == ["the ASGI application returned without an answer to the WebSocket request"]


# ---- the log ----


def test_the_log_of_a_connection(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with place.uvicorn(App(until_the_end)) as server:
            async with place.connect(server.port, path="/chat?room=1"):
                pass
            await until(lambda: server.is_idle)

    caplog.set_level(logging.INFO, "uvicorn.error")
    place.run(main())
    assert logged(caplog) == [
        'HERE - "WebSocket /chat?room=1" [accepted]',
        "connection open",
        "connection closed",
    ]


def test_each_frame_in_the_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with place.uvicorn(App(until_the_end)) as server:
            async with place.connect(server.port, compression="deflate") as ws:
                for message in ("hello", "x" * 1000):
                    await ws.send(message)
                    assert await soon(ws.recv()) == message
            await until(lambda: server.is_idle)

    caplog.set_level(logging.DEBUG, "zcws.server")
    place.run(main())
    lines = [record.getMessage() for record in caplog.records if record.name == "zcws.server"]
    for frame in ("< TEXT 'hello' [5 bytes, masked]", "> TEXT 'hello' [5 bytes]", "> CLOSE 1000 [2 bytes]"):
        assert any(line.endswith(frame) for line in lines)
    assert sum("TEXT 'xxx" in line and "compressed" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("event", "answer"),
    [
        ({"type": "websocket.close"}, "403 Forbidden"),
        ({"type": "websocket.http.response.start", "status": 401}, "401 Unauthorized"),
        (None, "500 Internal Server Error"),
    ],
)
def test_the_log_of_a_refusal(
    place: Place, caplog: pytest.LogCaptureFixture, event: Any, answer: str
) -> None:
    async def script(app: App) -> None:
        if event is None:
            raise LookupError("not found")
        await app.send(event)
        if "status" in event:
            await app.send({"type": "websocket.http.response.body"})

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False)) as server:
            await refused(place, server, path="/chat")

    caplog.set_level(logging.INFO, "uvicorn.error")
    place.run(main())
    assert logged(caplog) == [f'HERE - "WebSocket /chat" {answer[:3]}', f"connection rejected ({answer})"]


def test_the_log_of_a_request_that_no_application_sees(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        head = net.request().replace(b"Version: 13", b"Version: 8")
        async with place.uvicorn(App(nothing)) as server, raw(place, server, head=head) as peer:
            assert (await answer(peer)).startswith(b"HTTP/1.1 426 ")

    caplog.set_level(logging.INFO, "uvicorn.error")
    place.run(main())
    assert logged(caplog) == ["connection rejected (426 Upgrade Required)"]


# ---- shutdown ----


def test_shutdown_says_1012(place: Place) -> None:
    async def main() -> None:
        app = App(until_the_end)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port) as ws:
                stopping = asyncio.ensure_future(server.stop())
                with pytest.raises(zcws.ConnectionClosedError) as caught:
                    await soon(ws.recv())
                assert caught.value.code == 1012
            await stopping
            assert server.is_idle
        assert app.outcome == {"type": "websocket.disconnect", "code": 1012, "reason": ""}

    place.run(main())


def test_an_application_that_sends_when_the_server_goes_is_disconnected(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """It got a RuntimeError, as if it had sent after a Close of its own, and a traceback in the log."""

    async def script(app: App) -> None:
        while True:
            try:
                await app.send({"type": "websocket.send", "text": "tick"})
            except OSError:
                await app.send({"type": "websocket.close"})  # says nothing that is not known
                raise
            await asyncio.sleep(0.001)

    async def main() -> None:
        app = App(script)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port) as ws:
                assert await soon(ws.recv()) == "tick"
                stopping = asyncio.ensure_future(server.stop())
                with pytest.raises(zcws.ConnectionClosedError) as caught:
                    while True:
                        await soon(ws.recv())
                assert caught.value.code == 1012
            await stopping
        assert errors(caplog) == []

    place.run(main())


def test_what_has_arrived_before_shutdown_is_received(place: Place) -> None:
    """Of an application that was busy it was lost; uvicorn's own protocols hand it over."""

    async def script(app: App) -> Any:
        await go.wait()
        return [message async for message in app.messages()]

    async def main() -> None:
        nonlocal go
        go = asyncio.Event()
        app = App(script)
        async with place.uvicorn(app) as server, raw(place, server) as peer:
            await answer(peer)
            await peer.send_bytes(peer.frame(wire.TEXT, b"one") + peer.frame(wire.TEXT, b"two"))
            await asyncio.sleep(net.SHORT)
            stopping = asyncio.ensure_future(server.stop())
            assert await peer.read() == wire.Seen(wire.CLOSE, wire.close_payload(1012))
            go.set()
            await peer.send(wire.CLOSE, wire.close_payload(1012))
            await stopping
        assert app.outcome == ["one", "two"]
        assert app.events[-1] == {"type": "websocket.disconnect", "code": 1012, "reason": ""}

    go: Any = None
    place.run(main())


def test_shutdown_does_not_wait_for_a_client_that_sleeps(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn waited for as long as a closing handshake may take, and a reload with it."""
    monkeypatch.setattr(module, "GOODBYE", 0.01)
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT", 1000.0)

    async def main() -> None:
        app = App(until_the_end)
        async with place.uvicorn(app) as server, raw(place, server) as peer:
            await answer(peer)
            await soon(server.stop())
            assert server.is_idle
        assert app.outcome == {"type": "websocket.disconnect", "code": 1012, "reason": ""}

    place.run(main())


@pytest.mark.parametrize("denies", [False, True], ids=["asked", "denying"])
def test_shutdown_before_the_accept(place: Place, denies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the client to hang up."""
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT", 1000.0)

    async def script(app: App) -> Any:
        if denies:
            await app.send({"type": "websocket.http.response.start", "status": 403})
        event = await app.receive()
        with pytest.raises((RuntimeError, OSError)):
            await app.send({"type": "websocket.accept"})
        return event

    async def main() -> None:
        app = App(script, accepts=False)
        async with place.uvicorn(app) as server, raw(place, server) as peer:
            await until(lambda: app.runs)
            await server.stop()
            whole = await soon(peer.reader.read())
        assert whole.startswith(b"HTTP/1.1 503 ")
        assert app.outcome == {"type": "websocket.disconnect", "code": 1006, "reason": ""}

    place.run(main())


def test_an_application_that_returns_in_the_middle_of_a_denial(place: Place) -> None:
    """The client would wait for the rest of it."""

    async def script(app: App) -> None:
        await app.send({"type": "websocket.http.response.start", "status": 403})
        await app.send({"type": "websocket.http.response.body", "body": b"half of it", "more_body": True})

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False)) as server, raw(place, server) as peer:
            await answer(peer)
            assert await soon(peer.reader.read()) == b"half of it"

    place.run(main())


def test_shutdown_in_the_middle_of_a_denial(place: Place) -> None:
    """It ends there: a second response in its body would be nobody's."""

    async def script(app: App) -> Any:
        await app.send({"type": "websocket.http.response.start", "status": 403})
        body = {"type": "websocket.http.response.body", "body": b"half of it", "more_body": True}
        await app.send(body)
        event = await app.receive()
        with pytest.raises(OSError):
            await app.send(body)
        return event

    async def main() -> None:
        app = App(script, accepts=False)
        async with place.uvicorn(app) as server, raw(place, server) as peer:
            await answer(peer)
            await server.stop()
            assert await soon(peer.reader.read()) == b"half of it"
        assert app.outcome == {"type": "websocket.disconnect", "code": 1006, "reason": ""}

    place.run(main())


def test_an_application_that_does_not_stop_is_cancelled_and_its_connection_cut(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that does not answer the 1012 either: uvicorn's `timeout_graceful_shutdown` ends both."""
    monkeypatch.setattr(module, "GOODBYE", 1000.0)  # nothing else does
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT", 1000.0)

    place = Place(*PLACES[-1].split("-"))  # in one place: uvicorn counts whole seconds

    async def script(app: App) -> None:
        await asyncio.sleep(net.LONG)

    async def main() -> None:
        app = App(script)
        async with place.uvicorn(app, timeout_graceful_shutdown=1) as server, raw(place, server) as peer:
            await answer(peer)
            await server.stop()
            with contextlib.suppress(ConnectionError):
                await soon(peer.reader.read())
            await until(lambda: server.is_idle)

    place.run(main())
    assert len(errors(caplog)) == 1 and "timeout graceful shutdown exceeded" in errors(caplog)[0]


# ---- uvicorn's options ----


def test_no_ws_max_size(place: Place) -> None:
    """As with uvicorn's own protocols: it was a 500 for every client."""

    async def main() -> None:
        async with place.uvicorn(App(until_the_end), ws_max_size=None) as server:
            async with place.connect(server.port, max_size=None) as ws:
                await ws.send(bytes(zcws.connection.MAX_SIZE + 1))
                assert len(await soon(ws.recv())) == zcws.connection.MAX_SIZE + 1

    place.run(main())


def test_ws_max_size(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        app = App(until_the_end)
        async with place.uvicorn(app, ws_max_size=1000) as server:
            async with place.connect(server.port) as ws:
                await ws.send("x" * 1000)
                assert await soon(ws.recv()) == "x" * 1000
                await ws.send("x" * 1001)
                with pytest.raises(zcws.ConnectionClosedError) as caught:
                    await soon(ws.recv())
                assert caught.value.code == 1009
            await until(lambda: app.outcome)
        assert app.outcome["code"] == 1009
        assert app.outcome["reason"] == caught.value.reason

    place.run(main())
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert '"WebSocket /" closed here by a limit: 1009' in warning
    assert warning.endswith("; with uvicorn, max_size is --ws-max-size")
    assert "max_size=1000 bytes" in warning


def test_limits_do_not_let_a_client_write_the_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """One warning a second; the others are DEBUG."""

    async def main() -> None:
        began = asyncio.get_running_loop().time()
        async with place.uvicorn(App(until_the_end), ws_max_size=10) as server:
            for _ in range(20):
                async with place.connect(server.port) as ws:
                    await ws.send("x" * 11)
                    await soon(ws.wait_closed())
        seconds = asyncio.get_running_loop().time() - began
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert 1 <= len(warnings) <= 1 + seconds

    place.run(main())


@pytest.mark.parametrize("wanted", [True, False])
def test_ws_per_message_deflate(place: Place, wanted: bool) -> None:
    async def main() -> None:
        async with place.uvicorn(App(until_the_end), ws_per_message_deflate=wanted) as server:
            async with place.connect(server.port, compression="deflate") as ws:
                agreed = ws.connection.agreement.deflate
                assert (agreed is not None) is wanted
                if agreed is not None:
                    assert agreed.server_no_context_takeover and agreed.client_no_context_takeover
                for _ in range(3):
                    await ws.send("hello " * 1000)
                    assert await soon(ws.recv()) == "hello " * 1000

    place.run(main())


def test_ws_ping_timeout(place: Place) -> None:
    async def main() -> None:
        app = App(until_the_end)
        async with place.uvicorn(app, ws_ping_interval=0.01, ws_ping_timeout=0.01) as server:
            async with raw(place, server) as peer:
                await answer(peer)
                assert (await peer.read()).opcode == wire.PING
                frames = await peer.rest()
            await until(lambda: server.is_idle)
        assert frames[-1].opcode == wire.CLOSE
        assert frames[-1].payload == wire.close_payload(1011, b"keepalive ping timeout")
        assert app.outcome == {
            "type": "websocket.disconnect",
            "code": 1011,
            "reason": "keepalive ping timeout",
        }

    place.run(main())


@pytest.mark.parametrize("interval", [0, -1, None])
def test_no_pings(place: Place, interval: float | None) -> None:
    async def main() -> None:
        async with place.uvicorn(App(until_the_end), ws_ping_interval=interval) as server:
            async with raw(place, server) as peer:
                await answer(peer)
                assert await peer.is_silent()

    place.run(main())


# ---- who waits for whom ----


def test_send_waits_for_a_client_that_does_not_read(place: Place) -> None:
    sent = 0

    async def script(app: App) -> None:
        nonlocal sent
        for _ in range(1000):
            await app.say(bytes(100_000))
            sent += 1

    async def main() -> None:
        async with place.uvicorn(App(script)) as server:
            async with raw(place, server) as peer:
                await answer(peer)
                before = -1
                while sent != before:
                    before = sent
                    await asyncio.sleep(net.SHORT)
                assert 0 < sent < 1000
            await until(lambda: server.is_idle)

    place.run(main())


@pytest.mark.parametrize("denies", [False, True], ids=["open", "denying"])
def test_send_waits_for_a_client_that_has_not_read_what_came_before(place: Place, denies: bool) -> None:
    """A long response on the same connection: HTTP's protocol was told that the transport is full, and nobody is told
    twice. An application could push 300 MB at a client that reads nothing."""
    before = bytes(16 << 20)
    kind = "websocket.http.response.body" if denies else "websocket.send"
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        if scope["type"] == "http":
            length = (b"content-length", str(len(before)).encode())
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": before})
            responded.set()
            return
        start = {"type": "websocket.http.response.start", "status": 403}
        await send(start if denies else {"type": "websocket.accept"})
        accepted.set()
        for _ in range(100):
            message = bytes(100_000)
            await send({"type": kind, "body": message, "bytes": message, "more_body": True})
            sent += 1

    async def main() -> None:
        nonlocal responded, accepted
        responded, accepted = asyncio.Event(), asyncio.Event()
        async with place.uvicorn(app, lifespan="off") as server:
            async with raw(place, server, head=b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") as peer:
                await soon(responded.wait())
                peer.writer.write(net.request())
                await soon(accepted.wait())
                await asyncio.sleep(net.SHORT)
                assert sent < 2
                await answer(peer)
                await soon(peer.reader.readexactly(len(before)))
                while sent < 100:
                    await soon(peer.reader.read(1 << 20))
            await until(lambda: server.is_idle)

    responded: Any = None
    accepted: Any = None
    place.run(main())


def test_an_application_that_sends_in_a_loop_lets_others_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the client is quick no send has to wait: here none ever has to."""
    monkeypatch.setattr(zcws.WebSocket, "pause_writing", lambda _: None)

    async def script(app: App) -> int:
        async with net.Others() as others:
            for _ in range(5000):
                await app.say(bytes(1000))
        return others.turns

    async def main() -> None:
        app = App(script)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port) as ws:
                for _ in range(5000):
                    await soon(ws.recv())
            await until(lambda: app.outcome)
        assert app.outcome > 4

    place.run(main())


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_an_application_that_sends_in_a_loop_hears_that_the_client_is_gone(place: Place, size: int) -> None:
    """It is in the middle of sending when the client resets the connection."""

    async def script(app: App) -> str:
        await app.receive()
        leaving.cut()
        try:
            while True:
                await app.say(bytes(size))
        except OSError:
            return "heard"

    async def main() -> None:
        nonlocal leaving
        app = App(script)
        async with place.uvicorn(app) as server:
            async with raw(place, server) as leaving:
                await answer(leaving)
                await leaving.send(wire.TEXT, b"go")
                await until(lambda: app.outcome)
        assert app.outcome == "heard"

    leaving: Any = None
    place.run(main())


def test_the_client_waits_for_an_application_that_does_not_receive(place: Place) -> None:
    async def script(app: App) -> int:
        await app.receive()
        await go.wait()
        count = 1
        async for _ in app.messages():
            count += 1
        return count

    async def main() -> None:
        nonlocal go
        go = asyncio.Event()
        app = App(script)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port) as ws:
                sending = asyncio.ensure_future(flood(ws))
                done, _ = await asyncio.wait([sending], timeout=5 * net.SHORT)
                assert not done
                go.set()
                await soon(sending)
            await until(lambda: app.outcome)
        assert app.outcome == 200

    async def flood(ws: zcws.WebSocket) -> None:
        for _ in range(200):
            await ws.send(bytes(100_000))

    go: Any = None
    place.run(main())


def test_three_tasks_may_receive(place: Place) -> None:
    """Two of them wait for their turn."""

    async def script(app: App) -> Any:
        return await asyncio.gather(*(collect(app) for _ in range(3)))

    async def collect(app: App) -> list[str]:
        return [message async for message in app.messages()]

    async def main() -> None:
        app = App(script)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port) as ws:
                for i in range(10):
                    await ws.send(str(i))
            await until(lambda: app.outcome)
        assert sorted(message for received in app.outcome for message in received) == [
            str(i) for i in range(10)
        ]

    place.run(main())


def test_a_receive_that_is_cancelled_loses_nothing(place: Place) -> None:
    async def script(app: App) -> Any:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(app.receive(), 0.001)
        await app.say("now")
        return await app.receive()

    async def main() -> None:
        app = App(script)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port) as ws:
                assert await soon(ws.recv()) == "now"
                await ws.send("hello")
                await until(lambda: app.outcome)
        assert app.outcome == {"type": "websocket.receive", "text": "hello"}

    place.run(main())


# ---- the five lifecycle bugs of the trackers (emmett-framework/granian) ----


def test_granian_318_a_pong_that_nobody_asked_for_disturbs_nobody(place: Place) -> None:
    async def main() -> None:
        app = App(until_the_end)
        async with place.uvicorn(app) as server, raw(place, server) as peer:
            await answer(peer)
            await peer.send(wire.PONG)
            await peer.send(wire.PONG, b"heartbeat")
            await peer.send(wire.BINARY)
            assert await peer.read() == wire.Seen(wire.BINARY, b"")
        assert app.events[1] == {"type": "websocket.receive", "bytes": b""}

    place.run(main())


def test_granian_575_an_application_that_does_not_look_at_the_disconnect(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks for ever; it is told again and again, others get their turn, and then it ends without a word."""

    async def script(app: App) -> None:
        while True:
            await app.receive()

    async def main() -> None:
        app = App(script)
        async with place.uvicorn(app) as server:
            for _ in range(2):  # a page, and its reload
                async with place.connect(server.port) as ws:
                    await ws.send("hello")
                await until(lambda: server.is_idle)
        disconnects = [event for event in app.events if event["type"] == "websocket.disconnect"]
        assert len(disconnects) == 2 * PATIENCE

    place.run(main())
    assert errors(caplog) == []


def test_others_get_their_turn_while_an_application_does_not_look(place: Place) -> None:
    async def script(app: App) -> str:
        await until_the_end(app)
        other = asyncio.ensure_future(asyncio.sleep(0, "had its turn"))
        while not other.done():
            await app.receive()
        return other.result()

    async def main() -> None:
        app = App(script)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port):
                pass
            await until(lambda: server.is_idle)
        assert app.outcome == "had its turn"

    place.run(main())


def test_a_client_that_hangs_up_while_nobody_receives(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not answer the application's Close, and the application does something else."""
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT", 1000.0)

    async def script(app: App) -> None:
        await app.send({"type": "websocket.close"})
        await has_gone.wait()

    async def main() -> None:
        nonlocal has_gone
        has_gone = asyncio.Event()
        async with place.uvicorn(App(script)) as server:
            async with raw(place, server) as peer:
                await answer(peer)
                assert (await peer.read()).opcode == wire.CLOSE
            await until(lambda: not server.server_state.connections)
            has_gone.set()
            await until(lambda: server.is_idle)

    has_gone: asyncio.Event
    place.run(main())


def test_granian_591_an_accept_from_another_task_while_one_receives(place: Place) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks: list[asyncio.Task[None]] = []
        while (event := await receive())["type"] != "websocket.disconnect":
            tasks.append(asyncio.ensure_future(dispatch(event, send)))
        await asyncio.gather(*tasks)

    async def dispatch(event: Any, send: Any) -> None:
        await asyncio.sleep(0.001)
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "text": event["text"]})

    async def main() -> None:
        async with place.uvicorn(app, lifespan="off") as server:
            async with place.connect(server.port) as ws:
                await ws.send("hello")
                assert await soon(ws.recv()) == "hello"
            await until(lambda: server.is_idle)

    place.run(main())


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("in_another_task", [True, False])
def test_granian_798_an_application_that_closes_gets_its_disconnect(
    place: Place, answers: bool, in_another_task: bool
) -> None:
    """At once: a client that is silent made one that receives in another task wait for the closing handshake."""

    async def script(app: App) -> Any:
        receiving = asyncio.ensure_future(app.receive()) if in_another_task else None
        await asyncio.sleep(0)
        await app.send({"type": "websocket.close", "code": 4000})
        return await (receiving or app.receive())

    async def main() -> None:
        app = App(script)
        async with place.uvicorn(app) as server, raw(place, server) as peer:
            await answer(peer)
            assert await peer.read() == wire.Seen(wire.CLOSE, wire.close_payload(4000))
            if answers:
                await peer.send(wire.CLOSE, wire.close_payload(4000))
            await asyncio.wait_for(until(lambda: app.outcome), opening.CLOSE_TIMEOUT / 2)
        assert app.outcome == {"type": "websocket.disconnect", "code": 4000, "reason": ""}

    place.run(main())


def test_granian_835_a_client_that_goes_before_the_accept(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(app: App) -> None:
        await until(lambda: gone)
        await asyncio.sleep(net.SHORT)
        with pytest.raises(ClientDisconnected):
            await app.send({"type": "websocket.accept"})
        assert await app.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        await app.send({"type": "websocket.accept"})

    async def main() -> None:
        nonlocal gone
        app = App(script, accepts=False)
        async with place.uvicorn(app) as server:
            async with raw(place, server):
                await until(lambda: app.runs)
            gone = True
            await until(lambda: server.is_idle)
        assert [event["type"] for event in app.events] == ["websocket.connect", "websocket.disconnect"]

    gone = False
    place.run(main())
    assert errors(caplog) == []


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="everything waits for the collector there")
def test_a_connection_that_is_over_does_not_wait_for_the_collector(place: Place) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "websocket.connect"}
        await send({"type": "websocket.accept"})
        await receive()

    async def main() -> None:
        async with place.uvicorn(app, lifespan="off") as server:
            async with raw(place, server) as peer:
                await answer(peer)
                known = [weakref.ref(protocol) for protocol in server.server_state.connections]
                await peer.send(wire.CLOSE)
                await peer.rest()
            await until(lambda: [protocol() for protocol in known] == [None])

    gc.disable()
    try:
        place.run(main())
    finally:
        gc.enable()


# ---- frameworks ----


def test_fastapi(place: Place) -> None:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()

    async def rooms(ws: Any, room: str, token: str = "") -> None:
        if token != "secret":
            raise fastapi.WebSocketException(code=1008)
        await ws.accept(subprotocol="chat")
        try:
            while True:
                await ws.send_json({"room": room, "text": await ws.receive_text()})
        except fastapi.WebSocketDisconnect as disconnect:
            ends.append((disconnect.code, disconnect.reason))

    rooms.__annotations__["ws"] = fastapi.WebSocket
    app.websocket("/rooms/{room}")(rooms)
    ends: list[tuple[int, str]] = []

    async def main() -> None:
        async with place.uvicorn(app) as server:
            assert (await refused(place, server)).status == 403
            uri = place.uri(server.port, "/rooms/blue?token=secret")
            async with zcws.connect(uri, subprotocols=["chat"]) as ws:
                await ws.send("hello")
                assert await soon(ws.recv()) == '{"room":"blue","text":"hello"}'
                await ws.close(1001, "going")
            await until(lambda: server.is_idle)
        assert ends == [(1001, "going")]

    place.run(main())


def test_starlette(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.endpoints import WebSocketEndpoint
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    class Echo(WebSocketEndpoint):
        encoding = "bytes"

        async def on_receive(self, websocket: WebSocket, data: Any) -> None:
            await websocket.send_bytes(data)

    async def deny(websocket: WebSocket) -> None:
        await websocket.send_denial_response(PlainTextResponse("not today", status_code=418))

    async def page(request: Any) -> Any:
        return PlainTextResponse("a page")

    async def push(websocket: WebSocket) -> None:
        await websocket.accept()
        for i in range(3):
            await websocket.send_text(str(i))
        await websocket.close(4002, "done")

    routes = [
        WebSocketRoute("/echo", Echo),
        WebSocketRoute("/deny", deny),
        WebSocketRoute("/push", push),
        Route("/", page),
    ]

    async def main() -> None:
        async with place.uvicorn(Starlette(routes=routes)) as server:
            async with place.connect(server.port, "/echo") as ws:
                await ws.send(b"\0\1")
                assert await soon(ws.recv()) == b"\0\1"
            with pytest.raises(zcws.HandshakeError) as caught:
                await place.connect(server.port, "/deny")
            assert (caught.value.status, caught.value.body) == (418, b"not today")
            async with place.connect(server.port, "/push") as ws:
                assert [await soon(ws.recv()) for _ in range(3)] == ["0", "1", "2"]
                with pytest.raises(zcws.ConnectionClosedError, match=r"4002.*done"):
                    await soon(ws.recv())
            async with raw(
                place, server, head=b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            ) as peer:
                assert (await soon(peer.reader.read())).endswith(b"a page")
            await until(lambda: server.is_idle)

    place.run(main())
    assert errors(caplog) == []


def test_tls(certificates: net.Certificates) -> None:
    place = Place("asyncio", "h11", "tls")
    place.certificates = certificates

    async def main() -> None:
        app = App(until_the_end)
        async with place.uvicorn(app) as server:
            async with place.connect(server.port) as ws:
                await ws.send("hello")
                assert await soon(ws.recv()) == "hello"
            await until(lambda: server.is_idle)
            assert app.scope["scheme"] == "wss"

    place.run(main())


def test_a_refusal_over_tls(certificates: net.Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is the server's: TLS cannot be ended by one side."""
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT", 1000.0)
    place = Place("asyncio", "h11", "tls")
    place.certificates = certificates

    async def script(app: App) -> None:
        await app.send({"type": "websocket.close"})

    async def main() -> None:
        async with place.uvicorn(App(script, accepts=False)) as server, raw(place, server) as peer:
            assert (await soon(peer.reader.read())).startswith(b"HTTP/1.1 403 ")
            await until(lambda: server.is_idle)

    place.run(main())


def test_without_uvicorn_the_error_names_the_extra() -> None:
    program = "import sys; sys.modules['uvicorn'] = None; import zcws.asgi.uvicorn"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: zcws.asgi.uvicorn needs uvicorn: pip install 'zcws[asgi]'" in done.stderr


def test_with_an_old_uvicorn_the_error_says_so() -> None:
    """It was a name that cannot be imported: uvicorn 0.23 has no ClientDisconnected."""
    program = """if True:
        import uvicorn.protocols.utils
        uvicorn.__version__ = "0.23.2"
        del uvicorn.protocols.utils.ClientDisconnected
        import zcws.asgi.uvicorn
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: zcws.asgi.uvicorn needs uvicorn 0.36 or newer, and this is 0.23.2" in done.stderr


def test_uvicorns_command_line_takes_the_class() -> None:
    option = next(option for option in uvicorn.main.params if option.name == "ws")
    name = "zcws.asgi.uvicorn:WebSocketProtocol"  # what docs/asgi.md says to write
    assert option.type.convert(name, option, None) == name
