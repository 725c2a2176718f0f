"""Compares the verdicts of the suite with those in autobahn/expected.json.

A verdict is two words: `behavior` (were the right frames sent) and `behaviorClose` (did the connection end right). A
peer can get OK in the first and FAILED in the second, so they are always read together. Any difference counts, a good
one too: an improvement is a commit that changes expected.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cases import Shard

__all__ = [
    *("Difference", "ReportError", "Verdict", "Verdicts"),
    *("compare", "load", "read_report", "save", "summary", "table"),
]

Verdict = tuple[str, str]
Verdicts = dict[str, Verdict]

NOTHING: Verdict = ("-", "-")


class ReportError(Exception):
    """There is no report to compare, or it is incomplete."""


@dataclass(frozen=True)
class Difference:
    """A case that did not end as expected: `where` it ran, and both verdicts."""

    where: tuple[str, str, str]
    case: str
    expected: Verdict
    got: Verdict


def read_report(path: Path, shard: Shard) -> Verdicts:
    """The verdicts of a runner's index.json, which groups them by agent.

    A case that could not be run has no agent, so the entries of all agents count.

    Raises:
        ReportError: it is missing, or does not have as many cases as it must.
    """
    try:
        agents = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ReportError("the runner wrote no report") from None
    verdicts = {
        case: (entry["behavior"], entry["behaviorClose"])
        for entries in agents.values()
        for case, entry in entries.items()
    }
    if len(verdicts) != shard.count:
        raise ReportError(f"{len(verdicts)} cases in the report, not {shard.count}")
    return verdicts


def compare(where: tuple[str, str, str], expected: Verdicts, got: Verdicts) -> list[Difference]:
    """Every case that is in only one of the two, or has different verdicts."""
    return [
        Difference(where, case, expected.get(case, NOTHING), got.get(case, NOTHING))
        for case in sorted({*expected, *got}, key=_numbers)
        if expected.get(case) != got.get(case)
    ]


def table(differences: Iterable[Difference]) -> str:
    """The differences, a line each."""
    rows = [("mode", "driver", "loop", "case", "expected", "got")]
    rows += [(*d.where, d.case, " / ".join(d.expected), " / ".join(d.got)) for d in differences]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def summary(verdicts: Verdicts) -> str:
    """How often each verdict was given."""
    counts = Counter(one if one == two else f"{one} / {two}" for one, two in verdicts.values())
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


# ---- expected.json ----


def load(path: Path) -> dict[str, Verdicts]:
    """The expected verdicts by mode."""
    modes = json.loads(path.read_bytes())
    return {
        mode: {case: (entry["behavior"], entry["behaviorClose"]) for case, entry in cases.items()}
        for mode, cases in modes.items()
    }


def save(path: Path, modes: Mapping[str, Verdicts]) -> None:
    """Writes them, a case to a line, so that a change of verdict is a line of a diff."""
    blocks = []
    for mode in sorted(modes):
        lines = [
            f"    {json.dumps(case)}: " + json.dumps({"behavior": one, "behaviorClose": two})
            for case, (one, two) in sorted(modes[mode].items(), key=lambda item: _numbers(item[0]))
        ]
        blocks.append(f"  {json.dumps(mode)}: {{\n" + ",\n".join(lines) + "\n  }")
    path.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def _numbers(case: str) -> list[int]:
    """A key that puts 1.1.10 behind 1.1.9."""
    return [int(part) for part in case.split(".")]
