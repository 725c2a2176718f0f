"""A reader thread and a writer thread on one connection, at both ends: nothing is lost, nothing overtakes, no lock.

`ZCWS_THREAD_MESSAGES=1000000` sends that many each way. On a free-threaded interpreter all four threads run at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import joined
import pytest
import raw
from net import Certificates

import zcws
from zcws.connection import Connection
from zcws.options import Timeouts
from zcws.sync.plain import open_channel
from zcws.sync.stream import WebSocket

#: Messages each way: enough for every thread to be interrupted in every place, in a second or two.
COUNT = int(os.environ.get("ZCWS_THREAD_MESSAGES", "20000"))

#: Every so many messages there is a Ping; and a message of a size that no ring or arena holds, up to so many in all.
PING_EVERY, BIG_EVERY, MOST_BIG = 100, 2000, 50

#: Seconds for all of it.
PATIENCE = 60 + COUNT / 1000


def message(number: int) -> bytes:
    """The number, and a filling that depends on it and compresses somewhat."""
    size = 300_000 if number % BIG_EVERY == 1 and number < BIG_EVERY * MOST_BIG else number % 400
    return b"%d " % number + (b"%x" % (number * 2654435761)) * (size // 8)


@contextlib.contextmanager
def two_ends(certificates: Certificates | None = None) -> Iterator[tuple[WebSocket, WebSocket]]:
    """A client and a server, joined, with compression."""
    ours: socket.socket
    ours, theirs = socket.socketpair()
    if certificates is not None:
        ours, theirs = joined.encrypted(ours, theirs, certificates, client=True)
    agreement = zcws.Agreement(deflate=zcws.DeflateParameters())
    ends = []
    for sock, is_client in ((ours, True), (theirs, False)):
        connection = Connection(
            is_client=is_client,
            entropy=os.urandom,
            agreement=agreement,
            deflate=zcws.Deflate(threshold=64, level=1),
        )
        ends.append(
            WebSocket(open_channel(sock), connection, Timeouts(ping_interval=None, close_timeout=raw.LONG))
        )
    try:
        yield ends[0], ends[1]
    finally:
        for ws in ends:
            ws.abort()


def write(writer: Any, bridge: Any, count: int, before_closing: Callable[[], object] | None) -> None:
    """A writer's thread: messages, Pings, the replies that the reader owes, and a Close where it is ours to say."""
    for number in range(count):
        writer.send(message(number))
        if number % PING_EVERY == 0:
            writer.ping(b"%d" % number)
        writer.drain_bridge()
    writer.send("that is all")
    if before_closing is not None:
        before_closing()
        writer.close()
    while (reply := bridge.listen()) is not None:
        writer.send_reply(reply)
    writer.close()


def read(reader: Any, count: int, finished: Callable[[], object]) -> list[int]:
    """A reader's thread. Returns the Pongs that came, and has checked all the rest."""
    number, pongs = 0, []
    with contextlib.suppress(zcws.ConnectionClosedOK):
        while True:
            frame = reader.read_frame()
            if frame.opcode is zcws.OpCode.BINARY:
                assert frame.payload == message(number), number
                number += 1
            elif frame.opcode is zcws.OpCode.PONG:
                pongs.append(int(frame.to_bytes()))
            elif frame.opcode is zcws.OpCode.TEXT:
                assert (frame.text, number) == ("that is all", count)
                finished()
    assert number == count
    return pongs


def exchange(client: WebSocket, server: WebSocket, count: int) -> None:
    """`count` messages each way in four threads, and a clean end."""
    pongs: list[list[int]] = []
    finished = [threading.Event(), threading.Event()]
    with contextlib.ExitStack() as stack:
        for ws, done in ((client, finished[0]), (server, finished[1])):
            reader, writer, bridge = ws.split()
            closing = (lambda: all(each.wait(PATIENCE) for each in finished)) if ws is client else None
            stack.enter_context(
                raw.thread(lambda w=writer, b=bridge, c=closing: write(w, b, count, c), patience=PATIENCE)
            )
            stack.enter_context(
                raw.thread(lambda r=reader, d=done: pongs.append(read(r, count, d.set)), patience=PATIENCE)
            )
    assert len(pongs) == 2
    for those in pongs:
        assert those == sorted(set(those))  # in order, none twice; only the latest Ping has to be answered


def test_nothing_is_lost_and_nothing_overtakes() -> None:
    with two_ends() as (client, server):
        exchange(client, server, COUNT)


def test_over_tls(certificates: Certificates) -> None:
    with two_ends(certificates) as (client, server):
        exchange(client, server, COUNT // 10)


# ---- no lock of ours ----


class Watched:
    """A lock that writes down who takes it."""

    taken: list[str]

    def __init__(self, real: Any) -> None:
        self._real = real

    def acquire(self, *args: Any, **options: Any) -> bool:
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") in (__name__, "threading") and frame.f_back is not None:
            frame = frame.f_back
        self.taken.append(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}")
        taken: bool = self._real.acquire(*args, **options)
        return taken

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self._real.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that took a lock, one for each time: every lock that `threading` makes from now on is watched."""
    taken: list[str] = []
    for name in ("Lock", "RLock"):
        make = getattr(threading, name)

        def watched(make: Callable[[], Any] = make) -> Watched:
            lock = Watched(make())
            lock.taken = taken
            return lock

        monkeypatch.setattr(threading, name, watched)
    return taken


#: The whole is nobody else's while it is split; and the timer that is started when a reader has come to its end, and
#: stopped when the socket is closed.
AT_BOTH_ENDS = {
    *("zcws.sync.stream.split", "zcws.sync.turns._turn"),
    *("zcws.sync.channel.abort_later", "zcws.sync.channel.abort"),
}


def ours(taken: list[str]) -> set[str]:
    """Those of zcws."""
    return {name for name in taken if name.startswith("zcws")} - AT_BOTH_ENDS


def test_the_halves_take_no_lock_of_ours(taken: list[str]) -> None:
    with two_ends() as (client, server):
        client.send("as a whole")
        assert server.recv() == "as a whole"
        assert ours(taken)  # or this test could not fail
        taken.clear()
        exchange(client, server, 1000)
        assert ours(taken) == set()


def test_the_lock_of_tls_is_the_only_one(taken: list[str], certificates: Certificates) -> None:
    with two_ends(certificates) as (client, server):
        taken.clear()
        exchange(client, server, 100)
        assert {name.rpartition(".")[0] for name in ours(taken)} == {"zcws.sync.polled"}
