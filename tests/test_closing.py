from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import wire
from arrays import needs_numpy, np

from zcws.closing import TRANSITIONS, Event, State, close_payload, next_state, parse_close_payload
from zcws.codes import CloseCode, OpCode
from zcws.frame import Frame


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)), ids=lambda value: value.name)
def test_every_pair_of_state_and_event(state: State, event: Event) -> None:
    after = TRANSITIONS[state].get(event)
    if after is not None:
        assert next_state(state, event) is after
    else:
        with pytest.raises(ValueError, match="cannot happen") as caught:
            next_state(state, event)
        assert event.value in str(caught.value) and state.value in str(caught.value)
        assert caught.value.__cause__ is None


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_the_socket_may_end_at_any_time() -> None:
    assert {state: next_state(state, Event.END) for state in State} == {
        State.OPEN: State.LOST,
        State.CLOSE_SENT: State.LOST,
        State.CLOSE_RECEIVED: State.LOST,
        State.CLOSED: State.CLOSED,
        State.FAILED: State.FAILED,
        State.LOST: State.LOST,
    }


def test_rfc6455_7_1_4_closed_needs_one_close_each_way_in_any_order() -> None:
    ours_first = next_state(next_state(State.OPEN, Event.SEND_CLOSE), Event.RECEIVE_CLOSE)
    theirs_first = next_state(next_state(State.OPEN, Event.RECEIVE_CLOSE), Event.SEND_CLOSE)
    assert ours_first is theirs_first is State.CLOSED


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)
def test_no_close_goes_the_same_way_twice(state: State) -> None:
    for event in (Event.SEND_CLOSE, Event.RECEIVE_CLOSE):
        after = TRANSITIONS[state].get(event)
        if after is not None:
            assert event not in TRANSITIONS[after]


def test_rfc6455_7_1_7_nothing_counts_after_a_failure() -> None:
    assert set(TRANSITIONS[State.FAILED]) == {Event.END}


def test_the_table_in_the_documentation_is_this_one() -> None:
    page = (Path(__file__).parent.parent / "docs" / "design.md").read_text(encoding="utf-8")
    rows = [
        f"| {state.value} | {event.value} | {target.value} |"
        for state, row in TRANSITIONS.items()
        for event, target in row.items()
    ]
    section = page.split("## Closing")[1].split("##")[0]
    assert [line for line in section.splitlines() if line.startswith("| ")][1:] == rows


def test_rfc6455_5_5_1_the_payload_of_a_close() -> None:
    assert close_payload(None) == b""
    assert close_payload(1000) == b"\x03\xe8"
    reason = "é" * 61 + "x"
    assert close_payload(CloseCode.GOING_AWAY, reason) == wire.close_payload(1001, reason.encode())
    with pytest.raises(ValueError, match="at most 123 bytes of UTF-8, not 124"):
        close_payload(1000, "é" * 62)
    with pytest.raises(ValueError, match="needs a close code"):
        close_payload(None, "why")
    with pytest.raises(ValueError, match="code of two bytes"):
        parse_close_payload(memoryview(b"\x03"))
    with pytest.raises(ValueError):
        Frame(OpCode.CLOSE, wire.close_payload(1000, b"\xff"))


@pytest.mark.parametrize("code", ["1000", 1000.0, object])
def test_a_close_code_that_is_no_number(code: Any) -> None:
    with pytest.raises(TypeError) as wrong:
        close_payload(code)
    assert str(wrong.value) == f"the code of a Close is int, not {code!r}"


@pytest.mark.parametrize("code", [1000, None])
@pytest.mark.parametrize("reason", [1, None, b"bye"])
def test_a_close_reason_that_is_no_str(code: int | None, reason: Any) -> None:
    with pytest.raises(TypeError) as wrong:
        close_payload(code, reason)
    assert str(wrong.value) == f"the reason of a Close is str, not {reason!r}"


@needs_numpy
def test_a_close_code_of_numpy() -> None:
    assert close_payload(np.int64(4000)) == wire.close_payload(4000)


@pytest.mark.parametrize(("code", "instead"), [(1005, r"Frame\.close"), (1006, "abort"), (1015, "abort")])
def test_who_passes_on_a_code_that_is_never_on_the_wire_is_told_what_it_stands_for(
    code: int, instead: str
) -> None:
    for kind in (int, CloseCode):
        with pytest.raises(
            ValueError, match=f"close code {code} must not be sent .* which is .*{instead}\\(\\)"
        ):
            close_payload(kind(code))
