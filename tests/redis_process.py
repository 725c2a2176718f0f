"""A Redis server that is real: Debian's `redis-server`, started and killed by the tests."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time

import pytest

needs_redis = pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server here")


class RedisServer:
    """A Redis server on a port of its own, which remains when it is started again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(16) == b"+PONG\r\n":
                    return
            time.sleep(0.01)
        raise AssertionError("redis-server does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
