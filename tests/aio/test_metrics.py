from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest
from net import LONG, Place, echo, port_of, soon, until

import zcws

prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
parser = pytest.importorskip("prometheus_client.parser")


async def get(
    place: Place, server: zcws.Server, path: str, method: str = "GET", more: str = ""
) -> tuple[bytes, str]:
    """The head and the body of an ordinary HTTP request, which may have `more` lines."""
    reader, writer = await place.open(port_of(server))
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
    head, _, body = (await soon(reader.read())).partition(b"\r\n\r\n")
    writer.close()
    return head, body.decode()


def figures(page: str) -> dict[Any, float]:
    """Everything on the page by name, and by labels where there are some."""
    found: dict[Any, float] = {}
    for family in parser.text_string_to_metric_families(page):
        for sample in family.samples:
            found[(sample.name, *sample.labels.values()) if sample.labels else sample.name] = sample.value
    return found


def test_a_page_for_prometheus(anyplace: Place) -> None:
    async def main() -> None:
        metrics = zcws.Metrics(registry=prometheus_client.CollectorRegistry())
        async with anyplace.serve(echo, process_request=metrics.process_request) as server:
            async with anyplace.connect(server) as early:
                await until(lambda: server.connections)
                metrics.watch(server)
                async with anyplace.connect(server) as late:
                    for ws in (early, late):
                        await ws.send("abc")
                        await soon(ws.recv())
                    assert repr(metrics) == "<Metrics at '/metrics', 2 open>"
                    head, page = await get(anyplace, server, "/metrics?all")
                    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                    assert b"Content-Type: text/plain; version=" in head
                    seen = figures(page)
                    assert (seen["zcws_connections"], seen["zcws_opened_connections_total"]) == (2, 2)
                    assert (seen["zcws_received_bytes_total"], seen["zcws_sent_bytes_total"]) == (18, 10)
                    for what in ("received_frames", "sent_frames", "received_messages", "sent_messages"):
                        assert seen[f"zcws_{what}_total"] == 2
                    assert seen["zcws_sent_compressed_bytes_total"] == 0
                    assert seen["zcws_waiting_bytes"] == seen["zcws_slow_connections"] == 0
                await until(lambda: len(server.connections) == 1)
                seen = figures((await get(anyplace, server, "/metrics"))[1])
                assert (seen["zcws_connections"], seen["zcws_opened_connections_total"]) == (1, 2)
                assert seen[("zcws_closed_connections_total", "peer", "1000")] == 1
                assert seen["zcws_received_bytes_total"] > 18  # what has closed still counts, its Close too
                assert (seen["zcws_received_messages_total"], seen["zcws_received_frames_total"]) == (2, 3)
                assert (await get(anyplace, server, "/other"))[0].startswith(b"HTTP/1.1 426 ")
                head, page = await get(anyplace, server, "/metrics", "POST")
                assert head.startswith(b"HTTP/1.1 405 ") and b"Allow: GET, HEAD\r\n" in head

    anyplace.run(main())


def test_the_page_for_who_says_accept_in_two_lines(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 9110 5.3: they are one list. It was a 500, and a traceback in the log."""

    async def main() -> None:
        metrics = zcws.Metrics(registry=prometheus_client.CollectorRegistry())
        async with place.serve(echo, process_request=metrics.process_request) as server:
            more = "Accept: text/html\r\nAccept: application/openmetrics-text; version=1.0.0\r\n"
            head, _ = await get(place, server, "/metrics", more=more)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Content-Type: application/openmetrics-text; version=1.0.0" in head

    place.run(main())
    assert not caplog.records


def test_codes_that_the_peer_chooses_are_counted_together(place: Place) -> None:
    """2,000 series that nobody could get rid of; those that this program chose stay apart."""

    async def close(ws: zcws.WebSocket) -> None:
        if ws.request.path != "/":
            await ws.close(int(ws.request.path[1:]))
        await ws.wait_closed()

    async def main() -> None:
        metrics = zcws.Metrics(registry=prometheus_client.CollectorRegistry())
        async with place.serve(close, process_request=metrics.process_request) as server:
            metrics.watch(server)
            for code in (3000, 4001, 4002):
                async with place.connect(server) as ws:
                    await ws.close(code)
            for code in (4001, 4002):
                async with place.connect(server, f"/{code}") as ws:
                    await soon(ws.wait_closed())
            await until(lambda: not server.connections)
            seen = figures((await get(place, server, "/metrics"))[1])
            closed = {
                key[1:]: count for key, count in seen.items() if key[0] == "zcws_closed_connections_total"
            }
            assert closed == {
                ("peer", "3xxx"): 1,
                ("peer", "4xxx"): 2,
                ("us", "4001"): 1,
                ("us", "4002"): 1,
            }

    place.run(main())


def test_what_compression_saves_is_added_up(place: Place) -> None:
    async def main() -> None:
        metrics = zcws.Metrics(registry=prometheus_client.CollectorRegistry())
        options = {"process_request": metrics.process_request, "compression": "deflate"}
        async with place.serve(echo, **options) as server:
            metrics.watch(server)
            async with place.connect(server, compression="deflate") as ws:
                await ws.send("word " * 1000)
                await soon(ws.recv())
                seen = figures((await get(place, server, "/metrics"))[1])
                for way, (plain, wire) in (
                    ("sent", ws.stats.inflated[::-1]),
                    ("received", ws.stats.deflated),
                ):
                    assert seen[f"zcws_{way}_uncompressed_bytes_total"] == plain == 5000
                    assert seen[f"zcws_{way}_compressed_bytes_total"] == wire < 100

    place.run(main())


def test_a_page_that_another_thread_makes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As prometheus-client's own server does: whoever came meanwhile ended it, with a 500."""
    registry = prometheus_client.CollectorRegistry()
    metrics = zcws.Metrics(registry=registry)
    looks, goes_on = threading.Event(), threading.Event()
    known = zcws.WebSocket.stats.fget  # type: ignore[attr-defined]

    def stats(ws: zcws.WebSocket) -> zcws.Stats:
        if threading.current_thread() is not threading.main_thread():
            looks.set()
            assert goes_on.wait(LONG)
        found: zcws.Stats = known(ws)
        return found

    def page() -> dict[Any, float]:
        return figures(prometheus_client.generate_latest(registry).decode())

    async def main() -> None:
        async with place.serve(echo) as server:
            metrics.watch(server)
            async with place.connect(server) as early:
                await early.send("abc")
                await soon(early.recv())
                asked = asyncio.ensure_future(asyncio.to_thread(page))
                await until(looks.is_set)
                async with place.connect(server):
                    await until(lambda: len(server.connections) == 2)
                    await early.close()
                    await until(lambda: len(server.connections) == 1)
                    goes_on.set()
                    before, after = await soon(asked), page()
            assert (before["zcws_connections"], after["zcws_connections"]) == (1, 1)
            assert before["zcws_sent_messages_total"] == after["zcws_sent_messages_total"] == 1

    monkeypatch.setattr(zcws.WebSocket, "stats", property(stats))
    place.run(main())


def test_two_in_one_registry_are_a_mistake() -> None:
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    zcws.Metrics(registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        zcws.Metrics(registry=registry)


def test_a_page_that_nobody_could_ask_for_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"^path must be a str that begins with \"/\", not 'metrics'"):
        zcws.Metrics(path="metrics", registry=prometheus_client.CollectorRegistry())


def test_the_extra_is_named_where_it_is_missing() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None\nimport zcws\nzcws.Metrics()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr.endswith("ImportError: metrics need prometheus-client: pip install 'zcws[metrics]'\n")
