"""What the commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from served import zcws

from zcws.cli.common import Failure, add_client_options, authority, client_options, port


def told(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_client_options(parser)
    return parser.parse_args(arguments)


def test_addresses() -> None:
    assert authority("::1", 80) == "[::1]:80"
    assert authority("h", 80) == "h:80"
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
        "ssl": None,
    }
    assert client_options(told("wss://h/"))["ssl"].check_hostname
    assert not client_options(told("wss://h/", "--insecure"))["ssl"].check_hostname
    with pytest.raises(Failure, match="a header is NAME:VALUE"):
        client_options(told("ws://h/", "--header", "nothing"))


def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    done = zcws("connect", "wss://127.0.0.1:1/", "--ca", str(tmp_path / "missing.pem"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zcws: cannot use ") and done.stderr.count("\n") == 1
