"""A load generator in Python, for what the one in C does not do: TLS, and messages that come in packets.

It is slower than that one, so only the server's CPU time counts, not the rate. It uses blocking sockets: it sends a
message on each, then reads the echo from each.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.frames import build
from benchmarks.measure import Pace
from benchmarks.peers.raw import REQUEST
from benchmarks.process import Failed, Server, cpu_time, start

__all__ = ["generate", "main", "make_certificate", "open_connection"]

#: Seconds that connecting may take.
GRACE = 30


def generate(
    pace: Pace,
    server: Server,
    case: tuple[int, int, int],
    *,
    certificate: str | None = None,
    raw: bool = False,
    packets: tuple[int, float] = (0, 0),
) -> dict[str, float]:
    """Runs it against a server.

    Args:
        case: connections, messages in flight on each, bytes.
        raw: no WebSocket, only bytes.
        packets: bytes of each, and seconds from one to the next; 0: as large as the system makes them.
    """
    numbers = (*case, pace.seconds, pace.warmup, *packets)
    about = (server.port, server.process.pid, certificate or "", "raw" if raw else "websocket")
    command = [sys.executable, "-m", "benchmarks.pyload", *map(str, (*about, *numbers))]
    process = start(command, -1, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, error = process.communicate(timeout=pace.seconds + pace.warmup + GRACE)
    if process.returncode != 0:
        raise Failed(error.splitlines()[-1] if error else "the generator failed")
    figures: dict[str, float] = json.loads(out)
    return figures


def make_certificate(folder: Path) -> str | None:
    """One file with a key, its certificate, and the authority's. None without the package trustme."""
    if importlib.util.find_spec("trustme") is None:
        return None
    import trustme

    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    path = folder / "all.pem"
    parts = [leaf.private_key_pem, *leaf.cert_chain_pems, authority.cert_pem]
    path.write_bytes(b"".join(part.bytes() for part in parts))
    return str(path)


def open_connection(
    port: int, certificate: str | None, *, raw: bool, offer: str = "", timeout: float | None = None
) -> socket.socket:
    """A connected socket (over TLS if there is a certificate to trust), after the WebSocket handshake unless `raw`."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certificate)
        connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
    if not raw:
        extension = f"Sec-WebSocket-Extensions: {offer}\r\n\r\n".encode() if offer else b"\r\n"
        connection.sendall(REQUEST.removesuffix(b"\r\n") + extension)
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1)  # byte by byte: what follows is a frame
    return connection


def cut(block: bytes, size: int) -> list[memoryview]:
    """In packets of so many bytes; 0: in one."""
    view = memoryview(block)
    return [view[at : at + size] for at in range(0, len(block), size)] if size else [view]


def turn(
    connections: list[socket.socket], parts: list[memoryview], gap: float, expected: int, buffer: memoryview
) -> None:
    """One echo on every connection."""
    for connection in connections:
        for part in parts:
            due = time.perf_counter() + gap
            connection.sendall(part)
            while time.perf_counter() < due:
                pass
    for connection in connections:
        missing = expected
        while missing:
            missing -= connection.recv_into(buffer[:missing])


def main(arguments: list[str]) -> None:
    """PORT PID CERTIFICATE RAW CONNECTIONS DEPTH SIZE SECONDS WARMUP PACKET GAP."""
    port, pid, certificate, raw, *numbers = arguments
    connections, depth, size = map(int, numbers[:3])
    seconds, warmup = map(float, numbers[3:5])
    packet, gap = int(numbers[5]), float(numbers[6])
    is_raw = raw == "raw"
    opened = [open_connection(int(port), certificate or None, raw=is_raw) for _ in range(connections)]
    block = build(b"x" * size, masked=True) * depth
    expected, parts = len(block) - (0 if is_raw else 4 * depth), cut(block, packet)
    buffer = memoryview(bytearray(expected))
    warm = time.perf_counter() + warmup
    while time.perf_counter() < warm:
        turn(opened, parts, gap, expected, buffer)
    turns, began, own, cpu = 0, time.perf_counter(), time.process_time(), cpu_time(int(pid))
    while time.perf_counter() < began + seconds:
        turn(opened, parts, gap, expected, buffer)
        turns += 1
    cpu, own, took = cpu_time(int(pid)) - cpu, time.process_time() - own, time.perf_counter() - began
    units = turns * connections * depth
    figures = {"units": units, "seconds": took, "per_second": units / took, "cpu_us": cpu / units * 1e6}
    if not gap:  # else it counts the time between packets as its own
        figures["generator_share"] = own / took
    print(json.dumps({**figures, "cpu_share": cpu / took}))


if __name__ == "__main__":
    main(sys.argv[1:])
