from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import raw
import wire
from joined import connected
from net import Certificates

import zcws
from zcws.output import SEGMENT
from zcws.scratch import SCRATCH_CAPACITY, Scratch

from .conftest import roles


def raises(*given: object) -> int:
    raise AssertionError(given)


# ---- messages ----


@roles
@pytest.mark.parametrize(
    ("message", "opcode", "payload"),
    [
        ("é", wire.TEXT, "é".encode()),
        (b"\0", wire.BINARY, b"\0"),
        (bytearray(b"ab"), wire.BINARY, b"ab"),
        (memoryview(b"abcd")[::2], wire.BINARY, b"ac"),
        (array("H", [1, 2]), wire.BINARY, array("H", [1, 2]).tobytes()),
        ("", wire.TEXT, b""),
        (bytes(100_000), wire.BINARY, bytes(100_000)),
    ],
)
def test_kinds(client: bool, message: Any, opcode: int, payload: bytes) -> None:
    with connected(client=client) as (ws, peer):
        ws.send(message)
        assert peer.read() == wire.Seen(opcode, payload, masked=client)


@pytest.mark.parametrize("size", [SEGMENT - 1, SEGMENT, 3_000_000])
@pytest.mark.parametrize("how", ["plain", "tls", "client", "deflate", "corked", "text"])
def test_memory_that_may_change_is_the_callers_again(size: int, how: str, certificates: Certificates) -> None:
    given = {"client": how == "client", "deflate": how == "deflate"}
    with connected(certificates=certificates if how == "tls" else None, **given) as (ws, peer):
        memory = bytearray(b"a" * size)
        seen: list[wire.Seen] = []
        with raw.thread(lambda: seen.extend(peer.read() for _ in range(3))):
            with ws.cork() if how == "corked" else contextlib.nullcontext():
                ws.send("before", compress=False)
                ws.send(memoryview(memory), text=how == "text", compress=False)
                memory[:] = bytes(size)
                ws.send(b"behind", compress=False)
        assert [frame.payload for frame in seen] == [b"before", b"a" * size, b"behind"]
        assert [frame.opcode for frame in seen] == [1, 1 if how == "text" else 2, 2]
        assert ws.stats.messages_sent == 3


@pytest.mark.parametrize("split", [False, True])
def test_memory_that_could_not_be_sent_is_the_callers_again(split: bool) -> None:
    """In the middle of the exception, whose traceback held it: to clear it there was a BufferError."""
    memory = bytearray(b"\xff" * 100)
    with connected() as (ws, _):
        send: Callable[..., None] = ws.split()[1].send if split else ws.send
        for options in {"text": True}, {"compress": True}:
            try:
                send(memory, **options)
            except ValueError:
                memory += b"more"
        if not split:
            with pytest.raises(TypeError):
                ws.send([memory, 5])  # type: ignore[list-item]
        ws.abort()
        try:
            send(memory)
        except zcws.ConnectionClosed:
            memory.clear()
    assert not memory


def test_memory_that_was_sent_may_grow(held: list[Any]) -> None:
    memory = bytearray(b"a" * 10)
    with connected() as (ws, _):
        ws.send(memory)
        memory += b"more"
    assert len(held) == 1


def test_large_memory_that_is_refused() -> None:
    with connected() as (ws, peer):
        with pytest.raises(ValueError, match="UTF-8"):
            ws.send(bytearray(b"\xff" * SEGMENT), text=True)
        ws.send("still here")
        assert peer.read().payload == b"still here"
        ws.begin_close()
        with pytest.raises(zcws.ConnectionClosed):
            ws.send(bytearray(SEGMENT))


@pytest.mark.parametrize("size", [100, SEGMENT, 250_000, 400_000])
def test_a_received_frame_that_is_being_sent_while_another_thread_reads(size: int) -> None:
    """The peer does not read; the frame's ring must not be received into before it has gone out."""
    with connected() as (ws, peer):
        for _ in range(5):
            with raw.thread(lambda: peer.send(wire.BINARY, b"f" * size)):
                frame = ws.read_frame()
            before = ws.stats.messages_sent
            with raw.thread(partial(ws.write_frame, frame)):
                raw.until(lambda: ws.stats.messages_sent > before)  # noqa: B023
                with raw.thread(lambda: peer.send(wire.BINARY, b"n" * size)):
                    assert ws.recv() == b"n" * size
                assert peer.read().payload == b"f" * size


class Announced:
    """A lock that says when somebody comes for it."""

    def __init__(self, lock: Any, came: threading.Event) -> None:
        self._lock, self._came = lock, came

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)

    def __enter__(self) -> None:
        self._came.set()
        self._lock.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._lock.__exit__(*exc)


@roles
@pytest.mark.parametrize("size", [100, SEGMENT, 100_000])
def test_a_received_frame_that_waits_for_the_lock_while_another_thread_reads(client: bool, size: int) -> None:
    with connected(client=client) as (ws, peer):
        peer.send(wire.BINARY, b"f" * size)
        frame = ws.read_frame()
        lock, came = ws._write_lock, threading.Event()
        ws._write_lock = Announced(lock, came)  # type: ignore[assignment]
        with contextlib.ExitStack() as stack:
            with lock:
                stack.enter_context(raw.thread(lambda: ws.write_frame(frame)))
                assert came.wait(raw.LONG)
                peer.send(wire.BINARY, b"n" * size)
                assert ws.recv() == b"n" * size
            assert peer.read().payload == b"f" * size


@pytest.mark.parametrize("size", [0, 100, SCRATCH_CAPACITY - 14, SCRATCH_CAPACITY - 13])
@pytest.mark.parametrize("how", ["plain", "tls", "deflate", "no-masking"])
def test_what_a_client_sends(size: int, how: str, certificates: Certificates) -> None:
    """Each with a key of its own, in order, counted once; a reply that waits goes first."""
    given = {"deflate": how == "deflate", "no_masking": how == "no-masking"}
    with connected(client=True, certificates=certificates if how == "tls" else None, **given) as (ws, peer):
        for number in range(3):
            with ws._write_lock:  # as when the reader's thread comes while another one writes
                ws.connection.pong(b"%d" % number)
                ws.send(b"%d" % number * size, compress=False)
            ws.send("x" * size, compress=False)
        seen = [peer.read() for _ in range(9)]
        assert [frame.payload for frame in seen[::3]] == [b"0", b"1", b"2"]
        assert [frame.payload for frame in seen[1::3]] == [b"%d" % number * size for number in range(3)]
        assert all(frame.payload == b"x" * size for frame in seen[2::3])
        assert {frame.masked for frame in seen} == {how != "no-masking"}
        assert (ws.stats.messages_sent, ws.stats.frames_sent, ws.stats.bytes_waiting) == (6, 9, 0)
        ws.begin_close()
        with pytest.raises(zcws.ConnectionClosed):
            ws.send("late")


def test_a_client_whose_server_does_not_read() -> None:
    with connected(client=True, write_timeout=0.05) as (ws, _):
        with pytest.raises(zcws.ConnectionClosedError, match="does not read"):
            for _ in range(1000):
                ws.send(bytes(SCRATCH_CAPACITY - 14))
        assert ws.close_code == 1011


def test_no_memory_for_what_the_socket_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a frame is out. No signal handler is to blame, as the reason said."""

    def refuse(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Scratch, "unsent", refuse)
    monkeypatch.setattr(Scratch, "frame", refuse)  # where polling keeps the time
    with connected(client=True) as (ws, _):
        with pytest.raises(MemoryError):
            ws.send(bytes(20_000_000))
        with pytest.raises(zcws.ConnectionClosedError, match="there was no memory in the middle of a write"):
            ws.send("more")
        assert ws.close_code == 1011


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may end the process")
@pytest.mark.parametrize("left", [0, mmap.PAGESIZE])
def test_a_file_that_becomes_shorter_while_its_mapping_is_sent(left: int, tmp_path: Path) -> None:
    """It was "Bad address" of the network, and the socket stayed for `close_timeout`."""
    path = tmp_path / "payload"
    path.write_bytes(bytes(1_000_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        os.truncate(path, left)
        with connected(tcp=True) as (ws, peer):
            with pytest.raises(OSError, match="can no longer be read; has the file behind an mmap") as caught:
                ws.send(mapping)
            assert caught.value.errno == errno.EFAULT
            with pytest.raises(zcws.ConnectionClosedError, match="memory could not be read in the middle"):
                ws.send("more")
            assert ws.close_code == 1011
            assert len(raw.read_to_end(peer.sock)) < 1_000_000  # nothing may follow half a frame


def test_a_peer_that_shows_no_life() -> None:
    """It kept the thread of the send for ever: nobody read, so nobody sent Pings."""
    with connected(ping_interval=0.05, ping_timeout=0.05) as (ws, _):
        with pytest.raises(zcws.ConnectionClosedError, match=r"does not read \(ping_timeout\)"):
            while True:
                ws.send(bytes(1_000_000))
        assert ws.close_code == 1011


def test_a_client_whose_server_has_gone() -> None:
    with connected(client=True) as (ws, peer):
        peer.send(wire.TEXT, b"the last word")
        peer.sock.close()
        with pytest.raises(zcws.ConnectionClosedError):
            for _ in range(100):
                ws.send("anybody?")
        assert ws.recv() == "the last word"
        with pytest.raises(zcws.ConnectionClosedError):
            ws.recv()


def test_text_or_binary_whatever_it_is() -> None:
    with connected() as (ws, peer):
        ws.send("a", text=False)
        ws.send(b"b", text=True)
        ws.send([b"c", b"d"], text=True)
        seen = [peer.read() for _ in range(4)]
        assert [frame.opcode for frame in seen] == [wire.BINARY, wire.TEXT, wire.TEXT, wire.CONTINUATION]
        with pytest.raises(ValueError, match="UTF-8"):
            ws.send(b"\xff", text=True)


@pytest.mark.parametrize("message", [None, 1, {"a": "b"}, object()])
def test_what_is_no_message_harms_nothing(message: Any) -> None:
    with connected() as (ws, peer):
        with pytest.raises(TypeError):
            ws.send(message)
        ws.send("still here")
        assert peer.read().payload == b"still here"


def test_what_is_no_fragment() -> None:
    with (
        connected() as (ws, _),
        pytest.raises(
            TypeError, match=r"^a fragment, such as an item of a list, is str or bytes-like, not int$"
        ),
    ):
        ws.send(["a", "b", 1])  # type: ignore[list-item]
    with connected() as (ws, _), ws.send_stream() as message:
        with pytest.raises(
            TypeError, match=r"^a fragment, such as an item of a list, is str or bytes-like, not int$"
        ):
            message.write(1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [["a", "", "b"], ("a" for _ in range(3)), iter([b"a", b"b"]), ["€".encode()[:1], "€".encode()[1:]]],
)
def test_an_iterable_is_fragments(message: Any) -> None:
    with connected() as (ws, peer):
        ws.send(message)
        ws.send("next")
        frames = []
        while not frames or not frames[-1].fin:
            frames.append(peer.read())
        assert [frame.opcode for frame in frames[1:]] == [wire.CONTINUATION] * (len(frames) - 1)
        assert peer.read().payload == b"next"


def test_fragments_may_lie_in_the_same_memory() -> None:
    def chunks() -> Iterator[memoryview]:
        memory = bytearray(4)
        for letter in b"abc":
            memory[:] = bytes([letter]) * 4
            yield memoryview(memory)

    with connected() as (ws, peer):
        ws.send(chunks())
        assert [peer.read().payload for _ in range(4)] == [b"aaaa", b"bbbb", b"cccc", b""]


def test_fragments_that_take_their_time_go_out_as_they_come() -> None:
    with connected() as (ws, peer):

        def lines() -> Iterator[str]:
            yield "one"
            assert peer.read().payload == b"one"
            yield "two"
            assert peer.read().payload == b"two"

        ws.send(lines())
        end = peer.read()
        assert (end.payload, end.opcode, end.fin) == (b"", wire.CONTINUATION, True)


def test_nothing_is_no_message() -> None:
    with connected() as (ws, peer):
        ws.send([])
        ws.send("a")
        assert peer.read().payload == b"a"


@pytest.mark.parametrize("message", [[None], [None, "b"], iter([None])], ids=["alone", "first", "generated"])
def test_none_is_no_fragment_and_not_nothing(message: Any) -> None:
    with connected() as (ws, peer):
        with pytest.raises(
            TypeError, match="a fragment, such as an item of a list, is str or bytes-like, not NoneType"
        ):
            ws.send(message)
        ws.send("a")
        assert peer.read().payload == b"a"


def test_frames() -> None:
    with connected() as (ws, peer):
        for frame in (
            zcws.Frame.text("a", fin=False),
            zcws.Frame.ping(b"p"),
            zcws.Frame.continuation(b"b", fin=True),
            zcws.Frame.pong(b"q"),
            zcws.Frame.close(4000, "bye"),
        ):
            ws.write_frame(frame)
        seen = [(frame.opcode, frame.payload) for frame in peer.frames(5)]
        assert seen == [
            (wire.TEXT, b"a"),
            (wire.PING, b"p"),
            (wire.CONTINUATION, b"b"),
            (wire.PONG, b"q"),
            (wire.CLOSE, wire.close_payload(4000, b"bye")),
        ]


def test_a_close_as_a_frame_behind_our_close() -> None:
    """Nothing was raised, as if it had been sent: `write_frame` raises what it raises for any other frame."""
    with connected(close_timeout=raw.LONG) as (ws, peer):
        ws.begin_close(4000)
        for frame in (zcws.Frame.close(1000), zcws.Frame.close()):
            with pytest.raises(zcws.ConnectionClosedError, match="4000"):
                ws.write_frame(frame)
        ws.abort()
        assert peer.rest() == [wire.Seen(wire.CLOSE, wire.close_payload(4000))]


def test_a_received_frame_goes_back() -> None:
    with connected(close_timeout=raw.LONG) as (ws, peer):
        peer.send(wire.BINARY, bytes(range(256)))
        ws.write_frame(ws.read_frame())
        assert peer.read()[:2] == (wire.BINARY, bytes(range(256)))
        ws.pong("é")
        assert peer.read()[:2] == (wire.PONG, "é".encode())


# ---- several threads ----


@roles
def test_many_threads(client: bool) -> None:
    """Frames stay whole, and each thread's stay in order."""
    threads, count = 4, 500
    with connected(client=client) as (ws, peer), contextlib.ExitStack() as stack:
        for number in range(threads):
            stack.enter_context(
                raw.thread(
                    lambda n=number: [ws.send(b"%d %d %s" % (n, i, bytes(i % 200))) for i in range(count)]
                )
            )
        seen: dict[int, int] = {}
        for _ in range(threads * count):
            number, i, rest = peer.read().payload.split(b" ", 2)
            assert seen.get(int(number), -1) == int(i) - 1
            assert rest == bytes(int(i) % 200)
            seen[int(number)] = int(i)
        assert seen == dict.fromkeys(range(threads), count - 1)


class TestMessagesInPieces:
    def test_other_messages_wait_and_control_frames_do_not(self) -> None:
        with connected() as (ws, peer):
            with ws.send_stream() as message:
                message.write("a")
                started = threading.Event()

                def other() -> None:
                    started.set()
                    ws.send("whole")

                thread = raw.thread(other)
                thread.__enter__()
                started.wait()
                ws.pong(b"between")
                message.write("b")
            thread.__exit__(None, None, None)
            seen = [(frame.opcode, frame.payload, frame.fin) for frame in (peer.read() for _ in range(5))]
            assert seen == [
                (wire.TEXT, b"a", False),
                (wire.PONG, b"between", True),
                (wire.CONTINUATION, b"b", False),
                (wire.CONTINUATION, b"", True),
                (wire.TEXT, b"whole", True),
            ]

    def test_two_at_once(self) -> None:
        with connected() as (ws, peer):

            def slowly(letter: str) -> Iterator[str]:
                for _ in range(20):
                    threading.Event().wait(0.001)
                    yield letter

            with raw.thread(lambda: ws.send(slowly("x"))), raw.thread(lambda: ws.send(slowly("y"))):
                first, second = ([peer.read() for _ in range(21)] for _ in range(2))
            assert {b"".join(frame.payload for frame in frames) for frames in (first, second)} == {
                b"x" * 20,
                b"y" * 20,
            }

    @roles
    def test_one_inside_another_is_a_mistake(self, client: bool) -> None:
        with connected(close_timeout=0.01, client=client) as (ws, peer):
            with ws.send_stream(zcws.OpCode.BINARY) as message:
                message.write(b"a")
                for inner in ("b", b"b", bytearray(b"b" * SEGMENT), ["c", "d"]):
                    with pytest.raises(ValueError, match="in fragments"):
                        ws.send(inner)
            assert [peer.read().payload for _ in range(2)] == [b"a", b""]

    def test_nothing_is_asked_for_where_nothing_can_be_sent(self) -> None:
        with connected(close_timeout=0.01) as (ws, _):
            ws.begin_close()
            fragments = iter(["a", "b"])
            for message in (fragments, []):
                with pytest.raises(zcws.ConnectionClosed):
                    ws.send(message)
            assert next(fragments) == "a"

    @pytest.mark.parametrize("how", ["stream", "iterable", "closed"])
    def test_an_exception_in_the_middle(self, how: str) -> None:
        """Half a message cannot be taken back: 1011."""
        with connected(close_timeout=0.01) as (ws, peer):

            def fragments() -> Iterator[str]:
                yield "a"
                yield "b"
                raise LookupError

            if how == "closed":
                with contextlib.suppress(zcws.ConnectionClosed), ws.send_stream() as message:
                    message.write("a")
                    ws.begin_close(1000)
            else:
                with pytest.raises(LookupError):
                    if how == "iterable":
                        ws.send(fragments())
                    else:
                        with ws.send_stream() as message:
                            message.write("a")
                            raise LookupError
            assert peer.read() == wire.Seen(wire.TEXT, b"a", fin=False)
            if how == "iterable":
                assert peer.read() == wire.Seen(wire.CONTINUATION, b"b", fin=False)
            close = peer.read()
            assert (close.opcode, close.payload[:2]) == (wire.CLOSE, (1011).to_bytes(2, "big"))
            with pytest.raises(zcws.ConnectionClosed):
                ws.send("c")

    def test_an_exception_before_the_first_piece_harms_nothing(self) -> None:
        with connected() as (ws, peer):
            with pytest.raises(LookupError), ws.send_stream():
                raise LookupError
            ws.send("fine")
            assert peer.read().payload == b"fine"

    @pytest.mark.parametrize("piece", ["a", b"a", bytearray(b"a")])
    def test_the_first_piece_says_what_it_is(self, piece: Any) -> None:
        with connected() as (ws, peer):
            with ws.send_stream() as message:
                with pytest.raises(TypeError):
                    message.write(1)  # type: ignore[arg-type]
                message.write(piece)
            frames = peer.frames(2)
            expected = wire.TEXT if isinstance(piece, str) else wire.BINARY
            assert [(frame.opcode, frame.payload) for frame in frames] == [
                (expected, b"a"),
                (wire.CONTINUATION, b""),
            ]

    def test_compressed(self) -> None:
        with connected(deflate=True) as (ws, peer):
            with ws.send_stream(compress=True) as message:
                for _ in range(10):
                    message.write("again and " * 10)
            frames = peer.frames(11)
            assert [frame.rsv for frame in frames] == [4] + [0] * 10
            assert sum(len(frame.payload) for frame in frames) < 200

    def test_used_wrongly(self) -> None:
        with connected() as (ws, _):
            with pytest.raises(ValueError, match="TEXT or BINARY"), ws.send_stream(zcws.OpCode.PING):
                pass
            with ws.send_stream() as message:
                pass
            with pytest.raises(RuntimeError, match="inside"):
                message.write("late")


class TestCork:
    @roles
    def test_one_system_call(self, client: bool) -> None:
        with connected(client=client) as (ws, peer):
            calls: list[int] = []
            send = ws._channel.send
            ws._channel.send = lambda segments: calls.append(len(segments)) or send(segments)  # type: ignore[method-assign, func-returns-value]
            ws._channel.send_masked = raises  # type: ignore[method-assign]
            with ws.cork():
                for i in range(50):
                    ws.send(b"%d" % i)
                assert not calls
            assert len(calls) == 1
            assert [peer.read().payload for _ in range(50)] == [b"%d" % i for i in range(50)]

    def test_what_is_sent_behind_it_goes_out_at_once(self) -> None:
        with connected() as (ws, peer):
            with ws.cork(), ws.cork():
                ws.send("inside")
            for message in ("behind", "it"):
                ws.send(message)
            assert [peer.read().payload for _ in range(3)] == [b"inside", b"behind", b"it"]

    def test_what_gathers_is_bounded(self) -> None:
        with connected() as (ws, peer):
            with raw.thread(lambda: peer.exactly(100 * 10_004)), ws.cork():
                for _ in range(100):
                    ws.send(bytes(10_000))
                    assert ws.connection.writer.size < 200_000

    def test_flush(self) -> None:
        with connected() as (ws, peer), ws.cork():
            ws.send("now")
            ws.flush()
            assert peer.read().payload == b"now"


def test_compression_is_chosen_by_the_caller() -> None:
    with connected(deflate=True) as (ws, peer):
        ws.send("x" * 1000)
        ws.send("x" * 1000, compress=False)
        ws.send("xxxxxxxxxxxx", compress=True)
        assert [peer.read().rsv for _ in range(3)] == [4, 0, 4]
    with connected() as (ws, peer):
        # The peer decides whether it was agreed, and no peer may make a program's call fail.
        ws.send("x" * 1000, compress=True)
        ws.send(bytearray(SEGMENT), compress=True)
        ws.send(["x", "y"], compress=True)
        _, writer, _ = ws.split()
        writer.send("z", compress=True)
        assert [peer.read().rsv for _ in range(5)] == [0] * 5


@roles
@pytest.mark.parametrize("how", ["raise", "close"])
def test_the_end_of_a_connection_in_the_middle_of_a_message(client: bool, how: str) -> None:
    """What is said of it is what asyncio says: tests/aio/test_writing.py."""
    expected = 1011, "the sender gave up in the middle of a message"
    with connected(client=client) as (ws, peer):
        with pytest.raises(KeyError if how == "raise" else zcws.ConnectionClosedError):
            with ws.send_stream() as message:
                message.write("half")
                if how == "raise":
                    raise KeyError
                with pytest.raises(ValueError):
                    ws.begin_close(1005)
                ws.begin_close(4000, "done")
                message.write("the other half")
        assert ws.state is zcws.State.CLOSE_SENT
        assert peer.read().payload == b"half"
        close = peer.read()
        assert close == wire.Seen(
            wire.CLOSE, wire.close_payload(expected[0], expected[1].encode()), masked=client
        )
        peer.send(wire.CLOSE, close.payload)
        peer.half_close()
        for do in (lambda: ws.send("more"), ws.recv):
            with pytest.raises(zcws.ConnectionClosedError) as caught:
                do()
            assert (caught.value.code, caught.value.reason, caught.value.by) == (*expected, "us")
        assert (ws.state, ws.close_code, ws.close_reason) == (zcws.State.CLOSED, *expected)
        assert ws.stats.closed_by == "us"


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize(
    ("message", "text", "error"),
    [
        (5, None, TypeError),
        ({"a": "b"}, None, TypeError),
        ("\ud800", None, UnicodeEncodeError),
        (b"\xff", True, ValueError),
        (bytearray(b"\xff"), True, ValueError),
        ("right", None, zcws.ConnectionClosed),
        (bytearray(b"right"), None, zcws.ConnectionClosed),
    ],
)
def test_what_is_no_message_is_a_mistake_behind_a_close_too(
    is_split: bool, message: Any, text: bool | None, error: type[Exception]
) -> None:
    with connected() as (ws, peer):
        writer = ws.split()[1] if is_split else ws
        ws.begin_close()
        with pytest.raises(error):
            writer.send(message, text=text)
        assert peer.read().opcode == wire.CLOSE
