"""What is passed on to the event loop."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from net import Place, echo, port_of, soon

import zcws
from zcws.aio.passing import ConnectionOptions, ListeningOptions


def test_names_are_those_of_asyncio() -> None:
    """An older asyncio lacks some, and none has those that are options of ours."""
    import asyncio

    ours = {"self", "protocol_factory", "host", "port", "path", "sock", "ssl", "server_hostname"}
    loop = asyncio.BaseEventLoop
    known = set(inspect.signature(loop.create_connection).parameters) - ours
    assert known <= set(ConnectionOptions.__annotations__)
    listening = {*inspect.signature(loop.create_server).parameters}
    if unix := getattr(asyncio, "SelectorEventLoop", None):
        listening |= {*inspect.signature(unix.create_unix_server).parameters}
    assert listening - (ours - {"sock"}) <= set(ListeningOptions.__annotations__)


def test_they_arrive(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo, backlog=5, start_serving=False, reuse_address=True) as server:
            assert not server.is_serving()
            await server.start_serving()
            async with place.connect(server, local_addr=("127.0.0.1", 0)) as ws:
                await ws.send("x")
                assert await soon(ws.recv()) == "x"
                assert ws.remote_address[1] == port_of(server)

    place.run(main())


@pytest.mark.parametrize(
    ("make", "option", "said"),
    [
        (zcws.connect, {"path": "/x", "local_addr": ("::1", 0)}, "local_addr means nothing with path="),
        (zcws.serve, {"path": "/x", "reuse_port": True}, "reuse_port means nothing with path="),
        (zcws.serve, {"cleanup_socket": True}, "cleanup_socket needs path="),
    ],
)
def test_what_means_nothing_for_a_unix_socket(make: Any, option: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said}, a Unix socket$"):
        make("ws://localhost/" if make is zcws.connect else echo, **option)


@pytest.mark.parametrize(
    ("make", "option", "said"),
    [
        (zcws.connect, {"local_addr": "x"}, "local_addr is a pair of host and port, or None, not 'x'"),
        (
            zcws.connect,
            {"local_addr": ("::1",)},
            r"local_addr is a pair of host and port, or None, not \('::1',\)",
        ),
        (zcws.connect, {"happy_eyeballs_delay": "x"}, "happy_eyeballs_delay is a number of seconds"),
        (zcws.connect, {"family": "x"}, "family is socket.AF_INET, AF_INET6 or AF_UNSPEC, not 'x'"),
        (zcws.connect, {"proto": "x"}, "proto is the number of a protocol, not 'x'"),
        (zcws.connect, {"flags": 1.5}, "flags is flags of socket.getaddrinfo, not 1.5"),
        (zcws.connect, {"interleave": "x"}, "interleave is a number of addresses, not 'x'"),
        (
            zcws.serve,
            {"backlog": "x"},
            "backlog is a number of connections that wait to be accepted, not 'x'",
        ),
    ],
)
def test_values_are_refused_by_the_call(make: Any, option: dict[str, Any], said: str) -> None:
    """The loop refused them at the `await`, in words that did not name the option."""
    with pytest.raises(TypeError, match=f"^{said}"):
        make("ws://localhost/" if make is zcws.connect else echo, **option)


def test_a_unix_socket_has_options_too(place: Place, socket_path: Path) -> None:
    async def main() -> None:
        async with zcws.unix_serve(echo, socket_path, backlog=5), zcws.unix_connect(socket_path) as ws:
            await ws.send("x")
            assert await soon(ws.recv()) == "x"

    place.run(main())


async def asynchronous(ws: zcws.WebSocket, frame: zcws.Frame) -> None: ...


@pytest.mark.parametrize("shown", ["frame", "message"])
@pytest.mark.parametrize(
    ("look", "said"),
    [
        (asynchronous, "is a plain function, called where bytes arrive, in no task: asynchronous is a"),
        (lambda ws: None, "is called with the connection and the {}: .*<lambda> does not fit"),
        (5, "is a function that is called with the connection and the {}, not 5"),
    ],
)
def test_functions_that_get_nothing(shown: str, look: Any, said: str) -> None:
    options = {f"on_{shown}": look}
    with pytest.raises(TypeError, match=f"^on_{shown} {said.format(shown)}"):
        zcws.serve(port=0, **options)
    with pytest.raises(TypeError, match=f"^on_{shown} {said.format(shown)}"):
        zcws.connect("ws://localhost/", **options)


def test_http2_is_a_yes_or_a_no() -> None:
    """ "no" counted as a yes."""
    with pytest.raises(TypeError, match=r"^http2 is True or False, not 'no'$"):
        zcws.serve(on_message=lambda ws, message: None, port=0, http2="no")
    with pytest.raises(TypeError, match=r"^http2 is True or False, not 'no'$"):
        zcws.connect("ws://localhost/", http2="no")


def test_only_one_of_them_is_shown_what_arrives() -> None:
    both: dict[str, Any] = {"on_frame": lambda ws, frame: None, "on_message": lambda ws, message: None}
    with pytest.raises(TypeError, match=r"give that or on_message, not both$"):
        zcws.serve(port=0, **both)
    with pytest.raises(TypeError, match=r"give that or on_message, not both$"):
        zcws.connect("ws://localhost/", **both)
