"""WebSocket URIs. RFC 6455 3, RFC 3986."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcws.uri import WebSocketURI, parse_uri, resolve_redirect


class TestParse:
    @pytest.mark.parametrize(
        ("uri", "parts"),
        [
            ("ws://example.com", (False, "example.com", 80, "/")),
            ("wss://example.com", (True, "example.com", 443, "/")),
            ("WSS://EXAMPLE.com/A", (True, "example.com", 443, "/A")),
            ("ws://example.com:8080/chat", (False, "example.com", 8080, "/chat")),
            ("ws://example.com:/", (False, "example.com", 80, "/")),
            ("ws://example.com/a/b;c?d=e&f=/?", (False, "example.com", 80, "/a/b;c?d=e&f=/?")),
            ("ws://example.com?a", (False, "example.com", 80, "/?a")),
            # RFC 6455 3: only where it is non-empty.
            ("ws://example.com/a?", (False, "example.com", 80, "/a")),
            ("ws://127.0.0.1:1/", (False, "127.0.0.1", 1, "/")),
            ("ws://my_host.:65535", (False, "my_host.", 65535, "/")),
            ("ws://[::1]:8080/", (False, "::1", 8080, "/")),
            ("ws://[2001:DB8::0:1]", (False, "2001:db8::1", 80, "/")),
            ("ws://[FE80::A%25Eth0]/", (False, "fe80::a%Eth0", 80, "/")),  # names of interfaces have capitals
            ("ws://b\xfccher.example/", (False, "xn--bcher-kva.example", 80, "/")),
            ("ws://xn--bcher-kva.example/", (False, "xn--bcher-kva.example", 80, "/")),
            ("ws://a/\xe9?\u20ac", (False, "a", 80, "/%C3%A9?%E2%82%AC")),
            ("ws://a/%2f%20", (False, "a", 80, "/%2f%20")),
            ('ws://a/"<>^`{|}', (False, "a", 80, "/%22%3C%3E%5E%60%7B%7C%7D")),
        ],
    )
    def test_parts(self, uri: str, parts: tuple[bool, str, int, str]) -> None:
        found = parse_uri(uri)
        assert (found.secure, found.host, found.port, found.path) == parts
        assert found.user_info is None

    @pytest.mark.parametrize(
        ("uri", "reason"),
        [
            ("", "not a URI"),
            ("example.com", "not a URI"),
            ("ws:example.com", "not a URI"),
            ("//example.com/", "not a URI"),
            ("ws//example.com", "not a URI"),
            ("http://example.com/", "ws or wss, not http"),
            ("https://example.com/", "ws or wss"),
            ("wsss://example.com/", "ws or wss"),
            ("ws://example.com/#", "fragment"),  # RFC 6455 3
            ("ws://example.com/#a", "fragment"),
            ("ws://example.com?a#b", "fragment"),
            ("ws://example.com#", "fragment"),
            ("ws://example.com:0/", "port"),
            ("ws://example.com:65536/", "port"),
            ("ws://example.com:999999999999/", "port"),
            ("ws://example.com:000443/", "port"),
            ("ws://example.com:a/", "port of a WebSocket URI must be 1 to 65535"),
            ("ws://example.com:-1/", "port of a WebSocket URI must be 1 to 65535"),
            ("ws://example.com:65536/", "port of a WebSocket URI must be 1 to 65535, not 65536$"),
            ("ws://example.com:0/", "port of a WebSocket URI must be 1 to 65535, not 0$"),
            ("ws://user:123456", "port of a WebSocket URI must be 1 to 65535$"),
            ("ws://example.com:\u0661/", "port"),
            ("ws://a:1:2/", "not a URI"),
            ("ws:///path", "host"),
            ("ws://:80/", "host"),
            ("ws://user@/", "host"),
            ("ws://a..b/", "host"),
            ("ws://.a/", "host"),
            ("ws://-a/", "host"),
            ("ws://a,b/", "host"),
            ("ws://a%41/", "host"),
            ("ws://" + "a." * 127 + "a", "missing or not a host name"),
            ("ws://" + "a" * 64 + ".com/", "missing or not a host name"),
            ("ws://a." + "b" * 64, "missing or not a host name"),
            ("ws://" + "\xfc" * 62 + ".com/", "IDNA"),
            # Before IDNA's codec, which says another thing.
            ("ws://" + "\xfc" * 255, "missing or not a host name"),
            ("ws://\u2028/", "IDNA"),
            ("ws://\xfc..a/", "IDNA"),
            ("ws://[::1/", "not a URI"),
            ("ws://::1/", "not a URI"),
            ("ws://[]/", "IPv6"),
            ("ws://[127.0.0.1]/", "IPv6"),
            ("ws://[::g]/", "IPv6"),
            ("ws://[::1]a/", "not a URI"),
            ("ws://a@b@c/", "not a URI"),
            ("ws://a\\b/", "backslash"),
            ("ws://a/ b", "white space"),
            ("ws://a/\tb", "white space"),
            ("ws://a/\r\nb", "white space"),
            ("ws://a/\x00", "control"),
            (" ws://a/", "white space"),
            ("ws://a/\n", "white space"),
        ],
    )
    def test_what_is_none(self, uri: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            parse_uri(uri)

    def test_the_longest_name(self) -> None:
        """RFC 1035 2.3.4"""
        for name in ("a." * 127, f"{'a' * 63}.{'b' * 63}."):
            assert parse_uri(f"ws://{name}/").host == name

    @pytest.mark.parametrize(
        ("uri", "user_info"),
        [
            ("ws://user:pass@a/", ("user", "pass")),
            ("ws://user@a/", ("user", "")),
            ("ws://user:@a/", ("user", "")),
            ("ws://:pass@a/", ("", "pass")),
            ("ws://@a/", ("", "")),
            ("ws://a:b:c@a/", ("a", "b:c")),
            ("ws://us%40er:p%3A%20%C3%A9@a/", ("us@er", "p: \xe9")),
        ],
    )
    def test_credentials(self, uri: str, user_info: tuple[str, str]) -> None:
        found = parse_uri(uri)
        assert found.user_info == user_info
        assert found.host == "a"

    @pytest.mark.parametrize("user_info", ["user:p%E9ss", "us%E9r:pass", "us%E9r"])
    def test_credentials_that_are_no_text(self, user_info: str) -> None:
        """U+FFFD was sent in place of what is no UTF-8."""
        with pytest.raises(ValueError, match=r"of a WebSocket URI must be percent-encoded UTF-8$") as caught:
            parse_uri(f"ws://{user_info}@a/")
        assert caught.value.__cause__ is None and caught.value.__suppress_context__

    def test_credentials_are_not_shown(self) -> None:
        found = parse_uri("wss://user:pass@a:1/b?token=pass")
        assert "user:pass" not in repr(found)
        assert found.shown == "wss://a:1/b"

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        for uri in (text, "ws://" + text, "ws://a/" + text, "ws://[" + text + "]", "ws://" + text + "@a"):
            try:
                found = parse_uri(uri)
            except ValueError:
                continue
            assert found.path.isascii()
            assert found.path.isprintable()
            assert found.path.startswith("/")
            assert found.host_header.isascii()
            assert parse_uri(f"ws://{found.host_header}{found.path}").path == found.path

    @pytest.mark.parametrize("uri", [b"ws://user:secret@host/", None, 5])
    def test_what_is_no_text(self, uri: object) -> None:
        with pytest.raises(TypeError) as wrong:
            parse_uri(uri)  # type: ignore[arg-type]
        kind = type(uri).__name__
        assert str(wrong.value) == f'a URI is a str such as "ws://host/path", not an object of type {kind}'


class TestHostHeader:
    """RFC 6455 4.1: the port is there unless it is the scheme's own."""

    @pytest.mark.parametrize(
        ("uri", "host"),
        [
            ("ws://A.example/", "a.example"),
            ("ws://a:80/", "a"),
            ("ws://a:443/", "a:443"),
            ("wss://a:443/", "a"),
            ("wss://a:80/", "a:80"),
            ("ws://u:p@a:81/", "a:81"),
            ("ws://[::1]/", "[::1]"),
            ("wss://[::1]:81/", "[::1]:81"),
            ("ws://[fe80::1%25eth0]:81/", "[fe80::1]:81"),  # RFC 6874 4
        ],
    )
    def test_host(self, uri: str, host: str) -> None:
        assert parse_uri(uri).host_header == host


class TestRedirect:
    """Never from wss to ws, never with credentials to another host."""

    @pytest.mark.parametrize(
        ("uri", "location", "target"),
        [
            ("ws://a/b?c", "/d?e", "ws://a/d?e"),
            ("ws://a/b/c", "d", "ws://a/b/d"),
            ("ws://a/b?c", "?d", "ws://a/b?d"),
            ("ws://a/b", "//c/d", "ws://c/d"),
            ("ws://a/b", "http://c/d", "ws://c/d"),
            ("ws://a/b", "HTTPS://c/d", "wss://c/d"),
            ("ws://a/b", "wss://c/d#e", "wss://c/d"),
            ("wss://a/b", "https://a:444/d", "wss://a:444/d"),
            ("wss://a/b", "/d", "wss://a/d"),
            ("wss://[::1]:444/b", "/d", "wss://[::1]:444/d"),
            # RFC 3986 5.2.4: nothing leads above the root, and nothing of a path becomes the host's name.
            ("wss://a/", "/../.b.example/c", "wss://a/.b.example/c"),
            ("wss://a/", "../.b.example/c", "wss://a/.b.example/c"),
            ("ws://a:81/b?c", "../../d?e", "ws://a:81/d?e"),
            ("ws://[::1]:81/b/c", "../../../d", "ws://[::1]:81/d"),
        ],
    )
    def test_targets(self, uri: str, location: str, target: str) -> None:
        assert resolve_redirect(parse_uri(uri), location) == parse_uri(target)

    @pytest.mark.parametrize(
        ("location", "reason"),
        [
            ("ws://a/", "from wss to ws"),
            ("http://a/", "from wss to ws"),
            ("ftp://a/", "ws or wss"),
            ("javascript:alert(1)", "not a URI"),
            ("https:///", "host"),
            ("https://b/ c", "not a URI"),
            ("/\x7f", "not a URI"),
            ("\\\\b", "not a URI"),
        ],
    )
    def test_where_a_client_must_not_go(self, location: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            resolve_redirect(parse_uri("wss://a/"), location)

    @pytest.mark.parametrize(
        ("location", "user_info"),
        [
            ("/b", ("u", "p")),
            ("https://a/b", ("u", "p")),
            ("https://a:443/b", ("u", "p")),
            ("https://a:444/b", None),
            ("https://b/", None),
            ("https://a.b/", None),
            ("https://v:q@b/", ("v", "q")),
            ("https://v:q@a/", ("v", "q")),
        ],
    )
    def test_credentials_stay_with_their_origin(
        self, location: str, user_info: tuple[str, str] | None
    ) -> None:
        assert resolve_redirect(parse_uri("wss://u:p@a/"), location).user_info == user_info

    def test_bytes_that_are_no_ascii_go_back_as_they_came(self) -> None:
        location = "/\u00fc".encode().decode("latin-1")  # as headers hold what a server sent in UTF-8
        assert resolve_redirect(parse_uri("ws://a/"), location).path == "/%C3%BC"
        assert resolve_redirect(parse_uri("ws://a/"), "/b?\xfc").path == "/b?%FC"
        with pytest.raises(ValueError, match="host"):  # and not the name that these bytes are in Latin-1
            resolve_redirect(parse_uri("ws://a/"), "ws://" + location[1:])

    def test_to_tls_is_another_origin(self) -> None:
        target = resolve_redirect(parse_uri("ws://u:p@a/"), "https://a/")
        assert (target.secure, target.user_info) == (True, None)

    def test_a_zone_stays(self) -> None:
        target = resolve_redirect(parse_uri("ws://[fe80::1%25eth0]/"), "/b")
        assert target == WebSocketURI(False, "fe80::1%eth0", 80, "/b")
