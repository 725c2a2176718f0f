"""`python -m tests.soak`: mixed traffic with random faults, and every message counted on both sides.

Three servers (the engine, the event loop's transports, threads) and three clients, each a process. What each session
does is drawn from the seed: plan.py. Exit code 1: something was lost, doubled, reordered or altered, or has grown.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from .gauge import HAS_PROC
from .report import as_dict, problems, table
from .supervise import Soak, soak

#: Seconds between two lines that say how far it is.
_EVERY = 60


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="repeats what another run has drawn")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    options = parser.parse_args()
    if not HAS_PROC:
        print("this needs /proc: memory and descriptors of other processes", file=sys.stderr)
        return 2
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    looks = said = 0

    def say(run: Soak) -> None:
        nonlocal looks, said
        looks += 1
        for problem in run.problems[said:]:  # at once: who waits for an hour may stop here
            print(problem, file=sys.stderr, flush=True)
        said = len(run.problems)
        if looks % _EVERY == 0:
            wrong = len(run.problems)
            print(
                f"{run.sessions} sessions, {run.messages} messages, {wrong} problems",
                file=sys.stderr,
                flush=True,
            )

    run = soak(seed, options.minutes * 60, say)
    print(*table(run), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(as_dict(run), indent=1) + "\n")
    return 1 if problems(run) else 0


if __name__ == "__main__":
    sys.exit(main())
