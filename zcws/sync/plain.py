"""A plain socket for which the kernel keeps the time; and which socket gets which channel.

socket            its channel      who keeps the time of a wait
----------------  ---------------  ---------------------------------------------------------------------------------
plain, POSIX      `PlainChannel`   to receive, the kernel (SO_RCVTIMEO): one system call, where poll and then recv
                                   are two; to send, poll where the socket takes nothing
plain, elsewhere  `PolledChannel`  poll or select (polled.py): Windows has one timeout for both directions
TLS               `TlsChannel`     the same
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zcws.annotations import Buffer
from zcws.inlet import Inlet
from zcws.kernel import ffi, lib
from zcws.output import MOST_SEGMENTS, behind
from zcws.polling import may_poll
from zcws.pool import TABLE_ROWS, Pool
from zcws.ring import Ring
from zcws.scratch import SCRATCH_CAPACITY, Scratch, masked_size
from zcws.sync.channel import ENDED, Channel, is_ready
from zcws.sync.deadline import after, left
from zcws.sync.polled import PolledChannel, TlsChannel

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["PlainChannel", "open_channel"]

_receive, _receive_into, _receive_more = lib.zcws_receive, lib.zcws_receive_into, lib.zcws_receive_more
_send_masked = lib.zcws_send_masked

#: Where `struct timeval` is two longs: every 64-bit POSIX. On 32 bits it depends on how libc was compiled.
_KERNEL_TIMES = os.name == "posix" and struct.calcsize("@l") == 8

#: A plain int, because the member of an enumeration is slower. Windows has no such flag, and needs none.
_AT_ONCE = int(getattr(socket, "MSG_DONTWAIT", 0))


class PlainChannel(Channel):
    """A TCP or Unix socket for which the kernel keeps the time."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.record.fd = self._fd
        self.record.waits.never = not may_poll()
        sock.settimeout(None)
        self._timeout: float | None = None
        self._ring: Ring | None = None  # where C receives: the reader's landing ring

    def scan(self, inlet: Inlet, timeout: float | None) -> int:
        """One crossing."""
        try:
            self._inside.appendleft(None)
            if timeout != self._timeout:
                self._limit_receiving(timeout)
            ring = inlet.pool.landing
            if ring is None or ring is not self._ring:
                self._aim(inlet)
            if self.sock.fileno() < 0:
                return ENDED  # the program has closed its socket, and another may have that descriptor
            found: int = _receive(self.record)
            return self._ended() if found == ENDED else found
        finally:
            del self._inside[0]
            if self.is_over:
                self._close()

    def _ended(self) -> int:
        code = self.record.error
        if code and code != errno.EBADF:  # EBADF: another thread has closed it meanwhile
            self.cause = OSError(code, os.strerror(code))
        return ENDED

    def _aim(self, inlet: Inlet) -> None:
        pool, ring, record = inlet.pool, inlet.landing, self.record
        self._ring = None  # until it is done: a signal handler may raise in the middle
        self._kept = inlet.state, pool.table  # kept alive: C has their addresses
        record.reader, record.table, record.rows = inlet.state, pool.table, TABLE_ROWS
        record.base, record.capacity = ring.base, ring.capacity
        self._ring = ring

    def rest(self, pool: Pool) -> None:
        self._ring = None  # `scan` aims anew
        super().rest(pool)

    def receive(self, buffer: memoryview, timeout: float | None) -> int:
        return self._receive_by(_receive_into, buffer, timeout)

    def receive_more(self, buffer: memoryview, timeout: float | None, wanted: int) -> int:
        return self._receive_by(_receive_more, buffer, timeout, wanted)

    def _receive_by(
        self, receive: Callable[..., int], buffer: memoryview, timeout: float | None, *wanted: int
    ) -> int:
        try:
            self._inside.appendleft(None)
            if timeout != self._timeout:
                self._limit_receiving(timeout)
            if self.sock.fileno() < 0:
                return ENDED
            # Not the socket's own method: what that has received is lost if a signal handler raises right after it.
            count = receive(self.record, ffi.from_buffer(buffer), len(buffer), *wanted)
            return self._ended() if count == ENDED else count
        finally:
            del self._inside[0]
            if self.is_over:
                self._close()

    def _limit_receiving(self, timeout: float | None) -> None:
        """How long receiving may wait, from now on."""
        # Equal to no other, until it is done: a signal handler may raise in the middle.
        self._timeout = math.nan
        if timeout is not None and timeout <= 0:
            self.record.flags = socket.MSG_DONTWAIT
        else:
            self.record.flags = 0
            with contextlib.suppress(OSError):  # it is closed already; receiving will say so
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout))
        self._timeout = timeout

    def abort(self) -> None:
        self.record.fd = -1  # before another socket can have this descriptor
        super().abort()

    def send(self, segments: Sequence[Buffer]) -> None:
        try:
            self._inside.appendleft(None)
            deadline, life = None, -1
            while segments:
                try:
                    if len(segments) == 1:
                        data = segments[0]
                        sent = self.sock.send(data, _AT_ONCE)
                        if sent == len(data):  # type: ignore[arg-type]
                            return
                    else:
                        sent = self.sock.sendmsg(segments[:MOST_SEGMENTS], (), _AT_ONCE)
                    segments = behind(list(segments), sent)
                    deadline, life = None, -1
                except BlockingIOError:
                    if deadline is None:
                        deadline = after(self._patience())
                    if not is_ready(self, to_write=True, timeout=left(deadline)):
                        life, more = self._wait_on(life)
                        deadline = after(more)
        finally:
            del self._inside[0]
            if self.is_over:
                self._close()

    def send_masked(self, scratch: Scratch, first: int, payload: CData | bytes, key: int) -> int:
        """One crossing, part by part: only what the socket does not take without a wait needs memory."""
        size = len(payload)
        try:
            self._inside.appendleft(None)
            if self.record.fd < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            sent: int = _send_masked(
                self.sock.fileno(), scratch.base, SCRATCH_CAPACITY, first, payload, size, key
            )
            if sent >= 0:
                return sent
            self.send((scratch.unsent(first, payload, size, key, -1 - sent),))
            return masked_size(size)
        finally:
            del self._inside[0]
            if self.is_over:
                self._close()


def open_channel(sock: socket.socket) -> Channel:
    """The channel for a connected socket; TLS has been negotiated already."""
    if isinstance(sock, ssl.SSLSocket):
        return TlsChannel(sock)
    return PlainChannel(sock) if _KERNEL_TIMES else PolledChannel(sock)


def _timeval(timeout: float | None) -> bytes:
    # A timeval of zero would mean for ever.
    fraction, seconds = math.modf(max(timeout, 1e-6)) if timeout is not None else (0.0, 0.0)
    return struct.pack("@ll", int(seconds), int(fraction * 1e6))
