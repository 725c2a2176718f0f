"""`zcws trace`: a proxy that lets every byte pass, and prints the frames that it sees in both directions.

Nothing is terminated or repaired here: what one side sends is what the other gets, illegal frames and all (only the
`Host` of the request becomes the server's). The printing side reads a copy (`Tap`), and gives up on a direction that
makes no sense without ending it.

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
import ssl
import time
import zlib
from typing import Any
from urllib.parse import urlsplit

from zcws import CloseCode, OpCode
from zcws.cli.common import Failure, add_client_options, authority, client_context, port
from zcws.cli.reasons import refusal, unreachable
from zcws.cli.terminal import Terminal, as_hex, printable

__all__ = ["Tap", "add"]

#: Bytes that are read at once.
CHUNK = 64 * 1024

#: Bytes of a payload that are kept to be shown, and characters that are.
KEPT, SHOWN = 4096, 120

#: Bytes of an HTTP head: what our own server accepts.
LONGEST_HEAD = 16 * 1024


def add(commands: Any) -> None:
    """Its command line."""
    trace = commands.add_parser(
        "trace",
        help="print the frames between a client and a server",
        description="A proxy: point the client at it, and see what the two say to each other.",
    )
    add_client_options(trace)
    trace.add_argument("--listen", type=port, default=9000, metavar="PORT", help="(default: %(default)s)")
    trace.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    trace.set_defaults(run=run, parser=trace)


def run(options: argparse.Namespace) -> int:
    """Until Ctrl-C."""
    asyncio.run(Proxy(options).serve())
    return 0


class Tap:
    """Reads one direction of one connection, and says what it sees, line by line.

    Attributes:
        deflated: whether permessage-deflate was agreed: then messages are decompressed.
    """

    def __init__(self) -> None:
        self.deflated = False
        self._data = bytearray()
        self._has_head = False
        self._is_lost = False
        self._rest = 0  # bytes of a payload that are still to come
        self._payload = bytearray()
        self._describe = ""
        self._opcode = 0
        self._key: bytes | None = None
        self._inflate = zlib.decompressobj(wbits=-15)  # RFC 7692 7.1.2: the largest window reads every other
        self._compressed = False
        self._is_last = True  # the frame ends its message

    def feed(self, data: bytes) -> list[str]:
        """What these bytes complete."""
        lines: list[str] = []
        self._data += data
        if not self._has_head and not self._read_http(lines):
            return lines
        while not self._is_lost and (self._read_payload(lines) if self._describe else self._read_head(lines)):
            pass
        if self._is_lost:
            self._data.clear()
        return lines

    def _read_http(self, lines: list[str]) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._data[:end].decode("latin-1").split("\r\n")
        del self._data[: end + 4]
        lines += [printable(line) for line in head]
        self._has_head = True
        # After anything but a request or a 101 there are no frames: a page, an error.
        self._is_lost = head[0].startswith("HTTP/") and head[0].split(" ")[1:2] != ["101"]
        return True

    def _read_head(self, lines: list[str]) -> bool:
        """RFC 6455 5.2. False: need more."""
        data = self._data
        if len(data) < 2:
            return False
        size, begin = data[1] & 0x7F, 2
        if size >= 126:
            begin = 4 if size == 126 else 10
            size = int.from_bytes(data[2:begin], "big")
        masked = data[1] & 0x80
        if len(data) < begin + (4 if masked else 0):
            return False
        self._key = bytes(data[begin : begin + 4]) if masked else None
        self._opcode, flags = data[0] & 0x0F, data[0] & 0xF0
        del data[: begin + (4 if masked else 0)]
        if self._opcode < 8:
            self._is_last = bool(flags & 0x80)
        self._rest, self._payload = size, bytearray()
        if self._opcode in (OpCode.TEXT, OpCode.BINARY):
            self._compressed = bool(flags & 0x40) and self.deflated
        self._describe = (
            f"{opcode_name(self._opcode)} {size} bytes{flag_names(flags)}{' masked' if masked else ''}"
        )
        return True

    def _read_payload(self, lines: list[str]) -> bool:
        """False: need more."""
        take = min(self._rest, len(self._data))
        # Decompression needs every byte; anything else only what is shown.
        keep = take if self._compressed else min(take, max(KEPT - len(self._payload), 0))
        self._payload += self._data[:keep]
        del self._data[:take]
        self._rest -= take
        if self._rest:
            return False
        lines.append(f"{self._describe} {self._shown()}".rstrip())
        self._describe = ""
        return True

    def _shown(self) -> str:
        payload = bytes(self._payload)
        if self._key is not None:
            payload = bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(self._key)))
        if self._opcode == OpCode.CLOSE:
            return close_words(payload)
        if self._compressed and self._opcode < 8:
            try:
                # RFC 7692 7.2.2: what the sender took off the end of a message.
                payload = self._inflate.decompress(payload + (b"\x00\x00\xff\xff" if self._is_last else b""))
            except zlib.error:
                self._is_lost = True
                return "(not deflate data: frames from here on are not shown)"
        return quoted(payload, is_binary=self._opcode == OpCode.BINARY)


def quoted(payload: bytes, *, is_binary: bool) -> str:
    """The beginning of a payload: text where it is text."""
    if not is_binary:
        with contextlib.suppress(UnicodeDecodeError):
            # Cut between characters: what is left out is at most three bytes.
            text = payload[: 4 * SHOWN].decode("utf-8", "strict" if len(payload) <= 4 * SHOWN else "ignore")
            return f'"{printable(text[:SHOWN])}"' + ("..." if len(text) > SHOWN else "")
    return as_hex(payload)


def close_words(payload: bytes) -> str:
    """RFC 6455 5.5.1."""
    if len(payload) < 2:
        return "without a code" if not payload else as_hex(payload)
    code = int.from_bytes(payload[:2], "big")
    name = f" {CloseCode(code).name}" if code in list(CloseCode) else ""
    return f"{code}{name} {quoted(payload[2:], is_binary=False) if payload[2:] else ''}".rstrip()


def opcode_name(opcode: int) -> str:
    return OpCode(opcode).name if opcode in list(OpCode) else f"opcode {opcode}"


def flag_names(flags: int) -> str:
    names = ((0x80, " fin"), (0x40, " rsv1"), (0x20, " rsv2"), (0x10, " rsv3"))
    return "".join(name for bit, name in names if flags & bit)


class Proxy:
    """Listens, and makes a connection to the server for each client."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._told = options
        try:
            url = urlsplit(options.url)
            given = url.port
        except ValueError as error:
            raise Failure(f"{options.url} is no URL: {error}") from None
        if url.scheme not in ("ws", "wss") or not url.hostname:
            raise Failure(f"{options.url} is not ws://HOST/ or wss://HOST/")
        self._ssl: ssl.SSLContext | None = client_context(options) if url.scheme == "wss" else None
        self._host, self._port = url.hostname, given or (443 if self._ssl else 80)
        self._netloc = url.netloc.rpartition("@")[2]
        self._numbers = itertools.count(1)
        self._terminal = Terminal()

    async def serve(self) -> None:
        """Until it is cancelled."""
        told = self._told
        try:
            server = await asyncio.start_server(self._pass_on, told.host, told.listen)
        except OSError as error:
            raise Failure(refusal(error, told.host, told.listen, "--listen")) from None
        port = server.sockets[0].getsockname()[1]
        where = authority(told.host, port)
        self._terminal.say(f"zcws traces ws://{where} to {told.url} (Ctrl-C stops it)")
        async with server:
            await server.serve_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        try:
            server = await asyncio.open_connection(self._host, self._port, ssl=self._ssl)
        except OSError as error:
            self._say(number, "!", unreachable(self._told.url, error))
            writer.close()
            return
        up, down = Tap(), Tap()
        try:
            await asyncio.gather(
                self._copy(number, ">", reader, server[1], up, up, self._request_to_server),
                self._copy(number, "<", server[0], writer, down, up, None),
            )
        finally:
            for end in (writer, server[1]):
                end.close()
            self._say(number, "|", "the connection has ended")

    async def _copy(
        self,
        number: int,
        arrow: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tap: Tap,
        other: Tap,
        rewrite: Any,
    ) -> None:
        """One direction, to its end."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            if rewrite is None:
                agreed = re.search(rb"(?im)^sec-websocket-extensions:.*permessage-deflate", head) is not None
                tap.deflated = other.deflated = agreed
            data = head if rewrite is None else rewrite(head)
            while data:
                for line in tap.feed(data):
                    self._say(number, arrow, line)
                writer.write(data)
                await writer.drain()
                data = await reader.read(CHUNK)
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()
            else:
                writer.close()

    def _request_to_server(self, head: bytes) -> bytes:
        """RFC 9112 3.2: the Host of the server that it goes to, which a virtual host depends on."""
        host = b"\\g<1>" + self._netloc.encode("idna" if not self._netloc.isascii() else "ascii")
        return re.sub(rb"(?im)^(host:[ \t]*)[^\r\n]*", host, head, count=1)

    def _say(self, number: int, arrow: str, line: str) -> None:
        now = time.time()
        stamp = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
        style = {">": "cyan", "<": "green", "!": "red"}.get(arrow, "dim")
        self._terminal.say(f"{stamp} {number} {arrow} {line}", style)
