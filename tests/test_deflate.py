"""Options and negotiation of permessage-deflate. RFC 7692 7."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcws.deflate import EXTENSION, Deflate
from zcws.errors import HandshakeError
from zcws.extensions import DeflateParameters, build_extension, parse_extensions
from zcws.options import LONGEST


def answer(offer: str, **options: Any) -> str | None:
    """The header with which a server answers."""
    accepted = Deflate(**options).accept(parse_extensions([offer], skip_malformed=True))
    return None if accepted is None else accepted[1]


def offer(**options: Any) -> str:
    """The header with which a client offers."""
    return ", ".join(build_extension(*each) for each in Deflate(**options).offers())


def agreed(text: str, **options: Any) -> DeflateParameters:
    """What a client makes of an answer."""
    [(_, parameters)] = parse_extensions([text])
    return Deflate(**options).agreed(parameters)


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "good", "bad"),
        [
            ("level", [1, 9], [0, 10, -1, "1", 1.0, True, None]),
            ("mem_level", [1, 9], [0, 10, None]),
            ("server_max_window_bits", [None, 9, 15], [8, 16, -9, "9"]),
            ("client_max_window_bits", [None, 9, 15], [8, 16, -9, "9"]),
            ("threshold", [0, 1, 10**9], [-1, 0.5, None]),
            ("idle_timeout", [None, 60, 0.5], [0, -1, "1"]),
        ],
    )
    def test_ranges(self, name: str, good: list[Any], bad: list[Any]) -> None:
        for value in good:
            assert getattr(Deflate(**{name: value}), name) == value
        for value in bad:
            with pytest.raises((TypeError, ValueError), match=f"^{name} is a .*, not {value!r}$"):
                Deflate(**{name: value})

    def test_an_idle_time_without_an_end(self) -> None:
        assert Deflate(idle_timeout=math.inf) == Deflate(idle_timeout=None)
        assert Deflate(idle_timeout=1e12).idle_timeout == LONGEST

    def test_defaults(self) -> None:
        assert Deflate().threshold == 256
        assert Deflate().idle_timeout == 60
        assert repr(Deflate(level=2)).startswith("Deflate(level=2, ")

    def test_options_do_not_change(self) -> None:
        options = Deflate()
        with pytest.raises(AttributeError, match="do not change"):
            options.level = 10
        assert options.level == 1

    def test_equal_options_are_one_key(self) -> None:
        assert {Deflate(), Deflate(level=1), Deflate(level=2)} == {Deflate(), Deflate(level=2)}
        assert Deflate() != "deflate"

    def test_short_form(self) -> None:
        options = Deflate(level=9)
        assert Deflate.of(options) is options
        assert Deflate.of("deflate") == Deflate()
        assert Deflate.of(None) is None
        for wrong in ("", "gzip", True, 9):
            with pytest.raises(ValueError, match='"deflate"'):
                Deflate.of(wrong)  # type: ignore[arg-type]


class TestServer:
    @pytest.mark.parametrize(
        ("offered", "answered"),
        [
            ("permessage-deflate", "permessage-deflate"),
            (
                "permessage-deflate; server_max_window_bits=15",
                "permessage-deflate; server_max_window_bits=15",
            ),
            (
                "permessage-deflate; server_max_window_bits=12",
                "permessage-deflate; server_max_window_bits=12",
            ),
            ("permessage-deflate; server_max_window_bits=9", "permessage-deflate; server_max_window_bits=9"),
            (
                'permessage-deflate; server_max_window_bits="10"',
                "permessage-deflate; server_max_window_bits=10",
            ),
            ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
            ("permessage-deflate; client_max_window_bits=15", "permessage-deflate"),
            (
                "permessage-deflate; client_max_window_bits=10",
                "permessage-deflate; client_max_window_bits=10",
            ),
            ("permessage-deflate; client_max_window_bits=8", "permessage-deflate; client_max_window_bits=8"),
            (
                "permessage-deflate; server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover",
            ),
            (
                "permessage-deflate; client_no_context_takeover",
                "permessage-deflate; client_no_context_takeover",
            ),
            (
                "permessage-deflate; client_max_window_bits=9; server_max_window_bits=11"
                "; client_no_context_takeover; server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
                "; server_max_window_bits=11; client_max_window_bits=9",
            ),
        ],
    )
    def test_what_is_asked_for_is_honoured_and_echoed(self, offered: str, answered: str) -> None:
        assert answer(offered) == answered

    @pytest.mark.parametrize(
        "offered",
        [
            "permessage-deflate; server_max_window_bits=8",  # raw deflate cannot
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=0",
            "permessage-deflate; server_max_window_bits=010",  # RFC 7692 7.1.2.1: without leading zeroes
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=9.0",
            "permessage-deflate; server_max_window_bits=1000000000000000000000",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=abc",
            "permessage-deflate; client_max_window_bitsZZZ",
            "permessage-deflate; server_no_context_takeover=1",
            'permessage-deflate; client_no_context_takeover="true"',
            "permessage-deflate; unknown",
            "permessage-deflate; client_max_window_bits; unknown=1",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=",
            'permessage-deflate; server_max_window_bits="10',
            "PerMessage-Deflate",
            "x-webkit-deflate-frame",
            "permessage-deflate-not",
            "",
        ],
    )
    def test_what_is_declined(self, offered: str) -> None:
        assert answer(offered) is None
        # The next offer is tried (RFC 7692 5), unless an open quote has swallowed it.
        if offered.count('"') != 1:
            following = f"{offered}, permessage-deflate; server_max_window_bits=10"
            assert answer(following) == "permessage-deflate; server_max_window_bits=10"

    def test_the_first_that_can_be_met(self) -> None:
        """RFC 7692 7: the client's order of preference"""
        first = "permessage-deflate; server_max_window_bits=10; client_max_window_bits"
        assert answer(f"{first}, permessage-deflate") == "permessage-deflate; server_max_window_bits=10"
        assert answer(f"foo, permessage-deflate, {first}") == "permessage-deflate"

    @pytest.mark.parametrize(
        ("options", "offered", "answered"),
        [
            ({"server_max_window_bits": 12}, "", "; server_max_window_bits=12"),
            ({"server_max_window_bits": 12}, "; server_max_window_bits=10", "; server_max_window_bits=10"),
            ({"server_max_window_bits": 12}, "; server_max_window_bits=14", "; server_max_window_bits=12"),
            ({"client_max_window_bits": 12}, "", ""),  # RFC 7692 7.1.2.2: it must not be told
            ({"client_max_window_bits": 12}, "; client_max_window_bits", "; client_max_window_bits=12"),
            ({"client_max_window_bits": 12}, "; client_max_window_bits=10", "; client_max_window_bits=10"),
            ({"client_max_window_bits": 12}, "; client_max_window_bits=14", "; client_max_window_bits=12"),
            ({"client_max_window_bits": 12}, "; client_max_window_bits=8", "; client_max_window_bits=8"),
            ({"server_no_context_takeover": True}, "", "; server_no_context_takeover"),
            ({"client_no_context_takeover": True}, "", "; client_no_context_takeover"),
        ],
    )
    def test_settings_of_ours(self, options: dict[str, Any], offered: str, answered: str) -> None:
        assert answer("permessage-deflate" + offered, **options) == "permessage-deflate" + answered

    def test_a_window_that_cannot_be_limited_is_inflated_with_15(self) -> None:
        accepted = Deflate(client_max_window_bits=9).accept([("permessage-deflate", [])])
        assert accepted is not None
        assert accepted[0].client_max_window_bits == 15


class TestClient:
    @pytest.mark.parametrize(
        ("options", "offered"),
        [
            ({}, "permessage-deflate; client_max_window_bits"),
            ({"client_max_window_bits": 10}, "permessage-deflate; client_max_window_bits=10"),
            (
                {"server_max_window_bits": 9},
                "permessage-deflate; server_max_window_bits=9; client_max_window_bits",
            ),
            (
                {"server_no_context_takeover": True, "client_no_context_takeover": True},
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
                "; client_max_window_bits",
            ),
        ],
    )
    def test_offers(self, options: dict[str, Any], offered: str) -> None:
        assert offer(**options) == offered

    @pytest.mark.parametrize(
        ("options", "answered", "parameters"),
        [
            ({}, "", {}),
            ({}, "; client_max_window_bits=8", {"client_max_window_bits": 8}),
            ({}, "; client_max_window_bits=9", {"client_max_window_bits": 9}),
            ({}, "; client_max_window_bits=15", {}),
            ({"client_max_window_bits": 10}, "", {"client_max_window_bits": 10}),
            ({"client_max_window_bits": 10}, "; client_max_window_bits=9", {"client_max_window_bits": 9}),
            ({"client_max_window_bits": 10}, "; client_max_window_bits=10", {"client_max_window_bits": 10}),
            # Unasked, too: RFC 7692 7.1.1.1, 7.1.1.2, 7.1.2.1
            ({}, "; server_max_window_bits=8", {"server_max_window_bits": 8}),
            ({}, "; server_no_context_takeover", {"server_no_context_takeover": True}),
            ({}, "; client_no_context_takeover", {"client_no_context_takeover": True}),
            ({"client_no_context_takeover": True}, "", {"client_no_context_takeover": True}),
            (
                {"server_no_context_takeover": True},
                "; server_no_context_takeover",
                {"server_no_context_takeover": True},
            ),
            ({"server_max_window_bits": 12}, "; server_max_window_bits=12", {"server_max_window_bits": 12}),
            ({"server_max_window_bits": 12}, "; server_max_window_bits=9", {"server_max_window_bits": 9}),
        ],
    )
    def test_answers(self, options: dict[str, Any], answered: str, parameters: dict[str, Any]) -> None:
        assert agreed("permessage-deflate" + answered, **options) == DeflateParameters(**parameters)

    @pytest.mark.parametrize(
        ("options", "answered", "reason"),
        [
            ({}, "; client_max_window_bits", "malformed"),  # only an offer may leave its value out
            ({}, "; server_max_window_bits", "malformed"),
            ({}, "; server_max_window_bits=7", "malformed"),
            ({}, "; server_max_window_bits=16", "malformed"),
            ({}, "; client_max_window_bits=09", "malformed"),
            ({}, "; server_no_context_takeover=1", "malformed"),
            ({}, "; unknown", "malformed"),
            ({}, "; server_no_context_takeover; server_no_context_takeover", "malformed"),
            ({}, "; client_max_window_bits=9; client_max_window_bits=9", "malformed"),
            ({"client_max_window_bits": 10}, "; client_max_window_bits=11", "larger client_max_window_bits"),
            ({"server_max_window_bits": 10}, "", "did not agree to server_max_window_bits"),
            (
                {"server_max_window_bits": 10},
                "; server_max_window_bits=11",
                "did not agree to server_max_window_bits",
            ),
            ({"server_no_context_takeover": True}, "", "did not agree to server_no_context_takeover"),
        ],
    )
    def test_what_is_no_answer(self, options: dict[str, Any], answered: str, reason: str) -> None:
        with pytest.raises(HandshakeError, match=reason):
            agreed("permessage-deflate" + answered, **options)


WINDOWS = st.none() | st.integers(9, 15)
OPTIONS = st.builds(
    Deflate,
    server_max_window_bits=WINDOWS,
    client_max_window_bits=WINDOWS,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
)


class TestBothSides:
    @given(OPTIONS, OPTIONS)
    def test_any_two_agree_on_the_same(self, client: Deflate, server: Deflate) -> None:
        accepted = server.accept(client.offers())
        assert accepted is not None
        parameters, header = accepted
        [(_, answered)] = parse_extensions([header])
        assert client.agreed(answered) == parameters
        # Nobody uses more than it said it would, and what somebody insisted on holds.
        assert parameters.server_max_window_bits <= (client.server_max_window_bits or 15)
        assert parameters.server_max_window_bits <= (server.server_max_window_bits or 15)
        assert parameters.client_max_window_bits <= (client.client_max_window_bits or 15)
        assert parameters.client_max_window_bits <= (server.client_max_window_bits or 15)
        assert parameters.server_no_context_takeover == (
            client.server_no_context_takeover or server.server_no_context_takeover
        )
        assert parameters.client_no_context_takeover == (
            client.client_no_context_takeover or server.client_no_context_takeover
        )

    NAMES = st.sampled_from(
        [
            *("server_no_context_takeover", "client_no_context_takeover"),
            *("server_max_window_bits", "client_max_window_bits", "other"),
        ]
    )
    VALUES = st.none() | st.sampled_from(["7", "8", "9", "10", "15", "16", "09", "x"])

    @given(OPTIONS, st.lists(st.tuples(NAMES, VALUES), max_size=4))
    def test_any_parameters(self, options: Deflate, parameters: list[tuple[str, str | None]]) -> None:
        """A server declines or agrees to what it can do; a client accepts only what it can do."""
        accepted = options.accept([("permessage-deflate", parameters)])
        if accepted is not None:
            assert 9 <= accepted[0].server_max_window_bits <= 15
            assert 8 <= accepted[0].client_max_window_bits <= 15
        try:
            told = options.agreed(parameters)
        except HandshakeError:
            return
        assert 8 <= told.server_max_window_bits <= 15
        assert 8 <= told.client_max_window_bits <= 15


def test_options_are_equal_where_all_of_them_are() -> None:
    assert Deflate(level=2) == Deflate(level=2) != Deflate(level=3)
    assert Deflate() != "deflate"


def test_an_unknown_parameter_with_a_windows_value() -> None:
    """RFC 7692 7: an offer with it is declined, an answer with it is none."""
    assert Deflate().accept([(EXTENSION, [("server_window", "10")])]) is None
    with pytest.raises(HandshakeError, match="malformed"):
        Deflate().agreed([("server_window", "10")])
