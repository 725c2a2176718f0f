"""The grammar of Sec-WebSocket-Extensions and -Protocol, and what a handshake settles. RFC 6455 9.1, 4.

What this file decides: how those two headers are taken apart and put together. It refuses to know what any
extension means.

A client's offers are read with `skip_malformed`: RFC 6455 9.1 lets a server decline any of them, and an
offer that nobody can read is declined like one that nobody can meet. A server's answer must be right.

Time is linear in the header: an element is matched by one expression in which the next character always decides
whether a repetition goes on, and after a failure reading goes on behind the element.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from zcws.headers import TOKEN, is_token

__all__ = [
    "MAX_STREAMS",
    "TAIL",
    "Agreement",
    "DeflateParameters",
    "Extension",
    "Parameters",
    "build_extension",
    "check_subprotocols",
    "parse_extensions",
    "parse_subprotocols",
]

#: DEFLATE streams that one message may be made of. One that ends in a final block (RFC 7692 7.2.3.4) is made of two;
#: each costs a new decompressor, so a message made of millions is an attack on our time.
MAX_STREAMS = 64

#: What a message ends with before it is cut off, and what is put back before it is inflated. RFC 7692 7.2.1, 7.2.2.
TAIL = b"\x00\x00\xff\xff"

#: The parameters of an extension, in order, repeats kept: a name, and a value or None.
Parameters = list[tuple[str, str | None]]
#: An extension's name and its parameters.
Extension = tuple[str, Parameters]

VALUE = rf'{TOKEN}|"(?:[^"\\]|\\.)*"'
PARAMETERS = rf"(?:[ \t]*;[ \t]*{TOKEN}(?:[ \t]*=[ \t]*(?:{VALUE}))?)*"
# RFC 6455 9.1, with the white space between tokens that RFC 2616 2.1 implies; RFC 9110 5.6.1.2: elements of
# a list may be empty.
match_element = re.compile(rf"[ \t]*(?:({TOKEN})({PARAMETERS})[ \t]*)?(?:,|\Z)").match
find_parameters = re.compile(rf";[ \t]*({TOKEN})(?:[ \t]*=[ \t]*({VALUE}))?").findall
# Up to the next comma outside of quotes, whatever comes before it. Nothing after the repetition can fail, so
# nothing is ever tried twice.
skip_element = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)*,?').match
unescape = re.compile(r"\\(.)").sub


class DeflateParameters(NamedTuple):
    """What permessage-deflate does on one connection. RFC 7692 7.1."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


class Agreement(NamedTuple):
    """What the opening handshake settled; both halves of a connection read it, nobody changes it."""

    subprotocol: str | None = None
    deflate: DeflateParameters | None = None
    no_masking: bool = False


def parse_extensions(values: Iterable[str], *, skip_malformed: bool = False) -> list[Extension]:
    """Every extension in all Sec-WebSocket-Extensions headers, in order, repeats kept.

    Args:
        values: of the header's lines, as they came; each is read by itself.
        skip_malformed: leaves out malformed elements.

    Raises:
        ValueError: an element is malformed, and is not to be skipped.
    """
    found = [extension for value in values for extension in parse_elements(value)]
    extensions = [extension for extension in found if extension is not None]
    if len(extensions) != len(found) and not skip_malformed:
        raise ValueError("malformed Sec-WebSocket-Extensions header")
    return extensions


def parse_elements(value: str) -> Iterator[Extension | None]:
    """The elements of one header; None for each that is malformed, nothing for the empty ones."""
    at = 0
    while at < len(value):
        found = match_element(value, at)
        if found is None:
            yield None
            found = skip_element(value, at)
            assert found is not None, "it matches anything"
        elif found[1]:
            yield parse_element(found[1], found[2])
        at = found.end()


def parse_element(name: str, text: str) -> Extension | None:
    """One extension from its name and the text of its parameters."""
    parameters = [(key, parse_value(value)) for key, value in find_parameters(text)]
    # RFC 6455 9.1: what was quoted must be a token once it is unquoted.
    if any(value is not None and not is_token(value) for _, value in parameters):
        return None
    return name, parameters


def parse_value(value: str) -> str | None:
    """A parameter's value without its quotes; None for none, which is not the same as ""."""
    if value.startswith('"'):
        return unescape(r"\1", value[1:-1])
    return value or None


def build_extension(name: str, parameters: Iterable[tuple[str, str | None]] = ()) -> str:
    """One element of a Sec-WebSocket-Extensions header; `ValueError` where a part is not a token."""
    parts = [name]
    for key, value in parameters:
        parts.append(key if value is None else f"{key}={value}")
        if not is_token(key) or not (value is None or is_token(value)):
            raise ValueError("an extension's parameters must be tokens (RFC 6455 9.1)")
    if not is_token(name):
        raise ValueError("an extension's name must be a token (RFC 6455 9.1)")
    return "; ".join(parts)


def parse_subprotocols(values: Iterable[str]) -> list[str]:
    """Every subprotocol in all Sec-WebSocket-Protocol headers, in order; `ValueError` when malformed."""
    names = [name.strip(" \t") for value in values for name in value.split(",")]
    names = [name for name in names if name]
    if not all(map(is_token, names)):
        raise ValueError("malformed Sec-WebSocket-Protocol header")
    return names


def check_subprotocols(names: Iterable[str]) -> tuple[str, ...]:
    """Subprotocols of our own: tokens, each once (RFC 6455 4.1)."""
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise TypeError(f"subprotocols must be a list of names, not {names!r}")
    checked = tuple(names)
    for name in checked:
        if not isinstance(name, str) or not is_token(name):
            raise ValueError(f"a subprotocol must be a token (RFC 6455 4.1), not {name!r}")
        if checked.count(name) > 1:
            raise ValueError(f"the subprotocol {name!r} was given twice (RFC 6455 4.1)")
    return checked
