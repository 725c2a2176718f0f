"""Heads in the words of HTTP/1.1 and HTTP/2. RFC 8441, RFC 9113."""

from __future__ import annotations

from typing import Any

import pytest

from zcws.acceptor import WebSocketAcceptor
from zcws.connector import WebSocketConnector
from zcws.handshake import accept_value
from zcws.http import Request, Response
from zcws.http1 import parse_request, parse_response
from zcws.http2 import (
    check_request,
    check_trailers,
    is_websocket,
    key_of,
    missing_h2,
    request_from,
    request_to,
    response_from,
    response_to,
)

ASKS = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":path", "/chat?room=1"),
    (":authority", "example.com:8443"),
]


def received(*more: tuple[str, str], asks: Any = ASKS) -> Request:
    head = request_from([*asks, *more])
    return parse_request(head, len(head))


class TestRequestFrom:
    def test_an_opening_handshake_that_an_acceptor_grants(self) -> None:
        request = received(
            ("sec-websocket-version", "13"), ("origin", "https://a"), ("sec-websocket-protocol", "chat, mqtt")
        )
        assert (request.method, request.path, request.version) == ("GET", "/chat?room=1", "HTTP/1.1")
        assert request.headers["host"] == "example.com:8443"
        acceptor = WebSocketAcceptor(subprotocols=["mqtt"], origins=["https://a"])
        assert acceptor.respond(request).status_code == 101
        assert acceptor.agreement is not None and acceptor.agreement.subprotocol == "mqtt"

    def test_the_version_is_checked_as_ever(self) -> None:
        acceptor = WebSocketAcceptor()
        assert acceptor.respond(received(("sec-websocket-version", "8"))).status_code == 426

    def test_what_would_be_said_twice_or_is_of_a_connection(self) -> None:
        request = received(
            ("host", "other.example"),
            ("upgrade", "h2c"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("sec-websocket-key", "of nobody"),
            ("sec-websocket-version", "13"),
        )
        assert request.headers.get_all("host") == ["example.com:8443"]
        assert request.headers.get_all("upgrade") == ["websocket"]
        assert request.headers.get_all("connection") == ["Upgrade"]
        assert "transfer-encoding" not in request.headers
        assert WebSocketAcceptor().respond(request).status_code == 101

    def test_cookies_are_one_line_again(self) -> None:
        """RFC 9113 8.2.3."""
        assert received(("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")).headers.get_all("cookie") == [
            "a=1; b=2"
        ]
        assert "cookie" not in received(("x", "y")).headers

    def test_host_where_there_is_no_authority(self) -> None:
        asks = [(name, value) for name, value in ASKS if name != ":authority"]
        assert received(("host", "a.example"), asks=asks).headers["host"] == "a.example"
        twice = received(("host", "a"), ("host", "b"), ("sec-websocket-version", "13"), asks=asks)
        acceptor = WebSocketAcceptor()
        acceptor.respond(twice)
        assert acceptor.error is not None and "Host" in acceptor.error.reason

    def test_any_other_request_is_what_it_is(self) -> None:
        asks = [(":method", "HEAD"), (":scheme", "https"), (":path", "/page"), (":authority", "a")]
        request = received(("accept", "*/*"), asks=asks)
        assert (request.method, request.path) == ("HEAD", "/page")
        assert "upgrade" not in request.headers and "sec-websocket-key" not in request.headers

    @pytest.mark.parametrize(
        "bad",
        [
            (":path", "/a b"),
            (":path", "/\r\nx: y"),
            (":path", ""),
            (":authority", "a\r\nb: c"),
            ("x", "a\nb"),
        ],
    )
    def test_what_http_1_1_cannot_say(self, bad: tuple[str, str]) -> None:
        fields = [*dict([*ASKS, bad]).items()]
        if bad == (":path", ""):
            fields = [(name, value) for name, value in fields if name != ":path"]
        with pytest.raises(ValueError):
            request_from(fields)

    @pytest.mark.parametrize(
        ("method", "protocol", "is_one"),
        [("CONNECT", "websocket", True), ("CONNECT", "connect-udp", False), ("GET", "websocket", False)],
    )
    def test_which_are_for_a_websocket(self, method: str, protocol: str, is_one: bool) -> None:
        assert is_websocket({":method": method, ":protocol": protocol}) is is_one
        assert not is_websocket({})


def changed(*more: tuple[str, str], **pseudo: str | None) -> list[tuple[str, str]]:
    """ASKS with other pseudo-header fields, or without them, and other fields behind."""
    fields = {name[1:]: value for name, value in ASKS} | pseudo
    return [*((f":{name}", value) for name, value in fields.items() if value is not None), *more]


PLAIN = {"method": "GET", "protocol": None}


class TestCheckRequest:
    """RFC 9113 8.1.1."""

    @pytest.mark.parametrize(
        "fields",
        [
            ASKS,
            changed(("x", ""), ("te", "Trailers"), ("x-y.z", "a \t\xe9\x01"), ("host", "example.com:8443")),
            changed(("host", "a"), authority=None),
            changed(("host", "Example.COM:8443")),
            changed(**PLAIN),
            changed(**PLAIN | {"method": "OPTIONS", "path": "*"}),
            changed(protocol=None, scheme=None, path=None),
        ],
    )
    def test_what_is_legal(self, fields: Any) -> None:
        assert check_request(fields) == {name: value for name, value in fields if name.startswith(":")}

    @pytest.mark.parametrize(
        "fields",
        [
            # 8.2.1
            changed(("X", "y")),
            changed(("", "y")),
            changed(("a:b", "y")),
            changed(("a b", "y")),
            changed(("x\n", "y")),
            changed(("\xe9", "y")),
            changed(("x", " y")),
            changed(("x", "y\t")),
            changed(("x", "a\0b")),
            changed(("x", "a\rb")),
            changed(("x", "a\nb: c")),
            changed(("x", "a\n")),
            changed(path="/\r\nx: y"),
            changed(method="CONNECT "),
            # 8.2.2
            changed(("connection", "close")),
            changed(("keep-alive", "1")),
            changed(("proxy-connection", "close")),
            changed(("transfer-encoding", "chunked")),
            changed(("upgrade", "websocket")),
            changed(("te", "gzip")),
            changed(("te", "trailers, gzip")),
            # 8.3
            changed((":path", "/other")),
            [("x", "y"), *ASKS],
            [*ASKS[:2], ("x", "y"), *ASKS[2:]],
            changed(status="200"),
            changed(other="1"),
            # 8.3.1
            *(changed(**{name: None}) for name in ("method", "scheme", "path", "authority")),
            *(changed(**PLAIN | {name: None}) for name in ("method", "scheme", "path", "authority")),
            changed(path=""),
            changed(path="*"),
            changed(path="?a=b"),
            changed(path="https://example.com/chat"),
            changed(**PLAIN | {"path": "http://example.com/"}),
            changed(("host", "other.example")),
            changed(("host", "a"), ("host", "b"), authority=None),
            # 8.5; RFC 8441 4
            changed(protocol=None),
            changed(method="GET"),
            [],
        ],
    )
    def test_what_is_malformed(self, fields: Any) -> None:
        with pytest.raises(ValueError):
            check_request(fields)


def connector() -> WebSocketConnector:
    return WebSocketConnector(
        "wss://user:word@example.com:444/chat?a=b",
        entropy=bytes,
        origin="https://o",
        subprotocols=["chat"],
        additional_headers={"Cookie": "c=d", "X-Trace": "1"},
    )


class TestRequestTo:
    def test_an_extended_connect(self) -> None:
        fields = request_to(connector().request(), secure=True)
        assert fields[:5] == [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", "example.com:444"),
            (":path", "/chat?a=b"),
        ]
        rest = dict(fields[5:])
        assert all(name == name.lower() for name in rest)
        assert rest["sec-websocket-version"] == "13" and rest["sec-websocket-protocol"] == "chat"
        assert rest["authorization"].startswith("Basic ") and rest["origin"] == "https://o"
        assert rest["cookie"] == "c=d" and rest["x-trace"] == "1"
        assert not {"host", "upgrade", "connection", "sec-websocket-key"} & rest.keys()  # RFC 8441 5

    def test_in_the_clear(self) -> None:
        assert (":scheme", "http") in request_to(connector().request(), secure=False)

    def test_there_and_back(self) -> None:
        head = request_from(request_to(connector().request(), secure=True))
        assert WebSocketAcceptor().respond(parse_request(head, len(head))).status_code == 101

    def test_more_lines_than_are_taken_from_a_peer(self) -> None:
        many = {f"X-{number}": "y" for number in range(200)}
        asking = WebSocketConnector("ws://a/", entropy=bytes, additional_headers=many)
        assert len(request_to(asking.request(), secure=False)) > 200
        assert key_of(asking.request())

    def test_its_key(self) -> None:
        asking = connector()
        assert key_of(asking.request()) == asking.request_head.headers["sec-websocket-key"]


class TestResponseFrom:
    @pytest.mark.parametrize("status", ["200", "204", "299"])
    def test_one_that_grants_it(self, status: str) -> None:
        """RFC 9110 9.3.6: any 2xx."""
        asking = connector()
        fields = [(":status", status), ("sec-websocket-protocol", "chat"), ("content-length", "0")]
        head = response_from(fields, key_of(asking.request()))
        response = asking.read_response(head)
        assert response is not None and response.status_code == 101
        assert asking.check(response).subprotocol == "chat"
        assert "content-length" not in response.headers

    def test_its_rules_are_checked_as_ever(self) -> None:
        asking = connector()
        response = asking.read_response(
            response_from([(":status", "200"), ("sec-websocket-protocol", "x")], key_of(asking.request()))
        )
        assert response is not None
        with pytest.raises(Exception, match="subprotocol that was not offered"):
            asking.check(response)

    @pytest.mark.parametrize("status", ["101", "300", "403", "599"])
    def test_any_other(self, status: str) -> None:
        head = response_from([(":status", status), ("set-cookie", "a=b"), ("set-cookie", "c=d")], "key")
        response = parse_response(head, len(head))
        assert response.status_code == int(status)
        assert response.headers.get_all("set-cookie") == ["a=b", "c=d"]
        assert "upgrade" not in response.headers and "sec-websocket-accept" not in response.headers

    @pytest.mark.parametrize(
        "fields",
        [
            *(
                [(":status", status)]
                for status in (*("40x", "7", "2000", "099", ""), *("+200", "2_00", "0200"))
            ),
            [(":status", "400"), ("a b", "c")],
        ],
    )
    def test_what_is_no_response(self, fields: Any) -> None:
        with pytest.raises(ValueError):
            response_from(fields, "key")


class TestTrailers:
    def test_any(self) -> None:
        check_trailers([("x", "y"), ("te", "trailers")])

    @pytest.mark.parametrize(
        "field",
        [(":path", "/"), (":Status", ""), ("Upper", "y"), ("connection", "y"), ("x", "\0"), ("te", "gzip")],
    )
    def test_what_no_request_may_have(self, field: tuple[str, str]) -> None:
        with pytest.raises(ValueError):
            check_trailers([("x", "y"), field])


class TestResponseTo:
    @pytest.mark.parametrize(
        ("status", "of_websocket", "of_another"),
        [
            (101, 200, 200),
            (200, 400, 200),
            (204, 400, 204),
            (404, 404, 404),
            (426, 400, 400),
            (300, 300, 300),
            (302, 302, 302),
        ],
    )
    def test_status(self, status: int, of_websocket: int, of_another: int) -> None:
        """A 2xx would open the WebSocket, and 101 and 426 there are not. RFC 9110 9.3.6, RFC 9113 8.6."""
        head = Response(status, "", {"Server": "zcws"}).serialize()
        assert response_to(head, is_websocket=True) == [(":status", str(of_websocket)), ("server", "zcws")]
        assert response_to(head, is_websocket=False) == [(":status", str(of_another)), ("server", "zcws")]

    def test_more_lines_than_we_take(self) -> None:
        """A program may say them, as it may over HTTP/1.1."""
        head = Response(403, "", [(f"X{at}", "y") for at in range(200)]).serialize()
        assert len(response_to(head, is_websocket=True)) == 201

    def test_what_is_of_a_connection_is_left_out(self) -> None:
        acceptor = WebSocketAcceptor(compression="deflate")
        asks = ("sec-websocket-extensions", "permessage-deflate")
        granted = acceptor.respond(received(("sec-websocket-version", "13"), asks))
        fields = dict(response_to(granted.serialize(), is_websocket=True))
        assert fields.keys() == {":status", "sec-websocket-extensions", "server"}
        head = Response(403, "", {"Connection": "X-Hop, close", "x-hop": "1", "X-End": "2"}).serialize()
        assert response_to(head, is_websocket=False) == [(":status", "403"), ("x-end", "2")]
        refused = dict(response_to(acceptor.reject(403, "no").serialize("HEAD"), is_websocket=True))
        assert refused.keys() == {":status", "content-type", "content-length", "server"}


def test_a_key_for_those_who_look_for_one_is_one() -> None:
    assert accept_value(received().headers["sec-websocket-key"])


def test_the_extra_that_is_missing() -> None:
    assert "pip install 'zcws[http2]'" in str(missing_h2())
