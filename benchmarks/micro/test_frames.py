"""Frames without a socket: 256 text frames read from one piece of bytes, and 256 messages written."""

from __future__ import annotations

from typing import Any

import pytest

import zcws
from benchmarks.frames import build

COUNT = 256
SIZES = [0, 64, 256, 1000]  # 256 of these still fit into one ring
KEYS = bytes(range(1, 5))

pytestmark = pytest.mark.parametrize("size", SIZES)


def entropy(size: int) -> bytes:
    return (KEYS * (size // 4 + 1))[:size]


def feed(connection: zcws.Connection, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[connection.receive_bytes(view) :]


@pytest.mark.parametrize("kind", ["frame", "message"])
def test_zcws_reads(benchmark: Any, size: int, kind: str) -> None:
    benchmark.group = f"read {COUNT} frames of {size}"
    connection = zcws.Connection(is_client=True, entropy=entropy)
    data, read_one = build(b"x" * size, masked=False) * COUNT, getattr(connection, f"read_{kind}")

    def read() -> int:
        feed(connection, data)
        count = 0
        while read_one() is not zcws.NEED_MORE:
            count += 1
        return count

    assert benchmark(read) == COUNT


def test_websockets_reads(benchmark: Any, size: int) -> None:
    protocol = pytest.importorskip("websockets.protocol")
    benchmark.group = f"read {COUNT} frames of {size}"
    connection = protocol.Protocol(protocol.Side.CLIENT, state=protocol.State.OPEN)
    data = build(b"x" * size, masked=False) * COUNT

    def read() -> int:
        connection.receive_data(data)
        return len(connection.events_received())

    assert benchmark(read) == COUNT


@pytest.mark.parametrize("role", ["client", "server"])
def test_zcws_writes(benchmark: Any, size: int, role: str) -> None:
    benchmark.group = f"write {COUNT} messages of {size}, {role}"
    connection, message = zcws.Connection(is_client=role == "client", entropy=entropy), "x" * size

    def write() -> int:
        for _ in range(COUNT):
            connection.send(message)
        return len(b"".join(connection.take()))

    assert benchmark(write) > COUNT


@pytest.mark.parametrize("role", ["client", "server"])
def test_websockets_writes(benchmark: Any, size: int, role: str) -> None:
    frames = pytest.importorskip("websockets.frames")
    benchmark.group = f"write {COUNT} messages of {size}, {role}"
    message = b"x" * size

    def write() -> int:
        made = [
            frames.Frame(frames.Opcode.TEXT, message).serialize(mask=role == "client") for _ in range(COUNT)
        ]
        return sum(map(len, made))

    assert benchmark(write) > COUNT
