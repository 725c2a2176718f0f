"""A network of our own: two namespaces, a device in each, and between the devices a relay that is the wire.

    namespace "near"                                             namespace "far"
    the test's clients -- zcws0, 192.0.2.1 -- relay.py -- zcws0, 192.0.2.2 -- the server
                                                                 a witness -- lo

The devices are made here, where the relay has their descriptors, and then moved: a TUN device keeps its descriptor
wherever it goes. A socket stays in the namespace of the thread that has made it, so a test enters one only to connect.

Both namespaces have this process's id in their names, and go with the test, whatever becomes of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .relay import Relay

__all__ = ["FAR", "Wire", "missing", "wire"]

#: RFC 5737: addresses that are nobody's.
NEAR, FAR = "192.0.2.1", "192.0.2.2"

TUN = Path("/dev/net/tun")

#: include/uapi/linux/if_tun.h: a device of IP packets, which come without a head of TUN's own.
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


def missing() -> str | None:
    """What this machine has not, of what a network needs."""
    if not TUN.exists():
        return f"there is no {TUN}"
    if shutil.which("ip") is None:
        return "there is no ip (iproute2)"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    tried = subprocess.run(["ip", "netns", "add", _name("trial")], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespaces: {tried.stderr.strip()}"
    _ip("netns", "delete", _name("trial"))
    return None


class Wire:
    """Two namespaces, `near` and `far`, and the relay between them, whose chance comes from the seed."""

    def __init__(self, near: str, far: str, relay: Relay, seed: int) -> None:
        self.seed = seed
        self.near = near
        self.far = far
        self.relay = relay

    def retransmitted(self) -> int:
        """Segments that TCP has sent again, on either side."""
        return sum(_retransmitted(name) for name in (self.near, self.far))


@contextlib.contextmanager
def wire(seed: int) -> Iterator[Wire]:
    """A network, while this lasts."""
    with contextlib.ExitStack() as stack:
        near, far = (stack.enter_context(_namespace(_name(end))) for end in ("near", "far"))
        ends = tuple(
            stack.enter_context(_device(name, address)) for name, address in ((near, NEAR), (far, FAR))
        )
        relay = stack.enter_context(Relay((ends[0], ends[1]), seed).running())
        yield Wire(near, far, relay, seed)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread, and those that it starts, are in the namespace meanwhile."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(f"/var/run/netns/{name}")
        yield
    finally:
        _enter(f"/proc/self/fd/{home}")
        os.close(home)


def _name(end: str) -> str:
    return f"zcws-{os.getpid()}-{end}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[str]:
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _ip("netns", "delete", name)


@contextlib.contextmanager
def _device(namespace: str, address: str) -> Iterator[int]:
    """A TUN device in a namespace; its descriptor, with which it goes."""
    device = os.open(TUN, os.O_RDWR)
    try:
        # Made under a name that no other process's has: all of them are in one namespace until they are moved.
        made = fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"zcws%d", _IFF_TUN | _IFF_NO_PI))
        name = made[:16].rstrip(b"\0").decode()
        _ip("link", "set", name, "netns", namespace)
        _ip("-n", namespace, "address", "add", f"{address}/24", "dev", name)
        _ip("-n", namespace, "link", "set", name, "up")
        yield device
    finally:
        os.close(device)


def _enter(path: str) -> None:
    """setns(2), which Python has from 3.12 on."""
    namespace = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(namespace)


def _retransmitted(name: str) -> int:
    with inside(name):
        text = Path("/proc/thread-self/net/snmp").read_text()
    names, figures = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
    return int(figures[names.index("RetransSegs")])
