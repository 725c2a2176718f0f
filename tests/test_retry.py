"""When a client connects again. RFC 6455 7.2.3; that it does is in aio/test_client.py and sync/test_client.py."""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import math
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from zcws.errors import ConnectionClosedError, ConnectionClosedOK, HandshakeError, ProxyError
from zcws.options import LONGEST
from zcws.retry import Retries, backoff, check_options, process_exception


def first(count: int, delays: Iterator[float]) -> list[float]:
    return list(itertools.islice(delays, count))


class TestBackoff:
    def test_it_doubles_up_to_the_largest(self) -> None:
        delays = first(10, backoff(0, 1, 60, 2, jitter=0))
        assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]

    def test_all_of_it_can_be_set(self) -> None:
        delays = first(6, backoff(initial_delay=0, min_delay=0.5, max_delay=10, factor=3, jitter=0))
        assert delays == [0, 0.5, 1.5, 4.5, 10, 10]

    def test_a_factor_of_one_keeps_them_the_same(self) -> None:
        assert first(4, backoff(0, 3, 60, 1, jitter=0)) == [0, 3, 3, 3]

    def test_it_does_not_end(self) -> None:
        assert max(first(5000, backoff())) <= 60  # a factor to the power of that is no float

    def test_jitter(self) -> None:
        """The first delay is anything up to `initial_delay`; of the others a part is left to chance."""
        series = [first(4, backoff(5, 10, 20, jitter=0.5)) for _ in range(200)]
        for begin, *later in series:
            assert 0 <= begin <= 5
            for delay, whole in zip(later, (10, 20, 20), strict=True):
                assert whole / 2 <= delay <= whole
        assert len({delays[0] for delays in series}) > 100
        assert len({delays[3] for delays in series}) > 100

    def test_the_first_is_not_over_the_largest(self) -> None:
        assert all(next(backoff(5, 1, 0.01)) <= 0.01 for _ in range(50))

    def test_chance_is_the_modules_own(self) -> None:
        random.seed(1)
        once = first(5, backoff())
        random.seed(1)
        assert first(5, backoff()) == once

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"initial_delay": -1}, "from 0 to inf, not -1"),
            ({"min_delay": -1}, "from 0 to inf, not -1"),
            ({"max_delay": -1}, "from 0 to inf, not -1"),
            ({"initial_delay": math.nan}, "from 0 to inf, not nan"),
            ({"max_delay": math.nan}, "from 0 to inf, not nan"),
            ({"factor": math.nan}, "from 1 to inf, not nan"),
            ({"factor": 0.5}, "from 1 to inf, not 0.5"),
            ({"jitter": 2}, "from 0 to 1, not 2"),
        ],
    )
    def test_numbers_that_mean_nothing(self, options: dict[str, Any], reason: str) -> None:
        (name,) = options
        with pytest.raises(ValueError, match=f"^{name} is a number {reason}$"):
            backoff(**options)

    @pytest.mark.parametrize("name", ["initial_delay", "min_delay", "max_delay", "factor", "jitter"])
    def test_what_is_no_number(self, name: str) -> None:
        for value in ("1", None, True):
            with pytest.raises(TypeError, match=f"^{name} is a number, not {value!r}$"):
                backoff(**{name: value})


def caused(error: HandshakeError, cause: BaseException) -> HandshakeError:
    error.__cause__ = cause
    return error


class TestProcessException:
    @pytest.mark.parametrize(
        "error",
        [
            ConnectionRefusedError(),
            socket.gaierror(),
            TimeoutError(),
            ssl.SSLEOFError(),
            OSError(),
            *(HandshakeError("x", status=status) for status in (500, 502, 503, 504)),
            ProxyError("x", status=503),
            ProxyError("x", is_temporary=True),
            caused(HandshakeError("x"), EOFError()),
            caused(HandshakeError("x"), ConnectionResetError()),
        ],
        ids=repr,
    )
    def test_worth_another_attempt(self, error: Exception) -> None:
        assert process_exception(error) is None

    @pytest.mark.parametrize(
        "error",
        [
            ssl.SSLCertVerificationError(),
            *(HandshakeError("x", status=status) for status in (302, 400, 401, 403, 404, 501, 505)),
            HandshakeError("x"),
            ProxyError("x", status=407),
            ProxyError("x"),
            caused(HandshakeError("x"), ValueError()),
            ValueError(),
            ImportError(),
            RuntimeError(),
        ],
        ids=repr,
    )
    def test_fatal(self, error: Exception) -> None:
        assert process_exception(error) is error


class Series:
    """Delays that count how often they have begun anew."""

    def __init__(self, *delays: float) -> None:
        self.delays = delays
        self.begun = 0

    def __call__(self) -> Iterator[float]:
        self.begun += 1
        return iter(self.delays)


OK = ConnectionClosedOK(1000, clean=True)
BROKEN = ConnectionClosedError(1006)


#: How a delay has to be.
EACH = "each delay of reconnect_delays is a number of seconds (0 or more)"


async def async_judge(error: Exception) -> None: ...


async def async_delays() -> list[float]:
    return [1]


async def async_numbers() -> AsyncIterator[float]:
    yield 1


class TestRetries:
    def test_failures_take_one_delay_after_the_other(self) -> None:
        series = Series(1, 2, 3)
        retries = Retries("ws://a/", series, process_exception)
        errors = OSError(), HandshakeError("x", status=503), TimeoutError()
        assert [retries.failed(error) for error in errors] == [1, 2, 3]
        assert series.begun == 1

    def test_a_connection_that_lived_begins_anew(self) -> None:
        series = Series(1, 2, 3)
        retries = Retries("ws://a/", series, process_exception)
        assert [retries.failed(OSError()), retries.failed(OSError())] == [1, 2]
        assert retries.ended(2.5, BROKEN) == 1  # longer than the 2 seconds before it
        assert retries.failed(OSError()) == 2
        assert series.begun == 2

    def test_a_connection_that_did_not_is_as_good_as_none(self) -> None:
        """A server that accepts everybody and drops them at once."""
        series = Series(1, 2, 3, 4)
        retries = Retries("ws://a/", series, process_exception)
        assert retries.failed(OSError()) == 1
        assert [retries.ended(0.5, BROKEN), retries.ended(0.5, OK), retries.ended(2, OK)] == [2, 3, 4]
        assert series.begun == 1

    def test_a_fatal_error_is_raised(self) -> None:
        error = HandshakeError("x", status=404)
        with pytest.raises(HandshakeError) as caught:
            Retries("ws://a/", backoff, process_exception).failed(error)
        assert caught.value is error and caught.value.__cause__ is None

    def test_another_error_in_its_place(self) -> None:
        error = OSError("no")
        with pytest.raises(LookupError) as caught:
            Retries("ws://a/", backoff, lambda exc: LookupError("yes")).failed(error)
        assert caught.value.__cause__ is error

    @pytest.mark.parametrize("error", [TypeError("max_sise"), ValueError("ssl"), UnicodeError("host")])
    def test_a_mistake_is_no_reason_to_try_again(self, error: Exception) -> None:
        with pytest.raises(type(error)) as caught:
            Retries("ws://a/", backoff, lambda exc: None).failed(error)
        assert caught.value is error
        untrusted = ssl.SSLCertVerificationError("no")  # a ValueError, too
        assert Retries("ws://a/", Series(1), lambda exc: None).failed(untrusted) == 1

    def test_one_that_raises_by_itself(self) -> None:
        def judge(exc: Exception) -> None:
            raise exc

        with pytest.raises(OSError, match="no"):
            Retries("ws://a/", backoff, judge).failed(OSError("no"))

    def test_delays_that_end(self) -> None:
        """As many attempts as there are delays, and one."""
        retries = Retries("ws://a/", Series(1), process_exception)
        assert retries.failed(OSError("first")) == 1
        with pytest.raises(OSError, match="second"):
            retries.failed(OSError("second"))
        assert Retries("ws://a/", Series(), process_exception).ended(1, OK) is None

    def test_mistakes(self) -> None:
        with pytest.raises(TypeError, match=r"functools\.partial"):
            check_options(backoff(), process_exception)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="process_exception"):
            check_options(backoff, OSError("x"))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"functools\.partial"):
            Retries("ws://a/", backoff(), process_exception)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must return an exception"):
            Retries("ws://a/", backoff, lambda exc: True).failed(OSError())  # type: ignore[arg-type,return-value]
        with socket.socket() as sock, pytest.raises(ValueError, match=r"\(sock=\) can be used once"):
            Retries("ws://a/", backoff, process_exception, sock)
        check_options(functools.partial(backoff, max_delay=1), lambda exc: exc)

    @pytest.mark.parametrize(
        ("delays", "judge", "said"),
        [
            (backoff, async_judge, "process_exception is a plain function, .*: async_judge is a coroutine f"),
            (backoff, lambda: None, "process_exception is called with an exception: .* does not fit"),
            (backoff, lambda exc: (yield), "process_exception returns an exception or None: .* generator"),
            (async_delays, process_exception, "reconnect_delays is a plain function, .*: async_delays is a"),
            (lambda n: [n], process_exception, "reconnect_delays is called with nothing: .* does not fit"),
        ],
    )
    def test_functions_that_could_not_be_asked(self, delays: Any, judge: Any, said: str) -> None:
        """It was noticed at the first outage, when a coroutine was no exception."""
        with pytest.raises(TypeError, match=f"^{said}"):
            check_options(delays, judge)

    def test_a_verdict_that_would_have_to_be_awaited(self) -> None:
        """It was never awaited, and Python warned of it."""
        verdict = async_judge(OSError())
        with pytest.raises(TypeError, match=r"must return an exception .* not <coroutine object async_judge"):
            Retries("ws://a/", backoff, lambda exc: verdict).failed(OSError())  # type: ignore[arg-type,return-value]
        assert inspect.getcoroutinestate(verdict) == inspect.CORO_CLOSED

    @pytest.mark.parametrize("delay", ["1", None, True, 1j])
    def test_a_delay_that_is_no_number(self, delay: Any) -> None:
        """A str was "Unknown format code 'f'", and None the end of the delays."""
        for retry in self.both(Series(delay)):
            with pytest.raises(TypeError) as wrong:
                retry()
            assert str(wrong.value) == f"{EACH}, not {delay!r}"

    @pytest.mark.parametrize("delay", [-1, -0.001, math.nan, math.inf])
    def test_a_delay_that_is_no_time(self, delay: float) -> None:
        """After NaN seconds asyncio never tried again, after -1 at once, and time.sleep raised without a name."""
        for retry in self.both(Series(delay)):
            with pytest.raises(ValueError) as wrong:
                retry()
            assert str(wrong.value) == f"{EACH}, not {delay!r}"

    @pytest.mark.parametrize("delays", [lambda: 5, async_numbers])
    def test_delays_that_cannot_be_iterated_over(self, delays: Any) -> None:
        for retry in self.both(delays):
            with pytest.raises(
                TypeError, match=r"^reconnect_delays must return an iterable of seconds, not "
            ):
                retry()

    def both(self, delays: Any) -> list[Callable[[], Any]]:
        """A connection that failed, and one that ended, each with new `Retries`."""
        return [
            lambda: Retries("ws://a/", delays, process_exception).failed(OSError()),
            lambda: Retries("ws://a/", delays, process_exception).ended(1, BROKEN),
        ]

    def test_a_delay_longer_than_the_system_can_wait(self) -> None:
        assert Retries("ws://a/", Series(10**30), process_exception).failed(OSError()) == LONGEST


class TestLog:
    """It says why, and how long; what the peer said in one line without control characters."""

    def lines(self, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
        assert {record.name for record in caplog.records} == {"zcws.client"}
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    def test_what_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "zcws.client")
        retries = Retries("ws://a/", Series(1.25, 2, 3, 4), process_exception)
        retries.failed(ConnectionRefusedError(111, "Connection refused"))
        retries.failed(TimeoutError("a\nb\x1b[31m"))
        retries.ended(0, OK)
        retries.ended(0, BROKEN)
        retries.ended(0, OK)
        again = "connecting again in"
        assert self.lines(caplog) == [
            (
                "WARNING",
                "cannot connect to ws://a/: ConnectionRefusedError: [Errno 111] Connection refused; trying again in "
                "1.2 seconds",
            ),
            ("WARNING", "cannot connect to ws://a/: TimeoutError: a b\\x1b[31m; trying again in 2.0 seconds"),
            ("INFO", f"the connection to ws://a/ ended: 1000 (normal closure); {again} 3.0 seconds"),
            (
                "WARNING",
                f"the connection to ws://a/ ended: 1006 (abnormal closure) [no closing handshake]; {again} 4.0 seconds",
            ),
            ("INFO", "the connection to ws://a/ ended: 1000 (normal closure); that was the last"),
        ]

    def test_the_last_attempt(self, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(OSError):
            Retries("ws://a/", Series(), process_exception).failed(OSError())
        assert self.lines(caplog) == [
            ("WARNING", "cannot connect to ws://a/: OSError; that was the last attempt")
        ]

    def test_a_fatal_error_is_the_callers_to_tell(self, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(ValueError):
            Retries("ws://a/", backoff, process_exception).failed(ValueError())
        assert caplog.records == []
