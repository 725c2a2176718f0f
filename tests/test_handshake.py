"""The rules of the opening handshake. RFC 6455 4."""

from __future__ import annotations

import base64

import pytest
from heads import ACCEPT, KEY, head, names, request, response
from hypothesis import given
from hypothesis import strategies as st

from zcws.errors import HandshakeError
from zcws.handshake import (
    SOFTWARE,
    accept_value,
    allows_no_masking,
    basic_authorization,
    check_request,
    check_response,
    make_key,
    parse_basic_authorization,
    same_text,
)
from zcws.headers import Headers
from zcws.http import HttpError, Request, Response
from zcws.http1 import parse_request, parse_response

UPGRADE = {"Upgrade": "websocket"}
ONE_KEY = "not exactly one Sec-WebSocket-Key of 16 bytes in base64"


def read(data: bytes) -> Request:
    return parse_request(data, len(data))


class TestKey:
    def test_the_example(self) -> None:
        """RFC 6455 1.3"""
        assert make_key(b"the sample nonce") == KEY
        assert accept_value(KEY) == ACCEPT

    @given(st.binary(min_size=16, max_size=16))
    def test_any_entropy(self, entropy: bytes) -> None:
        key = make_key(entropy)
        assert base64.b64decode(key, validate=True) == entropy
        assert check_request(read(request(("Sec-WebSocket-Key", key)))) == key

    @pytest.mark.parametrize("size", [0, 15, 17])
    def test_other_amounts_of_entropy(self, size: int) -> None:
        with pytest.raises(ValueError, match="16 bytes"):
            make_key(bytes(size))


class TestRequest:
    """RFC 6455 4.2.1"""

    @pytest.mark.parametrize("name", names("request"))
    def test_known_clients(self, name: str) -> None:
        data = head(name)
        assert check_request(read(data)) == KEY

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("Connection", "keep-alive, Upgrade"),  # Firefox
            ("Connection", "Upgrade,keep-alive"),
            ("Connection", "a ,\tUPGRADE\t, b"),
            ("Connection", ",upgrade,"),
            ("Upgrade", "WebSocket"),
            ("Upgrade", "h2c, websocket"),
            ("Host", "a.example:80"),
            ("Host", "a.example:"),
            ("Host", "[::1]:8080"),
            ("Host", "127.0.0.1"),
            ("Content-Length", "0"),
            ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ("Sec-WebSocket-Key", "//////////////////////=="),  # bits that nothing uses
        ],
    )
    def test_what_is_accepted(self, name: str, value: str) -> None:
        assert check_request(read(request((name, value))))

    def test_lists_over_several_headers(self) -> None:
        data = request(
            ("Connection", "keep-alive"),
            ("connection", "Upgrade"),
            ("Upgrade", "h2c"),
            ("upgrade", "websocket"),
        )
        assert check_request(read(data)) == KEY

    @pytest.mark.parametrize(
        ("name", "values", "status", "reason"),
        [
            ("Upgrade", [], 426, 'no "Upgrade: websocket"'),
            ("Upgrade", [""], 426, 'no "Upgrade: websocket"'),
            ("Upgrade", ["h2c"], 426, 'no "Upgrade: websocket"'),
            ("Upgrade", ["websockets"], 426, 'no "Upgrade: websocket"'),
            ("Upgrade", ["web socket"], 426, 'no "Upgrade: websocket"'),
            ("Upgrade", ["websocket/13"], 426, 'no "Upgrade: websocket"'),
            ("Connection", [], 426, 'no "Connection: Upgrade"'),
            ("Connection", ["keep-alive"], 426, 'no "Connection: Upgrade"'),
            ("Connection", ["close"], 426, 'no "Connection: Upgrade"'),
            ("Connection", ["no-upgrade"], 426, 'no "Connection: Upgrade"'),
            ("Connection", ["upgrade x"], 426, 'no "Connection: Upgrade"'),
            ("Host", [], 400, "not exactly one valid Host"),
            ("Host", [""], 400, "not exactly one valid Host"),
            ("Host", ["a", "a"], 400, "not exactly one valid Host"),
            ("Host", ["a", ""], 400, "not exactly one valid Host"),
            ("Host", ["a, b"], 400, "not exactly one valid Host"),
            ("Host", ["a b"], 400, "not exactly one valid Host"),
            ("Host", ["a/b"], 400, "not exactly one valid Host"),
            ("Host", ["u@a"], 400, "not exactly one valid Host"),
            ("Host", ["a:b"], 400, "not exactly one valid Host"),
            ("Host", ["\xe4"], 400, "not exactly one valid Host"),
            ("Sec-WebSocket-Version", [], 426, "only version 13"),
            ("Sec-WebSocket-Version", ["8"], 426, "only version 13"),
            ("Sec-WebSocket-Version", ["14"], 426, "only version 13"),
            ("Sec-WebSocket-Version", ["013"], 426, "only version 13"),
            ("Sec-WebSocket-Version", ["13", "13"], 426, "only version 13"),
            ("Sec-WebSocket-Version", ["13, 8"], 426, "only version 13"),
            ("Sec-WebSocket-Key", [], 400, ONE_KEY),
            ("Sec-WebSocket-Key", [""], 400, ONE_KEY),
            ("Sec-WebSocket-Key", ["x"], 400, ONE_KEY),
            ("Sec-WebSocket-Key", [KEY, KEY], 400, ONE_KEY),
            ("Sec-WebSocket-Key", [KEY[:-2]], 400, ONE_KEY),
            ("Sec-WebSocket-Key", [KEY + "="], 400, ONE_KEY),
            ("Sec-WebSocket-Key", ["AAAAAAAAAAAAAAAAAAAA"], 400, ONE_KEY),  # 15 bytes
            ("Sec-WebSocket-Key", ["AAAAAAAAAAAAAAAAAAAAAAA="], 400, ONE_KEY),  # 17 bytes
            ("Sec-WebSocket-Key", [KEY.replace("G", "-", 1)], 400, ONE_KEY),
            ("Content-Length", ["1"], 400, "must not have a body"),
            ("Content-Length", ["0", "0"], 400, "must not have a body"),
            ("Content-Length", ["00"], 400, "must not have a body"),
            ("Content-Length", ["a"], 400, "must not have a body"),
            ("Content-Length", [""], 400, "must not have a body"),
            ("Transfer-Encoding", [""], 400, "must not have a body"),
            ("Transfer-Encoding", ["chunked"], 400, "must not have a body"),
            ("Transfer-Encoding", ["identity"], 400, "must not have a body"),
        ],
    )
    def test_what_is_refused(self, name: str, values: list[str], status: int, reason: str) -> None:
        changes: list[tuple[str, str | None]] = [(name, value) for value in values]
        changes = changes or [(name, None)]
        with pytest.raises(HttpError, match=reason) as caught:
            check_request(read(request(*changes)))
        assert caught.value.status == status
        # RFC 9110 15.5.22: a 426 says what to upgrade to. RFC 6455 4.4: and which version.
        assert ("Upgrade" in caught.value.headers) == (status == 426)
        assert ("Sec-WebSocket-Version" in caught.value.headers) == (name == "Sec-WebSocket-Version")

    @pytest.mark.parametrize(
        ("first", "name", "sentence", "by_a_proxy"),
        [
            ("GET / HTTP/1.0", "Upgrade", r"needs HTTP/1\.1", r"needs HTTP/1\.1.*proxy"),
            ("GET / HTTP/1.1", "Upgrade", "connect with a WebSocket client", 'no "Upgrade.*proxy'),
            ("GET / HTTP/1.1", "Connection", 'no "Connection.*proxy', 'no "Connection.*proxy'),
        ],
    )
    def test_a_key_shows_that_a_proxy_has_changed_the_request(
        self, first: str, name: str, sentence: str, by_a_proxy: str
    ) -> None:
        """nginx that is not told otherwise sends HTTP/1.0 and no Upgrade, but passes the key on."""
        with pytest.raises(HttpError, match=by_a_proxy):
            check_request(read(request((name, None), first=first)))
        with pytest.raises(HttpError, match=sentence) as caught:
            check_request(read(request((name, None), ("Sec-WebSocket-Key", None), first=first)))
        assert ("proxy" in caught.value.reason) == ("proxy" in sentence)

    def test_the_version_that_is_spoken_is_named(self) -> None:
        with pytest.raises(HttpError) as caught:
            check_request(read(request(("Sec-WebSocket-Version", "12"))))
        assert caught.value.headers == {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}

    @pytest.mark.parametrize(
        ("first", "reason"),
        [
            ("POST / HTTP/1.1", "must be GET"),
            ("HEAD / HTTP/1.1", "must be GET"),
            ("get / HTTP/1.1", "must be GET"),
            ("GET / HTTP/1.0", r"needs HTTP/1\.1"),
            ("GET * HTTP/1.1", "must be a path"),
            ("GET host:80 HTTP/1.1", "must be a path"),
            ("GET ftp://host/ HTTP/1.1", "must be a path"),
        ],
    )
    def test_the_request_line(self, first: str, reason: str) -> None:
        with pytest.raises(HttpError, match=reason) as caught:
            check_request(read(request(first=first)))
        assert caught.value.status == 400

    def test_a_newer_minor_version(self) -> None:
        """RFC 6455 4.2.1, 1: "an HTTP/1.1 or higher GET request" """
        assert check_request(read(request(first="GET / HTTP/1.2"))) == KEY


class TestResponse:
    """RFC 6455 4.1, the list of what a client must validate"""

    @pytest.mark.parametrize("name", names("response"))
    def test_known_servers(self, name: str) -> None:
        data = head(name)
        check_response(parse_response(data, len(data)), KEY)

    @pytest.mark.parametrize("name", [*names("refusal"), *names("redirect")])
    def test_refusals(self, name: str) -> None:
        data = head(name)
        found = parse_response(data, len(data))
        found.body = b"body"
        with pytest.raises(HandshakeError, match=f"with status {found.status_code} instead of 101") as caught:
            check_response(found, KEY)
        assert caught.value.status == found.status_code
        assert caught.value.headers is found.headers
        assert caught.value.body == b"body"

    @pytest.mark.parametrize(
        ("name", "values", "reason"),
        [
            ("Upgrade", [], 'no "Upgrade: websocket"'),
            ("Upgrade", ["h2c"], 'no "Upgrade: websocket"'),
            ("Upgrade", ["websocket", "h2c"], 'no "Upgrade: websocket"'),
            ("Connection", [], 'no "Connection: Upgrade"'),
            ("Connection", ["keep-alive"], 'no "Connection: Upgrade"'),
            ("Sec-WebSocket-Accept", [], "the response has no Sec-WebSocket-Accept$"),
            ("Sec-WebSocket-Accept", [""], "the response does not answer the request's key"),
            ("Sec-WebSocket-Accept", [KEY], "the response does not answer the request's key"),
            ("Sec-WebSocket-Accept", [ACCEPT.lower()], "the response does not answer the request's key"),
            ("Sec-WebSocket-Accept", [ACCEPT, ACCEPT], "the response does not answer the request's key"),
        ],
    )
    def test_what_is_no_grant(self, name: str, values: list[str], reason: str) -> None:
        changes: list[tuple[str, str | None]] = [(name, value) for value in values]
        data = response(*(changes or [(name, None)]))
        with pytest.raises(HandshakeError, match=reason) as caught:
            check_response(parse_response(data, len(data)), KEY)
        assert caught.value.status == 101

    def test_http_1_0_has_no_upgrade(self) -> None:
        data = response(first="HTTP/1.0 101 Switching Protocols")
        with pytest.raises(HandshakeError, match=r"HTTP/1\.0"):
            check_response(parse_response(data, len(data)), KEY)

    def test_the_key_is_that_of_the_request(self) -> None:
        granted = Response(101, "", Headers([("Upgrade", "websocket"), ("Connection", "upgrade")]))
        granted.headers["Sec-WebSocket-Accept"] = accept_value(make_key(bytes(16)))
        check_response(granted, make_key(bytes(16)))
        with pytest.raises(HandshakeError):
            check_response(granted, KEY)


class TestNoMasking:
    """Off by default, TLS only, "insecure" in so many words."""

    @pytest.mark.parametrize(
        ("option", "over_tls", "in_the_clear"),
        [(False, False, False), (True, True, False), ("insecure", True, True)],
    )
    def test_where(self, option: bool, over_tls: bool, in_the_clear: bool) -> None:
        assert allows_no_masking(option, True) is over_tls
        assert allows_no_masking(option, False) is in_the_clear

    @pytest.mark.parametrize("option", ["secure", "", None, 1])
    def test_other_values(self, option: bool) -> None:
        with pytest.raises(ValueError, match="insecure"):
            allows_no_masking(option, True)


class TestBasicAuthorization:
    """RFC 7617"""

    def test_the_examples(self) -> None:
        assert basic_authorization("Aladdin", "open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        assert basic_authorization("test", "123\xa3") == "Basic dGVzdDoxMjPCow=="  # 2.1: UTF-8
        with pytest.raises(ValueError, match="colon"):
            basic_authorization("te:st", "123")

    @given(
        st.text(st.characters(blacklist_categories=["Cs"])),
        st.text(st.characters(blacklist_categories=["Cs"])),
    )
    def test_what_is_written_is_read(self, username: str, password: str) -> None:
        if ":" in username:
            with pytest.raises(ValueError, match="colon"):
                basic_authorization(username, password)
        else:
            value = basic_authorization(username, password)
            assert parse_basic_authorization(value) == (username, password)
            assert parse_basic_authorization(value.replace("Basic", "bAsIc")) == (username, password)

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "Basic",
            "Basic ",
            "Bearer abc",
            "Bearer dXNlcjp3b3Jk",  # user:word
            "Basic a",
            "Basic YQ==",
            "Basic \xe4",
            "Basic /zo=",
            "BasicYTpi",
        ],
    )
    def test_what_holds_no_credentials(self, value: str) -> None:
        assert parse_basic_authorization(value) is None

    @given(st.text(st.characters(min_codepoint=0, max_codepoint=255)))
    def test_any_value(self, value: str) -> None:
        parse_basic_authorization("Basic " + value)

    def test_comparison(self) -> None:
        """CVE-2021-33880; beyond ASCII, where comparing str would raise."""
        assert same_text("p\xe4ss\u20ac", "p\xe4ss\u20ac")
        assert not same_text("p\xe4ss", "pass")
        assert not same_text("pass", "")


def test_what_we_say_we_are() -> None:
    assert SOFTWARE.startswith("Python/3.")
    assert SOFTWARE.endswith(" zcws")
