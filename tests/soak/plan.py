"""What a session does, and every message of it: made from the seed and the session's number alone.

Both sides make it for themselves, from the number in the path of the request. So a receiver knows exactly which
message has to come next, empty ones included, and compares the whole of it; the number and the checksum at its head
say what happened where it is another one.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass

__all__ = ["ENDINGS", "STYLES", "Messages", "Plan"]

#: How a session may end, and how often out of 12. "eager" closes with echoes still under way.
ENDINGS = {
    "drained": 4,
    "eager": 3,
    "server closes": 2,
    "client aborts": 1,
    "client resets": 1,
    "server aborts": 1,
}

#: Ways to read: see the methods of the same names in aio_side.py and sync_side.py.
STYLES = ("messages", "recv", "frames", "batches", "pieces", "cancelled", "held", "halves", "callback")

#: Ways to send a message: whole, as an iterable of fragments, as a stream, as a frame.
FORMS = ("whole", "whole", "whole", "fragments", "stream", "frame")

#: Bytes (or characters) of messages: nothing, what fits a head of 2, 4 and 10 bytes, what no ring holds; 1 MiB at most.
MIB = 1 << 20
_RANGES = ((0, 0), (1, 125), (1, 125), (126, 1000), (126, 1000), (126, 4000), (4000, 65_535), (65_536, MIB))

#: Of the last range only one in so many is taken, or nothing but large messages would fill the time.
_RARELY = 4

_HEAD = re.compile(r"(\d+)\.(\d+)\.([0-9a-f]{8}) ")

#: Other messages are cut out of this much.
_STOCK = MIB + 4096


@dataclass(frozen=True)
class Plan:
    """One session.

    Attributes:
        count: messages that the client sends; window: of which so many may be unanswered.
        ending: one of ENDINGS; cut: after so many echoes, where it is not the client's Close that ends it.
        client, server: how they read; form: how they send.
        slow: seconds that the client sleeps after every tenth message.
    """

    session: int
    count: int
    window: int
    ending: str
    cut: int
    client: str
    server: str
    form: str
    compression: bool
    slow: float

    @classmethod
    def of(cls, seed: int, session: int) -> Plan:
        rng = random.Random(seed * 1_000_003 + session)
        count = rng.choice((1, 10, 50, 200))
        return cls(
            session=session,
            count=count,
            window=rng.choice((1, 4, 32)),
            ending=rng.choices([*ENDINGS], [*ENDINGS.values()])[0],
            cut=rng.randint(1, count),
            client=rng.choice(STYLES),
            server=rng.choice(STYLES),
            form=rng.choice(FORMS),
            compression=rng.random() < 0.4,
            slow=rng.choice((0.0, 0.0, 0.0, 0.01)),
        )


class Messages:
    """Every message of every session of one seed; none is longer than `longest`."""

    def __init__(self, seed: int, longest: int = MIB) -> None:
        self.seed = seed
        rng = random.Random(seed)
        words = ["".join(rng.choices("etaoinsé漢😀", k=rng.randint(1, 9))) for _ in range(2000)]
        # Half of what is binary compresses well, half not at all.
        self._text = " ".join(rng.choices(words, k=_STOCK // 5))[:_STOCK].ljust(_STOCK, "-")
        self._bytes = b"".join(rng.randbytes(512) + bytes(512) for _ in range(_STOCK // 1024))
        self._sizes = [min(self._size(rng), longest) for _ in range(4093)]  # a prime, so that sessions differ

    @staticmethod
    def _size(rng: random.Random) -> int:
        first, last = rng.choice(_RANGES)
        return rng.randint(first, last) if last < MIB or rng.randrange(_RARELY) == 0 else rng.randint(1, 125)

    def make(self, session: int, number: int) -> str | bytes:
        """The message of that number."""
        draw = zlib.crc32(b"%d %d %d" % (self.seed, session, number))
        size, offset = self._sizes[draw % len(self._sizes)], draw % 4096
        if draw & 1:
            text = self._text[offset : offset + size]
            return f"{session}.{number}.{zlib.crc32(text.encode()):08x} {text}"[:size]
        data = self._bytes[offset : offset + size]
        return (b"%d.%d.%08x " % (session, number, zlib.crc32(data)) + data)[:size]


def diagnose(session: int, expected: int, message: str | bytes) -> str:
    """What a message is that is not the expected one."""
    start = message[:64] if isinstance(message, str) else message[:64].decode("latin-1")
    head = _HEAD.match(start)
    if head is None:
        return f"altered: message {expected} of {session} came as {start!r} ({len(message)} long)"
    whose, number = int(head[1]), int(head[2])
    if whose != session:
        return f"astray: {session} was sent message {number} of {whose}"
    if number == expected:
        return f"altered: message {expected} of {session}, behind its head ({len(message)} long)"
    return f"{'lost' if number > expected else 'doubled'}: {number} came for {expected} in {session}"
