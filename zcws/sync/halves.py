"""A blocking connection in two halves, one thread each, with nothing shared but the bridge.

    thing                              owner           others
    receiving, frames, "close read"    ReaderHalf      never
    sending, "close sent"              WriterHalf      never
    replies                            BridgeHalf: the reader puts, the writer's thread takes

The reader never writes. A reply that it owes waits on the bridge until the writer's thread sends it: with
`drain_bridge()` between two messages, or by a thread that waits in `listen()` and hands it to the writer. No lock of
ours is taken by either half; over TLS both go through the channel's, because they share one OpenSSL object.
"""

from __future__ import annotations

import contextlib
import queue
import time
from typing import TYPE_CHECKING

from zcws.bridge import Bridge, Reply
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosedError
from zcws.frame import Frame
from zcws.sync.channel import Channel
from zcws.sync.reading import ReadingSide

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["BridgeHalf", "ReaderHalf", "WriterHalf"]


class ReaderHalf(ReadingSide):
    """Reads; for one thread. Everything is as on the whole connection, except that nothing is sent from here."""

    def _answer_peer(self) -> None:
        """The bridge has it."""

    def _finish(self) -> None:
        """The half that comes last closes the socket: this one, where our Close is out already or cannot go out."""
        if self._writer.sent_close is not None or self._reader.is_at_eof:
            self._drain()
            self._channel.abort()


class WriterHalf:
    """Writes; for one thread."""

    def __init__(self, connection: Connection, channel: Channel, close_timeout: float | None) -> None:
        self._connection = connection
        self._channel = channel
        self._close_timeout = close_timeout

    def send(self, message: str | Buffer, *, compress: bool | None = None) -> None:
        """A whole message: str as text, bytes-like as binary. Raises: as `Connection.send`."""
        self._connection.send(message, compress=compress)
        self.flush()

    def write_frame(self, frame: Frame) -> None:
        """A frame as it is. A received frame has to be written before the reader's next read."""
        self._connection.check_writable()
        self._connection.writer.write_frame(frame)
        self.flush()

    def ping(self, payload: Buffer = b"") -> None:
        """A Ping; its Pong arrives at the reader. There is no keepalive but this after a split."""
        self._connection.ping(payload)
        self.flush()

    def send_reply(self, reply: Reply) -> bool:
        """Sends what the bridge brought. True: it was the last, nothing may be sent any more."""
        last = self._connection.write_reply(reply)
        self.flush()
        if last and self._connection.bridge.ended:
            self._finish()
        return last

    def drain_bridge(self) -> bool:
        """Sends what waits on the bridge, if anything does. True: nothing may be sent any more."""
        reply = self._connection.bridge.take()
        return self._connection.writer.sent_close is not None if reply is None else self.send_reply(reply)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Sends our Close. The reader goes on until the peer's has come. RFC 6455 7.1.2."""
        self._connection.send_close(code, reason)
        self.flush()

    def flush(self) -> None:
        """Sends what has been written.

        Raises:
            ConnectionClosedError: the socket is gone.
        """
        segments = self._connection.writer.take()
        if segments:
            try:
                self._channel.send(segments)
            except OSError as exc:
                raise ConnectionClosedError(CloseCode.ABNORMAL_CLOSURE, "the socket is gone") from exc

    def _finish(self) -> None:
        """Both Close frames have passed and the reader has stopped: what is left is the socket. RFC 6455 7.1.1."""
        if not self._connection.is_client:
            self._channel.end()
        scratch = memoryview(bytearray(4096))
        deadline = None if self._close_timeout is None else time.monotonic() + self._close_timeout
        with contextlib.suppress(OSError):  # TimeoutError is one
            while self._channel.receive(scratch, None if deadline is None else deadline - time.monotonic()):
                pass
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
