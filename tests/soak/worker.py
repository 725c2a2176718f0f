"""One process of a soak: `python -m tests.soak.worker`, started by supervise.py.

It says on stdout, a JSON object a line, where it listens and how every session has ended, and stops when its stdin
ends or its time is over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import threading
import time
import traceback
from itertools import count
from typing import Any

from . import aio_side, sync_side
from .gauge import of_self
from .plan import Messages, Plan
from .tally import Tally

#: Sessions at once in a process of clients: tasks, and threads (two each).
LANES, THREADS = 8, 4

#: Sessions of a lane, at most: their numbers are its own.
LANE = 10_000_000

_printing = threading.Lock()


def say(**what: Any) -> None:
    with _printing:
        print(json.dumps(what), flush=True)


def report(tally: Tally) -> None:
    say(tally=tally.as_dict())


# ---- servers ----


async def serve(messages: Messages) -> None:
    async with aio_side.serve(messages, report) as ports:
        say(ports=ports, **of_self().as_dict())
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def serve_in_threads(messages: Messages) -> None:
    with sync_side.serve(messages, report) as port:
        say(ports=[port, port], **of_self().as_dict())
        sys.stdin.read()


# ---- clients ----


def uri_of(ports: list[list[int]], plan: Plan) -> str:
    """One server after the other; where it has callbacks, their port."""
    port = ports[plan.session % len(ports)][plan.server == "callback"]
    return f"ws://127.0.0.1:{port}/"


def failed(plan: Plan) -> None:
    say(failure=f"{plan}: {traceback.format_exc()}")


async def talk(messages: Messages, ports: list[list[int]], lane: int, until: float) -> None:
    async def one_lane(numbers: Any) -> None:
        while time.monotonic() < until:
            plan = Plan.of(messages.seed, next(numbers))
            try:
                report(await aio_side.Session(messages, plan).run(uri_of(ports, plan)))
            except Exception:
                failed(plan)

    await asyncio.gather(*(one_lane(count((lane + i) * LANE)) for i in range(LANES)))


def talk_in_threads(messages: Messages, ports: list[list[int]], lane: int, until: float) -> None:
    def one_lane(numbers: Any) -> None:
        while time.monotonic() < until:
            plan = Plan.of(messages.seed, next(numbers))
            try:
                report(sync_side.Session(messages, plan).run(uri_of(ports, plan)))
            except Exception:
                failed(plan)

    threads = [threading.Thread(target=one_lane, args=(count((lane + i) * LANE),)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("serve", "talk"))
    parser.add_argument("driver", choices=("aio", "sync"))
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--lane", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--ports", type=json.loads, default=[])
    options = parser.parse_args()
    messages = Messages(options.seed)
    is_aio = options.driver == "aio"
    if options.role == "serve":
        asyncio.run(serve(messages)) if is_aio else serve_in_threads(messages)
    else:
        say(**of_self().as_dict())
        until = time.monotonic() + options.seconds
        if is_aio:
            asyncio.run(talk(messages, options.ports, options.lane, until))
        else:
            talk_in_threads(messages, options.ports, options.lane, until)
    with contextlib.suppress(BrokenPipeError):
        say(end=of_self().as_dict())


if __name__ == "__main__":
    main()
