"""Says in one sentence what a machine lacks before anything is built on it. Runs on any Python, however old."""

import os
import sys
import sysconfig


def missing():
    if sys.version_info < (3, 10):
        found = "%d.%d" % sys.version_info[:2]
        return (
            "Python 3.10 or newer is needed and this is %s: name another with make PYTHON=python3.12" % found
        )
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        return (
            "this Python came without its C headers (%s): on Debian and Ubuntu they are in python3-dev"
            % header
        )
    import shutil

    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        return (
            "there is no C compiler (%s): on Debian and Ubuntu it is in gcc; CC=... names another" % compiler
        )
    if not can_have_pip():
        return "this Python can make no virtual environment: on Debian and Ubuntu that is in python3-venv"
    return None


def can_have_pip():
    """Debian takes `ensurepip` out of the standard library; a pip of its own can stand in for it."""
    import importlib.util

    return any(importlib.util.find_spec(name) for name in ("ensurepip", "pip"))


if __name__ == "__main__":
    sentence = missing()
    if sentence:
        sys.exit("zcws: " + sentence)
