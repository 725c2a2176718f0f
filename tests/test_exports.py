"""The third law: what is public is named in one place, exists, is documented, and costs nothing until it is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import typing
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
from reference import entries, object_at, shown

import zcws
import zcws.sync

PACKAGE = Path(zcws.__file__).parent
MODULES = sorted(
    "zcws." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)

#: What methods return and nobody keeps: for a `with`; to be fed; what frames are checked by.
USED_AT_ONCE = {"Membership", "BodyReader", "_Text"}


@pytest.mark.parametrize("name", zcws.__all__)
def test_a_public_name_is_what_its_home_has(name: str) -> None:
    home = next(module for module, names in zcws._HOMES.items() if name in names)
    value = getattr(zcws, name)
    assert value is getattr(import_module(home), name)
    assert name in import_module(home).__all__


@pytest.mark.parametrize("name", zcws.__all__)
def test_a_public_name_is_documented(name: str) -> None:
    value = getattr(zcws, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__
        members = vars(value) if inspect.isclass(value) else {}
        undocumented = [
            member
            for member, thing in members.items()
            if not member.startswith("_")
            and (inspect.isfunction(thing) or isinstance(thing, (property, classmethod, staticmethod)))
            and not inspect.getdoc(getattr(value, member) if not isinstance(thing, property) else thing)
        ]
        assert undocumented == []


@pytest.mark.parametrize("path", entries())
def test_annotations_can_be_looked_up(path: str) -> None:
    """Dependency injection, documentation and validation call get_type_hints, which needs each name at run time."""
    value = object_at(path)
    functions = [value] if inspect.isfunction(value) else []
    if inspect.isclass(value):
        typing.get_type_hints(value)
        members = [value.__init__, *(inspect.getattr_static(value, name) for name in shown(path))]
        found = [getattr(member, "fget", None) or getattr(member, "__func__", member) for member in members]
        functions = [member for member in found if inspect.isfunction(member)]
    for function in functions:
        typing.get_type_hints(function)


def classes_in(hint: Any) -> set[type]:
    """Those of ours that an annotation names."""
    inside = hint if isinstance(hint, (list, tuple)) else typing.get_args(hint)
    ours = {hint} if inspect.isclass(hint) and hint.__module__.startswith("zcws.") else set()
    return ours.union(*map(classes_in, inside))


@pytest.mark.parametrize("path", entries())
def test_what_a_typed_program_has_to_name_it_can_import(path: str) -> None:
    """What its functions are given by us, or take from our methods."""
    value, found = object_at(path), set[type]()
    functions = [value]
    if inspect.isclass(value):
        # What calls functions of the program is made by it; the others we make ourselves.
        made = ["__init__"] if path.rpartition(".")[2].islower() else []
        functions = [inspect.getattr_static(value, name) for name in (*made, *shown(path))]
    for function in functions:
        function = getattr(function, "fget", None) or getattr(function, "__func__", function)
        if inspect.isfunction(function):
            various = [
                parameter.name
                for parameter in inspect.signature(function).parameters.values()
                if parameter.kind is parameter.VAR_KEYWORD
            ]
            hints = typing.get_type_hints(function)
            found.update(*(classes_in(hint) for name, hint in hints.items() if name not in various))
    public = {getattr(home, name) for home in (zcws, zcws.sync) for name in home.__all__}
    assert {kind.__name__ for kind in found - public} <= USED_AT_ONCE


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        (node.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # what makes it an export for them
    }
    assert seen == {(module, name) for module, names in zcws._HOMES.items() for name in names}
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] == ["__dir__"]


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_promises_it_has(module: str) -> None:
    loaded = import_module(module)
    assert [name for name in getattr(loaded, "__all__", ()) if not hasattr(loaded, name)] == []
    assert loaded.__doc__


def test_dir_and_unknown_names() -> None:
    assert {*zcws.__all__, "__version__"} <= {*dir(zcws)}
    with pytest.raises(AttributeError, match="module 'zcws' has no attribute 'serv'"):
        getattr(zcws, "serv")  # noqa: B009 - mypy knows that it is not there


def test_one_version() -> None:
    assert zcws.__version__ == metadata.version("zcws")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return {*done.stdout.split()}


def test_names_are_loaded_when_they_are_used() -> None:
    assert not {"asyncio", "ssl", "zcws._kernel", "zcws.aio"} & modules_after("import zcws")
    # The core without I/O is usable without a driver. (PyPy's hashlib loads its socket.)
    core = modules_after("import zcws; zcws.Connection, zcws.WebSocketAcceptor")
    assert not {"asyncio", "ssl", "socket"} & (core - modules_after("import hashlib"))
    assert "zcws.aio.client" in modules_after("import zcws; zcws.connect")


def test_a_module_that_only_the_callers_numbers_need_is_not_loaded() -> None:
    assert "numbers" not in modules_after("import zcws, zcws.sync; zcws.connect, zcws.serve, zcws.sync.serve")


def test_a_star_brings_everything() -> None:
    namespace: dict[str, object] = {}
    exec("from zcws import *", namespace)
    assert {*zcws.__all__} <= {*namespace}


def test_no_two_classes_of_one_object_use_a_slot_for_two_things() -> None:
    """The one that comes later hides the other, and each writes over what the other has there."""
    for module in MODULES:
        for _, each in inspect.getmembers(import_module(module), inspect.isclass):
            slots = [slot for base in each.__mro__ for slot in base.__dict__.get("__slots__", ())]
            twice = {slot for slot in slots if slots.count(slot) > 1}
            assert not twice or not each.__module__.startswith("zcws"), (each, twice)
