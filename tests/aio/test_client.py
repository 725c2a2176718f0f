from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Any

import pytest
import wire
from net import Place, RawPeer, echo, hang_up, port_of, request, soon, swallow, until

import zcws


def test_awaited_or_as_a_context_manager(anyplace: Place) -> None:
    async def main() -> None:
        async with anyplace.serve(echo) as server:
            ws = await anyplace.connect(server)
            await ws.send("x")
            assert await soon(ws.recv()) == "x"
            await soon(ws.close())
            async with anyplace.connect(server) as ws:
                assert ws.state is zcws.State.OPEN
            assert ws.state is zcws.State.CLOSED

    anyplace.run(main())


def test_nobody_listens(place: Place) -> None:
    async def main() -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            with pytest.raises(OSError):
                await place.connect(sock.getsockname()[1])

    place.run(main())


@pytest.mark.parametrize(
    "uri", ["http://localhost/", "localhost", "ws://", "ws://host/#fragment", "ws://host:99999/"]
)
def test_what_is_no_uri(uri: str) -> None:
    with pytest.raises(ValueError):
        zcws.connect(uri)


def test_ssl_is_for_wss() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="wss"):
            await zcws.connect("ws://localhost/", ssl=ssl.create_default_context())

    asyncio.run(main())


def test_another_place_than_the_uri_says(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo) as server:
            connecting = zcws.connect("ws://elsewhere.example/path", host="127.0.0.1", port=port_of(server))
            async with connecting as ws:
                assert ws.request is not None and ws.request.headers["Host"] == "elsewhere.example"

    place.run(main())


def test_more_headers(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo) as server:
            headers = {"X-Extra": "1", "Authorization": "Bearer t"}
            async with place.connect(server, additional_headers=headers, user_agent_header="me"):
                (accepted,) = server.connections
                assert accepted.request is not None
                received = accepted.request.headers
                assert (received["X-Extra"], received["Authorization"], received["User-Agent"]) == (
                    "1",
                    "Bearer t",
                    "me",
                )

    place.run(main())


def test_cancelled_before_it_is_open(anyplace: Place) -> None:
    async def main() -> None:
        arrived = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.set()
            with contextlib.suppress(ConnectionError):
                await reader.read()  # until the client hangs up

        async with anyplace.listen(serve) as port:
            connecting = asyncio.ensure_future(anyplace.connect(port)._connect())
            await soon(arrived.wait())
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting

    anyplace.run(main())


def test_cancelled_before_it_is_connected(place: Place) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:  # it accepts nobody
            connecting = asyncio.ensure_future(place.connect(listening.getsockname()[1])._connect())
            await asyncio.sleep(0)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting

    place.run(main())


def test_one_object_may_connect_again(place: Place) -> None:
    async def main() -> None:
        keys = set()
        async with place.serve(echo) as server:
            connecting = place.connect(server)
            for _ in range(3):
                async with connecting as ws:
                    assert ws.request is not None
                    keys.add(ws.request.headers["Sec-WebSocket-Key"])
        assert len(keys) == 3  # RFC 6455 4.1, 7: a new one each time

    place.run(main())


def test_rfc6455_5_1_everything_is_masked(anyplace: Place) -> None:
    frames: list[wire.Seen] = []

    async def script(peer: RawPeer) -> None:
        while not frames or frames[-1].opcode != wire.CLOSE:
            frames.append(await peer.read())
        await peer.send(wire.CLOSE, frames[-1].payload)

    async def main() -> None:
        async with anyplace.raw_server(script) as port, anyplace.connect(port) as ws:
            await ws.send("text")
            await ws.send(bytes(100_000))
            await ws.send(["a", "b"])
            await ws.pong()

    anyplace.run(main())
    assert [frame.payload for frame in frames[:4]] == [b"text", bytes(100_000), b"a", b"b"]
    assert all(frame.masked for frame in frames)


def test_the_limits(place: Place) -> None:
    async def main() -> None:
        for options in ({"max_size": 1_000}, {"max_fragments": 2}):
            limited: dict[str, Any] = options

            async def script(peer: RawPeer, options: dict[str, Any] = limited) -> None:
                if "max_size" in options:
                    await peer.send(wire.BINARY, bytes(1_000))
                    await peer.send(wire.BINARY, bytes(1_001))
                else:
                    await peer.send(wire.BINARY, bytes(500), fin=False)
                    await peer.send(wire.CONTINUATION, bytes(500))
                    for opcode in (wire.BINARY, wire.CONTINUATION, wire.CONTINUATION):
                        await peer.send(opcode, b"", fin=False)
                close = await peer.read()
                assert close.payload[:2] == (1009).to_bytes(2, "big")

            async with place.raw_server(script) as port:
                ws = await place.connect(port, close_timeout=0.05, **limited)
                assert await soon(ws.recv()) == bytes(1_000)
                with pytest.raises(zcws.LimitExceeded) as caught:
                    await soon(ws.recv())
                assert caught.value.code == 1009
                await soon(ws.wait_closed())

    place.run(main())


def test_no_limit(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo, max_size=None) as server, place.connect(server, max_size=None) as ws:
            message = bytes(20_000_000)
            sending = asyncio.ensure_future(ws.send(message))
            assert await soon(ws.recv()) == message
            await sending

    place.run(main())


def test_no_masking_over_tls(tls: Place) -> None:
    async def main() -> None:
        async with tls.serve(echo, no_masking=True) as server:
            async with tls.connect(server, no_masking=True, compression="deflate") as ws:
                assert ws.connection.agreement.no_masking
                for message in ("plain", bytes(1_000_000)):
                    await ws.send(message)
                    assert await soon(ws.recv()) == message
            async with tls.connect(server) as ws:
                assert not ws.connection.agreement.no_masking

    tls.run(main())


def test_a_server_that_redirects_with_credentials(place: Place) -> None:
    """They stay with their host. RFC 9110 15.4."""

    async def main() -> None:
        seen: list[str | None] = []

        def elsewhere(handshake: Any, asked: zcws.Request) -> None:
            seen.append(asked.headers.get("Authorization"))

        async with place.serve(echo, process_request=elsewhere) as target:

            def redirect(handshake: Any, asked: zcws.Request) -> zcws.Response:
                answer: zcws.Response = handshake.respond(307, "there")
                answer.headers["Location"] = f"ws://localhost:{port_of(target)}/"
                return answer

            async with place.serve(echo, process_request=redirect) as server:
                uri = f"ws://user:secret@127.0.0.1:{port_of(server)}/"
                async with zcws.connect(uri, max_redirects=1, family=socket.AF_INET) as ws:
                    assert ws.state is zcws.State.OPEN
        assert seen == [None]

    place.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_process_has_keys_of_its_own(place: Place) -> None:
    from zcws.aio.client import _keys

    _keys.next()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"".join(_keys.next().to_bytes(4, "big") for _ in range(8)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 32)
    ours = b"".join(_keys.next().to_bytes(4, "big") for _ in range(8))
    os.close(read)
    os.close(write)
    assert len(theirs) == 32
    assert theirs != ours


def test_a_raw_request_is_one_that_servers_take(place: Place) -> None:
    """The requests by hand in all of these tests are right."""

    async def main() -> None:
        async with place.serve(swallow) as server:
            reader, writer = await place.open(port_of(server))
            writer.write(request())
            assert (await soon(reader.readline())).startswith(b"HTTP/1.1 101 ")
            await until(lambda: server.connections)
            await hang_up(writer)

    place.run(main())
