"""How far the run is: a bar where rich is installed and somebody watches, else a line now and then. On stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Progress", "watch"]

#: Seconds between two plain lines.
SELDOM = 10.0


class Progress(Protocol):
    """What the measurements report to."""

    def step(self, what: str) -> None: ...
    def workload(self, title: str) -> None: ...


class Lines:
    """For logs."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()
        self._steps = 0

    def step(self, what: str) -> None:
        self._steps += 1
        if time.monotonic() > self._said + SELDOM:
            self._said = time.monotonic()
            self._say(f"{self._steps} steps, now {what}")

    def workload(self, title: str) -> None:
        self._said = time.monotonic()
        self._say(title)

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {text}", file=sys.stderr, flush=True)


class Bar:
    """For people: one step of the bar is one workload."""

    def __init__(self, bar: object, total: int) -> None:
        self._bar: object = bar
        self._task = bar.add_task("starting", total=total, now="")  # type: ignore[attr-defined]
        self._first = True

    def step(self, what: str) -> None:
        self._bar.update(self._task, now=what)  # type: ignore[attr-defined]

    def workload(self, title: str) -> None:
        self._bar.update(self._task, description=title, advance=0 if self._first else 1)  # type: ignore[attr-defined]
        self._first = False


@contextmanager
def watch(workloads: int) -> Iterator[Progress]:
    """A bar or lines."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress
    except ImportError:
        yield Lines()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    # Four times a second, not more: drawing takes time on a core that measures.
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with RichProgress(*columns, console=console, refresh_per_second=4, transient=True) as bar:
        yield Bar(bar, workloads)
