"""The collector, off while any thread needs that, and on again afterwards."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import raw

from zcws.aio.collector import collector_paused


@pytest.fixture(autouse=True)
def collects() -> Iterator[None]:
    """The collector is on before and after each test, whatever that has done."""
    gc.enable()
    yield
    gc.enable()


@pytest.mark.parametrize("is_on", [True, False])
def test_afterwards_it_is_as_it_was(is_on: bool) -> None:
    if not is_on:
        gc.disable()
    with collector_paused:
        assert not gc.isenabled()
        with collector_paused:
            pass
        assert not gc.isenabled()
    assert gc.isenabled() is is_on


def test_an_exception_ends_the_pause() -> None:
    with pytest.raises(ZeroDivisionError), collector_paused:
        raise ZeroDivisionError
    assert gc.isenabled()


def test_it_stays_off_until_the_last_thread_is_out() -> None:
    """The second found it off, and went on with a collector that the first had turned on."""
    is_in, may_go = threading.Event(), threading.Event()

    def wait_inside() -> None:
        with collector_paused:
            is_in.set()
            assert may_go.wait(raw.LONG)

    with raw.thread(wait_inside):
        assert is_in.wait(raw.LONG)
        with collector_paused:
            pass
        assert not gc.isenabled()
        may_go.set()
    assert gc.isenabled()


def test_threads_that_come_and_go_leave_it_on() -> None:
    def come_and_go() -> None:
        for _ in range(5000):
            with collector_paused:
                seen.append(gc.isenabled())

    seen = list[bool]()
    with raw.thread(come_and_go), raw.thread(come_and_go), raw.thread(come_and_go):
        pass
    assert (len(seen), any(seen), gc.isenabled()) == (15_000, False, True)


class Comes:
    """A finalizer that needs a pause of its own."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        with collector_paused:
            came.append(gc.isenabled())


came: list[bool] = []


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="the collector comes when it likes")
def test_it_comes_as_a_pause_begins_or_ends() -> None:
    """It may call what needs a pause in turn, in the thread that has the lock."""

    def collect(*_: object) -> Any:
        if gc.isenabled():
            Comes()
            gc.collect()
        return collect

    before, many = sys.gettrace(), len(came)
    sys.settrace(collect)
    try:
        for _ in range(10):
            with collector_paused:
                seen = gc.isenabled()
    finally:
        sys.settrace(before)
    assert len(came) > many + 20
    assert (seen, gc.isenabled()) == (False, True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_on_in_a_child_process_that_another_thread_has_forked() -> None:
    """Nobody in there would have turned it on again."""
    is_in, may_go = threading.Event(), threading.Event()

    def wait_inside() -> None:
        with collector_paused:
            is_in.set()
            assert may_go.wait(raw.LONG)

    with raw.thread(wait_inside):
        assert is_in.wait(raw.LONG)
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
        _, status = os.waitpid(child, 0)
        assert not gc.isenabled()
        may_go.set()
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_stays_off_in_a_child_of_the_thread_that_needs_that() -> None:
    with collector_paused:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            return
        is_off = not gc.isenabled()
    os._exit(0 if is_off and gc.isenabled() else 1)
