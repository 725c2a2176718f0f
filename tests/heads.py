"""Heads of HTTP for the tests of the handshake: those of known programs, and bytes that arrive in every way.

Those of curl, websockets and Node's ws were recorded; those of browsers and proxies are their usual lines, put
together by hand. All have the key of RFC 6455 1.3 and what answers it. They are kept with bare line ends and
without the empty line, so that an editor or a checkout that changes line ends changes nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

HEADS = Path(__file__).parent / "fixtures" / "heads"
#: The key in every request below, and what answers it (RFC 6455 1.3).
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#: What may follow a head: a frame that holds what looks like another head.
TRAILING = b"\x82\x0aGET\r\n\r\n\r\n\r\n"

T = TypeVar("T")
Reader = Callable[["bytes | bytearray | memoryview"], "T | None"]


def names(prefix: str) -> list[str]:
    """The heads whose names begin with `prefix`."""
    found = sorted(path.stem for path in HEADS.glob(f"{prefix}-*.txt"))
    assert found
    return found


def head(name: str) -> bytes:
    """A head as it is on the wire."""
    return wire((HEADS / f"{name}.txt").read_text(encoding="latin-1"))


def wire(text: str) -> bytes:
    """Lines as a head on the wire."""
    lines = text.rstrip("\n").split("\n")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def request(*changes: tuple[str, str | None], first: str = "GET /chat HTTP/1.1") -> bytes:
    """RFC 6455's request; each change replaces a header's line, None removes it, a new name adds one."""
    lines = {
        "Host": "server.example.com",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    return build(first, lines, changes)


def response(*changes: tuple[str, str | None], first: str = "HTTP/1.1 101 Switching Protocols") -> bytes:
    """RFC 6455's response, with changes in the same way."""
    return build(
        first, {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}, changes
    )


def build(first: str, lines: dict[str, str], changes: tuple[tuple[str, str | None], ...]) -> bytes:
    given: dict[str, list[str]] = {}
    for name, value in changes:
        given.setdefault(name, [])
        if value is not None:
            given[name].append(value)
    merged = {**{name: [value] for name, value in lines.items()}, **given}
    return wire(
        "\n".join([first, *(f"{name}: {value}" for name, values in merged.items() for value in values)])
    )


def in_every_way(make: Callable[[], Reader[T]], data: bytes) -> Iterator[T]:
    """What a fresh reader makes of `data`: whole, byte by byte, with trailing bytes; as each type of bytes."""
    for kind in (bytes, bytearray, memoryview):
        whole = make()(kind(data))
        assert whole is not None
        yield whole
        read = make()
        for size in range(len(data)):
            assert read(kind(data[:size])) is None, f"{size} bytes of {len(data)} were enough"
        last = read(kind(data))
        assert last is not None
        yield last
        buffer = bytearray(data + TRAILING)
        trailing = make()(kind(buffer))
        assert trailing is not None
        assert buffer == data + TRAILING
        yield trailing
