"""Two connections joined in memory: what one sends the other receives, with no socket and no clock between them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from zcws.connection import Connection
from zcws.errors import ConnectionClosed
from zcws.extensions import Agreement, DeflateParameters
from zcws.frame import NEED_MORE
from zcws.pool import Pool

#: The masking keys are the same in every run, so that a failing example fails again.
SEED = 20260718


def entropy() -> Callable[[int], bytes]:
    """Repeatable random bytes."""
    return random.Random(SEED).randbytes


def deflated(**parameters: Any) -> Agreement:
    """An agreement on permessage-deflate, with these parameters."""
    return Agreement(deflate=DeflateParameters(**parameters))


class Pair:
    """A client and a server that have finished their opening handshake.

    Args:
        cut: gives the size of the next piece that crosses, from the number of bytes that wait; by default all.
        settings: of both connections; `client` and `server` are for one of them.

    Attributes:
        received: the messages that each has read, and the exception that ended it.
        wire: the bytes that each has sent.
    """

    def __init__(
        self,
        *,
        cut: Callable[[int], int] = lambda waiting: waiting,
        client: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.cut = cut
        self.client = Connection(
            is_client=True, **{"entropy": entropy(), "pool": Pool(), **settings, **(client or {})}
        )
        self.server = Connection(is_client=False, **{"pool": Pool(), **settings, **(server or {})})
        self.received: dict[Connection, list[Any]] = {self.client: [], self.server: []}
        self.wire: dict[Connection, bytes] = {self.client: b"", self.server: b""}

    def pump(self) -> None:
        """Moves bytes both ways, and reads messages, until nothing more happens."""
        moved = True
        while moved:
            moved = self._move(self.client, self.server) | self._move(self.server, self.client)

    def _move(self, source: Connection, target: Connection) -> bool:
        data = source.bytes_to_send()
        self.wire[source] += data
        at = 0
        while at < len(data):
            size = max(1, min(self.cut(len(data) - at), len(data) - at))
            used = target.receive_bytes(data[at : at + size])
            self._read(target)
            assert used, "it takes no bytes although everything has been read"
            at += used
        return bool(data)

    def _read(self, target: Connection) -> None:
        try:
            while (message := target.read_message()) is not NEED_MORE:
                self.received[target].append(message)
        except ConnectionClosed as error:
            if not any(isinstance(item, ConnectionClosed) for item in self.received[target]):
                self.received[target].append(error)
