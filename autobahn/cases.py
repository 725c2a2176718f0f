"""Which cases are run: shards of the suite, each with the number of cases that it has to report.

The number is checked before any verdict is read: a server that could not be reached, or a runner that stopped early,
gives a short report in which nothing failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["SELECTIONS", "Selection", "Shard"]


@dataclass(frozen=True)
class Shard:
    """Cases that one process of the runner goes through.

    Attributes:
        name: for people and directories.
        patterns: of case numbers, as the runner takes them.
        count: how many cases they stand for.
    """

    name: str
    patterns: tuple[str, ...]
    count: int

    def has(self, case: str) -> bool:
        """Whether the case is one of these."""
        return any(fnmatchcase(case, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class Selection:
    """Shards, and how many seconds a whole run may take, with every mode, driver and loop.

    The limit is several times what two cores need: a peer that is stuck holds a case for up to 480 seconds, and then
    it is better to stop and say where.
    """

    shards: tuple[Shard, ...]
    limit: float


#: Framing, Pings, reserved bits, opcodes, fragments, UTF-8, closing; automatic fragments.
BASIC = Shard("1-7,10", tuple(f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 10)), 247)

#: Messages of up to 16 MiB, and of up to 65,536 fragments.
LARGE = Shard("9", ("9.*",), 54)

#: permessage-deflate: 12.1 to 12.5 are kinds of data, 13.1 to 13.7 are parameters; 18 sizes of each.
DEFLATE = tuple(
    Shard(name, (f"{name}.*",), 18)
    for name in (*(f"12.{kind}" for kind in range(1, 6)), *(f"13.{parameters}" for parameters in range(1, 8)))
)

#: The smallest of each, then 1000 larger messages each: JSON of 128 KiB, the same of 16 KiB and 64 KiB in fragments of
#: 256 bytes, a picture of 4 KiB, German text of 16 KiB, and JSON of 32 KiB in the smallest window with a context and
#: without.
DEFLATE_SAMPLE = Shard(
    "12,13 sample",
    (
        *(f"{shard.name}.1" for shard in DEFLATE),
        *("12.1.10", "12.1.12", "12.1.14", "12.2.5", "12.3.7", "13.3.8", "13.5.8"),
    ),
    19,
)

SELECTIONS = {
    "quick": Selection((BASIC,), limit=300),
    "ci": Selection((DEFLATE_SAMPLE, BASIC, LARGE), limit=900),
    "all": Selection((*DEFLATE, BASIC, LARGE), limit=7200),
}
