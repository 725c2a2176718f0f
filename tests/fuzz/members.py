"""One connection of a crowd (crowd.py): how it is read, and what has to come of that."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import wire
from fuzz.peers import ENDS, Peer, Plan
from fuzz.read import check_messages

import zcws

if TYPE_CHECKING:
    from fuzz.crowd import Crowd

#: How a step reads.
WAYS = ("message", "next", "frame", "buffer", "consistent", "batch", "pieces")
#: More pieces than a message has.
ALL = 1 << 30


class Member(Peer):
    """One connection of the crowd, and its peer."""

    def __init__(self, crowd: Crowd, plan: Plan, where: str, **habits: Any) -> None:
        super().__init__(random.Random(crowd.rng.random()), plan)
        self.where = where  # it lives: places.py
        self.crowd, self.habits = crowd, habits
        self.ws: Any = None
        self.task: Any = None  # reads it, if one does
        self.read = 0  # messages
        self.is_over = self.is_disturbed = False
        self.held: list[tuple[memoryview, bytes]] = []
        self.last: list[tuple[zcws.Frame, bytes]] = []  # good until the next read
        self.buffer = zcws.PayloadBuffer()

    def see(self, opcode: int, payload: bytes, *, is_whole: bool = True) -> None:
        at = (self.plan.number, self.read)
        if not is_whole and self.read == len(self.plan.messages):
            assert self.plan.end == "half" and self.plan.half.startswith(payload), at
            return
        assert self.read < len(self.plan.messages), (at, "one too many", payload[:50])
        expected = self.plan.messages[self.read]
        self.read += 1
        seen = (opcode, payload) if is_whole else (opcode, payload + expected[1][len(payload) :])
        assert seen == expected, (at, expected[1][:50], payload[:50], len(expected[1]), len(payload))

    def see_frame(self, shown: zcws.Frame) -> None:
        if shown.opcode >= zcws.OpCode.CLOSE:
            assert shown.opcode is zcws.OpCode.CLOSE or shown.to_bytes() == b"%d" % self.plan.number
            return
        copy = shown.to_bytes()
        self.see(shown.opcode, copy)
        self.last.append((shown, copy))
        if self.rng.random() < 0.4:
            self.held.append((shown.payload, copy))
        while len(self.held) > self.habits["holds"]:
            view, copy = self.held.pop(self.rng.randrange(len(self.held)))
            assert view == copy, (self.plan.number, "a held view has changed", copy[:50])

    def look_back(self) -> None:
        """The next read is about to begin: what the last one gave is as it was."""
        for shown, copy in self.last:
            if not shown.is_stale or not self.is_disturbed:
                assert shown.to_bytes() == copy, (self.plan.number, "a frame has changed", copy[:50])
        self.last.clear()

    def on_frame(self, _ws: zcws.WebSocket, shown: zcws.Frame) -> None:
        with self.crowd.noting():
            self.see_frame(shown)
            self.crowd.disturb(self)
            self.last.clear()

    def on_message(self, _ws: zcws.WebSocket, message: str | bytes) -> None:
        with self.crowd.noting():
            self.see(*wire.taken_apart(message))
            self.crowd.disturb(self)

    async def step(self, way: str) -> None:
        """Reads once."""
        self.look_back()
        ws, patiently, buffer = self.ws, self.crowd.patiently, self.buffer
        if way == "frame" or (way in ("buffer", "consistent") and buffer.reader not in (None, ws._reader)):
            self.see_frame(await patiently(ws.read_frame))
        elif way in ("buffer", "consistent"):
            origin = zcws.PayloadOrigin.ADAPTIVE if way == "buffer" else zcws.PayloadOrigin.CONSISTENT
            self.see_frame(await patiently(lambda: ws.read_frame(buffer, origin)))
        elif way == "batch":
            batch = await patiently(ws.batches().__anext__)
            check_messages(batch)
            for shown in batch:
                self.see_frame(shown)
        elif way == "pieces" and ws._reader._assembly is None:
            await self.read_pieces(self.rng.choice([1, 3, ALL]))
        else:
            message = await patiently(ws.recv if way == "message" else ws.__anext__)
            self.see(*wire.taken_apart(message))

    async def read_pieces(self, most: int) -> None:
        async with self.ws.stream() as stream:
            pieces: list[Any] = []
            with contextlib.suppress(StopAsyncIteration):
                while len(pieces) < most:
                    pieces.append(await self.crowd.patiently(stream.__anext__))
        opcode, payload = wire.taken_apart(pieces[0][:0].join(pieces)) if pieces else (None, b"")
        empty = self.plan.messages[self.read][0] if not pieces else opcode
        self.see(empty or 0, payload, is_whole=len(pieces) < most)

    def end(self, error: BaseException | None = None) -> None:
        self.is_over = True
        self.look_back()
        if self.is_disturbed or self.plan.end == "reset":
            return
        at = (self.plan.number, self.plan.end, error)
        assert not isinstance(error, zcws.ProtocolError), at
        assert self.read == len(self.plan.messages), (
            at,
            self.read,
            len(self.plan.messages),
            self.sent,
            self.ws.close_code,
        )
        code = error.code if isinstance(error, zcws.ConnectionClosed) else self.ws.close_code
        assert code == ENDS[self.plan.end], (at, code)
