"""The opening handshake where it is: on its socket or on a transport. What is answered: test_behaviour_handshake.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import socket
import sys
from contextvars import ContextVar
from typing import Any

import pytest
import wire
from net import LONG, Place, echo, hang_up, narrow, port_of, request, soon, swallow, until
from tunnel import Http2Place

import zcws
from zcws.aio.accepting import ServerHandshake


def test_what_a_hook_may_ask(anyplace: Place) -> None:
    seen: list[Any] = []

    def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
        sock = handshake.get_extra_info("socket")
        seen.append((handshake.remote_address[1], handshake.local_address[1], sock.fileno() >= 0))
        assert handshake.get_extra_info("nothing", "else") == "else"
        assert repr(handshake) == f"<ServerHandshake from {handshake.remote_address}, {asked}>"
        assert (handshake.get_extra_info("ssl_object") is None) == (anyplace.certificates is None)

    async def main() -> None:
        async with anyplace.serve(echo, process_request=process_request) as server:
            async with anyplace.connect(server) as ws:
                assert seen == [(ws.local_address[1], port_of(server), True)]

    anyplace.run(main())


VARIABLE: ContextVar[str] = ContextVar("VARIABLE")


def test_what_a_hook_sets_is_for_its_own_handler(anyplace: Place) -> None:
    """The next client's hook, and its handler, were given the user of the one before."""
    seen: list[tuple[str, str]] = []

    def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
        seen.append(("hook", VARIABLE.get()))
        if asked.path != "/nobody":
            VARIABLE.set(asked.path)

    async def handler(ws: zcws.WebSocket) -> None:
        seen.append(("handler", VARIABLE.get()))
        ws.add_end_callback(lambda ws: seen.append(("end", VARIABLE.get())))
        VARIABLE.set("later")
        await swallow(ws)

    async def main() -> None:
        VARIABLE.set("of serve")
        async with anyplace.serve(handler, process_request=process_request) as server:
            VARIABLE.set("of the client")
            for path in ("/user", "/nobody"):
                reader, writer = await anyplace.open(port_of(server))
                writer.write(request(target=path))
                assert (await soon(reader.readline())).startswith(b"HTTP/1.1 101 ")
                await until(lambda: server.connections)
                await hang_up(writer)
                await until(lambda: not server.connections)

    anyplace.run(main())
    assert seen == [
        *(("hook", "of serve"), ("handler", "/user"), ("end", "/user")),
        *(("hook", "of serve"), ("handler", "of serve"), ("end", "of serve")),
    ]


def test_what_a_hook_sets_where_the_request_is_there_first(place: Place) -> None:
    """Accepted and answered in one go."""
    seen: list[str] = []

    def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("of a hook")

    async def main() -> None:
        VARIABLE.set("of serve")
        async with place.serve(echo, process_request=process_request) as server:
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", port_of(server))) as sock:
                    sock.sendall(request())
                    await until(lambda: server.connections)
                await until(lambda: not server.connections)

    place.run(main())
    assert seen == ["of serve", "of serve"]


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


def test_an_answer_that_nobody_reads_is_kept_once(place: Place) -> None:
    """A page was in memory three times for as long as its reader took his time, which cost him 40 bytes."""
    tracemalloc = pytest.importorskip(
        "tracemalloc", reason="PyPy does not count its memory", exc_type=ImportError
    )
    size = 32 * 1024 * 1024

    def page(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response:
        return zcws.Response(200, "OK", {"Connection": "close"}, bytes(size))

    async def main() -> None:
        async with place.serve(echo, process_request=page) as server:
            tracemalloc.start()
            try:
                reader, writer = await place.open(port_of(server))
                writer.write(request())
                assert (await soon(reader.readline())).startswith(b"HTTP/1.1 200 ")
                writer.transport.pause_reading()
                assert tracemalloc.get_traced_memory()[0] < 1.5 * size
            finally:
                tracemalloc.stop()
            await hang_up(writer)

    place.run(main())


def test_a_hook_that_thinks_about_the_response(anyplace: Place) -> None:
    async def process_response(
        handshake: ServerHandshake, asked: zcws.Request, answer: zcws.Response
    ) -> zcws.Response | None:
        await asyncio.sleep(0)
        return handshake.respond(402, "pay first") if asked.path == "/paid" else None

    async def main() -> None:
        hooks: dict[str, Any] = {"process_response": process_response}
        async with anyplace.serve(echo, compression="deflate", **hooks) as server:
            async with anyplace.connect(server, compression="deflate") as ws:
                await ws.send("x")
                assert await ws.recv() == "x"
            with pytest.raises(zcws.HandshakeError) as refused:
                async with anyplace.connect(server, "/paid"):
                    pass
            assert refused.value.status == 402

    anyplace.run(main())


def test_a_hook_that_thinks_about_the_request_and_one_that_changes_the_response(anyplace: Place) -> None:
    handshakes: list[ServerHandshake] = []

    async def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
        handshakes.append(handshake)
        await asyncio.sleep(0)

    def process_response(
        handshake: ServerHandshake, asked: zcws.Request, answer: zcws.Response
    ) -> zcws.Response | None:
        return handshake.respond(402, "pay first") if asked.path == "/paid" else None

    async def main() -> None:
        hooks: dict[str, Any] = {"process_request": process_request, "process_response": process_response}
        async with anyplace.serve(echo, **hooks) as server:
            async with anyplace.connect(server) as ws:
                await ws.send("x")
                assert await ws.recv() == "x"
            with pytest.raises(zcws.HandshakeError, match="402"):
                await soon(awaited(anyplace.connect(server, "/paid")))
            assert [each.response and each.response.status_code for each in handshakes] == [101, 402]

    anyplace.run(main())


def test_what_a_hook_may_ask_when_the_client_has_gone(anyplace: Place) -> None:
    handshakes: list[ServerHandshake] = []

    def process_request(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response:
        handshakes.append(handshake)
        return handshake.respond(402, "pay first")

    async def main() -> None:
        async with anyplace.serve(echo, process_request=process_request) as server:
            with pytest.raises(zcws.HandshakeError):
                await anyplace.connect(server)
            await until(lambda: not server.handshakes)
            (gone,) = handshakes
            await until(lambda: gone.get_extra_info("peername", "nobody") == "nobody")
            assert gone.remote_address is None and gone.get_extra_info("nothing", "else") == "else"

    anyplace.run(main())


def count_timers(monkeypatch: pytest.MonkeyPatch, timers: list[asyncio.TimerHandle]) -> None:
    """Those of `open_timeout=1234.5`, from now on."""
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def counted(delay: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        timer = call_later(delay, *args, **options)
        if delay == 1234.5:
            timers.append(timer)
        return timer

    monkeypatch.setattr(loop, "call_later", counted)


@pytest.mark.parametrize("end", ["opens", "refused", "leaves"])
@pytest.mark.parametrize("thinks", [False, True])
def test_open_timeout_ends_with_the_handshake(
    anyplace: Place, thinks: bool, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would cut off later is somebody's open connection."""
    timers: list[asyncio.TimerHandle] = []

    async def think(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response | None:
        await asyncio.sleep(0)
        return handshake.respond(402, "pay first") if end == "refused" else None

    async def main() -> None:
        count_timers(monkeypatch, timers)
        hook = {"process_request": think} if thinks or end == "refused" else {}
        async with anyplace.serve(echo, open_timeout=1234.5, **hook) as server:
            reader, writer = await anyplace.open(port_of(server))
            head = request()
            writer.write(head[:20])
            await until(lambda: server.handshakes and timers)
            if end != "leaves":
                writer.write(head[20:])
                status = b"101" if end == "opens" else b"402"
                assert (await soon(reader.readline())).startswith(b"HTTP/1.1 " + status)
            if end == "opens":
                assert all(timer.cancelled() for timer in timers)
            await hang_up(writer)
            await until(lambda: not server.handshakes)
            assert all(timer.cancelled() for timer in timers)

    anyplace.run(main())


def test_whoever_is_sent_away_is_told_so_though_more_of_his_request_has_come(place: Place) -> None:
    """It was unread when the socket was closed, which made a reset of the end, and the client saw only that."""

    async def main() -> None:
        async with place.serve(echo) as server:
            reader, writer = await place.open(port_of(server))
            writer.write(request()[:20])
            await until(lambda: server.handshakes)
            writer.write(request()[20:40])  # goes out here; the loop turns in `read`
            for handshake in list(server.handshakes):
                handshake.go_away()
            assert (await soon(reader.read())).startswith(b"HTTP/1.1 503 ")
            await hang_up(writer)

    place.run(main())


def test_whoever_is_sent_away_waits_for_nobody(place: Place) -> None:
    """Not for a connection whose peer does not answer our Close."""

    async def main() -> None:
        async with place.serve(echo, close_timeout=LONG) as server, place.raw_client(server) as silent:
            reader, writer = await place.open(port_of(server))
            writer.write(request()[:20])
            await until(lambda: server.handshakes)
            server.close()
            assert (await soon(reader.read())).startswith(b"HTTP/1.1 503 ")
            assert server.connections
            await hang_up(writer)
            silent.reset()
            await soon(server.wait_closed())

    place.run(main())


def test_a_server_that_closes_does_not_wait_for_whoever_does_not_read_its_refusal(anyplace: Place) -> None:
    size = 32 * 1024 * 1024

    def page(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response:
        return zcws.Response(200, "OK", {"Connection": "close"}, bytes(size))

    async def main() -> None:
        async with anyplace.serve(echo, process_request=page, open_timeout=None) as server:
            reader, writer = await anyplace.open(port_of(server))
            writer.write(request())
            assert (await soon(reader.readline())).startswith(b"HTTP/1.1 200 ")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            server.close()
            await soon(server.wait_closed())
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            rest = b""
            with contextlib.suppress(ConnectionError):
                rest = await soon(reader.read())
            assert len(rest) < size
            await until(lambda: not server.handshakes)
            await hang_up(writer)

    anyplace.run(main())


def test_whoever_takes_a_long_answer_has_the_time_for_that(anyplace: Place) -> None:
    """It was cut off `open_timeout` after the connection had begun. Who takes nothing of it is cut off all the same."""
    size = 8 * 1024 * 1024

    def page(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response:
        return zcws.Response(200, "OK", {"Connection": "close"}, bytes(size))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with anyplace.serve(echo, process_request=page, open_timeout=1) as server:
            reader, writer = await anyplace.open(port_of(server), limit=32 * 1024)
            silent, other = await anyplace.open(port_of(server), limit=32 * 1024)
            narrow(other)  # or the two systems may hold all of it
            for each in (writer, other):
                each.write(request())
            began, seen = loop.time(), 0
            while data := await soon(reader.read(128 * 1024)):
                seen += len(data)
                await asyncio.sleep(0 if loop.time() - began > 2 else 0.02)
            assert seen > size
            await until(lambda: not server.handshakes)
            with contextlib.suppress(ConnectionError):
                assert len(await soon(silent.read())) < size
            await hang_up(writer)
            await hang_up(other)

    anyplace.run(main())


def test_whoever_reads_an_answer_that_came_late_has_all_of_open_timeout(
    anyplace: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He had what the hook had left of it: a page that was asked for 84 ms before its end was cut off then."""
    timers: list[asyncio.TimerHandle] = []
    before: list[asyncio.TimerHandle] = []

    async def page(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response:
        await asyncio.sleep(0)
        before.extend(timers)
        return zcws.Response(200, "OK", {"Connection": "close"}, bytes(8 * 1024 * 1024))

    async def main() -> None:
        count_timers(monkeypatch, timers)
        async with anyplace.serve(echo, process_request=page, open_timeout=1234.5) as server:
            reader, writer = await anyplace.open(port_of(server), limit=32 * 1024)
            head = request()
            writer.write(head[:20])
            await until(lambda: server.handshakes and timers)
            writer.write(head[20:])
            assert (await soon(reader.readline())).startswith(b"HTTP/1.1 200 ")
            assert before and all(timer.cancelled() for timer in before)
            assert [timer.cancelled() for timer in timers[len(before) :]] == [False]
            await hang_up(writer)
            await until(lambda: not server.handshakes)
            assert all(timer.cancelled() for timer in timers)

    anyplace.run(main())


def test_the_log_says_that_a_hook_took_longer_than_open_timeout(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The client saw the connection end without an answer, and the server's log said nothing."""

    async def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with place.serve(echo, process_request=process_request, open_timeout=0.1) as server:
            reader, writer = await place.open(port_of(server))
            writer.write(request())
            assert await soon(reader.read()) == b""
            writer.close()

    place.run(main())
    ((_, level, said),) = [record for record in caplog.record_tuples if record[0] == "zcws.server"]
    assert level == logging.WARNING
    assert said.startswith(
        "process_request or process_response was still busy with the request from ('127.0.0.1'"
    )
    assert said.endswith("when open_timeout=0.1 seconds were over")


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


def test_what_waits_for_a_hook_waits_in_the_socket(place: Place) -> None:
    """uvloop reads 32 times in a turn, 256,000 bytes each, before anybody could tell it to stop: what was more than a
    ring holds was lost, with the connection left open, and a task's exception that nobody had asked for."""
    sizes = [50_000] * 40

    async def think(handshake: ServerHandshake, asked: zcws.Request) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        got: list[int] = []

        async def count(ws: zcws.WebSocket) -> None:
            got.extend([len(message) async for message in ws])

        frames = b"".join(wire.frame(wire.BINARY, bytes(size), key=wire.KEY) for size in sizes)
        listening, sock = socket.create_server(("127.0.0.1", 0)), socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        async with zcws.serve(count, sock=listening, process_request=think):
            with sock:
                sock.connect(listening.getsockname())
                data = request() + frames + wire.frame(wire.CLOSE, key=wire.KEY)
                await soon(asyncio.to_thread(sock.sendall, data))
                await until(lambda: got)
            assert got == sizes

    place.run(main())


@pytest.mark.parametrize(
    ("data", "said", "logged"),
    [
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
            b"is the URI wss:// where ws://",
            "TLS",
        ),
        (b"SSH-2.0-x\r\n", b"this is not HTTP", "it began with b'SSH-2.0-x"),
        (b"\x00\x01\x02", b"this is not HTTP", "it began with b'\\x00"),
        (b"GET / HTTP/1.1\nHost: a\n", b"ends in LF alone", "LF alone"),
        (b"EHLO me\r\n", b"malformed request line", "EHLO me"),
    ],
)
def test_what_cannot_become_a_request_is_refused_at_once(
    place: Place, caplog: pytest.LogCaptureFixture, data: bytes, said: bytes, logged: str
) -> None:
    """No timeout passes: there is none. What was received is for the log, and not for the answer."""
    caplog.set_level(logging.INFO, "zcws.server")

    async def main() -> None:
        async with place.serve(echo, open_timeout=None) as server:
            for pieces in ([data], [data[:1], data[1:]]):
                reader, writer = await place.open(port_of(server))
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0.01)
                answer = await soon(reader.read())
                assert answer.startswith(b"HTTP/1.1 400 ")
                assert said in answer if len(pieces) == 1 else b"\r\n\r\n" in answer
                assert b"SSH" not in answer and b"EHLO" not in answer
                await hang_up(writer)

    place.run(main())
    assert logged in caplog.records[0].getMessage() and "127.0.0.1" in caplog.records[0].getMessage()
    assert caplog.records[0].levelno == logging.INFO


def test_the_log_says_why_a_client_was_refused(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """It said "connection rejected: 403", whatever the reason."""
    caplog.set_level(logging.DEBUG, "zcws.server")

    def hook(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response | None:
        return handshake.respond(401, "who are you?") if asked.path == "/private" else None

    async def main() -> None:
        async with place.serve(echo, origins=["https://a.example"], process_request=hook) as server:
            for path in ("/", "/private"):
                with pytest.raises(zcws.HandshakeError):
                    await place.connect(port_of(server), path)

    place.run(main())
    rejected = [line for _, _, line in caplog.record_tuples if "rejected" in line]
    assert [line.partition(" rejected: ")[2] for line in rejected] == [
        "403 (connections from this Origin are not accepted)",
        "401 (Unauthorized)",
    ]
    assert all(line.startswith("connection of ('127.0.0.1', ") for line in rejected)


def test_a_scanner_does_not_write_the_log(anyplace: Place, caplog: pytest.LogCaptureFixture) -> None:
    """One line a second, in the clear and over TLS; the others are DEBUG. uvloop's TLS tells of nothing."""
    caplog.set_level(logging.DEBUG, "zcws.server")
    is_silent = anyplace.is_tls and anyplace.loop == "uvloop"

    async def main() -> None:
        async with anyplace.serve(echo) as server:
            began = asyncio.get_running_loop().time()
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
                writer.write(b"SSH-2.0-scanner\r\n")
                await soon(reader.read())
                await hang_up(writer)
            await until(lambda: len(told()) == 20 or is_silent)
            seconds = asyncio.get_running_loop().time() - began
        lines = [record for record in told() if record.levelno == logging.INFO]
        assert len(lines) <= 1 + seconds and (lines or is_silent)

    def told() -> list[logging.LogRecord]:
        return [record for record in caplog.records if ", from ('127.0.0.1'" in record.getMessage()]

    anyplace.run(main())


def raises(*_: Any) -> Any:
    raise LookupError("a bug")


async def later(*_: Any) -> Any:
    return "hello"


async def nothing_later(*_: Any) -> None: ...


def unsendable(*_: Any) -> zcws.Response:
    return zcws.Response(200, "OK", None, "text")  # type: ignore[arg-type]


async def unsendable_later(*_: Any) -> zcws.Response:
    return unsendable()


def talks_on(_: Any, __: Any, response: zcws.Response) -> None:
    """Its body would be read as frames."""
    response.body = b"\x81\x05hello"


async def talks_on_later(*asked: Any) -> None:
    talks_on(*asked)


def compresses(_: Any, __: Any, response: zcws.Response) -> None:
    """The client would send what nobody here can read."""
    response.headers["Sec-WebSocket-Extensions"] = "permessage-deflate"


def chunked(*_: Any) -> zcws.Response:
    return zcws.Response(200, "OK", {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n0\r\n\r\n")


def cancels(*_: Any) -> Any:
    raise asyncio.CancelledError  # of a future that was cancelled


@pytest.mark.parametrize(
    "hooks",
    [
        *(
            {"select_subprotocol": each}
            for each in (raises, cancels, lambda offered: "other", lambda offered: later())
        ),
        *(
            {"process_request": each}
            for each in (raises, cancels, lambda *_: "hello", later, unsendable, unsendable_later)
        ),
        *(
            {"process_response": each}
            for each in (raises, cancels, lambda *_: "hello", later, unsendable, unsendable_later)
        ),
        *({"process_response": each} for each in (talks_on, talks_on_later, compresses, chunked)),
        {"process_request": chunked},
        *(
            {"process_response": talks_on, **each}
            for each in ({"process_request": nothing_later}, {"process_request": lambda *_: None})
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


async def cancels_later(*_: Any) -> Any:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before, nobody can tell whom a CancelledError is for")
@pytest.mark.parametrize(
    "hooks",
    [
        {"process_request": cancels_later},
        {"process_response": cancels_later},
        {"process_request": nothing_later, "process_response": cancels},
    ],
)
def test_a_hook_whose_own_task_was_cancelled(
    anyplace: Place, hooks: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody had cancelled the hook: its client waited for an answer until `open_timeout` was over."""

    async def main() -> None:
        async with anyplace.serve(echo, open_timeout=LONG, **hooks) as server:
            with pytest.raises(zcws.HandshakeError) as refused:
                await soon(awaited(anyplace.connect(server)))
            assert refused.value.status == 500

    anyplace.run(main())
    assert [(record.name, record.levelname) for record in caplog.records] == [("zcws.server", "ERROR")]


class Panic(BaseException):
    """What a panic of Rust becomes in Python: no Exception, and nothing that ends the event loop."""


async def panics_later(*_: Any) -> Any:
    raise Panic("a bug")


@pytest.mark.parametrize("hook", ["process_request", "process_response"])
def test_a_hook_that_panics(anyplace: Place, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its client waited until `open_timeout` was over, and nobody was told of the panic."""
    check_panic(anyplace, hook)
    assert [record for record in caplog.records if record.name == "zcws.server"] == []


def test_a_hook_that_panics_over_http2() -> None:
    check_panic(Http2Place("asyncio", tls=False), "process_request")


def check_panic(place: Place, hook: str) -> None:
    told: list[BaseException | None] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
        async with place.serve(echo, open_timeout=None, **{hook: panics_later}) as server:
            with pytest.raises((zcws.HandshakeError, OSError)):
                await soon(awaited(place.connect(server)))
            await until(lambda: not server.handshakes)
            # asyncio tells of it when the task is freed, PyPy frees it when it collects.
            await until(lambda: told or gc.collect() < 0)

    place.run(main())
    assert [type(each) for each in told] == [Panic]


def test_a_hook_that_is_cancelled_is(anyplace: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Its client has left: that is no failure of the hook."""

    async def main() -> None:
        thinking, cancelled = asyncio.Event(), asyncio.Event()

        async def think(*_: Any) -> None:
            thinking.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with anyplace.serve(echo, process_request=think, open_timeout=LONG) as server:
            connecting = asyncio.ensure_future(awaited(anyplace.connect(server)))
            await soon(thinking.wait())
            for handshake in list(server.handshakes):
                handshake.abort()
            await soon(cancelled.wait())
            with pytest.raises((zcws.HandshakeError, OSError)):
                await soon(connecting)
            await until(lambda: not server.handshakes)

    anyplace.run(main())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("thinks", [True, False])
def test_an_answer_is_made_into_bytes_once(anyplace: Place, refuses: bool, thinks: bool) -> None:
    made: list[Counted] = []

    def counted(_: Any, __: Any, response: zcws.Response | None = None) -> zcws.Response:
        response = response or zcws.Response(402, "Pay first")
        made.append(Counted(response.status_code, response.reason_phrase, response.headers))
        return made[-1]

    async def counted_later(*asked: Any) -> zcws.Response:
        return counted(*asked)

    hook: Any = counted_later if thinks else counted

    async def main() -> None:
        hooks = {"process_request": hook} if refuses else {"process_response": hook}
        async with anyplace.serve(echo, **hooks) as server:
            if refuses:
                with pytest.raises(zcws.HandshakeError, match="402"):
                    await soon(awaited(anyplace.connect(server)))
            else:
                async with anyplace.connect(server) as ws:
                    await ws.send("x")
                    assert await ws.recv() == "x"

    anyplace.run(main())
    assert [response.times for response in made] == [1]


class Counted(zcws.Response):
    """A response that counts how often it has been made into bytes."""

    times = 0

    def serialize(self, method: str = "GET") -> bytes:
        self.times += 1
        return super().serialize(method)


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
        async with place.serve(echo, process_request=hooks, open_timeout=LONG) as server:
            for _ in range(20):
                _, writer = await place.open(port_of(server))
                writer.write(request())
                writer.transport.abort()
            await until(lambda: len(made) >= 20)
            await until(lambda: not server.handshakes)
            for each in made:
                await until(lambda each=each: inspect.getcoroutinestate(each) == inspect.CORO_CLOSED)

    place.run(main())
