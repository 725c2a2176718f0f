"""Masking keys. RFC 6455 5.3: "derived from a strong source of entropy", a fresh one for each frame."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MaskingKeys"]


class MaskingKeys:
    """Masking keys, drawn from blocks of entropy.

    Args:
        entropy: gives as many random bytes as it is asked for: `os.urandom`, or a fixed source in a test.
    """

    #: Keys drawn at once: enough to make a system call rare, few enough to cost an idle process nothing.
    BLOCK = 256

    __slots__ = ("_entropy", "_keys")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._keys: list[int] = []

    def next(self) -> int:
        """A key that was never used before: its four bytes in memory order."""
        try:
            return self._keys.pop()
        except IndexError:
            keys: list[int] = memoryview(self._entropy(4 * self.BLOCK)).cast("I").tolist()[::-1]
            key = keys.pop()
            self._keys = keys
            return key

    def forget(self) -> None:
        """Drops the block: after a fork the child must not use its parent's keys."""
        self._keys = []
