"""Raw peers for crowd.py: what each sends, and that nothing reaches it that is somebody else's."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import zlib
from bisect import bisect
from typing import Any

import wire

#: How a peer ends, and the code that is seen then: in the middle of a frame, too, and with a RST.
ENDS = {"close": 4000, "close and more": 1000, "eof": 1006, "half": 1006, "reset": None}
#: Those round 4 and 64 KiB are where C treats frames that come in parts in another way (csrc/turn.c).
SIZES = (0, 1, 5, 30, 200, 1000, 3000, 20_000, 4_090, 65_580, 70_000, 300_000, 1_500_000)
#: Most are small: many of them lie beside each other in one ring then.
WEIGHTS = (1, 2, 6, 9, 9, 9, 6, 4, 2, 2, 2, 0.5, 0.1)


class Plan:
    """What a peer sends: `messages`, and `stream`, in which they are; frames begin at `starts`."""

    def __init__(self, rng: random.Random, number: int, *, masked: bool, deflated: bool) -> None:
        self.number, self.masked, self.deflated = number, masked, deflated
        self.keys = wire.keys(number)
        self.messages: list[tuple[int, bytes]] = []
        self.stream, self.starts = bytearray(), list[int]()
        largest = rng.choice([4, 8, len(SIZES)])
        for _ in range(rng.choice([1, 20, 80, 80])):
            if rng.random() < 0.01:  # more than a table takes
                for _ in range(rng.choice([3, 100, 1500])):
                    self.add(rng, 1)
            else:
                self.add(rng, rng.choices(SIZES[:largest], WEIGHTS[:largest])[0])
            if rng.random() < 0.1:
                self.put(wire.PING, b"%d" % number)
        self.end = rng.choice(list(ENDS))
        self.half = self.payload(rng.choice([9, 1000, 400_000]))
        if self.end.startswith("close"):
            self.put(wire.CLOSE, wire.close_payload(ENDS[self.end] or 0))
        if self.end == "close and more":
            self.stream += b"nobody looks at this"
        elif self.end == "half":
            self.put(wire.BINARY, self.half)
            del self.stream[-rng.randrange(1, 9) :]

    def payload(self, size: int) -> bytes:
        mark = b"<%d.%d>" % (self.number, len(self.messages))
        return (mark * (size // len(mark) + 1))[:size] if size > 4 else bytes([65 + self.number]) * size

    def put(self, opcode: int, payload: bytes, **bits: Any) -> None:
        self.starts.append(len(self.stream))
        self.stream += wire.frame(opcode, payload, key=next(self.keys) if self.masked else None, **bits)

    def add(self, rng: random.Random, size: int) -> None:
        """One message: in one frame or in several, with Pings between them, compressed perhaps."""
        opcode, payload = rng.choice([wire.TEXT, wire.BINARY]), self.payload(size)
        self.messages.append((opcode, payload))
        rsv = 4 if self.deflated and rng.random() < 0.5 else 0
        data = wire.deflate(payload) if rsv else payload
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0] * 12 + [1, 2, 20])))
        for i, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(data)], strict=True)):
            self.put(0 if i else opcode, data[start:stop], fin=i == len(cuts), rsv=0 if i else rsv)
            if i < len(cuts) and rng.random() < 0.2:
                self.put(wire.PING, b"%d" % self.number)


class Peer:
    """The other end of one connection: `sent` bytes of its plan so far, and what it was `told`, or may be."""

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.rng, self.plan = rng, plan
        self.peer: Any = None  # a socket, or something like one: places.py
        self.sent, self.inbox, self.told = 0, bytearray(), set[bytes]()
        self.has_ended = False

    def push(self) -> None:
        """The peer sends more, or ends."""
        left, rng = len(self.plan.stream) - self.sent, self.rng
        # Most often a frame, or a few: what is whole is served together with that of others.
        ends = self.plan.starts[bisect(self.plan.starts, self.sent) :]
        some = (ends[:3] or [len(self.plan.stream)])[
            min(rng.choice([0, 0, 0, 0, 0, 2]), max(len(ends[:3]) - 1, 0))
        ]
        parts = (some - self.sent, rng.randrange(50), rng.randrange(left + 1), left)
        size = min(left, rng.choices(parts, (20, 2, 0.5, 0.3 if len(ends) > 100 else 0.05))[0])
        with contextlib.suppress(OSError):  # it is full, or has been aborted
            if left:
                self.sent += self.peer.send(bytes(self.plan.stream[self.sent : self.sent + size]))
            elif not self.has_ended:
                self.has_ended = True
                if self.plan.end == "reset":
                    self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.peer.close()
                elif self.plan.end != "close" or not self.plan.masked:
                    self.peer.shutdown(socket.SHUT_WR)

    def pull(self) -> None:
        """The peer receives: frames of nobody else, every one of them whole."""
        with contextlib.suppress(OSError):
            while data := self.peer.recv(1 << 18):
                self.inbox += data
            self.peer.shutdown(socket.SHUT_WR)
        while (end := _end_of_frame(self.inbox)) is not None:
            (seen,) = wire.parse(bytes(self.inbox[:end]))
            del self.inbox[:end]
            assert seen.masked != self.plan.masked and seen.fin, seen
            payload = _inflated(seen.payload) if seen.rsv else seen.payload
            if seen.opcode == wire.PONG:
                assert seen.payload == b"%d" % self.plan.number
            elif seen.opcode != wire.CLOSE:
                assert seen.opcode in (wire.TEXT, wire.BINARY)
                assert payload in self.told, (self.plan.number, payload[:50])


def _inflated(payload: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")


def _end_of_frame(data: bytearray) -> int | None:
    """Where the first frame ends; None where it is not whole."""
    form = data[1] & 0x7F if len(data) > 1 else 0
    extra = {126: 2, 127: 8}.get(form, 0)
    begin = 2 + extra + (4 if len(data) > 1 and data[1] & 0x80 else 0)
    size = int.from_bytes(data[2 : 2 + extra], "big") if extra else form
    return begin + size if len(data) >= max(begin, begin + size) else None
