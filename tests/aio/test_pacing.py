"""Paced: what asyncio's proactor is given, part by part. Here over whatever the loop has, which on Windows is that."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from net import soon, until

import zcws
from zcws.aio.pacing import IN_A_TURN, PART, Paced, pace

#: Bytes: more than sockets take.
LARGE = random.Random(1).randbytes(12 * 1024 * 1024)


class Owner(asyncio.BufferedProtocol):
    """Who writes."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.received = bytearray()
        self._room = bytearray(65536)
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._room)

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self._room[:nbytes]

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


Script = Callable[[Paced, Owner, asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


def play(script: Script, before: bytes = b"") -> None:
    """Runs `script` with one end of a connection as a `Paced`, and with the other one's streams.

    Args:
        before: what was written to the transport before.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=theirs)
        below, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        if before:
            below.write(before)
        owner = Owner()
        paced = Paced(below, owner)
        try:
            await soon(script(paced, owner, reader, writer))
        finally:
            if not owner.lost.done():
                paced.abort()
            writer.transport.abort()
            await soon(owner.lost)

    asyncio.run(main())


def test_a_large_message_goes_out_in_parts() -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        paced.writelines([b"head", LARGE, b"tail"])
        assert owner.told == ["pause"]
        waiting = [paced.get_write_buffer_size()]
        read = b""
        while len(read) < len(LARGE) + 8:
            assert paced._below.get_write_buffer_size() <= PART
            read += await reader.readexactly(min(PART, len(LARGE) + 8 - len(read)))
            waiting.append(paced.get_write_buffer_size())
        assert read == b"head" + LARGE + b"tail"
        # Those of them that lie within the sockets' buffers are few.
        assert len(set(waiting)) > len(LARGE) // PART // 4
        await until(lambda: owner.told == ["pause", "resume"])

    play(script)


def test_much_in_one_turn_is_no_slowness() -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        paced.set_write_buffer_limits(1000)
        assert paced.get_write_buffer_limits() == (250, 1000)
        paced.write(LARGE)  # nobody reads it
        assert owner.told == ["pause"]
        await reader.readexactly(len(LARGE))
        await until(lambda: owner.told == ["pause", "resume"])
        paced.pause_writing()  # as the proactor says of whatever comes behind the first write in a turn
        for _ in range(IN_A_TURN):
            paced.write(bytes(1000))
        assert owner.told == ["pause", "resume"]
        paced.write(bytes(1000))
        assert owner.told == ["pause", "resume", "pause"]
        paced.resume_writing()
        assert owner.told == ["pause", "resume", "pause", "resume"]

    play(script)


def test_what_the_loop_could_not_send_is_slowness() -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        paced.set_write_buffer_limits(len(LARGE) // 2)
        paced.write(LARGE)
        assert paced.get_write_buffer_size() > len(LARGE) // 2
        assert owner.told == []
        await asyncio.sleep(0)
        paced.resume_writing()
        paced.pause_writing()  # another part is in its first turn
        await asyncio.sleep(0)
        assert owner.told == []
        await until(lambda: owner.told == ["pause"])

    play(script)


def test_short_ones_go_on_together() -> None:
    """Behind one that waits: as many as a part takes, and none is lost or counted twice."""

    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        short = [b"a", b"bc", b"def", bytes(PART - 5), b"gh"]
        below = paced._below.get_write_buffer_size()
        paced.writelines(short)
        assert paced.get_write_buffer_size() == below + PART + 3
        assert await reader.readexactly(len(LARGE)) == LARGE
        assert await reader.readexactly(PART + 3) == b"".join(short)
        await until(lambda: paced.get_write_buffer_size() == 0)
        assert owner.told == ["resume"]  # of what was there before
        paced.set_write_buffer_limits(len(LARGE))
        paced.write(LARGE)
        assert await reader.readexactly(len(LARGE)) == LARGE
        await until(lambda: paced.get_write_buffer_size() == 0)
        assert owner.told == ["resume"]  # it was never too much

    play(script, before=LARGE)


@pytest.mark.parametrize("how", ["close", "write_eof"])
def test_the_end_stands_behind_what_waits(how: str) -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        paced.write(LARGE)
        getattr(paced, how)()
        if how == "close":
            assert paced.is_closing() and not paced.is_reading()
            assert not paced._below.is_closing()  # the proactor's would send no more
            paced.close()
            paced.write(b"too late")
        assert await reader.read() == LARGE
        if how == "write_eof":
            writer.write(b"still heard")
            await until(lambda: owner.received == b"still heard")
            assert not owner.lost.done()
            writer.write_eof()
            await until(lambda: owner.told[-1] == "eof")
            paced.close()
        assert await owner.lost is None

    play(script)


def test_an_end_with_nothing_before_it() -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert paced.can_write_eof() and paced.get_protocol() is owner
        paced.write_eof()
        assert await reader.read() == b""
        paced.close()
        assert await owner.lost is None

    play(script)


def test_reading_is_paused() -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        paced.pause_reading()
        assert not paced.is_reading()
        paced.resume_reading()
        assert paced.is_reading()
        writer.write(b"heard")
        await until(lambda: owner.received == b"heard")

    play(script)


def test_an_abort_drops_what_waits() -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        data = bytearray(LARGE)
        paced.write(data)
        paced.abort()
        paced.write(b"too late")
        assert paced.get_write_buffer_size() == 0
        assert len(await reader.read()) < len(LARGE)
        await owner.lost
        gc.collect()  # PyPy
        data.clear()  # nobody holds it

    play(script)


def test_what_is_written_to_nobody_waits_for_nobody() -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        paced.write(LARGE)
        writer.transport.abort()
        await owner.lost
        assert paced.is_closing()
        paced.write(b"too late")
        assert paced.get_write_buffer_size() == 0

    play(script)


def test_a_transport_that_closes_by_itself_is_closing() -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        paced._below.close()
        assert paced.is_closing()

    play(script)


def test_what_another_protocol_has_written_comes_first() -> None:
    async def script(
        paced: Paced, owner: Owner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        paced.write(b"behind it")
        assert await reader.readexactly(len(LARGE)) == LARGE
        assert await reader.readexactly(9) == b"behind it"
        await until(lambda: owner.told == ["resume"])  # whoever gave it the transport has told it to pause

    play(script, before=LARGE)


def test_who_is_paced() -> None:
    """The proactor's, and nobody else's."""

    async def main() -> None:
        async def handler(ws: zcws.WebSocket) -> None:
            await ws.recv()

        async with zcws.serve(handler, "127.0.0.1", 0) as server:
            async with zcws.connect("ws://{}:{}/".format(*server.sockets[0].getsockname()[:2])) as ws:
                assert isinstance(ws._transport, Paced) == (sys.platform == "win32")
        below = asyncio.Transport()
        assert pace(below, Owner()) is below

    asyncio.run(main())
