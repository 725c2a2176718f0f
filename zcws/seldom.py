"""What others can make happen as often as they like is reported once in a while. The time comes as an argument."""

from __future__ import annotations

from logging import DEBUG

__all__ = ["SAID", "Seldom"]

#: Seconds between two lines in the log about what any client can cause as often as it connects.
SAID = 1.0


class Seldom:
    """One thing to report, at most once in `seconds`. Safe from any thread: at worst it is reported twice."""

    __slots__ = ("_again", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._again = 0.0

    def is_due(self, now: float) -> bool:
        """Whether to report it at `now`, seconds of a clock that never goes back. A caller that gets True does so."""
        if now < self._again:
            return False
        self._again = now + self._seconds
        return True

    def level(self, level: int, now: float) -> int:
        """The level at which it goes into the log: `level`, or DEBUG where it is not due."""
        return level if self.is_due(now) else DEBUG
