"""Real sockets for the tests of the drivers: a place to run in (which event loop, plain or TLS), and a raw peer.

A raw peer speaks WebSocket by hand (wire.py), so it can do what no library does: stop in the middle of a frame,
never answer, close half of its socket, reset it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

import trustme
import wire

import zcws
from zcws.aio.settings import Options, pool_of
from zcws.aio.transport import place
from zcws.extensions import Agreement

T = TypeVar("T")

#: Seconds after which something that should have happened is called a failure. Nothing takes that long, except where
#: every access to memory is checked (.ci/memory.sh).
LONG = 20.0 * float(os.environ.get("ZCWS_PATIENCE", "1"))

#: Seconds to wait for something that should not happen.
SHORT = 0.05


async def soon(waiting: Awaitable[T]) -> T:
    """What should happen by itself."""
    return await asyncio.wait_for(waiting, LONG)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The same for a whole program."""
    asyncio.run(soon(main()))


async def until(condition: Callable[[], object]) -> None:
    """Until `condition` holds, while others run."""
    loop = asyncio.get_running_loop()
    end = loop.time() + LONG
    while not condition():
        assert loop.time() < end, "it did not happen"
        await asyncio.sleep(0.001)


async def keep_sending(ws: zcws.WebSocket) -> zcws.ConnectionClosed:
    """Sends until the connection has ended. Returns what the last send said."""
    while True:
        try:
            await ws.send("tick")
        except zcws.ConnectionClosed as error:
            return error
        await asyncio.sleep(0.001)


def unplaced(
    *,
    is_client: bool = False,
    on_frame: Any = None,
    on_message: Any = None,
    agreement: Agreement | None = None,
    **options: Any,
) -> zcws.WebSocket:
    """An open connection that has no transport yet."""
    loop = asyncio.get_running_loop()
    connection = zcws.Connection(
        is_client=is_client,
        entropy=os.urandom,
        agreement=agreement,
        pool=pool_of(loop),
        shows_messages=on_message is not None,
    )
    return zcws.WebSocket(
        loop, connection, Options(**{"ping_interval": None, **options}), look=on_frame or on_message
    )


def placed(sock: socket.socket, **settings: Any) -> zcws.WebSocket:
    """The same in the engine, on our end of a socket pair."""
    sock.setblocking(False)
    ws = unplaced(**settings)
    ws.connection_made(place(asyncio.get_running_loop(), sock, ws))
    return ws


def narrow(end: Any) -> None:
    """The system keeps a few hundred KiB each way, where it would keep up to ten MiB: a little fills it."""
    sock = end.get_extra_info("socket")
    if sock is None:
        return  # a stream of HTTP/2: its windows are narrow
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, buffer, 128 * 1024)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Closes a connection, and waits until nothing of it is left."""
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        try:
            await asyncio.wait_for(writer.wait_closed(), 1)
        except asyncio.TimeoutError:
            # CPython 3.10's TLS says goodbye and waits for the answer, also where nobody reads any more.
            writer.transport.abort()
            await asyncio.sleep(0.01)


class Others:
    """Whoever else wants to run: `async with Others() as others` counts in `others.turns` how often they can."""

    turns = 0

    async def _count(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)

    async def __aenter__(self) -> Others:
        self._counting = asyncio.ensure_future(self._count())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._counting.cancel()


class Certificates:
    """A certificate authority of our own, and contexts that trust it."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


class RawPeer:
    """The other end of a connection that is open.

    Args:
        masks: whether its frames are masked: it is a client.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, masks: bool) -> None:
        self.reader = reader
        self.writer = writer
        self.key = wire.KEY if masks else None

    def frame(self, opcode: int, payload: bytes = b"", **options: Any) -> bytes:
        return wire.frame(opcode, payload, key=self.key, **options)

    async def send(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        await self.send_bytes(self.frame(opcode, payload, **options))

    async def send_bytes(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read(self) -> wire.Seen:
        """The next frame."""
        return await soon(self._read())

    async def _read(self) -> wire.Seen:
        data = await self.reader.readexactly(2)
        extra = {126: 2, 127: 8}.get(data[1] & 0x7F, 0) + (4 if data[1] & 0x80 else 0)
        data += await self.reader.readexactly(extra)
        size = data[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack_from("!H", data, 2)
        elif size == 127:
            (size,) = struct.unpack_from("!Q", data, 2)
        data += await self.reader.readexactly(size)
        return wire.parse(data)[0]

    async def rest(self) -> list[wire.Seen]:
        """Every frame until the other side ends the stream."""
        return wire.parse(await soon(self.reader.read()))

    async def is_silent(self) -> bool:
        """Whether nothing arrives, not even the end of the stream."""
        try:
            await asyncio.wait_for(self.reader.read(1), SHORT)
        except asyncio.TimeoutError:
            return True
        return False

    async def close(self) -> None:
        """Ends the TCP connection."""
        await hang_up(self.writer)

    def cut(self) -> None:
        """Ends both directions, inside of this call: what comes from now on is answered with a RST."""
        own = socket.socket(fileno=self.writer.get_extra_info("socket").fileno())
        try:
            own.shutdown(socket.SHUT_RDWR)
        finally:
            own.detach()

    def reset(self) -> None:
        """Ends it with a RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Place:
    """Where a test runs: an event loop by name, plain or TLS."""

    shows_frames = True

    @property
    def shown_to(self) -> str:
        """What a function is called that a test gives as `on_frame`."""
        return "on_frame" if self.shows_frames else "on_message"

    def __init__(self, loop: str, certificates: Certificates | None) -> None:
        self.loop = loop
        self.certificates = certificates

    @property
    def is_tls(self) -> bool:
        return self.certificates is not None

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        if self.loop == "uvloop":
            import uvloop

            return uvloop.run(main)
        return asyncio.run(main)

    @contextlib.contextmanager
    def new_loop(self) -> Iterator[asyncio.AbstractEventLoop]:
        """For a test that runs a loop again when it has ended. It stops if it does not end."""
        if self.loop == "uvloop":
            import uvloop

            loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        else:
            loop = asyncio.new_event_loop()
        loop.call_later(LONG, loop.stop)
        try:
            yield loop
        finally:
            loop.close()

    def serve(self, handler: Any, **options: Any) -> zcws.serve:
        context = self.certificates.server if self.certificates else None
        return zcws.serve(handler, "127.0.0.1", 0, **{"ssl": context, **options})

    def uri(self, port: int, path: str = "/") -> str:
        return f"{'wss' if self.is_tls else 'ws'}://127.0.0.1:{port}{path}"

    def connect(self, server: zcws.Server | int, path: str = "/", **options: Any) -> zcws.connect:
        port = server if isinstance(server, int) else port_of(server)
        context = self.certificates.client if self.certificates else None
        return zcws.connect(self.uri(port, path), **{"ssl": context, **options})

    async def open(self, port: int, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection before its handshake."""
        context = self.certificates.client if self.certificates else None
        return await asyncio.open_connection("127.0.0.1", port, ssl=context, **options)

    def raw(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, masks: bool) -> RawPeer:
        return RawPeer(reader, writer, masks=masks)

    @contextlib.asynccontextmanager
    async def raw_client(
        self, server: zcws.Server, *, head: bytes = b"", behind: bytes = b"", **options: Any
    ) -> AsyncIterator[RawPeer]:
        """A peer that has opened a WebSocket by hand; `behind` is sent together with the end of the request."""
        reader, writer = await self.open(port_of(server), **options)
        peer = self.raw(reader, writer, masks=True)
        try:
            writer.write((head or request()) + behind)
            answer = await soon(reader.readuntil(b"\r\n\r\n"))
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            yield peer
        finally:
            await peer.close()

    async def send_and_leave(self, server: zcws.Server, parts: Iterable[bytes], *, head: bytes = b"") -> None:
        """A client over TLS, in a thread: it sends `parts`, each in records of its own, and ends the TCP stream."""
        assert self.certificates is not None
        context = self.certificates.client

        def follow() -> None:
            with socket.create_connection(("127.0.0.1", port_of(server)), LONG) as raw:
                with (
                    context.wrap_socket(raw, server_hostname="localhost") as sock,
                    contextlib.suppress(OSError),
                ):
                    sock.sendall(head or request())
                    assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
                    for part in parts:
                        sock.sendall(part)
                    socket.socket.shutdown(sock, socket.SHUT_WR)
                    while sock.recv(4096):
                        pass

        await asyncio.get_running_loop().run_in_executor(None, follow)

    @contextlib.asynccontextmanager
    async def raw_server(
        self, script: Callable[[RawPeer], Awaitable[None]], *, headers: bytes = b"", behind: bytes = b""
    ) -> AsyncIterator[int]:
        """A server that opens each WebSocket by hand and then follows `script`; its port."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await soon(reader.readuntil(b"\r\n\r\n"))
            writer.write(response(head, headers) + behind)
            await script(self.raw(reader, writer, masks=False))

        async with self.listen(serve) as port:
            yield port

    @contextlib.asynccontextmanager
    async def listen(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> AsyncIterator[int]:
        """A server of bytes; its port. Each connection is closed when `serve` returns, and what it raises is raised."""
        failures: list[BaseException] = []
        tasks: set[asyncio.Task[None]] = set()

        async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.current_task())  # type: ignore[arg-type]
            try:
                await serve(reader, writer)
            except BaseException as error:
                failures.append(error)
            finally:
                await hang_up(writer)

        async with self.listening(follow) as port:
            yield port
        if tasks:
            await asyncio.wait(tasks)
        if failures:
            raise failures[0]

    @contextlib.asynccontextmanager
    async def listening(
        self, follow: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> AsyncIterator[int]:
        """A server that calls `follow` for each connection; its port."""
        context = self.certificates.server if self.certificates else None
        server = await asyncio.start_server(follow, "127.0.0.1", 0, ssl=context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Inside of it this process gets no descriptor.

    Above the standard streams, that is: with a limit just above the highest in use, whatever another thread or the
    collector closes meanwhile can be had again.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody listens. Who is told of it can; the system gives it to nobody who asks for any.

    (One that was bound and is closed again it may give to another test, in another process.)
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def port_of(server: zcws.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def request(*lines: str, target: str = "/") -> bytes:
    """The head of a client's opening handshake."""
    key = base64.b64encode(os.urandom(16)).decode()
    head = [
        f"GET {target} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1")


def response(head: bytes, headers: bytes = b"") -> bytes:
    """The answer to a client's opening handshake. RFC 6455 4.2.2."""
    (line,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    key = line.split(b":", 1)[1].strip()
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n" + headers + b"\r\n"
    )


class MessagesPlace(Place):
    """A function that a test gives as `on_frame` is shown a frame that is made of each message."""

    shows_frames = False

    def serve(self, handler: Any, **options: Any) -> zcws.serve:
        return super().serve(handler, **by_message(options))

    def connect(self, server: zcws.Server | int, path: str = "/", **options: Any) -> zcws.connect:
        return super().connect(server, path, **by_message(options))


def by_message(options: dict[str, Any]) -> dict[str, Any]:
    """The same options with `on_message` for `on_frame`."""
    look = options.pop("on_frame", None)
    if look is None:
        return options

    def on_message(ws: zcws.WebSocket, message: str | bytes) -> None:
        look(ws, zcws.Frame.text(message) if isinstance(message, str) else zcws.Frame.binary(message))

    return {**options, "on_message": on_message}


class Collected:
    """Messages, however they are read; each step of `read` may be cancelled, and is then begun again."""

    def __init__(self, ws: zcws.WebSocket, how: str, buffer: zcws.PayloadBuffer | None = None) -> None:
        self.messages: list[str | bytes] = []
        self._ws = ws
        self._how = how
        self._batches = ws.batches()
        self._buffer = buffer
        self._stream: Any = None
        self._pieces: list[Any] = []

    async def read(self) -> None:
        if self._how == "recv":
            self.messages.append(await self._ws.recv())
        elif self._how == "iterate":
            self.messages.append(await anext(self._ws))
        elif self._how == "read_frame":
            self._keep(await self._ws.read_frame(self._buffer))
        elif self._how == "batches":
            for frame in await anext(self._batches):
                self._keep(frame)
        else:
            await self._read_piece()

    def _keep(self, frame: zcws.Frame) -> None:
        if frame.opcode in (zcws.OpCode.TEXT, zcws.OpCode.BINARY):
            self.messages.append(frame.text if frame.opcode is zcws.OpCode.TEXT else frame.to_bytes())

    async def _read_piece(self) -> None:
        if self._stream is None:
            self._stream, self._pieces = self._ws.stream(), []
            await self._stream.__aenter__()
        try:
            self._pieces.append(await anext(self._stream))
        except StopAsyncIteration:
            await self._stream.__aexit__(None, None, None)
            self._stream = None
            is_text = self._pieces and isinstance(self._pieces[0], str)
            self.messages.append("".join(self._pieces) if is_text else b"".join(self._pieces))


async def echo(ws: zcws.WebSocket) -> None:
    """A handler that answers every message with itself."""
    async for message in ws:
        await ws.send(message)


async def swallow(ws: zcws.WebSocket) -> None:
    """A handler that reads and says nothing."""
    async for _ in ws:
        pass
