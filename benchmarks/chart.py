"""Pictures of the results: one SVG a workload, bars of medians with their spread, less is better.

The SVG is written without a package, since a bar is one element; and the files stay small enough to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from benchmarks.measure import Result
from benchmarks.report import groups_of
from benchmarks.workloads import TITLES

__all__ = ["draw"]

WIDTH, LABELS, BARS = 860, 250, 500  # pixels; what is left of WIDTH takes the figures
ROW, BAR, HEADING, MARGIN = 20, 13, 30, 16
OURS, THEIRS, LIMIT = "#d9480f", "#868e96", "#ced4da"
INK, FAINT, PAPER = "#212529", "#868e96", "#ffffff"
FONT = "font-family='system-ui, sans-serif' font-size='12'"


def draw(results: Iterable[Result], folder: Path) -> list[Path]:
    """One file for each workload."""
    groups = groups_of(results)
    folder.mkdir(exist_ok=True)
    written = []
    for workload, title in TITLES.items():
        mine = {case: group for (name, case), group in groups.items() if name == workload}
        if mine:
            path = folder / f"{workload}.svg"
            path.write_text(_picture(title, mine))
            written.append(path)
    return written


def _picture(title: str, cases: dict[str, list[Result]]) -> str:
    body: list[str] = []
    y = MARGIN + 20
    unit = next(iter(cases.values()))[0].unit
    for case, group in cases.items():
        y += HEADING
        body.append(f"<text x='{MARGIN}' y='{y - 8}' font-weight='600' fill='{INK}'>{escape(case)}</text>")
        body += _bars(group, y)
        y += ROW * len(group)
    height = y + MARGIN
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' viewBox='0 0 {WIDTH} {height}' "
        f"{FONT} role='img' aria-label='{escape(title)}'>"
    )
    paper = f"<rect width='{WIDTH}' height='{height}' fill='{PAPER}'/>"
    heading = (
        f"<text x='{MARGIN}' y='{MARGIN + 10}' font-size='15' font-weight='700' fill='{INK}'>{escape(title)}"
        f"<tspan font-size='12' font-weight='400' fill='{FAINT}'> {escape(unit)}, less is better</tspan></text>"
    )
    return "\n".join([head, paper, heading, *body, "</svg>", ""])


def _bars(group: list[Result], top: int) -> Iterator[str]:
    # Medians set the scale, so that one round that the machine spoiled does not.
    scale = BARS / max(result.median() or 0 for result in group)
    for index, result in enumerate(group):
        yield from _bar(result, top + index * ROW, scale)


def _bar(result: Result, y: int, scale: float) -> Iterator[str]:
    median, values = result.median() or 0, result.values()
    color = OURS if result.row.is_ours else LIMIT if result.row.is_limit else THEIRS
    weight = " font-weight='600'" if result.row.is_ours else ""
    middle, text_y = y + BAR / 2, y + BAR - 2
    low, high = (min(LABELS + value * scale, LABELS + BARS + 8) for value in (min(values), max(values)))
    yield (
        f"<text x='{LABELS - 8}' y='{text_y}' text-anchor='end' fill='{INK}'{weight}>"
        f"{escape(result.row.label)}</text>"
    )
    yield f"<rect x='{LABELS}' y='{y}' width='{max(median * scale, 1):.1f}' height='{BAR}' fill='{color}'/>"
    yield f"<path d='M{low:.1f} {middle}H{high:.1f}' stroke='{INK}' stroke-width='1'/>"
    end = max(high, LABELS + median * scale) + 6
    yield f"<text x='{end:.1f}' y='{text_y}' fill='{FAINT}'>{_figure(median)}</text>"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
