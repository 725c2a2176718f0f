"""A frame: what it is, where its payload lies, and for how long it may say so."""

from __future__ import annotations

import array
import copy
import gc
import pickle
import sys
from collections.abc import Callable

import pytest
import raw
import wire
from receiver import LOOKS, connect, read, send

from zcws import ring_frame
from zcws.buffer import Occupant, PayloadBuffer, Storage
from zcws.codes import CloseCode, OpCode
from zcws.errors import StaleFrame, ZcwsError
from zcws.frame import NEED_MORE, Frame, NeedMore, PayloadOrigin, ReceivedFrame, check_frame, check_origin
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


#: The ways to make another frame of one.
COPIES: list[Callable[[Frame], Frame]] = [
    copy.copy,
    copy.deepcopy,
    lambda frame: pickle.loads(pickle.dumps(frame)),
]


@pytest.mark.parametrize("travel", COPIES)
@pytest.mark.parametrize(("frame", "opcode", "payload", "fin"), MADE)
def test_a_frame_survives_a_copy(
    frame: Frame, opcode: OpCode, payload: bytes, fin: bool, travel: Callable[[Frame], Frame]
) -> None:
    copied = travel(frame)
    assert (copied.opcode, copied.to_bytes(), copied.fin) == (opcode, payload, fin)


@pytest.mark.parametrize("travel", COPIES)
@pytest.mark.parametrize("origin", PayloadOrigin)
def test_the_copy_of_a_received_frame_is_the_programs(
    travel: Callable[[Frame], Frame], origin: PayloadOrigin
) -> None:
    connection, buffer = connect(), PayloadBuffer()
    send(connection, wire.frame(wire.BINARY, b"first"))
    frame = read(connection, buffer, origin)
    copied = travel(frame)
    send(connection, wire.frame(wire.TEXT, b"other"))
    read(connection, buffer, origin)
    assert type(copied) is Frame
    assert (copied.opcode, copied.to_bytes(), copied.fin) == (OpCode.BINARY, b"first", True)
    with pytest.raises(StaleFrame):
        travel(frame)


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
    monkeypatch.setattr(ring_frame, "_for_slices", ring_frame._Apart)
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
