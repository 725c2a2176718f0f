"""What options may be, and that all four of connect() and serve() say so before they open anything."""

from __future__ import annotations

import math
import ssl
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from arrays import needs_numpy, np

import zcws
import zcws.sync
from zcws.options import (
    LONGEST,
    check_address,
    check_client_context,
    check_kind,
    check_place,
    check_server_context,
    checked_count,
    checked_delay,
    checked_limits,
    checked_seconds,
    checked_size,
    checked_wait,
    checked_write_limit,
    water_marks,
)


class Four:
    """An integer that is no int, as NumPy's are."""

    def __index__(self) -> int:
        return 4


async def coroutine(ws: Any) -> None:
    raise AssertionError("nobody is connected")


def function(ws: Any) -> None:
    raise AssertionError("nobody is connected")


#: Nobody listens there, and it would be another error.
URI = "ws://127.0.0.1:1/"

ENTRANCES: dict[str, Callable[..., object]] = {
    "connect": lambda **options: zcws.connect(URI, **options),
    "serve": lambda **options: zcws.serve(coroutine, "127.0.0.1", 0, **options),
    "sync.connect": lambda **options: zcws.sync.connect(URI, **options),
    "sync.serve": lambda **options: zcws.sync.serve(function, "127.0.0.1", 0, **options),
}
CLIENTS = ("connect", "sync.connect")


@pytest.mark.parametrize("serve", [zcws.serve, zcws.sync.serve])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"port": 99_999}, "port is a whole number from 0 to 65535, not 99999"),
        ({"port": -1}, "port is a whole number from 0 to 65535, not -1"),
        ({"sock": 5}, "sock is a socket.socket, or None, not 5"),
        ({"host": 5, "port": 0}, "host is a str, or .* not 5"),
        ({"host": b"h"}, "host is a str, or .* not b'h'"),
        ({}, r"serve\(\) needs a place to listen at: host and port, or path, or sock"),
        ({"host": None, "path": None}, "needs a place to listen at"),
    ],
)
def test_where_nobody_can_listen(serve: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises((TypeError, ValueError), match=reason):
        serve(lambda ws: None, **options)


def test_several_hosts() -> None:
    """asyncio listens at each of them."""
    for hosts in (["127.0.0.1", "::1"], {"127.0.0.1"}):
        zcws.serve(coroutine, hosts, 0)
    with pytest.raises(
        TypeError, match=r"^host is a str, or several of them, or None for all addresses, not 5$"
    ):
        zcws.serve(coroutine, ["127.0.0.1", 5], 0)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("given", "marks"),
    [
        ((), (65_536, 16_384)),
        ((1000,), (1000, 250)),
        ((None, 10), (40, 10)),
        ((5, 5), (5, 5)),
        ((0,), (0, 0)),
    ],
)
def test_water_marks(given: Any, marks: tuple[int, int]) -> None:
    assert water_marks(*given) == marks
    for wrong in ((1, 2), (-1,), (None, -1)):
        with pytest.raises(ValueError, match="must be >="):
            water_marks(*wrong)


class TestSeconds:
    @pytest.mark.parametrize("value", [0, 0.0, 1, 0.001, LONGEST, None])
    def test_as_they_are(self, value: float | None) -> None:
        assert checked_seconds("open_timeout", value) is value

    def test_for_ever(self) -> None:
        assert checked_seconds("open_timeout", math.inf) is None

    @pytest.mark.parametrize("value", [1e12, LONGEST + 0.5, 10**30, Fraction(10**400)])
    def test_longer_than_the_system_can_wait(self, value: float) -> None:
        assert checked_seconds("open_timeout", value) == LONGEST

    def test_other_numbers(self) -> None:
        found = checked_seconds("open_timeout", Fraction(1, 2))  # type: ignore[arg-type]
        assert type(found) is float and found == 0.5

    @needs_numpy
    def test_numbers_of_numpy(self) -> None:
        for value in (np.float16(0.5), np.float32(0.5), np.float64(0.5)):
            assert checked_seconds("open_timeout", value) == 0.5
        assert checked_seconds("open_timeout", np.int64(2)) == 2
        assert checked_seconds("open_timeout", np.float32(math.inf)) is None
        for value in (np.bool_(True), np.complex64(1), np.array([1.0])):
            with pytest.raises(TypeError, match=r"^open_timeout is a number of seconds"):
                checked_seconds("open_timeout", value)

    @pytest.mark.parametrize("value", ["1", True, False, (1,), 1j, Decimal(1)])
    def test_what_is_no_number(self, value: Any) -> None:
        with pytest.raises(TypeError) as wrong:
            checked_seconds("open_timeout", value)
        assert str(wrong.value) == f"open_timeout is a number of seconds (0 or more), or None, not {value!r}"

    def test_a_wait_that_ends(self) -> None:
        for value in (0, 0.5, LONGEST):
            assert checked_delay("delay", value) is value
        assert checked_delay("delay", 10**30) == LONGEST
        found = checked_delay("delay", Fraction(1, 2))  # type: ignore[arg-type]
        assert type(found) is float and found == 0.5
        for wrong in ("1", None, True, Decimal(1)):
            with pytest.raises(TypeError, match=r"^delay is a number of seconds \(0 or more\), not "):
                checked_delay("delay", wrong)  # type: ignore[arg-type]
        for none in (-1, math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match=r"^delay is a number of seconds \(0 or more\), not "):
                checked_delay("delay", none)

    @pytest.mark.parametrize("value", [-1, -0.001, -math.inf, math.nan])
    def test_no_time(self, value: float) -> None:
        with pytest.raises(ValueError, match=r"^open_timeout is a number of seconds"):
            checked_seconds("open_timeout", value)

    @pytest.mark.parametrize(
        ("value", "wait"),
        [
            (None, None),
            (0, 0),
            (1.5, 1.5),
            (-1, 0),
            (-math.inf, 0),
            (math.inf, None),
            (1e20, LONGEST),
            (Fraction(1, 2), 0.5),
            (Fraction(-1, 2), 0),
            pytest.param(-(10**400), 0, id="less than any float"),
        ],
    )
    def test_of_one_call(self, value: Any, wait: float | None) -> None:
        """What is left of a time may be less than nothing."""
        assert checked_wait(value) == wait

    @pytest.mark.parametrize(
        ("value", "error"), [(math.nan, ValueError), ("1", TypeError), (True, TypeError), (False, TypeError)]
    )
    def test_of_one_call_that_is_none(self, value: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"^timeout is a number of seconds"):
            checked_wait(value)

    def test_above_zero(self) -> None:
        assert checked_seconds("ping_interval", 1e-9, zero=False) == 1e-9
        with pytest.raises(
            ValueError, match=r"^ping_interval is a number of seconds \(above 0\), or None, not 0$"
        ):
            checked_seconds("ping_interval", 0, zero=False)


class TestSizes:
    @pytest.mark.parametrize(
        ("given", "size"), [(None, sys.maxsize), (0, 0), (5, 5), (Four(), 4), (2**80, sys.maxsize)]
    )
    def test_sizes(self, given: Any, size: int) -> None:
        assert checked_size(given) == size

    @pytest.mark.parametrize("value", [1e6, "1", (10, 10), True])
    def test_what_is_no_size(self, value: Any) -> None:
        with pytest.raises(TypeError) as wrong:
            checked_size(value)
        assert str(wrong.value) == f"max_size is a number of bytes (int, 0 or more) or None, not {value!r}"

    def test_less_than_nothing(self) -> None:
        with pytest.raises(ValueError, match=r"^max_size is .* not -1$"):
            checked_size(-1)

    def test_counts(self) -> None:
        assert checked_count("max_fragments", 1, "frames") == 1
        assert checked_count("max_fragments", 2**80, "frames") == sys.maxsize
        with pytest.raises(
            ValueError, match=r"^max_fragments is a number of frames \(int, 1 or more\), not 0$"
        ):
            checked_count("max_fragments", 0, "frames")
        with pytest.raises(TypeError, match=r"^max_fragments is .* not None$"):
            checked_count("max_fragments", None, "frames")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("value", "marks"),
        [
            (0, (0, 0)),
            (1000, (1000, 250)),
            ((1000, 0), (1000, 0)),
            ((1000, 1000), (1000, 1000)),
            ((1000, None), (1000, 250)),
        ],
    )
    def test_write_limits(self, value: Any, marks: tuple[int, int]) -> None:
        assert checked_write_limit(value) == marks

    @pytest.mark.parametrize("value", ["x", None, 1.5, [2, 1], (None, 1), (2, "1")])
    def test_what_is_no_write_limit(self, value: Any) -> None:
        with pytest.raises(TypeError, match=r"^write_limit is a number of bytes"):
            checked_write_limit(value)

    @pytest.mark.parametrize("value", [-1, (1, 2), (1,), (3, 2, 1), (-1, None), (1, -1)])
    def test_write_limits_that_cannot_be(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r"^write_limit is a number of bytes"):
            checked_write_limit(value)


def test_addresses_of_ours() -> None:
    check_address("source", None)
    check_address("source", ("::1", 0))
    for wrong in ("x", ("::1",), (0, 0), ["::1", 0]):
        with pytest.raises(TypeError, match=r"^source is a pair of host and port, or None, not "):
            check_address("source", wrong)
    with pytest.raises(ValueError, match=r"^the port of source is a whole number from 0 to 65535, not -1"):
        check_address("source", ("::1", -1))


def test_kinds() -> None:
    check_kind("ssl", None, dict, "a dict")
    check_kind("ssl", {}, dict, "a dict")
    with pytest.raises(TypeError, match=r"^ssl is a dict, not 'x'$"):
        check_kind("ssl", "x", dict, "a dict")


# ---- where they are given ----


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_size", value) for value in (1e6, -1, "1", (10, 10))),
        *(("max_fragments", value) for value in (1e6, -1, 0, "1", (10, 10))),
        *(("ping_interval", value) for value in ("a", 0, -1, math.nan)),
        *(("ping_timeout", value) for value in ("a", -1, math.nan)),
        *(("close_timeout", value) for value in ("a", -1, math.nan)),
        *(("open_timeout", value) for value in ("a", -1, math.nan)),
        *(("write_timeout", value) for value in ("a", -1, math.nan)),
    ],
)
def test_an_option_that_means_nothing(entrance: str, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as wrong:
        ENTRANCES[entrance](**{name: value})
    said = str(wrong.value)
    assert said.startswith(f"{name} is a number of ") and said.endswith(f", not {value!r}")


@pytest.mark.parametrize(
    ("entrance", "name", "value"),
    [
        ("connect", "write_limit", -1),
        ("serve", "write_limit", "x"),
        ("sync.serve", "max_connections", 0),
        ("connect", "ssl", 5),
        ("serve", "ssl", "x"),
        ("sync.connect", "ssl", 5),
        ("sync.serve", "ssl", "x"),
        ("sync.serve", "ssl", True),
        ("serve", "ssl", ssl.create_default_context()),
        ("sync.serve", "ssl", ssl.create_default_context()),
        *(("serve", "ssl_handshake_timeout", value) for value in ("a", 0, -1, math.nan)),
        *(("connect", "ssl_handshake_timeout", value) for value in ("a", 0, -1, math.nan)),
        ("connect", "ssl_shutdown_timeout", -1),
    ],
)
def test_an_option_of_one_side(entrance: str, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name} "):
        ENTRANCES[entrance](**{name: value})


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_options_that_nobody_knows(entrance: str) -> None:
    function = entrance.rpartition(".")[2]
    text = rf"^{function}\(\) has no option 'ping_intervall': did you mean ping_interval\?$"
    with pytest.raises(TypeError, match=text):
        ENTRANCES[entrance](ping_intervall=1)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_the_headers_of_the_other_side(entrance: str) -> None:
    right, wrong = "additional_headers", "extra_headers"
    if entrance not in CLIENTS:
        right, wrong = wrong, right
    with pytest.raises(TypeError, match=f"has no option '{wrong}': it is called {right}$"):
        ENTRANCES[entrance](**{wrong: {}})
    with pytest.raises(TypeError, match="the header 'X-A'"):
        ENTRANCES[entrance](**{right: {"X-A": 1}})


@pytest.mark.parametrize("entrance", ["sync.connect", "sync.serve"])
@pytest.mark.parametrize("name", ["on_frame", "on_message", "write_limit"])
def test_options_that_only_asyncio_has(entrance: str, name: str) -> None:
    with pytest.raises(TypeError, match=f"has no option '{name}': "):
        ENTRANCES[entrance](**{name: None})


@pytest.mark.parametrize("is_server", [True, False])
def test_one_place(is_server: bool) -> None:
    nothing = dict.fromkeys(("sock", "path", "host", "port"))
    for given in ({"sock": 1}, {"path": "a"}, {"host": "a", "port": 65535}, {"port": 1}):
        check_place(is_server=is_server, **{**nothing, **given})
    for given, ways in (
        ({"sock": 1, "path": "a"}, "sock and path"),
        ({"sock": 1, "port": 1}, "sock and host and port"),
        ({"path": "a", "host": "a"}, "path and host and port"),
    ):
        doing = "listen at" if is_server else "connect to"
        with pytest.raises(ValueError, match=f"^{ways} are different places to {doing}: give one$"):
            check_place(is_server=is_server, **{**nothing, **given})
    with pytest.raises(ValueError, match="65535, not 65536"):
        check_place(is_server=is_server, **{**nothing, "port": 65536})
    for port in ("http", "8765", "", b"1", [1], 1.0, True):
        with pytest.raises(TypeError, match=r"^port is a whole number from . to 65535, not "):
            check_place(is_server=is_server, **{**nothing, "port": port})


def test_limits_of_a_connection() -> None:
    assert checked_limits(None, 5) == {"max_size": sys.maxsize, "max_fragments": 5}


def test_no_wait_and_a_context_that_a_server_can_have() -> None:
    assert checked_wait(None) is None
    check_server_context(None)
    check_server_context(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_a_context_that_a_client_can_have() -> None:
    check_client_context("ssl", ssl.create_default_context())
    with pytest.raises(ValueError, match=r"^proxy_ssl is the context of a server "):
        check_client_context("proxy_ssl", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
