#!/usr/bin/env bash
# The conformance suite against what autobahn/expected.json says: the subset for CI unless the arguments, which go to
# autobahn/run.py, say otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory .venv/.test
exec .venv/bin/python autobahn/run.py "$@"
