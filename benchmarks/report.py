"""Results as a file and as tables. Where we lose comes first."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.measure import Plan, Result
from benchmarks.workloads import TITLES

__all__ = ["RESULTS", "compare", "default_name", "groups_of", "save", "text"]

RESULTS = Path(__file__).parent / "results"
#: Less than this is noise on the machines we know: neither won nor lost.
EVEN = 0.03
#: Above this share of its core, the generator was the bottleneck.
SATURATED = 0.95


@dataclass(frozen=True)
class Comparison:
    """A peer's row and ours: same workload, same case, same event loop, same kind of delivery."""

    peer: Result
    ours: Result
    #: Above 1 they need more than we do.
    ratio: float


def groups_of(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    """The rows of each case, lowest figure first; workloads in the order of the report."""
    groups: dict[tuple[str, str], list[Result]] = {}
    order = list(TITLES)
    for result in sorted(results, key=lambda result: order.index(result.workload)):
        if result.median() is not None:
            groups.setdefault((result.workload, result.case), []).append(result)
    for group in groups.values():
        group.sort(key=lambda result: result.median() or 0)
    return groups


def compare(peer: Result, group: list[Result]) -> Comparison | None:
    """None for our own rows, and where there is no row of ours to compare with."""
    if peer.row.is_ours:
        return None
    ours = _counterpart(peer, [result for result in group if result.row.is_ours])
    mine, theirs = (ours.median() if ours else None), peer.median()
    if ours is None or not mine or not theirs:
        return None
    return Comparison(peer, ours, theirs / mine)


def _counterpart(peer: Result, ours: list[Result]) -> Result | None:
    """Our best row on the same loop (any for other languages), with the same kind of delivery if we have that."""
    loop = peer.row.loop.partition("+")[0]
    same_loop = [result for result in ours if loop in ("", result.row.loop.partition("+")[0])]
    # A limit, or a server in another language, is compared with our rows for messages: what most people will use.
    level = "message" if peer.row.is_limit or not loop else peer.row.level
    same_level = [result for result in same_loop if result.row.level == level]
    return min(same_level or same_loop, key=lambda result: result.median() or 0, default=None)


# ---- the file ----


def default_name(plan: Plan, workloads: list[str]) -> str:
    """The date and the CPU, and what the run left out, so that it does not replace the results of a whole one."""
    parts = [str(date.today()), machine.slug()]
    if plan.pace.quick:
        parts.append("quick")
    if len(workloads) < len(TITLES):
        parts += workloads
    return "-".join(parts)


def save(plan: Plan, facts: dict[str, Any], name: str) -> Path:
    """Writes all results, with all that is needed to read them. `facts` were collected before the start."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content: dict[str, Any] = {
        "machine": facts,
        "pace": asdict(plan.pace),
        "skipped": list(plan.skipped),
        "results": [
            _entry(result) for group in groups_of(plan.results.values()).values() for result in group
        ],
        "tables": plan.tables,
    }
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
    return path


def _entry(result: Result) -> dict[str, Any]:
    names = {name for measured in result.rounds for name in measured}
    return {
        "workload": result.workload,
        "case": result.case,
        "row": asdict(result.row),
        "figure": result.figure,
        "unit": result.unit,
        "median": {name: _rounded(result.median(name)) for name in sorted(names)},
        "rounds": [{name: _rounded(value) for name, value in measured.items()} for measured in result.rounds],
    }


def _rounded(value: float | None) -> float | None:
    """Five digits: more than any figure here is worth."""
    return None if value is None else float(f"{value:.5g}")


# ---- the tables ----


def text(plan: Plan) -> str:
    """The whole report."""
    groups = groups_of(plan.results.values())
    parts = [*_losses(groups), *_summary(groups)]
    for (workload, case), group in groups.items():
        parts += ["", f"{TITLES[workload]}: {case} ({group[0].unit})", *_table(group)]
    parts += [*_levels(plan.tables.get("levels", [])), *_memory(plan.tables.get("memory", []))]
    if plan.skipped:
        parts += ["", "Not measured:", *(f"  {sentence}" for sentence in plan.skipped)]
    return "\n".join(parts)


def _comparisons(groups: dict[tuple[str, str], list[Result]]) -> Iterator[Comparison]:
    for group in groups.values():
        for result in group:
            comparison = compare(result, group)
            if (
                comparison is not None
                and not result.row.is_limit
                and result.row.name not in ("nothing", "asyncio")
            ):
                yield comparison


def _losses(groups: dict[tuple[str, str], list[Result]]) -> Iterator[str]:
    lost = [found for found in _comparisons(groups) if found.ratio < 1 - EVEN]
    if not lost:
        yield "Where we lose: nowhere by more than 3 %."
        return
    yield "Where we lose (their figure in percent of ours):"
    for found in sorted(lost, key=lambda found: found.ratio):
        peer, ours = found.peer, found.ours
        where = f"{TITLES[peer.workload]}, {peer.case}"
        theirs, mine = (f"{result.row.label} {_short(result.median())}" for result in (peer, ours))
        yield f"  {found.ratio:4.0%}  {where}: {theirs} against {mine}"


def _summary(groups: dict[tuple[str, str], list[Result]]) -> Iterator[str]:
    """Their figure divided by ours over all cases: the geometric mean for each peer and workload."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for found in _comparisons(groups):
        ratios.setdefault((found.peer.workload, found.peer.row.name), []).append(found.ratio)
    if not ratios:
        return
    yield ""
    yield "Their figure to ours, geometric mean over the cases and loops (above 1 we need less):"
    for (workload, name), found_ratios in ratios.items():
        mean = statistics.geometric_mean(found_ratios)
        spread = f"worst {min(found_ratios):.2f}, best {max(found_ratios):.2f}"
        yield f"  {mean:6.2f}x  {TITLES[workload]}: {name} ({spread})"


def _table(group: list[Result]) -> Iterator[str]:
    yield f"  {'':34} {'median':>9} {'min':>9} {'max':>9} {'a second':>10} {'p50 µs':>9} {'p99 µs':>9}  to ours"
    for result in group:
        values = result.values()
        found = compare(result, group)
        ratio = f"{found.ratio:6.2f}x" if found else ("   ours" if result.row.is_ours else "")
        others = [_short(result.median(name)) for name in ("per_second", "p50_us", "p99_us")]
        note = " (generator saturated)" if (result.median("generator_share") or 0) > SATURATED else ""
        note += _wire(result)
        yield (
            f"  {result.row.label:34} {_short(result.median()):>9} {_short(min(values)):>9} {_short(max(values)):>9} "
            f"{others[0]:>10} {others[1]:>9} {others[2]:>9}  {ratio}{note}"
        )


def _wire(result: Result) -> str:
    size = result.median("bytes_per_unit")
    return f"  {size:.0f} bytes on the wire" if result.workload == "compressed" and size else ""


def _short(value: float | None) -> str:
    """Three digits, or all of a large number."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _levels(lines: list[dict[str, Any]]) -> Iterator[str]:
    if not lines:
        return
    yield ""
    yield "Compression levels, the compressor alone (size in percent; µs CPU a message)"
    for line in lines:
        about = f"{line['text']:14} {line['library']:8} level {line['level']}"
        yield f"  {about}  {line['percent']:5.1f} %  {line['cpu_us']:10,.1f} µs"


def _memory(tables: list[dict[str, Any]]) -> Iterator[str]:
    for table in tables:
        yield ""
        yield f"zcws in detail: bytes for each of {table['connections']} connections, {table['loop']}"
        for name, figures in table["servers"].items():
            yield f"  {name:34} open {figures['open']:>8,}  after one message {figures['after_one_message']:>8,}"
        for name, figure in table["for compression, without sockets"].items():
            yield f"  for compression: {name:26} {figure:>8,}"
