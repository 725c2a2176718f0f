"""What may come before an opening handshake: several `process_request` functions as one, passwords, a health endpoint.

A hook is called with the handshake (asyncio) or the server (threads), and the request. It returns a `Response`, which
is sent and ends the connection, or None to go on. A `Router` has such a hook, too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from zcws.callables import Chained, abandon, as_async_as, check_call, check_plain
from zcws.handshake import first_broken, parse_basic_authorization, same_text
from zcws.http import Request, Response, text_response

__all__ = [
    "Hook",
    "answer_of",
    "basic_auth",
    "check_page_path",
    "health",
    "hooks_of",
    "in_order",
    "refusal_of",
    "settled_by",
]

#: Returns a Response, None, or an awaitable of either.
Hook = Callable[[Any, Request], Any]

#: Takes user name and password, and tells whether they are right.
CheckCredentials = Callable[[str, str], bool | Awaitable[bool]]

# Visible ASCII, but for what ends a path: looser than RFC 3986 3.3, as clients are.
is_path = re.compile(r'[!"$->@-~]+').fullmatch
is_realm = re.compile(r"[ !#-\[\]-~]*").fullmatch


def hooks_of(
    process_request: Hook | Sequence[Hook] | None, handler: object, *, is_blocking: bool = False
) -> Hook | None:
    """One hook for a server: those that it was given, then that of its handler, if this is a `Router`.

    Raises:
        TypeError: a hook is no function of a connection and a request; or is a coroutine function, for a server that
            `is_blocking`.
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
    """What a hook returned: a Response, or None.

    Raises:
        TypeError: it is neither. Nor will an awaitable do: the caller cannot await it, or has awaited once already.
    """
    if said is None or isinstance(said, Response):
        return said
    what = "an awaitable" if inspect.isawaitable(said) else f"an object of type {type(said).__name__}"
    abandon(said)
    raise TypeError(f"{hook} returned {what} where a Response was wanted, or None to go on")


def refusal_of(said: object) -> Response | None:
    """What a `process_request` returned: a Response that ends the connection, or None.

    Raises:
        ValueError: it is a 101, whose Sec-WebSocket-Accept and extensions are not for a hook to say, another status
            that answers nothing yet, or chunked. TypeError: as `answer_of`.
    """
    answer = answer_of(said, "process_request")
    if answer is not None:
        if answer.status_code == 101:
            raise ValueError("process_request must not accept the connection; return None for that")
        _check_final(answer, "process_request")
    return answer


def settled_by(said: object, response: Response, key: str | None, granted: Sequence[str] = ()) -> Response:
    """What a `process_response` that was given `response` wants sent: that one, or the one that it returned.

    Args:
        key: the Sec-WebSocket-Key of a request that is accepted; None where it is refused.
        granted: the extensions that were agreed, as a 101 names them.

    Raises:
        ValueError: it is a 101 that opens nothing, names other extensions, or has a body; another status that answers
            nothing yet; or chunked. TypeError: as `answer_of`.
    """
    answer = answer_of(said, "process_response") or response
    if answer.status_code == 101:
        _check_switching(answer, key, granted)
    else:
        _check_final(answer, "process_response")
    return answer


def _check_final(answer: Response, hook: str) -> None:
    """It says all that there is to say, and has its whole body."""
    if answer.status_code < 200:  # RFC 9110 15.2
        raise ValueError(f"{hook} chose status {answer.status_code}, which is no final response")
    if "Transfer-Encoding" in answer.headers:  # RFC 9113 8.2.2: HTTP/2 has no such header, and no chunks
        raise ValueError(f"{hook} put Transfer-Encoding on a response, whose body is sent as it is")


def _check_switching(answer: Response, key: str | None, granted: Sequence[str]) -> None:
    """Our own 101 passes, with more headers than it had."""
    if key is None:
        raise ValueError(
            "process_response chose 101 for a request that is refused, with which nothing was agreed"
        )
    if broken := first_broken(answer.headers, key):  # RFC 6455 4.2.2
        raise ValueError(f"process_response chose a 101 that no client takes: {broken}")
    # RFC 6455 9.1: the client would send what nobody here reads, or refuse what is sent.
    if answer.headers.get_all("sec-websocket-extensions") != list(granted):
        raise ValueError("process_response changed the Sec-WebSocket-Extensions that were agreed")
    # RFC 9110 15.2, 8.6; RFC 9112 6.1: no 1xx has a body. The client would read it as frames.
    if answer.body:
        raise ValueError("process_response put a body on the 101, behind which frames begin")
    for name in ("Content-Length", "Transfer-Encoding"):
        if name in answer.headers:
            raise ValueError(f"process_response put {name} on the 101, which has no body (RFC 9110 8.6)")


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


def check_page_path(path: object) -> None:
    """`ValueError` unless a request can have this path."""
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(f'path must be a str that begins with "/", not {path!r}')
    if not is_path(path):
        raise ValueError(
            f"no request has the path {path!r}: it ends before a ? or #, and what is not visible ASCII is "
            "percent-encoded in it (urllib.parse.quote does that)"
        )


def health(path: str = "/healthz", check: Callable[[], object] | None = None) -> Hook:
    """A `process_request` that answers GET and HEAD for `path`: 200 "ok", or 503 while `check` returns something false.

        zcws.serve(handler, process_request=[zcws.health(), zcws.basic_auth("chat", ("ann", "secret"))])

    Put it first: whatever asks about a server's health has no password. On asyncio `check` may be a coroutine function.

    Raises:
        ValueError: `path` is not a path. TypeError: `check` cannot be called without arguments.
    """
    check_page_path(path)
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


def basic_auth(
    realm: str,
    credentials: tuple[str, str] | Iterable[tuple[str, str]] | None = None,
    check_credentials: CheckCredentials | None = None,
) -> Hook:
    """A `process_request` that asks for user name and password; the handler finds the name in `ws.request.username`.
    RFC 7617.

    Args:
        realm: what is protected, in words.
        credentials: one pair of user name and password, or several.
        check_credentials: instead of `credentials`: a function of user name and password that returns True if they are
            right; use `hmac.compare_digest` there. On asyncio it may be a coroutine function.

    Raises:
        TypeError, ValueError: credentials that are no pairs, or two ways to check them.
    """
    if (credentials is None) == (check_credentials is None):
        raise ValueError("give either credentials or check_credentials")
    if not isinstance(realm, str) or not is_realm(realm):
        raise ValueError('a realm must be printable ASCII without quotes and "\\"')
    if check_credentials is not None:
        check_call("check_credentials", check_credentials, "the user name", "the password")
    check = check_credentials or one_of(pairs_of(credentials))
    # RFC 7617 2.1: which encoding we read.
    challenge = {"WWW-Authenticate": f'Basic realm="{realm}", charset="UTF-8"'}

    def process_request(_connection: object, request: Request) -> Any:
        given = parse_basic_authorization(request.headers.combined().get("authorization", ""))
        if given is None:
            return text_response(401, "user name and password are needed", challenge)

        def judge(said: object) -> Response | None:
            if not is_right(said):
                return text_response(401, "wrong user name or password", challenge)
            request.username = given[0]
            return None

        said = check(*given)
        return Chained(said, judge) if inspect.isawaitable(said) else judge(said)

    return as_async_as(check, process_request)


def is_right(said: object) -> bool:
    """Whether `check_credentials` returned True. `TypeError` for anything else that counts as true: it may be a future
    or a generator, whose answer is yet to come."""
    if said and said is not True:
        raise TypeError(
            f"check_credentials returned an object of type {type(said).__name__}, not True or False"
        )
    return said is True


def pairs_of(credentials: object) -> list[tuple[str, str]]:
    """The pairs in `credentials`; no error quotes them."""
    if callable(credentials):
        raise TypeError(
            "credentials are a pair of str, or a list of such pairs; a function that checks them is given as "
            "check_credentials="
        )
    if isinstance(credentials, (tuple, list)) and credentials and isinstance(credentials[0], str):
        credentials = [credentials]
    pairs: list[Any] = list(credentials) if isinstance(credentials, Iterable) else [credentials]
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or [isinstance(part, str) for part in pair] != [True, True]:
            raise TypeError(
                'credentials are a pair of str, ("user", "password"), or a list of such pairs; '
                f"an object of type {type(pair).__name__} is no pair"
            )
    if any(":" in name for name, _ in pairs):
        # RFC 7617 2: what is received is cut at the first one.
        raise ValueError("a user name must not hold a colon: it would never be recognized")
    return [(name, word) for name, word in pairs]


def one_of(pairs: list[tuple[str, str]]) -> CheckCredentials:
    """Compares with every pair, all of them every time, so that the time tells nothing."""

    def check(username: str, password: str) -> bool:
        return any([same_text(name, username) & same_text(word, password) for name, word in pairs])

    return check
