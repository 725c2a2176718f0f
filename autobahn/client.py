"""A client that asks a fuzzing server for its cases: `python autobahn/client.py aio asyncio ws://127.0.0.1:9001`."""

from __future__ import annotations

import argparse

from drivers import DRIVERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("driver", choices=DRIVERS)
    parser.add_argument("loop", help="what the driver runs on: asyncio, uvloop or threads")
    parser.add_argument("uri", help="the fuzzing server")
    args = parser.parse_args()
    DRIVERS[args.driver].visit(args.loop, args.uri)


if __name__ == "__main__":
    main()
