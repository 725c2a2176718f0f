"""The raw peer of net.py for blocking tests: a WebSocket by hand (wire.py) on a blocking socket."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import net
import wire

import zcws.sync

#: Seconds after which something that should have happened is called a failure. Nothing takes that long.
LONG = net.LONG

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def socket_pair(*, tcp: bool = False) -> tuple[socket.socket, socket.socket]:
    """Two ends that are joined: as `socket.socketpair` makes them, which is TCP on Windows, or `tcp` in any case.

    TCP is as good here as a pair of Unix sockets: what is sent arrives, whatever happens to the sender next, and a few
    hundred KiB fill it.
    """
    if tcp:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = socket.create_connection(listening.getsockname(), LONG)
            ours.settimeout(None)
            pair = ours, listening.accept()[0]
    else:
        pair = socket.socketpair()
    for end in pair:
        if end.family != getattr(socket, "AF_UNIX", None):
            # Or a small part waits in its sender's system until the one before it is confirmed (RFC 9293 3.7.4), which
            # may take 40 ms, and is dropped where the sender resets the connection meanwhile.
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, buffer, 128 * 1024)
    return pair


class Peer:
    """The other end of a connection that is open. masks: whether its frames are masked: it is a client."""

    def __init__(self, sock: socket.socket, *, masks: bool) -> None:
        sock.settimeout(LONG)
        self.sock = sock
        self.key = wire.KEY if masks else None

    def frame(self, opcode: int, payload: bytes = b"", **options: Any) -> bytes:
        return wire.frame(opcode, payload, key=self.key, **options)

    def send(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        self.sock.sendall(self.frame(opcode, payload, **options))

    def send_bytes(self, data: bytes) -> None:
        self.sock.sendall(data)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, f"the stream ended after {data!r}"
            data += piece
        return data

    def read(self) -> wire.Seen:
        """The next frame."""
        data = self.exactly(2)
        extra = {126: 2, 127: 8}.get(data[1] & 0x7F, 0) + (4 if data[1] & 0x80 else 0)
        data += self.exactly(extra)
        size = data[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack_from("!H", data, 2)
        elif size == 127:
            (size,) = struct.unpack_from("!Q", data, 2)
        (seen,) = wire.parse(data + self.exactly(size))
        return seen

    def frames(self, count: int) -> list[wire.Seen]:
        """The next so many."""
        return [self.read() for _ in range(count)]

    def rest(self) -> list[wire.Seen]:
        """Every frame until the other side ends the stream."""
        data = b""
        # A broken pipe: TLS may write when it reads.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while piece := self.sock.recv(65536):
                data += piece
        return wire.parse(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Ends it with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def head_of(sock: socket.socket) -> bytes:
    """A request's or a response's head, and nothing behind it."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        assert piece, data
        data += piece
    return data


def read_to_end(sock: socket.socket) -> bytes:
    """All that the other side says."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


@contextlib.contextmanager
def client(
    port: int, *lines: str, behind: bytes = b"", context: ssl.SSLContext | None = None
) -> Iterator[Peer]:
    """A peer that has opened a WebSocket at 127.0.0.1:port by hand; `behind` is sent right behind the request."""
    sock = socket.create_connection(("127.0.0.1", port), LONG)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
    with sock:
        sock.sendall(net.request(*lines) + behind)
        answer = head_of(sock)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        yield Peer(sock, masks=True)


def accept(listening: socket.socket, headers: bytes = b"", behind: bytes = b"") -> Peer:
    """The server's side of one connection, opened by hand."""
    listening.settimeout(LONG)
    sock, _ = listening.accept()
    sock.settimeout(LONG)
    sock.sendall(net.response(head_of(sock), headers) + behind)
    return Peer(sock, masks=False)


@contextlib.contextmanager
def server(
    script: Callable[[Peer], None],
    *,
    headers: bytes = b"",
    behind: bytes = b"",
    context: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """A server that opens one WebSocket by hand and then follows `script` in a thread; its port."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            listening.settimeout(LONG)
            sock, _ = listening.accept()
            sock.settimeout(LONG)
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True)
            with sock:
                sock.sendall(net.response(head_of(sock), headers) + behind)
                script(Peer(sock, masks=False))
        except BaseException as error:
            failures.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        with thread(run):
            yield listening.getsockname()[1]
    if failures:
        raise failures[0]


@contextlib.contextmanager
def crowded(path: Path) -> Iterator[None]:
    """A Unix socket at which somebody listens, accepts nobody, and has no room in the queue. Linux only."""
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as fillers:
        listening.bind(str(path))
        listening.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler = fillers.enter_context(socket.socket(socket.AF_UNIX))
                filler.setblocking(False)
                filler.connect(str(path))
        yield


class Names:
    """A name server that gives every name the same addresses: in place of `socket.getaddrinfo`, and `on_loop` in place
    of what racing.py has, because uvloop's getaddrinfo is its own."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        self.addresses = addresses

    def __call__(self, host: str, port: int, family: int = 0, *hints: int) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in place[0] else socket.AF_INET, socket.SOCK_STREAM, 6, "", place)
            for place in self.addresses
        ]

    async def on_loop(self, _: object, *asked: Any) -> list[Any]:
        return self(*asked)


@contextlib.contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """A TCP address that answers nobody: its backlog is full, so that the kernel drops what comes. Linux only."""
    with socket.socket() as listening, contextlib.ExitStack() as fillers:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        time.sleep(0.05)
        yield listening.getsockname()


@contextlib.contextmanager
def thread(target: Callable[[], object], *, patience: float = LONG) -> Iterator[threading.Thread]:
    """`target` in a thread, which ends before this does. What it raises is raised here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            target()
        except BaseException as error:
            failures.append(error)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    yield running
    running.join(patience)
    assert not running.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


def until(condition: Callable[[], object]) -> None:
    """Until `condition` holds, while other threads run."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


@contextlib.contextmanager
def no_thread_left() -> Iterator[None]:
    """Every thread that begins inside of it ends by itself. One of an earlier test may end meanwhile."""
    before = {*threading.enumerate()}
    yield
    until(lambda: {*threading.enumerate()} <= before)


def echo(ws: zcws.sync.WebSocket) -> None:
    """A handler that answers every message with itself."""
    for message in ws:
        ws.send(message)


def swallow(ws: zcws.sync.WebSocket) -> None:
    """A handler that reads and says nothing."""
    for _ in ws:
        pass


def port_of(server: zcws.sync.Server) -> int:
    port: int = server.sock.getsockname()[1]
    return port
