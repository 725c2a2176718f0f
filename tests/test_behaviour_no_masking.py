"""The section "no-masking" of the behaviours (draft-damjanovic-websockets-nomasking-02)."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import wire
from heads import ACCEPT, KEY, request, response
from pair import Pair, deflated, entropy

from zcws.acceptor import WebSocketAcceptor
from zcws.connection import Connection
from zcws.connector import WebSocketConnector
from zcws.errors import HandshakeError, ProtocolError
from zcws.extensions import Agreement, DeflateParameters

PLAIN = Agreement(no_masking=True)
HEADER = "Sec-WebSocket-Extensions"


def answer(*offers: str, **settings: Any) -> tuple[WebSocketAcceptor, list[str]]:
    acceptor = WebSocketAcceptor(**settings)
    asked = acceptor.read_request(request(*((HEADER, offer) for offer in offers)))
    assert asked is not None
    reply = acceptor.respond(asked)
    assert reply.status_code == 101
    return acceptor, reply.headers.get_all(HEADER)


def agreed(uri: str, *answers: str, **settings: Any) -> Agreement:
    connector = WebSocketConnector(uri, entropy=lambda size: base64.b64decode(KEY), **settings)
    found = connector.read_response(response(*((HEADER, text) for text in answers)))
    assert found is not None and found.headers["Sec-WebSocket-Accept"] == ACCEPT
    return connector.check(found)


def offered(uri: str, **settings: Any) -> list[str]:
    return WebSocketConnector(uri, entropy=entropy(), **settings).request_head.headers.get_all(HEADER)


class TestAgreement:
    def test_off_by_default_on_both_sides(self) -> None:
        for secure in (False, True):
            acceptor, lines = answer("no-masking", secure=secure)
            assert lines == []
            assert acceptor.agreement is not None and not acceptor.agreement.no_masking
        assert offered("wss://host/") == offered("ws://host/") == []
        with pytest.raises(HandshakeError, match="not offered"):
            agreed("wss://host/", "no-masking")

    def test_over_tls_only(self) -> None:
        assert offered("wss://host/", no_masking=True) == ["no-masking"]
        assert offered("ws://host/", no_masking=True) == []
        assert answer("no-masking", no_masking=True, secure=True)[1] == ["no-masking"]
        assert answer("no-masking", no_masking=True, secure=False)[1] == []
        with pytest.raises(HandshakeError, match="not offered"):
            agreed("ws://host/", "no-masking", no_masking=True)

    def test_insecure_in_so_many_words(self) -> None:
        assert offered("ws://host/", no_masking="insecure") == ["no-masking"]
        assert answer("no-masking", no_masking="insecure")[1] == ["no-masking"]
        assert agreed("ws://host/", "no-masking", no_masking="insecure").no_masking

    @pytest.mark.parametrize("value", ["yes", 1, None, "Insecure"])
    def test_no_other_word(self, value: Any) -> None:
        with pytest.raises(ValueError, match="no_masking"):
            WebSocketAcceptor(no_masking=value)

    def test_a_server_that_was_not_offered_it_does_not_answer_it(self) -> None:
        for offers in (
            [],
            ["x-no-masking"],
            ["permessage-deflate"],
            ["no-masking; a=b"],
            ['no-masking; a="b"'],
        ):
            acceptor, lines = answer(*offers, no_masking=True, secure=True)
            assert lines == []
            assert acceptor.agreement is not None and not acceptor.agreement.no_masking

    @pytest.mark.parametrize(
        "offers",
        [
            ["no-masking, permessage-deflate"],
            ["permessage-deflate; client_max_window_bits, no-masking"],
            ["permessage-deflate", "no-masking"],
            ["no-masking", "permessage-deflate"],
            ['x-other; q="a, no-masking"', "permessage-deflate,,\tno-masking\t,"],
        ],
    )
    def test_anywhere_in_any_header_line(self, offers: list[str]) -> None:
        acceptor, lines = answer(*offers, no_masking=True, secure=True, compression="deflate")
        # A line of its own, before the other: the seed recognises it there only.
        assert lines == ["no-masking", "permessage-deflate"]
        assert acceptor.agreement == Agreement(deflate=DeflateParameters(), no_masking=True)

    def test_the_offer_is_a_line_of_its_own_before_the_other(self) -> None:
        first, second = offered("wss://host/", no_masking=True, compression="deflate")
        assert first == "no-masking"
        assert second.startswith("permessage-deflate")

    @pytest.mark.parametrize(
        "answers",
        [
            ["no-masking", "permessage-deflate"],
            ["permessage-deflate", "no-masking"],
            ["permessage-deflate, no-masking"],
        ],
    )
    def test_both_orders_of_the_answer(self, answers: list[str]) -> None:
        agreement = agreed("wss://host/", *answers, no_masking=True, compression="deflate")
        assert agreement == Agreement(deflate=DeflateParameters(), no_masking=True)

    @pytest.mark.parametrize(
        "answers", [["no-masking; a=b"], ["no-masking, no-masking"], ["no-masking", "no-masking"]]
    )
    def test_an_answer_that_is_none(self, answers: list[str]) -> None:
        with pytest.raises(HandshakeError):
            agreed("wss://host/", *answers, no_masking=True)

    def test_a_server_may_decline_it(self) -> None:
        assert not agreed("wss://host/", no_masking=True).no_masking


class TestFrames:
    def test_a_client_sends_every_frame_unmasked(self) -> None:
        pair = Pair(agreement=PLAIN)
        pair.client.send("text")
        pair.client.send(bytes(100_000))
        pair.client.ping(b"p")
        pair.client.send_fragment(b"a", text=False, last=False)
        pair.client.send_fragment(b"b", text=False, last=True)
        pair.client.close()
        pair.pump()
        frames = wire.parse(pair.wire[pair.client])
        assert len(frames) == 6
        assert not any(frame.masked for frame in frames)
        assert pair.received[pair.server][:3] == ["text", bytes(100_000), b"ab"]

    def test_a_masked_frame_fails_with_1002_and_a_close(self) -> None:
        for is_client in (False, True):
            connection = Connection(is_client=is_client, agreement=PLAIN)
            connection.receive_bytes(wire.frame(wire.TEXT, b"masked", key=wire.KEY))
            with pytest.raises(ProtocolError) as caught:
                connection.read_frame()
            assert caught.value.code == 1002
            (close,) = wire.parse(connection.bytes_to_send())
            assert (close.opcode, close.payload[:2], close.masked) == (wire.CLOSE, b"\x03\xea", False)

    def test_without_it_an_unmasked_frame_fails(self) -> None:
        server = Connection(is_client=False)
        server.receive_bytes(wire.frame(wire.TEXT, b"plain"))
        with pytest.raises(ProtocolError) as caught:
            server.read_frame()
        assert caught.value.code == 1002

    def test_together_with_compression(self) -> None:
        pair = Pair(agreement=Agreement(deflate=DeflateParameters(), no_masking=True))
        for connection in (pair.client, pair.server):
            connection.send("again and again, " * 50)
        pair.pump()
        for connection in (pair.client, pair.server):
            (frame,) = wire.parse(pair.wire[connection])
            assert (frame.masked, frame.rsv) == (False, 4)
            assert pair.received[connection] == ["again and again, " * 50]

    def test_a_large_payload_of_a_client_is_not_copied(self) -> None:
        client = Connection(is_client=True, agreement=PLAIN)
        payload = bytes(64 * 1024)
        client.send(payload)
        assert client.take()[1] is payload

    def test_deflate_alone_still_masks(self) -> None:
        pair = Pair(agreement=deflated())
        pair.client.send("again and again, " * 50)
        pair.pump()
        assert wire.parse(pair.wire[pair.client])[0].masked
