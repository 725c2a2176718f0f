"""Where the ASGI tests run: the event loop, the parser that uvicorn reads requests with, the way to the socket."""

from __future__ import annotations

import pytest
from asgi_server import PLACES, Place


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Plain sockets."""
    place = Place(*request.param.split("-"))
    if place.kind == "transport":
        monkeypatch.setenv("ZCWS_ENGINE", "0")
    return place
