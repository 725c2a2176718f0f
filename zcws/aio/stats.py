"""What can be known of a connection by looking at it, and costs nothing while nobody looks.

Bytes are added up once for each read and each write of the socket; everything else is read from where it is kept
anyway. Frames, messages and what compression has saved are not here: somebody would have to count them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zcws.aio.stream import Stream
from zcws.closing import State

__all__ = ["Stats", "stats_of"]


@dataclass(frozen=True)
class Stats:
    """One connection at one moment.

    Attributes:
        bytes_received: of frames, their heads included, before TLS; the opening handshake is not counted.
        bytes_sent: the same for what was handed to the transport.
        bytes_waiting: handed to it or about to be, and not taken by the socket yet.
        frames_waiting: whole frames and pieces of frames that have arrived and have not been read.
        is_slow: whether the transport is above its high-water mark (`write_limit`): the peer does not read fast enough.
        latency: the last round-trip time in seconds; 0.0 before the first Pong.
        state: how far closing has got.
        closed_by: "us", "peer", or "network" where the socket ended without a Close; None while the connection is open.
        close_code, close_reason: why; None while it is open. RFC 6455 7.1.5, 7.1.6.
    """

    bytes_received: int
    bytes_sent: int
    bytes_waiting: int
    frames_waiting: int
    is_slow: bool
    latency: float
    state: State
    closed_by: Literal["us", "peer", "network"] | None
    close_code: int | None
    close_reason: str | None


def stats_of(stream: Stream) -> Stats:
    """A connection as it is now."""
    connection, transport = stream.connection, stream._transport
    return Stats(
        bytes_received=stream._bytes_in,
        bytes_sent=stream._bytes_out,
        bytes_waiting=stream._writer.size + (0 if transport is None else transport.get_write_buffer_size()),
        frames_waiting=stream._reader.rows_waiting,
        is_slow=stream._drained is not None,
        latency=0.0 if stream._pings is None else stream._pings.latency,
        state=connection.state,
        closed_by=_closed_by(stream),
        close_code=connection.close_code,
        close_reason=connection.close_reason,
    )


def _closed_by(stream: Stream) -> Literal["us", "peer", "network"] | None:
    """Whose Close came first; where the peer broke a rule it is ours."""
    connection = stream.connection
    if connection.state is State.OPEN:
        return None
    if connection.failure is not None or connection.state is State.FAILED or connection.reader.discarding:
        return "us"
    if connection.reader.peer_close is not None:
        return "peer"
    return "us" if connection.writer.sent_close is not None else "network"
