"""Heads of unmasked frames."""

from __future__ import annotations

import wire

from zcws.heads import Heads


def test_heads_that_are_kept_are_bounded_and_all_are_right() -> None:
    heads = Heads(0x82)
    for size in (*range(heads.MOST + 2), 0, 70_000):
        assert heads[size] == wire.head(wire.BINARY, size)
    assert len(heads) == heads.MOST
