"""A client's connection before it is open, against servers by hand; whole connections are in test_client.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
import raw
import wire
from net import LONG, Certificates, Place, response, soon

import zcws
from zcws.aio.asking import ClientHandshake
from zcws.http2 import ALPN


def answering(
    answer: Callable[[bytes], bytes], *, cut: bool = False
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """A server that answers one request, byte by byte if wanted, and then waits for the client to go."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = answer(await soon(reader.readuntil(b"\r\n\r\n")))
        with contextlib.suppress(ConnectionError):  # it may have seen enough
            for piece in [data[at : at + 1] for at in range(len(data))] if cut else [data]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            await soon(reader.read())

    return serve


@pytest.mark.parametrize("cut", [False, True])
def test_frames_behind_the_response_are_kept(anyplace: Place, cut: bool) -> None:
    def answer(head: bytes) -> bytes:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        return early + response(head) + wire.frame(wire.TEXT, b"first") + wire.frame(wire.TEXT, b"second")

    async def main() -> None:
        async with anyplace.listen(answering(answer, cut=cut)) as port:
            ws = await anyplace.connect(port)
            assert [await soon(ws.recv()), await soon(ws.recv())] == ["first", "second"]
            ws.abort()

    anyplace.run(main())


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!\nmore", b"no!\n"),
        (b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
def test_a_response_that_is_no_101(anyplace: Place, head: bytes, body: bytes, cut: bool) -> None:
    async def main() -> None:
        async with anyplace.listen(answering(lambda asked: head, cut=cut)) as port:
            with pytest.raises(zcws.HandshakeError, match="instead of 101") as caught:
                await anyplace.connect(port)
            assert caught.value.body == body

    anyplace.run(main())


def test_a_body_that_ends_with_the_connection(place: Place) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Oh\r\n\r\nuntil the end")

    async def main() -> None:
        async with place.listen(serve) as port:
            with pytest.raises(zcws.HandshakeError) as caught:
                await place.connect(port)
            assert (caught.value.status, caught.value.body) == (500, b"until the end")

    place.run(main())


@pytest.mark.parametrize(
    ("option", "cause"), [(struct.pack("ii", 1, 0), ConnectionResetError), (bytes(8), EOFError)]
)
def test_the_cause_of_an_end_before_the_response(place: Place, option: bytes, cause: type[Exception]) -> None:
    """It decides whether a loop tries again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        writer.transport.abort() if option[0] else writer.close()  # type: ignore[attr-defined]

    async def main() -> None:
        async with place.listen(serve) as port:
            with pytest.raises(zcws.HandshakeError, match="before it answered") as caught:
                await place.connect(port)
            assert isinstance(caught.value.__cause__, cause)

    place.run(main())


@pytest.mark.parametrize("ends", [b"", b"Content-Length: 2\r\n"])
def test_a_refusal_is_told_as_soon_as_it_is_whole(
    anyplace: Place, ends: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once: its length says so, or the end of the connection, and nobody waits for more."""
    monkeypatch.setattr("zcws.aio.asking.BODY_TIMEOUT", 10 * LONG)
    failures: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 No\r\n" + ends + b"\r\nno")
        if ends:
            with contextlib.suppress(ConnectionError):
                await soon(reader.read())

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        async with anyplace.listen(serve) as port:
            with pytest.raises(zcws.HandshakeError, match="403") as caught:
                await soon(anyplace.connect(port, open_timeout=None)._connect())
            assert caught.value.body == b"no"

    anyplace.run(main())
    assert not failures


def test_a_body_that_never_ends(place: Place) -> None:
    """It used up `open_timeout`, and the refusal was told as `TimeoutError`, after which a loop tries again."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 No\r\n\r\nno")
        await done.wait()

    async def main() -> None:
        async with place.listen(serve) as port:
            with pytest.raises(zcws.HandshakeError) as caught:
                await place.connect(port, open_timeout=None)
            assert (caught.value.status, caught.value.body) == (401, b"no")
            done.set()

    place.run(main())


@pytest.mark.parametrize("status", [401, 302])
def test_a_body_that_stops(place: Place, status: int) -> None:
    """What came in `open_timeout` was a refusal, and was told as `TimeoutError`, after which a loop tries again. Only
    for following a redirect there is no time left."""
    begun, done = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d No\r\nLocation: /\r\nContent-Length: 9\r\n\r\nno" % status)
        begun.set()
        await done.wait()

    async def main() -> None:
        async with place.listen(serve) as port:
            with pytest.raises(zcws.HandshakeError if status == 401 else TimeoutError) as caught:
                await place.connect(port, open_timeout=0.2, max_redirects=1)
            if isinstance(caught.value, zcws.HandshakeError):
                assert (caught.value.status, caught.value.body) == (401, b"no")
            begun.clear()
            connecting = asyncio.ensure_future(place.connect(port, open_timeout=None))
            await begun.wait()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            done.set()

    place.run(main())


def test_a_refusal_leaves_no_socket_behind(tls: Place) -> None:
    """It waited for a goodbye, which not every server says: half a minute, on 3.10 for ever."""
    gone = threading.Event()

    def run() -> None:
        sock, _ = listening.accept()
        beneath = sock.dup()
        assert tls.certificates is not None
        with beneath, tls.certificates.server.wrap_socket(sock, server_side=True) as stream:
            stream.recv(10_000)
            stream.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
            with contextlib.suppress(ConnectionError):
                while beneath.recv(10_000):
                    pass
            gone.set()

    async def main() -> None:
        with pytest.raises(zcws.HandshakeError):
            await tls.connect(listening.getsockname()[1])
        assert await asyncio.to_thread(gone.wait, raw.LONG)

    with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
        tls.run(main())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "closed the connection before it answered"),
        (b"HTTP/1.1 101 Sw", r"in the middle of its answer; it began with b'HTTP/1\.1 101 Sw'$"),
    ],
)
def test_the_end_before_the_response(anyplace: Place, data: bytes, reason: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)

    async def main() -> None:
        async with anyplace.listen(serve) as port:
            with pytest.raises(zcws.HandshakeError, match=reason) as caught:
                await anyplace.connect(port)
            assert isinstance(caught.value.__cause__, (EOFError, OSError))  # worth another attempt
            assert zcws.process_exception(caught.value) is None

    anyplace.run(main())


def test_the_end_where_http2_was_chosen(tls: Place) -> None:
    """By a context that offers it. Some servers leave without a word then; another attempt does no better."""
    certificates = Certificates()
    place = Place(tls.loop, certificates)
    for context in (certificates.server, certificates.client):
        context.set_alpn_protocols(ALPN)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async def main() -> None:
        async with place.listen(serve) as port:
            with pytest.raises(zcws.HandshakeError, match="HTTP/2, which http2=True is for") as caught:
                await place.connect(port)
            assert zcws.process_exception(caught.value) is caught.value

    place.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        lambda head: b"SSH-2.0-x\r\n\r\n",
        lambda head: b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        lambda head: response(head).replace(b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Accept: x"),
        lambda head: response(head, b"Sec-WebSocket-Protocol: nobody-asked\r\n"),
    ],
)
def test_no_agreement(anyplace: Place, answer: Callable[[bytes], bytes]) -> None:
    async def main() -> None:
        async with anyplace.listen(answering(answer)) as port:
            with pytest.raises(zcws.HandshakeError) as caught:
                await anyplace.connect(port)
            assert zcws.process_exception(caught.value) is caught.value

    anyplace.run(main())


def test_one_that_is_cancelled_leaves_nothing_in_the_log(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The handshake's future had an exception that nobody came for, when the cancellation found it half made."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        connector = zcws.WebSocketConnector("ws://localhost/", entropy=os.urandom)
        handshake = ClientHandshake(loop, connector, lambda *_: None)  # type: ignore[arg-type, return-value]
        handshake.connection_lost(None)
        assert isinstance(handshake.done.exception(), zcws.HandshakeError)
        other = ClientHandshake(loop, connector, lambda *_: None)  # type: ignore[arg-type, return-value]
        other.connection_lost(None)
        del other
        gc.collect()

    place.run(main())
    assert caplog.records == []
