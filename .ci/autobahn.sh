#!/usr/bin/env bash
# The conformance suite against what autobahn/expected.json says; arguments go to autobahn/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory .venv/.test
exec .venv/bin/python autobahn/run.py "$@"
