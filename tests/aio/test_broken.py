"""A socket that takes nothing any more: nobody can be answered, but what the peer has said before is still read.

That happens wherever a peer says its last words, a Close among them, and leaves without waiting for anybody: a browser
whose page is closed. The next thing that is sent fails, and the words lie in the socket. Here, in the engine; over the
loop's own transports, TLS and HTTP/2: test_stream.py, test_tls.py, test_http2.py.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
import wire
from net import placed, run, soon, until
from raw import Peer

import zcws
from zcws.aio.engine import together
from zcws.aio.websocket import WebSocket
from zcws.ring import RING_CAPACITY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no engine here")

LAST_WORDS = wire.frame(wire.TEXT, b"last words", key=wire.KEY)
GOING_AWAY = wire.frame(wire.CLOSE, wire.close_payload(1001), key=wire.KEY)


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        return ours, listening.accept()[0]


def opened(
    pair: Callable[[], tuple[socket.socket, socket.socket]] = unix_pair, on_frame: Any = None, **options: Any
) -> tuple[WebSocket, Peer]:
    """A server's connection in the engine, and the client."""
    ours, theirs = pair()
    return placed(ours, on_frame=on_frame, **options), Peer(theirs, masks=True)


async def fill(ws: WebSocket, peer: Peer) -> int:
    """Sends messages of 1,000 bytes until neither ring nor socket takes another. Returns how many were whole."""
    peer.sock.setblocking(False)
    message = peer.frame(wire.BINARY, bytes(1000))
    sent = refused = 0
    while refused < 3:
        try:
            sent += peer.sock.send(message[sent % len(message) :])
            refused = 0
        except BlockingIOError:
            refused += 1
            await asyncio.sleep(0.01)
    assert ws._reader.is_full
    return sent // len(message)


def write(ws: WebSocket, size: int) -> None:
    with pytest.raises(zcws.ConnectionClosed):
        for _ in range(3):  # the first over TCP only learns that the peer is gone
            ws.send_nowait(bytes(size))
            ws._flush()


def write_together(ws: WebSocket, size: int) -> None:
    with pytest.raises(zcws.ConnectionClosed):
        for _ in range(3):
            with together(asyncio.get_running_loop()):
                ws.send_nowait(bytes(size))
                ws._own.send_output()  # type: ignore[union-attr]


@pytest.mark.parametrize("pair", [unix_pair, tcp_pair])
@pytest.mark.parametrize("go", [Peer.close, Peer.reset])
@pytest.mark.parametrize("how", [write, write_together])
@pytest.mark.parametrize("size", [10, 100_000])
def test_its_last_words_are_heard(pair: Any, go: Any, how: Any, size: int) -> None:
    async def main() -> None:
        ws, peer = opened(pair)
        peer.send_bytes(LAST_WORDS + GOING_AWAY)
        go(peer)
        how(ws, size)
        assert await ws.recv() == "last words"
        with pytest.raises(zcws.ConnectionClosedOK):
            await ws.recv()
        assert ws.close_code == 1001
        await ws.wait_closed()
        with pytest.raises(zcws.ConnectionClosed):
            await ws.send("x")

    run(main)


def test_what_is_sent_next_fails() -> None:
    """At once, before the peer's words have been read, and for the reason that the system gives."""

    async def main() -> None:
        ws, peer = opened()
        count = await fill(ws, peer)
        peer.close()
        ws.send_nowait("x")
        ws._flush()
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            await ws.send("x")
        assert isinstance(caught.value.__cause__, BrokenPipeError)
        # More than a ring holds: reading goes on where it was paused.
        assert [len(await ws.recv()) for _ in range(count)] == [1000] * count
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            await ws.recv()
        assert caught.value.code == 1006
        await ws.wait_closed()

    run(main)


@pytest.mark.parametrize("go", [Peer.close, Peer.reset])
def test_a_program_that_is_busy_elsewhere_hears_of_it_too(go: Any) -> None:
    """Reading is paused, and nothing is sent: only the next thing that was sent used to find out."""

    async def main() -> None:
        ws, peer = opened(close_timeout=0.05)
        await fill(ws, peer)
        go(peer)
        await until(lambda: ws.state is zcws.State.LOST)
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            await ws.send("x")
        assert isinstance(caught.value.__cause__, OSError)
        await soon(ws.when_closed())
        assert len(await ws.recv()) == 1000  # what lies in the ring can still be read

    run(main)


def test_bytes_that_were_announced_before_reading_was_paused_are_no_end() -> None:
    """In one turn of the engine, somebody else's frame may have this connection paused."""

    async def main() -> None:
        ws, peer = opened()
        peer.send_bytes(LAST_WORDS)
        ws._pause_reading()
        ws._own.read_ready()  # type: ignore[union-attr]
        assert ws.state is zcws.State.OPEN
        await ws.send("still here")
        assert await ws.recv() == "last words"
        ws.abort()
        peer.close()

    run(main)


@pytest.mark.parametrize("how", [WebSocket.wait_closed, WebSocket.close])
def test_whoever_wants_no_more_of_it_does_not_wait(how: Any) -> None:
    """There is no room for the end of what the peer has said, and nobody makes any."""

    async def main() -> None:
        ws, peer = opened(close_timeout=None)
        await fill(ws, peer)
        peer.close()
        write(ws, 10)
        await how(ws)
        assert ws.close_code == 1006

    run(main)


@pytest.mark.parametrize("how", [WebSocket.wait_closed, WebSocket.close])
def test_nor_where_that_comes_when_nobody_reads_any_more(how: Any) -> None:
    """More than there is room for lay in the socket: the connection was held for `close_timeout`."""

    async def main() -> None:
        ws, peer = opened(close_timeout=None)
        peer.send_bytes(LAST_WORDS)
        await soon(ws.recv())
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        peer.sock.setblocking(False)
        assert peer.sock.send(peer.frame(wire.BINARY, bytes(1000)) * 1000) > RING_CAPACITY
        peer.close()
        write(ws, 10)
        await soon(how(ws))
        assert ws.close_code == 1006

    run(main)


def test_a_program_that_neither_reads_nor_waits_is_given_its_time_and_no_more() -> None:
    async def main() -> None:
        ws, peer = opened(close_timeout=0.05)
        await fill(ws, peer)
        peer.close()
        write(ws, 10)
        await soon(ws.when_closed())

    run(main)


def test_a_callback_hears_what_waited_because_the_peer_took_nothing() -> None:
    async def main() -> None:
        got: list[bytes] = []
        ws, peer = opened(on_frame=lambda ws, frame: got.append(frame.to_bytes()))
        while ws.is_writable:
            ws.send_nowait(bytes(1000))
            ws._flush()
        peer.send_bytes(LAST_WORDS * 3 + GOING_AWAY)
        await asyncio.sleep(0.01)
        assert got == []
        peer.close()
        await soon(ws.when_closed())
        assert got[:3] == [b"last words"] * 3
        assert ws.close_code == 1001

    run(main)


def test_halves() -> None:
    async def main() -> None:
        ws, peer = opened()
        reader, writer, _ = ws.split()
        peer.send_bytes(LAST_WORDS)
        peer.close()
        with pytest.raises(zcws.ConnectionClosedError):
            for _ in range(3):
                await writer.send("x")
                await writer.flush()
        assert await reader.recv() == "last words"
        with pytest.raises(zcws.ConnectionClosedError):
            await reader.recv()
        with pytest.raises(zcws.ConnectionClosedError):
            await writer.send("x")
        await soon(ws.when_closed())

    run(main)


def test_a_read_that_waits_hears_of_it() -> None:
    async def main() -> None:
        ws, peer = opened()
        reading = asyncio.ensure_future(ws.recv())
        await asyncio.sleep(0)
        peer.close()
        write(ws, 10)
        with pytest.raises(zcws.ConnectionClosedError, match="1006"):
            await reading

    run(main)
