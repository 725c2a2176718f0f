"""Ways to a server with blocking sockets: straight, Unix sockets, and real proxies (proxies.py)."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

import proxies
import pytest
import raw
import wire
from net import Certificates, free_port
from proxies import CREDENTIALS, KINDS, SECRET, USER_INFO
from raw import Names, crowded, echo, port_of, silent

import zcws
import zcws.sync
from zcws.failures import said
from zcws.route import Route
from zcws.sync.reach import reach
from zcws.uri import parse_uri

from .conftest import Serving


def talk(port: int, *, host: str = "127.0.0.1", **options: Any) -> None:
    scheme = "wss" if options.get("ssl") else "ws"
    with zcws.sync.connect(f"{scheme}://{host}:{port}/", **options) as ws:
        ws.send("hello")
        assert ws.recv() == "hello"


class TestProxies:
    @pytest.mark.parametrize("is_tls", [False, True])
    @pytest.mark.parametrize(("kind", "scheme"), KINDS)
    def test_through(
        self, serving: Serving, certificates: Certificates, kind: str, scheme: str, is_tls: bool
    ) -> None:
        theirs, ours = (certificates.server, certificates.client) if is_tls else (None, None)
        with proxies.running(kind) as proxy, serving(echo, ssl=theirs) as server:
            talk(port_of(server), proxy=proxy.url(scheme), ssl=ours)
            assert proxy.asked == [("127.0.0.1", port_of(server))]

    @pytest.mark.parametrize("kind", ["http", "socks5"])
    def test_credentials(self, serving: Serving, kind: str) -> None:
        with proxies.running(kind, credentials=CREDENTIALS) as proxy, serving(echo) as server:
            talk(port_of(server), proxy=proxy.url(kind, USER_INFO))
            with pytest.raises(zcws.ProxyError) as caught:
                talk(port_of(server), proxy=proxy.url(kind, f"other:{SECRET}"))
            assert SECRET not in str(caught.value) and caught.value.__cause__ is None
            assert kind == "http" or caught.value.__suppress_context__  # what python-socks quotes is not ours
            assert (caught.value.status == 407) == (kind == "http")
            with pytest.raises(zcws.ProxyError):
                talk(port_of(server), proxy=proxy.url(kind))

    @pytest.mark.parametrize(
        ("kind", "scheme"), [("http", "http"), ("socks5", "socks5h"), ("socks4", "socks4a")]
    )
    def test_the_proxy_resolves_the_name(self, serving: Serving, kind: str, scheme: str) -> None:
        with proxies.running(kind) as proxy, serving(echo) as server:
            talk(port_of(server), host="nowhere.example", proxy=proxy.url(scheme))
            assert proxy.asked == [("nowhere.example", port_of(server))]

    def test_by_environment(self, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        with proxies.running() as proxy, serving(echo) as server:
            monkeypatch.setenv("ws_proxy", proxy.url("http"))
            monkeypatch.setenv("no_proxy", "other.example")
            talk(port_of(server))
            assert len(proxy.asked) == 1
            talk(port_of(server), proxy=None)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            talk(port_of(server))
            assert len(proxy.asked) == 1

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
        ],
    )
    def test_refused(self, answer: bytes, status: int | None, reason: str) -> None:
        with proxies.running(answer=answer) as proxy:
            with pytest.raises(zcws.ProxyError, match=reason) as caught:
                talk(1, proxy=proxy.url("http", USER_INFO))
            assert caught.value.status == status and SECRET not in str(caught.value)

    @pytest.mark.parametrize(("code", "is_temporary"), [(5, True), (2, False)])
    def test_refused_by_socks(self, code: int, is_temporary: bool) -> None:
        with proxies.running("socks5", answer=code) as proxy:
            with pytest.raises(zcws.ProxyError, match=r"socks5h://127\.0\.0\.1") as caught:
                talk(1, proxy=proxy.url("socks5h"))
            assert caught.value.is_temporary is is_temporary

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_no_proxy_there(self, scheme: str) -> None:
        with (
            free_port() as port,
            pytest.raises(ConnectionRefusedError, match="cannot connect to the proxy") as caught,
        ):
            talk(1, proxy=f"{scheme}://u:5ecret@127.0.0.1:{port}")
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_to_a_proxy_from_where_we_are_not(self, scheme: str) -> None:
        """It was the proxy alone that was named."""
        with pytest.raises(OSError, match=r"cannot connect from 192\.0\.2\.1 to the proxy ") as caught:
            talk(1, proxy=f"{scheme}://127.0.0.1:1", source_address=("192.0.2.1", 0))  # RFC 5737: nobody's
        assert caught.value.errno == errno.EADDRNOTAVAIL

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_a_proxy_that_says_nothing(self, scheme: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:  # it accepts nobody
            with pytest.raises(TimeoutError, match=rf"through the proxy {scheme}://.* in open_timeout=0\.05"):
                talk(1, proxy=f"{scheme}://127.0.0.1:{listening.getsockname()[1]}", open_timeout=0.05)

    def test_a_proxy_that_resets(self) -> None:
        def run() -> None:
            listening.settimeout(raw.LONG)
            sock, _ = listening.accept()
            raw.head_of(sock)
            raw.Peer(sock, masks=False).reset()

        with socket.create_server(("127.0.0.1", 0)) as listening, raw.thread(run):
            with pytest.raises(zcws.ProxyError, match="before it answered") as caught:
                talk(1, proxy=f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert isinstance(caught.value.__cause__, ConnectionResetError)

    def test_over_tls(self, serving: Serving, certificates: Certificates) -> None:
        with proxies.running(tls=certificates.server) as proxy, serving(echo) as server:
            talk(port_of(server), proxy=proxy.url("https"), proxy_ssl=certificates.client)
            assert len(proxy.asked) == 1
            with pytest.raises(ssl.SSLCertVerificationError):
                talk(port_of(server), proxy=proxy.url("https"))

    def test_tls_inside_tls(self, certificates: Certificates) -> None:
        with pytest.raises(ValueError, match="TLS inside TLS"):
            talk(1, proxy="https://127.0.0.1:1", ssl=certificates.client)

    @pytest.mark.parametrize("scheme", ["socks5", "socks4"])
    def test_a_server_that_nobody_knows(self, scheme: str) -> None:
        """It was the proxy that could not be reached."""
        with proxies.running(scheme) as proxy:
            with pytest.raises(socket.gaierror, match=r": nowhere\.invalid$"):
                zcws.sync.connect("ws://nowhere.invalid/", proxy=proxy.url(scheme))

    def test_a_proxy_that_nobody_knows(self) -> None:
        with pytest.raises(OSError, match=r"to the proxy socks5://nowhere\.invalid:1080: .*known"):
            zcws.sync.connect("ws://localhost/", proxy="socks5://nowhere.invalid")

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "python_socks.sync", None)
        with pytest.raises(ImportError, match=r"pip install 'zcws\[proxy\]'"):
            talk(1, proxy="socks5h://127.0.0.1")


# ---- straight ----


def straight(
    port: int, host: str = "localhost", timeout: float | None = raw.LONG, **others: Any
) -> socket.socket:
    uri = parse_uri(f"ws://{host}:{port}/")
    deadline = None if timeout is None else time.monotonic() + timeout
    return reach(Route(uri=uri, proxy=None), uri, deadline, others)


@pytest.fixture
def full() -> Any:
    """A port that answers nobody."""
    with silent() as place:
        yield place[1]


class TestRace:
    """RFC 8305."""

    def test_a_name(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            with straight(listening.getsockname()[1]) as sock:
                assert sock.getpeername() == listening.getsockname()
                assert sock.gettimeout() is not None

    def test_without_a_deadline(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            with straight(listening.getsockname()[1], timeout=None) as sock:
                assert sock.gettimeout() is None

    def test_one_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with free_port() as nobody, socket.create_server(("127.0.0.1", 0)) as listening:
            monkeypatch.setattr(socket, "getaddrinfo", Names(("127.0.0.1", nobody), listening.getsockname()))
            with straight(1, happy_eyeballs_delay=None) as sock:
                assert sock.getpeername() == listening.getsockname()

    @pytest.mark.skipif(sys.platform != "linux", reason="other kernels answer where the backlog is full")
    def test_one_does_not_answer(self, monkeypatch: pytest.MonkeyPatch, full: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            monkeypatch.setattr(socket, "getaddrinfo", Names(("127.0.0.1", full), listening.getsockname()))
            with straight(1, happy_eyeballs_delay=0.01) as sock:
                assert sock.getpeername() == listening.getsockname()

    @pytest.mark.skipif(sys.platform != "linux", reason="other kernels answer where the backlog is full")
    def test_nobody_answers(self, monkeypatch: pytest.MonkeyPatch, full: int) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", Names(("127.0.0.1", full), ("127.0.0.1", full)))
        with pytest.raises(TimeoutError, match="no address of the host"):
            straight(1, timeout=0.1, happy_eyeballs_delay=0.01)

    def test_all_refuse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with free_port() as nobody:
            monkeypatch.setattr(socket, "getaddrinfo", Names(*[("127.0.0.1", nobody)] * 2))
            with pytest.raises(ConnectionRefusedError) as caught:
                straight(1)
        assert caught.value.errno == errno.ECONNREFUSED
        assert str(caught.value).count(f"127.0.0.1:{nobody}: {said(errno.ECONNREFUSED)}") == 2

    def test_from_where(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            with straight(port, source_address=("127.0.0.1", 0), family=socket.AF_INET) as sock:
                assert sock.getsockname()[0] == "127.0.0.1"
            with pytest.raises(OSError, match=r"cannot connect from 192\.0\.2\.1 to ") as caught:
                straight(port, source_address=("192.0.2.1", 0))  # RFC 5737: nobody's
            assert caught.value.errno == errno.EADDRNOTAVAIL
            with pytest.raises(OSError) as caught:
                straight(port, source_address=("127.0.0.1", port))
            assert caught.value.errno == errno.EADDRINUSE

    @pytest.mark.parametrize("source", ["::1", "nowhere.invalid"])
    def test_from_where_there_is_no_such_place(self, source: str) -> None:
        """It was "Unknown error -9": a number of name resolution is none of the system's."""
        with pytest.raises(OSError, match=re.escape(said(errno.EADDRNOTAVAIL))) as caught:
            straight(1, host="127.0.0.1", source_address=(source, 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL

    def test_options_of_connect(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            uri = f"ws://127.0.0.1:{listening.getsockname()[1]}/"
            with pytest.raises(OSError, match=re.escape(said(errno.EADDRNOTAVAIL))):
                zcws.sync.connect(uri, source_address=("192.0.2.1", 0))
            with pytest.raises(socket.gaierror):
                zcws.sync.connect(uri, family=socket.AF_INET6)

    @pytest.mark.skipif(sys.platform != "linux", reason="other kernels answer where the backlog is full")
    def test_one_after_the_other(self, monkeypatch: pytest.MonkeyPatch, full: int) -> None:
        """Without a delay the second is never asked."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            monkeypatch.setattr(socket, "getaddrinfo", Names(("127.0.0.1", full), listening.getsockname()))
            with pytest.raises(TimeoutError):
                zcws.sync.connect("ws://a/", happy_eyeballs_delay=None, open_timeout=0.5)
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.accept()

    def test_a_family_that_the_system_does_not_have(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            names = Names(listening.getsockname(), listening.getsockname())("a", 1)
            names[0] = (12345, *names[0][1:])
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_: names)
            with straight(1) as sock:
                assert sock.getpeername() == listening.getsockname()
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_: names[:1])
            with pytest.raises(OSError) as caught:
                straight(1)
            assert caught.value.errno == errno.EAFNOSUPPORT

    def test_a_name_that_nobody_knows(self) -> None:
        with pytest.raises(socket.gaierror, match=r"nowhere\.invalid"):
            straight(1, host="nowhere.invalid")

    def test_a_resolver_that_finds_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It was an IndexError, which no loop that connects again knows."""
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
        with pytest.raises(socket.gaierror, match=r"no address was found: somewhere$"):
            straight(1, host="somewhere")


# ---- Unix sockets ----


class TestUnixSockets:
    def test_with_tls(self, serving: Serving, certificates: Certificates, socket_path: Path) -> None:
        with serving(echo, path=str(socket_path), ssl=certificates.server):
            with zcws.sync.unix_connect(socket_path, ssl=certificates.client) as ws:
                assert ws.request is not None and ws.request.headers["Host"] == "localhost"
                ws.send("hello")
                assert ws.recv() == "hello"

    @pytest.mark.skipif(sys.platform != "linux", reason="other kernels refuse where the backlog is full")
    def test_nobody_accepts(self, socket_path: Path) -> None:
        with crowded(socket_path), pytest.raises(BlockingIOError, match=r"'s'$"):
            zcws.sync.unix_connect(socket_path)

    def test_nobody_there(self, socket_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"'s'$"):
            zcws.sync.unix_connect(socket_path)


def test_another_place_than_the_uri_says() -> None:
    def script(peer: raw.Peer) -> None:
        peer.send(wire.CLOSE, peer.read().payload)

    with raw.no_thread_left(), raw.server(script) as port:
        with zcws.sync.connect("ws://elsewhere.example/", host="127.0.0.1", port=port) as ws:
            assert ws.request is not None and ws.request.headers["Host"] == "elsewhere.example"


def test_no_tls(certificates: Certificates, serving: Serving) -> None:
    """wss:// to a server in the clear: said at once, with what to write instead."""
    with serving(echo) as server:
        uri = f"wss://127.0.0.1:{port_of(server)}/"
        with pytest.raises(
            ssl.SSLError, match=r"does wss://127\.0\.0\.1:\d+/ speak TLS\? If not, write ws://"
        ):
            zcws.sync.connect(uri, ssl=certificates.client, open_timeout=None)


def test_nobody_there() -> None:
    """The text is that of the asyncio client: tests/aio/test_reach.py."""
    with free_port() as port, pytest.raises(ConnectionRefusedError) as caught:
        zcws.sync.connect(f"ws://127.0.0.1:{port}/", proxy=None)
    assert caught.value.strerror == f"cannot connect to 127.0.0.1:{port}: {said(errno.ECONNREFUSED)}"


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 257),
        ("socks5h", b"\x05\x00\x05\x00\x00\x03\xff" + bytes(257)),
    ],
)
def test_a_proxy_that_takes_its_time(scheme: str, answer: bytes) -> None:
    """Each byte of its answer had all of `open_timeout`: with 262 of them a connect could last for 44 minutes."""
    pytest.importorskip("python_socks", reason="the extra `proxy`")
    said = bytearray()
    has_gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            with listener.accept()[0] as sock, contextlib.suppress(OSError):
                for byte in answer:
                    sock.sendall(bytes([byte]))
                    said.append(byte)
                    if has_gone.wait(0.02):
                        return

        with raw.thread(speak):
            try:
                with pytest.raises(TimeoutError, match="open_timeout"):
                    address = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
                    zcws.sync.connect("ws://example.com/", proxy=address, open_timeout=0.2)
            finally:
                has_gone.set()
    assert len(said) < len(answer)


class Sipping(socket.socket):
    """What it has received it gives a byte at a time, each after a millisecond."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        time.sleep(0.001)
        return super().recv(1, flags)


@pytest.mark.parametrize("is_proxy", [False, True])
def test_an_answer_that_comes_without_a_pause(monkeypatch: pytest.MonkeyPatch, is_proxy: bool) -> None:
    """The time was up only when the peer paused for a millisecond."""
    has_gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak() -> None:
            with listening.accept()[0] as sock:
                sock.sendall(b"HTTP/1.1 403 Forbidden\r\nX: " + b"x" * 300 + b"\r\nContent-Length: 0\r\n\r\n")
                has_gone.wait(raw.LONG)

        with raw.thread(speak):
            monkeypatch.setattr(socket, "socket", Sipping)
            here = f"127.0.0.1:{listening.getsockname()[1]}"
            uri, proxy = ("ws://a/", f"http://{here}") if is_proxy else (f"ws://{here}/", None)
            try:
                with pytest.raises(TimeoutError, match="open_timeout"):
                    zcws.sync.connect(uri, proxy=proxy, open_timeout=0.1)
            finally:
                has_gone.set()


def test_a_name_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's lookup cannot be ended; but what came after it had always a millisecond more, and all went well."""

    def late(*asked: Any) -> Any:
        time.sleep(0.1)
        return resolve(*asked)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        resolve = Names(listening.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", late)
        with pytest.raises(TimeoutError, match="has not found the name"):
            straight(1, timeout=0.05)
