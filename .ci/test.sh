#!/usr/bin/env bash
# The tests, as `make test` runs them, in two processes at once: many tests mostly wait for something. The tests of a
# file stay together, since they share what its fixtures start; files are taken in their order, since those with the
# fewest tests, which xdist would leave for the end, take the longest. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
exec make --no-print-directory test ARGS="--numprocesses=2 --dist=loadfile --no-loadscope-reorder $*"
