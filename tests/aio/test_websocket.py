from __future__ import annotations

import asyncio
import gc
import re
import sys
import weakref
from typing import Any

import pytest
import wire
from net import LONG, Place, RawPeer, echo, port_of, soon, swallow, until

import zcws
from zcws.aio import ending, stream

ALSO_OVER_HTTP2 = True  # conftest.py


async def answer_close(peer: RawPeer) -> None:
    """A server that answers the first Close with itself."""
    while (frame := await peer.read()).opcode != wire.CLOSE:
        pass
    await peer.send(wire.CLOSE, frame.payload)


class TestClose:
    def test_code_and_reason(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.raw_server(answer_close) as port:
                ws = await anyplace.connect(port)
                assert (ws.close_code, ws.close_reason) == (None, None)
                await soon(ws.close(4000, "enough"))
                assert (ws.close_code, ws.close_reason) == (4000, "enough")
                assert ws.state is zcws.State.CLOSED
                await soon(ws.close())  # again: nothing
                await soon(ws.wait_closed())

        anyplace.run(main())

    @pytest.mark.parametrize(("code", "reason"), [(1005, ""), (999, ""), (1000, "x" * 124), (1000, "é" * 62)])
    def test_what_must_not_be_sent(self, place: Place, code: int, reason: str) -> None:
        async def main() -> None:
            async with place.serve(echo) as server, place.connect(server) as ws:
                with pytest.raises(ValueError):
                    await ws.close(code, reason)
                assert ws.state is zcws.State.OPEN
                await ws.send("still open")
                assert await soon(ws.recv()) == "still open"

        place.run(main())

    def test_a_reader_that_waits_meanwhile(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.raw_server(answer_close) as port:
                ws = await anyplace.connect(port)
                reading = asyncio.ensure_future(ws.recv())
                await asyncio.sleep(0)
                await soon(ws.close())
                with pytest.raises(zcws.ConnectionClosedOK) as caught:
                    await soon(reading)
                assert caught.value.clean

        anyplace.run(main())

    def test_the_context_manager_closes(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(echo) as server:
                async with anyplace.connect(server) as ws:
                    pass
                assert ws.close_code == 1000
                with pytest.raises(LookupError):
                    async with anyplace.connect(server) as ws:
                        raise LookupError
                assert ws.state is zcws.State.CLOSED

        anyplace.run(main())

    def test_cancelled_while_it_waits(self, anyplace: Place) -> None:
        async def script(peer: RawPeer) -> None:
            await peer.read()
            await peer.reader.read()

        async def main() -> None:
            async with anyplace.raw_server(script) as port:
                ws = await anyplace.connect(port, close_timeout=0.2)
                states: list[zcws.State] = []

                async def close() -> None:
                    try:
                        await ws.close()
                    finally:
                        states.append(ws.state)

                closing = asyncio.ensure_future(close())
                await asyncio.sleep(0)
                closing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await closing
                assert states == [zcws.State.CLOSE_SENT]
                await soon(ws.wait_closed())  # the timeout goes on

        anyplace.run(main())

    def test_both_sides_at_once(self, anyplace: Place) -> None:
        async def main() -> None:
            go = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                await go.wait()
                await ws.close(4001)

            async with anyplace.serve(handler) as server:
                ws = await anyplace.connect(server)
                go.set()
                await soon(ws.close(4000))
                assert ws.close_code in (4000, 4001)
                await until(lambda: not server.connections)

        anyplace.run(main())

    def test_large_output_is_sent_before_the_close(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                await ws.send(bytes(8_000_000))

            async with anyplace.serve(handler) as server, anyplace.connect(server) as ws:
                assert await soon(ws.recv()) == bytes(8_000_000)
                with pytest.raises(zcws.ConnectionClosedOK):
                    await soon(ws.recv())

        anyplace.run(main())

    def test_abort(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow) as server:
                ws = await anyplace.connect(server)
                ws.abort()
                await soon(ws.wait_closed())
                ws.abort()
                assert (ws.close_code, ws.state) == (1006, zcws.State.LOST)
                await until(lambda: not server.connections)

        anyplace.run(main())

    def test_a_close_that_cannot_be_sent_is_none(self, place: Place) -> None:
        """Before it ends anything, and where there is nothing left to end."""

        async def main() -> None:
            async with place.serve(swallow) as server, place.connect(server) as ws:
                async with ws.send_stream() as message:
                    await message.write("a")
                    with pytest.raises(ValueError, match="close code 999 must not be sent"):
                        ws.begin_close(999)
                assert ws.state is zcws.State.OPEN
                await ws.close()
                with pytest.raises(ValueError, match="close code 999 must not be sent"):
                    await ws.close(999)

        place.run(main())

    def test_no_close_timeout(self, place: Place) -> None:
        async def script(peer: RawPeer) -> None:
            await peer.read()
            await peer.send(wire.CLOSE, wire.close_payload(1000))

        async def main() -> None:
            async with place.raw_server(script) as port:
                ws = await place.connect(port, close_timeout=None)
                await soon(ws.close())
                assert ws.close_code == 1000

        place.run(main())


def test_what_is_known(anyplace: Place) -> None:
    async def main() -> None:
        seen: list[zcws.WebSocket] = []

        async def handler(ws: zcws.WebSocket) -> None:
            seen.append(ws)
            await swallow(ws)

        async with anyplace.serve(handler, subprotocols=["chat"]) as server:
            async with anyplace.connect(server, "/path?query", subprotocols=["chat"]) as ws:
                await until(lambda: seen)
                (accepted,) = seen
                assert ws.remote_address == accepted.local_address == ("127.0.0.1", port_of(server))
                assert ws.local_address == accepted.remote_address
                assert ws.subprotocol == accepted.subprotocol == "chat"
                assert ws.latency == 0.0
                for one in (ws, accepted):
                    assert one.request is not None and one.request.path == "/path?query"
                    assert one.response is not None and one.response.status_code == 101
                    assert one.state is zcws.State.OPEN
                assert repr(ws) == f"<WebSocket client with {ws.remote_address}, open>"
                assert repr(accepted) == f"<WebSocket server with {ws.local_address}, open>"
                assert (ws.get_extra_info("ssl_object") is not None) is anyplace.is_tls
                assert ws.get_extra_info("nothing", "default") == "default"
            assert ws.get_extra_info("socket", "gone") == "gone"
            assert ws.remote_address == accepted.local_address == ("127.0.0.1", port_of(server))
            assert ws.local_address == accepted.remote_address
            assert repr(ws) == f"<WebSocket client with {ws.remote_address}, closed>"

    anyplace.run(main())


@pytest.mark.parametrize("how", ["our Close", "their Close", "end", "mistake"])
def test_closed_whatever_ended_it(anyplace: Place, how: str) -> None:
    """`state` says how it ended, so a program that only asks whether it has would have to know all the ways."""

    async def main() -> None:
        async with anyplace.serve(swallow, close_timeout=5) as server, anyplace.raw_client(server) as peer:
            await until(lambda: server.connections)
            (ws,) = server.connections
            assert not ws.closed
            if how == "our Close":
                ws.begin_close()
            elif how == "end":
                peer.cut()
            else:
                code = 1000 if how == "their Close" else 1005  # which must not be sent
                await peer.send(wire.CLOSE, wire.close_payload(code))
            await until(lambda: ws.closed)
            with pytest.raises(zcws.ConnectionClosed):
                await ws.send("nobody")
            await peer.close()
            await until(lambda: not server.connections)
            states = {"end": zcws.State.LOST, "mistake": zcws.State.FAILED, "their Close": zcws.State.CLOSED}
            assert ws.closed
            assert ws.state is states.get(how, zcws.State.LOST)  # ours was not answered

    anyplace.run(main())


@pytest.mark.parametrize("how", ["our Close", "their Close", "end", "reset"])
def test_who_it_was_is_known_when_it_is_over(anyplace: Place, how: str) -> None:
    """Both addresses were None from where a handler wants to log who has left."""

    async def main() -> None:
        seen: list[Any] = []

        def note(ws: zcws.WebSocket) -> None:
            seen.append((ws.local_address, ws.remote_address))

        async def handler(ws: zcws.WebSocket) -> None:
            ws.add_end_callback(note)
            if how == "our Close":
                ws.begin_close()
            await ws.wait_closed()
            note(ws)

        async with anyplace.serve(handler) as server:
            async with anyplace.raw_client(server) as peer:
                name = peer.writer.get_extra_info("sockname")
                await until(lambda: server.connections)
                if how == "reset":
                    peer.reset()
                elif how == "end":
                    peer.cut()
                else:
                    await peer.send(wire.CLOSE, wire.close_payload(1000))
                    await peer.rest()
            await until(lambda: len(seen) == 2)
            assert seen == [(("127.0.0.1", port_of(server)), name)] * 2

    anyplace.run(main())


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="elsewhere memory is free when it is")
def test_a_connection_that_is_over_waits_for_no_collector(anyplace: Place) -> None:
    """Nothing of it is a cycle: its memory is free when its last user has gone."""
    gone: list[weakref.ref[zcws.WebSocket]] = []

    async def handler(ws: zcws.WebSocket) -> None:
        gone.append(weakref.ref(ws))
        async for message in ws:
            await ws.send(message)

    async def main() -> None:
        async with anyplace.serve(handler) as server:
            async with anyplace.connect(server) as ws:
                await ws.send("x")
                assert await ws.recv() == "x"
            await until(lambda: not server.connections)
            await until(lambda: gone[0]() is None)

    gc.collect()
    gc.disable()
    try:
        anyplace.run(main())
    finally:
        gc.enable()


def test_many_wait_for_the_end_and_some_give_up(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo) as server:
            ws = await place.connect(server)
            waiting = [asyncio.ensure_future(ws.wait_closed()) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[1].cancel()
            await asyncio.wait(waiting, timeout=0.01)
            assert [task.done() for task in waiting] == [False, True, False]
            await soon(ws.close())
            await soon(asyncio.gather(waiting[0], waiting[2]))

    place.run(main())


class TestWaitClosed:
    """Whoever waits for the end hears of it at once, also behind messages that nobody reads. No timeout passes here."""

    @pytest.fixture(autouse=True)
    def no_grace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ending, "GRACE", 10 * LONG)

    @pytest.mark.parametrize("begins", ["before the close", "behind the close"])
    def test_the_peers_close_behind_messages(self, anyplace: Place, begins: str) -> None:
        async def main() -> None:
            read: list[object] = []

            async def handler(ws: zcws.WebSocket) -> None:
                if begins == "behind the close":
                    await until(lambda: ws._reader.is_ending)
                await ws.wait_closed()
                read.extend([await ws.recv(), await ws.recv()])  # they are still there
                with pytest.raises(zcws.ConnectionClosedOK):
                    await ws.recv()

            async with anyplace.serve(handler, close_timeout=1000) as server:
                async with anyplace.raw_client(server) as peer:
                    await until(lambda: server.connections)
                    (ws,) = server.connections
                    if begins == "before the close":
                        await until(lambda: ws._waiters)
                    await peer.send_bytes(peer.frame(wire.TEXT, b"1") + peer.frame(wire.TEXT, b"2"))
                    await peer.send(wire.CLOSE, wire.close_payload(1000))
                    assert await peer.rest() == [wire.Seen(wire.CLOSE, wire.close_payload(1000))]
                await until(lambda: not server.connections)
            assert read == ["1", "2"]

        anyplace.run(main())

    @pytest.mark.parametrize("how", ["eof", "reset"])
    @pytest.mark.parametrize("begins", ["before the end", "behind the end"])
    def test_the_end_of_the_stream_behind_messages(self, anyplace: Place, begins: str, how: str) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                if begins == "behind the end":
                    await until(lambda: ws._reader.is_ending)
                await ws.wait_closed()

            async with anyplace.serve(handler, close_timeout=1000) as server:
                async with anyplace.raw_client(server) as peer:
                    await until(lambda: server.connections)
                    (ws,) = server.connections
                    if begins == "before the end":
                        await until(lambda: ws._waiters)
                    await peer.send(wire.TEXT, b"unread")
                    await until(lambda: ws._reader.rows_waiting)
                    if how == "reset":
                        peer.reset()
                await until(lambda: not server.connections)
                assert (ws.close_code, ws.stats.closed_by) == (1006, "network")

        anyplace.run(main())

    def test_abort(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(zcws.WebSocket.wait_closed, close_timeout=1000) as server:
                ws = await anyplace.connect(server)
                await ws.send("unread")
                ws.abort()
                await soon(ws.wait_closed())
                await until(lambda: not server.connections)

        anyplace.run(main())

    def test_whoever_has_given_up_waiting_may_read_and_answer(self, anyplace: Place) -> None:
        async def main() -> None:
            given_up = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                waiting = asyncio.ensure_future(ws.wait_closed())
                await until(lambda: ws._waiters)
                waiting.cancel()
                await asyncio.wait([waiting])
                given_up.set()
                await until(lambda: ws._reader.is_ending)
                async for message in ws:
                    await ws.send(message)

            async with anyplace.serve(handler, close_timeout=1000) as server:
                async with anyplace.raw_client(server) as peer:
                    await soon(given_up.wait())
                    await peer.send_bytes(peer.frame(wire.TEXT, b"1") + peer.frame(wire.TEXT, b"2"))
                    await peer.send(wire.CLOSE)
                    assert [frame.payload for frame in await peer.rest()] == [b"1", b"2", b""]

        anyplace.run(main())

    def test_while_another_task_reads_it_answers_first(self, place: Place) -> None:
        async def main() -> None:
            go_on = asyncio.Event()

            async def answer(ws: zcws.WebSocket) -> None:
                async for message in ws:
                    await go_on.wait()
                    await ws.send(message)

            async def handler(ws: zcws.WebSocket) -> None:
                answering = asyncio.ensure_future(answer(ws))
                await asyncio.sleep(0)
                await ws.wait_closed()
                await answering

            async with place.serve(handler, close_timeout=1000) as server, place.raw_client(server) as peer:
                await peer.send_bytes(b"".join(peer.frame(wire.TEXT, b"%d" % i) for i in range(3)))
                await peer.send(wire.CLOSE)
                await until(lambda: server.connections and next(iter(server.connections))._reader.is_ending)
                go_on.set()
                assert [frame.payload for frame in await peer.rest()] == [b"0", b"1", b"2", b""]

        place.run(main())

    @pytest.mark.parametrize("how", ["messages", "frames"])
    def test_while_another_task_reads_and_lets_others_run(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        """It waits for nothing at that moment, and answers the rest all the same."""
        monkeypatch.setattr(stream, "_FAIR", 10)

        async def main() -> None:
            waiting: list[asyncio.Task[None]] = []

            async def handler(ws: zcws.WebSocket) -> None:
                await until(lambda: ws._reader.is_ending)
                waiting.append(asyncio.get_running_loop().create_task(ws.wait_closed()))
                if how == "messages":
                    async for message in ws:
                        await ws.send(message)
                else:
                    while (frame := await ws.read_frame()).opcode < zcws.OpCode.CLOSE:
                        await ws.write_frame(frame)

            async with anyplace.serve(handler, close_timeout=1000) as server:
                async with anyplace.raw_client(server) as peer:
                    close = peer.frame(wire.CLOSE, wire.close_payload(1000))
                    await peer.send_bytes(peer.frame(wire.TEXT, b"x") * 100 + close)
                    assert len(await peer.rest()) == 101
                await soon(waiting[0])

        anyplace.run(main())


@pytest.mark.parametrize("failure", [LookupError, asyncio.CancelledError])
def test_an_end_callback_that_raises_keeps_nobody_from_hearing_of_the_end(
    place: Place, failure: type[BaseException]
) -> None:
    async def main() -> None:
        told: list[zcws.WebSocket] = []
        said: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

        def fails(ws: zcws.WebSocket) -> None:
            raise failure

        async with place.serve(swallow) as server, place.connect(server) as ws:
            ws.add_end_callback(fails)
            ws.add_end_callback(told.append)
        await until(lambda: told)
        assert told == [ws]
        ((message, error),) = [(context["message"], context["exception"]) for context in said]
        assert (message, type(error)) == ("an end callback failed", failure)

    place.run(main())


def test_an_end_callback_that_is_a_coroutine_function_is_told_of(place: Place) -> None:
    """Nobody awaits it: it did nothing, and a warning of Python's said so, if anything did."""

    async def main() -> None:
        said: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

        async def note(ws: zcws.WebSocket) -> None:
            raise AssertionError(ws)

        async with place.serve(swallow) as server, place.connect(server) as ws:
            ws.add_end_callback(note)
        await until(lambda: said)
        (error,) = [context["exception"] for context in said]
        assert isinstance(error, TypeError)
        assert re.fullmatch(r"an end callback is a plain function: .*note returned a coroutine", str(error))

    place.run(main())


def test_an_end_callback_that_is_removed(place: Place) -> None:
    async def main() -> None:
        heard: list[str] = []

        def first(ws: zcws.WebSocket) -> None:
            heard.append("first")

        def second(ws: zcws.WebSocket) -> None:
            heard.append("second")

        async with place.serve(echo) as server, place.connect(server) as ws:
            ws.remove_end_callback(first)  # nobody has been added yet
            ws.add_end_callback(first)
            ws.remove_end_callback(second)  # nor he
            ws.add_end_callback(second)
            ws.remove_end_callback(first)
            await asyncio.sleep(0)
            assert not heard
        assert heard == ["second"]
        ws.remove_end_callback(second)

    place.run(main())


def test_an_end_callback_is_called_where_the_socket_is_gone_already(place: Place) -> None:
    """A server that says all it has to say with the end of its handshake: the client cannot be sooner."""

    async def hang_up(peer: RawPeer) -> None:
        await peer.close()

    async def main() -> None:
        told: list[zcws.WebSocket] = []
        behind = wire.frame(wire.TEXT, b"only this") + wire.frame(wire.CLOSE)
        async with place.raw_server(hang_up, behind=behind) as port:
            ws = await place.connect(port, on_frame=lambda ws, frame: None)
            await soon(ws.wait_closed())
            ws.add_end_callback(told.append)
            ws.add_end_callback(told.append)
            ws.remove_end_callback(told.append)
            assert told == []
            await until(lambda: told)
            ws.add_end_callback(told.append)
            await until(lambda: told == [ws, ws])

    place.run(main())


def test_what_is_neither_a_frame_nor_a_buffer_nor_a_function(place: Place) -> None:
    async def main() -> None:
        async with place.serve(echo) as server, place.connect(server) as ws:
            with pytest.raises(TypeError, match="write_frame sends a Frame, not str"):
                await ws.write_frame("x")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="a read receives into a PayloadBuffer, not bytearray"):
                await ws.read_frame(bytearray(9))  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="an end callback is a function"):
                ws.add_end_callback(5)  # type: ignore[arg-type]

    place.run(main())
