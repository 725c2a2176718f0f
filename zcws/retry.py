"""When a client connects again: after which errors, and how much later. RFC 6455 7.2.3.

What this file decides: which errors another attempt may heal, how long to wait before it, and what the log says about
it. It refuses to know how one connects, waits or tells the time: seconds come in and go out.

    what happened                                             what follows
    --------------------------------------------------------  -----------------------------------------------
    no connection, and `process_exception` returns None       a warning with the reason; the next delay
    no connection, and it returns an exception                that is raised
    a TypeError or ValueError, if it is no OSError            that is raised at once: an option or the URI is wrong,
                                                              and stays so
    a connection that lived longer than the delay before it   the delays begin anew; the first of them
    a connection that did not                                 the next delay, as if it had failed: a server that
                                                              accepts everybody and drops them at once is not
                                                              asked more and more often
    there is no next delay                                    the loop ends, with the error where there was one
    the next delay is no time that one can wait               a TypeError or a ValueError is raised
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Callable, Iterable, Iterator

from zcws.callables import abandon, check_call, check_plain, is_generator, name_of
from zcws.errors import ConnectionClosed, ConnectionClosedOK, HandshakeError, ProxyError, printable
from zcws.options import checked_delay, is_real

__all__ = ["Delays", "ProcessException", "Retries", "backoff", "process_exception"]

logger: logging.Logger = logging.getLogger("zcws.client")

#: What `process_exception=` takes: None means that another attempt is worth it.
ProcessException = Callable[[Exception], Exception | None]
#: What `reconnect_delays=` takes: called for each new series of delays, in seconds.
Delays = Callable[[], Iterable[float]]

#: The server, or somebody in between, is broken, restarting or too busy: for now. RFC 9110 15.6.
TEMPORARY = frozenset((500, 502, 503, 504))


def backoff(
    initial_delay: float = 1,
    min_delay: float = 1,
    max_delay: float = 60,
    factor: float = 2,
    *,
    jitter: float = 0.5,
) -> Iterator[float]:
    """Delays that grow: exponential backoff with jitter, without an end. RFC 6455 7.2.3.

    Args:
        initial_delay: seconds; the first delay is anything from 0 to this, so that all clients of a server that
            restarts do not come back at once. The RFC suggests 5, for more clients than most programs have.
        min_delay, max_delay: seconds; the second delay, and the largest.
        factor: how many times longer each is than the one before: 2 is the RFC's "truncated binary exponential".
        jitter: the random part of each delay: 0.5 waits for half of it to all of it, 0 for exactly that.

    Raises:
        ValueError: a delay below 0, a factor below 1, or a jitter that is not 0 to 1. TypeError: one that is no number.
    """
    for name, value, least, most in (
        ("initial_delay", initial_delay, 0, math.inf),
        ("min_delay", min_delay, 0, math.inf),
        ("max_delay", max_delay, 0, math.inf),
        ("factor", factor, 1, math.inf),
        ("jitter", jitter, 0, 1),
    ):
        if not is_real(value):
            raise TypeError(f"{name} is a number, not {value!r}")
        if not least <= value <= most:  # no comparison is true of NaN
            raise ValueError(f"{name} is a number from {least} to {most}, not {value!r}")
    return _delays(initial_delay, min_delay, max_delay, factor, jitter)


def _delays(first: float, delay: float, most: float, factor: float, jitter: float) -> Iterator[float]:
    from random import random  # only programs that reconnect need it: a fiftieth of importing all of this

    yield min(first, most) * random()
    while True:
        delay = min(delay, most)
        yield delay * (1 - jitter * random())
        delay *= factor


def process_exception(exc: Exception) -> Exception | None:
    """Whether another attempt may succeed where this one failed: None if so, the exception to raise if not.

    Worth another attempt: `OSError` and `TimeoutError` (no server, no network, no name server), a server that ends
    the connection instead of answering, one that answers with status 500, 502, 503 or 504, and a proxy that cannot
    reach the server. Not: any other answer, and a certificate that is not trusted.
    """
    if isinstance(exc, ssl.SSLCertVerificationError):  # an OSError too; nothing heals it but a person
        return exc
    if isinstance(exc, OSError):
        return None
    if isinstance(exc, HandshakeError):
        broke_off = isinstance(exc.__cause__, (EOFError, OSError))
        unreachable = isinstance(exc, ProxyError) and exc.is_temporary
        return None if broke_off or unreachable or exc.status in TEMPORARY else exc
    return exc


class Retries:
    """What one reconnecting loop knows about its attempts.

    Args:
        name: what the log calls the server; no credentials in it.
        delays, judge: the options `reconnect_delays` and `process_exception`.
        sock: a socket that was given, or None.

    Raises:
        ValueError: a socket was given. TypeError: as `check_options`.
    """

    def __init__(self, name: str, delays: Delays, judge: ProcessException, sock: object = None) -> None:
        if sock is not None:
            raise ValueError("a socket that is given (sock=) can be used once: there is no connecting again")
        check_options(delays, judge)
        self._name = name
        self._new_delays = delays
        self._judge = judge
        self._delays: Iterator[float] | None = None
        self._last = 0.0

    def failed(self, error: Exception) -> float:
        """The seconds until the next attempt; raises where there is to be none, and for an option that is wrong."""
        # A certificate that is not trusted is an OSError, and a ValueError, too.
        if isinstance(error, (TypeError, ValueError)) and not isinstance(error, OSError):
            raise error
        verdict = self._judge(error)
        if verdict is not None and not isinstance(verdict, Exception):
            abandon(verdict)
            raise TypeError(
                f"process_exception must return an exception to raise, or None to try again, not {verdict!r}"
            )
        if verdict is error:
            raise error
        if verdict is not None:
            raise verdict from error
        delay = self._next()
        then = "that was the last attempt" if delay is None else f"trying again in {delay:.1f} seconds"
        said = ": ".join(filter(None, (type(error).__name__, one_line(error))))
        logger.warning("cannot connect to %s: %s; %s", self._name, said, then)
        if delay is None:
            raise error
        return delay

    def ended(self, lived: float, end: ConnectionClosed) -> float | None:
        """A connection is over: the seconds until the next, or None where there is to be none.

        Args:
            lived: seconds that it was open.
            end: how it ended.
        """
        if lived > self._last:
            self._delays = None
        delay = self._next()
        level = logging.INFO if isinstance(end, ConnectionClosedOK) else logging.WARNING
        then = "that was the last" if delay is None else f"connecting again in {delay:.1f} seconds"
        logger.log(level, "the connection to %s ended: %s; %s", self._name, one_line(end), then)
        return delay

    def _next(self) -> float | None:
        if self._delays is None:
            self._delays = iterator_of(self._new_delays())
        try:
            delay = next(self._delays)
        except StopIteration:
            self._last = 0.0
            return None
        self._last = checked_delay("each delay of reconnect_delays", delay)
        return self._last


def check_options(delays: Delays, judge: ProcessException) -> None:
    """`TypeError` for functions that could not be called, or not awaited, when there is an error."""
    if not callable(delays):
        raise TypeError(
            "reconnect_delays must be called for each series of delays: give zcws.backoff, or for other numbers "
            "functools.partial(zcws.backoff, max_delay=10)"
        )
    check_call("reconnect_delays", delays)
    check_plain("reconnect_delays", delays, "which returns an iterable of seconds")
    check_call("process_exception", judge, "an exception")
    check_plain("process_exception", judge, "which returns an exception or None")
    if is_generator(judge):
        raise TypeError(
            f"process_exception returns an exception or None: {name_of(judge)} is a generator function"
        )


def iterator_of(delays: object) -> Iterator[float]:
    """What `reconnect_delays` has returned, one by one."""
    if isinstance(delays, Iterable):
        return iter(delays)
    abandon(delays)
    raise TypeError(f"reconnect_delays must return an iterable of seconds, not {delays!r}")


def one_line(error: Exception) -> str:
    """What an error says, for a log: some of it may be a peer's words."""
    return printable(" ".join(str(error).split()))
