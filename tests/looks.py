"""A signal handler that runs at a chosen one of the moments in which CPython looks for signals."""

from __future__ import annotations

import contextlib
import dis
import functools
import gc
import sys
from collections.abc import Callable, Iterator
from itertools import count
from types import CodeType
from typing import Any

import pytest

knows_looks = pytest.mark.skipif(
    sys.version_info < (3, 11) or sys.implementation.name != "cpython",
    reason="knows bytecodes of CPython 3.11 on",
)

#: Behind these it looks, whatever its version; it need not look behind all of them.
LOOKS = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}


@functools.cache
def handler_at(code: CodeType, place: int) -> int | None:
    """Where what is raised there is handled: what a tracer raises behind a call may be handled elsewhere."""
    entries = reversed(dis.Bytecode(code).exception_entries)  # type: ignore[attr-defined]
    return next((entry.target for entry in entries if entry.start <= place < entry.end), None)


@contextlib.contextmanager
def at_look(number: int, act: Callable[[], object]) -> Iterator[list[None]]:
    """Calls `act`, which may raise, at that look inside of zcws. The list has something then."""
    before: dict[Any, int] = {}
    looks, fired = count(1), list[None]()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if fired or not frame.f_globals["__name__"].startswith("zcws"):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if event == "return":
            before.pop(frame, None)
        elif event == "opcode":
            code, last = frame.f_code, before.get(frame, 0)
            is_look = dis.opname[code.co_code[last]] in LOOKS
            if (
                is_look
                and handler_at(code, last) == handler_at(code, frame.f_lasti)
                and next(looks) == number
            ):
                fired.append(None)
                act()
            before[frame] = frame.f_lasti
        return trace

    # CPython 3.12 asks when tracing begins whether anybody has said so.
    sys._getframe().f_trace_opcodes = True
    outer, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # looks of a finalizer of something else are not ours, and what is raised there is lost
    sys.settrace(trace)
    try:
        yield fired
    finally:
        sys.settrace(outer)
        if collects:
            gc.enable()
