"""A view that somebody holds never changes, on every driver: many connections that take turns, held views, any cuts.

test_reader_properties.py says it of the core. Here the bytes go through sockets, several connections share the rings of
one pool (in the engine they land in one ring behind each other), and with threads one half reads while another writes.

`ZCWS_EXAMPLES=20000` tries that many scripts on each driver; docs/security.md has the figures of such a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import wire
from arrays import array_over
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zcws
from zcws.aio.settings import Options, pool_of
from zcws.aio.transport import place
from zcws.options import Timeouts
from zcws.pool import Pool
from zcws.sync.plain import open_channel
from zcws.sync.stream import WebSocket

pytestmark = pytest.mark.usefixtures("every_view")

EXAMPLES = int(os.environ.get("ZCWS_EXAMPLES", "15"))

#: Bytes of a message; a ring of the drivers has 256 KiB.
SIZES = [0, 1, 7, 125, 126, 1000, 4000, 20_000, 70_000, 300_000]
WEIGHTS = [4, 8, 8, 4, 4, 8, 4, 2, 1, 0.5]

#: Seconds for something that takes none.
LONG = 20


class Script:
    """What one connection's peer sends, piece by piece; and what its reader keeps of it."""

    def __init__(self, rng: random.Random, count: int) -> None:
        self.rng = rng
        (*sizes,) = rng.choices(SIZES, WEIGHTS, k=count)
        self.messages = [rng.randbytes(size) for size in sizes]
        self.pieces = self._cut(b"".join(self._frames(message) for message in self.messages))
        self.count = 0  # messages that have been read
        self.held: list[tuple[Any, bytes]] = []
        self.buffer = zcws.PayloadBuffer()

    def _frames(self, message: bytes) -> bytes:
        if self.rng.random() < 0.8:
            return wire.frame(wire.BINARY, message, key=wire.KEY)
        cut = self.rng.randrange(len(message) + 1)
        ping = wire.frame(wire.PING, b"between", key=wire.KEY)
        return ping.join(wire.fragments(wire.BINARY, [message[:cut], message[cut:]], key=wire.KEY))

    def _cut(self, stream: bytes) -> list[bytes]:
        pieces, at = [], 0
        while at < len(stream):
            size = self.rng.choice([1, 10, 500, 5000, 60_000])
            pieces.append(stream[at : at + size])
            at += size
        return pieces

    @property
    def is_read(self) -> bool:
        return self.count == len(self.messages)

    def see(self, frame: zcws.Frame) -> None:
        """Checks a frame, and holds a view of it or an array over one; lets go of some that were held before."""
        if frame.opcode is not zcws.OpCode.BINARY:
            assert frame.to_bytes() == b"between"
            return
        message = self.messages[self.count]
        assert frame.payload == message
        self.count += 1
        if self.rng.random() < 0.5:
            start = self.rng.randrange(len(message) + 1)
            view: Any = frame.payload[start:]
            self.held.append((view if self.rng.random() < 0.7 else array_over(view), message[start:]))
        if self.rng.random() < 0.1:
            self.check()
            del self.held[: len(self.held) // 2]

    def check(self) -> None:
        assert all(bytes(view) == copy for view, copy in self.held)

    def buffer_or_none(self) -> zcws.PayloadBuffer | None:
        return self.buffer if self.rng.random() < 0.5 else None


def connection(pool: Pool | None = None) -> zcws.Connection:
    return zcws.Connection(is_client=False, pool=pool or Pool())


# ---- asyncio ----


async def read_async(ws: zcws.WebSocket, script: Script) -> None:
    batches = ws.batches()
    while not script.is_read:
        if script.rng.random() < 0.5:
            script.see(await ws.read_frame(script.buffer_or_none()))
        else:
            batch = await anext(batches)
            for frame in batch:
                script.see(frame)


async def play_async(scripts: list[Script], rng: random.Random, *, engine: bool) -> None:
    loop = asyncio.get_running_loop()
    ends, readers = [], []
    for script in scripts:
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        peer.setblocking(False)
        ws = zcws.WebSocket(loop, connection(pool_of(loop)), Options(ping_interval=None))
        if engine:
            ws.connection_made(place(loop, ours, ws))
        else:
            await loop.create_connection(lambda ws=ws: ws, sock=ours)  # type: ignore[misc]
        ends.append((ws, peer))
        readers.append(loop.create_task(read_async(ws, script)))
    waiting = [(peer, iter(script.pieces)) for (_, peer), script in zip(ends, scripts, strict=True)]
    while waiting:
        peer, pieces = rng.choice(waiting)
        piece = next(pieces, None)
        if piece is None:
            waiting.remove((peer, pieces))
        else:
            await loop.sock_sendall(peer, piece)
        if rng.random() < 0.3:  # so that several sockets are ready at once
            await asyncio.sleep(0)
    await asyncio.gather(*readers)
    for script in scripts:
        script.check()
    for ws, peer in ends:
        ws.abort()
        peer.close()
        await ws.wait_closed()


def on_asyncio(scripts: list[Script], rng: random.Random, *, engine: bool) -> None:
    asyncio.run(asyncio.wait_for(play_async(scripts, rng, engine=engine), LONG))


# ---- blocking ----


@contextlib.contextmanager
def blocking(pool: Pool) -> Iterator[tuple[WebSocket, socket.socket]]:
    ours, peer = socket.socketpair()
    ws = WebSocket(open_channel(ours), connection(pool), Timeouts(ping_interval=None))
    try:
        yield ws, peer
    finally:
        ws.abort()
        peer.close()


def read_blocking(reader: Any, script: Script, timeout: float | None) -> bool:
    """One read; whether there was anything."""
    try:
        if script.rng.random() < 0.5:
            script.see(reader.read_frame(script.buffer_or_none(), timeout=timeout))
        else:
            for frame in reader.read_batch(timeout):
                script.see(frame)
    except TimeoutError:
        return False
    return True


def send_blocking(peer: socket.socket, piece: bytes, make_room: Callable[[], object]) -> None:
    """A socket pair takes few bytes where they come one by one: where it is full, somebody has to read."""
    view = memoryview(piece)
    while view:
        try:
            view = view[peer.send(view) :]
        except BlockingIOError:
            make_room()


def on_sync(scripts: list[Script], rng: random.Random) -> None:
    """One thread, several connections, one pool: each is read until it has nothing, in any order."""
    with contextlib.ExitStack() as stack:
        pool = Pool()
        ends = [stack.enter_context(blocking(pool)) for _ in scripts]
        for _, peer in ends:
            peer.setblocking(False)
        waiting = [
            (ws, peer, script, iter(script.pieces)) for (ws, peer), script in zip(ends, scripts, strict=True)
        ]
        while waiting:
            ws, peer, script, pieces = each = rng.choice(waiting)
            piece = next(pieces, None)
            if piece is None:
                waiting.remove(each)
            else:
                send_blocking(peer, piece, lambda ws=ws, script=script: read_blocking(ws, script, 0))
            while (piece is None and not script.is_read) or rng.random() < 0.7:
                if not read_blocking(ws, script, LONG if piece is None and not script.is_read else 0):
                    break
        for script in scripts:
            assert script.is_read
            script.check()


def in_thread(work: Callable[[], object], failures: list[BaseException]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def read_half(reader: Any, script: Script) -> None:
    while not script.is_read:
        assert read_blocking(reader, script, LONG), "nothing came"


def write_half(writer: Any) -> None:
    """Less than a socket takes without anybody who reads at its other end."""
    for size in range(0, 1000, 50):
        writer.send(b"y" * size)
        writer.drain_bridge()


def on_threads(scripts: list[Script], rng: random.Random) -> None:
    """Split halves: one thread reads and holds views while another writes; each connection has a pool of its own."""
    failures: list[BaseException] = []
    with contextlib.ExitStack() as stack:
        threads = []
        for script in scripts:
            ws, peer = stack.enter_context(blocking(Pool()))
            reader, writer, _ = ws.split()
            threads += [
                in_thread(partial(read_half, reader, script), failures),
                in_thread(partial(write_half, writer), failures),
                in_thread(partial(peer.sendall, b"".join(script.pieces)), failures),
            ]
        for thread in threads:
            thread.join()
        for script in scripts:
            script.check()
    assert failures == []


DRIVERS: dict[str, Callable[[list[Script], random.Random], None]] = {
    "engine": partial(on_asyncio, engine=True),
    "transport": partial(on_asyncio, engine=False),
    "sync": on_sync,
    "threads": on_threads,
}
if sys.platform != "linux":
    del DRIVERS["engine"]  # it needs epoll


@pytest.mark.parametrize("driver", DRIVERS)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), counts=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_a_view_that_is_held_never_changes(driver: str, seed: int, counts: list[int]) -> None:
    rng = random.Random(seed)
    scripts = [Script(random.Random(rng.random()), count) for count in counts]
    DRIVERS[driver](scripts, rng)
    assert all(script.is_read for script in scripts)
    # The connections are gone, and what their readers hold is still what it was.
    for script in scripts:
        script.check()


@pytest.mark.parametrize(
    "fails",
    [
        'client().send(memoryview(b"\\xff" * 9), text=True)',
        "lost(client()).send(memoryview(bytes(9)))",
        "lost(client()).send(memoryview(bytes(200_000)))",
        "no_memory(client()).writer.write_message(OpCode.BINARY, memoryview(bytes(9)))",
    ],
)
def test_an_exception_that_is_kept_may_be_collected(fails: str) -> None:
    """Its frames held what pins a memoryview for C; CPython before 3.13 crashes where it collects that in a cycle."""
    program = f"""
import gc, os, socket
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.options import Timeouts
from zcws.sync.plain import open_channel
from zcws.sync.stream import WebSocket

def client():
    ours, theirs = socket.socketpair()
    THEIRS.append(theirs)
    return WebSocket(open_channel(ours), Connection(is_client=True, entropy=os.urandom), Timeouts(ping_interval=None))

def lost(ws):
    THEIRS.pop().close()
    return ws

class Full(list):
    def append(self, segment):
        raise MemoryError

def no_memory(ws):
    ws.writer = ws._writer
    ws._writer.out = Full()
    return ws

def fail():
    try:
        {fails}
    except Exception as error:
        kept = error
    else:
        raise AssertionError("it was to fail")

THEIRS = []
for _ in range(5):
    fail()
    gc.collect()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
