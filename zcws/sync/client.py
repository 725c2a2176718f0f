"""`zcws.sync.connect`: from a URI to an open blocking connection; `zcws.sync.reconnect`: to one after the other.

reach.py makes the socket, connector.py decides what request and response mean, route.py which redirects are followed,
retry.py whether and when another attempt is made.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl as ssl_module
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, TypedDict

from zcws.annotations import Unpack
from zcws.body import BODY_TIMEOUT, BodyReader
from zcws.connection import MAX_FRAGMENTS, MAX_SIZE, Connection
from zcws.connector import WebSocketConnector
from zcws.deflate import Deflate
from zcws.extensions import Agreement
from zcws.failures import timed_out
from zcws.handshake import SOFTWARE, NoMasking
from zcws.headers import HeadersLike
from zcws.hints import NoOptions, check_names
from zcws.http import Response
from zcws.keys import MaskingKeys
from zcws.options import Limits, Timeouts, check_address, check_kind, checked_limits, checked_seconds
from zcws.pool import Pool
from zcws.retry import Delays, ProcessException, Retries, backoff, process_exception
from zcws.route import EYEBALLS_DELAY, Route, Trust, check_unix_place, unix_uri
from zcws.sync.deadline import after, is_past, socket_timeout, until
from zcws.sync.plain import open_channel
from zcws.sync.reach import reach
from zcws.sync.stream import WebSocket
from zcws.uri import WebSocketURI, parse_uri

__all__ = ["connect", "reconnect", "unix_connect"]

#: Every blocking client of this process draws its masking keys here, in any thread: a key is one `list.pop`.
_keys = MaskingKeys(os.urandom)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.forget)

#: Bytes asked for at once while the response's head arrives: about the length of an answer.
_CHUNK = 4096

#: What a handshake leaves: the socket, the connector, what was agreed, the 101, and the bytes behind it.
_Opened = tuple[socket.socket, WebSocketConnector, Agreement, Response, bytes]


class ConnectOptions(TypedDict, total=False):
    """The options of `connect`, for functions that pass them on."""

    host: str | None
    port: int | None
    sock: socket.socket | None
    path: str | os.PathLike[str] | None
    ssl: Trust
    server_hostname: str | None
    origin: str | None
    subprotocols: Sequence[str] | None
    compression: Deflate | Literal["deflate"] | None
    no_masking: NoMasking
    additional_headers: HeadersLike | None
    user_agent_header: str | None
    basic_auth: tuple[str, str] | None
    bearer: str | None
    proxy: str | Literal[True] | None
    proxy_ssl: Trust
    proxy_server_hostname: str | None
    open_timeout: float | None
    close_timeout: float | None
    ping_interval: float | None
    ping_timeout: float | None
    max_size: int | None
    max_fragments: int
    write_timeout: float | None
    max_redirects: int
    source_address: tuple[str, int] | None
    family: int
    happy_eyeballs_delay: float | None


def connect(
    uri: str,
    *,
    host: str | None = None,
    port: int | None = None,
    sock: socket.socket | None = None,
    path: str | os.PathLike[str] | None = None,
    ssl: Trust = None,
    server_hostname: str | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] | None = None,
    compression: Deflate | Literal["deflate"] | None = None,
    no_masking: NoMasking = False,
    additional_headers: HeadersLike | None = None,
    user_agent_header: str | None = SOFTWARE,
    basic_auth: tuple[str, str] | None = None,
    bearer: str | None = None,
    proxy: str | Literal[True] | None = True,
    proxy_ssl: Trust = None,
    proxy_server_hostname: str | None = None,
    open_timeout: float | None = 10,
    close_timeout: float | None = 10,
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    max_size: int | None = MAX_SIZE,
    max_fragments: int = MAX_FRAGMENTS,
    write_timeout: float | None = None,
    max_redirects: int = 0,
    source_address: tuple[str, int] | None = None,
    family: int = socket.AF_UNSPEC,
    happy_eyeballs_delay: float | None = EYEBALLS_DELAY,
    **unknown: Unpack[NoOptions],
) -> WebSocket:
    """Opens a WebSocket connection; a context manager that closes it.

    Args:
        uri: `ws://` or `wss://`; user and password in it become basic credentials.
        host, port, sock, path: where to connect to, if not to the URI's host and port: another place, a connected
            socket, or the path of a Unix socket.
        write_timeout: seconds that a send may wait for a peer that does not read before the connection is failed.
        source_address, family: of our end of the socket: host and port, `socket.AF_INET` or `AF_INET6`.
        happy_eyeballs_delay: seconds between attempts at a host's addresses; None tries one after the other.
        ssl and the rest: see `zcws.connect`.

    Raises:
        HandshakeError: the server did not agree; `ProxyError`: the proxy did not. OSError: there is no server, or
            it is not trusted. TimeoutError: it took longer than `open_timeout`. ImportError: an extra is not installed.
        ValueError, TypeError: the URI or an option is invalid.
    """
    options: Any = dict(locals())  # the arguments, by name
    check_names("connect", unknown, named=connect.__kwdefaults__)
    return _checked(uri, options)()


def _checked(uri: str, given: ConnectOptions) -> Callable[[], WebSocket]:
    """A function that opens a connection, once, with all options of `connect`. Raises: ValueError, TypeError."""
    options = Timeouts(
        close_timeout=given["close_timeout"],
        ping_interval=given["ping_interval"],
        ping_timeout=given["ping_timeout"],
        write_timeout=given["write_timeout"],
    )
    limits = checked_limits(given["max_size"], given["max_fragments"])
    open_timeout = checked_seconds("open_timeout", given["open_timeout"])
    connector = WebSocketConnector(
        uri,
        entropy=os.urandom,
        origin=given["origin"],
        subprotocols=given["subprotocols"],
        compression=given["compression"],
        no_masking=given["no_masking"],
        additional_headers=given["additional_headers"],
        user_agent_header=given["user_agent_header"],
        basic_auth=given["basic_auth"],
        bearer=given["bearer"],
    )
    route = Route(
        uri=connector.uri,
        ssl=given["ssl"],
        server_hostname=given["server_hostname"],
        proxy=given["proxy"],
        proxy_ssl=given["proxy_ssl"],
        proxy_server_hostname=given["proxy_server_hostname"],
        host=given["host"],
        port=given["port"],
        sock=given["sock"],
        path=given["path"],
        max_redirects=given["max_redirects"],
        user_agent_header=given["user_agent_header"],
    )
    others = {
        "source_address": given["source_address"],
        "family": given["family"],
        "happy_eyeballs_delay": checked_seconds("happy_eyeballs_delay", given["happy_eyeballs_delay"]),
    }
    check_address("source_address", given["source_address"])
    check_kind("family", given["family"], int, "socket.AF_INET, AF_INET6 or AF_UNSPEC")
    deflate = Deflate.of(given["compression"])

    def attempt() -> WebSocket:
        return _open(_shake_in_time(connector, route, open_timeout, others), options, deflate, limits)

    return attempt


def _open(opened: _Opened, options: Timeouts, deflate: Deflate | None, limits: Limits) -> WebSocket:
    """The connection, after a handshake that has succeeded."""
    stream, connector, agreement, response, received = opened
    connection = Connection(
        is_client=True,
        entropy=_keys,
        agreement=agreement,
        deflate=deflate,
        pool=Pool(),
        **limits,
    )
    return WebSocket(
        open_channel(stream),
        connection,
        options,
        request=connector.request_head,
        response=response,
        received=received,
    )


def unix_connect(
    path: str | os.PathLike[str] | None = None, uri: str | None = None, **options: Any
) -> WebSocket:
    """`connect` over the Unix socket at `path`, or over the one that is given as `sock`; `uri` gives the Host and the
    resource.

    By default `uri` is `ws://localhost/`, and with `ssl` `wss://localhost/`.
    """
    check_unix_place("unix_connect", path, options.get("sock"))
    return connect(unix_uri(options.get("ssl")) if uri is None else uri, path=path, **options)


def reconnect(
    uri: str,
    *,
    process_exception: ProcessException = process_exception,
    reconnect_delays: Delays = backoff,
    **options: Unpack[ConnectOptions],
) -> Generator[WebSocket, None, None]:
    """`for ws in reconnect(...)`: each turn of the loop gets a new connection, and the old one is closed first.

    This cannot be `connect` itself: iterating over a connection gives its messages.

    Args:
        process_exception: says whether an error is fatal by returning it (or another), or None to try again; by default
            `zcws.process_exception`.
        reconnect_delays: called for a new series of seconds to wait; by default `zcws.backoff`.
        options: those of `connect`.

    Raises:
        what `connect` raises, where that is fatal. ValueError, TypeError: at once, if an option is invalid.
    """
    retries = Retries(parse_uri(uri).shown, reconnect_delays, process_exception, options.get("sock"))
    defaults: Any = connect.__kwdefaults__
    check_names("connect", options, defaults)
    # Checked only, and not called: each attempt draws a key of its own. RFC 6455 4.1.
    _checked(uri, {**defaults, **options})
    return _connections(uri, retries, options)


def _connections(uri: str, retries: Retries, options: ConnectOptions) -> Generator[WebSocket, None, None]:
    delay: float | None = 0.0
    while delay is not None:
        time.sleep(delay)
        try:
            ws = connect(uri, **options)
        except Exception as error:
            delay = retries.failed(error)
            continue
        opened = time.monotonic()
        try:
            yield ws
        finally:
            ws.close()
        delay = retries.ended(time.monotonic() - opened, ws.connection.error())


def _shake_in_time(
    connector: WebSocketConnector, route: Route, open_timeout: float | None, others: dict[str, Any]
) -> _Opened:
    uris = [connector.uri]
    try:
        return _follow(connector, route, open_timeout, others, uris)
    except TimeoutError as error:
        if error.errno is not None:
            raise  # the network's, not ours
        raise timed_out(uris, open_timeout, route.proxy_for(uris[-1])) from None


def _follow(
    connector: WebSocketConnector,
    route: Route,
    open_timeout: float | None,
    others: dict[str, Any],
    uris: list[WebSocketURI],
) -> _Opened:
    """One handshake, or as many as there are redirects: where they lead is added to `uris`."""
    deadline = after(open_timeout)
    followed = 0
    while True:
        stream = reach(route, connector.uri, deadline, others)
        try:
            response, received = _shake(stream, connector, deadline)
            if response.status_code == 101:
                return stream, connector, connector.check(response), response, received
            connector = route.follow(connector, response, followed)
            uris.append(connector.uri)
            followed += 1
        except BaseException:
            stream.close()
            raise
        stream.close()


def _shake(
    sock: socket.socket, connector: WebSocketConnector, deadline: float | None
) -> tuple[Response, bytes]:
    """The response to our request, and the bytes behind its head: the first frames, if it is a 101."""
    broken: Exception | None = None
    try:
        sock.sendall(connector.request())
    except (ssl_module.SSLError, ConnectionError) as error:
        broken = error  # what the server has said before it left can still be read: its answer, or an alert
    data = bytearray()
    for _ in until(deadline):
        try:
            received = _more(sock, deadline)
        except ssl_module.SSLError as error:
            received, broken = b"", error
        if not received:
            alpn = sock.selected_alpn_protocol() if isinstance(sock, ssl_module.SSLSocket) else None
            raise connector.cut_short(data, broken, alpn)
        data += received
        if (response := connector.read_response(data)) is not None:
            break
    else:
        raise TimeoutError("the server has not stopped sending its answer")
    behind = bytes(data[connector.used :])
    if response.status_code == 101:
        return response, behind
    body = connector.body_reader(response)
    body.feed(behind)
    _read_body(sock, body, deadline)
    response.body = body.body
    return response, b""


def _read_body(sock: socket.socket, body: BodyReader, deadline: float | None) -> None:
    """Reads what comes of it in time. The status, which we have, is the answer, however the connection ends."""
    patience = time.monotonic() + BODY_TIMEOUT
    end = patience if deadline is None else min(patience, deadline)
    with contextlib.suppress(OSError):
        while not body.done and not is_past(end):
            received = _more(sock, end)
            if not received:
                return  # the body ends with the connection
            body.feed(received)


def _more(sock: socket.socket, deadline: float | None) -> bytes:
    """The server's next bytes; none when the connection has ended. After a reset, what came before it stays valid."""
    sock.settimeout(socket_timeout(deadline))
    try:
        return sock.recv(_CHUNK)
    except ConnectionResetError:
        return b""
