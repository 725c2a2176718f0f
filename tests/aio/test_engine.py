"""The engine: many connections in one crossing, and everybody gets what is theirs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import select
import socket
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import pytest
import wire
from hypothesis import given, settings
from hypothesis import strategies as st
from looks import at_look, knows_looks
from net import Place, echo, placed, request, run, soon, until
from raw import read_to_end

import zcws
from zcws import inlet as inlet_module
from zcws.aio import engine as engine_module
from zcws.aio import sending as sending_module
from zcws.aio.broadcast import broadcast
from zcws.aio.engine import IN_PARTS, engine_of, together
from zcws.aio.transport import EngineTransport
from zcws.aio.websocket import WebSocket
from zcws.deflate import DeflateParameters
from zcws.extensions import Agreement
from zcws.kernel import lib
from zcws.pool import Pool
from zcws.ring import RING_CAPACITY
from zcws.scratch import Scratch
from zcws.writer import Writer

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux", reason="the engine needs epoll; others keep their transports"
    ),
    pytest.mark.usefixtures("every_view"),
]


# ---- one crossing for many: everybody gets what is theirs, whatever the others keep ----

KEPT_MOST: int = lib.ZCWS_KEPT_MOST
KEY = b"\x11\x22\x33\x44"
FRAME = wire.frame(wire.BINARY, b"frame", key=KEY)
#: C keeps no part of such a frame: its connection does, and is served alone.
LARGE = wire.frame(wire.BINARY, bytes(KEPT_MOST), key=KEY)
#: Bytes of a message: none, a few, more than is served together, more than a ring holds.
SIZES = st.sampled_from([0, 1, 1, 9, 9, 200, 200, 200, 2_000, 2_000, 20_000, 300_000])
#: How a connection reads; see `Player`.
HABITS = ("messages", "holds views", "batches", "streams", "is busy", "callbacks")


class Player:
    """One connection of the engine that echoes what it reads, and reads in its own way."""

    def __init__(self, habit: str) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.got: list[tuple[bytes, memoryview | None]] = []
        self.ws = placed(ours, on_frame=self.seen if habit == "callbacks" else None)
        self.task = asyncio.get_running_loop().create_task(self.read(habit))

    def seen(self, ws: WebSocket, frame: zcws.Frame) -> None:
        self.got.append((frame.to_bytes(), frame.payload if len(self.got) % 2 else None))
        ws.send_nowait(frame.payload)

    async def read(self, habit: str) -> None:
        if habit == "callbacks":
            return
        if habit == "holds views":
            while True:
                self.seen(self.ws, await self.ws.read_frame())
        while habit == "streams":
            async with self.ws.stream(decode=False) as pieces:
                self.got.append((b"".join([piece async for piece in pieces]), None))
            await self.ws.send(self.got[-1][0])
        if habit == "batches":
            async for batch in self.ws.batches():
                for frame in reversed(batch):  # views of a batch may be taken in any order
                    assert frame.payload == frame.to_bytes()
                for frame in batch:
                    self.seen(self.ws, frame)
        async for message in self.ws:
            assert isinstance(message, bytes)
            self.got.append((message, None))
            if habit == "is busy":
                await asyncio.sleep(0)
            await self.ws.send(message)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.peer, data)

    async def echoes(self, size: int) -> bytes:
        loop, data = asyncio.get_running_loop(), bytearray()
        while len(data) < size:
            piece = await loop.sock_recv(self.peer, 1 << 20)
            assert piece, f"it ended after {len(data)} bytes"
            data += piece
        return bytes(data)

    def end(self) -> None:
        self.task.cancel()
        self.ws.abort()
        self.peer.close()


async def warm_up(players: list[Player]) -> None:
    """Somebody who has been served alone once, and is idle, is served together with the others from then on."""
    for player in players:
        await player.send(wire.frame(wire.BINARY, b"first", key=KEY))
    for player in players:
        assert await player.echoes(7) == wire.frame(wire.BINARY, b"first")


async def end_all(ours: Iterable[WebSocket], peers: Iterable[socket.socket]) -> None:
    for ws in ours:
        ws.abort()
    for peer in peers:
        peer.close()
    await asyncio.sleep(0)


def framed(message: bytes, *, in_two: bool) -> bytes:
    """One frame, or two fragments."""
    if not in_two:
        return wire.frame(wire.BINARY, message, key=KEY)
    half = len(message) // 2
    first = wire.frame(wire.BINARY, message[:half], key=KEY, fin=False)
    return first + wire.frame(wire.CONTINUATION, message[half:], key=KEY)


def payloads_of(number: int, sizes: list[int]) -> list[bytes]:
    return [bytes([number * 16 + i % 16]) * size for i, size in enumerate(sizes)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(HABITS), st.lists(SIZES, max_size=12)), min_size=2, max_size=6),
    st.data(),
)
def test_everybody_gets_what_is_theirs(players: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    """Many connections, cut anywhere, in any order; and views that are held do not change."""
    texts = [payloads_of(number, sizes) for number, (_, sizes) in enumerate(players)]
    in_two = data.draw(st.booleans())
    streams = [b"".join(framed(text, in_two=in_two) for text in each) for each in texts]
    cuts = [
        [*sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10))), len(stream)]
        for stream in streams
    ]
    order = data.draw(st.permutations([n for n, each in enumerate(cuts) for _ in each]))

    async def main() -> None:
        everybody = [Player(habit) for habit, _ in players]
        await warm_up(everybody)
        answers = [b"".join(wire.frame(wire.BINARY, text) for text in each) for each in texts]
        echoes = [
            asyncio.ensure_future(player.echoes(len(answer)))
            for player, answer in zip(everybody, answers, strict=True)
        ]
        at = [0] * len(everybody)
        parts = [iter(each) for each in cuts]
        for turn, number in enumerate(order):
            stop = next(parts[number])
            await everybody[number].send(streams[number][at[number] : stop])
            at[number] = stop
            if turn % 3 == 2:  # so that up to three sockets are ready at once
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        assert await asyncio.gather(*echoes) == answers
        for player, each in zip(everybody, texts, strict=True):
            assert [copy for copy, _ in player.got] == [b"first", *each]
            assert all(view is None or view == copy for copy, view in player.got)
            player.end()
        await asyncio.sleep(0)

    run(main)


def test_whoever_keeps_a_part_of_a_frame_does_not_write_over_what_another_holds() -> None:
    """His part lies before the other's frame, and is looked at after it."""

    async def main() -> None:
        parts, holder = Player("messages"), Player("holds views")
        await warm_up([parts, holder])
        long, short = (wire.frame(wire.BINARY, payload, key=KEY) for payload in (b"x" * 200, b"y"))
        await parts.send(long[:1])
        await holder.send(short)
        assert await holder.echoes(3) == wire.frame(wire.BINARY, b"y")
        await parts.send(long[1:])
        assert await parts.echoes(204) == wire.frame(wire.BINARY, b"x" * 200)
        assert holder.got[-1] == (b"y", b"y")
        for player in (parts, holder):
            player.end()

    run(main)


def test_two_that_keep_their_frames_keep_them_apart() -> None:
    """Nobody reads what arrives for both in one turn, and more arrives behind it."""

    async def main() -> None:
        ends = [socket.socketpair() for _ in range(3)]
        ours = [placed(our_end) for our_end, _ in ends]
        for ws, (_, peer) in zip(ours, ends, strict=True):
            peer.send(FRAME)
            assert await ws.recv() == b"frame"
        for number in range(9):
            for i, (_, peer) in enumerate(ends):
                peer.send(wire.frame(wire.BINARY, b"%d %d" % (i, number), key=KEY))
            await asyncio.sleep(0.001)
        for i, ws in enumerate(ours):
            assert [await ws.recv() for _ in range(9)] == [b"%d %d" % (i, number) for number in range(9)]
        await end_all(ours, [peer for _, peer in ends])

    run(main)


def test_a_turn_that_runs_out_of_room_starves_nobody() -> None:
    """More sockets at once, with more bytes and more frames, than one crossing has room for."""

    async def main() -> None:
        everybody = [Player("messages") for _ in range(40)]
        burst = [b"x" * 60_000, *([b"y"] * 900)]
        stream = b"".join(wire.frame(wire.BINARY, text, key=KEY) for text in burst)
        answer = b"".join(wire.frame(wire.BINARY, text) for text in burst)
        await warm_up(everybody)
        for player in everybody:
            await player.send(stream)
        for player in everybody:
            assert await player.echoes(len(answer)) == answer
            player.end()

    run(main)


def counting(got: list[int], room: int) -> list[tuple[socket.socket, WebSocket]]:
    """As many connections as `got` has counts of their frames; their peers can send `room` bytes at once."""
    peers = []
    for number in range(len(got)):
        ours, peer = socket.socketpair()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)

        def seen(_ws: WebSocket, _frame: zcws.Frame, number: int = number) -> None:
            got[number] += 1

        peers.append((peer, placed(ours, on_frame=seen)))
    return peers


def test_peers_that_are_always_ready_starve_nobody() -> None:
    """Whoever has been served has more to say in the next turn, and one crossing has room for two."""

    async def main() -> None:
        count = 700
        burst = wire.frame(wire.BINARY, b"x" * 140, key=KEY) * count
        got, sent = [0] * 20, [0] * 20
        peers = counting(got, 2 * len(burst))
        for _ in range(100):
            for number, (peer, _) in enumerate(peers):
                if got[number] == sent[number]:
                    peer.send(burst)
                    sent[number] += count
            await asyncio.sleep(0)
        assert min(got) > max(got) // 2 > count, got
        for peer, ws in peers:
            ws.abort()
            peer.close()

    run(main)


def test_all_that_are_ready_are_served_in_one_turn() -> None:
    """Each crossing had room for one of them, who got over 5,000 messages, and one crossing was made in a turn of the
    loop: between two, everybody's tasks handled what those had got."""

    async def main() -> None:
        burst = wire.frame(wire.BINARY, b"x", key=KEY) * 6000
        got = [0] * 20
        peers = counting(got, 4 * len(burst))
        await asyncio.sleep(0)
        for peer, _ in peers:
            peer.send(burst)
        while not any(got):
            await asyncio.sleep(0)
        assert len(set(got)) == 1 and got[0] <= 4096
        for peer, ws in peers:
            ws.abort()
            peer.close()

    run(main)


class Poor:
    def tolist(self) -> list[int]:
        raise MemoryError


@pytest.mark.parametrize("messages", [1, 2])
def test_nobody_goes_on_behind_a_gap(messages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no memory for the table of what has been received: those bytes are in no socket any more. What the third
    has sent still is, because half of its large frame is kept, and C does not receive for it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[Any] = []
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        pairs = [socket.socketpair() for _ in range(3)]
        got: list[bytes] = []
        for peer, ours in pairs:
            peer.setblocking(False)
            placed(ours, on_frame=lambda ws, frame: got.append(frame.to_bytes()))
        half = wire.frame(2, b"here too" + bytes(KEPT_MOST), key=wire.KEY)
        pairs[2][0].send(half[:20])
        await asyncio.sleep(0.01)
        with monkeypatch.context() as patched:
            engine = engine_of(loop)
            patched.setattr(engine, "_first", Poor())
            patched.setattr(engine_module, "copy_words", lambda words: Poor().tolist())
            pairs[0][0].send(wire.frame(2, b"lost", key=wire.KEY) * messages)
            if messages == 2:  # a single frame that comes alone needs another kind of memory
                pairs[2][0].send(half[20:])
            assert await soon(loop.sock_recv(pairs[0][0], 100)) == b""
        pairs[1][0].send(wire.frame(2, b"here", key=wire.KEY))
        if messages == 1:
            pairs[2][0].send(half[20:])
        await until(lambda: len(got) == 2)
        assert sorted(got) == [b"here", b"here too" + bytes(KEPT_MOST)]
        assert [type(error) for error in reported] == [MemoryError]
        for peer, _ in pairs:
            peer.close()

    run(main)


def no_memory(*_: object, **__: object) -> Any:
    raise MemoryError


def test_no_memory_for_a_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn failed, for ever: what was ready stayed so, nobody was served, and whoever had gone was not noticed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[Any] = []
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        pairs = [socket.socketpair() for _ in range(3)]
        got: list[bytes] = []
        for peer, ours in pairs:
            peer.setblocking(False)
            placed(ours, on_frame=lambda ws, frame: got.append(frame.to_bytes()))
        one, two, three = (peer for peer, _ in pairs)
        begun = wire.frame(2, b"begun" + bytes(KEPT_MOST), key=wire.KEY)
        one.send(begun[:-1])
        await until(lambda: len(engine_of(loop)._together) == 2)  # it keeps the ring
        with monkeypatch.context() as patched:
            patched.setattr(Pool, "_new_ring", no_memory)
            two.send(wire.frame(2, b"lost", key=wire.KEY))
            await until(lambda: reported)
            one.send(begun[-1:])
            await until(lambda: got)
        three.send(wire.frame(2, b"here", key=wire.KEY))
        await until(lambda: len(got) == 2)
        assert got == [b"begun" + bytes(KEPT_MOST), b"here"] and [type(error) for error in reported] == [
            MemoryError
        ]
        for peer, _ in pairs:
            peer.close()

    run(main)


async def whole_again(peer: socket.socket, got: list[bytes], count: int) -> None:
    """Messages that come whole, one by one, until nobody expects the next in parts; `count` are there before them."""
    await until(lambda: len(got) == count)
    for number in range(count, count + IN_PARTS):
        peer.send(wire.frame(2, b"whole", key=wire.KEY))
        await until(lambda number=number: len(got) > number)  # type: ignore[misc]


# ---- half of a frame stays with C ----


@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.parametrize("before", [b"", FRAME, FRAME * 3])
def test_nobody_is_served_alone_for_half_a_frame(many: int, before: bytes) -> None:
    """Every message of more than a packet comes so."""

    async def main() -> None:
        pairs = [socket.socketpair() for _ in range(many)]
        got = Counter[bytes]()
        ours = [placed(end, on_frame=lambda ws, frame: got.update([frame.to_bytes()])) for end, _ in pairs]
        engine, whole = engine_of(asyncio.get_running_loop()), len(before)
        await asyncio.sleep(0)
        for cut in (1, 2, 5, 6, 10):
            for _, peer in pairs:
                peer.send(before + FRAME[:cut])
            whole += cut
            await until(lambda whole=whole: [ws.stats.bytes_received for ws in ours] == [whole] * many)  # type: ignore[misc]
            assert len(engine._together) == many and engine._sockets.frees == lib.ZCWS_SLOTS - many
            for _, peer in pairs:
                peer.send(FRAME[cut:])
            whole += len(before + FRAME) - cut
        each = len(wire.parse(before + FRAME))
        await until(lambda: got[b"frame"] == 5 * each * many)
        assert len(engine._together) == many and engine._sockets.frees == lib.ZCWS_SLOTS
        await end_all(ours, [peer for _, peer in pairs])

    run(main)


@pytest.mark.parametrize("behind", [0, 1, 3])
@pytest.mark.parametrize("size", [5000, 60_000, KEPT_MOST - 14])
def test_nobody_is_served_alone_for_a_frame_in_many_parts(size: int, behind: int) -> None:
    """What has come of it is unmasked and checked meanwhile, where it lies."""
    text = "ï" * (size // 2)
    frame, stop = wire.frame(wire.TEXT, text.encode(), key=KEY), 0

    async def main() -> None:
        nonlocal stop
        pairs = [socket.socketpair() for _ in range(2)]
        ours = [placed(end) for end, _ in pairs]
        engine = engine_of(asyncio.get_running_loop())
        await asyncio.sleep(0)
        while stop + 1400 < len(frame):
            for _, peer in pairs:
                peer.send(frame[stop : stop + 1400])
            stop += 1400
            await until(lambda sent=stop: [ws.stats.bytes_received for ws in ours] == [sent] * 2)  # type: ignore[misc]
            assert len(engine._together) == 2
        for _, peer in pairs:
            peer.send(frame[stop:] + FRAME * behind)
        for ws in ours:
            assert [await ws.recv() for _ in range(1 + behind)] == [text] + [b"frame"] * behind
        await end_all(ours, [peer for _, peer in pairs])

    run(main)


@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize("size", [3000, 9000])
def test_a_stream_that_begins_when_more_of_a_frame_is_there(size: int, many: int) -> None:
    """C receives that before it hears of the stream."""

    async def main() -> None:
        pairs = [socket.socketpair() for _ in range(many)]
        ws, *others = [placed(end) for end, _ in pairs]
        (_, peer), payload = pairs[0], bytes(range(250)) * (size // 250)
        data = wire.frame(2, payload, key=wire.KEY)
        peer.send(data[: size // 2])
        await until(lambda: ws.stats.bytes_received == size // 2)
        peer.send(data[size // 2 : -100])
        # The socket is found to be ready before we go on, and served after that.
        await asyncio.sleep(0)
        async with ws.stream(decode=False) as pieces:
            got = [await soon(anext(pieces))]
            peer.send(data[-100:] + FRAME)
            got += [piece async for piece in pieces]
        assert b"".join(got) == payload
        assert await ws.recv() == b"frame"
        assert ws.stats.bytes_received == len(data + FRAME)
        await end_all([ws, *others], [end for _, end in pairs])

    run(main)


def test_a_bad_byte_in_a_part_ends_the_connection_before_the_frame_is_whole() -> None:
    async def main() -> None:
        ours, peer = socket.socketpair()
        ws, data = placed(ours), wire.frame(wire.TEXT, b"good" * 5000, key=wire.KEY)
        await asyncio.sleep(0)
        peer.send(data[:10_000])
        await until(lambda: ws.stats.bytes_received == 10_000)
        peer.send(bytes([data[10_000] ^ 0xFF]))
        with pytest.raises(zcws.ConnectionClosedError):
            await ws.recv()
        assert ws.close_code == zcws.CloseCode.INVALID_DATA
        await end_all([ws], [peer])

    run(main)


def test_more_who_have_said_half_a_frame_than_there_are_slots() -> None:
    async def main() -> None:
        pairs, got = [socket.socketpair() for _ in range(5)], list[bytes]()
        ours = [placed(end, on_frame=lambda ws, frame: got.append(frame.to_bytes())) for end, _ in pairs]
        engine = engine_of(asyncio.get_running_loop())
        engine._sockets.frees = 2
        for _ in range(3):
            for _, peer in pairs:
                peer.send(FRAME[:-1])
            await until(lambda: {ws.stats.bytes_received % len(FRAME) for ws in ours} == {len(FRAME) - 1})
            for _, peer in pairs:
                peer.send(FRAME[-1:])
            await until(lambda: len(got) % 5 == 0 and all(ws._reader.is_idle for ws in ours))
        assert got == [b"frame"] * 15 and engine._sockets.frees == 2
        await end_all(ours, [peer for _, peer in pairs])

    run(main)


@pytest.mark.parametrize("cut", [1, 5, 10])
@pytest.mark.parametrize("many", [1, 2])
def test_half_a_frame_behind_fragments_that_wait(cut: int, many: int) -> None:
    """They are moved together, so that their payload does not stop where the half begins; and nobody reads yet."""

    async def main() -> None:
        pairs = [socket.socketpair() for _ in range(many)]
        ours = [placed(end) for end, _ in pairs]
        fragments = wire.frame(wire.BINARY, b"two frag", key=KEY, fin=False) + wire.frame(
            0, b"ments", key=KEY
        )
        await asyncio.sleep(0)
        for _, peer in pairs:
            peer.send(fragments + FRAME[:cut])
        await until(lambda: [ws.stats.bytes_received for ws in ours] == [len(fragments) + cut] * many)
        for _, peer in pairs:
            peer.send(FRAME[cut:] + FRAME)
        for ws in ours:
            assert [await ws.recv() for _ in range(3)] == [b"two fragments", b"frame", b"frame"]
        await end_all(ours, [peer for _, peer in pairs])

    run(main)


@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize("size", [100, 3000, 60_000])
def test_half_a_frame_that_fills_the_ring(size: int, many: int) -> None:
    """It stands behind messages that nobody has read yet. There is no room for more: that is not the peer's end."""
    frame = wire.frame(wire.BINARY, bytes(size), key=KEY)
    total = 2 * RING_CAPACITY // len(frame)
    data = frame * total

    async def main() -> None:
        pairs = [socket.socketpair() for _ in range(many)]
        ours = [placed(end) for end, _ in pairs]
        await asyncio.sleep(0)
        unsent = []
        for _, peer in pairs:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * RING_CAPACITY)
            peer.setblocking(False)
            sent = peer.send(data)
            assert sent > RING_CAPACITY, "one read fills the ring"
            unsent.append(data[sent:])
            peer.setblocking(True)
        await until(lambda: all(ws.stats.bytes_received == RING_CAPACITY for ws in ours))
        await asyncio.sleep(0.01)
        assert [ws.stats.bytes_received for ws in ours] == [RING_CAPACITY] * many
        for ws, (_, peer), rest in zip(ours, pairs, unsent, strict=True):
            sending = asyncio.get_running_loop().run_in_executor(None, peer.sendall, rest)
            assert [len(await soon(ws.recv())) for _ in range(total)] == [size] * total
            await sending
        await end_all(ours, [peer for _, peer in pairs])

    run(main)


@pytest.mark.parametrize("how", ["pause", "stream", "end", "abort", "no memory"])
def test_half_a_frame_is_taken_over(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its connection, when C no longer receives for that: and nothing of it is lost."""

    async def main() -> None:
        ours, peer = socket.socketpair()
        ws = placed(ours)
        engine = engine_of(asyncio.get_running_loop())
        transport = ws._transport
        assert transport is not None
        await asyncio.sleep(0)
        peer.send(FRAME[:-1])
        await until(lambda: ws.stats.bytes_received == len(FRAME) - 1)
        assert engine._sockets.frees == lib.ZCWS_SLOTS - 1
        if how == "no memory":
            monkeypatch.setattr(inlet_module, "bytes", no_memory, raising=False)
        if how == "pause" or how == "no memory":
            transport.pause_reading()
            monkeypatch.undo()
            peer.send(FRAME[-1:] + FRAME)
            await asyncio.sleep(0.01)
            transport.resume_reading()
        if how == "pause":
            assert [await ws.recv(), await ws.recv()] == [b"frame"] * 2
        elif how == "no memory":
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                await ws.recv()
            assert caught.value.code == zcws.CloseCode.INTERNAL_ERROR
        elif how == "stream":
            async with ws.stream(decode=False) as pieces:
                assert await soon(anext(pieces)) == b"fram"
                peer.send(FRAME[-1:] + FRAME)
                assert [piece async for piece in pieces] == [b"e"]
            assert await ws.recv() == b"frame"
        elif how == "end":
            peer.close()
            with pytest.raises(zcws.ConnectionClosedError):
                await ws.recv()
            assert ws.close_code == 1006
        ws.abort()
        assert engine._sockets.frees == lib.ZCWS_SLOTS
        counted = {"pause": 2 * len(FRAME), "stream": 2 * len(FRAME), "no memory": 0}
        assert ws.stats.bytes_received == counted.get(how, len(FRAME) - 1)
        await end_all([], [peer])

    run(main)


def test_whose_large_messages_come_in_parts_is_served_alone() -> None:
    """To change between the two for each message cost more than the receives."""

    async def main() -> None:
        peer, ours = socket.socketpair()
        got: list[bytes] = []
        ws = placed(ours, on_frame=lambda ws, frame: got.append(frame.to_bytes()))
        engine, frame = engine_of(asyncio.get_running_loop()), wire.frame(2, bytes(KEPT_MOST), key=wire.KEY)
        await asyncio.sleep(0)
        assert engine._together
        for number in range(1, 3 * IN_PARTS):
            peer.send(frame[:20])
            await until(lambda number=number: ws.stats.bytes_received == (number - 1) * len(frame) + 20)  # type: ignore[misc]
            peer.send(frame[20:])
            await until(lambda number=number: len(got) == number)  # type: ignore[misc]
            assert not engine._together
        await whole_again(peer, got, len(got))
        assert engine._together
        peer.close()

    run(main)


def test_no_memory_for_the_ring_of_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes land in the ring that there is."""

    async def main() -> None:
        peer, ours = socket.socketpair()
        got: list[bytes] = []
        placed(ours, on_frame=lambda ws, frame: got.append(frame.to_bytes()))
        engine = engine_of(asyncio.get_running_loop())
        first = wire.frame(2, b"first" + bytes(KEPT_MOST), key=wire.KEY)
        peer.send(first[:-1])
        await until(lambda: not engine._together)  # it keeps the ring
        peer.send(first[-1:])
        await whole_again(peer, got, 1)
        assert engine._together
        count = len(got)
        with monkeypatch.context() as patched:
            patched.setattr(Pool, "lease", no_memory)
            peer.send(wire.frame(2, b"last", key=wire.KEY))
            await until(lambda: len(got) > count)
        assert got[0] == b"first" + bytes(KEPT_MOST) and got[-1] == b"last"
        peer.close()

    run(main)


@pytest.mark.parametrize("methods", [("get_buffer", "arrived", "scanned"), ("arrived", "scanned")])
def test_one_that_has_no_memory_for_what_it_receives_ends_alone(
    methods: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to end the turn: the others, ready as well, went without, and the next turn began with it again."""

    async def main() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context["exception"])
        )
        poor: list[WebSocket] = []

        def failing(real: Any) -> Any:
            def fails(self: WebSocket, *args: Any) -> Any:
                if self in poor:
                    raise MemoryError
                return real(self, *args)

            return fails

        async with zcws.serve(echo, "127.0.0.1", 0) as server:
            uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            clients = [await zcws.connect(uri, proxy=None) for _ in range(8)]
            message = bytes(100_000) if "get_buffer" in methods else b"small"
            for method in methods:
                monkeypatch.setattr(WebSocket, method, failing(getattr(WebSocket, method)))
            for ws in clients:
                await ws.send("hello")
                assert await ws.recv() == "hello"
            poor += list(server.connections)[:4]
            for ws in clients:
                await ws.send(message)
            answers = await asyncio.gather(*(ws.recv() for ws in clients), return_exceptions=True)
            assert sum(answer == message for answer in answers) == 4
            assert sum(isinstance(answer, zcws.ConnectionClosedError) for answer in answers) == 4
            assert [type(error) for error in reported] == [MemoryError] * 4
            for ws in clients:
                await ws.close()

    run(main)


@pytest.mark.parametrize("word", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("size", [10, 3000])
def test_one_that_ends_the_loop_takes_nothing_from_those_behind_it(
    word: type[BaseException], size: int
) -> None:
    """What C has received for them in the same turn was nobody's any more."""
    received: dict[str, list[str]] = {}

    async def collect(ws: WebSocket) -> None:
        async for message in ws:
            received.setdefault(ws.request.path, []).append(message)  # type: ignore[union-attr, arg-type]
            if message == "end":
                raise word

    async def start() -> tuple[Any, list[Any]]:
        server = await zcws.serve(collect, "127.0.0.1", 0, compression=None)
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        clients = [await zcws.connect(f"{uri}/{i}", proxy=None, compression=None) for i in range(6)]
        for ws in clients:
            await ws.send("warm")
        await until(lambda: sum(map(len, received.values())) == 6)
        return server, clients

    async def end_one() -> None:
        for i, ws in enumerate(clients):
            message = "x" * size + str(i)
            ws.send_nowait(message if i else "end")
            if i % 2:
                ws.send_nowait("and another")
            await ws.flush()
        await asyncio.sleep(10)

    async def go_on() -> None:
        for ws in clients[1:]:
            await ws.send("behind")
        await until(lambda: all(received[f"/{i}"][-1] == "behind" for i in range(1, 6)))
        clients[0].abort()
        await asyncio.gather(*(ws.close() for ws in clients))
        server.close()
        await server.wait_closed()

    loop = asyncio.new_event_loop()
    try:
        server, clients = loop.run_until_complete(start())
        with pytest.raises(word):
            loop.run_until_complete(end_one())
        loop.run_until_complete(go_on())
    finally:
        loop.close()
    for i in range(1, 6):
        others = ["and another"] if i % 2 else []
        assert received[f"/{i}"] == ["warm", "x" * size + str(i), *others, "behind"]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("method", "before", "data"),
    [
        ("arrived", FRAME, FRAME),
        ("scanned", FRAME, FRAME * 2),
        ("read_ready", FRAME + LARGE[:20], LARGE[20:]),
    ],
)
def test_a_signal_that_ends_the_loop_is_not_lost(
    method: str, before: bytes, data: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handler raises between two lines of ours. Who was being served ends, and the others get what is theirs."""
    ours, peers, got, stopped = list[WebSocket](), list[socket.socket](), Counter[WebSocket](), list[Any]()
    kind: Any = EngineTransport if method == "read_ready" else WebSocket
    real = getattr(kind, method)

    def seen(ws: WebSocket, _frame: zcws.Frame) -> None:
        got[ws] += 1

    def served(self: Any, *args: Any) -> Any:
        result = real(self, *args)
        if not stopped:
            stopped.append(self)
            raise KeyboardInterrupt
        return result

    async def send(data: bytes) -> None:
        for peer in peers:
            peer.send(data)
        await asyncio.sleep(0.01)

    async def start() -> None:
        for _ in range(size):
            our_end, peer = socket.socketpair()
            peers.append(peer)
            ours.append(placed(our_end, on_frame=seen))
        await send(before)
        await until(lambda: got.total() == size)

    async def go_on() -> None:
        (broken,) = (
            ws for ws, transport in zip(ours, transports, strict=True) if stopped[0] in (ws, transport)
        )
        await until(lambda: broken.state is not zcws.State.OPEN)
        assert read_to_end(peers[ours.index(broken)]) == b""
        others = [ws for ws in ours if ws is not broken]
        for ws in others:
            peers[ours.index(ws)].send(FRAME)
        each = len(wire.parse(before + data + FRAME))
        await until(lambda: [got[ws] for ws in others] == [each] * len(others))
        await end_all(ours, peers)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(start())
        transports = [ws._transport for ws in ours]
        monkeypatch.setattr(kind, method, served)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(send(data))
        loop.run_until_complete(go_on())
    finally:
        loop.close()


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("habit", HABITS)
def test_half_a_frame_beside_room_to_write(habit: str, others: int) -> None:
    """A socket that is ready for both reads for itself; what it keeps of a frame, the next crossing goes on behind.

    It used to stay with those that C receives for, and C read the other half as if it stood alone.
    """
    texts = [b"%d " % number * 3000 for number in range(3)]
    stream = b"".join(wire.frame(wire.BINARY, text, key=KEY) for text in texts)
    answer = b"".join(wire.frame(wire.BINARY, text) for text in texts)
    large = bytes(4_000_000)

    async def main() -> None:
        everybody = [Player(habit) for _ in range(1 + others)]
        await warm_up(everybody)
        player = everybody[0]
        player.ws.send_nowait(large)
        await until(lambda: player.ws._transport.get_write_buffer_size())
        # Both in one turn of the loop: there is room again, and there is half a frame.
        player.peer.setblocking(False)
        head = player.peer.recv(1 << 20)
        player.peer.sendall(stream[:100])
        echoes = asyncio.ensure_future(
            player.echoes(len(wire.frame(wire.BINARY, large)) - len(head) + len(answer))
        )
        await until(lambda: not player.ws._transport.get_write_buffer_size())
        for start in range(100, len(stream), 100):
            await player.send(stream[start : start + 100])
            await asyncio.sleep(0)
        assert (await echoes).endswith(answer)
        for player in everybody:
            player.end()
        await asyncio.sleep(0)

    run(main)


def test_what_was_flushed_is_out_even_where_many_are_served_together() -> None:
    """`flush` hands over; what is aborted right after it in the same turn loses nothing of that."""

    async def leave(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)
            await ws.flush()
            if message == "last":
                ws.abort()

    async def main() -> None:
        async with zcws.serve(leave, "127.0.0.1", 0) as server:
            uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            clients = [await zcws.connect(uri, proxy=None) for _ in range(8)]
            for message in ("first", "last"):
                for ws in clients:
                    ws.send_nowait(message)
                assert await asyncio.gather(*(ws.recv() for ws in clients)) == [message] * 8
            await asyncio.gather(*(ws.close() for ws in clients))

    run(main)


def test_nothing_is_sent_behind_what_an_abort_has_dropped() -> None:
    """What waited for a slow peer is lost then; what is written in the same turn must not stand behind the gap."""
    large = bytes(range(256)) * 20_000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        others = [Player("messages") for _ in range(3)]
        await warm_up(others)
        ours, peer = socket.socketpair()
        peer.setblocking(False)
        ws = placed(ours)

        async def leave() -> bytes:
            await ws.recv()
            got = peer.recv(1 << 24)  # there is room again
            ws.send_nowait(b"with the abort")
            ws.abort()
            with pytest.raises(zcws.ConnectionClosed):
                ws.send_nowait(b"behind the abort")
            return got

        leaving = loop.create_task(leave())
        ws.send_nowait(large)
        await until(lambda: not ws.is_writable)
        for end in (peer, *(player.peer for player in others)):  # all in one turn
            end.send(wire.frame(wire.BINARY, b"now", key=KEY))
        got = await leaving
        await ws.wait_closed()
        while data := await loop.sock_recv(peer, 1 << 20):
            got += data
        peer.close()
        assert wire.frame(wire.BINARY, large).startswith(got)
        for player in others:
            assert await player.echoes(5) == wire.frame(wire.BINARY, b"now")
            player.end()
        await asyncio.sleep(0)

    run(main)


def test_what_was_written_to_one_that_ends_in_the_same_turn_reaches_nobody_else() -> None:
    """Its descriptor is free again before the turn ends, and the next socket that is made gets it."""
    pairs: list[tuple[socket.socket, socket.socket]] = []
    server: Any = None

    async def handler(ws: WebSocket) -> None:
        async for _ in ws:
            zcws.broadcast([other for other in server.connections if other is not ws], "not for you")

    async def main() -> None:
        nonlocal server
        async with zcws.serve(handler, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            loop = asyncio.get_running_loop()
            peers = []
            for _ in range(2):
                peer = socket.create_connection(address)
                peer.setblocking(False)
                peer.sendall(request())
                await loop.sock_recv(peer, 4096)
                peer.sendall(wire.frame(wire.PING, b"", key=KEY))
                await loop.sock_recv(peer, 4096)
                peers.append(peer)
            for ws in server.connections:
                ws.add_end_callback(lambda _: pairs.extend(socket.socketpair() for _ in range(8)))
            peers[0].sendall(wire.frame(wire.TEXT, b"now", key=KEY))
            peers[1].shutdown(socket.SHUT_WR)
            await until(lambda: pairs)
            await asyncio.sleep(0.01)
            for end in [end for pair in pairs[:8] for end in pair]:
                end.setblocking(False)
                with pytest.raises(BlockingIOError):
                    end.recv(100)
            for peer in peers:
                peer.close()
        for end in [end for pair in pairs for end in pair]:
            end.close()

    run(main)


@pytest.mark.parametrize("frames", [1, 2])
def test_what_came_for_one_that_ends_in_the_same_turn_reaches_nobody_else(frames: int) -> None:
    """While a function is shown a frame another connection ends, and the next one gets its descriptor."""
    got = Counter[WebSocket]()
    fresh = list[tuple[WebSocket, socket.socket]]()

    def seen(ws: WebSocket, _frame: zcws.Frame) -> None:
        got[ws] += 1
        if got[ws] == 2 and not fresh:
            (other,) = (each for each in ours if each is not ws)
            transport: Any = other._transport
            fd = transport.fd
            our_end, peer = socket.socketpair()
            transport._end(None)
            os.dup2(our_end.fileno(), fd)
            our_end.close()
            fresh.append((placed(socket.socket(fileno=fd), on_frame=seen), peer))

    async def main() -> None:
        ends = [socket.socketpair() for _ in range(2)]
        ours.extend(placed(our_end, on_frame=seen) for our_end, _ in ends)
        for size in (1, frames):
            for _, peer in ends:
                peer.send(FRAME * size)
            await until(lambda: got.total() >= 2)
        await until(lambda: fresh)
        await asyncio.sleep(0.01)
        ((ws, peer),) = fresh
        assert got[ws] == 0
        for total in (1, 2):
            peer.send(FRAME)
            await until(lambda total=total: got[ws] == total)
        await end_all([*ours, ws], [*(peer for _, peer in ends), peer])

    ours = list[WebSocket]()
    run(main)


@pytest.mark.parametrize("is_same", [False, True])
def test_sockets_that_take_little_or_nothing_keep_nothing_from_those_behind_them(
    is_same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they get the rest when they take it. The first and the third are full, the fourth takes a part, and the last
    but one is broken. What several of them are given is copied once. Nobody is told before all have been sent to: it
    could close another socket, and a new one be given its number."""
    joined: list[Any] = []
    is_last_served: list[bool] = []

    def join(parts: Any) -> bytes:
        joined.extend(parts)
        return b"".join(parts)

    async def main() -> None:
        pairs = [socket.socketpair() for _ in range(6)]
        connections = [placed(ours) for ours, _ in pairs]
        junk = [0] * len(pairs)
        for number in (0, 2, 3):
            ours, peer = pairs[number]
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5_000)
            with pytest.raises(BlockingIOError):
                while True:
                    junk[number] += ours.send(b"j" * 100)
            if number == 3:
                junk[number] -= len(peer.recv(junk[number] // 2))
        pairs[4][1].close()
        frames = [wire.frame(wire.BINARY, bytes([number]) * (7_000 + number)) for number in range(6)]
        if is_same:
            frames = frames[:2] * 3  # by turns
        monkeypatch.setattr(engine_module, "_join", join)
        sent_together = EngineTransport.sent_together

        def told(transport: EngineTransport, data: Any, sent: int) -> None:
            is_last_served.append(bool(select.select([pairs[5][1]], [], [], 0)[0]))
            sent_together(transport, data, sent)

        monkeypatch.setattr(EngineTransport, "sent_together", told)
        with together(asyncio.get_running_loop()):
            for number, ws in enumerate(connections):
                ws.writer.write_framed(frames[number])
                ws._own.send_output()  # type: ignore[union-attr]
        assert len(joined) == len(set(map(id, frames)))
        assert is_last_served == [True] * 4
        waiting = [ws._own.backlog_size for ws in connections]  # type: ignore[union-attr]
        assert waiting[:3] + waiting[4:] == [len(frames[0]), 0, len(frames[2]), 0, 0]
        assert 0 < waiting[3] < len(frames[3])
        with pytest.raises(zcws.ConnectionClosed):
            connections[4].send_nowait(b"more")
        for number in (5, 3, 2, 1, 0):
            peer = pairs[number][1]
            peer.setblocking(False)
            data = b""
            while len(data) < junk[number] + len(frames[number]):
                data += await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
            assert data[junk[number] :] == frames[number]
        for ws in connections:
            ws.abort()
        for _, peer in pairs:
            peer.close()

    run(main)


class TestNoMemoryToSend:
    """What C is to send for many in one crossing. It used to vanish, and their connections went on without it."""

    def run(self, ended: set[int], payloads: list[bytes], error: MemoryError | None, patch: Any) -> None:
        """Three are sent each of `payloads` at once. Those that have `ended` get no answer; the others do."""
        reported: list[Any] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
            everybody = [Player("messages") for _ in range(3)]
            await warm_up(everybody)
            patch(everybody)
            for player in everybody:
                await player.send(b"".join(wire.frame(wire.BINARY, each, key=KEY) for each in payloads))
            answer = b"".join(wire.frame(wire.BINARY, each) for each in payloads)
            for number, player in enumerate(everybody):
                if number in ended:
                    assert await loop.sock_recv(player.peer, 100) == b""
                else:
                    assert await player.echoes(len(answer)) == answer
                player.end()
            await asyncio.sleep(0)

        run(main)
        assert set(reported) == ({error} if error else set())

    @pytest.mark.parametrize("step", ["_join", "map"])
    def test_for_the_join_or_the_sizes(self, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []

        def fails(*what: Any) -> bytes:
            asked.append(len(what[-1]))
            raise MemoryError

        self.run(
            set(), [b"now"], None, lambda _: monkeypatch.setattr(engine_module, step, fails, raising=False)
        )
        assert asked == [3]

    def test_for_what_one_has_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first has given away what it wrote, and the last has not been asked yet: nobody knows of all of them."""
        error = MemoryError()

        def fails(writer: Any) -> bytes:
            raise error

        self.run(
            {0, 1, 2}, [b"one", b"two"], error, lambda _: monkeypatch.setattr(Writer, "take_whole", fails)
        )

    def test_for_what_one_socket_has_not_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        error = MemoryError()

        def patch(everybody: list[Player]) -> None:
            def join(parts: Any) -> bytes:
                raise MemoryError

            def sent(transport: Any, data: bytes, count: int) -> None:
                if transport is everybody[0].ws._transport:
                    raise error
                real(transport, data, count)

            real = EngineTransport.sent_together
            monkeypatch.setattr("zcws.aio.engine._join", join)
            monkeypatch.setattr(EngineTransport, "sent_together", sent)

        self.run({0}, [b"now"], error, patch)


def test_a_task_that_reads_two_connections_takes_nothing_from_a_third() -> None:
    """One of them kept the ring that all had been received into, and the other's task read it empty in the same walk:
    the ring was given to whoever came next, with bytes of others in it."""

    async def main() -> None:
        got: dict[str, list[str | bytes]] = {name: [] for name in "XABCD"}
        conns: dict[str, WebSocket] = {}
        over = asyncio.Event()

        async def handler(ws: WebSocket) -> None:
            name = str(await ws.recv())
            conns[name] = ws
            if name == "A":
                await over.wait()  # B's task reads it
            async for message in ws:
                got[name].append(message)
                if name == "B" and message != "warm":
                    got["A"] += [await conns["A"].recv(), await conns["A"].recv()]

        async with zcws.serve(handler, "127.0.0.1", 0, compression=None) as server:
            address = server.sockets[0].getsockname()
            peers = {}
            for name in "XABCD":
                peers[name] = sock = socket.create_connection(address)
                sock.sendall(request())
                await until(lambda: len(server.connections) == len(peers))
                sock.sendall(wire.frame(wire.TEXT, name.encode(), key=KEY))
                await until(lambda name=name: name in conns)
            for name in "XBCD":
                peers[name].sendall(wire.frame(wire.TEXT, b"warm", key=KEY))
                await until(lambda name=name: got[name] == ["warm"])
            # All of them are ready in one turn.
            peers["X"].sendall(b"".join(wire.frame(wire.TEXT, text * 20, key=KEY) for text in (b"x", b"y")))
            for name in "ABCD":
                peers[name].sendall(wire.frame(wire.TEXT, name.encode() * 40, key=KEY))
            await until(lambda: len(got["D"]) == 2 and len(got["X"]) == 3)
            assert got["X"][1:] == ["x" * 20, "y" * 20]
            peers["A"].sendall(wire.frame(wire.TEXT, b"A" * 40, key=KEY))
            await until(lambda: len(got["A"]) == 2)
            assert [got[name][-1] for name in "ABCD"] == [name * 40 for name in "ABCD"]
            over.set()
            for sock in peers.values():
                sock.close()

    run(main)


def test_the_end_of_the_only_one_is_seen_behind_its_bytes(anyloop: Place) -> None:
    """uvloop says once that a socket has an error, and never looks again: the bytes were read, and the reset behind
    them was not."""

    async def main() -> None:
        ours, peer = socket.socketpair()
        ws = placed(ours)
        await asyncio.sleep(0)
        ws.send_nowait("not read")
        await ws.flush()
        peer.send(wire.frame(wire.TEXT, b"last", key=KEY))
        peer.close()  # with something unread: a reset
        assert await asyncio.wait_for(ws.recv(), 10) == "last"
        with pytest.raises(zcws.ConnectionClosedError):
            await asyncio.wait_for(ws.recv(), 10)

    anyloop.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_loop_that_a_child_process_inherits_has_another_engine_there() -> None:
    """The epoll of its parent's is shared with that."""
    loop = asyncio.new_event_loop()
    try:
        engine = engine_of(loop)
        child = os.fork()
        if child == 0:
            there = engine_of(loop)
            os._exit(0 if there is not engine and not engine._transports and engine_of(loop) is there else 1)
        assert engine_of(loop) is engine
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        loop.close()


def test_a_closed_loop_keeps_no_epoll_open() -> None:
    """Its engine goes with it. On PyPy that is late: 800 loops, one after the other, had up to 178 descriptors open."""

    async def main() -> None:
        ours, peer = socket.socketpair()
        ws = placed(ours)
        await asyncio.sleep(0)
        ws.abort()
        peer.close()

    loops = [asyncio.new_event_loop() for _ in range(5)]
    epolls = []
    for loop in loops:
        loop.run_until_complete(main())
        epolls.append(engine_of(loop)._epoll)
        loop.close()
    assert [epoll.closed for epoll in epolls] == [True] * 4 + [False]  # the next engine closes the last


class _Sends:
    """Garbage that sends when the collector comes."""

    def __init__(self, ws: WebSocket) -> None:
        self.me, self.ws = self, ws

    def __del__(self) -> None:
        self.ws.send_nowait(b"late" * 10_000)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="the collector comes when it likes")
@pytest.mark.parametrize("step", ["collect", "_join"])
def test_what_a_finalizer_sends_does_not_overtake_what_is_on_its_way(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went out first; where the socket took a part of it, what had been taken came in the middle of its frame."""
    original = getattr(engine_module, step)

    def make_lists(*arguments: Any) -> Any:
        result = original(*arguments)
        assert len([[] for _ in range(10_000)]) == 10_000  # the collector comes
        return result

    async def main() -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        connections = [placed(ours) for ours, _ in pairs]
        await asyncio.sleep(0)
        monkeypatch.setattr(engine_module, step, make_lists)
        with together(asyncio.get_running_loop()):
            for ws in connections:
                ws.send_nowait(b"first")
                ws._own.send_output()  # type: ignore[union-attr]
            _Sends(connections[0])
        monkeypatch.undo()
        gc.collect()
        await connections[0].flush()
        peer = pairs[0][1]
        assert peer.recv(7) == wire.frame(wire.BINARY, b"first")
        for ws in connections:
            ws.abort()
        for _, peer in pairs:
            peer.close()

    gc.collect()
    run(main)


def test_what_a_finalizer_sends_is_not_cut_by_what_was_taken_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket had a part of it when what had been taken came in between, where the peer had read meanwhile."""
    original, late = sending_module.joined, b"late" * 500_000

    async def main() -> None:
        ours, peer = socket.socketpair()
        ws, seen = placed(ours), b""
        await asyncio.sleep(0)

        def joined(segments: list[Any], has_large: bool) -> Any:
            nonlocal seen
            monkeypatch.undo()
            ws.send_nowait(late)  # the collector has come
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                seen += peer.recv(1_000_000)
            return original(segments, has_large)

        monkeypatch.setattr(sending_module, "joined", joined)
        for _ in range(2):
            ws.send_nowait(b"first")
        ws._own.send_output()  # type: ignore[union-attr]
        while len(seen) < len(late) + 24:
            seen += await asyncio.get_running_loop().sock_recv(peer, 1_000_000)
        assert [frame.payload for frame in wire.parse(seen)] == [b"first", b"first", late]
        ws.abort()
        peer.close()

    run(main)


@pytest.mark.parametrize(
    ("is_client", "step"),
    [(False, "behind"), (True, "unsent"), (True, "behind")],
    ids=["lent", "masked", "again"],
)
@pytest.mark.parametrize("message", [bytes(3 << 20), bytearray(3 << 20)], ids=["bytes", "bytearray"])
def test_what_a_finalizer_sends_stands_behind_what_has_been_sent_in_part(
    is_client: bool, step: str, message: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the answer of the socket and the moment in which the rest is kept it went out at once, inside of it."""
    where: Any = Scratch if step == "unsent" else sending_module
    original = getattr(where, step)
    pending: list[WebSocket] = []

    def send_first(*arguments: Any) -> Any:
        if pending:
            room = socket.socket(fileno=os.dup(peers[0].fileno()))
            with room:
                read.append(room.recv(1 << 16))  # so that the socket would take something
            pending.pop().send_nowait(b"late" * 50_000)
        return original(*arguments)

    read: list[bytes] = []
    peers: list[socket.socket] = []

    async def main() -> None:
        ours, peer = socket.socketpair()
        peers.append(peer)
        ws = placed(ours, is_client=is_client)
        await asyncio.sleep(0)
        pending.append(ws)
        monkeypatch.setattr(where, step, send_first)
        ws.send_nowait(message)
        monkeypatch.undo()
        assert not pending
        reading = asyncio.get_running_loop().run_in_executor(None, read_to_end, peer)
        await ws.flush()
        await until(lambda: ws._bytes_waiting() == 0)
        ws.abort()
        frames = wire.parse(b"".join(read) + await soon(reading))
        assert [(frame.payload[:4], len(frame.payload)) for frame in frames] == [
            (bytes(4), 3 << 20),
            (b"late", 200_000),
        ]
        peer.close()

    run(main)


# ---- a signal handler sends in the middle of what others send ----

#: What it sends: more than fits the cork, so it would go out at once. Its end is what the next message refers to.
INTERRUPTING = random.Random(1).randbytes(100_000) + b"the words that come again " * 400


class Interrupted:
    """Two connections of the engine, and what was sent on each. A signal handler sends on the first."""

    def __init__(self, deflate: DeflateParameters | None) -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        for ours, _ in pairs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        agreement = Agreement(deflate=deflate)
        self.connections = [placed(ours, agreement=agreement, on_frame=self.echo) for ours, _ in pairs]
        self.peers = [peer for _, peer in pairs]
        self.sent: list[list[bytes]] = [[], []]

    def send(self, i: int, message: bytes) -> None:
        self.connections[i].send_nowait(message)
        self.sent[i].append(message)

    def echo(self, ws: WebSocket, frame: zcws.Frame) -> None:
        self.send(self.connections.index(ws), frame.to_bytes())

    def broadcast(self, message: bytes) -> None:
        broadcast(self.connections, message)
        for sent in self.sent:
            sent.append(message)

    def received(self, i: int) -> list[bytes]:
        peer = self.peers[i]
        peer.setblocking(False)
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := peer.recv(1 << 20):
                data += more
        inflater = zlib.decompressobj(-15)
        return [
            inflater.decompress(frame.payload + b"\x00\x00\xff\xff") if frame.rsv else frame.payload
            for frame in wire.parse(data)  # whole frames, and nothing else
        ]

    def close(self) -> None:
        for ws, peer in zip(self.connections, self.peers, strict=True):
            ws.abort()
            peer.close()


WORDS = b"words that come again, the words that come again "


def sends_one(two: Interrupted) -> None:
    two.send(0, WORDS * 9)


def sends_several(two: Interrupted) -> None:
    for message in (WORDS * 9, b"small", b"large " * 4_000, b"small too"):
        two.send(0, message)


def sends_behind_another(two: Interrupted) -> None:
    two.send(0, b"small")
    two.send(0, bytearray(b"large " * 4_000))


def broadcasts(two: Interrupted) -> None:
    two.broadcast(WORDS * 9)


def answers(two: Interrupted) -> None:
    """In one crossing, for each socket; the second time with a broadcast in it, and something large."""
    for i, peer in enumerate(two.peers):
        peer.send(wire.frame(wire.BINARY, bytes([i]) + WORDS * 9, key=KEY))
    two.peers[0].send(wire.frame(wire.BINARY, WORDS * 400, key=KEY))


@knows_looks
@pytest.mark.parametrize("deflate", [None, DeflateParameters()], ids=["plain", "deflate"])
@pytest.mark.parametrize("act", [sends_one, sends_several, sends_behind_another, broadcasts, answers])
def test_what_a_signal_handler_sends_overtakes_nothing(
    act: Callable[[Interrupted], None], deflate: DeflateParameters | None
) -> None:
    """What had been taken from the writer and was not out yet. A compressed message that overtook another, or that a
    broadcast overtook, was in the peer's window at another place than in ours: the next one was read as other bytes."""

    async def interrupted_at(number: int) -> bool:
        two = Interrupted(deflate)
        await asyncio.sleep(0)
        with at_look(number, lambda: two.send(0, INTERRUPTING)) as fired:
            act(two)
            for _ in range(4):
                await asyncio.sleep(0)
        two.send(0, INTERRUPTING[-10_000:])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        received, sent = two.received(0), two.sent[0]
        if fired:
            # The message in the middle of which it came may stand before the handler's, or behind it.
            assert received[: sent.index(INTERRUPTING)] == sent[: sent.index(INTERRUPTING)]
            received.remove(INTERRUPTING)
            sent.remove(INTERRUPTING)
        assert received == sent
        assert two.received(1) == two.sent[1]
        two.close()
        return bool(fired)

    async def main() -> None:
        # `soon` limits each moment, not their sum: there are two hundred, and the machine may be busy.
        for number in count(1):
            if not await soon(interrupted_at(number)):
                return

    asyncio.run(main())


@pytest.mark.parametrize("end", ["close", "write_eof"])
def test_an_end_that_a_signal_handler_wants_in_the_middle_of_a_crossing(end: str) -> None:
    """What has been taken for it, and what the handler has written, goes out first."""

    async def main() -> None:
        ours, peer = socket.socketpair()
        ws, engine = placed(ours), engine_of(asyncio.get_running_loop())
        await asyncio.sleep(0)
        engine.is_sending = True
        ws.send_nowait(b"last")
        await asyncio.sleep(0)
        getattr(ws._own, end)()
        engine.end_walk()
        assert await soon(asyncio.to_thread(read_to_end, peer)) == wire.frame(wire.BINARY, b"last")
        ws.abort()
        peer.close()

    run(main)


# ---- an answer that is there before the loop could sleep ----


class Again:
    """Connections of the engine that answer what they read, and what `zcws_turn_again` is asked meanwhile."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, act: Callable[[WebSocket], object], size: int = 1
    ) -> None:
        self.act, self.calls, self.got = act, 0, 0
        self.comes_next: list[socket.socket] = []  # whose bytes arrive before the next call
        self.peers, self.ours = list[socket.socket](), list[WebSocket]()
        for _ in range(size):
            ours, peer = socket.socketpair()
            self.peers.append(peer)
            self.ours.append(placed(ours, on_frame=self.seen))
        self.engine = engine_of(asyncio.get_running_loop())
        monkeypatch.setattr(engine_module, "_serve_again", self.call)
        self.real = engine_module.lib.zcws_turn_again

    def seen(self, ws: WebSocket, frame: zcws.Frame) -> None:
        self.got += 1
        self.act(ws)

    def call(self, sockets: Any) -> int:
        self.calls += 1
        while self.comes_next:
            self.comes_next.pop().send(FRAME)
        return self.real(sockets)  # type: ignore[no-any-return]

    async def turn(self) -> None:
        """All peers say something, and what comes of that is over."""
        got = self.got
        self.engine._sockets.waits.lost = 0  # the machine may be busy
        for peer in self.peers:
            peer.send(FRAME)
        await until(lambda: self.got >= got + len(self.peers))
        await asyncio.sleep(0.01)

    async def end(self) -> None:
        await end_all(self.ours, self.peers)


def answer(ws: WebSocket) -> None:
    ws.send_nowait(b"answer")


@pytest.mark.parametrize("size", [1, 3])
def test_after_an_answer_the_next_message_is_tried_for(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        again = Again(monkeypatch, answer, size)
        again.comes_next = again.peers[:1]
        await again.turn()
        assert again.got == size + 1 and again.calls >= 1
        for peer in again.peers:
            assert peer.recv(100)
        await again.end()

    run(main)


def test_an_answer_that_comes_later_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a task that has been given the message."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        again = Again(monkeypatch, lambda ws: loop.call_later(0.001, answer, ws))
        await again.turn()
        await until(lambda: again.calls)
        assert again.peers[0].recv(100) and again.calls == 1
        await again.end()

    run(main)


def test_whoever_has_answered_nothing_expects_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends without being asked, or is only told something."""

    async def main() -> None:
        again = Again(monkeypatch, lambda ws: None)
        for ws in again.ours * 3:
            answer(ws)
            await ws.flush()
        await again.turn()
        assert again.peers[0].recv(100) and again.calls == 0
        for ws in again.ours * 3:
            answer(ws)
            await ws.flush()
        await asyncio.sleep(0.01)
        assert again.calls == 1
        await again.end()

    run(main)


def test_no_memory_to_expect_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes out all the same."""

    async def main() -> None:
        again = Again(monkeypatch, answer)
        with monkeypatch.context() as patched:
            patched.setattr(again.engine, "loop", no_memory)
            await again.turn()
        assert again.peers[0].recv(100) and again.calls == 0
        await again.turn()
        assert again.peers[0].recv(100) and again.calls == 1
        await again.end()

    run(main)


def test_who_does_not_poll_expects_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        again = Again(monkeypatch, answer)
        for _ in range(3):
            await again.turn()
            assert again.peers[0].recv(100)
        assert again.calls == 0
        await again.end()

    monkeypatch.setenv("ZCWS_POLL", "0")
    run(main)


def test_others_run_before_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop, ran = asyncio.get_running_loop(), list[int]()

        def act(ws: WebSocket) -> None:
            loop.call_soon(lambda: ran.append(again.calls))
            answer(ws)

        again = Again(monkeypatch, act)
        await again.turn()
        assert ran == [0] and again.calls == 1
        await again.end()

    run(main)


def test_where_trying_was_of_no_use_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """In vain; or for what was there already, so that the loop would not have slept."""

    async def main() -> None:
        again, calls = Again(monkeypatch, answer), list[int]()
        for _ in range(7):
            await again.turn()
            calls.append(again.calls)
        assert calls == [1, 1, 2, 2, 2, 2, 3]  # behind 1 turn, and behind 3 more
        assert again.engine._resting == 7
        again.engine._resting, again.comes_next = 0, again.peers[:]
        await again.turn()
        assert again.got == 9 and again.engine._resting == 14
        await again.end()

    run(main)


#: A peer that answers at once.
PEER = """
import socket, sys
sock, frame = socket.socket(fileno=int(sys.argv[1])), bytes.fromhex(sys.argv[2])
sock.setblocking(False)
sock.send(frame)
while True:
    try:
        if not sock.recv(100):
            break
        sock.send(frame)
    except BlockingIOError:
        pass
"""


@pytest.mark.skipif(
    sys.platform == "linux" and len(os.sched_getaffinity(0)) < 2, reason="the peer has to run meanwhile"
)
def test_trying_is_of_use() -> None:
    """How soon the system lets the peer run is not known: each answer is another try."""

    async def main() -> None:
        def seen(ws: WebSocket, _frame: zcws.Frame) -> None:
            waits = engine._sockets.waits
            learnt.add(waits.rest)
            waits.rest, waits.lost, engine._resting = 63, 0, 0
            answer(ws)

        learnt = set[int]()
        ours, peer = socket.socketpair()
        ws, engine = placed(ours, on_frame=seen), engine_of(asyncio.get_running_loop())
        program = [sys.executable, "-c", PEER, str(peer.fileno()), FRAME.hex()]
        with subprocess.Popen(program, pass_fds=[peer.fileno()]):
            peer.close()
            await until(lambda: 31 in learnt)
            ws.abort()
            await asyncio.sleep(0)

    run(main)


@pytest.mark.parametrize("how", ["closes", "pauses"])
def test_it_is_tried_for_one_that_reads_no_more(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        def act(ws: WebSocket) -> None:
            answer(ws)
            if how == "closes":
                loop.call_soon(ws.abort)
            else:
                loop.call_soon(ws._transport.pause_reading)  # type: ignore[union-attr]

        loop = asyncio.get_running_loop()
        again = Again(monkeypatch, act)
        again.comes_next = again.peers[:]
        await again.turn()
        assert again.calls == 1 and again.got == 1
        await again.end()

    run(main)
