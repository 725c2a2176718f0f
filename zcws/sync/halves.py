"""A blocking connection in two halves, one thread each, with nothing shared but the bridge.

    thing                              owner           others
    receiving, frames, "close read"    ReaderHalf      never
    sending, "close sent"              WriterHalf      never
    replies                            BridgeHalf: the reader puts, the writer's thread takes

The reader never writes. A reply that it owes waits on the bridge until the writer's thread sends it: with
`drain_bridge()` between two messages, or by a thread that waits in `listen()` and hands it to the writer. No lock of
ours is taken by either half; over TLS both go through the channel's, because they share one OpenSSL object.

Who closes the socket: the half that comes last. The reader, when our Close is out already; else the writer, with the
last reply or `close()`. Where one of them has come to its end and the other does nothing about it, perhaps because it
waits for a peer that does not read, or because its thread is gone, the connection ends `close_timeout` seconds later.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from zcws.bridge import Bridge, Reply
from zcws.codes import CloseCode, OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosedError
from zcws.frame import Frame, close_payload
from zcws.options import Timeouts
from zcws.payloads import as_control_payload
from zcws.sync.channel import ENDED, Channel
from zcws.sync.keepalive import Keepalive
from zcws.sync.reading import ReadingSide, is_past
from zcws.sync.writing import InOrder, sending_failed

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["BridgeHalf", "ReaderHalf", "WriterHalf"]


class ReaderHalf(ReadingSide):
    """Reads; for one thread. Everything is as on the whole connection, except that nothing is sent from here."""

    def __init__(
        self, connection: Connection, channel: Channel, options: Timeouts, keepalive: Keepalive
    ) -> None:
        super().__init__(connection, channel, options, keepalive)
        self._is_client = connection.is_client

    def _answer_peer(self) -> None:
        """The bridge has it."""

    def _finish(self) -> None:
        if self._writer.sent_close is not None:
            # RFC 6455 7.1.1: the server first. A Close that is still going out is followed by the writer's `_finish`:
            # it looks for our end after its Close, as we look for its Close after our end.
            if self._channel.has_sent_close and not self._is_client:
                self._channel.end()
            self._drain(self._closing_deadline())
            self._channel.abort()
        elif self._options.close_timeout is not None:
            self._channel.abort_later(self._options.close_timeout)


class WriterHalf:
    """Writes; for one thread."""

    def __init__(self, connection: Connection, channel: Channel, options: Timeouts) -> None:
        self._connection = connection
        self._channel = channel
        self._options = options
        self._in_order = InOrder()

    def send(self, message: str | Buffer, *, text: bool | None = None, compress: bool | None = None) -> None:
        """A whole message: str as text, bytes-like as binary, unless `text` says otherwise.

        Raises: as `Connection.send`; ConnectionClosedError when the socket takes no more.
        """
        is_text = isinstance(message, str) if text is None else text
        payload = message.encode() if isinstance(message, str) else self._in_order.kept(message)
        self._write(lambda: self._connection.send_bytes(payload, text=is_text, compress=compress))

    def write_frame(self, frame: Frame) -> None:
        """A frame as it is. A received frame has to be written before the reader's next read. Raises: as `send`."""
        frame = self._in_order.kept_frame(frame)
        if frame.opcode is OpCode.CLOSE:
            self._send_close(frame.close_code if len(frame) else None, frame.close_reason)
        else:
            self._write(lambda: self._connection.writer.write_frame(frame))

    def ping(self, payload: str | Buffer = b"") -> None:
        """A Ping; its Pong arrives at the reader. There is no keepalive but this after a split."""
        data = as_control_payload(payload)
        self._write(lambda: self._connection.ping(data))

    def pong(self, payload: str | Buffer = b"") -> None:
        """A Pong that nobody asked for, a heartbeat. RFC 6455 5.5.3."""
        data = as_control_payload(payload)
        self._write(lambda: self._connection.pong(data))

    def _write(self, write: Callable[[], object]) -> None:
        order = self._in_order
        if order.is_busy:  # a signal handler of this thread
            order.put_off(lambda: self._write(write))
            return
        self._connection.check_writable()
        order.run(write, self._flush)

    def send_reply(self, reply: Reply) -> bool:
        """Sends what the bridge brought. True: it was the last, nothing may be sent any more."""
        order = self._in_order
        if order.is_busy:
            order.put_off(lambda: self.send_reply(reply))
            return False
        last = order.run(lambda: self._write_reply(reply))
        if last:
            self._has_sent_close()
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

    def drain_bridge(self) -> bool:
        """Sends what waits on the bridge, if anything does. True: nothing may be sent any more."""
        reply = self._connection.bridge.take()
        return self._connection.writer.sent_close is not None if reply is None else self.send_reply(reply)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Sends our Close. The reader goes on until the peer's has come. RFC 6455 7.1.2.

        Where the reader has come to its end already this closes the socket. May be called again.

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
        order.run(lambda: self._write_close(code, reason))
        self._has_sent_close()

    def _write_close(self, code: int | None, reason: str) -> None:
        self._channel.limit_sends(self._options.close_timeout)
        self._connection.send_close(code, reason)
        with contextlib.suppress(ConnectionClosedError):
            self._flush()

    def _has_sent_close(self) -> None:
        self._channel.has_sent_close = True
        bridge, timeout = self._connection.bridge, self._options.close_timeout
        if bridge.ended:
            self._finish()
        elif timeout is not None:
            # The reader sees the rest of it; unless nobody reads any more.
            self._channel.abort_later(timeout, bridge.end)

    def flush(self) -> None:
        """Sends what has been written.

        Raises:
            ConnectionClosedError: the socket takes no more.
        """
        order = self._in_order
        if order.is_busy:
            return  # what a signal handler has interrupted sends this as well
        order.run(self._flush)

    def _flush(self) -> None:
        segments = self._connection.writer.take()
        if not segments:
            return
        try:
            self._channel.send(segments)
        except BaseException as exc:
            sending_failed(self._connection, self._channel, exc)

    def _finish(self) -> None:
        """The reader has stopped and our Close is out: what is left is the socket. RFC 6455 7.1.1."""
        if not self._connection.is_client:
            self._channel.end()
        scratch = memoryview(bytearray(4096))
        timeout = self._options.close_timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while not is_past(deadline):
            rest = None if deadline is None else deadline - time.monotonic()
            if self._channel.receive(scratch, rest) == ENDED:
                break
            self._channel.record.received = 0  # taken, and dropped
        self._channel.abort()


class BridgeHalf:
    """Where the reader's replies come out; for one thread."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        bridge.on_put = self._ring  # on the reader's side

    def _ring(self) -> None:
        # A bell that has been rung once says enough: the slot holds one reply.
        if self._bell.empty():
            self._bell.put(None)

    def listen(self, timeout: float | None = None) -> Reply | None:
        """Waits for a reply to send; None when the reader has come to its end and nothing is left.

        Raises:
            TimeoutError: nothing came in `timeout` seconds.
        """
        while True:
            reply = self._bridge.take()
            if reply is not None:
                return reply
            if self._bridge.ended:
                return None
            try:
                self._bell.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError("nothing was put on the bridge in time") from None
