"""What connections share: one memory for each event loop, and settings that are checked once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from net import Place, echo, port_of, soon, until

import zcws
from zcws.aio.settings import Options, Resting, pool_of
from zcws.codec import Deflater
from zcws.extensions import DeflateParameters


def test_an_event_loop_has_one_pool_and_keeps_it() -> None:
    loops = [asyncio.new_event_loop() for _ in range(2)]
    pools = [pool_of(loop) for loop in loops]
    assert pools[0] is not pools[1] and [pool_of(loop) for loop in loops] == pools
    known = weakref.ref(pools[0])
    for loop in loops:
        loop.close()
    del loops, pools, loop
    for _ in range(5):  # PyPy: the loop goes first, then the key that it was, and then the pool
        gc.collect()
    assert known() is None


def test_the_defaults() -> None:
    options = Options()
    assert (options.ping_interval, options.ping_timeout, options.close_timeout) == (20, 20, 10)
    assert (options.write_limit, options.write_timeout) == ((64 * 1024, 16 * 1024), None)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("ping_interval", 0, ValueError),
        ("ping_interval", "20", TypeError),
        ("ping_timeout", -1, ValueError),
        ("close_timeout", float("nan"), ValueError),
        ("write_timeout", -0.5, ValueError),
        ("write_limit", -1, ValueError),
        ("write_limit", (1, 2), ValueError),
        ("write_limit", "64K", TypeError),
    ],
)
def test_what_means_nothing_is_refused_by_its_name(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        Options(**{option: value})


TEXT = '{"symbol": "ABC", "bid": 12.5, "ask": 12.75}, ' * 30


def make_compressor(watch: Callable[[Deflater], None], idle_timeout: float = 0.01) -> Deflater:
    options: dict[str, Any] = {"level": 1, "mem_level": 8, "threshold": 0, "shared": {}}
    return Deflater(DeflateParameters(), is_client=False, idle_timeout=idle_timeout, watch=watch, **options)


class TestResting:
    def test_what_is_idle_is_given_back_and_watched_anew_when_it_is_used(self, anyloop: Place) -> None:
        async def main() -> None:
            resting = Resting(asyncio.get_running_loop())
            compressors = [make_compressor(resting.watch, 0.01 * (1 + number % 2)) for number in range(6)]
            for _ in range(3):
                for compressor in compressors:
                    compressor.message(TEXT.encode())
                    assert compressor._stream is not None
                await until(lambda: not resting._watched)  # and there is no timer any more
                assert all(compressor._stream is None for compressor in compressors)

        anyloop.run(main())

    def test_it_keeps_no_connection(self, anyloop: Place) -> None:
        async def main() -> None:
            resting = Resting(asyncio.get_running_loop())
            compressor = make_compressor(resting.watch, 3600)
            compressor.message(TEXT.encode())
            gone = weakref.ref(compressor)
            del compressor
            gc.collect()
            assert gone() is None
            assert not resting._watched[3600]  # nor anything of one that has gone, until the hour is over

        anyloop.run(main())

    @pytest.mark.parametrize("takeover", [True, False])
    def test_on_connections(self, anyloop: Place, takeover: bool) -> None:
        """Both ends forget, one after the other, and go on understanding each other."""

        async def main() -> None:
            settings = zcws.Deflate(
                idle_timeout=0.02,
                server_no_context_takeover=not takeover,
                client_no_context_takeover=not takeover,
            )
            async with (
                zcws.serve(echo, "127.0.0.1", 0, compression=settings, ping_interval=None) as server,
                zcws.connect(
                    f"ws://127.0.0.1:{port_of(server)}", compression=settings, ping_interval=None
                ) as ws,
            ):
                ends = [ws.connection, *(other.connection for other in server.connections)]
                compressors = [end.compressor for end in ends]
                assert len(compressors) == 2
                for _ in range(3):
                    for _ in range(3):
                        await ws.send(TEXT)
                        assert await soon(ws.recv()) == TEXT
                    for compressor in compressors:
                        assert compressor is not None
                        await until(lambda compressor=compressor: compressor._stream is None)  # type: ignore[misc]

        anyloop.run(main())

    def test_it_can_be_turned_off(self, anyloop: Place) -> None:
        async def main() -> None:
            settings = zcws.Deflate(idle_timeout=None)
            async with (
                zcws.serve(echo, "127.0.0.1", 0, compression=settings) as server,
                zcws.connect(f"ws://127.0.0.1:{port_of(server)}", compression=settings) as ws,
            ):
                await ws.send(TEXT)
                assert await soon(ws.recv()) == TEXT
                compressor = ws.connection.compressor
                assert compressor is not None and compressor._stream is not None
                assert not compressor._is_watched

        anyloop.run(main())
