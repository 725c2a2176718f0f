from __future__ import annotations

import errno
import gc
import math
import os
import socket
import stat
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import raw
from net import free_port
from raw import echo, port_of

import zcws
import zcws.sync

from .conftest import Serving


def test_a_port_in_use(serving: Serving) -> None:
    with serving(echo) as server:
        with pytest.raises(OSError) as caught:
            zcws.sync.serve(echo, "127.0.0.1", port_of(server))
        assert caught.value.errno == errno.EADDRINUSE


def test_any_address_and_port() -> None:
    with zcws.sync.serve(echo, port=0) as server:
        assert server.sock.getsockname()[0] == "0.0.0.0"
    with zcws.sync.serve(echo, "127.0.0.1") as server, zcws.sync.serve(echo, "127.0.0.1") as other:
        assert port_of(server) != port_of(other)
    with pytest.raises(TypeError, match="host is a str"):
        zcws.sync.serve(echo, 5, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unix_serve"):
        zcws.sync.unix_serve(echo)


def test_ipv6(serving: Serving) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        server = zcws.sync.serve(echo, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    with server, raw.thread(server.serve_forever):
        with zcws.sync.connect(f"ws://[::1]:{port_of(server)}/") as ws:
            ws.send("six")
            assert ws.recv() == "six"
        server.shutdown()


class TestUnix:
    def test_echo(self, serving: Serving, socket_path: Path) -> None:
        with serving(echo, path=str(socket_path)):
            assert stat.S_ISSOCK(socket_path.stat().st_mode)
            with zcws.sync.unix_connect(str(socket_path)) as ws:
                ws.send("hello")
                assert ws.recv() == "hello"
        assert not socket_path.exists()

    def test_what_a_server_left_behind_is_no_obstacle(self, serving: Serving, socket_path: Path) -> None:
        path = str(socket_path)
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(path)
        with serving(echo, path=socket_path), zcws.sync.unix_connect(path):
            pass

    @pytest.mark.skipif(sys.platform != "linux", reason="only there are they abstract")
    def test_one_in_no_folder(self, serving: Serving) -> None:
        path = f"\0zcws.{os.getpid()}"
        with serving(echo, path=path), zcws.sync.unix_connect(path) as ws:
            ws.send("a")
            assert ws.recv() == "a"

    def test_a_file_of_somebody_is(self, socket_path: Path) -> None:
        socket_path.write_text("precious")
        with pytest.raises(OSError):
            zcws.sync.unix_serve(echo, str(socket_path))
        assert socket_path.read_text() == "precious"

    def test_a_relative_path_is_removed_wherever_the_program_is_by_then(
        self, serving: Serving, socket_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(socket_path.parent)
        with serving(echo, path=socket_path.name):
            assert socket_path.exists()
            monkeypatch.chdir(tmp_path)
        assert not socket_path.exists()

    def test_a_path_by_way_of_a_link(self, serving: Serving, socket_path: Path) -> None:
        """The system follows the link before it goes up."""
        inside = socket_path.parent / "a" / "b"
        inside.mkdir(parents=True)
        (socket_path.parent / "link").symlink_to(inside)
        with serving(echo, path=str(socket_path.parent / "link" / ".." / "socket")):
            assert (inside.parent / "socket").exists()
        assert not (inside.parent / "socket").exists()

    def test_a_server_that_took_the_path_over_keeps_it(self, serving: Serving, socket_path: Path) -> None:
        path = str(socket_path)
        with serving(echo, path=path) as old, serving(echo, path=path):
            old.shutdown()
            with zcws.sync.unix_connect(path) as ws:
                ws.send("hello")
                assert ws.recv() == "hello"


def test_a_place_that_is_not_there_is_named(socket_path: Path) -> None:
    path = str(socket_path / "folder" / "socket")
    with pytest.raises(OSError, match=r"no-such-name\.invalid"):
        zcws.sync.serve(echo, "no-such-name.invalid", 0)
    with pytest.raises(FileNotFoundError) as missing:
        zcws.sync.unix_serve(echo, path)
    assert missing.value.filename == path
    for call in (
        lambda: zcws.sync.unix_serve(echo, path + "x" * 100),
        lambda: zcws.sync.unix_connect(path + "x" * 100),
    ):
        with pytest.raises(OSError, match=rf"AF_UNIX path too long: '{path}xxx"):
            call()
    with pytest.raises(TypeError, match=r"^port is a whole number from 0 to 65535, not 'http'"):
        zcws.sync.serve(echo, "127.0.0.1", "http")  # type: ignore[arg-type]


def test_a_socket_that_does_not_listen_yet(serving: Serving) -> None:
    """Nobody could connect, and the log said so each second. asyncio makes it listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with serving(echo, sock=bound) as server:
            with zcws.sync.connect(f"ws://127.0.0.1:{port_of(server)}/") as ws:
                ws.send("a")
                assert ws.recv() == "a"


def test_a_socket_at_which_nobody_can_listen() -> None:
    """The server had opened sockets of its own by then, and left them open."""
    closed = socket.create_server(("127.0.0.1", 0))
    closed.close()
    one, other = socket.socketpair()
    with one, other, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for sock in (closed, one):
            with pytest.raises(OSError):
                zcws.sync.serve(echo, sock=sock)
        gc.collect()
    assert [str(each.message) for each in said] == []


def test_coroutine_functions_are_refused_where_they_are_given() -> None:
    async def asynchronous(*_: Any) -> Any: ...

    router = zcws.Router()
    router.add("/", asynchronous)
    checked = zcws.basic_auth("r", check_credentials=asynchronous)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (asynchronous, {}, "the handler is a plain function, .*asynchronous is a coroutine function"),
        (router, {}, "the handler is a plain function, .*asynchronous is a coroutine function"),
        (echo, {"process_request": asynchronous}, "process_request is a plain function"),
        (echo, {"process_request": [zcws.health(), checked]}, "process_request is a plain function"),
        (echo, {"select_subprotocol": asynchronous}, "select_subprotocol is a plain function"),
        (lambda ws, path: None, {}, "the handler is called with the connection: .* does not fit"),
    ]
    for handler, options, said in refused:
        with pytest.raises(TypeError, match=f"^{said}"):
            zcws.sync.serve(handler, "127.0.0.1", 0, **options)


def test_nothing_is_bound_for_nothing() -> None:
    """A server that was not made keeps no port."""
    with free_port() as port:
        for option in ({"origins": "https://a"}, {"max_size": "1"}, {"process_request": 5}):
            with pytest.raises(TypeError):
                zcws.sync.serve(echo, "127.0.0.1", port, **option)
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("value", [math.inf, 1e12])
def test_waits_without_an_end(serving: Serving, value: float) -> None:
    names = ("open_timeout", "close_timeout", "ping_interval", "ping_timeout", "write_timeout")
    options: dict[str, Any] = dict.fromkeys(names, value)
    options["compression"] = zcws.Deflate(idle_timeout=value)
    with serving(echo, **options) as server:
        with zcws.sync.connect(f"ws://127.0.0.1:{port_of(server)}/", **options) as ws:
            ws.send("x")
            assert ws.recv() == "x"
    assert ws.close_code == 1000
