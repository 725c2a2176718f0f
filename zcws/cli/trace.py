"""`zcws trace`: a proxy that lets every byte pass, and prints the frames that it sees in both directions.

Nothing is terminated or repaired here: what one side sends is what the other gets, illegal frames and all, HTTP or not.
Only the `Host` of the request becomes the server's, for which the whole head of a request is waited for. A server that
cannot be reached is a 502 for the client. The printing side reads a copy (`Tap`), and gives up on a direction that
makes no sense without ending it.

HTTP/2 passes too, but is not shown: its frames are different, and its heads are compressed.

    client ----bytes----> here ----bytes----> server
                           |
                          Tap, one for each direction
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from zcws.cli.common import Failure, add_server, authority, client_context, port
from zcws.cli.reasons import refusal, unreachable
from zcws.cli.terminal import Terminal, Unwritable
from zcws.errors import printable
from zcws.http import text_response
from zcws.http2 import PREFACE
from zcws.trace import Tracer
from zcws.uri import parse_uri

__all__ = ["Tap", "add"]

#: Bytes that are read at once.
CHUNK = 64 * 1024

#: Bytes of a head that are waited for: what asyncio's streams allow, and several times what servers do.
MAX_HEAD = 64 * 1024

#: What is said in place of lines.
HTTP_2 = "this is HTTP/2, which passes but is not shown: only HTTP/1.1 is"
NO_HEAD = "this passes but is not shown: no head of HTTP/1.1 has ended within 64 KiB"

_AGREES = re.compile(rb"(?im)^sec-websocket-extensions:.*permessage-deflate")

#: Bytes of a payload that are shown: a line or two of a terminal.
SHOWN = 120


def add(commands: Any) -> None:
    """Adds the command and its options."""
    trace = commands.add_parser(
        "trace",
        help="print the frames between a client and a server",
        description="A proxy: point the client at it, and see what the two say to each other.",
    )
    add_server(trace)
    trace.add_argument(
        "--listen", type=port, default=9000, metavar="PORT", help="port of the proxy (default: %(default)s)"
    )
    trace.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    trace.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the proxy until Ctrl-C."""
    asyncio.run(Proxy(options).serve())
    return 0


class Tap:
    """Reads one direction of one connection, and says what it sees, line by line: an HTTP head, then frames.

    Args:
        other: the tap of the client's direction, given to that of the server: its response says what was agreed.
    """

    def __init__(self, other: Tap | None = None) -> None:
        self._other = other
        self._head: bytearray | None = bytearray()  # as far as it has come; None when all of it has
        self._has_frames = True
        self._lines: list[str] = []
        self._frames = Tracer(self._lines.append, shown=SHOWN)

    def expect_deflate(self) -> None:
        """Permessage-deflate was agreed: messages are decompressed."""
        self._frames.inflates = True

    def look_away(self) -> None:
        """Nothing of this direction can be shown."""
        self._head, self._has_frames = None, False

    def feed(self, data: bytes) -> list[str]:
        """The lines that these bytes complete."""
        if self._head is not None:
            data = self._read_http(self._head, data)
        if self._has_frames:
            self._frames.feed(data)
        lines = self._lines.copy()
        self._lines.clear()
        return lines

    def end(self) -> list[str]:
        """The lines of a head that has no end, or not the one that RFC 9112 asks for."""
        head, self._head = self._head, None
        return [printable(line) for line in re.split(r"[\r\n]+", (head or b"").decode("latin-1")) if line]

    def _read_http(self, head: bytearray, data: bytes) -> bytes:
        """Returns what stands behind the head."""
        head += data
        while (end := head.find(b"\r\n\r\n")) >= 0:
            lines = head[:end].decode("latin-1").split("\r\n")
            self._lines += map(printable, lines)
            status = lines[0].split(" ")[1:2] if lines[0].startswith("HTTP/") else []
            rest = bytes(head[end + 4 :])
            if status and status[0].startswith("1") and status != ["101"]:
                head[:] = rest  # RFC 9110 15.2: the final response comes after it
                continue
            self._head = None
            # After anything but a request or a 101 there are no frames: a page, an error.
            self._has_frames = status in ([], ["101"])
            if self._other is not None and _AGREES.search(head[:end]):
                self.expect_deflate()
                self._other.expect_deflate()
            return rest
        if len(head) > MAX_HEAD:
            self._lines.append(NO_HEAD)
            self.look_away()
        return b""


class Proxy:
    """Listens, and makes a connection to the server for each client."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._told = options
        self._server = parse_uri(options.url)
        self._ssl = client_context(options)
        self._numbers = itertools.count(1)
        self._passing: set[asyncio.Task[None]] = set()
        self._terminal = Terminal()
        self._unshown: Unwritable | None = None  # what keeps us from printing anything more
        self._is_useless = asyncio.Event()

    async def serve(self) -> None:
        """Serves until it is cancelled. Raises `Unwritable` when nothing can be printed any more."""
        told = self._told
        try:
            server = await asyncio.start_server(self._accept, told.host, told.listen)
        except (OSError, UnicodeError) as error:
            raise Failure(refusal(error, told.host, told.listen, "--listen")) from None
        port = server.sockets[0].getsockname()[1]
        path = self._server.path.partition("?")[0]
        # With the path, because the one that passes here is the client's.
        where = authority(told.host, port) + (path if path != "/" else "")
        self._terminal.say(f"zcws traces ws://{where} to {self._server.shown} (Ctrl-C stops it)")
        told.has_begun = True
        try:
            await self._is_useless.wait()
        finally:
            server.close()
        assert self._unshown is not None
        raise self._unshown

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: CPython before 3.12 prints a traceback for each of its own that Ctrl-C cancels.
        passing = asyncio.get_running_loop().create_task(self._pass_on(reader, writer))
        self._passing.add(passing)
        passing.add_done_callback(self._passing.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        try:
            server = await asyncio.open_connection(self._server.host, self._server.port, ssl=self._ssl)
        except OSError as error:
            sentence = unreachable(self._told.url, error)
            self._say(number, "!", sentence)
            await self._refuse(reader, writer, sentence)
            return
        up, say = Tap(), partial(self._say, number)
        down = Tap(up)
        request, response = partial(self._begin_request, number, up), partial(begin_response, down)
        try:
            await asyncio.gather(
                copy(reader, server[1], request, up, partial(say, ">")),
                copy(server[0], writer, response, down, partial(say, "<")),
            )
        finally:
            for end in (writer, server[1]):
                end.close()
            self._say(number, "|", "the connection has ended")

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sentence: str
    ) -> None:
        """RFC 9110 15.6.3: a gateway that gets no answer. If we hung up, the client would look for TLS here."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")  # what is unread would turn closing into a reset
            writer.write(text_response(502, sentence).serialize())
            await writer.drain()
        writer.close()

    async def _begin_request(self, number: int, up: Tap, reader: asyncio.StreamReader) -> bytes:
        """The head, as the server gets it; or what has come instead of one."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            return error.partial
        except asyncio.LimitOverrunError:
            return await reader.read(CHUNK)
        if PREFACE.startswith(head):
            up.look_away()
            self._say(number, "!", HTTP_2)
        # RFC 9112 3.2: the Host of the server that it goes to, which a virtual host depends on.
        host = b"\\g<1>" + self._server.host_header.encode()
        return re.sub(rb"(?im)^(host:[ \t]*)[^\r\n]*", host, head, count=1)

    def _say(self, number: int, arrow: str, line: str) -> None:
        """Prints one line. If that fails, `serve` ends: no connection would end because of it."""
        now = time.time()
        stamp = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
        style = {">": "cyan", "<": "green", "!": "red"}.get(arrow, "dim")
        try:
            self._terminal.say(f"{stamp} {number} {arrow} {line}", style)
        except Unwritable as error:
            self._unshown = error
            self._is_useless.set()


async def begin_response(down: Tap, reader: asyncio.StreamReader) -> bytes:
    """What comes first, whatever it is: a server may say something that is no head, and wait."""
    data = await reader.read(CHUNK)
    # RFC 9113 3.4: a server of HTTP/2 begins with a frame of less than 64 KiB, which may come first of all.
    if data.startswith(b"\0"):
        down.look_away()
    return data


async def copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    begin: Callable[[asyncio.StreamReader], Awaitable[bytes]],
    tap: Tap,
    say: Callable[[str], None],
) -> None:
    """Copies one direction, to its end. `begin` reads what comes first, and returns what is sent in its place."""
    with contextlib.suppress(OSError):
        data = await begin(reader)
        while data:
            for line in tap.feed(data):
                say(line)
            writer.write(data)
            await writer.drain()
            data = await reader.read(CHUNK)
    for line in tap.end():
        say(line)
    with contextlib.suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
