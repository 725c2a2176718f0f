"""Echo servers under the load generator: connections x messages in flight on each, in several sizes."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from benchmarks.load import generate
from benchmarks.measure import Pace, Plan
from benchmarks.peers import Row, native, rows_of
from benchmarks.process import Failed, Server
from benchmarks.workloads import human

__all__ = ["check_echo", "run", "serve"]

#: Connections, messages in flight on each, bytes; first those that a quick run has.
QUICK = [(1, 1, 256), (1, 64, 256), (64, 1, 256), (64, 1, 8192), (1, 1, 1 << 20)]
MORE = [(1, 1, 20), (1, 1, 8192), (1, 1, 65536), (1, 64, 20), (1, 64, 8192), (64, 1, 65536), (500, 1, 256)]

#: Whose echoes have been compared with what was sent: once a run is enough.
checked: set[tuple[Row, str]] = set()


def run(plan: Plan) -> None:
    """Everybody, in every case."""
    rows = rows_of("SERVE", plan.loops) + native.rows(plan)
    cases = sorted(QUICK if plan.pace.quick else QUICK + MORE)
    for servers in plan.rounds_of("echo", rows, lambda row: serve(row, {})):
        for connections, depth, size in cases:
            case = f"{connections}x{depth}, {human(size)}"
            for row, server in servers:
                plan.measure(
                    "echo", case, row, partial(echo, plan.pace, row, server, connections, depth, size)
                )


def echo(pace: Pace, row: Row, server: Server, connections: int, depth: int, size: int) -> dict[str, float]:
    """One measurement."""
    raw = ["-x"] if row.is_limit else []
    if not raw:
        check_echo(row, server, {})
    return generate(server, ["-c", connections, "-d", depth, "-s", size, *raw, *pace.time])


def serve(row: Row, settings: dict[str, Any]) -> Server:
    """The row's echo server, about to listen."""
    return native.serve(row) if row.library == "native" else Server.of(row, "SERVE", settings)


def check_echo(row: Row, server: Server, settings: dict[str, Any]) -> None:
    """Compares what comes back with what was sent, with a client that is neither the generator nor ours."""
    key = (row, json.dumps(settings))
    if key in checked:
        return
    from websockets.sync.client import connect

    from benchmarks.peers.websockets import client_options
    from benchmarks.worker import settings_of

    scheme = "wss" if settings.get("certificate") else "ws"
    options = client_options(settings_of(settings, server=False))
    with connect(f"{scheme}://127.0.0.1:{server.port}/", **options) as ws:
        for message in ("", "x" * 125, "für Elise, ありがとう " * 10_000, bytes(range(256)) * 300):
            ws.send(message)
            if ws.recv() != message:
                raise Failed("it sends back something else than it got")
    checked.add(key)
