"""The opening handshake of one connection: the request, what the hooks say to it, the answer. RFC 6455 4.2.

What this file decides: the order of the steps, and where the connection is meanwhile. acceptor.py and the program's
hooks decide what is answered.

A handshake is in one of two places. Most are on their *socket* (listener.py) from beginning to end: the request is
read, the answer is sent, and the socket goes straight into the engine without the event loop knowing of it. Handshakes
over TLS, those off Linux, and those that cannot be answered in one go are on a *transport* of the event loop:

    on its socket                                        goes on
    ---------------------------------------------------  ----------------------------------
    request not complete                                 on its socket
    101, hooks are plain functions or there are none     in the engine, as a WebSocket
    the same without hooks: usually                      the same, without a `ServerHandshake`
    a hook is a coroutine                                on a transport, in a task
    any other answer: the client may read it slowly      on a transport, until the peer ends
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Protocol

from zcws.acceptor import AcceptorOptions, WebSocketAcceptor
from zcws.aio.below import end_writing
from zcws.aio.callbacks import FAILURES
from zcws.aio.deadlines import Deadline
from zcws.aio.settings import Options
from zcws.aio.stream import hand_over
from zcws.aio.tasks import ENDS_OF_LOOP, cancels, end_loop
from zcws.aio.websocket import WebSocket
from zcws.callables import abandon
from zcws.extensions import Agreement
from zcws.hooks import refusal_of, settled_by
from zcws.http import HttpError, Request, Response, text_response
from zcws.http1 import MAX_HEAD
from zcws.seldom import Seldom
from zcws.tcp_info import MUCH, counts

__all__ = ["Arriving", "Host", "ProcessRequest", "ProcessResponse", "ServerHandshake"]

logger: logging.Logger = logging.getLogger("zcws.server")


class Arriving(Protocol):
    """A connection that may become a WebSocket, or several."""

    def finish(self) -> None:
        """The server accepts nobody any more; connections that it has accepted may go on for a while."""
        ...

    def go_away(self) -> None:
        """The server is shutting down."""
        ...

    def leave(self) -> asyncio.Future[None] | None:
        """All handlers have returned: ends the connection. Returns a future, done when it has ended; None: at once."""
        ...

    def abort(self) -> None:
        """Ends the connection at once."""
        ...


class Host(Protocol):
    """What a handshake asks of its server."""

    loop: asyncio.AbstractEventLoop
    context: Context  # of the call of `serve`
    acceptor_options: AcceptorOptions
    process_request: ProcessRequest | None
    process_response: ProcessResponse | None
    open_timeout: float | None
    options: Options
    handshakes: set[Arriving]
    refused: Seldom  # how often the log says that an opening handshake has failed
    limited: Seldom  # how often the log says that a limit has closed a connection
    is_closing: bool  # nobody else is accepted
    sends_away: bool  # no connection is opened any more

    def left(self, arriving: Arriving) -> None:
        """Removes it from `handshakes`."""
        ...

    def make(
        self, agreement: Agreement | None, request: Request | bytes | None, response: Response | bytes | None
    ) -> WebSocket:
        """The connection that a handshake has opened; it has no transport yet."""
        ...

    def start(self, ws: WebSocket) -> None:
        """The connection has its transport: the handler runs from here."""
        ...

    def open_on(self, sock: socket.SocketType, ws: WebSocket, answer: bytes) -> None:
        """`start` for a socket without a transport: it goes into the engine, which sends the `answer` first.

        The socket is the engine's from here on, or is closed if this raises.
        """
        ...


class ServerHandshake(asyncio.Protocol):
    """One connection before it is open: what `process_request` and `process_response` are given.

    Attributes:
        request, response: as far as they are known.
        transport: the connection's transport; None while the event loop has made none (`get_extra_info` works).
    """

    __slots__ = (
        "_chosen",
        "_data",
        "_said",
        "_sock",
        "_taken",
        "_task",
        "_timer",
        "_to_send",
        "acceptor",
        "is_waiting",
        "request",
        "response",
        "server",
        "transport",
    )

    def __init__(self, server: Host, sock: socket.socket | None = None) -> None:
        self.server: Host = server
        self.acceptor: WebSocketAcceptor = WebSocketAcceptor(server.acceptor_options)
        self._data = b""
        self._sock = sock  # while there is no transport
        self.is_waiting: bool = False  # on the socket, for the rest of the request
        self._said: Awaitable[object] | None = None  # what a hook that is a coroutine has returned
        self._chosen: Response | None = None  # what `process_response` is thinking about
        self._to_send = b""  # the response on the wire, from when it is decided
        self._task: asyncio.Task[None] | None = None
        self._timer: Deadline | None = None
        self._taken: int | None = None  # of the answer: `_count_taken` at the last look
        self.transport: asyncio.Transport | None = None
        self.request: Request | None = None
        self.response: Response | None = None

    # ---- for process_request ----

    def respond(self, status: int, text: str) -> Response:
        """A plain text response, to be returned from `process_request`; `text` is sent as it is."""
        return text_response(status, text, end="")

    @property
    def remote_address(self) -> Any:
        """The peer's end of the socket."""
        return self.get_extra_info("peername")

    @property
    def local_address(self) -> Any:
        """Our end of the socket."""
        return self.get_extra_info("sockname")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the transport knows: "ssl_object", "socket", "peername" and so on."""
        if self.transport is not None:
            return self.transport.get_extra_info(name, default)
        sock = self._sock
        if sock is None:
            return default
        known = {"socket": lambda: sock, "peername": sock.getpeername, "sockname": sock.getsockname}
        try:
            return known[name]() if name in known else default
        except OSError:
            return default  # the peer has gone

    def __repr__(self) -> str:
        asked = self.request or "no request yet"
        answer = "" if self.response is None else f", {self.response.status_code}"
        return f"<ServerHandshake from {self.remote_address}, {asked}{answer}>"

    # ---- bytes ----

    def read(self, data: bytes) -> bool:
        """Takes bytes from the socket. Returns whether the request is complete, or is wrong already."""
        self._data = self._data + data if self._data else data
        try:
            self.request = self.acceptor.read_request(self._data)
        except HttpError as error:
            self.response = self._sendable(self.acceptor.refuse(error))
            level = self.server.refused.level(logging.INFO, self.server.loop.time())
            logger.log(level, "no opening handshake, from %s: %s", self.remote_address, error)
            return True
        if self.request is None:
            return False
        self._data = self._data[self.acceptor.used :]
        return True

    # ---- on the socket ----

    def wait(self, read: Callable[[socket.socket, ServerHandshake], None], sock: socket.socket) -> None:
        """Waits on the socket for more of the request."""
        if not self.is_waiting:
            self.is_waiting = True
            self._enter()
            self.server.loop.add_reader(sock.fileno(), read, sock, self)

    def stop_waiting(self) -> None:
        """The request is complete."""
        if self.is_waiting and self._sock is not None:
            self.is_waiting = False
            self.server.loop.remove_reader(self._sock.fileno())

    def answer_on_socket(self) -> bool:
        """Returns whether the connection is open now, in the engine. If not, it needs a transport."""
        self.response = response = self.response or self._decide()
        sock = self._sock
        if response is None or response.status_code != 101 or sock is None:
            return False
        self._leave()
        ws = self.server.make(self.acceptor.agreement, self.request, response)
        self.leave_socket()
        self.server.open_on(sock, ws, self._to_send)
        if self._data:
            ws.feed(self._data)
        return True

    def leave_socket(self) -> None:
        """Somebody else has the socket from now on."""
        self._sock = None

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._enter()
        if self.response is not None:
            self._answer(self.response)
        elif self.server.sends_away or self._said is not None:
            # Not now: uvloop begins to read when this returns, even if reading was paused or the transport closed here.
            self.server.loop.call_soon(self.go_away if self.server.sends_away else self._think)

    def data_received(self, data: bytes) -> None:
        if self.response is not None:
            return  # answered with an error: what still comes is the peer's business
        if self.request is not None:
            self._data += data
            if self._said is not None and not self.server.sends_away and self.transport is not None:
                # `_think` will, but comes with the next turn; uvloop reads up to 32 times in this one.
                self.transport.pause_reading()
        elif self.read(data):
            try:
                # The caller's context may be that of all connections; what a hook sets is for this one's handler.
                self.server.context.copy().run(self._go_on)
            except ENDS_OF_LOOP as error:  # of a hook
                self.abort()
                end_loop(self.server.loop, error)

    def _go_on(self) -> None:
        response = self.response or self._decide()
        if response is not None:
            self._answer(response)
        else:
            self._think()

    def eof_received(self) -> bool:
        return False  # a client that has closed its side cannot open a WebSocket

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self.transport is not None:
            self.transport.close()  # CPython 3.10's TLS warns if nobody has closed it
            self.transport = None
        if self._task is not None:
            self._task.cancel()
        else:
            self._forget_said()

    def leave(self) -> None:
        """There is no time left for it."""
        self.abort()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._stop_timer()
        if self.transport is not None:
            self.transport.abort()
        elif self._sock is not None:
            self.stop_waiting()
            self._sock.close()
            self._sock = None
            self._leave()

    def finish(self) -> None:
        """The server accepts nobody any more: this connection is among the last."""

    def go_away(self) -> None:
        """The server is shutting down."""
        if self.response is not None:
            return
        response = self._sendable(self.acceptor.reject(503, "the server is shutting down"))
        if self._sock is not None:
            with contextlib.suppress(OSError):  # the client has gone, which is as good
                self._sock.send(self._to_send)
            with contextlib.suppress(OSError):
                # Unread input would turn our close into a reset, and the answer would be lost.
                self._sock.recv(MAX_HEAD)
            self.abort()
        elif self.transport is not None:
            self._answer(response)

    # ---- the answer ----

    def _decide(self) -> Response | None:
        """The answer to the request; None while a hook thinks, in `_said`."""
        server, request = self.server, self.request
        assert request is not None
        try:
            said = None if server.process_request is None else server.process_request(self, request)
            if not inspect.isawaitable(said):
                return self._replace(request, said)
            self._said = said
        except FAILURES:
            return self._blame_hook()
        return None

    def _replace(self, request: Request, said: object) -> Response | None:
        """The answer after `process_request` has `said` what it wants; None while `process_response` thinks."""
        response = refusal_of(said) or self.acceptor.respond(request)
        hook = self.server.process_response
        replaced = None if hook is None else hook(self, request, response)
        if not inspect.isawaitable(replaced):
            return self._sendable(response if hook is None else self._settled(replaced, response))
        self._said, self._chosen = replaced, response
        return None

    def _settled(self, said: object, response: Response) -> Response:
        """What `process_response`, which was given `response`, wants sent."""
        assert self.request is not None
        key = None if self.acceptor.agreement is None else self.request.headers["sec-websocket-key"]
        return settled_by(said, response, key, self.acceptor.granted)

    def _sendable(self, response: Response) -> Response:
        """Puts the bytes of `response` in `_to_send`, and returns it. Raises if a hook has made it illegal HTTP."""
        # Where the request was refused before it was parsed, its first bytes still show the method.
        is_head = self._data.startswith(b"HEAD ") if self.request is None else self.request.method == "HEAD"
        self._to_send = response.serialize("HEAD" if is_head else "GET")
        return response

    def _blame_hook(self) -> Response:
        logger.error("process_request, process_response or select_subprotocol failed", exc_info=True)
        return self._sendable(self.acceptor.reject(500, "the server failed to answer; its log says more"))

    # ---- hooks that are coroutines ----

    def _think(self) -> None:
        if self._said is not None and self.transport is not None:
            # While a hook thinks, what the client sends waits in the socket.
            self.transport.pause_reading()
            self._task = self.server.loop.create_task(self._run_hooks(self._said))
            self._task.add_done_callback(lambda _: self._forget_said())

    async def _run_hooks(self, said: Awaitable[object]) -> None:
        try:
            try:
                response = await self._settle(said)
            except FAILURES as error:
                if cancels(error):
                    raise
                response = self._blame_hook()
            self._task = None
            if self.transport is not None:
                self.transport.resume_reading()
                if self.server.sends_away:
                    self.go_away()
                else:
                    self._answer(response)
        except BaseException:  # no memory, or a panic of a hook: it would stay open with nobody behind it
            # `connection_lost` must not cancel a task that has failed: asyncio would not report the error any more.
            self._task = None
            self.abort()
            raise

    async def _settle(self, said: Awaitable[object]) -> Response:
        chosen = self._chosen
        if chosen is None:
            assert self.request is not None
            response = self._replace(self.request, await said)
            if response is not None:
                return response
            assert self._said is not None and self._chosen is not None
            said, chosen = self._said, self._chosen
        return self._sendable(self._settled(await said, chosen))

    def _forget_said(self) -> None:
        """Drops a coroutine that never began because its client left first, so that Python does not warn of it."""
        said, self._said = self._said, None
        abandon(said)

    # ---- what comes of it ----

    def _answer(self, response: Response) -> None:
        transport = self.transport
        assert transport is not None
        self.response = response
        if response.status_code == 101:
            self._leave()
            ws = self.server.make(self.acceptor.agreement, self.request, response)
            hand_over(self.server.loop, transport, ws, self._to_send)
            self.server.start(ws)
            if self._data:
                ws.feed(self._data)
            return
        transport.write(self._to_send)
        self._taken = self._count_taken()
        if self._timer is not None and len(self._to_send) > MUCH:
            # Its reader has all of that time, however long a hook has thought before.
            self._stop_timer()
            self._enter()
        why = self.acceptor.error or response.reason_phrase
        logger.debug("connection of %s rejected: %s (%s)", self.remote_address, response.status_code, why)
        # The transport has the bytes. They are dropped here: a page may have many MB, and its client may be slow.
        self._data = self._to_send = b""
        self.response = Response(response.status_code, response.reason_phrase, response.headers)
        self._chosen = None
        if transport.can_write_eof():
            # Not close: unread input would turn that into a reset, and the answer would be lost.
            end_writing(transport)
        else:
            transport.close()

    def _enter(self) -> None:
        """The handshake is not over at once: from now on it is one of `handshakes`, and has `open_timeout`."""
        self.server.handshakes.add(self)
        if self._timer is None and self.server.open_timeout is not None:
            self._timer = Deadline(self.server.loop, self.server.open_timeout, self._time_is_over)

    def _time_is_over(self) -> None:
        """Ends the connection, unless its client has taken much of a long answer in that time."""
        before, self._taken, self._timer = self._taken, self._count_taken(), None
        if before is not None and self._taken - before >= MUCH:
            self._enter()
        else:
            if self._task is not None:
                self._say_slow()
            self.abort()

    def _say_slow(self) -> None:
        """The client sees the connection end without an answer, and whoever runs the server learns why only here."""
        level = self.server.limited.level(logging.WARNING, self.server.loop.time())
        where, limit = self.remote_address, self.server.open_timeout
        what = "process_request or process_response was still busy with the request from"
        logger.log(level, "%s %s when open_timeout=%g seconds were over", what, where, limit)

    def _count_taken(self) -> int:
        """A number that grows with what the client takes: with what its system confirms, where ours reports that."""
        transport = self.transport
        if transport is None:
            return 0
        # For a stream of HTTP/2 the whole connection counts: the client may be taking other streams first.
        below = getattr(transport, "below", None) or transport
        return counts(below.get_extra_info("socket")).confirmed - transport.get_write_buffer_size()

    def _leave(self) -> None:
        self.server.left(self)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


# No names in quotes: `typing.get_type_hints` would need them in the namespace of its caller.
ProcessRequest = Callable[[ServerHandshake, Request], Response | Awaitable[Response | None] | None]
ProcessResponse = Callable[[ServerHandshake, Request, Response], Response | Awaitable[Response | None] | None]
