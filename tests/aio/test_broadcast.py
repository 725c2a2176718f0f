from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest
import wire
from net import Place, RawPeer, soon, swallow, until
from receiver import NoMemory

import zcws
from zcws.aio.broadcast import Delivery
from zcws.aio.engine import Engine, together

#: More than the socket buffers of a connection hold, in pieces of this many bytes.
BIG = 256 * 1024


def counts(delivery: Delivery) -> dict[str, int]:
    names = ("sent", "skipped", "waiting", "closed", "gone")
    return {name: getattr(delivery, name) for name in names if getattr(delivery, name)}


@asynccontextmanager
async def clients(place: Place, number: int, **options: Any) -> AsyncIterator[tuple[zcws.Server, list[Any]]]:
    """A server that never speaks first, and some that have connected to it."""
    async with place.serve(swallow, **options) as server:
        opened = [await place.connect(server, compression=options.get("compression")) for _ in range(number)]
        await until(lambda: len(server.connections) == number)
        yield server, opened
        for ws in opened:
            await ws.close()


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize(
    "message", ["é" * 1000, b"\x00\xff" * 20_000, bytearray(b"ab"), memoryview(b"abcd")[::2], ""]
)
def test_everybody_gets_it(anyplace: Place, message: Any, compression: Any) -> None:
    async def main() -> None:
        async with clients(anyplace, 3, compression=compression) as (server, peers):
            delivery = zcws.broadcast(server.connections, message)
            assert counts(delivery) == {"sent": 3}
            expected = message if isinstance(message, str) else bytes(message)
            assert [await soon(ws.recv()) for ws in peers] == [expected] * 3

    anyplace.run(main())


def test_text_may_be_bytes_and_binary_may_be_a_string(place: Place) -> None:
    async def main() -> None:
        async with clients(place, 1) as (server, (ws,)):
            zcws.broadcast(server.connections, b"abc", text=True)
            zcws.broadcast(server.connections, "abc", text=False)
            assert [await soon(ws.recv()) for _ in range(2)] == ["abc", b"abc"]

    place.run(main())


def test_clients_may_broadcast_to_their_servers(place: Place) -> None:
    async def main() -> None:
        got: asyncio.Queue[Any] = asyncio.Queue()

        async def handler(ws: zcws.WebSocket) -> None:
            async for message in ws:
                await got.put(message)

        async with place.serve(handler, compression="deflate") as server:
            async with place.connect(server, compression="deflate") as one, place.connect(server) as another:
                for message in ("a" * 1000, "b"):
                    assert counts(zcws.broadcast([one, another], message)) == {"sent": 2}
                received = sorted([await soon(got.get()) for _ in range(4)])
                assert received == ["a" * 1000, "a" * 1000, "b", "b"]

    place.run(main())


def test_order_is_kept_whatever_is_sent_between(place: Place) -> None:
    async def main() -> None:
        async with clients(place, 2) as (server, peers):
            for start in (0, 100):
                for number in range(start, start + 100, 4):
                    for ws in server.connections:
                        await ws.send(f"{number}")
                    zcws.broadcast(server.connections, f"{number + 1}")
                    zcws.broadcast(server.connections, f"{number + 2}".ljust(20_000))
                    for ws in server.connections:
                        ws.send_nowait(f"{number + 3}")
                await asyncio.sleep(0)
            for ws in peers:
                assert [int(await soon(ws.recv())) for _ in range(200)] == [*range(200)]

    place.run(main())


def test_who_is_gone_is_passed_over(place: Place) -> None:
    async def main() -> None:
        async with clients(place, 3) as (server, peers):
            everybody = set(server.connections)
            await peers[0].close()
            peers[1].abort()
            await until(lambda: len(server.connections) == 1)
            assert counts(zcws.broadcast(everybody, "a")) == {"sent": 1, "gone": 2}
            assert await soon(peers[2].recv()) == "a"
            assert counts(zcws.broadcast([], "a")) == {}

    place.run(main())


def test_what_goes_wrong_with_one_keeps_it_from_nobody(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with clients(place, 2) as (server, peers):
            broken, whole = server.connections
            writer, broken.writer = broken.writer, None  # type: ignore[assignment]
            assert counts(zcws.broadcast([broken, whole], "a")) == {"sent": 1, "gone": 1}
            broken.writer = writer
            assert counts(zcws.broadcast([broken, whole], "b")) == {"sent": 2}
            assert sorted([await soon(ws.recv()) for ws in peers]) == ["a", "b"]

    place.run(main())
    assert "a broadcast failed for <WebSocket" in caplog.text


@pytest.mark.parametrize("what", [[None], "ab", [5, None]])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_no_connection_is_told_to_the_caller(place: Place, what: Any, at_once: bool) -> None:
    """It was counted as gone, and was a line of the log. The connections among it get the message all the same."""

    async def main() -> None:
        async with clients(place, 1) as (server, (ws,)):
            if not at_once:
                zcws.broadcast([], "a")  # takes this turn of the loop
            with pytest.raises(TypeError) as wrong:
                zcws.broadcast([*what, *server.connections], "a")
            said = f"broadcast sends to zcws.WebSocket objects, and {what[0]!r} is none"
            assert str(wrong.value) == said
            assert await soon(ws.recv()) == "a"

    place.run(main())


def test_mistakes_of_the_caller(anyloop: Place) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="a message is str or bytes-like, not int"):
            zcws.broadcast([], 1)  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match="slow must be one of 'skip', 'close', 'wait', 'latest', not 'drop'"
        ):
            zcws.broadcast([], "a", slow="drop")  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            zcws.broadcast([], b"\xff", text=True)

    anyloop.run(main())
    with pytest.raises(RuntimeError, match="no running event loop"):
        zcws.broadcast([], "a")


def test_it_says_what_happened(anyloop: Place) -> None:
    async def main() -> None:
        delivery = zcws.broadcast([], "a")
        assert repr(delivery) == "<Delivery to nobody>"
        delivery.sent, delivery.gone = 2, 1
        assert repr(delivery) == "<Delivery sent=2 gone=1>"
        assert await delivery is delivery

    anyloop.run(main())


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("size", [300, 40_000])
@pytest.mark.parametrize("what", ["twice", "behind another", "no memory", "inside of another"])
def test_what_is_in_the_way_of_the_straight_way_to_the_sockets(
    place: Place, monkeypatch: pytest.MonkeyPatch, what: str, size: int, compression: Any
) -> None:
    async def main() -> None:
        async with clients(place, 3, compression=compression) as (server, peers):
            connections = list(server.connections)
            before: list[str] = []
            if what == "twice":
                connections += connections
            elif what == "behind another":
                before = ["before"]
                for ws in connections:
                    ws.send_nowait("before")
            elif what == "no memory":
                monkeypatch.setattr("zcws.aio.engine.repeat", NoMemory())
            with together(asyncio.get_running_loop()) if what == "inside of another" else nullcontext():
                assert counts(zcws.broadcast(connections, "x" * size)) == {"sent": len(connections)}
            expected = before + ["x" * size] * (len(connections) // 3)
            for ws in peers:
                assert [await soon(ws.recv()) for _ in expected] == expected
            assert [ws.writer.messages for ws in server.connections] == [len(expected)] * 3
            assert all(ws.writer.size == 0 for ws in server.connections)
            if compression is not None:
                times = len(connections) // 3
                assert {ws.stats.deflated[0] for ws in server.connections} == {times * size}

    place.run(main())


#: What receivers have agreed on, as they open: those that compress with the same make a group.
AGREEMENTS: list[Any] = [
    "deflate",
    None,
    zcws.Deflate(server_max_window_bits=10),
    zcws.Deflate(server_no_context_takeover=True, client_no_context_takeover=True),
    zcws.Deflate(client_no_context_takeover=True),
    "deflate",
]

PATTERN = '{"symbol": "ABC", "price": 12.5}, '


@pytest.mark.parametrize("size", [100, 1000, 60_000])
def test_all_who_agreed_on_the_same_get_it_in_one_crossing(
    place: Place, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Of those that compress, each went through the output of its writer."""
    crossings: list[int] = []
    send_same = Engine.send_same

    def counted(engine: Engine, senders: Any, *arguments: Any) -> Any:
        crossings.append(len(senders))
        others = send_same(engine, senders, *arguments)
        assert not others
        return others

    async def main() -> None:
        async with place.serve(swallow, compression="deflate") as server:
            peers = [await place.connect(server, compression=kind) for kind in AGREEMENTS]
            await until(lambda: len(server.connections) == len(peers))
            if next(iter(server.connections))._own is None:
                return  # the event loop's own transports know no crossing
            monkeypatch.setattr(Engine, "send_same", counted)
            text = (PATTERN * 2000)[:size]
            assert counts(zcws.broadcast(server.connections, text)) == {"sent": len(peers)}
            # None is compressed under the threshold of 256 bytes.
            assert sorted(crossings) == ([6] if size == 100 else [1, 1, 4])
            assert [await soon(ws.recv()) for ws in peers] == [text] * len(peers)
            await close_all(peers)

    place.run(main())


async def close_all(peers: list[Any]) -> None:
    for ws in peers:
        await ws.close()


@pytest.mark.parametrize("before", [False, True])
def test_what_is_said_between_broadcasts_is_inflated_by_all_whatever_they_agreed_on(
    place: Place, before: bool
) -> None:
    """To each by itself, with the context that it has then; `before`: something waits in its output. Both ways."""
    heard: dict[str, list[Any]] = {}

    async def handler(ws: zcws.WebSocket) -> None:
        heard[ws.request.path] = [message async for message in ws]

    async def main() -> None:
        async with place.serve(handler, compression="deflate") as server:
            peers = [
                await place.connect(server, f"/{number}", compression=kind)
                for number, kind in enumerate(AGREEMENTS)
            ]
            await until(lambda: len(server.connections) == len(peers))
            expected: dict[str, list[str]] = {ws.request.path: [] for ws in server.connections}
            for turn in range(6):
                text = f"{turn}" + PATTERN * (50 + turn)
                for number, ws in enumerate(server.connections):
                    own = f"{number} of {turn}: {PATTERN * 30}"
                    expected[ws.request.path] += [own, text, own] if before or turn % 2 else [text, own]
                    if before:
                        ws.send_nowait(own)  # waits for the end of the turn, or for what comes behind it
                    elif turn % 2:
                        await ws.send(own)
                assert counts(zcws.broadcast(server.connections, text)) == {"sent": len(peers)}
                for number, ws in enumerate(server.connections):
                    ws.send_nowait(f"{number} of {turn}: {PATTERN * 30}")
                await asyncio.sleep(0)
                for ws in peers:
                    await ws.send(text)
            for number, ws in enumerate(peers):
                assert [await soon(ws.recv()) for _ in expected[f"/{number}"]] == expected[f"/{number}"]
                assert ws.stats.inflated == server_end(server, number).stats.deflated[::-1]
                sizes = [len(message) for message in expected[f"/{number}"]]
                deflated = server_end(server, number).stats.deflated
                assert deflated[0] == (0 if AGREEMENTS[number] is None else sum(sizes))
                assert server_end(server, number).stats.messages_sent == len(sizes)
                assert server_end(server, number).stats.bytes_sent == ws.stats.bytes_received
            await close_all(peers)
        texts = [f"{turn}" + PATTERN * (50 + turn) for turn in range(6)]
        assert [*heard.values()] == [texts] * len(peers)

    place.run(main())


def server_end(server: zcws.Server, number: int) -> zcws.WebSocket:
    return next(ws for ws in server.connections if ws.request.path == f"/{number}")


def test_one_that_is_full_or_closing_among_those_that_compress(place: Place) -> None:
    """Its socket takes a part, or it has said its Close: the others get it, and it gets the rest in order."""

    async def main() -> None:
        async with place.serve(swallow, compression="deflate", write_limit=2**24) as server:
            peers = [await place.connect(server, f"/{number}", compression="deflate") for number in range(4)]
            await until(lambda: len(server.connections) == 4)
            # More than the socket takes, compressed as well.
            noise = random.Random(1).randbytes(6_000_000).hex()
            full, closing = server_end(server, 1), server_end(server, 2)
            full.send_nowait(noise)
            await asyncio.sleep(0)
            everybody = list(server.connections)
            closing.begin_close()
            texts = [PATTERN * 100 + f"{turn}" for turn in range(3)]
            for text in texts:
                assert counts(zcws.broadcast(everybody, text)) == {"sent": 3, "gone": 1}
                await asyncio.sleep(0)
                full.send_nowait(text)
            for number in (0, 3):
                assert [await soon(peers[number].recv()) for _ in texts] == texts
            assert await soon(peers[1].recv()) == noise
            assert [await soon(peers[1].recv()) for _ in range(6)] == [text for text in texts for _ in "ab"]
            with pytest.raises(zcws.ConnectionClosed):
                await soon(peers[2].recv())
            await close_all(peers)

    place.run(main())


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("step", ["pass_same", "_send_each"])
def test_a_straight_way_that_has_no_memory_ends_those_who_may_have_missed_it(
    step: str, compression: Any, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context["exception"])
        )
        async with clients(place, 3, compression=compression) as (server, peers):
            if next(iter(server.connections))._own is None:
                return  # the event loop's own transports know no crossing
            monkeypatch.setattr(f"zcws.aio.engine.{step}", NoMemory())
            with pytest.raises(MemoryError):
                zcws.broadcast(server.connections, "lost" * 100)
            await until(lambda: not server.connections)
            for ws in peers:
                with pytest.raises(zcws.ConnectionClosedError):
                    await soon(ws.recv())
        assert [type(error) for error in reported] == [MemoryError] * 3

    place.run(main())


def test_those_who_take_a_part_get_the_rest(place: Place) -> None:
    """Their sockets are full in the middle of it, and what comes later waits behind that."""

    async def main() -> None:
        async with clients(place, 2) as (server, peers):
            text = "ab" * 3_000_000
            assert counts(zcws.broadcast(server.connections, text)) == {"sent": 2}
            assert counts(zcws.broadcast(server.connections, "end", slow="latest")) == {"waiting": 2}
            for ws in peers:
                assert [await soon(ws.recv()) for _ in range(2)] == [text, "end"]

    place.run(main())


def test_a_burst_is_not_slowness(place: Place) -> None:
    """Many peers that speak at once are answered in one turn: more than `write_limit`, and nobody is slow."""

    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            async for message in ws:
                assert counts(zcws.broadcast(server.connections, message * 30_000)) == {"sent": 12}

        async with place.serve(handler) as server:
            peers = [await place.connect(server) for _ in range(12)]
            await until(lambda: len(server.connections) == 12)
            for letter in "abc":
                for ws in peers:
                    ws.send_nowait(letter)
                for ws in peers:
                    assert [await soon(ws.recv()) for _ in peers] == [letter * 30_000] * 12
            for ws in peers:
                await ws.close()

    place.run(main())


def test_a_crossing_has_one_copy_of_each_form(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where those that compress and those that do not stand by turns, each had a copy of its own: 2,000 connections and
    60 KB made 57 MB of it."""
    joined: list[int] = []

    def join(parts: Any) -> bytes:
        joined.append(len(parts))
        return b"".join(parts)

    async def main() -> None:
        async with place.serve(swallow, compression="deflate") as server:
            peers = [await place.connect(server, compression=kind) for kind in ("deflate", None) * 4]
            await until(lambda: len(server.connections) == len(peers))
            kinds: dict[bool, list[zcws.WebSocket]] = {True: [], False: []}
            for ws in server.connections:
                kinds[ws.connection.compressor is None].append(ws)
            monkeypatch.setattr("zcws.aio.engine._join", join)
            by_turns = [ws for pair in zip(*kinds.values(), strict=True) for ws in pair]
            with together(asyncio.get_running_loop()):  # as while a table is walked
                assert counts(zcws.broadcast(by_turns, "é" * 1000)) == {"sent": len(peers)}
            # None: the event loop's own transports.
            assert joined in ([], [2])
            assert [await soon(ws.recv()) for ws in peers] == ["é" * 1000] * len(peers)
            for ws in peers:
                await ws.close()

    place.run(main())


@pytest.mark.parametrize("size", [100, 16 * 1024, 200 * 1024])
def test_a_large_one_is_sent_as_a_small_one_is(
    place: Place, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """From 16 KiB on each receiver had three calls more, which are for what cannot share a crossing."""

    async def main() -> None:
        async with clients(place, 3, max_size=None) as (server, opened):
            monkeypatch.setattr("zcws.aio.gathering._take", None)
            assert counts(zcws.broadcast(server.connections, bytes(size))) == {"sent": 3}
            monkeypatch.undo()
            for ws in opened:
                assert await soon(ws.recv()) == bytes(size)

    place.run(main())


# ---- slow connections ----


@asynccontextmanager
async def slow_client(place: Place, **options: Any) -> AsyncIterator[tuple[Any, RawPeer, int]]:
    """A connection whose transport is full: the server's end, the peer, how many messages of BIG bytes wait."""
    async with place.serve(swallow, close_timeout=20, **options) as server:
        async with place.raw_client(server) as peer:
            await until(lambda: server.connections)
            (ws,) = server.connections
            number = 0
            while not zcws.broadcast([ws], bytes(BIG)).skipped:
                number += 1
                await asyncio.sleep(0)
            yield ws, peer, number
            if ws.state is zcws.State.OPEN:
                await peer.send(wire.CLOSE)


async def read_messages(peer: RawPeer, number: int) -> list[wire.Seen]:
    for _ in range(number):
        assert len((await peer.read()).payload) == BIG
    return []


def test_skip(place: Place) -> None:
    async def main() -> None:
        async with slow_client(place) as (ws, peer, number):
            assert counts(zcws.broadcast([ws], "lost")) == {"skipped": 1}
            await read_messages(peer, number)
            await until(lambda: ws.is_writable)
            assert counts(zcws.broadcast([ws], "found")) == {"sent": 1}
            assert (await peer.read()).payload == b"found"

    place.run(main())


def test_close(place: Place) -> None:
    async def main() -> None:
        async with slow_client(place) as (ws, peer, number):
            assert counts(zcws.broadcast([ws], "lost", slow="close")) == {"closed": 1}
            assert counts(zcws.broadcast([ws], "lost", slow="close")) == {"gone": 1}
            await read_messages(peer, number)
            close = await peer.read()
            reason = b"too slow for what is broadcast here"
            assert close[:2] == (wire.CLOSE, wire.close_payload(1013, reason))
            assert str(ws.connection.error()) == (
                "closed here: 1013 (try again later): too slow for what is broadcast here"
                ' (write_limit, and slow="close" of the broadcast)'
            )

    place.run(main())


def test_wait(place: Place) -> None:
    async def main() -> None:
        async with slow_client(place) as (ws, peer, number):
            delivery = zcws.broadcast([ws], "late", slow="wait")
            assert counts(delivery) == {"waiting": 1}
            waiting = asyncio.ensure_future(_awaited(delivery))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            await read_messages(peer, number)
            assert counts(await soon(waiting)) == {"sent": 1}
            assert (await peer.read()).payload == b"late"

    place.run(main())


async def _awaited(delivery: Delivery) -> Delivery:
    return await delivery


def test_wait_for_one_that_goes_away(place: Place) -> None:
    async def main() -> None:
        async with slow_client(place) as (ws, _peer, _):
            waiting = asyncio.ensure_future(_awaited(zcws.broadcast([ws], "late", slow="wait")))
            await asyncio.sleep(0)
            ws.abort()
            assert counts(await soon(waiting)) == {"gone": 1}
            assert ws.state is zcws.State.LOST

    place.run(main())


def test_nobody_awaits_those_who_wait(place: Place) -> None:
    async def main() -> None:
        async with slow_client(place) as (ws, peer, number):
            with pytest.warns(RuntimeWarning, match="never awaited: 1 connections did not get the message"):
                zcws.broadcast([ws], "lost", slow="wait")
                gc.collect()
            await read_messages(peer, number)

    place.run(main())


# ---- in the middle of a message ----


@pytest.mark.parametrize(
    ("slow", "became", "read"),
    [
        ("skip", {"skipped": 1}, ["whole"]),
        ("close", {"waiting": 1}, ["whole", "1", "2"]),
        ("latest", {"waiting": 1}, ["whole", "2"]),
    ],
)
def test_in_the_middle_of_a_message(place: Place, slow: Any, became: dict[str, int], read: list[str]) -> None:
    async def main() -> None:
        async with clients(place, 1) as (server, (peer,)):
            (ws,) = server.connections
            async with ws.send_stream() as message:
                await message.write("who")
                assert counts(zcws.broadcast([ws], "1", slow=slow)) == became
                assert counts(zcws.broadcast([ws], "2", slow=slow)) == became
                await message.write("le")
            await until(lambda: ws._held is None)
            zcws.broadcast([ws], "3", slow=slow)
            assert [await soon(peer.recv()) for _ in range(len(read) + 1)] == [*read, "3"]

    place.run(main())


@pytest.mark.parametrize("slow", ["wait", "latest"])
def test_a_message_frame_by_frame_behind_the_one_that_is_waited_for(place: Place, slow: Any) -> None:
    """Whoever waited comes too late for the gap between the two, and does not get in between."""

    async def main() -> None:
        async with clients(place, 1) as (server, (peer,)):
            (ws,) = server.connections
            async with ws.send_stream() as message:
                delivery = zcws.broadcast([ws], "late", slow=slow)
                waiting = asyncio.ensure_future(_awaited(delivery))
                await message.write("early")
            ws.writer.write_frame(zcws.Frame.text("a", fin=False))
            await soon(waiting)
            await until(lambda: ws._held is None)
            await ws.write_frame(zcws.Frame(zcws.OpCode.CONTINUATION, b"b"))
            assert [await soon(peer.recv()) for _ in range(2)] == ["early", "ab"]
            assert counts(delivery) == ({"skipped": 1} if slow == "wait" else {"waiting": 1})

    place.run(main())


def test_waiting_for_the_end_of_a_message(place: Place) -> None:
    async def main() -> None:
        async with clients(place, 1) as (server, (peer,)):
            (ws,) = server.connections
            async with ws.send_stream() as message:
                delivery = zcws.broadcast([ws], "late", slow="wait")
                await message.write("early")
            assert counts(await delivery) == {"sent": 1}
            assert [await soon(peer.recv()) for _ in range(2)] == ["early", "late"]

    place.run(main())


@pytest.mark.parametrize("slow", ["skip", "close", "wait", "latest"])
def test_a_message_that_is_written_frame_by_frame(place: Place, slow: Any) -> None:
    async def main() -> None:
        async with clients(place, 1) as (server, (peer,)):
            (ws,) = server.connections
            await ws.write_frame(zcws.Frame.text("a", fin=False))
            assert counts(zcws.broadcast([ws], "between", slow=slow)) == {"skipped": 1}
            await ws.write_frame(zcws.Frame(zcws.OpCode.CONTINUATION, b"b"))
            zcws.broadcast([ws], "c", slow=slow)
            assert [await soon(peer.recv()) for _ in range(2)] == ["ab", "c"]

    place.run(main())


@pytest.mark.parametrize("place", ["asyncio-engine"], indirect=True)
def test_no_memory_for_one_who_has_to_wait_his_turn(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What he was sent before is not out yet, so the message goes through his writer."""

    def fails(*_: Any) -> None:
        raise MemoryError

    async def main() -> None:
        async with clients(place, 2) as (server, peers):
            last = list(server.connections)[-1]
            if last._own is None:
                pytest.skip("without an engine every message goes through the writer")
            last.send_nowait("before")
            with monkeypatch.context() as patch:
                patch.setattr("zcws.prepared.Prepared.write_to", fails)
                delivery = zcws.broadcast(server.connections, "a")
            assert counts(delivery) == {"sent": 1, "gone": 1}
            assert f"a broadcast failed for {last!r}" in caplog.text and "MemoryError" in caplog.text
            zcws.broadcast(server.connections, "b")
            got = [[await soon(peer.recv()), await soon(peer.recv())] for peer in peers]
            assert sorted(got) == [["a", "b"], ["before", "b"]]

    place.run(main())


def test_what_is_sent_while_an_earlier_one_waits(place: Place) -> None:
    """The message that was in the way is over, and whoever waits for that has not run yet."""

    async def main() -> None:
        async with clients(place, 1) as (server, (peer,)):
            (ws,) = server.connections
            go_on = asyncio.Event()

            async def parts() -> AsyncIterator[str]:
                yield "1"
                await go_on.wait()
                yield "2"

            async def send() -> None:
                await ws.send(parts())
                assert counts(zcws.broadcast([ws], "b")) == {"skipped": 1}

            sending = asyncio.ensure_future(send())
            await until(lambda: ws._message_done is not None)
            assert counts(zcws.broadcast([ws], "a", slow="latest")) == {"waiting": 1}
            go_on.set()
            await soon(sending)
            assert [await soon(peer.recv()) for _ in range(2)] == ["12", "a"]

    place.run(main())
