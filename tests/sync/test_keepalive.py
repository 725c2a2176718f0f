from __future__ import annotations

from collections.abc import Iterator

import pytest
import wire

from zcws.connection import Connection
from zcws.deflate import Deflate
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE
from zcws.sync import keepalive as module
from zcws.sync.keepalive import Keepalive
from zcws.tcp_info import Counts


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def make_connection(idle_timeout: float | None = 60, *, deflate: bool = True) -> Connection:
    return Connection(
        is_client=False,
        agreement=Agreement(deflate=DeflateParameters() if deflate else None),
        deflate=Deflate(idle_timeout=idle_timeout),
    )


def make(interval: float | None, timeout: float | None) -> Keepalive:
    return Keepalive(interval, timeout, make_connection(deflate=False))


@pytest.mark.parametrize(
    ("interval", "timeout", "wait"), [(20, 20, 20), (20, 5, 5), (5, 20, 5), (20, None, 20), (None, 20, 30)]
)
def test_how_long_a_driver_may_wait(interval: float | None, timeout: float | None, wait: float) -> None:
    assert make(interval, timeout).wait == wait


def test_a_ping_every_interval(clock: Clock) -> None:
    keepalive = make(10, 5)
    assert not keepalive.is_due and keepalive.take_due() is None
    clock.now += 10
    assert keepalive.is_due
    first = keepalive.take_due()
    assert first is not None and len(first) == 4
    assert not keepalive.is_due and keepalive.take_due() is None
    keepalive.heard = True
    clock.now += 10
    second = keepalive.take_due()
    assert second is not None and second != first and not keepalive.has_failed


def test_nothing_comes_back(clock: Clock) -> None:
    keepalive = make(10, 5)
    clock.now += 10
    assert keepalive.take_due()
    clock.now += 4.9
    assert keepalive.take_due() is None and not keepalive.has_failed
    clock.now += 0.1
    assert keepalive.is_due
    assert keepalive.take_due() is None and keepalive.has_failed


def test_a_pause_of_ours_is_no_silence_of_the_peers(clock: Clock) -> None:
    """A stopped process, say: the peer has as long again, once, until it gives a sign of life."""
    keepalive = make(10, 5)
    for _ in range(2):
        clock.now += 10
        assert keepalive.take_due()
        clock.now += 8  # 3 more than anybody waits
        assert keepalive.take_due() is None and not keepalive.has_failed
        clock.now += 2.9
        assert keepalive.take_due() and not keepalive.has_failed
        keepalive.heard = True
    clock.now += 10
    assert keepalive.take_due()
    clock.now += 8
    assert keepalive.take_due() is None and not keepalive.has_failed
    clock.now += 100
    assert keepalive.take_due() is None and keepalive.has_failed


def test_whoever_waits_as_long_as_he_may_has_not_stood_still(clock: Clock) -> None:
    """A reader waits for the time from one Ping to the next, whenever an answer is missing."""
    keepalive = make(10, 15)
    for _ in range(2):
        clock.now += 10
        assert keepalive.take_due()
    clock.now += 10.04
    assert keepalive.take_due() is None and keepalive.has_failed


def test_any_byte_says_that_the_peer_is_alive(clock: Clock) -> None:
    keepalive = make(10, 5)
    clock.now += 10
    keepalive.take_due()
    keepalive.heard = True
    clock.now += 6
    assert keepalive.take_due() is None and not keepalive.has_failed
    clock.now += 4
    assert keepalive.take_due() is not None


def test_a_timeout_longer_than_the_interval(clock: Clock) -> None:
    """The Pings in between do not put the end off."""
    keepalive = make(1, 10)
    for _ in range(10):
        clock.now += 1
        assert keepalive.take_due() is not None
    clock.now += 1
    assert keepalive.take_due() is None and keepalive.has_failed


def test_a_peer_that_takes_what_stands_before_the_ping_is_alive(clock: Clock) -> None:
    """A message that fitted into the socket waits there, and the Ping behind it: 20 KB a second were too slow."""
    known = Counts(0, 0, 2_000_000)
    keepalive = Keepalive(20, 20, make_connection(deflate=False), lambda: known)
    for _ in range(5):
        clock.now += 20
        assert keepalive.take_due() and not keepalive.has_failed
        known = Counts(0, known.confirmed + 400_000, known.unconfirmed - 400_000)
    clock.now += 20
    assert keepalive.take_due() and not keepalive.has_failed
    # The peer's system has the first Ping now, and takes more: it is the program that does not answer.
    known = Counts(0, known.confirmed + 400_000, 0)
    clock.now += 20
    assert keepalive.take_due() is None and keepalive.has_failed


def test_a_ping_that_cannot_be_sent_is_not_waited_for_while_the_peer_takes_what_is_there(
    clock: Clock,
) -> None:
    known = Counts(0, 0, 100_000)
    keepalive = Keepalive(20, 20, make_connection(deflate=False), lambda: known)
    for writable in (False, False, True, True):
        clock.now += 20
        assert keepalive.take_due(writable=writable) and not keepalive.has_failed
        known = Counts(0, known.confirmed + 50_000, 100_000)
    clock.now += 20
    assert keepalive.take_due() and not keepalive.has_failed
    clock.now += 20
    assert keepalive.take_due() is None and keepalive.has_failed


def test_what_was_heard_counts_for_the_next_ping(clock: Clock) -> None:
    known = Counts(0, 0, 0)
    keepalive = Keepalive(20, 20, make_connection(deflate=False), lambda: known)
    for confirmed in (0, 50_000, 100_000):
        clock.now += 20
        known = Counts(0, confirmed, 50_000)
        assert keepalive.take_due() and not keepalive.has_failed
        keepalive.heard = True
    for confirmed in (150_000, 200_000):
        clock.now += 20
        known = Counts(0, confirmed, 50_000)
        assert keepalive.take_due() and not keepalive.has_failed
    clock.now += 20
    known = Counts(0, 250_000, 50_000)
    assert keepalive.take_due() is None and keepalive.has_failed


def test_without_a_timeout_nothing_is_expected(clock: Clock) -> None:
    keepalive = make(10, None)
    for _ in range(5):
        clock.now += 10
        assert keepalive.take_due() is not None
    assert not keepalive.has_failed


def test_off(clock: Clock) -> None:
    keepalive = make(None, 1)
    clock.now += 1000
    assert keepalive.take_due() is None and not keepalive.has_failed


def test_latency(clock: Clock) -> None:
    keepalive = make(None, None)
    assert keepalive.latency == 0.0
    for payload in (b"a", b"b", b"c"):
        keepalive.sent(payload)
        clock.now += 1
    keepalive.answered(b"b")  # RFC 6455 5.5.3: and so is the one before
    assert keepalive.latency == 2.0
    assert [keepalive.is_waiting_for(payload) for payload in (b"a", b"b", b"c")] == [False, False, True]
    keepalive.answered(b"nobody asked")
    assert keepalive.latency == 2.0
    keepalive.forget(b"c")
    keepalive.forget(b"c")
    assert not keepalive.is_waiting_for(b"c")


def test_an_answer_that_takes_longer_than_it_is_to_the_next_ping(clock: Clock) -> None:
    keepalive, payloads = make(1, None), list[bytes]()
    for _ in range(100):
        clock.now += 1
        payloads.append(keepalive.take_due() or b"")
    assert [payload for payload in payloads if keepalive.is_waiting_for(payload)] == payloads[-8:]
    keepalive.answered(payloads[-9])
    assert keepalive.latency == 0.0
    keepalive.answered(payloads[-8])
    assert keepalive.latency == 7.0


@pytest.mark.parametrize(
    ("interval", "idle", "wait"),
    [(20, 10, 5), (20, 90, 20), (None, 90, 45), (20, None, 20), (None, None, 30)],
)
def test_a_compressor_shortens_the_wait(interval: float | None, idle: float | None, wait: float) -> None:
    assert Keepalive(interval, None, make_connection(idle)).wait == wait


def test_memory_shortens_the_wait() -> None:
    assert Keepalive(None, None, make_connection(deflate=False)).wait == 30


@pytest.mark.parametrize("interval", [None, 1000])
def test_an_idle_compressor_is_given_back(clock: Clock, interval: float | None) -> None:
    connection = make_connection()
    compressor = connection.compressor
    assert compressor is not None
    keepalive = Keepalive(interval, None, connection)
    for turn in range(4):
        compressor.message(b"x" * 300)
        assert not keepalive.is_due
        clock.now += 30
        assert keepalive.is_due and keepalive.take_due() is None, turn
        assert compressor._stream is not None
    clock.now += 29
    assert not keepalive.is_due
    for _ in range(2):
        clock.now += 30
        assert keepalive.take_due() is None
    assert compressor._stream is None


def test_one_that_is_kept_for_ever_is(clock: Clock) -> None:
    connection = make_connection(None)
    assert connection.compressor is not None
    connection.compressor.message(b"x" * 300)
    keepalive = Keepalive(None, None, connection)
    for _ in range(9):
        clock.now += 30
        assert keepalive.take_due() is None
    assert connection.compressor._stream is not None


def test_who_says_nothing_is_idle(clock: Clock) -> None:
    connection = make_connection(deflate=False)
    keepalive = Keepalive(20, None, connection)

    def is_idle(seconds: float) -> bool:
        clock.now += seconds
        keepalive.take_due()
        return keepalive.is_idle

    assert [is_idle(15) for _ in range(4)] == [False, True, False, True]  # at every second one it is asked
    connection.send_bytes(b"a")
    assert [is_idle(15) for _ in range(4)] == [False, False, False, True]
    connection.receive_bytes(wire.frame(wire.TEXT, b"a", key=wire.KEY))
    assert [is_idle(30) for _ in range(2)] == [False, False]  # it has not been read
    assert connection.read_message() == "a"
    assert connection.read_message() is NEED_MORE
    assert is_idle(30)


def test_a_pong_while_its_ping_is_given_up_in_another_thread() -> None:
    keepalive = make(None, None)

    class Vanishing(dict[bytes, float]):
        """Between looking and taking, another thread takes it."""

        def __iter__(self) -> Iterator[bytes]:
            for key in list(self.keys()):
                dict.pop(self, key, None)
                yield key

    keepalive.sent(b"1")
    keepalive._waiting = Vanishing(keepalive._waiting)
    keepalive.answered(b"1")
    assert not keepalive.is_waiting_for(b"1")
