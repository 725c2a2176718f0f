"""`zcws.sync.serve`: from what a program says of its server to a socket that listens, and a server behind it.

What this file decides: what the options become, and what happens to a path that exists already. It makes a `Server`
(server.py), which does the rest.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl as ssl_module
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from zcws.acceptor import AcceptorOptions
from zcws.annotations import Unpack
from zcws.connection import MAX_FRAGMENTS, MAX_SIZE
from zcws.deflate import Deflate
from zcws.failures import with_path
from zcws.handshake import SOFTWARE, NoMasking
from zcws.headers import HeadersLike
from zcws.hints import NoOptions, check_names
from zcws.hooks import hooks_of
from zcws.options import Timeouts, check_kind, checked_count, checked_limits, checked_seconds
from zcws.route import check_unix_place, checked_listening
from zcws.router import check_handler
from zcws.sync.server import Handler, ProcessRequest, Server

__all__ = ["serve", "unix_serve"]

#: Threads at once when the caller does not say: each costs a stack, and a machine has a few cores.
MAX_CONNECTIONS = 1000


def serve(
    handler: Handler,
    host: str | None = None,
    port: int | None = None,
    *,
    sock: socket.socket | None = None,
    path: str | os.PathLike[str] | None = None,
    ssl: ssl_module.SSLContext | None = None,
    origins: Sequence[str | re.Pattern[str] | None] | None = None,
    subprotocols: Sequence[str] | None = None,
    select_subprotocol: Callable[[list[str]], str | None] | None = None,
    compression: Deflate | Literal["deflate"] | None = None,
    no_masking: NoMasking = False,
    process_request: ProcessRequest | Sequence[ProcessRequest] | None = None,
    extra_headers: HeadersLike | None = None,
    server_header: str | None = SOFTWARE,
    open_timeout: float | None = 10,
    close_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    max_size: int | None = MAX_SIZE,
    max_fragments: int = MAX_FRAGMENTS,
    write_timeout: float | None = None,
    max_connections: int = MAX_CONNECTIONS,
    backlog: int = 128,
    reuse_port: bool = False,
    **unknown: Unpack[NoOptions],
) -> Server:
    """Listens for WebSocket connections; `serve_forever` then runs `handler(ws)` in a thread for each.

    Args:
        handler: a function, or a `Router` of them; the connection is closed when it returns, with 1011 when it raises.
        host, port: where to listen; a port of 0 takes any that is free.
        sock, path: an existing socket, or the path of a Unix socket, instead of those.
        process_request: called with the server and the request; a response that it returns is sent instead of a 101.
            Or several, asked in order until one answers.
        write_timeout: seconds that a send may wait for a peer that does not read before the connection is failed.
        max_connections: threads at once; further clients wait until one ends.
        ssl and the rest: see `zcws.serve`.

    Raises:
        OSError: the server cannot listen there. ValueError, TypeError: an option or a function is invalid.
    """
    check_names("serve", unknown, named=serve.__kwdefaults__)
    check_kind("host", host, str, "a str, or None for all addresses")
    path = checked_listening(sock=sock, path=path, host=host, port=port, ssl=ssl)
    check_handler(handler, is_blocking=True)
    make = partial(
        Server,
        handler=handler,
        ssl=ssl,
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
        options=Timeouts(
            close_timeout=close_timeout,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            write_timeout=write_timeout,
        ),
        process_request=hooks_of(process_request, handler, is_blocking=True),
        open_timeout=checked_seconds("open_timeout", open_timeout),
        limits=checked_limits(max_size, max_fragments),
        max_connections=checked_count("max_connections", max_connections, "connections"),
    )
    # All options have been checked by now, so that no address is bound in vain.
    if sock is None:
        listening = _listen(host, port, path, backlog, reuse_port)
    else:
        listening = sock
        sock.listen(backlog)  # as asyncio does; one that listens already goes on
    if path is None or path[:1] in ("\0", b"\0"):  # Linux's abstract kind is no file
        return make(listening, path=None)
    # The program may change its directory before the file is removed. Not `abspath`: that drops "link/..".
    return make(listening, path=os.path.join(os.getcwd(), path))


def unix_serve(handler: Handler, path: str | os.PathLike[str] | None = None, **options: Any) -> Server:
    """`serve` on a Unix socket at `path`, or on the one that is given as `sock`."""
    check_unix_place("unix_serve", path, options.get("sock"))
    return serve(handler, path=path, **options)


def _listen(
    host: str | None, port: int | None, path: str | None, backlog: int, reuse_port: bool
) -> socket.socket:
    if path is None:
        family = socket.AF_INET6 if host is not None and ":" in host else socket.AF_INET
        return socket.create_server(
            (host or "", port or 0), family=family, backlog=backlog, reuse_port=reuse_port
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError, ValueError):  # ValueError: an abstract path
            # A socket that a server left behind is in the way; anything else is somebody's file.
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        sock.bind(path)
        sock.listen(backlog)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise with_path(error, path) from None
        raise
    return sock
