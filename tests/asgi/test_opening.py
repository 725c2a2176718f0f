"""zcws.asgi.opening: the answers to a request on a real socket. What applications do with it: test_uvicorn.py."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import net
import pytest

import zcws
from zcws.asgi import opening
from zcws.asgi.opening import EARLY, Opening, Phase, acceptor_options, decoded, stream_options
from zcws.http import Request, text_response


class Door(Opening):
    """An opening whose server does nothing but to remember."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, then: Any = None) -> None:
        super().__init__(loop, acceptor_options(False))
        self.requests: list[Request] = []
        self.gone = 0
        self.then = then

    def asked(self, request: Request) -> None:
        self.requests.append(request)
        if self.then is not None:
            self.loop.call_soon(self.then, self)

    def forgotten(self) -> None:
        self.gone += 1

    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"server", b"door")]


async def ask(writer: Any, door: Door) -> None:
    """The client's request has arrived."""
    writer.write(net.request())
    await net.until(lambda: door.requests)


def accept(door: Door) -> None:
    door.accept(None, [], max_size=1000, timing=stream_options(None, None))


def run(script: Any, then: Any = None) -> None:
    """`script(reader, writer, door)` against a real socket with a Door behind it."""

    async def main() -> None:
        doors: list[Door] = []
        loop = asyncio.get_running_loop()

        def make() -> Door:
            doors.append(Door(loop, then=then))
            return doors[-1]

        server = await loop.create_server(make, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await net.until(lambda: doors)
        try:
            await net.soon(script(reader, writer, doors[0]))
        finally:
            await net.hang_up(writer)
            server.close()
            await net.until(lambda: doors[0].gone)
        assert doors[0].gone == 1
        timer = doors[0]._deadline
        assert timer is None or timer.cancelled() or timer.when() <= loop.time()  # nothing is left of it

    asyncio.run(main())


def test_a_request_may_come_in_any_pieces() -> None:
    async def script(reader: Any, writer: Any, door: Door) -> None:
        for byte in net.request("Sec-WebSocket-Protocol: a, b", target="/path"):
            assert door.requests == []
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await net.until(lambda: door.requests)
        assert (door.requests[0].path, door.subprotocols) == ("/path", ["a", "b"])
        assert door.phase is Phase.ASKED and not door.is_gone and not door.decided.done()

    run(script)


def test_a_client_that_does_not_wait_for_the_answer_is_cut_off() -> None:
    async def script(reader: Any, writer: Any, door: Door) -> None:
        await ask(writer, door)
        writer.write(bytes(EARLY))
        await net.until(lambda: len(door._data) == EARLY)
        assert not door.is_gone
        writer.write(b"x")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await net.until(lambda: door.phase is Phase.LOST)

    run(script)


def test_frames_before_the_answer_are_read_after_it() -> None:
    async def script(reader: Any, writer: Any, door: Door) -> None:
        await ask(writer, door)
        writer.write(net.wire.frame(net.wire.PING, b"early", key=net.wire.KEY))
        await net.until(lambda: door._data)
        accept(door)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n") and b"server: door\r\n" in head
        assert await reader.readexactly(7) == net.wire.frame(net.wire.PONG, b"early")
        assert door.phase is Phase.OPEN and door.decided.done()
        writer.write(net.wire.frame(net.wire.CLOSE, key=net.wire.KEY))

    run(script)


def test_a_quote_that_is_not_closed_ends_with_its_line() -> None:
    async def script(reader: Any, writer: Any, door: Door) -> None:
        offers = ('x; y="', "permessage-deflate")
        writer.write(net.request(*(f"Sec-WebSocket-Extensions: {offer}" for offer in offers)))
        await net.until(lambda: door.requests)
        door._options = acceptor_options(True)
        accept(door)
        assert b"Sec-WebSocket-Extensions: permessage-deflate" in await reader.readuntil(b"\r\n\r\n")
        writer.write(net.wire.frame(net.wire.CLOSE, key=net.wire.KEY))

    run(script)


def test_a_client_that_ends_its_side_is_gone() -> None:
    async def script(reader: Any, writer: Any, door: Door) -> None:
        await ask(writer, door)
        writer.write_eof()
        await net.until(lambda: door.is_gone)
        await door.decided
        assert door.phase is Phase.LOST
        assert door.end == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        door.refuse(text_response(403, "to nobody"))  # does nothing

    run(script)


def test_a_refused_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the body as behind it: the application waited for ever, and held the connection."""
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT", 0.05)

    async def deny(door: Door) -> None:
        door.deny(403, [])
        with contextlib.suppress(ConnectionError):
            while not door.is_gone:
                await door.deny_body(bytes(100_000), last=False)
        ended.set()

    ended = asyncio.Event()

    async def script(reader: Any, writer: Any, door: Door) -> None:
        writer.transport.pause_reading()
        writer.write(net.request())
        await net.soon(ended.wait())
        assert door.phase is Phase.LOST

    run(script, lambda door: asyncio.ensure_future(deny(door)))


def test_a_slow_reader_of_a_refusal_has_its_time_anew_whenever_it_reads() -> None:
    async def script(reader: Any, writer: Any, door: Door) -> None:
        await ask(writer, door)
        door.deny(403, [])
        door.pause_writing()
        first = door._deadline
        door.resume_writing()
        assert first is not None and first.cancelled()
        door.pause_writing()
        assert door._deadline is not first
        paused = door._deadline
        await door.deny_body(b"no", last=True)
        last = door._deadline
        assert paused is not None and paused.cancelled()
        door.pause_writing()
        door.resume_writing()
        # It has to hang up as well.
        assert last is door._deadline and last is not None and not last.cancelled()
        whole = await reader.read()
        assert whole.endswith(b"no") and b"server: door\r\n" in whole

    run(script)


def test_a_refused_client_that_stays_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT", 0.05)

    async def script(reader: Any, writer: Any, door: Door) -> None:
        await ask(writer, door)
        door.refuse(text_response(403, "no"))
        await net.until(lambda: door.phase is Phase.LOST)

    run(script)


def test_the_status_of_a_denial() -> None:
    """RFC 9110 15: a final one."""

    async def script(reader: Any, writer: Any, door: Door) -> None:
        await ask(writer, door)
        for status in (199, 600):
            with pytest.raises(RuntimeError, match="not the status"):
                door.deny(status, [])
        for status in (200, 599):
            door.deny(status, [])
        assert door.phase is Phase.DENYING and not door.is_gone
        assert door.transport is not None
        door.transport.abort()
        assert door.is_gone

    run(script)


@pytest.mark.parametrize("reads", [True, False])
def test_a_slow_reader_of_the_end_of_a_refusal(reads: bool) -> None:
    """It was cut off ten seconds after the last of the body had been written, however much of it was on its way."""
    half = 8 << 20

    async def script(reader: Any, writer: Any, door: Door) -> None:
        await ask(writer, door)
        door.deny(403, [])
        await door.deny_body(bytes(2 * half), last=True)
        assert door.transport is not None
        waiting = door.transport.get_write_buffer_size()
        if reads:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(half)
        former = door._deadline
        door._deadline_passed(waiting)
        if reads:
            assert door._deadline is not former  # it may stop later
            assert len(await reader.readexactly(half)) == half
        else:
            await net.until(lambda: door.phase is Phase.LOST)

    run(script)


def test_a_refused_client_gets_its_response_although_it_goes_on_sending() -> None:
    async def script(reader: Any, writer: Any, door: Door) -> None:
        await ask(writer, door)
        door.refuse(text_response(403, "no"))
        writer.write(bytes(100_000))
        whole = await reader.read()
        assert whole.startswith(b"HTTP/1.1 403 ") and whole.endswith(b"\r\n\r\nno\n")
        assert door.phase is Phase.CLOSED and not door.is_gone

    run(script)


def test_the_limit_of_messages_is_the_one_that_was_given() -> None:
    async def script(reader: Any, writer: Any, door: Door) -> None:
        writer.write(net.request())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(net.wire.frame(net.wire.BINARY, bytes(1001), key=net.wire.KEY))
        close = net.wire.parse(await reader.read())[0]
        assert close.payload.startswith(net.wire.close_payload(zcws.CloseCode.MESSAGE_TOO_BIG))

    run(script, then=accept)


@pytest.mark.parametrize(
    "name", ["Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions"]
)
def test_the_handshakes_own_headers_are_not_the_applications(name: str) -> None:
    async def script(reader: Any, writer: Any, door: Door) -> None:
        await ask(writer, door)
        with pytest.raises(ValueError, match="the handshake's own"):
            door.accept(None, [(name.lower(), "x")], max_size=1, timing=stream_options(None, None))
        assert door.phase is Phase.ASKED

    run(script)


def test_headers_are_latin_1_and_their_names_in_lower_case() -> None:
    assert decoded([b"X-Name", "für".encode("latin-1")]) == ("x-name", "für")


@pytest.mark.parametrize("line", [("x", b"y"), (b"x", "y")])
def test_headers_are_bytes(line: Any) -> None:
    """It said "string argument without an encoding"."""
    with pytest.raises(TypeError, match="ASGI headers are pairs of bytes, not of str"):
        decoded(line)
