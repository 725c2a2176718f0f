"""`zcws.sync.connect`: from a URI to an open blocking connection."""

from __future__ import annotations

import os
import socket
import ssl as ssl_module
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

from zcws.connection import MAX_FRAGMENTS, MAX_SIZE, Connection
from zcws.connector import WebSocketConnector
from zcws.deflate import Deflate
from zcws.errors import HandshakeError
from zcws.handshake import SOFTWARE, NoMasking
from zcws.headers import HeadersLike
from zcws.http import Response
from zcws.pool import Pool
from zcws.sync.channel import open_channel
from zcws.sync.reading import Options
from zcws.sync.stream import WebSocket
from zcws.writer import MaskingKeys

__all__ = ["connect", "unix_connect"]

#: Every client of this process draws its masking keys here.
_keys = MaskingKeys(os.urandom)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.forget)

#: Bytes asked for at once while the response's head arrives: what an answer is long.
_CHUNK = 4096


def connect(
    uri: str,
    *,
    sock: socket.socket | None = None,
    path: str | None = None,
    ssl: ssl_module.SSLContext | None = None,
    server_hostname: str | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] | None = None,
    compression: Deflate | Literal["deflate"] | None = None,
    no_masking: NoMasking = False,
    additional_headers: HeadersLike | None = None,
    user_agent_header: str | None = SOFTWARE,
    open_timeout: float | None = 10,
    close_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    max_size: int | None = MAX_SIZE,
    max_fragments: int = MAX_FRAGMENTS,
    write_timeout: float | None = None,
    max_redirects: int = 0,
    **others: Any,
) -> WebSocket:
    """Opens a WebSocket connection; a context manager that closes it.

    Args:
        uri: `ws://` or `wss://`; user and password in it become basic credentials.
        sock, path: an existing connected socket, or a Unix socket's path, in place of the URI's host. No redirect
            is followed then.
        write_timeout: seconds that a send may wait for a peer that does not read before the connection is failed.
        others: passed on to `socket.create_connection`.
        ssl and the rest: see `zcws.connect`.

    Raises:
        HandshakeError: the server did not agree. OSError: there is no server, or no trust in it.
        TimeoutError: it took longer than `open_timeout`. ValueError: the URI is not one.
    """
    connector = WebSocketConnector(
        uri,
        entropy=os.urandom,
        origin=origin,
        subprotocols=subprotocols,
        compression=compression,
        no_masking=no_masking,
        additional_headers=additional_headers,
        user_agent_header=user_agent_header,
    )
    deadline = None if open_timeout is None else time.monotonic() + open_timeout
    redirects = max_redirects if sock is None and path is None else 0
    for _ in range(redirects + 1):
        plain = _reach(connector, sock, path, _rest(deadline), others)
        stream = _secure(plain, connector, ssl, server_hostname, deadline)
        try:
            response, received = _shake(stream, connector, deadline)
            following = connector.redirect(response) if redirects and response.status_code != 101 else None
            if following is None:
                agreement = connector.check(response)
                break
        except BaseException:
            stream.close()
            raise
        stream.close()
        connector = following
    else:
        raise HandshakeError(f"more than max_redirects={max_redirects} redirects")
    connection = Connection(
        is_client=True,
        entropy=_keys,
        agreement=agreement,
        deflate=Deflate.of(compression),
        pool=Pool(),
        max_size=sys.maxsize if max_size is None else max_size,
        max_fragments=max_fragments,
    )
    options = Options(
        close_timeout=close_timeout,
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        write_timeout=write_timeout,
    )
    return WebSocket(
        open_channel(stream),
        connection,
        options,
        request=connector.request_head,
        response=response,
        received=received,
    )


def unix_connect(path: str, uri: str = "ws://localhost/", **options: Any) -> WebSocket:
    """`connect` over the Unix socket at `path`; `uri` gives the Host and the resource."""
    return connect(uri, path=path, **options)


def _reach(
    connector: WebSocketConnector,
    sock: socket.socket | None,
    path: str | None,
    timeout: float | None,
    others: dict[str, Any],
) -> socket.socket:
    if sock is not None:
        sock.settimeout(timeout)
        return sock
    if path is None:
        return socket.create_connection((connector.uri.host, connector.uri.port), timeout, **others)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _secure(
    sock: socket.socket,
    connector: WebSocketConnector,
    context: ssl_module.SSLContext | None,
    server_hostname: str | None,
    deadline: float | None,
) -> socket.socket:
    """The socket, with TLS where the URI says so. Closed when that fails."""
    try:
        if connector.uri.secure:
            context = context or ssl_module.create_default_context()
            sock.settimeout(_rest(deadline))
            return context.wrap_socket(sock, server_hostname=server_hostname or connector.uri.host)
        if context is not None:
            raise ValueError("ssl= is for wss:// URIs; this one is ws://")
        return sock
    except BaseException:
        sock.close()
        raise


def _shake(
    sock: socket.socket, connector: WebSocketConnector, deadline: float | None
) -> tuple[Response, bytes]:
    """The response to our request, and the bytes behind its head: the first frames, if it is a 101."""
    sock.sendall(connector.request())
    data = bytearray()
    while (response := connector.read_response(data)) is None:
        data += _more(
            sock, deadline, "the server closed the connection before it answered the opening handshake"
        )
    rest = bytes(data[connector.used :])
    if response.status_code == 101:
        return response, rest
    body = connector.body_reader(response)
    body.feed(rest)
    while not body.done:
        try:
            body.feed(_more(sock, deadline, ""))
        except HandshakeError:
            break  # the body ends with the connection
    response.body = body.body
    return response, b""


def _more(sock: socket.socket, deadline: float | None, at_end: str) -> bytes:
    sock.settimeout(_rest(deadline))
    try:
        data = sock.recv(_CHUNK)
    except TimeoutError:
        raise TimeoutError("no answer to the opening handshake within open_timeout") from None
    if not data:
        raise HandshakeError(at_end)
    return data


def _rest(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.001)
