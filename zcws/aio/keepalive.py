"""Keepalive: a Ping every so often, and what it means when nothing comes back. RFC 6455 5.5.2.

Any byte from the peer says that it is alive, a Pong or not: a Pong may be stuck behind a large message. So does any
byte that it takes of what waits for it. A peer whose bytes we have stopped reading (the program is busy) cannot be
blamed for silence either, unless something waits for it that it does not take.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Generator
from time import perf_counter
from typing import Protocol

from zcws.aio.deadlines import stood_still
from zcws.aio.tasks import fail
from zcws.options import PINGS_OUT

__all__ = ["Keepalive", "Latency", "Pings"]


#: Seconds until a peer is looked at again whose socket has unread bytes. These may be its Pong: after a pause of ours
#: the loop serves only some sockets before it calls all timers that are due. A look costs as much as a read.
_LOOK_AGAIN = 1.0


class Latency(float):
    """A round-trip time in seconds. Awaiting it gives itself, so `await (await ws.ping())` works as well."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, Latency]:
        return self
        yield  # a generator, as __await__ has to be


class Pings:
    """The Pings that wait for their Pong, in the order they were sent.

    A Pong answers its own Ping and every earlier one (RFC 6455 5.5.3: an endpoint may answer only the latest).

    Attributes:
        latency: the last round-trip time in seconds; 0.0 before the first.
    """

    __slots__ = ("_waiting", "latency")

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[float, asyncio.Future[Latency] | None]] = {}
        self.latency: float = 0.0

    def sent(self, payload: bytes, future: asyncio.Future[Latency] | None) -> None:
        """A Ping with this payload is on its way.

        Raises:
            ValueError: one with the same payload is still waiting.
        """
        if payload in self._waiting:
            raise ValueError("a ping with this payload is waiting for its pong already")
        self._waiting[payload] = (perf_counter(), future)  # the clock of uvloop counts milliseconds

    def sent_keepalive(self, payload: bytes) -> None:
        """The same for keepalive, which waits for its last few Pings only: see `PINGS_OUT`."""
        if len(self._waiting) >= PINGS_OUT:
            oldest = next((each for each, (_, future) in self._waiting.items() if future is None), b"")
            self.forget(oldest)
        self.sent(payload, None)

    def fresh_payload(self) -> bytes:
        """Four bytes that no waiting Ping has."""
        payload = os.urandom(4)
        while payload in self._waiting:
            payload = os.urandom(4)
        return payload

    def answered(self, payload: bytes) -> None:
        """A Pong has arrived; one that nobody asked for is a heartbeat of the peer's. RFC 6455 5.5.3."""
        if payload not in self._waiting:
            return
        now = perf_counter()
        while self._waiting:
            waiting = next(iter(self._waiting))  # no copy of all: nearly always the first is the one
            sent, future = self._waiting.pop(waiting)
            if future is not None and not future.done():
                future.set_result(Latency(now - sent))
            if waiting == payload:
                self.latency = now - sent
                return

    def forget(self, payload: bytes) -> None:
        """Nobody waits for this one any more."""
        self._waiting.pop(payload, None)

    def fail(self, error: Callable[[], Exception]) -> None:
        """No Pong will come."""
        for _, future in self._waiting.values():
            if future is not None and not future.done():
                fail(future, error())
        self._waiting.clear()


class Pinged(Protocol):
    """The connection that is kept alive."""

    def heard(self) -> bool:
        """Whether the peer has given a sign of life since this was last asked, or could not."""
        ...

    def has_unread(self) -> bool:
        """Whether something has come from the peer that nobody has looked at."""
        ...

    def send_keepalive(self) -> bool:
        """Sends a Ping. Returns False when the connection is closing and needs no more."""
        ...

    def keepalive_failed(self) -> None:
        """Nothing came back in time."""
        ...


class Keepalive:
    """Pings, and how long nothing may come back, on one timer.

    Args:
        interval: seconds from one Ping to the next.
        timeout: seconds for an answer; None: none is expected. If it is over `interval`, several Pings are out at once.
    """

    __slots__ = ("_due", "_handle", "_has_waited", "_interval", "_loop", "_next", "_peer", "_timeout")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, peer: Pinged, *, interval: float, timeout: float | None
    ) -> None:
        self._loop = loop
        self._peer = peer
        self._interval = interval
        self._timeout = math.inf if timeout is None else timeout
        self._next = loop.time() + interval
        self._due = math.inf  # when the first Ping since the last sign of life has to be answered
        self._has_waited = False  # longer, because the loop had stood still
        self._handle: asyncio.TimerHandle | None = loop.call_at(self._next, self._wake, self._next)

    def stop(self) -> None:
        """No more Pings."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _wake(self, at: float) -> None:
        """Does what is due `at` this time of the loop's clock."""
        self._handle = None
        if self._peer.heard():
            self._due, self._has_waited = math.inf, False
        elif self._due <= at and not self._waits_longer():
            self._peer.keepalive_failed()
            return
        if self._next <= at:
            if not self._peer.send_keepalive():
                return
            now = self._loop.time()
            self._next, self._due = now + self._interval, min(self._due, now + self._timeout)
        at = min(self._next, self._due)
        self._handle = self._loop.call_at(at, self._wake, at)

    def _waits_longer(self) -> bool:
        if self._peer.has_unread():
            self._due = self._loop.time() + _LOOK_AGAIN
            return True
        extra = 0 if self._has_waited else stood_still(self._loop, self._due)
        self._has_waited, self._due = extra > 0, self._loop.time() + extra
        return self._has_waited
