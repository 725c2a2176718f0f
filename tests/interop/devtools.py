"""A headless Chromium, driven over its DevTools protocol: JSON over WebSocket, spoken by our own client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import zcws

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",  # containers have little of it
    "--ignore-certificate-errors",  # those of the tests are signed by nobody
    "--remote-debugging-port=0",
]


class Page:
    """One page of the browser."""

    def __init__(self, ws: zcws.WebSocket) -> None:
        self._ws = ws
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._events: set[str] = set()  # those that have come

    async def _read(self) -> Any:
        message = json.loads(await self._ws.recv())
        if "method" in message:
            self._events.add(message["method"])
        return message

    async def command(self, method: str, **parameters: Any) -> Any:
        """One command and its result."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        await self._ws.send(json.dumps(command))
        while (answer := await self._read()).get("id") != number:
            pass
        assert "error" not in answer, answer["error"]
        return answer["result"]

    async def open(self, address: str) -> None:
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self.command("Page.enable")
        await self.command("Page.navigate", url=address)
        while "Page.loadEventFired" not in self._events:
            await self._read()

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it becomes."""
        done = await self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def until(self, condition: str) -> None:
        """Waits for a JavaScript condition; that it ever comes true is for the test's own timeout."""
        await self.run(
            f"new Promise((go) => {{ const look = () => ({condition}) ? go() : setTimeout(look, 10); look(); }})"
        )

    async def type(self, selector: str, text: str) -> None:
        """Types into a field, in place of what was there."""
        await self.run(
            f"(() => {{ const field = document.querySelector({selector!r}); field.focus(); field.select(); }})()"
        )
        await self.command("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Clicks with the mouse, in the middle of an element."""
        where = await self.run(
            f"(() => {{ const element = document.querySelector({selector!r}); element.scrollIntoView();"
            "const box = element.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.command(
                "Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1
            )

    async def press_enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                windowsVirtualKeyCode=13,
                text="\r",
            )

    async def choose_file(self, selector: str, path: Path) -> None:
        found = await self.command("Runtime.evaluate", expression=f"document.querySelector({selector!r})")
        objectId = found["result"]["objectId"]
        await self.command("DOM.setFileInputFiles", files=[str(path)], objectId=objectId)


@contextlib.asynccontextmanager
async def chromium(address: str, profile: Path) -> AsyncIterator[Page]:
    """A fresh browser that shows `address`."""
    assert CHROMIUM is not None
    command = (CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank")
    # It puts a Unix socket there, whose name has room for 100 bytes, and does not start where that is longer.
    short = {**os.environ, "TMPDIR": "/tmp"}
    process = await asyncio.create_subprocess_exec(*command, env=short, stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr is not None
        said = []
        while b"DevTools listening on " not in (line := await process.stderr.readline()):
            said.append(line)
            assert line, f"Chromium did not start: {b''.join(said).decode()}"
        rest = asyncio.create_task(process.stderr.read())  # so that it never waits for somebody to read
        async with zcws.connect(line.decode().split()[-1]) as ws:
            page = Page(ws)
            await page.open(address)
            yield page
            await ws.send(json.dumps({"id": 0, "method": "Browser.close"}))
            with contextlib.suppress(zcws.ConnectionClosed):  # it goes without a Close
                while True:
                    await ws.recv()
        await rest
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
