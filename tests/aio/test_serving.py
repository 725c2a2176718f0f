from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import math
import socket
from pathlib import Path
from typing import Any

import pytest
from net import Certificates, Place, echo, hang_up, port_of, soon

import zcws
import zcws.sync
from zcws.aio.engine import is_engine_on


def test_unix_sockets(place: Place, socket_path: Path) -> None:
    async def main() -> None:
        path = str(socket_path)
        async with zcws.unix_serve(echo, path), zcws.unix_connect(path) as ws:
            await ws.send("over a path")
            assert await soon(ws.recv()) == "over a path"
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                async with zcws.unix_connect(sock=sock) as ws:
                    await ws.send("over a socket")
                    assert await soon(ws.recv()) == "over a socket"

    place.run(main())


def test_one_object_is_one_block_at_a_time(place: Place) -> None:
    """The end of either block closed the second server, and the first went on."""

    async def main() -> None:
        serving = zcws.serve(echo, "127.0.0.1", 0)
        async with serving as server:
            with pytest.raises(RuntimeError, match="in use"):
                await serving.__aenter__()
        assert not server.is_serving()
        async with serving as server:
            taken = zcws.serve(echo, "127.0.0.1", port_of(server))
            for _ in range(2):
                with pytest.raises(OSError):
                    await taken.__aenter__()

    place.run(main())


def test_a_place_that_is_not_there_is_named(place: Place, socket_path: Path) -> None:
    path = socket_path / "folder" / "socket"

    async def main() -> None:
        for host in ("no-such-name.invalid", ["127.0.0.1", "no-such-name.invalid"]):
            with pytest.raises(socket.gaierror, match=r"no-such-name\.invalid$"):
                await zcws.serve(echo, host, 0)
        with pytest.raises(FileNotFoundError) as missing:
            await zcws.unix_serve(echo, path)
        assert str(path) in str(missing.value)
        # CPython's own has no errno, and the text was "[Errno None] None" with the path behind it.
        for make in (zcws.unix_serve(echo, path / ("x" * 100)), zcws.unix_connect(path / ("x" * 100))):
            with pytest.raises(OSError, match=rf"^\[Errno \d+\] \w.*: '{path}/xxx") as long:
                await make
            # uvloop finds no such file.
            assert long.value.errno in (errno.ENAMETOOLONG, errno.ENOENT)

    place.run(main())


@pytest.mark.parametrize("module", [zcws, zcws.sync])
def test_one_place_and_no_other(module: Any) -> None:
    """That two of them are refused, whichever they are: tests/test_options.py."""
    two = "are different places to listen at"
    with socket.socket() as sock, pytest.raises(ValueError, match=f"^sock and path {two}"):
        module.serve(echo, sock=sock, path="s")
    with pytest.raises(ValueError, match=f"^path and host and port {two}"):
        module.serve(echo, path="s", port=0)
    for call in (lambda: module.unix_serve(echo), lambda: module.unix_connect(None)):
        with pytest.raises(TypeError, match="needs the path of a Unix socket, or sock="):
            call()


@pytest.mark.parametrize("module", [zcws, zcws.sync])
def test_a_socket_that_takes_no_connections(module: Any) -> None:
    """`zcws.sync` took it, and logged once a second that it could not."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match=r"^sock is a socket of the type SOCK_STREAM, not <socket"):
            module.serve(echo, sock=sock)


def test_existing_sockets(place: Place) -> None:
    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        async with zcws.serve(echo, sock=listening) as server:
            own = socket.create_connection(("127.0.0.1", port_of(server)))
            async with zcws.connect("ws://elsewhere.example/", sock=own) as ws:
                await ws.send("x")
                assert await soon(ws.recv()) == "x"

    place.run(main())


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")
def test_reuse_port(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo, reuse_port=True) as first:
            async with zcws.serve(echo, "127.0.0.1", port_of(first), reuse_port=True) as second:
                assert port_of(first) == port_of(second)

    place.run(main())


def test_a_port_in_use(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo) as server:
            with pytest.raises(OSError):
                await zcws.serve(echo, "127.0.0.1", port_of(server))

    place.run(main())


def test_start_serving_later(place: Place) -> None:
    async def main() -> None:
        server = await place.serve(echo, start_serving=False)
        assert not server.is_serving()
        await server.start_serving()
        assert server.is_serving()
        server.close()
        await soon(server.wait_closed())

    place.run(main())


def test_callbacks_need_no_handler_and_one_of_both_is_needed() -> None:
    with pytest.raises((TypeError, ValueError)):
        zcws.serve(None, "127.0.0.1", 0)


class TestHandlersThatAreNone:
    @pytest.mark.parametrize(
        ("handler", "said"),
        [
            (print, None),
            (5, "the handler is a function that is called with the connection, not 5"),
            (lambda ws: print(ws) and None, None),
            (lambda ws: (yield), "the handler is a coroutine function: .*<lambda> is a generator function"),
            (lambda ws, path: None, "the handler is called with the connection: .*<lambda> does not fit"),
        ],
    )
    def test_where_it_is_given(self, handler: Any, said: str | None) -> None:
        if said is None:
            zcws.serve(handler, port=0)
        else:
            with pytest.raises(TypeError, match=f"^{said}"):
                zcws.serve(handler, port=0)

    def test_where_it_is_called(self, place: Place, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            async with place.serve(lambda ws: len("no coroutine")) as server:
                ws = await place.connect(server)
                await soon(ws.wait_closed())
                assert ws.close_code == 1011

        place.run(main())
        assert "must return an awaitable" in caplog.text

    def test_those_that_are_some(self, place: Place) -> None:
        class Handler:
            async def __call__(self, ws: zcws.WebSocket) -> None:
                await echo(ws)

        async def more(ws: zcws.WebSocket, option: str) -> None:
            await echo(ws)

        async def main() -> None:
            for handler in (Handler(), functools.partial(more, option="x"), lambda ws: echo(ws)):
                async with place.serve(handler) as server, place.connect(server) as ws:
                    await ws.send("x")
                    assert await soon(ws.recv()) == "x"

        place.run(main())

    def test_a_response_hook(self) -> None:
        with pytest.raises(
            TypeError, match=r"^process_response is called with the connection and the request and the"
        ):
            zcws.serve(echo, port=0, process_response=lambda request, response: None)  # type: ignore[arg-type, misc]


def test_waits_without_an_end(place: Place) -> None:
    options = dict.fromkeys(
        ("open_timeout", "close_timeout", "ping_interval", "ping_timeout", "write_timeout")
    )

    async def main() -> None:
        for value in (math.inf, 1e12, None):
            given = dict.fromkeys(options, value)
            async with place.serve(echo, **given) as server, place.connect(server, **given) as ws:
                await ws.send("x")
                assert await soon(ws.recv()) == "x"

    place.run(main())


def test_a_peer_that_never_speaks_tls_has_open_timeout(place: Place, certificates: Certificates) -> None:
    """It had the minute that the event loop gives."""

    async def main() -> None:
        async with place.serve(echo, ssl=certificates.server, open_timeout=0.05) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            with contextlib.suppress(ConnectionError):
                assert await soon(reader.read()) == b""
            await hang_up(writer)

    place.run(main())


def test_an_address_that_is_in_use_after_all(place: Place) -> None:
    """Bound by two, and somebody else was the first to listen there. Nothing of ours stays bound."""
    if place.loop == "uvloop" and not is_engine_on():
        pytest.skip("uvloop does not say that listen(2) has failed")
    with socket.socket() as theirs, socket.socket() as ours:
        for sock in (theirs, ours):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        theirs.bind(("127.0.0.1", 0))
        address = theirs.getsockname()
        ours.bind(address)
        theirs.listen()

        async def main() -> None:
            with pytest.raises(OSError, match=r"(?i)in use") as caught:  # which holds what it came through
                await zcws.serve(echo, sock=ours)
            ours.close()
            theirs.close()
            with socket.socket() as another:
                another.bind(address)
            del caught

        place.run(main())


def test_a_serve_that_nobody_awaits(tmp_path: Path) -> None:
    for waiting in (zcws.serve(echo, "127.0.0.1", 0), zcws.unix_serve(echo, tmp_path / "s")):
        with pytest.raises(
            AttributeError, match=r"has no 'serve_forever': write .* `server = await zcws\.serve"
        ):
            waiting.serve_forever  # type: ignore[attr-defined]  # noqa: B018
        assert not hasattr(waiting, "close")
