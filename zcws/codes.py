"""The numbers of RFC 6455: opcodes and close codes, and which of them may be on the wire.

This floor knows no bytes, no frames and no errors; everybody may import it.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CloseCode", "OpCode", "is_sendable_close_code"]


class OpCode(IntEnum):
    """What a frame is. RFC 6455 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    __str__ = int.__repr__  # a number on CPython 3.10, too

    @property
    def is_control(self) -> bool:
        """Whether this is Close, Ping or Pong: at most 125 bytes, never fragmented. RFC 6455 5.5."""
        return self >= 0x8


class CloseCode(IntEnum):
    """Why a connection was closed. RFC 6455 7.4.1 and the IANA registry that it opened."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    #: Never on the wire: the peer's Close had no code.
    NO_STATUS_RCVD = 1005
    #: Never on the wire: the connection ended without a Close.
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    #: Never on the wire: TLS failed.
    TLS_HANDSHAKE = 1015

    __str__ = int.__repr__  # a number on CPython 3.10, too


def is_sendable_close_code(code: int) -> bool:
    """Whether `code` may be in a Close frame. RFC 6455 7.4.1 and 7.4.2; 1012-1014 by the IANA registry."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
