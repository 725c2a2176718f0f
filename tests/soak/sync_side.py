"""Both sides of the sessions on the blocking driver: one thread, two threads, halves in two threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import zcws
import zcws.sync

from .aio_side import PATIENT, content, fragments
from .plan import Messages, Plan
from .tally import Tally

__all__ = ["Session", "serve"]

_TEXT, _BINARY = zcws.OpCode.TEXT, zcws.OpCode.BINARY

#: Seconds between two looks whether a condition of another thread holds.
_LOOK = 0.1


class End:
    """A connection of which everything is used by the plan's style."""

    def __init__(self, ws: zcws.sync.WebSocket, style: str, form: str) -> None:
        self.ws = ws
        self._form = form
        self._writer: Any = ws
        self.is_split = style == "halves"
        if self.is_split:
            self._reader, self._writer, self._bridge = ws.split()
        # asyncio's callbacks have no counterpart here.
        self.read: Callable[[], Iterator[str | bytes]] = getattr(self, style, self.messages)

    # ---- reading ----

    def messages(self) -> Iterator[str | bytes]:
        yield from self.ws

    def halves(self) -> Iterator[str | bytes]:
        yield from self._reader

    def recv(self) -> Iterator[str | bytes]:
        while True:
            yield self.ws.recv()

    def cancelled(self) -> Iterator[str | bytes]:
        """Reads that time out lose nothing."""
        while True:
            with contextlib.suppress(TimeoutError):
                yield self.ws.recv(0.002)

    def frames(self) -> Iterator[str | bytes]:
        buffer = zcws.PayloadBuffer()
        while True:
            message = content(self.ws.read_frame(buffer, zcws.PayloadOrigin.CONSISTENT))
            if message is not None:
                yield message

    def batches(self) -> Iterator[str | bytes]:
        for batch in self.ws.batches():
            for message in [content(frame) for frame in batch]:
                if message is not None:
                    yield message

    def pieces(self) -> Iterator[str | bytes]:
        while True:
            with self.ws.stream() as stream:
                parts: list[Any] = list(stream)
            yield type(parts[0])().join(parts) if parts else b""

    # ---- writing ----

    def send(self, message: str | bytes) -> None:
        if self._form == "whole" or self.is_split:
            self._writer.send(message)
            self.drain()
        elif self._form == "fragments":
            self.ws.send(fragments(message))
        elif self._form == "frame":
            data = message.encode() if isinstance(message, str) else message
            self.ws.write_frame((zcws.Frame.text if isinstance(message, str) else zcws.Frame.binary)(data))
        else:
            with self.ws.send_stream(_TEXT if isinstance(message, str) else _BINARY) as stream:
                for piece in fragments(message):
                    stream.write(piece)

    def drain(self) -> None:
        """What the reader owes."""
        if self.is_split:
            self._writer.drain_bridge()

    def close(self) -> None:
        self._writer.close()

    def over(self) -> None:
        """Everything has been read: what is left to say, in the writer's thread."""
        if self.is_split:
            while (reply := self._bridge.listen()) is not None:
                self._writer.send_reply(reply)
            self._writer.close()
        else:
            self.ws.close()


class Session:
    """The client of one session: a thread that reads, and one that writes."""

    def __init__(self, messages: Messages, plan: Plan) -> None:
        self.messages = messages
        self.plan = plan
        self.tally = Tally(plan.session, "client")
        self._moved = threading.Event()
        self._is_over = False

    def run(self, uri: str) -> Tally:
        plan = self.plan
        compression: Any = "deflate" if plan.compression else None
        ws = zcws.sync.connect(f"{uri}{plan.session}", compression=compression, proxy=None, **PATIENT)
        end = End(ws, plan.client, plan.form)
        writing = threading.Thread(target=self._write, args=(end,))
        writing.start()
        try:
            self._read(end)
        finally:
            self._is_over = True
            self._moved.set()
            writing.join()
            self.tally.code = ws.close_code
            ws.abort()
        return self.tally

    def _read(self, end: End) -> None:
        with contextlib.suppress(zcws.ConnectionClosed, AssertionError):
            for message in end.read():
                self._received(end.ws, message)
                if self.plan.slow and self.tally.received % 10 == 0:
                    time.sleep(self.plan.slow)

    def _received(self, ws: zcws.sync.WebSocket, message: str | bytes) -> None:
        message = message or type(self.messages.make(self.plan.session, self.tally.received))()
        try:
            self.tally.take(self.messages, message)
        except AssertionError:
            ws.abort()
            raise
        self._moved.set()
        if self.tally.received == self.plan.cut and self.plan.ending.startswith("client"):
            ws.abort()

    def _write(self, end: End) -> None:
        plan, tally = self.plan, self.tally
        with contextlib.suppress(zcws.ConnectionClosed):
            for number in range(plan.count):
                self._until(lambda n=number: n - tally.received < plan.window, end)
                tally.begun += 1
                end.send(self.messages.make(plan.session, number))
                tally.sent += 1
            if plan.ending == "drained":
                self._until(lambda: tally.received == plan.count, end)
            if plan.ending in ("drained", "eager"):
                end.close()
            self._until(lambda: False, end)  # the end is the reader's to see
        end.over()

    def _until(self, condition: Callable[[], bool], end: End) -> None:
        while not condition() and not self._is_over:
            self._moved.clear()
            self._moved.wait(_LOOK)
            end.drain()


class Echo:
    """The server of one session."""

    def __init__(self, ws: zcws.sync.WebSocket, messages: Messages) -> None:
        assert ws.request is not None
        self.ws = ws
        self.messages = messages
        self.plan = Plan.of(messages.seed, int(ws.request.path.rpartition("/")[2]))
        self.tally = Tally(self.plan.session, "server")

    def run(self) -> Tally:
        end = End(self.ws, self.plan.server, self.plan.form)
        try:
            for message in end.read():
                message = message or type(self.messages.make(self.plan.session, self.tally.received))()
                self.tally.take(self.messages, message)
                with contextlib.suppress(zcws.ConnectionClosed):  # the client's Close was in the same batch
                    self._answer(end, message)
        except zcws.ConnectionClosed:
            pass
        except AssertionError as error:
            self.tally.wrong = str(error)
            self.ws.abort()
        end.over()
        self.tally.code = self.ws.close_code
        return self.tally

    def _answer(self, end: End, message: str | bytes) -> None:
        self.tally.begun += 1
        end.send(message)
        self.tally.sent += 1
        if self.tally.sent == self.plan.cut:
            if self.plan.ending == "server closes":
                end.close()
            elif self.plan.ending == "server aborts":
                self.ws.abort()


@contextlib.contextmanager
def serve(messages: Messages, report: Callable[[Tally], object]) -> Iterator[int]:
    """A server; its port."""
    options: dict[str, Any] = {"compression": "deflate", "backlog": 1024, **PATIENT}
    with zcws.sync.serve(lambda ws: report(Echo(ws, messages).run()), "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.sock.getsockname()[1]
        server.shutdown()
        thread.join()
