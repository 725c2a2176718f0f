"""The error tree, and the one table from a fault of the C core to what is said on the wire."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from zcws import errors
from zcws.codes import is_sendable_close_code
from zcws.errors import (
    FAULTS,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HandshakeError,
    LimitExceeded,
    ProtocolError,
    ProxyError,
    StaleFrame,
    ZcwsError,
    closed_error,
    tells_only_of_an_end,
)

HEADER = Path(__file__).parent.parent / "csrc" / "zcws.h"


def faults_of_the_header() -> dict[str, int]:
    found = re.findall(r"^\s*ZCWS_(BAD_\w+) = -(\d+)", HEADER.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: int(number) for name, number in found}


# ---- FAULTS ----


def test_every_fault_of_the_header_has_a_row() -> None:
    assert set(FAULTS) >= set(faults_of_the_header().values())


def test_the_rows_of_faults_found_in_python_come_behind_them() -> None:
    assert sorted(FAULTS) == list(range(1, len(FAULTS) + 1))


def test_the_compiled_module_has_the_faults_of_the_header() -> None:
    from zcws._kernel import lib

    compiled = {name[5:]: -getattr(lib, name) for name in dir(lib) if name.startswith("ZCWS_BAD_")}
    assert compiled == faults_of_the_header()


# behaviour by fault, from the RFC's sections and our two limits; what is not here fails with 1002
INVALID_DATA = {"BAD_CLOSE_REASON", "BAD_UTF8"}  # RFC 6455 8.1
TOO_BIG = {"BAD_MESSAGE_SIZE", "BAD_FRAGMENT_COUNT"}


@pytest.mark.parametrize("name", faults_of_the_header())
def test_a_fault_fails_the_connection_with_its_code(name: str) -> None:
    expected = 1007 if name in INVALID_DATA else 1009 if name in TOO_BIG else 1002
    assert FAULTS[faults_of_the_header()[name]][0] == expected


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reason_fits_in_a_close_frame(fault: int) -> None:
    code, reason = FAULTS[fault]
    assert is_sendable_close_code(code)
    # RFC 6455 5.5: 125 bytes of payload, two of them are the code
    assert 0 < len(reason.encode("utf-8")) <= 123


def test_no_two_faults_say_the_same() -> None:
    assert len({reason for _, reason in FAULTS.values()}) == len(FAULTS)


@pytest.mark.parametrize(
    ("fault", "option"), [("BAD_MESSAGE_SIZE", "max_size"), ("BAD_FRAGMENT_COUNT", "max_fragments")]
)
def test_a_limit_names_the_option_that_raises_it(fault: str, option: str) -> None:
    assert option in FAULTS[faults_of_the_header()[fault]][1]


# ---- the tree ----

PARENTS = {
    ZcwsError: Exception,
    ConnectionClosed: ZcwsError,
    ConnectionClosedOK: ConnectionClosed,
    ConnectionClosedError: ConnectionClosed,
    ProtocolError: ConnectionClosedError,
    LimitExceeded: ProtocolError,
    HandshakeError: ZcwsError,
    ProxyError: HandshakeError,
    StaleFrame: ZcwsError,
}


@pytest.mark.parametrize("child", PARENTS)
def test_the_tree_is_the_one_in_the_docs(child: type[Exception]) -> None:
    assert child.__bases__ == (PARENTS[child],)


def test_no_error_is_missing_from_the_tree() -> None:
    public = [getattr(errors, name) for name in errors.__all__]
    assert {thing for thing in public if isinstance(thing, type)} == set(PARENTS)


# ---- ConnectionClosed ----


def test_it_says_how_the_connection_ended() -> None:
    error = ConnectionClosed(4001, "done", clean=True)
    assert (error.code, error.reason, error.clean) == (4001, "done", True)


def test_nothing_said_means_not_clean() -> None:
    error = ConnectionClosed(1006)
    assert (error.reason, error.clean) == ("", False)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionClosedOK(1000, clean=True), "1000 (normal closure)"),
        (ConnectionClosedOK(1001, "bye", clean=True), "1001 (going away): bye"),
        (
            ProtocolError(1002, "reserved opcode"),
            "the peer broke a rule: 1002 (protocol error): reserved opcode",
        ),
        (
            LimitExceeded(1009, "too long", limits="max_size=10"),
            "closed here by a limit: 1009 (message too big): too long; "
            "the limits here are max_size=10, options of connect() and serve()",
        ),
        (
            LimitExceeded(1009, "too long", by="us", limits="max_size=10", size=11),
            "closed here by a limit: 1009 (message too big): too long: it has 11 bytes or more; "
            "the limits here are max_size=10, options of connect() and serve()",
        ),
        (
            LimitExceeded(1009, "too long"),
            "closed here by a limit: 1009 (message too big): too long; "
            "the limit is the memory that PayloadBuffer(memory) was given",
        ),
        (ConnectionClosedError(1006), "1006 (abnormal closure) [no closing handshake]"),
        (
            ConnectionClosedError(1011, "abc", clean=True, by="peer"),
            "closed by the peer: 1011 (internal error): abc",
        ),
        (ConnectionClosedError(4001, "bye", by="us"), "closed here: 4001 (private use): bye"),
        (ProtocolError(1002, "x", by="us"), "the peer broke a rule: 1002 (protocol error): x"),
        (
            ConnectionClosedError(1006, by="network"),
            "the connection was lost: 1006 (abnormal closure) [no closing handshake]",
        ),
        (
            ConnectionClosedError(1006, by="us"),
            "closed here, and the peer did not answer: 1006 (abnormal closure) [no closing handshake]",
        ),
        (
            ConnectionClosedError(4001, "a\nERROR é \x1b[2J", by="peer"),
            r"closed by the peer: 4001 (private use): a\nERROR é \x1b[2J",
        ),
        (ConnectionClosedError(3000, clean=True), "3000 (registered)"),
        (ConnectionClosedError(4999, "private", clean=True), "4999 (private use): private"),
    ],
)
def test_its_text_is_for_people(error: ConnectionClosed, text: str) -> None:
    assert str(error) == text


def test_what_the_system_said_of_the_network() -> None:
    error = ConnectionClosedError(1006, by="network")
    error.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    lost = "the connection was lost: 1006 (abnormal closure)"
    assert str(error) == f"{lost}: Connection reset by peer [no closing handshake]"
    error.__cause__ = OSError("nothing more is known")
    assert str(error) == f"{lost} [no closing handshake]"


@pytest.mark.parametrize("code", [1000, 1001, 1005])
def test_a_clean_end_is_ok(code: int) -> None:
    error = closed_error(code, "why", clean=True)
    assert type(error) is ConnectionClosedOK
    assert (error.code, error.reason, error.clean) == (code, "why", True)


@pytest.mark.parametrize("code", [1002, 1003, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1015, 3000, 4000])
def test_any_other_end_is_an_error(code: int) -> None:
    assert type(closed_error(code, "", clean=True)) is ConnectionClosedError


@pytest.mark.parametrize("code", [1000, 1001, 1005])
def test_an_end_without_a_close_both_ways_is_an_error(code: int) -> None:
    error = closed_error(code, "", clean=False)
    assert type(error) is ConnectionClosedError
    assert not error.clean


# ---- errors travel: between processes, into logs ----


@pytest.mark.parametrize(
    "travel", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
@pytest.mark.parametrize(
    "error",
    [
        ConnectionClosedOK(1000, "bye", clean=True),
        ProtocolError(1002, "reserved opcode"),
        LimitExceeded(1009, "too long", by="us", limits="max_size=10", size=11),
        ConnectionClosedError(1006, by="network"),
        HandshakeError("rejected", status=403, headers={"Server": "x"}, body=b"no"),
        StaleFrame("late"),
    ],
)
def test_an_error_survives_a_copy(error: ZcwsError, travel: Callable[[ZcwsError], ZcwsError]) -> None:
    copied = travel(error)
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert vars(copied) == vars(error)


# ---- HandshakeError ----


def test_a_handshake_error_carries_the_response() -> None:
    error = HandshakeError("rejected", status=403, headers={"Server": "x"}, body=b"no")
    assert (error.reason, error.status, error.headers, error.body) == (
        "rejected",
        403,
        {"Server": "x"},
        b"no",
    )
    assert str(error) == "rejected (status 403): no"
    assert error.args == ("rejected",)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", ""),
        (b"\r\n no room\r\nat all\n", ": no room"),
        ("grüße".encode(), ": grüße"),
        (b"x" * 200, ": " + "x" * 200),
        (b"x" * 201, ": " + "x" * 200 + "..."),
        ("é".encode() * 600, ": " + "é" * 200 + "..."),
        (b"<!DOCTYPE html>", ""),
        (b"\x1b[31mred", ""),
        (b"\xff\xfe", ""),
        (b"a\x00b", ""),
    ],
)
def test_a_handshake_error_shows_the_first_line_of_a_text(body: bytes, shown: str) -> None:
    """It reaches logs and terminals, and the server had its say in it: one line, of what can be printed."""
    assert str(HandshakeError("no", status=101, body=body)) == f"no{shown}"


def test_a_handshake_error_says_the_status_once() -> None:
    assert str(HandshakeError("answered with status 503 instead of 101", status=503)).count("503") == 1
    assert str(HandshakeError("no", status=503)) == "no (status 503)"


def test_a_handshake_error_shows_what_could_not_be_read() -> None:
    assert str(HandshakeError("no HTTP", status=400, seen="b'SSH'")) == "no HTTP; it began with b'SSH'"


def test_a_handshake_that_got_no_response_has_none() -> None:
    error = HandshakeError("the server closed the connection")
    assert (error.status, error.headers, error.body) == (None, None, b"")


# ---- groups ----


class Group(Exception):
    """What is told of one is its `exceptions`: Python 3.10 has none of its own."""

    def __init__(self, *exceptions: Exception) -> None:
        self.exceptions = exceptions


ENDED, MISTAKE = ConnectionClosedError(1006), LookupError("a bug")


@pytest.mark.parametrize("error", [ENDED, Group(ENDED), Group(ENDED, ENDED), Group(ENDED, Group(ENDED))])
def test_an_end_and_nothing_else(error: Exception) -> None:
    assert tells_only_of_an_end(error)


@pytest.mark.parametrize("error", [MISTAKE, Group(MISTAKE), Group(ENDED, Group(MISTAKE)), Group()])
def test_a_mistake_perhaps_beside_an_end(error: Exception) -> None:
    assert not tells_only_of_an_end(error)
