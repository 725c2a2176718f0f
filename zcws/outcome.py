"""How the stream from the peer ends: when, who ended it, and which error says so.

It ends behind the rows that wait (waiting.py). `_status` is what stands there:

    MORE       nothing yet
    FULL       rows that the table had no room for: scan again when these have been read
    CLOSED     the peer's Close
    1 to 19    the peer's mistake, or that there was no memory for what it said (zcws/errors.py, FAULTS)
    STOPPED    a reason of ours

The last three, and the end of the bytes, take effect with `conclude`. The bytes are handled in inlet.py, above this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from zcws.assembly import BAD_BUFFER_SIZE, NO_MEMORY
from zcws.bridge import Bridge, Reply
from zcws.closing import close_payload, code_and_reason
from zcws.codes import CloseCode, OpCode
from zcws.errors import (
    FAULTS,
    Closer,
    ConnectionClosed,
    ConnectionClosedError,
    LimitExceeded,
    ProtocolError,
    closed_error,
)
from zcws.kernel import HAS_GIL, ffi, lib
from zcws.waiting import Waiting

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["CLOSED", "FULL", "MORE", "STOPPED", "Outcome", "state_of_stream"]

MORE, FULL, CLOSED, STOPPED = lib.ZCWS_MORE, lib.ZCWS_FULL, lib.ZCWS_CLOSED, -1

#: Parsed once, and not for every connection.
_STATE = ffi.typeof("struct zcws_reader *")


def state_of_stream(max_size: int, max_fragments: int, fit: int, masked: bool, compressed: bool) -> CData:
    """What the C core remembers of a stream, before its first byte. `fit`: bytes of the largest frame to wait for."""
    return ffi.new(_STATE, _fresh_state(max_size, max_fragments, fit, masked, compressed))


def _fresh(max_size: int, max_fragments: int, fit: int, masked: bool, compressed: bool) -> Any:
    """The state that a stream begins with: the same for nearly all of them, so it is made once and copied."""
    state = ffi.new(_STATE)
    state.max_size, state.max_fragments, state.fit = max_size, max_fragments, fit
    state.masked, state.rsv1 = masked, compressed
    return state[0]


#: Without a GIL, and on PyPy, the cache has a lock. A thread that holds it during a fork is not in the child, where it
#: stays locked.
_fresh_state: Callable[[int, int, int, bool, bool], Any] = (
    lru_cache(maxsize=32)(_fresh) if HAS_GIL and sys.implementation.name == "cpython" else _fresh
)


class Outcome(Waiting):
    """What is known of the end of one stream.

    Attributes:
        state: what the C core remembers of this stream.
    """

    __slots__ = (
        "_bridge",
        "_concluded",
        "_eof",
        "_max_size",
        "_peer_close",
        "_status",
        "_stopped",
        "state",
    )

    def __init__(self, bridge: Bridge, state: CData) -> None:
        super().__init__()
        self._bridge = bridge
        self.state: CData = state
        self._max_size: int = state.max_size  # read often, and cffi is slow
        self._status = MORE  # what stands behind the last row
        self._peer_close: bytes | None = None  # the payload of the peer's Close
        self._stopped: tuple[int, str] | None = None  # the code and the reason, where they are ours
        self._concluded = False
        self._eof = False

    # ---- for the class that has the message: an Outcome is never made by itself ----

    def _drop_message(self) -> None:
        """The message in progress will never be whole."""
        raise NotImplementedError

    # ---- whether it has come ----

    @property
    def is_at_eof(self) -> bool:
        """Whether the peer has ended the stream."""
        return self._eof

    @property
    def is_ending(self) -> bool:
        """Whether a Close, a fault or the end of the stream has arrived, perhaps behind rows that wait."""
        return self._is_over or self._eof

    @property
    def is_concluded(self) -> bool:
        """Whether the end has taken effect."""
        return self._concluded

    @property
    def is_faulty(self) -> bool:
        """Whether the peer broke a rule, or there was no memory: what stands behind the last row is a fault."""
        return self._status not in (MORE, FULL, CLOSED, STOPPED)

    @property
    def is_failed(self) -> bool:
        """Whether it is faulty, or was stopped for a reason of ours: the last word is our Close. RFC 6455 7.1.7."""
        return self._status not in (MORE, FULL, CLOSED)

    @property
    def _is_over(self) -> bool:
        """Whether nothing that arrives counts any more."""
        return self._status not in (MORE, FULL)

    def conclude(self) -> None:
        """Makes what stands behind the last row take effect: the Close that it calls for goes onto the bridge.

        Does nothing while more may come. Rows that have not been read can still be read.
        """
        if self._concluded or not (self._is_over or self._eof):
            return
        last: Reply | None = None
        if self._status == CLOSED:
            # RFC 6455 5.5.1: "the endpoint typically echos the status code it received".
            last = Reply(OpCode.CLOSE, self._peer_close or b"")
        elif self._is_over:
            last = Reply(OpCode.CLOSE, close_payload(*FAULTS[self._status]))
        self._concluded = True  # only now: if memory ran out above, the reply is still owed
        if not self.rows_waiting:
            self._drop_message()
        self._bridge.end(last)

    # ---- what it was ----

    @property
    def peer_close(self) -> tuple[int, str] | None:
        """The code and the reason of the peer's Close; 1005 where it had no code. RFC 6455 7.1.5."""
        return None if self._peer_close is None else code_and_reason(self._peer_close)

    def _limit_exceeded(self, code: CloseCode, reason: str) -> LimitExceeded:
        if self._status == BAD_BUFFER_SIZE:
            return LimitExceeded(code, reason, by="us")
        most, fragments = self._max_size, self.state.max_fragments
        size = 0 if self.state.compressed else self.state.size
        limits = f"max_size={'None' if most == sys.maxsize else f'{most} bytes'}, max_fragments={fragments}"
        return LimitExceeded(code, reason, by="us", limits=limits, size=size if size > most else None)

    @property
    def closed_by(self) -> Closer:
        """Who ended it, once it has ended; the writer's side knows whether our Close was first."""
        if self._bridge.closer == "us" or self._stopped is not None or self.is_faulty:
            return "us"
        # A Close counts even if it could not be answered any more.
        return "network" if self._peer_close is None else "peer"

    def error(self) -> ConnectionClosed:
        """A new exception that says how this half ended."""
        if self._stopped is not None:
            return ConnectionClosedError(*self._stopped, by="us")
        if self.is_faulty:
            code, reason = FAULTS[self._status]
            if code == CloseCode.MESSAGE_TOO_BIG:
                return self._limit_exceeded(code, reason)
            if self._status == NO_MEMORY:
                return ConnectionClosedError(code, reason, by="us")
            return ProtocolError(code, reason, by="us")
        close = self.peer_close
        if close is None:
            error = closed_error(CloseCode.ABNORMAL_CLOSURE, "", clean=False, by=self.closed_by)
            error.__cause__ = self._bridge.cause
            return error
        return closed_error(*close, clean=True, by=self.closed_by)
