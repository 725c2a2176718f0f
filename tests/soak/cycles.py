"""Connect, echo, close, and again: does anything grow with the number of connections that there have been?

A client and a server in two processes. After every round (a twentieth of all cycles, 5,000 at most) both are idle,
collect their garbage and say what they hold. The first quarter is warm-up: pools fill, caches of the interpreter too,
the allocator takes its arenas. From then on the figures have to stay where they are:

    descriptors   exactly: one that is not closed is one too many
    blocks        (live allocations of Python) a tenth of one a cycle at most, and 500 for caches that come and go:
                  a leak of one object a connection is ten times that
    memory        2 MiB in all: the noise of the allocator. In a million cycles that is two bytes each, so that memory
                  that Python does not count (rings, the compressor's) could not leak either

Every fourth connection has compression, every fiftieth sends a message that no ring holds, and every tenth is not
closed but aborted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zcws
import zcws.sync

from .gauge import Gauge, of_self

DRIVERS = ("engine", "transport", "sync")

#: Rounds of a run, at least; cycles of a round, at most; and the part of a run that is warm-up.
ROUNDS, LARGEST_ROUND, WARM_UP = 20, 5000, 1 / 4

#: Connections at once, on asyncio and as threads.
AT_ONCE, THREADS = 16, 4

#: What may be more at the end than after warm-up; reasons above.
MOST_KIB, MOST_BLOCKS, CYCLES_A_BLOCK = 2048, 500, 10

SMALL, BIG = b"a message" * 3, bytes(range(256)) * 1024

#: Nothing in here takes as long: a machine under load is no leak.
PATIENT: dict[str, Any] = {"open_timeout": 60, "close_timeout": 60, "ping_interval": None}

ROOT = Path(__file__).parents[2]


@dataclass
class Series:
    """What one process held at the end of each round."""

    name: str
    gauges: list[Gauge] = field(default_factory=list)

    def growth(self) -> Gauge:
        """From the end of warm-up to the end."""
        before, after = self.gauges[int(len(self.gauges) * WARM_UP)], self.gauges[-1]
        return Gauge(after.rss - before.rss, after.fds - before.fds, after.blocks - before.blocks)

    def complaints(self, cycles: int) -> Iterator[str]:
        """What has grown, after so many `cycles` in all."""
        growth = self.growth()
        if growth.fds > 0:
            yield f"{self.name}: {growth.fds} descriptors more"
        if growth.blocks > MOST_BLOCKS + cycles // CYCLES_A_BLOCK:
            yield f"{self.name}: {growth.blocks} allocations more"
        if growth.rss > MOST_KIB:
            yield f"{self.name}: {growth.rss} KiB more"


@dataclass
class Run:
    """One driver's run."""

    driver: str
    cycles: int
    seconds: float
    client: Series
    server: Series

    def complaints(self) -> list[str]:
        return [*self.client.complaints(self.cycles), *self.server.complaints(self.cycles)]

    def as_dict(self) -> dict[str, Any]:
        sides = {s.name: [g.as_dict() for g in s.gauges] for s in (self.client, self.server)}
        return {
            "driver": self.driver,
            "cycles": self.cycles,
            "seconds": round(self.seconds, 1),
            "complaints": self.complaints(),
            **sides,
        }

    def rows(self) -> Iterator[str]:
        for series in (self.client, self.server):
            last, growth = series.gauges[-1], series.growth()
            yield (
                f"{self.driver:<10} {series.name:<7} {self.cycles:>9} {self.seconds:>8.0f} {last.rss:>8} "
                f"{growth.rss:>+7} {last.fds:>5} {growth.fds:>+4} {last.blocks:>8} {growth.blocks:>+6}"
            )


HEADING = "driver     side       cycles  seconds  rss/KiB  growth   fds    +   blocks      +"


# ---- the server's process ----


def figures() -> str:
    return json.dumps(of_self().as_dict())


async def answer(ws: zcws.WebSocket) -> None:
    async for message in ws:
        await ws.send(figures() if message == "figures" else message)


def answer_in_thread(ws: zcws.sync.WebSocket) -> None:
    for message in ws:
        ws.send(figures() if message == "figures" else message)


async def serve() -> None:
    async with zcws.serve(answer, "127.0.0.1", 0, compression="deflate", **PATIENT) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def serve_in_threads() -> None:
    with zcws.sync.serve(answer_in_thread, "127.0.0.1", 0, compression="deflate", **PATIENT) as server:
        print(server.sock.getsockname()[1], flush=True)
        threading.Thread(target=server.serve_forever).start()
        sys.stdin.read()


@contextlib.contextmanager
def server_of(driver: str) -> Iterator[str]:
    """A server in a process of its own, until its stdin ends; its URI."""
    command = [sys.executable, "-m", "tests.soak.cycles", "--serve", driver]
    env = {**os.environ, "ZCWS_ENGINE": "0" if driver == "transport" else "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=env) as process:
        try:
            assert process.stdout is not None and process.stdin is not None
            yield f"ws://127.0.0.1:{int(process.stdout.readline())}/"
            process.stdin.close()
            process.wait(60)
        finally:
            process.kill()


# ---- the client's ----


def options_of(number: int) -> dict[str, Any]:
    return {"compression": "deflate" if number % 4 == 0 else None, "proxy": None, **PATIENT}


def message_of(number: int) -> bytes:
    return BIG if number % 50 == 1 else SMALL


async def cycle(uri: str, number: int) -> None:
    ws = await zcws.connect(uri, **options_of(number))
    message = message_of(number)
    await ws.send(message)
    if await ws.recv() != message:
        raise AssertionError(f"cycle {number}: another message came back")
    if number % 10 == 5:
        ws.abort()
        await ws.wait_closed()
    else:
        await ws.close()


def cycle_in_thread(uri: str, number: int) -> None:
    ws = zcws.sync.connect(uri, **options_of(number))
    message = message_of(number)
    ws.send(message)
    if ws.recv() != message:
        raise AssertionError(f"cycle {number}: another message came back")
    if number % 10 == 5:
        ws.abort()
    else:
        ws.close()


async def round_of(uri: str, numbers: range) -> None:
    async def work(numbers: range) -> None:
        for number in numbers:
            await cycle(uri, number)

    await asyncio.gather(*(work(numbers[i::AT_ONCE]) for i in range(AT_ONCE)))


def round_in_threads(uri: str, numbers: range) -> None:
    failures: list[BaseException] = []

    def work(numbers: range) -> None:
        try:
            for number in numbers:
                cycle_in_thread(uri, number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(numbers[i::THREADS],)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def ask_server(uri: str) -> Gauge:
    """What the server holds while this is its only connection, and how long it took to get there does not matter."""
    with zcws.sync.connect(uri, proxy=None, **PATIENT) as ws:
        least = None
        for _ in range(10):  # those that have just been aborted may not have been noticed yet
            ws.send("figures")
            seen = Gauge(**json.loads(ws.recv(decode=True)))
            least = seen if least is None or seen.fds < least.fds else least
            time.sleep(0.01)
        assert least is not None
        return least


@dataclass
class Limits:
    """Of a run: cycles, and seconds after which it ends with the round that it is in."""

    cycles: int
    seconds: float = float("inf")

    @property
    def rounds(self) -> Iterator[range]:
        size = min(max(self.cycles // ROUNDS, 1), LARGEST_ROUND)
        for start in range(0, self.cycles, size):
            yield range(start, min(start + size, self.cycles))


def measure(driver: str, limits: Limits, say: Callable[[str], object] = lambda _: None) -> Run:
    """A run. The client's process is this one."""
    started, run = time.monotonic(), Run(driver, 0, 0.0, Series("client"), Series("server"))
    with server_of(driver) as uri, contextlib.closing(asyncio.new_event_loop()) as loop:
        for numbers in limits.rounds:
            if driver == "sync":
                round_in_threads(uri, numbers)
            else:
                loop.run_until_complete(round_of(uri, numbers))
            run.client.gauges.append(of_self())
            run.server.gauges.append(ask_server(uri))
            run.cycles, run.seconds = numbers.stop, time.monotonic() - started
            say("\n".join(run.rows()))
            if run.seconds > limits.seconds:
                break
    return run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.cycles", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cycles", type=int, default=int(os.environ.get("ZCWS_CYCLES", "20000")))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most, for each driver")
    parser.add_argument("--driver", choices=DRIVERS, action="append", help="all three by default")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--serve", choices=DRIVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_in_threads() if options.serve == "sync" else asyncio.run(serve())
        return 0
    runs, limits = [], Limits(options.cycles, options.minutes * 60)
    for driver in options.driver or DRIVERS:
        os.environ["ZCWS_ENGINE"] = "0" if driver == "transport" else "1"
        runs.append(measure(driver, limits, lambda line: print(line, file=sys.stderr, flush=True)))
    print(HEADING, *(row for run in runs for row in run.rows()), sep="\n")
    complaints = [complaint for run in runs for complaint in run.complaints()]
    print(*(complaints or ["nothing grows"]), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([run.as_dict() for run in runs], indent=1) + "\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
