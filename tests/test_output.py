"""What has been written waits in order, and is taken once, also where there is no memory to join it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from arrays import address
from pythons import needs_cpython

from zcws import output as output_module
from zcws.kernel import ffi
from zcws.output import SEGMENT, Output, behind, to_slice

LARGE = bytes(SEGMENT)


def waiting(*segments: Any) -> Output:
    output = Output()
    for segment in segments:
        output._put(segment)
    return output


@pytest.mark.parametrize(
    ("segments", "taken"),
    [
        ([], []),
        ([b"a"], [b"a"]),
        ([b"a", b"b"], [b"ab"]),
        ([LARGE], [LARGE]),
        ([b"a", LARGE, b"b", b"c", LARGE, LARGE, b"d"], [b"a", LARGE, b"bc", LARGE, LARGE, b"d"]),
    ],
)
def test_what_is_small_is_joined_and_what_is_large_is_not(segments: list[bytes], taken: list[bytes]) -> None:
    output, size = waiting(*segments), sum(map(len, segments))
    assert (output.size, output.has_large) == (size, LARGE in segments)
    assert output.take() == taken
    assert (output.size, output.written, output.taken, output.has_large) == (0, size, size, False)
    assert output.take() == []


def test_what_went_past_has_been_taken() -> None:
    output = Output()
    output.passed(7)
    output._put(b"abc")
    assert (output.size, output.written, output.taken) == (3, 10, 7)


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_one_segment_is_taken_as_it_is(kind: Callable[[bytes], Any]) -> None:
    segment = kind(bytes(20_000))
    output = waiting(segment)
    assert output.take_whole() is segment
    output._put(b"next")
    assert output.take_whole() == b"next"
    assert (output.size, output.has_large) == (0, False)
    output._put(segment)
    assert [part is segment for part in output.take()] == [True]


class TestNoMemoryForTheJoin:
    """What has been written is sent all the same, in the end: whoever wrote it was told nothing else."""

    @pytest.fixture(autouse=True)
    def join(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(segments: Any) -> bytes:
            raise MemoryError

        monkeypatch.setattr("zcws.output._join", fails)

    @pytest.mark.parametrize("segments", [[b"a", b"b"], [b"a", b"b", LARGE]])
    def test_it_goes_out_in_pieces(self, segments: list[bytes]) -> None:
        output = waiting(*segments)
        assert output.take() == segments
        assert (output.size, output.take(), output.has_large) == (0, [], False)

    @pytest.mark.parametrize("take", [Output.take_whole, Output.take_bytes])
    def test_what_is_wanted_in_one_piece_stays(
        self, take: Callable[[Output], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output = waiting(b"a", LARGE)
        with pytest.raises(MemoryError):
            take(output)
        assert (output.size, output.has_large) == (1 + SEGMENT, True)
        monkeypatch.undo()
        assert take(output) == b"a" + LARGE
        assert (output.size, output.take()) == (0, [])


@pytest.mark.parametrize("is_large", [False, True])
def test_what_a_finalizer_sends_waits_behind_what_there_was_no_memory_for(
    is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, later = waiting(b"a", b"b"), LARGE if is_large else b"c"

    def join(parts: Iterable[bytes]) -> bytes:
        output._put(later)
        raise MemoryError

    monkeypatch.setattr("zcws.output._join", join)
    with pytest.raises(MemoryError):
        output.take_bytes()
    assert (output.size, output.has_large) == (2 + len(later), is_large)
    monkeypatch.undo()
    assert output.take_bytes() == b"ab" + later


@pytest.mark.parametrize("take", [Output.take, Output.take_bytes])
def test_what_a_finalizer_sends_is_not_lost_while_output_is_taken(
    take: Callable[[Output], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector may run one between any two lines."""
    output = waiting(b"a", b"b")

    def join(parts: Iterable[bytes]) -> bytes:
        if output.written == 2:
            output._put(b"c")
        return b"".join(parts)

    monkeypatch.setattr("zcws.output._join", join)
    taken = take(output)
    assert taken == ([b"ab"] if isinstance(taken, list) else b"ab")
    assert (output.take_bytes(), output.size) == (b"c", 0)


class _Takes:
    """Garbage that takes what there is when the collector comes."""

    def __init__(self, output: Output, taken: list[Any]) -> None:
        self.me, self.output, self.taken = self, output, taken

    def __del__(self) -> None:
        self.taken += self.output.take()


@needs_cpython("PyPy's collector has no thresholds")
@pytest.mark.parametrize("take", [Output.take, lambda output: [output.take_bytes()]])
def test_what_a_finalizer_takes_is_not_taken_again(take: Callable[[Output], list[Any]]) -> None:
    """As its `begin_close` does. Before CPython 3.12 the collector may come where a list is made."""
    output, taken = waiting(b"a", b"b"), list[Any]()
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    used_up: list[list[int]] = [[] for _ in range(200)]
    _Takes(output, taken)
    gc.set_threshold(1, 1, 1)
    gc.enable()
    try:
        taken += take(output)
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert (b"".join(taken), output.size, len(used_up)) == (b"ab", 0, 200)


def test_what_has_not_gone_yet() -> None:
    segments = [b"abc", memoryview(b"defg"), bytearray(b"h")]
    for sent in range(9):
        assert b"".join(behind(segments, sent)) == b"abcdefgh"[sent:]
    assert behind(segments, 8) == []


@pytest.mark.parametrize("by_address", [False, True])
def test_what_is_left_of_a_view_is_a_view(by_address: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPy made a copy of a slice of a read-only view whenever it was sent, at 0.1 µs a byte."""
    if by_address:
        monkeypatch.setattr(output_module, "SLICES_HAVE_ADDRESSES", False)
    memory = bytearray(b"abcdefgh")
    view = memoryview(memory)[1:].toreadonly()
    left = behind([b"", view, b"ij"], 3)
    assert address(left[0]) == address(memory) + 4 and left == [b"efgh", b"ij"]
    left = behind(left, 2)
    assert address(left[0]) == address(memory) + 6 and left == [b"gh", b"ij"]
    assert to_slice(b"bytes")[1:] == b"ytes" and not to_slice(view[:0])


@pytest.mark.parametrize("by_address", [False, True])
def test_what_is_left_of_a_view_holds_its_memory(by_address: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_address:
        monkeypatch.setattr(output_module, "SLICES_HAVE_ADDRESSES", False)
    exporter = ffi.buffer(ffi.new("char[]", b"abcdefgh"), 8)
    known = weakref.ref(exporter)
    left = behind([memoryview(exporter)[1:].toreadonly()], 3)
    del exporter
    gc.collect()
    assert known() is not None and left == [b"efgh"]
    left.clear()
    for _ in range(3):  # PyPy: one after the other
        gc.collect()
    assert known() is None
