"""Invariant: of any stream of frames, right and wrong ones, each way to read it makes what a receiver must (model.py):
the messages, what is answered, and why it ends. Without a socket in every way (read.py), whole and in pieces; over a
socket in one way, on asyncio and blocking.

A stream is made from a seed: it is nearly right, so that it gets far. By hand, from one seed to another:

    python tests/fuzz/talk.py 0 500 uvloop
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    #: Of this checkout, whatever else is installed: the tests, and the library.
    sys.path[:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import net
import raw
import wire
from fuzz import read, seeds
from fuzz.material import cuts
from fuzz.model import Model
from fuzz.read import (
    AGREEMENTS,
    JUDGED_WAYS,
    RING,
    Outcome,
    Reading,
    disagreement,
    may_look_too_far,
    rules_of,
)

import zcws
from zcws.aio.settings import Options, pool_of
from zcws.aio.transport import place
from zcws.batch import Batch
from zcws.buffer import PayloadBuffer
from zcws.connection import Connection
from zcws.errors import ConnectionClosed
from zcws.extensions import Agreement
from zcws.frame import Frame, PayloadOrigin
from zcws.options import Timeouts
from zcws.pool import Pool
from zcws.sync.plain import open_channel
from zcws.sync.stream import WebSocket as BlockingWebSocket

#: Bytes of a message: most are short, so that many of them lie beside each other.
SIZES = (0, 1, 3, 20, 100, 125, 126, 127, 300, 1000, 5000, RING - 14, RING - 4, RING, 20_000, 70_000)
WEIGHTS = (4, 4, 8, 16, 8, 2, 2, 2, 6, 4, 1, 0.3, 0.3, 0.3, 0.5, 0.2)
TEXTS = ("a", "ä", "€", "🜚", "plain text, and more of it. ")
#: What is no UTF-8, or not yet: cut off, overlong, a surrogate, above the last one.
BROKEN = (
    b"\xff",
    b"\xc3",
    b"\xe2\x82",
    b"\xf0\x9f\x9c",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\x80",
)
CLOSES = (
    b"", b"\x03\xe8", b"\x03\xe9bye", b"\x0f\xa0" + "ä".encode(), b"\x03", b"\x03\xed", b"\x03\xee", b"\x03\xf7",
    b"\x03\xe8\xff", b"\x03\xf6ok", b"\x13\x88", b"\x03\xe7", b"\x0b\xb8", b"\x03\xe8" + b"r" * 123, b"\x00\x00",
)  # fmt: skip


def flipped(data: bytes | bytearray, at: int, rng: random.Random) -> bytes:
    """One bit of the byte there is another one."""
    return bytes((*data[:at], data[at] ^ 1 << rng.randrange(8), *data[at + 1 :]))


class Talk:
    """One conversation's other half: what was agreed, and what is sent."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.is_client = rng.random() < 0.4
        self.agreement: Agreement = rng.choice(AGREEMENTS)
        self.max_size, self.max_fragments = (
            rng.choice([1 << 20] * 8 + [20_000, 300]),
            rng.choice([1 << 16] * 8 + [3, 1]),
        )
        self.rules = rules_of(
            self.agreement, is_client=self.is_client, max_size=self.max_size, max_fragments=self.max_fragments
        )
        self.may_look_too_far = may_look_too_far(self.agreement)
        self._compressor = self._new_compressor()
        self.stream = self._make()

    def connection(self, pool: Pool | None = None, *, shows_messages: bool = False) -> Connection:
        return Connection(
            is_client=self.is_client,
            entropy=bytes,
            agreement=self.agreement,
            max_size=self.max_size,
            max_fragments=self.max_fragments,
            shows_messages=shows_messages,
            pool=pool or Pool(RING, mirrored=self.rng.random() < 0.7),
        )

    def _new_compressor(self) -> Any:
        return zlib.compressobj(self.rng.choice([1, 6, 9]), wbits=-9 if self.may_look_too_far else -15)

    def _key(self) -> bytes | None:
        return self.rng.choice([wire.KEY, bytes(4), self.rng.randbytes(4)]) if self.rules.masked else None

    def _frame(self, opcode: int, payload: bytes, **bits: Any) -> bytes:
        rng = self.rng
        if rng.random() < 0.004:
            opcode = rng.randrange(16)
        if rng.random() < 0.004:
            bits["rsv"] = rng.randrange(8)
        if rng.random() < 0.004:
            bits["fin"] = rng.random() < 0.5
        if rng.random() < 0.004:
            bits["form"] = rng.choice([16, 64] if len(payload) < 1 << 16 else [64])
        key = self._key()
        if rng.random() < 0.004:
            key = wire.KEY if key is None else None
        return wire.frame(opcode, payload, key=key, **bits)

    def _payload(self) -> tuple[int, bytes]:
        rng = self.rng
        (size,) = rng.choices(SIZES, WEIGHTS)
        if rng.random() < 0.5:
            data = rng.randbytes(size) if rng.random() < 0.7 else bytes(size)
            return wire.BINARY, data
        data = (rng.choice(TEXTS) * (size + 1)).encode()[:size]
        if rng.random() < 0.97:  # whole characters
            data = data.decode("utf-8", "ignore").encode()
        if rng.random() < 0.02:
            at = rng.randrange(len(data) + 1)
            data = data[:at] + rng.choice(BROKEN) + data[at:]
        return wire.TEXT, data

    def _message(self) -> bytes:
        rng = self.rng
        opcode, payload = self._payload()
        rsv = 0
        if self.agreement.deflate is not None and rng.random() < 0.6:
            rsv, payload = 4, self._deflated(payload)
        places = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.choice([0] * 6 + [1, 1, 2, 5])))
        parts = [payload[a:b] for a, b in zip([0, *places], [*places, len(payload)], strict=True)]
        stream = b""
        for i, part in enumerate(parts):
            stream += self._frame(0 if i else opcode, part, fin=i == len(parts) - 1, rsv=0 if i else rsv)
            if i < len(parts) - 1 and rng.random() < 0.2:
                stream += self._control()
        return stream

    def _deflated(self, payload: bytes) -> bytes:
        rng = self.rng
        ends = rng.random() < 0.03
        data: bytes = self._compressor.compress(payload)
        data += self._compressor.flush(zlib.Z_FINISH if ends else zlib.Z_SYNC_FLUSH)
        if ends or self.rules.forgets:
            self._compressor = self._new_compressor()
        if ends:
            data += rng.choice([b"", b"\x00"])
        elif rng.random() < 0.97:
            data = data.removesuffix(b"\x00\x00\xff\xff")
        if data and rng.random() < 0.02:
            data = flipped(data, rng.randrange(len(data)), rng)
        return data

    def _control(self) -> bytes:
        size = self.rng.choice([0, 1, 4, 125, 125 if self.rng.random() < 0.95 else 126])
        return self._frame(self.rng.choice([wire.PING, wire.PING, wire.PONG]), self.rng.randbytes(size))

    def _make(self) -> bytes:
        rng = self.rng
        stream = bytearray()
        for _ in range(rng.choice([1, 3, 8, 8, 20])):
            if rng.random() < 0.06:
                stream += self._frame(wire.CLOSE, rng.choice(CLOSES))
            elif rng.random() < 0.2:
                stream += self._control()
            else:
                stream += self._message()
        if rng.random() < 0.5:
            stream += self._frame(wire.CLOSE, rng.choice(CLOSES))
        for _ in range(rng.choice([0, 0, 0, 0, 0, 1, 1, 3])):
            at = rng.randrange(len(stream) + 1)
            match rng.randrange(4):
                case 0 if at < len(stream):
                    stream[:] = flipped(stream, at, rng)
                case 1:
                    del stream[at : at + rng.choice([1, 2, 9])]
                case 2:
                    stream[at:at] = rng.randbytes(rng.choice([1, 2, 9]))
                case 3 if rng.random() < 0.5:
                    del stream[at:]
        return bytes(stream)


# ---- over a socket ----


class Over:
    """A peer's end of a socket: what it sends, and what it gets."""

    def __init__(self, talk: Talk) -> None:
        self.talk, self.outcome = talk, Outcome()
        self.ours, self.peer = socket.socketpair()
        self.is_cut = talk.rng.random() < 0.7

    def pieces(self) -> Iterator[bytes]:
        return cuts(self.talk.stream, self.talk.rng) if self.is_cut else iter([self.talk.stream])

    def keep(self, message: str | bytes) -> None:
        self.outcome.messages.append(wire.taken_apart(message))

    def see_batch(self, batch: Batch) -> None:
        read.check_messages(batch)
        for frame in batch:
            self.see(frame)

    def see(self, frame: Frame) -> None:
        kept = self.outcome.controls if frame.opcode >= wire.CLOSE else self.outcome.messages
        kept.append((int(frame.opcode), frame.to_bytes()))

    def end(self, error: ConnectionClosed) -> None:
        self.outcome.ending = (type(error), error.code, error.reason, error.clean)

    def check(self, way: str) -> None:
        self.peer.close()
        said = disagreement(Model(self.talk.rules, self.talk.stream).run(), self.outcome)
        assert not said or self.talk.may_look_too_far, (way, said, self.outcome.ending)


async def over_asyncio(over: Over, way: str, where: str) -> None:
    """In the engine, or on a transport of the event loop."""
    loop, talk = asyncio.get_running_loop(), over.talk
    over.ours.setblocking(False)
    over.peer.setblocking(False)
    look = {"shown": lambda _, frame: over.see(frame), "told": lambda _, message: over.keep(message)}.get(way)
    options = Options(ping_interval=None, close_timeout=None)
    connection = talk.connection(pool_of(loop), shows_messages=way == "told")
    ws = zcws.WebSocket(loop, connection, options, look=look)
    ws.connection_made(await transport_of(where, over.ours, ws))
    reading = asyncio.ensure_future(read_asyncio(over, ws, way))
    for piece in over.pieces():
        with contextlib.suppress(OSError):  # it has ended before
            await loop.sock_sendall(over.peer, piece)
        for _ in range(talk.rng.choice([0, 1, 3])):
            await asyncio.sleep(0)
    with contextlib.suppress(OSError):
        over.peer.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        while data := await net.soon(loop.sock_recv(over.peer, 1 << 18)):
            over.outcome.sent += data
    await net.soon(reading)


async def transport_of(where: str, sock: socket.socket, ws: zcws.WebSocket) -> Any:
    loop = asyncio.get_running_loop()
    if where == "engine":
        return place(loop, sock, ws)
    transport = (await loop.create_unix_connection(asyncio.Protocol, sock=sock))[0]
    transport.set_protocol(ws)
    return transport


async def read_asyncio(over: Over, ws: zcws.WebSocket, way: str) -> None:
    buffer, ended = PayloadBuffer(), asyncio.Event()
    try:
        match way:
            case "shown" | "told":
                ws.add_end_callback(lambda _: ended.set())
                await ended.wait()
                raise ws.connection.error()
            case "frame" | "buffer" | "consistent":
                while True:
                    origin = PayloadOrigin.CONSISTENT if way == "consistent" else PayloadOrigin.ADAPTIVE
                    over.see(await ws.read_frame(None if way == "frame" else buffer, origin))
            case "batch":
                async for batch in ws.batches():
                    over.see_batch(batch)
            case "next":
                async for message in ws:
                    over.keep(message)
        while True:
            over.keep(await ws.recv())
    except ConnectionClosed as error:
        over.end(error)


def over_blocking(over: Over, way: str) -> None:
    """A thread reads."""
    ws = BlockingWebSocket(open_channel(over.ours), over.talk.connection(), Timeouts(ping_interval=None))
    with raw.thread(lambda: read_blocking(over, ws, way)):
        over.peer.settimeout(net.LONG)
        with raw.thread(lambda: receive_all(over)):
            with contextlib.suppress(OSError):  # it has ended before
                for piece in over.pieces():
                    over.peer.sendall(piece)
                over.peer.shutdown(socket.SHUT_WR)


def receive_all(over: Over) -> None:
    with contextlib.suppress(ConnectionError):
        while data := over.peer.recv(1 << 18):
            over.outcome.sent += data


def read_blocking(over: Over, ws: BlockingWebSocket, way: str) -> None:
    buffer = PayloadBuffer()
    try:
        match way:
            case "frame" | "buffer" | "consistent":
                while True:
                    origin = PayloadOrigin.CONSISTENT if way == "consistent" else PayloadOrigin.ADAPTIVE
                    over.see(ws.read_frame(None if way == "frame" else buffer, origin))
            case "batch":
                for batch in ws.batches():
                    over.see_batch(batch)
            case "next":
                for message in ws:
                    over.keep(message)
        while True:
            over.keep(ws.recv())
    except ConnectionClosed as error:
        over.end(error)


WAYS = ("recv", "next", "frame", "buffer", "consistent", "batch", "shown", "told")


def check(seed: int, run: Callable[[Any], None] = asyncio.run) -> None:
    talk = Talk(seed)
    verdict = Model(talk.rules, talk.stream).run()
    for way in JUDGED_WAYS:
        for pieces in ([talk.stream], cuts(talk.stream, talk.rng)):
            outcome = read.run(Reading(talk.connection, talk.max_size), way, pieces, talk.rng)
            said = disagreement(verdict, outcome)
            assert not said or talk.may_look_too_far, (way, said, outcome.ending)
    way, where = talk.rng.choice(WAYS), talk.rng.choice(["engine", "transport"])
    over = Over(talk)
    run(over_asyncio(over, way, where))
    over.check(f"{where}, {way}")
    over = Over(talk)
    over_blocking(over, way)
    over.check(f"blocking, {way}")


if __name__ == "__main__":
    seeds.try_each(check)
