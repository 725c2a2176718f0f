"""What can be known of a function before it is called."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator
from functools import partial, partialmethod
from typing import Any

import pytest

from zcws.callables import (
    Chained,
    abandon,
    as_async_as,
    check_call,
    check_plain,
    is_async,
    is_generator,
    name_of,
)


async def coroutine(ws: Any, more: Any = None) -> None: ...


async def stream(ws: Any) -> AsyncIterator[int]:
    yield 1


def generator(ws: Any) -> Iterator[int]:
    yield 1


def plain(ws: Any, more: Any = None) -> None:
    print(ws)


def passes_on(ws: Any) -> Any:
    return coroutine(ws)


class Async:
    async def __call__(self, ws: Any) -> None: ...

    async def method(self, ws: Any) -> None: ...

    part = partialmethod(method)


class Plain:
    def __call__(self, ws: Any) -> None: ...

    def method(self, ws: Any) -> None: ...


class Generators:
    def __call__(self, ws: Any) -> Iterator[int]:
        yield 1


ASYNC = [
    coroutine,
    partial(coroutine, more=1),
    partial(partial(coroutine), more=1),
    Async(),
    partial(Async()),
    Async().method,
    Async().part,
    as_async_as(coroutine, lambda ws: coroutine(ws)),
]
GENERATORS = [generator, stream, partial(generator), partial(stream), Generators()]
UNKNOWN = [
    plain,
    passes_on,
    Plain(),
    Plain().method,
    print,
    len,
    Async,
    5,
    as_async_as(plain, lambda ws: coroutine(ws)),
]


@pytest.mark.parametrize("function", ASYNC)
def test_async(function: Any) -> None:
    assert is_async(function)
    assert not is_generator(function)
    with pytest.raises(
        TypeError, match=r"^the hook is a plain function, at work: .* is a coroutine function$"
    ):
        check_plain("the hook", function, "at work")


@pytest.mark.parametrize("function", GENERATORS)
def test_generators(function: Any) -> None:
    assert is_generator(function)
    assert not is_async(function)
    check_plain("the hook", function, "at work")


@pytest.mark.parametrize("function", UNKNOWN)
def test_what_cannot_be_known(function: Any) -> None:
    assert not is_generator(function)
    assert not is_async(function)


def test_calls_that_fit() -> None:
    check_call("it", plain, "the connection")
    check_call("it", plain, "the connection", "more")
    check_call("it", plain, "the connection", more="more=...")
    check_call("it", lambda name: name, name="name=...")
    check_call("it", Plain().method, "the connection")
    check_call("it", dict.fromkeys, "the connection")
    check_call("it", type, "nobody knows how many")


def test_annotations_that_only_a_type_checker_understands() -> None:
    class Hidden:
        @property
        def __signature__(self) -> object:
            raise NameError("SSLContext")

        def __call__(self) -> None: ...

    check_call("it", Hidden(), "the connection")


@pytest.mark.parametrize(
    ("function", "given", "named", "said"),
    [
        (5, ("a", "b"), {}, "it is a function that is called with a and b, not 5"),
        (lambda: None, ("a",), {}, "it is called with a: .*<lambda> does not fit, too many positional"),
        (lambda a, b: None, ("a",), {}, "it is called with a: .*<lambda> does not fit, missing a required"),
        (lambda a: None, (), {}, "it is called with nothing: .*does not fit, missing"),
        (lambda a: None, ("a",), {"b": "b=..."}, "it is called with a and b=...: .*<lambda> does not fit"),
    ],
)
def test_calls_that_do_not_fit(function: Any, given: Any, named: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said}"):
        check_call("it", function, *given, **named)


def test_names() -> None:
    assert name_of(Async().method) == "Async.method"
    assert name_of(partial(plain)).startswith("functools.partial(<function plain")


class TestAwaitables:
    def test_what_comes_of_another(self) -> None:
        async def main() -> None:
            async def later(value: int) -> int:
                await asyncio.sleep(0)
                return value

            assert await Chained(later(1), lambda value: value + 1) == 2
            assert await Chained(later(1), lambda value: later(value + 2)) == 3

        asyncio.run(main())

    def test_nobody_waits(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            abandon(coroutine(None))
            abandon(Chained(Chained(coroutine(None), lambda _: None), lambda _: None))
            abandon(None)
            abandon(open)  # what has a close() need not be an awaitable

    def test_a_future_is_cancelled(self) -> None:
        async def main() -> None:
            future = asyncio.get_running_loop().create_future()
            abandon(Chained(future, lambda _: None))
            assert future.cancelled()

        asyncio.run(main())

    def test_what_cannot_be_ended(self) -> None:
        class Bare:
            def __await__(self) -> Iterator[None]:
                yield

        abandon(Bare())
