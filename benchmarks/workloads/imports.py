"""What `import` costs: CPU time of a new interpreter. Those that import nothing and only asyncio show what is left.

With compiled modules, as pip leaves them: a library that is imported from a working tree under PYTHONDONTWRITEBYTECODE
would be compiled every time, which takes three times as long as all else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

from benchmarks.machine import version_of
from benchmarks.measure import Plan, in_turns
from benchmarks.peers import Row
from benchmarks.process import start

__all__ = ["run"]

#: What a program has to import for a client and a server.
STATEMENTS = {
    "nothing": ("", ""),
    "asyncio": ("", "import asyncio"),
    "zcws": ("zcws", "import asyncio, zcws; zcws.connect, zcws.serve"),
    "picows": ("picows", "import asyncio, picows"),
    "picows.websockets": ("picows", "import asyncio, picows.websockets"),
    "websockets": ("websockets", "import asyncio, websockets.asyncio.client, websockets.asyncio.server"),
    "aiohttp": ("aiohttp", "import asyncio, aiohttp.web"),
}
UNIT = "ms CPU to import"


def run(plan: Plan) -> None:
    """Rounds of one start each."""
    rows = [
        Row(name, library, "")
        for name, (library, _) in STATEMENTS.items()
        if not library or version_of(library)
    ]
    for row in rows:
        cost(STATEMENTS[row.name][1])  # whatever has not been compiled yet is now
    for turn in range(plan.pace.rounds * 2):
        for row in in_turns(rows, turn):
            statement = STATEMENTS[row.name][1]
            plan.measure(
                "imports", "client and server", row, partial(cost, statement), figure="cpu_ms", unit=UNIT
            )


def cost(statement: str) -> dict[str, float]:
    """Milliseconds of CPU time, start of the interpreter included."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = start([sys.executable, "-c", statement], 0, stdin=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {"cpu_ms": (usage.ru_utime + usage.ru_stime) * 1000}
