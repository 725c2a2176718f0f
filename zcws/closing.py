"""The closing handshake as one table, and what a Close says. RFC 6455 7 and 5.5.1.

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

from zcws.codes import CloseCode, is_sendable_close_code

__all__ = [
    "GRACE",
    "LINGER",
    "MAX_CONTROL_PAYLOAD",
    "TRANSITIONS",
    "Event",
    "State",
    "close_payload",
    "code_and_reason",
    "next_state",
    "parse_close_payload",
]

#: Seconds that the peer's Close waits behind messages of a connection from which nobody has ever read: longer than a
#: handler usually needs to get to its first read, so that what came together with the Close is still answered, and
#: short enough for a program that only sends.
GRACE = 1.0

#: Seconds for which a server goes on reading after the peer's mistake where it cannot end only its own side of the
#: stream, as over an event loop's own TLS: in that time a peer in the middle of a long message sees our Close, and
#: stops. To close at once, while bytes are still coming, would send a reset, which discards what the peer has not read
#: yet. The peer's Close does not end it: behind a mistake nobody knows where a frame begins (RFC 6455 7.1.7).
LINGER = 1.0

#: RFC 6455 5.5: "All control frames MUST have a payload length of 125 bytes or less".
MAX_CONTROL_PAYLOAD = 125

#: RFC 6455 7.4.1: codes that are never on the wire, and what to do instead of passing one on.
_INSTEAD: dict[int, str] = {
    CloseCode.NO_STATUS_RCVD: "it stands for a Close without a code, which is write_frame(Frame.close())",
    CloseCode.ABNORMAL_CLOSURE: "it stands for an end without a Close, which is abort()",
    CloseCode.TLS_HANDSHAKE: "it stands for an end without a Close, which is abort()",
}


class State(Enum):
    """Which Close frames have passed."""

    OPEN = "open"
    CLOSE_SENT = "close sent"
    CLOSE_RECEIVED = "close received"
    CLOSED = "closed"
    FAILED = "failed"
    LOST = "lost"

    # There is one object of each; Enum's own `__hash__` hashes the name, in Python.
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


def close_payload(code: int | None, reason: str = "") -> bytes:
    """The payload of a Close. RFC 6455 5.5.1.

    Raises:
        TypeError: the code is no integer, or the reason no str.
        ValueError: a code that must not be sent (RFC 6455 7.4), a reason without a code, or one over 123 bytes.
    """
    if not isinstance(reason, str):
        raise TypeError(f"the reason of a Close is str, not {reason!r}")
    if code is None:
        if reason:
            raise ValueError("a close reason needs a close code (RFC 6455 5.5.1)")
        return b""
    if not hasattr(code, "__index__"):  # NumPy's integers have it, too
        raise TypeError(f"the code of a Close is int, not {code!r}")
    if not is_sendable_close_code(code):
        instead = _INSTEAD.get(code, "programs have 4000 to 4999 for themselves")
        raise ValueError(f"close code {code} must not be sent (RFC 6455 7.4): {instead}")
    payload = int(code).to_bytes(2, "big") + reason.encode()
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(
            f"a close reason is at most 123 bytes of UTF-8, not {len(payload) - 2} (RFC 6455 5.5)"
        )
    return payload


def parse_close_payload(payload: bytes | memoryview) -> tuple[int | None, str]:
    """The code, or None, and the reason. For a payload that was checked already, or is checked after."""
    if len(payload) == 0:
        return None, ""
    if len(payload) == 1:
        raise ValueError(
            "the payload of a Close is empty or starts with a code of two bytes (RFC 6455 5.5.1)"
        )
    return int.from_bytes(payload[:2], "big"), str(payload[2:], "utf-8")


def code_and_reason(payload: bytes) -> tuple[int, str]:
    """The code and the reason as programs see them: 1005 where the Close had no code. RFC 6455 7.1.5, 7.1.6."""
    code, reason = parse_close_payload(payload)
    return (CloseCode.NO_STATUS_RCVD if code is None else code), reason
