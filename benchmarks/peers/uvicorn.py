"""uvicorn with each of its WebSocket protocols: the same application, no framework, no compression, no keepalive."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import uvicorn

from benchmarks.peers import Settings

__all__ = ["ASGI", "serve"]


class Server(uvicorn.Server):
    """One that a signal ends at once, like the other servers here, and not when its connections are closed."""

    def capture_signals(self) -> Any:
        """For uvicorn."""
        return contextlib.nullcontext()


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The application."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        event["type"] = "websocket.send"
        await send(event)


async def serve(ws: str, port: int, settings: Settings) -> None:
    """Until killed; `ws` is what `--ws` says."""
    config = uvicorn.Config(
        echo,
        host="127.0.0.1",
        port=port,
        ws=ws,
        ws_max_size=2**31 - 1,
        ws_max_queue=1024,  # as good as none; 0 is a deadlock in its first protocol
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        lifespan="off",
        access_log=False,
        log_config=None,
    )
    await Server(config).serve()


ASGI = {
    "uvicorn with websockets": partial(serve, "websockets"),
    "uvicorn with websockets-sansio": partial(serve, "websockets-sansio"),
    "uvicorn with wsproto": partial(serve, "wsproto"),
}
