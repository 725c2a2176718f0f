"""`Metrics`: what a Prometheus server wants to know of our servers, collected when it asks and not before.

Open connections are looked at one by one during a scrape. What has closed since is added to totals at that moment, so
counters never go down. Nothing is counted here: connections know their figures (zcws/stats.py).

prometheus-client makes its own page in a thread, and servers may run on several event loops. So what is kept here has a
lock, which nobody holds for longer than a copy takes.
"""

from __future__ import annotations

import importlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from zcws.aio.server import Server
from zcws.aio.websocket import WebSocket
from zcws.hooks import check_page_path
from zcws.http import Request, Response, method_refusal, whole_response
from zcws.stats import Stats

__all__ = ["Metrics"]

#: What only ever grows, of all connections together. Compression is four figures, because two ratios could not be added
#: up: the share that it saves is 1 - compressed / uncompressed.
_TOTALS = {
    "zcws_received_bytes": "Bytes of frames received, before TLS.",
    "zcws_sent_bytes": "Bytes of frames sent, before TLS.",
    "zcws_received_frames": "Frames received, control frames too.",
    "zcws_sent_frames": "Frames sent, control frames too.",
    "zcws_received_messages": "Messages received whole.",
    "zcws_sent_messages": "Messages sent whole.",
    "zcws_received_compressed_bytes": "Of messages that arrived compressed, bytes before inflating.",
    "zcws_received_uncompressed_bytes": "Of these, bytes after it.",
    "zcws_sent_uncompressed_bytes": "Of messages that were sent compressed, bytes before deflating.",
    "zcws_sent_compressed_bytes": "Of these, bytes after it.",
}


def _totals(stats: Stats) -> dict[str, int]:
    """One connection's part of each of `_TOTALS`."""
    figures = (
        *(stats.bytes_received, stats.bytes_sent),
        *(stats.frames_received, stats.frames_sent),
        *(stats.messages_received, stats.messages_sent),
        *stats.inflated,
        *stats.deflated,
    )
    return dict(zip(_TOTALS, figures, strict=True))


def _label(stats: Stats) -> str:
    """The close code; `3xxx` or `4xxx` for those that a peer may choose (RFC 6455 7.4.2): each would stay for ever."""
    code = str(stats.close_code)
    return code[0] + "xxx" if stats.closed_by == "peer" and code >= "3" else code


class Metrics:
    """A collector for prometheus-client, and the page that it is read from.

        metrics = zcws.Metrics()
        async with zcws.serve(handler, "127.0.0.1", 8765, process_request=metrics.process_request) as server:
            metrics.watch(server)

    Args:
        path: where the page is.
        registry: of prometheus-client; its default one unless given. Everything in it is on the page.

    Raises:
        ImportError: prometheus-client is not installed: `pip install 'zcws[metrics]'`.
        ValueError: another `Metrics` is in that registry already; or `path` is none.
    """

    def __init__(self, *, path: str = "/metrics", registry: Any = None) -> None:
        check_page_path(path)
        try:
            self._library: Any = importlib.import_module("prometheus_client")
        except ImportError:
            raise ImportError("metrics need prometheus-client: pip install 'zcws[metrics]'") from None
        self._exposition: Any = importlib.import_module("prometheus_client.exposition")
        self._families: Any = importlib.import_module("prometheus_client.core")
        self.path = path
        self.registry: Any = self._library.REGISTRY if registry is None else registry
        self._lock = threading.Lock()
        self._open: set[WebSocket] = set()
        self._opened = 0
        self._ended: Counter[str] = Counter()  # by name in _TOTALS, of connections that have closed
        self._closed: dict[tuple[str, str], int] = {}
        self.registry.register(self)

    def watch(self, server: Server) -> None:
        """Counts the connections of this server from now on, those that are open included."""
        for ws in server.connections:
            self._add(ws)
        server.on_open.append(self._add)

    def _add(self, ws: WebSocket) -> None:
        with self._lock:
            self._opened += 1
            self._open.add(ws)
        ws.add_end_callback(self._end)

    def _end(self, ws: WebSocket) -> None:
        stats = ws.stats
        why = (str(stats.closed_by), _label(stats))
        with self._lock:
            self._open.discard(ws)
            self._ended.update(_totals(stats))
            self._closed[why] = self._closed.get(why, 0) + 1

    def process_request(self, connection: object, request: Request) -> Response | None:
        """For `serve`: answers a request for the page, and lets everything else pass."""
        if request.path.partition("?")[0] != self.path:
            return None
        if refusal := method_refusal(request.method):
            return refusal
        encode, kind = self._exposition.choose_encoder(request.headers.combined().get("accept", ""))
        return whole_response(200, kind, encode(self.registry))

    def collect(self) -> Iterator[Any]:
        """For prometheus-client: every figure there is, as of now. In any thread."""
        with self._lock:
            now, opened = list(self._open), self._opened
            totals, ended = self._ended.copy(), self._closed.copy()
        # A connection that ends meanwhile is not in these totals, and still has its figures.
        stats = [ws.stats for ws in now]
        gauge, counter = self._families.GaugeMetricFamily, self._families.CounterMetricFamily
        yield gauge("zcws_connections", "Connections that are open.", len(stats))
        yield gauge(
            "zcws_slow_connections", "Of these, above their high-water mark.", sum(s.is_slow for s in stats)
        )
        yield counter("zcws_opened_connections", "Connections that were opened.", value=opened)
        closed = counter("zcws_closed_connections", "Connections that have ended.", labels=["by", "code"])
        for why, number in ended.items():
            closed.add_metric(why, number)
        yield closed
        for each in stats:
            totals.update(_totals(each))
        for name, words in _TOTALS.items():
            yield counter(name, words, value=totals[name])
        yield from self._now(stats, gauge)

    def __repr__(self) -> str:
        return f"<Metrics at {self.path!r}, {len(self._open)} open>"

    def _now(self, stats: list[Stats], gauge: Any) -> Iterator[Any]:
        yield gauge(
            "zcws_waiting_bytes", "Bytes that slow peers have not taken.", sum(s.bytes_waiting for s in stats)
        )
        yield gauge(
            "zcws_waiting_frames", "Frames that have not been read.", sum(s.frames_waiting for s in stats)
        )
        latencies = [s.latency for s in stats if s.latency]
        yield gauge("zcws_latency_seconds_max", "The longest round trip.", max(latencies, default=0.0))
