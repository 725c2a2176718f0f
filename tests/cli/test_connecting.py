"""`zcws connect` as a pipe and as a person meet it: real processes, a real terminal."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from net import port_of
from served import ENVIRONMENT, served
from served import zcws as command

import zcws

try:
    import fcntl
    import pty
    import termios
except ImportError:  # Windows: then there are pipes only
    pty = None  # type: ignore[assignment]

people = pytest.mark.skipif(pty is None, reason="no pseudo-terminals here")

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as server:
        yield f"ws://127.0.0.1:{server.port}/"


def piped(
    address: str, lines: str, *options: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "zcws", "connect", address, *options]
    return subprocess.run(
        arguments,
        input=lines,
        capture_output=True,
        encoding="utf-8",
        env={**ENVIRONMENT, **(env or {})},
        timeout=60,
        check=False,
    )


def begun(address: str, *options: str, shell: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The same, while it runs."""
    pipe = subprocess.PIPE
    arguments = [*shell, sys.executable, "-m", "zcws", "connect", address, *options]
    return subprocess.Popen(
        arguments, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", env=ENVIRONMENT
    )


def test_a_pipe(address: str) -> None:
    """UTF-8 everywhere: the code pages of Windows lack most letters, and 0x81, the second byte of one of these."""
    done = piped(address, "hello\n/ping is text here\n\ngrüße, Ángel\nno line end")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "hello\n/ping is text here\n\ngrüße, Ángel\nno line end\n"


def test_a_pipe_is_utf_8_in_a_locale_that_is_not(address: str) -> None:
    """It was called "not UTF-8" there."""
    environment = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "zcws", "connect", address],
        input="grüße €\n".encode(),
        capture_output=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, done.stderr, done.stdout.decode()) == (0, b"", "grüße €\n")


def against(handler: Callable[[zcws.WebSocket], Awaitable[None]], use: Callable[[str], Any]) -> Any:
    """What `use` makes of the address of a server with this handler."""

    async def main() -> Any:
        async with zcws.serve(handler, "127.0.0.1", 0, subprotocols=["chat"]) as server:
            return await asyncio.to_thread(use, f"ws://127.0.0.1:{port_of(server)}/")

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "returncode", "error"),
    [(1000, 0, ""), (1001, 0, ""), (4000, 3, "zcws: closed with 4000 (enough)\n")],
)
def test_the_exit_code_says_how_it_ended(code: int, returncode: int, error: str) -> None:
    """Even where the pipe has no end yet."""

    async def handler(ws: zcws.WebSocket) -> None:
        assert (ws.subprotocol, ws.request.headers["X-Y"]) == ("chat", "z")
        await ws.send(b"\x00\xff" * 50)
        await ws.close(code, "enough")

    def use(address: str) -> tuple[int, str, str]:
        with begun(address, "--subprotocol", "chat", "--header", "X-Y: z") as process:
            out, err = process.stdout.read(), process.stderr.read()
            return process.wait(60), out, err

    assert against(handler, use) == (returncode, " ".join(["00 ff"] * 50) + "\n", error)


def test_a_slow_reader_of_the_output_gets_all_of_it() -> None:
    """While a message was being written, the peer's silence was counted: the rest was dropped, with exit code 0."""

    async def handler(ws: zcws.WebSocket) -> None:
        for _ in range(200):
            await ws.send("x" * 20_000)
        await ws.wait_closed()

    def use(address: str) -> tuple[int, int]:
        with begun(address, "--linger", "0.5") as process:
            process.stdin.close()
            time.sleep(2)  # what it does before it reads takes longer than --linger
            lines = process.stdout.readlines()
            return process.wait(60), len(lines)

    assert against(handler, use) == (0, 200)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals to ignore")
def test_the_end_of_the_connection_in_the_background_of_a_script() -> None:
    """Where SIGINT is ignored. It stayed until the end of the input."""

    async def handler(ws: zcws.WebSocket) -> None:
        await ws.send("go on")
        await ws.recv()

    def use(address: str) -> int:
        with begun(address, shell=("sh", "-c", 'trap "" INT; exec "$@"', "sh")) as process:
            assert process.stdout.readline() == "go on\n"
            process.send_signal(signal.SIGINT)  # from a person, and not for us
            print("one", file=process.stdin, flush=True)
            return process.wait(60)

    assert against(handler, use) == 0


def test_what_the_client_says_of_itself() -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        await ws.send(ws.request.headers["Origin"])

    def use(address: str) -> subprocess.CompletedProcess[str]:
        return piped(address, "", "--origin", "https://example.com", "--no-proxy", "--timeout", "60")

    done = against(handler, use)
    assert (done.returncode, done.stdout, done.stderr) == (0, "https://example.com\n", "")


def test_a_proxy_that_is_not_there() -> None:
    done = piped("ws://127.0.0.1:1/", "", "--proxy", "http://127.0.0.1:2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "zcws: cannot connect to ws://127.0.0.1:1/: cannot connect to the proxy http://127.0.0.1:2: "
        "Connection refused; --no-proxy goes without it\n"
    )


def test_a_proxy_of_the_environment_that_is_not_there() -> None:
    """`proxy=None` is what a program would write."""
    done = piped("ws://127.0.0.1:1/", "", env={"ws_proxy": "http://127.0.0.1:2", "no_proxy": ""})
    assert done.stderr == (
        "zcws: cannot connect to ws://127.0.0.1:1/: cannot connect to the proxy http://127.0.0.1:2: "
        "Connection refused; ws_proxy, from the environment or the system's settings, names it; "
        "--no-proxy goes without it\n"
    )


def test_a_proxy_for_which_something_is_missing() -> None:
    """An ImportError left the thread with the connection, and its traceback was all that was said."""
    program = (
        "import sys; sys.modules['python_socks'] = None\n"
        "from zcws.cli import main; sys.exit(main(['connect', 'ws://127.0.0.1:1/', '--proxy', 'socks5h://h']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="",
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "zcws[proxy]" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_server_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = piped(f"ws://127.0.0.1:{listener.getsockname()[1]}/", "", "--timeout", "0.05")
    assert (done.returncode, done.stdout) == (1, "")
    assert "0.05 s" in done.stderr and done.stderr.count("\n") == 1


def test_a_message_over_what_is_accepted(address: str) -> None:
    done = piped(address, "hello\n", "--max-size", "4")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("zcws: closed with 1009 (")
    assert done.stderr.endswith("; here --max-size is 4\n")


def test_an_end_without_a_close_says_so() -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        ws.abort()

    done = against(handler, lambda address: piped(address, "hello\n"))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("zcws: the connection was lost: 1006 (abnormal closure)")


def test_a_subprotocol_that_was_not_agreed(address: str) -> None:
    done = piped(address, "hello", "--subprotocol", "chat", "--subprotocol", "superchat")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert done.stderr == "zcws: the server agreed to no subprotocol (asked for: chat, superchat)\n"


@pytest.mark.parametrize("address", ["ws://127.0.0.1:1/", "ws://no-such-host.invalid/"])
def test_what_cannot_be_connected(address: str) -> None:
    done = command("connect", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"zcws: cannot connect to {address}: ") and done.stderr.count("\n") == 1


class Person:
    """Somebody at a terminal."""

    def __init__(self, address: str, *options: str, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        arguments = [sys.executable, "-m", "zcws", "connect", address, *options]
        environment = {**ENVIRONMENT, "TERM": "xterm"}
        self.process = subprocess.Popen(
            arguments, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.screen = ""

    def type(self, line: str, end: str = "\n") -> None:
        os.write(self.master, (line + end).encode())

    def sees(self, pattern: str) -> None:
        """Waits until it is there, in whatever colour; pytest's own timeout is the end of it."""
        while not (found := re.search(pattern, self.screen)):
            try:
                data = os.read(self.master, 4096)
            except OSError:
                data = b""
            assert data, f"no {pattern!r} in {self.screen!r}"
            self.screen = COLOUR.sub("", self.screen + data.decode("utf-8", "replace"))
        self.screen = self.screen[found.end() :]

    def leaves(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            os.close(self.master)


@people
def test_a_person(address: str) -> None:
    person = Person(address)
    person.sees("connected to ws://")
    for line, answer in (
        ("hello", "< hello"),
        ("//slash", "< /slash"),
        ("/hex 00 ff", "< 00 ff"),
        ("/ping", r"pong after [0-9.]+ ms"),
        ("/hex zz", "! two hexadecimal digits are a byte, as in /hex 00 ff; not 'zz'"),
        ("/sing", r"! there is no /sing: /ping .* /help"),
        ("/help", r"[^ ]/ping \[text\], .*, /help; // begins a message"),
        ("/close 1006", "! "),
        ("/close x", "! a close code is a number"),
        ("/close ²", "! a close code is a number"),
        ("/close 4001 thank you", r"closed with 4001 \(thank you\)"),
    ):
        person.sees("> ")
        person.type(line)
        person.sees(answer)
    assert person.leaves() == 0


@people
def test_a_message_while_a_person_types_more_than_a_row() -> None:
    """Only its last row was erased: each message left one more copy. And what was said at the end stood behind it."""
    told = threading.Event()

    async def handler(ws: zcws.WebSocket) -> None:
        await asyncio.to_thread(told.wait)
        await ws.send("hello")
        await ws.close(4002, "enough")

    def use(address: str) -> int:
        person = Person(address, columns=20)
        person.sees("> ")
        person.type("0123456789abcdefghABCDEFGHIJ", end="")
        person.sees("J")
        told.set()
        person.sees(r"\x1b\[A\r\x1b\[J< hello\r\n> 0123456789abcdefghABCDEFGHIJ")
        person.sees(r"\A\r\nclosed with 4002")
        return person.leaves()

    assert against(handler, use) == 3


@people
def test_a_peer_cannot_speak_for_us() -> None:
    """What stood behind a line end in a message, or in the reason of a Close, looked like a line of ours."""

    async def handler(ws: zcws.WebSocket) -> None:
        await ws.send("one\nclosed with 1000")
        await ws.close(4000, "no\nclosed with 1000")

    def use(address: str) -> int:
        person = Person(address)
        person.sees(r"< one[^\n]*\n[^\n]*  closed with 1000")
        person.sees(r"closed with 4000 \(no\\nclosed with 1000\)")
        return person.leaves()

    assert against(handler, use) == 3


@people
def test_a_person_hears_of_the_subprotocol(address: str) -> None:
    person = Person(address, "--subprotocol", "chat")
    person.sees(r"! the server agreed to no subprotocol \(asked for: chat\)")
    person.sees("> ")
    os.write(person.master, b"\x04")
    assert person.leaves() == 0


@people
def test_the_end_of_the_input_is_the_end(address: str) -> None:
    person = Person(address)
    person.sees("> ")
    os.write(person.master, b"\x04")  # Ctrl-D
    person.sees("closed with 1000")
    assert person.leaves() == 0


@people
def test_a_server_that_ends_it_while_a_person_thinks() -> None:
    async def handler(ws: zcws.WebSocket) -> None:
        await ws.send("\x1b[2Jboo")
        await ws.recv()
        await ws.close(1011, "broken")

    def use(address: str) -> int:
        person = Person(address)
        person.sees(r"< \\u001b\[2Jboo")
        person.type("x")
        person.sees(r"closed with 1011 \(broken\)")
        return person.leaves()

    assert against(handler, use) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("lines", ["hello\n", "hello\n" * 50_000], ids=["one", "many"])
def test_output_that_cannot_be_written_ends_it(address: str, lines: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "zcws", "connect", address],
            input=lines,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("zcws: cannot write: ") and "Traceback" not in done.stderr


def test_what_is_not_utf_8_cannot_be_sent() -> None:
    """The lines before it were lost with it, the position that was named was one in a block, and no Close was sent."""
    got: list[Any] = []

    async def handler(ws: zcws.WebSocket) -> None:
        got.extend([message async for message in ws])
        got.append(ws.close_code)

    def use(address: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "zcws", "connect", address]
        return subprocess.run(command, input=b"a\nb\n\xff\nc\n", capture_output=True, timeout=60)

    done = against(handler, use)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.splitlines() == [b"zcws: what is piped in is not UTF-8: line 3"]
    assert got == ["a", "b", 1000]


def test_nobody_reads_what_is_said(address: str) -> None:
    """As in `zcws connect ... | head -1`."""
    with begun(address) as process:
        print("one", file=process.stdin, flush=True)
        assert process.stdout.readline() == "one\n"
        process.stdout.close()
        print("two", file=process.stdin, flush=True)
        assert process.stderr.read() == "zcws: cannot write: nobody reads the output any more\n"
        assert process.wait(60) == 1


def test_input_that_cannot_be_read(address: str) -> None:
    """It was said that it was the output that could not be written."""
    with open(os.devnull, "w") as wrong:
        done = subprocess.run(
            [sys.executable, "-m", "zcws", "connect", address], stdin=wrong, capture_output=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"zcws: cannot read what is piped in: ") and b"Traceback" not in done.stderr
