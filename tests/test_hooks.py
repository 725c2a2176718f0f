"""Several hooks as one, the health endpoint, a password."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from functools import partial
from typing import Any

import pytest
from heads import request

import zcws
from zcws.acceptor import WebSocketAcceptor
from zcws.handshake import basic_authorization
from zcws.hooks import answer_of, basic_auth, hooks_of, in_order, refusal_of, settled_by

REQUEST = zcws.Request("/")


def answered(hook: Any) -> Any:
    said = hook("connection", REQUEST)
    return asyncio.run(awaited(said)) if inspect.isawaitable(said) else said


async def awaited(said: Any) -> Any:
    return await said


def hook(answer: Any, asked: list[Any], name: str) -> Any:
    def process_request(connection: object, request: zcws.Request) -> Any:
        assert (connection, request) == ("connection", REQUEST)
        asked.append(name)
        return answer

    return process_request


def slow(answer: Any, asked: list[Any], name: str) -> Any:
    async def process_request(connection: object, request: zcws.Request) -> Any:
        await asyncio.sleep(0)
        return hook(answer, asked, name)(connection, request)

    return process_request


@pytest.mark.parametrize("first", [hook, slow])
@pytest.mark.parametrize("second", [hook, slow])
@pytest.mark.parametrize("third", [hook, slow])
def test_hooks_are_asked_until_one_answers(first: Any, second: Any, third: Any) -> None:
    asked: list[str] = []
    response = zcws.Response(403)
    combined = in_order(
        first(None, asked, "a"), second(None, asked, "b"), third(response, asked, "c"), hook(1, asked, "d")
    )
    assert answered(combined) is response
    assert asked == ["a", "b", "c"]


@pytest.mark.parametrize("kind", [hook, slow])
def test_nobody_answers(kind: Any) -> None:
    assert answered(in_order(kind(None, [], ""), kind(None, [], ""))) is None


def test_plain_functions_make_no_coroutine() -> None:
    assert in_order(hook(None, [], "a"), hook(7, [], "b"))("connection", REQUEST) == 7


def test_the_hooks_of_a_server() -> None:
    router = zcws.Router()
    one: Any = hook(None, [], "one")
    assert hooks_of(None, print) is None
    assert hooks_of([], print) is None
    assert hooks_of(one, print) is one
    listed: list[Any] = [one]
    assert hooks_of(listed, print) is one
    assert hooks_of(None, router) == router.process_request
    combined = hooks_of(one, router)
    assert combined is not None
    assert combined("connection", REQUEST).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/healthz", 200, b"ok\n"),
        ("GET", "/healthz?deep=1", 200, b"ok\n"),
        ("HEAD", "/healthz", 200, b"ok\n"),  # which nobody sends: `Response.serialize`
        ("GET", "/ill", 503, b"not ready\n"),
        ("POST", "/healthz", None, b""),
        ("GET", "/", None, b""),
    ],
)
def test_health(method: str, path: str, status: int | None, body: bytes) -> None:
    ask = in_order(zcws.health(), zcws.health("/ill", check=lambda: 0))
    response = ask("connection", zcws.Request(path, method=method))
    assert (response and (response.status_code, response.body)) == (status and (status, body))


@pytest.mark.parametrize("well", [True, False])
def test_health_that_has_to_be_awaited(well: bool) -> None:
    async def check() -> bool:
        await asyncio.sleep(0)
        return well

    for ask in (zcws.health("/x", check=check), zcws.health("/x", check=lambda: check())):
        assert answered_for(ask, "/x").status_code == (200 if well else 503)
        assert answered_for(ask, "/y") is None


def answered_for(hook: Any, path: str) -> Any:
    said = hook("connection", zcws.Request(path))
    return asyncio.run(awaited(said)) if inspect.isawaitable(said) else said


def test_health_that_cannot_be_asked() -> None:
    for nowhere in (5, "healthz"):
        with pytest.raises(ValueError, match=r'path must be a str that begins with "/"'):
            zcws.health(nowhere)  # type: ignore[arg-type]
    for never in ("/café", "/a b", "/x?y", "/x#y", "/x\n"):
        with pytest.raises(
            ValueError, match=r"^no request has the path .*: it ends before a \? or #, and what"
        ):
            zcws.health(never)
    for wrong in (5, lambda server: True):
        with pytest.raises(TypeError, match=r"^check is .*called with nothing"):
            zcws.health(check=wrong)  # type: ignore[arg-type]


async def asynchronous(connection: object, request: zcws.Request) -> None: ...


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        (1, "process_request is a function, or several in a list, not 1"),
        (
            [hook(None, [], ""), 1],
            "process_request is a function that is called with the connection and the request, ",
        ),
        (
            lambda request: None,
            "process_request is called with the connection and the request: .* does not fit",
        ),
    ],
)
def test_what_is_no_hook(hooks: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said}"):
        hooks_of(hooks, print)


def test_hooks_that_nobody_awaits() -> None:
    plain: Any = hook(None, [], "")
    checks: list[Any] = [
        asynchronous,
        zcws.basic_auth("r", check_credentials=asynchronous),  # type: ignore[arg-type]
        zcws.health(check=partial(asynchronous, 1, 2)),  # type: ignore[arg-type]
    ]
    for wrong in checks:
        assert hooks_of([plain, wrong], print) is not None
        with pytest.raises(
            TypeError, match=r"^process_request is a plain function, .* is a coroutine function$"
        ):
            hooks_of([plain, wrong], print, is_blocking=True)
    assert (
        hooks_of([plain, zcws.health(), zcws.basic_auth("r", ("a", "b"))], print, is_blocking=True)
        is not None
    )


def test_answers() -> None:
    response = zcws.Response(200)
    assert answer_of(None, "process_request") is None
    assert answer_of(response, "process_request") is response
    with pytest.raises(
        TypeError, match=r"^process_response returned an object of type str where a Response was"
    ):
        answer_of("hello", "process_response")
    with (
        warnings.catch_warnings(),
        pytest.raises(TypeError, match=r"^process_request returned an awaitable where"),
    ):
        warnings.simplefilter("error")
        answer_of(in_order(asynchronous, asynchronous)("connection", REQUEST), "process_request")


def test_a_hook_refuses_or_says_nothing() -> None:
    response = zcws.Response(200)
    assert refusal_of(None) is None
    assert refusal_of(response) is response
    with pytest.raises(TypeError, match=r"^process_request returned an object of type str"):
        refusal_of("hello")
    with pytest.raises(ValueError, match=r"^process_request must not accept the connection; return None"):
        refusal_of(zcws.Response(101))
    with pytest.raises(ValueError, match="status 100, which is no final response"):
        refusal_of(zcws.Response(100))
    with pytest.raises(ValueError, match=r"^process_request put Transfer-Encoding on a response, whose body"):
        refusal_of(zcws.Response(200, headers={"transfer-encoding": "chunked"}, body=b"0\r\n\r\n"))


KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 1.3


def switching(**headers: str) -> zcws.Response:
    lines = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT, **headers}
    return zcws.Response(101, "Switching Protocols", lines)


def test_a_hook_changes_the_response() -> None:
    response, other = switching(), zcws.Response(403, body=b"no")
    assert settled_by(None, response, KEY) is response
    assert settled_by(other, response, KEY) is other
    assert settled_by(None, other, None) is other
    assert settled_by(switching(Server="mine"), response, KEY) == switching(Server="mine")
    with pytest.raises(TypeError, match=r"^process_response returned an object of type str"):
        settled_by("hello", response, KEY)
    with pytest.raises(ValueError, match="status 100, which is no final response"):
        settled_by(zcws.Response(100), response, KEY)
    other.headers["Transfer-Encoding"] = "chunked"
    with pytest.raises(
        ValueError, match=r"^process_response put Transfer-Encoding on a response, whose body"
    ):
        settled_by(None, other, None)


@pytest.mark.parametrize(
    ("answer", "key", "said"),
    [
        (switching(), None, "chose 101 for a request that is refused, with which nothing was agreed"),
        (
            zcws.Response(101),
            KEY,
            'chose a 101 that no client takes: the response has no "Upgrade: websocket"',
        ),
        (
            switching(**{"Sec-WebSocket-Accept": "x"}),
            KEY,
            "chose a 101 that no client takes: the Sec-WebSocket-Acc",
        ),
        (switching(**{"Content-Length": "0"}), KEY, "put Content-Length on the 101, which has no body"),
        (
            switching(**{"Transfer-Encoding": "chunked"}),
            KEY,
            "put Transfer-Encoding on the 101, which has no body",
        ),
    ],
)
def test_a_hook_chooses_a_101_that_opens_nothing(answer: zcws.Response, key: str | None, said: str) -> None:
    for response in (answer, zcws.Response(400)):
        with pytest.raises(ValueError, match=f"^process_response {said}"):
            settled_by(None if response is answer else answer, response, key)


@pytest.mark.parametrize("said", [[], ["permessage-deflate"], ["no-masking", "permessage-deflate; x"]])
def test_a_hook_names_other_extensions_than_were_agreed(said: list[str]) -> None:
    """RFC 6455 9.1: the client would send what nobody here reads, or refuse what is sent."""
    lines = [("Sec-WebSocket-Extensions", value) for value in said]
    answer = zcws.Response(101, headers=[*switching().headers.raw_items(), *lines])
    assert settled_by(answer, switching(), KEY, said) is answer
    for granted in ([], ["no-masking"], ["no-masking", "permessage-deflate"]):
        if granted != said:
            with pytest.raises(ValueError, match=r"^process_response changed the Sec-WebSocket-Extensions"):
                settled_by(answer, switching(), KEY, granted)


def test_a_hook_puts_a_body_on_the_101() -> None:
    response = switching()
    response.body = b"x"
    for said in (None, response):
        with pytest.raises(ValueError, match=r"^process_response put a body on the 101, behind which frames"):
            settled_by(said, response, KEY)


class TestBasicAuth:
    """RFC 7617; credentials are compared in constant time (test_handshake.py)."""

    def ask(self, check: Any, *changes: tuple[str, str | None]) -> zcws.Response | None:
        found = WebSocketAcceptor().read_request(request(*changes))
        assert isinstance(found, zcws.Request)
        self.asked = found
        answer = check(None, found)
        assert answer is None or isinstance(answer, zcws.Response)
        return answer

    @pytest.mark.parametrize(
        "options",
        [
            {"credentials": ("user", "p\xe4ss:word")},
            {"credentials": [("other", "one"), ("user", "p\xe4ss:word")]},
            {
                "check_credentials": lambda username, password: (
                    (username, password) == ("user", "p\xe4ss:word")
                )
            },
        ],
    )
    def test_right_and_wrong(self, options: dict[str, Any]) -> None:
        check = basic_auth("the realm", **options)
        assert self.ask(check, ("Authorization", basic_authorization("user", "p\xe4ss:word"))) is None
        for username, password in [
            ("user", "pass"),
            ("use", "p\xe4ss:word"),
            ("", ""),
            ("other", "p\xe4ss:word"),
        ]:
            answer = self.ask(check, ("Authorization", basic_authorization(username, password)))
            assert answer is not None
            assert answer.status_code == 401

    def test_from_an_iterator(self) -> None:
        check = basic_auth("the realm", iter([("other", "one"), ("user", "word")]))
        for _ in range(2):
            assert self.ask(check, ("Authorization", basic_authorization("user", "word"))) is None

    @pytest.mark.parametrize("value", [None, "", "Basic", "Basic !", "Bearer x"])
    def test_none(self, value: str | None) -> None:
        answer = self.ask(basic_auth("the realm", ("user", "word")), ("Authorization", value))
        assert answer is not None
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="the realm", charset="UTF-8"'
        assert answer.serialize()

    @pytest.mark.parametrize("said", [True, False, None, 0, ""])
    @pytest.mark.parametrize("is_async", [True, False])
    def test_a_function_that_has_to_be_awaited(self, said: Any, is_async: bool) -> None:
        async def coroutine(username: str, password: str) -> Any:
            await asyncio.sleep(0)
            return said

        check = basic_auth("r", check_credentials=coroutine if is_async else lambda *pair: coroutine(*pair))
        found = WebSocketAcceptor().read_request(
            request(("Authorization", basic_authorization("user", "word")))
        )
        assert isinstance(found, zcws.Request)

        async def ask() -> zcws.Response | None:
            pending = check(None, found)
            assert found.username is None
            answer = await pending
            assert answer is None or isinstance(answer, zcws.Response)
            return answer

        answer = asyncio.run(ask())
        if said is True:
            assert (answer, found.username) == (None, "user")
        else:
            assert answer is not None and (answer.status_code, found.username) == (401, None)

    @pytest.mark.parametrize("said", [1, "yes", object(), ["user"], (each for each in "user")])
    def test_what_is_true_and_no_answer(self, said: Any) -> None:
        """A future of another kind, a generator, a row of a data base: who means yes says so."""
        check = basic_auth("r", check_credentials=lambda username, password: said)
        found = WebSocketAcceptor().read_request(
            request(("Authorization", basic_authorization("user", "word")))
        )
        with pytest.raises(TypeError, match=f"an object of type {type(said).__name__}, not True or False$"):
            check(None, found)  # type: ignore[arg-type]
        assert found is not None and found.username is None

    @pytest.mark.parametrize(
        "credentials",
        [
            "ab",
            b"ab",
            ("a",),
            ("a", "b", "c"),
            [("a", "b"), 3],
            [("a",)],
            {"a": "b", "c": "d"},
            {"a", "b"},
            3,
        ],
    )
    def test_what_is_no_pair(self, credentials: Any) -> None:
        with pytest.raises(TypeError, match=r"^credentials are a pair of str, .* is no pair$"):
            basic_auth("r", credentials)

    def test_a_name_that_nobody_could_give(self) -> None:
        with pytest.raises(ValueError, match="must not hold a colon"):
            basic_auth("r", [("a", "b"), ("c:d", "e")])

    @pytest.mark.parametrize("credentials", [["ab", "cd"], [["ab", "cd"]], {("ab", "cd"): 1}])
    def test_pairs_in_other_clothes(self, credentials: Any) -> None:
        check = basic_auth("r", credentials)
        assert self.ask(check, ("Authorization", basic_authorization("ab", "cd"))) is None
        assert self.ask(check, ("Authorization", basic_authorization("ab", "ef"))) is not None

    def test_a_function_in_the_place_of_pairs(self) -> None:
        """It was said to be no pair, and not where a function goes."""
        with pytest.raises(TypeError, match=r"a function that checks them is given as check_credentials=$"):
            basic_auth("r", lambda username, password: True)  # type: ignore[arg-type]

    def test_a_function_that_cannot_be_asked(self) -> None:
        for wrong in (5, lambda username: True):
            with pytest.raises(
                TypeError, match=r"^check_credentials is .*called with the user name and the password"
            ):
                basic_auth("r", check_credentials=wrong)  # type: ignore[arg-type]

    def test_two_credentials_are_two_pairs(self) -> None:
        check = basic_auth("r", [("ab", "cd"), ("ef", "gh")])
        assert self.ask(check, ("Authorization", basic_authorization("ef", "gh"))) is None
        assert self.asked.username == "ef"

    def test_nobody_may(self) -> None:
        assert self.ask(basic_auth("r", []), ("Authorization", basic_authorization("", ""))) is not None

    @pytest.mark.parametrize(
        "options", [{}, {"credentials": ("a", "b"), "check_credentials": lambda username, password: True}]
    )
    def test_two_ways_to_say_it(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="either"):
            basic_auth("r", **options)

    @pytest.mark.parametrize("realm", ['"', "\\", "a\r\nb", "\xe4", None, 5])
    def test_realms(self, realm: Any) -> None:
        with pytest.raises(ValueError, match="realm"):
            basic_auth(realm, ("a", "b"))
