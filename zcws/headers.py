"""HTTP header lines and the mapping that holds them. RFC 9110 5, RFC 9112 5.

What this file decides: what a legal header line is, and that nothing else can be in `Headers`, so that
whatever is in there can be sent. It refuses to know what any header means, and what surrounds the lines.

Lines that were received are read by one regular expression, all at once. It knows only the form that
everybody sends: `Name: value`, at most one space after the colon, none at the end. When it has matched fewer
lines than there are, the lines are read one by one, which is slower, accepts the rarer legal forms, and
finds the sentence that says what is wrong. Where RFC 9112 leaves a choice between strict and lenient,
strict wins: a parser that guesses is one half of a request-smuggling bug.

`Headers` that were received keep the text they came in; `release` goes back to the text alone and they are
taken apart again if somebody asks, so that an idle connection does not hold fifty small strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping

__all__ = ["TOKEN", "Headers", "HeadersLike", "MultipleValuesError", "count_lines", "is_token", "parse_lines"]

#: What may be given where headers are wanted.
HeadersLike = Mapping[str, str] | Iterable[tuple[str, str]]

#: RFC 9110 5.6.2: token.
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
#: RFC 9110 5.5: a field value, without the control characters that have to be refused.
VALUE = r"[^\x00-\x08\x0a-\x1f\x7f]*"

is_token = re.compile(TOKEN).fullmatch
is_value = re.compile(VALUE).fullmatch
# Time is linear in the line, whatever is in it: no repetition can match what follows it, except for VALUE,
# which starts in one place only.
common_lines = re.compile(rf"\r\n({TOKEN}): ?(?![ \t])({VALUE})(?<![ \t])(?=\r\n)").findall


class MultipleValuesError(LookupError):
    """`headers[name]` of a header that came more than once: use `get_all(name)`."""


class Headers(MutableMapping[str, str]):
    """HTTP headers: names in any case, in the order they came, repeats kept.

    `headers[name] = value` adds a line; `del headers[name]` removes all of that name. Names must be tokens
    and values Latin-1 without control characters; anything else is a `ValueError`.

    A header that is there more than once, as `Set-Cookie` often is, has no single value: `headers[name]` raises a
    `LookupError` then, and so do `get`, `items`, `values` and `dict(headers)`, and `pop` and `popitem`, which remove
    nothing. `get_all(name)` gives every value of one header, `raw_items()` every header, and `combined()` a dict with
    several values joined by commas.
    """

    __slots__ = ("_combined", "_items", "_text")

    def __init__(self, source: HeadersLike = (), /) -> None:
        self._text = ""  # what was received, as long as it says the same as the items
        self._items: list[tuple[str, str]] | None = []  # None: only the text is kept
        self._combined: dict[str, str] | None = None  # made from the items when first asked for
        if source:
            self.update(source)

    @classmethod
    def trusted(cls, items: list[tuple[str, str]], text: str = "") -> Headers:
        """Headers of lines that have been checked already.

        Args:
            items: the lines; nobody may change them from now on.
            text: for received headers, the text from which `parse_lines` makes the same lines.
        """
        headers = cls.__new__(cls)
        headers._text = text
        headers._items = items
        headers._combined = None
        return headers

    def release(self) -> None:
        """Drops what can be read again from the text that was received; nothing else changes."""
        if self._text:
            self._items = self._combined = None

    def _replace(self, items: list[tuple[str, str]]) -> None:
        self._text = ""
        self._items = items
        self._combined = None

    def _lines(self) -> list[tuple[str, str]]:
        if self._items is None:
            self._items = parse_lines(self._text)
        return self._items

    def combined(self) -> Mapping[str, str]:
        """By name in lower case: the value, or where there are several, all of them as one list.

        RFC 9110 5.3: this is what repeated lines mean. What may come only once has no commas in its grammar.
        """
        if self._combined is None:
            items = self._lines()
            self._combined = {name.lower(): value for name, value in items}
            if len(self._combined) != len(items):
                self._combined = combine(items)
        return self._combined

    def get_all(self, name: str) -> list[str]:
        """Every value of `name`, in the order they came."""
        name = name.lower()
        if name not in self.combined():
            return []
        return [value for key, value in self._lines() if key.lower() == name]

    def raw_items(self) -> Iterator[tuple[str, str]]:
        """Every line, repeats included, names in the case they came in."""
        return iter(self._lines())

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if len(values) > 1:
            raise MultipleValuesError(
                f"the header {name!r} is there {len(values)} times: get_all({name!r}) gives every value, "
                "raw_items() every header"
            )
        if not values:
            raise KeyError(name)
        return values[0]

    def __setitem__(self, name: str, value: str) -> None:
        self.update([(name, value)])

    def __delitem__(self, name: str) -> None:
        name = name.lower()
        if name not in self.combined():
            raise KeyError(name)
        self._replace([item for item in self._lines() if item[0].lower() != name])

    def clear(self) -> None:
        """Removes every line."""
        self._replace([])  # the mapping's own asks each header for its one value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self.combined()

    def __iter__(self) -> Iterator[str]:
        return iter(self.combined())

    def __len__(self) -> int:
        return len(self.combined())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return {name: self.get_all(name) for name in self} == {name: other.get_all(name) for name in other}

    def update(self, other: HeadersLike = (), /, **more: str) -> None:  # type: ignore[override]
        """Adds every line of `other`; unlike a dict's update, it replaces nothing."""
        if isinstance(other, Headers):
            pairs: Iterable[tuple[str, str]] = other.raw_items()
        else:
            # An `email.message.Message`, as of urllib, is no Mapping.
            pairs = other.items() if hasattr(other, "items") else check_pairs(other)
        checked = [check_line(name, value) for name, value in [*pairs, *more.items()]]
        self._replace([*self._lines(), *checked])

    def copy(self) -> Headers:
        """An independent copy with the same lines."""
        return Headers.trusted(self._lines(), self._text)  # a change makes a new list

    def __repr__(self) -> str:
        return f"Headers({self._lines()!r})"

    def __str__(self) -> str:
        return "".join([f"{name}: {value}\r\n" for name, value in self._lines()])


def combine(items: list[tuple[str, str]]) -> dict[str, str]:
    """All values of each name (in lower case) as one list."""
    every: dict[str, list[str]] = {}
    for name, value in items:
        every.setdefault(name.lower(), []).append(value)
    return {name: ", ".join(values) for name, values in every.items()}


def check_pairs(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names and values; `TypeError` for what is not made of such pairs."""
    checked = list[tuple[str, str]]()
    try:
        for pair in pairs:
            if isinstance(pair, (str, bytes)):  # a line, which may have two letters
                raise TypeError
            name, value = pair
            checked.append((name, value))
    except (TypeError, ValueError):
        raise TypeError("headers are a mapping of names to values, or pairs of a name and a value") from None
    return checked


def check_line(name: str, value: str) -> tuple[str, str]:
    """Name and value of a line to be sent; `ValueError` where it would be another line, or several."""
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a str, not {name!r}")
    if not is_token(name):
        raise ValueError(f"a header's name must be a token (RFC 9110 5.1), not {name!r}")
    if not isinstance(value, str):
        raise TypeError(f"the value of the header {name!r} must be a str; its type is {type(value).__name__}")
    if not is_value(value):
        raise ValueError(
            f"the value of the header {name!r} must not hold CR, LF, NUL or other control characters"
        )
    if not value.isascii() and max(value) > "\xff":
        raise ValueError(f"the value of the header {name!r} must be Latin-1: encode other text before")
    return name, value.strip(" \t")  # RFC 9110 5.5: white space around it is not part of a value


def count_lines(text: str) -> int:
    """How many header lines `text` may hold: it begins with one line end and closes with two."""
    return text.count("\n") - 2  # the last line's own end is one of the two that close


def parse_lines(text: str) -> list[tuple[str, str]]:
    """The header lines of `text`: CRLF, lines with CRLF in between, CRLF CRLF.

    Raises:
        ValueError: a fixed sentence that says what is wrong.
    """
    items = common_lines(text)
    # Each match begins at a line end of its own, so equal numbers mean that every line has been read; a
    # bare LF is in the count and in no match.
    if len(items) == count_lines(text):
        return items
    return [parse_line(line) for line in text[2:-4].split("\r\n")]


def parse_line(line: str) -> tuple[str, str]:
    """Name and value of one received line."""
    if line[:1] in (" ", "\t"):
        # RFC 9112 5.2: a server must refuse folded lines or unfold them; refusing cannot be misunderstood. Those of a
        # response are unfolded before they come here (http1.py).
        raise ValueError("a header is folded over several lines")
    name, colon, value = line.partition(":")
    if not colon:
        raise ValueError("a header line has no colon")
    if not is_token(name):
        # RFC 9112 5.1: white space before the colon must be refused; it is in no token either.
        raise ValueError("a header's name is not a token")
    if not is_value(value):
        # RFC 9112 2.2, RFC 9110 5.5: a bare CR or LF, a NUL, another control character
        raise ValueError("a header's value holds a control character")
    return name, value.strip(" \t")
