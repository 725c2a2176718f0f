"""Invariant: a connection reads any bytes, in any cut and in any way, to the same messages and the same end; it raises
ProtocolError and ConnectionClosed and nothing else; no message is over `max_size`; what it sends is frames; and what
comes of it is what the plainest receiver makes of the same bytes (model.py).

Six ways: frames (in the ring, in a buffer, in memory of the caller's that may be too small), messages, batches, pieces.
A seventh takes turns among them: there only the kind of end can be asserted, as pieces that are left are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from random import Random

import wire
from fuzz.material import Material, cuts
from fuzz.model import Model, Rules, Verdict

from zcws.assembly import BAD_BUFFER_SIZE, BAD_DEFLATE, BAD_MESSAGE_SIZE, BAD_UTF8
from zcws.batch import Batch
from zcws.buffer import PayloadBuffer
from zcws.codes import OpCode
from zcws.connection import Connection
from zcws.errors import FAULTS, ConnectionClosed, ProtocolError
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE, Frame, PayloadOrigin
from zcws.pool import Pool

AGREEMENTS = (
    Agreement(),
    Agreement(deflate=DeflateParameters()),
    Agreement(deflate=DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True)),
    Agreement(deflate=DeflateParameters(server_max_window_bits=9, client_max_window_bits=9)),
    Agreement(no_masking=True),
    Agreement(no_masking=True, deflate=DeflateParameters()),
)
SIZES = (1 << 20, 1 << 20, 1 << 20, 20_000, 300, 20, 0)
COUNTS = (1 << 16, 1 << 16, 1 << 16, 3, 1)
#: Bytes of a ring: so few that frames wrap around, are larger than it, and are received past it.
RING = 16 * 1024
#: What a stretched stream grows by, times 1 to 16: past the ring, and past the 16 KiB from which on bytes land.
UNIT = 6_000
#: Ways in which what comes of it is known (model.py): not into memory that may be too small, and not by turns.
JUDGED_WAYS = (0, 1, 2, 3, 6, 7, 8)
#: How far ahead of its bytes a payload buffer may grow (zcws/buffer.py).
AHEAD = 128 * 1024

#: "message", opcode, payload; or the name of a control frame.
Event = tuple[int, bytes]
#: Reads what there is; raises as the reader does.
Read = Callable[[], Iterator[Event]]


def check_messages(batch: Batch) -> None:
    """The messages of a batch are its frames, without Ping, Pong and Close."""
    messages = [wire.taken_apart(message) for message in batch.messages]
    assert messages == [
        (int(frame.opcode), frame.to_bytes()) for frame in batch if frame.opcode < OpCode.CLOSE
    ]


@dataclass
class Outcome:
    """What came of it."""

    messages: list[Event] = field(default_factory=list)
    controls: list[Event] = field(default_factory=list)
    half: bytes = b""  # of a message whose end has not come, in pieces
    ending: tuple[type[ConnectionClosed], int, str, bool] | None = None
    sent: bytes = b""


class Reading:
    """One connection, and the ways to read it."""

    def __init__(self, make: Callable[[], Connection], max_size: int) -> None:
        self.connection = make()
        self.max_size = max_size
        self.buffer = PayloadBuffer()
        self.brought = PayloadBuffer(bytearray(64))
        self.half = b""

    def one(self, frame: Frame) -> Event:
        payload = bytes(frame.payload)
        assert payload == frame.to_bytes()
        if frame.opcode is OpCode.TEXT:
            assert frame.text.encode() == payload
        return int(frame.opcode), payload

    def frames(
        self, buffer: PayloadBuffer | None = None, origin: PayloadOrigin = PayloadOrigin.ADAPTIVE
    ) -> Iterator[Event]:
        while (frame := self.connection.read_frame(buffer, origin)) is not NEED_MORE:
            yield self.one(frame)

    def batches(self) -> Iterator[Event]:
        while (batch := self.connection.reader.read_batch()) is not NEED_MORE:
            check_messages(batch)
            yield from [self.one(frame) for frame in batch]

    def messages(self) -> Iterator[Event]:
        while (message := self.connection.read_message()) is not NEED_MORE:
            yield wire.taken_apart(message)

    def pieces(self) -> Iterator[Event]:
        reader = self.connection.reader
        while True:
            if reader.streaming is None:
                reader.begin_stream()
                self.half = b""
            piece = reader.read_piece()
            if piece is NEED_MORE:
                return
            data, last = piece
            self.half += data.encode() if isinstance(data, str) else data
            assert len(self.half) <= self.max_size
            if last:
                message, self.half = self.half, b""
                yield int(OpCode.TEXT if isinstance(data, str) else OpCode.BINARY), message

    def turns(self, chance: Random) -> Iterator[Event]:
        """Another way each time; a message that is being streamed is left now and then."""
        ways: list[Read] = [partial(self.frames, *options) for options in self.options()]
        while True:
            way = chance.choice([*ways, self.batches, self.messages, self.pieces])
            if way == self.pieces:
                try:
                    yield from self.some_pieces(chance)
                except RuntimeError as error:
                    assert "a stream begins with a message" in str(error)
                continue
            event = next(way(), None)
            if event is None:
                return
            yield event

    def some_pieces(self, chance: Random) -> Iterator[Event]:
        reader = self.connection.reader
        reader.begin_stream()
        try:
            while reader.streaming is not None and chance.random() < 0.8:
                piece = reader.read_piece()
                if piece is NEED_MORE:
                    return
                yield int(OpCode.BINARY), piece[0].encode() if isinstance(piece[0], str) else piece[0]
        finally:
            reader.end_stream()

    def options(self) -> Iterator[tuple[PayloadBuffer | None, PayloadOrigin]]:
        for buffer in (None, self.buffer, self.brought):
            for origin in PayloadOrigin:
                yield buffer, origin

    def ways(self, chance: Random) -> list[Read]:
        frames = [partial(self.frames, *options) for options in self.options()]
        return [*frames, self.batches, self.messages, self.pieces, partial(self.turns, chance)]

    def check_memory(self, arrived: int) -> None:
        """Memory grows with what has arrived (inflating multiplies that by 1032 at most), and not past the limit."""
        assert self.buffer.capacity <= 2 * min(self.max_size, 1032 * arrived) + AHEAD + 4096


def read_all(reading: Reading, read: Read, outcome: Outcome) -> None:
    """Reads until nothing is left, and takes what has been written meanwhile."""
    try:
        for opcode, payload in read():
            assert len(payload) <= (125 if opcode >= OpCode.CLOSE else reading.max_size)
            (outcome.controls if opcode >= OpCode.CLOSE else outcome.messages).append((opcode, payload))
    except ConnectionClosed as error:
        outcome.ending = (type(error), error.code, error.reason, error.clean)
    outcome.half = reading.half
    outcome.sent += reading.connection.bytes_to_send()


def arrive(connection: Connection, data: memoryview, chance: Random) -> int:
    """Some of `data`, copied or received straight into the connection's memory. Returns how much."""
    if chance.random() < 0.5:
        return connection.receive_bytes(data)
    room = connection.get_buffer()
    count = min(len(room), len(data))
    room[:count] = data[:count]
    if count:
        connection.received(count)
    return count


def run(reading: Reading, way: int, pieces: Iterable[bytes], chance: Random) -> Outcome:
    """Each piece is one arrival; everything is read after each. Then the stream ends."""
    outcome = Outcome()
    read, arrived = reading.ways(chance)[way], 0
    for piece in pieces:
        data = memoryview(piece)
        while data and outcome.ending is None:
            used = arrive(reading.connection, data, chance)
            arrived += used
            read_all(reading, read, outcome)
            assert used or outcome.ending, "it takes no bytes although everything has been read"
            data = data[used:]
            reading.check_memory(arrived)
    if outcome.ending is None:
        reading.connection.receive_eof()
        read_all(reading, read, outcome)
    assert outcome.ending is not None, "the stream has ended, and the reader waits"
    check_end(reading, outcome)
    return outcome


def check_end(reading: Reading, outcome: Outcome) -> None:
    """It stays over, and what was sent is frames; the last of them says why, where the peer broke a rule."""
    again = Outcome()
    if not reading.connection.reader.is_at_eof:
        reading.connection.receive_bytes(b"\x81\x01a\x88\x00")
    read_all(
        reading, reading.messages if reading.connection.reader.streaming is None else reading.pieces, again
    )
    assert (again.ending, again.messages) == (outcome.ending, [])
    kind, code, _, _ = outcome.ending or (ConnectionClosed, 0, "", False)
    frames = wire.parse(outcome.sent)
    assert all(frame.opcode == wire.PONG for frame in frames[:-1])
    if issubclass(kind, ProtocolError):
        assert frames[-1].opcode == wire.CLOSE and int.from_bytes(frames[-1].payload[:2], "big") == code


def starts_like(one: list[Event] | bytes, other: list[Event] | bytes) -> bool:
    shortest = min(len(one), len(other))
    return one[:shortest] == other[:shortest]


#: What can be wrong with a compressed message once it is inflated (zcws/assembly.py).
INFLATED = {FAULTS[fault][1] for fault in (BAD_DEFLATE, BAD_UTF8, BAD_MESSAGE_SIZE, BAD_BUFFER_SIZE)}


def twice_wrong(one: Outcome, other: Outcome) -> bool:
    """A compressed message has more than one of these faults: which of them is found first depends on the steps in
    which it is inflated, and they on how it arrived. It is refused at the same place all the same."""
    return {outcome.ending[2] for outcome in (one, other) if outcome.ending} <= INFLATED


def too_far(one: Outcome, other: Outcome) -> bool:
    """A compressed message may have referred further back than the window that was agreed to: see inflate.py."""
    return FAULTS[BAD_DEFLATE][1] in {outcome.ending[2] for outcome in (one, other) if outcome.ending}


def check_same(whole: Outcome, slow: Outcome, deflate: DeflateParameters | None) -> None:
    if deflate and deflate.server_max_window_bits < 15 and too_far(whole, slow):
        assert starts_like(whole.messages, slow.messages)
        return
    same = whole.ending == slow.ending or (deflate is not None and twice_wrong(whole, slow))
    assert same, (whole.ending, slow.ending)
    assert whole.messages == slow.messages, "other messages"
    assert starts_like(whole.half, slow.half)
    # A Ping behind a message that turns out to be broken when it is read has been answered, where both came together.
    assert starts_like(pongs(whole), pongs(slow))
    if not (whole.ending and issubclass(whole.ending[0], ProtocolError)):
        assert (whole.controls, whole.sent) == (slow.controls, slow.sent)


def pongs(outcome: Outcome) -> list[Event]:
    return [(frame.opcode, frame.payload) for frame in wire.parse(outcome.sent) if frame.opcode == wire.PONG]


def disagreement(verdict: Verdict, outcome: Outcome) -> str:
    """What is other than it has to be; "" where nothing is."""
    kind, code, _, clean = outcome.ending or (ConnectionClosed, 0, "", False)
    is_fault = issubclass(kind, ProtocolError)
    if verdict.is_unsure:
        if code not in (1007, 1009) if is_fault else verdict.is_fault:
            return f"it ended with {code}"
    elif (is_fault, code) != (verdict.is_fault, verdict.code):
        return f"it ended with {code}, and not with {verdict.code}"
    if outcome.messages != verdict.messages:
        return "other messages"
    sent = [(frame.opcode, frame.payload) for frame in wire.parse(outcome.sent)]
    answers = [(wire.PONG, payload) for opcode, payload in verdict.controls if opcode == wire.PING]
    if verdict.is_unsure:
        # Pings behind what is wrong have been answered, where they came with it.
        return "" if sent[: len(answers)] == answers else "other answers"
    if verdict.is_fault:
        opcode, why = sent.pop() if sent else (0, b"")
        if opcode != wire.CLOSE or int.from_bytes(why[:2], "big") != code:
            return "no Close that says why"
    elif verdict.code != 1006:
        # RFC 6455 5.5.1: the Close, echoed.
        answers.append(verdict.controls[-1])
    if clean is (verdict.is_fault or verdict.code == 1006):
        return "clean or not"
    return "" if sent == answers else "other answers"


def rules_of(agreement: Agreement, *, is_client: bool, max_size: int, max_fragments: int) -> Rules:
    """The same for the model."""
    deflate = agreement.deflate
    forgets = deflate is not None and (
        deflate.server_no_context_takeover if is_client else deflate.client_no_context_takeover
    )
    masked = not is_client and not agreement.no_masking
    return Rules(masked, deflate is not None, forgets, max_size, max_fragments)


def may_look_too_far(agreement: Agreement) -> bool:
    """Whether a peer may refer further back than was agreed to, which is found out or not: see inflate.py."""
    return agreement.deflate is not None and agreement.deflate.server_max_window_bits < 15


def check(data: bytes) -> None:
    material = Material(data)
    is_client = bool(material.byte() & 1)
    agreement = material.one_of(AGREEMENTS)
    max_size, max_fragments = material.one_of(SIZES), material.one_of(COUNTS)
    way, chance = material.byte(), material.random()
    make = partial(
        Connection,
        is_client=is_client,
        entropy=bytes,
        agreement=agreement,
        max_size=max_size,
        max_fragments=max_fragments,
        pool=Pool(RING, mirrored=chance.random() < 0.7),
    )
    stream = material.stretched(UNIT)
    reading = Reading(make, max_size)
    way %= len(reading.ways(chance))
    whole = run(reading, way, [stream], chance)
    slow = run(Reading(make, max_size), way, cuts(stream, chance), chance)
    if way in JUDGED_WAYS and not may_look_too_far(agreement):
        rules = rules_of(agreement, is_client=is_client, max_size=max_size, max_fragments=max_fragments)
        said = disagreement(Model(rules, stream).run(), whole)
        assert not said, said
    if way == len(reading.ways(chance)) - 1:
        assert (whole.ending is None) == (slow.ending is None)
    else:
        check_same(whole, slow, agreement.deflate)
