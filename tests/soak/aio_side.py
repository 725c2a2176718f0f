"""Both sides of the sessions on asyncio: every way to read, every way to send, every end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import zcws
from zcws.ring import RING_CAPACITY

from .plan import Messages, Plan
from .tally import Tally

__all__ = ["Report", "Session", "serve"]

Report = Callable[[Tally], object]

#: Nobody in here is that slow: only a hang is.
PATIENT: dict[str, Any] = {"open_timeout": 60, "close_timeout": 60, "ping_interval": 5, "ping_timeout": 60}

#: A fragment of a message, at most.
_FRAGMENT = 3000

_TEXT, _BINARY = zcws.OpCode.TEXT, zcws.OpCode.BINARY


def fragments(message: str | bytes) -> list[Any]:
    """A message in a few parts, some of them empty; of an empty one at least one part."""
    step = max(len(message) // 3, _FRAGMENT)
    parts = [message[i : i + step] for i in range(0, len(message), step)]
    return [*parts, message[:0]]


def content(frame: zcws.Frame) -> str | bytes | None:
    """The message of a frame, if it is one."""
    if frame.opcode is _TEXT:
        return frame.text
    return frame.to_bytes() if frame.opcode is _BINARY else None


def set_option(ws: zcws.WebSocket, option: int, value: int | bytes) -> None:
    """An option of its socket, if that is still there."""
    sock = ws.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, value)


def reset(ws: zcws.WebSocket) -> None:
    """The connection ends with a RST."""
    set_option(ws, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ws.abort()


class End:
    """A connection of which everything is used by the plan's style."""

    def __init__(self, ws: zcws.WebSocket, style: str, form: str) -> None:
        self.ws = ws
        # The kernel keeps more for us than a ring holds, so that one read fills it. By itself it rarely does.
        set_option(ws, socket.SO_RCVBUF, 4 * RING_CAPACITY)
        self._form = form
        self._writer: Any = ws
        self._task: asyncio.Task[None] | None = None
        if style == "halves":
            self._split()
        self.read: Callable[[], AsyncIterator[str | bytes]] = getattr(self, style)

    def _split(self) -> None:
        self._reader, self._writer, bridge = self.ws.split()

        async def answer() -> None:
            while (reply := await bridge.listen()) is not None:
                if await self._writer.send_reply(reply):
                    return
            await self._writer.close()  # the peer has gone without a word

        self._task = asyncio.get_running_loop().create_task(answer())

    # ---- reading ----

    async def messages(self) -> AsyncIterator[str | bytes]:
        async for message in self.ws:
            yield message

    async def halves(self) -> AsyncIterator[str | bytes]:
        async for message in self._reader:
            yield message

    async def recv(self) -> AsyncIterator[str | bytes]:
        while True:
            yield await self.ws.recv()

    async def cancelled(self) -> AsyncIterator[str | bytes]:
        """Reads that time out lose nothing."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                yield await asyncio.wait_for(self.ws.recv(), 0.002)

    async def frames(self) -> AsyncIterator[str | bytes]:
        buffer = zcws.PayloadBuffer()
        while True:
            frame = await self.ws.read_frame(buffer, zcws.PayloadOrigin.CONSISTENT)
            message = content(frame)
            if message is not None:
                yield message

    async def held(self) -> AsyncIterator[str | bytes]:
        """Views that are held are read again, some frames later, and must still say the same."""
        views: list[tuple[memoryview, bytes]] = []
        while True:
            frame = await self.ws.read_frame()
            message = content(frame)
            if message is None:
                continue
            views.append((frame.payload, frame.to_bytes()))
            yield message
            if len(views) > 5:
                view, copy = views.pop(0)
                assert view == copy, "a view that was held has changed"

    async def batches(self) -> AsyncIterator[str | bytes]:
        async for batch in self.ws.batches():
            for message in [content(frame) for frame in batch]:
                if message is not None:
                    yield message

    async def pieces(self) -> AsyncIterator[str | bytes]:
        # The kind of an empty message shows in no piece of it: what is compared then is empty on both sides.
        while True:
            parts: list[Any] = []
            async with self.ws.stream() as stream:
                async for piece in stream:
                    parts.append(piece)
            yield type(parts[0])().join(parts) if parts else b""

    async def callback(self) -> AsyncIterator[str | bytes]:
        """Frames go to `on_frame`: nobody reads."""
        await self.ws.when_closed()
        return
        yield ""

    # ---- writing ----

    async def send(self, message: str | bytes) -> None:
        if self._form == "whole" or self._writer is not self.ws:
            await self._writer.send(message)
        elif self._form == "fragments":
            await self.ws.send(fragments(message))
        elif self._form == "frame":
            data = message.encode() if isinstance(message, str) else message
            await self.ws.write_frame(
                (zcws.Frame.text if isinstance(message, str) else zcws.Frame.binary)(data)
            )
        else:
            async with self.ws.send_stream(_TEXT if isinstance(message, str) else _BINARY) as stream:
                for piece in fragments(message):
                    await stream.write(piece)

    async def close(self) -> None:
        await self._writer.close()

    async def over(self) -> None:
        """Until nothing of the connection is left."""
        if self._task is not None:
            await self._task
        await self.ws.wait_closed()


class Session:
    """The client of one session."""

    def __init__(self, messages: Messages, plan: Plan) -> None:
        self.messages = messages
        self.plan = plan
        self.tally = Tally(plan.session, "client")
        self._moved = asyncio.Event()
        self._is_over = False

    async def run(self, uri: str) -> Tally:
        plan = self.plan
        on_frame = self._on_frame if plan.client == "callback" else None
        compression = "deflate" if plan.compression else None
        ws = await zcws.connect(
            f"{uri}{plan.session}", compression=compression, on_frame=on_frame, proxy=None, **PATIENT
        )
        end = End(ws, plan.client, plan.form)
        writing = asyncio.get_running_loop().create_task(self._write(end))
        try:
            await self._read(end)
        finally:
            self._is_over = True
            self._moved.set()
            await writing
            await end.over()
            self.tally.code = ws.close_code
        return self.tally

    async def _read(self, end: End) -> None:
        with contextlib.suppress(zcws.ConnectionClosed):
            async for message in end.read():
                self._received(end.ws, message)
                if self.plan.slow and self.tally.received % 10 == 0:
                    await asyncio.sleep(self.plan.slow)

    def _on_frame(self, ws: zcws.WebSocket, frame: zcws.Frame) -> None:
        message = content(frame)
        if message is not None:
            self._received(ws, message)

    def _received(self, ws: zcws.WebSocket, message: str | bytes) -> None:
        message = message or type(self.messages.make(self.plan.session, self.tally.received))()
        try:
            self.tally.take(self.messages, message)
        except AssertionError:
            ws.abort()
            return
        self._moved.set()
        if self.tally.received == self.plan.cut:
            if self.plan.ending == "client aborts":
                ws.abort()
            elif self.plan.ending == "client resets":
                reset(ws)

    async def _write(self, end: End) -> None:
        plan, tally = self.plan, self.tally
        with contextlib.suppress(zcws.ConnectionClosed):
            for number in range(plan.count):
                await self._until(lambda n=number: n - tally.received < plan.window)
                tally.begun += 1
                await end.send(self.messages.make(plan.session, number))
                tally.sent += 1
            if plan.ending == "drained":
                await self._until(lambda: tally.received == plan.count)
            if plan.ending in ("drained", "eager"):
                await end.close()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self._is_over:
            self._moved.clear()
            await self._moved.wait()


class Echo:
    """The server of one session."""

    def __init__(self, ws: zcws.WebSocket, messages: Messages) -> None:
        assert ws.request is not None
        self.ws = ws
        self.messages = messages
        self.plan = Plan.of(messages.seed, int(ws.request.path.rpartition("/")[2]))
        self.tally = Tally(self.plan.session, "server")

    async def run(self) -> None:
        end = End(self.ws, "messages" if self.plan.server == "callback" else self.plan.server, self.plan.form)
        try:
            async for message in end.read():
                message = self._take(message)
                with contextlib.suppress(zcws.ConnectionClosed):  # the client's Close was in the same batch
                    await self._answer(end, message)
        except zcws.ConnectionClosed:
            pass
        except AssertionError as error:
            self.tally.wrong = str(error)
            self.ws.abort()
        await end.over()
        self.tally.code = self.ws.close_code

    async def _answer(self, end: End, message: str | bytes) -> None:
        self.tally.begun += 1
        await end.send(message)
        self.tally.sent += 1
        if self.tally.sent == self.plan.cut:
            if self.plan.ending == "server closes":
                await end.close()
            elif self.plan.ending == "server aborts":
                reset(self.ws)

    def _take(self, message: str | bytes) -> str | bytes:
        message = message or type(self.messages.make(self.plan.session, self.tally.received))()
        self.tally.take(self.messages, message)
        return message

    def on_frame(self, _: zcws.WebSocket, frame: zcws.Frame) -> None:
        message = content(frame)
        if message is None or self.tally.wrong:
            return
        try:
            self._take(message)
        except AssertionError:
            self.ws.abort()
            return
        self.tally.begun += 1
        self.ws.send_nowait(message)
        self.tally.sent += 1
        if self.tally.sent == self.plan.cut:
            if self.plan.ending == "server closes":
                self.ws.begin_close()
            elif self.plan.ending == "server aborts":
                reset(self.ws)


@contextlib.asynccontextmanager
async def serve(messages: Messages, report: Report) -> AsyncIterator[tuple[int, int]]:
    """Two servers; their ports. The second has no tasks."""
    echoes: dict[zcws.WebSocket, Echo] = {}

    async def handler(ws: zcws.WebSocket) -> None:
        echo = Echo(ws, messages)
        try:
            await echo.run()
        finally:
            report(echo.tally)

    def on_open(ws: zcws.WebSocket) -> None:
        echoes[ws] = Echo(ws, messages)
        ws.add_end_callback(on_end)

    def on_end(ws: zcws.WebSocket) -> None:
        echo = echoes.pop(ws)
        echo.tally.code = ws.close_code
        report(echo.tally)

    def on_frame(ws: zcws.WebSocket, frame: zcws.Frame) -> None:
        echoes[ws].on_frame(ws, frame)

    options: dict[str, Any] = {"compression": "deflate", "backlog": 1024, **PATIENT}
    async with (
        zcws.serve(handler, "127.0.0.1", 0, **options) as one,
        zcws.serve(None, "127.0.0.1", 0, on_frame=on_frame, **options) as other,
    ):
        other.on_open.append(on_open)
        yield one.sockets[0].getsockname()[1], other.sockets[0].getsockname()[1]
