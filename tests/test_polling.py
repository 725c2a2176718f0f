"""The switch. What it turns off: aio/test_engine.py, sync/test_plain.py."""

from __future__ import annotations

import pytest

from zcws.polling import may_poll


@pytest.mark.parametrize(("value", "may"), [(None, True), ("", True), ("1", True), ("0", False)])
def test_the_environment_decides(value: str | None, may: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZCWS_POLL", raising=False)
    if value is not None:
        monkeypatch.setenv("ZCWS_POLL", value)
    assert may_poll() is may
