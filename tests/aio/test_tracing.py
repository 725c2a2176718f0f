from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest
from net import Place, echo, soon
from served import ENVIRONMENT

from zcws.aio.tracing import TracedWebSocket, websocket_class
from zcws.aio.websocket import WebSocket

TRIP = """
import asyncio, zcws
async def echo(ws):
    async for message in ws:
        await ws.send(message)
async def main():
    async with zcws.serve(echo, "127.0.0.1", 0) as server:
        async with zcws.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as ws:
            await ws.send("hello")
            await ws.recv()
asyncio.run(main())
"""


@pytest.mark.parametrize("side", ["client", "server"])
def test_only_where_debug_is_on(side: str) -> None:
    assert websocket_class(is_client=side == "client") is WebSocket


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_every_frame_is_a_line(
    anyplace: Place, caplog: pytest.LogCaptureFixture, compression: str | None
) -> None:
    caplog.set_level(logging.DEBUG, "zcws")

    async def main() -> None:
        async with anyplace.serve(echo, compression=compression, ping_interval=None) as server:
            async with anyplace.connect(server, compression=compression, ping_interval=None) as ws:
                assert isinstance(ws, TracedWebSocket)
                for message in ("hello", b"\x00\x01", "x" * 100_000):
                    await ws.send(message)
                    assert await soon(ws.recv()) == message
                await ws.ping(b"1234")
                await ws.close(1000, "bye")

    anyplace.run(main())
    for logger, out, back in (("zcws.client", ">", "<"), ("zcws.server", "<", ">")):
        lines = [re.sub("^[0-9a-f]+ ", "", r.getMessage()) for r in caplog.records if r.name == logger]
        assert lines[0].startswith("is a connection with ")
        assert f"{out} TEXT 'hello' [5 bytes, masked]" in lines
        assert f"{back} BINARY 00 01 [2 bytes]" in lines
        large = [line for line in lines if "TEXT" in line and "..." in line]
        assert len(large) == 2
        assert all(("compressed" in line) == (compression is not None) for line in large)
        assert f"{back} PONG '1234' [4 bytes]" in lines
        assert f"{out} CLOSE 1000 'bye' [5 bytes, masked]" in lines
        assert lines[-1] == "is over: 1000 bye"


@pytest.mark.parametrize("value", ["1", "0"])
def test_the_environment_turns_it_on(value: str) -> None:
    environment = {**ENVIRONMENT, "ZCWS_DEBUG": value}
    done = subprocess.run(
        [sys.executable, "-c", TRIP], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    for side in ("> TEXT 'hello' [5 bytes, masked]", "> TEXT 'hello' [5 bytes]"):
        assert (side in done.stderr) == (value == "1")
    assert done.stdout == ""
