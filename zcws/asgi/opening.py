"""A WebSocket that a client asks an ASGI application for: its request, and the three possible answers.

    phase        answer                                          next      what the client sees
    ASKED        accept(subprotocol, headers)                    OPEN      101; the transport belongs to `ws`
                 refuse(response)                                CLOSED    that response, and the end of the connection
                 deny(status, headers)                           DENYING   nothing yet
    DENYING      deny_body(body, last)                           CLOSED    the response in pieces, and the end
    any          the socket is gone                              LOST

It decides what goes over the wire before a WebSocket is open. It does not know which server read the request, nor in
which words the application gives its answer (uvicorn.py). Whatever a refused client sends after its request on this
connection, a body or another request, is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from enum import Enum
from functools import cache
from typing import Any

from zcws.acceptor import AcceptorOptions, WebSocketAcceptor, offered_subprotocols
from zcws.aio.below import end_writing
from zcws.aio.settings import Options, pool_of
from zcws.aio.stream import hand_over, take_up_backlog
from zcws.aio.tracing import websocket_class
from zcws.aio.websocket import WebSocket
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.deflate import Deflate
from zcws.handshake import SWITCHED, accept_value, check_request
from zcws.headers import Headers
from zcws.http import BODILESS, OF_A_CONNECTION, HttpError, Request, Response, reason_phrase

__all__ = ["Event", "Opening", "Phase", "acceptor_options", "decoded", "stream_options"]

Event = dict[str, Any]
Lines = list[tuple[str, str]]

#: Seconds for the peer's answer to our Close, and for a refused client to hang up, or to go on reading our answer: as
#: in `zcws.serve`.
CLOSE_TIMEOUT = 10.0

#: Bytes that are kept for a client that does not wait for our answer, although RFC 6455 4.1 says that it must. One that
#: sends more is cut off: if we stopped reading instead, we would not notice when it goes.
EARLY = 16 * 1024

#: Headers of a 101 that the opening handshake writes. RFC 6455 4.2.2.
OURS = frozenset({"upgrade", "connection", "sec-websocket-accept", "sec-websocket-extensions"})


class Phase(Enum):
    """How far a connection has got; the table is at the top."""

    ASKED = "asked for"
    DENYING = "being denied"
    OPEN = "open"
    CLOSED = "closed"
    LOST = "lost"


class Opening(asyncio.Protocol):
    """One connection, from its request to the answer.

    Args:
        options: of the handshake, shared by all connections.

    Attributes:
        phase: how far it has got.
        ws: the connection, once accepted.
        subprotocols: those that the client offers.
        end: the websocket.disconnect that the application will get; None while there is none.
        decided: done as soon as the phase is not ASKED or DENYING any more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, options: AcceptorOptions) -> None:
        self.loop = loop
        self.phase: Phase = Phase.ASKED
        self.ws: WebSocket | None = None
        self.transport: asyncio.Transport | None = None
        self.subprotocols: list[str] = []
        self.end: Event | None = None
        self.decided: asyncio.Future[None] = loop.create_future()
        self._options = options
        self._acceptor = WebSocketAcceptor(options)
        self._request: Request | None = None
        self._data = bytearray()
        self._key = ""
        self._denial: Response | None = None  # its head, until the first piece of its body comes
        self._has_body = True  # it may have one
        self._drained: asyncio.Future[None] | None = None  # exists while a refused client does not read
        self._deadline: asyncio.TimerHandle | None = None

    # Each server's class defines these three (uvicorn.py): this class is never used by itself.

    def asked(self, request: Request) -> None:
        """For the server's class: a request that may be accepted has arrived."""
        raise NotImplementedError

    def forgotten(self) -> None:
        """For the server's class: the socket is gone."""
        raise NotImplementedError

    def default_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """For the server's class: the headers of every response."""
        raise NotImplementedError

    # ---- asyncio.Protocol: until an accept gives the transport away ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """For asyncio."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """The head of the request; then nothing, where the client keeps to the rules."""
        if self.phase is not Phase.ASKED:
            return
        self._data += data
        if self._request is None:
            self._read_request()
        elif len(self._data) > EARLY and self.transport is not None:
            self.transport.abort()

    def _read_request(self) -> None:
        try:
            request = self._acceptor.read_request(self._data)
            if request is None:
                return
            self._key = check_request(request)
            self.subprotocols = offered_subprotocols(request.headers)
        except HttpError as error:
            self.refuse(self._acceptor.refuse(error))
            return
        del self._data[: self._acceptor.used]
        self._request = request
        self.asked(request)

    def eof_received(self) -> bool:
        """A client that has closed its side cannot open a WebSocket."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, unless the transport has another owner now."""
        if self.ws is None:
            if self.transport is not None:
                self.transport.close()  # CPython 3.10's TLS warns if nobody has closed it
            self._lost()

    def _lost(self) -> None:
        self.transport = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self.ws is None:
            self.ended(CloseCode.ABNORMAL_CLOSURE)
        self._enter(Phase.LOST)
        self.resume_writing()
        self.forgotten()

    @property
    def is_gone(self) -> bool:
        """Whether an answer can no longer reach the client."""
        if self.phase in (Phase.ASKED, Phase.DENYING):
            return self.transport is None or self.transport.is_closing()
        return self.phase is Phase.LOST

    @property
    def is_unanswered(self) -> bool:
        """Whether nothing has been sent yet: the head of a denial goes out with the first piece of its body."""
        return self.phase is Phase.ASKED or (self.phase is Phase.DENYING and self._denial is not None)

    def pause_writing(self) -> None:
        """A refused client does not read."""
        self._drained = self.loop.create_future()
        if self.phase is Phase.DENYING:
            self._set_deadline()

    def resume_writing(self) -> None:
        """It reads again, or is gone."""
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set_result(None)
        if self.phase is Phase.DENYING and self._deadline is not None:
            self._deadline.cancel()

    def _set_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        assert self.transport is not None
        waiting = self.transport.get_write_buffer_size()
        self._deadline = self.loop.call_later(CLOSE_TIMEOUT, self._deadline_passed, waiting)

    def _deadline_passed(self, waiting: int) -> None:
        """Cuts off a client that has taken nothing of what was waiting for it."""
        assert self.transport is not None  # or this would have been cancelled
        if self.transport.get_write_buffer_size() < waiting:
            self._set_deadline()
        else:
            self.transport.abort()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        if phase is not Phase.DENYING and not self.decided.done():
            self.decided.set_result(None)

    def ended(self, code: int, reason: str = "") -> None:
        """Sets the websocket.disconnect that the application will get; only the first call counts."""
        if self.end is None:
            self.end = {"type": "websocket.disconnect", "code": int(code), "reason": reason}

    # ---- yes ----

    def accept(self, subprotocol: str | None, headers: Lines, *, max_size: int, timing: Options) -> None:
        """Opens the WebSocket.

        Raises:
            ValueError: the client does not offer this subprotocol; or a header cannot be sent, or is the handshake's.
        """
        if subprotocol is not None and subprotocol not in self.subprotocols:
            # RFC 6455 4.2.2, /subprotocol/: the client would have to fail the connection.
            raise ValueError(f"the client does not offer the subprotocol {subprotocol!r}")
        if any(name in OURS for name, _ in headers):
            raise ValueError(
                "Upgrade, Connection, Sec-WebSocket-Accept and -Extensions are the handshake's own"
            )
        request, transport = self._request, self.transport
        assert request is not None and transport is not None
        offered = request.headers.get_all("sec-websocket-extensions")
        agreement, terms = self._options.settle(tuple(offered), subprotocol)
        answer = Headers([*SWITCHED, ("Sec-WebSocket-Accept", accept_value(self._key)), *terms])
        answer.update(headers)
        answer.update(self._defaults(answer))
        connection = Connection(
            is_client=False,
            agreement=agreement,
            deflate=self._options.compression,
            pool=pool_of(self.loop),
            max_size=max_size,
        )
        self.ws = ws = websocket_class(is_client=False)(self.loop, connection, timing)
        ws.add_end_callback(lambda _: self._lost())
        self._enter(Phase.OPEN)
        self._request = None  # what is left of it is in the application's scope
        hand_over(self.loop, transport, ws, Response(101, reason_phrase(101), answer).serialize())
        if self._data:
            ws.feed(bytes(self._data))
            self._data.clear()

    # ---- no ----

    def refuse(self, response: Response) -> None:
        """Sends a whole response in place of the 101."""
        if self.transport is not None:
            response.headers.update(self._defaults(response.headers))
            self.transport.write(response.serialize())
            self.hang_up()

    def deny(self, status: int, headers: Lines) -> None:
        """Begins a response in pieces.

        Raises:
            RuntimeError: this is not the status of a final response.
            ValueError: a header cannot be sent.
        """
        if not 200 <= status < 600:  # RFC 9110 15
            raise RuntimeError(f"{status} is not the status of a response that refuses a WebSocket")
        kept = Headers([line for line in headers if line[0] not in OF_A_CONNECTION])
        kept["connection"] = "close"
        self._denial = Response(status, reason_phrase(status), kept)
        self._has_body = status not in BODILESS
        self._enter(Phase.DENYING)
        assert self.transport is not None
        take_up_backlog(self.transport, self)

    async def deny_body(self, body: bytes, *, last: bool) -> None:
        """Sends the next piece, and waits while the client does not read."""
        response, self._denial = self._denial, None
        if not self._has_body:
            body = b""  # RFC 9112 6.3: the client expects none, whatever the head says
        if response is not None:
            # Without a length, the end of the connection is the end of the body. RFC 9112 6.3, 8.
            if last and "content-length" not in response.headers and self._has_body:
                response.headers["content-length"] = str(len(body))
            response.headers.update(self._defaults(response.headers))
            body = response.serialize() + body
        assert self.transport is not None
        self.transport.write(body)
        if last:
            self.hang_up()
        elif self._drained is not None:
            await asyncio.shield(self._drained)

    def _defaults(self, headers: Headers) -> Lines:
        return [line for line in map(decoded, self.default_headers()) if line[0] not in headers]

    def hang_up(self) -> None:
        """Ends the connection after a response. To close at once would turn unread bytes into a reset, and the response
        could be lost."""
        self.ended(CloseCode.ABNORMAL_CLOSURE)
        self._enter(Phase.CLOSED)
        transport = self.transport
        if transport is None:
            return
        self._set_deadline()
        if transport.can_write_eof():
            end_writing(transport)
        else:
            transport.close()


@cache
def acceptor_options(compression: bool) -> AcceptorOptions:
    """Shared by all connections.

    Without context takeover: zlib-ng's compressor takes 140 KiB, which for thousands of idle connections is gigabytes.
    A compressor that forgets each message is shared by all of them.
    """
    deflate = Deflate(server_no_context_takeover=True, client_no_context_takeover=True)
    return AcceptorOptions(compression=deflate if compression else None, server_header=None)


@cache
def stream_options(interval: float | None, timeout: float | None) -> Options:
    """Shared by all connections."""
    return Options(ping_interval=interval, ping_timeout=timeout, close_timeout=CLOSE_TIMEOUT)


def decoded(line: Iterable[bytes]) -> tuple[str, str]:
    """A header as ASGI has it, two byte strings; the name in lower case."""
    name, value = line
    if isinstance(name, str) or isinstance(value, str):
        raise TypeError(f"ASGI headers are pairs of bytes, not of str: {name!r}, {value!r}")
    return bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1")
