"""Files over HTTP, for `zcws serve --static DIR`: enough for a page and its script, not a web server.

What is answered to a request that asks for no WebSocket, first row that applies:

    request                                            answer
    -------------------------------------------------  ------------------------------------------
    another method than GET and HEAD                   405
    a path that leads out of the directory             404, links that do so included
    a directory                                        its index.html, or 404
    no file, or one that must not be read              404
    a file over LARGEST                                413
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

#: Bytes of a file: it is read into memory, and so are those of everybody else who asks at the moment.
LARGEST = 64 * 1024 * 1024


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

    def __call__(self, _connection: Any, request: Request) -> Response | None:
        if "websocket" in request.headers.combined().get("upgrade", "").lower():
            return text_response(404, "there are only files here") if self._is_all else None
        return method_refusal(request.method) or self._respond(request.path.partition("?")[0])

    def _respond(self, path: str) -> Response:
        try:
            name = Path(unquote(path).lstrip("/"))
            if name.anchor:
                # Windows: another drive, or another machine, which would be asked for it, with our user's credentials.
                return text_response(404, "there is no such file")
            file = (self._root / name).resolve()
            if file.is_dir():
                file = (file / "index.html").resolve()
            if not file.is_relative_to(self._root) or not file.is_file():
                return text_response(404, "there is no such file")
            if file.stat().st_size > LARGEST:
                return text_response(413, f"the file is over {LARGEST} bytes")
            return file_response(file, file.read_bytes())
        except (OSError, ValueError, RuntimeError):
            # It must not be read; a NUL in the name; links in a circle (a RuntimeError before CPython 3.13).
            return text_response(404, "there is no such file")


def file_response(file: Path, body: bytes) -> Response:
    """200 and the file."""
    kind, packing = mimetypes.guess_type(file.name)
    if kind is None or packing is not None:  # x.html.gz is no text
        kind = "application/octet-stream"
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    # Ask again: files change while they are worked on.
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return whole_response(200, kind, body, headers)
