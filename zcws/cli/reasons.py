"""Why an address cannot be listened on or reached, in words, and what to do about it."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import zcws
from zcws.cli.common import authority
from zcws.connector import REDIRECTS
from zcws.failures import NO_TLS
from zcws.proxy import GOES_WITHOUT
from zcws.uri import parse_uri

__all__ = ["refusal", "unreachable"]

_NOT_OURS = "cannot listen on {}: the host is not an address of this machine"

#: Why an address cannot be listened on; {} is the address, then the option that chooses another port.
_REFUSALS: dict[int | None, str] = {
    errno.EADDRINUSE: "{} is in use: stop what listens there, or choose another port with {}",
    errno.EACCES: "not allowed to listen on {}: ports below 1024 are often reserved, choose another with {}",
    errno.EADDRNOTAVAIL: _NOT_OURS,
    None: _NOT_OURS,  # asyncio from CPython 3.13 on, if none of the host's addresses works
}


def refusal(error: OSError | UnicodeError, host: str, port: int, option: str = "--port") -> str:
    """Why this address cannot be listened on, in one sentence."""
    if isinstance(error, (socket.gaierror, UnicodeError)):  # a label over 63 bytes is a UnicodeError
        return f"there is no host called {host!r} as far as this machine knows"
    where = authority(host, port)
    if error.errno in _REFUSALS:
        return _REFUSALS[error.errno].format(where, option)
    return f"cannot listen on {where}: {error.strerror or error}"


def unreachable(url: str, error: BaseException) -> str:
    """Why there is no connection with `url`, in one sentence, and what to try. It leaves out the password and the query
    of the address, because it goes to logs, and `zcws trace` sends it to clients."""
    url = parse_uri(url).shown
    # The option of `connect` is called otherwise on the command line.
    said = _words(error).replace(GOES_WITHOUT, "").replace("http2=True", "--http2")
    words = f"cannot connect to {url}: {said}"
    hint = _hint(url, error)
    return f"{words}; {hint}" if hint else words


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError) and error.reason in NO_TLS:
        return "it does not speak TLS"
    if _is_proxys(error):
        return str(error.strerror)  # type: ignore[attr-defined]
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__


def _is_proxys(error: BaseException) -> bool:
    """Whether it is the proxy that cannot be reached, and not the server (`unreachable` of failures.py)."""
    return isinstance(error, OSError) and str(error.strerror).startswith("cannot connect to the proxy")


def _hint(url: str, error: BaseException) -> str:
    scheme, _, rest = url.partition("://")
    if isinstance(error, zcws.ProxyError) or _is_proxys(error):
        return "--no-proxy goes without it"
    is_late = isinstance(error, (TimeoutError, asyncio.TimeoutError))
    if isinstance(error, ssl.SSLCertVerificationError):
        return "--ca FILE trusts another authority, --insecure everybody"
    if scheme == "wss" and (is_late or (isinstance(error, ssl.SSLError) and error.reason in NO_TLS)):
        return f"without TLS it is ws://{rest}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: is the server running, and is this its port?"
    if isinstance(error, socket.gaierror):
        return "is the host spelled right?"
    if isinstance(error, zcws.HandshakeError):
        return _answer_hint(scheme, rest, error.status)
    return ""


def _answer_hint(scheme: str, rest: str, status: int | None) -> str:
    # 400: how TLS servers, ours and others, answer a request without TLS.
    if status is None or (status == 400 and scheme == "ws"):
        return f"with TLS it is wss://{rest}" if scheme == "ws" else ""
    if status in REDIRECTS:
        return "redirects are not followed here: connect to where it leads"
    if status == 401:
        return 'credentials are given with --header "Authorization: ..."'
    if status in (502, 503, 504):
        return "somebody in between says so: is the server behind it running?"
    if status == 500:
        return "the server failed: its log may say more"
    return "is the path right, and is there a WebSocket server?"
