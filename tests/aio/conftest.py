"""Where the tests of the asyncio driver run: each event loop, and each way to the socket.

engine       plain sockets in an epoll of ours (zcws/aio/engine.py), where there is one
transport    plain sockets on the event loop's own transport
tls          the event loop's transport, encrypted
"""

from __future__ import annotations

import importlib.util

import pytest
from net import Certificates, Place

LOOPS = ["asyncio"] + (["uvloop"] if importlib.util.find_spec("uvloop") else [])
PLAIN = [f"{loop}-{kind}" for loop in LOOPS for kind in ("engine", "transport")]


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates()


def make_place(name: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Place:
    loop, kind = name.split("-")
    if kind == "transport":
        monkeypatch.setenv("ZCWS_ENGINE", "0")
    return Place(loop, certificates if kind == "tls" else None)


@pytest.fixture(params=PLAIN)
def place(
    request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """Plain sockets."""
    return make_place(request.param, certificates, monkeypatch)


@pytest.fixture(params=[*PLAIN, *(f"{loop}-tls" for loop in LOOPS)])
def anyplace(
    request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """Plain sockets and TLS."""
    return make_place(request.param, certificates, monkeypatch)


@pytest.fixture(params=[f"{loop}-tls" for loop in LOOPS])
def tls(request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Place:
    return make_place(request.param, certificates, monkeypatch)


@pytest.fixture(params=LOOPS)
def anyloop(request: pytest.FixtureRequest) -> Place:
    """For what touches no socket."""
    return Place(request.param, None)
