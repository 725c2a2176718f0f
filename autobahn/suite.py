"""The runner: kosoku in an environment of its own, and one shard of the suite at a time.

A shard is two processes; the one that listens is started first. Their output goes to files beside the reports, and the
one that listens prints its port there. Apart from that, the file of zcws has to stay empty: a handler that failed is a
bug of ours, even if the suite accepts how the connection ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cases import Shard
from compare import ReportError, Verdicts, read_report

__all__ = ["MODES", "Job", "install_runner", "run_job", "stop_all"]

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".tools" / "kosoku"
REPORTS = HERE / "reports"

#: Pinned: a new version is a commit, as with the other tools.
RUNNER = "kosoku==0.1.0"

MODES = ("servers", "clients")

_LISTENING = re.compile(r"listening on \S+:(\d+)\n")

#: Seconds between two looks at a file: a start takes ten times as long.
_LOOK = 0.03

#: The processes that run now, for `stop_all`.
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Job:
    """One shard, against one face of zcws, in one mode."""

    mode: str
    driver: str
    loop: str
    shard: Shard

    @property
    def where(self) -> tuple[str, str, str]:
        """For the table of differences."""
        return self.mode, self.driver, self.loop

    @property
    def directory(self) -> Path:
        """Where its reports and the output of both processes go."""
        return REPORTS / "-".join(self.where) / self.shard.name.replace(" ", "-")


# ---- the runner's environment ----


def _python_of(environment: Path) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / "python"


def install_runner() -> None:
    """Makes the environment if it is missing.

    kosoku is an extension for ordinary CPython: under PyPy and free-threaded CPython another Python runs it.
    """
    stamp = ENVIRONMENT / RUNNER
    if stamp.exists():
        return
    fits = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
    base = sys.executable if fits else shutil.which("python3") or sys.executable
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([base, "-m", "venv", "--without-pip", str(ENVIRONMENT)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(_python_of(ENVIRONMENT))]
    subprocess.run([*pip, "install", "--quiet", "--disable-pip-version-check", RUNNER], check=True)
    stamp.touch()


# ---- one shard ----


def run_job(job: Job, deadline: float) -> Verdicts:
    """Runs it, and gives the verdicts.

    Args:
        job: what to run.
        deadline: when to give up, on the clock of `time.monotonic`.

    Raises:
        ReportError: there is no complete report, or zcws has logged something.
    """
    directory = job.directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    ours, theirs = directory / "zcws.log", directory / "kosoku.log"
    if job.mode == "servers":
        with _listening(_zcws("server.py", job), ours, deadline) as (_, port):
            _finish(_start(_kosoku("fuzzingclient", f"127.0.0.1:{port}", job), theirs), deadline)
    else:
        with _listening(_kosoku("fuzzingserver", "127.0.0.1:0", job), theirs, deadline) as (server, port):
            status = _finish(_start([*_zcws("client.py", job), f"ws://127.0.0.1:{port}"], ours), deadline)
            if status:  # the suite would wait for its return
                raise ReportError(f"zcws ended with status {status}:\n{_said(ours)}")
            _finish(server, deadline)  # it writes its reports and ends
    verdicts = read_report(directory / "index.json", job.shard)
    _check_silent(ours)
    return verdicts


def _zcws(script: str, job: Job) -> list[str]:
    # Only warnings about what we forgot to close: others have causes outside of this project.
    return [sys.executable, "-W", "always::ResourceWarning", str(HERE / script), job.driver, job.loop]


def _kosoku(mode: str, address: str, job: Job) -> list[str]:
    command = [str(_python_of(ENVIRONMENT)), str(HERE / "mended_kosoku.py"), "-m", mode, address]
    for pattern in job.shard.patterns:
        command += ["-i", pattern]
    return [*command, "-o", str(job.directory)]


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    _running.add(process)
    return process


def _finish(process: subprocess.Popen[bytes], deadline: float) -> int:
    """Waits until the process ends. Returns its status; kosoku's says nothing that its report does not."""
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise ReportError("not done at the time limit") from None
    finally:
        _stop(process)


@contextlib.contextmanager
def _listening(
    command: list[str], log: Path, deadline: float
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that listens, and where; it is stopped in the end."""
    process = _start(command, log)
    try:
        yield process, _port_in(log, process, deadline)
    finally:
        _stop(process)


def _port_in(log: Path, process: subprocess.Popen[bytes], deadline: float) -> int:
    while True:
        ended = process.poll() is not None
        said = _said(log)
        found = _LISTENING.search(said)
        if found:
            return int(found[1])
        if ended or time.monotonic() > deadline:
            raise ReportError(f"{log.name}: it never listened\n{said}")
        time.sleep(_LOOK)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    _running.discard(process)


def stop_all() -> None:
    """Kills all processes; the jobs that wait for them fail."""
    for process in list(_running):
        process.kill()


def _check_silent(log: Path) -> None:
    said = _LISTENING.sub("", _said(log))
    if said.strip():
        raise ReportError(f"the suite is content, but zcws had something to say:\n{said}")


def _said(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
