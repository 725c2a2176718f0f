"""A blocking connection in two halves, one thread each, with nothing shared but the bridge.

    thing                              owner           others
    receiving, frames, "close read"    ReaderHalf      never
    sending, "close sent"              WriterHalf      never
    replies                            BridgeHalf: the reader puts, the writer's thread takes

The reader never writes. A reply that it owes waits on the bridge until the writer's thread sends it: with
`drain_bridge()` between two messages, or by way of a thread that waits in `listen()` and hands it to the writer.
Neither half takes a lock of ours; over TLS both take the channel's, because they share one OpenSSL object.

The half that finishes last closes the socket: the reader, if our Close is out already; otherwise the writer, with the
last reply or `close()`. If one half has finished and the other does nothing about it, perhaps because it waits for a
peer that does not read, or because its thread is gone, the connection ends `close_timeout` seconds later.

The whole connection may also be ended (`with`, a server that shuts down), from any other thread. It *takes over* both
halves (`Taken`): a thread that is inside of a call finishes that call, and sends the Close after it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from zcws.annotations import Buffer
from zcws.bridge import Bridge, Reply, check_reply
from zcws.closing import State, close_payload
from zcws.codes import CloseCode, OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, ConnectionClosedError, closed_error
from zcws.frame import Frame
from zcws.kernel import HAS_GIL
from zcws.options import Timeouts, checked_wait
from zcws.payloads import as_control_payload, as_payload, let_go
from zcws.stats import shown
from zcws.sync.bell import Bell
from zcws.sync.channel import ENDED, Channel
from zcws.sync.deadline import after, is_past, left
from zcws.sync.in_order import InOrder
from zcws.sync.keepalive import Keepalive
from zcws.sync.reading import Reading
from zcws.sync.writing import sending_failed

__all__ = ["BridgeHalf", "Halves", "ReaderHalf", "WriterHalf"]

_Result = TypeVar("_Result")

#: Seconds until the whole connection looks again whether the reader's thread has come out.
_LOOK_AGAIN = 0.01

#: Seconds after which every processor sees what one of them has written. With a GIL that is at once.
_SEEN_BY_ALL = 0.0 if HAS_GIL else 0.001

#: The modules in which every call of a half begins.
_THEIRS = frozenset({__name__, Reading.__module__})


class Taken:
    """Whether the whole connection has taken over both halves, to end them.

    Neither side waits for the other: a thread marks that it is inside of its half, and then looks here; whoever takes
    over marks that here, and then looks who is inside. So at least one of the two sees the other.
    """

    close: tuple[int, str] | None = None  # the Close that says why

    def __init__(self, connection: Connection, channel: Channel) -> None:
        self.connection = connection
        self.channel = channel

    def take(self, code: int, reason: str) -> bool:
        """From now on no call of a half begins. Returns whether nobody has taken over before."""
        close = (code, reason)
        if vars(self).setdefault("close", close) is not close:  # in one step: two threads may want it at once
            return False
        time.sleep(_SEEN_BY_ALL)
        return True

    def check(self) -> None:
        """Raises ConnectionClosed, if the halves have been taken over."""
        if self.close is None:
            return
        if self.connection.state is not State.OPEN:
            raise self.connection.error()
        if self.close[0] == CloseCode.ABNORMAL_CLOSURE:
            # By `abort`: as it is told when the connection knows of it.
            raise closed_error(*self.close, clean=False, by="network")
        raise closed_error(*self.close, clean=True, by="us")

    @property
    def give_up(self) -> Callable[[], None]:
        """What to call when the socket was closed because nobody has read the peer's answer to our Close."""
        # The channel keeps it, and must not hold the connection, which holds the channel.
        return partial(_give_up, weakref.ref(self), self.connection.bridge)


def _give_up(this: weakref.ref[Taken], bridge: Bridge) -> None:
    bridge.end()
    taken = this()
    # If our Close is still going out, the writer sees after it that the bridge has ended.
    if taken is not None and taken.channel.has_sent_close:
        taken.connection.note_end()


class ReaderHalf(Reading):
    """Reads; for one thread. Everything is as on the whole connection, except that nothing is sent from here."""

    def __init__(self, channel: Channel, options: Timeouts, keepalive: Keepalive, taken: Taken) -> None:
        super().__init__(taken.connection, channel, options, keepalive)
        self._is_client = taken.connection.is_client
        self._taken = taken
        self._is_busy = False  # a thread is inside

    def _alone(self, read: Callable[[float | None], _Result], timeout: float | None) -> _Result:
        # `_turn` written out, to save its generator. A signal handler may read as well.
        before, self._is_busy = self._is_busy, True
        try:
            self._taken.check()
            return read(timeout)
        finally:
            self._is_busy = before

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        before, self._is_busy = self._is_busy, True
        try:
            self._taken.check()
            yield
        finally:
            self._is_busy = before

    def __repr__(self) -> str:
        return shown("ReaderHalf", self._taken.connection, self._channel.address(peer=True), "blocking, ")

    def _answer_peer(self) -> None:
        """Nothing to do: the reply waits on the bridge."""

    def _finish(self) -> None:
        # If our Close is still going out, the writer's `_finish` comes after it: the writer looks for our end after its
        # Close, as we look for its Close after our end.
        if self._channel.has_sent_close:
            if self._bridge.ended:
                self._taken.connection.note_end()
            if self._channel.is_last():
                deadline = self._closing_deadline()
                if not self._is_client:  # RFC 6455 7.1.1: the server first
                    self._channel.end()
                self._drain(deadline)
                self._channel.abort()
        elif self._options.close_timeout is not None:
            self._channel.abort_later(self._options.close_timeout)

    def _read_on(self, deadline: float | None) -> None:
        """Reads until the socket may be closed. The half is taken over, and no thread is inside. RFC 6455 7.1.1."""
        self._discard(deadline)
        if not self._is_client:
            self._channel.end()
        self._drain(deadline)


class WriterHalf:
    """Writes; for one thread."""

    def __init__(self, channel: Channel, options: Timeouts, taken: Taken) -> None:
        self._connection = taken.connection
        self._channel = channel
        self._options = options
        self._in_order = InOrder()
        self._taken = taken
        # One item while the Close of a takeover waits: whoever pops it sends that Close.
        self._goodbyes: list[None] = []
        self._saying: list[None] = []  # one for each thread that may be in the middle of sending it

    def __repr__(self) -> str:
        return shown("WriterHalf", self._connection, self._channel.address(peer=True), "blocking, ")

    def send(self, message: str | Buffer, *, text: bool | None = None, compress: bool | None = None) -> None:
        """A whole message: str as text, bytes-like as binary, unless `text` says otherwise.

        Raises: as `Connection.send`; ConnectionClosedError when the socket takes no more.
        """
        is_text = isinstance(message, str) if text is None else text
        opcode = OpCode.TEXT if is_text else OpCode.BINARY
        payload: Buffer
        if isinstance(message, str):
            payload = message.encode()
        else:
            payload = as_payload(self._in_order.kept(message), text=is_text)
        try:
            self._write(lambda: self._connection.writer.write_message(opcode, payload, compress))
        finally:
            let_go(payload)

    def write_frame(self, frame: Frame) -> None:
        """Sends a frame as it is; a received one only before the reader's next read. Raises: as `send`."""
        frame = self._in_order.kept_frame(frame)
        if frame.opcode is OpCode.CLOSE:
            if not self._in_order.is_busy:  # else it is put off, and its caller has gone when that shows
                self._connection.check_writable()
                self._taken.check()
            self._send_close(frame.close_code if len(frame) else None, frame.close_reason)
        else:
            self._write(lambda: self._connection.writer.write_frame(frame))

    def ping(self, payload: str | Buffer = b"") -> None:
        """Sends a Ping; its Pong arrives at the reader. After a split there is no other keepalive."""
        data = as_control_payload(payload)
        self._write(lambda: self._connection.ping(data))

    def pong(self, payload: str | Buffer = b"") -> None:
        """Sends a Pong that nobody asked for, a heartbeat. RFC 6455 5.5.3."""
        data = as_control_payload(payload)
        self._write(lambda: self._connection.pong(data))

    def _write(self, write: Callable[[], object]) -> None:
        order = self._in_order
        if order.is_busy:  # we are in a signal handler of this thread
            order.put_off(lambda: self._write(write))
            return
        self._connection.check_writable()
        order.is_busy = True  # `_run` written out, to save its calls
        try:
            self._taken.check()
            write()
            self._flush()
        finally:
            order.is_busy = False
            if order.waiting:
                order.catch_up()
            if self._taken.close is not None:
                self._say_goodbye()

    def _run(self, *writes: Callable[[], Any]) -> Any:
        """Calls `writes` one after the other, then sends the Close of a takeover that came meanwhile."""
        try:
            return self._in_order.run(self._taken.check, *writes)
        finally:
            if self._taken.close is not None:
                self._say_goodbye()

    @property
    def _is_busy(self) -> bool:
        """Whether a thread is inside, or is sending the Close of a takeover."""
        return self._in_order.is_busy or bool(self._saying)

    @property
    def _may_say_goodbye(self) -> bool:
        """Whether that Close waits, and `Halves.abort`, which sends none, has not been quicker."""
        close = self._taken.close
        is_wanted = close is not None and close[0] != CloseCode.ABNORMAL_CLOSURE
        return bool(self._goodbyes) and is_wanted and not self._channel.is_over

    @property
    def _owes_goodbye(self) -> bool:
        """Whether that Close waits for a thread to come out of the half."""
        return bool(self._goodbyes) and self._connection.may_send

    def _say_goodbye(self) -> None:
        """Sends the Close of a takeover, if nobody else has. No thread is inside.

        As with `Taken`: we mark that we are here and then look whether the socket is gone; `Halves.abort` does the
        reverse.
        """
        try:
            self._saying.append(None)
            if self._may_say_goodbye:
                try:
                    self._goodbyes.pop()
                    self._write_close(*self._taken.close)  # type: ignore[misc]  # taken over
                except IndexError:
                    raise  # see below
                except BaseException:
                    self._goodbyes.append(None)  # a signal handler has raised: the next to end it sends it
                    raise
                self._note_close()
        except IndexError:
            pass  # another thread has taken it between the two lines
        finally:
            self._saying.pop()
            if self._channel.is_over:
                self._note_end()
        if self._may_say_goodbye:
            self._say_goodbye()  # whoever left one since we looked has seen us here, and relies on us

    def _note_end(self) -> None:
        """Notes that the socket is gone. No thread is inside."""
        self._connection.note_end()
        self._connection.lose()

    def send_reply(self, reply: Reply) -> bool:
        """Sends what the bridge brought. True: it was the last, nothing may be sent any more.

        Raises:
            TypeError: this is not a reply; None from `listen` means that none is left.
        """
        check_reply(reply)
        order = self._in_order
        if order.is_busy:
            order.put_off(lambda: self.send_reply(reply))
            return False
        last = True
        with contextlib.suppress(ConnectionClosed):  # taken over: somebody else sends the last frame
            last = self._run(lambda: self._write_reply(reply))
            if last:
                self._run(self._has_sent_close)
        return last

    def _write_reply(self, reply: Reply) -> bool:
        if reply.is_last:
            self._channel.limit_sends(self._options.close_timeout)
        last = self._connection.write_reply(reply)
        try:
            self._flush()
        except ConnectionClosedError:
            last = True
        return last

    def _note_close(self) -> None:
        """Our Close is out. RFC 6455 7.1.1: if the peer's has come, the server ends the stream first."""
        self._channel.has_sent_close = True
        connection = self._connection
        if not connection.bridge.ended:
            return
        connection.note_end()
        if not connection.is_client:
            self._channel.end()

    def drain_bridge(self) -> bool:
        """Sends what waits on the bridge, if anything does. True: nothing may be sent any more."""
        reply = self._connection.bridge.take()
        if reply is not None:
            return self.send_reply(reply)
        return self._connection.writer.sent_close is not None or self._taken.close is not None

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Sends our Close. The reader goes on until the peer's has come. RFC 6455 7.1.2.

        If the reader has come to its end already, this closes the socket. May be called again.

        Raises:
            ValueError: the code must not be sent (RFC 6455 7.4), or the reason is over 123 bytes of UTF-8.
        """
        close_payload(code, reason)  # ValueError before anything happens
        self.drain_bridge()
        self._send_close(code, reason)

    def _send_close(self, code: int | None, reason: str) -> None:
        order = self._in_order
        if order.is_busy:
            order.put_off(lambda: self._send_close(code, reason))
            return
        with contextlib.suppress(ConnectionClosed):  # taken over: somebody else sends it
            self._run(lambda: self._write_close(code, reason), self._has_sent_close)

    def _write_close(self, code: int | None, reason: str) -> None:
        connection, bridge = self._connection, self._connection.bridge
        if bridge.ended and bridge.cause is not None:
            connection.lose()  # the reader has seen that the socket is broken: there is nobody to tell
            return
        self._channel.limit_sends(self._options.close_timeout)
        connection.send_close(*connection.writer.last_words(code, reason))
        with contextlib.suppress(ConnectionClosedError):
            self._flush()

    def _has_sent_close(self) -> None:
        self._channel.has_sent_close = True
        bridge, timeout = self._connection.bridge, self._options.close_timeout
        if bridge.ended:
            self._connection.note_end()
            self._finish()
        elif timeout is not None:
            # The reader does the rest, unless nobody reads any more.
            self._channel.abort_later(timeout, self._taken.give_up)

    def flush(self) -> None:
        """Sends what has been written.

        Raises:
            ConnectionClosedError: the socket takes no more.
        """
        order = self._in_order
        if order.is_busy:
            return  # we are in a signal handler: the write that it has interrupted sends this as well
        self._run(self._flush)

    def _flush(self) -> None:
        try:
            segments = self._connection.writer.take()
            if segments:
                self._channel.send(segments)
        except BaseException as exc:
            sending_failed(self._connection, self._channel, exc)

    def _finish(self) -> None:
        """The reader has stopped and our Close is out: what is left is the socket. RFC 6455 7.1.1."""
        if not self._channel.is_last():
            return
        deadline = after(self._options.close_timeout)
        if not self._connection.is_client:
            self._channel.end()
        self._drop(deadline)
        self._channel.abort()

    def _drop(self, deadline: float | None) -> None:
        """Receives what still comes, and drops it."""
        scratch = memoryview(bytearray(4096))
        while not is_past(deadline):
            if self._channel.receive(scratch, left(deadline)) == ENDED:
                break
            self._channel.record.received = 0  # taken, and dropped


class BridgeHalf:
    """Where the reader's replies come out; for one thread."""

    def __init__(self, bridge: Bridge, taken: Taken) -> None:
        self._bridge = bridge
        self._taken = taken
        self._bell = Bell()  # the slot holds one reply, so one ring is enough
        # Called in the reader's thread. It must not hold `self`, which holds everything: see `on_put` in stream.py.
        bridge.on_put = self._bell.ring

    def __repr__(self) -> str:
        return f"<BridgeHalf, {self._bridge.shown}>"

    def listen(self, timeout: float | None = None) -> Reply | None:
        """Waits for a reply to send; None when the reader has come to its end, or been taken over, and nothing is left.

        Raises:
            TimeoutError: nothing came in `timeout` seconds.
        """
        timeout = checked_wait(timeout)
        while True:
            # Asked first: the reader puts its last reply on the bridge before it says that it has ended.
            is_over = self._bridge.ended or self._taken.close is not None
            reply = self._bridge.take()
            if reply is not None or is_over:
                return reply
            if not self._bell.wait(None if timeout is None else max(timeout, 0)):
                raise TimeoutError("nothing was put on the bridge in time")


class Halves:
    """Both halves, as the whole connection sees them: it can end them, from any thread.

    Args:
        taken: where both of them look.
    """

    def __init__(
        self, reader: ReaderHalf, writer: WriterHalf, channel: Channel, options: Timeouts, taken: Taken
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._channel = channel
        self._options = options
        self._taken = taken
        # Whoever holds it reads. Reentrant: a signal handler may interrupt its holder before that has begun to read.
        self._reading = threading.RLock()

    def say_close(self, code: int, reason: str, timeout: float | None) -> bool:
        """Takes over. The Close goes out here, or after what the writer's thread is sending.

        Returns: whether it does. False: `timeout` is 0, and the peer does not read.
        """
        if self._channel.is_over:
            return True
        connection = self._taken.connection
        if self._taken.close is None:
            self._writer._goodbyes[:] = (None,)  # before `take`: a signal handler may raise after it
        self._taken.take(code, reason)
        # Also if taken over before: a signal handler may have raised before this was done.
        if self._options.close_timeout is not None:
            self._channel.abort_later(self._options.close_timeout, self._taken.give_up)
        if connection.bridge.on_put is not None:
            # Wakes `listen`: the reader may never come to its end, since nobody may enter it any more.
            connection.bridge.on_put()
        if connection.may_send and not self._writer._is_busy:
            if timeout == 0 and not self._channel.is_writable:
                return False
            self._writer._say_goodbye()
        return True

    def finish(self, deadline: float | None) -> None:
        """Waits until the socket is closed, and reads where nobody else does. The Close is out, or will be."""
        if _is_below(self._reader, self._writer):
            return  # we are in a signal handler: the call that it has interrupted goes on
        while not self._channel.is_over and not is_past(deadline):
            if not self._writer._is_busy:
                self._writer._say_goodbye()  # perhaps it was left to a thread that was coming out
            if not self._is_in_use and self._reading.acquire(blocking=False):
                try:
                    self._reader._read_on(deadline)
                finally:
                    self._reading.release()
                break
            time.sleep(_LOOK_AGAIN)
        self.abort()

    @property
    def _is_in_use(self) -> bool:
        """Whether a thread is in a half, or has left one and still owes our Close."""
        return self._reader._is_busy or self._writer._is_busy or self._writer._owes_goodbye

    def abort(self) -> None:
        """Ends the TCP connection at once. Threads that wait in a half are woken."""
        self._taken.take(CloseCode.ABNORMAL_CLOSURE, "")
        self._channel.abort()
        connection = self._taken.connection
        if not self._writer._is_busy:  # otherwise its thread does that
            self._writer._note_end()
        connection.bridge.end()


def _is_below(*halves: object) -> bool:
    """Whether we are in a signal handler that has interrupted a call of a half: that call is on our own stack then."""
    frame: FrameType | None = sys._getframe(1)  # our own frame would be held by its locals
    while frame is not None:
        # The program's frames are left alone: before CPython 3.13 `f_locals` keeps alive all it finds, as long as the
        # frame lives.
        if frame.f_globals.get("__name__") in _THEIRS and any(
            frame.f_locals.get("self") is half for half in halves
        ):
            return True
        frame = frame.f_back
    return False
