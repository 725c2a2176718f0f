"""The server's side of the opening handshake, without I/O. RFC 6455 4.2.

What this file decides: whether a request becomes a WebSocket here, and with what agreement. It refuses to
know sockets, clocks and the routing of requests: between `read_request` and `respond` the caller may answer
by itself.

The answer is the first row that applies:

    request                                                          answer
    ---------------------------------------------------------------  -------------------------------------
    no HTTP, no legal head, or over a limit (http1.py)               400, 431 or 505, from `read_request`
    no opening handshake (`REQUEST_RULES` of handshake.py)           400 or 426, with a sentence
    `Origin` not in `origins`                                        403
    malformed subprotocols, where one is to be chosen                400
    `select_subprotocol` raises HttpError                            what it says
    anything else                                                    101, and `agreement` is set

Extensions never fail a request: an offer that is malformed or cannot be met is declined (RFC 6455 9.1).

What does not depend on the connection is in `AcceptorOptions`, made once for a server; what depends on
nothing but the extensions offered is remembered there, since browsers all send the same line. So
connections with the same terms share one `Agreement`, and an acceptor is two small objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal

from zcws.callables import abandon, check_call, check_plain
from zcws.deflate import Deflate
from zcws.extensions import Agreement, check_subprotocols, parse_extensions, parse_subprotocols
from zcws.handshake import (
    NO_MASKING,
    SOFTWARE,
    SWITCHED,
    NoMasking,
    accept_value,
    allows_no_masking,
    check_request,
    checked_additional,
)
from zcws.headers import Headers, HeadersLike
from zcws.http import HttpError, Request, Response, text_response
from zcws.http1 import REQUEST, BytesLike, HeadSearch, parse_request
from zcws.options import check_kind

__all__ = ["AcceptorOptions", "WebSocketAcceptor", "offered_subprotocols"]

#: Takes the subprotocols that the client offers and gives the one to use, or None.
SelectSubprotocol = Callable[[list[str]], str | None]

#: RFC 6455 4.2.2, 5: how every 101 begins, up to the value of Sec-WebSocket-Accept.
SWITCHING = f"HTTP/1.1 101 Switching Protocols\r\n{Headers(SWITCHED)}Sec-WebSocket-Accept: ".encode()

#: To a client that speaks HTTP to a server of TLS, for which OpenSSL has no alert.
IN_THE_CLEAR = text_response(400, "TLS is spoken here: is the URI ws:// where wss:// is meant?").serialize()

#: Entries in each of a server's two caches of terms: there is a handful of browsers and libraries, each with the
#: subprotocols in use. A key is at most as long as a head, so a cache takes half a megabyte at worst.
REMEMBERED = 32

Lines = list[tuple[str, str]]


def _checked_origins(
    origins: Sequence[str | re.Pattern[str] | None] | None,
) -> tuple[str | re.Pattern[str] | None, ...] | None:
    if origins is None:
        return None
    if isinstance(origins, (str, bytes)) or not isinstance(origins, Iterable):
        raise TypeError(f"origins must be a list, not {origins!r}")
    checked = tuple(origins)
    for origin in checked:
        is_pattern = isinstance(origin, re.Pattern) and isinstance(origin.pattern, str)
        if not (origin is None or isinstance(origin, str) or is_pattern):
            raise TypeError(f"each of origins must be a str, a pattern of one, or None, not {origin!r}")
    return checked


class AcceptorOptions:
    """What all connections of one server have in common; made once, not changed after.

    Args:
        subprotocols: those spoken here, best first; the first that the client offers is used.
        select_subprotocol: chooses from those that the client offers, in place of `subprotocols`.
        origins: the values of `Origin` that may connect: strings, patterns (matched against the whole value), and
            None for a request without one. Not given: all may connect, web pages of other sites included.
        compression: permessage-deflate: a `Deflate`, or "deflate" for its defaults.
        no_masking: agrees to frames without masking, over TLS; "insecure": also in the clear.
        secure: whether the connection is encrypted.
        extra_headers: more headers of a 101.
        server_header: what `Server` says; None leaves it out.

    Raises:
        TypeError, ValueError: an argument is invalid.
    """

    __slots__ = (
        "compression",
        "no_masking",
        "origins",
        "select_subprotocol",
        "server_lines",
        "settle",
        "subprotocols",
        "tail",
        "terms",
    )

    def __init__(
        self,
        *,
        subprotocols: Sequence[str] | None = None,
        select_subprotocol: SelectSubprotocol | None = None,
        origins: Sequence[str | re.Pattern[str] | None] | None = None,
        compression: Deflate | Literal["deflate"] | None = None,
        no_masking: NoMasking = False,
        secure: bool = False,
        extra_headers: HeadersLike | None = None,
        server_header: str | None = SOFTWARE,
    ) -> None:
        if subprotocols is not None and select_subprotocol is not None:
            raise ValueError("subprotocols and select_subprotocol are two ways to say one thing: give one")
        if select_subprotocol is not None:
            check_call("select_subprotocol", select_subprotocol, "the list of names that the client offers")
            check_plain("select_subprotocol", select_subprotocol, "which nobody awaits")
        self.subprotocols: tuple[str, ...] = check_subprotocols(subprotocols or ())
        self.select_subprotocol: SelectSubprotocol | None = select_subprotocol
        self.origins: tuple[str | re.Pattern[str] | None, ...] | None = _checked_origins(origins)
        self.compression: Deflate | None = Deflate.of(compression)
        self.no_masking: bool = allows_no_masking(no_masking, secure)
        check_kind("server_header", server_header, str, "a str or None")
        extra = checked_additional("extra_headers", extra_headers)
        ours = Headers([] if server_header is None else [("Server", server_header)])
        is_given = "server" in extra
        self.server_lines: Lines = [
            ("Server", line) for line in (extra if is_given else ours).get_all("server")
        ]
        self.tail: Lines = [*extra.raw_items(), *([] if is_given else self.server_lines)]
        remembering = lru_cache(maxsize=REMEMBERED)
        self.settle: Callable[[tuple[str, ...], str | None], tuple[Agreement, Lines]]
        self.settle = remembering(self._settle)
        self.terms: Callable[[str | None, str | None, str | None], tuple[Agreement, bytes] | None]
        self.terms = remembering(self._terms)

    def check_origin(self, headers: Headers) -> None:
        """`HttpError` 403 unless the request's `Origin` may connect. RFC 6455 4.2.2, 10.2."""
        if not self._may_connect(headers.combined().get("origin")):
            raise HttpError(403, "connections from this Origin are not accepted")

    def _may_connect(self, found: str | None) -> bool:
        if self.origins is None:
            return True
        for origin in self.origins:
            if isinstance(origin, re.Pattern):
                if found is not None and origin.fullmatch(found):
                    return True
            elif origin == found:
                return True
        return False

    def choose_subprotocol(self, headers: Headers) -> str | None:
        """The subprotocol to use, one that the client offers; None for none. RFC 6455 4.2.2."""
        if not self.subprotocols and self.select_subprotocol is None:
            return None
        offered = offered_subprotocols(headers)
        if self.select_subprotocol is None:
            return self._first_of(offered)
        chosen = self.select_subprotocol(offered)
        if chosen is not None and chosen not in offered:
            abandon(chosen)
            raise ValueError(f"select_subprotocol chose {chosen!r}, which the client does not offer")
        return chosen

    def _first_of(self, offered: list[str]) -> str | None:
        return next((name for name in self.subprotocols if name in offered), None)

    def _terms(
        self, origin: str | None, protocols: str | None, extensions: str | None
    ) -> tuple[Agreement, bytes] | None:
        """What a request that has passed the rules gets: the agreement, and the bytes that follow the value of
        Sec-WebSocket-Accept in its 101. None: `WebSocketAcceptor.respond` has to answer it.

        Args:
            origin, protocols, extensions: the values of those headers, each of which came once or not at all.
        """
        if self.select_subprotocol is not None or not self._may_connect(origin):
            return None
        try:
            subprotocol = self._first_of(parse_subprotocols([protocols or ""])) if self.subprotocols else None
        except ValueError:
            return None
        agreement, lines = self.settle((extensions or "",), subprotocol)
        return agreement, f"\r\n{Headers.trusted([*lines, *self.tail])}\r\n".encode("latin-1")

    def _settle(self, offered: tuple[str, ...], subprotocol: str | None) -> tuple[Agreement, Lines]:
        """The agreement over these Sec-WebSocket-Extensions, and the lines of the 101 that say so.

        Args:
            offered: the value of each line. Joined into one list (RFC 9110 5.3) they would mean the same, except that
                a quote that is never closed would swallow the lines after it.
        """
        extensions = parse_extensions(offered, skip_malformed=True)
        lines: Lines = []
        if subprotocol is not None:
            lines.append(("Sec-WebSocket-Protocol", subprotocol))
        no_masking = self.no_masking and (NO_MASKING, []) in extensions
        if no_masking:
            # A line of its own, first: the only place where wtx looks for it.
            lines.append(("Sec-WebSocket-Extensions", NO_MASKING))
        deflate = self.compression and self.compression.accept(extensions)
        if deflate:
            lines.append(("Sec-WebSocket-Extensions", deflate[1]))
        return Agreement(subprotocol, deflate[0] if deflate else None, no_masking), lines


class WebSocketAcceptor:
    """One opening handshake, seen from the server.

    Give it the bytes that arrive until `read_request` returns a request, send what `respond` returns, and if
    that is a 101, go on with `agreement` and the bytes from `used` on. `HttpError` from `read_request` is
    answered with `refuse`.

    Args:
        options: made once for all connections; or give the arguments of `AcceptorOptions`.

    Raises: as `AcceptorOptions`.

    Attributes:
        used: bytes of the request's head.
        agreement: what was settled, once `respond` has returned a 101.
        granted: the extensions that this 101 names, each as it stands in a Sec-WebSocket-Extensions of its own.
        error: why it returned something else.
    """

    __slots__ = ("_options", "_search", "agreement", "error", "granted", "used")

    def __init__(
        self,
        options: AcceptorOptions | None = None,
        /,
        *,
        subprotocols: Sequence[str] | None = None,
        select_subprotocol: SelectSubprotocol | None = None,
        origins: Sequence[str | re.Pattern[str] | None] | None = None,
        compression: Deflate | Literal["deflate"] | None = None,
        no_masking: NoMasking = False,
        secure: bool = False,
        extra_headers: HeadersLike | None = None,
        server_header: str | None = SOFTWARE,
    ) -> None:
        self._options = options or AcceptorOptions(
            subprotocols=subprotocols,
            select_subprotocol=select_subprotocol,
            origins=origins,
            compression=compression,
            no_masking=no_masking,
            secure=secure,
            extra_headers=extra_headers,
            server_header=server_header,
        )
        self._search = HeadSearch(REQUEST)
        self.used: int = 0
        self.agreement: Agreement | None = None
        self.granted: list[str] = []
        self.error: HttpError | None = None

    def read_request(self, data: BytesLike) -> Request | None:
        """The request, or None when more is needed.

        Args:
            data: everything that has arrived so far, each time; only what is new is searched.

        Raises:
            HttpError: it is no request, or over a limit; send `refuse(error)` and close.
        """
        self.used = self._search.find(data)
        return parse_request(data, self.used) if self.used else None

    def respond(self, request: Request) -> Response:
        """The answer to `request`: a 101 that opens the WebSocket, or an error that closes the connection.

        Of the request's headers only the received text stays in memory.
        """
        options, headers = self._options, request.headers
        try:
            key = check_request(request)
            options.check_origin(headers)
            subprotocol = options.choose_subprotocol(headers)
        except HttpError as error:
            return self.refuse(error, request)
        offered = headers.get_all("sec-websocket-extensions")
        self.agreement, terms = options.settle(tuple(offered), subprotocol)
        self.granted = [value for name, value in terms if name == "Sec-WebSocket-Extensions"]
        headers.release()
        lines = [*SWITCHED, ("Sec-WebSocket-Accept", accept_value(key)), *terms, *options.tail]
        return Response(101, "Switching Protocols", Headers.trusted(lines))

    def refuse(self, error: HttpError, request: Request | None = None) -> Response:
        """The response that says `error`; no body where `request` is a HEAD (RFC 9110 9.3.2)."""
        # Without its traceback: its frames refer to our caller, which would make a reference cycle for each request.
        self.error = error.with_traceback(None)
        response = self.reject(error.status, error.reason, error.headers)
        if request is not None and request.method == "HEAD":
            response.body = b""
        return response

    def reject(self, status: int, text: str, headers: HeadersLike = ()) -> Response:
        """A response that says one sentence, with this server's `Server`, and ends the connection."""
        response = text_response(status, text, headers)
        response.headers.update(self._options.server_lines)
        return response


def offered_subprotocols(headers: Headers) -> list[str]:
    """The subprotocols that the client offers; `HttpError` 400 where that is no list of names. RFC 6455 4.2.2."""
    try:
        return parse_subprotocols(headers.get_all("sec-websocket-protocol"))
    except ValueError as error:
        raise HttpError(400, str(error)) from None
