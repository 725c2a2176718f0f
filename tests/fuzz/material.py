"""What the fuzz targets draw from: the front of an input is parameters, the rest is what arrives.

A target is a module with `check(data)`: an assertion, or any exception that is not documented, is a finding. It must
say the same of the same bytes whenever it is asked, so every choice comes from the input.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Of the 256 values of the byte that says how far a stream is stretched, so many say "not at all": long ones are slow.
PLAIN = 240


class Material:
    """An input that is being used up. Behind its end everything is 0, so that a short input is one too."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.byte() % len(choices)]

    def random(self) -> random.Random:
        """For choices of which there are many: cuts above all."""
        return random.Random(self.byte())

    def rest(self) -> bytes:
        return self._data[self._at :]

    def stretched(self, unit: int) -> bytes:
        """The rest; now and then one byte of it is there many times: up to 16 units."""
        times, place = self.byte() - PLAIN + 1, self.byte() << 8 | self.byte()
        rest = self.rest()
        if times <= 0 or not rest:
            return rest
        place %= len(rest)
        return rest[:place] + rest[place : place + 1] * (times * unit) + rest[place:]


def cuts(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """`data` in pieces, mostly small ones; how small differs from input to input."""
    longest = chance.choice((1, 3, 20, 300, 5000, 100_000))
    if len(data) > 100 * longest:
        longest = len(data) // 50  # about a hundred pieces: each costs 50 us while coverage is counted
    at = 0
    while at < len(data):
        size = chance.randint(1, longest)
        yield data[at : at + size]
        at += size
