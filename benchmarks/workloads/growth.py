"""Echo servers with ever more connections, of which one in a hundred is busy: what idle ones cost the others.

The curve should be flat. The busy ones, too, become more (1, 1, 1, 10, 100): up to a hundred connections one is alone
in a turn of the event loop, from there on there are several in each, which costs less. "Opening" is the CPU time of
one connection's opening handshake on the way there.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from functools import partial

from benchmarks.load import generate
from benchmarks.measure import Pace, Plan
from benchmarks.peers import Row, rows_of
from benchmarks.process import Failed, Server, cpu_time, raise_limit
from benchmarks.pyload import open_connection
from benchmarks.workloads.echo import serve
from benchmarks.workloads.memory import settle

__all__ = ["run"]

QUICK = [1, 100, 1_000]
MORE = [10, 10_000]
#: One in so many is busy.
BUSY = 100
SIZE = 256
#: Seconds for one connection to open, while ten thousand others do nothing.
PATIENCE = 30


def run(plan: Plan) -> None:
    """Each server grows; what is open stays open until its last case."""
    raise_limit()
    sizes = sorted(QUICK if plan.pace.quick else QUICK + MORE)
    rows = [row for row in rows_of("SERVE", plan.loops) if not row.is_limit]
    for servers in plan.rounds_of("growth", rows, lambda row: serve(row, {})):
        for row, server in servers:
            with ExitStack() as idle:
                grow(plan, row, server, sizes, idle)


def grow(plan: Plan, row: Row, server: Server, sizes: list[int], idle: ExitStack) -> None:
    """All sizes of one server, in their order."""
    opened = 0
    for size in sizes:
        busy = max(1, size // BUSY)
        try:
            used = open_idle(server, size - busy - opened, idle)
        except (Failed, OSError) as failure:
            plan.skip(f"growth, {row.label}: at {size:,} connections: {failure}")
            return
        if size == sizes[-1]:
            cost = {"cpu_us": used / (size - busy - opened) * 1e6}
            plan.record("growth", f"opening each of {size:,}", row, cost, unit="µs CPU a connection")
        opened = max(opened, size - busy)
        case = f"{size:,} open, {busy} busy"
        plan.measure("growth", case, row, partial(echo, plan.pace, server, busy))


def open_idle(server: Server, count: int, idle: ExitStack) -> float:
    """So many more connections that say nothing. Returns the CPU time that they took, seconds."""
    settle(server)
    before = cpu_time(server.process.pid)
    for _ in range(count):
        connection: socket.socket = open_connection(server.port, None, raw=False, timeout=PATIENCE)
        idle.enter_context(connection)
    return cpu_time(server.process.pid) - before


def echo(pace: Pace, server: Server, busy: int) -> dict[str, float]:
    """One measurement."""
    return generate(server, ["-c", busy, "-d", 1, "-s", SIZE, *pace.time])
