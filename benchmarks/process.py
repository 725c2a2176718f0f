"""Starting what is measured and what measures it, each on a core of its own."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers import Row

__all__ = [
    *("CORES", "ROOT", "Client", "Failed", "Server"),
    *("cpu_time", "free_port", "pinned", "raise_limit", "start", "stop"),
]

ROOT = Path(__file__).resolve().parents[1]
#: What is measured runs on the first core, what measures it on the last.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
#: Seconds for a server to listen: Python's start-up and its imports, on a loaded machine.
PATIENCE = 20.0
#: Seconds for a client's answer beyond what it was told to measure.
GRACE = 30.0
#: The ports that were given to servers of this run.
_GIVEN: set[int] = set()


class Failed(Exception):
    """This row cannot be measured; the message says why."""


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Children that are started inside run on this core: the first (0) or the last (-1)."""
    if len(CORES) < 2:
        yield
        return
    os.sched_setaffinity(0, {CORES[core]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, CORES)


def start(command: Sequence[str], core: int, **options: Any) -> subprocess.Popen[str]:
    """A child with text pipes, in the repository's root, so that `benchmarks` can be imported there."""
    with pinned(core):
        return subprocess.Popen(command, cwd=ROOT, text=True, **options)


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a child that we started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


class Log:
    """A child's stderr, in a file: a pipe that nobody reads fills up with tracebacks, and the child stands still."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile("w+")

    def last_line(self) -> str:
        """The last line, which of a traceback says what the exception was."""
        self.file.seek(0)
        lines = self.file.read().split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")


def cpu_time(pid: int) -> float:
    """Seconds of CPU time that a process has used, all its threads, in nanosecond steps."""
    # clock_getcpuclockid(3), which Python lacks: Linux makes the clock's id from the process's.
    return time.clock_gettime((~pid << 3) | 2)


def raise_limit() -> None:
    """Allows as many open files as the system lets us have; children inherit that."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port() -> int:
    """A port that nobody listens on, and that was not given before: its server may still be starting up."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port


class Server:
    """A server under measurement, listening."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self.port = port
        self.log = Log()
        self.process = start(command, 0, stdout=subprocess.DEVNULL, stderr=self.log.file)

    @classmethod
    def of(cls, row: Row, role: str, settings: Mapping[str, Any]) -> Server:
        """The echo server (or BROADCAST) of a Python library."""
        port = free_port()
        arguments = [role, json.dumps(asdict(row)), str(port), json.dumps(settings)]
        return cls([sys.executable, "-m", "benchmarks.worker", *arguments], port)

    def wait(self) -> None:
        """Waits until it listens."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failed(f"it ended at once: {self.log.last_line()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise Failed("it does not listen")

    def stop(self) -> None:
        """Ends it."""
        stop(self.process)
        self.log.file.close()


class Client:
    """A client under measurement: a process that takes jobs."""

    def __init__(self, row: Row) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", "client", json.dumps(asdict(row))]
        self.log = Log()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = start(command, 0, **pipes, stderr=self.log.file)

    def wait(self) -> None:
        """Does nothing: the first job waits for the imports."""

    def run(
        self, role: str, arguments: Sequence[Any], meter: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> dict[str, float]:
        """The figures of one job."""
        job = {"role": role, "arguments": arguments, "meter": meter, "settings": settings}
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            line = _read_line(self.process, meter["seconds"] + meter["warmup"] + GRACE)
        except BrokenPipeError:
            line = ""
        if not line:
            self.stop()
            raise Failed(self.log.last_line() or "it does not answer")
        figures: dict[str, float] = json.loads(line)
        return figures

    def stop(self) -> None:
        """Ends it."""
        if self.process.returncode is None:
            stop(self.process)


def _read_line(process: subprocess.Popen[str], seconds: float) -> str:
    """A line of stdout; nothing when it takes too long or the process ends."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if ready else ""
