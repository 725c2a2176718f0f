"""Memory of a connection that is idle: resident size of the server, divided by the connections.

The kernel's socket buffers are not in it. First some connections come and go, so that what is loaded or pooled once
is not counted. The last message of each is small: handlers still hold it. What `benchmarks/memory.py` finds about zcws
alone (each driver, compression without sockets) comes along as a table.
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import corpus, frames
from benchmarks.measure import Plan
from benchmarks.peers import Row, rows_of
from benchmarks.process import ROOT, Failed, Server, cpu_time, raise_limit
from benchmarks.pyload import make_certificate, open_connection
from benchmarks.workloads.compressed import COMPRESSES, OFFER

__all__ = ["run"]

UNIT = "KiB a connection"
WARM_UP = 50
#: Seconds for the server to answer, and for everything that `benchmarks/memory.py` does.
PATIENCE = 30
PATIENCE_ALL = 300


@dataclass(frozen=True)
class Kind:
    """A case: what the connections agree to, and the messages that each of them has."""

    case: str
    connections: int
    messages: tuple[bytes, ...]
    settings: Mapping[str, Any]
    only: Callable[[str], bool] = lambda name: True


def run(plan: Plan) -> None:
    """Every case once: memory does not vary from round to round as time does."""
    raise_limit()
    with kinds(plan) as cases:
        for kind in cases:
            for row in rows_of("SERVE", plan.loops, kind.only):
                function = partial(measure, row, kind)
                plan.measure("memory", kind.case, row, function, figure="kib", unit=UNIT)
    ours(plan)


@contextmanager
def kinds(plan: Plan) -> Iterator[list[Kind]]:
    """The cases."""
    count = 300 if plan.pace.quick else 1000
    [small] = corpus.messages("feed", 1024, 1)
    plain = frames.build(small, masked=True)
    found = [
        Kind("after 1 KiB", count, (plain,), {}),
        Kind("after 1 MiB and 1 KiB", count // 5, (frames.build(bytes(1 << 20), masked=True), plain), {}),
    ]
    [deflated] = frames.compressed([small], level=6, masked=True)
    found.append(
        Kind("deflate, after 1 KiB", count, (deflated,), {"level": 1}, lambda name: name in COMPRESSES)
    )
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        if certificate is None:
            plan.skip("memory: certificates for TLS need the package trustme")
        else:
            found.append(Kind("TLS, after 1 KiB", count // 5, (plain,), {"certificate": certificate}))
        yield found


def measure(row: Row, kind: Kind) -> dict[str, float]:
    """One server."""
    server = Server.of(row, "SERVE", kind.settings)
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.wait()
        with ExitStack() as warm_up:
            for _ in range(WARM_UP):
                exchange(server, row, kind, warm_up)
        settle(server)
        before = resident(server)
        for _ in range(kind.connections):
            exchange(server, row, kind, stack)
        settle(server)
        return {"kib": (resident(server) - before) / kind.connections / 1024}


def exchange(server: Server, row: Row, kind: Kind, stack: ExitStack) -> None:
    """A connection that stays open as long as `stack`, with its messages both ways."""
    certificate = kind.settings.get("certificate")
    offer = OFFER if "level" in kind.settings else ""
    connection = stack.enter_context(
        open_connection(server.port, certificate, raw=row.is_limit, offer=offer, timeout=PATIENCE)
    )
    try:
        for message in kind.messages:
            connection.sendall(message)
            read_exactly(connection, len(message) if row.is_limit else read_length(connection))
    except OSError as error:
        raise Failed(str(error)) from None


def read_length(connection: socket.socket) -> int:
    """Of the payload whose head comes next."""
    length = read_exactly(connection, 2)[1]
    if length < 126:
        return length
    return int.from_bytes(read_exactly(connection, 2 if length == 126 else 8), "big")


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """All of it."""
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise Failed("the server closed the connection")
        data += part
    return bytes(data)


def resident(server: Server) -> int:
    """Bytes of the process that are in memory."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def settle(server: Server) -> None:
    """Until closing, and what is done a moment later, is over."""
    used = -1.0
    while cpu_time(server.process.pid) > used + 0.001:
        used = cpu_time(server.process.pid)
        time.sleep(0.2)


def ours(plan: Plan) -> None:
    """The table of `benchmarks/memory.py`."""
    plan.step("memory: zcws in detail")
    count = 1000 if plan.pace.quick else 10_000
    command = [sys.executable, "-m", "benchmarks.memory", "--count", str(count)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_ALL, check=True
        )
    except subprocess.SubprocessError as error:
        plan.skip(f"memory: benchmarks/memory.py failed ({error})")
        return
    plan.tables["memory"] = [json.loads(done.stdout)]
