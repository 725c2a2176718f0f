"""The closing handshake as one table. RFC 6455 7.

Two Close frames, one each way, and then the TCP connection ends. Either side may begin, both may begin at once, and
either may vanish. A state says which Close frames have passed; an event moves it; what is not in the table cannot
happen, and asking for it is a mistake of ours or of the caller.

    OPEN            neither
    CLOSE_SENT      ours; the peer may still send data, which is ignored
    CLOSE_RECEIVED  the peer's; ours is owed
    CLOSED          both: the handshake is complete (7.1.4), only the socket remains
    FAILED          we sent a Close because the peer broke a rule, or for a reason of ours (`Connection.fail`):
                    nothing that it sends counts any more (7.1.7)
    LOST            the socket ended before the handshake was complete: code 1006 (7.1.5)
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import ClassVar

__all__ = ["GRACE", "LINGER", "TRANSITIONS", "Event", "State", "next_state"]

#: Seconds that the peer's Close waits behind messages of a connection from which nobody has ever read: longer than a
#: handler usually needs to get to its first read, so that what came together with the Close is still answered, and
#: short enough for a program that only sends.
GRACE = 1.0

#: Seconds for which a server goes on reading behind the peer's mistake where it cannot end its side of the stream
#: alone, as over most TLS: a peer in the middle of a long message sees our Close in that time, and stops. To close at
#: once, on what is still coming, would be a reset, which takes from the peer what it has not read yet.
LINGER = 1.0


class State(Enum):
    """Which Close frames have passed."""

    OPEN = "open"
    CLOSE_SENT = "close sent"
    CLOSE_RECEIVED = "close received"
    CLOSED = "closed"
    FAILED = "failed"
    LOST = "lost"

    # There is one of each; Enum's own hashes the name, in Python.
    __hash__: ClassVar[Callable[[object], int]] = object.__hash__


class Event(Enum):
    """What can happen to a connection, as far as closing goes."""

    SEND_CLOSE = "we send a Close"
    RECEIVE_CLOSE = "the peer's Close arrives"
    FAIL = "the peer broke a rule"
    END = "the socket ends"

    __hash__: ClassVar[Callable[[object], int]] = object.__hash__


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.OPEN: {
        Event.SEND_CLOSE: State.CLOSE_SENT,
        Event.RECEIVE_CLOSE: State.CLOSE_RECEIVED,
        Event.FAIL: State.FAILED,
        Event.END: State.LOST,
    },
    State.CLOSE_SENT: {
        Event.RECEIVE_CLOSE: State.CLOSED,
        Event.FAIL: State.FAILED,
        Event.END: State.LOST,
    },
    State.CLOSE_RECEIVED: {
        Event.SEND_CLOSE: State.CLOSED,
        Event.END: State.LOST,
    },
    State.CLOSED: {Event.END: State.CLOSED},
    State.FAILED: {Event.END: State.FAILED},
    State.LOST: {Event.END: State.LOST},
}


def next_state(state: State, event: Event) -> State:
    """The state after `event`.

    Raises:
        ValueError: the event cannot happen in this state.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise ValueError(f"{event.value!r} cannot happen to a connection that is {state.value!r}") from None
