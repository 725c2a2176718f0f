"""A frame in the ring: when its payload is a copy, and when a view; a lease, while another thread reads on."""

from __future__ import annotations

import pytest
import wire
from arrays import address
from receiver import LOOKS, batch, connect, hold_many, read, send

from zcws.buffer import PayloadBuffer
from zcws.codes import OpCode
from zcws.errors import StaleFrame
from zcws.frame import NEED_MORE, PayloadOrigin, ReceivedFrame
from zcws.pool import Pool
from zcws.ring_frame import NOT_SHOWN, Lease, RingFrame, ring_frame


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

    def test_a_view_is_one_for_c_too(self) -> None:
        """PyPy gave C a copy, at 0.1 µs a byte: whoever sent on 50 KB waited for 2 to 5 ms."""
        connection = connect(Pool(32768))
        ring = connection.reader.landing
        send(connection, wire.frame(wire.BINARY, bytes(20_000)))
        frame = read(connection)
        for view in (frame.payload, frame.payload):
            assert 0 <= address(view) - address(ring.memory) < ring.capacity and view.readonly

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


@pytest.mark.parametrize("opcode", [wire.TEXT, wire.BINARY])
@pytest.mark.parametrize("size", [0, 125, 126, 5000, 65_536])
def test_a_message_that_is_sent_on_is_a_frame_again(opcode: int, size: int) -> None:
    connection = connect(Pool(1 << 17))
    message = wire.frame(opcode, b"x" * size)
    send(connection, message, wire.frame(opcode, b"next"))
    frame = read(connection)
    assert isinstance(frame, RingFrame) and frame._framed() == message
    read(connection)
    for late in (frame._framed, frame._peek):
        with pytest.raises(StaleFrame):
            late()


class ReadOn:
    """A ring whose reader reads on, in another thread, just as somebody looks: what is there is another's."""

    capacity = 100_000

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    @property
    def copies(self) -> bytes:
        self.lease.number += 1
        return b"\xff" * self.capacity

    @property
    def memory(self) -> memoryview:
        return memoryview(self.copies)

    def export(self) -> memoryview:
        return self.memory


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
