"""Mutation testing: how many small mistakes in the code would the tests find?

    python tests/mutation/run.py                           everything: nine minutes of CPU
    python tests/mutation/run.py --minutes 10 --seed 1     as many as there is time for; the seed orders
    python tests/mutation/run.py zcws.writer               one module; any of the core, with its own tests besides
    python tests/mutation/run.py zcws.aio.engine           one module of a driver, with its own tests only;
                                                           --more aio/test_stream.py has others look at what these leave
    python tests/mutation/run.py --journal FILE            what has a verdict in FILE is not tried again; the others get
                                                           one there, so a run may be stopped and gone on with

One process imports and collects the tests once. Its first child runs each test once, to learn which lines it reaches
and how long it takes: so the parent never has a thread or an event loop, and may fork. Then, for each mutant, it forks;
the child puts the mutant's code into the live function and runs the tests that reach its line, the fastest first, until
one fails. So a mutant that dies costs milliseconds. A child that takes too long, or too much memory, has hung or run
away, which is noticed too: it counts as killed.

Survivors are printed. Those that were looked at stand in survivors.txt with the reason; one that does not makes the run
fail, and so does a line there that names what the source has no more. A survivor takes as long as hundreds that die,
because it goes through all of its tests: so those that are in survivors.txt are tried only with --again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib
import inspect
import itertools
import mmap
import os
import pickle
import random
import re
import resource
import signal
import struct
import sys
import time
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import coverage
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mutants import Mutant, mutants_of

ROOT = Path(__file__).parent.parent.parent

MODULES = [
    "zcws.reader",
    "zcws.alone",
    "zcws.pieces",
    "zcws.controls",
    "zcws.inlet",
    "zcws.waiting",
    "zcws.leasing",
    "zcws.outcome",
    "zcws.batch",
    "zcws.assembly",
    "zcws.closing",
    "wire",
]

#: The fast sans-I/O tests in which these modules are used at all.
TESTS = (
    *(
        "reader",
        "alone",
        "pieces",
        "rows",
        "batch",
        "controls",
        "inlet",
        "waiting",
        "leasing",
        "outcome",
        "assembly",
        "closing",
        "wire",
        "connection",
    ),
    *("payload_origin", "behaviour_frames", "behaviour_deflate", "behaviour_no_masking"),
)

#: Not these, which take longer than all others together: any messages, and what inflates to a thousand times its size.
LEAVE = "not bomb and not test_what_comes_out_is_what_went_in"

#: Seconds of CPU of the slowest tests that are taken: a survivor goes through all of them.
SLOWEST = 2.0

#: A test hangs when it takes so many times the CPU that it took without a mutant, and so many seconds more.
TIMES, PATIENCE = 10, 2.0

#: Or so many seconds by the clock: those of a driver wait, and other work may have the machine.
CLOCK = 40.0

#: Bytes of memory for one mutant beyond the 300 MiB that the tests take: a loop that collects for ever ends there.
MEMORY = 4 << 30


def path_of(module: str) -> Path:
    return ROOT / "tests" / "wire.py" if module == "wire" else ROOT / (module.replace(".", "/") + ".py")


#: What tests/aio/conftest.py calls the places where a driver's test runs.
PLACE = re.compile(r"\b(asyncio|uvloop)(-(engine|transport|tls|looptls|http2))?\b")

#: How a child ends that could not put its mutant where the function is.
NOT_APPLIED = 3

#: For each file and line, the tests that reach it.
Lines = dict[str, dict[int, set[str]]]


class Runner:
    """The part of pytest that runs what has been collected; here it does so once for every mutant."""

    def __init__(
        self, mutants: list[tuple[str, Mutant]], options: argparse.Namespace, out: TextIO, journal: TextIO
    ) -> None:
        self.mutants = mutants
        self.minutes: float = options.minutes
        self.seconds: float = options.seconds
        self.jobs: int = options.jobs
        self.out = out
        self.journal = journal
        self.verdicts: dict[Mutant, str] = {}
        # For each child when its present test began, which it writes and we read.
        self.begun: dict[int, mmap.mmap] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        from hypothesis import Phase, settings  # pytest wants to be the first to import it

        # Examples are the same every time. A failure is one: it need not be made small.
        settings.register_profile(
            "mutation", derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate]
        )
        settings.load_profile("mutation")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        began = time.monotonic()
        gc.freeze()  # what is here already is not looked at by any child, so its pages stay shared
        lines, seconds = self._learn_in_child(session)
        self._say(f"{len(session.items)} tests once: {time.monotonic() - began:.0f} s")
        children: dict[int, Mutant] = {}
        for module, mutant in self.mutants:
            if time.monotonic() - began > 60 * self.minutes:
                break
            reached = lines.get(str(path_of(module)), {})
            # A condition over several lines has no code in its first.
            tests = reached.get(mutant.line) or reached.get(mutant.line + 1, set())
            if not mutant.function:
                tests = set().union(*reached.values())
            items = self._in_time(
                [item for item in session.items if item.nodeid in tests and seconds[item.nodeid] < SLOWEST],
                path_of(module),
                seconds,
            )
            if not items:
                self._judge(mutant, "reached by no test")
                continue
            while len(children) >= self.jobs:
                self._reap(children)
            children[self._start(session, module, mutant, items, seconds)] = mutant
        while children:
            self._reap(children)
        return True

    def _learn_in_child(self, session: pytest.Session) -> tuple[Lines, dict[str, float]]:
        """What `_learn` finds out."""
        receiver, sender = os.pipe()
        child = os.fork()
        if not child:
            try:
                found = self._learn(session)
                with open(sender, "wb") as file:
                    pickle.dump(found, file)
            finally:
                os._exit(0)
        os.close(sender)
        with open(receiver, "rb") as file:
            told = file.read()
        os.waitpid(child, 0)
        assert told, "the tests have to pass without a mutant"
        found = pickle.loads(told)
        return found

    def _learn(self, session: pytest.Session) -> tuple[Lines, dict[str, float]]:
        """Which tests reach a line of a file, and how long each test takes."""
        tracer = coverage.Coverage(
            data_file=None,
            config_file=False,
            include=sorted({str(path_of(module)) for module, _ in self.mutants}),
        )
        seconds = {}
        tracer.start()
        mine = sys.gettrace()
        for item, following in pairs(session.items):
            if sys.gettrace() is not mine:  # a test that traces has ended it, whatever it has put back
                tracer.stop()
                tracer.start()
                mine = sys.gettrace()
            tracer.switch_context(item.nodeid)
            began = time.process_time()
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            seconds[item.nodeid] = time.process_time() - began
        tracer.stop()
        assert session.testsfailed == 0, "the tests have to pass without a mutant"
        found = {}
        for file in tracer.get_data().measured_files():
            contexts = tracer.get_data().contexts_by_lineno(file)
            found[file] = {line: {test for test in tests if test} for line, tests in contexts.items()}
        return found, seconds

    def _in_time(self, items: list[pytest.Item], path: Path, seconds: dict[str, float]) -> list[pytest.Item]:
        """The fastest first, and as many as there is time for: then the module's own before all others."""
        items = sorted(items, key=lambda item: seconds[item.nodeid])
        if path.parent.name in ("zcws", "tests"):
            return items
        own = mirror_of(path)
        items.sort(key=lambda item: item.path != own)
        # A driver's test that runs in several places is run where it is fastest of those that reach the line; in the
        # others when every test has been run once.
        firsts = {PLACE.sub("", item.nodeid): item for item in reversed(items)}
        items.sort(key=lambda item: firsts[PLACE.sub("", item.nodeid)] is not item)
        spent = itertools.accumulate(seconds[item.nodeid] for item in items)
        return [item for item, sum_ in zip(items, spent, strict=True) if sum_ < self.seconds]

    def _start(
        self,
        session: pytest.Session,
        module: str,
        mutant: Mutant,
        items: list[pytest.Item],
        seconds: dict[str, float],
    ) -> int:
        begun = mmap.mmap(-1, 8)
        begun[:] = struct.pack("d", time.monotonic())
        child = os.fork()
        if child:
            self.begun[child] = begun
            return child
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            try:
                apply(module, mutant)
            except Exception:
                os._exit(NOT_APPLIED)
            for item, following in pairs(items):
                # What hangs is ended by the kernel, in the middle of a loop in C too: nobody handles SIGPROF.
                begun[:] = struct.pack("d", time.monotonic())
                signal.setitimer(signal.ITIMER_PROF, PATIENCE + TIMES * seconds[item.nodeid])
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.testsfailed:
                    os._exit(1)
            os._exit(0)
        finally:
            os._exit(2)  # something that is no failure of a test came through: noticed as well

    def _reap(self, children: dict[int, Mutant]) -> None:
        """Waits for one child; those that have hung are ended, with what they have started."""
        pid = 0
        while not pid:
            pid, status = os.waitpid(-1, os.WNOHANG)
            for hung in [child for child in children if _age(self.begun[child]) > CLOCK]:
                # One that has not come to `setpgid` is not meant.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(hung, signal.SIGKILL)
            time.sleep(0 if pid else 0.005)
        self.begun.pop(pid)
        mutant, code = children.pop(pid), os.waitstatus_to_exitcode(status)
        verdicts = {0: "survived", NOT_APPLIED: "not applied"}
        self._judge(mutant, verdicts.get(code, "killed" if code > 0 else "stopped"))

    def _judge(self, mutant: Mutant, verdict: str) -> None:
        self.verdicts[mutant] = verdict
        print(f"{verdict}: {key_of(mutant)}", file=self.journal, flush=True)
        if verdict == "survived":
            self._say(f"survived: {mutant.line} {mutant.name}")
        if len(self.verdicts) % 50 == 0:
            self._say(f"{len(self.verdicts)} {dict(Counter(self.verdicts.values()))}")

    def _say(self, text: str) -> None:
        print(text, file=self.out, flush=True)


def _age(begun: mmap.mmap) -> float:
    """Seconds since a child's present test began."""
    return time.monotonic() - struct.unpack("d", begun[:])[0]  # type: ignore[no-any-return]


def key_of(mutant: Mutant) -> str:
    """Which mutant of this source it is: names may be the same."""
    return f"{mutant.index}.{mutant.variant} {mutant.line} {mutant.name}"


def pairs(items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """Each test with the one behind it, which pytest wants to know for its fixtures."""
    return zip(items, [*items[1:], None], strict=True)


def apply(module: str, mutant: Mutant) -> None:
    """Puts the mutant into the module that has been imported."""
    home = importlib.import_module(module)
    code = compile(mutant.tree(), str(mutant.path), "exec", dont_inherit=True)
    if not mutant.function:
        fresh: dict[str, Any] = dict(home.__dict__)
        exec(code, fresh)
        for name, value in fresh.items():
            if (
                isinstance(value, (int, float, str, bytes, tuple, frozenset, type(None)))
                and name in home.__dict__
            ):
                setattr(home, name, value)
            elif (
                isinstance(value, dict)
                and isinstance(home.__dict__.get(name), dict)
                and name != "__builtins__"
            ):
                held = home.__dict__[name]  # others hold it too
                held.clear()
                held.update(translated(value, home))
        return
    *outer, name = mutant.function.split(".")
    for part in mutant.function.split("."):
        code = next(
            const for const in code.co_consts if isinstance(const, types.CodeType) and const.co_name == part
        )
    owner = functools.reduce(getattr, outer, home)
    graft(owner, name, code)


def translated(table: Any, home: Any) -> Any:
    """A table of the fresh module's enum members as one of the members that everybody else has."""
    if isinstance(table, dict):
        return {translated(key, home): translated(value, home) for key, value in table.items()}
    kind = getattr(home, type(table).__name__, None)
    return kind(table.value) if isinstance(kind, type) and hasattr(table, "value") else table


def graft(owner: Any, name: str, code: types.CodeType) -> None:
    """Gives a function another body: in place, so that whoever has imported it has the new one."""
    held = owner.__dict__[name]
    function: Any = held.fget if isinstance(held, property) else getattr(held, "__func__", held)
    # What `contextmanager` and the like have made of it calls it by itself.
    function = inspect.unwrap(function)
    if code.co_freevars == function.__code__.co_freevars:
        function.__code__ = code
        return
    # Only `super()` closes over something here; without it there is nothing to close over.
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    fresh = types.FunctionType(
        code, function.__globals__, name, function.__defaults__, tuple(cells[var] for var in code.co_freevars)
    )
    fresh.__kwdefaults__ = function.__kwdefaults__
    setattr(owner, name, fresh)


def explained() -> set[str]:
    """The survivors that somebody has looked at: without their line numbers, which move."""
    text = (Path(__file__).parent / "survivors.txt").read_text(encoding="utf-8")
    return {line for line in text.splitlines() if line and line[0] not in " #"}


def gone() -> list[str]:
    """Those of them that no source has."""
    by_stem: dict[str, set[str]] = {}
    for name in explained():
        by_stem.setdefault(name.partition(" ")[0], set()).add(name)
    for stem, names in by_stem.items():
        path = path_of(stem if stem == "wire" else f"zcws.{stem.replace('/', '.')}")
        names -= {mutant.name for mutant in mutants_of(path)} if path.exists() else set()
    return sorted(set().union(*by_stem.values()))


def in_order(every: list[tuple[str, Mutant]], options: argparse.Namespace) -> list[tuple[str, Mutant]]:
    """The mutants that are asked for."""
    mutants = list(every)
    random.Random(options.seed).shuffle(mutants)
    if not options.again:
        known = explained()
        mutants = [(module, mutant) for module, mutant in mutants if mutant.name not in known]
    if options.only is not None:
        names = options.only.read_text(encoding="utf-8").splitlines()
        mutants = [found for name in names for found in mutants if found[1].name.startswith(name)]
    return list(dict.fromkeys(mutants))


def in_journal(path: Path | None, every: list[tuple[str, Mutant]]) -> dict[Mutant, str]:
    """What earlier runs have found out about the same source."""
    if path is None or not path.exists():
        return {}
    verdicts = dict(line.split(": ", 1)[::-1] for line in path.read_text(encoding="utf-8").splitlines())
    return {mutant: verdicts[key_of(mutant)] for _, mutant in every if key_of(mutant) in verdicts}


def report(every: list[tuple[str, Mutant]], verdicts: dict[Mutant, str], out: TextIO) -> int:
    """Says how many there are of everything; returns how many have lived without an explanation, or have one and are
    gone."""
    known = explained()
    for module in dict.fromkeys(module for module, _ in every):
        found = [mutant for home, mutant in every if home == module]
        counts = dict(Counter(verdicts[mutant] for mutant in found if mutant in verdicts))
        left = sum(mutant.name in known for mutant in found if mutant not in verdicts)
        print(
            f"{module}: {len(found)} mutants; tried: {sum(counts.values())} {counts}; explained before: {left}",
            file=out,
        )
    alive = [mutant for mutant in verdicts if verdicts[mutant] not in ("killed", "stopped")]
    new = [mutant for mutant in alive if mutant.name not in known]
    print(f"survivors that nobody has explained: {len(new)}", file=out)
    for mutant in new:
        print(f"{mutant.line}: {mutant.name} ({verdicts[mutant]})", file=out)
    lost = gone()
    print(f"explained, and gone: {len(lost)}", *lost, sep="\n", file=out)
    return len(new) + len(lost)


def mirror_of(path: Path) -> Path:
    """A module's own tests."""
    return ROOT / "tests" / path.relative_to(ROOT / "zcws").parent / f"test_{path.name}"


def tests_of(modules: list[str], more: list[str]) -> list[Path]:
    """A driver's module has its own tests; those of the core have all that are fast as well."""
    own = [mirror_of(path_of(module)) for module in modules if module != "wire"]
    if len(own) < len(modules) or any(path.parent.name == "tests" for path in own):
        own = [*(ROOT / "tests" / f"test_{name}.py" for name in TESTS), *own]
    return list(dict.fromkeys([*own, *(ROOT / "tests" / name for name in more)]))


def main() -> int:
    parser = argparse.ArgumentParser(description="mutation testing")
    parser.add_argument(
        "modules", nargs="*", default=MODULES, metavar="module", help=f"these by default: {' '.join(MODULES)}"
    )
    parser.add_argument("--more", nargs="*", default=[], help="files of tests besides, seen from tests/")
    parser.add_argument("--minutes", type=float, default=600, help="for how long new mutants are tried")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of CPU that the tests of one mutant of a driver may take"
    )
    parser.add_argument("--seed", type=int, default=6455, help="in which order")
    parser.add_argument(
        "--only", type=Path, help="a file with names of mutants or how they begin, one a line; in its order"
    )
    parser.add_argument("--journal", type=Path, help="a file of verdicts: what has one is not tried again")
    parser.add_argument("--again", action="store_true", help="those in survivors.txt as well")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    every = [(module, mutant) for module in options.modules for mutant in mutants_of(path_of(module))]
    former = in_journal(options.journal, every)
    mutants = [(module, mutant) for module, mutant in in_order(every, options) if mutant not in former]
    began = time.monotonic()
    # pytest says a dot for every test of every mutant: that goes nowhere, and what we say where it would have gone.
    out = os.fdopen(os.dup(1), "w")
    journal = open(os.devnull if options.journal is None else options.journal, "a", encoding="utf-8")
    os.chdir(ROOT)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    runner = Runner(mutants, options, out, journal)
    tests = [str(path) for path in tests_of(options.modules, options.more) if path.exists()]
    ended = pytest.main(
        ["-q", "--no-summary", "--timeout=0", "-p", "no:cacheprovider", "-k", LEAVE, *tests], plugins=[runner]
    )
    if ended != pytest.ExitCode.OK:
        print(f"the run broke off: {ended!r}", file=out)
    new = report(every, former | runner.verdicts, out)
    print(f"{time.monotonic() - began:.0f} s", file=out)
    out.flush()
    return 1 if new or ended else 0


if __name__ == "__main__":
    raise SystemExit(main())
