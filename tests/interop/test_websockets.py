"""`websockets`, both ways round: messages, fragments, Pings, closes, and every corner of permessage-deflate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from interop.talk import BYE, our_client, our_server
from interop.websockets_api import their_client, their_server
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

import zcws
from zcws.extensions import DeflateParameters

#: The corners: the smallest window and the largest, each side with and without memory of earlier messages.
CORNERS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "small windows": {"server_max_window_bits": 9, "client_max_window_bits": 9},
    "large windows": {"server_max_window_bits": 15, "client_max_window_bits": 15},
    "no takeover": {"server_no_context_takeover": True, "client_no_context_takeover": True},
    "server forgets": {"server_no_context_takeover": True, "server_max_window_bits": 9},
    "client forgets": {"client_no_context_takeover": True, "client_max_window_bits": 9},
    "all": {
        "server_no_context_takeover": True,
        "client_no_context_takeover": True,
        "server_max_window_bits": 9,
        "client_max_window_bits": 9,
    },
}
corners = pytest.mark.parametrize("corner", CORNERS.values(), ids=CORNERS)


def test_our_client_and_their_server() -> None:
    async def run() -> None:
        async with their_server(websockets, compression=None) as theirs:
            assert await our_client(theirs.address, compression="deflate") is None
            assert await theirs.closes.get() == (1000, "")
            assert await theirs.closes.get() == (1000, "")
            assert await theirs.closes.get() == BYE
            assert await theirs.closes.get() == BYE

    asyncio.run(run())


def test_their_client_and_our_server() -> None:
    async def run() -> None:
        async with our_server() as ours:
            await their_client(websockets, ours)
            assert set(ours.agreements) == {None}

    asyncio.run(run())


@corners
def test_our_client_asks_for_parameters(corner: dict[str, Any]) -> None:
    async def run() -> None:
        # Without a factory of ours `websockets` insists on windows of 12 bits.
        factory = ServerPerMessageDeflateFactory()
        async with their_server(websockets, compression=None, extensions=[factory]) as theirs:
            agreed = await our_client(theirs.address, compression=zcws.Deflate(**corner))
            assert_agreed(agreed, corner)

    asyncio.run(run())


@corners
def test_their_server_insists_on_parameters(corner: dict[str, Any]) -> None:
    async def run() -> None:
        factory = ServerPerMessageDeflateFactory(**corner)
        async with their_server(websockets, compression=None, extensions=[factory]) as theirs:
            assert_agreed(await our_client(theirs.address, compression="deflate"), corner)

    asyncio.run(run())


@corners
def test_their_client_asks_for_parameters(corner: dict[str, Any]) -> None:
    async def run() -> None:
        factory = ClientPerMessageDeflateFactory(**corner)
        async with our_server(compression="deflate") as ours:
            await their_client(websockets, ours, compression=None, extensions=[factory])
            for agreed in ours.agreements:
                assert_agreed(agreed, corner)

    asyncio.run(run())


@corners
def test_our_server_insists_on_parameters(corner: dict[str, Any]) -> None:
    async def run() -> None:
        async with our_server(compression=zcws.Deflate(**corner)) as ours:
            await their_client(websockets, ours)
            for agreed in ours.agreements:
                assert_agreed(agreed, corner)

    asyncio.run(run())


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_pieces_of_ours_arrive_one_by_one(compression: Any) -> None:
    """The next piece is sent when the one before has arrived: a compressor that kept it would stop both."""
    pieces = ["one ", "two, naïve", " three" * 20]

    async def run() -> None:
        arrived = asyncio.Semaphore(0)

        async def message() -> AsyncIterator[str]:
            for piece in pieces:
                yield piece
                await arrived.acquire()

        async def handler(ws: zcws.WebSocket) -> None:
            await ws.send(message())

        async with zcws.serve(handler, "127.0.0.1", 0, compression=compression) as server:
            address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with websockets.connect(address, compression=compression) as ws:
                expected = [*pieces, ""]  # the end of an iterator is an empty fragment
                async for piece in ws.recv_streaming():
                    assert piece == expected.pop(0)
                    arrived.release()
                assert not expected

    asyncio.run(asyncio.wait_for(run(), 30))


def assert_agreed(agreed: DeflateParameters | None, corner: dict[str, Any]) -> None:
    """Everything that was asked for was agreed to."""
    assert agreed is not None
    assert {name: getattr(agreed, name) for name in corner} == corner
