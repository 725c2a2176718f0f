"""Sockets that a service manager has opened for this process: systemd's socket activation.

systemd listens, starts the service when somebody connects, and passes its sockets as descriptors from 3 on; so a
service can be restarted without refusing a connection, and need not run as root for port 443. See sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket

__all__ = ["listen_fds"]

#: sd_listen_fds(3): SD_LISTEN_FDS_START, behind stdin, stdout and stderr.
FIRST = 3

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def listen_fds() -> list[socket.socket]:
    """The listening sockets that systemd passed to this process, in the order of its units; it may have passed none.

        (sock,) = zcws.listen_fds()
        async with zcws.serve(handler, sock=sock) as server: ...

    The variables are taken out of the environment, so that a child does not take the sockets for its own; calling this
    again gives nothing.

    Raises:
        ValueError: the variables make no sense.
        OSError: a descriptor is not open, or is not a socket.
    """
    told = {name: os.environ.pop(name, "") for name in VARIABLES}
    # sd_listen_fds(3): the variables may be a parent's, which forgot to take them out.
    if told["LISTEN_PID"] != str(os.getpid()):
        return []
    if not told["LISTEN_FDS"].isascii() or not told["LISTEN_FDS"].isdigit():
        raise ValueError(f"LISTEN_FDS should be a number of sockets, not {told['LISTEN_FDS']!r}")
    sockets = [socket.socket(fileno=fd) for fd in range(FIRST, FIRST + int(told["LISTEN_FDS"]))]
    for sock in sockets:
        sock.set_inheritable(False)
    return sockets
