"""A wire between server and clients that loses, delays and doubles packets, falls silent, or is cut.

Each side is in a network namespace of its own (network.py), the wire is a relay that we are (relay.py), and TCP has to
repair what it does. The witness sits on the server's side, where the wire does not reach: whatever becomes of the
others, its answers come. Clients are of the server's kind. `ZCWS_WIRE_SEED` repeats the luck of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import net
import pytest
import raw
from soak import aio_side, sync_side
from soak.plan import Messages, Plan
from soak.tally import Tally

import zcws
import zcws.sync

from .network import FAR, Wire, inside, missing, wire
from .process import LONG, Served, Witness, elapsed, server
from .relay import FAIR, SILENT, Weather

#: Sessions at once, the messages of each, and the bytes of a message, at most.
SESSIONS, COUNT, LONGEST = 4, 30, 40_000

#: What a wire may do all the time, and in which of the relay's counts it shows.
WEATHER = {
    "loss": (Weather(lost=0.05), {"lost"}),
    "delay": (Weather(delay=(0.005, 0.03)), {"overtaken"}),
    "doubling": (Weather(doubled=0.3), {"doubled"}),
    "all of it": (
        Weather(lost=0.02, doubled=0.1, delay=(0.0, 0.01)),
        {"lost", "doubled", "overtaken"},
    ),
}


@pytest.fixture
def network() -> Iterator[Wire]:
    if reason := missing():
        pytest.skip(reason)
    seed = int(os.environ.get("ZCWS_WIRE_SEED") or random.randrange(1 << 32))
    print(f"ZCWS_WIRE_SEED={seed}")
    with wire(seed) as network:
        yield network


@pytest.fixture(scope="module")
def messages() -> Messages:
    return Messages(7, LONGEST)


@pytest.fixture
def engine(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our clients on asyncio are of the server's kind."""
    monkeypatch.setenv("ZCWS_ENGINE", "0" if kind == "transport" else "1")


@contextlib.contextmanager
def serving(kind: str, network: Wire, **options: Any) -> Iterator[tuple[Served, Witness]]:
    prefix = ("ip", "netns", "exec", network.far)
    patient = {"open_timeout": LONG, "close_timeout": LONG, "ping_timeout": LONG}
    with server(kind, *prefix, host=FAR, **{**patient, **options}) as served:
        with inside(network.far):
            witness = Witness(served)
        with witness:
            yield served, witness


def figures(network: Wire, served: Served) -> Any:
    """Asked from the server's side."""
    with inside(network.far):
        return served.ask("/figures")


# ---- traffic ----


def plans(seed: int) -> list[Plan]:
    """Half of the clients close when all is answered, half right behind their last message."""
    return [
        dataclasses.replace(
            Plan.of(seed, number),
            count=COUNT,
            window=(8, 32)[number // 2 % 2],
            ending=("drained", "eager")[number % 2],
            slow=0.0,
        )
        for number in range(SESSIONS)
    ]


async def talk(messages: Messages, planned: list[Plan], uri: str) -> list[Tally]:
    sessions = [aio_side.Session(messages, plan) for plan in planned]
    return await asyncio.gather(*(session.run(uri) for session in sessions))


def talk_in_threads(messages: Messages, planned: list[Plan], uri: str) -> list[Tally]:
    sessions = [sync_side.Session(messages, plan) for plan in planned]
    with contextlib.ExitStack() as stack:
        for session in sessions:
            stack.enter_context(raw.thread(lambda session=session: session.run(uri), patience=3 * LONG))
    return [session.tally for session in sessions]


def exchange(kind: str, messages: Messages, network: Wire, served: Served) -> None:
    """Every session, until it has ended; what has been lost, doubled, reordered or altered is told here."""
    planned = plans(network.seed)
    if kind == "sync":
        tallies = talk_in_threads(messages, planned, served.uri)
    else:
        tallies = asyncio.run(talk(messages, planned, served.uri))
    for plan, tally in zip(planned, tallies, strict=True):
        assert (tally.wrong, tally.sent, tally.code) == (None, COUNT, 1000), plan
        assert plan.ending == "eager" or tally.received == COUNT, plan


def everything_arrived(network: Wire, served: Served) -> None:
    """The server has read every message, and seen every Close."""
    raw.until(lambda: figures(network, served)["ends"].count([COUNT, 1000]) == SESSIONS)
    assert figures(network, served)["failures"] == []


def figures_of(network: Wire, witness: Witness) -> dict[str, Any]:
    return {
        **network.relay.counts,
        "retransmitted": network.retransmitted(),
        "answers": witness.answers,
        "longest": round(witness.longest, 3),
    }


# ---- bad all the time ----


@pytest.mark.parametrize("name", WEATHER)
@pytest.mark.usefixtures("engine")
def test_tcp_repairs_what_the_wire_does(
    name: str, kind: str, network: Wire, messages: Messages, record: Any
) -> None:
    weather, signs = WEATHER[name]
    with serving(kind, network) as (served, witness):
        network.relay.weather = weather  # from the first SYN to the last FIN
        started = time.monotonic()
        with inside(network.near):
            exchange(kind, messages, network, served)
        everything_arrived(network, served)
        record(seconds=elapsed(started), **figures_of(network, witness))
    assert all(network.relay.counts[sign] > 0 for sign in signs)


# ---- bad for a while ----


@pytest.mark.usefixtures("engine")
def test_a_wire_that_is_silent_for_a_while(kind: str, network: Wire, messages: Messages, record: Any) -> None:
    """In the middle of everything, Pings included. TCP has tried again and again by the time it comes back."""
    with serving(kind, network, ping_interval=0.2) as (served, witness):
        network.relay.turn(100, SILENT)
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            with inside(network.near):
                stack.enter_context(
                    raw.thread(lambda: exchange(kind, messages, network, served), patience=3 * LONG)
                )
            raw.until(lambda: network.relay.weather is SILENT)
            before = network.retransmitted()
            raw.until(lambda: network.retransmitted() >= before + 3 * SESSIONS)
            witness.asks(20)
            network.relay.weather = FAIR
            going_on = time.monotonic()
        everything_arrived(network, served)
        silent = round(going_on - started, 3)
        record(silent=silent, seconds=elapsed(going_on), **figures_of(network, witness))


# ---- slow ----

#: The wire's bytes per second, and the bytes of a message that keeps it busy for eight seconds.
RATE, LONG_MESSAGE = 50_000, 400_000

#: Seconds until a peer is given up that shows no sign of life: much less than the message takes.
EXPECTS: dict[str, Any] = {"ping_interval": 0.5, "ping_timeout": 2.0}


def take_all_at_once(sock: socket.socket) -> None:
    """Our system takes the whole message, and sends without regard for a queue that never drops a packet."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LONG_MESSAGE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


async def send_long(uri: str) -> str | bytes:
    async with zcws.connect(uri, proxy=None, **EXPECTS) as ws:
        take_all_at_once(ws.get_extra_info("socket"))
        await ws.send("/swallow " + "x" * LONG_MESSAGE)
        await ws.send("and?")
        return await net.soon(ws.recv())


def send_long_in_a_thread(uri: str) -> str | bytes:
    with zcws.sync.connect(uri, proxy=None, **EXPECTS) as ws:
        take_all_at_once(ws.get_extra_info("socket"))
        ws.send("/swallow " + "x" * LONG_MESSAGE)
        ws.send("and?")
        return ws.recv(LONG)


@pytest.mark.usefixtures("engine")
def test_a_ping_behind_a_long_message(kind: str, network: Wire) -> None:
    """Our Ping cannot be answered before the message is through, but what the peer's system confirms is a sign of life.
    With threads it was none, and in the engine none as soon as our system had sent the last byte."""
    with serving(kind, network, ping_interval=None) as (served, _):
        network.relay.weather = Weather(rate=RATE)
        with inside(network.near):
            if kind == "sync":
                assert send_long_in_a_thread(served.uri) == "and?"
            else:
                assert asyncio.run(send_long(served.uri)) == "and?"


async def send_long_and_close(uri: str) -> int | None:
    async with zcws.connect(uri, proxy=None, ping_interval=None, close_timeout=2) as ws:
        take_all_at_once(ws.get_extra_info("socket"))
        await ws.send("/swallow " + "x" * LONG_MESSAGE)
    return ws.close_code


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("kind", ["engine", "transport"])
def test_a_close_behind_a_long_message(kind: str, network: Wire) -> None:
    """In threads it is waited for as long as `close_timeout` says."""
    with serving(kind, network, ping_interval=None) as (served, _):
        network.relay.weather = Weather(rate=RATE)
        with inside(network.near):
            assert asyncio.run(send_long_and_close(served.uri)) == 1000


# ---- cut for good ----

#: Seconds: whoever hears nothing for so long gives up. Long enough for a busy machine to answer a Ping.
GIVES_UP: dict[str, Any] = {"ping_interval": 0.3, "ping_timeout": 1.0, "close_timeout": 0.3}

#: The same in threads, where only a read looks after Pings (docs/threads.md). A send's time begins anew with every byte
#: that the kernel still has room for.
GIVES_UP_IN_A_THREAD: dict[str, Any] = {**GIVES_UP, "write_timeout": 0.8}

#: What a client does when the wire is cut, and what it asks of the server: nothing, to send, to read.
ASKED = {"waits": "/swallow", "reads": "/flood 100000", "writes": "/swallow"}

_LOAD = "/swallow " + "x" * 1_000_000


async def use(ws: zcws.WebSocket, how: str) -> None:
    await ws.send(ASKED[how])
    while True:
        await (ws.send(_LOAD) if how == "writes" else ws.recv())


def use_in_a_thread(ws: zcws.sync.WebSocket, how: str) -> None:
    ws.send(ASKED[how])
    while True:
        ws.send(_LOAD) if how == "writes" else ws.recv()


async def end(ws: zcws.WebSocket, how: str) -> int | None:
    """The close code of a client that is cut off."""
    with pytest.raises(zcws.ConnectionClosedError):
        await use(ws, how)
    await ws.wait_closed()
    return ws.close_code


def end_in_a_thread(ws: zcws.sync.WebSocket, how: str) -> int | None:
    with pytest.raises(zcws.ConnectionClosedError):
        use_in_a_thread(ws, how)
    ws.close()
    return ws.close_code


async def all_end(uri: str) -> list[int | None]:
    """One client for each thing to do, all of them open before one begins."""
    opened = [await zcws.connect(uri, proxy=None, **GIVES_UP) for _ in ASKED]
    return await asyncio.gather(*map(end, opened, ASKED))


def all_end_in_threads(uri: str) -> list[int | None]:
    opened = [zcws.sync.connect(uri, proxy=None, **GIVES_UP_IN_A_THREAD) for _ in ASKED]
    with ThreadPoolExecutor(len(ASKED)) as pool:
        return list(pool.map(end_in_a_thread, opened, ASKED))


@pytest.mark.usefixtures("engine")
def test_a_wire_that_is_cut(kind: str, network: Wire, record: Any) -> None:
    """Neither side is told, and both end by themselves: whoever waits, reads, or is stuck in a send."""
    codes: list[int | None] = []
    patience = GIVES_UP_IN_A_THREAD if kind == "sync" else GIVES_UP

    def main() -> None:
        codes.extend(all_end_in_threads(served.uri) if kind == "sync" else asyncio.run(all_end(served.uri)))

    with serving(kind, network, **patience) as (served, witness):
        network.relay.turn(1000, SILENT)
        with contextlib.ExitStack() as stack:
            with inside(network.near):
                stack.enter_context(raw.thread(main))
            raw.until(lambda: network.relay.weather is SILENT)
            cut = time.monotonic()
            witness.asks(20)
        clients = elapsed(cut)
        raw.until(lambda: figures(network, served)["connections"] == 2)  # the witness, and who asks
        record(clients=clients, server=elapsed(cut), **figures_of(network, witness))
        seen = [code for _, code in figures(network, served)["ends"] if code != 1000]
    assert codes == [1011] * len(ASKED)
    assert len(seen) == len(ASKED) and set(seen) <= {1006, 1011}


@pytest.mark.usefixtures("engine")
def test_opening_and_closing_on_a_wire_that_is_cut(kind: str, network: Wire) -> None:
    """`open_timeout` and `close_timeout` end what TCP would go on trying for minutes."""
    options: dict[str, Any] = {
        "proxy": None,
        "ping_interval": None,
        "open_timeout": 0.3,
        "close_timeout": 0.3,
    }

    async def main(uri: str) -> None:
        ws = await zcws.connect(uri, **{**options, "open_timeout": LONG})
        network.relay.weather = SILENT
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await zcws.connect(uri, **options)
        await net.soon(ws.close())
        assert ws.close_code == 1006

    def main_in_a_thread(uri: str) -> None:
        ws = zcws.sync.connect(uri, **{**options, "open_timeout": LONG})
        network.relay.weather = SILENT
        with pytest.raises(TimeoutError):
            zcws.sync.connect(uri, **options)
        ws.close()
        assert ws.close_code == 1006

    with serving(kind, network, close_timeout=0.1) as (served, witness):
        with inside(network.near):
            main_in_a_thread(served.uri) if kind == "sync" else asyncio.run(main(served.uri))
        witness.asks(20)
