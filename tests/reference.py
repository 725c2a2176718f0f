"""What docs/reference.md shows of a class: its public names, as far as the filters there let them through."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parent.parent / "docs" / "reference.md"

#: An object of the page, and the filters below it.
_ENTRY = re.compile(
    r"^::: (zcws[\w.]*\.\w+)$(?:\n    options:\n      filters:\s+(\[[^]]*\])$)?", re.MULTILINE
)


def entries() -> dict[str, list[str]]:
    """Each object of the page, and its filters: none where those of mkdocs.yml are enough."""
    return {
        path: json.loads(filters or "[]") for path, filters in _ENTRY.findall(REFERENCE.read_text("utf-8"))
    }


def object_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def shown(path: str) -> set[str]:
    """The names of a class that the page has."""
    hidden = [re.compile(found.removeprefix("!")) for found in ["!^_", *entries()[path]]]
    return {name for name in names_of(object_at(path)) if not any(regex.search(name) for regex in hidden)}


def names_of(kind: Any) -> set[str]:
    """What is ours of it: neither Python's nor an abstract class's."""
    return {
        name for home in kind.__mro__ if home.__module__.partition(".")[0] == "zcws" for name in vars(home)
    }
