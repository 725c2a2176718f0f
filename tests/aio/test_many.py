"""`send_many`, and batches that are sent on: the same messages as one by one, in the same order, and never too many."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import wire
from hypothesis import given, settings
from hypothesis import strategies as st
from net import Place, RawPeer, soon, until

import zcws
from zcws.aio.writing import Writing
from zcws.writer import Writer

MESSAGES = st.one_of(
    st.text(max_size=40), st.binary(max_size=40), st.sampled_from(["x" * 70_000, b"y" * 70_000, b"z" * 200])
)


def run(place: Place, act: Callable[[zcws.WebSocket], Any], **options: Any) -> list[str | bytes]:
    """What a server has received when `act` has run on a client."""
    received: list[str | bytes] = []

    async def collect(ws: zcws.WebSocket) -> None:
        async for message in ws:
            received.append(message)

    async def main() -> None:
        async with place.serve(collect, **options) as server, place.connect(server, **options) as ws:
            await soon(act(ws))
            await ws.close()
            await until(lambda: not server.connections)

    place.run(main())
    return received


@pytest.mark.parametrize(
    "options", [{}, {"compression": zcws.Deflate(threshold=0)}], ids=["plain", "deflate"]
)
def test_messages_arrive_as_they_were_given(anyplace: Place, options: dict[str, Any]) -> None:
    messages: list[Any] = [
        *map(str, range(700)),
        *[b"b"] * 300,
        "é",
        b"c",
        *["x" * 1000] * 300,
        "",
        b"",
        memoryview(b"v"),
    ]

    async def act(ws: zcws.WebSocket) -> None:
        await ws.send_many(messages)
        await ws.send_many([])
        await ws.send_many(iter([memoryview(b"a"), memoryview(b"ab")[::-1]]))
        await ws.send_many([array("I", [1, 2]), bytearray(b"d")])
        await ws.send_many(["t", "u"], text=False)
        await ws.send_many([b"v", memoryview(b"w")], text=True)

    assert run(anyplace, act, **options) == [
        *messages, b"a", b"ba", array("I", [1, 2]).tobytes(), b"d", b"t", b"u", "v", "w",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [4, 40_000])
@pytest.mark.parametrize("give", [lambda memory: memory, memoryview], ids=["itself", "view"])
def test_a_generator_may_give_the_same_memory_again(
    place: Place, give: Callable[[bytearray], Any], size: int
) -> None:
    memory = bytearray(size)
    expected: list[str | bytes] = []

    def messages() -> Iterator[Any]:
        for number in range(20):
            if number % 3 == 0:
                expected.append(f"the next is {number}")
                yield expected[-1]
            memory[:4] = b"%04d" % number
            expected.append(bytes(memory))
            yield give(memory)

    assert run(place, lambda ws: ws.send_many(messages())) == expected


@settings(max_examples=25)
@given(messages=st.lists(MESSAGES, max_size=600))
def test_any_messages_arrive_as_they_were_given(messages: list[str | bytes]) -> None:
    async def act(ws: zcws.WebSocket) -> None:
        await ws.send_many(messages)

    assert run(Place("asyncio", None), act) == messages


async def asynchronous() -> AsyncIterator[str]:
    yield "a"


def test_one_message_is_not_many(place: Place) -> None:
    async def act(ws: zcws.WebSocket) -> None:
        for message in ("text", b"bytes", bytearray(b"b"), memoryview(b"m")):
            with pytest.raises(TypeError, match="one message"):
                await ws.send_many(message)
        for what in ({"a": "b"}, asynchronous(), 5):
            with pytest.raises(TypeError, match="an iterable of messages, not"):
                await ws.send_many(what)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await ws.send_many(["before", 5])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="UTF-8"):
            await ws.send_many([b"\xff"], text=True)

        with pytest.raises(ValueError, match="surrogates"):
            await ws.send_many(["behind it", "\ud800"])

    assert run(place, act) == ["before", "behind it"]


@pytest.mark.parametrize("size", [20, 250, 260, 2000])
def test_small_ones_are_framed_many_at_a_time_whatever_their_size(
    place: Place, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """256 at a time were looked at, and those of more than 256 bytes sent one by one: 0.7 us each became 2.8."""
    alone, plain = [0], Writer.write_message

    def write_message(self: Writer, *args: Any, **options: Any) -> None:
        alone[0] += 1
        plain(self, *args, **options)

    monkeypatch.setattr(Writer, "write_message", write_message)

    async def act(ws: zcws.WebSocket) -> None:
        await ws.send_many(["x" * size] * 1000)

    assert run(place, act) == ["x" * size] * 1000
    assert alone == [0]


def test_of_large_ones_few_are_asked_for_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were 256: of a generator of pieces of 1 MiB that was 256 MiB, and as much again of text."""
    given, sent, ahead = [0], [0], [0]

    def messages() -> Iterator[bytes]:
        for _ in range(60):
            given[0] += 1
            ahead[0] = max(ahead[0], given[0] - sent[0])
            yield bytes(300_000)

    plain = Writing.send

    async def send(*args: Any, **options: Any) -> None:
        await plain(*args, **options)
        sent[0] += 1

    async def act(ws: zcws.WebSocket) -> None:
        monkeypatch.setattr(Writing, "send", send)
        await ws.send_many(messages())

    assert run(place, act) == [bytes(300_000)] * 60
    assert (sent, ahead[0] <= 16) == ([60], True)


def test_a_slow_peer_makes_a_generator_wait(place: Place) -> None:
    given = 0
    go_on = asyncio.Event()

    def messages() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield bytes(1000)

    async def slow(ws: zcws.WebSocket) -> None:
        await go_on.wait()
        for _ in range(10_000):
            await ws.recv()

    async def main() -> None:
        async with place.serve(slow) as server, place.connect(server) as ws:
            sending = asyncio.ensure_future(ws.send_many(messages()))
            await until(lambda: not ws.is_writable)
            await asyncio.sleep(0.1)
            at_first = given
            await asyncio.sleep(0.1)
            # 1000 bytes each: what socket buffers and rings take, and a chunk of 256.
            assert at_first == given < 20_000
            go_on.set()
            await until(lambda: given > 10_000)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

    place.run(main())


def test_after_the_end_nothing_is_sent(place: Place) -> None:
    async def act(ws: zcws.WebSocket) -> None:
        ws.begin_close()
        with pytest.raises(zcws.ConnectionClosed):
            await ws.send_many(["x"])
        with pytest.raises(zcws.ConnectionClosed):
            await ws.send_many(iter([b"x", "y"]))

    assert run(place, act) == []


def test_many_wait_for_a_message_in_fragments(place: Place) -> None:
    async def act(ws: zcws.WebSocket) -> None:
        async with ws.send_stream() as stream:
            await stream.write("one ")
            many = asyncio.ensure_future(ws.send_many(["two", "three"]))
            await asyncio.sleep(0.01)
            assert not many.done()
            await stream.write("message")
        await many

    assert run(place, act) == ["one message", "two", "three"]


def test_a_half_sends_many(place: Place) -> None:
    received: list[Any] = []

    async def main() -> None:
        async def collect(ws: zcws.WebSocket) -> None:
            received.append([await ws.recv(), await ws.recv()])

        async with place.serve(collect) as server:
            ws = await place.connect(server)
            _, writer, _ = ws.split()
            await writer.send_many(["a", "b"])
            await until(lambda: received)
            ws.abort()

    place.run(main())
    assert received == [["a", "b"]]


# ---- batches sent on ----

SCRIPTS: dict[str, list[bytes]] = {
    "one": [wire.frame(wire.TEXT, b"a", key=wire.KEY)],
    "text": [wire.frame(wire.TEXT, b"a%d" % i, key=wire.KEY) for i in range(100)],
    "binary": [wire.frame(wire.BINARY, b"b%d" % i, key=wire.KEY) for i in range(100)],
    "both": [wire.frame(1 + i % 2, b"%d" % i, key=wire.KEY) for i in range(20)],
    "a Ping between": [
        wire.frame(wire.TEXT, b"a", key=wire.KEY),
        wire.frame(wire.PING, b"p", key=wire.KEY),
        wire.frame(wire.TEXT, b"b", key=wire.KEY),
    ],
    "fragments": [
        wire.frame(wire.TEXT, b"a", key=wire.KEY),
        wire.frame(wire.TEXT, b"b", fin=False, key=wire.KEY),
        wire.frame(wire.CONTINUATION, b"c", key=wire.KEY),
    ],
    "large": [
        wire.frame(wire.BINARY, b"l" * 400_000, key=wire.KEY),
        wire.frame(wire.TEXT, b"s", key=wire.KEY),
    ],
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("compress", [None, False, True])
def test_a_batch_is_sent_on_as_it_came(anyplace: Place, script: str, compress: bool | None) -> None:
    async def relay(ws: zcws.WebSocket) -> None:
        async for batch in ws.batches():
            await ws.send_many(batch, compress=compress)

    frames = wire.parse(b"".join(SCRIPTS[script]))
    sent: list[tuple[int, bytes]] = []
    for frame in frames:
        if frame.opcode == wire.CONTINUATION:
            sent[-1] = (sent[-1][0], sent[-1][1] + frame.payload)
        elif frame.opcode < wire.CLOSE:
            sent.append((frame.opcode, frame.payload))

    async def main() -> list[tuple[int, bytes]]:
        async with anyplace.serve(relay) as server, anyplace.raw_client(server) as peer:
            await peer.send_bytes(b"".join(SCRIPTS[script]))
            back: list[tuple[int, bytes]] = []
            pongs = 0
            while len(back) < len(sent) or pongs < (script == "a Ping between"):
                frame = await peer.read()
                assert frame.fin
                if frame.opcode == wire.PONG:
                    pongs += 1
                else:
                    back.append((frame.opcode, frame.payload))
            return back

    assert anyplace.run(main()) == sent


def test_a_batch_that_is_stale_is_not_sent_on(place: Place) -> None:
    failed: list[BaseException] = []

    async def late(ws: zcws.WebSocket) -> None:
        batches = ws.batches()
        first = await anext(batches)
        await anext(batches)
        try:
            await ws.send_many(first)
        except zcws.StaleFrame as exc:
            failed.append(exc)

    async def script(peer: RawPeer) -> None:
        for _ in range(2):
            await peer.send_bytes(b"".join(SCRIPTS["text"]))
            await asyncio.sleep(0.05)

    async def main() -> None:
        async with place.serve(late) as server, place.raw_client(server) as peer:
            await script(peer)
            await until(lambda: failed)

    place.run(main())
    assert len(failed) == 1
