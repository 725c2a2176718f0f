"""Everything that a reader can copy out of this repository is run: the examples, and each block of code in the docs.

How a block of a page is read. Blocks of `python` are whole programs; each is run, from the top of the page to its end.
One that serves for ever is stopped by Ctrl-C at the end of the page. A block of `text` is what the program right before
it prints; `...` in it stands for anything. A block of `sh` is looked at line by line: every command must exist.
A block without a language is a picture.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import net
import pytest
import trustme
from reference import shown
from served import ENVIRONMENT, served, zcws

import zcws as zcws_package
from zcws import ConnectionClosed, cli, sync
from zcws.sync import WebSocket, connect

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

#: The port in the pages. While they are tested it is one that is free.
PORT = "8765"


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text[: match.start()].count("\n") + 1) for match in found]


def start(program: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(program), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, cwd=program.parent)


def finish(process: subprocess.Popen[str]) -> str:
    """What a program printed; it must have ended well."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), err
    return out


def stop(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, for a program that serves for ever."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT), err


def matches(expected: str, printed: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), printed) is not None


# ---- the pages ----


@pytest.fixture
def port() -> Iterator[str]:
    """One that is free until a program listens there."""
    with net.free_port() as number:
        yield str(number)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_programs_of_a_page(page: Path, tmp_path: Path, port: str) -> None:
    running: list[subprocess.Popen[str]] = []
    printed: str | None = None
    try:
        for block in blocks(page):
            where = f"{page.name}:{block.line}"
            if block.language == "python":
                program = tmp_path / f"line_{block.line}.py"
                program.write_text(block.text.replace(PORT, port), encoding="utf-8")
                process = start(program)
                if "serve_forever()" in block.text:
                    running.append(process)
                    wait_for(port, process)
                    printed = None
                else:
                    printed = finish(process)
            elif block.language == "text":
                assert printed is not None, f"{where}: no program before this says anything"
                assert matches(block.text.replace(PORT, port), printed), f"{where}: {printed!r}"
            elif block.language == "sh":
                for line in block.text.splitlines():
                    check_command(line)
            else:
                assert not block.language, f"{where}: a block of {block.language!r} is not run by anything"
    finally:
        for process in running:
            stop(process)


def wait_for(port: str, process: subprocess.Popen[str]) -> None:
    """Until somebody listens; pytest's own timeout is the end of it."""
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


def check_command(line: str) -> None:
    """A line for a shell names something that is there; the cheap ones are run."""
    words = [word for word in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[0] == "make":
        if not shutil.which("make"):
            pytest.skip("there is no make here")
        done = subprocess.run(
            ["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    elif words[0] == "zcws" or words[:3] == ["python", "-m", "zcws"]:
        arguments = words[words.index("zcws") + 1 :]
        cli._parser().parse_args(arguments)
        if arguments[0] == "info":
            assert zcws("info").returncode == 0
    elif words[:3] == ["python", "-m", "benchmarks"]:
        names = words[words.index("--only") + 1].split(",") if "--only" in words else []
        assert all((ROOT / "benchmarks" / "workloads" / f"{name}.py").exists() for name in names)
    elif words[:2] == ["pip", "install"]:
        assert (ROOT / "pyproject.toml").exists()
        assert {word.partition("[")[0] for word in words[2:]} <= {"."}
    elif words[0] == "uvicorn":
        module, _, name = words[words.index("--ws") + 1].partition(":")
        assert hasattr(pytest.importorskip(module), name)
    elif words[0] == "mkdocs":
        assert (ROOT / "mkdocs.yml").exists()
    elif words[0].startswith("benchmarks/build/"):
        assert f"{Path(words[0]).name}: " in (ROOT / "benchmarks" / "Makefile").read_text(encoding="utf-8")
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).exists(), words[1]
    else:
        raise AssertionError(f"nobody knows whether this works: {line}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def options_of(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"unknown"}  # that is what is no option


def methods_of(path: str) -> set[str]:
    # What __init__ gives to a blocking connection is a property of the other.
    return shown(path) - {"connection", "request", "response"}


@pytest.mark.parametrize(
    ("page", "word", "asynchronous", "blocking"),
    [
        ("servers.md", "serve", options_of(zcws_package.serve), options_of(sync.serve)),
        (
            "servers.md",
            "server",
            methods_of("zcws.aio.server.Server") | {"on_open"},
            methods_of("zcws.sync.server.Server") | {"sock"},
        ),
        ("clients.md", "connect", options_of(zcws_package.connect), options_of(sync.connect)),
        (
            "clients.md",
            "ws",
            methods_of("zcws.aio.websocket.WebSocket"),
            methods_of("zcws.sync.stream.WebSocket"),
        ),
        (
            "clients.md",
            "writer",
            methods_of("zcws.aio.halves.WriterHalf"),
            methods_of("zcws.sync.halves.WriterHalf"),
        ),
    ],
)
def test_what_blocking_sockets_lack(page: str, word: str, asynchronous: set[str], blocking: set[str]) -> None:
    """The tables say what the signatures say: who gives one driver an option writes here that the other lacks it."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition("## On blocking sockets\n")[2]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    name = re.compile(rf"`[^`]*?\b{word}(?:\.|\(\**)(\w+)")
    lacking = {found for left, right in rows if right.startswith("none") for found in name.findall(left)}
    assert lacking <= asynchronous - blocking
    assert asynchronous - blocking <= {found for left, _ in rows for found in name.findall(left)}
    said = {found for _, right in rows for found in name.findall(right)}
    assert blocking - asynchronous <= said <= blocking


@pytest.mark.parametrize("function", [zcws_package.connect, zcws_package.serve, sync.connect, sync.serve])
def test_every_option_stands_on_a_page(function: Any) -> None:
    """Somewhere else than in the tables for those who come from another library."""
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "migrating.md")
    assert options_of(function) - set(re.findall(r"\w+", pages)) == set()


def test_every_option_of_the_command_line_is_on_its_page() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in ("connect", "serve", "bench", "trace"):
        help_text = zcws(command, "--help").stdout
        assert (
            set(re.findall(r"--[a-z][\w-]+", help_text))
            - {"--help"}
            - set(re.findall(r"--[a-z][\w-]+", page))
            == set()
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_extras_are_spelled_for_a_clone(page: Path) -> None:
    """A reader has the repository; README and the index say how a release spells them."""
    explains = page in (ROOT / "README.md", ROOT / "docs" / "index.md")
    assert page.read_text(encoding="utf-8").count("zcws[") == (1 if explains else 0)


def test_the_table_of_ratios_is_what_its_command_prints() -> None:
    page = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
    command = re.search(r"`python -m (benchmarks\.ratios) (\S+)`", page)
    assert command
    files = sorted(ROOT.glob(command[2]))
    done = subprocess.run(
        [sys.executable, "-m", command[1], *files], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert len(files) > 1
    assert f"\n\n{done.stdout}\n" in page
    rows = re.findall(r"^\| server, .*$", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE)
    assert rows and [row for row in rows if row not in done.stdout.splitlines()] == []


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.name for page in PAGES[1:]}
    assert pages - {"index.md"} - set(re.findall(r"\]\((\w+\.md)\)", index)) == set()
    assert pages - set(re.findall(r": (\w+\.md)$", nav, re.MULTILINE)) == set()


def test_contributing_has_every_script() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    scripts = {path.name for path in (ROOT / ".ci").glob("*.sh")} - {"tools.sh"}  # which the others read
    assert scripts and {name for name in scripts if f"`.ci/{name}`" not in table} == set()


# ---- the examples ----


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_is(example: Path) -> None:
    source = example.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source))
    assert code_lines(source) < 40
    assert len(source.splitlines()) < 60


def code_lines(source: str) -> int:
    lines = [line.strip() for line in source.splitlines()]
    return sum(1 for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as server:
        yield f"ws://127.0.0.1:{server.port}/"


def test_client(address: str) -> None:
    printed = finish(start(ROOT / "examples" / "client.py", address))
    expected = (
        "a message: hello\na frame: BINARY 256 bytes, the last one is 255\n"
        "a round trip took ... ms\nclosed with 1000\n"
    )
    assert matches(expected, printed), printed


def test_own_loop(address: str) -> None:
    printed = finish(start(ROOT / "examples" / "own_loop.py", address))
    assert printed == "from my own loop\nthe server answered the Close with 1000\n"


def test_echo_server() -> None:
    server = start(ROOT / "examples" / "echo_server.py", "0")
    try:
        assert server.stdout is not None
        address = server.stdout.readline().removeprefix("listening on ").strip()
        assert "a message: hello" in finish(start(ROOT / "examples" / "client.py", address))
    finally:
        stop(server)
    assert server.returncode == 0


def test_chat() -> None:
    with running("chat.py") as address, talking(f"{address}/blue/ann") as ann:
        assert ann.recv(timeout=60) == "ann is here, which makes 1"
        with talking(f"{address}/red/eve"), talking(f"{address}/blue/bob") as bob:
            assert {ann.recv(timeout=60), bob.recv(timeout=60)} == {"bob is here, which makes 2"}
            bob.send("hello")
            assert ann.recv(timeout=60) == "bob: hello"
        assert ann.recv(timeout=60) == "bob has left"


def test_market_data() -> None:
    with running("market_data.py") as address:
        with talking(f"{address}/prices/EURUSD") as one, talking(f"{address}/prices/EURUSD") as two:
            price = two.recv(timeout=60)
            assert json.loads(price)["symbol"] == "EURUSD"
            while one.recv(timeout=60) != price:
                pass  # it was there earlier
        with talking(f"{address}/prices/GOLD") as lost, pytest.raises(ConnectionClosed) as closed:
            lost.recv(timeout=60)
        assert closed.value.code == 4004


@contextlib.contextmanager
def running(example: str) -> Iterator[str]:
    """An example that serves for ever, and the address that it prints, up to its port."""
    server = start(ROOT / "examples" / example, "0")
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        yield re.findall(r"ws://[\d.:]+", line)[0]
    finally:
        stop(server)


def talking(uri: str) -> WebSocket:
    return connect(uri, proxy=None)


def test_reconnecting() -> None:
    printed = finish(start(ROOT / "examples" / "reconnecting.py"))
    lost = (
        "the connection to ... ended: the connection was lost: 1006 (abnormal closure)...; "
        "connecting again in ...\n"
    )
    turns = [f"connected, asking for {number}\ngot {number}\ngot {number + 1}\n" for number in (0, 2, 4)]
    assert matches(lost.join(turns), printed), printed


def test_upload(tmp_path: Path) -> None:
    source, to = tmp_path / "source", tmp_path / "to"
    source.write_bytes(bytes(range(256)) * 5_000)  # 1.28 MB: more than a ring, and no multiple of a fragment
    printed = finish(start(ROOT / "examples" / "upload.py", str(source), str(to)))
    assert printed == "stored 1280000 bytes\n"
    assert to.read_bytes() == source.read_bytes()


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    chain, key, trusted = (tmp_path / name for name in ("chain.pem", "key.pem", "authority.pem"))
    chain.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(trusted)
    printed = finish(start(ROOT / "examples" / "tls.py", str(chain), str(key), str(trusted)))
    assert printed == "nobody else can read this\nTLSv1.3\n"


def test_split_queue() -> None:
    printed = finish(start(ROOT / "examples" / "split_queue.py"))
    assert printed == ("the writer says A MESSAGE IN PIECES\na Ping was answered: True\nclosed with 1000\n")


def test_split_bridge() -> None:
    printed = finish(start(ROOT / "examples" / "split_bridge.py"))
    lines = printed.splitlines()
    assert lines.count("the reader has a message") == 1  # whenever its task ran
    lines.remove("the reader has a message")
    ticks = [f"the writer says tick {number}" for number in range(3)]
    assert lines == [*ticks, "a Ping was answered: True", "closed with 1000"]


def test_split_threads() -> None:
    printed = finish(start(ROOT / "examples" / "split_threads.py"))
    assert printed == "the last of them was 999\nthe bridge has ended: True\n"


def test_fastapi_app(port: str) -> None:
    pytest.importorskip("fastapi")
    from websockets.sync.client import connect

    server = start(ROOT / "examples" / "fastapi_app.py", port)
    try:
        wait_for(port, server)
        uri = f"ws://127.0.0.1:{port}/rooms"
        with connect(f"{uri}/blue") as one, connect(f"{uri}/blue") as two, connect(f"{uri}/red") as other:
            other.send("is anybody here?")
            assert other.recv() == "red: is anybody here?"
            two.send("hello")
            assert (one.recv(), two.recv()) == ("blue: hello", "blue: hello")
    finally:
        stop(server)


def test_every_example_has_a_test() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES} <= tested


def test_a_source_archive_has_what_is_linked_and_run() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    folders = {".ci", "autobahn", "benchmarks", "csrc", "docs", "examples", "tests"}
    assert folders <= {line.split()[1] for line in manifest.splitlines() if line.startswith("graft ")}
