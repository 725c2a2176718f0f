"""WebSockets over HTTP/2: Node's own implementation, both ways round, and Chromium. RFC 8441."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from interop.devtools import CHROMIUM, chromium
from net import echo, port_of, soon, until

import zcws
from zcws.cli import page

PEER = Path(__file__).with_name("node_http2.js")

#: Bytes beyond our window of a stream (256 KiB) and many of Node's (64 KiB). Each of those is waited for by both sides
#: in turn: with ten times as much a busy machine took longer than a test may.
BEYOND = 300_000

node = pytest.mark.skipif(not shutil.which("node"), reason="there is no node here")


class Files:
    """A certificate of our own, in files, and contexts of it."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1")
        self.ca, self.chain, self.key = (directory / name for name in ("ca.pem", "chain.pem", "key.pem"))
        authority.cert_pem.write_to_path(self.ca)
        leaf.private_key_pem.write_to_path(self.key)
        self.chain.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(self.context)


@contextlib.asynccontextmanager
async def node_peer(*arguments: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    command = ["node", str(PEER), *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@node
def test_node_is_the_client(tmp_path: Path) -> None:
    """Three WebSockets on one connection."""
    files, streams = Files(tmp_path), set()

    async def handler(ws: zcws.WebSocket) -> None:
        streams.add(ws.get_extra_info("http2_stream"))
        await echo(ws)

    async def main() -> None:
        options: dict[str, Any] = {"ssl": files.context, "http2": True, "subprotocols": ["chat"]}
        async with zcws.serve(handler, "127.0.0.1", 0, **options) as server:
            async with node_peer("talk", port_of(server), files.ca) as process:
                out, _ = await soon(process.communicate())
            said = [json.loads(line) for line in out.splitlines()]
            for size in (5, 70_000, BEYOND):
                of_one = [rest for first, *rest in said if first == size]
                assert of_one == [[200, "chat"], [True], [0x88, 1000], ["closed", 0]]
            assert len(streams) == 3

    asyncio.run(main())


@node
def test_node_is_the_server(tmp_path: Path) -> None:
    files = Files(tmp_path)

    async def main() -> None:
        async with node_peer("serve", "-", files.chain, files.key) as process:
            assert process.stdout is not None
            port = int(await soon(process.stdout.readline()))
            uri = f"wss://127.0.0.1:{port}/"
            options: dict[str, Any] = {"ssl": files.ca, "http2": True, "subprotocols": ["chat"]}
            async with zcws.connect(uri, **options) as ws:
                assert ws.subprotocol == "chat" and ws.get_extra_info("http2_stream") == 1
                for message in ("hello", bytes(70_000), "ü" * (BEYOND // 2)):
                    await ws.send(message)
                    assert await soon(ws.recv()) == message
            assert ws.close_code == 1000

    asyncio.run(main())


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_chromium(tmp_path: Path) -> None:
    """It uses the connection that the page came by, for one WebSocket after the other."""
    files, streams = Files(tmp_path), []
    state, newest = (
        "document.querySelector('#state').dataset.state",
        "document.querySelector('#log li').dataset",
    )

    async def handler(ws: zcws.WebSocket) -> None:
        streams.append((ws.get_extra_info("http2_stream"), ws.remote_address))
        await echo(ws)

    async def main() -> None:
        options: dict[str, Any] = {"ssl": files.context, "http2": True, "compression": "deflate"}
        async with zcws.serve(handler, "127.0.0.1", 0, process_request=page.answer, **options) as server:
            async with chromium(f"https://127.0.0.1:{port_of(server)}/", tmp_path / "profile") as browser:
                for kind in ("text", "binary"):
                    await browser.click("#connect")
                    await browser.until(f"{state} === 'open'")
                    await browser.run(f"document.querySelector('#type').value = '{kind}'")
                    await browser.click("#heave button")
                    await browser.until(f"{newest}.kind === 'echo' && {newest}.size === '{5 << 20}'")
                    await browser.click("#disconnect")
                    await browser.until(f"{newest}.kind === 'close' && {newest}.clean === 'true'")
                await browser.click("#connect")
                await browser.until(f"{state} === 'open'")
                server.close()
                await browser.until(f"{newest}.kind === 'close' && {newest}.code === '1001'")
                await until(lambda: not server.connections)
        assert len(streams) == len({number for number, _ in streams}) == 3 and None not in dict(streams)
        assert len({address for _, address in streams}) == 1

    asyncio.run(main())
