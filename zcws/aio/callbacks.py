"""`on_frame`, `on_message`: what arrives is shown to a function of the program, without a task.

Nothing is shown, and nothing read, while the transport is full: a function that answers every message cannot fill the
memory with answers. Nor is everything that has arrived shown at once: after a share of it other tasks run, as they
would beside a task that reads.

For each connection the function runs in a context of its own: the engine calls it for all connections from one place,
and what it sets in a context variable for one is not for the next. The context is entered once for each share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from zcws.aio.ending import Ending
from zcws.aio.settings import Options
from zcws.aio.tasks import ENDS_OF_LOOP, end_loop
from zcws.closing import State
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed
from zcws.messages import MessageReader

__all__ = ["A_FEW", "FAILURES", "Callbacks", "Look"]

#: `on_frame` or `on_message`: which of them is known by the reader.
Look = Callable[[Any, Any], object]

#: A share ends after `_MOST_FRAMES` (a ring of 256 KiB holds 4,000 frames of 64 bytes). Where frames may be compressed,
#: it ends after `_MOST_INFLATING`, or with the one that brings the inflated bytes to `_MOST_INFLATED`. Either takes a
#: few milliseconds, without what the program does.
_MOST_FRAMES, _MOST_INFLATING, _MOST_INFLATED = 4096, 100, 4 * 1024 * 1024

#: Up to this many frames that came together are shown past the reader: no share has fewer.
A_FEW = _MOST_INFLATING

#: A function that raises CancelledError has asked a future that was cancelled: nobody can cancel the function itself.
FAILURES = (Exception, asyncio.CancelledError)

_OPEN = State.OPEN


class Callbacks(Ending):
    """A connection on its transport, as far as what arrives is shown to a function."""

    __slots__ = ("_in_context", "_is_aborted", "_look", "_next_share")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        options: Options,
        look: Look | None,
    ) -> None:
        super().__init__(loop, connection, options)
        self._look = look
        self._in_context: Any = None if look is None else copy_context().run
        self._next_share: asyncio.Handle | None = None  # others run before the next share
        self._is_aborted = False

    @property
    def _name(self) -> str:
        """The option that gave the function; "" where there is none."""
        if self._look is None:
            return ""
        return "on_message" if isinstance(self._reader, MessageReader) else "on_frame"

    # ---- for a subclass: stream.py has these two ----

    def _pause_reading(self) -> None:
        """There is no room for more, or nobody to show it to."""
        raise NotImplementedError

    def _uncork(self) -> bool:
        """What arrived has been handed out: what was written meanwhile goes out."""
        raise NotImplementedError

    # ---- showing ----

    def _call_back(self, look: Look) -> None:
        """Shows what has arrived, or a share of it."""
        if self._next_share is not None:
            return
        try:
            if self._in_context(self._show_share, look) and self._next_share is None:
                self._next_share = self._loop.call_soon(self._show_next, look)
        except ConnectionClosed:
            return
        if self._reader.is_closed_here:
            self._resume_reading()  # only the peer's Close counts now, however slow it is to read
        elif self._drained is not None or self._next_share is not None:
            self._pause_reading()

    def _show_share(self, look: Look) -> bool:
        """Returns whether there may be more. Raises: ConnectionClosed, at the end."""
        reader = self._reader
        if reader.is_concluded and reader.has_ended_well():
            return False  # the end callbacks report a Close: nothing has to be raised for it
        if self._drained is not None or self._is_aborted:
            return False
        most = _MOST_INFLATING if reader.inflates else _MOST_FRAMES
        if reader.show_waiting(look, self, self._callback_failed, most, _MOST_INFLATED):
            return True
        if self._drained is not None or self._is_aborted or self._next_share is not None:
            return False
        if reader.is_closed_here:
            return False
        if self._reading_paused:
            self._resume_reading()
        return reader.rows_waiting > 0  # what came late

    def _show_next(self, look: Look) -> None:
        self._next_share = None
        self._corked = True
        try:
            self._call_back(look)
        finally:
            self._uncork()

    def _show_last(self) -> None:
        """The socket is gone: the frames that it has brought are shown before the end is told."""
        if self._next_share is not None:
            self._next_share.cancel()
            self._next_share = None
        if self._look is None or (self._reader.is_concluded and not self._reader.rows_waiting):
            return  # nearly always: nothing is left
        try:
            while self._in_context(self._show_share, self._look):
                pass
        except (ConnectionClosed, MemoryError):  # the close code reports them
            return

    def abort(self) -> None:
        """Ends the TCP connection at once, without a closing handshake; what was not sent is lost."""
        self._is_aborted = True
        self._reader.is_showing = False
        super().abort()

    def pause_writing(self) -> None:
        """The transport is above its high-water mark."""
        super().pause_writing()
        self._reader.is_showing = False

    def _go_on(self) -> None:
        if self._look is not None:
            self._corked = True
            try:  # with news or without: the last frame may still be in the way of the next
                self._call_back(self._look)
            finally:
                self._after_bytes()

    def _callback_failed(self, error: BaseException) -> None:
        """The function has raised `error`. Raises: what is not one of its own failures."""
        if isinstance(error, ENDS_OF_LOOP):
            self._end_loop(error)
            return
        if not isinstance(error, FAILURES):
            raise error
        if isinstance(error, ConnectionClosed) and self.connection.state is not _OPEN:
            # It wrote to this connection, which is over. (Had it written to another, this one would be open, with
            # nobody behind it.)
            return
        context = {
            "message": f"{self._name} failed",
            "exception": error,
            "protocol": self,
            "transport": self._transport,
        }
        self._loop.call_exception_handler(context)
        self.connection.fail(CloseCode.INTERNAL_ERROR, "the program failed")

    def _end_loop(self, error: BaseException) -> None:
        """The function has raised `error`, which ends the event loop. If the loop runs again, the frames that are left
        are shown then; if the socket is gone, they are shown now, since the end is about to be told."""
        end_loop(self._loop, error)
        look = self._look
        if self._transport is not None and self._next_share is None and look is not None:
            self._next_share = self._loop.call_soon(self._show_next, look)
            self._reader.is_showing = False
            self._pause_reading()
