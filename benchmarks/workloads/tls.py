"""Echo servers over TLS. picows brings aiofastnet's transports along; others get them from a patched event loop, so
both kinds are rows.
"""

from __future__ import annotations

import importlib.util
import ssl
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measure import Pace, Plan
from benchmarks.peers import Row, rows_of
from benchmarks.process import Failed, Server
from benchmarks.pyload import generate, make_certificate
from benchmarks.workloads import human
from benchmarks.workloads.echo import check_echo

__all__ = ["echo", "run"]

CASES = [(1, 1, 256), (16, 1, 256), (1, 1, 65536)]
#: Who takes aiofastnet without being told.
BRINGS_AIOFASTNET = ("picows",)


def run(plan: Plan) -> None:
    """Everybody, in every case."""
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        if certificate is None:
            plan.skip("tls: certificates need the package trustme")
            return
        settings = {"certificate": certificate}
        for servers in plan.rounds_of("tls", rows(plan), lambda row: Server.of(row, "SERVE", settings)):
            for connections, depth, size in CASES[:: 2 if plan.pace.quick else 1]:
                case = f"{connections}x{depth}, {human(size)}"
                for row, server in servers:
                    numbers = (connections, depth, size)
                    plan.measure(
                        "tls", case, row, partial(echo, plan.pace, row, server, certificate, numbers)
                    )


def rows(plan: Plan) -> list[Row]:
    """Everybody on every loop, and with aiofastnet on the last one."""
    plain = rows_of("SERVE", plan.loops)
    if importlib.util.find_spec("aiofastnet") is None:
        return plain
    patched = rows_of("SERVE", [f"{plan.loops[-1]}+aiofastnet"])
    return plain + [row for row in patched if row.library not in BRINGS_AIOFASTNET]


def echo(
    pace: Pace,
    row: Row,
    server: Server,
    certificate: str,
    numbers: tuple[int, int, int],
    packets: tuple[int, float] = (0, 0),
) -> dict[str, float]:
    """One measurement. `packets`: see `generate`."""
    if not row.is_limit:
        try:
            check_echo(row, server, {"certificate": certificate})
        except (ssl.SSLError, OSError) as error:
            raise Failed(f"no TLS: {error}") from None
    return generate(pace, server, numbers, certificate=certificate, raw=row.is_limit, packets=packets)
