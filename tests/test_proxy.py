"""Proxies without I/O. RFC 9110 9.3.6; what really goes through one is in aio/test_reach.py and sync/test_reach.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcws.errors import HandshakeError, ProxyError
from zcws.proxy import Proxy, Tunnel, choose_proxy, parse_proxy

SECRET = "5ecret"


class TestAddress:
    @pytest.mark.parametrize(
        ("address", "parts"),
        [
            ("http://proxy", ("http", "proxy", 80)),
            ("https://proxy", ("https", "proxy", 443)),
            ("HTTP://PROXY:3128/", ("http", "proxy", 3128)),
            ("proxy:3128", ("http", "proxy", 3128)),
            ("u:p@proxy", ("http", "proxy", 80)),
            ("socks5h://proxy", ("socks5h", "proxy", 1080)),
            ("socks5://proxy:1", ("socks5", "proxy", 1)),
            ("socks4a://proxy", ("socks4a", "proxy", 1080)),
            ("socks4://127.0.0.1", ("socks4", "127.0.0.1", 1080)),
            ("socks5://proxy", ("socks5", "proxy", 1080)),
            ("http://[::1]:3128", ("http", "::1", 3128)),
        ],
    )
    def test_parts(self, address: str, parts: tuple[str, str, int]) -> None:
        found = parse_proxy(address)
        assert (found.scheme, found.host, found.port) == parts

    def test_credentials(self) -> None:
        found = parse_proxy("http://us%40er:p%3A@proxy")
        assert (found.username, found.password) == ("us@er", "p:")
        assert parse_proxy("http://us\xe9r@proxy").password == ""  # what RFC 1929 says is for SOCKS5
        assert parse_proxy("socks4://u:@proxy").username == "u"
        for name, word in (("u", "5"), ("u" * 255, "5" * 255)):
            found = parse_proxy(f"socks5h://{name}:{word}@proxy")
            assert (found.username, found.password) == (name, word)

    @pytest.mark.parametrize(
        ("scheme", "is_socks", "resolves"),
        [
            ("http", False, True),
            ("https", False, True),
            ("socks5h", True, True),
            ("socks5", True, False),
            ("socks4a", True, True),
            ("socks4", True, False),
        ],
    )
    def test_who_resolves(self, scheme: str, is_socks: bool, resolves: bool) -> None:
        found = parse_proxy(f"{scheme}://proxy")
        assert (found.is_socks, found.resolves) == (is_socks, resolves)

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("", "host of the proxy in proxy= is missing"),
            ("ftp://u:5ecret@proxy", "expected one of http, https, socks5h"),
            ("socks://u:5ecret@proxy", "expected one of"),
            ("http://u:5ecret@", "host of the proxy"),
            ("http://u:5ecret@a..b", "host of the proxy"),
            ("http://u:5ecret@proxy:0", "port of the proxy in proxy= must be 1 to 65535"),
            ("http://u:5ecret@proxy:x", "port of the proxy in proxy= must be 1 to 65535"),
            ("http://u:5ecret@proxy/path", "not the address of a proxy"),
            ("http://u:5ecret@proxy?query", "not the address of a proxy"),
            ("http://u:5ecret@pro xy", "not the address of a proxy"),
            ("http://u:5ecret@proxy\r\n", "not the address of a proxy"),
            ("http://u:5ecret%E9@proxy", "of the proxy in proxy= must be percent-encoded UTF-8"),
            ("socks5://u@proxy", "RFC 1929"),
            ("socks5://:5ecret@proxy", "RFC 1929"),
            ("socks5://\xfc:5ecret@proxy", "RFC 1929"),
            (f"socks5h://{'u' * 256}:5ecret@proxy", "RFC 1929"),
            ("http://us%3Aer:5ecret@proxy", "^proxy=: a user name must not hold a colon"),
            ("socks4://%C3%BC@proxy", "^proxy=: SOCKS4 takes a user name of ASCII"),
            ("socks4a://5ecret%00b@proxy", "SOCKS4 takes a user name of ASCII characters, without a NUL"),
            ("socks4://u:5ecret@proxy", "SOCKS4 takes .* and no password$"),
            (f"socks5h://u:{'5ecret' * 43}@proxy", "RFC 1929"),
        ],
    )
    def test_what_is_none(self, address: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason) as caught:
            parse_proxy(address)
        assert SECRET not in str(caught.value)

    def test_it_is_shown_without_credentials(self) -> None:
        found = parse_proxy("http://u:5ecret@proxy:1")
        assert found.shown == "http://proxy:1"
        assert SECRET not in repr(found)

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        try:
            found = parse_proxy(text)
        except ValueError:
            return
        assert found.host.isascii() and 1 <= found.port <= 65535


class TestChoice:
    """By scheme, as urllib.request.getproxies has them."""

    ALL = ("ws", "wss", "socks", "https", "http", "all")

    @pytest.mark.parametrize(
        ("secure", "order"),
        [(False, ["ws", "socks", "https", "http", "all"]), (True, ["wss", "socks", "https", "all"])],
    )
    def test_the_order(self, secure: bool, order: list[str]) -> None:
        left = {scheme: f"http://{scheme}:1" for scheme in self.ALL}
        for scheme in order:
            found = choose_proxy(left, secure)
            assert found is not None and found.host == scheme
            del left[scheme]
        assert choose_proxy(left, secure) is None

    def test_an_empty_one_is_none(self) -> None:
        assert choose_proxy({"wss": "", "all": "proxy"}, True) == parse_proxy("proxy", choose_source("all"))

    def test_the_settings_of_macos_call_socks_http(self) -> None:
        for variable, scheme in (("socks", "socks5h"), ("https", "http")):
            found = choose_proxy({variable: "http://proxy:1"}, True)
            assert found is not None and found.scheme == scheme

    @pytest.mark.parametrize(
        ("address", "scheme"),
        [("u:5ecret@proxy:1080", "socks5h"), ("[::1]", "socks5h"), ("socks4://p", "socks4")],
    )
    def test_a_proxy_for_socks_without_a_scheme(self, address: str, scheme: str) -> None:
        """It was spoken HTTP to."""
        found = choose_proxy({"socks": address}, True)
        assert found is not None and (found.scheme, found.is_socks) == (scheme, True)
        assert found.port == 1080

    def test_a_mistake_names_the_variable_and_not_its_value(self) -> None:
        with pytest.raises(ValueError, match=r"^https_proxy, from the environment") as caught:
            choose_proxy({"https": "gopher://u:5ecret@proxy"}, True)
        assert SECRET not in str(caught.value)


def choose_source(scheme: str) -> str:
    found = choose_proxy({scheme: "proxy"}, True)
    assert found is not None
    return found.source


def tunnel(address: str = "http://u:5ecret@proxy:1", host: str = "server", port: int = 443) -> Tunnel:
    return Tunnel(parse_proxy(address), host, port, "me")


class TestConnect:
    def test_what_is_asked(self) -> None:
        assert tunnel().request == (
            b"CONNECT server:443 HTTP/1.1\r\nHost: server:443\r\nUser-Agent: me\r\n"
            b"Proxy-Authorization: Basic dTo1ZWNyZXQ=\r\n\r\n"
        )

    def test_the_least(self) -> None:
        asked = Tunnel(Proxy("http", "proxy", 80), "fe80::1%eth0", 80, None).request
        assert asked == b"CONNECT [fe80::1]:80 HTTP/1.1\r\nHost: [fe80::1]:80\r\n\r\n"

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n",
            b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n",  # RFC 9110 9.3.6: must be ignored
            b"HTTP/1.1 204 Fine\r\n\r\n",
            b"HTTP/1.1 103 Wait\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ],
    )
    def test_open(self, head: bytes) -> None:
        assert tunnel().feed(head)
        bytewise = tunnel()
        states = [bytewise.feed(head[at : at + 1]) for at in range(len(head))]
        assert states == [False] * (len(head) - 1) + [True]

    @pytest.mark.parametrize(
        ("head", "status", "reason"),
        [
            (b"HTTP/1.1 403 No\r\nX: y\r\n\r\n", 403, "did not connect to server:443: status 403$"),
            (b"HTTP/1.1 502 No\r\n\r\nbody", 502, "status 502"),
            (b"HTTP/1.1 300 Go\r\n\r\n", 300, "status 300"),
            (b"HTTP/1.1 301 Go\r\nLocation: http://x/\r\n\r\n", 301, "status 301"),
            (b"HTTP/1.1 101 Go\r\n\r\n\0\1", 101, "status 101"),  # what follows is no HTTP
            (b"HTTP/1.1 407 Auth\r\n\r\n", 407, "it refuses the user name and password"),
            (b"HTTP/1.1 200 OK\r\n\r\nx", None, "bytes behind its answer"),
            (b"SSH-2.0-x\r\n", None, r"did not answer with HTTP; it began with b'SSH-2\.0-x\\r\\n'$"),
            (b"\x15\x03\x03\0\x02\x02\x46", None, "answered with TLS: should the scheme be https://"),
            (b"HTTP/1.1 200 " + b"x" * 20_000, None, "not legal HTTP.*over a limit"),
        ],
    )
    def test_refused(self, head: bytes, status: int | None, reason: str) -> None:
        with pytest.raises(ProxyError, match=reason) as caught:
            tunnel().feed(head)
        assert caught.value.status == status
        assert str(caught.value).count("http://proxy:1") == 1
        assert SECRET not in str(caught.value) and "dTo1" not in str(caught.value)

    def test_credentials_that_are_missing(self) -> None:
        with pytest.raises(ProxyError, match="it wants a user name and password"):
            tunnel("proxy").feed(b"HTTP/1.1 407 Auth\r\n\r\n")

    def test_who_named_a_proxy_that_refuses(self) -> None:
        proxy = choose_proxy({"all": "proxy:1"}, secure=True)
        assert proxy is not None
        with pytest.raises(
            ProxyError, match=r"status 403; all_proxy, .*, names it, and proxy=None goes without"
        ):
            Tunnel(proxy, "server", 443).feed(b"HTTP/1.1 403 No\r\n\r\n")

    def test_the_end_before_the_answer(self) -> None:
        assert isinstance(tunnel().ended(), HandshakeError)
        assert isinstance(tunnel().ended().__cause__, EOFError)
        assert "before it answered" in str(tunnel().ended())
        halfway = tunnel()
        halfway.feed(b"HTTP/1.1 2")
        assert str(halfway.ended()).endswith(
            "in the middle of its answer to CONNECT; it began with b'HTTP/1.1 2'"
        )
        reset = ConnectionResetError()
        assert tunnel().ended(reset).__cause__ is reset
