"""The engine: all plain sockets of an event loop in one epoll of ours.

An event loop spends more on a socket that is ready (an object for the event, a handle, a context, a queue) than a small
message costs altogether. Here all sockets sit in a private epoll; its one descriptor is registered with the loop,
which then says "something is ready" once, and one crossing into C serves every socket that is:

    event loop --add_reader--> one epoll --zcws_turn: poll, receive, scan--> a table
    a table --walk: each connection's rows wake its task--> what they write --zcws_send_each--> sockets

A connection of which nothing is kept (`Inlet.is_idle`) is received for in C. All of them share one ring, the pool's
`common` one: their bytes lie behind each other, and each reads its own while the table is walked. Whoever is not done
with them by then (half a frame, a view that is held, a reader that is busy) keeps the ring, and those behind him
move to a fresh one. A connection that keeps something is served one by one (`read_ready`) until it is idle again.

`adopt` takes a socket away from the transport that the loop made for it, when the opening handshake is over:
the descriptor is duplicated, the old transport closed. So connecting, accepting and TLS stay the loop's business, and
what is adopted is a TCP or Unix socket on Linux, on asyncio and uvloop alike. Everything else keeps its transport.

What is handed to `write` is ours until it has been sent; nothing of it is copied. `ZCWS_ENGINE=0` turns the engine off.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import weakref
from array import array
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, cast

from zcws.inlet import Inlet
from zcws.kernel import ffi, lib
from zcws.pool import Pool
from zcws.ring import Ring

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Engine", "EngineTransport", "adopt", "is_engine_on", "place", "together"]

#: Sockets that are always asked for: more than one, or a busy one would be served between every two others.
_FEWEST = 8

#: Descriptors for which there is room at first: most programs have fewer.
_DESCRIPTORS = 256

#: Words of the table of one crossing: 64 sockets with 64 rows each.
_WORDS = 16 * 1024

#: A connection that received at most this much (bytes) last time is served together with others. Larger messages
#: often come in parts, and whoever keeps a part keeps the common ring.
_SMALL = 16 * 1024

#: Up to this many bytes, what a connection writes goes out together with what the others wrote. Joining them is a copy.
_SEND_TOGETHER = 16 * 1024

#: Segments that one sendmsg takes (IOV_MAX on Linux is 1024).
_MOST_SEGMENTS = 512

_HAS_EPOLL = hasattr(select, "epoll")
_READY, _LEFT, _TURN_HEAD = lib.ZCWS_TURN_READY, lib.ZCWS_TURN_LEFT, lib.ZCWS_TURN_HEAD
_ENTRY, _SERVE, _FAILED = lib.ZCWS_TURN_ENTRY, lib.ZCWS_TURN_SERVE, lib.ZCWS_TURN_FAILED
_HEAD, _ROW = lib.ZCWS_TABLE_HEAD, lib.ZCWS_TABLE_ROW
_serve_sockets = lib.zcws_turn

_IN, _OUT = (select.EPOLLIN, select.EPOLLOUT) if _HAS_EPOLL else (1, 4)


def is_engine_on() -> bool:
    """Whether there is an engine here, and nobody has turned it off."""
    return _HAS_EPOLL and os.environ.get("ZCWS_ENGINE") != "0"


def place(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.BufferedProtocol
) -> EngineTransport:
    """Puts a plain socket that does not block into the engine of `loop`, which owns it from now on."""
    return EngineTransport(_engine_of(loop), sock, protocol)


def adopt(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, protocol: asyncio.BufferedProtocol
) -> EngineTransport | None:
    """Moves an open connection from `transport` into the engine of `loop`. None: it has to stay where it is.

    The old transport must have sent all that was written to it; its protocol sees `connection_lost`.
    """
    if not is_engine_on():
        return None
    if transport.get_extra_info("ssl_object") is not None or transport.get_write_buffer_size():
        return None
    sock = transport.get_extra_info("socket")
    if sock is None or sock.type != socket.SOCK_STREAM:
        return None
    transport.pause_reading()
    own = socket.socket(fileno=os.dup(sock.fileno()))
    own.setblocking(False)
    transport.abort()
    return place(loop, own, protocol)


def together(loop: asyncio.AbstractEventLoop) -> AbstractContextManager[None]:
    """What the engine's connections of `loop` write inside of this goes out at its end, in one crossing."""
    engine = _engines.get(loop)
    return nullcontext() if engine is None else engine.together()


class Scanned(Protocol):
    """A protocol for which bytes can be received and scanned together with those of others."""

    @property
    def inlet(self) -> Inlet: ...

    def scanned(self, ring: Ring, begin: int, stop: int, count: int, words: list[int], at: int) -> bool:
        """The rows of what was received; see `Inlet.take_scan`. Returns whether the connection is idle again."""
        ...


class Engine:
    """All sockets of one event loop that are ours.

    Attributes:
        is_walking: whether what is written now goes out when every connection has had its rows.
        written: those that have written something since.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weakly: an engine lives as long as its loop (`_engines`), and must not keep it alive.
        self._loop = weakref.ref(loop)
        self._epoll = select.epoll()
        self._transports: dict[int, EngineTransport] = {}
        self._only = -1  # the one socket there is
        self._listening = -1  # what the event loop watches: that one socket, or the epoll
        self._together: dict[int, Scanned] = {}  # those for which C receives
        self._fresh: set[int] = set()  # descriptors that came while a table was walked: it knows older ones
        self._pool: Pool | None = None
        self._readers = ffi.new("struct zcws_reader *[]", _DESCRIPTORS)
        self._table = ffi.new("uint64_t[]", _WORDS)
        self._words = memoryview(ffi.buffer(self._table)).cast("B").cast("Q")
        self._sockets = ffi.new("struct zcws_sockets *")
        self._sockets.epoll = self._epoll.fileno()
        self._sockets.most = self._most = lib.ZCWS_TURN_MOST  # sockets that are asked for in one crossing
        self._sockets.only = self._only
        self._sockets.readers, self._sockets.count = self._readers, _DESCRIPTORS
        self._sockets.table, self._sockets.words = self._table, _WORDS
        self.is_walking = False
        self.written: list[EngineTransport] = []

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        loop = self._loop()
        assert loop is not None  # whoever asks was called by it
        return loop

    def add(self, transport: EngineTransport, fd: int) -> None:
        """Watches a socket for bytes to read."""
        self._transports[fd] = transport
        if self.is_walking:
            self._fresh.add(fd)
        self._epoll.register(fd, _IN)
        self._listen(fd if len(self._transports) == 1 else -1)

    def watch(self, fd: int, events: int) -> None:
        """Changes what a socket is watched for."""
        self._epoll.modify(fd, events)
        # Ready for anything else than bytes to read: that has to be asked.
        self._listen(fd if events == _IN and len(self._transports) == 1 else -1)

    def remove(self, fd: int) -> None:
        """Forgets a socket that is about to be closed."""
        if self._transports.pop(fd, None) is not None:
            self.serve_alone(fd)
            self._epoll.unregister(fd)
            if not self.loop().is_closed():
                self._listen(-1)

    def _listen(self, only: int) -> None:
        """Has the event loop watch the `only` socket there is, or the epoll. The first saves the system a detour."""
        self._only = self._sockets.only = only
        wanted = only if only >= 0 or not self._transports else self._epoll.fileno()
        if wanted != self._listening:
            if self._listening >= 0:
                self.loop().remove_reader(self._listening)
            self._listening = wanted
            if wanted >= 0:
                self.loop().add_reader(wanted, self._turn)

    # ---- one crossing for all ----

    def serve_together(self, fd: int, stream: Scanned) -> None:
        """From now on C receives for this socket, whose connection is idle."""
        inlet = stream.inlet
        if self._pool is None:
            self._pool = inlet.pool
        if self._pool is not inlet.pool:
            return  # it would give the common ring to a pool that does not know it
        if fd >= len(self._readers):
            self._grow(fd)
        self._readers[fd] = inlet.state
        self._together[fd] = stream

    def serve_alone(self, fd: int) -> None:
        """Back to `read_ready`."""
        if self._together.pop(fd, None) is not None:
            self._readers[fd] = ffi.NULL

    def _grow(self, fd: int) -> None:
        old = self._readers
        self._readers = ffi.new("struct zcws_reader *[]", 2 * fd)
        self._readers[0 : len(old)] = old
        self._sockets.readers, self._sockets.count = self._readers, 2 * fd

    def _turn(self) -> None:
        """Serves the sockets that are ready."""
        only = self._only
        if only >= 0 and only not in self._together:
            self._transports[only].read_ready()
            return
        pool = self._pool
        if pool is None:
            self._serve_each()
            return
        ring = pool.common
        if ring is None:
            ring = pool.common = pool.lease()
        used = _serve_sockets(self._sockets, ring.base, ring.capacity)
        words = self._words[:used].tolist()
        if words[_READY] == 1:
            self._walk(pool, ring, words)
            return
        # As many as there is room for, so that those who come last do not always go without.
        if words[_LEFT]:
            self._most = self._sockets.most = max(_FEWEST, words[_READY] - words[_LEFT])
        elif self._most < lib.ZCWS_TURN_MOST:
            self._most = self._sockets.most = self._most + 1
        with self.together():
            self._walk(pool, ring, words)

    def _serve_each(self) -> None:
        """The same before there is anybody that C could receive for."""
        for fd, events in self._epoll.poll(0, lib.ZCWS_TURN_MOST):
            self._serve(fd, _SERVE, events)

    def _walk(self, pool: Pool, ring: Ring, words: list[int]) -> None:
        """Hands every connection its rows."""
        streams, fresh, at, used = self._together, self._fresh, _TURN_HEAD, len(words)
        while at < used:
            fd, begin, stop, count, end = words[at : at + _ENTRY]
            at += _ENTRY
            if count >= _SERVE:
                self._serve(fd, count, stop)
                continue
            stream = streams.get(fd)
            if stream is None or (fresh and fd in fresh):
                pass  # closed by one that had its rows before
            elif pool.common is not ring:
                moved = pool.lease()
                moved.memory[: stop - begin] = ring.memory[begin:stop]
                if not stream.scanned(moved, 0, stop - begin, count, _moved(words[at:end], begin), 0):
                    self.serve_alone(fd)
            elif not stream.scanned(ring, begin, stop, count, words, at):
                self.serve_alone(fd)
                if stream.inlet.holds(ring):
                    pool.common = None
            at = end

    def _serve(self, fd: int, how: int, what: int) -> None:
        """A socket that C did not receive for."""
        transport = self._transports.get(fd)
        if transport is None or fd in self._fresh:
            return  # closed by one that was served before it
        if how == _FAILED:
            transport.failed(OSError(what, os.strerror(what)))
            return
        if what & _OUT:
            transport.write_ready()
        if what & ~_OUT:
            transport.read_ready()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside of this goes out at its end, in one crossing."""
        if self.is_walking:
            yield
            return
        self.is_walking = True
        try:
            yield
        finally:
            self.is_walking = False
            self._fresh.clear()
            self._send_written()

    def _send_written(self) -> None:
        """One crossing for what all of them have written."""
        written, self.written = self.written, []
        orders: list[int] = []
        parts: list[Buffer] = []
        transports = []
        begin = end = 0
        last: Buffer | None = None
        for transport in dict.fromkeys(written):  # twice, where `_keep` has emptied it in between
            size, backlog = transport.backlog_size, transport.backlog
            if not size:
                continue  # it has ended meanwhile
            if backlog[0] is not last or len(backlog) > 1:
                if size > _SEND_TOGETHER and not _is_for_many(backlog, len(written)):
                    transport.write_ready()
                    continue
                last, begin = backlog[0], end
                end += size
                parts += backlog
            orders += (transport.fd, begin, size)
            transports.append(transport)
        if transports:
            _send_together(transports, array("q", orders), b"".join(parts))


def _moved(words: list[int], begin: int) -> list[int]:
    """The table of bytes that began at `begin` and have been moved to 0: somebody before them has kept the ring."""
    words[lib.ZCWS_TABLE_NEXT] -= begin
    for i in range(_HEAD, len(words), _ROW):
        words[i + 1] -= begin
        words[i + 2] -= begin
    return words


def _is_for_many(backlog: list[Buffer], count: int) -> bool:
    """Whether several connections may have been given the same bytes, as by a broadcast: then one copy serves all."""
    return count > 1 and len(backlog) == 1 and type(backlog[0]) is bytes


def _send_together(transports: list[EngineTransport], orders: array[int], data: bytes) -> None:
    if not lib.zcws_send_each(ffi.from_buffer("int64_t[]", orders), len(transports), data):
        for transport in transports:
            transport.backlog = []
            transport.backlog_size = 0
        for transport in transports:
            if transport.owes:  # only now: it may write to another one of these
                transport.settle_up()
        return
    for transport, sent in zip(transports, orders[2 :: lib.ZCWS_SEND_ORDER], strict=True):
        transport.sent_together(sent)


class EngineTransport(asyncio.Transport):
    """One socket of the engine, as a transport of asyncio.

    Attributes:
        fd: its descriptor.
        backlog, backlog_size: what has not been sent, and its bytes.
        owes: whether something has to be done once the backlog is empty.
    """

    __slots__ = (
        "_closing",
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
        "fd",
        "owes",
    )

    def __init__(self, engine: Engine, sock: socket.socket, protocol: asyncio.BufferedProtocol) -> None:
        self._engine = engine
        self._sock = sock
        self.fd = sock.fileno()
        self._protocol = protocol
        self.backlog: list[Buffer] = []
        self.backlog_size = 0
        self.owes = False
        self._high, self._low = 64 * 1024, 16 * 1024  # asyncio's own
        self._paused_protocol = False
        self._reading = True
        self._closing = False
        self._eof_wanted = False
        self._events = _IN
        # What else has to be there: see `Scanned`. Anything that is not ours is served alone.
        self._stream = cast(Scanned, protocol) if hasattr(protocol, "scanned") else None
        engine.add(self, self.fd)

    # ---- reading ----

    def failed(self, exc: OSError) -> None:
        """Receiving failed."""
        self._end(exc)

    def read_ready(self) -> None:
        """The socket has bytes, or news of its end."""
        if not self._reading:
            self._watch()
            if not self._events:
                self._lost_interest()
            return
        protocol = self._protocol
        try:
            count = self._sock.recv_into(protocol.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._end(exc)
            return
        if count:
            protocol.buffer_updated(count)
            if count <= _SMALL:
                self._settle()
        elif protocol.eof_received():
            self._reading = False
            self._watch()
        else:
            self.close()

    def _settle(self) -> None:
        """What came last was small: C may receive for us, where nothing of it is kept."""
        stream = self._stream
        if stream is not None and self._events >= 0 and stream.inlet.is_idle:
            self._engine.serve_together(self.fd, stream)

    def _lost_interest(self) -> None:
        """The peer is gone and we neither read nor write: epoll would say so again and again, whatever it is asked."""
        self._engine.remove(self.fd)
        self._events = -1

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._watch()

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            if self._events == -1:
                self._engine.add(self, self.fd)
                self._events = _IN
            self._watch()

    def _watch(self) -> None:
        events = (_IN if self._reading else 0) | (_OUT if self.backlog else 0)
        self.owes = self.owes or events & _OUT != 0
        if events != self._events and self._events != -1 and self._sock.fileno() >= 0:
            self._events = events
            self._engine.watch(self.fd, events)

    # ---- writing ----

    def write(self, data: Buffer) -> None:
        if self._closing:
            return
        if self.backlog:
            self._keep([memoryview(data)])
        elif self._engine.is_walking:
            self.backlog = [data]
            self.backlog_size = len(data)  # type: ignore[arg-type]
            self._engine.written.append(self)
        else:
            self._write_now(data)

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        views: list[Buffer] = [memoryview(data) for data in list_of_data]
        if self._closing:
            return
        if self.backlog:
            self._keep(views)
        elif self._engine.is_walking:
            self._engine.written.append(self)
            self._keep(views)
        else:
            sent = self._offer(views)
            if sent is not None and (left := _behind(views, sent)):
                self._keep(left)

    def _write_now(self, data: Buffer) -> None:
        """One segment, when nothing is in its way."""
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._end_soon(exc)
            return
        if sent < len(data):  # type: ignore[arg-type]
            self._keep([memoryview(data)[sent:]])

    def _offer(self, segments: list[Buffer]) -> int | None:
        """How many bytes of it the socket has taken. None: it is broken, and `connection_lost` will say so."""
        try:
            return self._sock.sendmsg(segments[:_MOST_SEGMENTS]) if segments else 0
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            self._end_soon(exc)
            return None

    def _keep(self, views: list[Buffer]) -> None:
        """What has not been sent waits here; the writer never uses that memory again."""
        self.backlog += views
        self.backlog_size += sum(map(len, views))  # type: ignore[arg-type]
        if not self._engine.is_walking:
            self._watch()
        if self.backlog_size > self._high and not self._paused_protocol:
            if self._engine.is_walking:
                self.write_ready()  # nothing has been offered yet, and only the socket knows whether it is full
                return
            self._paused_protocol = self.owes = True
            self._protocol.pause_writing()

    def write_ready(self) -> None:
        """The socket takes bytes, or may."""
        sent = self._offer(self.backlog)
        if sent is not None:
            self._has_sent(sent)

    def sent_together(self, sent: int) -> None:
        """Of the backlog so many bytes have been sent by the engine; or a negated errno says why not."""
        if sent >= 0 or -sent in (errno.EAGAIN, errno.EINTR):
            self._has_sent(max(sent, 0))
        else:
            self._end_soon(OSError(-sent, os.strerror(-sent)))

    def _has_sent(self, sent: int) -> None:
        self.backlog = _behind(self.backlog, sent)
        self.backlog_size -= sent
        if self.backlog:
            self._watch()
            if self.backlog_size > self._high and not self._paused_protocol:
                self._paused_protocol = self.owes = True
                self._protocol.pause_writing()
        if self.owes:
            self.settle_up()

    def settle_up(self) -> None:
        """What waited for the backlog to shrink, or to be empty."""
        if not self.backlog:
            self.owes = False
            self._watch()
            if self._eof_wanted:
                self._shut_down()
            if self._closing:
                self._end_soon(None)
                return
        if self._paused_protocol and self.backlog_size <= self._low:
            self._paused_protocol = False
            self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._eof_wanted:
            self._eof_wanted = self.owes = True
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
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    # ---- the end ----

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._reading = False
            if self.backlog:
                self.owes = True
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
        self._sock.close()
        self._protocol.connection_lost(exc)

    def _let_go(self) -> None:
        """Nothing is read or written any more."""
        self._closing = True
        self._reading = False
        self.backlog = []
        self.backlog_size = 0
        self._engine.remove(self.fd)
        self._events = -1

    # ---- what is known ----

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.BufferedProtocol)
        self._engine.serve_alone(self.fd)
        self._protocol = protocol
        self._stream = cast(Scanned, protocol) if hasattr(protocol, "scanned") else None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self._sock
        if name in ("sockname", "peername") and self._sock.fileno() >= 0:
            try:
                return self._sock.getpeername() if name == "peername" else self._sock.getsockname()
            except OSError:
                return default
        return default

    def __repr__(self) -> str:
        return f"<EngineTransport fd={self.fd}{' closing' if self._closing else ''}>"


def _behind(segments: list[Buffer], sent: int) -> list[Buffer]:
    """What is left when `sent` bytes have gone."""
    for i, segment in enumerate(segments):
        size = len(segment)  # type: ignore[arg-type]
        if sent < size:
            return [memoryview(segment)[sent:], *segments[i + 1 :]]
        sent -= size
    return []


_engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Engine] = weakref.WeakKeyDictionary()


def _engine_of(loop: asyncio.AbstractEventLoop) -> Engine:
    engine = _engines.get(loop)
    if engine is None:
        engine = _engines[loop] = Engine(loop)
    return engine
