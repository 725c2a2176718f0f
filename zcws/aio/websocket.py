"""`WebSocket`: an open connection on asyncio, all of it. Reading and writing are inherited; here are the end and the
halves.

A connection that is split becomes a `SplitWebSocket`, whose methods for reading and writing refuse; the halves have
those of before. So no method has to check, for each message, whether the connection has been split.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, NoReturn

from zcws.aio.halves import BridgeHalf, ReaderHalf, WriterHalf
from zcws.aio.reading import Reading
from zcws.aio.writing import Writing
from zcws.annotations import Self
from zcws.closing import State
from zcws.codes import CloseCode
from zcws.connection import AlreadySplit
from zcws.stats import Known, Stats, stats_of

__all__ = ["WebSocket"]


class WebSocket(Reading, Writing, Known):
    """An open WebSocket connection. Made by `connect` and `serve`, not by hand.

    Iterating over it gives messages until the connection ends well; `recv` raises instead. One task may read at a time;
    any number may write. All methods belong to the event loop that the connection was opened on.

    Attributes:
        connection: the connection without its socket.
        request, response: the opening handshake.
    """

    __slots__ = ()

    # ---- closing ----

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Closes the connection: our Close, the peer's, then the socket. The peer has `close_timeout` seconds to
        answer, and as long again whenever it has taken 4 KiB of what stands before our Close.

        Does nothing but wait when the connection is closing already. RFC 6455 7.1.2.

        Raises:
            ValueError: the code must not be sent (RFC 6455 7.4), or the reason is over 123 bytes of UTF-8.
        """
        self.begin_close(code, reason)
        await self.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        """Closes it: with 1000, or with 1011 where the block raises."""
        await self.close(CloseCode.NORMAL_CLOSURE if error is None else CloseCode.INTERNAL_ERROR)

    async def wait_closed(self) -> None:
        """Waits until the socket is closed.

        Where nobody reads meanwhile, the peer's Close takes effect as soon as it has arrived, though messages before it
        have not been read; they can be read afterwards. Where another task reads, it takes effect behind them.
        """
        if self._transport is not None:
            # A future for each waiter, so that one that is cancelled does not cancel the others.
            closed = self._loop.create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(closed)
            self._read_before = -1 if self._is_reading else self._reader.rows_read
            reader = self._reader
            if reader.is_at_eof:
                reader.receive_eof()
            is_over = reader.is_at_eof or self.connection.state is State.LOST
            if is_over or (reader.is_ending and not reader.is_concluded):
                # Soon: an eager task (Python 3.12) gets here before the task that made it has come to its own read.
                self._loop.call_soon(self._advance_closing)
            try:
                await closed
            except asyncio.CancelledError:
                if self._waiters is not None:
                    self._waiters.remove(closed)
                raise

    def when_closed(self) -> asyncio.Future[None]:
        """A future that is done when the socket is closed. Not to be cancelled: all callers share it."""
        if self._closed is None:
            self._closed = self._loop.create_future()
            if self._transport is None:
                self._closed.set_result(None)
        return self._closed

    def add_end_callback(self, callback: Callable[[Self], object]) -> None:
        """`callback` is called with this connection when its socket is gone, whatever ended it; soon, where it is gone
        already. It runs in the context in which it is added here.

        What it raises goes to the event loop's exception handler. It is a plain function, since nobody would await it.
        """
        if not callable(callback):
            raise TypeError(
                f"an end callback is a function that is called with the connection, not {callback!r}"
            )
        if self._end_callbacks is None:
            self._end_callbacks = []
        self._end_callbacks.append((callback, copy_context()))
        if self._transport is None and self.connection.is_over:
            self._loop.call_soon(self._tell_end)

    def remove_end_callback(self, callback: Callable[[Self], object]) -> None:
        """Removes one; does nothing if it is not there."""
        callbacks = self._end_callbacks or []
        for added in callbacks:
            if added[0] == callback:
                callbacks.remove(added)
                break

    # ---- halves ----

    def split(self) -> tuple[ReaderHalf, WriterHalf, BridgeHalf]:
        """A reader and a writer for two tasks, and the bridge between them. Use them instead of this object, which can
        still end the connection: its methods for reading and writing raise RuntimeError from now on.

        The reader no longer answers Ping and Close: it puts the replies on the bridge, and somebody gives them to the
        writer: `await writer.send_reply(reply)` for each of `await bridge.listen()`, or `writer.drain_bridge()`.

        Raises:
            RuntimeError: it is split already.
        """
        self.connection.split()
        bridge = BridgeHalf(self._loop, self.connection.bridge, self._on_bridge)
        halves = ReaderHalf(self), WriterHalf(self), bridge
        self.__class__ = SplitWebSocket
        return halves

    # ---- what is known ----

    @property
    def latency(self) -> float:
        """The last measured round-trip time in seconds; 0.0 before the first Pong."""
        return 0.0 if self._pings is None else self._pings.latency

    @property
    def stats(self) -> Stats:
        """Bytes, frames, messages, queues, latency, who closed and why, at this moment; free until asked for."""
        return stats_of(
            self.connection,
            bytes_received=self._reader.bytes_received,
            bytes_sent=self.writer.taken,
            bytes_waiting=self.writer.size + self._bytes_waiting(),
            is_slow=self._drained is not None,
            latency=self.latency,
        )

    def _address(self, *, peer: bool) -> Any:
        if self._addresses is not None:
            return self._addresses[peer]
        return self.get_extra_info("peername" if peer else "sockname")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the transport knows: "ssl_object", "socket", "peercert" and so on; `default` once it is gone."""
        return default if self._transport is None else self._transport.get_extra_info(name, default)


class SplitWebSocket(WebSocket):
    """One whose halves read and write."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise AlreadySplit

    recv = read_frame = batches = stream = __anext__ = _refuse
    send = send_many = send_stream = write_frame = ping = pong = flush = _refuse
    send_nowait = write_frame_nowait = split = _refuse
