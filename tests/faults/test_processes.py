"""Processes that are stopped (SIGSTOP) and go on, servers and clients; and one that is killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from typing import Any

import net
import pytest
import raw

import zcws

from .process import LONG, Served, Witness, elapsed, server

#: A client that waits for messages, and says how it ended.
CLIENT = """
import sys, zcws, zcws.sync
ws = zcws.sync.connect(sys.argv[1], proxy=None)
print("open", flush=True)
try:
    ws.recv()
except zcws.ConnectionClosed as error:
    print(int(error.code), flush=True)
"""

#: Seconds of a stop: above the keepalive of the tests that want it noticed, and below everything else.
STOP = 0.7


def test_a_server_that_was_stopped_answers_everything(served: Served, record: Any) -> None:
    with served.connect() as ws:
        with served.stopped():
            for number in range(100):
                ws.send(f"{number}")
            time.sleep(STOP)
        going_on = time.monotonic()
        assert [ws.recv(LONG) for _ in range(100)] == [f"{number}" for number in range(100)]
        record(seconds=elapsed(going_on))


def test_clients_that_connect_while_it_is_stopped_are_accepted_then(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        with served.stopped():
            threads = [raw.thread(lambda: served.ask("/figures"), patience=LONG) for _ in range(5)]
            for thread in threads:
                stack.enter_context(thread)
            time.sleep(STOP)


@pytest.mark.parametrize("engine", ["1", "0"])
def test_a_client_gives_a_stopped_server_up_and_reconnects(
    served: Served, engine: str, monkeypatch: pytest.MonkeyPatch, record: Any
) -> None:
    monkeypatch.setenv("ZCWS_ENGINE", engine)
    options: dict[str, Any] = {
        "ping_interval": 0.1,
        "ping_timeout": 0.1,
        "close_timeout": 0.1,
        "open_timeout": 0.3,
    }

    async def main() -> None:
        codes = []
        attempts = zcws.connect(
            served.uri, proxy=None, reconnect_delays=lambda: iter([0.05] * 1000), **options
        )
        async for ws in attempts:
            if not codes:
                with served.stopped():
                    with pytest.raises(zcws.ConnectionClosedError):
                        await net.soon(ws.recv())
                    codes.append(ws.close_code)
                going_on = time.monotonic()
                continue
            with contextlib.suppress(zcws.ConnectionClosed):
                await ws.send("again")
                assert await net.soon(ws.recv()) == "again"
                record(seconds=elapsed(going_on))
                break
        assert codes == [1011]

    net.Place("asyncio", None).run(main())


def test_a_blocking_client_gives_a_stopped_server_up(served: Served) -> None:
    ws = served.connect(ping_interval=0.1, ping_timeout=0.1, close_timeout=0.1)
    with served.stopped(), pytest.raises(zcws.ConnectionClosedError) as caught:
        ws.recv()
    assert caught.value.code == 1011


def test_a_stopped_client_is_given_up_and_the_others_are_not(kind: str) -> None:
    """The client is a process of its own: it reads nothing, while its kernel goes on acknowledging. The others have the
    same time to answer, so it is long enough for whoever waits for a processor."""
    with server(kind, ping_interval=0.2, ping_timeout=LONG / 10) as served, Witness(served) as witness:
        command = [sys.executable, "-c", CLIENT, served.uri]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            try:
                assert client.stdout is not None
                assert client.stdout.readline() == "open\n"
                # And the witness, and who asks; a thread may have said 101 and not counted its connection yet.
                raw.until(lambda: served.ask("/figures")["connections"] == 3)
                client.send_signal(signal.SIGSTOP)
                raw.until(lambda: served.ask("/figures")["connections"] == 2)
                client.send_signal(signal.SIGCONT)
                assert client.stdout.readline() == "1011\n"
            finally:
                client.kill()
        witness.asks(10)


def test_a_server_that_is_killed() -> None:
    """A client learns of it, and has what was answered before."""
    with server("engine", status=-signal.SIGKILL) as served:
        ws = served.connect()
        ws.send("before")
        assert ws.recv(LONG) == "before"
        served.process.kill()
        with pytest.raises(zcws.ConnectionClosedError):
            ws.recv(LONG)
    assert ws.close_code == 1006
