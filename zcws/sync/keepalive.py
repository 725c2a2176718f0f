"""Keepalive for a driver without threads or timers of its own: it answers "how long may I wait?" and "what is due?".

Any byte from the peer says that it is alive. RFC 6455 5.5.2. What else is due now and then: a compressor that has had
nothing to do for a while gives its memory back.
"""

from __future__ import annotations

import os
import time

from zcws.codec import Deflater

__all__ = ["Keepalive"]


class Keepalive:
    """When to send a Ping, and when to give up.

    Args:
        interval: seconds between Pings; None for none.
        timeout: seconds for an answer; None waits for ever.
        compressor: what to give back after its `idle_timeout`, in the thread that calls `take_due`.

    Attributes:
        due: when that will be asked what to do, by time.monotonic; None for never.
        latency: the last round-trip time in seconds; 0.0 before the first.
        heard: bytes have arrived since the last Ping; set by the driver.
        has_failed: nothing came back in time.
    """

    def __init__(
        self, interval: float | None, timeout: float | None, compressor: Deflater | None = None
    ) -> None:
        self._compressor = compressor
        idle = None if compressor is None else compressor.idle_timeout
        self._half_idle = None if idle is None else idle / 2
        self._tick = None if idle is None else time.monotonic() + idle / 2  # when it is asked next
        self._interval = interval
        self._timeout = timeout
        self._waiting: dict[bytes, float] = {}
        self._ping: bytes | None = None
        self._next = time.monotonic() + interval if interval is not None else None
        self._give_up: float | None = None
        self.due = self._earliest()
        self.latency: float = 0.0
        self.heard: bool = False
        self.has_failed: bool = False

    @property
    def wait(self) -> float | None:
        """Seconds that a driver may wait for bytes before it asks what is due.

        Constant, so that it need not be set anew for every read: an answer may be found missing that much later.
        """
        timeout = None if self._interval is None else self._timeout
        bounds = [bound for bound in (self._interval, timeout, self._half_idle) if bound is not None]
        return min(bounds, default=None)

    @property
    def is_due(self) -> bool:
        """Whether `take_due` has anything to do: a Ping should go out, an answer is missing, memory may be idle."""
        return self.due is not None and time.monotonic() >= self.due

    def _earliest(self) -> float | None:
        bounds = [bound for bound in (self._next, self._give_up, self._tick) if bound is not None]
        return min(bounds, default=None)

    def take_due(self) -> bytes | None:
        """The payload of a Ping that should go out now, or None; `has_failed` when an answer did not come in time."""
        now = time.monotonic()
        self._rest(now)
        payload = self._take_ping(now)
        self.due = self._earliest()
        return payload

    def _rest(self, now: float) -> None:
        """Twice in its idle time the compressor is asked whether it has had nothing to do."""
        if self._compressor is not None and self._tick is not None and now >= self._tick:
            self._tick = now + (self._half_idle or 0)
            self._compressor.tick()

    def _take_ping(self, now: float) -> bytes | None:
        if self._next is None:
            return None
        if self._give_up is not None and self.heard:
            self._give_up = None
        if self._give_up is not None and now >= self._give_up:
            self.has_failed = True
            return None
        if now < self._next:
            return None
        self._next = now + (self._interval or 0)
        if self._give_up is None and self._timeout is not None:
            self._give_up = now + self._timeout
            self.heard = False
        if self._ping is not None:
            self._waiting.pop(self._ping, None)
        self._ping = os.urandom(4)
        self.sent(self._ping)
        return self._ping

    def sent(self, payload: bytes) -> None:
        """A Ping is on its way."""
        self._waiting[payload] = time.monotonic()

    def answered(self, payload: bytes) -> None:
        """A Pong has arrived: it answers its Ping and every earlier one. RFC 6455 5.5.3."""
        sent = self._waiting.get(payload)
        if sent is None:
            return
        for earlier in list(self._waiting):
            self._waiting.pop(earlier, None)  # its `ping` may have given up meanwhile, in another thread
            if earlier == payload:
                break
        self.latency = time.monotonic() - sent

    def forget(self, payload: bytes) -> None:
        """Nobody waits for this one any more."""
        self._waiting.pop(payload, None)

    def is_waiting_for(self, payload: bytes) -> bool:
        """Whether the Pong for this Ping has not come."""
        return payload in self._waiting
