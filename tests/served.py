"""`python -m zcws serve --echo` as a user runs it: a process of its own, stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

#: What Python itself does to a process when tests ask for it must not change what the process prints.
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1"}


def zcws(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, run to its end."""
    command = [sys.executable, "-m", "zcws", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**ENVIRONMENT, **environment}, check=False, timeout=60
    )


@dataclass
class Served:
    """A server that runs. announcement: the line that it printed; port: where it listens."""

    process: subprocess.Popen[str]
    announcement: str
    port: int

    def interrupt(self) -> tuple[int, str, str]:
        """Ctrl-C. Returns the exit code, and what was printed after the announcement, on both streams."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[Served]:
    """A server on a free port: an echo, or with --chat a chat."""
    service = () if "--chat" in arguments else ("--echo",)
    command = [sys.executable, "-m", "zcws", "serve", *service, "--port", "0", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"://[^/]*:(\d+);", line)
            assert found, f"no announcement: {line!r}"
            yield Served(process, line.rstrip("\n"), int(found[1]))
        finally:
            process.kill()
