"""Tests for one Python only, each with its reason."""

from __future__ import annotations

import sys
import sysconfig

import pytest


def needs_cpython(reason: str) -> pytest.MarkDecorator:
    """A mark for a test of what other Pythons do not promise."""
    return pytest.mark.skipif(sys.implementation.name != "cpython", reason=reason)


#: A mark for a test of an object whose finalizer comes behind that of another one in the same cycle. Without a GIL the
#: collector takes objects as they lie in memory, and PyPy's takes last the one that the others need.
needs_finalizers_in_order = pytest.mark.skipif(
    sys.implementation.name != "cpython" or bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="elsewhere finalizers are not called in the order in which their objects were made",
)
