"""Tests for one Python only, each with its reason."""

from __future__ import annotations

import sys

import pytest


def needs_cpython(reason: str) -> pytest.MarkDecorator:
    """A mark for a test of what other Pythons do not promise."""
    return pytest.mark.skipif(sys.implementation.name != "cpython", reason=reason)
