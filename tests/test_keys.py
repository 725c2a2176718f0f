"""Masking keys: from the source, a block at a time. That each frame gets its own: test_writer.py."""

from __future__ import annotations

import os

from zcws.keys import MaskingKeys


def test_the_source_is_asked_for_a_block_at_a_time() -> None:
    asked: list[int] = []

    def source(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    keys = MaskingKeys(source)
    drawn = {keys.next() for _ in range(MaskingKeys.BLOCK + 1)}
    assert asked == [4 * MaskingKeys.BLOCK] * 2
    assert len(drawn) > MaskingKeys.BLOCK - 2  # of 2^32: two the same are all but impossible, three are


def test_forget_drops_the_block() -> None:
    blocks = [bytes(range(256)) * 4, bytes(1024)]
    keys = MaskingKeys(lambda size: blocks.pop(0))
    keys.next()
    keys.forget()
    assert keys.next() == 0
