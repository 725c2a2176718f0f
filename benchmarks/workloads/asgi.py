"""One ASGI application behind uvicorn, echoing, with each WebSocket protocol that uvicorn can be given."""

from __future__ import annotations

from functools import partial

from benchmarks.measure import Plan
from benchmarks.peers import rows_of
from benchmarks.process import Server
from benchmarks.workloads import human
from benchmarks.workloads.echo import echo

__all__ = ["run"]

#: Connections, messages in flight on each, bytes.
CASES = [(64, 1, 256), (1, 64, 256)]


def run(plan: Plan) -> None:
    """Everybody, in every case."""
    rows = rows_of("ASGI", plan.loops)
    if not any(not row.is_ours for row in rows):
        plan.skip("asgi: there is no uvicorn")
        return
    for servers in plan.rounds_of("asgi", rows, lambda row: Server.of(row, "ASGI", {})):
        for connections, depth, size in CASES:
            case = f"{connections}x{depth}, {human(size)}"
            for row, server in servers:
                plan.measure(
                    "asgi", case, row, partial(echo, plan.pace, row, server, connections, depth, size)
                )
