"""Messages made in bulk. In what order they come, and what is read between them: test_batch.py, test_waiting.py."""

from __future__ import annotations

import sys

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from receiver import connect, fails, send
from wire import BINARY, TEXT

from zcws import bulk
from zcws.bulk import in_bulk, is_worth_it
from zcws.frame import NEED_MORE
from zcws.kernel import ffi
from zcws.pool import TABLE_ROWS, Pool
from zcws.rows import WHOLE_BINARY, WHOLE_TEXT, as_table
from zcws.scratch import Scratch

messages = st.lists(
    st.text(max_size=40) | st.binary(max_size=300) | st.text("\0u[s", max_size=8), max_size=60
)


def lie(found: list[str | bytes], gap: int) -> tuple[bytes, memoryview]:
    """Memory in which they lie, and a row for each."""
    memory, rows = b"", list[int]()
    for message in found:
        payload = message.encode() if isinstance(message, str) else message
        memory += b"\x81" * gap
        what = WHOLE_TEXT if isinstance(message, str) else WHOLE_BINARY
        rows += [what, len(memory), len(memory) + len(payload)]
        memory += payload
    return memory, as_table(rows)


@given(messages.filter(bool), st.integers(0, 14))
def test_every_message_is_there_whatever_is_in_it(found: list[str | bytes], gap: int) -> None:
    memory, rows = lie(found, gap)
    assert in_bulk(ffi.from_buffer(memory), rows, Scratch()) == found


def test_they_are_the_callers_own() -> None:
    memory, rows = bytearray(b"abc"), as_table([WHOLE_TEXT, 0, 1, WHOLE_BINARY, 1, 3])
    scratch = Scratch()
    found = in_bulk(ffi.from_buffer(memory), rows, scratch)
    memory[:] = b"def"
    assert in_bulk(ffi.from_buffer(memory), rows, scratch) == ["d", b"ef"]
    assert found == ["a", b"bc"]
    memory += b"nothing holds it any more"


def test_scratch_is_used_again() -> None:
    memory, rows = b"x" * 1000, as_table([WHOLE_TEXT, 0, 1000])
    scratch = Scratch()
    assert in_bulk(ffi.from_buffer(memory), rows, scratch) == ["x" * 1000]
    before = scratch.reserve(1000)
    scratch.lend(before, 0)
    assert in_bulk(ffi.from_buffer(memory), rows, scratch) == ["x" * 1000]
    assert scratch.reserve(1000) is before


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="a loop is quicker there")
def test_many_short_ones_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(size: int, count: int = 40) -> memoryview:
        return lie([bytes(size)] * count, 0)[1]

    assert is_worth_it(rows(0))
    assert is_worth_it(rows(2047))
    assert is_worth_it(rows(2047, TABLE_ROWS))
    assert not is_worth_it(rows(2048))
    assert not is_worth_it(rows(3).tolist())
    monkeypatch.setattr(bulk, "_READS_OURS", False)
    assert not is_worth_it(rows(0))


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="a loop is quicker there")
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("count", [33, 400, TABLE_ROWS + 7])
def test_a_reader_does_so(opcode: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[int]()

    def count_rows(base: object, rows: memoryview, scratch: Scratch) -> list[str | bytes]:
        made.append(len(rows) // 3)
        return in_bulk(base, rows, scratch)

    monkeypatch.setattr("zcws.reader.in_bulk", count_rows)
    connection = connect(Pool())
    send(connection, *(wire.frame(opcode, b"%d" % i) for i in range(count)))
    expected = [str(i) if opcode == TEXT else b"%d" % i for i in range(count)]
    assert [connection.read_message() for _ in range(count)] == expected
    assert connection.read_message() is NEED_MORE
    assert made == ([count] if count <= TABLE_ROWS else [TABLE_ROWS])


def test_an_interpreter_whose_marshal_is_another_or_forbidden_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert bulk._reads_ours() == (sys.implementation.name == "cpython")
    monkeypatch.setattr(bulk.marshal, "loads", lambda data: ["?", b"?"])
    assert not bulk._reads_ours()

    def forbidden(data: bytes) -> None:
        raise RuntimeError("says an audit hook")

    monkeypatch.setattr(bulk.marshal, "loads", forbidden)
    assert not bulk._reads_ours()


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("zcws.reader.in_bulk", none)
    connection = connect(Pool())
    send(connection, *[wire.frame(BINARY, b"x")] * 40)
    fails(connection, connection.read_message)
