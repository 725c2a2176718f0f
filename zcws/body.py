"""The body of a response that is not a 101: how long it is, and its first 64 KiB. RFC 9112 6, 7.

What this file decides: where such a body ends. It is shown to a person in an error, and the connection is
closed after it; so a body that breaks the rules simply ends there, and nothing here raises.

    headers                          the body ends
    -------------------------------  --------------------------------------------------
    status 1xx, 204, 304             at once (RFC 9112 6.3, 1)
    Transfer-Encoding: chunked       with the chunk of size 0
    a valid Content-Length           after that many bytes
    anything else                    with the connection: the caller stops feeding

A caller who has waited `BODY_TIMEOUT` for the end takes what there is: the status is the answer, whatever follows it.
"""

from __future__ import annotations

import re

from zcws.http import BODILESS, Response
from zcws.http1 import BytesLike

__all__ = ["BODY_TIMEOUT", "MAX_BODY", "BodyReader"]

#: Bytes of a body that are kept: enough for any error page, too few to exhaust memory.
MAX_BODY = 64 * 1024
#: Seconds that a body may take after its head: a page for a person is not worth more of `open_timeout`.
BODY_TIMEOUT = 1.0
#: Bytes of a chunk's first line: eight digits of size, and room for extensions that nobody uses.
MAX_CHUNK_LINE = 256

# RFC 9112 7.1: the size in hexadecimal, then extensions. Eight digits reach far beyond MAX_BODY.
chunk_size = re.compile(rb"0*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?").fullmatch
is_length = re.compile("[0-9]{1,18}").fullmatch


class BodyReader:
    """Collects a body from bytes that keep arriving.

    Attributes:
        done: the body's end, or the limit, has been reached; the end of the connection ends a body without this.
    """

    __slots__ = ("_body", "_chunked", "_left", "_limit", "_raw", "done")

    def __init__(self, response: Response, limit: int = MAX_BODY) -> None:
        values, status = response.headers.combined(), response.status_code
        length = values.get("content-length", "")
        encoding = values.get("transfer-encoding", "").lower()
        self._limit = limit
        self._body = bytearray()
        self._raw = bytearray()  # chunked only: what has not been understood yet
        self._left = 0  # chunked only: bytes of the chunk that goes on, its CRLF included
        self._chunked = encoding.endswith("chunked")  # RFC 9112 6.1: it is always the last
        if not encoding and is_length(length):
            self._limit = min(limit, int(length))
        bodiless = status < 200 or status in BODILESS
        self.done: bool = bodiless or self._limit == 0

    @property
    def body(self) -> bytes:
        """What has been collected so far."""
        return bytes(self._body)

    def feed(self, data: BytesLike) -> None:
        """Takes the next bytes; those behind the end are dropped."""
        if self._chunked:
            self._raw += data
            while not self.done and self._raw:
                if not (self._take_chunk() if self._left else self._take_size()):
                    return
        elif not self.done:
            self._keep(data)

    def _keep(self, data: BytesLike) -> None:
        self._body += data[: self._limit - len(self._body)]
        self.done = len(self._body) >= self._limit

    def _take_size(self) -> bool:
        """Reads a chunk's first line; whether there was a whole one."""
        end = self._raw.find(b"\r\n", 0, MAX_CHUNK_LINE)
        if end < 0:
            self.done = len(self._raw) >= MAX_CHUNK_LINE
            return False
        found = chunk_size(self._raw[:end])
        size = int(found[1], 16) if found else 0
        del self._raw[: end + 2]
        self._left = size + 2
        self.done = size == 0
        return True

    def _take_chunk(self) -> bool:
        """Keeps what has arrived of a chunk; whether that was all of it."""
        piece = self._raw[: self._left]
        del self._raw[: len(piece)]
        self._keep(piece[: max(0, self._left - 2)])
        self._left -= len(piece)
        return self._left == 0
