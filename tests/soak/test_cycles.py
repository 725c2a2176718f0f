"""The leak run, a few hundred cycles of it, and that it would find a leak."""

from __future__ import annotations

import os

import pytest

from .cycles import DRIVERS, Limits, Run, Series, measure
from .gauge import HAS_PROC, Gauge

#: Cycles of each driver. The long run has a million: `python -m tests.soak.cycles`.
CYCLES = int(os.environ.get("ZCWS_CYCLES", "600"))


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PROC, reason="needs /proc, for memory and descriptors")
@pytest.mark.timeout(60 + CYCLES)
@pytest.mark.parametrize("driver", DRIVERS)
def test_nothing_grows(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZCWS_ENGINE", "0" if driver == "transport" else "1")
    run = measure(driver, Limits(CYCLES))
    print(*run.rows(), sep="\n")
    assert run.complaints() == []


@pytest.mark.parametrize("leak", [Gauge(200, 0), Gauge(0, 1), Gauge(0, 0, 100)])
def test_a_leak_is_found(leak: Gauge) -> None:
    """200 KiB, a descriptor, or an object a cycle, in 20 rounds of 100."""
    gauges = [Gauge(leak.rss * i, leak.fds * i, leak.blocks * i) for i in range(20)]
    flat = Series("client", [Gauge(1, 1, 1)] * 20)
    run = Run("engine", 2000, 1.0, flat, Series("server", gauges))
    assert len(run.complaints()) == 1
