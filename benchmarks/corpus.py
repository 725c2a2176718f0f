"""Realistic text, made from a seed: the same on every machine, and no two messages alike.

Three kinds: a market feed in JSON, lines of a web server's log, and HTML.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

__all__ = ["KINDS", "messages"]

SYMBOLS = ["BTC-USD", "ETH-USD", "SOL-EUR", "ADA-USD", "XRP-USD", "DOT-EUR", "LTC-USD", "LINK-USD"]
PATHS = ["/", "/index.html", "/api/v1/orders", "/api/v1/quotes", "/static/app.js", "/login", "/favicon.ico"]
AGENTS = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "curl/8.14.1",
    "okhttp/5.1.0",
]
WORDS = (
    "market price order trade volume open close high low bid ask spread depth quote book limit stop fill settle "
    "margin risk hedge swap option future yield bond equity index fund über Straße naïve façade — ありがとう мир"
).split()


def feed(random: random.Random) -> Iterator[str]:
    """Quotes, one JSON object each."""
    sequence = random.randrange(10**9)
    while True:
        sequence += 1
        price = round(random.uniform(10, 70_000), 2)
        yield (
            json.dumps(
                {
                    "type": "ticker",
                    "sequence": sequence,
                    "product_id": random.choice(SYMBOLS),
                    "price": f"{price:.2f}",
                    "best_bid": f"{price - 0.01:.2f}",
                    "best_ask": f"{price + 0.01:.2f}",
                    "side": random.choice(["buy", "sell"]),
                    "last_size": f"{random.expovariate(5):.8f}",
                    "time": f"2026-11-22T{sequence % 24:02}:{sequence % 60:02}:{random.random() * 60:09.6f}Z",
                }
            )
            + "\n"
        )


def log(random: random.Random) -> Iterator[str]:
    """Lines in the format of Apache and nginx."""
    second = 0
    while True:
        second += random.randrange(3)
        address = ".".join(str(random.randrange(1, 255)) for _ in range(4))
        yield (
            f"{address} - - [22/Nov/2026:{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02} +0000] "
            f'"GET {random.choice(PATHS)} HTTP/1.1" {random.choice([200, 200, 200, 304, 404, 500])} '
            f'{random.randrange(200, 90_000)} "-" "{random.choice(AGENTS)}"\n'
        )


def html(random: random.Random) -> Iterator[str]:
    """Rows of a table, with some words that are not ASCII."""
    yield "<!doctype html>\n<table class='table table-striped'>\n"
    while True:
        cells = "".join(
            f"<td class='cell cell-{column}'>{' '.join(random.choices(WORDS, k=4))}</td>"
            for column in range(4)
        )
        yield f"<tr data-id='{random.randrange(10**6)}'>{cells}</tr>\n"


KINDS: dict[str, Callable[[random.Random], Iterator[str]]] = {"feed": feed, "log": log, "html": html}


def messages(kind: str, size: int, count: int, seed: int = 1) -> list[bytes]:
    """`count` texts of `size` bytes of UTF-8 each."""
    source = KINDS[kind](random.Random(f"{kind} {size} {seed}"))
    return [_take(source, size) for _ in range(count)]


def _take(source: Iterator[str], size: int) -> bytes:
    parts: list[bytes] = []
    missing = size
    while missing > 0:
        part = next(source).encode()
        parts.append(part)
        missing -= len(part)
    # Cutting may leave half a character at the end: spaces instead.
    text = b"".join(parts)[:size].decode(errors="ignore").encode()
    return text + b" " * (size - len(text))
