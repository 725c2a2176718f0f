"""HTTP header lines and the mapping that holds them. RFC 9110 5, RFC 9112 5."""

from __future__ import annotations

from email.message import Message
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcws.headers import Headers, MultipleValuesError, count_lines, parse_line, parse_lines

TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_characters="\x7f"), max_size=30
).map(lambda text: text.strip(" \t"))
LINES = st.lists(st.tuples(TOKENS, VALUES), max_size=8)


def received(*lines: str) -> str:
    return "\r\n" + "".join(line + "\r\n" for line in lines) + "\r\n"


class TestMapping:
    def test_names_have_no_case(self) -> None:
        headers = Headers({"Content-Type": "text/plain"})
        assert headers["content-type"] == headers["CONTENT-TYPE"] == "text/plain"
        assert "Content-type" in headers
        assert cast("str", 1) not in headers

    def test_a_missing_name_is_a_key_error(self) -> None:
        headers = Headers()
        with pytest.raises(KeyError):
            headers["a"]
        with pytest.raises(KeyError):
            del headers["a"]
        assert headers.get("a") is None
        assert headers.get_all("a") == []

    def test_setting_adds_and_keeps_the_order(self) -> None:
        headers = Headers([("B", "1"), ("a", "2")])
        headers["b"] = "3"
        assert headers.get_all("B") == ["1", "3"]
        assert list(headers.raw_items()) == [("B", "1"), ("a", "2"), ("b", "3")]
        assert list(headers) == ["b", "a"]
        assert len(headers) == 2

    def test_one_value_cannot_be_had_of_two(self) -> None:
        headers = Headers([("a", "1"), ("A", "2")])
        with pytest.raises(
            MultipleValuesError, match=r"'a' is there 2 times: get_all\('a'\) .* raw_items\(\)"
        ):
            headers["a"]
        for ask in (lambda: headers.get("a"), lambda: list(headers.items()), lambda: dict(headers)):
            with pytest.raises(LookupError):
                ask()

    def test_deleting_removes_all_of_a_name(self) -> None:
        headers = Headers([("a", "1"), ("b", "2"), ("A", "3")])
        del headers["A"]
        assert list(headers.raw_items()) == [("b", "2")]

    def test_clearing_removes_everything(self) -> None:
        """It raised MultipleValuesError where a header was there twice, and removed nothing."""
        text = received("Set-Cookie: a", "Set-Cookie: b", "X: y")
        for headers in (
            Headers([("a", "1"), ("A", "2"), ("b", "3")]),
            Headers.trusted(parse_lines(text), text),
        ):
            copy = headers.copy()
            headers.clear()
            headers.release()
            assert headers == Headers() and str(headers) == "" and len(copy) == 2
            headers.clear()
            headers["c"] = "4"
            assert list(headers.raw_items()) == [("c", "4")]

    def test_what_has_no_one_value_is_not_taken_out(self) -> None:
        """As the class says: half of the values would be lost."""
        headers = Headers([("a", "1"), ("A", "2"), ("b", "3")])
        for take in (headers.popitem, lambda: headers.pop("a"), lambda: headers.pop("a", None)):
            with pytest.raises(MultipleValuesError):
                take()
        assert list(headers.raw_items()) == [("a", "1"), ("A", "2"), ("b", "3")]
        del headers["a"]
        assert headers.popitem() == ("b", "3")
        with pytest.raises(KeyError):
            headers.popitem()

    def test_repeated_lines_are_one_list(self) -> None:
        """RFC 9110 5.3"""
        headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
        assert headers.combined() == {"a": "1, 3", "b": "2"}

    def test_update_adds_everything(self) -> None:
        headers = Headers({"a": "1"})
        headers.update(Headers([("b", "2"), ("b", "3")]), c="4")
        headers.update({"a": "5"})
        assert list(headers.raw_items()) == [("a", "1"), ("b", "2"), ("b", "3"), ("c", "4"), ("a", "5")]

    def test_update_adds_all_or_nothing(self) -> None:
        headers = Headers({"a": "1"})
        with pytest.raises(ValueError, match="token"):
            headers.update([("b", "2"), ("bad name", "3")])
        assert list(headers.raw_items()) == [("a", "1")]

    def test_equality_is_that_of_values(self) -> None:
        assert Headers([("A", "1"), ("b", "2")]) == Headers([("B", "2"), ("a", "1")])
        assert Headers([("a", "1"), ("a", "2")]) != Headers([("a", "2"), ("a", "1")])
        assert Headers([("a", "1"), ("a", "2")]) != Headers([("a", "1, 2")])
        assert Headers() != {}
        assert (Headers() == {}) is False

    def test_a_copy_is_its_own(self) -> None:
        headers = Headers({"a": "1"})
        copy = headers.copy()
        copy["b"] = "2"
        assert list(headers) == ["a"]
        assert list(copy) == ["a", "b"]

    def test_text(self) -> None:
        headers = Headers([("A", "1"), ("b", "")])
        assert str(headers) == "A: 1\r\nb: \r\n"
        assert repr(headers) == "Headers([('A', '1'), ('b', '')])"

    def test_white_space_around_a_value_is_not_part_of_it(self) -> None:
        """RFC 9110 5.5"""
        assert Headers({"a": " \t1 2\t "})["a"] == "1 2"


class TestWhatCannotBeSent:
    @pytest.mark.parametrize(
        "name", ["", " a", "a ", "a:", "a b", "a\r\nb", "a\n", "\0", "\xe9", "a,b", "(a)"]
    )
    def test_names_that_are_no_tokens(self, name: str) -> None:
        with pytest.raises(ValueError, match="token"):
            Headers()[name] = "1"

    @pytest.mark.parametrize("value", ["\r\n", "1\r\nx: 2", "\n", "1\r", "\0", "\x7f", "\x0b", "1\r\n"])
    def test_values_with_control_characters(self, value: str) -> None:
        with pytest.raises(ValueError, match="CR, LF, NUL"):
            Headers({"a": value})

    def test_values_beyond_latin_1(self) -> None:
        with pytest.raises(ValueError, match="Latin-1"):
            Headers({"a": "\u20ac"})
        assert Headers({"a": "\xff"})["a"] == "\xff"

    def test_what_is_no_str(self) -> None:
        with pytest.raises(TypeError):
            Headers()["a"] = 1  # type: ignore[assignment]
        with pytest.raises(TypeError):
            Headers()[b"a"] = "1"  # type: ignore[index]

    def test_values_that_are_no_text(self) -> None:
        with pytest.raises(
            TypeError, match=r"^the value of the header 'X-A' must be a str; its type is int$"
        ):
            Headers({"X-A": 1})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match=r"^a header's name must be a str, not b'X-A'$"):
            Headers({b"X-A": "1"})  # type: ignore[dict-item]

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("X A", "1", "a header's name must be a token (RFC 9110 5.1), not 'X A'"),
            (
                "X-A",
                "1\n",
                "the value of the header 'X-A' must not hold CR, LF, NUL or other control characters",
            ),
            ("X-A", "\u20ac", "the value of the header 'X-A' must be Latin-1: encode other text before"),
        ],
    )
    def test_lines_that_cannot_be_sent_are_named(self, name: str, value: str, said: str) -> None:
        """Not the value, which may be a secret."""
        with pytest.raises(ValueError) as wrong:
            Headers({name: value})
        assert str(wrong.value) == said

    def test_those_of_the_standard_library(self) -> None:
        """Which are no Mapping: what urllib has received, say."""
        message = Message()
        message["X-A"], message["X-B"], message["x-a"] = "1", "2", "3"
        assert list(Headers(message).raw_items()) == [("X-A", "1"), ("X-B", "2"), ("x-a", "3")]

    @pytest.mark.parametrize(
        "source", ["X-A: 1", ["X-A: 1"], ["ab"], [b"ab"], [("X-A",)], [1], 1, [("a", "b", "c")]]
    )
    def test_what_is_no_headers(self, source: Any) -> None:
        with pytest.raises(TypeError, match=r"^headers are a mapping"):
            Headers(source)


class TestReceivedLines:
    """RFC 9112 5"""

    @pytest.mark.parametrize(
        ("line", "value"),
        [
            ("a: 1", "1"),
            ("a:1", "1"),
            ("a:", ""),
            ("a: ", ""),
            ("a:\t 1 2 \t", "1 2"),
            ("a:  1", "1"),
            ("a: 1 ", "1"),
            ("a: :", ":"),
            ("a: \xe4\xff", "\xe4\xff"),
        ],
    )
    def test_legal_lines(self, line: str, value: str) -> None:
        assert parse_line(line) == ("a", value)
        assert parse_lines(received(line)) == [("a", value)]
        assert parse_lines(received("x: y", line, "z: ")) == [("x", "y"), ("a", value), ("z", "")]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (" a: 1", "folded"),  # RFC 9112 5.2
            ("\ta: 1", "folded"),
            ("a", "no colon"),
            ("", "no colon"),
            (": 1", "not a token"),
            ("a : 1", "not a token"),  # RFC 9112 5.1
            ("a\t: 1", "not a token"),
            ("a b: 1", "not a token"),
            ("\xe4: 1", "not a token"),
            ("a: 1\r", "control character"),  # RFC 9112 2.2: a bare CR
            ("a: \r1", "control character"),
            ("a: 1\n", "control character"),
            ("a: 1\nb: 2", "control character"),  # a bare LF
            ("\na: 1", "not a token"),
            ("a: \0", "control character"),
            ("a: \x7f", "control character"),
            ("a: \x1b[31m", "control character"),
        ],
    )
    def test_illegal_lines(self, line: str, reason: str) -> None:
        for text in (received(line), received("x: y", line), received(line, "x: y")):
            with pytest.raises(ValueError, match=reason):
                parse_lines(text)

    def test_no_lines(self) -> None:
        assert parse_lines("\r\n\r\n") == []
        assert count_lines("\r\n\r\n") == 0

    @given(LINES)
    def test_what_is_written_is_read(self, lines: list[tuple[str, str]]) -> None:
        headers = Headers(lines)
        text = f"\r\n{headers}\r\n"
        assert parse_lines(text) == lines
        assert count_lines(text) == len(lines)

    @given(st.lists(st.text("a: \t\r\n,\0\x7f\xe4", max_size=6), max_size=5))
    def test_all_at_once_is_the_same_as_one_by_one(self, lines: list[str]) -> None:
        text = received(*lines)

        def one_by_one() -> list[tuple[str, str]] | str:
            try:
                return [parse_line(line) for line in text[2:-4].split("\r\n")] if len(text) > 4 else []
            except ValueError as error:
                return str(error)

        def at_once() -> list[tuple[str, str]] | str:
            try:
                return parse_lines(text)
            except ValueError as error:
                return str(error)

        assert at_once() == one_by_one()

    @pytest.mark.parametrize("end", ["", "\0", " \x7f"])
    @pytest.mark.parametrize(
        ("start", "repeated"),
        [("a:", " "), ("", "a"), ("a:", "x "), ("a: x", " "), ("a", " "), ("a: ", "\t")],
    )
    def test_time_is_linear_in_a_line(self, start: str, repeated: str, end: str) -> None:
        """Not timed: of this length, what is quadratic hits the time limit of the tests."""
        line = start + repeated * 400_000 + end
        if ":" in start and not end:
            assert parse_lines(received(line))[0][0] == "a"
        else:
            with pytest.raises(ValueError):
                parse_lines(received(line))


class TestRelease:
    TEXT = received("Host: a", "X: 1", "x: 2")

    def make(self) -> Headers:
        return Headers.trusted(parse_lines(self.TEXT), self.TEXT)

    def test_nothing_changes(self) -> None:
        headers = self.make()
        before = list(headers.raw_items()), headers.get_all("x"), headers["host"]
        headers.release()
        assert (list(headers.raw_items()), headers.get_all("x"), headers["host"]) == before

    def test_there_is_nothing_to_drop(self) -> None:
        headers = Headers()
        headers.release()
        assert list(headers) == []

    def test_memory_is_given_back(self) -> None:
        headers = self.make()
        headers.combined()
        headers.release()
        assert headers._items is None
        assert headers._combined is None

    def test_changes_are_kept(self) -> None:
        headers = self.make()
        headers["y"] = "3"
        headers.release()
        assert headers["y"] == "3"
        del headers["x"]
        headers.release()
        assert list(headers) == ["host", "y"]

    def test_a_copy_can_be_released_too(self) -> None:
        headers = self.make()
        copy = headers.copy()
        headers["y"] = "3"
        copy.release()
        assert "y" not in copy
        assert copy["host"] == "a"
