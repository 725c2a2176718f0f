"""`serve`: listening, the opening handshake of each connection, its handler, and a shutdown that says goodbye.

A connection begins as a `ServerHandshake`, which reads the request and answers it (acceptor.py decides what). With a
101 the transport gets another protocol, the `WebSocket` of stream.py, and the handler runs in a task of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from zcws.acceptor import AcceptorOptions, WebSocketAcceptor
from zcws.aio.stream import Options, end_writing, hand_over, pool_of
from zcws.aio.websocket import WebSocket
from zcws.closing import State
from zcws.codes import CloseCode
from zcws.connection import MAX_FRAGMENTS, MAX_SIZE, Connection
from zcws.deflate import Deflate
from zcws.errors import ConnectionClosed
from zcws.frame import Frame
from zcws.handshake import SOFTWARE, NoMasking
from zcws.headers import HeadersLike
from zcws.http import HttpError, Request, Response, text_response

if TYPE_CHECKING:
    import ssl as ssl_module

    from typing_extensions import Self

__all__ = ["Server", "ServerHandshake", "serve", "unix_serve"]

logger = logging.getLogger("zcws.server")

Handler = Callable[[WebSocket], Awaitable[None]]
ProcessRequest = Callable[["ServerHandshake", Request], "Response | Awaitable[Response | None] | None"]
OnFrame = Callable[[WebSocket, Frame], object]
ProcessResponse = Callable[
    ["ServerHandshake", Request, Response], "Response | Awaitable[Response | None] | None"
]


class ServerHandshake(asyncio.Protocol):
    """One connection before it is open: what `process_request` and `process_response` are given.

    Attributes:
        request, response: as far as they are known.
        transport: the connection's transport.
    """

    __slots__ = ("_acceptor", "_data", "_server", "_task", "_timer", "request", "response", "transport")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._acceptor = WebSocketAcceptor(server.acceptor_options)
        self._data = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self.request: Request | None = None
        self.response: Response | None = None

    # ---- for process_request ----

    def respond(self, status: int, text: str) -> Response:
        """A plain text response, to be returned from `process_request`."""
        return text_response(status, text)

    @property
    def remote_address(self) -> Any:
        """The peer's end of the socket."""
        return None if self.transport is None else self.transport.get_extra_info("peername")

    @property
    def local_address(self) -> Any:
        """Our end of the socket."""
        return None if self.transport is None else self.transport.get_extra_info("sockname")

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._server.handshakes.add(self)
        if self._server.open_timeout is not None:
            self._timer = self._server.loop.call_later(self._server.open_timeout, self.abort)
        if self._server.is_closing:
            self.go_away()

    def data_received(self, data: bytes) -> None:
        if self.response is not None:
            return  # answered with an error: what still comes is the peer's business
        self._data += data
        if self.request is not None:
            return
        try:
            self.request = self._acceptor.read_request(self._data)
        except HttpError as error:
            self._answer(self._acceptor.refuse(error))
            return
        if self.request is not None:
            del self._data[: self._acceptor.used]
            self._process(self.request)

    def eof_received(self) -> bool:
        return False  # a client that has closed its side cannot open a WebSocket

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()
        if self.transport is not None:
            self.transport.close()  # CPython 3.10's TLS warns when nobody has
            self.transport = None
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """Ends the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def go_away(self) -> None:
        """The server is shutting down."""
        if self.response is None:
            self._answer(self._acceptor.reject(503, "the server is shutting down"))

    # ---- the answer ----

    def _process(self, request: Request) -> None:
        server = self._server
        if server.process_request is None and server.process_response is None:
            self._answer(self._acceptor.respond(request))
            return
        # More bytes than the first frames have no business here while a hook thinks.
        assert self.transport is not None
        self.transport.pause_reading()
        self._task = server.loop.create_task(self._run_hooks(request))

    async def _run_hooks(self, request: Request) -> None:
        try:
            response = await self._ask_hooks(request)
        except Exception:
            logger.error("process_request or process_response failed", exc_info=True)
            response = self._acceptor.reject(500, "the server failed to answer; its log says more")
        self._task = None
        if self.transport is not None:
            self.transport.resume_reading()
            if self.response is None:  # the server may have gone away meanwhile
                self._answer(response)

    async def _ask_hooks(self, request: Request) -> Response:
        server = self._server
        response: Response | None = None
        if server.process_request is not None:
            response = await _settled(server.process_request(self, request))
        if response is None:
            response = self._acceptor.respond(request)
        elif response.status_code == 101:
            raise ValueError("process_request must not accept the connection; return None for that")
        if server.process_response is not None:
            response = await _settled(server.process_response(self, request, response)) or response
        return response

    def _answer(self, response: Response) -> None:
        transport = self.transport
        assert transport is not None
        self.response = response
        if response.status_code == 101:
            self._open(transport, response)
            return
        transport.write(response.serialize())
        logger.debug("connection rejected: %s", response.status_code)
        self._data = bytearray()
        if transport.can_write_eof():
            end_writing(
                transport
            )  # not close: unread input would turn that into a reset, and the answer would be lost
        else:
            transport.close()

    def _open(self, transport: asyncio.Transport, response: Response) -> None:
        self._done()
        ws = self._server.open(transport, self._acceptor, self.request, response)
        if self._data:
            ws.feed(bytes(self._data))

    def _done(self) -> None:
        self._server.handshakes.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server:
    """A WebSocket server that is listening. Made by `serve`.

    Attributes:
        connections: the open connections.
        loop: the event loop.
    """

    def __init__(
        self,
        handler: Handler | None,
        loop: asyncio.AbstractEventLoop,
        *,
        on_frame: OnFrame | None,
        acceptor_options: AcceptorOptions,
        options: Options,
        process_request: ProcessRequest | None,
        process_response: ProcessResponse | None,
        open_timeout: float | None,
        max_size: int,
        max_fragments: int,
    ) -> None:
        self.handler = handler
        self.on_frame = on_frame
        self.loop = loop
        self.acceptor_options = acceptor_options
        self.options = options
        self.process_request = process_request
        self.process_response = process_response
        self.open_timeout = open_timeout
        self.max_size = max_size
        self.max_fragments = max_fragments
        self.handshakes: set[ServerHandshake] = set()
        self.connections: set[WebSocket] = set()
        self.is_closing = False
        self._pool = pool_of(loop)
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Future[None]] = set()  # one for each open connection
        self._closer: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] = loop.create_future()

    def listen(self, server: asyncio.Server) -> None:
        """The sockets are bound."""
        self._server = server

    def open(
        self,
        transport: asyncio.Transport,
        acceptor: WebSocketAcceptor,
        request: Request | None,
        response: Response,
    ) -> WebSocket:
        """A handshake has succeeded: from here on the transport belongs to a WebSocket and its handler."""
        connection = Connection(
            is_client=False,
            agreement=acceptor.agreement,
            deflate=self.acceptor_options.compression,
            pool=self._pool,
            max_size=self.max_size,
            max_fragments=self.max_fragments,
        )
        ws = WebSocket(
            self.loop, connection, self.options, request=request, response=response, on_frame=self.on_frame
        )
        hand_over(self.loop, transport, ws, response.serialize())
        self.connections.add(ws)
        if self.handler is None:
            closed = ws.when_closed()  # no task: everything happens in on_frame
            closed.add_done_callback(lambda _: self.connections.discard(ws))
        else:
            closed = self.loop.create_task(self._run(ws, self.handler))
        self._running.add(closed)
        closed.add_done_callback(self._running.discard)
        return ws

    async def _run(self, ws: WebSocket, handler: Handler) -> None:
        """The handler, from the first message to the closed socket."""
        try:
            await handler(ws)
            await ws.close()
        except Exception as error:
            is_over = ws.state is not State.OPEN or ws.connection.reader.is_concluded
            if isinstance(error, ConnectionClosed) and is_over:
                logger.debug("%r: %s", ws, error)
                await ws.wait_closed()
                return
            # Also when another connection is over: this one would stay open with nobody behind it.
            logger.error("the handler of %r failed", ws, exc_info=True)
            await ws.close(CloseCode.INTERNAL_ERROR)
        except asyncio.CancelledError:
            ws.abort()
            raise
        finally:
            self.connections.discard(ws)

    # ---- like asyncio.Server ----

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The listening sockets."""
        return () if self._server is None else tuple(self._server.sockets)

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._server is not None and self._server.is_serving()

    async def start_serving(self) -> None:
        """Accepts connections, for a server made with `start_serving=False`."""
        if self._server is not None:
            await self._server.start_serving()

    async def serve_forever(self) -> None:
        """Serves until it is cancelled or `close` is called; closes the server then."""
        await self.start_serving()
        try:
            await asyncio.shield(self._closed)
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise

    def close(
        self, close_connections: bool = True, code: int = CloseCode.GOING_AWAY, reason: str = ""
    ) -> None:
        """Stops accepting, and says goodbye to every connection; `wait_closed` waits for the end of it.

        Args:
            close_connections: False leaves open connections to their handlers.
            code, reason: of the Close that they get. RFC 6455 7.4.1: 1001, "a server going down".
        """
        if self._closer is None:
            self.is_closing = True
            if self._server is not None:
                self._server.close()
            self._closer = self.loop.create_task(self._close(close_connections, code, reason))

    async def _close(self, close_connections: bool, code: int, reason: str) -> None:
        await asyncio.sleep(0)  # connections that were accepted in this very turn have arrived after this
        for handshake in list(self.handshakes):
            handshake.go_away()
        if close_connections:
            for ws in list(self.connections):
                if ws.state is State.OPEN:
                    ws.begin_close(code, reason)
        if self._running:
            await asyncio.wait(list(self._running))
        for handshake in list(self.handshakes):
            handshake.abort()
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        """Until every connection is closed and every handler has returned."""
        await asyncio.shield(self._closed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await self.wait_closed()


class serve:
    """Listens for WebSocket connections and runs `handler` for each. Await it, or use it as a context manager.

    Args:
        handler: a coroutine function; the connection is closed when it returns, with 1011 when it raises. None where
            `on_frame` does everything.
        on_frame: a function that is called with the connection and each frame straight from the scan, in no task;
            the frame is good until it returns. An exception in it fails the connection with 1011.
        host, port: where to listen, as for `loop.create_server`; a port of 0 takes any that is free.
        sock, path: an existing socket, or a Unix socket's path, in their place.
        ssl: a context, for wss.
        origins: the values of `Origin` that may connect: str, patterns, None for none at all. Without it any may.
        subprotocols: those spoken here, best first.
        select_subprotocol: chooses from the client's list in their place.
        compression: `Deflate(...)`, "deflate" for its defaults, or None.
        no_masking: True agrees to unmasked frames over TLS; "insecure" in the clear too.
        process_request: called with the handshake and the request; a response that it returns is sent instead.
        process_response: called with both and the response, which it may replace.
        extra_headers, server_header: more headers of a 101, and what `Server` says.
        open_timeout: seconds for the opening handshake.
        close_timeout: seconds for the closing handshake, counted from the Close.
        ping_interval, ping_timeout: seconds between Pings, and for their answer; None turns either off.
        max_size: bytes of a message to accept; max_fragments: its frames.
        write_limit: bytes that may wait in the transport before `send` does; or a pair, high and low.
        write_timeout: seconds that the transport may be full before the connection is failed.
        others: passed on to `loop.create_server`: `backlog`, `reuse_port`, `family`, `start_serving` and so on.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        path: str | None = None,
        ssl: ssl_module.SSLContext | None = None,
        origins: Sequence[str | re.Pattern[str] | None] | None = None,
        subprotocols: Sequence[str] | None = None,
        select_subprotocol: Callable[[list[str]], str | None] | None = None,
        compression: Deflate | Literal["deflate"] | None = None,
        no_masking: NoMasking = False,
        on_frame: OnFrame | None = None,
        process_request: ProcessRequest | None = None,
        process_response: ProcessResponse | None = None,
        extra_headers: HeadersLike | None = None,
        server_header: str | None = SOFTWARE,
        open_timeout: float | None = 10,
        close_timeout: float | None = 10,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        max_size: int | None = MAX_SIZE,
        max_fragments: int = MAX_FRAGMENTS,
        write_limit: int | tuple[int, int | None] = 64 * 1024,
        write_timeout: float | None = None,
        **others: Any,
    ) -> None:
        self._where = {"host": host, "port": port} if path is None else {"path": path}
        self._ssl = ssl
        self._others = others
        self._path = path
        self._acceptor_options = AcceptorOptions(
            subprotocols=subprotocols,
            select_subprotocol=select_subprotocol,
            origins=origins,
            compression=compression,
            no_masking=no_masking,
            secure=ssl is not None,
            extra_headers=extra_headers,
            server_header=server_header,
        )
        self._options = Options(
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=close_timeout,
            write_limit=write_limit,
            write_timeout=write_timeout,
        )
        self._handler = handler
        if handler is None and on_frame is None:
            raise TypeError("serve needs a handler, or on_frame, or both")
        self._settings = {
            "on_frame": on_frame,
            "process_request": process_request,
            "process_response": process_response,
            "open_timeout": open_timeout,
            "max_size": sys.maxsize if max_size is None else max_size,
            "max_fragments": max_fragments,
        }
        self._server: Server | None = None

    async def _listen(self) -> Server:
        loop = asyncio.get_running_loop()
        server = Server(
            self._handler,
            loop,
            acceptor_options=self._acceptor_options,
            options=self._options,
            **self._settings,  # type: ignore[arg-type]
        )
        create = loop.create_server if self._path is None else loop.create_unix_server
        where = self._where if self._others.get("sock") is None else {}
        listening = await create(lambda: ServerHandshake(server), ssl=self._ssl, **where, **self._others)
        server.listen(listening)
        return server

    def __await__(self) -> Generator[Any, None, Server]:
        return self._listen().__await__()

    async def __aenter__(self) -> Server:
        self._server = await self._listen()
        return self._server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            await self._server.__aexit__(kind, error, trace)


def unix_serve(handler: Handler, path: str | None = None, **options: Any) -> serve:
    """`serve` on a Unix socket at `path`."""
    return serve(handler, path=path, **options)


async def _settled(answer: Response | Awaitable[Response | None] | None) -> Response | None:
    """What a hook says, whether or not it is a coroutine."""
    return await answer if inspect.isawaitable(answer) else answer
