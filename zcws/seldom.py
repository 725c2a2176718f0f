"""What happens as often as others like is told once in a while. The time comes as an argument."""

from __future__ import annotations

from logging import DEBUG

__all__ = ["Seldom"]


class Seldom:
    """One thing to be told, not again for so many seconds. In any thread: at worst it is told twice."""

    __slots__ = ("_again", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._again = 0.0

    def is_due(self, now: float) -> bool:
        """Whether it is to be told, `now` in seconds of a clock that never goes back. Whoever asks does tell it."""
        if now < self._again:
            return False
        self._again = now + self._seconds
        return True

    def level(self, level: int, now: float) -> int:
        """The level at which it goes into the log: `level`, or DEBUG where it is not due."""
        return level if self.is_due(now) else DEBUG
