from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from zcws import zlib

TESTS = Path(__file__).parent

#: What makes another Python one without the package.
WITHOUT = "import sys; sys.modules['zlib_ng'] = None; "


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, capture_output=True, text=True)


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="there are no wheels")
def test_the_quicker_one_is_taken() -> None:
    assert zlib.VERSION.startswith("zlib-ng 2.")


def test_pypys_collector_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (zlib.tell is not None) == (sys.implementation.name == "pypy")
    told: list[int] = []
    monkeypatch.setitem(sys.modules, "__pypy__", SimpleNamespace(add_memory_pressure=told.append))
    runpy.run_path(zlib.__file__)["tell"](100)
    assert told == [100]


def test_without_it_pythons_own_is_taken() -> None:
    code = "from zcws.zlib import VERSION, zlib; print(VERSION); print(zlib.__name__)"
    version, name = python(WITHOUT + code).stdout.splitlines()
    assert version.startswith("Python's own zlib ") and name == "zlib"


def test_which_does_the_same() -> None:
    """All that tests/test_codec.py asks of the other."""
    done = python(
        WITHOUT
        + f"import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(TESTS / 'test_codec.py')!r}]))"
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="there are no wheels")
@pytest.mark.parametrize(("present", "name"), [(True, "zlib_ng"), (False, "zlib")])
def test_which_of_the_two(monkeypatch: pytest.MonkeyPatch, present: bool, name: str) -> None:
    if not present:
        monkeypatch.setitem(sys.modules, "zlib_ng", None)
    names = runpy.run_path(zlib.__file__)
    assert names["zlib"].__name__.endswith(name)
