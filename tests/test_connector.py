"""The client's side of the opening handshake. RFC 6455 4.1."""

from __future__ import annotations

from typing import Any

import pytest
from heads import ACCEPT, KEY, TRAILING, head, in_every_way, names, response, wire
from hypothesis import example, given
from hypothesis import strategies as st
from test_deflate import OPTIONS

from zcws.acceptor import WebSocketAcceptor
from zcws.connector import WebSocketConnector
from zcws.deflate import Deflate
from zcws.errors import HandshakeError
from zcws.extensions import Agreement, DeflateParameters
from zcws.headers import Headers
from zcws.http import Response
from zcws.uri import parse_uri


def connector(uri: str = "ws://server.example.com/chat", **options: Any) -> WebSocketConnector:
    """A connector whose key is that of RFC 6455 1.3."""

    def entropy(size: int) -> bytes:
        assert size == 16
        return b"the sample nonce"

    return WebSocketConnector(uri, entropy=entropy, **{"user_agent_header": None, **options})


def sent(**options: Any) -> list[tuple[str, str]]:
    """The header lines that a connector sends besides those that all have."""
    usual = {"Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"}
    lines = connector(**options).request_head.headers.raw_items()
    return [line for line in lines if line[0] not in usual]


def answered(data: bytes, **options: Any) -> Agreement:
    """What a client makes of a response, which must be the same however its bytes arrive."""
    agreements = []
    for client, found in in_every_way(lambda: Shaking(**options), data):
        assert client.used == len(data)
        agreements.append(client.check(found))
    assert all(agreement == agreements[0] for agreement in agreements)
    return agreements[0]


class Shaking:
    """Reads a response and gives it out together with the connector."""

    def __init__(self, **options: Any) -> None:
        self.connector = connector(**options)

    def __call__(self, data: bytes | bytearray | memoryview) -> tuple[WebSocketConnector, Response] | None:
        found = self.connector.read_response(data)
        if found is None:
            assert self.connector.used == 0
            return None
        return self.connector, found


def extensions(*values: str) -> bytes:
    return response(*[("Sec-WebSocket-Extensions", value) for value in values])


class TestRequest:
    def test_all_of_it(self) -> None:
        """RFC 6455 1.2 and 4.1"""
        assert connector().request() == wire(
            "GET /chat HTTP/1.1\n"
            "Host: server.example.com\n"
            "Upgrade: websocket\n"
            "Connection: Upgrade\n"
            f"Sec-WebSocket-Key: {KEY}\n"
            "Sec-WebSocket-Version: 13"
        )

    def test_a_parsed_uri(self) -> None:
        uri = parse_uri("wss://a:1/b?c")
        made = WebSocketConnector(uri, entropy=bytes)
        assert made.uri is uri
        assert made.request().startswith(b"GET /b?c HTTP/1.1\r\nHost: a:1\r\n")

    def test_every_connection_has_its_own_key(self) -> None:
        numbers = iter(range(2))
        keys = {
            WebSocketConnector("ws://a/", entropy=lambda size: bytes([next(numbers)]) * size).request()
            for _ in range(2)
        }
        assert len(keys) == 2

    def test_all_options(self) -> None:
        assert sent(
            uri="wss://user:word@a/",
            origin="https://b.example",
            subprotocols=["x", "y"],
            compression=Deflate(server_max_window_bits=10),
            no_masking=True,
            additional_headers=[("Cookie", "c=d"), ("Cookie", "e=f")],
            user_agent_header="me",
        ) == [
            ("Origin", "https://b.example"),
            ("Authorization", "Basic dXNlcjp3b3Jk"),
            ("User-Agent", "me"),
            ("Sec-WebSocket-Protocol", "x, y"),
            ("Sec-WebSocket-Extensions", "no-masking"),
            (
                "Sec-WebSocket-Extensions",
                "permessage-deflate; server_max_window_bits=10; client_max_window_bits",
            ),
            ("Cookie", "c=d"),
            ("Cookie", "e=f"),
        ]

    def test_by_default_it_says_what_it_is(self) -> None:
        [value] = [
            line[1]
            for line in WebSocketConnector("ws://a/", entropy=bytes).request_head.headers.raw_items()
            if line[0] == "User-Agent"
        ]
        assert "zcws" in value

    def test_headers_of_the_callers_replace_ours(self) -> None:
        lines = {"host": "b", "ORIGIN": "c", "authorization": "d", "user-agent": "e"}
        made = connector("ws://u:p@a/", user_agent_header="y", additional_headers=lines)
        for name, value in lines.items():
            assert made.request_head.headers[name] == value

    def test_two_origins(self) -> None:
        """`origin` was dropped without a word."""
        with pytest.raises(ValueError, match=r"^Origin is given twice: use one of origin, and Origin in "):
            connector(origin="https://a", additional_headers={"ORIGIN": "https://b"})

    @pytest.mark.parametrize(
        "name",
        [
            *(
                "Upgrade",
                "connection",
                "Sec-WebSocket-Key",
                "Sec-WebSocket-Version",
                "Sec-WebSocket-Protocol",
            ),
            *("Sec-WebSocket-Extensions", "Sec-WebSocket-Accept", "Content-Length", "Transfer-Encoding"),
        ],
    )
    def test_headers_that_are_not_the_callers(self, name: str) -> None:
        with pytest.raises(ValueError, match="opening handshake itself"):
            connector(additional_headers={name: "1"})

    @pytest.mark.parametrize("bad", ["a\r\nX: y", "a\n", "\0"])
    def test_what_cannot_be_sent(self, bad: str) -> None:
        """CR or LF in a header to be sent is a ValueError."""
        for option in ("origin", "user_agent_header"):
            with pytest.raises(ValueError, match="CR, LF, NUL"):
                connector(**{option: bad})
            with pytest.raises(TypeError, match=f"^{option} is a str or None, not "):
                connector(**{option: bad.encode()})
        with pytest.raises(ValueError, match="CR, LF, NUL"):
            connector(additional_headers={"X": bad})
        with pytest.raises(ValueError, match="token"):
            connector(additional_headers={bad: "X"})
        with pytest.raises(ValueError, match="token"):
            connector(subprotocols=[bad])
        with pytest.raises(ValueError, match="URI"):
            connector("ws://a/" + bad)

    def test_other_mistakes(self) -> None:
        with pytest.raises(TypeError, match="list"):
            connector(subprotocols="chat")
        with pytest.raises(ValueError, match="compression"):
            connector(compression="gzip")
        with pytest.raises(ValueError, match="colon"):
            connector("ws://a%3Ab@c/")
        with pytest.raises(ValueError, match="scheme"):
            connector("http://a/")

    @pytest.mark.parametrize(
        "bad", ["a: b", ["a: b"], [("a",)], 5, {"a": 5}, {1: "a"}, {"a b": "x"}, {"a": "\n"}]
    )
    def test_what_are_no_headers(self, bad: Any) -> None:
        """The option is named: who configures several of them must not have to guess."""
        with pytest.raises((TypeError, ValueError), match=r"^additional_headers: "):
            connector(additional_headers=bad)

    def test_a_uri_that_is_no_text(self) -> None:
        with pytest.raises(TypeError, match=r"^a URI is a str"):
            WebSocketConnector(b"ws://host/", entropy=bytes)  # type: ignore[arg-type]


class TestGrant:
    @pytest.mark.parametrize("name", names("response"))
    def test_known_servers(self, name: str) -> None:
        assert answered(head(name), subprotocols=["chat"]).deflate is None

    def test_bytes_after_the_head_are_the_first_frames(self) -> None:
        made, data = connector(), bytearray(response() + TRAILING)
        assert made.read_response(data) is not None
        assert bytes(data[made.used :]) == TRAILING

    def test_interim_responses_are_passed_over(self) -> None:
        """RFC 9110 15.2"""
        interim = wire("HTTP/1.1 100 Continue") + wire("HTTP/1.1 103 Early Hints\nLink: </a>")
        assert answered(interim + response()) == Agreement()

    def test_the_response_gives_its_memory_back(self) -> None:
        made = connector()
        found = made.read_response(response())
        assert found is not None
        made.check(found)
        assert found.headers._items is None
        assert found.headers["Upgrade"] == "websocket"


class TestRefusal:
    @pytest.mark.parametrize("name", [*names("refusal"), *names("redirect")])
    def test_other_statuses(self, name: str) -> None:
        """A HandshakeError with status, headers and up to 64 KiB of body."""
        for made, found in in_every_way(Shaking, head(name)):
            body = made.body_reader(found)
            body.feed(b"2\r\nab\r\n0\r\n\r\n" if "transfer-encoding" in found.headers else b"ab")
            found.body = body.body
            with pytest.raises(HandshakeError, match=f"status {found.status_code} instead of 101") as caught:
                made.check(found)
            assert caught.value.status == found.status_code
            assert caught.value.headers == found.headers
            assert caught.value.body == (b"" if found.headers.get("content-length") == "0" else b"ab")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ([("Sec-WebSocket-Accept", None)], "no Sec-WebSocket-Accept"),
            ([("Sec-WebSocket-Accept", KEY)], "does not answer"),
            ([("Sec-WebSocket-Accept", ACCEPT), ("Sec-WebSocket-Accept", ACCEPT)], "does not answer"),
            ([("Upgrade", None)], 'no "Upgrade'),
            ([("Connection", None)], 'no "Connection'),
            ([("Sec-WebSocket-Protocol", "chat")], "subprotocol that was not offered"),
            ([("Sec-WebSocket-Extensions", "permessage-deflate")], "extension that was not offered"),
            ([("Sec-WebSocket-Extensions", "no-masking")], "extension that was not offered"),
            ([("Sec-WebSocket-Extensions", "x")], "extension that was not offered"),
            ([("Sec-WebSocket-Extensions", "x; =")], "malformed Sec-WebSocket-Extensions"),
            (
                [("Sec-WebSocket-Extensions", 'x; y="'), ("Sec-WebSocket-Extensions", '"')],
                "malformed Sec-WebS",
            ),
        ],
    )
    def test_what_is_no_grant(self, changes: list[tuple[str, str | None]], reason: str) -> None:
        """All the rules for the head are in test_handshake.py."""
        with pytest.raises(HandshakeError, match=reason) as caught:
            answered(response(*changes))
        assert caught.value.status == 101
        assert caught.value.headers is not None
        assert "Upgrade" in caught.value.headers or changes[0][0] == "Upgrade"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"HTTP/1.1 x\r\n", "malformed status line; it began with b'HTTP/1.1 x"),
            (b"HTTP/1.1 101 Yes\n", "ends in LF alone"),
            (wire("HTTP/2.0 101 "), r"only HTTP/1\.1"),
            (wire("HTTP/1.1 101 \nUpgrade : websocket"), "not a token"),
            (b"HTTP/1.1 101 " + b"a" * 9000, "over a limit"),
            (b"HTTP/1.1 101 \r\n" + b"a: b\r\n" * 3000, "over a limit"),
            (wire("HTTP/1.1 101 \n" + "\n".join(["a: b"] * 129)), "over a limit"),
            (wire("HTTP/1.1 100 Continue") * 1000, "over a limit"),
        ],
    )
    def test_what_is_no_response(self, data: bytes, reason: str) -> None:
        with pytest.raises(HandshakeError, match=f"not legal HTTP: .*{reason}") as caught:
            connector().read_response(data)
        assert caught.value.status is None  # nothing was received that had one

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"SSH-2.0-x\r\n", r"the server did not answer with HTTP; it began with b'SSH-2.0-x\r\n'"),
            (b"\r\n", r"the server did not answer with HTTP; it began with b'\r\n'"),
            (b"HTTQ", "the server did not answer with HTTP; it began with b'HTTQ'"),
            (b"h" * 41, f"the server did not answer with HTTP; it began with b'{'h' * 40}' and so on"),
            (b"\x15\x03\x03", "the server answered with TLS: should the scheme be wss://?"),
            (
                b"\0\0\0\4",
                "the server seems to speak HTTP/2, which http2=True is for; "
                "else the SSLContext must not offer it (ALPN); "
                r"it began with b'\x00\x00\x00\x04'",
            ),
        ],
    )
    def test_what_is_no_http_at_all(self, data: bytes, text: str) -> None:
        """Said at once, and not when the time is over: such a server waits for us."""
        with pytest.raises(HandshakeError) as caught:
            connector().read_response(data)
        assert str(caught.value) == text
        assert caught.value.__cause__ is None  # not worth another attempt

    def test_the_end_before_it_is_whole(self) -> None:
        assert "before it answered" in str(connector().cut_short(b""))
        text = (
            "the server closed the connection in the middle of its answer; it began with b'HTTP/1.1 101 Swit'"
        )
        assert str(connector().cut_short(b"HTTP/1.1 101 Swit")) == text

    def test_cut_short_by_a_server_that_speaks_http_2(self) -> None:
        """It tries no other way for want of a cause; where something came, it is as with any server."""
        error = connector().cut_short(b"", OSError("end"), "h2")
        assert "speak HTTP/2" in str(error) and error.__cause__ is None
        assert "in the middle of its answer" in str(connector().cut_short(b"HTTP/1.1", None, "h2"))

    def test_cut_short_for_a_reason(self) -> None:
        error = connector().cut_short(b"", OSError("certificate required"), "http/1.1")
        assert str(error).endswith("before it answered the opening handshake: certificate required")


class TestSubprotocol:
    @pytest.mark.parametrize(("chosen", "offered"), [("a", ["a"]), ("b", ["a", "b"]), (None, ["a"])])
    def test_chosen(self, chosen: str | None, offered: list[str]) -> None:
        agreement = answered(response(("Sec-WebSocket-Protocol", chosen)), subprotocols=offered)
        assert agreement == Agreement(subprotocol=chosen)

    @pytest.mark.parametrize("values", [["c"], ["A"], [""], ["a, b"], ["a", "a"], ["a", "b"]])
    def test_what_was_not_offered(self, values: list[str]) -> None:
        """RFC 6455 4.1, 6"""
        changes = [("Sec-WebSocket-Protocol", value) for value in values]
        with pytest.raises(HandshakeError, match="subprotocol that was not offered"):
            answered(response(*changes), subprotocols=["a", "b"])


class TestExtensions:
    @pytest.mark.parametrize(
        ("options", "values", "agreement"),
        [
            ({"compression": "deflate"}, [], Agreement()),
            ({"compression": "deflate"}, [""], Agreement()),
            ({"compression": "deflate"}, ["permessage-deflate"], Agreement(deflate=DeflateParameters())),
            (
                {"compression": "deflate"},
                ['permessage-deflate; client_max_window_bits="9"'],
                Agreement(deflate=DeflateParameters(client_max_window_bits=9)),
            ),
            ({"no_masking": "insecure"}, ["no-masking"], Agreement(no_masking=True)),
            ({"no_masking": "insecure"}, [], Agreement()),
            (
                {"no_masking": "insecure", "compression": "deflate"},
                ["permessage-deflate, no-masking"],
                Agreement(deflate=DeflateParameters(), no_masking=True),
            ),
            (
                {"no_masking": "insecure", "compression": "deflate"},
                ["no-masking", "permessage-deflate"],
                Agreement(deflate=DeflateParameters(), no_masking=True),
            ),
        ],
    )
    def test_agreed(self, options: dict[str, Any], values: list[str], agreement: Agreement) -> None:
        assert answered(extensions(*values), **options) == agreement

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            (["permessage-deflate, permessage-deflate"], "twice"),
            (["permessage-deflate", "permessage-deflate; server_no_context_takeover"], "twice"),
            (["no-masking, no-masking"], "twice"),
            (["no-masking; x"], "not offered"),
            (["no-masking=1"], "malformed"),
            (["permessage-deflate, x"], "not offered"),
            (["x-webkit-deflate-frame"], "not offered"),
            (["Permessage-Deflate"], "not offered"),
            (["permessage-deflate; client_max_window_bits"], "malformed permessage-.* compression=None"),
            (["permessage-deflate; server_max_window_bits=16"], "malformed permessage-deflate parameters"),
            (["permessage-deflate;"], "malformed"),
        ],
    )
    def test_what_was_not_offered(self, values: list[str], reason: str) -> None:
        """RFC 6455 4.1, 5 and 9.1"""
        with pytest.raises(HandshakeError, match=reason) as caught:
            answered(extensions(*values), compression="deflate", no_masking="insecure")
        assert caught.value.status == 101

    @pytest.mark.parametrize(
        ("uri", "no_masking", "offered"),
        [
            ("ws://a/", False, False),
            ("wss://a/", False, False),
            ("ws://a/", True, False),
            ("wss://a/", True, True),
            ("ws://a/", "insecure", True),
        ],
    )
    def test_no_masking_is_offered_over_tls_only(self, uri: str, no_masking: bool, offered: bool) -> None:
        """draft-damjanovic-websockets-nomasking-02"""
        lines = sent(uri=uri, no_masking=no_masking, compression="deflate")
        assert [value for _, value in lines] == [
            *(["no-masking"] if offered else []),
            "permessage-deflate; client_max_window_bits",
        ]
        if not offered:
            with pytest.raises(HandshakeError, match="extension that was not offered"):
                answered(extensions("no-masking"), uri=uri, no_masking=no_masking, compression="deflate")

    def test_no_masking_is_off_by_default(self) -> None:
        assert sent(uri="wss://a/") == []


class TestCredentials:
    """RFC 7617, RFC 6750."""

    def authorization(self, uri: str = "ws://a/", **options: Any) -> str | None:
        return connector(uri, **options).request_head.headers.get("Authorization")

    def test_none(self) -> None:
        assert self.authorization() is None

    def test_basic(self) -> None:
        assert self.authorization(basic_auth=("user", "p:\xe9")) == "Basic dXNlcjpwOsOp"
        assert self.authorization("ws://user:p%3A%C3%A9@a/") == "Basic dXNlcjpwOsOp"

    def test_bearer(self) -> None:
        assert self.authorization(bearer="abc.def-_~+/=") == "Bearer abc.def-_~+/="

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"basic_auth": ("u\r\nX: y", "p")}, "control characters"),
            ({"basic_auth": ("u", "p\n")}, "control characters"),
            ({"basic_auth": ("u", "p\x7f")}, "control characters"),
            ({"uri": "ws://u%0D%0A:p@a/"}, "control characters"),
            ({"uri": "ws://u%3A:p@a/"}, "colon"),
            ({"basic_auth": ("u:v", "p")}, "colon"),
            ({"basic_auth": "u:p"}, 'a pair of strings: \\("user", "password"\\)'),
            ({"basic_auth": ("u",)}, "a pair of strings"),
            ({"basic_auth": "up"}, "a pair of strings"),
            ({"basic_auth": ("u", 1)}, "a pair of strings"),
            ({"bearer": ""}, "the token alone"),
            ({"bearer": "Bearer abc"}, "the token alone"),
            ({"bearer": "abc\r\nX: y"}, "the token alone"),
            ({"bearer": "abc\n"}, "the token alone"),
            ({"bearer": "\xe4"}, "the token alone"),
            ({"bearer": b"abc"}, "bearer must be a str"),
            ({"basic_auth": ("u", "p"), "bearer": "t"}, "given twice"),
            ({"uri": "ws://u:p@a/", "bearer": "t"}, "given twice"),
            ({"uri": "ws://u:p@a/", "basic_auth": ("u", "p")}, "given twice"),
            ({"bearer": "t", "additional_headers": {"authorization": "x"}}, "given twice"),
        ],
    )
    def test_what_cannot_be_sent(self, options: dict[str, Any], reason: str) -> None:
        with pytest.raises((TypeError, ValueError), match=reason):
            self.authorization(**options)

    @pytest.mark.parametrize("options", [{"basic_auth": ("u", "5ecret")}, {"bearer": "5ecret"}])
    def test_they_stay_with_their_origin(self, options: dict[str, Any]) -> None:
        def follow(location: str) -> WebSocketConnector:
            made = connector("wss://a/b", **options)
            following = made.redirect(Response(302, "", Headers({"Location": location})))
            assert following is not None
            return following

        once = connector("wss://a/b", **options).request_head.headers["Authorization"]
        for location in ("/c", "https://a:443/c", "https://other:q@a/c"):
            assert follow(location).request_head.headers["Authorization"] == once
        for location in ("https://b/c", "https://a:444/c", "https://a.b/c"):
            assert "Authorization" not in follow(location).request_head.headers
            back = follow(location).redirect(Response(302, "", Headers({"Location": "wss://a/back"})))
            assert "Authorization" not in back.request_head.headers  # type: ignore[union-attr]


class TestRedirect:
    """Followed only when asked, never from wss to ws, never with credentials to another host."""

    def follow(
        self, location: str, uri: str = "wss://u:p@a/b", status: int = 302
    ) -> WebSocketConnector | None:
        made = connector(
            uri,
            origin="https://o",
            subprotocols=["x"],
            compression="deflate",
            no_masking=True,
            additional_headers={"Cookie": "c", "Proxy-Authorization": "q", "Host": "h", "X": "kept"},
            user_agent_header="me",
        )
        found = made.read_response(wire(f"HTTP/1.1 {status} \nLocation: {location}"))
        assert found is not None
        return made.redirect(found)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_to_the_same_origin(self, status: int) -> None:
        made = self.follow("/c?d", status=status)
        assert made is not None
        assert made.request().startswith(b"GET /c?d HTTP/1.1\r\n")
        headers = made.request_head.headers
        assert headers["Authorization"] == "Basic dTpw"
        for name, value in {"Cookie": "c", "Proxy-Authorization": "q", "Host": "h", "X": "kept"}.items():
            assert headers[name] == value

    @pytest.mark.parametrize("location", ["https://b/", "https://a:444/", "wss://a.b/"])
    def test_to_another_origin(self, location: str) -> None:
        made = self.follow(location)
        assert made is not None
        headers = made.request_head.headers
        assert headers.keys().isdisjoint(["authorization", "cookie", "proxy-authorization"])
        assert headers["Host"] == made.uri.host_header
        assert headers["X"] == "kept"
        # All else that was asked for is asked for again.
        assert headers["Origin"] == "https://o"
        assert headers["User-Agent"] == "me"
        assert headers["Sec-WebSocket-Protocol"] == "x"
        assert len(headers.get_all("Sec-WebSocket-Extensions")) == 2

    def test_to_tls(self) -> None:
        made = self.follow("https://a/", uri="ws://u:p@a/")
        assert made is not None
        assert made.uri.secure
        assert "Authorization" not in made.request_head.headers
        assert made.request_head.headers.get_all("Sec-WebSocket-Extensions")[0] == "no-masking"

    @pytest.mark.parametrize(
        ("location", "reason"),
        [
            ("ws://a/", "from wss to ws"),
            ("http://b/", "from wss to ws"),
            ("ftp://a/", "ws or wss"),
            ("//", "host"),
            ("wss://user%0A:word@a/", "control characters"),
            ("wss://us%3Aer:word@a/", "colon"),
        ],
    )
    def test_where_a_client_must_not_go(self, location: str, reason: str) -> None:
        with pytest.raises(HandshakeError, match=f"redirect cannot be followed.*{reason}") as caught:
            self.follow(location)
        assert caught.value.status == 302
        assert caught.value.headers is not None

    @pytest.mark.parametrize("status", [101, 200, 300, 304, 305, 404])
    def test_what_is_no_redirect(self, status: int) -> None:
        assert self.follow("/c", status=status) is None

    def test_to_nowhere_and_to_two_places(self) -> None:
        for lines in ("X: y", "Location: /a\nLocation: /b"):
            made = connector()
            found = made.read_response(wire("HTTP/1.1 302 \n" + lines))
            assert found is not None
            assert made.redirect(found) is None


SUBPROTOCOLS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3, unique=True)
NO_MASKING = st.sampled_from([False, True, "insecure"])
SIDE = st.fixed_dictionaries(
    {"subprotocols": SUBPROTOCOLS, "compression": st.none() | OPTIONS, "no_masking": NO_MASKING}
)


class TestBothSides:
    @given(SIDE, SIDE, st.booleans(), st.binary(min_size=16, max_size=16))
    def test_they_settle_the_same(
        self, ours: dict[str, Any], theirs: dict[str, Any], secure: bool, entropy: bytes
    ) -> None:
        uri = "wss://a/" if secure else "ws://a/"
        client = WebSocketConnector(uri, entropy=lambda size: entropy, **ours)
        server = WebSocketAcceptor(secure=secure, **theirs)
        asked = server.read_request(client.request())
        assert asked is not None
        found = client.read_response(server.respond(asked).serialize())
        assert found is not None
        agreement = client.check(found)
        assert agreement == server.agreement
        assert agreement.no_masking == bool(
            ours["no_masking"] and theirs["no_masking"]
            if secure
            else ours["no_masking"] == theirs["no_masking"] == "insecure"
        )
        assert (agreement.deflate is None) == (ours["compression"] is None or theirs["compression"] is None)
        common = [name for name in theirs["subprotocols"] if name in ours["subprotocols"]]
        assert agreement.subprotocol == (common[0] if common else None)


class TestAnyResponse:
    LINES = (
        *("Upgrade: websocket\r\n", "Connection: Upgrade\r\n", f"Sec-WebSocket-Accept: {ACCEPT}\r\n"),
        *("Sec-WebSocket-Extensions: permessage-deflate\r\n", "Sec-WebSocket-Protocol: a\r\n"),
        *("Location: //\xe4[\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 3\r\n"),
    )
    FIRST = ("HTTP/1.1 101 ", "HTTP/1.1 302 ", "HTTP/1.1 100 ")
    PIECES = st.lists(
        st.sampled_from([*FIRST, *LINES, "\r\n", "\r\n\r\n", *(";", '"', ",", "\0", "\xff", "1")]),
        max_size=12,
    ).map("".join)
    #: One that is whole, and what stands behind it: of pieces alone hardly any is, and none would be accepted.
    WHOLE = st.builds(
        lambda first, lines, behind: f"{first}\r\n{''.join(lines)}\r\n{behind}",
        st.sampled_from(FIRST),
        st.lists(st.sampled_from(LINES), unique=True),
        PIECES,
    )

    @given((PIECES | WHOLE).map(lambda text: text.encode("latin-1")) | st.binary())
    @example(f"{FIRST[0]}\r\n{''.join(LINES)}\r\nframes".encode("latin-1"))
    def test_it_is_accepted_or_a_handshake_error(self, data: bytes) -> None:
        """However it is cut; never another exception."""

        def outcome(chunks: list[bytes]) -> object:
            made, arrived = connector(compression="deflate", subprotocols=["a"]), bytearray()
            try:
                for chunk in chunks:
                    arrived += chunk
                    found = made.read_response(arrived)
                    if found is not None:
                        made.redirect(found)
                        body = made.body_reader(found)
                        body.feed(data[made.used :])
                        found.body = body.body
                        return made.check(found), made.used
            except HandshakeError as error:
                return error.reason, error.status, error.body, made.used
            return None

        assert outcome([data]) == outcome([data[at : at + 1] for at in range(len(data))])
