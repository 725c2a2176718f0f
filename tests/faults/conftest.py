"""Fixtures of the faults: a server of each kind, and where the times until recovery are written down."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .process import KINDS, Served, server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """One for all tests of a module: what one of them leaves behind, the others see."""
    with server(str(request.param)) as served:
        yield served


@pytest.fixture
def record(
    request: pytest.FixtureRequest, record_property: Callable[[str, Any], None]
) -> Callable[..., None]:
    """`record(seconds=1.5)`: into the report, and a line of the file that ZCWS_FAULTS_RECORD names."""

    def record(**figures: Any) -> None:
        for name, figure in figures.items():
            record_property(name, figure)
        if path := os.environ.get("ZCWS_FAULTS_RECORD"):
            line = json.dumps({"test": request.node.name, **figures})
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    return record
