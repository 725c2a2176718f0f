"""What runs out: descriptors, memory, patience with those who do not read; and everybody at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import sysconfig
import time
from collections.abc import Iterator
from typing import Any

import net
import pytest
import raw
import wire
from soak.gauge import of_process

import zcws

from .process import LONG, Served, Witness, elapsed, server
from .test_peers import tiny

#: Connections that open at once; the issue's number is 10,000.
CROWD = int(os.environ.get("ZCWS_CROWD", "1000"))

#: Descriptors that a server may have in the test of EMFILE, and those that want to connect.
FEW, MANY = 64, 100

#: Answers of the witness meanwhile, and the tries to accept that a server may need for them. The answers come within
#: LONG, or the witness fails by itself; a server that rests tries 20 times a second at most (in threads; once on
#: asyncio), half of this in LONG, however busy the machine is. One that spins had tried 60,000 times by 200 answers.
ASKED, TRIES = 50, int(40 * LONG)

MIB = 1 << 20


# ---- descriptors ----


def test_a_server_without_descriptors_goes_on_and_recovers(kind: str, record: Any) -> None:
    """And does not spin: it rests before it tries again."""
    with (
        server(kind, RLIMIT_NOFILE=FEW, open_timeout=LONG) as served,
        Witness(served) as witness,
        served.connect() as ws,
    ):
        with contextlib.ExitStack() as stack:
            for _ in range(MANY):  # the kernel accepts those that the server cannot
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), LONG))
                sock.sendall(net.request())
            raw.until(lambda: of_process(served.pid).fds >= FEW - 1)
            before = served.ask("/knocks", ws)
            witness.asks(ASKED)
            tries = served.ask("/knocks", ws) - before
        freed = time.monotonic()
        assert served.ask("/figures")["connections"] >= 3
        record(seconds=elapsed(freed), tries=tries, answers=witness.answers)
    assert before and tries < TRIES


# ---- memory ----


# Not with threads, which take addresses for stacks and arenas first.
@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without a GIL, CPython reserves more addresses than that before it needs any",
)
@pytest.mark.parametrize("kind", ["engine", "transport"])
def test_a_flood_of_large_messages_under_a_memory_limit(kind: str, record: Any) -> None:
    """Whose memory cannot be had is turned away; the others go on, and when the flood is over everybody is welcome."""
    with server(kind, RLIMIT_AS=600 * MIB) as served, Witness(served) as witness:
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(raw.client(served.port)) for _ in range(60)]
            head = peers[0].frame(wire.BINARY, bytes(15 * MIB))
            for peer in peers:  # each nearly a whole message, which has to be kept
                with contextlib.suppress(OSError):
                    peer.send_bytes(head[:-1])
            witness.asks(20)
            most = of_process(served.pid).rss
        over = time.monotonic()
        message = bytes(MIB)
        with served.connect() as ws:
            ws.send(message)
            assert ws.recv(LONG) == message
        record(seconds=elapsed(over), rss=most, answers=witness.answers)


# ---- many at once ----


def _scaled(wanted: int) -> int:
    """As many as this process may have descriptors for; the server needs as many in its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, hard - 100)


@pytest.mark.parametrize("kind", ["engine", "transport"])
def test_a_crowd_that_opens_at_once(kind: str, record: Any) -> None:
    """Each is answered; and the one who was there before, while they come in."""
    crowd = _scaled(CROWD)

    async def main(served: Served) -> None:
        async def one(number: int) -> zcws.WebSocket:
            ws = await zcws.connect(
                served.uri, proxy=None, open_timeout=None, close_timeout=None, ping_interval=None
            )
            await ws.send(f"{number}")
            assert await ws.recv() == f"{number}"
            return ws

        started = time.monotonic()
        opened = await asyncio.gather(*(one(number) for number in range(crowd)))
        record(connections=crowd, opened=elapsed(started))
        for ws in opened:
            ws.begin_close()
        await asyncio.gather(*(ws.wait_closed() for ws in opened))
        assert {ws.close_code for ws in opened} == {1000}

    with (
        server(kind, backlog=4096, open_timeout=None, close_timeout=None) as served,
        Witness(served) as witness,
    ):
        asyncio.run(main(served))
        record(answers=witness.answers, longest=round(witness.longest, 3))
        raw.until(lambda: served.ask("/figures")["connections"] == 2)
        assert served.ask("/figures")["failures"] == []


# ---- one message to many, some of them stuck ----


@pytest.mark.parametrize("kind", ["engine", "transport"])
def test_a_broadcast_with_a_tenth_of_the_receivers_stuck(kind: str, record: Any) -> None:
    """The others get all of it; the stuck ones cost no more than their limit."""
    # The stuck ones are sent 19 MiB, more than their limit and the kernel's buffers (6 MiB) hold.
    receivers, count = 20, 300

    async def receive(uri: str, ready: asyncio.Event, waiting: list[int]) -> list[int]:
        async with zcws.connect(uri, proxy=None) as ws:
            waiting[0] -= 1
            if not waiting[0]:
                ready.set()
            return [int((await net.soon(ws.recv(decode=False)))[:8]) for _ in range(count)]  # type: ignore[index]

    async def main(served: Served) -> dict[str, int]:
        ready, waiting = asyncio.Event(), [receivers]
        tasks = [asyncio.ensure_future(receive(served.uri, ready, waiting)) for _ in range(receivers)]
        await net.soon(ready.wait())
        async with zcws.connect(served.uri, proxy=None) as ws:
            await ws.send(f"/broadcast {count}")
            counts: dict[str, int] = json.loads(await net.soon(ws.recv()))
        for task in tasks:
            assert await task == list(range(count))
        return counts

    with server(kind, write_limit=8 * MIB) as served, _stuck(served, receivers // 10):
        before = of_process(served.pid).rss
        counts = asyncio.run(main(served))
        grown = of_process(served.pid).rss - before
        record(**counts, grown=grown)
        assert counts["skipped"] > 0


@contextlib.contextmanager
def _stuck(served: Served, count: int) -> Iterator[None]:
    """Clients that do not read."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(tiny(served.port))
        yield
