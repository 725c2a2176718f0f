"""What a process holds: memory, descriptors, objects. Linux tells of any process, other systems of this one."""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Gauge", "of_process", "of_self"]

KIB = 1024

#: Whether the system tells.
HAS_PROC = Path("/proc/self/statm").exists()

_PAGE = os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True)
class Gauge:
    """rss: resident memory in KiB. fds: open descriptors. blocks: live allocations of Python; 0 where nobody counts."""

    rss: int
    fds: int
    blocks: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def of_process(pid: int | str) -> Gauge:
    """Another process, from outside: without its allocations."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Gauge(resident * _PAGE // KIB, len(os.listdir(f"/proc/{pid}/fd")))


def of_self() -> Gauge:
    """This process, when what only waits for the collector is gone."""
    gc.collect()
    seen = of_process("self")
    count = getattr(sys, "getallocatedblocks", int)  # PyPy has none
    return Gauge(seen.rss, seen.fds, count())
