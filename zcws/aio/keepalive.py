"""Keepalive: a Ping every so often, and what it means when nothing comes back. RFC 6455 5.5.2.

Any byte from the peer says that it is alive, a Pong or not: a Pong may be stuck behind a large message. So does any
byte that it takes of what waits for it. A peer whose bytes we have stopped reading (the program is busy) cannot be
blamed for silence either, unless something waits for it that it does not take.

Connections that live but say nothing have memory to give back: `Resting` sees to that, with one timer for all that may
be idle equally long. `Deadlines` has one for all that are closing: nearly always the peer is quicker.
"""

from __future__ import annotations

import asyncio
import math
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator
from time import perf_counter
from typing import Protocol

from zcws.codec import Deflater

__all__ = ["Deadlines", "Keepalive", "Latency", "Pings", "Resting"]


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

    __slots__ = ("_keepalive", "_waiting", "latency")

    def __init__(self) -> None:
        self._keepalive: bytes | None = None
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
        """The same for keepalive, which waits for its latest Ping only."""
        if self._keepalive is not None:
            self.forget(self._keepalive)
        self._keepalive = payload
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
            waiting = next(iter(self._waiting))  # not a copy of all: nearly always it is the one
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
                future.set_exception(error())
                future.exception()  # whoever does not wait for it need not hear of it
        self._waiting.clear()


class Pinged(Protocol):
    """The connection that is kept alive."""

    def heard(self) -> bool:
        """Whether the peer has given a sign of life since this was last asked, or could not."""
        ...

    def send_keepalive(self) -> bool:
        """Sends a Ping. Returns False when the connection is closing and needs no more."""
        ...

    def keepalive_failed(self) -> None:
        """Nothing came back in time."""
        ...


#: A timer that is so many seconds late says that the event loop has stood still. What peers have said meanwhile is in
#: their sockets, and a turn of the loop serves some of them before it calls all timers that are due.
_LATE = 0.05


def stood_still(loop: asyncio.AbstractEventLoop, due: float) -> float:
    """How long the loop has stood still, in seconds, where that is why a timer that was `due` comes only now; or 0.

    Whoever would blame a peer gives it as long again, once.
    """
    late = loop.time() - due
    return late if late > _LATE else 0


class Keepalive:
    """Two alternating waits on one timer: `interval` between Pings, `timeout` for an answer.

    Args:
        interval, timeout: seconds; a timeout of None means that Pings are sent but nothing is expected.
    """

    __slots__ = ("_due", "_handle", "_interval", "_loop", "_peer", "_timeout")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, peer: Pinged, *, interval: float, timeout: float | None
    ) -> None:
        self._loop = loop
        self._peer = peer
        self._interval = interval
        self._timeout = timeout
        self._due = 0.0  # when the answer is; math.inf: it has been given more time
        self._handle: asyncio.TimerHandle | None = loop.call_later(interval, self._ping)

    def stop(self) -> None:
        """No more Pings."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ping(self) -> None:
        self._peer.heard()
        if not self._peer.send_keepalive():
            self._handle = None
        elif self._timeout is None:
            self._handle = self._loop.call_later(self._interval, self._ping)
        else:
            self._due = self._loop.time() + self._timeout
            self._handle = self._loop.call_at(self._due, self._check)

    def _check(self) -> None:
        if self._peer.heard():
            # The interval counts from one Ping to the next; what the wait has used of it is gone.
            rest = max(self._interval - (self._timeout or 0), 0)
            self._handle = self._loop.call_later(rest, self._ping)
        elif extra := stood_still(self._loop, self._due):
            self._due = math.inf
            self._handle = self._loop.call_later(extra, self._check)
        else:
            self._handle = None
            self._peer.keepalive_failed()


class Waiting(Protocol):
    """Who waits for something, and not for ever."""

    def deadline_passed(self) -> None:
        """It did not come."""
        ...


class Deadlines:
    """Waits of the same length: one timer for all of them. Kept alive by its timer and by those who wait.

    Attributes:
        loop: a weak reference to the event loop that they wait on.
        timeout: seconds that each of them waits.
    """

    __slots__ = ("__weakref__", "_has_waited", "_is_set", "_waiting", "loop", "timeout")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.loop: weakref.ref[asyncio.AbstractEventLoop] = weakref.ref(loop)
        self.timeout: float = timeout
        # Until when; the first to wait is the first whose time is over. A dict looks for its first behind all that have
        # gone from there.
        self._waiting: OrderedDict[Waiting, float] = OrderedDict()
        self._is_set = False
        self._has_waited = False  # once more, as the loop had stood still

    def add(self, peer: Waiting) -> None:
        """It waits from now on, until `remove` or `deadline_passed`."""
        loop = self.loop()
        assert loop is not None  # it is running
        self._waiting[peer] = loop.time() + self.timeout
        if not self._is_set:
            self._set(loop)

    def remove(self, peer: Waiting) -> None:
        """It need not wait any more."""
        self._waiting.pop(peer, None)

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_set = True
        loop.call_at(next(iter(self._waiting.values())), self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_set = False
        now = loop.time()
        extra = stood_still(loop, next(iter(self._waiting.values()), now))
        self._has_waited = extra > 0 and not self._has_waited
        if self._has_waited:
            self._is_set = True
            loop.call_later(extra, self._tick, loop)
            return
        try:
            while self._waiting:
                peer, until = next(iter(self._waiting.items()))
                if until > now:
                    break
                del self._waiting[peer]
                peer.deadline_passed()
        finally:  # one of them may have failed, and is not the last
            if self._waiting and not self._is_set:
                self._set(loop)


class Resting:
    """Gives back the compressors of connections that have sent nothing for a while. One for each loop.

    It keeps neither the loop nor a connection alive, and has no timer while there is nothing to give back. One timer
    does for all that have the same `idle_timeout`.
    """

    __slots__ = ("_loop", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._watched: dict[float, weakref.WeakSet[Deflater]] = {}

    def watch(self, compressor: Deflater) -> None:
        """This one has a context now, and an idle time."""
        timeout = compressor.idle_timeout
        assert timeout is not None
        if timeout not in self._watched:
            self._watched[timeout] = weakref.WeakSet()
            self._wait(timeout)
        self._watched[timeout].add(compressor)

    def _wait(self, timeout: float) -> None:
        loop = self._loop()
        if loop is not None:
            loop.call_later(timeout / 2, self._tick, timeout)

    def _tick(self, timeout: float) -> None:
        watched = self._watched[timeout]
        for compressor in list(watched):
            if not compressor.tick():
                watched.discard(compressor)
        if watched:
            self._wait(timeout)
        else:
            del self._watched[timeout]
