"""What a socket of the engine sends, and what somebody sends in the middle of that."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import wire
from adopted import Recorder, adopted, end_of
from net import run, soon, until
from peaks import peak_of
from pythons import needs_cpython
from raw import read_to_end

from zcws.aio import sending as sending_module
from zcws.aio.transport import EngineTransport
from zcws.output import SEGMENT
from zcws.pool import Pool
from zcws.writer import Writer

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the engine needs epoll; others keep their transports"
)


@needs_cpython("PyPy does not count its memory")
def test_many_that_wait_cost_nothing_until_it_is_their_turn() -> None:
    """With each that the socket took, all that were left were copied: 336,000 that waited took 4.6 s of CPU."""

    async def main() -> None:
        transport, _, peer = await adopted()
        frames = [number.to_bytes(4, "big") for number in range(100_000)]
        for frame in frames:
            transport.write(frame)
        got = peer.recv(1 << 20)
        # Bytes; a list of what is left would take eight for each.
        assert peak_of(transport.write_ready) < len(transport.backlog) > len(frames) // 2
        transport.write_eof()
        # By turns, and in one thread: two that wait for each other a hundred times are slow on a busy machine.
        while transport.backlog:
            got += peer.recv(1 << 20)
            transport.write_ready()
        assert got + read_to_end(peer) == b"".join(frames)
        peer.close()
        transport.abort()
        await asyncio.sleep(0)

    run(main)


def test_what_the_socket_does_not_take_is_kept_in_order_and_the_protocol_is_told() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.set_write_buffer_limits(high=1000)
        sent = os.urandom(3_000_000)
        for start in range(0, len(sent), 100_000):
            piece = sent[start : start + 100_000]
            transport.writelines([piece[:50_000], piece[50_000:]]) if start % 200_000 else transport.write(
                piece
            )
        assert recorder.events == ["pause"]
        assert transport.get_write_buffer_size() > 1000
        transport.write_eof()
        loop = asyncio.get_running_loop()
        got = await loop.run_in_executor(None, read_to_end, peer)
        assert got == sent
        assert recorder.events == ["pause", "resume"]
        await end_of(transport, recorder, peer)

    run(main)


def test_the_protocol_goes_on_below_the_low_mark_and_not_before() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, recorder, peer = await adopted()
        peer.setblocking(False)
        transport.set_write_buffer_limits(high=2_000_000, low=1000)
        for told in (["pause"], ["pause", "resume", "pause"]):
            transport.write(bytes(5_000_000))
            assert recorder.events == told
            left = 5_000_000
            while left:
                left -= len(await loop.sock_recv(peer, 65536))
                assert (recorder.events[-1] == "resume") is (transport.get_write_buffer_size() <= 1000)
        transport.set_write_buffer_limits(high=10_000_000)
        transport.write(bytes(5_000_000))
        assert transport.get_write_buffer_size() > 1000
        left = 5_000_000
        while left:
            left -= len(await loop.sock_recv(peer, 65536))
        await until(lambda: not transport.get_write_buffer_size())
        assert recorder.events == ["pause", "resume"] * 2
        await end_of(transport, recorder, peer)

    run(main)


def test_a_socket_that_takes_bytes_is_of_no_interest_when_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """epoll would say so in each turn of the loop."""
    write_ready, calls = EngineTransport.write_ready, 0

    def counted(transport: EngineTransport) -> None:
        nonlocal calls
        calls += 1
        write_ready(transport)

    monkeypatch.setattr(EngineTransport, "write_ready", counted)

    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.write(bytes(5_000_000))
        left = 5_000_000
        while left:
            left -= await asyncio.get_running_loop().run_in_executor(None, lambda: len(peer.recv(1 << 20)))
        before = calls
        for _ in range(10):
            await asyncio.sleep(0)
        assert calls == before > 0
        await end_of(transport, recorder, peer)

    run(main)


@pytest.mark.parametrize("end", ["close", "write_eof"])
@pytest.mark.parametrize("waits", [False, True])
def test_an_end_that_a_finalizer_wants_in_the_middle_of_a_write(
    end: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw that something waits, and left the rest to whoever sends that: who had looked before."""
    send = EngineTransport._offer

    def sends(transport: EngineTransport, segments: list[Any]) -> int | None:
        monkeypatch.undo()
        getattr(transport, end)()
        return send(transport, segments)

    async def main() -> None:
        transport, recorder, peer = await adopted()
        size = 5_000_000 if waits else 10
        monkeypatch.setattr(EngineTransport, "_offer", sends)
        transport.writelines([b"head", bytes(size)])
        assert (
            len(await soon(asyncio.get_running_loop().run_in_executor(None, read_to_end, peer))) == 4 + size
        )
        if end == "close":
            await recorder.until(lambda: "lost" in recorder.events)
        assert transport.is_closing() is (end == "close")
        await end_of(transport, recorder, peer)

    run(main)


@pytest.mark.parametrize("end", ["close", "write_eof"])
@pytest.mark.parametrize("waits", [False, True])
def test_an_end_that_a_finalizer_wants_in_the_middle_of_a_masked_frame(
    end: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = sending_module._send_masked

    async def main() -> None:
        transport, recorder, peer = await adopted()

        def sends(*order: Any) -> int:
            getattr(transport, end)()
            return send(*order)

        monkeypatch.setattr(sending_module, "_send_masked", sends)
        payload = bytes(5_000_000 if waits else 10)
        transport.send_masked(Pool().scratch(), 0x82, payload, len(payload), 7)
        (frame,) = wire.parse(await soon(asyncio.get_running_loop().run_in_executor(None, read_to_end, peer)))
        assert (frame.payload, frame.masked) == (payload, True)
        if end == "close":
            await recorder.until(lambda: "lost" in recorder.events)
        assert transport.is_closing() is (end == "close")
        await end_of(transport, recorder, peer)

    run(main)


def test_a_masked_frame_behind_what_a_finalizer_has_sent() -> None:
    async def main() -> None:
        transport, recorder, peer = await adopted()
        transport.write(bytes(5_000_000))
        transport.send_masked(Pool().scratch(), 0x82, b"payload", 7, 7)
        transport.write_eof()
        got = await soon(asyncio.get_running_loop().run_in_executor(None, read_to_end, peer))
        assert got[:5_000_000] == bytes(5_000_000)
        assert wire.parse(got[5_000_000:]) == [wire.Seen(wire.BINARY, b"payload", masked=True)]
        await end_of(transport, recorder, peer)

    run(main)


# ---- what the writer has ----


async def with_writer() -> tuple[EngineTransport, Recorder, socket.socket, Writer]:
    transport, recorder, peer = await adopted()
    transport.writer = Writer(Pool(), next_key=None, compressor=None)
    return transport, recorder, peer, transport.writer


def put(writer: Writer, *segments: bytes) -> None:
    """As a frame in so many segments."""
    writer.out += segments
    writer.written += sum(map(len, segments))
    writer.has_large = any(len(segment) >= SEGMENT for segment in segments)


@pytest.mark.parametrize(
    "segments",
    [
        [b"one"],
        [b"one", b"two"],
        [b"head", bytes(SEGMENT)],
        [b"head", bytes(SEGMENT), b"tail"],
        [bytes(5_000_000)],
        [],
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_what_the_writer_has_goes_out_whole_and_behind_what_waits(
    segments: list[bytes], behind: bool
) -> None:
    async def main() -> None:
        transport, recorder, peer, writer = await with_writer()
        first = b"f" * (5_000_000 if behind else 0)
        if behind:
            transport.write(first)
        assert transport.is_free is not behind
        waited = transport.get_write_buffer_size()
        put(writer, *segments)
        transport.send_now()
        assert not writer.out and not writer.has_large and writer.taken == writer.written
        assert transport.backlog is not writer.out
        assert transport.get_write_buffer_size() == sum(map(len, transport.backlog))  # type: ignore[arg-type]
        if behind:
            assert transport.get_write_buffer_size() == waited + sum(map(len, segments))
            # Small segments wait as one.
            assert len(transport.backlog) <= 1 + len(segments) - (segments == [b"one", b"two"])
        transport.write_eof()
        got = await soon(asyncio.get_running_loop().run_in_executor(None, read_to_end, peer))
        assert got == first + b"".join(segments)
        await end_of(transport, recorder, peer)

    run(main)


@pytest.mark.parametrize("large", [10, 5_000_000])
@pytest.mark.parametrize("keeps", [False, True])
def test_a_payload_that_is_lent_is_copied_where_it_has_to_wait(large: int, keeps: bool) -> None:
    async def main() -> None:
        transport, recorder, peer, writer = await with_writer()
        payload, begins = bytearray(os.urandom(large)), list[int]()
        said = b"before" + b"head" + payload

        def keep(begin: int) -> bytes:
            begins.append(begin)
            return bytes(payload[begin:])

        put(writer, b"before")
        assert transport.write_lent(b"head", payload, keep if keeps else None)
        assert not writer.out and writer.taken == writer.written == len(said)
        waits = transport.get_write_buffer_size()
        assert (waits > 0) is (large > 10)
        assert begins == ([large - waits] if keeps and waits else [])
        assert transport.write_lent(b"head", payload, None) is not bool(waits)
        payload[:] = bytes(large)  # whoever has lent it may change it
        transport.write_eof()
        got = await soon(asyncio.get_running_loop().run_in_executor(None, read_to_end, peer))
        assert got[: len(said)] == said
        await end_of(transport, recorder, peer)

    run(main)


def test_a_file_that_becomes_shorter_while_its_mapping_is_sent(tmp_path: Path) -> None:
    """The send went well, and the network was to blame for the end."""

    async def main() -> None:
        transport, recorder, peer, writer = await with_writer()
        path = tmp_path / "payload"
        path.write_bytes(bytes(1_000_000))
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            os.truncate(path, 0)
            put(writer, b"before")
            with pytest.raises(OSError, match="can no longer be read; has the file behind an mmap") as caught:
                transport.write_lent(b"head", mapping, None)
        assert caught.value.errno == errno.EFAULT
        await soon(recorder.until(lambda: "lost" in recorder.events))
        peer.close()

    run(main)


def test_what_is_written_behind_the_end_is_dropped() -> None:
    async def main() -> None:
        transport, recorder, peer, writer = await with_writer()
        transport.write(bytes(5_000_000))
        transport.close()
        waited = transport.get_write_buffer_size()
        put(writer, b"too late")
        transport.send_now()
        assert not writer.out and writer.taken == writer.written
        assert not transport.write_lent(b"too", bytearray(b"late"), None)
        assert transport.get_write_buffer_size() == waited
        got = await soon(asyncio.get_running_loop().run_in_executor(None, read_to_end, peer))
        assert got == bytes(5_000_000)
        await end_of(transport, recorder, peer)

    run(main)


def test_in_the_middle_of_a_crossing_the_writer_keeps_what_it_has() -> None:
    async def main() -> None:
        transport, recorder, peer, writer = await with_writer()
        engine = transport._engine
        engine.is_sending = True
        put(writer, b"later")
        transport.send_now()
        assert not transport.is_free and not transport.write_lent(b"more", b"", None)
        assert writer.out == [b"later"] and transport in engine.written and not transport.backlog
        engine.is_sending = False
        engine.written.clear()
        transport.send_now()
        assert peer.recv(100) == b"later"
        await end_of(transport, recorder, peer)

    run(main)


@pytest.mark.parametrize("end", ["close", "write_eof"])
@pytest.mark.parametrize("waits", [False, True])
def test_an_end_that_a_finalizer_wants_while_the_only_segment_is_sent(
    end: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = sending_module._write

    async def main() -> None:
        transport, recorder, peer, writer = await with_writer()

        def sends(fd: int, data: Any) -> int:
            monkeypatch.undo()
            getattr(transport, end)()
            return write(fd, data)

        monkeypatch.setattr(sending_module, "_write", sends)
        size = 5_000_000 if waits else 10
        put(writer, bytes(size))
        transport.send_now()
        got = await soon(asyncio.get_running_loop().run_in_executor(None, read_to_end, peer))
        assert len(got) == size
        if end == "close":
            await recorder.until(lambda: "lost" in recorder.events)
        assert transport.is_closing() is (end == "close")
        await end_of(transport, recorder, peer)

    run(main)


def test_a_socket_that_takes_nothing_of_what_the_writer_has(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        transport, recorder, peer, writer = await with_writer()

        def full(fd: int, data: Any) -> int:
            raise BlockingIOError

        with monkeypatch.context() as patched:
            patched.setattr(sending_module, "_write", full)
            put(writer, b"waits")
            transport.send_now()
        assert transport.backlog == [b"waits"] and transport.get_write_buffer_size() == 5
        await until(lambda: not transport.backlog)
        assert peer.recv(100) == b"waits"
        peer.close()
        put(writer, b"for nobody")
        transport.send_now()
        assert transport.is_closing() and not transport.get_write_buffer_size()
        await recorder.until(lambda: "lost: BrokenPipeError" in recorder.events)

    run(main)
