"""Writing on asyncio: messages, frames, fragments.

What is written is corked (outlet.py). A send waits before it writes, while the transport is above its high-water mark;
one that is cancelled in that wait has written nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from zcws.aio.keepalive import Latency
from zcws.aio.stream import Stream
from zcws.annotations import Buffer, Self
from zcws.batch import Batch
from zcws.closing import close_payload
from zcws.codes import CloseCode, OpCode
from zcws.errors import ConnectionClosed
from zcws.frame import Frame, ReceivedFrame
from zcws.heads import FIN, unmasked_head
from zcws.output import CORK, SEGMENT
from zcws.payloads import as_control_payload, as_message, as_payload, check_opcode, has_buffer, let_go
from zcws.ring_frame import RingFrame

__all__ = ["OutgoingStream", "Writing"]

_TEXT, _BINARY, _CLOSE = OpCode.TEXT, OpCode.BINARY, OpCode.CLOSE

#: The opcodes of whole messages: to look for these very objects is quicker than to compare an Enum.
_DATA = (_BINARY, _TEXT)

#: Messages that `send_many` asks for at a time: at most, if they are small; at first, before their size is known; and
#: if they are large or not alike.
_TOGETHER, _AT_FIRST, _FEW = 256, 16, 4

#: Stands for no fragment at all: an empty one is a fragment, too.
_NOTHING = object()


class Writing(Stream):
    """What can be written to a connection; by any number of tasks.

    Its methods call each other as `Writing.send(self, ...)`: the halves of a split connection have these methods, while
    those of the connection itself refuse.
    """

    __slots__ = ()

    async def send(
        self,
        message: str | Buffer | Iterable[str | Buffer] | AsyncIterable[str | Buffer],
        *,
        text: bool | None = None,
        compress: bool | None = None,
    ) -> None:
        """Sends a message: str as text, bytes-like as binary, an iterable of either as fragments of one message.

        Fragments go out as they are made, and an empty one ends the message. In a list or a tuple, the last item ends
        it.

        Waits while the peer is slow (the transport is above its high-water mark). If it is cancelled in that wait,
        nothing has been written. The transport has the message at the end of the event loop's turn, or after `flush()`.

        Args:
            text: True or False sends text or binary, whatever the type of the message; bytes sent as text must be
                UTF-8.
            compress: True or False decides for this message, where compression was agreed; by default its size
                does. RFC 7692.

        Raises:
            ConnectionClosed: the connection is closing or closed; nothing has been written.
            TypeError: this is not a message.
            ValueError: it is text, and not UTF-8; or this task is in the middle of another message (RFC 6455 5.4).
        """
        writer = self.writer
        if self._obstacle is not None or writer.opcode:
            try:
                await self._until_sendable()
            except ConnectionClosed:
                _check_message(message, text)
                raise
        if isinstance(message, str):
            writer.write_message(_BINARY if text is False else _TEXT, message.encode(), compress)
        elif type(message) is bytes and not text:
            writer.write_message(_BINARY, message, compress)
        elif isinstance(message, (bytes, bytearray, memoryview)) or has_buffer(message):
            self._write_buffer(message, bool(text), compress)  # type: ignore[arg-type]
        else:
            await self._send_fragments(message, text, compress)
            return
        if not self._corked or writer.written - writer.taken >= CORK:
            self._written()

    async def send_many(
        self,
        messages: Batch | Iterable[str | Buffer],
        *,
        text: bool | None = None,
        compress: bool | None = None,
    ) -> None:
        """Sends messages one after another, framed many at a time: for small ones a fraction of what `send` costs.

        Waits while the peer is slow, as `send` does, so `messages` may go on without end. Other tasks' messages may
        come in between.

        Args:
            messages: each as it would be for `send`; a generator may give the same memory again, with other bytes. Or a
                batch (`batches()`) to send on: its messages as they came, text or binary; Pings, Pongs and a Close in
                it are left out.
            text, compress: as in `send`, for each of them; a batch knows what is text.

        Raises: as `send`; the messages before the one that cannot be sent have been sent by then.
            StaleFrame: the connection of the batch has been read from since.
        """
        if isinstance(messages, Batch):
            await self._send_batch(messages, compress)
            return
        if isinstance(messages, (str, bytes, bytearray, memoryview)):
            raise TypeError("send_many takes an iterable of messages; this is one message, for send")
        if isinstance(messages, Mapping) or not isinstance(messages, Iterable):
            raise TypeError(f"send_many takes an iterable of messages, not {type(messages).__name__}")
        waiting, most = iter(messages), _AT_FIRST
        take = _take if isinstance(messages, (list, tuple)) else _take_made
        while some := take(waiting, most):
            payloads = _payloads_alike(some, text)
            if payloads is not None:
                opcode = _BINARY if type(some[0]) is not str or text is False else _TEXT
                await self._send_alike(opcode, payloads, compress)
                size = sum(map(len, payloads)) // len(payloads)
                most = max(_FEW, min(_TOGETHER, CORK // 2 // (size + 1)))
            else:
                for message in some:
                    await Writing.send(self, message, text=text, compress=compress)
                most = _FEW

    async def _send_batch(self, batch: Batch, compress: bool | None) -> None:
        relayed = batch.relayed() if len(batch) > 1 else None
        if relayed is not None:
            if self._obstacle is not None or self.writer.opcode:
                await self._until_sendable()
                batch.relayed()  # which raises if another task has read meanwhile
            self.writer.write_received(*relayed, compress=compress)
            self._written()
            return
        for frame in batch:
            if frame.opcode >= _CLOSE:
                continue
            if compress is None:
                await Writing.write_frame(self, frame)
            else:
                await self._send_alike(frame.opcode, [frame.to_bytes()], compress)

    async def _send_alike(self, opcode: OpCode, payloads: list[bytes], compress: bool | None) -> None:
        """Whole messages of one opcode; text is UTF-8 already."""
        if self._obstacle is not None or self.writer.opcode:
            await self._until_sendable()
        self.writer.write_messages(opcode, payloads, compress)
        self._written()

    async def _send_fragments(self, message: Any, text: bool | None, compress: bool | None) -> None:
        """Sends one message in fragments; other messages wait until it is complete. RFC 6455 5.4.

        A fragment that is made when it is asked for goes out at once, and an empty one ends the message: the next
        fragment may depend on the peer's answer to this one, or lie in the same memory.
        """
        fragments = _each(message)
        takes_time = not isinstance(message, (list, tuple))
        first: Any = await anext(fragments, _NOTHING)
        if first is _NOTHING:
            return  # nothing to send is no message, as in `websockets`
        # While this one waited for its first fragment, another task may have begun a message.
        if self._obstacle is not None or self.writer.opcode:
            await self._until_sendable()
        is_text = isinstance(first, str) if text is None else text
        done = self._begin_message()
        try:
            current: str | Buffer = first
            if takes_time:
                await self._send_fragment(first, is_text, compress, last=False)
                current = b""
            async for following in fragments:
                out, current = (following, b"") if takes_time else (current, following)
                await self._send_fragment(out, is_text, compress, last=False)
            await self._send_fragment(current, is_text, compress, last=True)
        except BaseException:
            self._give_up_message()
            raise
        finally:
            self._end_message(done)

    def _begin_message(self) -> asyncio.Future[None]:
        """Has other messages wait from now on."""
        self._message_done = self._obstacle = done = self._loop.create_future()
        self._sender = asyncio.current_task()
        return done

    def _give_up_message(self) -> None:
        """Half a message cannot be taken back, and nothing else may follow it."""
        if self.writer.is_in_message:
            self.begin_close(CloseCode.INTERNAL_ERROR)

    def _end_message(self, done: asyncio.Future[None]) -> None:
        self._message_done = self._sender = None
        self._look_ahead()
        if not done.done():
            done.set_result(None)

    async def _send_fragment(
        self, data: str | Buffer, is_text: bool, compress: bool | None, *, last: bool
    ) -> None:
        if self._drained is not None or self._must_give_way:
            await self._until_drained()
        self.connection.check_writable()
        self.connection.send_fragment(data, text=is_text, last=last, compress=compress)
        self._written()

    async def write_frame(self, frame: Frame) -> None:
        """Sends a frame as it is; a received one too: its payload has been sent or copied when this returns.

        Raises:
            ConnectionClosed: the connection is closing or closed; nothing has been written.
            StaleFrame: the frame was received, and its connection has been read from since.
            ValueError: the frame must not be sent here (RFC 6455 5.4, 8.1).
        """
        if self._obstacle is not None or self.writer.opcode:
            await self._until_writable()
        Writing.write_frame_nowait(self, frame)

    async def ping(self, payload: str | Buffer | None = None) -> Latency:
        """Sends a Ping and waits for its Pong. RFC 6455 5.5.2.

        Args:
            payload: at most 125 bytes; random by default.

        Returns:
            The round-trip time in seconds.

        Raises:
            ConnectionClosed: the connection ended before the Pong came.
            ValueError: over 125 bytes, or a Ping with this payload is waiting already.
        """
        await self._until_drained()
        pings = self._need_pings()
        data = pings.fresh_payload() if payload is None else as_control_payload(payload)
        self.connection.check_writable()
        if self._reader.is_at_eof:
            raise self.connection.error()  # its Pong could not come
        future: asyncio.Future[Latency] = self._loop.create_future()
        pings.sent(data, future)
        try:
            self.connection.ping(data)
            self._written()
            return await future
        finally:
            pings.forget(data)

    async def pong(self, payload: str | Buffer = b"") -> None:
        """Sends a Pong that nobody asked for, a heartbeat. Pings are answered without it. RFC 6455 5.5.3."""
        await self._until_drained()
        self.connection.pong(as_control_payload(payload))
        self._written()

    async def flush(self) -> None:
        """Hands over what has been written, and waits until the transport is below its high-water mark."""
        self._flush_and_look()
        self._look_below()
        await self._until_drained()

    def send_nowait(
        self, message: str | Buffer, *, text: bool | None = None, compress: bool | None = None
    ) -> None:
        """`send` without a wait, for callbacks. Ask `is_writable` first: what a slow peer does not read stays here.

        Raises: as `send`; also ValueError, when a message is going out in fragments.
        """
        writer = self.writer
        if writer.opcode:
            as_message(message, text)  # a wrong argument raises on a connection that has ended, too
            self.connection.check_writable()
        if isinstance(message, str):
            writer.write_message(_BINARY if text is False else _TEXT, message.encode(), compress)
        elif type(message) is bytes and not text:
            writer.write_message(_BINARY, message, compress)
        else:
            self._write_buffer(message, bool(text), compress)
        if not self._corked or writer.written - writer.taken >= CORK:
            self._written()

    def write_frame_nowait(self, frame: Frame) -> None:
        """`write_frame` without a wait, for callbacks. See `send_nowait`."""
        writer = self.writer
        kind = type(frame)
        if (
            kind is RingFrame
            and frame._stop - frame._start < writer.plain_below
            and frame.opcode in _DATA
            and not writer.opcode
        ):
            # A whole message, which has been checked. `Writer.write_framed`, without the call, which would be one for
            # each message that is sent on.
            framed = frame._framed()  # type: ignore[attr-defined]
            writer.out.append(framed)
            writer.written += len(framed)
            writer.messages += 1
        elif (kind is RingFrame or kind is ReceivedFrame) and frame.opcode in _DATA and not writer.opcode:
            if frame._stop - frame._start < SEGMENT:
                writer.write_message(frame.opcode, frame.to_bytes())
            else:
                payload = frame._peek()
                if self._write_lent(frame.opcode, payload, frame._keep):  # type: ignore[attr-defined]
                    return
                writer.write_message(frame.opcode, payload)
        else:
            self.connection.write_frame(frame)
            if frame.opcode is _CLOSE:
                self._close_sent()
        if not self._corked or writer.written - writer.taken >= CORK:
            self._written()

    def _write_buffer(self, message: Buffer, text: bool, compress: bool | None) -> None:
        """Writes a whole message of bytes, which the caller may change when this returns."""
        payload, opcode = as_payload(message, text=text), _TEXT if text else _BINARY
        may_lend = type(payload) is not bytes and len(payload) >= SEGMENT  # type: ignore[arg-type]
        try:
            if not (may_lend and self._write_lent(opcode, payload)):
                self.writer.write_message(opcode, payload, compress)
        finally:
            let_go(payload)

    def _write_lent(
        self, opcode: OpCode, payload: Buffer, keep: Callable[[int], Buffer] | None = None
    ) -> bool:
        """Gives a large message to the socket from where it lies; what the socket does not take is kept, or copied.

        False: nothing has been written, and all of it has to be copied.
        """
        own, writer = self._own, self.writer
        if own is None or writer.opcode or not writer.is_bare:
            return False
        head = unmasked_head(FIN | opcode, len(payload))  # type: ignore[arg-type]
        if not own.write_lent(head, payload, keep):
            return False
        writer.messages += 1
        self._count_share()
        return True

    @property
    def is_writable(self) -> bool:
        """Whether the transport is below its high-water mark, and no message is going out in fragments."""
        return self._drained is None and self._message_done is None

    def begin_close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """The first half of `close`, without the wait. Raises: as `close`."""
        close_payload(code, reason)  # a wrong argument raises, whether or not there is anything left to close
        if self.connection.send_close(*self.writer.last_words(code, reason)):
            self._reader.discard()
        self._flush()
        self._close_sent()

    def send_stream(self, opcode: OpCode | None = None, *, compress: bool | None = None) -> OutgoingStream:
        """One message that is sent in pieces, as they come. RFC 6455 5.4.

            async with ws.send_stream() as message:
                await message.write("...")

        It is text if its first piece is str, and binary if that is bytes-like, unless `opcode` (TEXT or BINARY) says
        otherwise. Other messages wait until it is complete. Leaving with an exception closes the connection with 1011,
        since half a message cannot be taken back.
        """
        return OutgoingStream(self, opcode, compress)


class OutgoingStream:
    """One message that is being sent in pieces."""

    __slots__ = ("_compress", "_done", "_is_text", "_ws")

    def __init__(self, ws: Writing, opcode: OpCode | None, compress: bool | None) -> None:
        if opcode is not None:
            check_opcode(opcode)
        self._ws = ws
        self._is_text = None if opcode is None else opcode == OpCode.TEXT
        self._compress = compress
        self._done: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<OutgoingStream of {self._ws!r}>"

    async def __aenter__(self) -> Self:
        await self._ws._until_sendable()
        self._done = self._ws._begin_message()
        return self

    async def write(self, piece: str | Buffer) -> None:
        """Sends one piece as a fragment; it is with the transport at the end of the event loop's turn.

        Raises: as `Writing.send`.
        """
        if self._done is None or self._done.done():
            raise RuntimeError("write inside `async with`")
        is_text = isinstance(piece, str) if self._is_text is None else self._is_text
        await self._ws._send_fragment(piece, is_text, self._compress, last=False)
        self._is_text = is_text

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        assert self._done is not None
        try:
            if error is None:
                await self._ws._send_fragment(b"", self._is_text is not False, self._compress, last=True)
            else:
                self._ws._give_up_message()
        except BaseException:
            self._ws._give_up_message()
            raise
        finally:
            self._ws._end_message(self._done)


def _take(waiting: Iterator[Any], most: int) -> list[Any]:
    """The next messages of a list or a tuple."""
    return list(islice(waiting, most))


def _take_made(waiting: Iterator[Any], most: int) -> list[Any]:
    """The next messages of an iterator that makes them, up to one that can change: the next may use its memory."""
    some = []
    for message in islice(waiting, most):
        some.append(message)
        if type(message) is not str and type(message) is not bytes:
            break
    return some


def _payloads_alike(messages: list[Any], text: bool | None) -> list[bytes] | None:
    """The bytes of messages that are all str, all bytes, or all views, and small. None: each has to be sent alone."""
    kind = type(messages[0])
    if list(map(type, messages)).count(kind) != len(messages) or (text and kind is not str):
        return None
    if kind is memoryview:
        is_little = sum(view.nbytes for view in messages) <= CORK
        return list(map(memoryview.tobytes, messages)) if is_little else None
    if (kind is not str and kind is not bytes) or sum(map(len, messages)) > CORK:
        return None
    if kind is str:
        try:
            return list(map(str.encode, messages))
        except UnicodeEncodeError:  # `send` raises it, after the messages before
            return None
    return messages


async def _each(message: Any) -> AsyncIterator[str | Buffer]:
    """The fragments of a message that was given as an iterable."""
    _check_message(message, None)
    if isinstance(message, AsyncIterable):
        async for fragment in message:
            yield fragment
    else:
        for fragment in message:
            yield fragment


def _check_message(message: Any, text: bool | None) -> None:
    """`TypeError` or `ValueError` for what no connection could send; raised on one that has ended, too."""
    if isinstance(message, str) or has_buffer(message):
        as_message(message, text)
    elif isinstance(message, Mapping) or not isinstance(message, (Iterable, AsyncIterable)):
        raise TypeError(
            f"a message is str, bytes-like, or an iterable or async iterable of those, not {type(message).__name__}"
        )
