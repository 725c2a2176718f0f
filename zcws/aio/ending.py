"""The end of a connection on asyncio, and the Pings that detect it.

The core says when both Close frames have passed or the peer broke a rule (`Connection.wants_close`); then a server ends
its side of the TCP connection first (RFC 6455 7.1.1) and a client waits for that. Every wait is bounded by
`close_timeout`, counted from the Close, and counted anew while the peer goes on reading what stands before the Close.

The peer's Close may stand behind messages that have not been read. How long it waits for them:

    the program                                                       the Close takes effect
    ----------------------------------------------------------------  --------------------------------------------
    reads                                                             when it has read them, `close_timeout` at most
    has never read since the connection opened (it pushes)            after `GRACE`, if that is shorter, and unless a
                                                                      Close of ours is out
    waits in `wait_closed`, and nobody reads                          at once

A Close with no unread messages before it takes effect at once, but behind the sends that wait for room (outlet.py).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from zcws.aio.below import end_writing, has_all, has_unread
from zcws.aio.deadlines import Deadlines, deadlines_of
from zcws.aio.keepalive import Keepalive, Pings
from zcws.aio.outlet import Outlet
from zcws.aio.settings import Options
from zcws.closing import GRACE, LINGER, State
from zcws.codes import CloseCode
from zcws.connection import Connection
from zcws.errors import NO_PONG
from zcws.tcp_info import MUCH, Counts, counts

__all__ = ["Ending"]


class Ending(Outlet):
    """A connection on its transport, as far as it may end."""

    __slots__ = ("_confirmed", "_deadline", "_gone", "_heard_at", "_keepalive", "_left", "_ping_at", "_pings")

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Connection, options: Options) -> None:
        super().__init__(loop, connection, options)
        self._pings: Pings | None = None
        self._keepalive: Keepalive | None = None
        self._deadline: Deadlines | None = None  # the closing handshake may not take for ever
        # For keepalive: the bytes that had been received, and confirmed, when it last asked.
        self._heard_at = self._confirmed = 0
        # The bytes of ours that stand before the first Ping since the last sign of life; inf: there is none.
        self._ping_at = math.inf
        # Bytes that the transport had given to the socket when the deadline began; -1: it was not full.
        self._gone = -1
        self._left = Counts()  # what the peer's system had not confirmed when the deadline began

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ours from now on."""
        super().connection_made(transport)
        options = self._options
        if options.ping_interval is not None:
            self._keepalive = Keepalive(
                self._loop, self, interval=options.ping_interval, timeout=options.ping_timeout
            )

    # ---- for a subclass: stream.py has these five ----

    def _resume_reading(self) -> None:
        """There is room for more."""
        raise NotImplementedError

    def _after_bytes(self) -> bool:
        """Everybody who waits for what has arrived gets it now."""
        raise NotImplementedError

    def _keep_left(self) -> None:
        """The socket is about to be closed: keeps what the peer had said when nothing could be sent any more, if the
        program is slow and may still read it."""
        raise NotImplementedError

    @property
    def _was_never_read(self) -> bool:
        """Whether nobody has read since the connection opened, and nobody waits to read."""
        raise NotImplementedError

    @property
    def _is_given_up(self) -> bool:
        """Whether the program waits for the end, and nobody reads."""
        raise NotImplementedError

    # ---- closing ----

    def _close_sent(self) -> None:
        self._resume_reading()
        self._advance_closing()

    def _on_bridge(self) -> None:
        is_owed = not self.connection.is_split and self.writer.sent_close is None
        if is_owed and self._deadline is not None and self._reader.is_concluded and not self._is_stuck:
            # What stood before the peer's Close has been read and answered in time; the answers, too, have their time.
            self._stop_deadline()
            self._start_deadline()
        super()._on_bridge()

    def _advance_closing(self) -> None:
        """Takes the next step towards a closed socket, if it is time for one."""
        transport, connection = self._transport, self.connection
        if transport is None:
            return
        if self._is_given_up:
            self._reader.conclude()  # nothing, while more may come
        if self.writer.out:
            self._flush()
        if connection.wants_close or (self._reader.is_concluded and not connection.awaits_writer):
            self._stop_keepalive()
            self._resume_reading()
            if connection.state is State.LOST and self._reading_paused and self._is_given_up:
                # Nothing can be sent, there is no room for what the peer may have said last, and nobody makes room.
                transport.abort()
                return
            self._start_deadline()
            if self._may_close(transport):
                # If asyncio's TLS is closed twice, it cannot be aborted any more. A socket of the engine says that it
                # is closing when nothing can be sent any more, and has to be closed then.
                if self._own is not None or not transport.is_closing():
                    transport.close()
            elif not connection.is_client and not transport.is_closing() and not self._is_lingering:
                # RFC 6455 7.1.1: the server closes first; what is on its way is still read.
                end_writing(transport)
        else:
            # Only our Close is out; or the peer's, or its mistake, stands behind messages that nobody reads; or the
            # reply to it waits on the bridge, and the half that should send it does not.
            self._start_deadline()

    def _may_close(self, transport: asyncio.Transport) -> bool:
        """Whether the socket may be closed now: the peer has ended its side, or we need not wait for that."""
        connection = self.connection
        waits_for_peer = connection.is_client or transport.can_write_eof()
        return self._reader.is_at_eof or not (waits_for_peer or self._is_lingering)

    @property
    def _is_lingering(self) -> bool:
        """Whether the peer has broken a rule, has been told so, and may still be sending something long."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.can_write_eof():
            return False
        return self._reader.is_faulty and self._reader.is_concluded and not self.connection.is_client

    def _start_deadline(self) -> None:
        timeout = self._time_to_close()
        if self._deadline is not None and self._deadline.timeout != timeout:
            self._stop_deadline()  # the end has taken effect, or somebody has begun to read: another time counts
        if self._deadline is None and timeout is not None and self._transport is not None:
            self._gone = -1 if self._drained is None else self.writer.taken - self._bytes_waiting()
            # Who has sent little has nothing under way, and need not ask the system. A stream of HTTP/2 would be told
            # of all streams.
            is_alone = getattr(self._transport, "below", None) is None
            self._left = self._counts() if is_alone and self.writer.taken >= MUCH else Counts()
            deadlines = deadlines_of(self._loop, self._reader.pool, timeout)
            deadlines.add(self)
            self._deadline = deadlines  # only now: there may be no memory to wait there

    def _time_to_close(self) -> float | None:
        """Seconds until something has to happen; None for ever."""
        timeout, reader = self._options.close_timeout, self._reader
        if self._is_lingering:
            return LINGER if timeout is None else min(timeout, LINGER)
        if (timeout is not None and timeout <= GRACE) or reader.is_concluded or not self._was_never_read:
            return timeout
        # A Close of ours has the full time: what was sent before it may still be under way to a peer that reads slowly.
        return GRACE if self.writer.sent_close is None else timeout

    def deadline_passed(self) -> None:
        """For `Deadlines`: the closing handshake has taken `close_timeout`, or the peer's Close has waited `GRACE`."""
        deadline, self._deadline = self._deadline, None
        assert deadline is not None  # it has called us
        # What we have to send could not go out in all that time.
        is_stuck = self._is_stuck and deadline.timeout == self._options.close_timeout
        if self._reader.is_ending and not self._reader.is_concluded:
            if deadline.timeout != GRACE or self._time_to_close() == GRACE:
                self._reader.conclude()
            if is_stuck:
                self.abort()
            else:
                self._advance_closing()
        elif self.connection.bridge.slot and not self.connection.hold_replies:
            # After a split: the half that should have sent the reply has not.
            self.connection.drain_bridge()
            self._advance_closing()
            if self._deadline is None:
                self.abort()  # the reply was a Pong behind our Close: nothing else will end this
        elif self._is_taking:
            self._start_deadline()  # our Close stands behind what the peer is still reading
        elif self._is_lingering and not is_stuck and self._transport is not None:
            self._transport.close()
            self._start_deadline()
        elif self.connection.state is State.LOST:
            self._keep_left()
            super().abort()  # the program has not: a function of it is shown what is left
        else:
            self.abort()

    @property
    def _is_taking(self) -> bool:
        """Whether the peer has taken much since the deadline began: of what filled the transport then, or of what our
        system had."""
        if self._gone >= 0 and self.writer.taken - self._bytes_waiting() - self._gone >= MUCH:
            return True
        if self._left.unconfirmed < MUCH:
            return False
        now = self._counts()
        # If nothing is unconfirmed any more, the peer has our Close, and does not answer.
        return bool(now.unconfirmed) and now.confirmed - self._left.confirmed >= MUCH

    @property
    def _is_stuck(self) -> bool:
        """Whether the transport was full when the deadline began and still is, and the peer has taken little since."""
        return self._gone >= 0 and self._drained is not None and not self._is_taking

    def _stop_keepalive(self) -> None:
        if self._keepalive is not None:
            self._keepalive.stop()
            self._keepalive = None

    def _stop_timers(self) -> None:
        self._stop_keepalive()
        self._stop_deadline()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.remove(self)
            self._deadline = None

    # ---- keepalive ----

    def heard(self) -> bool:
        """For `Keepalive`."""
        heard, waiting = self._reader.bytes_received, self._bytes_waiting()
        sent = self.writer.taken - waiting
        # If bytes waited last time and some have gone since, the peer has made room. If none waited, sending proves
        # nothing.
        is_alive = heard != self._heard_at or self._sent_at not in (-1, sent)
        self._heard_at, self._sent_at = heard, sent if waiting else -1
        if is_alive:
            self._ping_at = math.inf
        return self._has_taken_much() or is_alive or (self._reading_paused and not waiting)

    def _has_taken_much(self) -> bool:
        """Whether the peer's system has confirmed more than a Ping since this was last asked: the peer takes what our
        system has accepted before. On a socket of the engine only what stands before the first unanswered Ping counts:
        when the peer's system has that Ping, it is the peer's program that does not answer."""
        before, self._confirmed = self._confirmed, self._counts().confirmed
        counted = self._confirmed if self._own is None else min(self._confirmed, self._ping_at)
        return counted - before >= MUCH

    def _counts(self) -> Counts:
        own, transport = self._own, self._transport
        assert transport is not None  # the Pings end with it
        return counts(transport.get_extra_info("socket")) if own is None else own.counts()

    def has_unread(self) -> bool:
        """For `Keepalive` and `Deadlines`. While reading is paused, unread bytes prove nothing: they may have lain
        there for long."""
        transport = self._transport
        assert transport is not None
        if self._reading_paused or self._reader.is_ending:
            return False
        ask: Callable[[], bool] | None = getattr(transport, "has_unread", None)
        return has_unread(transport.get_extra_info("socket")) if ask is None else ask()

    def send_keepalive(self) -> bool:
        """For `Keepalive`."""
        # A peer that has said Close, or ended the stream, says nothing more: no Pong either.
        if self.connection.state is not State.OPEN or self._reader.is_ending:
            return False
        transport = self._transport
        assert transport is not None
        if self._reading_paused and has_all(transport):
            # asyncio's TLS reports the end only when reading goes on, and drops what is written meanwhile.
            transport.abort()
            return False
        if self._was_never_read:
            # Nobody has asked for a frame in all that time: Pings and Pongs need not be kept, nor a ring for them.
            self._reader.keeps_controls = False
        pings = self._need_pings()
        payload = pings.fresh_payload()
        pings.sent_keepalive(payload)
        if self._drained is None:
            if self._ping_at == math.inf:
                known = self._counts()
                self._ping_at = known.confirmed + known.unconfirmed + self._bytes_waiting() + self.writer.size
            self.connection.ping(payload)
            self._written()
        return True

    def keepalive_failed(self) -> None:
        """For `Keepalive`."""
        if self._reader.is_ending:
            return  # the peer's Close stands behind what nobody has read, and has a deadline of its own
        self.connection.fail(CloseCode.INTERNAL_ERROR, NO_PONG)
        self._flush()
        self._after_bytes()
        self._start_deadline()

    def _need_pings(self) -> Pings:
        if self._pings is None:
            self._pings = Pings()
            self._reader.on_pong = self._pings.answered
        return self._pings
