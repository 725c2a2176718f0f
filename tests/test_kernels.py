"""Every kernel by name, through cffi: masking against a byte at a time, UTF-8 against Python's own decoder.

`tests/c/` runs the same comparisons in much greater number. Here is what only Python can add: an oracle
that somebody else wrote, inputs that hypothesis shrinks, and the module as it is really compiled.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zcws import kernel as kernels
from zcws.kernel import ffi, lib

LONGEST = 300  # past eight vectors of the widest kernel
AROUND = 64  # bytes on either side that must stay as they are: two vectors
KEY = bytes([0x0F, 0x96, 0xC3, 0x5A])  # neither 0 nor a repetition

START, BAD = lib.ZCWS_UTF8_START, lib.ZCWS_UTF8_BAD

# The fixture only switches a pointer: one switch for all examples of a test is what is wanted.
per_kernel = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True, params=kernels.available())
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = kernels.in_use()
    kernels.use(request.param)
    yield request.param
    kernels.use(before)


def key_word(key: bytes) -> int:
    """The key as C takes it: four bytes in memory order."""
    return int.from_bytes(key, sys.byteorder)


def naive_mask(data: bytes, key: bytes, phase: int) -> bytes:
    """RFC 6455 5.3, a byte at a time."""
    return bytes(byte ^ key[(phase + i) % 4] for i, byte in enumerate(data))


def mask(data: bytes, key: bytes, phase: int, alignment: int = 0) -> bytes:
    """`data` masked in place at an alignment; nothing around it may change."""
    before, after = b"\xa5" * (AROUND + alignment), b"\x5a" * AROUND
    memory = bytearray(before + data + after)
    lib.zcws_mask(ffi.from_buffer(memory) + len(before), len(data), key_word(key), phase)
    assert memory.startswith(before)
    assert memory.endswith(after)
    return bytes(memory[len(before) : len(before) + len(data)])


def mask_copy(data: bytes, key: bytes, phase: int, alignment: int = 0) -> bytes:
    source = bytes(data)
    memory = bytearray(b"\xa5" * (AROUND + alignment + len(data) + AROUND))
    at = ffi.from_buffer(memory) + AROUND + alignment
    lib.zcws_mask_copy(at, ffi.from_buffer(source), len(source), key_word(key), phase)
    assert source == data
    end = AROUND + alignment + len(data)
    assert memory[: AROUND + alignment].strip(b"\xa5") == memory[end:].strip(b"\xa5") == b""
    return bytes(memory[AROUND + alignment : end])


@pytest.fixture(scope="module")
def noise() -> bytes:
    return random.Random(6455).randbytes(LONGEST)


class TestMask:
    @pytest.mark.parametrize("apply", [mask, mask_copy])
    @pytest.mark.parametrize("phase", range(4))
    def test_every_length(self, apply: object, phase: int, noise: bytes) -> None:
        assert callable(apply)
        for length in range(LONGEST + 1):
            data = noise[:length]
            assert apply(data, KEY, phase, length % 64) == naive_mask(data, KEY, phase), length

    @pytest.mark.parametrize("apply", [mask, mask_copy])
    def test_every_alignment(self, apply: object, noise: bytes) -> None:
        assert callable(apply)
        for length in (1, 15, 31, 63, 64, 65, 127, LONGEST):
            expected = naive_mask(noise[:length], KEY, 1)
            for alignment in range(64):
                assert apply(noise[:length], KEY, 1, alignment) == expected, (length, alignment)

    @per_kernel
    @given(st.binary(max_size=2000), st.binary(min_size=4, max_size=4), st.integers(0, 3))
    def test_twice_is_nothing(self, data: bytes, key: bytes, phase: int) -> None:
        masked = mask_copy(data, key, phase)
        assert masked == naive_mask(data, key, phase)
        assert mask(masked, key, phase) == data


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, "8180"),
        (5, "8185"),
        (125, "81fd"),
        (126, "81fe007e"),
        (65535, "81feffff"),
        (65536, "81ff0000000000010000"),
    ],
)
def test_a_built_frame(length: int, head: str) -> None:
    """RFC 6455 5.2: the length in its shortest form, then the key, then the payload."""
    payload = bytes(range(256)) * (length // 256) + bytes(range(length % 256))
    expected = bytes.fromhex(head) + KEY + naive_mask(payload, KEY, 0)
    out = bytearray(14 + length)
    source = ffi.from_buffer(payload)
    written = lib.zcws_build_masked(ffi.from_buffer(out), 0x81, source, length, key_word(KEY))
    assert out[:written] == expected
    assert out[written:].strip(b"\0") == b""


def validate(pieces: list[bytes]) -> tuple[int, int]:
    """Feeds the pieces to zcws_utf8: how many bytes were good, and the state at the end."""
    state = ffi.new("uint32_t *", START)
    good = 0
    for piece in pieces:
        taken = lib.zcws_utf8(ffi.from_buffer(piece), len(piece), state)
        good += taken
        assert taken == len(piece) or state[0] == BAD
    return good, state[0]


# What completes a character that has begun, whichever it is: E0 needs A0 next, F0 needs 90, others can do with 80.
ENDS = [bytes.fromhex(end) for end in ("", "80", "8080", "808080", "a080", "908080")]


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def judge(data: bytes) -> tuple[int, bool]:
    """Python's verdict: the offset of the first byte that cannot be right, and whether no character ends there.

    Not by its incremental decoder, which does not decide ED A0 before a third byte has come.
    """
    try:
        data.decode()
    except UnicodeDecodeError as error:
        tail = data[error.start : error.start + 4]
        hopeful = [n for n in range(len(tail) + 1) if any(is_text(tail[:n] + end) for end in ENDS)]
        return error.start + max(hopeful), True
    return len(data), False


def check(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    good, unfinished = judge(data)
    answer, state = validate(pieces)
    assert answer == good, data
    assert (state == BAD) == (good < len(data)), data
    assert (state != START) == unfinished, data


# Bytes at the edges of what RFC 3629 allows, and texts in which kernels take each of their ways.
EDGES = "7f 80 bf c1 c2 dfbf e09f e0a0 ed9f eda0 efbf f08f f090 f48fbf f490 f5 ff"
RUNS = st.one_of(
    st.integers(0, 150).map(lambda count: b"a" * count),
    st.integers(0, 80).map(lambda count: "é".encode() * count),
    st.integers(0, 60).map(lambda count: "語".encode() * count),
    st.integers(0, 40).map(lambda count: "\U0001f600".encode() * count),
    st.text(max_size=40).map(str.encode),
)
TEXTS = st.lists(RUNS, max_size=5).map(b"".join)
ODDITIES = st.one_of(st.sampled_from([bytes.fromhex(edge) for edge in EDGES.split()]), st.binary(max_size=4))
ALMOST_TEXTS = st.lists(st.one_of(RUNS, ODDITIES), max_size=6).map(b"".join)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    ends = sorted(min(place, len(data)) for place in at)
    return [data[begin:end] for begin, end in zip([0, *ends], [*ends, len(data)], strict=True)]


CUTS = st.lists(st.integers(0, 700), max_size=6)


class TestUtf8:
    def test_every_two_bytes_between_ascii(self) -> None:
        before = b"x" * 61  # so that what follows crosses the 64th byte
        for first in range(0x80, 0x100):
            for second in range(0x100):
                check([before + bytes([first, second])])

    @per_kernel
    @given(TEXTS, CUTS)
    def test_text_in_pieces(self, data: bytes, at: list[int]) -> None:
        assert judge(data) == (len(data), False)
        check(cut(data, at))

    @per_kernel
    @given(ALMOST_TEXTS, CUTS)
    def test_almost_text_in_pieces(self, data: bytes, at: list[int]) -> None:
        check(cut(data, at))

    @per_kernel
    @given(TEXTS.filter(len), st.data())
    def test_one_byte_replaced(self, data: bytes, draw: st.DataObject) -> None:
        place = draw.draw(st.integers(0, len(data) - 1))
        check([data[:place] + bytes([draw.draw(st.integers(0, 255))]) + data[place + 1 :]])

    @per_kernel
    @given(ALMOST_TEXTS)
    def test_byte_by_byte(self, data: bytes) -> None:
        check([data[i : i + 1] for i in range(len(data))])

    def test_a_bad_byte_is_for_good(self) -> None:
        assert validate([b"ab\xffcd"]) == (2, BAD)
        state = ffi.new("uint32_t *", BAD)
        assert lib.zcws_utf8(b"more", 4, state) == 0
        assert state[0] == BAD


class TestTable:
    def test_names_are_listed_best_first_and_scalar_is_last(self) -> None:
        names = kernels.available()
        assert len(set(names)) == len(names)
        assert names[-1] == "scalar"

    def test_null_is_the_best(self) -> None:
        assert lib.zcws_kernel_use(ffi.NULL) == 1
        assert kernels.in_use() == kernels.available()[0]

    def test_an_unknown_name_changes_nothing(self, kernel: str) -> None:
        assert lib.zcws_kernel_use(b"no such kernel") == 0
        assert kernels.in_use() == kernel


# Runs in a process of its own, so that a byte touched too many is one red test and not the end of all.
AT_A_PROTECTED_PAGE = """
import ctypes, mmap, sys
from zcws import kernel
from zcws.kernel import ffi, lib

kernel.use(sys.argv[1])
memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
start = ffi.from_buffer(memory)
end = start + mmap.PAGESIZE
protect = ctypes.CDLL(None, use_errno=True).mprotect
if protect(ctypes.c_void_p(int(ffi.cast("uintptr_t", end))), ctypes.c_size_t(mmap.PAGESIZE), 0):
    raise OSError(ctypes.get_errno(), "mprotect")
state = ffi.new("uint32_t *")
for length in range(301):
    for phase in range(4):
        lib.zcws_mask(end - length, length, 0x5AC3960F, phase)
        lib.zcws_mask_copy(start, end - length, length, 0x5AC3960F, phase)
        lib.zcws_mask_copy(end - length, start, length, 0x5AC3960F, phase)
    for text in (b"a", "é".encode(), "語".encode()):
        ffi.memmove(end - length, text * length, length)
        state[0] = 0
        assert lib.zcws_utf8(end - length, length, state) == length
print("untouched")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_nothing_is_touched_behind_the_end(kernel: str) -> None:
    command = [sys.executable, "-c", AT_A_PROTECTED_PAGE, kernel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "untouched\n"), done.stderr
