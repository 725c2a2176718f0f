"""TLS of our own, between a transport of bytes and whoever speaks over it.

`Tls` is the protocol of the transport below and a transport for the protocol above; OpenSSL's object stands between two
buffers in memory. Below is a socket of the engine, one of the event loop, or another `Tls` (an HTTPS proxy). It serves
stock asyncio, and the proxy on every loop (`has_better`). What the loops' own TLS cannot express is as on a plain
socket:

    what                                     here
    ---------------------------------------  -------------------------------------------------------------------------
    how much waits, and when that is much    the transport below says, of ciphertext
    the peer's close_notify                  the end of what it says, and only that: what it is owed still goes out
    our close_notify                         `write_eof`, with a FIN behind it; what the peer says then is still read
    reading is paused                        nothing is handed over, no end either, until it goes on
    a socket that takes nothing more         is still read, where the transport below does that

A close_notify closes one direction, RFC 8446 6.1 says. A peer that ends the TCP stream without one has closed it too:
WebSocket's own Close shows whether anything was cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from zcws.acceptor import IN_THE_CLEAR
from zcws.aio.below import RECORD, held_back, left_behind, left_in
from zcws.aio.deadlines import Deadline
from zcws.aio.pacing import pace
from zcws.aio.tasks import fail
from zcws.annotations import Buffer
from zcws.failures import forget_errors
from zcws.output import to_slice
from zcws.seldom import Seldom

__all__ = ["Tls", "has_better"]

logger: logging.Logger = logging.getLogger("zcws.server")

#: The most bytes that one read brings, and that are encrypted at a time. OpenSSL's buffers keep the largest size they
#: have had, and a third more: after messages of 1 MB a connection kept 730 KiB with asyncio's 256 KiB here, and 240 KiB
#: with this, for the same CPU. A message of 64 KiB still goes, and comes, in one.
_PART = 80 * 1024

#: Bytes of OpenSSL's answers that may wait behind others: those to 2,400 new keys; a connection needs one in some GiB.
_MOST_OWED = 64 * 1024

#: Where ciphertext lands, one for all connections of a loop.
_landings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = weakref.WeakKeyDictionary()

#: What `get_extra_info` knows of the session.
_SESSION: dict[str, Callable[[ssl.SSLObject], Any]] = {
    "peercert": ssl.SSLObject.getpeercert,
    "cipher": ssl.SSLObject.cipher,
    "compression": ssl.SSLObject.compression,
}


def has_better(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `loop` has a TLS that costs less than this one: the loop is compiled (uvloop), or something has replaced
    asyncio's TLS (aiofastnet)."""
    return not isinstance(loop, asyncio.BaseEventLoop) or "start_tls" in vars(loop)


class Tls(asyncio.BufferedProtocol, asyncio.Transport):
    """One connection inside TLS.

    Args:
        protocol: who speaks over it. Its `connection_made` is called when the TLS handshake is over.
        server_hostname: the name to check, for a client; None for a server.
        timeout: seconds for the TLS handshake; None: somebody else limits the time.
        refused: a server's: how often its log says that a TLS handshake has failed.

    Attributes:
        opened: done when the TLS handshake is. Raises: OSError, when it has failed.
    """

    __slots__ = (
        "_at_end",
        "_below",
        "_closing",
        "_end_told",
        "_error",
        "_incoming",
        "_is_buffered",
        "_is_full",
        "_is_open",
        "_is_sending",
        "_is_stuck",
        "_is_writing",
        "_landing",
        "_loop",
        "_outgoing",
        "_owed",
        "_paused",
        "_protocol",
        "_refused",
        "_ssl",
        "_timer",
        "_unsent",
        "_write_ended",
        "opened",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        server_side: bool = False,
        timeout: float | None = None,
        refused: Seldom | None = None,
    ) -> None:
        self._loop = loop
        self._refused = refused
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        landing = _landings.get(loop)
        if landing is None:
            landing = _landings[loop] = memoryview(bytearray(_PART))
        self._landing = landing
        self._below: asyncio.Transport | None = None
        self._is_open = False
        self._paused = False
        self._is_full = False  # the transport below says so
        self._is_stuck = False  # OpenSSL takes nothing in the middle of another handshake (TLS 1.2)
        self._at_end = False  # of what the peer says
        self._end_told = False
        self._write_ended = False
        self._closing = False
        self._error: OSError | None = None  # what has ended it
        self._owed = 0  # bytes that OpenSSL has answered with since the transport below was empty
        self._is_writing = False  # `_unsent` to OpenSSL
        self._is_sending = False  # what OpenSSL has made of it, to the transport below
        self._unsent: list[Buffer] = []  # what OpenSSL has not taken yet
        self.opened: asyncio.Future[None] = loop.create_future()
        self.set_protocol(protocol)
        # Last: if there is no memory for the rest, no timer may be left running.
        self._timer = None if timeout is None else Deadline(loop, timeout, self._took_too_long)

    # ---- the handshake ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a transport below."""
        self._below = pace(transport, self)  # type: ignore[arg-type]
        self._shake()

    def feed(self, data: Buffer) -> None:
        """Bytes that were received before there was a transport."""
        self._incoming.write(data)
        self._shake()

    def _shake(self) -> None:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST" and self._below is not None:
                self._below.write(IN_THE_CLEAR)
            self._fail(error)
            return
        self._send()
        self._is_open = True
        self._stop_timer()
        self._protocol.connection_made(self)
        if not self.opened.done():
            self.opened.set_result(None)
        if not self._paused:
            self._read()

    def _took_too_long(self) -> None:
        self._fail(ConnectionAbortedError("the TLS handshake takes too long"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def finish(self) -> None:
        """The server accepts nobody any more: this connection is among the last."""

    def go_away(self) -> None:
        """The server is shutting down. Once TLS is open, the protocol over it is told separately."""
        if not self._is_open:
            self.abort()

    def leave(self) -> None:
        """There is no time left for its handshake."""
        self.abort()

    # ---- bytes arrive ----

    def get_buffer(self, sizehint: int) -> memoryview:
        """The transport below asks where to receive."""
        return self._landing

    def buffer_updated(self, nbytes: int) -> None:
        """It has received."""
        self._incoming.write(self._landing[:nbytes])
        if not self._is_open:
            self._shake()
        elif not self._paused:
            self._read()

    def _read(self) -> None:
        """Hands over what has arrived, until there is no more, or the protocol wants no more."""
        incoming = self._incoming
        while True:
            room = self._protocol.get_buffer(-1) if self._is_buffered else self._landing  # type: ignore[attr-defined]
            if not room:
                break  # OpenSSL reports a read into no room as the end
            count = self._decrypt(room)
            if not count:
                pass
            elif self._is_buffered:
                self._protocol.buffer_updated(count)  # type: ignore[attr-defined]
            else:
                self._protocol.data_received(bytes(room[:count]))  # type: ignore[attr-defined]
            if self._paused or self._closing or self._at_end:
                break
            if count < len(room) and not incoming.pending:
                break
        if self._unsent or self._outgoing.pending:
            self._answer()
        if self._error is not None:
            self._fail(self._error)
        elif self._at_end and not self._paused:
            self._tell_end()

    def _decrypt(self, room: memoryview) -> int:
        """Fills `room` with what OpenSSL decrypts. Returns how many bytes that is."""
        incoming, tls, size, count = self._incoming, self._ssl, len(room), 0
        try:
            # OpenSSL raises where no whole record is there, which costs more than a record. So it is asked again only
            # while bytes are pending, and raises only for a part of a record.
            while not count or (count < size and incoming.pending):
                more = tls.read(size - count, room[count:] if count else room)
                if not more:
                    self._at_end = True
                    break
                count += more  # type: ignore[operator]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the same, once our own close_notify is out
            self._at_end = True
        except ssl.SSLError as error:
            self._error = error
            self._at_end = True
        return count

    def _answer(self) -> None:
        """Sends what OpenSSL answers by itself: to a new key, or to another handshake. A peer that asks for that and
        reads no answer (27 bytes for 27) would fill the memory: no high-water mark stops OpenSSL."""
        is_idle = self._below is None or not self._below.get_write_buffer_size()
        self._owed = 0 if is_idle else self._owed + self._outgoing.pending
        if self._owed > _MOST_OWED:
            self._error = ConnectionAbortedError("the peer asks for answers of TLS, and does not take them")
        else:
            self._send_on()

    @property
    def held_back(self) -> int:
        """See below.py. The end of our record may lie in one that has not come whole to the TLS below."""
        return RECORD + (0 if self._below is None else held_back(self._below))

    def eof_received(self) -> bool:
        """The peer has ended the TCP stream."""
        if not self._is_open:
            self._fail(ConnectionResetError())  # without a text: route.py has better ones
            return False
        self._at_end = True
        if not self._paused:
            self._tell_end()
        return not self._closing

    def _tell_end(self) -> None:
        if not self._end_told and not self._closing:
            self._end_told = True
            if not self._protocol.eof_received():  # type: ignore[attr-defined]
                self.close()

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            if self._below is not None:
                self._below.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Hands over what had arrived before, and then reads on."""
        if self._below is not None and not self._paused:
            try:
                self._read()
            except BaseException:  # no memory: nothing may go on behind what has been lost
                self.abort()  # which the transport below does where it has called
                raise
            if self._below is not None and not self._paused and not self._closing:
                self._below.resume_reading()

    # ---- writing ----

    def write(self, data: Buffer) -> None:
        if len(data) > _PART or self._unsent or self._write_ended or self._closing:  # type: ignore[arg-type]
            self.writelines((data,))
            return
        try:
            self._ssl.write(data)
        except ssl.SSLWantReadError:
            self._unsent.append(data)
            self._get_stuck()
        except ssl.SSLError as error:
            self._fail(error)
        self._send()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        if self._write_ended or self._closing:
            return
        for data in list_of_data:
            view = to_slice(data)
            self._unsent += [view[at : at + _PART] for at in range(0, len(view), _PART)]
        self._send_on()

    def _send_on(self) -> None:
        """What waits goes out, as far as OpenSSL takes it now."""
        if self._is_writing:
            return  # a signal handler has written: the loop that it interrupted takes this too
        self._is_writing = True
        try:
            while self._unsent:
                self._ssl.write(self._unsent[0])
                del self._unsent[:1]  # a signal handler's `abort` may have dropped it
                if self._outgoing.pending >= _PART:  # what is smaller goes out with what is behind it
                    self._send()
        except ssl.SSLWantReadError:
            self._get_stuck()
        except ssl.SSLError as error:
            self._fail(error)
        finally:
            self._is_writing = False
        self._send()
        if self._is_stuck and not self._unsent:
            self._is_stuck = False
            if not self._is_full:
                self._protocol.resume_writing()

    def _get_stuck(self) -> None:
        """For the protocol this is the same as full: it may last for as long as the peer likes."""
        if not self._is_stuck:
            self._is_stuck = True
            self._protocol.pause_writing()

    def _send(self) -> None:
        if self._is_sending:
            return  # a signal handler: the loop that it interrupted sends its records behind those in hand
        self._is_sending = True
        try:
            while self._below is not None and self._outgoing.pending:
                self._below.write(self._outgoing.read())
        finally:
            self._is_sending = False

    def pause_writing(self) -> None:
        """The transport below is full."""
        self._is_full = True
        if self._is_open and not self._is_stuck:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The transport below takes bytes again."""
        self._is_full = False
        if self._is_open and not self._is_stuck:
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        below = self._below  # read once, as in outlet.py
        return 0 if below is None else below.get_write_buffer_size() + sum(map(len, self._unsent))  # type: ignore[arg-type]

    def get_write_buffer_limits(self) -> tuple[int, int]:
        assert self._below is not None
        return self._below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._below is not None:
            self._below.set_write_buffer_limits(high, low)

    # ---- the end ----

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._say_goodbye()
        if self._below is not None and self._below.can_write_eof():
            self._below.write_eof()

    def _say_goodbye(self) -> None:
        """Sends our close_notify. Not while something has not been read: OpenSSL would read and drop that."""
        if self._write_ended or self._below is None:
            return
        self._write_ended = True
        if self._is_open and not (self._incoming.pending or self._ssl.pending()):
            try:
                self._ssl.unwrap()
            except ssl.SSLWantReadError:
                pass  # OpenSSL wants the peer's close_notify
            except ssl.SSLError:
                forget_errors()  # the peer has gone
            self._send()

    def is_closing(self) -> bool:
        return self._closing or self._below is None or self._below.is_closing()

    def close(self) -> None:
        if not self._closing:
            self._say_goodbye()
            self._closing = True
            if self._below is not None:
                self._below.close()

    def abort(self) -> None:
        self._closing = True
        self._unsent.clear()
        if self._below is not None:
            self._below.abort()

    def _fail(self, error: OSError) -> None:
        """TLS is broken; the peer is told why."""
        forget_errors()
        self._error = self._error or error  # asyncio's proactor may report the end after this
        if not self._closing:
            self._send()
        self.abort()

    def writing_failed(self, exc: OSError) -> None:
        """For a transport below that cannot send any more, and still receives."""
        failed = getattr(self._protocol, "writing_failed", None)
        if failed is None:
            self.abort()
        else:
            failed(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport below is gone."""
        self._stop_timer()
        error = self._error or exc
        if self._is_open:
            if isinstance(exc, OSError) and not self._closing:
                with contextlib.suppress(MemoryError):  # the end comes early
                    self._read_last()
            self._protocol.connection_lost(error)
        if not self.opened.done():
            if self._refused is not None and isinstance(error, ssl.SSLError):
                level = self._refused.level(logging.INFO, self._loop.time())
                logger.log(level, "no TLS handshake, from %s: %s", self.get_extra_info("peername"), error)
            fail(self.opened, error or ConnectionResetError())
        self._closing = True
        self._below = None

    def _read_last(self) -> None:
        """A write has failed below, and what the peer had said by then lies in the socket: the engine's goes on with
        that, the loops' do not. Where reading is paused, whoever speaks over this finds it in OpenSSL's object."""
        if self._below is not None and (left := left_behind(self._below)):
            self._incoming.write(left)
            if not self._paused:
                self._read()

    def take_left(self, *, is_broken: bool) -> bytearray:
        """See `left_at_end` in below.py."""
        if is_broken and self._below is not None:
            self._incoming.write(left_behind(self._below))
        return left_in(self._ssl)

    # ---- what is known ----

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._is_buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._ssl if self._is_open else default
        if name == "sslcontext":
            return self._ssl.context
        if name in _SESSION:
            return _SESSION[name](self._ssl)
        return default if self._below is None else self._below.get_extra_info(name, default)
