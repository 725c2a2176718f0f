"""Sockets that a service manager has opened for this process: systemd's socket activation.

systemd listens, starts the service when somebody connects, and passes its sockets as descriptors from 3 on; so a
service can be restarted without refusing a connection, and need not run as root for port 443. See sd_listen_fds(3).
"""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["listen_fds"]

#: sd_listen_fds(3): SD_LISTEN_FDS_START, behind stdin, stdout and stderr.
FIRST = 3

#: The most digits of LISTEN_FDS: Linux allows a process 2**30 descriptors.
DIGITS = 10

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def listen_fds() -> list[socket.socket]:
    """The listening sockets that systemd passed to this process, in the order of its units; it may have passed none.

        (sock,) = zcws.listen_fds()
        async with zcws.serve(handler, sock=sock) as server: ...

    The variables are taken out of the environment, so that a child does not take the sockets for its own; calling this
    again gives nothing.

    Raises:
        ValueError: the variables make no sense, or a socket is one connection (Accept=yes), where none can be accepted.
        OSError: a descriptor is not open, or is not a socket.
    """
    told = {name: os.environ.pop(name, "") for name in VARIABLES}
    # sd_listen_fds(3): the variables may be a parent's, which forgot to take them out.
    if told["LISTEN_PID"] != str(os.getpid()):
        return []
    count = told["LISTEN_FDS"]
    if not count.isascii() or not count.isdigit() or len(count) > DIGITS:
        raise ValueError(f"LISTEN_FDS should be a number of sockets, not {count[: 2 * DIGITS]!r}")
    with contextlib.ExitStack() as opened:  # closes them if one is wrong
        sockets = [opened.enter_context(_adopted(fd)) for fd in range(FIRST, FIRST + int(count))]
        opened.pop_all()
    return sockets


def _adopted(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise OSError(error.errno, f"descriptor {fd}, which LISTEN_FDS counts: {error.strerror}") from None
    with contextlib.suppress(OSError):
        sock.getpeername()  # which nothing that listens has
        sock.close()
        raise ValueError(
            f"descriptor {fd} is one connection: sockets that listen come from a unit with Accept=no"
        )
    sock.set_inheritable(False)
    return sock
