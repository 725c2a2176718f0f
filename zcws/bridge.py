"""The bridge: how a reader, which never writes, gets its automatic replies onto the wire.

It is a mailbox with one slot. RFC 6455 5.5.3 lets an endpoint answer only the latest Ping, and nothing may follow a
Close: so a Pong replaces a Pong, a Close replaces a Pong, and nothing replaces a Close. That is why one slot is
enough, why nobody needs a lock, and why a flood of Pings costs 125 bytes.

The reader puts; the writer's side takes. Everything else that the two halves know belongs to one of them alone, except
for who ended the connection: the writer's side notes that here, once, so that the reader can tell its caller.
Nothing here is sent by itself: a reply is a value, and somebody has to write it.

The halves may live in two threads. The slot is a list of at most one reply: putting replaces its content, taking pops
it, and each of those is one operation that the interpreter does not interrupt (a list keeps that promise on
free-threaded builds too). Only the reader's side ever asks whether a Close has been put.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zcws.codes import OpCode
from zcws.errors import Closer

__all__ = ["Bridge", "Reply", "check_reply"]

_CLOSE = OpCode.CLOSE


class Reply:
    """A Pong or a Close that the protocol owes to the peer.

    Attributes:
        opcode, payload: of the frame; at most 125 bytes.
        earlier: the payloads of Pongs to Pings that came just before. They may be left out: RFC 6455 5.5.3.
    """

    __slots__ = ("earlier", "opcode", "payload")

    def __init__(self, opcode: OpCode, payload: bytes, earlier: Sequence[bytes] = ()) -> None:
        self.opcode: OpCode = opcode
        self.payload: bytes = payload
        self.earlier: Sequence[bytes] = earlier

    @property
    def is_last(self) -> bool:
        """Whether nothing may be sent after it: it is a Close."""
        return self.opcode is _CLOSE

    def __repr__(self) -> str:
        return f"<Reply {self.opcode.name}, {len(self.payload)} bytes>"


def check_reply(reply: object) -> None:
    """`TypeError` unless `reply` is a Reply. The usual mistake is None, by which the bridge says that none is left."""
    if not isinstance(reply, Reply):
        left = "; None from the bridge says that nothing is left to send" if reply is None else ""
        raise TypeError(f"send_reply sends what bridge.listen() gives, a Reply, not {reply!r}{left}")


class Bridge:
    """The slot between the halves.

    Attributes:
        on_put: called with nothing after each `put` and after `end`, on the reader's side: an unsplit connection
            writes the reply there and then; a driver wakes whoever listens.
        slot: what waits to be sent: one reply at most.
        ended: nothing more will be put: the reader has come to its end.
        closer: whose Close came first, as the writer's side saw it; None while it has seen no end. The reader's errors
            say so.
        cause: the system's error when the network broke, for the same errors; the driver sets it.
    """

    __slots__ = ("_has_close", "cause", "closer", "ended", "on_put", "slot")

    def __init__(self) -> None:
        self.slot: list[Reply] = []
        self._has_close = False
        self.on_put: Callable[[], None] | None = None
        self.ended: bool = False
        self.closer: Closer | None = None
        self.cause: OSError | None = None

    def put(self, reply: Reply) -> None:
        """The reader owes this to the peer."""
        if self._has_close:
            return
        self._has_close = reply.is_last
        self.slot[:] = (reply,)
        if self.on_put is not None:
            self.on_put()
        reply.earlier = ()  # they have been sent too; a reply that still waits is enough without them

    def take(self) -> Reply | None:
        """What has to be sent, or None. Taking it makes the caller responsible for sending it."""
        try:
            return self.slot.pop()
        except IndexError:
            return None

    @property
    def shown(self) -> str:
        """For `repr`: what waits, and whether there will be more."""
        return (", ".join(map(repr, self.slot)) or "empty") + (", ended" if self.ended else "")

    def end(self, last: Reply | None = None) -> None:
        """The reader has come to its end; a reply that is still in the slot can be taken.

        Args:
            last: what it owes to the peer: a Close.
        """
        if last is not None and not self._has_close:
            self._has_close = last.is_last
            self.slot[:] = (last,)
        self.ended = True  # only now: a listener that sees this takes what is there, and stops listening
        if self.on_put is not None:
            self.on_put()
