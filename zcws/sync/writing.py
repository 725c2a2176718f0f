"""Writing to a blocking connection, by any number of threads: messages, frames, fragments, our Close.

A thread holds a lock while it writes and sends, so that frames go out whole and in order; a message in fragments keeps
other messages out until it is complete, but not control frames (RFC 6455 5.4). What the reader owes to the peer while
the lock is held stays on the bridge, until `_send_leftover`, which follows each write.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from zcws.annotations import Buffer
from zcws.closing import close_payload
from zcws.codes import CloseCode, OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed
from zcws.frame import Frame, ReceivedFrame
from zcws.heads import FIN
from zcws.kernel import ffi
from zcws.options import Timeouts
from zcws.output import CORK, SEGMENT
from zcws.payloads import as_control_payload, as_payload, check_opcode, has_buffer, let_go, unreadable
from zcws.sync.channel import Channel, Stuck
from zcws.sync.deadline import lock_timeout
from zcws.sync.in_order import InOrder, is_of_a_lock

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["OutgoingStream", "Writing", "sending_failed"]

_TEXT, _BINARY = OpCode.TEXT, OpCode.BINARY

#: Seconds after which whoever waits for another thread's message looks whether the connection is still there.
_LOOK_AGAIN = 0.5

#: Stands for an iterator's end: an empty fragment is a fragment, and None is a mistake of the program.
_NOTHING = object()

_Result = TypeVar("_Result")


class Writing:
    """Writes to one connection; for any number of threads.

    Attributes:
        connection: the connection without its socket.
    """

    def __init__(self, connection: Connection, channel: Channel, options: Timeouts) -> None:
        self.connection = connection
        self._writer = connection.writer
        self._channel = channel
        self._options = options
        self._write_lock = threading.RLock()
        self._message_done = threading.Condition(self._write_lock)
        self._sender: int | None = None  # the thread in the middle of a message of fragments
        # One for each `cork` that somebody is in; see `Channel` for why it is a deque.
        self._corks: deque[None] = deque()
        self._is_sending = False  # in the thread that holds the lock
        self._in_order = InOrder()
        self._behind: list[Callable[[], object]] = []  # messages that wait until one in fragments is complete
        # A Close that is left to the thread that holds the lock: whoever pops it sends it.
        self._goodbyes: list[tuple[int, str]] = []
        channel.limit_sends(options.write_timeout)
        if options.ping_interval is not None and options.ping_timeout is not None:
            channel.expect_life(options.ping_interval, options.ping_timeout)

    def _send_leftover(self) -> None:
        """Sends what the reader left on the bridge while we held the lock."""
        raise NotImplementedError

    def _hear_why(self, exc: BaseException) -> None:
        """`exc` has ended a send; the lock is held. If the socket broke, the peer may have said why before."""
        raise NotImplementedError

    def abort(self) -> None:
        """Ends the TCP connection at once, without a closing handshake."""
        raise NotImplementedError

    # ---- messages and frames ----

    def send(
        self,
        message: str | Buffer | Iterable[str | Buffer],
        *,
        text: bool | None = None,
        compress: bool | None = None,
    ) -> None:
        """Sends a message: str as text, bytes-like as binary, an iterable of either as fragments of one message.

        Fragments go out as they are made, and an empty one ends the message. In a list or a tuple, the last item ends
        it.

        Args:
            text: True or False sends text or binary, whatever the type of the message; bytes sent as text must be
                UTF-8.
            compress: True or False decides for this message, where compression was agreed; by default its size
                does. RFC 7692.

        Raises:
            ConnectionClosed: the connection is closing or closed; nothing has been written.
            TypeError: this is not a message. ValueError: it is text, and not UTF-8.
        """
        if isinstance(message, str):
            self._write_message(_BINARY if text is False else _TEXT, message.encode(), compress)
        elif type(message) is bytes and not text:
            self._write_message(_BINARY, message, compress)
        elif isinstance(message, (bytes, bytearray, memoryview)) or has_buffer(message):
            payload = as_payload(message, text=bool(text))  # type: ignore[arg-type]
            try:
                self._write_message(_TEXT if text else _BINARY, payload, compress)
            finally:
                let_go(payload)
        elif isinstance(message, Mapping) or not isinstance(message, Iterable):
            raise TypeError(
                f"a message is str, bytes-like, or an iterable of those, not {type(message).__name__}"
            )
        else:
            takes_time = not isinstance(message, (list, tuple))  # they are made as they are asked for
            self._send_fragments(iter(message), text, compress, takes_time=takes_time)

    def _send_fragments(
        self, fragments: Iterator[str | Buffer], text: bool | None, compress: bool | None, *, takes_time: bool
    ) -> None:
        """One message in fragments; other messages wait until it is complete. RFC 6455 5.4."""
        self.connection.check_writable()  # before anything is taken from the iterator in vain
        first: Any = next(fragments, _NOTHING)
        if first is _NOTHING:
            return  # nothing to send is no message, as in `websockets`
        is_text = isinstance(first, str) if text is None else text
        with self._message():
            for fragment, is_last in _with_end(first, fragments, takes_time=takes_time):
                self._send_fragment(fragment, is_text, compress, last=is_last)

    @contextlib.contextmanager
    def send_stream(
        self, opcode: OpCode | None = None, *, compress: bool | None = None
    ) -> Iterator[OutgoingStream]:
        """One message that is sent in pieces, as they come: `with ws.send_stream() as message: message.write("...")`.

        Without `opcode` (TEXT or BINARY) it is text if its first piece is str, and binary if that is bytes-like. Other
        threads' messages wait until it is complete. Leaving with an exception closes the connection with 1011, since
        half a message cannot be taken back. RFC 6455 5.4.
        """
        if opcode is not None:
            check_opcode(opcode)
        with self._message():
            stream = OutgoingStream(self, None if opcode is None else opcode == OpCode.TEXT, compress)
            yield stream
            stream._finish()

    @contextlib.contextmanager
    def _message(self) -> Iterator[None]:
        """A message in fragments: other threads' messages wait until it is complete."""
        is_ours = False
        try:
            with self._write_lock:
                self._await_message()
                self.connection.check_writable()
                if self._sender is not None:
                    raise ValueError("a message is going out in fragments; finish it first (RFC 6455 5.4)")
                me = threading.get_ident()
                self._sender, is_ours = me, True  # in one step: a signal handler may raise around it
            yield
        except BaseException:
            if is_ours and self._writer.is_in_message:
                self.begin_close(CloseCode.INTERNAL_ERROR)
            raise
        finally:
            if is_ours:
                self._sender = None
                with self._write_lock:
                    self._message_done.notify_all()
                    self._write_behind()

    def _write_behind(self) -> None:
        """Writes what signal handlers have put off until a message in fragments is complete. The lock is held."""
        while self._behind:
            self._in_order.waiting.append(self._behind.pop(0))
        self._in_order.catch_up()

    def _await_message(self) -> None:
        """Waits until no other thread is in the middle of a message. The lock is held, but not during the wait."""
        me = threading.get_ident()
        while self._sender is not None and self._sender != me:
            self.connection.check_writable()
            self._message_done.wait(_LOOK_AGAIN)

    def _send_fragment(self, data: str | Buffer, is_text: bool, compress: bool | None, *, last: bool) -> None:
        data = self._in_order.kept(data)
        self._write_now(
            lambda: self.connection.send_fragment(data, text=is_text, last=last, compress=compress)
        )

    def write_frame(self, frame: Frame) -> None:
        """Sends a frame as it is; a received one too. Raises: as `Connection.write_frame`."""
        frame = self._in_order.kept_frame(frame)
        if frame.opcode is OpCode.CLOSE:
            # Taken out of it now, because another thread may read on while this one waits for the lock.
            code, reason = frame.close_code if len(frame) else None, frame.close_reason
            self._write_now(lambda: self._write_close_frame(code, reason))
        elif frame.opcode > OpCode.CLOSE:
            self._write_now(lambda: self.connection.write_frame(frame))
        elif isinstance(frame, ReceivedFrame):
            # It is a whole message, and was checked. It is copied or kept, because another thread may read on while
            # this one waits for the lock, or sends.
            self._write_message(
                frame.opcode, frame.to_bytes() if len(frame) < SEGMENT else frame._keep(), None
            )
        else:
            self._write(lambda: self.connection.write_frame(frame))

    def _write_close_frame(self, code: int | None, reason: str) -> None:
        # Not `Connection.write_frame`, which also does the reader's part of a Close.
        self.connection.check_writable()
        self.connection.send_close(code, reason)

    def _write_message(self, opcode: OpCode, payload: Buffer, compress: bool | None) -> None:
        """`_write` for a message that needs no check, which nearly all are."""
        order = self._in_order
        with self._write_lock:
            if order.is_busy:
                payload = payload if type(payload) is bytes else bytes(payload)
                self._put_off(lambda: self._write_message(opcode, payload, compress))
                return
            if self._sender is not None:
                self._await_message()
            order.is_busy = True  # `run` written out, to save its call
            try:
                writer = self._writer
                if writer.opcode:
                    self.connection.check_writable()
                    writer.refuse_message()
                if self._corks or writer.out or not self._send_at_once(opcode, payload):
                    writer.write_message(opcode, payload, compress)
                    self._flush_unless_corked()
            finally:
                order.is_busy = False
                if order.waiting:
                    order.catch_up()
        self._send_leftover()

    def _send_at_once(self, opcode: OpCode, payload: Buffer) -> bool:
        """Sends a message past the writer's output, which is empty. False: it has to go through the output.

        The lock is held. Raises: as `_flush`.
        """
        writer = self._writer
        if self._is_sending:
            return False
        if writer.masks_up_to < 0:
            # Memory that may change later need not be copied: a server has sent it when a write returns.
            may_lend = writer.is_bare and type(payload) is not bytes and len(payload) >= SEGMENT  # type: ignore[arg-type]
            if may_lend:
                self._flush(writer.lend_message(opcode, payload))
            return may_lend
        if type(payload) is bytes:
            self._send_masked(opcode, payload)
        else:
            with ffi.from_buffer(payload) as source:  # held no longer: see `PayloadBuffer._wrap`
                self._send_masked(opcode, source)
        if writer.out:
            self._flush()
        return True

    def _send_masked(self, opcode: OpCode, source: CData | bytes) -> None:
        writer = self._writer
        self._is_sending = True
        try:
            sent = self._channel.send_masked(writer.scratch, FIN | opcode, source, writer.next_key())  # type: ignore[misc]
        except BaseException as exc:
            self._hear_why(exc)
            sending_failed(self.connection, self._channel, exc)
        finally:
            self._is_sending = False
        writer.passed_message(sent)

    def _write(self, write: Callable[[], object]) -> None:
        """Writes something that may not stand in the middle of another thread's message."""
        self._write_now(write, self._await_message)

    def _put_off(self, message: Callable[[], object]) -> None:
        """We are in a signal handler that has interrupted a write: has `message` written behind that, or behind the
        message in fragments that it is a part of."""
        if self._sender == threading.get_ident():
            self._behind.append(message)
        else:
            self._in_order.put_off(message)

    def _write_now(self, write: Callable[[], object], wait: Callable[[], object] | None = None) -> None:
        order = self._in_order
        with self._write_lock:
            if order.is_busy:
                if wait is None:
                    order.put_off(lambda: self._write_now(write))
                else:
                    self._put_off(lambda: self._write(write))
                return
            if wait is not None:
                wait()
            order.run(write, self._flush_unless_corked)
        self._send_leftover()

    def _flush_unless_corked(self) -> None:
        if not self._corks or self._writer.size >= CORK:
            self._flush()

    def _flush(self, taken: list[Buffer] | None = None) -> None:
        """Sends what has been written, or was taken from the writer already. The lock is held.

        Raises:
            ConnectionClosedError: the socket takes no more.
        """
        if self._is_sending:
            return  # we are in a signal handler: the send that it has interrupted sends this as well
        self._is_sending = True
        try:
            while segments := taken or self._writer.take():
                taken = None
                self._channel.send(segments)
        except BaseException as exc:
            self._hear_why(exc)
            sending_failed(self.connection, self._channel, exc)
        finally:
            self._is_sending = False

    def _flush_quietly(self) -> None:
        with contextlib.suppress(ConnectionClosed):  # the reader finds the reason
            self._flush()

    @contextlib.contextmanager
    def cork(self) -> Iterator[None]:
        """What is written inside goes out at the end, in one system call: `with ws.cork(): ...`."""
        with self._write_lock:
            pass  # raises if it has been split
        try:
            self._corks.append(None)  # inside `try`: a signal handler may raise after this, but not before
            yield
        finally:
            self._corks.pop()
            self.flush()

    def flush(self) -> None:
        """Sends what has been written. Raises: ConnectionClosed when the socket takes no more."""
        order = self._in_order
        with self._write_lock:
            if order.is_busy:
                order.put_off(self.flush)
                return
            order.run(self._flush)
        self._send_leftover()

    def pong(self, payload: str | Buffer = b"") -> None:
        """Sends a Pong that nobody asked for, a heartbeat. Pings are answered without it. RFC 6455 5.5.3."""
        data = as_control_payload(payload)
        self._write_now(lambda: self.connection.pong(data))

    # ---- our Close ----

    def begin_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """The first half of `close`, without the wait for the peer. From any thread.

        If another thread is still in the middle of a send after `close_timeout` seconds, even one that makes progress,
        there is no Close: the connection ends at once.

        Nobody reads the answer on a split connection: `close`, or the end of `close_timeout`, closes its socket.
        """
        close_payload(code, reason)  # ValueError before anything happens
        if not self._try_close(code, reason, self._options.close_timeout):
            self.abort()

    def _try_close(self, code: int, reason: str, timeout: float | None) -> bool:
        """Sends a Close, if the lock is free within `timeout` seconds. Returns whether a Close is out."""
        lock, order, longest = self._write_lock, self._in_order, lock_timeout(timeout)
        try:
            if not lock.acquire(timeout=longest):
                # A thread that sends in a loop holds it nearly always, and sends this after what it is sending.
                self._goodbyes[:] = ((code, reason),)
                return False
            if order.is_busy:
                order.put_off(lambda: self._try_close(code, reason, timeout))
                return True
            if not order.run(lambda: self._write_close(code, reason, timeout)):
                return False
        finally:
            try:
                lock.release()
            except RuntimeError as error:
                if not is_of_a_lock(error):
                    raise
        self._send_leftover()
        return True

    def _write_close(self, code: int, reason: str, timeout: float | None) -> bool:
        """The lock is held. Returns: whether a Close is out."""
        if timeout == 0 and not self._channel.is_writable:
            return False
        if self.connection.send_close(*self._writer.last_words(code, reason)):
            bounds = [self._options.close_timeout, self._options.write_timeout]
            self._channel.limit_sends(min((bound for bound in bounds if bound is not None), default=None))
            self._flush_quietly()
        return True

    def _say_goodbye(self) -> None:
        """Sends the Close that was left to us while we held the lock."""
        with contextlib.suppress(IndexError):  # another writer has taken it meanwhile
            self._try_close(*self._goodbyes.pop(), 0)


class OutgoingStream:
    """One message that is being sent in pieces."""

    def __init__(self, ws: Writing, is_text: bool | None, compress: bool | None) -> None:
        self._ws = ws
        self._is_text = is_text
        self._compress = compress
        self._done = False

    def __repr__(self) -> str:
        return f"<OutgoingStream of {self._ws!r}>"

    def write(self, piece: str | Buffer) -> None:
        """Sends one piece as a fragment. Raises: as `WebSocket.send`."""
        if self._done:
            raise RuntimeError("write inside `with`")
        is_text = isinstance(piece, str) if self._is_text is None else self._is_text
        self._ws._send_fragment(piece, is_text, self._compress, last=False)
        self._is_text = is_text

    def _finish(self) -> None:
        self._done = True
        self._ws._send_fragment(b"", self._is_text is not False, self._compress, last=True)


def _with_end(
    first: str | Buffer, following: Iterator[str | Buffer], *, takes_time: bool
) -> Iterator[tuple[str | Buffer, bool]]:
    """Each fragment, and whether it is the last.

    One that takes time to make is yielded at once, and an empty one ends the message: the next may depend on the peer's
    answer to this one, or lie in the same memory.
    """
    if takes_time:
        yield first, False
        yield from ((fragment, False) for fragment in following)
        yield b"", True
        return
    current = first
    for fragment in following:
        yield current, False
        current = fragment
    yield current, True


def sending_failed(connection: Connection, channel: Channel, exc: BaseException) -> NoReturn:
    """`channel.send` has raised: the connection is lost, as far as sending goes.

    Raises:
        ConnectionClosedError: the peer does not read, or the socket is gone. OSError: the program's memory cannot be
            read. Any other exception is raised again.
    """
    if isinstance(exc, Stuck):
        connection.lose((CloseCode.INTERNAL_ERROR, f"the peer does not read ({exc})"))
        channel.abort()
        raise connection.error() from None
    fault = unreadable(exc)
    if isinstance(exc, OSError) and exc.errno is not None and fault is None:
        # What the peer has sent before, perhaps a Close, can still be read: the reader comes to the end by itself.
        connection.lose()
        # Another thread has closed it: this says nothing of the network.
        if channel.is_over or exc.errno == errno.EBADF:
            raise connection.error() from None
        connection.bridge.cause = connection.bridge.cause or exc.with_traceback(None)
        raise connection.error() from exc
    # Nobody knows how much has gone out, so that nothing may follow.
    why = "there was no memory" if isinstance(exc, MemoryError) else "a signal handler has raised"
    if fault is not None:
        why = "memory could not be read"
    connection.lose((CloseCode.INTERNAL_ERROR, f"{why} in the middle of a write"))
    channel.abort()
    raise fault or exc
