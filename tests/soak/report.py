"""What a soak says at its end: a table for people, JSON for programs, and whether memory and descriptors stayed flat.

Flat means: the most that was seen in the last quarter is not more than the most of the second quarter (the first is
warm-up) and what chance may add. Sessions are drawn at random, so that now and then several with the largest messages
meet: a MiB each in a ring, a payload buffer, a message and the output, on sixteen connections.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .supervise import Soak, Worker

__all__ = ["as_dict", "grown", "problems", "table"]

#: KiB that the last quarter may have more than the second: reason above.
CHANCE = 64 * 1024

#: Looks at a process that make four quarters worth comparing: a minute of them.
_ENOUGH = 60


def _quarters(worker: Worker) -> tuple[int, int]:
    """The most memory of the second quarter and of the last, in KiB."""
    rss = [gauge.rss for gauge in worker.gauges]
    quarter = max(len(rss) // 4, 1)
    return max(rss[quarter : 2 * quarter] or rss), max(rss[-quarter:])


def grown(worker: Worker) -> Iterator[str]:
    """What a process has more at its end than it should."""
    if worker.end is None:
        yield f"{worker.name} has not said what it holds at its end"
        return
    if worker.end.fds > worker.start.fds:
        yield f"{worker.name}: {worker.end.fds - worker.start.fds} descriptors more than at its start"
    second, last = _quarters(worker)
    if len(worker.gauges) >= _ENOUGH and last > second + CHANCE:
        yield f"{worker.name}: {last - second} KiB more in the last quarter than in the second"


def problems(run: Soak) -> list[str]:
    """Everything that is wrong."""
    return [*run.problems, *(problem for worker in run.workers for problem in grown(worker))]


def table(run: Soak) -> Iterator[str]:
    yield f"seed {run.seed}; {run.seconds:.0f} s; {run.pauses} times SIGSTOP"
    yield f"{run.sessions} sessions, {run.messages} messages received, {run.size / 2**30:.2f} GiB"
    yield "endings: " + ", ".join(f"{name} {count}" for name, count in run.endings.most_common())
    yield "kinds: " + ", ".join(f"{name} {count}" for name, count in sorted(run.styles.items()))
    yield f"{'process':<18} {'rss/KiB: 2nd quarter':>21} {'last':>8} {'fds: start':>11} {'most':>5} {'end':>4}"
    for worker in run.workers:
        if worker.end is not None:
            second, last = _quarters(worker)
            most = max(gauge.fds for gauge in worker.gauges)
            yield (
                f"{worker.name:<18} {second:>21} {last:>8} {worker.start.fds:>11} {most:>5} {worker.end.fds:>4}"
            )
    wrong = problems(run)
    yield "\n".join(wrong) if wrong else "nothing was lost, doubled, reordered or altered; nothing grew"


def as_dict(run: Soak) -> dict[str, Any]:
    """Everything, memory every ten seconds."""
    return {
        "seed": run.seed,
        "seconds": round(run.seconds, 1),
        "sessions": run.sessions,
        "messages": run.messages,
        "bytes": run.size,
        "pauses": run.pauses,
        "endings": dict(run.endings),
        "kinds": dict(run.styles),
        "problems": problems(run),
        "processes": {
            worker.name: {
                "start": worker.start.as_dict(),
                "end": worker.end and worker.end.as_dict(),
                "rss": [gauge.rss for gauge in worker.gauges[::10]],
                "fds": [gauge.fds for gauge in worker.gauges[::10]],
            }
            for worker in run.workers
        },
    }
