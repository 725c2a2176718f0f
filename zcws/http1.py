"""HTTP/1.1 heads among bytes: finding where one ends, reading it, and the errors for bytes that are no head. RFC 9112.

What this file decides: which bytes are a head, and what its first line says. It refuses to know what a
WebSocket is, what a header means, and where bytes come from.

A head is found before it is read. `HeadSearch` is shown everything that has arrived, again and again,
looks only at what is new, and gives the one answer that does not depend on how the bytes were cut:

    everything that has arrived                    answer
    ---------------------------------------------  -----------------------------------------------
    it cannot become a head (where `REQUEST` or     HttpError 400, from the first byte that says so
    `RESPONSE` says how that begins)                or from the end of the first line
    no empty line yet, limits kept                 0: need more
    an empty line within MAX_HEAD                  where the head ends; what follows is not touched
    MAX_HEAD bytes and no empty line               HttpError 431: nothing more needs to be buffered
    a line over MAX_LINE, finished or not          the same

Lines end in CRLF and in nothing else; a peer that ends the first line in another way is told so at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from zcws.headers import TOKEN, Headers, count_lines, parse_lines
from zcws.http import HttpError, Request, Response, request_line, status_line

__all__ = [
    "MAX_HEAD",
    "MAX_HEADERS",
    "MAX_LINE",
    "REQUEST",
    "RESPONSE",
    "BytesLike",
    "HeadSearch",
    "ResponseSearch",
    "Start",
    "complaint",
    "parse_request",
    "parse_response",
    "shown_start",
]

#: Bytes of one head. Browsers send 0.5 to 1 KiB without cookies; cookies are at least 4 KiB each where they
#: are allowed (RFC 6265 6.1), and nginx's four buffers of 8 KiB are the most that is usual.
MAX_HEAD = 16 * 1024
#: Bytes of one line, its end not counted: RFC 9112 3 asks for 8000 at least, Apache and nginx allow 8 KiB.
MAX_LINE = 8 * 1024
#: Header lines of one head: Apache allows 100, browsers send 15.
MAX_HEADERS = 128
OVER_LIMIT = f"the head is over a limit: {MAX_HEAD} bytes, {MAX_LINE} a line, {MAX_HEADERS} headers"

#: Bytes that an error shows of what is not HTTP: fewer are enough to recognise another protocol's greeting.
SHOWN = 40
#: Bytes in which a method has to end to be told from another protocol: IANA's longest has 17.
LOOKED_AT = 64
#: RFC 8446 5.1: what records of TLS begin with, an alert or a handshake. HTTP never does.
TLS_RECORDS = frozenset((0x15, 0x16))

TLS_IN_THE_CLEAR = "this is TLS, and TLS is not spoken here: is the URI wss:// where ws:// is meant?"
NOT_HTTP = "this is not HTTP, which is spoken here"
HTTP_2 = "this may be HTTP/2"
BARE_LF = "a line ends in LF alone: HTTP ends lines in CRLF (RFC 9112 2.2)"

#: What may be given where received bytes are wanted.
BytesLike = bytes | bytearray | memoryview

# RFC 9112 3.2.2: a server must accept a whole URI as the target.
absolute_form = re.compile(r"(?i:https?)://[^/?#]+").match
# RFC 9112 5.2: a line's end and the white space by which the next line continues a header. Not right after the first
# line: there is no header yet.
unfold = re.compile(r"(?<=.)\r\n[ \t]+").sub
# RFC 9112 2.2: an empty line before a request should be ignored.
request_method = re.compile(rf"(?:\r\n)?((?:{TOKEN})?)".encode()).match


def check_request_bytes(data: bytes) -> None:
    """`HttpError` where a request cannot begin like that: with a token and a space. RFC 9112 3."""
    check_no_tls(data)
    begin, end = request_method(data).span(1)  # type: ignore[union-attr]
    if end < len(data) and data != b"\r" and (begin == end or data[end] != 0x20):
        raise HttpError(HTTPStatus.BAD_REQUEST, NOT_HTTP, seen=shown_start(data))


def check_response_bytes(data: bytes) -> None:
    """The same for a response."""
    check_no_tls(data)
    if data[:1] == b"\0":  # RFC 9113 4.1: a frame of less than 64 KiB, as the first of a server is
        raise HttpError(HTTPStatus.BAD_REQUEST, HTTP_2, seen=shown_start(data))
    if not b"HTTP/".startswith(data[:5]):
        raise HttpError(HTTPStatus.BAD_REQUEST, NOT_HTTP, seen=shown_start(data))


def check_no_tls(data: bytes) -> None:
    """`HttpError` for what begins like TLS."""
    if data[:1] and data[0] in TLS_RECORDS:
        raise HttpError(HTTPStatus.BAD_REQUEST, TLS_IN_THE_CLEAR)


class Start(NamedTuple):
    """How a head begins, for `HeadSearch`.

    Attributes:
        check: raises `HttpError` for bytes that cannot be its first ones.
        line: the grammar of the first line.
        reason: what to say of a first line that is not like that.
        skips_empty: whether an empty line may come before it. RFC 9112 2.2.
    """

    check: Callable[[bytes], None]
    line: Callable[[str], object]
    reason: str
    skips_empty: bool


REQUEST = Start(check_request_bytes, request_line, "malformed request line", skips_empty=True)
RESPONSE = Start(check_response_bytes, status_line, "malformed status line", skips_empty=False)


class HeadSearch:
    """Finds where a head ends in bytes that keep arriving, in time linear in the bytes.

    Args:
        start: `REQUEST` or `RESPONSE`, where the first line is to be judged before the head is whole.
    """

    __slots__ = ("_first", "_judged", "_line", "_searched", "_split", "_start", "_unjudged")

    def __init__(self, start: Start | None = None) -> None:
        self._start = self._searched = self._split = self._line = self._judged = 0
        self._first = self._unjudged = start

    def skip(self, end: int) -> None:
        """Looks for another head behind the one that ended at `end`; the limits hold for both together."""
        self._start = end
        self._judged = end  # up to here the first line does not end
        self._unjudged = self._first
        self._searched = end  # up to here there is no empty line
        self._split = end  # up to here line ends are known
        self._line = end  # where the line began that goes on at _split

    def find(self, data: BytesLike) -> int:
        """Where the head in `data` ends, 0 when more is needed; `HttpError` 431 over a limit, 400 for what is none.

        Args:
            data: everything that has arrived so far, each time.
        """
        if self._unjudged is not None:
            self._judge(data, self._unjudged)
        begin = max(self._start, self._searched - 3)  # the four bytes may have been cut behind the third
        if isinstance(data, memoryview):
            at = bytes(data[begin:MAX_HEAD]).find(b"\r\n\r\n")
            end = at + begin + 4 if at >= 0 else 0
        else:
            end = data.find(b"\r\n\r\n", begin, MAX_HEAD) + 4
            end = end if end >= 4 else 0
        size = end
        if not end:
            self._searched = size = len(data)
        if size > MAX_LINE:
            self._check_lines(data, min(size, MAX_HEAD))
            if not end and size >= MAX_HEAD:
                raise over_limit()
        return end

    def _judge(self, data: BytesLike, start: Start) -> None:
        """Checks the first line, as far as it has come. A line over the limit is left to `_check_lines`."""
        begin, most = self._start, min(self._start + MAX_LINE + 2, MAX_HEAD)
        if self._judged < begin + LOOKED_AT:
            start.check(bytes(data[begin : min(begin + LOOKED_AT, most)]))
        first = begin + 2 if start.skips_empty and data[begin : begin + 2] == b"\r\n" else begin
        fresh = max(self._judged, first)
        end = bytes(data[fresh:most]).find(b"\n")
        if end < 0:
            self._judged = len(data)
            if len(data) >= most:
                self._unjudged = None
            return
        self._unjudged = None
        line = str(bytes(data[first : fresh + end + 1]), "latin-1")
        if not line.endswith("\r\n"):
            raise HttpError(HTTPStatus.BAD_REQUEST, BARE_LF, seen=shown_start(data[begin:most]))
        if not start.line(line):
            raise HttpError(HTTPStatus.BAD_REQUEST, start.reason, seen=shown_start(data[begin:most]))

    def _check_lines(self, data: BytesLike, size: int) -> None:
        fresh, offset = bytes(data[self._split : size]), self._split
        self._split = size
        at = fresh.find(b"\n")
        while at >= 0:
            self._check_line(offset + at)
            self._line = offset + at + 1
            at = fresh.find(b"\n", at + 1)
        self._check_line(size)

    def _check_line(self, end: int) -> None:
        if end - self._line > MAX_LINE + 1:  # its CR is not counted
            raise over_limit()


def over_limit() -> HttpError:
    """RFC 6585 5: 431 for a single field and for all of them together; here also for the request line."""
    return HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, OVER_LIMIT)


def parse_request(data: BytesLike, end: int) -> Request:
    """The request whose head is `data[:end]`; `HttpError` says what is wrong with it."""
    text = str(data[:end], "latin-1")
    # RFC 9112 2.2: an empty line before it should be ignored.
    found = request_line(text, 2 if text.startswith("\r\n") else 0)
    if found is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, REQUEST.reason)
    method, path, version = found.groups()
    check_version(version)
    if path[0] != "/":
        path = origin_form(path)
    return Request(path, parse_headers(text[found.end() :]), method, version)


def parse_response(data: BytesLike, end: int, begin: int = 0) -> Response:
    """The response whose head is `data[begin:end]`; `HttpError` says what is wrong with it."""
    text = str(data[begin:end], "latin-1")
    found = status_line(text)
    if found is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, RESPONSE.reason)
    version, status, reason = found.groups()
    check_version(version)
    # RFC 9112 5.2: a server may refuse folded lines, and does; a client must read them.
    headers = parse_headers(unfold(" ", text[found.end() :]))
    return Response(int(status), reason or "", headers, version=version)


class ResponseSearch:
    """Finds the response to a request of ours in bytes that keep arriving, and reads its head.

    Responses with status 1xx may come before it, and are passed over (RFC 9110 15.2), except for a 101, which no HTTP
    follows.

    Attributes:
        used: bytes of its head, and of the heads before it.
    """

    __slots__ = ("_begin", "_search", "used")

    def __init__(self) -> None:
        self._search = HeadSearch(RESPONSE)
        self._begin = 0
        self.used: int = 0

    def find(self, data: BytesLike) -> Response | None:
        """The response, whatever its status; None when more is needed. `data` and `HttpError`: as `HeadSearch.find`."""
        while end := self._search.find(data):
            response = parse_response(data, end, self._begin)
            if response.status_code >= 200 or response.status_code == 101:
                self.used = end
                return response
            self._begin = end
            self._search.skip(end)
        return None


def check_version(version: str) -> None:
    """RFC 9112 2.3: a minor version may be anything, another major version is another protocol."""
    if version[5] != "1":
        raise HttpError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is spoken here")


def origin_form(target: str) -> str:
    """Of a whole URI what follows the host (RFC 9112 3.2.2); any other target as it is."""
    found = absolute_form(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest.startswith("/") else "/" + rest


def parse_headers(text: str) -> Headers:
    """Headers from what follows the first line of a head."""
    if count_lines(text) > MAX_HEADERS:
        raise over_limit()
    try:
        return Headers.trusted(parse_lines(text), text)
    except ValueError as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None


def shown_start(data: BytesLike) -> str:
    """How bytes begin, for people."""
    some = bytes(data[:SHOWN])
    return repr(some) if len(data) <= SHOWN else f"{some!r} and so on"


def complaint(what: str, who: str, error: HttpError, encrypted: str) -> str:
    """The sentence that a client says of an answer that it cannot read.

    Args:
        what, who: the answer, and whose it is.
        encrypted: the scheme that uses TLS.
    """
    if error.reason is TLS_IN_THE_CLEAR:
        return f"{who} answered with TLS: should the scheme be {encrypted}?"
    if error.reason is NOT_HTTP:
        return f"{who} did not answer with HTTP"
    if error.reason is HTTP_2:
        hint = "which http2=True is for; else the SSLContext must not offer it (ALPN)"
        return f"{who} seems to speak HTTP/2, {hint}"
    return f"{what} is not legal HTTP: {error.reason}"
