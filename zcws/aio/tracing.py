"""A line in the log for each frame, at DEBUG. Where DEBUG is off this costs nothing, not even a check.

That is decided once for each connection, when it opens: it is a `TracedWebSocket` or it is not. One that is traced
shows its bytes to two tracers (zcws/trace.py), before they are unmasked and when the transport gets them. It is
slower for that, and on Linux its socket is served by itself and not together with others.

`ZCWS_DEBUG=1` in the environment turns the log on, to stderr.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from typing import Any

from zcws.aio.websocket import WebSocket
from zcws.annotations import Buffer
from zcws.errors import printable
from zcws.trace import Tracer

__all__ = ["TracedWebSocket", "websocket_class"]


_client, _server = logging.getLogger("zcws.client"), logging.getLogger("zcws.server")


def websocket_class(*, is_client: bool) -> type[WebSocket]:
    """What connections of this side are made of now."""
    return TracedWebSocket if _logger(is_client).isEnabledFor(logging.DEBUG) else WebSocket


def _logger(is_client: bool) -> logging.Logger:
    return _client if is_client else _server


class TracedWebSocket(WebSocket):
    """A connection that logs its frames."""

    __slots__ = ("_room", "_sees")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        logger = _logger(self.connection.is_client)
        name = f"{id(self):x}"
        logger.debug("%s is a connection with %s", name, transport.get_extra_info("peername"))

        def say(line: str) -> None:
            logger.debug("%s %s", name, line)

        inflates = self.connection.agreement.deflate is not None
        self._sees = Tracer(say, "<", inflates=inflates)
        self._room = memoryview(b"")
        super().connection_made(_TracedTransport(transport, Tracer(say, ">", inflates=inflates)))  # type: ignore[arg-type]

    def feed(self, data: bytes) -> None:
        self._sees.feed(data)
        super().feed(data)

    def get_buffer(self, sizehint: int) -> memoryview:
        self._room = super().get_buffer(sizehint)
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self._sees.feed(self._room[:nbytes].tobytes())  # a copy: the next line unmasks it in place
        super().buffer_updated(nbytes)

    @property
    def scanned(self) -> Any:
        """Missing here: the engine would receive and unmask in one step (engine.py), unseen by the tracer."""
        raise AttributeError("scanned")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        logger = _logger(self.connection.is_client)
        logger.debug("%x is over: %s %s", id(self), self.close_code, printable(self.close_reason or ""))


class _TracedTransport:
    """A transport that shows a tracer every byte that is written, and leaves everything else to the real one."""

    __slots__ = ("_real", "_sees")

    def __init__(self, real: Any, sees: Tracer) -> None:
        self._real = real
        self._sees = sees

    def write(self, data: Buffer) -> None:
        self._sees.feed(memoryview(data))
        self._real.write(data)

    def writelines(self, segments: Iterable[Buffer]) -> None:
        for segment in segments:
            self.write(segment)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logger = logging.getLogger("zcws")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


if os.environ.get("ZCWS_DEBUG") == "1":
    _log_to_stderr()
