"""Reading from a blocking connection: what the whole connection and the reader's half have in common.

A read receives straight into the ring, scans, and asks the core again (inlet.py, reader.py). All progress lives there,
so a read that times out loses nothing. Three things differ between the whole and the half, and are left to them: what
becomes of replies (`_answer_peer`), who else might read (`_alone`, `_turn`), and how the connection is ended
(`_finish`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, Literal, TypeVar, overload

from zcws.annotations import Self
from zcws.batch import Batch
from zcws.buffer import PayloadBuffer, check_buffer
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, ConnectionClosedOK
from zcws.frame import NEED_MORE, Frame, NeedMore, PayloadOrigin, check_origin
from zcws.options import Timeouts, checked_wait
from zcws.sync.channel import ENDED, NOTHING, TORN, Channel
from zcws.sync.deadline import after, is_past, until
from zcws.sync.keepalive import Keepalive
from zcws.utf8 import decoded, piecewise

__all__ = ["IncomingStream", "Reading"]

_Result = TypeVar("_Result")
_Piece = TypeVar("_Piece")

#: Seconds that one wait lasts at least: with a `close_timeout` or a `ping_timeout` of 0 a read would spin.
_SHORTEST_WAIT = 0.01

#: What the reader raises between two steps. A signal handler may raise the same in the middle of one.
_READERS = (ConnectionClosed, ValueError, RuntimeError, MemoryError)

_US = __name__.partition(".")[0]


class Reading:
    """Reads from one connection; for one thread at a time."""

    def __init__(
        self, connection: Connection, channel: Channel, options: Timeouts, keepalive: Keepalive
    ) -> None:
        self._reader = connection.reader
        self._writer = connection.writer
        self._bridge = connection.bridge
        self._channel = channel
        self._options = options
        self._keepalive = keepalive
        self._give_up: float | None = None  # when to stop waiting for the answer to our Close
        self._has_looked = False  # after that time
        # How long one wait may last: a Ping may be due, or our Close may be out for too long.
        longest, timeout = keepalive.wait, options.close_timeout
        self._longest_wait: float = max(longest if timeout is None else min(longest, timeout), _SHORTEST_WAIT)

    def _answer_peer(self) -> None:
        """Bytes have been scanned: the bridge may hold a reply, a Ping may be due."""
        raise NotImplementedError

    def _finish(self) -> object:
        """Nothing is left to read."""
        raise NotImplementedError

    @overload
    def recv(self, timeout: float | None, decode: Literal[True]) -> str: ...

    @overload
    def recv(self, timeout: float | None = None, *, decode: Literal[True]) -> str: ...

    @overload
    def recv(self, timeout: float | None, decode: Literal[False]) -> bytes: ...

    @overload
    def recv(self, timeout: float | None = None, *, decode: Literal[False]) -> bytes: ...

    @overload
    def recv(self, timeout: float | None = None, decode: bool | None = None) -> str | bytes: ...

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
        message = self._alone(self._read_message, checked_wait(timeout))
        if decode is None:
            return message
        return decoded(message, decode)

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
        if buffer is not None:
            check_buffer(buffer)
        reader = self._reader
        if origin is PayloadOrigin.ADAPTIVE and (buffer is None or buffer.reader is None):
            return self._read(lambda: reader.read_frame(buffer), timeout, reader.frame_found)
        check_origin(origin)
        return self._read(lambda: reader.read_frame(buffer, origin), timeout)

    def read_batch(self, timeout: float | None = None) -> Batch:
        """All frames that have arrived together, good until the next read. Raises: as `recv`."""
        return self._read(self._reader.read_batch, timeout, self._batch_found)

    def _batch_found(self, found: int) -> Batch | None:
        """As `Reader.frame_found`."""
        frame = self._reader.frame_found(found)
        return None if frame is None else Batch([frame])

    def batches(self) -> Iterator[Batch]:
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

    @overload
    def stream(
        self, timeout: float | None, decode: Literal[True]
    ) -> contextlib.AbstractContextManager[IncomingStream[str]]: ...

    @overload
    def stream(
        self, timeout: float | None = None, *, decode: Literal[True]
    ) -> contextlib.AbstractContextManager[IncomingStream[str]]: ...

    @overload
    def stream(
        self, timeout: float | None, decode: Literal[False]
    ) -> contextlib.AbstractContextManager[IncomingStream[bytes]]: ...

    @overload
    def stream(
        self, timeout: float | None = None, *, decode: Literal[False]
    ) -> contextlib.AbstractContextManager[IncomingStream[bytes]]: ...

    @overload
    def stream(
        self, timeout: float | None = None, decode: bool | None = None
    ) -> contextlib.AbstractContextManager[IncomingStream[str | bytes]]: ...

    @contextlib.contextmanager
    def stream(
        self, timeout: float | None = None, decode: bool | None = None
    ) -> Iterator[IncomingStream[Any]]:
        """The next message piece by piece, as its bytes arrive: `with ws.stream() as message: for piece in message`.

        Pieces are str for text and bytes for binary; an empty message is one piece. When the block is left, what is not
        read of the message is dropped, unless no piece has been read: then it is still the next message.

        Args:
            timeout: seconds for each piece. After a TimeoutError the next piece can be asked for again.
            decode: True or False gives str or bytes whatever the message is.
        """
        with self._turn():
            self._reader.begin_stream()
        try:
            yield IncomingStream(self, timeout, piecewise(decode))
        finally:
            # A half that is taken over has nothing to drop.
            with contextlib.suppress(ConnectionClosed), self._turn():
                self._reader.end_stream()

    def _turn(self) -> contextlib.AbstractContextManager[object]:
        """A context in which nobody else touches the reader."""
        raise NotImplementedError

    def _alone(self, read: Callable[[float | None], _Result], timeout: float | None) -> _Result:
        """Does `read` while nobody else reads."""
        raise NotImplementedError

    def _read(
        self,
        attempt: Callable[[], _Result | NeedMore],
        timeout: float | None,
        found: Callable[[int], _Result | None] | None = None,
    ) -> _Result:
        """Receives until `attempt` gives something.

        Args:
            found: makes the result, past the reader, from what a scan has found while the reader was idle; returns None
                if it cannot.
        """
        return self._alone(lambda rest: self._repeat(attempt, found, rest), checked_wait(timeout))

    def _read_message(self, timeout: float | None) -> str | bytes:
        reader = self._reader
        for ready in reader.ready:
            return ready
        if timeout is None and self._is_quiet:
            # One round of `_repeat`, which is nearly always enough.
            message: str | bytes | None = self._scan(reader.message_found, self._longest_wait)  # type: ignore[assignment]
            if message is not None:
                return message
        return self._repeat(reader.read_message, reader.message_found, timeout)  # type: ignore[return-value]

    def _repeat(
        self,
        attempt: Callable[[], _Result | NeedMore],
        found: Callable[[int], _Result | None] | None,
        timeout: float | None,
    ) -> _Result:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while (result := self._next(attempt, found, deadline)) is NEED_MORE:
                if is_past(deadline):
                    raise TimeoutError("no message was complete in time")
            return result
        except ConnectionClosed:
            self._finish()
            raise

    def _next(
        self,
        attempt: Callable[[], _Result | NeedMore],
        found: Callable[[int], _Result | None] | None,
        deadline: float | None,
    ) -> _Result | NeedMore:
        """What there is, or what one wait brings. A frame alone, while nothing is kept, goes past the reader."""
        if found is None or not self._reader.is_idle:
            result = self._ask(attempt)
            if result is not NEED_MORE:
                return result
        if found is None or not self._is_quiet:
            self._receive(deadline)
            return self._ask(attempt)
        timeout = self._longest_wait if deadline is None else _bounded(self._longest_wait, deadline)
        alone = self._scan(found, timeout)
        return self._ask(attempt) if alone is None else alone

    @property
    def _is_quiet(self) -> bool:
        """Whether what comes next may go past the reader."""
        reader = self._reader
        return reader.is_idle and not reader.pours and self._writer.sent_close is None

    def _scan(self, found: Callable[[int], _Result | None], timeout: float | None) -> _Result | None:
        """One wait. `found` makes the result of a frame that comes alone, past the reader. None: the reader has it."""
        channel = self._channel
        try:
            count = channel.scan(self._reader, timeout)
            # Our Close may have gone out from another thread meanwhile.
            alone = found(count) if self._writer.sent_close is None else None
            if alone is not None:
                self._keepalive.heard = True
            else:
                self._settle(count, partial(self._reader.take_found, channel.record.received, count))
            channel.record.received = 0
        except BaseException:
            self._interrupted()
            raise
        self._answer_peer()
        return alone

    def _ask(self, attempt: Callable[[], _Result | NeedMore]) -> _Result | NeedMore:
        try:
            result = attempt()
        except BaseException as error:
            if not isinstance(error, _READERS) or not _is_raised_here(error):
                self._channel.record.received = 1  # at once: another signal may come any time
                self._tear()
            raise
        if self._reader.is_ending:
            self._answer_peer()
        return result

    def _receive(self, deadline: float | None) -> bool:
        """One wait, for bytes or until `deadline` or something else is due. Returns: whether there was any news."""
        reader = self._reader
        timeout = self._longest_wait
        if self._writer.sent_close is not None:
            if not reader.discarding:
                reader.discard()  # the Close went out from another thread
                return True
            timeout = self._rest_of_closing(timeout)
        if deadline is not None:
            timeout = _bounded(timeout, deadline)
        channel = self._channel
        room = self._room()
        try:
            wanted = reader.lacking
            count = channel.receive_more(room, timeout, wanted) if wanted else channel.receive(room, timeout)
            self._settle(count, partial(reader.received, count))
            channel.record.received = 0
        except BaseException:
            self._interrupted()
            raise
        self._answer_peer()
        return count != NOTHING

    def _room(self) -> memoryview:
        """Where the next bytes land. What is kept may move for them, and a handler may raise in the middle."""
        reader, record = self._reader, self._channel.record
        try:
            return reader.get_buffer()
        except BaseException:
            # The bytes have moved, and nobody has noted where they are now.
            if reader.bytes_received != record.total:
                record.received = 1  # at once: another signal may come any time
                self._tear()
            raise

    def _settle(self, count: int, take: Callable[[], object]) -> None:
        """Acts on what the channel returned for a wait. `take` has the reader take what has arrived."""
        if count >= 0:
            self._take(take)
        elif count == ENDED:
            self._bridge.cause = self._bridge.cause or self._channel.cause
            self._take(self._reader.receive_eof)
        elif count == TORN:
            self._tear()

    def _interrupted(self) -> None:
        """A signal handler has raised. What was received and not taken is still where it was, and is taken here, before
        anybody else looks at the reader."""
        record, reader = self._channel.record, self._reader
        received, found = record.received, record.found
        if not received:
            return
        if found == TORN:
            self._tear()
            return
        if found == NOTHING:
            self._take(partial(reader.received, received))
        elif reader.is_idle:  # otherwise the reader has handed it out as a frame
            self._take(partial(reader.take_found, received, found))
        record.received = 0

    def _tear(self) -> None:
        """Ends reading. What was received is half taken, or only OpenSSL knows how much it is, so that nothing after it
        can be parsed. Writing still works, and the peer is told why."""
        self._reader.tear(CloseCode.INTERNAL_ERROR, "a signal handler has raised in the middle of a read")
        self._channel.record.received = 0
        if self._channel.is_writable:  # otherwise the next read, or the end of `with`, waits until it is
            self._answer_peer()

    def _take(self, take: Callable[[], object]) -> None:
        """Has the reader take what has arrived."""
        self._keepalive.heard = True
        self._channel.record.found = TORN  # until it is done
        reader = self._reader
        # RFC 6455 5.5.1: what came while another thread sent our Close does not count any more.
        closing = self._writer.sent_close is not None and not reader.discarding
        if closing:
            reader.discarding = True
        take()
        if closing:
            reader.discard()

    def _rest_of_closing(self, timeout: float) -> float:
        """How long the answer to our Close may still take. After that the stream counts as ended, but not before a last
        look: the answer may have come in time, during a pause of ours."""
        bound = self._options.close_timeout
        if bound is None:
            return timeout
        now = time.monotonic()
        if self._give_up is None:
            self._give_up = now + bound
        elif now >= self._give_up:
            if self._has_looked:
                self._reader.receive_eof()
            self._has_looked = True
        return min(self._give_up - now, timeout)

    def _closing_deadline(self) -> float | None:
        return after(self._options.close_timeout)

    def _discard(self, deadline: float | None) -> None:
        """Reads on until the peer's Close has come, and drops what comes before it."""
        with contextlib.suppress(ConnectionClosed):
            self._reader.discard()
            for _ in until(deadline):
                if self._reader.is_concluded:
                    break
                self._receive(deadline)

    def _drain(self, deadline: float | None) -> None:
        """Reads on until the peer has ended the stream."""
        with contextlib.suppress(ConnectionClosed):
            for _ in until(deadline):
                if self._reader.is_at_eof:
                    break
                self._receive(deadline)


class IncomingStream(Generic[_Piece]):
    """One message that is being read in pieces. After a TimeoutError, iterating over it goes on where it stopped."""

    def __init__(
        self, side: Reading, timeout: float | None, convert: Callable[[str | bytes, bool], _Piece]
    ) -> None:
        self._side = side
        self._timeout = timeout
        self._convert = convert
        self._done = False
        self._is_empty = True  # so far

    def __repr__(self) -> str:
        return f"<IncomingStream of {self._side!r}>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Piece:
        while not self._done:
            received, self._done = self._side._read(self._side._reader.read_piece, self._timeout)
            piece = self._convert(received, self._done)
            # An empty message gives one empty piece: its type says whether the message is text.
            if piece or (self._done and self._is_empty):
                self._is_empty = False
                return piece
        raise StopIteration


def _is_raised_here(error: BaseException) -> bool:
    """Whether a module of this package has raised it, and not a signal handler, which is a function of the program."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == _US


def _bounded(timeout: float, deadline: float) -> float:
    """How long one wait may last.

    In whole milliseconds, so that the kernel, which counts no finer, need not be told anew for every read.
    """
    rest = max(deadline - time.monotonic(), 0)
    if rest >= timeout:
        return timeout
    return math.ceil(rest * 1000) / 1000
