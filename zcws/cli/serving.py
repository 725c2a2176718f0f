"""`zcws serve`: an echo, a chat, files; in one process, or in several under a supervisor (supervisor.py)."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain
from typing import Any

import zcws
from zcws.cli import files, page, supervisor
from zcws.cli.common import (
    Failure,
    authority,
    port,
    runner,
    seconds_or_none_at_all,
    server_context,
    whole,
)
from zcws.cli.reasons import refusal
from zcws.cli.terminal import say

__all__ = ["add"]

#: The port of `make serve`: the one that the examples of `websockets` made usual.
PORT = 8765

#: The most processes that share a port: each costs 30 MB, and a machine has fewer cores.
WORKERS = 1024

#: Seconds between Ctrl-C, or the end of --drain, and the end, at most: for peers that do not answer the Close.
GOODBYE = 1.0


def add(commands: Any) -> None:
    """Adds the command and its options."""
    serve = commands.add_parser("serve", help="run a server", description="Runs a server until Ctrl-C.")
    service = serve.add_mutually_exclusive_group()
    service.add_argument("--echo", action="store_true", help="send every message back")
    service.add_argument("--chat", action="store_true", help="send every message to everybody")
    serve.add_argument("--static", metavar="DIR", help="answer GET with the files in this folder")
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    serve.add_argument("--port", type=port, default=PORT, help="0 takes a free one (default: %(default)s)")
    serve.add_argument("--ssl-cert", metavar="FILE", help="certificate chain (PEM), for wss")
    serve.add_argument("--ssl-key", metavar="FILE", help="its key, where it is not in the same file")
    serve.add_argument(
        "--loop", choices=["asyncio", "uvloop"], default="asyncio", help="event loop (default: %(default)s)"
    )
    serve.add_argument("--compression", action="store_true", help="agree to permessage-deflate")
    serve.add_argument("--http2", action="store_true", help="speak HTTP/2, too (RFC 8441)")
    serve.add_argument("--reuse-port", action="store_true", help="share the port with other processes")
    serve.add_argument(
        "--workers",
        type=whole(WORKERS),
        metavar="N",
        help="run N processes on the port, and replace those that die",
    )
    serve.add_argument(
        "--drain",
        type=seconds_or_none_at_all,
        default=0,
        metavar="SECONDS",
        help="after SIGTERM, wait that long for clients to leave by themselves",
    )
    # From a supervisor: these descriptors listen, and we end when stdin does.
    serve.add_argument("--worker", type=descriptors, help=argparse.SUPPRESS)
    serve.set_defaults(run=run, parser=serve)


def run(options: argparse.Namespace) -> int:
    """Serves until a signal says stop."""
    if options.ssl_key and not options.ssl_cert:
        options.parser.error("--ssl-key needs --ssl-cert")
    if not (options.echo or options.chat or options.static):
        options.parser.error("what to serve? one of --echo, --chat, --static DIR")
    if options.workers is not None:
        if options.chat:
            options.parser.error("a --chat in several processes is several chats: leave out --workers")
        # By PyInstaller and its like: then `sys.executable` is that program, and no Python.
        if getattr(sys, "frozen", False):
            raise Failure("--workers starts other Pythons, and this program has none but its own")
        asyncio.run(supervisor.supervise(options))
        return 0
    context = server_context(options.ssl_cert, options.ssl_key)
    runner(options.loop)(listen_and_wait(options, context))
    return 0


async def listen_and_wait(options: argparse.Namespace, context: ssl.SSLContext | None) -> None:
    """Serves until Ctrl-C, SIGTERM, or the end of the supervisor."""
    stop = Stop()
    stop.listen(is_worker=options.worker is not None)
    servers = await listen(options, context)
    try:
        say(announcement(servers[0].sockets[0], options))
        options.has_begun = True
        await stop.event.wait()
        if stop.drains and options.drain > 0:
            stop.event.clear()
            for server in servers:
                server.close(drain=options.drain)
            await first_of(all_closed(servers), stop.event.wait(), asyncio.sleep(options.drain))
    finally:
        await say_goodbye(servers)


class Stop:
    """The signals that end a server. `drains`: it was SIGTERM, which lets clients finish; a second signal does not."""

    def __init__(self) -> None:
        self.event: asyncio.Event = asyncio.Event()
        self.drains: bool = False

    def listen(self, *, is_worker: bool) -> None:
        """Handles the signals. Before anything listens, because Ctrl-C may follow the announcement at once."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGINT, self.event.set)
            loop.add_signal_handler(signal.SIGTERM, self._terminate)
            if is_worker:
                loop.add_reader(sys.stdin.fileno(), self._orphaned)
        except NotImplementedError:
            pass  # Windows: KeyboardInterrupt cancels the task instead

    def _terminate(self) -> None:
        self.drains = True
        self.event.set()

    def _orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        self.event.set()


async def first_of(*waits: Awaitable[Any]) -> None:
    """Waits until one of them is done, and cancels the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


async def all_closed(servers: list[zcws.Server]) -> None:
    """Waits until all of them have closed."""
    await asyncio.gather(*(server.wait_closed() for server in servers))


def descriptors(text: str) -> list[int]:
    """Numbers with commas between them."""
    return [int(number) for number in text.split(",")]


async def listen(options: argparse.Namespace, context: ssl.SSLContext | None) -> list[zcws.Server]:
    """The server, listening; in a worker, one for each of its sockets."""
    handler: Callable[[zcws.WebSocket], Awaitable[None]] = chat() if options.chat else echo
    hooks: list[Any] = [partial(page.answer, what="chat" if options.chat else "echo")]
    if options.static:
        hooks = [zcws.health(), files.Files(options.static, is_all=not (options.echo or options.chat))]
    places: list[dict[str, Any]] = [{"host": options.host, "port": options.port}]
    if options.worker is not None:
        places = [{"sock": socket.socket(fileno=number)} for number in options.worker]
    elif options.reuse_port:
        places[0]["reuse_port"] = True
    try:
        return [
            await zcws.serve(
                handler,
                ssl=context,
                compression=zcws.Deflate() if options.compression else None,
                process_request=hooks,
                http2=options.http2,
                **place,
            )
            for place in places
        ]
    except (OSError, UnicodeError) as error:
        raise Failure(refusal(error, options.host, options.port)) from None


def announcement(sock: socket.socket, options: argparse.Namespace) -> str:
    """The line that says what is where."""
    host, port = options.host, sock.getsockname()[1]
    s = "s" if options.ssl_cert else ""
    # A browser cannot go to "every address of this machine".
    browsable = "localhost" if host in ("", "0.0.0.0", "::") else host
    listens = f"zcws listens on ws{s}://{authority(host, port)}"
    there = f"at http{s}://{authority(browsable, port)}/ (Ctrl-C stops it)"
    if not options.static:
        return f"{listens}; a page to try it is {there}"
    if options.echo or options.chat:
        return f"{listens}; the files of {options.static} are {there}"
    return f"zcws serves the files of {options.static} {there}"


async def echo(ws: zcws.WebSocket) -> None:
    """Frames, not messages: a payload goes out from where it came in."""
    while True:
        frame = await ws.read_frame()
        if frame.opcode in (zcws.OpCode.TEXT, zcws.OpCode.BINARY):
            await ws.write_frame(frame)


def chat() -> Callable[[zcws.WebSocket], Awaitable[None]]:
    """A handler that sends what anybody says to everybody; a client that does not read misses messages."""
    everybody: set[zcws.WebSocket] = set()

    async def join(ws: zcws.WebSocket) -> None:
        everybody.add(ws)
        try:
            async for message in ws:
                zcws.broadcast(everybody, message)
        finally:
            everybody.discard(ws)

    return join


async def say_goodbye(servers: list[zcws.Server]) -> None:
    """Every peer gets a Close with 1001, and GOODBYE seconds to answer it."""
    for server in servers:
        server.close()
    try:
        await asyncio.wait_for(all_closed(servers), GOODBYE)
    except asyncio.TimeoutError:
        for ws in list(chain(*(server.connections for server in servers))):
            ws.abort()
        await all_closed(servers)
