"""websocket-client, blocking; it takes wsaccel for masks and UTF-8 where that is installed."""

from __future__ import annotations

from websocket import WebSocket, create_connection

from benchmarks.meter import Meter
from benchmarks.peers import Settings


def connect(uri: str) -> WebSocket:
    return create_connection(uri, enable_multithread=False)


def echo(uri: str, message: str, depth: int, meter: Meter, settings: Settings) -> None:
    ws = connect(uri)
    for count in meter:
        for _ in range(count // depth):
            for _ in range(depth):
                ws.send(message)
            for _ in range(depth):
                answer = ws.recv()
    meter.check(answer)
    ws.close()


def firehose(uri: str, meter: Meter, settings: Settings) -> None:
    ws = connect(uri)
    meter.check(ws.recv())
    for count in meter:
        for _ in range(count):
            ws.recv()
    ws.shutdown()


ECHO = {"websocket-client": echo}
FIREHOSE = {"websocket-client": firehose}
