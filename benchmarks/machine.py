"""What one has to know to read a number: the machine, the interpreter, and the version of everything."""

from __future__ import annotations

import os
import platform
import re
import shutil
import ssl
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["MISSING", "advice", "facts", "slug"]

#: Distributions whose versions matter.
PACKAGES = [
    *("zcws", "picows", "websockets", "aiohttp", "websocket-client", "wsaccel", "uvloop", "aiofastnet"),
    *("zlib-ng", "cffi", "numpy"),
]


def version_of(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


#: What the extra `bench` installs, and is not here.
MISSING = [package for package in PACKAGES if version_of(package) is None]


def advice() -> str:
    """A sentence about what is missing; empty when nothing is."""
    if not MISSING:
        return ""
    return f"Not installed, not measured: {', '.join(MISSING)}. For all of them: pip install '.[bench]'"


def facts() -> dict[str, Any]:
    """All of it, as it is written into the results."""
    from zcws import kernel

    return {
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": os.getloadavg(),
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "python_build": python_build(),
        "openssl": ssl.OPENSSL_VERSION,
        "kernel": kernel.in_use(),
        "kernel_build": kernel.build_info(),
        "compiler": _first_line(["cc", "--version"]),
        "node": _first_line(["node", "--version"]),
        "packages": {package: version_of(package) for package in PACKAGES},
    }


def cpu_model() -> str:
    """The name that the CPU reports."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def slug() -> str:
    """The CPU's model as part of a file's name: neither a host's name nor a path."""
    name = re.sub(r"\((R|TM)\)|CPU|Processor|@.*", "", cpu_model(), flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def python_build() -> dict[str, bool | None]:
    """How the interpreter was compiled: without PGO and LTO the same code needs up to twice the time.

    None means that sysconfig does not say: Debian's has both, and does not tell it.
    """
    flags = f"{sysconfig.get_config_var('CONFIG_ARGS')} {sysconfig.get_config_var('PY_CFLAGS')}"
    return {
        "pgo": "--enable-optimizations" in flags or "-fprofile-use" in flags or None,
        "lto": "--with-lto" in flags or "-flto" in flags or None,
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "debug": bool(sysconfig.get_config_var("Py_DEBUG")),
    }


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _first_line(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0] if said else None
