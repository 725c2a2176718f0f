"""Sec-WebSocket-Extensions and Sec-WebSocket-Protocol. RFC 6455 9.1, 4."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_headers import TOKENS

from zcws.extensions import (
    Extension,
    build_extension,
    check_subprotocols,
    parse_extensions,
    parse_subprotocols,
)

#: Characters of a header that takes a fraction of a second where time is linear, and minutes where it is quadratic.
LONG = 400_000

PARAMETERS = st.lists(st.tuples(TOKENS, st.none() | TOKENS), max_size=4)
EXTENSIONS = st.lists(st.tuples(TOKENS, PARAMETERS), max_size=4)


class TestExtensions:
    @pytest.mark.parametrize(
        ("values", "extensions"),
        [
            ([], []),
            ([""], []),
            ([" ,\t, ,"], []),  # RFC 9110 5.6.1.2
            (["a"], [("a", [])]),
            (["a, b"], [("a", []), ("b", [])]),
            (["a", "b, c", "a"], [("a", []), ("b", []), ("c", []), ("a", [])]),
            (["a; x"], [("a", [("x", None)])]),
            (["a; x=1; y"], [("a", [("x", "1"), ("y", None)])]),
            (["a;x=1;y,b"], [("a", [("x", "1"), ("y", None)]), ("b", [])]),
            ([" a ;\tx = 1\t, b "], [("a", [("x", "1")]), ("b", [])]),
            (["a; x; x=2"], [("a", [("x", None), ("x", "2")])]),
            (['a; x="1"'], [("a", [("x", "1")])]),
            (['a; x="\\1\\0"'], [("a", [("x", "10")])]),
            (['a; x = "1" ;y, b'], [("a", [("x", "1"), ("y", None)]), ("b", [])]),
        ],
    )
    def test_grammar(self, values: list[str], extensions: list[Extension]) -> None:
        assert parse_extensions(values) == extensions
        assert parse_extensions(values, skip_malformed=True) == extensions

    @pytest.mark.parametrize(
        "value",
        [
            "a b",
            "a;",
            "a; ",
            "a;;x",
            "; x",
            "a; =1",
            "a; x=",
            "a; x=1 2",
            "a; x==1",
            "a; x y",
            "a/b",
            "\xe4",
            '"a"',
            'a; "x"',
            'a; x="',
            'a; x="1',
            'a; x="1\\',
            'a; x="1\\"',
            'a; x="1"2',
            'a; x=1"2"',
            # RFC 6455 9.1: what was quoted must be a token
            'a; x=""',
            'a; x=" "',
            'a; x="1,2"',
            'a; x="\\""',
            'a; x="1;y"',
        ],
    )
    def test_malformed(self, value: str) -> None:
        for values in ([value], ["b", value], [f"b, {value}"]):
            with pytest.raises(ValueError, match="malformed"):
                parse_extensions(values)
        assert parse_extensions([value], skip_malformed=True) == []
        assert parse_extensions([value, "b"], skip_malformed=True) == [("b", [])]
        # Whatever stands before it, and in another header, is read.
        assert parse_extensions([f"b, {value}", "c; y=2"], skip_malformed=True) == [
            ("b", []),
            ("c", [("y", "2")]),
        ]

    @pytest.mark.parametrize(
        ("value", "extensions"),
        [
            ("a b, c", [("c", [])]),
            ("a;, b; x, c d, e", [("b", [("x", None)]), ("e", [])]),
            ('a; x="1,2", b', [("b", [])]),
            ('a; x=="1, c", b', [("b", [])]),  # what stands in quotes is no offer
            ('a; x=="1\\", c", b', [("b", [])]),
            ('a; x=="1, b', []),
        ],
    )
    def test_reading_goes_on_behind_what_is_malformed(self, value: str, extensions: list[Extension]) -> None:
        assert parse_extensions([value], skip_malformed=True) == extensions

    @given(EXTENSIONS, st.booleans())
    def test_what_is_built_is_parsed(self, extensions: list[Extension], in_one: bool) -> None:
        values = [build_extension(*extension) for extension in extensions]
        assert parse_extensions([", ".join(values)] if in_one else values) == extensions

    @given(EXTENSIONS)
    def test_quotes_change_nothing(self, extensions: list[Extension]) -> None:
        quoted = [
            "; ".join([name, *(key if value is None else f'{key}="\\{value}"' for key, value in parameters)])
            for name, parameters in extensions
        ]
        assert parse_extensions(quoted) == extensions

    @given(st.lists(st.text('a;,="\\ \t\xe4', max_size=40), max_size=3))
    def test_any_value(self, values: list[str]) -> None:
        readable = parse_extensions(values, skip_malformed=True)
        try:
            assert parse_extensions(values) == readable
        except ValueError as error:
            assert str(error) == "malformed Sec-WebSocket-Extensions header"

    @pytest.mark.parametrize(
        ("start", "repeated", "end"),
        [
            ("", "a", ""),
            ("", "a;", ""),
            ("a; b", " ", "!"),
            ("a; b=", "c", "!"),
            ('a; b="', "\\", ""),
            ('a; b="', "\\\\", "!"),
            ('a; b="', ",", ""),
            ("", 'a;b="\\",', ""),
            ("", ",", ""),
            ("a", ";b=c", "\xe4"),
            ("a", ';b="c"', "\xe4"),
            ("", "a b,", ""),
            ("", '"', ""),
        ],
    )
    def test_time_is_linear(self, start: str, repeated: str, end: str) -> None:
        """CVE-2021-32640 and others. Not timed: of this length, what is quadratic hits the time limit of the tests."""
        value = start + repeated * (LONG // len(repeated)) + end
        parse_extensions([value], skip_malformed=True)


class TestBuild:
    def test_parameters(self) -> None:
        assert build_extension("a") == "a"
        assert build_extension("a", [("x", None), ("y", "1")]) == "a; x; y=1"

    @pytest.mark.parametrize(
        ("name", "parameters"),
        [
            ("", []),
            ("a b", []),
            ("a\r\nb", []),
            ("a", [("", None)]),
            ("a", [("x\r\n", None)]),
            ("a", [("x", "")]),
            ("a", [("x", "1, b")]),
        ],
    )
    def test_what_is_no_token(self, name: str, parameters: list[tuple[str, str | None]]) -> None:
        with pytest.raises(ValueError, match="must be"):
            build_extension(name, parameters)


class TestSubprotocols:
    @pytest.mark.parametrize(
        ("values", "names"),
        [
            ([], []),
            (["", " , "], []),  # CVE-2026-45541 is this place in ESP-IDF
            (["chat"], ["chat"]),
            (["chat , superchat,\tv2.x!"], ["chat", "superchat", "v2.x!"]),
            (["chat", "superchat"], ["chat", "superchat"]),
        ],
    )
    def test_grammar(self, values: list[str], names: list[str]) -> None:
        assert parse_subprotocols(values) == names

    @pytest.mark.parametrize("value", ["a b", "a;b", '"a"', "\xe4", "a, b/c"])
    def test_malformed(self, value: str) -> None:
        with pytest.raises(ValueError, match="malformed Sec-WebSocket-Protocol"):
            parse_subprotocols([value])

    @given(st.lists(TOKENS, max_size=5))
    def test_what_is_joined_is_parsed(self, names: list[str]) -> None:
        assert parse_subprotocols([", ".join(names)]) == names

    def test_of_our_own(self) -> None:
        assert check_subprotocols(["chat", "superchat"]) == ("chat", "superchat")
        assert check_subprotocols(()) == ()

    @pytest.mark.parametrize("name", ["", "a b", "a\r\nb: c", "a,b", b"a", 1])
    def test_of_our_own_that_are_no_tokens(self, name: Any) -> None:
        with pytest.raises(ValueError, match=re.escape(f"must be a token (RFC 6455 4.1), not {name!r}")):
            check_subprotocols([name])

    def test_of_our_own_twice(self) -> None:
        with pytest.raises(ValueError, match="'a' was given twice"):
            check_subprotocols(["a", "b", "a"])

    @pytest.mark.parametrize("names", ["chat", b"chat", 5])
    def test_what_is_no_list_is_a_mistake(self, names: Any) -> None:
        with pytest.raises(TypeError, match=f"list of names, not {names!r}"):
            check_subprotocols(names)
