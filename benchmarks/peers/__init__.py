"""The libraries that are measured: one small module each, with the best settings that the library has.

A module has any of these dictionaries, from the name of a row to the function that is measured:

    SERVE       async serve(port, settings)                          an echo server, until cancelled
    BROADCAST   async serve(port, settings)                          each message goes to everybody
    ECHO        echo(uri, message, depth, meter, settings)           a client that waits for its echoes
    FIREHOSE    firehose(uri, meter, settings)                       a client that only receives
    ASGI        async serve(port, settings)                          an echo behind uvicorn, until cancelled

A client that is no coroutine function is blocking: it is measured without an event loop. A name that ends in " frames"
(or stands in FRAMES) hands out frames as they lie in memory, the others messages that are checked and may be kept; the
two are compared with their like only.
"""

from __future__ import annotations

import importlib
import inspect
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

__all__ = ["LIBRARIES", "LIMITS", "Row", "Settings", "find", "load", "rows_of"]

#: Modules of this package, and the distributions that they measure; ours first.
LIBRARIES = {
    "zcws": "zcws",
    "picows": "picows",
    "websockets": "websockets",
    "aiohttp": "aiohttp",
    "uvicorn": "uvicorn",
    "websocket_client": "websocket-client",
    "raw": None,
}

#: Rows that are no libraries but limits: nobody wins or loses against them.
LIMITS = ("raw TCP",)

#: Rows that hand out frames and not messages.
FRAMES = ("picows", "zcws batches", "zcws callbacks", "zcws payloads")


@dataclass(frozen=True)
class Settings:
    """What all peers of a workload are told alike."""

    tls: ssl.SSLContext | None = None
    #: zlib's level; None is no compression. The window is always 15 bits, memLevel 8, contexts are kept.
    level: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of a table: who is measured, on which event loop."""

    name: str
    library: str
    loop: str

    @property
    def label(self) -> str:
        """What tables say."""
        return self.name if self.loop in ("", "blocking") else f"{self.name}, {self.loop}"

    @property
    def is_ours(self) -> bool:
        return self.library == "zcws"

    @property
    def is_limit(self) -> bool:
        return self.name in LIMITS

    @property
    def level(self) -> str:
        """What the row delivers: "frame" or "message"."""
        return "frame" if self.name.endswith(" frames") or self.name in FRAMES else "message"


def load(library: str) -> ModuleType:
    """The module; ImportError where its library is not installed."""
    return importlib.import_module(f"benchmarks.peers.{library}")


def find(library: str, role: str, name: str) -> Callable[..., Any]:
    """The function of a row."""
    function: Callable[..., Any] = getattr(load(library), role)[name]
    return function


def rows_of(role: str, loops: list[str], only: Callable[[str], bool] = lambda name: True) -> list[Row]:
    """Every row that there is for a role; blocking functions have one, coroutine functions one for each loop."""
    rows = []
    for library in LIBRARIES:
        try:
            functions = getattr(load(library), role, {})
        except ImportError:
            continue
        for name, function in functions.items():
            if only(name):
                rows += [Row(name, library, loop) for loop in _loops_of(function, loops)]
    return rows


def _loops_of(function: Callable[..., Any], loops: list[str]) -> list[str]:
    return loops if inspect.iscoroutinefunction(function) else ["blocking"]
