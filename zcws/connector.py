"""The client's side of the opening handshake, without I/O. RFC 6455 4.1.

What this file decides: what a client asks for, and whether the answer grants exactly that. It refuses to
know sockets, clocks and proxies, and it draws no random numbers: they are an argument.

    answer                                               outcome
    ---------------------------------------------------  ----------------------------------------------
    1xx other than 101                                   passed over (RFC 9110 15.2)
    no legal head, or over a limit (http1.py)            HandshakeError, from `read_response`
    any status but 101                                   HandshakeError with status, headers and body;
                                                         or `redirect`, when the caller wants to follow
    101 that breaks a rule (`RESPONSE_RULES`)            HandshakeError
    a subprotocol that was not offered, or two           HandshakeError
    an extension that was not offered, or twice,         HandshakeError: the server uses it from now on,
    or with parameters that answer no offer              and no client could read that (RFC 6455 9.1)
    anything else                                        an `Agreement`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Literal

from zcws.body import BodyReader
from zcws.deflate import EXTENSION, Deflate
from zcws.errors import HandshakeError
from zcws.extensions import (
    Agreement,
    DeflateParameters,
    build_extension,
    check_subprotocols,
    parse_extensions,
)
from zcws.handshake import (
    NO_MASKING,
    SOFTWARE,
    SWITCHED,
    VERSION,
    NoMasking,
    allows_no_masking,
    basic_authorization,
    check_response,
    checked_additional,
    make_key,
)
from zcws.headers import Headers, HeadersLike
from zcws.http import HttpError, Request, Response
from zcws.http1 import HTTP_2, BytesLike, ResponseSearch, complaint, shown_start
from zcws.options import check_kind
from zcws.uri import WebSocketURI, parse_uri, resolve_redirect

__all__ = ["WebSocketConnector"]

#: RFC 9110 15.4: the redirects that name one other place; a GET stays a GET through all of them.
REDIRECTS = (301, 302, 303, 307, 308)
#: Headers that belong to one origin and must not be sent to another.
PERSONAL = frozenset(("authorization", "cookie", "host", "proxy-authorization"))

# RFC 7617 2: no control characters in user name and password.
has_controls = re.compile(r"[\x00-\x1f\x7f]").search
# RFC 6750 2.1 has letters, digits and "-._~+/="; looser, because servers decide what a token is: visible ASCII.
is_token = re.compile(r"[!-~]+").fullmatch


class WebSocketConnector:
    """One opening handshake, seen from the client.

    Send what `request` returns, give `read_response` the bytes that arrive until it returns a response, and
    if `check` lets that pass, go on with the agreement and the bytes from `used` on. When the status is not
    101, feed a `body_reader` first and put its `body` into the response, for the error to carry.

    Args:
        uri: where to; credentials in it become an `Authorization` header.
        entropy: gives as many random bytes as it is asked for: `os.urandom`.
        origin: the value of `Origin`; browsers send one, programs need none.
        subprotocols: those that the client speaks, best first.
        compression: permessage-deflate: a `Deflate`, or "deflate" for its defaults.
        no_masking: offers to send frames without masking, over wss; "insecure": over ws too.
        additional_headers: more headers; `Host`, `Authorization` and `User-Agent` replace ours. None of those of the
            handshake itself (`RESERVED` of handshake.py), and no `Origin` beside `origin`.
        user_agent_header: what `User-Agent` says; None leaves it out.
        basic_auth: user name and password, as in the URI but not to be found in it. RFC 7617.
        bearer: a token, for `Authorization: Bearer`. RFC 6750.

    Raises:
        TypeError, ValueError: the URI, or another argument, is invalid.

    Attributes:
        uri: where to.
        request_head: what `request` sends.
    """

    def __init__(
        self,
        uri: str | WebSocketURI,
        *,
        entropy: Callable[[int], bytes],
        origin: str | None = None,
        subprotocols: Sequence[str] | None = None,
        compression: Deflate | Literal["deflate"] | None = None,
        no_masking: NoMasking = False,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = SOFTWARE,
        basic_auth: tuple[str, str] | None = None,
        bearer: str | None = None,
    ) -> None:
        self.uri: WebSocketURI = uri if isinstance(uri, WebSocketURI) else parse_uri(uri)
        self._entropy = entropy
        check_kind("origin", origin, str, "a str or None")
        check_kind("user_agent_header", user_agent_header, str, "a str or None")
        self._origin = origin
        self._subprotocols = check_subprotocols(subprotocols or ())
        self._compression = Deflate.of(compression)
        self._no_masking = no_masking
        self._offers_no_masking = allows_no_masking(no_masking, self.uri.secure)
        self._additional = checked_additional("additional_headers", additional_headers)
        if origin is not None and "origin" in self._additional:
            raise ValueError("Origin is given twice: use one of origin, and Origin in additional_headers")
        self._user_agent_header = user_agent_header
        self._basic_auth = basic_auth
        self._bearer = bearer
        self._authorization = self._authorize()
        self._search = ResponseSearch()
        self._key = make_key(entropy(16))  # RFC 6455 4.1, 7: 16 bytes, new for each connection
        self.request_head: Request = Request(self.uri.path, self._request_headers())

    @property
    def used(self) -> int:
        """Bytes of the response's head, and of the heads before it that were passed over."""
        return self._search.used

    @property
    def _has_credentials(self) -> bool:
        return self._basic_auth is not None or self._bearer is not None

    def _authorize(self) -> str | None:
        """The value of `Authorization`, if there is to be one."""
        in_uri, explicit = self.uri.user_info, self._has_credentials
        ways = (self._basic_auth, self._bearer, in_uri, self._additional.get_all("authorization") or None)
        if explicit and sum(way is not None for way in ways) > 1:
            raise ValueError(
                "credentials are given twice: use one of basic_auth, bearer, user:password@ in the URI, "
                "and Authorization in additional_headers"
            )
        if self._bearer is not None:
            return bearer_authorization(self._bearer)
        pair = self._basic_auth if self._basic_auth is not None else in_uri
        return None if pair is None else checked_basic(pair)

    def _request_headers(self) -> Headers:
        # RFC 6455 4.1, the list of requirements for the request
        lines = [line for line in self._replaceable() if line[0] not in self._additional]
        lines += [*SWITCHED, ("Sec-WebSocket-Key", self._key)]
        lines.append(("Sec-WebSocket-Version", VERSION))
        if self._subprotocols:
            lines.append(("Sec-WebSocket-Protocol", ", ".join(self._subprotocols)))
        if self._offers_no_masking:
            # A line of its own, first: the only place where wtx looks for it.
            lines.append(("Sec-WebSocket-Extensions", NO_MASKING))
        if self._compression:
            offers = [build_extension(*offer) for offer in self._compression.offers()]
            lines.append(("Sec-WebSocket-Extensions", ", ".join(offers)))
        headers = Headers(lines)
        headers.update(self._additional)
        return headers

    def _replaceable(self) -> Iterator[tuple[str, str]]:
        """Our headers that `additional_headers` may replace. RFC 9110 7.2: Host should be the first."""
        yield "Host", self.uri.host_header
        if self._origin is not None:
            yield "Origin", self._origin
        if self._authorization is not None:
            yield "Authorization", self._authorization
        if self._user_agent_header is not None:
            yield "User-Agent", self._user_agent_header

    def request(self) -> bytes:
        """The request, to be sent."""
        return self.request_head.serialize()

    def read_response(self, data: BytesLike) -> Response | None:
        """The response, whatever its status; None when more is needed.

        Args:
            data: everything that has arrived so far, each time; only what is new is searched.

        Raises:
            HandshakeError: it is no response, or over a limit.
        """
        try:
            return self._search.find(data)
        except HttpError as error:
            reason = complaint("the response", "the server", error, "wss://")
            raise HandshakeError(reason, seen=error.seen) from None

    def cut_short(
        self, data: BytesLike, why: Exception | None = None, alpn: str | None = None
    ) -> HandshakeError:
        """What to raise when the server ends the connection before the response is whole.

        Args:
            data: everything that has arrived.
            why: the error with which the network or TLS ended it, for example that a certificate is required
                (RFC 8446 6.2).
            alpn: the protocol that TLS has agreed on. If that is "h2" and nothing has arrived, the error has no cause;
                otherwise its cause is that of the end, so that another attempt is made (retry.py).
        """
        if alpn == "h2" and not data:
            seems = HttpError(HTTPStatus.BAD_REQUEST, HTTP_2)
            return HandshakeError(complaint("the response", "the server", seems, "wss://"))
        when = "in the middle of its answer" if data else "before it answered the opening handshake"
        reason = f"the server closed the connection {when}" + (f": {why}" if why is not None else "")
        error = HandshakeError(reason, seen=shown_start(data) if data else "")
        error.__cause__ = why or EOFError("end of stream")
        return error

    def body_reader(self, response: Response) -> BodyReader:
        """Collects the body of a response that is not a 101; feed it the bytes from `used` on."""
        return BodyReader(response)

    def check(self, response: Response) -> Agreement:
        """What the response settles; `HandshakeError` unless it grants what was asked for, and no more."""
        check_response(response, self._key)
        try:
            subprotocol = self._read_subprotocol(response.headers)
            agreement = Agreement(subprotocol, *self._read_extensions(response.headers))
        except HandshakeError as error:
            error.status, error.headers = response.status_code, response.headers
            raise
        response.headers.release()
        return agreement

    def _read_subprotocol(self, headers: Headers) -> str | None:
        values = headers.get_all("sec-websocket-protocol")
        if not values:
            return None
        # RFC 6455 4.1, 6: one, and of those that were offered
        if len(values) > 1 or values[0] not in self._subprotocols:
            raise HandshakeError("the server chose a subprotocol that was not offered")
        return values[0]

    def _read_extensions(self, headers: Headers) -> tuple[DeflateParameters | None, bool]:
        try:
            extensions = parse_extensions(headers.get_all("sec-websocket-extensions"))
        except ValueError as error:
            raise HandshakeError(str(error)) from None
        answers = dict(extensions)
        if len(answers) != len(extensions):
            raise HandshakeError("the server answered an extension twice")
        no_masking = self._offers_no_masking and answers.get(NO_MASKING) == []
        if no_masking:
            del answers[NO_MASKING]
        deflate = None
        if self._compression and EXTENSION in answers:
            deflate = self._compression.agreed(answers.pop(EXTENSION))
        if answers:
            raise HandshakeError("the server answered an extension that was not offered")
        return deflate, no_masking

    def redirect(self, response: Response) -> WebSocketConnector | None:
        """A connector for where `response` redirects to; None when it does not.

        Cookies and credentials go along to the same origin only.

        Raises:
            HandshakeError: it leads where a client must not go: from wss to ws, or to no ws or wss URI.
        """
        locations = response.headers.get_all("location")
        if response.status_code not in REDIRECTS or len(locations) != 1:
            return None
        try:
            return self._connector_for(resolve_redirect(self.uri, locations[0]))
        except ValueError as error:  # also for an invalid user name or password in the address
            reason = f"the redirect cannot be followed: {error}"
            raise HandshakeError(reason, status=response.status_code, headers=response.headers) from None

    def _connector_for(self, uri: WebSocketURI) -> WebSocketConnector:
        """The same handshake somewhere else."""
        keeps = uri.origin == self.uri.origin
        if keeps and self._has_credentials:  # rather than what the server has put into the address
            uri = uri._replace(username=None, password=None)
        return WebSocketConnector(
            uri,
            entropy=self._entropy,
            origin=self._origin,
            subprotocols=self._subprotocols,
            compression=self._compression,
            no_masking=self._no_masking,
            additional_headers=self._headers_for(uri),
            user_agent_header=self._user_agent_header,
            basic_auth=self._basic_auth if keeps else None,
            bearer=self._bearer if keeps else None,
        )

    def _headers_for(self, uri: WebSocketURI) -> Headers:
        headers = self._additional.copy()
        if uri.origin != self.uri.origin:
            for name in headers.keys() & PERSONAL:
                del headers[name]
        return headers


def checked_basic(pair: tuple[str, str]) -> str:
    """The value of `Authorization` for user name and password. RFC 7617 2."""
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(word, str) for word in pair)):
        raise TypeError('basic_auth must be a pair of strings: ("user", "password")')
    if any(has_controls(word) for word in pair):
        raise ValueError("user name and password must not hold control characters (RFC 7617 2)")
    return basic_authorization(*pair)


def bearer_authorization(token: str) -> str:
    """The value of `Authorization` for a token. RFC 6750 2.1."""
    if not isinstance(token, str):
        raise TypeError("bearer must be a str: the token")
    if not is_token(token):
        raise ValueError(
            'bearer must be the token alone, visible ASCII without spaces and line ends: no "Bearer " before it'
        )
    return f"Bearer {token}"
