"""`zcws serve`: the chat, the files, draining. The echo, TLS and addresses: tests/test_cli.py."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import raw
import wire
from served import ENVIRONMENT, served

import zcws


@pytest.fixture
def start() -> Iterator[object]:
    """`start(...)` runs `zcws serve` and gives the process and its port; `program` is another way to run it."""
    processes: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str, program: tuple[str, ...] = ("-m", "zcws")
    ) -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, *program, "serve", "--port", "0", *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)
        processes.append(process)
        line = process.stdout.readline()
        found = re.search(r"://[^/]*:(\d+);", line)
        assert found, f"no announcement: {line!r}"
        return process, int(found[1])

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_chat(start: Callable[..., Any]) -> None:
    _, port = start("--chat")

    async def main() -> None:
        uri = f"ws://127.0.0.1:{port}/"
        async with zcws.connect(uri) as ann, zcws.connect(uri) as bob:
            await (await bob.ping())  # both are in the room
            await ann.send("hello")
            await bob.send(b"\x01")
            for ws in (ann, bob):
                heard = [await asyncio.wait_for(ws.recv(), 20) for _ in range(2)]
                assert sorted(heard, key=str) == [b"\x01", "hello"] or set(heard) == {b"\x01", "hello"}

    asyncio.run(main())


def test_files_beside_an_echo(start: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>home", encoding="utf-8")
    _, port = start("--static", str(tmp_path), "--echo")
    for path, body in (("", b"<p>home"), ("healthz", b"ok\n")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
            assert answer.read() == body

    async def main() -> None:
        async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
            await ws.send("x")
            assert await ws.recv() == "x"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("service", "says"),
    [
        (
            ["--chat"],
            r"zcws listens on ws://127\.0\.0\.1:\d+; the files of {} are at http://127\.0\.0\.1:\d+/ \(",
        ),
        ([], r"zcws serves the files of {} at http://127\.0\.0\.1:\d+/ \(Ctrl-C stops it\)\n"),
    ],
)
def test_the_line_about_files_promises_no_page(service: list[str], says: str, tmp_path: Path) -> None:
    """What is at / is the user's own; alone, there is nothing but files."""
    command = [sys.executable, "-m", "zcws", "serve", "--port", "0", "--static", str(tmp_path), *service]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            line = process.stdout.readline()
        finally:
            process.kill()
    assert re.match(says.format(re.escape(str(tmp_path))), line), line


async def until_refused(port: int) -> None:
    """Until nothing is accepted any more."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.01)


def test_sigterm_lets_clients_finish(start: Callable[..., Any]) -> None:
    process, port = start("--echo", "--drain", "60")

    async def main() -> None:
        async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
            await ws.send("x")
            assert await ws.recv() == "x"
            process.send_signal(signal.SIGTERM)
            await until_refused(port)
            await ws.send("still here")
            assert await ws.recv() == "still here"

    asyncio.run(main())
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_a_second_sigterm_ends_the_patience(start: Callable[..., Any]) -> None:
    process, port = start("--echo", "--drain", "600")

    async def main() -> None:
        async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
            process.send_signal(signal.SIGTERM)
            await until_refused(port)  # two signals that a process has not taken yet are one
            process.send_signal(signal.SIGTERM)
            with pytest.raises(zcws.ConnectionClosedOK) as closed:
                await asyncio.wait_for(ws.recv(), 20)
            assert closed.value.code == 1001

    asyncio.run(main())
    assert process.communicate(timeout=60) == ("", "")


#: `zcws`, whose servers wait without an end for clients that do not answer a Close.
PATIENT = """
import functools, sys, zcws
from zcws.cli import main
zcws.serve = functools.partial(zcws.serve, close_timeout=None)
sys.exit(main())
"""


def test_who_has_not_answered_after_the_drain_is_cut_off(start: Callable[..., Any]) -> None:
    """A process alone waited for `close_timeout`, ten seconds, and a worker was killed after five."""
    process, port = start("--echo", "--drain", "0.1", program=("-c", PATIENT))
    with raw.client(port) as peer:
        process.send_signal(signal.SIGTERM)
        assert peer.read().opcode == wire.CLOSE
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_http2() -> None:
    async def talk(port: int) -> None:
        for http2 in (True, False):
            async with zcws.connect(f"ws://127.0.0.1:{port}/", http2=http2) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert (ws.get_extra_info("http2_stream") is not None) == http2

    with served("--http2") as server:
        asyncio.run(talk(server.port))
