"""What `python -m zcws info` says: all that a bug report, or a report of a measurement, has to mention."""

from __future__ import annotations

import os
import platform
import ssl
import sys
from collections.abc import Iterator
from importlib import metadata

from zcws import __version__, kernel
from zcws.ring import Ring
from zcws.zlib import VERSION

__all__ = ["facts", "report"]


def facts() -> Iterator[tuple[str, str]]:
    """Each fact with its name, in the order that they are shown in."""
    yield "zcws", __version__
    yield "python", f"{platform.python_implementation()} {platform.python_version()}, {_gil()}"
    yield "system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    yield "kernel", f"{kernel.in_use()} (of {', '.join(kernel.available())}; ZCWS_KERNEL=name forces one)"
    yield "build", kernel.build_info()
    yield "ring", _ring()
    yield "zlib", VERSION
    yield "tls", ssl.OPENSSL_VERSION
    for accelerator in ("uvloop", "aiofastnet"):
        yield accelerator, _version_of(accelerator)


def report() -> str:
    """The facts, a line each."""
    found = list(facts())
    width = max(len(name) for name, _ in found)
    return "\n".join(f"{name:{width}}  {fact}" for name, fact in found)


def _gil() -> str:
    # Free-threaded builds turn the GIL back on when a module that needs it is imported.
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    return "with a GIL" if enabled else "free-threaded"


def _ring() -> str:
    ring = Ring()
    how = "mirrored" if ring.mirrored else "not mirrored here: unread bytes are moved to the front"
    return f"{ring.capacity // 1024} KiB, {how}"


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
