"""The compiled core, with the kernel that the user asked for.

Everybody gets `ffi` and `lib` here, and only here, so that ZCWS_KERNEL has been read before the core is used for the
first time. It names one kernel (`python -m zcws info` lists them); without it the best that this CPU can run is used.
A name of no kernel that runs here is an error, not a reason for a slower one: whoever forces a kernel measures or tests
it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zcws._kernel import CBuffer as CBuffer
    from zcws._kernel import CData as CData

try:
    from zcws._kernel import ffi, lib
except ModuleNotFoundError as error:  # pragma: no cover - not where tests run; one runs a process without it
    if error.name != "zcws._kernel":
        raise
    raise ImportError(
        f"the C core of zcws is not compiled in {os.path.dirname(__file__)}. Where that is a clone whose zcws is "
        "installed elsewhere: start Python from another directory, or run `python build_ffi.py` in the clone"
    ) from None

# The core needs this module, but only C imports it: tools that follow imports to freeze a program would leave it out.
import _cffi_backend  # noqa: F401

# cffi completes a struct when it is first used. Without a GIL two threads that use it first at once may both begin, and
# one then writes into what the other uses already: so it is done here, by the one thread that imports this.
for _struct in ffi.list_types()[1]:
    ffi.typeof(f"struct {_struct}").fields  # noqa: B018

#: Whether the threads of this interpreter take turns. Where they do not, CPython still counts the slices of a
#: memoryview without a lock: when threads take or drop slices of one view at once, its memory is released while slices
#: are held, or never. So an object that several threads may use has no view that is sliced again and again: each slice
#: is of a view of its own.
HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()

#: Whether what is sliced from a view that was cast, or made read-only, is still a view for C. PyPy gives C a copy of
#: it: what is received there is lost, and each byte of it costs 0.1 µs, whatever becomes of it. So there a view is
#: sliced before it is made read-only, nothing is cast without need, and memory is addressed where that has to be.
SLICES_HAVE_ADDRESSES: bool = sys.implementation.name != "pypy"

#: `ffi.new` for memory that is not zeroed first: nobody sees a byte of it that was not written.
new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)

__all__ = [
    "HAS_GIL",
    "SLICES_HAVE_ADDRESSES",
    "available",
    "build_info",
    "ffi",
    "in_use",
    "lib",
    "new_uncleared",
    "use",
]


def available() -> list[str]:
    """The kernels that this CPU can run, best first."""
    names: list[str] = []
    while (name := lib.zcws_kernel_name(len(names))) != ffi.NULL:
        names.append(_text(name))
    return names


def in_use() -> str:
    """The kernel that runs now."""
    return _text(lib.zcws_kernel_in_use())


def build_info() -> str:
    """How the core was compiled, in one line."""
    return _text(lib.zcws_build_info())


def use(name: str) -> None:
    """Switches to the kernel called `name`. Not while another thread is inside the core.

    Raises:
        ValueError: there is no such kernel, or this CPU cannot run it.
    """
    if name not in available() or not lib.zcws_kernel_use(name.encode()):
        raise ValueError(f"there is no kernel {name!r} on this machine: it has {', '.join(available())}")


def _text(pointer: CData) -> str:
    return str(ffi.string(pointer), "utf-8")


def _use_wanted(name: str) -> None:
    try:
        use(name)
    except ValueError as error:
        # An import fails with ImportError: programs that can do without zcws expect that.
        raise ImportError(f"ZCWS_KERNEL: {error}") from None


if _wanted := os.environ.get("ZCWS_KERNEL"):
    _use_wanted(_wanted)
