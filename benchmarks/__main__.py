"""python -m benchmarks: measures, writes results/, prints tables."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys

from benchmarks import chart, counts, load, machine, report
from benchmarks.measure import Pace, Plan
from benchmarks.process import CORES
from benchmarks.progress import watch
from benchmarks.workloads import TITLES, runner

#: A quick run shows whether everything works, and roughly how fast; figures that are published need the full one.
QUICK = Pace(rounds=2, seconds=0.25, warmup=0.08, quick=True)
FULL = Pace()
#: Load average above which a machine is not quiet.
BUSY = 0.3


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: a few minutes")
    parser.add_argument("--only", metavar="NAMES", help=f"some of: {','.join(TITLES)}")
    parser.add_argument("--rounds", type=int, help=f"{FULL.rounds}, or {QUICK.rounds} with --quick")
    parser.add_argument("--loops", default="", help="asyncio,uvloop; uvloop alone with --quick")
    parser.add_argument("--name", default="", help="of the results' file, instead of the date and the CPU")
    parser.add_argument("--counts", action="store_true", help="only count system calls and instructions")
    return parser.parse_args()


def choose(only: str | None) -> list[str]:
    """The workloads that are wanted."""
    wanted = only.split(",") if only else list(TITLES)
    unknown = set(wanted) - set(TITLES)
    if unknown:
        raise SystemExit(f"There is no workload {', '.join(sorted(unknown))}; there are {', '.join(TITLES)}.")
    return [name for name in TITLES if name in wanted]


def choose_loops(names: str) -> list[str]:
    """Those of `names` that are installed; asyncio when none is."""
    found = [name for name in names.split(",") if name == "asyncio" or importlib.util.find_spec(name)]
    return found or ["asyncio"]


def warn() -> None:
    """Prints, before anything is measured, what makes the figures worth less."""
    warnings = [machine.advice()]
    if os.getloadavg()[0] > BUSY:
        warnings.append(
            f"This machine is busy (load {os.getloadavg()[0]:.2f}): trust ratios of CPU time, not rates."
        )
    if len(CORES) < 2:
        warnings.append("One core: what measures takes time from what is measured.")
    if not machine.python_build()["pgo"]:
        warnings.append("Nothing says that this Python was built with PGO (Debian's is, silently).")
    for warning in filter(None, warnings):
        print(warning, file=sys.stderr)


def make_pace(arguments: argparse.Namespace) -> Pace:
    """The pace that was asked for."""
    pace = QUICK if arguments.quick else FULL
    rounds = arguments.rounds or pace.rounds
    return Pace(rounds=rounds, seconds=pace.seconds, warmup=pace.warmup, quick=pace.quick)


def main() -> None:
    """Everything that was asked for."""
    if platform.system() != "Linux":
        raise SystemExit("The load generator uses epoll and Linux's CPU clocks: run this on Linux.")
    arguments = parse()
    workloads = choose(arguments.only)
    warn()
    load.build()
    started = machine.facts()
    with watch(len(workloads)) as progress:
        plan = Plan(
            make_pace(arguments),
            choose_loops(arguments.loops or ("uvloop" if arguments.quick else "asyncio,uvloop")),
            progress.step,
        )
        if arguments.counts:
            print(counts.run(plan))
            return
        for name in workloads:
            progress.workload(TITLES[name])
            runner(name)(plan)
    path = report.save(plan, started, arguments.name or report.default_name(plan, workloads))
    chart.draw(plan.results.values(), path.parent / "quick" if plan.pace.quick else path.parent)
    print(report.text(plan))
    print(f"\n{path.relative_to(path.parents[2])}, and pictures")


if __name__ == "__main__":
    main()
