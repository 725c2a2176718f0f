"""The command line: `python -m zcws` or `zcws`.

Exit codes: 0 when it was done, or stopped by Ctrl-C after it had begun; 1 when it could not be done, with one sentence
that says why; 2 for a command line that makes no sense (argparse).

The compiled core is imported when a command first needs it, so that what can go wrong there (a ZCWS_KERNEL that does
not exist) is one sentence too: `import zcws` alone does not, and info.py is imported late.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import zcws
from zcws import page

__all__ = ["main"]

#: The port of `make serve`: the one that the examples of `websockets` made usual.
PORT = 8765

#: Seconds between Ctrl-C and the end, at most: for peers that do not answer the Close.
GOODBYE = 1.0

NOT_OURS = "cannot listen on {}: the host is not an address of this machine"

#: What the system says about an address that cannot be had, in words; {} is the address.
REFUSALS: dict[int | None, str] = {
    errno.EADDRINUSE: "{} is in use: stop what listens there, or choose another port with --port",
    errno.EACCES: "not allowed to listen on {}: ports below 1024 are often reserved, choose another with --port",
    errno.EADDRNOTAVAIL: NOT_OURS,
    None: NOT_OURS,  # asyncio from CPython 3.13 on: for none of the host's addresses
}


class Failure(Exception):
    """The command cannot be done; the message is the sentence that says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (Failure, ImportError) as error:
        print(f"zcws: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


# ---- the command line ----


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zcws", description="WebSocket with zero copies.")
    parser.add_argument("--version", action="version", version=f"zcws {zcws.__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    serve = commands.add_parser("serve", help="run a server", description="Runs a server until Ctrl-C.")
    serve.add_argument(
        "--echo", action="store_true", required=True, help="send every message back; the one service there is"
    )
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    serve.add_argument("--port", type=_port, default=PORT, help="0 takes a free one (default: %(default)s)")
    serve.add_argument("--ssl-cert", metavar="FILE", help="certificate chain (PEM), for wss")
    serve.add_argument("--ssl-key", metavar="FILE", help="its key, where it is not in the same file")
    serve.add_argument(
        "--loop", choices=["asyncio", "uvloop"], default="asyncio", help="(default: %(default)s)"
    )
    serve.add_argument("--compression", action="store_true", help="agree to permessage-deflate")
    serve.set_defaults(run=_serve, parser=serve)
    info = commands.add_parser("info", help="say what is installed", description="Says what is installed.")
    info.set_defaults(run=_info)
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


# ---- info ----


def _info(_options: argparse.Namespace) -> None:
    from zcws import info

    print(info.report())


# ---- serve ----


def _serve(options: argparse.Namespace) -> None:
    if options.ssl_key and not options.ssl_cert:
        options.parser.error("--ssl-key needs --ssl-cert")
    context = _ssl_context(options)
    _runner(options.loop)(_listen_and_wait(options, context))


def _ssl_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.ssl_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.ssl_cert, options.ssl_key)
    except ssl.SSLError as error:
        what = error.reason or error.strerror or "not PEM"
        raise Failure(f"{options.ssl_cert} is not a certificate with its key: {what}") from None
    except OSError as error:
        files = " and ".join(filter(None, (options.ssl_cert, options.ssl_key)))
        raise Failure(f"cannot read {files}: {error.strerror}") from None
    return context


def _runner(loop: str) -> Callable[[Coroutine[Any, Any, None]], None]:
    if loop == "asyncio":
        return asyncio.run
    try:
        import uvloop
    except ImportError:
        raise Failure("uvloop is not installed here: pip install uvloop") from None
    run: Callable[[Coroutine[Any, Any, None]], None] = uvloop.run
    return run


async def _listen_and_wait(options: argparse.Namespace, context: ssl.SSLContext | None) -> None:
    stop = asyncio.Event()
    try:
        # Before anything listens: whoever saw the line below may press Ctrl-C at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    except NotImplementedError:
        pass  # Windows: KeyboardInterrupt cancels this task instead
    server = await _listen(options, context)
    try:
        print(_announcement(server.sockets[0], options.host, secure=context is not None), flush=True)
        await stop.wait()
    finally:
        await _say_goodbye(server)


async def _listen(options: argparse.Namespace, context: ssl.SSLContext | None) -> zcws.Server:
    compression = zcws.Deflate() if options.compression else None
    try:
        return await zcws.serve(
            _echo,
            options.host,
            options.port,
            ssl=context,
            compression=compression,
            process_request=page.answer,
        )
    except (OSError, UnicodeError) as error:
        raise Failure(_refusal(error, options.host, options.port)) from None


def _refusal(error: OSError | UnicodeError, host: str, port: int) -> str:
    """Why the address cannot be had, in one sentence."""
    if isinstance(error, (socket.gaierror, UnicodeError)):  # a label over 63 bytes is a UnicodeError
        return f"there is no host called {host!r} as far as this machine knows"
    where = _authority(host, port)
    if error.errno in REFUSALS:
        return REFUSALS[error.errno].format(where)
    return f"cannot listen on {where}: {error.strerror or error}"


def _announcement(sock: socket.socket, host: str, *, secure: bool) -> str:
    port = sock.getsockname()[1]
    s = "s" if secure else ""
    # A browser cannot go to "every address of this machine".
    browsable = "localhost" if host in ("", "0.0.0.0", "::") else host
    return (
        f"zcws listens on ws{s}://{_authority(host or '0.0.0.0', port)}; "
        f"a page to try it is at http{s}://{_authority(browsable, port)}/ (Ctrl-C stops it)"
    )


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _echo(ws: zcws.WebSocket) -> None:
    """Frames, not messages: a payload goes out from where it came in."""
    while True:
        frame = await ws.read_frame()
        if frame.opcode in (zcws.OpCode.TEXT, zcws.OpCode.BINARY):
            await ws.write_frame(frame)


async def _say_goodbye(server: zcws.Server) -> None:
    """Every peer gets a Close with 1001, and GOODBYE seconds to answer it."""
    server.close()
    try:
        await asyncio.wait_for(server.wait_closed(), GOODBYE)
    except asyncio.TimeoutError:
        for ws in list(server.connections):
            ws.abort()
        await server.wait_closed()
