"""The corpora of the Python fuzz targets, on every Python: what coverage-guided fuzzing (.ci/fuzz.sh) has collected."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"
TARGETS = ("accept", "connect", "head", "http2", "inflate", "read")


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_keeps_the_invariant(target: str) -> None:
    check = importlib.import_module(f"fuzz.{target}").check
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs
    for path in inputs:
        try:
            check(path.read_bytes())
        except BaseException:
            print(f"the input is {path}")
            raise


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_at_all_is_one_too(target: str) -> None:
    importlib.import_module(f"fuzz.{target}").check(b"")
