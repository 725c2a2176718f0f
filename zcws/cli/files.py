"""Files over HTTP, for `zcws serve --static DIR`: enough for a page and its script, not a web server.

What is answered to a request that asks for no WebSocket, first row that applies:

    request                                            answer
    -------------------------------------------------  ------------------------------------------
    another method than GET and HEAD                   405
    a path that leads out of the directory             404, links that do so included
    a directory                                        its index.html, or 404; without a slash behind its name, a
                                                       redirect to the name with one, for the page's relative links
    no file, or one that must not be read              404
    a file, and a slash behind its name                404
    a file over LARGEST                                413
    a file that would make it more than TOGETHER       503: it is worth another try
    anything else                                      200 and the file
"""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from zcws.cli.common import Failure
from zcws.http import Request, Response, method_refusal, text_response, whole_response

__all__ = ["Files"]

#: The most bytes of a file: it is read into memory.
LARGEST = 64 * 1024 * 1024

#: The most bytes of all files that wait for slow clients: over HTTP/2 one client may ask for a hundred files at once.
TOGETHER = 4 * LARGEST


class Files:
    """A `process_request` that answers with files.

    Args:
        root: the directory.
        is_all: whether there is nothing else here: requests for a WebSocket are refused.
    """

    def __init__(self, root: str, *, is_all: bool = False) -> None:
        self._root = Path(root).resolve()
        self._is_all = is_all
        if not self._root.is_dir():
            raise Failure(f"{root} is not a directory")

    def __call__(self, connection: Any, request: Request) -> Response | None:
        if "websocket" in request.headers.combined().get("upgrade", "").lower():
            return text_response(404, "there are only files here") if self._is_all else None
        return method_refusal(request.method) or self._respond(request.path, connection.server)

    def _respond(self, target: str, server: Any) -> Response:
        path, mark, query = target.partition("?")
        has_slash = path.endswith("/")
        try:
            name = Path(unquote(path).lstrip("/"))
            if name.anchor:
                # Windows: another drive, or another machine, which would be asked for it with our user's credentials.
                return text_response(404, "there is no such file")
            file = (self._root / name).resolve()
            is_directory = file.is_dir()
            if is_directory:
                file = (file / "index.html").resolve()
            is_ours = file.is_relative_to(self._root) and file.is_file()
            if not is_ours or (has_slash and not is_directory):
                return text_response(404, "there is no such file")
            if is_directory and not has_slash:
                # Relative to the path itself, so that it leads to no other host, whatever the path holds. RFC 3986 4.2:
                # after "./" a colon does not end a scheme.
                there = f"./{path.rpartition('/')[2]}/{mark}{query}"
                return text_response(307, "a directory has a slash behind its name", {"Location": there})
            size = file.stat().st_size
            if size > LARGEST:
                return text_response(413, f"the file is over {LARGEST} bytes")
            if size + waiting(server) > TOGETHER:
                return text_response(503, "too many files are under way", {"Retry-After": "1"})
            return file_response(file, file.read_bytes())
        except (OSError, ValueError, RuntimeError):
            # It must not be read; a NUL in the name; links in a circle (a RuntimeError before CPython 3.13).
            return text_response(404, "there is no such file")


def waiting(server: Any) -> int:
    """Bytes of answers that their clients have not taken."""
    transports = (getattr(handshake, "transport", None) for handshake in server.handshakes)
    return sum(transport.get_write_buffer_size() for transport in transports if transport is not None)


def file_response(file: Path, body: bytes) -> Response:
    """200 and the file."""
    kind, packing = mimetypes.guess_type(file.name)
    if kind is None or packing is not None:  # x.html.gz is no text
        kind = "application/octet-stream"
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    # Browsers ask again each time: files change while somebody works on them.
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return whole_response(200, kind, body, headers)
