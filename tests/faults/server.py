"""The server of these tests: `python -m tests.faults.server KIND [option=value ...]`.

It echoes. A text message that begins with "/" is a command:

    /figures          what it holds and has seen: JSON with fds, rss, connections, failures, ends
    /knocks           turns in which somebody wanted to be accepted; to answer this it needs no descriptor
    /flood N          it sends N binary messages of 64 KiB, numbered, and a Close
    /swallow ...      it answers nothing
    /broadcast N      N broadcasts of 64 KiB to everybody else, one every 10 ms; answers with counts

It prints its port, and stops when its stdin ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import selectors
import socket
import sys
import threading
import traceback
from ast import literal_eval
from typing import Any

import zcws
import zcws.sync

from ..soak.gauge import of_self

PIECE = 64 * 1024

#: Errors that somebody logged: what a handler raised, what could not be accepted.
failures: list[str] = []

#: How connections have ended: messages that were read, commands too, and the close code.
ends: list[tuple[int, int | None]] = []

#: Turns in which a selector said that somebody wants to be accepted.
knocks = 0


#: From CPython 3.15 on the first traceback imports what it is written with, and that takes a descriptor.
traceback.format_exception(OSError())


class Keep(logging.Handler):
    def emit(self, entry: logging.LogRecord) -> None:
        failures.append(self.format(entry))


def count_knocks() -> None:
    """Asks the selectors, which asyncio and threads have in common; who accepts, and how, is the server's business."""
    register, select = selectors.DefaultSelector.register, selectors.DefaultSelector.select
    doors: set[int] = set()

    def noting_register(self: Any, fileobj: Any, events: int, data: Any = None) -> Any:
        key = register(self, fileobj, events, data)
        doors.add(key.fd) if listens(key.fd) else doors.discard(key.fd)
        return key

    def counting_select(self: Any, timeout: float | None = None) -> Any:
        global knocks
        ready = select(self, timeout)
        knocks += any(key.fd in doors for key, _ in ready)
        return ready

    selectors.DefaultSelector.register = noting_register  # type: ignore[method-assign]
    selectors.DefaultSelector.select = counting_select  # type: ignore[method-assign]


def listens(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False  # the engine's epoll
    try:
        # PyPy has just had it block, for everybody; who asks a selector never wants that.
        sock.setblocking(False)
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        sock.detach()


def figures(connections: int) -> str:
    gauge = of_self()
    return json.dumps(
        {
            "fds": gauge.fds,
            "rss": gauge.rss,
            "connections": connections,
            "failures": failures,
            "ends": ends,
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


async def answer(ws: zcws.WebSocket, server: zcws.Server, message: str | bytes) -> None:
    words = message.split() if isinstance(message, str) and message.startswith("/") else []
    if words[:1] == ["/figures"]:
        await ws.send(figures(len(server.connections)))
    elif words[:1] == ["/knocks"]:
        await ws.send(str(knocks))
    elif words[:1] == ["/flood"]:
        for number in range(int(words[1])):
            await ws.send(numbered(number))
        await ws.close()
    elif words[:1] == ["/broadcast"]:
        await broadcast(ws, server, int(words[1]))
    elif words[:1] != ["/swallow"]:
        await ws.send(message)


async def serve(options: dict[str, Any]) -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        count = 0
        try:
            async for message in ws:
                count += 1
                with contextlib.suppress(zcws.ConnectionClosed):  # the rest is read all the same
                    await answer(ws, server, message)
        finally:
            ends.append((count, ws.close_code))

    async with zcws.serve(handler, port=0, **options) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def answer_in_thread(ws: zcws.sync.WebSocket, server: zcws.sync.Server, message: str | bytes) -> None:
    if message == "/figures":
        ws.send(figures(len(server.connections)))
    elif message == "/knocks":
        ws.send(str(knocks))
    elif isinstance(message, str) and message.startswith("/flood"):
        for number in range(int(message.split()[1])):
            ws.send(numbered(number))
        ws.close()
    elif not (isinstance(message, str) and message.startswith("/swallow")):
        ws.send(message)


def serve_in_threads(options: dict[str, Any]) -> None:
    def handler(ws: zcws.sync.WebSocket) -> None:
        count = 0
        try:
            for message in ws:
                count += 1
                with contextlib.suppress(zcws.ConnectionClosed):  # the rest is read all the same
                    answer_in_thread(ws, server, message)
        finally:
            ends.append((count, ws.close_code))

    with zcws.sync.serve(handler, port=0, **options) as server:
        print(server.sock.getsockname()[1], flush=True)
        threading.Thread(target=server.serve_forever).start()
        sys.stdin.read()


def main() -> None:
    # Not below: asyncio warns of writes between a reset and its notice of it, on its own transports.
    logging.getLogger().addHandler(Keep(logging.ERROR))
    count_knocks()
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
