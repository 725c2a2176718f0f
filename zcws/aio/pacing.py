"""Between a transport of asyncio's proactor, the usual loop on Windows, and whoever speaks over it.

Such a transport sends one write at a time; it joins those that come meanwhile, and sends them when the loop has turned.
Until a write has been sent whole, all of it counts as waiting. So a peer that is reading a large message looks like one
that does not read, and a program that writes much in one turn looks like one whose peer is slow. Here:

    what                                       here
    -----------------------------------------  ---------------------------------------------------------------------
    a large message                            goes out in parts: what waits shrinks, as on every other transport
    more than the high-water mark in a turn    pauses the protocol only when the loop has had its chance to send, and
                                               has not sent; or at `IN_A_TURN` times the mark
    the end                                    stands behind what waits
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from zcws.aio.below import end_writing
from zcws.annotations import Buffer
from zcws.options import USUAL_MARKS, water_marks
from zcws.output import to_slice

__all__ = ["IN_A_TURN", "PART", "Paced", "pace"]

#: Bytes that are handed over at a time. A peer that takes fewer in `ping_interval` and `ping_timeout` together looks as
#: if it took none: with the usual 20 seconds each, that is under 50 kbit/s.
PART = 256 * 1024

#: How many times the high-water mark may wait before the loop has had its chance: 512 KiB with the usual one, less than
#: the 2.5 MB that a socket of Linux takes at once from a quick program.
IN_A_TURN = 8


def pace(transport: asyncio.Transport, protocol: asyncio.BufferedProtocol) -> asyncio.Transport:
    """What `protocol` should write to: `transport`, which belongs to it, or a `Paced` over that."""
    if type(transport).__module__ != "asyncio.proactor_events":
        return transport
    return Paced(transport, protocol)


class Paced(asyncio.BufferedProtocol, asyncio.Transport):
    """One connection. Its protocol is told all that the transport below says, except when to pause."""

    __slots__ = (
        "_below",
        "_closing",
        "_ends_writing",
        "_high",
        "_is_busy",
        "_is_full",
        "_is_stuck",
        "_loop",
        "_low",
        "_part",
        "_protocol",
        "_size",
        "_waiting",
    )

    def __init__(self, below: asyncio.Transport, protocol: asyncio.BufferedProtocol) -> None:
        self._loop = asyncio.get_running_loop()
        self._below = below
        self._protocol = protocol
        self._waiting: deque[memoryview] = deque()
        self._size = 0  # bytes of it
        self._high, self._low = USUAL_MARKS
        self._part = 0  # the number of the part that waits below
        # What another protocol has written may wait below, and `protocol` have been told so.
        self._is_busy = self._is_full = below.get_write_buffer_size() > 0
        self._is_stuck = False  # the loop could have sent what waits below, and has not
        self._closing = False
        self._ends_writing = False
        below.set_protocol(self)
        below.set_write_buffer_limits(high=0)  # it tells us of every byte that waits

    # ---- writing ----

    def write(self, data: Buffer) -> None:
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        if self._closing:
            return
        for data in list_of_data:
            view = to_slice(data)
            self._waiting += [view[at : at + PART] for at in range(0, len(view), PART)]
            self._size += len(view)
        self._send_on()
        self._tell_when_full()

    def _send_on(self) -> None:
        """Hands over what waits, part by part, until the transport below is busy."""
        while self._waiting and not self._is_busy:
            part = [self._waiting.popleft()]
            size = len(part[0])
            while self._waiting and size + len(self._waiting[0]) <= PART:
                part.append(self._waiting.popleft())
                size += len(part[-1])
            self._size -= size
            self._below.write(part[0] if len(part) == 1 else b"".join(part))

    def pause_writing(self) -> None:
        """The transport below has something that it has not sent."""
        self._is_busy = True
        self._part += 1
        self._loop.call_soon(self._look, self._part, 1)

    def _look(self, part: int, turns: int) -> None:
        """Runs in each of the loop's next two turns: it sends in the first, and in the second it knows the result."""
        if part == self._part:
            if turns:
                self._loop.call_soon(self._look, part, turns - 1)
            elif self._below.get_write_buffer_size():
                self._is_stuck = True
                self._tell_when_full()

    def _tell_when_full(self) -> None:
        most = self._high if self._is_stuck else IN_A_TURN * self._high
        if not self._is_full and self.get_write_buffer_size() > most:
            self._is_full = True
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The transport below has sent all that it had."""
        self._is_busy = self._is_stuck = False
        self._send_on()
        if not self._waiting and (self._closing or self._ends_writing):
            # Not inside this call: asyncio would close a socket twice.
            self._loop.call_soon(self._end_below)
        if self._is_full and self.get_write_buffer_size() <= self._low:
            self._is_full = False
            self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return self._below.can_write_eof()

    def write_eof(self) -> None:
        self._ends_writing = True
        if not self._waiting:
            self._below.write_eof()

    def get_write_buffer_size(self) -> int:
        return self._size + self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = water_marks(high, low)

    # ---- reading ----

    def get_buffer(self, sizehint: int) -> memoryview:
        """The transport below asks where to receive."""
        return self._protocol.get_buffer(sizehint)  # type: ignore[return-value]  # a memoryview, by all of ours

    def buffer_updated(self, nbytes: int) -> None:
        """It has received."""
        self._protocol.buffer_updated(nbytes)

    def eof_received(self) -> bool | None:
        """The peer has ended its side."""
        return self._protocol.eof_received()

    def is_reading(self) -> bool:
        return self._below.is_reading()

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    # ---- the end ----

    def is_closing(self) -> bool:
        return self._closing or self._below.is_closing()

    def close(self) -> None:
        self._closing = True
        if self._waiting:
            self._below.pause_reading()
        else:
            self._below.close()

    def _end_below(self) -> None:
        if self._closing:
            self._below.close()
        else:
            end_writing(self._below)

    def abort(self) -> None:
        self._closing = True
        self._drop()
        self._below.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport below is gone."""
        self._closing = True
        self._drop()
        self._protocol.connection_lost(exc)

    def _drop(self) -> None:
        self._waiting.clear()
        self._size = 0

    # ---- what is known ----

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)
