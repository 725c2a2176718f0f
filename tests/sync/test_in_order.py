"""What signal handlers want to write in the middle of a write. With real signals: test_signals.py."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from zcws.codes import OpCode
from zcws.errors import ConnectionClosedError
from zcws.frame import Frame
from zcws.sync.in_order import InOrder


def test_what_is_put_off_comes_behind_all_that_it_interrupted() -> None:
    order, done = InOrder(), list[str]()

    def interrupted() -> str:
        assert order.is_busy
        for name in ("second", "third"):
            order.put_off(lambda name=name: done.append(name))  # type: ignore[misc]
        done.append("begun")
        return "first"

    assert order.run(interrupted, lambda: done.append("flushed") or "last") == "last"  # type: ignore[func-returns-value]
    assert done == ["begun", "flushed", "second", "third"]
    assert not order.is_busy


def test_a_write_that_fails_does_not_keep_what_was_put_off() -> None:
    order, done = InOrder(), list[str]()

    def fails() -> None:
        order.put_off(lambda: done.append("put off"))
        raise OSError

    with pytest.raises(OSError):
        order.run(fails)
    assert done == ["put off"]


def test_what_a_handler_wanted_and_cannot_have(caplog: pytest.LogCaptureFixture) -> None:
    """It has returned, and nobody else is to blame; what comes behind it is written."""
    order, done = InOrder(), list[str]()

    def raising(error: Exception) -> Any:
        def write() -> None:
            raise error

        return write

    def interrupted() -> None:
        order.put_off(raising(ConnectionClosedError(1006, "")))
        order.put_off(raising(ValueError("a mistake")))
        order.put_off(lambda: done.append("written"))

    with caplog.at_level(logging.ERROR, "zcws"):
        order.run(interrupted)
    assert done == ["written"]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


def test_after_the_end_nothing_is_put_off() -> None:
    order = InOrder()

    def refuse() -> None:
        raise RuntimeError("split")

    order.end(refuse)
    assert order.is_busy
    with pytest.raises(RuntimeError, match="split"):
        order.put_off(lambda: None)


def test_what_is_put_off_behind_the_end_is_not_written() -> None:
    order, done = InOrder(), list[str]()

    def interrupted() -> None:
        order.put_off(lambda: order.end(lambda: None))
        order.put_off(lambda: done.append("written"))

    order.run(interrupted)
    assert done == [] and order.is_busy


def test_what_is_no_frame_is_the_handlers_mistake() -> None:
    """It hears of it, and not the log when it has returned."""
    order = InOrder()
    for order.is_busy in (False, True):
        with pytest.raises(TypeError, match="write_frame sends a Frame, not bytes"):
            order.kept_frame(b"x")  # type: ignore[arg-type]


def test_what_is_put_off_is_copied() -> None:
    order, memory = InOrder(), bytearray(b"abc")
    frame = Frame.binary(memory)
    assert order.kept(memory) is memory and order.kept_frame(frame) is frame
    order.is_busy = True
    kept, kept_frame = order.kept(memory), order.kept_frame(frame)
    memory[:] = b"xyz"
    assert (kept, order.kept("text")) == (b"abc", "text")
    assert (kept_frame.opcode, bytes(kept_frame.payload), kept_frame.fin) == (OpCode.BINARY, b"abc", True)


def test_signals_one_behind_the_other() -> None:
    """Another comes while what the first one wanted is caught up with."""
    order, done = InOrder(), list[str]()

    class Waiting(list[Any]):
        def pop(self, at: Any = -1) -> Any:
            taken = super().pop(at)
            done.append("taken by another")
            self.clear()
            self.append(None)
            super().pop()
            taken()
            raise IndexError

    order.waiting = Waiting()
    order.is_busy = True
    order.put_off(lambda: done.append("written"))
    order.is_busy = False
    order.catch_up()
    assert done == ["taken by another", "written"]
