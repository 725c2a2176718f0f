"""What all tests share: how they are made repeatable, and what they ran on."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from zcws import ring_frame, rows
from zcws.codes import OpCode
from zcws.kernel import ffi, lib
from zcws.writer import Writer

# CI runs the same examples every time, so that a red run is about the change; at home every run tries others and
# prints what repeats a failure. No deadline: time is not asserted, the machine may be busy.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("home", deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "home")

# Clients use the environment's proxy unless told otherwise. A proxy that this machine has is no part of what is tested.
_exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
os.environ["no_proxy"] = ",".join([*filter(None, [_exempt]), "localhost", "127.0.0.1", "::1"])

# A shell that starts a job in the background has it ignore Ctrl-C, and so would every server that the tests start and
# interrupt: they would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    kernel = ffi.string(lib.zcws_kernel_in_use()).decode()
    return f"zcws: kernel {kernel}; {ffi.string(lib.zcws_build_info()).decode()}"


def pytest_collection_finish() -> None:
    """Tests that ask the collector whether something is gone ask it of what they made, not of every test there is.

    A collection goes through all that lives. In a whole run those are 300,000 objects of pytest's and hypothesis's,
    which take 0.2 s, each time, and tests of views and rings collect many times.
    """
    if hasattr(gc, "freeze"):  # PyPy has none
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def certificates() -> Any:
    from net import Certificates  # the drivers, which most tests here do without

    return Certificates()


@pytest.fixture
def socket_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For a Unix socket, and relative: it has room for 100 bytes, and temporary folders may have longer names."""
    monkeypatch.chdir(tmp_path)
    return Path("s")


@pytest.fixture(params=["server", "client"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class _Assertions(logging.Handler):
    """Those that have failed in a handler: a server logs what its handlers raise, and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: list[AssertionError] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], AssertionError):
            self.failed.append(record.exc_info[1])


@pytest.fixture(autouse=True)
def assertions_in_handlers() -> Iterator[None]:
    """One that fails in a handler fails its test, too."""
    handler = _Assertions()
    logger = logging.getLogger("zcws")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    for error in handler.failed:
        raise error


@pytest.fixture(scope="module")
def every_view() -> Iterator[None]:
    """Short payloads are views of the ring, too: what is tested of views can be tested with few bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_frame, "_COPIED", -1)
        yield


@pytest.fixture(scope="module", params=["one by one", "in bulk"])
def made(request: pytest.FixtureRequest) -> Iterator[str]:
    """How messages are made that have come together: four are made in bulk, too, as else more than 32 are."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "in bulk":
            patch.setattr(rows, "_FEW", 0)
        yield request.param


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every payload that a writer is given, held as on PyPy: there what nobody needs goes when the collector comes."""
    payloads: list[Any] = []

    def keep(name: str) -> None:
        write = getattr(Writer, name)

        def written(writer: Writer, opcode: OpCode, payload: Any, *args: Any, **options: Any) -> None:
            payloads.append(payload)
            write(writer, opcode, payload, *args, **options)

        monkeypatch.setattr(Writer, name, written)

    keep("write_message")
    keep("write_fragment")
    return payloads
