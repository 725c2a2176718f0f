"""Ends of life: a program that stops, forks or forgets while connections are open. Nothing crashes, hangs or says a
word that nobody asked for; where ResourceWarnings were asked for, there is one that names the connection.

Each is a program of its own, for what it does on its way out. The server that they talk to is in this process.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import zcws.sync
from zcws.aio.engine import is_engine_on

LONG = 60  # seconds after which a program hangs

#: `ws` is open and has been used; `use` sends and receives, `finish` closes.
OPEN = {
    "asyncio": """
import asyncio, gc, os, sys, threading, zcws
loop = asyncio.new_event_loop()
do = loop.run_until_complete

async def _open():
    return await zcws.connect(sys.argv[1])

async def _use(ws, text):
    await ws.send(text)
    return await ws.recv()

def connect(): return do(_open())
def use(ws, text): return do(_use(ws, text))
def finish(ws): do(ws.close())
def leave(): loop.close()
""",
    "sync": """
import gc, os, sys, threading
from zcws.sync import connect as _connect
def connect(): return _connect(sys.argv[1])
def use(ws, text):
    ws.send(text)
    return ws.recv()
def finish(ws): ws.close()
def leave(): pass
""",
}

DRIVERS = ["engine", "transport", "sync"]


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    def echo(ws: zcws.sync.WebSocket) -> None:
        for message in ws:
            ws.send(message)

    server = zcws.sync.serve(echo, "127.0.0.1", 0, close_timeout=1)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"ws://127.0.0.1:{server.sock.getsockname()[1]}/"
    server.shutdown()
    thread.join()


def run(driver: str, program: str, *words: str, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Runs a program; its exit code, what it printed, and what it complained of."""
    code = (OPEN["sync" if driver == "sync" else "asyncio"] if words else "") + program
    environ = {**os.environ, "ZCWS_ENGINE": "0" if driver == "transport" else "1", "PYTHONWARNINGS": ""}
    done = subprocess.run(
        [sys.executable, *flags, "-c", code, *words],
        capture_output=True,
        text=True,
        env=environ,
        timeout=LONG,
    )
    return done.returncode, done.stdout, done.stderr


WAYS_OUT = {
    "the program is over": "",
    "sys.exit": "sys.exit(7)",
    "the loop is closed": "leave()",
    "and used after that": """
leave()
try:
    ws.send_nowait("late") if hasattr(ws, "send_nowait") else use(ws, "late")
except RuntimeError as error:
    assert "Event loop is closed" in str(error), error
""",
    "the connection is forgotten": "del ws; gc.collect()",
    "with the loop": "leave(); del ws; loop = do = None; gc.collect()",
    "atexit": """
import atexit
atexit.register(lambda: (use(ws, "late"), finish(ws), leave()))
""",
    "a daemon thread reads": """
ready = threading.Event()
def wait():
    ready.set()
    use(ws, "a"); ws.recv() if hasattr(ws, "split") and "sync" in type(ws).__module__ else do(ws.recv())
threading.Thread(target=wait, daemon=True).start()
ready.wait()
""",
    "used after its end": """
finish(ws)
for attempt in (lambda: use(ws, "late"), lambda: use(ws, b"late")):
    try:
        attempt()
    except zcws.ConnectionClosed as error:
        assert error.code == 1000
    else:
        raise AssertionError
finish(ws)
leave()
""",
}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_program_that_leaves_is_silent(uri: str, driver: str, way: str) -> None:
    opened = 'import zcws\nws = connect()\nother = connect()\nassert use(ws, "a") == "a"\n'
    code = 7 if way == "sys.exit" else 0
    assert run(driver, opened + WAYS_OUT[way], uri) == (code, "", "")


FORGOTTEN = """
import warnings
ws = connect()
assert use(ws, "a") == "a"
before = len(os.listdir("/proc/self/fd"))
leave()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    loop = do = ws = None
    gc.collect()
assert {each.category for each in caught} == {ResourceWarning}, caught
print([str(each.message) for each in caught])
assert len(os.listdir("/proc/self/fd")) < before
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted as Linux shows them")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="elsewhere finalizers come when they come")
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_forgotten_connection_is_closed_and_named(uri: str, driver: str) -> None:
    code, said, complaint = run(driver, FORGOTTEN, uri)
    assert (code, complaint) == (0, "")
    # On a transport of asyncio's own it is asyncio that warns. The collector calls finalizers in any order: that of the
    # socket may come first, and then nobody knows the peer's address.
    name = {
        "engine": r"unclosed <WebSocket client( with \S+ \S+)?, open> on <EngineTransport fd=",
        "transport": "unclosed transport <_SelectorSocketTransport",
        "sync": "unclosed WebSocket connection, fd=",
    }[driver]
    assert re.search(name, said)


FORKED = """
ws, other = connect(), connect()
assert use(ws, "a") == "a"
child = os.fork()
if child == 0:
    # The parent's connections are left alone; one of its own works.
    {loop}
    mine = connect()
    assert use(mine, "child") == "child"
    finish(mine)
    {leaves}
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
for i in range(3):
    assert use(ws, f"parent {{i}}") == f"parent {{i}}"
    assert use(other, b"x" * 100_000) == b"x" * 100_000
finish(ws)
finish(other)
leave()
"""


A_LOOP = "loop = asyncio.new_event_loop(); do = loop.run_until_complete"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("leaves", ["os._exit(0)", "sys.exit(0)", "del ws, other; gc.collect(); sys.exit(0)"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_child_process_leaves_its_parents_connections_alone(uri: str, driver: str, leaves: str) -> None:
    program = FORKED.format(loop="pass" if driver == "sync" else A_LOOP, leaves=leaves)
    assert run(driver, program, uri) == (0, "", "")


@pytest.mark.skipif(not is_engine_on(), reason="there is no engine here")
def test_a_child_that_ends_its_parents_connections_ends_none_of_the_engine(uri: str) -> None:
    """It used to take the sockets out of the epoll that it shares with its parent, which never heard of them again."""
    program = FORKED.format(loop=A_LOOP, leaves="ws.abort(); other.abort(); os._exit(0)")
    assert run("engine", program, uri) == (0, "", "")


PREFORKED = """
import os, signal, sys, threading
import zcws.sync

def echo(ws):
    for message in ws:
        ws.send(message)

def use():
    with zcws.sync.unix_connect(sys.argv[1]) as ws:
        ws.send("x")
        assert ws.recv() == "x"

def stop(child):
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == 0

def begin(act):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, lambda *_: (server.shutdown(), act is signal.pause and os._exit(0)))
        os.write(ready, b"x")
        act()
        os._exit(0)
    assert os.read(begun, 1) == b"x"
    return child

begun, ready = os.pipe()
server = zcws.sync.unix_serve(echo, sys.argv[1], close_timeout=None)
{serve}
assert not os.path.exists(sys.argv[1])
"""

BY_CHILDREN = """
one, other = begin(server.serve_forever), begin(server.serve_forever)
stop(one)
use()  # the other serves on, at the path
stop(other)
server.shutdown()
"""

BY_THEIR_PARENT = """
thread = threading.Thread(target=server.serve_forever)
thread.start()
use()
one, other = begin(signal.pause), begin(signal.pause)
stop(one)
use()  # the parent serves on
server.shutdown()
thread.join()  # though a child holds all that it had
stop(other)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("serve", [BY_CHILDREN, BY_THEIR_PARENT], ids=["children", "parent"])
def test_a_server_that_several_processes_have(serve: str, tmp_path: Path) -> None:
    """The end of one was not heard in its own thread, and took the path from the others."""
    program = PREFORKED.format(serve=serve)
    # CPython warns from 3.12 on of a fork while there are threads.
    flags = ("-W", "ignore::DeprecationWarning")
    assert run("sync", program, str(tmp_path / "socket"), flags=flags) == (0, "", "")


DAEMONS = """
import os, sys
import zcws.sync

server = zcws.sync.unix_serve(print, sys.argv[1])
for _ in range(2):
    if os.fork() == 0:
        os.read(0, 1)
        server.shutdown()
        os.write(1, b"%d" % os.path.exists(sys.argv[1]))
        os._exit(0)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_server_whose_maker_has_gone(tmp_path: Path) -> None:
    """A daemon left the file of its socket behind. As long as another process listens there, the file has to stay."""
    command = [sys.executable, "-c", DAEMONS, str(tmp_path / "socket")]
    with subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        assert maker.stdin is not None and maker.stdout is not None
        assert maker.wait(LONG) == 0
        for is_left in (b"1", b"0"):
            maker.stdin.write(b"x")
            assert maker.stdout.read(1) == is_left


SERVER = """
import asyncio, sys, zcws, gc, warnings

async def handler(ws):
    async for message in ws:
        if message == "exit":
            sys.exit(7)
        await ws.send(message)

async def main():
    server = await zcws.serve(handler, "127.0.0.1", 0)
    uri = "ws://127.0.0.1:%d/" % server.sockets[0].getsockname()[1]
    first, second = await zcws.connect(uri), await zcws.connect(uri)
    for ws in (first, second):
        await ws.send("a")
        assert await ws.recv() == "a"
    {then}

{begin}
"""

RUN = "asyncio.run(main())"
KEEP = "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())"

SERVERS = {
    "sys.exit in a handler": ('await first.send("exit"); await asyncio.sleep(60)', RUN, 7),
    "the loop is over": ("pass", RUN, 0),
    "the loop is never closed": ("pass", KEEP, 0),
    "the loop is forgotten": ("pass", f"{KEEP}\ndel loop\ngc.collect()", 0),
    "closed and forgotten": ("pass", f"{KEEP}\nloop.close()\ndel loop\ngc.collect()", 0),
    "everything is forgotten": (
        "del server, first, second, ws; gc.collect(); await asyncio.sleep(0.01)",
        RUN,
        0,
    ),
}


@pytest.mark.parametrize("driver", ["engine", "transport"])
@pytest.mark.parametrize("end", SERVERS)
def test_a_server_that_is_left_is_silent(driver: str, end: str) -> None:
    then, begin, code = SERVERS[end]
    found, _, complaint = run(driver, SERVER.format(then=then, begin=begin))
    # asyncio says of every task that nobody waited for or cancelled that it was pending. It is right; no more is said.
    said = [line for line in complaint.splitlines() if "but it is pending" not in line]
    assert (found, [line for line in said if "coro=<Server._run()" not in line]) == (code, [])
    assert begin != RUN or said == []


LOOPS = """
import asyncio, gc, os, socket, weakref, zcws
from zcws.aio.transport import place
from zcws.aio.settings import Options, pool_of

gone, peers = [], []

async def leave_one_open():
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    ws = zcws.WebSocket(loop, zcws.Connection(is_client=False, pool=pool_of(loop)), Options())
    ws.connection_made(place(loop, ours, ws))
    await asyncio.sleep(0)
    gone.extend([weakref.ref(ws), weakref.ref(loop)])
    peers.append(peer)

before = len(os.listdir("/proc/self/fd"))
for _ in range(20):
    asyncio.run(leave_one_open())
gc.collect()
assert [each() for each in gone] == [None] * 40
assert all(peer.recv(1) == b"" for peer in peers)
assert len(os.listdir("/proc/self/fd")) == before + len(peers)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the engine is on Linux")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="elsewhere finalizers come when they come")
def test_loops_that_ended_with_open_connections_are_not_kept_by_the_engine() -> None:
    assert run("engine", LOOPS) == (0, "", "")
