"""Clients that send and wait, against the echo server in C."""

from __future__ import annotations

from functools import partial

from benchmarks.load import CServer
from benchmarks.measure import Plan
from benchmarks.peers import rows_of
from benchmarks.process import Client
from benchmarks.workloads import human

__all__ = ["measure", "run"]

#: Messages in flight, bytes.
QUICK = [(1, 256), (64, 256)]
MORE = [(1, 8192), (1, 100_000)]  # 100 000 bytes: as in the benchmark that picows publishes


def run(plan: Plan) -> None:
    """Everybody, in every case."""
    cases = sorted(QUICK if plan.pace.quick else QUICK + MORE)
    with CServer() as server:
        for clients in plan.rounds_of("clients", rows_of("ECHO", plan.loops), Client):
            for depth, size in cases:
                case = f"1x{depth}, {human(size)}"
                arguments = [server.uri, "x" * size, depth]
                meter = plan.pace.meter(size, exact=size, depth=depth)
                for row, client in clients:
                    plan.measure(
                        "clients", case, row, partial(measure, client, server, "ECHO", arguments, meter)
                    )


def measure(
    client: Client,
    server: CServer,
    role: str,
    arguments: list[object],
    meter: dict[str, object],
    settings: dict[str, object] | None = None,
) -> dict[str, float]:
    """One measurement, with the share of its core that the server in C needed."""
    before = server.cpu()
    figures = client.run(role, arguments, meter, settings or {})
    # The server works through the warm-up too; the share is there to show that it was not what was measured.
    figures["generator_share"] = (server.cpu() - before) / (figures["seconds"] + meter["warmup"])  # type: ignore[operator]
    return figures
