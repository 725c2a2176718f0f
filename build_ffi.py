"""Compiles csrc/ into `zcws._kernel`, the one extension module.

Setuptools enters here from pyproject.toml, through the three commands below; `python build_ffi.py` builds in
place. The declarations are cut out of csrc/zcws.h, between its two marker comments: no second copy can drift.

On ordinary CPython the module uses the stable ABI only, so one wheel serves 3.10 and every later version.
Free-threaded, debug and PyPy builds cannot load such a module: there the wheel is for one version.

`ZCWS_NATIVE=1` compiles for the CPU at hand. Such a wheel keeps its portable name but is not portable.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import sysconfig
from pathlib import Path

from cffi import FFI
from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = os.environ.get("ZCWS_NATIVE", "") not in ("", "0")
ABI3 = (
    sys.implementation.name == "cpython"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
    and not sysconfig.get_config_var("Py_DEBUG")
)


def add_module(distribution: Distribution) -> None:
    """For each command that asks whether there is anything to compile."""
    sources = sorted(str(path) for folder in ("csrc", "csrc/arch") for path in Path(folder).glob("*.c"))
    module = Extension("zcws._kernel", sources, include_dirs=["csrc"], py_limited_api=ABI3)
    distribution.ext_modules = [module]


class Build(build):
    def finalize_options(self) -> None:
        add_module(self.distribution)
        super().finalize_options()


class BdistWheel(bdist_wheel):
    def finalize_options(self) -> None:
        add_module(self.distribution)
        self.py_limited_api = "cp310" if ABI3 else False
        super().finalize_options()


class BuildExt(build_ext):
    def finalize_options(self) -> None:
        add_module(self.distribution)
        super().finalize_options()
        self.force = True  # distutils compares dates, not flags: ZCWS_NATIVE would go unseen

    def get_ext_filename(self, fullname: str) -> str:
        # Setuptools adds the platform where CPython 3.15 names it, and those before 3.14 do not look for such files.
        return re.sub(r"\.abi3-[^.]*\.so$", ".abi3.so", super().get_ext_filename(fullname))

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "msvc":  # it has no flag for "the CPU at hand"
            ext.extra_compile_args = ["/std:c11", "/O2"]
        else:
            native = ["-march=native", "-flto"] if NATIVE else []
            # pip builds in a new folder each time: without the map its name would be in the debug information.
            here = f"-fdebug-prefix-map={Path.cwd()}=."
            # CFLAGS stand before these on the command line; the last -O wins, and that is to be the packager's.
            theirs = shlex.split(os.environ.get("CFLAGS", ""))
            ext.extra_compile_args = ["-std=c11", "-O3", "-fvisibility=hidden", here, *native, *theirs]
            ext.extra_link_args = ["-O3", *native]
            ext.define_macros += [("ZCWS_NATIVE", "1")] if NATIVE else []
        ext.define_macros += [] if ABI3 else [("_CFFI_NO_LIMITED_API", None)]
        header = Path("csrc/zcws.h").read_text(encoding="utf-8")
        ffi = FFI()
        ffi.cdef(header.split("/* zcws:cdef:begin */")[1].split("/* zcws:cdef:end */")[0])
        ffi.set_source("zcws._kernel", '#include "zcws.h"')
        generated = Path(self.build_temp, "_kernel.c")
        self.mkpath(str(generated.parent))
        ffi.emit_c_code(str(generated))
        ext.sources = [*ext.sources, str(generated)]
        try:
            super().build_extension(ext)
        except (CompileError, OSError) as error:
            needs = "the C core of zcws takes a C compiler and Python's headers (Debian: gcc and python3-dev)"
            raise CompileError(f"{error}\n{needs}") from error


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    setup(script_args=["build_ext", "--inplace"])
