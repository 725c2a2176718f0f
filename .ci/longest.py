"""Prints the ten longest functions of zcws/, and how long functions are. For a reviewer to judge: it never fails."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(function: ast.AST) -> int:
    """Lines that hold code: no blanks, no comments, no docstrings; the signature counts."""
    docstrings = {
        line
        for node in ast.walk(function)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = {node.lineno for node in ast.walk(function) if hasattr(node, "lineno")}
    return len(lines - docstrings)


def functions(root: Path) -> Iterator[tuple[int, str]]:
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, FUNCTIONS):
                yield code_lines(node), f"{path}:{node.lineno} {node.name}"


def main() -> None:
    lengths = sorted(functions(Path("zcws")), reverse=True)
    if len(lengths) < 2:
        return
    counts = [count for count, _ in lengths]
    nine_tenths = statistics.quantiles(counts, n=10)[-1]
    print(
        f"\n{len(counts)} functions: median {statistics.median(counts):.0f} lines, 90 % under {nine_tenths:.0f}"
    )
    print("the longest (lines of code, without comments and docstrings):")
    for count, name in lengths[:10]:
        print(f"  {count:4d}  {name}")
    long_files = {str(path): path.read_bytes().count(b"\n") for path in Path("zcws").rglob("*.py")}
    for name, count in sorted(long_files.items(), key=lambda item: -item[1]):
        if count > 300:
            print(f"  {count:4d}  {name} (the whole file)")


if __name__ == "__main__":
    main()
