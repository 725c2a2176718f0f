"""The tools in C: built when their source is newer, and run on the other core."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.process import Failed, Server, cpu_time, start, stop

__all__ = ["CServer", "build", "frames_file", "generate"]

SOURCE = Path(__file__).parent / "load"
BUILD = Path(__file__).parent / "build"
FLAGS = ["-std=gnu11", "-O3", "-Wall", "-Wextra", "-Wpedantic"]
#: Seconds that the generator may take beyond what it was told: for connecting, and for a message that is under way.
GRACE = 60.0


def build() -> None:
    """Compiles the tools that are missing or older than their source."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    BUILD.mkdir(exist_ok=True)
    headers = list(SOURCE.glob("*.h"))
    for name in ("load", "serve"):
        source, target = SOURCE / f"{name}.c", BUILD / name
        newest = max(path.stat().st_mtime for path in (source, *headers))
        if target.exists() and target.stat().st_mtime >= newest:
            continue
        if compiler is None:
            raise SystemExit("The load generator is C: install a C compiler (gcc or clang).")
        subprocess.run([compiler, *FLAGS, str(source), "-o", str(target)], check=True)


def generate(server: Server, arguments: Sequence[object], seconds: float = 0) -> dict[str, float]:
    """Runs the generator against a server whose CPU time it reads."""
    command = [str(BUILD / "load"), "-p", str(server.port), "-P", str(server.process.pid)]
    command += [str(argument) for argument in arguments]
    process = start(command, -1, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, error = process.communicate(timeout=seconds + GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed("the generator did not end in time") from None
    if process.returncode != 0:
        raise Failed(error.strip() or "the generator failed")
    figures: dict[str, float] = json.loads(out)
    if not figures["units"]:
        raise Failed("nothing came back in time")
    if not figures["cpu_us"]:
        raise Failed("the server used no CPU time: another one answers at its port")
    return figures


class CServer:
    """The server in C that clients are measured against, on the generator's core."""

    def __init__(self, *arguments: object) -> None:
        command = [str(BUILD / "serve"), *(str(argument) for argument in arguments)]
        self.process = start(command, -1, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port: int = json.loads(self.process.stdout.readline())["port"]

    def __enter__(self) -> CServer:
        return self

    def __exit__(self, *_: Any) -> None:
        stop(self.process)

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        return cpu_time(self.process.pid)


@contextmanager
def frames_file(frames: Sequence[bytes]) -> Iterator[Path]:
    """A file of prepared frames, for the tools in C."""
    with tempfile.NamedTemporaryFile(suffix=".frames") as file:
        file.write(b"".join(frames))
        file.flush()
        yield Path(file.name)
