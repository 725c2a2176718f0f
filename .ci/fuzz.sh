#!/usr/bin/env bash
# Every fuzz target for FUZZ_SECONDS (60), two at a time: the C ones under libFuzzer with AddressSanitizer and
# UndefinedBehaviorSanitizer, the Python ones under atheris; then some seeds of the machine, which drives the engine,
# and of talk, which compares whole streams with a plain receiver. A finding ends the run with 1, and lies in
# tests/fuzz/build.
#
#   bash .ci/fuzz.sh                      all targets: with the default of 60 s about five minutes
#   bash .ci/fuzz.sh scan read            some of them
#   FUZZ_SECONDS=600 bash .ci/fuzz.sh     as recorded in docs/security.md
#
# To repeat a finding: tests/fuzz/build/fuzz/fuzz_scan FILE, or python tests/fuzz/run.py read FILE; for a seed,
# python tests/fuzz/machine.py SEED SEED+1 LOOP.
set -uo pipefail
cd "$(dirname "$0")/.."

SECONDS_EACH=${FUZZ_SECONDS:-60}
ATHERIS=atheris==3.0.0
IN_C=(scan utf8 mask opening)
IN_PYTHON=(head accept connect inflate read http2)
BUILD=tests/fuzz/build
PYTHON=${PYTHON:-python3}

# Something preloaded into every process would come before ASan's runtime, which must be first.
unset LD_PRELOAD
# The quarantine finds what is used after it was freed; a few MiB of it hold all that one input allocates.
export ASAN_OPTIONS=quarantine_size_mb=16:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1

targets=("$@")
[ $# -gt 0 ] || targets=("${IN_C[@]}" "${IN_PYTHON[@]}" machine talk)
wanted() { # is one of the other arguments the first one?
    local name=$1 other
    shift
    for other in "$@"; do [ "$name" = "$other" ] && return; done
    return 1
}
any_target() { # are some of these to be run?
    local name
    for name in "$@"; do wanted "$name" "${targets[@]}" && return; done
    return 1
}

# ---- what each half needs ----

build_c() {
    if echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
        clang -fsanitize=fuzzer,address,undefined -x c - -o /dev/null 2>/dev/null; then
        make --no-print-directory --silent --directory tests/fuzz -j2 fuzzers
        return
    fi
    echo "skipped: ${IN_C[*]}: no clang with libFuzzer here; their corpora run with the C compiler instead"
    IN_C=()
    make --no-print-directory --silent --directory tests/fuzz replay
}

find_atheris() { # sets PYTHON to one that has atheris and zcws
    "$PYTHON" -c 'import atheris, zcws' 2>/dev/null && return
    make --no-print-directory PYTHON="$PYTHON" .venv/.test >/dev/null || return
    PYTHON=$PWD/.venv/bin/python
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$ATHERIS" >/dev/null 2>&1
    "$PYTHON" -c 'import atheris, zcws' 2>/dev/null && return
    echo "skipped: ${IN_PYTHON[*]}: $ATHERIS is not to be had for this Python; pytest runs their corpora"
    IN_PYTHON=()
}

# ---- a run ----

options() { # of libFuzzer, for a target
    local longest=1024 words=frames
    case $1 in opening | accept | connect | head) words=http ;; esac
    # -timeout: seconds for one input. The slowest takes 0.1 on an idle machine: 60 is a hang on a busy one, too.
    # -rss_limit_mb: far above what any input needs, and far below a message of 2^63 bytes.
    echo "-max_total_time=$SECONDS_EACH -max_len=$longest -timeout=60 -rss_limit_mb=1024 -print_final_stats=1" \
        "-dict=tests/fuzz/dict/$words.txt -artifact_prefix=$BUILD/$1- -verbosity=1"
}

fuzz() { # one target, into $BUILD/NAME.log; new inputs into $BUILD/found/NAME
    local name=$1 command=("$BUILD/fuzz/fuzz_$1")
    wanted "$name" "${IN_C[@]}" || command=("$PYTHON" tests/fuzz/run.py "$name")
    mkdir -p "$BUILD/found/$name"
    # shellcheck disable=SC2046  # options are words
    "${command[@]}" $(options "$name") "$BUILD/found/$name" "tests/fuzz/corpus/$name" >"$BUILD/$name.log" 2>&1
    echo $? >"$BUILD/$name.status"
}

report() { # what a log says: executions, edges and features reached, and how it ended
    local name=$1 log=$BUILD/$1.log last runs status
    status=$(cat "$BUILD/$name.status")
    last=$(grep -aoE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -1)
    runs=$(grep -aoE 'number_of_executed_units: [0-9]+' "$log" | tail -1)
    printf '%-8s %9s executions, %s: ' "$name" "${runs##* }" "${last:-no coverage}"
    if [ "$status" = 0 ]; then
        echo "no finding"
    else
        echo "FINDING, exit status $status; $BUILD/$name.log ends:"
        tail -40 "$log" | cut -c 1-300
        failed=1
    fi
}

from_seeds() { # a program, and how many seeds for each second of a target: on both event loops, new seeds in each run
    local name=$1 first=$((RANDOM * 1000)) stop loop
    stop=$((first + $2 * SECONDS_EACH))
    "$PYTHON" -c 'import zcws, trustme' 2>/dev/null || {
        make --no-print-directory PYTHON="$PYTHON" .venv/.test >/dev/null
        PYTHON=$PWD/.venv/bin/python
    }
    for loop in asyncio uvloop; do
        if ! "$PYTHON" -c "import $loop" 2>/dev/null; then
            echo "skipped: $name with $loop, which this Python does not have"
        elif "$PYTHON" "tests/fuzz/$name.py" $first $stop $loop >"$BUILD/$name-$loop.log" 2>&1; then
            echo "$name  seeds $first to $((stop - 1)) with $loop: no finding"
        else
            echo "$name  with $loop: FINDING; $BUILD/$name-$loop.log ends:"
            tail -40 "$BUILD/$name-$loop.log" | cut -c 1-300
            failed=1
        fi
    done
}

failed=0
mkdir -p "$BUILD"
if any_target "${IN_C[@]}"; then build_c || failed=1; fi
if any_target "${IN_PYTHON[@]}"; then find_atheris || failed=1; fi

ran=()
for name in "${targets[@]}"; do
    wanted "$name" "${IN_C[@]}" "${IN_PYTHON[@]}" || continue
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
    fuzz "$name" &
    ran+=("$name")
done
wait
for name in "${ran[@]}"; do report "$name"; done
# Each takes a fifth of the time that a target has.
if wanted machine "${targets[@]}"; then from_seeds machine 5; fi
if wanted talk "${targets[@]}"; then from_seeds talk 10; fi
exit $failed
