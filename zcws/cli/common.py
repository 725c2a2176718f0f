"""What the commands share: how they fail, how they run, how an address is written."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import ssl
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from zcws import uri
from zcws.extensions import check_subprotocols
from zcws.handshake import RESERVED
from zcws.headers import check_line
from zcws.options import LONGEST
from zcws.proxy import parse_proxy

__all__ = [
    "Failure",
    "add_client_options",
    "add_server",
    "authority",
    "client_context",
    "client_options",
    "header",
    "origin",
    "port",
    "proxy",
    "runner",
    "seconds",
    "seconds_or_none_at_all",
    "server_context",
    "url",
    "whole",
]


#: The most digits of a number that is accepted, and characters of it that an error shows: 2**63 has 19 digits.
_DIGITS = 40


class Failure(Exception):
    """The command cannot be done; the message is the sentence that says why."""


def port(text: str) -> int:
    """A port, as argparse reads it."""
    number = _number(text)
    if number is None or number > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {_shown(text)}")
    return number


def whole(most: int) -> Callable[[str], int]:
    """A number from 1 to `most`, as argparse reads it."""

    def read(text: str) -> int:
        number = _number(text)
        if number is None or not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"a number from 1 to {most}, not {_shown(text)}")
        return number

    return read


def _number(text: str) -> int | None:
    """A whole number of at most `_DIGITS` digits; None for everything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _DIGITS else f"{text[:_DIGITS]}...")


def header(text: str) -> tuple[str, str]:
    """A header line of the request, as argparse reads it."""
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"a header is NAME:VALUE, not {text!r}")
    if name.strip().lower() in RESERVED:
        raise argparse.ArgumentTypeError(
            f"{name.strip()} is for the handshake itself; --subprotocol and --compression say what there is to choose"
        )
    try:
        return check_line(name.strip(), value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def origin(text: str) -> str:
    """What Origin says, as argparse reads it."""
    return header(f"Origin:{text}")[1]


def url(text: str) -> str:
    """The address of a WebSocket, as argparse reads it."""
    try:
        uri.parse_uri(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}{_uri_hint(text)}") from None
    return text


def _uri_hint(text: str) -> str:
    """A guess at the address that was meant, without the password and the query, because errors go to logs."""
    scheme, separator, rest = re.sub(r"(?:\A|(?<=://))[^/?#]*@|\?.*", "", text).partition("://")
    secure = {"http": "ws", "https": "wss"}.get(scheme.lower())
    if separator:
        return f"; is it {secure}://{rest}?" if secure else ""
    return "" if scheme.startswith(("ws:", "wss:")) else f"; is it ws://{scheme}?"


def proxy(text: str) -> str:
    """The address of a proxy, as argparse reads it; errors do not repeat it, because it may contain a password."""
    try:
        parse_proxy(text, "this")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def seconds(text: str) -> float:
    """A time that something may take, as argparse reads it."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= LONGEST:
            return float(text)
    raise argparse.ArgumentTypeError(f"a number of seconds over 0, {LONGEST} at most, not {_shown(text)}")


def seconds_or_none_at_all(text: str) -> float:
    """The same, with 0 allowed."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= LONGEST:
            return float(text)
    raise argparse.ArgumentTypeError(f"a number of seconds from 0 to {LONGEST}, not {_shown(text)}")


def authority(host: str, port: int) -> str:
    """Host and port as they stand in a URI; no host is every address."""
    return uri.authority(host or "0.0.0.0", port)


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

    def refuse() -> str:
        file = key or certificate
        raise Failure(
            f"the key in {file} is encrypted, and nobody is here to ask: openssl pkey -in {file} decrypts it"
        )

    # By default OpenSSL asks, in a worker on a pipe that nobody writes to.
    can_ask = sys.stdin is not None and sys.stdin.isatty()
    try:
        context.load_cert_chain(certificate, key, None if can_ask else refuse)
    except ssl.SSLError as error:
        what = error.reason or error.strerror or "not PEM"
        hint = "" if key else "; is the key in another file? --ssl-key FILE"
        raise Failure(f"{certificate} is not a certificate with its key: {what}{hint}") from None
    except OSError as error:
        files = " and ".join(filter(None, (certificate, key)))
        raise Failure(f"cannot read {files}: {error.strerror}") from None
    return context


def add_server(parser: argparse.ArgumentParser) -> None:
    """The options of every command that connects: the server's address, and whom to trust."""
    parser.add_argument("url", type=url, help="ws://... or wss://...")
    parser.add_argument("--ca", metavar="FILE", help="trust certificates of this authority (PEM)")
    parser.add_argument("--insecure", action="store_true", help="do not check the server's certificate")
    parser.set_defaults(parser=parser)


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """The same, and the options of commands that are the client themselves."""
    add_server(parser)
    parser.add_argument(
        "--header",
        type=header,
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="a header to add to the request; again for more",
    )
    parser.add_argument(
        "--subprotocol", action="append", metavar="NAME", help="a subprotocol to offer; again for more"
    )
    parser.add_argument(
        "--origin", type=origin, metavar="ORIGIN", help="the header Origin, as browsers send it"
    )
    parser.add_argument("--compression", action="store_true", help="offer permessage-deflate")
    parser.add_argument("--http2", action="store_true", help="use HTTP/2 if the server speaks it")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--proxy",
        type=proxy,
        default=True,
        metavar="URL",
        help="http://, https:// or socks5h://HOST:PORT (default: from the environment)",
    )
    ways.add_argument("--no-proxy", dest="proxy", action="store_const", const=None, help="use no proxy")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=10,
        metavar="SECONDS",
        help="for the whole opening (default: %(default)s)",
    )


def client_options(options: argparse.Namespace) -> dict[str, Any]:
    """These options, as `zcws.connect` takes them."""
    try:
        check_subprotocols(options.subprotocol or ())
    except ValueError as error:
        options.parser.error(f"argument --subprotocol: {error}")
    if options.origin is not None and any(name.lower() == "origin" for name, _ in options.header):
        options.parser.error("argument --origin: not allowed with a --header that is an Origin")
    return {
        "additional_headers": options.header,
        "subprotocols": options.subprotocol,
        "compression": "deflate" if options.compression else None,
        "http2": options.http2,
        "origin": options.origin,
        "proxy": options.proxy,
        "open_timeout": options.timeout,
        "ssl": client_context(options),
    }


def client_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Which servers are trusted; None for a URL that is not secure."""
    scheme = options.url.partition(":")[0].lower()
    if scheme == "ws" and options.ca:
        options.parser.error("--ca is for wss://: over ws:// there is no certificate to check")
    if scheme != "wss":
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except OSError as error:  # or an SSLError: there is no certificate in the file
        raise Failure(f"cannot use {options.ca}: {error.strerror or error}") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
