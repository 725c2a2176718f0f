from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import itertools
import logging
import math
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import wire
from net import Certificates, Place, RawPeer, echo, free_port, hang_up, port_of, request, soon, swallow, until

import zcws
from zcws.aio.accepting import ServerHandshake


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


@pytest.mark.parametrize("before", [False, True])
def test_cancelled_in_the_very_turn_in_which_it_opens(
    place: Place, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gets the connection, so nobody else could close it."""

    async def main() -> None:
        opened: list[zcws.WebSocket] = []

        def open_and_cancel(self: Any, *args: Any) -> zcws.WebSocket:
            opened.append(real(self, *args))
            if before:
                connecting.cancel()
            return opened[-1]

        def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            if not before:
                connecting.cancel()

        async def script(peer: RawPeer) -> None:
            with contextlib.suppress(ConnectionError):
                assert await peer.rest() == []

        real = zcws.connect._open
        monkeypatch.setattr(zcws.connect, "_open", open_and_cancel)
        async with place.raw_server(script, behind=wire.frame(wire.TEXT, b"early")) as port:
            connecting = asyncio.ensure_future(place.connect(port, on_frame=on_frame)._connect())
            with pytest.raises(asyncio.CancelledError):
                await soon(connecting)
            await until(lambda: opened[0].state is zcws.State.LOST)

    place.run(main())


def test_a_network_that_is_too_slow_says_so_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """ETIMEDOUT is a TimeoutError of Python's, and none of `open_timeout`."""

    async def reach(*_: Any) -> Any:
        raise TimeoutError(errno.ETIMEDOUT, "the network's own words")

    monkeypatch.setattr("zcws.aio.client.reach", reach)

    async def main() -> None:
        with pytest.raises(TimeoutError, match="the network's own words"):
            await place.connect(1)

    place.run(main())


def test_as_many_redirects_as_are_allowed(place: Place) -> None:
    def process_request(handshake: ServerHandshake, asked: zcws.Request) -> zcws.Response | None:
        if asked.path == "/2":
            return None
        answer = handshake.respond(302, "on")
        answer.headers["Location"] = f"/{int(asked.path[1:]) + 1}"
        return answer

    async def main() -> None:
        async with place.serve(echo, process_request=process_request) as server:
            async with place.connect(server, "/0", max_redirects=2) as ws:
                assert ws.request is not None and ws.request.path == "/2"
            with pytest.raises(zcws.HandshakeError, match="max_redirects=1"):
                await place.connect(server, "/0", max_redirects=1)

    place.run(main())


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


def test_one_object_is_one_block_at_a_time(place: Place) -> None:
    """The end of either block closed the second connection, and nobody the first."""

    async def main() -> None:
        async with place.serve(echo) as server:
            connecting = zcws.connect(f"ws://127.0.0.1:{port_of(server)}/")
            async with connecting as ws:
                with pytest.raises(RuntimeError, match="in use"):
                    await connecting.__aenter__()
            assert ws.state is zcws.State.CLOSED
            both = await asyncio.gather(
                connecting.__aenter__(), connecting.__aenter__(), return_exceptions=True
            )
            assert isinstance(both[0], zcws.WebSocket) and isinstance(both[1], RuntimeError)
            await connecting.__aexit__(None, None, None)
            assert both[0].state is zcws.State.CLOSED
        with pytest.raises(OSError):
            await connecting.__aenter__()  # nobody listens: and so once more
        with pytest.raises(OSError):
            await connecting.__aenter__()

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


@pytest.mark.parametrize(
    ("error", "code"), [(None, 1000), (LookupError, 1011), (asyncio.CancelledError, 1011)]
)
@pytest.mark.parametrize("awaited", [True, False])
def test_the_code_says_whether_the_block_has_failed(
    place: Place, error: type[BaseException] | None, code: int, awaited: bool
) -> None:
    """As with the blocking client, and with `websockets`: 1000 told the server that all was well."""
    codes: list[int] = []

    async def script(peer: RawPeer) -> None:
        close = await peer.read()
        codes.append(int.from_bytes(close.payload[:2], "big"))
        await peer.send(wire.CLOSE, close.payload)

    async def main() -> None:
        async with place.raw_server(script) as port:
            asked = place.connect(port)
            with contextlib.suppress(LookupError, asyncio.CancelledError):
                async with await asked if awaited else asked:
                    if error is not None:
                        raise error

    place.run(main())
    assert codes == [code]


def test_no_limit_is_told_as_none(place: Place) -> None:
    async def main() -> None:
        async def script(peer: RawPeer) -> None:
            for opcode in (wire.BINARY, wire.CONTINUATION, wire.CONTINUATION):
                await peer.send(opcode, b"", fin=False)
            await peer.read()

        async with place.raw_server(script) as port:
            ws = await place.connect(port, close_timeout=0.05, max_size=None, max_fragments=2)
            with pytest.raises(zcws.LimitExceeded, match=r"here are max_size=None, max_fragments=2, options"):
                await soon(ws.recv())

    place.run(main())


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


def refuse(status: int, location: str | None = None) -> Any:
    """A `process_request` that answers with a status."""

    def process_request(handshake: Any, asked: zcws.Request) -> zcws.Response:
        answer: zcws.Response = handshake.respond(status, "no")
        if location is not None:
            answer.headers["Location"] = location
        return answer

    return process_request


class TestRedirects:
    def test_not_unless_asked(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo, process_request=refuse(301, "/there")) as server:
                with pytest.raises(zcws.HandshakeError, match="max_redirects=0 follows none") as caught:
                    await place.connect(server)
                assert caught.value.headers is not None and caught.value.headers["Location"] == "/there"

        place.run(main())

    def test_in_a_circle(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo, process_request=refuse(302, "/")) as server:
                with pytest.raises(zcws.HandshakeError, match="more than max_redirects=2 allows"):
                    await place.connect(server, max_redirects=2)

        place.run(main())

    def test_to_one_that_does_not_answer(self, anyloop: Place) -> None:
        """The first had not answered, said the error."""

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async def main() -> None:
            async with anyloop.listen(silent) as port:
                there = f"ws://127.0.0.1:{port}/"
                async with anyloop.serve(echo, process_request=refuse(302, there)) as server:
                    said = f"^{there} has not answered .* seconds; ws://127.0.0.1:{port_of(server)}/ redirects there$"
                    with pytest.raises(TimeoutError, match=said):
                        await anyloop.connect(server, max_redirects=1, open_timeout=0.3)

        anyloop.run(main())

    def test_to_tls_that_is_not_trusted(self, anyloop: Place, certificates: Certificates) -> None:
        """The error advised `ssl=`, which is refused with ws://."""

        async def main() -> None:
            async with anyloop.serve(echo, ssl=certificates.server) as server:
                there = f"https://localhost:{port_of(server)}/"
                async with anyloop.serve(echo, process_request=refuse(302, there)) as first:
                    with pytest.raises(
                        ssl.SSLCertVerificationError, match=r"is that of wss://localhost:\d+/$"
                    ):
                        await anyloop.connect(first, max_redirects=1)

        anyloop.run(main())

    def test_from_tls_to_the_clear(self, tls: Place) -> None:
        async def main() -> None:
            async with tls.serve(echo, process_request=refuse(302, "http://127.0.0.1/")) as server:
                with pytest.raises(zcws.HandshakeError, match="from wss to ws is not followed"):
                    await tls.connect(server, max_redirects=5)

        tls.run(main())


class TestCredentials:
    @pytest.mark.parametrize(
        ("options", "value"),
        [({"basic_auth": ("user", "word")}, "Basic dXNlcjp3b3Jk"), ({"bearer": "token"}, "Bearer token")],
    )
    def test_they_arrive(self, place: Place, options: dict[str, Any], value: str) -> None:
        async def main() -> None:
            async with place.serve(echo) as server, place.connect(server, **options):
                (accepted,) = server.connections
                assert accepted.request is not None
                assert accepted.request.headers["Authorization"] == value

        place.run(main())

    def test_they_are_not_in_errors(self, place: Place) -> None:
        async def main() -> None:
            with socket.create_server(("127.0.0.1", 0)) as listening:  # it accepts nobody
                uri = f"ws://user:5ecret@127.0.0.1:{listening.getsockname()[1]}/path?token=5ecret"
                with pytest.raises(
                    TimeoutError, match=r"^ws://127.0.0.1:\d+/path has not answered"
                ) as caught:
                    await zcws.connect(uri, open_timeout=0.05, proxy=None)
                assert "5ecret" not in str(caught.value)

        place.run(main())


def test_trust_by_path(anyloop: Place, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def main() -> None:
        async with zcws.serve(echo, "127.0.0.1", 0, ssl=context) as server:
            uri = f"wss://127.0.0.1:{port_of(server)}/"
            async with zcws.connect(uri, ssl=tmp_path / "authority.pem") as ws:
                await ws.send("hello")
                assert await soon(ws.recv()) == "hello"
            with pytest.raises(
                ssl.SSLCertVerificationError, match=f'that of {uri}; ssl="authority.pem" trusts'
            ):
                await zcws.connect(uri, ssl=True)

    anyloop.run(main())


#: Delays for tests.
at_once = functools.partial(itertools.repeat, 0.001)


class TestReconnecting:
    """`async for ws in connect(...)`; what is decided when is in test_retry.py."""

    @pytest.mark.skipif(
        sys.implementation.name != "cpython", reason="a loop left early ends its generator late"
    )
    def test_one_connection_after_the_other(self, anyplace: Place, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "zcws.client")

        async def main() -> None:
            async with anyplace.serve(echo) as server:
                connections: list[zcws.WebSocket] = []
                async for ws in anyplace.connect(server, reconnect_delays=at_once):
                    assert all(other.state is zcws.State.CLOSED for other in connections)
                    connections.append(ws)
                    await ws.send("hello")
                    assert await soon(ws.recv()) == "hello"
                    if len(connections) == 3:
                        break
                await soon(connections[-1].wait_closed())  # the loop has been left
                assert {ws.close_code for ws in connections} == {1000}

        anyplace.run(main())
        said = [record.getMessage() for record in caplog.records]
        assert [": 1000 (normal closure); connecting again in 0.0 seconds" in line for line in said] == [
            True
        ] * 2

    def test_the_last_one_is_closed_by_aclosing(self) -> None:
        """At once, and on PyPy, too."""

        async def main() -> None:
            async with zcws.serve(echo, "127.0.0.1", 0) as server:
                connecting = zcws.connect(f"ws://127.0.0.1:{port_of(server)}/", proxy=None)
                async with contextlib.aclosing(aiter(connecting)) as connections:
                    async for ws in connections:
                        assert not ws.closed
                        break
                assert ws.close_code == 1000

        asyncio.run(soon(main()))

    def test_a_server_that_comes_late(self, place: Place, caplog: pytest.LogCaptureFixture) -> None:
        async def main(port: int) -> None:
            attempts = 0

            def judge(error: Exception) -> Exception | None:
                nonlocal attempts
                attempts += 1
                return zcws.process_exception(error)

            async def use() -> str:
                uri = f"ws://user:5ecret@127.0.0.1:{port}/?token=5ecret"
                connecting = zcws.connect(uri, reconnect_delays=at_once, process_exception=judge)
                async for ws in connecting:
                    await ws.send("at last")
                    return str(await ws.recv())
                raise AssertionError

            using = asyncio.ensure_future(use())
            await until(lambda: attempts >= 2)
            async with zcws.serve(echo, "127.0.0.1", port):
                assert await soon(using) == "at last"

        with free_port() as port:
            place.run(main(port))
        assert "cannot connect to ws://127.0.0.1:" in caplog.text and "Connection" in caplog.text
        assert "trying again in 0.0 seconds" in caplog.text and "5ecret" not in caplog.text

    @pytest.mark.skipif(
        sys.implementation.name != "cpython", reason="a loop left early ends its generator late"
    )
    def test_a_server_that_breaks_connections(self, place: Place, caplog: pytest.LogCaptureFixture) -> None:
        """The program's own `except ConnectionClosed` decides to go on."""
        served = 0

        async def script(peer: RawPeer) -> None:
            nonlocal served
            served += 1
            if served < 3:
                peer.reset()
            else:
                await peer.send(wire.TEXT, b"better")
                await peer.send(wire.CLOSE, (await peer.read()).payload)

        async def main() -> None:
            async with place.raw_server(script) as port:
                async for ws in place.connect(port, reconnect_delays=at_once):
                    try:
                        assert await soon(ws.recv()) == "better"
                        break
                    except zcws.ConnectionClosed:
                        continue
                await soon(ws.wait_closed())

        place.run(main())
        assert caplog.text.count("ended: the connection was lost: 1006 (abnormal closure)") == 2

    def test_delays_that_end(self, place: Place) -> None:
        """There is to be no other connection: that is the end of the loop, and no error."""

        async def main() -> None:
            async with place.serve(echo) as server:
                turns = 0
                async for ws in place.connect(server, reconnect_delays=tuple):
                    turns += 1
                    await ws.close()
                assert turns == 1

        place.run(main())

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_statuses_that_pass(self, place: Place, status: int) -> None:
        answers = [status, status]

        def process_request(handshake: Any, asked: zcws.Request) -> zcws.Response | None:
            return handshake.respond(answers.pop(), "not now") if answers else None

        async def main() -> None:
            async with place.serve(echo, process_request=process_request) as server:
                async for ws in place.connect(server, reconnect_delays=at_once):
                    await soon(ws.close())
                    break

        place.run(main())
        assert not answers

    def test_a_server_that_ends_connections_before_it_answers(self, place: Place) -> None:
        served = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            served += 1

        async def main() -> None:
            async with place.listen(serve) as port:
                with pytest.raises(zcws.HandshakeError, match="before it answered"):
                    connecting = place.connect(port, reconnect_delays=lambda: [0, 0])
                    async for _ in connecting:
                        raise AssertionError

        place.run(main())
        assert served == 3

    @pytest.mark.parametrize("status", [400, 401, 403, 404])
    def test_fatal(self, place: Place, status: int) -> None:
        async def main() -> None:
            async with place.serve(echo, process_request=refuse(status)) as server:
                with pytest.raises(zcws.HandshakeError) as caught:
                    async for _ in place.connect(server, reconnect_delays=at_once):
                        raise AssertionError
                assert caught.value.status == status

        place.run(main())

    def test_no_trust_is_fatal(self, tls: Place) -> None:
        async def main() -> None:
            async with tls.serve(echo) as server:
                with pytest.raises(ssl.SSLCertVerificationError):
                    async for _ in tls.connect(server, ssl=None, reconnect_delays=at_once):
                        raise AssertionError

        tls.run(main())

    @pytest.mark.skipif(
        sys.implementation.name != "cpython", reason="a loop left early ends its generator late"
    )
    def test_what_is_raised_inside_is_the_programs(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server:
                connections = []
                with pytest.raises(ZeroDivisionError):
                    async for ws in place.connect(server, reconnect_delays=at_once):
                        connections.append(ws)
                        1 / 0  # noqa: B018
                await soon(connections[0].wait_closed())
                assert len(connections) == 1

        place.run(main())

    def test_cancelled_while_it_waits(self, place: Place) -> None:
        async def main() -> None:
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                waiting = asyncio.Event()

                def delays() -> Iterator[float]:
                    waiting.set()
                    yield 3600

                async def use() -> None:
                    async for _ in place.connect(closed.getsockname()[1], reconnect_delays=delays):
                        raise AssertionError

                using = asyncio.ensure_future(use())
                await soon(waiting.wait())
                using.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await using

        place.run(main())

    def test_mistakes(self) -> None:
        with pytest.raises(TypeError, match=r"zcws\.backoff"):
            zcws.connect("ws://a/", reconnect_delays=zcws.backoff())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="process_exception"):
            zcws.connect("ws://a/", process_exception=True)  # type: ignore[arg-type]

        async def judge(error: Exception) -> None: ...

        with pytest.raises(TypeError, match=r"^process_exception is a plain function"):
            zcws.connect("ws://a/", process_exception=judge)  # type: ignore[arg-type]

    @pytest.mark.parametrize("delay", [-1, math.nan])
    def test_a_delay_that_is_no_time(self, place: Place, delay: float) -> None:
        """One of NaN seconds was never over."""

        async def main() -> None:
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                with pytest.raises(ValueError, match=r"^each delay of reconnect_delays is") as wrong:
                    async for _ in place.connect(closed.getsockname()[1], reconnect_delays=lambda: [delay]):
                        raise AssertionError
                assert isinstance(wrong.value.__context__, OSError)  # nobody listens

        place.run(main())

    def test_a_given_socket_is_good_for_once(self) -> None:
        async def main() -> None:
            sock, other = socket.socketpair()
            with sock, other, pytest.raises(ValueError, match="can be used once"):
                async for _ in zcws.connect("ws://a/", sock=sock):
                    raise AssertionError

        asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
# CPython warns of a fork beside threads, which other tests may have left.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
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


def test_a_connect_that_nobody_awaits() -> None:
    """Also the one of a Unix socket; `hasattr` is answered as ever."""
    for waiting in (zcws.connect("ws://a/"), zcws.unix_connect("/nowhere")):
        with pytest.raises(
            AttributeError, match=r"has no 'send': write .* `ws = await zcws\.connect\(\.\.\.\)`$"
        ):
            waiting.send  # type: ignore[attr-defined]  # noqa: B018
        assert not hasattr(waiting, "recv")
