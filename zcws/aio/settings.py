"""What many connections share: the settings of a client or a server, and the memory of an event loop."""

from __future__ import annotations

import asyncio
import weakref

from zcws.aio.keepalive import Resting
from zcws.options import checked_seconds, checked_write_limit
from zcws.pool import Pool

__all__ = ["USUAL_LIMIT", "Options", "pool_of"]

#: Bytes that may wait in the transport when nobody says how many: asyncio's own, and so that of `EngineTransport`.
USUAL_LIMIT = 64 * 1024

_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = weakref.WeakKeyDictionary()


def pool_of(loop: asyncio.AbstractEventLoop) -> Pool:
    """What the connections of `loop` share."""
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = Pool()
        pool.watch = Resting(loop).watch
    return pool


class Options:
    """Settings that all connections of one client or server share. See `connect` and `serve`.

    Raises:
        TypeError, ValueError: one of them means nothing.
    """

    __slots__ = ("close_timeout", "ping_interval", "ping_timeout", "write_limit", "write_timeout")

    def __init__(
        self,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
        write_limit: int | tuple[int, int | None] = USUAL_LIMIT,
        write_timeout: float | None = None,
    ) -> None:
        self.ping_interval: float | None = checked_seconds("ping_interval", ping_interval, zero=False)
        self.ping_timeout: float | None = checked_seconds("ping_timeout", ping_timeout)
        self.close_timeout: float | None = checked_seconds("close_timeout", close_timeout)
        self.write_limit: int | tuple[int, int | None] = checked_write_limit(write_limit)
        self.write_timeout: float | None = checked_seconds("write_timeout", write_timeout)
