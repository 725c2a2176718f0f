"""Keepalive for a driver without threads or timers of its own: it answers "how long may I wait?" and "what is due?".

Any byte from the peer says that it is alive. RFC 6455 5.5.2.
"""

from __future__ import annotations

import os
import time

__all__ = ["Keepalive"]


class Keepalive:
    """When to send a Ping, and when to give up.

    Args:
        interval: seconds between Pings; None for none.
        timeout: seconds for an answer; None waits for ever.

    Attributes:
        latency: the last round-trip time in seconds; 0.0 before the first.
        heard: bytes have arrived since the last Ping; set by the driver.
        has_failed: nothing came back in time.
    """

    def __init__(self, interval: float | None, timeout: float | None) -> None:
        self._interval = interval
        self._timeout = timeout
        self._waiting: dict[bytes, float] = {}
        self._ping: bytes | None = None
        self._next = time.monotonic() + interval if interval is not None else None
        self._give_up: float | None = None
        self.latency = 0.0
        self.heard = False
        self.has_failed = False

    @property
    def wait(self) -> float | None:
        """Seconds that a driver may wait for bytes before it asks what is due.

        Constant, so that it need not be set anew for every read: an answer may be found missing that much later.
        """
        if self._interval is None:
            return None
        return self._interval if self._timeout is None else min(self._interval, self._timeout)

    @property
    def is_due(self) -> bool:
        """Whether `take_due` has anything to say: a Ping should go out, or an answer is missing."""
        return self._next is not None and time.monotonic() >= min(self._next, self._give_up or self._next)

    def take_due(self) -> bytes | None:
        """The payload of a Ping that should go out now, or None; `has_failed` when an answer did not come in time."""
        if self._next is None:
            return None
        now = time.monotonic()
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
            del self._waiting[earlier]
            if earlier == payload:
                break
        self.latency = time.monotonic() - sent

    def forget(self, payload: bytes) -> None:
        """Nobody waits for this one any more."""
        self._waiting.pop(payload, None)

    def is_waiting_for(self, payload: bytes) -> bool:
        """Whether the Pong for this Ping has not come."""
        return payload in self._waiting
