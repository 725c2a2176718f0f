"""Figures that repeat: system calls (strace -c) and user instructions (callgrind) of a server for one echo.

Each is the difference between a long run and a short one, so that connecting and closing cancel out. System calls
repeat exactly; instructions repeat within a percent with one message in flight, less well with 64, where now and then
the garbage collector runs in one of the two runs only. They say nothing about caches and branches; they serve to tell
whether a change makes a difference.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.load import generate
from benchmarks.measure import Plan
from benchmarks.peers import Row, rows_of
from benchmarks.process import Failed, Server, cpu_time, free_port, start, stop

__all__ = ["run"]

CASES = [(1, 1, 256), (1, 64, 256), (64, 1, 256), (1, 1, 65536)]
#: Messages of the short run, and how many more the long one has: multiples of 64, so that no burst is cut. There are
#: fewer for instructions, because under valgrind everything takes fifty times as long.
CALLS = (640, 1920)
INSTRUCTIONS = (256, 768)
#: Seconds for Python to start under valgrind, and for it to close connections.
PATIENCE = 120
#: A process that needs less than this many seconds in a tenth of one is idle.
IDLE = 0.001


def run(plan: Plan) -> str:
    """Counts, and returns the table."""
    tools = [tool for tool in ("strace", "valgrind") if shutil.which(tool)]
    missing = {"strace", "valgrind"} - set(tools)
    lines = [f"{'':34} {'case':16} {'system calls':>13} {'instructions':>13}"]
    for row in rows_of("SERVE", plan.loops):
        calls = dict(_each_case(plan, row, system_calls)) if "strace" in tools else {}
        instructions = dict(_each_case(plan, row, user_instructions)) if "valgrind" in tools else {}
        for case in cases_of(plan):
            name = "{}x{}, {} B".format(*case)
            lines.append(
                f"{row.label:34} {name:16} {_cell(calls.get(case)):>13} {_cell(instructions.get(case)):>13}"
            )
        plan.tables.setdefault("counts", []).extend(_entries(row, calls, instructions))
    if missing:
        lines.append(f"Not counted: {', '.join(sorted(missing))} is not installed.")
    return "\n".join([*lines, *plan.skipped])


Case = tuple[int, int, int]


def cases_of(plan: Plan) -> list[Case]:
    """The cases to count: in a quick run the first two, which show most."""
    return CASES[:2] if plan.pace.quick else CASES


def _entries(
    row: Row, calls: dict[Case, float], instructions: dict[Case, float]
) -> Iterator[dict[str, object]]:
    for case in CASES:
        figures = {"system_calls": calls.get(case), "instructions": instructions.get(case)}
        yield {"row": asdict(row), "case": case, **figures}


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _each_case(plan: Plan, row: Row, count: object) -> Iterator[tuple[Case, float]]:
    try:
        yield from count(plan, row)  # type: ignore[operator]
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        plan.skip(f"counts, {row.label}: {failure}")


def _messages(server: Server, row: Row, case: Case, count: int) -> None:
    connections, depth, size = case
    raw = ["-x"] if row.is_limit else []
    shape = ["-c", connections, "-d", depth, "-s", size, *raw]
    generate(server, [*shape, "-n", count, "-w", 0, "-t", PATIENCE], PATIENCE)
    _settle(server)


def _settle(server: Server) -> None:
    """Waits until the connections are closed too: that belongs to the run that opened them."""
    deadline = time.monotonic() + PATIENCE
    used = -1.0
    while time.monotonic() < deadline and cpu_time(server.process.pid) > used + IDLE:
        used = cpu_time(server.process.pid)
        time.sleep(0.1)


# ---- system calls ----


def system_calls(plan: Plan, row: Row) -> Iterator[tuple[Case, float]]:
    """For each case, system calls a message."""
    server = Server.of(row, "SERVE", {})
    try:
        server.wait()
        for case in cases_of(plan):
            plan.step(f"system calls: {row.label}")
            short, long = (_traced(server, row, case, count) for count in (CALLS[0], sum(CALLS)))
            yield case, (long - short) / CALLS[1]
    finally:
        server.stop()


def _traced(server: Server, row: Row, case: Case, count: int) -> int:
    with tempfile.NamedTemporaryFile("r") as summary:
        command = ["strace", "-c", "-f", "-p", str(server.process.pid), "-o", summary.name]
        tracer = start(command, -1, stderr=subprocess.PIPE)
        assert tracer.stderr is not None
        try:
            if "attached" not in tracer.stderr.readline():
                raise Failed("strace may not attach (ptrace is forbidden here)")
            _messages(server, row, case, count)
        finally:
            tracer.send_signal(signal.SIGINT)  # it prints its summary and lets go
            tracer.wait()
            stop(tracer)
        return _total(summary.read())


def _total(summary: str) -> int:
    """The number of calls in the last line: "100.00    0.011861           4      2571        12 total"."""
    found = re.search(r"^100\.00\s+[\d.]+\s+(?:[\d.]+\s+)?(\d+)(?:\s+\d+)?\s+total$", summary, re.MULTILINE)
    if found is None:
        raise Failed("strace counted nothing")
    return int(found[1])


# ---- instructions ----


class Callgrind(Server):
    """A server that runs under callgrind."""

    def __init__(self, row: Row, folder: str) -> None:
        self.folder, self.dumps = Path(folder), 0
        port = free_port()
        worker: Sequence[str] = ("-m", "benchmarks.worker", "SERVE", json.dumps(asdict(row)), str(port), "{}")
        tool = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        super().__init__([*tool, sys.executable, *worker], port)

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                super().wait()
                return
            except Failed:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise

    def executed(self) -> int:
        """User instructions since the last call."""
        self.dumps += 1
        subprocess.run(
            ["callgrind_control", "--dump", str(self.process.pid)], check=True, capture_output=True
        )
        path = self.folder / f"out.{self.dumps}"
        found = re.search(r"^(?:totals|summary): (\d+)", path.read_text(), re.MULTILINE)
        if found is None:
            raise Failed("callgrind counted nothing")
        return int(found[1])


def user_instructions(plan: Plan, row: Row) -> Iterator[tuple[Case, float]]:
    """For each case, instructions a message."""
    with tempfile.TemporaryDirectory() as folder:
        server = Callgrind(row, folder)
        try:
            server.wait()
            for case in cases_of(plan):
                plan.step(f"instructions: {row.label}")
                # Warms up: the interpreter specialises what runs often.
                _messages(server, row, case, INSTRUCTIONS[0])
                server.executed()
                short, long = (
                    _counted(server, row, case, count) for count in (INSTRUCTIONS[0], sum(INSTRUCTIONS))
                )
                yield case, (long - short) / INSTRUCTIONS[1]
        finally:
            server.stop()


def _counted(server: Callgrind, row: Row, case: Case, count: int) -> int:
    _messages(server, row, case, count)
    return server.executed()
