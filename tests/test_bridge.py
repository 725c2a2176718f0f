from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcws.bridge import Bridge, Reply, check_reply
from zcws.codes import OpCode


def pong(payload: bytes) -> Reply:
    return Reply(OpCode.PONG, payload)


def close(payload: bytes) -> Reply:
    return Reply(OpCode.CLOSE, payload)


def test_empty() -> None:
    bridge = Bridge()
    assert bridge.take() is None
    assert not bridge.slot
    assert not bridge.ended


def test_a_reply_is_taken_once() -> None:
    bridge = Bridge()
    reply = pong(b"a")
    bridge.put(reply)
    assert bridge.slot
    assert bridge.take() is reply
    assert bridge.take() is None


def test_rfc6455_5_5_3_only_the_latest_pong_is_kept() -> None:
    bridge = Bridge()
    for payload in (b"a", b"b", b"c"):
        bridge.put(pong(payload))
    taken = bridge.take()
    assert taken is not None and taken.payload == b"c"


def test_a_close_replaces_a_pong() -> None:
    bridge = Bridge()
    bridge.put(pong(b"a"))
    bridge.put(close(b"\x03\xe8"))
    taken = bridge.take()
    assert taken is not None and taken.is_last and taken.payload == b"\x03\xe8"


@pytest.mark.parametrize("later", [pong(b"late"), close(b"\x03\xe9")], ids=["pong", "close"])
def test_nothing_replaces_a_close(later: Reply) -> None:
    bridge = Bridge()
    first = close(b"\x03\xe8")
    calls: list[None] = []
    bridge.put(first)
    bridge.on_put = lambda: calls.append(None)
    bridge.put(later)
    assert bridge.take() is first
    assert calls == []  # nobody is woken for what was dropped


def test_whoever_listens_is_told() -> None:
    bridge = Bridge()
    seen: list[Reply | None] = []
    bridge.on_put = lambda: seen.append(bridge.take())
    reply = pong(b"x")
    bridge.put(reply)
    bridge.end()
    assert seen == [reply, None]
    assert bridge.ended


def test_a_reply_can_be_taken_after_the_end() -> None:
    bridge = Bridge()
    bridge.put(close(b""))
    bridge.end()
    assert bridge.ended
    assert bridge.take() is not None


def test_is_last() -> None:
    assert close(b"").is_last
    assert not pong(b"").is_last


def test_repr_says_what_and_how_much_but_not_which_bytes() -> None:
    assert repr(pong(b"secret")) == "<Reply PONG, 6 bytes>"


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=3), st.booleans())))
def test_any_order_of_puts_and_takes(steps: list[tuple[bool, bytes, bool]]) -> None:
    """The taker sees the last Pong, until there is a Close: that once, and nothing after it."""
    bridge = Bridge()
    slot: Reply | None = None
    closed = False
    for is_close, payload, takes in steps:
        reply = close(payload) if is_close else pong(payload)
        bridge.put(reply)
        if not closed:
            slot, closed = reply, reply.is_last
        if takes:
            assert bridge.take() is slot
            slot = None


def test_the_end_with_a_last_reply() -> None:
    """Who is called finds both: a listener that saw the end first would not look for the reply."""
    bridge = Bridge()
    seen: list[tuple[bool, bool]] = []
    bridge.on_put = lambda: seen.append((bridge.ended, not bridge.slot))
    last = close(b"\x03\xe8")
    bridge.end(last)
    assert seen == [(True, False)]
    bridge.put(Reply(OpCode.PONG, b""))
    assert bridge.take() is last and bridge.take() is None


def test_the_end_behind_a_close() -> None:
    bridge = Bridge()
    first = close(b"\x03\xe8")
    bridge.put(first)
    bridge.end(close(b"\x03\xe9"))
    assert bridge.take() is first
    assert bridge.take() is None


def test_earlier_pongs_go_with_the_latest_or_not_at_all() -> None:
    """RFC 6455 5.5.3. A flood of Pings costs no more than the latest where nobody takes it at once."""
    bridge, taken = Bridge(), list[tuple[bytes, list[bytes]]]()
    held = Reply(OpCode.PONG, b"3", [b"1", b"2"])
    bridge.put(held)
    assert held.earlier == ()
    bridge.on_put = lambda: taken.extend(
        (reply.payload, list(reply.earlier)) for reply in [bridge.take()] if reply
    )
    bridge.put(Reply(OpCode.PONG, b"6", [b"4", b"5"]))
    assert taken == [(b"6", [b"4", b"5"])]


def test_what_is_shown_of_it() -> None:
    bridge = Bridge()
    assert bridge.shown == "empty"
    bridge.put(Reply(OpCode.PONG, b"1234"))
    assert bridge.shown == "<Reply PONG, 4 bytes>"
    bridge.end()
    assert bridge.shown == "<Reply PONG, 4 bytes>, ended"


def test_what_is_no_reply() -> None:
    check_reply(pong(b""))
    with pytest.raises(TypeError, match=r"a Reply, not None; None from the bridge says that nothing is left"):
        check_reply(None)
    with pytest.raises(TypeError, match=r"a Reply, not b'pong'$"):
        check_reply(b"pong")
