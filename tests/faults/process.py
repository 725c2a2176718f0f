"""A server in a process of its own, and a witness: a connection that behaves, and must notice nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import raw

import zcws.sync

__all__ = ["KINDS", "LONG", "Served", "Witness", "elapsed", "server"]

ROOT = Path(__file__).parents[2]

#: How a server may be driven.
KINDS = ("engine", "transport", "sync")

LONG = raw.LONG

#: Seconds between two questions of a witness.
_PAUSE = 0.005

_PATIENT: dict[str, Any] = {"proxy": None, "open_timeout": LONG, "close_timeout": LONG, "ping_interval": None}


class Served:
    """A server's process."""

    def __init__(self, process: subprocess.Popen[str], host: str = "127.0.0.1") -> None:
        assert process.stdout is not None
        self.process = process
        self.pid = process.pid
        self.port = int(process.stdout.readline())
        self.uri = f"ws://{host}:{self.port}/"

    def connect(self, **options: Any) -> zcws.sync.WebSocket:
        """A blocking client of ours."""
        return zcws.sync.connect(self.uri, **{**_PATIENT, **options})

    def ask(self, command: str, ws: zcws.sync.WebSocket | None = None) -> Any:
        """What the server answers to a command."""
        with contextlib.ExitStack() as stack:
            if ws is None:
                ws = stack.enter_context(self.connect())
            ws.send(command)
            return json.loads(ws.recv(LONG, decode=True))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def server(
    kind: str, *prefix: str, status: int = 0, host: str = "127.0.0.1", **options: Any
) -> Iterator[Served]:
    """One server; `prefix` is put before its command (`ip netns exec ...`). It ends with `status`: 0, by itself."""
    arguments = [
        "sync" if kind == "sync" else "aio",
        f"host={host!r}",
        *(f"{name}={value!r}" for name, value in options.items()),
    ]
    command = [*prefix, sys.executable, "-m", "tests.faults.server", *arguments]
    env = {**os.environ, "ZCWS_ENGINE": "0" if kind == "transport" else "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=env) as process:
        try:
            yield Served(process, host)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(LONG) == status
        finally:
            process.kill()


class Witness:
    """Asks for an echo again and again, in a thread. `with Witness(served) as witness`: raises at the end what failed.

    Attributes:
        answers: echoes that came, each the right one. longest: the most seconds that one took.
    """

    def __init__(self, served: Served) -> None:
        self._ws = served.connect()
        self._is_over = False
        self.answers = 0
        self.longest = 0.0
        self._thread = raw.thread(self._work)

    def _work(self) -> None:
        with self._ws as ws:
            while not self._is_over:
                asked = time.monotonic()
                ws.send(f"question {self.answers}")
                assert ws.recv(LONG) == f"question {self.answers}"
                self.answers += 1
                self.longest = max(self.longest, time.monotonic() - asked)
                time.sleep(_PAUSE)
        assert ws.close_code == 1000

    def asks(self, count: int) -> None:
        """Waits for so many more answers, or until there will be none: the end of the block says why. Each has its
        own LONG, as in the thread: on a busy machine many of them take longer than one may."""
        for wanted in range(self.answers + 1, self.answers + count + 1):
            raw.until(lambda: self.answers >= wanted or not self._running.is_alive())  # noqa: B023

    def __enter__(self) -> Witness:
        self._running = self._thread.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._is_over = True
        self._thread.__exit__(*exc)


def elapsed(since: float) -> float:
    return round(time.monotonic() - since, 3)
