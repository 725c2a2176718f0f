"""A bell: one thread waits until it rings, and anybody may ring it, a signal handler too.

Whoever rings a `threading.Event` holds a lock meanwhile that is not reentrant: a signal handler that interrupts its
thread there, and rings as well, waits for ever. `queue.SimpleQueue` may be filled from anywhere, but in Python 3.10 a
`get` whose timeout ends between two of its steps waits for ever: of those with a timeout of 0, about one in 10,000.
"""

from __future__ import annotations

import threading

__all__ = ["Bell"]


class Bell:
    """Rings are not counted: one that nobody has heard yet stands for all."""

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = threading.Lock()  # held, unless there is a ring to be heard
        self._silence.acquire()

    def ring(self) -> None:
        """Has the thread that waits go on, or the next wait end at once."""
        try:
            self._silence.release()
        except RuntimeError:
            pass  # it rings already

    def clear(self) -> None:
        """Forgets what has not been heard."""
        self._silence.acquire(blocking=False)

    def wait(self, timeout: float | None) -> bool:
        """Waits for a ring, `timeout` seconds at most. Returns whether there was one, which is heard by this."""
        return self._silence.acquire(timeout=-1 if timeout is None else timeout)
