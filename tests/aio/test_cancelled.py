"""Reads that are cancelled anywhere, on real sockets: nothing is lost, doubled, reordered, and nothing hangs.

test_streams.py has the same for a transport that the test plays. Here bytes, cancellations and turns of the loop come
in any order, so that a task is cancelled before the loop has seen its bytes, after that, in the same turn, and again
while it is being cancelled; in the engine a message may be handed to a task that has just been cancelled.

`ZCWS_EXAMPLES=5000` tries that many scripts in each of the eight ways.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import pytest
import wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from net import Collected, soon

import zcws
from zcws.aio.settings import Options, pool_of
from zcws.aio.transport import place

EXAMPLES = int(os.environ.get("ZCWS_EXAMPLES", "25"))

WAYS = ["recv", "iterate", "read_frame", "batches", "stream"]
DRIVERS = ["engine", "transport"] if sys.platform == "linux" else ["transport"]

#: Bytes of a message: several in one read, one that several reads bring, one that no ring holds.
SIZES = st.sampled_from([1, 1, 5, 5, 125, 126, 3000, 70_000, 300_000])

#: What happens next. Numbers are bytes to send; a turn is one of the event loop.
STEPS = st.one_of(
    st.sampled_from(["read", "read", "cancel", "cancel", "turn", "turn", "time out"]),
    st.sampled_from([1, 2, 7, 100, 4000, 100_000]),
)


class Reader(Collected):
    """Reads in one way; a read may be cancelled, and is then begun again."""

    task: asyncio.Future[None] | None = None

    def begin(self, timeout: float | None = None) -> None:
        """A read, unless there is one."""
        if self.task is None or self.task.done():
            self.check()
            self.task = asyncio.ensure_future(self._read_within(timeout))

    async def _read_within(self, timeout: float | None) -> None:
        await asyncio.wait_for(self.read(), timeout)

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def check(self) -> None:
        """A read that has ended was cancelled, was late, or was right."""
        if self.task is not None and not self.task.cancelled():
            error = self.task.exception()
            if error is not None and not isinstance(error, asyncio.TimeoutError):
                raise error

    async def until(self, count: int) -> None:
        """What is left, without any more ado."""
        if self.task is not None:
            await asyncio.wait([self.task])
            self.check()
        while len(self.messages) < count:
            await self.read()


async def connected(driver: str) -> tuple[zcws.WebSocket, socket.socket]:
    """A connection and the peer's socket."""
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.setblocking(False)
    ws = zcws.WebSocket(
        loop, zcws.Connection(is_client=False, pool=pool_of(loop)), Options(ping_interval=None)
    )
    if driver == "engine":
        ws.connection_made(place(loop, ours, ws))
    else:
        await loop.create_connection(lambda: ws, sock=ours)
    return ws, peer


async def follow(
    steps: list[str | int], reader: Reader, stream: memoryview, peer: socket.socket
) -> memoryview:
    """Everything that the script says; the bytes that it has not sent."""
    for step in steps:
        if isinstance(step, int):
            try:
                stream = stream[peer.send(stream[:step]) :]
            except BlockingIOError:  # the socket is full, because nobody has read
                await asyncio.sleep(0)
        elif step == "read":
            reader.begin()
        elif step == "time out":
            reader.begin(timeout=0)
        elif step == "cancel":
            reader.cancel()
        else:
            await asyncio.sleep(0)
    return stream


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("driver", DRIVERS)
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=st.lists(SIZES, min_size=1, max_size=8), steps=st.lists(STEPS, max_size=40))
def test_nothing_is_lost_or_doubled(driver: str, way: str, sizes: list[int], steps: list[str | int]) -> None:
    # The last one is not the script's to send: a read that is under way when it ends has something to wait for.
    messages = [*(bytes([number]) * size for number, size in enumerate(sizes)), b"last"]
    stream = b"".join(wire.frame(wire.BINARY, message, key=wire.KEY) for message in messages)

    async def main() -> list[bytes]:
        ws, peer = await connected(driver)
        reader = Reader(ws, way)
        # One that is read before any script, so that in the engine C receives from here on.
        peer.send(wire.frame(wire.BINARY, b"first", key=wire.KEY))
        await reader.until(1)
        last = len(wire.frame(wire.BINARY, b"last", key=wire.KEY))
        rest = await follow(steps, reader, memoryview(stream)[:-last], peer)
        rest = memoryview(stream)[len(stream) - last - len(rest) :]
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(peer, rest))
        await reader.until(1 + len(messages))
        await sending
        ws.abort()
        await ws.wait_closed()
        peer.close()
        return reader.messages

    async def bounded() -> list[bytes]:
        return await soon(main())

    assert asyncio.run(bounded()) == [b"first", *messages]
