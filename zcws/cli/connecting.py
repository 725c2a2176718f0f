"""`zcws connect`: a person, or a pipe, on one end of a connection.

The connection lives on an event loop in a thread of its own; the main thread reads lines, since that is where
readline and Ctrl-C are at home. When the connection ends first, the main thread is waiting for a line that nobody wants
any more: it is interrupted as by Ctrl-C. On Windows nothing interrupts it: the other thread ends the process.

    stdin is         a line is                               its end means
    a terminal       a message, or a command: /ping, ...     close with 1000
    anything else    a message, whatever it begins with      close when nothing has come for --linger seconds

Exit codes: 0 the connection ended well (1000, 1001, or we closed it); 1 it was never opened; 3 it was lost, or closed
with another code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import zcws
from zcws.cli.common import (
    Failure,
    add_client_options,
    client_options,
    seconds_or_none_at_all,
    whole,
)
from zcws.cli.reasons import unreachable
from zcws.cli.terminal import Terminal, Unwritable, as_hex, harmless, say_on_stderr, writing
from zcws.connection import MAX_SIZE
from zcws.errors import printable
from zcws.uri import parse_uri

__all__ = ["add"]

#: Exit code: the connection was open, and ended badly.
ENDED_BADLY = 3

PROMPT = "> "

HELP = "/ping [text], /hex 00 ff ..., /close [code [reason]], /help; // begins a message with a slash"


def add(commands: Any) -> None:
    """Adds the command and its options."""
    connect = commands.add_parser(
        "connect",
        help="talk to a server",
        description="Sends lines of standard input as messages, and prints messages as lines. On a terminal: "
        + HELP,
    )
    add_client_options(connect)
    connect.add_argument(
        "--linger",
        type=seconds_or_none_at_all,
        default=1.0,
        metavar="SECONDS",
        help="at the end of the input: wait that long for one more message (default: %(default)s)",
    )
    connect.add_argument(
        "--max-size",
        type=whole(sys.maxsize),
        default=MAX_SIZE,
        metavar="BYTES",
        help="the largest message to accept (default: %(default)s)",
    )
    connect.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Talks until one side ends the connection. Returns the exit code."""
    session = Session(options)
    session.start()
    options.has_begun = True
    try:
        if session.is_interactive:
            session.converse()
        else:
            session.pipe(options.linger)
    except KeyboardInterrupt:
        pass  # by a person, or because the connection has ended
    return session.finish()


class Session:
    """One connection, with its loop in a thread."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._terminal = Terminal()
        self.is_interactive: bool = sys.stdin is not None and sys.stdin.isatty() and self._terminal.is_live
        self._url = options.url
        self._options = {**client_options(options), "max_size": options.max_size}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._ready = threading.Event()
        self._ws: zcws.WebSocket | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._failure: str | None = None
        self._error: zcws.ConnectionClosed | None = None
        self._turn = threading.Lock()  # guards `_prompting`, `_is_over` and `_has_ended`
        self._prompting = False
        self._trouble: Failure | None = None  # what keeps us from reading, or from saying, anything more
        self._is_over = False  # nothing can be asked of the connection's loop any more
        self._has_ended = False
        self._leaving = False
        # A shell without job control ignores Ctrl-C for what it starts in the background, and so do we then.
        self._heeds_ctrl_c = self.is_interactive or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        self._is_ours = False  # we have sent the Close, whatever its code
        self._heard = time.monotonic()

    # ---- the thread with the connection ----

    def start(self) -> None:
        """Opens the connection.

        Raises:
            Failure: it cannot be opened.
        """
        signal.signal(signal.SIGINT, self._interrupt)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise Failure(self._failure)
        if self.is_interactive:
            self._terminal.say(f"connected to {parse_uri(self._url).shown}; {HELP}", "green")
        asked = self._options["subprotocols"]
        if asked and self.ws.subprotocol is None:
            # RFC 6455 4.1: the client decides whether to go on without one.
            self._warn(f"the server agreed to no subprotocol (asked for: {', '.join(asked)})")

    def _warn(self, sentence: str) -> None:
        """Tells a person on the terminal; a pipe gets it on stderr, not among the messages."""
        if self.is_interactive:
            self._terminal.say(f"! {sentence}", "red")
        else:
            say_on_stderr(sentence)

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._receiving = self._loop.create_task(self._receive())
        self._loop.run_until_complete(self._receiving)
        with self._turn:
            self._is_over = True
        self._loop.run_until_complete(_finish_others())
        self._loop.close()
        with self._turn:
            self._has_ended = True
            if sys.platform == "win32" and self._prompting:
                self._end_process()
        # Repeated: a signal that comes right before the main thread begins to wait for a key does not end that wait.
        while self._prompting and not self._leaving:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    async def _receive(self) -> None:
        try:
            self._ws = await zcws.connect(self._url, **self._options)
        except (OSError, ValueError, ImportError, asyncio.TimeoutError, zcws.ZcwsError) as error:
            self._failure = unreachable(self._url, error)
            return
        finally:
            self._ready.set()
        try:
            while True:
                self._show(await self._ws.recv())
        except zcws.ConnectionClosed as error:
            self._error = error
        except Unwritable as error:
            self._trouble = error
            await self._ws.close()
        await self._ws.wait_closed()

    def _show(self, message: str | bytes) -> None:
        if not self.is_interactive:
            self._terminal.message(message)
            self._heard = time.monotonic()  # not before: whoever reads the pipe may be slow
            return
        # Lines after the first are indented, so that no line of the peer's looks like one of ours.
        shown = as_hex(message) if isinstance(message, bytes) else harmless(message).replace("\n", "\n  ")
        self._above_prompt(f"< {shown}", "magenta" if isinstance(message, bytes) else "cyan")

    def _above_prompt(self, text: str, style: str) -> None:
        """Prints a line above the one that is being typed, which is drawn again."""
        with writing():
            if self._prompting:
                # Up to its first row; to the first column; erase to the end of the screen.
                sys.stdout.write("\x1b[A" * (len(being_typed()) // columns()) + "\r\x1b[J")
            self._terminal.say(text, style)
            if self._prompting:
                line = being_typed()
                # Behind a full row, where the cursor may stay, to the next one, as readline does.
                sys.stdout.write(line + ("" if len(line) % columns() else " \r"))
                sys.stdout.flush()

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs `coroutine` on the connection's loop.

        Raises: what the coroutine raises; KeyboardInterrupt, as for Ctrl-C, if that loop takes no more.
        """
        with self._turn:
            if self._is_over:
                coroutine.close()
                raise KeyboardInterrupt
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    # ---- the main thread ----

    @property
    def ws(self) -> zcws.WebSocket:
        """The open connection."""
        assert self._ws is not None
        return self._ws

    def converse(self) -> None:
        """Reads lines from a person."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  history and editing, for `input`
        while True:
            try:
                line = self._ask()
                self._obey(line)
            except EOFError:
                return
            except ValueError as error:
                self._warn(str(error))
            except zcws.ConnectionClosed:
                return

    def _interrupt(self, _number: int, _frame: object) -> None:
        """Handles Ctrl-C, or the end of the connection, which counts once, however often its signal was sent."""
        if self._prompting if self._has_ended else self._heeds_ctrl_c:
            self._prompting = False
            raise KeyboardInterrupt

    def _ask(self) -> str:
        self._begin_waiting()
        try:
            return input(PROMPT)
        except (EOFError, KeyboardInterrupt):
            self._terminal.say("")  # what is said next does not belong to that line
            raise
        finally:
            self._stop_waiting()

    def _begin_waiting(self) -> None:
        """From here on the end of the connection interrupts us."""
        with self._turn:
            if self._has_ended:
                raise EOFError
            self._prompting = True

    def _stop_waiting(self) -> None:
        with self._turn:
            self._prompting = False

    def _obey(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command: Callable[[str], None] | None = {
            "/ping": self._ping,
            "/close": self._close,
            "/help": lambda _: self._terminal.say(HELP),
            "/hex": lambda digits: self._do(self.ws.send(from_hex(digits))),
        }.get(name)
        if command is not None:
            command(rest.strip())
        elif line.startswith("/") and not line.startswith("//"):
            raise ValueError(f"there is no {name}: {HELP}")
        elif line:
            self._do(self.ws.send(line[1:] if line.startswith("//") else line))

    def _ping(self, text: str) -> None:
        async def ping() -> float:
            return float(await (await self.ws.ping(text or None)))

        self._terminal.say(f"pong after {self._do(ping()) * 1000:.2f} ms", "yellow")

    def _close(self, rest: str) -> None:
        code, _, reason = rest.partition(" ")
        if code and not (code.isascii() and code.isdigit()):
            raise ValueError(f"a close code is a number, not {code!r}: /close [code [reason]]")
        self._do(self.ws.close(int(code or 1000), reason))
        self._is_ours = True
        raise EOFError

    def pipe(self, linger: float) -> None:
        """Sends what is piped in, line by line."""
        with contextlib.suppress(EOFError, zcws.ConnectionClosed):
            self._begin_waiting()
            try:
                for number, line in enumerate(sys.stdin or (), 1):
                    self._send_line(number, line.rstrip("\n"))
            except Failure as failure:
                self._trouble = failure
            except (OSError, UnicodeError) as error:
                # UnicodeError: what a person types while the output is piped, in the terminal's encoding.
                self._trouble = Failure(f"cannot read what is piped in: {error}")
        self._stop_waiting()
        self._do(self._linger(linger))

    def _send_line(self, number: int, line: str) -> None:
        try:
            self._do(self.ws.send(line))
        except UnicodeError:
            raise Failure(f"what is piped in is not UTF-8: line {number}") from None

    async def _linger(self, seconds: float) -> None:
        """Waits until nothing has arrived for so long. On the connection's loop, where nothing is overlooked: a message
        that is being written to a slow reader of ours holds it up."""
        assert self._receiving is not None
        self._heard = time.monotonic()
        while not self._receiving.done() and (rest := self._heard + seconds - time.monotonic()) > 0:
            await asyncio.wait([self._receiving], timeout=rest)

    def finish(self) -> int:
        """Closes what is still open, then does what `_conclude` does."""
        self._leaving = True
        self._stop_waiting()
        with contextlib.suppress(KeyboardInterrupt, RuntimeError, zcws.ConnectionClosed):
            self._do(self.ws.close())
        self._thread.join()
        return self._conclude()

    def _end_process(self) -> None:
        """Ends the process in place of the main thread."""
        try:
            if self.is_interactive:
                self._terminal.say("")  # as `_ask` does
            code = self._conclude()
        except Failure as error:
            say_on_stderr(str(error))
            code = 1
        # What is still in a buffer by now could not be written: each message is flushed by itself.
        os._exit(code)

    def _how_it_ended(self, *, is_well: bool) -> str:
        """How the connection ended, and whose fault that was, unless it was the peer's Close."""
        error = self._error
        is_limit = isinstance(error, zcws.LimitExceeded)
        if error is not None and not is_well and not is_limit and error.by != "peer":
            return printable(str(error))
        code, reason = self.ws.close_code, self.ws.close_reason
        words = f"closed with {code}" + (f" ({printable(reason)})" if reason else "")
        return f"{words}; here --max-size is {self._options['max_size']}" if is_limit else words

    def _conclude(self) -> int:
        """Says how it ended."""
        if self._trouble is not None:
            raise self._trouble
        is_well = self._is_ours or self._error is None or isinstance(self._error, zcws.ConnectionClosedOK)
        words = self._how_it_ended(is_well=is_well)
        if self.is_interactive:
            self._terminal.say(words, "green")
        if not is_well and not self.is_interactive:
            self._warn(words)
        return 0 if is_well else ENDED_BADLY


async def _finish_others() -> None:
    """Waits for the coroutines that `_do` handed over before `_is_over` was set."""
    await asyncio.sleep(0)  # those that come from another thread become tasks here
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # and hand their results over here


def from_hex(digits: str) -> bytes:
    """The bytes of a `/hex`."""
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise ValueError(f"two hexadecimal digits are a byte, as in /hex 00 ff; not {digits!r}") from None


def being_typed() -> str:
    """The prompt, and what a person has typed so far. The cursor is taken to be at its end."""
    try:
        import readline
    except ImportError:
        return PROMPT
    return PROMPT + readline.get_line_buffer()


def columns() -> int:
    """How many characters a row of the terminal has; 80 if it does not know, as readline takes it."""
    return os.get_terminal_size(sys.stdout.fileno()).columns or 80
