"""A blocking socket, plain or TLS, as the blocking driver wants it: receive into memory, send segments, time out.

Two threads may use a channel at once, one to receive and one to send. The kernel allows that on a plain socket
without further ado. One OpenSSL object does not: a `TlsChannel` holds a lock while OpenSSL works, and never
while it waits for the network, so a reader that waits does not keep a writer out. That lock is the only one that
two halves of a connection share, and it is here because it is OpenSSL's need, not the protocol's.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Channel", "PlainChannel", "TlsChannel", "open_channel"]

#: POSIX lets the kernel keep the time of a blocking call: one system call, where poll and then recv are two.
_KERNEL_TIMES = os.name == "posix"

#: Segments that one sendmsg may take (IOV_MAX is at least 16; Linux and macOS have 1024).
_MOST_SEGMENTS = 512


class PlainChannel:
    """A TCP or Unix socket. It is the channel's from now on."""

    is_tls = False

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._timeout: float | None = None
        sock.settimeout(None)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Frames are corked already; waiting for more would only delay them.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self, buffer: memoryview, timeout: float | None) -> int:
        """Receives at least one byte into `buffer`; 0 at the end of the stream.

        Raises:
            TimeoutError: nothing came within `timeout` seconds; None waits for ever.
        """
        try:
            if timeout is not None and timeout <= 0:
                return self._receive_now(buffer)
            if timeout != self._timeout:
                self._set_timeout(timeout)
            return self.sock.recv_into(buffer)
        except (BlockingIOError, TimeoutError):
            raise TimeoutError("nothing was received in time") from None

    def _receive_now(self, buffer: memoryview) -> int:
        if not select.select([self.sock], [], [], 0)[0]:
            raise TimeoutError
        return self.sock.recv_into(buffer)

    def _set_timeout(self, timeout: float | None) -> None:
        self._timeout = timeout
        if not _KERNEL_TIMES:
            self.sock.settimeout(timeout)
            return
        # A timeval of zero would mean for ever.
        fraction, seconds = math.modf(max(timeout, 1e-6)) if timeout is not None else (0.0, 0.0)
        self.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(seconds), int(fraction * 1e6))
        )

    def send(self, segments: Sequence[Buffer]) -> None:
        """Sends all of them, in order, in as few system calls as the socket allows."""
        if len(segments) == 1:
            self.sock.sendall(segments[0])
        elif hasattr(self.sock, "sendmsg"):
            self._send_message([memoryview(segment) for segment in segments])
        else:
            self.sock.sendall(b"".join(segments))

    def _send_message(self, views: list[memoryview]) -> None:
        while views:
            sent = self.sock.sendmsg(views[:_MOST_SEGMENTS])
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]

    def end(self) -> None:
        """Nothing more will be sent: the peer sees the end of the stream, and may still send."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Wakes every thread that waits here, and closes the socket."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def address(self, *, peer: bool) -> Any:
        """Our end's address, or the peer's; None once the socket is closed."""
        try:
            return self.sock.getpeername() if peer else self.sock.getsockname()
        except OSError:
            return None


class TlsChannel(PlainChannel):
    """The same over TLS."""

    is_tls = True

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        sock.setblocking(False)
        self._tls = sock
        self._lock = threading.Lock()

    def receive(self, buffer: memoryview, timeout: float | None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                with self._lock:
                    return self._tls.recv_into(buffer)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def send(self, segments: Sequence[Buffer]) -> None:
        # TLS copies what it encrypts, record by record: joining small segments saves records, not copies.
        view = memoryview(segments[0] if len(segments) == 1 else b"".join(segments)).cast("B")
        while view:
            try:
                with self._lock:
                    view = view[self._tls.send(view) :]
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, None)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, None)

    def _wait(self, event: int, deadline: float | None) -> None:
        """Until the socket is ready, without the lock."""
        rest = None if deadline is None else deadline - time.monotonic()
        if rest is not None and rest <= 0:
            raise TimeoutError("nothing was received in time")
        poll = select.poll()
        poll.register(self._tls.fileno(), event)
        if not poll.poll(None if rest is None else math.ceil(rest * 1000)):
            raise TimeoutError("nothing was received in time")

    def end(self) -> None:
        # close_notify goes out with unwrap; without waiting for the peer's, since its Close has been seen.
        with contextlib.suppress(OSError, ValueError), self._lock:
            self._tls.unwrap()


Channel = PlainChannel


def open_channel(sock: socket.socket) -> Channel:
    """The channel for a connected socket; TLS has been negotiated already."""
    return TlsChannel(sock) if isinstance(sock, ssl.SSLSocket) else PlainChannel(sock)
