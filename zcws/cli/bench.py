"""`zcws bench`: a load test of a server that answers every message with one message, as an echo does.

Every connection keeps `--depth` messages in flight for `--duration` seconds. A round trip is counted from handing a
message over until its answer has been received, so with many in flight it includes their queue. The figures are those
of this process too: it is one thread of Python, and when it is at its limit (`busy` near 100 %) it measures itself.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

import zcws
from zcws.cli.common import Failure, add_client_options, client_options, runner, seconds, whole
from zcws.cli.reasons import unreachable
from zcws.cli.terminal import Terminal, say
from zcws.uri import parse_uri

__all__ = ["Histogram", "add"]

#: Buckets for each doubling of a time: neighbours are 4.4 % apart, and no time is further than that from its bucket.
RESOLUTION = 16

#: What is shown of the times: the share of round trips that were not slower.
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}

#: Characters of the longest bar.
BAR = 40

#: Connections that are being opened at once: below the backlog of 100 that Python's servers listen with.
OPENING = 50


#: The most connections: a client's address has no more ports to one server.
CONNECTIONS = 65_535

#: The most messages in flight on a connection: the time of each is kept until its answer has come.
DEPTH = 1_000_000


#: Seconds that an answer may take when the time is over.
ANSWER = 10.0


def add(commands: Any) -> None:
    """Adds the command and its options."""
    bench = commands.add_parser(
        "bench",
        help="load test of an echo server",
        description="Measures round trips with a server that echoes.",
    )
    add_client_options(bench)
    for name, most, default, words in (
        ("connections", CONNECTIONS, 10, "connections at once"),
        ("depth", DEPTH, 1, "messages in flight on each"),
        ("size", sys.maxsize, 256, "bytes of a message"),
    ):
        bench.add_argument(
            f"--{name}", type=whole(most), default=default, help=f"{words} (default: {default})"
        )
    bench.add_argument("--duration", type=seconds, default=5.0, help="seconds (default: %(default)s)")
    bench.add_argument("--binary", action="store_true", help="binary messages in place of text")
    bench.add_argument(
        "--loop", choices=["asyncio", "uvloop"], default="asyncio", help="event loop (default: %(default)s)"
    )
    bench.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures until the time is over, or Ctrl-C, and prints what was measured. Exit code 3: connections were lost."""
    try:
        load = Load(options)
        measure(load, runner(options.loop))
    except (MemoryError, OverflowError):  # OverflowError: more bytes than there are addresses
        raise Failure(f"there is no memory for messages of {options.size} bytes (--size)") from None
    for line in load.report():
        say(line)
    return 3 if load.lost else 0


def measure(load: Load, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    """Runs the load, to its end or to Ctrl-C, which is passed on if there is nothing to print yet."""
    try:
        run(load.run())
    except KeyboardInterrupt:
        if not load.times.count:
            raise


class Histogram:
    """Times in seconds, in buckets of equal ratio.

    Attributes:
        count, longest: of the times.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count: int = 0
        self.longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts one."""
        bucket = round(math.log2(max(seconds, 1e-9)) * RESOLUTION)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def share(self, share: float) -> float:
        """The time within which this share of all lies; 0.0 when there is none."""
        left = math.ceil(self.count * share)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(float(2 ** (bucket / RESOLUTION)), self.longest)
        return 0.0

    def doublings(self) -> list[tuple[float, int]]:
        """How many lie between each power of two and the next: pairs of that power and the number, without gaps."""
        counts: dict[int, int] = {}
        for bucket, count in self._buckets.items():
            doubling = bucket // RESOLUTION
            counts[doubling] = counts.get(doubling, 0) + count
        if not counts:
            return []
        return [(2.0**power, counts.get(power, 0)) for power in range(min(counts), max(counts) + 1)]


class Load:
    """The connections, and what they have seen.

    Attributes:
        times: of the round trips.
        lost: connections that ended before their time, counted by reason.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._told = options
        self._options = client_options(options)
        self._message: str | bytes = b"x" * options.size if options.binary else "x" * options.size
        self.times: Histogram = Histogram()
        self.lost: Counter[str] = Counter()
        self._open: list[zcws.WebSocket] = []
        self._opening = asyncio.Semaphore(OPENING)
        self._wall = self._cpu = 0.0
        self._end = 0.0

    async def run(self) -> None:
        """Opens all connections, then measures."""
        try:
            await self._open_all()
            self._told.has_begun = True
            wall, cpu = time.perf_counter(), time.process_time()
            self._end = wall + self._told.duration
            showing = asyncio.create_task(self._show(wall))
            try:
                await asyncio.gather(*map(self._work, self._open))
            finally:
                self._wall, self._cpu = time.perf_counter() - wall, time.process_time() - cpu
                showing.cancel()
        finally:
            await asyncio.gather(*(ws.close() for ws in self._open), return_exceptions=True)

    async def _open_all(self) -> None:
        opening = [asyncio.create_task(self._open_one()) for _ in range(self._told.connections)]
        try:
            await asyncio.gather(*opening)
        except Exception as error:
            raise Failure(unreachable(self._told.url, error)) from None
        finally:
            for task in opening:
                task.cancel()  # if one has failed: most likely the others would, one timeout later
            await asyncio.wait(opening)

    async def _open_one(self) -> None:
        async with self._opening:
            self._open.append(await zcws.connect(self._told.url, max_size=None, **self._options))

    async def _work(self, ws: zcws.WebSocket) -> None:
        """One connection, to the last answer."""
        try:
            await asyncio.wait_for(self._exchange(ws), self._told.duration + ANSWER)
        except zcws.ConnectionClosed as error:
            self.lost[str(error)] += 1
        except asyncio.TimeoutError:
            self.lost[f"an answer did not come in {ANSWER:.0f} seconds: does the server echo?"] += 1

    async def _exchange(self, ws: zcws.WebSocket) -> None:
        """An answer for each message, and another message for each answer."""
        sent: deque[float] = deque()
        while self._fill(ws, sent):
            await ws.recv()
            self.times.add(time.perf_counter() - sent.popleft())

    def _fill(self, ws: zcws.WebSocket, sent: deque[float]) -> bool:
        """Sends until `--depth` messages are in flight, or as many as there is room for: an echo server that cannot
        send its answers stops reading, and to wait for it would be to wait for ever.

        Returns: whether an answer is to come.
        """
        while len(sent) < self._told.depth and (not sent or ws.is_writable):
            now = time.perf_counter()
            if now >= self._end:
                break
            sent.append(now)
            ws.send_nowait(self._message)
        return bool(sent)

    # ---- what is shown ----

    async def _show(self, began: float) -> None:
        """A table that changes, for a person at a terminal with rich."""
        terminal = Terminal()
        if terminal.console is None:
            return
        from rich.live import Live

        with Live(console=terminal.console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._table(time.perf_counter() - began), refresh=True)
                await asyncio.sleep(0.25)

    def _table(self, seconds: float) -> Any:
        from rich.table import Table

        table = Table(title=parse_uri(self._told.url).shown)
        figures = {"seconds": f"{seconds:.1f}", "messages/s": f"{self.times.count / max(seconds, 1e-9):,.0f}"}
        figures |= {name: duration(self.times.share(share)) for name, share in SHARES.items()}
        for name in figures:
            table.add_column(name, justify="right")
        table.add_row(*figures.values())
        return table

    def report(self) -> list[str]:
        """The figures and the histogram, line by line."""
        told, times = self._told, self.times
        rate = times.count / self._wall if self._wall else 0.0
        lines = [
            f"{told.connections} connections x {told.depth} in flight, {told.size} bytes, {self._wall:.1f} s",
            f"messages    {times.count}",
            f"messages/s  {rate:.0f}",
            f"MB/s        {rate * told.size / 1e6:.2f} each way",
            *(f"{name:<11} {duration(times.share(share))}" for name, share in SHARES.items()),
            f"longest     {duration(times.longest)}",
            f"lost        {sum(self.lost.values())}",
            *(f"            {count} x {why}" for why, count in self.lost.most_common()),
            f"busy        {100 * self._cpu / self._wall if self._wall else 0:.0f} % of a core, this process",
        ]
        most = max((count for _, count in times.doublings()), default=1)
        for start, count in times.doublings():
            bar = "#" * math.ceil(BAR * count / most)
            lines.append(f"{duration(start):>9}+ {count:>9} {bar}".rstrip())
        return lines


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e6:.1f} us"
