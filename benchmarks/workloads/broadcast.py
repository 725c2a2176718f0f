"""One message to a thousand connections: from the moment it is sent to the moment the last one has it."""

from __future__ import annotations

from functools import partial

from benchmarks.load import generate
from benchmarks.measure import Plan
from benchmarks.peers import rows_of
from benchmarks.process import Server, raise_limit
from benchmarks.workloads import human

__all__ = ["run"]

CONNECTIONS = 1000
SIZES = (256, 8192, 16384)


def run(plan: Plan) -> None:
    """Everybody who has a way to do it; without `broadcast()`, a loop."""
    raise_limit()
    rows = rows_of("BROADCAST", plan.loops)
    for servers in plan.rounds_of("broadcast", rows, lambda row: Server.of(row, "BROADCAST", {})):
        for size in SIZES:
            case = f"1 to {CONNECTIONS}, {human(size)}"
            for row, server in servers:
                arguments = ["-B", "-c", CONNECTIONS, "-s", size, *plan.pace.time]
                function = partial(generate, server, arguments)
                plan.measure("broadcast", case, row, function, unit="µs CPU a delivery")
