"""Echo servers whose peers' messages come as networks bring them: in packets, with time between two.

1,448 bytes is what a packet of Ethernet carries of TCP, and one every 40 us is 290 Mbit/s. Whoever is woken by each of
them pays for each; loopback alone, which carries 64 KiB at a time, does not show that.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Pace, Plan
from benchmarks.peers import Row, native, rows_of
from benchmarks.process import Server
from benchmarks.pyload import generate, make_certificate
from benchmarks.workloads import human, tls
from benchmarks.workloads.echo import check_echo, serve

__all__ = ["run"]

SIZES = (8192, 65536, 1 << 20)
#: Bytes of each, and seconds from one to the next.
PACKETS = (1448, 40e-6)


def run(plan: Plan) -> None:
    """Everybody plain, and who speaks TLS, over that."""
    rows = rows_of("SERVE", plan.loops)
    measure(plan, rows + native.rows(plan), "", {})
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        if certificate is None:
            plan.skip("packets, TLS: certificates need the package trustme")
        else:
            measure(plan, rows, ", TLS", {"certificate": certificate})


def measure(plan: Plan, rows: list[Row], how: str, settings: dict[str, Any]) -> None:
    """Every size, by turns."""
    for servers in plan.rounds_of("packets", rows, lambda row: serve(row, settings)):
        for size in SIZES[:: 2 if plan.pace.quick else 1]:
            for row, server in servers:
                function = partial(echo, plan.pace, row, server, size, settings)
                plan.measure("packets", f"{human(size)}{how}", row, function)


def echo(pace: Pace, row: Row, server: Server, size: int, settings: dict[str, Any]) -> dict[str, float]:
    """One measurement."""
    case = (1, 1, size)
    if "certificate" in settings:
        return tls.echo(pace, row, server, settings["certificate"], case, PACKETS)
    if not row.is_limit:
        check_echo(row, server, settings)
    return generate(pace, server, case, raw=row.is_limit, packets=PACKETS)
