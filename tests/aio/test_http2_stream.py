"""A stream of HTTP/2 as a transport: what asyncio says of those, against a WebSocket server that echoes.

What is above it runs on it as on others: the modules that say ALSO_OVER_HTTP2.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import wire
from h2.errors import ErrorCodes
from net import echo, port_of, request, run, until
from tunnel import ANSWER, HELLO, serve

import zcws
from zcws.aio.http2_asking import Http2Client
from zcws.aio.http2_stream import Http2Stream


class Rider(asyncio.Protocol):
    """Whoever owns a stream; what it is told, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[Http2Stream] = loop.create_future()
        self.data = b""
        self.told: list[str] = []
        self.keeps = False  # its side, when the peer's has ended
        self.cause: Exception | None = None

    def connection_made(self, transport: Any) -> None:
        self.done.set_result(transport)

    def fail(self, error: Exception) -> None:
        self.done.set_exception(error)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.keeps

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.cause = exc


@contextlib.asynccontextmanager
async def mounted(handler: Any = echo) -> AsyncIterator[tuple[Rider, Http2Stream]]:
    """A rider that has said nothing yet."""
    loop = asyncio.get_running_loop()
    async with serve(handler) as server:
        rider = Rider(loop)
        client: Any = Http2Client(loop, rider)  # type: ignore[arg-type]
        await loop.create_connection(lambda: client, "127.0.0.1", port_of(server))
        yield rider, await rider.done
        client.abort()
        await until(lambda: "lost" in rider.told)


@contextlib.asynccontextmanager
async def riding(handler: Any = echo) -> AsyncIterator[tuple[Rider, Http2Stream]]:
    """A rider whose WebSocket is open."""
    async with mounted(handler) as (rider, stream):
        stream.write(request())
        await until(lambda: b"\r\n\r\n" in rider.data)
        rider.data = rider.data.partition(b"\r\n\r\n")[2]
        yield rider, stream


class Cart:
    """A connection that remembers what its only stream has told it, and sends nothing."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.is_unread = False
        self.told: list[str] = []

    def send_head(self, stream: Http2Stream, head: bytes) -> None:
        self.told.append("head")

    def wants_to_send(self, stream: Http2Stream) -> None:
        self.told.append("wants")

    def flush(self) -> None:
        self.told.append("flush")

    def has_unread(self) -> bool:
        return self.is_unread

    def has_read(self, number: int, count: int) -> None:
        self.told.append(f"read {count}")

    def end(self, stream: Http2Stream, code: ErrorCodes | None) -> None:
        self.told.append("end" if code is None else code.name)


def carried(*, is_websocket: bool = True) -> tuple[Cart, Rider, Http2Stream]:
    """A stream whose head has been sent."""
    cart, rider = Cart(), Rider(asyncio.get_running_loop())
    stream = Http2Stream(cart, 1, rider, is_websocket=is_websocket)
    stream.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert cart.told == ["head", "wants"]
    assert not (stream.has_begun or stream.has_all)  # which the connection says
    cart.told.clear()
    return cart, rider, stream


class TestTurns:
    """What a stream tells its connection, and when; and its owner."""

    def test_a_little_waits_for_the_end_of_the_turn(self) -> None:
        async def main() -> None:
            cart, rider, stream = carried()
            stream.write(b"12345")
            assert cart.told == ["wants"]
            assert stream.take(5) == (b"12345", False) and not stream.has_more
            stream.set_write_buffer_limits(high=4)
            stream.write(b"12345")
            assert cart.told == ["wants", "wants", "flush"] and rider.told == ["pause"]

        run(main)

    def test_the_end_is_in_the_frame_that_takes_the_last(self) -> None:
        async def main() -> None:
            _, _, stream = carried()
            stream.write(b"123456")
            stream.write_eof()
            stream.write(b"behind it")
            assert stream.take(4) == (b"1234", False) and stream.has_more
            assert stream.take(2) == (b"56", True) and not stream.has_more

        run(main)

    def test_an_owner_is_told_once_and_not_what_is_no_longer_so(self) -> None:
        async def main() -> None:
            _, rider, stream = carried()
            stream.set_write_buffer_limits(high=4)
            stream.write(b"12345")
            stream.write(b"12345")
            assert rider.told == ["pause"]
            stream.take(5)
            await asyncio.sleep(0)
            assert rider.told == ["pause"]  # there is less, and still too much
            stream.take(5)
            stream.write(b"12345")
            await asyncio.sleep(0)
            assert rider.told == ["pause", "pause"]
            stream.take(10)
            await asyncio.sleep(0)
            assert rider.told == ["pause", "pause", "resume"]

        run(main)

    @pytest.mark.parametrize("then", ["more is allowed", "it is lost"])
    def test_an_owner_who_was_full(self, then: str) -> None:
        async def main() -> None:
            _, rider, stream = carried()
            stream.set_write_buffer_limits(high=5)
            stream.write(b"12345")
            assert not rider.told
            stream.set_write_buffer_limits(high=4)
            if then == "more is allowed":
                stream.set_write_buffer_limits(high=100, low=50)
            else:
                stream.take(5)
                stream.lose(None)
            await asyncio.sleep(0)
            assert rider.told == ["pause", "resume" if then == "more is allowed" else "lost"]

        run(main)

    def test_an_owner_with_little_room(self) -> None:
        class Small(asyncio.BufferedProtocol):
            def __init__(self) -> None:
                self.room, self.data = bytearray(3), b""

            def get_buffer(self, sizehint: int) -> bytearray:
                return self.room

            def buffer_updated(self, nbytes: int) -> None:
                self.data += self.room[:nbytes]

        async def main() -> None:
            cart, _, stream = carried()
            small = Small()
            stream.set_protocol(small)
            stream.keep(b"1234567")
            stream.give()
            assert small.data == b"1234567" and cart.told == ["read 3", "read 3", "read 1"]

        run(main)

    def test_what_is_below(self) -> None:
        async def main() -> None:
            cart, _, stream = carried()
            cart.transport = object()
            assert stream.below is cart.transport
            assert not stream.has_unread()
            cart.is_unread = True
            assert stream.has_unread()

        run(main)

    def test_an_end_without_a_beginning(self) -> None:
        async def main() -> None:
            cart = Cart()
            Http2Stream(cart, 1, Rider(cart.loop), is_websocket=True).write_eof()
            assert cart.told == ["CANCEL"]

        run(main)

    @pytest.mark.parametrize("knows", [True, False])
    def test_an_owner_whose_bytes_get_nowhere(self, knows: bool) -> None:
        """To one who has no `writing_failed` that is the end."""

        class Knowing(Rider):
            def writing_failed(self, exc: OSError) -> None:
                self.told.append("failed")

        async def main() -> None:
            cart, _, stream = carried()
            rider = (Knowing if knows else Rider)(cart.loop)
            stream.set_protocol(rider)
            stream.writing_failed(OSError())
            assert (rider.told, cart.told) == ((["failed"], []) if knows else ([], ["CANCEL"]))

        run(main)

    @pytest.mark.parametrize("is_websocket", [True, False])
    def test_the_peers_end_is_told_once_and_to_a_websocket(self, is_websocket: bool) -> None:
        async def main() -> None:
            cart, rider, stream = carried(is_websocket=is_websocket)
            rider.keeps = True
            assert not stream.is_held  # it reads
            stream.pause_reading()
            stream.has_all = True
            stream.give()
            assert stream.is_held and not rider.told
            stream.resume_reading()
            await asyncio.sleep(0)
            assert rider.told == ["eof"] * is_websocket
            stream.give()
            stream.pause_reading()
            assert not stream.is_held and rider.told == ["eof"] * is_websocket and not cart.told

        run(main)

    @pytest.mark.parametrize("ends_first", [True, False])
    def test_a_stream_is_over_when_both_sides_have_ended(self, ends_first: bool) -> None:
        async def main() -> None:
            cart, rider, stream = carried()
            rider.keeps = True
            stream.has_all = not ends_first
            stream.give()
            stream.write_eof()
            assert stream.take(10) == (b"", True)
            assert cart.told == ["wants"] and not stream.is_closing()
            stream.has_ended()
            if ends_first:
                assert cart.told == ["wants"] and not stream.is_closing()
                stream.has_all = True
                stream.give()
            assert cart.told == ["wants", "end"] and stream.is_closing()

        run(main)

    def test_what_came_before_the_peer_broke_off_is_held_until_it_is_read(self) -> None:
        async def main() -> None:
            for reads in (True, False):
                cart, rider, stream = carried()
                stream.pause_reading()
                stream.keep(b"12345")
                stream.has_all, stream.cause = True, ConnectionResetError()
                stream.give()
                assert stream.is_held and not rider.data
                if reads:
                    stream.resume_reading()
                    await asyncio.sleep(0)
                    assert rider.data == b"12345" and cart.told == ["read 5", "end"]
                else:
                    assert stream.drop_held() == 5 and not stream.is_held

        run(main)

    @pytest.mark.parametrize("is_over", [True, False])
    def test_an_end_is_a_reset_where_the_peers_is_missing(self, is_over: bool) -> None:
        """RFC 9113 8.1: what it would still say is of no interest."""

        async def main() -> None:
            cart, _, stream = carried()
            stream.has_all = is_over
            stream.close()
            stream.close()
            assert cart.told == ["wants"] and stream.has_more
            assert stream.take(10) == (b"", True) and not stream.has_more
            stream.has_ended()
            stream.close()
            assert cart.told == ["wants", "end" if is_over else "NO_ERROR"]

        run(main)

    def test_nothing_is_asked_for_a_stream_that_is_over(self) -> None:
        async def main() -> None:
            cart, rider, stream = carried()
            stream.write(b"12345")
            cart.told.clear()
            stream.lose(None)
            stream.lose(None)
            assert stream.get_write_buffer_size() == 0 and not stream.has_more
            stream.write_eof()
            stream.write(b"12345")
            stream.close()
            stream.has_all = True
            stream.give()
            await asyncio.sleep(0)
            assert not cart.told and rider.told == ["lost"]

        run(main)

    def test_an_owner_who_comes_in_the_turn_in_which_it_is_lost(self) -> None:
        """A client that leaves when its handshake is just over: its WebSocket was never told, and a server waited for
        the end of that for ever."""

        async def main() -> None:
            cart, first, stream = carried()
            second = Rider(cart.loop)
            stream.lose(None)
            stream.set_protocol(second)
            await asyncio.sleep(0)
            assert not first.told and second.told == ["lost"]

        run(main)

    def test_nobody_listens_any_more(self) -> None:
        """The end has not to be sent: what the owner has not read would go with it."""

        async def main() -> None:
            _, rider, stream = carried()
            stream.set_write_buffer_limits(high=4)
            stream.write(b"12345")
            stream.stop_sending(None)
            assert stream.get_write_buffer_size() == 0
            await asyncio.sleep(0)
            assert rider.told == ["pause", "resume"]
            assert stream.take(10) == (b"", False) and not stream.has_more

        run(main)

    @pytest.mark.parametrize("error", [SystemExit, RuntimeError])
    def test_what_an_owner_that_fails_was_given_has_been_read(self, error: type[BaseException]) -> None:
        """The window of all streams would lose it. One that leaves the program leaves it in the next turn, and finds
        its stream as it was when the loop runs again."""

        def fail(data: bytes) -> None:
            rider.data += data
            if rider.data == b"12":
                raise error

        async def begin() -> tuple[Cart, Rider, Http2Stream]:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            cart, rider, stream = carried()
            rider.data_received = fail  # type: ignore[method-assign]
            return cart, rider, stream

        async def give() -> None:
            stream.keep(b"12")
            stream.give()
            stream.keep(b"345")
            await asyncio.sleep(0.01)

        with contextlib.closing(asyncio.new_event_loop()) as loop:
            cart, rider, stream = loop.run_until_complete(begin())
            with pytest.raises(SystemExit) if error is SystemExit else contextlib.nullcontext():
                loop.run_until_complete(give())
            loop.run_until_complete(asyncio.sleep(0))
        is_over = error is RuntimeError
        assert cart.told == ["read 2", "CANCEL" if is_over else "read 3"]
        assert rider.data == (b"12" if is_over else b"12345")


def test_bytes_of_every_kind() -> None:
    async def main() -> None:
        async with riding() as (rider, stream):
            reused = bytearray(HELLO)
            stream.write(reused)
            reused[:] = bytes(len(reused))  # it is the caller's again
            stream.writelines([HELLO[:3], memoryview(HELLO)[3:], b""])
            await until(lambda: rider.data == 2 * ANSWER)
            assert stream.get_write_buffer_size() == 0

    run(main)


def test_a_head_in_pieces() -> None:
    async def main() -> None:
        async with mounted() as (rider, stream):
            for byte in request() + HELLO:
                stream.write(bytes([byte]))
            await until(lambda: rider.data.endswith(b"\r\n\r\n" + ANSWER))

    run(main)


def test_what_is_known_of_it() -> None:
    async def main() -> None:
        async with riding() as (rider, stream):
            assert stream.get_extra_info("http2_stream") == stream.number == 1
            for name in ("socket", "ssl_object"):
                assert stream.get_extra_info(name) is None, "whoever had that would speak for all streams"
                assert stream.get_extra_info(name, 7) == 7
            assert stream.get_extra_info("peername")[0] == "127.0.0.1"
            assert stream.get_extra_info("nothing", 7) == 7
            assert stream.get_protocol() is rider and stream.can_write_eof()
            assert stream.is_reading() and not stream.is_closing()
        assert stream.get_extra_info("peername", "gone") == "gone"

    run(main)


def test_reading_that_is_paused() -> None:
    async def main() -> None:
        async with riding() as (rider, stream):
            stream.pause_reading()
            stream.pause_reading()
            stream.write(HELLO)
            await asyncio.sleep(0.05)
            assert not stream.is_reading() and not rider.data
            stream.resume_reading()
            stream.resume_reading()
            await until(lambda: rider.data == ANSWER)

    run(main)


def test_whoever_reads_again_makes_room_for_more() -> None:
    """RFC 9113 6.9: nothing else has the peer go on."""

    async def talkative(ws: zcws.WebSocket) -> None:
        await ws.send(bytes(1_000_000))
        await echo(ws)

    async def main() -> None:
        async with riding(talkative) as (rider, stream):
            stream.pause_reading()
            connection: Any = stream._connection
            await until(lambda: connection._h2.remote_flow_control_window(stream.number) == 0)
            stream.resume_reading()
            await until(lambda: len(rider.data) == 10 + 1_000_000)

    run(main)


def test_what_is_left_is_read_when_the_connection_is_gone() -> None:
    async def main() -> None:
        async with riding() as (rider, stream):
            stream.pause_reading()
            stream.write(HELLO)
            await until(lambda: stream._held == ANSWER)
            connection: Any = stream._connection
            connection.abort()
            await until(lambda: connection.transport is None)
            assert not rider.told and not rider.data
            stream.resume_reading()
            await until(lambda: "lost" in rider.told)
            assert rider.data == ANSWER and rider.told == ["eof", "lost"]

    run(main)


def test_the_end_of_a_clients_stream_is_told_when_the_connection_is_gone() -> None:
    async def main() -> None:
        async with riding() as (rider, stream):
            at_the_end = list[Any]()
            connection: Any = stream._connection
            rider.connection_lost = lambda exc: at_the_end.append(connection.transport)  # type: ignore[method-assign]
            stream.close()
            await until(lambda: at_the_end)
            assert at_the_end == [None]
            rider.told.append("lost")

    run(main)


def test_limits_of_what_waits() -> None:
    """As in any other transport: one `pause_writing` above the high one, one `resume_writing` at the low one."""

    async def main() -> None:
        async def later(ws: zcws.WebSocket) -> None:
            await asyncio.sleep(0.05)
            await echo(ws)

        async with riding(later) as (rider, stream):
            assert stream.get_write_buffer_limits() == (16_384, 65_536)
            stream.set_write_buffer_limits(low=1000)
            assert stream.get_write_buffer_limits() == (1000, 4000)
            stream.set_write_buffer_limits(high=2000)
            assert stream.get_write_buffer_limits() == (500, 2000)
            big = wire.frame(wire.BINARY, bytes(2_000_000), key=wire.KEY)
            stream.write(big)
            assert rider.told == ["pause"] and stream.get_write_buffer_size() > 1_000_000
            stream.set_write_buffer_limits(high=3_000_000)
            await until(lambda: rider.told == ["pause", "resume"])
            stream.set_write_buffer_limits(high=0)
            assert rider.told[2:] == ["pause"]
            await until(lambda: len(rider.data) == 2_000_000 + 10)
            assert rider.told[2:] == ["pause", "resume"] and not stream.get_write_buffer_size()

    run(main)


def test_an_owner_that_fails_loses_its_stream() -> None:
    """And the program is told, as by any other transport."""
    errors = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        async with riding() as (rider, stream):
            rider.data_received = lambda data: 1 // 0  # type: ignore[method-assign,assignment]
            stream.write(HELLO)
            await until(lambda: "lost" in rider.told)
        assert isinstance(errors[0]["exception"], ZeroDivisionError) and errors[0]["transport"] is stream

    run(main)


def test_an_owner_that_has_no_room() -> None:
    errors = []

    class Full(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint: int) -> bytearray:
            return bytearray()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        async with riding() as (rider, stream):
            full = Full()
            full.connection_lost = rider.connection_lost  # type: ignore[method-assign]
            stream.set_protocol(full)
            stream.write(HELLO)
            await until(lambda: "lost" in rider.told)
        assert isinstance(errors[0]["exception"], RuntimeError)

    run(main)


class TestEnds:
    def test_both_sides(self) -> None:
        async def main() -> None:
            async with riding() as (rider, stream):
                stream.write(HELLO + wire.frame(wire.CLOSE, b"", key=wire.KEY))
                stream.write_eof()
                stream.write_eof()
                stream.write(b"behind the end")
                await until(lambda: rider.told == ["eof", "lost"])
                assert rider.data == ANSWER + wire.frame(wire.CLOSE, b"")
                assert rider.cause is None and stream.is_closing()
                stream.write(b"late")
                stream.write_eof()
                stream.close()
                stream.abort()
                assert rider.told == ["eof", "lost"]

        run(main)

    def test_the_peers_first(self) -> None:
        """Whoever keeps its own side may go on, and closes it by itself."""

        async def main() -> None:
            ready = asyncio.Event()

            async def leave(ws: zcws.WebSocket) -> None:
                await ready.wait()
                ws.begin_close()
                ws._transport.write_eof()  # type: ignore[union-attr]
                await ws.wait_closed()

            async with riding(leave) as (rider, stream):
                rider.keeps = True
                ready.set()
                await until(lambda: rider.told == ["eof"])
                await asyncio.sleep(0.02)
                assert rider.told == ["eof"]
                stream.write(wire.frame(wire.CLOSE, b"", key=wire.KEY))
                stream.close()
                assert stream.is_closing()
                await until(lambda: rider.told == ["eof", "lost"])

        run(main)

    def test_a_close_sends_what_waits(self) -> None:
        got = []

        async def main() -> None:
            async def take(ws: zcws.WebSocket) -> None:
                async for message in ws:
                    got.append(len(message))

            async with riding(take) as (rider, stream):
                stream.write(wire.frame(wire.BINARY, bytes(1_000_000), key=wire.KEY))
                stream.close()
                stream.close()
                await until(lambda: "lost" in rider.told)
                await until(lambda: got)
                assert got == [1_000_000]

        run(main)

    @pytest.mark.parametrize("how", ["write_eof", "close", "abort"])
    def test_before_the_head(self, how: str) -> None:
        """There is nothing to end: it is cancelled."""

        async def main() -> None:
            async with mounted() as (rider, stream):
                getattr(stream, how)()
                await until(lambda: rider.told == ["lost"])

        run(main)
