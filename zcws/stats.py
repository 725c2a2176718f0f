"""What can be known of a connection by looking at it, and costs nothing while nobody looks.

Who counts what, so that looking is all that is left to do:

    bytes that arrive              the C core, once for each read
    bytes that leave               the writer, when they are taken
    frames, messages that arrive   the C core (csrc/scan.c), while it reads their heads
    frames, messages that leave    the writer: one addition for each
    what compression saves         the codec, beside work that costs a thousand times as much
    everything else                nobody: it is read from where it is kept anyway
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from zcws.closing import State
from zcws.connection import Connection
from zcws.errors import Closer

__all__ = ["Known", "Stats", "shown", "shown_server", "stats_of"]


class Stats(NamedTuple):
    """One connection at one moment.

    Attributes:
        bytes_received: bytes of frames, their heads included, before TLS; the opening handshake is not counted.
        bytes_sent: the same for what was handed to the transport or the socket.
        frames_received: frames that have arrived whole, control frames included, whether or not they have been read.
        frames_sent: frames that have been written, control frames included.
        messages_received, messages_sent: the same for whole messages.
        inflated: bytes of compressed messages that have been read, as they arrived and as they were handed on.
            RFC 7692.
        deflated: bytes of messages that went out compressed, before and after compression.
        bytes_waiting: written, and not taken by the socket yet.
        frames_waiting: whole frames and pieces of frames that have arrived and have not been read.
        is_slow: whether a `send` would wait, because the peer does not read fast enough.
        latency: the last round-trip time in seconds; 0.0 before the first Pong.
        state: how far closing has got.
        closed_by: "us", "peer", or "network" where the socket ended without a Close; None while the connection is open.
        close_code, close_reason: why; None while it is open. RFC 6455 7.1.5, 7.1.6.
    """

    bytes_received: int
    bytes_sent: int
    frames_received: int
    frames_sent: int
    messages_received: int
    messages_sent: int
    inflated: tuple[int, int]
    deflated: tuple[int, int]
    bytes_waiting: int
    frames_waiting: int
    is_slow: bool
    latency: float
    state: State
    closed_by: Closer | None
    close_code: int | None
    close_reason: str | None

    @property
    def ratio_received(self) -> float | None:
        """How many bytes came out of one compressed byte that arrived; None before the first."""
        wire, plain = self.inflated
        return plain / wire if wire else None

    @property
    def ratio_sent(self) -> float | None:
        """How many bytes went into one compressed byte that left; None before the first."""
        plain, wire = self.deflated
        return plain / wire if wire else None


class Known:
    """What an open connection says of itself, whatever drives it."""

    __slots__ = ()

    connection: Connection

    _driver = ""  # how it is driven, for `repr`

    def _address(self, *, peer: bool) -> Any:
        """Our end of the socket, or the peer's, as far as the driver knows it."""
        raise NotImplementedError  # each driver has its own

    @property
    def local_address(self) -> Any:
        """Our end of the socket: `(host, port, ...)`, or a path. Still known after the connection has ended."""
        return self._address(peer=False)

    @property
    def remote_address(self) -> Any:
        """The peer's end of the socket: `(host, port, ...)`, or a path. Still known after the connection has ended.

        None if the peer had reset the connection before it was open.
        """
        return self._address(peer=True)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed. RFC 6455 1.9."""
        return self.connection.agreement.subprotocol

    @property
    def state(self) -> State:
        """How far closing has got."""
        return self.connection.state

    @property
    def closed(self) -> bool:
        """Whether closing has begun, or the connection is over, however that came: nothing more can be sent."""
        return self.connection.state is not State.OPEN

    @property
    def close_code(self) -> int | None:
        """Why the connection ended; None while it is open. RFC 6455 7.1.5."""
        return self.connection.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with the code; None while it is open. RFC 6455 7.1.6."""
        return self.connection.close_reason

    def __repr__(self) -> str:
        return shown("WebSocket", self.connection, self.remote_address, self._driver)


def shown(kind: str, connection: Connection, peer: Any, driver: str = "") -> str:
    """For `repr`: a connection, or a part of it."""
    role = "client" if connection.is_client else "server"
    # "": a Unix socket that was bound to no path.
    return f"<{kind} {role}{f' with {peer}' if peer else ''}, {driver}{connection.state.value}>"


def shown_server(places: Iterable[Any], state: str, connections: int) -> str:
    """The same of a server: the addresses at which it listens, and how many it serves."""
    where = " and ".join(map(repr, places))
    return f"<Server{f' at {where}' if where else ''}, {state}, {connections} open>"


def stats_of(
    connection: Connection,
    *,
    bytes_received: int,
    bytes_sent: int,
    bytes_waiting: int,
    is_slow: bool,
    latency: float,
) -> Stats:
    """A connection as it is now; the arguments are what only its driver knows."""
    reader, writer = connection.reader, connection.writer
    return Stats(
        bytes_received=bytes_received,
        bytes_sent=bytes_sent,
        frames_received=reader.frames,
        frames_sent=writer.frames,
        messages_received=reader.messages,
        messages_sent=writer.messages,
        inflated=reader.inflated,
        deflated=writer.deflated,
        bytes_waiting=bytes_waiting,
        frames_waiting=reader.rows_waiting,
        is_slow=is_slow,
        latency=latency,
        state=connection.state,
        closed_by=connection.closed_by,
        close_code=connection.close_code,
        close_reason=connection.close_reason,
    )
