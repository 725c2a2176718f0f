"""A client's connection whose server is the test: what is sent here has arrived there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import wire

from zcws.batch import Batch
from zcws.connection import Connection
from zcws.errors import ConnectionClosedError
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE, Frame
from zcws.kernel import lib
from zcws.pool import Pool

__all__ = [
    "DEFLATE",
    "SMALL",
    "NoMemory",
    "batch",
    "connect",
    "either",
    "fails",
    "hold_many",
    "read",
    "receive_row",
    "rings",
    "send",
]

#: Bytes of a small ring: the smallest that there is where pages are larger (16 KiB on Apple's machines).
SMALL = max(4096, lib.zcws_page_size())

DEFLATE = Agreement(deflate=DeflateParameters())

#: With both kinds of ring.
either = pytest.mark.parametrize("mirrored", [True, False], ids=["mirrored", "unmirrored"])

#: The ways to look at what a frame carries.
LOOKS: dict[str, Callable[[Any], object]] = {
    "payload": lambda frame: frame.payload,
    "to_bytes": lambda frame: frame.to_bytes(),
    "text": lambda frame: frame.text,
    "close_reason": lambda frame: frame.close_reason,
    "keep": lambda frame: frame._keep(),
    "framed": lambda frame: frame._framed(),  # of a frame in the ring
}


def connect(pool: Pool | None = None, **settings: Any) -> Connection:
    """In small rings, unless the pool has others."""
    return Connection(is_client=True, entropy=os.urandom, pool=pool or Pool(SMALL), **settings)


def send(connection: Connection, *frames: bytes) -> None:
    """All of it, and there has to be room for it."""
    data = b"".join(frames)
    assert connection.receive_bytes(data) == len(data)


def send_one_by_one(connection: Connection, *frames: bytes) -> None:
    """The same in as many arrivals: fragments that arrive together are one row (csrc/scan.c)."""
    for frame in frames:
        send(connection, frame)


def read(connection: Connection, *args: Any) -> Frame:
    """The next frame, which has to be there; arguments as those of `read_frame`."""
    frame = connection.read_frame(*args)
    assert frame is not NEED_MORE
    return frame


def batch(connection: Connection) -> Batch:
    """The next batch, which has to be there."""
    frames = connection.reader.read_batch()
    assert isinstance(frames, Batch)
    return frames


def rings(pool: Pool) -> int:
    """Rings that the pool has at hand."""
    return len(pool._spare) + (pool.landing is not None)


def hold_many(pool: Pool) -> list[memoryview]:
    """Views of as many rings as the pool sets aside: keep them, and the next one is not."""
    views = []
    while True:
        ring = pool.lease()
        views.append(ring.export()[0:1])
        if not pool.set_aside(ring):
            return views


def receive_row(connection: Connection, data: bytes) -> list[int] | bool:
    """`data` lands where the reader says, which is idle: the row of a message that came alone, which the driver may
    hand on, or whether what the reader has taken was news."""
    reader = connection.reader
    assert reader.is_idle
    connection.get_buffer()[: len(data)] = data
    if reader.pours:
        return reader.received(len(data))
    found, row = reader.scan_landing(len(data)), reader.pool.first_row.tolist()
    if found == 1 and reader.message_of(reader.landing, *row) is not None:
        return row
    return reader.take_found(len(data), found)


class NoMemory:
    """Instead of memory that is sliced, or of a function that makes some."""

    def __getitem__(self, _: object) -> Any:
        raise MemoryError

    def __call__(self, *_: object, **__: object) -> Any:
        raise MemoryError


def fails(connection: Connection, attempt: Callable[[], object]) -> None:
    """`attempt` finds no memory, and then nothing is read any more: something would be missing before it."""
    with pytest.raises(MemoryError):
        attempt()
    (close,) = wire.parse(connection.bytes_to_send())
    assert (close.opcode, close.payload[:2]) == (wire.CLOSE, (1011).to_bytes(2, "big"))
    reader = connection.reader
    reader.end_stream()
    for again in (attempt, reader.read_message, reader.read_frame, reader.read_batch, reader.read_piece):
        with pytest.raises(ConnectionClosedError, match="no memory") as caught:
            again()
        assert (type(caught.value), caught.value.by) == (ConnectionClosedError, "us")
    assert connection.wants_close
