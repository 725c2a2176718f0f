"""The garbage collector of CPython, which calls finalizers of whatever is garbage, kept from coming.

It is on or off for the whole process, and event loops may run in several threads. If each only put back what it has
found, the second one, which finds it off, would go on with a collector that the first has turned on; or it would turn
it off behind the first one's back, for ever.
"""

from __future__ import annotations

import gc
import os
import threading

__all__ = ["collector_paused"]


class Pause:
    """`with collector_paused:` no garbage is collected, in any thread. Afterwards the collector is as it was before.

    The collector may come while this thread has the lock, and call a finalizer that sends, and so comes here: then a
    thread is in the list twice, and only what is outermost turns the collector off and on.
    """

    __slots__ = ("_lock", "_resumes", "_threads")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._threads: list[int] = []  # those that are inside
        self._resumes = False  # it was on before the first of them

    def __enter__(self) -> None:
        with self._lock:
            self._threads.append(threading.get_ident())
            if len(self._threads) == 1:
                self._resumes = gc.isenabled()
                gc.disable()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._resumes and len(self._threads) == 1:
                gc.enable()
            self._threads.remove(threading.get_ident())

    def _go_on_in_child(self) -> None:
        """Only the thread that has forked is in the child: others never come out there, and one may have the lock."""
        self._lock = threading.RLock()
        inside, me = bool(self._threads), threading.get_ident()
        self._threads = [thread for thread in self._threads if thread == me]
        if inside and self._resumes and not self._threads:
            gc.enable()


collector_paused = Pause()

if hasattr(os, "register_at_fork"):  # pragma: no branch - false on Windows only, which has no fork
    os.register_at_fork(after_in_child=collector_paused._go_on_in_child)
