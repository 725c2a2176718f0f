"""The table "permessage-deflate" of the behaviours: each row, from the offer in a header to the bytes on the wire."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zlib
from typing import Any

import pytest
import wire
from heads import request
from pair import Pair, deflated, entropy
from pythons import needs_cpython

from zcws.acceptor import WebSocketAcceptor
from zcws.buffer import PayloadBuffer
from zcws.closing import State
from zcws.connection import Connection
from zcws.deflate import Deflate
from zcws.errors import ConnectionClosed, LimitExceeded, ProtocolError, StaleFrame
from zcws.extensions import Agreement
from zcws.frame import NEED_MORE, PayloadOrigin
from zcws.pool import Pool

TAIL = b"\x00\x00\xff\xff"
HELLO = bytes.fromhex("f248cdc9c90700")  # RFC 7692 7.2.3.1
REFERS_BACK = bytes.fromhex("f200110000")  # RFC 7692 7.2.3.2: "Hello" again, by reference
FINAL = bytes.fromhex("f348cdc9c9070000")  # RFC 7692 7.2.3.4

JSON = b'{"symbol": "ABC", "bid": 12.5, "ask": 12.75}, ' * 30


def negotiate(*offers: str, **settings: Any) -> tuple[Agreement, str | None]:
    """What a server makes of these Sec-WebSocket-Extensions headers, and what it answers."""
    acceptor = WebSocketAcceptor(compression=Deflate(**settings))
    asked = acceptor.read_request(request(*(("Sec-WebSocket-Extensions", offer) for offer in offers)))
    assert asked is not None
    response = acceptor.respond(asked)
    assert response.status_code == 101 and acceptor.agreement is not None
    return acceptor.agreement, response.headers.get("Sec-WebSocket-Extensions")


def masked(payload: bytes, *, opcode: int = wire.BINARY, fin: bool = True, rsv: int = 4) -> bytes:
    return wire.frame(opcode, payload, fin=fin, rsv=rsv, key=wire.KEY)


def make_server(agreement: Agreement, **settings: Any) -> Connection:
    return Connection(is_client=False, agreement=agreement, **settings)


def failed_with(connection: Connection, code: int) -> ProtocolError:
    """The connection says Close `code` on the wire and to its caller."""
    with pytest.raises(ProtocolError) as caught:
        while connection.read_frame() is not NEED_MORE:
            pass
    assert caught.value.code == code
    close = wire.parse(connection.bytes_to_send())[-1]
    assert (close.opcode, close.payload[:2]) == (wire.CLOSE, code.to_bytes(2, "big"))
    assert connection.state is State.FAILED
    return caught.value


class TestOffers:
    def test_the_plain_offer(self) -> None:
        agreement, answer = negotiate("permessage-deflate")
        assert answer == "permessage-deflate"
        assert agreement.deflate is not None
        assert agreement.deflate.server_max_window_bits == agreement.deflate.client_max_window_bits == 15

    def test_parameters_of_ours_only_where_the_client_allows_them(self) -> None:
        ours = {"client_max_window_bits": 10, "server_max_window_bits": 11}
        agreement, answer = negotiate("permessage-deflate", **ours)
        assert answer == "permessage-deflate; server_max_window_bits=11"  # 7.1.2.1 allows that one unasked
        agreement, answer = negotiate("permessage-deflate; client_max_window_bits", **ours)
        assert answer == "permessage-deflate; server_max_window_bits=11; client_max_window_bits=10"
        assert agreement.deflate is not None and agreement.deflate.client_max_window_bits == 10

    @pytest.mark.parametrize("bits", range(9, 16))
    def test_server_max_window_bits_is_echoed_and_honoured(self, bits: int) -> None:
        agreement, answer = negotiate(f"permessage-deflate; server_max_window_bits={bits}")
        assert answer == f"permessage-deflate; server_max_window_bits={bits}"
        server = make_server(agreement)
        rnd = random.Random(bits)  # what repeats within the window, and what repeats outside of it
        message = rnd.randbytes(1 << (bits - 2)) * 20 + rnd.randbytes(1 << bits) * 2
        server.send(message, compress=True)
        (frame,) = wire.parse(server.bytes_to_send())
        assert frame.rsv == 4
        assert small_window_inflate(frame.payload, bits) == message

    def test_server_max_window_bits_of_8_is_declined(self) -> None:
        agreement, answer = negotiate("permessage-deflate; server_max_window_bits=8")
        assert (agreement.deflate, answer) == (None, None)
        agreement, answer = negotiate("permessage-deflate; server_max_window_bits=8, permessage-deflate")
        assert answer == "permessage-deflate"  # the next offer counts

    def test_client_max_window_bits(self) -> None:
        agreement, answer = negotiate("permessage-deflate; client_max_window_bits", client_max_window_bits=9)
        assert answer == "permessage-deflate; client_max_window_bits=9"
        agreement, answer = negotiate("permessage-deflate; client_max_window_bits=8")
        assert answer == "permessage-deflate; client_max_window_bits=8"
        server = make_server(agreement)
        stream = zlib.compressobj(wbits=-9)
        server.receive_bytes(masked((stream.compress(JSON) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]))
        assert server.read_message() == JSON

    @pytest.mark.parametrize("who", ["server", "client"])
    @pytest.mark.parametrize("asked_by", ["offer", "settings"])
    def test_no_context_takeover(self, who: str, asked_by: str) -> None:
        name = f"{who}_no_context_takeover"
        if asked_by == "offer":
            agreement, answer = negotiate(f"permessage-deflate; {name}")
        else:
            agreement, answer = negotiate("permessage-deflate", **{name: True})
        assert answer == f"permessage-deflate; {name}"
        pair = Pair(agreement=agreement)
        sender = getattr(pair, who)
        for _ in range(3):
            sender.send(JSON)
            pair.pump()
        payloads = [frame.payload for frame in wire.parse(pair.wire[sender])]
        assert all(zlib.decompressobj(wbits=-15).decompress(payload + TAIL) == JSON for payload in payloads)

    @pytest.mark.parametrize(
        "parameters",
        [
            "server_no_context_takeover; server_no_context_takeover",
            "server_max_window_bits=10; server_max_window_bits=10",
            "unknown",
            "unknown=1",
            "server_no_context_takeover=1",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=010",
            "server_max_window_bits=+9",
            "server_max_window_bits=",
            "client_max_window_bits=0",
            'client_max_window_bits="16"',
        ],
    )
    def test_a_wrong_parameter_declines_that_offer_only(self, parameters: str) -> None:
        agreement, answer = negotiate(f"permessage-deflate; {parameters}")
        assert (agreement.deflate, answer) == (None, None)
        for offers in (
            [f"permessage-deflate; {parameters}, permessage-deflate"],
            [f"permessage-deflate; {parameters}", "x-unknown; a=b, permessage-deflate"],
        ):
            assert negotiate(*offers)[1] == "permessage-deflate"

    def test_quoted_values_and_white_space(self) -> None:
        _, answer = negotiate('permessage-deflate ;\tserver_max_window_bits = "1\\2" ;client_max_window_bits')
        assert answer == "permessage-deflate; server_max_window_bits=12"

    def test_the_first_that_can_be_met(self) -> None:
        _, answer = negotiate(
            "permessage-deflate; server_max_window_bits=9", "permessage-deflate; server_max_window_bits=15"
        )
        assert answer == "permessage-deflate; server_max_window_bits=9"


def small_window_inflate(payload: bytes, bits: int) -> bytes:
    """As a receiver with little memory does: in small steps, so that only its window can be referred to."""
    receiver, out, data = zlib.decompressobj(wbits=-bits), b"", payload + TAIL
    while True:
        piece = receiver.decompress(data, 100)
        out, data = out + piece, receiver.unconsumed_tail
        if not piece:
            return out


class TestReading:
    @pytest.mark.parametrize("origin", list(PayloadOrigin))
    def test_rsv1_makes_it_compressed(self, origin: PayloadOrigin) -> None:
        server = make_server(deflated())
        server.receive_bytes(masked(HELLO, opcode=wire.TEXT) + masked(b"plain", opcode=wire.TEXT, rsv=0))
        frames = []
        while (frame := server.read_frame(None, origin)) is not NEED_MORE:
            frames.append(frame.text)
        assert frames == ["Hello", "plain"]

    @pytest.mark.parametrize("opcode", [wire.CONTINUATION, wire.PING, wire.PONG, wire.CLOSE])
    def test_rsv1_on_the_first_frame_only(self, opcode: int) -> None:
        server = make_server(deflated())
        server.receive_bytes(masked(HELLO[:3], fin=False) + masked(HELLO[3:], opcode=opcode))
        failed_with(server, 1002)

    @pytest.mark.parametrize("data", [HELLO, FINAL, b"\x00"], ids=["hello", "final block", "empty"])
    def test_cut_across_frames_at_every_byte(self, data: bytes) -> None:
        for at in range(len(data) + 1):
            server = make_server(deflated())
            cut = masked(data[:at], fin=False) + masked(data[at:], opcode=wire.CONTINUATION, rsv=0)
            server.receive_bytes(cut + masked(HELLO))
            assert server.read_message() == (b"" if data == b"\x00" else b"Hello")
            assert server.read_message() == b"Hello"

    def test_every_byte_a_frame_and_every_byte_a_read(self) -> None:
        server, data = make_server(deflated()), wire.deflate(JSON)
        last = len(data) - 1
        for i in range(len(data)):
            first = i == 0
            frame = masked(
                data[i : i + 1],
                opcode=wire.TEXT if first else wire.CONTINUATION,
                rsv=4 if first else 0,
                fin=i == last,
            )
            for byte in frame:
                assert server.read_message() is NEED_MORE
                server.receive_bytes(bytes([byte]))
        assert server.read_message() == JSON.decode()

    def test_a_final_block_and_the_messages_after_it(self) -> None:
        server = make_server(deflated())
        server.receive_bytes(
            masked(FINAL) + masked(HELLO) + masked(REFERS_BACK) + masked(FINAL) + masked(HELLO)
        )
        assert [server.read_message() for _ in range(5)] == [b"Hello"] * 5

    @pytest.mark.parametrize("data", [b"\x06\x00", b"\xff" * 20, REFERS_BACK, b"\x00\x05\x00\x05\x00hello"])
    def test_corrupt_data(self, data: bytes) -> None:
        server = make_server(deflated())
        server.receive_bytes(masked(data) + masked(HELLO))
        failed_with(server, 1007)

    def test_text_is_checked_on_the_inflated_bytes(self) -> None:
        for text in (b"caf\xc3", b"\xed\xa0\x80", b"ok" * 100_000 + b"\xff" + b"ok" * 100_000):
            server = make_server(deflated())
            server.receive_bytes(masked(wire.deflate(text), opcode=wire.TEXT))
            failed_with(server, 1007)

    def test_text_fails_before_the_message_is_complete(self) -> None:
        server = make_server(deflated())
        server.receive_bytes(masked(wire.deflate(b"\xff" * 10), opcode=wire.TEXT, fin=False))
        failed_with(server, 1007)

    @pytest.mark.parametrize("size", [999, 1000, 1001])
    def test_exactly_max_size_is_allowed(self, size: int) -> None:
        server = make_server(deflated(), max_size=1000)
        server.receive_bytes(masked(wire.deflate(bytes(size))))
        if size <= 1000:
            assert server.read_message() == bytes(size)
        else:
            assert isinstance(failed_with(server, 1009), LimitExceeded)

    @pytest.mark.parametrize("size", [1000, 1001])
    def test_what_cannot_be_compressed_may_be_longer_on_the_wire(self, size: int) -> None:
        data = random.Random(size).randbytes(size)
        assert len(wire.deflate(data)) > 1000
        server = make_server(deflated(), max_size=1000)
        server.receive_bytes(masked(wire.deflate(data)))
        if size <= 1000:
            assert server.read_message() == data
        else:
            assert isinstance(failed_with(server, 1009), LimitExceeded)

    def test_a_message_that_is_flushed_behind_each_byte_is_not_over_the_limit(self) -> None:
        """RFC 7692 7.2.1: how whoever sends what he gets from somewhere else compresses it."""
        data = random.Random(0).randbytes(100)
        server, compressor = make_server(deflated(), max_size=100), zlib.compressobj(wbits=-15)
        for i in range(100):
            piece = compressor.compress(data[i : i + 1]) + compressor.flush(zlib.Z_SYNC_FLUSH)
            opcode, rsv = (wire.BINARY, 4) if i == 0 else (wire.CONTINUATION, 0)
            server.receive_bytes(masked(piece, opcode=opcode, rsv=rsv, fin=False))
        server.receive_bytes(masked(b"\0", opcode=wire.CONTINUATION, rsv=0))
        assert server.read_message() == data

    def test_blocks_that_inflate_to_nothing_have_an_end(self) -> None:
        server, empty = make_server(deflated(), max_size=1000), b"\0\0\0\xff\xff"
        server.receive_bytes(masked(empty * 237, fin=False))
        assert server.read_message() is NEED_MORE
        server.receive_bytes(masked(empty * 13, opcode=wire.CONTINUATION, rsv=0, fin=False))
        assert server.read_message() is NEED_MORE
        server.receive_bytes(masked(empty * 14, opcode=wire.CONTINUATION, rsv=0, fin=False))
        assert isinstance(failed_with(server, 1009), LimitExceeded)

    def test_a_bomb_is_stopped_while_it_inflates(self) -> None:
        """100 MiB in 100 kB, with a limit of 1 MiB: the process must not grow by more than a few."""
        peak = run_python(BOMB)["grown"]
        assert peak < 8 * 1024 * 1024

    def test_a_bomb_in_fragments_is_stopped_at_the_one_that_passes_the_limit(self) -> None:
        server, data = make_server(deflated(), max_size=100_000), wire.deflate(bytes(10_000_000))
        server.receive_bytes(masked(data[:100], fin=False))
        assert server.read_message() is NEED_MORE
        server.receive_bytes(masked(data[100:5_000], opcode=wire.CONTINUATION, rsv=0, fin=False))
        failed_with(server, 1009)


def read_message(connection: Connection) -> Any:
    return connection.read_message()


def read_frame(connection: Connection) -> Any:
    return payload_of(connection.read_frame())


def read_into_buffer(connection: Connection) -> Any:
    return payload_of(connection.read_frame(PayloadBuffer()))


def read_into_memory(connection: Connection) -> Any:
    return payload_of(connection.read_frame(PayloadBuffer(bytearray(200_000))))


def read_consistent(connection: Connection) -> Any:
    return payload_of(connection.read_frame(PayloadBuffer(), PayloadOrigin.CONSISTENT))


def read_batch(connection: Connection) -> Any:
    frames = connection.reader.read_batch()
    return frames if frames is NEED_MORE else payload_of(frames[0])


def payload_of(frame: Any) -> Any:
    if frame is NEED_MORE or frame.opcode != wire.TEXT:
        return frame if frame is NEED_MORE else bytes(frame.payload)
    assert bytes(frame.payload).decode() == frame.text and len(frame.payload) == len(frame)
    return frame.text


@pytest.mark.parametrize(
    "read", [read_message, read_frame, read_into_buffer, read_into_memory, read_consistent, read_batch]
)
class TestWholeMessages:
    """A message in one frame is inflated in one go where it is short; whichever way it is read, the same holds."""

    @pytest.mark.parametrize("size", [10, 70_000, 180_000])
    def test_what_was_sent_is_read(self, read: Any, size: int) -> None:
        server, noise = make_server(deflated()), random.Random(size)
        text = ("naïve 🙂 " * size)[: size // 2]
        for payload in (b"", text.encode(), noise.randbytes(size), bytes(size)):
            opcode = wire.TEXT if payload == text.encode() else wire.BINARY
            server.receive_bytes(masked(wire.deflate(payload), opcode=opcode))
            assert read(server) == (text if opcode == wire.TEXT else payload)
            assert read(server) is NEED_MORE

    @pytest.mark.parametrize("text", [b"caf\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"a" * 100 + b"\xff"])
    def test_rfc6455_8_1_text(self, read: Any, text: bytes) -> None:
        server = make_server(deflated())
        server.receive_bytes(masked(wire.deflate(text), opcode=wire.TEXT))
        with pytest.raises(ProtocolError) as caught:
            read(server)
        assert caught.value.code == 1007

    @pytest.mark.parametrize("size", [99_999, 100_000, 100_001, 5_000_000])
    def test_max_size(self, read: Any, size: int) -> None:
        server = make_server(deflated(), max_size=100_000)
        server.receive_bytes(masked(wire.deflate(bytes(size))))
        if size <= 100_000:
            assert read(server) == bytes(size)
            return
        with pytest.raises(LimitExceeded) as caught:
            read(server)
        assert caught.value.code == 1009

    @pytest.mark.parametrize(("size", "code"), [(100_000, 1007), (100_002, 1009), (110_000, 1009)])
    def test_too_long_and_corrupt_behind_that(self, read: Any, size: int, code: int) -> None:
        server = make_server(deflated(), max_size=100_000)
        server.receive_bytes(masked(wire.deflate(bytes(size)) + TAIL + b"\x06", opcode=wire.BINARY))
        with pytest.raises(ProtocolError) as caught:
            read(server)
        assert caught.value.code == code

    @pytest.mark.parametrize("data", [b"\x06\x00", b"\xff" * 20, REFERS_BACK])
    def test_what_cannot_be_inflated(self, read: Any, data: bytes) -> None:
        server = make_server(deflated())
        server.receive_bytes(masked(data) + masked(HELLO))
        with pytest.raises(ProtocolError) as caught:
            read(server)
        assert caught.value.code == 1007


def test_a_whole_message_that_does_not_fit_the_callers_memory() -> None:
    server, memory = make_server(deflated()), bytearray(10)
    server.receive_bytes(masked(wire.deflate(b"eleven byte")))
    with pytest.raises(ProtocolError) as caught:
        server.read_frame(PayloadBuffer(memory))
    assert caught.value.code == 1009
    assert memory == bytes(10)


def test_a_whole_message_lands_in_the_callers_buffer() -> None:
    server, buffer = make_server(deflated()), PayloadBuffer()
    server.receive_bytes(masked(HELLO) + masked(FINAL))
    frame = server.read_frame(buffer)
    assert frame is not NEED_MORE and frame.payload == b"Hello" and len(buffer) == 5
    kept = frame.payload
    server.read_frame(buffer)
    assert kept == b"Hello"
    with pytest.raises(StaleFrame):
        frame.payload  # noqa: B018


class TestWriting:
    @pytest.mark.parametrize(("size", "rsv"), [(255, 0), (256, 4)])
    def test_the_threshold(self, size: int, rsv: int) -> None:
        server = make_server(deflated())
        server.send(b"a" * size)
        assert wire.parse(server.bytes_to_send())[0].rsv == rsv
        other = make_server(deflated(), deflate=Deflate(threshold=size + 1))
        other.send(b"a" * size)
        assert wire.parse(other.bytes_to_send())[0].rsv == 0

    def test_each_message_may_choose(self) -> None:
        server = make_server(deflated())
        for message, compress in ((b"a" * 100, True), (b"a" * 1_000, False), (b"a" * 1_000, None)):
            server.send(message, compress=compress)
        assert [frame.rsv for frame in wire.parse(server.bytes_to_send())] == [4, 0, 4]

    @pytest.mark.parametrize("takeover", [True, False])
    def test_never_a_message_that_grew(self, takeover: bool) -> None:
        pair = Pair(agreement=deflated(server_no_context_takeover=not takeover))
        noise = [random.Random(i).randbytes(1_000) for i in range(5)]
        for message in noise:
            pair.server.send(message, compress=True)
        pair.server.send(noise[0] * 2)
        pair.pump()
        assert pair.received[pair.client] == [*noise, noise[0] * 2]
        frames = wire.parse(pair.wire[pair.server])
        assert [(frame.rsv, len(frame.payload)) for frame in frames[:5]] == [(0, 1_000)] * 5
        assert frames[5].rsv == 4 and len(frames[5].payload) < 2_000

    def test_rsv1_on_the_first_frame_of_a_message_only(self) -> None:
        server = make_server(deflated())
        for last in (False, False, True):
            server.send_fragment(JSON, text=True, last=last)
        frames = wire.parse(server.bytes_to_send())
        assert [frame.rsv for frame in frames] == [4, 0, 0]
        data = b"".join(frame.payload for frame in frames)
        assert zlib.decompressobj(wbits=-15).decompress(data + TAIL) == JSON * 3


class TestOthersBytes:
    """RFC 7692 has no section for this: what one connection has said is nobody else's."""

    def test_a_crafted_back_reference_gets_1007(self) -> None:
        pool = Pool()
        agreement = deflated(client_no_context_takeover=True, server_no_context_takeover=True)
        victim, attacker = (make_server(agreement, pool=pool) for _ in range(2))
        victim.receive_bytes(masked(wire.deflate(b"password=hunter2; " * 50)))
        assert victim.read_message() == b"password=hunter2; " * 50
        victim.send(b"password=hunter2; " * 50)
        victim.bytes_to_send()
        attacker.receive_bytes(masked(REFERS_BACK))
        failed_with(attacker, 1007)
        victim.receive_bytes(masked(REFERS_BACK))  # not even its own earlier ones
        failed_with(victim, 1007)

    def test_every_distance(self) -> None:
        pool, agreement = Pool(), deflated(client_no_context_takeover=True)
        victim = make_server(agreement, pool=pool)
        for distance in (1, 2, 5, 100, 1_000, 32_768):
            victim.receive_bytes(masked(wire.deflate(b"secret!!" * 5_000)))
            assert victim.read_message() == b"secret!!" * 5_000
            attacker = make_server(agreement, pool=pool)
            attacker.receive_bytes(masked(match_at(distance)))
            failed_with(attacker, 1007)

    def test_what_is_sent_cannot_be_guessed_by_its_size(self) -> None:
        """The shared compressor forgets between messages: the same bytes cost the same on every connection."""
        pool, agreement = Pool(), deflated(server_no_context_takeover=True)
        secret = random.Random(1).randbytes(800)
        victim, attacker = (make_server(agreement, pool=pool) for _ in range(2))
        attacker.send(secret * 2)
        before = len(attacker.bytes_to_send())
        victim.send(secret * 2)
        victim.bytes_to_send()
        attacker.send(secret * 2)
        assert len(attacker.bytes_to_send()) == before


def match_at(distance: int) -> bytes:
    """DEFLATE (RFC 1951 3.2.6) that begins with a match of length 3 at `distance`: nothing is there to match."""
    codes = [(base, extra) for extra, base in DISTANCES]
    code = max(i for i, (base, _) in enumerate(codes) if base <= distance)
    base, extra = codes[code]
    # Block header: not final, fixed codes. Length 3 is symbol 257: seven bits, 0000001. Huffman codes go in from
    # their highest bit, everything else from its lowest.
    bits = [0, 1, 0, *(0, 0, 0, 0, 0, 0, 1), *(code >> i & 1 for i in (4, 3, 2, 1, 0))]
    bits += [(distance - base) >> i & 1 for i in range(extra)]
    bits += [0] * 7  # end of block
    bits += [0, 0, 0]  # an empty stored block, whose length was cut off (RFC 7692 7.2.1)
    bits += [0] * (-len(bits) % 8)
    return bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))


#: RFC 1951 3.2.5: extra bits and smallest distance of each distance code.
DISTANCES = [
    (max(0, code // 2 - 1), code + 1 if code < 4 else (2 + code % 2 << code // 2 - 1) + 1)
    for code in range(30)
]


def test_the_attack_itself_works_where_there_is_something_to_refer_to() -> None:
    """Otherwise the tests above would show nothing."""
    assert zlib.decompressobj(wbits=-15, zdict=b"secret!!" * 4_096).decompress(match_at(8) + TAIL) == b"sec"
    assert (
        zlib.decompressobj(wbits=-15, zdict=b"secret!!" * 4_096).decompress(match_at(1_007) + TAIL) == b"ecr"
    )


def run_python(code: str, *arguments: str) -> dict[str, float]:
    """Runs a program in a process of its own, so that its memory can be looked at; it prints JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


BOMB = """
import json, resource, zlib
from zcws.connection import Connection
from zcws.errors import LimitExceeded
from zcws.extensions import Agreement, DeflateParameters

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def attack(size):
    stream = zlib.compressobj(wbits=-15)
    data = b"".join(stream.compress(bytes(1 << 20)) for _ in range(size >> 20)) + stream.flush(zlib.Z_SYNC_FLUSH)[:-4]
    head = bytes([0xC2, 127]) + len(data).to_bytes(8, "big") if len(data) > 65535 else (
        bytes([0xC2, 126]) + len(data).to_bytes(2, "big"))
    connection = Connection(
        is_client=True, entropy=bytes, agreement=Agreement(deflate=DeflateParameters()), max_size=1 << 20)
    before = peak()
    connection.receive_bytes(head + data)
    try:
        connection.read_message()
    except LimitExceeded:
        return peak() - before
    raise SystemExit("the bomb went off")

attack(2 << 20)
print(json.dumps({"grown": attack(100 << 20)}))
"""

#: Connections that each exchange one compressed message and then are idle. No takeover: no context stays behind.
IDLE = """
import gc, json, sys
import wire, pair
from zcws.connection import Connection
from zcws.extensions import Agreement
from zcws.frame import NEED_MORE
from zcws.pool import Pool

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

count, is_compressed = int(sys.argv[1]), sys.argv[2] == "deflate"
agreement = Agreement()
payload = b'{"symbol": "ABC", "bid": 12.5, "ask": 12.75}, ' * 20
frame = wire.frame(wire.BINARY, payload, key=wire.KEY)
if is_compressed:
    agreement = pair.deflated(server_no_context_takeover=True, client_no_context_takeover=True)
    frame = wire.frame(wire.BINARY, wire.deflate(payload), rsv=4, key=wire.KEY)

def exchange():
    connection = Connection(is_client=False, agreement=agreement, pool=pool)
    assert connection.receive_bytes(frame) == len(frame)
    assert connection.read_message() == payload
    assert connection.read_message() is NEED_MORE  # what a driver asks before it waits: the ring goes back
    connection.send(payload)
    assert connection.bytes_to_send()[0] == (0xC2 if is_compressed else 0x82)
    return connection

pool = Pool()
kept = [exchange() for _ in range(200)]  # whatever is made once is there now
gc.collect()
before = resident()
kept += [exchange() for _ in range(count)]
gc.collect()
print(json.dumps({"each": (resident() - before) / count}))
"""


@needs_cpython("PyPy frees a stream when it collects, and the pages between others stay")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_connections_cost_nothing_for_compression() -> None:
    """Less than 1 KiB each; other libraries pay 41 to 100 KiB."""
    path = f"import sys; sys.path.insert(0, {str(wire.__file__)!r}.rpartition('/')[0])\n"
    cost = [run_python(path + IDLE, "3000", kind)["each"] for kind in ("deflate", "plain")]
    assert cost[0] - cost[1] < 1024


def test_nothing_stays_behind() -> None:
    pool = Pool()
    agreement = deflated(server_no_context_takeover=True, client_no_context_takeover=True)
    connections = []
    for _ in range(50):
        connection = make_server(agreement, pool=pool)
        connection.receive_bytes(masked(wire.deflate(JSON)))
        assert connection.read_message() == JSON
        connection.send(JSON)
        connection.bytes_to_send()
        connections.append(connection)
    assert all(connection.reader._inflate._stream is None for connection in connections)  # type: ignore[union-attr]
    assert all(connection.writer.compressor._stream is None for connection in connections)  # type: ignore[union-attr]
    assert len(pool.compressors) == 1


def test_a_failed_connection_says_so_to_its_writer() -> None:
    client = Connection(is_client=True, entropy=entropy(), agreement=deflated())
    client.receive_bytes(wire.frame(wire.BINARY, b"\x06\x00", rsv=4))
    with pytest.raises(ProtocolError):
        client.read_message()
    with pytest.raises(ConnectionClosed):
        client.send(JSON)
