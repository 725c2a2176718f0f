"""Which handler a path belongs to, on both drivers."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote, quote_from_bytes

import hypothesis.strategies as st
import pytest
from hypothesis import given
from raw import thread

import zcws
import zcws.sync
from zcws.router import check_handler


def matched(path: str, *routes: str) -> tuple[str, dict[str, Any]] | None:
    """The route that `path` leads to, and its parameters."""
    router = zcws.Router()
    for route in routes:
        router.add(route, lambda ws, route=route, **parameters: (route, parameters))
    found = router.match(path)
    return found and found[0](None, **found[1])


@pytest.mark.parametrize(
    ("path", "route", "parameters"),
    [
        ("/", "/", {}),
        ("/?x=/room/1", "/", {}),
        ("/room/lobby", "/room/{name}", {"name": "lobby"}),
        ("/room/a%2Fb%20%C3%A9?q", "/room/{name}", {"name": "a/b é"}),
        ("/item/007", "/item/{id:int}", {"id": 7}),
        ("/item/007x", "/item/{name}", {"name": "007x"}),
        ("/a.b/c-d/e", "/a.b/{one}-{two}/e", {"one": "c", "two": "d"}),
        ("/a.b/c-d-e/e", "/a.b/{one}-{two}/e", {"one": "c-d", "two": "e"}),
        ("/at/a-1-b-c", "/at/{one}-{n:int}-{two}", {"one": "a", "n": 1, "two": "b-c"}),
        ("/at/a-1-2-c", "/at/{one}-{n:int}-{two}", {"one": "a-1", "n": 2, "two": "c"}),
        ("/on/2026-11-28", "/on/{y}-{m}-{d}", {"y": "2026", "m": "11", "d": "28"}),
        ("/get/a/b.c/d.tar.gz", "/get/{name:path}.{kind}", {"name": "a/b.c/d.tar", "kind": "gz"}),
        ("/get/a/b/file", "/get/{where:path}/{name}", {"where": "a/b", "name": "file"}),
        ("/files/a/b%20c", "/files/{rest:path}", {"rest": "a/b c"}),
        ("/room/{name}", "/room/{name}", {"name": "{name}"}),
        ("/room/exact", "/room/exact", {}),
    ],
)
def test_the_route_of_a_path(path: str, route: str, parameters: dict[str, Any]) -> None:
    routes = (
        *("/", "/item/{id:int}", "/item/{name}", "/room/{name}", "/room/exact"),
        *("/a.b/{one}-{two}/e", "/files/{rest:path}", "/at/{one}-{n:int}-{two}", "/on/{y}-{m}-{d}"),
        *("/get/{name:path}.{kind}", "/get/{where:path}/{name}"),
    )
    assert matched(path, *routes) == (route, parameters)


@pytest.mark.parametrize(
    ("path", "route", "parameters"),
    [
        ("/caf%C3%A9", "/café", {}),
        ("/%63af%c3%a9?x", "/café", {}),
        ("/blue%20note", "/blue note", {}),
        ("/100%25", "/100%", {}),
        ("/%7Eme", "/~me", {}),
        ("/p/1/%C3%A9", "/p/{x}/é", {"x": "1"}),
        ("/p/%C3%A9-%e2%82%ac/%C3%A9", "/p/{x}/é", {"x": "é-€"}),
        ("/n%6f/%31", "/no/{n:int}", {"n": 1}),
        ("/user%3Aann", "/user:{name}", {"name": "ann"}),
        ("/all/a%0Ab/c", "/all/{rest:path}", {"rest": "a\nb/c"}),
        # RFC 3986 2.2: a reserved character separates where it is not encoded.
        ("/at/a%2Cb,c", "/at/{x},{y}", {"x": "a,b", "y": "c"}),
        ("/at/a,b%2Cc", "/at/{x},{y}", {"x": "a", "y": "b,c"}),
        ("/at/a%2Cb", "/at/{x},{y}", {"x": "a", "y": "b"}),
        # Nor does an encoded slash, in any way; nor bytes that are not UTF-8.
        ("/a%2fb", "/a%2Fb", {}),
        ("/p/a%2Fb/%C3%A9", "/p/{x}/é", {"x": "a/b"}),
        ("/p/%FF%E2%82x/%C3%A9", "/p/{x}/é", {"x": "\ufffd\ufffdx"}),
        ("/%FF", "/%ff", {}),
        ("/b%41", "/b{x}", {"x": "A"}),
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_what_is_percent_encoded(path: str, route: str, parameters: dict[str, Any], encoded: bool) -> None:
    """Only parameters were decoded: `/café` was a route that no request could have, and `/%7Eme` was not `/~me`
    (RFC 3986 6.2.2.2)."""
    if encoded:  # the route as well
        route = quote(route, safe="/{:}%,")
    assert matched(path, route) == (route, parameters)


def test_one_path_in_two_ways() -> None:
    for first, second in (("/café", "/caf%C3%A9"), ("/é/{x}", "/%c3%a9/{y}"), ("/~a", "/%7Ea")):
        router = zcws.Router()
        router.add(first, lambda ws, **parameters: None)
        with pytest.raises(ValueError, match="has a handler already"):
            router.add(second, lambda ws, **parameters: None)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_may_be_encoded(text: str) -> None:
    target = "/p/" + quote(text, safe="")
    assert matched(target, "/p/{x}") == ("/p/{x}", {"x": text})
    assert matched(target, target) == (target, {})
    assert matched(target + "/x", target) is None


@given(st.binary(min_size=1))
def test_any_bytes_may_be_encoded(data: bytes) -> None:
    target = "/p/" + quote_from_bytes(data, safe="")
    assert matched(target, "/p/{x}") == ("/p/{x}", {"x": data.decode(errors="replace")})
    assert matched(target, target) == (target, {})


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("", "/"),
        ("/a%2Fb", "/a/b"),
        ("/a%2Fb", "/{x}/b"),
        ("/a/b", "/a%2Fb"),
        ("/%FE", "/%FF"),
        ("/%FF", "/\ufffd"),
        ("/a%3Fb", "/a"),
        ("/%41", "/{x}1"),
        ("/x/", "/x"),
        ("/x", "/x/"),
        ("/X", "/x"),
        ("/room/", "/room/{name}"),
        ("/room/a/b", "/room/{name}"),
        ("/item/-1", "/item/{id:int}"),
        ("/item/٣", "/item/{id:int}"),
        ("/item/1234567890123456789", "/item/{id:int}"),
        ("/aXb", "/a.b"),
        ("/aXb/1", "/a.b/{x}"),
        ("/room/a\n", "/room/{name:int}"),
        ("/a-", "/{x}-{y}"),
        ("/-a", "/{x}-{y}"),
    ],
)
def test_paths_that_lead_nowhere(path: str, route: str) -> None:
    assert matched(path, route) is None


def test_what_is_no_path() -> None:
    for path in (None, 5, b"/room"):
        with pytest.raises(TypeError, match=f"^a path is a str, not {path!r}$"):
            zcws.Router().add(path, lambda ws: None)  # type: ignore[arg-type]


def test_a_decorator_without_a_path() -> None:
    """Nothing was routed, and nobody heard of it."""
    router = zcws.Router()
    with pytest.raises(TypeError, match=r'write @router\.route\("/path"\)$'):

        @router.route  # type: ignore[arg-type]
        async def room(ws: zcws.WebSocket) -> None:
            pass


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("room", "begins with a slash"),
        ("/{id:float}", "a kind in str, int, path"),
        ("/{x}/{x}", "two parameters called 'x'"),
        ("/{x", "belongs to no parameter"),
        ("/{x}/}", "belongs to no parameter"),
        ("/{not a name}", "belongs to no parameter"),
        ("/{x}{y}", "nothing says where 'y' begins"),
        ("/{x:path}/{y:path}", "nothing says where 'y' begins"),
        ("/{x:path}/at/{y}/{z:path}", "nothing says where 'z' begins"),
        ("/a#b", "a route is a path, without query or fragment"),
        ("/{x}-{y:path}", "where 'y' begins; a slash before it would"),
        ("/x?y", "without query"),
        ("/\udcff", "half a surrogate pair, which no request can have$"),
        ("/taken", "has a handler already$"),
        ("/taken/{x}/{n:int}", "has a handler already: that of '/taken/{y:str}/{n:int}'$"),
    ],
)
def test_routes_that_make_no_sense(path: str, sentence: str) -> None:
    router = zcws.Router()
    router.add("/taken", lambda ws: None)
    router.add("/taken/{y:str}/{n:int}", lambda ws, y, n: None)
    with pytest.raises(ValueError, match=sentence):
        router.add(path, lambda ws, **parameters: None)


#: Their paths are made of what stands in the patterns, so that there is much to try.
PATTERNS = [
    "/{x}-{y}",
    "/{x}-{y}.{z}",
    "/{x}-{n:int}-{y}",
    "/{x:path}.{y}",
    "/{x}/{y}-{z}",
    "/{x:path}/{y}--{z}/e",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(st.lists(st.sampled_from(["a", "-", ".", "/", "1", "--", "e"]), max_size=9).map("".join))
def test_it_is_the_first_that_takes_the_most(pattern: str, path: str) -> None:
    """As a plain regular expression has it, but that the others have nothing of what stands before them."""
    kinds = {"int": "[0-9]{1,18}", "path": ".+", "": "[^/]+"}
    plain = "".join(
        f"(?P<{part[1:-1].partition(':')[0]}>{kinds[part[1:-1].partition(':')[2]]})"
        if part[0] == "{"
        else re.escape(part)
        for part in re.split(r"(\{[^}]*\})", pattern)
        if part
    )
    expected = re.fullmatch(plain, "/" + path)
    found = matched("/" + path, pattern)
    if found is None:
        values = list(expected.groupdict().values()) if expected else []
        assert not values or any(set("-.") & set(value) for value in values[1:])
    else:
        assert expected is not None
        rebuilt = re.sub(r"\{([a-z]+)[^}]*\}", lambda name: str(found[1][name[1]]), pattern)
        assert rebuilt == "/" + path


@pytest.mark.parametrize("pattern", ["/{y}-{m}-{d}", "/{a:path}.{b}.{c}", "/{a}-{n:int}-{b}-{c}"])
@pytest.mark.parametrize("piece", ["-", "-1", ".", "a", "/."])
def test_a_long_path_takes_no_long_time(pattern: str, piece: str) -> None:
    """`/{y}-{m}-{d}` and 8,000 dashes were a quarter of an hour of the event loop, for one request."""
    assert matched("/" + piece * 8000 + "/", pattern) is None


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/here", None), ("GET", "/there", 404), ("POST", "/here", 405), ("HEAD", "/there", 404)],
)
def test_what_is_said_before_there_is_a_connection(method: str, path: str, status: int | None) -> None:
    router = zcws.Router()
    decorate, handler = router.route("/here"), lambda ws: None
    assert decorate(handler) is handler
    response = router.process_request(None, zcws.Request(path, method=method))
    if status is None:
        assert response is None
    else:
        assert response.status_code == status
        assert response.headers.get("Allow") == ("GET" if status == 405 else None)


async def status_of(port: int, head: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return int(answer.split()[1])


def test_on_asyncio() -> None:
    router = zcws.Router()

    @router.route("/room/{name}/{number:int}")
    async def room(ws: zcws.WebSocket, name: str, number: int) -> None:
        await ws.send(f"{name} {number + 1}")

    @router.route("/café")
    async def cafe(ws: zcws.WebSocket) -> None:
        await ws.send("open")

    async def main() -> None:
        basic = zcws.basic_auth("rooms", ("ann", "secret"))
        async with zcws.serve(router, "127.0.0.1", 0, process_request=[zcws.health(), basic]) as server:
            port = server.sockets[0].getsockname()[1]
            uri = f"ws://127.0.0.1:{port}"
            authorization = {"Authorization": "Basic YW5uOnNlY3JldA=="}
            async with zcws.connect(f"{uri}/room/a%20b/6?x", additional_headers=authorization) as ws:
                assert await ws.recv() == "a b 7"
            async with zcws.connect(f"{uri}/café", additional_headers=authorization) as ws:
                assert await ws.recv() == "open"
            for path, headers, status in (("/nowhere", authorization, 404), ("/room/a/6", {}, 401)):
                with pytest.raises(zcws.HandshakeError) as refused:
                    await zcws.connect(uri + path, additional_headers=headers)
                assert refused.value.status == status
            lines = "Host: h\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\n\r\n"
            assert await status_of(port, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n") == 200
            assert await status_of(port, f"GET /room/a/6 HTTP/1.1\r\n{lines}") == 426
            assert await status_of(port, f"POST /room/a/6 HTTP/1.1\r\n{lines}") == 405

    asyncio.run(main())


def test_on_threads() -> None:
    router = zcws.Router()

    @router.route("/room/{name}")
    def room(ws: zcws.sync.WebSocket, name: str) -> None:
        ws.send(name)

    with zcws.sync.serve(router, "127.0.0.1", 0, process_request=zcws.health()) as server:
        with thread(server.serve_forever):
            uri = f"ws://127.0.0.1:{server.sock.getsockname()[1]}"
            with zcws.sync.connect(f"{uri}/room/x") as ws:
                assert ws.recv() == "x"
            for path, status in (("/room/", 404), ("/healthz", 200)):
                with pytest.raises(zcws.HandshakeError) as refused:
                    zcws.sync.connect(uri + path)
                assert refused.value.status == status
            server.shutdown()


async def handles(ws: Any, name: str = "") -> None: ...


class TestHandlersThatCannotBeCalled:
    @pytest.mark.parametrize(
        ("path", "handler", "said"),
        [
            (
                "/z/{a}",
                handles,
                "the handler of '/z/{a}' is called with the connection and a=...: handles does not fit",
            ),
            ("/z/{ws}", handles, "the handler of '/z/{ws}' .* multiple values for argument 'ws'"),
            ("/z", lambda ws, name: None, "the handler of '/z' is called with the connection: .* 'name'"),
            ("/z", None, "the handler of '/z' is a function that is called with the connection, not None"),
        ],
    )
    def test_at_a_route(self, path: str, handler: Any, said: str) -> None:
        router = zcws.Router()
        with pytest.raises(TypeError, match=f"^{said}"):
            router.add(path, handler)
        assert router.handlers == []

    def test_those_that_can(self) -> None:
        router = zcws.Router()
        router.add("/", handles)
        router.add("/{name}", handles)
        router.add("/{a}/{b:path}", lambda ws, **parameters: handles(ws))
        assert len(router.handlers) == 3

    def test_of_a_server(self) -> None:
        router = zcws.Router()
        for handler in (handles, lambda ws: handles(ws), router):
            check_handler(handler)
        router.add("/", handles)
        check_handler(router)
        router.add("/{name}", lambda ws, name: (yield))
        with pytest.raises(TypeError, match=r"is a coroutine function: .*<lambda> is a generator function$"):
            check_handler(router)
        with pytest.raises(TypeError, match=r"^the handler is called with the connection: .* does not fit"):
            check_handler(lambda ws, path: None)

    def test_of_a_blocking_server(self) -> None:
        router = zcws.Router()
        check_handler(lambda ws: None, is_blocking=True)
        check_handler(router, is_blocking=True)
        router.add("/", handles)
        with pytest.raises(
            TypeError, match=r"^the handler is a plain function, .*: handles is a coroutine function$"
        ):
            check_handler(router, is_blocking=True)
        with pytest.raises(
            TypeError, match=r"^the handler is a plain function: .*<lambda> is a generator function$"
        ):
            check_handler(lambda ws: (yield), is_blocking=True)


def test_what_is_shown_of_it() -> None:
    router = zcws.Router()
    assert repr(router) == "<Router of 0>"
    router.add("/a", lambda ws: None)
    router.add("/{b}", lambda ws, b: None)
    assert repr(router) == "<Router of 2>"
