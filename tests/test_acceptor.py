"""The server's side of the opening handshake. RFC 6455 4.2."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from heads import ACCEPT, TRAILING, head, in_every_way, names, request, wire
from hypothesis import given
from hypothesis import strategies as st
from test_headers import TOKENS

from zcws.acceptor import AcceptorOptions, WebSocketAcceptor
from zcws.deflate import Deflate
from zcws.extensions import Agreement, DeflateParameters, parse_extensions
from zcws.headers import Headers
from zcws.http import HttpError, Response

GRANTED = (
    "HTTP/1.1 101 Switching Protocols\n"
    "Upgrade: websocket\n"
    "Connection: Upgrade\n"
    f"Sec-WebSocket-Accept: {ACCEPT}"
)


def shake(data: bytes, **options: Any) -> tuple[Response, Agreement | None]:
    """The answer to a request, which must be the same however its bytes arrive."""
    outcomes = []
    for acceptor in in_every_way(lambda: Shaking(**options), data):
        assert acceptor.acceptor.used == len(data)
        outcomes.append((acceptor.response, acceptor.acceptor.agreement))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    return outcomes[0]


class Shaking:
    """Reads a request and answers it as soon as it is there."""

    def __init__(self, **options: Any) -> None:
        self.acceptor = WebSocketAcceptor(**{"server_header": None, **options})
        self.response = Response(0)

    def __call__(self, data: bytes | bytearray | memoryview) -> Shaking | None:
        found = self.acceptor.read_request(data)
        if found is None:
            assert self.acceptor.used == 0
            return None
        self.response = self.acceptor.respond(found)
        return self


def settled(*changes: tuple[str, str | None], **options: Any) -> Agreement:
    response, agreement = shake(request(*changes), **options)
    assert response.status_code == 101
    assert agreement is not None
    return agreement


def refused(*changes: tuple[str, str | None], **options: Any) -> Response:
    response, agreement = shake(request(*changes), **options)
    assert response.status_code != 101
    assert agreement is None
    return response


class TestGrant:
    def test_the_answer(self) -> None:
        """RFC 6455 4.2.2, 5"""
        response, agreement = shake(request())
        assert response.serialize() == wire(GRANTED)
        assert agreement == Agreement()

    @pytest.mark.parametrize("name", names("request"))
    def test_known_clients(self, name: str) -> None:
        response, agreement = shake(head(name), compression="deflate")
        assert response.status_code == 101
        assert response.headers["Sec-WebSocket-Accept"] == ACCEPT
        assert agreement is not None
        offers_deflate = b"permessage-deflate" in head(name)
        assert (
            (agreement.deflate is not None)
            == offers_deflate
            == ("Sec-WebSocket-Extensions" in response.headers)
        )

    def test_bytes_after_the_head_are_the_first_frames(self) -> None:
        acceptor, data = WebSocketAcceptor(), bytearray(request() + TRAILING)
        assert acceptor.read_request(data) is not None
        assert bytes(data[acceptor.used :]) == TRAILING

    def test_more_headers(self) -> None:
        response, _ = shake(request(), extra_headers=[("X", "1"), ("X", "2")], server_header="me")
        assert response.serialize() == wire(f"{GRANTED}\nX: 1\nX: 2\nServer: me")

    def test_a_server_header_of_the_programs_replaces_ours(self) -> None:
        response, _ = shake(request(), extra_headers={"server": "me"})
        assert response.serialize() == wire(f"{GRANTED}\nserver: me")

    def test_a_server_header_that_is_none(self) -> None:
        with pytest.raises(TypeError, match=r"^server_header is a str or None, not 5$"):
            WebSocketAcceptor(server_header=5)

    @pytest.mark.parametrize("server_header", ["ours", None])
    def test_where_the_answer_is_no(self, server_header: str | None) -> None:
        """A 403 said what the 101 did not."""
        options = {"extra_headers": {"server": "me", "X": "1"}, "server_header": server_header}
        answer = WebSocketAcceptor(**options).reject(503, "later")
        assert answer.headers.get_all("Server") == ["me"] and "X" not in answer.headers

    @pytest.mark.parametrize(
        "name",
        [
            "Upgrade",
            "sec-websocket-accept",
            "Sec-WebSocket-Extensions",
            "Content-Length",
            "Transfer-Encoding",
        ],
    )
    def test_what_only_the_handshake_says(self, name: str) -> None:
        """With an extension that nobody had agreed to the first compressed message was 1002."""
        said = f"extra_headers .* handshake itself: leave out {name.lower()}; subprotocols= and compression= "
        with pytest.raises(ValueError, match=said):
            WebSocketAcceptor(extra_headers={"X": "1", name: "2"})

    @pytest.mark.parametrize("value", ["1\r\nY: 2", "1\n", "\0"])
    def test_what_cannot_be_sent(self, value: str) -> None:
        with pytest.raises(ValueError, match=r"^extra_headers: .*'X' must not hold CR, LF, NUL"):
            WebSocketAcceptor(extra_headers={"X": value})
        with pytest.raises(ValueError, match="CR, LF, NUL"):
            WebSocketAcceptor(server_header=value)

    def test_the_request_gives_its_memory_back(self) -> None:
        acceptor = WebSocketAcceptor()
        found = acceptor.read_request(request())
        assert found is not None
        acceptor.respond(found)
        assert found.headers._items is None
        assert found.headers["Host"] == "server.example.com"

    def test_connections_with_the_same_terms_share_an_agreement(self) -> None:
        options = AcceptorOptions(compression=Deflate(), subprotocols=["chat"])
        agreements = []
        for _ in range(2):
            acceptor = WebSocketAcceptor(options)
            found = acceptor.read_request(head("request-chrome"))
            assert found is not None
            acceptor.respond(found)
            agreements.append(acceptor.agreement)
        assert agreements[0] is agreements[1]

    def test_what_is_remembered_is_bounded(self) -> None:
        options = AcceptorOptions(compression=Deflate())
        for number in range(1000):
            acceptor = WebSocketAcceptor(options)
            found = acceptor.read_request(request(("Sec-WebSocket-Extensions", f"x-{number}")))
            assert found is not None
            acceptor.respond(found)
        assert options.settle.cache_info().currsize <= 32  # type: ignore[attr-defined]


class TestRefusal:
    def test_the_answer(self) -> None:
        acceptor = WebSocketAcceptor(server_header="me")
        found = acceptor.read_request(wire("GET / HTTP/1.1\nHost: a"))
        assert found is not None
        response = acceptor.respond(found)
        sentence = (
            "this is a WebSocket server: connect with a WebSocket client"
            ' (no "Upgrade: websocket" in the request)'
        )
        assert (
            response.serialize()
            == wire(
                "HTTP/1.1 426 Upgrade Required\n"
                "Upgrade: websocket\n"
                "Connection: close, Upgrade\n"
                "Content-Type: text/plain; charset=utf-8\n"
                f"Content-Length: {len(sentence) + 1}\n"
                "Server: me"
            )
            + sentence.encode()
            + b"\n"
        )
        assert acceptor.error is not None
        assert acceptor.error.reason == sentence
        assert acceptor.agreement is None

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ([("Upgrade", None)], 426),
            ([("Connection", None)], 426),
            ([("Sec-WebSocket-Version", "8")], 426),
            ([("Host", None)], 400),
            ([("Sec-WebSocket-Key", "x")], 400),
            ([("Content-Length", "5")], 400),
            ([("Transfer-Encoding", "chunked")], 400),
        ],
    )
    def test_what_is_no_handshake(self, changes: list[tuple[str, str | None]], status: int) -> None:
        """All the rules are in test_handshake.py."""
        response = refused(*changes)
        assert response.status_code == status
        assert response.headers["Content-Length"] == str(len(response.body))
        assert "close" in response.headers["Connection"]

    def test_the_version_that_is_spoken_is_named(self) -> None:
        """RFC 6455 4.4"""
        assert refused(("Sec-WebSocket-Version", "25")).headers["Sec-WebSocket-Version"] == "13"

    def test_a_head_that_has_no_body(self) -> None:
        """RFC 9110 9.3.2"""
        response, _ = shake(wire("HEAD / HTTP/1.1\nHost: a"))
        assert (response.status_code, response.body) == (400, b"")
        assert response.headers["Content-Length"] != "0"

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS, to a plain port
            (b"\r\n\r\n", 400),
            (wire("GET / HTTP/2.0"), 505),
            (wire("GET / HTTP/1.1\na : b"), 400),
            (b"GET /" + b"a" * 9000, 431),
            (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 3000, 431),
            (wire("GET / HTTP/1.1\n" + "\n".join(["a: b"] * 129)), 431),
        ],
    )
    def test_what_is_no_request(self, data: bytes, status: int) -> None:
        acceptor = WebSocketAcceptor()
        with pytest.raises(HttpError) as caught:
            acceptor.read_request(data)
        response = acceptor.refuse(caught.value)
        assert response.status_code == status
        assert response.headers["Connection"] == "close"
        assert acceptor.error is caught.value

    def test_an_answer_of_the_callers(self) -> None:
        response = WebSocketAcceptor(server_header="me").reject(503, "come back later", {"Retry-After": "9"})
        assert response.status_code == 503
        assert response.body == b"come back later\n"
        assert (response.headers["Retry-After"], response.headers["Server"]) == ("9", "me")


class TestOrigin:
    """RFC 6455 10.2"""

    @pytest.mark.parametrize(
        ("origins", "origin"),
        [
            (None, "https://any.example"),
            (None, None),
            (["https://a.example"], "https://a.example"),
            (["https://b.example", "https://a.example"], "https://a.example"),
            ([re.compile(r"https://.*\.example")], "https://a.example"),
            (["https://a.example", None], None),
            ([None, "null"], "null"),
        ],
    )
    def test_accepted(self, origins: Any, origin: str | None) -> None:
        settled(("Origin", origin), origins=origins)

    @pytest.mark.parametrize(
        ("origins", "origin"),
        [
            ([], "https://a.example"),
            ([], None),
            ([None], "https://a.example"),
            ([None], "null"),
            ([None], ""),
            (["https://a.example"], None),
            (["https://a.example"], ""),
            (["https://a.example"], "http://a.example"),
            (["https://a.example"], "https://a.example:443"),
            (["https://a.example"], "https://a.example.evil"),
            (["https://a.example"], "null"),
            ([re.compile(r"https://a\.example")], "https://a.example.evil"),  # all of it has to match
            ([re.compile(r".*")], None),
        ],
    )
    def test_refused(self, origins: Any, origin: str | None) -> None:
        assert refused(("Origin", origin), origins=origins).status_code == 403

    def test_two_origins_are_none_of_ours(self) -> None:
        changes = [("Origin", "https://a.example"), ("Origin", "https://a.example")]
        assert refused(*changes, origins=["https://a.example"]).status_code == 403

    def test_what_is_no_handshake_is_that_first(self) -> None:
        assert refused(("Upgrade", None), origins=[]).status_code == 426

    @pytest.mark.parametrize(
        "origins", ["https://a.example", b"a", 5, [5], [b"https://a.example"], [re.compile(b"a")]]
    )
    def test_what_is_no_list_of_them_is_a_mistake(self, origins: Any) -> None:
        with pytest.raises(TypeError, match="origins must be a"):
            WebSocketAcceptor(origins=origins)


class TestSubprotocol:
    @pytest.mark.parametrize(
        ("ours", "offered", "chosen"),
        [
            (None, ["chat"], None),
            ([], ["chat"], None),
            (["chat"], [], None),
            (["chat"], ["chat"], "chat"),
            (["chat"], ["other"], None),
            (["chat"], ["Chat"], None),
            (["a", "b"], ["b, a"], "a"),  # the server's own order
            (["a", "b"], ["c", "b"], "b"),
            (["a"], [", ,a,"], "a"),
            (["a"], [","], None),
            (["a"], ["a, a"], "a"),
        ],
    )
    def test_the_first_of_ours_that_is_offered(
        self, ours: list[str] | None, offered: list[str], chosen: str | None
    ) -> None:
        changes = [("Sec-WebSocket-Protocol", value) for value in offered]
        response, agreement = shake(request(*changes), subprotocols=ours)
        assert agreement == Agreement(subprotocol=chosen)
        assert response.headers.get("Sec-WebSocket-Protocol") == chosen

    @pytest.mark.parametrize("offered", ["a b", "chat, (", '"chat"'])
    def test_a_malformed_list(self, offered: str) -> None:
        assert refused(("Sec-WebSocket-Protocol", offered), subprotocols=["chat"]).status_code == 400
        settled(("Sec-WebSocket-Protocol", offered))  # nobody asks

    def test_a_choice_of_the_callers(self) -> None:
        seen = []

        def last(offered: list[str]) -> str | None:
            seen.append(offered)
            return offered[-1] if offered else None

        agreement = settled(("Sec-WebSocket-Protocol", "a, b"), select_subprotocol=last)
        assert agreement.subprotocol == "b"
        assert settled(select_subprotocol=last).subprotocol is None
        assert ["a", "b"] in seen
        assert [] in seen

    def test_a_choice_that_refuses(self) -> None:
        def none(offered: list[str]) -> str | None:
            raise HttpError(400, "no subprotocol for you")

        assert refused(select_subprotocol=none).body == b"no subprotocol for you\n"

    def test_a_choice_that_nobody_awaits(self) -> None:
        async def choose(offered: list[str]) -> str:
            return offered[0]

        with pytest.raises(
            TypeError, match=r"^select_subprotocol is a plain function, .*choose is a coroutine"
        ):
            AcceptorOptions(select_subprotocol=choose)  # type: ignore[arg-type]
        acceptor = WebSocketAcceptor(select_subprotocol=lambda offered: choose(offered))  # type: ignore[arg-type, return-value]
        found = acceptor.read_request(request(("Sec-WebSocket-Protocol", "a")))
        assert found is not None
        with warnings.catch_warnings(), pytest.raises(ValueError, match="does not offer"):
            warnings.simplefilter("error")
            acceptor.respond(found)

    def test_the_signature_of_another_library(self) -> None:
        with pytest.raises(TypeError, match=r"^select_subprotocol is called with the list of names"):
            AcceptorOptions(select_subprotocol=lambda connection, offered: None)  # type: ignore[arg-type, misc]

    def test_a_choice_that_was_not_offered(self) -> None:
        acceptor = WebSocketAcceptor(select_subprotocol=lambda offered: "b")
        found = acceptor.read_request(request(("Sec-WebSocket-Protocol", "a")))
        assert found is not None
        with pytest.raises(ValueError, match="does not offer"):
            acceptor.respond(found)

    def test_two_ways_to_say_it(self) -> None:
        with pytest.raises(ValueError, match="give one"):
            WebSocketAcceptor(subprotocols=["a"], select_subprotocol=lambda offered: None)

    @pytest.mark.parametrize("name", ["a b", "a\r\nX: y", ""])
    def test_what_is_no_subprotocol(self, name: str) -> None:
        with pytest.raises(ValueError, match="token"):
            WebSocketAcceptor(subprotocols=[name])


def offering(*values: str) -> list[tuple[str, str | None]]:
    return [("Sec-WebSocket-Extensions", value) for value in values]


class TestDeflate:
    """All of the negotiation is in test_deflate.py."""

    def test_off_unless_asked_for(self) -> None:
        response, agreement = shake(request(*offering("permessage-deflate")))
        assert agreement == Agreement()
        assert "Sec-WebSocket-Extensions" not in response.headers

    def test_agreed(self) -> None:
        offered = offering(
            "foo, permessage-deflate; server_max_window_bits=8", "permessage-deflate; client_max_window_bits"
        )
        response, agreement = shake(request(*offered), compression=Deflate(client_max_window_bits=10))
        assert agreement == Agreement(deflate=DeflateParameters(client_max_window_bits=10))
        assert response.headers["Sec-WebSocket-Extensions"] == "permessage-deflate; client_max_window_bits=10"

    @pytest.mark.parametrize("open_quote", ['x; y="', 'x; y="1\\', 'x; y="1, z'])
    def test_a_quote_that_is_not_closed_ends_with_its_line(self, open_quote: str) -> None:
        for offered in ((open_quote, "permessage-deflate"), (open_quote, 'permessage-deflate, z; y="')):
            for values in (offered, offered[::-1]):
                _, agreement = shake(request(*offering(*values)), compression="deflate")
                assert agreement == Agreement(deflate=DeflateParameters())

    @pytest.mark.parametrize(
        "value",
        ["permessage-deflate; server_max_window_bits=8", "permessage-deflate;", ",", "=", '"', "\xe4", ""],
    )
    def test_what_cannot_be_met_is_declined_and_never_fatal(self, value: str) -> None:
        response, agreement = shake(request(*offering(value)), compression="deflate")
        assert agreement == Agreement()
        assert "Sec-WebSocket-Extensions" not in response.headers

    def test_other_names_for_it(self) -> None:
        with pytest.raises(ValueError, match="compression"):
            WebSocketAcceptor(compression="gzip")  # type: ignore[arg-type]


class TestNoMasking:
    """draft-damjanovic-websockets-nomasking-02"""

    @pytest.mark.parametrize(
        ("no_masking", "secure", "agreed"),
        [
            (False, False, False),
            (False, True, False),
            (True, False, False),
            (True, True, True),
            ("insecure", False, True),
            ("insecure", True, True),
        ],
    )
    def test_over_tls_only(self, no_masking: bool, secure: bool, agreed: bool) -> None:
        response, agreement = shake(request(*offering("no-masking")), no_masking=no_masking, secure=secure)
        assert agreement == Agreement(no_masking=agreed)
        assert response.headers.get("Sec-WebSocket-Extensions") == ("no-masking" if agreed else None)

    def test_off_by_default(self) -> None:
        assert not settled(*offering("no-masking"), secure=True).no_masking
        assert not settled(no_masking=True, secure=True).no_masking  # not offered

    @pytest.mark.parametrize(
        "offered",
        [
            ["no-masking"],
            ["no-masking", "permessage-deflate"],
            ["permessage-deflate", "no-masking"],
            ["no-masking, permessage-deflate"],
            ["permessage-deflate; client_max_window_bits, foo ,no-masking"],
            ["no-masking, no-masking"],
            ["x;;", "no-masking"],
            ['x; y="', "no-masking"],
        ],
    )
    def test_wherever_it_stands(self, offered: list[str]) -> None:
        response, agreement = shake(
            request(*offering(*offered)), no_masking=True, secure=True, compression="deflate"
        )
        assert agreement is not None
        assert agreement.no_masking
        # A line of its own, before permessage-deflate: the seed only recognises it there.
        deflate = ["permessage-deflate"] if agreement.deflate else []
        assert response.headers.get_all("Sec-WebSocket-Extensions") == ["no-masking", *deflate]
        assert bool(deflate) == ("permessage-deflate" in str(offered))

    @pytest.mark.parametrize(
        "offered", ["no-masking; x", "no-masking=1", "No-Masking", "no-masking2", '"no-masking"']
    )
    def test_what_is_not_it(self, offered: str) -> None:
        assert not settled(*offering(offered), no_masking="insecure").no_masking

    def test_other_values(self) -> None:
        with pytest.raises(ValueError, match="insecure"):
            WebSocketAcceptor(no_masking="clear")  # type: ignore[arg-type]


class TestAnyRequest:
    NAMES = (
        st.sampled_from(
            [
                "Sec-WebSocket-Extensions",
                "Sec-WebSocket-Protocol",
                "Origin",
                "Host",
                "Upgrade",
                "Connection",
                "Cookie",
            ]
        )
        | TOKENS
    )
    VALUES = st.text(st.sampled_from('permessage-deflate; x="10", no-masking\\=\xe4 ')) | st.sampled_from(
        [
            "permessage-deflate",
            "no-masking",
            "permessage-deflate; client_max_window_bits=9",
            "chat",
            "websocket",
        ]
    )

    @given(st.lists(st.tuples(NAMES, VALUES.map(str.strip)), max_size=5))
    def test_it_is_answered(self, lines: list[tuple[str, str]]) -> None:
        """A 101 that says what was agreed, or an error with a sentence; never another exception."""
        good = request()
        data = good[:-2] + str(Headers(lines)).encode("latin-1") + b"\r\n"
        acceptor = WebSocketAcceptor(compression="deflate", no_masking="insecure", subprotocols=["chat"])
        found = acceptor.read_request(data)
        assert found is not None
        response = acceptor.respond(found)
        response.serialize()
        if response.status_code != 101:
            assert acceptor.agreement is None
            assert response.body
            return
        assert acceptor.agreement is not None
        said = [name for name, _ in parse_extensions(response.headers.get_all("Sec-WebSocket-Extensions"))]
        assert ("permessage-deflate" in said) == (acceptor.agreement.deflate is not None)
        assert ("no-masking" in said) == acceptor.agreement.no_masking
        offered = [
            name
            for name, _ in parse_extensions(
                Headers(lines).get_all("Sec-WebSocket-Extensions"), skip_malformed=True
            )
        ]
        assert set(said) <= set(offered)
        assert response.headers.get("Sec-WebSocket-Protocol") == acceptor.agreement.subprotocol


class TestTerms:
    """What a request gets that C has read: the same as from `WebSocketAcceptor`."""

    def options(self) -> AcceptorOptions:
        """Fresh ones, which remember no answer."""
        return AcceptorOptions(
            subprotocols=["chat", "log"],
            origins=["https://a", None],
            compression="deflate",
            extra_headers={"X": "y"},
            server_header=None,
        )

    @pytest.mark.parametrize("origin", ["https://a", None])
    @pytest.mark.parametrize("protocols", ["log, chat", "other", None])
    @pytest.mark.parametrize("extensions", ["permessage-deflate", "a b", None])
    def test_they_are_the_same(
        self, origin: str | None, protocols: str | None, extensions: str | None
    ) -> None:
        acceptor = WebSocketAcceptor(self.options())
        found = acceptor.read_request(
            request(
                ("Origin", origin),
                ("Sec-WebSocket-Protocol", protocols),
                ("Sec-WebSocket-Extensions", extensions),
            )
        )
        assert found is not None
        answer = acceptor.respond(found).serialize()
        terms = self.options().terms(origin, protocols, extensions)
        assert terms is not None
        assert terms[0] == acceptor.agreement
        assert (terms[0].subprotocol, terms[0].deflate is not None) == (
            "chat" if protocols == "log, chat" else None,
            extensions == "permessage-deflate",
        )
        assert answer.endswith(ACCEPT.encode() + terms[1])

    @pytest.mark.parametrize(("origin", "protocols"), [("https://b", None), ("https://a", "a b")])
    def test_what_has_to_be_answered_otherwise(self, origin: str, protocols: str | None) -> None:
        assert self.options().terms(origin, protocols, None) is None

    def test_a_function_that_selects_is_asked_elsewhere(self) -> None:
        assert AcceptorOptions(select_subprotocol=lambda offered: None).terms(None, "a", None) is None


def test_before_anything_has_come() -> None:
    acceptor = WebSocketAcceptor()
    assert (acceptor.used, acceptor.agreement, acceptor.error) == (0, None, None)
