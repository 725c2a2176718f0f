"""Counting on both sides of a session, and what must be true of the two counts.

What an end promises:

    drained           all was echoed, then the client closed: both have everything
    eager             the client closed behind its last message: the server has read every one of them
    server closes     the server closed behind its echo number `cut`: the client has read that and all before it
    aborts, resets    nothing was acknowledged: what has arrived is the beginning of what was sent, and no more

That messages arrive in order, none twice and none altered, is checked as each arrives, however the session ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .plan import Messages, Plan, diagnose

__all__ = ["Tally", "complaints"]

_CLEAN = 1000


@dataclass
class Tally:
    """One side of a session.

    Attributes:
        begun: messages whose sending has begun; sent: those for which it returned.
        received: messages that came, each the right one. size: their bytes and characters.
        code: the close code. wrong: what is wrong, if anything is.
        seconds: from the open connection to its end.
    """

    session: int
    side: str
    begun: int = 0
    sent: int = 0
    received: int = 0
    size: int = 0
    code: int | None = None
    wrong: str | None = None
    seconds: float = 0.0

    def take(self, messages: Messages, message: str | bytes) -> None:
        """A message has arrived. AssertionError: it is not the one that had to."""
        if message != messages.make(self.session, self.received):
            self.wrong = diagnose(self.session, self.received, message)
            raise AssertionError(self.wrong)
        self.received += 1
        self.size += len(message)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def complaints(plan: Plan, client: Tally, server: Tally) -> Iterator[str]:
    """What is wrong with a session."""
    for tally in (client, server):
        if tally.wrong is not None:
            yield f"{tally.side}: {tally.wrong}"
    if server.received > client.begun or client.received > server.begun:
        yield "more has arrived than was sent"
    if plan.ending in _PROMISES:
        yield from (
            f"{name} is {seen}, not {wanted}"
            for name, seen, wanted in _PROMISES[plan.ending](plan, client, server)
            if seen != wanted
        )


def _codes(client: Tally, server: Tally) -> list[tuple[str, Any, Any]]:
    return [("the client's close code", client.code, _CLEAN), ("the server's", server.code, _CLEAN)]


def _eager(plan: Plan, client: Tally, server: Tally) -> list[tuple[str, Any, Any]]:
    return [
        ("what the client has sent", client.sent, plan.count),
        ("what the server has received", server.received, plan.count),
        *_codes(client, server),
    ]


def _drained(plan: Plan, client: Tally, server: Tally) -> list[tuple[str, Any, Any]]:
    return [
        ("what the server has sent", server.sent, plan.count),
        ("what the client has received", client.received, plan.count),
        *_eager(plan, client, server),
    ]


def _server_closes(plan: Plan, client: Tally, server: Tally) -> list[tuple[str, Any, Any]]:
    return [
        ("what the server has sent", server.sent, plan.cut),
        ("what the client has received", client.received, plan.cut),
        *_codes(client, server),
    ]


_PROMISES = {"drained": _drained, "eager": _eager, "server closes": _server_closes}
