"""What many connections share: the settings of a client or a server, and the memory of an event loop."""

from __future__ import annotations

import asyncio
import weakref

from zcws.aio.keepalive import Resting
from zcws.options import USUAL_MARKS, Timeouts, checked_write_limit
from zcws.pool import Pool

__all__ = ["Options", "pool_of"]

_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = weakref.WeakKeyDictionary()


def pool_of(loop: asyncio.AbstractEventLoop) -> Pool:
    """What the connections of `loop` share."""
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = Pool()
        pool.watch = Resting(loop).watch
    return pool


class Options(Timeouts):
    """Settings that all connections of one client or server share. See `connect` and `serve`.

    Raises:
        TypeError, ValueError: one of them means nothing.
    """

    __slots__ = ("write_limit",)

    def __init__(
        self, *, write_limit: int | tuple[int, int | None] = USUAL_MARKS, **timeouts: float | None
    ) -> None:
        super().__init__(**timeouts)
        self.write_limit: tuple[int, int] = checked_write_limit(write_limit)
