"""What a browser gets from an echo server. That the page works is shown in interop/test_chromium.py."""

from __future__ import annotations

import asyncio
import http.client
import re

import pytest
from net import echo

import zcws
from zcws.cli import page
from zcws.headers import Headers
from zcws.http import Request, Response


def ask(path: str = "/", method: str = "GET", **headers: str) -> Response | None:
    return page.answer(None, Request(path, Headers(headers), method))


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket"])
@pytest.mark.parametrize("path", ["/", "/anywhere"])
def test_a_websocket_passes(upgrade: str, path: str) -> None:
    assert ask(path, Upgrade=upgrade) is None


def test_an_upgrade_to_something_else_gets_the_page() -> None:
    response = ask(Upgrade="h2c")
    assert response is not None and response.status_code == 200


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 200),
        ("/?theme=dark", "GET", 200),
        ("/", "HEAD", 200),
        ("/", "POST", 405),
        ("/favicon.ico", "GET", 404),
        ("/healthz", "GET", 200),
        ("/healthz", "HEAD", 200),
        ("/healthz", "DELETE", 405),
        ("//", "GET", 404),
    ],
)
def test_status(path: str, method: str, status: int) -> None:
    response = ask(path, method)
    assert response is not None
    assert response.status_code == status
    assert response.serialize(method).endswith(b"\r\n\r\n") == (method == "HEAD")
    if status == 405:
        assert response.headers["Allow"] == "GET, HEAD"


def test_head_says_what_get_would() -> None:
    head, get = ask(method="HEAD"), ask()
    assert head is not None and get is not None
    assert head.serialize("HEAD") + get.body == get.serialize()
    assert head.headers["Content-Length"] == str(len(get.body))


def test_the_page_loads_nothing_from_anywhere() -> None:
    response = ask()
    assert response is not None
    text = response.body.decode()
    assert text.startswith("<!doctype html>")
    assert re.findall(r'(?:src|href|action)="([^"]*)"', text) == ["data:,"]
    assert re.findall(r"@import|url\(|import\s*\(|https?://", text) == []
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none';")
    # The next server on this port may be another version; and what follows the page opens a connection of its own.
    assert (response.headers["Cache-Control"], response.headers["Connection"]) == ("no-store", "close")


def test_the_page_of_a_chat_is_not_called_echo() -> None:
    """Its script takes what others say for no wrong answer."""
    for what in ("echo", "chat"):
        response = page.answer(None, Request("/", Headers([]), "GET"), what)
        assert response is not None
        text = response.body.decode()
        assert text.count(f"<title>zcws {what}</title>") == text.count(f"<h1>zcws {what}</h1>") == 1


def test_page_and_websocket_share_a_port() -> None:
    def fetch(port: int, method: str, path: str) -> tuple[int, int, int]:
        browser = http.client.HTTPConnection("127.0.0.1", port)
        browser.request(method, path)
        response = browser.getresponse()
        announced = int(response.headers["Content-Length"])
        size = len(response.read())
        browser.close()
        return response.status, announced, size

    async def run() -> None:
        async with zcws.serve(echo, "127.0.0.1", 0, process_request=page.answer) as server:
            port = server.sockets[0].getsockname()[1]
            status, announced, size = await asyncio.to_thread(fetch, port, "GET", "/")
            assert (status, size) == (200, announced)
            assert await asyncio.to_thread(fetch, port, "HEAD", "/") == (200, announced, 0)
            assert (await asyncio.to_thread(fetch, port, "GET", "/nowhere"))[0] == 404
            async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
                await ws.send("still a WebSocket")
                assert await ws.recv() == "still a WebSocket"

    asyncio.run(run())
