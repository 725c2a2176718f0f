"""A blocking socket, plain or TLS, as the blocking driver wants it: receive into memory, send segments, time out.

Two threads may use a channel at once, one to receive and one to send. The kernel allows that on a plain socket
without further ado. One OpenSSL object does not: a `TlsChannel` holds a lock while OpenSSL works, and never
while it waits for the network, so a reader that waits does not keep a writer out. That lock is the only one that
two halves of a connection share, and it is here because it is OpenSSL's need, not the protocol's.

Who keeps the time of a wait:

    plain, POSIX      to receive, the kernel (SO_RCVTIMEO): one system call, where poll and then recv are two; to send,
                      poll where the socket takes nothing
    plain, elsewhere  poll or select, on a socket that never blocks: Windows has one timeout for both directions
    TLS               the same
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import ssl
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from zcws.annotations import Buffer
from zcws.inlet import Inlet
from zcws.kernel import ffi, lib
from zcws.output import MOST_SEGMENTS, behind
from zcws.pool import TABLE_ROWS, Pool
from zcws.ring import Ring
from zcws.scratch import LONGEST_HEAD, SCRATCH_CAPACITY, Scratch, masked_size
from zcws.sync.deadline import after, is_past, left

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = [
    "ENDED",
    "NOTHING",
    "TORN",
    "Channel",
    "PlainChannel",
    "PolledChannel",
    "Stuck",
    "TlsChannel",
    "open_channel",
]

NOTHING, ENDED, TORN = lib.ZCWS_NOTHING, lib.ZCWS_ENDED, lib.ZCWS_TORN
_receive, _receive_into = lib.zcws_receive, lib.zcws_receive_into
_send_masked, _build_masked = lib.zcws_send_masked, lib.zcws_build_masked

#: Where `struct timeval` is two longs: every 64-bit POSIX. On 32 bits it depends on how libc was compiled.
_KERNEL_TIMES = os.name == "posix" and struct.calcsize("@l") == 8

#: Milliseconds: a C int. Whoever waits for longer asks again.
_LONGEST_POLL = 2**31 - 1

#: Seconds after which `select` is asked again: of a socket that another thread has closed meanwhile, Linux's never says
#: a word (`poll` does).
_ASK_AGAIN = 0.5


#: A number, which an enumeration is more slowly. Windows has no such flag, and needs none.
_AT_ONCE = int(getattr(socket, "MSG_DONTWAIT", 0))

#: Where in Linux's tcp_info `tcpi_bytes_acked` and `tcpi_bytes_received` stand, 64-bit numbers.
_COUNTS_AT, _COUNTS_END = 120, 136


class Stuck(TimeoutError):
    """The peer took nothing for as many seconds as `limit_sends` or `expect_life` said. The text names the option."""


class Channel:
    """A connected socket. It is the channel's from now on.

    Attributes:
        sock: the socket.
        is_tls: whether it is encrypted.
        record: what C knows of it. `received`: bytes that the last receive has brought and nobody has taken; whoever
            takes them sets it to 0. An exception of a signal handler may come in between. `found`: what a scan has
            found there; NOTHING, when they have not been scanned; TORN, when nobody knows what of them is left to
            take. `total`: of all receives.
        cause: what the system, or TLS, said when it ended the stream; None where the peer did.
        is_over: whether it has been closed.
        has_sent_close: whether the writer's half has sent all that it ever will. The reader's half asks.
    """

    is_tls = False
    has_sent_close = False
    cause: OSError | None = None
    _watchdog: threading.Timer | None = None  # of a channel's own, once it has one

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.record: CData = ffi.new("struct zcws_socket *")
        self._fd = sock.fileno()
        self._send_limit: float | None = None  # seconds; see `limit_sends`
        self._pings: tuple[float, float] | None = None  # see `expect_life`
        self._ours: Any = None  # our address, once the socket is closed
        self._theirs: Any = None  # kept from here on: a socket that was reset does not know it any more
        with contextlib.suppress(OSError):
            self._theirs = sock.getpeername()
        self.is_over: bool = False
        # One for each thread that is on the way into a system call, or in it. It has the socket's number: that must not
        # become another socket's meanwhile. Whoever aborts wakes them, and the last one closes. They leave without a
        # call: a signal handler might raise as it begins, and nobody would be the last.
        self._inside: list[None] = []
        self._open: list[None] = [None]  # whoever takes this closes
        self._last: list[None] = [None]  # whoever takes this reads to the end before that
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Frames are corked already; waiting for more would only delay them.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def scan(self, inlet: Inlet, timeout: float | None) -> int:
        """Receives at least one byte for a reader that is idle, into its landing ring, and scans.

        Returns: what zcws_scan returned, with the rest in the table of the reader's pool; or as `receive`.
        """
        count = self.receive(inlet.landing.whole, timeout)
        if count < 0:
            return count
        record = self.record
        record.found = TORN  # until it is known here what C has found
        record.found = found = inlet.scan_landing(count)
        return found

    def receive(self, buffer: memoryview, timeout: float | None) -> int:
        """Receives at least one byte into `buffer`, and returns how many.

        Returns: NOTHING, when nothing came within `timeout` seconds (None waits for ever), or a signal has come, or may
            have come before there was a sleep for it to interrupt: whoever still waits calls again. ENDED, when the
            stream has ended or is broken. TORN, when what came before has not been taken.
        """
        raise NotImplementedError

    def rest(self, pool: Pool) -> None:
        """Nothing has happened for a while, and nobody is inside: gives back what `scan` received into."""
        pool.rest()

    def send(self, segments: Sequence[Buffer]) -> None:
        """Sends all of them, in order, in as few system calls as the socket allows.

        Raises:
            Stuck: the peer takes nothing.
            OSError: the connection is broken.
        """
        raise NotImplementedError

    def send_masked(self, scratch: Scratch, first: int, payload: CData | bytes, key: int) -> int:
        """Masks one frame, in `scratch` where there is room for it, and sends it. RFC 6455 5.3.

        Args:
            first: the first byte of its head.

        Returns: the bytes of the frame. Raises: as `send`.
        """
        if len(payload) > SCRATCH_CAPACITY - LONGEST_HEAD:
            frame = scratch.frame(first, payload, len(payload), key)
            self.send((frame,))
            return len(frame)
        size: int = _build_masked(scratch.base, first, payload, len(payload), key)
        self.send((scratch.copies[:size],))
        return size

    def limit_sends(self, timeout: float | None) -> None:
        """How long a send may wait without getting anywhere, from the next one on; None waits for ever."""
        # Not SO_SNDTIMEO: Python calls again after each signal, and the kernel begins to count anew.
        self._send_limit = timeout

    def expect_life(self, interval: float, timeout: float) -> None:
        """A send that `limit_sends` does not limit waits as long as keepalive would; no thread may be reading for that.

        When the peer has taken nothing for `interval` seconds it is looked at, and it is given up when `timeout`
        seconds later it has neither said nor confirmed a byte more.
        """
        self._pings = (interval, timeout)

    def _patience(self) -> float | None:
        """Seconds that a send waits until `_wait_on` is asked."""
        return self._pings[0] if self._send_limit is None and self._pings is not None else self._send_limit

    def _wait_on(self, life: int) -> tuple[int, float]:
        """Those seconds are over.

        Args:
            life: -1, then what this returned.

        Returns: the bytes that the peer has said and confirmed; seconds until this is asked again.

        Raises:
            Stuck: it has had time enough.
        """
        if self._send_limit is not None or self._pings is None:
            raise Stuck("write_timeout")
        now = self._bytes_moved()
        if now == life:
            raise Stuck("ping_timeout")
        return now, self._pings[1]

    def _bytes_moved(self) -> int:
        """Of the peer, in both directions, as far as the system says so: Linux does, of TCP."""
        if sys.platform != "linux":
            return 0
        try:
            info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTS_END)
        except OSError:
            return 0  # no TCP, or no socket any more
        return sum(struct.unpack_from("=QQ", info.ljust(_COUNTS_END, b"\0"), _COUNTS_AT))

    @property
    def is_writable(self) -> bool:
        """Whether a short send would not wait. True as well when it would fail at once."""
        return _wait(self, to_write=True, timeout=0)

    @property
    def is_readable(self) -> bool:
        """Whether bytes have arrived that nobody has received, or the end of the stream."""
        return self.await_bytes(0)

    def await_bytes(self, timeout: float) -> bool:
        """Waits for that, `timeout` seconds at most. Anybody may, while others receive."""
        return _wait(self, to_write=False, timeout=timeout)

    def end(self) -> None:
        """Nothing more will be sent: the peer sees the end of the stream, and may still send."""
        try:
            self._inside.append(None)
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        finally:
            del self._inside[-1]
            if self.is_over:
                self._close()

    def abort(self) -> None:
        """Wakes every thread that waits here, and closes the socket; or they do when they come out."""
        self.is_over = True
        try:
            self._inside.append(None)
            self._ours = self.address(peer=False)
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        finally:
            del self._inside[-1]
            self._close()
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _close(self) -> None:
        """It is over, and who was inside is out: the last one closes. Either he sees that it is, or whoever says so
        sees him."""
        if self._inside:
            return
        try:
            del self._open[-1]
        except IndexError:
            return  # another thread closes it
        try:
            self.sock.close()
        except BaseException:
            self._open.append(None)  # a signal handler has raised: whoever aborts it again closes it
            raise

    def _abort_and(self, then: Callable[[], object] | None) -> None:
        self.abort()
        if then is not None:
            then()

    def abort_later(self, timeout: float, then: Callable[[], object] | None = None) -> None:
        """Does that in `timeout` seconds, and `then` what is asked for, unless somebody has done it before."""
        if self._watchdog is None:
            watchdog = threading.Timer(timeout, self._abort_and, (then,))
            watchdog.daemon = True
            # In one step: two threads may want it at once, and only one may start it.
            if vars(self).setdefault("_watchdog", watchdog) is watchdog:
                with contextlib.suppress(RuntimeError):  # no more threads: the interpreter exits, perhaps
                    watchdog.start()
                if self.is_over:
                    watchdog.cancel()

    def is_last(self) -> bool:
        """Whether the asker is the one of two halves that reads to the end and closes: both may see that it is time."""
        try:
            self._last.pop()
        except IndexError:
            return False
        return True

    def address(self, *, peer: bool) -> Any:
        """Our end's address, or the peer's; also when the socket is closed."""
        if peer:
            return self._theirs
        try:
            return self.sock.getsockname()
        except OSError:
            return self._ours

    def known(self, name: str, default: Any) -> Any:
        """As `get_extra_info` of an asyncio transport, for as long as the channel is open."""
        if name in ("sockname", "peername"):
            return self.address(peer=name == "peername")
        return self.sock if name == "socket" and not self.is_over else default

    # Bound here: the last connections die when the interpreter has emptied its modules already, this one too.
    def __del__(self, warn: Callable[..., object] = warnings.warn) -> None:
        # A socket warns too, where it is not closed here before its turn comes; but not of what it was for.
        if not self.is_over:
            warn(f"unclosed WebSocket connection, fd={self._fd}", ResourceWarning, source=self)
            self.sock.close()


class PlainChannel(Channel):
    """A TCP or Unix socket, and the kernel keeps the time."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.record.fd = self._fd
        sock.settimeout(None)
        self._timeout: float | None = None
        self._ring: Ring | None = None  # where C receives: the reader's landing ring

    def scan(self, inlet: Inlet, timeout: float | None) -> int:
        """One crossing."""
        try:
            self._inside.append(None)
            if timeout != self._timeout:
                self._limit_receiving(timeout)
            ring = inlet.pool.landing
            if ring is None or ring is not self._ring:
                self._aim(inlet)
            if self.sock.fileno() < 0:
                return ENDED  # whoever brought the socket has closed it, and another may have its number
            found: int = _receive(self.record)
            return self._ended() if found == ENDED else found
        finally:
            del self._inside[-1]
            if self.is_over:
                self._close()

    def _ended(self) -> int:
        code = self.record.error
        if code and code != errno.EBADF:  # or another thread has closed it meanwhile
            self.cause = OSError(code, os.strerror(code))
        return ENDED

    def _aim(self, inlet: Inlet) -> None:
        pool, ring, record = inlet.pool, inlet.landing, self.record
        self._ring, self._kept = ring, (inlet.state, pool.table)  # C knows their addresses
        record.reader, record.table, record.rows = inlet.state, pool.table, TABLE_ROWS
        record.base, record.capacity = ring.base, ring.capacity

    def rest(self, pool: Pool) -> None:
        self._ring = None  # `scan` aims anew
        super().rest(pool)

    def receive(self, buffer: memoryview, timeout: float | None) -> int:
        try:
            self._inside.append(None)
            if timeout != self._timeout:
                self._limit_receiving(timeout)
            if self.sock.fileno() < 0:
                return ENDED
            # Not the socket's own method: what that has received is lost where a signal handler raises behind it.
            count: int = _receive_into(self.record, ffi.from_buffer(buffer), len(buffer))
            return self._ended() if count == ENDED else count
        finally:
            del self._inside[-1]
            if self.is_over:
                self._close()

    def _limit_receiving(self, timeout: float | None) -> None:
        """How long receiving may wait, from now on."""
        self._timeout = timeout
        if timeout is not None and timeout <= 0:
            self.record.flags = socket.MSG_DONTWAIT
            return
        self.record.flags = 0
        with contextlib.suppress(OSError):  # it is closed already; receiving will say so
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout))

    def abort(self) -> None:
        self.record.fd = -1  # before another socket has this number
        super().abort()

    def send(self, segments: Sequence[Buffer]) -> None:
        try:
            self._inside.append(None)
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
                    if not _wait(self, to_write=True, timeout=left(deadline)):
                        life, more = self._wait_on(life)
                        deadline = after(more)
        finally:
            del self._inside[-1]
            if self.is_over:
                self._close()

    def send_masked(self, scratch: Scratch, first: int, payload: CData | bytes, key: int) -> int:
        """One crossing, part by part: only what the socket does not take without a wait needs memory."""
        size = len(payload)
        try:
            self._inside.append(None)
            if self.record.fd < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            sent: int = _send_masked(
                self.sock.fileno(), scratch.base, SCRATCH_CAPACITY, first, payload, size, key
            )
            if sent >= 0:
                return sent
            self.send((scratch.rest(first, payload, size, key, -1 - sent),))
            return masked_size(size)
        finally:
            del self._inside[-1]
            if self.is_over:
                self._close()


class PolledChannel(Channel):
    """A socket that never blocks; every wait is a poll."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setblocking(False)

    def receive(self, buffer: memoryview, timeout: float | None) -> int:
        if self.record.received:
            return TORN
        deadline = after(timeout)
        count = self._attempt(partial(self._receive_some, buffer), deadline, to_write=False)
        return NOTHING if count is None else count

    def send(self, segments: Sequence[Buffer]) -> None:
        # Joined: TLS copies what it encrypts anyway, record by record, and Windows has no sendmsg.
        view = memoryview(segments[0] if len(segments) == 1 else b"".join(segments)).cast("B")
        while view:
            step, deadline, life = partial(self._send_some, view), after(self._patience()), -1
            while (sent := self._attempt(step, deadline, to_write=True)) is None:
                life, more = self._wait_on(life)
                deadline = after(more)
            view = view[sent:]

    def _attempt(self, step: Callable[[], int], deadline: float | None, *, to_write: bool) -> int | None:
        """Repeats `step` until it gets somewhere. TLS may have to write in order to read, and the reverse.

        Returns: None, where it does not before `deadline`.
        """
        try:
            self._inside.append(None)
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    wanted = False
                except ssl.SSLWantWriteError:
                    wanted = True
                except BlockingIOError:
                    wanted = to_write
                if is_past(deadline) or not _wait(self, to_write=wanted, timeout=left(deadline)):
                    return None
        finally:
            del self._inside[-1]
            if self.is_over:
                self._close()

    def _receive_some(self, buffer: memoryview) -> int:
        record = self.record
        # An exception that is not the socket's leaves unknown whether there are any: how many OpenSSL has given is lost
        # with it.
        record.found, record.received = TORN, 1
        try:
            count = self._receive_now(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            record.received = 0
            raise
        except OSError as error:
            if error.errno is None:
                raise
            count = 0  # a reset is an end without a Close: 1006
            self.cause = error.with_traceback(None)
        record.received, record.found = count, NOTHING
        record.total += count
        return count or ENDED

    def _receive_now(self, buffer: memoryview) -> int:
        return self.sock.recv_into(buffer)

    def _send_some(self, data: memoryview) -> int:
        return self.sock.send(data)


class TlsChannel(PolledChannel):
    """TLS over a TCP or Unix socket: one OpenSSL object, one lock."""

    is_tls = True

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self._tls = sock
        # The same thread may have it twice: a signal handler that sends, or aborts, may interrupt its holder. It never
        # interrupts OpenSSL itself.
        self._lock = threading.RLock()
        self._has_ended = False

    def _receive_now(self, buffer: memoryview) -> int:
        with self._lock:
            # Once it is over the SSLSocket has dropped its TLS, and would receive what is encrypted.
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
            self._tls.unwrap()

    def abort(self) -> None:
        try:
            self._inside.append(None)
            # SSLSocket.shutdown would take the OpenSSL object away from a thread that is using it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._tls, socket.SHUT_RDWR)
            with self._lock:  # nobody waits for the network in there
                super().abort()
        finally:
            del self._inside[-1]
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


def _wait(channel: Channel, *, to_write: bool, timeout: float | None) -> bool:
    """Whether the socket became ready within `timeout` seconds. One that is closed is: the next call says so."""
    fd = channel.sock.fileno()
    if fd < 0:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, select.POLLOUT if to_write else select.POLLIN)
        longest = None if timeout is None else min(math.ceil(timeout * 1000), _LONGEST_POLL)
        # PyPy: a poll without an end ends when a signal has come (seen with 8.0.1).
        while not (ready := poll.poll(longest)) and timeout is None:
            pass
        return bool(ready)
    # Windows: its select takes sockets whatever their number, where POSIX stops at 1024.
    waiting, nobody = [fd], list[int]()
    deadline = after(timeout)
    while not channel.is_over and channel.sock.fileno() >= 0:
        rest = left(deadline)
        rest = _ASK_AGAIN if rest is None else min(rest, _ASK_AGAIN)
        try:
            ready = select.select(
                nobody if to_write else waiting, waiting if to_write else nobody, nobody, rest
            )
        except OSError:  # another thread has closed it since we looked
            return True
        if ready[0] or ready[1]:
            return True
        if is_past(deadline):
            return False
    return True
