"""Node's `ws`, both ways round, compression with every parameter included. npm installs it for the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from interop.talk import BYE, messages, our_client, our_server

import zcws

WS = "ws@8.23.0"
PEER = Path(__file__).with_name("node_peer.js")

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(not shutil.which("node"), reason="there is no node here"),
    pytest.mark.skipif(not shutil.which("npm"), reason="there is no npm here"),
]

#: Options of `ws`, and what has to be agreed on where they are the server's.
CORNERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "off": (False, {}),
    "as it comes": ({}, {}),
    "small windows": (
        {"serverMaxWindowBits": 9, "clientMaxWindowBits": 9},
        {"server_max_window_bits": 9, "client_max_window_bits": 9},
    ),
    "large windows": (
        {"serverMaxWindowBits": 15, "clientMaxWindowBits": 15},
        {"server_max_window_bits": 15, "client_max_window_bits": 15},
    ),
    "no takeover": (
        {"serverNoContextTakeover": True, "clientNoContextTakeover": True},
        {"server_no_context_takeover": True, "client_no_context_takeover": True},
    ),
}
corners = pytest.mark.parametrize(("theirs", "agreed"), CORNERS.values(), ids=CORNERS)
insisting = pytest.mark.parametrize(
    "agreed",
    [agreed for _, agreed in CORNERS.values() if agreed],
    ids=[name for name in CORNERS if CORNERS[name][1]],
)


#: npm keeps what it downloads in HOME, which may not be there to write to; without a network it tries for two minutes.
NPM = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--no-update-notifier"]
ONCE_MORE = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
UNREACHED = ("EAI_AGAIN", "ENOTFOUND", "ECONNREFUSED", "ENETUNREACH", "ETIMEDOUT")


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of Node modules with `ws` in it."""
    directory = tmp_path_factory.mktemp("node")
    command = [*NPM, *ONCE_MORE, f"--cache={directory / 'cache'}", WS]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    for error in UNREACHED:
        if f"npm error code {error}\n" in done.stderr:
            pytest.skip(f"npm reaches nobody who has {WS}: {error}")
    assert done.returncode == 0, f"npm could not install {WS}: {done.stderr}"
    return directory / "node_modules"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each message."""
    directory = tmp_path_factory.mktemp("messages")
    for number, message in enumerate(messages()):
        text = isinstance(message, str)
        data = message.encode() if isinstance(message, str) else message
        (directory / f"{number:02}.{'text' if text else 'binary'}").write_bytes(data)
    return directory


def node(modules: Path, **asked: Any) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of the peer. Every message is compressed, however short."""
    if asked["deflate"] is not False:
        asked["deflate"] = {"threshold": 0, **asked["deflate"]}
    command = ["node", str(PEER), json.dumps({"bye": BYE, **asked})]
    return command, {**os.environ, "NODE_PATH": str(modules)}


@contextlib.asynccontextmanager
async def their_server(modules: Path, deflate: Any) -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    """The address of a server, and where it reports each close."""
    command, environment = node(modules, role="server", deflate=deflate)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdin=pipe, stdout=pipe)
    assert process.stdout is not None and process.stdin is not None
    try:
        port = json.loads(await process.stdout.readline())["port"]
        yield f"ws://127.0.0.1:{port}", process.stdout
    finally:
        process.stdin.close()
        await process.wait()


@corners
def test_our_client_and_their_server(modules: Path, theirs: Any, agreed: dict[str, Any]) -> None:
    async def run() -> None:
        async with their_server(modules, theirs) as (address, reports):
            found = await our_client(address, compression="deflate")
            assert (found is None) == (theirs is False)
            assert {name: getattr(found, name) for name in agreed} == agreed
            closes = [json.loads(await reports.readline()) for _ in range(4)]
            expected = [(1000, ""), (1000, ""), BYE, BYE]
            assert [(close["code"], close["reason"]) for close in closes] == expected

    asyncio.run(run())


@insisting
def test_our_client_asks_for_parameters(modules: Path, agreed: dict[str, Any]) -> None:
    async def run() -> None:
        async with their_server(modules, {}) as (address, _):
            found = await our_client(address, compression=zcws.Deflate(**agreed))
            assert {name: getattr(found, name) for name in agreed} == agreed

    asyncio.run(run())


@corners
def test_their_client_and_our_server(
    modules: Path, corpus: Path, theirs: Any, agreed: dict[str, Any]
) -> None:
    async def run() -> None:
        async with our_server(compression="deflate") as ours:
            await follow(modules, corpus, ours.address, theirs)
            for found in ours.agreements:
                assert (found is None) == (theirs is False)
                assert {name: getattr(found, name) for name in agreed} == agreed
            assert await ours.closes.get() == BYE
            assert await ours.closes.get() == BYE

    asyncio.run(run())


@insisting
def test_our_server_insists_on_parameters(modules: Path, corpus: Path, agreed: dict[str, Any]) -> None:
    async def run() -> None:
        async with our_server(compression=zcws.Deflate(**agreed)) as ours:
            await follow(modules, corpus, ours.address, {})
            for found in ours.agreements:
                assert {name: getattr(found, name) for name in agreed} == agreed

    asyncio.run(run())


async def follow(modules: Path, corpus: Path, address: str, deflate: Any) -> None:
    """A client that goes through all the scripts of our server."""
    command, environment = node(
        modules, role="client", deflate=deflate, address=address, directory=str(corpus)
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert json.loads(out) == {"done": 2 * len(messages())}
