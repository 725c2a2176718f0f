"""A connection on asyncio in two halves, one task each, with nothing shared but the bridge.

    thing                              owner           others
    receiving, frames, "close read"    ReaderHalf      never
    sending, "close sent"              WriterHalf      never
    replies                            BridgeHalf: the reader puts, the writer's task takes

Two ways to get the replies out, and what each costs:

    a task that waits in `bridge.listen()`     a task; a Pong goes out although nobody writes
    `writer.drain_bridge()` between writes     nothing; a Pong waits for the next write

The bridge has one slot: of Pings that are read without a reply in between only the last is answered (RFC 6455 5.5.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zcws.aio.reading import Reading
from zcws.aio.writing import Writing
from zcws.annotations import Self
from zcws.bridge import Bridge, Reply, check_reply
from zcws.codes import CloseCode

__all__ = ["BridgeHalf", "ReaderHalf", "WriterHalf"]


class ReaderHalf:
    """Reads; for one task. Its methods are those of the whole connection, but nothing is answered from here."""

    __slots__ = {
        "_next": None,
        "_whole": None,
        "batches": "As `WebSocket.batches`.",
        "read_frame": "As `WebSocket.read_frame`.",
        "recv": "As `WebSocket.recv`.",
        "stream": "As `WebSocket.stream`.",
    }

    def __init__(self, whole: Reading) -> None:
        self._whole = whole
        self._next = whole.__anext__
        self.recv = whole.recv
        self.read_frame = whole.read_frame
        self.batches = whole.batches
        self.stream = whole.stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        return await self._next()

    def __repr__(self) -> str:
        return f"<ReaderHalf of {self._whole!r}>"


class WriterHalf:
    """Writes. Its methods are those of the whole connection, and the two that send what the reader owes."""

    __slots__ = {
        "_whole": None,
        "flush": "As `WebSocket.flush`.",
        "ping": "As `WebSocket.ping`.",
        "pong": "As `WebSocket.pong`.",
        "send": "As `WebSocket.send`.",
        "send_many": "As `WebSocket.send_many`.",
        "send_nowait": "As `WebSocket.send_nowait`.",
        "send_stream": "As `WebSocket.send_stream`.",
        "write_frame": "As `WebSocket.write_frame`.",
        "write_frame_nowait": "As `WebSocket.write_frame_nowait`.",
    }

    def __init__(self, whole: Writing) -> None:
        self._whole = whole
        self.send = whole.send
        self.send_many = whole.send_many
        self.send_nowait = whole.send_nowait
        self.send_stream = whole.send_stream
        self.write_frame = whole.write_frame
        self.write_frame_nowait = whole.write_frame_nowait
        self.ping = whole.ping
        self.pong = whole.pong
        self.flush = whole.flush

    @property
    def is_writable(self) -> bool:
        """Whether the transport is below its high-water mark, and no message is going out in fragments."""
        return self._whole.is_writable

    async def send_reply(self, reply: Reply) -> bool:
        """Sends what the bridge brought. True: it was the last, nothing may be sent any more.

        A Pong waits while the peer is slow; Pings that are read meanwhile replace each other on the bridge.

        Raises:
            TypeError: this is not a reply; nor is the None that `listen` returns when there are no more.
        """
        check_reply(reply)
        if not reply.is_last:
            await self._whole._until_drained()
        return self._write_reply(reply)

    def drain_bridge(self) -> bool:
        """Sends what waits on the bridge, if anything does. True: nothing may be sent any more.

        Never waits: while the peer is slow a Pong stays on the bridge.
        """
        connection = self._whole.connection
        held = connection.hold_replies and not connection.reader.is_concluded
        reply = None if held else connection.bridge.take()
        if reply is None:
            return connection.writer.sent_close is not None
        return self._write_reply(reply)

    def _write_reply(self, reply: Reply) -> bool:
        last = self._whole.connection.write_reply(reply)
        self._whole._written()
        if last:
            self._whole._advance_closing()
        return last

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Sends our Close, at once. The reader goes on until the peer's has come. RFC 6455 7.1.2.

        Raises:
            ValueError: the code must not be sent (RFC 6455 7.4), or the reason is over 123 bytes of UTF-8.
        """
        self._whole.begin_close(code, reason)

    def __repr__(self) -> str:
        return f"<WriterHalf of {self._whole!r}>"


class BridgeHalf:
    """Where the reader's replies come out; for one task."""

    __slots__ = ("_bell", "_bridge", "_loop", "_noticed")

    def __init__(self, loop: asyncio.AbstractEventLoop, bridge: Bridge, noticed: Callable[[], None]) -> None:
        self._loop = loop
        self._bridge = bridge
        self._noticed = noticed
        self._bell: asyncio.Future[None] | None = None
        bridge.on_put = self._ring

    def _ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)
        if self._bridge.ended:
            self._noticed()

    async def listen(self) -> Reply | None:
        """Waits for a reply to send; None when the reader has come to its end and nothing is left.

        If it is cancelled, it has taken nothing.

        Raises:
            RuntimeError: another task is listening.
        """
        if self._bell is not None:
            raise RuntimeError("another task is listening to this bridge already")
        while True:
            reply = self._bridge.take()
            if reply is not None:
                return reply
            if self._bridge.ended:
                return None
            self._bell = self._loop.create_future()
            try:
                await self._bell
            finally:
                self._bell = None

    def __repr__(self) -> str:
        return f"<BridgeHalf, {self._bridge.shown}>"
