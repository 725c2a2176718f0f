from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from zcws.closing import TRANSITIONS, Event, State, next_state


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
