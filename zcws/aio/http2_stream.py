"""A stream of HTTP/2, as a transport. RFC 9113, RFC 8441.

Its owner cannot tell it from a socket: the owner is given a head of HTTP/1.1, bytes and their end, and writes the same.
What this file decides: how much may wait, in either direction, and how the ends of a stream are told. It refuses to
know frames, which are h2's, and whose turn it is to send: http2.py.

    of a socket                                    of a stream (RFC 8441 5)
    ---------------------------------------------  ------------------------------------------------------------
    FIN, `write_eof`                               END_STREAM, behind what waits
    RST, `abort`                                   RST_STREAM with CANCEL
    `close`                                        END_STREAM; where the peer's side has not ended, RST_STREAM behind it
                                                   with NO_ERROR (RFC 9113 8.1)
    a full window of TCP                           a full window of flow control
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from h2.errors import ErrorCodes

from zcws.aio.tasks import ENDS_OF_LOOP, end_loop
from zcws.annotations import Buffer
from zcws.options import USUAL_MARKS, water_marks

__all__ = ["Carrier", "Http2Stream"]

#: What belongs to the connection, and no stream gives away: to read from it, or write to it, would affect all streams.
_OF_ALL = frozenset(("pipe", "socket", "ssl_object"))


class Carrier(Protocol):
    """The connection, as far as its streams need it."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport | None

    def send_head(self, stream: Http2Stream, head: bytes) -> None:
        """Sends a stream's head, which is given as HTTP/1.1."""
        ...

    def wants_to_send(self, stream: Http2Stream) -> None:
        """A stream has bytes to send, or its end: they go out at the end of this turn at the latest."""
        ...

    def flush(self) -> None:
        """What waits goes out now, as far as there is room."""
        ...

    def has_unread(self) -> bool:
        """Whether something has come that no stream has been given, whichever it is for."""
        ...

    def has_read(self, number: int, count: int) -> None:
        """So many bytes of a stream have been read: the peer may send as many more."""
        ...

    def end(self, stream: Http2Stream, code: ErrorCodes | None) -> None:
        """A stream is over: both sides have ended, or it is reset with that code. RFC 9113 6.4."""
        ...


class Http2Stream(asyncio.Transport):
    """One stream, as a transport.

    Args:
        connection: the one that it belongs to.
        number: the stream's.
        protocol: its owner, until `set_protocol`.
        is_websocket: whether its owner is told that the peer has ended its side. At the end of an ordinary request only
            the request is complete, and HTTP/1.1 has nothing for that.

    Attributes:
        has_all: the peer sends no more.
        cause: the error, if the peer has not simply ended its side; the owner is told it behind what came before.
        has_begun: our head is on its way.
    """

    def __init__(
        self,
        connection: Carrier,
        number: int,
        protocol: asyncio.BaseProtocol,
        *,
        is_websocket: bool,
    ) -> None:
        self.number = number
        self.has_all: bool = False
        self.has_begun: bool = False
        self.cause: Exception | None = None
        self._connection = connection
        self._protocol: Any = protocol
        self.is_websocket: bool = is_websocket
        self._head: bytearray | None = bytearray()  # ours, until it is whole
        self._waiting: deque[memoryview] = deque()
        self._size = 0  # bytes of that
        self._high, self._low = USUAL_MARKS
        self._is_full = False  # and the owner has been told
        # What has arrived and has not been read. As one object: a peer may send it in frames of a single byte.
        self._held = bytearray()
        self._reads = True
        self._end_is_told = False
        self._ends = False  # our side is to end, behind what waits
        self._ended = False  # our side has ended
        self._broken: OSError | None = None  # why the peer takes no more, until a write has told the owner
        self._closing = False
        self._is_lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the connection knows, except what would reach past the stream. "http2_stream" is its number."""
        if name in _OF_ALL:
            return default
        if name == "http2_stream":
            return self.number
        transport = self._connection.transport
        return default if transport is None else transport.get_extra_info(name, default)

    @property
    def below(self) -> asyncio.Transport | None:
        """The connection's transport: while this stream waits, the peer may be taking another one."""
        return self._connection.transport

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    # ---- the way in ----

    def has_unread(self) -> bool:
        """Whether something has come that nobody has looked at: it may be for this stream."""
        return self._connection.has_unread()

    def give_head(self, head: bytes) -> None:
        """For the connection: the peer's head, translated to HTTP/1.1."""
        with self._blamed():
            self._protocol.data_received(head)

    def keep(self, data: bytes) -> None:
        """For the connection: the peer has sent something, which `give` hands on."""
        self._held += data

    @property
    def is_held(self) -> bool:
        """For the connection: whether the owner has stopped reading, and has not been given all that has come."""
        is_all_told = self._end_is_told if self.cause is None else not self._held
        return not (self._reads or is_all_told)

    def is_reading(self) -> bool:
        return self._reads

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        if not self._reads:
            self._reads = True
            if self._held or self.has_all:
                self._connection.loop.call_soon(self.give)

    def give(self) -> None:
        """For the connection: what has arrived goes to the owner, for as long as it reads."""
        with self._blamed():
            while self._held and self._reads:
                self._give_some()
            if self.has_all and self._reads and not (self._end_is_told or self._is_lost):
                self._tell_end()

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """An owner that raises loses its stream, and the loop's exception handler is told, as by any transport. What
        ends the loop ends it in the next turn: in this one other streams get what came in the same read."""
        try:
            yield
        except ENDS_OF_LOOP as error:
            end_loop(self._connection.loop, error)
            self._connection.loop.call_soon(self.give)
        except BaseException as error:  # also a CancelledError, of a future that a callback has asked
            context = {"message": "an HTTP/2 stream failed", "exception": error, "transport": self}
            self._connection.loop.call_exception_handler(context)
            self.abort()

    def _give_some(self) -> None:
        # Read is what the owner is given, before that: it may fail, and the peer is owed the room all the same.
        protocol, held = self._protocol, self._held
        if isinstance(protocol, asyncio.BufferedProtocol):
            room: Any = protocol.get_buffer(len(held))
            count = min(len(held), len(room))
            if not count:
                raise RuntimeError("get_buffer() returned an empty buffer")
            room[:count] = held if count == len(held) else held[:count]
            del held[:count]
            self._connection.has_read(self.number, count)
            protocol.buffer_updated(count)
        else:
            self._held = bytearray()
            self._connection.has_read(self.number, len(held))
            protocol.data_received(bytes(held))

    def drop_held(self) -> int:
        """For the connection: nobody will read what has arrived. Returns how many bytes that is."""
        count = len(self._held)
        self._held.clear()
        return count

    def take_left(self, *, is_broken: bool) -> bytearray:
        """See `left_at_end` in below.py. The connection does not wait for a stream, and has read what there was."""
        left, self._held = self._held, bytearray()
        self._connection.has_read(self.number, len(left))
        return left

    def _tell_end(self) -> None:
        self._end_is_told = True
        if self.cause is not None:
            self._finish()
        elif self.is_websocket and not self._protocol.eof_received():
            self.close()
        elif self._ended:
            self._finish()

    # ---- the way out ----

    def write(self, data: Buffer) -> None:
        if self._closing or self._ends:
            broken, self._broken = self._broken, None
            if broken is not None and not self._closing:
                self.writing_failed(broken)
            return
        # The caller may change afterwards what is not bytes.
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        if self._head is not None:
            self._head += view
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            said, self._head = bytes(self._head), None
            head, view = said[:end], memoryview(said)[end:]
            self._connection.send_head(self, head)
        if view:
            self._waiting.append(view)
            self._size += len(view)
        self._connection.wants_to_send(self)
        if self._size > self._high:
            self._connection.flush()
            self._see_full()

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def take(self, room: int) -> tuple[bytes, bool]:
        """For the connection: the next bytes to send, `room` of them at most; and whether they are the last."""
        parts: list[memoryview] = []
        left = room
        while self._waiting and left:
            first = self._waiting.popleft()
            if len(first) > left:
                self._waiting.appendleft(first[left:])
                first = first[:left]
            parts.append(first)
            left -= len(first)
        self._size -= room - left
        is_last = self._ends and not self._ended and not self._waiting
        self._ended = self._ended or is_last
        self._see_room()
        return b"".join(parts), is_last

    @property
    def has_more(self) -> bool:
        """For the connection: whether there is something to send."""
        return bool(self._waiting) or (self._ends and not self._ended)

    def _see_full(self) -> None:
        if self._size > self._high and not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()

    def _see_room(self) -> None:
        if self._is_full and self._size <= self._low:
            self._is_full = False
            self._connection.loop.call_soon(self._tell_room)  # not in the turn of another stream

    def _tell_room(self) -> None:
        if not self._is_full and not self._is_lost:
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = water_marks(high, low)
        self._see_full()
        self._see_room()

    # ---- the end ----

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Our side ends when what waits has been sent. RFC 8441 5: END_STREAM is what a FIN is to TCP."""
        if self._head is not None:
            self.abort()  # without a head there is nothing to end
        elif not self._ends and not self._is_lost:
            self._ends = True
            self._connection.wants_to_send(self)

    def stop_sending(self, cause: Exception | None) -> None:
        """For the connection: the peer takes no more. What is written is dropped, and the first write tells the owner,
        as on a broken socket: it may not read, and so not come to the end for long."""
        ended = ConnectionResetError("the connection has ended")
        self._broken = cause if isinstance(cause, OSError) else ended
        self._waiting.clear()
        self._size = 0
        self._ends = self._ended = True
        self._see_room()

    def writing_failed(self, exc: OSError) -> None:
        """For the connection: nothing of ours gets out any more. To an owner who does not know that, it is the end."""
        failed = getattr(self._protocol, "writing_failed", None)
        if failed is None:
            self.abort()
        else:
            failed(exc)

    def has_ended(self) -> None:
        """For the connection: our END_STREAM has been sent."""
        if self._closing or self.has_all:
            self._finish()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._ended:
                self._finish()
            else:
                self.write_eof()

    def _finish(self) -> None:
        """Our side has ended: where the peer's has not, nobody listens to it any more. RFC 9113 8.1."""
        self._closing = True
        self._connection.end(self, None if self.has_all else ErrorCodes.NO_ERROR)

    def abort(self) -> None:
        """RFC 8441 5: CANCEL is what a RST is to TCP."""
        self._connection.end(self, ErrorCodes.CANCEL)

    def _tell_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)  # whoever is the owner by now

    def lose(self, exc: Exception | None) -> None:
        """For the connection: the stream is over, and its owner is told on the loop's next turn."""
        if not self._is_lost:
            # First: if there is no memory for it, the caller tries again.
            self._connection.loop.call_soon(self._tell_lost, exc)
            self._is_lost = self._closing = True
            self._waiting.clear()
            self._size = 0
