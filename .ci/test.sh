#!/usr/bin/env bash
# The tests, as `make test` runs them; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
exec make --no-print-directory test ARGS="$*"
