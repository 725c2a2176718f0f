"""Channels of every kind, each with the socket at its other end."""

from __future__ import annotations

import socket
import ssl

import raw
from net import Certificates

from zcws.sync.channel import NOTHING, Channel

__all__ = ["Pair", "receive", "tls_pair"]

Pair = tuple[Channel, socket.socket]


def tls_pair(certificates: Certificates) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    ours, theirs = raw.socket_pair()
    made: list[ssl.SSLSocket] = []
    with raw.thread(lambda: made.append(certificates.server.wrap_socket(theirs, server_side=True))):
        client = certificates.client.wrap_socket(ours, server_hostname="localhost")
    return client, made[0]


def receive(channel: Channel, timeout: float | None = raw.LONG, size: int = 100) -> bytes | int:
    """What has been received; else why not."""
    buffer = memoryview(bytearray(size))
    count = channel.receive(buffer, timeout)
    if count == NOTHING and (timeout is None or timeout > 1):
        count = channel.receive(buffer, timeout)  # this time it sleeps
    assert channel.record.received == max(count, 0)
    channel.record.received = 0
    return bytes(buffer[:count]) if count > 0 else count
