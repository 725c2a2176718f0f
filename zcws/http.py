"""Requests and responses: what their heads hold, how they are written, and the ones that we make ourselves. RFC 9110.

What this file decides: what a message of HTTP is, whichever version carries it. It refuses to know where one
comes from: bytes of HTTP/1.1 are read in http1.py, heads of HTTP/2 are translated in http2.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from zcws.errors import HandshakeError
from zcws.headers import TOKEN, Headers, HeadersLike

__all__ = [
    "BODILESS",
    "OF_A_CONNECTION",
    "HttpError",
    "Request",
    "Response",
    "method_refusal",
    "reason_phrase",
    "request_line",
    "status_line",
    "text_response",
    "whole_response",
]

#: Headers that are about one connection of HTTP/1.1, and end with it. RFC 9110 7.6.1, RFC 9113 8.2.2.
OF_A_CONNECTION = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
#: Statuses whose response has no body. RFC 9110 15.3.5, 15.4.5.
BODILESS = frozenset((204, 304))
_OF_A_BODY = frozenset(("content-length", "transfer-encoding"))

# RFC 9112 3: any target without a fragment, which no form of it has
request_line = re.compile(rf"({TOKEN}) ([!\"$-~]+) (HTTP/[0-9]\.[0-9])(?=\r\n)").match
# RFC 9112 4. Looser than the grammar: the space before an empty reason phrase may be missing.
status_line = re.compile(r"(HTTP/[0-9]\.[0-9]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?(?=\r\n)").match


class HttpError(HandshakeError):
    """A head that cannot be accepted. Your own `select_subprotocol` may raise one, to refuse.

    Attributes:
        status: what a server should answer.
        reason: a fixed sentence that says what is wrong.
        headers: what the answer must have as well (RFC 9110 15.5.22: `Upgrade`).
    """

    status: int
    headers: Mapping[str, str]

    def __init__(
        self, status: int, reason: str, headers: Mapping[str, str] | None = None, *, seen: str = ""
    ) -> None:
        super().__init__(reason, status=int(status), headers=headers or {}, seen=seen)
        self.args = (self.status, reason)  # pickle makes a copy from these

    def __str__(self) -> str:
        return f"{self.reason}; it began with {self.seen}" if self.seen else self.reason


class Request:
    """The head of a request.

    Attributes:
        path: the request target, query included; of a whole URI (RFC 9112 3.2.2) what follows the host.
        username: the user name that `basic_auth` has checked, or None. Your own `process_request` may set it as well:
            the handler has the same object, `ws.request`.
    """

    def __init__(
        self, path: str, headers: HeadersLike | None = None, method: str = "GET", version: str = "HTTP/1.1"
    ) -> None:
        self.path = path
        self.headers: Headers = headers if isinstance(headers, Headers) else Headers(headers or ())
        self.method = method
        self.version = version
        self.username: str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self._head == other._head

    @property
    def _head(self) -> tuple[str, Headers, str, str]:
        return self.path, self.headers, self.method, self.version

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path} {self.version}>"

    def serialize(self) -> bytes:
        """The head as bytes; `ValueError` where method or path would break out of the first line."""
        first = f"{self.method} {self.path} {self.version}\r\n"
        return head_bytes(first, request_line(first), self.headers)


class Response:
    """The head of a response, and its body where there is one.

    Nothing is added to the headers: whoever gives a body gives its `Content-Length`, too.

    Raises:
        TypeError: the body is not `bytes`, the reason phrase no str, or the status no int.
        ValueError: a header that cannot be sent.
    """

    def __init__(
        self,
        status_code: int,
        reason_phrase: str = "",
        headers: HeadersLike | None = None,
        body: bytes = b"",
        version: str = "HTTP/1.1",
    ) -> None:
        if not (isinstance(body, bytes) and isinstance(reason_phrase, str) and isinstance(status_code, int)):
            raise TypeError(
                "of a response, the body is bytes, the reason phrase a str, and the status an int"
            )
        self.status_code = status_code
        self.reason_phrase = reason_phrase
        self.headers: Headers = headers if isinstance(headers, Headers) else Headers(headers or ())
        self.body = body
        self.version = version

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Response) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"<Response {self.version} {self.status_code} {self.reason_phrase}, {len(self.body)} bytes>"

    def serialize(self, method: str = "GET") -> bytes:
        """Head and body as bytes, for a request with `method`.

        RFC 9112 6.3: the answer to a HEAD, a 204 and a 304 have no body, and the receiver looks for none. The headers
        of a 204 that give the length of a body are left out.

        Raises:
            ValueError: the reason phrase would break out of the first line.
        """
        first = f"{self.version} {self.status_code} {self.reason_phrase}\r\n"
        headers = self.headers
        if self.status_code == 204:  # RFC 9110 8.6, RFC 9112 6.1: neither header may be in its head
            headers = Headers([line for line in headers.raw_items() if line[0].lower() not in _OF_A_BODY])
        head = head_bytes(first, status_line(first), headers)
        return head if method == "HEAD" or self.status_code in BODILESS else head + self.body


def head_bytes(first: str, found: re.Match[str] | None, headers: Headers) -> bytes:
    """A head from its first line, the match of its grammar there, and headers, which were checked when set."""
    if found is None or found.end() != len(first) - 2:
        raise ValueError("the first line of a head to be sent is not one line of HTTP")
    return f"{first}{headers}\r\n".encode("latin-1")


def whole_response(status: int, kind: str, body: bytes, headers: HeadersLike = ()) -> Response:
    """A response with a body, whose `Content-Type` is `kind`. It ends the connection."""
    lines = _closing(headers)
    lines["Content-Type"] = kind
    lines["Content-Length"] = str(len(body))
    return Response(int(status), reason_phrase(status), lines, body)


def text_response(status: int, text: str, headers: HeadersLike = (), *, end: str = "\n") -> Response:
    """A response whose body is one sentence, followed by `end`. It ends the connection."""
    if not isinstance(text, str):
        raise TypeError(
            f"respond() takes a str, not {type(text).__name__}: return zcws.Response(...) for another body"
        )
    if status in BODILESS:
        # RFC 9110 15.3.5, 15.4.5: nothing follows their heads. 8.6: no Content-Length in a 204; in a 304 it would be
        # that of the page which has not changed.
        return Response(int(status), reason_phrase(status), _closing(headers))
    return whole_response(status, "text/plain; charset=utf-8", (text + end).encode(), headers)


def _closing(headers: HeadersLike) -> Headers:
    """`headers`, and one that ends the connection."""
    lines = Headers(headers)
    # RFC 9110 7.8: whoever sends Upgrade names it in Connection too.
    lines["Connection"] = "close, Upgrade" if "upgrade" in lines else "close"
    return lines


def method_refusal(method: str) -> Response | None:
    """The answer to a request for a page with any other method than GET and HEAD. RFC 9110 15.5.6."""
    if method in ("GET", "HEAD"):
        return None
    return text_response(405, "only GET and HEAD are answered here", {"Allow": "GET, HEAD"})


def reason_phrase(status: int) -> str:
    """The usual words for `status`; none for a number that nobody registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
