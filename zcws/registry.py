"""All objects of a kind, known weakly: at a fork something has to be done with each.

Other threads make more of them at any time. So the references are copied in one step, because what is added meanwhile
would end an iteration. Without a GIL, moreover, the thread that has the lock of a dict may be one that a forked child
does not have, and the child would wait for that lock for ever: so the child starts with a new dict of what there was.
"""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

__all__ = ["Registry"]

_Thing = TypeVar("_Thing")


class Registry(Generic[_Thing]):
    """All objects of a kind. Safe from any thread."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[_Thing, None] = weakref.WeakKeyDictionary()
        self._before: list[weakref.ref[_Thing]] = []  # those that there were when the last fork began

    def add(self, thing: _Thing) -> None:
        """One more."""
        self._known[thing] = None

    def __len__(self) -> int:
        """How many there are, roughly."""
        return len(self._known)

    def before_fork(self) -> list[_Thing]:
        """All of them, in the process that is about to fork."""
        self._before = self._known.keyrefs()
        return self._alive()

    def after_in_child(self) -> list[_Thing]:
        """The same in the child."""
        self._known = weakref.WeakKeyDictionary()
        alive = self._alive()
        for thing in alive:
            self.add(thing)
        return alive

    def _alive(self) -> list[_Thing]:
        return [thing for reference in self._before if (thing := reference()) is not None]
