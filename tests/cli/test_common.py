"""What the commands share."""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from served import zcws

from zcws.cli import main
from zcws.cli.common import (
    add_client_options,
    authority,
    client_options,
    port,
    seconds,
    seconds_or_none_at_all,
    whole,
)


def told(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_client_options(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command line that makes no sense is told. Here it takes 10 ms, as a process of its own 200."""

    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit, match=r"^2$"):
            main(arguments)
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return refused


def test_addresses() -> None:
    assert authority("::1", 80) == "[::1]:80"
    assert authority("h", 80) == "h:80"
    assert authority("", 80) == "0.0.0.0:80"
    assert [port("0"), port("65535")] == [0, 65535]
    for text in ("65536", "-1", "", "٣", "http"):
        with pytest.raises(argparse.ArgumentTypeError):
            port(text)


def test_options_of_a_client() -> None:
    options = client_options(
        told("ws://h/", "--header", "X-Y: a:b", "--subprotocol", "chat", "--compression")
    )
    assert options == {
        "additional_headers": [("X-Y", "a:b")],
        "subprotocols": ["chat"],
        "compression": "deflate",
        "http2": False,
        "ssl": None,
        "origin": None,
        "proxy": True,
        "open_timeout": 10,
    }
    assert client_options(told("wss://h/"))["ssl"].check_hostname
    assert client_options(told("wss://h/", "--http2"))["http2"]
    assert not client_options(told("wss://h/", "--insecure"))["ssl"].check_hostname
    more = client_options(
        told("ws://h/", "--origin", "https://a", "--proxy", "http://p:1", "--timeout", "0.5")
    )
    assert (more["origin"], more["proxy"], more["open_timeout"]) == ("https://a", "http://p:1", 0.5)
    assert client_options(told("ws://h/", "--no-proxy"))["proxy"] is None


@pytest.mark.parametrize("command", ["connect", "bench"])
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--header", "Bad", "a header is NAME:VALUE, not 'Bad'"),
        ("--header", "no token: a", "a header's name must be a token (RFC 9110 5.1), not 'no token'"),
        (
            "--header",
            "X: a\nb",
            "the value of the header 'X' must not hold CR, LF, NUL or other control characters",
        ),
        (
            "--header",
            "Upgrade: x",
            "Upgrade is for the handshake itself; --subprotocol and --compression say",
        ),
        ("--origin", "a\nb", "the value of the header 'Origin' must not hold CR, LF, NUL or other"),
        ("--proxy", "foo://h", "this has a scheme that is no proxy's: expected one of http, https, "),
        ("--proxy", "http://a:secret@h:x", "the port of the proxy in this "),
    ],
)
def test_options_that_make_no_sense(
    complaint: Callable[..., str], command: str, option: str, value: str, said: str
) -> None:
    """They were failures, with 1, as if the server might have been another time."""
    printed = complaint(command, "ws://127.0.0.1:1/", option, value)
    assert f": error: argument {option}: {said}" in printed
    assert "secret" not in printed


def test_two_origins(complaint: Callable[..., str]) -> None:
    printed = complaint("connect", "ws://127.0.0.1:1/", "--header", "origin: a", "--origin", "b")
    assert printed.endswith(": error: argument --origin: not allowed with a --header that is an Origin\n")


@pytest.mark.parametrize("command", ["connect", "bench", "trace"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h/a", "the scheme of a WebSocket URI must be ws or wss, not http; is it ws://h/a?"),
        ("https://h/a", "the scheme of a WebSocket URI must be ws or wss, not https; is it wss://h/a?"),
        # What is said goes to logs.
        (
            "https://me:secret@h/a?t=1",
            "the scheme of a WebSocket URI must be ws or wss, not https; is it wss://h/a?",
        ),
        ("me:pass@h", "not a URI with a host: expected ws://host[:port]/path or wss://...; is it ws://h?"),
        ("ftp://h/", "the scheme of a WebSocket URI must be ws or wss, not ftp"),
        ("h:80/a", "not a URI with a host: expected ws://host[:port]/path or wss://...; is it ws://h:80/a?"),
        ("ws:/h", "not a URI with a host: expected ws://host[:port]/path or wss://..."),
        ("ws://h:x/", "the port of a WebSocket URI must be 1 to 65535"),
        ("ws://no such host/", "a URI must not hold white space, control characters or backslashes"),
    ],
)
def test_addresses_that_are_none_of_a_websocket(
    complaint: Callable[..., str], command: str, url: str, said: str
) -> None:
    """They were failures, too."""
    assert complaint(command, url).endswith(f": error: argument url: {said}\n")


@pytest.mark.parametrize("command", ["connect", "bench"])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a b"], "a subprotocol must be a token (RFC 6455 4.1), not 'a b'"),
        (["a", "a"], "the subprotocol 'a' was given twice (RFC 6455 4.1)"),
    ],
)
def test_subprotocols_that_are_none(
    complaint: Callable[..., str], command: str, names: list[str], said: str
) -> None:
    printed = complaint(command, "ws://127.0.0.1:1/", *(f"--subprotocol={name}" for name in names))
    assert printed.endswith(f": error: argument --subprotocol: {said}\n")


def test_numbers() -> None:
    assert [seconds_or_none_at_all(text) for text in ("0", "0.5")] == [0, 0.5]
    assert (whole(9)("9"), whole(9)("007"), port("65535"), seconds("2e6")) == (9, 7, 65535, 2e6)
    for text in ("-1", "x", "nan", "inf", "2000001", "1e400", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"of seconds from 0 to 2000000, not '{text}'"):
            seconds_or_none_at_all(text)
    for text in ("0", "-1", "x", "1.5", "٣", "10", "nan", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"a number from 1 to 9, not '{text}'"):
            whole(9)(text)
    for text in ("0", "-1", "x", "nan", "inf", "2000001", "1e400", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"over 0, 2000000 at most, not '{text}'"):
            seconds(text)


@pytest.mark.parametrize("read", [whole(9), port, seconds, seconds_or_none_at_all])
def test_a_number_that_goes_on_and_on(read: Callable[[str], object]) -> None:
    """What Python does not read as an int was told with all of its digits, and without what is allowed."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"a number .*, not '9{40}\.\.\.'$"):
        read("9" * 5000)


@pytest.mark.parametrize(
    "words",
    [
        "bench URL --connections",
        "bench URL --depth",
        "bench URL --size",
        "bench URL --duration",
        "bench URL --timeout",
        "connect URL --linger",
        "connect URL --timeout",
        "connect URL --max-size",
        "trace URL --listen",
        "serve --echo --port",
        "serve --echo --port 0 --workers",
        "serve --echo --port 0 --drain",
    ],
)
def test_every_option_that_is_a_number_refuses_what_is_absurd(
    words: str, complaint: Callable[..., str]
) -> None:
    """`--connections` and `--workers` went on for ever, and the others did something else."""
    option = words.split()[-1]
    for text in ("-1", "nan", "inf", "1e400", str(10**23), ""):
        said = complaint(*words.replace("URL", "ws://127.0.0.1:1/").split(), text)
        assert re.search(rf"error: argument {option}: .*number.*\d.*, not '{text}'\n$", said), said


@pytest.mark.parametrize("command", ["connect", "bench", "trace"])
def test_an_authority_where_nothing_is_signed(complaint: Callable[..., str], command: str) -> None:
    """It was ignored, and whoever gave it believed that it was checked."""
    said = complaint(command, "ws://127.0.0.1:1/", "--ca", "missing.pem")
    assert said.endswith("error: --ca is for wss://: over ws:// there is no certificate to check\n")


def test_a_scheme_in_capitals_is_secure_too(tmp_path: Path) -> None:
    done = zcws("connect", "WSS://127.0.0.1:1/", "--ca", str(tmp_path / "missing.pem"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zcws: cannot use ")


def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    done = zcws("connect", "wss://127.0.0.1:1/", "--ca", str(tmp_path / "missing.pem"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zcws: cannot use ") and done.stderr.count("\n") == 1


def test_a_key_that_is_encrypted(tmp_path: Path) -> None:
    """OpenSSL asked for the pass phrase, where nobody is: a worker waited for ever."""
    leaf = trustme.CA().issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(certificate)
    encoded = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    key.write_bytes(encoded)
    options = [f"--ssl-cert={certificate}", f"--ssl-key={key}"]
    sentence = (
        f"zcws: the key in {key} is encrypted, and nobody is here to ask: openssl pkey -in {key} decrypts it"
    )
    for workers in ([], ["--workers=1"]) if hasattr(socket, "SO_REUSEPORT") else ([],):
        command = [sys.executable, "-m", "zcws", "serve", "--echo", "--port=0", *options, *workers]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines()[0] == sentence
