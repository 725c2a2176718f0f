"""The command line: `python -m zcws` or `zcws`.

Exit codes: 0 when it was done, or stopped by Ctrl-C after it had begun; 1 when it could not be done, with one sentence
that says why; 2 for a command line that makes no sense (argparse); 3 when a connection was open and ended badly; 130
after Ctrl-C before it had begun.

The compiled core is imported when a command first needs it, so that an error there (a ZCWS_KERNEL that does not exist)
is reported in one sentence too: `import zcws` alone does not import it, and `main` imports the commands.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import zcws
from zcws.cli.common import Failure
from zcws.cli.terminal import Unwritable, say, say_on_stderr, speak_utf_8, writing

__all__ = ["main"]


#: Exit code, as of a shell whose command SIGINT has ended.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = argparse.Namespace(has_begun=False)  # a command says so when it has something to end
    try:
        speak_utf_8()
        _, unknown = _parser().parse_known_args(arguments, options)
        if unknown:
            # With the usage of this command; `parse_args` would show that of `zcws`, which lists none of its options.
            options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return int(options.run(options) or 0)
    except (Failure, ImportError) as error:
        if isinstance(error, Unwritable):
            sys.stdout = open(os.devnull, "w")  # Python would complain again when it flushes at exit
        say_on_stderr(str(error))
        return 1
    except KeyboardInterrupt:
        return 0 if options.has_begun else INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """A parser that says so when the version, or the help, cannot be written."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is None or file is not sys.stdout:
            super()._print_message(message, file)
            return
        with writing():
            file.write(message)
            file.flush()


def _parser() -> argparse.ArgumentParser:
    from zcws.cli import bench, connecting, serving, trace

    parser = _Parser(prog="zcws", description="WebSocket: talk, serve, measure, look inside.")
    parser.add_argument("--version", action="version", version=f"zcws {zcws.__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    for command in (connecting, serving, bench, trace):
        command.add(commands)
    info = commands.add_parser("info", help="say what is installed", description="Says what is installed.")
    info.set_defaults(run=_info, parser=info)
    return parser


def _info(_options: argparse.Namespace) -> None:
    from zcws.cli import info

    say(info.report())
