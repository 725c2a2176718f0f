"""Reading on asyncio: messages, frames, batches, and the pieces of one message.

Every method asks the core first and waits only when it has nothing; all progress is in the core, so a read that is
cancelled or times out loses nothing. Which to choose, by what it costs for each message:

    recv, async for      a str or bytes of your own: one copy, two of short ones that come many at a time
    read_frame           a frame to look at until the next read: no copy of more than 16 KiB
    batches              all that arrived together, as frames, messages or views: a step of the event loop for all
    stream               pieces as they arrive, before the message is whole
    on_message           (an argument of connect and serve) as recv, without a task; on_frame: as read_frame
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Literal, TypeVar, overload

from zcws.aio.stream import Stream
from zcws.annotations import Self
from zcws.batch import Batch
from zcws.buffer import PayloadBuffer, check_buffer
from zcws.errors import ConnectionClosedOK
from zcws.frame import NEED_MORE, Frame, NeedMore, PayloadOrigin, check_origin
from zcws.utf8 import decoded, piecewise

__all__ = ["Batches", "IncomingStream", "Reading"]

_Result = TypeVar("_Result")
_Piece = TypeVar("_Piece")

_ADAPTIVE = PayloadOrigin.ADAPTIVE

#: For a reader, so many bytes count as one more message: a compressed one may be much longer than what has arrived.
_LARGE = 16 * 1024

#: A batch counts as so many messages. Where the next one is there already, it was cut because it was large.
_BATCH = 250

#: After a read that has raised. A program that ignores this and reads again lets others run first: a loop of such reads
#: never waits, and the event loop would never turn.
_SPENT = -1


class Reading(Stream):
    """What can be read from a connection; one task at a time."""

    __slots__ = ()

    @overload
    async def recv(self, decode: Literal[True]) -> str: ...

    @overload
    async def recv(self, decode: Literal[False]) -> bytes: ...

    @overload
    async def recv(self, decode: bool | None = None) -> str | bytes: ...

    async def recv(self, decode: bool | None = None) -> str | bytes:
        """The next message: str for text, bytes for binary; yours to keep.

        A read that is cancelled or times out loses nothing: the next one goes on where it stopped.

        Args:
            decode: True or False gives str or bytes whatever the message is.

        Raises:
            ConnectionClosedOK: the connection ended with 1000 or 1001, or without a code.
            ConnectionClosedError: it ended in any other way; ProtocolError, when the peer broke a rule.
            RuntimeError: another task is reading.
        """
        for ready in self._reader.ready:
            self._budget -= 1
            return ready if decode is None else decoded(ready, decode)
        if self._budget < 0:
            await self._let_others_run()
        try:
            while self._reader.is_idle or (message := self._reader.read_message()) is NEED_MORE:
                if self._reading_paused:
                    self._resume_reading()
                if self._reader.gives_way:
                    await self._let_others_run()
                    continue
                self._wants_message, self._wants_frame = self._reader.is_idle, False
                await self._wakeup
                if (message := self._handed) is not None:
                    self._handed = None
                    break
            else:
                self._budget -= 1 + len(message) // _LARGE
        except Exception:
            self._budget = _SPENT
            raise
        return message if decode is None else decoded(message, decode)

    async def read_frame(
        self, buffer: PayloadBuffer | None = None, origin: PayloadOrigin = PayloadOrigin.ADAPTIVE
    ) -> Frame:
        """The next message or control frame; Ping and Close have been answered already.

        Args:
            buffer: where messages land that do not stay in the ring; reusable. Without it the connection uses its own.
            origin: where payloads may lie; see `PayloadOrigin`.

        Returns:
            A frame that is good until the next read on this connection. A view taken from it (`frame.payload`)
            stays right for as long as it is held.

        Raises: as `recv`.
        """
        if origin is _ADAPTIVE:
            for ready in self._reader.ready_frames:  # those lie in the ring, whatever `buffer` is
                self._budget -= 1
                return ready
        else:
            check_origin(origin)
        if self._budget < 0:
            await self._let_others_run()
        if buffer is not None:
            check_buffer(buffer)
        reader = self._reader
        # Idle: there is nothing to ask for, and a whole frame that arrives is handed over here (stream.py).
        is_simple = origin is _ADAPTIVE and (buffer is None or buffer.reader is None)
        try:
            while (is_simple and reader.is_idle) or (frame := reader.read_frame(buffer, origin)) is NEED_MORE:
                if self._reading_paused:
                    self._resume_reading()
                reader.keeps_controls = True
                self._wants_message, self._wants_frame = False, is_simple and reader.is_idle
                await self._wakeup
                if (frame := self._handed) is not None:
                    self._handed = None
                    break
            else:
                self._budget -= 1 + len(frame) // _LARGE
        except Exception:
            self._budget = _SPENT
            raise
        return frame

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        # `recv` once more: most programs are a loop over this, and one coroutine fewer saves a tenth of a message.
        for ready in self._reader.ready:
            self._budget -= 1
            return ready
        if self._budget < 0:
            await self._let_others_run()
        try:
            while self._reader.is_idle or (message := self._reader.read_message()) is NEED_MORE:
                if self._reading_paused:
                    self._resume_reading()
                if self._reader.gives_way:
                    await self._let_others_run()
                    continue
                self._wants_message, self._wants_frame = self._reader.is_idle, False
                await self._wakeup
                if (message := self._handed) is not None:
                    self._handed = None
                    break
                if self._reader.is_concluded and self._reader.has_ended_well():
                    raise StopAsyncIteration
            else:
                self._budget -= 1 + len(message) // _LARGE
            return message
        except ConnectionClosedOK:
            self._budget = _SPENT
            raise StopAsyncIteration from None
        except Exception:
            self._budget = _SPENT
            raise

    def batches(self) -> AsyncIterator[Batch]:
        """Batch after batch until the connection ends well: all frames that arrived together, in order. Of
        compressed ones, no more than 4 MiB and 256.

        The frames of a batch are good until the next one is asked for. Pings among them have been answered.
        `batch.messages` and `batch.payloads` need no frame for each; `send_many(batch)` sends all on.

        Raises: as `recv`.
        """
        return Batches(self)

    @overload
    def stream(self, decode: Literal[True]) -> IncomingStream[str]: ...

    @overload
    def stream(self, decode: Literal[False]) -> IncomingStream[bytes]: ...

    @overload
    def stream(self, decode: bool | None = None) -> IncomingStream[str | bytes]: ...

    def stream(self, decode: bool | None = None) -> IncomingStream[Any]:
        """The next message in pieces, as its bytes arrive: str for text, bytes for binary. An empty one is one piece.

            async with ws.stream() as message:
                async for piece in message: ...

        A frame need not be complete for its bytes to be given; text is checked as it comes. When the block is left,
        what is not read of the message is dropped, unless no piece has been read: then it is still the next message.

        Args:
            decode: True or False gives str or bytes whatever the message is.

        Raises:
            RuntimeError: another method has read the beginning of this message; finish it with that.
        """
        return IncomingStream(self, piecewise(decode))

    def _begin_stream(self) -> None:
        self._reader.begin_stream()
        if self._mark is not None:
            self._mark.clear()
        elif self._reader.state.kept or self._reader.state.mark.set:
            # Not now: we may be in the middle of being handed what came before it.
            self._loop.call_soon(self._stream_begun)

    def _stream_begun(self) -> None:
        """The beginning of a frame that the engine keeps is the first piece."""
        if self._own is not None and self._reader.streaming is not None:
            self._own.unsettle()
            self._reader.scan_begun()
            self._after_bytes()

    async def _read_batch(self) -> Batch:
        if self._budget < 0:
            await self._let_others_run()
        reader = self._reader
        try:
            while reader.is_idle or (batch := reader.read_batch()) is NEED_MORE:
                if self._reading_paused:
                    self._resume_reading()
                reader.keeps_controls = True
                # A frame that comes alone is handed over here, as in `read_frame`.
                self._wants_message, self._wants_frame = False, reader.is_idle
                await self._wakeup
                if (frame := self._handed) is not None:
                    self._handed = None
                    return Batch([frame])
        except Exception:
            self._budget = _SPENT
            raise
        self._budget -= _BATCH
        return batch

    async def _read(self, attempt: Callable[[], _Result | NeedMore]) -> _Result:
        self._budget -= 1
        if self._budget < 0:
            await self._let_others_run()
        result = attempt()
        while result is NEED_MORE:
            if self._reading_paused:
                self._resume_reading()
            if self._reader.gives_way:
                await self._let_others_run()
            else:
                self._wants_message = self._wants_frame = False
                await self._wakeup
            result = attempt()
        return result


class Batches:
    """Batch after batch. An object and not a generator, which would end when a step of it is cancelled."""

    __slots__ = ("_ws",)

    def __init__(self, ws: Reading) -> None:
        self._ws = ws

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        try:
            return await self._ws._read_batch()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None


class IncomingStream(Generic[_Piece]):
    """One message that is being read in pieces."""

    __slots__ = ("_convert", "_done", "_is_empty", "_ws")

    def __init__(self, ws: Reading, convert: Callable[[str | bytes, bool], _Piece]) -> None:
        self._ws = ws
        self._convert = convert
        self._done = False
        self._is_empty = True  # so far

    def __repr__(self) -> str:
        return f"<IncomingStream of {self._ws!r}>"

    async def __aenter__(self) -> Self:
        self._ws._begin_stream()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._ws._reader.end_stream()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Piece:
        while not self._done:
            received, self._done = await self._ws._read(self._ws._reader.read_piece)
            piece = self._convert(received, self._done)
            # An empty message is one empty piece, or whoever passes it on would not know its kind.
            if piece or (self._done and self._is_empty):
                self._is_empty = False
                return piece
        raise StopAsyncIteration
