"""What a receiver must make of a stream, in the plainest way: the whole stream at once, one frame after the other.

It shares no code with the library, and no way of doing anything: nothing is scanned ahead, nothing arrives in pieces.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import wire

#: RFC 7692 7.2.1: what was taken from the end of a compressed message.
_TAIL = b"\x00\x00\xff\xff"
#: Blocks that give nothing, of both kinds by turns (RFC 1951 3.2.6, 3.2.4), and a byte that is stored: it comes out
#: where a block may begin, and nowhere else.
_PROBE = b"\x02\x00\x00\x00\xff\xff" * 20 + b"\x00\x01\x00\xfe\xff."


class Fault(Exception):
    """The peer broke a rule; what to say in the Close."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Rules:
    """What was agreed, and the limits. `masked`: whether frames have to be; `forgets`: the peer's compressor."""

    masked: bool
    deflated: bool = False
    forgets: bool = False
    max_size: int = 1 << 20
    max_fragments: int = 1 << 16


@dataclass
class Verdict:
    """What has to come of it.

    Attributes:
        messages, controls: opcode and payload, a Close included.
        code: why it ended: the peer's code, 1005 for a Close without one, 1006 for none, or what we say.
        is_fault: whether the peer broke a rule.
        is_unsure: it broke one in what was compressed: which one, and what was answered before, depends on the steps.
    """

    messages: list[tuple[int, bytes]] = field(default_factory=list)
    controls: list[tuple[int, bytes]] = field(default_factory=list)
    code: int = 1006
    is_fault: bool = False
    is_unsure: bool = False


class Model:
    """One reading of one stream."""

    def __init__(self, rules: Rules, stream: bytes) -> None:
        self.rules, self.stream = rules, stream
        self.opcode = self.fragments = self.announced = 0
        self.is_compressed = False
        self.parts: list[bytes] = []
        self.inflater: Any = None
        self.has_any = False

    def run(self) -> Verdict:
        verdict, at = Verdict(), 0
        while True:
            try:
                end = self.frame(at, verdict)
            except Fault as fault:
                verdict.code, verdict.is_fault = fault.code, True
                return verdict
            if end is None:
                return verdict
            at = end

    def some(self, at: int, count: int) -> bytes | None:
        return self.stream[at : at + count] if at + count <= len(self.stream) else None

    def frame(self, at: int, verdict: Verdict) -> int | None:
        """Where the next one begins; None at the end."""
        if (first := self.some(at, 1)) is None:
            return None
        fin, rsv, opcode = bool(first[0] & 0x80), first[0] >> 4 & 7, first[0] & 15
        starts, is_control = opcode in (1, 2), opcode >= 8
        if rsv & 3 or (rsv and not (self.rules.deflated and starts)):
            raise Fault(1002)
        if opcode not in (0, 1, 2, 8, 9, 10) or (is_control and not fin):
            raise Fault(1002)
        if (opcode == 0 and not self.opcode) or (starts and self.opcode):
            raise Fault(1002)
        if (second := self.some(at + 1, 1)) is None:
            return None
        size, extra = second[0] & 0x7F, {126: 2, 127: 8}.get(second[0] & 0x7F, 0)
        if bool(second[0] & 0x80) != self.rules.masked or (is_control and size > 125):
            raise Fault(1002)
        at += 2
        if extra:
            if (more := self.some(at, extra)) is None:
                return None
            size, at = int.from_bytes(more, "big"), at + extra
            if size < (126 if extra == 2 else 1 << 16) or size >> 63:
                raise Fault(1002)
        if not is_control:
            self.begin(opcode, size, fin=fin, deflated=bool(rsv))
        key = b""
        if self.rules.masked:
            if (found := self.some(at, 4)) is None:
                return None
            key, at = found, at + 4
        payload = wire.mask(self.stream[at : at + size], key or bytes(4))
        is_whole = len(payload) == size
        if is_control:
            return self.control(opcode, payload, verdict) and at + size if is_whole else None
        self.take(payload, verdict, last=fin, whole=is_whole)
        return at + size if is_whole else None

    def begin(self, opcode: int, size: int, *, fin: bool, deflated: bool) -> None:
        """From a data frame's head: is it too much?"""
        if opcode:
            self.opcode, self.is_compressed, self.parts = opcode, deflated, []
            self.fragments = self.announced = 0
        limit = self.rules.max_size
        if self.is_compressed:  # incompressible bytes become longer: csrc/scan.c says by how much
            limit += limit // 8 + 64 * (self.fragments + 1)
        if self.announced + size > limit:
            raise Fault(1009)
        # One empty frame more, at the end, is what some senders do at the usual limit: csrc/scan.c.
        is_let_in = fin and not size and self.announced and self.rules.max_fragments >= 1 << 16
        if self.fragments >= self.rules.max_fragments and not is_let_in:
            raise Fault(1009)
        self.announced += size
        self.fragments += 1

    def control(self, opcode: int, payload: bytes, verdict: Verdict) -> int | None:
        """Nothing follows a Close."""
        if opcode == 8 and payload:
            code = int.from_bytes(payload[:2], "big")
            may_be_sent = code in (*range(1000, 1004), *range(1007, 1015), *range(3000, 5000))
            if len(payload) == 1 or not may_be_sent:
                raise Fault(1002)
            if not is_utf8(payload[2:], last=True):
                raise Fault(1007)
        verdict.controls.append((opcode, payload))
        if opcode != 8:
            return 1
        verdict.code = int.from_bytes(payload[:2], "big") if payload else 1005
        return None

    def take(self, payload: bytes, verdict: Verdict, *, last: bool, whole: bool) -> None:
        """A data frame's payload, or what there is of it."""
        if self.is_compressed:
            # What there is of half a frame may have been looked at or not.
            verdict.is_unsure = True
            if not whole:
                return
            payload = self.inflate(payload, last=last)
        self.parts.append(payload)
        message = b"".join(self.parts)
        if len(message) > self.rules.max_size:
            raise Fault(1009)
        if self.opcode == 1 and not is_utf8(message, last=last and whole):
            raise Fault(1007)
        verdict.is_unsure = False
        if last and whole:
            verdict.messages.append((self.opcode, message))
            self.opcode = 0

    def inflate(self, payload: bytes, *, last: bool) -> bytes:
        """RFC 7692 7.2.2. Behind a final block a new stream begins, with nothing before it (7.2.3.4)."""
        if not self.parts:
            self.has_any = False
        self.has_any = self.has_any or bool(payload)
        inflated, most = b"", self.rules.max_size + 1
        data = payload
        try:
            while data:
                self.inflater = self.inflater or zlib.decompressobj(-15)
                inflated += self.inflater.decompress(data, most)
                if len(inflated) >= most:
                    raise Fault(1009)
                if not self.inflater.eof:
                    break
                data, self.inflater = self.inflater.unused_data, None
            if last and self.has_any and self.inflater is not None:
                inflated += self.inflater.decompress(_TAIL, most)
                if not self.inflater.eof:
                    if self.inflater.copy().decompress(_PROBE) != b".":
                        raise Fault(1007)
                elif self.inflater.unused_data:
                    raise Fault(1007)
                else:  # RFC 7692 7.2.1: an empty final block without compression, which the tail has completed
                    self.inflater = None
        except zlib.error:
            raise Fault(1007) from None
        if last and self.rules.forgets:
            self.inflater = None
        return inflated


def is_utf8(data: bytes, *, last: bool) -> bool:
    """Whether it is, or may become."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        # Of what is only cut off, Python says so; at the end of the data.
        return not last and error.reason == "unexpected end of data"
    return True
