"""Reading from a blocking connection: what the whole connection and the reader's half have in common.

A read receives straight into the ring, scans, and asks the core again (inlet.py, reader.py). All progress lives there,
so a read that times out loses nothing. Two things differ between the whole and the half, and are left to them: what
becomes of replies (`_answer_peer`), and how the connection is ended (`_finish`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

from zcws.buffer import PayloadBuffer
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, ConnectionClosedOK
from zcws.frame import NEED_MORE, Frame, NeedMore, PayloadOrigin
from zcws.sync.channel import Channel
from zcws.sync.keepalive import Keepalive

__all__ = ["Options", "ReadingSide"]

_Result = TypeVar("_Result")


class Options:
    """Settings that all connections of one client or server share. See `connect` and `serve`."""

    __slots__ = ("close_timeout", "ping_interval", "ping_timeout")

    def __init__(
        self,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        close_timeout: float | None = 10,
    ) -> None:
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        self.close_timeout = close_timeout


class ReadingSide:
    """Reads from one connection; for one thread at a time."""

    def __init__(
        self, connection: Connection, channel: Channel, options: Options, keepalive: Keepalive
    ) -> None:
        self._reader = connection.reader
        self._writer = connection.writer
        self._channel = channel
        self._options = options
        self._keepalive = keepalive
        self._give_up: float | None = None  # when to stop waiting for the answer to our Close
        # How long one wait may last: a Ping may be due, or our Close may be out for too long.
        bounds = [bound for bound in (keepalive.wait, options.close_timeout) if bound is not None]
        self._longest_wait = min(bounds) if bounds else None

    def _answer_peer(self) -> None:
        """Bytes have been scanned: the bridge may hold a reply, a Ping may be due."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Nothing is left to read."""
        raise NotImplementedError

    def recv(self, timeout: float | None = None, decode: bool | None = None) -> str | bytes:
        """The next message: str for text, bytes for binary; yours to keep.

        Args:
            timeout: seconds; None waits for ever. A read that times out loses nothing.
            decode: True or False gives str or bytes whatever the message is.

        Raises:
            TimeoutError: no message came in time.
            ConnectionClosedOK: the connection ended with 1000 or 1001, or without a code.
            ConnectionClosedError: it ended in any other way; ProtocolError, when the peer broke a rule.
            RuntimeError: another thread is reading.
        """
        message = cast("str | bytes", self._read(self._reader.read_message, timeout))
        if decode is not None:
            if decode and isinstance(message, bytes):
                return message.decode()
            if not decode and isinstance(message, str):
                return message.encode()
        return message

    def read_frame(
        self,
        buffer: PayloadBuffer | None = None,
        origin: PayloadOrigin = PayloadOrigin.ADAPTIVE,
        *,
        timeout: float | None = None,
    ) -> Frame:
        """The next message or control frame; Ping and Close have been answered already.

        Args:
            buffer: where messages land that do not stay in the ring; reusable.
            origin: where payloads may lie; see `PayloadOrigin`.
            timeout: seconds; None waits for ever.

        Returns:
            A frame that is good until the next read on this connection.

        Raises: as `recv`.
        """
        return self._read(lambda: self._reader.read_frame(buffer, origin), timeout)

    def read_batch(self, timeout: float | None = None) -> list[Frame]:
        """All frames that have arrived together, good until the next read. Raises: as `recv`."""
        return self._read(self._reader.read_batch, timeout)

    def batches(self) -> Iterator[list[Frame]]:
        """Batch after batch, until the connection ends well."""
        with contextlib.suppress(ConnectionClosedOK):
            while True:
                yield self.read_batch()

    def __iter__(self) -> Iterator[str | bytes]:
        try:
            while True:
                yield self.recv()
        except ConnectionClosedOK:
            return

    @contextlib.contextmanager
    def stream(self, timeout: float | None = None) -> Iterator[Iterator[str | bytes]]:
        """The next message piece by piece, as its bytes arrive: `with ws.stream() as message: for piece in message`.

        Pieces are str for text and bytes for binary. What is not read of the message is dropped.
        """
        self._reader.begin_stream()
        try:
            yield self._pieces(timeout)
        finally:
            self._reader.end_stream()

    def _pieces(self, timeout: float | None) -> Iterator[str | bytes]:
        last = False
        while not last:
            piece, last = self._read(self._reader.read_piece, timeout)
            if piece:
                yield piece

    def _read(self, attempt: Callable[[], _Result | NeedMore], timeout: float | None) -> _Result:
        """Receives until `attempt` gives something."""
        try:
            result = attempt()
            if result is NEED_MORE:
                deadline = None if timeout is None else time.monotonic() + timeout
                while result is NEED_MORE:
                    self._receive(deadline)
                    result = attempt()
            if self._reader.is_ending:
                self._answer_peer()
            return result
        except ConnectionClosed:
            self._finish()
            raise

    def _receive(self, deadline: float | None) -> None:
        """One wait, for bytes or until something else is due.

        Raises:
            TimeoutError: it is later than `deadline`.
        """
        reader = self._reader
        if self._writer.sent_close is not None and not reader.discarding:
            reader.discard()  # the Close went out from another thread
            return
        timeout = self._longest_wait
        if deadline is not None:
            rest = deadline - time.monotonic()
            timeout = rest if timeout is None else min(rest, timeout)
        try:
            count = self._channel.receive(reader.get_buffer(), timeout)
        except TimeoutError:
            if deadline is not None and time.monotonic() >= deadline:
                raise
            self._waited_in_vain()
            return
        except OSError:
            count = 0  # a reset is an end without a Close: 1006
        self._keepalive.heard = True
        if count:
            reader.received(count)
        else:
            reader.receive_eof()
        self._answer_peer()

    def _waited_in_vain(self) -> None:
        timeout = self._options.close_timeout
        if self._writer.sent_close is not None and timeout is not None:
            now = time.monotonic()
            if self._give_up is None:
                self._give_up = now + timeout
            elif now >= self._give_up:
                self._reader.receive_eof()  # our Close stays unanswered
        self._answer_peer()

    def _drain(self) -> None:
        """Reads on until the peer has ended the stream, `close_timeout` seconds at most."""
        timeout = self._options.close_timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            while not self._reader.is_at_eof:
                self._receive(deadline)
