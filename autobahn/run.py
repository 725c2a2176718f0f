"""Runs the conformance suite against zcws, and compares its verdicts with autobahn/expected.json.

Exits with 1 on any difference, and when a report is missing or incomplete.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path

from cases import SELECTIONS
from compare import Difference, ReportError, Verdicts, compare, load, save, summary, table
from drivers import DRIVERS
from suite import MODES, Job, install_runner, run_job, stop_all

EXPECTED = Path(__file__).resolve().parent / "expected.json"

#: Shards side by side: one more than there are processors, since the basic shard spends most of its time waiting (a
#: second in each of six cases). With more than eight, cases that wait would be late.
SIDE_BY_SIDE = min(8, (os.cpu_count() or 1) + 1)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    loops = sorted({loop for driver in DRIVERS.values() for loop in driver.loops})
    parser.add_argument(
        "--mode", choices=(*MODES, "both"), default="both", help="what zcws is (default: both)"
    )
    parser.add_argument("--driver", choices=DRIVERS, help="which face of it (default: all)")
    parser.add_argument("--loop", choices=loops, help="what it runs on (default: all that are installed)")
    parser.add_argument("--cases", choices=SELECTIONS, default="ci", help="how many (default: ci)")
    parser.add_argument(
        "--update", action="store_true", help="write expected.json instead of comparing with it"
    )
    parser.add_argument("-p", "--parallel", type=int, default=SIDE_BY_SIDE, help="shards side by side")
    parser.add_argument("--limit", type=float, help="seconds for all of it (default: depends on --cases)")
    return parser.parse_args(argv)


# ---- what to run ----


def is_there(loop: str) -> bool:
    """Whether the loop can be run on here; uvloop is for CPython on Unix only."""
    return loop != "uvloop" or find_spec("uvloop") is not None


def jobs_of(args: argparse.Namespace) -> Iterator[Job]:
    """Every shard of every mode, driver and loop that was asked for."""
    modes = MODES if args.mode == "both" else (args.mode,)
    for mode in modes:
        for name, driver in DRIVERS.items():
            for loop in driver.loops:
                if args.driver in (None, name) and args.loop in (None, loop) and is_there(loop):
                    for shard in SELECTIONS[args.cases].shards:
                        yield Job(mode, name, loop, shard)


# ---- running it ----


class Run:
    """The results so far.

    Attributes:
        expected: the verdicts by mode. With `update` they are those of this run, on top of the old ones.
        differences, errors: what is wrong.
    """

    def __init__(self, *, update: bool) -> None:
        self.expected = load(EXPECTED) if EXPECTED.exists() else {}
        self.update = update
        self.differences: list[Difference] = []
        self.errors: list[str] = []
        self.count = 0
        self._updated: dict[str, Verdicts] = {}

    def take(self, job: Job, verdicts: Verdicts) -> None:
        """Compares the verdicts of one shard, and keeps them."""
        self.count += len(verdicts)
        expected = self._expected_of(job)
        if self.update:
            # Every driver and loop must get the same verdicts: the others are compared with the first.
            self._updated.setdefault(job.mode, {}).update({**verdicts, **expected})
            expected = expected or verdicts
        self.differences += compare(job.where, expected, verdicts)

    def _expected_of(self, job: Job) -> Verdicts:
        source = self._updated if self.update else self.expected
        return {case: verdict for case, verdict in source.get(job.mode, {}).items() if job.shard.has(case)}

    def finish(self) -> int:
        """Says how it went. Returns the exit status."""
        for error in self.errors:
            print(f"\n{error}")
        if self.differences:
            print(f"\nnot as {'the others' if self.update else 'expected.json'} would have it:\n")
            print(table(self.differences))
        if self.errors or self.differences:
            return 1
        if self.update:
            self._save()
        print(f"{self.count} verdicts, {'written to expected.json' if self.update else 'all as expected'}")
        return 0

    def _save(self) -> None:
        modes = {mode: {**self.expected.get(mode, {}), **self._updated.get(mode, {})} for mode in MODES}
        save(EXPECTED, modes)


def run_all(jobs: Sequence[Job], run: Run, *, parallel: int, limit: float) -> None:
    """Runs the jobs side by side, and says how each went."""
    deadline = time.monotonic() + limit
    with ThreadPoolExecutor(parallel) as pool:
        started = {pool.submit(timed, job, deadline): job for job in jobs}
        try:
            for future in as_completed(started):
                report(started[future], future, run)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop_all()
            raise


def report(job: Job, future: Future[tuple[Verdicts, float]], run: Run) -> None:
    """Says how one job went, and keeps its results."""
    label = f"{job.mode:8} {job.driver:9} {job.loop:8} {job.shard.name:13}"
    try:
        verdicts, seconds = future.result()
    except ReportError as error:
        print(f"{label} ERROR", flush=True)
        run.errors.append(f"{' '.join(label.split())}: {error}")
    else:
        print(f"{label} {seconds:6.1f} s  {summary(verdicts)}", flush=True)
        run.take(job, verdicts)


def timed(job: Job, deadline: float) -> tuple[Verdicts, float]:
    """The verdicts, and how many seconds they took."""
    start = time.monotonic()
    return run_job(job, deadline), time.monotonic() - start


def main() -> int:
    args = parse()
    # A signal that stops us also has to stop the processes that we started.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    jobs = list(jobs_of(args))
    if not jobs:
        print("nothing to run: this driver and this loop do not go together, or the loop is not installed")
        return 1
    if not is_there("uvloop"):
        print("uvloop is not installed: what runs on it is left out")
    install_runner()
    run = Run(update=args.update)
    limit = SELECTIONS[args.cases].limit if args.limit is None else args.limit
    run_all(jobs, run, parallel=args.parallel, limit=limit)
    return run.finish()


if __name__ == "__main__":
    sys.exit(main())
