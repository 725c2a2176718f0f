from __future__ import annotations

import asyncio
import gc
import warnings

import pytest
from net import echo

import zcws


@pytest.mark.parametrize("which", ["connect", "connect, a loop", "serve"])
def test_where_no_event_loop_of_asyncio_runs(which: str) -> None:
    """As under trio, which steps a coroutine like this. It made a loop, and a task there that nobody ever awaited."""

    async def main() -> None:
        if which == "serve":
            await zcws.serve(echo, "127.0.0.1", 0)
        elif which == "connect":
            await zcws.connect("ws://127.0.0.1:1/", proxy=None)
        async for _ in zcws.connect("ws://127.0.0.1:1/", proxy=None):
            raise AssertionError

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(RuntimeError, match="need an asyncio event loop"):
            main().send(None)
        asyncio.set_event_loop(None)
        gc.collect()
    assert not told
