"""Rounds: all libraries are measured side by side, in one order and then in the other (A B C, C B A).

All servers of a workload run at once, and only the one under load is not idle. So switching from one to the next costs
nothing, and what disturbs the machine for a second disturbs one measurement of each, not all measurements of one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers import Row
from benchmarks.process import Failed

__all__ = ["Pace", "Plan", "Result", "in_turns"]


@dataclass(frozen=True)
class Pace:
    """How long everything takes."""

    rounds: int = 3
    seconds: float = 0.35
    warmup: float = 0.1
    quick: bool = False

    @property
    def time(self) -> list[object]:
        """The options of the generator."""
        return ["-t", self.seconds, "-w", self.warmup]

    def meter(self, size: int, *, exact: int | None = None, depth: int = 1) -> dict[str, Any]:
        """The arguments of a client's `Meter`: `exact` is the size that its messages must have."""
        # A look at the clock at least every 4 MiB, and every 256 messages: it takes under a hundredth of their time.
        chunk = max(1, min(256, 2**22 // max(size, 1)) // depth) * depth
        return {"seconds": self.seconds, "warmup": self.warmup, "chunk": chunk, "size": exact}


@dataclass
class Result:
    """One row in one case of one workload, over all rounds."""

    workload: str
    case: str
    row: Row
    rounds: list[dict[str, float]] = field(default_factory=list)
    #: The figure that is compared (less is better), and its unit.
    figure: str = "cpu_us"
    unit: str = "µs CPU a message"

    def values(self, figure: str | None = None) -> list[float]:
        """The figure of each round."""
        return [
            measured[figure or self.figure] for measured in self.rounds if (figure or self.figure) in measured
        ]

    def median(self, figure: str | None = None) -> float | None:
        """None where it was not measured."""
        values = self.values(figure)
        return statistics.median(values) if values else None


class Plan:
    """What was measured and what was not; `step` is called with a description before every measurement."""

    def __init__(self, pace: Pace, loops: list[str], step: Callable[[str], None]) -> None:
        self.pace, self.loops, self.step = pace, loops, step
        self.results: dict[tuple[str, str, Row], Result] = {}
        self.skipped: dict[str, None] = {}
        self.tables: dict[str, list[dict[str, Any]]] = {}

    def record(self, workload: str, case: str, row: Row, figures: dict[str, float], **about: str) -> None:
        """Keeps one measurement."""
        key = (workload, case, row)
        if key not in self.results:
            self.results[key] = Result(workload, case, row, **about)  # type: ignore[arg-type]
        self.results[key].rounds.append(figures)

    def skip(self, sentence: str) -> None:
        """Notes what is not measured, and why; each sentence once."""
        self.skipped[sentence] = None

    def measure(
        self,
        workload: str,
        case: str,
        row: Row,
        function: Callable[[], dict[str, float]],
        **about: str,
    ) -> None:
        """Records what `function` finds, or why it failed."""
        self.step(f"{workload}, {case}: {row.label}")
        try:
            self.record(workload, case, row, function(), **about)
        except Failed as failure:
            self.skip(f"{workload}, {case}, {row.label}: {failure}")

    def rounds_of(
        self, workload: str, rows: Sequence[Row], make: Callable[[Row], Any]
    ) -> Iterator[list[tuple[Row, Any]]]:
        """For each round, every row with what `make` started for it, in this round's order."""
        for turn in range(self.pace.rounds):
            with ExitStack() as stack:
                started = []
                for row in in_turns(rows, turn):
                    self.step(f"{workload}: starting {row.label}")
                    thing = make(row)
                    stack.callback(thing.stop)
                    started.append((row, thing))
                # All are started before the first is waited for, so that their slow imports overlap.
                yield [(row, thing) for row, thing in started if self._is_ready(workload, row, thing)]

    def _is_ready(self, workload: str, row: Row, thing: Any) -> bool:
        try:
            thing.wait()
        except Failed as failure:
            self.skip(f"{workload}, {row.label}: {failure}")
            return False
        return True


def in_turns(rows: Sequence[Row], turn: int) -> list[Row]:
    """A B C, then C B A."""
    return list(rows) if turn % 2 == 0 else list(reversed(rows))
