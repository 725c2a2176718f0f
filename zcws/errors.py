"""Every error that zcws raises on purpose, and the one table that gives each broken rule its close code.

Whose fault it was is the first question, so it is the first split: `ProtocolError` (the peer broke a
rule), `HandshakeError` (the connection never opened), `ConnectionClosed` (it is over), `StaleFrame`,
`TypeError` and `ValueError` (the caller's own mistake). Reasons are constant sentences: they can be
asserted, and they leak nothing of what was received.

    ZcwsError
      +-- ConnectionClosed            .code .reason .clean .by
      |     +-- ConnectionClosedOK    1000, 1001 or no code, both ways
      |     +-- ConnectionClosedError anything else
      |           +-- ProtocolError       the peer broke a rule: 1002, 1007
      |                 +-- LimitExceeded a limit of ours: 1009
      +-- HandshakeError              .status .headers .body
      |     +-- ProxyError            a proxy, not the server: .is_temporary
      +-- StaleFrame                  a frame used after the next read

A broken rule ends the connection, so `ProtocolError` is also a `ConnectionClosedError`: a program that
only asks "is it over?" catches one class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from zcws.codes import CloseCode

__all__ = [
    "FAULTS",
    "NO_PONG",
    "TOO_SLOW",
    "Closer",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "HandshakeError",
    "LimitExceeded",
    "ProtocolError",
    "ProxyError",
    "StaleFrame",
    "ZcwsError",
    "closed_error",
    "first_line",
    "printable",
    "tells_only_of_an_end",
]


#: Whose Close came first; "network" where the connection ended without one.
Closer = Literal["us", "peer", "network"]

#: How an error's text says that, before the code.
_WHOSE = {
    "us": "closed here: ",
    "peer": "closed by the peer: ",
    "network": "the connection was lost: ",
    None: "",
}


#: The close reason for a peer that has not answered a Ping in `ping_timeout` seconds.
NO_PONG = "keepalive ping timeout"

#: The close reason for a peer that was too slow for a broadcast.
TOO_SLOW = "too slow for what is broadcast here"

#: The options behind these reasons, named to our side only: the peer has no use for their names.
_OPTIONS = {NO_PONG: "ping_timeout", TOO_SLOW: 'write_limit, and slow="close" of the broadcast'}

#: Characters of a response's body that a text shows: a sentence.
_SHOWN = 200


class ZcwsError(Exception):
    """The root of every error that zcws defines."""


class ConnectionClosed(ZcwsError):
    """The connection is over; nothing more can be read or written.

    Attributes:
        code: the close code (RFC 6455 7.1.5): the peer's, or ours where we failed the connection;
            1005 where a Close had none, 1006 where there was no Close at all.
        reason: the reason that came with it: the peer's, ours, or a fixed sentence where we failed the connection.
        clean: whether a Close went both ways (RFC 6455 7.1.4).
        by: who ended it: "peer" or "us", whoever sent the first Close (ours if the peer broke a rule, did not answer a
            Ping, or did not read); "network" if the connection broke without one; None if that is not known.

    Where the network broke and the system said why, `__cause__` is its `OSError`.
    """

    def __init__(self, code: int, reason: str = "", *, clean: bool = False, by: Closer | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.clean = clean
        self.by = by

    def __str__(self) -> str:
        return self._whose() + self._how()

    def _whose(self) -> str:
        if self.by == "us" and self.code == CloseCode.ABNORMAL_CLOSURE:
            return "closed here, and the peer did not answer: "
        return _WHOSE[self.by]

    def _how(self) -> str:
        """Code and reason, and what the network had to do with it."""
        try:
            name = CloseCode(self.code).name.lower().replace("_", " ")
        except ValueError:
            name = "private use" if self.code >= 4000 else "registered"
        text = f"{self.code} ({name})"
        if self.reason:
            text += f": {printable(self.reason)}"
        if self.by == "us" and self.reason in _OPTIONS:
            text += f" ({_OPTIONS[self.reason]})"
        if self.code == CloseCode.ABNORMAL_CLOSURE and not self.clean:
            cause = self.__cause__
            if isinstance(cause, OSError) and cause.strerror:
                text += f": {cause.strerror}"
            text += " [no closing handshake]"
        return text


class ConnectionClosedOK(ConnectionClosed):
    """The connection ended as it should: 1000, 1001 or no code, in both directions."""


class ConnectionClosedError(ConnectionClosed):
    """The connection ended in any other way."""


class ProtocolError(ConnectionClosedError):
    """The peer broke a rule; the connection was failed with `.code`. RFC 6455 7.1.7."""

    def _whose(self) -> str:
        return "the peer broke a rule: "


class LimitExceeded(ProtocolError):
    """The peer sent more than a limit of ours allows; `.code` is 1009. It may have done nothing wrong.

    Attributes:
        limits: the options that set the limits, with their values, as text; "" where the limit is the memory that a
            `PayloadBuffer` was given.
        size: bytes of the message, as far as its frames had announced them; None if its size was not the reason, or was
            only found while it was inflated.
    """

    def __init__(
        self,
        code: int,
        reason: str = "",
        *,
        clean: bool = False,
        by: Closer | None = None,
        limits: str = "",
        size: int | None = None,
    ) -> None:
        super().__init__(code, reason, clean=clean, by=by)
        self.limits = limits
        self.size = size

    def _whose(self) -> str:
        return "closed here by a limit: "

    def _how(self) -> str:
        size = "" if self.size is None else f": it has {self.size} bytes or more"
        limits = (
            f"the limits here are {self.limits}, options of connect() and serve()"
            if self.limits
            else "the limit is the memory that PayloadBuffer(memory) was given"
        )
        return f"{super()._how()}{size}; {limits}"


class HandshakeError(ZcwsError):
    """The opening handshake failed. RFC 6455 4.

    Attributes:
        reason: what was wrong; `str()` adds status and body.
        status: the HTTP status received (client) or sent (server), where there was one.
        headers: the response's headers, where there was one.
        body: up to 64 KiB of the response's body.
        seen: how the peer's bytes began, if they could not be understood; else "".
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        seen: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.headers = headers
        self.body = body
        self.seen = seen

    def __str__(self) -> str:
        """The reason, and the first line of the body where that is text: servers say there what was wrong."""
        text = self.reason
        if self.seen:
            return f"{text}; it began with {self.seen}"
        if self.status not in (None, 101) and str(self.status) not in text:
            text += f" (status {self.status})"
        said = first_line(self.body)
        return f"{text}: {said}" if said else text


def printable(text: str) -> str:
    """What a peer has said, safe for a log or a terminal: with control characters escaped as Python does it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def first_line(body: bytes) -> str:
    """The first line of a text, as far as a log should show it; "" for what is no text, or a page of HTML."""
    line = body[: 4 * _SHOWN].lstrip().partition(b"\n")[0].decode("utf-8", "replace").rstrip()
    if line.startswith("<") or not line.isprintable() or "\ufffd" in line[:_SHOWN]:
        return ""
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


class ProxyError(HandshakeError):
    """A proxy did not connect to the server; `status` and `headers` are the proxy's. RFC 9110 9.3.6, RFC 1928 6.

    Attributes:
        is_temporary: a SOCKS proxy says that it cannot reach the server, which may change.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        is_temporary: bool = False,
        seen: str = "",
    ) -> None:
        super().__init__(reason, status=status, headers=headers, seen=seen)
        self.is_temporary = is_temporary


class StaleFrame(ZcwsError):
    """A frame was used after the next read on its connection: take `payload`, `text` or `to_bytes()` before."""


#: The close code and the sentence for each fault of the C core, which returns its number negated.
FAULTS: dict[int, tuple[CloseCode, str]] = {
    1: (CloseCode.PROTOCOL_ERROR, "reserved bit set without an extension that defines it"),
    2: (CloseCode.PROTOCOL_ERROR, "reserved opcode"),
    3: (CloseCode.PROTOCOL_ERROR, "fragmented control frame"),
    4: (CloseCode.PROTOCOL_ERROR, "control frame over 125 bytes"),
    5: (CloseCode.PROTOCOL_ERROR, "unmasked frame where masking is required"),
    6: (CloseCode.PROTOCOL_ERROR, "masked frame where masking is not allowed"),
    7: (CloseCode.PROTOCOL_ERROR, "payload length not in its shortest form"),
    8: (CloseCode.PROTOCOL_ERROR, "payload length with the top bit set"),
    9: (CloseCode.PROTOCOL_ERROR, "continuation frame without a message to continue"),
    10: (CloseCode.PROTOCOL_ERROR, "new message inside a fragmented message"),
    11: (CloseCode.PROTOCOL_ERROR, "close payload of one byte"),
    12: (CloseCode.PROTOCOL_ERROR, "close code that must not be sent"),
    13: (CloseCode.INVALID_DATA, "close reason is not UTF-8"),
    14: (CloseCode.INVALID_DATA, "text is not UTF-8"),
    15: (CloseCode.MESSAGE_TOO_BIG, "message over the limit of the receiver (max_size)"),
    16: (CloseCode.MESSAGE_TOO_BIG, "more fragments than the receiver allows (max_fragments)"),
    # Found above the C core, numbered behind it (zcws/assembly.py).
    17: (CloseCode.INVALID_DATA, "compressed data cannot be inflated"),
    18: (CloseCode.MESSAGE_TOO_BIG, "message over the receiver's payload buffer"),
    19: (CloseCode.INTERNAL_ERROR, "no memory for what was received"),
}


def closed_error(code: int, reason: str, *, clean: bool, by: Closer | None = None) -> ConnectionClosed:
    """The exception for a connection that ended with `code`: OK for 1000, 1001 and none at all (1005)."""
    ok = clean and code in (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)
    return (ConnectionClosedOK if ok else ConnectionClosedError)(code, reason, clean=clean, by=by)


def tells_only_of_an_end(error: BaseException) -> bool:
    """Whether `error` says only that a connection has ended; for a group (PEP 654), whether all errors in it do.

    `asyncio.TaskGroup` and anyio raise groups, also of a single error. Python 3.10 has none, but a package adds them.
    """
    inside = getattr(error, "exceptions", None)
    if isinstance(inside, tuple) and inside:
        return all(map(tells_only_of_an_end, inside))
    return isinstance(error, ConnectionClosed)
