"""Runs one Python target under atheris: python tests/fuzz/run.py TARGET [libFuzzer's options and corpora].

atheris 3 has wheels for CPython on Linux; where it cannot be installed, .ci/fuzz.sh leaves these targets out, and
test_corpora.py still runs their corpora.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

#: Of this checkout, whatever else is installed: the tests, and the library.
sys.path[:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]


def main() -> None:
    import atheris

    target, options = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(include=["zcws"]):
        check = importlib.import_module(f"fuzz.{target}").check
    atheris.Setup([sys.argv[0], *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
