"""How a failure on the way to a server is told, by both drivers."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import socket
import ssl

import pytest

from zcws.errors import ProxyError
from zcws.failures import (
    cannot_connect,
    no_tls,
    reason_of,
    said,
    socks_errors,
    timed_out,
    unknown_host,
    unreachable,
    with_path,
)
from zcws.proxy import choose_proxy, parse_proxy
from zcws.uri import parse_uri


class TestErrors:
    def test_the_extra_is_named(self) -> None:
        with pytest.raises(ImportError, match=r"^proxy= names a socks5h proxy.*zcws\[proxy\]") as caught:
            with socks_errors(parse_proxy("socks5h://u:5ecret@p"), "h"):
                raise ModuleNotFoundError("python_socks")
        assert "5ecret" not in str(caught.value)

    def test_what_others_quote_is_not_repeated(self) -> None:
        with pytest.raises(ProxyError) as caught:
            with socks_errors(parse_proxy("socks5h://u:5ecret@p"), "h"):
                raise UnicodeEncodeError("ascii", "5ecret", 0, 1, "no")
        assert str(caught.value) == "the proxy socks5h://p:1080 did not connect: UnicodeEncodeError"
        assert not caught.value.is_temporary

    def test_which_failures_of_socks_may_pass(self) -> None:
        class Refused(Exception):
            error_code: int

        for code in (1, 2, 5, 7):
            error = Refused()
            error.error_code = code
            with pytest.raises(ProxyError) as caught, socks_errors(parse_proxy("socks5://p"), "h"):
                raise error
            assert caught.value.is_temporary == (code in (1, 5))
        with pytest.raises(ProxyError) as caught, socks_errors(parse_proxy("socks5://p"), "h"):
            raise Refused from type("IncompleteReadError", (Exception,), {})()
        assert caught.value.is_temporary

    def test_a_proxy_that_ends_the_tls_handshake(self) -> None:
        error = unreachable(parse_proxy("https://p"), ConnectionResetError())
        assert "does the proxy https://p:443 speak TLS? If not, write http://. Or does it want" in str(error)

    def test_a_proxy_that_is_not_there(self) -> None:
        error = unreachable(
            parse_proxy("http://u:5ecret@p:1"), ConnectionRefusedError(errno.ECONNREFUSED, "('127.0.0.1', 1)")
        )
        assert isinstance(error, ConnectionRefusedError)
        assert error.errno == errno.ECONNREFUSED
        assert error.strerror == f"cannot connect to the proxy http://p:1: {said(errno.ECONNREFUSED)}"
        with pytest.raises(ConnectionRefusedError, match="cannot connect to the proxy socks5://p:1080: "):
            with socks_errors(parse_proxy("socks5://u:5ecret@p"), "h"):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        late = TimeoutError()
        assert unreachable(parse_proxy("p"), late) is late

    def test_a_server_that_the_proxy_does_not_resolve(self) -> None:
        with (
            pytest.raises(socket.gaierror, match=r"unknown: h$"),
            socks_errors(parse_proxy("socks5://p"), "h"),
        ):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

    def test_a_proxy_of_the_environment_that_is_not_there(self) -> None:
        """A program that names no proxy learns who did."""
        proxy = choose_proxy({"http": "http://u:5ecret@p:1"}, secure=False)
        assert proxy is not None
        hint = "; http_proxy, from the environment or the system's settings, names it, and proxy=None goes without"
        error = unreachable(proxy, ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
        assert str(error).endswith(f"the proxy http://p:1: {said(errno.ECONNREFUSED)}{hint}")
        assert str(timed_out([parse_uri("ws://a/")], 2, proxy)).endswith(f"in open_timeout=2 seconds{hint}")

    def test_what_the_system_says(self) -> None:
        """On Windows `os.strerror` called everything that may happen to a socket an "Unknown error"."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            with socket.socket() as sock, pytest.raises(ConnectionRefusedError) as caught:
                sock.connect(nobody.getsockname())
        code = caught.value.errno
        assert code is not None and said(code) == caught.value.strerror == reason_of(caught.value)
        assert said(errno.ENOENT) == os.strerror(errno.ENOENT)

    def test_an_error_that_windows_has_numbered(self) -> None:
        class WindowsError(OSError):
            winerror = 1225

        error = WindowsError(errno.EINVAL, "The remote computer refused the network connection")
        assert reason_of(error) == "The remote computer refused the network connection"

    def test_a_name_that_is_not_known(self) -> None:
        error = unknown_host("a.invalid", socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        assert str(error).endswith("Name or service not known: a.invalid")
        there = unreachable(parse_proxy("a.invalid"), error)
        assert str(there).endswith("proxy http://a.invalid:80: Name or service not known: a.invalid")

    def test_a_server_that_does_not_answer(self) -> None:
        text = "ws://a/ has not answered the opening handshake in open_timeout=2.5 seconds"
        assert str(timed_out([parse_uri("ws://a/")], 2.5)) == text

    def test_a_server_to_which_another_redirects(self) -> None:
        uris = [parse_uri(f"ws://{host}/") for host in "abc"]
        text = "ws://c/ has not answered the opening handshake in open_timeout=2 seconds; ws://a/ redirects there"
        assert str(timed_out(uris, 2)) == text

    def test_a_proxy_that_perhaps_does_not_answer(self) -> None:
        text = "ws://a/ has not answered the opening handshake through the proxy http://p:80 in open_timeout=2 seconds"
        assert str(timed_out([parse_uri("ws://a/")], 2, parse_proxy("u:5ecret@p"))) == text

    @pytest.mark.parametrize(
        ("error", "hinted"),
        [
            (ConnectionResetError(), True),
            (ConnectionResetError(errno.ECONNRESET, said(errno.ECONNRESET)), True),
            (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), True),
            (ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF)"), True),
            (ConnectionResetError("explained"), False),
            (ConnectionResetError(errno.ECONNRESET, "explained already"), False),
            (ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)), False),
            (ssl.SSLError(1, "another"), False),
            (OSError(errno.ENOENT, os.strerror(errno.ENOENT)), False),
        ],
    )
    def test_who_seems_to_speak_no_tls(self, error: OSError, hinted: bool) -> None:
        """What OpenSSL says of an answer that is no TLS: tests/aio/test_reach.py."""
        found = no_tls("wss://a/", "ws://", error)
        assert (found is error) != hinted
        if hinted:
            assert isinstance(found, ConnectionResetError)
            hint = "does wss://a/ speak TLS? If not, write ws://. Or does it want a certificate of yours?"
            assert str(found).endswith(hint)

    def test_an_answer_that_is_no_tls(self) -> None:
        error = ssl.SSLError(1, "wrong version number")
        error.reason = "WRONG_VERSION_NUMBER"  # where OpenSSL raises it, it has one
        hint = "does the proxy https://p:443 speak TLS? If not, write http://"
        assert unreachable(parse_proxy("https://p"), error) is error
        assert error.strerror == f"wrong version number; {hint}"
        assert no_tls("wss://a/", "ws://", error) is error  # that was the proxy, and has been said
        assert str(error) == str(pickle.loads(pickle.dumps(error))) == f"wrong version number; {hint}"

    @pytest.mark.parametrize(
        ("code", "hint"),
        [
            (18, '; proxy_ssl="authority.pem" trusts the certificates in that file'),
            (20, '; proxy_ssl="authority.pem" trusts the certificates in that file'),
            (62, "; proxy_server_hostname= is the name to check, if it is another"),
            (10, ""),  # out of date
            (None, ""),
        ],
    )
    def test_no_trust(self, code: int | None, hint: str) -> None:
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        if code is not None:
            error.verify_code = code  # where OpenSSL raises it, it has one
        text = "certificate verify failed; the certificate is that of "
        assert (
            no_tls("wss://a/", "ws://", copy.copy(error)).strerror
            == f"{text}wss://a/{hint.replace('proxy_', '')}"
        )
        assert no_tls("wss://a/", "ws://", copy.copy(error), None).strerror == f"{text}wss://a/"
        assert unreachable(parse_proxy("https://p"), error) is error
        assert error.strerror == f"{text}the proxy https://p:443{hint}"
        assert no_tls("wss://a/", "ws://", error) is error  # that was the proxy, and has been said
        assert str(error) == str(pickle.loads(pickle.dumps(error))) == f"{text}the proxy https://p:443{hint}"

    def test_nobody_there(self) -> None:
        refused, no_route = said(errno.ECONNREFUSED), said(errno.EHOSTUNREACH)
        failures = [
            (("::1", 1, 0, 0), OSError(errno.ECONNREFUSED, "Connect call failed")),
            (("127.0.0.1", 1), OSError(errno.EHOSTUNREACH, "")),
        ]
        error = cannot_connect(failures)
        assert isinstance(error, ConnectionRefusedError)
        assert error.strerror == f"cannot connect to [::1]:1: {refused}; 127.0.0.1:1: {no_route}"
        assert str(cannot_connect(failures, ("::1", 0))).startswith(
            f"[Errno {errno.ECONNREFUSED}] cannot connect from [::1] to [::1]:1: "
        )

    def test_several_addresses_that_all_fail(self) -> None:
        assert str(unreachable(parse_proxy("p"), OSError("several"))).endswith("proxy http://p:80: several")


@pytest.mark.parametrize(
    ("error", "number", "words"),
    [
        (OSError(errno.ENOENT, "No such file or directory"), errno.ENOENT, "No such file or directory: '/a'"),
        (
            OSError(errno.EADDRINUSE, "Address '/a' is already in use"),
            errno.EADDRINUSE,
            "'/a' is already in use",
        ),
        (OSError("AF_UNIX path too long"), errno.ENAMETOOLONG, "AF_UNIX path too long: '/a'"),
    ],
)
def test_a_failure_names_the_unix_socket_once(error: OSError, number: int, words: str) -> None:
    named = with_path(error, "/a")
    assert named.errno == number and str(named).endswith(words) and str(named).count("/a") == 1
