"""A blocking socket as the blocking driver wants it: receive into memory, send segments, time out.

Here is what all channels have in common: the bytes that were received and not yet taken, how long a send waits, and how
the socket is closed while threads are using it. How a channel receives and sends, and who keeps the time of that, is
in plain.py and polled.py.

Two threads may use a channel at once, one to receive and one to send.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zcws.annotations import Buffer
from zcws.inlet import Inlet
from zcws.kernel import ffi, lib
from zcws.pool import Pool
from zcws.scratch import LONGEST_HEAD, SCRATCH_CAPACITY, Scratch
from zcws.sync.deadline import after, is_past, left
from zcws.tcp_info import Counts, counts

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["ENDED", "NOTHING", "TORN", "Channel", "Stuck", "is_ready"]

NOTHING, ENDED, TORN = lib.ZCWS_NOTHING, lib.ZCWS_ENDED, lib.ZCWS_TORN
_build_masked = lib.zcws_build_masked

#: Milliseconds: a C int. The caller of a longer wait asks again.
_LONGEST_POLL = 2**31 - 1

#: Seconds after which `select` is called again: Linux's never returns for a socket that another thread has closed
#: meanwhile (`poll` does).
_ASK_AGAIN = 0.5

#: Seconds that whoever reads has at the end of `abort_later`, if there is something to read.
_LAST_LOOK = 0.5


class Stuck(TimeoutError):
    """The peer took nothing for as long as `limit_sends` or `expect_life` allows. The text names the option."""


class Channel:
    """A connected socket, which the channel owns from now on.

    Attributes:
        sock: the socket.
        record: the structure that C is given. `received`: how many bytes the last receive brought that nobody has taken
            yet; whoever takes them sets it to 0, but a signal handler may raise in between. `found`: what a scan has
            found in those bytes; NOTHING, if they have not been scanned; TORN, if nobody knows which of them are left.
            `total`: the bytes of all receives.
        cause: the error with which the system or TLS ended the stream; None if the peer ended it.
        is_over: whether it has been closed.
        has_sent_close: whether the writer's half has sent all that it ever will. The reader's half looks at it.
    """

    has_sent_close = False
    cause: OSError | None = None
    _watchdog: threading.Timer | None = None  # a channel has one after `abort_later`

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.record: CData = ffi.new("struct zcws_socket *")
        self._fd = sock.fileno()
        self._send_limit: float | None = None  # seconds; see `limit_sends`
        self._pings: tuple[float, float] | None = None  # see `expect_life`
        self._ours: Any = None  # our address, once the socket is closed
        self._theirs: Any = None  # the peer's address, kept because a socket that was reset has forgotten it
        with contextlib.suppress(OSError):
            self._theirs = sock.getpeername()
        self.is_over: bool = False
        # One mark for each thread that is on the way into a system call, or in it. Such a thread uses the descriptor,
        # which must not become another socket's meanwhile: `abort` wakes these threads, and the last one to leave
        # closes the socket. They remove their marks without a function call, since a signal handler might raise as that
        # begins, and nobody would be the last. A deque has room for 31 marks; a list may find no memory for one more,
        # and then the mark of another thread would be removed.
        self._inside: deque[None] = deque()
        self._open: list[None] = [None]  # whoever takes this item closes the socket
        self._last: list[None] = [None]  # whoever takes this item reads to the end before that
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Frames are corked already; waiting for more would only delay them. macOS raises EINVAL for a socket that
            # the peer has reset: what has arrived on it is still read.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def scan(self, inlet: Inlet, timeout: float | None) -> int:
        """Receives at least one byte for a reader that is idle, into its landing ring, and scans.

        Returns: what zcws_scan returned, with the rest in the table of the reader's pool; or as `receive`.
        """
        count = self.receive(inlet.landing.whole, timeout)
        if count < 0:
            return count
        record = self.record
        record.found = TORN  # until Python knows what C has found
        record.found = found = inlet.scan_landing(count)
        return found

    def receive(self, buffer: memoryview, timeout: float | None) -> int:
        """Receives at least one byte into `buffer`, and returns how many.

        Returns: NOTHING, when nothing came within `timeout` seconds (None waits for ever), or when a signal has come,
            or may have come just before the sleep that it would have interrupted: a caller that still waits calls
            again. ENDED, when the stream has ended or is broken. TORN, when what came before has not been taken.
        """
        raise NotImplementedError

    def receive_more(self, buffer: memoryview, timeout: float | None, wanted: int) -> int:
        """The same for a caller who has no use for less than `wanted` bytes: where more comes within milliseconds, that
        is received as well."""
        raise NotImplementedError

    def rest(self, pool: Pool) -> None:
        """Gives back what `scan` receives into. Nothing has happened for a while, and no thread is inside."""
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
        # Not SO_SNDTIMEO: Python repeats the call after each signal, and the kernel begins to count anew.
        self._send_limit = timeout

    def expect_life(self, interval: float, timeout: float) -> None:
        """A send without a limit from `limit_sends` waits as long as keepalive would, even if no thread reads.

        When the peer has taken nothing for `interval` seconds, its byte counts are looked at. The send gives up if
        `timeout` seconds later the peer has neither sent nor acknowledged another byte.
        """
        self._pings = (interval, timeout)

    def _patience(self) -> float | None:
        """Seconds that a send waits until it calls `_wait_on`."""
        return self._pings[0] if self._send_limit is None and self._pings is not None else self._send_limit

    def _wait_on(self, life: int) -> tuple[int, float]:
        """Decides, when those seconds are over, whether a send goes on waiting.

        Args:
            life: -1, then the first result of the call before.

        Returns: the bytes that the peer has sent and acknowledged; seconds until the next call.

        Raises:
            Stuck: the peer has had enough time.
        """
        if self._send_limit is not None or self._pings is None:
            raise Stuck("write_timeout")
        now = self.counts()
        if (moved := now.confirmed + now.received) == life:
            raise Stuck("ping_timeout")
        return moved, self._pings[1]

    def counts(self) -> Counts:
        """What our system knows of the socket's bytes."""
        return counts(self.sock)

    @property
    def is_writable(self) -> bool:
        """Whether a short send would not wait. True as well when it would fail at once."""
        return is_ready(self, to_write=True, timeout=0)

    @property
    def is_readable(self) -> bool:
        """Whether bytes have arrived that nobody has received, or the end of the stream."""
        return self.await_bytes(0)

    def await_bytes(self, timeout: float) -> bool:
        """Waits until `is_readable`, `timeout` seconds at most. Any thread may, while others receive."""
        return is_ready(self, to_write=False, timeout=timeout)

    def end(self) -> None:
        """Nothing more will be sent: the peer sees the end of the stream, and may still send. Over TLS that is dropped
        where the peer was sending already."""
        try:
            self._inside.appendleft(None)
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        finally:
            del self._inside[0]
            if self.is_over:
                self._close()

    def abort(self) -> None:
        """Wakes every thread that is inside, and closes the socket, or leaves that to the last one to come out."""
        self.is_over = True
        try:
            self._inside.appendleft(None)
            self._ours = self.address(peer=False)
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        finally:
            del self._inside[0]
            self._close()
        if self._watchdog is not None:
            self._watchdog.cancel()

    def _close(self) -> None:
        """Closes the socket if no thread is inside. `is_over` is set.

        Either a thread that comes out sees `is_over`, or `abort`, which sets it, sees the thread's mark in `_inside`.
        """
        if self._inside:
            return
        try:
            del self._open[-1]
        except IndexError:
            return  # another thread closes it
        try:
            self.sock.close()
        except BaseException:
            self._open.append(None)  # a signal handler has raised: the next `abort` closes it
            raise

    def _abort_and(self, then: Callable[[], object] | None) -> None:
        watchdog = self._watchdog
        # The peer's answer may have waited for a pause of ours to end: whoever reads has a moment for it.
        if watchdog is not None and self.is_readable and watchdog.finished.wait(_LAST_LOOK):
            return  # somebody has aborted
        self.abort()
        if then is not None:
            then()

    def abort_later(self, timeout: float, then: Callable[[], object] | None = None) -> None:
        """Calls `abort` in `timeout` seconds, and then `then`, unless somebody aborts before."""
        if self._watchdog is None:
            watchdog = threading.Timer(timeout, self._abort_and, (then,))
            watchdog.daemon = True
            # In one step: two threads may want a timer at once, and only one may start its own.
            if vars(self).setdefault("_watchdog", watchdog) is watchdog:
                with contextlib.suppress(RuntimeError):  # no more threads: perhaps the interpreter exits
                    watchdog.start()
                if self.is_over:
                    watchdog.cancel()

    def is_last(self) -> bool:
        """Whether the caller, one of two halves, reads to the end and closes. Both may ask; only the first is."""
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

    # `warn` is bound here because the last connections die when the interpreter has already emptied its modules.
    def __del__(self, warn: Callable[..., object] = warnings.warn) -> None:
        # A socket that is not closed here would warn too, without saying that it was a WebSocket connection. A filter
        # may have made an error of the warning. In a cycle, another object's finalizer may come later, and use this.
        if self.is_over:
            return
        try:
            warn(f"unclosed WebSocket connection, fd={self._fd}", ResourceWarning, source=self)
        finally:
            self.is_over = True
            self.record.fd = -1  # before another socket can have this descriptor
            self._close()  # without shutdown(2): in a forked child the connection is the parent's


def is_ready(channel: Channel, *, to_write: bool, timeout: float | None) -> bool:
    """Whether the socket became ready within `timeout` seconds. A closed one is ready: the next call on it says so."""
    fd = channel.sock.fileno()
    if fd < 0:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, select.POLLOUT if to_write else select.POLLIN)
        longest = None if timeout is None else min(math.ceil(timeout * 1000), _LONGEST_POLL)
        # PyPy: a poll without a timeout returns when a signal has come (seen with 8.0.1).
        while not poll.poll(longest):
            if timeout is not None:
                return False
        return True
    # Windows: its select takes descriptors of any value, where POSIX stops at 1024.
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
