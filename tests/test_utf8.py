"""What is text, whole and in parts. RFC 6455 8.1."""

from __future__ import annotations

from typing import Any

import pytest

from zcws.utf8 import Utf8, decoded, is_utf8, piecewise


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (b"", True),
        ("schön ありがとう 🙂".encode(), True),
        (b"\xc3", False),  # cut
        (b"\xed\xa0\x80", False),  # a surrogate
        (b"\xc0\xaf", False),  # longer than it has to be
        (b"\xf4\x90\x80\x80", False),  # beyond U+10FFFF
    ],
)
def test_rfc6455_8_1_a_whole_text_is_checked_as_python_would(text: bytes, valid: bool) -> None:
    """Messages are decoded by Python and frames are checked in C: they have to agree."""
    assert is_utf8(text) is valid
    try:
        text.decode()
    except UnicodeDecodeError:
        assert not valid
    else:
        assert valid


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_character_may_be_cut_between_two_parts_and_not_at_the_end(kind: Any) -> None:
    for at in range(1, 4):
        text, data = Utf8(), "🙂".encode()
        assert text.takes(kind(data[:at]), last=False)
        assert text.takes(kind(b""), last=False)
        assert not text.takes(kind(b""), last=True)
        assert not text.takes(kind(b"x"), last=False)
        # What was refused changed nothing: the right one still follows.
        assert text.takes(kind(data[at:]), last=True)


def test_one_text_knows_nothing_of_another() -> None:
    one, other = Utf8(), Utf8()
    assert one.takes(b"\xe2", last=False)
    assert other.takes(b"whole", last=True)
    assert one.takes(b"\x82\xac", last=True)


@pytest.mark.parametrize("message", ["sch\xf6n", "sch\xf6n".encode()])
def test_a_message_as_it_is_wanted(message: str | bytes) -> None:
    assert decoded(message, True) == "sch\xf6n"
    assert decoded(message, False) == "sch\xf6n".encode()


@pytest.mark.parametrize("pieces", [["a€", "b", ""], [b"a\xe2", b"\x82", b"\xacb"]], ids=["text", "binary"])
def test_pieces_of_a_message_as_what_somebody_wants(pieces: list[Any]) -> None:
    def converted(decode: bool | None) -> list[Any]:
        convert = piecewise(decode)
        return [convert(piece, i == 2) for i, piece in enumerate(pieces)]

    assert converted(None) == pieces
    assert "".join(converted(True)) == "a€b"
    assert b"".join(converted(False)) == "a€b".encode()


def test_pieces_that_are_no_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        piecewise(True)(b"\xe2\x82", True)
