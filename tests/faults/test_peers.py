"""Peers that are slow, silent, or gone in the middle of something."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import net
import pytest
import raw
import wire

import zcws
import zcws.sync

from .process import LONG, Served, Witness, elapsed, server

#: Bytes of the pieces that `/flood` sends.
PIECE = 64 * 1024

#: Connections that misbehave at once.
SOME = 5


@contextlib.contextmanager
def tiny(port: int) -> Iterator[raw.Peer]:
    """A client whose socket takes little at once."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(LONG)
        sock.connect(("127.0.0.1", port))
        sock.sendall(net.request())
        assert raw.head_of(sock).startswith(b"HTTP/1.1 101 ")
        yield raw.Peer(sock, masks=True)


def test_slow_readers_get_everything_and_keep_nobody_waiting(served: Served, record: Any) -> None:
    with Witness(served) as witness, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(tiny(served.port)) for _ in range(SOME)]
        for peer in peers:
            peer.send(wire.TEXT, b"/flood 20")
        witness.asks(50)  # while all of them are stuck
        for number in range(20):
            for peer in peers:
                frame = peer.read()
                assert frame.payload[:8] == b"%08d" % number and len(frame.payload) == PIECE
        for peer in peers:
            assert peer.read().opcode == wire.CLOSE
            peer.send(wire.CLOSE, wire.close_payload(1000))
        record(answers=witness.answers, longest=round(witness.longest, 3))


def test_slow_writers_are_answered_when_they_have_finished(served: Served, record: Any) -> None:
    """A byte at a time: the request, and then a frame."""
    with Witness(served) as witness, contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), LONG))
            for _ in range(SOME)
        ]
        request, frame = net.request(), wire.frame(wire.TEXT, b"slowly", key=wire.KEY)
        for data, answered in (
            (request, raw.head_of),
            (frame, lambda sock: raw.Peer(sock, masks=True).read()),
        ):
            for byte in data:
                for sock in socks:
                    sock.sendall(bytes([byte]))
                witness.asks(1)
            answers = [answered(sock) for sock in socks]
        assert [answer.payload for answer in answers] == [b"slowly"] * SOME
        record(answers=witness.answers, longest=round(witness.longest, 3))


def test_slow_requests_end_with_open_timeout(kind: str, record: Any) -> None:
    with server(kind, open_timeout=0.5) as served, Witness(served) as witness:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", served.port), LONG) as sock:
            # It ends with a reset where our last byte came too late.
            with contextlib.suppress(ConnectionError):
                while True:
                    sock.sendall(b"G")
                    witness.asks(2)
            record(seconds=elapsed(started))
        assert served.ask("/figures")["failures"] == []


def test_a_peer_that_is_silent_is_given_up(kind: str, record: Any) -> None:
    """Half-open: it is there for TCP, but answers no Ping."""
    with server(kind, ping_interval=0.2, ping_timeout=0.2) as served:
        started = time.monotonic()
        with raw.client(served.port) as peer:
            frames = peer.rest()
            record(seconds=elapsed(started))
        assert [frame.opcode for frame in frames][-1] == wire.CLOSE
        assert frames[0].opcode == wire.PING
        assert struct.unpack("!H", frames[-1].payload[:2]) == (1011,)


def test_a_peer_that_has_only_closed_its_side_is_answered(served: Served) -> None:
    """Half-closed: it sends no more, and reads on."""
    with raw.client(served.port) as peer:
        peer.send_bytes(b"".join(peer.frame(wire.TEXT, b"%d" % i) for i in range(100)))
        peer.half_close()
        assert [frame.payload for frame in peer.rest() if frame.opcode == wire.TEXT] == [
            b"%d" % i for i in range(100)
        ]


# ---- resets ----


def after_connect(sock: socket.socket) -> None:
    pass


def half_a_request(sock: socket.socket) -> None:
    sock.sendall(net.request()[:40])


def unread_answer(sock: socket.socket) -> None:
    sock.sendall(net.request())


def after_handshake(sock: socket.socket) -> raw.Peer:
    unread_answer(sock)
    raw.head_of(sock)
    return raw.Peer(sock, masks=True)


def middle_of_frame(sock: socket.socket) -> None:
    peer = after_handshake(sock)
    peer.send_bytes(peer.frame(wire.BINARY, bytes(1000))[:500])


def middle_of_large_frame(sock: socket.socket) -> None:
    peer = after_handshake(sock)
    peer.send_bytes(peer.frame(wire.BINARY, bytes(1_000_000))[:500_000])


def middle_of_message(sock: socket.socket) -> None:
    peer = after_handshake(sock)
    peer.send(wire.TEXT, b"a part", fin=False)


def unread_echo(sock: socket.socket) -> None:
    peer = after_handshake(sock)
    peer.send(wire.TEXT, b"/flood 20")
    peer.read()


def after_close(sock: socket.socket) -> None:
    peer = after_handshake(sock)
    peer.send(wire.CLOSE, wire.close_payload(1000))


def after_both_closes(sock: socket.socket) -> None:
    after_close(sock)
    raw.Peer(sock, masks=True).read()


STAGES = (
    after_connect,
    half_a_request,
    unread_answer,
    after_handshake,
    middle_of_frame,
    middle_of_large_frame,
    middle_of_message,
    unread_echo,
    after_close,
    after_both_closes,
)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_peers_that_leave_at_every_stage(served: Served, how: str, record: Any) -> None:
    """Each leaves nothing behind: no descriptor, no connection, no word in the log."""
    with Witness(served) as witness:
        before = served.ask("/figures")
        started = time.monotonic()
        for stage in STAGES * 3:
            peer = raw.Peer(socket.create_connection(("127.0.0.1", served.port), LONG), masks=True)
            stage(peer.sock)
            peer.reset() if how == "reset" else peer.close()
        raw.until(lambda: served.ask("/figures")["fds"] <= before["fds"])
        record(seconds=elapsed(started), answers=witness.answers, longest=round(witness.longest, 3))
        raw.until(lambda: served.ask("/figures")["connections"] == before["connections"])
        assert served.ask("/figures")["failures"] == []


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_peer_that_stops_in_the_middle_of_a_frame_and_goes_on(served: Served, size: int) -> None:
    payload = bytes(range(256)) * (size // 256)
    with Witness(served) as witness, raw.client(served.port) as peer:
        frame = peer.frame(wire.BINARY, payload)
        for start in range(0, len(frame), len(frame) // 3):
            peer.send_bytes(frame[start : start + len(frame) // 3])
            witness.asks(20)
        assert peer.read().payload == payload


# ---- the server is the one that leaves: clients ----


def gone_after_handshake(peer: raw.Peer) -> None:
    peer.reset()


def gone_in_frame(peer: raw.Peer) -> None:
    peer.send_bytes(peer.frame(wire.BINARY, bytes(300_000))[:200_000])
    peer.reset()


def gone_behind_messages(peer: raw.Peer) -> None:
    for number in range(3):
        peer.send(wire.TEXT, b"%d" % number)
    assert peer.read().payload == b"seen"  # all of it has been acknowledged
    peer.reset()


@pytest.mark.parametrize("script", [gone_after_handshake, gone_in_frame, gone_behind_messages])
def test_a_blocking_client_learns_of_it(script: Callable[[raw.Peer], None]) -> None:
    with raw.server(script) as port:
        ws = zcws.sync.connect(f"ws://127.0.0.1:{port}/", proxy=None)
        got: list[Any] = []
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            while True:
                got.append(ws.recv(LONG))
                if len(got) == 3:
                    ws.send("seen")
        assert caught.value.code == 1006
        assert got == (["0", "1", "2"] if script is gone_behind_messages else [])
        ws.close()


@pytest.mark.parametrize("engine", ["1", "0"])
@pytest.mark.parametrize("script", [gone_after_handshake, gone_in_frame, gone_behind_messages])
def test_a_client_on_asyncio_learns_of_it(
    script: Callable[[raw.Peer], None], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZCWS_ENGINE", engine)

    async def main(port: int) -> None:
        got: list[Any] = []
        ws = await zcws.connect(f"ws://127.0.0.1:{port}/", proxy=None)
        with pytest.raises(zcws.ConnectionClosedError) as caught:
            while True:
                got.append(await net.soon(ws.recv()))
                if len(got) == 3:
                    await ws.send("seen")
        assert caught.value.code == 1006
        assert got == (["0", "1", "2"] if script is gone_behind_messages else [])
        await ws.close()

    with raw.server(script) as port:
        net.Place("asyncio", None).run(main(port))
