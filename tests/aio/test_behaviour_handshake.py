"""The tables "Opening handshake" of the behaviours, as far as they are about sockets: what is on the wire, when the
connection ends, and what is kept. What each single header does to a request is in test_behaviour_frames' sisters
test_acceptor.py and test_connector.py; the status of each row is here as well, as a peer sees it.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
import wire
from net import Place, RawPeer, echo, hang_up, port_of, request, response, soon, swallow, until

import zcws
from zcws.aio.accepting import ServerHandshake


def changed(**headers: str | None) -> bytes:
    """A request in which headers (named with underscores) are replaced, or removed with None."""
    lines = request().decode().split("\r\n")[:-2]
    for name, value in headers.items():
        name = name.replace("_", "-")
        lines = [line for line in lines if not line.lower().startswith(name.lower() + ":")]
        if value is not None:
            lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def exchange(place: Place, server: zcws.Server, data: bytes) -> bytes:
    """Everything that the server says to `data`, until it ends the stream."""
    reader, writer = await place.open(port_of(server))
    try:
        writer.write(data)
        return await soon(reader.read())
    finally:
        await hang_up(writer)


def status_of(answer: bytes) -> int:
    version, status, _ = answer.split(b" ", 2)
    assert version == b"HTTP/1.1"
    return int(status)


REFUSED: dict[str, tuple[bytes, int, bytes]] = {
    "no Upgrade": (changed(Upgrade=None), 426, b"Upgrade: websocket\r\n"),
    "wrong Upgrade": (changed(Upgrade="h2c"), 426, b"Upgrade: websocket\r\n"),
    "no Connection": (changed(Connection=None), 426, b"Upgrade: websocket\r\n"),
    "wrong Connection": (changed(Connection="keep-alive"), 426, b"Upgrade: websocket\r\n"),
    "no Host": (changed(Host=None), 400, b""),
    "HTTP/1.0": (request().replace(b"HTTP/1.1", b"HTTP/1.0", 1), 400, b""),
    "method": (request().replace(b"GET", b"POST", 1), 400, b""),
    "no version": (changed(Sec_WebSocket_Version=None), 426, b"Sec-WebSocket-Version: 13\r\n"),
    "version 8": (changed(Sec_WebSocket_Version="8"), 426, b"Sec-WebSocket-Version: 13\r\n"),
    "no key": (changed(Sec_WebSocket_Key=None), 400, b""),
    "key of one byte": (changed(Sec_WebSocket_Key="x"), 400, b""),
    "two keys": (request("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, b""),
    "a body": (request("Content-Length: 5") + b"hello", 400, b""),
    "a chunked body": (request("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", 400, b""),
    "a head over 16 KiB": (request(*(f"X-{i}: {'x' * 1_000}" for i in range(20))), 431, b""),
    "a line over 8 KiB": (request(f"X: {'x' * 9_000}"), 431, b""),
    "more than 128 headers": (request(*(f"X-{i}: x" for i in range(130))), 431, b""),
    "nonsense": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, b""),
}


class TestServer:
    @pytest.mark.parametrize("name", list(REFUSED))
    def test_status_on_the_wire(self, anyplace: Place, name: str) -> None:
        data, status, header = REFUSED[name]

        async def main() -> None:
            async with anyplace.serve(echo) as server:
                answer = await exchange(anyplace, server, data)
                assert status_of(answer) == status
                assert header in answer
                head, _, body = answer.partition(b"\r\n\r\n")
                assert len(body) > 20, "a sentence says why"
                assert b"Content-Length: %d" % len(body) in head
                assert b"Connection: close" in head
                assert not server.connections

        anyplace.run(main())

    def test_what_process_request_returns(self, anyplace: Place) -> None:
        async def process_request(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response | None:
            await asyncio.sleep(0)
            return handshake.respond(200, "healthy") if asked.path == "/health" else None

        async def main() -> None:
            async with anyplace.serve(echo, process_request=process_request) as server:
                answer = await exchange(anyplace, server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert status_of(answer) == 200
                assert answer.endswith(b"\r\n\r\nhealthy")
                async with anyplace.connect(server) as ws:
                    await ws.send("and websockets")
                    assert await soon(ws.recv()) == "and websockets"

        anyplace.run(main())

    @pytest.mark.parametrize(("path", "status"), [("/well", 200), ("/bug", 500), ("/", 400)])
    @pytest.mark.parametrize("thinks", [True, False])
    def test_a_head_is_answered_without_a_body(
        self, place: Place, path: str, status: int, thinks: bool
    ) -> None:
        """RFC 9110 9.3.2, whoever has made the answer: a hook, its failure, or nobody."""

        def answer(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response | None:
            return {"/well": handshake.respond(200, "healthy"), "/": None}[asked.path]

        async def think(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response | None:
            await asyncio.sleep(0)
            return answer(handshake, asked)

        async def main() -> None:
            async with place.serve(echo, process_request=think if thinks else answer) as server:
                asked = request(target=path).replace(b"GET", b"HEAD", 1)
                said = await exchange(place, server, asked)
                assert status_of(said) == status and b"Content-Length: " in said
                assert said.index(b"\r\n\r\n") == len(said) - 4

        place.run(main())

    def test_a_head_that_is_refused_before_it_is_a_request(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                said = await exchange(place, server, b"HEAD / HTTP/1.1\r\nno colon\r\n\r\n")
                assert status_of(said) == 400 and said.endswith(b"\r\n\r\n")

        place.run(main())

    def test_origin(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo, origins=["https://good.example"]) as server:
                assert status_of(await exchange(place, server, request("Origin: https://bad.example"))) == 403
                assert status_of(await exchange(place, server, request())) == 403
                async with place.connect(server, origin="https://good.example") as ws:
                    assert ws.state is zcws.State.OPEN

        place.run(main())

    def test_subprotocols(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo, subprotocols=["best", "good"]) as server:
                async with place.connect(server, subprotocols=["other", "good", "best"]) as ws:
                    assert ws.subprotocol == "best"
                async with place.connect(server, subprotocols=["other"]) as ws:
                    assert ws.subprotocol is None

        place.run(main())

    @pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "unfinished"])
    def test_silent_client(self, anyplace: Place, sent: bytes) -> None:
        async def main() -> None:
            # As long as that may TLS take, too.
            async with anyplace.serve(echo, open_timeout=0.5) as server:
                reader, writer = await anyplace.open(port_of(server))
                writer.write(sent)
                assert await ended(reader) == b""
                await until(lambda: not server.handshakes)
                await hang_up(writer)

        anyplace.run(main())

    def test_slow_client(self, place: Place) -> None:
        """A byte now and then does not keep the connection alive."""

        async def main() -> None:
            async with place.serve(echo, open_timeout=0.1) as server:
                reader, writer = await place.open(port_of(server))
                waiting = asyncio.ensure_future(ended(reader))
                for byte in request():
                    if waiting.done():
                        break
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.01)
                assert await waiting == b""
                await hang_up(writer)

        place.run(main())

    @pytest.mark.skipif(not hasattr(ssl, "OP_NO_SSLv2"), reason="needs OpenSSL")
    @pytest.mark.parametrize(
        "options",
        [
            {"ssl_handshake_timeout": 0.05},
            {"open_timeout": 0.05},
            {"open_timeout": 0.05, "ssl_handshake_timeout": None},
        ],
    )
    def test_a_client_that_never_finishes_tls(self, tls: Place, options: dict[str, Any]) -> None:
        async def main() -> None:
            async with tls.serve(echo, **options) as server:
                reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
                assert await ended(reader) == b""
                await hang_up(writer)

        tls.run(main())

    def test_nothing_is_buffered_beyond_the_limit(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                reader, writer = await place.open(port_of(server))
                writer.write(b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 7_000)
                await until(lambda: server.handshakes)
                (handshake,) = server.handshakes
                writer.write(b"x" * 2_000)
                assert status_of(await soon(reader.read())) == 431
                for _ in range(50):
                    writer.write(b"x" * 100_000)  # nobody reads the answer to this
                    await asyncio.sleep(0)
                assert len(handshake._data) == 0
                await hang_up(writer)

        place.run(main())

    def test_an_endless_head_is_cut_off_while_it_arrives(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                reader, writer = await place.open(port_of(server))
                writer.write(b"GET / HTTP/1.1\r\n")
                sent = 0
                while server.handshakes or not sent:
                    writer.write(b"X-Header: " + b"x" * 90 + b"\r\n")
                    sent += 102
                    await asyncio.sleep(0)
                    if reader._buffer:  # type: ignore[attr-defined]
                        break
                    assert sent < 1_000_000
                assert (await soon(reader.readline())).startswith(b"HTTP/1.1 431 ")
                await hang_up(writer)

        place.run(main())

    def test_bytes_after_the_head_are_the_first_frames(self, anyplace: Place) -> None:
        async def main() -> None:
            frames = [wire.frame(wire.TEXT, b"%d" % i, key=wire.KEY) for i in range(200)]
            # And the start of one.
            frames.append(wire.frame(wire.BINARY, bytes(100_000), key=wire.KEY)[:50_000])
            async with anyplace.serve(echo, close_timeout=0.05) as server:
                async with anyplace.raw_client(server, behind=b"".join(frames)) as peer:
                    for i in range(200):
                        assert (await peer.read()).payload == b"%d" % i
                    await peer.send_bytes(wire.frame(wire.BINARY, bytes(100_000), key=wire.KEY)[50_000:])
                    assert (await peer.read()).payload == bytes(100_000)

        anyplace.run(main())

    def test_as_many_first_frames_as_one_read_brings(self, place: Place) -> None:
        """They wait in the kernel, or in the ring, while a hook thinks; none is lost and none refused."""

        async def process_request(handshake: ServerHandshake, asked: zcws.Request) -> None:
            await asyncio.sleep(0.05)

        async def main() -> None:
            payload = bytes(50_000)
            frames = wire.frame(wire.BINARY, payload, key=wire.KEY) * 20
            async with place.serve(echo, process_request=process_request) as server:
                reader, writer = await place.open(port_of(server))
                peer = RawPeer(reader, writer, masks=True)
                writer.write(request() + frames)
                assert (await soon(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101 ")
                for _ in range(20):
                    assert (await peer.read()).payload == payload
                await peer.close()

        place.run(main())

    def test_rejected_upgrade_with_a_body_smuggles_nothing(self, anyplace: Place) -> None:
        """What follows a request that was refused is not taken for another request, nor for frames."""

        async def main() -> None:
            handled: list[zcws.WebSocket] = []

            async def handler(ws: zcws.WebSocket) -> None:
                handled.append(ws)

            async with anyplace.serve(handler) as server:
                for line in ("Content-Length: 0007", "Transfer-Encoding: chunked", "Content-Length: 4, 5"):
                    smuggled = (
                        request(line)
                        + request(target="/smuggled")
                        + wire.frame(wire.TEXT, b"x", key=wire.KEY)
                    )
                    answer = await exchange(anyplace, server, smuggled)
                    assert answer.count(b"HTTP/1.1 ") == 1
                    assert status_of(answer) == 400
                assert handled == []

        anyplace.run(main())

    def test_a_client_that_closes_its_side_at_once(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                reader, writer = await place.open(port_of(server))
                writer.write(b"GET / HTTP/1.1\r\n")
                writer.write_eof()
                assert await ended(reader) == b""
                await until(lambda: not server.handshakes)
                await hang_up(writer)

        place.run(main())

    def test_the_others_are_served_meanwhile(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                waiting = [await place.open(port_of(server)) for _ in range(20)]
                async with place.connect(server) as ws:
                    await ws.send("not delayed")
                    assert await soon(ws.recv()) == "not delayed"
                for _, writer in waiting:
                    await hang_up(writer)

        place.run(main())


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side ends the stream, in whichever way."""
    try:
        return await soon(reader.read())
    except ConnectionError:
        return b""


class TestInjection:
    """CR or LF in a header to be sent: `ValueError`, and nothing on the wire."""

    @pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
    def test_client(self, value: str) -> None:
        with pytest.raises(ValueError):
            zcws.connect("ws://localhost/", additional_headers={"X": value})
        with pytest.raises(ValueError):
            zcws.connect("ws://localhost/", origin=value)
        with pytest.raises(ValueError):
            zcws.connect("ws://localhost/", user_agent_header=value)
        with pytest.raises(ValueError):
            zcws.connect("ws://localhost/", subprotocols=[value])
        with pytest.raises(ValueError):
            zcws.connect(f"ws://localhost/{value}")

    @pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
    def test_server(self, value: str) -> None:
        for options in ({"extra_headers": {"X": value}}, {"server_header": value}, {"subprotocols": [value]}):
            with pytest.raises(ValueError):
                zcws.serve(echo, "127.0.0.1", 0, **options)  # type: ignore[arg-type]

    def test_a_hook_that_tries_gets_500(self, place: Place, caplog: pytest.LogCaptureFixture) -> None:
        def process_request(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response:
            answer = handshake.respond(200, "x")
            answer.headers["X"] = "a\r\nX-Evil: 1"
            return answer

        async def main() -> None:
            async with place.serve(echo, process_request=process_request) as server:
                answer = await exchange(place, server, request())
                assert status_of(answer) == 500
                assert b"Evil" not in answer

        place.run(main())
        assert len(caplog.records) == 1


class TestClient:
    async def refused(self, place: Place, answer: bytes, **options: Any) -> zcws.HandshakeError:
        """What `connect` says to this answer."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

        async with place.listen(serve) as port:
            with pytest.raises(zcws.HandshakeError) as caught:
                await soon(place.connect(port, **options)._connect())
        return caught.value

    @pytest.mark.parametrize("status", [200, 301, 400, 401, 404, 500])
    def test_another_status(self, anyplace: Place, status: int) -> None:
        async def main() -> None:
            answer = b"HTTP/1.1 %d Whatever\r\nX-Why: because\r\nContent-Length: 5\r\n\r\nsorry" % status
            error = await self.refused(anyplace, answer)
            assert (error.status, error.body) == (status, b"sorry")
            assert error.headers is not None and error.headers["X-Why"] == "because"

        anyplace.run(main())

    def test_up_to_64_kib_of_body(self, place: Place) -> None:
        async def main() -> None:
            error = await self.refused(
                place, b"HTTP/1.1 500 X\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 1_000_000
            )
            assert 0 < len(error.body) <= 64 * 1024

        place.run(main())

    @pytest.mark.parametrize("change", ["accept", "upgrade", "connection", "extension", "subprotocol"])
    def test_a_101_that_grants_something_else(self, place: Place, change: str) -> None:
        async def main() -> None:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                head = await reader.readuntil(b"\r\n\r\n")
                answer = response(
                    head,
                    {
                        "extension": b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
                        "subprotocol": b"Sec-WebSocket-Protocol: chat\r\n",
                    }.get(change, b""),
                )
                for name, right, wrong in (
                    ("accept", b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Accept: A"),
                    ("upgrade", b"Upgrade: websocket", b"Upgrade: websockets"),
                    ("connection", b"Connection: Upgrade", b"Connection: close"),
                ):
                    if change == name:
                        answer = answer.replace(right, wrong)
                writer.write(answer)
                await reader.read()  # the client hangs up

            async with place.listen(serve) as port:
                with pytest.raises(zcws.HandshakeError):
                    await soon(place.connect(port)._connect())

        place.run(main())

    @pytest.mark.parametrize(
        "answer", [b"", b"HTTP/1.1 101 Switching Protocols\r\n", b"\x15\x03\x01\r\n\r\n"]
    )
    def test_no_answer_at_all(self, place: Place, answer: bytes) -> None:
        place.run(self.refused(place, answer))

    def test_a_silent_server(self, anyplace: Place) -> None:
        async def main() -> None:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await ended(reader)  # everything until the client hangs up

            async with anyplace.listen(serve) as port:
                with pytest.raises(TimeoutError, match="open_timeout"):
                    await soon(anyplace.connect(port, open_timeout=0.1)._connect())

        anyplace.run(main())

    def test_bytes_after_the_head_are_the_first_frames(self, anyplace: Place) -> None:
        async def script(peer: RawPeer) -> None:
            await peer.send(wire.CLOSE)

        async def main() -> None:
            behind = b"".join(wire.frame(wire.TEXT, b"%d" % i) for i in range(200))
            async with anyplace.raw_server(script, behind=behind) as port:
                ws = await anyplace.connect(port)
                assert [message async for message in ws] == [str(i) for i in range(200)]

        anyplace.run(main())

    def test_a_certificate_that_nobody_signed(self, tls: Place) -> None:
        async def main() -> None:
            async with tls.serve(swallow) as server:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await tls.connect(server, ssl=ssl.create_default_context())
                with pytest.raises(ssl.SSLCertVerificationError):
                    await tls.connect(server, server_hostname="elsewhere.example")

        tls.run(main())

    @pytest.mark.parametrize("allowed", [0, 3])
    def test_redirects_only_when_asked(self, place: Place, allowed: int) -> None:
        async def main() -> None:
            def process_request(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response | None:
                if asked.path == "/there":
                    return None
                answer = handshake.respond(302, "over there")
                answer.headers["Location"] = "/there"
                return answer

            async with place.serve(echo, process_request=process_request) as server:
                connecting = place.connect(server, "/here", max_redirects=allowed)
                if allowed:
                    async with connecting as ws:
                        assert ws.request is not None and ws.request.path == "/there"
                else:
                    with pytest.raises(zcws.HandshakeError) as caught:
                        await connecting
                    assert caught.value.status == 302

        place.run(main())

    def test_redirects_that_go_round(self, place: Place) -> None:
        async def main() -> None:
            def process_request(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response | None:
                answer = handshake.respond(302, "over there")
                answer.headers["Location"] = "/"
                return answer

            async with place.serve(echo, process_request=process_request) as server:
                with pytest.raises(zcws.HandshakeError, match="max_redirects=2"):
                    await place.connect(server, max_redirects=2)

        place.run(main())
