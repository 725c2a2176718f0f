"""Sockets of the engine, as transports of asyncio.

`adopt` takes a socket away from the transport that the loop made for it, when the opening handshake is over:
the descriptor is duplicated, the old transport closed. So connecting, accepting and TLS stay the loop's business, and
what is adopted is a TCP or Unix socket on Linux, on asyncio and uvloop alike. Everything else keeps its transport.

What is handed to `write` is ours until it has been sent; nothing of it is copied. While the engine serves several
sockets, what a connection writes stays with its writer (`send_output`), and at the end the engine sends what all of
them have written in one crossing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zcws.aio.below import bytes_confirmed, is_hung_up, is_tls, peer_of
from zcws.aio.engine import IN, OUT, Engine, Scanned, engine_of, is_engine_on
from zcws.annotations import Buffer
from zcws.kernel import lib
from zcws.options import USUAL_MARKS, water_marks
from zcws.output import MOST_SEGMENTS, behind, cut
from zcws.scratch import SCRATCH_CAPACITY

if TYPE_CHECKING:
    from zcws.kernel import CData
    from zcws.scratch import Scratch
    from zcws.writer import Writer

__all__ = ["EngineTransport", "adopt", "place"]

#: A connection that received at most this much (bytes) last time is served together with others. Larger messages
#: often come in parts, and whoever keeps a part keeps the common ring.
_SMALL = 16 * 1024

#: The addresses of a socket that is not closed: it is asked. One for all, as an empty dict takes memory, too.
_UNKNOWN: Mapping[str, Any] = {}

_send_masked, _receive_rest, _WHOLE = lib.zcws_send_masked, lib.zcws_receive_rest, lib.ZCWS_WHOLE


def place(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.BufferedProtocol
) -> EngineTransport:
    """Puts a plain socket that does not block into the engine of `loop`, which owns it from now on."""
    return EngineTransport(engine_of(loop), sock, protocol)


def adopt(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, protocol: asyncio.BufferedProtocol
) -> EngineTransport | None:
    """Moves an open connection from `transport` into the engine of `loop`. None: it has to stay where it is.

    The old transport must have sent all that was written to it; its protocol sees `connection_lost`.
    """
    if not is_engine_on():
        return None
    if is_tls(transport) or transport.get_write_buffer_size():
        return None
    sock = transport.get_extra_info("socket")
    if sock is None or sock.type != socket.SOCK_STREAM:
        return None
    try:
        own = socket.socket(fileno=os.dup(sock.fileno()))
    except OSError:
        return None  # no descriptor is left: it is served where it is
    transport.pause_reading()
    own.setblocking(False)
    transport.abort()
    return place(loop, own, protocol)


class EngineTransport(asyncio.Transport):
    """One socket of the engine, as a transport of asyncio.

    Attributes:
        fd: its descriptor; -1 once it is closed.
        writer: of the connection that it belongs to.
        backlog, backlog_size: what has been handed over and not been sent, and its bytes.
        closing: it ends: nothing more goes out than the backlog, and nothing more is read unless it is broken.
    """

    __slots__ = (
        "_broken",
        "_engine",
        "_eof_wanted",
        "_events",
        "_high",
        "_low",
        "_paused_protocol",
        "_protocol",
        "_reading",
        "_sock",
        "_stream",
        "backlog",
        "backlog_size",
        "closing",
        "fd",
        "writer",
    )

    def __init__(self, engine: Engine, sock: socket.SocketType, protocol: asyncio.BufferedProtocol) -> None:
        self._engine = engine
        # A `socket.socket` once somebody has asked for it: what that adds costs twice as much.
        self._sock = sock
        self.fd: int = sock.fileno()
        self._protocol = protocol
        self.backlog: list[Buffer] = []
        self.backlog_size: int = 0
        self._high, self._low = USUAL_MARKS
        self._paused_protocol = False
        self._reading = True
        self.closing: bool = False
        self._broken: OSError | None = None  # why nothing can be sent; what has been received is still read
        self._eof_wanted = False
        self._extra: Mapping[str, Any] = _UNKNOWN  # asyncio's slot: the addresses, once it is closed
        self._events = IN
        self._set_stream(protocol)
        try:
            engine.add(self, self.fd)
        except OSError:  # the traceback would keep the socket, and the peer waiting
            self.closing = True
            sock.close()
            raise

    def _set_stream(self, protocol: asyncio.BufferedProtocol) -> None:
        # What else has to be there: see `Scanned`. Anything that is not ours is served alone.
        self._stream: Scanned | None = protocol if hasattr(protocol, "scanned") else None  # type: ignore[assignment]
        if self._stream is not None:
            self.writer: Writer = self._stream.writer

    # ---- reading ----

    def failed(self, exc: OSError) -> None:
        """Receiving failed."""
        self._end(exc)

    def broke(self, exc: BaseException) -> None:
        """What was received cannot be handled here: no memory, most likely. As on every transport of asyncio, this
        connection ends, and those behind it in the same turn have theirs."""
        if isinstance(exc, Exception):  # the others end the loop, and need no log
            context = {
                "message": "a connection failed on what it received",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
            self._engine.loop().call_exception_handler(context)
        self._end_soon(None)

    def read_ready(self) -> None:
        """The socket has bytes, or news of its end."""
        if not self._reading:
            self._watch()
            # If not, what was said of this socket was said before we stopped reading.
            if not self._events and is_hung_up(self.fd):
                self._lost_interest()
            return
        protocol, stream = self._protocol, self._stream
        if stream is not None and stream.inlet.landing_in is not None:
            self._land(stream)
            return
        try:
            count = self._sock.recv_into(protocol.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._end(exc)
            return
        if count:
            protocol.buffer_updated(count)
            if count <= _SMALL and stream is not None:
                self.settle()
        else:
            self._received_end()

    def _received_end(self) -> None:
        if self._protocol.eof_received() and self._broken is None:
            self._reading = False
            self._watch()
        elif self.backlog:
            self.close()
        else:
            self._end(self._broken)

    def _land(self, stream: Scanned) -> None:
        """More of a large payload: as much as is there goes straight into its buffer, in one crossing."""
        inlet = stream.inlet
        found = _receive_rest(self.fd, inlet.state, *inlet.rest_slot())
        if found > 0:
            stream.landed(found % _WHOLE, found // _WHOLE)
        elif found == 0:
            self._received_end()
        elif -found not in (errno.EAGAIN, errno.EINTR):
            self._end(OSError(-found, os.strerror(-found)))

    def settle(self) -> None:
        """Nothing has come yet, or what came last was small: C may receive for us, where nothing of it is kept. Where
        it was the beginning of something large, the rest may be there."""
        stream = self._stream
        if stream is None or self._events < 0:
            return
        inlet = stream.inlet
        if inlet.is_idle and not inlet.pours:
            self._engine.serve_together(self.fd, stream)
        elif inlet.landing_in is not None and self._reading:
            self._land(stream)

    def unsettle(self) -> None:
        """Something is kept that came another way: what comes next is to be gone on with by itself."""
        self._engine.serve_alone(self.fd)

    def _lost_interest(self) -> None:
        """The peer is gone and we neither read nor write: epoll would say so again and again, whatever it is asked."""
        self._engine.remove(self.fd)
        self._events = -1
        if hasattr(self._protocol, "writing_failed"):
            code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.EPIPE
            self._break(OSError(code, os.strerror(code)))

    def is_reading(self) -> bool:
        return self._reading and not self._is_ending

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._watch()

    def resume_reading(self) -> None:
        if not self._reading and not self._is_ending:
            self._reading = True
            if self._events == -1:
                self._engine.add(self, self.fd)
                self._events = IN
            self._watch()

    def _watch(self) -> None:
        events = (IN if self._reading else 0) | (OUT if self.backlog else 0)
        if events != self._events and self._events != -1 and self._sock.fileno() >= 0:
            self._events = events
            self._engine.watch(self.fd, events)

    # ---- writing ----

    def send_output(self) -> None:
        """What the writer has goes out: now, or in one crossing with what the others write in this turn."""
        engine, writer = self._engine, self.writer
        if engine.is_walking:
            engine.written.append(self)
            return
        out = writer.out
        if self.backlog or self.closing:
            self.writelines(writer.take())
        # `take_whole`, without the call: nearly all that is answered alone. A signal handler may have sent it since.
        elif len(out) == 1 and out is writer.out:
            data = out.pop(0)
            writer.taken = writer.written
            writer.has_large = False
            self._send(data)
        elif writer.has_large:
            self.writelines(writer.take())
        else:
            self._send(writer.take_whole())

    def write(self, data: Buffer) -> None:
        if self.backlog or self.closing:
            self.writelines((data,))
        else:
            self._send(data)

    def _send(self, data: Buffer) -> None:
        """One segment, when nothing is in its way."""
        if self.backlog:  # a finalizer has sent since we looked, and half of its frame is out
            self._keep([data])
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._break(exc)
            return
        if sent < len(data):  # type: ignore[arg-type]
            self.backlog.append(data)  # at once: what a finalizer sends from here on waits behind it
            cut(self.backlog, sent)
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

    def write_lent(self, segments: list[Buffer], keep: Callable[[int], Buffer] | None) -> None:
        """The same, while nothing is in its way. The last of them is not ours: what has to wait of it is copied, or is
        what `keep` gives for all of it from some byte on."""
        if self.closing:
            return
        keep = keep or (lambda begin: bytes(memoryview(segments[-1])[begin:]))
        if self.backlog:  # a finalizer has sent since somebody looked
            self._keep([*segments[:-1], keep(0)])
        else:
            self.backlog += segments
            self._offer_first(segments, keep)

    def _offer_first(self, views: list[Buffer], keep: Callable[[int], Buffer] | None) -> None:
        """These are what the backlog begins with, and their size is not counted yet. `keep` gives what has to wait of
        the last of them, where that is not ours."""
        left: list[Buffer] = []
        try:
            sent = self._offer(views)
            if sent is not None and sent < sum(map(len, views)):  # type: ignore[arg-type]
                left = behind(views, sent)
                if keep is not None:
                    left[-1] = keep(len(views[-1]) - len(left[-1]))  # type: ignore[arg-type]
        except BaseException:  # no memory: half a frame is out, and nothing may follow it
            self.abort()
            raise
        self.backlog[: len(views)] = left
        if self.backlog:
            self._kept(sum(map(len, left)))  # type: ignore[arg-type]
        elif (self._eof_wanted or self.closing) and sent is not None:
            self._settle_up()  # a finalizer has wanted the end meanwhile

    def send_masked(self, scratch: Scratch, first: int, payload: CData | bytes, size: int, key: int) -> None:
        """A frame that nothing is in the way of, masked and sent part by part: only what the socket does not take needs
        memory. The payload is not used any more when this returns."""
        scratch.uses += 1
        is_first, sent = not self.backlog, -1  # a finalizer may have sent since somebody looked
        if is_first:
            self.backlog.append(b"")  # as in `writelines`
            sent = _send_masked(self.fd, scratch.base, SCRATCH_CAPACITY, first, payload, size, key)
        try:
            rest = b"" if sent >= 0 else scratch.rest(first, payload, size, key, -1 - sent)
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
        """The end of a walk: what the writer has, alone; nothing once we end, as what came before it may be lost."""
        if self.writer.out:
            self.writelines(self.writer.take())

    def _offer(self, segments: list[Buffer]) -> int | None:
        """How many bytes of it the socket has taken. None: it is broken, and the protocol will hear of it."""
        try:
            return self._sock.sendmsg(segments[:MOST_SEGMENTS]) if segments else 0
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            self._break(exc)
            return None

    def _keep(self, views: list[Buffer]) -> None:
        """What has not been sent waits here; the writer never uses that memory again."""
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
        """What waited for the backlog to shrink, or to be empty."""
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
            if not self.backlog:
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

    # ---- the end ----

    def is_closing(self) -> bool:
        return self.closing

    @property
    def _is_ending(self) -> bool:
        """Whether it closes, and nothing more is read."""
        return self.closing and self._broken is None

    def _break(self, exc: OSError) -> None:
        """Nothing can be sent any more. What the peer has said before, its Close perhaps, lies in the socket and can
        still be read; `connection_lost` comes behind it."""
        failed = getattr(self._protocol, "writing_failed", None)
        if failed is None or self._is_ending:
            self._end_soon(exc)
        elif self._broken is None:
            self._broken, self.closing = exc, True
            self._drop_backlog()
            self._watch()
            failed(exc)

    def close(self) -> None:
        if not self._is_ending:
            self.closing, self._broken = True, None
            self._reading = False
            if self.backlog:
                self._watch()
            else:
                self._end_soon(None)

    def abort(self) -> None:
        self._end_soon(None)

    def _end_soon(self, exc: OSError | None) -> None:
        """As on every transport, `connection_lost` comes on a later turn of the loop, never from inside a call."""
        self._let_go()
        self._engine.loop().call_soon(self._end, exc)

    def _end(self, exc: OSError | None) -> None:
        if self._sock.fileno() < 0:
            return
        self._let_go()
        self._extra = {"sockname": self._address("sockname"), "peername": self._address("peername")}
        self._sock.close()
        self.fd = -1  # the next socket that is made has this number: nothing of ours may be sent there
        self._protocol.connection_lost(exc)

    def _let_go(self) -> None:
        """Nothing is read or written any more."""
        self.closing = True
        self._broken = None
        self._reading = False
        self._drop_backlog()
        self._engine.remove(self.fd)
        self._events = -1

    def _drop_backlog(self) -> None:
        self.backlog = []
        self.backlog_size = 0

    # ---- what is known ----

    def bytes_confirmed(self) -> tuple[int, int]:
        """See below.py; without what `get_extra_info("socket")` makes of a socket for good."""
        return bytes_confirmed(self._sock)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.BufferedProtocol)
        self._engine.serve_alone(self.fd)
        self._protocol = protocol
        self._set_stream(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            if not isinstance(self._sock, socket.socket) and self._sock.fileno() >= 0:
                self._sock = socket.socket(fileno=self._sock.detach())
                self._sock.setblocking(False)
            return self._sock
        if name in ("sockname", "peername"):
            known = self._extra.get(name) if self._sock.fileno() < 0 else self._address(name)
            return default if known is None else known
        return default

    def _address(self, name: str) -> Any:
        """Of our end of the socket, or of the peer's; None where the system does not know it."""
        try:
            return self._sock.getsockname() if name == "sockname" else peer_of(self._sock)
        except OSError:
            return None

    # Bound here: the last connections die when the interpreter has emptied its modules already, this one too.
    def __del__(self, warn: Callable[..., object] = warnings.warn) -> None:
        # Nobody has closed it, and nobody can any more: its loop is gone. As asyncio's own transports do.
        if not self.closing:
            warn(f"unclosed {self._protocol!r} on {self!r}", ResourceWarning, source=self)
            self._sock.close()

    def __repr__(self) -> str:
        return f"<EngineTransport fd={self.fd}{' closing' if self.closing else ''}>"
