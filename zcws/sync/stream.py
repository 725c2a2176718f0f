"""The blocking driver: one open connection on a blocking socket.

Reading is in reading.py; a write goes out before it returns, in one system call. Without a split, one thread may read
while any number write: writes hold a lock, because the reader writes the replies to Ping and Close itself. After
`split()` the reader never writes, and no lock of ours is left (see halves.py).

There is no thread but the caller's. Keepalive therefore runs while somebody reads: the wait for bytes ends when a Ping
is due. A read that times out loses nothing; the next one goes on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from zcws.closing import State
from zcws.codes import CloseCode, OpCode
from zcws.connection import Connection
from zcws.errors import ConnectionClosed
from zcws.frame import Frame, NeedMore
from zcws.http import Request, Response
from zcws.sync.channel import Channel
from zcws.sync.halves import BridgeHalf, ReaderHalf, WriterHalf
from zcws.sync.keepalive import Keepalive
from zcws.sync.reading import Options, ReadingSide

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

__all__ = ["Options", "WebSocket"]

_Result = TypeVar("_Result")


class WebSocket(ReadingSide):
    """An open WebSocket connection. Made by `connect` and `serve`, not by hand.

    Iterating over it gives messages until the connection ends well; `recv` raises instead. One thread may read at a
    time; any number may write.

    Attributes:
        connection: the connection without its socket.
        request, response: the opening handshake.
    """

    def __init__(
        self,
        channel: Channel,
        connection: Connection,
        options: Options,
        *,
        request: Request | None = None,
        response: Response | None = None,
        received: bytes = b"",
    ) -> None:
        super().__init__(connection, channel, options, Keepalive(options.ping_interval, options.ping_timeout))
        self.connection = connection
        self.request = request
        self.response = response
        self._write_lock = threading.RLock()
        self._message_lock = threading.Lock()  # held while a message goes out in fragments
        self._reading = threading.Lock()
        self._reader.on_pong = self._keepalive.answered
        self._closed = threading.Event()
        self._corked = 0
        connection.bridge.on_put = self._take_reply
        if received:
            self._feed(received)

    def _feed(self, data: bytes) -> None:
        """Bytes that arrived together with the end of the opening handshake."""
        used = self._reader.receive_bytes(memoryview(data))
        if used < len(data):
            raise ConnectionError("more bytes behind the opening handshake than a ring holds")
        self._answer_peer()

    # ---- reading ----

    def _read(self, attempt: Callable[[], _Result | NeedMore], timeout: float | None) -> _Result:
        if not self._reading.acquire(blocking=False):
            raise RuntimeError("another thread is reading from this connection already")
        try:
            return super()._read(attempt, timeout)
        finally:
            self._reading.release()

    def _take_reply(self) -> None:
        with self._write_lock:
            self.connection.drain_bridge()

    def _answer_peer(self) -> None:
        """Sends the replies to what has been read, and a Ping when one is due."""
        connection, keepalive = self.connection, self._keepalive
        if not self._writer.size and not keepalive.is_due:
            return
        with self._write_lock:
            if connection.state is State.OPEN:
                payload = keepalive.take_due()
                if keepalive.has_failed:
                    connection.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
                elif payload is not None:
                    connection.ping(payload)
            self._flush()

    # ---- writing ----

    def send(
        self,
        message: str | Buffer | Iterable[str | Buffer],
        *,
        text: bool | None = None,
        compress: bool | None = None,
    ) -> None:
        """Sends a message: str as text, bytes-like as binary, an iterable of either as fragments of one message.

        Args:
            text: True or False sends text or binary whatever the message is; bytes have to be UTF-8 then.
            compress: True or False decides for this message; by default its size does. RFC 7692.

        Raises:
            ConnectionClosed: the connection is closing or closed; nothing has been written.
            TypeError: this is not a message. ValueError: it is text, and not UTF-8.
        """
        if isinstance(message, str):
            payload: Buffer = message.encode()
            self._write(
                lambda: self.connection.send_bytes(payload, text=text is not False, compress=compress)
            )
        elif isinstance(message, (bytes, bytearray, memoryview)) or _has_buffer(message):
            self._write(lambda: self.connection.send_bytes(message, text=bool(text), compress=compress))  # type: ignore[arg-type]
        elif isinstance(message, Mapping) or not isinstance(message, Iterable):
            raise TypeError(
                f"a message is str, bytes-like, or an iterable of those, not {type(message).__name__}"
            )
        else:
            self._send_fragments(iter(message), text, compress)

    def _send_fragments(
        self, fragments: Iterator[str | Buffer], text: bool | None, compress: bool | None
    ) -> None:
        """One message in fragments; other messages wait until it is complete. RFC 6455 5.4."""
        current = next(fragments, None)
        if current is None:
            return  # nothing to send is no message, as in `websockets`
        is_text = isinstance(current, str) if text is None else text
        with self._message_lock:
            try:
                for following in fragments:
                    self._send_fragment(current, is_text, compress, last=False)
                    current = following
                self._send_fragment(current, is_text, compress, last=True)
            except BaseException:
                if self._writer.is_in_message:
                    # Half a message cannot be taken back, and nothing else may follow it.
                    self.begin_close(
                        CloseCode.INTERNAL_ERROR, "the sender gave up in the middle of a message"
                    )
                raise

    def _send_fragment(self, data: str | Buffer, is_text: bool, compress: bool | None, *, last: bool) -> None:
        with self._write_lock:
            self.connection.send_fragment(data, text=is_text, last=last, compress=compress)
            self._flush()

    def write_frame(self, frame: Frame) -> None:
        """Sends a frame as it is; a received one too. Raises: as `Connection.write_frame`."""
        if frame.opcode is OpCode.CLOSE:
            code = frame.close_code if len(frame) else None
            self._write(lambda: self.connection.send_close(code, frame.close_reason))
        else:
            self._write(lambda: self.connection.write_frame(frame))

    def _write(self, write: Callable[[], object]) -> None:
        if self._message_lock.locked():
            with self._message_lock:
                self._write_now(write)
        else:
            self._write_now(write)

    def _write_now(self, write: Callable[[], object]) -> None:
        with self._write_lock:
            write()
            if not self._corked:
                self._flush()

    def _flush(self) -> None:
        segments = self._writer.take()
        if segments:
            try:
                self._channel.send(segments)
            except OSError:
                self.connection.end()  # the reader finds the reason, or the lack of one
                self._channel.abort()

    @contextlib.contextmanager
    def cork(self) -> Iterator[None]:
        """What is written inside goes out at the end, in one system call: `with ws.cork(): ...`."""
        self._corked += 1
        try:
            yield
        finally:
            self._corked -= 1
            self.flush()

    def flush(self) -> None:
        """Sends what has been written."""
        with self._write_lock:
            self._flush()

    def ping(self, payload: str | Buffer | None = None, timeout: float | None = None) -> float:
        """Sends a Ping and reads until its Pong is there; messages that come before it wait for `recv`.

        Returns:
            The round-trip time in seconds.

        Raises:
            TimeoutError: no Pong in `timeout` seconds, or too many messages before it.
            ConnectionClosed: the connection ended before the Pong came.
        """
        data = os.urandom(4) if payload is None else _control_payload(payload)
        self._keepalive.sent(data)
        self._write(lambda: self.connection.ping(data))
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._reading:
            while self._keepalive.is_waiting_for(data):
                if self._reader.is_ending:
                    raise self.connection.error()
                if self._reader.is_full:
                    raise TimeoutError("the Pong stands behind more messages than fit; read them first")
                self._receive(deadline)
        return self._keepalive.latency

    def pong(self, payload: str | Buffer = b"") -> None:
        """Sends a Pong that nobody asked for, a heartbeat. Pings are answered without it. RFC 6455 5.5.3."""
        self._write(lambda: self.connection.pong(_control_payload(payload)))

    # ---- closing ----

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Closes the connection: our Close, the peer's, then the socket; at most `close_timeout` seconds.

        Raises:
            ValueError: the code must not be sent (RFC 6455 7.4), or the reason is over 123 bytes of UTF-8.
        """
        self.begin_close(code, reason)
        if self._reading.acquire(blocking=False):
            try:
                self._finish()
            finally:
                self._reading.release()
        else:
            # Another thread reads, and will see the peer's Close; it finishes.
            if not self._closed.wait(self._options.close_timeout):
                self.abort()

    def begin_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """The first half of `close`, without the wait. From any thread."""
        with self._write_lock:
            self.connection.send_close(code, reason)
            self._flush()

    def abort(self) -> None:
        """Ends the TCP connection at once, without a closing handshake."""
        self._channel.abort()
        with self._write_lock:
            self.connection.end()
        self._closed.set()

    def _finish(self) -> None:
        """Reads on until the socket may be closed, and closes it. RFC 6455 7.1.1: the server first."""
        if self._closed.is_set():
            return
        timeout = self._options.close_timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            self._reader.discard()
            while not self._reader.is_concluded:
                self._receive(deadline)
        self._answer_peer()
        if not self.connection.is_client:
            self._channel.end()
        self._drain()
        self.abort()

    # ---- halves ----

    def split(self) -> tuple[ReaderHalf, WriterHalf, BridgeHalf]:
        """A reader and a writer for two threads, and the bridge between them. Use them instead of this object."""
        self.connection.split()
        reader = ReaderHalf(self.connection, self._channel, self._options, self._keepalive)
        writer = WriterHalf(self.connection, self._channel, self._options.close_timeout)
        return reader, writer, BridgeHalf(self.connection.bridge)

    # ---- what is known ----

    @property
    def latency(self) -> float:
        """The last measured round-trip time in seconds; 0.0 before the first Pong."""
        return self._keepalive.latency

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed. RFC 6455 1.9."""
        return self.connection.agreement.subprotocol

    @property
    def state(self) -> State:
        """How far closing has got."""
        return self.connection.state

    @property
    def close_code(self) -> int | None:
        """Why the connection ended; None while it is open. RFC 6455 7.1.5."""
        return self.connection.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with the code; None while it is open. RFC 6455 7.1.6."""
        return self.connection.close_reason

    @property
    def local_address(self) -> Any:
        """Our end of the socket."""
        return self._channel.address(peer=False)

    @property
    def remote_address(self) -> Any:
        """The peer's end of the socket."""
        return self._channel.address(peer=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(CloseCode.NORMAL_CLOSURE if error is None else CloseCode.INTERNAL_ERROR)

    def __repr__(self) -> str:
        role = "client" if self.connection.is_client else "server"
        return f"<WebSocket {role}, blocking, {self.connection.state.value}>"


def _has_buffer(message: object) -> bool:
    try:
        memoryview(message)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _control_payload(payload: str | Buffer) -> bytes:
    return payload.encode() if isinstance(payload, str) else bytes(payload)
