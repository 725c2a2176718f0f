"""The measured process: one library, one event loop, nothing else imported.

python -m benchmarks.worker SERVE|BROADCAST ROW-JSON PORT SETTINGS-JSON    a server, until killed
python -m benchmarks.worker client ROW-JSON      jobs on stdin, a line of JSON each; figures on stdout
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import ssl
import sys
from typing import Any

from benchmarks.meter import Meter
from benchmarks.peers import Row, Settings, find

__all__ = ["main"]


def make_loop(name: str) -> asyncio.AbstractEventLoop:
    """The event loop: asyncio or uvloop; a name that ends with "+aiofastnet" gets that library's transports."""
    kind, _, transports = name.partition("+")
    if kind == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    if transports:
        import aiofastnet

        aiofastnet.patch_loop(loop)
    asyncio.set_event_loop(loop)
    return loop


def settings_of(told: dict[str, Any], *, server: bool) -> Settings:
    """The settings, with a path turned into a TLS context: the server's has the certificate, the client's trusts it."""
    tls = None
    if certificate := told.get("certificate"):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        if server:
            tls.load_cert_chain(certificate)
        else:
            tls.load_verify_locations(certificate)
    return Settings(tls=tls, level=told.get("level"))


def serve(row: Row, role: str, port: int, told: dict[str, Any]) -> None:
    """Serves until killed."""
    function = find(row.library, role, row.name)
    make_loop(row.loop).run_until_complete(function(port, settings_of(told, server=True)))


def run_jobs(row: Row) -> None:
    """One measurement for each line on stdin."""
    loop = None if row.loop == "blocking" else make_loop(row.loop)
    for line in sys.stdin:
        job = json.loads(line)
        meter = Meter(**job["meter"])
        arguments = (*job["arguments"], meter, settings_of(job["settings"], server=False))
        result = find(row.library, job["role"], row.name)(*arguments)
        if inspect.iscoroutine(result):
            assert loop is not None
            loop.run_until_complete(result)
        print(json.dumps(meter.figures()), flush=True)


def main(arguments: list[str]) -> None:
    """See the head of this file."""
    # Connections are cut at the end of a measurement; what libraries log about that would be measured in the next one.
    logging.disable()
    what, row = arguments[0], Row(**json.loads(arguments[1]))
    if what == "client":
        run_jobs(row)
    else:
        serve(row, what, int(arguments[2]), json.loads(arguments[3]))


if __name__ == "__main__":
    main(sys.argv[1:])
