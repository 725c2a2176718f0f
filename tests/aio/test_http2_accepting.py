"""A server that speaks HTTP/2, against a client that is h2 by hand; and who speaks what."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import wire
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from net import Place, echo, hang_up, port_of, request, run, soon, until
from tunnel import ANSWER, CLOSE, HELLO, Peer, knock, serve

import zcws
from zcws.aio import http2_accepting, http2_frames
from zcws.aio.http2_accepting import Http2Server, Negotiation
from zcws.aio.settings import pool_of
from zcws.http2 import PREFACE

# ---- requests ----


def test_requests_that_are_refused_before_they_have_ended() -> None:
    """They do not count as open: a client may have 100 of those."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            for _ in range(101):
                number = await peer.ask(method="CONNECT", protocol="", scheme="", path="")
                assert await peer.status(number) == "501"
                await peer.until(StreamEnded, number)
                assert (await peer.until(StreamReset, number)).error_code == ErrorCodes.NO_ERROR

    run(main)


def test_websockets_that_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a proxy does for everybody who hangs up: that is no attack, and others share its connection."""
    monkeypatch.setattr(http2_accepting, "_RESETS", 2)
    monkeypatch.setattr(http2_accepting, "_RESETS_A_SECOND", 0)

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            first = await peer.opened()
            for _ in range(5):
                peer.h2.reset_stream(await peer.opened(), ErrorCodes.CANCEL)
            await peer.send(first, HELLO)
            assert await peer.data(first, len(ANSWER)) == ANSWER
            await peer.send(first, CLOSE, end_stream=True)

    run(main)


@pytest.mark.parametrize(("at_once", "a_second"), [(5, 0), (0, 10**9), (0, 2)])
def test_requests_that_are_reset_now_and_then(
    at_once: int, a_second: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few at once, and a connection that lives for long may do so again and again."""
    monkeypatch.setattr(http2_accepting, "_RESETS", at_once)
    monkeypatch.setattr(http2_accepting, "_RESETS_A_SECOND", a_second)

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            await peer.until(SettingsAcknowledged)
            (connection,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            connection._began_at -= 10
            for _ in range(15 if a_second == 2 else 5):
                await peer.until(StreamReset, await peer.ask("*"))
            await peer.send(await peer.opened(), CLOSE, end_stream=True)

    run(main)


@pytest.mark.parametrize("kind", [Negotiation, Http2Server])
def test_the_patience_with_who_has_asked_for_nothing_ends_when_he_has(kind: type[object]) -> None:
    """Or all connections would end after `open_timeout`, or take no more streams."""
    timers: list[tuple[tuple[Any, ...], asyncio.TimerHandle]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def note(seconds: float, callback: Any, *arguments: Any) -> asyncio.TimerHandle:
            timers.append(((callback, *arguments), call_later(seconds, callback, *arguments)))
            return timers[-1][1]

        loop.call_later = note  # type: ignore[method-assign,assignment]
        async with serve() as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            patience = [
                timer
                for said, timer in timers
                if any(isinstance(getattr(part, "__self__", None), kind) for part in said)
            ]
            assert [timer.cancelled() for timer in patience] == [True]
            await peer.send(number, CLOSE, end_stream=True)

    run(main)


def test_a_client_that_does_not_read_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its WebSockets give up, and then there is nobody but the connection to wait for it."""
    monkeypatch.setattr(http2_accepting, "_IDLE", 0.05)

    async def main() -> None:
        async def push(ws: zcws.WebSocket) -> None:
            while True:
                await ws.send(bytes(60_000))

        async with serve(push, write_timeout=0.05, close_timeout=0.05) as server:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", port_of(server), limit=1), is_client=True)
            await peer.begin(INITIAL_WINDOW_SIZE=2**30)
            peer.h2.increment_flow_control_window(2**30)
            await peer.opened()
            await until(lambda: not server.handshakes)
            await peer.close()

    run(main)


@pytest.mark.parametrize("case", ["another CONNECT", "no legal head", "going away"])
def test_a_request_that_is_refused_and_has_been_reset_already(case: str) -> None:
    """In one read: it is nobody's end but its own."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            first, second = await peer.opened(), peer.h2.get_next_available_stream_id()
            if case == "going away":
                server.close(drain=None)
                await peer.until(ConnectionTerminated)
            fields = [(":method", "GET"), (":scheme", "http"), (":path", "/a b"), (":authority", "a")]
            if case == "another CONNECT":
                fields = [(":method", "CONNECT"), (":authority", "a")]
            peer.h2.send_headers(second, fields)
            peer.h2.reset_stream(second, ErrorCodes.CANCEL)
            await peer.send(first, HELLO)
            assert await peer.data(first, len(ANSWER)) == ANSWER
            await peer.send(first, CLOSE, end_stream=True)

    run(main)


def test_a_server_that_drains_lets_in_whoever_has_not_asked_yet() -> None:
    """As over HTTP/1.1. He gets one stream; the next is for the next server."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            await until(lambda: any(isinstance(arriving, Http2Server) for arriving in server.handshakes))
            server.close(drain=None)
            for _ in range(3):
                await asyncio.sleep(0)
            first = await peer.opened()
            await peer.until(ConnectionTerminated)
            await peer.send(first, HELLO)
            assert await peer.data(first, len(ANSWER)) == ANSWER
            await peer.send(first, CLOSE, end_stream=True)
            await soon(server.wait_closed())

    run(main)


def test_many_websockets_on_one_connection() -> None:
    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            numbers = [await peer.ask(f"/{i}") for i in range(100)]
            for number in numbers:
                assert await peer.status(number) == "200"
                await peer.send(number, HELLO)
            for number in reversed(numbers):
                assert await peer.data(number, len(ANSWER)) == ANSWER
            assert {ws.get_extra_info("http2_stream") for ws in server.connections} == set(numbers)
            assert {ws.request.path for ws in server.connections if ws.request} == {
                f"/{i}" for i in range(100)
            }
            assert len({ws.remote_address for ws in server.connections}) == 1
            for number in numbers:
                await peer.send(number, CLOSE, end_stream=True)
                await peer.until(StreamEnded, number)
            await until(lambda: not server.connections)

    run(main)


def test_streams_that_are_too_many_are_refused_and_those_that_are_open_go_on() -> None:
    """RFC 9113 5.1.2: a client may open them before it knows our limit. All of them ended, with the connection."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            lines = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/")]
            numbers = range(1, 2 * 150, 2)
            for number in numbers:  # at once, and before anything is heard
                peer.h2.send_headers(number, [*lines, (":authority", "a"), ("sec-websocket-version", "13")])
            await peer.flush()
            resets = [await peer.until(StreamReset) for _ in range(50)]
            assert {event.error_code for event in resets} == {ErrorCodes.REFUSED_STREAM}
            opened = set(numbers) - {event.stream_id for event in resets}
            for number in opened:
                assert await peer.status(number) == "200"
            for number in opened:
                await peer.send(number, HELLO + CLOSE, end_stream=True)
                await peer.until(StreamEnded, number)
            await peer.opened()

    run(main)


def test_bytes_one_by_one() -> None:
    """The preface, a request, a message: however they are cut."""

    async def main() -> None:
        async with serve() as server:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", port_of(server)), is_client=True)
            peer.h2.initiate_connection()
            number = 1
            fields = {
                "method": "CONNECT",
                "protocol": "websocket",
                "scheme": "http",
                "path": "/",
                "authority": "a",
            }
            lines = [(f":{name}", value) for name, value in fields.items()]
            peer.h2.send_headers(number, [*lines, ("sec-websocket-version", "13")])
            peer.h2.send_data(number, HELLO)
            for byte in peer.h2.data_to_send():
                peer.writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert await peer.data(number, len(ANSWER)) == ANSWER
            await peer.close()

    run(main)


@pytest.mark.parametrize("is_task", [False, True])
def test_an_ordinary_request_is_answered(is_task: bool) -> None:
    """Its end comes with it, and is not that of the connection: also where the answer takes its time."""

    def page(handshake: Any, request: zcws.Request) -> zcws.Response | None:
        return handshake.respond(200, "a page") if request.path == "/page" else None  # type: ignore[no-any-return]

    async def later(handshake: Any, request: zcws.Request) -> zcws.Response | None:
        await asyncio.sleep(0.01)
        return page(handshake, request)

    async def main() -> None:
        async with (
            serve(process_request=later if is_task else page) as server,
            knock(port_of(server)) as peer,
        ):
            for method, path, said, body in [
                ("GET", "/page", "200", b"a page"),
                ("HEAD", "/page", "200", b""),
                ("GET", "/other", "400", b"this is a WebSocket server"),
            ]:
                number = await peer.ask(path, end=True, method=method, protocol="")
                assert await peer.status(number) == said
                data = b""
                while (event := await peer.until(DataReceived, number)).data:
                    data += event.data
                    if event.stream_ended:
                        break
                assert data.startswith(body)
            # And beside them a WebSocket; but a page opens none: a 200 would.
            assert await peer.status(await peer.ask("/page")) == "400"
            await peer.opened()

    run(main)


@pytest.mark.parametrize(
    ("pseudo", "said"),
    [
        ({"protocol": "connect-udp"}, "501"),
        ({"protocol": "", "scheme": "", "path": ""}, "501"),
        ({"path": "/a b"}, "400"),
        ({"authority": "a b"}, "400"),
    ],
)
def test_requests_that_are_not_for_us(pseudo: dict[str, str], said: str) -> None:
    async def main() -> None:
        async with serve() as server, knock(port_of(server), validate_outbound_headers=False) as peer:
            assert await peer.status(await peer.ask(**pseudo)) == said
            await peer.opened()

    run(main)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("http://other.example/", []),
        ("", []),
        ("/", [("Upper", "case")]),
        ("/", [("x", "\0")]),
        ("/", [("host", "other.example")]),
        ("/", [("te", "gzip")]),
    ],
)
def test_a_request_that_is_malformed_ends_its_own_stream(path: str, more: list[tuple[str, str]]) -> None:
    """RFC 9113 8.1.1: through a proxy it is one of many people's."""

    async def main() -> None:
        checks = {"validate_outbound_headers": False, "normalize_outbound_headers": False}
        async with serve() as server, knock(port_of(server), **checks) as peer:
            first, second = await peer.opened(), await peer.ask(path, *more)
            await peer.send(second, HELLO)
            assert (await peer.until(StreamReset, second)).error_code == ErrorCodes.PROTOCOL_ERROR
            await peer.send(first, HELLO)
            assert await peer.data(first, len(ANSWER)) == ANSWER
            await peer.send(first, CLOSE, end_stream=True)

    run(main)


def test_what_comes_with_malformed_requests_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the window of the connection would be used up by the bodies of a few, and every other stream held up."""
    monkeypatch.setattr(http2_frames, "MOST_STREAMS", 2)

    async def main() -> None:
        checks = {"validate_outbound_headers": False, "normalize_outbound_headers": False}
        async with serve() as server, knock(port_of(server), **checks) as peer:
            first = await peer.opened()
            for _ in range(8):
                while peer.h2.local_flow_control_window(first) < 150_000:
                    await peer.until(WindowUpdated, 0)
                number = await peer.ask("/", ("Upper", "case"))
                for _ in range(10):
                    await peer.send(number, bytes(15_000))
                await peer.until(StreamReset, number)
            await peer.send(first, HELLO)
            assert await peer.data(first, len(ANSWER)) == ANSWER

    run(main)


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("status", ["100", "200"])
def test_a_request_with_a_status_ends_its_own_stream(
    monkeypatch: pytest.MonkeyPatch, status: str, end: bool
) -> None:
    """RFC 9113 8.3. h2 takes what begins with 1 for a response that goes on: with an end, or first, it ends all."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            first, encode = await peer.opened(), peer.h2.encoder.encode
            with monkeypatch.context() as patched:
                patched.setattr(
                    peer.h2.encoder, "encode", lambda fields: encode([(":status", status), *fields])
                )
                second = await peer.ask(end=end)
            assert (await peer.until(StreamReset, second)).error_code == ErrorCodes.PROTOCOL_ERROR
            await peer.send(first, HELLO)
            assert await peer.data(first, len(ANSWER)) == ANSWER
            await peer.send(first, CLOSE, end_stream=True)

    run(main)


def test_trailers_behind_a_websocket_end_its_own_stream() -> None:
    """RFC 9113 8.5: nothing but DATA comes there. What came before them counts."""

    async def main() -> None:
        got: list[str | bytes] = []

        async def handler(ws: zcws.WebSocket) -> None:
            with pytest.raises(zcws.ConnectionClosed) as caught:
                while True:
                    got.append(await ws.recv())
            got.append(str(caught.value.__cause__))

        async with serve(handler) as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            peer.h2.send_data(number, HELLO)
            peer.h2.send_headers(number, [("x", "y")], end_stream=True)
            await peer.flush()
            assert (await peer.until(StreamReset, number)).error_code == ErrorCodes.PROTOCOL_ERROR
            await peer.opened()
            await until(lambda: len(got) == 2)
            assert got == ["hello", "the peer broke a rule of HTTP/2: trailers where there is no body"]

    run(main)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    ("field", "is_legal"),
    [(("x", "y"), True), ((":path", "/"), False), (("Upper", "y"), False), (("connection", "y"), False)],
)
def test_trailers_behind_another_request(field: tuple[str, str], is_legal: bool, resets: bool) -> None:
    """RFC 9113 8.1.1: those that are malformed end it; and no other."""

    async def page(handshake: Any, _: zcws.Request) -> zcws.Response:
        await go.wait()
        return handshake.respond(200, "a page")  # type: ignore[no-any-return]

    go = asyncio.Event()

    async def main() -> None:
        checks = {"validate_outbound_headers": False, "normalize_outbound_headers": False}
        async with serve(process_request=page) as server, knock(port_of(server), **checks) as peer:
            number = await peer.ask(method="POST", protocol="")
            peer.h2.send_data(number, b"body")
            peer.h2.send_headers(number, [field], end_stream=True)
            if resets:
                peer.h2.reset_stream(number)
            await peer.flush()
            if not (is_legal or resets):
                assert (await peer.until(StreamReset, number)).error_code == ErrorCodes.PROTOCOL_ERROR
            go.set()
            if is_legal and not resets:
                assert await peer.status(number) == "200"
            assert await peer.status(await peer.ask(end=True, method="GET", protocol="")) == "200"

    run(main)


def test_trailers_behind_a_request_that_was_malformed() -> None:
    """In one read: the stream is gone by then, and that is nobody else's end."""

    async def main() -> None:
        checks = {"validate_outbound_headers": False, "normalize_outbound_headers": False}
        async with serve() as server, knock(port_of(server), **checks) as peer:
            first, second = await peer.opened(), peer.h2.get_next_available_stream_id()
            fields = [(":method", "POST"), (":scheme", "http"), (":path", "*"), (":authority", "a")]
            peer.h2.send_headers(second, fields)
            peer.h2.send_headers(second, [("x", "y")], end_stream=True)
            await peer.send(first, HELLO)
            assert await peer.data(first, len(ANSWER)) == ANSWER
            await peer.send(first, CLOSE, end_stream=True)

    run(main)


@pytest.mark.parametrize(("length", "said"), [("0", "200"), ("1000", "400"), ("x", "400")])
def test_a_handshake_that_says_how_long_its_body_is(length: str, said: str) -> None:
    """As over HTTP/1.1 it has none: RFC 9110 9.3.6. And that is nobody else's end."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            first, second = await peer.opened(), await peer.ask("/", ("content-length", length))
            await peer.send(second, HELLO)
            assert await peer.status(second) == said
            number = second if said == "200" else first
            await peer.send(number, HELLO)
            assert await peer.data(number, len(ANSWER)) == ANSWER

    run(main)


def test_rules_and_options_are_those_of_http_1_1() -> None:
    def who(handshake: Any, request: zcws.Request) -> zcws.Response | None:
        return handshake.respond(403, "not you") if request.headers.get("x") == "y" else None  # type: ignore[no-any-return]

    async def main() -> None:
        options: dict[str, Any] = {
            "origins": ["https://a"],
            "subprotocols": ["chat"],
            "compression": "deflate",
        }
        async with serve(process_request=who, **options) as server, knock(port_of(server)) as peer:
            origin = ("origin", "https://a")
            assert await peer.status(await peer.ask()) == "403"
            assert await peer.status(await peer.ask("/", origin, ("x", "y"))) == "403"
            assert await peer.status(await peer.ask("/", origin, ("cookie", "x" * 20_000))) == "431"
            asks = [("sec-websocket-protocol", "chat"), ("sec-websocket-extensions", "permessage-deflate")]
            number = await peer.ask("/", origin, *asks)
            fields = dict((await peer.until(ResponseReceived, number)).headers)
            assert fields[":status"] == "200" and fields["sec-websocket-protocol"] == "chat"
            assert fields["sec-websocket-extensions"].startswith("permessage-deflate")
            assert not {"upgrade", "connection", "sec-websocket-accept"} & fields.keys()

    run(main)


def test_a_hook_that_puts_a_body_on_the_answer() -> None:
    """It would be read as frames, as over HTTP/1.1."""

    def talks_on(_: Any, __: zcws.Request, response: zcws.Response) -> None:
        response.body = b"\x81\x05hello"

    async def main() -> None:
        async with serve(process_response=talks_on) as server, knock(port_of(server)) as peer:
            assert await peer.status(await peer.ask()) == "500"

    run(main)


@pytest.mark.parametrize("how", ["reset", "end, reset", "lost"])
def test_a_client_that_leaves_while_a_hook_thinks(how: str) -> None:
    """Whatever it has sent behind its request: nobody waits for the answer."""

    async def main() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def hook(*_: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with serve(process_request=hook, open_timeout=None) as server, knock(port_of(server)) as peer:
            number = await peer.ask()
            await peer.send(number, HELLO, end_stream="end" in how)
            await soon(begun.wait())
            if how == "lost":
                await peer.close()
            else:
                peer.h2.reset_stream(number, ErrorCodes.CANCEL)
                await peer.flush()
            await soon(cancelled.wait())

    run(main)


# ---- what a peer must not do ----


@pytest.mark.parametrize("who", ["they", "we"])
def test_streams_that_are_reset_again_and_again(who: str) -> None:
    """CVE-2023-44487, CVE-2025-8671."""

    async def main() -> None:
        asked = []
        async with serve(process_request=lambda *request: asked.append(request)) as server:
            async with knock(port_of(server), validate_outbound_headers=False) as peer:
                with pytest.raises(ConnectionError):
                    while True:
                        number = await peer.ask("/" if who == "they" else "*")
                        if who == "they":
                            peer.h2.reset_stream(number)
                            await peer.flush()
                        elif not await peer.hear():
                            raise ConnectionResetError
                        await asyncio.sleep(0)
                await until(lambda: not server.connections)
            assert len(asked) < 300

    run(main)


@pytest.mark.parametrize("what", ["no request", "trailers"])
def test_whoever_makes_us_reset_his_streams_again_and_again_is_told_why(what: str) -> None:
    """RFC 9113 7: ENHANCE_YOUR_CALM, and the connection ends."""

    async def think(*_: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        checks = {"validate_outbound_headers": False, "normalize_outbound_headers": False}
        async with serve(process_request=think) as server, knock(port_of(server), **checks) as peer:
            while not any(isinstance(event, ConnectionTerminated) for event in peer.events):
                if what == "trailers":
                    number = await peer.ask(method="POST", protocol="")
                    peer.h2.send_headers(number, [("Upper", "y")], end_stream=True)
                    await peer.flush()
                else:
                    await peer.ask("*")
                await peer.hear()
            assert await peer.until_the_end() == ErrorCodes.ENHANCE_YOUR_CALM
            await until(lambda: not server.handshakes)

    run(main)


@pytest.mark.parametrize("what", ["another CONNECT", "no legal head", "one stream too many"])
def test_whoever_goes_on_asking_for_what_is_refused_is_told_why(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many times: a client need not know our limit yet."""
    monkeypatch.setattr(http2_accepting, "_RESETS", 5)
    monkeypatch.setattr(http2_accepting, "_RESETS_A_SECOND", 0)
    pseudo = {"method": "CONNECT", "protocol": "", "scheme": "", "path": ""}
    if what != "another CONNECT":
        pseudo = {"path": "/a b" if what == "no legal head" else "/"}

    async def main() -> None:
        async with serve() as server, knock(port_of(server), validate_outbound_headers=False) as peer:
            await peer.opened()
            if what == "one stream too many":
                monkeypatch.setattr(http2_accepting, "MOST_STREAMS", 1)
            asked = 0
            while not any(isinstance(event, ConnectionTerminated) for event in peer.events):
                await peer.ask(**pseudo)
                asked += 1
                await peer.hear()
            assert await peer.until_the_end() == ErrorCodes.ENHANCE_YOUR_CALM
            assert 40 < asked < 60

    run(main)


# ---- ends ----


def test_a_peer_that_ends_its_stream_or_resets_it() -> None:
    async def main() -> None:
        ends: list[zcws.ConnectionClosed] = []

        async def handler(ws: zcws.WebSocket) -> None:
            try:
                await echo(ws)
                await ws.recv()
            except zcws.ConnectionClosed as error:
                ends.append(error)

        async with serve(handler) as server, knock(port_of(server)) as peer:
            for end in ("end", "reset", "overflow"):
                number = await peer.opened()
                await peer.send(number, HELLO)
                if end == "end":
                    await peer.send(number, b"", end_stream=True)
                    assert await peer.data(number, len(ANSWER)) == ANSWER  # what it has said is answered
                    await peer.until(StreamEnded, number)
                else:
                    assert await peer.data(number, len(ANSWER)) == ANSWER
                    if end == "reset":
                        peer.h2.reset_stream(number, ErrorCodes.CANCEL)
                    else:
                        # RFC 9113 6.9.1: a window larger than any may be ends its stream alone.
                        peer.writer.write(
                            b"\x00\x00\x04\x08\x00" + number.to_bytes(4, "big") + b"\x7f\xff\xff\xff"
                        )
                    await peer.flush()
                await until(lambda: not server.connections)
            assert [error.code for error in ends] == [1006, 1006, 1006]
            assert str(ends[1].__cause__) == "the peer has reset the HTTP/2 stream: CANCEL"
            assert str(ends[2].__cause__) == "the peer broke a rule of HTTP/2: FLOW_CONTROL_ERROR"

    run(main)


def test_a_client_that_goes_away_and_is_gone() -> None:
    errors = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with serve() as server, knock(port_of(server)) as peer:
            await peer.opened()
            peer.h2.close_connection()
            await peer.flush()
            (connection,) = server.handshakes
            assert isinstance(connection, Http2Server)
            await until(lambda: connection._is_going)
            peer.writer.transport.abort()
            await until(lambda: not (server.handshakes or server.connections))
        assert not errors

    run(main)


def test_a_server_that_shuts_down() -> None:
    """Every stream gets its Close, new ones are refused, and then the connection ends."""

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            numbers = [await peer.opened(), await peer.opened()]
            server.close()
            for number in numbers:
                assert wire.parse(await peer.data(number, 4))[0].payload == wire.close_payload(1001)
            late = await peer.ask()
            assert (await peer.until(StreamReset, late)).error_code == ErrorCodes.REFUSED_STREAM
            for number in numbers:
                await peer.send(number, CLOSE, end_stream=True)
            assert await peer.until_the_end() == ErrorCodes.NO_ERROR
            await soon(server.wait_closed())

    run(main)


def test_what_a_slow_client_has_not_taken_when_the_server_shuts_down() -> None:
    """Its WebSocket is over, and its last bytes wait in the transport: they still go out."""
    size = 60_000

    async def push(ws: zcws.WebSocket) -> None:
        await ws.send(bytes(size))
        await ws.wait_closed()

    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        async with zcws.serve(push, sock=listening, http2=True) as server:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
            sock.connect(("127.0.0.1", port_of(server)))
            peer = Peer(*await asyncio.open_connection(sock=sock, limit=1), is_client=True)
            await peer.begin(INITIAL_WINDOW_SIZE=2 * size)
            peer.h2.increment_flow_control_window(size)
            number = await peer.opened()
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await peer.send(number, CLOSE, end_stream=True)
            await until(lambda: not server.connections)
            server.close()
            closed = asyncio.ensure_future(server.wait_closed())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not closed.done()
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await peer.data(number, len(wire.frame(wire.BINARY, bytes(size))) + 4)
            await peer.until(StreamEnded, number)
            assert await peer.until_the_end() == ErrorCodes.NO_ERROR
            await soon(closed)
            await peer.close()

    run(main)


@pytest.mark.parametrize("timeout", [10, None])
def test_how_long_a_slow_client_has_for_what_was_said_last(timeout: float | None) -> None:
    """As over HTTP/1.1: `close_timeout`, and as long again while it reads."""

    class Transport(asyncio.Transport):
        left, ends = 50_000, ""

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return default

        def is_closing(self) -> bool:
            return bool(self.ends)

        def write(self, data: Any) -> None:
            pass

        def get_write_buffer_size(self) -> int:
            return self.left

        def close(self) -> None:
            assert not self.ends
            self.ends = "closes"

        def abort(self) -> None:
            self.ends = "aborted"

    async def main() -> None:
        async with serve(close_timeout=timeout) as server:
            protocol, transport = Http2Server(server), Transport()
            protocol.connection_made(transport)
            protocol.go_away()
            protocol.close()  # once more, which asyncio's TLS would not survive
            assert transport.ends == "closes"
            waiting = pool_of(server.loop).deadlines.get(10)
            assert (waiting is None) == (timeout is None)
            for left in (40_000, 30_000) if timeout else ():
                transport.left = left
                protocol.deadline_passed()
                assert transport.ends == "closes"
            if timeout:
                transport.left -= 1
                protocol.deadline_passed()
                assert transport.ends == "aborted"
            protocol.connection_lost(None)

    run(main)


@pytest.mark.parametrize("said", [b"", PREFACE[:5], PREFACE])
def test_a_server_that_shuts_down_before_anybody_has_asked(said: bytes) -> None:
    async def main() -> None:
        async with serve(open_timeout=None) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(said)
            await until(lambda: server.handshakes)
            server.close()
            await soon(server.wait_closed())
            with contextlib.suppress(ConnectionResetError):  # it need not have read what was said
                await soon(reader.read())
            await hang_up(writer)

    run(main)


@pytest.mark.parametrize("said", [b"", PREFACE[:5], PREFACE])
def test_whoever_asks_for_nothing_is_sent_away(said: bytes) -> None:
    async def main() -> None:
        async with serve(open_timeout=0.05) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(said)
            await soon(reader.read())
            await until(lambda: not server.handshakes)
            await hang_up(writer)

    run(main)


def test_a_connection_without_streams_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_accepting, "_IDLE", 0.05)

    async def main() -> None:
        async with serve() as server, knock(port_of(server)) as peer:
            number = await peer.opened()
            await peer.send(await peer.opened(), CLOSE, end_stream=True)
            await asyncio.sleep(0.2)  # it has one
            await peer.send(await peer.opened(), CLOSE, end_stream=True)
            await peer.send(number, CLOSE, end_stream=True)
            assert await peer.until_the_end() == ErrorCodes.NO_ERROR

    run(main)


# ---- who speaks what ----


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("ours", [False, True])
def test_both_versions_over_tls(ours: bool, theirs: bool, anyloop: Place) -> None:
    """On one port; where one of the two does not speak HTTP/2, it is HTTP/1.1."""
    from net import Certificates

    certificates = Certificates()

    async def main() -> None:
        where: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "ssl": certificates.server}
        async with zcws.serve(echo, **where, http2=ours) as server:
            uri = f"wss://127.0.0.1:{port_of(server)}/"
            async with zcws.connect(uri, ssl=certificates.client, http2=theirs) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert (ws.get_extra_info("http2_stream") is not None) == (ours and theirs)
                assert ws.get_extra_info("cipher") is not None
            assert ws.close_code == 1000

    anyloop.run(main())


def test_both_versions_in_the_clear(anyloop: Place) -> None:
    async def main() -> None:
        async with serve() as server:
            for http2 in (True, False):
                uri = f"ws://127.0.0.1:{port_of(server)}/"
                async with zcws.connect(uri, http2=http2) as ws:
                    await ws.send(bytes(3_000_000))
                    assert await ws.recv() == bytes(3_000_000)
                    assert (ws.get_extra_info("http2_stream") is not None) == http2
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(b"P")
            await asyncio.sleep(0.01)
            writer.write(b"OST / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await soon(reader.read())).startswith(b"HTTP/1.1 400 ")
            await hang_up(writer)
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(request() + HELLO)
            await soon(reader.readuntil(b"\r\n\r\n"))
            assert await soon(reader.readexactly(len(ANSWER))) == ANSWER
            await hang_up(writer)

    anyloop.run(main())


@pytest.fixture
def no_h2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("zcws.aio.http2_accepting", "zcws.aio.http2_asking"):
        monkeypatch.setitem(sys.modules, name, None)
    yield


def test_the_extra_is_missing(no_h2: None) -> None:
    for make in (serve, lambda: zcws.connect("wss://a/", http2=True)):
        with pytest.raises(ImportError, match=r"need h2: pip install 'zcws\[http2\]'"):
            make()


@pytest.mark.skipif(sys.platform != "linux", reason="no other system says what its peer has confirmed")
def test_answers_that_wait_for_their_turn_have_the_time_for_that() -> None:
    """Those behind others were cut off at `open_timeout`, of a client who took all that he could."""
    size, count = 2_000_000, 6

    def page(*_: Any) -> zcws.Response:
        return zcws.Response(200, "OK", None, bytes(size))

    async def main() -> None:
        loop, client = asyncio.get_running_loop(), H2Connection()
        options: Any = {"process_request": page, "http2": True, "open_timeout": 0.3}
        async with zcws.serve(echo, "127.0.0.1", 0, **options) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            client.initiate_connection()
            fields = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]
            for number in range(count):
                client.send_headers(1 + 2 * number, fields, end_stream=True)
            began, seen, ended = loop.time(), 0, 0
            while ended < count:
                writer.write(client.data_to_send())
                for event in client.receive_data(await soon(reader.read(65536))):
                    assert not isinstance(event, StreamReset), event
                    if isinstance(event, DataReceived):
                        seen += len(event.data)
                        client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    ended += isinstance(event, StreamEnded)
                await asyncio.sleep(0.01 if loop.time() - began < 1 else 0)
            assert seen == size * count
            await hang_up(writer)

    run(main)
