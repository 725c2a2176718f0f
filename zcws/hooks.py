"""What may stand before an opening handshake: several `process_request` functions as one, and a health endpoint.

A hook is called with the handshake (asyncio) or the server (threads) and the request. It returns a `Response`, which is
sent and ends the connection, or None: go on. `basic_auth` (acceptor.py) and `Router` make hooks too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from zcws.callables import Chained, abandon, as_async_as, check_call, check_plain
from zcws.http import Request, Response, text_response

__all__ = ["Hook", "answer_of", "health", "hooks_of", "in_order", "refusal_of"]

#: Returns a Response, None, or an awaitable of either.
Hook = Callable[[Any, Request], Any]


def hooks_of(
    process_request: Hook | Sequence[Hook] | None, handler: object, *, is_blocking: bool = False
) -> Hook | None:
    """What a server asks: the hooks that it was given, then that of its handler, where that is a `Router`.

    Raises:
        TypeError: one of them is no function for a connection and a request; or is a coroutine function, for a
            server that `is_blocking`.
    """
    hooks = _listed(process_request)
    for hook in hooks:
        check_call("process_request", hook, "the connection", "the request")
        if is_blocking:
            check_plain("process_request", hook, "since zcws.sync has no event loop")
    last: Hook | None = getattr(handler, "process_request", None)
    if last is not None:
        hooks.append(last)
    if not hooks:
        return None
    return hooks[0] if len(hooks) == 1 else in_order(*hooks)


def _listed(process_request: Hook | Sequence[Hook] | None) -> list[Hook]:
    if process_request is None:
        return []
    if callable(process_request):
        return [process_request]
    if not isinstance(process_request, Iterable):
        raise TypeError(f"process_request is a function, or several in a list, not {process_request!r}")
    return list(process_request)


def answer_of(said: object, hook: str) -> Response | None:
    """What a hook has said, where that is an answer.

    Raises:
        TypeError: it is none. An awaitable is none either: who calls this cannot await it, or has done so.
    """
    if said is None or isinstance(said, Response):
        return said
    what = "an awaitable" if inspect.isawaitable(said) else f"an object of type {type(said).__name__}"
    abandon(said)
    raise TypeError(f"{hook} returned {what} where a Response was wanted, or None to go on")


def refusal_of(said: object) -> Response | None:
    """What a `process_request` has said, where that ends the connection.

    Raises:
        ValueError: it is a 101, whose Sec-WebSocket-Accept and extensions are not for a hook to say. TypeError: as
            `answer_of`.
    """
    answer = answer_of(said, "process_request")
    if answer is not None and answer.status_code == 101:
        raise ValueError("process_request must not accept the connection; return None for that")
    return answer


def in_order(*hooks: Hook) -> Hook:
    """One hook that asks several, until one of them answers. No task is made while none of them is a coroutine."""

    def ask(connection: Any, request: Request) -> Any:
        for i, hook in enumerate(hooks):
            said = hook(connection, request)
            if inspect.isawaitable(said):
                return Chained(said, partial(go_on, hooks[i + 1 :], connection, request))
            if said is not None:
                return said
        return None

    def go_on(others: tuple[Hook, ...], connection: Any, request: Request, answer: Any) -> Any:
        return in_order(*others)(connection, request) if answer is None else answer

    return ask


def health(path: str = "/healthz", check: Callable[[], object] | None = None) -> Hook:
    """A `process_request` that answers GET and HEAD for `path`: 200 "ok", or 503 while `check` returns something false.

        zcws.serve(handler, process_request=[zcws.health(), zcws.basic_auth("chat", ("ann", "secret"))])

    Put it first: what asks how a server is has no password. On asyncio `check` may be a coroutine function.

    Raises:
        ValueError: `path` is none. TypeError: `check` cannot be called with nothing.
    """
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(f'path must be a str that begins with "/", not {path!r}')
    if check is not None:
        check_call("check", check)

    def process_request(_connection: object, request: Request) -> Any:
        if request.path.partition("?")[0] != path or request.method not in ("GET", "HEAD"):
            return None
        said = True if check is None else check()
        if inspect.isawaitable(said):
            return Chained(said, _health)
        return _health(said)

    return as_async_as(check, process_request)


def _health(well: object) -> Response:
    return text_response(200, "ok") if well else text_response(503, "not ready")
