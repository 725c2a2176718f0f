"""The page of all names: it has them all, and of each class what programs may use and nothing else.

mkdocstrings shows what has a docstring, unless a filter hides it. What the two drivers' connections and servers show
is held by the tables of what is not the same on blocking sockets (test_examples.py).
"""

from __future__ import annotations

import inspect
import re

import pytest
from reference import REFERENCE, entries, names_of, object_at, shown

import zcws
from zcws import sync

#: Of the classes whose parts call each other by public names: what is for programs.
PUBLIC = {
    "zcws.aio.accepting.ServerHandshake": {
        *("get_extra_info", "local_address", "remote_address", "request", "respond", "response", "transport"),
    },
    "zcws.batch.Batch": {"messages", "payloads"},
    "zcws.buffer.PayloadBuffer": {"capacity", "release"},
    "zcws.deflate.Deflate": set(),  # its options are attributes
    "zcws.headers.Headers": {"clear", "combined", "copy", "get_all", "raw_items", "update"},
    "zcws.pool.Pool": set(),  # it is made, and handed over
}

#: The others of which something is hidden; see above.
ELSEWHERE = {"zcws.aio.server.Server", "zcws.aio.websocket.WebSocket"}


def test_the_page_has_every_name() -> None:
    for path in entries():
        assert object_at(path)
    named = {path.rpartition(".")[2] for path in entries()}
    assert {*zcws.__all__, *sync.__all__} <= named
    assert len(entries()) == len(re.findall("^:::", REFERENCE.read_text("utf-8"), re.MULTILINE))


def test_something_is_hidden_of_these() -> None:
    assert {path for path, filters in entries().items() if filters} == PUBLIC.keys() | ELSEWHERE


@pytest.mark.parametrize("path", sorted(PUBLIC.keys() | ELSEWHERE))
def test_what_is_hidden_of_a_class(path: str) -> None:
    if path not in ELSEWHERE:
        assert shown(path) == PUBLIC[path]
    # Each name in a filter hides something: what is gone has no line here.
    hidden = {name for found in entries()[path] for name in re.findall(r"\w{2,}", found)}
    assert hidden <= names_of(object_at(path))


@pytest.mark.parametrize("path", entries())
def test_what_is_shown_of_a_class_is_documented(path: str) -> None:
    """Or it would not be shown."""
    kind = object_at(path)
    functions = {
        name: thing
        for name in (shown(path) if inspect.isclass(kind) else ())
        if not isinstance(thing := inspect.getattr_static(kind, name), type)
        and (inspect.isroutine(thing) or isinstance(thing, (property, classmethod, staticmethod)))
    }
    assert [name for name, thing in functions.items() if not thing.__doc__] == []
