"""One small change at a time to a module's source, as another code object or as another value of a constant.

A mutant is a place and what stands there instead. It is made by parsing the source afresh and changing the one node,
so that mutants never meet. Strings, docstrings, annotations and decorators are left alone: what an error says is held
by the tests that compare sentences, not by these. So are defaults of arguments: they are no part of a function's code.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What a comparison turns into: the neighbour at its boundary, or its opposite.
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}

Change = Callable[[Any], ast.AST]


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        function: the outermost function around it, as a path (`Reader.read_frame`); empty for the module itself.
        index, variant: which node of the tree, in the order of `ast.walk`, and which of its changes.
    """

    path: Path
    function: str
    line: int
    index: int
    variant: int
    what: str

    @property
    def name(self) -> str:
        """What it is, without its line, which moves."""
        folder = self.path.parent.name
        stem = self.path.stem if folder in ("zcws", "tests") else f"{folder}/{self.path.stem}"
        return f"{stem} {self.function or '(module)'}: {self.what}"

    def tree(self) -> ast.Module:
        """The whole module with this change in it."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        target = nodes[self.index]
        _, change = list(changes(target))[self.variant]
        fresh = change(target)
        for parent in nodes:
            for name, value in ast.iter_fields(parent):
                if value is target:
                    setattr(parent, name, fresh)
                elif isinstance(value, list) and target in value:
                    value[value.index(target)] = fresh
        return ast.fix_missing_locations(tree)


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    homes = dict(_homes(tree, "", False))
    for index, node in enumerate(ast.walk(tree)):
        home = homes.get(node)
        if home is not None:
            if not home and isinstance(node, ast.stmt):
                continue  # a module that lacks a name is found by the import of it
            for variant, (what, _) in enumerate(changes(node)):
                yield Mutant(path, home, getattr(node, "lineno", 0), index, variant, what)


def _homes(node: ast.AST, home: str, inside: bool) -> Iterator[tuple[ast.AST, str]]:
    """The nodes that may be changed, each with its outermost function."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        home = home if inside else f"{home}.{node.name}".lstrip(".")
        for child in node.body:
            yield from _homes(child, home, True)
        return
    if isinstance(node, ast.ClassDef):
        # Of a class only its methods: names of slots and members of an Enum are no decisions.
        for child in node.body:
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from _homes(child, f"{home}.{node.name}".lstrip("."), False)
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)) or _is_docstring(node):
        return
    yield node, home
    for name, value in ast.iter_fields(node):
        if name != "annotation":
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _homes(child, home, inside)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """What a node may turn into: in words, and what does it."""
    for kind in KINDS:
        yield from kind(node)


def _says(before: ast.AST, after: str) -> str:
    text = " ".join(ast.unparse(before).split())
    return f"`{text if len(text) < 70 else text[:67] + '...'}` -> {after}"


def _expressions(node: ast.AST) -> Iterator[tuple[str, Change]]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARISONS[type(node.ops[0])]:
            fresh = ast.Compare(node.left, [other()], node.comparators)
            yield _says(node, f"`{ast.unparse(fresh)}`"), lambda _, fresh=fresh: fresh
    elif isinstance(node, ast.BoolOp):
        op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield _says(node, type(op).__name__.lower()), lambda n: ast.BoolOp(op, n.values)
        for i in range(len(node.values)):
            yield (
                _says(node, f"without `{ast.unparse(node.values[i])}`"),
                lambda n, i=i: (
                    ast.BoolOp(n.op, n.values[:i] + n.values[i + 1 :])
                    if len(n.values) > 2
                    else n.values[1 - i]
                ),
            )
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield _says(node, "without not"), lambda n: n.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        fresh = ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
        yield _says(node, f"`{ast.unparse(fresh)}`"), lambda _: fresh
    elif isinstance(node, ast.IfExp):
        yield _says(node, "the other way round"), lambda n: ast.IfExp(n.test, n.orelse, n.body)


def _constants(node: ast.AST) -> Iterator[tuple[str, Change]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda n: ast.Constant(not n.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield f"{node.value} -> {node.value + 1}", lambda n: ast.Constant(n.value + 1)


def _statements(node: ast.AST) -> Iterator[tuple[str, Change]]:
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr, ast.Raise, ast.AnnAssign)) and not _is_bare(
        node
    ):
        yield _says(node, "nothing"), lambda _: ast.Pass()
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        op = OPERATORS[type(node.op)]()
        yield _says(node, type(op).__name__), lambda n: ast.AugAssign(n.target, op, n.value)
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield _says(node, "`return None`"), lambda _: ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Return):
        yield _says(node, "goes on"), lambda _: ast.Pass()
    elif isinstance(node, ast.Break):
        yield "`break` -> `continue`", lambda _: ast.Continue()
    elif isinstance(node, ast.Continue):
        yield "`continue` -> `break`", lambda _: ast.Break()


def _conditions(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """A condition that is no comparison of its own: never, and always."""
    if isinstance(node, (ast.If, ast.While)) and not isinstance(node.test, ast.Constant):
        for value in (True, False):
            yield (
                _says(node.test, f"always {value}"),
                lambda n, value=value: type(n)(ast.Constant(value), n.body, n.orelse),
            )


def _tables(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """An entry of a literal table is missing."""
    if isinstance(node, ast.Dict) and None not in node.keys:
        for i, key in enumerate(node.keys):
            assert key is not None
            yield (
                f"no entry `{ast.unparse(key)}`",
                lambda n, i=i: ast.Dict(n.keys[:i] + n.keys[i + 1 :], n.values[:i] + n.values[i + 1 :]),
            )
        for i, value in enumerate(node.values):
            others = [other for other in node.values if ast.dump(other) != ast.dump(value)]
            if others and isinstance(value, ast.Attribute):
                yield (
                    f"the entry `{ast.unparse(node.keys[i])}` is `{ast.unparse(others[0])}`",
                    lambda n, i=i, o=others[0]: ast.Dict(n.keys, [*n.values[:i], o, *n.values[i + 1 :]]),
                )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_bare(node: ast.AST) -> bool:
    """An annotation without a value, or a statement that is no call."""
    return (isinstance(node, ast.AnnAssign) and node.value is None) or _is_docstring(node)


KINDS = (_expressions, _constants, _statements, _conditions, _tables)
