"""What `info` says is what is."""

from __future__ import annotations

import platform
import sys

import pytest

from zcws import __version__, kernel
from zcws.cli import info
from zcws.ring import Ring


def test_every_fact() -> None:
    facts = dict(info.facts())
    assert facts["zcws"] == __version__
    assert platform.python_version() in facts["python"]
    assert facts["kernel"].startswith(f"{kernel.in_use()} (of ")
    assert all(name in facts["kernel"] for name in kernel.available())
    assert facts["python"].endswith(
        "with a GIL" if getattr(sys, "_is_gil_enabled", lambda: True)() else "free-threaded"
    )
    assert facts["system"].startswith(f"{platform.system()} ")
    assert facts["build"] == kernel.build_info()
    assert ("not mirrored" in facts["ring"]) != Ring().mirrored
    assert facts["ring"].startswith("256 KiB, ")


def test_accelerators_are_looked_for() -> None:
    facts = dict(info.facts())
    for name in ("uvloop", "aiofastnet"):
        found = facts[name]
        assert found == "not installed" or found[0].isdigit()
    assert info._version_of("a-package-that-nobody-wrote") == "not installed"


def test_a_ring_that_is_not_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "Ring", lambda: Ring(mirrored=False))
    assert info._ring() == "256 KiB, not mirrored here: unread bytes are moved to the front"


def test_the_report_is_a_line_for_each() -> None:
    lines = info.report().split("\n")
    assert [line.split()[0] for line in lines] == [name for name, _ in info.facts()]
