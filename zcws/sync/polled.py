"""A socket that never blocks, plain or inside TLS: every wait is a poll.

The kernel allows one thread to receive and another to send on one socket without further ado. One OpenSSL object does
not: a `TlsChannel` holds a lock while OpenSSL works, and never while it waits for the network, so a reader that waits
does not keep a writer out. That lock is the only one that two halves of a connection share, and it is here because it
is OpenSSL's need, not the protocol's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from zcws.annotations import Buffer
from zcws.failures import forget_errors
from zcws.payloads import flat
from zcws.sync.channel import ENDED, NOTHING, TORN, Channel, is_ready
from zcws.sync.deadline import after, is_past, left

__all__ = ["PolledChannel", "TlsChannel", "begin_tls"]

#: Seconds for the next part of a frame that has begun, and for all of them, as in csrc/socket.c.
_NEXT_PART, _ALL_PARTS = 0.005, 0.02

#: As in csrc/mark.h.
_MARK_LEAST, _MARK_MOST, _FIRST_REST, _LONGEST_REST = 1500, 16 * 1024, 15, 4095
_HAS_MARKS = sys.platform == "linux"

#: A deadline that has passed.
_NOW = 0.0


def begin_tls(
    context: ssl.SSLContext,
    sock: socket.socket,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
) -> ssl.SSLSocket:
    """TLS over a socket, which is closed if this raises. The handshake is left to the caller, who has the new socket by
    then, and can close it whatever interrupts the handshake."""
    try:
        # If the peer has already reset the connection, `wrap_socket` before CPython 3.13 finds out only when a new
        # object owns the descriptor, and raises without handing that object out.
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        return context.wrap_socket(
            sock, server_side=server_side, server_hostname=server_hostname, do_handshake_on_connect=False
        )
    except BaseException:
        sock.close()
        raise


class PolledChannel(Channel):
    """A socket that never blocks; every wait is a poll."""

    _ahead = 0  # bytes that may have been received and not been handed over

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setblocking(False)
        self._mark = 0  # what the kernel collects before a wait ends; 0: every byte ends it
        self._resting = 0  # how many waits are to come without that
        self._rest = 0  # how many they were last time

    def receive(self, buffer: memoryview, timeout: float | None) -> int:
        if self.record.received:
            return TORN
        if self._mark:
            self._set_mark(0)
        deadline = after(timeout)
        count = self._attempt(partial(self._receive_some, buffer, 0), deadline, to_write=False)
        return NOTHING if count is None else count

    def receive_more(self, buffer: memoryview, timeout: float | None, wanted: int) -> int:
        count, record = self.receive(buffer, timeout), self.record
        if count <= 0 or (timeout is not None and timeout <= 0):
            return count
        deadline = after(_ALL_PARTS)
        while (
            record.received < min(wanted, len(buffer))
            and not is_past(deadline)
            and self._receive_soon(buffer, wanted)
        ):
            pass
        received: int = record.received
        return received

    def _receive_soon(self, buffer: memoryview, wanted: int) -> bool:
        """Receives more, behind what has been received, if it comes soon."""
        got = self.record.received
        step = partial(self._receive_some, buffer[got:], got)
        count = self._attempt(step, _NOW, to_write=False)
        if count is None:
            self._wait_for(wanted - got - self._ahead)
            count = self._attempt(step, _NOW, to_write=False)
        return count is not None and count > 0

    def _wait_for(self, count: int) -> None:
        """Waits a little for bytes; for all of `count`, if the kernel can collect them. See csrc/mark.h."""
        try:
            self._inside.appendleft(None)
            if count >= _MARK_LEAST and self._resting:
                self._resting -= 1
            elif count >= _MARK_LEAST:
                self._set_mark(min(count, _MARK_MOST))
            if is_ready(self, to_write=False, timeout=_NEXT_PART):
                self._rest //= 2
            elif self._mark:
                self._rest = self._resting = min(2 * self._rest + _FIRST_REST, _LONGEST_REST)
            self._set_mark(0)  # where a signal handler has raised, the next `receive` does that
        finally:
            del self._inside[0]
            if self.is_over:
                self._close()

    def _set_mark(self, count: int) -> None:
        if _HAS_MARKS and count != self._mark:
            self._mark = count or self._mark  # until it is done: a signal handler may raise in the middle
            with contextlib.suppress(OSError):  # it is closed already
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._mark = count

    def send(self, segments: Sequence[Buffer]) -> None:
        # Joined: TLS copies what it encrypts anyway, record by record, and Windows has no sendmsg.
        view = flat(segments[0] if len(segments) == 1 else b"".join(segments))
        while view:
            step, deadline, life = partial(self._send_some, view), after(self._patience()), -1
            while (sent := self._attempt(step, deadline, to_write=True)) is None:
                life, more = self._wait_on(life)
                deadline = after(more)
            view = view[sent:]

    def _attempt(self, step: Callable[[], int], deadline: float | None, *, to_write: bool) -> int | None:
        """Repeats `step` until it gets somewhere. TLS may have to write in order to read, and the reverse.

        Returns: the result of `step`; None, if `deadline` comes before.
        """
        try:
            self._inside.appendleft(None)
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    wanted = False
                except ssl.SSLWantWriteError:
                    wanted = True
                except BlockingIOError:
                    wanted = to_write
                except OSError:
                    forget_errors()
                    raise
                if is_past(deadline) or not is_ready(self, to_write=wanted, timeout=left(deadline)):
                    return None
        finally:
            del self._inside[0]
            if self.is_over:
                self._close()

    def _receive_some(self, buffer: memoryview, before: int) -> int:
        """`before`: bytes that have been received into the memory before `buffer` and not been taken."""
        record = self.record
        # After an exception that is not the socket's nobody knows whether bytes were received: the number that OpenSSL
        # returned is lost with it.
        record.found, record.received = TORN, 1
        try:
            count = self._receive_now(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            record.received, record.found = before, NOTHING
            raise
        except OSError as error:
            if error.errno is None:
                raise
            count = 0  # a reset is an end without a Close: 1006
            self.cause = error.with_traceback(None)
        if not count:
            forget_errors()
        record.received, record.found = before + count, NOTHING
        record.total += count
        return count or ENDED

    def _receive_now(self, buffer: memoryview) -> int:
        return self.sock.recv_into(buffer)

    def _send_some(self, data: memoryview) -> int:
        return self.sock.send(data)


class TlsChannel(PolledChannel):
    """TLS over a TCP or Unix socket: one OpenSSL object, one lock."""

    _ahead = 16 * 1024  # RFC 8446 5.1: a record, of which the last byte is missing

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self._tls = sock
        # Reentrant: a signal handler that sends or aborts may interrupt the thread that holds it, though never in the
        # middle of OpenSSL.
        self._lock = threading.RLock()
        self._has_ended = False
        self._is_deaf = False  # OpenSSL reads no more

    def _receive_now(self, buffer: memoryview) -> int:
        with self._lock:
            if self._is_deaf and not self.is_over:
                if socket.socket.recv_into(self._tls, buffer):
                    raise ssl.SSLWantReadError  # it was ciphertext, and is dropped here
                return 0
            # Once the channel is over, the SSLSocket has dropped its TLS, and would receive ciphertext.
            return 0 if self.is_over else self._tls.recv_into(buffer)

    def _send_some(self, data: memoryview) -> int:
        with self._lock:
            if self._has_ended or self.is_over:
                # The SSLSocket has dropped its TLS, and would send this in the clear.
                raise BrokenPipeError(errno.EPIPE, "TLS has ended")
            return self._tls.send(data)

    def known(self, name: str, default: Any) -> Any:
        if name == "ssl_object":
            return default if self.is_over else self._tls
        if name in ("peercert", "cipher"):
            with self._lock:
                if self._has_ended or self.is_over:
                    return default
                return self._tls.getpeercert() if name == "peercert" else self._tls.cipher()
        return super().known(name, default)

    def end(self) -> None:
        # close_notify goes out with unwrap; without waiting for the peer's, since its Close has been seen.
        with contextlib.suppress(OSError, ValueError), self._lock:
            self._has_ended = True
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                pass  # mostly the peer's close_notify has not arrived
            except ssl.SSLWantWriteError:
                return  # ours is not out
            except OSError as error:
                forget_errors()
                if not isinstance(error, ssl.SSLError):
                    raise
                # It is out, but the peer was still sending. That has to be received all the same: to close a socket
                # on it would send a reset, which discards what the peer has not read yet.
                self._is_deaf = True
            # RFC 6455 7.1.1: the server ends the TCP stream first. SSLSocket.shutdown would take the TLS away.
            socket.socket.shutdown(self._tls, socket.SHUT_WR)

    def abort(self) -> None:
        try:
            self._inside.appendleft(None)
            self.is_over = True  # before a send fails because of it
            # SSLSocket.shutdown would take the OpenSSL object away from a thread that is using it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._tls, socket.SHUT_RDWR)
            with self._lock:  # nobody waits for the network while holding it
                super().abort()
        finally:
            del self._inside[0]
            if self.is_over:
                self._close()
