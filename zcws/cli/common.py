"""What the commands share: how they fail, how they run, how an address is written."""

from __future__ import annotations

import argparse
import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Failure", "add_client_options", "authority", "port", "runner", "server_context"]


class Failure(Exception):
    """The command cannot be done; the message is the sentence that says why."""


def port(text: str) -> int:
    """A port, as argparse reads it."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def authority(host: str, port: int) -> str:
    """Host and port as they stand in a URI. RFC 3986 3.2.2: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def runner(loop: str) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """What runs a coroutine on the event loop of that name."""
    if loop == "asyncio":
        return asyncio.run
    try:
        import uvloop
    except ImportError:
        raise Failure("uvloop is not installed here: pip install uvloop") from None
    run: Callable[[Coroutine[Any, Any, Any]], Any] = uvloop.run
    return run


def server_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """The context of a server with that certificate."""
    if not certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        what = error.reason or error.strerror or "not PEM"
        raise Failure(f"{certificate} is not a certificate with its key: {what}") from None
    except OSError as error:
        files = " and ".join(filter(None, (certificate, key)))
        raise Failure(f"cannot read {files}: {error.strerror}") from None
    return context


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """What every command asks that connects."""
    parser.add_argument("url", help="ws://... or wss://...")
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME:VALUE", help="one more header of the request"
    )
    parser.add_argument("--subprotocol", action="append", metavar="NAME", help="one to offer")
    parser.add_argument("--compression", action="store_true", help="offer permessage-deflate")
    parser.add_argument("--ca", metavar="FILE", help="trust certificates of this authority (PEM)")
    parser.add_argument("--insecure", action="store_true", help="do not check the server's certificate")


def client_options(options: argparse.Namespace) -> dict[str, Any]:
    """The same, as `zcws.connect` wants it."""
    headers = []
    for header in options.header:
        name, colon, value = header.partition(":")
        if not colon:
            raise Failure(f"a header is NAME:VALUE, not {header!r}")
        headers.append((name.strip(), value.strip()))
    return {
        "additional_headers": headers,
        "subprotocols": options.subprotocol,
        "compression": "deflate" if options.compression else None,
        "ssl": client_context(options) if options.url.startswith("wss:") else None,
    }


def client_context(options: argparse.Namespace) -> ssl.SSLContext:
    """Which servers are trusted."""
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except (OSError, ssl.SSLError) as error:
        raise Failure(f"cannot use {options.ca}: {error.strerror or error}") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
