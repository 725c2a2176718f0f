"""Requests and responses of HTTP. RFC 9110."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from zcws.errors import HandshakeError
from zcws.headers import Headers
from zcws.http import HttpError, Request, Response, method_refusal, text_response, whole_response


class TestSerialize:
    def test_request(self) -> None:
        assert Request("/a?b", Headers({"Host": "c"})).serialize() == b"GET /a?b HTTP/1.1\r\nHost: c\r\n\r\n"
        assert Request("/").serialize() == b"GET / HTTP/1.1\r\n\r\n"

    def test_response(self) -> None:
        made = Response(200, "OK", Headers({"A": "\xe4"}), b"body")
        assert made.serialize() == b"HTTP/1.1 200 OK\r\nA: \xe4\r\n\r\nbody"
        assert Response(200).serialize() == b"HTTP/1.1 200 \r\n\r\n"

    @pytest.mark.parametrize(("status", "method"), [(204, "GET"), (304, "GET"), (200, "HEAD")])
    def test_a_response_that_has_no_body(self, status: int, method: str) -> None:
        made = Response(status, "", Headers({"A": "b"}), b"body")
        assert made.serialize(method) == b"HTTP/1.1 %d \r\nA: b\r\n\r\n" % status

    @pytest.mark.parametrize("name", ["content-length", "Content-Length", "Transfer-Encoding"])
    def test_a_204_does_not_say_how_long_its_body_is(self, name: str) -> None:
        """RFC 9110 8.6: a 204 MUST NOT. A 304 may: it is the length that a 200 would have had."""
        made = [Response(status, "", [(name, "0"), ("A", "b"), ("A", "c")]) for status in (204, 304)]
        assert made[0].serialize() == b"HTTP/1.1 204 \r\nA: b\r\nA: c\r\n\r\n"
        assert name.encode() in made[1].serialize() and name in made[0].headers

    @pytest.mark.parametrize("path", ["/\r\nA: b", "/ b", "", "/\n", "/\0", "/\u20ac", "/ HTTP/1.1\r\nA:"])
    def test_a_path_that_would_break_out(self, path: str) -> None:
        with pytest.raises(ValueError, match="first line"):
            Request(path).serialize()

    @pytest.mark.parametrize("method", ["", "G T", "GET\r\n", "\r\nGET"])
    def test_a_method_that_would_break_out(self, method: str) -> None:
        with pytest.raises(ValueError, match="first line"):
            Request("/", method=method).serialize()

    @pytest.mark.parametrize("reason", ["a\r\nB: c", "\r", "\n", "\0", "\u20ac", "a\r\n\r\n"])
    def test_a_reason_phrase_that_would_break_out(self, reason: str) -> None:
        with pytest.raises(ValueError, match="first line"):
            Response(200, reason).serialize()


class TestHeadsOfTheProgram:
    """A mapping went out as Python shows it, in the place of the headers."""

    @pytest.mark.parametrize("headers", [{"X": "1"}, [("X", "1")], Headers({"X": "1"})])
    def test_headers_may_be_given_as_they_are_elsewhere(self, headers: Any) -> None:
        assert Response(200, "OK", headers).serialize() == b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n"
        assert Request("/", headers).serialize() == b"GET / HTTP/1.1\r\nX: 1\r\n\r\n"

    def test_equality(self) -> None:
        assert Response(200) == Response(200) != Response(404)
        assert Response(200) != 200 and Request("/") != "/"

    def test_headers_are_not_copied(self) -> None:
        headers = Headers()
        assert Response(200, "OK", headers).headers is headers and Request("/", headers).headers is headers

    @pytest.mark.parametrize("wrong", [{"body": "text"}, {"reason_phrase": None}, {"status_code": "200"}])
    def test_what_is_no_response(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="the body is bytes"):
            Response(**{"status_code": 200, "reason_phrase": "OK", **wrong})

    def test_rfc9110_8_6_no_content_has_no_length(self) -> None:
        for status in (204, 304):
            assert "Content-Length" not in text_response(status, "", end="").headers
            assert text_response(status, "").body == b""
            assert text_response(status, "which has no place there").body == b""
        assert text_response(200, "", end="").headers["Content-Length"] == "0"


def test_a_text_is_a_str() -> None:
    """A page is bytes, mostly; the log of a hook that gives them to `respond` says what takes them."""
    with pytest.raises(TypeError, match=r"^respond\(\) takes a str, not bytes: return zcws\.Response"):
        text_response(200, b"<p>")  # type: ignore[arg-type]


class TestPages:
    def test_a_whole_response(self) -> None:
        assert whole_response(200, "image/png", b"\0", {"X": "y"}).serialize() == (
            b"HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\nContent-Type: image/png\r\nContent-Length: 1\r\n\r\n\0"
        )

    def test_only_get_and_head_lead_to_one(self) -> None:
        assert method_refusal("GET") is method_refusal("HEAD") is None
        refusal = method_refusal("POST")
        assert (refusal.status_code, refusal.headers["Allow"]) == (405, "GET, HEAD")


class TestTextResponse:
    def test_it_says_one_sentence(self) -> None:
        assert text_response(404, "not h\xe9re", {"X": "y"}).serialize() == (
            b"HTTP/1.1 404 Not Found\r\nX: y\r\nConnection: close\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 10\r\n\r\nnot h\xc3\xa9re\n"
        )

    def test_upgrade_is_named_in_connection(self) -> None:
        """RFC 9110 7.8"""
        assert text_response(426, "", {"Upgrade": "websocket"}).headers["Connection"] == "close, Upgrade"

    def test_a_status_without_words(self) -> None:
        assert text_response(599, "").serialize().startswith(b"HTTP/1.1 599 \r\n")

    def test_headers_are_checked(self) -> None:
        with pytest.raises(ValueError, match="CR, LF, NUL"):
            text_response(200, "", {"a": "b\r\nc: d"})


def test_heads_are_equal_by_what_they_say() -> None:
    assert Request("/a") == Request("/a", Headers()) != Request("/b")
    assert Response(200, "OK") == Response(200, "OK", Headers(), b"") != Response(200, "OK", body=b"x")
    assert Request("/a") != Response(200)
    known = Request("/a")
    known.username = "who has shown a password"
    assert known == Request("/a")


def test_heads_are_shown_without_their_headers() -> None:
    """They may hold credentials."""
    headers = Headers({"Authorization": "Basic c2VjcmV0"})
    assert repr(Request("/a", headers)) == "<Request GET /a HTTP/1.1>"
    assert repr(Response(200, "OK", headers, b"abc")) == "<Response HTTP/1.1 200 OK, 3 bytes>"


def test_an_http_error_is_a_handshake_error() -> None:
    error = HttpError(400, "a sentence")
    assert isinstance(error, HandshakeError)
    assert (error.status, error.reason, error.headers, str(error)) == (400, "a sentence", {}, "a sentence")


def test_an_http_error_survives_a_copy() -> None:
    error = HttpError(426, "a sentence", {"Upgrade": "websocket"}, seen="GET")
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(copied), vars(copied), str(copied)) == (HttpError, vars(error), str(error))


def test_a_request_has_no_user_until_somebody_has_found_one() -> None:
    assert Request("/").username is None
