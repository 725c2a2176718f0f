"""The server of these tests: `python -m tests.faults.server KIND [option=value ...]`.

It echoes. A text message that begins with "/" is a command:

    /figures          what it holds and has used: JSON with fds, rss, cpu (seconds), connections, failures
    /flood N          it sends N binary messages of 64 KiB, numbered, and a Close
    /broadcast N      N broadcasts of 64 KiB to everybody else, one every 10 ms; answers with counts

It prints its port, and stops when its stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import threading
import time
from ast import literal_eval
from typing import Any

import zcws
import zcws.sync

from ..soak.gauge import of_self

PIECE = 64 * 1024

#: Errors that somebody logged: what a handler raised, what could not be accepted.
failures: list[str] = []


class Keep(logging.Handler):
    def emit(self, entry: logging.LogRecord) -> None:
        failures.append(self.format(entry))


def figures(connections: int) -> str:
    gauge = of_self()
    return json.dumps(
        {
            "fds": gauge.fds,
            "rss": gauge.rss,
            "cpu": time.process_time(),
            "connections": connections,
            "failures": failures,
        }
    )


def numbered(number: int) -> bytes:
    return b"%08d" % number + bytes(PIECE - 8)


async def broadcast(ws: zcws.WebSocket, server: zcws.Server, count: int) -> None:
    counts = {"sent": 0, "skipped": 0, "gone": 0}
    for number in range(count):
        others = [other for other in server.connections if other is not ws]
        delivery = zcws.broadcast(others, numbered(number))
        for name in counts:
            counts[name] += getattr(delivery, name)
        await asyncio.sleep(0.01)
    await ws.send(json.dumps(counts))


async def serve(options: dict[str, Any]) -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        async for message in ws:
            words = message.split() if isinstance(message, str) and message.startswith("/") else []
            if words[:1] == ["/figures"]:
                await ws.send(figures(len(server.connections)))
            elif words[:1] == ["/flood"]:
                for number in range(int(words[1])):
                    await ws.send(numbered(number))
                await ws.close()
            elif words[:1] == ["/broadcast"]:
                await broadcast(ws, server, int(words[1]))
            else:
                await ws.send(message)

    async with zcws.serve(handler, port=0, **options) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def serve_in_threads(options: dict[str, Any]) -> None:
    def handler(ws: zcws.sync.WebSocket) -> None:
        for message in ws:
            if message == "/figures":
                ws.send(figures(len(server.connections)))
            elif isinstance(message, str) and message.startswith("/flood"):
                for number in range(int(message.split()[1])):
                    ws.send(numbered(number))
                ws.close()
            else:
                ws.send(message)

    with zcws.sync.serve(handler, port=0, **options) as server:
        print(server.sock.getsockname()[1], flush=True)
        threading.Thread(target=server.serve_forever).start()
        sys.stdin.read()


def main() -> None:
    # Not below: asyncio warns of writes between a reset and its notice of it, on its own transports.
    logging.getLogger().addHandler(Keep(logging.ERROR))
    kind, *rest = sys.argv[1:]
    options: dict[str, Any] = {"host": "127.0.0.1", "close_timeout": 2.0}
    for text in rest:
        name, _, value = text.partition("=")
        options[name] = literal_eval(value)
    for name in ("RLIMIT_NOFILE", "RLIMIT_AS"):
        if (limit := options.pop(name, None)) is not None:
            resource.setrlimit(getattr(resource, name), (limit, limit))
    serve_in_threads(options) if kind == "sync" else asyncio.run(serve(options))


if __name__ == "__main__":
    main()
