"""An echo server for the suite to drive: `python autobahn/server.py aio asyncio --port 9002`."""

from __future__ import annotations

import argparse

from drivers import DRIVERS


def announce(port: int) -> None:
    """Prints the address; suite.py waits for it."""
    print(f"listening on 127.0.0.1:{port}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("driver", choices=DRIVERS)
    parser.add_argument("loop", help="what the driver runs on: asyncio, uvloop or threads")
    parser.add_argument(
        "--port", type=int, default=0, help="where to listen (default: any port that is free)"
    )
    args = parser.parse_args()
    DRIVERS[args.driver].serve(args.loop, args.port, announce)


if __name__ == "__main__":
    main()
