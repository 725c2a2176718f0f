"""Invariant: whatever is done to the sockets of an engine, each delivers what its peer has sent and sends what it has
been given, in order; whose peer has gone hears of it; and an engine with nothing to do is not called.

A machine is made from a seed: one to five sockets at a time, Unix and TCP, for connections of ours that are read in
several ways, and for a protocol that is not ours. They are paused and gone on with, written to beyond what a socket
takes, closed, aborted and half-closed from both sides, between the turns of the loop and from inside of them; others
take their places and their descriptors. By hand, from one seed to another:

    python tests/fuzz/machine.py 0 500 uvloop
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    #: Of this checkout, whatever else is installed: the tests, and the library.
    sys.path[:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import net
import wire
from fuzz import seeds

import zcws
from zcws.aio.engine import Engine, engine_of
from zcws.aio.transport import place
from zcws.closing import State

#: What is sent: any part of this. Two parts are never alike, so that an order cannot be mistaken.
_NOISE = random.Random(6455).randbytes(1 << 20)

#: Turns of the loop in which everything that is going on comes to its end, unless somebody waits for a clock.
_TURNS = 50


class Alien(asyncio.BufferedProtocol):
    """A protocol that is not ours, so that it is served alone."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._memory = memoryview(bytearray(64 * 1024))
        self.keeps_half = line.rng.random() < 0.5  # open, behind the peer's end
        self.has_seen_end, self.losses, self.is_full = False, 0, False

    def get_buffer(self, _: int) -> memoryview:  # type: ignore[override]
        return self._memory

    def buffer_updated(self, count: int) -> None:
        self._line.see(self._memory[:count])

    def eof_received(self) -> bool:
        self.has_seen_end = True
        return self.keeps_half

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False

    def connection_lost(self, _: Exception | None) -> None:
        self.losses += 1


class Line:
    """One socket of the engine, with its peer's end.

    Attributes:
        coming: what the peer has sent and nobody has seen. going: what we have been given and the peer has not got.
        is_gone, is_half_gone: what the peer has closed.
        is_ended, is_half_ended: what we have, the first of them so that not all has to arrive.
        has_seen_end: whether the peer has got what is behind all that we have been given.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.rng = machine.rng
        ours, self.peer = _pair(self.rng)
        self.kind = self.rng.choice(["task", "task that waits", "shown", "alien"])
        self.coming, self.going, self._left = bytearray(), bytearray(), b""
        self.is_gone = self.is_half_gone = self.is_ended = self.is_half_ended = False
        self.is_paused = self.has_seen_end = False
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.task: asyncio.Task[None] | None = None
        if self.kind == "alien":
            self.alien = Alien(self)
            self.transport: Any = place(asyncio.get_running_loop(), ours, self.alien)
            return
        self.ws = net.placed(
            ours, on_frame=self._on_frame if self.kind == "shown" else None, close_timeout=0.2
        )
        self.transport = self.ws._transport
        if self.kind != "shown":
            self.task = asyncio.ensure_future(self._read())

    # ---- our end ----

    def see(self, data: Any) -> None:
        with self._machine.noting():
            assert not self.is_paused, ("read while it is paused", self)
            assert self.coming.startswith(data), ("not what was sent", self)
            del self.coming[: len(data)]
            self._machine.meddle()

    def _on_frame(self, _: zcws.WebSocket, frame: zcws.Frame) -> None:
        self.see(frame.payload)

    async def _read(self) -> None:
        with contextlib.suppress(zcws.ConnectionClosed):
            while True:
                await self.may_read.wait()
                self.see(await self.ws.recv())

    def give(self, data: bytes) -> None:
        if self.kind == "alien":
            if not (self.transport.is_closing() or self.is_half_ended):
                self.going += data
                self.transport.write(data)
        elif self.ws.state is State.OPEN:
            self.going += wire.frame(wire.BINARY, data)
            self.ws.send_nowait(data)

    def pause(self) -> None:
        """Or goes on."""
        if self.kind == "task that waits":
            (self.may_read.clear if self.may_read.is_set() else self.may_read.set)()
        elif self.kind == "alien" and not self.transport.is_closing():
            self.is_paused = not self.is_paused
            (self.transport.pause_reading if self.is_paused else self.transport.resume_reading)()

    def go_on(self) -> None:
        if self.is_paused or not self.may_read.is_set():
            self.pause()

    def half_end(self) -> None:
        if self.kind == "alien" and not self.transport.is_closing():
            self.is_half_ended = True
            self.transport.write_eof()

    def end(self) -> None:
        self.is_ended = True
        ways = [self.transport.abort, self.transport.close]
        if self.kind != "alien" and self.ws.state is State.OPEN:
            ways.append(self._begin_close)
        self.rng.choice(ways)()

    def _begin_close(self) -> None:
        self.going += wire.frame(wire.CLOSE, struct.pack("!H", 4001))
        self.ws.begin_close(4001)

    # ---- the peer's ----

    def push(self) -> None:
        """Sends what it has to say, or some of it."""
        most = self.rng.choice([1, 10, 5000, 1 << 30, 1 << 30])
        while self._left and most > 0 and not self.is_gone:
            try:
                count = self.peer.send(self._left[:most])
            except BlockingIOError:
                return
            except OSError:
                self._go()
                return
            self._left, most = self._left[count:], most - count

    def pull(self) -> None:
        while not self.is_gone:
            try:
                data = self.peer.recv(1 << 20)
            except BlockingIOError:
                return
            except OSError:
                self._go()
                return
            if not data:
                self.has_seen_end = True
                return
            assert self.going.startswith(data), ("not what was given", self)
            del self.going[: len(data)]

    def say(self, data: bytes) -> None:
        if not (self.is_gone or self.is_half_gone):
            frame = wire.frame(wire.BINARY, data, key=wire.KEY)
            self.coming += frame if self.kind == "alien" else data
            self._left += frame

    def _half_go(self) -> None:
        if not self._left and not self.is_gone:
            self.is_half_gone = True
            with contextlib.suppress(OSError):  # it is broken already
                self.peer.shutdown(socket.SHUT_WR)

    def _go(self) -> None:
        self.is_gone, self._left = True, b""
        if self.peer.family == socket.AF_INET and self.rng.random() < 0.5:
            self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        self.peer.close()

    # ---- both ----

    def act(self) -> None:
        """One thing, on one of both ends."""
        rng = self.rng
        chance = rng.random()
        if chance < 0.4:
            self.say(_some(rng, [0, 1, 9, 200, 2000, 20_000, 70_000, 300_000]))
        elif chance < 0.5:
            self.pause()
        elif chance < 0.75:
            self.give(_some(rng, [1, 100, 5000, 100_000, 600_000]))
        elif chance < 0.9:
            self.pull()
        elif chance < 0.92:
            self._half_go()
        elif chance < 0.94:
            self._go()
        elif chance < 0.96:
            self.end()
        elif chance < 0.97:
            self.half_end()
        else:
            self.transport.get_extra_info("socket")  # an object of another class, from then on

    @property
    def is_done(self) -> bool:
        """Whether everything has arrived that has to."""
        if self.is_ended or self.is_gone:
            return True
        if self.coming or self._left:
            return False
        if self.is_half_gone and not (self.kind == "alien" and self.alien.keeps_half):
            return True
        assert self.transport.fd >= 0, ("nobody has ended it", self)
        assert self.is_half_ended or not self.has_seen_end, ("nobody has ended it", self)
        is_full = self.kind == "alien" and self.alien.is_full
        return not (self.going or is_full) and self.has_seen_end == self.is_half_ended

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or need not."""
        if self.kind == "alien":
            assert self.alien.losses < 2, ("lost twice", self)
            if self.alien.losses or (self.alien.keeps_half and self.alien.has_seen_end):
                return True
        return self.transport.fd < 0 or not self.is_gone

    def __repr__(self) -> str:
        said = {name: value for name, value in vars(self).items() if name.startswith("is_") and value}
        return f"<{self.kind} {self.transport} {said} coming={len(self.coming)} going={len(self.going)}>"


class Machine:
    """The sockets of one engine."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.lines: list[Line] = []
        self.failures: list[BaseException] = []
        self._meddles = self.rng.random() < 0.5
        self._steps = self.rng.choice([30, 100, 200])
        self._called = 0

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """What is wrong is told at the end: here the library would catch it."""
        try:
            yield
        except Exception as error:
            self.failures.append(error)

    def meddle(self) -> None:
        """Something happens to any of them while one is served."""
        if self._meddles and self._steps and self.rng.random() < 0.2:
            self.step()

    def step(self) -> None:
        """Something happens to any of them; or there is one more."""
        live = [line for line in self.lines if not (line.is_gone or line.is_ended)]
        if len(live) < self.rng.choice([1, 2, 5]):
            self.lines.append(Line(self))
        for line in self.rng.sample(self.lines, min(len(self.lines), self.rng.choice([1, 2, 3]))):
            if not line.is_gone:
                line.act()

    async def run(self) -> None:
        while self._steps and not self.failures:
            self._steps -= 1
            self.step()
            for line in self.lines:
                if self.rng.random() < 0.5:
                    line.push()
            for _ in range(self.rng.choice([0, 1, 1, 2])):
                await asyncio.sleep(0)
        for line in self.lines:
            line.go_on()
        await self.until(lambda line: line.is_done)
        await self.until(lambda line: line.is_over)
        await self.check_rest()

    async def until(self, holds: Callable[[Line], bool]) -> None:
        """Until it holds for all of them, while the peers take and give what they can."""
        loop = asyncio.get_running_loop()
        end, turns = loop.time() + net.LONG, 0
        while not self.failures and not all(map(holds, self.lines)):
            assert loop.time() < end, [line for line in self.lines if not holds(line)]
            for line in self.lines:
                line.push()
                line.pull()
            turns += 1
            await asyncio.sleep(0 if turns < 1000 else 0.001)

    async def check_rest(self) -> None:
        """Nobody has anything to do."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        before = self._called
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        # An end may come, of those that wait for a clock.
        assert self._called - before < _TURNS // 2, ("it spins", self.lines)

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """How often an engine is called that is made inside of this."""
        turn = Engine._turn

        def counted(engine: Engine, *serve: Any) -> None:
            self._called += 1
            turn(engine, *serve)

        with mock.patch.object(Engine, "_turn", counted):
            yield

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.failures.append(RuntimeError(str(context))))
        with self.noting(), self.counting():
            await self.run()
        self._steps = 0
        for line in self.lines:
            line.transport.abort()
            line.peer.close()
        tasks = [line.task for line in self.lines if line.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures[0]
        assert not engine_of(loop)._transports, "some are left"


def _pair(rng: random.Random) -> tuple[socket.socket, socket.socket]:
    """Our end of a connection, and the peer's."""
    if rng.random() < 0.5:
        ours, peer = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)  # a little fills it
    for sock in (ours, peer):
        sock.setblocking(False)
    return ours, peer


def _some(rng: random.Random, sizes: list[int]) -> bytes:
    size = rng.choice(sizes)
    start = rng.randrange(len(_NOISE) - size)
    return _NOISE[start : start + size]


def check(seed: int, run: Callable[[Any], None] = asyncio.run) -> None:
    """One machine."""
    run(Machine(seed).main())


if __name__ == "__main__":
    seeds.try_each(check)
