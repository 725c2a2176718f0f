"""What a person sees, and what a pipe gets."""

from __future__ import annotations

import pytest

from zcws.cli.terminal import Terminal, as_hex, printable


def test_nothing_a_peer_sends_moves_the_cursor() -> None:
    assert printable("a\x1b[2Jb\r\x9b\u202ec") == "a\\u001b[2Jb\\u000d\\u009b\\u202ec"
    assert printable("tab\tand\nline, grüße") == "tab\tand\nline, grüße"


def test_bytes() -> None:
    assert as_hex(b"\x00\xff") == "00 ff"
    assert as_hex(b"x" * 100, 2) == "78 78 ... 100 bytes"
    assert as_hex(b"x" * 100, None) == " ".join(["78"] * 100)


def test_a_pipe_gets_everything_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.message("\x1b[1mtext", "red")
    terminal.message(b"x" * 100)
    assert capsys.readouterr().out == "\x1b[1mtext\n" + " ".join(["78"] * 100) + "\n"
