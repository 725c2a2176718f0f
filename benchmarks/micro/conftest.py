"""`pytest benchmarks/micro`: pytest-benchmark, which the tests' own options turn off, is on here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zcws import kernel


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_disable = False
    # Many short ones: a tenth of a second each is enough, and the collector stays out of it.
    config.option.benchmark_max_time = "0.1"
    config.option.benchmark_min_rounds = 5
    config.option.benchmark_disable_gc = True
    config.option.benchmark_columns = ["min", "median", "iqr", "rounds", "iterations"]
    config.option.benchmark_group_by = "group"


@pytest.fixture(params=kernel.available())
def each_kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kernel that this CPU has, in use."""
    before = kernel.in_use()
    kernel.use(request.param)
    yield request.param
    kernel.use(before)
