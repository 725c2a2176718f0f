"""Files over HTTP, and no others."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urljoin

import pytest
from net import narrow, port_of, soon, swallow, until

import zcws
from zcws.cli.common import Failure
from zcws.cli.files import Files

#: The handshake of the only client.
NOBODY = SimpleNamespace(server=SimpleNamespace(handshakes=()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "public"
    (root / "sub").mkdir(parents=True)
    (root / "index.html").write_text("<p>home", encoding="utf-8")
    (root / "a b.js").write_bytes(b"1")
    (root / "data").write_bytes(b"\x00")
    (root / "page.html.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (tmp_path / "public2").mkdir()
    for name in ("x", "index.html"):
        (tmp_path / "public2" / name).write_text("secret", encoding="utf-8")
    if hasattr(os, "symlink"):
        (root / "link").symlink_to(tmp_path / "secret")
        (root / "outside").symlink_to(tmp_path / "public2")
        (root / "circle").symlink_to(root / "circle")
    return root


def ask(root: Path, path: str, method: str = "GET", **options: bool) -> zcws.Response:
    response = Files(str(root), **options)(NOBODY, zcws.Request(path, method=method))
    assert response is not None
    return response


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/", "text/html; charset=utf-8", b"<p>home"),
        ("/?x", "text/html; charset=utf-8", b"<p>home"),
        ("/sub/../index.html", "text/html; charset=utf-8", b"<p>home"),
        ("/a%20b.js", "text/javascript; charset=utf-8", b"1"),
        ("/data", "application/octet-stream", b"\x00"),
        ("/page.html.gz", "application/octet-stream", b"\x1f\x8b"),
    ],
)
def test_files(root: Path, path: str, kind: str, body: bytes) -> None:
    response = ask(root, path)
    assert (response.status_code, response.body) == (200, body)
    if not path.endswith(".js"):  # older tables say application/javascript
        assert response.headers["Content-Type"] == kind
    assert response.headers["Content-Length"] == str(len(body))
    assert response.headers["X-Content-Type-Options"] == "nosniff"  # a text is no script
    assert response.headers["Cache-Control"] == "no-cache"
    assert ask(root, path, "HEAD").headers == response.headers


@pytest.mark.parametrize(
    ("target", "page"),
    [
        ("/docs", "/docs/"),
        ("/docs?a=b?/c", "/docs/?a=b?/c"),
        ("/docs/a:b", "/docs/a:b/"),
        ("/docs/.", "/docs/"),
        ("//other/%2e%2e/docs", "/other/%2e%2e/docs/"),
        ("//other/%2e%2e", "/other/%2e%2e/"),
        ("/%5cother/..", "/"),
    ],
)
def test_a_directory_without_its_slash(root: Path, target: str, page: str) -> None:
    """What its page names, `app.js`, is beside that: a browser would look one floor up."""
    for name in ("docs", "docs/a:b"):
        (root / name).mkdir()
        (root / name / "index.html").write_text("<script src=app.js></script>", encoding="utf-8")
    response = ask(root, target)
    assert response.status_code == 307
    assert urljoin(f"http://here{target}", response.headers["Location"]) == f"http://here{page}"
    assert ask(root, page).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/missing",
            "/sub/",
            "/../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "//../secret",
            "/link",
            "/circle",
        ),
        *("/../public2/x", "/%00", "/" + "x" * 5000, "/index.html/x", "/index.html/"),
        # Without an index.html, or out of here, and so is what is not said of them.
        *("/sub", "/..", "/../public2", "/outside", "/outside/"),
    ],
)
def test_what_is_not_there_for_anybody(root: Path, path: str) -> None:
    response = ask(root, path)
    assert (response.status_code, b"secret" in response.body) == (404, False)


def test_other_requests(root: Path) -> None:
    assert ask(root, "/", "POST").status_code == 405
    upgrade = zcws.Request("/", zcws.Headers({"Upgrade": "websocket"}))
    assert Files(str(root))(NOBODY, upgrade) is None
    response = Files(str(root), is_all=True)(NOBODY, upgrade)
    assert response is not None and response.status_code == 404


def test_a_file_that_is_too_large(root: Path) -> None:
    """64 MiB is not."""
    for size, status in ((64 * 2**20, 200), (64 * 2**20 + 1, 413)):
        with (root / "large").open("wb") as file:
            file.truncate(size)
        assert ask(root, "/large").status_code == status


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_file(root: Path) -> None:
    """Nobody may write to it: all clients would wait."""
    os.mkfifo(root / "pipe")
    assert ask(root, "/pipe").status_code == 404


def test_no_directory(root: Path) -> None:
    with pytest.raises(Failure, match="is not a directory"):
        Files(str(root / "index.html"))


def test_a_path_of_the_machine_is_none_of_ours(root: Path) -> None:
    """On Windows it begins with a drive or with another machine, which would be asked whether it has such a file."""
    assert ask(root, f"/{root / 'index.html'}").status_code == 404


async def get(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return reader, writer


def test_what_waits_for_slow_clients_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred streams of HTTP/2 had a hundred files in memory."""
    monkeypatch.setattr("zcws.cli.files.TOGETHER", 30_000_000)
    (root / "large").write_bytes(bytes(20_000_000))

    async def main() -> None:
        async with zcws.serve(swallow, "127.0.0.1", 0, process_request=Files(str(root))) as server:
            slow, first = await get(port_of(server), "/large")
            narrow(first)
            assert await soon(slow.readline()) == b"HTTP/1.1 200 OK\r\n"
            reader, second = await get(port_of(server), "/large")
            answer = await soon(reader.read())
            assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1\r\n" in answer
            reader, third = await get(port_of(server), "/data")
            assert (await soon(reader.read())).startswith(b"HTTP/1.1 200 ")
            for writer in (second, third):
                writer.close()
            first.transport.abort()
            await until(lambda: not server.handshakes)
            reader, writer = await get(port_of(server), "/large")
            assert len(await soon(reader.read())) > 20_000_000
            writer.close()

    asyncio.run(main())
