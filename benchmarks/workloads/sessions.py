"""Whole sessions: connect, shake hands, send messages one after another, close. 64 at a time.

Without messages it counts handshakes. The eight others are the cases of wtx-bench, the benchmark of the library
that zcws is named after: 1 or 64 messages of 8 KiB or 2 MiB of text, in 1 or 64 frames; their geometric mean is a
line of its own. wtx-bench reports milliseconds a connection; CPU time a session of the server is the figure here, since
on two cores the clock would show the generator's work too, and the milliseconds stand beside it.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import product

from benchmarks.load import generate
from benchmarks.measure import Pace, Plan
from benchmarks.peers import Row, native, rows_of
from benchmarks.process import Server
from benchmarks.workloads import human
from benchmarks.workloads.echo import serve

__all__ = ["run"]

CONNECTIONS = 64
#: 64 connections that echo 128 MiB each are 8 GiB a measurement; with this many it is the same work per message.
CONNECTIONS_HEAVY = 4
#: Seconds on a server that is neither fast nor slow.
SESSION, FRAME, BYTE = 300e-6, 4e-6, 1e-9
UNIT = "µs CPU a session"
MEAN = "wtx-bench, geometric mean"


def run(plan: Plan) -> None:
    """Handshakes, the eight cases, and their mean."""
    rows = [row for row in rows_of("SERVE", plan.loops) + native.rows(plan) if not row.is_limit]
    wtx = list(product((1, 64), (8192, 2 << 20), (1, 64)))
    for servers in plan.rounds_of("sessions", rows, lambda row: serve(row, {})):
        for row, server in servers:
            plan.measure("sessions", "handshakes", row, partial(handshakes, plan.pace, server), unit=UNIT)
        for messages, size, pieces in wtx:
            case = f"{messages} x {human(size)} in {pieces}"
            for row, server in servers:
                function = partial(sessions, plan.pace, server, messages, size, pieces)
                plan.measure("sessions", case, row, function, unit=UNIT)
    for row in rows:
        add_mean(plan, row)


def handshakes(pace: Pace, server: Server) -> dict[str, float]:
    """Connect, shake hands, close."""
    return generate(server, ["-c", CONNECTIONS, "-m", 0, *pace.time])


def sessions(pace: Pace, server: Server, messages: int, size: int, pieces: int) -> dict[str, float]:
    """A fixed number of sessions: all of each is counted."""
    connections = CONNECTIONS if messages * size < 16 << 20 else CONNECTIONS_HEAVY
    # Everybody at least once, and about as long as everything else is measured. The estimate is of a server in the
    # middle: seconds for a session, a frame and a byte.
    estimate = SESSION + messages * (pieces * FRAME + size * BYTE)
    count = max(connections, int(pace.seconds / estimate))
    arguments = ["-c", connections, "-m", messages, "-s", size, "-f", pieces, "-n", count, "-w", 0, "-t", 60]
    return generate(server, arguments, seconds=60)


def add_mean(plan: Plan, row: Row) -> None:
    """The geometric mean of the eight cases, round by round."""
    cases = [r for (w, c, r_), r in plan.results.items() if w == "sessions" and r_ == row and " in " in c]
    if len(cases) < 8:
        return
    for measured in zip(*(result.rounds for result in cases), strict=False):
        mean = {
            figure: math.exp(sum(math.log(m[figure]) for m in measured) / 8)
            for figure in ("cpu_us", "p50_us")
        }
        plan.record("sessions", MEAN, row, mean, unit=UNIT)
