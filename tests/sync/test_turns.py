"""Whose turn it is to read: one thread at a time, and the others get what only it can find."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import raw
import wire
from joined import connected

import zcws
import zcws.sync
from zcws.sync.stream import WebSocket

from .conftest import another_reads, anyhow

# ---- one thread reads a message in pieces, another one reads for a Pong ----


def test_pieces_while_another_thread_pings(serving: Any) -> None:
    """Where a stream began or ended, the reader was touched beside a `ping` that received: bytes were scanned twice."""
    count = 2000

    def write(ws: WebSocket) -> None:
        for number in range(count):
            ws.send(b"%d " % number * 100)
            if number % 4 == 0:
                ws.ping()

    def read(ws: WebSocket) -> None:
        for number in range(count):
            with ws.stream() as pieces:
                assert b"".join(pieces) == b"%d " % number * 100

    with serving(raw.echo) as server:
        uri = f"ws://127.0.0.1:{server.sock.getsockname()[1]}/"
        with zcws.sync.connect(uri) as ws, raw.thread(lambda: write(ws)):
            read(ws)


# ---- what has arrived is had at once, whoever has the turn ----


@anyhow
@pytest.mark.parametrize("timeout", [0, 0.01, None])
def test_what_a_ping_has_met_is_had_before_its_pong(secure: dict[str, Any], timeout: float | None) -> None:
    """A `recv` waited until the Pong had come, or said that there was nothing."""
    with connected(close_timeout=None, **secure) as (ws, peer):
        with raw.thread(lambda: ws.ping(b"p", timeout=raw.LONG)):
            assert peer.read().opcode == wire.PING
            raw.until(lambda: ws._in_turn)
            for text in (b"first", b"second"):
                peer.send(wire.TEXT, text)
                raw.until(lambda: ws._reader.rows_waiting)
                with raw.thread(lambda text=text: ws.recv(timeout) == text.decode() or pytest.fail()):  # type: ignore[misc]
                    pass
            peer.send(wire.TEXT, b"third")
            raw.until(lambda: ws._reader.rows_waiting)
            peer.send(wire.PONG, b"p")
        assert ws.recv() == "third"


def test_who_reads_has_not_seen_it_in_time() -> None:
    """Another thread has the turn, and does not come to the Pong, or to the peer's Close."""
    with connected(close_timeout=0.02) as (ws, _), another_reads(ws):
        with pytest.raises(TimeoutError, match="another thread reads"):
            ws.ping(timeout=0.02)
        ws.close()
        assert ws._channel.is_over and not ws._helpers


class TestWithoutAWait:
    """Another thread has the turn for a moment."""

    @pytest.mark.parametrize("where", ["socket", "memory", "rows"])
    @pytest.mark.parametrize("timeout", [-1, 0, 0.001])
    def test_what_has_come(self, where: str, timeout: float) -> None:
        """It was a TimeoutError."""
        got: list[object] = []
        with connected() as (ws, peer), contextlib.ExitStack() as turn:
            peer.send(wire.TEXT, b"here")
            turn.enter_context(another_reads(ws))

            def take() -> None:
                ws._reader.received(ws._channel.record.received)
                ws._channel.record.received = 0

            if where != "socket":
                ws._channel.receive(ws._reader.get_buffer(), 0)
                turn.callback(take) if where == "memory" else take()
            with raw.thread(lambda: got.append(ws.recv(timeout))) as receiving:
                raw.until(lambda: ws._turns_wanted or not receiving.is_alive())
                turn.close()
        assert got == ["here"]

    @pytest.mark.parametrize("timeout", [None, raw.LONG])
    def test_who_has_time_waits(self, monkeypatch: pytest.MonkeyPatch, timeout: float | None) -> None:
        """For as long as he has, also where there is something."""
        monkeypatch.setattr("zcws.sync.turns.GRACE", 0.001)
        got: list[object] = []
        with connected() as (ws, peer), contextlib.ExitStack() as turn:
            peer.send(wire.TEXT, b"here")
            turn.enter_context(another_reads(ws))
            with raw.thread(lambda: got.append(ws.recv(timeout))) as receiving:
                receiving.join(0.05)
                turn.close()
        assert got == ["here"]

    def test_what_is_left_of_the_time(self) -> None:
        with connected(close_timeout=None) as (ws, _), contextlib.ExitStack() as turn:
            turn.enter_context(another_reads(ws))
            with raw.thread(lambda: pytest.raises(TimeoutError, ws.recv, 0.1)) as receiving:
                raw.until(lambda: ws._turns_wanted or not receiving.is_alive())
                turn.close()

    @pytest.mark.parametrize("is_closing", [False, True])
    def test_nothing(self, monkeypatch: pytest.MonkeyPatch, is_closing: bool) -> None:
        """Who closes has the turn to the end."""
        monkeypatch.setattr("zcws.sync.turns.GRACE", 2 * raw.LONG)
        with connected() as (ws, peer):
            if is_closing:
                ws.begin_close()
                peer.send(wire.TEXT, b"too late")
            with another_reads(ws), raw.thread(lambda: pytest.raises(TimeoutError, ws.recv, 0)):
                pass
