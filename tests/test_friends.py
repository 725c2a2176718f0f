"""The third law: a name with an underscore is kept to, but by friends, and here is who they are.

A name with an underscore is for the class that has it, for those that it is built of, and for its module. A public one
of a connection is for programs, and a method in between would be a call for each receiver of a broadcast; so some rooms
that are not part of a class use what it keeps to itself. Who wants to change such a name finds them here; who wants to
use one more asks first whether that is not for the class to do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_floors import PACKAGE, module_name

#: For each module the private names that it uses of others' objects, by whose they are.
FRIENDS: dict[str, dict[str, set[str]]] = {
    # A method for each receiver is what a broadcast has no time for.
    "aio.broadcast": {
        "aio.outlet": {"_drained", "_flush", "_message_done", "_own", "_transport", "_written"},
        "aio.stream": {"_held"},
    },
    "aio.late": {"aio.outlet": {"_options", "_until_sendable", "_written"}, "aio.stream": {"_held"}},
    # The halves are a connection's own parts.
    "aio.halves": {"aio.ending": {"_advance_closing"}, "aio.outlet": {"_until_drained", "_written"}},
    # So are the streams that `stream` and `send_stream` give.
    "aio.reading": {"aio.outlet": {"_reader"}},
    "alone": {"frame": {"_start", "_stop"}, "ring_frame": {"_lease", "_number"}},
    "aio.writing": {
        "aio.outlet": {"_until_sendable"},
        "frame": {"_keep", "_peek", "_start", "_stop"},
        "ring_frame": {"_framed"},
    },
    "aio.room": {"aio.outlet": {"_transport"}, "aio.stream": {"_held"}},
    "asgi.uvicorn": {"aio.outlet": {"_obstacle"}, "aio.stream": {"_wakeup"}},
    # A frame that is written or joined is looked at where it lies, without a view that a program might keep.
    "connection": {"frame": {"_peek"}},
    "controls": {"frame": {"_stop"}},
    # A frame that is over is told so by whoever made it; and one for each message is filled in without `__init__`.
    "pieces": {"frame": {"_source"}},
    "reader": {
        "frame": {"_peek", "_source", "_start", "_stop"},
        "inlet": {"_fail"},
        "ring_frame": {"_lease", "_number"},
    },
    "ring_frame": {"frame": {"_start", "_stop"}},
    "sync.writing": {"frame": {"_keep"}},
    "writer": {"frame": {"_peek"}},
    # The server ends its connections, and the bridge tells the one that it is for.
    "sync.server": {"sync.writing": {"_try_close"}},
    "sync.stream": {"sync.answering": {"_on_put"}, "sync.turns": {"_on_pong"}},
}

#: And of what Python and h2 have; `_replace` is a public name.
PYTHONS = {
    "aio.http2_frames": {"_initialize_content_length"},
    # Who waits for a future, and who is called in the next turn: to be resumed without the loop, or though there is no
    # memory.
    "aio.tasks": {"_args", "_callback", "_callbacks"},
    "aio.wake": {"_asyncio_future_blocking", "_callbacks"},
    "cli.connecting": {"_exit"},
    "connector": {"_replace"},
    "sync.halves": {"_getframe"},
    "sync.stream": {"_is_owned"},  # whether this thread has a lock
    "uri": {"_replace"},
}


def names_made_by(source: str) -> set[str]:
    """What a module defines, in whatever class: functions, attributes of `self`, slots, and its own names."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
            names.add(node.attr)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            names.update(ast.literal_eval(node.value))
    return names


def is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def names_of_others(source: str) -> Iterator[str]:
    """The private names that a module uses of something that is not `self`, and does not make itself."""
    own = names_made_by(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if not is_own(node.value) and node.attr not in own:
                yield node.attr


def source_of(module: str) -> str:
    return (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_private_names_are_used_by_friends_only(path: Path) -> None:
    module = module_name(path)
    known = set().union(*FRIENDS.get(module, {}).values(), PYTHONS.get(module, set()))
    assert set(names_of_others(path.read_text(encoding="utf-8"))) == known


@pytest.mark.parametrize("module", FRIENDS)
def test_whose_they_are(module: str) -> None:
    for owner, names in FRIENDS[module].items():
        assert names <= names_made_by(source_of(owner)), owner


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("ws._flush()", {"_flush"}),
        ("self._ws._flush()", {"_flush"}),
        ("ws._held = held", {"_held"}),
        ("class A:\n __slots__ = ('_a',)\na = A()\na._a = 1", set()),
        ("self._flush(), cls._made, ws.__class__, ws.flush()", set()),
        ("def _flush(self): ...\nother._flush()", set()),
    ],
)
def test_what_is_another_s(source: str, names: set[str]) -> None:
    assert set(names_of_others(source)) == names
