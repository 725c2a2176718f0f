"""What many connections share: the settings of a client or a server, and the memory of an event loop."""

from __future__ import annotations

import asyncio
import weakref

from zcws.codec import Deflater
from zcws.options import USUAL_MARKS, Timeouts, checked_write_limit
from zcws.pool import Pool

__all__ = ["Options", "pool_of"]


class Resting:
    """Gives back the compressors of connections that have sent nothing for a while. One for each loop.

    It keeps neither the loop nor a connection alive, and has no timer while there is nothing to give back. All
    compressors with the same `idle_timeout` share one timer.
    """

    __slots__ = ("_loop", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._watched: dict[float, weakref.WeakSet[Deflater]] = {}

    def watch(self, compressor: Deflater) -> None:
        """`compressor` has a context now, and an `idle_timeout`."""
        timeout = compressor.idle_timeout
        assert timeout is not None
        if timeout not in self._watched:
            self._watched[timeout] = weakref.WeakSet()
            self._wait(timeout)
        self._watched[timeout].add(compressor)

    def _wait(self, timeout: float) -> None:
        loop = self._loop()
        if loop is not None:
            loop.call_later(timeout / 2, self._tick, timeout)

    def _tick(self, timeout: float) -> None:
        watched = self._watched[timeout]
        for compressor in list(watched):
            if not compressor.tick():
                watched.discard(compressor)
        if watched:
            self._wait(timeout)
        else:
            del self._watched[timeout]


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
        TypeError, ValueError: one of them has no meaning.
    """

    __slots__ = ("write_limit",)

    def __init__(
        self, *, write_limit: int | tuple[int, int | None] = USUAL_MARKS, **timeouts: float | None
    ) -> None:
        super().__init__(**timeouts)
        self.write_limit: tuple[int, int] = checked_write_limit(write_limit)
