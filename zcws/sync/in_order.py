"""What a thread writes, and what its own signal handlers want to write in the middle of that.

A lock keeps other threads out, and not a handler: it runs in the thread that has the lock, between any two bytecodes.
What it wants to write is put off until what it has interrupted is out: no frame stands in the middle of another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from zcws.errors import ConnectionClosed
from zcws.frame import Frame, check_frame

__all__ = ["InOrder", "is_of_a_lock"]

logger: logging.Logger = logging.getLogger("zcws")

_Data = TypeVar("_Data")
_Result = TypeVar("_Result")


def is_of_a_lock(error: RuntimeError) -> bool:
    """Whether `release` has raised it, of a lock that this thread has not got, and not a signal handler right behind
    it, which has a frame of its own."""
    trace = error.__traceback__
    return trace is not None and trace.tb_next is None


class InOrder:
    """Who writes to one connection, and who waits to.

    Attributes:
        waiting: what has been put off.
        is_busy: somebody writes. Whoever finds it so, and was not kept out by a lock, is a signal handler of that
            thread; or nobody may write any more.
    """

    __slots__ = ("_refuse", "is_busy", "waiting")

    def __init__(self) -> None:
        self._refuse: Callable[[], object] | None = None
        self.is_busy = False
        self.waiting: list[Callable[[], object]] = []

    def run(self, *writes: Callable[[], _Result]) -> _Result:
        """Nobody is busy: calls them one after the other, then what was put off. Returns: what the last one gave."""
        self.is_busy = True
        try:
            for write in writes:
                result = write()
        finally:
            self.is_busy = False  # here, and not in a function: a signal handler may raise where one begins
            if self.waiting:
                self.catch_up()
        return result

    def put_off(self, write: Callable[[], object]) -> None:
        """`write` is called when what has been interrupted is out."""
        if self._refuse is not None:
            self._refuse()
        self.waiting.append(write)

    def end(self, refuse: Callable[[], object]) -> None:
        """From now on nobody may write, and `refuse` raises what says so."""
        self._refuse = refuse
        self.is_busy = True

    def kept(self, data: _Data) -> _Data | bytes:
        """`data`, for whoever is going to write it: what is put off is copied, as it may change meanwhile."""
        return data if not self.is_busy or isinstance(data, str) else bytes(memoryview(data))  # type: ignore[arg-type]

    def kept_frame(self, frame: Frame) -> Frame:
        """The same for a frame."""
        check_frame(frame)
        return Frame(frame.opcode, frame.to_bytes(), fin=frame.fin) if self.is_busy else frame

    def catch_up(self) -> None:
        """Nobody writes any more: what was put off is written."""
        while not self.is_busy:
            try:
                write = self.waiting.pop(0)
            except IndexError:
                return  # that was all; or another signal has done it meanwhile
            try:
                write()
            except ConnectionClosed:
                pass  # the handler that wanted to has returned
            except Exception:
                logger.error("what a signal handler wanted to write could not be sent", exc_info=True)
