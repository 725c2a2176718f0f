"""What the engine does with bytes for many connections, without an engine: they land behind each other in the pool's
common ring, and each connection is shown its rows (`Inlet.take_scan`, `Reader.message_of`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from zcws.connection import Connection
from zcws.frame import Frame
from zcws.kernel import lib
from zcws.pool import TABLE_ROWS, Pool
from zcws.ring import Ring
from zcws.rows import ROW, Rows, copy_words


class Arrival(NamedTuple):
    """The bytes of one connection in the common ring, scanned; the arguments of `take_scan`."""

    ring: Ring
    begin: int
    stop: int
    count: int
    words: Rows

    @property
    def row(self) -> list[int]:
        """The first row."""
        at = lib.ZCWS_TABLE_HEAD
        return list(self.words[at : at + ROW])

    @property
    def rows(self) -> Iterator[tuple[int, int, int]]:
        """All rows, as the engine hands them to `Reader.show_few`."""
        words = iter(self.words[lib.ZCWS_TABLE_HEAD :])
        return zip(words, words, words, strict=True)


def arrive(pool: Pool, connection: Connection, data: bytes, at: int = 0) -> Arrival:
    """`data` lies in the common ring from `at` on, and has been scanned for `connection`."""
    ring = pool.common
    if ring is None:
        ring = pool.common = pool.lease()
    stop = at + len(data)
    ring.memory[at:stop] = data
    state = connection.reader.state
    count = lib.zcws_scan(state, ring.base, at, stop, pool.table, TABLE_ROWS)
    used = lib.ZCWS_TABLE_HEAD + ROW * (count % lib.ZCWS_NEWS)
    return Arrival(ring, at, stop, count, copy_words(pool.words[:used]))


def take(pool: Pool, connection: Connection, data: bytes, at: int = 0) -> Ring:
    """The same, and the connection has taken it; the ring."""
    arrival = arrive(pool, connection, data, at)
    connection.reader.take_scan(*arrival)
    return arrival.ring


def arrive_as_frame(pool: Pool, connection: Connection, data: bytes, at: int = 0) -> tuple[Ring, int, Frame]:
    """The same where that is one frame: the ring, where the frame ends there, and it, good until `drop_frame`."""
    arrival = arrive(pool, connection, data, at)
    frame = connection.reader.frame_of(arrival.ring, arrival.begin, *arrival.row)
    assert frame is not None
    return arrival.ring, arrival.stop, frame
