"""`zcws trace`: what the tap sees, and a real proxy between a client and a server."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import zlib

import pytest
import wire
from heads import request, response
from net import echo, hang_up, port_of, soon
from served import ENVIRONMENT
from served import zcws as command

import zcws
import zcws.sync
from zcws.cli.trace import HTTP_2, MAX_HEAD, NO_HEAD, Tap
from zcws.http2 import PREFACE

FRAMES = [
    (wire.frame(wire.TEXT, "grüße".encode(), key=wire.KEY), "TEXT 'grüße' [7 bytes, masked]"),
    (wire.frame(wire.TEXT, b"x" * 70000), f"TEXT '{'x' * 120}'... [70000 bytes]"),
    (wire.frame(wire.TEXT, b"\x1b[2J\xe2\x80\xae"), "TEXT '\\x1b[2J\\u202e' [7 bytes]"),
    (wire.frame(wire.PING, b""), "PING [0 bytes]"),
    (wire.frame(wire.CLOSE, wire.close_payload(1001, b"bye")), "CLOSE 1001 'bye' [5 bytes]"),
    (wire.frame(11, b""), "OPCODE 11 [0 bytes]"),
]


@pytest.mark.parametrize("step", [1, 3, 1000, 1_000_000])
def test_frames_however_they_arrive(step: int) -> None:
    data = request() + b"".join(frame for frame, _ in FRAMES)
    tap, lines = Tap(), []
    for start in range(0, len(data), step):
        lines += tap.feed(data[start : start + step])
    head = request().decode().split("\r\n")[:-2]
    assert lines == [*head, *(line for _, line in FRAMES)]


def test_a_head_cannot_make_up_lines() -> None:
    """A line end that is none in HTTP was one on the terminal: what stood behind it looked like a frame that came."""
    (line, _) = Tap().feed(b"GET / HTTP/1.1\n12:00:00.000 1 < TEXT 'yes'\r\nHost: \x9bh\r\n\r\n")
    assert line == "GET / HTTP/1.1\\n12:00:00.000 1 < TEXT 'yes'"


def test_compressed_messages() -> None:
    compress = zlib.compressobj(wbits=-15)
    tap = Tap()
    tap.feed(response())
    tap.expect_deflate()
    for _ in range(2):  # the second refers to the first
        payload = compress.compress(b"hello") + compress.flush(zlib.Z_SYNC_FLUSH)[:-4]
        (line,) = tap.feed(wire.frame(wire.TEXT, payload, rsv=4))
        assert line == f"TEXT 'hello' [{len(payload)} bytes, compressed]"


@pytest.mark.parametrize("step", [1, 1_000_000])
def test_behind_an_interim_answer(step: int) -> None:
    """RFC 9110 15.2: it is not the answer. No frame was shown, in either direction none was inflated."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    answer = response().replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
    compress = zlib.compressobj(wbits=-15)
    payload = compress.compress(b"hello") + compress.flush(zlib.Z_SYNC_FLUSH)[:-4]
    up = Tap()
    down, lines = Tap(up), []
    up.feed(request())
    data = early + early + answer + wire.frame(wire.TEXT, payload, rsv=4)
    for start in range(0, len(data), step):
        lines += down.feed(data[start : start + step])
    assert lines[0] == lines[2] == "HTTP/1.1 103 Early Hints"
    assert lines[-1] == f"TEXT 'hello' [{len(payload)} bytes, compressed]"
    (line,) = up.feed(wire.frame(wire.TEXT, payload, rsv=4, key=wire.KEY))
    assert line == f"TEXT 'hello' [{len(payload)} bytes, compressed, masked]"


def test_a_page_is_no_frames() -> None:
    tap = Tap()
    lines = tap.feed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n\x81\x01x\r\n\r\n")
    assert lines == ["HTTP/1.1 404 Not Found", "Content-Length: 10"]
    assert tap.feed(b"\x81\x01x") == []


def test_compression_that_was_not_agreed() -> None:
    """A bit of the frame that means nothing is no reason to inflate it; nor is an offer, by itself."""
    up = Tap()
    offer = request(("Sec-WebSocket-Extensions", "permessage-deflate"))
    for tap, head in ((up, offer), (Tap(up), response())):
        tap.feed(head)
        (line,) = tap.feed(wire.frame(wire.TEXT, b"hello", rsv=4))
        assert line == "TEXT 68 65 6c 6c 6f [5 bytes, compressed]"


@pytest.mark.parametrize("step", [1000, 1_000_000])
@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 103\r\n\r\n"])
def test_a_head_without_an_end_is_not_kept(begin: bytes, step: int) -> None:
    """Behind an interim answer it was, whatever its size."""
    tap, lines = Tap(), []
    data = begin + b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD
    for start in range(0, len(data), step):
        lines += tap.feed(data[start : start + step])
    assert lines == [*begin.decode().splitlines()[:1], NO_HEAD]
    assert tap.feed(b"\r\n\r\n\x81\x01x") == tap.end() == []


async def traced(port: int, path: str = "") -> tuple[asyncio.subprocess.Process, str]:
    """The command in front of a server, and where it listens."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "zcws", "trace", "--listen", "0", f"ws://127.0.0.1:{port}{path}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    line = (await process.stdout.readline()).decode()
    found = re.match(r"zcws traces (ws://127\.0\.0\.1:\d+\S*) to ", line)
    assert found, line
    return process, found[1]


async def told_until_the_end(process: asyncio.subprocess.Process) -> bytes:
    """What it prints until the connection has ended; then it is ended, too."""
    lines = b""
    while b"the connection has ended" not in lines:
        lines += await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    await process.communicate()
    return lines


@pytest.mark.parametrize(("path", "asked"), [("", "/"), ("/", "/"), ("/chat/?token=a", "/chat/")])
def test_a_path_is_printed_for_the_client(path: str, asked: str) -> None:
    """A client that went to where `trace` listens asked for /, and the path was nowhere."""

    async def main() -> None:
        async with zcws.serve(lambda ws: ws.send(ws.request.path), "127.0.0.1", 0) as server:
            process, uri = await traced(server.sockets[0].getsockname()[1], path)
            async with zcws.connect(uri, proxy=None) as ws:
                assert await ws.recv() == asked
            await told_until_the_end(process)

    asyncio.run(main())


def test_between_a_client_and_a_server() -> None:
    hosts: list[str] = []

    def process_request(handshake: object, asked: zcws.Request) -> None:
        hosts.append(asked.headers["Host"])

    async def main() -> str:
        async with zcws.serve(
            echo, "127.0.0.1", 0, compression="deflate", process_request=process_request
        ) as server:
            process, address = await traced(port_of(server))
            async with zcws.connect(address + "/path", compression="deflate") as ws:
                await ws.send("hello " * 100)
                assert await ws.recv() == "hello " * 100
                await ws.send(b"\x01")
                assert await ws.recv() == b"\x01"
            lines = b""
            while b"the connection has ended" not in lines:
                lines += await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            await process.communicate()
            assert process.returncode == 0
            assert hosts == [f"127.0.0.1:{port_of(server)}"]
            return lines.decode()

    printed = asyncio.run(main())
    for pattern in (
        r"(?m)^\d\d:\d\d:\d\d\.\d\d\d 1 > GET /path HTTP/1\.1\n",
        r" 1 < HTTP/1\.1 101 Switching Protocols\n",
        r" 1 > TEXT 'hello hello .*'\.\.\. \[\d+ bytes, compressed, masked\]\n",
        r" 1 < TEXT 'hello hello .*'\.\.\. \[\d+ bytes, compressed\]\n",
        r" 1 > BINARY 01 \[1 byte, masked\]\n",
        r" 1 > CLOSE 1000 \[2 bytes, masked\]\n",
        r" 1 < CLOSE 1000 \[2 bytes\]\n",
    ):
        assert re.search(pattern, printed), (pattern, printed)


def test_http_2_passes_and_is_not_shown() -> None:
    """Also where the server says the first word of all."""
    settings = b"\0\0\0\4\0\0\0\0\0"

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(settings)
        assert await reader.readexactly(len(PREFACE)) == PREFACE
        writer.write(b"\x81\x01x\r\n\r\n")
        writer.close()

    async def main() -> str:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            process, address = await traced(server.sockets[0].getsockname()[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
            assert await soon(reader.readexactly(len(settings))) == settings
            writer.write(PREFACE)
            assert await soon(reader.read()) == b"\x81\x01x\r\n\r\n"
            await hang_up(writer)
            return (await told_until_the_end(process)).decode()

    told = [line.split(" ", 2)[2] for line in asyncio.run(main()).splitlines()]
    assert told == [f"! {HTTP_2}", "| the connection has ended"]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"HTTP/1.0 400 Bad\n\nno", ["HTTP/1.0 400 Bad", "no"]),
        (b"HTTP/1.1 500 Oops\r\nX: y\r\n", ["HTTP/1.1 500 Oops", "X: y"]),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD, [NO_HEAD]),
    ],
)
def test_what_is_no_head_passes(answer: bytes, shown: list[str]) -> None:
    """The client got nothing of it, and nothing was printed. It gets it at once, where the server goes on to wait."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        assert await reader.read() == b"GET / HTTP/1.1\r\n"
        writer.close()

    async def main() -> str:
        async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
            process, address = await traced(server.sockets[0].getsockname()[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
            assert await soon(reader.readexactly(len(answer))) == answer
            writer.write(b"GET / HTTP/1.1\r\n")
            writer.write_eof()
            assert await soon(reader.read()) == b""
            await hang_up(writer)
            return (await told_until_the_end(process)).decode()

    told = [line.split(" ", 2)[2] for line in asyncio.run(main()).splitlines()]
    assert sorted(told) == sorted(
        [*(f"< {line}" for line in shown), "> GET / HTTP/1.1", "| the connection has ended"]
    )


def test_a_request_that_is_too_long_passes() -> None:
    """It was lost, and the client waited for an answer."""
    asked = b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(asked)) == asked
        writer.write(b"HTTP/1.1 431 Too Much\r\n\r\n")
        writer.close()

    async def main() -> bytes:
        async with await asyncio.start_server(read, "127.0.0.1", 0) as server:
            process, address = await traced(server.sockets[0].getsockname()[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
            writer.write(asked)
            answer = await soon(reader.readuntil(b"\r\n\r\n"))
            await hang_up(writer)
            assert f" 1 > {NO_HEAD}\n".encode() in await told_until_the_end(process)
            return answer

    assert asyncio.run(main()) == b"HTTP/1.1 431 Too Much\r\n\r\n"


def test_a_server_that_is_not_there() -> None:
    """The connection was cut, and the client was advised to try TLS."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zcws", "trace", "--listen", "0", "ws://me:secret@127.0.0.1:1/?token=a"],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    with process:
        found = re.match(
            r"zcws traces (ws://127\.0\.0\.1:\d+) to ws://127\.0\.0\.1:1/ ", process.stdout.readline()
        )
        assert found
        with pytest.raises(zcws.HandshakeError) as caught:
            zcws.sync.connect(found[1], proxy=None)
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", None)
    sentence = "cannot connect to ws://127.0.0.1:1/: connection refused; nothing listens there: "
    assert caught.value.status == 502
    assert caught.value.body.decode().startswith(sentence)
    assert f" 1 ! {sentence}" in line


def test_ctrl_c_while_there_are_connections() -> None:
    """It printed a traceback for each of them, before CPython 3.12."""

    async def main() -> None:
        async with zcws.serve(echo, "127.0.0.1", 0) as server:
            process, address = await traced(port_of(server))
            async with zcws.connect(address) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                process.send_signal(signal.SIGINT)
                assert (await process.communicate())[1] == b""
                assert process.returncode == 0

    asyncio.run(main())


@pytest.mark.parametrize("loses", ["a line of a frame", "the line of the end"])
def test_nobody_reads_what_is_printed(loses: str) -> None:
    """As in `zcws trace ... | head`: each connection ended with 1006, and nothing said why."""

    async def main() -> None:
        async with zcws.serve(echo, "127.0.0.1", 0) as server:
            process, address = await traced(port_of(server))
            async with zcws.connect(address, proxy=None) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                process.stdout._transport.close()
                if loses == "the line of the end":
                    ws.abort()
                else:
                    await ws.send("again")
                assert (
                    await process.stderr.read() == b"zcws: cannot write: nobody reads the output any more\n"
                )
                assert await process.wait() == 1

    asyncio.run(main())


def test_a_client_that_leaves_before_it_has_asked() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "zcws", "trace", "--listen", "0", "ws://127.0.0.1:1/"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    with process:
        found = re.match(r"zcws traces ws://127\.0\.0\.1:(\d+) to ", process.stdout.readline())
        assert found
        with socket.create_connection(("127.0.0.1", int(found[1]))) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n")
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        assert "connection refused" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")


def test_options_that_would_do_nothing() -> None:
    """A proxy passes on what the client asks for: what it is not asked for here, it cannot be told."""
    done = command("trace", "ws://127.0.0.1:1/", "--header", "A: b")
    assert done.returncode == 2 and "unrecognized arguments: --header" in done.stderr


def test_a_host_that_is_no_name() -> None:
    done = command("trace", "--listen", "0", "--host", "a" * 64, "ws://127.0.0.1:1/")
    assert done.stderr == f"zcws: there is no host called '{'a' * 64}' as far as this machine knows\n"
