"""What Linux knows of a TCP connection beyond what a socket does: how far the peer's system has confirmed our bytes.

A send that returns says only that our system has the bytes. A Ping that is written behind two megabytes reaches a peer
on a slow line a minute later; until then, what the peer's system confirms is the only sign of life.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import NamedTuple

__all__ = ["MUCH", "Counts", "counts"]

#: Bytes, more than a Ping of ours inside TLS: a peer whose system confirms as many is taking what waits for it.
MUCH = 4096

#: Of struct tcp_info in include/uapi/linux/tcp.h: tcpi_bytes_acked, tcpi_bytes_received, tcpi_notsent_bytes,
#: tcpi_bytes_sent (with what was sent again), tcpi_bytes_retrans. The last two since Linux 4.19.
_FIELDS = struct.Struct("=120xQQ8xI52xQQ")


class Counts(NamedTuple):
    """Bytes of one connection.

    Attributes:
        received: those that have come from the peer.
        confirmed: those of ours that the peer's system has.
        unconfirmed: those of ours that are under way, or that our system holds back.
    """

    received: int = 0
    confirmed: int = 0
    unconfirmed: int = 0


_UNKNOWN = Counts()


def counts(sock: socket.SocketType | None) -> Counts:
    """What our system has counted. All are 0 where it does not say: elsewhere than on Linux, and where it is no TCP."""
    if sock is None or sys.platform != "linux":
        return _UNKNOWN
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
    except OSError:
        return _UNKNOWN  # no TCP, or no socket any more
    confirmed, received, held, sent, again = _FIELDS.unpack(info.ljust(_FIELDS.size, b"\0"))
    return Counts(received, confirmed, held + max(sent - again - confirmed, 0))
