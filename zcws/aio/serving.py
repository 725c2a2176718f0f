"""`serve`: from the program's options to sockets that are bound, and a server behind them.

What this file decides: what the options become, which of them belong together, who accepts (the event loop, or a
listener of ours) and whose TLS it is. It makes a `Server` (server.py) and hands it its sockets; connections are not its
business.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl as ssl_module
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from zcws.acceptor import AcceptorOptions
from zcws.aio.accepting import ProcessRequest, ProcessResponse, ServerHandshake
from zcws.aio.listener import Listener, can_accept
from zcws.aio.passing import ListeningOptions, check_hosts, check_others, checked_look
from zcws.aio.server import Handler, OnFrame, OnMessage, Server
from zcws.aio.settings import Options
from zcws.aio.tasks import running_loop
from zcws.aio.tls import Tls, has_better
from zcws.annotations import Unpack
from zcws.callables import check_call
from zcws.connection import MAX_FRAGMENTS, MAX_SIZE
from zcws.deflate import Deflate
from zcws.failures import unknown_host, with_path
from zcws.handshake import SOFTWARE, NoMasking
from zcws.headers import HeadersLike
from zcws.hints import not_awaited
from zcws.hooks import hooks_of
from zcws.http2 import ALPN, missing_h2
from zcws.options import LONGEST, check_kind, checked_limits, checked_seconds
from zcws.route import check_unix_place, checked_listening
from zcws.router import check_handler

__all__ = ["serve", "unix_serve"]

#: Connections that may wait in the kernel: asyncio's default.
BACKLOG = 100

#: Seconds for TLS if `open_timeout` is 0, which event loops refuse.
_SHORTEST = 0.001


class serve:
    """Listens for WebSocket connections and runs `handler` for each. Await it, or use it as a context manager.

    Args:
        handler: a coroutine function, or a `Router` of them; the connection is closed when it returns, with 1011 when
            it raises. None where `on_message` or `on_frame` does everything.
        on_message: a plain function that is called with the connection and each message (str or bytes), where the
            bytes arrive and in no task. (The end of a connection is for `ws.add_end_callback`.) An exception in it
            closes the connection with 1011. No task can read then: `recv` raises RuntimeError.
        on_frame: the same with a frame for each message, Ping and Pong; it is good until the function returns. For
            payloads of many KiB, of which no copy is made.
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
            The context given as `ssl` offers it from now on (ALPN).
        others: passed on to `loop.create_server`: `backlog`, `reuse_port`, `family`, `start_serving` and so on.

    Raises:
        OSError: listening at this address failed (it is in use, for example).
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
        on_message: OnMessage | None = None,
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
        check_others(serve, others, ListeningOptions, path)
        check_hosts(host)
        path = checked_listening(sock=others.get("sock"), path=path, host=host, port=port, ssl=ssl)
        self._where = {"host": host, "port": port} if path is None else {"path": path}
        self._path = path
        self._ssl = ssl
        self._others: dict[str, Any] = {**others}
        check_kind("http2", http2, bool, "True or False")
        look = checked_look(on_frame, on_message)
        if handler is None and look is None:
            raise TypeError("serve needs a handler, or on_message, or both")
        if handler is not None:
            check_handler(handler)
        if process_response is not None:
            check_call("process_response", process_response, "the connection", "the request", "the response")
        self._make = partial(
            Server,
            handler,
            look=look,
            shows_messages=on_message is not None,
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
        loop = running_loop()
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
            raise error if self._path is None else with_path(error, self._path) from None
        listener: Listener | None = None
        try:
            if context is None and can_accept(loop, listening.sockets):
                begin = None if secure is not None or self._begin is ServerHandshake else make
                backlog = others.get("backlog", BACKLOG)
                listener = Listener(loop, listening.sockets, backlog, server, secure, begin)
            server.listen(listening, listener)
            if start:
                await server.start_serving()
        except BaseException:
            listening.close()  # the address is in use, after all
            if listener is not None:
                listener.close()
            raise
        return server

    def _secure(self, server: Server, others: dict[str, Any]) -> Callable[[], Tls] | None:
        """What makes the TLS that each connection begins with. None: there is none, or it is the loop's, whose options
        are added to `others`."""
        if self._ssl is None:
            return None
        # The TLS handshake comes first, and the loop's default for it is a minute.
        timeout = server.open_timeout
        if others.get("ssl_handshake_timeout") is None:
            others["ssl_handshake_timeout"] = LONGEST if timeout is None else timeout or _SHORTEST
        if has_better(server.loop):
            return None
        others.pop("ssl_shutdown_timeout", None)  # nobody waits for the peer's close_notify
        return partial(server.secure, self._begin, self._ssl, others.pop("ssl_handshake_timeout"))

    if not TYPE_CHECKING:  # a type checker knows that there is no such name

        def __getattr__(self, name: str) -> Any:
            raise not_awaited("serve", "server", name)

    def __await__(self) -> Generator[Any, None, Server]:
        return self._listen().__await__()

    async def __aenter__(self) -> Server:
        # As for `connect`: the end of either block would close the second server, and none the first.
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
    """The first protocol of connections that may speak HTTP/2. Raises: ImportError, without the extra."""
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
