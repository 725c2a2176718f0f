"""The way out: back-pressure, corking, and what a transport is given."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import wire
from looks import at_look, knows_looks
from net import LONG, Certificates, Place, RawPeer, echo, port_of, request, soon, swallow, until
from raw import head_of
from tunnel import Http2Place

import zcws
from zcws.aio.below import has_all
from zcws.aio.outlet import Outlet

MEGABYTES = int(os.environ.get("ZCWS_TEST_MEGABYTES", "8"))


def payload_of(number: int, size: int) -> bytes:
    """Bytes that say which message they belong to, and where in it they lie."""
    return random.Random(number).randbytes(size)


def sizes(total: int, seed: int = 1) -> list[int]:
    """Small and large messages, around every boundary of the writer."""
    rnd, chosen = random.Random(seed), list[int]()
    while sum(chosen) < total:
        chosen.append(rnd.choice((100, 5_000, 16_384, 20_000, 33_000, 70_000, 300_000)))
    return chosen


async def read_slowly(peer: RawPeer, chosen: list[int], waited: list[bool]) -> None:
    """Reads the messages and compares them, once the other side has had to wait; with pauses, in which it may again."""
    await until(lambda: any(waited))
    for number, size in enumerate(chosen):
        frame = await peer.read()
        assert frame.opcode == wire.BINARY
        assert frame.payload == payload_of(number, size), f"message {number} of {size} bytes has changed"
        if number % 4 == 0:
            await asyncio.sleep(0.005)


def small_buffers(ours: zcws.WebSocket | None = None, peer: RawPeer | None = None) -> None:
    """Keeps the kernel from taking everything. Less, and loopback's large segments would wait for timers."""
    if peer is not None:
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
    if ours is not None:
        ours.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)


class TestBackPressure:
    """Memory that the transport still holds is never written to again (docs/design.md, "The way out")."""

    @pytest.mark.parametrize("role", ["server", "client"])
    def test_a_buffer_that_is_used_again_for_each_message(self, anyplace: Place, role: str) -> None:
        chosen = sizes(MEGABYTES * 1_000_000)
        waited: list[bool] = []

        async def send_all(ws: zcws.WebSocket) -> None:
            small_buffers(ws)
            memory = bytearray(max(chosen))
            for number, size in enumerate(chosen):
                memory[:size] = payload_of(number, size)
                await ws.send(memoryview(memory)[:size])
                await asyncio.sleep(0)
                waited.append(not ws.is_writable)
                memory[:size] = bytes(size)

        async def main() -> None:
            if role == "server":
                async with anyplace.serve(send_all) as server:
                    async with anyplace.raw_client(server, limit=16 * 1024) as peer:
                        small_buffers(peer=peer)
                        await read_slowly(peer, chosen, waited)
                        await peer.send(wire.CLOSE)
                return

            async def script(peer: RawPeer) -> None:
                small_buffers(peer=peer)
                await read_slowly(peer, chosen, waited)
                await peer.read()
                await peer.send(wire.CLOSE)

            async with anyplace.raw_server(script) as port, anyplace.connect(port) as ws:
                await send_all(ws)

        anyplace.run(main())

    @pytest.mark.parametrize("role", ["server", "client"])
    @pytest.mark.parametrize("origin", list(zcws.PayloadOrigin))
    def test_received_frames_are_written_back(
        self, anyplace: Place, role: str, origin: zcws.PayloadOrigin
    ) -> None:
        """Echo through one PayloadBuffer and the ring, both of which are used again while the answers wait."""
        chosen = sizes(MEGABYTES * 500_000, seed=2)
        waited: list[bool] = []

        async def echo_frames(ws: zcws.WebSocket) -> None:
            small_buffers(ws)
            buffer = zcws.PayloadBuffer()
            while True:
                frame = await ws.read_frame(buffer, origin)
                if frame.opcode is zcws.OpCode.CLOSE:
                    return
                await ws.write_frame(frame)
                await asyncio.sleep(0)
                waited.append(not ws.is_writable)

        async def talk(peer: RawPeer) -> None:
            small_buffers(peer=peer)
            reading = asyncio.ensure_future(read_slowly(peer, chosen, waited))
            for number, size in enumerate(chosen):
                payload = payload_of(number, size)
                if number % 3:
                    await peer.send(wire.BINARY, payload)
                else:
                    await peer.send(wire.BINARY, payload[: size // 2], fin=False)
                    await peer.send(wire.CONTINUATION, payload[size // 2 :])
            await asyncio.wait_for(reading, 10 * LONG)
            await peer.send(wire.CLOSE)
            await peer.read()

        async def main() -> None:
            if role == "server":
                async with anyplace.serve(echo_frames) as server:
                    async with anyplace.raw_client(server, limit=16 * 1024) as peer:
                        await talk(peer)
            else:
                async with anyplace.raw_server(talk) as port, anyplace.connect(port) as ws:
                    await echo_frames(ws)

        anyplace.run(main())

    def test_write_limit(self, place: Place) -> None:
        async def main() -> None:
            async with (
                place.serve(swallow, write_limit=(200_000, 50_000)) as server,
                place.connect(server) as ws,
            ):
                (accepted,) = server.connections
                for connection in (accepted, ws):
                    assert connection._transport is not None
                    if connection is accepted:
                        assert connection._transport.get_write_buffer_limits() == (50_000, 200_000)  # type: ignore[attr-defined]

        place.run(main())

    def test_without_any_write_limit(self, anyplace: Place) -> None:
        """TLS of uvloop took 0 bytes for too many, and sends waited for ever."""

        async def talk(ws: zcws.WebSocket) -> None:
            async def hear() -> None:
                for number in range(300):
                    assert await ws.recv() == str(number)

            hears = asyncio.ensure_future(hear())
            for number in range(300):
                await ws.send(str(number))
            await soon(hears)

        async def main() -> None:
            async with (
                anyplace.serve(talk, write_limit=0) as server,
                anyplace.connect(server, write_limit=0) as ws,
            ):
                await soon(talk(ws))

        anyplace.run(main())

    def test_of_many_tasks_that_wait_to_send_one_is_woken(
        self, anyplace: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each message that had gone out woke all of them: 8,000 tasks took 30 s of CPU."""
        many, waits = 60, 0

        def counted(wait: Callable[[Outlet], Awaitable[None]]) -> Callable[[Outlet], Awaitable[None]]:
            async def wait_once_more(self: Outlet) -> None:
                nonlocal waits
                waits += 1
                await wait(self)

            return wait_once_more

        for wait in ("_until_drained", "_give_way"):
            monkeypatch.setattr(Outlet, wait, counted(getattr(Outlet, wait)))

        async def handler(ws: zcws.WebSocket) -> None:
            await asyncio.gather(*(ws.send(b"%d" % number + bytes(2_000_000)) for number in range(many)))

        async def main() -> None:
            async with anyplace.serve(handler) as server, anyplace.connect(server) as ws:
                got = [await soon(ws.recv(decode=False)) for _ in range(many)]
            assert sorted(int(message.rstrip(b"\0")) for message in got) == list(range(many))

        anyplace.run(main())
        assert 0 < waits < 3 * many

    def test_messages_of_many_tasks_keep_their_order(self, anyplace: Place) -> None:
        """Whoever came when the client took bytes again, or while one task let others run, overtook those that waited:
        0 to 10, 12 to 22, ..., and then 11."""
        many, size = 50, 100_000

        async def handler(ws: zcws.WebSocket) -> None:
            tasks = []
            for number in range(many):
                tasks.append(asyncio.ensure_future(ws.send(b"%d" % number + bytes(size))))
                if number % 7 == 0:
                    await asyncio.sleep(0)
            await asyncio.gather(*tasks)

        async def main() -> None:
            async with anyplace.serve(handler) as server, anyplace.connect(server) as ws:
                got = [await soon(ws.recv(decode=False)) for _ in range(many)]
            assert [int(message.rstrip(b"\0")) for message in got] == list(range(many))

        anyplace.run(main())

    def test_a_task_goes_on_without_its_place_behind_others(self, anyplace: Place) -> None:
        """Else two tasks that send in loops would need a turn of the event loop for each message."""

        async def handler(ws: zcws.WebSocket) -> None:
            async def send_all(name: str) -> None:
                for _ in range(5000):
                    await ws.send(name)

            await asyncio.gather(send_all("a"), send_all("b"))

        async def main() -> None:
            async with anyplace.serve(handler) as server, anyplace.connect(server) as ws:
                got = [await soon(ws.recv()) for _ in range(10_000)]
            assert got.count("a") == got.count("b") == 5000
            changes = sum(one != other for one, other in pairwise(got))
            assert changes < 1000

        anyplace.run(main())

    def test_a_send_that_is_cancelled_in_its_wait_has_written_nothing(self, anyplace: Place) -> None:
        size = 16 << 20  # more than the systems on the way ever find room for

        async def main() -> None:
            done = asyncio.Event()

            async def handler(ws: zcws.WebSocket) -> None:
                number = 0
                while ws.is_writable:
                    await ws.send(b"%d" % number + bytes(size))
                    number += 1
                for _ in range(5):
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(ws.send("never"), 0.01)
                done.set()
                await ws.send(str(number))

            async with anyplace.serve(handler) as server, anyplace.raw_client(server, limit=1024) as peer:
                await soon(done.wait())
                seen = 0
                while (frame := await peer.read()).opcode == wire.BINARY:
                    assert frame.payload == b"%d" % seen + bytes(size)
                    seen += 1
                assert frame.payload == b"%d" % seen
                await peer.send(wire.CLOSE)

        anyplace.run(main())


SERVER = """
import asyncio, sys
import zcws

async def main():
    done = asyncio.Event()

    async def echo(ws):
        try:
            async for message in ws:
                await ws.send(message)
        finally:
            done.set()

    async with zcws.serve(echo, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.wait_for(done.wait(), 60)

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


def can_trace() -> bool:
    strace = shutil.which("strace")
    return (
        strace is not None
        and subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True).returncode == 0
    )


@pytest.mark.parametrize("kind", ["asyncio-transport", "asyncio-tls", "asyncio-http2"])
def test_no_memory_for_what_the_socket_does_not_take(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a frame was out, and what was sent next stood in the middle of it. And asyncio's transport of CPython 3.11
    waited for room to write what it did not have, so the loop turned without an end."""
    monkeypatch.setenv("ZCWS_ENGINE", "0")
    place = Http2Place("asyncio", tls=False) if "http2" in kind else Place("asyncio", None)
    place = Place("asyncio", certificates) if "tls" in kind else place
    reported: list[Any] = []
    told: list[BaseException] = []

    def refuse(*args: Any) -> None:
        raise MemoryError

    async def handler(ws: zcws.WebSocket) -> None:
        if told:
            await echo(ws)
            return
        await asyncio.sleep(0)  # an eager task begins before the handshake's answer has left HTTP/2
        transport: Any = ws._transport
        while type(transport).__module__ != "asyncio.selector_events":
            transport = transport._connection.transport if "http2" in kind else transport._below
        if "http2" in kind:  # whose window is too small for a socket to be full
            transport.write = refuse
        else:
            full = {"extend": refuse, "append": refuse}
            transport._buffer = type("Full", (type(transport._buffer),), full)()
        for _ in range(2):
            try:
                await ws.send(bytes(20_000_000))
            except (MemoryError, zcws.ConnectionClosed) as error:
                told.append(error)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        async with place.serve(handler) as server:
            async with place.connect(server, max_size=None) as ws:
                with pytest.raises(zcws.ConnectionClosedError):
                    await soon(ws.recv())
            async with place.connect(server) as ws:
                await ws.send("hello")
                assert await soon(ws.recv()) == "hello"

    place.run(main())
    assert [type(error) for error in told] == [MemoryError, zcws.ConnectionClosedError]
    assert not reported


class TestCorking:
    """64 pipelined text frames of 256 bytes that arrive in one segment are answered with one `send`."""

    FRAMES, SIZE = 64, 256

    def pipelined(self) -> bytes:
        return wire.frame(wire.TEXT, b"x" * self.SIZE, key=wire.KEY) * self.FRAMES

    @pytest.mark.skipif(not can_trace(), reason="strace is not here, or not allowed")
    def test_as_the_kernel_sees_it(self, place: Place, tmp_path: Path) -> None:
        log = tmp_path / "strace"
        command = ["strace", "-f", "-qq", "-yy", "-o", str(log), "-e", "trace=write,writev,sendto,sendmsg"]
        server = subprocess.Popen(
            [*command, sys.executable, "-c", SERVER, place.loop], stdout=subprocess.PIPE
        )
        assert server.stdout is not None
        answer = self.FRAMES * (self.SIZE + 4)
        try:
            with socket.create_connection(("127.0.0.1", int(server.stdout.readline())), timeout=LONG) as sock:
                sock.sendall(request())
                head = head_of(sock)
                sock.sendall(self.pipelined())
                got = b""
                while len(got) < answer:
                    got += sock.recv(1 << 20)
        finally:
            server.wait()  # it ends with its only connection
            server.stdout.close()
        assert wire.parse(got) == [wire.Seen(wire.TEXT, b"x" * self.SIZE)] * self.FRAMES
        sent = [int(line.rpartition("=")[2]) for line in log.read_text().splitlines() if "<TCP:" in line]
        assert sent == [len(head), answer]

    def test_as_the_transport_sees_it(self, anyplace: Place) -> None:
        async def main() -> None:
            async with anyplace.serve(echo) as server, anyplace.raw_client(server) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                counting = Counting.instead_of_the_transport(ws)
                await peer.send_bytes(self.pipelined())
                for _ in range(self.FRAMES):
                    assert (await peer.read()).payload == b"x" * self.SIZE
                if anyplace.is_tls and sys.version_info < (3, 11):
                    assert len(counting.written) <= 2  # asyncio hands over each TLS record by itself
                else:
                    assert counting.written == [self.FRAMES * (self.SIZE + 4)]
                await peer.send(wire.CLOSE)

        anyplace.run(main())

    def test_a_head_goes_with_its_payload(self, anyplace: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """On asyncio's plain transports, before they have a good `writelines`: 71 us for an echo of 16 KiB, and of one
        byte less 55."""
        monkeypatch.setattr("zcws.aio.outlet._WRITES_ONE_BY_ONE", True)

        async def main() -> None:
            async with anyplace.serve(swallow) as server, anyplace.raw_client(server) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                if ws._own is None:
                    counting = OfAsyncio.instead_of_the_transport(ws)
                    for size in (16_383, 16_384, 60_000, 70_000):
                        await ws.send(bytes(size))
                        await ws.flush()
                        assert len((await peer.read()).payload) == size
                    assert counting.written == [16_387, 16_388, 60_004, 10, 70_000]
                await peer.send(wire.CLOSE)

        anyplace.run(main())

    def test_what_is_written_outside_of_a_read_goes_out_at_the_end_of_the_turn(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(swallow) as server, place.raw_client(server) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                counting = Counting.instead_of_the_transport(ws)
                for _ in range(50):
                    await ws.send(b"x" * 100)
                assert counting.written == []
                for _ in range(50):
                    await peer.read()
                assert counting.written == [50 * 102]
                await ws.send("flushed by hand")
                await ws.flush()
                assert len(counting.written) == 2
                await peer.read()
                for _ in range(100):
                    await ws.send(bytes(10_000))  # 64 KiB are enough to go
                assert len(counting.written) >= 14
                for _ in range(100):
                    await peer.read()
                await peer.send(wire.CLOSE)

        place.run(main())

    @knows_looks
    @pytest.mark.parametrize("size", [10, 100_000])
    def test_a_signal_handler_that_sends_more_than_waits(self, anyplace: Place, size: int) -> None:
        """It sent what was about to be sent, which then went out again; or the second time in its place. Or what had
        been sent before, and was just being handed over, came behind it."""

        async def main() -> None:
            async with anyplace.serve(swallow) as server, anyplace.raw_client(server) as peer:
                await until(lambda: server.connections)
                (ws,) = server.connections
                own, others = bytes(size), bytes(70_000)
                for number in count(1):
                    sent: list[bytes] = []

                    def interrupt(sent: list[bytes] = sent) -> None:
                        ws.send_nowait(others)
                        sent.append(others)

                    with at_look(number, interrupt) as fired:
                        ws.send_nowait(memoryview(own))
                        sent.append(own)
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                    await ws.send("the end")
                    received = [(await peer.read()).payload for _ in range(1 + len(fired))]
                    assert received == sent or (received == sent[::-1] and sent[0] is others)
                    assert (await peer.read()).payload == b"the end"
                    if not fired:
                        break
                await peer.send(wire.CLOSE)

        anyplace.run(main())


class Counting:
    """A transport that counts what it is given, and passes it on."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.written: list[int] = []

    @classmethod
    def instead_of_the_transport(cls, ws: zcws.WebSocket) -> Counting:
        counting: Any = cls(ws._transport)
        ws._transport = counting
        if ws._own is not None:
            ws._own = counting
        return counting  # type: ignore[no-any-return]

    def send_output(self) -> None:
        self.written.append(self._transport.writer.size)
        self._transport.send_output()

    def send_now(self) -> None:
        self.written.append(self._transport.writer.size)
        self._transport.send_now()

    def write(self, data: Any) -> None:
        self.written.append(len(data))
        self._transport.write(data)

    def writelines(self, segments: Any) -> None:
        segments = list(segments)
        self.written.append(sum(len(segment) for segment in segments))
        self._transport.writelines(segments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class OfAsyncio(Counting):
    """The same where asyncio's own is looked for."""

    __module__ = "asyncio.selector_events"


def test_a_look_below_tls_does_not_wait(tls: Place) -> None:
    """On PyPy the look had the descriptor block, and the event loop stood still."""

    async def main() -> None:
        async with tls.serve(echo) as server:
            ws = await tls.connect(port_of(server))
            assert ws._transport is not None and not has_all(ws._transport)
            await ws.send("still here")
            assert await soon(ws.recv()) == "still here"
            await ws.close()

    tls.run(main())
