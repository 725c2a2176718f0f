"""Ways to a server on asyncio: straight, Unix sockets, and real proxies (proxies.py)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import proxies
import pytest
from net import Certificates, Place, echo, free_port, port_of, soon, until
from proxies import CREDENTIALS, KINDS, SECRET, USER_INFO
from raw import Names, crowded, silent

import zcws
from zcws.aio.reach import reach
from zcws.failures import said
from zcws.route import Route
from zcws.uri import parse_uri


async def talk(place: Place, server: zcws.Server, **options: Any) -> None:
    """One message there and back, small and large."""
    async with place.connect(server, **options) as ws:
        for message in ("hello", bytes(300_000)):
            sending = asyncio.ensure_future(ws.send(message))
            assert await soon(ws.recv()) == message
            await sending


class TestProxies:
    @pytest.mark.parametrize(("kind", "scheme"), KINDS)
    def test_through(self, anyplace: Place, kind: str, scheme: str) -> None:
        async def main() -> None:
            async with anyplace.serve(echo) as server:
                await talk(anyplace, server, proxy=proxy.url(scheme))
                assert proxy.asked == [("127.0.0.1", port_of(server))]

        with proxies.running(kind) as proxy:
            anyplace.run(main())

    @pytest.mark.parametrize("kind", ["http", "socks5"])
    def test_credentials(self, place: Place, kind: str) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                await talk(place, server, proxy=proxy.url(kind, USER_INFO))
                with pytest.raises(zcws.ProxyError) as caught:
                    await place.connect(server, proxy=proxy.url(kind, f"other:{SECRET}"))
                assert SECRET not in str(caught.value) and caught.value.__cause__ is None
                # What python-socks quotes is not ours.
                assert kind == "http" or caught.value.__suppress_context__
                assert (caught.value.status == 407) == (kind == "http")
                with pytest.raises(zcws.ProxyError):
                    await place.connect(server, proxy=proxy.url(kind))

        with proxies.running(kind, credentials=CREDENTIALS) as proxy:
            place.run(main())

    @pytest.mark.parametrize(
        ("kind", "scheme"), [("http", "http"), ("socks5", "socks5h"), ("socks4", "socks4a")]
    )
    def test_the_proxy_resolves_the_name(self, anyloop: Place, kind: str, scheme: str) -> None:
        async def main() -> None:
            async with anyloop.serve(echo) as server:
                uri = f"ws://nowhere.example:{port_of(server)}/"
                async with zcws.connect(uri, proxy=proxy.url(scheme)) as ws:
                    assert ws.state is zcws.State.OPEN
                assert proxy.asked == [("nowhere.example", port_of(server))]

        with proxies.running(kind) as proxy:
            anyloop.run(main())

    def test_connect_tells_the_proxy_nothing_of_the_server(self, anyloop: Place) -> None:
        """And the server nothing of the proxy."""
        seen: list[zcws.Request] = []

        def look(handshake: Any, asked: zcws.Request) -> None:
            seen.append(asked)

        async def main() -> None:
            async with anyloop.serve(echo, process_request=look) as server:
                options = {
                    "additional_headers": {"Cookie": SECRET},
                    "bearer": SECRET,
                    "user_agent_header": "me",
                }
                await talk(anyloop, server, proxy=proxy.url("http", USER_INFO), **options)

        with proxies.running(credentials=CREDENTIALS) as proxy:
            anyloop.run(main())
        (head,) = proxy.heads
        assert SECRET.encode() not in head and b"\r\nUser-Agent: me\r\n" in head
        assert "Proxy-Authorization" not in seen[0].headers

    def test_by_environment(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                monkeypatch.setenv("ws_proxy", proxy.url("http"))
                monkeypatch.setenv("no_proxy", "other.example")
                await talk(place, server)
                assert len(proxy.asked) == 1
                await talk(place, server, proxy=None)
                monkeypatch.setenv("no_proxy", "127.0.0.1")
                await talk(place, server)
                assert len(proxy.asked) == 1

        with proxies.running() as proxy:
            place.run(main())

    @pytest.mark.parametrize(
        ("answer", "status", "reason"),
        [
            (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403, "status 403"),
            (b"", None, "closed the connection before it answered CONNECT"),
            (
                b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
                None,
                "bytes behind its answer",
            ),
            (b"I am no proxy\r\n", None, "did not answer with HTTP; it began with b'I am no proxy"),
        ],
    )
    def test_refused(self, anyplace: Place, answer: bytes, status: int | None, reason: str) -> None:
        async def main() -> None:
            with pytest.raises(zcws.ProxyError, match=reason) as caught:
                await anyplace.connect(1, proxy=proxy.url("http", USER_INFO))
            assert caught.value.status == status and SECRET not in str(caught.value)

        with proxies.running(answer=answer) as proxy:
            anyplace.run(main())

    @pytest.mark.parametrize(("code", "is_temporary"), [(5, True), (2, False)])
    def test_refused_by_socks(self, anyloop: Place, code: int, is_temporary: bool) -> None:
        async def main() -> None:
            with pytest.raises(zcws.ProxyError, match=r"socks5h://127\.0\.0\.1") as caught:
                await anyloop.connect(1, proxy=proxy.url("socks5h"))
            assert caught.value.is_temporary is is_temporary

        with proxies.running("socks5", answer=code) as proxy:
            anyloop.run(main())

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_no_proxy_there(self, anyloop: Place, scheme: str) -> None:
        async def main() -> None:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                address = f"{scheme}://u:5ecret@127.0.0.1:{listening.getsockname()[1]}"
            with pytest.raises(OSError, match="cannot connect to the proxy") as caught:
                await anyloop.connect(1, proxy=address)
            assert SECRET not in str(caught.value)

        anyloop.run(main())

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_to_a_proxy_from_where_we_are_not(self, anyloop: Place, scheme: str) -> None:
        """It was the proxy alone that was named."""

        async def main() -> None:
            with pytest.raises(OSError, match=r"cannot connect from 192\.0\.2\.1 to the proxy ") as caught:
                await anyloop.connect(1, proxy=f"{scheme}://127.0.0.1:1", local_addr=("192.0.2.1", 0))
            assert caught.value.errno == errno.EADDRNOTAVAIL  # RFC 5737: nobody's

        anyloop.run(main())

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_a_proxy_that_says_nothing(self, anyplace: Place, scheme: str) -> None:
        """`open_timeout` is for all of it, and leaves nothing behind."""

        async def main() -> None:
            async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with contextlib.suppress(ConnectionError):
                    await reader.read()

            plain = Place(anyplace.loop, None)
            async with plain.listen(silent) as port:
                with pytest.raises(
                    TimeoutError, match=rf"through the proxy {scheme}://.* in open_timeout=0\.05"
                ):
                    await anyplace.connect(1, proxy=f"{scheme}://127.0.0.1:{port}", open_timeout=0.05)

        anyplace.run(main())

    def test_the_servers_certificate_is_checked_behind_a_proxy(self, tls: Place) -> None:
        async def main() -> None:
            async with tls.serve(echo) as server:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await tls.connect(server, proxy=proxy.url("http"), server_hostname="example.com")
                # The server's end is in the middle of a handshake, which nobody closes for it: uvloop would not end.
                await until(lambda: not proxy.busy)
                await asyncio.sleep(0.01)

        with proxies.running() as proxy:
            tls.run(main())
            gc.collect()

    @pytest.mark.parametrize("scheme", ["socks5", "socks4"])
    def test_a_server_that_nobody_knows(self, anyloop: Place, scheme: str) -> None:
        """It was the proxy that could not be reached."""

        async def main() -> None:
            with pytest.raises(socket.gaierror, match=r": nowhere\.invalid$"):
                await zcws.connect("ws://nowhere.invalid/", proxy=proxy.url(scheme))

        with proxies.running(scheme) as proxy:
            anyloop.run(main())

    def test_a_proxy_that_nobody_knows(self, anyloop: Place) -> None:
        async def main() -> None:
            with pytest.raises(OSError, match=r"to the proxy socks5://nowhere\.invalid:1080: .*known"):
                await zcws.connect("ws://localhost/", proxy="socks5://nowhere.invalid")

        anyloop.run(main())

    @pytest.mark.skipif(sys.platform != "linux", reason="other kernels answer where the backlog is full")
    @pytest.mark.parametrize(("kind", "scheme"), [("http", "http"), ("socks5", "socks5h")])
    def test_addresses_of_a_proxy_race(
        self, anyloop: Place, monkeypatch: pytest.MonkeyPatch, kind: str, scheme: str
    ) -> None:
        """RFC 8305. Of a SOCKS proxy only the first was tried."""

        async def main() -> None:
            async with anyloop.serve(echo) as server:
                names = Names(nobody, ("127.0.0.1", proxy.port))
                monkeypatch.setattr("zcws.aio.racing._resolved", names.on_loop)
                await talk(anyloop, server, proxy=f"{scheme}://two.example", happy_eyeballs_delay=0.01)

        with silent() as nobody, proxies.running(kind) as proxy:
            anyloop.run(main())
        assert len(proxy.asked) == 1

    def test_without_the_extra(self, anyloop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "python_socks.async_.asyncio", None)

        async def main() -> None:
            with pytest.raises(ImportError, match=r"pip install 'zcws\[proxy\]'"):
                await anyloop.connect(1, proxy="socks5h://127.0.0.1")

        anyloop.run(main())


class TestProxiesOverTls:
    """https:// proxies."""

    def test_in_the_clear_inside(self, anyloop: Place, certificates: Certificates) -> None:
        async def main() -> None:
            async with anyloop.serve(echo) as server:
                await talk(anyloop, server, proxy=proxy.url("https"), proxy_ssl=certificates.client)

        with proxies.running(tls=certificates.server) as proxy:
            anyloop.run(main())
        assert len(proxy.asked) == 1

    def test_tls_inside_tls(self, tls: Place, certificates: Certificates) -> None:
        async def main() -> None:
            async with tls.serve(echo) as server:
                await talk(tls, server, proxy=proxy.url("https"), proxy_ssl=certificates.client)

        with proxies.running(tls=certificates.server) as proxy:
            tls.run(main())
        assert len(proxy.asked) == 1

    def test_a_tunnel_that_ends_at_once(self, certificates: Certificates) -> None:
        """CPython 3.11 stumbled over its own feet: AttributeError, after which nobody tries again."""
        tls = Place("asyncio", certificates)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await reader.read(1)
            writer.close()

        async def main() -> None:
            async with tls.listen(serve) as port:
                with pytest.raises(OSError) as caught:
                    await tls.connect(
                        1, proxy=f"https://127.0.0.1:{port}", proxy_ssl=certificates.client, open_timeout=None
                    )
                assert zcws.process_exception(caught.value) is None

        tls.run(main())

    def test_a_proxy_that_is_not_trusted(self, anyloop: Place, certificates: Certificates) -> None:
        async def main() -> None:
            with pytest.raises(ssl.SSLCertVerificationError, match=r"; proxy_ssl=.* trusts"):
                await anyloop.connect(1, proxy=proxy.url("https"))

        with proxies.running(tls=certificates.server) as proxy:
            anyloop.run(main())


class Nothing(asyncio.Protocol):
    """A protocol that only has to be made."""


class TestStraight:
    def test_several_addresses(self, anyloop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first of a name's addresses is closed, the second is not."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            with socket.create_server(("127.0.0.1", 0)) as listening:
                port = listening.getsockname()[1]
                uri = parse_uri(f"ws://localhost:{port}/")
                transport, protocol = await reach(loop, Nothing, Route(uri=uri, proxy=None), uri, {})
                assert transport.get_extra_info("peername")[:2] == ("127.0.0.1", port)
                assert isinstance(protocol, Nothing)
                transport.abort()
                await asyncio.sleep(0)

        anyloop.run(main())

    def test_a_name_that_nobody_knows(self, anyloop: Place) -> None:
        async def main() -> None:
            with pytest.raises(socket.gaierror, match=r"nowhere\.invalid"):
                await zcws.connect("ws://nowhere.invalid/", proxy=None)

        anyloop.run(main())


def test_a_server_whose_name_ends_with_a_dot(tls: Place) -> None:
    """RFC 6066 3: to TLS it is the name without."""

    async def main() -> None:
        assert tls.certificates is not None
        async with tls.serve(echo) as server:
            uri = f"wss://localhost.:{port_of(server)}/"
            async with zcws.connect(uri, host="127.0.0.1", ssl=tls.certificates.client, proxy=None) as ws:
                assert ws.request is not None and ws.request.headers["Host"].startswith("localhost.:")

    tls.run(main())


class TestUnixSockets:
    def test_with_tls(self, tls: Place, socket_path: Path) -> None:
        async def main() -> None:
            assert tls.certificates is not None
            async with zcws.unix_serve(echo, str(socket_path), ssl=tls.certificates.server):
                async with zcws.unix_connect(socket_path, ssl=tls.certificates.client) as ws:
                    assert ws.request is not None and ws.request.headers["Host"] == "localhost"
                    await ws.send("hello")
                    assert await soon(ws.recv()) == "hello"

        tls.run(main())

    @pytest.mark.skipif(sys.platform != "linux", reason="other kernels refuse where the backlog is full")
    def test_nobody_accepts(self, anyloop: Place, socket_path: Path) -> None:
        """asyncio said that the server had closed the connection before it answered."""

        async def main() -> None:
            with pytest.raises(BlockingIOError, match=r"'s'$"):
                await zcws.unix_connect(socket_path)

        with crowded(socket_path):
            anyloop.run(main())

    def test_nobody_there(self, anyloop: Place, socket_path: Path) -> None:
        async def main() -> None:
            with pytest.raises(FileNotFoundError, match=r"'s'$"):
                await zcws.unix_connect(str(socket_path))

        anyloop.run(main())


class TestNoTls:
    """wss:// to somebody who does not speak TLS: said at once, with what to write instead."""

    def test_our_own_server(self, place: Place, certificates: Certificates) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                uri = f"wss://127.0.0.1:{port_of(server)}/"
                with pytest.raises(
                    ssl.SSLError, match=r"does wss://127\.0\.0\.1:\d+/ speak TLS\? If not, write ws://"
                ):
                    await zcws.connect(uri, ssl=certificates.client, open_timeout=None)

        place.run(main())

    def test_one_that_hangs_up(self, place: Place, certificates: Certificates) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10_000)

        async def main() -> None:
            async with place.listen(serve) as port:
                with pytest.raises(
                    ConnectionResetError, match=r"ended in the TLS handshake: does .* speak TLS"
                ):
                    await zcws.connect(f"wss://127.0.0.1:{port}/", ssl=certificates.client, open_timeout=None)

        place.run(main())

    def test_who_keeps_the_time(self, monkeypatch: pytest.MonkeyPatch, certificates: Certificates) -> None:
        """`open_timeout` alone: asyncio's minute for TLS cut off whoever had allowed more."""
        monkeypatch.setattr("asyncio.constants.SSL_HANDSHAKE_TIMEOUT", 0.05)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10_000)
            await asyncio.sleep(0.3)

        async def main() -> None:
            async with place.listen(serve) as port:
                with pytest.raises(ConnectionResetError, match="ended in the TLS handshake"):
                    await zcws.connect(f"wss://127.0.0.1:{port}/", ssl=certificates.client, open_timeout=None)

        place = Place("asyncio", None)
        place.run(main())

    def test_a_proxy(self, place: Place, certificates: Certificates) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                proxy = f"https://127.0.0.1:{port_of(server)}"
                with pytest.raises(
                    ssl.SSLError, match=f"does the proxy {proxy} speak TLS.* write http://"
                ) as caught:
                    await zcws.connect("ws://server/", proxy=proxy, proxy_ssl=certificates.client)
                assert str(caught.value).count("speak TLS") == 1

        place.run(main())

    def test_a_proxy_that_hangs_up(self, anyloop: Place) -> None:
        """'cannot connect to the proxy https://...: ', and no word more. The blocking client's words."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10_000)

        async def main() -> None:
            async with anyloop.listen(serve) as port:
                proxy = f"https://127.0.0.1:{port}"
                with pytest.raises(
                    ConnectionResetError, match=f"does the proxy {proxy} speak TLS.* write http://"
                ):
                    await zcws.connect("ws://server/", proxy=proxy, proxy_ssl=True)

        anyloop.run(main())


class TestNobodyThere:
    def test_one_address(self, anyloop: Place) -> None:
        """The text is that of the blocking client: tests/sync/test_reach.py."""

        async def main() -> None:
            with free_port() as port, pytest.raises(ConnectionRefusedError) as caught:
                await zcws.connect(f"ws://127.0.0.1:{port}/", proxy=None)
            refused = f"cannot connect to 127.0.0.1:{port}: {said(errno.ECONNREFUSED)}"
            assert caught.value.strerror == refused

        anyloop.run(main())
