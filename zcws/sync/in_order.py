"""What a thread writes, and what its own signal handlers want to write in the middle of that.

A lock keeps out other threads, but not a signal handler, which runs between any two bytecodes of the thread that holds
the lock. What a handler wants to write is put off until the write that it has interrupted is out, so that no frame
lands in the middle of another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from zcws.errors import ConnectionClosed
from zcws.frame import Frame, check_frame
from zcws.payloads import as_bytes

__all__ = ["InOrder", "is_of_a_lock"]

logger: logging.Logger = logging.getLogger("zcws")

_Data = TypeVar("_Data")
_Result = TypeVar("_Result")


def is_of_a_lock(error: RuntimeError) -> bool:
    """Whether `release` has raised `error`, because this thread does not hold the lock. A signal handler that raises
    right after `release` has a frame of its own in the traceback."""
    trace = error.__traceback__
    return trace is not None and trace.tb_next is None


class InOrder:
    """Whether somebody is writing to one connection, and the writes that have been put off meanwhile.

    Attributes:
        waiting: the writes that have been put off.
        is_busy: somebody is writing, or nobody may write any more. Code that finds it set although it holds the lock
            runs in a signal handler of the thread that writes.
    """

    __slots__ = ("_refuse", "is_busy", "waiting")

    def __init__(self) -> None:
        self._refuse: Callable[[], object] | None = None
        self.is_busy = False
        self.waiting: list[Callable[[], object]] = []

    def run(self, *writes: Callable[[], _Result]) -> _Result:
        """Calls `writes` one after the other, then what was put off. Nobody is busy. Returns: the last one's result."""
        self.is_busy = True
        try:
            for write in writes:
                result = write()
        finally:
            self.is_busy = False  # not in a function: a signal handler may raise as one begins
            if self.waiting:
                self.catch_up()
        return result

    def put_off(self, write: Callable[[], object]) -> None:
        """Has `write` called when the write that was interrupted is out."""
        if self._refuse is not None:
            self._refuse()
        self.waiting.append(write)

    def end(self, refuse: Callable[[], object]) -> None:
        """From now on nobody may write, and `refuse` raises what says so."""
        self._refuse = refuse
        self.is_busy = True

    def kept(self, data: _Data) -> _Data | bytes:
        """`data`, or a copy of it if its write will be put off, because the program may change it meanwhile."""
        return data if not self.is_busy or isinstance(data, str) else bytes(as_bytes(data))  # type: ignore[arg-type]

    def kept_frame(self, frame: Frame) -> Frame:
        """The same for a frame."""
        check_frame(frame)
        return Frame(frame.opcode, frame.to_bytes(), fin=frame.fin) if self.is_busy else frame

    def catch_up(self) -> None:
        """Calls the writes that were put off. Nobody is busy any more."""
        while not self.is_busy:
            try:
                write = self.waiting.pop(0)
            except IndexError:
                return  # that was all; or another signal has done it meanwhile
            try:
                write()
            except ConnectionClosed:
                pass  # the handler that wanted this write has returned
            except Exception:
                logger.error("what a signal handler wanted to write could not be sent", exc_info=True)
