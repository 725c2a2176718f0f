"""What `connect` and `serve` pass on to the event loop: names for the type checker, and for a check in the call itself.

What this file decides: which names those are. It refuses to know what they mean: racing.py knows those of TCP
connections, and an event loop that lacks another (uvloop, an older asyncio) says so itself. `host`, `ssl` and others
that are options of our own are not here.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Any, TypedDict

from zcws.callables import check_call, check_plain
from zcws.hints import check_names
from zcws.options import check_kind, checked_seconds

__all__ = [
    "ConnectionOptions",
    "ListeningOptions",
    "check_hosts",
    "check_others",
    "checked_look",
]


class ConnectionOptions(TypedDict, total=False):
    """Those of `loop.create_connection`. See asyncio."""

    family: int
    proto: int
    flags: int
    local_addr: tuple[str, int] | None
    happy_eyeballs_delay: float | None
    interleave: int | None
    all_errors: bool
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None


class ListeningOptions(TypedDict, total=False):
    """Those of `loop.create_server` and `loop.create_unix_server`. See asyncio."""

    sock: socket.socket | None
    backlog: int
    start_serving: bool
    family: int
    flags: int
    reuse_address: bool | None
    reuse_port: bool | None
    keep_alive: bool | None
    cleanup_socket: bool
    ssl_handshake_timeout: float | None
    ssl_shutdown_timeout: float | None


#: Names that mean nothing for a Unix socket, and names that mean something only for it.
_OF_TCP = {
    *("family", "proto", "flags", "local_addr", "happy_eyeballs_delay", "interleave", "all_errors"),
    *("reuse_address", "reuse_port", "keep_alive"),
}
_OF_UNIX = {"cleanup_socket"}
#: Names whose value is a number to the system, and what it counts or says.
_NUMBERS = {
    "family": "socket.AF_INET, AF_INET6 or AF_UNSPEC",
    "proto": "the number of a protocol",
    "flags": "flags of socket.getaddrinfo",
    "interleave": "a number of addresses",
    "backlog": "a number of connections that wait to be accepted",
}


def check_hosts(host: object) -> None:
    """`TypeError` for what is neither a host to listen at nor several of them."""
    is_one = isinstance(host, (str, bytes)) or not isinstance(host, Collection)
    for name in [host] if is_one else host:  # type: ignore[attr-defined]
        check_kind("host", name, str, "a str, or several of them, or None for all addresses")


def checked_look(on_frame: Any, on_message: Any) -> Any:
    """The one function of the two that is there, or None. `TypeError` for both at once, for what cannot be called with
    each frame or message, and for a coroutine function: nobody would await it."""
    if on_frame is not None and on_message is not None:
        raise TypeError("on_frame is shown the messages too: give that or on_message, not both")
    for name, look, shown in (("on_frame", on_frame, "the frame"), ("on_message", on_message, "the message")):
        if look is not None:
            check_call(name, look, "the connection", shown)
            check_plain(name, look, "called where bytes arrive, in no task")
    return on_message if on_frame is None else on_frame


def check_others(function: type, others: Any, kind: type, path: object) -> None:
    """`TypeError` for an option of `function` that is not in `kind`, or that means nothing with this `path`."""
    named: Any = vars(function)["__init__"].__kwdefaults__
    check_names(function.__name__, others, kind.__annotations__, named=named)
    for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
        checked_seconds(name, others.get(name), zero=False)
    # The loop would notice these at the `await`, in words of its own that do not name the option.
    checked_seconds("happy_eyeballs_delay", others.get("happy_eyeballs_delay"))
    local = others.get("local_addr")
    if local is not None and not (isinstance(local, (tuple, list)) and len(local) >= 2):
        raise TypeError(f"local_addr is a pair of host and port, or None, not {local!r}")
    for name, what in _NUMBERS.items():
        check_kind(name, others.get(name), int, what)
    for name in others:
        if name in (_OF_UNIX if path is None else _OF_TCP):
            raise TypeError(
                f"{name} {'needs' if path is None else 'means nothing with'} path=, a Unix socket"
            )
