"""A frame: what it is, where its payload lies, and for how long it may say so."""

from __future__ import annotations

import array
import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
import raw
import wire
from receiver import batch, connect, hold_many, read, send

from zcws import frame as frame_module
from zcws.buffer import Occupant, PayloadBuffer, Storage
from zcws.codes import CloseCode, OpCode
from zcws.errors import StaleFrame, ZcwsError
from zcws.frame import (
    NEED_MORE,
    NOT_SHOWN,
    Frame,
    Lease,
    NeedMore,
    PayloadOrigin,
    ReceivedFrame,
    _Apart,
    check_frame,
    check_origin,
    ring_frame,
)
from zcws.pool import Pool


class Memory:
    """A source that says how it was asked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[str] = []

    def export(self, start: int, stop: int) -> memoryview:
        self.asked.append("export")
        return memoryview(self.data)[start:stop]

    def peek(self, start: int, stop: int) -> memoryview:
        self.asked.append("peek")
        return memoryview(self.data)[start:stop]

    def keep(self, start: int, stop: int) -> bytes:
        self.asked.append("keep")
        return self.data[start:stop]


# ---- frames to be sent ----

MADE = [
    (Frame.text("schön"), OpCode.TEXT, "schön".encode(), True),
    (Frame.text(b"bytes", fin=False), OpCode.TEXT, b"bytes", False),
    (Frame.binary(b"\0\1"), OpCode.BINARY, b"\0\1", True),
    (Frame.binary(b"", fin=False), OpCode.BINARY, b"", False),
    (Frame.continuation(b"more"), OpCode.CONTINUATION, b"more", False),
    (Frame.continuation(b"end", fin=True), OpCode.CONTINUATION, b"end", True),
    (Frame.ping(b"p"), OpCode.PING, b"p", True),
    (Frame.pong(), OpCode.PONG, b"", True),
    (Frame.close(), OpCode.CLOSE, b"", True),
    (Frame.close(1001, "tschüß"), OpCode.CLOSE, wire.close_payload(1001, "tschüß".encode()), True),
    (Frame(OpCode.BINARY, bytearray(b"array")), OpCode.BINARY, b"array", True),
    (Frame(OpCode.PING, bytes(125)), OpCode.PING, bytes(125), True),
]


@pytest.mark.parametrize(("frame", "opcode", "payload", "fin"), MADE)
def test_what_was_made(frame: Frame, opcode: OpCode, payload: bytes, fin: bool) -> None:
    assert (frame.opcode, frame.fin, len(frame)) == (opcode, fin, len(payload))
    assert frame.payload == frame.to_bytes() == payload


def test_the_payload_is_held_not_copied() -> None:
    mine = bytearray(b"before")
    frame = Frame.binary(mine)
    mine[:] = b"after!"
    assert frame.to_bytes() == b"after!"
    assert frame.payload.obj is mine


@pytest.mark.parametrize(
    "payload", [array.array("I", [1, 2, 3]), memoryview(bytes(12)).cast("B").cast("H", (2, 3))]
)
def test_a_payload_is_counted_in_bytes(payload: object) -> None:
    frame = Frame.binary(payload)  # type: ignore[arg-type]
    assert len(frame) == 12
    assert frame.to_bytes() == memoryview(payload).tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "payload",
    [memoryview(b"a-b-c")[::2], memoryview(b"cba")[::-1], memoryview(array.array("I", [1, 2, 3]))[::2]],
)
def test_what_is_not_contiguous_is_copied(payload: memoryview) -> None:
    """C and `bytes +` take nothing else: a frame that cannot be written would be noticed only then."""
    frame = Frame.binary(payload)
    assert frame.payload.c_contiguous
    assert frame.to_bytes() == frame.payload == payload.tobytes()
    assert len(frame) == payload.nbytes


@pytest.mark.parametrize("opcode", [OpCode.CLOSE, OpCode.PING, OpCode.PONG])
def test_rfc6455_5_5_a_control_frame_is_short_and_whole(opcode: OpCode) -> None:
    with pytest.raises(ValueError, match="fragmented"):
        Frame(opcode, b"", fin=False)
    with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
        Frame(opcode, bytes(126))


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_rfc6455_7_4_codes_that_must_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code} must not be sent"):
        Frame.close(code)
    with pytest.raises(ValueError, match=f"close code {code} must not be sent"):
        Frame(OpCode.CLOSE, wire.close_payload(code))


def test_rfc6455_5_5_control_frames_have_125_bytes_at_most() -> None:
    assert len(Frame.ping(bytes(125))) == 125
    assert len(Frame.close(1000, "x" * 123)) == 125
    for payload in (bytes(126), bytes(200)):
        with pytest.raises(ValueError, match="at most 125 bytes"):
            Frame.ping(payload)
    with pytest.raises(ValueError, match="at most 123 bytes"):
        Frame.close(1000, "x" * 124)


def test_code_and_reason_of_a_close() -> None:
    assert (Frame.close(3000, "enough").close_code, Frame.close(3000, "enough").close_reason) == (
        3000,
        "enough",
    )
    # RFC 6455 7.1.5: no code is 1005.
    assert (Frame.close().close_code, Frame.close().close_reason) == (CloseCode.NO_STATUS_RCVD, "")


def test_no_opcode_that_the_rfc_does_not_have() -> None:
    with pytest.raises(ValueError):
        Frame(3)  # type: ignore[arg-type]


# ---- received frames ----


def test_a_received_frame_asks_its_source_and_holds_nothing_itself() -> None:
    source = Memory("..schön..".encode())
    frame = ReceivedFrame(OpCode.TEXT, source, 2, 8)
    assert (len(frame), frame.fin, source.asked) == (6, True, [])
    # Only a view that leaves is exported: what it lies in has to stay.
    assert frame.payload == "schön".encode()
    assert source.asked == ["export"]
    assert (frame.text, frame.to_bytes()) == ("schön", "schön".encode())
    assert source.asked == ["export"] + ["peek"] * 4
    assert (frame._keep(), frame._keep(2)) == ("schön".encode(), "hön".encode())
    assert source.asked[5:] == ["keep", "keep"]


def test_a_stale_frame_says_so_always() -> None:
    frame = ReceivedFrame(OpCode.CLOSE, Memory(wire.close_payload(1000)), 0, 2)
    frame._source = None
    for use in ("payload", "text", "close_code", "close_reason"):
        with pytest.raises(StaleFrame, match="before the last read"):
            getattr(frame, use)
    with pytest.raises(StaleFrame):
        frame.to_bytes()
    with pytest.raises(StaleFrame):
        frame._keep()
    # What it was is still known.
    assert (frame.opcode, len(frame), frame.fin) == (OpCode.CLOSE, 2, True)
    assert repr(frame) == "<Frame CLOSE, 2 bytes, stale>"
    assert issubclass(StaleFrame, ZcwsError)


def test_repr() -> None:
    assert repr(Frame.text("abc")) == "<Frame TEXT, 3 bytes>"
    assert repr(Frame.continuation(b"abc")) == "<Frame CONTINUATION, 3 bytes, fin=False>"


def test_need_more_is_an_outcome() -> None:
    assert NEED_MORE is NeedMore.NEED_MORE
    assert [origin.name for origin in PayloadOrigin] == ["ADAPTIVE", "CONSISTENT"]


# ---- frames that lie in the ring ----


def test_what_is_no_frame() -> None:
    for frame in (Frame.text("a"), Frame.close()):
        check_frame(frame)
    for wrong in ("a", b"a", None):
        with pytest.raises(TypeError, match="write_frame sends a Frame, not"):
            check_frame(wrong)


def test_what_is_no_origin() -> None:
    for origin in PayloadOrigin:
        check_origin(origin)
    for wrong in ("adaptive", None):
        with pytest.raises(TypeError, match=f"^the origin of read_frame is a PayloadOrigin, not {wrong!r}$"):
            check_origin(wrong)


class TestLookingAtAFrameInTheRing:
    """A short payload that is looked at alone is copied: that costs less than to watch over a view of the ring."""

    def test_it_alone(self) -> None:
        connection = connect()
        ring = connection.reader.landing
        send(connection, wire.frame(wire.BINARY, b"short"))
        view = read(connection).payload
        assert view == b"short" and not ring.is_exported
        ring.memory[:] = bytes(len(ring.memory))
        assert view == b"short"

    @pytest.mark.parametrize("size", [0, 1, 5000])
    def test_nobody_writes_into_it(self, size: int) -> None:
        connection = connect(Pool(16384))
        send(connection, wire.frame(wire.BINARY, bytes(size)), wire.frame(wire.BINARY, bytes(size)))
        for _ in range(2):
            assert read(connection).payload.readonly
        send(connection, *[wire.frame(wire.BINARY, bytes(size))] * 2)
        assert all(view.readonly for view in batch(connection).payloads)

    def test_but_into_a_buffer_of_ones_own(self) -> None:
        connection = connect()
        send(connection, wire.frame(wire.BINARY, b"mine"))
        frame = read(connection, PayloadBuffer(), PayloadOrigin.CONSISTENT)
        frame.payload[0:1] = b"f"
        assert frame.to_bytes() == b"fine"

    def test_one_of_no_bytes(self) -> None:
        connection = connect()
        send(connection, wire.frame(wire.BINARY, b""))
        assert read(connection).payload == b""

    @pytest.mark.parametrize("size", [16384, 16385])
    def test_how_short(self, size: int) -> None:
        pool = Pool(32768)
        connection = connect(pool)
        ring = connection.reader.landing
        send(connection, wire.frame(wire.BINARY, bytes(size)))
        view = read(connection).payload
        assert len(view) == size and ring.is_exported == (size > 16384)

    def test_whoever_goes_on_looking_gets_views(self) -> None:
        connection = connect()
        ring = connection.reader.landing
        send(connection, *[wire.frame(wire.BINARY, bytes([number])) for number in range(3)])
        copy, second, third = (read(connection).payload for _ in range(3))
        assert (copy, second, third) == (b"\0", b"\1", b"\2")
        ring.memory[:] = b"\xff" * len(ring.memory)
        assert (copy, second, third) == (b"\0", b"\xff", b"\xff")

    def test_a_second_look_at_the_same(self) -> None:
        connection = connect()
        send(connection, wire.frame(wire.TEXT, b"twice"))
        frame = read(connection)
        once, again = frame.payload, frame.payload
        assert once == again == b"twice" and frame.text == "twice"
        send(connection, wire.frame(wire.TEXT, b"other"))
        assert read(connection).payload == b"other"
        assert once == again == b"twice"

    def test_after_the_next_arrival_it_is_the_first_again(self) -> None:
        connection = connect()
        for number in range(3):
            ring = connection.reader.landing
            send(connection, wire.frame(wire.BINARY, bytes([number])))
            assert read(connection).payload == bytes([number]) and not ring.is_exported
            assert connection.read_frame() is NEED_MORE

    @pytest.mark.parametrize(
        ("size", "begin", "is_view"), [(8192, 0, True), (9000, 808, True), (9000, 809, False)]
    )
    def test_whoever_keeps_little_of_it_keeps_a_copy(self, size: int, begin: int, is_view: bool) -> None:
        connection = connect(Pool(32768))
        send(connection, wire.frame(wire.BINARY, b"x" * size))
        frame = read(connection)
        assert isinstance(frame, ReceivedFrame)
        kept = frame._keep(begin)
        assert kept == b"x" * (size - begin) and isinstance(kept, memoryview) is is_view
        assert connection.read_frame() is NEED_MORE
        with pytest.raises(StaleFrame):
            frame._keep()
        send(connection, wire.frame(wire.BINARY, b"y" * size))
        assert read(connection).payload == b"y" * size
        assert kept == b"x" * (size - begin)

    def test_it_is_stale_all_the_same(self) -> None:
        connection = connect()
        send(connection, wire.frame(wire.BINARY, b"one"), wire.frame(wire.BINARY, b"two"))
        frame = read(connection)
        assert frame.payload == b"one"
        read(connection)
        with pytest.raises(StaleFrame):
            frame.payload  # noqa: B018


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Frame.ping("x"), "not str: encode it, or make it Frame.text(...)"),
        (lambda: Frame.binary("x" * 126), "not str: encode it, or make it Frame.text(...)"),
        (lambda: Frame.text(5), "not int"),
        (lambda: Frame(OpCode.CONTINUATION, None), "not NoneType"),
    ],
)
def test_a_payload_that_is_none(make: Callable[[], Frame], said: str) -> None:
    """It was said that a message is str or bytes-like, not str."""
    with pytest.raises(TypeError) as wrong:
        make()
    assert str(wrong.value) == f"the payload of a frame is bytes-like, {said}"


class ReadOn:
    """A ring whose reader reads on, in another thread, just as somebody looks: what is there is another's."""

    capacity = 100_000

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    @property
    def copies(self) -> bytes:
        self.lease.number += 1
        return b"\xff" * self.capacity

    def export(self) -> memoryview:
        return memoryview(self.copies)


LOOKS: dict[str, Callable[[Any], object]] = {
    "payload": lambda frame: frame.payload,
    "to_bytes": lambda frame: frame.to_bytes(),
    "text": lambda frame: frame.text,
    "close_reason": lambda frame: frame.close_reason,
    "keep": lambda frame: frame._keep(),
}


@pytest.mark.parametrize("size", [10, 50_000])
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("is_crowded", [False, True])
def test_a_frame_whose_reader_reads_on_while_another_thread_looks(
    look: str, size: int, is_crowded: bool
) -> None:
    pool = Pool(4096)
    views = hold_many(pool) if is_crowded else []
    lease = Lease(pool)
    lease.ring = ReadOn(lease)
    frame = ring_frame(OpCode.TEXT, lease, 0, size, lease.number)
    with pytest.raises(StaleFrame):
        LOOKS[look](frame)
    assert not lease.shown[1]  # whoever has the ring may want to give it back
    assert pool.is_crowded == bool(views)


def counted_by(view: memoryview) -> object:
    """What counts the slices of a view, and lets go of its memory after the last."""
    (counter,) = [each for each in gc.get_referents(view) if type(each).__name__ == "managedbuffer"]
    return counter


def frame_in_a_buffer(memory: bytearray | None) -> Frame:
    connection = connect(Pool(65536))
    send(connection, wire.frame(wire.BINARY, b"x" * 5000))
    frame = connection.read_frame(PayloadBuffer(memory), PayloadOrigin.CONSISTENT)
    assert isinstance(frame, Frame)
    return frame


def frame_in_the_ring(size: int) -> Frame:
    connection = connect(Pool(65536))
    send(connection, wire.frame(wire.TEXT, b"x" * size))
    frame = read(connection)
    frame.payload  # noqa: B018  # the first small one is a copy
    return frame


SEVERAL: dict[str, Callable[[], Frame]] = {
    "to be sent": lambda: Frame.binary(b"x" * 5000),
    "in the ring": lambda: frame_in_the_ring(5000),
    "large": lambda: frame_in_the_ring(50_000),
    "in a buffer": lambda: frame_in_a_buffer(None),
    "in a buffer of the caller's": lambda: frame_in_a_buffer(bytearray(10_000)),
}


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="it is how CPython counts")
@pytest.mark.parametrize("kind", SEVERAL)
def test_what_several_threads_ask_is_counted_apart(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GIL CPython loses count of the slices of one view: its memory was let go of under those that were left,
    or what they were slices of could not be sliced any more."""
    monkeypatch.setattr(frame_module, "_for_slices", _Apart)
    frame = SEVERAL[kind]()
    views = [frame.payload, frame.payload, frame._peek(), frame._peek()]
    assert len({id(counted_by(view)) for view in views}) == len(views)
    assert [bytes(view) for view in views] == [frame.to_bytes()] * len(views)
    assert views[0].readonly == (kind not in ("in a buffer", "in a buffer of the caller's"))


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_threads_ask(kind: str) -> None:
    """This can fail without a GIL only, and did after some hundred rounds."""
    frame = SEVERAL[kind]()

    def ask() -> None:
        for _ in range(5000):
            view = frame.payload
            assert view[0] == view[-1] == 120
            assert len(frame.to_bytes()) == len(view)
            frame._peek()

    with raw.thread(ask), raw.thread(ask):
        ask()


def test_a_lease_makes_no_view_for_a_read_that_is_over() -> None:
    """It would hold the ring of another read; and behind the last one there is none."""
    lease = Lease(Pool(4096))
    lease.ring = ring = lease.pool.lease()
    lease.number += 1
    for _ in range(2):
        with pytest.raises(StaleFrame):
            lease.open(lease.number - 1)
        with pytest.raises(StaleFrame):
            lease.copy(0, 1, lease.number - 1)
        lease.end()
    assert (ring.exports, lease.shown) == ([], NOT_SHOWN)


@pytest.mark.parametrize("memory", [None, bytearray(10)])
def test_a_buffer_that_is_released_while_another_thread_looks(memory: bytearray | None) -> None:
    """It saw an empty payload, between the memory and the number."""
    numbers: list[int] = []

    class Released(PayloadBuffer):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "_storage":
                numbers.append(self.number)
            super().__setattr__(name, value)

    buffer = Released(memory)
    before = buffer.number
    numbers.clear()
    buffer.release()
    assert numbers and before not in numbers


@pytest.mark.parametrize("look", ["payload", "to_bytes", "text", "keep"])
def test_a_buffer_that_is_used_again_while_another_thread_looks(look: str) -> None:
    class UsedAgain(Occupant):
        def _home(self) -> Storage:
            storage = super()._home()
            buffer.begin()
            return storage

    buffer = PayloadBuffer()
    buffer.begin()
    buffer.append(memoryview(b"before"))
    occupant = UsedAgain(buffer, buffer.number, buffer._storage)
    frame = ReceivedFrame(OpCode.TEXT, occupant, 0, 6)
    with pytest.raises(StaleFrame):
        LOOKS[look](frame)
