"""When a wait is over: a time of `time.monotonic`, or None for never. Waits are seconds, None for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator

__all__ = ["after", "is_past", "left", "lock_timeout", "socket_timeout", "until"]


def after(timeout: float | None) -> float | None:
    """When a wait of `timeout` seconds that begins now is over."""
    return None if timeout is None else time.monotonic() + timeout


def is_past(deadline: float | None) -> bool:
    """Whether `deadline` has passed."""
    return deadline is not None and time.monotonic() >= deadline


def until(deadline: float | None) -> Iterator[None]:
    """Goes on until `deadline` has passed, and once more behind it: what the peer has sent in time may have waited for
    a pause of ours to end, of a stopped process or a signal handler."""
    while not is_past(deadline):
        yield
    yield


def left(deadline: float | None) -> float | None:
    """Seconds until `deadline`: 0 when it has passed."""
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def socket_timeout(deadline: float | None) -> float | None:
    """The same for `settimeout`: never 0, which would make the socket non-blocking."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)


def lock_timeout(timeout: float | None) -> float:
    """`timeout` as `Lock.acquire` wants it: -1 waits for ever, and no other number may be below 0."""
    return -1 if timeout is None else max(timeout, 0)
