"""What the tests of the blocking driver share: a server that runs in a thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import raw
from net import Certificates

import zcws.sync

Serving = Callable[..., contextlib.AbstractContextManager[zcws.sync.Server]]


roles = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])

anyhow = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"], indirect=True)


@pytest.fixture
def secure(request: pytest.FixtureRequest, certificates: Certificates) -> dict[str, Any]:
    return {"certificates": certificates if request.param else None}


@pytest.fixture
def serving() -> Serving:
    """`with serving(handler, **options) as server`: shut down at the end, whatever happens."""

    @contextlib.contextmanager
    def serving(handler: Callable[[zcws.sync.WebSocket], None], **options: Any) -> Iterator[zcws.sync.Server]:
        where = {} if options.keys() & {"path", "sock"} else {"host": "127.0.0.1", "port": 0}
        with zcws.sync.serve(handler, **where, **{"ping_interval": None, **options}) as server:
            with raw.thread(server.serve_forever):
                try:
                    yield server
                finally:
                    server.shutdown()

    return serving
