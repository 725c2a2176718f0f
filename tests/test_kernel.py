"""Choosing a kernel by name. What the kernels compute is in test_kernels.py and tests/c."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zcws import kernel


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = kernel.in_use()
    yield
    kernel.use(before)


def test_the_scalar_kernel_is_always_the_last_resort() -> None:
    assert kernel.available()[-1] == "scalar"
    assert kernel.in_use() in kernel.available()


@pytest.mark.parametrize("name", kernel.available())
def test_use(name: str) -> None:
    kernel.use(name)
    assert kernel.in_use() == name


@pytest.mark.parametrize("name", ["turbo", "", "AVX2", "scalar ", "scalar\0"])
def test_a_name_that_cannot_be_had_changes_nothing(name: str) -> None:
    kernel.use("scalar")
    with pytest.raises(ValueError, match=r"there is no kernel .* on this machine: it has "):
        kernel.use(name)
    assert kernel.in_use() == "scalar"


def test_the_build_is_one_line() -> None:
    assert kernel.build_info() and "\n" not in kernel.build_info()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="tracemalloc is CPython's")
def test_no_struct_is_completed_after_the_import() -> None:
    """Two threads that had cffi do that at once wrote over each other, without a GIL. It takes memory that stays."""
    code = """if True:
        import tracemalloc
        from zcws.kernel import ffi

        names = ffi.list_types()[1]
        for name in names:
            ffi.typeof(f"struct {name} *")
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for name in names:
            ffi.new(f"struct {name} *")
        assert names and tracemalloc.get_traced_memory()[0] - before < 500, tracemalloc.get_traced_memory()
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def started_with(wanted: str, module: str) -> subprocess.CompletedProcess[str]:
    """A Python that has ZCWS_KERNEL, imports one module, and prints the kernel in use."""
    code = f"import {module}; from zcws._kernel import ffi, lib; print(ffi.string(lib.zcws_kernel_in_use()).decode())"
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "ZCWS_KERNEL": wanted},
        check=False,
        timeout=60,
    )


PACKAGE = Path(kernel.__file__).parent


def mention(words: str) -> list[str]:
    """The modules that say `words`."""
    found = (path for path in PACKAGE.rglob("*.py") if words in path.read_text(encoding="utf-8"))
    return sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in found)


@pytest.mark.parametrize("module", mention("from zcws.kernel import"))
def test_whoever_uses_the_core_uses_the_kernel_that_was_asked_for(module: str) -> None:
    assert started_with("scalar", f"zcws.{module}").stdout == "scalar\n"


def test_nobody_goes_around_the_choice() -> None:
    assert mention("zcws._kernel import") == ["kernel"]
    assert "inlet" in mention("from zcws.kernel import")


def test_the_best_without_a_wish() -> None:
    assert started_with("", "zcws.kernel").stdout.strip() == kernel.available()[0]


def test_a_wish_that_cannot_be_met_is_an_import_error() -> None:
    done = started_with("turbo", "zcws.reader")
    assert done.returncode == 1
    assert "ImportError: ZCWS_KERNEL: there is no kernel 'turbo' on this machine" in done.stderr


@pytest.mark.parametrize("name", ["scalar", kernel.available()[0]])
def test_a_wish_is_read_when_the_module_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process: the module's code once more, in a namespace of its own."""
    monkeypatch.setenv("ZCWS_KERNEL", name)
    runpy.run_path(kernel.__file__)
    assert kernel.in_use() == name
    monkeypatch.setenv("ZCWS_KERNEL", "turbo")
    with pytest.raises(ImportError, match="ZCWS_KERNEL: there is no kernel 'turbo'"):
        runpy.run_path(kernel.__file__)
    assert kernel.in_use() == name


def test_a_source_tree_without_the_core_says_what_to_do(tmp_path: Path) -> None:
    """As in a clone after `pip install .`: Python prefers the directory that it is started in."""
    source = Path(kernel.__file__).parent
    shutil.copytree(source, tmp_path / "zcws", ignore=shutil.ignore_patterns("_kernel*", "__pycache__"))
    # -S: nor has an installed zcws a say, which may be an editable one.
    command = [sys.executable, "-S", "-c", "import zcws.kernel"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        "ImportError" in done.stderr
        and "not compiled" in done.stderr
        and str(tmp_path) in done.stderr
        and "build_ffi.py" in done.stderr
    )


def test_what_freezes_a_program_sees_all_that_is_needed(tmp_path: Path) -> None:
    """PyInstaller and its like look at the imports, and at none that are made by name."""
    import modulefinder

    program = tmp_path / "program.py"
    program.write_text("import zcws")
    finder = modulefinder.ModuleFinder(path=[str(Path(kernel.__file__).parent.parent)])
    finder.run_script(str(program))
    # Asked for, whether it is beside us or not.
    assert "_cffi_backend" in {*finder.badmodules, *finder.modules}
    assert {"zcws._kernel", "zcws.aio.client", "zcws.aio.server"} <= set(finder.modules)
