"""The table "Life of a connection" of the behaviours: each row over real sockets, on every loop, plain and TLS."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest
import wire
from net import Place, RawPeer, echo, narrow, soon, swallow, until

import zcws

ALSO_OVER_HTTP2 = True  # conftest.py


class TestPing:
    """Ping received: Pong with the same bytes, automatically."""

    def test_server(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow) as server, anyplace.raw_client(server) as peer:
                for payload in (b"", b"x", bytes(range(125))):
                    await peer.send(wire.PING, payload)
                    assert await peer.read() == wire.Seen(wire.PONG, payload)

        anyplace.run(main())

    def test_client(self, anyplace: Place) -> None:
        async def script(peer: RawPeer) -> None:
            await peer.send(wire.PING, b"ping")
            assert await peer.read() == wire.Seen(wire.PONG, b"ping", masked=True)
            await peer.send(wire.CLOSE)

        async def main() -> None:
            async with anyplace.raw_server(script) as port:
                ws = await anyplace.connect(port)
                assert [message async for message in ws] == []

        anyplace.run(main())

    def test_while_the_application_is_busy(self, anyplace: Place) -> None:
        async def main() -> None:
            go_on = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                assert await ws.recv() == "busy now"
                await go_on.wait()

            async with (
                anyplace.serve(handler, close_timeout=0.05) as server,
                anyplace.raw_client(server) as peer,
            ):
                await peer.send(wire.TEXT, b"busy now")
                for number in range(3):
                    await peer.send(wire.TEXT, b"unread")
                    await peer.send(wire.PING, b"%d" % number)
                    assert await peer.read() == wire.Seen(wire.PONG, b"%d" % number)
                go_on.set()
                assert wire.codes(await peer.rest()) == [1000]

        anyplace.run(main())


class TestCloseReceived:
    """Close received: echoed automatically, then the server closes the TCP side first."""

    @pytest.mark.parametrize("payload", [b"", wire.close_payload(1000, b"bye"), wire.close_payload(4321)])
    def test_server_echoes_and_closes_first(self, anyplace: Place, payload: bytes) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow) as server, anyplace.raw_client(server) as peer:
                await peer.send(wire.CLOSE, payload)
                assert await peer.rest() == [
                    wire.Seen(wire.CLOSE, payload)
                ]  # `rest` ends with the server's FIN

        anyplace.run(main())

    def test_client_echoes_and_lets_the_server_close(self, anyplace: Place) -> None:
        async def script(peer: RawPeer) -> None:
            await peer.send(wire.CLOSE, wire.close_payload(1001, b"later"))
            assert await peer.read() == wire.Seen(wire.CLOSE, wire.close_payload(1001, b"later"), masked=True)
            assert await peer.is_silent()

        async def main() -> None:
            async with anyplace.raw_server(script) as port:
                ws = await anyplace.connect(port)
                with pytest.raises(zcws.ConnectionClosedOK) as caught:
                    await soon(ws.recv())
                assert (caught.value.code, caught.value.reason, caught.value.clean) == (1001, "later", True)
                await soon(ws.wait_closed())
                assert (ws.close_code, ws.close_reason) == (1001, "later")

        anyplace.run(main())

    def test_a_code_that_is_no_good_end_is_an_error(self, anyplace: Place) -> None:
        async def main() -> None:
            caught: list[zcws.ConnectionClosed] = []

            async def handler(ws: zcws.WebSocket) -> None:
                try:
                    async for _ in ws:
                        pass
                except zcws.ConnectionClosed as error:
                    caught.append(error)

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                await peer.send(wire.CLOSE, wire.close_payload(1011, b"oops"))
                assert wire.codes(await peer.rest()) == [1011]
            (error,) = caught
            assert isinstance(error, zcws.ConnectionClosedError)
            assert (error.code, error.reason, error.clean) == (1011, "oops", True)

        anyplace.run(main())

    def test_behind_messages_that_are_still_answered(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(echo) as server, anyplace.raw_client(server) as peer:
                data = b"".join(peer.frame(wire.TEXT, b"%d" % i) for i in range(100)) + peer.frame(wire.CLOSE)
                await peer.send_bytes(data)
                frames = await peer.rest()
                assert [frame.payload for frame in frames] == [*(b"%d" % i for i in range(100)), b""]
                assert frames[-1].opcode == wire.CLOSE

        anyplace.run(main())

    def test_behind_messages_that_nobody_reads(self, anyplace: Place) -> None:
        async def main() -> None:
            go_on = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                await go_on.wait()

            async with (
                anyplace.serve(handler, close_timeout=0.05) as server,
                anyplace.raw_client(server) as peer,
            ):
                await peer.send(wire.TEXT, b"unread")
                await peer.send(wire.CLOSE, wire.close_payload(1000))
                assert wire.codes(await peer.rest()) == [1000]
                go_on.set()

        anyplace.run(main())


class TestKeepalive:
    """Ping every `ping_interval`; no Pong within `ping_timeout`: fail with 1011; None turns it off; `ws.latency`."""

    def test_pings_and_latency(self, anyplace: Place) -> None:
        async def main() -> None:
            seen: list[zcws.WebSocket] = []

            async def handler(ws: zcws.WebSocket) -> None:
                seen.append(ws)
                await swallow(ws)

            async with anyplace.serve(handler, ping_interval=0.01, ping_timeout=60) as server:
                async with anyplace.raw_client(server) as peer:
                    first = await peer.read()
                    assert first.opcode == wire.PING
                    assert seen[0].latency == 0.0
                    await peer.send(wire.PONG, first.payload)
                    await until(lambda: seen[0].latency)
                    assert seen[0].state is zcws.State.OPEN

        anyplace.run(main())

    def test_no_pong(self, anyplace: Place) -> None:
        async def main() -> None:
            caught: list[zcws.ConnectionClosed] = []

            async def handler(ws: zcws.WebSocket) -> None:
                try:
                    await ws.recv()
                except zcws.ConnectionClosed as error:
                    caught.append(error)

            options = {"ping_interval": 0.01, "ping_timeout": 0.02, "close_timeout": 0.05}
            async with anyplace.serve(handler, **options) as server, anyplace.raw_client(server) as peer:
                assert (await peer.read()).opcode == wire.PING
                assert wire.codes(await peer.rest()) == [1011]
                await until(lambda: not server.connections)
            (error,) = caught
            assert isinstance(error, zcws.ConnectionClosedError)
            assert (error.code, error.clean) == (1011, False)
            assert "keepalive" in error.reason

        anyplace.run(main())

    @pytest.mark.parametrize("tls", ["uvloop-tls", "asyncio-looptls"], indirect=True)
    def test_over_tls_a_peer_that_is_gone_while_nobody_reads(self, tls: Place) -> None:
        """The loop's own TLS says nothing of that before the next read, and drops the Pings; what has come can still
        be read. Ours leaves the rest, and the end, in the socket, as does that of CPython 3.10."""
        if tls.loop == "uvloop":
            pytest.importorskip("uvloop", reason="this is about its TLS")
        elif sys.version_info < (3, 11):
            pytest.skip("it leaves the rest, and the end, in the socket")
        sent = [bytes([number]) * 20_000 for number in range(20)]  # more than a ring takes
        got = []

        async def handler(ws: zcws.WebSocket) -> None:
            await ws.wait_closed()
            with pytest.raises(zcws.ConnectionClosedError):
                while True:
                    got.append(await ws.recv())

        async def main() -> None:
            async with tls.serve(handler, ping_interval=0.05, ping_timeout=0.05) as server:
                frames = [wire.frame(wire.BINARY, payload, key=wire.KEY) for payload in sent]
                await soon(tls.send_and_leave(server, frames))
                await until(lambda: not server.connections)
            assert got == sent

        tls.run(main())

    def test_a_client_pings_too(self, anyplace: Place) -> None:
        async def script(peer: RawPeer) -> None:
            while (frame := await peer.read()).opcode == wire.PING:
                pings.append(frame)
            assert frame.payload[:2] == (1011).to_bytes(2, "big")

        pings: list[object] = []

        async def main() -> None:
            async with anyplace.raw_server(script) as port:
                ws = await anyplace.connect(port, ping_interval=0.01, ping_timeout=0.02)
                with pytest.raises(zcws.ConnectionClosedError) as caught:
                    await soon(ws.recv())
                assert caught.value.code == 1011
                await soon(ws.wait_closed())

        anyplace.run(main())
        assert pings

    def test_none_turns_it_off(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow, ping_interval=None, ping_timeout=0.001) as server:
                async with anyplace.raw_client(server) as peer:
                    assert await peer.is_silent()

        anyplace.run(main())


class TestCloseUnanswered:
    """Our Close unanswered: socket closed after `close_timeout`, counted from the Close."""

    def test_server(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                await ws.close(1000, "done")

            async with (
                anyplace.serve(handler, close_timeout=0.05) as server,
                anyplace.raw_client(server) as peer,
            ):
                assert await peer.rest() == [wire.Seen(wire.CLOSE, wire.close_payload(1000, b"done"))]
                await until(lambda: not server.connections)

        anyplace.run(main())

    def test_client(self, anyplace: Place) -> None:
        async def script(peer: RawPeer) -> None:
            assert (await peer.read()).opcode == wire.CLOSE
            await peer.reader.read()  # until the client gives up

        async def main() -> None:
            async with anyplace.raw_server(script) as port:
                ws = await anyplace.connect(port, close_timeout=0.05)
                await soon(ws.close())
                assert ws.close_code == 1006  # no Close came back: RFC 6455 7.1.5

        anyplace.run(main())

    def test_it_counts_from_the_close_and_not_from_the_connect(self, anyplace: Place) -> None:
        """A connection that is older than its `close_timeout` still waits for the peer's Close."""

        async def script(peer: RawPeer) -> None:
            await asyncio.sleep(0.4)
            await peer.send(wire.TEXT, b"old enough")
            assert (await peer.read()).opcode == wire.CLOSE
            await peer.send(wire.TEXT, b"on its way")
            await peer.send(wire.CLOSE, wire.close_payload(1000))

        async def main() -> None:
            async with anyplace.raw_server(script) as port:
                ws = await anyplace.connect(port, close_timeout=0.3)
                assert await soon(ws.recv()) == "old enough"
                await soon(ws.close())
                assert ws.close_code == 1000
                assert ws.state is zcws.State.CLOSED

        anyplace.run(main())

    def test_a_fault_is_bounded_as_well(self, anyplace: Place) -> None:
        async def main() -> None:
            async with (
                anyplace.serve(swallow, close_timeout=0.05) as server,
                anyplace.raw_client(server) as peer,
            ):
                await peer.send(3, b"reserved opcode")
                assert wire.codes(await peer.rest()) == [1002]
                await until(lambda: not server.connections)

        anyplace.run(main())


class TestReadCancelled:
    """A read cancelled (`wait_for`, task cancel): nothing lost; the next read continues."""

    def test_in_the_middle_of_a_frame(self, anyplace: Place) -> None:
        async def main() -> None:
            got: list[Any] = []

            async def handler(ws: zcws.WebSocket) -> None:
                while len(got) < 3:
                    try:
                        got.append(await asyncio.wait_for(ws.recv(), 0.005))
                    except asyncio.TimeoutError:
                        continue

            async with (
                anyplace.serve(handler, close_timeout=0.05) as server,
                anyplace.raw_client(server) as peer,
            ):
                data = peer.frame(wire.TEXT, b"first") + peer.frame(wire.BINARY, bytes(70_000))
                data += peer.frame(wire.TEXT, b"la", fin=False) + peer.frame(wire.CONTINUATION, b"st")
                for at in (0, 1, 7, 12, 400, 50_000, len(data) - 12, len(data) - 3):
                    following = [
                        cut
                        for cut in (1, 7, 12, 400, 50_000, len(data) - 12, len(data) - 3, len(data))
                        if cut > at
                    ]
                    await peer.send_bytes(data[at : following[0]])
                    await asyncio.sleep(0.01)
                assert wire.codes(await peer.rest()) == [1000]
            assert got == ["first", bytes(70_000), "last"]

        anyplace.run(main())


class TestSplit:
    """The reader fails while split: the bridge carries the Close for the writer to send, then says that it is over."""

    def test_the_bridge_carries_the_close_and_then_ends(self, anyplace: Place) -> None:
        async def main() -> None:
            errors: list[zcws.ConnectionClosed] = []
            ended: list[bool] = []

            async def handler(ws: zcws.WebSocket) -> None:
                reader, writer, bridge = ws.split()

                async def answer() -> None:
                    while (reply := await bridge.listen()) is not None:
                        await writer.send_reply(reply)
                    ended.append(True)

                answering = asyncio.ensure_future(answer())
                try:
                    async for _ in reader:
                        pass
                except zcws.ConnectionClosed as error:
                    errors.append(error)
                await answering

            async with (
                anyplace.serve(handler, close_timeout=0.05) as server,
                anyplace.raw_client(server) as peer,
            ):
                await peer.send(wire.PING, b"one")
                assert await peer.read() == wire.Seen(wire.PONG, b"one")
                await peer.send(3, b"reserved opcode")
                assert wire.codes(await peer.rest()) == [1002]
                await until(lambda: not server.connections)
            assert ended == [True]
            assert isinstance(errors[0], zcws.ProtocolError)

        anyplace.run(main())

    def test_a_bridge_that_nobody_listens_to_does_not_hold_the_socket(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                reader, _, _ = ws.split()
                async for _ in reader:
                    pass

            async with (
                anyplace.serve(handler, close_timeout=0.05) as server,
                anyplace.raw_client(server) as peer,
            ):
                await peer.send(wire.CLOSE, wire.close_payload(1000))
                assert wire.codes(await peer.rest()) == [1000]
                await until(lambda: not server.connections)

        anyplace.run(main())


class TestPeerStopsReading:
    """The peer stops reading: sends wait at the high-water mark; with a `write_timeout`, the connection is failed."""

    def test_sends_wait(self, anyplace: Place) -> None:
        async def main() -> None:
            sent = 0

            async def handler(ws: zcws.WebSocket) -> None:
                nonlocal sent
                for _ in range(400):
                    await ws.send(bytes(100_000))
                    sent += 1

            async with (
                anyplace.serve(handler, ping_interval=None) as server,  # a slow peer would see a Ping as well
                anyplace.raw_client(server, limit=1024) as peer,
            ):
                await until(lambda: sent)
                before = -1
                while sent != before:
                    before = sent
                    await asyncio.sleep(0.1)
                assert sent < 400  # 40 MB do not fit into the sockets' buffers
                (ws,) = server.connections
                transport = ws._transport
                assert transport is not None
                assert transport.get_write_buffer_size() < 1_000_000
                for _ in range(400):
                    assert (await peer.read()).payload == bytes(100_000)
                assert sent == 400

        anyplace.run(main())

    def test_write_timeout(self, anyplace: Place) -> None:
        async def main() -> None:
            caught: list[BaseException] = []

            async def handler(ws: zcws.WebSocket) -> None:
                try:
                    while True:
                        await ws.send(bytes(100_000))
                except BaseException as error:
                    caught.append(error)
                    raise

            async with anyplace.serve(handler, write_timeout=0.05) as server:
                async with anyplace.raw_client(server, limit=1024):
                    await until(lambda: caught)
                    await until(lambda: not server.connections)
            (error,) = caught
            assert isinstance(error, zcws.ConnectionClosedError)
            assert error.code == 1011
            assert "write_timeout" in error.reason

        anyplace.run(main())

    def test_pings_of_a_peer_that_does_not_read_cost_one_pong(self, place: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                await ws.recv()
                narrow(ws)
                ws.send_nowait(bytes(4 << 20))  # several times what the systems hold
                await swallow(ws)

            async with place.serve(handler, close_timeout=0.05) as server:
                async with place.raw_client(server, limit=1024) as peer:
                    narrow(peer.writer)
                    await peer.send(wire.TEXT, b"fill it")
                    (ws,) = server.connections
                    await until(lambda: ws.connection.hold_replies)
                    for number in range(1_000):
                        await peer.send(wire.PING, b"%d" % number)
                    pongs: list[bytes] = []
                    while pongs[-1:] != [b"999"]:
                        frame = await peer.read()
                        if frame.opcode == wire.PONG:
                            pongs.append(frame.payload)
                    assert len(pongs) < 20

        place.run(main())


class TestShutdown:
    """The server shuts down: stops accepting, sends 1001 to all, waits `close_timeout`, closes."""

    def test_everybody_gets_1001(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(echo) as server:
                clients = [await anyplace.connect(server) for _ in range(5)]
                readers = [asyncio.ensure_future(client.recv()) for client in clients]
                await until(lambda: len(server.connections) == 5)
                server.close()
                for result in await asyncio.gather(*readers, return_exceptions=True):
                    assert isinstance(result, zcws.ConnectionClosedOK)
                    assert result.code == 1001
                await soon(server.wait_closed())
                assert not server.connections
                assert not server.is_serving()

        anyplace.run(main())

    def test_it_stops_accepting(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(echo) as server:
                port = server.sockets[0].getsockname()[1]
            with pytest.raises(OSError):
                await anyplace.connect(port)

        anyplace.run(main())

    def test_a_peer_that_does_not_answer(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow, close_timeout=0.05) as server:
                async with anyplace.raw_client(server) as peer:
                    await until(lambda: server.connections)
                    server.close()
                    assert wire.codes(await peer.rest()) == [1001]
                    await soon(server.wait_closed())

        anyplace.run(main())

    def test_a_code_and_a_reason_of_ones_own(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(swallow, close_timeout=0.05) as server, place.raw_client(server) as peer:
                await until(lambda: server.connections)
                server.close(code=1012, reason="restart")
                assert await peer.read() == wire.Seen(wire.CLOSE, wire.close_payload(1012, b"restart"))

        place.run(main())

    def test_connections_may_be_left_to_their_handlers(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server, place.raw_client(server) as peer:
                await until(lambda: server.connections)
                server.close(close_connections=False)
                await peer.send(wire.TEXT, b"still here")
                assert (await peer.read()).payload == b"still here"
                await peer.send(wire.CLOSE)
                assert wire.codes(await peer.rest()) == [0]
                await peer.close()
                await soon(server.wait_closed())

        place.run(main())


class TestAbnormalEnds:
    """EOF without a Close, a reset, half a close: `ConnectionClosed`, code 1006, `clean=False`; nothing hangs."""

    @pytest.mark.parametrize("how", ["eof", "reset", "eof inside a frame"])
    def test_peer_goes_away(self, anyplace: Place, how: str) -> None:
        async def main() -> None:
            caught: list[zcws.ConnectionClosed] = []

            async def handler(ws: zcws.WebSocket) -> None:
                try:
                    await swallow(ws)
                except zcws.ConnectionClosed as error:
                    caught.append(error)

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                await until(lambda: server.connections)
                if how == "reset":
                    peer.reset()
                else:
                    if how != "eof":
                        await peer.send_bytes(peer.frame(wire.TEXT, b"cut off")[:-1])
                    await peer.close()
                await until(lambda: caught and not server.connections)
            assert isinstance(caught[0], zcws.ConnectionClosedError)
            assert (caught[0].code, caught[0].clean, caught[0].by) == (1006, False, "network")
            if how == "reset" and not anyplace.is_tls:  # what is said of it through TLS differs
                assert isinstance(caught[0].__cause__, ConnectionResetError)

        anyplace.run(main())

    @pytest.mark.parametrize("slow", [False, True])
    def test_a_half_closed_peer_still_gets_its_answers(self, place: Place, slow: bool) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                async for message in ws:
                    if slow:
                        await asyncio.sleep(0.01)
                    await ws.send(message)

            async with place.serve(handler) as server, place.raw_client(server) as peer:
                await peer.send_bytes(b"".join(peer.frame(wire.TEXT, b"%d" % i) for i in range(20)))
                peer.writer.write_eof()
                frames = await peer.rest()
                assert [frame.payload for frame in frames] == [b"%d" % i for i in range(20)]
                await until(lambda: not server.connections)

        place.run(main())

    def test_a_handler_that_only_waits_hears_of_the_end(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                await ws.wait_closed()

            async with anyplace.serve(handler) as server:
                async with anyplace.raw_client(server):
                    await until(lambda: server.connections)
                await until(lambda: not server.connections)

        anyplace.run(main())

    def test_the_others_go_on(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(echo, close_timeout=0.05) as server, anyplace.connect(server) as good:
                for data in (b"\xff" * 10, b"\x81\x05hello", b"\x88\x81\0\0\0\0\x03"):
                    async with anyplace.raw_client(server) as bad:
                        await bad.send_bytes(data)
                        assert wire.codes(await bad.rest()) == [1002]
                    await good.send("still")
                    assert await soon(good.recv()) == "still"

        anyplace.run(main())


class TestHandlers:
    def test_one_that_raises_is_1011_and_a_log(
        self, anyplace: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                raise LookupError("a bug")

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                close = await peer.read()
                assert close == wire.Seen(wire.CLOSE, wire.close_payload(1011))  # nothing of the bug is told
                await peer.send(wire.CLOSE, close.payload)
                assert await peer.rest() == []

        with caplog.at_level(logging.ERROR, "zcws.server"):
            anyplace.run(main())
        (record,) = caplog.records
        assert record.exc_info is not None and "a bug" in str(record.exc_info[1])

    def test_one_that_fails_on_another_connection(
        self, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its own is closed as well: nobody would read it any more."""

        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                raise zcws.ConnectionClosedError(1006)

            async with place.serve(handler, close_timeout=0.05) as server, place.raw_client(server) as peer:
                assert (await peer.read()).payload == wire.close_payload(1011)

        place.run(main())
        assert len(caplog.records) == 1

    def test_one_that_never_reads(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                await ws.send("hello and goodbye")

            async with anyplace.serve(handler) as server, anyplace.raw_client(server) as peer:
                await peer.send(wire.TEXT, b"unread" * 1_000)
                assert (await peer.read()).payload == b"hello and goodbye"
                assert (await peer.read()).payload == wire.close_payload(1000)
                await peer.send(wire.CLOSE, wire.close_payload(1000))
                assert await peer.rest() == []
                await peer.close()
                await until(lambda: not server.connections)

        anyplace.run(main())

    def test_one_that_ends_quietly_when_the_peer_does(
        self, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                while True:
                    await ws.recv()

            async with place.serve(handler) as server:
                async with place.raw_client(server) as peer:
                    await peer.send(wire.CLOSE, wire.close_payload(1000))
                    await peer.rest()
                async with place.raw_client(server) as peer:
                    peer.reset()
                await until(lambda: not server.connections)

        place.run(main())
        assert not [record for record in caplog.records if record.levelno > logging.INFO]
