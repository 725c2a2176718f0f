"""The fewest inputs that reach what all of them reach: python tests/fuzz/minimise.py TARGET INTO FROM...

For the Python targets, by pairs of lines that follow each other in zcws/; libFuzzer does it for the C ones, with
-set_cover_merge=1 -use_counters=0. INTO gets new files, named by what is in them.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:1] = [str(ROOT / "tests"), str(ROOT)]

#: A file, a line of it, and the line of the same function before that.
Step = tuple[str, int, int]


def steps_of(check: Callable[[bytes], None], data: bytes) -> set[Step]:
    seen: set[Step] = set()
    ours = str(ROOT / "zcws")

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        name, before = frame.f_code.co_filename, 0
        if not name.startswith(ours):
            return None

        def line(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal before
            if event == "line":
                seen.add((name, before, frame.f_lineno))
                before = frame.f_lineno
            return line

        return line

    sys.settrace(enter)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return seen


def fewest(reached: dict[bytes, set[Step]]) -> list[bytes]:
    """Greedy: always the input that adds most, the shortest of those."""
    left, kept = set().union(*reached.values()), []
    while left:
        best = max(reached, key=lambda data: (len(reached[data] & left), -len(data)))
        left -= reached[best]
        kept.append(best)
    return kept


def main() -> None:
    target, into, *sources = sys.argv[1:]
    check = importlib.import_module(f"fuzz.{target}").check
    inputs = {path.read_bytes() for source in sources for path in Path(source).iterdir()}
    kept = fewest({data: steps_of(check, data) for data in sorted(inputs)})
    Path(into).mkdir(parents=True, exist_ok=True)
    for data in kept:
        (Path(into) / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)
    print(f"{target}: {len(kept)} of {len(inputs)} inputs, {sum(map(len, kept))} bytes")


if __name__ == "__main__":
    main()
