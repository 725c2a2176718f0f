"""What a measured client counts with.

The clock is read once for each chunk of messages, not for each message, so that reading it costs nothing:

    for count in meter:
        for _ in range(count):
            ...                             # one message

CPU time is this process's. What comes before the end of the warm-up is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

__all__ = ["Meter"]


class Meter:
    """Counts messages from the end of the warm-up until the time is over."""

    def __init__(self, *, seconds: float, warmup: float, chunk: int, size: int | None) -> None:
        self.messages = 0
        self._chunk = chunk
        self._size = size
        self._seconds = seconds
        self._warm_at = time.perf_counter() + warmup
        self._began: tuple[float, float] | None = None
        self._ended: tuple[float, float] | None = None

    def __iter__(self) -> Iterator[int]:
        while count := self.next():
            yield count

    def next(self) -> int:
        """How many messages until the next look at the clock; 0 when it is over."""
        now = time.perf_counter()
        if self._began is None:
            if now >= self._warm_at:
                self._began = (now, time.process_time())
            return self._chunk
        self.messages += self._chunk
        if now < self._began[0] + self._seconds:
            return self._chunk
        self._ended = (now, time.process_time())
        return 0

    def check(self, message: object) -> None:
        """Checks the first message, so that a client that delivers something else is not measured."""
        size = len(message)  # type: ignore[arg-type]
        if self._size is not None and size != self._size:
            raise ValueError(f"a message of {size}, not {self._size}: {message!r:.60}")

    def figures(self) -> dict[str, float]:
        """What was measured."""
        assert self._began is not None and self._ended is not None, "the client stopped early"
        seconds, cpu = (end - begin for begin, end in zip(self._began, self._ended, strict=True))
        return {
            "units": self.messages,
            "seconds": seconds,
            "per_second": self.messages / seconds,
            "cpu_us": cpu / self.messages * 1e6,
            "cpu_share": cpu / seconds,
        }
