"""HTTP/2 for the tests of the asyncio driver.

`Http2Place` is a place whose connections are streams, its raw peers too: those write and read bytes as over a socket,
on streams of ours (zcws/aio/http2.py). `Peer` is the other end of a whole connection, by h2 alone, and says what it
likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import net
import wire
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, RequestReceived, ResponseReceived
from h2.settings import SettingCodes, Settings

import zcws
from zcws.aio.http2 import Http2Connection
from zcws.aio.http2_asking import Http2Client
from zcws.aio.http2_frames import Going
from zcws.aio.http2_stream import Http2Stream
from zcws.http2 import ALPN, Fields, request_from, response_to

__all__ = ["ANSWER", "CLOSE", "HELLO", "Http2Place", "Peer", "certificates", "knock", "serve"]

#: What a client says of RFC 6455 on a stream, and what an echo answers to the first.
HELLO = wire.frame(wire.TEXT, b"hello", key=wire.KEY)
CLOSE = wire.frame(wire.CLOSE, wire.close_payload(1000), key=wire.KEY)
ANSWER = wire.frame(wire.TEXT, b"hello")


class Raw(asyncio.StreamReaderProtocol):
    """A raw peer on its stream. That this is reset is the end of it, as with a socket that is closed."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(None)


class Asker(Raw):
    """A raw client."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self.reader = asyncio.StreamReader(limit, loop=loop)
        super().__init__(self.reader, loop=loop)
        self.done = loop.create_future()  # the stream is there

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.done.set_result(transport)

    def fail(self, error: Exception) -> None:
        self.done.set_exception(error)


class Answerer(Http2Connection):
    """A raw server: each stream is `serve`d as a connection is by `asyncio.start_server`."""

    def __init__(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> None:
        super().__init__(asyncio.get_running_loop(), is_client=False)
        self._serve = serve

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            reader = asyncio.StreamReader(loop=self.loop)
            protocol = Raw(reader, self._serve, loop=self.loop)
            self.open(event.stream_id, protocol).give_head(request_from(event.headers))

    def _head_of(self, stream: Http2Stream, head: bytes) -> Fields:
        return response_to(head, is_websocket=True)

    def _stream_ended(self, stream: Http2Stream, exc: Exception | None) -> None:
        stream.lose(exc)


class RawPeer(net.RawPeer):
    """The other end of a stream."""

    def cut(self) -> None:
        self.writer.transport.abort()

    reset = cut


@functools.cache
def certificates() -> net.Certificates:
    """Contexts that offer HTTP/2: those of others must not."""
    made = net.Certificates()
    for context in (made.server, made.client):
        context.set_alpn_protocols(ALPN)
    return made


class Http2Place(net.Place):
    """An event loop, and HTTP/2 in the clear or over TLS."""

    def __init__(self, loop: str, *, tls: bool) -> None:
        super().__init__(loop, certificates() if tls else None)

    def serve(self, handler: Any, **options: Any) -> zcws.serve:
        return super().serve(handler, **{"http2": True, **options})

    def connect(self, server: zcws.Server | int, path: str = "/", **options: Any) -> zcws.connect:
        return super().connect(server, path, **{"http2": True, **options})

    async def open(
        self, port: int, *, limit: int = 2**16, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop, context = asyncio.get_running_loop(), self.certificates and self.certificates.client
        asker = Asker(loop, limit)
        make: Any = lambda: Http2Client(loop, asker)  # type: ignore[arg-type]  # noqa: E731
        await loop.create_connection(make, "127.0.0.1", port, ssl=context, **options)
        transport = await net.soon(asker.done)
        return asker.reader, asyncio.StreamWriter(transport, asker, asker.reader, loop)

    def raw(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, masks: bool) -> net.RawPeer:
        return RawPeer(reader, writer, masks=masks)

    @contextlib.asynccontextmanager
    async def listening(
        self, follow: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> AsyncIterator[int]:
        context = self.certificates and self.certificates.server
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Answerer(follow), "127.0.0.1", 0, ssl=context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


def serve(handler: Any = net.echo, **options: Any) -> zcws.serve:
    """A server of ours, in the clear, for `Peer`s."""
    return zcws.serve(handler, "127.0.0.1", 0, **{"http2": True, "ping_interval": None, **options})


E = TypeVar("E", bound=Event)


class Peer:
    """The other end of a connection of HTTP/2.

    Attributes:
        h2: what it may say; `flush` sends that.
        events: all that it has heard, but not asked for.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool, **checks: bool
    ) -> None:
        self.reader, self.writer = reader, writer
        config = H2Configuration(client_side=is_client, header_encoding="latin-1", **checks)  # type: ignore[arg-type]
        self.h2 = H2Connection(config)
        self.h2.state_machine = Going()
        self.events: list[Event] = []

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def begin(self, **settings: int) -> None:
        wanted = {SettingCodes[name]: value for name, value in settings.items()}
        self.h2.local_settings = Settings(client=self.h2.config.client_side, initial_values=wanted)
        self.h2.initiate_connection()
        await self.flush()

    async def hear(self) -> bool:
        """More of what the other side says. False: it has ended."""
        data = await net.soon(self.reader.read(2**16))
        if data:
            self.events += self.h2.receive_data(data)
            await self.flush()
        return bool(data)

    async def until(self, kind: type[E], number: int | None = None) -> E:
        """The next event of a kind, of that stream."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and number in (None, getattr(event, "stream_id", None)):
                    self.events.remove(event)
                    return event
            assert await self.hear(), f"the end, and no {kind.__name__}"

    async def until_the_end(self) -> int | None:
        """Of the connection; what the other side has said why."""
        while await self.hear():
            pass
        return next(
            (event.error_code for event in self.events if isinstance(event, ConnectionTerminated)), None
        )

    async def ask(self, path: str = "/", *more: tuple[str, str], end: bool = False, **pseudo: str) -> int:
        """A request; by default for a WebSocket. Returns its stream."""
        fields = {
            "method": "CONNECT",
            "protocol": "websocket",
            "scheme": "http",
            "path": path,
            "authority": "a",
        }
        fields.update(pseudo)
        number = self.h2.get_next_available_stream_id()
        lines = [(f":{name}", value) for name, value in fields.items() if value]
        self.h2.send_headers(number, [*lines, ("sec-websocket-version", "13"), *more], end_stream=end)
        await self.flush()
        return number

    async def status(self, number: int) -> str:
        """What the answer on a stream says first."""
        return dict((await self.until(ResponseReceived, number)).headers)[":status"]

    async def opened(self, path: str = "/") -> int:
        """A WebSocket that is open; its stream."""
        number = await self.ask(path)
        assert await self.status(number) == "200"
        return number

    async def send(self, number: int, data: bytes, **options: Any) -> None:
        self.h2.send_data(number, data, **options)
        await self.flush()

    async def data(self, number: int, count: int) -> bytes:
        """So many bytes of a stream; the other side may send as many more."""
        data = b""
        while len(data) < count:
            event = await self.until(DataReceived, number)
            self.h2.acknowledge_received_data(event.flow_controlled_length, number)
            await self.flush()
            data += event.data
        assert len(data) == count
        return data

    async def close(self) -> None:
        await net.hang_up(self.writer)


@contextlib.asynccontextmanager
async def knock(port: int, **checks: bool) -> AsyncIterator[Peer]:
    """A client at a server of ours, which speaks HTTP/2 in the clear."""
    peer = Peer(*await asyncio.open_connection("127.0.0.1", port), is_client=True, **checks)
    try:
        await peer.begin()
        yield peer
    finally:
        await peer.close()
