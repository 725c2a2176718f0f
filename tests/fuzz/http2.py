"""Invariant: whatever frames of HTTP/2 a peer sends, in any cut, slow to read or not, a server and a client keep no
more than their bounds, say nothing that is no frame, raise nothing; and when the peer falls silent both are over within
minutes of a clock that is ours: every handler has returned, every timer is gone.

An input is a program: each byte makes a frame, mostly a legal one on a stream that is open, or is something that
happens to the connection. Then some bytes of all that are changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import struct
from collections.abc import Callable
from typing import Any

import net
import wire
from fuzz.material import Material, cuts

import zcws
from zcws.acceptor import AcceptorOptions
from zcws.aio import http2
from zcws.aio.asking import ClientHandshake
from zcws.aio.http2_accepting import Http2Server
from zcws.aio.http2_asking import Http2Client
from zcws.aio.http2_frames import MOST_STREAMS, WINDOW
from zcws.aio.server import Server
from zcws.aio.settings import Options
from zcws.connector import WebSocketConnector
from zcws.http2 import PREFACE

#: Frames by type. RFC 9113 6.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, END_HEADERS, PADDED, PRIORITISED, ACK = 1, 4, 8, 0x20, 1
ASKS = {
    ":method": "CONNECT",
    ":protocol": "websocket",
    ":scheme": "http",
    ":path": "/",
    ":authority": "a",
    "sec-websocket-version": "13",
}
#: Heads that are changed a little: fields that are there besides, or in another's place, or (None) not there.
CHANGES: tuple[dict[str, str | None], ...] = (
    {},
    {},
    {},
    {":method": "GET", ":protocol": None},
    {":method": "HEAD", ":protocol": None, ":path": "/page"},
    {":path": "/slow"},
    {":path": "/push"},
    {":path": "http://a/"},
    {":protocol": None, ":scheme": None, ":path": None},
    {"content-length": "3"},
    {"te": "gzip"},
    {"Upper": "x"},
    {"x": "a\nb"},
    {"sec-websocket-extensions": "permessage-deflate"},
    {"cookie": "x" * 9000},
    {"": "x"},
)
ANSWERS: tuple[dict[str, str | None], ...] = (
    {":status": "200"},
    {":status": "200"},
    {":status": "200", "content-length": "0"},
    {":status": "100"},
    {":status": "103", "link": "x"},
    {":status": "101"},
    {":status": "404", "content-length": "5"},
    {":status": "302", "location": "/other"},
    {":status": "200", "sec-websocket-extensions": "permessage-deflate"},
    {":status": "x"},
    {"x": "y"},
    {":status": "200", "Upper": "x"},
)
SAYS = (
    (wire.TEXT, b"hello"),
    (wire.BINARY, bytes(10)),
    (wire.PING, b""),
    (wire.CLOSE, wire.close_payload(1000)),
    (wire.BINARY, bytes(15_000)),
    (3, b"no opcode"),
)
INCREMENTS = (*[1, 1000, 65_535, 2**20] * 8, 2**31 - 1, 0)
SETTINGS_SAID = (
    (1, 0),
    (1, 4096),
    (1, 2**32 - 1),
    (3, 0),
    (3, 100),
    (4, 0),
    (4, 1),
    (4, 65_535),
    (4, 2**31 - 1),
    (5, 16_384),
    (5, 2**24 - 1),
    (6, 10),
    (8, 1),
    (8, 0),
    (99, 7),
)
#: Streams by what a byte says: the latest in most cases.
NUMBERS: tuple[Callable[[int], int], ...] = (
    *[lambda last: last] * 60,
    *[lambda last: max(last - 2, 1)] * 20,
    *[lambda last: 1] * 11,
    lambda last: last + 2,
    lambda last: 0,
    lambda last: 2,
    lambda last: 2**31 - 1,
)


class Clock(selectors.SelectSelector):
    """Nobody sleeps: where the loop would, that much time has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits, and for nothing"
        self.now += max(timeout, 0)
        return super().select(0)


def make_loop() -> asyncio.AbstractEventLoop:
    clock = Clock()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    return loop


class Wire(asyncio.Transport):
    """What bytes go out by; as asyncio's own, and slow when it is told to."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol, self.loop = protocol, asyncio.get_running_loop()
        self.said, self.waiting = bytearray(), 0
        self.is_slow = self.is_full = self.ends = self.is_paused = self.is_over = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        assert not self.ends
        self.said += data
        self.waiting += len(data) if self.is_slow else 0
        # What was owed before, what h2 has made since, and one round of frames.
        assert self.waiting < http2._MOST_OWED + 512 * 1024, "too much is kept for a peer that does not read"
        if self.waiting > 65_536 and not self.is_full:
            self.is_full = True
            self.protocol.pause_writing()

    def drain(self) -> None:
        self.waiting, self.is_slow = 0, False
        if self.is_full and not self.is_over:
            self.is_full = False
            self.protocol.resume_writing()
        if self.ends:
            self.lose(None)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.ends

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        self.ends = True
        if not self.waiting:
            self.lose(None)

    def abort(self) -> None:
        self.lose(None)

    def lose(self, error: Exception | None) -> None:
        self.ends = True
        if not self.is_over:
            self.is_over = True
            self.loop.call_soon(self.protocol.connection_lost, error)


def encoded(fields: dict[str, str | None]) -> bytes:
    """RFC 7541 6.2.2: every field in full, and nothing is remembered."""
    head = b""
    for name, value in fields.items():
        for text in (name, value) if value is not None else ():
            size = len(text)
            head += b"\0" if text is name else b""
            # RFC 7541 5.1
            head += bytes([size]) if size < 127 else b"\x7f"
            rest = size - 127
            while rest >= 128:
                head += bytes([rest % 128 + 128])
                rest //= 128
            head += bytes([rest]) if size >= 127 else b""
            head += text.encode("latin-1")
    return head


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + payload


class Program:
    """What an input says: `steps` are bytes that arrive, or the name of something that happens."""

    def __init__(self, material: Material, *, is_client: bool) -> None:
        self.material, self.masks = material, not is_client
        self.last = 1 if is_client else -1
        self.steps: list[bytes | str] = []
        self.chance = material.random()
        damages = material.byte()
        first = frame(SETTINGS, 0, 0, b"\0\x08\0\0\0\x01" if is_client else b"")
        self.put((b"" if is_client else PREFACE) + first)
        if is_client:
            self.steps.append("turn")  # it asks
        self.add_head(material.byte())
        for _ in range(min(len(material.rest()), 300)):
            self.add(material.byte())
        # Of 256 inputs 40 have bytes that are not what they were.
        for _ in range(max(damages - 216, 0)):
            at = self.chance.randrange(len(self.steps))
            step = self.steps[at]
            if isinstance(step, bytes):
                place = self.chance.randrange(len(step))
                changed = bytes([step[place] ^ 1 << self.chance.randrange(8)])
                self.steps[at] = step[:place] + changed + step[place + 1 :]

    def put(self, data: bytes) -> None:
        if self.steps and isinstance(self.steps[-1], bytes):
            data = self.steps.pop() + data  # type: ignore[operator]
        self.steps.append(data)

    def number(self) -> int:
        return self.material.one_of(NUMBERS)(max(self.last, 1))

    def add(self, kind: int) -> None:
        """One step; what it is like is in the bytes behind it."""
        one_of, byte = self.material.one_of, self.material.byte
        match kind % 32:
            case 0 | 1 | 2 | 3:
                self.add_head(byte())
            case 4 | 5 | 6 | 7 | 8 | 9:
                opcode, payload = one_of(SAYS)
                self.add_data(byte(), wire.frame(opcode, payload, key=wire.KEY if self.masks else None))
            case 10:
                self.add_data(byte(), self.chance.randbytes(byte()))
            case 11 | 12:
                self.put(frame(RST_STREAM, 0, self.number(), bytes([0, 0, 0, byte() % 16])))
            case 13:
                said = [one_of(SETTINGS_SAID) for _ in range(byte() % 3)]
                self.put(frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in said)))
            case 14:
                self.put(frame(SETTINGS, ACK, 0))
            case 15:
                self.put(frame(PING, byte() & ACK, 0, bytes(8)) * (byte() + 1))
            case 16:
                self.put(
                    frame(GOAWAY, 0, 0, self.number().to_bytes(4, "big") + bytes([0, 0, 0, byte() % 16]))
                )
            case 17 | 18:
                number = self.number() if byte() % 2 else 0
                self.put(frame(WINDOW_UPDATE, 0, number, one_of(INCREMENTS).to_bytes(4, "big")))
            case 19:  # trailers
                self.put(frame(HEADERS, END_HEADERS | END_STREAM, self.number(), encoded({"x": "y"})))
            case 20:
                self.add_nonsense(byte())
            case _:
                happens = (
                    "turn",
                    "turn",
                    "turn",
                    "slow",
                    "drain",
                    "second",
                    "minute",
                    "lost",
                    "go away",
                    "close",
                )
                self.steps.append(one_of(happens))

    def add_nonsense(self, kind: int) -> None:
        some = self.chance.randbytes(self.material.byte() + 1)
        match kind:
            case 0 | 1 | 2:
                self.put(frame(CONTINUATION, END_HEADERS, self.number(), some))
            case 3 | 4:
                self.put(frame(HEADERS, END_HEADERS, self.number(), some))
            case 5:
                self.put(some)
            case _:  # types that nobody has heard of: RFC 9113 5.5
                self.put(frame(kind | 0x10, kind, self.number() * (kind % 2), some))

    def add_head(self, how: int) -> None:
        if self.masks:
            self.last += 2
            fields: dict[str, str | None] = {**ASKS, **self.material.one_of(CHANGES)}
        else:
            fields = self.material.one_of(ANSWERS)
        head, flags = encoded(fields), END_HEADERS | (END_STREAM if how & 0x80 else 0)
        if how & 0x70 == 0x70:
            flags, head = flags | PADDED, bytes([5]) + head + bytes(5)
        if how & 0x0E == 0x0E:  # in pieces, as many as one likes
            first, rest = head[:5], head[5:]
            count = self.material.byte() % 70 + 1
            self.put(frame(HEADERS, flags & ~END_HEADERS, self.last, first))
            self.put(frame(CONTINUATION, 0, self.last) * (count - 1))
            self.put(frame(CONTINUATION, END_HEADERS, self.last, rest))
        else:
            self.put(frame(HEADERS, flags, self.last, head))

    def add_data(self, how: int, data: bytes) -> None:
        flags = END_STREAM if how >= 0xF0 else 0
        if how & 0x0E == 0x0E:
            flags, data = flags | PADDED, bytes([how]) + data + bytes(how)
        self.put(frame(DATA, flags, self.number(), data) * (how % 8 + 1 if how & 0x30 == 0x30 else 1))


async def handler(ws: zcws.WebSocket) -> None:
    path = ws.request.path if ws.request is not None else ""
    if path == "/slow":
        await asyncio.sleep(3)
    while path == "/push":
        await ws.send(bytes(30_000))
    async for message in ws:
        await ws.send(message)


def page(handshake: Any, request: zcws.Request) -> zcws.Response | None:
    return handshake.respond(200, "a page") if request.path == "/page" else None  # type: ignore[no-any-return]


class Place:
    """One end of ours, what is given to it, and what is wrong with what comes of that."""

    def __init__(self, *, is_client: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.server = Server(
            handler,
            self.loop,
            look=None,
            shows_messages=False,
            acceptor_options=AcceptorOptions(compression="deflate"),
            options=Options(write_timeout=30),
            process_request=page,
            process_response=None,
            open_timeout=10,
            limits={"max_size": 2**20, "max_fragments": 100},
        )
        self.is_client = is_client
        self.reading: asyncio.Task[None] | None = None
        self.protocol: Any = self.make_client() if is_client else Http2Server(self.server)
        self.wire = Wire(self.protocol)
        self.protocol.connection_made(self.wire)

    def make_client(self) -> Http2Client:
        def opened(*_: Any) -> zcws.WebSocket:
            return net.unplaced(is_client=True)

        asking = WebSocketConnector("ws://a/", entropy=bytes, compression="deflate")
        client = Http2Client(self.loop, ClientHandshake(self.loop, asking, opened))
        self.reading = self.loop.create_task(self.read(client))
        return client

    async def read(self, client: Http2Client) -> None:
        with contextlib.suppress(zcws.HandshakeError):
            ws = await client.done
            if isinstance(ws, zcws.WebSocket):
                with contextlib.suppress(zcws.ConnectionClosed):
                    await handler(ws)
                await ws.close()

    async def give(self, data: bytes) -> None:
        while self.wire.is_paused and not self.wire.ends:
            await asyncio.sleep(0)
        if not self.wire.ends:
            self.protocol.data_received(data)
            held = sum(len(stream._held) for stream in self.protocol.streams.values())
            assert held <= MOST_STREAMS * WINDOW, "more has arrived than there are windows for"
            assert len(self.protocol.streams) <= MOST_STREAMS
            assert len(self.protocol._unread) <= len(data), "what waits for the next turn grows"

    async def happen(self, what: str) -> None:
        match what:
            case "slow":
                self.wire.is_slow = True
            case "drain":
                self.wire.drain()
            case "lost":
                self.wire.lose(ConnectionResetError())
            case "go away" if not self.is_client:
                self.protocol.go_away()
            case "close" if not self.is_client:
                self.server.close()
        await asyncio.sleep({"second": 1, "minute": 61}.get(what, 0))

    async def end(self) -> None:
        """The peer is silent, or its end has come: everything is over before long."""
        if self.is_client:
            self.wire.lose(None)  # what has no server's patience is for `connect`
        await asyncio.sleep(1000)
        assert self.wire.is_over, "the connection is kept for ever"
        assert not (self.protocol.streams or self.server.handshakes or self.server.connections)
        assert self.reading is None or self.reading.done(), "the client waits for ever"
        self.server.close()
        await asyncio.wait_for(self.server.wait_closed(), 100)
        if self.reading is not None:
            await self.reading


def check_frames(said: bytes, *, is_client: bool) -> None:
    """What went out are whole frames, of lengths that everybody takes unless they have said otherwise."""
    at = len(PREFACE) if is_client else 0
    assert said[:at] == PREFACE[:at]
    while at < len(said):
        size, kind = int.from_bytes(said[at : at + 3], "big"), said[at + 3]
        assert size <= 65_536 and kind <= CONTINUATION and kind != PUSH_PROMISE, (size, kind)
        at += 9 + size
    assert at == len(said)


async def run(program: Program, failures: list[Any], *, is_client: bool) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    place = Place(is_client=is_client)
    for step in program.steps:
        if isinstance(step, str):
            await place.happen(step)
            continue
        for piece in cuts(step, program.chance):
            await place.give(piece)
            if program.chance.random() < 0.1:
                await asyncio.sleep(0)
    await place.end()
    check_frames(bytes(place.wire.said), is_client=is_client)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, others


def check(data: bytes) -> None:
    material = Material(data)
    is_client, few = material.byte() % 4 == 0, material.byte() % 2
    program, failures = Program(material, is_client=is_client), list[Any]()
    loop, before = make_loop(), http2._MOST_FRAMES
    http2._MOST_FRAMES = 3 if few else before
    try:
        loop.run_until_complete(run(program, failures, is_client=is_client))
    finally:
        http2._MOST_FRAMES = before
        loop.close()
    assert not failures, failures
