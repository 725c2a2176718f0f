"""What an echo server or a chat says to a browser: the page to try it with, on the port of the WebSocket itself.

`answer` is a `process_request`. A request that asks for a WebSocket passes; any other gets one of these:

    GET or HEAD /           200, the page (page.html beside this file)
    GET or HEAD /healthz    200, "ok"
    GET or HEAD elsewhere   404
    any other method        405
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from zcws.http import Request, Response, method_refusal, text_response, whole_response

__all__ = ["answer"]

#: The page is one file: it may run its own script and style, open WebSockets, and load nothing else.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src ws: wss:"
)


def answer(_connection: object, request: Request, what: str = "echo") -> Response | None:
    """The response to `request`, or None where it asks for a WebSocket.

    Args:
        what: "echo", or "chat": the name of the page, by which its script knows whether others talk.
    """
    if "websocket" in request.headers.combined().get("upgrade", "").lower():
        return None
    return _respond(request.method, request.path.partition("?")[0], what)


def _respond(method: str, path: str, what: str) -> Response:
    if refusal := method_refusal(method):
        return refusal
    if path == "/":
        # Not stored: the next server on this port may be another version.
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
        return whole_response(200, "text/html; charset=utf-8", _page(what), headers)
    if path == "/healthz":
        return text_response(200, "ok")
    return text_response(404, "there is nothing here but / and /healthz")


@lru_cache(maxsize=2)
def _page(what: str) -> bytes:
    page = resources.files("zcws.cli").joinpath("page.html").read_bytes()
    return page.replace(b"zcws echo", b"zcws " + what.encode())
