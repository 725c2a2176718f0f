"""systemd's side is played by a parent that passes a socket as descriptor 3."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from zcws import activation
from zcws.activation import listen_fds

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="descriptors are passed by fork and exec")

SERVICE = """
import asyncio, os, zcws

async def hello(ws):
    await ws.send(f"{zcws.listen_fds()} {'LISTEN_FDS' in os.environ}")

async def main():
    (sock,) = zcws.listen_fds()
    assert not sock.get_inheritable()
    async with zcws.serve(hello, sock=sock) as server:
        async with zcws.connect(f"ws://127.0.0.1:{sock.getsockname()[1]}/") as ws:
            print(await ws.recv())

asyncio.run(main())
"""

#: The shell sets LISTEN_PID to what exec keeps, as systemd does between its fork and its exec.
AS_SYSTEMD = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -c "$1" 3<&"$2"'


def test_a_service_that_systemd_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fd = sock.fileno()
        done = subprocess.run(
            ["bash", "-c", AS_SYSTEMD, sys.executable, SERVICE, str(fd)],
            pass_fds=[fd],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] False\n", "")


def told(monkeypatch: pytest.MonkeyPatch, pid: object, count: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(pid))
    monkeypatch.setenv("LISTEN_FDS", count)


def test_the_sockets_are_taken_and_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process, where descriptor 3 is somebody else's."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    names = [sock.getsockname() for sock in listening]
    first = max(sock.fileno() for sock in listening) + 100  # behind each other, where nothing is
    for at, sock in enumerate(listening):
        os.dup2(sock.fileno(), first + at)
        sock.close()
    monkeypatch.setattr(activation, "FIRST", first)
    told(monkeypatch, os.getpid(), "2")
    found = listen_fds()
    assert [sock.getsockname() for sock in found] == names
    assert [sock.get_inheritable() for sock in found] == [False, False]
    assert listen_fds() == []
    for sock in found:
        sock.close()


def test_sockets_that_are_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, os.getppid(), "1")
    assert listen_fds() == []
    assert "LISTEN_PID" not in os.environ


def test_without_systemd() -> None:
    assert listen_fds() == []


def test_what_is_no_socket_that_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It was not said which descriptor it was, and those before it stayed open."""
    with socket.create_server(("127.0.0.1", 0)) as listening, open(tmp_path / "file", "wb") as file:
        first = max(listening.fileno(), file.fileno()) + 100
        monkeypatch.setattr(activation, "FIRST", first)
        os.dup2(listening.fileno(), first)
        os.dup2(file.fileno(), first + 1)
        told(monkeypatch, os.getpid(), "2")
        with pytest.raises(OSError, match=f"descriptor {first + 1}, which LISTEN_FDS counts: .*ocket"):
            listen_fds()
        os.close(first + 1)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(first)


def test_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept=yes: `serve` said "Invalid argument"."""
    ours, theirs = socket.socketpair()
    with theirs:
        monkeypatch.setattr(activation, "FIRST", ours.detach())
        told(monkeypatch, os.getpid(), "1")
        with pytest.raises(ValueError, match=r"^descriptor \d+ is one connection: .* with Accept=no$"):
            listen_fds()
        assert theirs.recv(1) == b""


@pytest.mark.parametrize("count", ["", "-1", "one", "²", "9" * 5000])
def test_a_number_that_is_none(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    told(monkeypatch, os.getpid(), count)
    with pytest.raises(ValueError, match=r"^LISTEN_FDS should be a number of sockets, not .{2,22}$"):
        listen_fds()
