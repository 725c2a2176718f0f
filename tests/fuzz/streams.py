"""Connections of a crowd (crowd.py) that are streams of one connection of HTTP/2; their raw peers are h2 by hand."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from tunnel import Going

from zcws.aio.http2 import Http2Connection
from zcws.aio.http2_stream import Http2Stream
from zcws.http2 import Fields

__all__ = ["Peers"]

ASKS = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a"),
]


class Ours(Http2Connection):
    """Our end: who waits gets the next stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, is_client=False)
        self.waiting: list[Any] = []

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            ws = self.waiting.pop(0)
            stream = self.open(event.stream_id, asyncio.Protocol())
            stream.write(b"HTTP/1.1 200 OK\r\n\r\n")
            stream.set_protocol(ws)
            ws.connection_made(stream)

    def _head_of(self, stream: Http2Stream, head: bytes) -> Fields:
        return [(":status", "200")]

    def _stream_ended(self, stream: Http2Stream, exc: Exception | None) -> None:
        stream.lose(exc)


class Peers:
    """The other end, of all raw peers: `open` makes one more."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self.h2.state_machine = Going()
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(2**30)  # who reads late holds up nobody else
        self._left = bytearray()  # that the socket has not taken
        self.streams: dict[int, Stream] = {}
        self._ours: Any = None

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        ours, self._sock = socket.socketpair()
        for sock in (ours, self._sock):
            sock.setblocking(False)
        self._ours = Ours(loop)
        self._transport, _ = await loop.connect_accepted_socket(lambda: self._ours, ours)

    async def open(self, ws: Any) -> Stream:
        """A stream whose our end is `ws`."""
        if self._ours is None:
            await self._begin()
        self._ours.waiting.append(ws)
        stream = Stream(self, self.h2.get_next_available_stream_id(), self._rng)
        self.streams[stream.number] = stream
        self.h2.send_headers(stream.number, ASKS)
        while self._ours.waiting:
            self.pump()
            await asyncio.sleep(0)
        return stream

    def pump(self) -> bool:
        """Sends and receives what there is. Whether all has been sent."""
        for _ in range(2):
            self._left += self.h2.data_to_send()
            with contextlib.suppress(BlockingIOError):
                while self._left:
                    del self._left[: self._sock.send(self._left)]
            with contextlib.suppress(BlockingIOError):
                while data := self._sock.recv(1 << 18):
                    for event in self.h2.receive_data(data):
                        self._see(event)
        return not self._left

    def _see(self, event: Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0))
        if stream is None:
            return
        if isinstance(event, DataReceived):
            stream.inbox += event.data
            # What it counts for besides.
            self.h2.acknowledge_received_data(event.flow_controlled_length - len(event.data), stream.number)
        elif isinstance(event, StreamEnded):
            stream.has_ended = True
        elif isinstance(event, StreamReset):
            stream.is_reset = True

    def forget(self, number: int) -> None:
        """A raw peer has gone; with the last one the connection ends."""
        with contextlib.suppress(OSError):  # it is over
            self.pump()
        if self.streams.pop(number, None) and not self.streams:
            self._transport.abort()
            self._sock.close()


class Stream:
    """A raw peer's end of a stream, with the calls of a socket that does not block."""

    def __init__(self, peers: Peers, number: int, rng: random.Random) -> None:
        self._peers, self.number, self._rng = peers, number, rng
        self.inbox, self.has_ended, self.is_reset = bytearray(), False, False

    def send(self, data: bytes) -> int:
        h2, padding = self._peers.h2, self._rng.choice([None] * 9 + [0, 255])
        if not self._peers.pump():
            raise BlockingIOError
        try:
            room = min(h2.local_flow_control_window(self.number), h2.max_outbound_frame_size)
            count = min(len(data), room - (0 if padding is None else padding + 1))
            if count <= 0:
                raise BlockingIOError
            h2.send_data(self.number, data[:count], pad_length=padding)
        except ProtocolError:
            raise ConnectionResetError from None
        self._peers.pump()
        return count

    def recv(self, size: int) -> bytes:
        self._peers.pump()
        if self.is_reset:
            raise ConnectionResetError
        if not self.inbox and not self.has_ended:
            raise BlockingIOError
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        with contextlib.suppress(ProtocolError):  # both sides have ended it
            self._peers.h2.acknowledge_received_data(len(data), self.number)
        return data

    def setsockopt(self, *option: Any) -> None:
        """A stream has none."""

    def shutdown(self, _: int) -> None:
        with contextlib.suppress(ProtocolError):
            self._peers.h2.end_stream(self.number)
        self._peers.pump()

    def close(self) -> None:
        with contextlib.suppress(ProtocolError):
            self._peers.h2.reset_stream(self.number, ErrorCodes.CANCEL)
        self._peers.forget(self.number)
