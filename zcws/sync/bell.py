"""A bell: one thread waits until it rings, and anybody may ring it, a signal handler too.

Whoever rings a `threading.Event` holds a lock meanwhile that is not reentrant: a signal handler that interrupts its
thread there, and rings as well, waits for ever. `queue.SimpleQueue` is made to be filled from anywhere.
"""

from __future__ import annotations

import queue

__all__ = ["Bell"]


class Bell:
    """Rings are not counted: one that nobody has heard yet stands for all."""

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        """Has the thread that waits go on, or the next wait end at once."""
        if self._rings.empty():
            self._rings.put(None)

    def clear(self) -> None:
        """Forgets what has not been heard."""
        while self.wait(0):
            pass

    def wait(self, timeout: float | None) -> bool:
        """Waits for a ring, `timeout` seconds at most. Returns whether there was one, which is heard by this."""
        try:
            # Python 3.10 waits for ever if the time is up between two steps of its `get`. With a timeout of 0 that
            # happened once in 10,000 calls.
            self._rings.get(block=timeout is None or timeout > 0, timeout=timeout)
        except queue.Empty:
            return False
        return True
