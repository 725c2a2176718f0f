"""One table of behaviours, every driver: asyncio, uvloop, blocking, both split, and callbacks; as server and as client.

The endpoint under test answers every message with itself, in whatever way its driver has for that, and says at last
how the connection ended. The peer is a raw socket (raw.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import queue
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import raw
import wire

import zcws
import zcws.sync

#: A message at which the endpoint begins to close. Nobody else says this.
STOP = "stop"

OPTIONS = {"close_timeout": 5.0, "ping_interval": None}


class Ends:
    """How each connection ended, and what it had read."""

    def __init__(self) -> None:
        self._ends: queue.Queue[tuple[zcws.ConnectionClosed, list[Any]]] = queue.Queue()

    def put(self, error: zcws.ConnectionClosed, messages: list[Any]) -> None:
        self._ends.put((error, messages))

    def get(self) -> tuple[zcws.ConnectionClosed, list[Any]]:
        return self._ends.get(timeout=raw.LONG)


# ---- what an endpoint does, driver by driver ----


async def whole(ws: zcws.WebSocket, ends: Ends) -> None:
    messages: list[Any] = []
    try:
        while True:
            messages.append(await ws.recv())
            if messages[-1] == STOP:
                ws.begin_close()
            else:
                await ws.send(messages[-1])
    except zcws.ConnectionClosed as error:
        await ws.wait_closed()
        ends.put(error, messages)


async def split(ws: zcws.WebSocket, ends: Ends) -> None:
    """A task that reads, one that writes, one that hands replies to it."""
    reader, writer, bridge = ws.split()
    messages: list[Any] = []
    waiting: asyncio.Queue[Any] = asyncio.Queue()

    async def write() -> None:
        with contextlib.suppress(zcws.ConnectionClosed):
            while (item := await waiting.get()) is not None:
                if isinstance(item, (str, bytes)):
                    await (writer.close() if item == STOP else writer.send(item))
                else:
                    await writer.send_reply(item)
        await writer.close()

    async def answer() -> None:
        while (reply := await bridge.listen()) is not None:
            waiting.put_nowait(reply)

    tasks = [asyncio.ensure_future(write()), asyncio.ensure_future(answer())]
    try:
        while True:
            messages.append(await reader.recv())
            waiting.put_nowait(messages[-1])
    except zcws.ConnectionClosed as error:
        await tasks[1]  # every reply is in the queue
        waiting.put_nowait(None)
        await tasks[0]
        await ws.wait_closed()
        ends.put(error, messages)


def blocking(ws: zcws.sync.WebSocket, ends: Ends) -> None:
    messages: list[Any] = []
    try:
        while True:
            messages.append(ws.recv())
            if messages[-1] == STOP:
                ws.begin_close()
            else:
                ws.send(messages[-1])
    except zcws.ConnectionClosed as error:
        ends.put(error, messages)


def split_threads(ws: zcws.sync.WebSocket, ends: Ends) -> None:
    """A thread that reads, one that writes, one that hands replies to it."""
    reader, writer, bridge = ws.split()
    messages: list[Any] = []
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def write() -> None:
        with contextlib.suppress(zcws.ConnectionClosed):
            while (item := waiting.get()) is not None:
                if isinstance(item, (str, bytes)):
                    writer.close() if item == STOP else writer.send(item)
                else:
                    writer.send_reply(item)
        writer.close()

    def answer() -> None:
        while (reply := bridge.listen()) is not None:
            waiting.put(reply)

    threads = [threading.Thread(target=write), threading.Thread(target=answer)]
    for thread in threads:
        thread.start()
    try:
        while True:
            messages.append(reader.recv())
            waiting.put(messages[-1])
    except zcws.ConnectionClosed as error:
        threads[1].join()  # every reply is in the queue
        waiting.put(None)
        threads[0].join()
        ends.put(error, messages)


# ---- the drivers ----


class Driver:
    """One way to run an endpoint."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ends = Ends()

    def run(self, role: str, talk: Callable[[raw.Peer], None], **options: Any) -> None:
        """An endpoint in `role`, and a raw peer on the other side that follows `talk`."""
        options = {**OPTIONS, **options}
        compressed = "compression" in options
        if role == "server":
            lines = [raw.DEFLATE] if compressed else []
            with self.serve(**options) as port, raw.client(port, *lines) as peer:
                talk(peer)
        else:
            headers = raw.DEFLATE.encode() + b"\r\n" if compressed else b""
            with socket.create_server(("127.0.0.1", 0)) as listening:
                with self.connected(listening.getsockname()[1], **options):
                    peer = raw.accept(listening, headers)
                    try:
                        talk(peer)
                    finally:
                        peer.close()

    def serve(self, **options: Any) -> contextlib.AbstractContextManager[int]:
        """A server; its port."""
        raise NotImplementedError

    def connected(self, port: int, **options: Any) -> contextlib.AbstractContextManager[object]:
        """A client that connects meanwhile."""
        raise NotImplementedError


class Asynchronous(Driver):
    """On an event loop in a thread of its own."""

    def __init__(
        self, name: str, loop: str, endpoint: Callable[..., Coroutine[Any, Any, None]] | None
    ) -> None:
        super().__init__(name)
        self._loop = loop
        self._endpoint = endpoint

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop == "uvloop":
            import uvloop

            return uvloop.new_event_loop()
        return asyncio.new_event_loop()

    @contextlib.contextmanager
    def _running(
        self, main: Callable[[asyncio.Event, queue.Queue[Any]], Coroutine[Any, Any, None]]
    ) -> Iterator[Any]:
        loop, ready = self._new_loop(), queue.Queue[Any]()
        stop = asyncio.Event()

        def run() -> None:
            try:
                loop.run_until_complete(main(stop, ready))
            except BaseException as error:
                ready.put(error)
                raise
            finally:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

        with raw.thread(run):
            try:
                first = ready.get(timeout=raw.LONG)
                if isinstance(first, BaseException):
                    raise first
                yield first
            finally:
                with contextlib.suppress(RuntimeError):  # the loop has come to its end
                    loop.call_soon_threadsafe(stop.set)

    def serve(self, **options: Any) -> contextlib.AbstractContextManager[int]:
        async def handler(ws: zcws.WebSocket) -> None:
            assert self._endpoint is not None
            await self._endpoint(ws, self.ends)

        async def main(stop: asyncio.Event, ready: queue.Queue[Any]) -> None:
            async with zcws.serve(
                self._handler(handler), "127.0.0.1", 0, **self._extra(), **options
            ) as server:
                ready.put(server.sockets[0].getsockname()[1])
                await stop.wait()

        return self._running(main)

    def connected(self, port: int, **options: Any) -> contextlib.AbstractContextManager[object]:
        async def main(stop: asyncio.Event, ready: queue.Queue[Any]) -> None:
            ready.put(None)
            ws = await zcws.connect(f"ws://127.0.0.1:{port}/", **self._extra(), **options)
            if self._endpoint is not None:
                await self._endpoint(ws, self.ends)
            await ws.wait_closed()

        return self._running(main)

    def _handler(self, handler: Any) -> Any:
        return handler

    def _extra(self) -> dict[str, Any]:
        return {}


class Callbacks(Asynchronous):
    """No task: everything happens in a function that is called with each frame, or with each message."""

    def __init__(self, option: str) -> None:
        super().__init__(option, "asyncio", None)

    def _handler(self, handler: Any) -> Any:
        return None

    def _extra(self) -> dict[str, Any]:
        messages: list[Any] = []

        def begin(ws: zcws.WebSocket) -> None:
            if not messages:
                ws.when_closed().add_done_callback(
                    lambda _: self.ends.put(ws.connection.error(), messages[1:])
                )
                messages.append(None)

        def on_message(ws: zcws.WebSocket, message: str | bytes) -> None:
            begin(ws)
            messages.append(message)
            if message == STOP:
                ws.begin_close()
            else:
                ws.send_nowait(message)

        def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
            begin(ws)
            if frame.opcode in (zcws.OpCode.TEXT, zcws.OpCode.BINARY):
                on_message(ws, frame.text if frame.opcode is zcws.OpCode.TEXT else frame.to_bytes())

        return {"on_message": on_message} if self.name == "on_message" else {"on_frame": on_frame}


class Blocking(Driver):
    """On blocking sockets, a thread for each connection."""

    def __init__(self, name: str, endpoint: Callable[[zcws.sync.WebSocket, Ends], None]) -> None:
        super().__init__(name)
        self._endpoint = endpoint

    @contextlib.contextmanager
    def serve(self, **options: Any) -> Iterator[int]:
        with zcws.sync.serve(lambda ws: self._endpoint(ws, self.ends), "127.0.0.1", 0, **options) as server:
            with raw.thread(server.serve_forever):
                yield server.sock.getsockname()[1]
                server.shutdown()

    def connected(self, port: int, **options: Any) -> contextlib.AbstractContextManager[object]:
        def run() -> None:
            with zcws.sync.connect(f"ws://127.0.0.1:{port}/", **options) as ws:
                self._endpoint(ws, self.ends)

        return raw.thread(run)


MAKERS: dict[str, Callable[[], Driver]] = {
    "asyncio": lambda: Asynchronous("asyncio", "asyncio", whole),
    "uvloop": lambda: Asynchronous("uvloop", "uvloop", whole),
    "asyncio-split": lambda: Asynchronous("asyncio-split", "asyncio", split),
    "on_frame": lambda: Callbacks("on_frame"),
    "on_message": lambda: Callbacks("on_message"),
    "sync": lambda: Blocking("sync", blocking),
    "sync-split": lambda: Blocking("sync-split", split_threads),
}
NAMES = [name for name in MAKERS if name != "uvloop" or importlib.util.find_spec("uvloop")]


@pytest.fixture(params=NAMES)
def driver(request: pytest.FixtureRequest) -> Driver:
    return MAKERS[request.param]()


roles = pytest.mark.parametrize("role", ["server", "client"])


def greet(peer: raw.Peer) -> None:
    """One message there and back: what follows is not the first thing that happens."""
    peer.send(wire.TEXT, b"hello")
    assert peer.read()[:2] == (wire.TEXT, b"hello")


def leave(peer: raw.Peer, role: str) -> None:
    """The peer closes as it should. RFC 6455 7.1.1: the server ends the TCP connection first."""
    peer.send(wire.CLOSE, wire.close_payload(1000))
    assert peer.read()[:2] == (wire.CLOSE, wire.close_payload(1000))
    ended(peer, role)


def ended(peer: raw.Peer, role: str) -> None:
    if role == "server":
        assert peer.rest() == []
    peer.close()


# ---- faults ----

#: Name, the peer's frames, the code of the Close that they get; where `masked` matters it says so itself.
FAULTS: list[tuple[str, Callable[[raw.Peer], bytes], int]] = [
    ("rsv1", lambda peer: peer.frame(wire.TEXT, b"x", rsv=4), 1002),
    ("rsv2", lambda peer: peer.frame(wire.TEXT, b"x", rsv=2), 1002),
    ("rsv3 on a ping", lambda peer: peer.frame(wire.PING, b"x", rsv=1), 1002),
    ("opcode 3", lambda peer: peer.frame(3), 1002),
    ("opcode 11", lambda peer: peer.frame(11), 1002),
    ("fragmented ping", lambda peer: peer.frame(wire.PING, fin=False), 1002),
    ("long ping", lambda peer: peer.frame(wire.PING, bytes(126)), 1002),
    ("continuation of nothing", lambda peer: peer.frame(wire.CONTINUATION, b"x"), 1002),
    (
        "text inside a message",
        lambda peer: peer.frame(wire.TEXT, b"a", fin=False) + peer.frame(wire.TEXT, b"b"),
        1002,
    ),
    ("mask", lambda peer: wire.frame(wire.TEXT, b"x", key=None if peer.key else wire.KEY), 1002),
    ("length form", lambda peer: peer.frame(wire.TEXT, b"x", form=16), 1002),
    ("not UTF-8", lambda peer: peer.frame(wire.TEXT, b"\xff"), 1007),
    ("cut character", lambda peer: peer.frame(wire.TEXT, b"\xe2\x82"), 1007),
    (
        "not UTF-8 in the second fragment",
        lambda peer: b"".join(wire.fragments(wire.TEXT, [b"\xe2", b"\x28"], key=peer.key)),
        1007,
    ),
    ("close of one byte", lambda peer: peer.frame(wire.CLOSE, b"x"), 1002),
    ("close code", lambda peer: peer.frame(wire.CLOSE, wire.close_payload(1005)), 1002),
    ("close reason", lambda peer: peer.frame(wire.CLOSE, wire.close_payload(1000, b"\xff")), 1007),
    ("size", lambda peer: wire.head(wire.BINARY, 1001, key=peer.key), 1009),
    (
        "sum of sizes",
        lambda peer: b"".join(wire.fragments(wire.BINARY, [bytes(500), bytes(501)], key=peer.key)),
        1009,
    ),
    ("fragments", lambda peer: b"".join(wire.fragments(wire.TEXT, [b""] * 6, key=peer.key)), 1009),
]


def breaking(make: Callable[[raw.Peer], bytes], code: int, role: str) -> Callable[[raw.Peer], None]:
    """A peer that breaks a rule, and is told so with `code`."""

    def talk(peer: raw.Peer) -> None:
        greet(peer)
        peer.send_bytes(make(peer))
        close = peer.read()
        assert (close.opcode, int.from_bytes(close.payload[:2], "big")) == (wire.CLOSE, code)
        ended(peer, role)

    return talk


@roles
@pytest.mark.parametrize(
    ("make", "code"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_a_fault(driver: Driver, role: str, make: Callable[[raw.Peer], bytes], code: int) -> None:
    """The right Close on the wire, a closed socket, and an exception that says whose fault it was."""
    driver.run(role, breaking(make, code, role), max_size=1000, max_fragments=5)
    error, messages = driver.ends.get()
    assert messages == ["hello"]
    assert isinstance(error, zcws.ProtocolError)
    assert (error.code, error.clean, error.by) == (code, False, "us")
    assert isinstance(error, zcws.LimitExceeded) == (code == 1009)


@roles
def test_what_was_valid_before_a_fault_is_still_answered(driver: Driver, role: str) -> None:
    def talk(peer: raw.Peer) -> None:
        data = b"".join(peer.frame(wire.TEXT, b"%d" % i) for i in range(10))
        peer.send_bytes(data + peer.frame(3))
        frames = [peer.read() for _ in range(11)]
        assert [frame.payload for frame in frames[:10]] == [b"%d" % i for i in range(10)]
        assert frames[10].payload[:2] == (1002).to_bytes(2, "big")
        ended(peer, role)

    driver.run(role, talk)
    assert driver.ends.get()[0].code == 1002


# ---- what should happen ----


@roles
def test_pings_are_answered(driver: Driver, role: str) -> None:
    def talk(peer: raw.Peer) -> None:
        greet(peer)
        for payload in (b"", b"x", bytes(range(125))):
            peer.send(wire.PING, payload)
            assert peer.read()[:2] == (wire.PONG, payload)
        peer.send(wire.PONG, b"nobody asked")
        leave(peer, role)

    driver.run(role, talk)
    assert isinstance(driver.ends.get()[0], zcws.ConnectionClosedOK)


@roles
@pytest.mark.parametrize(
    ("payload", "code", "fine"),
    [
        (b"", 1005, True),
        (wire.close_payload(1000, b"bye"), 1000, True),
        (wire.close_payload(1001), 1001, True),
        (wire.close_payload(1014), 1014, False),
        (wire.close_payload(4999, "é".encode()), 4999, False),
    ],
)
def test_close_is_echoed(driver: Driver, role: str, payload: bytes, code: int, fine: bool) -> None:
    def talk(peer: raw.Peer) -> None:
        greet(peer)
        peer.send(wire.CLOSE, payload)
        assert peer.read()[:2] == (wire.CLOSE, payload)
        ended(peer, role)

    driver.run(role, talk)
    error, _ = driver.ends.get()
    assert isinstance(error, zcws.ConnectionClosedOK if fine else zcws.ConnectionClosedError)
    assert (error.code, error.clean, error.by) == (code, True, "peer")
    assert error.reason == payload[2:].decode()


@roles
def test_fragments_with_a_ping_between(driver: Driver, role: str) -> None:
    def talk(peer: raw.Peer) -> None:
        first, *others = wire.fragments(wire.TEXT, [b"\xe2", b"", b"\x82", b"\xac!"], key=peer.key)
        peer.send_bytes(first + peer.frame(wire.PING, b"between") + b"".join(others))
        seen = {peer.read()[:2], peer.read()[:2]}
        assert seen == {(wire.PONG, b"between"), (wire.TEXT, "€!".encode())}
        leave(peer, role)

    driver.run(role, talk)
    assert driver.ends.get()[1] == ["€!"]


@roles
@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 300_000])
def test_sizes(driver: Driver, role: str, size: int) -> None:
    """Exactly `max_size` is allowed; a message may be larger than a ring."""
    message = bytes(range(256)) * (size // 256 + 1)

    def talk(peer: raw.Peer) -> None:
        peer.send(wire.BINARY, message[:size])
        assert peer.read()[:2] == (wire.BINARY, message[:size])
        leave(peer, role)

    driver.run(role, talk, max_size=size or 1)


@roles
def test_bytewise(driver: Driver, role: str) -> None:
    def talk(peer: raw.Peer) -> None:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = (
            peer.frame(wire.TEXT, b"one")
            + peer.frame(wire.PING, b"two")
            + peer.frame(wire.BINARY, bytes(130))
        )
        for at in range(len(data)):
            peer.send_bytes(data[at : at + 1])
        frames = [peer.read()[:2] for _ in range(3)]
        assert sorted(frames) == [(wire.TEXT, b"one"), (wire.BINARY, bytes(130)), (wire.PONG, b"two")]
        leave(peer, role)

    driver.run(role, talk)


# ---- ends that are not as they should be ----


@roles
@pytest.mark.parametrize("how", ["eof", "inside a frame", "reset"])
def test_no_close(driver: Driver, role: str, how: str) -> None:
    def talk(peer: raw.Peer) -> None:
        greet(peer)
        if how == "reset":
            peer.reset()
        else:
            peer.send_bytes(peer.frame(wire.TEXT, b"cut off")[: -1 if how != "eof" else 0])
            peer.close()

    driver.run(role, talk, close_timeout=0.2)
    error, messages = driver.ends.get()
    assert isinstance(error, zcws.ConnectionClosedError) and not isinstance(error, zcws.ProtocolError)
    assert (error.code, error.clean, messages) == (1006, False, ["hello"])
    # A server that shuts down after `talk` may say Close before its reader has seen the end.
    if role == "client":
        assert error.by == "network"


@roles
def test_a_half_closed_peer_gets_its_answers(driver: Driver, role: str) -> None:
    def talk(peer: raw.Peer) -> None:
        peer.send_bytes(b"".join(peer.frame(wire.TEXT, b"%d" % i) for i in range(20)))
        peer.half_close()
        frames = [frame for frame in peer.rest() if frame.opcode != wire.CLOSE]
        assert [frame.payload for frame in frames] == [b"%d" % i for i in range(20)]

    driver.run(role, talk)
    assert driver.ends.get()[0].code == 1006


# ---- our Close ----


@roles
def test_data_after_our_close_is_ignored(driver: Driver, role: str) -> None:
    def talk(peer: raw.Peer) -> None:
        greet(peer)
        peer.send(wire.TEXT, STOP.encode())
        assert peer.read()[:2] == (wire.CLOSE, wire.close_payload(1000))
        for size in (1, 100_000, 300_000):
            peer.send(wire.TEXT, b"x" * size)
        peer.send_bytes(b"".join(wire.fragments(wire.BINARY, [b"late"] * 3, key=peer.key)))
        peer.send(wire.CLOSE, wire.close_payload(1000, b"seen"))
        ended(peer, role)

    driver.run(role, talk)
    error, messages = driver.ends.get()
    assert messages == ["hello", STOP]
    assert isinstance(error, zcws.ConnectionClosedOK)
    assert (error.code, error.reason, error.clean, error.by) == (1000, "seen", True, "us")


@roles
@pytest.mark.parametrize("chatty", [False, True])
def test_our_close_unanswered(driver: Driver, role: str, chatty: bool) -> None:
    """`close_timeout` bounds it, whether the peer is silent or goes on talking."""

    def talk(peer: raw.Peer) -> None:
        peer.send(wire.TEXT, STOP.encode())
        assert peer.read().opcode == wire.CLOSE
        if not chatty:
            assert peer.rest() == []
            return
        with contextlib.suppress(OSError):
            while True:
                peer.send(wire.BINARY, bytes(50_000))

    driver.run(role, talk, close_timeout=0.1)
    error, messages = driver.ends.get()
    assert (error.code, error.clean, messages, error.by) == (1006, False, [STOP], "us")


# ---- permessage-deflate ----


@roles
def test_compressed_messages(driver: Driver, role: str) -> None:
    text = b"compress me, " * 100

    def talk(peer: raw.Peer) -> None:
        for opcode in (wire.TEXT, wire.BINARY):
            peer.send(opcode, wire.deflate(text), rsv=4)
            answer = peer.read()
            assert answer.opcode == opcode and answer.rsv == 4 and len(answer.payload) < 100
        peer.send(wire.TEXT, b"as it is")
        assert peer.read()[:4] == (wire.TEXT, b"as it is", True, 0)
        leave(peer, role)

    driver.run(role, talk, compression=zcws.Deflate())
    assert driver.ends.get()[1] == [text.decode(), text, "as it is"]


@roles
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda peer: peer.frame(wire.BINARY, wire.deflate(bytes(50_000_000)), rsv=4), 1009),
        (lambda peer: peer.frame(wire.BINARY, b"\x07corrupt", rsv=4), 1007),
        (lambda peer: peer.frame(wire.TEXT, wire.deflate(b"\xff"), rsv=4), 1007),
        (lambda peer: peer.frame(wire.PING, b"", rsv=4), 1002),
        (
            lambda peer: peer.frame(wire.TEXT, b"a", fin=False) + peer.frame(wire.CONTINUATION, b"b", rsv=4),
            1002,
        ),
    ],
    ids=["bomb", "corrupt", "not UTF-8", "rsv1 on a ping", "rsv1 on a continuation"],
)
def test_compressed_faults(driver: Driver, role: str, make: Callable[[raw.Peer], bytes], code: int) -> None:
    driver.run(role, breaking(make, code, role), compression=zcws.Deflate(), max_size=1_000_000)
    assert driver.ends.get()[0].code == code
