"""What a person sees: colours where there is a terminal and rich, plain lines everywhere else.

What a peer sends is not trusted with the terminal: its control characters are shown there, not obeyed. A pipe gets the
text as it is.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import Any

from zcws.cli.common import Failure

__all__ = ["Terminal", "Unwritable", "as_hex", "harmless", "say", "say_on_stderr", "speak_utf_8", "writing"]

#: Bytes of a binary message that are shown: a screen's line or two. A pipe gets them all.
SHOWN = 64

controls = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Text without characters that move the cursor, change colours or the direction of writing, or end a line."""
    return controls.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_hex(data: bytes, most: int | None = SHOWN) -> str:
    """Bytes in hexadecimal, the first `most` of them."""
    if most is None or len(data) <= most:
        return data.hex(" ")
    return f"{data[:most].hex(' ')} ... {len(data)} bytes"


def speak_utf_8() -> None:
    """Makes a pipe or a file UTF-8, as text is on the wire. By default Windows writes and reads it in a code page,
    which lacks most letters; other systems use the locale's encoding, which may be ASCII or Latin-1. What is not UTF-8
    is read as lone surrogates, which cannot be sent: it is decoded in blocks, and an error would take good lines along.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "strict")):
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors=errors)


class Unwritable(Failure):
    """Standard output takes nothing more."""


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """A context for code that writes to standard output, and does nothing else that the system could refuse.

    Raises:
        Unwritable: the disk is full, nobody reads the pipe any more, the encoding lacks a letter.
    """
    try:
        yield
    except BrokenPipeError:
        raise Unwritable("cannot write: nobody reads the output any more") from None
    except (OSError, UnicodeError) as error:
        raise Unwritable(f"cannot write: {error}") from None


def say(text: str) -> None:
    """Lines on standard output, at once; raises as `writing`."""
    with writing():
        print(text, flush=True)


def say_on_stderr(sentence: str) -> None:
    """One line on standard error, at once. If standard error is closed, or takes nothing more, nobody can be told."""
    if sys.stderr is not None:  # to `print`, None is standard output
        with contextlib.suppress(OSError):
            print(f"zcws: {sentence}", file=sys.stderr, flush=True)


class Terminal:
    """Standard output. Whatever is said raises as `writing` does.

    Attributes:
        is_live: whether a person looks at it.
    """

    def __init__(self, *, wants_colour: bool = True) -> None:
        self.is_live: bool = sys.stdout is not None and sys.stdout.isatty()
        self.console: Any = None
        if self.is_live and wants_colour:
            try:
                from rich.console import Console
            except ImportError:
                return  # it comes with the extra `cli`
            self.console = Console(highlight=False, emoji=False)

    def say(self, text: str, style: str = "") -> None:
        """One line, at once."""
        if self.console is None:
            say(text)
            return
        with writing():
            self.console.print(text, style=style or None, markup=False, soft_wrap=True)

    def message(self, message: str | bytes, style: str = "") -> None:
        """One message: text as it is, binary in hexadecimal."""
        if isinstance(message, bytes):
            self.say(as_hex(message, SHOWN if self.is_live else None), style or "magenta")
        else:
            self.say(harmless(message) if self.is_live else message, style)
