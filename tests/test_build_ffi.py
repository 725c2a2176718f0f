"""What build_ffi.py asks of a compiler, and what it says where there is none. (.ci/wheel.sh builds for good.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytest.importorskip("setuptools", minversion="77", reason="build_ffi.py needs what pip brings for a build")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="CC and CFLAGS are for Unix")


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    for name in ("csrc", "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).symlink_to(ROOT / name)
    # Not a link: it goes to the folder that it is in, and builds there.
    (folder / "build_ffi.py").write_bytes((ROOT / "build_ffi.py").read_bytes())
    command = [sys.executable, "build_ffi.py"]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_without_a_compiler_it_says_what_is_missing(tmp_path: Path) -> None:
    done = build(tmp_path, CC="/nonexistent/compiler")
    assert done.returncode != 0
    assert "'/nonexistent/compiler'" in done.stderr
    assert "takes a C compiler and Python's headers" in done.stderr


def test_flags_of_the_packager_have_the_last_word(tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\necho "$@" >&2\nexit 1\n')
    compiler.chmod(0o755)
    done = build(tmp_path, CC=str(compiler), CFLAGS="-O1 -DNAME='a b'")
    (line,) = (line for line in done.stderr.splitlines() if line.endswith("-DNAME=a b"))
    flags = line.split(" ")
    assert [flag for flag in flags if flag.startswith("-O")][-1] == "-O1"
    # Two builds are the same bytes: the name of the folder is not in them.
    assert f"-fdebug-prefix-map={tmp_path}=." in flags


def test_what_is_built_is_found_by_every_version_that_a_wheel_is_for() -> None:
    """A wheel that CPython 3.15 had built said cp310, and 3.13 did not find the core in it."""
    program = """
import sysconfig
sysconfig.get_config_vars()["SOABI_PLATFORM"] = "x86_64-linux-gnu"
import build_ffi, setuptools
command = build_ffi.BuildExt(setuptools.Distribution())
command.ensure_finalized()
print(build_ffi.ABI3 and command.get_ext_filename("zcws._kernel"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    name = done.stdout.strip()
    if name == "False":
        pytest.skip("this interpreter has no stable ABI")
    assert Path(name) == Path("zcws", "_kernel.abi3.so")


def test_every_free_threaded_version_has_a_wheel() -> None:
    """3.15t had none: whoever installed zcws there needed a compiler."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    minors = {int(minor) for minor in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', settings)}
    built = {int(minor) for minor in re.findall(r'"cp3(\d+)t-\*"', settings)}
    # cffi does not support 3.13t, and before 3.13 there are no such versions.
    assert built == {minor for minor in minors if minor >= 14}
