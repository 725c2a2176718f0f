"""`broadcast`: one message to many connections, framed once, and a choice of what a slow one gets.

A connection is slow while its transport is above its high-water mark (`write_limit`): the peer has not read what it was
sent. A program that sends to a thousand of them cannot wait for the slowest, and must not fill the memory for it
either; so each of the four answers below keeps at most one message more than the limit for each connection ("latest":
one of each of its rooms). A connection that is in the middle of a fragmented message (an iterable given to `send`, or
`send_stream`) cannot take another one before the end of that, whoever is to blame, and is treated as slow, with one
exception:

    slow        above the mark                       in the middle of a message
    "skip"      does not get this one                the same
    "close"     is closed with 1013                  gets it behind that message, up to `write_limit` bytes; then closed
    "wait"      gets it late: the caller waits       the same
    "latest"    gets the latest when it has room;    the same
                of each `Room`, the latest of that

1013 and not 1008: the peer broke no policy, and may come back ("try again later" is 1013's name at IANA) for a fresh
start. A message that a program writes frame by frame has no end that could be waited for: such a connection is skipped.

The first broadcast in a turn of the event loop is sent at once, with one system call for each connection, which costs
more than all the rest; in the engine, one crossing makes these calls for all connections that are given the same bytes,
from one copy of them. Broadcasts that follow in the same turn are corked (outlet.py), so that a burst costs two system
calls for each connection, however long it is.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
import weakref
from collections import defaultdict
from collections.abc import Generator, Iterable
from typing import Any, Literal

from zcws.aio.engine import Engine, together
from zcws.aio.late import held_by, write_when_ready
from zcws.aio.transport import EngineTransport
from zcws.aio.websocket import WebSocket
from zcws.annotations import Buffer
from zcws.closing import State
from zcws.codes import CloseCode
from zcws.errors import TOO_SLOW, ConnectionClosed
from zcws.payloads import as_message
from zcws.prepared import Form, Prepared

__all__ = ["Delivery", "Slow", "broadcast", "broadcast_in", "check_slow"]

logger: logging.Logger = logging.getLogger("zcws.server")

#: What happens to a connection that is slow.
Slow = Literal["skip", "close", "wait", "latest"]
_SLOW = ("skip", "close", "wait", "latest")

_OPEN = State.OPEN

#: Loops in whose present turn a broadcast has been sent already.
_busy: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def check_slow(slow: object) -> None:
    """`ValueError` where there is no such `slow`."""
    if slow not in _SLOW:
        raise ValueError(f"slow must be one of {', '.join(map(repr, _SLOW))}, not {slow!r}")


def broadcast(
    connections: Iterable[WebSocket],
    message: str | Buffer,
    *,
    slow: Slow = "skip",
    text: bool | None = None,
    compress: bool | None = None,
) -> Delivery:
    """Sends one message to all `connections`: str as text, bytes-like as binary.

    A plain function: when it returns, every connection that was ready has been sent the message. Only `slow="wait"`
    leaves something to wait for: `await broadcast(..., slow="wait")`. Connections that are closing or closed are
    passed over, and an error on one does not affect the others. Must be called in the event loop that the
    connections belong to.

    Args:
        connections: for example `server.connections`.
        slow: what a slow connection gets, one for which more than `write_limit` bytes are waiting: "skip", not this
            message; "close", a Close with 1013; "wait", the message when it has caught up, while the caller waits;
            "latest", the newest message there is when it has caught up; of a `zcws.Room`, the newest of that room.
        text: True or False sends text or binary, whatever the type of the message; bytes sent as text must be UTF-8.
        compress: True or False decides for all connections that agreed on compression; by default the size does.

    Returns:
        How many got it, and what became of the others.

    Raises:
        TypeError: this is not a message; or, when the others have been sent it, one of `connections` is not a
            `zcws.WebSocket`. ValueError: it is text, and not UTF-8; or there is no such `slow`.
    """
    return broadcast_in(None, connections, message, slow=slow, text=text, compress=compress)


def broadcast_in(
    room: object,
    connections: Iterable[WebSocket],
    message: str | Buffer,
    *,
    slow: Slow,
    text: bool | None,
    compress: bool | None = None,
) -> Delivery:
    """As `broadcast`, for a message of `room`: with "latest" it takes the place of that room's last one alone."""
    check_slow(slow)
    prepared = Prepared(*as_message(message, text), compress)
    delivery = Delivery(prepared, slow, room)
    loop = asyncio.get_running_loop()
    if loop in _busy:
        delivery._send_to(connections, None, at_once=False)
    else:
        _busy.add(loop)
        loop.call_soon(_busy.discard, loop)
        with together(loop) as engine:
            delivery._send_to(connections, engine, at_once=True)
    if delivery._mistake is not None:
        raise delivery._mistake
    return delivery


class Delivery:
    """What became of a broadcast. Awaiting it waits, with `slow="wait"`, for the connections that are `waiting`, and
    gives the same object.

    Attributes:
        sent: connections that the message was handed to.
        skipped: were slow and do not get it.
        waiting: get it, or a later one (`slow="latest"`), when they have caught up.
        closed: were slow, and have been closed for it.
        gone: were closing or closed already, or failed while they were written to.
    """

    __slots__ = (
        "_late",
        "_message",
        "_mistake",
        "_room",
        "_slow",
        "closed",
        "gone",
        "sent",
        "skipped",
        "waiting",
    )

    def __init__(self, message: Prepared, slow: Slow, room: object) -> None:
        self._message = message
        self._slow = slow
        self._room = room
        self._late: list[WebSocket] = []  # get it when somebody awaits this
        self._mistake: TypeError | None = None  # of the caller, who gave something that is no connection
        self.sent: int = 0
        self.skipped: int = 0
        self.waiting: int = 0
        self.closed: int = 0
        self.gone: int = 0

    def _send_to(self, connections: Iterable[WebSocket], engine: Engine | None, *, at_once: bool) -> None:
        message, sent = self._message, 0
        # To their sockets, by what they are given.
        straight: defaultdict[Form, list[EngineTransport]] = defaultdict(list)
        bare = straight[message.plain]
        for ws in connections:
            try:
                writer, transport, own = ws.writer, ws._transport, ws._own
                if ws.connection.state is not _OPEN or transport is None:
                    self.gone += 1
                elif ws._drained is not None or ws._message_done is not None or ws._held is not None:
                    self._be_slow(ws)
                elif writer.opcode:  # in a message that is written frame by frame
                    self.skipped += 1
                elif engine is not None and own is not None and writer.is_bare:
                    bare.append(own)
                    sent += 1
                elif engine is not None and own is not None and writer.next_key is None:
                    straight[message.form_for(writer)].append(own)
                    sent += 1
                else:
                    message.write_to(writer)
                    if not at_once:
                        ws._written()
                    elif own is not None:
                        own.send_output()
                    else:
                        ws._flush()
                    sent += 1
            except Exception:
                if not isinstance(ws, WebSocket):  # asked here alone: thousands need not be asked
                    mistake = TypeError(f"broadcast sends to zcws.WebSocket objects, and {ws!r} is none")
                    self._mistake = self._mistake or mistake
                    continue
                self.gone += 1
                logger.warning("a broadcast failed for %r", ws, exc_info=True)
        self.sent = sent
        if engine is not None:
            for form, receivers in straight.items():
                if receivers:
                    self._send_straight(engine, form, receivers)

    def _send_straight(self, engine: Engine, form: Form, receivers: list[EngineTransport]) -> None:
        for receiver in engine.send_same(receivers, form.frame, form.deflated):
            try:
                self._message.write_to(receiver.writer)
                receiver.send_output()
            except Exception:
                self.sent -= 1
                self.gone += 1
                logger.warning("a broadcast failed for %r", receiver.get_protocol(), exc_info=True)

    def _be_slow(self, ws: WebSocket) -> None:
        if self._slow == "skip":
            self.skipped += 1
        elif self._slow == "wait":
            self._late.append(ws)
            self.waiting += 1
        elif self._slow == "latest":
            held_by(ws).latest(self._message, self._room)
            self.waiting += 1
        elif ws._drained is None and held_by(ws).add(self._message):
            self.waiting += 1
        else:
            ws.begin_close(CloseCode.TRY_AGAIN_LATER, TOO_SLOW)
            self.closed += 1

    def __await__(self) -> Generator[Any, None, Delivery]:
        return self._wait().__await__()

    async def _wait(self) -> Delivery:
        late, self._late = self._late, []
        if late:
            await asyncio.gather(*map(self._send_late, late))
        return self

    async def _send_late(self, ws: WebSocket) -> None:
        try:
            await write_when_ready(ws, lambda: self._message)
            self.sent += 1
        except ConnectionClosed:
            self.gone += 1
        except ValueError:
            self.skipped += 1  # a message is being written frame by frame
        self.waiting -= 1

    def __del__(self) -> None:
        if self._late:
            warnings.warn(
                f"broadcast(slow='wait') was never awaited: {len(self._late)} connections did not get the message",
                RuntimeWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        names = ("sent", "skipped", "waiting", "closed", "gone")
        counts = (f"{name}={getattr(self, name)}" for name in names if getattr(self, name))
        return f"<Delivery {' '.join(counts) or 'to nobody'}>"
