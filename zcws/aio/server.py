"""`serve`: listening, the handler of each connection, and a shutdown that says goodbye.

A connection begins as a `ServerHandshake` (accepting.py), on a socket that we accept (listener.py) where the engine
serves and on a transport of the event loop elsewhere. With a 101 it becomes a `WebSocket`, and the handler runs in a task of its
own.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any, Literal

from zcws.acceptor import SWITCHING, AcceptorOptions
from zcws.aio.accepting import Arriving, ProcessRequest, ProcessResponse, ServerHandshake
from zcws.aio.engine import Engine, engine_of
from zcws.aio.listener import Listener, can_accept
from zcws.aio.passing import ListeningOptions, check_hosts, check_listening_options, check_on_frame
from zcws.aio.settings import Options, pool_of
from zcws.aio.tls import Tls, has_better
from zcws.aio.tracing import websocket_class
from zcws.aio.transport import EngineTransport
from zcws.aio.wake import is_cancelled
from zcws.aio.websocket import WebSocket
from zcws.annotations import Self, Unpack
from zcws.callables import check_call, name_of
from zcws.closing import State
from zcws.codes import CloseCode
from zcws.connection import MAX_FRAGMENTS, MAX_SIZE, Connection
from zcws.deflate import Deflate
from zcws.errors import ConnectionClosed
from zcws.extensions import Agreement
from zcws.frame import Frame, close_payload
from zcws.handshake import SOFTWARE, NoMasking
from zcws.headers import HeadersLike
from zcws.hooks import hooks_of
from zcws.http import Request, Response
from zcws.http2 import ALPN, missing_h2
from zcws.options import (
    LONGEST,
    Limits,
    checked_limits,
    checked_seconds,
)
from zcws.route import check_unix_place, checked_listening, unknown_host
from zcws.router import check_handler

__all__ = ["Server", "ServerHandshake", "serve", "unix_serve"]

logger: logging.Logger = logging.getLogger("zcws.server")

#: Connections that wait in the kernel: asyncio's own.
BACKLOG = 100

_CLOSED = State.CLOSED

#: Seconds for TLS where there is no time at all: event loops want some.
_SHORTEST = 0.001

Handler = Callable[[WebSocket], Awaitable[None]]
OnFrame = Callable[[WebSocket, Frame], object]


class Server:
    """A WebSocket server that is listening. Made by `serve`.

    Attributes:
        connections: the open connections.
        on_open: functions that are called with each connection when it has opened, before its handler. One that raises
            closes the connection with 1011, and its handler does not run.
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
        limits: Limits,
    ) -> None:
        self.handler = handler
        self.on_frame = on_frame
        self.loop = loop
        self.acceptor_options = acceptor_options
        self.options = options
        self.process_request = process_request
        self.process_response = process_response
        self.open_timeout = open_timeout
        self.limits = limits
        self.handshakes: set[Arriving] = set()
        self.connections: set[WebSocket] = set()
        self.on_open: list[Callable[[WebSocket], object]] = []
        self.is_closing: bool = False
        self.sends_away: bool = False
        self._last_left: asyncio.Future[None] | None = None  # exists while that is waited for
        self._pool = pool_of(loop)
        self._server: asyncio.Server | None = None
        self._listener: Listener | None = None  # where we accept ourselves
        self._engine: Engine | None = None  # and who has what came in there
        # One for each open connection: its handler's task, or what is done when its socket is gone.
        self._running: dict[asyncio.Future[None], WebSocket] = {}
        self._closer: asyncio.Task[None] | None = None
        self._is_patient = True  # until `close` is called again
        self._draining: asyncio.Task[Any] | None = None  # exists while handlers may finish by themselves
        self._closed: asyncio.Future[None] = loop.create_future()

    def listen(self, server: asyncio.Server, listener: Listener | None) -> None:
        """The sockets are bound, and we accept ourselves, or without a listener the event loop does."""
        self._server = server
        self._listener = listener

    def secure(
        self, begin: Callable[[Server], asyncio.BaseProtocol], context: ssl_module.SSLContext, timeout: float
    ) -> Tls:
        """What a connection begins with that is inside TLS of ours."""
        tls = Tls(self.loop, begin(self), context, server_side=True, timeout=timeout)
        self.handshakes.add(tls)
        tls.opened.add_done_callback(lambda _: self.left(tls))
        return tls

    def left(self, arriving: Arriving) -> None:
        """See `Host`."""
        self.handshakes.discard(arriving)
        if self._last_left is not None and not self.handshakes and not self._last_left.done():
            self._last_left.set_result(None)

    def greet(
        self, sock: socket.SocketType, head: bytes, accept: bytes, terms: tuple[Agreement, bytes], rest: bytes
    ) -> None:
        """See `Host`."""
        engine = self._engine
        if engine is None:
            engine = self._engine = engine_of(self.loop)
        agreement, behind = terms
        answer = SWITCHING + accept + behind
        ws = self.make(agreement, head, answer)
        transport = EngineTransport(engine, sock, ws)
        transport.write(answer)
        ws.connection_made(transport)
        self.start(ws)
        if rest:
            ws.feed(rest)

    def make(
        self, agreement: Agreement | None, request: Request | bytes | None, response: Response | bytes | None
    ) -> WebSocket:
        """A handshake has succeeded: the connection, which has no transport yet."""
        connection = Connection(
            is_client=False,
            agreement=agreement,
            deflate=self.acceptor_options.compression,
            pool=self._pool,
            **self.limits,
        )
        return websocket_class(is_client=False)(
            self.loop,
            connection,
            self.options,
            request=request,
            response=response,
            on_frame=self.on_frame,
        )

    def start(self, ws: WebSocket) -> None:
        """The connection has its transport, and belongs to its handler from here on."""
        self.connections.add(ws)
        has_begun = not self.on_open or self._has_told(ws)
        if self.handler is None or not has_begun:
            closed = ws.when_closed()  # no task: everything happens in on_frame, or nothing does
            closed.add_done_callback(lambda _: self._forget(ws))
        else:
            closed = self.loop.create_task(self._run(ws, self.handler))
        self._running[closed] = ws
        closed.add_done_callback(self._has_ended)

    def _has_told(self, ws: WebSocket) -> bool:
        """Whether everybody in `on_open` could be told. If not, the connection has got its Close."""
        try:
            for callback in self.on_open:
                said = callback(ws)
                if inspect.iscoroutine(said):
                    said.close()
                    raise TypeError(
                        f"on_open holds plain functions: {name_of(callback)} returned a coroutine"
                    )
        except Exception:
            logger.error("a function in on_open failed for %r", ws, exc_info=True)
            ws.begin_close(CloseCode.INTERNAL_ERROR)
            return False
        return True

    def _has_ended(self, closed: asyncio.Future[None]) -> None:
        ws = self._running.pop(closed)
        if ws in self.connections and closed.cancelled():
            # Before its first step: there is nobody behind the connection.
            self._forget(ws)
            ws.abort()
        error = None if closed.cancelled() else closed.exception()
        # Whoever leaves the program in a handler has left it: the loop has raised that already. Anything else is a
        # mistake of ours, which asyncio would tell of if it had not been asked for here.
        if error is not None and not isinstance(error, (SystemExit, KeyboardInterrupt)):
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
        except (Exception, asyncio.CancelledError) as error:
            # If nobody has cancelled us, it is of a task that the handler has cancelled, and waited for.
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                ws.abort()
                raise
            if isinstance(error, ConnectionClosed) and ws.connection.is_over:
                logger.debug("%r: %s", ws, error)
                await ws.wait_closed()
                return
            # Also when another connection is over: this one would stay open with nobody behind it.
            logger.error("the handler of %r failed", ws, exc_info=True)
            await ws.close(CloseCode.INTERNAL_ERROR)
        except (SystemExit, KeyboardInterrupt):
            ws.abort()
            raise
        finally:
            self._forget(ws)

    def _forget(self, ws: WebSocket) -> None:
        self.connections.discard(ws)
        if (limit := ws.connection.limit) is not None:
            logger.warning("%r: %s", ws, limit)

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
        """Stops accepting, and says goodbye to every connection; `wait_closed` waits for the end of it.

        Called again while connections drain, it ends that: they get their Close now.

        Args:
            close_connections: False leaves open connections to their handlers.
            code, reason: of the Close that they get. RFC 6455 7.4.1: 1001, "a server going down".
            drain: seconds that handlers get to finish by themselves before that; None: until they have, or `close` is
                called again. Clients that have been accepted, and are in the opening handshake, are let in meanwhile.

        Raises:
            TypeError, ValueError: `drain` means nothing.
            ValueError: the code must not be sent (RFC 6455 7.4), or the reason is over 123 bytes of UTF-8.
        """
        close_payload(code, reason)  # ValueError before anything happens
        drain = checked_seconds("drain", drain)
        if self._closer is not None:
            self._is_patient = False  # also where nobody has begun to drain yet
            if self._draining is not None:
                self._draining.cancel()
        else:
            self.is_closing = True
            self.sends_away = drain == 0
            if self._listener is not None:
                self._listener.close()
            if self._server is not None:
                self._server.close()
            self._closer = self.loop.create_task(self._close(close_connections, code, reason, drain))

    async def _drain(self, seconds: float | None) -> None:
        """Until all handlers have returned, at most `seconds`, or until `close` is called again.

        Whoever has been accepted opens his connection: where another process takes over, nobody is lost.
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
        """Whoever is in the middle of the opening handshake."""
        self.sends_away = True
        while True:
            for handshake in list(self.handshakes):
                handshake.go_away()
            if self._listener is None or not self._listener.passing:
                return
            await asyncio.wait(self._listener.passing)

    async def _close(self, close_connections: bool, code: int, reason: str, drain: float | None) -> None:
        await asyncio.sleep(0)  # connections that were accepted in this very turn have arrived after this
        if self._is_patient and (drain is None or drain > 0):
            await self._drain(drain)
        await self._send_away()
        if close_connections:
            for ws in list(self.connections):
                if ws.state is State.OPEN:
                    ws.begin_close(code, reason)
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
        if self._closer is None or kind is not None:  # else it may drain
            self.close()
        await self.wait_closed()


class serve:
    """Listens for WebSocket connections and runs `handler` for each. Await it, or use it as a context manager.

    Args:
        handler: a coroutine function, or a `Router` of them; the connection is closed when it returns, with 1011 when
            it raises. None where `on_frame` does everything.
        on_frame: a plain function that is called with the connection and each frame, where the bytes arrive and in no
            task: whole messages, Ping and Pong. (The end of a connection is for `ws.add_end_callback`.) The frame is
            good until the function returns. An exception in it closes the connection with 1011.
        host, port: where to listen, as for `loop.create_server`; a port of 0 takes any that is free.
        sock, path: an existing socket, or the path of a Unix socket, instead of those.
        ssl: a context, for wss.
        origins: the values of `Origin` that may connect: str, patterns, None for requests without it. By default any.
        subprotocols: names that the server speaks, best first.
        select_subprotocol: instead of those, a function that takes the client's list and returns one of it, or None.
        compression: `Deflate(...)`, "deflate" for its defaults, or None.
        no_masking: True agrees to unmasked frames over TLS, "insecure" also without TLS.
        process_request: called with the handshake and the request; returns None to let the client in, or a response,
            which is sent instead. Or a list of functions, called in order until one returns a response. A coroutine
            function costs a task, a plain one does not.
        process_response: called with the handshake, the request and the response; may return another response.
        extra_headers: headers to add to the response that opens a connection (101).
        server_header: what `Server` says; None leaves it out.
        open_timeout: seconds for the opening handshake.
        close_timeout: seconds for the closing handshake, counted from the Close; as long again while the peer goes on
            reading what was sent before it.
        ping_interval, ping_timeout: seconds between Pings, and for their answer; None turns either off. For all five of
            these times `math.inf` means None.
        max_size: bytes of a message to accept; max_fragments: its frames.
        write_limit: bytes that may wait to be sent before `send` waits; or a pair, high and low.
        write_timeout: seconds that more than `write_limit` may wait before the connection is closed with 1011.
        http2: True speaks HTTP/2 as well, with many WebSockets on a TCP connection (RFC 8441). Needs the extra `http2`.
            The context that is given offers it from now on (ALPN).
        others: passed on to `loop.create_server`: `backlog`, `reuse_port`, `family`, `start_serving` and so on.

    Raises:
        OSError: this address cannot be listened at (it is in use, for example).
        ValueError, TypeError: an option or a function is wrong; raised by the call itself.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        origins: Sequence[str | re.Pattern[str] | None] | None = None,
        subprotocols: Sequence[str] | None = None,
        select_subprotocol: Callable[[list[str]], str | None] | None = None,
        compression: Deflate | Literal["deflate"] | None = None,
        no_masking: NoMasking = False,
        on_frame: OnFrame | None = None,
        process_request: ProcessRequest | Sequence[ProcessRequest] | None = None,
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
        http2: bool = False,
        **others: Unpack[ListeningOptions],
    ) -> None:
        check_listening_options(others, path)
        check_hosts(host)
        path = checked_listening(sock=others.get("sock"), path=path, host=host, port=port, ssl=ssl)
        self._where = {"host": host, "port": port} if path is None else {"path": path}
        self._path = path
        self._ssl = ssl
        self._others: dict[str, Any] = {**others}
        if handler is None and on_frame is None:
            raise TypeError("serve needs a handler, or on_frame, or both")
        if handler is not None:
            check_handler(handler)
        if on_frame is not None:
            check_on_frame(on_frame)
        if process_response is not None:
            check_call("process_response", process_response, "the connection", "the request", "the response")
        self._make = partial(
            Server,
            handler,
            on_frame=on_frame,
            acceptor_options=AcceptorOptions(
                subprotocols=subprotocols,
                select_subprotocol=select_subprotocol,
                origins=origins,
                compression=compression,
                no_masking=no_masking,
                secure=ssl is not None,
                extra_headers=extra_headers,
                server_header=server_header,
            ),
            options=Options(
                ping_interval=ping_interval,
                ping_timeout=ping_timeout,
                close_timeout=close_timeout,
                write_limit=write_limit,
                write_timeout=write_timeout,
            ),
            process_request=hooks_of(process_request, handler),
            process_response=process_response,
            open_timeout=checked_seconds("open_timeout", open_timeout),
            limits=checked_limits(max_size, max_fragments),
        )
        self._begin = http2_negotiation(ssl) if http2 else ServerHandshake
        self._server: Server | None = None
        self._is_entered = False

    async def _listen(self) -> Server:
        loop = asyncio.get_running_loop()
        server = self._make(loop)
        create = loop.create_server if self._path is None else loop.create_unix_server
        others = dict(self._others)
        if others.get("sock") is None:
            others.update(self._where)
        start = others.pop("start_serving", True)
        secure = self._secure(server, others)
        context = self._ssl if secure is None else None
        make: Callable[[], asyncio.BaseProtocol] = secure or (lambda: self._begin(server))
        try:
            listening = await create(make, ssl=context, **others, start_serving=False)
        except socket.gaierror as error:
            host = others["host"]
            raise unknown_host(host if isinstance(host, str) else ", ".join(host), error) from None
        except OSError as error:
            path = others.get("path")
            if path is not None and str(path) not in str(error):
                error.filename = path
            raise
        try:
            is_usual = context is None and self._begin is ServerHandshake
            listener = None
            if (secure is not None or is_usual) and can_accept(listening.sockets):
                listener = Listener(loop, listening.sockets, others.get("backlog", BACKLOG), server, secure)
            server.listen(listening, listener)
            if start:
                await server.start_serving()
        except BaseException:
            listening.close()  # the address is in use, after all
            raise
        return server

    def _secure(self, server: Server, others: dict[str, Any]) -> Callable[[], Tls] | None:
        """Makes the TLS that each connection begins with, where it is ours; `others` tells the loop's own."""
        if self._ssl is None:
            return None
        # TLS comes first, and the loop's own patience is a minute.
        timeout = server.open_timeout
        if others.get("ssl_handshake_timeout") is None:
            others["ssl_handshake_timeout"] = LONGEST if timeout is None else timeout or _SHORTEST
        if has_better(server.loop):
            return None
        others.pop("ssl_shutdown_timeout", None)  # nobody waits for the peer's close_notify
        return partial(server.secure, self._begin, self._ssl, others.pop("ssl_handshake_timeout"))

    def __await__(self) -> Generator[Any, None, Server]:
        return self._listen().__await__()

    async def __aenter__(self) -> Server:
        # As for `connect`: the end of either block would close the second server, and nobody the first.
        if self._is_entered:
            raise RuntimeError("this serve() is in use as a context manager: each server needs its own")
        self._is_entered = True
        try:
            self._server = await self._listen()
        except BaseException:
            self._is_entered = False
            raise
        return self._server

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        server, self._server, self._is_entered = self._server, None, False
        if server is not None:
            await server.__aexit__(kind, error, trace)


def http2_negotiation(context: ssl_module.SSLContext | None) -> Callable[[Server], asyncio.Protocol]:
    """What connections begin with where HTTP/2 is spoken. Raises: ImportError, without the extra."""
    try:
        from zcws.aio.http2_accepting import Negotiation
    except ImportError:
        raise missing_h2() from None
    if context is not None:
        context.set_alpn_protocols(ALPN)
    return Negotiation


def unix_serve(handler: Handler | None, path: str | os.PathLike[str] | None = None, **options: Any) -> serve:
    """`serve` on a Unix socket at `path`, or on the one that is given as `sock`."""
    check_unix_place("unix_serve", path, options.get("sock"))
    return serve(handler, path=path, **options)
