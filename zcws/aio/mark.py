"""The mark of a socket that is not the engine's: the kernel collects the packets of a large frame there as well.

What that is, and when it is of use, stands in csrc/mark.h. On a socket of the engine the transport and C see to it.
Here is the same for TLS, and for the transports of the event loop: they receive, and we hear of it afterwards. TLS
hands over what is a whole record, so there may be another, of which all but the last byte has been received; and where
that TLS is inside another (wss:// through an https:// proxy), one more below. That much less is certainly still to
come.

A mark that is not reached soon is taken away, as the engine does it. What a peer says in TLS beside its bytes, a
close_notify above all, may lie below it as well.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from zcws.aio.below import held_back
from zcws.kernel import ffi, lib

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["Mark", "mark_below"]

#: Seconds: a mark goes where nothing of the frame has come for so long, and for twice as long at most.
_PATIENCE = 0.01

_mark, _unmark = lib.zcws_mark, lib.zcws_unmark


class Mark:
    """What is set on one socket.

    Args:
        state: what the C core remembers of the stream.
        ahead: bytes that may have come and not been handed over.
    """

    __slots__ = ("_ahead", "_lacked", "_loop", "_sock", "_state", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.SocketType, state: CData, ahead: int
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._state = state
        self._ahead = ahead
        self._lacked = 0  # bytes of the frame in progress that were still to come when it was last looked at
        self._timer: asyncio.TimerHandle | None = None

    def set(self, count: int, *, lands: bool) -> None:
        """`count` bytes have been handed over, and are part of something, or its end.

        Args:
            lands: whether the rest of a frame that is larger than a ring is wanted whole.
        """
        _mark(ffi.NULL, self._sock.fileno(), self._state, count, self._ahead, lands)
        if self._timer is None and self._state.mark.set:
            self._look_later()

    def _look_later(self) -> None:
        self._lacked = self._state.remaining
        self._timer = self._loop.call_later(_PATIENCE, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._state.mark.set:
            return
        if self._state.remaining == self._lacked:
            _unmark(ffi.NULL, self._sock.fileno(), self._state, True)
        else:
            self._look_later()

    def clear(self) -> None:
        """What has come of a frame is wanted, even if it is little."""
        if self._state.mark.set:
            _unmark(ffi.NULL, self._sock.fileno(), self._state, False)

    def leave(self) -> None:
        """The socket is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def mark_below(
    loop: asyncio.AbstractEventLoop, transport: asyncio.BaseTransport, state: CData
) -> Mark | None:
    """The mark of the socket below `transport`. None: there is no socket, or it is not for this connection alone."""
    sock = transport.get_extra_info("socket")
    return None if sock is None else Mark(loop, sock, state, held_back(transport))
