"""Several hooks as one, and the health endpoint."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

import zcws
from zcws.hooks import hooks_of, in_order

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
        ("HEAD", "/healthz", 200, b""),
        ("GET", "/ill", 503, b"not ready\n"),
        ("POST", "/healthz", None, b""),
        ("GET", "/", None, b""),
    ],
)
def test_health(method: str, path: str, status: int | None, body: bytes) -> None:
    ask = in_order(zcws.health(), zcws.health("/ill", check=lambda: 0))
    response = ask("connection", zcws.Request(path, method=method))
    assert (response and (response.status_code, response.body)) == (status and (status, body))
