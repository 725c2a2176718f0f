"""What is measured: a module each, with `run(plan)`. The order is the order of the report."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measure import Plan

__all__ = ["TITLES", "human", "runner"]

#: Each workload, and its title in reports. The names are those of the modules.
TITLES = {
    "echo": "Echo server",
    "firehose": "Firehose: a client that receives",
    "compressed": "Echo server with permessage-deflate",
    "clients": "Echo client",
    "memory": "Memory of an idle connection",
    "sessions": "Handshakes and whole sessions",
    "tls": "Echo server over TLS",
    "packets": "Echo server, messages that come in packets",
    "growth": "Ever more connections, one in a hundred busy",
    "broadcast": "Broadcast",
    "asgi": "Echo behind uvicorn",
    "imports": "Import",
}


def runner(name: str) -> Callable[[Plan], None]:
    """The workload's `run`; its module is imported only now."""
    run: Callable[[Plan], None] = importlib.import_module(f"benchmarks.workloads.{name}").run
    return run


def human(size: int) -> str:
    """256 B, 8 KiB, 1 MiB."""
    if size < 1024:
        return f"{size} B"
    return f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"
