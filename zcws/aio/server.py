"""A server that runs: its connections, the handler of each, and a shutdown that closes them properly.

What this file decides: who belongs to the server, and in which order it ends. It refuses to know options and addresses:
`serve` (serving.py) gives it what has become of them, and sockets that are bound.

A connection begins as a `ServerHandshake` (accepting.py), on a socket that we accept (listener.py) where the engine
serves and on a transport of the event loop elsewhere. With a 101 it becomes a `WebSocket`, and the handler gets a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any

from zcws.acceptor import AcceptorOptions
from zcws.aio.accepting import Arriving, ProcessRequest, ProcessResponse
from zcws.aio.callbacks import FAILURES, Look
from zcws.aio.engine import Engine, engine_of
from zcws.aio.listener import Listener
from zcws.aio.settings import Options, pool_of
from zcws.aio.tasks import ENDS_OF_LOOP, cancels
from zcws.aio.tls import Tls
from zcws.aio.tracing import websocket_class
from zcws.aio.transport import EngineTransport
from zcws.aio.websocket import WebSocket
from zcws.annotations import Self
from zcws.callables import name_of
from zcws.closing import State, close_payload
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.errors import tells_only_of_an_end
from zcws.extensions import Agreement
from zcws.frame import Frame
from zcws.http import Request, Response
from zcws.options import Limits, checked_seconds
from zcws.seldom import SAID, Seldom
from zcws.stats import shown_server

__all__ = ["Handler", "OnFrame", "OnMessage", "Server"]

logger: logging.Logger = logging.getLogger("zcws.server")

_CLOSED = State.CLOSED

Handler = Callable[[WebSocket], Awaitable[None]]
OnFrame = Callable[[WebSocket, Frame], object]
OnMessage = Callable[[WebSocket, str | bytes], object]


class Server:
    """A WebSocket server that is listening. Made by `serve`.

    Attributes:
        on_open: functions that are called with each connection when it has opened, before its handler. One that raises
            closes the connection with 1011, and its handler does not run.
        loop: the event loop.
    """

    def __init__(
        self,
        handler: Handler | None,
        loop: asyncio.AbstractEventLoop,
        *,
        look: Look | None,
        shows_messages: bool,
        acceptor_options: AcceptorOptions,
        options: Options,
        process_request: ProcessRequest | None,
        process_response: ProcessResponse | None,
        open_timeout: float | None,
        limits: Limits,
    ) -> None:
        self.handler = handler
        self._look = look
        self._shows_messages = shows_messages
        self.loop = loop
        self.context: Context = copy_context()  # each connection's hooks and handler run in a copy
        self.acceptor_options = acceptor_options
        self.options = options
        self.process_request = process_request
        self.process_response = process_response
        self.open_timeout = open_timeout
        self.limits = limits
        self.handshakes: set[Arriving] = set()
        self._connections: set[WebSocket] = set()
        self.on_open: list[Callable[[WebSocket], object]] = []
        self.is_closing: bool = False
        self.sends_away: bool = False
        self._last_left: asyncio.Future[None] | None = None  # exists while the last handshake is waited for
        self._pool = pool_of(loop)
        self._server: asyncio.Server | None = None
        self._listener: Listener | None = None  # where we accept ourselves
        self._engine: Engine | None = None  # where the sockets that it has accepted go
        # One for each open connection: its handler's task, or a future that is done when its socket is gone.
        self._running: dict[asyncio.Future[None], WebSocket] = {}
        self._closer: asyncio.Task[None] | None = None
        self._is_patient = True  # until `close` is called again
        self._leaves_open = False  # `close` was called, and open connections are their handlers' business
        self._draining: asyncio.Task[Any] | None = None  # exists while handlers may finish by themselves
        self._closed: asyncio.Future[None] = loop.create_future()
        self.limited = Seldom(SAID)  # how often the log says that a limit has closed a connection
        self.refused = Seldom(SAID)  # and that an opening handshake has failed

    def listen(self, server: asyncio.Server, listener: Listener | None) -> None:
        """The sockets are bound; `listener` accepts on them, or, where that is None, the event loop does."""
        self._server = server
        self._listener = listener

    def secure(
        self, begin: Callable[[Server], asyncio.BaseProtocol], context: ssl_module.SSLContext, timeout: float
    ) -> Tls:
        """The first protocol of a connection inside TLS of ours."""
        tls = Tls(self.loop, begin(self), context, server_side=True, timeout=timeout, refused=self.refused)
        tls.opened.add_done_callback(lambda _: self.left(tls))
        self.handshakes.add(tls)
        return tls

    def left(self, arriving: Arriving) -> None:
        """See `Host`."""
        self.handshakes.discard(arriving)
        if self._last_left is not None and not self.handshakes and not self._last_left.done():
            self._last_left.set_result(None)

    def open_on(self, sock: socket.SocketType, ws: WebSocket, answer: bytes) -> None:
        """See `Host`."""
        engine = self._engine
        try:
            if engine is None:
                engine = self._engine = engine_of(self.loop)
            transport = EngineTransport(engine, sock, ws)
        except BaseException:
            sock.close()
            raise
        try:
            transport.write(answer)
            ws.connection_made(transport)
            self.start(ws)
        except BaseException:
            transport.abort()
            raise

    def make(
        self, agreement: Agreement | None, request: Request | bytes | None, response: Response | bytes | None
    ) -> WebSocket:
        """A handshake has succeeded: the connection, which has no transport yet."""
        connection = Connection(
            is_client=False,
            agreement=agreement,
            deflate=self.acceptor_options.compression,
            pool=self._pool,
            shows_messages=self._shows_messages,
            **self.limits,
        )
        return websocket_class(is_client=False)(
            self.loop,
            connection,
            self.options,
            request=request,
            response=response,
            look=self._look,
        )

    def start(self, ws: WebSocket) -> None:
        """The connection has its transport, and belongs to its handler from here on."""
        self._connections.add(ws)
        try:
            has_begun = not self.on_open or self._has_told(ws)
            if self.handler is None or not has_begun:
                closed = ws.when_closed()  # no task: everything happens in `_look`, or nothing does
            else:
                closed = self.loop.create_task(self._run(ws, self.handler))
            closed.add_done_callback(self._has_ended)
            self._running[closed] = ws
        except BaseException:  # no memory: it would be open with nobody behind it
            self._connections.discard(ws)
            ws.abort()
            raise

    def _has_told(self, ws: WebSocket) -> bool:
        """Calls the functions in `on_open`. False: one has raised, and the connection has been sent its Close."""
        try:
            for callback in self.on_open:
                said = callback(ws)
                if inspect.iscoroutine(said):
                    said.close()
                    raise TypeError(
                        f"on_open holds plain functions: {name_of(callback)} returned a coroutine"
                    )
        except FAILURES:
            logger.error("a function in on_open failed for %r", ws, exc_info=True)
            ws.begin_close(CloseCode.INTERNAL_ERROR)
            return False
        return True

    def _has_ended(self, closed: asyncio.Future[None]) -> None:
        ws = self._running.pop(closed)
        self._connections.discard(ws)
        ws.abort()  # it has ended, unless the handler was cancelled, or leaves the program
        if (limit := ws.connection.limit) is not None:
            logger.log(self.limited.level(logging.WARNING, self.loop.time()), "%r: %s", ws, limit)
        error = None if closed.cancelled() else closed.exception()
        # If a handler leaves the program, the loop has raised that already. Anything else is a mistake of ours, which
        # asyncio would log if the exception had not been retrieved here.
        if error is not None and not isinstance(error, ENDS_OF_LOOP):
            self.loop.call_exception_handler({"message": "a connection failed", "exception": error})

    async def _run(self, ws: WebSocket, handler: Handler) -> None:
        """The handler, from the first message to the closed socket."""
        try:
            running = handler(ws)
            if not inspect.isawaitable(running):
                raise TypeError(f"the handler must return an awaitable, not {running!r}: write `async def`")
            await running
            # The usual end: the peer's Close has been answered already.
            if ws.connection.state is not _CLOSED:
                ws.begin_close()
            await ws.wait_closed()
        except FAILURES as error:
            if cancels(error):
                raise
            if tells_only_of_an_end(error) and ws.connection.is_over:
                logger.debug("%r: %s", ws, error)
                await ws.wait_closed()
                return
            # Also if the error tells of another connection's end: this one would stay open with nobody behind it.
            logger.error("the handler of %r failed", ws, exc_info=True)
            await ws.close(CloseCode.INTERNAL_ERROR)

    @property
    def connections(self) -> set[WebSocket]:
        """The connections that are open or closing: a new set, which is the caller's."""
        return self._connections.copy()

    # ---- like asyncio.Server ----

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets."""
        return () if self._server is None else tuple(self._server.sockets)

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        if self._listener is not None:
            return self._listener.is_open
        return self._server is not None and self._server.is_serving()

    def __repr__(self) -> str:
        if self._closed.done():
            state = "closed"
        elif self.is_closing:
            state = "closing"
        else:
            state = "serving" if self.is_serving() else "not serving"
        places = []
        for sock in self.sockets:
            with contextlib.suppress(OSError, ValueError):  # it is closed; uvloop says the latter
                places.append(sock.getsockname())
        return shown_server(places, state, len(self._connections))

    async def start_serving(self) -> None:
        """Accepts connections, for a server made with `start_serving=False`."""
        if self._listener is not None:
            if not self.is_closing:
                self._listener.open()
        elif self._server is not None:
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
        self,
        close_connections: bool = True,
        code: int = CloseCode.GOING_AWAY,
        reason: str = "",
        *,
        drain: float | None = 0,
    ) -> None:
        """Stops accepting, and closes every connection; `wait_closed` waits until that is done.

        If it is called again while connections drain, or have been left to their handlers, they get their Close at
        once.

        Args:
            close_connections: False leaves open connections to their handlers.
            code, reason: of the Close that they get. RFC 6455 7.4.1: 1001, "a server going down".
            drain: seconds that handlers get to finish by themselves before that; None: until they have, or `close` is
                called again. Clients that have been accepted, and are in the opening handshake, are let in meanwhile.

        Raises:
            TypeError: `close_connections` is not a bool.
            TypeError, ValueError: `drain` is not a number of seconds.
            ValueError: the code must not be sent (RFC 6455 7.4), or the reason is over 123 bytes of UTF-8.
        """
        if not isinstance(close_connections, bool):
            raise TypeError(
                f"close_connections is True or False, not {close_connections!r}; the code is the second argument"
            )
        close_payload(code, reason)  # ValueError before anything happens
        drain = checked_seconds("drain", drain)
        if self._closer is not None:
            self._is_patient = False  # also if draining has not begun yet
            if self._draining is not None:
                self._draining.cancel()
            if self._leaves_open and close_connections:
                self._leaves_open = False
                self._say_goodbye(code, reason)
        else:
            self._leaves_open = not close_connections
            self.is_closing = True
            self.sends_away = drain == 0
            if self._server is not None:
                self._server.close()
            if self._listener is not None:
                # Clients in the queues are accepted only if there is time for them. If not, another process that has
                # the sockets too, as with a supervisor, serves them.
                self._listener.close(sweep=not self.sends_away)
            self._closer = self.loop.create_task(self._close(code, reason, drain))

    def _say_goodbye(self, code: int, reason: str) -> None:
        for ws in self.connections:
            if ws.state is State.OPEN:
                ws.begin_close(code, reason)

    async def _drain(self, seconds: float | None) -> None:
        """Waits until all handlers have returned, at most `seconds`, or until `close` is called again.

        A client that has been accepted still opens its connection: if another process takes over, none is lost.
        """
        for handshake in list(self.handshakes):
            handshake.finish()
        self._draining = self.loop.create_task(self._until_empty())
        await asyncio.wait([self._draining], timeout=seconds)
        self._draining.cancel()
        self._draining = None

    async def _until_empty(self) -> None:
        while True:
            if self._running:
                await asyncio.wait(list(self._running))
            elif self._listener is not None and self._listener.passing:
                await asyncio.wait(self._listener.passing)
            elif self.handshakes:
                self._last_left = self.loop.create_future()
                await self._last_left
            else:
                return

    async def _send_away(self) -> None:
        """Ends all opening handshakes."""
        self.sends_away = True
        while True:
            for handshake in list(self.handshakes):
                handshake.go_away()
            if self._listener is None or not self._listener.passing:
                return
            await asyncio.wait(self._listener.passing)

    async def _close(self, code: int, reason: str, drain: float | None) -> None:
        if self._is_patient and not self.sends_away:
            await self._drain(drain)
        await self._send_away()
        if not self._leaves_open:
            self._say_goodbye(code, reason)
        if self._running:
            await asyncio.wait(list(self._running))
        leaving = [gone for handshake in list(self.handshakes) if (gone := handshake.leave()) is not None]
        if leaving:
            await asyncio.wait(leaving)
        if not self._closed.done():
            self._closed.set_result(None)

    async def wait_closed(self) -> None:
        """Waits until every connection is closed and every handler has returned."""
        await asyncio.shield(self._closed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if self._closer is None or kind is not None:  # otherwise it may be draining
            self.close()
        await self.wait_closed()
