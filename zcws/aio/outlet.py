"""The way out of a connection on asyncio: what was written, and what the peer is slow to take.

What is written stays with the writer while somebody up the stack is going to flush (`_corked`); otherwise it is handed
to the transport at the end of the loop's turn, at 64 KiB, or on `flush()`. The transport keeps what it is given (on
CPython 3.12 and later a view, not a copy, of what it could not send), so every segment is handed over for good: the
writer never uses it again.

How a connection ends: ending.py. The way in: stream.py. Both are built on this.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from zcws.aio.below import break_off, is_cut_off
from zcws.aio.deadlines import Deadline
from zcws.aio.mark import Mark, mark_below
from zcws.aio.pacing import pace
from zcws.aio.settings import Options
from zcws.aio.transport import EngineTransport
from zcws.annotations import Buffer
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.heads import unmasked_head
from zcws.options import USUAL_MARKS
from zcws.output import CORK
from zcws.scratch import masked_size

if TYPE_CHECKING:
    from zcws.kernel import CData
    from zcws.writer import Writer

__all__ = ["Outlet"]

#: A task that sends and never has to wait lets others run after `_FAIR_SHARE` bytes, a message counting as
#: `_MESSAGE_COSTS` more. That is a millisecond or two.
_FAIR_SHARE, _MESSAGE_COSTS = 1024 * 1024, 1024

#: The `_obstacle` when others have to run, or were here first.
_OTHERS = "others have to run"

#: Whether `writelines` of asyncio's plain sockets is unusable: before CPython 3.12 it joins the segments, and before
#: 3.12.9 and 3.13.2 it never says that the transport is full (CVE-2024-12254): a slow peer could fill the memory.
_WRITES_ONE_BY_ONE = sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)

#: The module of the transports that have it. Those of TLS, and uvloop's, send in one write what they get in one call.
_PLAIN_OF_ASYNCIO = "asyncio.selector_events"


class Outlet(asyncio.BufferedProtocol):
    """A connection on its transport, as far as bytes go out.

    Its public names are for programs. Modules that use it and do not derive from it have `_transport`, `_own`,
    `_options`, what may be in the way (`_drained`, `_message_done`, `_obstacle`), and `_written`, `_flush`,
    `_until_drained`, `_until_sendable`; tests/test_friends.py says who uses which, also of other classes.

    Attributes:
        connection: the connection without its socket.
        writer: its writing half.
    """

    __slots__ = (
        "_addresses",
        "_corked",
        "_drained",
        "_flush_handle",
        "_is_flushing",
        "_leader",
        "_loop",
        "_mark",
        "_message_done",
        "_must_give_way",
        "_obstacle",
        "_options",
        "_own",
        "_queue",
        "_queued",
        "_reader",
        "_reading_paused",
        "_sender",
        "_sent_at",
        "_spent_at",
        "_transport",
        "_write_deadline",
        "connection",
        "writer",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Connection, options: Options) -> None:
        self.connection: Connection = connection
        self._loop = loop
        self._options = options
        self._reader = connection.reader
        self.writer: Writer = connection.writer
        connection.bridge.on_put = self._on_bridge
        self._transport: asyncio.Transport | None = None
        # Ours and the peer's; those of the engine's sockets are asked for at the end.
        self._addresses: tuple[Any, Any] | None = None
        self._own: EngineTransport | None = None  # the transport, where it is the engine's
        self._mark: Mark | None = None  # of the socket below it, where it is not
        self._corked = False  # somebody up the stack will flush
        self._flush_handle: asyncio.Handle | None = None
        self._is_flushing = False  # to a transport that is not the engine's
        # Exists while the transport is above its high-water mark.
        self._drained: asyncio.Future[None] | None = None
        self._message_done: asyncio.Future[None] | None = None  # exists while a message goes out in fragments
        self._sender: asyncio.Task[object] | None = None  # the task in the middle of that message
        # Why no message can begin now: `_drained`, `_message_done`, or that others have to run. None: one can.
        self._obstacle: object = None
        # Of the tasks that wait to begin one, and how many do; made for the first that has to.
        self._queue: asyncio.Lock | None = None
        self._queued = 0
        self._leader: asyncio.Task[object] | None = None  # while others wait: who had its turn last
        self._write_deadline: Deadline | None = None
        self._reading_paused = False
        # For keepalive: how many bytes had been sent when it last asked, if some waited then; -1: none did.
        self._sent_at = -1
        self._spent_at = 0  # for `_count_share`
        self._must_give_way = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ours from now on."""
        self._own = transport if isinstance(transport, EngineTransport) else None
        self._transport = self._own or pace(transport, self)  # type: ignore[arg-type]
        marks = self._options.write_limit
        if marks != USUAL_MARKS or self._own is None:
            high, low = marks
            # Not 0: TLS of uvloop reaches that where nothing waits, and does not always take it back.
            self._transport.set_write_buffer_limits(high=max(high, 1), low=low)
        if self._own is not None:
            self._own.settle()
            self.writer.send_large = self._send_large
        else:
            self._keep_addresses()  # not every transport of the loop knows them at the end
            self._mark = mark_below(self._loop, self._transport, self._reader.state)

    def _keep_addresses(self) -> None:
        transport = self._transport
        assert transport is not None
        self._addresses = transport.get_extra_info("sockname"), transport.get_extra_info("peername")

    # ---- for subclasses ----

    def _go_on(self) -> None:
        """The peer takes bytes again: what waited for that is read."""
        raise NotImplementedError

    def _advance_closing(self) -> None:
        """Takes the next step towards a closed socket, if it is time for one."""
        raise NotImplementedError

    # ---- a peer that is slow ----

    def pause_writing(self) -> None:
        """The transport is above its high-water mark."""
        if self._drained is None:
            self._drained = self._obstacle = self._loop.create_future()
            self.connection.hold_replies = True
            if self._sent_at < 0:
                self._sent_at = self.writer.taken - self._bytes_waiting()
            timeout = self._options.write_timeout
            if timeout is not None:
                self._write_deadline = Deadline(self._loop, timeout, self._write_timed_out)

    def resume_writing(self) -> None:
        """The transport is below its low-water mark again."""
        self._resolve_drained()
        if self._own is not None:
            self._take_up()
        else:
            # The program is shown what has waited, and may end the connection. asyncio's transports cannot be ended
            # inside this call: they close their socket twice.
            self._loop.call_soon(self._take_up)

    def _take_up(self) -> None:
        if self._transport is not None:
            self._on_bridge()
            self._go_on()

    def _resolve_drained(self) -> None:
        self.connection.hold_replies = False
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
        drained, self._drained = self._drained, None
        self._look_ahead()
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _look_ahead(self) -> None:
        """Sets `_obstacle` anew: a message may not overtake those that wait."""
        others = _OTHERS if self._queued or self._must_give_way else None
        self._obstacle = self._drained or self._message_done or others

    def _bytes_waiting(self) -> int:
        """How many bytes the transport has not given to the socket yet."""
        transport = self._transport  # read once: another thread may ask, for its metrics
        try:
            return 0 if transport is None else transport.get_write_buffer_size()
        except AttributeError:
            return 0  # asyncio's own TLS in Python 3.10, when the socket has gone

    def _write_timed_out(self) -> None:
        self._write_deadline = None
        self.connection.fail(CloseCode.INTERNAL_ERROR, "the peer does not read (write_timeout)")
        self.abort()

    # ---- writing ----

    def _written(self) -> None:
        """Something has been written: somebody up the stack sends it, or the end of this turn does."""
        if self.writer.size >= CORK:
            self._flush_and_look()
        elif not self._corked and self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._flush_handle = None
        self._flush()
        if self._reader.is_ending or self.connection.wants_close:
            self._advance_closing()

    def _flush(self) -> None:
        transport, writer, own = self._transport, self.writer, self._own
        if transport is None:
            return
        try:
            if own is not None:
                if writer.out:
                    own.send_now()
                return
            # What a signal handler writes in the middle of this follows what has been taken, and is not handed over
            # before it.
            while writer.out and not self._is_flushing:
                self._is_flushing = True
                try:
                    self._hand_over(transport)
                finally:
                    self._is_flushing = False
        except BaseException:  # no memory, most likely
            break_off(self._loop, transport)
            self._stop_sending()
            raise

    def _hand_over(self, transport: asyncio.Transport) -> None:
        if len(self.writer.out) == 1:  # nearly always
            transport.write(self.writer.take_whole())  # type: ignore[arg-type]
            return
        size, segments = self.writer.size, self.writer.take()
        one_by_one = _WRITES_ONE_BY_ONE and type(transport).__module__ == _PLAIN_OF_ASYNCIO
        if one_by_one and size <= CORK:  # a copy of so little costs less than a system call for its head
            with contextlib.suppress(MemoryError):
                segments = [b"".join(segments)]
        if len(segments) == 1 or one_by_one:
            for segment in segments:
                transport.write(segment)  # type: ignore[arg-type]
        else:
            transport.writelines(segments)  # type: ignore[arg-type]

    def _send_large(self, first: int, payload: CData | Buffer, size: int, key: int | None) -> bool:
        """For the writer: see `Writer.send_large`."""
        own, writer = self._own, self.writer
        if own is None or not own.is_free:
            return False
        # It is counted first: what looks at the counts while it is sent (`pause_writing`) has to find it there.
        if key is None:
            head = unmasked_head(first, size)
            if type(payload) is bytes:  # which can wait as it is
                writer.passed(len(head) + size)
                own.writelines((head, payload))
            elif not own.write_lent(head, payload, None):
                return False
        else:
            writer.passed(masked_size(size))
            own.send_masked(writer.scratch, first, payload, size, key)  # type: ignore[arg-type]  # no Buffer here
        self._count_share()
        return True

    def _flush_and_look(self) -> None:
        """`_flush` for a program that goes on at once. A broken transport drops what it is given, and is never full: a
        program that sends in a loop would not wait, and the event loop would never turn to tell it of the end."""
        self._flush()
        if self._transport is not None and self._transport.is_closing():
            self._stop_sending()
        self._count_share()

    def _look_below(self) -> None:
        """Looks for the end below TLS, which takes two system calls: not for each message."""
        transport = self._transport
        if self._own is None and transport is not None and is_cut_off(transport):
            self._stop_sending()

    def _count_share(self) -> None:
        """Counts what a task has sent: if the peer is quick, the task may never have to wait."""
        spent = self.writer.written + _MESSAGE_COSTS * self.writer.messages
        if spent - self._spent_at >= _FAIR_SHARE:
            self._spent_at = spent
            self._look_below()
            if self._drained is None:
                self._must_give_way = True
                self._obstacle = self._obstacle or _OTHERS

    async def _give_way(self) -> None:
        self._must_give_way = False
        self._look_ahead()
        await asyncio.sleep(0)

    def _stop_sending(self) -> None:
        if self.connection.may_send:
            self.connection.lose()

    async def _until_writable(self) -> None:
        """Waits while the transport is full, or another task is in the middle of a message; or lets others run.

        If the peer closes or breaks a rule meanwhile, that takes effect after the caller has written.

        Raises:
            ValueError: this task is in the middle of a message, and would wait for itself.
        """
        reader = self._reader
        if reader.is_ending:
            await self._until_turn()
            return
        reader.answering += 1
        try:
            await self._until_turn()
        finally:
            reader.answering -= 1
            if reader.is_ending and not reader.answering:
                self._loop.call_soon(self._end_answered)  # the caller writes before that

    def _end_answered(self) -> None:
        self._reader.answered()
        self._advance_closing()

    async def _until_turn(self) -> None:
        task = asyncio.current_task()
        if self._sender is not None and self._sender is task:
            raise ValueError("this task is in the middle of a message; finish it first (RFC 6455 5.4)")
        if self._leader is not None and self._leader is task and self._is_free():
            return
        # One of them waits for the transport, the others for that one: else each of n messages would wake n tasks. And
        # whoever waits is not overtaken: programs send from a new task each time, and rely on the order.
        if self._queue is None:
            self._queue = asyncio.Lock()
        self._queued += 1
        try:
            async with self._queue:
                await self._until_free()
                self._leader = task
        finally:
            self._queued -= 1
            if not self._queued:
                self._leader = None
            self._look_ahead()

    def _is_free(self) -> bool:
        """Whether the task whose turn it is may go on: until it waits for anything, no other can have its own."""
        obstacle = self._drained or self._message_done
        return obstacle is None and not self._must_give_way and self.connection.may_send

    async def _until_free(self) -> None:
        if self._must_give_way:
            await self._give_way()
        self._must_give_way = not self.connection.may_send  # see `_until_drained`
        while self._drained is not None or self._message_done is not None:
            if self._message_done is not None:
                await asyncio.shield(self._message_done)
            else:
                await self._until_drained()

    async def _until_sendable(self) -> None:
        """`_until_writable` for a message, which may not follow our Close either. Raises: ConnectionClosed."""
        await self._until_writable()
        self.connection.check_writable()

    async def _until_drained(self) -> None:
        if self._must_give_way:
            await self._give_way()
        # A program that ignores the error of a send, and sends again, lets others run first: its loop never waits.
        self._must_give_way = not self.connection.may_send
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def _on_bridge(self) -> None:
        """The reader owes something to the peer, or has come to its end."""
        # If our Close is out, the peer's needs no answer, and only has to be noted.
        if not self.connection.is_split or self.writer.sent_close is not None:
            self.connection.drain_bridge()
        if not self.connection.is_split and self._reader.is_at_eof and self._reader.is_concluded:
            self.connection.lose()  # the transport will be closed, and what is written now would be lost
        self._written()

    def abort(self) -> None:
        """Ends the TCP connection at once, without a closing handshake; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()
            self._stop_sending()
