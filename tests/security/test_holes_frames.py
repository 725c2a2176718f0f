"""The holes of other libraries behind an open connection: each a test that is named after its advisory.

Both roles wherever the hole can be in both. The last hole of every library in here was found by its users.
"""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pytest
import wire
from pair import deflated
from peaks import peak_of

from zcws.closing import State
from zcws.connection import Connection
from zcws.errors import ConnectionClosed, LimitExceeded, ProtocolError
from zcws.frame import NEED_MORE
from zcws.pool import Pool

#: What a connection may hold beside a message: a ring, a table, an inflater and Python's own objects.
SPARE = 2 * 1024 * 1024


class End:
    """One end of a connection, and the frames of the hostile one."""

    def __init__(self, role: str, **settings: Any) -> None:
        is_client = role == "client"
        self.key = None if is_client else wire.KEY
        entropy = os.urandom if is_client else None
        self.connection = Connection(is_client=is_client, entropy=entropy, pool=Pool(), **settings)

    def frame(self, opcode: int, payload: bytes = b"", **options: Any) -> bytes:
        return wire.frame(opcode, payload, key=self.key, **options)

    def head(self, opcode: int, size: int, **options: Any) -> bytes:
        return wire.head(opcode, size, key=self.key, **options)

    def feed(self, data: bytes) -> list[str | bytes]:
        """Everything that can be read once `data` has arrived."""
        messages: list[str | bytes] = []
        view = memoryview(data)
        while view:
            used = self.connection.receive_bytes(view)
            view = view[used:]
            before = len(messages)
            while (message := self.connection.read_message()) is not NEED_MORE:
                messages.append(message)
            assert used or len(messages) > before, "it takes no more although everything has been read"
        return messages

    def fails(self, pieces: bytes | Iterable[bytes], code: int) -> ProtocolError:
        """Somewhere in `pieces` it fails, with this code on the wire."""
        with pytest.raises(ProtocolError) as caught:
            for piece in [pieces] if isinstance(pieces, bytes) else pieces:
                self.feed(piece)
        assert caught.value.code == code
        close = wire.parse(self.connection.bytes_to_send())[-1]
        assert (close.opcode, close.payload[:2]) == (wire.CLOSE, struct.pack("!H", code))
        assert self.connection.state is State.FAILED
        return caught.value


# ---- decompression bombs ----


@cache
def bomb(size: int) -> bytes:
    """`size` zeros, about a thousandth of that on the wire."""
    return wire.deflate(bytes(size))


@pytest.mark.parametrize(
    ("advisory", "pieces"), [("CVE-2018-1000518", 1), ("CVE-2026-39804", 7), ("CVE-2026-1526", 3)]
)
def test_cve_2018_1000518_a_bomb_is_stopped_while_it_inflates(role: str, advisory: str, pieces: int) -> None:
    """websockets and bandit; undici, which is a client."""
    end = End(role, agreement=deflated(), max_size=1 << 20)
    payload = bomb(64 << 20)
    size = -(-len(payload) // pieces)
    parts = [payload[i : i + size] for i in range(0, len(payload), size)]
    frames = wire.fragments(wire.BINARY, parts, rsv=4, key=end.key)
    peak = peak_of(lambda: end.fails(frames, 1009))
    assert peak < (1 << 20) + SPARE


@pytest.mark.parametrize("advisory", ["CVE-2026-54278", "CVE-2025-69223"])
def test_cve_2026_54278_what_is_dropped_is_not_inflated_at_once(role: str, advisory: str) -> None:
    """After our Close data is dropped: a bomb among it costs nothing (aiohttp drained such bodies whole)."""
    end = End(role, agreement=deflated(), max_size=1 << 20)
    end.connection.close()
    frame = end.frame(wire.BINARY, bomb(64 << 20), rsv=4)
    assert peak_of(lambda: end.feed(frame)) < SPARE
    assert end.connection.state is State.CLOSE_SENT
    with pytest.raises(ConnectionClosed):
        end.feed(end.frame(wire.CLOSE, wire.close_payload(1000)))


def test_cve_2026_54278_a_stream_that_is_left_does_not_inflate_at_once(role: str) -> None:
    end = End(role, agreement=deflated(), max_size=1 << 20)
    reader = end.connection.reader
    reader.begin_stream()
    end.connection.receive_bytes(end.frame(wire.BINARY, wire.deflate(b"x" * 100), rsv=4, fin=False))
    assert reader.read_piece() is not NEED_MORE
    reader.end_stream()
    rest = end.frame(wire.CONTINUATION, bomb(64 << 20))
    peak = peak_of(lambda: pytest.raises(ConnectionClosed, end.feed, rest))
    assert peak < (1 << 20) + SPARE


# ---- fragments ----


@pytest.mark.parametrize("advisory", ["CVE-2026-42786", "CVE-2014-0193"])
def test_cve_2026_42786_fragments_count_together(role: str, advisory: str) -> None:
    """Each is under the limit, and there is no end to them (bandit, Netty)."""
    end = End(role, max_size=1 << 20)
    piece = end.frame(wire.CONTINUATION, bytes(1000), fin=False)
    endless = itertools.chain([end.frame(wire.BINARY, bytes(1000), fin=False)], itertools.repeat(piece))
    taken = -1

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for data in endless:
            taken += 1
            yield data

    peak = peak_of(lambda: end.fails(counted(), 1009))
    assert taken == (1 << 20) // 1000
    assert peak < (1 << 20) + SPARE


@pytest.mark.parametrize(("advisory", "size"), [("CVE-2026-48779", 1), ("CVE-2026-12151", 0)])
def test_cve_2026_48779_tiny_fragments_are_counted_and_hold_nothing(
    role: str, advisory: str, size: int
) -> None:
    """ws, undici: an object for each of them was a hundred bytes and more for one."""
    end = End(role, max_fragments=10_000)
    first = end.frame(wire.BINARY, bytes(size), fin=False)
    piece = end.frame(wire.CONTINUATION, bytes(size), fin=False)
    end.feed(first)
    many = piece * 9_999
    assert peak_of(lambda: end.feed(many)) < SPARE
    error = end.fails(piece, 1009)
    assert isinstance(error, LimitExceeded) and "max_fragments=10000" in error.limits


def test_cve_2026_48779_inside_a_compressed_message(role: str) -> None:
    end = End(role, agreement=deflated(), max_fragments=1000)
    end.feed(end.frame(wire.BINARY, wire.deflate(b"x"), rsv=4, fin=False))
    end.feed(end.frame(wire.CONTINUATION, fin=False) * 999)
    end.fails(end.frame(wire.CONTINUATION, fin=False), 1009)


def test_cve_2026_65623_reassembly_is_linear(role: str) -> None:
    """bandit copied all that it had for each fragment. Not timed: that would be a terabyte here, and the test's end."""
    end = End(role, max_size=32 << 20)
    end.feed(end.frame(wire.BINARY, bytes(16 << 20), fin=False))
    end.feed(end.frame(wire.CONTINUATION, b"x", fin=False) * 60_000)
    (message,) = end.feed(end.frame(wire.CONTINUATION, b"y"))
    assert len(message) == (16 << 20) + 60_001
    assert message[-3:] == b"xxy"


# ---- lengths ----

LENGTHS = [
    ("CVE-2020-27813", 2**63),
    ("CVE-2020-27813", 2**63 - 1),
    ("CVE-2026-1528", 2**64 - 1),
    ("CVE-2026-54466", 2**32 + 1),
    ("CVE-2026-54466", 2**32),
    ("CVE-2017-2921", 2**32 - 1),
    ("CVE-2017-2921", 2**31),
    ("CVE-2020-13935", 2**63 + 5),
    ("ios-webkit-debug-proxy-435", 2**64 - 14),
    ("ios-webkit-debug-proxy-435", 2**48),
]


@pytest.mark.parametrize(("advisory", "size"), LENGTHS)
def test_cve_2020_27813_lengths_that_overflow(role: str, advisory: str, size: int) -> None:
    """gorilla, undici, websocket-driver, mongoose, Tomcat: a length that became negative, small, or a loop.

    RFC 6455 5.2: "the most significant bit MUST be 0", so from 2**63 on it is no length at all.
    """
    end = End(role)
    bits = (0x80 if end.key else 0) | 127
    head = struct.pack("!BBQ", 0x82, bits, size) + (end.key or b"")
    assert peak_of(lambda: end.fails(head, 1002 if size >= 2**63 else 1009)) < SPARE


@pytest.mark.parametrize(("size", "form"), [(0, 16), (125, 16), (125, 64), (126, 64), (65535, 64)])
def test_cve_2020_13935_lengths_that_are_not_minimal(role: str, size: int, form: int) -> None:
    """RFC 6455 5.2: "the minimal number of bytes MUST be used"."""
    end = End(role)
    end.fails(end.head(wire.BINARY, size, form=form), 1002)


@pytest.mark.parametrize("size", [0, 125, 126, 127, 65535, 65536, 65537])
def test_cve_2020_13935_lengths_at_the_edges_are_right(role: str, size: int) -> None:
    end = End(role)
    payload = os.urandom(size)
    assert end.feed(end.frame(wire.BINARY, payload)) == [payload]


def test_ghsa_xcgm_r5h9_7989_a_head_over_the_limit_is_refused_before_its_payload(role: str) -> None:
    """aiohttp: the payload was kept first, and counted then."""
    end = End(role, max_size=1000)
    end.fails([bytes([byte]) for byte in end.head(wire.TEXT, 1001)], 1009)


def test_ghsa_xcgm_r5h9_7989_memory_grows_with_what_has_arrived(role: str) -> None:
    """What is announced is not allocated: a head for 16 MiB costs what its first bytes cost."""
    end = End(role)
    assert peak_of(lambda: end.feed(end.head(wire.BINARY, 16 << 20) + bytes(1000))) < SPARE


# ---- compression that nobody agreed to ----


@pytest.mark.parametrize("opcode", [wire.TEXT, wire.BINARY])
def test_cve_2026_59881_a_compressed_frame_without_the_extension(role: str, opcode: int) -> None:
    """aiohttp's client inflated what it had not agreed to inflate. RFC 6455 5.2, RSV1."""
    end = End(role)
    end.fails(end.frame(opcode, wire.deflate(b"hello"), rsv=4), 1002)


@pytest.mark.parametrize("rsv", [1, 2, 3, 5, 6, 7])
def test_cve_2026_59881_bits_that_no_extension_defines(role: str, rsv: int) -> None:
    end = End(role, agreement=deflated())
    end.fails(end.frame(wire.BINARY, b"x", rsv=rsv), 1002)


@pytest.mark.parametrize("opcode", [wire.PING, wire.PONG, wire.CLOSE, wire.CONTINUATION])
def test_cve_2026_59881_nor_where_the_extension_forbids_it(role: str, opcode: int) -> None:
    """RFC 7692 6: RSV1 on the first frame of a message, and on no other."""
    end = End(role, agreement=deflated())
    if opcode == wire.CONTINUATION:
        end.feed(end.frame(wire.TEXT, b"x", fin=False))
    end.fails(end.frame(opcode, wire.deflate(b"xx"), rsv=4), 1002)


# ---- memory that is not ours to show ----


@pytest.mark.parametrize("advisory", ["CVE-2016-10518", "CVE-2026-45736"])
def test_cve_2016_10518_what_is_sent_is_what_was_given(role: str, advisory: str) -> None:
    """ws: a Ping of a number sent so many bytes of memory; nothing here makes a buffer of a number."""
    end = End(role)
    for number in (7, 100):
        with pytest.raises(TypeError):
            end.connection.ping(number)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            end.connection.send(number)  # type: ignore[arg-type]
    assert end.connection.bytes_to_send() == b""


def test_cve_2016_10518_replies_hold_nothing_of_what_came_before(role: str) -> None:
    end = End(role)
    secret = b"secret" * 20
    for payload in (secret, b"", b"x", secret[:125], b"yz"):
        end.feed(end.frame(wire.PING, payload))
        (pong,) = wire.parse(end.connection.bytes_to_send())
        assert (pong.opcode, pong.payload) == (wire.PONG, payload)
    end.feed(end.frame(wire.PING, secret))
    end.connection.bytes_to_send()
    with pytest.raises(ConnectionClosed):
        end.feed(end.frame(wire.CLOSE, wire.close_payload(1000)))
    (close,) = wire.parse(end.connection.bytes_to_send())
    assert close.payload == wire.close_payload(1000)


def test_cve_2026_45736_one_connections_history_is_not_anothers(role: str) -> None:
    """Inflaters and rings are lent from one pool: a back-reference beyond the beginning finds nothing."""
    compressor = zlib.compressobj(wbits=-15)
    secret = b"the password is xyzzy, the password is xyzzy"
    first = (compressor.compress(secret) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    refers_back = (compressor.compress(secret) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    pool = Pool()
    ends = [End(role, agreement=deflated()) for _ in range(2)]
    for end in ends:
        end.connection = Connection(
            is_client=role == "client", entropy=os.urandom, pool=pool, agreement=deflated()
        )
    assert ends[0].feed(ends[0].frame(wire.BINARY, first, rsv=4)) == [secret]
    ends[1].fails(ends[1].frame(wire.BINARY, refers_back, rsv=4), 1007)
    assert ends[0].feed(ends[0].frame(wire.BINARY, refers_back, rsv=4)) == [secret]


# ---- what a peer makes us keep ----


@pytest.mark.parametrize("advisory", ["RUSTSEC-2020-0043", "aiohttp-1367"])
def test_rustsec_2020_0043_a_flood_of_pings_while_nobody_takes_the_pongs(role: str, advisory: str) -> None:
    """While the transport is full, one Pong waits, the latest: RFC 6455 5.5.3 asks for no other."""
    end = End(role)
    end.connection.hold_replies = True
    for i in range(5000):
        end.feed(end.frame(wire.PING, struct.pack("!I", i)))
    assert end.connection.bytes_to_send() == b""
    end.connection.hold_replies = False
    end.connection.drain_bridge()
    (pong,) = wire.parse(end.connection.bytes_to_send())
    assert pong.payload == struct.pack("!I", 4999)


# ---- after the end ----


@pytest.mark.parametrize("advisory", ["socketify-197", "CVE-2017-2922"])
def test_socketify_197_sending_and_reading_after_the_close(role: str, advisory: str) -> None:
    """A use after free in a C binding, and one with fragments in mongoose: here nothing is freed that has a name."""
    end = End(role)
    end.feed(end.frame(wire.BINARY, bytes(1000), fin=False))
    with pytest.raises(ConnectionClosed):
        end.feed(end.frame(wire.CLOSE, wire.close_payload(1000)) + end.frame(wire.CONTINUATION, b"late"))
    end.connection.end()
    for attempt in (
        lambda: end.connection.send("x"),
        lambda: end.connection.ping(b"x"),
        lambda: end.connection.send_fragment(b"x", text=False, last=True),
        end.connection.read_message,
        end.connection.read_frame,
    ):
        with pytest.raises(ConnectionClosed):
            attempt()


def test_socketify_197_a_view_outlives_its_connection(role: str) -> None:
    end = End(role)
    payload = os.urandom(5000)
    end.connection.receive_bytes(end.frame(wire.BINARY, payload))
    frame = end.connection.read_frame()
    assert frame is not NEED_MORE
    view = frame.payload
    end.connection.end()
    with pytest.raises(ConnectionClosed):
        end.connection.read_frame()
    other = End(role)
    other.feed(other.frame(wire.BINARY, bytes(5000)))
    del frame, end
    assert view == payload


# ---- masking keys ----


def test_weak_masking_keys_come_from_the_systems_generator() -> None:
    """RFC 6455 10.3. picows has rand(), aiohttp a Mersenne twister: both can be foretold."""
    drawn: list[int] = []

    def entropy(size: int) -> bytes:
        drawn.append(size)
        return os.urandom(size)

    connection = Connection(is_client=True, entropy=entropy, pool=Pool())
    keys = set()
    for _ in range(2000):
        connection.send(b"")
        data = connection.bytes_to_send()
        keys.add(data[2:6])
    # Of 2,000 random keys of 32 bits two are the same in one run of 2,000; eight pairs never happen.
    assert len(keys) > 1992
    assert sum(drawn) >= 4 * 2000
    ones = sum(int.from_bytes(key, "big").bit_count() for key in keys) / len(keys)
    assert 15 < ones < 17  # 16 of 32 bits; a mean of 2,000 is off by a half once in 10**28 runs


FORK = """
import asyncio, os, struct
from zcws.aio import client

def keys():
    return [client._keys.next() for _ in range(8)]

before = keys()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, struct.pack("8Q", *keys()))
    os._exit(0)
ours = keys()
theirs = struct.unpack("8Q", os.read(read, 64))
os.wait()
print(len({*before, *ours, *theirs}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_weak_masking_keys_differ_after_a_fork() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 24
