"""`zcws serve --workers N`: processes that share a port, and this one, which looks after them.

What happens to a worker, and what the supervisor does:

    it ends by itself                  says so, starts another; after a pause that doubles if it had just begun
    it does not come to listen         SIGKILL after a minute
    SIGHUP to the supervisor           N new ones; when all of them listen, SIGTERM to the old ones, which drain
    SIGTERM or Ctrl-C to it            the same signal to all, also to those that are starting; a bounded wait; SIGKILL
                                       to those that are left; a second signal is passed on, and ends their drain
    the supervisor is gone (kill -9)   a worker sees the end of its stdin, and ends

The port is shared by SO_REUSEPORT: each worker listens on a socket of its own, and the kernel gives each connection to
one of them. The sockets are the supervisor's, and a worker's successor has the same one: a client that waits in its
queue when a worker stops accepting, or dies, is accepted by the next. (With the last descriptor of a socket its queue
is lost, and the clients in it see a reset.)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

from zcws.cli.common import Failure, authority
from zcws.cli.reasons import refusal
from zcws.cli.terminal import say, say_on_stderr

__all__ = ["Supervisor", "supervise"]

#: Seconds: a worker that lived for longer is replaced without a pause.
SETTLED = 1.0

#: Seconds of pause before a worker that does not settle is started again: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

#: Seconds until a worker listens, at most; and one for each of them, because all start at once.
STARTING = 60

#: Seconds beyond --drain until SIGKILL: a worker says goodbye for one second and then ends.
GRACE = 5.0


class Worker:
    """One process that serves, on `sockets`."""

    def __init__(self, process: asyncio.subprocess.Process, sockets: list[socket.socket]) -> None:
        self.process = process
        self.sockets = sockets
        self.began: float = time.monotonic()
        self.listens: bool = False
        self.is_wanted: bool = True

    def end(self, number: int) -> None:
        """Sends it that signal: SIGTERM tells it to drain and end, SIGINT to end, and so does a second one."""
        self.is_wanted = False
        if number == signal.SIGINT and not self.listens:
            number = signal.SIGTERM  # Python prints a traceback when SIGINT comes while it starts
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Supervisor:
    """Keeps a worker alive for each item of `sockets`.

    Args:
        command: starts a worker, which prints one line when it listens; the descriptors of its sockets are appended.
        sockets: what each worker listens on. `stop` closes them.
        drain: seconds that a worker may take to end.
    """

    def __init__(self, command: list[str], sockets: list[list[socket.socket]], drain: float) -> None:
        self._command = command
        self._sockets = sockets
        self._drain = drain
        self._workers: set[Worker] = set()
        self._watchers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Starts all workers, and waits until they listen.

        Raises:
            Failure: one ended instead.
        """
        if not all(await self._start_all()):
            raise Failure("a worker ended before it listened")

    async def reload(self) -> None:
        """New workers; the old ones drain."""
        fresh = await self._start_all()
        if all(fresh):
            # Those as well that have ended and are about to be replaced, and their replacements.
            old = [worker for worker in self._workers if worker.is_wanted and worker not in fresh]
            for worker in old:
                worker.end(signal.SIGTERM)
            draining = sum(worker.process.returncode is None for worker in old)
            say_on_stderr(f"reloaded: {len(fresh)} new workers, {draining} drain")
        else:
            for survivor in filter(None, fresh):
                survivor.end(signal.SIGTERM)
            say_on_stderr("not reloaded: a new worker ended before it listened; the old ones go on")

    def end_all(self, number: int) -> None:
        """Sends that signal to all workers, those as well that do not listen yet."""
        for worker in self._workers:
            worker.end(number)

    async def stop(self, number: int) -> None:
        """Ends all workers, by that signal, and waits for their end. Nobody may be starting or reloading."""
        for sock in chain(*self._sockets):
            sock.close()  # or clients would wait in a queue that nobody will look at
        for watcher in self._watchers:
            watcher.cancel()
        self.end_all(number)
        ends = [asyncio.ensure_future(worker.process.wait()) for worker in self._workers]
        if not ends:
            return
        await asyncio.wait(ends, timeout=self._drain + GRACE)
        self.end_all(signal.SIGKILL)
        await asyncio.wait(ends)

    async def _start_all(self) -> list[Worker | None]:
        return await asyncio.gather(*map(self._start_one, self._sockets))

    async def _start_one(self, sockets: list[socket.socket]) -> Worker | None:
        """A worker that listens. None: it could not be started, or has ended instead; stderr says why."""
        numbers = [sock.fileno() for sock in sockets]
        try:
            # In a session of its own: Ctrl-C is for the supervisor, which passes it on.
            process = await asyncio.create_subprocess_exec(
                *self._command,
                f"--worker={','.join(map(str, numbers))}",
                pass_fds=numbers,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except Exception as error:  # no descriptors, no memory, no more processes: worth another try
            say_on_stderr(f"cannot start a worker: {getattr(error, 'strerror', None) or repr(error)}")
            return None
        worker = Worker(process, sockets)
        self._workers.add(worker)
        if not await self._comes_to_listen(worker):
            self._workers.discard(worker)
            return None
        watcher = asyncio.create_task(self._watch(worker))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return worker

    async def _comes_to_listen(self, worker: Worker) -> bool:
        """Waits until it does, or has ended instead."""
        process, patience = worker.process, STARTING + len(self._sockets)
        assert process.stdout is not None
        try:
            if await asyncio.wait_for(process.stdout.readline(), patience):
                worker.listens = True
                return True
        except asyncio.TimeoutError:
            say_on_stderr(f"worker {process.pid} did not listen within {patience} seconds")
            worker.end(signal.SIGKILL)
        await process.wait()
        return False

    async def _watch(self, worker: Worker) -> None:
        """Waits until the worker has ended, and another one serves in its place."""
        code = await worker.process.wait()
        pause = 0.0 if time.monotonic() - worker.began > SETTLED else FIRST_PAUSE
        replacement, why = None, f"worker {worker.process.pid} {how_it_ended(code)}"
        while worker.is_wanted and replacement is None:
            say_on_stderr(f"{why}: another one is started")
            await asyncio.sleep(pause)
            pause = min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
            if worker.is_wanted:
                replacement = await self._start_one(worker.sockets)
            why = f"nobody serves in place of worker {worker.process.pid} yet"
        self._workers.discard(worker)


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # most of the real-time signals have no name
        return f"was ended by signal {-code}"


async def supervise(options: argparse.Namespace) -> None:
    """`zcws serve --workers N`, until a signal says stop."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise Failure("--workers needs SO_REUSEPORT, which this system does not have")
    with reserve(options.host, options.port) as reserved:
        port = reserved.getsockname()[1]
        sockets = [await bind(options.host, port) for _ in range(options.workers)]
        workers = Supervisor(worker_command(options, port), sockets, options.drain)
        loop = asyncio.get_running_loop()
        stopping: asyncio.Future[int] = loop.create_future()
        reload = asyncio.Event()

        def stop(number: int) -> None:
            if stopping.done():
                workers.end_all(number)
            else:
                stopping.set_result(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        s = "s" if options.ssl_cert else ""
        where = f"ws{s}://{authority(options.host, port)}"
        announcement = f"zcws listens on {where}; {options.workers} workers (Ctrl-C stops them)"

        def begin() -> None:
            say(announcement)
            options.has_begun = True

        serving = asyncio.create_task(serve(workers, begin, reload))
        either: list[asyncio.Future[Any]] = [serving, stopping]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        finally:
            await workers.stop(stopping.result() if stopping.done() else signal.SIGTERM)
        if stopping.done() and stopping.result() == signal.SIGINT and not options.has_begun:
            raise KeyboardInterrupt


async def serve(workers: Supervisor, begin: Callable[[], None], reload: asyncio.Event) -> None:
    """Starts the workers, calls `begin`, and reloads as often as it is asked for, until it is cancelled."""
    await workers.start()
    begin()
    while True:
        await reload.wait()
        reload.clear()
        await workers.reload()


def reserve(host: str, port: int) -> socket.socket:
    """A socket that is bound to the port, and does not listen.

    Raises:
        Failure: it cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise Failure(refusal(error, host, port)) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # As event loops do where they listen: connections of a server that has ended keep its port for a minute.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise Failure(refusal(error, host, port)) from None
    return sock


async def bind(host: str, port: int) -> list[socket.socket]:
    """What one worker listens on: a socket for each address of the host.

    Raises:
        Failure: one of them cannot be bound.
    """
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(asyncio.Protocol, host, port, reuse_port=True, start_serving=False)
        sockets = [socket.socket(fileno=os.dup(sock.fileno())) for sock in server.sockets]
    except OSError as error:
        raise Failure(refusal(error, host, port)) from None
    server.close()
    return sockets


def worker_command(options: argparse.Namespace, port: int) -> list[str]:
    """The command line of a worker, without its sockets: the supervisor's options, and that port."""
    # Not -m, which looks for modules in the current directory first: perhaps that holds served files of other people.
    begin = f"import sys; sys.path[:] = {sys.path}; from zcws.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", begin, "serve"]
    command += [f"--host={options.host}", f"--port={port}"]
    told: dict[str, Any] = vars(options)
    for name in ("echo", "compression", "http2"):
        command += [f"--{name}"] if told[name] else []
    for name in ("static", "ssl_cert", "ssl_key", "loop", "drain"):
        command += [f"--{name.replace('_', '-')}={told[name]}"] if told[name] else []
    return command
