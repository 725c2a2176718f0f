"""The second law: tests mirror modules. zcws/x.py has tests/test_x.py; every exception says why."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent

#: Modules whose tests have another name, and whose reason is beside them.
ELSEWHERE = {
    "__init__": "test_exports.py",  # it only names things
    "__main__": "test_cli.py",  # one line: it calls cli.main
    "aio/__init__": "test_exports.py",
    "cli/__init__": "test_cli.py",
    "sync/__init__": "test_exports.py",
    "asgi/__init__": "test_exports.py",
}


def mirror_of(module: Path) -> Path:
    name = ELSEWHERE.get(module.as_posix(), f"{module.parent / 'test_'}{module.name}.py")
    return ROOT / "tests" / name


def test_every_module_has_its_tests() -> None:
    files = sorted((ROOT / "zcws").rglob("*.py"))
    modules = [path.relative_to(ROOT / "zcws").with_suffix("") for path in files]
    assert modules
    assert [str(module) for module in modules if not mirror_of(module).exists()] == []


def test_the_stub_names_what_the_kernel_has() -> None:
    from zcws import _kernel

    stub = ast.parse((ROOT / "zcws" / "_kernel.pyi").read_text(encoding="utf-8"))
    (described,) = (node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == "Lib")
    functions = {node.name for node in described.body if isinstance(node, ast.FunctionDef)}
    constants = {ast.unparse(node.target) for node in described.body if isinstance(node, ast.AnnAssign)}
    assert functions | constants == set(dir(_kernel.lib))
