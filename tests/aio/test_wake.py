from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
import wire
from net import LONG, SHORT, Place, echo, soon, until

import zcws
from zcws.aio.wake import Wakeup


def callers() -> list[str]:
    """The names of the functions below this one, as far as they are Python."""
    names, frame = [], sys._getframe(1)
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return names


#: Runs the event loop again from inside of it, which has others receive.
NESTED = """
import asyncio
import nest_asyncio
import zcws

nest_asyncio.apply()


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def ask(ws, *questions):
    for question in questions:
        await ws.send(question)
        assert await ws.recv() == question


async def main():
    async with zcws.serve(echo, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with zcws.connect(uri) as inner:
            await talk(uri, inner)


"""

#: A task that is resumed with a message does so.
BY_TASK = """
async def talk(uri, inner):
    async with zcws.connect(uri) as outer:
        for _ in range(10):
            await ask(outer, "outer")
            await outer.send("meanwhile")
            asyncio.run(ask(inner, "a", "b", "c"))
            assert await outer.recv() == "meanwhile"
"""

#: A function that is shown a message does.
BY_FUNCTION = """
async def talk(uri, inner):
    def shown(ws, message):
        asyncio.run(ask(inner, "a", "b", "c"))
        got.append(message)

    got, sent = [], [str(i) for i in range(10)]
    async with zcws.connect(uri, on_message=shown) as outer:
        for message in sent:
            await outer.send(message)
        while len(got) < len(sent):
            await asyncio.sleep(0.01)
        assert got == sent
"""


@pytest.mark.parametrize("talk", [BY_TASK, BY_FUNCTION], ids=["task", "function"])
def test_what_runs_the_event_loop_again(talk: str) -> None:
    """The callback that had resumed the task was called again, in a context that was in use, and refused, for ever. The
    function was shown the next message inside of itself."""
    pytest.importorskip("nest_asyncio", reason="nest_asyncio is for the CPythons that its last version knows")
    program = NESTED + talk + "\n\nasyncio.run(main())\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stderr) == (0, "")


async def waits(wakeup: Wakeup, seen: list[str]) -> None:
    await wakeup
    seen.append("resumed")


class TestWakeup:
    def test_the_task_runs_before_wake_returns(self, anyloop: Place) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            wakeup, seen = Wakeup(loop), list[str]()

            async def wait() -> None:
                for _ in range(3):
                    await wakeup
                    seen.append("resumed")

            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0)

            def from_the_loop() -> None:
                for number in range(3):
                    assert wakeup.is_waiting
                    wakeup.wake()
                    assert len(seen) == number + 1
                assert not wakeup.is_waiting

            loop.call_soon(from_the_loop)
            await soon(task)
            assert len(seen) == 3

        anyloop.run(main())

    def test_while_another_task_runs_the_loop_has_to_do_it(self, anyloop: Place) -> None:
        async def main() -> None:
            wakeup, seen = Wakeup(asyncio.get_running_loop()), list[str]()

            task = asyncio.ensure_future(waits(wakeup, seen))
            await asyncio.sleep(0)
            wakeup.wake()  # here `main` is the task that runs
            wakeup.wake()  # and once is enough
            assert seen == []
            await soon(task)
            assert seen == ["resumed"]

        anyloop.run(main())

    def test_waking_nobody_does_nothing(self, anyloop: Place) -> None:
        async def main() -> None:
            wakeup = Wakeup(asyncio.get_running_loop())
            wakeup.wake()
            wakeup.wake_soon()
            wakeup.give_up(ValueError())
            assert not wakeup.is_waiting

        anyloop.run(main())

    def test_a_wait_may_end_with_an_error(self, anyloop: Place) -> None:
        async def main() -> None:
            wakeup = Wakeup(asyncio.get_running_loop())

            task = asyncio.ensure_future(waits(wakeup, []))
            await asyncio.sleep(0)
            wakeup.give_up(ValueError("over"))
            wakeup.give_up(ValueError("once is enough"))
            with pytest.raises(ValueError, match="over"):
                await soon(task)

        anyloop.run(main())

    def test_the_context_is_the_tasks_own(self, anyloop: Place) -> None:
        async def main() -> None:
            variable = contextvars.ContextVar[str]("variable", default="none")
            loop = asyncio.get_running_loop()
            wakeup, seen = Wakeup(loop), list[str]()

            async def wait() -> None:
                variable.set("of the task")
                await wakeup
                seen.append(variable.get())

            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            variable.set("of somebody else")
            loop.call_soon(wakeup.wake)
            await soon(task)
            assert seen == ["of the task"]

        anyloop.run(main())

    def test_whoever_else_waits_for_the_same_future_is_woken_too(self, anyloop: Place) -> None:
        """A wrapper may hand on what its coroutine waits for; then the callback is not a task's own."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            wakeup, seen = Wakeup(loop), list[str]()

            coroutine = waits(wakeup, [])
            future = coroutine.send(None)
            future._asyncio_future_blocking = False
            for name in ("one", "two"):
                future.add_done_callback(lambda _, name=name: seen.append(name))
            loop.call_soon(wakeup.wake)
            await until(lambda: len(seen) == 2)
            with pytest.raises(StopIteration):
                coroutine.send(None)
            assert seen == ["one", "two"]

        anyloop.run(main())

    def test_a_task_that_could_not_be_resumed_waits_still(self, anyloop: Place) -> None:
        """For want of memory. Nobody woke it any more, not even at the end of its connection."""

        class Poor:
            """A future whose callback cannot be run."""

            def __init__(self, real: Any) -> None:
                self._callbacks = [(lambda: None, self)]
                self.done, self.set_result = real.done, real.set_result

            def run(self, *what: object) -> None:
                raise MemoryError

        async def main() -> None:
            wakeup = Wakeup(asyncio.get_running_loop())

            async def wait() -> None:
                await wakeup

            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            wakeup._future = Poor(wakeup._future)  # type: ignore[assignment]
            with pytest.raises(MemoryError):
                wakeup.wake()
            assert wakeup.is_waiting
            wakeup.wake_soon()
            await soon(waiting)

        anyloop.run(main())

    def test_one_task_at_a_time(self, anyloop: Place) -> None:
        async def main() -> None:
            wakeup = Wakeup(asyncio.get_running_loop())

            first = asyncio.ensure_future(waits(wakeup, []))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await waits(wakeup, [])
            wakeup.wake_soon()
            await soon(first)

        anyloop.run(main())

    def test_a_task_of_another_loop_is_refused_and_leaves_nothing_behind(self, anyloop: Place) -> None:
        """The loop's own task could not wait any more: "another task is reading", for ever."""

        async def main() -> None:
            wakeup, seen = Wakeup(asyncio.get_running_loop()), list[str]()

            with pytest.raises(RuntimeError, match="different loop"):
                await asyncio.to_thread(lambda: asyncio.run(waits(wakeup, [])))
            task = asyncio.ensure_future(waits(wakeup, seen))
            await asyncio.sleep(0)
            wakeup.wake_soon()
            await soon(task)
            assert seen == ["resumed"]

        anyloop.run(main())

    @pytest.mark.parametrize("woken", ["before", "after", "not at all"])
    def test_cancelled(self, anyloop: Place, woken: str) -> None:
        """A task that is cancelled hears of it once, whatever else happens in the same turn."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            wakeup, seen = Wakeup(loop), list[str]()

            async def wait() -> None:
                try:
                    await wakeup
                    seen.append("resumed")
                except asyncio.CancelledError as error:
                    seen.append(f"cancelled: {error}")
                await asyncio.sleep(0)
                await wakeup  # and it can wait again
                seen.append("again")

            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            if woken == "before":
                wakeup.wake_soon()
            task.cancel("because")
            if woken == "after":
                loop.call_soon(wakeup.wake)
            await until(lambda: seen and wakeup.is_waiting)
            assert seen == ["cancelled: because"]
            wakeup.wake_soon()
            await soon(task)
            assert seen[1:] == ["again"]

        anyloop.run(main())

    def test_a_cancelled_task_is_not_resumed_by_a_wake_in_the_same_callback(self, anyloop: Place) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            wakeup, seen = Wakeup(loop), list[str]()

            task = asyncio.ensure_future(waits(wakeup, seen))
            await asyncio.sleep(0)

            def cancel_and_wake() -> None:
                task.cancel()
                wakeup.wake()
                assert seen == []

            loop.call_soon(cancel_and_wake)
            with pytest.raises(asyncio.CancelledError):
                await soon(task)
            assert seen == []

        anyloop.run(main())

    def test_an_exception_of_the_task_is_the_tasks(self, anyloop: Place) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            wakeup = Wakeup(loop)

            async def wait() -> None:
                await wakeup
                raise LookupError("a bug")

            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            returned: list[bool] = []

            def wake() -> None:
                wakeup.wake()
                returned.append(True)

            loop.call_soon(wake)
            with pytest.raises(LookupError):
                await soon(task)
            assert returned == [True]

        anyloop.run(main())


def test_a_loop_that_is_over_goes_away() -> None:
    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.get_running_loop()
        wakeup = Wakeup(loop)
        loop.call_soon(wakeup.wake)
        await wakeup
        return weakref.ref(loop)

    loop = asyncio.run(main())
    for _ in range(3):  # PyPy: what a finalizer held goes with the next collection
        gc.collect()
    assert loop() is None


class TestOnSockets:
    @pytest.mark.parametrize("word", [SystemExit, KeyboardInterrupt])
    def test_a_task_that_ends_the_loop(self, anyplace: Place, word: type[BaseException]) -> None:
        """uvloop's own transports took it for a failure of the connection, and `sys.exit` after a read ended nothing:
        the loop ran on for ever. With asyncio's, what was sent when the loop ran again waited for bytes of the peer."""

        async def start() -> tuple[zcws.Server, zcws.WebSocket]:
            server = await anyplace.serve(echo)
            return server, await anyplace.connect(server)

        async def read() -> None:
            for text in ("1", "2", "3"):
                client.send_nowait(text)
            assert await client.recv() == "1"
            client.send_nowait("4")
            raise word

        async def go_on() -> list[object]:
            client.send_nowait("5")
            received = [await soon(client.recv()) for _ in range(4)]
            await client.close()
            server.close()
            await server.wait_closed()
            return received

        with anyplace.new_loop() as loop:
            server, client = loop.run_until_complete(start())
            with pytest.raises(word):
                loop.run_until_complete(read())
            assert loop.run_until_complete(go_on()) == ["2", "3", "4", "5"]

    def test_a_read_costs_no_turn_of_the_loop(self, anyplace: Place) -> None:
        """The handler runs inside of the callback that received."""

        async def main() -> None:
            seen: list[list[str]] = []

            async def handler(ws: zcws.WebSocket) -> None:
                async for _ in ws:
                    seen.append(callers())

            async with (
                anyplace.serve(handler, close_timeout=0.05) as server,
                anyplace.raw_client(server) as peer,
            ):
                for _ in range(3):
                    await peer.send(wire.PING)  # by its answer, the handler waits
                    await peer.read()
                    await peer.send(wire.TEXT, b"x")
                    before = len(seen)
                    await until(lambda before=before: len(seen) > before)
            assert all({"buffer_updated", "scanned", "arrived"} & set(names) for names in seen[1:])

        anyplace.run(main())

    @pytest.mark.parametrize(
        "what", ["close", "abort", "send", "connect", "return", "raise", "cancel itself"]
    )
    def test_what_the_task_may_do_in_there(
        self, anyplace: Place, what: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            inside: list[bool] = []

            async def handler(ws: zcws.WebSocket) -> None:
                if ws.request is not None and ws.request.path == "/other":
                    await ws.send("from the other")
                    return
                await ws.recv()
                inside.append(not {"buffer_updated", "scanned", "arrived"}.isdisjoint(callers()))
                await act(ws)

            async def act(ws: zcws.WebSocket) -> None:
                if what == "close":
                    await ws.close(4000, "from inside")
                elif what == "abort":
                    ws.abort()
                elif what == "send":
                    for _ in range(50):
                        await ws.send(bytes(100_000))
                elif what == "connect":
                    async with anyplace.connect(server, "/other") as other:
                        await ws.send(await other.recv())
                elif what == "raise":
                    raise LookupError("from inside")
                elif what == "cancel itself":
                    task: Any = asyncio.current_task()
                    task.cancel()
                    await asyncio.sleep(0)

            # The peer does not answer the Close; a four-hundredth of a test's patience is enough to get there, behind
            # much that is sent a fortieth.
            close_timeout = LONG / (40 if what == "send" else 400)
            async with anyplace.serve(handler, close_timeout=close_timeout) as server:
                async with anyplace.raw_client(server) as peer:
                    await until(lambda: server.connections)
                    await peer.send(wire.PING)
                    await peer.read()
                    await peer.send(wire.TEXT, b"now")
                    try:
                        frames = await peer.rest()
                    except ConnectionError:
                        frames = []
                await until(lambda: not server.connections)
            assert inside == [True]
            closes = [frame.payload for frame in frames if frame.opcode == wire.CLOSE]
            expected = {
                "close": [wire.close_payload(4000, b"from inside")],
                "abort": [],
                "raise": [wire.close_payload(1011)],
                "cancel itself": [],
            }.get(what, [wire.close_payload(1000)])
            assert closes == expected
            messages = [frame.payload for frame in frames if frame.opcode in (wire.TEXT, wire.BINARY)]
            assert messages == {"send": [bytes(100_000)] * 50, "connect": [b"from the other"]}.get(what, [])

        anyplace.run(main())

    def test_many_connections_wake_each_other(self, anyplace: Place) -> None:
        """A handler that writes to everybody, inside of the callback that woke it."""

        async def main() -> None:
            everybody: set[zcws.WebSocket] = set()

            async def handler(ws: zcws.WebSocket) -> None:
                everybody.add(ws)
                try:
                    async for message in ws:
                        for other in everybody:
                            await other.send(message)
                finally:
                    everybody.discard(ws)

            async with anyplace.serve(handler) as server:
                clients = [await anyplace.connect(server) for _ in range(8)]
                await until(lambda: len(everybody) == 8)
                for client in clients:
                    await client.send("all")
                for client in clients:
                    assert [await soon(client.recv()) for _ in range(8)] == ["all"] * 8
                await asyncio.gather(*(client.close() for client in clients))

        anyplace.run(main())

    def test_loops_in_two_threads_have_nothing_in_common(self, place: Place) -> None:
        async def main() -> None:
            async with place.serve(echo) as server, place.connect(server) as ws:
                for number in range(200):
                    await ws.send(str(number))
                    assert await soon(ws.recv()) == str(number)

        failures: list[BaseException] = []

        def run() -> None:
            try:
                place.run(main())
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_whether_anybody_has_waited(anyloop: Place) -> None:
    async def main() -> None:
        wakeup = Wakeup(asyncio.get_running_loop())
        assert wakeup.is_unused
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_wait(wakeup), SHORT)
        assert not wakeup.is_unused

    anyloop.run(main())


async def _wait(wakeup: Wakeup) -> None:
    await wakeup
