"""What mypy is told of the compiled module: the functions of csrc/zcws.h as cffi shows them.

A test (tests/test_mirror.py) compares the names here with those of the compiled module.
"""

from collections.abc import Callable
from typing import Any, Final, type_check_only

@type_check_only
class CData:
    """A C value or pointer. Fields of structures are not known to the type checker."""

    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: Any) -> None: ...
    def __getitem__(self, index: int | slice) -> Any: ...
    def __setitem__(self, index: int | slice, value: Any) -> None: ...
    def __add__(self, count: int) -> CData: ...
    def __sub__(self, other: Any) -> Any: ...
    def __int__(self) -> int: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __hash__(self) -> int: ...

@type_check_only
class CBuffer:
    """What `ffi.buffer` makes: a writable buffer over C memory, which it keeps alive."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __getitem__(self, index: int | slice) -> bytes: ...
    def __setitem__(self, index: int | slice, value: Any) -> None: ...
    def __len__(self) -> int: ...

@type_check_only
class FFI:
    NULL: Final[CData]
    error: type[Exception]

    def new(self, cdecl: str, init: Any = None) -> CData: ...
    def new_allocator(
        self,
        alloc: Callable[[int], CData] | None = None,
        free: Callable[[CData], None] | None = None,
        should_clear_after_alloc: bool = True,
    ) -> Callable[..., CData]: ...
    def gc(self, cdata: CData, destructor: Callable[[CData], object] | None, size: int = 0) -> CData: ...
    def release(self, cdata: CData) -> None: ...
    def cast(self, cdecl: str, value: Any) -> CData: ...
    def addressof(self, cdata: CData, *fields_or_indexes: str | int) -> CData: ...
    def buffer(self, cdata: CData, size: int = -1) -> CBuffer: ...
    def from_buffer(
        self, cdecl_or_object: Any, python_buffer: Any = ..., require_writable: bool = False
    ) -> CData: ...
    def memmove(self, dest: Any, src: Any, n: int) -> None: ...
    def string(self, cdata: CData, maxlen: int = -1) -> Any: ...
    def unpack(self, cdata: CData, length: int) -> Any: ...
    def sizeof(self, cdecl_or_cdata: str | CData) -> int: ...
    def typeof(self, cdecl_or_cdata: str | CData) -> Any: ...

@type_check_only
class Lib:
    ZCWS_BAD_RSV: Final[int]
    ZCWS_BAD_OPCODE: Final[int]
    ZCWS_BAD_CONTROL_FIN: Final[int]
    ZCWS_BAD_CONTROL_SIZE: Final[int]
    ZCWS_BAD_UNMASKED: Final[int]
    ZCWS_BAD_MASKED: Final[int]
    ZCWS_BAD_LENGTH_FORM: Final[int]
    ZCWS_BAD_LENGTH_SIGN: Final[int]
    ZCWS_BAD_CONTINUATION: Final[int]
    ZCWS_BAD_INTERLEAVING: Final[int]
    ZCWS_BAD_CLOSE_SIZE: Final[int]
    ZCWS_BAD_CLOSE_CODE: Final[int]
    ZCWS_BAD_CLOSE_REASON: Final[int]
    ZCWS_BAD_UTF8: Final[int]
    ZCWS_BAD_MESSAGE_SIZE: Final[int]
    ZCWS_BAD_FRAGMENT_COUNT: Final[int]

    ZCWS_FIRST: Final[int]
    ZCWS_LAST: Final[int]
    ZCWS_COMPRESSED: Final[int]

    ZCWS_TABLE_NEXT: Final[int]
    ZCWS_TABLE_STATUS: Final[int]
    ZCWS_TABLE_CONTROLS: Final[int]
    ZCWS_TABLE_REMAINING: Final[int]
    ZCWS_TABLE_SIZE: Final[int]
    ZCWS_TABLE_HEAD: Final[int]
    ZCWS_TABLE_ROW: Final[int]

    ZCWS_TURN_READY: Final[int]
    ZCWS_TURN_LEFT: Final[int]
    ZCWS_TURN_HEAD: Final[int]
    ZCWS_TURN_ONE: Final[int]
    ZCWS_TURN_ENTRIES: Final[int]
    ZCWS_TURN_OTHERS: Final[int]
    ZCWS_TURN_SHORT: Final[int]
    ZCWS_TURN_FD: Final[int]
    ZCWS_TURN_BEGIN: Final[int]
    ZCWS_TURN_STOP: Final[int]
    ZCWS_TURN_COUNT: Final[int]
    ZCWS_TURN_END: Final[int]
    ZCWS_TURN_ENTRY: Final[int]
    ZCWS_TURN_MOST: Final[int]
    ZCWS_TURN_SERVE: Final[int]
    ZCWS_TURN_FAILED: Final[int]
    ZCWS_SEND_ORDER: Final[int]
    ZCWS_NOTHING: Final[int]
    ZCWS_ENDED: Final[int]
    ZCWS_TORN: Final[int]
    ZCWS_OPENING_ACCEPT: Final[int]
    ZCWS_OPENING_MOST: Final[int]
    ZCWS_OPENING_ASKS: Final[int]
    ZCWS_NEWS: Final[int]
    ZCWS_MORE: Final[int]
    ZCWS_FULL: Final[int]
    ZCWS_CLOSED: Final[int]

    ZCWS_UTF8_START: Final[int]
    ZCWS_UTF8_BAD: Final[int]

    def zcws_scan(
        self, reader: CData, base: CData, begin: int, end: int, table: CData, rows: int, /
    ) -> int: ...
    def zcws_land(self, reader: CData, data: CData, len: int, /) -> int: ...
    def zcws_turn(self, sockets: CData, /) -> int: ...
    def zcws_receive_into(self, socket: CData, data: CData, size: int, /) -> int: ...
    def zcws_receive(self, socket: CData, /) -> int: ...
    def zcws_send_masked(
        self, fd: int, out: CData, room: int, first: int, payload: CData | bytes, len: int, key: int, /
    ) -> int: ...
    def zcws_send_each(self, orders: CData, count: int, data: CData | bytes, /) -> int: ...
    def zcws_read_opening(self, data: CData | bytes, len: int, opening: CData, /) -> int: ...
    def zcws_welcome(self, listening: int, data: CData, size: int, opening: CData, /) -> int: ...
    def zcws_build_masked(
        self, out: CData, first: int, payload: CData | bytes, len: int, key: int, /
    ) -> int: ...
    def zcws_build_each(
        self,
        out: CData,
        first: int,
        data: CData | bytes,
        starts: CData,
        stops: CData,
        keys: CData,
        count: int,
        /,
    ) -> int: ...
    def zcws_mask(self, data: CData, len: int, key: int, phase: int, /) -> None: ...
    def zcws_mask_copy(self, dst: CData, src: CData | bytes, len: int, key: int, phase: int, /) -> None: ...
    def zcws_utf8(self, data: CData | bytes, len: int, state: CData, /) -> int: ...
    def zcws_kernel_name(self, i: int, /) -> CData: ...
    def zcws_kernel_in_use(self) -> CData: ...
    def zcws_kernel_use(self, name: CData | bytes, /) -> int: ...
    def zcws_build_info(self) -> CData: ...
    def zcws_mirror_map(self, size: int, /) -> CData: ...
    def zcws_mirror_unmap(self, base: CData, size: int, /) -> None: ...
    def zcws_page_size(self) -> int: ...

ffi: FFI
lib: Lib
