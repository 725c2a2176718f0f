"""A client that may speak HTTP/2, against a server that is h2 by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import wire
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes
from net import Certificates, Place, port_of, run, soon, swallow, until
from tunnel import Http2Place, Peer

import zcws
from zcws.aio.http2_accepting import Http2Server

Script = Callable[[Peer], Awaitable[None]]

HELLO = wire.frame(wire.TEXT, b"hello")

#: It is about the connection. RFC 9113 6.7.
PING_ON_A_STREAM = b"\x00\x00\x08\x06\x00\x00\x00\x00\x01" + bytes(8)


@contextlib.asynccontextmanager
async def serving(script: Script, *, websockets: bool = True, **settings: int) -> AsyncIterator[str]:
    """A server whose every connection goes by `script`, when it has said what it speaks; its URI."""
    failures: list[BaseException] = []

    async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, is_client=False)
        try:
            await peer.begin(ENABLE_CONNECT_PROTOCOL=int(websockets), **settings)
            await script(peer)
        except ConnectionResetError:
            pass  # the client has left, and had not read everything: what is to be tested is what it says
        except BaseException as error:
            failures.append(error)
        finally:
            await peer.close()

    async with Place("asyncio", None).listen(follow) as port:
        yield f"ws://127.0.0.1:{port}/chat?a=b"
    if failures:
        raise failures[0]


def connect(uri: str, **options: Any) -> zcws.connect:
    return zcws.connect(uri, **{"http2": True, "ping_interval": None, **options})


async def grant(peer: Peer, *more: tuple[str, str]) -> int:
    """Answers the next request with a WebSocket; its stream."""
    number = (await peer.until(RequestReceived)).stream_id
    assert number is not None
    peer.h2.send_headers(number, [(":status", "200"), *more])
    await peer.flush()
    return number


async def refuse(peer: Peer, status: str, body: bytes = b"", *more: tuple[str, str]) -> None:
    number = (await peer.until(RequestReceived)).stream_id
    assert number is not None
    peer.h2.send_headers(number, [(":status", status), *more], end_stream=not body)
    if body:
        peer.h2.send_data(number, body, end_stream=True)
    await peer.flush()


async def answer_close(peer: Peer, number: int) -> list[wire.Seen]:
    """Until the Close, which is answered, and the end of the stream: all that was said."""
    data = b""
    while not (frames := wire.parse(data)) or frames[-1].opcode != wire.CLOSE:
        data += (await peer.until(DataReceived, number)).data
    await peer.send(number, wire.frame(wire.CLOSE, frames[-1].payload), end_stream=True)
    await peer.until(StreamEnded, number)
    return frames


def test_what_it_asks_and_what_it_gets() -> None:
    async def script(peer: Peer) -> None:
        request = await peer.until(RequestReceived)
        fields = dict(request.headers)
        assert fields[":method"] == "CONNECT" and fields[":protocol"] == "websocket"
        assert fields[":path"] == "/chat?a=b" and fields[":scheme"] == "http"
        assert fields[":authority"].startswith("127.0.0.1:")
        assert fields["authorization"] == "Basic dTpw" and fields["x"] == "y"
        number = request.stream_id
        assert number is not None
        peer.h2.send_headers(number, [(":status", "103"), ("link", "early")])
        peer.h2.send_headers(number, [(":status", "200"), ("sec-websocket-protocol", "chat")])
        for at in range(len(HELLO)):  # a frame of one is a frame of the other by chance only
            peer.h2.send_data(number, HELLO[at : at + 1])
        await peer.flush()
        assert (await answer_close(peer, number))[0].payload == b"hello"
        assert await peer.until_the_end() == ErrorCodes.NO_ERROR

    async def main() -> None:
        async with serving(script) as uri:
            options: dict[str, Any] = {"basic_auth": ("u", "p"), "additional_headers": {"X": "y"}}
            async with connect(uri, subprotocols=["chat"], **options) as ws:
                assert ws.subprotocol == "chat" and ws.get_extra_info("http2_stream") == 1
                assert await ws.recv() == "hello"
                await ws.send("hello")
            assert ws.close_code == 1000

    run(main)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (lambda peer: refuse(peer, "403", b"not you", ("x", "y")), "status 403"),
        (lambda peer: refuse(peer, "404"), "status 404"),
        (lambda peer: grant(peer, ("sec-websocket-protocol", "never")), "subprotocol that was not offered"),
        (lambda peer: grant(peer, ("sec-websocket-extensions", "x")), "extension that was not offered"),
        (lambda peer: grant(peer, ("x", "é")), None),
    ],
)
def test_what_the_server_says_to_it(script: Script, said: str | None) -> None:
    async def then_wait(peer: Peer) -> None:
        await script(peer)
        while await peer.hear():
            pass

    async def main() -> None:
        async with serving(then_wait) as uri:
            if said is None:
                await (await connect(uri, close_timeout=0.01)).close()
                return
            with pytest.raises(zcws.HandshakeError, match=said) as caught:
                await connect(uri)
            if caught.value.status == 403:
                assert caught.value.body == b"not you"
                assert caught.value.headers is not None and caught.value.headers["x"] == "y"

    run(main)


@pytest.mark.parametrize("length", ["1", "1000", "x", "7, 8"])
def test_a_refusal_whose_length_is_not_what_it_says(length: str) -> None:
    """RFC 9113 8.1.1: it is malformed. But the user learns what was said to him."""

    async def script(peer: Peer) -> None:
        await refuse(peer, "403", b"not you", ("content-length", length))
        await peer.until_the_end()

    async def main() -> None:
        async with serving(script) as uri:
            with pytest.raises(zcws.HandshakeError, match="status 403") as caught:
                await connect(uri)
            assert caught.value.body == b"not you"[: 1 if length == "1" else None]
            assert caught.value.headers is not None and caught.value.headers["content-length"] == length

    run(main)


def test_a_refusal_whose_body_stops() -> None:
    async def script(peer: Peer) -> None:
        number = (await peer.until(RequestReceived)).stream_id
        assert number is not None
        peer.h2.send_headers(number, [(":status", "403")])
        peer.h2.send_data(number, b"not")
        await peer.flush()
        while await peer.hear():
            pass

    async def main() -> None:
        async with serving(script) as uri:
            with pytest.raises(zcws.HandshakeError, match="status 403") as caught:
                await connect(uri, open_timeout=0.3)
            assert caught.value.body == b"not"

    run(main)


def test_a_length_in_the_answer_that_opens_a_websocket() -> None:
    """RFC 9110 9.3.6: "a client MUST ignore" it."""

    async def script(peer: Peer) -> None:
        number = await grant(peer, ("content-length", "0"))
        await peer.send(number, HELLO)
        await answer_close(peer, number)

    async def main() -> None:
        async with serving(script) as uri, connect(uri) as ws:
            assert await ws.recv() == "hello"

    run(main)


def test_a_redirect() -> None:
    async def main() -> None:
        async with zcws.serve(swallow, "127.0.0.1", 0, http2=True) as server:
            there = f"ws://127.0.0.1:{port_of(server)}/there"

            async def away(peer: Peer) -> None:
                await refuse(peer, "307", b"", ("location", there))
                await peer.until_the_end()

            async with serving(away) as uri, connect(uri, max_redirects=1) as ws:
                assert ws.request is not None and ws.request.path == "/there"

    run(main)


async def reset(peer: Peer) -> None:
    number = (await peer.until(RequestReceived)).stream_id
    assert number is not None
    peer.h2.reset_stream(number, ErrorCodes.REFUSED_STREAM)
    await peer.flush()
    await peer.until_the_end()


async def go_away(peer: Peer) -> None:
    await peer.until(RequestReceived)
    peer.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, b"too many from you\n", last_stream_id=0)
    await peer.flush()
    await peer.until_the_end()


async def go_away_later(peer: Peer) -> None:
    number = (await peer.until(RequestReceived)).stream_id
    peer.h2.close_connection(1000, b"\x1b[2J", last_stream_id=number)
    await peer.flush()
    peer.writer.write_eof()
    await peer.until_the_end()


async def break_a_rule(peer: Peer) -> None:
    await peer.until(RequestReceived)
    peer.writer.write(PING_ON_A_STREAM)
    await peer.until_the_end()


async def hang_up(peer: Peer) -> None:
    await peer.until(RequestReceived)


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (reset, "has reset the HTTP/2 stream: REFUSED_STREAM"),
        (go_away, "goes away, and has not taken the stream: ENHANCE_YOUR_CALM, 'too many from you'"),
        (go_away_later, "goes away: error 1000"),
        (break_a_rule, "a rule of HTTP/2"),
        (hang_up, ""),
    ],
)
def test_the_end_before_the_answer(script: Script, cause: str) -> None:
    async def main() -> None:
        async with serving(script) as uri:
            with pytest.raises(zcws.HandshakeError, match="before it answered") as caught:
                await connect(uri)
            said = str(caught.value.__cause__)
            assert cause in said and said.isprintable()

    run(main)


async def go_away_at_once(peer: Peer) -> None:
    peer.h2.close_connection(ErrorCodes.INTERNAL_ERROR, last_stream_id=0)
    await peer.flush()
    while await peer.hear():
        pass


async def hang_up_at_once(peer: Peer) -> None:
    pass


@pytest.mark.parametrize(
    ("script", "cause"), [(go_away_at_once, "the server goes away: INTERNAL_ERROR"), (hang_up_at_once, "")]
)
def test_the_end_before_the_request(script: Script, cause: str) -> None:
    """A server that takes no stream yet, and goes."""

    async def main() -> None:
        async with serving(script, MAX_CONCURRENT_STREAMS=0) as uri:
            with pytest.raises(zcws.HandshakeError, match="before it answered") as caught:
                await soon(connect(uri, open_timeout=None)._connect())
            assert cause in str(caught.value.__cause__)

    run(main)


def test_no_http2_and_an_end_at_once() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)  # RFC 9113 3.4

    async def main() -> None:
        async with Place("asyncio", None).listen(serve) as port:
            with pytest.raises(zcws.HandshakeError, match="before it answered"):
                await soon(connect(f"ws://127.0.0.1:{port}/", open_timeout=None)._connect())

    run(main)


def test_what_came_before_a_rule_was_broken() -> None:
    """In the same read: the answer and a message."""

    async def script(peer: Peer) -> None:
        number = (await peer.until(RequestReceived)).stream_id
        assert number is not None
        peer.h2.send_headers(number, [(":status", "200")])
        peer.h2.send_data(number, HELLO)
        peer.writer.write(peer.h2.data_to_send() + PING_ON_A_STREAM)
        assert await peer.until_the_end() == ErrorCodes.PROTOCOL_ERROR

    async def main() -> None:
        async with serving(script) as uri:
            ws = await connect(uri)
            assert await ws.recv() == "hello"
            with pytest.raises(zcws.ConnectionClosed) as caught:
                await ws.recv()
            assert "a rule of HTTP/2" in str(caught.value.__cause__)

    run(main)


def test_a_server_that_goes_away_lets_us_go_on() -> None:
    """RFC 9113 6.8."""

    async def script(peer: Peer) -> None:
        number = await grant(peer)
        peer.h2.close_connection(last_stream_id=number)
        await peer.send(number, HELLO)
        assert (await answer_close(peer, number))[0].payload == b"still here"

    async def main() -> None:
        async with serving(script) as uri:
            async with connect(uri) as ws:
                assert await soon(ws.recv()) == "hello"
                await ws.send("still here")
            assert ws.close_code == 1000

    run(main)


def test_a_server_that_takes_no_streams_yet() -> None:
    async def script(peer: Peer) -> None:
        await peer.until(SettingsAcknowledged)
        peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        await peer.flush()
        await answer_close(peer, await grant(peer))

    async def main() -> None:
        async with serving(script, MAX_CONCURRENT_STREAMS=0) as uri:
            async with connect(uri):
                pass

    run(main)


def test_a_server_that_changes_its_settings() -> None:
    """The handshake is made once."""

    async def script(peer: Peer) -> None:
        number = await grant(peer)
        peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 7})
        await peer.flush()
        await peer.until(SettingsAcknowledged)
        await answer_close(peer, number)
        await peer.until_the_end()
        assert not any(isinstance(event, RequestReceived) for event in peer.events)

    async def main() -> None:
        async with serving(script) as uri:
            async with connect(uri):
                pass

    run(main)


def check_a_failed_handshake(script: Script, match: str) -> None:
    """It fails in the program, and nothing else does."""
    reported: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with serving(script) as uri:
            with pytest.raises(zcws.HandshakeError, match=match):
                await connect(uri)

    run(main)
    assert not reported


def test_an_answer_behind_an_end() -> None:
    """In one read: nobody waits for it any more."""

    async def script(peer: Peer) -> None:
        number = (await peer.until(RequestReceived)).stream_id
        assert number is not None
        peer.h2.close_connection(last_stream_id=0)
        peer.h2.send_headers(number, [(":status", "200")])
        await peer.flush()
        await peer.until_the_end()

    check_a_failed_handshake(script, "before it answered")


def test_an_answer_that_is_no_legal_http() -> None:
    async def script(peer: Peer) -> None:
        await refuse(peer, "+40")
        await peer.until_the_end()

    check_a_failed_handshake(script, "not legal HTTP")


def test_what_came_before_the_end_of_the_connection_can_be_read_late() -> None:
    """By whoever is busy meanwhile, and has more to read than a ring holds; then its end is told."""
    count = 25

    async def script(peer: Peer) -> None:
        number = await grant(peer)
        for _ in range(count):
            while peer.h2.local_flow_control_window(number) < 16_000:
                await peer.until(WindowUpdated, number)
            await peer.send(number, wire.frame(wire.BINARY, bytes(15_000)))

    async def main() -> None:
        async with serving(script) as uri:
            ws = await connect(uri)
            connection: Any = ws._transport._connection  # type: ignore[union-attr]
            await until(lambda: connection.transport is None)
            got: list[int] = []
            with pytest.raises(zcws.ConnectionClosedError):
                while True:
                    got.append(len(await soon(ws.recv())))
            assert len(got) == count
            await soon(ws.wait_closed())

    run(main)


def test_an_abort_over_tls_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has stopped: it will never answer our close_notify, for which the TLS of the event loop waits."""
    monkeypatch.setattr("zcws.aio.reach.has_better", lambda loop: True)
    place = Http2Place("asyncio", tls=True)

    async def main() -> None:
        async with place.serve(swallow) as server:
            ws = await place.connect(server)
            connection: Any = ws._transport._connection  # type: ignore[union-attr]
            (theirs,) = (each for each in server.handshakes if isinstance(each, Http2Server))
            assert theirs.transport is not None
            theirs.transport.pause_reading()
            ws.abort()
            await soon(ws.wait_closed())
            assert connection.transport is None
            theirs.abort()

    run(main)


def test_a_server_over_tls_that_speaks_http_1_1_alone(certificates: Certificates) -> None:
    """ALPN says so, and the handshake is made on the same connection."""

    async def main() -> None:
        async with zcws.serve(swallow, "127.0.0.1", 0, ssl=certificates.server) as server:
            uri = f"wss://127.0.0.1:{port_of(server)}/"
            async with connect(uri, ssl=certificates.client) as ws:
                assert ws.get_extra_info("http2_stream") is None
            assert ws.close_code == 1000

    run(main)


def test_a_server_without_websockets_over_http_2() -> None:
    async def script(peer: Peer) -> None:
        await peer.until_the_end()

    async def main() -> None:
        async with serving(script, websockets=False) as uri:
            with pytest.raises(zcws.HandshakeError, match=r"RFC 8441.*without http2=True"):
                await connect(uri)

    run(main)


def test_a_server_that_speaks_no_http_2() -> None:
    async def main() -> None:
        async with zcws.serve(swallow, "127.0.0.1", 0) as server:
            with pytest.raises(
                zcws.HandshakeError, match=r"does not answer in HTTP/2: connect without http2=True$"
            ):
                await connect(f"ws://127.0.0.1:{port_of(server)}/")

    run(main)


@pytest.mark.parametrize("is_granted", [False, True])
def test_an_end_that_the_program_wants(is_granted: bool) -> None:
    """The connection ends at once: nobody else has a stream on it."""

    async def script(peer: Peer) -> None:
        if is_granted:
            number = await grant(peer)
            assert (await peer.until(StreamReset, number)).error_code == ErrorCodes.CANCEL
        while await peer.hear():
            pass

    async def main() -> None:
        async with serving(script) as uri:
            if is_granted:
                ws = await connect(uri)
                ws.abort()
                await soon(ws.wait_closed())
            else:
                with pytest.raises(TimeoutError, match="opening handshake"):
                    await connect(uri, open_timeout=0.05)

    run(main)


def test_over_tls_again_and_again(anyloop: Place) -> None:
    """A context is used again, and the name of the server is checked."""
    place = Http2Place(anyloop.loop, tls=True)

    async def main() -> None:
        async with place.serve(swallow) as server:
            for _ in range(2):
                async with place.connect(server) as ws:
                    assert ws.get_extra_info("sslcontext") is place.certificates.client  # type: ignore[union-attr]
                    assert ws.get_extra_info("http2_stream") == 1 and ws.get_extra_info("peercert")
                    connection: Any = ws._transport._connection  # type: ignore[union-attr]
                assert ws.close_code == 1000
                assert connection.transport is None  # the end of a stream is told when nothing is left of it
            with pytest.raises(OSError, match=r"(?i)certificate"):
                await place.connect(server, server_hostname="elsewhere.example")

    place.run(main())
