"""The functions that a program gives: what can be known about one before it is called, and what an awaitable means.

What this file decides: whether a function is of the kind that is wanted, so that a mistake is reported where it is made
and not in a log when the first client comes. It refuses to know what handlers and hooks are for. What cannot be known
in advance is accepted: the call will show it.

A coroutine is true in a condition, whatever it would return. So code that calls a function of the program first looks
whether the result has to be awaited; where nothing can await it, it counts as a no.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, TypeVar

__all__ = [
    "Chained",
    "abandon",
    "as_async_as",
    "check_call",
    "check_plain",
    "is_async",
    "is_generator",
    "name_of",
]

F = TypeVar("F", bound=Callable[..., Any])

#: The attribute of a plain function that is known to give awaitables.
_MARK = "_zcws_is_async"


def is_async(function: object) -> bool:
    """Whether a call of `function` certainly gives an awaitable."""
    return any(
        inspect.iscoroutinefunction(each) or getattr(each, _MARK, False) is True for each in _called(function)
    )


def as_async_as(asked: object, function: F) -> F:
    """`function`, which passes on what `asked` gives, and so is async where that is."""
    setattr(function, _MARK, is_async(asked))
    return function


def is_generator(function: object) -> bool:
    """Whether a call of `function` certainly gives a generator, which nobody can await."""
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in _called(function)
    )


def _called(function: object) -> list[object]:
    """Where a call of `function` arrives: in the function behind partials and methods, or in an object's class."""
    while isinstance(function, partial):
        function = function.func
    is_class = isinstance(function, type)  # a call of which makes an object
    return [function, function.__call__] if callable(function) and not is_class else [function]


def check_call(name: str, function: object, /, *given: str, **named: str) -> None:
    """`TypeError` unless `function` can be called.

    Args:
        name: the option, or whatever else the function is.
        given: its arguments, in words.
        named: its keyword arguments.
    """
    wanted = " and ".join([*given, *named.values()]) or "nothing"
    if not callable(function):
        raise TypeError(f"{name} is a function that is called with {wanted}, not {function!r}")
    if isinstance(function, type) and function.__module__ == "builtins":
        return  # PyPy counts the class among what `tuple` is called with
    try:
        signature = inspect.signature(function)
    except Exception:
        return  # written in C, or annotated with names that only a type checker sees
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        raise TypeError(
            f"{name} is called with {wanted}: {name_of(function)} does not fit, {error}"
        ) from None


def check_plain(name: str, function: object, why: str) -> None:
    """`TypeError` for a coroutine function where nobody awaits."""
    if is_async(function):
        raise TypeError(f"{name} is a plain function, {why}: {name_of(function)} is a coroutine function")


def name_of(function: object) -> str:
    """The name that a function has in the program."""
    return getattr(function, "__qualname__", None) or repr(function)


def abandon(said: object) -> None:
    """Closes what nobody is going to await: a coroutine that has not begun would warn about that."""
    if inspect.isawaitable(said):
        end = getattr(said, "close", None) or getattr(said, "cancel", None)
        if end is not None:
            end()


class Chained:
    """An awaitable of `then(await first)`, which is awaited as well if it has to be.

    Unlike a coroutine that awaits another, it leaves no coroutine behind when it is closed before it has begun.
    """

    __slots__ = ("_first", "_then")

    def __init__(self, first: Awaitable[Any], then: Callable[[Any], Any]) -> None:
        self._first = first
        self._then = then

    def __await__(self) -> Generator[Any, None, Any]:
        return self._run().__await__()

    async def _run(self) -> Any:
        said = self._then(await self._first)
        return await said if inspect.isawaitable(said) else said

    def close(self) -> None:
        """For `abandon`."""
        abandon(self._first)
