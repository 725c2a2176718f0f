"""`zcws bench`: the histogram, and a run against a real server."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest
from net import echo, port_of, swallow
from served import ENVIRONMENT, served
from served import zcws as command

import zcws
from zcws.cli.bench import Histogram, Load, add, duration, measure
from zcws.cli.common import Failure


def test_shares_of_a_known_distribution() -> None:
    times = Histogram()
    for millisecond in range(1, 1001):
        times.add(millisecond / 1000)
    for share, seconds in ((0.5, 0.5), (0.99, 0.99), (0.999, 0.999), (1.0, 1.0)):
        assert times.share(share) == pytest.approx(seconds, rel=0.05)
    assert (times.count, times.longest) == (1000, 1.0)
    assert sum(count for _, count in times.doublings()) == 1000


def test_one_time_and_none() -> None:
    times = Histogram()
    assert (times.share(0.5), times.doublings()) == (0.0, [])
    times.add(0.003)
    assert times.share(0.5) == times.share(0.999) == pytest.approx(0.003, rel=0.05)
    times.add(0.0)  # a clock that did not move
    assert times.count == 2


def test_times_in_words() -> None:
    assert [duration(seconds) for seconds in (2, 1, 0.0125, 0.000_05)] == [
        *("2.00 s", "1.00 s"),
        *("12.50 ms", "50.0 us"),
    ]


def test_the_figures() -> None:
    load = Load(parsed("ws://127.0.0.1:1/"))
    load._wall, load._cpu = 2.0, 0.5
    for seconds in (0.5, 1.0, 1.0, 1.0, 4.0):
        load.times.add(seconds)
    assert load.report() == [
        "10 connections x 1 in flight, 256 bytes, 2.0 s",
        "messages    5",
        "messages/s  2",
        "MB/s        0.00 each way",
        *("p50         1.00 s", "p90         4.00 s", "p99         4.00 s", "p99.9       4.00 s"),
        "longest     4.00 s",
        "lost        0",
        "busy        25 % of a core, this process",
        "500.00 ms+         1 " + 14 * "#",
        "   1.00 s+         3 " + 40 * "#",
        "   2.00 s+         0",
        "   4.00 s+         1 " + 14 * "#",
    ]


def test_the_table_that_a_person_sees() -> None:
    pytest.importorskip("rich")
    load = Load(parsed("ws://127.0.0.1:1/"))
    load.times.add(1.0)
    columns = load._table(2.0).columns
    assert [column.header for column in columns] == [
        *("seconds", "messages/s"),
        *("p50", "p90", "p99", "p99.9"),
    ]
    assert [list(column.cells) for column in columns] == [["2.0"], ["0"], *[["1.00 s"]] * 4]


@pytest.mark.parametrize("options", [(), ("--binary", "--depth", "8", "--compression")])
def test_a_load(options: tuple[str, ...]) -> None:
    with served("--compression") as server:
        done = command(
            "bench", f"ws://127.0.0.1:{server.port}/", "--duration", "0.3", "--connections", "3", *options
        )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"3 connections x {8 if options else 1} in flight, 256 bytes")
    figures = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines[1:10] if "  " in line)
    assert int(figures["messages"]) > 0
    assert {"p50", "p99", "p99.9"} <= {line.split()[0] for line in lines}
    assert "lost        0" in lines
    assert re.search(r", (\d\d?)\.\d s$", lines[0])  # what was measured, and no time of day
    assert any(line.endswith("#") for line in lines)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C for one process")
def test_ctrl_c_prints_what_there_is(loop: str) -> None:
    """Nothing was printed, of however long a run."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")

    async def main() -> tuple[int | None, bytes, bytes]:
        seen, enough = 0, asyncio.Event()

        async def handler(ws: zcws.WebSocket) -> None:
            nonlocal seen
            async for message in ws:
                seen += 1
                if seen == 100:
                    enough.set()
                await ws.send(message)

        async with zcws.serve(handler, "127.0.0.1", 0) as server:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "zcws", "bench", f"ws://127.0.0.1:{port_of(server)}/"),
                *("--duration", "600", "--connections", "2", "--loop", loop),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
            )
            await asyncio.wait_for(enough.wait(), 60)
            process.send_signal(signal.SIGINT)
            out, err = await asyncio.wait_for(process.communicate(), 60)
            return process.returncode, out, err

    code, out, err = asyncio.run(main())
    assert (code, err) == (0, b"")
    lines = out.decode().splitlines()
    assert lines[0].startswith("2 connections x 1 in flight, 256 bytes, ")
    found = re.search(r"^messages +(\d+)$", out.decode(), re.MULTILINE)
    assert found is not None and int(found[1]) >= 98 and "lost        0" in lines


def test_ctrl_c_before_there_is_anything() -> None:
    def interrupted(coroutine: Coroutine[Any, Any, Any]) -> None:
        coroutine.close()
        raise KeyboardInterrupt

    load = Load(parsed("ws://127.0.0.1:1/"))
    with pytest.raises(KeyboardInterrupt):
        measure(load, interrupted)
    load.times.add(1)
    measure(load, interrupted)
    assert "messages    1" in load.report()


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    return parser.parse_args(["bench", *words])


def test_connections_that_are_lost_say_why() -> None:
    """They were a number, and exit code 3."""

    async def main() -> subprocess.CompletedProcess[str]:
        async with zcws.serve(echo, "127.0.0.1", 0, max_size=100) as server:
            uri = f"ws://127.0.0.1:{port_of(server)}/"
            return await asyncio.to_thread(command, "bench", uri, "--connections", "3", "--size", "101")

    done = asyncio.run(main())
    assert (done.returncode, done.stderr) == (3, "")
    lines = done.stdout.splitlines()
    assert lines[lines.index("lost        3") + 1] == (
        "            3 x closed by the peer: 1009 (message too big): message over the limit of the receiver (max_size)"
    )


def test_messages_that_no_memory_holds() -> None:
    """It was a traceback."""
    done = command("bench", "ws://127.0.0.1:1/", "--size", str(sys.maxsize))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"zcws: there is no memory for messages of {sys.maxsize} bytes (--size)\n"


def test_more_in_flight_than_there_is_room_for() -> None:
    """The server could not get rid of its answers, and the client waited for it to read on, for ever."""
    with served() as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        done = command("bench", uri, "--connections", "1", "--depth", "1000000", "--duration", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "lost        0" in done.stdout.splitlines()


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zcws.cli.bench.ANSWER", 0.1)

    async def main() -> Load:
        async with zcws.serve(swallow, "127.0.0.1", 0) as server:
            uri = f"ws://127.0.0.1:{port_of(server)}/"
            load = Load(parsed(uri, "--connections", "2", "--duration", "0.1"))
            await load.run()
        return load

    load = asyncio.run(main())
    assert list(load.lost.values()) == [2] and load.times.count == 0
    assert "does the server echo?" in str(load.lost)


def test_the_first_failure_is_the_end() -> None:
    """It was said when all connections had been tried, 50 at a time."""
    asked = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        await reader.read()  # the others wait, for as long as they are there
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            load = Load(parsed(uri, "--connections", "200", "--timeout", "1000"))
            with pytest.raises(Failure, match="503"):
                await load.run()

    asyncio.run(main())
    assert asked < 200


def test_nobody_there() -> None:
    done = command("bench", "ws://127.0.0.1:1/")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zcws: cannot connect to ws://127.0.0.1:1/: ")
