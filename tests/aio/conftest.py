"""Where the tests of the asyncio driver run: each event loop, and each way to the socket.

engine       plain sockets in an epoll of ours (zcws/aio/engine.py), where there is one
transport    plain sockets on the event loop's own transport
tls          encrypted: by us over the engine on asyncio (zcws/aio/tls.py), by uvloop's transport there
looptls      encrypted by the event loop's transport on asyncio too, as it is under uvicorn
http2        a stream of HTTP/2 (tunnel.py), on the event loop's transport
messages     the engine, and a function that is shown frames is shown messages
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from net import Certificates, MessagesPlace, Place, free_port
from redis_process import RedisServer
from tunnel import Http2Place

LOOPS = ["asyncio"] + (["uvloop"] if importlib.util.find_spec("uvloop") else [])
PLAIN = [f"{loop}-{kind}" for loop in LOOPS for kind in ("engine", "transport")]
ANYWHERE = [*PLAIN, *(f"{loop}-tls" for loop in LOOPS)]

#: Where the tests of a module run besides if it has a constant of this name.
MORE = {
    "ALSO_OVER_HTTP2": "asyncio-http2",
    "ALSO_OVER_LOOPTLS": "asyncio-looptls",
    "ALSO_BY_MESSAGE": "asyncio-messages",
}


def make_place(name: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Place:
    loop, kind = name.split("-")
    if kind == "transport":
        monkeypatch.setenv("ZCWS_ENGINE", "0")
    if kind.startswith("http2"):
        return Http2Place(loop, tls=kind.endswith("tls"))
    if kind == "looptls":
        monkeypatch.setattr("zcws.aio.serving.has_better", lambda loop: True)
        monkeypatch.setattr("zcws.aio.reach.has_better", lambda loop: True)
    if kind == "messages":
        return MessagesPlace(loop, None)
    return Place(loop, certificates if kind.endswith("tls") else None)


@pytest.fixture(params=PLAIN)
def place(
    request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """Plain sockets."""
    return make_place(request.param, certificates, monkeypatch)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyplace" in metafunc.fixturenames:
        also = [name for word, name in MORE.items() if hasattr(metafunc.module, word)]
        metafunc.parametrize("anyplace", [*ANYWHERE, *also], indirect=True)


@pytest.fixture
def anyplace(
    request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """Plain sockets and TLS, and what a module asks for besides (`MORE`)."""
    return make_place(request.param, certificates, monkeypatch)


@pytest.fixture(params=[f"{loop}-tls" for loop in LOOPS])
def tls(request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Place:
    return make_place(request.param, certificates, monkeypatch)


@pytest.fixture(params=LOOPS)
def anyloop(request: pytest.FixtureRequest) -> Place:
    """For what touches no socket."""
    return Place(request.param, None)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with free_port() as port:
        server = RedisServer(port)
        yield server
        server.kill()
