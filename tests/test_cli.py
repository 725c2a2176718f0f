"""The command line as a user meets it: processes of their own, real sockets, real signals."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
import wire
from heads import request
from served import ENVIRONMENT, served, zcws

from zcws import ConnectionClosedOK, __version__, cli, connect
from zcws.cli import info
from zcws.kernel import available

PROJECT = Path(__file__).parent.parent / "pyproject.toml"

# ---- what can be said ----


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "the following arguments are required: command"),
        (("sing",), "invalid choice: 'sing'"),
        (("serve",), "what to serve? one of --echo, --chat, --static DIR"),
        (("serve", "--echo", "--chat"), "not allowed with argument"),
        (("serve", "--echo", "--workers", "0"), "argument --workers: a number from 1 to 1024, not '0'"),
        (
            ("serve", "--echo", "--drain", "-1"),
            "argument --drain: a number of seconds from 0 to 2000000, not '-1'",
        ),
        (
            ("connect", "ws://a", "--linger", "nan"),
            "argument --linger: a number of seconds from 0 to 2000000, not 'nan'",
        ),
        (
            ("bench", "ws://a", "--duration", "0"),
            "argument --duration: a number of seconds over 0, 2000000 at most, not '0'",
        ),
        (
            ("bench", "ws://a", "--duration", "inf"),
            "argument --duration: a number of seconds over 0, 2000000 at most, not 'inf'",
        ),
        (("serve", "--chat", "--workers", "2"), "several chats"),
        (("bench", "ws://h/", "--depth", "0"), "a number from 1 to 1000000, not '0'"),
        (("trace", "ws://h/", "--listen", "x"), "a port is a number"),
        (("connect",), "the following arguments are required: url"),
        (("serve", "--echo", "--port", "http"), "a port is a number from 0 to 65535, not 'http'"),
        (("serve", "--echo", "--port", "65536"), "a port is a number from 0 to 65535, not '65536'"),
        (("serve", "--echo", "--port", "-1"), "a port is a number from 0 to 65535, not '-1'"),
        (("serve", "--echo", "--loop", "trio"), "invalid choice: 'trio'"),
        (("serve", "--echo", "--ssl-key", "key.pem"), "--ssl-key needs --ssl-cert"),
    ],
)
def test_a_command_line_that_makes_no_sense(arguments: tuple[str, ...], sentence: str) -> None:
    done = zcws(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [("connect", "ws://h/"), ("serve", "--echo"), ("bench", "ws://h/"), ("trace", "ws://h/"), ("info",)],
)
def test_an_option_that_there_is_not(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """What it was told showed the usage of `zcws`, which lists none of the options that the command has."""
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main((*arguments, "--verbose"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"usage: zcws {arguments[0]} ")
    assert err.endswith(f"\nzcws {arguments[0]}: error: unrecognized arguments: --verbose\n")


def test_help_names_every_command() -> None:
    done = zcws("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("connect", "serve", "bench", "trace", "info"))


def test_version() -> None:
    assert (zcws("--version").stdout, zcws("--version").returncode) == (f"zcws {__version__}\n", 0)


# ---- info ----


def test_info() -> None:
    done = zcws("info")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"zcws        {__version__}" in done.stdout


@pytest.mark.parametrize("name", available())
def test_a_kernel_can_be_forced(name: str) -> None:
    done = zcws("info", ZCWS_KERNEL=name)
    assert f"kernel      {name} (of {', '.join(available())};" in done.stdout


@pytest.mark.parametrize("command", [("info",), ("serve", "--echo", "--port", "0")])
def test_a_kernel_that_does_not_exist(command: tuple[str, ...]) -> None:
    sentence = f"there is no kernel 'turbo' on this machine: it has {', '.join(available())}"
    assert_refused(zcws(*command, ZCWS_KERNEL="turbo"), sentence)


# ---- what cannot be done ----


@pytest.mark.parametrize("way", ["the script", "python -m"])
def test_ctrl_c_while_it_is_being_imported(way: str) -> None:
    """The script `zcws` printed a traceback, and `python -m zcws` did not."""
    begin = """
import sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "zcws.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
"""
    script = re.search(r'^zcws = "(.*):(.*)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    assert script, "no script"
    run = {
        "the script": f"from {script[1]} import {script[2]}; sys.exit({script[2]}())",
        "python -m": "import runpy; runpy.run_module('zcws', run_name='__main__', alter_sys=True)",
    }[way]
    command = [sys.executable, "-c", begin + run]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("is_buffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [("info",), ("serve", "--echo", "--port", "0"), ("--version",), ("--help",), ("connect", "--help")],
)
def test_output_that_cannot_be_written(arguments: tuple[str, ...], is_buffered: str) -> None:
    """What waited in a buffer failed when Python had ended: exit code 120, and "Exception ignored"."""
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": is_buffered}
    command = [sys.executable, "-m", "zcws", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, "zcws: cannot write: [Errno 28] No space left on device\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C goes to a whole console")
@pytest.mark.parametrize("name", ["connect", "bench"])
def test_ctrl_c_before_a_connection_is_open(name: str) -> None:
    """The exit code was 0, as if all had been done."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        command = [sys.executable, "-m", "zcws", name, address]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT) as process:
            with listener.accept()[0] as sock:
                assert sock.recv(3) == b"GET"
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 130


def test_what_fails_elsewhere_is_not_blamed_on_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> str:
        raise OSError(5, "of something else")

    monkeypatch.setattr(info, "report", fails)
    with pytest.raises(OSError, match="of something else"):
        cli.main(["info"])


def assert_refused(done: object, sentence: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")  # type: ignore[attr-defined]
    error: str = done.stderr  # type: ignore[attr-defined]
    assert error.startswith("zcws: ") and error.count("\n") == 1, error
    assert sentence in error


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_port_in_use(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        done = zcws("serve", "--echo", "--port", str(port), "--loop", loop)
    assert_refused(done, f"127.0.0.1:{port} is in use")


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("no such host", "there is no host called 'no such host'"),
        ("a" * 64, "there is no host called 'aaaa"),
        ("203.0.113.9", "cannot listen on 203.0.113.9:8765: the host is not an address of this machine"),
    ],
)
def test_a_host_that_cannot_be_had(host: str, sentence: str) -> None:
    assert_refused(zcws("serve", "--echo", "--host", host), sentence)


def test_a_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    missing, wrong = tmp_path / "missing.pem", tmp_path / "wrong.pem"
    wrong.write_text("not a certificate", encoding="ascii")
    assert_refused(
        zcws("serve", "--echo", "--ssl-cert", str(missing)), f"cannot read {missing}: No such file"
    )
    assert_refused(
        zcws("serve", "--echo", "--ssl-cert", str(wrong)), f"{wrong} is not a certificate with its key"
    )
    alone = tmp_path / "alone.pem"
    trustme.CA().issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(alone)
    assert_refused(
        zcws("serve", "--echo", "--ssl-cert", str(alone)), "; is the key in another file? --ssl-key FILE"
    )


def test_uvloop_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert cli.main(["serve", "--echo", "--loop", "uvloop"]) == 1
    assert capsys.readouterr().err == "zcws: uvloop is not installed here: pip install uvloop\n"


# ---- serve ----


def test_the_line_that_says_where(tmp_path: Path) -> None:
    with served() as server:
        port = server.port
        assert server.announcement == (
            f"zcws listens on ws://127.0.0.1:{port}; "
            f"a page to try it is at http://127.0.0.1:{port}/ (Ctrl-C stops it)"
        )
    with served("--host", "0.0.0.0") as server:  # which no browser can go to
        assert f"ws://0.0.0.0:{server.port};" in server.announcement
        assert f" http://localhost:{server.port}/ " in server.announcement


def test_an_address_of_ip_version_6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    with served("--host", "::1") as server:
        assert f"ws://[::1]:{server.port}; " in server.announcement
        asyncio.run(check_echo(f"ws://[::1]:{server.port}/"))


async def check_echo(address: str, **options: object) -> None:
    async with connect(address, **options) as ws:  # type: ignore[arg-type]
        for message in ("grüße", b"\x00\xff", "", b"", b"x" * 5_000_000, ["in ", "fragments"]):
            await ws.send(message)
            assert await ws.recv() == ("in fragments" if isinstance(message, list) else message)
        assert (ws.connection.agreement.deflate is None) == (options.get("compression") is None)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_echo_and_ctrl_c(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with served("--loop", loop, "--compression") as server:
        address = f"ws://127.0.0.1:{server.port}/"

        async def run() -> None:
            await check_echo(address)
            await check_echo(address, compression="deflate")
            async with connect(address) as ws:
                # A second peer that never answers the Close must not keep the server alive.
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(request(first="GET / HTTP/1.1"))
                await reader.readuntil(b"\r\n\r\n")
                # A third has connected and says nothing.
                _, idle = await asyncio.open_connection("127.0.0.1", server.port)
                done = await asyncio.to_thread(server.interrupt)
                assert done == (0, "", "")
                assert await reader.read() == wire.frame(wire.CLOSE, wire.close_payload(1001))
                with pytest.raises(ConnectionClosedOK) as closed:
                    await ws.recv()
                assert closed.value.code == 1001
                writer.close()
                idle.close()

        asyncio.run(run())


def test_sigterm_is_as_good() -> None:
    with served() as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.communicate(timeout=60) == ("", "")
        assert server.process.returncode == 0


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    both = tmp_path / "both.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(both)
    with served("--ssl-cert", str(both)) as server:
        assert f"wss://127.0.0.1:{server.port};" in server.announcement
        assert f"https://127.0.0.1:{server.port}/ " in server.announcement
        context = trusting(authority)
        asyncio.run(check_echo(f"wss://127.0.0.1:{server.port}/", ssl=context))
        assert server.interrupt() == (0, "", "")


def trusting(authority: trustme.CA) -> object:
    import ssl

    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
