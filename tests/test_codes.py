"""The numbers of RFC 6455, against the numbers as they stand in the RFC and in the IANA registries."""

from __future__ import annotations

import pytest

from zcws.codes import CloseCode, OpCode, is_sendable_close_code

# RFC 6455 11.8
OPCODES = {"CONTINUATION": 0, "TEXT": 1, "BINARY": 2, "CLOSE": 8, "PING": 9, "PONG": 10}

# RFC 6455 11.7, and the registry that it opened
CLOSE_CODES = {
    "NORMAL_CLOSURE": 1000,
    "GOING_AWAY": 1001,
    "PROTOCOL_ERROR": 1002,
    "UNSUPPORTED_DATA": 1003,
    "NO_STATUS_RCVD": 1005,
    "ABNORMAL_CLOSURE": 1006,
    "INVALID_DATA": 1007,
    "POLICY_VIOLATION": 1008,
    "MESSAGE_TOO_BIG": 1009,
    "MANDATORY_EXTENSION": 1010,
    "INTERNAL_ERROR": 1011,
    "SERVICE_RESTART": 1012,
    "TRY_AGAIN_LATER": 1013,
    "BAD_GATEWAY": 1014,
    "TLS_HANDSHAKE": 1015,
}


def test_opcodes_are_those_of_the_rfc() -> None:
    assert {opcode.name: opcode.value for opcode in OpCode} == OPCODES


def test_close_codes_are_those_of_the_registry() -> None:
    assert {code.name: code.value for code in CloseCode} == CLOSE_CODES


@pytest.mark.parametrize("opcode", OpCode)
def test_control_opcodes_have_the_top_bit(opcode: OpCode) -> None:
    # RFC 6455 5.5: "Control frames are identified by opcodes where the most significant bit of the opcode is 1."
    assert opcode.is_control == (opcode.name in ("CLOSE", "PING", "PONG"))


#: Every run of codes with one answer, end points included; behaviour for each is RFC 6455 7.4.1 and 7.4.2.
RUNS = [
    (0, 999, False),  # not used
    (1000, 1003, True),
    (1004, 1006, False),  # reserved; 1005 and 1006 are for programs, never for the wire
    (1007, 1011, True),
    (1012, 1014, True),  # registered after the RFC
    (1015, 1015, False),  # for programs only
    (1016, 2999, False),  # for later revisions of the protocol
    (3000, 3999, True),  # registered by libraries and applications
    (4000, 4999, True),  # private use
    (5000, 65535, False),
]


@pytest.mark.parametrize(("first", "last", "sendable"), RUNS)
def test_which_codes_may_be_sent(first: int, last: int, sendable: bool) -> None:
    assert {is_sendable_close_code(code) for code in range(first, last + 1)} == {sendable}


def test_the_runs_leave_no_gap() -> None:
    assert [code for first, last, _ in RUNS for code in range(first, last + 1)] == list(range(65536))


def test_numbers_that_no_close_frame_can_hold_are_refused() -> None:
    assert not is_sendable_close_code(-1)
    assert not is_sendable_close_code(65536 + 1000)
