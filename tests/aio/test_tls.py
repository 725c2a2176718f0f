"""TLS of our own: what the event loops' have no word for. All the rest is in the tests with `tls` and `anyplace`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import wire
from net import LONG, Certificates, Place, echo, narrow, port_of, request, soon, until

import zcws
from zcws.aio.tls import Tls

MESSAGE = b"m" * 1000

#: Bytes: much more than sockets take.
LARGE = 8 * 1024 * 1024


@pytest.fixture(params=["engine", "transport"])
def tls(request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Stock asyncio, where ours serves: over a socket of the engine, and over a transport of the loop."""
    if request.param == "transport":
        monkeypatch.setenv("ZCWS_ENGINE", "0")
    return Place("asyncio", certificates)


class Peer:
    """The other end, which decides what stands in which segment of TCP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, **options: object) -> None:
        self.reader = reader
        self.writer = writer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = options.pop("context")
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **options)  # type: ignore[attr-defined]

    async def follow(self, step: Callable[[], object]) -> object:
        """`step` until OpenSSL has what it needs for it."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.writer.write(self.outgoing.read())
                self.incoming.write(await soon(self.reader.read(65536)))
            finally:
                self.writer.write(self.outgoing.read())

    def sealed(self, data: bytes) -> bytes:
        """The records of `data`."""
        self.tls.write(data)
        return self.outgoing.read()

    def goodbye(self) -> bytes:
        """Our close_notify."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self.outgoing.read()

    async def rest(self) -> bytes:
        """What is still said, up to the end of the TCP stream. Raises: ssl.SSLError, where that comes first."""
        self.incoming.write(await soon(self.reader.read()))
        said = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while data := self.tls.read(65536):
                said += data
        return said


@contextlib.asynccontextmanager
async def client(server: zcws.Server, context: ssl.SSLContext) -> AsyncIterator[Peer]:
    """A peer that has opened a WebSocket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    peer = Peer(reader, writer, context=context, server_hostname="localhost")
    await peer.follow(peer.tls.do_handshake)
    writer.write(peer.sealed(request()))
    answer = await peer.follow(lambda: peer.tls.read(4096))
    assert isinstance(answer, bytes) and answer.startswith(b"HTTP/1.1 101 ") and answer.endswith(b"\r\n\r\n")
    try:
        yield peer
    finally:
        writer.close()


def openssl(function: str, tls: ssl.SSLObject, *arguments: int) -> None:
    """Calls what `ssl` has no word for."""
    import _ssl

    try:
        called = getattr(ctypes.CDLL(_ssl.__file__), function)
    except (AttributeError, OSError):
        pytest.skip("this interpreter does not show its OpenSSL")
    # In CPython the pointer stands behind the head of the object and a reference.
    offset = object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
    assert called(ctypes.c_void_p.from_address(id(tls._sslobj) + offset), *arguments) == 1  # type: ignore[attr-defined]


async def hold(ws: zcws.WebSocket) -> None:
    """Reads nothing."""
    await ws.wait_closed()


def masked(opcode: int, payload: bytes = b"") -> bytes:
    return wire.frame(opcode, payload, key=wire.KEY)


def test_it_is_ours(tls: Place) -> None:
    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            assert isinstance(ws._transport, Tls)
            await echo(ws)

        async with tls.serve(handler) as server, tls.connect(server) as ws:
            assert isinstance(ws._transport, Tls)
            assert ws.get_extra_info("peercert") and ws.get_extra_info("cipher")
            await ws.send("hello")
            assert await ws.recv() == "hello"
        assert ws.close_code == 1000

    tls.run(main())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("has_fin", [False, True])
def test_all_in_one_segment(
    tls: Place, certificates: Certificates, version: ssl.TLSVersion, has_fin: bool
) -> None:
    """A message, a Close, a close_notify and a FIN: what is owed was dropped, if it took a moment. RFC 8446 6.1."""

    async def main() -> None:
        async def think(ws: zcws.WebSocket) -> None:
            async for message in ws:
                await asyncio.sleep(0.01)
                await ws.send(message)

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        async with tls.serve(think) as server, client(server, context) as peer:
            frames = masked(1, b"last words") + masked(9, b"?") + masked(8, b"\x03\xe8")
            peer.writer.write(peer.sealed(frames) + peer.goodbye())
            if has_fin:
                peer.writer.write_eof()
            seen = [frame.opcode for frame in wire.parse(await peer.rest())]
            assert seen in ([1, 10, 8], [10, 1, 8])

    tls.run(main())


def test_records_cut_anywhere(tls: Place, certificates: Certificates) -> None:
    async def main() -> None:
        async with tls.serve(echo) as server, client(server, certificates.client) as peer:
            data = b"".join(peer.sealed(masked(2, MESSAGE[:size])) for size in (0, 1, 100, 400))
            data += peer.sealed(masked(8, b"\x03\xe8"))
            for at in range(len(data)):
                peer.writer.write(data[at : at + 1])
                await asyncio.sleep(0)
            seen = wire.parse(await peer.rest())
            assert [(frame.opcode, len(frame.payload)) for frame in seen] == [
                (2, 0),
                (2, 1),
                (2, 100),
                (2, 400),
                (8, 2),
            ]

    tls.run(main())


def test_what_is_no_record(tls: Place, certificates: Certificates) -> None:
    async def main() -> None:
        ended = asyncio.get_running_loop().create_future()

        async def handler(ws: zcws.WebSocket) -> None:
            try:
                await ws.recv()
            except zcws.ConnectionClosed as error:
                ended.set_result(error)

        async with tls.serve(handler) as server, client(server, certificates.client) as peer:
            peer.writer.write(b"\x17\x03\x03\x00\x20" + bytes(32))
            error = await soon(ended)
            assert error.code == 1006 and isinstance(error.__cause__, ssl.SSLError)
            with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
                await peer.rest()

    tls.run(main())


@pytest.mark.parametrize("is_open", [False, True])
def test_who_breaks_tls_breaks_his_own(tls: Place, certificates: Certificates, is_open: bool) -> None:
    """PyPy keeps the error, and raised it at the next read of any connection that found a part of a record."""

    async def main() -> None:
        async with tls.serve(echo) as server, client(server, certificates.client) as peer:
            if is_open:
                async with client(server, certificates.client) as other:
                    other.writer.write(b"what is no record")
                    await soon(other.reader.read())
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                await soon(reader.read())
                writer.close()
            # Longer than what one read brings, so that a read ends in the middle of a record.
            peer.writer.write(peer.sealed(masked(1, b"m" * 100_000) + masked(8, b"\x03\xe8")))
            assert [(frame.opcode, len(frame.payload)) for frame in wire.parse(await peer.rest())] == [
                (1, 100_000),
                (8, 2),
            ]

    tls.run(main())


def test_a_slow_peer_is_seen_at_once(tls: Place, certificates: Certificates) -> None:
    """The loops' TLS says that it is full when another message has come: 16 MiB waited for messages of 8 MiB."""

    async def main() -> None:
        async with tls.serve(hold, close_timeout=0.1) as server, client(server, certificates.client) as peer:
            (ws,) = server.connections
            narrow(ws)
            narrow(peer.writer)
            await ws.send(bytes(LARGE))
            assert not ws.is_writable
            waiting = asyncio.ensure_future(ws.send(b"x"))
            await asyncio.sleep(0)
            assert not waiting.done()
            while not waiting.done():
                await soon(peer.reader.read(65536))
            assert ws.is_writable
            peer.writer.close()

    tls.run(main())


def test_write_timeout(tls: Place, certificates: Certificates) -> None:
    """The loops' TLS hides what waits below it: one message that a peer does not take never timed out."""

    async def main() -> None:
        ended = asyncio.get_running_loop().create_future()

        async def handler(ws: zcws.WebSocket) -> None:
            narrow(ws)
            await ws.send(bytes(LARGE))
            await ws.wait_closed()
            ended.set_result(ws.close_code)

        async with tls.serve(handler, write_timeout=0.05) as server, client(server, certificates.client):
            assert await soon(ended) == 1011

    tls.run(main())


def test_large_both_ways_at_once(tls: Place) -> None:
    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            sending = asyncio.ensure_future(ws.send(bytes(LARGE)))
            assert len(await ws.recv()) == LARGE
            await sending

        async with tls.serve(handler, max_size=LARGE) as server, tls.connect(server, max_size=LARGE) as ws:
            sending = asyncio.ensure_future(ws.send(bytes(LARGE)))
            assert len(await soon(ws.recv())) == LARGE
            await sending
            await ws.wait_closed()
        assert ws.close_code == 1000

    tls.run(main())


def test_the_servers_close_notify_is_only_its_own_end(tls: Place, certificates: Certificates) -> None:
    """RFC 6455 7.1.1: it closes first; RFC 8446 6.1: the other side may go on."""

    async def main() -> None:
        async with tls.serve(echo, close_timeout=LONG) as server:
            async with client(server, certificates.client) as peer:
                peer.writer.write(peer.sealed(masked(8, b"\x03\xe8")))
                assert [frame.opcode for frame in wire.parse(await peer.rest())] == [8]
                (ws,) = server.connections
                peer.writer.write(peer.sealed(b"what nobody wants to know"))
                peer.writer.write(peer.goodbye())
                peer.writer.write_eof()
                await soon(ws.wait_closed())
                assert ws.close_code == 1000

    tls.run(main())


@pytest.mark.parametrize("is_paused", [False, True])
def test_last_words_of_a_peer_that_takes_nothing_more(
    tls: Place, certificates: Certificates, is_paused: bool
) -> None:
    """As on plain sockets: they are read though sending fails. Over a transport of the loop that was the end."""

    async def main() -> None:
        async with tls.serve(hold) as server, client(server, certificates.client) as peer:
            (ws,) = server.connections
            if is_paused:
                ws._pause_reading()
            peer.writer.write(peer.sealed(masked(1, b"last words") + masked(8, b"\x0b\xb8")))
            with socket.socket(fileno=os.dup(peer.writer.get_extra_info("socket").fileno())) as own:
                own.shutdown(socket.SHUT_RDWR)  # what comes from now on is answered with a RST
            with pytest.raises(zcws.ConnectionClosed):
                while True:
                    ws.send_nowait(bytes(100_000))
            assert await soon(ws.recv()) == "last words"
            await soon(ws.wait_closed())
            assert ws.close_code == 3000

    tls.run(main())


def test_a_server_that_closes_in_the_middle_of_a_tls_handshake(tls: Place) -> None:
    async def main() -> None:
        async with tls.serve(echo) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(b"\x16\x03\x01")
            await asyncio.sleep(0.05)
            server.close()
            with contextlib.suppress(ConnectionError):
                assert await soon(reader.read()) == b""
            writer.close()

    tls.run(main())


@contextlib.asynccontextmanager
async def under(
    tls: Place, protocol: Callable[[], asyncio.BaseProtocol]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A server with ours and such a protocol above it, and a client of asyncio's that has connected to it."""
    loop, certificates = asyncio.get_running_loop(), tls.certificates
    assert certificates is not None
    make = lambda: Tls(loop, protocol(), certificates.server, server_side=True)  # noqa: E731
    async with await loop.create_server(make, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield await asyncio.open_connection("127.0.0.1", port, ssl=certificates.client)


def test_a_protocol_that_has_no_room_is_not_told_of_an_end(tls: Place) -> None:
    """OpenSSL answers a read into nothing as it answers one at the end."""
    told: list[object] = []

    class Narrow(asyncio.BufferedProtocol):
        room = bytearray()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: asyncio.Transport = transport  # type: ignore[assignment]
            narrow.set_result(self)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.room

        def buffer_updated(self, nbytes: int) -> None:
            told.append(bytes(self.room[:nbytes]))

        def eof_received(self) -> bool:
            told.append("end")
            return False

    narrow: asyncio.Future[Narrow]

    async def main() -> None:
        nonlocal narrow
        narrow = asyncio.get_running_loop().create_future()
        async with under(tls, Narrow) as (_, writer):
            writer.write(MESSAGE)
            protocol = await soon(narrow)
            await asyncio.sleep(0.05)  # it has arrived, and there is no room for it
            assert told == []
            protocol.room = bytearray(len(MESSAGE))
            protocol.transport.pause_reading()
            protocol.transport.resume_reading()
            writer.close()
            await until(lambda: told == [MESSAGE, "end"])

    tls.run(main())


def test_nothing_is_written_behind_our_close_notify(tls: Place) -> None:
    class Says(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set_result(transport)  # type: ignore[arg-type]

    made: asyncio.Future[asyncio.Transport]

    async def main() -> None:
        nonlocal made
        made = asyncio.get_running_loop().create_future()
        async with under(tls, Says) as (reader, writer):
            transport = await soon(made)
            transport.write(b"last")
            transport.write_eof()
            transport.write(b"too late")
            transport.writelines([b"too", b"late"])
            assert not transport.is_closing()
            assert await soon(reader.read()) == b"last"
            writer.close()
            await until(transport.is_closing)

    tls.run(main())


def test_what_has_gone_wrong_first_is_told(certificates: Certificates) -> None:
    """asyncio's proactor tells of the end behind it, though the transport is aborted: 'the connection ended in the TLS
    handshake' was said of a server that speaks no TLS."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tls = Tls(loop, asyncio.BufferedProtocol(), certificates.client, server_hostname="localhost")
        tls.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        tls.eof_received()
        tls.connection_lost(None)
        with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number"):
            await tls.opened

    asyncio.run(main())


def test_openssl_never_holds_much(tls: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffers keep the largest size they have had: 730 KiB for each connection that had seen a message of 1 MB."""
    held: list[int] = []
    updated, send = Tls.buffer_updated, Tls._send

    def noting_updated(self: Tls, nbytes: int) -> None:
        held.append(nbytes + self._incoming.pending)
        updated(self, nbytes)

    def noting_send(self: Tls) -> None:
        held.append(self._outgoing.pending)
        send(self)

    monkeypatch.setattr(Tls, "buffer_updated", noting_updated)
    monkeypatch.setattr(Tls, "_send", noting_send)

    async def main() -> None:
        async with tls.serve(echo) as server, tls.connect(server) as ws:
            await ws.send(bytes(1_000_000))
            assert len(await soon(ws.recv())) == 1_000_000

    tls.run(main())
    assert max(held) < 100_000


def test_a_flood_of_new_keys_whose_answers_nobody_takes(tls: Place, certificates: Certificates) -> None:
    """RFC 8446 4.6.3: each is answered with another, 27 bytes for 27. They waited past all limits."""

    async def main() -> None:
        async with tls.serve(hold) as server, client(server, certificates.client) as peer:
            (ws,) = server.connections
            transport = ws._transport
            assert isinstance(transport, Tls)
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            narrow(ws)
            narrow(peer.writer)
            await ws.send(bytes(LARGE))
            held = transport.get_write_buffer_size()
            for _ in range(10):
                for _ in range(500):
                    openssl("SSL_key_update", peer.tls, 1)
                    peer.tls.do_handshake()
                peer.writer.write(peer.outgoing.read())
                await asyncio.sleep(0.001)
                assert transport.get_write_buffer_size() < held + 80_000
            await soon(ws.wait_closed())
            assert "does not take" in str(ws.connection.bridge.cause)

    tls.run(main())


def test_new_keys_whose_answers_are_taken(tls: Place, certificates: Certificates) -> None:
    async def main() -> None:
        async with tls.serve(echo) as server, client(server, certificates.client) as peer:
            for _ in range(3000):
                openssl("SSL_key_update", peer.tls, 1)
                peer.tls.do_handshake()
            peer.writer.write(peer.sealed(masked(1, b"still here?") + masked(8, b"\x03\xe8")))
            assert [frame.opcode for frame in wire.parse(await peer.rest())] == [1, 8]

    tls.run(main())


def test_nothing_goes_on_behind_what_there_was_no_memory_for(
    tls: Place, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where reading went on after a pause nobody below ended the connection: it stood still, or what was received next
    was taken for what had been lost."""
    updated = zcws.WebSocket.buffer_updated
    told: list[Any] = []

    def fails(self: zcws.WebSocket, nbytes: int) -> None:
        monkeypatch.setattr(zcws.WebSocket, "buffer_updated", updated)
        raise MemoryError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with tls.serve(hold) as server, client(server, certificates.client) as peer:
            (ws,) = server.connections
            transport: Any = ws._transport
            transport.pause_reading()
            transport._incoming.write(peer.sealed(masked(1, b"lost")))  # it has come before
            monkeypatch.setattr(zcws.WebSocket, "buffer_updated", fails)
            transport.resume_reading()
            await soon(ws.wait_closed())
            assert ws.close_code == 1006
            assert [type(error) for error in told] == [MemoryError]

    tls.run(main())


def test_who_sends_waits_while_tls_is_negotiated_again(tls: Place) -> None:
    """TLS 1.2: a peer that began it and did not go on was sent to without end, and nothing timed out."""

    async def main() -> None:
        tls.certificates = certificates = Certificates()
        certificates.server.options |= 1 << 8  # OpenSSL 3: SSL_OP_ALLOW_CLIENT_RENEGOTIATION
        certificates.client.maximum_version = ssl.TLSVersion.TLSv1_2
        async with tls.serve(hold) as server, client(server, certificates.client) as peer:
            (ws,) = server.connections
            openssl("SSL_renegotiate", peer.tls)
            with pytest.raises(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            peer.writer.write(peer.outgoing.read())
            flight = await soon(peer.reader.read(65536))
            await ws.send(MESSAGE)
            await until(lambda: not ws.is_writable)
            waiting = asyncio.ensure_future(ws.send(MESSAGE))
            await asyncio.sleep(0)
            assert not waiting.done()
            peer.incoming.write(flight)
            await peer.follow(peer.tls.do_handshake)
            await soon(waiting)
            assert ws.is_writable
            peer.writer.write(peer.sealed(masked(8, b"\x03\xe8")))
            assert [frame.payload for frame in wire.parse(await peer.rest())][:2] == [MESSAGE, MESSAGE]

    tls.run(main())


def test_http_where_tls_is_spoken(tls: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Its client was told that the server had closed the connection, and nobody else of anything."""

    async def main() -> None:
        with caplog.at_level("INFO", "zcws.server"):
            async with tls.serve(echo) as server:
                with pytest.raises(zcws.HandshakeError, match="wss:// is meant") as refused:
                    await zcws.connect(f"ws://127.0.0.1:{port_of(server)}")
                assert refused.value.status == 400
                await until(lambda: caplog.records)

    tls.run(main())
    assert "no TLS handshake, from ('127.0.0.1', " in caplog.text and "HTTP_REQUEST" in caplog.text


def test_a_certificate_that_the_server_wants(
    tls: Place, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS 1.3 tells of it when the client's part of the handshake is over. RFC 8446 6.2."""
    monkeypatch.setattr(certificates.server, "verify_mode", ssl.CERT_REQUIRED)

    async def main() -> None:
        async with tls.serve(echo) as server:
            with pytest.raises(zcws.HandshakeError, match=r"handshake: .*certificate required"):
                await tls.connect(server)

    tls.run(main())


def test_why_a_client_failed_is_in_the_log(tls: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with caplog.at_level("INFO", "zcws.server"):
            async with tls.serve(echo) as server:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await tls.connect(server, ssl=ssl.create_default_context())
                await until(lambda: caplog.records)
                _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
                writer.close()  # somebody who only looks whether the port is open
            assert len(caplog.records) == 1

    tls.run(main())
    assert "unknown ca" in caplog.text
