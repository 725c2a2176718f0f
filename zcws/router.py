"""`Router`: which handler a path belongs to. Without I/O, so that it serves asyncio and threads alike.

A router is the handler of a server, and one of its `process_request` hooks: a request for a path that leads nowhere is
answered before there is a WebSocket. What it says, first row that applies:

    request                                     answer
    ------------------------------------------  ------------------------------------------------
    no route has this path                      404
    the method is not GET                       405, with `Allow` (RFC 9110 15.5.6)
    no WebSocket asked for                      426, from the opening handshake (RFC 9110 15.5.22)
    anything else                               the handler, with the path's parameters

Among routes that fit, one without parameters wins, then the one that was added first. The query is not part of the
path. Both a route and a path are compared as the text that they mean, percent-decoded: `/café`, `/caf%C3%A9` and
`/%63af%c3%a9` are one path (RFC 3986 6.2.2, RFC 3987 3.1). Three things are remembered of what was encoded:

    encoded                        stands for                     and separates
    -----------------------------  -----------------------------  --------------------------------------------------
    a slash                        itself                         nothing, ever: `/a%2Fb` is one segment
    another reserved character     itself (RFC 3986 2.2)          parameters only if the path fits in no other way:
                                                                  in `{x},{y}` the comma of `a,b%2Cc` is the first
    bytes that are not UTF-8       themselves in a route,         nothing
                                   U+FFFD in a parameter

To find a route takes time in proportion to the length of the path: where one parameter could take what belongs to the
next, as in `{year}-{month}`, the next begins after the last occurrence of what stands between them. A plain pattern
would try every place for each parameter; with three of them, and a path of 8 KiB, that takes a quarter of an hour,
before any handshake.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote

from zcws.callables import check_call, check_plain, is_generator, name_of
from zcws.http import Request, Response, text_response

__all__ = ["Router", "check_handler"]

H = TypeVar("H", bound=Callable[..., Any])

#: RFC 3986 2.2: reserved.
RESERVED = "!#$&'()*+,/:;=?@[]"
encoded_reserved = re.compile("%(" + "|".join(f"{ord(each):02X}" for each in RESERVED) + ")", re.IGNORECASE)

#: What stands for one of them that came encoded, and its way back: surrogates of the first half, which no text has.
#: Bytes that are not UTF-8 become surrogates of the second half (PEP 383).
_FIRST = 0xD800
TO_ITSELF = {_FIRST + ord(each): each for each in RESERVED}
TO_ITSELF_BUT_SLASH = {mark: each for mark, each in TO_ITSELF.items() if each != "/"}

parameter = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")


def readings(path: str) -> tuple[str, ...]:
    """What `path` means, decoded: first as if no encoded character separated anything, then as if only slashes did
    not."""
    if "%" not in path:
        return (path,)
    marked = encoded_reserved.sub(lambda found: chr(_FIRST + int(found[1], 16)), path)
    kept = unquote(marked, errors="surrogateescape")
    plain = kept.translate(TO_ITSELF_BUT_SLASH)
    return (plain,) if plain == kept else (kept, plain)


def value_of(text: str) -> str:
    """A parameter, from its part of a reading."""
    if text.isascii():
        return text
    return text.translate(TO_ITSELF).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


#: The kinds of parameter: what one looks like, and what it becomes. 18 digits are always a 64-bit number.
KINDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "str": (r"[^/]+", value_of),
    "int": (r"[0-9]{1,18}", int),
    "path": (r".+", value_of),
}


class Pattern:
    """The regular expression of a path, as it grows.

    Attributes:
        text: as much of it as there is.
        shape: the same for all paths that match the same.
        convert: by the name of a parameter, what makes its value.
    """

    def __init__(self, path: str) -> None:
        self.text = self.shape = ""
        self.convert: dict[str, Callable[[str], Any]] = {}
        self._path = path
        self._has_path = False
        # The pattern since a parameter that could also match what comes next; None: this segment has no such parameter.
        self._between: str | None = None

    def add_literal(self, text: str) -> None:
        """Text that the path has literally."""
        text = checked_literal(text)
        literal = re.escape(text)
        self.shape += literal
        self._add(literal)
        if "/" in text:
            self._between = None

    def add_parameter(self, name: str, kind: str) -> None:
        """A parameter, which becomes an argument of the handler. Raises: ValueError."""
        if kind not in KINDS:
            raise ValueError(
                f"{self._path!r}: a parameter is of a kind in {', '.join(KINDS)}; {kind!r} is not"
            )
        if name in self.convert:
            raise ValueError(f"{self._path!r} has two parameters called {name!r}")
        self.shape += f"{{{kind}}}"
        pattern, self.convert[name] = KINDS[kind]
        if kind == "int":
            self._add(f"(?P<{name}>{pattern})", pattern)
            return
        if (kind == "path" and self._has_path) or self._between == "":
            raise ValueError(f"{self._path!r}: nothing says where {name!r} begins")
        if self._between is not None:
            if kind == "path":
                raise ValueError(
                    f"{self._path!r}: nothing says where {name!r} begins; a slash before it would"
                )
            pattern = f"(?:(?!{self._between})[^/])+"
        self._has_path = self._has_path or kind == "path"
        self._add(f"(?P<{name}>{pattern})")
        self._between = ""

    def _add(self, pattern: str, bare: str | None = None) -> None:
        self.text += pattern
        if self._between is not None:
            self._between += pattern if bare is None else bare


class Route:
    """One path with parameters, compiled."""

    __slots__ = ("_convert", "_match", "handler", "path", "shape")

    def __init__(self, path: str, handler: Callable[..., Any]) -> None:
        self.handler: Callable[..., Any] = handler
        self.path: str = path
        pattern, end = Pattern(path), 0
        for found in parameter.finditer(path):
            pattern.add_literal(path[end : found.start()])
            pattern.add_parameter(found[1], found[2] or "str")
            end = found.end()
        pattern.add_literal(path[end:])
        self.shape: str = pattern.shape  # two routes of one shape match the same paths
        self._convert = pattern.convert
        self._match = re.compile(pattern.text, re.DOTALL).fullmatch

    def match(self, path: tuple[str, ...]) -> dict[str, Any] | None:
        """The parameters in a path, of which these are the `readings`; None where it is another route's."""
        for reading in path:
            if (found := self._match(reading)) is not None:
                return {name: self._convert[name](text) for name, text in found.groupdict().items()}
        return None


class Router:
    """Handlers by path. Give it to `serve` as the handler.

        router = zcws.Router()

        @router.route("/room/{name}")
        async def room(ws, name):
            ...

    A handler is called with the connection, and the parameters of its route as keyword arguments: `{name}` is a str
    without slashes, `{name:int}` an int of up to 18 digits, `{name:path}` a str with slashes, once. In
    `{year}-{month}` the second begins behind the last `-`. A path may be written as text or percent-encoded: `/café`
    and `/caf%C3%A9` are the same. For `zcws.sync` handlers are plain functions.
    """

    def __init__(self) -> None:
        self._exact: dict[str, Callable[..., Any]] = {}
        self._routes: list[Route] = []

    def add(self, path: str, handler: Callable[..., Any]) -> None:
        """Requests for `path` go to `handler`.

        Raises:
            ValueError: the path does not begin with a slash, is taken, or its parameters make no sense.
            TypeError: the path is no str, or the handler does not take the connection and these parameters.
        """
        if not isinstance(path, str):
            raise TypeError(f"a path is a str, not {path!r}")
        if not path.startswith("/"):
            raise ValueError(f"a path begins with a slash: {path!r} does not")
        names = [found[1] for found in parameter.finditer(path)]
        route = Route(path, handler) if names else None
        check_call(
            f"the handler of {path!r}", handler, "the connection", **{name: f"{name}=..." for name in names}
        )
        if route is not None:
            for other in self._routes:
                if other.shape == route.shape:
                    raise ValueError(f"{path!r} has a handler already: that of {other.path!r}")
            self._routes.append(route)
        elif (text := checked_literal(path)) in self._exact:
            raise ValueError(f"{path!r} has a handler already")
        else:
            self._exact[text] = handler

    def route(self, path: str) -> Callable[[H], H]:
        """The same as a decorator. Raises: TypeError, where the path is missing, as in `@router.route`."""
        if callable(path):
            raise TypeError(
                'route() takes a path, and what it returns a handler: write @router.route("/path")'
            )

        def decorate(handler: H) -> H:
            self.add(path, handler)
            return handler

        return decorate

    @property
    def handlers(self) -> list[Callable[..., Any]]:
        """All handlers, in no order."""
        return [*self._exact.values(), *(route.handler for route in self._routes)]

    def match(self, path: str) -> tuple[Callable[..., Any], dict[str, Any]] | None:
        """The handler for a request's target and its parameters; None where no route fits."""
        ways = readings(path.partition("?")[0])
        handler = self._exact.get(ways[-1])
        if handler is not None:
            return handler, {}
        for route in self._routes:
            parameters = route.match(ways)
            if parameters is not None:
                return route.handler, parameters
        return None

    def process_request(self, _connection: object, request: Request) -> Response | None:
        """The answer to a request that leads nowhere. `serve` asks this by itself, after its own `process_request`."""
        if self.match(request.path) is None:
            return text_response(404, "there is nothing at this path")
        if request.method != "GET":
            return text_response(405, "only GET leads to a WebSocket", {"Allow": "GET"})
        return None

    def __call__(self, ws: Any) -> Any:
        """Calls the handler of the connection's path: what `serve` does with a handler."""
        found = self.match(ws.request.path)
        assert found is not None  # or process_request would have said so
        handler, parameters = found
        return handler(ws, **parameters)

    def __repr__(self) -> str:
        return f"<Router of {len(self.handlers)}>"


def check_handler(handler: object, *, is_blocking: bool = False) -> None:
    """`TypeError` for what is certainly no handler of a server, and for a `Router` that has one of those."""
    check_call("the handler", handler, "the connection")
    for each in handler.handlers if isinstance(handler, Router) else [handler]:
        if is_blocking:
            check_plain("the handler", each, "since zcws.sync has no event loop")
        if is_generator(each):
            kind = "plain" if is_blocking else "coroutine"
            raise TypeError(f"the handler is a {kind} function: {name_of(each)} is a generator function")


def checked_literal(text: str) -> str:
    """The part of a path that is no parameter, as it is compared; what looks like half of a parameter is a mistake."""
    if "{" in text or "}" in text:
        raise ValueError(f"{text!r} has a brace that belongs to no parameter: {{name}} or {{name:kind}}")
    if "?" in text or "#" in text:
        raise ValueError(f"{text!r}: a route is a path, without query or fragment")
    if any("\ud800" <= each <= "\udfff" for each in text):
        raise ValueError(f"{text!r} has half a surrogate pair, which no request can have")
    return readings(text)[-1]
