"""Workers: real processes, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from net import echo, port_of, request
from served import ENVIRONMENT

import zcws
from zcws.cli import main
from zcws.cli import supervisor as supervisor_module
from zcws.cli.common import Failure
from zcws.cli.supervisor import Supervisor, how_it_ended, reserve

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SO_REUSEPORT") or not Path("/proc/self/task").exists(),
    reason="needs SO_REUSEPORT, and /proc to find the workers",
)


@pytest.fixture
def supervisor() -> Iterator[tuple[subprocess.Popen[str], int]]:
    with supervising(subprocess.PIPE) as supervisor:
        yield supervisor


@contextlib.contextmanager
def begun(*arguments: str, stderr: Any = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """A supervisor of an echo."""
    command = [sys.executable, "-m", "zcws", "serve", "--echo", "--port=0", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=stderr, text=True, env=ENVIRONMENT) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def supervising(stderr: Any, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    # The drain is longer than any test.
    with begun("--workers=2", "--drain=1000", *arguments, stderr=stderr) as process:
        line = process.stdout.readline()
        found = re.fullmatch(r"zcws listens on wss?://127\.0\.0\.1:(\d+); 2 workers .*\n", line)
        assert found, f"no announcement: {line!r}"
        yield process, int(found[1])


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return {int(pid) for pid in children.split()}


def until(condition: Callable[[], object]) -> None:
    """pytest's own timeout is the end of it."""
    while not condition():
        time.sleep(0.02)


async def echoes(port: int) -> None:
    async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
        await ws.send("x")
        assert await asyncio.wait_for(ws.recv(), 20) == "x"


def test_a_worker_that_dies_is_replaced_and_sigterm_ends_all(
    supervisor: tuple[subprocess.Popen[str], int],
) -> None:
    process, port = supervisor
    first = workers_of(process)
    assert len(first) == 2
    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    line = process.stderr.readline()
    assert line == f"zcws: worker {victim} was ended by SIGKILL: another one is started\n"
    until(lambda: len(workers_of(process) - {victim}) == 2)
    asyncio.run(echoes(port))
    everybody = workers_of(process)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert not [pid for pid in everybody if Path(f"/proc/{pid}").exists()]


@contextlib.contextmanager
def without_descriptors(process: subprocess.Popen[str]) -> Iterator[None]:
    """It has one more than it uses, and a process that it starts takes four."""
    resource = pytest.importorskip("resource")
    used = len(os.listdir(f"/proc/{process.pid}/fd"))
    usual = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used + 1, usual[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, usual)


def test_a_worker_that_cannot_be_replaced_yet(supervisor: tuple[subprocess.Popen[str], int]) -> None:
    """It is replaced as soon as there are descriptors. It was tried once, and never again."""
    process, port = supervisor
    victim = min(workers_of(process))
    with without_descriptors(process):
        os.kill(victim, signal.SIGKILL)
        for why in (
            f"worker {victim} was ended by SIGKILL",
            f"nobody serves in place of worker {victim} yet",
        ):
            assert process.stderr.readline() == f"zcws: {why}: another one is started\n"
            assert process.stderr.readline() == "zcws: cannot start a worker: Too many open files\n"
    until(lambda: len(workers_of(process) - {victim}) == 2)
    asyncio.run(echoes(port))


def test_a_reload_without_descriptors(supervisor: tuple[subprocess.Popen[str], int]) -> None:
    """The old workers go on. It was the end of them all."""
    process, port = supervisor
    old = workers_of(process)
    with without_descriptors(process):
        process.send_signal(signal.SIGHUP)
        said = [process.stderr.readline() for _ in range(3)]
    assert said[:2] == ["zcws: cannot start a worker: Too many open files\n"] * 2
    assert said[2].startswith("zcws: not reloaded: ")
    assert workers_of(process) == old
    asyncio.run(echoes(port))


def test_a_reload_while_a_worker_waits_to_be_replaced(supervisor: tuple[subprocess.Popen[str], int]) -> None:
    """The reload has replaced it: it was replaced once more, and there were three."""
    process, _ = supervisor
    old = workers_of(process)
    with without_descriptors(process):
        os.kill(min(old), signal.SIGKILL)
        while "cannot start" not in process.stderr.readline():
            pass
    process.send_signal(signal.SIGHUP)
    while "zcws: reloaded: 2 new workers" not in process.stderr.readline():
        pass
    until(lambda: len(workers_of(process) - old) == 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_stderr_on_a_full_disk() -> None:
    """What cannot be said is done nevertheless. A worker that died was not replaced, and a reload was the end."""
    with open("/dev/full", "w", encoding="ascii") as full, supervising(full) as (process, port):
        first = workers_of(process)
        os.kill(min(first), signal.SIGKILL)
        until(lambda: len(workers_of(process) - {min(first)}) == 2)
        second = workers_of(process)
        asyncio.run(echoes(port))  # all of them listen
        process.send_signal(signal.SIGHUP)
        until(lambda: len(workers_of(process) - second) == 2 and not workers_of(process) & second)
        asyncio.run(echoes(port))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_more_workers_than_there_are_descriptors() -> None:
    begin = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)); from zcws.cli import main; "
    )
    run = "raise SystemExit(main(['serve', '--echo', '--port=0', '--workers=100']))"
    done = subprocess.run(
        [sys.executable, "-c", begin + run], capture_output=True, text=True, env=ENVIRONMENT, timeout=60
    )
    assert done.returncode == 1
    assert re.fullmatch(r"zcws: cannot listen on 127\.0\.0\.1:\d+: Too many open files\n", done.stderr)


def test_reload(supervisor: tuple[subprocess.Popen[str], int]) -> None:
    """New workers serve, while the old ones wait for their clients."""
    process, port = supervisor
    old = workers_of(process)

    async def main() -> None:
        async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
            process.send_signal(signal.SIGHUP)
            line = await asyncio.to_thread(process.stderr.readline)
            assert line == "zcws: reloaded: 2 new workers, 2 drain\n"
            await ws.send("still here")
            assert await asyncio.wait_for(ws.recv(), 20) == "still here"
            await echoes(port)
        await asyncio.to_thread(until, lambda: not workers_of(process) & old)

    asyncio.run(main())
    assert len(workers_of(process)) == 2


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate with its key, in one file."""
    path = tmp_path / "both.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    return path


def hang(certificate: Path) -> None:
    """Whoever reads it from now on waits for ever, as for a network that has gone."""
    certificate.unlink()
    os.mkfifo(certificate)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_that_are_starting_are_ended(certificate: Path, number: int) -> None:
    """No signal ended the supervisor before all of them listened."""
    hang(certificate)
    with begun("--workers=2", f"--ssl-cert={certificate}") as process:
        until(lambda: len(workers_of(process)) == 2)
        workers = workers_of(process)
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == (130 if number == signal.SIGINT else 0)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_reload_that_hangs_can_be_ended(certificate: Path) -> None:
    """SIGTERM waited for it."""
    with supervising(subprocess.PIPE, f"--ssl-cert={certificate}") as (process, _):
        hang(certificate)
        process.send_signal(signal.SIGHUP)
        until(lambda: len(workers_of(process)) == 4)
        workers = workers_of(process)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_worker_that_does_not_come_to_listen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was waited for without end."""
    monkeypatch.setattr(supervisor_module, "STARTING", 0)

    async def main() -> None:
        workers = Supervisor([sys.executable, "-c", "import sys; sys.stdin.read()"], [[]], drain=0)
        with pytest.raises(Failure, match=r"^a worker ended before it listened$"):
            await workers.start()
        await workers.stop(signal.SIGTERM)

    asyncio.run(main())
    assert re.fullmatch(r"zcws: worker \d+ did not listen within 1 seconds\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT), (signal.SIGINT, None)],
)
def test_only_one_sigterm_drains(
    supervisor: tuple[subprocess.Popen[str], int], first: int, second: int | None
) -> None:
    """As it is for one process. Ctrl-C and a second signal waited as long for the clients as the first SIGTERM."""
    process, port = supervisor

    async def main() -> None:
        async with zcws.connect(f"ws://127.0.0.1:{port}/") as ws:
            process.send_signal(first)
            if second is not None:
                await asyncio.to_thread(until, lambda: not accepts(port))
                await ws.send("still here")
                assert await ws.recv() == "still here"
                process.send_signal(second)
            with pytest.raises(zcws.ConnectionClosedOK) as closed:
                await ws.recv()
            assert closed.value.code == 1001

    asyncio.run(main())
    assert process.wait(60) == 0


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_reload_of_what_cannot_start(tmp_path: Path) -> None:
    """The old ones go on."""
    folder = tmp_path / "public"
    folder.mkdir()
    with begun(f"--static={folder}", "--workers=1") as process:
        port = int(process.stdout.readline().partition(";")[0].rpartition(":")[2])
        old = workers_of(process)
        folder.rmdir()
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline() == f"zcws: {folder} is not a directory\n"
        said = "zcws: not reloaded: a new worker ended before it listened; the old ones go on\n"
        assert process.stderr.readline() == said
        asyncio.run(echoes(port))
        assert workers_of(process) == old


def test_who_waits_in_the_queue_of_a_worker_that_ends_is_accepted_by_the_next(
    supervisor: tuple[subprocess.Popen[str], int],
) -> None:
    """He was reset; with SIGHUP, too, between a worker's last look at its queue and the end of that."""
    process, port = supervisor
    workers = workers_of(process)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(request())
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")


def is_ours(address: str) -> bool:
    """Whether the machine has it: where IPv6 is off, names still have addresses of IPv6."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock, contextlib.suppress(OSError):
        sock.bind((address, 0))
        return True
    return False


def test_it_listens_on_every_address_of_the_host() -> None:
    """As one process does: where the host is empty, on all of IPv4 and all of IPv6."""
    found = socket.getaddrinfo(None, 80, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    loopbacks = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
    command = [sys.executable, "-m", "zcws", "serve", "--echo", "--host=", "--port=0", "--workers=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            port = int(process.stdout.readline().partition(";")[0].rpartition(":")[2])
            for family in {info[0] for info in found if is_ours(loopbacks[info[0]])}:
                with socket.create_connection((loopbacks[family], port)) as sock:
                    sock.sendall(request())
                    assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        finally:
            process.terminate()


def test_workers_do_not_outlive_their_supervisor(supervisor: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = supervisor
    workers = workers_of(process)
    process.kill()
    until(lambda: not [pid for pid in workers if is_alive(pid)])


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody may be there to collect it


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--host", "no such host"), "there is no host called"),
        (("--host", "203.0.113.9"), "cannot listen on 203.0.113.9:0"),
        (("--ssl-cert", "missing.pem"), "a worker ended before it listened"),
    ],
)
def test_what_cannot_be_served(arguments: tuple[str, ...], sentence: str) -> None:
    command = [sys.executable, "-m", "zcws", "serve", "--echo", "--port", "0", "--workers", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("zcws: ") and sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_without_descriptors() -> None:
    """It was said of the host that nobody knew it."""
    resource = pytest.importorskip("resource")
    _, most = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
    try:
        with pytest.raises(Failure, match=r"cannot listen on 127\.0\.0\.1:0: Too many open files"):
            reserve("127.0.0.1", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_port_of_a_server_that_has_ended_can_be_had() -> None:
    """Its connections have it for a minute (TIME_WAIT), as the server is the first to close: RFC 6455 7.1.1."""

    async def main() -> int:
        async with zcws.serve(echo, "127.0.0.1", 0) as server:
            async with zcws.connect(f"ws://127.0.0.1:{port_of(server)}/") as ws:
                await ws.send("hello")
                await ws.recv()
            return port_of(server)

    port = asyncio.run(main())
    with reserve("127.0.0.1", port) as reserved:
        assert reserved.getsockname()[1] == port
    with socket.create_server(("127.0.0.1", port)):  # while one listens it cannot
        with pytest.raises(Failure, match="is in use"):
            reserve("127.0.0.1", port)


def test_a_worker_takes_no_modules_from_the_folder_that_it_serves(tmp_path: Path) -> None:
    folder = tmp_path / "-public"  # and an argument that looks like an option is none
    folder.mkdir()
    (folder / "random.py").write_text("raise SystemExit('this is a file to serve')", encoding="utf-8")
    begin = f"import sys; sys.path[:] = {sys.path}; from zcws.__main__ import main; sys.exit(main())"
    for where, name in ((folder, "."), (tmp_path, "-public")):
        command = [sys.executable, "-c", begin, "serve", f"--static={name}", "--port=0", "--workers=1"]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, cwd=where
        ) as process:
            line = process.stdout.readline()
            process.terminate()
            assert line.startswith("zcws listens on "), process.stderr.read()


def test_a_frozen_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It started itself, with a command line that its parser did not know."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert main(["serve", "--echo", "--port=0", "--workers=1"]) == 1
    assert capsys.readouterr().err.startswith("zcws: --workers starts other Pythons")


def test_words_for_an_end() -> None:
    assert [how_it_ended(code) for code in (0, 3)] == ["ended with 0", "ended with 3"]
    assert how_it_ended(-15) == "was ended by SIGTERM"
    assert how_it_ended(-35) == "was ended by signal 35"  # it has no name, and was the end of the watch
