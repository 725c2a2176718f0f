"""A real uvicorn with zcws in it, in the event loop of the test; and applications without a framework."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import net
import uvicorn

from zcws.asgi.uvicorn import WebSocketProtocol

T = TypeVar("T")
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

PLACES = ["asyncio-h11-engine", "asyncio-h11-transport"]
if importlib.util.find_spec("uvloop") and importlib.util.find_spec("httptools"):
    PLACES.append("uvloop-httptools-engine")


class Place(net.Place):
    """An event loop, uvicorn's HTTP parser, and whether the engine has the sockets."""

    def __init__(self, loop: str, http: str, kind: str) -> None:
        super().__init__(loop, None)
        self.http = http
        self.kind = kind

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return super().run(asyncio.wait_for(main, net.LONG))

    @contextlib.asynccontextmanager
    async def uvicorn(self, app: Any, **options: Any) -> AsyncIterator[Running]:
        """`app` behind uvicorn; shut down at the end."""
        settings = {"ws": WebSocketProtocol, "http": self.http, "log_level": "info", "log_config": None}
        config = uvicorn.Config(app, host="127.0.0.1", port=0, **{**settings, **options})
        config.load()
        if self.certificates is not None:
            config.ssl = self.certificates.server
        running = Running(config)
        await running.start()
        try:
            yield running
        finally:
            await running.stop()


class Running(uvicorn.Server):
    """uvicorn, started and stopped without its signal handlers and without its clock."""

    async def start(self) -> None:
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup()
        await self.on_tick(0)  # makes the default headers

    async def stop(self) -> None:
        if self.started:
            self.started: bool = False
            await net.soon(self.shutdown() if not self.is_idle else self._close())

    async def _close(self) -> None:
        """What `shutdown` does where nobody is connected, but for its tenth of a second of sleep."""
        for server in self.servers:
            server.close()
            await server.wait_closed()
        await self.lifespan.shutdown()

    @property
    def port(self) -> int:
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left of any connection."""
        return not self.server_state.connections and not self.server_state.tasks


class App:
    """An application that follows a script once it has its websocket.connect, and keeps what it saw."""

    def __init__(self, script: Callable[[App], Awaitable[Any]], *, accepts: bool = True) -> None:
        self.script = script
        self.accepts = accepts
        self.events: list[Event] = []
        self.outcome: Any = None
        self.scope: Event = {}
        self.runs = 0

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            raise ValueError("this is no lifespan")  # uvicorn goes on without
        self.scope, self._receive, self.send = scope, receive, send
        self.runs += 1
        assert await self.receive() == {"type": "websocket.connect"}
        if self.accepts:
            await send({"type": "websocket.accept"})
        self.outcome = await self.script(self)

    async def receive(self) -> Event:
        event = await self._receive()
        self.events.append(event)
        return event

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Until the end."""
        while (event := await self.receive())["type"] == "websocket.receive":
            yield event["text"] if "text" in event else event["bytes"]

    async def say(self, message: str | bytes) -> None:
        await self.send({"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message})


async def until_the_end(app: App) -> Event:
    """Echoes; gives the websocket.disconnect."""
    async for message in app.messages():
        await app.say(message)
    return app.events[-1]
