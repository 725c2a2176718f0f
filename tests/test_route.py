"""What `ssl`, `proxy`, `max_redirects` and their kin mean, for both drivers."""

from __future__ import annotations

import errno
import os
import pathlib
import socket
import ssl
import subprocess
import sys
from typing import Any

import pytest
import trustme

import zcws
import zcws.sync
from zcws.connector import WebSocketConnector
from zcws.errors import HandshakeError
from zcws.headers import Headers
from zcws.http import Response
from zcws.proxy import Proxy, parse_proxy
from zcws.route import (
    Route,
    check_unix_place,
    environment_proxy,
    interleaved,
    is_address,
    make_context,
    socks_options,
    unix_uri,
)
from zcws.uri import parse_uri


def route(uri: str = "wss://a/", **options: Any) -> Route:
    return Route(uri=parse_uri(uri), **options)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies, to put some in."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch


class TestMistakes:
    """Options that mean nothing, alone or together."""

    @pytest.mark.parametrize(
        ("uri", "options", "reason"),
        [
            ("ws://a/", {"ssl": True}, "ssl= is for wss:// URIs; this one is ws://"),
            ("wss://a/", {"ssl": False}, "ssl must be an ssl.SSLContext, .*; .* verify_mode ="),
            ("wss://a/", {"ssl": 1}, "ssl must be"),
            ("wss://a/", {"proxy_ssl": 1.5, "proxy": "https://p"}, "proxy_ssl must be"),
            ("wss://a/", {"proxy": 7}, r"proxy must be an address \(a str\), None"),
            ("wss://a/", {"proxy": False}, r"proxy must be an address \(a str\), None.* of type bool$"),
            ("wss://a/", {"proxy": b"http://u:5ecret@h"}, "not an object of type bytes$"),
            ("wss://a/", {"proxy": "gopher://p"}, "proxy= has a scheme"),
            ("wss://a/", {"proxy": "http://p", "proxy_ssl": True}, "proxy_ssl= is for https:// proxies"),
            ("ws://a/", {"proxy": "http://p", "path": "s"}, "proxy= cannot be used with sock= or path="),
            ("ws://a/", {"path": "s", "host": "b"}, "path and host and port are different places"),
            ("ws://a/", {"server_hostname": "b"}, "server_hostname= is for wss:// URIs"),
            ("ws://a/", {"host": 5}, "host is a str, or None"),
            (
                "ws://a/",
                {"path": 5},
                "^path is a str or an os.PathLike, that of a Unix socket, or None, not 5",
            ),
            ("ws://a/", {"path": ""}, "^path is a str or an os.PathLike, .*not ''"),
            (
                "wss://a/",
                {"server_hostname": 5},
                "^server_hostname is a str, or None for that of the URI, not 5",
            ),
            ("wss://a/", {"proxy_server_hostname": b"p"}, "^proxy_server_hostname is a str, or None"),
            (
                "wss://a/",
                {"server_hostname": "x\0y"},
                "^the host of server_hostname= is missing or not a host",
            ),
            (
                "wss://a/",
                {"server_hostname": "a" * 64 + ".b"},
                "server_hostname= is missing or not a host name",
            ),
            (
                "wss://a/",
                {"server_hostname": "[::1]"},
                "^the host of server_hostname= is not an IPv6 address",
            ),
            (
                "wss://a/",
                {"proxy_server_hostname": "a b"},
                "^the host of proxy_server_hostname= is missing or",
            ),
            ("ws://a/", {"host": "a" * 64}, "^the host of host= is missing or not a host name"),
            ("ws://a/", {"sock": 5}, "sock is a socket.socket, or None, not 5"),
            ("ws://a/", {"port": 0}, "port is a whole number from 1 to 65535, not 0"),
            ("ws://a/", {"port": 65_536}, "port is a whole number from 1 to 65535, not 65536"),
            ("ws://a/", {"port": 8000.0}, "port is a whole number"),
            ("ws://a/", {"max_redirects": -1}, "max_redirects is a number of redirects"),
            ("ws://a/", {"max_redirects": "many"}, "max_redirects is a number of redirects"),
        ],
    )
    def test_they_are_told(self, uri: str, options: dict[str, Any], reason: str) -> None:
        with pytest.raises((TypeError, ValueError), match=reason):
            route(uri, **options)

    @pytest.mark.parametrize(
        "name", ["", "::1", "fe80::1%lo", "127.0.0.1", "b\xfccher.example", "a_b.example."]
    )
    def test_names_that_may_be(self, name: str) -> None:
        route("wss://a/", host=name, server_hostname=name, proxy_server_hostname=name)

    def test_a_socket_and_a_proxy(self, no_proxies: pytest.MonkeyPatch) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            with pytest.raises(ValueError, match="proxy= cannot be used with sock= or path="):
                route("ws://a/", sock=ours, proxy="http://p")
            no_proxies.setenv("ws_proxy", "http://p")
            assert route("ws://a/", sock=ours).proxy_for(parse_uri("ws://a/")) is None

    def test_a_socket_and_a_path(self) -> None:
        with socket.socket() as sock, pytest.raises(ValueError, match="sock and path are different"):
            route("ws://a/", sock=sock, path="s")

    def test_a_socket_that_leads_nowhere(self) -> None:
        """It was said that the server had closed the connection before it answered."""
        with socket.socket() as sock:
            with pytest.raises(OSError, match="sock is not connected: ") as wrong:
                route("ws://a/", sock=sock)
        assert wrong.value.errno == errno.ENOTCONN
        with pytest.raises(OSError, match="sock is not connected: "):  # it is closed
            route("ws://a/", sock=sock)

    def test_a_unix_socket_that_nobody_names(self) -> None:
        check_unix_place("unix_serve", None, object())
        with pytest.raises(TypeError, match="unix_serve needs the path of a Unix socket, or sock="):
            check_unix_place("unix_serve", None, None)

    def test_a_path_where_there_are_no_unix_sockets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(socket, "AF_UNIX", raising=False)
        with pytest.raises(ValueError, match="this platform has no Unix sockets: path= cannot be used"):
            route("ws://a/", path="s")
        assert route("ws://a/", host="b").path is None

    @pytest.mark.parametrize("serve", [zcws.unix_serve, zcws.sync.unix_serve])
    def test_a_server_where_there_are_none(self, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(socket, "AF_UNIX", raising=False)
        with pytest.raises(ValueError, match="this platform has no Unix sockets: path= cannot be used"):
            serve(lambda ws: None, "s")

    @pytest.mark.parametrize("serve", [zcws.unix_serve, zcws.sync.unix_serve])
    @pytest.mark.parametrize("path", [5, ""])
    def test_a_server_at_no_path(self, serve: Any, path: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=r"^path is a str or an os\.PathLike"):
            serve(lambda ws: None, path)

    @pytest.mark.parametrize("serve", [zcws.serve, zcws.sync.serve])
    def test_a_server_on_a_socket_that_is_no_stream(self, serve: Any) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="sock is a socket of the type SOCK_STREAM, not <socket"):
                serve(lambda ws: None, sock=sock)


class TestTrust:
    def test_the_default_checks(self) -> None:
        security = route("wss://a:1/").security(parse_uri("wss://a:1/"))
        assert security is not None
        assert security[0].verify_mode == ssl.CERT_REQUIRED and security[0].check_hostname
        assert security[1] == "a"
        assert make_context(None).verify_mode == ssl.CERT_REQUIRED

    def test_in_the_clear(self) -> None:
        assert route("ws://a/").security(parse_uri("ws://a/")) is None

    def test_a_context_is_used_as_it_is_and_made_only_once(self) -> None:
        context = ssl.create_default_context()
        assert make_context(context) is context
        made = route()
        assert made.security(made.uri) == made.security(made.uri)

    def test_a_servers_context(self) -> None:
        """It was tried for ever: OpenSSL refuses it only when a server has been connected to."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with pytest.raises(ValueError, match=r"^ssl is the context of a server "):
            zcws.connect("wss://a/", ssl=context)
        with pytest.raises(ValueError, match=r"^proxy_ssl is the context of a server "):
            zcws.sync.connect("wss://a/", proxy="https://p", proxy_ssl=context)

    def test_what_a_context_says_that_it_speaks(self) -> None:
        """RFC 7301. A context of somebody's own says it from the first connection on, and not before."""
        told: list[list[str]] = []

        class Context(ssl.SSLContext):
            def set_alpn_protocols(self, alpn_protocols: Any) -> None:
                told.append(alpn_protocols)

        for http2 in (False, True):
            made = route(ssl=Context(ssl.PROTOCOL_TLS_CLIENT), http2=http2)
            assert not told
            made.security(made.uri)
        assert told == [["h2", "http/1.1"]]

    @pytest.mark.parametrize("kind", [str, pathlib.Path])
    def test_a_path(self, tmp_path: pathlib.Path, kind: Any) -> None:
        """Only what is in there is trusted."""
        file = tmp_path / "authority.pem"
        trustme.CA().cert_pem.write_to_path(file)
        context = make_context(kind(file))
        assert context.check_hostname and context.cert_store_stats()["x509_ca"] == 1

    def test_a_folder(self, tmp_path: pathlib.Path) -> None:
        assert make_context(tmp_path).cert_store_stats()["x509_ca"] == 0  # they are looked up when needed

    def test_a_path_that_is_none(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(ValueError, match=r"missing\.pem' names no file"):
            route(ssl=str(tmp_path / "missing.pem"))
        file = tmp_path / "empty.pem"
        file.write_text("nothing")
        with pytest.raises(ValueError, match="no certificates in PEM"):
            route(ssl=file)

    def test_a_name_is_that_of_the_server_that_was_named(self) -> None:
        made = route("wss://a/", server_hostname="b", max_redirects=1)
        names = [made.security(parse_uri(uri)) for uri in ("wss://a/c", "wss://d/")]
        assert [name[1] for name in names if name] == ["b", "d"]

    def test_the_last_dot_of_a_name_is_in_no_certificate(self) -> None:
        """RFC 6066 3; and what was checked had one, so that no certificate was for it."""
        for made, name in ((route("wss://a.b./"), "a.b"), (route("wss://a/", server_hostname="c."), "c")):
            security = made.security(made.uri)
            assert security is not None and security[1] == name
        security = route().proxy_security(parse_proxy("https://p."))
        assert security is not None and security[1] == "p"

    def test_the_zone_of_an_address_is_in_no_certificate(self) -> None:
        security = route("wss://[fe80::1%25eth0]/").security(parse_uri("wss://[fe80::1%25eth0]/"))
        assert security is not None and security[1] == "fe80::1"

    def test_of_a_proxy(self) -> None:
        made = route(proxy="https://p", proxy_server_hostname="q")
        security = made.proxy_security(parse_proxy("https://p"))
        assert security is not None and security[1] == "q"
        assert made.proxy_security(parse_proxy("http://p")) is None
        security = route(proxy="https://p").proxy_security(parse_proxy("https://p"))
        assert security is not None and security[1] == "p"


class TestPlace:
    def test_the_uris(self) -> None:
        assert route("wss://a/").target(parse_uri("wss://b:1/")) == ("b", 1)

    def test_another(self) -> None:
        assert route("wss://a/", host="c", port=2).target(parse_uri("wss://b:1/")) == ("c", 2)

    def test_over_a_unix_socket_without_a_uri(self) -> None:
        assert [unix_uri(trust) for trust in (None, True)] == ["ws://localhost/", "wss://localhost/"]

    @pytest.mark.parametrize(
        ("host", "answer"), [("::1", True), ("127.0.0.1", True), ("a1", False), ("1.a", False)]
    )
    def test_what_is_an_address(self, host: str, answer: bool) -> None:
        assert is_address(host) is answer

    @pytest.mark.parametrize(
        ("first", "order"),
        [(1, [61, 41, 62, 63]), (2, [61, 62, 41, 63]), (9, [61, 62, 63, 41]), (-1, [61, 41, 62, 63])],
    )
    def test_the_families_take_turns(self, first: int, order: list[int]) -> None:
        """As in asyncio's `interleave`."""
        six, four = socket.AF_INET6, socket.AF_INET
        given = [(six, 61), (six, 62), (six, 63), (four, 41)]
        assert [which for _, which in interleaved(given, first)] == order
        assert list(interleaved([], first)) == []


class TestProxies:
    URI = "wss://server.example/"

    def find(self, uri: str = URI, **options: Any) -> Proxy | None:
        return route(uri, **options).proxy_for(parse_uri(uri))

    def test_none(self, no_proxies: pytest.MonkeyPatch) -> None:
        assert self.find() is None
        no_proxies.setenv("HTTPS_PROXY", "http://p")
        assert self.find(proxy=None) is None
        assert self.find(path="s") is None

    def test_by_argument(self, no_proxies: pytest.MonkeyPatch) -> None:
        no_proxies.setenv("no_proxy", "*")
        assert self.find(proxy="http://p") == parse_proxy("http://p")

    @pytest.mark.parametrize("name", ["wss_proxy", "HTTPS_PROXY", "all_proxy", "socks_proxy"])
    def test_by_environment(self, no_proxies: pytest.MonkeyPatch, name: str) -> None:
        no_proxies.setenv(name, "socks5h://u:p@p:1")
        found = self.find()
        assert found is not None
        assert (found.scheme, found.host, found.port, found.username) == ("socks5h", "p", 1, "u")
        assert found.source.startswith(name.lower())

    def test_http_proxy_is_not_for_tls(self, no_proxies: pytest.MonkeyPatch) -> None:
        no_proxies.setenv("http_proxy", "http://p")
        assert self.find() is None
        assert self.find("ws://server.example/") is not None

    @pytest.mark.parametrize(
        "exempt", ["*", "a,example", "a,.example", "server.example", "server.example:443"]
    )
    def test_no_proxy(self, no_proxies: pytest.MonkeyPatch, exempt: str) -> None:
        no_proxies.setenv("https_proxy", "http://p")
        no_proxies.setenv("no_proxy", exempt)
        assert self.find() is None

    def test_no_proxy_for_others(self, no_proxies: pytest.MonkeyPatch) -> None:
        no_proxies.setenv("https_proxy", "http://p")
        no_proxies.setenv("no_proxy", "localhost,server.example:444,other.example")
        assert self.find() is not None

    def test_no_proxy_looks_at_where_the_bytes_go(self, no_proxies: pytest.MonkeyPatch) -> None:
        no_proxies.setenv("https_proxy", "http://p")
        no_proxies.setenv("no_proxy", "127.0.0.1")
        assert self.find(host="127.0.0.1") is None

    @pytest.mark.parametrize(
        ("scheme", "kind", "resolves"),
        [("socks5", "SOCKS5", False), ("socks5h", "SOCKS5", True), ("socks4", "SOCKS4", False)],
    )
    def test_what_python_socks_is_given(self, scheme: str, kind: str, resolves: bool) -> None:
        kinds = pytest.importorskip("python_socks").ProxyType
        assert socks_options(parse_proxy(f"{scheme}://p:1")) == {
            "proxy_type": kinds[kind], "host": "p", "port": 1, "username": None, "password": None, "rdns": resolves,
        }  # fmt: skip

    def test_a_mistake_in_the_environment_names_it(self, no_proxies: pytest.MonkeyPatch) -> None:
        no_proxies.setenv("all_proxy", "gopher://u:5ecret@p")
        with pytest.raises(ValueError, match=r"^all_proxy, from the environment") as caught:
            environment_proxy(True, "server.example", 443)
        assert "5ecret" not in str(caught.value)

    @pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="the system's settings are asked there")
    def test_nothing_is_imported_where_there_is_none(self) -> None:
        code = (
            "import sys, zcws.route\nzcws.route.environment_proxy(True, 'a', 1)\n"
            "print({'urllib.request', 'python_socks'} & sys.modules.keys())"
        )
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True, timeout=60
        )
        assert done.stdout == "set()\n"


class TestRedirects:
    def follow(
        self, location: str, *, followed: int = 0, uri: str = "wss://a/", **options: Any
    ) -> WebSocketConnector:
        connector = WebSocketConnector(uri, entropy=bytes)
        response = Response(302, "Found", Headers({"Location": location}))
        return Route(uri=connector.uri, **options).follow(connector, response, followed)

    def test_where_to(self) -> None:
        assert self.follow("/b", max_redirects=1).uri == parse_uri("wss://a/b")
        assert self.follow("https://b/", max_redirects=1).uri == parse_uri("wss://b/")

    @pytest.mark.parametrize(
        ("location", "options", "reason"),
        [
            ("/b", {}, "status 302: a redirect, and max_redirects=0 follows none"),
            ("/b", {"max_redirects": 3, "followed": 3}, "one redirect more than max_redirects=3 allows"),
            ("http://a/", {"max_redirects": 1}, "from wss to ws"),
            ("https://b/", {"max_redirects": 1, "host": "127.0.0.1"}, "another origin"),
            ("https://b/", {"max_redirects": 1, "port": 1}, "another origin"),
            ("https://b/", {"max_redirects": 1, "path": "s"}, "another origin"),
        ],
    )
    def test_where_not(self, location: str, options: dict[str, Any], reason: str) -> None:
        with pytest.raises(HandshakeError, match=reason) as caught:
            self.follow(location, **options)
        assert caught.value.status == 302
        assert caught.value.headers is not None and caught.value.headers["Location"] == location

    def test_within_its_origin_a_given_place_stays(self) -> None:
        assert self.follow("/b", max_redirects=1, host="127.0.0.1").uri == parse_uri("wss://a/b")

    def test_a_given_socket_leads_nowhere_else(self) -> None:
        sock, other = socket.socketpair()
        with sock, other, pytest.raises(HandshakeError, match="leads nowhere else"):
            self.follow("/b", max_redirects=1, sock=sock)

    def test_what_is_no_redirect(self) -> None:
        connector = WebSocketConnector("wss://a/", entropy=bytes)
        made = Route(uri=connector.uri, max_redirects=1)
        for response in (Response(404), Response(302)):
            with pytest.raises(HandshakeError, match="instead of 101"):
                made.follow(connector, response, 0)
        with pytest.raises(HandshakeError, match="instead of 101"):
            Route(uri=connector.uri).follow(connector, Response(404), 0)


@pytest.mark.parametrize(("uri", "options"), [("wss://a/", ""), ("ws://a/", None)])
def test_the_names_of_options_that_decide_about_trust(uri: str, options: str | None) -> None:
    """Where a redirect leads from ws to wss, `ssl=` is an error: no hint may name it."""
    assert route(uri).trust_options == options
