"""A server in C sends as fast as it can; clients receive. Frames are compared with frames, messages with messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks import corpus, frames
from benchmarks.load import CServer, frames_file
from benchmarks.measure import Pace, Plan
from benchmarks.peers import rows_of
from benchmarks.process import Client
from benchmarks.workloads import human
from benchmarks.workloads.clients import measure

__all__ = ["run"]

QUICK = [64, 256, 8192, 65536]
MORE = [450_000]  # as in the report that picows falls behind websockets there (tarasko/picows#117)
#: Of compressed JSON, which both sides take as it comes.
FEED = 1024
#: picows' core and websocket-client do not inflate.
INFLATES = ("zcws", "zcws.sync", "picows.websockets", "aiohttp", "websockets", "websockets.sync")


@dataclass(frozen=True)
class Case:
    """A server that is pouring, and who drinks from it."""

    name: str
    size: int
    server: CServer
    settings: dict[str, object]
    only: Callable[[str], bool] = lambda name: True


def run(plan: Plan) -> None:
    """Everybody, in every case."""
    with ExitStack() as stack:
        cases = [plain(stack, size) for size in (QUICK if plan.pace.quick else QUICK + MORE)]
        path = stack.enter_context(compressed_feed())
        server = stack.enter_context(CServer("-f", "-F", path, "-e", "permessage-deflate"))
        cases.append(Case("deflated JSON, 1 KiB", FEED, server, {"level": 1}, lambda name: name in INFLATES))
        for clients in plan.rounds_of("firehose", rows_of("FIREHOSE", plan.loops), Client):
            for case in cases:
                for row, client in clients:
                    if case.only(row.name):
                        plan.measure("firehose", case.name, row, partial(drink, plan.pace, client, case))


def plain(stack: ExitStack, size: int) -> Case:
    """Text of one size: ASCII, since the server repeats the alphabet."""
    return Case(f"text, {human(size)}", size, stack.enter_context(CServer("-f", "-s", size)), {})


def drink(pace: Pace, client: Client, case: Case) -> dict[str, float]:
    """One measurement."""
    meter = pace.meter(case.size, exact=case.size)
    return measure(client, case.server, "FIREHOSE", [case.server.uri], meter, case.settings)


@contextmanager
def compressed_feed() -> Iterator[object]:
    """64 quotes, each in a frame."""
    texts = corpus.messages("feed", FEED, 64)
    with frames_file(frames.compressed(texts, level=6, masked=False)) as path:
        yield path
