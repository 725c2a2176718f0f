"""What a socket of the engine sends: as much as it takes at once; the rest waits in the backlog.

What is handed over is ours until it has been sent; nothing of it is copied. While the engine serves several sockets,
what a connection writes stays with its writer (`send_output`), and at the end the engine sends what all of them have
written in one crossing.

A finalizer or a signal handler may send in the middle of anything here. So the writer's output becomes the backlog in
one step, before it is offered to the socket, and what is sent meanwhile waits behind it: no frame gets into another one
or overtakes one, which would tear the window of the compressor too. While the engine makes a crossing, what has been
taken is in nobody's backlog: meanwhile everything stays with its writer (`Engine.is_sending`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from zcws.aio.engine import Engine
from zcws.annotations import Buffer
from zcws.kernel import lib
from zcws.options import USUAL_MARKS, water_marks
from zcws.output import MOST_SEGMENTS, behind, cut, joined, to_slice
from zcws.payloads import unreadable
from zcws.scratch import SCRATCH_CAPACITY

if TYPE_CHECKING:
    from zcws.kernel import CData
    from zcws.scratch import Scratch
    from zcws.writer import Writer

__all__ = ["Sending"]

_send_masked = lib.zcws_send_masked

#: Sends to a non-blocking socket in fewer steps than the socket's `send`.
_write = os.write


class Sending(asyncio.Transport):
    """The writing side of one socket of the engine.

    Attributes:
        fd: its descriptor; -1 once it is closed.
        writer: of the connection that it belongs to.
        backlog, backlog_size: what has been handed over and not been sent, and how many bytes that is.
        closing: it ends: only the backlog still goes out.
    """

    __slots__ = (
        "_engine",
        "_eof_wanted",
        "_high",
        "_low",
        "_paused_protocol",
        "_protocol",
        "_sock",
        "backlog",
        "backlog_size",
        "closing",
        "fd",
        "writer",
    )

    writer: Writer

    def __init__(self, engine: Engine, sock: socket.SocketType, protocol: asyncio.BufferedProtocol) -> None:
        self._engine = engine
        # Becomes a `socket.socket` when somebody asks for that: with what it adds, one costs twice as much.
        self._sock = sock
        self._protocol = protocol
        self.closing: bool = False
        self.fd: int = sock.fileno()
        self.backlog: list[Buffer] = []
        self.backlog_size: int = 0
        self._high, self._low = USUAL_MARKS
        self._paused_protocol = False
        self._eof_wanted = False

    # ---- for a subclass: transport.py has these ----

    def _watch(self) -> None:
        """There is a backlog, or none any more: changes what epoll is asked for."""
        raise NotImplementedError

    def _break(self, exc: OSError) -> None:
        """Nothing can be sent any more."""
        raise NotImplementedError

    def _end_soon(self, exc: OSError | None) -> None:
        """The socket is to be closed."""
        raise NotImplementedError

    def broke(self, exc: BaseException) -> None:
        """What was written has been lost."""
        raise NotImplementedError

    @property
    def _is_ending(self) -> bool:
        """Whether it closes, and nothing more is read."""
        raise NotImplementedError

    # ---- now ----

    @property
    def is_free(self) -> bool:
        """Whether nothing goes before what is sent now."""
        return not (self.backlog or self.closing or self._engine.is_sending)

    def send_output(self) -> None:
        """Sends what the writer has: now, or in one crossing with what the others write in this turn."""
        engine = self._engine
        if engine.is_walking:
            engine.written[self] = None
        else:
            self.send_now()

    def send_now(self) -> None:
        """Sends what the writer has; in the middle of a crossing of the engine's, right behind that."""
        engine = self._engine
        if engine.has_received:
            engine.expect_answers()
        writer, backlog = self.writer, self.backlog
        if backlog or self.closing or engine.is_sending:
            self._put_off()
            return
        # From here to `len` there is no call, so no signal handler runs: what it sends later waits behind this.
        self.backlog, writer.out = writer.out, backlog
        writer.taken = writer.written
        has_large, writer.has_large = writer.has_large, False
        ours = self.backlog
        count = len(ours)
        if count != 1:  # seldom
            views = self._join_first(ours, count, has_large)
            if len(views) != 1:
                self._offer_first(views, None)
                return
        # As in `_send`, without its call, which is 1 % of an echo; only that here the backlog has the segment already.
        data = ours[0]
        try:
            sent = _write(self.fd, data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._break(exc)
            return
        if sent < len(data):  # type: ignore[arg-type]
            self._cut_first(ours, sent)
            self._kept(len(data) - sent)  # type: ignore[arg-type]
            return
        del ours[0]
        if (self._eof_wanted or self.closing) and not ours:
            self._settle_up()  # a finalizer has asked for the end meanwhile

    def _put_off(self) -> None:
        """Something goes before what the writer has."""
        engine, writer, fresh = self._engine, self.writer, list[Buffer]()
        if engine.is_sending:
            engine.written[self] = None
            return
        # As in `send_now`.
        backlog, out, writer.out = self.backlog, writer.out, fresh
        writer.taken = writer.written
        has_large, writer.has_large = writer.has_large, False
        if self.closing:
            return
        backlog += out
        begin = len(backlog) - len(out)
        segments = backlog[begin : begin + len(out)] = joined(out, has_large)
        self._kept(sum(map(len, segments)))  # type: ignore[arg-type]

    def _cut_first(self, backlog: list[Buffer], sent: int) -> None:
        try:
            cut(backlog, sent)
        except BaseException:  # no memory: half a frame is out, and nothing may follow it
            self.abort()
            raise

    def write(self, data: Buffer) -> None:
        if self.backlog or self.closing:
            self.writelines((data,))
        else:
            self._send(data)

    def _send(self, data: Buffer) -> None:
        """Sends one segment, which nothing was in the way of."""
        if self.backlog:  # a finalizer has sent since we looked, and half of its frame is out
            self._keep([data])
            return
        try:
            sent = _write(self.fd, data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._break(exc)
            return
        if sent < len(data):  # type: ignore[arg-type]
            self.backlog.append(data)  # at once: what a finalizer sends from here on waits behind it
            self._cut_first(self.backlog, sent)
            self._kept(len(data) - sent)  # type: ignore[arg-type]

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        views: list[Buffer] = [memoryview(data) for data in list_of_data]
        if self.closing:
            return
        if self.backlog:
            self._keep(views)
        else:
            self.backlog += views  # first: what a finalizer sends in the middle of this waits behind it
            self._offer_first(views, None)

    def write_lent(self, head: bytes, payload: Buffer, keep: Callable[[int], Buffer] | None) -> bool:
        """Sends what the writer has, and a large frame behind it that the writer has not been given. The payload is not
        ours: the part of it that has to wait is copied, or `keep` gives it when it is called with the part's first
        index. False: something goes before them, and nothing has been done."""
        writer, lent, size = self.writer, (head, payload), len(head) + len(payload)  # type: ignore[arg-type]
        keep = keep or (lambda begin: bytes(to_slice(payload)[begin:]))
        if self.backlog or self.closing or self._engine.is_sending:
            return False
        # As in `send_now`. It is counted before it is sent: `pause_writing`, which looks at that, has to find it there.
        self.backlog, writer.out = writer.out, self.backlog
        self.backlog += lent
        writer.written += size
        writer.taken = writer.written
        writer.has_large = False
        ours = self.backlog
        self._offer_first(self._join_first(ours, len(ours), True), keep)
        return True

    def _join_first(self, ours: list[Buffer], count: int, has_large: bool) -> list[Buffer]:
        """Makes fewer segments of the first ones of the backlog. Returns those."""
        try:
            views = ours[:count] = joined(ours[:count], has_large)
        except BaseException:  # a signal handler's, or no memory
            self.abort()
            raise
        return views

    def _offer_first(self, views: list[Buffer], keep: Callable[[int], Buffer] | None) -> None:
        """Offers `views` to the socket; the backlog begins with them, and their size is not counted yet. If the last of
        them is not ours, `keep` gives the part of it that has to wait."""
        left: list[Buffer] = []
        try:
            sent = self._offer(views)
            if sent is not None and sent < sum(map(len, views)):  # type: ignore[arg-type]
                left = behind(views, sent)
                if keep is not None:
                    left[-1] = keep(len(views[-1]) - len(left[-1]))  # type: ignore[arg-type]
        except BaseException:  # no memory, or it cannot be read: half a frame is out; nothing may follow it
            self.abort()
            raise
        self.backlog[: len(views)] = left
        if self.backlog:
            self._kept(sum(map(len, left)))  # type: ignore[arg-type]
        elif (self._eof_wanted or self.closing) and sent is not None:
            self._settle_up()  # a finalizer has asked for the end meanwhile

    def send_masked(self, scratch: Scratch, first: int, payload: CData | bytes, size: int, key: int) -> None:
        """Masks and sends a frame part by part, when nothing is in the way: only what the socket does not take needs
        memory. The payload is not used any more when this returns."""
        scratch.uses += 1
        is_first, sent = not self.backlog, -1  # a finalizer may have sent since somebody looked
        if is_first:
            self.backlog.append(b"")  # as in `writelines`
            sent = _send_masked(self.fd, scratch.base, SCRATCH_CAPACITY, first, payload, size, key)
        try:
            rest = b"" if sent >= 0 else scratch.unsent(first, payload, size, key, -1 - sent)
        except BaseException:  # no memory: half a frame is out, and nothing may follow it
            self.abort()
            raise
        if not is_first:
            self._keep([rest])
        elif rest:
            self.backlog[:1] = [rest]
            self._offer_first([rest], None)
        else:
            self.backlog[:1] = []
            if not self.backlog and (self._eof_wanted or self.closing):
                self._settle_up()

    def write_rest(self) -> None:
        """At the end of a walk, sends what the writer has; nothing once we end, since what came before may be lost."""
        if self.writer.out:
            self.writelines(self.writer.take())

    def _offer(self, segments: list[Buffer]) -> int | None:
        """How many bytes of `segments` the socket has taken. None: it is broken, and the protocol will be told."""
        try:
            return self._sock.sendmsg(segments[:MOST_SEGMENTS]) if segments else 0
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            if fault := unreadable(exc):  # the memory was lent
                raise fault from None
            self._break(exc)
            return None

    def _keep(self, views: list[Buffer]) -> None:
        """Has `views` wait in the backlog; the writer never uses their memory again."""
        self.backlog += views
        self._kept(sum(map(len, views)))  # type: ignore[arg-type]

    def _kept(self, size: int) -> None:
        """So many bytes more wait."""
        self.backlog_size += size
        self._watch()
        if self.backlog_size > self._high and not self._paused_protocol:
            self._paused_protocol = True
            self._protocol.pause_writing()

    def write_ready(self) -> None:
        """The socket takes bytes, or may."""
        sent = self._offer(self.backlog)
        if sent is not None:
            cut(self.backlog, sent)
            self.backlog_size -= sent
            self._settle_up()

    def sent_together(self, data: Buffer, sent: int) -> None:
        """The engine has sent so many bytes of `data`; or a negated errno says why not."""
        if sent >= 0 or -sent in (errno.EAGAIN, errno.EINTR):
            if left := behind([data], max(sent, 0)):
                self._keep(left)
        else:
            self._break(OSError(-sent, os.strerror(-sent)))

    def _settle_up(self) -> None:
        """Does what waited for the backlog to shrink, or to be empty."""
        if not self.backlog:
            self._watch()
            if self._eof_wanted:
                self._shut_down()
            if self._is_ending:
                self._end_soon(None)
                return
        if self._paused_protocol and self.backlog_size <= self._low:
            self._paused_protocol = False
            self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._eof_wanted:
            self._eof_wanted = True
            if self._engine.is_sending:
                self._engine.loop().call_soon(self._settle_up)
            elif not self.backlog:
                self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._end_soon(exc)

    def get_write_buffer_size(self) -> int:
        return self.backlog_size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = water_marks(high, low)

    def _drop_backlog(self) -> None:
        self.backlog = []
        self.backlog_size = 0
