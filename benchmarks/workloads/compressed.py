"""Echo of realistic text with permessage-deflate, and what the levels are worth.

Equal terms: windows of 15 bits, memLevel 8, contexts kept, everything compressed, the same level. Two libraries
cannot be told a level: aiohttp has 1, picows has 6; so there is a table for each of these.
"""

from __future__ import annotations

import time
import zlib
from functools import partial
from pathlib import Path

from benchmarks import corpus, frames
from benchmarks.load import frames_file, generate
from benchmarks.measure import Pace, Plan
from benchmarks.peers import Row, load, rows_of
from benchmarks.process import Server
from benchmarks.workloads import human
from benchmarks.workloads.echo import check_echo, serve

__all__ = ["run"]

#: Kind of text, bytes, and how many different ones there are.
CASES = [("feed", 1024, 64), ("log", 16 * 1024, 16), ("html", 1 << 20, 4)]
LEVELS = (1, 6)
#: What the incoming messages were compressed with, for everybody alike.
INCOMING = 6
#: The client's window may be limited, the server's need not.
OFFER = "permessage-deflate; client_max_window_bits"
#: picows' core does not compress; frames are no different once they are inflated.
COMPRESSES = ("zcws", "picows.websockets", "aiohttp", "websockets")


def run(plan: Plan) -> None:
    """The echoes, then the levels."""
    for level in LEVELS:
        run_level(plan, level)
    plan.tables["levels"] = [line for kind, size, count in CASES for line in levels(plan, kind, size, count)]


def run_level(plan: Plan, level: int) -> None:
    """Everybody who can have this level."""
    rows = [row for row in rows_of("SERVE", plan.loops, lambda name: name in COMPRESSES) if has(row, level)]
    for servers in plan.rounds_of("compressed", rows, lambda row: serve(row, {"level": level})):
        for kind, size, count in CASES:
            incoming = frames.compressed(corpus.messages(kind, size, count), level=INCOMING, masked=True)
            with frames_file(incoming) as path:
                for row, server in servers:
                    case = f"{kind}, {human(size)}, level {level}"
                    plan.measure("compressed", case, row, partial(echo, plan.pace, row, server, path, level))


def has(row: Row, level: int) -> bool:
    """Some have one level only."""
    return getattr(load(row.library), "ONLY_LEVEL", level) == level


def echo(pace: Pace, row: Row, server: Server, path: Path, level: int) -> dict[str, float]:
    """One measurement; `bytes_per_unit` is what came back over the wire."""
    check_echo(row, server, {"level": level})
    # Four in flight: the server never waits for the generator, and 1 MiB stays within the socket's buffers.
    return generate(server, ["-F", path, "-e", OFFER, "-d", 4, *pace.time])


# ---- level against size and time ----


def levels(plan: Plan, kind: str, size: int, count: int) -> list[dict[str, object]]:
    """Lines of the table: the compressor alone, in this process."""
    from zlib_ng import zlib_ng

    texts = corpus.messages(kind, size, count)
    lines: list[dict[str, object]] = []
    for library, module in (("zlib", zlib), ("zlib-ng", zlib_ng)):
        for level in (1, 2, 3, 6, 9):
            plan.step(f"levels: {kind}, {library} {level}")
            compressor = module.compressobj(level, module.DEFLATED, -15)
            began, written, rounds = time.process_time(), 0, 0
            while rounds == 0 or time.process_time() < began + 0.05:
                for text in texts:
                    written += len(compressor.compress(text) + compressor.flush(module.Z_SYNC_FLUSH)) - 4
                rounds += 1
            cpu = time.process_time() - began
            lines.append(
                {
                    "text": f"{kind}, {human(size)}",
                    "library": library,
                    "level": level,
                    "percent": 100 * written / (rounds * count * size),
                    "cpu_us": cpu / rounds / count * 1e6,
                }
            )
    return lines
