"""What the options of `connect` and `serve` may be, for both drivers.

What this file decides: which values are valid, to what one form they are brought, and what the error for any other
says: the option, the value, and what is allowed. It refuses to know what an option is good for. It is asked where
options are given, so that a mistake is not found by the first connection, or in the middle of one.

    option                                             allowed                                becomes
    -------------------------------------------------  -------------------------------------  -------------------------
    open_timeout, close_timeout, ping_timeout,         seconds, 0 or more; math.inf; None     a number up to `LONGEST`,
    write_timeout, drain                                                                      or None: for ever
    ping_interval, idle_timeout                        the same, above 0                      the same; None: never
    each of reconnect_delays                           seconds, 0 or more                     a number up to `LONGEST`
    max_size                                           bytes, 0 or more; None                 an int
    max_fragments, max_connections                     a number, 1 or more                    an int
    max_redirects, threshold                           a number, 0 or more                    the same
    level, mem_level, *_max_window_bits                a number in their range                the same
    write_limit                                        bytes, 0 or more; a pair, high, low    both marks, in bytes
    timeout, of one call of zcws.sync                  seconds, below 0 too; math.inf; None   the same; 0 below 0
    host and port, path, sock                          one of the three; a client may give    the same
                                                       none
"""

from __future__ import annotations

import math
import sys
from operator import index
from typing import Any, TypedDict

__all__ = [
    "LATE",
    "LONGEST",
    "PINGS_OUT",
    "USUAL_MARKS",
    "Limits",
    "Timeouts",
    "check_address",
    "check_client_context",
    "check_kind",
    "check_place",
    "check_range",
    "check_server_context",
    "checked_count",
    "checked_delay",
    "checked_limits",
    "checked_seconds",
    "checked_size",
    "checked_wait",
    "checked_write_limit",
    "is_real",
    "water_marks",
]

#: The longest wait in seconds: poll() counts milliseconds in 31 bits, which are over after 24.8 days. What is longer
#: is cut to this; `math.inf` and None are for ever.
LONGEST = 2_000_000

#: Whoever asks what is due this many seconds too late has stood still (a stopped process, a loop that was busy): before
#: a peer is blamed, it has as long again, once.
LATE = 0.05

#: Keepalive Pings that may wait for their Pongs at once: an answer may take longer than the time between two Pings, and
#: a peer from which other bytes come need not answer at all.
PINGS_OUT = 8

#: High and low mark: bytes waiting in a transport at which the writer is told to stop, and to go on. asyncio's own.
USUAL_MARKS = (64 * 1024, 16 * 1024)

_SIZE = "a number of bytes (int, 0 or more) or None"
_WRITE_LIMIT = "a number of bytes (int, 0 or more), or a pair of them: high, and low or None"


class Limits(TypedDict):
    """What is accepted from a peer: a message of `max_size` bytes in `max_fragments` frames."""

    max_size: int
    max_fragments: int


class Timeouts:
    """The times that all connections of one client or server share: seconds, None for ever. See `connect` and `serve`.

    Raises:
        TypeError, ValueError: one of them is invalid.
    """

    __slots__ = ("close_timeout", "ping_interval", "ping_timeout", "write_timeout")

    def __init__(
        self,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        write_timeout: float | None = None,
    ) -> None:
        self.ping_interval: float | None = checked_seconds("ping_interval", ping_interval, zero=False)
        self.ping_timeout: float | None = checked_seconds("ping_timeout", ping_timeout)
        self.close_timeout: float | None = checked_seconds("close_timeout", close_timeout)
        self.write_timeout: float | None = checked_seconds("write_timeout", write_timeout)


def check_kind(name: str, value: object, kind: type, what: str) -> None:
    """`TypeError` unless `value` is a `kind` or None; `what` says so in words."""
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} is {what}, not {value!r}")


def check_address(name: str, address: Any) -> None:
    """`TypeError` or `ValueError` unless `address` is where a socket of ours may be bound, or None."""
    if address is None:
        return
    if not (isinstance(address, tuple) and len(address) == 2 and isinstance(address[0], str)):
        raise TypeError(f"{name} is a pair of host and port, or None, not {address!r}")
    check_range(f"the port of {name}", address[1], 0, 65535)


def check_server_context(context: Any) -> None:
    """`ValueError` for an `ssl.SSLContext` that no server can use: each connection would fail, unnoticed."""
    if context is not None and context.protocol.name == "PROTOCOL_TLS_CLIENT":
        raise ValueError(
            "ssl is the context of a client (ssl.create_default_context() makes one); "
            "a server needs ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), and its load_cert_chain"
        )


def check_client_context(name: str, context: Any) -> None:
    """The same for a client, which would learn it from each server that it has connected to, and try again."""
    if context.protocol.name == "PROTOCOL_TLS_SERVER":
        raise ValueError(
            f"{name} is the context of a server (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) makes one); "
            "a client needs ssl.create_default_context(), or the path of a file with the certificates to trust"
        )


def checked_seconds(name: str, value: float | None, *, zero: bool = True) -> float | None:
    """A wait that event loops and the system can do, or None for one without an end."""
    if value is None:
        return None
    what = f"a number of seconds ({'0 or more' if zero else 'above 0'}), or None"
    if not is_real(value):
        raise TypeError(f"{name} is {what}, not {value!r}")
    if not (value > 0 or (zero and value == 0)):  # no comparison is true of NaN
        raise ValueError(f"{name} is {what}, not {value!r}")
    return None if value == math.inf else _waited(value)


def checked_delay(name: str, value: float) -> float:
    """A wait that is over some time."""
    what = "a number of seconds (0 or more)"
    if not is_real(value):
        raise TypeError(f"{name} is {what}, not {value!r}")
    if not 0 <= value < math.inf:  # no comparison is true of NaN
        raise ValueError(f"{name} is {what}, not {value!r}")
    return _waited(value)


def _waited(seconds: float) -> float:
    try:
        return min(seconds if isinstance(seconds, (int, float)) else float(seconds), LONGEST)
    except OverflowError:  # a Fraction may be larger than any float
        return LONGEST


def checked_wait(timeout: float | None) -> float | None:
    """The `timeout` of one call. It may be negative, being what is left of some time: then there is no wait."""
    if timeout is None:
        return None
    if isinstance(timeout, (int, float)) and 0 <= timeout <= LONGEST and not isinstance(timeout, bool):
        return timeout
    return checked_seconds("timeout", max(timeout, 0) if is_real(timeout) else timeout)


def is_real(value: object) -> bool:
    """Whether it is a number, and no bool."""
    if isinstance(value, (int, float)):
        return not isinstance(value, bool)
    # A Fraction, or a scalar of NumPy: its library has loaded `numbers` to register it. To import that here would cost
    # half a millisecond at every start.
    numbers = sys.modules.get("numbers")
    return numbers is not None and isinstance(value, numbers.Real)


def checked_size(value: int | None) -> int:
    """`max_size`; None for as much as there can be."""
    return sys.maxsize if value is None else min(_counted("max_size", value, _SIZE), sys.maxsize)


def checked_limits(max_size: int | None, max_fragments: int) -> Limits:
    """Both limits, for a `Connection`."""
    return {
        "max_size": checked_size(max_size),
        "max_fragments": checked_count("max_fragments", max_fragments, "frames"),
    }


def checked_count(name: str, value: int, of: str, least: int = 1) -> int:
    """How many there may be; at least 1 where nothing else is said."""
    return min(_counted(name, value, f"a number of {of} (int, {least} or more)", least=least), sys.maxsize)


def check_range(name: str, value: int, low: int, high: int) -> None:
    """`TypeError` or `ValueError` unless `value` is a whole number from `low` to `high`."""
    what = f"a whole number from {low} to {high}"
    if _counted(name, value, what, least=low) > high:
        raise ValueError(f"{name} is {what}, not {value!r}")


def check_place(*, is_server: bool, sock: object, path: object, host: object, port: object) -> None:
    """`ValueError` for more than one place to connect to, or to listen at; for none to listen at; and for an invalid
    port."""
    given = {"sock": sock, "path": path, "host and port": host if port is None else port}
    ways = [name for name, place in given.items() if place is not None]
    if len(ways) > 1:
        doing = "listen at" if is_server else "connect to"
        raise ValueError(f"{' and '.join(ways)} are different places to {doing}: give one")
    if is_server and not ways:
        raise ValueError("serve() needs a place to listen at: host and port, or path, or sock")
    if port is not None:
        # Some callees would take a port that is too large modulo 65,536, and look up a str as the name of a service.
        check_range("port", port, 0 if is_server else 1, 65535)  # type: ignore[arg-type]


def checked_write_limit(value: int | tuple[int, int | None]) -> tuple[int, int]:
    """`write_limit` as both marks: waiting bytes at which the writer is told to stop, and to go on."""
    if not isinstance(value, tuple):
        value = value, None
    if len(value) != 2:
        raise ValueError(f"write_limit is {_WRITE_LIMIT}, not {value!r}")
    high, low = value
    high = _counted("write_limit", high, _WRITE_LIMIT)
    if low is None:
        return water_marks(high)
    low = _counted("write_limit", low, _WRITE_LIMIT)
    if low > high:
        raise ValueError(f"write_limit is {_WRITE_LIMIT}: {value!r} has the low one first")
    return high, low


def water_marks(high: int | None = None, low: int | None = None) -> tuple[int, int]:
    """Both marks by the rules of asyncio's transports: a mark that is not given follows from the other."""
    if high is None:
        high = USUAL_MARKS[0] if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return high, low


def _counted(name: str, value: int, what: str, *, least: int = 0) -> int:
    try:
        count = None if isinstance(value, bool) else index(value)  # NumPy's integers count, too
    except TypeError:
        count = None
    if count is None:
        raise TypeError(f"{name} is {what}, not {value!r}")
    if count < least:
        raise ValueError(f"{name} is {what}, not {value!r}")
    return count
