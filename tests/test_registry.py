"""All there are of a kind, for a fork."""

from __future__ import annotations

import gc
import sys
from typing import Any

from zcws.registry import Registry


class Thing:
    pass


def test_what_nobody_uses_is_forgotten() -> None:
    registry, kept = Registry[Thing](), Thing()
    registry.add(kept)
    registry.add(Thing())
    gc.collect()
    assert (len(registry), registry.before_fork()) == (1, [kept])


def test_some_are_made_while_a_fork_looks_at_all_of_them() -> None:
    """By other threads, between any two lines: `RuntimeError: Set changed size during iteration`."""
    registry, things = Registry[Thing](), [Thing()]
    registry.add(things[0])

    def make(*_: object) -> Any:
        things.append(Thing())
        registry.add(things[-1])
        return make

    before = sys.gettrace()
    sys.settrace(make)
    try:
        seen = registry.before_fork()
    finally:
        sys.settrace(before)
    assert len(things) > len(seen) >= 1
    assert things[0] in seen
    assert len(registry) == len(things)


def test_a_child_knows_what_there_was_and_asks_for_no_lock_of_its_parent() -> None:
    """A thread that it does not have may have been given that."""
    registry, kept, gone = Registry[Thing](), Thing(), Thing()
    registry.add(kept)
    registry.add(gone)
    assert set(registry.before_fork()) == {kept, gone}
    registry.add(late := Thing())
    del gone
    gc.collect()
    locked = registry._known
    assert registry.after_in_child() == [kept]
    assert registry._known is not locked
    assert (len(registry), late in registry._known) == (1, False)
