"""Invariant: of many connections in one event loop each delivers what its peer has sent, and nothing else, however they
are read and whatever they do to each other; a view that is held does not change; no ring is in two places.

A crowd is made from a seed: 1 to 30 raw peers whose messages have their number in every byte, cut anywhere, with many
sockets ready in one turn. Tasks read one connection or several, each time in another way; functions are shown frames.
Between reads they write to others, abort and close them, cancel their tasks. By hand, from one seed to another:

    python tests/fuzz/crowd.py 0 500 uvloop
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

if __name__ == "__main__":
    #: Of this checkout, whatever else is installed: the tests, and the library.
    sys.path[:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import net
from fuzz import seeds
from fuzz.members import WAYS, Member
from fuzz.peers import Plan
from fuzz.places import PLACES, open_pair
from fuzz.streams import Peers

import zcws
from zcws import pool, ring_frame
from zcws.aio.settings import pool_of
from zcws.closing import State
from zcws.extensions import Agreement, DeflateParameters

T = TypeVar("T")


class Crowd:
    """All of them, and what they do to each other."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.members: list[Member] = []
        self.failures: list[BaseException] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.is_violent = self.rng.random() < 0.4
        self.is_mixed = self.rng.random() < 0.5

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """What is wrong is told at the end: here the library would catch it."""
        try:
            yield
        except Exception as error:
            self.failures.append(error)

    async def patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """A read that is cancelled has lost nothing, and is begun again."""
        while True:
            try:
                return await read()
            except asyncio.CancelledError:
                if self.failures or all(member.is_over for member in self.members):
                    raise

    def disturb(self, member: Member) -> None:
        """What a handler does between two reads, to its own connection or to another one."""
        rng = member.rng
        other = rng.choice([member, *self.members])
        if rng.random() * len(member.plan.messages) > 30 or other.ws.state is not State.OPEN:
            return
        word = b"to %d " % other.plan.number * rng.choice([1, 1, 30, 10_000, 50_000])
        with contextlib.suppress(zcws.ConnectionClosed):
            match rng.randrange(12 if self.is_violent else 9):
                case 0 | 1:
                    other.told.add(word)
                    other.ws.send_nowait(rng.choice([bytes, bytearray, memoryview])(word))
                case 2 | 3 if member.last and not member.last[-1][0].is_stale:
                    other.told.add(member.last[-1][1])
                    other.ws.write_frame_nowait(member.last[-1][0])
                case 4:
                    some = [each for each in self.members if rng.random() < 0.5]
                    for each in some:
                        each.told.add(word)
                    zcws.broadcast([each.ws for each in some], word)
                case 5 if other.task is not None:
                    other.task.cancel()
                case 9 | 10:
                    other.is_disturbed = True
                    other.ws.begin_close(4001)
                case 11:
                    other.is_disturbed = True
                    other.ws.abort()

    async def read(self, members: list[Member]) -> None:
        """One task that reads several connections."""
        for member in members:
            member.task = asyncio.current_task()
        while members:
            member = self.rng.choice(members)
            with self.noting():
                try:
                    await member.step(self.rng.choice([member.habits["way"], self.rng.choice(WAYS)]))
                    self.disturb(member)
                except (zcws.ConnectionClosed, StopAsyncIteration) as error:
                    members.remove(member)
                    member.end(error)
            if self.failures:
                return
            for _ in range(self.rng.choice([0] * 20 + [1, 3])):
                await self.patiently(lambda: asyncio.sleep(0))

    def ending(self, member: Member) -> Callable[[zcws.WebSocket], None]:
        def end(_ws: zcws.WebSocket) -> None:
            with self.noting():
                member.end()

        return end

    async def gather(self) -> None:
        """Everybody comes."""
        rng = self.rng
        peers = Peers(random.Random(rng.random()))
        for number in range(rng.choice([1, 2, 5, 5, 12, 12, 30])):
            is_client, shown = rng.random() < 0.4, rng.choice([None] * 6 + ["on_frame", "on_message"])
            deflated = rng.random() < 0.3
            plan = Plan(rng, number, masked=not is_client, deflated=deflated)
            where = rng.choice(PLACES) if self.is_mixed else "engine"
            member = Member(self, plan, where, way=rng.choice(WAYS), holds=rng.choice([0, 0, 0, 0, 1, 5]))
            look = {shown: getattr(member, shown)} if shown else {}
            member.ws, member.peer = await open_pair(
                where, peers, agreement=_agreement(deflated), is_client=is_client, **look
            )
            self.members.append(member)
            if shown:
                member.ws.add_end_callback(self.ending(member))

    def check_rings(self) -> None:
        """Each is in one place, and nobody holds a view of one that is free."""
        rings = pool_of(asyncio.get_running_loop())
        free = [*rings._spare, *filter(None, [rings.landing])]
        used = [member.ws._reader._ring for member in self.members]
        places = [*free, *rings._aside, *rings._spare_wide, *filter(None, [rings.common, *used])]
        assert len(set(map(id, places))) == len(places), "one ring in two places"
        assert not any(ring.is_exported for ring in free), "a free ring is held"

    def report(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody has caught. One thing is asyncio's: its TLS raises in itself where a transport is aborted while
        it hands over what it has left at its end."""
        if "cannot switch state" not in str(context.get("exception")):
            self.failures.append(RuntimeError(str(context)))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self.report)
        await self.gather()
        readers = [member for member in self.members if member.ws._look is None]
        while readers:
            some = [readers.pop() for _ in range(min(len(readers), self.rng.choice([1, 1, 1, 1, 2, 3])))]
            self.tasks.append(loop.create_task(self.read(some)))
        end = loop.time() + net.LONG
        while not self.failures and not all(member.is_over for member in self.members):
            assert loop.time() < end, [member.plan.end for member in self.members if not member.is_over]
            for member in self.members:  # many sockets are ready in one turn
                if self.rng.random() < 0.6:
                    member.push()
                if self.rng.random() < 0.4:
                    member.pull()
            for _ in range(self.rng.choice([0, 1, 2, 2, 3])):
                await asyncio.sleep(0)
            self.check_rings()

    async def main(self) -> None:
        try:
            await self.run()
        except AssertionError as error:
            self.failures.append(error)
        for member in self.members:
            member.ws.abort()
            member.peer.close()
        for task in self.tasks if self.failures else ():
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0)
        for view, copy in [each for member in self.members for each in member.held]:
            assert view == copy, ("a held view has changed", copy[:50])
        if self.failures:
            raise self.failures[0]


def _agreement(deflated: bool) -> Agreement:
    """No context: the peers have none."""
    parameters = DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True)
    return Agreement(deflate=parameters if deflated else None)


def check(seed: int, run: Callable[[Any], None] = asyncio.run) -> None:
    """One crowd. Short payloads are views of the ring, too; and of rings that are held few wait for that to end."""
    before = ring_frame._COPIED, pool._RINGS_ASIDE
    crowd = Crowd(seed)
    ring_frame._COPIED, pool._RINGS_ASIDE = crowd.rng.choice([-1, -1, before[0]]), crowd.rng.choice([0, 8, 8])
    try:
        run(crowd.main())
    finally:
        ring_frame._COPIED, pool._RINGS_ASIDE = before


if __name__ == "__main__":
    seeds.try_each(check)
