"""What a person is told; what really happens is tried with real sockets where it can be had."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import raw
import trustme
from served import zcws as run

import zcws
import zcws.sync
from zcws.cli.reasons import refusal, unreachable


def test_where_nobody_can_listen() -> None:
    error = PermissionError(errno.EACCES, "Permission denied")
    assert refusal(error, "::1", 80).startswith("not allowed to listen on [::1]:80: ")
    in_use = OSError(errno.EADDRINUSE, "Address already in use")
    assert refusal(in_use, "h", 1, "--listen") == (
        "h:1 is in use: stop what listens there, or choose another port with --listen"
    )
    for nowhere in (OSError(errno.EADDRNOTAVAIL, "x"), OSError("x")):
        assert refusal(nowhere, "h", 1) == "cannot listen on h:1: the host is not an address of this machine"
    # What nobody foresaw is said in the system's words.
    assert refusal(OSError(97, "no such family"), "h", 1) == "cannot listen on h:1: no such family"


@pytest.mark.parametrize(
    ("url", "error", "hint"),
    [
        ("wss://h/", TimeoutError("late"), "without TLS it is ws://h/"),
        ("ws://h/", zcws.HandshakeError("no answer"), "with TLS it is wss://h/"),
        (
            "ws://h/",
            zcws.HandshakeError("x", status=301),
            "redirects are not followed here: connect to where it leads",
        ),
        (
            "ws://h/",
            zcws.HandshakeError("x", status=401),
            'credentials are given with --header "Authorization: ..."',
        ),
        (
            "ws://h/",
            zcws.HandshakeError("x", status=500),
            "the server failed: its log may say more",
        ),
        (
            "ws://h/",
            zcws.HandshakeError("x", status=502),
            "somebody in between says so: is the server behind it running?",
        ),
        *(
            (
                "ws://h/",
                zcws.HandshakeError("x", status=status),
                "somebody in between says so: is the server behind it running?",
            )
            for status in (503, 504)
        ),
        (
            "wss://h/",
            zcws.HandshakeError("x", status=400),
            "is the path right, and is there a WebSocket server?",
        ),
        ("ws://h/", zcws.ProxyError("x", status=502), "--no-proxy goes without it"),
        (
            "ws://h/",
            zcws.HandshakeError("x", status=404),
            "is the path right, and is there a WebSocket server?",
        ),
    ],
)
def test_what_to_try(url: str, error: Exception, hint: str) -> None:
    assert unreachable(url, error) == f"cannot connect to {url}: {error}; {hint}"


def test_an_option_has_its_name_on_the_command_line() -> None:
    said = unreachable("wss://h/", zcws.HandshakeError("no HTTP/2 there: connect without http2=True"))
    assert said == "cannot connect to wss://h/: no HTTP/2 there: connect without --http2"


def test_what_is_said_holds_no_secret() -> None:
    """It goes to logs; and `zcws trace` told whoever asked it for a server that was not there."""
    for error in (TimeoutError("late"), ConnectionRefusedError()):
        said = unreachable("wss://me:secret@h/a?token=b", error)
        assert said.startswith("cannot connect to wss://h/a: ")
        assert "secret" not in said and "token" not in said


def other_than_plain() -> ssl.SSLError:
    """Both speak TLS, and do not agree."""
    error = ssl.SSLError(1, "x")
    error.reason = "SSLV3_ALERT_HANDSHAKE_FAILURE"
    return error


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ws://h/", ValueError("x")),
        ("ws://h/", TimeoutError("late")),
        ("wss://h/", zcws.HandshakeError("x")),
        ("ws://h/", OSError(errno.ENETUNREACH, "x")),
        ("wss://h/", other_than_plain()),
    ],
)
def test_where_nothing_can_be_advised(url: str, error: Exception) -> None:
    assert unreachable(url, error) == f"cannot connect to {url}: {error}"


def test_nothing_to_say() -> None:
    assert unreachable("ws://h/", OSError()) == "cannot connect to ws://h/: OSError"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[int]:
    """A port with TLS whose authority nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with zcws.sync.serve(print, "127.0.0.1", 0, ssl=context) as server, raw.thread(server.serve_forever):
        yield server.sock.getsockname()[1]
        server.shutdown()


def refused(url: str) -> str:
    done = run("connect", url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    return done.stderr


def test_a_certificate_that_is_not_trusted(secure: int) -> None:
    said = refused(f"wss://127.0.0.1:{secure}/")
    assert "its certificate is not trusted (" in said
    assert said.endswith("); --ca FILE trusts another authority, --insecure everybody\n")


def test_tls_is_wanted(secure: int) -> None:
    assert refused(f"ws://127.0.0.1:{secure}/").endswith(f"; with TLS it is wss://127.0.0.1:{secure}/\n")


def test_tls_is_not_spoken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            with listener.accept()[0] as sock:
                sock.recv(1)
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.recv(1000)

        with raw.thread(answer):
            said = refused(f"wss://127.0.0.1:{port}/")
    assert said == (
        f"zcws: cannot connect to wss://127.0.0.1:{port}/: it does not speak TLS; "
        f"without TLS it is ws://127.0.0.1:{port}/\n"
    )


@pytest.mark.parametrize("command", ["connect", "bench"])
def test_a_host_that_is_no_name(command: str) -> None:
    done = run(command, f"ws://{'a' * 64}/")
    assert done.stderr.endswith("argument url: the host of a WebSocket URI is missing or not a host name\n")


@pytest.mark.parametrize("command", ["connect", "bench"])
def test_nothing_listens(command: str) -> None:
    done = run(command, "ws://127.0.0.1:1/")
    assert done.stderr == (
        "zcws: cannot connect to ws://127.0.0.1:1/: connection refused; "
        "nothing listens there: is the server running, and is this its port?\n"
    )
