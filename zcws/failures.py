"""How a failure on the way to a server is reported: where it happened, who says so, and what to look at.

A driver passes in the error that the system, OpenSSL or python-socks has raised, and raises the one it gets back.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from typing import Any

from zcws.errors import ProxyError
from zcws.proxy import Proxy
from zcws.uri import WebSocketURI, authority

__all__ = [
    "NO_TLS",
    "cannot_connect",
    "forget_errors",
    "no_tls",
    "socks_errors",
    "timed_out",
    "unknown_host",
    "unreachable",
    "with_path",
]

#: What OpenSSL calls an answer that is no TLS; that depends on its version and on what the answer looks like.
NO_TLS = frozenset(("HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"))
#: What the system calls a connection that the other side has ended.
BROKEN_OFF = frozenset((errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED))
HINTED = " speak TLS? "
CERTIFICATE_OF = "; the certificate is that of "

#: OpenSSL's codes (x509_vfy.h) for a certificate that is self-signed, or whose signer is self-signed or unknown.
UNKNOWN_SIGNERS = frozenset((2, 18, 19, 20, 21))
#: And for one that is for other names, or other addresses.
OTHER_NAMES = frozenset((62, 64))

#: SOCKS5 (RFC 1928 6): failure, network or host unreachable, refused, expired; SOCKS4's one word for failure.
TEMPORARY_REPLIES = frozenset((1, 3, 4, 5, 6, 0x5B))


@contextlib.contextmanager
def socks_errors(proxy: Proxy, host: str) -> Iterator[None]:
    """Turns what python-socks raises inside this context into errors like the drivers' own.

    Args:
        host: the server's, which python-socks resolves where the proxy does not. The proxy's own is none of its.
    """
    try:
        yield
    except ImportError:
        raise ImportError(
            f"{proxy.source} names a {proxy.scheme} proxy, which needs python-socks: pip install 'zcws[proxy]'; "
            "proxy=None connects without one"
        ) from None
    except socket.gaierror as error:
        raise unknown_host(host, error) from None
    except OSError as error:
        raise unreachable(proxy, error) from None
    except Exception as error:
        # Only its own errors are quoted: others (of an encoding, say) may contain the input that they rejected.
        own = type(error).__module__.partition(".")[0] == "python_socks"
        text = str(error).rstrip(".") if own else type(error).__name__
        broke_off = type(error.__cause__).__name__ == "IncompleteReadError"
        temporary = broke_off or getattr(error, "error_code", None) in TEMPORARY_REPLIES
        reason = f"the proxy {proxy.shown} did not connect: {text}"
        raise ProxyError(reason, is_temporary=temporary) from None


def unreachable(proxy: Proxy, error: OSError, source: tuple[str, int] | None = None) -> OSError:
    """The same error, saying that it was the proxy that could not be reached; `source`: as for `cannot_connect`."""
    if isinstance(error, TimeoutError):
        return error
    # An error without text is how our TLS fails when the proxy ends the connection.
    if isinstance(error, ssl.SSLError) or (isinstance(error, ConnectionError) and not str(error)):
        return no_tls(f"the proxy {proxy.shown}", "http://", error, "proxy_")
    return OSError(
        error.errno,
        f"cannot connect {_from(source)}to the proxy {proxy.shown}: {reason_of(error)}{proxy.named_by}",
    )


def timed_out(
    uris: list[WebSocketURI], open_timeout: float | None, proxy: Proxy | None = None
) -> TimeoutError:
    """There was no answer in time; from the proxy, perhaps.

    Args:
        uris: the client's, and those that redirects have led to.
    """
    way, named_by = ("", "") if proxy is None else (f" through the proxy {proxy.shown}", proxy.named_by)
    redirected = "" if len(uris) == 1 else f"; {uris[0].shown} redirects there"
    return TimeoutError(
        f"{uris[-1].shown} has not answered the opening handshake{way} in open_timeout={open_timeout} seconds"
        f"{redirected}{named_by}"
    )


def forget_errors() -> None:  # pragma: no cover - see tests/sync/test_polled.py
    """To be called when TLS has failed, in the thread that it failed in.

    OpenSSL keeps its errors in a queue of the thread. PyPy (7.3.19 to 8.0.1) leaves them there, and CPython 3.14 those
    of the system, a broken pipe for example. The next read of another connection that has to wait then raises them: who
    spoke HTTP to a server's TLS, or left without a goodbye, ended all connections of that thread.
    """
    # Whatever begins TLS empties the queue first.
    _empty_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)


@functools.cache
def _empty_context() -> ssl.SSLContext:  # pragma: no cover
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def no_tls(who: str, plain: str, error: OSError, options: str | None = "") -> OSError:
    """An error of a TLS handshake, with a hint where the other side seems not to speak TLS, or is not trusted.

    Args:
        plain: the scheme to use if it does not speak TLS.
        options: the prefix of the names of the options that decide about trust; None if there may be none.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _no_trust(who, error, options)
    hint = f"does {who} speak TLS? If not, write {plain}"
    # One that was not made by OpenSSL has no reason.
    if getattr(error, "reason", None) in NO_TLS and HINTED not in str(error):
        _add(error, f"; {hint}")
    elif isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) or _is_broken_off(error):
        hint = f"{hint}. Or does it want a certificate of yours?"
        return ConnectionResetError(errno.ECONNRESET, f"the connection ended in the TLS handshake: {hint}")
    return error


def _no_trust(who: str, error: ssl.SSLCertVerificationError, options: str | None) -> OSError:
    """The same error, saying whose certificate it is, and which option decides about it."""
    code = getattr(error, "verify_code", None)  # one that was not made by OpenSSL has none
    hint = ""
    if options is not None and code in UNKNOWN_SIGNERS:
        hint = f'; {options}ssl="authority.pem" trusts the certificates in that file'
    elif options is not None and code in OTHER_NAMES:
        hint = f"; {options}server_hostname= is the name to check, if it is another"
    if CERTIFICATE_OF not in str(error):  # the proxy's has been explained already
        _add(error, f"{CERTIFICATE_OF}{who}{hint}")
    return error


def _add(error: OSError, text: str) -> None:
    error.strerror = f"{error.strerror}{text}"
    error.args = (error.errno, error.strerror)  # pickle makes a copy from these


def _is_broken_off(error: OSError) -> bool:
    """Whether the other side ended the connection; no if the text is not the system's: that is explained already."""
    if not isinstance(error, ConnectionError) or error.errno is None:
        return isinstance(error, ConnectionError) and not str(error)
    return error.errno in BROKEN_OFF and error.strerror == said(error.errno)


def said(code: int) -> str:
    """The system's text for an error number. On Windows the C library has none for those of sockets."""
    if sys.platform == "win32" and errno.errorcode.get(code, "").startswith("WSA"):  # pragma: no cover
        import ctypes

        return ctypes.FormatError(code).rstrip(". ")  # as OSError has it
    return os.strerror(code)


def cannot_connect(failures: list[tuple[Any, OSError]], source: tuple[str, int] | None = None) -> OSError:
    """The error if no address of a host could be connected to; `failures` has each with its error.

    Args:
        source: our end of the connection, if the program has chosen it.
    """
    what = "; ".join(f"{authority(*where[:2])}: {reason_of(error)}" for where, error in failures)
    return OSError(failures[0][1].errno, f"cannot connect {_from(source)}to {what}")


def _from(source: tuple[str, int] | None) -> str:
    return "" if source is None else f"from {authority(str(source[0]), source[1] or None)} "


def unknown_host(host: str, error: socket.gaierror) -> socket.gaierror:
    """The same error, saying which name it was."""
    return socket.gaierror(error.errno, f"{error.strerror}: {host}")


def reason_of(error: OSError) -> str:
    """What the system says about an error, without what a driver has put before and behind it."""
    if error.errno is None:  # it is not the system's
        return str(error)
    if getattr(error, "winerror", None):  # many of these share one errno, "Invalid argument"
        return str(error.strerror)
    # Those of name resolution have numbers of their own.
    return str(error.strerror) if isinstance(error, socket.gaierror) else said(error.errno)


def with_path(error: OSError, path: str | bytes) -> OSError:
    """The same error, saying which Unix socket it was."""
    if error.errno is None:  # CPython's own error, for a path that is too long
        return OSError(errno.ENAMETOOLONG, str(error), path)
    if repr(path) not in str(error):  # asyncio says it in its own words
        error.filename = path
    return error
