"""The engine: all plain sockets of an event loop in one epoll of ours.

An event loop spends more on a socket that is ready (an object for the event, a handle, a context, a queue) than a small
message costs altogether. Here all sockets sit in a private epoll; its one descriptor is registered with the loop,
which then says "something is ready" once, and one crossing into C serves every socket that is:

    event loop --add_reader--> one epoll --zcws_turn: poll, receive, scan--> a table
    a table --walk: each connection's frames wake its task--> what they write --zcws_send_each--> sockets
    sockets --zcws_turn_again: their answers, if they come before the loop could sleep--> a table

The table has two parts. Nearly every socket brings one whole frame and nothing else: those are five words each, and a
loop of a few steps hands them over (`_walk_ones`). All others have an entry of their own and their rows (`_walk`).

C receives for every connection of which nothing is kept (`Inlet.is_idle`). These connections share one ring, the pool's
`common` one: their bytes lie behind each other, and each connection reads its own while the table is walked. Half of a
frame, which networks make of any that is larger than a packet, stays with C until the rest has come. A connection that
is not done with its bytes (half of a large frame, a reader that is busy) keeps the ring, and those behind it move to a
fresh one. It is served by itself (`read_ready`) until it is idle again, and some receives more (`IN_PARTS`). A view
that a program holds changes nothing for its connection: the ring is set aside before the next turn (`_take_ring`).

The sockets themselves are in transport.py, above this: the engine knows them as `Served`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import mmap
import os
import select
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from zcws.aio.gathering import AnySender, Sender, collect, pass_same, places, words_of
from zcws.aio.tasks import may_run_in_itself
from zcws.annotations import Buffer
from zcws.inlet import Inlet
from zcws.kernel import ffi, lib
from zcws.polling import may_poll
from zcws.pool import Pool
from zcws.registry import Registry
from zcws.ring import Ring
from zcws.rows import ROW, Rows, copy_words
from zcws.writer import Writer

if TYPE_CHECKING:
    from zcws.kernel import CData

__all__ = ["IN", "IN_PARTS", "OUT", "Engine", "Scanned", "Served", "engine_of", "is_engine_on", "together"]

#: Descriptors for which there is room at first: most programs have fewer.
_DESCRIPTORS = 256

#: How often a socket that has brought part of a large frame is served by itself after that, before it is served
#: together with others again: networks cut every message of a peer alike, and to change between the two costs more
#: than a receive.
IN_PARTS = 4

#: Seconds: a mark that is not reached (csrc/mark.h) is taken away after one to two of these.
_PATIENCE = 0.01

#: Words of the table of one crossing: 64 sockets with 64 rows each.
_WORDS = 16 * 1024

_HAS_EPOLL = hasattr(select, "epoll")
_ONE, _OTHERS = lib.ZCWS_TURN_ONE, lib.ZCWS_TURN_OTHERS
_ENTRIES, _ENTRY = lib.ZCWS_TURN_ENTRIES, lib.ZCWS_TURN_ENTRY
_SERVE, _FAILED = lib.ZCWS_TURN_SERVE, lib.ZCWS_TURN_FAILED
_HEAD = lib.ZCWS_TABLE_HEAD
_serve_sockets, _serve_again, _send_each = lib.zcws_turn, lib.zcws_turn_again, lib.zcws_send_each
_take_kept = lib.zcws_take_kept
_mark, _unmark, _late = lib.zcws_mark, lib.zcws_unmark, lib.zcws_late
_join: Callable[[Iterable[Buffer]], bytes] = b"".join

#: Bytes of a number that goes to C or comes from there.
_WORD = 8

#: A short entry: descriptor, what, begin, start, stop.
_One = tuple[int, int, int, int, int]
_ones_of: Callable[[bytes], Iterator[_One]] = Struct(f"{_ONE}Q").iter_unpack

#: `zcws_turn`, or `zcws_turn_again` and what is learnt of it.
_Serve = Callable[["CData"], int]

#: What a socket is watched for.
IN, OUT = (select.EPOLLIN, select.EPOLLOUT) if _HAS_EPOLL else (1, 4)


def is_engine_on(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Whether there is an engine here, on `loop`, and nobody has turned it off.

    Not where a function that is shown a message may run the loop again: one callback serves all of the engine's
    sockets, so those that the inner run waits for would not be served. On transports of the loop each has its own.
    """
    return _HAS_EPOLL and os.environ.get("ZCWS_ENGINE") != "0" and not may_run_in_itself(loop)


def together(loop: asyncio.AbstractEventLoop) -> AbstractContextManager[Engine | None]:
    """What the engine's connections of `loop` write inside of this goes out at its end, in one crossing.

    Gives the engine, if there is one and nothing else goes out in the same crossing: see `Engine.send_same`.
    """
    engine = _maybe_engine_of(loop)
    return nullcontext() if engine is None else _Together(engine)


class Scanned(Protocol):
    """A protocol for which bytes can be received and scanned together with those of others.

    Attributes:
        inlet: where its bytes go. writer: where what it writes waits until the engine takes it.
    """

    @property
    def inlet(self) -> Inlet: ...
    @property
    def writer(self) -> Writer: ...

    def arrived(self, ring: Ring, what: int, begin: int, start: int, stop: int) -> bool:
        """One whole data frame and nothing else was received: bytes begin..stop, its payload from `start` on.

        Returns whether the connection is idle again.
        """
        ...

    def scanned(self, ring: Ring, begin: int, stop: int, count: int, words: Rows) -> bool:
        """The rows of what was received; see `Inlet.take_scan`. Returns: as `arrived`."""
        ...

    def landed(self, count: int, outcome: int) -> None:
        """More of a large payload was received straight into its buffer; see `Inlet.landed`."""
        ...

    def writing_failed(self, exc: OSError) -> None:
        """Nothing can be sent any more. What the peer has said before is still received. Called from inside a write."""
        ...


class Served(Sender, Protocol):
    """A socket of the engine.

    Attributes:
        alone_for: how many receives are to come before it may be served together with others.
    """

    alone_for: int

    def read_ready(self) -> None:
        """It has bytes, or news of its end."""
        ...

    def failed(self, exc: OSError) -> None:
        """Receiving failed."""
        ...


class Engine:
    """All sockets of one event loop that are ours.

    Attributes:
        is_walking: whether connections are getting their rows; what is written meanwhile goes out after that.
        is_sending: whether a crossing is being made: what has been taken for it is neither with its writer nor in a
            backlog. What a signal handler or a finalizer writes meanwhile stays with the writer, and goes out after it.
        has_received: whether what is sent next may be an answer: see `expect_answers`.
        written: those that have written something meanwhile, each once.
        shares: whether several of them may have been given the same bytes, because somebody broadcasts.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weakly: an engine lives as long as its loop (`_engines`), and must not keep it alive.
        self._loop = weakref.ref(loop)
        self._epoll = select.epoll()
        self._transports: dict[int, Served] = {}
        self._only = -1  # the only socket there is, if the event loop watches it directly
        self._is_listening = False  # the event loop watches the epoll
        self._is_alone = False  # there is such an `_only` one, and it is not in `_together`
        self._together: dict[int, Scanned] = {}  # those for which C receives
        self._fresh: set[int] = set()  # descriptors added while a table is walked, which knows older ones
        self._pool: Pool | None = None
        self._ring: Ring | None = None  # the pool's common one, which C knows too
        self._readers = ffi.new("struct zcws_reader *[]", _DESCRIPTORS)
        self._table = ffi.new("uint64_t[]", _WORDS)
        self._bytes = ffi.buffer(self._table)
        self._words = memoryview(self._bytes).cast("B").cast("Q")
        self._first = self._words[:_ONE]  # the first short entry
        self._sockets = ffi.new("struct zcws_sockets *")
        self._sockets.epoll = self._epoll.fileno()
        self._sockets.only = self._only
        self._sockets.readers, self._sockets.count = self._readers, _DESCRIPTORS
        self._sockets.table, self._sockets.words = self._table, _WORDS
        # 16 MiB, of which few loops need much. Memory of the heap would be cleared, and so in use.
        memory = mmap.mmap(-1, lib.ZCWS_SLOTS * lib.ZCWS_KEPT_MOST, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._slots = ffi.from_buffer(memory)
        self._sockets.slots, self._sockets.frees = ffi.cast("uint8_t *", self._slots), lib.ZCWS_SLOTS
        self._sockets.free = list(range(lib.ZCWS_SLOTS))
        self.is_walking: bool = False
        self.is_sending: bool = False
        self.has_received: bool = False
        self._is_expecting = False  # `_turn_again` comes next
        self._looks_at_marks = False  # `_look_at_marks` comes soon
        # Of so many answers no answer is expected.
        self._resting: float = 0 if may_poll() else math.inf
        self.written: dict[Sender, None] = {}
        self.shares: bool = False
        # An exception that is to end the loop: it is raised when all others of the same turn have been served.
        self._last_word: BaseException | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        loop = self._loop()
        assert loop is not None  # whoever asks was called by it
        return loop

    def add(self, transport: Served, fd: int) -> None:
        """Watches a socket for bytes to read. Raises: OSError, if the system has no room for it: it is not ours."""
        self._epoll.register(fd, IN)
        if not self._transports:
            _idle.pop(self.loop(), None)
        self._transports[fd] = transport
        if self.is_walking:
            self._fresh.add(fd)
        try:
            if len(self._transports) == 1:
                self._listen(fd)
            elif self._only >= 0:
                self._listen(-1)
        except BaseException:
            self.remove(fd)
            raise

    def watch(self, fd: int, events: int) -> None:
        """Changes what a socket is watched for."""
        if not events & IN:
            # C may have left it for the next turn, and does not ask again whether it is ready.
            self.serve_alone(fd)
        # Where it is watched for anything else than bytes to read, the epoll has to be asked which it is.
        self._listen(fd if events == IN and len(self._transports) == 1 else -1)
        if self._only != fd:
            self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forgets a socket that is about to be closed."""
        if self._transports.pop(fd, None) is not None:
            self.serve_alone(fd)
            if self._sockets.marks:
                _unmark(self._sockets, fd, ffi.NULL, False)
            self._epoll.unregister(fd)
            if self._transports and self._only < 0:
                return  # the event loop watches the epoll, and goes on
            loop = self.loop()
            if not self._transports:
                _idle[loop] = self
            if not loop.is_closed():
                self._listen(-1)

    def close(self) -> None:
        """Its loop is closed, and it has no sockets."""
        self._epoll.close()

    def disown(self) -> None:
        """In a child process: the sockets and the epoll are the parent's, and what is done here must not affect
        them."""
        self._transports.clear()
        for fd in self._together:
            self._readers[fd] = ffi.NULL
        self._together.clear()
        self._sockets.marks = 0
        self._pool = self._ring = None

    def _listen(self, only: int) -> None:
        """Has the event loop watch the epoll and, if there is an `only` socket, that too, which saves a detour.

        The epoll then reports nothing of that socket but its end, which uvloop reports only once, even if there are
        bytes before it.
        """
        loop, before = self.loop(), self._only
        self._only = self._sockets.only = only
        self._is_alone = only >= 0 and only not in self._together
        if only != before:
            if before >= 0:
                loop.remove_reader(before)
                if before in self._transports:
                    self._epoll.modify(before, IN)
            if only >= 0:
                self._epoll.modify(only, 0)
                loop.add_reader(only, self._turn)
        if bool(self._transports) != self._is_listening:
            self._is_listening = not self._is_listening
            if self._is_listening:
                loop.add_reader(self._epoll.fileno(), self._turn)
            else:
                loop.remove_reader(self._epoll.fileno())

    # ---- one crossing for all ----

    def serve_together(self, fd: int, stream: Scanned) -> None:
        """From now on C receives for this socket, whose connection is idle."""
        if fd in self._fresh:
            return  # the table that is walked may have rows of an older socket with that number
        inlet = stream.inlet
        if self._pool is None:
            self._pool = inlet.pool
        if self._pool is not inlet.pool:
            return  # it would give the common ring to a pool that does not know it
        if fd >= len(self._readers):
            self._grow(fd)
        self._readers[fd] = inlet.state
        self._together[fd] = stream
        self._is_alone = False

    def serve_alone(self, fd: int) -> None:
        """From now on this socket is served by `read_ready`."""
        if (stream := self._together.pop(fd, None)) is not None:
            self._readers[fd] = ffi.NULL
            self._is_alone = self._only >= 0
            inlet = stream.inlet
            if size := inlet.state.kept:
                inlet.take_begun(_take_kept(self._sockets, inlet.state), size)

    def _grow(self, fd: int) -> None:
        old = self._readers
        self._readers = ffi.new("struct zcws_reader *[]", 2 * fd)
        self._readers[0 : len(old)] = old
        self._sockets.readers, self._sockets.count = self._readers, 2 * fd

    def _turn(self, serve: _Serve = _serve_sockets) -> None:
        """Serves the sockets that are ready."""
        pool = self._pool
        if self._is_alone:
            self._serve(self._only, _SERVE, IN)
        elif pool is None:
            self._serve_each()
        else:
            ring = self._ring
            if pool.common is not ring or ring is None or (ring.exports and ring.is_exported):
                ring = self._take_ring(pool)
            if ring is None:
                self._serve_each()  # whoever has a ring goes on, and whoever needs one ends alone
            else:
                found = serve(self._sockets)
                if found:
                    self.has_received = True
                try:
                    if found == 1:
                        # `_walk_ones` for one: nobody was served before it, and nobody comes after.
                        fd, what, begin, start, stop = self._first.tolist()
                        stream = self._together[fd]
                        try:
                            if not stream.arrived(ring, what, begin, start, stop):
                                self._kept(pool, ring, fd, stream)
                        except BaseException as exc:
                            self._broke(pool, fd, exc)
                    elif not found:
                        pass  # a part of a frame, most likely, which C keeps
                    elif self._only >= 0:
                        self._walk(pool, ring, self._others())
                    else:
                        self._serve_many(pool, ring, found)
                except MemoryError as exc:
                    self._lose(pool, found, exc)
                if found > 1 and self._sockets.left:
                    # Those that were ready as well, but found no room. Peers that are always ready would otherwise keep
                    # them waiting for as many turns of the loop, in each of which all that those have sent is handled.
                    self._turn()
        if self._sockets.marks:
            self._expect_marks()
        if self._last_word is not None:
            last_word, self._last_word = self._last_word, None
            raise last_word

    # ---- what the kernel collects ----

    def mark(self, fd: int, stream: Scanned, count: int, *, lands: bool = False) -> None:
        """`count` bytes were received from a socket that is served by itself. If they are only part of a large frame,
        the kernel collects what comes next. See csrc/mark.h."""
        _mark(self._sockets, fd, stream.inlet.state, count, 0, lands)

    def unmark(self, fd: int, stream: Scanned) -> None:
        """What comes next is wanted at once, even if it is little."""
        if self._sockets.marks:
            _unmark(self._sockets, fd, stream.inlet.state, False)

    def _expect_marks(self) -> None:
        """Those that are set have to be reached soon."""
        if not self._looks_at_marks:
            with contextlib.suppress(MemoryError):  # the next turn tries again
                self.loop().call_later(_PATIENCE, self._look_at_marks)
                self._looks_at_marks = True

    def _look_at_marks(self) -> None:
        self._looks_at_marks = False
        if _late(self._sockets):
            self._turn()
        elif self._sockets.marks:
            self._expect_marks()

    def expect_answers(self) -> None:
        """Something was sent that may be an answer to what was received, and its own answer may come before the loop
        could sleep and be woken, if the peer is on the same machine. Where that was so lately, we try for a moment, as
        soon as everybody else has run."""
        self.has_received = False
        if self._resting:
            self._resting -= 1
        elif not self._is_expecting:
            with contextlib.suppress(MemoryError):
                self.loop().call_soon(self._turn_again)
                self._is_expecting = True

    def _turn_again(self) -> None:
        self._is_expecting = False
        if not self._is_alone:
            self._turn(self._try_for_a_moment)

    def _try_for_a_moment(self, sockets: CData) -> int:
        found: int = _serve_again(sockets)
        self._resting = self._sockets.waits.resting
        return found

    def _take_ring(self, pool: Pool) -> Ring | None:
        """Takes another common ring: a connection has kept the last one, or somebody a view of it. None: there is no
        memory for one."""
        self._ring = None
        held, pool.common = pool.common, None
        try:
            if held is not None:
                pool.set_aside(held)  # or it is left to its holders
            self._ring = ring = pool.common = pool.lease()
        except MemoryError:
            return None
        self._sockets.base, self._sockets.capacity = ring.base, ring.capacity
        return ring

    def _serve_many(self, pool: Pool, ring: Ring, found: int) -> None:
        ones = found % _OTHERS
        is_inner, self.is_walking = self.is_walking, True
        pool.walked = ring
        try:
            if ones:
                self._walk_ones(pool, ring, _ones_of(self._bytes[: _WORD * _ONE * ones]))
            if found >= _OTHERS:
                self._walk(pool, ring, self._others())
        finally:
            pool.walked = None
            if not is_inner:
                self.end_walk()

    def _others(self) -> Rows:
        """The table's entries of those that did not bring one whole frame and nothing else."""
        return copy_words(self._words[_ENTRIES : _ENTRIES + self._sockets.used])

    def _serve_each(self) -> None:
        """Serves the sockets that are ready, where there is none that C could receive for, or no ring to receive in."""
        if self._only >= 0:
            self._serve(self._only, _SERVE, IN)
        for fd, events in self._epoll.poll(0, lib.ZCWS_TURN_MOST):
            self._serve(fd, _SERVE, events)

    def _walk_ones(self, pool: Pool, ring: Ring, entries: Iterator[_One]) -> None:
        """Hands over single frames, of which nearly all traffic consists."""
        streams = self._together
        for fd, what, begin, start, stop in entries:
            stream = streams.get(fd)
            try:
                # None: closed by one that was served before it.
                if stream is None or stream.arrived(ring, what, begin, start, stop):
                    continue
                self._kept(pool, ring, fd, stream)
            except BaseException as exc:
                self._broke(pool, fd, exc)
            if pool.common is not ring:
                # A connection keeps the ring: those behind it move to a fresh one, as entries of the other kind.
                self._walk(pool, ring, _as_entries(entries))

    def _walk(self, pool: Pool, ring: Ring, words: Rows) -> None:
        """Hands all other connections their rows."""
        streams, at, used = self._together, 0, len(words)
        while at < used:
            fd, begin, stop, count, end = words[at : at + _ENTRY]
            rows = words[at + _ENTRY : end]
            at = end
            if count >= _SERVE:
                self._serve(fd, count, stop)
                continue
            stream = streams.get(fd)
            if stream is None:
                continue  # closed by one that had its rows before
            try:
                # A connection that keeps the ring receives on behind its own bytes: no view may show what lies there.
                if pool.common is not ring or (ring.exports and ring.is_exported):
                    moved, kept = pool.lease(), stream.inlet.state.kept
                    moved.memory[: stop + kept - begin] = ring.memory[begin : stop + kept]
                    if not stream.scanned(moved, 0, stop - begin, count, _moved(rows, begin)):
                        self.serve_alone(fd)
                elif not stream.scanned(ring, begin, stop, count, rows):
                    self._kept(pool, ring, fd, stream)
            except BaseException as exc:
                self._broke(pool, fd, exc)

    def _lose(self, pool: Pool, found: int, exc: MemoryError) -> None:
        """There is no memory to hand over what was received. Every connection that it was for ends, whether it was
        handed over or not: none may go on behind a gap."""
        words, at, used = self._words, _ENTRIES, _ENTRIES + self._sockets.used
        for i in range(found % _OTHERS):
            self._broke(pool, words[_ONE * i], exc)
        while at < used:
            if words[at + 3] < _SERVE:
                self._broke(pool, words[at], exc)
            at = _ENTRIES + words[at + 4]

    def _kept(self, pool: Pool, ring: Ring, fd: int, stream: Scanned) -> None:
        self.serve_alone(fd)
        if (transport := self._transports.get(fd)) is not None:  # it may have been closed meanwhile
            transport.alone_for = IN_PARTS
        if stream.inlet.holds(ring):
            pool.common = None

    def _broke(self, pool: Pool, fd: int, exc: BaseException) -> None:
        pool.common = None  # the connection may have kept it, or not
        self._fail(self._transports.get(fd), exc)

    def _fail(self, transport: Served | None, exc: BaseException) -> None:
        if not isinstance(exc, Exception):
            self._last_word = exc
        if transport is not None:
            transport.broke(exc)

    def _serve(self, fd: int, how: int, what: int) -> None:
        """Serves a socket that C did not receive for."""
        transport = self._transports.get(fd)
        if transport is None or fd in self._fresh:
            return  # closed by one that was served before it
        if how == _FAILED:
            transport.failed(OSError(what, os.strerror(what)))
            return
        try:
            if what & OUT:
                transport.write_ready()
            if what & ~OUT:
                # C may have been receiving for this socket, which was ready to write as well. If it keeps half a frame
                # now, it has to be served by itself, until `read_ready` finds it idle again.
                self.serve_alone(fd)
                transport.read_ready()
        except BaseException as exc:
            self._fail(transport, exc)

    def end_walk(self) -> None:
        """Sends what has been written, in one crossing; what is written meanwhile, in another."""
        self.is_walking = False
        self._fresh.clear()
        while self.written:
            self.is_walking = self.is_sending = True
            try:
                self._send_written()
            finally:
                self.is_walking = self.is_sending = False

    def _send_written(self) -> None:
        if self.has_received:
            self.expect_answers()
        written, self.written = self.written, {}
        shares, self.shares = self.shares, False
        fds: list[int] = []
        parts: list[Buffer] = []
        self._take_written(written, fds, parts)
        if fds:
            self._send_together(fds, parts, shares)

    def _take_written(self, written: Collection[Sender], fds: list[int], parts: list[Buffer]) -> None:
        try:
            collect(written, fds, parts)
        except BaseException as exc:
            # What their writers have given away by now will not be sent: nothing may follow that.
            for transport in written:
                transport.broke(exc)
            raise

    def _send_together(self, fds: list[int], parts: list[Buffer], shares: bool) -> None:
        """One crossing for all `parts`, each of which is for one of `fds`."""
        begins: CData | bytes = ffi.NULL
        count, distinct = len(fds), parts
        try:
            if shares:
                begins, distinct = places(parts)
            data = _join(distinct)
            orders = words_of[2 * count](*fds, *map(len, parts))  # type: ignore[arg-type]
        except MemoryError:
            self._keep_each(fds, parts)
            return
        self._send_to_all(fds, parts, orders, begins, data)

    def send_same(
        self, senders: list[AnySender], frame: bytes, deflated: tuple[int, int] | None
    ) -> list[AnySender]:
        """Sends one message, framed, for many senders, most of which have nothing else to send: in one crossing, past
        their writers' output.

        Not while a table is walked: then it goes out together with what they answer.

        Args:
            deflated: as in `pass_same`.

        Returns: the senders with something in its way; their writers have not been given the message.
        """
        if len(set(senders)) < len(senders):
            # A socket that does not take all of the first copy must not be sent a second in the same crossing.
            return senders
        self.is_sending = True
        try:
            try:
                fds, others = pass_same(senders, len(frame), deflated)
                count = len(fds)
                parts: list[Buffer] = [frame] * count
            except BaseException as exc:  # as in `_take_written`
                for transport in senders:
                    transport.broke(exc)
                raise
            try:
                orders = words_of[2 * count](*fds, *repeat(len(frame), count))
                begins = bytes(_WORD * count)
            except MemoryError:
                self._keep_each(fds, parts)
            else:
                self._send_to_all(fds, parts, orders, begins, frame)
        finally:
            self.is_sending = False
        return others

    def _keep_each(self, fds: list[int], parts: list[Buffer]) -> None:
        """There is no memory for a crossing: each part waits until its socket takes bytes."""
        for fd, part in zip(fds, parts, strict=True):
            self._sent_together(fd, part, 0)

    def _send_to_all(
        self, fds: list[int], parts: list[Buffer], orders: bytes, begins: CData | bytes, data: bytes
    ) -> None:
        """Makes the crossing. It stops at a socket that is full or broken, which is rare: another one goes on behind
        that.

        The transport of such a socket is told after all sends: that may close another socket, whose number a new one
        may get.
        """
        unsent: list[tuple[int, int]] = []
        try:
            stopped = _send_each(orders, begins, len(fds), data, 0)
            while stopped >= 0:
                at, sent = divmod(stopped, 1 << 32)
                unsent.append((at, sent - (1 << 31)))
                stopped = _send_each(orders, begins, len(fds), data, at + 1)
        except BaseException as exc:  # nobody knows whose bytes have all been sent: nothing may follow them
            for fd in fds:
                if (transport := self._transports.get(fd)) is not None:
                    transport.broke(exc)
            raise
        for at, sent in unsent:
            self._sent_together(fds[at], parts[at], sent)

    def _sent_together(self, fd: int, data: Buffer, sent: int) -> None:
        transport = self._transports.get(fd)
        try:
            if transport is not None:
                transport.sent_together(data, sent)
        except BaseException as exc:  # its rest is lost, and nothing may follow that
            self._fail(transport, exc)


class _Together:
    """What is written inside of this goes out at its end, in one crossing. Several may be given the same bytes."""

    __slots__ = ("_engine", "_is_inner")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Engine | None:
        engine = self._engine
        self._is_inner, engine.is_walking = engine.is_walking, True
        engine.shares = True
        return None if self._is_inner else engine

    def __exit__(self, *_: object) -> None:
        if not self._is_inner:
            self._engine.end_walk()


def _as_entries(ones: Iterator[_One]) -> list[int]:
    """Short entries as the other kind: an entry, the head of a scan with nothing behind its row, the row."""
    words: list[int] = []
    for fd, what, begin, start, stop in ones:
        end = len(words) + _ENTRY + _HEAD + ROW
        words += (fd, begin, stop, 1, end, stop, lib.ZCWS_MORE, 0, 0, what, start, stop)
    return words


def _moved(table: Rows, begin: int) -> list[int]:
    """The table of bytes that began at `begin` and have been moved to 0: somebody before them has kept the ring."""
    words = list(table)
    words[lib.ZCWS_TABLE_NEXT] -= begin
    for i in range(_HEAD, len(words), ROW):
        words[i + 1] -= begin
        words[i + 2] -= begin
    return words


#: An engine with sockets is kept alive by them and by the loop, which calls it. If it were kept here too, it would keep
#: the loop, which is the key, by its connections, and both for ever. An engine without sockets knows its loop only
#: weakly, and is kept in `_idle`.
_engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Engine]]
_engines = weakref.WeakKeyDictionary()
_idle: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Engine] = weakref.WeakKeyDictionary()
_all: Registry[Engine] = Registry()


def _maybe_engine_of(loop: asyncio.AbstractEventLoop) -> Engine | None:
    engine = _engines.get(loop)
    return None if engine is None else engine()


def engine_of(loop: asyncio.AbstractEventLoop) -> Engine:
    """The one engine of `loop`."""
    engine = _maybe_engine_of(loop)
    if engine is None:
        _close_those_of_closed_loops()
        engine = _idle[loop] = Engine(loop)
        _engines[loop] = weakref.ref(engine)
        _all.add(engine)
    return engine


def _close_those_of_closed_loops() -> None:
    """Nobody says when a loop is closed, and its engine goes with the loop. On PyPy that is when the collector has come
    several times: the epolls of hundreds of loops, one after the other, were open by then."""
    for known in _idle.keyrefs():
        loop = known()
        if loop is not None and loop.is_closed() and (engine := _idle.pop(loop, None)) is not None:
            engine.close()


def _disown_all() -> None:
    global _engines, _idle
    for engine in _all.after_in_child():
        engine.disown()
    # An inherited loop gets an engine of its own: the epoll of this one is its parent's, too.
    _engines, _idle = weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_all.before_fork, after_in_child=_disown_all)
