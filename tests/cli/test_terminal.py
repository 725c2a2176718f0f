"""What a person sees, and what a pipe gets."""

from __future__ import annotations

import io
import re
import sys

import pytest

from zcws.cli.terminal import Terminal, Unwritable, as_hex, harmless, say, say_on_stderr, writing


def test_nothing_a_peer_sends_moves_the_cursor() -> None:
    assert harmless("a\x1b[2Jb\r\x9b\u202ec") == "a\\u001b[2Jb\\u000d\\u009b\\u202ec"
    assert harmless("\u061c\u2028\u2029") == "\\u061c\\u2028\\u2029"
    assert harmless("tab\tand\nline, grüße") == "tab\tand\nline, grüße"


def test_bytes() -> None:
    assert as_hex(b"\x00\xff") == "00 ff"
    assert as_hex(b"xx", 2) == "78 78"
    assert as_hex(b"x" * 100, 2) == "78 78 ... 100 bytes"
    assert as_hex(b"x" * 100, None) == " ".join(["78"] * 100)


def test_a_pipe_gets_everything_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.message("\x1b[1mtext", "red")
    terminal.message(b"x" * 100)
    assert capsys.readouterr().out == "\x1b[1mtext\n" + " ".join(["78"] * 100) + "\n"


def test_a_person_sees_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name between colons became a picture: `{"a:heart:b": 1}`."""
    pytest.importorskip("rich")
    output = io.StringIO()
    monkeypatch.setattr(output, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", output)
    terminal = Terminal()
    terminal.message('{"a:heart:b": "[red]"}')
    assert terminal.console is not None
    assert output.getvalue() == '{"a:heart:b": "[red]"}\n'


def seen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What somebody sees whose terminal has colours."""
    output = io.StringIO()
    monkeypatch.setattr(output, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", output)
    for name in ("NO_COLOR", "COLORTERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return output


def test_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    person = seen(monkeypatch)
    terminal = Terminal()
    terminal.say("plain")
    terminal.message("text", "red")
    for style in ("", "red"):
        terminal.message(b"x" * 65, style)
    shown = f"{as_hex(b'x' * 64)} ... 65 bytes"
    # Not where a colour ends, before the line's end or behind it: that depends on rich's version.
    coloured = re.findall(r"\x1b\[(3\d)m([^\x1b\n]+)", person.getvalue())
    assert coloured == [("31", "text"), ("35", shown), ("31", shown)]
    assert re.sub(r"\x1b\[\d+m", "", person.getvalue()) == f"plain\ntext\n{shown}\n{shown}\n"


@pytest.mark.parametrize("why", ["nobody wants them", "no rich"])
def test_no_colours(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    person = seen(monkeypatch)
    if why == "no rich":
        monkeypatch.setitem(sys.modules, "rich.console", None)
    terminal = Terminal(wants_colour=why == "no rich")
    assert terminal.is_live
    terminal.message("\x9btext", "red")
    assert person.getvalue() == "\\u009btext\n"


def test_no_output_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert not Terminal().is_live


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (BrokenPipeError(32, "Broken pipe"), "cannot write: nobody reads the output any more"),
        (OSError(28, "No space left on device"), "cannot write: [Errno 28] No space left on device"),
    ],
)
def test_what_cannot_be_written(error: OSError, sentence: str) -> None:
    with pytest.raises(Unwritable) as wrong, writing():
        raise error
    assert str(wrong.value) == sentence


def test_stderr_that_is_closed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`2>&-`: what should stand there stood among the messages on standard output."""
    monkeypatch.setattr(sys, "stderr", None)
    say_on_stderr("something is wrong")
    assert capsys.readouterr().out == ""


def test_an_encoding_without_these_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    for write in (say, Terminal().message):
        with pytest.raises(Unwritable, match=r"^cannot write: 'ascii' codec can't encode"):
            write("gr\xfc\xdfe")


def test_other_mistakes_are_not_of_the_output() -> None:
    with pytest.raises(KeyError), writing():
        raise KeyError("x")
