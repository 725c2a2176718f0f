from __future__ import annotations

import threading
from itertools import count

import raw
from looks import at_look, knows_looks

from zcws.sync.bell import Bell


def test_a_ring_is_heard_once() -> None:
    bell = Bell()
    assert not bell.wait(0)
    bell.ring()
    bell.ring()
    assert bell.wait(None)
    assert not bell.wait(0)
    bell.ring()
    bell.clear()
    assert not bell.wait(0.001)


def test_another_thread_rings() -> None:
    bell, waits = Bell(), threading.Event()

    def ring() -> None:
        waits.wait()
        bell.ring()

    with raw.thread(ring):
        waits.set()
        assert bell.wait(raw.LONG)


@knows_looks
def test_a_signal_handler_rings_in_the_middle_of_a_ring() -> None:
    """With an Event it waited for ever, for a lock that the thread held which it had interrupted."""
    with at_look(0, list):  # CPython 3.13 traces the bytecodes of such a function from its second call on
        Bell().ring()
    for number in count(1):
        bell = Bell()
        with at_look(number, bell.ring) as fired:
            bell.ring()
        assert bell.wait(0)
        if not fired:
            break
    assert number > 1


def test_who_does_not_wait_never_does() -> None:
    """Python 3.10: once in 10,000 times, for ever."""
    bell = Bell()
    assert not any(bell.wait(0) for _ in range(50_000))
