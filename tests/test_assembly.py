"""A message in pieces: copied behind each other, or inflated as they come; what stops it, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zcws.assembly import BAD_BUFFER_SIZE, BAD_DEFLATE, NO_MEMORY, Assembly, Inflated
from zcws.buffer import PayloadBuffer
from zcws.errors import FAULTS

TEXT, BINARY = 1, 2
UTF8 = next(fault for fault, (_, reason) in FAULTS.items() if reason == "text is not UTF-8")
SIZE = next(fault for fault, (_, reason) in FAULTS.items() if "max_size" in reason)


class Doubling:
    """Inflates by saying everything twice, a byte at a time; `!` cannot be inflated. It counts its steps."""

    def __init__(self) -> None:
        self.steps = 0
        self.rooms: list[int] = []  # what it was told of how much may come

    def message(self, payload: bytes, limit: int) -> bytes:
        return b"".join(self.pieces(memoryview(payload), last=True, room=limit))

    def pieces(self, payload: memoryview, *, last: bool, room: int) -> Iterator[bytes]:
        self.rooms.append(room)
        for byte in bytes(payload):
            if byte == ord("!"):
                raise ValueError("no such thing")
            self.steps += 1
            yield bytes([byte, byte])
        if last:
            yield b"."


def assemble(
    opcode: int, target: PayloadBuffer, inflate: Doubling | None = None, max_size: int = 1000
) -> Assembly:
    return Assembly(opcode, target, is_ours=False, inflate=inflate, max_size=max_size)


def test_plain_pieces_lie_one_behind_the_other() -> None:
    target = PayloadBuffer()
    target.append(memoryview(b"what was there before"))
    assembly = assemble(BINARY, target)
    assert assembly.is_plain
    assert [assembly.add(memoryview(piece), last=piece == b"c") for piece in (b"aa", b"", b"b", b"c")] == [
        0
    ] * 4
    assert bytes(target.occupant().peek(0, len(target))) == b"aabc"


def test_a_plain_piece_that_does_not_fit() -> None:
    memory = bytearray(b"......")
    with memoryview(memory)[:4] as four:
        assembly = assemble(BINARY, PayloadBuffer(four))
        assert assembly.add(memoryview(b"abc"), last=False) == 0
        assert assembly.add(memoryview(b"de"), last=True) == BAD_BUFFER_SIZE
        assert memory == b"abc..."
        del assembly


def test_compressed_pieces_are_inflated() -> None:
    target = PayloadBuffer()
    assembly = assemble(BINARY, target, Doubling())
    assert not assembly.is_plain
    assert assembly.add(memoryview(b"ab"), last=False) == 0
    assert assembly.add(memoryview(b"c"), last=True) == 0
    assert bytes(target.occupant().peek(0, len(target))) == b"aabbcc."


def test_inflating_stops_at_the_limit_not_after_it() -> None:
    inflate, target = Doubling(), PayloadBuffer()
    assembly = assemble(BINARY, target, inflate, max_size=6)
    assert assembly.add(memoryview(b"abc"), last=False) == 0
    assert assembly.add(memoryview(b"defghi"), last=False) == SIZE
    assert (inflate.steps, len(target)) == (4, 6)


def test_inflating_is_told_how_much_may_still_come() -> None:
    inflate = Doubling()
    assembly = assemble(BINARY, PayloadBuffer(), inflate, max_size=10)
    assert [assembly.add(memoryview(piece), last=False) for piece in (b"ab", b"", b"c")] == [0, 0, 0]
    assert inflate.rooms == [10, 6, 6]


def test_exactly_the_limit_is_allowed() -> None:
    assert assemble(BINARY, PayloadBuffer(), Doubling(), max_size=7).add(memoryview(b"abc"), last=True) == 0
    assert (
        assemble(BINARY, PayloadBuffer(), Doubling(), max_size=6).add(memoryview(b"abc"), last=True) == SIZE
    )


def test_inflated_bytes_that_do_not_fit_the_callers_memory() -> None:
    memory = bytearray(5)
    assert (
        assemble(BINARY, PayloadBuffer(memory), Doubling()).add(memoryview(b"abc"), last=True)
        == BAD_BUFFER_SIZE
    )
    assert memory == b"aabb\0"


def test_what_cannot_be_inflated() -> None:
    assert assemble(BINARY, PayloadBuffer(), Doubling()).add(memoryview(b"a!"), last=False) == BAD_DEFLATE


def test_rfc6455_8_1_inflated_text_is_checked_as_it_comes() -> None:
    inflate = Doubling()
    assert assemble(TEXT, PayloadBuffer(), inflate).add(memoryview(b"a\x80bcd"), last=True) == UTF8
    assert inflate.steps == 2
    assert assemble(BINARY, PayloadBuffer(), Doubling()).add(memoryview(b"a\x80bcd"), last=True) == 0


def test_rfc6455_8_1_the_last_character_is_whole() -> None:
    class Plain(Doubling):
        def pieces(self, payload: memoryview, *, last: bool, room: int) -> Iterator[bytes]:
            yield bytes(payload)

    assembly = Assembly(TEXT, PayloadBuffer(), is_ours=True, inflate=Plain(), max_size=100)
    assert assembly.add(memoryview(b"\xe1\xbd"), last=False) == 0
    assert assembly.add(memoryview(b"\xb9\xe1"), last=False) == 0
    assert assembly.add(memoryview(b"\xbd"), last=True) == UTF8


@pytest.mark.parametrize("fault", [BAD_DEFLATE, BAD_BUFFER_SIZE, NO_MEMORY])
def test_its_own_faults_have_a_close_code(fault: int) -> None:
    assert FAULTS[fault][0] in (1007, 1009, 1011)


def test_an_inflated_message_is_seen_without_a_copy() -> None:
    inflated = Inflated(b"message")
    assert inflated.export(0, 7) == inflated.peek(0, 7) == b"message"
    assert inflated.export(2, 4) == b"ss"
    assert inflated.export(0, 7).readonly
