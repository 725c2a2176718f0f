"""The first law: imports point down. The floors are those of the table in docs/design.md.

A module imports only from floors below its own: not sideways, not up, not inside a function below the drivers, and
not for the type checker either. Below the drivers nobody knows sockets, clocks, threads or where randomness is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "zcws"

#: A row of the table in docs/design.md, which shows the house from roof to cellar; zcws/__init__.py is "zcws". A new
#: module gets its place there first: that is the design decision. A floor with a fraction is a mezzanine, for what its
#: whole floor builds on and what is not below it.
row = re.compile(r"^\| ([\d.]+) \| (`[^|]*) \|", re.MULTILINE)

PAGE = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8")

PLACES = [
    (name, float(floor)) for floor, names in row.findall(PAGE) for name in re.findall(r"`([\w.]+)`", names)
]

FLOORS = dict(PLACES)

DRIVERS = 7

#: What nobody below the drivers may import: I/O, time, threads, hidden randomness.
FORBIDDEN = {
    *("asyncio", "select", "selectors", "socket", "socketserver", "ssl", "signal", "subprocess"),
    *("_thread", "concurrent", "multiprocessing", "queue", "sched", "threading"),
    *("datetime", "time", "timeit"),
    *("random", "secrets", "tempfile", "uuid"),
    *("ctypes", "importlib"),  # ways around this test
}
FORBIDDEN_IN_OS = {"urandom", "getrandom"}


def complaints(module: str, source: str) -> Iterator[str]:
    """Everything in `source` that a module called `module` (without `zcws.`) may not do."""
    tree = ast.parse(source)
    below_drivers = FLOORS[module] < DRIVERS
    for name in imported(module, tree):
        top, _, rest = name.partition(".")
        if top == "zcws" and FLOORS[known(rest or top)] >= FLOORS[module]:
            yield f"imports {name}, which is not on a lower floor"
        if below_drivers and top in FORBIDDEN:
            yield f"imports {name}, which belongs to the drivers"
    if below_drivers:
        yield from nested_imports(tree)
        yield from entropy(tree)


def imported(module: str, tree: ast.AST) -> Iterator[str]:
    """The absolute names of all modules that are imported, wherever the statement stands."""
    path = ["zcws", *module.split(".")] if module != "zcws" else ["zcws"]
    is_package = module == "zcws" or any(name.startswith(f"{module}.") for name in FLOORS)
    package = path if is_package else path[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"  # of a package, a name may be a module of its own
                yield whole if whole.removeprefix("zcws.") in FLOORS else base


def known(name: str) -> str:
    assert name in FLOORS, f"zcws.{name} is on no floor: docs/design.md"
    return name


def nested_imports(tree: ast.AST) -> Iterator[str]:
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    yield f"imports inside {function.name}()"


def entropy(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names = {node.attr} if isinstance(node, ast.Attribute) else set()
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            names = {alias.name for alias in node.names}
        for name in names & FORBIDDEN_IN_OS:
            yield f"uses os.{name}: entropy is an argument"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "zcws"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_point_down(path: Path) -> None:
    module = known(module_name(path))
    assert list(complaints(module, path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reader", "from zcws.connection import Connection"),
        ("reader", "from zcws.writer import Writer"),
        ("reader", "from zcws import writer"),
        ("reader", "import zcws.writer"),
        ("reader", "from .writer import Writer"),
        ("reader", "from . import writer"),
        ("reader", "from zcws import __version__"),
        ("reader", "import zcws"),
        ("reader", "from zcws.reader import Reader"),
        ("reader", "if TYPE_CHECKING:\n    from zcws.writer import Writer"),
        ("reader", "def f():\n    from zcws.ring import Ring"),
        ("reader", "def f():\n    import json"),
        ("reader", "import time"),
        ("reader", "from asyncio import sleep"),
        ("reader", "import concurrent.futures"),
        ("writer", "import os\nkey = os.urandom(4)"),
        ("writer", "from os import urandom"),
        ("writer", "import secrets"),
        ("acceptor", "import ssl"),
        ("aio.stream", "from zcws.aio.client import connect"),
        ("aio.stream", "from ..sync.stream import Stream"),
        ("aio.stream", "from .client import connect"),
        ("aio.stream", "from zcws.aio import client"),
        ("aio.client", "async def f():\n    from zcws.cli import main"),
        ("codes", "from zcws.errors import ZcwsError"),
    ],
)
def test_a_step_up_is_seen(module: str, source: str) -> None:
    assert list(complaints(module, source)) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("reader", "from zcws._kernel import ffi, lib"),
        ("reader", "from zcws import ring"),
        ("reader", "from .ring import Ring\nimport os, weakref"),
        ("errors", "from zcws.codes import CloseCode"),
        ("aio.stream", "import asyncio, os\nfrom zcws.acceptor import WebSocketAcceptor\nos.urandom(4)"),
        ("aio.client", "from .stream import Stream\nfrom ..connector import WebSocketConnector"),
        ("aio.client", "def f():\n    import ssl"),
        ("zcws", "def __getattr__(name):\n    from .aio.client import connect"),
        ("cli", "from zcws.aio import client"),
    ],
)
def test_a_step_down_is_allowed(module: str, source: str) -> None:
    assert list(complaints(module, source)) == []


def test_a_module_without_a_floor_is_an_error() -> None:
    with pytest.raises(AssertionError, match="on no floor"):
        list(complaints("reader", "from zcws.basement import boxes"))


def test_the_page_has_every_module_once() -> None:
    modules = [*map(module_name, PACKAGE.rglob("*.py")), "_kernel"]
    assert sorted(name for name, _ in PLACES) == sorted(modules)
