"""A browser on the page of `serve --echo`: connect, text, bytes, a file, a big message, close codes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import trustme
from interop.devtools import CHROMIUM, Page, chromium
from served import served

import zcws

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

NEWEST = "document.querySelector('#log li')"


async def expect(page: Page, **data: str) -> str:
    """Waits until the newest line of the log is this; returns its text."""
    condition = " && ".join(f"{NEWEST}.dataset.{name} === {value!r}" for name, value in data.items())
    await page.until(f"{NEWEST} && {condition}")
    text: str = await page.run(f"{NEWEST}.querySelector('.what').textContent")
    return text


async def connect(page: Page) -> str:
    await page.click("#connect")
    await page.until("document.querySelector('#state').dataset.state === 'open'")
    return await expect(page, kind="open")


async def try_everything(page: Page, file: Path) -> None:
    await page.type("#text", "grüße, 🌍")
    await page.press_enter()
    assert "grüße, 🌍" in await expect(page, kind="echo", type="text", size="13")
    await page.type("#text", "")
    await page.click("#say button")
    await expect(page, kind="echo", type="text", size="0")

    await page.type("#hex", "00 ff 0x7A")
    await page.click("#give button")
    assert await expect(page, kind="echo", type="binary", size="3") == "binary, 3 bytes: 00 ff 7a"
    await page.type("#hex", "0g")
    await page.click("#give button")
    assert "hexadecimal" in await expect(page, kind="error")
    await page.choose_file("#file", file)
    await expect(page, kind="echo", type="binary", size=str(file.stat().st_size))

    for kind in ("binary", "text"):
        await page.run(f"document.querySelector('#type').value = {kind!r}")
        await page.click("#heave button")
        await expect(page, kind="echo", type=kind, size=str(5 << 20))
    assert await page.run("document.querySelector('#echoes').textContent") == "6"
    assert await page.run("parseFloat(document.querySelector('#median').textContent)") > 0
    assert await page.run("document.querySelectorAll('#log [data-kind=wrong]').length") == 0


async def close_with(page: Page, code: str, reason: str) -> None:
    await page.type("#code", code)
    await page.type("#reason", reason)
    await page.click("#disconnect")
    await expect(page, kind="close", code=code, reason=reason, clean="true")


@pytest.mark.parametrize("how", ["plain", "compressed", "tls"])
def test_the_page(how: str, tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(range(256)) * 300)
    arguments = {"plain": (), "compressed": ("--compression",), "tls": certificate(tmp_path)}[how]

    async def run() -> None:
        with served(*arguments) as server:
            s = "s" if how == "tls" else ""
            async with chromium(f"http{s}://127.0.0.1:{server.port}/", tmp_path / "profile") as page:
                opened = await connect(page)
                assert opened.startswith(f"ws{s}://127.0.0.1:{server.port}/")
                assert ("permessage-deflate" in opened) == (how == "compressed")
                await try_everything(page, file)
                await close_with(page, "4321", "genug für heute")
                await connect(page)
                await close_with(page, "1000", "")
                await connect(page)
                code, _, err = await asyncio.to_thread(server.interrupt)
                assert (code, err) == (0, "")
                await expect(page, kind="close", code="1001", clean="true")

    asyncio.run(run())


def test_the_page_of_a_chat(tmp_path: Path) -> None:
    """What others say is no wrong answer, even where one's own has not come back."""

    async def run() -> None:
        with served("--chat") as server:
            async with chromium(f"http://127.0.0.1:{server.port}/", tmp_path / "profile") as page:
                assert await page.run("document.querySelector('h1').textContent") == "zcws chat"
                await connect(page)
                async with zcws.connect(f"ws://127.0.0.1:{server.port}/") as ws:
                    await page.run("waiting.push({ message: 'on its way', began: 0 }); 0")
                    await ws.send("from somebody else")
                    assert "from somebody else" in await expect(page, kind="message")
                    await page.type("#text", "mine")
                    await page.press_enter()
                    assert "mine" in await expect(page, kind="echo", type="text", size="4")
            assert (await asyncio.to_thread(server.interrupt))[0] == 0

    asyncio.run(run())


def certificate(directory: Path) -> tuple[str, ...]:
    """The arguments for a server with a certificate of its own."""
    leaf = trustme.CA().issue_cert("127.0.0.1")
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(key)
    return ("--ssl-cert", str(chain), "--ssl-key", str(key))
