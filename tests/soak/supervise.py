"""A soak from above: starts the processes, stops some of them for a moment, and puts both sides' counts together."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .gauge import Gauge, of_process
from .plan import Plan
from .tally import Tally, complaints

__all__ = ["Soak", "Worker", "soak"]

ROOT = Path(__file__).parents[2]

#: Who serves and who talks: a name, the role, the driver, and whether the engine is on.
SERVERS = (("server engine", "aio", "1"), ("server transport", "aio", "0"), ("server sync", "sync", "1"))
CLIENTS = (("client engine", "aio", "1"), ("client transport", "aio", "0"), ("client sync", "sync", "1"))

#: Seconds that a process is stopped (SIGSTOP), and between two of those. Below every timeout, above every queue.
PAUSE, BETWEEN = (0.05, 1.5), (1.0, 5.0)

#: Seconds between two looks at memory and descriptors.
LOOK = 1.0

#: Seconds for a process to finish what it is at.
PATIENCE = 180.0


class Worker:
    """One process, and what it has said."""

    def __init__(self, name: str, engine: str, *arguments: str) -> None:
        self.name = name
        self.end: Gauge | None = None
        command = [sys.executable, "-m", "tests.soak.worker", *arguments]
        env = {**os.environ, "ZCWS_ENGINE": engine}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=env)
        first = json.loads(self._lines.readline() or "{}")
        self.ports: list[int] = first.pop("ports", [])
        self.start = Gauge(**first)
        self.gauges = [self.start]
        self.has_ended = False

    @property
    def _lines(self) -> Any:
        return self.process.stdout

    def listen(self, hear: Callable[[dict[str, Any]], object]) -> threading.Thread:
        """Hands on what it says, in a thread that ends with it."""

        def work() -> None:
            for line in self._lines:
                said = json.loads(line)
                if "end" in said:
                    self.end, self.has_ended = Gauge(**said["end"]), True
                else:
                    hear(said)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def look(self) -> None:
        if not self.has_ended:
            with contextlib.suppress(OSError):  # it ends just now
                self.gauges.append(of_process(self.process.pid))

    def pause(self, seconds: float) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.process.send_signal(signal.SIGCONT)

    def finish(self) -> int:
        """Its stdin ends. Returns its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return -signal.SIGKILL


@dataclass
class Soak:
    """What has been counted.

    Attributes:
        endings, styles: sessions by how they ended, and by how they were read and written.
        waiting: sessions of which only one side has reported.
        problems: what is wrong; the first hundred.
    """

    seed: int
    seconds: float = 0.0
    sessions: int = 0
    messages: int = 0
    size: int = 0
    pauses: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    styles: Counter[str] = field(default_factory=Counter)
    waiting: dict[int, Tally] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, said: dict[str, Any]) -> None:
        """A line of a worker."""
        with self.lock:
            if "failure" in said:
                self.complain(said["failure"])
            else:
                self._report(Tally(**said["tally"]))

    def complain(self, problem: str) -> None:
        if len(self.problems) < 100:
            self.problems.append(problem)

    def _report(self, tally: Tally) -> None:
        other = self.waiting.pop(tally.session, None)
        if other is None:
            self.waiting[tally.session] = tally
            return
        client, server = (tally, other) if tally.side == "client" else (other, tally)
        plan = Plan.of(self.seed, tally.session)
        for complaint in complaints(plan, client, server):
            self.complain(f"{complaint}\n    {plan}\n    {client}\n    {server}")
        self._count(plan, client, server)

    def _count(self, plan: Plan, client: Tally, server: Tally) -> None:
        self.sessions += 1
        self.messages += client.received + server.received
        self.size += client.size + server.size
        self.endings[plan.ending] += 1
        for what in (f"read {plan.client}", f"served {plan.server}", f"sent {plan.form}"):
            self.styles[what] += 1
        if plan.compression:
            self.styles["compressed"] += 1
        if plan.slow:
            self.styles["read slowly"] += 1


def soak(seed: int, seconds: float, say: Callable[[Soak], object] = lambda _: None) -> Soak:
    """A whole run: `seconds` from when all processes are there, and as long as it takes to finish what is under way."""
    run = Soak(seed)
    with _started(run, seconds) as listening:
        started = time.monotonic()
        _disturb(run, started + seconds, say)
        servers, clients = run.workers[: len(SERVERS)], run.workers[len(SERVERS) :]
        for worker in [*clients, *servers]:
            code = worker.finish()
            if code:
                run.complain(f"{worker.name} ended with {code}")
        for thread in listening:
            thread.join()
    run.seconds = time.monotonic() - started
    for tally in run.waiting.values():
        run.complain(f"only one side has reported: {tally} of {Plan.of(seed, tally.session)}")
    return run


@contextlib.contextmanager
def _started(run: Soak, seconds: float) -> Iterator[list[threading.Thread]]:
    """All processes; those that are left are killed at the end."""
    seed = ["--seed", str(run.seed)]
    try:
        for name, driver, engine in SERVERS:
            run.workers.append(Worker(name, engine, "serve", driver, *seed))
        ports = json.dumps([worker.ports for worker in run.workers])
        for lane, (name, driver, engine) in enumerate(CLIENTS):
            where = ["--ports", ports, "--lane", str(100 * lane), "--seconds", str(seconds)]
            run.workers.append(Worker(name, engine, "talk", driver, *seed, *where))
        yield [worker.listen(run.hear) for worker in run.workers]
    finally:
        for worker in run.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            with worker.process:  # waits, and closes its pipes
                pass


def _disturb(run: Soak, until: float, say: Callable[[Soak], object]) -> None:
    """Looks at every process each second, and stops one of them for a moment now and then."""
    rng = random.Random(run.seed)
    due = time.monotonic() + rng.uniform(*BETWEEN)
    while time.monotonic() < until:
        time.sleep(LOOK)
        for worker in run.workers:
            worker.look()
        if time.monotonic() > due:
            rng.choice(run.workers).pause(rng.uniform(*PAUSE))
            run.pauses += 1
            due = time.monotonic() + rng.uniform(*BETWEEN)
        say(run)
