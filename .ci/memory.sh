#!/usr/bin/env bash
# The Python tests with every access to memory checked; arguments after the tool go to pytest.
#
#   bash .ci/memory.sh asan                         the whole suite, the C core compiled with AddressSanitizer and UBSan
#   bash .ci/memory.sh valgrind tests/test_inlet.py    some of it under valgrind's memcheck, which knows every byte's state
#
# Works on a copy in build/memory, so that the extension in use stays as it is. PYTHON has to have what the tests need;
# without PYTHON, `make .venv/.test` makes one. Takes about three times (asan) or thirty times (valgrind) as long as
# usual.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${PYTHON:-}" ] || { make --no-print-directory .venv/.test; PYTHON=$PWD/.venv/bin/python; }
PYTHON=$(command -v "$PYTHON")
tool=${1:?asan or valgrind}
shift
unset LD_PRELOAD

copy=$PWD/build/memory/$tool
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [ -e "$file" ] && printf '%s\0' "$file"
done | xargs -0 cp --parents -t "$copy"
cd "$copy"

# Python's own allocator takes large pieces and hands out small ones: the tools would not see where one of them ends.
export PYTHONMALLOC=malloc PYTHONPATH=$copy PYTHONDONTWRITEBYTECODE=1
# Tests wait this many times as long, since everything is slower, above all on a busy machine.
export ZCWS_PATIENCE=30

build() { # with these flags; pip brings what building needs, and leaves PYTHON's environment alone
    CFLAGS="-g -fno-omit-frame-pointer $1" LDFLAGS=$1 \
        "$PYTHON" -m pip install --quiet --no-deps --target built . >build.log 2>&1 || { cat build.log; exit 1; }
    cp built/zcws/_kernel.* zcws/
}

asan() {
    build "-fsanitize=address,undefined -fno-sanitize-recover=all"
    # The interpreter itself is not instrumented: leaks are not looked for, and ASan's runtime has to be preloaded.
    # detect_odr_violation: two extensions may define the same name.
    export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_odr_violation=0:log_path=$copy/report
    export UBSAN_OPTIONS=print_stacktrace=1:log_path=$copy/report
    # Programs that tests start (node, redis) inherit the runtime and run with it, except for Chromium, which has an
    # allocator of its own. ASan keeps freed memory for a while, to see who still uses it, so that the cost of idle
    # connections cannot be measured. It also maps terabytes of addresses, which no server with a limit of 600 MiB gets.
    LD_PRELOAD="$(${CC:-gcc} -print-file-name=libasan.so) $(${CC:-gcc} -print-file-name=libubsan.so)" \
        "$PYTHON" -m pytest -o timeout=900 -p no:cacheprovider --ignore=tests/interop/test_chromium.py \
        --deselect tests/test_behaviour_deflate.py::test_idle_connections_cost_nothing_for_compression \
        --deselect tests/faults/test_limits.py::test_a_flood_of_large_messages_under_a_memory_limit "$@"
}

suppressions() { # what the interpreter does on purpose
    for interpreter in '*/libpython3*' '*/bin/python3*'; do # as a library, and without one
        cat <<SUPP
{
   the interpreter's own, wherever it is called from
   Memcheck:Cond
   obj:$interpreter
}
{
   the same, a value
   Memcheck:Value8
   obj:$interpreter
}
{
   glibc's own for 32 bytes at a time, which valgrind does not replace: it reads whole words, of strings that Python compares
   Memcheck:Addr32
   fun:__wmemcmp_avx2*
   obj:$interpreter
}
SUPP
    done
    cat <<'SUPP'
{
   the interpreter's own modules
   Memcheck:Value8
   obj:*/lib-dynload/*
}
{
   the loader's strncmp, which reads whole words
   Memcheck:Addr8
   fun:strncmp
   fun:is_dst
}
{
   a library that tests run against: not ours to mend
   Memcheck:Addr8
   obj:*/picows/*
}
{
   the same, a value
   Memcheck:Value8
   obj:*/picows/*
}
SUPP
}

memcheck() {
    build ""
    suppressions >python.supp
    # --num-callers: frames of a report. --error-exitcode: if there was any report. No leak check: an interpreter never
    # gives all memory back.
    valgrind --tool=memcheck --leak-check=no --num-callers=20 --error-exitcode=99 --suppressions=python.supp \
        --log-file="$copy/report.%p" --trace-children=no \
        "$PYTHON" -m pytest -o timeout=3600 -p no:cacheprovider "$@"
}

status=0
case $tool in
asan) asan "$@" || status=$? ;;
valgrind) memcheck "$@" || status=$? ;;
*) echo "asan or valgrind, not $tool" && exit 2 ;;
esac

# Reports of processes that a test has started, or whose exit status nobody looked at.
reports=$(grep -lE 'ERROR: AddressSanitizer|runtime error|ERROR SUMMARY: [1-9]' "$copy"/report* 2>/dev/null || true)
if [ "$reports" ]; then
    echo "REPORTS: $reports"
    status=1
else
    echo "no report of $tool"
fi
exit $status
