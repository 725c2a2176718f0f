#!/usr/bin/env bash
# Everything that a machine can say about the source without running it. Goes on after a failure, so that one
# run finds all.
set -uo pipefail
source "$(dirname "$0")/tools.sh" || exit 1

failed=0
check() {
    local name=$1
    shift
    if "$@"; then echo "ok    $name"; else echo "FAIL  $name"; failed=1; fi
}

warnings() { # those of the compiler $1 about every C file of the core
    local file status=0
    for file in $(c_files | grep '^csrc/.*\.c$'); do
        "$1" -std=c11 -O2 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror -Icsrc \
            -c "$file" -o /dev/null || status=1
    done
    return $status
}

check "ruff check" ruff check --output-format=concise .
check "ruff format" ruff format --check --output-format=concise .
check "mypy --strict zcws" mypy --strict -p zcws
# Decorators of FastAPI are Any here: it is not among the tools.
check "mypy --strict examples" mypy --strict --ignore-missing-imports --disable-error-code=untyped-decorator examples
# Tests and the build script are checked for mistakes, not for annotations: a test knows that a reply is there, and
# passes options as dictionaries.
check "mypy tests" mypy --config-file= --python-version 3.10 --ignore-missing-imports --explicit-package-bases \
    --check-untyped-defs --disable-error-code=union-attr --disable-error-code=arg-type \
    --disable-error-code=var-annotated --disable-error-code=misc --disable-error-code=assignment build_ffi.py tests
# shellcheck disable=SC2046  # no name of a file has a space
check "clang-format" clang-format --dry-run -Werror $(c_files)

compilers=0
for compiler in gcc clang aarch64-linux-gnu-gcc; do
    if command -v "$compiler" >/dev/null; then
        compilers=$((compilers + 1))
        check "$compiler warnings" warnings "$compiler"
    else
        echo "skip  $compiler warnings: there is no $compiler here"
    fi
done
[ "$compilers" -gt 0 ] || { echo "FAIL  no compiler to ask"; failed=1; }

python .ci/longest.py
exit $failed
