#!/usr/bin/env bash
# Rewrites the code in its one format. lint.sh only looks; this one acts.
set -euo pipefail
source "$(dirname "$0")/tools.sh"

ruff check --fix --quiet . || true   # what cannot be fixed is for lint.sh to say
ruff format .
c_files | xargs clang-format -i
