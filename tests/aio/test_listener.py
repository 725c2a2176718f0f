"""Accepting without the event loop's transports."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import struct
import time
from collections import Counter
from typing import Any

import pytest
import wire
from net import Certificates, Place, echo, hang_up, no_descriptor_left, port_of, request, soon, until
from receiver import NoMemory

import zcws
from zcws.aio import listener
from zcws.aio.accepting import ServerHandshake
from zcws.aio.engine import Engine, engine_of, is_engine_on
from zcws.aio.listener import can_accept
from zcws.aio.transport import EngineTransport

pytestmark = pytest.mark.skipif(not is_engine_on(), reason="there is no engine here")


def test_on_which_sockets_we_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.new_event_loop()
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        assert can_accept(loop, [stream])
        assert not can_accept(loop, [stream, datagrams])
        with monkeypatch.context() as patched:
            patched.setenv("ZCWS_ENGINE", "0")
            assert not can_accept(loop, [stream])
        loop._nest_patched = True  # type: ignore[attr-defined]  # as nest_asyncio does
        assert not can_accept(loop, [stream])
    loop.close()


def listener_of(server: zcws.Server) -> Any:
    return server._listener


def failures_of(loop: asyncio.AbstractEventLoop) -> list[Any]:
    """The exceptions that `loop` is told of from now on."""
    failures: list[Any] = []
    loop.set_exception_handler(lambda _, context: failures.append(context.get("exception")))
    return failures


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
                assert type(ws._request) is type(ws._response) is bytes
                assert ws.request is ws.request and ws.request.headers["Upgrade"] == "websocket"
                assert ws.response is ws.response and ws.response.status_code == 101
                assert peer.recv(4096) == ws.response.serialize()

    anyloop.run(main())


def knock(server: zcws.Server, data: bytes) -> socket.socket:
    """A client whose first bytes are there before he is accepted."""
    sock = socket.create_connection(("127.0.0.1", port_of(server)))
    sock.sendall(data)
    sock.setblocking(False)
    return sock


async def answer_to(server: zcws.Server, *pieces: bytes) -> bytes:
    """Until the first frame, which says "mine", or the end of the stream."""
    loop = asyncio.get_running_loop()
    with knock(server, pieces[0]) as sock:
        for piece in pieces[1:]:
            await until(lambda: server.handshakes)
            await loop.sock_sendall(sock, piece)
        answer = b""
        while not answer.endswith(b"mine") and (data := await soon(loop.sock_recv(sock, 65536))):
            answer += data
        return answer


ORIGIN, EVIL, CHAT = "Origin: https://a", "Origin: https://evil", "Sec-WebSocket-Protocol: more, chat"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"


@pytest.mark.parametrize("behind", [b"", wire.frame(wire.TEXT, b"yours", key=wire.KEY)])
@pytest.mark.parametrize(
    "lines",
    [[], [ORIGIN], [CHAT], [DEFLATE], [EVIL, CHAT], [DEFLATE, EVIL], [ORIGIN, CHAT], [DEFLATE, CHAT, ORIGIN]],
)
def test_what_is_answered_at_once_is_what_is_answered_in_pieces(
    anyloop: Place, lines: list[str], behind: bytes
) -> None:
    """Each header that decides about the answer, alone and in any order; and the first frame behind the request."""
    asked: list[Any] = []

    async def handler(ws: zcws.WebSocket) -> None:
        asked.append((ws.subprotocol, str(ws.request), str(ws.response)))
        if behind:
            assert await soon(ws.recv()) == "yours"
        await ws.send("mine")
        await ws.wait_closed()  # our Close would be part of the answer

    async def main() -> None:
        options: dict[str, Any] = {"origins": ["https://a", None], "subprotocols": ["chat", "more"]}
        async with anyloop.serve(handler, compression="deflate", **options) as server:
            head = request(*lines)
            at_once = await answer_to(server, head + behind)
            assert await answer_to(server, head[:-3], head[-3:] + behind) == at_once
            assert at_once.startswith(b"HTTP/1.1 403 " if EVIL in lines else b"HTTP/1.1 101 ")
            assert (b"Sec-WebSocket-Protocol: chat\r\n" in at_once) == (CHAT in lines and EVIL not in lines)
            assert (b"permessage-deflate" in at_once) == (DEFLATE in lines and EVIL not in lines)
            assert len(asked) == (0 if EVIL in lines else 2) and asked[1:] == asked[:1] * (len(asked) - 1)

    anyloop.run(main())


def test_a_hook_sees_an_answer_that_could_be_given_at_once(anyloop: Place) -> None:
    def process_response(
        handshake: ServerHandshake, asked: zcws.Request, answer: zcws.Response
    ) -> zcws.Response:
        assert answer.status_code == 101
        return handshake.respond(402, "pay first")

    async def main() -> None:
        async with anyloop.serve(echo, process_response=process_response) as server:
            assert (await answer_to(server, request())).startswith(b"HTTP/1.1 402 ")

    anyloop.run(main())


def descriptors() -> Counter[str]:
    """What all open ones are of. Those of earlier event loops are among them until the collector has come for them all
    (on PyPy that takes several times), so what was there before may be gone later."""
    links: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that `listdir` itself had
            links[os.readlink(f"/proc/self/fd/{number}")] += 1
    return links


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("tls", ["asyncio-tls"], indirect=True)
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("data", [b"", b"G"])
@pytest.mark.parametrize("end", [reset, socket.socket.close])
def test_whoever_has_left_before_he_is_accepted_leaves_nothing_here(
    data: bytes, end: Any, encrypted: bool, tls: Place
) -> None:
    place = tls if encrypted else Place("asyncio", None)

    async def main() -> None:
        async with place.serve(echo, open_timeout=None) as server, place.connect(server):
            before = descriptors()
            for _ in range(3):
                end(knock(server, data))
            async with place.connect(server) as ws:  # who is behind them is served
                await ws.send("hello")
                assert await soon(ws.recv()) == "hello"
            await until(lambda: not server.handshakes)
            await until(lambda: descriptors() <= before)

    place.run(main())


def test_whoever_leaves_in_the_middle_of_his_request_leaves_nothing_here(anyloop: Place) -> None:
    failures: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        async with anyloop.serve(echo, open_timeout=None) as server, anyloop.connect(server):
            before = descriptors()
            for end in (reset, socket.socket.close):
                # Last words in the same turn: uvloop says the end with them, and never again.
                for last in (b"", request()[20:40]):
                    sock = knock(server, request()[:20])
                    await until(lambda: server.handshakes)
                    sock.sendall(last)
                    end(sock)
                    await until(lambda: not server.handshakes)
            assert descriptors() <= before

    anyloop.run(main())
    assert not failures


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("zcws.acceptor.AcceptorOptions", "terms"),
        ("zcws.acceptor.WebSocketAcceptor", "read_request"),
        ("zcws.aio.listener.ServerHandshake", "__init__"),
        ("zcws.aio.accepting.ServerHandshake", "wait"),
        ("zcws.aio.accepting.Deadline", "__init__"),
        ("zcws.aio.server.Server", "make"),
        ("zcws.aio.transport.EngineTransport", "__init__"),
        ("zcws.aio.engine.Engine", "add"),
        ("zcws.aio.websocket.WebSocket", "connection_made"),
        ("zcws.aio.server.Server", "_run"),
    ],
)
@pytest.mark.parametrize("at", [None, 20])
def test_no_memory_for_whoever_arrives(
    at: int | None, where: str, name: str, anyloop: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He is told at once, nothing of him stays here, and whoever comes then is served."""
    failures: list[Any] = []
    head = request() if at is None else request("X-Way: long")

    def process_response(handshake: ServerHandshake, request: zcws.Request, response: zcws.Response) -> None:
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: failures.append(context.get("exception")))
        options = {} if at is None else {"process_response": process_response}
        async with anyloop.serve(echo, **options) as server, anyloop.connect(server):
            await until(lambda: len(server.connections) == 1)
            before = descriptors()

            def fails(*args: Any, **options: Any) -> Any:
                failed.append(name)
                raise MemoryError

            failed: list[str] = []
            with monkeypatch.context() as patched:
                patched.setattr(f"{where}.{name}", fails)
                with knock(server, head[:at]) as sock:
                    if at is not None:
                        await until(lambda: server.handshakes or failed)
                        with contextlib.suppress(ConnectionError):
                            sock.sendall(head[at:])
                    if await goes_on(loop, sock):
                        return  # this way does not come by there
            assert failed
            await until(lambda: failures)  # the loop hears of each, whatever has become of the connection
            await until(lambda: descriptors() <= before)
            assert not server.handshakes and len(server.connections) == 1
            async with anyloop.connect(server) as ws:
                await ws.send("hello")
                assert await soon(ws.recv()) == "hello"

    anyloop.run(main())
    assert {type(failure) for failure in failures} <= {MemoryError}


async def goes_on(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bool:
    """Whether a client is answered with a 101, and is not at its end behind that; it may have been reset."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := await soon(loop.sock_recv(sock, 4096)):
            data += piece
            if data.endswith(b"\r\n\r\n"):
                break
    return data.startswith(b"HTTP/1.1 101 ")


def test_tls_that_has_begun_before_it_is_accepted(certificates: Certificates) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = certificates.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        async with Place("asyncio", certificates).serve(echo, open_timeout=None) as server:
            with knock(server, outgoing.read()) as sock:
                while client.version() is None:
                    incoming.write(await soon(loop.sock_recv(sock, 65536)))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        client.do_handshake()

    asyncio.run(main())


@pytest.mark.parametrize("at", [None, 20])
def test_a_server_waits_for_whoever_has_just_got_a_transport(anyloop: Place, at: int | None) -> None:
    """It is closed while the event loop makes one for him: he has his answer before the server says that it is over."""

    async def main() -> None:
        def process_request(handshake: ServerHandshake, asked: zcws.Request) -> Any:
            server.close()
            return asyncio.sleep(0)

        async with anyloop.serve(echo, process_request=process_request) as server:
            head = request()
            with knock(server, head[:at]) as sock:
                if at is not None:
                    await until(lambda: server.handshakes)
                    sock.sendall(head[at:])
                await until(lambda: server.is_closing)
                await soon(server.wait_closed())
                assert sock.recv(4096).startswith(b"HTTP/1.1 503 ")

    anyloop.run(main())


def test_a_server_that_drains_lets_in_whoever_has_just_got_a_transport(anyloop: Place) -> None:
    async def main() -> None:
        def process_request(handshake: ServerHandshake, asked: zcws.Request) -> Any:
            server.close(drain=600)
            return asyncio.sleep(0)

        async with anyloop.serve(echo, process_request=process_request) as server:
            with knock(server, request()) as sock:
                answer = await soon(asyncio.get_running_loop().sock_recv(sock, 100))
                assert answer.startswith(b"HTTP/1.1 101 ")

    anyloop.run(main())


@pytest.mark.parametrize(
    "where", ["aio.server.Server.secure", "aio.listener.place", "aio.tls.Tls.connection_made"]
)
@pytest.mark.parametrize("tls", ["asyncio-tls"], indirect=True)
def test_no_memory_for_the_tls_of_whoever_arrives(
    where: str, tls: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """His descriptor stayed open, and he waited."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        failures = failures_of(loop)
        monkeypatch.setattr(f"zcws.{where}", NoMemory())
        async with tls.serve(echo) as server:
            engine_of(loop)  # which has descriptors of its own
            before = descriptors()
            with knock(server, b"") as sock, contextlib.suppress(ConnectionResetError):
                assert await soon(loop.sock_recv(sock, 1)) == b""
            await until(lambda: descriptors() <= before)
            assert not server.handshakes
        assert [type(failure) for failure in failures] == [MemoryError]

    tls.run(main())


@pytest.mark.parametrize("what", ["a first protocol", "a task for that", "a task for an answer"])
def test_no_memory_for_whoever_gets_a_transport(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        failures = failures_of(loop)

        def create_task(coroutine: Any, original: Any = loop.create_task, **options: Any) -> Any:
            if coroutine.__name__ == "_make_transport":
                coroutine.close()
                raise MemoryError
            return original(coroutine, **options)

        options: dict[str, Any] = {"http2": True}
        if what == "a task for an answer":
            options = {"process_request": lambda *_: asyncio.sleep(0)}
        async with Place("asyncio", None).serve(echo, **options) as server:
            if what == "a first protocol":
                monkeypatch.setattr(listener_of(server), "_begin", NoMemory())
            else:
                monkeypatch.setattr(loop, "create_task", create_task)
            before = descriptors()
            with knock(server, request()[:20]) as sock, contextlib.suppress(ConnectionResetError):
                if what == "a task for an answer":
                    await until(lambda: server.handshakes)
                    sock.sendall(request()[20:])
                assert await soon(loop.sock_recv(sock, 1)) == b""
            await until(lambda: descriptors() <= before)
            assert not server.handshakes
        assert [type(failure) for failure in failures] == [MemoryError]

    asyncio.run(main())


def test_no_memory_for_the_rest_of_a_request(anyloop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        failures = failures_of(loop)
        async with anyloop.serve(echo, open_timeout=None) as server:
            with knock(server, request()[:20]) as sock, contextlib.suppress(ConnectionResetError):
                await until(lambda: server.handshakes)
                monkeypatch.setattr("zcws.acceptor.WebSocketAcceptor.read_request", NoMemory())
                sock.sendall(request()[20:])
                assert await soon(loop.sock_recv(sock, 1)) == b""
            assert not server.handshakes
        assert [type(failure) for failure in failures] == [MemoryError]

    anyloop.run(main())


@pytest.mark.parametrize("at", [None, 20])
def test_a_transport_that_cannot_be_made(at: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def fail(*_: Any) -> None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "connect_accepted_socket", fail)
        hook = {"process_request": lambda *_: zcws.Response(200, "OK")}
        async with Place("asyncio", None).serve(echo, **hook) as server:
            head = request()
            with knock(server, head[:at]) as sock:
                if at is not None:
                    await until(lambda: server.handshakes)
                    sock.sendall(head[at:])
                with contextlib.suppress(ConnectionResetError):
                    assert await soon(loop.sock_recv(sock, 1)) == b""
            assert not server.handshakes and not listener_of(server).passing

    asyncio.run(main())


@pytest.mark.parametrize("then", ["served", "closed", "resting"])
@pytest.mark.parametrize(
    ("errors", "logged"),
    [
        ([errno.ECONNABORTED] * 3, 0),
        ([errno.EINTR], 0),
        ([errno.EMFILE], 1),
        ([errno.ECONNABORTED, errno.ENFILE], 1),
    ],
)
def test_accepting_that_fails(
    errors: list[int],
    logged: int,
    then: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """accept(2): of one who has gone, the next is asked for; of a system that is out of something, a moment later."""
    monkeypatch.setattr("zcws.aio.listener._OUT_OF_DESCRIPTORS", 3600 if then == "resting" else 0.05)
    failures: list[Any] = []
    left, real = list(errors), listener._welcome

    def welcome(*args: Any) -> int:
        if left:
            return -left.pop(0)
        return -errors[-1] if logged and then == "resting" else real(*args)

    monkeypatch.setattr("zcws.aio.listener._welcome", welcome)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: failures.append(context))
        async with Place("asyncio", None).serve(echo, close_timeout=0.01) as server:
            with knock(server, request()) as sock:
                await until(lambda: not left)
                if then == "served":
                    assert (await soon(loop.sock_recv(sock, 100))).startswith(b"HTTP/1.1 101 ")
                elif then == "closed":
                    server.close()
                    await asyncio.sleep(0.1)  # the moment is over
                else:
                    for _ in range(5):
                        await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR, logger="zcws.server"):
        asyncio.run(main())
    assert not failures
    assert len(caplog.records) == logged


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
            peers = [await anyloop.open(port_of(server)) for _ in range(100)]
            for _, writer in peers:
                writer.write(request())
            for reader, _ in peers:
                assert (await soon(reader.readline())).startswith(b"HTTP/1.1 101 ")
            assert len(server.connections) == 100
            for _, writer in peers:
                await hang_up(writer)

    anyloop.run(main())


@pytest.mark.parametrize("http2", [False, True])
def test_no_descriptor_left(
    http2: bool, anyloop: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The socket that listens rests for a moment, and those who wait are served then. asyncio's own would say so a
    hundred times, and each second a hundred times more."""
    monkeypatch.setattr("zcws.aio.listener._OUT_OF_DESCRIPTORS", 0.05)

    async def main() -> None:
        async with anyloop.serve(echo, http2=http2) as server:
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


def test_a_server_that_stood_still(certificates: Certificates) -> None:
    """What came in time is read, however long the program has kept the loop from it: of more clients than the engine
    serves in a turn.
    """
    place = Place("asyncio", certificates)
    clients, out = 90, ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        certificates.client.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    hello = out.read()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with place.serve(echo, open_timeout=2) as server:
            with contextlib.ExitStack() as stack:
                address = ("127.0.0.1", port_of(server))
                socks = [stack.enter_context(socket.create_connection(address)) for _ in range(clients)]
                for sock in socks:
                    sock.sendall(hello[:10])
                await until(lambda: len(server.handshakes) == clients)
                for sock in socks:
                    sock.sendall(hello[10:])
                    sock.setblocking(False)
                time.sleep(4)  # a program that computes
                for sock in socks:
                    assert await soon(loop.sock_recv(sock, 1)) == b"\x16"  # RFC 8446 5.1: of a handshake

    place.run(main())


def test_who_waits_when_a_server_that_drains_closes(anyloop: Place) -> None:
    """The kernel reset all of its queue: 6 to 12 handshakes in ten restarts of processes that share a port."""

    async def main() -> None:
        server = await anyloop.serve(echo)
        peers = [knock(server, request() + wire.frame(wire.TEXT, b"mine", key=wire.KEY)) for _ in range(70)]
        peers.append(knock(server, request()[:20]))
        server.close(drain=None)  # before the loop has turned
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peers[-1], request()[20:])
        for peer in peers:
            answer = b""
            while not answer.endswith(b"\r\n\r\n" if peer is peers[-1] else b"mine"):
                answer += (data := await soon(loop.sock_recv(peer, 65536)))
                assert data
            peer.close()
        await soon(server.wait_closed())

    anyloop.run(main())


def test_a_full_queue_when_a_server_that_drains_closes(anyloop: Place) -> None:
    """A queue holds one more than it was made for."""

    async def main() -> None:
        server = await anyloop.serve(echo, backlog=2)
        (await anyloop.connect(server)).abort()  # it has accepted before
        peers = [knock(server, request()) for _ in range(3)]
        server.close(drain=None)  # before the loop has turned
        for peer in peers:
            answer = await soon(asyncio.get_running_loop().sock_recv(peer, 65536))
            assert answer.startswith(b"HTTP/1.1 101 ")
            peer.close()
        await soon(server.wait_closed())

    anyloop.run(main())


def test_no_memory_for_who_waits_when_a_server_that_drains_closes(
    anyloop: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop hears of it, and the server is closed."""
    failures: list[Any] = []

    def fails(*_: Any) -> Any:
        raise MemoryError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        server = await anyloop.serve(echo)
        with knock(server, request()):
            monkeypatch.setattr("zcws.acceptor.AcceptorOptions.terms", fails)
            server.close(drain=None)
            assert not server.is_serving()
            await soon(server.wait_closed())
        assert [type(failure["exception"]) for failure in failures] == [MemoryError]

    anyloop.run(main())


def test_who_waits_when_a_hook_closes_the_server(anyloop: Place) -> None:
    """It runs in the middle of accepting: there is no other sweep in that, and whoever comes behind is reset."""

    async def main() -> None:
        def process_request(*_: object) -> None:
            server.close(drain=None)

        server = await anyloop.serve(echo, process_request=process_request)
        with knock(server, request()) as first, knock(server, request()) as second:
            loop = asyncio.get_running_loop()
            assert (await soon(loop.sock_recv(first, 65536))).startswith(b"HTTP/1.1 101 ")
            with pytest.raises(ConnectionError):
                await soon(loop.sock_recv(second, 65536))
        await soon(server.wait_closed())

    anyloop.run(main())
