"""The race between a host's addresses (RFC 8305): who is tried when, and that no socket is left behind."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import errno
import gc
import re
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from net import Place, free_port, hang_up, soon, until
from raw import Names, silent

import zcws
from zcws.aio.racing import race
from zcws.failures import said

linux = pytest.mark.skipif(sys.platform != "linux", reason="other kernels answer where the backlog is full")


@pytest.fixture
def listening() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def resolve(monkeypatch: pytest.MonkeyPatch, *places: tuple[str, int]) -> None:
    """Every name has these addresses from now on."""
    monkeypatch.setattr("zcws.aio.racing._resolved", Names(*places).on_loop)


async def raced(host: str = "name.example", port: int = 1, **options: Any) -> Any:
    """The address of whoever has won."""
    with await soon(race(asyncio.get_running_loop(), host, port, **options)) as sock:
        assert not sock.getblocking()
        return sock.getpeername()


class TestWhoWins:
    def test_a_name(self, anyloop: Place, listening: socket.socket) -> None:
        place = listening.getsockname()
        assert anyloop.run(raced("localhost", place[1])) == place

    @pytest.mark.parametrize("delay", [0, 0.01, 1000, None])
    def test_one_refuses(
        self, anyloop: Place, monkeypatch: pytest.MonkeyPatch, listening: socket.socket, delay: float | None
    ) -> None:
        """The next is tried at once."""
        with free_port() as nobody:
            resolve(monkeypatch, ("127.0.0.1", nobody), listening.getsockname())
            assert anyloop.run(raced(happy_eyeballs_delay=delay)) == listening.getsockname()

    @linux
    @pytest.mark.parametrize("delay", [0, 0.01])
    def test_one_does_not_answer(
        self, anyloop: Place, monkeypatch: pytest.MonkeyPatch, listening: socket.socket, delay: float
    ) -> None:
        with silent() as nobody:
            resolve(monkeypatch, nobody, listening.getsockname())
            assert anyloop.run(raced(happy_eyeballs_delay=delay)) == listening.getsockname()

    @linux
    def test_one_after_the_other(
        self, anyloop: Place, monkeypatch: pytest.MonkeyPatch, listening: socket.socket
    ) -> None:
        """Without a delay the second is never asked."""

        async def main() -> None:
            with pytest.raises(TimeoutError, match="open_timeout"):
                await zcws.connect("ws://name.example/", happy_eyeballs_delay=None, open_timeout=0.1)

        with silent() as nobody:
            resolve(monkeypatch, nobody, listening.getsockname())
            anyloop.run(main())
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()

    @pytest.mark.parametrize(
        ("options", "order"),
        [
            ({}, [3, 1, 4, 2]),
            ({"interleave": 2}, [3, 4, 1, 2]),
            ({"interleave": 0}, [3, 4, 1, 2]),
            ({"happy_eyeballs_delay": None}, [3, 4, 1, 2]),
            ({"happy_eyeballs_delay": None, "interleave": 1}, [3, 1, 4, 2]),
        ],
    )
    def test_the_order(
        self, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], order: list[int]
    ) -> None:
        """As asyncio has it."""
        places = [("::1", 3), ("::1", 4), ("127.0.0.1", 1), ("127.0.0.1", 2)]
        resolve(monkeypatch, *places)
        seen: list[int] = []

        class Loop(asyncio.SelectorEventLoop):
            async def sock_connect(self, sock: socket.socket, address: Any) -> None:
                seen.append(address[1])
                raise ConnectionRefusedError(errno.ECONNREFUSED, "no")

        loop = Loop()
        try:
            with pytest.raises(ConnectionRefusedError):
                loop.run_until_complete(race(loop, "name.example", 1, **options))
        finally:
            loop.close()
        assert seen == order


class TestNobodyWins:
    @pytest.mark.parametrize("delay", [0.25, None])
    def test_all_refuse(self, anyloop: Place, monkeypatch: pytest.MonkeyPatch, delay: float | None) -> None:
        """uvloop did not say which."""
        with free_port() as one, free_port() as other:
            resolve(monkeypatch, ("127.0.0.1", one), ("127.0.0.1", other))
            with pytest.raises(ConnectionRefusedError) as caught:
                anyloop.run(raced(happy_eyeballs_delay=delay))
        refused = said(errno.ECONNREFUSED)
        assert caught.value.errno == errno.ECONNREFUSED
        assert (
            caught.value.strerror
            == f"cannot connect to 127.0.0.1:{one}: {refused}; 127.0.0.1:{other}: {refused}"
        )

    def test_all_errors(self, anyloop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before CPython 3.11 there are no groups of them."""
        with free_port() as one, free_port() as other:
            resolve(monkeypatch, ("127.0.0.1", one), ("127.0.0.1", other))
            with pytest.raises(Exception, match="cannot connect to ") as caught:
                anyloop.run(raced(all_errors=True))
        if sys.version_info < (3, 11):
            assert isinstance(caught.value, ConnectionRefusedError)
        else:
            assert isinstance(caught.value, builtins.ExceptionGroup)
            assert [type(each) for each in caught.value.exceptions] == [ConnectionRefusedError] * 2

    def test_a_name_that_nobody_knows(self, anyloop: Place) -> None:
        with pytest.raises(socket.gaierror, match=r": nowhere\.invalid$"):
            anyloop.run(raced("nowhere.invalid"))
        with pytest.raises(socket.gaierror, match=r": nowhere\.invalid$"):
            anyloop.run(raced("127.0.0.1", local_addr=("nowhere.invalid", 0)))
        with pytest.raises(socket.gaierror, match=r": 127\.0\.0\.1$"):
            anyloop.run(raced("127.0.0.1", family=socket.AF_INET6))

    @pytest.mark.parametrize("all_errors", [False, True])
    def test_a_resolver_that_finds_nothing(self, all_errors: bool) -> None:
        """It was an IndexError, which no loop that connects again knows."""

        async def main() -> None:
            async def nothing(*_: Any, **__: Any) -> list[Any]:
                return []

            loop: Any = asyncio.get_running_loop()
            loop.getaddrinfo = nothing
            with pytest.raises(socket.gaierror, match=r"no address was found: somewhere$"):
                await race(loop, "somewhere", 1, all_errors=all_errors)

        asyncio.run(main())

    def test_a_family_that_the_system_does_not_have(
        self, anyloop: Place, monkeypatch: pytest.MonkeyPatch, listening: socket.socket
    ) -> None:
        names = Names(listening.getsockname())("name.example", 1)
        unknown = [(12345, *names[0][1:])]

        async def resolved(*_: object) -> Any:
            return unknown + names

        monkeypatch.setattr("zcws.aio.racing._resolved", resolved)
        assert anyloop.run(raced()) == listening.getsockname()
        names.clear()
        with pytest.raises(OSError) as caught:
            anyloop.run(raced())
        assert caught.value.errno == errno.EAFNOSUPPORT

    def test_what_is_no_failure_of_an_address(self, listening: socket.socket) -> None:
        """It is raised as it is."""

        class Loop(asyncio.SelectorEventLoop):
            async def sock_connect(self, sock: socket.socket, address: Any) -> None:
                raise MemoryError

        loop = Loop()
        try:
            for host in ("localhost", "127.0.0.1"):
                with pytest.raises(MemoryError):
                    loop.run_until_complete(race(loop, host, 1))
        finally:
            loop.close()


class TestFromWhere:
    def test_ours(self, anyloop: Place, listening: socket.socket) -> None:
        async def main() -> None:
            port = listening.getsockname()[1]
            loop = asyncio.get_running_loop()
            with await race(loop, "localhost", port, local_addr=("127.0.0.1", 0)) as sock:
                assert sock.getsockname()[0] == "127.0.0.1"

        anyloop.run(main())

    @pytest.mark.parametrize("source", ["192.0.2.1", "::1"])  # RFC 5737: nobody's; another family's
    def test_nobodys(self, anyloop: Place, source: str) -> None:
        there = re.escape(source if source != "::1" else "[::1]")
        with pytest.raises(OSError, match=rf"cannot connect from {there} to 127\.0\.0\.1:1: ") as caught:
            anyloop.run(raced("127.0.0.1", local_addr=(source, 0)))
        assert caught.value.errno == errno.EADDRNOTAVAIL


class Peers:
    """A server that says nothing, and counts."""

    def __init__(self) -> None:
        self.opened: list[Any] = []
        self.closed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(writer.get_extra_info("peername"))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        self.closed += 1

    async def left(self, port: int, count: int) -> None:
        """Until so many connections are open. One more comes after them, so that none is still to be accepted."""
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        last = writer.get_extra_info("sockname")
        await until(lambda: last in self.opened and len(self.opened) - self.closed == count + 1)
        await hang_up(writer)


class TestNothingIsLeft:
    """While garbage is not collected: sockets that nobody has closed stay open."""

    @pytest.fixture(autouse=True)
    def uncollected(self) -> Iterator[None]:
        gc.disable()
        yield
        gc.enable()

    def test_of_the_losers(self, anyloop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        async def main() -> None:
            peers = Peers()
            async with anyloop.listen(peers.serve) as port:
                resolve(monkeypatch, *[("127.0.0.1", port)] * 3)
                loop = asyncio.get_running_loop()
                with await soon(race(loop, "name.example", 1, happy_eyeballs_delay=0)):
                    await peers.left(port, 1)

        anyloop.run(main())

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_of_one_that_is_cancelled(self, anyloop: Place, host: str) -> None:
        """At any moment. asyncio's own race forgot its winner's socket, in one turn out of five."""

        async def connect(port: int) -> None:
            await zcws.connect(f"ws://{host}:{port}/", proxy=None)

        async def main() -> None:
            peers = Peers()
            async with anyloop.listen(peers.serve) as port:
                for turns in list(range(25)) * 3:
                    connecting = asyncio.ensure_future(connect(port))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    connecting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await connecting
                await peers.left(port, 0)

        anyloop.run(main())
