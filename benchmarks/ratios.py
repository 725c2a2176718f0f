"""python -m benchmarks.ratios FILE...: the CPU time of the peers divided by ours, the table of docs/numbers.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["main", "table"]

#: A workload, a case and a row's name, and its figure.
Figures = dict[tuple[str, str, str], float]


@dataclass(frozen=True)
class Column:
    """A peer, and those of our rows that do the same: it is compared with the first that was measured."""

    title: str
    peer: str
    ours: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        cases: those that belong to it; None: all of the workload.
        ours: our rows that every column is compared with, instead of the column's.
    """

    title: str
    workload: str
    cases: tuple[str, ...] | None
    ours: tuple[str, ...] = ()


COLUMNS = (
    Column("picows' core", "picows", ("zcws payloads", "zcws callbacks")),
    Column("picows, messages", "picows.websockets", ("zcws",)),
    Column("`websockets`", "websockets", ("zcws",)),
    Column("wtx (Rust)", "Rust wtx", ("zcws callbacks",)),
)
SMALL = ("1x1, 20 B", "1x1, 256 B", "1x1, 8 KiB")
AT_ONCE = ("1x64, 20 B", "1x64, 256 B")
SHORT = ("text, 64 B", "text, 256 B")
LINES = (
    Line("server, one message in flight, to 8 KiB", "echo", SMALL),
    Line("the same, 64 KiB and 1 MiB", "echo", ("1x1, 64 KiB", "1x1, 1 MiB")),
    Line("server, 64 messages in flight, to 256 B", "echo", AT_ONCE),
    Line("the same, answered by `batches()`", "echo", AT_ONCE, ("zcws batches",)),
    Line(
        "server, 64 and 500 connections",
        "echo",
        ("64x1, 256 B", "64x1, 8 KiB", "64x1, 64 KiB", "500x1, 256 B"),
    ),
    Line("server, 64 KiB and 1 MiB in packets", "packets", ("64 KiB", "1 MiB")),
    Line("the same over TLS", "packets", ("64 KiB, TLS", "1 MiB, TLS")),
    Line("client, one message in flight", "clients", ("1x1, 256 B", "1x1, 8 KiB", "1x1, 97 KiB")),
    Line("client, 64 messages in flight", "clients", ("1x64, 256 B",)),
    Line("text that pours in, to 256 B", "firehose", SHORT),
    Line("the same, by `on_message`", "firehose", SHORT, ("zcws on_message",)),
    Line("the same, by `batch.messages`", "firehose", SHORT, ("zcws messages",)),
    Line("text that pours in, 8 to 439 KiB", "firehose", ("text, 8 KiB", "text, 64 KiB", "text, 439 KiB")),
    Line("handshakes", "sessions", ("handshakes",)),
    Line("whole sessions (wtx-bench, mean)", "sessions", ("wtx-bench, geometric mean",)),
    Line("one message to 1,000", "broadcast", None),
)


def read(path: Path) -> Figures:
    """The medians of one run, of the rows on uvloop and of other languages."""
    found: Figures = {}
    for result in json.loads(path.read_text(encoding="utf-8"))["results"]:
        row = result["row"]
        if row["loop"] in ("uvloop", "") and (median := result["median"].get(result["figure"])):
            found[result["workload"], result["case"], row["name"]] = median
    return found


def ratios(runs: Iterable[Figures], line: Line, column: Column) -> Iterator[float]:
    """The peer's figure divided by ours, in every case of every run that has both."""
    for run in runs:
        for (workload, case, name), theirs in run.items():
            if (
                workload == line.workload
                and name == column.peer
                and (line.cases is None or case in line.cases)
            ):
                ours = [
                    run[workload, case, own]
                    for own in line.ours or column.ours
                    if (workload, case, own) in run
                ]
                if ours:
                    yield theirs / ours[0]


def span(values: list[float]) -> str:
    """From the least value to the greatest, as a table shows it."""
    if not values:
        return ""
    least, most = (f"{value:.2g}" for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def table(runs: list[Figures]) -> str:
    """Markdown. Above 1 the peer needs more than we do."""
    head = ["", *(column.title for column in COLUMNS)]
    rows = [[line.title, *(span(list(ratios(runs, line, column))) for column in COLUMNS)] for line in LINES]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def main(paths: list[str]) -> None:
    """See the head of this file."""
    if not paths:
        raise SystemExit("which results? python -m benchmarks.ratios benchmarks/results/*.json")
    print(table([read(Path(path)) for path in paths]))


if __name__ == "__main__":
    main(sys.argv[1:])
