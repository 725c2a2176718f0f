"""A race between the addresses of a host, on asyncio: the first that connects wins. RFC 8305.

What this file decides: which address is tried when, from where, and who closes which socket. The options are those of
asyncio's `create_connection`, and mean what they mean there. Its own race forgets the winner's socket when it is
cancelled in the turn in which that has connected, and uvloop has none.

    attempt                 its socket
    ----------------------  ---------------------------------------------------------
    has failed              closed by the attempt itself, as when it is cancelled
    has connected, first    the caller's
    has connected, later    closed by the race, as the first is when that is cancelled
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import socket
import sys
from collections.abc import Coroutine, Iterator
from typing import Any

from zcws.failures import cannot_connect, unknown_host
from zcws.route import EYEBALLS_DELAY, interleaved, is_address

__all__ = ["race"]

#: What getaddrinfo says of one address.
_Info = tuple[int, int, int, str, Any]
#: A socket that has connected, or None.
_Attempt = Coroutine[Any, Any, "socket.socket | None"]


async def race(
    loop: asyncio.AbstractEventLoop,
    host: str,
    port: int,
    *,
    family: int = socket.AF_UNSPEC,
    proto: int = 0,
    flags: int = 0,
    local_addr: tuple[str, int] | None = None,
    happy_eyeballs_delay: float | None = EYEBALLS_DELAY,
    interleave: int | None = None,
    all_errors: bool = False,
) -> socket.socket:
    """A TCP connection, which does not block, to the first of a host's addresses that answers.

    Raises:
        OSError: none does, or there is no such host. ExceptionGroup: the former, with `all_errors`.
    """
    hints = (family, socket.SOCK_STREAM, proto, flags)
    found = await _resolved(loop, host, port, *hints)
    sources = None if local_addr is None else await _resolved(loop, *local_addr[:2], *hints)
    if interleave is None:
        interleave = 0 if happy_eyeballs_delay is None else 1
    if interleave:
        found = list(interleaved(found, interleave))
    failures: list[tuple[Any, OSError]] = []
    attempts = (_attempt(loop, info, sources, failures) for info in found)
    if happy_eyeballs_delay is None or len(found) == 1:
        winner = await _one_by_one(attempts)
    else:
        winner = await _side_by_side(attempts, happy_eyeballs_delay)
    if winner is not None:
        return winner
    if all_errors and sys.version_info >= (3, 11):  # before, the one error names them all
        each = [cannot_connect([failure], local_addr) for failure in failures]
        raise builtins.ExceptionGroup(f"cannot connect to {host}", each)
    raise cannot_connect(failures, local_addr)


async def _resolved(
    loop: asyncio.AbstractEventLoop, host: str, port: int, family: int, kind: int, proto: int, flags: int
) -> list[Any]:
    try:
        if host and is_address(host):  # this asks nobody; the loop would start a thread for it
            return socket.getaddrinfo(host, port, family, kind, proto, flags | socket.AI_NUMERICHOST)
        found = await loop.getaddrinfo(host, port, family=family, type=kind, proto=proto, flags=flags)
        if not found:  # a resolver of the program's own
            raise socket.gaierror(socket.EAI_NONAME, "no address was found")
        return found
    except socket.gaierror as error:
        raise unknown_host(host, error) from None


async def _one_by_one(attempts: Iterator[_Attempt]) -> socket.socket | None:
    for attempt in attempts:
        if (sock := await attempt) is not None:
            return sock
    return None


async def _side_by_side(attempts: Iterator[_Attempt], delay: float) -> socket.socket | None:
    """The next attempt begins `delay` seconds after the last, or at once when one has failed."""
    running: set[asyncio.Task[socket.socket | None]] = set()
    try:
        while True:
            attempt = next(attempts, None)
            if attempt is not None:
                running.add(asyncio.ensure_future(attempt))
            elif not running:
                return None
            timeout = None if attempt is None else delay
            done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                running.remove(task)
                if (sock := task.result()) is not None:
                    return sock
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close)  # it may have connected already


def _close(task: asyncio.Task[socket.socket | None]) -> None:
    if not task.cancelled() and task.exception() is None and (sock := task.result()) is not None:
        sock.close()


async def _attempt(
    loop: asyncio.AbstractEventLoop,
    info: _Info,
    sources: list[_Info] | None,
    failures: list[tuple[Any, OSError]],
) -> socket.socket | None:
    """A connection to one address, or None, with one more failure."""
    family, kind, proto, _, where = info
    sock = None
    try:
        sock = socket.socket(family, kind, proto)
        sock.setblocking(False)
        if sources is not None:
            _bind(sock, [source for of, *_, source in sources if of == family])
        await loop.sock_connect(sock, _with_zone(where))
        return sock
    except BaseException as error:
        if sock is not None:
            sock.close()
        if not isinstance(error, OSError):
            raise
        if isinstance(error, ConnectionRefusedError):
            # asyncio on Windows: the system's number for a refusal (1225) becomes another errno
            error = OSError(errno.ECONNREFUSED, error.strerror)
        # Without its traceback, which would hold this frame, and that holds `failures`.
        failures.append((where, error.with_traceback(None)))
        return None


def _bind(sock: socket.socket, sources: list[Any]) -> None:
    """Binds to the first of `sources` that can be had."""
    failure = OSError(errno.EADDRNOTAVAIL, "no source of the address's family")
    for source in sources:
        try:
            return sock.bind(source)
        except OSError as error:
            failure = error
    raise failure


def _with_zone(where: Any) -> Any:
    """A socket address whose host names its zone as well: uvloop looks at host and port alone."""
    return (f"{where[0]}%{where[3]}", *where[1:]) if len(where) > 2 and where[3] else where
