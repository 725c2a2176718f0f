"""The blocking driver: one open connection on a blocking socket.

Reading is in reading.py; a write goes out before it returns, in one system call. Without a split, one thread may read
while any number write: writes hold a lock, because the reader writes the replies to Ping and Close itself
(answering.py). After `split()` the reader never writes, and no lock of ours is left (see halves.py).

There is no thread but the caller's. Keepalive therefore runs while somebody reads: the wait for bytes ends when a Ping
is due. A read that times out loses nothing; the next one goes on. `ping` and `close` have to see what the peer
answers: they read when nobody else does (turns.py), keep the messages that they find for `recv`, and step aside for it.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from zcws.annotations import Buffer, Self
from zcws.closing import State
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.http import Request, Response
from zcws.options import Timeouts, checked_wait
from zcws.payloads import as_control_payload
from zcws.stats import Known, Stats, stats_of
from zcws.sync.answering import NEXT_TRY, Answering
from zcws.sync.channel import Channel
from zcws.sync.deadline import after, is_past, left, lock_timeout
from zcws.sync.halves import BridgeHalf, Halves, ReaderHalf, Taken, WriterHalf
from zcws.sync.in_order import is_of_a_lock
from zcws.sync.keepalive import Keepalive
from zcws.sync.turns import Interrupted, SplitLock

__all__ = ["WebSocket"]

#: Seconds for which a ping waits outside of its turn, while messages that it has received wait for `recv`. A thread
#: that reads the Pong meanwhile does not wake it.
_STEP_ASIDE = 0.01


class WebSocket(Answering, Known):
    """An open WebSocket connection. Made by `connect` and `serve`, not by hand.

    Iterating over it gives messages until the connection ends well; `recv` raises instead. One thread may read at a
    time; any number may write.

    Attributes:
        connection: the connection without its socket.
        request, response: the opening handshake.
    """

    _driver = "blocking, "

    request: Request  # None only in a connection made by hand, never by `connect` or `serve`
    response: Response

    def __init__(
        self,
        channel: Channel,
        connection: Connection,
        options: Timeouts,
        *,
        request: Request | None = None,
        response: Response | None = None,
        received: bytes = b"",
    ) -> None:
        keepalive = Keepalive(options.ping_interval, options.ping_timeout, connection, channel.counts)
        Answering.__init__(self, connection, channel, options, keepalive)
        self.request = request  # type: ignore[assignment]
        self.response = response  # type: ignore[assignment]
        self._is_closed = False
        self._this = self._bind()
        if received:
            self._feed(received)

    def _bind(self) -> weakref.ref[WebSocket]:
        """Has the reader and the bridge call us."""
        # By a weak reference, so that a connection that is over is freed together with the last reference to it, rings
        # and compressor included. Otherwise it would wait for the garbage collector, which counts objects and not their
        # memory.
        this = weakref.ref(self)

        def on_pong(payload: bytes) -> None:
            if ws := this():
                ws._on_pong(payload)

        def on_put() -> None:
            # While another thread writes, a reply stays on the bridge.
            if ws := this():
                ws._on_put()

        self._reader.on_pong, self._bridge.on_put = on_pong, on_put
        return this

    def _help(
        self,
        done: Callable[[], bool],
        work: Callable[[], Callable[[], object] | None],
        deadline: float | None,
    ) -> bool:
        if self._this() is None:
            # We are in a finalizer: in garbage that is a cycle, the collector clears weak references first.
            self._this = self._bind()
        return super()._help(done, work, deadline)

    def _feed(self, data: bytes) -> None:
        """Bytes that arrived together with the end of the opening handshake."""
        self._channel.record.total += len(data)
        used = self._reader.receive_bytes(memoryview(data))
        if used < len(data):
            raise ConnectionError("more bytes behind the opening handshake than a ring holds")
        self._answer_peer()

    # ---- a Ping of the program's ----

    def ping(self, payload: str | Buffer | None = None, timeout: float | None = None) -> float:
        """Sends a Ping and waits for its Pong. If no other thread reads, this one does; messages wait for `recv`.

        Returns:
            The round-trip time in seconds.

        Raises:
            TimeoutError: no Pong in `timeout` seconds; or, without a `timeout`, too many messages before it.
            ConnectionClosed: the connection ended before the Pong came.
            ValueError: over 125 bytes, or a Ping with this payload is waiting already.
        """
        data = os.urandom(4) if payload is None else as_control_payload(payload)
        if self._keepalive.is_waiting_for(data):
            raise ValueError("a ping with this payload is waiting for its pong already")
        if self._has_interrupted_a_write():
            raise RuntimeError("a signal handler cannot wait for the Pong where it has interrupted a write")
        deadline = after(checked_wait(timeout))
        self._keepalive.sent(data)
        try:
            self._write_now(lambda: self.connection.ping(data))
            if not self._help(
                lambda: not self._keepalive.is_waiting_for(data),
                lambda: self._read_pong(data, deadline),
                deadline,
            ):
                raise TimeoutError("another thread reads, and has not seen it in time")
        finally:
            self._keepalive.forget(data)
        return self._keepalive.latency

    def _read_pong(self, data: bytes, deadline: float | None) -> Callable[[], object] | None:
        """Reads until the Pong has come, or another thread wants to read messages, or has to read them first."""
        while self._keepalive.is_waiting_for(data) and not self._turns_wanted:
            is_full = self._reader.is_full
            # That the socket is gone shows only in a receive, for which there has to be room.
            if self._reader.is_ending or (is_full and self.connection.state is State.LOST):
                raise self.connection.error()
            if is_full and (deadline is None or is_past(deadline)):
                raise TimeoutError("the Pong stands behind more messages than fit; read them first")
            if is_past(deadline):
                raise TimeoutError("no Pong came in time")
            if is_full:
                return partial(time.sleep, NEXT_TRY)
            is_kept = self._reader.rows_waiting > 0
            if not self._receive(time.monotonic() if is_kept else deadline) and is_kept:
                return partial(self._channel.await_bytes, _STEP_ASIDE)
        self._reader.forget_controls()
        return None

    # ---- closing ----

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Closes the connection: our Close, the peer's, then the socket; at most `close_timeout` seconds.

        In a signal handler that has interrupted a read or a write of this connection it does not wait: the read comes
        to the end by itself, and the Close goes out after what was being written.

        Raises:
            ValueError: the code must not be sent (RFC 6455 7.4), or the reason is over 123 bytes of UTF-8.
        """
        deadline = self._closing_deadline()
        self.begin_close(code, reason)
        if self._halves is not None:
            self._halves.finish(deadline)
            return
        if self._has_interrupted_a_write():
            return
        with contextlib.suppress(Interrupted):  # the read that we have interrupted does the rest
            # A thread that reads sees the peer's Close, and finishes; one that stops before leaves that to us.
            if not self._help(lambda: self._is_closed, lambda: self._finish(deadline), deadline):
                self.abort()

    def _try_close(self, code: int, reason: str, timeout: float | None) -> bool:
        if self._halves is None:
            try:
                return super()._try_close(code, reason, timeout)
            except RuntimeError:
                if self._halves is None:
                    raise  # otherwise it has been split while we waited
        return self._halves.say_close(code, reason, timeout)

    def _has_interrupted_a_write(self) -> bool:
        """Whether we are in a signal handler that has interrupted a write of this thread."""
        return self._in_order.is_busy and self._message_done._is_owned()  # type: ignore[attr-defined]

    def abort(self) -> None:
        """Ends the TCP connection at once, without a closing handshake."""
        if self._halves is not None:
            self._halves.abort()
            return
        self._channel.abort()
        with self._write_lock:
            self.connection.lose()
        self._is_closed = True
        self._call_helpers()

    def _finish(self, deadline: float | None = None) -> None:
        """Reads on until the socket may be closed, and closes it. RFC 6455 7.1.1: the server first."""
        if self._is_closed:
            return
        deadline = deadline or self._closing_deadline()
        self._discard(deadline)
        lock, timeout = self._write_lock, lock_timeout(left(deadline))
        try:
            if lock.acquire(timeout=timeout):
                self._channel.limit_sends(left(deadline))
                self._in_order.run(self.connection.drain_bridge, self._flush_quietly)
        finally:
            try:
                lock.release()
            except RuntimeError as error:
                if not is_of_a_lock(error):
                    raise
        if not self.connection.is_client:
            self._channel.end()
        self._drain(deadline)
        self.abort()

    # ---- halves ----

    def split(self) -> tuple[ReaderHalf, WriterHalf, BridgeHalf]:
        """A reader and a writer for two threads, and the bridge between them. Use them instead of this object.

        This object can still end the connection: `close`, `begin_close`, `abort` and the end of a `with` may come from
        any thread, at any time. The halves raise ConnectionClosed then.

        Raises:
            RuntimeError: it is split already; or another thread is reading.
        """
        with self._turn(), self._write_lock:
            return self._split()

    def _split(self) -> tuple[ReaderHalf, WriterHalf, BridgeHalf]:
        """Does that. The locks are held: nobody else is inside, and nobody comes in any more."""
        # Perhaps the peer's Close came with the opening handshake, and has been answered: no half sends one again.
        self._channel.has_sent_close = self._writer.sent_close is not None
        taken = Taken(self.connection, self._channel)
        reader = ReaderHalf(self._channel, self._options, self._keepalive, taken)
        writer = WriterHalf(self._channel, self._options, taken)
        halves = Halves(reader, writer, self._channel, self._options, taken)
        self.connection.split()
        # Set before the locks are replaced: whoever is refused by a `SplitLock` looks here, even if a signal handler
        # raises in between.
        self._halves = halves
        self._write_lock = self._reading = SplitLock()  # type: ignore[assignment]
        self._in_order.end(self._write_lock.acquire)  # refuses those who wait for the old lock
        self._reader.on_pong = self._keepalive.answered
        # Nobody asks what is due any more. The reader holds `_keepalive` now, which must not hold the reader by way of
        # its connection.
        self._keepalive.forget_connection()
        return reader, writer, BridgeHalf(self.connection.bridge, taken)

    # ---- what is known ----

    @property
    def latency(self) -> float:
        """The last measured round-trip time in seconds; 0.0 before the first Pong."""
        return self._keepalive.latency

    @property
    def stats(self) -> Stats:
        """Bytes, frames, messages, queues, latency, who closed and why, at this moment; free until asked for."""
        channel = self._channel
        return stats_of(
            self.connection,
            bytes_received=int(channel.record.total),
            bytes_sent=self._writer.taken,
            bytes_waiting=self._writer.size,
            is_slow=not channel.is_writable,
            latency=self.latency,
        )

    def _address(self, *, peer: bool) -> Any:
        return self._channel.address(peer=peer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket knows: "socket", over TLS "ssl_object", "peercert", "cipher"; `default` once it is closed."""
        return self._channel.known(name, default)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Closes it: with 1000, or with 1011 where the block raises."""
        self.close(CloseCode.NORMAL_CLOSURE if error is None else CloseCode.INTERNAL_ERROR)
