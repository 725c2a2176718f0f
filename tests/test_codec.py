from __future__ import annotations

import random
import sys
import zlib
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcws.codec import Deflater, Inflater, _flush
from zcws.extensions import DeflateParameters
from zcws.zlib import zlib as ours

TAIL = b"\x00\x00\xff\xff"

#: Sizes around the 64 KiB that one step of inflating gives at most.
LIMITS = [0, 1, 1_000, *(64 * 1024 + by for by in (-2, -1, 0, 1)), 100_000, 128 * 1024]

parameters = st.builds(
    DeflateParameters,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    server_max_window_bits=st.integers(9, 15),
    client_max_window_bits=st.integers(9, 15),
)
#: Text that repeats itself over short and long distances, noise, and nothing.
payloads = st.one_of(
    st.binary(max_size=200),
    st.integers(0, 3_000).map(lambda n: b'{"symbol": "ABC", "price": 12.5}, ' * (n // 30)),
    st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(20_000) * 2),
    st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(3_000) * 15),
)


def make_deflater(agreed: DeflateParameters, *, is_client: bool = False, **options: Any) -> Deflater:
    settings = {"level": 1, "mem_level": 8, "threshold": 256, "shared": {}, **options}
    return Deflater(agreed, is_client=is_client, **settings)


def inflated(inflater: Inflater, *pieces: bytes) -> bytes:
    last = len(pieces) - 1
    return b"".join(
        part
        for i, piece in enumerate(pieces)
        for part in inflater.pieces(memoryview(piece), last=i == last, room=sys.maxsize)
    )


def by_bytes(stream: Any, data: bytes) -> bytes:
    """A message out of plain zlib, a byte at a time: then nothing older than its window is at hand."""
    out, data = [], data + TAIL
    while piece := stream.decompress(data, 1):
        out.append(piece)
        data = stream.unconsumed_tail
    return b"".join(out)


def ends_a_block(data: bytes) -> bool:
    """Whether `data` is what a message may be: with its tail, another block may follow. Asked of plain zlib."""
    stream = zlib.decompressobj(wbits=-15)
    try:
        stream.decompress(data + TAIL)
        rest = stream.decompress(b"\x01\x00\x00\xff\xff")  # a final block, empty
    except zlib.error:
        return False
    return stream.eof and rest == stream.unused_data == b""


def strictly(receiver: Any, data: bytes) -> bytes:
    """Inflates in small steps: then zlib has its window to look back to, and not all of the output."""
    out = b""
    while data or len(out) % 500 == 0:
        piece = receiver.decompress(data, 500)
        out, data = out + piece, receiver.unconsumed_tail
        if not piece and not data:
            break
    return out


def plain(payload: bytes, stream: Any = None, *, finish: bool = False) -> bytes:
    """RFC 7692 7.2.1 with the standard library."""
    stream = stream or zlib.compressobj(wbits=-15)
    if finish:
        return stream.compress(payload) + stream.flush(zlib.Z_FINISH) + b"\x00"  # 7.2.3.4
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


class TestDeflater:
    @given(
        agreed=parameters,
        is_client=st.booleans(),
        level=st.integers(1, 9),
        mem_level=st.integers(1, 9),
        messages=st.lists(payloads, max_size=5),
        fragmented=st.randoms(),
    )
    def test_plain_zlib_inflates_it(
        self,
        agreed: DeflateParameters,
        is_client: bool,
        level: int,
        mem_level: int,
        messages: list[bytes],
        fragmented: random.Random,
    ) -> None:
        """Whatever was agreed, a receiver with that window, and that context, gets every message."""
        deflater = make_deflater(agreed, is_client=is_client, level=level, mem_level=mem_level)
        bits = agreed.client_max_window_bits if is_client else agreed.server_max_window_bits
        forgets = agreed.client_no_context_takeover if is_client else agreed.server_no_context_takeover
        receiver = zlib.decompressobj(wbits=-bits)
        for message in messages:
            if fragmented.random() < 0.4:
                cut = fragmented.randrange(len(message) + 1)
                pieces = [deflater.piece(message[:cut], last=False), deflater.piece(message[cut:], last=True)]
                compressed = b"".join(pieces)
            else:
                whole = deflater.message(message)
                if whole is None:
                    continue
                assert len(whole) < len(message)
                compressed = whole
            if forgets:
                receiver = zlib.decompressobj(wbits=-bits)
            assert strictly(receiver, compressed + TAIL) == message
            assert not receiver.unused_data

    def test_the_context_makes_the_second_message_smaller(self) -> None:
        deflater = make_deflater(DeflateParameters())
        message = random.Random(5).randbytes(300) * 2
        first, second = deflater.message(message), deflater.message(message)
        assert first is not None and second is not None
        assert len(second) < len(first) // 4

    def test_rest_drops_the_context(self) -> None:
        deflater = make_deflater(DeflateParameters())
        message = random.Random(5).randbytes(300) * 2
        first = deflater.message(message)
        deflater.rest()
        assert deflater.message(message) == first

    def test_an_idle_context_is_given_back_after_two_to_three_ticks(self) -> None:
        deflater = make_deflater(DeflateParameters(), idle_timeout=60)
        message = random.Random(5).randbytes(300) * 2
        first = deflater.message(message)
        assert [deflater.tick() for _ in range(2)] == [True, True]
        second = deflater.message(message)
        assert first is not None and second is not None and len(second) < len(first) // 4
        assert [deflater.tick() for _ in range(4)] == [True, True, False, False]
        assert deflater._stream is None
        assert deflater.message(message) == first

    def test_a_context_may_be_given_back_in_the_middle_of_a_message(self) -> None:
        deflater, receiver = make_deflater(DeflateParameters()), zlib.decompressobj(wbits=-15)
        compressed = deflater.piece(b"first half, ", last=False)
        assert [deflater.tick() for _ in range(4)] == [True, True, False, False]
        compressed += deflater.piece(b"second half", last=True)
        assert receiver.decompress(compressed + TAIL) == b"first half, second half"
        assert [deflater.tick() for _ in range(3)] == [True, True, False]

    @pytest.mark.parametrize(
        ("forgets", "timeout", "told"), [(False, 60, 2), (False, None, 0), (True, 60, 0)]
    )
    def test_who_keeps_the_time_is_told_of_each_context_once(
        self, forgets: bool, timeout: float | None, told: int
    ) -> None:
        seen: list[Deflater] = []
        agreed = DeflateParameters(server_no_context_takeover=forgets)
        deflater = make_deflater(agreed, idle_timeout=timeout, watch=seen.append)
        for _ in range(2):
            for _ in range(3):
                deflater.message(b"x" * 300)
                deflater.piece(b"x" * 300, last=True)
                deflater.rest()  # as for a message that went to many (prepared.py): it is watched all the same
            while deflater.tick():
                pass
        assert seen == [deflater] * told

    def test_no_takeover_forgets(self) -> None:
        deflater = make_deflater(DeflateParameters(server_no_context_takeover=True))
        message = random.Random(5).randbytes(300) * 2
        assert deflater.message(message) == deflater.message(message)

    def test_one_shared_compressor_serves_everybody_and_leaks_nothing(self) -> None:
        shared: dict[tuple[int, int, int], Any] = {}
        agreed = DeflateParameters(server_no_context_takeover=True)
        secret = random.Random(6).randbytes(1_000)
        connections = [make_deflater(agreed, shared=shared) for _ in range(20)]
        alone = make_deflater(agreed).message(secret * 2)
        for deflater in connections:
            assert deflater.message(secret * 2) == alone  # not a byte saved by what others have sent
        assert len(shared) == 1
        assert all(deflater._stream is None for deflater in connections)

    def test_shared_compressors_are_told_apart_by_their_settings(self) -> None:
        shared: dict[tuple[int, int, int], Any] = {}
        for bits, level in ((9, 1), (15, 1), (15, 6), (15, 6)):
            agreed = DeflateParameters(server_no_context_takeover=True, server_max_window_bits=bits)
            make_deflater(agreed, shared=shared, level=level).message(b"x" * 300)
        assert len(shared) == 3

    def test_a_message_that_would_grow_is_forgotten(self) -> None:
        deflater, receiver = make_deflater(DeflateParameters()), zlib.decompressobj(wbits=-15)
        noise = random.Random(7).randbytes(500)
        assert deflater.message(noise) is None
        # The receiver never saw the noise, so nothing that follows may refer to it.
        compressed = deflater.message(noise * 2)
        assert compressed is not None
        assert receiver.decompress(compressed + TAIL) == noise * 2

    def test_an_empty_message_never_shrinks(self) -> None:
        for forgets in (False, True):
            deflater = make_deflater(DeflateParameters(server_no_context_takeover=forgets))
            assert deflater.message(b"") is None
            deflater.message(b"x" * 300)
            assert deflater.message(b"") is None

    @pytest.mark.parametrize("forgets", [False, True])
    def test_rfc7692_7_2_3_6_an_empty_message_in_pieces(self, forgets: bool) -> None:
        deflater = make_deflater(DeflateParameters(server_no_context_takeover=forgets))
        receiver = zlib.decompressobj(wbits=-15)
        for _ in range(3):
            compressed = deflater.piece(b"", last=False) + deflater.piece(b"", last=True)
            assert compressed == b"\x00"
            assert receiver.decompress(compressed + TAIL) == b""

    @pytest.mark.parametrize("forgets", [False, True])
    def test_rfc7692_6_1_each_piece_can_be_inflated_before_the_next_comes(self, forgets: bool) -> None:
        """Whoever streams a message wants it to be read as it comes."""
        deflater = make_deflater(DeflateParameters(server_no_context_takeover=forgets))
        for _ in range(2):
            receiver = zlib.decompressobj(wbits=-15)
            for piece in (b"a", b"", b"and so on " * 9, b""):
                assert receiver.decompress(deflater.piece(piece, last=False)) == piece
            assert receiver.decompress(deflater.piece(b"the end", last=True) + TAIL) == b"the end"
            deflater.rest()

    @pytest.mark.parametrize("forgets", [False, True])
    def test_a_piece_that_is_lost_takes_nothing_of_the_others_along(self, forgets: bool) -> None:
        deflater = make_deflater(DeflateParameters(server_no_context_takeover=forgets))
        compressed = deflater.piece(b"one and the same, " * 5, last=False)
        deflater.piece(b"one and the same, which nobody gets, " * 5, last=False)
        deflater.rest()
        compressed += deflater.piece(b"one and the same, " * 5, last=True) + TAIL
        assert strictly(zlib.decompressobj(wbits=-15), compressed) == b"one and the same, " * 10

    def test_a_flush_with_nothing_behind_the_last_one(self) -> None:
        """zlib then gives nothing at all, and an empty message is one byte all the same."""
        stream = ours.compressobj(1, ours.DEFLATED, -15)
        receiver = zlib.decompressobj(wbits=-15)
        data = stream.compress(b"x") + _flush(stream, ours.Z_SYNC_FLUSH)
        assert receiver.decompress(data + TAIL) == b"x"
        assert _flush(stream, ours.Z_SYNC_FLUSH) == b"\x00"
        assert receiver.decompress(b"\x00" + TAIL) == b""

    def test_threshold(self) -> None:
        deflater = make_deflater(DeflateParameters(), threshold=10)
        assert not deflater.is_worth(9)
        assert deflater.is_worth(10)

    def test_a_piece_forgets_at_the_end_of_its_message_only(self) -> None:
        deflater = make_deflater(DeflateParameters(server_no_context_takeover=True))
        noise = random.Random(8).randbytes(500)
        first = deflater.piece(noise, last=False) + deflater.piece(noise, last=True)
        second = deflater.piece(noise, last=False) + deflater.piece(noise, last=True)
        assert first == second
        assert 500 < len(first) < 600


class TestInflater:
    def test_rfc7692_7_2_3_1_hello(self) -> None:
        hello = bytes.fromhex("f248cdc9c90700")
        assert inflated(Inflater(DeflateParameters(), is_client=False), hello) == b"Hello"

    def test_rfc7692_7_2_3_2_sharing_the_window(self) -> None:
        inflater = Inflater(DeflateParameters(), is_client=False)
        assert inflated(inflater, bytes.fromhex("f248cdc9c90700")) == b"Hello"
        assert inflated(inflater, bytes.fromhex("f200110000")) == b"Hello"

    def test_rfc7692_7_2_3_3_a_block_without_compression(self) -> None:
        stored = bytes.fromhex("000500faff48656c6c6f00")
        assert inflated(Inflater(DeflateParameters(), is_client=False), stored) == b"Hello"

    def test_rfc7692_7_2_3_4_a_final_block(self) -> None:
        inflater = Inflater(DeflateParameters(), is_client=False)
        for _ in range(3):
            assert inflated(inflater, bytes.fromhex("f348cdc9c9070000")) == b"Hello"
            assert inflated(inflater, bytes.fromhex("f248cdc9c90700")) == b"Hello"

    @pytest.mark.parametrize("whole", [False, True])
    @pytest.mark.parametrize(
        ("data", "message"),
        [("f248cdc9c907000000ffff01", b"Hello"), ("000500faff48656c6c6f01", b"Hello"), ("01", b"")],
    )
    def test_rfc7692_7_2_1_an_empty_final_block_is_in_the_tail(
        self, data: str, message: bytes, whole: bool
    ) -> None:
        """zlib's level 0 ends like that; its last block has no compression, so nothing is to be appended to it."""
        inflater = Inflater(DeflateParameters(), is_client=False)
        for each, expected in 2 * [(data, message), ("f248cdc9c90700", b"Hello")]:
            payload = bytes.fromhex(each)
            made = inflater.message(payload, 1000) if whole else inflated(inflater, payload)
            assert made == expected

    def test_rfc7692_7_2_3_5_two_blocks_in_one_message(self) -> None:
        two = bytes.fromhex("f248050000 00ffff cac9c90700")
        assert inflated(Inflater(DeflateParameters(), is_client=False), two) == b"Hello"

    def test_rfc7692_7_2_3_6_an_empty_message(self) -> None:
        inflater = Inflater(DeflateParameters(), is_client=False)
        assert inflated(inflater, b"\x00") == b""
        assert inflated(inflater, bytes.fromhex("f248cdc9c90700")) == b"Hello"
        assert inflated(inflater, b"\x00") == b""

    @given(
        agreed=parameters, is_client=st.booleans(), messages=st.lists(payloads, max_size=4), rnd=st.randoms()
    )
    def test_whatever_plain_zlib_makes_in_any_pieces(
        self, agreed: DeflateParameters, is_client: bool, messages: list[bytes], rnd: random.Random
    ) -> None:
        bits = agreed.server_max_window_bits if is_client else agreed.client_max_window_bits
        forgets = agreed.server_no_context_takeover if is_client else agreed.client_no_context_takeover
        inflater, sender = Inflater(agreed, is_client=is_client), zlib.compressobj(wbits=-bits)
        for message in messages:
            if forgets:
                sender = zlib.compressobj(wbits=-bits)
            finish = rnd.random() < 0.3
            data = plain(message, sender, finish=finish)
            if finish:
                sender = zlib.compressobj(wbits=-bits)
            if rnd.random() < 0.5:
                assert inflater.message(data, len(message)) == message
                continue
            cuts = sorted(rnd.randrange(len(data) + 1) for _ in range(rnd.randrange(4)))
            pieces = [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]
            assert inflated(inflater, *pieces) == message

    def test_cut_at_every_byte(self) -> None:
        message = b"the quick brown fox, the quick brown dog " * 5
        for finish in (False, True):
            data = plain(message, finish=finish)
            for at in range(len(data) + 1):
                assert (
                    inflated(Inflater(DeflateParameters(), is_client=False), data[:at], data[at:]) == message
                )
            bytewise = [data[i : i + 1] for i in range(len(data))]
            assert inflated(Inflater(DeflateParameters(), is_client=False), *bytewise) == message

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"\x06\x00", id="reserved block type"),
            pytest.param(b"\x00\x05\x00\x05\x00hello", id="stored length and its complement"),
            pytest.param(b"\xff\xff\xff\xff\xff", id="noise"),
            pytest.param(bytes.fromhex("f200110000"), id="refers to bytes that were never there"),
        ],
    )
    def test_corrupt(self, data: bytes) -> None:
        with pytest.raises(ValueError):
            inflated(Inflater(DeflateParameters(), is_client=False), data)

    @pytest.mark.parametrize("is_client", [False, True])
    def test_without_takeover_no_message_can_refer_to_another(self, is_client: bool) -> None:
        agreed = DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True)
        inflater = Inflater(agreed, is_client=is_client)
        assert inflated(inflater, bytes.fromhex("f248cdc9c90700")) == b"Hello"
        assert inflater._stream is None  # and an idle connection costs nothing
        with pytest.raises(ValueError):
            inflated(inflater, bytes.fromhex("f200110000"))

    @pytest.mark.parametrize(("bits", "remembered"), [(15, True), (9, False)])
    def test_a_smaller_window_is_a_smaller_history(self, bits: int, remembered: bool) -> None:
        message, sender = random.Random(9).randbytes(2_000), zlib.compressobj(wbits=-15)
        inflater = Inflater(DeflateParameters(client_max_window_bits=bits), is_client=False)
        assert inflated(inflater, plain(message, sender)) == message
        again = plain(message, sender)  # refers 2,000 bytes back
        if remembered:
            assert inflated(inflater, again) == message
        else:
            with pytest.raises(ValueError):
                inflated(inflater, again)

    def test_rfc7692_7_1_2_a_window_of_8_is_read(self) -> None:
        data = plain(b"abcabcabc" * 10, zlib.compressobj(wbits=-9))
        assert (
            inflated(Inflater(DeflateParameters(client_max_window_bits=8), is_client=False), data)
            == b"abcabcabc" * 10
        )

    @pytest.mark.parametrize("forgets", [False, True])
    def test_rfc7692_7_1_2_a_window_of_8_is_never_looked_past(self, *, forgets: bool) -> None:
        """By messages that repeat themselves 300 bytes later, and zlib with that window, a byte at a time."""
        agreed = DeflateParameters(client_max_window_bits=8, client_no_context_takeover=forgets)
        far = random.Random(8).randbytes(300) * 5
        with pytest.raises(zlib.error, match="too far back"):
            by_bytes(zlib.decompressobj(wbits=-8), plain(far, zlib.compressobj(wbits=-10)))
        deflater = make_deflater(agreed, is_client=True)
        peer = zlib.decompressobj(wbits=-8)
        for text in (b'{"symbol": "AAPL", "price": 12.5}, ' * 30, b"0" * 1_000, far):
            compressed = deflater.message(text)
            assert compressed is not None and by_bytes(peer, compressed) == text
        pieces = [deflater.piece(piece, last=last) for piece, last in ((far, False), (far, True))]
        assert by_bytes(peer, b"".join(pieces)) == far * 2

    def test_a_bomb_comes_out_in_steps(self) -> None:
        bomb = plain(bytes(50_000_000))
        inflater = Inflater(DeflateParameters(), is_client=False)
        pieces = inflater.pieces(memoryview(bomb), last=True, room=sys.maxsize)
        first = next(pieces)
        assert 0 < len(first) <= 64 * 1024
        assert all(0 < len(piece) <= 64 * 1024 for _, piece in zip(range(20), pieces, strict=False))

    def test_a_message_of_very_many_final_blocks_is_refused(self) -> None:
        empty = zlib.compressobj(wbits=-15).flush(zlib.Z_FINISH)
        few, many = empty * 20 + b"\x00", empty * 1_000 + b"\x00"
        inflater = Inflater(DeflateParameters(), is_client=False)
        for _ in range(10):  # the count begins anew with each message
            assert inflated(inflater, few) == b""
        with pytest.raises(ValueError, match="streams"):
            inflated(inflater, many)

    @pytest.mark.parametrize("fragments", [1, 2, 5, "whole"])
    def test_how_many(self, fragments: int | str) -> None:
        """All fragments of a message count, and what is behind the last final block is a stream too."""
        block = zlib.compressobj(wbits=-15).flush(zlib.Z_FINISH)
        for blocks in (63, 64):
            inflater = Inflater(DeflateParameters(), is_client=False)
            data = block * blocks + b"\x00"
            size = len(data) if isinstance(fragments, str) else -(-len(data) // fragments)
            pieces = [data[start : start + size] for start in range(0, len(data), size)]
            with pytest.raises(ValueError, match="streams") if blocks > 63 else nullcontext():
                got = inflater.message(data, 9) if fragments == "whole" else inflated(inflater, *pieces)
                assert got == b""


class TestWholeMessages:
    """`Inflater.message`: nearly always one call of zlib, and in the other cases the same as `pieces`."""

    def test_both_ways_share_one_history(self) -> None:
        inflater, sender = Inflater(DeflateParameters(), is_client=False), zlib.compressobj(wbits=-15)
        text = random.Random(10).randbytes(1_000)
        for turn in range(6):
            data = plain(text, sender)
            assert (inflater.message(data, 1_000) if turn % 2 else inflated(inflater, data)) == text
            assert len(data) < 50 or turn == 0

    @pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 128 * 1024, 1_000_000])
    def test_longer_than_a_step(self, size: int) -> None:
        inflater, sender = Inflater(DeflateParameters(), is_client=False), zlib.compressobj(wbits=-15)
        for _ in range(2):
            assert inflater.message(plain(bytes(size), sender), size) == bytes(size)
            assert inflater.message(plain(b"behind it", sender), size) == b"behind it"

    @pytest.mark.parametrize("finish", [bytes.fromhex("f348cdc9c90700"), bytes.fromhex("f348cdc9c9070000")])
    def test_rfc7692_7_2_3_4_final_blocks_without_end(self, finish: bytes) -> None:
        inflater = Inflater(DeflateParameters(), is_client=False)
        for _ in range(200):  # more messages than one message may have streams
            assert inflater.message(finish, 100) == b"Hello"
            assert inflater.message(bytes.fromhex("f248cdc9c90700"), 100) == b"Hello"
        assert inflater.message(finish[:7] * 20, 100) == b"Hello" * 20
        with pytest.raises(ValueError, match="streams"):
            inflater.message(finish[:7] * 65, 1_000)

    @pytest.mark.parametrize("whole", [False, True])
    @pytest.mark.parametrize("mode", [zlib.Z_SYNC_FLUSH, zlib.Z_FINISH])
    def test_a_message_that_is_cut_off(self, whole: bool, mode: int) -> None:
        """RFC 7692 7.2.2: without its end it is another message, and what follows would be read as the rest of it."""
        text = b"Hello, Hello, world; and something that was not there before"
        stream = zlib.compressobj(wbits=-15)
        data = stream.compress(text) + stream.flush(mode)
        data = data[:-4] if mode == zlib.Z_SYNC_FLUSH else data
        for size in range(1, len(data)):
            inflater = Inflater(DeflateParameters(), is_client=False)
            with pytest.raises(ValueError):
                inflater.message(data[:size], 1000) if whole else inflated(inflater, data[:size])
        inflater = Inflater(DeflateParameters(), is_client=False)
        assert (inflater.message(data, 1000) if whole else inflated(inflater, data)) == text

    @pytest.mark.parametrize("whole", [False, True])
    @pytest.mark.parametrize("size", [10, 64 * 1024, 100_000])
    def test_one_that_is_cut_off_and_as_long_as_it_may_be(self, whole: bool, size: int) -> None:
        """The tail is read as the rest of a stored block, and fills what is left: all the same it has no end."""
        stream = zlib.compressobj(level=0, wbits=-15)
        text = random.Random(size).randbytes(size)
        data = stream.compress(text + b"what is not sent") + stream.flush(zlib.Z_SYNC_FLUSH)
        data = data[: data.index(b"what is not sent")]
        inflater = Inflater(DeflateParameters(), is_client=False)
        with pytest.raises(ValueError, match="middle of a DEFLATE block"):
            if whole:
                inflater.message(data, size + len(TAIL))
            else:
                list(inflater.pieces(memoryview(data), last=True, room=size + len(TAIL)))

    @pytest.mark.parametrize("whole", [False, True])
    def test_one_that_is_cut_off_in_the_head_of_a_block(self, whole: bool) -> None:
        """A dynamic one is long, and the rest of it may be anything: one in twenty was taken for an empty message."""
        source, cut_off = random.Random(7), 0
        for _ in range(1500):
            noise = bytes(source.randrange(97, 111) for _ in range(source.randrange(20, 400)))
            stream = zlib.compressobj(source.choice([1, 6, 9]), wbits=-15)
            data = (stream.compress(noise) + stream.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]
            data = data[: source.randrange(1, len(data))]
            if ends_a_block(data):
                continue
            cut_off += 1
            inflater = Inflater(DeflateParameters(), is_client=False)
            with pytest.raises(ValueError):
                inflater.message(data, 1000) if whole else inflated(inflater, data)
        assert cut_off > 1000

    @pytest.mark.parametrize("whole", [False, True])
    def test_one_that_is_cut_off_where_the_probe_ends_its_final_block(self, whole: bool) -> None:
        """In its code a one and a zero are the end: the tail brings the one, and what is read behind it the zero."""
        data = bytes.fromhex("05c1810c0000008030ac70f2")
        inflater = Inflater(DeflateParameters(), is_client=False)
        with pytest.raises(ValueError, match="middle of a DEFLATE block"):
            inflater.message(data, 1000) if whole else inflated(inflater, data)

    def test_a_final_block_with_the_tail_left_on(self) -> None:
        stream = zlib.compressobj(wbits=-15)
        data = stream.compress(b"final") + stream.flush(zlib.Z_FINISH) + b"\0\0\xff\xff"
        with pytest.raises(ValueError):
            Inflater(DeflateParameters(), is_client=False).message(data, 1000)

    @pytest.mark.parametrize("level", range(1, 10))
    def test_nothing_that_is_whole_is_taken_for_cut_off(self, level: int) -> None:
        """Whatever blocks it is made of, stored ones too."""
        source = random.Random(level)
        inflater = Inflater(DeflateParameters(), is_client=False)
        stream = zlib.compressobj(level, wbits=-15)
        for size in (0, 1, 2, 100, 5000, 65_535, 65_536, 200_000):
            for text in (source.randbytes(size), b"x" * size, source.randbytes(size // 2).hex().encode()):
                data = (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
                assert inflater.message(data or b"\0", 1_000_000) == text

    def test_what_is_too_long_is_not_inflated_to_its_end(self) -> None:
        bomb = plain(bytes(10_000_000))
        for limit in LIMITS:
            inflater = Inflater(DeflateParameters(), is_client=False)
            assert len(inflater.message(bomb, limit)) == limit + 1
            inflater = Inflater(DeflateParameters(), is_client=False)
            assert sum(map(len, inflater.pieces(memoryview(bomb), last=True, room=limit))) == limit + 1

    @pytest.mark.parametrize("limit", LIMITS)
    @pytest.mark.parametrize("whole", [False, True])
    def test_what_is_too_long_is_told_before_what_is_corrupt_behind_it(self, whole: bool, limit: int) -> None:
        for size in (limit, limit + 2):
            data = plain(bytes(size)) + TAIL + b"\x06"  # a reserved block type
            inflater = Inflater(DeflateParameters(), is_client=False)
            found = 0
            with pytest.raises(ValueError) if size == limit else nullcontext():
                if whole:
                    found = len(inflater.message(data, limit))
                for piece in () if whole else inflater.pieces(memoryview(data), last=True, room=limit):
                    found += len(piece)
            assert found == (limit + 1 if size > limit else 0 if whole else found)

    def test_without_takeover_nothing_is_kept(self) -> None:
        inflater = Inflater(DeflateParameters(client_no_context_takeover=True), is_client=False)
        assert inflater.message(bytes.fromhex("f248cdc9c90700"), 100) == b"Hello"
        assert inflater._stream is None
        with pytest.raises(ValueError):
            inflater.message(bytes.fromhex("f200110000"), 100)

    def test_corrupt_or_empty(self) -> None:
        inflater = Inflater(DeflateParameters(), is_client=False)
        assert inflater.message(b"", 100) == b""
        assert inflater.message(b"\x00", 100) == b""
        with pytest.raises(ValueError):
            inflater.message(b"\x06\x00", 100)


@pytest.mark.parametrize("parts", [[b""], [b"", b""]], ids=["one frame", "two"])
def test_a_message_of_no_bytes_is_empty_and_harms_no_other(parts: list[bytes]) -> None:
    """It should have been one byte (RFC 7692 7.2.3.6); the tail alone would leave a block open."""
    inflater = Inflater(DeflateParameters(), is_client=False)
    deflater = make_deflater(DeflateParameters(), is_client=True)
    for _ in range(2):  # before there is a context, and behind a message
        assert inflated(inflater, *parts) == b""
        compressed = deflater.message(b"a message" * 9)
        assert compressed is not None
        assert inflated(inflater, compressed) == b"a message" * 9


@pytest.mark.parametrize("takeover", [True, False])
def test_a_message_that_was_compressed_and_is_not_sent(takeover: bool) -> None:
    """What comes next refers to nothing of it, nor of anything before."""
    parameters = DeflateParameters(server_no_context_takeover=not takeover)
    deflater = Deflater(parameters, is_client=False, level=6, mem_level=8, threshold=0, shared={})
    texts = [b"one and the same text, " * 10, b"one and the same text, again, " * 10]
    inflater = Inflater(parameters, is_client=True)
    for text in texts:
        deflater.message(texts[0] + b"which is lost")
        deflater.rest()
        compressed = deflater.message(text)
        assert compressed is not None and inflater.message(compressed, 1000) == text


class _Interrupted:
    """A stream of zlib's in the middle of whose work a signal handler raises."""

    def __init__(self, stream: Any) -> None:
        self.compress = stream.compress

    def flush(self, mode: int) -> bytes:
        raise KeyboardInterrupt


def test_a_shared_compressor_that_was_lost_serves_nobody_any_more() -> None:
    """Half of a message may be in it."""
    shared: dict[Any, Any] = {}
    agreed = DeflateParameters(server_no_context_takeover=True)
    one, other = (make_deflater(agreed, level=6, threshold=0, shared=shared) for _ in range(2))
    assert one.message(b"one and the same text, " * 10) is not None
    shared[one.key] = _Interrupted(shared[one.key])
    with pytest.raises(KeyboardInterrupt):
        one.message(b"and what is not flushed, as a signal has come in between")
    one.rest()
    compressed = other.message(b"another text, " * 10)
    assert compressed is not None
    assert Inflater(agreed, is_client=True).message(compressed, 1000) == b"another text, " * 10


@pytest.mark.parametrize("takeover", [True, False])
def test_bytes_before_and_after_are_counted(takeover: bool) -> None:
    agreed = DeflateParameters(server_no_context_takeover=not takeover)
    deflater, inflater = make_deflater(agreed, threshold=0), Inflater(agreed, is_client=True)
    texts = [random.Random(seed).randbytes(200) * 3 for seed in (1, 2, 1, 2)]
    before = after = 0
    for number, text in enumerate(texts):
        if number == 0:
            parts = [deflater.piece(text[:50], last=False), deflater.piece(text[50:], last=True)]
        elif number == 1:
            shared = deflater.shared_message(text)
            assert shared is not None
            deflater.sent_shared(len(text), len(shared))
            parts = [shared]
        else:
            message = deflater.message(text)
            assert message is not None
            parts = [message]
        before, after = before + len(text), after + sum(map(len, parts))
        assert (deflater.bytes_before, deflater.bytes_after) == (before, after)
        whole = number == 3
        assert (inflater.message(parts[0], 1000) if whole else inflated(inflater, *parts)) == text
        assert (inflater.bytes_before, inflater.bytes_after) == (after, before)
    noise = random.Random(3).randbytes(50)
    assert deflater.message(noise) is None  # it goes out as it is
    assert (deflater.bytes_before, deflater.bytes_after) == (before, after)


def test_the_collector_is_told_what_a_stream_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPy's took it for a few words: 200,000 messages without takeover left 1.3 GB."""
    told: list[int] = []
    monkeypatch.setattr("zcws.codec.tell", told.append)
    forgets = DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True)
    message = make_deflater(forgets).message(b"x" * 1000)
    assert message is not None and told == [96 * 1024]
    inflater = Inflater(forgets, is_client=True)
    assert [inflater.message(message, 1000) for _ in range(2)] == [b"x" * 1000] * 2
    assert told == [96 * 1024, 12 * 1024, 12 * 1024]
