"""The kernel collects the packets of a large frame, on every kind of socket, and nobody waits for more than comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import proxies
import pytest
import wire
from net import Certificates, Place, RawPeer, soon, until

import zcws
from zcws.aio import engine, mark
from zcws.aio.mark import mark_below

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every packet wakes us")

ALSO_OVER_LOOPTLS = True

#: Bytes that are collected at most, those at the end that never are, and those that TLS may not have handed over.
MOST, LAST, RECORD = 16 * 1024, 2 * 1460, 16 * 1024

#: Frames that C keeps, that their connection keeps in its ring, and of which the rest lands in a buffer.
large = pytest.mark.parametrize("size", [60_000, 150_000, 1_000_000])


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks that are not reached stay."""
    for module in (engine, mark):
        monkeypatch.setattr(module, "_PATIENCE", 3600)


def payload_of(size: int) -> bytes:
    return bytes(range(250)) * (size // 250)


class Talk:
    """A server's connection, and a peer that sends it a large frame in parts."""

    def __init__(self, ws: zcws.WebSocket, peer: RawPeer, size: int, sure: int) -> None:
        self.ws = ws
        self.peer = peer
        self.sure = sure
        self.frame = peer.frame(wire.BINARY, payload_of(size))
        self.stop = 0
        transport = ws._own or ws._transport
        self.sock: Any = transport.get_extra_info("socket")  # type: ignore[union-attr]

    @property
    def mark(self) -> int:
        """How many bytes have to have come before anybody is woken."""
        own = socket.socket(fileno=os.dup(self.sock.fileno()))
        with own:
            return own.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    @property
    def lacking(self) -> int:
        """Bytes of the frame that have not been sent."""
        return len(self.frame) - self.stop

    async def send(self, count: int) -> None:
        """So many of its bytes go out, and arrive in time if somebody is woken."""
        await self.peer.send_bytes(self.frame[self.stop : self.stop + count])
        self.stop = min(self.stop + count, len(self.frame))
        await asyncio.sleep(0.002)

    async def begin(self) -> None:
        """Sends parts until there is a mark."""
        while self.mark == 1:
            self.ws._reader.state.mark.resting = 0  # on a busy machine one may have gone already
            before = self.ws.stats.bytes_received
            assert self.lacking > 1000
            await self.send(1000)
            await until(lambda before=before: self.ws.stats.bytes_received > before)  # type: ignore[misc]


@contextlib.asynccontextmanager
async def talk(place: Place, size: int, **settings: Any) -> AsyncIterator[Talk]:
    opened: asyncio.Future[zcws.WebSocket] = asyncio.get_running_loop().create_future()

    async def handler(ws: zcws.WebSocket) -> None:
        opened.set_result(ws)
        await ws.wait_closed()

    async with place.serve(handler, **{"ping_interval": None, **settings}) as server:
        async with place.raw_client(server) as peer:
            ws = await soon(opened)
            ws._reader.state.mark.most = MOST  # as if it had brought large frames before
            yield Talk(ws, peer, size, LAST + (RECORD if place.is_tls else 0))
            ws.abort()


@large
@pytest.mark.usefixtures("patient")
def test_packets_wake_nobody_and_the_message_comes(anyplace: Place, size: int) -> None:
    async def main() -> None:
        async with talk(anyplace, size) as it:
            reading = asyncio.ensure_future(it.ws.recv())
            await it.begin()
            before, mark = it.ws.stats.bytes_received, it.mark
            assert mark == min(len(it.frame) - before - it.sure, MOST)
            await it.send(mark - 200)
            for _ in range(10):
                await asyncio.sleep(0.002)
            assert it.ws.stats.bytes_received == before
            await it.send(200)
            await until(lambda: it.ws.stats.bytes_received > before)
            while it.lacking:
                assert it.mark <= max(len(it.frame) - it.ws.stats.bytes_received - it.sure, 1)
                await it.send(5000)
            assert await soon(reading) == payload_of(size)
            assert it.mark == 1
            await it.peer.send(wire.TEXT, b"x")
            assert await soon(it.ws.recv()) == "x"

    anyplace.run(main())


@large
@pytest.mark.usefixtures("patient")
def test_what_follows_is_not_waited_for(anyplace: Place, size: int) -> None:
    """A Close behind the large frame, a Ping behind the next one, in the same packets or not."""

    async def main() -> None:
        async with talk(anyplace, size) as it:
            for _ in range(3):
                reading = asyncio.ensure_future(it.ws.recv())
                await it.begin()
                behind = it.peer.frame(wire.PING, b"?") + it.peer.frame(wire.TEXT, b"next")
                await it.peer.send_bytes(it.frame[it.stop :] + behind)
                assert await soon(reading) == payload_of(size)
                assert (await it.peer.read()).payload == b"?"
                assert await soon(it.ws.recv()) == "next"
                it.frame, it.stop = it.peer.frame(wire.BINARY, payload_of(size)), 0
            reading = asyncio.ensure_future(it.ws.recv())
            await it.begin()
            await it.peer.send_bytes(it.frame[it.stop :])
            assert await soon(reading) == payload_of(size)
            await it.peer.send(wire.CLOSE, wire.close_payload(1000))
            with pytest.raises(zcws.ConnectionClosedOK):
                await soon(it.ws.recv())

    anyplace.run(main())


@large
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_peer_that_goes_in_the_middle(anyplace: Place, size: int, how: str) -> None:
    async def main() -> None:
        async with talk(anyplace, size) as it:
            reading = asyncio.ensure_future(it.ws.recv())
            await it.begin()
            await it.send(100)
            if how == "resets":
                it.peer.reset()
            else:
                it.peer.writer.close()
            with pytest.raises(zcws.ConnectionClosedError):
                await soon(reading)

    anyplace.run(main())


@large
@pytest.mark.usefixtures("patient")
def test_our_close_in_the_middle(anyplace: Place, size: int) -> None:
    async def main() -> None:
        async with talk(anyplace, size) as it:
            reading = asyncio.ensure_future(it.ws.recv())
            await it.begin()
            closing = asyncio.ensure_future(it.ws.close(1001))
            while it.lacking:
                await it.send(3000)
            assert (await it.peer.read()).opcode == wire.CLOSE
            await it.peer.send(wire.CLOSE, wire.close_payload(1001))
            it.peer.writer.close()
            await soon(closing)
            assert it.ws.close_code == 1001
            with pytest.raises(zcws.ConnectionClosed):
                await soon(reading)

    anyplace.run(main())


@pytest.mark.parametrize("size", [60_000, 150_000])
@pytest.mark.usefixtures("patient")
def test_a_stream_is_given_every_part(anyplace: Place, size: int) -> None:
    async def main() -> None:
        async with talk(anyplace, size) as it:
            await it.begin()
            await it.peer.send_bytes(it.frame[it.stop : it.stop + 100])
            it.stop += 100
            got = b""
            async with it.ws.stream(decode=False) as pieces:
                while len(got) < it.stop - (len(it.frame) - size):
                    got += await soon(anext(pieces))
                assert it.mark == 1
                while it.lacking > 3000:
                    await it.send(3000)
                    got += await soon(anext(pieces))
                    assert it.mark == 1
                await it.peer.send_bytes(it.frame[it.stop :])
                got += b"".join([piece async for piece in pieces])
            assert got == payload_of(size)

    anyplace.run(main())


@large
def test_what_lies_below_it_is_received_soon(anyplace: Place, size: int) -> None:
    """There may be nothing more for a while, and a wrong byte of text. Then there is no mark for some time."""

    async def main() -> None:
        async with talk(anyplace, size) as it:
            reading = asyncio.ensure_future(it.ws.recv())
            await it.begin()
            before = it.ws.stats.bytes_received
            await it.peer.send_bytes(it.frame[it.stop : it.stop + 10])
            it.stop += 10
            await until(lambda: it.ws.stats.bytes_received == before + 10)
            assert it.mark == 1
            for _ in range(10):
                await it.send(1000)
                assert it.mark == 1
            await it.send(it.lacking)
            assert await soon(reading) == payload_of(size)

    anyplace.run(main())


def test_keepalive_in_the_middle_of_a_frame(anyplace: Place) -> None:
    """A peer that sends slowly is alive, and one that has stopped in the middle of a frame is not."""

    async def main() -> None:
        async with talk(anyplace, 150_000, ping_interval=0.05, ping_timeout=0.5) as it:
            reading = asyncio.ensure_future(it.ws.recv())
            await it.begin()
            for _ in range(10):
                await it.send(100)
                await asyncio.sleep(0.05)
                assert not reading.done()
            with pytest.raises(zcws.ConnectionClosedError):
                await soon(reading)
            assert it.ws.close_code == 1011

    anyplace.run(main())


@pytest.mark.usefixtures("patient")
def test_each_tls_may_have_received_a_record(certificates: Certificates) -> None:
    """Through an HTTPS proxy most large messages waited for a second: the end of a record inside may lie in the middle
    of one outside."""
    frame = wire.frame(wire.BINARY, payload_of(45_000))
    place = Place("asyncio", certificates)

    async def handler(ws: zcws.WebSocket) -> None:
        for part in (frame[:1000], frame[1000:]):
            await ws.recv()
            ws._transport.write(part)  # type: ignore[union-attr]
        await ws.wait_closed()

    async def main() -> None:
        async with place.serve(handler) as server:
            through = {"proxy": proxy.url("https"), "proxy_ssl": certificates.client}
            async with place.connect(server, **through) as ws:
                ws._reader.state.mark.most = MOST
                reading = asyncio.ensure_future(ws.recv())
                await ws.send("the beginning")
                sock: Any = ws.get_extra_info("socket")
                await until(lambda: ws.stats.bytes_received == 1000)
                collected = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
                assert collected == len(frame) - 1000 - 2 * RECORD - LAST
                await ws.send("the rest")
                assert await soon(reading) == payload_of(45_000)

    with proxies.running(tls=certificates.server) as proxy:
        place.run(main())


def test_what_has_no_socket_of_its_own() -> None:
    """A stream of HTTP/2 shares one with others."""

    class Without(asyncio.Transport):
        pass

    loop: Any = None  # nobody looks at it, nor at the state
    assert mark_below(loop, Without(), loop) is None


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["aborted", "lost"])
def test_a_connection_that_is_gone_is_forgotten(how: str) -> None:
    """C knows where its state is, and that memory may be another's next."""

    async def main() -> None:
        async with talk(Place("asyncio", None), 60_000) as it:
            await it.begin()
            marked = engine.engine_of(asyncio.get_running_loop())._sockets
            assert marked.marks == 1
            if how == "aborted":
                it.ws.abort()
            else:
                it.ws._pause_reading()
                it.peer.reset()
            await until(lambda: marked.marks == 0)

    asyncio.run(main())
