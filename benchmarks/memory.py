"""Resident memory of idle connections, next to a bare asyncio protocol that only holds its socket.

    python -m benchmarks.memory [--count 10000] [--loop asyncio] [--out benchmarks/results/memory-DATE.json]

Each server is a process of its own. This process opens the connections, without a library, and asks the server for its
resident size: with no connection (after some that have come and gone, so that what is loaded once is there), with all
of them open, and after each has had one message of 1 KiB echoed. A figure is a difference divided by the number of
connections. It does not include what the kernel keeps for a socket, which is the same for all; it includes the last
message, since the handler's variable keeps it.

Compression is measured without sockets, in a process of its own: connections that have each exchanged one message, with
and without compression agreed. `tracemalloc` does not see zlib's memory, so this is the resident size as well.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import json
import os
import platform
import resource
import socket
import subprocess
import sys
from typing import Any

import zcws
from benchmarks.frames import BINARY, build, compressed
from benchmarks.peers.raw import REQUEST
from zcws.pool import Pool

#: What is measured: a name, and the environment of its server.
SERVERS = {"bare": {}, "zcws": {}, "zcws, event loop's transport": {"ZCWS_ENGINE": "0"}, "zcws, deflate": {}}

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
PAYLOAD = (b'{"symbol": "ABC", "bid": 12.5, "ask": 12.75}, ' * 23)[:1024]

#: The message in a client's frame, as it is and compressed.
FRAME = build(PAYLOAD, masked=True, first=BINARY)
COMPRESSED = compressed([PAYLOAD], level=-1, masked=True, first=BINARY)[0]

#: Connections that come and go before the first look: enough to fill every cache and free list.
WARM_UP = 200

#: The most connections that keep a context of 200 KiB each: together half a gigabyte.
MOST_CONTEXTS = 2_000


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def raise_limit() -> None:
    """Allows as many open files as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# ---- the measured process ----


class Bare(asyncio.Protocol):
    """The least that holds a socket and answers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


async def echo(ws: zcws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def serve(name: str) -> None:
    """Prints the port, then the resident size and the number of leased rings for each line of input."""
    connections: Any = ()
    if name == "bare":
        listening = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0, backlog=1024)
        port = listening.sockets[0].getsockname()[1]
    else:
        deflate = zcws.Deflate(server_no_context_takeover=True, client_no_context_takeover=True)
        compression = deflate if name.endswith("deflate") else None
        server = await zcws.serve(
            echo, "127.0.0.1", 0, backlog=1024, compression=compression, ping_interval=3600
        )
        port, connections = server.sockets[0].getsockname()[1], server.connections
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        rings = sum(ws.connection.reader._ring is not None for ws in connections)
        print(json.dumps({"resident": resident(), "rings": rings, "open": len(connections)}), flush=True)


#: Without sockets: what was agreed, and whether the compressor has been idle for its `idle_timeout`.
_NO_TAKEOVER = zcws.DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True)
CORES: dict[str, tuple[zcws.DeflateParameters | None, bool]] = {
    "plain": (None, False),
    "no context takeover": (_NO_TAKEOVER, False),
    "context takeover": (zcws.DeflateParameters(), False),
    "context takeover, idle": (zcws.DeflateParameters(), True),
}


def measure_core(count: int, agreement: zcws.Agreement, *, idle: bool) -> float:
    """Bytes of each of `count` connections that have exchanged one message and, if `idle`, then nothing for a while."""
    frame = FRAME if agreement.deflate is None else COMPRESSED
    pool = Pool()

    def exchange() -> zcws.Connection:
        connection = zcws.Connection(is_client=False, agreement=agreement, pool=pool)
        connection.receive_bytes(frame)
        if connection.read_message() != PAYLOAD or connection.read_message() is not zcws.NEED_MORE:
            raise ValueError("the message did not arrive")
        connection.send(PAYLOAD)
        connection.take()
        while idle and connection.compressor is not None and connection.compressor.tick():
            pass
        return connection

    kept = [exchange() for _ in range(WARM_UP)]
    before = resident()
    kept += [exchange() for _ in range(count)]
    return (resident() - before) / count


# ---- the measuring process ----


class Measured:
    """A server process."""

    def __init__(self, name: str, loop: str) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.memory", "--serve", name, "--loop", loop]
        environment = {**os.environ, **SERVERS[name]}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self.port = int(self._read())

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self) -> dict[str, int]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer: dict[str, int] = json.loads(self._read())
        return answer

    def open(self) -> socket.socket:
        """A connection that is open."""
        sock = socket.create_connection(("127.0.0.1", self.port))
        if self.name != "bare":
            sock.sendall(REQUEST[:-2] + (OFFER if self.name.endswith("deflate") else b"") + b"\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(4096)
            if not head.startswith(b"HTTP/1.1 101 ") or (b"deflate" in head) is not self.name.endswith(
                "deflate"
            ):
                raise ValueError(f"the server answered {head!r}")
        return sock

    def exchange(self, sock: socket.socket) -> None:
        """One message each way."""
        if self.name == "bare":
            data, expected = PAYLOAD, len(PAYLOAD)
        elif self.name.endswith("deflate"):
            data, expected = COMPRESSED, 2
        else:
            data, expected = FRAME, 4 + len(PAYLOAD)
        sock.sendall(data)
        received = b""
        while len(received) < expected:
            received += sock.recv(4096)

    def stop(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.kill()
        self.process.wait()


def measure_server(name: str, loop: str, count: int) -> dict[str, float]:
    """Bytes of each connection to one kind of server."""
    server = Measured(name, loop)
    try:
        for sock in [server.open() for _ in range(WARM_UP)]:
            server.exchange(sock)
            sock.close()
        before = server.ask()
        while before["open"]:
            before = server.ask()
        sockets = [server.open() for _ in range(count)]
        opened = server.ask()
        for sock in sockets:
            server.exchange(sock)
        exchanged = server.ask()
        for sock in sockets:
            sock.close()
    finally:
        server.stop()
    return {
        "open": round((opened["resident"] - before["resident"]) / count),
        "after_one_message": round((exchanged["resident"] - before["resident"]) / count),
        "rings_held": exchanged["rings"],
    }


def measure_compression(count: int) -> dict[str, int]:
    """Bytes that compression adds to each connection, without a socket."""
    figures = {}
    for kind in CORES:
        connections = min(count, MOST_CONTEXTS) if kind.startswith("context") else count
        command = [sys.executable, "-m", "benchmarks.memory", "--core", kind, "--count", str(connections)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        figures[kind] = round(json.loads(done.stdout))
    plain = figures.pop("plain")
    return {kind: figure - plain for kind, figure in figures.items()}


def measure(count: int, loop: str = "asyncio") -> dict[str, Any]:
    """All figures, as they are written to the file."""
    raise_limit()
    return {
        "date": datetime.date.today().isoformat(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "loop": loop,
        "connections": count,
        "unit": "bytes of resident memory for each connection",
        "servers": {name: measure_server(name, loop, count) for name in SERVERS},
        "for compression, without sockets": measure_compression(count),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--out")
    parser.add_argument("--serve", choices=list(SERVERS), help=argparse.SUPPRESS)
    parser.add_argument("--core", choices=list(CORES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        raise_limit()
        run(options.loop, serve(options.serve))
    elif options.core:
        parameters, idle = CORES[options.core]
        print(measure_core(options.count, zcws.Agreement(deflate=parameters), idle=idle))
    else:
        text = json.dumps(measure(options.count, options.loop), indent=2)
        print(text)
        if options.out:
            with open(options.out, "w") as file:
                file.write(text + "\n")


def run(loop: str, coroutine: Any) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(coroutine)
    else:
        asyncio.run(coroutine)


if __name__ == "__main__":
    main()
