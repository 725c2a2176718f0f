"""The end: who closes when, and what the peer's Close waits for."""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import socket
import sys
from typing import Any

import pytest
import wire
from net import (
    LONG,
    Place,
    RawPeer,
    hang_up,
    keep_sending,
    narrow,
    placed,
    port_of,
    request,
    soon,
    swallow,
    until,
)

import zcws
from zcws.aio import callbacks, ending
from zcws.aio.tls import Tls
from zcws.closing import GRACE

ALSO_OVER_LOOPTLS = True  # conftest.py


@pytest.mark.parametrize("bad", [b"\x83\x80abcd", b"\x81\x81abcd\x9e"], ids=["opcode", "text"])
def test_a_handler_that_returns_in_the_step_in_which_the_peer_breaks_a_rule(
    anyplace: Place, bad: bytes
) -> None:
    """The transport was closed twice, and then asyncio's TLS could not be aborted: it stayed for half a minute."""

    async def main() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

        async def collect(ws: zcws.WebSocket) -> None:
            with contextlib.suppress(zcws.ConnectionClosed):
                while True:
                    await ws.recv()

        async with anyplace.serve(collect, close_timeout=0.2) as server:
            async with anyplace.raw_client(server) as peer:
                await until(lambda: server.connections)
                await asyncio.sleep(0.05)
                await peer.send_bytes(bad)
                (close,) = await peer.rest()  # and then it says nothing more
                assert close.opcode == wire.CLOSE
                await until(lambda: not server.connections)
        assert reported == []

    anyplace.run(main())


def test_a_peer_in_the_middle_of_a_long_message_is_told_what_was_wrong(
    anyplace: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS the socket was closed on what it was still sending: it saw a reset, and no Close.

    Where TLS is ours our close_notify goes out with the Close, and the peer's own TLS (asyncio's) ends with that.
    """
    monkeypatch.setattr(ending, "LINGER", LONG)

    async def main() -> None:
        ended: list[zcws.ConnectionClosed] = []

        async def collect(ws: zcws.WebSocket) -> None:
            try:
                await ws.recv()
            except zcws.ConnectionClosed as error:
                ended.append(error)

        async with anyplace.serve(collect, close_timeout=LONG, max_size=1000) as server:
            async with anyplace.raw_client(server) as peer:
                await until(lambda: server.connections)
                is_ended = isinstance(next(iter(server.connections))._transport, Tls)
                data = wire.frame(wire.BINARY, bytes(4 << 20), key=wire.KEY)
                await peer.send_bytes(data[:5000])
                close = await peer.read()
                assert (close.opcode, close.payload[:2]) == (wire.CLOSE, (1009).to_bytes(2, "big"))
                with pytest.raises(ConnectionResetError) if is_ended else contextlib.nullcontext():
                    for start in range(5000, len(data), 5000):
                        # ConnectionResetError where nobody reads
                        await peer.send_bytes(data[start : start + 5000])
            await until(lambda: not server.connections)
        assert [error.code for error in ended] == [1009]

    anyplace.run(main())


def test_it_is_not_waited_for_any_longer_than_that(anyplace: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "LINGER", 0.05)

    async def main() -> None:
        async def collect(ws: zcws.WebSocket) -> None:
            with contextlib.suppress(zcws.ConnectionClosed):
                await ws.recv()

        async with anyplace.serve(collect, close_timeout=None) as server:
            async with anyplace.raw_client(server) as peer:
                await peer.send(3)
                (close,) = await peer.rest()  # it ends although we say nothing more, and do not end ours
                assert close.opcode == wire.CLOSE

    anyplace.run(main())


async def fill(ws: zcws.WebSocket) -> None:
    """Sends until the next message has to wait for the peer: several times what the buffers on the way can hold.

    (A system that seems to be full finds room for more when its timer asks the peer again, 0.2 s later and more.)
    """
    narrow(ws)
    while ws._drained is None:
        ws.send_nowait(bytes(4 << 20))
        await asyncio.sleep(0)


class TestAReplyThatCannotGo:
    """It waits on the bridge, and used up the one deadline that closing has."""

    @pytest.mark.parametrize("opcode", [wire.PING, wire.CLOSE])
    def test_a_peer_that_does_not_read(self, anyplace: Place, opcode: int) -> None:
        async def main() -> None:
            full, closed = asyncio.Event(), asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                await fill(ws)
                full.set()
                if opcode == wire.PING:
                    await until(lambda: ws.connection.bridge.slot)
                    await ws.close()
                else:
                    await ws.wait_closed()
                closed.set()

            async with anyplace.serve(handler, close_timeout=0.1) as server:
                async with anyplace.raw_client(server) as peer:
                    narrow(peer.writer)
                    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
                    await soon(full.wait())
                    await peer.send(opcode)
                    await soon(closed.wait())
                    await until(lambda: not server.connections)

        anyplace.run(main())

    def test_the_half_that_should_send_it_closes(self, anyplace: Place) -> None:
        async def main() -> None:
            closed = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                reader, writer, bridge = ws.split()
                assert await reader.recv() == "go on"
                frame = await reader.read_frame()
                assert (frame.opcode, bool(bridge)) == (zcws.OpCode.PING, True)
                await writer.close()
                await ws.wait_closed()
                closed.set()

            async with anyplace.serve(handler, close_timeout=0.1) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send(wire.TEXT, b"go on")
                    await peer.send(wire.PING)
                    await soon(closed.wait())

        anyplace.run(main())


class TestThePeersCloseBehindMessages:
    """It waits for them, but not for a program that never reads. No timeout passes here unless it is a short one."""

    @pytest.mark.parametrize("close_timeout", [1000, None])
    def test_a_program_that_only_sends(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch, close_timeout: float | None
    ) -> None:
        monkeypatch.setattr(ending, "GRACE", 0.01)

        async def main() -> None:
            ends: list[zcws.ConnectionClosed] = []

            async def handler(ws: zcws.WebSocket) -> None:
                ends.append(await keep_sending(ws))

            async with anyplace.serve(handler, close_timeout=close_timeout) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send(wire.TEXT, b"nobody reads this")
                    await peer.send(wire.CLOSE, wire.close_payload(4000, b"enough"))
                    *ticks, close = await peer.rest()
                    assert {frame.payload for frame in ticks} <= {b"tick"}
                    assert close == wire.Seen(wire.CLOSE, wire.close_payload(4000, b"enough"))
                await until(lambda: not server.connections)
            assert [(error.code, error.by) for error in ends] == [(4000, "peer")]

        anyplace.run(main())

    def test_a_program_that_only_sends_when_the_stream_ends(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ending, "GRACE", 0.01)

        async def main() -> None:
            go_on = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                await go_on.wait()
                with pytest.raises(zcws.ConnectionClosedError):
                    await ws.send("to nobody")

            async with anyplace.serve(handler, close_timeout=1000) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send(wire.TEXT, b"nobody reads this")
                await until(lambda: next(iter(server.connections)).state is not zcws.State.OPEN)
                go_on.set()
                await until(lambda: not server.connections)

        anyplace.run(main())

    @pytest.mark.parametrize("reads", ["at once", "in the grace"])
    def test_a_program_that_reads_answers_before_it(self, place: Place, reads: str) -> None:
        async def main() -> None:
            begin, go_on = asyncio.Event(), asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                if reads == "in the grace":
                    await begin.wait()
                async for message in ws:
                    begin.set()
                    await go_on.wait()
                    await ws.send(message)

            async with place.serve(handler, close_timeout=1000) as server, place.raw_client(server) as peer:
                await peer.send_bytes(peer.frame(wire.TEXT, b"1") + peer.frame(wire.TEXT, b"2"))
                await peer.send(wire.CLOSE)
                await until(lambda: server.connections and next(iter(server.connections))._reader.is_ending)
                (ws,) = server.connections
                begin.set()
                await until(lambda: ws._reader.rows_waiting == 2)
                if reads == "in the grace":
                    ws.deadline_passed()  # it has been as long as that
                assert not ws._reader.is_concluded
                assert ws._deadline is not None and ws._deadline.timeout == 1000
                go_on.set()
                assert [frame.payload for frame in await peer.rest()] == [b"1", b"2", b""]

        place.run(main())

    def test_a_program_that_waits_for_the_end(self, anyplace: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ending, "GRACE", 1000)

        async def main() -> None:
            async with anyplace.serve(zcws.WebSocket.wait_closed, close_timeout=None) as server:
                async with anyplace.raw_client(server) as peer:
                    await until(lambda: server.connections)
                    await peer.send(wire.TEXT, b"unread")
                    await peer.send(wire.CLOSE)
                    assert [frame.opcode for frame in await peer.rest()] == [wire.CLOSE]

        anyplace.run(main())

    def test_what_is_answered_at_the_last_moment_has_its_time_to_go_out(self, place: Place) -> None:
        """The time for reading was over in the turn in which the last was read: the answers had not gone out yet."""

        async def main() -> None:
            seen: list[float] = []

            async def handler(ws: zcws.WebSocket) -> None:
                await ws.recv()
                await until(lambda: ws._deadline)
                waiting = ws._deadline._waiting
                waiting[ws] = 0.0
                async for message in ws:
                    await ws.send(message)
                seen.append(waiting[ws])

            async with place.serve(handler, close_timeout=1000) as server, place.raw_client(server) as peer:
                await peer.send_bytes(peer.frame(wire.TEXT, b"x") * 2 + peer.frame(wire.CLOSE))
                assert [frame.payload for frame in await peer.rest()] == [b"x", b""]
            assert seen[0] > 0

        place.run(main())

    def test_our_own_close_has_its_whole_time(self, place: Place) -> None:
        """A wait for somebody to read is over with it."""

        async def main() -> None:
            go_on = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                await go_on.wait()
                assert ws._deadline is not None and ws._deadline.timeout == GRACE
                ws.begin_close()
                assert ws._deadline is not None and ws._deadline.timeout == 1000

            async with place.serve(handler, close_timeout=1000) as server, place.raw_client(server) as peer:
                await peer.send(wire.TEXT, b"unread")
                await peer.send(wire.CLOSE)
                await until(lambda: server.connections and next(iter(server.connections))._reader.is_ending)
                go_on.set()
                assert [frame.opcode for frame in await peer.rest()] == [wire.CLOSE]

        place.run(main())

    @pytest.mark.parametrize("role", ["server", "client"])
    def test_one_that_has_only_sent_waits_as_long_for_the_answer(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, role: str
    ) -> None:
        """It had no more than the peer's Close has behind what nobody reads: after a second the socket was aborted,
        with what a slow peer had not read yet."""
        monkeypatch.setattr(ending, "GRACE", 0.01)
        pushed = b"x" * 300_000
        ends: list[tuple[int | None, bool]] = []

        async def push(ws: zcws.WebSocket) -> None:
            await ws.send(pushed)
            await ws.close(4000)
            ends.append((ws.close_code, ws.connection.error().clean))

        async def read_slowly(peer: RawPeer) -> None:
            await asyncio.sleep(0.1)
            frames = [await peer.read(), await peer.read()]
            assert [frame.payload for frame in frames] == [pushed, wire.close_payload(4000)]
            await asyncio.sleep(0.1)
            await peer.send(wire.CLOSE, wire.close_payload(4000))

        async def main() -> None:
            if role == "client":
                async with place.raw_server(read_slowly) as port:
                    await push(await place.connect(port, close_timeout=1000))
            else:
                async with place.serve(push, close_timeout=1000) as server:
                    async with place.raw_client(server) as peer:
                        await read_slowly(peer)
                    await until(lambda: ends)

        place.run(main())
        assert ends == [(4000, True)]

    @pytest.mark.parametrize("ends", ["with a close", "without"])
    def test_keepalive_does_not_blame_a_peer_that_has_ended(self, place: Place, ends: str) -> None:
        async def main() -> None:
            go_on = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                assert await ws.recv() == "read"
                await go_on.wait()

            keepalive = {"ping_interval": 0.01, "ping_timeout": 0.01}
            async with (
                place.serve(handler, close_timeout=0.2, **keepalive) as server,
                place.raw_client(server) as peer,
            ):
                await until(lambda: server.connections)
                (ws,) = server.connections
                await peer.send(wire.TEXT, b"read")
                await peer.send(wire.TEXT, b"unread")
                if ends == "with a close":
                    await peer.send(wire.CLOSE, wire.close_payload(1000))
                else:
                    peer.writer.write_eof()
                frames = await peer.rest()  # not a Ping is answered
                assert [f.payload for f in frames if f.opcode == wire.CLOSE] in (
                    [],
                    [wire.close_payload(1000)],
                )
                assert ws.close_code == (1000 if ends == "with a close" else 1006)
                go_on.set()

        place.run(main())

    def test_a_ping_that_was_out_already(self, place: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                await until(lambda: ws._reader.is_ending)
                assert not ws.send_keepalive()
                ws.keepalive_failed()
                assert ws.state is zcws.State.OPEN

            async with place.serve(handler, close_timeout=1000) as server, place.raw_client(server) as peer:
                await peer.send(wire.TEXT, b"unread")
                await peer.send(wire.CLOSE)
                assert [frame.opcode for frame in await peer.rest()] == [wire.CLOSE]

        place.run(main())


@pytest.mark.parametrize("how", ["cut", "half closed", "behind a message"])
def test_a_server_that_is_gone_is_seen_by_a_client_that_does_not_read(anyplace: Place, how: str) -> None:
    """Between two requests of a program that sends and then waits: `state` was OPEN for `close_timeout`, and the next
    request was sent to nobody."""

    async def script(peer: RawPeer) -> None:
        assert (await peer.read()).payload == b"request"
        data = peer.frame(wire.TEXT, b"answer")
        if how == "behind a message":
            data += peer.frame(wire.TEXT, b"unread")
        await peer.send_bytes(data)
        assert (await peer.read()).payload == b"thanks"
        if how == "half closed" and peer.writer.can_write_eof():
            peer.writer.write_eof()
            await peer.rest()
        else:
            peer.cut()

    async def main() -> None:
        async with anyplace.raw_server(script) as port:
            ws = await anyplace.connect(port, close_timeout=None, ping_interval=None)
            await ws.send("request")
            assert await soon(ws.recv()) == "answer"
            await ws.send("thanks")
            if how == "behind a message":
                assert await soon(ws.recv()) == "unread"
            await until(lambda: ws.state is zcws.State.LOST)
            assert ws.close_code == 1006
            with pytest.raises(zcws.ConnectionClosedError):
                await ws.send("another request")

    anyplace.run(main())


@pytest.mark.parametrize("reads", [True, False])
def test_a_slow_reader_of_what_stands_before_our_close(place: Place, reads: bool) -> None:
    """It was cut off in the middle of a message, `close_timeout` after a Close that had not even been sent."""
    large = bytes(16 << 20)

    async def push(ws: zcws.WebSocket) -> None:
        await ws.send(large)

    async def main() -> None:
        async with place.serve(push, close_timeout=1000) as server, place.raw_client(server) as peer:
            await until(lambda: server.connections and next(iter(server.connections))._deadline is not None)
            (ws,) = server.connections
            if reads:
                await soon(peer.reader.readexactly(len(large) // 2))

            def as_long_again() -> bool:
                # With the proactor it is the sockets that take some of it, part by part, before nobody does.
                if ws._deadline is not None:
                    ws.deadline_passed()
                return not server.connections

            ws.deadline_passed()  # it has been as long as that
            if reads:
                await soon(peer.reader.readexactly(len(large) // 2 + 10))
                assert await peer.read() == wire.Seen(wire.CLOSE, wire.close_payload(1000))
            else:
                await until(as_long_again)

    place.run(main())


@pytest.mark.parametrize("reads", ["iterates", "yields first", "waits", "in another task"])
def test_a_peer_that_says_everything_at_once_and_closes_its_side(place: Place, reads: str) -> None:
    """What is read outside of the callback that received it is answered at the end of the turn. The end of the stream
    came in the same turn, before that: the answers were lost, the Close with them, and the program was told 1000."""
    ends: list[tuple[int | None, bool]] = []

    async def echo_until_closed(ws: zcws.WebSocket) -> None:
        if reads == "yields first":
            await ws.send(await ws.recv())
            await asyncio.sleep(0)
        with contextlib.suppress(zcws.ConnectionClosedOK):
            while reads == "waits":
                await ws.send(await asyncio.wait_for(ws.recv(), 20))
        async for message in ws:
            await ws.send(message)
        ends.append((ws.close_code, ws.connection.error().clean))

    async def handler(ws: zcws.WebSocket) -> None:
        if reads == "in another task":
            await asyncio.create_task(echo_until_closed(ws))
        else:
            await echo_until_closed(ws)

    async def main() -> None:
        async with place.serve(handler) as server:
            reader, writer = await place.open(port_of(server))
            frames = [(wire.TEXT, b"a"), (wire.TEXT, b"b"), (wire.CLOSE, wire.close_payload(1000))]
            writer.write(request() + b"".join(wire.frame(*frame, key=b"1234") for frame in frames))
            writer.write_eof()
            said = await soon(reader.read())
            answers = wire.parse(said.partition(b"\r\n\r\n")[2])
            assert [(frame.opcode, frame.payload) for frame in answers] == frames
            await hang_up(writer)
        assert ends == [(1000, True)]

    place.run(main())


@pytest.mark.parametrize("writes", ["send", "write_frame", "send_many", "iterable"])
@pytest.mark.parametrize(
    ("last_words", "code"), [(wire.frame(wire.CLOSE, key=wire.KEY), b""), (b"\x83\x80abcd", b"\x03\xea")]
)
def test_an_answer_that_waits_for_room_goes_out_before_the_close(
    anyplace: Place, last_words: bytes, code: bytes, writes: str
) -> None:
    """However the bytes are cut: it did where the Close, or the mistake, came together with what is answered."""

    async def main() -> None:
        ended: list[zcws.ConnectionClosed] = []
        waiting: list[zcws.WebSocket] = []

        async def answer(ws: zcws.WebSocket) -> None:
            message = await ws.recv()
            await fill(ws)
            waiting.append(ws)
            if writes == "send":
                await ws.send(message)
            elif writes == "write_frame":
                await ws.write_frame(zcws.Frame.text(message))
            elif writes == "send_many":
                await ws.send_many([message])
            else:
                await ws.send([message])
            with pytest.raises(zcws.ConnectionClosed) as closed:
                while True:
                    await ws.send(bytes(1 << 20))
            ended.append(closed.value)

        async with anyplace.serve(answer) as server, anyplace.raw_client(server, limit=1024) as peer:
            narrow(peer.writer)
            await peer.send(wire.TEXT, b"answer this")
            await until(lambda: waiting)
            await peer.send_bytes(last_words)
            await until(lambda: waiting[0]._reader.is_ending)
            *frames, close = await peer.rest()
            assert b"answer this" in [frame.payload for frame in frames]
            assert (close.opcode, close.payload[:2]) == (wire.CLOSE, code)
            await until(lambda: ended)

    anyplace.run(main())


def test_an_answer_that_was_given_up_holds_up_no_close(anyplace: Place) -> None:
    async def main() -> None:
        sending: list[asyncio.Task[None]] = []
        given_up: list[zcws.WebSocket] = []

        async def answer(ws: zcws.WebSocket) -> None:
            await ws.recv()
            await fill(ws)
            sending.append(asyncio.ensure_future(ws.send("never")))
            await until(lambda: ws._reader.is_ending)
            assert not ws._reader.is_concluded
            sending[0].cancel()
            await until(lambda: ws._reader.is_concluded)
            given_up.append(ws)

        async with anyplace.serve(answer) as server, anyplace.raw_client(server, limit=1024) as peer:
            narrow(peer.writer)
            await peer.send(wire.TEXT, b"answer this")
            await until(lambda: next(iter(server.connections))._reader.answering)
            await peer.send(wire.CLOSE, wire.close_payload(1000))
            await until(lambda: given_up)
            *frames, close = await peer.rest()
            assert b"never" not in [frame.payload for frame in frames]
            assert (close.opcode, close.payload) == (wire.CLOSE, wire.close_payload(1000))

    anyplace.run(main())


@pytest.mark.parametrize("last_words", [wire.frame(wire.CLOSE, key=wire.KEY), b"\x83\x80abcd"])
@pytest.mark.parametrize("gives_up", [False, True])
def test_a_peer_that_stops_reading_and_says_close_has_one_deadline(
    anyplace: Place, last_words: bytes, gives_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers before it waited for `close_timeout`, and then the Close that could not go out either for as long."""
    monkeypatch.setattr(ending, "MUCH", 1 << 60)  # what the systems on the way still take does not count
    passed: list[zcws.WebSocket] = []
    stops: list[zcws.WebSocket] = []

    def deadline_passed(ws: Any, original: Any = ending.Ending.deadline_passed) -> None:
        passed.append(ws)
        original(ws)

    def stop_deadline(ws: Any, original: Any = ending.Ending._stop_deadline) -> None:
        if ws._deadline is not None:
            stops.append(ws)
        original(ws)

    monkeypatch.setattr(ending.Ending, "deadline_passed", deadline_passed)
    monkeypatch.setattr(ending.Ending, "_stop_deadline", stop_deadline)

    async def main() -> None:
        ended: list[zcws.ConnectionClosed] = []

        async def answer(ws: zcws.WebSocket) -> None:
            message = await ws.recv()
            await fill(ws)
            sending = asyncio.ensure_future(ws.send(message))
            if gives_up:
                await until(lambda: ws._deadline)
                sending.cancel()
            with pytest.raises(zcws.ConnectionClosed) as closed:
                if gives_up:
                    await ws.recv()
                else:
                    await sending
            ended.append(closed.value)

        async with anyplace.serve(answer, close_timeout=0.2) as server:
            async with anyplace.raw_client(server, limit=1024) as peer:
                narrow(peer.writer)
                await peer.send(wire.TEXT, b"answer this")
                await until(lambda: next(iter(server.connections))._reader.answering)
                await peer.send_bytes(last_words)
                await until(lambda: not server.connections)
                assert len(passed) == 1 and (not gives_up or not stops)
                await until(lambda: ended)

    anyplace.run(main())


class TestHowLongItMayTake:
    """`close_timeout`, counted once. No timeout passes here unless it is a short one."""

    def test_a_peer_that_has_taken_everything_and_says_nothing(self, anyplace: Place) -> None:
        async def main() -> None:
            async def push(ws: zcws.WebSocket) -> None:
                await ws.send(bytes(10_000))

            async with anyplace.serve(push, close_timeout=0.1) as server, anyplace.raw_client(server) as peer:
                assert [(await peer.read()).opcode for _ in range(2)] == [wire.BINARY, wire.CLOSE]
                await until(lambda: not server.connections)

        anyplace.run(main())

    @pytest.mark.parametrize("last_words", [wire.frame(wire.CLOSE, key=wire.KEY), b"\x83\x80abcd"])
    def test_a_peer_that_goes_on_talking_behind_its_last_words(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch, last_words: bytes
    ) -> None:
        monkeypatch.setattr(ending, "LINGER", 0.1)

        async def main() -> None:
            async def never_read(ws: zcws.WebSocket) -> None:
                await ws.when_closed()

            async def talk(peer: RawPeer) -> None:
                with contextlib.suppress(ConnectionError):
                    await peer.send_bytes(last_words)
                    while True:
                        await peer.send(wire.TEXT, b"and")
                        await asyncio.sleep(0.01)

            async with anyplace.serve(never_read, close_timeout=0.1) as server:
                async with anyplace.raw_client(server) as peer:
                    await until(lambda: server.connections)
                    talking = asyncio.ensure_future(talk(peer))
                    await until(lambda: not server.connections)
                    talking.cancel()

        anyplace.run(main())

    def test_an_answer_to_our_close_adds_nothing(self, place: Place) -> None:
        """The server has yet to end the stream, for which a client waits."""

        async def script(peer: RawPeer) -> None:
            assert (await peer.read()).opcode == wire.CLOSE
            await peer.send(wire.CLOSE, wire.close_payload(1000))
            assert await peer.is_silent()  # RFC 6455 7.1.1: it is for us to end the stream
            await soon(done.wait())

        async def main() -> None:
            async with place.raw_server(script) as port:
                ws = await place.connect(port, close_timeout=1000)
                ws.begin_close()
                assert ws._deadline is not None
                until_when = ws._deadline._waiting[ws]
                await until(lambda: ws.state is zcws.State.CLOSED)
                assert ws._deadline is not None and ws._deadline._waiting[ws] == until_when
                done.set()
                await soon(ws.wait_closed())

        done = asyncio.Event()
        place.run(main())

    @pytest.mark.parametrize("fills", ["before it", "behind it"])
    def test_a_peer_that_was_slow_and_has_read_on(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch, fills: str
    ) -> None:
        """Its Close waits for a program that does not read: it is answered, where nothing is in the way any more."""
        monkeypatch.setattr(ending, "MUCH", 1 << 60)

        async def main() -> None:
            go_on = asyncio.Event()

            async def busy(ws: zcws.WebSocket) -> None:
                assert await ws.recv() == "read"
                if fills == "before it":
                    await fill(ws)
                await until(lambda: ws._deadline)
                if fills == "behind it":
                    await fill(ws)
                filled.append(ws)
                await soon(go_on.wait())

            filled: list[zcws.WebSocket] = []
            async with anyplace.serve(busy, close_timeout=1000) as server:
                async with anyplace.raw_client(server, limit=1024) as peer:
                    narrow(peer.writer)
                    await peer.send(wire.TEXT, b"read")
                    await until(lambda: (ws := next(iter(server.connections), None)) and ws._reader.rows_read)
                    await peer.send_bytes(peer.frame(wire.TEXT, b"unread") + peer.frame(wire.CLOSE))
                    await until(lambda: filled)
                    (ws,) = filled
                    if fills == "behind it":
                        ws.deadline_passed()
                    reading = asyncio.ensure_future(peer.rest())
                    if fills == "before it":
                        await until(lambda: ws._drained is None)
                        ws.deadline_passed()
                    go_on.set()
                    assert (await reading)[-1].opcode == wire.CLOSE

        anyplace.run(main())

    def test_what_was_sent_to_a_peer_that_has_ended_its_side(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has the whole time to read that, also where the program has never read."""
        monkeypatch.setattr(ending, "GRACE", 0.01)

        async def main() -> None:
            async def push(ws: zcws.WebSocket) -> None:
                narrow(ws)
                ws.send_nowait(bytes(4 << 20))
                await ws.when_closed()

            async with place.serve(push, close_timeout=1000) as server:
                async with place.raw_client(server, limit=1024) as peer:
                    narrow(peer.writer)
                    peer.writer.write_eof()
                    await until(lambda: next(iter(server.connections)).state is zcws.State.LOST)
                    await asyncio.sleep(0.1)
                    assert [len(frame.payload) for frame in await peer.rest()] == [4 << 20]

        place.run(main())

    def test_a_mistake_behind_what_is_still_read(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The short wait over TLS, for a peer that is told what was wrong, begins when it has been told."""
        monkeypatch.setattr(ending, "LINGER", 0.01)

        async def main() -> None:
            async def echo(ws: zcws.WebSocket) -> None:
                with contextlib.suppress(zcws.ConnectionClosed):
                    while True:
                        message = await ws.recv()
                        await until(lambda: ws._reader.is_ending)
                        await asyncio.sleep(0.05)
                        await ws.send(message)

            async with anyplace.serve(echo, close_timeout=1000) as server:
                async with anyplace.raw_client(server) as peer:
                    await peer.send_bytes(
                        peer.frame(wire.TEXT, b"1") + peer.frame(wire.TEXT, b"2") + b"\x83\x80abcd"
                    )
                    assert [frame.payload for frame in await peer.rest()][:2] == [b"1", b"2"]

        anyplace.run(main())

    def test_what_waits_for_a_peer_that_has_made_a_mistake(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It still goes out, when the short wait over TLS has passed."""
        monkeypatch.setattr(ending, "LINGER", 0.01)

        async def main() -> None:
            async def push(ws: zcws.WebSocket) -> None:
                narrow(ws)
                await ws.send(bytes(4 << 20))
                with contextlib.suppress(zcws.ConnectionClosed):
                    await ws.recv()

            async with anyplace.serve(push, close_timeout=1000, write_limit=1 << 30) as server:
                async with anyplace.raw_client(server, limit=1024) as peer:
                    narrow(peer.writer)
                    await peer.send_bytes(b"\x83\x80abcd")
                    await until(lambda: next(iter(server.connections)).state is zcws.State.FAILED)
                    await asyncio.sleep(0.1)
                    pushed, close = await peer.rest()
                    assert (len(pushed.payload), close.opcode) == (4 << 20, wire.CLOSE)

        anyplace.run(main())


def await_reset(ws: zcws.WebSocket) -> None:
    """Stands still until the RST is here. On a busy machine it may come when the socket is full already, and a socket
    that is full is not written to again before the next turn."""
    if hasattr(select, "poll"):  # Windows has none
        poll = select.poll()
        poll.register(ws.get_extra_info("socket").fileno(), 0)  # it says by itself that there is an error
        assert poll.poll(LONG * 1000)


class TestNothingCanBeSentAnyMore:
    def test_to_a_peer_that_had_ended_its_side(self, place: Place) -> None:
        """The program, which is sending, is told of its end at once: there is nothing left to wait for."""

        async def main() -> None:
            ended = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                ws.add_end_callback(lambda _: ended.set())
                assert await ws.recv() == "read"
                await until(lambda: ws._reader.is_at_eof)
                reset.set()
                assert isinstance(await keep_sending(ws), zcws.ConnectionClosedError)
                await soon(ended.wait())

            reset = asyncio.Event()
            async with place.serve(handler, close_timeout=None, ping_interval=None) as server:
                async with place.raw_client(server) as peer:
                    await peer.send_bytes(peer.frame(wire.TEXT, b"read") + peer.frame(wire.TEXT, b"unread"))
                    peer.writer.write_eof()
                    await soon(reset.wait())
                    peer.reset()
                    await soon(ended.wait())

        place.run(main())

    def test_what_the_peer_has_said_before(self, place: Place) -> None:
        """It counts, though the program only waits for the end."""

        async def main() -> None:
            async with place.serve(zcws.WebSocket.wait_closed) as server, place.raw_client(server) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                await peer.send(wire.TEXT, b"unread")
                await until(lambda: ws._reader.rows_waiting)
                peer.writer.write(peer.frame(wire.CLOSE, wire.close_payload(3000, b"bye")))
                peer.cut()
                with pytest.raises(zcws.ConnectionClosed):
                    ws.send_nowait(bytes(70_000))
                    await_reset(ws)  # no turn of the loop, which would read first
                    while True:
                        ws.send_nowait(bytes(100_000))
                await until(lambda: not server.connections)
                assert (ws.close_code, ws.close_reason) == (3000, "bye")

        place.run(main())

    def test_there_is_no_room_for_what_the_peer_may_have_said(self, place: Place) -> None:
        """And nobody makes room, because the program only waits for the end."""

        async def main() -> None:
            options: dict[str, Any] = {"close_timeout": None, "ping_interval": None}
            async with place.serve(zcws.WebSocket.wait_closed, **options) as server:
                async with place.raw_client(server) as peer:
                    await until(lambda: server.connections)
                    (ws,) = server.connections
                    peer.writer.write(peer.frame(wire.BINARY, bytes(1_000)) * 5_000)
                    await until(lambda: ws._reading_paused)
                    peer.reset()

                    def is_over() -> bool:
                        with contextlib.suppress(zcws.ConnectionClosed):
                            ws.send_nowait("tick")
                        return not server.connections

                    await until(is_over)

        place.run(main())

    def test_what_a_slow_program_has_not_read_when_the_time_is_over(self, anyplace: Place) -> None:
        """It has arrived, so it can be read, and the Close behind it: also where the socket is closed meanwhile."""
        count, got = 300, list[int]()  # of 1,000 bytes: more than a ring, less than a ring and a socket

        async def main() -> None:
            is_reset, over = asyncio.Event(), list[zcws.ConnectionClosed]()

            async def handler(ws: zcws.WebSocket) -> None:
                await is_reset.wait()
                await keep_sending(ws)
                got.append(len(await ws.recv()))
                await until(lambda: ws._transport is None)
                try:
                    while True:
                        got.append(len(await ws.recv()))
                except zcws.ConnectionClosed as error:
                    over.append(error)

            async with anyplace.serve(handler, close_timeout=0.05) as server:
                async with anyplace.raw_client(server) as peer:
                    await until(lambda: server.connections)
                    (ws,) = server.connections
                    await peer.send_bytes(peer.frame(wire.BINARY, bytes(1_000)) * count)
                    await peer.send(wire.CLOSE, wire.close_payload(4001))
                    below = peer.writer.transport
                    await until(lambda: ws._reading_paused and not below.get_write_buffer_size())
                    await asyncio.sleep(0.05)  # until the rest lies in the socket
                    peer.reset()
                    is_reset.set()
                    await until(lambda: over)
            assert got == [1_000] * count and over[0].code == 4001

        anyplace.run(main())

    def test_what_a_slow_function_has_not_been_shown_when_the_time_is_over(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has arrived, behind the share of the function's that was over before the connection was."""
        monkeypatch.setattr(callbacks, "_MOST_FRAMES", 100)
        shown = list[str]()

        async def main() -> None:
            loop = asyncio.get_running_loop()

            def end_time(ws: zcws.WebSocket) -> None:
                if ws._deadline is not None:  # transports of the loop are over at once
                    ws.deadline_passed()

            def show(ws: zcws.WebSocket, message: str) -> None:
                shown.append(message)
                if len(shown) == 1:
                    peers[0].cut()
                    with pytest.raises(zcws.ConnectionClosed):
                        ws.send_nowait(bytes(70_000))
                        await_reset(ws)
                        while True:
                            ws.send_nowait(bytes(100_000))
                    loop.call_soon(end_time, ws)

            async with place.serve(None, on_message=show, close_timeout=1000) as server:
                async with place.raw_client(server) as peer:
                    peers = [peer]
                    await peer.send_bytes(peer.frame(wire.TEXT, b"x") * 1000)
                    await until(lambda: shown and not server.connections)
            assert len(shown) == 1000

        place.run(main())

    def test_a_message_that_waits_for_room(self, anyplace: Place) -> None:
        async def main() -> None:
            reported: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

            async def push(ws: zcws.WebSocket) -> None:
                await fill(ws)
                filled.append(ws)
                with pytest.raises(zcws.ConnectionClosedError):
                    await ws.send("never")
                await asyncio.sleep(0)

            filled: list[zcws.WebSocket] = []
            async with anyplace.serve(push) as server, anyplace.raw_client(server, limit=1024) as peer:
                narrow(peer.writer)
                await until(lambda: filled)
                await until(lambda: filled[0]._reader.answering)
                filled[0].abort()
                await until(lambda: not server.connections)
            assert reported == []

        anyplace.run(main())


class TestAHalfThatDoesNotAnswer:
    def test_the_close_that_it_should_have_sent(self, anyplace: Place) -> None:
        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                ws.split()
                await ws.wait_closed()

            async with anyplace.serve(handler, close_timeout=0.1) as server:
                async with anyplace.raw_client(server) as peer:
                    await until(lambda: server.connections)
                    await peer.send(wire.CLOSE, wire.close_payload(4000))
                    assert await peer.rest() == [wire.Seen(wire.CLOSE, wire.close_payload(4000))]

        anyplace.run(main())

    def test_what_it_sends_to_a_peer_that_has_ended_its_side(self, place: Place) -> None:
        """That goes out, and with its Close everything is over."""

        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                reader, writer, _ = ws.split()
                with pytest.raises(zcws.ConnectionClosedError):
                    await reader.recv()
                for _ in range(3):
                    await asyncio.sleep(0)
                await writer.send("answer")
                await writer.close()
                await ws.wait_closed()

            async with place.serve(handler, close_timeout=None) as server, place.raw_client(server) as peer:
                peer.writer.write_eof()
                assert [frame.payload for frame in await peer.rest()] == [b"answer", wire.close_payload(1000)]
                await until(lambda: not server.connections)

        place.run(main())


class TestKeepalive:
    def test_what_a_program_that_reads_frames_is_shown(self, place: Place) -> None:
        """A Ping that comes while it is busy, too."""

        async def main() -> None:
            async def handler(ws: zcws.WebSocket) -> None:
                assert (await ws.read_frame()).opcode == zcws.OpCode.TEXT
                assert ws.send_keepalive()
                await until(lambda: ws.stats.frames_received == 2)
                assert (await soon(ws.read_frame())).opcode == zcws.OpCode.PING

            async with place.serve(handler) as server, place.raw_client(server) as peer:
                await peer.send(wire.TEXT, b"x")
                assert (await peer.read()).opcode == wire.PING
                await peer.send(wire.PING)
                assert wire.codes(await peer.rest()) == [1000]

        place.run(main())

    def test_it_ends_with_the_connection(self, anyplace: Place) -> None:
        async def main() -> None:
            reported: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
            async with anyplace.serve(swallow) as server:
                ws = await anyplace.connect(server, ping_interval=0.01)
                ws.abort()
                await soon(ws.wait_closed())
                await asyncio.sleep(0.05)
            assert reported == []

        anyplace.run(main())

    def test_how_long_an_answer_took(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(swallow) as server:
                async with anyplace.connect(server, ping_interval=0.01) as ws:
                    await until(lambda: ws.latency > 0)

        anyplace.run(main())

    def test_no_ping_is_added_to_what_a_peer_does_not_take(self, anyplace: Place) -> None:
        async def main() -> None:
            async def push(ws: zcws.WebSocket) -> None:
                await fill(ws)
                written = ws.writer.written
                assert ws.send_keepalive()
                assert ws.writer.written == written
                ws.abort()
                done.append(ws)

            done: list[zcws.WebSocket] = []
            async with anyplace.serve(push) as server, anyplace.raw_client(server, limit=1024) as peer:
                narrow(peer.writer)
                await until(lambda: done)

        anyplace.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="the engine needs epoll; others keep their transports")
def test_the_peers_close_that_lies_in_the_socket_has_come_in_time(anyloop: Place) -> None:
    """After a pause of ours a turn of the loop reads some sockets, and calls the timers of all."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        ws = placed(ours, close_timeout=1000)
        await asyncio.sleep(0)
        ws.begin_close(1000)
        peer.send(wire.frame(wire.CLOSE, wire.close_payload(1000), key=wire.KEY))
        peer.shutdown(socket.SHUT_WR)
        deadlines: Any = ws._deadline
        deadlines._waiting[ws] = loop.time()
        deadlines._tick(loop, math.inf)
        await soon(ws.wait_closed())
        assert ws.close_code == 1000 and not deadlines._last
        peer.close()

    anyloop.run(main())
