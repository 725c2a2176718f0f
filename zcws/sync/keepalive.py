"""Keepalive for a driver without threads or timers of its own: it answers "how long may I wait?" and "what is due?".

Any byte from the peer says that it is alive, and so does what its system confirms of the bytes before our Ping. RFC
6455 5.5.2. Something else is due now and then: a connection that has had nothing to do for a while gives back the
memory that can be allocated again. In this driver each connection has a pool of its own.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

from zcws.connection import Connection
from zcws.options import LATE, PINGS_OUT
from zcws.tcp_info import MUCH, Counts

__all__ = ["Keepalive"]

#: Seconds without a message after which a connection's rings and buffers are given back; up to half as long again.
_IDLE = 60.0


class Keepalive:
    """When to send a Ping, and when to give up.

    Args:
        interval: seconds between Pings; None for none.
        timeout: seconds for an answer; None waits for ever.
        connection: its compressor is given back after its `idle_timeout`, in the thread that calls `take_due`.
        count: tells what the peer's system has confirmed.

    Attributes:
        due: when `take_due` will have something to do, by time.monotonic.
        latency: the last round-trip time in seconds; 0.0 before the first.
        heard: bytes have arrived since the last Ping; set by the driver.
        is_idle: nothing has been said for a minute or so, and nothing is kept: the pool's memory can be given back.
        has_failed: nothing came back in time.
    """

    def __init__(
        self,
        interval: float | None,
        timeout: float | None,
        connection: Connection,
        count: Callable[[], Counts] = Counts,
    ) -> None:
        self._connection: Connection | None = connection
        compressor = connection.compressor
        idle = None if compressor is None else compressor.idle_timeout
        self._half_idle = (idle or _IDLE) / 2
        # When to look next whether there has been nothing to do.
        self._tick = time.monotonic() + self._half_idle
        self._done = (0, 0)  # messages in and out by the last tick
        self._interval = interval
        self._timeout = timeout
        self._waiting: dict[bytes, float] = {}
        self._pings: list[bytes] = []
        self._next = time.monotonic() + interval if interval is not None else None
        self._give_up: float | None = None
        self._has_waited = False  # longer, because the program had stood still
        self._looked = 0.0  # when `take_due` was called last
        self._count = count
        self._confirmed = 0  # when it last counted
        # The bytes of ours that stand before the first Ping since the last sign of life; inf: there is none.
        self._ping_at = math.inf
        self.due: float = self._earliest()
        self.latency: float = 0.0
        self.heard: bool = False
        self.is_idle: bool = False
        self.has_failed: bool = False

    @property
    def wait(self) -> float:
        """Seconds that a driver may wait for bytes before it asks what is due.

        Constant, so that the socket's timeout need not be set for every read. A missing answer may be noticed that
        much later, or twice that.
        """
        timeout = None if self._interval is None else self._timeout
        return min(bound for bound in (self._interval, timeout, self._half_idle) if bound is not None)

    @property
    def is_due(self) -> bool:
        """Whether `take_due` has anything to do: a Ping should go out, an answer is missing, memory may be idle."""
        return time.monotonic() >= self.due

    def _earliest(self) -> float:
        return min(bound for bound in (self._next, self._give_up, self._tick) if bound is not None)

    def take_due(self, *, writable: bool = True) -> bytes | None:
        """The payload of a Ping that should go out now, or None; `has_failed` when an answer did not come in time.

        Args:
            writable: the Ping will go out.
        """
        now = time.monotonic()
        self.is_idle = False
        if self._connection is not None and now >= self._tick:
            self._rest(now, self._connection)
        payload = self._take_ping(now, writable=writable)
        self._looked = now
        self.due = self._earliest()
        return payload

    def _rest(self, now: float, connection: Connection) -> None:
        """Twice in an idle time: has the compressor look whether it was idle, and notes whether the connection was."""
        self._tick = now + self._half_idle
        if connection.compressor is not None and connection.compressor.idle_timeout is not None:
            connection.compressor.tick()
        done = connection.reader.messages, connection.writer.messages
        self.is_idle = done == self._done and connection.reader.is_idle
        self._done = done

    def _take_ping(self, now: float, *, writable: bool) -> bytes | None:
        if self._next is None:
            return None
        known = self._count()
        if self._give_up is not None and self._is_alive(known.confirmed):
            self._give_up = None
        self._confirmed = known.confirmed
        if self._give_up is not None and now >= self._give_up and not self._waits_longer(now, self._give_up):
            self.has_failed = True
            return None
        if now < self._next:
            return None
        self._next = now + (self._interval or 0)
        if self._give_up is None and self._timeout is not None:
            self._give_up = now + self._timeout
            self.heard = self._has_waited = False
        if writable and self._ping_at == math.inf:
            self._ping_at = known.confirmed + known.unconfirmed
        if len(self._pings) == PINGS_OUT:
            self.forget(self._pings.pop(0))
        payload = os.urandom(4)
        self._pings.append(payload)
        self.sent(payload)
        return payload

    def _waits_longer(self, now: float, due: float) -> bool:
        """A peer is not blamed for a pause of ours: it has as long again, once."""
        late = now - max(due, self._looked + self.wait)
        if late <= LATE or self._has_waited:
            return False
        self._has_waited, self._give_up = True, now + late
        return True

    def _is_alive(self, confirmed: int) -> bool:
        if self.heard:
            self._ping_at = math.inf
            return True
        # When the peer's system has our Ping, it is the peer's program that does not answer.
        return min(confirmed, self._ping_at) - self._confirmed >= MUCH

    def sent(self, payload: bytes) -> None:
        """A Ping is on its way."""
        self._waiting[payload] = time.perf_counter()  # time.monotonic: 16 ms on Windows before CPython 3.13

    def answered(self, payload: bytes) -> None:
        """A Pong has arrived: it answers its Ping and every earlier one. RFC 6455 5.5.3."""
        sent = self._waiting.get(payload)
        if sent is None:
            return
        for earlier in list(self._waiting):
            self._waiting.pop(earlier, None)  # its `ping` may have given up meanwhile, in another thread
            if earlier == payload:
                break
        self.latency = time.perf_counter() - sent

    def forget_connection(self) -> None:
        """The connection's memory is not given back any more, so that whoever holds this need not hold that."""
        self._connection = None

    def forget(self, payload: bytes) -> None:
        """Nobody waits for this one any more."""
        self._waiting.pop(payload, None)

    def is_waiting_for(self, payload: bytes) -> bool:
        """Whether the Pong for this Ping has not come."""
        return payload in self._waiting
