#!/usr/bin/env bash
# The C tests four ways: plain, under AddressSanitizer and UndefinedBehaviorSanitizer, under ThreadSanitizer, and, where
# a cross compiler and qemu are installed, the NEON kernel. Guard pages are part of the tests themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

# A report ends the run with this status, whatever the program would have returned.
export ASAN_OPTIONS=abort_on_error=0:exitcode=99:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:exitcode=99

# Something preloaded into every process would come before ASan's runtime, which must be first.
unset LD_PRELOAD

for target in test asan tsan neon; do
    make --no-print-directory --directory tests/c BUILD="${BUILD:-build}" "$target"
done
