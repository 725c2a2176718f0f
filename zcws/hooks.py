"""What may stand before an opening handshake: several `process_request` functions as one, and a health endpoint.

A hook is called with the handshake (asyncio) or the server (threads) and the request. It returns a `Response`, which is
sent and ends the connection, or None: go on. `basic_auth` (acceptor.py) and `Router` make hooks too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from zcws.http import Request, Response, text_response

__all__ = ["Hook", "health", "hooks_of", "in_order"]

#: Returns a Response, None, or an awaitable of either.
Hook = Callable[[Any, Request], Any]


def hooks_of(process_request: Hook | Sequence[Hook] | None, handler: object) -> Hook | None:
    """What a server asks: the hooks that it was given, then that of its handler, where that is a `Router`."""
    if process_request is None:
        hooks: list[Hook] = []
    else:
        hooks = [process_request] if callable(process_request) else list(process_request)
    last: Hook | None = getattr(handler, "process_request", None)
    if last is not None:
        hooks.append(last)
    if not hooks:
        return None
    return hooks[0] if len(hooks) == 1 else in_order(*hooks)


def in_order(*hooks: Hook) -> Hook:
    """One hook that asks several, until one of them answers. No task is made while none of them is a coroutine."""

    def ask(connection: Any, request: Request) -> Any:
        for i, hook in enumerate(hooks):
            said = hook(connection, request)
            if inspect.isawaitable(said):
                return wait(said, in_order(*hooks[i + 1 :]), connection, request)
            if said is not None:
                return said
        return None

    async def wait(said: Any, others: Hook, connection: Any, request: Request) -> Any:
        answer = await said
        if answer is None:
            answer = others(connection, request)
            if inspect.isawaitable(answer):
                answer = await answer
        return answer

    return ask


def health(path: str = "/healthz", check: Callable[[], object] | None = None) -> Hook:
    """A `process_request` that answers GET and HEAD for `path`: 200 "ok", or 503 while `check` returns something false.

        zcws.serve(handler, process_request=[zcws.health(), zcws.basic_auth("chat", ("ann", "secret"))])

    Put it first: what asks how a server is has no password.
    """

    def process_request(_connection: object, request: Request) -> Response | None:
        if request.path.partition("?")[0] != path or request.method not in ("GET", "HEAD"):
            return None
        well = check is None or check()
        response = text_response(200, "ok") if well else text_response(503, "not ready")
        if request.method == "HEAD":
            response.body = b""  # RFC 9110 9.3.2
        return response

    return process_request
